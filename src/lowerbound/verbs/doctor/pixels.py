"""What the training images hold, before they are binarized: levels, constant images, rare classes."""

import math
from dataclasses import dataclass

import numpy as np

from lowerbound.runs.run import Run
from lowerbound.verbs.doctor.check import Check
from lowerbound.verbs.doctor.evidence import SHOWN, Bars, Pictures, Shows, most, some
from lowerbound.verbs.doctor.examined import Examined

FEW_LEVELS = 1 / 8  # of the levels: photographs and drawings in grey have more than half of them
CONSTANT = 0.01  # of the images
RARE = 0.1  # images of the rarest class for one of the commonest


def checks(e: Examined) -> list[Check]:
    run, levels = e.run, e.pixels.levels
    x = e.pixels.x.reshape(len(e.pixels), -1)
    often, constant = np.bincount(x.ravel(), minlength=levels), (x == x[:, :1]).all(1)
    found = Pixels(
        values=tuple(np.flatnonzero(often).tolist()),
        levels=levels,
        binarized=run.facts.binarizes,
        constant=float(constant.mean()),
        counts=run.facts.counts if run.recipe.data.label else None,
        source=run.recipe.data.source,
    ).checks()
    shows: dict[str, Shows] = {
        "data.levels": lambda: [Bars("how often each value occurs", [str(v) for v in range(levels)], often)],
        "data.constant_images": lambda: [
            Pictures("images of one value", {"constant": some(e.pixels.x[np.flatnonzero(constant)[:SHOWN]])}, levels)
        ],
        "data.classes": lambda: [most("training images of each class", _counted(run))],
    }
    return [check._replace(shows=shows[check.name]) for check in found]


def _counted(run: Run) -> dict[str, float]:
    return dict(zip(map(str, run.facts.classes or ()), run.facts.counts or (), strict=True))


@dataclass(frozen=True)
class Pixels:
    """What the training images hold, before they are binarized."""

    values: tuple[int, ...]  # all that occur
    levels: int
    binarized: bool  # whether values are probabilities of binary draws
    constant: float  # share of the images with a single value
    counts: tuple[int, ...] | None  # images of each class, where the model learns or is given it
    source: str

    def checks(self) -> list[Check]:
        found = [self._levels(), self._constant()]
        return found if self.counts is None else [*found, self._classes(self.counts)]

    def _levels(self) -> Check:
        few = max(2.0, FEW_LEVELS * self.levels)
        harmless = self.binarized and len(self.values) > 1 and self.values[-1] == self.levels - 1
        shown = ", ".join(map(str, self.values[:4])) + (", …" if len(self.values) > 4 else "")
        return Check(
            "data.levels",
            len(self.values),
            few,
            len(self.values) < few and not harmless,
            "problem",
            f"pixels take {len(self.values)} of {self.levels} values ({shown}): the model spends its likelihood on "
            "values that never come, and sees a small part of its range",
            self._other_levels(),
        )

    def _other_levels(self) -> str:
        values, top = self.values, self.values[-1]
        if len(values) < 2:
            return f"other images: lowerbound data show {self.source}"
        if top < FEW_LEVELS * self.levels:
            return f"data.levels={top + 1}"
        step = math.gcd(*values)
        return f"an .npz with x // {step} and levels={top // step + 1}"

    def _constant(self) -> Check:
        return Check(
            "data.constant_images",
            self.constant,
            CONSTANT,
            self.constant > CONSTANT,
            "advice",
            f"{self.constant:.1%} of the training images have the same value everywhere: there is nothing to see in "
            "them",
            f"lowerbound data show {self.source}, and leave such images out",
        )

    def _classes(self, counts: tuple[int, ...]) -> Check:
        share = min(counts) / max(1, *counts)
        return Check(
            "data.classes",
            share,
            RARE,
            share < RARE,
            "advice",
            f"the rarest class has {min(counts):,} training images, the commonest {max(counts):,}: little is learnt of "
            "the rare ones",
            f"lowerbound data show {self.source}; more images of the rare classes, or fewer classes",
        )

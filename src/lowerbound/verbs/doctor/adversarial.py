"""A generator and its discriminator: whether samples are too much alike, and whether the discriminator has won."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lowerbound.likeness import PixelFeatures
from lowerbound.metrics.distances import covered
from lowerbound.model import Adversarial, rows_of
from lowerbound.noise import seeded
from lowerbound.sampling import drawing
from lowerbound.verbs.doctor.check import Check, difference
from lowerbound.verbs.doctor.evidence import Histograms, Line, Pictures, Shows, some
from lowerbound.verbs.doctor.examined import Examined, seen

DIVERSITY = 0.5  # of the variance of images, that of samples
RECALL = 0.5  # of the share of images that others cover, that samples cover
ACCURACY = 0.95  # of the discriminator, over the last fifth of the steps
BY_HEART = 0.5  # of the way from samples up to training images, by what D says of them, that others fall short
FEWEST = 40  # training images, below which recall says nothing
MORE_MODES = (
    "model.objective=objectives.Wasserstein model.penalty=objectives.OneLipschitz model.discriminator.steps=5, a "
    "larger model.penalty.gamma or train.batch"
)
WEAKER = "a larger model.penalty.gamma, model.discriminator.spectral=true, a smaller model.discriminator.network"


def checks(e: Examined) -> list[Check]:
    model = e.model
    if not isinstance(model, Adversarial):
        return []
    images, n = seen(e.train), len(e.train)
    y = e.run.condition(n)
    with seeded(0, "doctor", "game", quick=True):
        drawn = drawing.draw(model, n, y).x
    features = PixelFeatures(images, model.space.levels or 2)
    samples, real = features(drawn.numpy()), features(images)
    half, other = real[::2], real[1::2]
    parts = torch.arange(n).split(model.rows)
    game = Game(
        diversity=float(samples.var(0).sum() / max(real.var(0).sum(), 1e-12)),
        recall=float(covered(half, samples[: len(other)]).mean()),
        recall_of_images=float(covered(half, other).mean()),
        n=n,
        accuracy=_accuracy(e) if model.judges else None,
        train=_joined(model.realness(b.x, b.y) for b in e.in_order(e.train)),
        valid=_joined(model.realness(b.x, b.y) for b in e.in_order(e.valid)),
        drawn=_joined(model.realness(drawn[part], rows_of(y, part)) for part in parts),
    )
    rows = {"samples": some(drawn), "training images": some(images).reshape(-1, *model.space.shape)}
    shown = Pictures("samples beside training images", rows, model.space.levels or 256)
    said = {"training": game.train, "validation": game.valid, "samples": game.drawn}
    shows: dict[str, Shows] = {
        "discriminator.by_heart": lambda: [Histograms("what the discriminator says of images", said)],
        "discriminator.won": lambda: [_course(e)],
    }
    return [check._replace(shows=shows.get(check.name, lambda: [shown])) for check in game.checks()]


def _course(e: Examined) -> Line:
    records = [r for r in e.run.log.records() if "discriminator.accuracy" in r]
    accuracy = [float(r["discriminator.accuracy"]) for r in records]
    return Line("how often the discriminator is right", [r["step"] for r in records], accuracy)


def _joined(parts: Iterable[Tensor]) -> np.ndarray:
    return torch.cat([part.double().cpu() for part in parts]).numpy()


def _accuracy(e: Examined) -> float | None:
    """Over the last fifth of the steps that were logged; None where none was."""
    found = [r["discriminator.accuracy"] for r in e.run.log.records() if "discriminator.accuracy" in r]
    return float(np.mean(found[-max(1, len(found) // 5) :])) if found else None


@dataclass(frozen=True)
class Game:
    """How it stands."""

    diversity: float  # the variance of samples, for one of images
    recall: float  # the share of training images that are among samples, by 3 nearest neighbours
    recall_of_images: float  # the same, among as many other training images
    n: int  # samples, and training images
    accuracy: float | None  # of the discriminator while it was trained
    train: np.ndarray  # what it says of images and of samples, [N] each
    valid: np.ndarray
    drawn: np.ndarray

    def checks(self) -> list[Check]:
        found = [self._diversity(), *self._recall(), self._by_heart()]
        return found if self.accuracy is None else [*found, self._won(self.accuracy)]

    def _diversity(self) -> Check:
        return Check(
            "samples.diversity",
            self.diversity,
            DIVERSITY,
            self.diversity < DIVERSITY,
            "problem",
            f"{self.n:,} samples vary {self.diversity:.2g} times as much as images do: mode collapse",
            MORE_MODES,
        )

    def _recall(self) -> list[Check]:
        if self.n < FEWEST:
            return []
        share = self.recall / max(self.recall_of_images, 1e-12)
        return [
            Check(
                "samples.recall",
                share,
                RECALL,
                share < RECALL,
                "problem",
                f"samples have {self.recall:.0%} of the training images among them, other images "
                f"{self.recall_of_images:.0%}: kinds of images are missing (mode collapse)",
                MORE_MODES,
            )
        ]

    def _by_heart(self) -> Check:
        gap, real = difference(self.train, self.valid)
        share = gap / max(float(self.train.mean() - self.drawn.mean()), 1e-12)
        return Check(
            "discriminator.by_heart",
            share,
            BY_HEART,
            real and share > BY_HEART,
            "advice",
            f"to the discriminator, validation images look {share:.0%} of the way from training images to samples: it "
            "knows these images by heart",
            f"more images, data.flip=true, or {WEAKER}",
        )

    def _won(self, accuracy: float) -> Check:
        return Check(
            "discriminator.won",
            accuracy,
            ACCURACY,
            accuracy > ACCURACY,
            "problem",
            f"in the end the discriminator was right {accuracy:.1%} of the time: it tells samples at sight, and the "
            "generator learns little from it",
            WEAKER,
        )

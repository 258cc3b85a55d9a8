"""Learn a named direction from two classes of images and store it in the run."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich import box
from rich.console import Group
from rich.table import Table

from lowerbound.directions import Direction, check_name, found
from lowerbound.editing.contrasts import Contrast, Part, choose
from lowerbound.editing.latents import Codec, codec
from lowerbound.editing.learn import along, as_step, auroc, auroc_interval, leakage, learn
from lowerbound.errors import UserError
from lowerbound.progress import Progress
from lowerbound.runs.run import Run
from lowerbound.verbs import tables
from lowerbound.verbs.base import Device, File, Names, Report, Rows, Seed, Told, verb

REDRAWN = 256  # held-out negatives that are edited, decoded and encoded again


@dataclass(frozen=True, eq=False)
class Learnt(Report):
    """What a direction was learnt from, how well it tells the classes apart, and what else it moves.

    auroc: of held-out codes along the direction, and the interval that holds the true one 95 times in 100. redrawn: the
    strength that comes back when codes moved by strength 1 are decoded and encoded again, 1 where the decoder draws all
    of it. leakage: see `editing.learn.leakage`; of the other directions of the run, and of other attributes of the
    data, each by a direction learnt for it in the same way.
    """

    name: str
    method: str
    learnt_from: str
    orthogonal_to: list[str]
    distance: float
    train: dict[str, int]
    held_out: dict[str, int]
    auroc: dict[str, Any]
    redrawn: float | None
    leakage: dict[str, Any]

    def shown(self) -> Any:
        facts = Table(box=box.SIMPLE, show_header=False, title=f"direction {self['name']}: {self['learnt_from']}")
        area = self["auroc"]
        facts.add_row("method", self["method"])
        facts.add_row("orthogonal to", ", ".join(self["orthogonal_to"]) or "nothing")
        facts.add_row("learnt from", tables.cell(self["train"]))
        facts.add_row("held out", tables.cell(self["held_out"]))
        ends = tables.interval(area["interval"])
        facts.add_row("AUROC, held out", f"{area['value']:.4f} ± {area['stderr']:.4f}, 95 %: {ends}")
        facts.add_row("distance of the class means along it", f"{self['distance']:.4g}")
        drawn = self["redrawn"]
        facts.add_row("of strength 1, seen again once it is drawn", "" if drawn is None else f"{drawn:.3f}")
        moved = Table("strength 1 moves", "kind", "cosine", "by", "by, once it is drawn", box=box.SIMPLE)
        for kind, others in self["leakage"].items():
            for name, v in others.items():
                again = f"{v['redrawn']:+.3f}" if "redrawn" in v else ""
                moved.add_row(name, kind.removesuffix("s"), f"{v['cosine']:+.3f}", f"{v['shift']:+.3f}", again)
        return Group(facts, moved) if moved.row_count else facts


@verb
def direction(
    run: Run,
    name: str | None = None,
    /,
    *,
    positive: str | None = None,
    negative: str | None = None,
    label: str | None = None,
    against: str | None = None,
    attribute: str | None = None,
    attributes: File = None,
    data: str | None = None,
    skip_missing: bool = False,
    method: str = "means",
    orthogonal_to: Names = None,
    device: Device = "auto",
    seed: Seed = 0,
    progress: Told = False,
) -> Learnt | Rows:
    """Learn a named direction from two classes of images and store it in the run.

    Strength 1 is the distance of the two class means along it. Learnt on the training part of the data; on the
    validation part it is measured how well it separates the classes, and how much else it moves.

    Args:
        name: what to call it; without it, those of the run are listed
        positive: data of one class
        negative: data of the other
        label: a class of the run's data
        against: with --label: another class; by default all others
        attribute: a factor of the data, such as Smiling of celeba, or a column of --attributes
        attributes: a CSV file: the column path, and attributes
        data: with --label or --attribute: other data than the run's
        skip_missing: leave out images without a value of the attribute
        method: means: their difference; logistic: a logistic regression's normal
        orthogonal_to: a,b: directions along which it must not move
        seed: nothing is drawn
    """
    if name is None:
        given = {"--positive": positive, "--negative": negative, "--label": label, "--attribute": attribute}
        if said := [f"{option} {value}" for option, value in given.items() if value is not None]:
            raise UserError(f"{said[0]}: says what a direction is learnt from; name it, as in `direction RUN NAME …`")
        return Rows(listed(run))
    contrast = choose(
        positive=positive,
        negative=negative,
        label=label,
        against=against,
        attribute=attribute,
        attributes=None if attributes is None else Path(attributes),
        data=data,
        skip_missing=skip_missing,
    )
    return Learnt(**teach(run, name, contrast, method, tuple(orthogonal_to or ()), device, progress))


def teach(
    run: Run,
    name: str,
    contrast: Contrast,
    method: str = "means",
    orthogonal_to: Sequence[str] = (),
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Learn a named direction, measure it and store it in the run, in place of an earlier one: its report."""
    progress = progress or Progress()
    check_name(name)
    editor = codec(run, device, progress)
    stored = {k: d for k, d in editor.directions.items() if k != name and d.fresh}
    for other in orthogonal_to:
        if other == name:
            raise UserError(f"--orthogonal-to {other}: is the direction itself")
        found(other, editor.directions)
    known = {k: d.step.numpy() for k, d in stored.items()}
    train, held = contrast.parts(run, progress)
    z, z_held = train.codes(editor), held.codes(editor)
    step = learn(z, train.positive, method, [known[k] for k in orthogonal_to])
    probes = {k: p for k, v in train.others.items() if (p := _probe(z, v, method)) is not None}
    came_back = _redrawn(editor, z_held[~held.positive][:REDRAWN], step, held)
    report = {
        "name": name,
        "method": method,
        "learnt_from": contrast.words(run),
        "orthogonal_to": list(orthogonal_to),
        "distance": float(np.linalg.norm(step)),
        "train": _counts(train),
        "held_out": _counts(held),
        "auroc": _area(z_held @ step, held.positive),
        "redrawn": None if came_back is None else float(along(came_back, step)),
        "leakage": {
            "directions": leakage(step, known, came_back),
            "attributes": leakage(step, probes, came_back),
        },
    }
    run.save_direction(Direction(name, as_step(step), report), editor.model)
    return report


def _area(score: np.ndarray, positive: np.ndarray) -> dict[str, Any]:
    value, error = auroc(score, positive)
    ends = auroc_interval(value, int(positive.sum()), int((~positive).sum()))
    return {"value": value, "stderr": error, "interval": list(ends)}


def _counts(part: Part) -> dict[str, int]:
    return {"positive": int(part.positive.sum()), "negative": int((~part.positive).sum())}


def _probe(z: np.ndarray, side: np.ndarray, method: str) -> np.ndarray | None:
    """The direction of another attribute; None where one of its sides has fewer than two examples."""
    said = ~np.isnan(side.astype(np.float64))
    positive = side[said].astype(bool)
    if min(positive.sum(), (~positive).sum()) < 2:
        return None
    try:
        return learn(z[said], positive, method)
    except UserError:
        return None


def _redrawn(editor: Codec, z: np.ndarray, step: np.ndarray, held: Part) -> np.ndarray | None:
    """The mean change of the code [D] when codes moved by strength 1 are drawn, rounded to pixels, and encoded again.

    None for a conditional model, whose codes go with a label.
    """
    if editor.model.given:
        return None
    space = editor.model.space
    codes = torch.from_numpy(np.stack([z, z + step])).float().to(editor.device)  # [2, n, D]
    drawn = editor.decode(codes).flatten(0, 1).round().to(space.dtype)
    again = editor.encode(drawn).double().cpu().numpy().reshape(2, *z.shape)
    return (again[1] - again[0]).mean(0)


def listed(run: Run) -> list[dict[str, Any]]:
    """The directions of a run, a row each."""
    return [
        {
            "name": d.name,
            "method": d.report["method"],
            "learnt_from": d.report["learnt_from"],
            "auroc": d.report["auroc"]["value"],
            "distance": d.report["distance"],
            "usable": d.fresh,
        }
        for d in run.directions(run.load()).values()
    ]

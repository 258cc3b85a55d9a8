"""Learn a named direction."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from lowerbound.directions import Direction, check_name, found
from lowerbound.editing.contrasts import Contrast, Part
from lowerbound.editing.latents import Editor
from lowerbound.editing.learn import along, as_step, auroc, leakage, learn
from lowerbound.errors import UserError
from lowerbound.progress import Progress
from lowerbound.runs.run import Run

REDRAWN = 256  # held-out negatives that are edited, decoded and encoded again


# ---- the verb


@dataclass(frozen=True)
class Lesson:
    """How a direction is learnt."""

    contrast: Contrast
    method: str = "means"
    orthogonal_to: Sequence[str] = field(default_factory=tuple)


def teach(
    run: Run,
    name: str,
    lesson: Lesson,
    *,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Learn a named direction, measure it and store it in the run, in place of an earlier one: its report.

    auroc: of held-out codes along the direction. redrawn: the strength that comes back when codes moved by strength 1
    are decoded and encoded again, 1 where the decoder draws all of it. leakage: see `directions.leakage`; of the other
    directions of the run, and of other attributes of the data, each by a direction learnt for it in the same way.
    """
    progress = progress or Progress()
    check_name(name)
    editor = Editor(run, device, progress)
    stored = {k: d for k, d in editor.directions.items() if k != name and d.fresh}
    for other in lesson.orthogonal_to:
        if other == name:
            raise UserError(f"--orthogonal-to {other}: is the direction itself")
        found(other, editor.directions)
    known = {k: d.step.numpy() for k, d in stored.items()}
    train, held = lesson.contrast.parts(run, progress)
    z, z_held = train.codes(editor), held.codes(editor)
    step = learn(z, train.positive, lesson.method, [known[k] for k in lesson.orthogonal_to])
    probes = {k: p for k, v in train.others.items() if (p := _probe(z, v, lesson.method)) is not None}
    came_back = _redrawn(editor, z_held[~held.positive][:REDRAWN], step, held)
    area, error = auroc(z_held @ step, held.positive)
    report = {
        "name": name,
        "method": lesson.method,
        "learnt_from": lesson.contrast.words(run),
        "orthogonal_to": list(lesson.orthogonal_to),
        "distance": float(np.linalg.norm(step)),
        "train": _counts(train),
        "held_out": _counts(held),
        "auroc": {"value": area, "stderr": error},
        "redrawn": None if came_back is None else float(along(came_back, step)),
        "leakage": {
            "directions": leakage(step, known, came_back),
            "attributes": leakage(step, probes, came_back),
        },
    }
    run.save_direction(Direction(name, as_step(step), report), editor.model)
    return report


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


def _redrawn(editor: Editor, z: np.ndarray, step: np.ndarray, held: Part) -> np.ndarray | None:
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

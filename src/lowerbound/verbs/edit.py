"""Images changed by their codes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lowerbound.directions import Direction, found, shifted
from lowerbound.editing.checks import _check_number
from lowerbound.editing.latents import Editor
from lowerbound.errors import UserError
from lowerbound.model import with_residual
from lowerbound.pictures import Table, save_table
from lowerbound.progress import Progress
from lowerbound.runs.run import Run

# ---- edits


@dataclass(frozen=True)
class Edit:
    """What is changed of a code: dimensions set to values, then directions added at their strengths."""

    values: Mapping[int, float] = field(default_factory=dict)
    strengths: Mapping[str, float] = field(default_factory=dict)

    def check(self, editor: Editor) -> None:
        """Raise UserError for a dimension, direction or number that can't be."""
        for d, value in self.values.items():
            editor.check_dimension(d, f"--set {d}={value:g}")
            _check_number(value, f"--set {d}={value:g}")
        known = editor.directions if self.strengths else {}
        for name, strength in self.strengths.items():
            found(name, known)
            _check_number(strength, f"--direction {name}={strength:g}")

    def __call__(self, z: Tensor, known: Mapping[str, Direction]) -> Tensor:
        """Codes [..., D] changed."""
        z = z.clone()
        for d, value in self.values.items():
            z[..., d] = value
        return shifted(z, self.strengths, known)

    def __str__(self) -> str:
        parts = [f"z{d} = {v:g}" for d, v in self.values.items()] + [f"{n} {s:+g}" for n, s in self.strengths.items()]
        return ", ".join(parts)


@dataclass(frozen=True)
class Edited:
    """What `edit` made: the picture, a row for each image, and the edited images alone."""

    table: Table
    x: np.ndarray  # [B, S, C, H, W], S strengths
    names: list[str]  # [B S], for files

    def save(self, out: Path) -> None:
        """By the rule of `--out`: a picture has the originals and reconstructions too, all else the edited alone."""
        save_table(self.table, self.x.reshape(-1, *self.x.shape[2:]), out, self.names)


def edit(
    run: Run,
    images: Sequence[str | Path],
    change: Edit,
    *,
    label: str | int | None = None,
    own: str | int | None = None,
    draw: int | None = None,
    strengths: Sequence[float] | None = None,
    residual: bool = False,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> Edited:
    """Encode images, change their codes, decode.

    Args:
        change: what is changed of z.
        label: of a conditional model, what the images become; own: what they are (None: their likeliest label).
        draw: take z from q(z|x), keyed by this seed; None: its mean.
        strengths: the whole change times each of these, 0 being the reconstruction; None: the change once.
        residual: add back what the reconstruction lost, and keep the values in range.
    """
    for s in strengths or ():
        _check_number(s, f"--strength-grid {s:g}")
    if not (change.values or change.strengths) and label is None:
        raise UserError("nothing to change: give --set DIM=V, --direction NAME=V, or --label of a conditional model")
    editor = Editor(run, device, progress)
    change.check(editor)
    x = editor.open(images)
    target = editor.run.labels(len(x), label) if label is not None else None
    y = editor.labels(x, own, images)
    z = editor.encode(x, y, draw)
    moved = change(z, editor.model.directions)
    lattice = moved[:, None] if strengths is None else _times(z, moved, strengths)  # [B, S, D]
    shown = y if target is None else target.to(editor.device)
    edited = editor.decode(lattice, None if shown is None else shown[:, None])
    reconstruction = editor.decode(z, y)
    if residual:
        edited = with_residual(edited, x[:, None], reconstruction[:, None], editor.model.space)
    words = ", ".join([str(change)] * bool(str(change)) + ([f"label {label}"] if label is not None else []))
    columns = (words,) if strengths is None else tuple(f"times {s:g}" for s in strengths)
    title = words if strengths is not None else ""
    title += ("; " if title else "") + "with the residual added back" if residual else ""
    whole = torch.cat([x[:, None].to(edited), reconstruction[:, None], edited], 1)
    table = Table(
        x=whole.cpu().numpy(),
        levels=editor.levels,
        columns=("original", "recon\u00adstruction", *columns),
        title=title,
    )
    suffix = "-residual" if residual else ""
    marks = ["edited"] if strengths is None else [f"times{s:g}" for s in strengths]
    names = [f"{Path(image).stem}-{mark}{suffix}" for image in images for mark in marks]
    return Edited(table, edited.cpu().numpy(), names)


def _times(z: Tensor, moved: Tensor, strengths: Sequence[float]) -> Tensor:
    """z + s (moved - z) for each strength: [B, S, D]."""
    s = torch.tensor(list(strengths), dtype=z.dtype, device=z.device)[:, None]
    return z[:, None] + s * (moved - z)[:, None]

"""Images between images."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from lowerbound.editing.checks import _check_steps
from lowerbound.editing.latents import Editor, codes
from lowerbound.editing.paths import lerp, slerp
from lowerbound.errors import UserError
from lowerbound.pictures import Table, save_table
from lowerbound.progress import Progress
from lowerbound.runs.run import Run


@dataclass(frozen=True)
class Interpolation:
    """What `interpolate` found: the picture, a row for each pair of images, and the frames in their order."""

    table: Table
    frames: np.ndarray  # [N, C, H, W]; of a loop the last frame is not the first again
    sphere: bool

    def save(self, out: Path) -> None:
        """By the rule of `--out`; a .gif shows the frames."""
        save_table(self.table, self.frames, out)


def interpolate(
    run: Run,
    images: Sequence[str | Path],
    *,
    steps: int = 9,
    loop: bool = False,
    straight: bool = False,
    label: str | int | None = None,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> Interpolation:
    """From each image to the next, and with `loop` back to the first: along the sphere for Gaussian latents.

    Args:
        steps: images from one to the next, both ends included.
        straight: along lines, whatever the latents are.
        label: of a conditional model; None: the images' likeliest, which must be the same.
    """
    _check_steps(steps)
    if len(images) < 2:
        raise UserError(f"expected at least two images to go between, got {len(images)}")
    editor = Editor(run, device, progress)
    x = editor.open(images)
    y = editor.labels(x, label, images)
    if y is not None and len(y.unique()) > 1:
        raise UserError("the images have different labels; --label gives all of them one")
    sphere = not straight and codes(run, editor.model, device, progress).sphere
    z = editor.encode(x, y).double().cpu()
    ends = [(i, (i + 1) % len(z)) for i in range(len(z) if loop else len(z) - 1)]
    path = slerp if sphere else lerp
    lattice = torch.stack([path(z[a], z[b], torch.linspace(0, 1, steps, dtype=torch.float64)) for a, b in ends])
    drawn = editor.decode(lattice.to(editor.device), None if y is None else y[:1]).cpu().numpy()
    originals = x.cpu().numpy()
    whole = [np.concatenate([originals[[a]], row, originals[[b]]]) for (a, b), row in zip(ends, drawn, strict=True)]
    frames = np.concatenate([row[1 if i else 0 :] for i, row in enumerate(drawn)])
    table = Table(
        x=np.stack(whole),
        levels=editor.levels,
        columns=("from", *(f"{i / (steps - 1):.2g}" for i in range(steps)), "to"),
        title="along the sphere" if sphere else "along a straight line",
    )
    return Interpolation(table, frames[:-1] if loop else frames, sphere)

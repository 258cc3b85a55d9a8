"""Images between images, by their codes: along the sphere for Gaussian latents, straight for others."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lowerbound.data.images import Failed
from lowerbound.editing.checks import check_steps
from lowerbound.editing.latents import codec
from lowerbound.editing.paths import lerp, slerp
from lowerbound.errors import UserError, counted
from lowerbound.pictures import Table, check_out, save_table
from lowerbound.runs.conditions import Asked
from lowerbound.runs.run import Run
from lowerbound.verbs.base import Attributes, Device, Files, Label, Made, Out, Seed, Told, Whole, verb


@dataclass(frozen=True)
class Interpolation(Made):
    """The picture, a row for each pair of images, and the frames in their order."""

    table: Table
    frames: np.ndarray  # [N, C, H, W]; of a loop the last frame is not the first again
    sphere: bool
    images: tuple[str, ...]  # the names of those it goes between
    out: Path | None = None
    failed: tuple[Failed, ...] = ()

    def json(self) -> dict[str, Any]:
        report = {"out": self.where(), "images": [*self.images], "n": len(self.frames), "sphere": self.sphere}
        return report | {"failed": self.failures()}

    def shown(self) -> str:
        return f"{counted(len(self.frames), 'image')} in {self.out}, {self.table.title}"

    def save(self, out: Path) -> None:
        """By the rule of `--out`; a .gif shows the frames."""
        save_table(self.table, self.frames, out)


@verb
def interpolate(
    run: Run,
    images: Files,
    /,
    *,
    out: Out = None,
    steps: Whole = 9,
    loop: bool = False,
    straight: bool = False,
    label: Label = None,
    attribute: Attributes = None,
    device: Device = "auto",
    seed: Seed = 0,
    progress: Told = False,
) -> Interpolation:
    """Images between images, by their codes: along the sphere for Gaussian latents, straight for others.

    The code of a flow is the noise that it takes an image to; a diffusion model has a probability flow.

    Args:
        images: image files, two or more
        out: ends in .png: a labelled grid; .gif: an animation; .npz; else a folder
        steps: from one image to the next, both included
        loop: and from the last back to the first
        straight: along lines, where Gaussian latents would go along the sphere
        label: a class, by name or number (conditional models); by default the images' likeliest, which must be the same
        attribute: NAME=V, of models that are given attributes; by default the images' likeliest
        seed: nothing is drawn
    """
    out = check_out(out, images, moving=True)
    check_steps(steps)
    if len(images) < 2:
        raise UserError(f"expected at least two images to go between, got {len(images)}")
    editor = codec(run, device, progress)
    own = editor.open(images)
    if len(own.x) < 2:
        raise UserError(f"expected at least two images to go between, but all others can't be read: {own.failed[0]}")
    y = editor.condition(own, Asked(label, attribute or {}))
    if y is not None and not y.is_floating_point() and len(y.unique()) > 1:
        raise UserError("the images have different labels; --label gives all of them one")
    sphere = not straight and editor.sphere
    z = editor.encode(own.x, y).double().cpu()
    ends = [(i, (i + 1) % len(z)) for i in range(len(z) if loop else len(z) - 1)]
    path = slerp if sphere else lerp
    lattice = torch.stack([path(z[a], z[b], torch.linspace(0, 1, steps, dtype=torch.float64)) for a, b in ends])
    if y is not None and y.is_floating_point():  # attributes go along too
        y = torch.stack([lerp(y[a], y[b], torch.linspace(0, 1, steps)).to(y) for a, b in ends])
    else:
        y = None if y is None else y[:1]
    drawn = editor.decode(lattice.to(editor.device), y).cpu().numpy()
    originals = own.x.cpu().numpy()
    whole = [np.concatenate([originals[[a]], row, originals[[b]]]) for (a, b), row in zip(ends, drawn, strict=True)]
    frames = np.concatenate([row[1 if i else 0 :] for i, row in enumerate(drawn)])
    table = Table(
        x=np.stack(whole),
        levels=editor.levels,
        columns=("from", *(f"{i / (steps - 1):.2g}" for i in range(steps)), "to"),
        title="along the sphere" if sphere else "along a straight line",
    )
    return Interpolation(table, frames[:-1] if loop else frames, sphere, own.paths, out, own.failed).saved()

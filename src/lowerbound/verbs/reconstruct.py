"""Show images, prepared as the run's data were, above their reconstructions."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch

from lowerbound import pictures
from lowerbound.errors import ModelError, counted
from lowerbound.runs.inputs import latent_model, user_images
from lowerbound.runs.run import Run
from lowerbound.verbs.base import Device, Files, Label, Names, Option, Seed, Shown, Told, verb


@dataclass(frozen=True)
class Reconstructions(Shown):
    """Images as a run prepares them, and what comes back of them. It unpacks and indexes as
    the pair of them.

    x: uint8 [B, C, H, W]; r: float [B, C, H, W], the means of p(x|z).
    """

    x: np.ndarray
    r: np.ndarray
    levels: int
    names: tuple[str, ...]
    out: Path | None = None

    def __iter__(self) -> Iterator[np.ndarray]:
        return iter((self.x, self.r))

    def __getitem__(self, i: int) -> np.ndarray:
        return (self.x, self.r)[i]

    def save(self, out: Path) -> None:
        """A .png: both; an .npz or a folder: the reconstructions alone."""
        if out.suffix == ".png":
            pictures.save_png(pictures.pairs(self.x, self.r, self.levels), out)
        else:
            pictures.save_images(self.r, self.levels, out, self.names)

    def json(self) -> dict[str, Any]:
        return {"out": None if self.out is None else str(self.out), "n": len(self.x)}

    def shown(self) -> str:
        return f"{counted(len(self.x), 'image')} in {self.out}"


@verb
def reconstruct(
    run: Run,
    images: Files,
    /,
    *,
    out: Annotated[str | Path | None, Option(kind=Path, default=Path("reconstructions.png"))] = None,
    label: Label = None,
    levels: Names = None,
    device: Device = "auto",
    seed: Seed = 0,
    progress: Told = False,
) -> Reconstructions:
    """Show images, prepared as the run's data were, above their reconstructions.

    Args:
        images: image files
        out: ends in .png: a grid; .npz: an array x; else a folder of PNGs
        label: a class, by name or number (conditional models)
        levels: top,…: from the codes of these levels alone (VQ-VAE)
        seed: nothing is drawn
    """
    out = pictures.check_out(out)
    model = latent_model(run, device)
    if levels is not None and not model.levels:
        raise ModelError(f"--levels {','.join(levels)}: {type(model).__name__} has no levels of codes")
    x = user_images(run, images, progress)
    y = run.labels(len(x), label)
    with torch.no_grad():
        r = model.reconstruct(x.to(device), None if y is None else y.to(device), levels)
    stems = tuple(Path(image).stem for image in images)
    made = Reconstructions(x.numpy(), r.cpu().numpy(), model.space.levels or 256, stems, out)
    if out is not None:
        made.save(out)
    return made

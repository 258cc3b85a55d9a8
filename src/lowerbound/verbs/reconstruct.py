"""Show images, prepared as the run's data were, above their reconstructions."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch

from lowerbound import pictures
from lowerbound.data.images import Failed
from lowerbound.errors import ModelError, counted
from lowerbound.model import Diffusing, Invertible
from lowerbound.runs.conditions import Asked
from lowerbound.runs.inputs import code_model, user_images
from lowerbound.runs.run import Run
from lowerbound.runs.told import condition_of
from lowerbound.verbs.base import Attributes, Device, Files, Label, Made, Names, Option, Seed, Told, verb


@dataclass(frozen=True)
class Reconstructions(Made):
    """Images as a run prepares them, and what comes back of them. It unpacks and indexes as
    the pair of them.

    x: uint8 [B, C, H, W]; r: float [B, C, H, W], the means of p(x|z).
    """

    x: np.ndarray
    r: np.ndarray
    levels: int
    names: tuple[str, ...]  # [B], of the images
    out: Path | None = None
    failed: tuple[Failed, ...] = ()

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
        return {"out": self.where(), "images": [*self.names], "n": len(self.x), "failed": self.failures()}

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
    attribute: Attributes = None,
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
        attribute: NAME=V, of models that are given attributes
        levels: top,… or z1,…: from these levels alone, without the others (VQ-VAE) or with their priors' means; of a
            diffusion model of T steps z1 is at time 1. Without, a diffusion model takes the probability flow and back,
            as a flow does its own
        seed: nothing is drawn
    """
    out = pictures.check_out(out, images)
    model = code_model(run, device)
    if levels is not None and isinstance(model, Diffusing):
        model = model.hierarchy()
    if levels is not None and not model.levels:
        raise ModelError(f"--levels {','.join(levels)}: {type(model).__name__} has no levels of codes")
    own = user_images(run, images, progress, device)
    y = condition_of(run, model, own, Asked(label, attribute or {}), progress)
    with torch.no_grad():
        if isinstance(model, Invertible):
            r = model.from_noise(model.to_noise(own.x, y), y)
        else:
            r = model.reconstruct(own.x, y, levels)
    x, r = own.x.cpu().numpy(), r.cpu().numpy()
    return Reconstructions(x, r, model.space.levels or 256, own.paths, out, own.failed).saved()

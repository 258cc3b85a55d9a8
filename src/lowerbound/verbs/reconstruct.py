"""Images and their reconstructions."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from lowerbound.chunks import reconstruct as reconstruction
from lowerbound.errors import ModelError
from lowerbound.model import LatentModel
from lowerbound.models.vqvae import VQVAE
from lowerbound.progress import Progress
from lowerbound.runs.inputs import user_images
from lowerbound.runs.run import Run


def reconstruct(
    run: Run,
    images: Sequence[str | Path],
    *,
    label: str | int | None = None,
    levels: Sequence[str] | None = None,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> tuple[np.ndarray, np.ndarray, int]:
    """The user's images as the run prepares them, their reconstructions (means of p(x|z)), and the levels of both.

    levels: of several levels of codes, only these (`VQVAE.partial`).
    """
    model = _latent_model(run, device)
    if levels is not None and not isinstance(model, VQVAE):
        raise ModelError(f"--levels {','.join(levels)}: {type(model).__name__} has no levels of codes")
    x = user_images(run, images, progress)
    y = run.labels(len(x), label)
    with torch.no_grad():
        if levels is not None and isinstance(model, VQVAE):
            r = model.partial(x.to(device), levels)
        else:
            r = reconstruction(model, x.to(device), None if y is None else y.to(device))
    return x.numpy(), r.cpu().numpy(), model.space.levels or 256


def _latent_model(run: Run, device: torch.device | str) -> LatentModel:
    model = run.load(device)
    if not isinstance(model, LatentModel):
        raise ModelError(f"{run.path}: {type(model).__name__} has no latent code")
    return model

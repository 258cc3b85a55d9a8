"""What a model is given of a user's images: what is said of them, and the rest told by the model."""

import numpy as np
import torch
from torch import Tensor

from lowerbound.model import LatentModel, Model
from lowerbound.noise import KeyedNoise
from lowerbound.progress import Progress
from lowerbound.runs.conditions import Asked
from lowerbound.runs.inputs import UserImages
from lowerbound.runs.run import Run
from lowerbound.space import Density, told_of

DRAWS = 16  # of the bound, to tell what an image has


@torch.no_grad()
def condition_of(run: Run, model: Model, own: UserImages, asked: Asked, progress: Progress) -> Tensor | None:
    """What a model is given of a user's images, on their device: [B, ...], and what is not said is told.

    It is what the model predicts of them, where it does, else the likeliest of some that it may be, by the bound. None
    where the model is not conditional.
    """
    said = run.condition(len(own.x), asked)
    if said is None or asked.label is not None or asked.are_all_of(run.facts.factors):
        return None if said is None else said.to(own.x.device)
    predicted = model.predicted_condition(own.x)
    y = _likeliest(run, model, own.x, asked) if predicted is None else run.completed(predicted, asked)
    how = "as predicted" if predicted is not None else f"the likeliest {told_of(model.given)} by the bound"
    for path, name in zip(own.paths, run.said(y), strict=True):
        progress.say(f"{path}: encoded as {name}, {how}")
    return y.to(own.x.device)


def _likeliest(run: Run, model: Model, x: Tensor, asked: Asked) -> Tensor:
    """argmax over candidates y of log p(x|y) + log p(y): [B, ...]."""
    candidates = run.candidates(asked)
    weights = torch.tensor(candidates.weights, dtype=torch.float64)
    every = (y.expand(len(x), *y.shape).to(x.device) for y in candidates.y)
    found = torch.stack([_fit(model, x, y).double().cpu() for y in every], 1)
    return candidates.y[(found + (weights / weights.sum()).log()).argmax(1)]


def _fit(model: Model, x: Tensor, y: Tensor) -> Tensor:
    """The bound of log p(x|y), or minus the squared error of a model without a density: [B]."""
    if model.density is Density.NONE and isinstance(model, LatentModel):
        return -(model.reconstruct(x, y) - x).square().flatten(1).sum(1)
    with KeyedNoise(0, np.arange(len(x))) as noise:
        return model.log_density(x, y, noise.chunk(DRAWS))

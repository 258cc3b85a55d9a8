"""How well an image comes back from its code, and how many dimensions of the code are used."""

from typing import ClassVar

import numpy as np
import torch
from pydantic import Field

from lowerbound.data.batches import Batches
from lowerbound.metrics.base import Advance, Metric, Value, rows_at_once
from lowerbound.models.base import LatentModel, Model
from lowerbound.models.vqvae import VQVAE


class Reconstruction(Metric):
    """The error of the mean of p(x|z) at the posterior mean of z, on pixels scaled to [0, 1].

    mse: mean over pixels; squared_error: their sum, per image; psnr: -10 log10(mse), averaged over images.
    """

    names: ClassVar[tuple[str, ...]] = ("mse", "squared_error", "psnr")

    def applies(self, model: Model) -> bool:
        return isinstance(model, LatentModel) and model.space.levels is not None

    def __call__(
        self, model: Model, images: Batches, seed: int, limit: int | None, advance: Advance
    ) -> dict[str, Value]:
        assert isinstance(model, LatentModel)
        assert model.space.levels is not None
        found = []
        for batch in images.in_order(rows_at_once(model), limit):
            difference = reconstruct(model, batch.x, batch.y) - batch.x
            found.append((difference.double() / (model.space.levels - 1)).square().flatten(1).sum(1).cpu().numpy())
            advance(len(batch.index))
        squared = np.concatenate(found)
        mse = squared / model.space.dims
        return {
            "mse": Value.mean(mse, "per pixel"),
            "squared_error": Value.mean(squared, "per image"),
            "psnr": Value.mean(-10 * np.log10(np.maximum(mse, 1e-12)), "dB"),
        }


class ActiveUnits(Metric):
    """The number of latent dimensions whose posterior mean varies with the image: Var_x(E_q[z]) above the threshold
    (Burda et al. 2016, section 5.2)."""

    names: ClassVar[tuple[str, ...]] = ("active_units",)
    threshold: float = Field(default=0.01, gt=0)

    def applies(self, model: Model) -> bool:
        return isinstance(model, LatentModel) and not isinstance(model, VQVAE)

    def __call__(
        self, model: Model, images: Batches, seed: int, limit: int | None, advance: Advance
    ) -> dict[str, Value]:
        assert isinstance(model, LatentModel)
        means = []
        for batch in images.in_order(rows_at_once(model), limit):
            means.append(model.features(batch.x, batch.y).double().cpu().numpy())
            advance(len(batch.index))
        variance = np.concatenate(means).var(0)
        active = int((variance > self.threshold).sum())
        count = sum(len(m) for m in means)
        detail = {"variance": variance.tolist()}
        return {"active_units": Value(active, None, f"of {len(variance)}", "=", count, 0, None, detail)}


def reconstruct(model: LatentModel, x: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
    """The mean of p(x|z) at the posterior mean, in pixel values, not rounded: float [B, C, H, W]."""
    return model.likelihood(tuple(q.mean for q in model.posteriors(x, y)), y).mean

"""How many dimensions of the latent vector are used."""

import math
from typing import ClassVar

import numpy as np
from pydantic import Field

from lowerbound.chunks import own_batches
from lowerbound.metrics.base import Metric, Value, World
from lowerbound.model import CodeModel, LatentModel
from lowerbound.parallel import gathered


class ActiveUnits(Metric):
    """The number of latent dimensions whose posterior mean varies with the image: Var_x(E_q[z]) above the threshold
    (Burda et al. 2016, section 5.2). Of a variable that takes whole numbers, the probability of any of them."""

    names: ClassVar[tuple[str, ...]] = ("active_units",)
    threshold: float = Field(default=0.01, gt=0)  # of the variance of a posterior mean

    def applies(self, world: World) -> bool:
        model = world.model
        return isinstance(model, LatentModel) and not isinstance(model, CodeModel)

    def __call__(self, world: World) -> dict[str, Value]:
        model = world.model
        assert isinstance(model, LatentModel)
        means = []
        for batch in own_batches(world.batches, model.rows):
            means.append(model.features(batch.x, batch.y).double().cpu().numpy())
            world.advance(len(batch.index))
        whole = np.concatenate(gathered(means))
        variance = of_variables(whole.var(0), model)
        active = int((variance > self.threshold).sum())
        detail = {"variance": variance.tolist()}
        return {"active_units": Value(active, None, f"of {len(variance)}", "=", len(whole), 0, None, detail)}


def of_variables(variance: np.ndarray, model: LatentModel) -> np.ndarray:
    """That of each dimension, of one for each feature: of several probabilities the largest."""
    found, begin = [], 0
    for space in model.latents:
        end = begin + math.prod(space.feature_shape)
        found.append(variance[begin:end].reshape(-1, space.dims).max(0))
        begin = end
    return np.concatenate(found)

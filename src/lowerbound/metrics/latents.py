"""How many dimensions of the latent vector are used."""

from typing import ClassVar

import numpy as np
from pydantic import Field

from lowerbound.metrics.base import Metric, Value, World
from lowerbound.model import LatentModel


class ActiveUnits(Metric):
    """The number of latent dimensions whose posterior mean varies with the image: Var_x(E_q[z]) above the threshold
    (Burda et al. 2016, section 5.2)."""

    names: ClassVar[tuple[str, ...]] = ("active_units",)
    threshold: float = Field(default=0.01, gt=0)

    def applies(self, world: World) -> bool:
        model = world.model
        return isinstance(model, LatentModel) and all(space.levels is None for space in model.latents)

    def __call__(self, world: World) -> dict[str, Value]:
        model = world.model
        assert isinstance(model, LatentModel)
        means = []
        for batch in world.batches.in_order(model.rows):
            means.append(model.features(batch.x, batch.y).double().cpu().numpy())
            world.advance(len(batch.index))
        variance = np.concatenate(means).var(0)
        active = int((variance > self.threshold).sum())
        count = sum(len(m) for m in means)
        detail = {"variance": variance.tolist()}
        return {"active_units": Value(active, None, f"of {len(variance)}", "=", count, 0, None, detail)}

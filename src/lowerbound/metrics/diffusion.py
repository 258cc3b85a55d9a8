"""The three terms of a diffusion model's bound, and its levels."""

from typing import ClassVar

import numpy as np
import torch
from pydantic import Field

from lowerbound.chunks import draws_of, keyed_chunks
from lowerbound.metrics.base import Metric, Value, World
from lowerbound.model import BoundParts, Diffusing, Stepwise
from lowerbound.parallel import gathered
from lowerbound.units import bits_per_dim


class Terms(Metric):
    """What the bound of a diffusion model is the sum of, in bits/dim: of z_1, which is nearly noise; of x given z_0,
    which is nearly x; and of all steps between them. Averaged over draws of the noise and the time."""

    names: ClassVar[tuple[str, ...]] = tuple(f"{name}_term" for name in BoundParts._fields)
    draws: int = Field(default=500, gt=0)  # of the noise and the time, for each image

    def applies(self, world: World) -> bool:
        return isinstance(world.model, Stepwise)

    def __call__(self, world: World) -> dict[str, Value]:
        model = world.model
        assert isinstance(model, Stepwise)
        draws, found = draws_of(model, self.draws), []
        for batch, chunks in keyed_chunks(model, world.batches, draws, world.seed):
            parts = [torch.stack(model.bound_parts(batch.x, batch.y, k)).double().sum(1) for k in chunks]  # [3, B]
            found.append((torch.stack(parts).sum(0) / draws).cpu().numpy())
            world.advance(len(batch.index))
        terms = bits_per_dim(np.concatenate(gathered(found), 1), model.space.dims)
        named = zip(self.names, terms, strict=True)
        return {name: Value.mean(each, "bits/dim", draws=draws, given=world.given) for name, each in named}


class Levels(Metric):
    """The bound of a diffusion model of T steps by the levels of the hierarchical VAE that it is, in bits/dim: level.z1
    is KL(q(z_1|x) || p(z_1)), each further one that of a step given the noisier, level.x minus log p(x|z_0). They add
    up to minus the bound of one draw of them all. Raises ModelError for continuous time, which has none."""

    names: ClassVar[tuple[str, ...]] = ("level",)
    costly: ClassVar[bool] = True

    def applies(self, world: World) -> bool:
        return isinstance(world.model, Diffusing)

    def __call__(self, world: World) -> dict[str, Value]:
        assert isinstance(world.model, Diffusing)
        model, found = world.model.hierarchy(), []
        for batch, chunks in keyed_chunks(model, world.batches, 1, world.seed):
            for draws in chunks:
                terms = model.elbo_terms(batch.x, batch.y, draws)
                assert terms.kl is not None
                found.append(torch.cat([terms.kl[0].T, -terms.log_px]).double().cpu().numpy())
            world.advance(len(batch.index))
        levels = bits_per_dim(np.concatenate(gathered(found), 1), model.space.dims)
        named = zip((*model.levels, "x"), levels, strict=True)
        return {f"level.{name}": Value.mean(each, "bits/dim", given=world.given) for name, each in named}

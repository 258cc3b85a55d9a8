"""A likelihood of what only draws, seen through noise that whoever measures it states."""

from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from lowerbound.chunks import own_batches
from lowerbound.data.batches import Batch
from lowerbound.errors import ModelError
from lowerbound.inference.annealing import Annealing
from lowerbound.inference.gaps import Sides, simulated
from lowerbound.inference.observed import Observed
from lowerbound.inference.own import Own
from lowerbound.metrics.base import Metric, Value, World
from lowerbound.metrics.gaps import BATCH, SIDES
from lowerbound.metrics.likelihood import NATS
from lowerbound.model import Generating, LatentModel
from lowerbound.noise import key
from lowerbound.parallel import gathered, part_of
from lowerbound.progress import Passing, Step
from lowerbound.units import bits_per_dim


class ObservedLikelihood(Metric):
    """The negative log-likelihood of another model than the one that was trained: of what it makes of z, with normal
    noise of standard deviation `sigma` on it (`inference.observed`), by annealed importance sampling from p(z)
    (Wu et al. 2017, https://arxiv.org/abs/1611.04273).

    It is how a GAN, or an autoencoder with a p(z), is given a likelihood. The number is one of the noisy model, at most
    the value; of the model itself it says nothing, and of another sigma it is another. `.acceptance` and `.ess` are
    those of the chains. `.simulated.gap` says how far the annealing can be off: of as many images that the noisy model
    draws, the chains in reverse from the z that each was made with give a bound from the other side.

    Of the first `limit` images, unless `evaluate` is given a limit.
    """

    names: ClassVar[tuple[str, ...]] = ("ais",)
    suffixes: ClassVar[tuple[str, ...]] = (".nll", ".bits_per_dim", ".acceptance", ".ess", ".simulated.gap")
    costly: ClassVar[bool] = True
    sigma: float | None = Field(default=None, gt=0)  # of pixels a share of their range; has to be said
    limit: int = Field(default=100, gt=0)  # the first so many images
    temperatures: int = Field(default=500, gt=0)  # of the annealing
    chains: int = Field(default=16, gt=0)  # of the annealing, for each image
    leapfrogs: int = Field(default=10, gt=0)  # in a move of Hamiltonian Monte Carlo

    def applies(self, world: World) -> bool:
        return isinstance(world.model, LatentModel | Generating)

    def __call__(self, world: World) -> dict[str, Value]:
        if self.sigma is None:
            raise ModelError(
                "ais: the noise on what is drawn is part of the model; say how much, such as --sigma 0.1, a tenth of "
                "the range of pixels, and choose it by --split valid"
            )
        model = Observed.of(world.model, self.sigma)
        images = part_of(min(self.limit, len(world.images))).n
        passing = Passing(world.progress.count("annealing"), images, SIDES * self.temperatures)
        parts = gathered(
            [
                self._measured(model, batch, world.seed, passing.batch(len(batch.index)))
                for batch in own_batches(world.batches, max(1, min(BATCH, world.model.rows // self.chains)), self.limit)
            ]
        )
        return self._values({k: np.concatenate([part[k] for part in parts]) for k in parts[0]}, world)

    def _measured(self, model: Observed, batch: Batch, seed: int, told: Step) -> dict[str, np.ndarray]:
        """Of each image, [B] each."""
        how, y = Annealing(self.temperatures, self.chains, self.leapfrogs, from_prior=True), batch.y
        found = Sides(model, batch.x, y, how, Own(seed, batch.index), told).below()
        own = Own(key(seed, "simulated"), batch.index)
        x, z = simulated(model, y, own)
        sides = Sides(model, x, y, how, own, told)
        gap = sides.above(z).log_p - sides.below().log_p
        each = {"nll": -found.log_p, "acceptance": found.acceptance, "ess": found.size, "simulated.gap": gap}
        return {name: t.double().cpu().numpy() for name, t in each.items()}

    def _values(self, each: dict[str, np.ndarray], world: World) -> dict[str, Value]:
        kinds = {
            "nll": ("<=", NATS),
            "bits_per_dim": ("<=", "bits/dim"),
            "acceptance": ("=", "of proposals"),
            "ess": ("=", f"of {self.chains} chains"),
            "simulated.gap": ("<=", NATS),
        }
        each |= {"bits_per_dim": bits_per_dim(each["nll"], world.model.space.dims)}
        of: dict[str, Any] = {"recipe": self._recipe(), "remark": self._remark(world), "given": world.given}
        return {
            f"ais.{name}": Value.mean(each[name], unit, relation, self.chains, **of)
            for name, (relation, unit) in kinds.items()
        }

    def _recipe(self) -> dict[str, Any]:
        how = {"from": "prior", "schedule": "sigmoid", "temperatures": self.temperatures}
        return {"sigma": self.sigma, "annealing": how | {"chains": self.chains, "leapfrogs": self.leapfrogs}}

    def _remark(self, world: World) -> str:
        name, of = type(world.model).__name__, "" if world.model.space.levels is None else " of the range of pixels"
        return (
            f"ais is of another model than the {name}: of what it makes of z, with normal noise of σ = "
            f"{self.sigma:g}{of} on it"
        )

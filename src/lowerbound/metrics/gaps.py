"""Where the nats between log p(x) and the bound are lost."""

from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field

from lowerbound.chunks import own_batches
from lowerbound.data.batches import Batch
from lowerbound.inference.annealing import Annealing
from lowerbound.inference.gaps import Sides, bounds, check, simulated
from lowerbound.inference.own import Own
from lowerbound.inference.refinement import Refinement
from lowerbound.metrics.base import Metric, Value, World
from lowerbound.metrics.likelihood import NATS
from lowerbound.model import LatentModel
from lowerbound.noise import key
from lowerbound.parallel import gathered, part_of
from lowerbound.progress import Passing, Step

BATCH = 50  # images at once, at most, so that their chains fit in memory
SIDES = 5  # annealings, with those that find the steps: of the images; of simulated ones, there and back


class Gaps(Metric):
    r"""What the bound is short of log p(x), the marginal gap, and its two parts (Cremer et al. 2018,
    https://arxiv.org/abs/1801.03558): `.approximation`, what the best member of the posterior's family for each image
    is short of, and `.amortization`, what the encoder's is short of that best one.

    `.elbo` is the encoder's bound and `.refined` that of the best member, as far as it was found. log p(x) is taken
    from below in two ways, `.importance` (`draws` draws of the best member found, weighted) and `.ais` (annealed from
    the encoder's posterior, or from a normal like it where that is a flow), and whichever is larger on average counts.
    Both are stochastic lower bounds, so the true marginal gap is at least the value. The climb to the best member may
    end below it, so the true amortization gap is at least the value too, and the approximation gap, which takes both,
    is an estimate (~): a log p(x) that is too low makes it smaller, a bound of the best member that is too low larger.

    `.ais.acceptance` is the mean acceptance of the chains' proposals, `.ais.ess` their effective number. How far `.ais`
    can be off is measured where it can be, on as many images that the model itself draws: `.simulated.lower` is AIS,
    `.simulated.upper` its chains in reverse from the z that an image was made with, a stochastic upper bound
    (bidirectional Monte Carlo, Grosse et al. 2015, https://arxiv.org/abs/1511.02543), `.simulated.gap` their
    difference: AIS is short of log p(x) by at most this on the model's images; of real ones it may be another.

    Of the first `limit` images, unless `evaluate` is given a limit.
    """

    names: ClassVar[tuple[str, ...]] = ("gaps",)
    suffixes: ClassVar[tuple[str, ...]] = (
        *(".elbo", ".refined", ".importance", ".ais", ".ais.acceptance", ".ais.ess"),
        *(".marginal", ".approximation", ".amortization"),
        *(".simulated.lower", ".simulated.upper", ".simulated.gap"),
    )
    costly: ClassVar[bool] = True
    limit: int = Field(default=100, gt=0)  # the first so many images
    draws: int = Field(default=500, gt=0)  # importance-weighted, of the best member found
    temperatures: int = Field(default=100, gt=0)  # of the annealing
    chains: int = Field(default=16, gt=0)  # of the annealing, for each image
    leapfrogs: int = Field(default=10, gt=0)  # in a move of Hamiltonian Monte Carlo
    from_prior: bool = False  # anneal from p(z) in the place of q(z|x)
    refinement: int = Field(default=500, ge=0)  # steps of each climb
    refinement_draws: int = Field(default=20, gt=0)  # of the bound that is climbed to the best member

    def applies(self, world: World) -> bool:
        return isinstance(world.model, LatentModel)

    def __call__(self, world: World) -> dict[str, Value]:
        model = world.model
        assert isinstance(model, LatentModel)
        check(model)
        steps = 2 * self.refinement + SIDES * self.temperatures
        passing = Passing(world.progress.count("gaps"), part_of(min(self.limit, len(world.images))).n, steps)
        parts = [
            self._measured(model, batch, world.seed, passing.batch(len(batch.index)))
            for batch in own_batches(world.batches, self._at_once(model), self.limit)
        ]
        numbers, begun = zip(*gathered(parts), strict=True)
        return self._values({k: np.concatenate([part[k] for part in numbers]) for k in numbers[0]}, begun[0], world)

    def _at_once(self, model: LatentModel) -> int:
        return max(1, min(BATCH, model.rows // max(self.chains, self.refinement_draws)))

    @property
    def _annealing(self) -> Annealing:
        return Annealing(self.temperatures, self.chains, self.leapfrogs, self.from_prior)

    def _measured(self, model: LatentModel, batch: Batch, seed: int, told: Step) -> tuple[dict[str, np.ndarray], str]:
        """Of each image, by what follows the names, [B] each; and what the chains began with."""
        x, y, own = batch.x, batch.y, Own(seed, batch.index)
        bound = bounds(model, x, y, Refinement(self.refinement, self.refinement_draws), self.draws, own, told)
        ais = Sides(model, x, y, self._annealing, own, told).below()
        own = Own(key(seed, "simulated"), batch.index)
        x, z = simulated(model, y, own)
        sides = Sides(model, x, y, self._annealing, own, told)
        found: dict[str, torch.Tensor] = {
            "elbo": bound.encoder,
            "refined": bound.refined,
            "importance": bound.importance,
            "ais": ais.log_p,
            "ais.acceptance": ais.acceptance,
            "ais.ess": ais.size,
            "simulated.lower": sides.below().log_p,
            "simulated.upper": sides.above(z).log_p,
        }
        return {name: t.double().cpu().numpy() for name, t in found.items()}, sides.begun

    def _values(self, each: dict[str, np.ndarray], begun: str, world: World) -> dict[str, Value]:
        best = max(("importance", "ais"), key=lambda way: each[way].mean())
        each |= {
            "marginal": each[best] - each["elbo"],
            "approximation": each[best] - each["refined"],
            "amortization": each["refined"] - each["elbo"],
            "simulated.gap": each["simulated.upper"] - each["simulated.lower"],
        }
        of: dict[str, Any] = {"recipe": self._recipe(best, begun), "given": world.given}
        kinds = {
            "elbo": ("=", NATS, self.draws),
            "refined": (">=", NATS, self.draws),
            "importance": (">=", NATS, self.draws),
            "ais": (">=", NATS, self.chains),
            "ais.acceptance": ("=", "of proposals", self.chains),
            "ais.ess": ("=", f"of {self.chains} chains", self.chains),
            "marginal": (">=", NATS, self.draws),
            "approximation": ("~", NATS, self.draws),
            "amortization": (">=", NATS, self.draws),
            "simulated.lower": (">=", NATS, self.chains),
            "simulated.upper": ("<=", NATS, self.chains),
            "simulated.gap": ("<=", NATS, self.chains),
        }
        return {
            f"gaps.{name}": Value.mean(each[name], unit, relation, draws, **of)
            for name, (relation, unit, draws) in kinds.items()
        }

    def _recipe(self, best: str, begun: str) -> dict[str, Any]:
        return {
            "log_p": f"gaps.{best}",
            "annealing": {
                "from": begun,
                "schedule": "sigmoid",
                "temperatures": self.temperatures,
                "chains": self.chains,
                "leapfrogs": self.leapfrogs,
            },
            "refinement": {"steps": self.refinement, "draws": self.refinement_draws},
        }

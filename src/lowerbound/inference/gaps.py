r"""Where the nats between log p(x) and the bound are lost, of each image.

.. math:: \log p(x) - L[q_\phi] = (\log p(x) - L[q^*]) + (L[q^*] - L[q_\phi])

with L[q] = E_q[log p(x, z) - log q(z)], q_φ the encoder's posterior and q* the best member of its family for this x:
what the family can't do, the approximation gap, and what the encoder does not find, the amortization gap (Cremer et al.
2018, https://arxiv.org/abs/1801.03558).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor
from torch import distributions as td
from torch.distributions import Distribution, Independent, MixtureSameFamily

from lowerbound.chunks import log_mean
from lowerbound.distributions import Normal
from lowerbound.errors import ModelError
from lowerbound.inference.annealing import BROAD, Annealed, Annealing, backward, forward, found_steps
from lowerbound.inference.hmc import Bridge
from lowerbound.inference.observed import Observed, check_annealed
from lowerbound.inference.own import Own
from lowerbound.inference.refinement import Refinement, log_weights, refined
from lowerbound.model import LatentModel, rows_of
from lowerbound.noise import KeyedNoise
from lowerbound.progress import Step, silent
from lowerbound.space import Density, Y


def check(model: LatentModel) -> None:
    """Raise ModelError for a model whose gaps can't be measured, with the reason."""
    name, what = type(model).__name__, "gaps: "
    if model.density is Density.NONE:
        raise ModelError(f"{what}{name} says nothing of log p(x): {model.why_no_density()}")
    check_annealed(model, "gaps")
    if model.likelihood_density is not Density.EXACT:
        raise ModelError(
            f"{what}log p(x|z) of {name} is known by dequantization alone, with new noise for each draw, and annealing "
            "needs its value; train with a likelihood of whole numbers, such as families.DiscretizedNormal"
        )


# Posteriors whose density costs nothing; that of a flow may take a pass for every dimension.
CLOSED = (Independent, td.MultivariateNormal, td.LowRankMultivariateNormal, MixtureSameFamily)


class Bounds(NamedTuple):
    """Of each image, in nats: [B] each."""

    encoder: Tensor  # L[q_φ]
    refined: Tensor  # L[q*] of what was found, by the same noise
    importance: Tensor  # log p(x) by importance weights of draws of q*: a stochastic lower bound


def bounds(model: LatentModel, x: Tensor, y: Y, how: Refinement, draws: int, own: Own, told: Step = silent) -> Bounds:
    """By so many draws, in parts that fit in memory."""
    h = model.bottom_up(x, y)
    best = refined(model, x, h, y, how, own, told)
    log_w = [log_weights(model, x, each, y, draws, own.noise("bound")) for each in (h, best)]
    return Bounds(log_w[0].mean(0), log_w[1].mean(0), log_mean(log_w[1], True))


@dataclass(frozen=True)
class Sides:
    """log p(x) of images [B, ...] by annealing, from below and, where a draw of p(z|x) is known, from above.

    Of an `Observed` model, which has no encoder, from p(z). told: called after each temperature, of which there are
    `how.temperatures` on each side, and one fewer where the steps are found.
    """

    model: LatentModel | Observed
    x: Tensor
    y: Y
    how: Annealing
    own: Own
    told: Step = silent

    def below(self) -> Annealed:
        with self.own.noise("chains") as noise:
            z = self._start(self.how.chains, "chains", noise)
            return forward(self.bridge, z, self.steps, self.how, noise, self.told)

    def above(self, z: Tensor) -> Annealed:
        """z: [B, *latent], drawn from p(z|x): as by `simulated`."""
        with self.own.noise("reverse") as noise:
            chains = z.expand(self.how.chains, *z.shape)
            return backward(self.bridge, chains, self.steps, self.how, noise, self.told)

    @cached_property
    def steps(self) -> Tensor:
        with self.own.noise("pilot") as noise:
            return found_steps(self.bridge, self._start(BROAD, "pilot", noise), self.how, noise, self.told)

    @cached_property
    def bridge(self) -> Bridge:
        """From f_0 to p(x, z)."""
        prior = self.model.prior_of(0, (), self.y)

        def joint(z: Tensor) -> Tensor:
            return self.model.likelihood((z,), self.y).log_prob(self.x) + prior.log_prob(z)

        return Bridge(prior.log_prob if self._from_prior else self._encoded.log_prob, joint)

    @property
    def begun(self) -> str:
        """What f_0 is, in words."""
        if self._from_prior:
            return "prior"
        return "encoder" if isinstance(self._posterior, CLOSED) else "normal with the encoder's mean and variance"

    @property
    def _from_prior(self) -> bool:
        return self.how.from_prior or isinstance(self.model, Observed)

    @cached_property
    def _posterior(self) -> Distribution:
        assert isinstance(self.model, LatentModel)
        with torch.no_grad():
            return self.model.posterior(0, self.model.bottom_up(self.x, self.y), (), self.y)

    @cached_property
    def _encoded(self) -> Distribution:
        """The encoder's posterior, or a normal like it: every step asks for its density of values it did not draw."""
        q = self._posterior
        if isinstance(q, CLOSED):
            return q
        with torch.no_grad():
            normal = Normal(q.mean, q.variance.sqrt(), validate_args=False)
        return Independent(normal, len(q.event_shape), validate_args=False)

    @torch.no_grad()
    def _start(self, n: int, what: str, noise: KeyedNoise) -> Tensor:
        """So many draws of f_0 for each image: [n, B, *latent]."""
        noise.chunk(n)
        if not self._from_prior:
            return self._encoded.sample((n,))
        return torch.stack([z for (z,) in self._of_prior(n, what)], 1)

    def _of_prior(self, n: int, what: str) -> Iterator[tuple[Tensor, ...]]:
        for i, alone in enumerate(self.own.alone(what)):
            with alone:
                yield self.model.draw_latents(n, _again(self.y, i, n))


def simulated(model: LatentModel | Observed, y: Y, own: Own) -> tuple[Tensor, Tensor]:
    """An x of the model's own for each number of `own`, given y, and the z that it was made with, which is a draw of
    p(z|x): [B, *event] and [B, *latent]."""
    drawn = []
    for i, alone in enumerate(own.alone("simulated")):
        with alone:
            drawn.append(model.draw(1, _again(y, i, 1)))
    return torch.cat([each.x for each in drawn]), torch.cat([each.z[0] for each in drawn])


def _again(y: Y, i: int, n: int) -> Y:
    """The condition of an image, n times."""
    return rows_of(y, torch.full((n,), i))

"""What every model answers: a loss to train it, samples, and log p(x) with what that number is worth."""

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from lowerbound.config import Component
from lowerbound.directions import Direction, shifted
from lowerbound.errors import ModelError
from lowerbound.space import Density, Space, Y, check_conditions, check_draw, check_events
from lowerbound.stages import Loss, Stage, Turn


class Model(nn.Module):
    """A model of events in `space`, perhaps given a condition y.

    Events are uint8 [B, C, H, W] with values in [0, levels), int64 codes, or real numbers. A log-probability is in
    nats per event, shape [B], with the sign of log p. A subclass is final and has a nested `Config` whose `build`
    makes it.
    """

    class Config(Component, abstract=True, rooms=("models", "priors")):
        @abstractmethod
        def build(self, space: Space, given: tuple[Space, ...] = ()) -> "Model": ...

        @classmethod
        @abstractmethod
        def example(cls) -> tuple["Model.Config", Space, tuple[Space, ...]]:
            """The smallest valid instance: configuration, space, condition. The batteries run over it."""

        def binary(self) -> bool:
            """Whether the model is one of binary values, so that grey images are binarized for it."""
            return False

    def __init__(self, config: "Model.Config", space: Space, given: tuple[Space, ...] = ()):
        super().__init__()
        self.config: Any = config
        self.space = space
        self.given = given

    @property
    @abstractmethod
    def density(self) -> Density:
        """What `log_density` is worth: the worst of the parts."""

    @property
    @abstractmethod
    def unbiased(self) -> bool:
        """Whether E exp(log_density(x)) <= p(x), so that draws may be importance-weighted."""

    @property
    def noisy(self) -> bool:
        """Whether `log_weights` is another number in every draw, so that several say more than one."""
        return self.density is Density.BOUND

    @property
    def can_sample(self) -> bool:
        """Whether there is a density to draw from; where there is none, `sample` says why."""
        return True

    @property
    def footprint(self) -> int:
        """How many numbers a pass holds for an event, roughly: those of its largest layer, if that is larger than x."""
        return max(1, self.space.dims)

    @abstractmethod
    def loss(self, x: Tensor, y: Y = None, step: int = 0) -> Loss:
        """The loss of a batch in training."""

    @abstractmethod
    def _sample(self, n: int, y: Y, temperature: float) -> Tensor: ...

    @abstractmethod
    def log_weights(self, x: Tensor, y: Y = None, draws: int = 1) -> Tensor:
        """[K, B]: log p(x) up to noise. Where `unbiased`, the mean of exp over draws is p(x); else it is a bound of it.

        Every draw of noise is [draws, B, ...]. K may be 1 where there is no noise.
        """

    def after_step(self) -> None:
        """Called once after every optimizer step: moving-average codebooks and the like."""

    def stages(self) -> tuple[Stage, ...]:
        return (Stage("model", (Turn((self,), self.loss),)),)

    @torch.no_grad()
    def sample(self, n: int, y: Y = None, temperature: float = 1.0) -> Tensor:
        """n events of `space`, drawn from the model: [n, *space.shape]."""
        check_draw(n, y, self.given, temperature)
        return self._sample(n, y, temperature)

    def log_density(self, x: Tensor, y: Y = None, draws: int = 1) -> Tensor:
        """log p(x), or its bound with this many draws, in nats: [B]. Raises ModelError where `density` is NONE."""
        if self.density is Density.NONE:
            raise ModelError(f"{type(self).__name__} as configured says nothing of log p(x): {self.why_no_density()}")
        if draws < 1:
            raise ModelError(f"draws: expected a whole number of at least 1, got {draws}")
        check_events(x, self.space)
        check_conditions(len(x), y, self.given)
        log_w = self.log_weights(x, y, draws)
        # Burda et al. 2016, eq. 8, where draws may be weighted
        return torch.logsumexp(log_w, 0) - math.log(len(log_w)) if self.unbiased else log_w.mean(0)

    def why_no_density(self) -> str:
        return "one of its parts has no density"


class ExactModel(Model):
    """log p(x) itself. `density` may still be BOUND for events it reaches through dequantization."""

    @abstractmethod
    def log_prob(self, x: Tensor, y: Y = None) -> Tensor:
        """log p(x) in nats: [B]."""

    @property
    def density(self) -> Density:
        return Density.EXACT

    @property
    def unbiased(self) -> bool:
        return True

    def log_weights(self, x: Tensor, y: Y = None, draws: int = 1) -> Tensor:
        return self.log_prob(x, y).unsqueeze(0)

    def loss(self, x: Tensor, y: Y = None, step: int = 0) -> Loss:
        nll = -self.log_prob(x, y)
        return Loss(nll.mean(), {"nll": nll.detach()})


class BoundModel(Model):
    """A lower bound of log p(x)."""

    @abstractmethod
    def elbo(self, x: Tensor, y: Y = None) -> Tensor:
        """One draw of the evidence lower bound in nats: [B]."""


@dataclass(frozen=True)
class ElboTerms:
    """The parts of the bound for K draws of L levels of latents."""

    x: Tensor  # [B, *event]
    p_x: Distribution  # p(x|z), [K, B]
    log_px: Tensor  # [K, B], log p(x|z)
    latents: Callable[[], tuple[Tensor, Tensor]]  # log p(z|y) and log q(z|x), [K, B, L] each, once they are asked for
    z: tuple[Tensor, ...]  # [K, B, *latent] each
    q: tuple[Distribution, ...]
    p: tuple[Distribution | None, ...]  # the priors of z as distributions, where they are
    kl: Tensor | None  # [K, B, L] where it is closed

    @cached_property
    def _latents(self) -> tuple[Tensor, Tensor]:
        return self.latents()

    @property
    def log_pz(self) -> Tensor:
        """log p(z|y): [K, B, L]."""
        return self._latents[0]

    @property
    def log_qz(self) -> Tensor:
        """log q(z|x): [K, B, L]."""
        return self._latents[1]

    @property
    def log_weight(self) -> Tensor:
        """log p(x, z) - log q(z|x): [K, B]."""
        return self.log_px + (self.log_pz - self.log_qz).sum(-1)


class LatentModel(BoundModel):
    """A model with latents z: a prior p(z|y), a posterior q(z|x, y) and a likelihood p(x|z, y)."""

    directions: Mapping[str, Direction] = MappingProxyType({})  # the named ones of the run it was loaded from

    @abstractmethod
    def elbo_terms(self, x: Tensor, y: Y = None, draws: int = 1) -> ElboTerms:
        """Everything of the bound, for this many draws of z. Every draw of noise is [draws, B, ...]."""

    @abstractmethod
    def posteriors(self, x: Tensor, y: Y = None) -> tuple[Distribution, ...]:
        """q(z|x) level by level, the coarsest first; the finer ones given the means of the coarser."""

    @abstractmethod
    def likelihood(self, z: tuple[Tensor, ...], y: Y = None) -> Distribution:
        """p(x|z) for z of [..., B, *latent] each; leading dimensions are kept."""

    @abstractmethod
    def draw_likelihood(self, n: int, y: Y = None, temperature: float = 1.0) -> Distribution:
        """p(x|z) for n draws of z from the prior. Temperature scales the prior, not the pixels' noise."""

    @torch.no_grad()
    def sample_mean(self, n: int, y: Y = None, temperature: float = 1.0) -> Tensor:
        """The means of p(x|z) for n draws of z, in pixel values, not rounded: float [n, *space.shape]."""
        check_draw(n, y, self.given, temperature)
        return self.draw_likelihood(n, y, temperature).mean

    def _sample(self, n: int, y: Y, temperature: float) -> Tensor:
        return self.draw_likelihood(n, y, temperature).sample()

    def encode(self, x: Tensor, y: Y = None) -> Any:
        """The posterior q(z|x): one Distribution, or a tuple of them where there are several levels."""
        check_events(x, self.space)
        check_conditions(len(x), y, self.given)
        q = self.posteriors(x, y)
        return q[0] if len(q) == 1 else q

    def decode(self, z: Tensor | tuple[Tensor, ...], y: Y = None) -> Distribution:
        """The likelihood p(x|z); leading dimensions of z are kept: z [5, 16, D] -> batch shape [5, 16]."""
        return self.likelihood((z,) if isinstance(z, Tensor) else z, y)

    def features(self, x: Tensor, y: Y = None) -> Tensor:
        """What downstream tasks are given of x: the posterior means of all levels, coarsest first, as [B, D]."""
        return torch.cat([q.mean.flatten(1) for q in self.posteriors(x, y)], 1)

    def vector_posterior(self, x: Tensor, y: Y = None) -> Distribution:
        """q(z|x) where z is a single vector [D]. Raises ModelError where it is several levels, or a map."""
        q = self.posteriors(x, y)
        shapes = [list(level.event_shape) for level in q]
        if len(shapes) != 1 or len(shapes[0]) != 1:
            raise ModelError(
                f"{type(self).__name__}: its latents are of shape {' and '.join(map(str, shapes))}; editing needs a "
                "single vector, such as model.latent=64"
            )
        return q[0]

    @torch.no_grad()
    def edit(self, x: Tensor, strengths: Mapping[str, float], y: Y = None, *, residual: bool = False) -> Tensor:
        """Events [B, *space.shape] moved along named directions of the run: encoded, changed, decoded.

        Args:
            strengths: direction -> strength, 1 being the distance of the two class means along it. Latent arithmetic
                is `{"smile": 1.0, "glasses": -1.0}`.
            residual: add back what the reconstruction of x lost; the values are kept in range.

        Returns the means of p(x|z), rounded. Raises ModelError for an unknown direction, and without a vector latent.
        """
        check_events(x, self.space)
        check_conditions(len(x), y, self.given)
        z = self.vector_posterior(x, y).mean
        edited = self.decode(shifted(z, strengths, self.directions), y).mean
        if residual:
            edited = with_residual(edited, x, self.decode(z, y).mean, self.space)
        return edited if self.space.levels is None else edited.round().to(self.space.dtype)

    def elbo(self, x: Tensor, y: Y = None) -> Tensor:
        """log p(x, z) - log q(z|x) for one draw of z, in nats: [B]."""
        return self.elbo_terms(x, y).log_weight[0]

    def log_weights(self, x: Tensor, y: Y = None, draws: int = 1) -> Tensor:
        return self.elbo_terms(x, y, draws).log_weight


def with_residual(edited: Tensor, x: Tensor, reconstruction: Tensor, space: Space) -> Tensor:
    """Edited means [..., B, *shape] with what the reconstructions [B, *shape] of x lost added back, kept in range."""
    whole = x + (edited - reconstruction)
    return whole if space.levels is None else whole.clamp(0, space.levels - 1)

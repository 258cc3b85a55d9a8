"""One number of a latent after another."""

from collections.abc import Iterable
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.distributions import Distribution, MixtureSameFamily

from lowerbound.devices import widened
from lowerbound.distributions import Choice, Normal, tempered
from lowerbound.errors import ConfigError
from lowerbound.model import Draw, Drawn, ExactModel, Model, Told
from lowerbound.networks.causal import CausalNetwork
from lowerbound.networks.context import Context
from lowerbound.networks.gated import GatedPixelCNN
from lowerbound.networks.made import MADE
from lowerbound.networks.mlp import Widths
from lowerbound.priors.base import length, map_shape
from lowerbound.space import Space, Y
from lowerbound.stages import Stage, Turn

BOUND = 7.0  # of log-scales


class _OneByOne(ExactModel):
    """What is fitted to events that are first standardized, given the condition."""

    mean: Tensor
    scale: Tensor

    def __init__(self, config: Model.Config, space: Space, given: tuple[Space, ...], context: int):
        super().__init__(config, space, given)
        self.register_buffer("mean", torch.zeros(space.shape))
        self.register_buffer("scale", torch.ones(space.shape))
        self.condition = Context(given, context)

    def stages(self) -> tuple[Stage, ...]:
        return (Stage("model", (Turn((self,), self._loss),), begin=self.begin),)

    @torch.no_grad()
    def begin(self, events: Iterable[Tensor]) -> None:
        """Standardize every number by all events [B, *shape] of the batches, read once."""
        z = torch.cat([x.double() for x in events])
        self.mean.copy_(z.mean(0))
        self.scale.copy_(z.std(0).clamp(min=1e-6))

    def _context(self, y: Y) -> Tensor | None:
        c = self.condition(y)
        return None if c is None else c[:, :, None, None]

    def _standardized(self, x: Tensor) -> Tensor:
        return (x - widened(self.mean)) / widened(self.scale)


class AutoregressiveMixture(_OneByOne):
    r"""Each dimension of a vector by a mixture of normals given the earlier ones and the condition, by a MADE
    (Germain et al. 2015, https://arxiv.org/abs/1502.03509).

    .. math:: p(z|y) = \prod_d \sum_c \pi_c(z_{<d}, y) N(z_d; \mu_c(z_{<d}, y), \sigma_c^2(z_{<d}, y))

    The density is exact; drawing goes from dimension to dimension. What it is fitted to is first standardized.
    """

    class Config(Model.Config):
        offered_as: ClassVar[str | None] = "autoregressive"
        components: int = Field(default=8, gt=0)  # normals of each element
        hidden: Widths = (256, 256)  # widths of the network
        context: int = Field(default=32, gt=0)  # width of the condition's embedding, where there is a condition

        def build(self, space: Space, given: tuple[Space, ...] = ()) -> "AutoregressiveMixture":
            return AutoregressiveMixture(self, space, given)

        @classmethod
        def example(cls) -> tuple["AutoregressiveMixture.Config", Space, tuple[Space, ...]]:
            return cls(components=2, hidden=(4,)), Space((2,)), ()

    def __init__(self, config: Config, space: Space, given: tuple[Space, ...] = ()):
        super().__init__(config, space, given, config.context)
        D = length(config, space)
        if D < 2:
            raise ConfigError(f"{config.type_name()} is over at least 2 numbers; use priors.GaussianMixture for one")
        network = MADE.Config(hidden=config.hidden, activation="silu", direct=False)
        self.network = network.build((1, 1, D), (3 * config.components, 1, D), context=self.condition.width)

    @property
    def cost(self) -> int:
        return 2 * sum(w.numel() for w in self.parameters())

    def _log_prob(self, x: Tensor, y: Y = None) -> Tensor:
        u = self._standardized(x)
        h = self.network(u.to(self.dtype)[:, None, None], self._context(y))[:, :, 0]
        return _conditionals(h).log_prob(u).sum(-1) - widened(self.scale).log().sum()

    def _draw(self, n: int, y: Y, how: Draw, told: Told) -> Drawn:
        cache, found = self.network.start(n, self._context(y)), []
        for d in range(self.space.shape[0]):
            conditional = _conditionals(self.network.step(cache, 0, d).unsqueeze(-1))
            found.append(tempered(conditional, how.at().temperature).sample())  # [n, 1]
            self.network.put(cache, found[-1].to(self.dtype), 0, d)
        return Drawn(widened(self.mean) + widened(self.scale) * torch.cat(found, -1))


class MapAutoregressive(_OneByOne):
    r"""Each number of a map by a mixture of normals given earlier places, the earlier channels of its own place and the
    condition, by a causal network (van den Oord et al. 2016, https://arxiv.org/abs/1601.06759).

    .. math:: p(z|y) = \prod_{hwc} \sum_k \pi_k N(z_{hwc}; \mu_k, \sigma_k^2), \qquad
        (\pi, \mu, \sigma)_k = f_k(z_{<hw}, z_{hw,<c}, y)

    Places are in the order of reading. The density is exact; drawing goes from number to number. What it is fitted to
    is first standardized.
    """

    class Config(Model.Config):
        offered_as: ClassVar[str | None] = "autoregressive"
        offered_to: ClassVar[tuple[int, ...]] = (3,)
        components: int = Field(default=5, gt=0)  # normals of each element
        # whose outputs see earlier places alone
        network: CausalNetwork.Config = GatedPixelCNN.Config(layers=4, first_kernel=5)
        context: int = Field(default=32, gt=0)  # width of the condition's embedding, where there is a condition

        def build(self, space: Space, given: tuple[Space, ...] = ()) -> "MapAutoregressive":
            return MapAutoregressive(self, space, given)

        @classmethod
        def example(cls) -> tuple["MapAutoregressive.Config", Space, tuple[Space, ...]]:
            network = GatedPixelCNN.Config(width=4, layers=2, first_kernel=3, out_width=4)
            return cls(components=2, network=network), Space((2, 2, 2)), ()

    def __init__(self, config: Config, space: Space, given: tuple[Space, ...] = ()):
        super().__init__(config, space, given, config.context)
        C, H, W = map_shape(config, space)
        out = (3 * config.components * C, H, W)
        self.network = config.network.build((C, H, W), out, channels=C, context=self.condition.width)

    @property
    def cost(self) -> int:
        return 2 * sum(w.numel() for w in self.parameters()) * self.space.dims

    @property
    def footprint(self) -> int:
        return self.space.dims * max(3 * self.config.components, 128 // self.space.shape[0])

    def _log_prob(self, x: Tensor, y: Y = None) -> Tensor:
        u = self._standardized(x)
        h = self.network(u.to(self.dtype), self._context(y))  # [B, 3 components x C, H, W]
        p = _conditionals(h.reshape(len(x), -1, self.space.dims))
        return p.log_prob(u.flatten(1)).sum(1) - widened(self.scale).log().sum()

    def _draw(self, n: int, y: Y, how: Draw, told: Told) -> Drawn:
        mean, scale = widened(self.mean), widened(self.scale)
        cache, u, order = self.network.start(n, self._context(y)), mean.new_zeros(n, *mean.shape), self.network.order
        for t, (i, j) in enumerate(order):
            for c in range(len(mean)):
                h = self.network.step(cache, i, j).view(n, -1, len(mean))[:, :, c : c + 1]
                u[:, c, i, j] = tempered(_conditionals(h), how.at().temperature).sample()[:, 0]
                self.network.put(cache, u[:, :, i, j].to(self.dtype), i, j)
            told(t + 1, len(order))
        return Drawn(mean + scale * u)


def _conditionals(h: Tensor) -> Distribution:
    """Mixtures of h [..., 3 components, D], of batch shape [..., D]."""
    logits, mean, log_scale = widened(h).unflatten(-2, (3, -1)).transpose(-1, -2).unbind(-3)  # [..., D, components]
    normal = Normal(mean, log_scale.clamp(-BOUND, BOUND).exp(), validate_args=False)
    return MixtureSameFamily(Choice(logits=logits, validate_args=False), normal, validate_args=False)

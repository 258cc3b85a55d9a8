"""One dimension of a latent after another."""

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
from lowerbound.networks.context import Context
from lowerbound.networks.made import MADE
from lowerbound.networks.mlp import Widths
from lowerbound.priors.base import length
from lowerbound.space import Space, Y
from lowerbound.stages import Stage, Turn

BOUND = 7.0  # of log-scales


class AutoregressiveMixture(ExactModel):
    r"""Each dimension of a vector by a mixture of normals given the earlier ones and the condition, by a MADE
    (Germain et al. 2015, https://arxiv.org/abs/1502.03509).

    .. math:: p(z|y) = \prod_d \sum_c \pi_c(z_{<d}, y) N(z_d; \mu_c(z_{<d}, y), \sigma_c^2(z_{<d}, y))

    The density is exact; drawing goes from dimension to dimension. What it is fitted to is first standardized.
    """

    class Config(Model.Config):
        offered_as: ClassVar[str | None] = "autoregressive"
        components: int = Field(default=8, gt=0)
        hidden: Widths = (256, 256)
        context: int = Field(default=32, gt=0)  # width of the condition's embedding, where there is a condition

        def build(self, space: Space, given: tuple[Space, ...] = ()) -> "AutoregressiveMixture":
            return AutoregressiveMixture(self, space, given)

        @classmethod
        def example(cls) -> tuple["AutoregressiveMixture.Config", Space, tuple[Space, ...]]:
            return cls(components=2, hidden=(4,)), Space((2,)), ()

    mean: Tensor
    scale: Tensor

    def __init__(self, config: Config, space: Space, given: tuple[Space, ...] = ()):
        super().__init__(config, space, given)
        D = length(config, space)
        if D < 2:
            raise ConfigError(f"{config.type_name()} is over at least 2 numbers; use priors.GaussianMixture for one")
        self.register_buffer("mean", torch.zeros(D))
        self.register_buffer("scale", torch.ones(D))
        self.condition = Context(given, config.context)
        network = MADE.Config(hidden=config.hidden, activation="silu", direct=False)
        self.network = network.build((1, 1, D), (3 * config.components, 1, D), context=self.condition.width)

    def stages(self) -> tuple[Stage, ...]:
        return (Stage("model", (Turn((self,), self._loss),), begin=self.begin),)

    @torch.no_grad()
    def begin(self, events: Iterable[Tensor]) -> None:
        """Standardize by all events [B, D] of the batches, read once."""
        z = torch.cat([x.double() for x in events])
        self.mean.copy_(z.mean(0))
        self.scale.copy_(z.std(0).clamp(min=1e-6))

    @property
    def cost(self) -> int:
        return 2 * sum(w.numel() for w in self.parameters())

    def _of(self, h: Tensor) -> Distribution:
        """Conditionals of h [..., 3C, D], of batch shape [..., D]."""
        logits, mean, log_scale = widened(h).unflatten(-2, (3, -1)).transpose(-1, -2).unbind(-3)  # [..., D, C]
        normal = Normal(mean, log_scale.clamp(-BOUND, BOUND).exp(), validate_args=False)
        return MixtureSameFamily(Choice(logits=logits, validate_args=False), normal, validate_args=False)

    def _context(self, y: Y) -> Tensor | None:
        c = self.condition(y)
        return None if c is None else c[:, :, None, None]

    def _log_prob(self, x: Tensor, y: Y = None) -> Tensor:
        scale = widened(self.scale)
        u = (x - widened(self.mean)) / scale
        h = self.network(u.to(self.dtype)[:, None, None], self._context(y))[:, :, 0]
        return self._of(h).log_prob(u).sum(-1) - scale.log().sum()

    def _draw(self, n: int, y: Y, how: Draw, told: Told) -> Drawn:
        cache, found = self.network.start(n, self._context(y)), []
        for d in range(self.space.shape[0]):
            conditional = self._of(self.network.step(cache, 0, d).unsqueeze(-1))
            found.append(tempered(conditional, how.at().temperature).sample())  # [n, 1]
            self.network.put(cache, found[-1].to(self.dtype), 0, d)
        return Drawn(widened(self.mean) + widened(self.scale) * torch.cat(found, -1))

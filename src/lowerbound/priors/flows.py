"""A normal that splines bend, as a prior of vectors and maps."""

import math
from collections.abc import Iterable
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from lowerbound.devices import widened
from lowerbound.distributions import normal_moments
from lowerbound.errors import ConfigError
from lowerbound.model import Draw, Drawn, ExactModel, Model, Told
from lowerbound.networks.context import Context
from lowerbound.networks.mlp import Widths
from lowerbound.noise import randn
from lowerbound.space import Space, Y
from lowerbound.stages import Stage, Turn
from lowerbound.transforms import Chain, SplineCoupling, half


class SplineFlow(ExactModel):
    r"""Rational-quadratic neural spline couplings over all numbers of a vector or a map (Durkan et al. 2019,
    https://arxiv.org/abs/1906.04032), given the condition.

    .. math:: z = m + L f(u; y), \quad u \sim N(0, I), \qquad
        \log p(z|y) = \log N(u; 0, I) - \log |\det \partial f / \partial u| - \log |\det L|

    m and L are fixed to the moments of what it is fitted to, and are 0 and I where it is trained with the rest. It
    begins as that normal.
    """

    class Config(Model.Config):
        offered_as: ClassVar[str | None] = "spline"
        offered_to: ClassVar[tuple[int, ...]] = (1, 3)
        steps: int = Field(default=6, gt=1)  # couplings, which move one half and the other in turn
        bins: int = Field(default=8, gt=1, le=100)  # of each spline
        # the splines bend [-tail, tail], and nothing outside
        tail: float = Field(default=3.0, gt=0, allow_inf_nan=False)
        hidden: Widths = (128, 128)  # widths of each coupling's network
        context: int = Field(default=32, gt=0)  # width of the condition's embedding, where there is a condition

        def build(self, space: Space, given: tuple[Space, ...] = ()) -> "SplineFlow":
            return SplineFlow(self, space, given)

        @classmethod
        def example(cls) -> tuple["SplineFlow.Config", Space, tuple[Space, ...]]:
            return cls(steps=2, bins=3, hidden=(4,)), Space((1, 1, 3)), ()

    mean: Tensor
    cholesky: Tensor

    def __init__(self, config: Config, space: Space, given: tuple[Space, ...] = ()):
        super().__init__(config, space, given)
        D = math.prod(space.shape)
        if space.levels is not None or D < 2:
            raise ConfigError(
                f"{config.type_name()} is over at least 2 real numbers, and these are {list(space.shape)}"
            )
        self.register_buffer("mean", torch.zeros(D))
        self.register_buffer("cholesky", torch.eye(D))  # L
        self.condition = Context(given, config.context)
        self.bijection = Chain(
            [
                SplineCoupling(half(D, t), self.condition.width, config.hidden, config.bins, config.tail)
                for t in range(config.steps)
            ]
        )

    def stages(self) -> tuple[Stage, ...]:
        return (Stage("model", (Turn((self,), self._loss),), begin=self.begin),)

    @torch.no_grad()
    def begin(self, events: Iterable[Tensor]) -> None:
        """Begin at the normal of all events [B, *shape] of the batches, read once."""
        mean, covariance = normal_moments(x.flatten(1) for x in events)
        self.mean.copy_(mean)
        self.cholesky.copy_(torch.linalg.cholesky(covariance.double()))

    def _log_prob(self, x: Tensor, y: Y = None) -> Tensor:
        L = widened(self.cholesky)
        u = torch.linalg.solve_triangular(L, (x.flatten(1) - widened(self.mean)).T, upper=False).T
        u, log_det = self.bijection(u, self.condition(y), inverse=True)
        log_normal = -0.5 * (u.square() + math.log(2 * math.pi)).sum(-1)
        return log_normal - log_det - L.diagonal().log().sum()

    def _draw(self, n: int, y: Y, how: Draw, told: Told) -> Drawn:
        mean = widened(self.mean)
        u = how.at().temperature * randn((n, len(mean)), dtype=mean.dtype, device=mean.device)
        u, _ = self.bijection(u, self.condition(y))
        return Drawn((mean + u @ widened(self.cholesky).T).view(n, *self.space.shape))

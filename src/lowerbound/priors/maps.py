"""Priors of maps of latents [C, H, W]."""

import math
from collections.abc import Iterable
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from lowerbound.devices import widened
from lowerbound.distributions import MultivariateNormal, normal_moments, tempered
from lowerbound.errors import ConfigError
from lowerbound.model import Draw, Drawn, ExactModel, Model, Told
from lowerbound.networks.context import Context
from lowerbound.noise import randn
from lowerbound.priors.base import map_shape
from lowerbound.priors.normals import Cholesky
from lowerbound.space import Space, Y
from lowerbound.stages import Stage, Turn, of_events
from lowerbound.transforms import Chain, MapCoupling, map_half

LARGEST = 4096  # numbers of a map, all covariances of which are learned


class MapGaussian(ExactModel):
    r"""One normal of maps: with all covariances, :math:`N(z; \mu, L L^T)`, or with those of the channels of each place,
    :math:`\prod_{hw} N(z_{hw}; \mu_{hw}, L_{hw} L_{hw}^T)`.

    `whole` are all, which take more events than a map has numbers; those are at most LARGEST.
    """

    class Config(Model.Config):
        offered_as: ClassVar[str | None] = "gaussian"
        offered_to: ClassVar[tuple[int, ...]] = (3,)
        one_for_all: ClassVar[bool] = True
        whole: bool = True  # whether all places together are one normal; else each place is one

        @classmethod
        def choices(cls, space: Space) -> tuple["MapGaussian.Config", ...]:
            return cls(whole=True), cls(whole=False)

        def build(self, space: Space, given: tuple[Space, ...] = ()) -> "MapGaussian":
            return MapGaussian(self, space, given)

        @classmethod
        def example(cls) -> tuple["MapGaussian.Config", Space, tuple[Space, ...]]:
            return cls(), Space((1, 1, 2)), ()

    def __init__(self, config: Config, space: Space, given: tuple[Space, ...] = ()):
        super().__init__(config, space, given)
        C, H, W = map_shape(config, space)
        if config.whole and space.dims > LARGEST:
            raise ConfigError(
                f"model.prior.whole: a map of {space.dims} numbers has too many covariances, expected at most "
                f"{LARGEST} numbers; set model.prior.whole=false"
            )
        blocks = (1, space.dims) if config.whole else (H * W, C)
        self.mean = nn.Parameter(torch.zeros(blocks))
        self.cholesky = Cholesky(blocks[1], blocks[0])

    def stages(self) -> tuple[Stage, ...]:
        return (Stage("model", (Turn((self,), self._loss),), fit=of_events(self.fit)),)

    @torch.no_grad()
    def fit(self, events: Iterable[Tensor]) -> None:
        """Set it to the moments of all events [B, C, H, W] of the batches, read once.

        Raises ModelError for as few events as a block has numbers.
        """
        every = [self._blocks(x) for x in events]
        found = [normal_moments(x[:, b] for x in every) for b in range(len(self.mean))]
        mean, cov = (torch.stack(moments) for moments in zip(*found, strict=True))
        self.mean.copy_(mean)
        self.cholesky.put(cov)

    def _blocks(self, x: Tensor) -> Tensor:
        """Maps [B, C, H, W] as the vectors [B, blocks, D] that are normal, each independent of the others."""
        return x.flatten(1)[:, None] if self.config.whole else x.flatten(2).transpose(1, 2)

    @property
    def _normals(self) -> MultivariateNormal:
        return MultivariateNormal(widened(self.mean), scale_tril=self.cholesky(), validate_args=False)

    def _log_prob(self, x: Tensor, y: Y = None) -> Tensor:
        return self._normals.log_prob(self._blocks(x)).sum(1)

    def _draw(self, n: int, y: Y, how: Draw, told: Told) -> Drawn:
        z = tempered(self._normals, how.at().temperature).sample((n,))
        return Drawn(z.transpose(1, 2).reshape(n, *self.space.shape))


class MapFlow(ExactModel):
    r"""Affine coupling layers of convolutions over maps, perhaps given a condition (Dinh et al. 2017, Real NVP,
    https://arxiv.org/abs/1605.08803).

    .. math:: z_{hw} = m_{hw} + L f(u; y)_{hw}, \quad u \sim N(0, I), \qquad
        \log p(z|y) = \log N(u; 0, I) - \log |\det \partial f / \partial u| - HW \log |\det L|

    Couplings keep the numbers of a checkerboard and then those between, one half of the channels and then the other
    (`transforms.map_half`). m [C, H, W] and L [C, C], of the channels, are fixed to the moments of what it is fitted
    to, and are 0 and I where it is trained with the rest. It begins as that normal.

    Example:
        >>> flow = MapFlow.Config(steps=4, width=8).build(Space((4, 2, 2)))
        >>> flow.log_density(flow.sample(3)).shape
        torch.Size([3])
    """

    class Config(Model.Config):
        offered_as: ClassVar[str | None] = "flow"
        offered_to: ClassVar[tuple[int, ...]] = (3,)
        steps: int = Field(default=8, gt=1)  # of the flow, one after another
        width: int = Field(default=48, gt=0)  # channels of the networks of the couplings
        blocks: int = Field(default=1, ge=0)  # residual ones, in each of them
        bound: float = Field(default=2.0, gt=0, allow_inf_nan=False)  # of the log-scale of one coupling
        context: int = Field(default=32, gt=0)  # width of the condition's embedding, where there is a condition

        def build(self, space: Space, given: tuple[Space, ...] = ()) -> "MapFlow":
            return MapFlow(self, space, given)

        @classmethod
        def example(cls) -> tuple["MapFlow.Config", Space, tuple[Space, ...]]:
            return cls(steps=2, width=4), Space((1, 1, 2)), ()

    mean: Tensor
    cholesky: Tensor

    def __init__(self, config: Config, space: Space, given: tuple[Space, ...] = ()):
        super().__init__(config, space, given)
        shape = map_shape(config, space)
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("cholesky", torch.eye(shape[0]))  # L
        self.condition = Context(given, config.context)
        self.bijection = Chain(
            [
                MapCoupling(map_half(shape, t), self.condition.width, config.width, config.blocks, config.bound)
                for t in range(config.steps)
            ]
        )

    @property
    def footprint(self) -> int:
        return self.space.dims // self.space.shape[0] * max(self.config.width, 2 * self.space.shape[0])

    def stages(self) -> tuple[Stage, ...]:
        return (Stage("model", (Turn((self,), self._loss),), begin=self.begin),)

    @torch.no_grad()
    def begin(self, events: Iterable[Tensor]) -> None:
        """Begin at the mean of all events [B, C, H, W] of the batches, and the covariance of their channels about it,
        read once."""
        every = list(events)
        self.mean.copy_(torch.stack([x.double().sum(0) for x in every]).sum(0) / sum(map(len, every)))
        _, cov = normal_moments((x - self.mean).movedim(1, -1).flatten(0, 2) for x in every)
        self.cholesky.copy_(torch.linalg.cholesky(cov.double()))

    def _log_prob(self, x: Tensor, y: Y = None) -> Tensor:
        L = widened(self.cholesky)
        centred = (x - widened(self.mean)).flatten(2)  # [B, C, HW]
        u = torch.linalg.solve_triangular(L, centred, upper=False).view_as(x)
        u, log_det = self.bijection(u, self.condition(y), inverse=True)
        log_normal = -0.5 * (u.square() + math.log(2 * math.pi)).flatten(1).sum(1)
        return log_normal - log_det - centred.shape[2] * L.diagonal().log().sum()

    def _draw(self, n: int, y: Y, how: Draw, told: Told) -> Drawn:
        mean = widened(self.mean)
        u = how.at().temperature * randn((n, *mean.shape), dtype=mean.dtype, device=mean.device)
        u, _ = self.bijection(u, self.condition(y))
        return Drawn(mean + (widened(self.cholesky) @ u.flatten(2)).view_as(u))

"""Normals, and all mass on a point: the posteriors of real latents, and densities of pixels through dequantization."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.distributions import Distribution

from lowerbound import distributions as dist
from lowerbound.distributions import LowRankNormal as LowRank
from lowerbound.distributions import MultivariateNormal
from lowerbound.errors import ConfigError
from lowerbound.families.base import (
    LOG_SCALE,
    Family,
    check_ordered,
    length,
    mean_first,
    normal_over,
    real_density,
    split,
    times,
)
from lowerbound.quantizers import LQ
from lowerbound.space import Density, Shape, Space


class DiagonalNormal(Family):
    r"""Independent normals whose means and log-scales come from the network.

    .. math:: \log p(x) = \sum_d \log N(x_d; \mu_d, e^{2 r_d}), \quad -7 \le r_d \le 7

    The log-scale r is clamped: one cheap operation, and neither the density nor its gradient can overflow.
    On whole numbers it is a density over the scale s = 2 (x + u) / levels - 1 in [-1, 1), and a bound
    (see `distributions.Dequantized`). h: (2D,) or (2C, H, W): means, then log-scales.

    Example:
        >>> q = DiagonalNormal()(torch.zeros(5, 4), Space((2,)))
        >>> q.batch_shape, q.event_shape, q.stddev[0].tolist()
        (torch.Size([5]), torch.Size([2]), [1.0, 1.0])
    """

    pixelwise: ClassVar[bool] = True

    def density(self, space: Space) -> Density:
        return real_density(self, space)

    def param_shape(self, space: Space) -> Shape:
        check_ordered(self, space)
        return times(2, space)

    def around(self, mean: Tensor, space: Space) -> Tensor:
        return mean_first(self, mean, space)

    def __call__(self, h: Tensor, space: Space, learned: Tensor | None = None) -> Distribution:
        mean, log_scale = split(h, 2, space)
        return normal_over(mean, log_scale.clamp(*LOG_SCALE).exp(), space)


class FixedScaleNormal(Family):
    """Independent normals with means from the network and one given standard deviation.

    On whole numbers the scale is that of [-1, 1], and the result a bound; see DiagonalNormal. h: the means.

    Example:
        >>> FixedScaleNormal(scale=0.1)(torch.zeros(5, 2), Space((2,))).stddev[0]
        tensor([0.1000, 0.1000])
    """

    pixelwise: ClassVar[bool] = True

    scale: float = Field(1.0, gt=0)  # the standard deviation; pixels count from -1 to 1

    def density(self, space: Space) -> Density:
        return real_density(self, space)

    def param_shape(self, space: Space) -> Shape:
        check_ordered(self, space)
        return times(1, space)

    def around(self, mean: Tensor, space: Space) -> Tensor:
        return mean_first(self, mean, space)

    # --8<-- [start:fixed-scale]
    def __call__(self, h: Tensor, space: Space, learned: Tensor | None = None) -> Distribution:
        (mean,) = split(h, 1, space)
        return normal_over(mean, mean.new_full((), self.scale), space)
        # --8<-- [end:fixed-scale]


class SharedScaleNormal(Family):
    """Independent normals with means from the network and a standard deviation learned once for all events.

    Rybkin et al. (2021), sigma-VAE, https://arxiv.org/abs/2006.13202. The Head owns its logarithm, which starts at 0
    and is clamped as DiagonalNormal's. On whole numbers a bound on the scale [-1, 1]. h: the means.
    """

    pixelwise: ClassVar[bool] = True

    per_channel: bool = False  # one for each channel of an image or element of a vector, instead of one for all

    def density(self, space: Space) -> Density:
        return real_density(self, space)

    def param_shape(self, space: Space) -> Shape:
        check_ordered(self, space)
        return times(1, space)

    def learned_once(self, space: Space) -> Shape | None:
        if not self.per_channel or not space.shape:
            return ()
        return (space.shape[0], *[1] * (len(space.shape) - 1))

    def around(self, mean: Tensor, space: Space) -> Tensor:
        return mean_first(self, mean, space)

    def __call__(self, h: Tensor, space: Space, learned: Tensor | None = None) -> Distribution:
        (mean,) = split(h, 1, space)
        log_scale = mean.new_zeros(()) if learned is None else learned
        return normal_over(mean, log_scale.clamp(*LOG_SCALE).exp(), space)


class FullNormal(Family):
    r"""A normal over a vector with any covariance, by its Cholesky factor.

    .. math:: p(x) = N(x; \mu, L L^T), \quad L_{dd} = e^{r_d}, \quad L_{de} = e^{r_d} t_{de} \; (e < d)

    Log-scales r are clamped as DiagonalNormal's and t to [-10, 10], so that L can be inverted in single precision;
    the correlation of two elements stays below 0.995.
    h: (2D + D(D-1)/2,): means, log-scales, then t row by row (21, 31, 32, ...).

    Example:
        >>> q = FullNormal()(torch.zeros(5, 9), Space((3,)))
        >>> q.log_prob(q.rsample((7,))).shape
        torch.Size([7, 5])
    """

    def density(self, space: Space) -> Density:
        length(self, space)
        return Density.EXACT

    def param_shape(self, space: Space) -> Shape:
        D = length(self, space)
        return (2 * D + D * (D - 1) // 2,)

    def __call__(self, h: Tensor, space: Space, learned: Tensor | None = None) -> Distribution:
        D = length(self, space)
        mean, log_scale, t = h.split([D, D, D * (D - 1) // 2], -1)
        # Row d of a unit lower triangle begins at d(d-1)/2; zeros fill it up.
        rows = [F.pad(t[..., d * (d - 1) // 2 : d * (d + 1) // 2].clamp(-10, 10), (0, D - d)) for d in range(D)]
        unit = torch.stack(rows, -2) + torch.eye(D, dtype=h.dtype, device=h.device)
        L = log_scale.clamp(*LOG_SCALE).exp().unsqueeze(-1) * unit
        return MultivariateNormal(mean, scale_tril=L, validate_args=False)


class LowRankNormal(Family):
    r"""A normal over a vector with a diagonal plus a low-rank covariance.

    .. math:: p(x) = N(x; \mu, \operatorname{diag}(s)(I + T T^T)\operatorname{diag}(s)), \quad s_d = e^{r_d}

    Log-scales r are clamped as DiagonalNormal's and T [D, rank] to [-10, 10], as FullNormal's.
    h: (2D + rank D,): means, log-scales, then T row by row. With T = 0 it is DiagonalNormal.

    Example:
        >>> q = LowRankNormal(rank=1)(torch.zeros(5, 9), Space((3,)))
        >>> q.log_prob(q.rsample((7,))).shape
        torch.Size([7, 5])
    """

    rank: int = Field(default=2, gt=0)  # columns of T

    def density(self, space: Space) -> Density:
        if self.rank > length(self, space):
            D = space.shape[0]
            raise ConfigError(
                f"{self.type_name()}: a covariance of {D} numbers has no part of rank={self.rank}; set rank={D} or "
                "less, or use families.FullNormal"
            )
        return Density.EXACT

    def param_shape(self, space: Space) -> Shape:
        self.density(space)
        return ((2 + self.rank) * space.shape[0],)

    def __call__(self, h: Tensor, space: Space, learned: Tensor | None = None) -> Distribution:
        D = length(self, space)
        mean, log_scale, T = h.split([D, D, self.rank * D], -1)
        scale = log_scale.clamp(*LOG_SCALE).exp()
        factor = scale.unsqueeze(-1) * T.clamp(-10, 10).unflatten(-1, (D, self.rank))
        return LowRank(mean, factor, scale.square(), validate_args=False)


class Point(Family):
    """All mass on h itself: the posterior of a plain autoencoder. Without a density. h: the value.

    Example:
        >>> Point()(torch.ones(5, 2), Space((2,))).rsample((3,)).shape
        torch.Size([3, 5, 2])
    """

    def density(self, space: Space) -> Density:
        self.param_shape(space)
        return Density.NONE

    def param_shape(self, space: Space) -> Shape:
        if space.levels is not None:
            raise ConfigError(f"{self.type_name()} is over real numbers, and these events are whole ones")
        return times(1, space)

    def __call__(self, h: Tensor, space: Space, learned: Tensor | None = None) -> Distribution:
        (value,) = split(h, 1, space)
        return dist.Point(value, len(space.shape))


class Quantized(Family):
    """All mass on h with every element on the nearest of a few values of its own, which are learned: the posterior of a
    quantized-latent autoencoder (Hsu et al. 2023, https://arxiv.org/abs/2305.18378), see `quantizers.LQ`.

    What it costs in training, `Point.loss`, is added by `objectives.Reconstruction`. The paper's weight decay of
    networks is unusually high: `optimization.AdamW` with 0.1. Without a density. h: the value before, (D,).

    Example:
        >>> from lowerbound.families import Head
        >>> Head(Quantized(values=3), Space((2,)))(torch.tensor([[0.1, 0.4]])).mean
        tensor([[0.0000, 0.5000]])
    """

    values: int = Field(default=10, gt=1)  # that each variable takes
    quantize: float = Field(default=0.01, ge=0)  # weight of what pulls values to the outputs
    commit: float = Field(default=0.01, ge=0)  # weight of what pulls outputs to the values

    def density(self, space: Space) -> Density:
        length(self, space)
        return Density.NONE

    def param_shape(self, space: Space) -> Shape:
        return (length(self, space),)

    def network(self, space: Space) -> nn.Module:
        config = LQ.Config(dim=length(self, space), values=self.values, quantize=self.quantize, commit=self.commit)
        return config.build()

    def __call__(self, h: Tensor, space: Space, learned: nn.Module | None = None) -> Distribution:
        if learned is None:
            return dist.Point(h, 1)
        z, _, loss = learned(h.reshape(-1, h.shape[-1], 1, 1))
        return dist.Point(z.view(h.shape), 1, loss.view(h.shape[:-1]))

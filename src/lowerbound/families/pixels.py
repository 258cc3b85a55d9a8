"""Probabilities of pixels and codes, and a picture without one."""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.distributions import Distribution

from lowerbound import distributions as dist
from lowerbound.estimators import RLOO, DisARM, Estimator
from lowerbound.families.base import LOG_SCALE, Family, check_ordered, mean_first, split, stacked, times, whole
from lowerbound.space import Density, Shape, Space
from lowerbound.units import from_unit

RARE = 0.01  # probability that a pixel begins at which is always black, or always white


class Noiseless(Family):
    r"""A decoder's picture without any noise, as in an autoencoder trained by squared error: no density.

    .. math:: \hat x = (\mathrm{levels} - 1)\, \sigma(h), \quad \text{or} \quad
        \hat x = (\mathrm{levels} - 1)\, (h + 1) / 2

    without the sigmoid, on the scale that networks see grey values in. Real events are h itself, with and without.
    h: (D,) or (C, H, W).

    Example:
        >>> import torch
        >>> Noiseless()(torch.zeros(5, 1, 2, 2), Space((1, 2, 2), levels=17)).mean[0, 0, 0].tolist()
        [8.0, 8.0]
    """

    pixelwise: ClassVar[bool] = True

    sigmoid: bool = True  # whether the output goes through one; else it is the grey value itself

    def density(self, space: Space) -> Density:
        self.param_shape(space)
        return Density.NONE

    def param_shape(self, space: Space) -> Shape:
        check_ordered(self, space)
        return times(1, space)

    def __call__(self, h: Tensor, space: Space, learned: Tensor | None = None) -> Distribution:
        (value,) = split(h, 1, space)
        if space.levels is not None:
            value = value.sigmoid() * (space.levels - 1) if self.sigmoid else from_unit(value, space.levels)
        return dist.Noiseless(value, space)


class Bernoulli(Family):
    """Each element is the highest value with probability sigmoid(h), else 0.

    Over two levels the exact probability. Over more, the cross-entropy with x / (levels - 1): no density, see
    `distributions.Bernoulli`. h: the logits, (D,) or (C, H, W).

    Example:
        >>> import torch
        >>> p = Bernoulli()(torch.zeros(7, 5, 1, 2, 2), Space((1, 2, 2), levels=2))
        >>> p.batch_shape, p.log_prob(torch.ones(5, 1, 2, 2, dtype=torch.uint8)).shape
        (torch.Size([7, 5]), torch.Size([7, 5]))
    """

    pixelwise: ClassVar[bool] = True

    @property
    def natural(self) -> Estimator:
        return DisARM()

    def density(self, space: Space) -> Density:
        return Density.EXACT if whole(self, space) == 2 else Density.NONE

    def param_shape(self, space: Space) -> Shape:
        whole(self, space)
        return times(1, space)

    def around(self, mean: Tensor, space: Space) -> Tensor:
        return torch.logit(mean / (whole(self, space) - 1), eps=RARE)

    def __call__(self, h: Tensor, space: Space, learned: Tensor | None = None) -> Distribution:
        (logits,) = split(h, 1, space)
        return dist.Bernoulli(logits, space)


class Categorical(Family):
    """Each element takes one of `levels` values with a probability of its own: pixels, codes, labels.

    h: logits, (levels * D,), (levels * C, H, W) (channel c of value k at k C + c), (levels, h, w) or (levels,).

    Example:
        >>> import torch
        >>> p = Categorical()(torch.zeros(5, 256 * 3, 2, 2), Space((3, 2, 2), levels=256))
        >>> p.event_shape, p.mean[0, 0, 0, 0]
        (torch.Size([3, 2, 2]), tensor(127.5000))
    """

    pixelwise: ClassVar[bool] = True

    @property
    def natural(self) -> Estimator:
        return RLOO()

    def density(self, space: Space) -> Density:
        whole(self, space)
        return Density.EXACT

    def param_shape(self, space: Space) -> Shape:
        return times(whole(self, space), space)

    def __call__(self, h: Tensor, space: Space, learned: Tensor | None = None) -> Distribution:
        return dist.Categorical(stacked(h, whole(self, space), space), space)


class DiscretizedNormal(Family):
    """Each value k has the normal's mass on [k - 1/2, k + 1/2]; the lowest and highest take the tails.

    The exact probability, unlike DiagonalNormal on whole numbers; see `distributions.DiscretizedNormal`.
    h: (2D,) or (2C, H, W): means and log-scales on the scale of [-1, 1]; the log-scales are clamped to [-7, 2].

    Example:
        >>> import torch
        >>> DiscretizedNormal()(torch.zeros(5, 2, 4, 4), Space((1, 4, 4), levels=17)).mode[0, 0, 0, 0]
        tensor(8, dtype=torch.uint8)
    """

    pixelwise: ClassVar[bool] = True

    def density(self, space: Space) -> Density:
        self.param_shape(space)
        return Density.EXACT

    def param_shape(self, space: Space) -> Shape:
        whole(self, space)
        check_ordered(self, space)
        return times(2, space)

    def around(self, mean: Tensor, space: Space) -> Tensor:
        return mean_first(self, mean, space)

    def __call__(self, h: Tensor, space: Space, learned: Tensor | None = None) -> Distribution:
        mean, log_scale = split(h, 2, space)
        # A bin's mass is a difference of two numbers near 1/2 where the scale is wide: 2 keeps four digits in float32.
        return dist.DiscretizedNormal(mean, log_scale.clamp(LOG_SCALE[0], 2.0), space)


class LogisticMixture(Family):
    """A mixture of discretized logistics for all channels of a pixel, each coupled to the ones before it.

    Salimans et al. (2017), PixelCNN++, https://arxiv.org/abs/1701.05517; see `distributions.LogisticMixture`. The
    coupling is the tanh of h, as in its code. Shared by all channels of a pixel: a network need not order them.
    h of an image (C, H, W): (M (1 + 2C + C(C-1)/2), H, W): M logits, M C means (all channels of the first component
    first), as many log-scales (clamped to [-7, 7]), then the coupling. Of a vector (D,): (3 M D,); of a grid (h, w):
    (3M, h, w).

    Example:
        >>> import torch
        >>> family, space = LogisticMixture(components=5), Space((3, 8, 8), levels=256)
        >>> family.param_shape(space)
        (50, 8, 8)
        >>> family(torch.zeros(2, 50, 8, 8), space).mode.shape
        torch.Size([2, 3, 8, 8])
    """

    pixelwise: ClassVar[bool] = True
    joint: ClassVar[bool] = True
    components: int = Field(10, gt=0)  # logistics of each pixel

    def density(self, space: Space) -> Density:
        self.param_shape(space)
        return Density.EXACT

    def param_shape(self, space: Space) -> Shape:
        whole(self, space)
        check_ordered(self, space)
        C, grid = _pixels(space)
        n = self.components * (1 + 2 * C + C * (C - 1) // 2)
        return (n * grid[0],) if len(space.shape) == 1 else (n, *grid)

    def __call__(self, h: Tensor, space: Space, learned: Tensor | None = None) -> Distribution:
        C, grid = _pixels(space)
        M, axis = self.components, -len(grid) - 1
        h = h.unflatten(-1, (-1, *grid)) if len(space.shape) == 1 else h
        logits, loc, log_scale, coupling = h.split([M, M * C, M * C, M * C * (C - 1) // 2], axis)
        return dist.LogisticMixture(
            logits,
            loc.unflatten(axis, (M, C)),
            log_scale.unflatten(axis, (M, C)).clamp(*LOG_SCALE),
            coupling.unflatten(axis, (M, C * (C - 1) // 2)).tanh(),
            space,
        )


def _pixels(space: Space) -> tuple[int, Shape]:
    """Channels, and the grid of pixels; all but images have one channel."""
    return (space.shape[0], space.shape[1:]) if len(space.shape) == 3 else (1, space.shape)

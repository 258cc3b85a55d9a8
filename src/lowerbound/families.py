"""Network output -> distribution: posteriors, likelihoods, conditional priors, conditionals of one pixel.

A family is frozen and has no parameters; `Head` joins it to a space and owns what is learned once. The n parameters
of an element are stacked along the first event axis, all elements' first parameter first: a vector (D,) takes n*D
numbers, an image (C, H, W) takes (n*C, H, W). Label and code grids have no channel axis and get one: () takes (n,),
(h, w) takes (n, h, w).
"""

from abc import abstractmethod
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from lowerbound import distributions as dist
from lowerbound.config import Component
from lowerbound.errors import ConfigError
from lowerbound.models.base import Density, Shape, Space

LOG_SCALE = (-7.0, 7.0)  # the bounds of Salimans et al. (2017, code) below and, against overflow, above


class Family(Component, abstract=True):
    """Network output h -> a distribution over a space.

    h: [..., *param_shape(space)]; the leading dimensions become the batch shape ([B] or [K, B]), the event shape is
    the space's.
    """

    joint: ClassVar[bool] = False  # True: one h for all channels of a pixel (coupled mixtures)

    @abstractmethod
    def density(self, space: Space) -> Density:
        """What `log_prob` over this space is worth. Raises ConfigError where the family has no such events."""

    @abstractmethod
    def param_shape(self, space: Space) -> Shape:
        """The shape of h without its leading dimensions."""

    def learned_once(self, space: Space) -> Shape | None:
        """The shape of what a Head learns for all events alike; None: nothing."""
        return None

    @abstractmethod
    def __call__(self, h: Tensor, space: Space, learned: Tensor | None = None) -> Distribution:
        """The distribution. `learned`: what the Head owns; where there is none, zeros are meant."""


class Head(nn.Module):
    """The end of a network: h [..., *in_shape] -> a distribution over the space; owns what is learned once.

    Example:
        >>> head = Head(SharedScaleNormal(), Space((2,)))
        >>> head.in_shape, [p.shape for p in head.parameters()]
        ((2,), [torch.Size([])])
        >>> head(torch.zeros(5, 2)).stddev[0].tolist()
        [1.0, 1.0]
    """

    def __init__(self, family: Family, space: Space):
        super().__init__()
        self.family = family
        self.space = space
        shape = family.learned_once(space)
        self.learned = None if shape is None else nn.Parameter(torch.zeros(shape))

    @property
    def in_shape(self) -> Shape:
        """What the network must put out."""
        return self.family.param_shape(self.space)

    @property
    def density(self) -> Density:
        return self.family.density(self.space)

    def forward(self, h: Tensor) -> Distribution:
        return self.family(h, self.space, self.learned)


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

    def density(self, space: Space) -> Density:
        return _real_density(self, space)

    def param_shape(self, space: Space) -> Shape:
        _ordered(self, space)
        return _times(2, space)

    def __call__(self, h: Tensor, space: Space, learned: Tensor | None = None) -> Distribution:
        mean, log_scale = _split(h, 2, space)
        return _over(mean, log_scale.clamp(*LOG_SCALE).exp(), space)


class FixedScaleNormal(Family):
    """Independent normals with means from the network and one given standard deviation.

    On whole numbers the scale is that of [-1, 1], and the result a bound; see DiagonalNormal. h: the means.

    Example:
        >>> FixedScaleNormal(scale=0.1)(torch.zeros(5, 2), Space((2,))).stddev[0]
        tensor([0.1000, 0.1000])
    """

    scale: float = Field(1.0, gt=0)

    def density(self, space: Space) -> Density:
        return _real_density(self, space)

    def param_shape(self, space: Space) -> Shape:
        _ordered(self, space)
        return _times(1, space)

    def __call__(self, h: Tensor, space: Space, learned: Tensor | None = None) -> Distribution:
        (mean,) = _split(h, 1, space)
        return _over(mean, mean.new_full((), self.scale), space)


class SharedScaleNormal(Family):
    """Independent normals with means from the network and a standard deviation learned once for all events.

    Rybkin et al. (2021), sigma-VAE, https://arxiv.org/abs/2006.13202. The Head owns its logarithm, which starts at 0
    and is clamped as DiagonalNormal's. On whole numbers a bound on the scale [-1, 1]. h: the means.
    """

    per_channel: bool = False  # one for each channel of an image or element of a vector, instead of one for all

    def density(self, space: Space) -> Density:
        return _real_density(self, space)

    def param_shape(self, space: Space) -> Shape:
        _ordered(self, space)
        return _times(1, space)

    def learned_once(self, space: Space) -> Shape | None:
        if not self.per_channel or not space.shape:
            return ()
        return (space.shape[0], *[1] * (len(space.shape) - 1))

    def __call__(self, h: Tensor, space: Space, learned: Tensor | None = None) -> Distribution:
        (mean,) = _split(h, 1, space)
        log_scale = mean.new_zeros(()) if learned is None else learned
        return _over(mean, log_scale.clamp(*LOG_SCALE).exp(), space)


class Bernoulli(Family):
    """Each element is the highest value with probability sigmoid(h), else 0.

    Over two levels the exact probability. Over more, the cross-entropy with x / (levels - 1): no density, see
    `distributions.Bernoulli`. h: the logits, (D,) or (C, H, W).

    Example:
        >>> p = Bernoulli()(torch.zeros(7, 5, 1, 2, 2), Space((1, 2, 2), levels=2))
        >>> p.batch_shape, p.log_prob(torch.ones(5, 1, 2, 2, dtype=torch.uint8)).shape
        (torch.Size([7, 5]), torch.Size([7, 5]))
    """

    def density(self, space: Space) -> Density:
        return Density.EXACT if _whole(self, space) == 2 else Density.NONE

    def param_shape(self, space: Space) -> Shape:
        _whole(self, space)
        return _times(1, space)

    def __call__(self, h: Tensor, space: Space, learned: Tensor | None = None) -> Distribution:
        (logits,) = _split(h, 1, space)
        return dist.Bernoulli(logits, space)


def _has_channels(space: Space) -> bool:
    return len(space.shape) in (1, 3)


def _times(n: int, space: Space) -> Shape:
    """The shape of n parameters an element."""
    if _has_channels(space):
        return (n * space.shape[0], *space.shape[1:])
    return (n, *space.shape)


def _stacked(h: Tensor, n: int, space: Space) -> Tensor:
    """[..., *_times(n, space)] -> [..., n, *space.shape]."""
    return h.unflatten(-len(space.shape), (n, space.shape[0])) if _has_channels(space) else h


def _split(h: Tensor, n: int, space: Space) -> tuple[Tensor, ...]:
    """[..., *_times(n, space)] -> n of [..., *space.shape]."""
    return _stacked(h, n, space).unbind(-len(space.shape) - 1)


def _whole(family: Family, space: Space) -> int:
    """The space's levels."""
    if space.levels is None:
        raise ConfigError(f"{family.type_name()} is over whole numbers, and these events are real numbers")
    return space.levels


def _ordered(family: Family, space: Space) -> None:
    if space.levels is not None and not space.ordered:
        raise ConfigError(f"{family.type_name()} is over numbers, and these events are names (codes or labels)")


def _real_density(family: Family, space: Space) -> Density:
    """Of a density over real numbers: through dequantization it is a bound of the probability of whole ones."""
    _ordered(family, space)
    return Density.EXACT if space.levels is None else Density.BOUND


def _over(mean: Tensor, scale: Tensor, space: Space) -> Distribution:
    """Independent normals over the space, dequantized where it is of whole numbers."""
    normal = Independent(Normal(mean, scale, validate_args=False), len(space.shape), validate_args=False)
    return normal if space.levels is None else dist.Dequantized(normal, space)

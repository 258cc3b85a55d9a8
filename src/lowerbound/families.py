"""Network output -> distribution: posteriors, likelihoods, conditional priors, conditionals of one pixel.

A family is frozen and has no parameters; `Head` joins it to a space and owns what is learned once. The n parameters
of an element are stacked along the first event axis, all elements' first parameter first: a vector (D,) takes n*D
numbers, an image (C, H, W) takes (n*C, H, W). Label and code grids have no channel axis and get one: () takes (n,),
(h, w) takes (n, h, w).
"""

from abc import abstractmethod
from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.distributions import Distribution, Independent

from lowerbound import distributions as dist
from lowerbound.config import Component
from lowerbound.devices import widened
from lowerbound.distributions import MultivariateNormal, Normal
from lowerbound.errors import ConfigError
from lowerbound.space import Density, Shape, Space
from lowerbound.units import from_unit

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
        return self.family(widened(h), self.space, None if self.learned is None else widened(self.learned))


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
        _vector(self, space)
        return Density.EXACT

    def param_shape(self, space: Space) -> Shape:
        D = _vector(self, space)
        return (2 * D + D * (D - 1) // 2,)

    def __call__(self, h: Tensor, space: Space, learned: Tensor | None = None) -> Distribution:
        D = _vector(self, space)
        mean, log_scale, t = h.split([D, D, D * (D - 1) // 2], -1)
        # Row d of a unit lower triangle begins at d(d-1)/2; zeros fill it up.
        rows = [F.pad(t[..., d * (d - 1) // 2 : d * (d + 1) // 2].clamp(-10, 10), (0, D - d)) for d in range(D)]
        unit = torch.stack(rows, -2) + torch.eye(D, dtype=h.dtype, device=h.device)
        L = log_scale.clamp(*LOG_SCALE).exp().unsqueeze(-1) * unit
        return MultivariateNormal(mean, scale_tril=L, validate_args=False)


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
        return _times(1, space)

    def __call__(self, h: Tensor, space: Space, learned: Tensor | None = None) -> Distribution:
        (value,) = _split(h, 1, space)
        return dist.Point(value, len(space.shape))


class Noiseless(Family):
    r"""A decoder's picture without any noise, as in an autoencoder trained by squared error: no density.

    .. math:: \hat x = (\mathrm{levels} - 1)\, \sigma(h), \quad \text{or} \quad
        \hat x = (\mathrm{levels} - 1)\, (h + 1) / 2

    without the sigmoid, on the scale that networks see grey values in. Real events are h itself, with and without.
    h: (D,) or (C, H, W).

    Example:
        >>> Noiseless()(torch.zeros(5, 1, 2, 2), Space((1, 2, 2), levels=17)).mean[0, 0, 0].tolist()
        [8.0, 8.0]
    """

    sigmoid: bool = True

    def density(self, space: Space) -> Density:
        self.param_shape(space)
        return Density.NONE

    def param_shape(self, space: Space) -> Shape:
        _ordered(self, space)
        return _times(1, space)

    def __call__(self, h: Tensor, space: Space, learned: Tensor | None = None) -> Distribution:
        (value,) = _split(h, 1, space)
        if space.levels is not None:
            value = value.sigmoid() * (space.levels - 1) if self.sigmoid else from_unit(value, space.levels)
        return dist.Noiseless(value, space)


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


class Categorical(Family):
    """Each element takes one of `levels` values with a probability of its own: pixels, codes, labels.

    h: logits, (levels * D,), (levels * C, H, W) (channel c of value k at k C + c), (levels, h, w) or (levels,).

    Example:
        >>> p = Categorical()(torch.zeros(5, 256 * 3, 2, 2), Space((3, 2, 2), levels=256))
        >>> p.event_shape, p.mean[0, 0, 0, 0]
        (torch.Size([3, 2, 2]), tensor(127.5000))
    """

    def density(self, space: Space) -> Density:
        _whole(self, space)
        return Density.EXACT

    def param_shape(self, space: Space) -> Shape:
        return _times(_whole(self, space), space)

    def __call__(self, h: Tensor, space: Space, learned: Tensor | None = None) -> Distribution:
        return dist.Categorical(_stacked(h, _whole(self, space), space), space)


class DiscretizedNormal(Family):
    """Each value k has the normal's mass on [k - 1/2, k + 1/2]; the lowest and highest take the tails.

    The exact probability, unlike DiagonalNormal on whole numbers; see `distributions.DiscretizedNormal`.
    h: (2D,) or (2C, H, W): means and log-scales on the scale of [-1, 1]; the log-scales are clamped to [-7, 2].

    Example:
        >>> DiscretizedNormal()(torch.zeros(5, 2, 4, 4), Space((1, 4, 4), levels=17)).mode[0, 0, 0, 0]
        tensor(8, dtype=torch.uint8)
    """

    def density(self, space: Space) -> Density:
        self.param_shape(space)
        return Density.EXACT

    def param_shape(self, space: Space) -> Shape:
        _whole(self, space)
        _ordered(self, space)
        return _times(2, space)

    def __call__(self, h: Tensor, space: Space, learned: Tensor | None = None) -> Distribution:
        mean, log_scale = _split(h, 2, space)
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
        >>> family, space = LogisticMixture(components=5), Space((3, 8, 8), levels=256)
        >>> family.param_shape(space)
        (50, 8, 8)
        >>> family(torch.zeros(2, 50, 8, 8), space).mode.shape
        torch.Size([2, 3, 8, 8])
    """

    joint: ClassVar[bool] = True
    components: int = Field(10, gt=0)

    def density(self, space: Space) -> Density:
        self.param_shape(space)
        return Density.EXACT

    def param_shape(self, space: Space) -> Shape:
        _whole(self, space)
        _ordered(self, space)
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


def _vector(family: Family, space: Space) -> int:
    """The length of the real vectors of the space."""
    if space.levels is not None or len(space.shape) != 1:
        raise ConfigError(f"{family.type_name()} is over vectors of real numbers, and these events are {_words(space)}")
    return space.shape[0]


def _words(space: Space) -> str:
    return f"of shape {list(space.shape)}" + ("" if space.levels is None else f" with {space.levels} levels")


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

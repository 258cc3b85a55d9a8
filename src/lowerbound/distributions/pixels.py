"""Distributions of pixels and codes one by one, and of points."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Distribution

from lowerbound import noise
from lowerbound.space import Space
from lowerbound.units import from_unit, to_unit, unit_bin

FAR = 1e9  # in place of infinity, whose product with a zero gradient is not a number


class Pixels(Distribution):
    """A distribution over the events of a space; abstract."""

    arg_constraints: ClassVar[dict[str, Any]] = {}  # pyright: ignore[reportIncompatibleMethodOverride]

    def __init__(self, batch_shape: Sequence[int], space: Space):
        super().__init__(torch.Size(batch_shape), torch.Size(space.shape), validate_args=False)
        self.space = space

    @property
    def levels(self) -> int:
        assert self.space.levels is not None
        return self.space.levels

    @property
    def event_axes(self) -> tuple[int, ...]:
        return tuple(range(-len(self.space.shape), 0))

    def _sum(self, terms: Tensor) -> Tensor:
        """Sum over the event: [..., *event] -> [...]."""
        return terms.sum(self.event_axes) if self.space.shape else terms


class Point(Distribution):
    """All mass on one value: what a plain autoencoder encodes to, and the limit of temperature 0.

    log P(x) = 0 where x is the value and -inf elsewhere: a probability on codes and pixels, and nothing at all on
    real numbers, where the density of a model with a point in it is NONE.

    Example:
        >>> p = Point(torch.zeros(5, 2), event_dims=1)
        >>> p.rsample((3,)).shape, p.log_prob(torch.tensor([0.0, 1.0]))[0]
        (torch.Size([3, 5, 2]), tensor(-inf))
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}  # pyright: ignore[reportIncompatibleMethodOverride]
    has_rsample = True

    def __init__(self, value: Tensor, event_dims: int, loss: Tensor | None = None):
        """loss: what finding the value costs in training, [...]: a share of the error of an element of x."""
        cut = value.dim() - event_dims
        super().__init__(value.shape[:cut], value.shape[cut:], validate_args=False)
        self.value, self.loss = value, loss

    @property
    def mean(self) -> Tensor:
        return self.value

    @property
    def mode(self) -> Tensor:
        return self.value

    @property
    def variance(self) -> Tensor:
        return torch.zeros_like(self.value)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return self.value.expand(self._extended_shape(torch.Size(sample_shape)))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        return self.rsample(sample_shape).detach()

    def log_prob(self, value: Tensor) -> Tensor:
        """0 or -inf, [...]."""
        equal = value == self.value
        equal = equal.flatten(-len(self.event_shape)).all(-1) if self.event_shape else equal
        return torch.where(equal, 0.0, -math.inf)


class Bernoulli(Pixels):
    r"""Each element is the highest value with probability sigmoid(l), else 0.

    .. math:: \log P(x) = -\sum_d \mathrm{softplus}((1 - 2 x_d)\, l_d), \quad x_d \in \{0, 1\}

    With more than two levels it has no density of grey values; `log_prob` is then the usual cross-entropy with
    x / (levels - 1), which is no log-probability of anything, and the mean is the picture it stands for.

    Logits: [*batch, *event].

    Example:
        >>> d = Bernoulli(torch.zeros(5, 1, 28, 28), Space((1, 28, 28), levels=2))
        >>> d.log_prob(d.sample()).shape, d.sample().dtype
        (torch.Size([5]), torch.uint8)
    """

    def __init__(self, logits: Tensor, space: Space):
        super().__init__(logits.shape[: logits.dim() - len(space.shape)], space)
        self.logits = logits

    def log_prob(self, value: Tensor) -> Tensor:
        """log P(x) in nats, [...]; one pass over memory beside the product where no gradient is asked for."""
        if self.levels > 2:
            return self._sum(value.to(self.logits) / (self.levels - 1) * self.logits - _softplus(self.logits))
        return -self._sum(_softplus_over((1 - 2 * value.to(self.logits.dtype)) * self.logits))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with torch.no_grad():
            p = self.logits.sigmoid().expand(self._extended_shape(torch.Size(sample_shape)))
            return (noise.bernoulli(p, noise.behind(sample_shape)) * (self.levels - 1)).to(self.space.dtype)

    @property
    def mean(self) -> Tensor:
        return self.logits.sigmoid() * (self.levels - 1)

    @property
    def mode(self) -> Tensor:
        return ((self.logits > 0) * (self.levels - 1)).to(self.space.dtype)


def _softplus(v: Tensor) -> Tensor:
    """log(1 + e^v), exact to 1e-17: torch's own is v itself above 20."""
    return F.softplus(v, 1.0, 40.0)


def _softplus_over(v: Tensor) -> Tensor:
    """The same, overwriting v where no gradient can be asked for: three times as fast."""
    return _softplus(v) if torch.is_grad_enabled() else torch.ops.aten.softplus.out(v, 1.0, 40.0, out=v)


class Dequantized(Pixels):
    r"""A bound of log P(x) by a density over real numbers (Theis et al. 2016, https://arxiv.org/abs/1511.01844).

    Each value k is spread evenly over its bin of the scale s in [-1, 1): y = (x + u) / levels, s = 2 y - 1.

    .. math:: \log P(x) \ge E_u[\log p(s)] + D \ln(2 / \mathrm{levels}), \quad u \sim U[0, 1)^D

    Every call of `log_prob` draws u anew. Base: a distribution [*batch, *event] over s.

    Example:
        >>> from torch.distributions import Independent
        >>> from lowerbound.distributions import Normal
        >>> base = Independent(Normal(torch.zeros(5, 3), torch.ones(3), validate_args=False), 1, validate_args=False)
        >>> d = Dequantized(base, Space((3,), levels=256))
        >>> d.log_prob(torch.zeros(7, 5, 3, dtype=torch.uint8)).shape
        torch.Size([7, 5])
    """

    def __init__(self, base: Distribution, space: Space):
        super().__init__(base.batch_shape, space)
        self.base = base

    # Whole numbers and the noise fill [0, levels], so the scale has levels + 1 marks.
    def log_prob(self, value: Tensor) -> Tensor:
        """One draw of the bound in nats, [...]."""
        mean = self.base.mean
        s, log_bins = dequantized(value.expand(torch.broadcast_shapes(value.shape, mean.shape)), self.space, mean.dtype)
        return self.base.log_prob(s) + log_bins

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """The bin that a draw of s falls into; beyond the scale, the nearest."""
        with torch.no_grad():
            return self._bin(self.base.rsample(torch.Size(sample_shape)))

    def _bin(self, s: Tensor) -> Tensor:
        return from_unit(s, self.levels + 1).floor().clamp(0, self.levels - 1).to(self.space.dtype)

    @property
    def mean(self) -> Tensor:
        """The value whose bin has its middle at the mean of s, kept in [0, levels - 1]; not rounded."""
        return self.centre.clamp(0, self.levels - 1)

    @property
    def centre(self) -> Tensor:
        """The same, not kept inside the values."""
        return from_unit(self.base.mean, self.levels + 1) - 0.5

    @property
    def mode(self) -> Tensor:
        return self._bin(self.base.mode)


def dequantized(x: Tensor, space: Space, dtype: torch.dtype) -> tuple[Tensor, float]:
    """Values spread evenly over their bins of the scale [-1, 1), by noise drawn anew: [..., *space.shape]; and the log
    of the volume of the bins of an event, D ln(2 / levels)."""
    assert space.levels is not None
    u = noise.rand(x.shape, dtype=dtype, device=x.device)
    marks = space.levels + 1  # whole numbers and the noise fill [0, levels]
    return to_unit(x + u, marks), space.dims * math.log(unit_bin(marks))


class Noiseless(Pixels):
    r"""The decoder's picture itself, with nothing said of how pixels differ from it: no density.

    .. math:: \mathrm{log\_prob}(x) = -\sum_d (x_d - \hat x_d)^2, \quad \text{whole numbers divided by levels} - 1

    which is no log-probability of anything. A sample is the value nearest to the picture.
    Centre: [*batch, *event], the picture in pixel values, perhaps beyond them; over real numbers, as it is.

    Example:
        >>> d = Noiseless(torch.tensor([[-3.0, 7.4]]), Space((2,), levels=17))
        >>> d.mean.tolist(), d.sample().tolist()
        ([[0.0, 7.400000095367432]], [[0, 7]])
    """

    def __init__(self, centre: Tensor, space: Space):
        super().__init__(centre.shape[: centre.dim() - len(space.shape)], space)
        self.centre = centre

    def log_prob(self, value: Tensor) -> Tensor:
        """Minus the squared error, [...]."""
        return -self._sum(residual(self, value).square())

    def sample(self, sample_shape: Any = ()) -> Tensor:
        return self.mode.expand(self._extended_shape(torch.Size(sample_shape)))

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """The picture, not rounded: what a gradient can go through."""
        return self.mean.expand(self._extended_shape(torch.Size(sample_shape)))

    @property
    def mean(self) -> Tensor:
        return self.centre if self.space.levels is None else self.centre.clamp(0, self.levels - 1)

    @property
    def mode(self) -> Tensor:
        value = self.mean.detach()
        return value if self.space.levels is None else value.round().to(self.space.dtype)


def residual(d: Distribution, value: Tensor) -> Tensor:
    """What the value is more than the distribution's mean, [..., *event]; whole numbers divided by levels - 1.

    A mean that is kept inside the values is taken before that, so that a gradient brings it back from outside.
    """
    if not isinstance(d, Pixels):
        return value - d.mean
    mean = d.centre if isinstance(d, Noiseless | Dequantized) else d.mean
    return value - mean if d.space.levels is None else (value.to(mean.dtype) - mean) / (d.levels - 1)


class Categorical(Pixels):
    """Each element takes one of `levels` values with a probability of its own: pixels, codes, labels.

    Logits: [*batch, levels, *event].

    Example:
        >>> d = Categorical(torch.zeros(5, 16, 8, 8), Space((8, 8), levels=16, ordered=False))
        >>> d.log_prob(d.sample()).shape, d.sample().dtype
        (torch.Size([5]), torch.int64)
    """

    def __init__(self, logits: Tensor, space: Space):
        self.axis = -len(space.shape) - 1
        super().__init__(logits.shape[: logits.dim() + self.axis], space)
        self.logits = logits

    def log_prob(self, value: Tensor) -> Tensor:
        """log P(x) in nats, [...]."""
        index = value.long().unsqueeze(self.axis)
        return self._sum(_take(self.log_probs, index, self.axis))

    @property
    def log_probs(self) -> Tensor:
        """log P of every value, [*batch, levels, *event]."""
        return F.log_softmax(self.logits, self.axis)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with torch.no_grad():
            shape = self._extended_shape(torch.Size(sample_shape))
            axes = noise.behind(sample_shape)
            return _pick(self.logits, shape, self.axis, axes).squeeze(self.axis).to(self.space.dtype)

    @property
    def mean(self) -> Tensor:
        """The expected value; of no meaning for codes and labels."""
        values = torch.arange(self.levels, dtype=self.logits.dtype, device=self.logits.device)
        return torch.tensordot(self.logits.softmax(self.axis).movedim(self.axis, -1), values, 1)

    @property
    def mode(self) -> Tensor:
        return self.logits.argmax(self.axis).to(self.space.dtype)


def _take(values: Tensor, index: Tensor, axis: int) -> Tensor:
    """The values at an index of length 1 along the axis, which goes; leading dimensions broadcast."""
    dims = max(values.dim(), index.dim())
    values, index = (t[(None,) * (dims - t.dim())] for t in (values, index))
    return torch.take_along_dim(values, index, axis).squeeze(axis)


def _pick(logits: Tensor, shape: Sequence[int], axis: int, axes: noise.Axes = noise.EITHER) -> Tensor:
    """Draw an index along the axis by inverting the distribution function; its length becomes 1.

    `shape` is that of the indices without the axis, and of the noise; `axes`: which of these are of rows.
    """
    u = noise.rand(shape, dtype=logits.dtype, device=logits.device, axes=axes).unsqueeze(axis)
    below = logits.softmax(axis).cumsum(axis)
    last = below.narrow(axis, -1, 1)  # 1 but for rounding
    return (below <= u * last).sum(axis, keepdim=True).clamp_(max=logits.shape[axis] - 1)

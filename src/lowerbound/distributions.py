"""What torch.distributions lacks: distributions over pixel values and codes, their KLs, temperature, detaching.

Every one is over the events of a `Space`: `log_prob` takes whole numbers in [0, levels) and returns nats summed over
the event; `sample` returns them in the space's type; `mean` is in pixel values, not rounded. Noise is drawn by
torch.rand in the shape [*sample, *batch, *event], so that it can be keyed by image. Nothing is validated and nothing
waits for the device. Outside this file nobody writes a normal log-density or a KL.
"""

import math
from collections.abc import Callable, Sequence
from functools import singledispatch
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Categorical as TorchCategorical
from torch.distributions import (
    Distribution,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    kl_divergence,
    register_kl,
)

from lowerbound.errors import ModelError
from lowerbound.models.base import Space
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

    def __init__(self, value: Tensor, event_dims: int):
        cut = value.dim() - event_dims
        super().__init__(value.shape[:cut], value.shape[cut:], validate_args=False)
        self.value = value

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
            return (torch.bernoulli(p) * (self.levels - 1)).to(self.space.dtype)

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
        shape = torch.broadcast_shapes(value.shape, mean.shape)
        u = torch.rand(shape, dtype=mean.dtype, device=mean.device)
        return self.base.log_prob(to_unit(value + u, self.levels + 1)) + self.space.dims * math.log(
            unit_bin(self.levels + 1)
        )

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
            return _pick(self.logits, shape, self.axis).squeeze(self.axis).to(self.space.dtype)

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


def _pick(logits: Tensor, shape: Sequence[int], axis: int) -> Tensor:
    """Draw an index along the axis by inverting the distribution function; its length becomes 1.

    `shape` is that of the indices without the axis, and of the noise.
    """
    u = torch.rand(shape, dtype=logits.dtype, device=logits.device).unsqueeze(axis)
    below = logits.softmax(axis).cumsum(axis)
    last = below.narrow(axis, -1, 1)  # 1 but for rounding
    return (below <= u * last).sum(axis, keepdim=True).clamp_(max=logits.shape[axis] - 1)


class DiscretizedNormal(Pixels):
    r"""Each value k has the normal's mass on [k - 1/2, k + 1/2]; the lowest and highest take the tails.

    .. math:: P(k) = \Phi((k + 1/2 - \mu) / s) - \Phi((k - 1/2 - \mu) / s)

    The decoder of Ho et al. (2020), DDPM, eq. 13, https://arxiv.org/abs/2006.11239. In the left tail, where every bin
    is put by symmetry, with lower edge b and upper edge a, log P = log Φ(a) + log(1 - e^{log Φ(b) - log Φ(a)}).

    Means and log-scales on the scale of [-1, 1]: [*batch, *event].

    Example:
        >>> d = DiscretizedNormal(torch.zeros(5, 3), torch.zeros(5, 3), Space((3,), levels=17))
        >>> d.mean[0].tolist(), d.log_prob(d.sample()).shape
        ([8.0, 8.0, 8.0], torch.Size([5]))
    """

    def __init__(self, loc: Tensor, log_scale: Tensor, space: Space):
        shape = torch.broadcast_shapes(loc.shape, log_scale.shape)
        super().__init__(shape[: len(shape) - len(space.shape)], space)
        self.loc = loc
        self.log_scale = log_scale

    def log_prob(self, value: Tensor) -> Tensor:
        """log P(x) in nats, [...]."""
        lower, upper = _edges(value, self.levels, self.loc.dtype)
        inverse = torch.exp(-self.log_scale)
        a, b = (upper - self.loc) * inverse, (lower - self.loc) * inverse
        right = a + b > 0
        a, b = torch.where(right, -b, a), torch.where(right, -a, b)
        log_a: Tensor = _LogNormalCdf.apply(a)  # pyright: ignore[reportAssignmentType]
        gap = (log_a - _LogNormalCdf.apply(b)).clamp_min(torch.finfo(a.dtype).tiny)
        return self._sum(log_a + torch.log(-torch.expm1(-gap)))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """The value nearest to a draw of the normal."""
        with torch.no_grad():
            shape = self._extended_shape(torch.Size(sample_shape))
            noise = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
            return _nearest(self.loc + self.log_scale.exp() * noise, self.levels).to(self.space.dtype)

    @property
    def mean(self) -> Tensor:
        return _mean_value(torch.special.ndtr, self.loc, self.log_scale, self.levels)

    @property
    def mode(self) -> Tensor:
        """The value nearest to the mean of the normal (the tails' mass at the edges aside)."""
        return _nearest(self.loc, self.levels).to(self.space.dtype)


class _LogNormalCdf(torch.autograd.Function):
    """log Φ(x), with its gradient φ(x) / Φ(x) right in the far left tail too, where torch's own (2.13) is not."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return torch.special.log_ndtr(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        (x,) = ctx.saved_tensors
        return grad * math.sqrt(2 / math.pi) / torch.special.erfcx(-x / math.sqrt(2))


def _edges(value: Tensor, levels: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The edges of the values' bins on the scale of [-1, 1], the outer ones far away."""
    s = to_unit(value.to(dtype), levels)
    half = unit_bin(levels) / 2
    return torch.where(value == 0, -FAR, s - half), torch.where(value == levels - 1, FAR, s + half)


def _nearest(s: Tensor, levels: int) -> Tensor:
    """The pixel value nearest to s in [-1, 1], not cast."""
    return from_unit(s, levels).round().clamp(0, levels - 1)


def _mean_value(cdf: Callable[[Tensor], Tensor], loc: Tensor, log_scale: Tensor, levels: int) -> Tensor:
    """E[k] = Σ_j P(k >= j) over j = 1 ... levels - 1, with P(k >= j) = cdf((loc - edge_j) / s) for symmetric noise."""
    inverse = torch.exp(-log_scale)
    total = torch.zeros_like(loc * inverse)
    for j in range(1, levels):
        total = total + cdf((loc - to_unit(j - 0.5, levels)) * inverse)
    return total


class LogisticMixture(Pixels):
    r"""A mixture of discretized logistics for all channels of a pixel together, each after the ones before it.

    .. math::
        P(x) = \sum_m \pi_m \prod_c \left[\sigma((x_c + 1/2 - \mu_{mc}) / s_{mc})
               - \sigma((x_c - 1/2 - \mu_{mc}) / s_{mc})\right], \quad
        \mu_{mc} = \mathrm{loc}_{mc} + \sum_{j < c} \alpha_{mcj}\, x_j

    The lowest value takes the left tail, the highest the right one. Salimans et al. (2017), PixelCNN++,
    sections 2.1 and 2.2, https://arxiv.org/abs/1701.05517; as in its code one component is chosen for the whole
    pixel. Later channels couple to the rounded earlier ones, in sampling too.

    Of an event [C, *grid] (or [*grid], C = 1), on the scale of [-1, 1], with M components:
    logits [*batch, M, *grid], loc and log_scale [*batch, M, C, *grid], coupling (α, in the order
    21, 31, 32, ...) [*batch, M, C(C-1)/2, *grid].

    Example:
        >>> zeros = torch.zeros(5, 10, 3, 8, 8)
        >>> d = LogisticMixture(zeros[:, :, 0], zeros, zeros, zeros, Space((3, 8, 8), levels=256))
        >>> d.log_prob(d.sample((7,))).shape
        torch.Size([7, 5])
    """

    def __init__(self, logits: Tensor, loc: Tensor, log_scale: Tensor, coupling: Tensor, space: Space):
        grid_dims = len(space.shape) - 1 if len(space.shape) == 3 else len(space.shape)
        self.channel = -grid_dims - 1  # the channels' axis; in logits and densities of pixels, the components'
        self.component = self.channel - 1  # the components' axis
        super().__init__(logits.shape[: logits.dim() + self.channel], space)
        self.logits = logits
        self.loc = loc
        self.log_scale = log_scale
        self.coupling = coupling

    def log_prob(self, value: Tensor) -> Tensor:
        """log P(x) in nats, [...]."""
        x = value if len(self.space.shape) == 3 else value.unsqueeze(self.channel)  # [..., C, *grid]
        marks = to_unit(x.to(self.loc.dtype), self.levels), *_edges(x, self.levels, self.loc.dtype)
        s, lower, upper = (m.unsqueeze(self.component).unbind(self.channel) for m in marks)  # C of [..., 1, *grid]
        loc, log_scale, coupling = (p.unbind(self.channel) for p in (self.loc, self.log_scale, self.coupling))
        joint = F.log_softmax(self.logits, self.channel)  # log P(m, x_1 ... x_c), [..., M, *grid]
        for c in range(len(s)):
            joint = joint + _log_logistic_mass(lower[c], upper[c], _coupled(loc[c], coupling, s[:c]), log_scale[c])
        pixels = torch.logsumexp(joint, self.channel)  # [..., *grid]
        return pixels.sum(tuple(range(self.channel + 1, 0))) if self.channel < -1 else pixels

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with torch.no_grad():
            shape = self._extended_shape(torch.Size(sample_shape))
            chosen = _pick(self.logits, self._one_channel(shape), self.channel)
            u = torch.rand(self._all_channels(shape), dtype=self.loc.dtype, device=self.loc.device)
            return self._draw(chosen, torch.logit(u, eps=torch.finfo(u.dtype).eps / 2))  # u may be 0

    @property
    def mean(self) -> Tensor:
        """The expected value; exact for a first channel, while later ones couple to the components' means of it."""
        loc, log_scale, coupling = (p.unbind(self.channel) for p in (self.loc, self.log_scale, self.coupling))
        means: list[Tensor] = []  # of each component, [..., M, *grid]
        for c in range(len(loc)):
            mean = _coupled(loc[c], coupling, [to_unit(m, self.levels) for m in means])
            means.append(_mean_value(torch.sigmoid, mean, log_scale[c], self.levels))
        weights = self.logits.softmax(self.channel)
        return self._as_event([(weights * m).sum(self.channel) for m in means])

    @property
    def mode(self) -> Tensor:
        """The value nearest to the mean of the heaviest component: the limit of temperature 0."""
        with torch.no_grad():
            chosen = self.logits.argmax(self.channel, keepdim=True)
            return self._draw(chosen, torch.zeros_like(self.loc.select(self.component, 0)))

    def _draw(self, chosen: Tensor, noise: Tensor) -> Tensor:
        """Components [..., 1, *grid] and logistic noise [..., C, *grid] -> the event."""
        index = chosen.unsqueeze(self.channel)
        parameters = (_take(p, index, self.component) for p in (self.loc, self.log_scale, self.coupling))
        loc, log_scale, coupling = (p.unbind(self.channel) for p in parameters)
        values: list[Tensor] = []
        for c, e in enumerate(noise.unbind(self.channel)):
            mean = _coupled(loc[c], coupling, [to_unit(v, self.levels) for v in values])
            values.append(_nearest(mean + log_scale[c].exp() * e, self.levels))
        return self._as_event(values).to(self.space.dtype)

    def _as_event(self, channels: list[Tensor]) -> Tensor:
        return torch.stack(channels, self.channel) if len(self.space.shape) == 3 else channels[0]

    def _one_channel(self, shape: torch.Size) -> list[int]:
        """[..., *event] -> [..., *grid]."""
        return [*shape[: len(shape) - len(self.space.shape)], *self.loc.shape[self.loc.dim() + self.channel + 1 :]]

    def _all_channels(self, shape: torch.Size) -> list[int]:
        """[..., *event] -> [..., C, *grid]."""
        return [*shape[: len(shape) - len(self.space.shape)], *self.loc.shape[self.loc.dim() + self.channel :]]


def _coupled(loc: Tensor, coupling: Sequence[Tensor], earlier: Sequence[Tensor]) -> Tensor:
    """The mean of the channel after the earlier ones, which are in [-1, 1]; `coupling` in the order 21, 31, 32, ..."""
    first = len(earlier) * (len(earlier) - 1) // 2
    for j, s in enumerate(earlier):
        loc = loc + coupling[first + j] * s
    return loc


def _log_logistic_mass(lower: Tensor, upper: Tensor, loc: Tensor, log_scale: Tensor) -> Tensor:
    r"""log(σ(a) - σ(b)) = log σ(a) + log σ(-b) + log(1 - e^{b - a}), which holds for bins of any width anywhere."""
    inverse = torch.exp(-log_scale)
    a, b = (upper - loc) * inverse, (lower - loc) * inverse
    return F.logsigmoid(a) + F.logsigmoid(-b) + torch.log(-torch.expm1((lower - upper) * inverse))


def closed_kl(q: Distribution, p: Distribution) -> Tensor | None:
    """KL(q || p) in nats, [...]; None where no closed form is known."""
    try:
        return kl_divergence(q, p)
    except NotImplementedError:
        return None


def kl_per_dimension(q: Distribution, p: Distribution) -> Tensor | None:
    """KL(q || p) of every element of the event in nats, [..., *event]; None unless both have independent elements.

    Example:
        >>> q, p = (Independent(Normal(torch.full((5, 2), m), 1.0), 1) for m in (0.0, 2.0))
        >>> kl_per_dimension(q, p)[0]
        tensor([2., 2.])
    """
    if isinstance(q, Independent) and isinstance(p, Independent):
        same = q.reinterpreted_batch_ndims == p.reinterpreted_batch_ndims
        return closed_kl(q.base_dist, p.base_dist) if same and not q.base_dist.event_shape else None
    if isinstance(q, Categorical) and isinstance(p, Categorical):
        return _categorical_terms(q, p)
    if isinstance(q, Bernoulli) and isinstance(p, Bernoulli):
        return _bernoulli_terms(q, p)
    return None


def _categorical_terms(q: Categorical, p: Categorical) -> Tensor:
    return (q.log_probs.exp() * (q.log_probs - p.log_probs)).sum(q.axis)


def _bernoulli_terms(q: Bernoulli, p: Bernoulli) -> Tensor:
    return q.logits.sigmoid() * (q.logits - p.logits) + _softplus(p.logits) - _softplus(q.logits)


@register_kl(Categorical, Categorical)
def _categorical_kl(q: Categorical, p: Categorical) -> Tensor:
    return q._sum(_categorical_terms(q, p))


@register_kl(Bernoulli, Bernoulli)
def _bernoulli_kl(q: Bernoulli, p: Bernoulli) -> Tensor:
    return q._sum(_bernoulli_terms(q, p))


@register_kl(MultivariateNormal, Independent)
def _full_diagonal_kl(q: MultivariateNormal, p: Independent) -> Tensor:
    r"""½ Σ_d [(‖L_d‖² + (μ_d - m_d)²) / s_d² - 1] + Σ_d (log s_d - log L_dd), with q = N(μ, L Lᵀ), p = N(m, s²)."""
    normal = _only_normal(p)
    L = q.scale_tril
    square = (L**2).sum(-1) + (q.loc - normal.loc) ** 2
    terms = 0.5 * (square / normal.scale**2 - 1) + normal.scale.log() - L.diagonal(dim1=-2, dim2=-1).log()
    return terms.sum(-1)


@register_kl(Independent, MultivariateNormal)
def _diagonal_full_kl(q: Independent, p: MultivariateNormal) -> Tensor:
    normal = _only_normal(q)
    full = MultivariateNormal(normal.loc, scale_tril=torch.diag_embed(normal.scale), validate_args=False)
    return kl_divergence(full, p)


def _only_normal(d: Independent) -> Normal:
    """The base of a vector of independent normals. Raises NotImplementedError, as torch does, for another one."""
    if not isinstance(d.base_dist, Normal) or d.reinterpreted_batch_ndims != 1:
        raise NotImplementedError("the KL with a full normal is closed for a vector of independent normals alone")
    return d.base_dist


@singledispatch
def tempered(distribution: Distribution, t: float) -> Distribution:
    """The distribution at temperature t: the standard deviation of its noise times t, its logits divided by t.

    t = 1 changes nothing and t = 0 is the mode. It is not p(x)^(1/t).

    Example:
        >>> tempered(Normal(torch.tensor(3.0), 1.0), 0.5).stddev
        tensor(0.5000)
    """
    raise NotImplementedError(f"tempered has no rule for {type(distribution).__name__}")


@singledispatch
def detached(distribution: Any) -> Any:
    """The same distribution, its parameters cut from the graph."""
    raise NotImplementedError(f"detached has no rule for {type(distribution).__name__}")


@tempered.register
def _(d: Normal, t: float) -> Distribution:
    return Normal(d.loc, d.scale * t, validate_args=False)


@detached.register
def _(d: Normal) -> Normal:
    return Normal(d.loc.detach(), d.scale.detach(), validate_args=False)


@tempered.register
def _(d: Independent, t: float) -> Distribution:
    base = tempered(d.base_dist, t)
    return Independent(base, d.reinterpreted_batch_ndims, validate_args=False)


@detached.register
def _(d: Independent) -> Independent:
    return Independent(detached(d.base_dist), d.reinterpreted_batch_ndims, validate_args=False)


@tempered.register
def _(d: MultivariateNormal, t: float) -> Distribution:
    return MultivariateNormal(d.loc, scale_tril=d.scale_tril * t, validate_args=False)


@detached.register
def _(d: MultivariateNormal) -> MultivariateNormal:
    return MultivariateNormal(d.loc.detach(), scale_tril=d.scale_tril.detach(), validate_args=False)


@tempered.register
def _(d: TorchCategorical, t: float) -> Distribution:
    if t > 0:
        return TorchCategorical(logits=d.logits / t, validate_args=False)
    heaviest = F.one_hot(d.logits.argmax(-1), d.logits.shape[-1]).to(d.logits)
    return TorchCategorical(probs=heaviest, validate_args=False)


@detached.register
def _(d: TorchCategorical) -> TorchCategorical:
    return TorchCategorical(logits=d.logits.detach(), validate_args=False)


@tempered.register
def _(d: MixtureSameFamily, t: float) -> Distribution:
    weights: Any = tempered(d.mixture_distribution, t)
    return MixtureSameFamily(weights, tempered(d.component_distribution, t), validate_args=False)


@detached.register
def _(d: MixtureSameFamily) -> MixtureSameFamily:
    parts = detached(d.mixture_distribution), detached(d.component_distribution)
    return MixtureSameFamily(*parts, validate_args=False)


@tempered.register
def _(d: Point, t: float) -> Distribution:
    return d


@detached.register
def _(d: Point) -> Point:
    return Point(d.value.detach(), len(d.event_shape))


@tempered.register
def _(d: Bernoulli, t: float) -> Distribution:
    return Bernoulli(d.logits / t, d.space) if t > 0 else _at_mode(d)


@detached.register
def _(d: Bernoulli) -> Bernoulli:
    return Bernoulli(d.logits.detach(), d.space)


@tempered.register
def _(d: Dequantized, t: float) -> Distribution:
    return Dequantized(tempered(d.base, t), d.space) if t > 0 else _at_mode(d)


@detached.register
def _(d: Dequantized) -> Dequantized:
    return Dequantized(detached(d.base), d.space)


@tempered.register
def _(d: Noiseless, t: float) -> Distribution:
    return d


@detached.register
def _(d: Noiseless) -> Noiseless:
    return Noiseless(d.centre.detach(), d.space)


@tempered.register
def _(d: Categorical, t: float) -> Distribution:
    return Categorical(d.logits / t, d.space) if t > 0 else _at_mode(d)


@detached.register
def _(d: Categorical) -> Categorical:
    return Categorical(d.logits.detach(), d.space)


@tempered.register
def _(d: DiscretizedNormal, t: float) -> Distribution:
    return DiscretizedNormal(d.loc, d.log_scale + math.log(t), d.space) if t > 0 else _at_mode(d)


@detached.register
def _(d: DiscretizedNormal) -> DiscretizedNormal:
    return DiscretizedNormal(d.loc.detach(), d.log_scale.detach(), d.space)


@tempered.register
def _(d: LogisticMixture, t: float) -> Distribution:
    if t == 0:
        return _at_mode(d)
    return LogisticMixture(d.logits / t, d.loc, d.log_scale + math.log(t), d.coupling, d.space)


@detached.register
def _(d: LogisticMixture) -> LogisticMixture:
    logits, loc, log_scale, coupling = (p.detach() for p in (d.logits, d.loc, d.log_scale, d.coupling))
    return LogisticMixture(logits, loc, log_scale, coupling, d.space)


def truncated(d: Distribution, top_k: int | None = None, top_p: float | None = None) -> Distribution:
    """Only the k likeliest values of each element, and only the fewest whose probabilities add up to top_p.

    With ties the first values stay. Holtzman et al. (2020), https://arxiv.org/abs/1904.09751, eq. 2 and 3. Raises
    ModelError for another distribution than Categorical and binary Bernoulli, and outside k >= 1, 0 < p <= 1.

    Example:
        >>> d = Categorical(torch.tensor([[0.0, 2.0, 1.0]]), Space((), levels=3))
        >>> truncated(d, top_k=2).log_probs.exp()
        tensor([[0.0000, 0.7311, 0.2689]])
    """
    check_truncation(top_k, top_p)
    if isinstance(d, Point):  # temperature 0
        return d
    if isinstance(d, Bernoulli) and d.levels == 2:
        axis = -len(d.event_shape) - 1
        d = Categorical(torch.stack([torch.zeros_like(d.logits), d.logits], axis), d.space)
    if not isinstance(d, Categorical):
        raise ModelError(
            "top-k and top-p need a probability of each value (families.Categorical, or families.Bernoulli of binary "
            f"images), and {type(d).__name__} has none"
        )
    p, order = torch.sort(d.logits.softmax(d.axis), dim=d.axis, descending=True, stable=True)
    rank = torch.arange(d.levels, device=p.device).view(-1, *(1 for _ in d.event_shape))
    keep = torch.ones_like(p, dtype=torch.bool) if top_k is None else (rank < top_k).expand_as(p)
    if top_p is not None:
        keep = keep & (p.cumsum(d.axis) - p < top_p)  # the first always
    keep = torch.zeros_like(keep).scatter(d.axis, order, keep)
    return Categorical(d.logits.masked_fill(~keep, -FAR), d.space)


def check_truncation(top_k: int | None, top_p: float | None) -> None:
    """Raise ModelError outside k >= 1, 0 < p <= 1."""
    if top_k is not None and not (isinstance(top_k, int) and top_k >= 1):
        raise ModelError(f"top-k: expected a whole number of at least 1, got {top_k}")
    if top_p is not None and not 0 < top_p <= 1:
        raise ModelError(f"top-p: expected a number above 0 and of at most 1, got {top_p}")


def _at_mode(d: Any) -> Point:
    return Point(d.mode, len(d.event_shape))

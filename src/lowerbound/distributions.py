"""What torch.distributions lacks: distributions over pixel values and codes, their KLs, temperature, detaching.

Every one is over the events of a `Space`: `log_prob` takes whole numbers in [0, levels) and returns nats summed over
the event; `sample` returns them in the space's type; `mean` is in pixel values, not rounded. Noise is drawn by
torch.rand in the shape [*sample, *batch, *event], so that it can be keyed by image. Nothing is validated and nothing
waits for the device. Outside this file nobody writes a normal log-density or a KL.
"""

import math
from collections.abc import Sequence
from functools import singledispatch
from typing import Any

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
)

from lowerbound.models.base import Space
from lowerbound.units import from_unit, to_unit, unit_bin

FAR = 1e9  # in place of infinity, whose product with a zero gradient is not a number


class Pixels(Distribution):
    """A distribution over the events of a space; abstract."""

    arg_constraints = {}  # noqa: RUF012 (torch's name and type)

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

    arg_constraints = {}  # noqa: RUF012
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
        return (from_unit(self.base.mean, self.levels + 1) - 0.5).clamp(0, self.levels - 1)

    @property
    def mode(self) -> Tensor:
        return self._bin(self.base.mode)


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
    if isinstance(q, Independent) and isinstance(p, Independent) and _factorizes(q) and _factorizes(p):
        same = q.reinterpreted_batch_ndims == p.reinterpreted_batch_ndims
        return closed_kl(q.base_dist, p.base_dist) if same else None
    return None


def _factorizes(d: Independent) -> bool:
    return not d.base_dist.event_shape


def _normal(mean: Tensor, scale: Tensor, event_dims: int) -> Independent:
    return Independent(Normal(mean, scale, validate_args=False), event_dims, validate_args=False)


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


def _at_mode(d: Any) -> Point:
    return Point(d.mode, len(d.event_shape))

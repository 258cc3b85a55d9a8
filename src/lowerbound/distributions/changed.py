"""Distributions changed: at a temperature, cut from the graph, truncated."""

import math
from functools import singledispatch
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import distributions as td
from torch.distributions import Distribution, Independent, MixtureSameFamily

from lowerbound.distributions.discretized import DiscretizedNormal, LogisticMixture
from lowerbound.distributions.flow import Bent
from lowerbound.distributions.mixture import NormalMixture
from lowerbound.distributions.normal import Choice, LowRankNormal, MultivariateNormal, Normal
from lowerbound.distributions.pixels import FAR, Bernoulli, Categorical, Dequantized, Noiseless, Point
from lowerbound.errors import ModelError


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
def _(d: td.Normal, t: float) -> Distribution:
    return Normal(d.loc, d.scale * t, validate_args=False)


@detached.register
def _(d: td.Normal) -> Normal:
    return Normal(d.loc.detach(), d.scale.detach(), validate_args=False)


@tempered.register
def _(d: Independent, t: float) -> Distribution:
    base = tempered(d.base_dist, t)
    return Independent(base, d.reinterpreted_batch_ndims, validate_args=False)


@detached.register
def _(d: Independent) -> Independent:
    return Independent(detached(d.base_dist), d.reinterpreted_batch_ndims, validate_args=False)


@tempered.register
def _(d: td.MultivariateNormal, t: float) -> Distribution:
    return MultivariateNormal(d.loc, scale_tril=d.scale_tril * t, validate_args=False)


@detached.register
def _(d: td.MultivariateNormal) -> MultivariateNormal:
    return MultivariateNormal(d.loc.detach(), scale_tril=d.scale_tril.detach(), validate_args=False)


@tempered.register
def _(d: td.LowRankMultivariateNormal, t: float) -> Distribution:
    if t == 0:
        return _at_mode(d)
    W, variance = d._unbroadcasted_cov_factor, d._unbroadcasted_cov_diag
    return LowRankNormal(d.loc, W * t, variance * t**2, validate_args=False)


@detached.register
def _(d: td.LowRankMultivariateNormal) -> LowRankNormal:
    W, variance = d._unbroadcasted_cov_factor.detach(), d._unbroadcasted_cov_diag.detach()
    return LowRankNormal(d.loc.detach(), W, variance, validate_args=False)


@tempered.register
def _(d: Bent, t: float) -> Distribution:
    return Bent(tempered(d.base, t), d.transform)  # pyright: ignore[reportArgumentType]


@detached.register
def _(d: Bent) -> Bent:
    return Bent(detached(d.base), d.transform.detached())


@tempered.register
def _(d: td.Categorical, t: float) -> Distribution:
    if t > 0:
        return Choice(logits=d.logits / t, validate_args=False)
    heaviest = F.one_hot(d.logits.argmax(-1), d.logits.shape[-1]).to(d.logits)
    return Choice(probs=heaviest, validate_args=False)


@detached.register
def _(d: td.Categorical) -> Choice:
    return Choice(logits=d.logits.detach(), validate_args=False)


@tempered.register
def _(d: MixtureSameFamily, t: float) -> Distribution:
    weights: Any = tempered(d.mixture_distribution, t)
    return MixtureSameFamily(weights, tempered(d.component_distribution, t), validate_args=False)


@detached.register
def _(d: MixtureSameFamily) -> MixtureSameFamily:
    parts = detached(d.mixture_distribution), detached(d.component_distribution)
    return MixtureSameFamily(*parts, validate_args=False)


@tempered.register
def _(d: NormalMixture, t: float) -> Distribution:
    if t == 0:
        return _at_mode(d)
    weights: Any = tempered(d.mixture_distribution, t)
    return NormalMixture(weights.logits, d.loc, d.scale * t)


@detached.register
def _(d: NormalMixture) -> NormalMixture:
    return NormalMixture(d.logits.detach(), d.loc.detach(), d.scale.detach())


@tempered.register
def _(d: Point, t: float) -> Distribution:
    return d


@detached.register
def _(d: Point) -> Point:
    return Point(d.value.detach(), len(d.event_shape))


@tempered.register
def _(d: Bernoulli | Categorical, t: float) -> Distribution:
    return type(d)(d.logits / t, d.space) if t > 0 else _at_mode(d)


@detached.register
def _(d: Bernoulli | Categorical) -> Distribution:
    return type(d)(d.logits.detach(), d.space)


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
        >>> from lowerbound.space import Space
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


class Tempering(NamedTuple):
    """What is done to a distribution before a value is drawn from it: first the temperature, then the truncation."""

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None

    def __call__(self, d: Distribution) -> Distribution:
        d = d if self.temperature == 1 else tempered(d, self.temperature)
        return d if self.top_k is None and self.top_p is None else truncated(d, self.top_k, self.top_p)


def check_truncation(top_k: int | None, top_p: float | None) -> None:
    """Raise ModelError outside k >= 1, 0 < p <= 1."""
    if top_k is not None and not (isinstance(top_k, int) and top_k >= 1):
        raise ModelError(f"top-k: expected a whole number of at least 1, got {top_k}")
    if top_p is not None and not 0 < top_p <= 1:
        raise ModelError(f"top-p: expected a number above 0 and of at most 1, got {top_p}")


def _at_mode(d: Any) -> Point:
    return Point(d.mode, len(d.event_shape))

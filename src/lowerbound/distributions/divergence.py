"""Kullback-Leibler divergences in closed form."""

import torch
from torch import Tensor
from torch import distributions as td
from torch.distributions import Distribution, Independent, kl_divergence, register_kl

from lowerbound.distributions.normal import MultivariateNormal
from lowerbound.distributions.pixels import Bernoulli, Categorical, _softplus


def closed_kl(q: Distribution, p: Distribution) -> Tensor | None:
    """KL(q || p) in nats, [...]; None where no closed form is known."""
    try:
        return kl_divergence(q, p)
    except NotImplementedError:
        return None


def kl_per_dimension(q: Distribution, p: Distribution) -> Tensor | None:
    """KL(q || p) of every element of the event in nats, [..., *event]; None unless both have independent elements.

    Example:
        >>> from lowerbound.distributions import Normal
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


@register_kl(td.MultivariateNormal, Independent)
def _full_diagonal_kl(q: td.MultivariateNormal, p: Independent) -> Tensor:
    r"""½ Σ_d [(‖L_d‖² + (μ_d - m_d)²) / s_d² - 1] + Σ_d (log s_d - log L_dd), with q = N(μ, L Lᵀ), p = N(m, s²)."""
    normal = _only_normal(p)
    L = q.scale_tril
    square = (L**2).sum(-1) + (q.loc - normal.loc) ** 2
    terms = 0.5 * (square / normal.scale**2 - 1) + normal.scale.log() - L.diagonal(dim1=-2, dim2=-1).log()
    return terms.sum(-1)


@register_kl(td.LowRankMultivariateNormal, Independent)
def _low_rank_diagonal_kl(q: td.LowRankMultivariateNormal, p: Independent) -> Tensor:
    r"""½ Σ_d [(v_d + (μ_d - m_d)²) / s_d² - 1 + 2 log s_d] - ½ log |Σ|, v being the diagonal of Σ."""
    normal = _only_normal(p)
    log_det = q._unbroadcasted_cov_diag.log().sum(-1) + 2 * _log_diagonal(q._capacitance_tril)
    terms = (q.variance + (q.loc - normal.loc) ** 2) / normal.scale**2 - 1 + 2 * normal.scale.log()
    return 0.5 * (terms.sum(-1) - log_det)


def _log_diagonal(L: Tensor) -> Tensor:
    return L.diagonal(dim1=-2, dim2=-1).log().sum(-1)


@register_kl(Independent, td.MultivariateNormal)
def _diagonal_full_kl(q: Independent, p: td.MultivariateNormal) -> Tensor:
    normal = _only_normal(q)
    full = MultivariateNormal(normal.loc, scale_tril=torch.diag_embed(normal.scale), validate_args=False)
    return kl_divergence(full, p)


def _only_normal(d: Independent) -> td.Normal:
    """The base of a vector of independent normals. Raises NotImplementedError, as torch does, for another one."""
    if not isinstance(d.base_dist, td.Normal) or d.reinterpreted_batch_ndims != 1:
        raise NotImplementedError("the KL with a full normal is closed for a vector of independent normals alone")
    return d.base_dist

"""Latents of one level as symbols of a channel.

A real latent is one of 2^14 bins that are alike under a normal, and stands in the middle of its bin: under its prior
given the coarser levels (HiLLoC's dynamic discretization), or, where that is a mixture, under the normal of its mean
and variance. Whole numbers are coded as they are.

A mixture is coded by the chain rule, one element after another given the earlier ones, each a mixture of normals:

    p(z_d | z_<d) = Σ_k r_k N(z_d; μ_kd, σ_kd²),  r_k ∝ π_k Π_{e<d} N(z_e; μ_ke, σ_ke²)
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, MixtureSameFamily, Normal

from lowerbound.codec.channel import Channel
from lowerbound.codec.elementary import exp, log, normal
from lowerbound.codec.in_order import spelled
from lowerbound.codec.symbols import BINS, CODABLE, coded, coded_in_bins, digits_of, edges_of_bins, in_bin
from lowerbound.distributions import Bernoulli, Categorical, Point
from lowerbound.model import Ordered
from lowerbound.priors import Given
from lowerbound.priors.vamp import Mixture as VampMixture
from lowerbound.space import Space


class Normals(NamedTuple):
    """Mean and standard deviation of independent normals, float64 [n, D]."""

    mean: np.ndarray
    scale: np.ndarray


class Mixed(NamedTuple):
    """A mixture of K of them: log π [n or 1, K], and [n or 1, K, D]."""

    log_weight: np.ndarray
    mean: np.ndarray
    scale: np.ndarray

    def moments(self, n: int) -> Normals:
        """Of each element by itself."""
        weight = _shares(self.log_weight)[..., None]
        mean = _total(weight * self.mean)
        square = _total(weight * (self.scale**2 + (self.mean - mean[:, None]) ** 2))
        return Normals(*(np.broadcast_to(part, (n, part.shape[1])) for part in (mean, np.sqrt(square))))


def codable(d: Distribution, space: Space) -> bool:
    """Whether latents of a space can be coded by it."""
    if space.levels is None:
        return _parts(d, 1) is not None
    return isinstance(d, (*CODABLE, Point)) or (isinstance(d, Given) and isinstance(d.model, Ordered))


def by_posterior(
    channel: Channel, q: Distribution, p: Distribution, space: Space, n: int, known: np.ndarray | None = None
) -> np.ndarray:
    """The symbols of the latents of n events by q, in the bins of their prior p: [n, D]."""
    if isinstance(q, Point):
        return q.value.reshape(len(q.value), -1)[:n].cpu().numpy().astype(np.int64)
    return _by(channel, q, space, n, known) if space.levels is not None else _real(channel, q, bins(p, n), n, known)


def by_prior(
    channel: Channel, p: Distribution, space: Space, n: int, rows: int, known: np.ndarray | None = None
) -> np.ndarray:
    """The same by the prior itself. rows: as many events as a network sees."""
    if space.levels is None:
        if isinstance(_parts(p, n), Normals):
            return channel.even(n * space.dims, BINS, None if known is None else known.ravel()).reshape(n, -1)
        return _real(channel, p, bins(p, n), n, known)
    if isinstance(p, Given) and isinstance(p.model, Ordered):
        whole = None if known is None else known.reshape(n, *space.shape)
        return spelled(p.model, channel, n, rows, whole, p.parts or None).reshape(n, -1)
    return _by(channel, p, space, n, known)


def _by(channel: Channel, d: Distribution, space: Space, n: int, known: np.ndarray | None) -> np.ndarray:
    if not d.batch_shape:
        assert isinstance(d, Bernoulli | Categorical)
        d = type(d)(d.logits.expand(n, *d.logits.shape), space)
    return coded(d, channel, n, known)


def values(p: Distribution, space: Space, index: np.ndarray) -> np.ndarray:
    """Latents by their symbols [n, D]."""
    if space.levels is not None:
        return index
    mean, scale = bins(p, len(index))
    return mean + scale * in_bin(index)


def bins(p: Distribution, n: int) -> Normals:
    """Under which a prior's bins are alike."""
    parts = _parts(p, n)
    assert parts is not None
    return parts if isinstance(parts, Normals) else parts.moments(n)


def _parts(d: Distribution, n: int) -> Normals | Mixed | None:
    if _is_normal(d):
        return Normals(*(np.broadcast_to(part[:n], (n, part.shape[1])) for part in _moments(d)))
    if isinstance(d, VampMixture) and d.allowed is None and _is_normal(d.components):
        parts = [part[None] for part in _moments(d.components)]
        return Mixed(np.zeros(parts[0].shape[:2]), *parts)
    if isinstance(d, MixtureSameFamily) and _is_normal(d.component_distribution):
        K, (mean, scale) = d.component_distribution.batch_shape[-1], _moments(d.component_distribution)
        weights = _flat(d.mixture_distribution.logits, K)  # pyright: ignore[reportArgumentType]
        return Mixed(weights[:n], *(part.reshape(-1, K, part.shape[1])[:n] for part in (mean, scale)))
    return None


def _is_normal(d: Distribution) -> bool:
    return isinstance(d, Independent) and isinstance(d.base_dist, Normal)


def _moments(d: Distribution) -> list[np.ndarray]:
    """Loc and scale: [batch, D], of a batch of any axes."""
    base, D = d.base_dist, math.prod(d.event_shape)  # pyright: ignore[reportAttributeAccessIssue]
    return [_flat(part.expand(d.batch_shape + d.event_shape), D) for part in (base.loc, base.scale)]


def _flat(t: Tensor, D: int) -> np.ndarray:
    """Float64 [-1, D]."""
    return t.detach().double().cpu().reshape(-1, D).numpy()


def _real(channel: Channel, d: Distribution, alike: Normals, n: int, known: np.ndarray | None) -> np.ndarray:
    parts = _parts(d, n)
    if isinstance(parts, Mixed):
        return _mixed(channel, parts, alike, known)
    assert parts is not None
    raveled = None if known is None else known.ravel()
    mean, scale = (parts.mean - alike.mean) / alike.scale, parts.scale / alike.scale
    return coded_in_bins(mean.ravel(), scale.ravel(), channel, raveled).reshape(mean.shape)


def _mixed(channel: Channel, d: Mixed, alike: Normals, known: np.ndarray | None) -> np.ndarray:
    n, D = alike.mean.shape
    found, log_weight = np.empty((n, D), np.int64), np.broadcast_to(d.log_weight, (n, d.log_weight.shape[1]))
    for e in range(D):
        weight, mean, scale = _shares(log_weight), d.mean[:, :, e], d.scale[:, :, e]  # [n or 1, K]
        m, s = alike.mean[:, e : e + 1], alike.scale[:, e : e + 1]

        def below(k: np.ndarray) -> np.ndarray:
            edge = m + s * edges_of_bins(k)  # noqa: B023
            u = (edge[:, None] - mean[..., None]) / scale[..., None]  # noqa: B023
            total = _total(weight[..., None] * normal()(u))  # noqa: B023
            return np.where(k <= 0, 0.0, np.where(k >= 1 << BINS, 1.0, total))

        found[:, e] = channel.in_steps(below, digits_of(BINS), None if known is None else known[:, e])
        u = (m + s * in_bin(found[:, e : e + 1]) - mean) / scale
        log_weight = log_weight - 0.5 * u * u - log(scale)
    return found


def _shares(log_weight: np.ndarray) -> np.ndarray:
    """Normalized: [n, K]."""
    weight = exp(log_weight - log_weight.max(1, keepdims=True))
    return weight / np.cumsum(weight, 1)[:, -1:]


def _total(x: np.ndarray) -> np.ndarray:
    """Over K of [n, K, D], term by term."""
    return np.cumsum(x, 1)[:, -1]


def as_tensor(z: np.ndarray, space: Space, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Latents [n, D], as networks are given them: [n, *shape]."""
    t = torch.from_numpy(np.ascontiguousarray(z)).to(dtype if space.levels is None else space.dtype)
    return t.view(-1, *space.shape).to(device)

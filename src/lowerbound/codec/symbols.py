"""Distributions as symbols of a channel: what is written with one is read with the same.

Probabilities are those of the distributions' parameters by the functions of `elementary`, in float64. Sums are taken
term by term, in one order.
"""

import functools
import math
from functools import singledispatch
from typing import Any

import numpy as np
from torch import Tensor
from torch.distributions import Distribution

from lowerbound.codec.channel import Channel, intervals
from lowerbound.codec.elementary import Increasing, exp, logistic, logistic_table, normal
from lowerbound.distributions import Bernoulli, Blurred, Categorical, DiscretizedNormal, LogisticMixture
from lowerbound.errors import ModelError
from lowerbound.units import to_unit

MOST = 2**21  # probabilities that are held at once
BINS = 14  # bits: a real latent is one of 2^14 bins, all alike under its prior
DIGIT = 4  # bits of a digit of a bin's number, at most
ALL = slice(None)
CODABLE = (Bernoulli, Blurred, Categorical, DiscretizedNormal, LogisticMixture)


def coded(p: Distribution, channel: Channel, n: int, x: np.ndarray | None = None, only: slice = ALL) -> np.ndarray:
    """The events of the first n of a batch of distributions, each flattened, through the channel: int64 [n, D].

    x: the events, where they are known and written. only: these of the D elements, where they are independent. Raises
    ModelError for a distribution whose values have no known probabilities.
    """
    held = math.prod(p.event_shape) * (p.levels + 1 if isinstance(p, Blurred | Categorical) else 64)
    rows = max(1, MOST // held)
    parts = (slice(start, min(start + rows, n)) for start in range(0, n, rows))
    return np.concatenate([_coded(p, channel, part, None if x is None else x[part], only) for part in parts])


@singledispatch
def _coded(p: Any, channel: Channel, rows: slice, x: np.ndarray | None, only: slice) -> np.ndarray:
    raise ModelError(f"values of a {type(p).__name__} can't be coded: their probabilities are not known one by one")


@_coded.register
def _(p: Bernoulli, channel: Channel, rows: slice, x: np.ndarray | None, only: slice) -> np.ndarray:
    zero = logistic(-_flat(p.logits, rows)[:, only])
    return _each(channel, np.stack([np.zeros_like(zero), zero, np.ones_like(zero)], -1), x)


@_coded.register
def _(p: Categorical, channel: Channel, rows: slice, x: np.ndarray | None, only: slice) -> np.ndarray:
    logits = _flat(p.logits, rows).reshape(rows.stop - rows.start, p.levels, -1)[:, :, only]
    weights = exp(logits - logits.max(1, keepdims=True))
    below = np.concatenate([np.zeros_like(weights[:, :1]), np.cumsum(weights, 1)], 1)
    return _each(channel, below.transpose(0, 2, 1), x)


@_coded.register
def _(p: Blurred, channel: Channel, rows: slice, x: np.ndarray | None, only: slice) -> np.ndarray:
    u = (_flat(p.centre, rows)[:, only, None] - np.arange(p.levels)) / float(p.r)
    weights = exp(-0.5 * (u * u - (u * u).min(-1, keepdims=True)))
    below = np.concatenate([np.zeros_like(weights[..., :1]), np.cumsum(weights, -1)], -1)
    return _each(channel, below, x)


@_coded.register
def _(p: DiscretizedNormal, channel: Channel, rows: slice, x: np.ndarray | None, only: slice) -> np.ndarray:
    loc, inverse = _flat(p.loc, rows)[:, only], exp(-_flat(p.log_scale, rows)[:, only])
    one = np.ones((loc.size, 1))
    known = None if x is None else x.ravel()
    bins = _Bins(normal(), one, loc.reshape(-1, 1), inverse.reshape(-1, 1), p.levels)
    return bins.coded(channel, known).reshape(loc.shape)


@_coded.register
def _(p: LogisticMixture, channel: Channel, rows: slice, x: np.ndarray | None, only: slice) -> np.ndarray:
    """One channel of all pixels after another; of each it is known by how much the components fit the earlier ones."""
    n, M, C = rows.stop - rows.start, p.logits.shape[p.channel], p.loc.shape[p.channel]
    pixels = math.prod(p.event_shape) // C
    logits = _pixels(_flat(p.logits, rows).reshape(n, M, pixels))  # [n · pixels, M]
    loc, log_scale, coupling = (
        [_pixels(each) for each in _flat(t, rows).reshape(n, M, t.shape[p.channel], pixels).transpose(2, 0, 1, 3)]
        for t in (p.loc, p.log_scale, p.coupling)
    )
    weights = _shares(exp(logits - logits.max(1, keepdims=True)))
    known = None if x is None else x.reshape(n, C, -1)
    found: list[np.ndarray] = []
    for c in range(C):
        mean = loc[c]
        for j, value in enumerate(found):
            mean = mean + coupling[c * (c - 1) // 2 + j] * to_unit(value[:, None], p.levels)
        bins = _Bins(logistic_table(), weights, mean, exp(-log_scale[c]), p.levels)
        found.append(bins.coded(channel, None if known is None else known[:, c].ravel()))
        weights = _shares(weights * bins.masses(found[-1]))
    return np.stack([value.reshape(n, -1) for value in found], 1).reshape(n, -1)


class _Bins:
    """A mixture of densities of one kind, cut into bins around each value; the outer ones take the tails.

    weights, loc, inverse: of M components, [N, M].
    """

    def __init__(self, cdf: Increasing, weights: np.ndarray, loc: np.ndarray, inverse: np.ndarray, levels: int):
        self.cdf, self.weights, self.loc, self.inverse, self.levels = cdf, weights, loc, inverse, levels

    def coded(self, channel: Channel, known: np.ndarray | None) -> np.ndarray:
        if self.levels <= 4:
            return channel.symbols(intervals(self._below(np.arange(self.levels + 1)[None])), known)
        B = math.isqrt(self.levels)
        return channel.in_steps(self._below, (-(-self.levels // B), B), known)

    def masses(self, value: np.ndarray) -> np.ndarray:
        """Of each component at a value [N]: [N, M]."""
        k = value[:, None] + np.arange(2)
        return np.concatenate([np.diff(self._of_one(m, k), axis=1) for m in range(self.loc.shape[1])], 1)

    def _below(self, k: np.ndarray) -> np.ndarray:
        """The probability of values below k [1 or N, K]: [N, K]."""
        total = np.zeros((len(self.loc), k.shape[1]))
        for m in range(self.loc.shape[1]):
            total = total + self.weights[:, m : m + 1] * self._of_one(m, k)
        return total

    def _of_one(self, m: int, k: np.ndarray) -> np.ndarray:
        found = self.cdf((to_unit(k - 0.5, self.levels) - self.loc[:, m : m + 1]) * self.inverse[:, m : m + 1])
        return np.where(k <= 0, 0.0, np.where(k >= self.levels, 1.0, found))


def _shares(weights: np.ndarray) -> np.ndarray:
    """Divided by their sum [N, M]; alike where that is 0."""
    total = np.cumsum(weights, 1)[:, -1:]
    return np.where(total > 0, weights / np.where(total > 0, total, 1.0), 1 / weights.shape[1])


def _each(channel: Channel, below: np.ndarray, x: np.ndarray | None) -> np.ndarray:
    """Elements by the probability below each of their values, [n, D, K + 1]: [n, D]."""
    n, D, K = below.shape
    return channel.symbols(intervals(below.reshape(n * D, K)), None if x is None else x.ravel()).reshape(n, D)


def _flat(t: Tensor, rows: slice) -> np.ndarray:
    """These rows of a batch, in float64: [n, -1]."""
    part = t[rows].detach().double().cpu().numpy()
    return part.reshape(len(part), -1)


def _pixels(each: np.ndarray) -> np.ndarray:
    """[n, M, pixels] -> [n · pixels, M]."""
    return each.transpose(0, 2, 1).reshape(-1, each.shape[1])


# ---- real numbers


@functools.cache
def _marks() -> np.ndarray:
    """Φ⁻¹ of the multiples of half a bin's mass, from 0 to 1: [2 · 2^BINS + 1]."""
    whole = 2 << BINS
    return normal().inverse(np.arange(whole + 1) / whole)


def in_bin(index: np.ndarray) -> np.ndarray:
    """The number of N(0, 1) that a bin stands for: that with half of its mass on either side."""
    return _marks()[1::2][index]


def edges_of_bins(k: np.ndarray) -> np.ndarray:
    """Of N(0, 1): where bin k begins, and, of the last one's number and 1, where that ends; -8 and 8 at the ends."""
    return _marks()[::2][k]


def digits_of(bits: int) -> tuple[int, ...]:
    """Of numbers of so many bits: as few values each as `DIGIT` bits have."""
    n = -(-bits // DIGIT)
    return tuple(1 << (bits * (i + 1) // n - bits * i // n) for i in range(n))


def coded_in_bins(mean: np.ndarray, scale: np.ndarray, channel: Channel, known: np.ndarray | None = None) -> np.ndarray:
    """Bins of N(0, 1), alike under it, with the masses that N(mean, scale²) has in them: int64 [n]."""

    def below(k: np.ndarray) -> np.ndarray:
        found = normal()((edges_of_bins(k) - mean[:, None]) / scale[:, None])
        return np.where(k <= 0, 0.0, np.where(k >= 1 << BINS, 1.0, found))

    return channel.in_steps(below, digits_of(BINS), known)

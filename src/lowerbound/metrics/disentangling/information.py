"""Scores by mutual information of a code's dimension and a factor, from histograms."""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import chdtri, entr

from lowerbound.errors import DataError
from lowerbound.metrics.disentangling.base import (
    SAID,
    Estimate,
    Floats,
    Kinds,
    Known,
    Score,
    Whole,
    factors_in_bins,
    in_bins,
    resampled,
)

BINS = 20
CHANCE = 10_000  # pairs without anything in common, of which one is taken to have
DRAWS = 20  # bootstrap draws of the images


def mig(codes: ArrayLike, factors: ArrayLike, kinds: Kinds = None, *, bins: int = BINS) -> Score:
    """Mutual information gap: the mean over factors k of (the largest I(z_j; v_k) - the second largest) / H(v_k).

    codes [N, D]; factors [N, F], NaN where one is missing; kinds: a Factor or a name of each, by default guessed. The
    matrix is I(z_j; v_k) / H(v_k). Raises DataError for what it can't be computed of.

    Chen et al. (2018), Isolating Sources of Disentanglement in VAEs, https://arxiv.org/abs/1802.04942
    """
    return _bootstrapped(Known.of("mig", codes, factors, kinds, least=bins, dims=2), bins, _gap)


def modularity(codes: ArrayLike, factors: ArrayLike, kinds: Kinds = None, *, bins: int = BINS) -> Score:
    """The mean over dimensions j of 1 - sum of m_jk² over all k but the largest / (the largest m_jk² (F - 1)), with
    m_jk = I(z_j; v_k); a dimension that says nothing counts 0. Arguments and matrix as of `mig`.

    Ridgeway & Mozer (2018), Learning Deep Disentangled Embeddings With the F-Statistic Loss,
    https://arxiv.org/abs/1802.05312
    """
    return _bootstrapped(Known.of("modularity", codes, factors, kinds, least=bins, several=True), bins, _modular)


def told(codes: ArrayLike, factors: ArrayLike, kinds: Kinds = None) -> Floats:
    """How much of each factor a dimension tells: I(z_j; v_k) / H(v_k) [D, F], less what histograms of so many images
    find in noise, and 0 where that may be all. Of few images the bins are fewer, so that a cell has 5 on average."""
    return told_of(Known.of("factors", codes, factors, kinds, least=BINS))


def told_of(known: Known) -> Floats:
    bins = min(BINS, max(2, int(np.sqrt(len(known.z) / 5))))
    coded, binned = _coded(known, bins), factors_in_bins(known, bins)
    informed, entropies = _informed(coded, binned, unbiased=True)
    return np.minimum(informed / np.maximum(entropies, 1e-12), 1)


def remark(known: Known) -> str:
    """Which dimensions tell which factors, and which factors are missing."""
    matrix, names = told_of(known), [factor.name for factor in known.kinds]
    sharing = ((matrix > 0.5 * matrix.max(0)) & (matrix > SAID)).sum(0)
    said = [f"{n} dimensions share {name}" for n, name in zip(sharing, names, strict=True) if n > 1]
    if untold := [name for n, name in zip(sharing, names, strict=True) if not n]:
        said.append(f"no dimension tells {', '.join(untold)}")
    for missing, name in zip(np.isnan(known.v).sum(0), names, strict=True):
        if missing:
            said.append(f"{name} is missing for {missing} images")
    return "; ".join(said) or "each factor has a dimension of its own"


def entropy(counts: Whole) -> float:
    return float(entr(counts / counts.sum()).sum())


def _coded(known: Known, bins: int) -> Whole:
    if bins < 2:
        raise DataError(f"bins={bins}; set 2 or more")
    return np.stack([in_bins(column, None, bins) for column in known.z.T], 1)


def _mutual(a: Whole, b: Whole, unbiased: bool) -> float:
    """I(a; b) = H(a) + H(b) - H(a, b), in nats."""
    ones, others, both = np.bincount(a), np.bincount(b), np.bincount(a * (b.max() + 1) + b)
    found = max(0.0, entropy(ones) + entropy(others) - entropy(both))
    met = (int((ones > 0).sum()), int((others > 0).sum()), int((both > 0).sum()))
    return _beyond_noise(found, *met, len(a)) if unbiased else found


def _beyond_noise(found: float, a: int, b: int, cells: int, n: int) -> float:
    """Less its bias, (cells - a - b + 1) / 2n of bins and cells that are met (Miller 1955); 0 where independence gives
    as much once in CHANCE: 2 n I is then chi-squared with (a - 1)(b - 1) degrees of freedom."""
    least = chdtri(max(1, (a - 1) * (b - 1)), 1 / CHANCE) / (2 * n)
    return found - (cells - a - b + 1) / (2 * n) if found > least else 0.0


def _informed(coded: Whole, binned: Whole, unbiased: bool = False) -> tuple[Floats, Floats]:
    """I(z_j; v_k) [D, F] and H(v_k) [F], in nats."""
    informed, entropies = np.zeros((coded.shape[1], binned.shape[1])), np.zeros(binned.shape[1])
    for k, column in enumerate(binned.T):
        rows = column >= 0
        entropies[k] = entropy(np.bincount(column[rows]))
        informed[:, k] = [_mutual(one[rows], column[rows], unbiased) for one in coded.T]
    return informed, entropies


# --8<-- [start:gap]
def _gap(informed: Floats, entropies: Floats) -> float:
    first, second = np.sort(informed, 0)[::-1][:2]
    return float(np.mean((first - second) / np.maximum(entropies, 1e-12)))
    # --8<-- [end:gap]


def _modular(informed: Floats, entropies: Floats) -> float:
    squares = informed**2
    top = squares.max(1)
    rest = (squares.sum(1) - top) / np.maximum(top, 1e-24) / (squares.shape[1] - 1)
    return float(np.where(top > 1e-24, 1 - rest, 0).mean())


def _bootstrapped(known: Known, bins: int, score: Callable[[Floats, Floats], float]) -> Score:
    coded, binned = _coded(known, bins), factors_in_bins(known, bins)
    informed, entropies = _informed(coded, binned)
    rows = [r for r in resampled(len(coded), DRAWS) if (binned[r] >= 0).any(0).all()]  # a rare factor may be missing
    found = Estimate.of(score(informed, entropies), [score(*_informed(coded[r], binned[r])) for r in rows])
    return Score(*found, informed / entropies, remark(known))

"""How a code's dimensions correspond to known factors of variation: functions of arrays, of whatever model they are.

codes [N, D] of numbers, factors [N, F] of numbers (NaN: missing), kinds: one per factor, "continuous", "circular"
(degrees) or "categorical".
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import entr

from lowerbound.errors import DataError

Kind = Literal["continuous", "circular", "categorical"]
Floats = NDArray[np.float64]
KINDS = ("continuous", "circular", "categorical")
DRAWS = 20  # bootstrap draws of the images


@dataclass(frozen=True)
class Score:
    """value: the score; low, high: 95 % of it, from the images' bootstrap or from splits; matrix [D, F]: what it was
    computed of; parts: further scores by name; remark: which dimensions tell which factors, by histograms."""

    value: float
    low: float
    high: float
    matrix: Floats
    parts: dict[str, float]
    remark: str


def mig(
    codes: ArrayLike, factors: ArrayLike, kinds: Sequence[Kind], names: Sequence[str] = (), *, bins: int = 20
) -> Score:
    """Mutual information gap: mean over factors k of (the largest I(z_j; v_k) - the second largest) / H(v_k), from
    histograms. The matrix is I(z_j; v_k) / H(v_k).

    Chen et al. (2018), Isolating Sources of Disentanglement, equation 6, https://arxiv.org/abs/1802.04942
    """
    z, v, named = _checked(codes, factors, kinds, names, bins)
    if z.shape[1] < 2:
        raise DataError("mig: the codes have 1 dimension, and a gap is between two; give codes of 2 or more")
    return _bootstrapped(z, v, kinds, named, bins, _gap)


def modularity(
    codes: ArrayLike, factors: ArrayLike, kinds: Sequence[Kind], names: Sequence[str] = (), *, bins: int = 20
) -> Score:
    """Mean over code dimensions j of 1 - sum of m_jk^2 over all k but the largest / (the largest m_jk^2 (F - 1)), with
    m_jk = I(z_j; v_k) from histograms; a dimension that says nothing counts 0. The matrix is I(z_j; v_k) / H(v_k).

    Ridgeway & Mozer (2018), Learning Deep Disentangled Embeddings, https://arxiv.org/abs/1802.05312
    """
    z, v, named = _checked(codes, factors, kinds, names, bins)
    _several("modularity", v)
    return _bootstrapped(z, v, kinds, named, bins, _modular)


def dci(
    codes: ArrayLike, factors: ArrayLike, kinds: Sequence[Kind], names: Sequence[str] = (), *, seeds: int = 2
) -> Score:
    """Disentanglement (the value), completeness and informativeness (parts), from the importances R_jk of boosted
    trees that predict each factor: D = sum_j rho_j (1 - H_F(R_jk / sum_k R_jk)), C = the same of columns with H_D,
    rho the share of the row or column; informativeness is the mean test score: accuracy of a category, R^2 of a number.
    Two thirds of the images train, the rest test; seeds: so many splits, over which the interval goes.

    Eastwood & Williams (2018), https://openreview.net/forum?id=By-7dz-AZ
    """
    z, v, named = _checked(codes, factors, kinds, names, 20)
    _several("dci", v)
    if z.shape[1] < 2:
        raise DataError("dci: the codes have 1 dimension, and completeness is among several; give codes of 2 or more")
    if seeds < 1:
        raise DataError(f"dci: seeds={seeds}; set 1 or more")
    fits = [_importances(z, v, kinds, seed) for seed in range(seeds)]
    values = np.array([_purity(matrix) for matrix, _ in fits])
    matrix = np.mean([matrix for matrix, _ in fits], 0)
    parts = {
        "completeness": float(np.mean([_purity(matrix.T) for matrix, _ in fits])),
        "informativeness": float(np.mean([told for _, told in fits])),
    }
    informed, entropies = _told(*_binned(z, v, kinds, 20))  # importances sum to 1 even where they predict nothing
    return _score(float(values.mean()), values, matrix, parts, _remark(informed / entropies, named, v))


def _several(name: str, v: Floats) -> None:
    if v.shape[1] < 2:
        raise DataError(
            f"{name}: there is 1 factor, and a dimension is told from others by two; give 2 or more, or mig"
        )


def _checked(
    codes: ArrayLike, factors: ArrayLike, kinds: Sequence[Kind], names: Sequence[str], least: int
) -> tuple[Floats, Floats, list[str]]:
    z, v = np.asarray(codes, np.float64), np.asarray(factors, np.float64)
    if z.ndim != 2 or v.ndim != 2 or len(z) != len(v):
        raise DataError(f"codes {z.shape} and factors {v.shape}: give [N, D] and [N, F] of the same N images")
    if not v.shape[1]:
        raise DataError("factors: there are none; give [N, F] with a column per factor")
    named = list(names) or [f"factor {k}" for k in range(v.shape[1])]
    if len(kinds) != v.shape[1] or len(named) != v.shape[1]:
        raise DataError(f"{v.shape[1]} factors, {len(kinds)} kinds and {len(named)} names: give one of each per factor")
    if not np.isfinite(z).all():
        raise DataError("codes: some are not finite; leave those images out")
    for column, kind, name in zip(v.T, kinds, named, strict=True):
        if kind not in KINDS:
            raise DataError(f"{name}: kind={kind!r}; set one of {', '.join(KINDS)}")
        known = column[~np.isnan(column)]
        if not np.isfinite(known).all():
            raise DataError(f"{name}: some values are infinite; a missing value is NaN")
        if len(known) < least:
            raise DataError(f"{name} is known of {len(known)} images, fewer than {least} bins; give more images")
        if len(np.unique(known % 360 if kind == "circular" else known)) < 2:
            raise DataError(f"{name} is constant, and nothing can tell of it; leave it out")
    return z, v, named


def _bins(x: Floats, kind: Kind, bins: int) -> NDArray[np.int64]:
    """The bin of each value: values themselves where they are categories or few."""
    if kind == "circular":
        x = x % 360
    values, index = np.unique(x, return_inverse=True)
    if kind == "categorical" or len(values) <= bins:
        return index
    low, high = (0, 360) if kind == "circular" else (values[0], values[-1])
    return np.clip(((x - low) / (high - low) * bins).astype(np.int64), 0, bins - 1)


def _entropy(counts: NDArray[np.int64]) -> float:
    return float(entr(counts / counts.sum()).sum())


def _mutual(a: NDArray[np.int64], b: NDArray[np.int64]) -> float:
    """I(a; b) = H(a) + H(b) - H(a, b), in nats, of counts."""
    joint = np.bincount(a * (b.max() + 1) + b)
    return max(0.0, _entropy(np.bincount(a)) + _entropy(np.bincount(b)) - _entropy(joint))


def _told(z: NDArray[np.int64], v: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """I(z_j; v_k) [D, F] and H(v_k) [F] of bins; -1: missing."""
    informed = np.zeros((z.shape[1], v.shape[1]))
    entropies = np.zeros(v.shape[1])
    for k, column in enumerate(v.T):
        known = column >= 0
        entropies[k] = _entropy(np.bincount(column[known]))
        informed[:, k] = [_mutual(row[known], column[known]) for row in z.T]
    return informed, entropies


def _gap(informed: Floats, entropies: Floats) -> float:
    first, second = np.sort(informed, 0)[::-1][:2]
    return float(np.mean((first - second) / np.maximum(entropies, 1e-12)))


def _modular(informed: Floats, entropies: Floats) -> float:
    squares = informed**2
    top = squares.max(1)
    rest = (squares.sum(1) - top) / np.maximum(top, 1e-24) / (squares.shape[1] - 1)
    return float(np.where(top > 1e-24, 1 - rest, 0).mean())


def _binned(z: Floats, v: Floats, kinds: Sequence[Kind], bins: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Codes and factors as bins; -1: missing."""
    coded = np.stack([_bins(column, "continuous", bins) for column in z.T], 1)
    binned = np.full(v.shape, -1)
    for k, kind in enumerate(kinds):
        known = ~np.isnan(v[:, k])
        binned[known, k] = _bins(v[known, k], kind, bins)
    return coded, binned


def _bootstrapped(
    z: Floats,
    v: Floats,
    kinds: Sequence[Kind],
    named: list[str],
    bins: int,
    score: Callable[[Floats, Floats], float],
) -> Score:
    if bins < 2:
        raise DataError(f"bins={bins}; set 2 or more")
    coded, binned = _binned(z, v, kinds, bins)
    informed, entropies = _told(coded, binned)
    draw = np.random.default_rng(0)
    rows = [draw.integers(len(z), size=len(z)) for _ in range(DRAWS)]
    rows = [row for row in rows if (binned[row] >= 0).any(0).all()]  # a rare factor may be missing in a draw
    drawn = np.array([score(*_told(coded[row], binned[row])) for row in rows])
    return _score(score(informed, entropies), drawn, informed / entropies, {}, _remark(informed / entropies, named, v))


def _targets(column: Floats, kind: Kind) -> list[Floats]:
    if kind == "circular":
        return [np.cos(np.deg2rad(column)), np.sin(np.deg2rad(column))]
    return [column]


def _importances(z: Floats, v: Floats, kinds: Sequence[Kind], seed: int) -> tuple[Floats, float]:
    from sklearn.ensemble import GradientBoostingClassifier, GradientBoostingRegressor  # a slow import

    matrix, told = np.zeros((z.shape[1], v.shape[1])), []
    for k, kind in enumerate(kinds):
        known = np.flatnonzero(~np.isnan(v[:, k]))
        order = np.random.default_rng(seed).permutation(known)
        train, test = np.split(order, [len(order) * 2 // 3])
        if len(np.unique(v[train, k])) < 2 or len(np.unique(v[test, k])) < 2:
            raise DataError(f"factor {k} hardly varies: one part of the split has one value of it; give more images")
        tree = GradientBoostingClassifier if kind == "categorical" else GradientBoostingRegressor
        for target in _targets(v[:, k], kind):
            fit = tree(random_state=seed).fit(z[train], target[train])
            matrix[:, k] += fit.feature_importances_ / len(_targets(v[:1, k], kind))
            told.append((k, fit.score(z[test], target[test])))
    return matrix, float(np.mean([np.mean([s for f, s in told if f == k]) for k in range(v.shape[1])]))


def _purity(matrix: Floats) -> float:
    """1 - entropy of each row, in units of its largest, weighed by the row's share of the whole."""
    rows = matrix.sum(1)
    if not rows.sum():
        return 0.0
    shares = matrix / np.where(rows, rows, 1)[:, None]
    return float(rows / rows.sum() @ (1 - entr(shares).sum(1) / np.log(matrix.shape[1])))


def _score(value: float, drawn: Floats, matrix: Floats, parts: dict[str, float], remark: str) -> Score:
    width = 1.96 * float(drawn.std(ddof=1)) if len(drawn) > 1 else float("nan")
    return Score(value, value - width, value + width, matrix, parts, remark)


def _remark(matrix: Floats, named: list[str], v: Floats) -> str:
    said = []
    for column, name in zip(matrix.T, named, strict=True):
        sharing = int((column > 0.5 * column.max()).sum()) if column.max() > 0.1 else 0
        if sharing > 1:
            said.append(f"{sharing} dimensions share {name}")
        elif not sharing:
            said.append(f"no dimension tells {name}")
    for missing, name in zip(np.isnan(v).sum(0), named, strict=True):
        if missing:
            said.append(f"{name} is missing for {missing} images")
    return "; ".join(said) or "each factor has a dimension of its own"

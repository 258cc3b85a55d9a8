"""Directions learnt from codes of two classes, and measured.

With the means m₊ and m₋ of the codes of two classes and a unit vector u,

.. math:: step = (u \\cdot (m_+ - m_-)) \\, u

so strength 1 carries the mean of the negatives as far along u as the mean of the positives lies.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from lowerbound.data.factors import sides
from lowerbound.errors import UserError, did_you_mean

# ---- learning


def learn(
    z: np.ndarray, positive: np.ndarray, method: str = "means", orthogonal_to: Iterable[np.ndarray] = ()
) -> np.ndarray:
    """The step of the direction from the negatives to the positives: float64 [D].

    Args:
        z: codes [N, D].
        positive: bool [N].
        method: a name of METHODS.
        orthogonal_to: steps [D] of directions along which it must not move.

    Raises UserError where it is undefined.
    """
    if method not in METHODS:
        raise UserError(f"--method {method}: no such method{did_you_mean(method, METHODS)}")
    z = z.astype(np.float64)
    difference = z[positive].mean(0) - z[~positive].mean(0)
    if np.linalg.norm(difference) <= 1e-9 * (1 + np.abs(z).max()):
        raise UserError("the two classes have the same mean code: there is no direction between them")
    u = _orthogonal(METHODS[method](z, positive), orthogonal_to)
    gap = float(u @ difference)
    if gap <= 1e-6 * np.linalg.norm(difference):
        raise UserError(
            "along the direction that was found the classes' means don't differ; another --method may find one, or "
            "fewer --orthogonal-to"
        )
    return gap * u


# --8<-- [start:mean-difference]
def mean_difference(z: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """From the negatives' mean to the positives' (Larsen et al. 2016, https://arxiv.org/abs/1512.09300): unit [D]."""
    return _unit(z[positive].mean(0) - z[~positive].mean(0))
    # --8<-- [end:mean-difference]


def logistic_normal(z: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """The normal of the plane by which a logistic regression separates the classes: unit [D].

    All codes are divided by one number, so that scikit-learn's penalty (C = 1) means the same whatever their scale.
    Dimensions are not standardized each: those that the model leaves unused vary little, and would be blown up.
    """
    from sklearn.linear_model import LogisticRegression

    scale = z.std(0).max()
    fit = LogisticRegression(max_iter=5000).fit((z - z.mean(0)) / scale, positive)
    return _unit(fit.coef_[0])


METHODS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "means": mean_difference,
    "logistic": logistic_normal,
}


def _unit(v: np.ndarray) -> np.ndarray:
    norm = np.linalg.norm(v)
    if norm == 0:
        raise UserError("the two classes can't be told apart by their codes: there is no direction between them")
    return v / norm


def _orthogonal(u: np.ndarray, others: Iterable[np.ndarray]) -> np.ndarray:
    """The unit vector of what is left of u outside the span of the others."""
    basis = list(others)
    if not basis:
        return u
    left, singular, _ = np.linalg.svd(np.stack([_unit(v) for v in basis], 1), full_matrices=False)
    Q = left[:, singular > 1e-9]  # an orthonormal basis of the span
    rest = u
    for _ in range(2):  # twice is enough (Parlett 1980, section 6-9)
        rest = rest - Q @ (Q.T @ rest)
    if np.linalg.norm(rest) < 1e-6:
        raise UserError("--orthogonal-to: the direction lies in the span of those it is to be orthogonal to")
    return _unit(rest)


# ---- measuring


def auroc(score: np.ndarray, positive: np.ndarray) -> tuple[float, float]:
    """The share of (positive, negative) pairs in the right order, ties by half, and its standard error.

    The error is that of Hanley & McNeil (1982), https://doi.org/10.1148/radiology.143.1.7063747. It is 0 where all
    pairs are in the right order: see `auroc_interval`.
    """
    from sklearn.metrics import roc_auc_score

    a = float(roc_auc_score(positive, score))
    n, m = int(positive.sum()), int((~positive).sum())
    q1, q2 = a / (2 - a), 2 * a * a / (1 + a)
    variance = (a * (1 - a) + (n - 1) * (q1 - a * a) + (m - 1) * (q2 - a * a)) / (n * m)
    return a, math.sqrt(max(0.0, variance))


def auroc_interval(a: float, n: int, m: int, z: float = 1.96) -> tuple[float, float]:
    r"""Where an area that was seen with n positives and m negatives truly lies, 95 times in 100 (z = 1.96).

    All t for which a is no farther off than z standard errors of t itself, so the interval is not empty at 0 and 1:

    .. math:: (a - t)^2 \le z^2 \frac{t (1 - t)}{n m}
        \left(1 + N \frac{1 - t}{2 - t} + N \frac{t}{1 + t}\right), \quad N = \frac{n + m}{2} - 1

    Newcombe (2006), method 5, https://doi.org/10.1002/sim.2324

    Example:
        >>> [round(end, 2) for end in auroc_interval(1.0, 20, 20)]
        [0.9, 1.0]
    """
    N = (n + m) / 2 - 1

    def far(t: float) -> bool:
        return (a - t) ** 2 > z * z * t * (1 - t) / (n * m) * (1 + N * (1 - t) / (2 - t) + N * t / (1 + t))

    ends = []
    for outer in (0.0, 1.0):
        inner = a
        for _ in range(50):
            middle = (inner + outer) / 2
            inner, outer = (inner, middle) if far(middle) else (middle, outer)
        ends.append(inner)
    return ends[0], ends[1]


def along(change: np.ndarray, step: np.ndarray) -> np.ndarray:
    """How far changes [..., D] of a code go along a direction, in strengths of it: [...]."""
    return change @ step / (step @ step)


def leakage(
    step: np.ndarray, others: Mapping[str, np.ndarray], redrawn: np.ndarray | None = None
) -> dict[str, dict[str, float]]:
    """What strength 1 of a direction does to others, by name.

    cosine: of the two. shift: of the code, in strengths of the other. redrawn: the same, once the code was decoded and
    encoded again; for that, `redrawn` [D] is the mean change of the code that comes back.
    """
    told = {}
    for name, other in others.items():
        cosine = step @ other / (np.linalg.norm(step) * np.linalg.norm(other))
        told[name] = {"cosine": float(cosine), "shift": float(along(step, other))}
        if redrawn is not None:
            told[name]["redrawn"] = float(along(redrawn, other))
    return told


# ---- labels


YES, NO = frozenset(["1", "1.0", "true", "yes"]), frozenset(["0", "0.0", "-1", "-1.0", "false", "no"])


def classes(values: Sequence[str] | np.ndarray, threshold: float | None = None) -> tuple[np.ndarray, float | None]:
    """The values of a column, words or numbers, none missing, as two classes: bool [N], and the number they were split
    at, if any.

    1 and 0, 1 and -1, true and false, yes and no; of other numbers, those above `threshold` (None: their median) are
    the positives. Raises UserError for words.

    Example:
        >>> classes(["yes", "no"])[0].tolist(), classes(["3", "5", "9"])[1]
        ([True, False], 5.0)
    """
    if isinstance(values, np.ndarray) and values.dtype.kind != "O":
        found = None if threshold is not None else sides(values)
        return (found, None) if found is not None else _split(values.astype(np.float64), threshold)
    words = [v.strip().lower() for v in values]
    if threshold is None and set(words) <= YES | NO:
        return np.array([w in YES for w in words]), None
    try:
        numbers = np.array([float(w) for w in words])
    except ValueError as e:
        raise UserError(f"{e}; expected 0 and 1, -1 and 1, yes and no, true and false, or numbers") from None
    return _split(numbers, threshold)


def _split(numbers: np.ndarray, threshold: float | None) -> tuple[np.ndarray, float]:
    """Those above the threshold, or above their median, and that number."""
    if not np.isfinite(numbers).all():
        raise UserError("holds numbers that are not finite")
    cut = float(np.median(numbers)) if threshold is None else threshold
    return numbers > cut, cut


def as_step(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, np.float64))

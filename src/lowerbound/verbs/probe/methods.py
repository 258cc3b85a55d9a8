"""Linear probes, and nearest neighbours."""

import warnings
from typing import Any

import numpy as np

STRENGTHS = 10.0 ** np.arange(-4, 2)  # C of the logistic regression: the inverse of its penalty
NEIGHBOURS = (1, 3, 5, 10)
FOLDS = 3
CHOSEN_ON = 3000  # labelled images at most, of which the penalty and the number of neighbours are chosen


def linear(x: np.ndarray, y: np.ndarray, *, choose: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Logistic regression on standardized features x [n, D]: weights [classes present, D] and biases.

    choose: its penalty by cross-validation on the labelled images themselves.
    """
    # --8<-- [start:linear]
    strength = _strength(x, y) if choose else 0.01
    fitted = _logistic(x, y, strength)
    weight, bias = fitted.coef_, fitted.intercept_
    # --8<-- [end:linear]
    if len(weight) == 1:  # of two classes, scikit-learn keeps the difference
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    return weight.astype(np.float32), bias.astype(np.float32)


def _logistic(x: np.ndarray, y: np.ndarray, strength: float) -> Any:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the penalty chosen is that of so many steps
        return LogisticRegression(C=strength, max_iter=200).fit(x, y)


def _strength(x: np.ndarray, y: np.ndarray) -> float:
    """C by cross-validation; equal ones go to the stronger penalty."""
    from sklearn.metrics import log_loss

    some = _some(len(x))
    x, y = x[some], y[some]
    folds = _folds(y)
    losses = np.zeros(len(STRENGTHS))
    for fold in range(min(FOLDS, int(np.bincount(folds).size))):
        inside, outside = folds != fold, folds == fold
        if len(np.unique(y[inside])) < len(np.unique(y)):
            continue  # a class of one image can't be held out
        for i, strength in enumerate(STRENGTHS):
            p = _logistic(x[inside], y[inside], strength).predict_proba(x[outside])
            losses[i] += log_loss(y[outside], p, labels=np.unique(y))
    return float(STRENGTHS[losses.argmin()])


def _folds(y: np.ndarray) -> np.ndarray:
    """A fold for each image, the images of a class dealt in turn: [n]."""
    folds = np.empty(len(y), np.int64)
    for c in np.unique(y):
        folds[y == c] = np.arange((y == c).sum()) % FOLDS
    return folds


def _some(n: int) -> np.ndarray:
    return np.arange(n) if n <= CHOSEN_ON else np.random.default_rng(0).permutation(n)[:CHOSEN_ON]


def neighbours(x: np.ndarray, y: np.ndarray, test: np.ndarray, *, choose: bool = True) -> np.ndarray:
    """The label of most of the k nearest of x [n, D], for every test vector [m, D]: [m].

    choose: k by leaving one of the labelled images out. Of equally many, the label of the nearest wins.
    """
    from sklearn.neighbors import NearestNeighbors

    most = min(max(NEIGHBOURS), len(x) - 1) if choose else 1
    k = 1
    if choose and most > 1:
        some = _some(len(x))
        near = NearestNeighbors(n_neighbors=most, algorithm="brute").fit(x).kneighbors(x[some], most + 1)[1]
        others = _without_self(near, some)
        right = [(majority(y[others[:, :k]]) == y[some]).mean() for k in NEIGHBOURS if k <= most]
        k = NEIGHBOURS[int(np.argmax(right))]
    found = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(x).kneighbors(test, return_distance=False)
    return majority(y[found])


def _without_self(near: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Each row without the image itself; of more than so many equal images, without the last."""
    keep = near != own[:, None]
    keep[keep.all(1), -1] = False
    return near[keep].reshape(len(near), -1)


def majority(labels: np.ndarray) -> np.ndarray:
    """The most frequent label of each row [m, k], nearest first: [m]; of equals, the one that comes first.

    Example:
        >>> majority(np.array([[2, 1, 1], [2, 1, 0]])).tolist()
        [1, 2]
    """
    votes = (labels[:, :, None] == labels[:, None, :]).sum(2)  # [m, k]: how many agree with the neighbour
    return labels[np.arange(len(labels)), votes.argmax(1)]

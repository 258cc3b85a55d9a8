"""Scores by how well factors are predicted from codes: of all dimensions, and of one."""

import warnings
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import entr

from lowerbound.data.attributes import Factor
from lowerbound.errors import DataError
from lowerbound.metrics.disentangling.base import (
    Estimate,
    Floats,
    Kinds,
    Known,
    Score,
    Whole,
    factors_in_bins,
    in_two,
    resampled,
)
from lowerbound.metrics.disentangling.information import BINS, remark
from lowerbound.parallel import each_once

SPLITS = 3
RANKS = 10  # classes that a number is cut into, where a classifier is asked
CAPACITIES = (0, 16, 64, 256)  # random features beside the codes themselves


# ---- DCI and ES


class _Fit(NamedTuple):
    importances: Floats  # [D, F]
    told: float
    explicitness: float


def dci(codes: ArrayLike, factors: ArrayLike, kinds: Kinds = None, *, splits: int = SPLITS) -> Score:
    """Disentanglement, completeness, informativeness, explicitness and size; the first is the value.

    With the importances R_jk of boosted trees that predict each factor (the matrix; each of its columns adds to 1):
    D = sum_j rho_j (1 - H_F(R_jk / sum_k R_jk)), C the same of columns with logarithms to base D, rho the share of the
    row or column; I the mean over factors of what the trees tell of other images: accuracy of a category, R² of a
    number, of cosine and sine of a circle. Two thirds of the images train, so often as `splits` says; the interval is
    over them. Arguments as of `mig`.

    Explicitness: 1 - 2 (area between the loss and its lowest value, over the capacity of a predictor) / (the range of
    capacity (loss of the mean - lowest loss)), so 1 where a linear predictor is the best and 0 where each step of
    capacity gains as much; of ridge regressions on the codes and more and more random Fourier features of them, each
    step of capacity four times as many, the loss relative to the factor's variance; 0 where nothing is gained at all.
    Size: F / D.

    Eastwood & Williams (2018), https://openreview.net/forum?id=By-7dz-AZ; explicitness and size: Eastwood et al.
    (2023), DCI-ES, https://arxiv.org/abs/2210.00364, whose sizes of predictors are others
    """
    known = Known.of("dci", codes, factors, kinds, least=BINS, dims=2, several=True)
    _check_splits("dci", splits)
    fits = each_once(lambda seed: _fit(known, seed), splits)
    found = {
        "disentanglement": [_purity(fit.importances) for fit in fits],
        "completeness": [_purity(fit.importances.T) for fit in fits],
        "informativeness": [fit.told for fit in fits],
        "explicitness": [fit.explicitness for fit in fits],
    }
    parts = {name: Estimate.of(float(np.mean(values)), values) for name, values in found.items()}
    parts["size"] = Estimate(known.v.shape[1] / known.z.shape[1])
    matrix = np.mean([fit.importances for fit in fits], 0)
    return Score(*parts["disentanglement"], matrix, remark(known), parts)


def _check_splits(name: str, splits: int) -> None:
    if splits < 1:
        raise DataError(f"{name}: splits={splits}; set 1 or more")


def _fit(known: Known, seed: int) -> _Fit:
    from sklearn.ensemble import GradientBoostingClassifier, GradientBoostingRegressor  # a slow import

    z = known.standardized
    importances, told, explicit = np.zeros((z.shape[1], known.v.shape[1])), [], []
    for k, factor in enumerate(known.kinds):
        train, test = _split(known, k, seed)
        tree = GradientBoostingClassifier if factor.kind == "categorical" else GradientBoostingRegressor
        targets = _targets(known.v[:, k], factor)
        fits = [tree(random_state=seed).fit(z[train], target[train]) for target in targets]
        importances[:, k] = np.mean([fit.feature_importances_ for fit in fits], 0)
        told.append(np.mean([fit.score(z[test], target[test]) for fit, target in zip(fits, targets, strict=True)]))
        explicit.append(_explicit(z, columns(known.v[:, k], factor), train, test, seed))
    return _Fit(importances, float(np.mean(told)), float(np.mean(explicit)))


def _split(known: Known, k: int, seed: int) -> tuple[Whole, Whole]:
    train, test = in_two(known.rows(k), seed)
    if len(np.unique(known.v[train, k])) < 2 or len(np.unique(known.v[test, k])) < 2:
        raise DataError(
            f"{known.kinds[k].name} hardly varies: a part of the images has one value of it; give more images"
        )
    return train, test


def _targets(column: Floats, factor: Factor) -> list[Floats]:
    """What is to be predicted of a factor [N]: its values or classes; of a circle two numbers."""
    if factor.kind == "circular":
        angle = 2 * np.pi * (column - factor.low) / factor.period
        return [np.cos(angle), np.sin(angle)]
    return [column]


def columns(column: Floats, factor: Factor) -> Floats:
    """The same as numbers alone, a category as 1 and 0 of each: [N, T]."""
    if factor.kind == "categorical":
        return (column[:, None] == np.unique(column[~np.isnan(column)])).astype(np.float64)
    return np.stack(_targets(column, factor), 1)


def _purity(matrix: Floats) -> float:
    """1 - entropy of each row, in units of its largest, weighed by the row's share of the whole."""
    rows = matrix.sum(1)
    if not rows.sum():
        return 0.0
    shares = matrix / np.where(rows, rows, 1)[:, None]
    return float(rows / rows.sum() @ (1 - entr(shares).sum(1) / np.log(matrix.shape[1])))


def _explicit(z: Floats, targets: Floats, train: Whole, test: Whole, seed: int) -> float:
    """Of one factor, in [-1, 1]."""
    losses = [_loss(_widened(z, extra, seed), targets, train, test) for extra in CAPACITIES]
    best = np.minimum.accumulate(losses)
    gained = 1 - best[-1]
    if gained < 0.05:
        return 0.0
    over = best - best[-1]
    area = ((over[1:] + over[:-1]) / 2).sum()
    return float(1 - 2 * area / ((len(best) - 1) * gained))


def _widened(z: Floats, extra: int, seed: int) -> Floats:
    """z, a constant, and cosines of random directions of it: [N, D + 1 + extra]."""
    draw = np.random.default_rng(seed)
    turned = z @ draw.normal(size=(z.shape[1], extra)) / np.sqrt(z.shape[1]) + draw.uniform(0, 2 * np.pi, extra)
    return np.concatenate([z, np.ones((len(z), 1)), np.cos(turned)], 1)


def _loss(x: Floats, targets: Floats, train: Whole, test: Whole) -> float:
    """The squared error of ridge regression on other images, relative to that of the mean."""
    gram = x[train].T @ x[train] + 1e-3 * len(train) * np.eye(x.shape[1])
    weights = np.linalg.solve(gram, x[train].T @ targets[train])
    error = np.square(targets[test] - x[test] @ weights).sum()
    return float(error / np.square(targets[test] - targets[train].mean(0)).sum())


# ---- SAP


def sap(codes: ArrayLike, factors: ArrayLike, kinds: Kinds = None) -> Score:
    """Separated attribute predictability: the mean over factors of the largest S_jk - the second largest.

    S_jk (the matrix) is how well dimension j alone predicts factor k: of a number the squared correlation, of a circle
    the mean of those with its cosine and sine; of a category the accuracy of a linear support vector machine (C = 0.01,
    classes weighed alike) on other images, a third of all. So a category's gap is at most 1 - what guessing reaches,
    and one of three or more names that lie along a dimension is told in part. Arguments as of `mig`; the interval is
    over bootstrap draws.

    Kumar et al. (2018), Variational Inference of Disentangled Latent Concepts, section 3,
    https://openreview.net/forum?id=H1kG7GZAW, the machine's settings as of disentanglement_lib
    """
    known = Known.of("sap", codes, factors, kinds, least=BINS, dims=2)
    matrix = _predictable(known, 0)
    draws = [rows for rows in resampled(len(known.z), 10) if varies(known, rows)]
    drawn = each_once(lambda i: _predictable(known.take(draws[i]), 0), len(draws))
    found = Estimate.of(_top_two(matrix), [_top_two(m) for m in drawn])
    return Score(*found, matrix, remark(known))


def varies(known: Known, rows: Whole) -> bool:
    """Whether all factors do, in a bootstrap draw."""
    return all(len(np.unique(c[~np.isnan(c)])) > 1 for c in known.v[rows].T)


def _top_two(matrix: Floats) -> float:
    first, second = np.sort(matrix, 0)[::-1][:2]
    return float((first - second).mean())


def _predictable(known: Known, seed: int) -> Floats:
    z, found = known.standardized, np.zeros((known.z.shape[1], known.v.shape[1]))
    for k, factor in enumerate(known.kinds):
        rows = known.rows(k)
        if factor.kind == "categorical":
            train, test = in_two(rows, seed)
            found[:, k] = [_separated(one[:, None], known.v[:, k], train, test) for one in z.T]
        else:
            targets = np.stack(_targets(known.v[rows, k], factor), 1)
            found[:, k] = _squared_correlation(z[rows], targets).mean(1)
    return found


def _squared_correlation(z: Floats, targets: Floats) -> Floats:
    """[D, T]; 0 where one of the two is constant."""
    z, targets = z - z.mean(0), targets - targets.mean(0)
    scale = np.square(z).sum(0)[:, None] * np.square(targets).sum(0)
    return np.where(scale > 1e-12, np.square(z.T @ targets) / np.maximum(scale, 1e-12), 0)


def _separated(z: Floats, y: Floats, train: Whole, test: Whole) -> float:
    from sklearn.svm import LinearSVC

    if len(np.unique(y[train])) < 2:
        return float((y[test] == y[train][0]).mean())
    machine = LinearSVC(C=0.01, class_weight="balanced", random_state=0)
    return float((quietly(machine, z[train], y[train]).predict(z[test]) == y[test]).mean())


# ---- explicitness by classifiers


def explicitness(codes: ArrayLike, factors: ArrayLike, kinds: Kinds = None, *, splits: int = SPLITS) -> Score:
    """How well a linear classifier tells the values of factors: the area under the ROC curve of the probability of each
    value against all others, the mean over values and then over factors; 0.5 by guessing. Numbers are cut into RANKS
    bins. The classifier is a logistic regression of all values at once, as in disentanglement_lib, on two thirds of the
    images, and the area of the rest. The matrix [1, F] has each factor. Arguments as of `mig`; the interval is over
    splits.

    Ridgeway & Mozer (2018), Learning Deep Disentangled Embeddings With the F-Statistic Loss,
    https://arxiv.org/abs/1802.05312
    """
    known = Known.of("explicitness", codes, factors, kinds, least=BINS)
    _check_splits("explicitness", splits)
    classes, z = factors_in_bins(known, RANKS), known.standardized
    drawn = np.array(
        each_once(lambda seed: [_area(known, z, classes[:, k], k, seed) for k in range(len(known.kinds))], splits)
    )
    found = Estimate.of(float(drawn.mean()), drawn.mean(1).tolist())
    return Score(*found, drawn.mean(0, keepdims=True), remark(known))


def _area(known: Known, z: Floats, y: Whole, k: int, seed: int) -> float:
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score

    train, test = _split(known, k, seed)
    fit = quietly(LogisticRegression(), z[train], y[train])
    shares, areas = fit.predict_proba(z[test]), []
    for share, value in zip(shares.T, fit.classes_, strict=True):
        if 0 < (y[test] == value).sum() < len(test):
            areas.append(roc_auc_score(y[test] == value, share))
    if not areas:
        raise DataError(f"explicitness: {known.kinds[k].name} hardly varies in a third of the images; give more images")
    return float(np.mean(areas))


def quietly(model: Any, x: Any, y: Any) -> Any:
    """The model fitted; that it did not converge in its steps is no news to who asks for a score."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(x, y)

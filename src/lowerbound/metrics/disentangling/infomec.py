"""InfoMEC: modularity, compactness and explicitness in information."""

import numpy as np
from numpy.typing import ArrayLike

from lowerbound.data.attributes import Factor
from lowerbound.metrics.disentangling.base import (
    Estimate,
    Floats,
    Kinds,
    Known,
    Score,
    Whole,
    factors_in_bins,
    in_bins,
)
from lowerbound.metrics.disentangling.information import BINS, remark
from lowerbound.metrics.disentangling.prediction import columns, quietly, varies

NEIGHBOURS = 10


def infomec(codes: ArrayLike, factors: ArrayLike, kinds: Kinds = None, *, bins: int = BINS) -> Score:
    """InfoM, the value, InfoC and InfoE: modularity, compactness and explicitness in information.

    With N_jk = I(z_j; s_k) / H(s_k) (the matrix) and J dimensions that are used, those whose range is above a twentieth
    of the widest one's: InfoM = (mean_j max_k N_jk / sum_k N_jk - 1/F) / (1 - 1/F); InfoC = (mean_k max_j N_jk /
    sum_j N_jk - 1/J) / (1 - 1/J); a row or column that tells nothing counts 0. InfoE = mean_k (H_0 - H(s_k | z)) / H_0,
    H being the cross entropy of a logistic regression without penalty, classes weighed alike, of those images that it
    was fitted to, and H_0 that of one which sees nothing.

    I is estimated by 10 nearest neighbours; where all dimensions take few values, by their counts, and the regression
    sees which value it is. Numbers are cut into bins. Arguments as of `mig`; the interval leaves out a fifth of the
    images each time.

    Hsu et al. (2023), Disentanglement via Latent Quantization, https://openreview.net/forum?id=LLETO26Ga2, as computed
    by https://github.com/kylehkhsu/latent_quantization
    """
    known = Known.of("infomec", codes, factors, kinds, least=bins, dims=2, several=True)
    whole, matrix = _info(known, bins)
    parts = np.array_split(np.random.default_rng(0).permutation(len(known.z)), 5)
    without = [np.setdiff1d(np.arange(len(known.z)), part) for part in parts]
    drawn = np.array([_info(known.take(rows), bins)[0] for rows in without if varies(known, rows)])
    drawn = drawn * (len(drawn) - 1) / np.sqrt(len(drawn))  # spread as other images would be: the jackknife
    names = ("modularity", "compactness", "explicitness")
    found = {n: Estimate.of(v, d.tolist()) for n, v, d in zip(names, whole, drawn.T, strict=True)}
    return Score(*found["modularity"], matrix, remark(known), found)


def _info(known: Known, bins: int) -> tuple[Floats, Floats]:
    """InfoM, InfoC, InfoE, and the matrix."""
    z, s = known.standardized, factors_in_bins(known, bins)
    few = all(len(np.unique(one)) <= bins for one in z.T)
    matrix = np.stack([_normalized(z[s[:, k] >= 0], s[s[:, k] >= 0, k], few) for k in range(s.shape[1])], 1)
    wide = np.ptp(known.z, 0)
    active = matrix[wide > (0 if few else wide.max() / 20)]
    explicit = [_predictive(z[s[:, k] >= 0], s[s[:, k] >= 0, k], few) for k in range(s.shape[1])]
    return np.array([_concentrated(active), _concentrated(active.T), np.mean(explicit)]), matrix


def _normalized(z: Floats, s: Whole, few: bool) -> Floats:
    """I(z_j; s) / H(s) of each dimension: [D]."""
    from sklearn.feature_selection import mutual_info_classif
    from sklearn.metrics import mutual_info_score

    if few:
        told = np.array([mutual_info_score(s, in_bins(one, None, len(z))) for one in z.T])
    else:
        told = mutual_info_classif(z, s, n_neighbors=NEIGHBOURS, random_state=0)
    return told / mutual_info_score(s, s)


def _concentrated(matrix: Floats) -> float:
    """(the mean over rows of largest / sum - 1 / columns) / (1 - 1 / columns); of one column, 1."""
    columns, sums = matrix.shape[1], matrix.sum(1)
    if columns == 1:
        return 1.0
    shares = np.where(sums > 0, matrix.max(1) / np.where(sums > 0, sums, 1), 1 / columns)
    return float((shares.mean() - 1 / columns) / (1 - 1 / columns)) if len(shares) else 0.0


def _predictive(z: Floats, s: Whole, few: bool) -> float:
    nothing = _cross_entropy(np.zeros((len(z), 1)), s)
    seen = np.concatenate([columns(one, Factor(name="z", kind="categorical")) for one in z.T], 1) if few else z
    return float((nothing - _cross_entropy(seen, s)) / nothing)


def _cross_entropy(x: Floats, s: Whole) -> float:
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss

    fit = quietly(LogisticRegression(C=np.inf, class_weight="balanced", max_iter=100), x, s)
    return float(log_loss(s, fit.predict_proba(x)))

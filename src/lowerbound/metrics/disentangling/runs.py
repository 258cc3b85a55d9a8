"""How much the codes of several runs agree, which takes no factors."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from lowerbound.errors import DataError
from lowerbound.metrics.disentangling.base import Estimate, Floats, Score, as_numbers, used

PENALTY = 0.1  # of the lasso


def udr(codes: Sequence[ArrayLike]) -> Score:
    """Unsupervised disentanglement ranking: how far the dimensions of each run are those of the others.

    codes: [N, D] of each of two runs or more, of the same N images in their order; D may differ. R_ab is the weight by
    which dimension a of one run predicts b of the other, in absolute value: a lasso with penalty 0.1 on standardized
    codes, dimensions that are not used left out (in place of those of little KL: codes alone don't tell it). Of a pair:
    the mean of the mean over b of max_a R_ab² / sum_a R_ab and of the mean over a of max_b R_ab² / sum_b R_ab. A run's
    score, among the parts, is the median over the others; the value is the mean of the runs, low and high are 1.96
    standard deviations of runs away. The matrix [M, M] has the pairs, and NaN on the diagonal.

    Duan et al. (2020), Unsupervised Model Selection for Variational Disentangled Representation Learning,
    https://arxiv.org/abs/1905.12614, as computed by disentanglement_lib
    """
    found = [as_numbers("codes", one) for one in codes]
    if len(found) < 2:
        raise DataError(f"udr: {len(found)} run, and it compares runs; give the codes of two or more")
    if len({len(one) for one in found}) > 1:
        raise DataError(
            f"udr: codes of {', '.join(str(len(one)) for one in found)} images; give those of the same images"
        )
    if len(found[0]) < 2:
        raise DataError("udr: codes of fewer than 2 images; give more")
    kept = [_standardized(one) for one in found]
    matrix = np.array([[np.nan if a is b else _agreement(a, b) for b in kept] for a in kept])
    scores = np.nanmedian(matrix, 0)
    parts = {f"run {i}": Estimate(float(score)) for i, score in enumerate(scores)}
    best = int(scores.argmax())
    said = f"run {best} agrees with the others most: {scores[best]:.2f}, of {scores.min():.2f} to {scores.max():.2f}"
    return Score(*Estimate.of(float(scores.mean()), scores.tolist()), matrix, said, parts)


def _standardized(z: Floats) -> Floats:
    if not z.std(0).any():
        raise DataError("udr: the codes of a run are constant; leave it out")
    z = z[:, used(z)]
    return (z - z.mean(0)) / z.std(0)


def _agreement(a: Floats, b: Floats) -> float:
    from sklearn.linear_model import Lasso

    weights = np.abs(np.atleast_2d(Lasso(alpha=PENALTY, max_iter=10_000).fit(a, b).coef_)).T  # [Da, Db]
    return (_singled(weights) + _singled(weights.T)) / 2


def _singled(weights: Floats) -> float:
    """The mean over columns of the largest, squared, over the sum; 0 where there is none."""
    sums = weights.sum(0)
    return float(np.where(sums > 0, weights.max(0) ** 2 / np.where(sums > 0, sums, 1), 0).mean())

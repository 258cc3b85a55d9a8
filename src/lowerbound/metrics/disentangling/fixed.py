"""Scores by images that share the value of one factor: which one, a simple classifier must tell from their codes."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from lowerbound.errors import DataError
from lowerbound.metrics.disentangling.base import (
    Estimate,
    Floats,
    Kinds,
    Known,
    Score,
    Whole,
    factors_in_bins,
    resampled,
    used,
)
from lowerbound.metrics.disentangling.information import BINS, remark

TOGETHER = 64  # images in a batch, or pairs of them
TRAINING, TESTING = 800, 400  # batches
DRAWS = 10  # bootstrap draws of the images


def factor_vae(codes: ArrayLike, factors: ArrayLike, kinds: Kinds = None, *, bins: int = BINS) -> Score:
    """FactorVAE score: the share of batches whose shared factor is told by a majority vote; 1/F by guessing.

    A batch is TOGETHER images of one value of a factor k, drawn by chance; its vote is (j, k), j being the dimension
    that varies least in it, in units of its variance over all images. A dimension stands for the factor that most of
    its votes of TRAINING batches go to, and the score is that of TESTING others. Dimensions that are not used don't
    vote.

    The images that share a value are found among those given: of a number, those of one of `bins` bins. Where few
    do, they come repeatedly. Arguments as of `mig`. The matrix [D, F] has the votes' shares; the interval is over
    bootstrap draws.

    Kim & Mnih (2018), Disentangling by Factorising, https://arxiv.org/abs/1802.05983
    """
    known = Known.of("factor_vae", codes, factors, kinds, least=bins, several=True)
    return _bootstrapped("factor_vae", known, bins, _voted)


def beta_vae(codes: ArrayLike, factors: ArrayLike, kinds: Kinds = None, *, bins: int = BINS) -> Score:
    """BetaVAE score: the accuracy of a linear classifier (logistic regression) that tells which factor pairs of images
    share, from the mean of |z - z'| over TOGETHER pairs, codes standardized; 1/F by guessing.

    Pairs are found among the images given, as of `factor_vae`: a pair shares its own value of the factor. The matrix
    [D, F] has the classifier's weights. It sees all dimensions: a factor spread over several scores well too.

    Higgins et al. (2017), beta-VAE, https://openreview.net/forum?id=Sy2fzU9gl
    """
    known = Known.of("beta_vae", codes, factors, kinds, least=bins, several=True)
    return _bootstrapped("beta_vae", known, bins, _classified)


def _bootstrapped(
    name: str, known: Known, bins: int, score: Callable[[Floats, "list[_Shared]"], tuple[float, Floats]]
) -> Score:
    binned = factors_in_bins(known, bins)
    if not known.z.std(0).any():
        raise DataError(f"{name}: the codes are constant, and nothing can be told by them")
    z = known.standardized[:, used(known.z)]
    for k, factor in enumerate(known.kinds):
        if not _Shared.of(binned[:, k]).rows.size:
            raise DataError(f"{name}: no two images share a value of {factor.name}; give more images, or fewer bins")
    value, small = score(z, [_Shared.of(column) for column in binned.T])
    drawn = []
    for rows in resampled(len(z), DRAWS):
        shared = [_Shared.of(column) for column in binned[rows].T]
        if all(s.rows.size for s in shared):
            drawn.append(score(z[rows], shared)[0])
    matrix = np.zeros((known.z.shape[1], known.v.shape[1]))
    matrix[used(known.z)] = small
    return Score(*Estimate.of(value, drawn), matrix, remark(known))


class _Shared(NamedTuple):
    """The images that share a value of a factor with another one, sorted by it: [n] each."""

    rows: Whole  # places of the images
    begin: Whole  # where those of an image's value begin among rows
    number: Whole  # how many they are

    @staticmethod
    def of(column: Whole) -> "_Shared":
        """Of the bins of a factor [N]; -1: missing."""
        rows = np.argsort(column, kind="stable")
        rows = rows[column[rows] >= 0]
        _, begin, inverse, count = np.unique(column[rows], return_index=True, return_inverse=True, return_counts=True)
        begin, count = begin[inverse], count[inverse]
        found = count > 1
        dropped = np.concatenate([[0], np.cumsum(~found)])
        return _Shared(rows[found], begin[found] - dropped[begin[found]], count[found])

    def batches(self, n: int, size: int, draw: np.random.Generator) -> Whole:
        """n batches of images that share a value, any image the first: [n, size]."""
        first = draw.integers(len(self.rows), size=n)
        others = self.begin[first, None] + draw.integers(self.number[first, None], size=(n, size - 1))
        return self.rows[np.concatenate([first[:, None], others], 1)]


def _voted(z: Floats, shared: list[_Shared]) -> tuple[float, Floats]:
    draw = np.random.default_rng(0)
    train, test = (_votes(z, shared, n, draw) for n in (TRAINING, TESTING))
    stands = train.argmax(1)  # the factor of each dimension
    return float(test[np.arange(len(stands)), stands].sum() / test.sum()), train / train.sum()


def _votes(z: Floats, shared: list[_Shared], n: int, draw: np.random.Generator) -> Floats:
    """[D, F]"""
    found, of = np.zeros((z.shape[1], len(shared))), draw.integers(len(shared), size=n)
    for k, one in enumerate(shared):
        batches = one.batches(int((of == k).sum()), TOGETHER, draw)
        least = z[batches].var(1).argmin(1)  # z is in units of its variance over all images
        found[:, k] = np.bincount(least, minlength=z.shape[1])
    return found


def _classified(z: Floats, shared: list[_Shared]) -> tuple[float, Floats]:
    from sklearn.linear_model import LogisticRegression

    draw = np.random.default_rng(0)
    (x, k), (x_test, k_test) = (_differences(z, shared, n, draw) for n in (TRAINING, TESTING))
    fit = LogisticRegression(max_iter=1000).fit(x, k)
    weights = np.concatenate([-fit.coef_, fit.coef_]) if len(shared) == 2 else fit.coef_
    return float(fit.score(x_test, k_test)), weights.T


def _differences(z: Floats, shared: list[_Shared], n: int, draw: np.random.Generator) -> tuple[Floats, Whole]:
    """Means of |z - z'| over pairs [n, D], and which factor the pairs share [n]."""
    of = np.sort(draw.integers(len(shared), size=n))
    of[: len(shared)] = np.arange(len(shared))
    pairs = [one.batches(int((of == k).sum()) * TOGETHER, 2, draw) for k, one in enumerate(shared)]
    first, second = np.concatenate(pairs).T
    return np.abs(z[first] - z[second]).reshape(n, TOGETHER, -1).mean(1), np.sort(of)

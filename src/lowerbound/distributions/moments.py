"""Means and covariances of vectors that come in batches."""

from collections.abc import Iterable

import torch
from torch import Tensor

from lowerbound.errors import ModelError


def covariance(batches: Iterable[Tensor]) -> tuple[int, Tensor, Tensor]:
    """The number of vectors in batches [B, D], their mean [D] and covariance [D, D] (divided by n), in float64.

    One pass, and stable: batches are joined by the rule of Chan et al. (1979).
    """
    n, mean, scatter = 0, torch.zeros(()), torch.zeros(())
    for x in batches:
        x = x.double()
        own = x.mean(0)
        x, m = x - own, len(x)
        if n == 0:
            n, mean, scatter = m, own, x.T @ x
            continue
        step = own - mean
        scatter.addmm_(x.T, x).addr_(step, step, alpha=n * m / (n + m))
        mean = mean + step * (m / (n + m))
        n += m
    return n, mean, scatter / max(1, n)


def normal_moments(batches: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """The mean [D] and covariance [D, D] of the normal nearest to vectors in batches [B, D], in float64.

    A millionth of the mean variance is added to the variances, since some vectors lie in a plane. Raises ModelError for
    as few vectors as they have elements.
    """
    n, mean, cov = covariance(batches)
    if n <= mean.numel():
        raise ModelError(
            f"{n} codes are too few for the covariance of {mean.numel()} numbers; it takes more than so many"
        )
    return mean, cov + 1e-6 * cov.diagonal().mean() * torch.eye(len(cov), dtype=cov.dtype, device=cov.device)

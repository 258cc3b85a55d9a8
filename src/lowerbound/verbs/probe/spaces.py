"""Ways to see images as vectors."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from lowerbound.data.base import Images
from lowerbound.distributions import covariance

COVARIANCE = 4096  # dimensions; beyond, PCA is fitted by random projections to some of the images
SOME = 10_000
ROWS = 4096  # images whose pixels are real numbers at a time


class Space(NamedTuple):
    """One way to see images as vectors [N, D], and the mean and scale of the training images in it, both [D]."""

    name: str
    train: Callable[[np.ndarray], np.ndarray]  # indices into the training images -> [n, D]
    test: np.ndarray
    mean: np.ndarray
    scale: np.ndarray

    def standard(self, x: np.ndarray) -> np.ndarray:
        return (x - self.mean) / self.scale


# ---- the spaces that the encoder's is compared with


def baselines(train: Images, test: Images, components: int) -> tuple[Space, Space]:
    """Raw pixels, and their first principal components."""
    some = np.arange(len(train))
    if np.prod(train.shape) > COVARIANCE:
        some = np.sort(np.random.default_rng(0).permutation(len(train))[:SOME])
    mean, variance, axes, along = principal(train, some, components)
    one = np.full_like(variance, np.sqrt(variance.mean()))
    pixels = Space("pixels", lambda i: vectors(train, i), vectors(test), *_float(mean, one))

    def project(images: Images, index: np.ndarray) -> np.ndarray:
        blocks = (index[i : i + ROWS] for i in range(0, len(index), ROWS))
        return np.concatenate([(vectors(images, block) - pixels.mean) @ axes for block in blocks])

    seen = project(test, np.arange(len(test)))
    pca = Space("PCA", lambda i: project(train, i), seen, *_float(np.zeros(len(along)), np.sqrt(along)))
    return pixels, pca


def principal(images: Images, index: np.ndarray, components: int) -> tuple[np.ndarray, ...]:
    """The pixels' mean [D] and variance [D], the principal axes float32 [D, L] and the variance along them [L].

    L is the number of components, or of pixels or images where these are fewer.
    """
    from scipy.linalg import eigh
    from sklearn.decomposition import PCA

    D = int(np.prod(images.shape))
    L = min(components, D, len(index) - 1)
    if D > COVARIANCE:
        x = vectors(images, index)
        pca: Any = PCA(L, svd_solver="randomized", random_state=0).fit(x)
        return x.mean(0), x.var(0), pca.components_.T.astype(np.float32), pca.explained_variance_
    starts = range(0, len(index), ROWS)
    _, mean, cov = covariance(torch.from_numpy(vectors(images, index[i : i + ROWS])) for i in starts)
    values, axes = eigh(cov.numpy(), subset_by_index=[D - L, D - 1])
    top = slice(None, None, -1)
    return mean.numpy(), cov.diagonal().numpy(), axes[:, top].astype(np.float32), values[top].clip(min=0)


def vectors(images: Images, index: np.ndarray | slice = slice(None)) -> np.ndarray:
    """Pixels scaled to [0, 1] as vectors: float32 [n, D]."""
    x = np.asarray(images.x[index])
    return x.reshape(len(x), -1).astype(np.float32) / np.float32(images.levels - 1)


def _float(mean: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both as float32; what does not vary is divided by 1."""
    return mean.astype(np.float32), np.where(scale > 1e-6, scale, 1).astype(np.float32)

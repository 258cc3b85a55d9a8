"""How like the data a set of samples is, both seen as vectors."""

import numpy as np
import torch

BLOCKS = 10  # that the standard error of the kernel distance is taken over
ROWS = 1024  # vectors whose distances to all others are held at a time


class PixelFeatures:
    """The first principal components of the pixels of a set of images: a space for the Fréchet distance that needs no
    trained network. It sees blur, contrast and the large shapes, not whether an image makes sense.

    Images: uint8 [N, C, H, W] with values in [0, levels). `components` is cut to what the images span.
    """

    def __init__(self, images: np.ndarray, levels: int, *, components: int = 64, seed: int = 0):
        from sklearn.decomposition import PCA  # a slow import, and all modules are imported to find the components

        self.levels = levels
        x = self._flat(images)
        solver = "full" if min(x.shape) <= 500 else "randomized"
        self.pca = PCA(min(components, *x.shape), svd_solver=solver, random_state=seed).fit(x)

    def _flat(self, images: np.ndarray) -> np.ndarray:
        return images.reshape(len(images), -1).astype(np.float64) / (self.levels - 1)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """[N, components]."""
        return self.pca.transform(self._flat(images))


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    r"""The squared Fréchet distance of the normals with the means and covariances of a [N, F] and b [M, F].

    .. math:: \|m_a - m_b\|^2 + \mathrm{tr}(S_a + S_b - 2 (S_a^{1/2} S_b S_a^{1/2})^{1/2})

    Dowson & Landau (1982); as a figure of samples Heusel et al. (2017), https://arxiv.org/abs/1706.08500. It grows as
    the sets get smaller: compare it with that of two sets of real images of the same sizes.
    """
    gap = a.mean(0) - b.mean(0)
    A, B = (np.atleast_2d(np.cov(x, rowvar=False)) for x in (a, b))
    root = _root(A)
    cross = np.linalg.eigvalsh(root @ B @ root).clip(min=0)
    return float(gap @ gap + np.trace(A) + np.trace(B) - 2 * np.sqrt(cross).sum())


def _root(S: np.ndarray) -> np.ndarray:
    """The symmetric square root of a covariance."""
    values, vectors = np.linalg.eigh(S)
    return (vectors * np.sqrt(values.clip(min=0))) @ vectors.T


def kernel_distance(a: np.ndarray, b: np.ndarray) -> tuple[float, float | None]:
    r"""The squared maximum mean discrepancy of a [N, F] and b [M, F] under a cubic kernel, and its standard error.

    .. math:: E[k(a, a')] + E[k(b, b')] - 2 E[k(a, b)], \quad k(x, y) = (x \cdot y / F + 1)^3

    Each mean is over all pairs of different vectors, so the estimate is unbiased whatever their number, and may be
    below 0: the kernel distance of Bińkowski et al. (2018), section 4, https://arxiv.org/abs/1801.01401. The standard
    error is that of the mean over ten disjoint blocks of both sets, than which all pairs together are no worse; None
    for fewer than four vectors. Both sets must be in random order.
    """
    blocks = min(BLOCKS, len(a) // 2, len(b) // 2)
    if blocks < 2:
        return _mmd(a, b), None
    each = [_mmd(x, y) for x, y in zip(np.array_split(a, blocks), np.array_split(b, blocks), strict=True)]
    return _mmd(a, b), float(np.std(each, ddof=1) / np.sqrt(blocks))


def _mmd(a: np.ndarray, b: np.ndarray) -> float:
    between = sum(_cubic(part @ b.T, b).sum() for part in _parts(a)) / (len(a) * len(b))
    return float(_within(a) + _within(b) - 2 * between)


def _within(x: np.ndarray) -> float:
    """The mean of k over all pairs of different vectors."""
    own = _cubic((x**2).sum(1), x).sum()
    return (sum(_cubic(part @ x.T, x).sum() for part in _parts(x)) - own) / (len(x) * (len(x) - 1))


def _cubic(product: np.ndarray, x: np.ndarray) -> np.ndarray:
    return (product / x.shape[1] + 1) ** 3


def _parts(x: np.ndarray) -> list[np.ndarray]:
    return [x[i : i + ROWS] for i in range(0, len(x), ROWS)]


def covered(points: np.ndarray, by: np.ndarray, k: int = 3) -> np.ndarray:
    """Which of the points [N, F] lie in the estimated manifold of a set [M, F]: bool [N].

    That is within the distance of some vector of the set to its k-th nearest other one; Kynkäänniemi et al. (2019),
    eq. 1, https://arxiv.org/abs/1904.06991. The share of samples that the real images cover is their precision, that of
    real images that the samples cover the recall.
    """
    set_, k = torch.from_numpy(by), min(k, len(by) - 1)
    radii = torch.cat([torch.cdist(p, set_).kthvalue(k + 1).values for p in set_.split(ROWS)])  # the first is itself
    return torch.cat([(torch.cdist(p, set_) <= radii).any(1) for p in torch.from_numpy(points).split(ROWS)]).numpy()

"""How like two sets of images are: as principal components of their pixels, by the Fréchet distance."""

import numpy as np

FITTED, NUMBERS = 10_000, 2**26  # images, at most, that components are fitted to, and their pixels


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


def enough(dims: int) -> int:
    """How many images of so many pixels components are fitted to, which take memory."""
    return max(2, min(FITTED, NUMBERS // dims))


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

"""The images of a split on a plane: their codes, found block by block, and the way from a place back to a code."""

import importlib
import importlib.util
import threading
import time
from typing import NamedTuple

import numpy as np
import torch
from sklearn.decomposition import PCA
from torch import Tensor

from lowerbound.errors import UserError
from lowerbound.explorer.shelf import Shown
from lowerbound.model import LatentModel

MOST_BYTES = 2**28  # of the codes of a split; of longer codes fewer images are taken
BLOCK = 512  # images encoded at a time
TURN = 0.2  # seconds of encoding until the page is told
FITTED = 20_000  # codes that the plane is fitted to
NEAREST = 12  # images whose codes a place takes after


class Plane(NamedTuple):
    """z = mean + axes p, and back by the nearest point."""

    mean: np.ndarray  # [D]
    axes: np.ndarray  # [2, D], orthonormal
    share: tuple[float, ...]  # of the variance along each; () where the codes are shown as they are

    def places(self, z: np.ndarray) -> np.ndarray:
        """Codes [N, D] -> [N, 2]."""
        return ((z - self.mean) @ self.axes.T).astype(np.float32)

    def codes(self, at: np.ndarray) -> np.ndarray:
        """[N, 2] -> those in the plane, [N, D]."""
        return self.mean + at @ self.axes


def principal(z: np.ndarray) -> Plane:
    """The plane along which codes [N, D] vary most; of two numbers or one, themselves."""
    size = z.shape[1]
    if size <= 2 or len(z) < 3:
        return Plane(np.zeros(size), np.eye(2, size), ())
    fitted = PCA(2, random_state=0).fit(z[:FITTED].astype(np.float64))
    return Plane(
        np.asarray(fitted.mean_), np.asarray(fitted.components_), tuple(map(float, fitted.explained_variance_ratio_))
    )


class Encoding:
    """The codes of a split's images in an order of chance, so that the first are like all. Several pages may ask."""

    def __init__(self, shown: Shown, split: str):
        self.shown = shown
        self.split = split
        self.images = shown.data(split)
        size = shown.codec.size
        n = max(3, min(len(self.images), MOST_BYTES // (4 * size)))
        self.rows = np.random.default_rng(0).permutation(len(self.images))[:n]  # point i is image rows[i]
        self.z = np.zeros((len(self.rows), size), np.float32)
        self.done = 0
        self.plane = principal(self.z[:0])
        self._fitted = 0  # codes that the plane knows of
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.rows)

    def advance(self) -> None:
        """Encodes for a moment, unless all is done."""
        begun = time.monotonic()
        while self.done < len(self) and time.monotonic() - begun < TURN:
            with self._lock:
                self._encode()

    def _encode(self) -> None:
        block = min(BLOCK, self.shown.model.rows)
        rows = self.rows[self.done : self.done + block]
        if not len(rows):
            return
        batch = self.shown.batch(self.split, rows)
        found = self.shown.codec.encode(batch.x, batch.y).float().cpu().numpy()
        self.z[self.done : self.done + len(rows)] = found
        done = self.done + len(rows)
        if done >= 2 * self._fitted or (done == len(self) and self._fitted < FITTED):
            self.plane, self._fitted = principal(self.z[:done]), done
        self.done = done

    def places(self) -> np.ndarray:
        """Of the points that there are, [n, 2]."""
        return self.plane.places(self.z[: self.done])

    def nearest(self, z: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The points whose codes are nearest to one [D], and how far they are, the nearest first."""
        return _first(np.linalg.norm(self.z[: self.done] - z, axis=1), count)

    def codes_at(self, at: np.ndarray, placed: np.ndarray, exact: bool) -> np.ndarray:
        """The codes of places [N, 2], float64 [N, D].

        exact: those in the plane, beside which every other direction is at its mean. Else they take after the images
        around them in what the plane does not show. placed [n, 2]: where the images are.
        """
        flat = self.plane.codes(at)
        return flat if exact else flat + np.stack([self._beside(p, placed, self.plane) for p in at])

    def codes_among(self, at: np.ndarray, placed: np.ndarray) -> np.ndarray:
        """The same of places on a map that is no plane: means of the codes around them."""
        return np.stack([self._beside(p, placed, None) for p in at])

    def _beside(self, p: np.ndarray, placed: np.ndarray, plane: Plane | None) -> np.ndarray:
        near, far = _first(np.linalg.norm(placed - p, axis=1), NEAREST)
        weights = np.exp(-2 * (far / max(float(far[-1]), 1e-12)) ** 2)
        z = self.z[near].astype(np.float64)
        rest = z if plane is None else z - plane.codes(placed[near])
        return weights @ rest / weights.sum()


def _first(distances: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    count = min(count, len(distances))
    found = np.argpartition(distances, count - 1)[:count]
    found = found[np.argsort(distances[found], kind="stable")]
    return found, distances[found]


def has_umap() -> bool:
    return importlib.util.find_spec("umap") is not None


def umap(z: np.ndarray) -> np.ndarray:
    """Codes [N, D] as UMAP lays them out, [N, 2]. McInnes, Healy & Melville (2018), https://arxiv.org/abs/1802.03426

    Raises UserError where umap-learn is not installed, and for too few codes.
    """
    if not has_umap():
        raise UserError("UMAP needs umap-learn: pip install umap-learn")
    if len(z) < 16:
        raise UserError(f"UMAP: expected at least 16 images, got {len(z)}")
    found = importlib.import_module("umap").UMAP(n_components=2, random_state=0).fit_transform(z)
    return np.asarray(found, np.float32)


def as_codes(shown: Shown, z: np.ndarray) -> Tensor:
    """Codes [N, D] as the model takes them: of whole numbers the nearest that there are."""
    codec = shown.codec
    at = torch.from_numpy(np.asarray(z, np.float64))
    if codec.values is None:
        return at.to(shown.device)
    assert isinstance(codec.model, LatentModel)
    return at.round().clamp(0, codec.values - 1).to(shown.device, codec.model.latents[0].dtype)


def along(points: np.ndarray, n: int) -> np.ndarray:
    """So many places at equal distances on a line through points [M, 2], from the first to the last: [n, 2]."""
    steps = np.linalg.norm(np.diff(points, axis=0), axis=1)
    way = np.concatenate([[0.0], np.cumsum(steps)])
    where = np.linspace(0, way[-1], n)
    return np.stack([np.interp(where, way, points[:, i]) for i in range(2)], 1)

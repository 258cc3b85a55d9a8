"""How like the data a set of samples is, both seen as vectors: Fréchet and kernel distance, precision and recall.

NAME.real is what real training images get in the samples' place: what a perfect model would reach.
"""

from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from pydantic import Field

from lowerbound.errors import ConfigError
from lowerbound.likeness import frechet
from lowerbound.metrics import extractors, samples
from lowerbound.metrics.base import Metric, Value, World
from lowerbound.metrics.extractors import Input
from lowerbound.parallel import each_once

MOST = 5000  # samples, and as many real images
BLOCKS = 10  # that the standard error of the kernel distance is taken over
PARTS, PARTINGS = 5, 8  # of the set whose manifold covers the other, for the standard error of precision and recall
ROWS = 1024  # vectors whose distances to all others are held at a time


class OfSets(Metric, abstract=True):
    """Compares samples with real images of the split, and training images with the same.

    samples: None: as many as there are images, at most MOST, and fewer where drawing takes long.
    extractor: what makes vectors of images: the run of a classifier, or a TorchScript or ONNX file, which may take
    another size or range of values; None: principal components of the pixels.
    """

    suffixes: ClassVar[tuple[str, ...]] = ("", ".real")
    costly: ClassVar[bool] = True
    # that are drawn; None: as many as there are images, and fewer where drawing takes long
    samples: int | None = Field(default=None, ge=2)
    # of the features: a classifier's run, a TorchScript or ONNX file; None: components of pixels
    extractor: Path | None = None
    extractor_size: int | None = Field(default=None, ge=2)  # side in pixels of the images that a file's network takes
    extractor_range: tuple[float, float] = (0.0, 1.0)  # the values of black and white that it takes

    def applies(self, world: World) -> bool:
        return world.run is not None

    def __call__(self, world: World) -> dict[str, Value]:
        given = Input(self.extractor_size, *self.extractor_range)
        sets = world.once(
            ("sets", self.samples, self.extractor, given), lambda: _sets(world, self.samples, self.extractor, given)
        )
        return {
            self.names[0] + suffix: self.compare(a, sets.real)._replace(recipe=sets.recipe | {"samples": len(a)})
            for suffix, a in zip(self.suffixes, (sets.samples, sets.other), strict=True)
        }

    @abstractmethod
    def compare(self, a: np.ndarray, real: np.ndarray) -> Value:
        """Vectors a [N, F] with those of real images [M, F], both in random order."""


class Frechet(OfSets):
    """The squared Fréchet distance: see `likeness.frechet`."""

    names: ClassVar[tuple[str, ...]] = ("frechet",)

    def compare(self, a: np.ndarray, real: np.ndarray) -> Value:
        return Value(frechet(a, real), None, "squared distance", "=", len(a), 0)


class Kernel(OfSets):
    """The squared maximum mean discrepancy: see `kernel_distance`."""

    names: ClassVar[tuple[str, ...]] = ("kernel",)

    def compare(self, a: np.ndarray, real: np.ndarray) -> Value:
        value, stderr = kernel_distance(a, real)
        return Value(value, stderr, "squared discrepancy", "=", len(a), 0)


class Precision(OfSets):
    """The share of samples within the manifold of the real images: see `covered`."""

    names: ClassVar[tuple[str, ...]] = ("precision",)

    def compare(self, a: np.ndarray, real: np.ndarray) -> Value:
        return coverage(a, real, "of samples")


class Recall(OfSets):
    """The share of real images within the manifold of the samples: see `covered`."""

    names: ClassVar[tuple[str, ...]] = ("recall",)

    def compare(self, a: np.ndarray, real: np.ndarray) -> Value:
        return coverage(real, a, "of images")


# ---- images as vectors


class Sets(NamedTuple):
    """What is compared, as vectors [n, F] in random order."""

    samples: np.ndarray
    other: np.ndarray  # training images
    real: np.ndarray  # images of the split
    recipe: dict[str, Any]  # what the comparison depends on


def _sets(world: World, asked: int | None, where: Path | None, given: Input) -> Sets:
    n = samples.count(world, asked, min(MOST, len(world.images)))
    train, levels = world.open("train"), samples.levels(world)
    chosen, order = samples.shuffled(world, world.images)[:n], samples.shuffled(world, train)
    scored, fitted = (order[:n], order[:0]) if where else extractors.parted(order, n, train.x[0].size)
    if min(len(chosen), len(scored)) < 2:
        raise ConfigError(f"to compare samples with: expected at least 2 images of {world.images.split}, 4 of train")
    if where is None:
        extractor = extractors.pixels(samples.pixels(world, train, fitted), levels)
    else:
        extractor = extractors.opened(where, given, levels, world.batches.device)
    assert world.run is not None
    drawn = samples.draw(world, n, samples.labels(world.run, n, world.seed))
    other, real = samples.pixels(world, train, scored), samples.pixels(world, world.images, chosen)
    recipe = samples.recipe(world) | {"extractor": extractor.recipe, "images": len(real)}
    return Sets(extractor.vectors(drawn), extractor.vectors(other), extractor.vectors(real), recipe)


# ---- two sets of vectors


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
    own, others = set_.split(ROWS), torch.from_numpy(points).split(ROWS)
    # the first is itself
    radii = torch.cat(each_once(lambda i: torch.cdist(own[i], set_).kthvalue(k + 1).values, len(own)))
    return torch.cat(each_once(lambda i: (torch.cdist(others[i], set_) <= radii).any(1), len(others))).numpy()


def coverage(points: np.ndarray, by: np.ndarray, unit: str, k: int = 3) -> Value:
    """The share of the points [N, F] that a set [M, F] covers, with what both of them bring to its error.

    The share varies by its points as any does, by p (1 - p) / N, and by the set: that variance is M / m times less than
    by sets of m, which parts of this one are, in PARTINGS ways into PARTS.
    """
    also = _variance_by_set(points, by, k)
    return Value.share(covered(points, by, k).astype(float), unit, draws=0, also=also)


def _variance_by_set(points: np.ndarray, by: np.ndarray, k: int) -> float:
    """Of the share of points that a set covers, by the choice of the set; 0 for sets too small to be parted."""
    rng, N = np.random.default_rng(0), len(points)
    if len(by) < PARTS * (k + 1) or N < 2:
        return 0.0
    found = []
    for _ in range(PARTINGS):
        parts = np.array_split(by[rng.permutation(len(by))], PARTS)
        inside = np.stack([covered(points, part, k) for part in parts]).astype(float)  # [PARTS, N]
        own = inside.var(0, ddof=1).mean()  # of the points by themselves, which is no part of it
        found.append((N * inside.mean(1).var(ddof=1) - own) / (N - 1) / PARTS)
    return max(0.0, float(np.mean(found)))

"""Sprites and scenes: images that the library renders from known factors, as many as `data.images` says."""

from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lowerbound.data.attributes import Factor
from lowerbound.data.bundled import Bundled, Published
from lowerbound.data.decode import prepare
from lowerbound.data.rendered import scenes, sprites
from lowerbound.data.source import Contents, Preparation, Varied
from lowerbound.data.split import PARTS, UNDECIDED
from lowerbound.errors import DataError

IMAGES = 10_000  # where nothing else is asked for
SIZE = 64  # of a scene, in pixels
SIZES = (32, 256)
COLUMNS = 8  # images of each factor that are shown
BLOCK = 256  # images rendered between two reports of progress
VERSION = 2  # of the pictures: a change of a renderer makes new ones


class Rendered(Published):
    """Rows are drawn from their factors' ranges by the seed; the first are the same for every number of images."""

    rendered = True

    def __init__(self, name: str, files: list[Path], preparation: Preparation):
        super().__init__(name, files, preparation)
        self.count = preparation.images or IMAGES
        self.origin = name

    def fingerprint(self) -> Any:
        return VERSION

    def described(self, values: np.ndarray, levels: int, kinds: tuple[Factor, ...]) -> Contents:
        self.values, self.kinds = values, kinds
        return Contents(
            keys=[str(i) for i in range(len(values))],
            part=np.full(len(values), UNDECIDED, np.int8),
            carve=PARTS[1:],
            shape=self.prepared_shape(),
            levels=self.preparation.levels or levels,
            factors=values.astype(np.float32),
            factor_names=tuple(f.name for f in kinds),
            kinds=kinds,
        )

    def varied(self) -> Varied:
        factors = self.kinds
        grids = [np.resize(f.grid(COLUMNS), COLUMNS) for f in factors]
        rows = np.repeat(self.usual()[None, None], COLUMNS, 1).repeat(len(factors), 0)
        for i, grid in enumerate(grids):
            rows[i, :, i] = grid
        x = self.pictured(rows.reshape(-1, len(factors)))
        return Varied(
            x.reshape(len(factors), COLUMNS, *x.shape[1:]), tuple(f"{f.name} {f.said_in_all()}" for f in factors)
        )

    def pictured(self, values: np.ndarray) -> np.ndarray:
        return prepare(self.pictures(values), self.prepared_shape(), self.preparation.crop)

    @abstractmethod
    def usual(self) -> np.ndarray:
        """The factors of which one is varied at a time: [F]."""

    @abstractmethod
    def pictures(self, values: np.ndarray) -> np.ndarray:
        """Of factors [n, F]: uint8 [n, *raw_shape]."""

    def blocks(self) -> Iterator[np.ndarray]:
        for start in range(0, len(self.values), BLOCK):
            yield self.pictures(self.values[start : start + BLOCK])


class Sprites(Rendered):
    def contents(self) -> Contents:
        if self.count > sprites.COMBINATIONS:
            raise DataError(f"data.images={self.count}: there are {sprites.COMBINATIONS:,} sprites; set at most that")
        if self.preparation.objects != 1:
            raise DataError(f"data.objects={self.preparation.objects}: sprites have one shape; set data.objects=1")
        self.raw_shape = (1, sprites.SIZE, sprites.SIZE)
        return self.described(sprites.drawn(self.count, self.preparation.seed), 2, sprites.FACTORS)

    def usual(self) -> np.ndarray:
        return np.array([2, 0.8, 0, 0.5, 0.5])

    def pictures(self, values: np.ndarray) -> np.ndarray:
        return sprites.rendered(values)


class Scenes(Rendered):
    def contents(self) -> Contents:
        size, objects = self.preparation.size or SIZE, self.preparation.objects
        if not SIZES[0] <= size <= SIZES[1]:
            raise DataError(f"data.size={size}: scenes are of {SIZES[0]} to {SIZES[1]} pixels")
        if not 1 <= objects <= scenes.MOST:
            raise DataError(f"data.objects={objects}: scenes have 1 to {scenes.MOST} objects")
        self.raw_shape = (3, size, size)
        views = self.preparation.views or 1
        values = scenes.drawn(self._scenes(views), objects, self.preparation.seed, views)
        return self.described(values, 256, scenes.factors(objects))

    def _scenes(self, views: int) -> int:
        """How many there are. Raises DataError where the images that are asked for are no whole number of them."""
        if self.preparation.images is not None and self.count % views:
            near = self.count // views * views
            raise DataError(
                f"data.images={self.count}: is no multiple of data.views={views}; set {near or views} or {near + views}"
            )
        return self.count // views

    def usual(self) -> np.ndarray:
        return scenes.rows([{}], self.preparation.objects)[0]

    def pictures(self, values: np.ndarray) -> np.ndarray:
        return scenes.rendered(values, self.raw_shape[1], objects=self.preparation.objects)


BUNDLED = (
    Bundled("sprites", "rendered 64x64 silhouettes, 2 levels; shape, scale, orientation, x, y", (), Sprites),
    Bundled("scenes", "rendered bodies in a room; shape, hue, reflectance, light, background, camera", (), Scenes),
)

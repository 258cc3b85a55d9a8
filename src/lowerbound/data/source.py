"""What a source of images answers: what it holds, whether it changed, and its pixels row by row."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from lowerbound.data.decode import check_levels, prepare
from lowerbound.data.images import Annotated, Shape
from lowerbound.errors import DataError


class Preparation(NamedTuple):
    """How images become pixels: what of a data set's configuration the cache depends on."""

    size: int | None = None  # shorter side to this many pixels, centre crop; None: as they are
    gray: bool = False
    levels: int | None = None  # None: what the source says
    crop: float | None = None  # the middle square alone, whose side is this share of the shorter one; None: all
    images: int | None = None  # of data that are rendered: how many, by which seed, with how many objects
    seed: int = 0
    objects: int = 1
    views: int | None = None  # of each scene, one after another

    def key(self) -> list[Any]:
        """What tells it from others, as JSON values; without a crop, or views, as it was before there were any."""
        if self.views is not None:
            return list(self)
        usual = 4 if self.crop is not None else 3
        return list(self[:7] if self[4:] != Preparation()[4:] else self[:usual])

    def square(self, height: int, width: int) -> tuple[int, int]:
        """The height and width that images of these become."""
        if self.crop is not None:
            height = width = max(1, round(self.crop * min(height, width)))
        return self.size or height, self.size or width


@dataclass(frozen=True)
class Contents(Annotated):
    """What a source holds, before its pixels are read."""

    BY_ROW: ClassVar[tuple[str, ...]] = ("keys", "part", *Annotated.BY_ROW)

    keys: Sequence[str]  # [N], what is hashed into a part: relative path, row number, identity
    part: np.ndarray  # int8 [N], index into split.PARTS, or split.UNDECIDED
    carve: tuple[str, ...]  # the parts that undecided rows are dealt to, besides train
    shape: Shape  # after preparation
    levels: int


class Varied(NamedTuple):
    """Images to look at, in rows of which each varies one factor."""

    x: np.ndarray  # uint8 [R, S, C, H, W]
    names: tuple[str, ...]  # [R]


Keep = Callable[[int, np.ndarray], None]  # given rows i to i + n, prepared: uint8 [n, C, H, W]


class Source(ABC):
    """A data set where it lies."""

    rendered: bool = False  # by the library, as many as are asked for
    name: str
    origin: str  # where it lies; one origin keeps one version in the cache for each preparation

    @abstractmethod
    def fingerprint(self) -> Any:
        """JSON values that differ whenever the content may differ. Reads no pixels."""

    @abstractmethod
    def contents(self) -> Contents:
        """What it holds. Raises DataError where that can't be trained on."""

    @abstractmethod
    def rows(self, contents: Contents, keep: Keep) -> Iterator[tuple[int, int | str]]:
        """(i, n) once `keep` was given rows i to i + n, or (i, reason) where row i can't be read. In any order, and
        `keep` is called by several threads."""

    def rows_of(self, contents: Contents, wanted: np.ndarray, keep: Keep) -> Iterator[tuple[int, int | str]]:
        """As `rows`, of at least the rows `wanted` [n]: a source that reads each by itself leaves out the others."""
        return self.rows(contents, keep)

    def varied(self) -> Varied | None:
        """A row for each factor; None of data that are not rendered. Asked once `contents` was."""
        return None

    def pictured(self, values: np.ndarray) -> np.ndarray | None:
        """Images of these factors [n, F], prepared: uint8 [n, C, H, W]; None of data that are not rendered."""
        return None

    def notes(self) -> tuple[str, ...]:
        """What the user should know of the pixels, a line each; asked once all rows are read."""
        return ()


class Changed(Source):
    """A source of which the pixels stay, and something else that its contents say is changed."""

    def __init__(self, source: Source):
        self.source, self.name, self.origin, self.rendered = source, source.name, source.origin, source.rendered

    def fingerprint(self) -> Any:
        return self.source.fingerprint()

    def rows(self, contents: Contents, keep: Keep) -> Iterator[tuple[int, int | str]]:
        return self.source.rows(contents, keep)

    def rows_of(self, contents: Contents, wanted: np.ndarray, keep: Keep) -> Iterator[tuple[int, int | str]]:
        return self.source.rows_of(contents, wanted, keep)

    def varied(self) -> Varied | None:
        return self.source.varied()

    def pictured(self, values: np.ndarray) -> np.ndarray | None:
        return self.source.pictured(values)

    def notes(self) -> tuple[str, ...]:
        return self.source.notes()


class ArraySource(Source):
    """A source that holds arrays: every row is readable and of one shape."""

    preparation: Preparation
    raw_shape: Shape  # (C, H, W) before preparation; known once `contents` was called

    @abstractmethod
    def blocks(self) -> Iterator[np.ndarray]:
        """uint8 [n, C, H, W] in the order of the rows, each a small part of the whole."""

    def prepared_shape(self) -> Shape:
        channels, height, width = self.raw_shape
        return (1 if self.preparation.gray else channels, *self.preparation.square(height, width))

    def rows(self, contents: Contents, keep: Keep) -> Iterator[tuple[int, int | str]]:
        start = 0
        for block in self.blocks():
            check_levels(block, contents.levels, f"{self.origin}, rows {start} to {start + len(block) - 1}")
            keep(start, prepare(block, contents.shape, self.preparation.crop))
            yield start, len(block)
            start += len(block)
        if start != len(contents.keys):
            raise DataError(f"{self.origin}: {len(contents.keys)} images were announced, {start} are there")

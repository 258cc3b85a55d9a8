"""Images and what is known of them besides their pixels."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np

from lowerbound.data.attributes import Factor
from lowerbound.data.rows import Rows
from lowerbound.errors import counted

Shape = tuple[int, int, int]  # (C, H, W)
HASH = 16  # bytes
Which = slice | np.ndarray  # rows: from, to; or int64 [n]


class Failed(NamedTuple):
    """A user's file that can't be read, and why."""

    path: str  # as the user gave it, or relative to the root of the data
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@dataclass(frozen=True, kw_only=True)
class Annotated:
    """What is known of images besides their pixels, for others to inherit. A row is one image; None: nothing is."""

    BY_ROW: ClassVar[tuple[str, ...]] = ("y", "paths", "factors")  # the fields that have a value for each image

    y: np.ndarray | None = None  # int64 [N]
    classes: tuple[str, ...] | None = None  # names of the labels, in order
    paths: Sequence[str] | None = None  # [N], relative to the root
    factors: np.ndarray | None = None  # [N, F]; NaN where nothing is known
    factor_names: tuple[str, ...] | None = None
    kinds: tuple[Factor, ...] | None = None  # of the factors, in their order; None: numbers, as far as anyone knows
    factor_cut: float | None = None  # an image has a factor whose number is above this; None: nothing is said
    views: int | None = None  # so many images after one another are of one scene; None: each is of its own
    unreadable: tuple[Failed, ...] = ()  # of the whole data set
    ignored: int = 0  # files of the whole data set that are no images by their extension
    layout: str = ""  # what the data were taken for and what of them was left out, in one line; "": as published
    notes: tuple[str, ...] = ()  # what the user should know of the data, a line each

    def take(self, rows: Which) -> Self:
        """These rows alone. A slice shares the arrays, an index [n] copies."""
        return replace(self, **{name: _taken(getattr(self, name), rows) for name in self.BY_ROW})


@dataclass(frozen=True)
class Images(Annotated):
    """One part of a data set. Image i stays image i as long as the data don't change.

    The arrays are memory mapped; `x[indices]` is a copy. Writing to them changes neither the cache nor other processes.
    Of data that lie in shards, x is an array in memory up to the size of `data.window`, else `data.rows.Rows`.
    """

    BY_ROW: ClassVar[tuple[str, ...]] = ("x", *Annotated.BY_ROW)

    name: str
    split: str
    x: np.ndarray  # uint8 [N, C, H, W], values below `levels`
    levels: int

    def __len__(self) -> int:
        return len(self.x)

    @property
    def shape(self) -> Shape:
        """(C, H, W)."""
        c, h, w = self.x.shape[1:]
        return c, h, w

    def head(self, n: int) -> "Images":
        """The first n images, or all where there are fewer; of scenes in several views, whole scenes."""
        return self.take(slice(0, n if self.views is None else -(-n // self.views) * self.views))

    def remarks(self) -> list[str]:
        """What to tell whoever opens the data: their layout, what is odd, what can't be read; a line each."""
        return [f"{self.name}: {line}" for line in (self.layout, *self.notes, self.left_out()) if line]

    def left_out(self) -> str:
        """How many files can't be read, and the first of them; "" where there are none."""
        shown = "; ".join(map(str, self.unreadable[:5]))
        return f"{counted(len(self.unreadable), 'file')} can't be read, left out: {shown}" if shown else ""

    @cached_property
    def fingerprint(self) -> str:
        """What tells these images from others: pixels, levels, names, labels and factors, in their order.

        The same wherever the data lie and whenever they were written. The cache remembers that of each part.
        """
        return self.fingerprint_by(pixel_hashes(self.x))

    def fingerprint_by(self, hashes: np.ndarray) -> str:
        """The same, where the hashes of the images' pixels, uint8 [N, HASH], are at hand."""
        facts = [list(self.x.shape[1:]), self.levels, self.classes, self.factor_names]
        digest = hashlib.sha256(json.dumps(facts).encode())
        for values in (hashes, self.y, self.factors):
            digest.update(b"-" if values is None else hashlib.sha256(np.ascontiguousarray(values).data).digest())
        names = "" if self.paths is None else "\0".join(self.paths)
        digest.update(hashlib.sha256(names.encode("utf-8", "surrogateescape")).digest())
        return digest.hexdigest()[:32]

    def known_by(self, fingerprint: str) -> "Images":
        """Itself, once told its fingerprint, which then is not computed from the pixels."""
        self.__dict__["fingerprint"] = fingerprint  # no field, which `replace` would hand on to other images
        return self


def pixel_hashes(x: np.ndarray) -> np.ndarray:
    """A hash of each image, of uint8 [N, C, H, W]: uint8 [N, HASH]."""
    joined = b"".join(hashlib.sha256(np.ascontiguousarray(row).data).digest()[:HASH] for row in x)
    return np.frombuffer(joined, np.uint8).reshape(-1, HASH)


def mean_pixel(x: np.ndarray, block: int = 4096) -> list[float]:
    """The mean of uint8 [N, C, H, W] per channel, a block of images at a time: [C]."""
    total = np.zeros(x.shape[1])
    for start in range(0, len(x), block):
        total += x[start : start + block].sum((0, 2, 3), dtype=np.int64)
    return (total / (len(x) * x.shape[2] * x.shape[3])).tolist()


def _taken(values: Any, rows: Which) -> Any:
    if isinstance(values, Rows):
        return values.taken(rows)
    if values is None or isinstance(values, np.ndarray) or isinstance(rows, slice):
        return None if values is None else values[rows]
    return [values[i] for i in rows.tolist()]

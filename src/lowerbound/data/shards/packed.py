"""Shards as a source of images: their pixels are read where they lie, and checked when they are first read."""

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from lowerbound.data.cache import Stored
from lowerbound.data.entries import Texts, annotations, arrays_of, facts_of, images_of
from lowerbound.data.images import pixel_hashes
from lowerbound.data.rows import PIECE, Rows
from lowerbound.data.shards.index import INDEX, Index, array, looks_packed, read_index
from lowerbound.data.shards.places import Local, Place, Range, is_url, place_of
from lowerbound.data.source import Contents, Keep, Preparation, Source
from lowerbound.data.split import PARTS, assign
from lowerbound.errors import DataError

MOST = 2**23  # bytes of a range
SOME = 2**26  # bytes that are read before they are handed on
SAID = ("y", "factors", "paths", "ends")  # of each image, what images have besides their pixels


def is_packed(source: str) -> bool:
    """Whether a path or a URL is of shards: every URL is."""
    path = Path(source).expanduser()
    return is_url(source) or looks_packed(path) or (path.name == INDEX and looks_packed(path.parent))


class Packed(Source):
    """A folder of shards, or the URL of one. Raises DataError for what is none, or was packed otherwise than asked."""

    def __init__(self, source: str, preparation: Preparation | None = None):
        self.place = place_of(source)
        self.index = read_index(self.place)
        if preparation is not None:
            _check_alike(source, preparation, self.index)
        self.name = self.index.facts["name"]
        self.origin = self.place.name

    def fingerprint(self) -> Any:
        return [self.index.fingerprints, self.index.files]

    def arrays(self, *names: str) -> dict[str, np.ndarray]:
        """Of these, what there is: a row for each image, in the order of the shards."""
        found = {name: array(self.place, self.index, name) for name in names}
        return {name: values for name, values in found.items() if values is not None}

    @cached_property
    def places(self) -> np.ndarray:
        """Where each row of the source that was packed is in the shards: int64 [N]."""
        return np.argsort(self.arrays("row")["row"], kind="stable")

    def contents(self) -> Contents:
        """As the source that was packed said it, in its order."""
        arrays = self.arrays(*SAID, "keys", "key_ends", "part")
        own = ("keys", "key_ends") if "keys" in arrays else ("paths", "ends")
        stored = Contents(
            keys=Texts(*(arrays[name] for name in own)),
            part=arrays["part"],
            carve=self.index.carve,
            shape=self.index.shape,
            levels=self.index.facts["levels"],
            **annotations(self.index.facts, arrays),
        )
        return stored.take(self.places)

    def rows(self, contents: Contents, keep: Keep) -> Iterator[tuple[int, int | str]]:
        pixels = self.pixels(window=0)
        n = max(1, PIECE // pixels.width)
        for start in range(0, len(pixels), n):
            block = pixels[self.places[start : start + n]]
            keep(start, block)
            yield start, len(block)

    def pixels(self, window: int) -> Rows:
        """In the order of the shards."""
        if isinstance(self.place, Local):
            self.place.check((shard.file, shard.bytes) for shard in self.index.shards)
        return Rows(Pixels(self.place, self.index, self.hashes()), window)

    def hashes(self) -> np.ndarray:
        """Of each image's pixels: uint8 [N, HASH]."""
        found = array(self.place, self.index, "hashes")
        if found is None or len(found) != self.index.n:
            raise DataError(self.place.told("hashes.npy", "is not of these shards; pack the data again"))
        return found

    def stored(self, window: int) -> Stored:
        """The data set as it was packed. window: the bytes of pixels that may be held in memory."""
        rows = self.pixels(window)
        images = images_of(self.index.facts, self.arrays(*SAID), rows.taken(slice(None)))
        return Stored(images, self.index.counts, self.index.fingerprints)


def changed(source: Source, packed: Packed, window: int) -> Stored:
    """The data set of shards of which a source says other things, such as other parts or more factors."""
    contents = source.contents()
    part = assign(contents.keys, contents.part, contents.carve)
    order = np.argsort(part, kind="stable")
    contents, place = contents.take(order), packed.places[order]
    contents = replace(contents, notes=(*contents.notes, *source.notes()))
    unread = packed.pixels(window=0).view(place)
    images = images_of(facts_of(contents, packed.name, contents.levels), arrays_of(contents), unread)
    stored = Stored(images, {name: int((part == i).sum()) for i, name in enumerate(PARTS)}, {})
    hashes = packed.hashes()[place]
    found = {p: images.take(rows := stored.rows(p)).fingerprint_by(hashes[rows]) for p in ("all", *PARTS)}
    x = packed.pixels(window).view(place).taken(slice(None))
    return stored._replace(images=replace(images, x=x), fingerprints=found)


def _check_alike(source: str, asked: Preparation, index: Index) -> None:
    """Raise DataError where images would be prepared otherwise than they were packed."""
    had, (channels, height, width) = index.preparation, index.shape
    other = {
        "size": asked.size if asked.size is not None and (height, width) != (asked.size, asked.size) else None,
        "gray": "true" if asked.gray and channels != 1 else None,
        "crop": asked.crop if asked.crop != had.crop else None,
        "levels": asked.levels if asked.levels not in (None, index.facts["levels"]) else None,
    }
    for name, value in other.items():
        if value is not None:
            raise DataError(
                f"data.{name}={value}: {source} holds images of {width}x{height}, {channels} channels and "
                f"{index.facts['levels']} levels, as they were packed; pack the data anew with {name}={value}"
            )


class Pixels:
    """The pixels of shards, read in ranges by one thread or several."""

    def __init__(self, place: Place, index: Index, hashes: np.ndarray):
        self.place, self.index, self.shape, self.hashes = place, index, index.shape, hashes
        self.width = int(np.prod(index.shape))
        self.ends = np.cumsum([shard.rows for shard in index.shards])  # of each shard, its last row and one
        self.unseen = np.ones(index.n, bool)

    def __len__(self) -> int:
        return self.index.n

    def read(self, rows: np.ndarray) -> np.ndarray:
        """uint8 [n, C, H, W]. Raises DataError for what is not there, or not as it was packed."""
        out = np.empty((len(rows), *self.shape), np.uint8)
        order = np.argsort(rows, kind="stable")
        runs = self._runs(rows[order])
        while runs:
            some = [runs.pop(0)]
            size = (some[0].stop - some[0].start) * self.width
            while runs and size < SOME:
                some.append(runs.pop(0))
                size += (some[-1].stop - some[-1].start) * self.width
            wanted = [rows[order[run]] for run in some]
            for run, own, data in zip(some, wanted, self.place.ranges([self._range(w) for w in wanted]), strict=True):
                block = np.frombuffer(data, np.uint8).reshape(-1, *self.shape)
                own = own - own[0]
                out[order[run]] = block[own]
        self._check(rows, out)
        return out

    def _runs(self, rows: np.ndarray) -> list[slice]:
        """Of sorted rows, those that are read as one range: of one shard, near each other, not too many bytes."""
        if not len(rows):
            return []
        shard = np.searchsorted(self.ends, rows, "right")
        far = np.diff(rows) > 1 + self.place.gap // self.width
        most = max(1, MOST // self.width)
        starts = [0, *(np.flatnonzero(far | (np.diff(shard) > 0)) + 1).tolist(), len(rows)]
        runs = []
        for start, end in pairwise(starts):
            while start < end:
                stop = start + int(np.searchsorted(rows[start:end], rows[start] + most))
                runs.append(slice(start, stop))
                start = stop
        return runs

    def _range(self, rows: np.ndarray) -> Range:
        """The bytes of rows, sorted, of one shard."""
        i = int(np.searchsorted(self.ends, rows[0], "right"))
        shard = self.index.shards[i]
        start = shard.bytes - int(self.ends[i] - rows[0]) * self.width  # its pixels end where the file does
        return Range(shard.file, start, start + int(rows[-1] - rows[0] + 1) * self.width)

    def _check(self, rows: np.ndarray, x: np.ndarray) -> None:
        """Raise DataError for a pixel that is another, of images that were not read before."""
        new = np.flatnonzero(self.unseen[rows])
        if not len(new):
            return
        step = max(1, PIECE // self.width)
        for start in range(0, len(new), step):
            some = new[start : start + step]
            wrong = (pixel_hashes(x[some]) != self.hashes[rows[some]]).any(1)
            if wrong.any():
                row = int(rows[some[wrong.argmax()]])
                i = int(np.searchsorted(self.ends, row, "right"))
                within = row - int(self.ends[i]) + self.index.shards[i].rows
                said = f"its image {within} is not as it was packed (its checksum is another); copy the file again"
                raise DataError(self.place.told(self.index.shards[i].file, said))
        self.unseen[rows] = False

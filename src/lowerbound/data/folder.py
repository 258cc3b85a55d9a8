"""A folder of images, or of class folders, or a .zip/.tar of either."""

import hashlib
import itertools
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np

from lowerbound.data import decode
from lowerbound.data.archives import SUFFIXES, Opener, Tar, Zip, check_size, file_stamp, settled
from lowerbound.data.decode import Header, Unreadable
from lowerbound.data.formats import foreign_among, is_image, suffix
from lowerbound.data.images import Failed, Shape
from lowerbound.data.layout import Layout, Place, arrange, ignored, listed
from lowerbound.data.source import Contents, Keep, Preparation, Source
from lowerbound.data.split import PARTS, UNDECIDED, hashed
from lowerbound.errors import DataError

T = TypeVar("T")
AT_ONCE = 4  # files a thread takes at a time


class Folder:
    """The files below a folder. Links are followed, hidden names left out."""

    def __init__(self, path: Path):
        self.path = path

    def fingerprint(self) -> Any:
        return settled(self._stamp)

    def _stamp(self) -> tuple[str, int]:
        """A hash of the names and stamps of all files, and the newest ctime in ns."""
        digest, newest = hashlib.sha256(), 0
        try:
            for name in self.names():
                stamp = [0, 0, 0] if _leads_nowhere(self.path / name) else file_stamp(self.path / name)
                newest = max(newest, stamp[2])
                digest.update(f"{name}\0{stamp}\0".encode("utf-8", "surrogateescape"))
        except FileNotFoundError as e:
            raise DataError(f"{self.path} changed while it was read: {e.filename} is gone") from None
        return digest.hexdigest(), newest

    def names(self) -> list[str]:
        """Relative paths of all files, sorted. A link to a folder above it is not followed; one that leads nowhere is a
        file that can't be read."""
        found: list[str] = []
        above: dict[str, frozenset[str]] = {os.fspath(self.path): frozenset()}  # the real folders that each is in
        self.places: dict[str, list[str]] = {}  # real folder -> where it is met
        for folder, folders, files in os.walk(self.path, followlinks=True, onerror=_refuse):
            real, inside = os.path.realpath(folder), above.pop(folder)
            if real in inside:
                folders.clear()
                continue
            self.places.setdefault(real, []).append(os.path.relpath(folder, self.path))
            folders[:] = sorted(f for f in folders if not f.startswith("."))
            above |= {os.path.join(folder, f): inside | {real} for f in folders}
            found += [os.path.relpath(os.path.join(folder, f), self.path) for f in files if not f.startswith(".")]
        return sorted(f for f in found if os.path.isfile(self.path / f) or _leads_nowhere(self.path / f))

    def twice(self) -> str:
        """What to say of folders that links lead to from several places; "" where there are none."""
        found = [f"{' and '.join(places)} are one folder" for places in self.places.values() if len(places) > 1]
        return listed(found)

    def openers(self, wanted: Sequence[str]) -> Iterator[tuple[int, Opener]]:
        """(position in `wanted`, how to open it), each once."""
        for i, name in enumerate(wanted):
            yield i, lambda path=self.path / name: _open(path)

    def close(self) -> None:
        pass


class SizesDiffer(DataError):
    """Images of several sizes, and no size to bring them to."""

    page = "data#sizes-differ"


class Files(Source):
    """Image files in a folder or archive. Their order is that of the hash of their paths, so any first few are mixed.

    by_class: whole classes go to one part (for faces: nobody is both in train and in test).
    """

    def __init__(self, path: Path, preparation: Preparation, name: str | None = None, by_class: bool = False):
        self.path, self.preparation, self.by_class = path, preparation, by_class
        archive = next((s for s in SUFFIXES if path.name.lower().endswith(s)), None) if path.is_file() else None
        self.name = name or path.resolve().name[: -len(archive) if archive else None] or "root"
        self.origin = str(path.resolve())
        self.store = Folder(path) if not archive else Zip(path) if archive == ".zip" else Tar(path)

    def fingerprint(self) -> Any:
        return [self.store.fingerprint(), self.by_class]

    def contents(self) -> Contents:
        layout, headers = self.look()
        readable = [(n, h) for n, h in zip(self.names, headers, strict=True) if isinstance(h, Header)]
        if not readable:
            raise DataError(
                f"{self.path}: none of its {len(headers)} images can be read; the first: {self.names[0]}: {headers[0]}"
            )
        self.shape = self._shape(readable)
        said = "; ".join(filter(None, [layout.taken, self._twice(), ignored(self.others)]))
        return replace(self._contents(layout.places, headers), ignored=len(self.others), layout=said)

    def look(self) -> tuple[Layout, list[Header | str]]:
        """Where every image lies and what its header says, or why that can't be read. Raises DataError for none."""
        everything = self.store.names()
        names = [n for n in everything if is_image(n)]
        if not names:
            raise DataError(f"{self.path}: no images{_holds(everything)}; expected .png, .jpg, .webp or the like")
        self.others = sorted(set(everything) - set(names))
        layout = arrange(names, self.path)
        self.names = [names[place.index] for place in layout.places]
        headers: list[Header | str] = [""] * len(self.names)
        for i, header in self._each(lambda file, i: decode.header(file)):
            headers[i] = header
        return layout, headers

    def only(self, rows: np.ndarray) -> "Files":
        """Itself, once `contents` was called, left with these of its images [n]."""
        self.names = [self.names[i] for i in rows.tolist()]
        return self

    def _twice(self) -> str:
        return self.store.twice() if isinstance(self.store, Folder) else ""

    def _contents(self, places: list[Place], headers: list[Header | str]) -> Contents:
        unreadable = [Failed(p.path, h) for p, h in zip(places, headers, strict=True) if isinstance(h, str)]
        rows = [i for i, h in enumerate(headers) if isinstance(h, Header)]
        rows.sort(key=lambda i: (hashed(places[i].path), places[i].path))
        self.names = [self.names[i] for i in rows]
        places = [places[i] for i in rows]
        part = np.array([p.part for p in places], np.int8)
        given = {PARTS[k] for k in set(part.tolist()) if k != UNDECIDED}
        if given:
            part[part == 0] = UNDECIDED  # what is missing is carved out of train
        labels = sorted({p.label for p in places if p.label is not None})
        number = {label: i for i, label in enumerate(labels)}
        return Contents(
            keys=[p.label or p.path for p in places] if self.by_class else [p.path for p in places],
            part=part,
            carve=tuple(p for p in PARTS[1:] if p not in given),
            shape=self.shape,
            levels=self.preparation.levels or 256,
            y=np.array([number[p.label] for p in places if p.label is not None], np.int64) if labels else None,
            classes=tuple(labels) or None,
            paths=[p.path for p in places],
            unreadable=tuple(sorted(unreadable)),
        )

    def _shape(self, readable: list[tuple[str, Header]]) -> Shape:
        colour = any(h.colour for _, h in readable) and not self.preparation.gray
        if size := self.preparation.size:
            return (3 if colour else 1, size, size)
        name, first = readable[0]
        for other, h in readable:
            if h[:2] != first[:2]:
                raise SizesDiffer(
                    f"{self.path}: images differ in size: {name} is {first.width}x{first.height}, {other} is "
                    f"{h.width}x{h.height}; data.size=64 brings all to 64x64"
                )
        return (3 if colour else 1, *self.preparation.square(first.height, first.width))

    def rows(self, contents: Contents, keep: Keep) -> Iterator[tuple[int, int | str]]:
        levels = self.preparation.levels or 256
        crop = self.preparation.crop
        self.highest = 0

        def decoded(file: IO[bytes], i: int) -> int:
            image = decode.decode(file, self.shape, levels, f"{self.path}: {self.names[i]}", crop)
            keep(i, image.x[None])
            return image.highest

        for i, highest in self._each(decoded):
            if isinstance(highest, str):
                yield i, highest
            else:
                self.highest = max(self.highest, highest)
                yield i, 1
        self.store.close()

    def rows_of(self, contents: Contents, wanted: np.ndarray, keep: Keep) -> Iterator[tuple[int, int | str]]:
        """In the order they are wanted; of a .tar, in its own."""
        row = wanted.tolist()
        self.only(wanted)
        for i, read in self.rows(contents, lambda i, x: keep(row[i], x)):
            yield row[i], read

    def notes(self) -> tuple[str, ...]:
        return tuple(filter(None, [decode.of_few_bits(self.highest), foreign_among(self.others)]))

    def _each(self, work: Callable[[IO[bytes], int], T]) -> Iterator[tuple[int, T | str]]:
        """`work` over every file in a few threads (decoders let go of the interpreter), a few files at a time and
        ahead: threads that hand over single files spend their time on taking turns."""

        def run(some: Sequence[tuple[int, Opener]]) -> list[tuple[int, T | str]]:
            return [(i, _tried(work, opener, i)) for i, opener in some]

        workers = min(8, os.cpu_count() or 1)
        waiting: deque[Future[list[tuple[int, T | str]]]] = deque()
        with decode.quiet(), ThreadPoolExecutor(workers) as pool:
            for some in _several(self.store.openers(self.names), AT_ONCE):
                waiting.append(pool.submit(run, some))
                if len(waiting) > workers:
                    yield from waiting.popleft().result()
            for future in waiting:
                yield from future.result()


def _tried(work: Callable[[IO[bytes], int], T], opener: Opener, i: int) -> T | str:
    try:
        with opener() as file:
            return work(file, i)
    except Unreadable as e:
        return str(e)


def _several(items: Iterator[T], n: int) -> Iterator[list[T]]:
    """n of them at a time, the last fewer."""
    while some := list(itertools.islice(items, n)):
        yield some


def _holds(names: list[str]) -> str:
    """What a folder without images holds instead."""
    found = sorted({suffix(n) for n in names} - {""})
    return f" (it holds {foreign_among(names) or ', '.join(found[:5])})" if found else ""


def _open(path: Path) -> IO[bytes]:
    try:
        check_size(path.stat().st_size)
        return open(path, "rb")
    except OSError as e:
        raise Unreadable(e.strerror or str(e)) from None


def _leads_nowhere(path: Path) -> bool:
    return path.is_symlink() and not path.exists()


def _refuse(error: OSError) -> None:
    raise DataError(f"{error.filename}: {error.strerror}")

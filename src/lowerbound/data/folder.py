"""A folder of images, or of class folders, or a .zip/.tar of either."""

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

import numpy as np

from lowerbound.data import decode
from lowerbound.data.archives import SUFFIXES, Opener, Tar, Zip, check_size, file_stamp, settled
from lowerbound.data.decode import Header, Unreadable
from lowerbound.data.source import Contents, Preparation, Shape, Source
from lowerbound.data.split import PARTS, UNDECIDED, hashed
from lowerbound.errors import DataError

T = TypeVar("T")
_PART_NAMES = {"train": 0, "training": 0, "valid": 1, "val": 1, "validation": 1, "test": 2, "testing": 2}


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
                stamp = file_stamp(self.path / name)
                newest = max(newest, stamp[2])
                digest.update(f"{name}\0{stamp}\0".encode("utf-8", "surrogateescape"))
        except FileNotFoundError as e:
            raise DataError(f"{self.path} changed while it was read: {e.filename} is gone") from None
        return digest.hexdigest(), newest

    def names(self) -> list[str]:
        """Relative paths of all files, sorted."""
        found: list[str] = []
        seen: set[tuple[int, int]] = set()
        for folder, folders, files in os.walk(self.path, followlinks=True, onerror=_refuse):
            s = os.stat(folder)
            if (s.st_dev, s.st_ino) in seen:  # a link to a folder above or beside it
                folders.clear()
                continue
            seen.add((s.st_dev, s.st_ino))
            folders[:] = sorted(f for f in folders if not f.startswith("."))
            found += [os.path.relpath(os.path.join(folder, f), self.path) for f in files if not f.startswith(".")]
        return sorted(f for f in found if os.path.isfile(self.path / f))

    def openers(self, wanted: Sequence[str]) -> Iterator[tuple[int, Opener]]:
        """(position in `wanted`, how to open it), each once."""
        for i, name in enumerate(wanted):
            yield i, lambda path=self.path / name: _open(path)

    def close(self) -> None:
        pass


class Place(NamedTuple):
    """Where a file lies within a data set."""

    path: str  # relative to the root, the common top folder stripped
    part: int
    label: str | None


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
        everything = self.store.names()
        self.names = [n for n in everything if is_image(n)]
        ignored = len(everything) - len(self.names)
        if not self.names:
            raise DataError(f"{self.path}: no images{_endings(everything)}; expected .png, .jpg, .webp or the like")
        headers: list[Header | str] = [""] * len(self.names)
        for i, header in self._each(lambda file, name: decode.header(file)):
            headers[i] = header
        if all(isinstance(h, str) for h in headers):
            raise DataError(
                f"{self.path}: none of its {len(headers)} images can be read; the first: {self.names[0]}: {headers[0]}"
            )
        self.shape = self._shape(headers)
        places = arrange(self.names, self.path)
        return self._contents(places, headers, ignored)

    def _contents(self, places: list[Place], headers: list[Header | str], ignored: int) -> Contents:
        unreadable = [(p.path, h) for p, h in zip(places, headers, strict=True) if isinstance(h, str)]
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
            ignored=ignored,
        )

    def _shape(self, headers: list[Header | str]) -> Shape:
        readable = [(n, h) for n, h in zip(self.names, headers, strict=True) if isinstance(h, Header)]
        colour = any(h.colour for _, h in readable) and not self.preparation.gray
        if size := self.preparation.size:
            return (3 if colour else 1, size, size)
        name, first = readable[0]
        for other, h in readable:
            if h[:2] != first[:2]:
                raise DataError(
                    f"{self.path}: images differ in size: {name} is {first.width}x{first.height}, {other} is "
                    f"{h.width}x{h.height}; data.size=64 brings all to 64x64"
                )
        return (3 if colour else 1, first.height, first.width)

    def rows(self, contents: Contents) -> Iterator[tuple[int, np.ndarray | str]]:
        levels = self.preparation.levels or 256
        for i, x in self._each(lambda file, name: decode.decode(file, self.shape, levels, f"{self.path}: {name}")):
            yield i, x if isinstance(x, str) else x[None]
        self.store.close()

    def _each(self, work: Callable[[IO[bytes], str], T]) -> Iterator[tuple[int, T | str]]:
        """`work` over every file in a few threads (decoders let go of the interpreter), a few files ahead."""

        def run(opener: Opener, name: str) -> T | str:
            try:
                with opener() as file:
                    return work(file, name)
            except Unreadable as e:
                return str(e)

        workers = min(8, os.cpu_count() or 1)
        waiting: deque[tuple[int, Future[T | str]]] = deque()
        with decode.quiet(), ThreadPoolExecutor(workers) as pool:
            for i, opener in self.store.openers(self.names):
                waiting.append((i, pool.submit(run, opener, self.names[i])))
                if len(waiting) >= 4 * workers:
                    n, future = waiting.popleft()
                    yield n, future.result()
            for n, future in waiting:
                yield n, future.result()


def is_image(name: str) -> bool:
    """By the extension; hidden files and macOS's shadow files are not."""
    parts = name.split("/")
    return (
        os.path.splitext(name)[1].lower() in decode.SUFFIXES
        and not any(p.startswith(".") for p in parts)
        and parts[0] != "__MACOSX"
    )


def arrange(names: list[str], root: Path) -> list[Place]:
    """The part and label of every file, from the folders it lies in.

    One common top folder is stripped, unless it is a part. Then: [train|valid|test/][class/].../file
    """
    split = [n.split("/") for n in names]
    tops = {s[0] if len(s) > 1 else "" for s in split}
    if len(tops) == 1 and "" not in tops and tops.copy().pop().lower() not in _PART_NAMES:
        split = [s[1:] for s in split]
        tops = {s[0] if len(s) > 1 else "" for s in split}
    parts = _parts(tops, root)
    inner = [s[1:] if parts else s for s in split]
    classes = {s[0] for s in inner if len(s) > 1}
    labelled = len(classes) > 1 and all(len(s) > 1 for s in inner)
    return [
        Place("/".join(whole), parts[whole[0]] if parts else UNDECIDED, s[0] if labelled else None)
        for whole, s in zip(split, inner, strict=True)
    ]


def _parts(tops: set[str], root: Path) -> dict[str, int]:
    """Top folder -> part; empty where the top folders are something else, such as classes."""
    parts = {t: _PART_NAMES[t.lower()] for t in tops if t.lower() in _PART_NAMES}
    others = sorted(tops - set(parts))
    if others and len(set(parts.values())) > 1:
        where = "beside them" if others == [""] else f"in {next(o for o in others if o)}/"
        raise DataError(f"{root}: has the parts {', '.join(sorted(parts))}, but images {where} too; move those")
    if others:
        return {}
    if parts and 0 not in parts.values():
        raise DataError(f"{root}: has {', '.join(sorted(parts))}, but no train folder")
    return parts


def _endings(names: list[str]) -> str:
    found = sorted({os.path.splitext(n)[1].lower() for n in names} - {""})
    return f" (it holds {', '.join(found[:5])})" if found else ""


def _open(path: Path) -> IO[bytes]:
    try:
        check_size(path.stat().st_size)
        return open(path, "rb")
    except OSError as e:
        raise Unreadable(e.strerror or str(e)) from None


def _refuse(error: OSError) -> None:
    raise DataError(f"{error.filename}: {error.strerror}")

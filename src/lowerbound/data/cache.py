"""Images decoded once, into memory-mapped files that are never half-written and never stale.

    $XDG_CACHE_HOME/lowerbound/images/
      NAME-ORIGIN-KEY/        x.npy uint8 [N, C, H, W], the parts one after another; meta.json; y, factors, paths;
                              fingerprints.json
      NAME-ORIGIN-KEY.part/   being built, by whoever holds the lock; else left over from a build that was killed
      NAME-ORIGIN-KEY.lock

ORIGIN is where the source lies and how its images are prepared; KEY also depends on its content. A new KEY replaces the
older ones of its ORIGIN (processes that have those mapped keep them until they end).
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import mmap
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lowerbound.data.entries import arrays_of, facts_of, images_of
from lowerbound.data.images import HASH, Failed, Images, Shape, pixel_hashes
from lowerbound.data.source import Contents, Preparation, Source
from lowerbound.data.split import PARTS, assign
from lowerbound.errors import DataError, counted
from lowerbound.processes import keep_freed

FORMAT = 2  # of the cache's files and of the way images are prepared
_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)  # named since Python 3.13
Progress = Callable[[int, int], None]  # (done, total) images


class Stored(NamedTuple):
    """A data set in the cache, memory mapped; the parts lie one after another."""

    images: Images  # all
    counts: dict[str, int]  # rows in each part
    fingerprints: dict[str, str]  # of each part and of all

    def of(self, split: str) -> Images:
        """One part. Raises DataError where it is empty."""
        rows = self.rows(split)
        if rows.start == rows.stop:
            raise DataError(f"{self.images.name}: {counted(len(self.images), 'image')}, too few for a {split} part")
        return replace(self.images.take(rows), split=split).known_by(self.fingerprints[split])

    def rows(self, split: str) -> slice:
        """Where the rows of a part lie."""
        before = PARTS[: PARTS.index(split)] if split != "all" else ()
        start = sum(self.counts[p] for p in before)
        return slice(start, start + self.counts[split] if split != "all" else len(self.images))


def root() -> Path:
    """`$XDG_CACHE_HOME/lowerbound`, or `~/.cache/lowerbound`."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "lowerbound"


def load(source: Source, preparation: Preparation, progress: Progress | None = None) -> Stored:
    """The source's images, decoded now if they are not in the cache as they are now."""
    with disk_errors():
        folder = root() / "images"
        make(folder)
        fingerprint = source.fingerprint()
        origin = _digest([1, source.origin, preparation.key()])[:12]  # 1: of this way to name entries
        family = f"{re.sub(r'[^A-Za-z0-9._-]+', '_', source.name)[:40]}-{origin}"
        final = folder / f"{family}-{_digest([FORMAT, fingerprint])[:20]}"
        with locked(final.with_name(final.name + ".lock")):
            if not final.exists():
                _sweep(folder, family, final.name)
                _build(final, source, fingerprint, progress or (lambda done, total: None))
            fingerprints = json.loads((final / "fingerprints.json").read_text())
            return _read(final)._replace(fingerprints=fingerprints)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Alone among processes and threads, as long as it lasts; a killed process lets go."""
    with open(path, "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(final: Path, source: Source, fingerprint: Any, progress: Progress) -> None:
    temporary = final.with_name(final.name + ".part")
    temporary.mkdir()
    try:
        _write(temporary, source, progress)
        if source.fingerprint() != fingerprint:
            raise DataError(f"{source.origin} changed while it was read; start again when it is complete")
        temporary.rename(final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write(folder: Path, source: Source, progress: Progress) -> None:
    """Write all files of a cache entry. Pixels go straight to disk: memory does not grow with the data set."""
    contents = source.contents()
    total = len(contents.keys)
    part = assign(contents.keys, contents.part, contents.carve)
    order = np.argsort(part, kind="stable")  # rows in the order they are stored
    place = np.empty(total, np.int64)
    place[order] = np.arange(total)
    hashes = np.empty((total, HASH), np.uint8)  # of each row's pixels
    bad: dict[int, str] = {}
    done = 0
    keep_freed()
    with _RowFile(folder / "x.npy", total, contents.shape) as out:

        def kept(i: int, block: np.ndarray) -> None:
            block = np.ascontiguousarray(block)
            out.write(place[i : i + len(block)], block)
            hashes[i : i + len(block)] = pixel_hashes(block)

        for i, read in source.rows(contents, kept):
            if isinstance(read, str):
                bad[i] = read
            done += 1 if isinstance(read, str) else read
            progress(done, total)
    contents = replace(contents, notes=(*contents.notes, *source.notes()))
    if bad:
        contents, keep = _without(contents, bad, source.origin)
        part = assign(contents.keys, contents.part, contents.carve)
        order = np.argsort(part, kind="stable")
        _rewrite(folder / "x.npy", place[keep[order]], contents.shape)
        hashes = hashes[keep]
    _write_rest(folder, source.name, contents.take(order), part[order], hashes[order])


def _without(contents: Contents, bad: dict[int, str], origin: str) -> tuple[Contents, np.ndarray]:
    """What is left without the rows that could not be read, and which rows these are: int64 [n]."""
    keep = np.array([i for i in range(len(contents.keys)) if i not in bad], np.int64)
    names = contents.paths or contents.keys
    unreadable = tuple(sorted((*contents.unreadable, *(Failed(names[i], reason) for i, reason in bad.items()))))
    if not len(keep):
        raise DataError(f"{origin}: none of its {len(unreadable)} images can be read; the first: {unreadable[0]}")
    return replace(contents.take(keep), unreadable=unreadable), keep


def _rewrite(file: Path, rows: np.ndarray, shape: Shape) -> None:
    """Leave these rows [n] of a .npy file alone, in this order."""
    whole = file.with_name("whole.npy")
    file.rename(whole)
    old = np.load(whole, mmap_mode="r")
    with _RowFile(file, len(rows), shape) as out:
        for new, row in enumerate(rows):
            out.write(np.array([new]), old[row][None])
    whole.unlink()


def _write_rest(folder: Path, name: str, contents: Contents, part: np.ndarray, hashes: np.ndarray) -> None:
    """All but the pixels, of rows in the order they are stored."""
    for file, values in arrays_of(contents).items():
        np.save(folder / f"{file}.npy", values)
    counts = {p: int((part == i).sum()) for i, p in enumerate(PARTS)}
    meta = facts_of(contents, name, contents.levels) | {"counts": counts}
    (folder / "meta.json").write_text(json.dumps(meta))
    stored = _read(folder)
    found = {p: stored.images.take(rows := stored.rows(p)).fingerprint_by(hashes[rows]) for p in ("all", *PARTS)}
    (folder / "fingerprints.json").write_text(json.dumps(found))


def _read(folder: Path) -> Stored:
    meta = json.loads((folder / "meta.json").read_text())
    found = {name: mapped(folder / f"{name}.npy") for name in ("x", "y", "factors", "paths", "ends")}
    arrays = {name: values for name, values in found.items() if values is not None}
    images = images_of(meta, arrays, arrays.pop("x"))
    return Stored(images, meta["counts"], {})


def mapped(file: Path) -> np.ndarray | None:
    """The array of a .npy file, memory mapped; None where there is no file.

    Copy-on-write, because torch takes writable arrays only; and without reserving memory for copies that nobody makes,
    because numpy's own copy-on-write maps are refused for files larger than the memory.
    """
    if not file.exists():
        return None
    with open(file, "rb") as f:
        np.lib.format.read_magic(f)
        shape, _, dtype = np.lib.format.read_array_header_1_0(f)
        flags = mmap.MAP_PRIVATE | _NORESERVE
        buffer = mmap.mmap(f.fileno(), 0, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)
        return np.frombuffer(buffer, dtype, offset=f.tell()).reshape(shape)


def _sweep(folder: Path, family: str, keep: str) -> None:
    """Remove what killed builds left, and the older versions of this data set, unless somebody is at them."""
    for old in folder.iterdir():
        stale = old.name.startswith(family + "-") and old.is_dir() and old.suffix != ".part"
        if old.suffix != ".part" and not stale:
            continue
        name = old.name.removesuffix(".part")
        if name == keep:  # our own lock is held already
            shutil.rmtree(old)
            continue
        with open(folder / f"{name}.lock", "ab") as file, contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(old, ignore_errors=True)


class _RowFile:
    """A .npy file uint8 [rows, *shape] written in any order.

    Written by `pwrite`, by any thread: a full disk is an error here, where writing through a memory map would kill the
    process.
    """

    def __init__(self, path: Path, rows: int, shape: Shape):
        self.width = int(np.prod(shape))
        free = shutil.disk_usage(path.parent).free
        if rows * self.width > free:
            raise OSError(errno.ENOSPC, f"{rows * self.width / 2**20:,.0f} MiB are needed, {free / 2**20:,.0f} free")
        self.file = open(path, "wb", buffering=0)  # noqa: SIM115, closed by __exit__
        header = {"descr": "|u1", "fortran_order": False, "shape": (rows, *shape)}
        np.lib.format.write_array_header_1_0(self.file, header)
        self.start = self.file.tell()
        self.file.truncate(self.start + rows * self.width)

    def write(self, places: np.ndarray, x: np.ndarray) -> None:
        """Put x [n, *shape], contiguous, at these rows [n]; neighbours are written together."""
        for run in np.split(np.arange(len(places)), np.flatnonzero(np.diff(places) != 1) + 1):
            data = x[run[0] : run[-1] + 1].data.cast("B")
            offset = self.start + int(places[run[0]]) * self.width
            while data:
                written = os.pwrite(self.file.fileno(), data, offset)
                data, offset = data[written:], offset + written

    def __enter__(self) -> "_RowFile":
        return self

    def __exit__(self, *_: object) -> None:
        with self.file:
            os.fsync(self.file.fileno())


@contextlib.contextmanager
def disk_errors() -> Iterator[None]:
    try:
        yield
    except OSError as e:
        if e.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DataError(f"no space left for decoded images in {root()}: {e.strerror}; set XDG_CACHE_HOME") from None
        if e.errno in (errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOTDIR):
            what = e.filename or root()
            raise DataError(f"{what}: {e.strerror}; the image cache is {root()}, XDG_CACHE_HOME moves it") from None
        raise


def make(folder: Path) -> None:
    """Raises DataError where there can be no such folder."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileNotFoundError, FileExistsError) as e:  # in /proc nothing can be made; or a file is in the way
        raise DataError(f"{folder}: {e.strerror}; the image cache is {root()}, XDG_CACHE_HOME moves it") from None


def _digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()

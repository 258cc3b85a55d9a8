"""Writing shards: whole or not at all, the same bytes of the same data, and on from where it was interrupted.

OUT.part/            being packed; `source` says of what, and each finished shard has its own `x-00000.json`
OUT.part.lock        held while it is
OUT/                 all of it, by one rename
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lowerbound.data.base import Data
from lowerbound.data.cache import Progress, Stored
from lowerbound.data.entries import Texts, arrays_of, facts_of, images_of
from lowerbound.data.images import HASH, Failed, Shape, pixel_hashes
from lowerbound.data.rows import PIECE, Rows
from lowerbound.data.shards.index import HEADER, INDEX, VERSION, Index, Shard, header, read_index
from lowerbound.data.shards.packed import Pixels
from lowerbound.data.shards.places import Local, is_url
from lowerbound.data.source import Contents, Preparation, Source
from lowerbound.data.split import PARTS, assign
from lowerbound.errors import DataError, UserError, counted

SIZE = 512 * 10**6  # bytes of a shard
UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
SOURCE = "source"  # the file of the digest of what is packed


class Done(NamedTuple):
    """What was packed, or lay there packed already."""

    index: Index
    out: Path
    written: int  # shards; 0 where all was there
    taken_up: int  # of them from a packing that was interrupted


def size_of(text: str) -> int:
    """Bytes, of 512MB and the like. Raises UserError.

    Example:
        >>> size_of("512MB"), size_of("1.5 GiB"), size_of("4096")
        (512000000, 1610612736, 4096)
    """
    number = text.strip().rstrip("BKMGibkmg ")
    unit = text.strip()[len(number) :].strip().upper()
    try:
        size = float(number) * UNITS[unit]
    except (ValueError, KeyError):
        raise UserError(f"--shard-size {text}: expected a size, such as 512MB or 1GiB") from None
    if not 1 <= size < 2**63:
        raise UserError(f"--shard-size {text}: expected at least a byte")
    return int(size)


def pack(data: Data, out: Path, size: int = SIZE, *, overwrite: bool = False, progress: Progress | None = None) -> Done:
    """Pack a data set, as it is prepared, into the folder `out`: shards of at most `size` bytes of pixels.

    What was interrupted is taken up. Raises UserError for what can't be packed, or not there.
    """
    _check_out(data, out)
    source = data.found()
    fingerprint = source.fingerprint()
    preparation = data.settled().preparation
    of = hashlib.sha256(json.dumps([VERSION, source.name, fingerprint, preparation.key(), size]).encode()).hexdigest()
    with _alone(out) as part, _disk_errors(out):
        there = _there(out, overwrite)
        if there is not None and _digest(out) == of:
            return Done(there, out, 0, 0)
        if there is not None and not overwrite:
            raise UserError(f"{out} holds shards of other data, or of another size; --overwrite replaces them")
        try:
            packing = _Packing(source, part, size, of, progress or (lambda done, total: None))
            index = packing.run(preparation)
            if source.fingerprint() != fingerprint:
                raise DataError(f"{source.origin} changed while it was packed; start again when it is complete")
        except UserError:
            shutil.rmtree(part, ignore_errors=True)
            raise
        _move(part, out)
        return Done(index, out, len(index.shards), packing.taken_up)


# ---- where it goes


def _check_out(data: Data, out: Path) -> None:
    """Raise UserError for a place that is none, or lies in the data, or they in it."""
    if is_url(out.as_posix().replace(":/", "://", 1)):  # a path has one stroke of the two
        raise UserError(f"--out {out}: shards are written to a folder; copy it to where they are read from")
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out}: is a file; expected a folder")
    given = Path(data.source).expanduser()
    if is_url(data.source) or not given.exists():
        return
    a, b = given.resolve(), out.expanduser().resolve()
    if a.is_dir() and b.is_relative_to(a):
        raise UserError(f"--out {out}: lies in {data.source}, which is packed; name a folder outside of it")
    if a.is_relative_to(b):
        raise UserError(f"--out {out}: {data.source} lies in it; name another folder")


def _there(out: Path, overwrite: bool) -> Index | None:
    """The index of what lies there packed. Raises UserError for a folder that holds anything else."""
    if not out.is_dir() or not any(out.iterdir()):
        return None
    if not (out / INDEX).is_file():
        raise UserError(f"--out {out}: holds something else than shards; name a new folder")
    place = Local(out)
    try:
        index = read_index(place)
        place.check((shard.file, shard.bytes) for shard in index.shards)
    except DataError as e:
        if overwrite and "another program" not in str(e):
            return None
        raise UserError(f"{e}; --overwrite packs it anew" if "another program" not in str(e) else str(e)) from None
    return index


def _digest(folder: Path) -> str:
    """Of what is packed, or was begun, in a folder; "" where nothing says it."""
    try:
        return (folder / SOURCE).read_text()
    except OSError:
        return ""


@contextlib.contextmanager
def _alone(out: Path) -> Iterator[Path]:
    """The folder to pack in, held against other processes. Raises UserError where one is at it."""
    part, lock = (out.with_name(f"{out.name}.part{end}") for end in ("", ".lock"))
    with _disk_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        file = open(lock, "ab")  # noqa: SIM115, closed below
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = os.path.samestat(os.fstat(file.fileno()), lock.stat())
        except (BlockingIOError, FileNotFoundError):
            held = False
        if not held:
            raise UserError(f"{part}: another process is packing into it; wait for it")
        try:
            yield part
        finally:
            lock.unlink(missing_ok=True)


def _move(part: Path, out: Path) -> None:
    """Give what is packed its name."""
    old = out.with_name(out.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        out.rename(old)
    part.rename(out)
    shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def _disk_errors(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as e:
        kept = "; what is packed is kept, and the same command goes on with it" if e.errno == errno.ENOSPC else ""
        raise UserError(f"can't write {out}: {e.strerror or e}{kept}") from None


# ---- packing


class _Plan(NamedTuple):
    """Where each row of the source goes."""

    part: np.ndarray  # int8 [N]
    order: np.ndarray  # int64 [N], rows in the order they are stored
    ends: np.ndarray  # int64 [S], where each shard ends in that order; a shard is of one part

    @staticmethod
    def of(contents: Contents, per_shard: int) -> "_Plan":
        part = assign(contents.keys, contents.part, contents.carve)
        counts = np.bincount(part, minlength=len(PARTS)).tolist()
        ends, start = [], 0
        for n in counts:
            ends += [start + min(i, n) for i in range(per_shard, n + per_shard, per_shard)]
            start += n
        return _Plan(part, np.argsort(part, kind="stable"), np.array(ends, np.int64))


class _Packing:
    def __init__(self, source: Source, folder: Path, size: int, of: str, progress: Progress):
        self.source, self.folder, self.of, self.progress = source, folder, of, progress
        self.contents = source.contents()
        self.shape: Shape = self.contents.shape
        self.width = int(np.prod(self.shape))
        if size < self.width:
            raise UserError(f"--shard-size {size}: an image takes {self.width:,} bytes; name a larger size")
        self.n = len(self.contents.keys)
        self.plan = _Plan.of(self.contents, size // self.width)
        self.starts = np.concatenate([[0], self.plan.ends[:-1]])
        self.place = np.empty(self.n, np.int64)  # of each row of the source, in the order that is stored
        self.place[self.plan.order] = np.arange(self.n)
        self.hashes = np.zeros((self.n, HASH), np.uint8)  # in that order, as what follows
        self.sums = np.zeros((len(self.plan.ends), self.shape[0]), np.int64)  # of each shard's pixels, per channel
        self.bad: dict[int, str] = {}  # place -> why it can't be read
        self.shards: dict[int, Shard] = {}
        self.left = np.diff(self.plan.ends, prepend=0)  # rows of each shard that are not there yet
        self.taken_up = 0

    def run(self, preparation: Preparation) -> Index:
        self._take_up()
        free, needed = shutil.disk_usage(self.folder).free, int(self.left.sum()) * self.width
        if needed > free:
            said = f"{needed / 2**20:,.0f} MiB are needed, {free / 2**20:,.0f} are free"
            raise OSError(errno.ENOSPC, f"no space left: {said}")
        self._write()
        return self._index(preparation)

    # ---- what is there already

    def _take_up(self) -> None:
        """Begin, or go on with the shards that are finished, which are read again and checked."""
        if _digest(self.folder) != self.of:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir()
            _write_text(self.folder / SOURCE, self.of)
        for i in range(len(self.plan.ends)):
            with contextlib.suppress(OSError, ValueError, KeyError):
                told = json.loads((self.folder / f"{_name(i)}.json").read_text())
                shard, bad = Shard(**told["shard"]), {int(k): v for k, v in told["bad"].items()}
                if _sha256(self.folder / shard.file) == shard.sha256:
                    self._finished(i, shard, bad)
                    self.taken_up += 1

    # ---- pixels

    def _write(self) -> None:
        """Every row that is not there. A shard is finished with its last one."""
        unfinished = self.left > 0  # not changed here: several threads go by it in `keep`
        wanted = self.plan.order[unfinished[self._shard(np.arange(self.n))]]
        done = self.n - len(wanted)

        def keep(i: int, block: np.ndarray) -> None:
            places = self.place[i : i + len(block)]
            new = unfinished[self._shard(places)]
            self._put(places[new], np.ascontiguousarray(block[new]))

        for i, read in self.source.rows_of(self.contents, wanted, keep) if len(wanted) else ():
            places = self.place[i : i + (1 if isinstance(read, str) else read)]
            places = places[unfinished[self._shard(places)]]
            if isinstance(read, str):
                self.bad |= dict.fromkeys(places.tolist(), read)
            for shard, n in zip(*np.unique(self._shard(places), return_counts=True), strict=True):
                self.left[shard] -= n
                if not self.left[shard]:
                    self._finish(int(shard))
            done += len(places)
            self.progress(done, self.n)

    def _put(self, places: np.ndarray, x: np.ndarray) -> None:
        """Write x [n, C, H, W] to its places [n]; neighbours together. By any thread."""
        shard = self._shard(places)
        cuts = np.flatnonzero((np.diff(places) != 1) | (np.diff(shard) != 0)) + 1
        for run in np.split(np.arange(len(places)), cuts) if len(places) else ():
            i, data = int(shard[run[0]]), x[run[0] : run[-1] + 1].data.cast("B")
            offset = HEADER + int(places[run[0]] - self.starts[i]) * self.width
            file = os.open(self._unfinished(i), os.O_WRONLY | os.O_CREAT, 0o666)
            try:
                while data:
                    written = os.pwrite(file, data, offset)
                    data, offset = data[written:], offset + written
            finally:
                os.close(file)

    def _unfinished(self, i: int) -> Path:
        return self.folder / f"{_name(i)}.unfinished"

    def _shard(self, places: np.ndarray) -> np.ndarray:
        return np.searchsorted(self.plan.ends, places, "right")

    def _finish(self, i: int) -> None:
        """Give a shard its name, once all its rows were read; without those that could not be."""
        start, end = int(self.starts[i]), int(self.plan.ends[i])
        bad = {place: why for place, why in self.bad.items() if start <= place < end}
        kept = np.array([p - start for p in range(start, end) if p not in bad], np.int64)
        path, final = self._unfinished(i), self.folder / f"{_name(i)}.npy"
        path.touch()
        if bad:
            self._leave(path, kept)
        with open(path, "r+b") as file:
            file.write(header(len(kept), self.shape))
            os.fsync(file.fileno())
        path.rename(final)
        shard = Shard(final.name, len(kept), final.stat().st_size, _sha256(final))
        _write_text(final.with_suffix(".json"), json.dumps({"shard": shard._asdict(), "bad": bad}))
        self._finished(i, shard, bad)

    def _leave(self, path: Path, kept: np.ndarray) -> None:
        """Leave these rows of a shard alone."""
        whole = path.with_suffix(".whole")
        path.rename(whole)
        with open(whole, "rb") as old, open(path, "wb") as new:
            new.write(bytes(HEADER))
            for row in kept.tolist():
                old.seek(HEADER + row * self.width)
                new.write(old.read(self.width))
        whole.unlink()

    def _finished(self, i: int, shard: Shard, bad: dict[int, str]) -> None:
        start, end = int(self.starts[i]), int(self.plan.ends[i])
        kept = np.array([p for p in range(start, end) if p not in bad], np.int64)
        self.shards[i], self.left[i] = shard, 0
        self.bad |= bad
        at = 0
        for x in _blocks(self.folder / shard.file, self.shape, shard.rows):
            self.hashes[kept[at : at + len(x)]] = pixel_hashes(x)
            self.sums[i] += x.sum((0, 2, 3), dtype=np.int64)
            at += len(x)

    # ---- the rest

    def _index(self, preparation: Preparation) -> Index:
        """All other files, and the index last."""
        kept = np.array([p for p in range(self.n) if p not in self.bad], np.int64)
        rows = self.plan.order[kept]
        contents = self._without_bad(rows)
        contents = replace(contents, notes=(*contents.notes, *self.source.notes()))
        arrays = arrays_of(contents) | {
            "hashes": self.hashes[kept],
            "part": self.contents.part[rows],
            "row": np.argsort(np.argsort(rows)),
        }
        keys = Texts.packed(contents.keys)
        if contents.paths is None or list(keys) != list(contents.paths):
            arrays |= {"keys": keys.text, "key_ends": keys.ends}
        index = Index(
            shape=self.shape,
            counts={p: int((self.plan.part[rows] == i).sum()) for i, p in enumerate(PARTS)},
            fingerprints={},
            mean=(self.sums.sum(0) / (len(rows) * self.shape[1] * self.shape[2])).tolist(),
            carve=contents.carve,
            preparation=preparation,
            facts=facts_of(contents, self.source.name, contents.levels),
            shards=tuple(self.shards[i] for i in sorted(self.shards) if self.shards[i].rows),
            files={f"{name}.npy": self._saved(name, values) for name, values in sorted(arrays.items())},
        )
        unread = Rows(Pixels(Local(self.folder), index, arrays["hashes"]), window=0)
        stored = Stored(images_of(index.facts, arrays, unread), index.counts, {})
        for part in ("all", *PARTS):
            own = stored.rows(part)
            index.fingerprints[part] = stored.images.take(own).fingerprint_by(arrays["hashes"][own])
        for i, shard in self.shards.items():
            (self.folder / f"{_name(i)}.json").unlink()
            if not shard.rows:
                (self.folder / shard.file).unlink()
        _write_text(self.folder / INDEX, index.json())
        return index

    def _without_bad(self, rows: np.ndarray) -> Contents:
        """What is said of the rows that could be read, in this order. Raises DataError where their parts are others."""
        contents = self.contents
        names = contents.paths or contents.keys
        bad = [Failed(names[int(self.plan.order[p])], why) for p, why in self.bad.items()]
        unreadable = tuple(sorted((*contents.unreadable, *bad)))
        if not len(rows):
            raise DataError(
                f"{self.source.origin}: none of its {len(unreadable)} images can be read; the first: {unreadable[0]}"
            )
        left = contents.take(np.sort(rows))
        if bad and (assign(left.keys, left.part, left.carve) != self.plan.part[np.sort(rows)]).any():
            raise DataError(
                f"{self.source.origin}: {counted(len(bad), 'file')} can't be read, without which the parts are others; "
                f"remove {bad[0].path}, and pack again"
            )
        return replace(contents.take(rows), unreadable=unreadable)

    def _saved(self, name: str, values: np.ndarray) -> tuple[int, str]:
        path = self.folder / f"{name}.npy"
        np.save(path, values)
        return path.stat().st_size, _sha256(path)


def _name(i: int) -> str:
    return f"x-{i:05}"


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_text(path: Path, text: str) -> None:
    temporary = path.with_name(f"{path.name}.unfinished")
    temporary.write_text(text, encoding="utf-8")
    temporary.rename(path)


def _blocks(path: Path, shape: Shape, rows: int) -> Iterator[np.ndarray]:
    """The pixels of a shard, some at a time: uint8 [n, *shape]."""
    width = int(np.prod(shape))
    n = max(1, PIECE // width)
    with open(path, "rb") as file:
        file.seek(HEADER)
        for start in range(0, rows, n):
            yield np.frombuffer(file.read(min(n, rows - start) * width), np.uint8).reshape(-1, *shape)

"""Images of a model's size into a file, block after block, and out of it again."""

import hashlib
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from lowerbound.codec import exact, numerics
from lowerbound.codec.choice import PLAINLY, Way, scheme_of
from lowerbound.codec.container import BLOCK, MOST, MOST_OF_A_BLOCK, Container, Damaged, Head, block_of
from lowerbound.codec.scheme import Mismatch, Scheme
from lowerbound.errors import ModelError, UserError
from lowerbound.files import replacing
from lowerbound.model import Model
from lowerbound.progress import Told, told_nobody
from lowerbound.runs.run import weights_code

TRIED = 4  # images by which the settings are chosen
MOST_PIXELS = 2**28  # of a block


class Sliced(Protocol):
    """Images of a model's size, some of which are read at a time."""

    def __len__(self) -> int: ...
    def __getitem__(self, which: slice, /) -> np.ndarray: ...  # uint8 [n, *shape]


class Written(NamedTuple):
    """What a file is made of, in bits; the messages without what was there before their first image are `net`."""

    n: int
    bits: int  # of the whole file
    table: int
    framing: int  # the head, and the length and checksum of each block
    initial: int
    blocks: int
    squared_error: int = 0  # of what comes back, in pixel values, summed: 0 but where the file is lossy

    @property
    def net(self) -> int:
        return self.bits - self.table - self.framing - self.initial


def write(
    out: Path,
    model: Model,
    x: Sliced,
    table: dict[str, Any],
    *,
    y: np.ndarray | None = None,
    way: Way = PLAINLY,
    block: int | None = None,
    float32: bool = False,
    verify: bool = True,
    told: Told = told_nobody,
) -> Written:
    """Images into a file, whole or not at all.

    Args:
        table: what the file says of them
        y: the label of each, int64 [n], where the model is given it; `table` keeps it
        way: what is asked for of the file
        block: images of a block; None: as many as suit
        float32: by the model as it is, for machines that compute the same last bits (`numerics`), rather than by sums
            that are exact (`exact`)
        verify: every block is decoded and compared before the file takes its name
        told: told how many images are done, in both passes

    Raises ModelError for a model that can't compress, UserError for a file that can't be written.
    """
    n = len(x)
    kind, by, way = scheme_of(model, way)
    most = min(MOST_OF_A_BLOCK, max(1, MOST_PIXELS // model.space.dims))
    if block is not None and not 1 <= block <= most:
        raise UserError(f"--block {block}: expected 1 to {most:,} images of a block")
    if not 1 <= n <= MOST:
        raise UserError(f"a file holds 1 to {MOST:,} images of the model's size, and these are {n:,}")
    passes = 1 + verify
    own, path = fingerprint(model), _Path(float32)
    by, table = path.of(by), table | way.entries
    with path.computing(), replacing(out) as temporary, temporary.open("wb") as file:
        settings = kind.settings_for(by, x[0 : min(n, TRIED)], n, block, _rows(y, slice(0, TRIED)))
        settings = settings._replace(block=min(settings.block, most))
        head = Head(not float32, settings, n, own, path.numerics, table)
        scheme, checks, initial, error = kind(by, settings, filled=float32), [], 0, 0
        packed = head.packed()
        file.write(packed)
        for part in _blocks(head):
            images = x[part]
            coded = scheme.encode(images, _rows(y, part))
            file.write(block_of(coded.words))
            initial += coded.initial
            back = images if coded.x is None else coded.x
            error += int(np.square(back.astype(np.int64) - images).sum())
            checks.append(_check(back))
            told(part.stop, passes * n)
        size = file.tell()
        file.flush()
        if verify:
            _verify(temporary, scheme, checks, y, lambda done: told(n + done, passes * n))
    framing = 8 * (len(packed) - _length(head) + BLOCK.size * head.blocks)
    return Written(n, 8 * size, 8 * _length(head), framing, initial, head.blocks, error)


def _rows(y: np.ndarray | None, part: slice) -> np.ndarray | None:
    return None if y is None else y[part]


class _Path(NamedTuple):
    """In what numbers networks are computed."""

    float32: bool

    def of(self, model: Model) -> Model:
        return model if self.float32 else exact.portable(model)

    def computing(self) -> AbstractContextManager[Any]:
        return numerics.repeatable() if self.float32 else exact.computing()

    @property
    def numerics(self) -> bytes:
        return numerics.fingerprint() if self.float32 else bytes(len(numerics.fingerprint()))


def _length(head: Head) -> int:
    """Bytes of its table."""
    return len(head.packed()) - len(head._replace(table={}).packed())


def _verify(path: Path, scheme: Scheme, checks: list[int], y: np.ndarray | None, told: Any) -> None:
    """Raise an error, which no user can have made, unless every block gives its images."""
    with Container(path) as container:
        for i, part in enumerate(_blocks(container.head)):
            x = scheme.decode(container.words(i), part.stop - part.start, _rows(y, part))
            if _check(x) != checks[i]:
                raise RuntimeError(f"block {i} does not decode to its images; nothing was written")
            told(part.stop)


def _check(x: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(x.astype(np.uint8)).tobytes())


def _blocks(head: Head) -> Iterator[slice]:
    for start in range(0, head.n, head.settings.block):
        yield slice(start, min(start + head.settings.block, head.n))


class Archive:
    """The images of a file, by the model that wrote it. Raises ModelError for another model, or where this machine does
    not compute what that of the encoder did."""

    def __init__(self, container: Container, model: Model, y: np.ndarray | None = None):
        """y: the label of each image of the model's size, where the model is given it."""
        self.container, self.head, path = container, container.head, container.path
        if self.head.model != fingerprint(model):
            raise ModelError(f"{path} was written with another model, or with other weights of this one")
        self.y, self._path = y, _Path(not self.head.portable)
        other = {} if self.head.portable else numerics.differing(self.head.numerics)
        if other:
            here = "; ".join(f"another {name} (here {what})" for name, what in other.items())
            raise ModelError(
                f"{path} was written where networks compute other last bits, and can't be read here: {here}"
            )
        if self.head.settings.block * model.space.dims > MOST_PIXELS:
            raise Damaged(f"{path}: its head is damaged: its blocks are larger than any that are written")
        kind, by, _ = scheme_of(model, Way.of(container))
        self.scheme = kind(self._path.of(by), self.head.settings, filled=self._path.float32)
        self._last: tuple[int, np.ndarray] | None = None

    def __len__(self) -> int:
        return self.head.n

    def __getitem__(self, which: slice) -> np.ndarray:
        """uint8 [n, *shape]. Decodes the blocks that they are in, and keeps the last."""
        size, found, at = self.head.settings.block, [], which.start
        while at < which.stop:
            i = at // size
            part = self._block(i)[at - i * size : which.stop - i * size]
            found.append(part)
            at += len(part)
        return np.concatenate(found)

    def _block(self, i: int) -> np.ndarray:
        if self._last is None or self._last[0] != i:
            size, words = self.head.settings.block, self.container.words(i)
            try:
                with self._path.computing():
                    part = slice(i * size, min((i + 1) * size, self.head.n))
                    x = self.scheme.decode(words, part.stop - part.start, _rows(self.y, part))
            except (Mismatch, ValueError) as e:
                raise Damaged(
                    f"{self.container.path}: block {i} is no message of this model on this machine: {e}"
                ) from None
            self._last = i, x.astype(np.uint8)
        return self._last[1]


def fingerprint(model: Model) -> bytes:
    """What tells a model and its weights from others: 16 bytes."""
    kind = f"{model.config.type_name()} {model.space} {weights_code(model)}"
    return hashlib.blake2b(kind.encode(), digest_size=16).digest()

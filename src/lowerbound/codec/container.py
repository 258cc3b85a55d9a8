"""The file: a head, a table, and blocks that can be read one by one.

    head    56 bytes: magic, version, path (float or portable), pace, rows, images, images of a block, the model's
            fingerprint, that of the numerics, the table's length, and the checksum of all of this and the table
    table   deflated JSON: the run, the names and sizes of the images, as far as they are kept
    blocks  8 bytes (length, checksum) and a message each

Numbers are little-endian. A message is the words of `channel.Message` without the zero bytes at its end.
"""

import json
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple, Self

import numpy as np

from lowerbound.codec.scheme import Settings
from lowerbound.errors import DataError

MAGIC = b"\x89LBA\r\n\x1a\n"  # not text, and no longer itself once line endings have been changed
VERSION = 1
HEAD = struct.Struct("<8sBBBBIII16s8sI")
CHECK = struct.Struct("<I")
BLOCK = struct.Struct("<II")
MOST = 2**24  # images of a file, and bytes of its table once it is inflated
MOST_OF_A_BLOCK = 2**16


class Damaged(DataError):
    """A file that is none of these, or no longer as it was written."""

    page = "data#damaged"


class Head(NamedTuple):
    """What a file says of itself."""

    portable: bool
    settings: Settings
    n: int  # images of the model's size, in all blocks
    model: bytes  # 16
    numerics: bytes  # 8
    table: dict[str, Any]

    @property
    def blocks(self) -> int:
        return -(-self.n // self.settings.block)

    def packed(self) -> bytes:
        table = zlib.compress(json.dumps(self.table, separators=(",", ":")).encode(), 9) if self.table else b""
        rows, block, pace = self.settings
        values = (MAGIC, VERSION, self.portable, pace, 0, rows, self.n, block, self.model, self.numerics, len(table))
        head = HEAD.pack(*values)
        return head + CHECK.pack(zlib.crc32(table, zlib.crc32(head))) + table


def block_of(words: np.ndarray) -> bytes:
    """A message as a block of the file."""
    message = words.astype("<u4").tobytes().rstrip(b"\0")
    length = CHECK.pack(len(message))
    return length + CHECK.pack(zlib.crc32(message, zlib.crc32(length))) + message


def is_one(path: Path) -> bool:
    """Whether a file begins as one of these. Raises DataError where it can't be read."""
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError as e:
        raise DataError(f"{path}: {e.strerror or e}") from None


class Container:
    """A file that is being read. Raises Damaged for another one, in one sentence; allocates no more than it holds."""

    def __init__(self, path: Path):
        self.path = path
        try:
            self.file: IO[bytes] = path.open("rb")
            self.size = os.fstat(self.file.fileno()).st_size
        except OSError as e:
            raise DataError(f"{path}: {e.strerror or e}") from None
        try:
            self.head = self._head()
            self._starts = list(self._found())
        except BaseException:
            self.file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def words(self, i: int) -> np.ndarray:
        """The message of block i: uint32."""
        start, length, check = self._starts[i]
        self.file.seek(start)
        message = self.file.read(length)
        if zlib.crc32(message, zlib.crc32(CHECK.pack(length))) != check:
            raise Damaged(f"{self.path}: block {i} is damaged: its checksum is another")
        return np.frombuffer(message + b"\0" * (-length % 4), "<u4").astype(np.uint32)

    def _head(self) -> Head:
        raw = self.file.read(HEAD.size + CHECK.size)
        if raw[: len(MAGIC)] != MAGIC[: len(raw)] or not raw:
            raise Damaged(f"{self.path} is no file that `lowerbound compress` wrote")
        if len(raw) > len(MAGIC) and raw[len(MAGIC)] > VERSION:
            raise Damaged(f"{self.path} was written by a newer lowerbound (format {raw[len(MAGIC)]}, here {VERSION})")
        if len(raw) < HEAD.size + CHECK.size:
            raise self._truncated()
        _, version, portable, pace, _, rows, n, block, model, numerics, length = HEAD.unpack(raw[: HEAD.size])
        if self.file.tell() + length > self.size:
            raise self._truncated()
        table = self.file.read(length)
        if (zlib.crc32(table, zlib.crc32(raw[: HEAD.size])),) != CHECK.unpack(raw[HEAD.size :]):
            raise Damaged(f"{self.path}: its head is damaged: its checksum is another")
        sound = version == VERSION and portable <= 1 and 0 < n <= MOST and 0 < rows <= block <= MOST_OF_A_BLOCK
        if not sound or pace > 32:
            raise Damaged(f"{self.path}: its head is damaged: it says what no file says")
        return Head(bool(portable), Settings(rows, block, pace), n, model, numerics, self._table(table))

    def _table(self, raw: bytes) -> dict[str, Any]:
        if not raw:
            return {}
        try:
            inflate = zlib.decompressobj()
            text = inflate.decompress(raw, MOST)
            table = json.loads(text) if inflate.eof else None
        except (zlib.error, ValueError, RecursionError):
            table = None
        if not isinstance(table, dict):
            raise Damaged(f"{self.path}: its table of images is damaged")
        return table

    def _found(self) -> Iterator[tuple[int, int, int]]:
        """Where the message of each block begins, its length and checksum."""
        at = self.file.tell()
        for _ in range(self.head.blocks):
            self.file.seek(at)
            raw = self.file.read(BLOCK.size)
            if len(raw) < BLOCK.size:
                raise self._truncated()
            length, check = BLOCK.unpack(raw)
            yield at + BLOCK.size, length, check
            at += BLOCK.size + length
            if at > self.size:
                raise self._truncated()
        if at != self.size:
            raise Damaged(f"{self.path} is damaged: {self.size - at:,} bytes follow its last block")

    def _truncated(self) -> Damaged:
        return Damaged(f"{self.path} is cut off, or a length in it is damaged: it ends within a block or its head")

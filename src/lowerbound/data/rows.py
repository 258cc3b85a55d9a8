"""Pixels that lie elsewhere and are read where they are asked for: never held whole."""

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

PIECE = 2**20  # bytes that are read at once, of what is read in order or in blocks


class Reader(Protocol):
    """Where pixels lie."""

    shape: tuple[int, int, int]  # (C, H, W)

    def __len__(self) -> int: ...

    def read(self, rows: np.ndarray) -> np.ndarray:
        """uint8 [n, C, H, W] of the images at rows int64 [n]. Raises DataError."""
        ...


class Rows:
    """uint8 [N, C, H, W] that is read where it is indexed, each index a copy, as `x[i]`, `x[3:7]` and `x[[2, 5], 0]`.

    window: the bytes of it that may be held in memory at a time. What is no larger is read whole by `taken`.

    Example:
        >>> class Ones:
        ...     shape = (1, 2, 2)
        ...     def __len__(self): return 10
        ...     def read(self, rows): return np.ones((len(rows), 1, 2, 2), np.uint8)
        >>> x = Rows(Ones(), window=16)
        >>> x.shape, x[3].shape, x[2:4].shape
        ((10, 1, 2, 2), (1, 2, 2), (2, 1, 2, 2))
        >>> type(x.taken(slice(0, 4))).__name__, type(x.taken(slice(0, 5))).__name__
        ('ndarray', 'Rows')
    """

    dtype, ndim = np.dtype(np.uint8), 4

    def __init__(self, reader: Reader, window: int, where: range | np.ndarray | None = None):
        self.reader, self.window = reader, window
        self.where = range(len(reader)) if where is None else where  # the reader's rows that these are

    def __len__(self) -> int:
        return len(self.where)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return len(self), *self.reader.shape

    @property
    def width(self) -> int:
        """Bytes of an image."""
        return int(np.prod(self.reader.shape))

    @property
    def size(self) -> int:
        return len(self) * self.width

    @property
    def nbytes(self) -> int:
        return self.size

    def view(self, rows: slice | np.ndarray) -> "Rows":
        """These rows alone; nothing is read."""
        where = self.where
        where = where[rows] if isinstance(rows, slice) else np.asarray(where, np.int64)[rows]
        return Rows(self.reader, self.window, where)

    def taken(self, rows: slice | np.ndarray) -> Any:
        """These rows: an array where they fit in the window, else again `Rows`."""
        view = self.view(rows)
        return view[:] if view.nbytes <= self.window else view

    def __getitem__(self, key: Any) -> np.ndarray:
        rows, *rest = key if isinstance(key, tuple) else (key,)
        if isinstance(rows, slice):
            found = self.reader.read(np.asarray(self.where[rows], np.int64))
            return found[(slice(None), *rest)] if rest else found
        rows = np.asarray(rows)
        if rows.dtype != bool and rows.size and not (-len(self) <= rows.min() and rows.max() < len(self)):
            raise IndexError(f"row {rows.max()} of {len(self)}")
        if rows.ndim == 0:
            return self.reader.read(np.array([self.where[int(rows)]], np.int64))[0][tuple(rest)]
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows.astype(np.int64)
        if isinstance(self.where, range):
            wanted = self.where.start + np.where(rows < 0, rows + len(self), rows) * self.where.step
        else:
            wanted = self.where[rows]
        found = self.reader.read(wanted.ravel()).reshape(*rows.shape, *self.reader.shape)
        return found[(*(slice(None) for _ in rows.shape), *rest)] if rest else found

    def __iter__(self) -> Iterator[np.ndarray]:
        n = max(1, PIECE // self.width)
        return (row for start in range(0, len(self), n) for row in self[start : start + n])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:].astype(self.dtype if dtype is None else dtype, copy=False)

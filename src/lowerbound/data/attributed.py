"""A user's own attributes: a table beside the images, of which each row says what is known of one."""

import csv
import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from lowerbound.data.attributes import Factor, kinds_of, number_of, of_header
from lowerbound.data.source import Changed, Contents, Source
from lowerbound.errors import DataError, counted

ROW_BY = ("path", "index")  # the column that says which image a row is of


class Attributed(Changed):
    """A source whose images have the attributes of a table, a .csv with a header, beside what is known of them.

    The column `path` names images as the data do, relative to their folder, or by the file's name alone; or `index`,
    from 0, of images without names. Another column is numbers, which are an angle where its header says `(deg)`, or a
    category. What the table does not say of an image is missing.
    """

    def __init__(self, source: Source, table: Path):
        super().__init__(source)
        self.table, self.origin = table, f"{source.origin} with {table}"
        self.said: tuple[str, ...] = ()
        self.added = 0  # factors, known once `contents` was called

    def fingerprint(self) -> Any:
        return [self.source.fingerprint(), hashlib.sha256(_read(self.table)).hexdigest()]

    def contents(self) -> Contents:
        contents = self.source.contents()
        table = Table.of(self.table)
        rows = table.rows_of(contents)
        kinds, factors, names = table.kinds, table.values, contents.factor_names or ()
        if twice := set(names) & {f.name for f in kinds}:
            raise DataError(f"{self.table}: {self.name} has the factor {min(twice)} of itself; rename the column")
        values = np.where((rows >= 0)[:, None], factors[rows], np.nan).astype(np.float32)
        if contents.factors is not None:
            kinds = (*(contents.kinds or kinds_of(names, contents.factors)), *kinds)
            values = np.concatenate([np.asarray(contents.factors, np.float32), values], 1)
        self.added = len(table.kinds)
        self.said = table.remarks(contents, rows)
        return replace(contents, factors=values, factor_names=tuple(f.name for f in kinds), kinds=kinds)

    def pictured(self, values: np.ndarray) -> np.ndarray | None:
        return self.source.pictured(values[:, : values.shape[1] - self.added])

    def notes(self) -> tuple[str, ...]:
        return (*self.source.notes(), *self.said)


@dataclass(frozen=True)
class Table:
    """keys [R]: of which image each row is; values: float64 [R, F], NaN where a cell is empty."""

    path: Path
    by: str
    keys: Sequence[str]
    kinds: tuple[Factor, ...]
    values: np.ndarray

    @staticmethod
    def of(path: Path) -> "Table":
        """Raises DataError for what is no such table."""
        try:
            header, *lines = list(csv.reader(_read(path).decode("utf-8-sig").splitlines()))
        except (ValueError, csv.Error, UnicodeDecodeError):
            raise DataError(f"{path}: expected a header and rows, with commas between columns, in UTF-8") from None
        header, lines = [name.strip() for name in header], [line for line in lines if any(line)]
        by = next((name for name in ROW_BY if name in header), None)
        if by is None or len(header) < 2 or not lines:
            raise DataError(
                f"{path}: expected a column path, or index, one or more of attributes, and a row for each image; the "
                f"columns are {', '.join(header)}"
            )
        for i, line in enumerate(lines):
            if len(line) != len(header):
                raise DataError(f"{path}, line {i + 2}: has {len(line)} columns, and the header {len(header)}")
        columns = {name: [line[i].strip() for line in lines] for i, name in enumerate(header)}
        if len(columns) < len(header):
            raise DataError(f"{path}: two columns have the same name")
        keys = columns.pop(by)
        found = [_column(name, cells) for name, cells in columns.items()]
        return Table(path, by, keys, tuple(f for f, _ in found), np.stack([v for _, v in found], 1))

    def rows_of(self, contents: Contents) -> np.ndarray:
        """Which row is of each image, -1 for none: int64 [N]. Raises DataError where none is, or two are of one."""
        if self.by == "index":
            names: Sequence[str] = [str(i) for i in range(len(contents.keys))]
        elif contents.paths is None:
            raise DataError(f"{self.path}: the images have no paths; give a column index, from 0, in its place")
        else:
            names = contents.paths
        for called in (_as_is, _last):
            own, keys = [called(name) for name in names], [called(key) for key in self.keys]
            rows = {key: i for i, key in enumerate(keys)}
            if set(own) & set(rows):
                break
        else:
            raise DataError(
                f"{self.path}: none of its {self.by}s is that of an image: the first is {self.keys[0]}, and the images "
                f"are called {names[0]}, …"
            )
        for seen in (own, keys):
            if len(set(seen)) < len(seen) and (twice := _twice(seen)) in rows:
                raise DataError(f"{self.path}: {self.by} {twice} is that of two images, or of two rows")
        return np.array([rows.get(name, -1) for name in own], np.int64)

    def remarks(self, contents: Contents, rows: np.ndarray) -> tuple[str, ...]:
        """What of the images and of the table has nothing in the other, and which attributes are missing of some."""
        said = []
        if (without := np.flatnonzero(rows < 0)).size:
            first = "" if contents.paths is None else f", the first {contents.paths[without[0]]}"
            said.append(f"{self.path} has no row of {without.size:,} of {counted(len(rows), 'image')}{first}")
        if unused := len(self.keys) - len(set(rows[rows >= 0].tolist())):
            said.append(f"{self.path}: {counted(unused, 'row')} of no image that is there")
        missing = np.isnan(self.values).sum(0)
        empty = [(f.name, int(n)) for f, n in zip(self.kinds, missing, strict=True) if n]
        said += [f"{self.path}: {name} is empty in {counted(n, 'row')}" for name, n in empty]
        return tuple(said)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as e:
        raise DataError(f"data.attributes={path}: {e.strerror or e}") from None


def _column(header: str, cells: list[str]) -> tuple[Factor, np.ndarray]:
    """What a column is, and its values [R]: numbers, or else names."""
    try:
        values = np.array([float(cell) if cell else math.nan for cell in cells])
    except ValueError:
        values = None
    if values is not None and not np.isinf(values).any():
        return number_of(header, values), values
    names = sorted(set(filter(None, cells)))
    name, _ = of_header(header)
    place = {cell: float(i) for i, cell in enumerate(names)} | {"": math.nan}
    return Factor(name=name, kind="categorical", values=tuple(names)), np.array([place[cell] for cell in cells])


def _as_is(name: str) -> str:
    return PurePosixPath(name.replace("\\", "/")).as_posix()


def _last(name: str) -> str:
    return PurePosixPath(name.replace("\\", "/")).name


def _twice(names: Sequence[str]) -> str:
    return Counter(names).most_common(1)[0][0]

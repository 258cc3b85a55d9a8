"""What a direction is learnt from: two classes of images, given by two data sets, by labels, or by a column of values.

A contrast is learnt on the training part and measured on the validation part of its data; the test part is left alone.
"""

import csv
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lowerbound.data.base import Images
from lowerbound.editing.latents import Codec
from lowerbound.editing.learn import classes
from lowerbound.errors import UserError, counted, did_you_mean
from lowerbound.progress import Progress
from lowerbound.runs.inputs import open_like
from lowerbound.runs.run import Run

PARTS = ("train", "valid")


class Part(NamedTuple):
    """The images of a part that a contrast is about, several sets of them, and their class."""

    sets: tuple[tuple[Images, np.ndarray], ...]  # images, and the rows of them that are meant
    positive: np.ndarray  # bool [N], over all rows of all sets
    others: dict[str, np.ndarray]  # other attributes: bool [N], or float with NaN where nothing is said

    def codes(self, editor: Codec) -> np.ndarray:
        """The posterior means: float64 [N, D]."""
        return np.concatenate([editor.codes_of(images)[rows] for images, rows in self.sets])


class Contrast(ABC):
    """Where positives and negatives come from."""

    @abstractmethod
    def parts(self, run: Run, progress: Progress) -> tuple[Part, Part]:
        """For learning, and held out. Raises UserError where the data don't say which is which."""

    @abstractmethod
    def words(self, run: Run) -> str:
        """The contrast in words, for the report."""


@dataclass(frozen=True)
class Folders(Contrast):
    """Two data sets: one of positives, one of negatives."""

    positive: str
    negative: str

    def parts(self, run: Run, progress: Progress) -> tuple[Part, Part]:
        sources = (self.positive, self.negative)
        _check_disjoint(self, *(open_like(run, "all", source, progress) for source in sources))
        return _both([self._part(*(open_like(run, p, source, Progress()) for source in sources)) for p in PARTS])

    @staticmethod
    def _part(positive: Images, negative: Images) -> Part:
        n, m = len(positive), len(negative)
        sets = ((positive, np.arange(n)), (negative, np.arange(m)))
        return Part(sets, np.arange(n + m) < n, {})

    def words(self, run: Run) -> str:
        return f"{self.positive} against {self.negative}"


@dataclass(frozen=True)
class Labels(Contrast):
    """A class of the run's data (or of others with labels), against another one or all others."""

    label: str
    against: str | None = None
    data: str | None = None

    def parts(self, run: Run, progress: Progress) -> tuple[Part, Part]:
        said = zip(PARTS, (progress, Progress()), strict=True)  # of a conversion, once
        return _both([self._part(open_like(run, p, self.data, s)) for p, s in said])

    def _part(self, images: Images) -> Part:
        if images.y is None or images.classes is None:
            raise UserError(
                f"--label {self.label}: {images.name} has no labels; give --positive and --negative, or --attribute"
            )
        y, chosen = np.asarray(images.y), _class("--label", self.label, images.classes)
        rows = np.arange(len(y))
        if self.against is not None:
            other = _class("--against", self.against, images.classes)
            if other == chosen:
                raise UserError(f"--against {self.against}: is the same class as --label {self.label}")
            rows = np.flatnonzero((y == chosen) | (y == other))
        others = {c: y[rows] == i for i, c in enumerate(images.classes) if i != chosen and len(images.classes) > 2}
        return Part(((images, rows),), y[rows] == chosen, others if self.against is None else {})

    def words(self, run: Run) -> str:
        return f"{self.label} against {self.against or 'all others'} of {self.data or run.facts.name}"


@dataclass(frozen=True)
class Column(Contrast):
    """A column of values: of a CSV file that has the images' paths, or a factor of the data's own.

    csv: with a column `path`, relative to the data's root as `encode` writes it; None: the factors of the data.
    skip_missing: leave images without a value out.
    """

    name: str
    csv: Path | None = None
    data: str | None = None
    skip_missing: bool = False

    def parts(self, run: Run, progress: Progress) -> tuple[Part, Part]:
        images = [open_like(run, p, self.data, said) for p, said in zip(PARTS, (progress, Progress()), strict=True)]
        tables = _csv_columns(self.csv, images) if self.csv else [_factor_columns(self.name, part) for part in images]
        cut = None if self.csv else images[0].factor_cut
        where = str(self.csv or images[0].name)
        if self.name not in tables[0]:
            raise UserError(f"--attribute {self.name}: no such column in {where}{did_you_mean(self.name, tables[0])}")
        rows = self._rows([t[self.name] for t in tables], images, where)
        both = {k: np.concatenate([t[k][kept] for t, kept in zip(tables, rows, strict=True)]) for k in tables[0]}
        positive = self._classes(both.pop(self.name), cut, where, progress)
        others = {k: sides for k, values in both.items() if (sides := _sides(values, cut)) is not None}
        ends = np.cumsum([0, *map(len, rows)])
        spans = [slice(a, b) for a, b in pairwise(ends.tolist())]
        return _both(
            [
                Part(((part, kept),), positive[span], {k: v[span] for k, v in others.items()})
                for part, kept, span in zip(images, rows, spans, strict=True)
            ]
        )

    def _classes(self, values: np.ndarray, cut: float | None, where: str, progress: Progress) -> np.ndarray:
        """bool [N]; where numbers are split at their median, it is said."""
        if cut is not None:
            return classes(values, cut)[0]
        try:
            positive, cut = classes(values)
        except UserError as e:
            raise UserError(f"--attribute {self.name}: {where}: {e}") from None
        if cut is not None:
            progress.say(f"{self.name}: values above {cut:g}, their median, are the positives")
        return positive

    def _rows(self, values: Sequence[np.ndarray], images: Sequence[Images], where: str) -> list[np.ndarray]:
        """The rows with a value. Raises UserError for others, unless they are to be left out."""
        missing = [np.flatnonzero(_unsaid(part)) for part in values]
        count, total = sum(map(len, missing)), sum(map(len, values))
        if count == total:
            part = images[0]
            raise UserError(
                f"--attribute {self.name}: {where} has no value for any image of {part.name}; its paths must be those "
                f"of the data, such as {part.paths[0] if part.paths else 0}"
            )
        if count and not self.skip_missing:
            k = next(k for k, m in enumerate(missing) if len(m))
            names = images[k].paths
            first = names[missing[k][0]] if names is not None else f"row {missing[k][0]}"
            raise UserError(
                f"--attribute {self.name}: {where} has no value for {count:,} of {total:,} images, the first {first}; "
                "add them, or leave those images out with --skip-missing"
            )
        return [np.setdiff1d(np.arange(len(v)), m) for v, m in zip(values, missing, strict=True)]

    def words(self, run: Run) -> str:
        return f"{self.name} of {self.csv or self.data or run.facts.name}"


def _class(option: str, name: str, known: tuple[str, ...]) -> int:
    if name not in known:
        raise UserError(f"{option} {name}: no such class{did_you_mean(name, known)}")
    return known.index(name)


def _both(parts: Sequence[Part]) -> tuple[Part, Part]:
    """Raises UserError for a class with too few examples."""
    for part, least, why in zip(parts, (2, 1), ("to learn from", "held out"), strict=True):
        for kind, n in (("positive", int(part.positive.sum())), ("negative", int((~part.positive).sum()))):
            if n < least:
                raise UserError(
                    f"{counted(n, f'{kind} image')} {why}, expected at least {least}: a tenth of the images, "
                    "by the hash of their paths, is held out; give more of that class"
                )
    return parts[0], parts[1]


def _check_disjoint(given: Folders, positive: Images, negative: Images) -> None:
    """Raise UserError where an image is among the positives and the negatives, by its pixels."""
    seen = dict(_digests(positive))
    same = [(seen[d], name) for d, name in _digests(negative) if d in seen]
    if same:
        n, (first, second) = len(same), same[0]
        raise UserError(
            f"--positive {given.positive} and --negative {given.negative} share {counted(n, 'image')}: "
            f"{first} is the same as {second}; an image can't be of both classes"
        )


def _digests(images: Images) -> list[tuple[bytes, str]]:
    names = images.paths if images.paths is not None else [f"row {i}" for i in range(len(images))]
    return [
        (hashlib.blake2b(np.ascontiguousarray(x).tobytes(), digest_size=16).digest(), str(n))
        for x, n in zip(images.x, names, strict=True)
    ]


# ---- columns


def _csv_columns(path: Path, images: Sequence[Images]) -> list[dict[str, np.ndarray]]:
    """The columns of a CSV, in the order of the images of each part: objects, which are strings, [N]; "" where the file
    says nothing of an image.
    """
    names, rows = _read_csv(path)
    tables = []
    for part in images:
        if part.paths is None:
            raise UserError(f"--attributes {path}: the images of {part.name} have no paths; give factors in the .npz")
        own = [rows.get(path, {}) for path in part.paths]
        tables.append({name: np.array([row.get(name) or "" for row in own], object) for name in names})
    return tables


def _read_csv(path: Path) -> tuple[list[str], dict[str, dict[str, str]]]:
    """The columns besides `path`, and path -> values."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = list(reader.fieldnames or ())
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as e:
        raise UserError(f"--attributes {path}: can't be read: {getattr(e, 'strerror', None) or e}") from None
    if "path" not in columns:
        raise UserError(f"--attributes {path}: expected a column `path` in its first line, got {', '.join(columns)}")
    found_rows: dict[str, dict[str, str]] = {}
    for row in rows:
        if row["path"] in found_rows and found_rows[row["path"]] != row:
            raise UserError(f"--attributes {path}: says two different things of {row['path'] or 'an empty path'}")
        found_rows[row["path"]] = row
    return [c for c in columns if c and c != "path"], found_rows


def _factor_columns(name: str, images: Images) -> dict[str, np.ndarray]:
    """The factors of the data, [N] each; NaN where nothing is said."""
    if images.factors is None or images.factor_names is None:
        raise UserError(
            f"--attribute {name}: {images.name} has no factors; give --attributes FILE.csv with columns path and {name}"
        )
    return {n: np.asarray(images.factors[:, k]) for k, n in enumerate(images.factor_names)}


def _unsaid(values: np.ndarray) -> np.ndarray:
    """Where a column says nothing: bool [N]."""
    if values.dtype.kind == "O":
        return np.array([not v.strip() for v in values], bool)
    return np.isnan(values.astype(np.float64))


def _sides(values: np.ndarray, cut: float | None) -> np.ndarray | None:
    """Another attribute as 0, 1, and NaN where nothing is said: float [N]; None where it has no two sides."""
    said = np.flatnonzero(~_unsaid(values))
    try:
        sides = classes(values[said], cut)[0]
    except UserError:
        return None
    out = np.full(len(values), np.nan)
    out[said] = sides
    return out


def choose(
    *,
    positive: str | None = None,
    negative: str | None = None,
    label: str | None = None,
    against: str | None = None,
    attribute: str | None = None,
    attributes: Path | None = None,
    data: str | None = None,
    skip_missing: bool = False,
) -> Contrast:
    """The contrast that is meant by the options of `lowerbound direction`. Raises UserError for none, or several."""
    ways = {"--positive": positive or negative, "--label": label, "--attribute": attribute}
    given = [option for option, value in ways.items() if value is not None]
    if len(given) != 1:
        raise UserError(
            f"expected one of --positive DATA --negative DATA, --label CLASS or --attribute COLUMN, got "
            f"{' and '.join(given) or 'none'}"
        )
    wanted = {"--against": against, "--attributes": attributes, "--data": data, "--skip-missing": skip_missing or None}
    belong = {"--positive": (), "--label": ("--against", "--data")}
    for option, value in wanted.items():
        if value is not None and option not in belong.get(given[0], ("--attributes", "--data", "--skip-missing")):
            raise UserError(f"{option} {value}: does not go with {given[0]}")
    if label is not None:
        return Labels(label, against, data)
    if attribute is not None:
        return Column(attribute, attributes, data, skip_missing)
    if positive is None or negative is None:
        raise UserError("--positive DATA and --negative DATA belong together, only one is there")
    return Folders(positive, negative)

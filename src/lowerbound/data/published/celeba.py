"""CelebA, aligned: 202,599 faces of 178x218 pixels with 40 attributes of each, in the published parts.

Liu, Luo, Wang & Tang (2015), https://arxiv.org/abs/1411.7766. The attributes are factors: 1 present, 0 absent.

Of the 178x218 pixels the middle 148x148 are scaled to 64x64, as in https://github.com/AntixK/PyTorch-VAE and others.
The 148 are those of Larsen et al. (2016), https://github.com/andersbll/autoencoding_beyond_pixels, whose square lies 5
pixels lower.
"""

from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from lowerbound.data.archives import file_fingerprint
from lowerbound.data.bundled import Bundled, damaged
from lowerbound.data.folder import Files
from lowerbound.data.formats import is_image
from lowerbound.data.source import Contents, Keep, Preparation, Source
from lowerbound.errors import DataError

CROP = 148 / 178


class CelebA(Source):
    """Files: images, attributes, parts. Images are known by their names without the suffix, wherever they lie."""

    def __init__(self, name: str, files: list[Path], preparation: Preparation):
        images, self.attributes, self.parts = files
        self.images = Files(images, preparation, name)
        self.name, self.origin, self.preparation = name, self.images.origin, preparation

    def fingerprint(self) -> Any:
        return [self.images.fingerprint(), *(file_fingerprint(file) for file in (self.attributes, self.parts))]

    def contents(self) -> Contents:
        names = self._names()
        attributes, parts = read(self.attributes), read(self.parts)
        for file, table, columns in ((self.attributes, attributes, None), (self.parts, parts, 1)):
            self._check(file, table, names)
            if columns and table.values.shape[1] != columns:
                raise damaged(file, f"{table.values.shape[1]} values a line, expected {columns}")
        if not attributes.names:
            raise damaged(self.attributes, "it does not name its attributes")
        part = dict(zip(parts.keys, parts.values[:, 0].tolist(), strict=True))
        if not set(part.values()) <= {0, 1, 2}:
            raise damaged(self.parts, "a part other than 0 (train), 1 (valid) and 2 (test)")
        files = self.images
        files.names = [names[key] for key in attributes.keys]
        files.others = []
        size, crop = self.preparation.size, self.preparation.crop or 1
        assert size is not None
        files.shape = (1 if self.preparation.gray else 3, size, size)
        return Contents(
            keys=attributes.keys,
            part=np.array([part[key] for key in attributes.keys], np.int8),
            carve=(),
            shape=files.shape,
            levels=self.preparation.levels or 256,
            paths=[PurePosixPath(name).name for name in files.names],
            factors=(attributes.values == 1).astype(np.uint8),
            factor_names=attributes.names,
            layout=f"parts as published, {len(attributes.names)} attributes; the middle {crop:.0%} of the width as "
            f"{size}x{size}",
        )

    def rows(self, contents: Contents, keep: Keep) -> Iterator[tuple[int, int | str]]:
        return self.images.rows(contents, keep)

    def notes(self) -> tuple[str, ...]:
        return self.images.notes()

    def _names(self) -> dict[str, str]:
        """The images, by their names without folders and suffix."""
        found: dict[str, str] = {}
        for name in filter(is_image, self.images.store.names()):
            key = PurePosixPath(name).stem
            if key in found:
                raise DataError(f"{self.images.path}: has {found[key]} and {name}; remove one of them")
            found[key] = name
        if not found:
            raise DataError(f"{self.images.path}: no images; expected 000001.jpg and so on, as published")
        return found

    def _check(self, file: Path, table: "Table", names: dict[str, str]) -> None:
        """Raise DataError unless a table has one line for every image, and an image for every line."""
        lines = set(table.keys)
        if len(lines) < len(table.keys):
            raise damaged(file, "it has two lines of one image")
        if unknown := _first(lines - names.keys()):
            raise DataError(f"{self.images.path}: has no image {unknown}, which {file.name} names")
        if left := _first(names.keys() - lines):
            raise damaged(file, f"{len(lines):,} lines for {len(names):,} images; it has none for {left}")


def _first(keys: Collection[str]) -> str:
    """`000003 and 5 more`; "" of none."""
    more = f" and {len(keys) - 1:,} more" if len(keys) > 1 else ""
    return f"{min(keys)}{more}" if keys else ""


class Table(NamedTuple):
    """A line for each image."""

    keys: list[str]  # [N], the images' names without the suffix
    names: tuple[str, ...]  # [F] of the columns; () where the file says none
    values: np.ndarray  # int8 [N, F]


def read(file: Path) -> Table:
    """A published list, or its form with commas: perhaps the number of lines, perhaps a header, then `000001.jpg -1 1`.

    Raises DataError for a file that is not so.
    """
    try:
        lines = file.read_bytes().replace(b",", b" ").split(b"\n")
    except OSError as e:
        raise damaged(file, e.strerror or e) from None
    rows = [line for line in lines if line.strip()]
    count = int(rows.pop(0)) if rows and rows[0].strip().isdigit() else None
    names = _header(rows[0].split()) if rows else None
    rows = rows[1:] if names else rows
    if not rows or count not in (None, len(rows)):
        raise damaged(
            file, f"its first line says {count:,} images, {len(rows):,} follow" if count else "it has no lines"
        )
    split = [row.partition(b" ") for row in rows]
    keys = [first.rpartition(b".")[0].decode("ascii", "replace") for first, _, _ in split]
    return Table(keys, names or (), _digits(file, [rest for _, _, rest in split], len(names) if names else None))


def _header(words: list[bytes]) -> tuple[str, ...] | None:
    """The names of columns; None of a line of values."""
    if len(words) > 1 and words[-1].lstrip(b"-").isdigit():
        return None
    return tuple(word.decode("ascii", "replace") for word in words if word != b"image_id")


def _digits(file: Path, rows: list[bytes], width: int | None) -> np.ndarray:
    """Lines of whole numbers of one digit, of so many each (None: as in the first), all at once: int8 [N, width]."""
    a = np.frombuffer(b"\n".join(rows) + b"\n", np.uint8)
    digit, minus, end = (a >= ord("0")) & (a <= ord("9")), a == ord("-"), a == ord("\n")
    blank = (a == ord(" ")) | (a == ord("\t")) | (a == ord("\r"))
    bad = ~(digit | minus | end | blank)
    bad[1:] |= digit[1:] & digit[:-1]
    bad[:-1] |= minus[:-1] & ~digit[1:]
    if bad.any():
        line = int(end[: bad.argmax()].sum())
        raise damaged(file, f"not whole numbers of one digit: {rows[line].strip().decode('ascii', 'replace')[:60]}")
    counts = np.diff(np.searchsorted(np.flatnonzero(digit), np.flatnonzero(end)), prepend=0)
    width = int(counts[0]) if width is None else width
    if (wrong := counts != width).any():
        i = int(wrong.argmax())
        raise damaged(file, f"{counts[i]} values in the line of image {i + 1:,}, expected {width}")
    values = (a[digit] - ord("0")).astype(np.int8)
    values[np.concatenate([[False], minus])[:-1][digit]] *= -1
    return values.reshape(len(rows), width)


def _either(name: str, folder: str) -> tuple[str, ...]:
    """Where a list may lie: beside the images, as a CSV, or in the folder that it is published in."""
    return (f"celeba/{name}.txt", f"celeba/{name}.csv", f"celeba/{folder}/{name}.txt")


BUNDLED = (
    Bundled(
        "celeba",
        "202,599 colour faces with 40 attributes, their middle 148x148 pixels as 64x64",
        (
            tuple(
                f"celeba/{name}" for name in ("img_align_celeba.zip", "img_align_celeba", "Img/img_align_celeba.zip")
            ),
            _either("list_attr_celeba", "Anno"),
            _either("list_eval_partition", "Eval"),
        ),
        CelebA,
        size=64,
        crop=CROP,
    ),
)

"""The data sets that have a name: where their published files lie below the data root.

A file of `published/` that defines `BUNDLED`, a tuple of them, adds data sets; nothing else needs to know.
"""

import importlib
import os
import pkgutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lowerbound.data import published
from lowerbound.data.archives import file_stamp
from lowerbound.data.cache import root
from lowerbound.data.download import Download, fetch
from lowerbound.data.source import ArraySource, Preparation, Source
from lowerbound.errors import DataError


class Bundled(NamedTuple):
    """A published data set, read from its own files."""

    name: str
    description: str
    files: tuple[tuple[str, ...], ...]  # below the data root; each with its alternatives (unpacked, another archive)
    source: Callable[[str, list[Path], Preparation], Source]  # (name, files found, preparation)
    downloads: tuple[Download, ...] = ()
    size: int | None = None  # what it is brought to, where nothing else is asked for
    crop: float | None = None  # see `Preparation`; where nothing else is asked for
    licence: str = ""  # of the images, where it is known

    def missing(self) -> tuple[str, ...]:
        """The files that are not there, each by its first alternative."""
        return tuple(options[0] for options in self.files if locate(options) is None)

    def settled(self, preparation: Preparation) -> Preparation:
        """With the data set's own size and crop, where none are asked for."""
        return preparation._replace(size=preparation.size or self.size, crop=preparation.crop or self.crop)

    def open(self, preparation: Preparation, folder: Path | None = None) -> Source:
        """The source, its files downloaded when they are missing. Raises DataError where that is not possible.

        folder: what they lie in, instead of that below the data root.
        """
        preparation, why = self.settled(preparation), ""
        if folder is not None:
            return self.source(self.name, [p for o in self.inside() if (p := locate(o, folder))], preparation)
        if self.missing() and self.downloads:
            wanted = [d for d in self.downloads if d.path.endswith("/") or d.path in self.missing()]
            why = fetch(wanted, data_root(), complete=lambda: not self.missing())
        if self.missing():
            listed = ", ".join(" or ".join(options) for options in self.files if locate(options) is None)
            if self.inside() and all(locate(options, data_root()) for options in self.inside()):
                raise DataError(f"{self.name}: its files lie in {data_root()} itself: give --data {data_root()}")
            raise DataError(
                f"{self.name}: missing in {data_root()}: {listed}{why}. Put the published files there, or set "
                f"LOWERBOUND_DATA to the folder that holds them"
            )
        return self.source(self.name, [p for options in self.files if (p := locate(options))], preparation)

    def inside(self) -> tuple[tuple[str, ...], ...]:
        """The files as they lie in the data set's own folder; () where it has none."""
        own = tuple(tuple(n.partition("/")[2] for n in options if "/" in n) for options in self.files)
        return own if all(own) else ()


class Published(ArraySource):
    """A source of arrays in a few published files."""

    def __init__(self, name: str, files: list[Path], preparation: Preparation):
        self.name, self.files, self.preparation = name, files, preparation
        self.origin = f"{name} in {files[0].parent.resolve()}" if files else name

    def fingerprint(self) -> Any:
        return [[str(file), *file_stamp(file)] for file in self.files]


class Known(NamedTuple):
    """A line of the list of bundled data sets."""

    name: str
    description: str
    present: bool
    missing: tuple[str, ...]  # files below the data root


def names() -> list[Known]:
    """Every bundled data set, and whether its files are there."""
    return [Known(b.name, b.description, not b.missing(), b.missing()) for b in bundled().values()]


def bundled() -> dict[str, Bundled]:
    """Name -> data set, found by walking `published`."""
    found: list[Bundled] = []
    for info in pkgutil.iter_modules(published.__path__, published.__name__ + "."):
        found += vars(importlib.import_module(info.name)).get("BUNDLED", ())
    return {b.name: b for b in sorted(found)}


def lying_in(folder: Path) -> Bundled | None:
    """The data set whose published files lie in this folder, as they would in its own below the data root.

    Raises DataError where some of them are missing, beside lists of what its images are.
    """
    found = {b.name: [locate(options, folder) for options in b.inside()] for b in bundled().values() if b.inside()}
    whole = [name for name, files in found.items() if all(files)]
    if len(whole) == 1:
        return bundled()[whole[0]]
    if not whole and len(partly := [name for name, files in found.items() if any(files[1:])]) == 1:
        options = zip(found[partly[0]], bundled()[partly[0]].inside(), strict=True)
        missing = ", ".join(" or ".join(o) for file, o in options if file is None)
        raise DataError(
            f"{folder} holds some of the files of {partly[0]}, but not {missing}; put what is missing there, or give "
            "the folder of images alone"
        )
    return None


def data_root() -> Path:
    """`$LOWERBOUND_DATA`, by default the folder `data` of the cache."""
    given = os.environ.get("LOWERBOUND_DATA")
    return Path(given).expanduser() if given else root() / "data"


def locate(options: tuple[str, ...], folder: Path | None = None) -> Path | None:
    """The first of the alternatives that is there, below the data root or another folder."""
    paths = [(folder or data_root()) / name for name in options]
    return next((path for path in paths if path.exists()), None)


def published_parts(train: int, valid: int | None, test: int) -> np.ndarray:
    """Parts of rows in the order train, valid, test: int8 [N].

    Without a published valid it is the last 5,000 of train (of a stand-in with few rows, the last tenth).
    """
    if valid is None:
        valid = min(5000, max(1, train // 10))
        train -= valid
    return np.repeat(np.array([0, 1, 2], np.int8), [train, valid, test])


def damaged(file: Path, error: object) -> DataError:
    """What to raise for a published file that can't be read."""
    return DataError(f"{file}: not the published file, or damaged: {error}")

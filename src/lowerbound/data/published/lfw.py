"""Labeled Faces in the Wild: the identity is the label, and nobody is in two parts.

Beside it may lie `lfw_attributes.txt`, those of Kumar et al. (2009), https://doi.org/10.1109/ICCV.2009.5459250. They
are factors: what classifiers say, present above 0; NaN of the few faces they say nothing of.
"""

from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from lowerbound.data.archives import file_fingerprint
from lowerbound.data.bundled import Bundled, damaged
from lowerbound.data.decode import Header
from lowerbound.data.folder import Files
from lowerbound.data.layout import Layout
from lowerbound.data.source import Contents, Preparation, Source

ATTRIBUTES = "lfw_attributes.txt"


class LFW(Files):
    """The folder or archive of faces, with the attributes that lie beside or in it, where there are any."""

    def __init__(self, path: Path, preparation: Preparation, name: str):
        super().__init__(path, preparation, name=name, by_class=True)
        beside = (path.parent / ATTRIBUTES, path / ATTRIBUTES)
        self.table = next((file for file in beside if file.is_file()), None)

    def fingerprint(self) -> Any:
        return [*super().fingerprint(), *([file_fingerprint(self.table)] if self.table else [])]

    def look(self) -> tuple[Layout, list[Header | str]]:
        looked = super().look()
        self.others = [name for name in self.others if PurePosixPath(name).name != ATTRIBUTES]
        return looked

    def contents(self) -> Contents:
        contents = super().contents()
        if self.table is None:
            return contents
        assert contents.paths is not None
        names, said = read(self.table)
        nothing = np.full(len(names), np.nan, np.float32)
        keys = [PurePosixPath(path).stem for path in contents.paths]
        unknown = sum(key not in said for key in keys)
        if unknown == len(keys):
            raise damaged(self.table, f"it says nothing of any image, such as {contents.paths[0]}")
        note = f"{ATTRIBUTES} says nothing of {unknown:,} of {len(keys):,} images"
        return replace(
            contents,
            factors=np.stack([said.get(key, nothing) for key in keys]),
            factor_names=names,
            factor_cut=0.0,
            notes=(*contents.notes, *([note] if unknown else [])),
        )


def read(file: Path) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
    """The names of the attributes, and image such as Aaron_Eckhart_0001 -> float32 [F]. Raises DataError."""
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as e:
        raise damaged(file, e.strerror or e) from None
    names: tuple[str, ...] = ()
    found: dict[str, np.ndarray] = {}
    for number, line in enumerate(lines, 1):
        words = line.lstrip("#").strip().split("\t")
        if words[:2] == ["person", "imagenum"]:
            names = tuple(word.strip() for word in words[2:])
        elif names and line.strip() and not line.startswith("#"):
            person, image, values = _row(file, number, words, len(names))
            found[f"{person.replace(' ', '_')}_{image:04}"] = values
    if not found:
        raise damaged(file, "expected a line `#, person, imagenum, …` with tabs between, then a line for each image")
    return names, found


def _row(file: Path, number: int, words: list[str], width: int) -> tuple[str, int, np.ndarray]:
    """The person, the number of the image, and its values."""
    if len(words) != 2 + width:
        raise damaged(file, f"{len(words) - 2} values in line {number:,}, expected {width}")
    try:
        return words[0], int(words[1]), np.array(words[2:], np.float32)
    except ValueError as e:
        raise damaged(file, f"line {number:,}: {e}") from None


def _source(name: str, files: list[Path], preparation: Preparation) -> Source:
    return LFW(files[0], preparation, name)


BUNDLED = (
    Bundled(
        "lfw",
        "13,233 photographs of 5,749 faces; the identity is the label; 73 attributes where lfw_attributes.txt is there",
        (("lfw", "lfw.zip", "lfw.tar"),),
        _source,
    ),
)

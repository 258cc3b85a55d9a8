"""What a folder of shards holds.

    SHARDS/
      index.json            all that is said once, and the size and SHA-256 of every other file
      x-00000.npy …         uint8 [n, C, H, W], of one part each; the parts one after another
      y, factors, paths …   what is said of each image, .npy, a row for each image in the same order
      source                a digest of what was packed and how, by which it is known when it is packed again

A shard's bytes after its header are its images' pixels one after another, so that any of them is a range of the file.
`hashes.npy` has a hash of each image, by which it is checked when it is first read.
"""

import hashlib
import io
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lowerbound.data import cache
from lowerbound.data.images import Shape
from lowerbound.data.shards.places import Local, Missing, Place
from lowerbound.data.source import Preparation
from lowerbound.errors import DataError

INDEX = "index.json"
KIND = "lowerbound shards"
VERSION = 1
HEADER = 128  # bytes of a shard before its pixels


class Shard(NamedTuple):
    """A file of pixels."""

    file: str
    rows: int
    bytes: int
    sha256: str


class Index(NamedTuple):
    """What index.json says."""

    shape: Shape
    counts: dict[str, int]  # images in each part
    fingerprints: dict[str, str]  # of each part and of all
    mean: list[float]  # of the pixels, per channel
    carve: tuple[str, ...]  # the parts that images were dealt to
    preparation: Preparation  # that the images were packed with
    facts: dict[str, Any]  # see `entries.facts_of`
    shards: tuple[Shard, ...]
    files: dict[str, tuple[int, str]]  # bytes and SHA-256 of the other arrays

    def json(self) -> str:
        said = self._asdict() | {
            "preparation": self.preparation._asdict(),
            "shards": [s._asdict() for s in self.shards],
        }
        return json.dumps({"kind": KIND, "version": VERSION, **said}, indent=1)

    @property
    def n(self) -> int:
        return sum(self.counts.values())

    @property
    def size(self) -> int:
        """Bytes of all files but the index."""
        return sum(s.bytes for s in self.shards) + sum(size for size, _ in self.files.values())


def looks_packed(folder: Path) -> bool:
    """Whether a folder has an index of files, ours or another program's; without images of its own it is no folder of
    images."""
    try:
        said = json.loads((folder / INDEX).read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(said, dict) and (said.get("kind") == KIND or bool({"shards", "chunks"} & said.keys()))


def read_index(place: Place) -> Index:
    """Raises DataError where there is none, or another program's, or a newer version's."""
    try:
        text = place.whole(INDEX)
    except Missing:
        raise Missing(f"{place.name}: has no {INDEX}, which `lowerbound data pack` writes") from None
    try:
        said = json.loads(text)
    except ValueError:
        raise DataError(place.told(INDEX, "is damaged; copy it again, or pack the data again")) from None
    if not isinstance(said, dict) or said.get("kind") != KIND:
        raise DataError(place.told(INDEX, "is another program's; expected one that `lowerbound data pack` wrote"))
    if said.get("version") != VERSION:
        newer = f"is of version {said.get('version')}, and this program reads {VERSION}; upgrade lowerbound"
        raise DataError(place.told(INDEX, newer))
    try:
        return _parsed(said)
    except (KeyError, TypeError, ValueError) as e:
        raise DataError(place.told(INDEX, f"is damaged ({e}); copy it again, or pack the data again")) from None


def _parsed(said: Mapping[str, Any]) -> Index:
    c, h, w = said["shape"]
    index = Index(
        shape=(int(c), int(h), int(w)),
        counts={name: int(n) for name, n in said["counts"].items()},
        fingerprints=dict(said["fingerprints"]),
        mean=[float(m) for m in said["mean"]],
        carve=tuple(said["carve"]),
        preparation=Preparation(**said["preparation"]),
        facts=dict(said["facts"]),
        shards=tuple(Shard(**s) for s in said["shards"]),
        files={name: (int(size), str(sha)) for name, (size, sha) in said["files"].items()},
    )
    if sum(s.rows for s in index.shards) != index.n:
        raise ValueError(f"{index.n} images, and {sum(s.rows for s in index.shards)} in its shards")
    if any(Path(name).name != name for name in (*index.files, *(s.file for s in index.shards))):
        raise ValueError("a file of another folder")
    return index


def array(place: Place, index: Index, name: str) -> np.ndarray | None:
    """What is said of each image, memory mapped; None where nothing is.

    Of a server it is fetched once, into the cache, where it lies under its SHA-256. Raises DataError.
    """
    file = f"{name}.npy"
    if file not in index.files:
        return None
    size, sha = index.files[file]
    if isinstance(place, Local):
        place.check([(file, size)])
        with open(place.path / file, "rb") as said:
            _check(place, file, sha, hashlib.file_digest(said, "sha256").hexdigest())
        return cache.mapped(place.path / file)
    with cache.disk_errors():
        folder = cache.root() / "shards"
        cache.make(folder)
        path = folder / f"{sha}.npy"
        if not path.exists():
            data = place.whole(file)
            if len(data) != size:
                raise DataError(place.told(file, f"has {len(data):,} bytes, expected {size:,}; copy it again"))
            _check(place, file, sha, hashlib.sha256(data).hexdigest())
            temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
            try:
                temporary.write_bytes(data)
                os.replace(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)
        return cache.mapped(path)


def _check(place: Place, file: str, sha: str, found: str) -> None:
    if found != sha:
        raise DataError(place.told(file, "is not as it was packed (its SHA-256 is another); copy it again"))


def header(rows: int, shape: Shape) -> bytes:
    """The first HEADER bytes of a shard, always the same for the same."""
    file = io.BytesIO()
    said = {"descr": "|u1", "fortran_order": False, "shape": (rows, *shape)}
    np.lib.format.write_array_header_1_0(file, said)
    assert len(file.getvalue()) == HEADER, file.getvalue()
    return file.getvalue()

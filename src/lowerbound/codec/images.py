"""A user's image files as they are, to the last pixel: nothing is scaled, converted or flattened."""

from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from PIL import Image

from lowerbound.codec.tiles import Size
from lowerbound.data import decode
from lowerbound.data.formats import foreign_name, is_image
from lowerbound.errors import DataError, UserError
from lowerbound.space import Space
from lowerbound.units import to_bytes

LONGEST = 240  # bytes of a name, to which a suffix may come
PLAIN = ("1", "L", "P", "RGB")  # modes of which nothing is lost


class Picture(NamedTuple):
    """An image file, not read yet."""

    path: Path
    name: str  # in the archive: that of the file, or within the folder that was given
    size: Size


class Values(NamedTuple):
    """How the values of a file's pixels and of a model's are made of one another."""

    space: Space
    scaled: bool  # the model's 0 to levels - 1 are the file's 0 to 255

    def of(self, pixels: np.ndarray, name: str) -> np.ndarray:
        """Raises DataError for a value that the model does not have."""
        levels = self.space.levels or 256
        x = np.rint(pixels * ((levels - 1) / 255)).astype(np.uint8) if self.scaled and levels < 256 else pixels
        wrong = (self.back(x) != pixels) | (x >= levels)
        if wrong.any():
            value, few = int(pixels[wrong][0]), "0 and 255" if levels == 2 else f"{levels} values from 0 to 255"
            known = few if self.scaled else f"0 to {levels - 1}"
            raise DataError(f"{name}: a pixel has the value {value}, and the model's images have {known} alone")
        return x

    def back(self, x: np.ndarray) -> np.ndarray:
        levels = self.space.levels or 256
        return to_bytes(x, levels) if self.scaled and levels < 256 else x


def found(paths: Iterable[str | Path]) -> list[Picture]:
    """The images of files and folders, in order. Raises DataError for what is none, or where two have one name."""
    pictures: dict[str, Picture] = {}
    for path, name in _files([Path(path) for path in paths]):
        picture = Picture(path, name, _size(path))
        if (other := pictures.get(name)) is not None:
            raise DataError(f"{other.path} and {path} would both be called {name}; give the folder that holds them")
        pictures[name] = picture
    if not pictures:
        raise DataError("no images were given")
    return [*pictures.values()]


def _files(paths: Sequence[Path]) -> Iterable[tuple[Path, str]]:
    for path in paths:
        if not path.is_dir():
            yield path, path.name
            continue
        inside = sorted(p for p in path.rglob("*") if p.is_file() and is_image(p.relative_to(path).as_posix()))
        if not inside:
            raise DataError(f"{path}: no images in this folder")
        for file in inside:
            yield file, file.relative_to(path).as_posix()


def _size(path: Path) -> Size:
    with _named(path), decode.quiet(), path.open("rb") as file:
        header = decode.header(file)
    return header.height, header.width


def read(picture: Picture, values: Values) -> np.ndarray:
    """uint8 [C, h, w], in the model's values. Raises DataError for an image of which something would be lost."""
    channels, name = values.space.shape[0], str(picture.path)
    with _named(picture.path), decode.quiet(), picture.path.open("rb") as file:
        header = decode.header(file)
        if (header.height, header.width) != picture.size:
            raise DataError(f"{name} has changed: it was {picture.size[1]}x{picture.size[0]} a moment ago")
        if header.colour != (channels == 3):
            kinds = {True: "in colour", False: "grey"}
            raise DataError(f"{name} is {kinds[header.colour]}, and the model is of {kinds[channels == 3]} images")
        file.seek(0)
        _check_plain(file, name)
        file.seek(0)
        return values.of(decode.decode(file, (channels, *picture.size), 256, name).x, name)


def _check_plain(file, name: str) -> None:  # pyright: ignore[reportMissingParameterType]
    with Image.open(file) as image:
        if image.mode not in PLAIN or image.has_transparency_data:
            what = "is transparent" if image.has_transparency_data else f"has pixels of mode {image.mode}"
            raise DataError(f"{name} {what}, of which 8 bits a channel would keep a part; save it as 8-bit grey or RGB")


class _named:
    """Inside, what can't be read is an error that names the file."""

    def __init__(self, path: Path):
        self.path = path

    def __enter__(self) -> None:
        if kind := foreign_name(self.path.name):
            raise DataError(f"{self.path}: {kind}")

    def __exit__(self, kind: object, error: BaseException | None, *_: object) -> None:
        if isinstance(error, decode.Unreadable):
            raise DataError(f"{self.path}: {error}") from None
        if isinstance(error, OSError):
            raise DataError(f"{self.path}: {error.strerror or error}") from None


def safe(name: str) -> PurePosixPath:
    """A name out of a file as a path within a folder. Raises UserError for one that would lead out of it."""
    path = PurePosixPath(name)
    sound = all(ord(c) < 0xD800 or ord(c) > 0xDFFF for c in name)  # halves of characters, which no file system takes
    sound = sound and all(len(part.encode()) <= LONGEST for part in path.parts)
    if not sound or path.is_absolute() or not path.parts or ".." in path.parts or any(c in name for c in "\0\\:"):
        raise UserError(f"the file holds an image called {name!r}, which is no name within a folder")
    return path


def targets(names: Sequence[str]) -> list[PurePosixPath]:
    """Where images of these names are written: as PNG, under other suffixes where two would be one."""
    paths = [safe(name) for name in names]
    plain = [path.with_suffix(".png") for path in paths]
    if len({str(path).lower() for path in plain}) == len(plain):
        return plain
    return [path if path.suffix.lower() == ".png" else path.with_name(f"{path.name}.png") for path in paths]

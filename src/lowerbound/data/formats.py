"""Kinds of files by name and first bytes: those that are read, and what to do with those that are not."""

import os
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

SUFFIXES = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".dib", ".gif", ".webp"),
    *(".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".heic", ".heif", ".hif"),
)


class Foreign(NamedTuple):
    """A kind of pictures that is not read."""

    name: str
    remedy: str
    suffixes: tuple[str, ...]
    starts: tuple[tuple[int, bytes], ...]  # (offset, bytes) that such a file has, any of them

    def __str__(self) -> str:
        return f"{self.name}; {self.remedy}"


HEIC = Foreign(
    "a HEIC photo",
    "`pip install 'lowerbound[heic]'` reads such",
    (),  # it is an image
    tuple((4, b"ftyp" + brand) for brand in (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")),
)
FOREIGN = (
    HEIC,
    Foreign(
        "JPEG 2000",
        "convert with `magick a.jp2 a.png`",
        (".jp2", ".j2k", ".j2c", ".jpf", ".jpx", ".jpc"),
        ((0, b"\0\0\0\x0cjP  "), (0, b"\xff\x4f\xff\x51")),
    ),
    Foreign("SVG", "draw with `rsvg-convert a.svg -o a.png`", (".svg", ".svgz"), ((0, b"<svg"), (0, b"<?xml"))),
    Foreign("Photoshop", "convert with `magick 'a.psd[0]' a.png`", (".psd", ".psb"), ((0, b"8BPS"),)),
    Foreign(
        "camera RAW",
        "develop with `darktable-cli a.nef a.png` or another converter",
        (".cr2", ".cr3", ".nef", ".nrw", ".arw", ".dng", ".orf", ".rw2", ".raf", ".pef", ".srw", ".raw"),
        ((4, b"ftypcrx "), (0, b"FUJIFILMCCD-RAW"), (8, b"CR\x02")),
    ),
    Foreign("DICOM", "convert with `dcmj2pnm +on a.dcm a.png` or pydicom", (".dcm", ".dicom"), ((128, b"DICM"),)),
    Foreign("PDF", "draw with `pdftoppm -png a.pdf page`", (".pdf",), ((0, b"%PDF"),)),
    Foreign(
        "video",
        "take its frames with `ffmpeg -i a.mp4 %06d.png`",
        (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv"),
        (
            *((4, b"ftyp" + b) for b in (b"isom", b"mp42", b"mp41", b"qt  ", b"M4V ")),
            (8, b"AVI "),
            (0, b"\x1aE\xdf\xa3"),
        ),
    ),
)
_BY_SUFFIX = {suffix: kind for kind in FOREIGN for suffix in kind.suffixes}


def suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def is_image(name: str) -> bool:
    """By the extension; hidden files and macOS's shadow files are not."""
    parts = name.split("/")
    return suffix(name) in SUFFIXES and not any(p.startswith(".") for p in parts) and parts[0] != "__MACOSX"


def foreign_name(name: str) -> str:
    """What to do with a file of this name, where it is a kind of pictures that is not read; else ""."""
    kind = _BY_SUFFIX.get(suffix(name))
    return str(kind) if kind else ""


def foreign_content(head: bytes) -> str:
    """The same by a file's first bytes."""
    return next((str(k) for k in FOREIGN if any(head[at : at + len(b)] == b for at, b in k.starts)), "")


def foreign_among(names: Iterable[str]) -> str:
    """What to say of the files of such kinds, each kind once; "" where there are none."""
    found = Counter(_BY_SUFFIX[suffix(n)] for n in names if suffix(n) in _BY_SUFFIX)
    return "; ".join(f"{n:,} of {kind}" for kind, n in found.items())

"""One image file -> uint8 [C, H, W], whatever its format; or the reason why not.

Upright by its EXIF orientation, transparency on white, the first frame of an animation, 16 bits to their upper 8,
palettes and CMYK to RGB. Colour profiles are not applied.
"""

import contextlib
import warnings
from collections.abc import Iterator
from typing import IO, NamedTuple

import numpy as np
from PIL import Image

from lowerbound.errors import DataError

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")  # a JPEG of several pictures is opened as MPO
SUFFIXES = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".dib", ".gif", ".webp"),
    *(".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm"),
)
MAX_PIXELS = 89_478_485  # Pillow's own limit: 256 MiB of RGB
_GREY_MODES = frozenset(["1", "L", "LA", "La"])
_MODES_16 = frozenset(["I;16", "I;16L", "I;16B", "I;16N"])
_ORIENTATION = 0x0112  # the EXIF tag
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Unreadable(Exception):
    """Why a file gives no image, in a few words."""


class Header(NamedTuple):
    height: int  # upright
    width: int
    colour: bool  # by the file's pixel format, never by its values


def header(file: IO[bytes]) -> Header:
    """The size and kind of an image, without decoding it. Raises Unreadable."""
    with _as_unreadable():
        image = _open(file)
        width, height = image.size
        if _orientation(image) >= 5:
            width, height = height, width
        grey = image.mode in _GREY_MODES or _is_16_bit(image)
        return Header(height, width, not grey)


def decode(file: IO[bytes], shape: tuple[int, int, int], levels: int, name: str) -> np.ndarray:
    """The image scaled to cover `shape`, its centre cut out: uint8 [C, H, W] with values below `levels`.

    Raises Unreadable for a file that gives no image, DataError for a value that is too large.
    """
    channels, height, width = shape
    with _as_unreadable():
        image = _open(file)
        turn = _orientation(image)
        _draft(image, (width, height) if turn < 5 else (height, width))
        image.load()
        image = _flat(image, "L" if channels == 1 else "RGB", levels)
        if turn in _UPRIGHT:
            image = image.transpose(_UPRIGHT[turn])
    check_levels(np.asarray(image), levels, name)
    return _channels_first(fit(image, height, width))


def fit(image: Image.Image, height: int, width: int) -> Image.Image:
    """Scaled to cover height x width, and its centre cut out. The triangle filter never leaves the range of values."""
    if image.size == (width, height):
        return image
    scale = min(image.width / width, image.height / height)
    w, h = width * scale, height * scale
    left, top = (image.width - w) / 2, (image.height - h) / 2
    box = (max(left, 0.0), max(top, 0.0), min(left + w, image.width), min(top + h, image.height))
    return image.resize((width, height), Image.Resampling.BILINEAR, box=box)


def prepare(x: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Decoded images uint8 [n, C, H, W] -> [n, *shape], by the same rules as files."""
    if x.shape[1:] == shape:
        return x
    channels, height, width = shape
    out = np.empty((len(x), *shape), np.uint8)
    for row, image in zip(out, x, strict=True):
        picture = Image.fromarray(np.ascontiguousarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)))
        row[:] = _channels_first(fit(picture.convert("L" if channels == 1 else "RGB"), height, width))
    return out


def check_levels(x: np.ndarray, levels: int, name: str) -> None:
    """Raise DataError where a value is not below `levels`."""
    if levels < 256 and x.size and int(x.max()) >= levels:
        raise DataError(f"{name}: a pixel has the value {int(x.max())}, but levels is {levels}")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Pillow's warnings are silenced here.

    Warning filters belong to the process: enter once around a pool of threads, not inside each.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _as_unreadable() -> Iterator[None]:
    try:
        yield
    except (Unreadable, MemoryError):
        raise
    except Image.UnidentifiedImageError:
        raise Unreadable("not an image of a known format") from None
    except Image.DecompressionBombError:  # at twice its limit; from the limit on, it only warns
        raise Unreadable(f"more than {MAX_PIXELS:,} pixels") from None
    except Exception as e:  # decoders of damaged files raise nearly anything
        raise Unreadable(f"damaged: {e}" if str(e) else f"damaged: {type(e).__name__}") from None


def _open(file: IO[bytes]) -> Image.Image:
    if not file.read(1):
        raise Unreadable("empty file")
    file.seek(0)
    image = Image.open(file, formats=FORMATS)
    if image.width * image.height > MAX_PIXELS:
        raise Unreadable(f"{image.width} x {image.height} is more than {MAX_PIXELS:,} pixels")
    return image


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation 1-8. Pillow turns TIFF files itself; `getexif` would decode a whole PNG."""
    if image.format == "TIFF" or "exif" not in image.info:
        return 1
    exif = Image.Exif()
    try:
        exif.load(image.info["exif"])
        return int(exif.get(_ORIENTATION, 1))
    except Exception:  # damaged metadata is no reason to refuse the pixels
        return 1


def _draft(image: Image.Image, size: tuple[int, int]) -> None:
    """Let JPEG's decoder halve the image while both sides stay twice as long as needed."""
    scale = min(image.width / size[0], image.height / size[1])
    if image.format in ("JPEG", "MPO") and scale > 2:
        image.draft(None, (int(2 * image.width / scale), int(2 * image.height / scale)))


def _is_16_bit(image: Image.Image) -> bool:
    return image.mode in _MODES_16 or (image.mode == "I" and image.format in ("PNG", "PPM"))


def _flat(image: Image.Image, mode: str, levels: int) -> Image.Image:
    """8 bits a channel in mode L or RGB, transparency on white."""
    if _is_16_bit(image):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        raise Unreadable(f"pixels of mode {image.mode} (32 bits or other) are not supported; save with 8 or 16 bits")
    if image.mode == "1" and levels < 256:  # white is the largest value
        return Image.fromarray(np.asarray(image).astype(np.uint8) * np.uint8(levels - 1)).convert(mode)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return image.convert(mode)


def _channels_first(image: Image.Image) -> np.ndarray:
    x = np.asarray(image)
    return x[None] if x.ndim == 2 else x.transpose(2, 0, 1)

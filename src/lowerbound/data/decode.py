"""One image file -> uint8 [C, H, W], whatever its format; or the reason why not.

Upright by its EXIF orientation, transparency on white, the first frame of an animation, 16 bits to their upper 8,
palettes and CMYK to RGB. Colour profiles are not applied.
"""

import contextlib
import functools
import warnings
from collections.abc import Iterator
from typing import IO, NamedTuple

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from lowerbound.data.formats import foreign_content
from lowerbound.errors import DataError

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM", "AVIF")  # a JPEG of several pictures is opened as MPO
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


class Decoded(NamedTuple):
    x: np.ndarray  # uint8 [C, H, W]
    highest: int = 0  # value of a grey image of 16 bits, before the lower 8 are dropped; 0 for other images


class Header(NamedTuple):
    height: int  # upright
    width: int
    colour: bool  # by the file's pixel format, never by its values


def header(file: IO[bytes]) -> Header:
    """The size and kind of an image, without decoding it. Raises Unreadable."""
    with _as_unreadable(file):
        image = _open(file)
        width, height = image.size
        if _orientation(image) >= 5:
            width, height = height, width
        grey = image.mode in _GREY_MODES or _is_16_bit(image) or _raw_mode(image).startswith("LA")
        return Header(height, width, not grey)


def decode(file: IO[bytes], shape: tuple[int, int, int], levels: int, name: str, crop: float | None = None) -> Decoded:
    """The image scaled to cover `shape`, its centre cut out: uint8 [C, H, W] with values below `levels`.

    crop: as in `fit`. Raises Unreadable for a file that gives no image, DataError for a value that is too large.
    """
    channels, height, width = shape
    with _as_unreadable(file):
        image = _open(file)
        turn = _orientation(image)
        _draft(image, (width, height) if turn < 5 else (height, width), crop)
        image.load()
        highest = int(np.asarray(image).max()) if _is_16_bit(image) else 0
        image = _flat(image, "L" if channels == 1 else "RGB", levels)
        if turn in _UPRIGHT:
            image = image.transpose(_UPRIGHT[turn])
    check_levels(np.asarray(image), levels, name)
    return Decoded(_channels_first(fit(image, height, width, crop)), highest)


def of_few_bits(highest: int) -> str:
    """What to say of 16-bit images whose values are all this low, such as those of 12-bit cameras; "" if they are not.

    Example:
        >>> of_few_bits(4095)
        'its 16-bit images reach 4,095 of 65,535 and become dark, at most 15 of 255; multiply them by 16 first'
    """
    bits = highest.bit_length()
    if not 0 < bits <= 14:
        return ""
    return (
        f"its 16-bit images reach {highest:,} of 65,535 and become dark, at most {highest >> 8} of 255; "
        f"multiply them by {2 ** (16 - bits)} first"
    )


def fit(image: Image.Image, height: int, width: int, crop: float | None = None) -> Image.Image:
    """Scaled to cover height x width, and its centre cut out. The triangle filter never leaves the range of values.

    crop: of the image, only the middle square is used, whose side is this share of the image's shorter one.
    """
    if image.size == (width, height) and crop is None:
        return image
    scale = _scale(image, width, height, crop)
    w, h = width * scale, height * scale
    left, top = (image.width - w) / 2, (image.height - h) / 2
    box = (max(left, 0.0), max(top, 0.0), min(left + w, image.width), min(top + h, image.height))
    return image.resize((width, height), Image.Resampling.BILINEAR, box=box)


def _scale(image: Image.Image, width: int, height: int, crop: float | None) -> float:
    """How many of the image's pixels become one."""
    if crop is None:
        return min(image.width / width, image.height / height)
    return crop * min(image.size) / max(width, height)


def prepare(x: np.ndarray, shape: tuple[int, int, int], crop: float | None = None) -> np.ndarray:
    """Decoded images uint8 [n, C, H, W] -> [n, *shape], by the same rules as files."""
    if x.shape[1:] == shape and crop is None:
        return x
    channels, height, width = shape
    out = np.empty((len(x), *shape), np.uint8)
    for row, image in zip(out, x, strict=True):
        picture = Image.fromarray(np.ascontiguousarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)))
        row[:] = _channels_first(fit(picture.convert("L" if channels == 1 else "RGB"), height, width, crop))
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
def _as_unreadable(file: IO[bytes]) -> Iterator[None]:
    try:
        yield
    except (Unreadable, MemoryError):
        raise
    except Image.UnidentifiedImageError:
        file.seek(0)
        raise Unreadable(foreign_content(file.read(256)) or "not an image of a known format") from None
    except Image.DecompressionBombError:  # at twice its limit; from the limit on, it only warns
        raise Unreadable(f"more than {MAX_PIXELS:,} pixels") from None
    except Exception as e:  # decoders of damaged files raise nearly anything
        raise Unreadable(f"damaged: {e}" if str(e) else f"damaged: {type(e).__name__}") from None


def _open(file: IO[bytes]) -> Image.Image:
    if not file.read(1):
        raise Unreadable("empty file")
    file.seek(0)
    image = Image.open(file, formats=_formats())
    if image.width * image.height > MAX_PIXELS:
        raise Unreadable(f"{image.width} x {image.height} is more than {MAX_PIXELS:,} pixels")
    return image


@functools.cache
def _formats() -> tuple[str, ...]:
    """FORMATS, and HEIC where the extra that reads it is installed."""
    try:
        import pillow_heif  # pyright: ignore[reportMissingImports]  # optional
    except ImportError:
        return FORMATS
    pillow_heif.register_heif_opener()
    return (*FORMATS, "HEIF")


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


def _draft(image: Image.Image, size: tuple[int, int], crop: float | None) -> None:
    """Let JPEG's decoder halve the image while both sides stay twice as long as needed."""
    scale = _scale(image, *size, crop)
    if image.format in ("JPEG", "MPO") and scale > 2:
        image.draft(None, (int(2 * image.width / scale), int(2 * image.height / scale)))


def _is_16_bit(image: Image.Image) -> bool:
    return image.mode in _MODES_16 or (image.mode == "I" and image.format in ("PNG", "PPM"))


def _raw_mode(image: Image.Image) -> str:
    """How a PNG stores its pixels, in Pillow's words: grey ones of 16 bits with alpha are opened as RGBA."""
    return str(image.tile[0].args) if isinstance(image, PngImageFile) and image.tile else ""


def _flat(image: Image.Image, mode: str, levels: int) -> Image.Image:
    """8 bits a channel in mode L or RGB, transparency on white."""
    transparent = image.info.get("transparency")
    if _is_16_bit(image):
        wide = np.asarray(image)
        narrow = (wide >> 8).astype(np.uint8)
        image = Image.fromarray(np.where(wide == transparent, np.uint8(255), narrow))
    elif image.mode == "RGB" and isinstance(transparent, tuple) and max(transparent) > 255:  # of 16 bits, as it was
        image.info["transparency"] = tuple(v >> 8 for v in transparent)
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

"""What ordinary lossless image files make of the same pixels: an anchor for bits/dim, in real bytes."""

import io
import math
from typing import Any, NamedTuple

import numpy as np

from lowerbound.units import bits_per_dim, nats

MOST = 2**25  # pixel values at most are written; 10,000 images of CIFAR-10 are fewer
LONGEST = 16383  # pixels: the longest side that WebP has
# WebP's method 6 takes 25 times as long, for files from 11 % smaller (binarized MNIST) to 2 % larger (CIFAR-10)
CODECS: dict[str, dict[str, Any]] = {
    "PNG": {"optimize": True},
    "WebP": {"lossless": True, "quality": 100, "method": 4},
}


class Anchor(NamedTuple):
    """The size of images as files, every byte counted."""

    codec: str
    kind: str  # files: each image is one; sheet: all of them, tiled, are one
    bits_per_dim: float
    stderr: float | None  # of the mean over images; a sheet has none
    nats: float  # per image
    n: int  # images
    bytes: int  # of all files


def anchors(x: np.ndarray, levels: int) -> list[Anchor]:
    """PNG and lossless WebP of images uint8 [N, C, H, W] with values below `levels`, C being 1 or 3.

    The files are whole, headers included. A small image is little more than its header, so there are two figures of
    each: every image as a file of its own, and all of them tiled into one sheet, whose header is nothing. At most MOST
    pixel values are written, those of the first images. Binary pixels are written with 1 bit where the format has that
    (PNG), all others with 8 and the values they have. A codec whose sides are too short for the images is left out.
    """
    x = np.ascontiguousarray(x[: max(1, MOST // x[0].size)])
    found = []
    for codec in CODECS:
        for kind, pictures in (("files", x), ("sheet", sheet(x)[None])):
            if codec == "WebP" and max(pictures.shape[2:]) > LONGEST:
                continue
            sizes = np.array([size(picture, levels, codec) for picture in pictures])
            found.append(_anchor(codec, kind, sizes, x))
    return found


def _anchor(codec: str, kind: str, sizes: np.ndarray, x: np.ndarray) -> Anchor:
    """From the sizes of the files in bytes: [N], or [1] of a sheet."""
    n, dims = len(x), x[0].size
    per_image = nats(8.0 * sizes.sum() / n)
    error = nats(8.0 * sizes.std(ddof=1)) / math.sqrt(n) if kind == "files" and n > 1 else None
    error = None if error is None else float(bits_per_dim(error, dims))
    return Anchor(codec, kind, float(bits_per_dim(per_image, dims)), error, float(per_image), n, int(sizes.sum()))


def size(x: np.ndarray, levels: int, codec: str) -> int:
    """The bytes of the file of an image uint8 [C, H, W]."""
    from PIL import Image

    picture = Image.fromarray(x[0] if len(x) == 1 else np.ascontiguousarray(x.transpose(1, 2, 0)))
    if levels == 2 and len(x) == 1:
        picture = picture.point(lambda value: 255 * value)
        picture = picture.convert("1") if codec == "PNG" else picture
    file = io.BytesIO()
    picture.save(file, format=codec, **CODECS[codec])
    return file.getbuffer().nbytes


def sheet(x: np.ndarray) -> np.ndarray:
    """Images [N, C, H, W] tiled row by row, nearly a square, the last row filled up with zeros: [C, R·H, S·W].

    Example:
        >>> sheet(np.ones((5, 1, 2, 2), np.uint8)).shape  # two rows of three
        (1, 4, 6)
    """
    n, c, h, w = x.shape
    columns = max(1, min(n, math.ceil(math.sqrt(n * h / w))))
    rows = math.ceil(n / columns)
    filled = np.zeros((rows * columns, c, h, w), x.dtype)
    filled[:n] = x
    return filled.reshape(rows, columns, c, h, w).transpose(2, 0, 3, 1, 4).reshape(c, rows * h, columns * w)

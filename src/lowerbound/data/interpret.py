"""What arrays mean that are not uint8 [N, H, W] or [N, H, W, C] with labels int [N].

What has one meaning is taken, and said; of what has several, the message is the line of numpy that makes it right.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image

from lowerbound.data.images import Shape
from lowerbound.errors import DataError

CHANNELS = (1, 3)
SMALLEST_FLAT = 64  # pixels; shorter rows are rather a table


class Pixels(NamedTuple):
    """How an array [N, ...] is read as images."""

    shape: Shape
    said: str  # "" where it is as it should be
    ordered: Callable[[np.ndarray], np.ndarray]  # a block [n, ...] -> [n, C, H, W], C perhaps 4


class Labels(NamedTuple):
    y: np.ndarray  # int64 [N]
    classes: tuple[str, ...]
    said: str


def pixels(shape: tuple[int, ...], name: str) -> Pixels:
    """How an array of this shape is read. Raises DataError where that is not clear."""
    n, *image = shape
    if 0 in shape or len(shape) not in (2, 3, 4):
        raise _no_images(shape, name)
    if len(shape) == 3:
        return Pixels((1, image[0], image[1]), "", lambda x: x[:, None])
    if len(shape) == 2:
        return _flat(n, image[0], name)
    last, first = image[2] in (*CHANNELS, 4), channels_first(shape, name)
    if not (last or first):
        raise _no_images(shape, name)
    channels, height, width = (image[2], *image[:2]) if last else image
    said = "" if last else f"channels first, of {list(shape)}"
    on_white = "transparency on white" if channels == 4 else ""
    said = ", ".join(filter(None, [said, on_white]))
    return Pixels((min(channels, 3), height, width), said, _channels_last if last else np.asarray)


def channels_first(shape: tuple[int, ...], name: str) -> bool:
    """Whether images of this shape are [N, C, H, W]: where the last axis can't be the channels, and the second can.

    Raises DataError where that is not clear.
    """
    first = shape[1] in CHANNELS
    if first and shape[3] == 4:
        axes = "[N, H, W, C] or [N, C, H, W]"
        raise DataError(f"{name} is {list(shape)}, which can be {axes}; save x.transpose(0, 2, 3, 1) of the latter")
    return first and shape[3] not in CHANNELS


def _channels_last(x: np.ndarray) -> np.ndarray:
    return x.transpose(0, 3, 1, 2)


def _flat(n: int, width: int, name: str) -> Pixels:
    side = math.isqrt(width)
    if side * side == width >= SMALLEST_FLAT and n != width:
        return Pixels((1, side, side), f"rows of {width} as {side}x{side}", lambda x: x.reshape(-1, 1, side, side))
    side = math.isqrt(width // 3)
    colour = f"x.reshape(-1, 3, {side}, {side}) or x.reshape(-1, {side}, {side}, 3), whichever it is"
    line = colour if 3 * side * side == width >= SMALLEST_FLAT else "x.reshape(-1, HEIGHT, WIDTH)"
    raise DataError(f"{name} must be [N, H, W] or [N, H, W, C], got {[n, width]}; save {line}")


def _no_images(shape: tuple[int, ...], name: str) -> DataError:
    return DataError(f"{name} must be [N, H, W] or [N, H, W, C] with 1 or 3 channels, got {list(shape)}")


def on_white(x: np.ndarray) -> np.ndarray:
    """RGBA uint8 [n, 4, H, W] -> RGB [n, 3, H, W], by the same rule as files."""
    white = Image.new("RGBA", (x.shape[3], x.shape[2]), "white")
    rows = (Image.fromarray(np.ascontiguousarray(row)) for row in x.transpose(0, 2, 3, 1))
    flat = np.stack([np.asarray(Image.alpha_composite(white, row).convert("RGB")) for row in rows])
    return flat.transpose(0, 3, 1, 2)


def as_bytes(x: np.ndarray, name: str) -> np.ndarray:
    """Whole numbers or bools of any width -> uint8. Raises DataError for what is outside of 0 to 255."""
    if x.dtype == np.uint8:
        return x
    if x.dtype != bool and x.size and (x.min() < 0 or x.max() > 255):
        line = "; save (x >> 8).astype(np.uint8) of 16-bit values" if x.dtype == np.uint16 else ""
        raise DataError(f"{name} has values from {x.min()} to {x.max()}, expected 0 to 255{line}")
    return x.astype(np.uint8)


def float_remedy(low: float, high: float, whole: bool) -> str:
    """How to make uint8 of an array of floats between these, as an expression of x."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return "np.nan_to_num(x)"
    if whole and low >= 0 and high <= 1:
        return "x.astype(bool)"
    if whole and low >= 0 and high <= 255:
        return "x.astype(np.uint8)"
    if low >= 0 and high <= 1:
        return "np.rint(x * 255).astype(np.uint8)"
    if low >= -1 and high <= 1:
        return "np.rint((x + 1) * 127.5).astype(np.uint8)"
    if low >= 0 and high <= 255:
        return "np.rint(x).astype(np.uint8)"
    return "np.rint(255 * (x - x.min()) / (x.max() - x.min())).astype(np.uint8)"


def labels(y: np.ndarray, n: int, name: str) -> Labels:
    """Labels of n images in any of the ways they are saved. Raises DataError."""
    shape, kind = y.shape, y.dtype.kind
    if shape == (n, 1):
        return _also(labels(y[:, 0], n, name), f"{name} of {list(shape)} as [{n}]")
    if len(shape) == 2 and len(y) == n and kind in "biuf" and ((y == 0) | (y == 1)).all() and (y.sum(1) == 1).all():
        return _also(labels(y.argmax(1), n, name), f"{name} one-hot, of {list(shape)}")
    if shape == (n,) and kind in "US":
        classes, found = np.unique(y.astype(str), return_inverse=True)
        return Labels(found.astype(np.int64), tuple(classes.tolist()), f"{name} of strings as {len(classes)} classes")
    if shape == (n,) and kind == "b":
        return _also(labels(y.astype(np.int64), n, name), f"{name} of bools as 0 and 1")
    if shape == (n,) and kind == "f" and np.isfinite(y).all() and (y == np.rint(y)).all():
        return _also(labels(y.astype(np.int64), n, name), f"{name} of whole {y.dtype}")
    if shape != (n,) or kind not in "iu":
        raise DataError(f"{name} must be {n} whole numbers or strings, got {y.dtype} {list(shape)}")
    if n and y.min() < 0:
        raise DataError(f"{name} must be labels from 0, got {int(y.min())}")
    return Labels(y.astype(np.int64), tuple(str(i) for i in range(int(y.max()) + 1)), "")


def _also(found: Labels, said: str) -> Labels:
    return found._replace(said=", ".join(filter(None, [said, found.said])))

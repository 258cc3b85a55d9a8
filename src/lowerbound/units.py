"""Units: nats, bits per dimension, and pixel values <-> [-1, 1] for any number of levels."""

import math
from typing import TypeVar

import numpy as np
from torch import Tensor

Number = TypeVar("Number", float, Tensor, np.ndarray)


def bits_per_dim(nats: Number, dims: int) -> Number:
    """Nats per event -> bits per dimension: nats / (ln 2 · dims).

    Example:
        >>> round(bits_per_dim(90.0, 784), 4)
        0.1656
    """
    return nats / (math.log(2) * dims)


def nats(bits: Number) -> Number:
    """Bits -> nats."""
    return bits * math.log(2)


def to_unit(x: Number, levels: int) -> Number:
    """Pixel values in [0, levels - 1] -> [-1, 1]."""
    return x * (2 / (levels - 1)) - 1  # pyright: ignore[reportReturnType]


def from_unit(s: Number, levels: int) -> Number:
    """[-1, 1] -> pixel values in [0, levels - 1], not rounded."""
    return (s + 1) * ((levels - 1) / 2)


def unit_bin(levels: int) -> float:
    """The distance of two neighbouring pixel values on the scale [-1, 1]."""
    return 2 / (levels - 1)


def to_bytes(x: np.ndarray, levels: int) -> np.ndarray:
    """Pixel values in [0, levels - 1] (whole or not) -> uint8 in 0-255, for pictures."""
    return np.rint(np.clip(x, 0, levels - 1) * (255 / (levels - 1))).astype(np.uint8)

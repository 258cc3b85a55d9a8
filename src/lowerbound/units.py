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


def share_interval(share: float, n: float, z: float = 1.96) -> tuple[float, float]:
    r"""Where a share that was seen in n independent trials truly lies, 95 times in 100 (z = 1.96).

    .. math:: \frac{p + z^2 / 2n \pm z \sqrt{p (1 - p) / n + z^2 / 4n^2}}{1 + z^2 / n}

    Wilson (1927), https://doi.org/10.1080/01621459.1927.10502953. It is not empty where p is 0 or 1, and stays within
    them.

    Example:
        >>> [round(end, 3) for end in share_interval(1.0, 100)]
        [0.963, 1.0]
    """
    middle, half = share + z * z / (2 * n), z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low, high = ((middle + side) / (1 + z * z / n) for side in (-half, half))
    return max(0.0, min(low, share)), min(1.0, max(high, share))  # the share itself is within, rounded or not

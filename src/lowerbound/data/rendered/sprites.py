"""Sprites: one white shape on black, 64x64, each of five factors from a grid, as those of dSprites are.

3 shapes, 6 scales, 40 orientations, 32 by 32 positions: 737,280 combinations (Matthey et al. 2017,
https://github.com/google-deepmind/dsprites-dataset). Unlike there, no orientation comes twice: 0 degrees is not 360.
"""

import math

import numpy as np
import torch
from torch import Tensor

from lowerbound.data.attributes import Factor
from lowerbound.noise import key

SIZE = 64  # pixels
FACTORS = (
    Factor(name="shape", kind="categorical", values=("square", "ellipse", "heart")),
    Factor(name="scale", low=0.5, high=1.0),
    Factor(name="orientation", kind="circular", low=0, high=360, unit="deg"),
    Factor(name="x"),
    Factor(name="y"),
)
COUNTS = (3, 6, 40, 32, 32)
COMBINATIONS = math.prod(COUNTS)
EDGE = 10.0  # half the square's, in pixels, at scale 1
AXES = (13.5, 7.0)  # of the ellipse
HEART = 10.0
ROOM = 32  # pixels that the middle moves over
SAMPLES = 4  # of a pixel, in each direction
BLOCK = 256  # images rendered together


def combination(places: np.ndarray) -> np.ndarray:
    """The factors of combinations, by their number in [0, COMBINATIONS), y running fastest: float64 [n, 5]."""
    indices = np.unravel_index(places, COUNTS)
    return np.stack([f.grid(n)[i] for f, n, i in zip(FACTORS, COUNTS, indices, strict=True)], 1)


def drawn(n: int, seed: int) -> np.ndarray:
    """Factors of n different combinations: float64 [n, 5]. The first rows are the same for every n."""
    return combination(np.random.default_rng(key(seed, "sprites")).permutation(COMBINATIONS)[:n])


def rendered(values: np.ndarray) -> np.ndarray:
    """Sprites of factors [n, 5], which need not lie on the grid: uint8 [n, 1, 64, 64], 0 and 1.

    A pixel is white where the shape covers half of it at least.
    """
    parts = [torch.from_numpy(np.asarray(values[i : i + BLOCK], np.float32)) for i in range(0, len(values), BLOCK)]
    return np.concatenate([(coverage(part) >= 0.5).to(torch.uint8).numpy() for part in parts])[:, None]


def coverage(values: Tensor) -> Tensor:
    """The share of each pixel that the shape covers, by SAMPLES x SAMPLES points of it: [B, 64, 64]."""
    side = SIZE * SAMPLES
    points = (torch.arange(side, dtype=values.dtype) + 0.5) / SAMPLES
    kind, scale, turn, x, y = (column[:, None, None] for column in values.T)
    middle = (SIZE - ROOM) / 2
    right, down = points[None, None] - (middle + ROOM * x), points[None, :, None] - (middle + ROOM * y)
    cos, sin = torch.cos(turn * (math.pi / 180)), torch.sin(turn * (math.pi / 180))
    a, b = (right * cos + down * sin) / scale, (down * cos - right * sin) / scale  # [B, side, side]
    inside = torch.zeros(a.shape, dtype=torch.bool)
    for place, holds in enumerate((_square, _ellipse, _heart)):
        rows = (kind[:, 0, 0] == place).nonzero()[:, 0]
        inside[rows] = holds(a[rows], b[rows])
    return inside.view(-1, SIZE, SAMPLES, SIZE, SAMPLES).to(values.dtype).mean((2, 4))


def _square(a: Tensor, b: Tensor) -> Tensor:
    return torch.maximum(a.abs(), b.abs()) <= EDGE


def _ellipse(a: Tensor, b: Tensor) -> Tensor:
    return (a / AXES[0]) ** 2 + (b / AXES[1]) ** 2 <= 1


def _heart(a: Tensor, b: Tensor) -> Tensor:
    u, v = a / HEART, -b / HEART
    round_ = u * u + v * v - 1
    return round_ * round_ * round_ <= u * u * v * v * v

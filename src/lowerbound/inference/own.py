"""The noise of images of a batch, each its own, whatever batch they are in."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

import numpy as np

from lowerbound.noise import KeyedNoise, key, seeded


class Own(NamedTuple):
    """What the images of these numbers draw by, for each purpose the same every time."""

    seed: int
    index: Sequence[int] | np.ndarray

    def noise(self, what: str) -> KeyedNoise:
        """For draws of all images together, [draws, B, ...]."""
        return KeyedNoise(key(self.seed, what), self.index)

    def alone(self, what: str) -> Iterator[AbstractContextManager[None]]:
        """For draws of one image after another, of any kind."""
        return (seeded(self.seed, what, int(i)) for i in self.index)

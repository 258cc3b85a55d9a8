"""Models whose posterior is a Markov chain from x upwards: bits back, level by level.

Kingma, Abbeel & Ho (2019), Bit-Swap: Recursive Bits-Back Coding for Lossless Compression with Hierarchical Latent
Variables, https://arxiv.org/abs/1905.06845. Of levels z_1, ..., z_L, the coarsest first, in the words of this library:

    pop z_L by q(z_L|x), push x by p(x|z_L); for l = L - 1 down to 1: pop z_l by q(z_l|z_{l+1}), push z_{l+1} by
    p(z_{l+1}|z_l); push z_1 by p(z_1)

No more than two levels are ever popped and not pushed yet, where bits back of all at once takes initial bits for L.

A level is popped before the coarser one is known, by which its prior is told. So its numbers are the same under every
prior: those of a grid of equal steps, small beside the narrowest distribution that the level has, which reaches as far
as it does. What a grid costs goes with the square of its step, and adds up over levels: with L of them steps are √L
times smaller.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch.distributions import Distribution

from lowerbound.codec.chain import Chain, Low
from lowerbound.codec.channel import Channel, Message, Reading, Writing
from lowerbound.codec.elementary import normal
from lowerbound.codec.latents import as_tensor, bins
from lowerbound.codec.scheme import Settings
from lowerbound.codec.symbols import coded, digits_of
from lowerbound.model import Extent, Markov, Model
from lowerbound.space import Y

FINE = 16  # steps of a grid in the smallest standard deviation of its level, at least, where there is one level


class Grid(NamedTuple):
    """2^bits numbers at equal steps around 0: 1/2 step, 3/2, ... on either side."""

    step: float  # a power of 2, so that all of them are numbers of float32
    bits: int

    @staticmethod
    def of(extent: Extent, levels: int = 1) -> "Grid":
        """
        Example:
            >>> Grid.of(Extent(narrowest=0.9, farthest=9.0))
            Grid(step=0.03125, bits=10)
        """
        step = math.ldexp(1.0, math.frexp(extent.narrowest / (FINE * math.sqrt(levels)))[1] - 1)
        return Grid(step, math.frexp(2 * extent.farthest / step)[1])

    def values(self, index: np.ndarray) -> np.ndarray:
        return (index - (1 << self.bits) / 2 + 0.5) * self.step

    def coded(self, channel: Channel, d: Distribution, n: int, known: np.ndarray | None = None) -> np.ndarray:
        """Which numbers of the grid the latents of n events are, by independent normals: int64 [n, D]. Each has the
        mass within half a step, the outer ones all that is beyond."""
        mean, scale = (part.reshape(-1, 1) for part in bins(d, n))
        most = 1 << self.bits

        def below(k: np.ndarray) -> np.ndarray:
            found = normal()(((k - most / 2) * self.step - mean) / scale)
            return np.where(k <= 0, 0.0, np.where(k >= most, 1.0, found))

        index = channel.in_steps(below, digits_of(self.bits), None if known is None else known.ravel())
        return index.reshape(n, -1)


class BitSwap(Chain):
    """One level of an image after another."""

    model: Markov

    def __init__(self, model: Model, settings: Settings, *, filled: bool = True):
        super().__init__(model, settings, filled=filled)
        with torch.no_grad():
            levels = len(self.model.latents)
            self.grids = [Grid.of(self.model.extent(l), levels) for l in range(levels)]

    @property
    def variables(self) -> int:
        return 2 * max(space.dims for space in self.model.latents)

    def push(self, low: Low, x: np.ndarray, given: Y) -> None:
        n, last, seen = len(x), len(self.grids) - 1, self.model.bottom_up(self.events(x), given)
        index, z = self._popped(low, last, self.model.ascent(last, seen, given), n)
        joint = Writing()
        coded(self.model.likelihood((z,), given), joint, n, x.reshape(n, -1))
        low.message.push(joint.spans)
        for l in range(last, 0, -1):
            finer = index
            index, z = self._popped(low, l - 1, self.model.ascent(l - 1, z, given), n)
            self._pushed(low.message, l, self.model.prior_of(l, (z,), given), n, finer)
        self._pushed(low.message, 0, self.model.prior_of(0, (), given), n, index)

    def pop(self, message: Message, n: int, given: Y) -> np.ndarray:
        index = self.grids[0].coded(Reading(message), self.model.prior_of(0, (), given), n)
        z, last = self._value(0, index), len(self.grids) - 1
        for l in range(1, last + 1):
            coarser = index
            index = self.grids[l].coded(Reading(message), self.model.prior_of(l, (z,), given), n)
            z = self._value(l, index)
            self._pushed(message, l - 1, self.model.ascent(l - 1, z, given), n, coarser)
        x = coded(self.model.likelihood((z,), given), Reading(message), n)
        seen = self.model.bottom_up(self.events(x.reshape(n, *self.model.space.shape)), given)
        self._pushed(message, last, self.model.ascent(last, seen, given), n, index)
        return x

    def _popped(self, low: Low, l: int, q: Distribution, n: int) -> tuple[np.ndarray, torch.Tensor]:
        index = self.grids[l].coded(Reading(low.message), q, n)
        low.seen()
        return index, self._value(l, index)

    def _pushed(self, message: Message, l: int, d: Distribution, n: int, index: np.ndarray) -> None:
        joint = Writing()
        self.grids[l].coded(joint, d, n, index)
        message.push(joint.spans)

    def _value(self, l: int, index: np.ndarray) -> torch.Tensor:
        z = self.padded(self.grids[l].values(index))
        return as_tensor(z, self.model.latents[l], self.model.dtype, self.model.device)

"""Training on images that are read in parts: in an order that is a function of (seed, epoch), with memory for two
windows of them.

Images that lie one after another are a block; an epoch takes the blocks in random order, so many of them to a window,
and the images of a window in random order. While one window is trained on, a thread reads the next.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from lowerbound.data.rows import PIECE, Rows
from lowerbound.noise import key

T = TypeVar("T")
AHEAD = 2**24  # bytes that are read ahead of what is measured in order


class Order(NamedTuple):
    """The order in which training takes n images: `block` of them lie together, `blocks` of these make a window.

    No function of the shards, the device or the number of processes: with other shards of the same images it is the
    same.

    Example:
        >>> order = Order(n=10, block=2, blocks=2)
        >>> sorted(i for w in range(order.windows) for i in order.window(0, w, seed=0)[0].tolist())
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    """

    n: int
    block: int
    blocks: int

    @property
    def windows(self) -> int:
        """In an epoch."""
        return -(-self._blocks // self.blocks)

    @property
    def _blocks(self) -> int:
        return -(-self.n // self.block)

    def window(self, epoch: int, w: int, seed: int, shuffled: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The images of a window by their places, in the order that they are trained on and in that they lie in."""
        blocks = self.shuffled(epoch, seed) if shuffled is None else shuffled
        own = np.sort(blocks[w * self.blocks : (w + 1) * self.blocks])
        places = (own[:, None] * self.block + np.arange(self.block)).ravel()
        places = places[places < self.n]
        generator = torch.Generator().manual_seed(key(seed, "window", epoch, w))
        return places[torch.randperm(len(places), generator=generator).numpy()], places

    def shuffled(self, epoch: int, seed: int) -> np.ndarray:
        """The blocks of an epoch in their order."""
        generator = torch.Generator().manual_seed(key(seed, "order", epoch))
        return torch.randperm(self._blocks, generator=generator).numpy()

    def starts(self, shuffled: np.ndarray) -> np.ndarray:
        """At which image of an epoch each window begins, and where the last ends: int64 [W + 1]."""
        ends = np.minimum(np.arange(1, self.windows + 1) * self.blocks, self._blocks) * self.block
        last = int(np.flatnonzero(shuffled == self._blocks - 1)[0]) // self.blocks  # whose block may be a short one
        ends[last:] -= self._blocks * self.block - self.n
        return np.concatenate([[0], ends])

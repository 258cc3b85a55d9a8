"""Training on images that are read in parts: in an order that is a function of (seed, epoch), with memory for two
windows of them.

Images that lie one after another are a block; an epoch takes the blocks in random order, so many of them to a window,
and the images of a window in random order. While one window is trained on, a thread reads the next.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from lowerbound import noise
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

    def window(self, epoch: int, w: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """The places of the images of a window, in the order that they are trained on and in that they lie in."""
        own = np.sort(self.shuffled(epoch, seed)[w * self.blocks : (w + 1) * self.blocks])
        places = (own[:, None] * self.block + np.arange(self.block)).ravel()
        places = places[places < self.n]
        generator = torch.Generator().manual_seed(key(seed, "window", epoch, w))
        return places[torch.randperm(len(places), generator=generator).numpy()], places

    def shuffled(self, epoch: int, seed: int) -> np.ndarray:
        """The blocks of an epoch in their order."""
        generator = torch.Generator().manual_seed(key(seed, "order", epoch))
        return torch.randperm(self._blocks, generator=generator).numpy()

    def starts(self, epoch: int, seed: int) -> np.ndarray:
        """At which image of an epoch each window begins, and where the last ends: int64 [windows + 1]."""
        ends = np.minimum(np.arange(1, self.windows + 1) * self.blocks, self._blocks) * self.block
        last = int(np.flatnonzero(self.shuffled(epoch, seed) == self._blocks - 1)[0])  # which may be a short one
        ends[last // self.blocks :] -= self._blocks * self.block - self.n
        return np.concatenate([[0], ends])


class Share(NamedTuple):
    """What one of several processes takes of an order: of every `size` of it those from start to stop."""

    start: int
    stop: int
    size: int

    def of(self, begin: int, n: int) -> np.ndarray:
        """Which of n places, the first of which is this one in the whole order: bool [n].

        Example:
            >>> Share(0, 2, 3).of(4, 5).tolist()
            [True, False, True, True, False]
        """
        row = (begin + np.arange(n)) % self.size
        return (row >= self.start) & (row < self.stop)


class Window(NamedTuple):
    """Images that are in memory, or are being read."""

    order: np.ndarray  # int64 [n], the places of all its images in the order that they are trained on
    places: np.ndarray  # int64 [m], sorted: of those that are read here
    x: "Ahead[Tensor]"  # uint8 [m, C, H, W], in the order of `places`


class Streamed:
    """The images x of a part, of which two windows are in memory.

    `kept`: the places of images that are always there, such as the few that have a label. `waited`: the seconds that
    were spent in waiting for images to be read.
    """

    device = torch.device("cpu")

    def __init__(self, x: Rows, kept: Sequence[int] = ()):
        self.x = x
        block = max(1, min(PIECE, x.window // 8) // x.width)
        self.order = Order(len(x), block, max(1, x.window // (block * x.width)))
        self.windows: dict[tuple[int, int, int, Share | None], Window] = {}  # by seed, epoch, number and share
        self.starts: tuple[tuple[int, int], np.ndarray] = (-1, -1), np.zeros(0)  # of a seed and epoch
        places = np.unique(np.asarray(kept, np.int64))
        self.kept = [Window(places, places, Ahead(lambda: self._read(places)))] if len(places) else []
        self.waited = 0.0

    def __len__(self) -> int:
        return len(self.x)

    @property
    def shape(self) -> torch.Size:
        return torch.Size(self.x.shape)

    def __getitem__(self, index: Any) -> Tensor:
        if isinstance(index, Tensor):
            return self.index_select(0, index.flatten()).view(*index.shape, *self.shape[1:])
        return torch.from_numpy(self.x[index])

    def shuffled(self, start: int, size: int, seed: int, own: noise.Rows | None = None) -> Tensor:
        """Places start to start + size of one epoch's order after another. The windows they are in begin to be read,
        and the one that follows.

        own: of every `size` of them, those that are taken here: no others are read.
        """
        parts, used = [], []
        share = None if own is None else Share(own.start, own.stop, size)
        while size > 0:
            epoch, offset = divmod(start, len(self))
            starts = self._starts(epoch, seed)
            w = int(np.searchsorted(starts, offset, "right")) - 1
            used.append((seed, epoch, w, share))
            parts.append(self._window(*used[-1]).order[offset - starts[w] :][:size])
            start, size = start + len(parts[-1]), size - len(parts[-1])
        if len(used) == 1:
            last = w + 1 == self.order.windows
            self._window(*(follows := (seed, epoch + last, 0 if last else w + 1, share)))
            used.append(follows)
        self.windows = {name: window for name, window in self.windows.items() if name in used}
        return torch.from_numpy(np.concatenate(parts))

    def index_select(self, dim: int, index: Tensor) -> Tensor:
        """The images at these places [n]: of the windows, else read now."""
        places, left, out = index.numpy(), np.arange(len(index)), None
        for window in (*self.windows.values(), *self.kept):
            if not len(window.places):
                continue
            at = np.searchsorted(window.places, places[left])
            there = window.places[np.minimum(at, len(window.places) - 1)] == places[left]
            if there.any():
                x = self._wait(window.x)
                own = x.index_select(0, torch.from_numpy(at[there]))
                if there.all() and out is None:
                    return own
                out = torch.empty((len(index), *self.shape[1:]), dtype=torch.uint8) if out is None else out
                out[torch.from_numpy(left[there])] = own
                left = left[~there]
        if not len(left):
            assert out is not None
            return out
        own = self._read(places[left])
        if out is None:
            return own
        out[torch.from_numpy(left)] = own
        return out

    def in_order(self, size: int, n: int, start: int = 0) -> Iterator[Tensor]:
        """Those from `start` to the n-th, so many at a time; what follows is read meanwhile."""
        step = size * max(1, AHEAD // (self.x.width * size))

        def begun(start: int) -> Ahead[Tensor]:
            return Ahead(lambda: self._read(np.arange(start, min(start + step, n))))

        following = begun(start) if n > start else None
        for at in range(start, n, step):
            assert following is not None
            x = self._wait(following)
            following = begun(at + step) if at + step < n else None
            yield from x.split(size)

    def _starts(self, epoch: int, seed: int) -> np.ndarray:
        if self.starts[0] != (seed, epoch):
            self.starts = (seed, epoch), self.order.starts(epoch, seed)
        return self.starts[1]

    def _window(self, seed: int, epoch: int, w: int, share: "Share | None" = None) -> Window:
        name = seed, epoch, w, share
        if name not in self.windows:
            order, places = self.order.window(epoch, w, seed)
            if share is not None:
                places = np.sort(order[share.of(epoch * len(self) + int(self._starts(epoch, seed)[w]), len(order))])
            self.windows[name] = Window(order, places, Ahead(lambda: self._read(places)))
        return self.windows[name]

    def _read(self, places: np.ndarray) -> Tensor:
        return torch.from_numpy(self.x[places])

    def _wait(self, x: "Ahead[Tensor]") -> Tensor:
        begun = time.monotonic()
        found = x.result()
        self.waited += time.monotonic() - begun
        return found


class Ahead(Generic[T]):
    """What a thread works out meanwhile. It does not keep the process from ending."""

    def __init__(self, work: Callable[[], T]):
        self.work, self.found, self.error = work, None, None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.found = self.work()
        except BaseException as e:
            self.error = e

    def result(self) -> T:
        """Raises what the work raised."""
        self.thread.join()
        if self.error is not None:
            raise self.error
        return self.found  # pyright: ignore[reportReturnType]

"""Images of any size as tiles of a model's size, each coded by itself: the model sees nothing of its neighbours.

The tiles of an image are in the order of reading. At its right and lower edges the last pixels are repeated; they are
cut off again.
"""

from collections.abc import Callable, Sequence

import numpy as np

from lowerbound.data.images import Shape

Size = tuple[int, int]  # height, width


class Layout:
    """Where the tiles of images lie."""

    def __init__(self, sizes: Sequence[Size], shape: Shape):
        self.sizes, self.shape = sizes, shape
        self.grids = [(-(-h // shape[1]), -(-w // shape[2])) for h, w in sizes]
        self.starts = np.concatenate([[0], np.cumsum([rows * columns for rows, columns in self.grids])]).astype(int)

    def __len__(self) -> int:
        """Tiles, of all images."""
        return int(self.starts[-1])

    def tiles(self, i: int) -> range:
        """Those of image i."""
        return range(int(self.starts[i]), int(self.starts[i + 1]))

    def image_of(self, tile: int) -> int:
        return int(np.searchsorted(self.starts, tile, side="right")) - 1

    def cut(self, i: int, x: np.ndarray) -> np.ndarray:
        """Image i, [C, h, w] -> its tiles [n, *shape]."""
        (rows, columns), (C, H, W) = self.grids[i], self.shape
        more = (rows * H - x.shape[1], columns * W - x.shape[2])
        x = np.pad(x, ((0, 0), (0, more[0]), (0, more[1])), mode="edge")
        return x.reshape(C, rows, H, columns, W).transpose(1, 3, 0, 2, 4).reshape(-1, C, H, W)

    def joined(self, i: int, tiles: np.ndarray) -> np.ndarray:
        """The tiles of image i -> it, [C, h, w]."""
        (rows, columns), (C, H, W), (h, w) = self.grids[i], self.shape, self.sizes[i]
        x = tiles.reshape(rows, columns, C, H, W).transpose(2, 0, 3, 1, 4).reshape(C, rows * H, columns * W)
        return x[:, :h, :w]


class Tiles:
    """The tiles of many images, of which one is held at a time."""

    def __init__(self, layout: Layout, read: Callable[[int], np.ndarray]):
        """read: image i as uint8 [C, h, w]."""
        self.layout, self.read = layout, read
        self._last: tuple[int, np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.layout)

    def __getitem__(self, which: slice) -> np.ndarray:
        """uint8 [n, *shape]."""
        found, at = [], which.start
        while at < which.stop:
            i = self.layout.image_of(at)
            own = self.layout.tiles(i)
            part = self._of(i)[at - own.start : which.stop - own.start]
            found.append(part)
            at += len(part)
        return np.concatenate(found)

    def _of(self, i: int) -> np.ndarray:
        if self._last is None or self._last[0] != i:
            self._last = i, self.layout.cut(i, self.read(i))
        return self._last[1]

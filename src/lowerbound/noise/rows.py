"""The rows that one process has of a batch, and where they lie in a tensor of noise for them.

Several processes that share a batch draw the noise of all of it, each alike, and take that of their own rows: so they
draw what one process would.
"""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

Shape = tuple[int, ...]


class Rows(NamedTuple):
    """Rows start to stop of a batch of so many. axes: where they may be, whatever is said of a tensor of noise."""

    start: int
    stop: int
    whole: int
    axes: tuple[int, ...] | None = None

    @staticmethod
    def of(rank: int, size: int, whole: int) -> "Rows":
        """The part of a batch that one of `size` processes takes: parts differ by at most one row.

        Example:
            >>> [Rows.of(rank, 3, whole=10)[:2] for rank in range(3)]
            [(0, 4), (4, 7), (7, 10)]
        """
        least, more = divmod(whole, size)
        start = rank * least + min(rank, more)
        return Rows(start, start + least + (rank < more), whole)

    @property
    def n(self) -> int:
        return self.stop - self.start

    def drawn(self, shape: Shape, draw: Callable[[Shape], Tensor], axes: tuple[int, ...] = (0, 1)) -> Tensor:
        """What `draw` gives of the same shape with all rows of the batch, of which these are taken.

        axes: where rows may be, the likeliest first. Where none is as long as they are many, the first is of draws and
        rows together, [K * B, ...] or [1, K * B, ...].
        """
        before, (parts, axis) = shape, self._place(shape, axes)
        if parts > 1:
            shape = (*shape[:axis], parts, self.n, *shape[axis + 1 :])
            axis += 1
        whole = (*shape[:axis], self.whole, *shape[axis + 1 :])
        flat = whole if parts == 1 else (*whole[: axis - 1], parts * self.whole, *whole[axis + 1 :])
        return draw(flat).view(whole).narrow(axis, self.start, self.n).reshape(before)

    def around(self, values: Tensor, draw: Callable[[Tensor], Tensor], axes: tuple[int, ...] = (0, 1)) -> Tensor:
        """What `draw` gives of probabilities of all rows, of which these are taken; those of others matter to none."""
        parts, axis = self._place(tuple(values.shape), axes)
        own = values if parts == 1 else values.unflatten(axis, (parts, self.n))
        at = axis + (parts > 1)
        whole = own.new_full((*own.shape[:at], self.whole, *own.shape[at + 1 :]), 0.5)
        whole.narrow(at, self.start, self.n).copy_(own)
        if parts == 1:
            return draw(whole).narrow(at, self.start, self.n)
        drawn = draw(whole.flatten(axis, at)).unflatten(axis, (parts, self.whole))
        return drawn.narrow(at, self.start, self.n).flatten(axis, at)

    def _place(self, shape: Shape, axes: tuple[int, ...]) -> tuple[int, int]:
        """How many draws an axis holds beside the rows, and which it is."""
        for axis in self.axes or axes:
            if axis < len(shape) and shape[axis] == self.n:
                return 1, axis
        axis = 1 if shape[:1] == (1,) else 0
        if len(shape) <= axis or not shape[axis] or shape[axis] % self.n:
            raise RuntimeError(f"noise of shape {shape} has no axis of the {self.n} rows that are of this process")
        return shape[axis] // self.n, axis

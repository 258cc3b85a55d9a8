"""Which images a file holds: the table in it."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from lowerbound.codec.container import MOST, Container, Damaged
from lowerbound.codec.tiles import Layout, Size
from lowerbound.data.images import Shape
from lowerbound.space import Space


def table_of(
    sizes: Sequence[Size],
    shape: Shape,
    names: Sequence[str] | None,
    run: str | None,
    labels: Sequence[int] | None = None,
) -> dict[str, Any]:
    """What a file says of images of these sizes, cut into tiles of a shape; nothing where all have its size and neither
    names nor the run are kept, and they have no labels."""
    table: dict[str, Any] = {} if run is None else {"run": run}
    alike = all(size == sizes[0] for size in sizes)
    if names is not None:
        table["names"] = list(names)
    elif not alike or sizes[0] != shape[1:]:
        table["images"] = len(sizes)
    if labels is not None:
        table["labels"] = list(labels[:1] if len(set(labels)) == 1 else labels)
    if table:
        table["sizes"] = [list(size) for size in (sizes[:1] if alike else sizes)]
    return table


class Contents(NamedTuple):
    """The images of a file. Raises Damaged for a table that says what none does."""

    names: list[str]  # numbers, where they were not kept
    sizes: list[Size] | None  # None: all that of the model
    labels: list[int] | None  # of a model that is given them

    @staticmethod
    def of(container: Container) -> "Contents":
        table = container.head.table
        names, sizes, labels = (table.get(name) for name in ("names", "sizes", "labels"))
        n = len(names) if isinstance(names, list) else table.get("images", container.head.n)
        sound = isinstance(n, int) and 0 < n <= container.head.n
        sound = sound and (names is None or (isinstance(names, list) and all(isinstance(name, str) for name in names)))
        sound = sound and (sizes is None or (isinstance(sizes, list) and all(map(_is_size, sizes))))
        sound = sound and (labels is None or (isinstance(labels, list) and all(type(label) is int for label in labels)))
        if not sound or any(each is not None and len(each) not in (1, n) for each in (sizes, labels)):
            raise Damaged(f"{container.path}: its table of images is damaged")
        if sizes is not None:
            sizes = [(h, w) for h, w in (sizes * n if len(sizes) == 1 else sizes)]
        labels = labels * n if labels is not None and len(labels) == 1 else labels
        return Contents([f"{i:05d}.png" for i in range(n)] if names is None else names, sizes, labels)

    def layout(self, container: Container, shape: Shape) -> Layout:
        """Where their tiles are."""
        found = Layout([shape[1:]] * len(self.names) if self.sizes is None else self.sizes, shape)
        if len(found) != container.head.n:
            raise Damaged(f"{container.path}: its table is of other images than it holds")
        return found

    def labels_of(self, container: Container, layout: Layout, given: tuple[Space, ...]) -> np.ndarray | None:
        """Of each tile, where the model is given the label. Raises Damaged for another than it knows."""
        if not given:
            return None
        known = self.labels is not None and all(0 <= label < (given[0].levels or 0) for label in self.labels)
        if not known:
            raise Damaged(f"{container.path}: its table of images has not the labels that the model is given")
        return labels_of_tiles(self.labels or (), layout)


def labels_of_tiles(labels: Sequence[int], layout: Layout) -> np.ndarray:
    """int64 [tiles]: those of their images [n]."""
    return np.repeat(np.asarray(labels, np.int64), np.diff(layout.starts))


def _is_size(size: Any) -> bool:
    return isinstance(size, list) and len(size) == 2 and all(isinstance(s, int) and 0 < s <= MOST for s in size)

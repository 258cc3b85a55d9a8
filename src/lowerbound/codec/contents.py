"""Which images a file holds: the table in it."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from lowerbound.codec.container import MOST, Container, Damaged
from lowerbound.codec.tiles import Layout, Size
from lowerbound.data.images import Shape


def table_of(sizes: Sequence[Size], shape: Shape, names: Sequence[str] | None, run: str | None) -> dict[str, Any]:
    """What a file says of images of these sizes, cut into tiles of a shape; nothing where all have its size and neither
    names nor the run are kept."""
    table: dict[str, Any] = {} if run is None else {"run": run}
    alike = all(size == sizes[0] for size in sizes)
    if names is not None:
        table["names"] = list(names)
    elif not alike or sizes[0] != shape[1:]:
        table["images"] = len(sizes)
    if table:
        table["sizes"] = [list(size) for size in (sizes[:1] if alike else sizes)]
    return table


class Contents(NamedTuple):
    """The images of a file. Raises Damaged for a table that says what none does."""

    names: list[str]  # numbers, where they were not kept
    sizes: list[Size] | None  # None: all that of the model

    @staticmethod
    def of(container: Container) -> "Contents":
        table = container.head.table
        names, sizes = table.get("names"), table.get("sizes")
        n = len(names) if isinstance(names, list) else table.get("images", container.head.n)
        sound = isinstance(n, int) and 0 < n <= container.head.n
        sound = sound and (names is None or (isinstance(names, list) and all(isinstance(name, str) for name in names)))
        sound = sound and (sizes is None or (isinstance(sizes, list) and all(map(_is_size, sizes))))
        if not sound or (sizes is not None and len(sizes) not in (1, n)):
            raise Damaged(f"{container.path}: its table of images is damaged")
        if sizes is not None:
            sizes = [(h, w) for h, w in (sizes * n if len(sizes) == 1 else sizes)]
        return Contents([f"{i:05d}.png" for i in range(n)] if names is None else names, sizes)

    def layout(self, container: Container, shape: Shape) -> Layout:
        """Where their tiles are."""
        found = Layout([shape[1:]] * len(self.names) if self.sizes is None else self.sizes, shape)
        if len(found) != container.head.n:
            raise Damaged(f"{container.path}: its table is of other images than it holds")
        return found


def _is_size(size: Any) -> bool:
    return isinstance(size, list) and len(size) == 2 and all(isinstance(s, int) and 0 < s <= MOST for s in size)

"""What there is to say and to show of a data set, also of one whose images differ in size."""

import contextlib
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from lowerbound.data.base import Data, find
from lowerbound.data.cache import Progress
from lowerbound.data.decode import Header
from lowerbound.data.folder import Files, SizesDiffer
from lowerbound.data.images import Annotated, Shape, mean_pixel
from lowerbound.data.source import Contents, Varied
from lowerbound.data.split import PARTS, assign
from lowerbound.errors import DataError

SIZE = 64  # that images of several sizes are brought to, to be looked at
SHOWN = 64  # images on a sheet
MUCH = 0.2  # of an image, lost by the crop


@dataclass(frozen=True)
class Sheet:
    """Some training images from the first to the last, and the names of their classes."""

    x: np.ndarray  # uint8 [n, C, H, W]
    levels: int
    labels: list[str] | None
    varied: Varied | None = None  # instead, of rendered data: each row varies a factor


def summary(data: Data, *, progress: Progress | None = None) -> dict[str, Any]:
    """What there is to say about a data set, as plain JSON values.

    mean: the mean pixel of all images, per channel, in values from 0 to levels - 1. Where images differ in size and
    none is asked for, shape and mean are None, and nothing but headers is read. sizes: of image files that differ in
    it, or are brought to one: how many there are of which, and what the crop to a square takes away.
    """
    try:
        images = data.open("all", progress=progress)
    except SizesDiffer:
        return _mixed(data)
    splits = {}
    for part in PARTS:
        with contextlib.suppress(DataError):  # a part may be empty
            splits[part] = len(data.open(part))
    return _facts(images.name, splits, images.shape, images.levels, mean_pixel(images.x), images) | _sizes(data)


def _facts(
    name: str, splits: dict[str, int], shape: Shape | None, levels: int, mean: list[float] | None, known: Annotated
) -> dict[str, Any]:
    return {
        "name": name,
        "n": sum(splits.values()),
        "splits": splits,
        "shape": None if shape is None else list(shape),
        "levels": levels,
        "classes": _classes(known.y, known.classes),
        "factor_names": None if known.factor_names is None else list(known.factor_names),
        "mean": mean,
        "unreadable": [list(u) for u in known.unreadable],
        "ignored": known.ignored,
        "layout": known.layout,
        "notes": list(known.notes),
    }


def sheet(data: Data) -> Sheet:
    """Images to look at; of several sizes, where none is asked for, brought to SIZE. These alone are decoded then."""
    source = data.found()
    try:
        if source.rendered:
            contents = source.contents()
            return Sheet(np.empty((0, *contents.shape), np.uint8), contents.levels, None, source.varied())
        images = data.open("train")
    except SizesDiffer:
        return _mixed_sheet(data)
    images = images.take(_spread(len(images)))
    return Sheet(images.x, images.levels, _names(images.y, images.classes))


def _mixed(data: Data) -> dict[str, Any]:
    files, contents = _as_if_sized(data)
    part = assign(contents.keys, contents.part, contents.carve)
    splits = {p: n for i, p in enumerate(PARTS) if (n := int((part == i).sum()))}
    return _facts(files.name, splits, None, contents.levels, None, contents) | _sizes(data)


def _mixed_sheet(data: Data) -> Sheet:
    files, contents = _as_if_sized(data)
    train = np.flatnonzero(assign(contents.keys, contents.part, contents.carve) == 0)
    rows = train[_spread(len(train))]
    chosen = contents.take(rows)
    found: dict[int, np.ndarray] = {}
    for _ in files.only(rows).rows(chosen, lambda i, x: found.update({i: x[0]})):
        pass
    if not found:
        raise DataError(f"{files.name}: none of the images chosen for the sheet can be read")
    labels = _names(chosen.y, chosen.classes)
    read = sorted(found)
    return Sheet(np.stack([found[i] for i in read]), contents.levels, labels and [labels[i] for i in read])


def _as_if_sized(data: Data) -> tuple[Files, Contents]:
    source = find(data.source, data.preparation._replace(size=SIZE))
    assert isinstance(source, Files)  # arrays are of one size
    return source, source.contents()


def _sizes(data: Data) -> dict[str, Any]:
    """Sizes and kinds of the files, and what `data.size` does to them; nothing of arrays and of files of one size."""
    source = find(data.source, data.preparation)
    if not isinstance(source, Files):
        return {}
    layout, headers = source.look()
    read = [(place.path, h) for place, h in zip(layout.places, headers, strict=True) if isinstance(h, Header)]
    counts = Counter((h.width, h.height) for _, h in read)
    if len(counts) == 1 and data.size is None:
        return {}
    size, crop = data.size or SIZE, data.crop or 1
    shares = ((1 - crop**2 * min(h[:2]) / max(h[:2]), path) for path, h in read)
    lost = sorted(shares, key=lambda found: (-found[0], found[1]))
    said = f"data.size={size}: the shorter side to {size}, then the middle {size}x{size}"
    said = said if data.crop is None else f"data.crop={crop:g}: of the shorter side, in the middle; {said}"
    colour = sum(h.colour for _, h in read)
    return {
        "sizes": {f"{w}x{h}": n for (w, h), n in counts.most_common(10)},
        "other_sizes": len(counts) - min(10, len(counts)),
        "modes": {"colour": colour, "grey": len(read) - colour},
        "crop": {
            "size": said,
            "enlarged": sum(crop * min(h[:2]) < size for _, h in read),
            "lose_much": sum(share > MUCH for share, _ in lost),
            "most": {path: f"{share:.0%}" for share, path in lost[:5] if share > 0},
        },
    }


def _spread(n: int) -> np.ndarray:
    return np.linspace(0, n - 1, min(SHOWN, n)).astype(int)


def _names(y: np.ndarray | None, classes: tuple[str, ...] | None) -> list[str] | None:
    return None if y is None or classes is None else [classes[k] for k in y.tolist()]


def _classes(y: np.ndarray | None, classes: tuple[str, ...] | None) -> dict[str, int] | None:
    """How many images there are of each class."""
    if y is None or classes is None:
        return None
    return dict(zip(classes, np.bincount(y, minlength=len(classes)).tolist(), strict=True))

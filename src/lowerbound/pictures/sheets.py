"""Grids of images, originals above reconstructions, tables with captions, the manifold of a two-dimensional latent."""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from lowerbound.errors import UserError
from lowerbound.units import to_bytes

PAPER = 255  # what shows between the images
SMALLEST = 56  # pixels: a cell's longer side is enlarged by a whole number until it is at least this
SOFT_HYPHEN = "\u00ad"


def grid(
    x: ArrayLike, levels: int = 256, *, columns: int | None = None, gap: int = 2, scale: int | None = None
) -> np.ndarray:
    """Images side by side, row by row: [N, C, H, W] -> a picture.

    Args:
        columns: how many in a row; None: nearly a square.
        gap: pixels between the images.
        scale: each pixel becomes scale x scale; None: small images are enlarged to about 60 pixels.

    Example:
        >>> grid(np.zeros((6, 1, 28, 28)), columns=3).shape  # two rows of three, each pixel doubled
        (114, 172)
    """
    cells = _cells(x, levels, scale)
    return _sheet(cells, columns or _near_square(len(cells)), gap, gap)


def pairs(
    originals: ArrayLike,
    reconstructions: ArrayLike,
    levels: int = 256,
    *,
    columns: int | None = None,
    scale: int | None = None,
) -> np.ndarray:
    """Originals above, their reconstructions below: [N, C, H, W] each; wide sets wrap into several such blocks."""
    return rows([originals, reconstructions], levels, columns=columns, scale=scale)


def rows(
    sets: Sequence[ArrayLike],
    levels: int = 256,
    *,
    columns: int | None = None,
    gap: int = 2,
    scale: int | None = None,
) -> np.ndarray:
    """The i-th image of every set in one column, the first set on top: several [N, C, H, W] -> a picture.

    Where there are more than `columns` (None: nearly a square, at least 8), the block of rows wraps.
    """
    stacks = [_cells(x, levels, scale) for x in sets]
    if len({s.shape for s in stacks}) > 1:
        raise UserError(f"rows: expected sets of images alike, got {', '.join(str(np.shape(x)) for x in sets)}")
    n, h, w, c = stacks[0].shape
    between = np.full((n, gap, w, c), PAPER, np.uint8)
    tall = np.concatenate([part for s in stacks for part in (between, s)][1:], axis=1)
    if columns is None:
        blocks = math.ceil(n / max(8, math.sqrt(len(stacks) * n)))
        columns = math.ceil(n / blocks)
    return _sheet(tall, min(columns, n), gap, max(4 * gap, h // 8) if gap else 0)


def contact_sheet(
    x: ArrayLike,
    levels: int = 256,
    labels: Sequence[str] | None = None,
    *,
    columns: int | None = None,
    scale: int | None = None,
) -> np.ndarray:
    """A grid with the name of its class under every image: [N, C, H, W], N names -> a picture."""
    cells = _cells(x, levels, scale)
    if labels is not None:
        if len(labels) != len(cells):
            raise UserError(f"labels: expected {len(cells)}, one per image, got {len(labels)}")
        strips = _captions([str(s) for s in labels], width=cells.shape[2], channels=cells.shape[3])
        cells = np.concatenate([cells, strips], axis=1)
    return _sheet(cells, columns or _near_square(len(cells)), 4, 4)


@dataclass(frozen=True)
class Table:
    """Images in rows and columns that have names: x [R, S, C, H, W], pixel values in [0, levels - 1], whole or not."""

    x: np.ndarray
    levels: int = 256
    rows: tuple[str, ...] = ()  # R names, at the left; or none
    columns: tuple[str, ...] = ()  # S names, above; or none
    title: str = ""


def table_picture(t: Table, *, gap: int = 2, scale: int | None = None) -> np.ndarray:
    """A table of images with its names and title -> a picture; long names are broken into lines."""
    R, S, *image = t.x.shape
    body = grid(t.x.reshape(R * S, *image), t.levels, columns=S, gap=gap, scale=scale)
    height, width = (body.shape[0] + gap) // R, (body.shape[1] + gap) // S
    left = _labels(t.rows, width=round(max(map(_text_width, t.rows), default=0)) + 6, height=height, middle=True)
    above = _labels(t.columns, width=width, height=None, middle=False)
    colour = body.shape[2:]
    parts = [np.repeat(body[..., None], 3, 2) if not colour else body]
    if t.rows:
        parts[0] = np.concatenate([_stacked_labels(left, 0, parts[0].shape[0]), parts[0]], 1)
    if t.columns:
        strip = _stacked_labels(above, 1, body.shape[1])
        parts.insert(0, _at_right(strip, parts[0].shape[1]))
    if t.title:
        total = parts[0].shape[1]
        parts.insert(0, _label(t.title, total, None, middle=False, centre=False))
    whole = np.concatenate(parts, 0)
    return whole if colour else np.ascontiguousarray(whole[..., 0])


def quantiles(side: int) -> np.ndarray:
    """A regular grid in the unit square through the normal's inverse cumulative distribution: float32 [side², 2].

    The first coordinate grows to the right, the second upwards, in the order in which `grid` places images. Only the
    middles of the cells are taken, (i + 1/2) / side, since 0 and 1 lie at infinity.

    Example:
        >>> [[round(float(c), 2) for c in z] for z in quantiles(2)]
        [[-0.67, 0.67], [0.67, 0.67], [-0.67, -0.67], [0.67, -0.67]]
    """
    line = np.array([NormalDist().inv_cdf((i + 0.5) / side) for i in range(side)], np.float32)
    right, up = np.meshgrid(line, line[::-1])
    return np.stack([right, up], axis=-1).reshape(-1, 2)


def manifold(
    decode_mean: Callable[[np.ndarray], ArrayLike], levels: int = 256, *, side: int = 20, scale: int | None = None
) -> np.ndarray:
    """What a two-dimensional latent space holds: the mean image at each of side x side quantiles of a normal prior.

    `decode_mean` takes z float32 [N, 2] to pixel means [N, C, H, W]. Images touch, so that what changes smoothly looks
    smooth. Reference: Kingma & Welling (2014), Auto-Encoding Variational Bayes, figure 4,
    https://arxiv.org/abs/1312.6114
    """
    return grid(decode_mean(quantiles(side)), levels, columns=side, gap=0, scale=scale or 1)


# --- images into cells, cells into a sheet


def _checked(x: ArrayLike) -> np.ndarray:
    """The images as an array [N, C, H, W], N >= 1, C being 1 or 3."""
    array = np.asarray(x)
    if array.ndim != 4 or array.shape[1] not in (1, 3) or not array.size:
        raise UserError(f"images: expected [N, C, H, W] with 1 or 3 channels, got {list(array.shape)}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise UserError(f"images: {int((~np.isfinite(array)).sum())} of {array.size} pixel values are not finite")
    return array


def _cells(x: ArrayLike, levels: int, scale: int | None) -> np.ndarray:
    """[N, C, H, W] -> uint8 [N, H·scale, W·scale, C]."""
    array = _checked(x)
    scale = scale or math.ceil(SMALLEST / max(array.shape[2:]))
    return to_bytes(array, levels).transpose(0, 2, 3, 1).repeat(scale, axis=1).repeat(scale, axis=2)


def _near_square(n: int) -> int:
    """How many columns n cells take: a divisor of n where one is near, so that no cell stays empty.

    Example:
        >>> [_near_square(n) for n in (1, 7, 8, 10, 16, 64)]
        [1, 3, 4, 5, 4, 8]
    """
    root = math.ceil(math.sqrt(n))
    return next((c for c in range(root, int(1.6 * math.sqrt(n)) + 1) if n % c == 0), root)


def _sheet(cells: np.ndarray, columns: int, gap: int, row_gap: int) -> np.ndarray:
    """Cells uint8 [N, h, w, C] row by row, on paper: [H, W] or [H, W, 3]."""
    n, h, w, c = cells.shape
    lines = math.ceil(n / columns)
    sheet = np.full((lines * columns, h + row_gap, w + gap, c), PAPER, np.uint8)
    sheet[:n, :h, :w] = cells
    sheet = sheet.reshape(lines, columns, h + row_gap, w + gap, c).transpose(0, 2, 1, 3, 4)
    sheet = sheet.reshape(lines * (h + row_gap), columns * (w + gap), c)
    sheet = sheet[: sheet.shape[0] - row_gap, : sheet.shape[1] - gap]
    return np.ascontiguousarray(sheet[..., 0] if c == 1 else sheet)


def _font() -> Any:
    """matplotlib's own: Pillow's knows no accents."""
    import matplotlib
    from PIL import ImageFont

    return ImageFont.truetype(os.path.join(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), 10)


def _text_width(text: str) -> float:
    return _font().getlength(text)


def _labels(names: Sequence[str], width: int, height: int | None, middle: bool) -> list[np.ndarray]:
    """Each name on paper of one size: uint8 [height, width, 3]; without a height, that of the one of most lines."""
    drawn = [_label(name, width, height, middle=middle) for name in names]
    tallest = max((d.shape[0] for d in drawn), default=0)
    return [np.concatenate([np.full((tallest - d.shape[0], width, 3), PAPER, np.uint8), d]) for d in drawn]


def _label(text: str, width: int, height: int | None, *, middle: bool, centre: bool = True) -> np.ndarray:
    """Text in black on paper, in as many lines as it needs, broken at soft hyphens too: uint8 [height, width, 3]."""
    from PIL import Image, ImageDraw

    font, lines = _font(), [""]
    words = [_hyphenated(word, font.getlength(word) > width) for word in text.split(" ")]
    for word in " ".join(words).split(" "):
        longer = f"{lines[-1]} {word}".strip(" ")
        if lines[-1] and font.getlength(longer) > width - 2:
            lines.append(word)
        else:
            lines[-1] = longer
    tall = height or 13 * len(lines) + 2
    paper = Image.new("L", (width, tall), PAPER)
    draw = ImageDraw.Draw(paper)
    top = (tall - 13 * len(lines)) // 2 if middle else 1
    for i, line in enumerate(lines):
        at = (width / 2, top + 13 * i) if centre else (2, top + 13 * i)
        draw.text(at, line, fill=0, font=font, anchor="ma" if centre else "la")
    return np.asarray(paper)[..., None].repeat(3, axis=-1)


def _hyphenated(word: str, too_long: bool) -> str:
    return word.replace(SOFT_HYPHEN, "- " if too_long else "")


def _stacked_labels(labels: list[np.ndarray], axis: int, size: int) -> np.ndarray:
    """Labels one after another, filled up or cut to the size."""
    joined = np.concatenate(labels, axis)
    missing = max(0, size - joined.shape[axis])
    pad = [(0, 0)] * 3
    pad[axis] = (0, missing)
    joined = np.pad(joined, pad, constant_values=PAPER)
    return joined[:size] if axis == 0 else joined[:, :size]


def _at_right(strip: np.ndarray, width: int) -> np.ndarray:
    return np.pad(strip, ((0, 0), (width - strip.shape[1], 0), (0, 0)), constant_values=PAPER)


def _captions(names: Sequence[str], width: int, channels: int) -> np.ndarray:
    """Each name in black on a strip of paper: uint8 [N, 14, width, channels]; long ones are cut short."""
    from PIL import Image, ImageDraw

    font = _font()
    drawn = {}
    for name in set(names):
        strip = Image.new("L", (width, 14), PAPER)
        text = name
        while len(text) > 1 and font.getlength(text) > width:
            text = text.removesuffix("…")[:-1] + "…"
        ImageDraw.Draw(strip).text((width / 2, 2), text, fill=0, font=font, anchor="ma")
        drawn[name] = np.asarray(strip)
    return np.stack([drawn[name] for name in names])[..., None].repeat(channels, axis=-1)

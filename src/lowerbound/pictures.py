"""Pictures: grids of images, originals above reconstructions, the manifold of a two-dimensional latent, curves.

Images come as [N, C, H, W] with values in [0, levels - 1], whole or not, C being 1 or 3. A picture is a uint8 array,
[H, W] when grey and [H, W, 3] in colour. Every file is written under another name first and then renamed.
"""

import json
import math
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from lowerbound.errors import UserError
from lowerbound.files import replacing
from lowerbound.units import to_bytes

PAPER = 255  # what shows between the images
SMALLEST = 56  # pixels: a cell's longer side is enlarged by a whole number until it is at least this
SOFT_HYPHEN = "\u00ad"
NOT_CURVES = {"step", "epoch", "seconds", "time"}
FIRST_CURVES = ["elbo", "loss"]
LAST_CURVES = ["lr", "grad_norm", "skipped", "images_per_second"]  # how it is trained, after what is learned


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


def code_maps(vectors: np.ndarray, size: tuple[int, int], levels: int = 256) -> np.ndarray:
    """Maps of code vectors [B, D, h, w] in false colours: [B, 3, H, W], pixel values in [0, levels - 1].

    Red, green and blue are the first three principal components, by rank, so that near vectors have near colours.
    """
    B, D, h, w = vectors.shape
    flat = vectors.transpose(0, 2, 3, 1).reshape(-1, D)
    axes = np.linalg.svd(np.unique(flat, axis=0) - flat.mean(0), full_matrices=False)[2][:3]
    parts = [np.unique((flat - flat.mean(0)) @ axis, return_inverse=True)[1] for axis in axes]
    ranks = [part / max(1, part.max()) for part in parts]
    colours = np.stack(ranks + [np.zeros(len(flat))] * (3 - len(ranks)), 1) * (levels - 1)
    maps = colours.reshape(B, h, w, 3).transpose(0, 3, 1, 2)
    rows, columns = (np.arange(out) * own // out for out, own in zip(size, (h, w), strict=True))
    return maps[:, :, rows][:, :, :, columns]


def check_out(out: Path, *, moving: bool = False) -> None:
    """Raise UserError, before anything is computed, for a path that images can't be written to."""
    kind, gif = "" if out.is_dir() else out.suffix.lower(), ".gif (an animation), " if moving else ""
    if kind not in ("", ".png", ".npz") and not (moving and kind == ".gif"):
        raise UserError(
            f"--out {out}: expected a path ending in .png (a grid), {gif}.npz (an array), or a folder (no suffix, one "
            "PNG each)"
        )


def save_table(table: Table, x: np.ndarray, out: Path, names: Sequence[str] | None = None) -> None:
    """A table to a .png; to any other path the images x [N, C, H, W], as an animation or as `save_images` does."""
    kind = "" if out.is_dir() else out.suffix.lower()
    if kind == ".png":
        save_png(table_picture(table), out)
    elif kind == ".gif":
        save_gif(x, table.levels, out)
    else:
        save_images(x, table.levels, out, names)


def save_gif(x: ArrayLike, levels: int, out: Path, *, milliseconds: int = 120) -> None:
    """Write images [N, C, H, W] as the frames of an animation that repeats. Raises UserError for fewer than two."""
    from PIL import Image

    cells = _cells(x, levels, None)
    if len(cells) < 2:
        raise UserError(f"{out}: an animation needs at least two images, got {len(cells)}")
    frames = [Image.fromarray(c[..., 0] if c.shape[-1] == 1 else c) for c in cells]
    with replacing(out) as temporary:
        frames[0].save(temporary, format="GIF", save_all=True, append_images=frames[1:], duration=milliseconds, loop=0)


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


def save_png(picture: np.ndarray, path: Path) -> None:
    """Write a picture, uint8 [H, W] or [H, W, 3], as PNG; its folder is made if need be. Raises UserError."""
    from PIL import Image

    with replacing(path) as temporary:
        Image.fromarray(picture).save(temporary, format="PNG", optimize=picture.size < 1 << 22)


def save_images(x: ArrayLike, levels: int, out: Path, names: Sequence[str] | None = None) -> None:
    """Write images [N, C, H, W] the way the path says; raises UserError where it can't.

    - `.png`: one grid;
    - `.npz`: the pixel values themselves, `x` uint8 [N, H, W, C], with `levels` unless they are 256;
    - a folder (no suffix): one PNG each, scaled to 0-255, called after `names` or numbered. Files already there stay,
      unless they have the same name.
    """
    kind = "" if out.is_dir() else out.suffix.lower()
    if kind == ".png":
        save_png(grid(x, levels), out)
    elif kind == ".npz":
        _save_npz(_checked(x), levels, out)
    elif kind == "":
        _save_folder(to_bytes(_checked(x), levels), out, names)
    else:
        raise UserError(
            f"{out}: can't write images as {out.suffix}; "
            "expected a path ending in .png (one grid) or .npz (an array), or a folder (no suffix, one PNG each)"
        )


def curves(log_path: Path, out: Path) -> None:
    """Draw every numeric term of a log.jsonl over the steps, training and validation together, a panel per term.

    A last line that was cut off in writing is left out. Raises UserError when there is no such file.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = _series(log_path)
    width = min(3, _near_square(max(1, len(panels))))
    height = max(1, math.ceil(len(panels) / width))
    figure = Figure(figsize=(4.2 * width, 2.9 * height), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    for i, ((stage, term), splits) in enumerate(panels.items()):
        _draw(figure.add_subplot(height, width, i + 1), f"{stage}: {term}" if stage else term, splits)
    if not panels:
        figure.text(0.5, 0.5, "nothing logged yet", ha="center", va="center", color="0.4")
    with replacing(out) as temporary:
        figure.savefig(temporary, format="png")


class Series(NamedTuple):
    """A line of a plot: points (x, y, error of y)."""

    name: str
    points: Sequence[tuple[float, float, float]]
    color: str
    style: str = "-"
    marker: str = "o"


def lines(
    series: Sequence[Series], out: Path, *, title: str, x: str, y: str, ticks: Mapping[float, str] | None = None
) -> None:
    """Draw lines with error bars over a logarithmic axis, whose `ticks` are these values, so called."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.6, 4.6), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.add_subplot()
    for name, points, color, style, marker in series:
        across, up, error = zip(*sorted(points), strict=True)
        look = {"color": color, "ls": style, "marker": marker, "ms": 4, "lw": 1.5, "capsize": 2.5, "elinewidth": 1}
        axes.errorbar(across, up, error, label=name, **look)
    axes.set_xscale("log")
    if ticks:
        axes.set_xticks(list(ticks), list(ticks.values()))
        axes.minorticks_off()
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_xlabel(x, fontsize=9, color="0.35")
    axes.set_ylabel(y, fontsize=9, color="0.35")
    _plain(axes)
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    with replacing(out) as temporary:
        figure.savefig(temporary, format="png")


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


# --- files


def _save_npz(x: np.ndarray, levels: int, out: Path) -> None:
    values = np.rint(np.clip(x, 0, levels - 1)).astype(np.uint8).transpose(0, 2, 3, 1)
    with replacing(out) as temporary, temporary.open("wb") as file:
        if levels == 256:
            np.savez_compressed(file, x=values)
        else:
            np.savez_compressed(file, x=values, levels=np.array(levels))


def _save_folder(x: np.ndarray, out: Path, names: Sequence[str] | None) -> None:
    """All images are written in a folder beside `out` first: either every one arrives or none."""
    files = _file_names(len(x), names)
    temporary = out.with_name(f".{out.name}.{secrets.token_hex(4)}")
    try:
        for image, file in zip(x, files, strict=True):
            save_png(_sheet(image.transpose(1, 2, 0)[None], 1, 0, 0), temporary / file)
        out.mkdir(parents=True, exist_ok=True)
        for file in files:
            os.replace(temporary / file, out / file)
    except OSError as e:
        raise UserError(f"can't write {out}: {e.strerror or e}") from None
    except UserError as e:
        raise UserError(str(e).replace(str(temporary), str(out))) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _file_names(n: int, names: Sequence[str] | None) -> list[str]:
    """One file name per image. Folders in a name are dropped, and names that collide are numbered."""
    numbers = [f"{i:0{max(4, len(str(n - 1)))}d}" for i in range(n)]
    if names is None:
        return [number + ".png" for number in numbers]
    if len(names) != n:
        raise UserError(f"names: expected {n}, one per image, got {len(names)}")
    stems = [Path(name).stem or "image" for name in names]
    if len({stem.lower() for stem in stems}) < n:
        stems = [f"{number}-{stem}" for number, stem in zip(numbers, stems, strict=True)]
    return [stem + ".png" for stem in stems]


# --- curves


class Term(NamedTuple):
    stage: str
    name: str


Splits = dict[str, dict[float, float]]  # split -> step -> value


def _series(log_path: Path) -> dict[Term, Splits]:
    """The numbers of a log, term by term, stage by stage."""
    try:
        lines = log_path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as e:
        raise UserError(f"{log_path}: can't be read: {e.strerror}") from None
    records = [r for r in map(_record, lines) if r is not None and _is_number(r.get("step"))]
    several = len({r.get("stage") for r in records}) > 1
    panels: dict[Term, Splits] = {}
    for r in records:
        stage = str(r.get("stage") or "") if several else ""
        for name, value in _numbers(r):
            split = panels.setdefault(Term(stage, name), {}).setdefault(str(r.get("split", "train")), {})
            split[r["step"]] = value  # a step logged again after resuming replaces the first
    stages = list(dict.fromkeys(term.stage for term in panels))
    return {term: panels[term] for term in sorted(panels, key=lambda t: (stages.index(t.stage), _rank(t.name)))}


def _rank(name: str) -> int:
    if name in FIRST_CURVES:
        return FIRST_CURVES.index(name) - len(FIRST_CURVES)
    return LAST_CURVES.index(name) + 1 if name in LAST_CURVES else 0


def _record(line: str) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None  # cut off in writing
    return record if isinstance(record, dict) else None


def _numbers(record: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """Every numeric term of a line, those in nested tables too."""
    for name, value in record.items():
        if isinstance(value, dict):
            yield from _numbers(value)
        elif _is_number(value) and name not in NOT_CURVES:
            yield name, float(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _draw(axes: Any, title: str, splits: Splits) -> None:
    for split, color in _colors(splits):
        steps, values = zip(*sorted(splits[split].items()), strict=True)
        few = len(steps) <= 20
        axes.plot(steps, values, color=color, label=split, lw=1.3, marker="o" if few else None, ms=3)
    axes.set_title(title.replace("_", " "), fontsize=10, loc="left")
    axes.set_xlim(0, 1.03 * max(max(values) for values in splits.values()) or 1)
    axes.set_xlabel("step", fontsize=8, color="0.35")
    _plain(axes)
    if (limits := _limits(splits)) is not None:
        axes.set_ylim(*limits)
    if len(splits) > 1:
        axes.legend(fontsize=8, frameon=False)


def _plain(axes: Any) -> None:
    axes.tick_params(labelsize=8, colors="0.35")
    axes.grid(color="0.92", lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("0.7")


def _colors(splits: Splits) -> list[tuple[str, str]]:
    known = {"train": "tab:blue", "valid": "tab:orange"}
    spare = iter(["tab:green", "tab:red", "tab:purple"] * len(splits))
    return [(split, known.get(split) or next(spare)) for split in sorted(splits)]


def _limits(splits: Splits) -> tuple[float, float] | None:
    """The range of what follows the first tenth of the steps, where the fall before it would flatten all the rest."""
    points = [(step, v) for values in splits.values() for step, v in values.items() if math.isfinite(v)]
    if not points:
        return None
    last = max(step for step, _ in points)
    everything = [v for _, v in points]
    later = [v for step, v in points if step >= last / 10]
    low, high = min(later), max(later)
    if max(everything) - min(everything) <= 3 * (high - low):
        return None
    margin = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return low - margin, high + margin

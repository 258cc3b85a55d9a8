"""Curves of a training, and other lines."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lowerbound.files import replacing
from lowerbound.pictures.sheets import _near_square

NOT_CURVES = {"step", "epoch", "seconds", "time"}
FIRST_CURVES = ["elbo", "loss"]
LAST_CURVES = ["lr", "grad_norm", "skipped", "images_per_second"]  # how it is trained, after what is learned
PANEL = 4.2, 2.9  # inches of a panel of curves, with what is around it: left, below, right and above
AROUND = 0.75, 0.45, 0.15, 0.4


def curves(records: Iterable[Mapping[str, Any]], out: Path) -> None:
    """Draw every numeric term of a log over the steps, training and validation together, a panel per term.

    records: the lines of a log, each with its step, and where there are several its stage and split.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = _series(records)
    width = min(3, _near_square(max(1, len(panels))))
    height = max(1, math.ceil(len(panels) / width))
    figure = Figure(figsize=(PANEL[0] * width, PANEL[1] * height), dpi=100)
    for i, ((stage, term), splits) in enumerate(panels.items()):
        _draw(figure.add_axes(_place(i, width, height)), f"{stage}: {term}" if stage else term, splits)
    if not panels:
        figure.text(0.5, 0.5, "nothing logged yet", ha="center", va="center", color="0.4")
    with replacing(out) as temporary:
        FigureCanvasAgg(figure).print_png(temporary)  # savefig would draw it twice


def _place(i: int, width: int, height: int) -> tuple[float, float, float, float]:
    """Left, bottom, width and height of the i-th panel of a figure of so many by so many, as shares of the figure. (A
    layout that measures every label takes longer than all the drawing.)"""
    row, column = divmod(i, width)
    left, below, right, above = AROUND
    x, y = column * PANEL[0] + left, (height - 1 - row) * PANEL[1] + below
    inches = x / width, y / height, (PANEL[0] - left - right) / width, (PANEL[1] - below - above) / height
    return inches[0] / PANEL[0], inches[1] / PANEL[1], inches[2] / PANEL[0], inches[3] / PANEL[1]


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


# --- curves


class Term(NamedTuple):
    stage: str
    name: str


Splits = dict[str, dict[float, float]]  # split -> step -> value


def _series(records: Iterable[Mapping[str, Any]]) -> dict[Term, Splits]:
    """The numbers of a log, term by term, stage by stage."""
    records = list(records)
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


def _numbers(record: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
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
    axes.locator_params(nbins=5)
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

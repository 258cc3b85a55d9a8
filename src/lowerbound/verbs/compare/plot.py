"""Points of NLL over the time of a sample."""

import math
from collections.abc import Mapping
from html import escape
from itertools import pairwise
from typing import Any, NamedTuple

from lowerbound.verbs.compare.page import GIVEN, duration

# ---- the plot


class Point(NamedTuple):
    name: str
    seconds: float  # of a sample
    naive: float | None
    nll: float
    stderr: float
    bound: bool
    interval: tuple[float, float] | None  # of an estimate


def scatter(report: Mapping[str, Any]) -> str:
    """NLL over the seconds of a sample, as SVG; nothing for fewer than two runs that have both."""
    points = [
        Point(
            row["name"] + (f" {GIVEN}" if "given" in row["nll"] else ""),
            row["sampling"]["seconds"],
            (row["sampling"]["naive"] or {}).get("seconds"),
            row["nll"]["value"],
            row["nll"]["stderr"] or 0.0,
            row["nll"]["relation"] == "<=",
            row["nll"].get("interval"),
        )
        for row in report["runs"]
        if row["sampling"] is not None and row["nll"]["value"] is not None
    ]
    return "" if len(points) < 2 else _svg(points)


WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 720, 340, 62, 200, 16, 46  # of the plot and its margins


def _svg(points: list[Point]) -> str:
    """A point for each run with its name, an arrow down where the truth may be lower, a bar over the interval of an
    estimate, a hollow point without cache."""
    times = [t for p in points for t in (p.seconds, p.naive) if t is not None]
    low, high = math.floor(math.log10(min(times))), math.ceil(math.log10(max(times)))
    high = max(high, low + 1)
    bottom, top, step = _range([v for p in points for v in (p.nll, *(p.interval or ()))])

    def across(seconds: float) -> float:
        return LEFT + (math.log10(seconds) - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def up(nll: float) -> float:
        return TOP + (top - nll) / (top - bottom) * (HEIGHT - TOP - BOTTOM)

    marks = (1, 2, 5) if high - low <= 2 else (1,)
    marked = [m * 10.0**k for k in range(low, high) for m in marks] + [10.0**high]
    parts = [_vertical(across(t), duration(t, 0.999)) for t in marked]
    ticks = [bottom + i * step for i in range(round((top - bottom) / step) + 1)]
    parts += [_horizontal(up(v), f"{v:,.10g}") for v in ticks]
    heights = _apart([up(p.nll) for p in points], 15)
    for p, height in sorted(zip(points, heights, strict=True), key=lambda pair: pair[0].seconds):
        if p.interval is not None:
            lower, upper = map(up, p.interval)
            parts.append(f'<path class="mark" d="M{across(p.seconds):.1f} {lower:.1f} V{upper:.1f}" fill="none"/>')
        parts.append(_mark(p, across(p.seconds), None if p.naive is None else across(p.naive), up(p.nll), height))
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text class="soft" x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">seconds of a sample</text>')
    across_text = f'transform="translate(13 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)" text-anchor="middle"'
    parts.append(f'<text class="soft" {across_text}>NLL, nats/image</text>')
    said = "An arrow: the true NLL may be lower. " if any(p.bound for p in points) else ""
    said += "A bar: where it lies, as estimated. " if any(p.interval for p in points) else ""
    said += "A hollow point: the same samples without the cache." if any(p.naive for p in points) else ""
    name = "NLL in nats per image over the seconds of a sample"
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{name}">\n'
        + "\n".join(parts)
        + f"\n</svg>\n<p>Left and down is better. {said}</p>"
    )


def _range(values: list[float]) -> tuple[float, float, float]:
    """Round limits around values, and the step of the ticks between them.

    Example:
        >>> _range([81.3, 90.4])
        (80.0, 92.0, 2.0)
    """
    spread = max(values) - min(values) or max(1e-3, 0.01 * abs(values[0]))
    step = 10.0 ** math.floor(math.log10(spread))
    step *= next(f for f in (0.2, 0.5, 1.0, 2.0) if spread / (f * step) <= 6)
    bottom, top = math.floor(min(values) / step) * step, math.ceil(max(values) / step) * step
    return bottom - (step if min(values) - bottom < 0.3 * step else 0), top, step


def _apart(heights: list[float], gap: float) -> list[float]:
    """The same heights in the same order, moved so that no two are nearer than the gap.

    Example:
        >>> _apart([10.0, 40.0, 12.0], 15)
        [10.0, 40.0, 25.0]
    """
    moved = list(heights)
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    for before, i in pairwise(order):
        moved[i] = max(moved[i], moved[before] + gap)
    return moved


def _vertical(x: float, name: str) -> str:
    line = f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
    return f'{line}<text class="soft" x="{x:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{name}</text>'


def _horizontal(y: float, name: str) -> str:
    line = f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
    return f'{line}<text class="soft" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{name}</text>'


def _mark(p: Point, x: float, naive: float | None, y: float, label: float) -> str:
    """The point at (x, y), its name at the height `label`."""
    parts = []
    if naive is not None:
        parts.append(
            f'<line class="lead" x1="{x:.1f}" x2="{naive:.1f}" y1="{y:.1f}" y2="{y:.1f}" stroke-dasharray="3"/>'
        )
        parts.append(f'<circle class="open" cx="{naive:.1f}" cy="{y:.1f}" r="4.5"/>')
    if p.bound:
        parts.append(f'<path class="mark" d="M{x:.1f} {y:.1f} v16 m-3.5 -5 l3.5 5 l3.5 -5" fill="none"/>')
    name = _short(p.name)
    left = naive is not None and x - 7 * len(name) > LEFT  # where the line to the hollow point is not in the way
    side, anchor = (-1, ' text-anchor="end"') if left else (1, "")
    end = x if left else max(x, naive or x)
    text = end + 17 * side
    if abs(label - y) > 3:
        lead = f'x1="{end + 5 * side:.1f}" y1="{y:.1f}" x2="{end + 14 * side:.1f}" y2="{label:.1f}"'
        parts.append(f'<line class="lead" {lead}/>')
    parts.append(f'<circle class="mark" cx="{x:.1f}" cy="{y:.1f}" r="4.5"/>')
    parts.append(f'<text class="name" x="{text:.1f}" y="{label + 4:.1f}"{anchor}>{escape(name)}</text>')
    return "".join(parts)


def _short(name: str) -> str:
    return name if len(name) <= 28 else f"{name[:13]}…{name[-13:]}"

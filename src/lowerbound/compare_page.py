"""A comparison of runs for people: cells of a table, and with them a page of HTML and a table in Markdown."""

import base64
import io
import math
import re
from collections.abc import Sequence
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lowerbound import pictures
from lowerbound.errors import ConfigError

Row = tuple[str, np.ndarray]  # a name, and images [n, C, H, W]
BEGIN, END = "<!-- compare -->", "<!-- /compare -->"  # what lies between them in a Markdown file is written anew
GIVEN = "†"
LEGEND = (
    ("=", "the true NLL (or difference) is the value"),
    ("<=", "the true NLL is at most the value, which is an upper bound of it; so is the difference"),
    (">=", "the true difference is at least the value"),
    ("?", "nothing is known: no likelihood, or a difference of two bounds"),
    (GIVEN, "of log p(x | label), another quantity than log p(x)"),
    ("~", "extrapolated from a few passes"),
)
COLUMNS = {  # of a row's cells; the first two are text, all others numbers
    "run": "run",
    "model": "model",
    "nll": "NLL, nats/image",
    "bits": "bits/dim",
    "difference": "minus {reference}, nats",
    "parameters": "parameters",
    "training": "training",
    "rate": "images/s",
    "sample": "one sample",
    "naive": "without cache",
    "reconstruction": "squared error",
    "code": "code",
}
LIKELIHOOD = ("run", "model", "nll", "bits", "difference")
COST = ("run", "parameters", "training", "rate", "sample", "naive", "reconstruction", "code")


# ---- cells


def cells(row: dict[str, Any], report: dict[str, Any]) -> dict[str, str]:
    """What each column of COLUMNS shows of a row of the report."""
    train, sampling = row["training"], row["sampling"]
    return {
        "run": row["name"],
        "model": model_name(row),
        "nll": _related(row["nll"]),
        "bits": _related(row["bits_per_dim"]).partition(" ±")[0],
        "difference": _difference(row, report),
        "parameters": f"{row['parameters']:,}",
        "training": "" if train is None else duration(train["seconds"]),
        "rate": "" if train is None or train["images_per_second"] is None else f"{train['images_per_second']:,.0f}",
        "sample": "no" if sampling is None else duration(sampling["seconds"]),
        "naive": _naive(sampling),
        "reconstruction": "no" if row["squared_error"] is None else measured(row["squared_error"]),
        "code": _code(row["code"]),
    }


def model_name(row: dict[str, Any]) -> str:
    """VAE, IWAE; Autoregressive, PixelCNN."""
    names = [row["model"], row["network"], row["objective"]]
    return ", ".join(name.rpartition(".")[2] for name in names if name is not None)


def measured(value: dict[str, Any], sign: bool = False) -> str:
    """Value ± standard error, to two digits of that.

    Example:
        >>> measured({"value": 90.4147, "stderr": 0.2304}), measured({"value": -0.9167, "stderr": 0.0309}, sign=True)
        ('90.41 ± 0.23', '-0.917 ± 0.031')
        >>> measured({"value": 151.26, "stderr": None})
        '151.26'
    """
    number, error = value["value"], value["stderr"]
    if not error:
        return f"{number:{'+' if sign else ''}.5g}"
    digits = max(0, 1 - math.floor(math.log10(error)))
    return f"{number:{'+' if sign else ''},.{digits}f} ± {error:.{digits}f}"


def duration(seconds: float, exact: float = 9.95) -> str:
    """Seconds for a person; with one decimal below `exact` units.

    Example:
        >>> [duration(s) for s in (3.21e-6, 0.00456, 1.234, 75, 975, 9000)]
        ['3.2 µs', '4.6 ms', '1.2 s', '75 s', '16 min', '2.5 h']
    """
    for limit, unit, name in ((1e-3, 1e-6, "µs"), (1, 1e-3, "ms"), (120, 1, "s"), (7200, 60, "min")):
        if seconds < limit:
            n = seconds / unit
            return f"{n:.0f} {name}" if n >= exact else f"{n:.1f} {name}"
    return f"{seconds / 3600:.1f} h"


def _related(value: dict[str, Any]) -> str:
    if value["value"] is None:
        return value["relation"]
    return f"{value['relation']} {measured(value)}" + (f" {GIVEN}" if "given" in value else "")


def _difference(row: dict[str, Any], report: dict[str, Any]) -> str:
    difference = row["difference"]
    if row["name"] == report["reference"]:
        return "0"
    return "" if difference is None else f"{difference['relation']} {measured(difference, sign=True)}"


def _naive(sampling: dict[str, Any] | None) -> str:
    naive = None if sampling is None else sampling["naive"]
    if naive is None:
        return ""
    return ("~ " if naive["measured_passes"] < naive["passes"] else "") + duration(naive["seconds"])


def _code(code: dict[str, Any] | None) -> str:
    if code is None:
        return "no"
    shapes = " + ".join("x".join(map(str, shape)) for shape in code["shapes"])
    return f"{code['dims']:,}" if shapes == str(code["dims"]) else f"{code['dims']:,} ({shapes})"


def legend(report: dict[str, Any]) -> list[tuple[str, str]]:
    """The signs in the table of a report, and what they mean."""
    shown = " ".join(cell for row in report["runs"] for cell in cells(row, report).values() if cell != row["name"])
    return [(sign, meaning) for sign, meaning in LEGEND if sign in shown.split()]


def shown_columns(report: dict[str, Any], names: Sequence[str]) -> list[str]:
    """Of these columns those that have anything in them."""
    rows = [cells(row, report) for row in report["runs"]]
    return [name for name in names if any(row[name] for row in rows)]


def heading(name: str, report: dict[str, Any]) -> str:
    """The title of a column."""
    return COLUMNS[name].replace("{reference}", str(report["reference"]))


def pixels(report: dict[str, Any]) -> str:
    """The data, in words: mnist-binarized, test, 10,000 images of 1x28x28, 2 levels, fixed binarization."""
    data = report["data"]
    size = "x".join(map(str, data["shape"]))
    how = f", {data['binarization']} binarization" if data["binarization"] else ""
    return f"{data['name']}, {data['split']}, {data['n']:,} images of {size}, {data['levels']} levels{how}"


def conditions(report: dict[str, Any]) -> str:
    """What the numbers of the table depend on besides the data."""
    draws = sorted({row["nll"]["draws"] for row in report["runs"] if row["nll"]["relation"] == "<="})
    batch = next((row["sampling"]["batch"] for row in report["runs"] if row["sampling"]), None)
    said = [f"bounds with {' or '.join(map(str, draws))} draws"] if draws else []
    said += [f"seed {report['seed']}"]
    if batch is not None:
        threads = f", {report['threads']} thread{'s'[: report['threads'] > 1]}" if report["device"] == "cpu" else ""
        said += [f"one sample: the time of {batch} drawn together, divided by {batch}, on {report['device']}{threads}"]
    return "; ".join([*said, "training: the time of its steps, without validation"])


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def anchor_rows(report: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """Codec, how the images are kept, bits/dim, nats per image."""
    kinds = {"files": "a file for each image", "sheet": "all on one sheet"}
    return [
        (
            a["codec"],
            f"{kinds[a['kind']]} ({a['n']:,})",
            measured({"value": a["bits_per_dim"], "stderr": a["stderr"]}),
            f"{a['nats']:,.1f}",
        )
        for a in report["anchors"]
    ]


ANCHORS = (
    "The same pixels as lossless image files, every byte counted, headers too. A file for each small image is mostly "
    "header; on one sheet, all images tiled, the header is nothing. Binary pixels are 1-bit in PNG."
)


# ---- Markdown


def markdown(report: dict[str, Any]) -> str:
    """The table, what the numbers depend on, the anchors and the notes."""
    names = shown_columns(report, tuple(COLUMNS))
    lines = [_line([heading(n, report) for n in names]), _line(["---"] * 2 + ["---:"] * (len(names) - 2))]
    for row in report["runs"]:
        shown = cells(row, report)
        lines.append(_line([shown[n] for n in names]))
    signs = "; ".join(f"`{sign}` {meaning}" for sign, meaning in legend(report))
    facts = f"{_plain(pixels(report))}. {_sentence(conditions(report))} {signs}."
    anchored = [_line(["the same pixels", "as", "bits/dim", "nats/image"]), _line(["---", "---", "---:", "---:"])]
    anchored += [_line(a) for a in anchor_rows(report)]
    parts = ["\n".join(lines), facts, "\n".join(anchored), ANCHORS]
    if report["notes"]:
        parts.append("\n".join(f"- {_plain(note)}" for note in report["notes"]))
    return "\n\n".join(parts) + "\n"


def _line(texts: Sequence[str]) -> str:
    return "| " + " | ".join(map(_plain, texts)) + " |"


def _plain(text: str) -> str:
    """Text that Markdown shows as it is."""
    return re.sub(r"[\\|*_`\[\]]|<(?=[A-Za-z/!?])", r"\\\g<0>", text)


def check_markers(path: Path) -> None:
    """Raise ConfigError for a Markdown file without the markers between which the table goes."""
    if path.exists():
        _around(path)


def in_place(path: Path, table: str) -> str:
    """The text of a Markdown file with the table between its markers; of a new one, the markers and the table."""
    before, after = _around(path) if path.exists() else ("", "\n")
    return f"{before}{BEGIN}\n{table}{END}{after}"


def _around(path: Path) -> tuple[str, str]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(f"--markdown {path}: can't be read: {e}") from None
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ConfigError(
            f"--markdown {path}: is there already, without the lines {BEGIN} and {END} between which the table goes"
        )
    return before, after


# ---- HTML


STYLE = """
:root { color-scheme: light dark; --ink: #1a1a1a; --soft: #666; --line: #ddd; --paper: #fff; --mark: #1f6fb2; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e6e6; --soft: #a0a0a0; --line: #3a3a3a; --paper: #161616; --mark: #6db3f2; }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
       max-width: 84rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; margin-bottom: 0; } h2 { font-size: 1.1rem; margin: 2.2rem 0 .4rem; }
p, li, caption { color: var(--soft); } p { margin: .3rem 0; max-width: 60rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .55rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th { font-weight: 600; vertical-align: bottom; color: var(--soft); }
thead th { white-space: normal; }
.text { text-align: left; } th.text[scope=row] { color: var(--ink); }
dl { display: grid; grid-template-columns: max-content auto; gap: .1rem .8rem; margin: .6rem 0; }
dt { font-family: ui-monospace, monospace; } dd { margin: 0; color: var(--soft); }
img { display: block; image-rendering: pixelated; max-width: 100%; }
.samples td, .samples th { border: 0; padding: .15rem .55rem; text-align: left; vertical-align: middle; }
svg { width: 100%; max-width: 46rem; height: auto; }
svg text { font: 12px system-ui, sans-serif; fill: var(--ink); } svg .soft { fill: var(--soft); }
svg .grid { stroke: var(--line); } svg .mark { stroke: var(--mark); fill: var(--mark); }
svg .open { stroke: var(--mark); fill: var(--paper); } svg .lead { stroke: var(--soft); }
svg .name { stroke: var(--paper); stroke-width: 4px; paint-order: stroke; }
"""


def html(report: dict[str, Any], samples: Sequence[Row], levels: int) -> str:
    """One page that needs nothing else: the table, the samples [n, C, H, W] of each row, a plot, what it all means."""
    title = "Runs compared on " + escape(report["data"]["name"])
    drawn = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td><img alt="samples of {escape(name, quote=True)}" '
        f'src="{_uri(pictures.grid(x, levels, columns=len(x)))}"></td></tr>\n'
        for name, x in samples
    )
    notes = "".join(f"<li>{escape(note)}</li>\n" for note in report["notes"])
    signs = "".join(f"<dt>{escape(sign)}</dt><dd>{escape(meaning)}</dd>\n" for sign, meaning in legend(report))
    plot = scatter(report)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>{title}</h1>
<p>{escape(pixels(report))}</p>
<div class="wide">{_table(report)}</div>
<p>{escape(_sentence(conditions(report)))}</p>
<dl>
{signs}</dl>
{f"<ul>{notes}</ul>" if notes else ""}
{f"<h2>Likelihood and the time of a sample</h2>{plot}" if plot else ""}
<h2>Samples</h2>
<table class="samples">
{drawn}</table>
<h2>Anchors</h2>
<p>{escape(ANCHORS)}</p>
{_anchor_table(report)}
<p>Made by <code>lowerbound compare</code> {escape(report["version"])}.</p>
</body>
</html>
"""


def _table(report: dict[str, Any]) -> str:
    names = shown_columns(report, tuple(COLUMNS))
    head = "".join(f'<th scope="col"{_kind(n)}>{escape(heading(n, report))}</th>' for n in names)
    body = ""
    for row in report["runs"]:
        shown = cells(row, report)
        first = f'<th scope="row" class="text" title="{escape(row["run"], quote=True)}">{escape(shown["run"])}</th>'
        body += f"<tr>{first}" + "".join(f"<td{_kind(n)}>{escape(shown[n])}</td>" for n in names[1:]) + "</tr>\n"
    return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table>"


def _kind(column: str) -> str:
    return ' class="text"' if column in ("run", "model") else ""


def _anchor_table(report: dict[str, Any]) -> str:
    rows = "".join(
        f'<tr><th scope="row" class="text">{codec}</th><td class="text">{kind}</td>'
        f"<td>{bits}</td><td>{nats}</td></tr>\n"
        for codec, kind, bits, nats in anchor_rows(report)
    )
    head = '<th class="text">the same pixels</th><th class="text">as</th><th>bits/dim</th><th>nats/image</th>'
    return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}</tbody>\n</table>"


def _uri(picture: np.ndarray) -> str:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


# ---- the plot


class Point(NamedTuple):
    name: str
    seconds: float  # of a sample
    naive: float | None
    nll: float
    stderr: float
    bound: bool


def scatter(report: dict[str, Any]) -> str:
    """NLL over the seconds of a sample, as SVG; nothing for fewer than two runs that have both."""
    points = [
        Point(
            row["name"] + (f" {GIVEN}" if "given" in row["nll"] else ""),
            row["sampling"]["seconds"],
            (row["sampling"]["naive"] or {}).get("seconds"),
            row["nll"]["value"],
            row["nll"]["stderr"] or 0.0,
            row["nll"]["relation"] == "<=",
        )
        for row in report["runs"]
        if row["sampling"] is not None and row["nll"]["value"] is not None
    ]
    return "" if len(points) < 2 else _svg(points)


WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 720, 340, 62, 200, 16, 46  # of the plot and its margins


def _svg(points: list[Point]) -> str:
    """A point for each run with its name, an arrow down where the truth may be lower, a hollow point without cache."""
    times = [t for p in points for t in (p.seconds, p.naive) if t is not None]
    low, high = math.floor(math.log10(min(times))), math.ceil(math.log10(max(times)))
    high = max(high, low + 1)
    bottom, top, step = _range([p.nll for p in points])

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
        parts.append(_mark(p, across(p.seconds), None if p.naive is None else across(p.naive), up(p.nll), height))
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text class="soft" x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">seconds of a sample</text>')
    across_text = f'transform="translate(13 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)" text-anchor="middle"'
    parts.append(f'<text class="soft" {across_text}>NLL, nats/image</text>')
    said = "An arrow: the true NLL may be lower. " if any(p.bound for p in points) else ""
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

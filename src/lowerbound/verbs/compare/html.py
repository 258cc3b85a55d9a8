"""The comparison as a page."""

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from lowerbound import pictures
from lowerbound.verbs.compare.page import (
    ANCHORS,
    COLUMNS,
    TEXT,
    _sentence,
    anchor_rows,
    cells,
    conditions,
    heading,
    legend,
    pixels,
    shown_columns,
)
from lowerbound.verbs.compare.plot import scatter

Row = tuple[str, np.ndarray]  # a name, and images [n, C, H, W]
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


def html(report: Mapping[str, Any], samples: Sequence[Row], levels: int) -> str:
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


def _table(report: Mapping[str, Any]) -> str:
    names = shown_columns(report, tuple(COLUMNS))
    head = "".join(f'<th scope="col"{_kind(n)}>{escape(heading(n, report))}</th>' for n in names)
    body = ""
    for row in report["runs"]:
        shown = cells(row, report)
        first = f'<th scope="row" class="text" title="{escape(row["run"], quote=True)}">{escape(shown["run"])}</th>'
        body += f"<tr>{first}" + "".join(f"<td{_kind(n)}>{escape(shown[n])}</td>" for n in names[1:]) + "</tr>\n"
    return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table>"


def _kind(column: str) -> str:
    return ' class="text"' if column in TEXT else ""


def _anchor_table(report: Mapping[str, Any]) -> str:
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

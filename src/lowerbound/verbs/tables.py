"""Tables of the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text


def plain(rows: Any) -> Any:
    """A row for each dict of a list, or for each entry of one dict."""
    if isinstance(rows, dict):
        table = Table(box=box.SIMPLE, show_header=False)
        for k, v in rows.items():
            table.add_row(str(k), cell(v))
        return table
    table = Table(*(rows[0] if rows else []), box=box.SIMPLE)
    for row in rows:
        table.add_row(*map(cell, row.values()))
    return table


def cell(value: Any) -> str:
    """A value of a report for a person: 1,797; train 1,459, valid 149; nothing for what isn't there."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{k}: {cell(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(cell, value))
    return "" if value is None else str(value)


def interval(ends: Sequence[float]) -> str:
    """0.951 to 0.989."""
    return f"{ends[0]:.3g} to {ends[1]:.3g}"


def metrics(report: Mapping[str, Any]) -> Any:
    """The values, and below them what some of them depend on."""
    data = report["data"]
    facts = [data["name"], data["split"], f"n={data['n']}", f"levels={data['levels']}"]
    facts += [f"binarization={data['binarization']}"] if data["binarization"] else []
    table = Table("metric", "", "value", "± stderr", "unit", "draws", box=box.SIMPLE, title=", ".join(facts))
    for name, m in report["metrics"].items():
        if m["value"] is None:
            table.add_row(name, m["relation"], "says nothing of log p(x)", "", "", "")
            continue
        error = "" if m["stderr"] is None else f"{m['stderr']:.3g}"
        error += f", 95 %: {interval(m['interval'])}" if "interval" in m else ""
        given = f" given the {m['given']}" if "given" in m else ""
        table.add_row(name, m["relation"], f"{m['value']:.5g}", error, m["unit"] + given, str(m["draws"] or ""))
    below = [_recipe(m["recipe"]) for m in report["metrics"].values() if "recipe" in m]
    below += [f" {m['remark']}" for m in report["metrics"].values() if "remark" in m]
    return Group(table, *map(Text, dict.fromkeys(below)))


def _recipe(recipe: dict[str, Any]) -> str:
    """What a number depends on, in a line; of samples the report has more."""
    if "samples" not in recipe:
        return f" {cell(recipe)}"
    facts = f" {recipe['samples']:,} images ({recipe['drawn']}) against {recipe['images']:,} of {recipe['split']}"
    if "extractor" not in recipe:
        by = f"by classifiers trained on them: {recipe['classifier']['encoder']['type']}"
        return f"{facts}, {by}; the error is {recipe['error']}"
    by = recipe["extractor"]
    return f"{facts}, by {by['kind']}: {by['name']}, sha256 {by['sha256'][:12]}…"

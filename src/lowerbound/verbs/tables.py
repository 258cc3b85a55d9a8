"""The reports of the verbs for a person: tables of the terminal."""

from typing import Any

from rich import box
from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text


def plain(rows: Any) -> Any:
    """A row for each dict of a list, or for each entry of one dict."""
    if isinstance(rows, dict):
        table = Table(box=box.SIMPLE, show_header=False)
        for k, v in rows.items():
            table.add_row(str(k), _cell(v))
        return table
    table = Table(*(rows[0] if rows else []), box=box.SIMPLE)
    for row in rows:
        table.add_row(*map(_cell, row.values()))
    return table


def costs(report: dict[str, Any]) -> Any:
    """A dry run: what there is to say of all, then a column for each stage."""
    whole = plain({k: v for k, v in report.items() if k != "stages"})
    if "stages" not in report:
        return whole
    columns = report["stages"]
    table = Table("stage", *(stage["stage"] for stage in columns), box=box.SIMPLE)
    for name in list(columns[0])[1:]:
        table.add_row(name, *(_cell(stage[name]) for stage in columns))
    return Group(whole, table)


def _cell(value: Any) -> str:
    """A value of a report for a person: 1,797; train 1,459, valid 149; nothing for what isn't there."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{k}: {_cell(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_cell, value))
    return "" if value is None else str(value)


def direction(report: dict[str, Any]) -> Any:
    """What a direction was learnt from, how well it tells the classes apart, and what else it moves."""
    facts = Table(box=box.SIMPLE, show_header=False, title=f"direction {report['name']}: {report['learnt_from']}")
    area = report["auroc"]
    facts.add_row("method", report["method"])
    facts.add_row("orthogonal to", ", ".join(report["orthogonal_to"]) or "nothing")
    facts.add_row("learnt from", _cell(report["train"]))
    facts.add_row("held out", _cell(report["held_out"]))
    facts.add_row("AUROC, held out", f"{area['value']:.4f} ± {area['stderr']:.4f}")
    facts.add_row("distance of the class means along it", f"{report['distance']:.4g}")
    drawn = report["redrawn"]
    facts.add_row("of strength 1, seen again once it is drawn", "" if drawn is None else f"{drawn:.3f}")
    moved = Table("strength 1 moves", "kind", "cosine", "by", "by, once it is drawn", box=box.SIMPLE)
    for kind, others in report["leakage"].items():
        for name, v in others.items():
            again = f"{v['redrawn']:+.3f}" if "redrawn" in v else ""
            moved.add_row(name, kind.removesuffix("s"), f"{v['cosine']:+.3f}", f"{v['shift']:+.3f}", again)
    return Group(facts, moved) if moved.row_count else facts


def fitted(report: dict[str, Any]) -> Any:
    """The former prior and the fitted one, side by side."""
    if report["prior"] is None:
        return f"{report['run']}: no fitted prior"
    kind = report["prior"] + (f", {report['components']} components" if "components" in report else "")
    table = Table(
        "", "former prior", "fitted", "floor", "unit", box=box.SIMPLE, title=f"{kind}, {report['codes']:,} codes"
    )
    codes, distance = report["log_density_of_codes"], report["frechet"]
    table.add_row("log p(z), validation codes", *(f"{codes[k]:.5g}" for k in ("former", "fitted")), "", codes["unit"])
    shown = [f"{distance[k]:.4g}" for k in ("former", "fitted", "floor")]
    table.add_row(f"Fréchet distance, {distance['n']:,} samples", *shown, "64 principal components")
    for name, m in report["likelihoods"].items():
        cells = [f"{m[k]['relation']} {m[k]['value']:.5g} ± {m[k]['stderr'] or 0:.2g}" for k in ("former", "fitted")]
        table.add_row(f"{name}, validation images", *cells, "", m["fitted"]["unit"])
    return table


def metrics(report: dict[str, Any]) -> Any:
    """The values, and below them what those of samples depend on."""
    data = report["data"]
    facts = [data["name"], data["split"], f"n={data['n']}", f"levels={data['levels']}"]
    facts += [f"binarization={data['binarization']}"] if data["binarization"] else []
    table = Table("metric", "", "value", "± stderr", "unit", "draws", box=box.SIMPLE, title=", ".join(facts))
    for name, m in report["metrics"].items():
        if m["value"] is None:
            table.add_row(name, m["relation"], "says nothing of log p(x)", "", "", "")
            continue
        error = "" if m["stderr"] is None else f"{m['stderr']:.3g}"
        given = f" given the {m['given']}" if "given" in m else ""
        table.add_row(name, m["relation"], f"{m['value']:.5g}", error, m["unit"] + given, str(m["draws"] or ""))
    recipes = {_recipe(m["recipe"]): None for m in report["metrics"].values() if "recipe" in m}
    return Group(table, *map(Text, recipes))


def _recipe(recipe: dict[str, Any]) -> str:
    """What a number of samples depends on, in a line; the report has all of it."""
    facts = f" {recipe['samples']:,} images ({recipe['drawn']}) against {recipe['images']:,} of {recipe['split']}"
    if "extractor" not in recipe:
        return f"{facts}, by classifiers trained on them: {recipe['classifier']['encoder']['type']}"
    by = recipe["extractor"]
    return f"{facts}, by {by['kind']}: {by['name']}, sha256 {by['sha256'][:12]}…"


def diagnosis(report: dict[str, Any]) -> Any:
    """The findings, the problems first, and what was looked at."""
    table = Table(box=box.SIMPLE, show_header=False)
    for f in sorted(report["findings"], key=lambda f: f["severity"] != "problem"):
        table.add_row(f["severity"], f["name"], Text(f["message"]))
        table.add_row("", f"{_cell(f['value'])}, bound {_cell(f['threshold'])}", Text(f"do: {f['remedy']}"))
    names = ", ".join(dict.fromkeys(c["name"] for c in report["checked"]))
    n = ", ".join(f"{n:,} of {split}" for split, n in report["data"]["images"].items())
    looked = Text(f"checked{f' on {n} images of ' + report['data']['name'] if n else ''}: {names}")
    return Group(table if report["findings"] else Text("nothing wrong found"), looked)


def comparison(report: dict[str, Any]) -> Any:
    """What the runs say, what they cost, the anchors, and what must be known of them."""
    from lowerbound.verbs.compare import page  # numpy and torch, which other tables don't wait for

    facts = Text(f"\n{page.pixels(report)}\n{page.conditions(report)}", style="italic")
    tables = [_columns(report, names) for names in (page.LIKELIHOOD, page.COST)]
    notes = [Padding(Text(f"- {note}"), (0, 1)) for note in report["notes"]]
    return Group(facts, *tables, _anchors(page.anchor_rows(report)), *notes)


def _columns(report: dict[str, Any], names: tuple[str, ...]) -> Any:
    from lowerbound.verbs.compare import page

    table, shown = Table(box=box.SIMPLE), page.shown_columns(report, names)
    for name in shown:
        table.add_column(page.heading(name, report), justify="left" if name in ("run", "model") else "right")
    for row in report["runs"]:
        cells = page.cells(row, report)
        table.add_row(*(Text(cells[name]) for name in shown))
    return table


def _anchors(rows: Any) -> Any:
    table = Table("the same pixels", "as", box=box.SIMPLE)
    for name in ("bits/dim", "nats/image"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*row)
    return table


def accuracies(report: dict[str, Any]) -> Any:
    """Methods down, labels per class across: the accuracy in %, with its standard deviation over the seeds."""
    data, rows = report["data"], report["results"]
    columns = list(dict.fromkeys(row["labels"] for row in rows))
    facts = f"{data['name']}, {data['split']}, n={data['n']}, {report['features']} features"
    table = Table("accuracy, %; labels per class", *map(str, columns), box=box.SIMPLE, title=facts)
    for method in dict.fromkeys(row["method"] for row in rows):
        found = {row["labels"]: row for row in rows if row["method"] == method}
        cells = []
        for row in (found[c] for c in columns):
            spread = "" if row["std"] is None else f" ± {100 * row['std']:.1f}"
            cells.append(f"{100 * row['accuracy']:.1f}{spread}")
        table.add_row(method, *cells)
    return table

"""The card of a shared run: what it is, of which data, what was measured of it, and what that is worth."""

import json
from typing import Any

from lowerbound.data.bundled import bundled
from lowerbound.exporting.facts import RELATIONS, preparation
from lowerbound.runs.run import Run

UNKNOWN = "not known here; whoever shares the model says it"


def written(run: Run, called: str) -> str:
    """Markdown, with the head that hubs read. called: by which it is loaded."""
    recipe, facts = run.recipe, run.facts
    licence = licence_of(facts.name)
    about = [f"{recipe.about.model}."] if recipe.about.model else []
    lines = [
        *("---", "library_name: lowerbound", "tags:", "- lowerbound", "- latent-variable-model", "---", ""),
        *(f"# {run.name}", "", *about, ""),
        "```python",
        "import lowerbound as lb",
        "",
        f'model = lb.load("{called}")',
        "```",
        "",
        f"- Model: `{recipe.model.type_name()}`, recipe `{run.name}`; the whole configuration is in `config.json`.",
        f"- Data: {facts.name}, {facts.images:,} training images of {_size(facts.shape)}, {facts.levels} levels"
        + (f", binarized ({facts.binarization})" if facts.binarization else "")
        + ".",
        f"- Licence of the data: {licence}.",
        f"- An image becomes x: {'; '.join(preparation(run)['steps'])}.",
        *_weights(run),
        "",
        *_measured(run),
    ]
    return "\n".join(lines).rstrip() + "\n"


def licence_of(data: str) -> str:
    known = bundled().get(data)
    return known.licence if known is not None and known.licence else UNKNOWN


def _size(shape: tuple[int, int, int]) -> str:
    return f"{shape[2]}x{shape[1]}, {'grey' if shape[0] == 1 else 'colour'}"


def _weights(run: Run) -> list[str]:
    said = json.loads((run.path / "config.json").read_text(encoding="utf-8")).get("weights")
    if not said:
        return []
    apart = ", ".join(f"{part} {off:.1g}" for part, off in said["difference"].items()) or "not measured"
    return [
        f"- Weights: {said['dtype']}. What they say differs from those of the training by at most (pixels beside their "
        f"range, other numbers beside 1 or their size): {apart}."
    ]


def _measured(run: Run) -> list[str]:
    """A table for each evaluation."""
    lines, relations = [], []
    for path in sorted(run.path.glob("evaluation/*.json")):
        report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        data = report["data"]
        lines += [f"## Measured on {data['name']}, {data['split']}, {data['n']:,} images", ""]
        lines += ["| metric | | value | standard error | unit | draws |", "|---|---|---|---|---|---|"]
        for name, m in report["metrics"].items():
            lines.append(f"| {name} | {' | '.join(_cells(m))} |")
            relations += [m["relation"]] if name in ("nll", "bits_per_dim") else []
        lines.append("")
    meanings = [f"`{r}`: {RELATIONS[r]}." for r in dict.fromkeys(relations) if r in RELATIONS]
    return lines + (["What the relation of a likelihood says of log p(x): " + " ".join(meanings)] if meanings else [])


def _cells(m: dict[str, Any]) -> list[str]:
    if m["value"] is None:
        return [m["relation"], "says nothing of log p(x)", "", "", ""]
    error = "" if m["stderr"] is None else f"{m['stderr']:.3g}"
    given = f" given the {m['given']}" if "given" in m else ""
    return [m["relation"], f"{m['value']:.5g}", error, m["unit"] + given, str(m["draws"] or "")]

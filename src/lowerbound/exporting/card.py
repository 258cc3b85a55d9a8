"""The card of a shared run: what it is, of which data, what was measured of it, and what that is worth."""

import json
from pathlib import Path
from typing import Any

from lowerbound.data.bundled import bundled
from lowerbound.errors import counted
from lowerbound.exporting.facts import RELATIONS, preparation
from lowerbound.runs.recipes import Training
from lowerbound.runs.run import Run

UNKNOWN = "not known here; whoever shares the model says it"
BEGIN = "<!-- lowerbound writes this part anew whenever the run is pushed; words of your own go above or below it -->"
END = "<!-- the end of that part -->"


def written(run: Run, called: str) -> str:
    """Markdown, with the head that hubs read. called: by which it is loaded."""
    recipe, facts = run.recipe, run.facts
    about = [f"{recipe.about.model}."] if recipe.about.model else []
    install = "  # pip install 'lowerbound[hub]'" if called.startswith("hf:") else ""
    lines = [
        *("---", "library_name: lowerbound", "tags:", "- lowerbound", "- latent-variable-model", "---", ""),
        *(f"# {run.name}", "", BEGIN, "", *about, ""),
        "```python",
        f"import lowerbound as lb{install}",
        "",
        f'model = lb.load("{called}")',
        "```",
        "",
        f"- Model: `{recipe.model.type_name()}`, recipe `{run.name}`; the whole configuration is in `config.json`.",
        f"- Training: {_training(run)}",
        f"- Data: {facts.name}, {facts.images:,} training images of {_size(facts.shape)}, {facts.levels} levels"
        + (f", binarized ({facts.binarization})" if facts.binarization else "")
        + ".",
        f"- Licence of the data: {licence_of(facts.name)}.",
        f"- An image becomes x: {'; '.join(preparation(run)['steps'])}.",
        *_weights(run),
        f"- Written by lowerbound {said(run.path)['version']}, which loads it without executing anything of it.",
        "",
        *_measured(run),
        "",
        END,
    ]
    return "\n".join(lines) + "\n"


def merged(theirs: str, ours: str) -> str:
    """A card that was written over: the part of ours in its place, and all else as it is."""
    _, begin, rest = ours.partition(BEGIN)
    part = begin + rest.partition(END)[0] + END
    above, begun, rest = theirs.partition(BEGIN)
    _, ended, below = rest.partition(END)
    return above + part + below if begun and ended else f"{theirs.rstrip()}\n\n{part}\n"


def licence_of(data: str) -> str:
    known = bundled().get(data)
    return known.licence if known is not None and known.licence else UNKNOWN


def said(folder: Path, name: str = "config.json") -> dict[str, Any]:
    """A JSON file of a run."""
    return json.loads((folder / name).read_text(encoding="utf-8"))


def _training(run: Run) -> str:
    """How long, and in which batches; of stages with settings of their own too."""
    train = run.recipe.train
    parts = [_length(train), *(f"the stage {name} {_length(train.of(name))}" for name in train.tables())]
    return f"{'; '.join(parts)}; seed {run.recipe.seed}.{_unfinished(run)}"


def _length(train: Training) -> str:
    limits = [] if train.steps is None else [counted(train.steps, "step")]
    limits += [] if train.epochs is None else [f"{train.epochs:g} epochs"]
    return f"{' or '.join(limits) or 'fitted'}, batches of {train.batch:,}"


def _unfinished(run: Run) -> str:
    left = said(run.path).get("unfinished", {}).items()
    stages = [f"{name} is after {counted(step, 'step')}" if step else f"{name} is not begun" for name, step in left]
    return f" It is not at its end: the stage {', the stage '.join(stages)}." if stages else ""


def _size(shape: tuple[int, int, int]) -> str:
    return f"{shape[2]}x{shape[1]}, {'grey' if shape[0] == 1 else 'colour'}"


def _weights(run: Run) -> list[str]:
    weights = said(run.path).get("weights")
    if not weights:
        return []
    apart = ", ".join(f"{part} {off:.1g}" for part, off in weights["difference"].items()) or "not measured"
    return [
        f"- Weights: rounded to {weights['dtype']}. What they say differs from those of the training by at most "
        f"(pixels beside their range, other numbers beside 1 or their size): {apart}."
    ]


def _measured(run: Run) -> list[str]:
    """A table for each evaluation."""
    lines, relations = [], []
    for path in sorted(run.path.glob("evaluation/*.json")):
        report = said(path.parent, path.name)
        data = report["data"]
        lines += [f"## Measured on {data['name']}, {data['split']}, {data['n']:,} images", ""]
        lines += ["| metric | relation | value | standard error | unit | draws |", "|---|---|---|---|---|---|"]
        for name, m in report["metrics"].items():
            lines.append(f"| {name} | {' | '.join(_cells(m))} |")
            relations += [m["relation"]] if name in ("nll", "bits_per_dim") else []
        lines.append("")
    meanings = [f"`{r}`: {RELATIONS[r]}." for r in dict.fromkeys(relations) if r in RELATIONS]
    if not lines:
        return ["Nothing is measured of these weights yet; `lowerbound evaluate` does."]
    return lines + (["What the relation of a likelihood says of log p(x): " + " ".join(meanings)] if meanings else [])


def _cells(m: dict[str, Any]) -> list[str]:
    if m["value"] is None:
        return [m["relation"], "says nothing of log p(x)", "", "", ""]
    error = "" if m["stderr"] is None else f"{m['stderr']:.3g}"
    given = f" given the {m['given']}" if "given" in m else ""
    return [m["relation"], f"{m['value']:.5g}", error, m["unit"] + given, str(m["draws"] or "")]

"""Runs as folders to share: safetensors, JSON and a card, without what only training needs."""

import re
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from lowerbound.data.bundled import bundled
from lowerbound.directions import Direction
from lowerbound.errors import ModelError, RunError
from lowerbound.exporting import card, graphs
from lowerbound.exporting.card import said
from lowerbound.exporting.parts import Graph, parts
from lowerbound.files import replacing
from lowerbound.model import Model
from lowerbound.runs.run import Run, load, occupied, weights_code

SAID = ("weights", "unfinished")  # in a config.json of a run that was shared before, of what it was


def save_pretrained(run: Run | str | Path, folder: str | Path, *, half: bool = False) -> Path:
    """Write a run as a folder that can be shared, and that every verb takes as a run: its configuration, weights, named
    directions, evaluations, and a card (README.md). The folder.

    half: weights in float16, half as large. How far what they decode is from the run's own is in config.json and on the
    card; evaluations of the run are left out, since they are of other weights. (Those that were rounded before stay.)

    Of evaluations, those are left out that are of earlier weights. A training that is not at its end is said on the
    card. Nothing of this machine is in it: of paths the last name is kept.

    Raises RunError for a run without weights, and a folder where something else lies.
    """
    run, folder = run if isinstance(run, Run) else Run.open(run), Path(folder)
    if occupied(folder):
        raise RunError(f"{folder}: something lies there already; choose another folder")
    model = run.load()
    weights = {name: _half(t) if half else t for name, t in model.state_dict().items()}
    rounded = not all(torch.equal(weights[name].to(t), t) for name, t in model.state_dict().items())
    _write(folder / "model.safetensors", save({k: t.contiguous() for k, t in weights.items()}, {"format": "pt"}))
    recipe = run.recipe.model_copy(update={"data": _without_place(run.recipe.data)})
    shared = Run(folder, run.name, recipe, run.facts)
    shared.save_config()
    after = shared.load()
    more = {key: values for key in SAID if (values := said(run.path).get(key))}
    if left := unfinished(run, model):
        more["unfinished"] = left
    if rounded:
        more["weights"] = {"dtype": "float16", "difference": apart(model, after)}
    if more:
        shared.write_json("config.json", said(folder) | more)
    if (given := run.path / "given.safetensors").is_file():
        _write(folder / given.name, given.read_bytes())
    for direction in run.directions(model).values():
        if direction.fresh:
            shared.save_direction(_without_places(direction), after)
    for name, report in {} if rounded else reports(run, model).items():
        shared.write_json(f"evaluation/{name}", report | {"run": run.name})
    write_card(shared, folder.name)
    return folder


def from_pretrained(name: str | Path, *, device: str = "auto") -> Model:
    """The model of a folder that `save_pretrained` wrote, of a run, of the package (`pretrained:NAME`), or of a hub
    (`hf://USER/NAME`). In eval mode; nothing in it is ever executed.
    """
    return load(name, device=device)


def unfinished(run: Run, model: Model) -> dict[str, int]:
    """The steps so far of every stage of a training that is not at its end; {} where all are, or nothing is known."""
    states = run.states()
    left = {name: int(state["step"]) for name, state in states.items() if not state["finished"]}
    return left | ({stage.name: 0 for stage in model.stages() if stage.name not in states} if states else {})


def reports(run: Run, model: Model | None = None) -> dict[str, dict[str, Any]]:
    """File name -> what `evaluate` reported of a model's weights; None: of whichever.

    Reports of earlier versions don't say of which weights they are: then those that are newer than these.
    """
    code, written = model and weights_code(model), (run.path / "model.safetensors").stat().st_mtime_ns
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(run.path.glob("evaluation/[!.]*.json")):
        with suppress(OSError, ValueError):  # damaged; `evaluate` writes it anew
            report = said(path.parent, path.name)
            if not isinstance(report, dict) or "metrics" not in report:  # of another verb
                continue
            fresh = report["weights"] == code if "weights" in report else path.stat().st_mtime_ns >= written
            if model is None or fresh:
                found[path.name] = report
    return found


def write_card(run: Run, called: str) -> None:
    """README.md of a shared run, of what is in it now. called: by which it is loaded."""
    _write(run.path / "README.md", card.written(run, called).encode())


def apart(a: Model, b: Model) -> dict[str, float]:
    """How far what the parts of two models say is apart: pixel values beside their range, other numbers beside 1 or
    their own size, whole numbers by the share that differ."""
    found = {}
    try:
        pairs = list(zip(parts(a), parts(b), strict=True))
    except ModelError:  # that no graph says
        return found
    for one, other in pairs:
        inputs = graphs.example(one, 16, seed=1)
        with torch.no_grad():
            outputs = zip(one.outputs, Graph(a, one)(*inputs), Graph(b, other)(*inputs), strict=True)
            found[one.name] = max(graphs.difference(port, right, t.numpy()) for port, right, t in outputs)
    return found


def _half(t: Tensor) -> Tensor:
    return t.half() if t.is_floating_point() else t


def _without_place(data: Any) -> Any:
    """Without the folders that its files lay in, which are of one machine."""
    places = {name: getattr(data, name) for name in ("source", "attributes")}
    own = {name: last_name(p) for name, p in places.items() if p is not None and p not in bundled()}
    return data.model_copy(update=own)


def _without_places(direction: Direction) -> Direction:
    learnt = re.split(r"( against | of )", direction.report.get("learnt_from", ""))
    words = "".join(last_name(word) if "/" in word else word for word in learnt)
    return replace(direction, report=direction.report | {"learnt_from": words})


def last_name(path: str) -> str:
    """What a file or a folder is called.

    Example:
        >>> last_name("/home/ann/faces/")
        'faces'
    """
    return Path(path).name or Path(path).resolve().name or "data"


def _write(path: Path, content: bytes) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(content)

"""Runs as folders to share: safetensors, JSON and a card, without what only training needs."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from lowerbound.data.bundled import bundled
from lowerbound.errors import ModelError, RunError
from lowerbound.exporting import card, graphs
from lowerbound.exporting.parts import Graph, parts
from lowerbound.files import replacing
from lowerbound.model import Model
from lowerbound.runs.run import Run, load, occupied


def save_pretrained(run: Run | str | Path, folder: str | Path, *, half: bool = False) -> Path:
    """Write a run as a folder that can be shared, and that every verb takes as a run: its configuration, weights, named
    directions, evaluations, and a card (README.md). The folder.

    half: weights in float16, half as large. How far what they decode is from the run's own is in config.json and on the
    card; evaluations of the run are left out, since they are of other weights.

    Raises RunError for a run without weights, and a folder where something else lies.
    """
    run, folder = run if isinstance(run, Run) else Run.open(run), Path(folder)
    if occupied(folder):
        raise RunError(f"{folder}: something lies there already; choose another folder")
    model = run.load()
    weights = {name: _half(t) if half else t for name, t in model.state_dict().items()}
    _write(folder / "model.safetensors", save({k: t.contiguous() for k, t in weights.items()}, {"format": "pt"}))
    recipe = run.recipe.model_copy(update={"data": _without_place(run.recipe.data)})
    shared = Run(folder, run.name, recipe, run.facts)
    shared.save_config()
    after = shared.load()
    if half:
        values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        shared.write_json("config.json", values | {"weights": {"dtype": "float16", "difference": apart(model, after)}})
    if (given := run.path / "given.safetensors").is_file():
        _write(folder / given.name, given.read_bytes())
    for direction in run.directions(model).values():
        if direction.fresh:
            shared.save_direction(direction, after)
    for report in () if half else sorted(run.path.glob("evaluation/*.json")):
        shared.write_json(f"evaluation/{report.name}", _report(report, run.name))
    write_card(shared, folder.name)
    return folder


def from_pretrained(name: str | Path, *, device: str = "auto") -> Model:
    """The model of a folder that `save_pretrained` wrote, of a run, or of the package (`pretrained:NAME`).

    In eval mode; nothing in it is ever executed.
    """
    return load(name, device=device)


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
    own = {name: Path(p).name for name, p in places.items() if p is not None and p not in bundled()}
    return data.model_copy(update=own)


def _report(path: Path, name: str) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) | {"run": name}


def _write(path: Path, content: bytes) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(content)

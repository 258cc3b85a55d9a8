"""A model as one web page that runs it: whoever opens the file pulls at its latents, without Python or a network."""

import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lowerbound.editing.controls import Known, controls, known
from lowerbound.editing.latents import Codec, codec
from lowerbound.errors import ModelError
from lowerbound.exporting import graphs
from lowerbound.exporting.facts import told
from lowerbound.exporting.pulled import can_draw, pulled
from lowerbound.files import replacing
from lowerbound.runs.run import Run
from lowerbound.verbs.export import bundle

LARGEST = 25_000_000  # bytes of a page


def write_page(run: Run, path: Path) -> dict[str, Any]:
    """What is said of the file, as of others, and in `notes` what else. Raises ModelError for a model that no page can
    run, or one too large."""
    try:
        part = pulled(run.load("cpu"))
    except ModelError as e:
        raise ModelError(f"{run.place}: {e}") from None
    editor = codec(run, "cpu", whole=True)
    found = known(editor)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "page.onnx"
        said = graphs.write(editor.model, part, file, told(run, editor.model), half=True)
        graph = file.read_bytes()
    text = bundle.page(about(run, editor, found), graph, _facts(run, editor), version("lowerbound")).encode()
    if len(text) > LARGEST:
        raise ModelError(
            f"--out {path}: the page would have {len(text) / 1e6:.0f} MB, more than the {LARGEST / 1e6:.0f} MB that "
            f"one may have ({_parameters(editor):,} parameters)"
        )
    with replacing(path) as temporary:
        temporary.write_bytes(text)
    return said | {"notes": [found.note] if found.note else []}


def about(run: Run, editor: Codec, found: Known) -> dict[str, Any]:
    """What the scripts are told: JSON values."""
    said = controls(editor, found)
    steps = {d.name: d.step.tolist() for d in editor.directions.values() if d.fresh}
    without = "There are no draws: the prior is no function of noise that a page can compute."
    notes = [without] if editor.can_draw and not can_draw(editor.model) else []
    return said | {
        "name": run.title.removeprefix("pretrained:").removeprefix("hf://"),
        "pixels": editor.levels,
        "draws": can_draw(editor.model),
        "drawn": len(said["levels"]) or 1,
        "encodes": False,
        "directions": [d | {"step": steps[d["name"]]} for d in said["directions"] if d["name"] in steps],
        "notes": said["notes"] + notes,
        "origin": found.origin.tolist(),
        "scale": found.scale.tolist(),
    }


def _facts(run: Run, editor: Codec) -> str:
    channels, height, width = run.facts.shape
    colour = "grey" if channels == 1 else "in colour"
    model = run.recipe.about.model or type(editor.model).__name__
    return f"{model} · {_parameters(editor):,} parameters · {run.facts.name}, {width}×{height} {colour}"


def _parameters(editor: Codec) -> int:
    return sum(p.numel() for p in editor.model.parameters())

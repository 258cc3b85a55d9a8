"""What a file says of the run it was made of, for programs that have no lowerbound."""

from importlib.metadata import version
from typing import Any

from lowerbound.config import dump
from lowerbound.exporting.parts import drawn_by
from lowerbound.model import Model
from lowerbound.runs.run import Run
from lowerbound.space import told_of

RELATIONS = {
    "=": "its values of log p(x) are exact",
    "<=": "its values of -log p(x) are upper bounds",
    "~": "its values of -log p(x) are estimates, neither exact nor bounds",
    "?": "it says nothing of log p(x)",
}


def told(run: Run, model: Model) -> dict[str, Any]:
    """Labels, ranges, how images are prepared, and what the model's likelihoods are worth."""
    facts, relation = run.facts, model.density.value
    found: dict[str, Any] = {
        "lowerbound": version("lowerbound"),
        "model": run.recipe.model.type_name(),
        "recipe": run.name,
        "data": facts.name,
        "likelihood": {"relation": relation, "meaning": RELATIONS[relation]},
        "preparation": preparation(run),
    }
    if given := told_of(model.given):
        found["likelihood"]["given"] = found["given"] = given
    if facts.classes and given == "label":
        found["labels"] = [str(name) for name in facts.classes]
    if facts.factors:
        found["attributes"] = [dump(factor) for factor in facts.factors]
    if priors := drawn_by(model):
        found["prior"] = priors
    return found


def preparation(run: Run) -> dict[str, Any]:
    """How an image becomes x, and x a picture."""
    data, (channels, height, width) = run.recipe.data, run.facts.shape
    levels = run.facts.space.levels or 256
    steps = [f"the middle square, {data.crop:g} of the shorter side"] if data.crop else []
    steps += [f"resized to {width}x{height}" + (", shorter side first, the middle of it" if data.size else "")]
    steps += ["grey" if channels == 1 else "red, green, blue"]
    own = run.facts.levels
    if data.levels is None and own < 256:
        steps += [f"round(byte * {own - 1} / 255)"]
    if run.facts.binarizes:
        steps += [f"binary: 1 with probability value / {own - 1}, else 0"]
    return {
        "shape": [channels, height, width],
        "levels": levels,
        "binarization": run.facts.binarization,
        "steps": steps,
        "picture": f"round(x * 255 / {levels - 1})",
    }

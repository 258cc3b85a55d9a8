"""What is said of each run: a row of the table, as in the report of `compare --json`."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from lowerbound.config import Component
from lowerbound.metrics.base import Value
from lowerbound.metrics.likelihood import NATS, common_error, likelihood
from lowerbound.model import Invertible, LatentModel, Model
from lowerbound.runs.run import Run
from lowerbound.space import told_of
from lowerbound.units import bits_per_dim
from lowerbound.verbs.compare.entries import Entry
from lowerbound.verbs.compare.measured import Measured
from lowerbound.verbs.compare.quality import answers
from lowerbound.verbs.compare.sampled import Timing


def first_with_likelihood(values: Sequence[Measured]) -> int | None:
    """The run that the differences are to."""
    return next((i for i, own in enumerate(values) if own.nll is not None), None)


def table(
    entries: Sequence[Entry],
    values: Sequence[Measured],
    timings: Sequence[Timing | None],
    qualities: Sequence[dict[str, Any] | None],
    files: Sequence[dict[str, Any] | None],
    reference: int | None,
) -> list[dict[str, Any]]:
    """A row for each run, with its difference to the reference."""
    rows = [_row(*of) for of in zip(entries, values, timings, qualities, files, strict=True)]
    return [row | more for row, more in zip(rows, numbers(entries, values, reference), strict=True)]


def numbers(entries: Sequence[Entry], values: Sequence[Measured], reference: int | None) -> list[dict[str, Any]]:
    """Of each row what was measured on the images, and its difference to the reference."""
    found = [_measured(*of) for of in zip(entries, values, strict=True)]
    for i, row in enumerate(found):
        row["difference"] = None
        if reference is not None and i != reference:
            row["difference"] = _difference(entries[i], values[i], entries[reference], values[reference])
    return found


def _measured(entry: Entry, values: Measured) -> dict[str, Any]:
    error = None if values.squared_error is None else _value(values.squared_error, "per image")
    return {**_likelihood(entry, values), "squared_error": error}


def _row(
    entry: Entry,
    values: Measured,
    timing: Timing | None,
    quality: dict[str, Any] | None,
    file_bits: dict[str, Any] | None,
) -> dict[str, Any]:
    """Without its difference to another."""
    run, model = entry.run, entry.model
    parts = {name: getattr(model.config, name, None) for name in ("network", "objective")}
    return {
        "name": entry.name,
        "run": run.place,
        "recipe": run.name,
        "model": model.config.type_name(),
        **{name: part.type_name() if isinstance(part, Component) else None for name, part in parts.items()},
        **_measured(entry, values),
        "code": _code(entry),
        "parameters": sum(p.numel() for p in model.parameters()),
        "training": training(run, model),
        "sampling": None if timing is None else timing._asdict(),
        "quality": quality,
        "file_bits": file_bits,
        "answers": answers(entry),
        "saved_evaluation": values.saved,
    }


def _likelihood(entry: Entry, values: Measured) -> dict[str, Any]:
    """nll and bits_per_dim, as in the report of `evaluate`."""
    density, dims = entry.model.density, entry.model.space.dims
    if values.nll is None:
        nothing = {"value": None, "relation": density.value}
        return {"nll": nothing, "bits_per_dim": nothing}
    of = {"relation": density.value, "draws": values.draws, "given": told_of(entry.model.given)}
    estimate, bits = entry.model.estimate, bits_per_dim(values.nll, dims)
    return {
        "nll": likelihood(values.nll, NATS, estimate, **of).entry(),
        "bits_per_dim": likelihood(bits, "bits/dim", estimate, float(bits_per_dim(1.0, dims)), **of).entry(),
    }


def _value(each: np.ndarray, unit: str, relation: str = "=", common: float = 0.0) -> dict[str, Any]:
    return Value.mean(each, unit, relation, common=common).entry()


def _difference(one: Entry, values: Measured, reference: Entry, its: Measured) -> dict[str, Any] | None:
    """NLL minus the reference's, image by image, so that what is hard about an image falls out; None where the two are
    not of one quantity. What an estimate's images have in common does not fall out, and is in the error."""
    if values.nll is None or its.nll is None or _given(one) != _given(reference):
        return None
    relation = difference_relation(one.model.density.value, reference.model.density.value)
    common = math.hypot(*(common_error(of.model.estimate) for of in (one, reference)))
    value = {k: v for k, v in _value(values.nll - its.nll, NATS, relation, common).items() if k != "draws"}
    return value | {"to": reference.name}


def _given(entry: Entry) -> tuple[Any, ...]:
    """What the entry's model is told of each image."""
    recipe = entry.run.recipe
    return recipe.data.label, sorted(recipe.data.given), recipe.model.views_given()


def _code(entry: Entry) -> dict[str, Any] | None:
    """The shapes of the code, coarsest first, and how many numbers it is."""
    model = entry.model
    if isinstance(model, Invertible):
        return {"shapes": [list(model.space.shape)], "dims": model.space.dims}
    if not isinstance(model, LatentModel):
        return None
    batch = next(entry.batches.in_order(1))
    with torch.no_grad():
        shapes = [list(q.event_shape) for q in model.posteriors(batch.x, batch.y)]
    return {"shapes": shapes, "dims": sum(int(np.prod(shape)) for shape in shapes)}


def difference_relation(nll: str, reference: str) -> str:
    """What holds between the true difference of two NLLs and that of the values, from what holds of each of them.

    A bound is a value that the truth is at most; so a difference of two bounds says nothing for certain. That of an
    estimate and an exact value, or another estimate, is an estimate.

    Example:
        >>> difference_relation("=", "<="), difference_relation("<=", "=")
        ('>=', '<=')
        >>> difference_relation("<=", "<="), difference_relation("~", "=")
        ('?', '~')
    """
    if "~" in (nll, reference):
        return "~" if {nll, reference} <= {"~", "="} else "?"
    return {("=", "="): "=", ("<=", "="): "<=", ("=", "<="): ">="}.get((nll, reference), "?")


def training(run: Run, model: Model) -> dict[str, Any] | None:
    """Seconds in training steps (validation and pictures left out) over all stages of the log, images a second, and
    the machine. None where there is no log.

    What has a closed form sees every image once.
    """
    fits = [stage.name for stage in model.stages() if stage.fit]
    seconds: dict[str, float] = {}
    images: dict[str, float] = {}
    for line in run.log.records():
        if line["split"] != "train" or "seconds" not in line:
            continue
        stage, now = line["stage"], float(line["seconds"])
        rate = line.get("images_per_second", 0.0)
        images[stage] = images.get(stage, 0.0) + rate * (now - seconds.get(stage, 0.0))
        seconds[stage] = now
    if not seconds:
        return None
    seen = sum(run.facts.images if stage in fits else n for stage, n in images.items())
    total = sum(seconds.values())
    states = run.states()
    machines = [state["machine"] for state in states.values() if "machine" in state]
    return {
        "seconds": round(total, 3),
        "stages": {stage: round(s, 3) for stage, s in seconds.items()},
        "images_per_second": round(seen / total, 1) if total > 0 else None,
        "machine": machines[-1] if machines else None,
        "finished": all(state.get("finished", True) for state in states.values()),
    }

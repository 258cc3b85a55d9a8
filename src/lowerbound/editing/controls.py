"""What a page shows of a run's latents: sliders and where they begin and end, directions, conditions."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from lowerbound.data.attributes import Factor, decoded
from lowerbound.editing.latents import Codec, Editor, codes
from lowerbound.editing.values import values
from lowerbound.errors import UserError
from lowerbound.model import Model
from lowerbound.runs.run import Run


class Known(NamedTuple):
    """What is known of the codes of the run's images, [D] each, and in which order to show them."""

    order: list[int]
    use: Tensor | None
    use_name: str
    origin: Tensor
    scale: Tensor
    note: str = ""  # why nothing is


def known(editor: Codec) -> Known:
    """By the run's valid images; where they can't be had, what is known without."""
    plain = Known(list(range(editor.size)), None, "", torch.zeros(editor.size), torch.ones(editor.size))
    if not isinstance(editor, Editor) or editor.in_levels:
        return plain
    try:
        if editor.values is not None:
            v = values(editor.run, editor.model, editor.device)
            return Known(v.order(), v.use, v.use_name, v.likeliest.double(), plain.scale)
        c = codes(editor.run, editor.model, editor.device)
        return Known(c.order(), c.use, c.use_name, c.origin, c.scale)
    except UserError as e:
        return plain._replace(note=f"the run's images can't be had, so the latents are not sorted by use: {e}")


def controls(editor: Codec, found: Known) -> dict[str, Any]:
    """The sliders, the most used first, and whatever else moves the picture: JSON values."""
    return {
        "size": editor.size,
        "values": editor.values,
        "levels": _levels(editor),
        "draws": editor.can_draw,
        "encodes": editor.encodes,
        "order": found.order,
        "use": [] if found.use is None else [round(float(found.use[d]), 5) for d in found.order],
        "use_name": found.use_name,
        "directions": directions(editor),
        **conditions(editor.run, editor.model),
        "notes": ["The latents stand in the order of their numbers, not of their use."] if found.note else [],
    }


def conditions(run: Run, model: Model) -> dict[str, Any]:
    """What a model is given: the names of labels, the attributes, and what is typical of them."""
    facts, given = run.facts, bool(model.given)
    return {
        "classes": list(facts.classes or ()) if given and run.recipe.data.label else [],
        "factors": [_factor(f) for f in facts.factors] if given else [],
        "given": in_words(run, run.typical()) if given else {},
    }


def directions(editor: Codec) -> list[dict[str, Any]]:
    """Those of the run by name, and whether they are of its weights."""
    found = editor.directions.values()
    return [{"name": d.name, "fresh": d.fresh, "from": d.report.get("learnt_from", "")} for d in found]


def in_words(run: Run, y: Tensor | None) -> dict[str, Any]:
    """A condition [1, ...] as a page says it."""
    if y is None:
        return {}
    if factors := run.facts.factors:
        row = decoded(y, factors)[0]
        pairs = zip(factors, row.tolist(), strict=True)
        return {"attributes": {f.name: _of_factor(f, v) for f, v in pairs}}
    return {"label": run.said(y)[0]}


def _of_factor(f: Factor, value: float) -> str | float:
    """A value as networks see it, in float32, as one that a user may say."""
    if f.kind == "categorical":
        return f.said(value)
    return min(max(float(f"{value:.6g}"), f.low), f.high)


def _factor(f: Factor) -> dict[str, Any]:
    said = {"name": f.name, "kind": f.kind, "low": f.low, "high": f.high, "unit": f.unit, "values": [*f.values]}
    return said | {"mean": f.mean, "std": f.std}


def _levels(editor: Codec) -> list[dict[str, Any]]:
    """Of several levels of latents their names and sizes, the coarsest first."""
    if not isinstance(editor, Editor) or not editor.in_levels:
        return []
    pairs = zip(editor.model.levels, editor.model.latents, strict=True)
    return [{"name": name, "size": space.dims} for name, space in pairs]

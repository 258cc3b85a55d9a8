"""What a model is given, as the page says it and as the model takes it."""

from typing import Any

from torch import Tensor

from lowerbound.data.attributes import Factor, decoded
from lowerbound.explorer.shelf import Shown
from lowerbound.runs.conditions import Asked


def condition(shown: Shown, asked: Asked) -> Tensor | None:
    """What one image is given, [1, ...]: as asked for, the rest typical."""
    shown.run.check_asked(asked)
    if not shown.model.given:
        return None
    y = shown.run.typical(asked)
    return None if y is None else y.to(shown.device)


def in_words(shown: Shown, y: Tensor | None) -> dict[str, Any]:
    """A condition [1, ...] as the page says it."""
    if y is None:
        return {}
    factors = shown.run.facts.factors
    if factors:
        row = decoded(y, factors)[0]
        pairs = zip(factors, row.tolist(), strict=True)
        return {"attributes": {f.name: _of_factor(f, v) for f, v in pairs}}
    return {"label": shown.run.said(y)[0]}


def _of_factor(f: Factor, value: float) -> str | float:
    """A value as networks see it, in float32, as one that a user may say."""
    if f.kind == "categorical":
        return f.said(value)
    return min(max(float(f"{value:.6g}"), f.low), f.high)

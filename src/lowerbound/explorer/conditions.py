"""What a model is given, as the page says it and as the model takes it."""

from torch import Tensor

from lowerbound.explorer.shelf import Shown
from lowerbound.runs.conditions import Asked


def condition(shown: Shown, asked: Asked) -> Tensor | None:
    """What one image is given, [1, ...]: as asked for, the rest typical."""
    shown.run.check_asked(asked)
    if not shown.model.given:
        return None
    y = shown.run.typical(asked)
    return None if y is None else y.to(shown.device)

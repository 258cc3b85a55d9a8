"""Where a number that is not finite came from."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def first_not_finite(model: nn.Module, losses: Callable[[], Any]) -> str:
    """The first layer whose output, or else whose parameters' gradient, is not finite, computing the losses again."""
    found: list[str] = []
    names = {m: n for n, m in model.named_modules()}

    def look(module: nn.Module, _: Any, output: Any) -> None:
        if not found and isinstance(output, Tensor) and not torch.isfinite(output).all():
            found.append(names[module])

    hooks = [m.register_forward_hook(look) for m in model.modules() if not list(m.children())]
    try:
        losses()
    finally:
        for hook in hooks:
            hook.remove()
    bad = [n for n, p in model.named_parameters() if p.grad is not None and not torch.isfinite(p.grad).all()]
    return f"the layer {found[0]}" if found else f"the gradient of {bad[0]}" if bad else "the objective"

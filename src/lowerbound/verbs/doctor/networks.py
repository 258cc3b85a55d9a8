"""Whether the units of the networks are alive."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from lowerbound.verbs.doctor.check import Check
from lowerbound.verbs.doctor.evidence import most

DEAD_UNITS = 0.5  # of a layer
Active = dict[str, Tensor]  # rectified layer -> which of its units were ever above 0: bool [units]


@contextmanager
def watched(model: nn.Module) -> Iterator[Active]:
    """Inside, it is noted of each rectified linear layer which of its units were ever above 0."""
    active: Active = {}

    def noting(name: str) -> Any:
        def note(module: nn.Module, inputs: Any, h: Tensor) -> None:
            some = (h > 0).transpose(0, 1).flatten(1).any(1)
            called = f"{name} ({len(some)} units)"  # one module may serve layers of several widths
            active[called] = active[called] | some if called in active else some

        return note

    hooks = [m.register_forward_hook(noting(n)) for n, m in model.named_modules() if isinstance(m, nn.ReLU)]
    try:
        yield active
    finally:
        for hook in hooks:
            hook.remove()


def checks(active: Active) -> list[Check]:
    return Rectifiers({name: float((~some).float().mean()) for name, some in active.items()}).checks()


@dataclass(frozen=True)
class Rectifiers:
    """Layers of rectified linear units -> the share of their units that are 0 for every image."""

    dead: Mapping[str, float]

    def checks(self) -> list[Check]:
        if not self.dead:
            return []
        layer = max(self.dead, key=lambda name: self.dead[name])
        share = self.dead[layer]
        return [
            Check(
                "networks.dead_units",
                share,
                DEAD_UNITS,
                share > DEAD_UNITS,
                "advice",
                f"{share:.0%} of the units of {layer} are 0 for every image, and learn no more",
                "a smaller train.optimizer.lr, train.schedule.warmup=500, or activation=silu where the network has it",
                lambda: [most("share of units that are always 0, by layer", self.dead, DEAD_UNITS)],
            )
        ]

"""The sums between two lines of the log."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

_WAITING = 20  # steps, at most, whose terms are held before they are averaged


class Window:
    """The means of what is logged, over the steps since the last line, in float64.

    A term is [B]. Its mean at every step would cost an operation of its own each, far more than its arithmetic: some
    steps' terms are held as they are, and averaged at once.
    """

    def __init__(self) -> None:
        self.steps = 0
        self._sums: dict[str, float] = {}
        self._waiting: list[dict[str, Tensor]] = []

    def add(self, terms: dict[str, Tensor]) -> None:
        """What one step gives: scalars, or [B]; the same names in every step."""
        self._waiting.append(terms)
        self.steps += 1
        if len(self._waiting) == _WAITING:
            self.sums()

    def sums(self) -> dict[str, float]:
        """The sum of every term's mean over the steps. Waits for the device."""
        waiting, self._waiting = self._waiting, []
        for name in waiting[0] if waiting else ():
            means = _means([terms[name].detach() for terms in waiting])
            for mean in means:  # one after another, so that it is the same sum however often it was asked for
                self._sums[name] = self._sums.get(name, 0.0) + mean
        return self._sums

    def means(self) -> dict[str, float]:
        """The means, and begins anew."""
        means = {name: total / self.steps for name, total in self.sums().items()}
        self._sums, self.steps = {}, 0
        return means

    def not_finite(self) -> list[str]:
        return [name for name, total in self.sums().items() if not math.isfinite(total)]

    # ---- what a saved state holds

    def state(self) -> tuple[dict[str, Tensor], list[str]]:
        """The tensor of the sums, where there are any, and their names."""
        sums = self.sums()
        return {"window": torch.tensor(list(sums.values()), dtype=torch.float64)} if sums else {}, list(sums)

    def restore(self, tensors: Mapping[str, Tensor], names: Sequence[str], steps: int) -> None:
        self._waiting, self.steps = [], steps
        self._sums = dict(zip(names, tensors["window"].tolist(), strict=True)) if names else {}


def _means(each: list[Tensor]) -> list[float]:
    """The mean of every one: scalars, or all of one shape."""
    stacked = torch.stack(each)
    return (stacked if stacked.dim() == 1 else stacked.flatten(1).mean(1)).tolist()

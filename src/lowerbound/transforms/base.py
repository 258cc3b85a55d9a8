"""What a bijection answers."""

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn


class Bijection(nn.Module):
    """u [B, D], or a map [B, C, H, W], c [B, context] or None -> z like u and log |det dz/du| [B]; or from z to u, and
    the same determinant. Those of maps may be given a map as c, [B, context, H, W]."""

    @abstractmethod
    def forward(self, x: Tensor, c: Tensor | None = None, inverse: bool = False) -> tuple[Tensor, Tensor]: ...


class Chain(Bijection):
    """Bijections one after another."""

    def __init__(self, steps: Sequence[Bijection]):
        super().__init__()
        self.steps = nn.ModuleList(steps)

    def forward(self, x: Tensor, c: Tensor | None = None, inverse: bool = False) -> tuple[Tensor, Tensor]:
        total = x.new_zeros(x.shape[0])
        for step in reversed(self.steps) if inverse else self.steps:
            x, log_det = step(x, c, inverse)
            total = total + log_det
        return x, total


@dataclass(frozen=True)
class Contextual:
    """A bijection of vectors [..., D] given contexts [*batch, C], which are broadcast; None: the identity.

    loc and scale [*batch, D]: what vectors are measured by before it, and it is undone after it. Determinants do not
    change by that.
    """

    bijection: Bijection | None
    context: Tensor
    loc: Tensor | None = None
    scale: Tensor | None = None
    weights: dict[str, Tensor] | None = None  # in the place of the bijection's own

    def forward(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """z [..., D], and log |det dz/du| [...]."""
        return self._through(u, inverse=False)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """u [..., D], and log |det dz/du| [...]."""
        return self._through(z, inverse=True)

    def detached(self) -> "Contextual":
        """The same, with a gradient for the vectors alone."""
        cut = (None if t is None else t.detach() for t in (self.loc, self.scale))
        own = {} if self.bijection is None else dict(self.bijection.named_parameters())
        weights = {name: w.detach() for name, w in own.items()}
        loc, scale = cut
        return replace(self, context=self.context.detach(), loc=loc, scale=scale, weights=weights)

    def _through(self, x: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        batch = torch.broadcast_shapes(x.shape[:-1], self.context.shape[:-1])
        x = x.expand(*batch, x.shape[-1])
        if self.bijection is None:
            return x, x.new_zeros(batch)
        if self.loc is not None and self.scale is not None:
            x = (x - self.loc) / self.scale
        c = self.context.expand(*batch, self.context.shape[-1]).reshape(math.prod(batch), -1)
        x, log_det = self._called(x.reshape(math.prod(batch), -1), c, inverse)
        x = x.view(*batch, -1)
        if self.loc is not None and self.scale is not None:
            x = self.loc + self.scale * x
        return x, log_det.view(batch)

    def _called(self, x: Tensor, c: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        bijection = cast(Bijection, self.bijection)
        if self.weights is None:
            return bijection(x, c, inverse)
        return torch.func.functional_call(bijection, self.weights, (x, c, inverse))


def half(D: int, layer: int) -> Tensor:
    """Which elements a coupling layer leaves as they are: odd and even places, then the first and last half; [D]."""
    places = torch.arange(D)
    kept = places % 2 == 0 if layer % 4 < 2 else places < math.ceil(D / 2)
    return kept if layer % 2 == 0 else ~kept

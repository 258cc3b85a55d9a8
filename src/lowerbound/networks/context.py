"""The condition as a vector."""

import math

import torch
from torch import Tensor, nn

from lowerbound.space import Space, Y, conditions


class Context(nn.Module):
    """The condition as one vector per image: labels are embedded, attributes mapped (numbers, or values of some
    levels), and all added up.

    y -> [B, width]; None where nothing is given.
    """

    def __init__(self, given: tuple[Space, ...], width: int):
        super().__init__()
        self.given = given
        self.width = width if given else 0
        self.maps = nn.ModuleList(
            nn.Embedding(s.levels or 0, width) if _is_label(s) else nn.Linear(math.prod(s.feature_shape), width)
            for s in given
        )

    def forward(self, y: Y) -> Tensor | None:
        parts = conditions(y, self.given)
        found = [self._mapped(*part) for part in zip(self.maps, parts, self.given, strict=True)]
        return torch.stack(found).sum(0) if found else None

    def _mapped(self, m: nn.Module, part: Tensor, space: Space) -> Tensor:
        if _is_label(space):
            return m(part)
        return m(space.features(part).reshape(len(part), -1).to(next(m.parameters()).dtype))


def _is_label(space: Space) -> bool:
    return space.levels is not None and not space.shape

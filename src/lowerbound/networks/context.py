"""The condition as a vector."""

import torch
from torch import Tensor, nn

from lowerbound.space import Space, Y, conditions


class Context(nn.Module):
    """The condition as one vector per image: labels are embedded, attribute vectors mapped, and all added up.

    y -> [B, width]; None where nothing is given.
    """

    def __init__(self, given: tuple[Space, ...], width: int):
        super().__init__()
        self.given = given
        self.width = width if given else 0
        self.maps = nn.ModuleList(
            nn.Embedding(s.levels, width) if s.levels is not None else nn.Linear(s.dims, width) for s in given
        )

    def forward(self, y: Y) -> Tensor | None:
        parts = conditions(y, self.given)
        return torch.stack([m(c) for m, c in zip(self.maps, parts, strict=True)]).sum(0) if parts else None

"""The condition as a vector, and as maps."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
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
        return m(space.features(part).reshape(part.shape[0], -1).to(next(m.parameters()).dtype))


class Shown(Context):
    """The condition of a network over maps: images in it as channels beside the map, all else as one vector.

    y -> [B, width + channels * H * W], the vector and then the images' features at the map's size, each value repeated
    where they are smaller and averaged where they are larger; None where nothing is given. `split` takes it apart.
    """

    def __init__(self, given: tuple[Space, ...], width: int, size: Sequence[int]):
        images = [s for s in given if len(size) == 2 and len(s.shape) == 3]
        super().__init__(tuple(s for s in given if s not in images), width)
        self.all, self.size = given, tuple(size)
        self.channels = sum(s.feature_shape[0] for s in images)

    def forward(self, y: Y) -> Tensor | None:
        parts = tuple(zip(conditions(y, self.all), self.all, strict=True))
        vector = super().forward(tuple(part for part, space in parts if space in self.given))
        if not self.channels:
            return vector
        maps = [_resized(space.features(part), self.size) for part, space in parts if space not in self.given]
        flat = torch.cat(maps, 1).flatten(1)
        return flat if vector is None else torch.cat([vector, flat.to(vector.dtype)], 1)

    def split(self, c: Tensor | None, like: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """c -> the vector [N, width], and the images [N, channels, H, W], of zeros where c is None; None for none."""
        vector = c[:, : self.width] if c is not None and self.width else None
        if not self.channels:
            return vector, None
        if c is None:
            return None, like.new_zeros(len(like), self.channels, *self.size)
        return vector, c[:, self.width :].unflatten(1, (self.channels, *self.size)).to(like.dtype)


def _resized(x: Tensor, size: tuple[int, ...]) -> Tensor:
    return x if tuple(x.shape[2:]) == size else F.adaptive_avg_pool2d(x, (size[0], size[1]))


def _is_label(space: Space) -> bool:
    return space.levels is not None and not space.shape

"""Residual convolutions, halved or doubled between levels."""

from collections.abc import Iterable
from itertools import pairwise

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from lowerbound.networks.base import Network, Shape, halvings
from lowerbound.networks.conv import from_map, goes_down, join, to_map


class ResNet(Network):
    """Residual blocks at every level: one width each, the first at half the image's size, each next at half of that.

    Down: a convolution of stride 2 and blocks for each level, then to the latent's shape. Up: the other order. Blocks
    are pre-activated, of two 3x3 convolutions, the last of which begins at zero, so that a new network is a chain of
    identities (Zhang et al. 2019, Fixup, without normalization).

    Example:
        >>> import torch
        >>> net = ResNet.Config(widths=(16, 32), blocks=1).build((3, 32, 32), (8, 8, 8))
        >>> net(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 8, 8, 8])
    """

    class Config(Network.Config):
        # channels at each size, the first at half the image's
        widths: tuple[int, ...] = Field(default=(32, 64), min_length=1)
        blocks: int = Field(default=2, ge=0)  # residual ones at each size

        def build(self, in_shape: Shape, out_shape: Shape, context: int = 0) -> "ResNet":
            return ResNet(self, in_shape, out_shape, context)

        @classmethod
        def example(cls) -> tuple["ResNet.Config", Shape, Shape]:
            return cls(widths=(4,), blocks=1), (1, 2, 2), (3,)

    def __init__(self, config: Config, in_shape: Shape, out_shape: Shape, context: int = 0):
        super().__init__()
        widths, down = config.widths, goes_down(in_shape, out_shape)
        image, inner = (in_shape, out_shape) if down else (out_shape, in_shape)
        small = (widths[-1], *halvings(image, len(widths)))
        layers: list[nn.Module] = []
        if down:
            for i, o in zip((in_shape[0] + context, *widths), widths, strict=False):
                layers += [nn.Conv2d(i, o, 4, stride=2, padding=1), *(Block(o) for _ in range(config.blocks))]
            layers += [nn.SiLU(), from_map(small, inner)]
        else:
            steps = (*reversed(widths), out_shape[0])
            layers.append(to_map(inner, small, context))
            for i, o in pairwise(steps):
                layers += [*(Block(i) for _ in range(config.blocks)), nn.SiLU(), Upsampled(i, o)]
        self.layers = nn.Sequential(*layers)

    @property
    def apart(self) -> Iterable[nn.Module]:
        return (layer for layer in self.layers if isinstance(layer, Block))

    def forward(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        return self.layers(join(x, c))


class Block(nn.Module):
    """x + conv(silu(conv(silu(x))))."""

    def __init__(self, width: int):
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.last = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.last.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.last(F.silu(self.first(F.silu(x))))


class Upsampled(nn.Sequential):
    """A convolution to four times the channels, laid out as twice the size (Shi et al. 2016)."""

    def __init__(self, width: int, out: int):
        super().__init__(nn.Conv2d(width, 4 * out, 3, padding=1), nn.PixelShuffle(2))

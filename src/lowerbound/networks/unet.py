"""A map to one of the same size, told at every block what is given: the network of diffusion models."""

import math
from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from lowerbound.errors import ConfigError
from lowerbound.networks.attention import attend
from lowerbound.networks.base import Dropout, Network, Shape, halvings, is_image
from lowerbound.networks.mlp import Widths


class UNet(Network):
    """Residual blocks at one size after another, down and back up, where each block also sees what its partner on the
    way down put out (Ronneberger et al. 2015, https://arxiv.org/abs/1505.04597; Ho et al. 2020,
    https://arxiv.org/abs/2006.11239).

    One width for each size, the first for the image's own, each next for half of it: with a single one nothing is
    halved, which is the network of Kingma et al. (2021, https://arxiv.org/abs/2107.00630): widths=[128], blocks=32.
    Self-attention is in the middle, and at the sizes of `attention`, counted from 0. New, it puts out zeros.

    Example:
        >>> net = UNet.Config(widths=(8, 16), blocks=1).build((1, 8, 8), (1, 8, 8), context=3)
        >>> net(torch.zeros(2, 1, 8, 8), torch.zeros(2, 3)).abs().max()
        tensor(0., grad_fn=<MaxBackward1>)
    """

    class Config(Network.Config):
        widths: Widths = Field(default=(32, 64), min_length=1)  # channels at each size, the first at the image's own
        blocks: int = Field(default=2, gt=0)  # at each size on the way down; one more on the way up
        attention: tuple[int, ...] = ()  # sizes at which each block is followed by it
        middle: bool = True  # attention between two blocks at the smallest size
        heads: int = Field(default=1, gt=0)  # of an attention layer
        groups: int = Field(default=32, gt=0)  # of channels that are normalized together, at most
        dropout: float = Field(default=0.0, ge=0, lt=1)  # share of the features that training leaves out

        def build(self, in_shape: Shape, out_shape: Shape, context: int = 0) -> "UNet":
            return UNet(self, in_shape, out_shape, context)

        @classmethod
        def example(cls) -> tuple["UNet.Config", Shape, Shape]:
            return cls(widths=(4, 4), blocks=1, groups=2), (1, 2, 2), (2, 2, 2)

    def __init__(self, config: Config, in_shape: Shape, out_shape: Shape, context: int = 0):
        super().__init__()
        self._check(config, in_shape, out_shape)
        widths, sizes = config.widths, range(len(config.widths))

        def block(i: int, o: int, at: int | None) -> "Block":
            return Block(config, i, o, context, attends=config.middle if at is None else at in config.attention)

        self.first = nn.Conv2d(in_shape[0], widths[0], 3, padding=1)
        kept, width = [widths[0]], widths[0]
        self.down = nn.ModuleList()
        for l in sizes:
            for _ in range(config.blocks):
                self.down.append(block(width, widths[l], l))
                width = widths[l]
                kept.append(width)
            if l != sizes[-1]:
                self.down.append(nn.Conv2d(width, width, 3, stride=2, padding=1))
                kept.append(width)
        self.middle = nn.ModuleList([block(width, width, None), Block(config, width, width, context)])
        self.up = nn.ModuleList()
        for l in reversed(sizes):
            for _ in range(config.blocks + 1):
                self.up.append(block(width + kept.pop(), widths[l], l))
                width = widths[l]
            if l:
                self.up.append(nn.Conv2d(width, width, 3, padding=1))
        self.norm = norm(config, width)
        self.last = zeros(nn.Conv2d(width, out_shape[0], 3, padding=1))

    @staticmethod
    def _check(config: Config, in_shape: Shape, out_shape: Shape) -> None:
        """Raise ConfigError for what are no maps of one size, and what can't be divided."""
        if not (is_image(in_shape) and is_image(out_shape) and in_shape[1:] == out_shape[1:]):
            raise ConfigError(
                f"networks.unet.UNet: maps an image to one of its size, not {list(in_shape)} to {list(out_shape)}; use "
                "networks.residual.ResidualMLP"
            )
        halvings(in_shape, len(config.widths) - 1)
        if odd := [w for w in config.widths if w % config.heads]:
            raise ConfigError(f"model.network.heads={config.heads}: does not divide the width {odd[0]}")
        if wrong := [l for l in config.attention if not 0 <= l < len(config.widths)]:
            raise ConfigError(
                f"model.network.attention={list(config.attention)}: there is no size {wrong[0]}, expected 0 to "
                f"{len(config.widths) - 1}"
            )

    @property
    def apart(self) -> Iterable[nn.Module]:
        return (*self.down, *self.middle, *self.up)

    def largest(self, size: Shape) -> int:
        """What goes into a block on the way up, of two widths, counts too: its normalization puts out as much."""
        area = math.prod(size)
        return max(max(w.shape[0] for w in part.parameters()) * area // 4**halved for part, halved in self._halved())

    def _halved(self) -> Iterator[tuple[nn.Module, int]]:
        """Every part, and how often the map that it puts out has been halved."""
        at = 0
        yield self.first, at
        for part in self.down:
            at += isinstance(part, nn.Conv2d)
            yield part, at
        yield self.middle, at
        for part in self.up:
            at -= isinstance(part, nn.Conv2d)
            yield part, at
        yield self.last, at

    def forward(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        h = self.first(x)
        kept = [h]
        for part in self.down:
            h = part(h, c) if isinstance(part, Block) else part(h)
            kept.append(h)
        for part in self.middle:
            h = part(h, c)
        for part in self.up:
            if isinstance(part, Block):
                h = part(torch.cat([h, kept.pop()], 1), c)
            else:
                h = part(F.interpolate(h, scale_factor=2.0))
        return self.last(F.silu(self.norm(h)))


class Block(nn.Module):
    """Two convolutions, each after a normalization and a SiLU, added to what comes in; the context shifts what is
    between them. The second begins at zero. Perhaps self-attention after it."""

    def __init__(self, config: UNet.Config, width: int, out: int, context: int, *, attends: bool = False):
        super().__init__()
        self.norm, self.norm2 = norm(config, width), norm(config, out)
        self.conv = nn.Conv2d(width, out, 3, padding=1)
        self.conv2 = zeros(nn.Conv2d(out, out, 3, padding=1))
        self.dropout = Dropout(config.dropout)
        self.context = nn.Linear(context, out) if context else None
        self.skip = nn.Conv2d(width, out, 1) if width != out else nn.Identity()
        self.attention = Attention(config, out) if attends else nn.Identity()

    def forward(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        h = self.conv(F.silu(self.norm(x)))
        if self.context is not None:
            h = h + self.context(c)[:, :, None, None]
        h = self.conv2(self.dropout(F.silu(self.norm2(h))))
        return self.attention(self.skip(x) + h)


class Attention(nn.Module):
    """What each position gathers of all others, added to it; begins at nothing."""

    def __init__(self, config: UNet.Config, width: int):
        super().__init__()
        self.heads = config.heads
        self.norm = norm(config, width)
        self.qkv = nn.Conv2d(width, 3 * width, 1)
        self.out = zeros(nn.Conv2d(width, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        parts = self.qkv(self.norm(x)).flatten(2).chunk(3, 1)  # [B, C, T]
        heads = (part.unflatten(1, (self.heads, -1)).transpose(2, 3) for part in parts)  # [B, heads, T, C / heads] each
        # where a position's features don't lie together, torch makes all T x T weights
        found = attend(*(part.contiguous() for part in heads), dropout=0.0, causal=False)
        return x + self.out(found.transpose(2, 3).reshape(x.shape))


def norm(config: UNet.Config, width: int) -> nn.GroupNorm:
    """Over as many groups of channels as are asked for, or the most below that divide the width."""
    return nn.GroupNorm(next(g for g in range(min(config.groups, width), 0, -1) if width % g == 0), width)


def zeros(conv: nn.Conv2d) -> nn.Conv2d:
    """With all weights 0."""
    nn.init.zeros_(conv.weight)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv

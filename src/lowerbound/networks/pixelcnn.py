"""PixelCNN: residual blocks of masked convolutions."""

from collections.abc import Iterable

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from lowerbound.networks.attention import CausalAttention
from lowerbound.networks.base import Dropout, Shape
from lowerbound.networks.causal import (
    At,
    Cache,
    CausalNetwork,
    MaskedConv,
    MaskedLinear,
    Shift,
    channel_of,
    check_heads,
    may_see,
)


class PixelCNN(CausalNetwork):
    """The PixelCNN of van den Oord et al. (2016), Pixel Recurrent Neural Networks, https://arxiv.org/abs/1601.06759.

    A convolution with mask A, residual blocks of half the width with mask B (their figure 5), attention after the
    blocks named in `attention`, and two more layers position by position. It does not see all earlier positions: to the
    right, above, is a blind spot (van den Oord et al. 2016, Conditional Image Generation, figure 1), which attention
    fills, and `GatedPixelCNN` does not have.

    Example:
        >>> import torch
        >>> net = PixelCNN.Config(width=16, blocks=2).build((3, 8, 8), (3 * 256, 8, 8), channels=3)
        >>> net(torch.zeros(2, 3, 8, 8)).shape
        torch.Size([2, 768, 8, 8])
    """

    class Config(CausalNetwork.Config):
        width: int = Field(default=64, gt=1)  # features of a position
        blocks: int = Field(default=12, ge=0)  # residual ones
        kernel: int = Field(default=3, gt=1)  # of the blocks: columns; rows are half of it, and the own
        first_kernel: int = Field(default=7, gt=1)  # width of the first convolution
        attention: tuple[int, ...] = ()  # the blocks, counted from 1, after which there is attention
        heads: int = Field(default=4, gt=0)  # of an attention layer
        dropout: float = Field(default=0.0, ge=0, lt=1)  # share of the features that training leaves out
        places: bool = False  # whether each block adds a bias of its own to each place of the image

        def build(self, in_shape: Shape, out_shape: Shape, *, channels: int = 1, context: int = 0) -> "PixelCNN":
            return PixelCNN(self, in_shape, out_shape, channels, context)

        @classmethod
        def example(cls) -> tuple["PixelCNN.Config", Shape]:
            return cls(width=6, blocks=1, first_kernel=3, attention=(1,), heads=2, places=True), (2, 2)

    def __init__(self, config: Config, in_shape: Shape, out_shape: Shape, channels: int, context: int):
        super().__init__(in_shape)
        check_heads(config.width, config.heads, config.attention, config.blocks)
        inputs, outputs = channel_of(in_shape[0], channels), channel_of(out_shape[0], channels)
        hidden = channel_of(config.width, channels)
        kernel = (config.first_kernel // 2 + 1, config.first_kernel // 2 * 2 + 1)
        centre = may_see(hidden, inputs, strict=True)
        self.first = MaskedConv(in_shape[0], config.width, kernel, right=kernel[1] // 2, centre=centre)
        places = in_shape[1:] if config.places else None
        self.blocks = nn.ModuleList(Block(config, channels, context, places) for _ in range(config.blocks))
        self.attention = nn.ModuleDict(
            {
                str(b): CausalAttention(config.width, in_shape[0], channels=channels, heads=config.heads)
                for b in config.attention
            }
        )
        self.mix = MaskedLinear(config.width, config.width, may_see(hidden, hidden, strict=False))
        self.out = MaskedLinear(config.width, out_shape[0], may_see(outputs, hidden, strict=False))

    @property
    def apart(self) -> Iterable[nn.Module]:
        return (*self.blocks, *self.attention.values())

    def _maps(self, x: Tensor, c: Tensor | None) -> Tensor:
        return self._rest(self.first(x), x, c, None)

    def step(self, cache: Cache, i: int, j: int) -> Tensor:
        if cache.row != i:
            cache.row = i
            for block in self.blocks:
                block.begin_row(At(cache, i))  # pyright: ignore[reportCallIssue]
        at = At(cache, i, j)
        return self._rest(self.first(None, at), cache.x[:, i, j], None, at)

    def _inputs(self) -> tuple[MaskedConv, ...]:
        return (self.first,)

    def _rest(self, h: Tensor, x: Tensor, c: Tensor | None, at: At | None) -> Tensor:
        for b, block in enumerate(self.blocks, 1):
            h = block(h, c, at)
            if str(b) in self.attention:
                h = self.attention[str(b)](h, x, at)
        return self.out(F.relu_(self.mix(F.relu(h))))


class Block(nn.Module):
    """h + up(relu(conv(relu(down(relu(h)))))), the convolution at half the width; the sum begins as h itself."""

    def __init__(self, config: PixelCNN.Config, channels: int, context: int, places: Shape | None):
        super().__init__()
        half = max(config.width // 2, channels)
        wide, narrow = channel_of(config.width, channels), channel_of(half, channels)
        kernel = (config.kernel // 2 + 1, config.kernel // 2 * 2 + 1)
        centre = may_see(narrow, narrow, strict=False)
        self.down = MaskedLinear(config.width, half, may_see(narrow, wide, strict=False))
        self.conv = MaskedConv(half, half, kernel, right=kernel[1] // 2, centre=centre)
        self.up = MaskedLinear(half, config.width, may_see(wide, narrow, strict=False))
        self.shift = Shift(half, context, places)
        self.dropout = Dropout(config.dropout)
        nn.init.zeros_(self.up.weight)

    def forward(self, h: Tensor, c: Tensor | None, at: At | None) -> Tensor:
        around = self.conv(F.relu_(self.down(F.relu(h))), at)
        if at is None:
            around = self.dropout(around + self.shift(c))
        return h + self.up(F.relu_(around))

    def begin_row(self, at: At) -> None:
        self.conv.begin_row(at, self.shift(None, at))

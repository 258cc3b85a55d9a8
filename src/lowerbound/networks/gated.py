"""The gated PixelCNN: a stack of convolutions over the rows above, and one along the row."""

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
    RowConv,
    Shift,
    channel_of,
    check_heads,
    may_see,
    recomputed,
)


class GatedPixelCNN(CausalNetwork):
    r"""The gated PixelCNN of van den Oord et al. (2016), Conditional Image Generation with PixelCNN Decoders,
    https://arxiv.org/abs/1606.05328.

    A vertical stack sees all rows above and feeds, in each layer, a horizontal one that sees the row so far, so that
    there is no blind spot (their figure 2). Both are gated, with the condition inside (their eq. 4):

    .. math:: y = \tanh(W_f * x + V_f^T c) \odot \sigma(W_g * x + V_g^T c)

    The horizontal stack is residual; attention follows the layers named in `attention`. Before the last layer come
    `out_layers` residual blocks of each position alone (Razavi et al. 2019, VQ-VAE-2, https://arxiv.org/abs/1906.00446,
    section 3.2).

    Example:
        >>> import torch
        >>> net = GatedPixelCNN.Config(width=16, layers=2).build((16, 8, 8), (16, 8, 8))  # a grid of 16 codes
        >>> net(torch.zeros(2, 16, 8, 8)).shape
        torch.Size([2, 16, 8, 8])
    """

    class Config(CausalNetwork.Config):
        width: int = Field(default=64, gt=1)  # features of a position in each stack
        layers: int = Field(default=12, gt=0)  # of gated convolutions
        kernel: int = Field(default=3, gt=1)  # columns; rows are half of it, and the own
        first_kernel: int = Field(default=7, gt=1)  # width of the first convolution
        out_layers: int = Field(default=0, ge=0)  # residual blocks of each position alone, after all layers
        out_width: int = Field(default=128, gt=1)  # of the layer before the last, and inside those blocks
        attention: tuple[int, ...] = ()  # the layers, counted from 1, after which there is attention
        heads: int = Field(default=4, gt=0)  # of an attention layer
        attention_dropout: float = Field(default=0.0, ge=0, lt=1)  # of attention's weights
        dropout: float = Field(default=0.0, ge=0, lt=1)  # share of the features that training leaves out
        places: bool = False  # whether each layer adds a bias of its own to each place of the image
        checkpoint: bool = False  # in training, compute each layer again for its gradient: less memory, more time

        def build(self, in_shape: Shape, out_shape: Shape, *, channels: int = 1, context: int = 0) -> "GatedPixelCNN":
            return GatedPixelCNN(self, in_shape, out_shape, channels, context)

        @classmethod
        def example(cls) -> tuple["GatedPixelCNN.Config", Shape]:
            return cls(width=6, layers=2, first_kernel=3, out_layers=1, out_width=6, attention=(1,), heads=2), (2, 2)

    def __init__(self, config: Config, in_shape: Shape, out_shape: Shape, channels: int, context: int):
        super().__init__(in_shape)
        check_heads(config.width, config.heads, config.attention, config.layers)
        places = in_shape[1:] if config.places else None
        features = in_shape[0]
        self.layers = nn.ModuleList(
            Layer(config, features if k == 0 else None, channels, context, places) for k in range(config.layers)
        )
        self.attention = nn.ModuleDict(
            {
                str(b): CausalAttention(
                    config.width, features, channels=channels, heads=config.heads, dropout=config.attention_dropout
                )
                for b in config.attention
            }
        )
        hidden, last = channel_of(config.width, channels), channel_of(config.out_width, channels)
        outputs = channel_of(out_shape[0], channels)
        self.blocks = nn.ModuleList(OutBlock(hidden, last, config.dropout) for _ in range(config.out_layers))
        self.mix = MaskedLinear(config.width, config.out_width, may_see(last, hidden, strict=False))
        self.out = MaskedLinear(config.out_width, out_shape[0], may_see(outputs, last, strict=False))
        self.checkpoint = config.checkpoint

    @property
    def apart(self) -> Iterable[nn.Module]:
        return (*self.layers, *self.attention.values(), *self.blocks)

    def _maps(self, x: Tensor, c: Tensor | None) -> Tensor:
        v, h, again = x, x, self.checkpoint and self.training
        for b in range(1, len(self.layers) + 1):
            v, h = recomputed(self._layer, b, v, h, x, c, when=again)
        return recomputed(self._last, h, when=again)

    def _layer(self, b: int, v: Tensor, h: Tensor, x: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor]:
        """Layer b of both stacks, counted from 1, with the attention that follows it."""
        v, h = self._stack[b - 1](v, h, c)
        return v, self.attention[str(b)](h, x) if str(b) in self.attention else h

    def step(self, cache: Cache, i: int, j: int) -> Tensor:
        if cache.row != i:
            cache.row = i
            self._begin_row(cache, i)
        at, h, x = At(cache, i, j), None, cache.x[:, i, j]
        for b, layer in enumerate(self._stack, 1):
            h = layer.along_row(h, at)
            if str(b) in self.attention:
                h = self.attention[str(b)](h, x, at)
        assert h is not None
        return self._last(h)

    def _begin_row(self, cache: Cache, i: int) -> None:
        """The vertical stack over all of row i, and what it gives to the horizontal one."""
        v, at = None, At(cache, i)
        for layer in self._stack:
            v, link = layer.vertical(v, None, at)
            layer.conv.begin_row(at, link + layer.along(None, at))

    def _inputs(self) -> tuple[RowConv, MaskedConv]:
        return self._stack[0].rows, self._stack[0].conv

    @property
    def _stack(self) -> "list[Layer]":
        return list(self.layers)  # pyright: ignore[reportReturnType]

    def _last(self, h: Tensor) -> Tensor:
        for block in self.blocks:
            h = block(h)
        return self.out(F.relu(self.mix(F.relu(h))))


class Layer(nn.Module):
    """One layer of both stacks; the first, of x with `inputs` features, does not see the position itself."""

    def __init__(
        self, config: GatedPixelCNN.Config, inputs: int | None, channels: int, context: int, places: Shape | None
    ):
        super().__init__()
        width, first = config.width, inputs is not None
        kernel = config.first_kernel if first else config.kernel
        side = kernel // 2
        hidden, both = channel_of(width, channels), channel_of(width, channels, parts=2)
        before = channel_of(inputs, channels) if inputs is not None else hidden
        # x is seen in the rows above alone; what comes after, up to its own row
        rows = (side, 2 * side + 1) if first else (side + 1, 2 * side + 1)
        self.residual = not first
        self.rows = RowConv(len(before), 2 * width, rows, strict=first)
        self.link = nn.Linear(2 * width, 2 * width)
        self.conv = MaskedConv(len(before), 2 * width, (1, side + 1), centre=may_see(both, before, strict=first))
        self.mix = MaskedLinear(width, width, may_see(hidden, hidden, strict=False))
        self.above, self.along = Shift(2 * width, context, places), Shift(2 * width, context, places)
        self.dropout = Dropout(config.dropout)

    def forward(self, v: Tensor, h: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor]:
        """Both stacks over whole maps [B, H, W, features]."""
        v, link = self.vertical(v, c)
        return v, self._mixed(h, self.conv(h) + link + self.along(c))

    def vertical(self, v: Tensor | None, c: Tensor | None, at: At | None = None) -> tuple[Tensor, Tensor]:
        """What the next layer's vertical stack is given, and what this layer's horizontal one is: [..., 2 width]."""
        rows = self.rows(v, at) + self.above(c, at)
        return gated(rows), self.link(rows)

    def along_row(self, h: Tensor | None, at: At) -> Tensor:
        """The horizontal stack at a position of a row that has been begun; h None: the input, which has been put."""
        return self._mixed(h, self.conv(h, at))

    def _mixed(self, h: Tensor | None, both: Tensor) -> Tensor:
        found = self.mix(self.dropout(gated(both)))
        return h + found if self.residual and h is not None else found


class OutBlock(nn.Module):
    """h + W_2 relu(W_1 relu(h)) of each position alone; the channels of the features and of those inside are given."""

    def __init__(self, hidden: Tensor, inside: Tensor, dropout: float):
        super().__init__()
        self.first = MaskedLinear(len(hidden), len(inside), may_see(inside, hidden, strict=False))
        self.last = MaskedLinear(len(inside), len(hidden), may_see(hidden, inside, strict=False))
        self.dropout = Dropout(dropout)

    def forward(self, h: Tensor) -> Tensor:
        return h + self.dropout(self.last(F.relu(self.first(F.relu(h)))))


def gated(t: Tensor) -> Tensor:
    """tanh of the first half of the features, times the sigmoid of the second (eq. 2)."""
    a, b = t.chunk(2, -1)
    return a.tanh() * b.sigmoid()

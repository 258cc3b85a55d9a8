"""PixelCNN++: two streams of gated residual blocks that go down to coarser maps and up again."""

from collections.abc import Iterable
from enum import IntEnum
from typing import NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from lowerbound import noise
from lowerbound.errors import ConfigError
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
    may_see,
)

SQUARE = 0.645  # the mean square of the concat-ELU of a standard normal


class Stream(IntEnum):
    """Of the two streams, one sees the rows above, the other those, and the row so far."""

    ABOVE = 0
    LEFT = 1


class PixelCNNPP(CausalNetwork):
    r"""The PixelCNN++ of Salimans et al. (2017), https://arxiv.org/abs/1701.05517 (their figure 2).

    A stream over the rows above (convolutions of 2x3: the row above and the own one) feeds one over what is above and
    to the left (2x2). Both are made of gated residual blocks, with dropout and the condition inside,

    .. math:: h + a \odot \sigma(b), \quad (a, b) = W_2 * e(W_1 * e(h) + W_3 e(s)) + V^T c, \quad e(h) = elu([h, -h])

    and go down through `levels` resolutions, each half as large as the one before, and up again, where s is what the
    same resolution was on the way down; in the second stream, s is of the first one as well. Position (i, j) of level l
    is what has been seen up to (2^l i, 2^l j) of the image, and so may be looked at by all of the block that begins
    there. A condition that is a map is averaged for the coarser levels.

    Meant for likelihoods that take all channels of a pixel at once (`families.LogisticMixture`); of channels in order,
    the second stream's layers mask the later ones.

    Plain convolutions, initialized for features of unit variance; the paper's are weight-normalized, and initialized by
    a first batch, which a network that is built from its configuration alone does not have. With the paper's size (3
    levels of 5 blocks, width 160, 10 logistics) 53.6 million parameters; the norms would be 0.05 more.

    Example:
        >>> net = PixelCNNPP.Config(width=8, blocks=1, levels=2).build((3, 8, 8), (100, 8, 8))
        >>> net(torch.zeros(2, 3, 8, 8)).shape
        torch.Size([2, 100, 8, 8])
    """

    class Config(CausalNetwork.Config):
        width: int = Field(default=160, gt=1)  # features of a position in each stream
        levels: int = Field(default=3, gt=0)  # resolutions
        blocks: int = Field(default=5, gt=0)  # residual blocks at each, on the way down
        dropout: float = Field(default=0.0, ge=0, lt=1)  # share of the features that training leaves out
        places: bool = False  # whether each block adds a bias of its own to each place of its map

        def build(self, in_shape: Shape, out_shape: Shape, *, channels: int = 1, context: int = 0) -> "PixelCNNPP":
            return PixelCNNPP(self, in_shape, out_shape, channels, context)

        @classmethod
        def example(cls) -> tuple["PixelCNNPP.Config", Shape]:
            return cls(width=6, levels=2, blocks=1, places=True), (2, 2)

    def __init__(self, config: Config, in_shape: Shape, out_shape: Shape, channels: int, context: int):
        super().__init__(in_shape)
        _check_size(in_shape[1:], config.levels)
        # one feature more is 1, to tell the image from what is around it
        inputs, hidden = channel_of(in_shape[0] + 1, channels), channel_of(config.width, channels)
        self.rows = RowConv(len(inputs), config.width, (2, 3), strict=True)
        centre = may_see(hidden, inputs, strict=True)
        self.corner = MaskedConv(len(inputs), config.width, (2, 3), right=1, centre=centre)
        self.level = Level(config, in_shape[1:], channels, context, config.levels - 1)
        self.out = MaskedLinear(
            config.width, out_shape[0], may_see(channel_of(out_shape[0], channels), hidden, strict=False)
        )
        _scale(self.rows.weight, 1.0)
        _scale(self.corner.weight, 1.0)

    @property
    def apart(self) -> Iterable[nn.Module]:
        return (part for part in self.modules() if isinstance(part, Block))

    def put(self, cache: Cache, x: Tensor, i: int, j: int) -> None:
        cache.x[:, i, j] = x
        for conv in (self.rows, self.corner):
            conv.put(_with_one(x), At(cache, i, j))

    def step(self, cache: Cache, i: int, j: int) -> Tensor:
        if cache.row != i:
            cache.row = i
            row = Run(None, At(cache, i), {})
            self.level(Stream.ABOVE, Both.of(self.rows(None, row.at)), row)
        run = Run(None, At(cache, i, j), {})
        return self._last(self.level(Stream.LEFT, Both.of(self.corner(None, run.at)), run))

    def _maps(self, x: Tensor, c: Tensor | None) -> Tensor:
        run, x = Run(c, None, {}), _with_one(x)
        self.level(Stream.ABOVE, Both.of(self.rows(x)), run)
        return self._last(self.level(Stream.LEFT, Both.of(self.corner(x)), run))

    def _begin(self, cache: Cache, c: Tensor | None) -> None:
        self.level.begin(cache, c)

    def _last(self, h: "Both") -> Tensor:
        return self.out(F.elu(h.h))


class Both(NamedTuple):
    """Features [..., width], and their concat-ELU [..., 2 width], which several layers look at."""

    h: Tensor
    e: Tensor

    @staticmethod
    def of(h: Tensor) -> "Both":
        return Both(h, concat_elu(h))


class Run(NamedTuple):
    """A pass of the streams over maps, a row or a position."""

    c: Tensor | None  # the condition [B, H or 1, W or 1, D]; a cache has it
    at: At | None
    links: dict[nn.Module, Tensor]  # what the stream above gives to the other at each pair of blocks, as maps

    def coarser(self) -> "Run":
        return Run(_halved(self.c), None if self.at is None else self.at.coarser(), self.links)


class Level(nn.Module):
    """Both streams at one resolution, H x W, and between the way down and the way up all coarser ones."""

    def __init__(self, config: PixelCNNPP.Config, size: Shape, channels: int, context: int, below: int):
        super().__init__()
        width, coarser = config.width, below > 0
        self.down = nn.ModuleList(Pair(config, size, channels, context, skip=False) for _ in range(config.blocks))
        self.up = nn.ModuleList(
            Pair(config, size, channels, context, skip=True) for _ in range(config.blocks + coarser)
        )
        self.inner = None
        if coarser:
            half, hidden = tuple(s // 2 for s in size), channel_of(width, channels)
            self.inner = Level(config, half, channels, context, below - 1)
            self.halve = nn.ModuleList(_convolution(s, hidden, hidden, 1.0, stride=2) for s in Stream)
            self.enlarge = nn.ModuleList([Enlarge(width, 3), Enlarge(width, 2, may_see(hidden, hidden, strict=False))])

    def forward(self, stream: Stream, x: Both, run: Run) -> Both:
        seen = [x]
        for pair in self.down:
            seen.append(pair(stream, seen[-1], None, run))
        x = seen.pop() if self.inner is None else self._coarser(stream, seen[-1], run)
        for pair in self.up:
            x = pair(stream, x, seen.pop(), run)
        return x

    def _coarser(self, stream: Stream, x: Both, run: Run) -> Both:
        assert self.inner is not None
        low = self.halve[stream](x.h, run.at)
        if low is not None:
            low = self.inner(stream, Both.of(low), run.coarser()).h
        return Both.of(self.enlarge[stream](low, run.at))

    def begin(self, cache: Cache, c: Tensor | None) -> None:
        """Prepare a cache, given the condition [B, H or 1, W or 1, D]."""
        for pair in (*self.down, *self.up):
            for shift in (m for m in pair.modules() if isinstance(m, Shift)):
                shift.begin(cache, c)
        if self.inner is not None:
            self.inner.begin(cache, _halved(c))


class Pair(nn.Module):
    """A block of each stream, and what the second is given of the first."""

    def __init__(self, config: PixelCNNPP.Config, size: Shape, channels: int, context: int, *, skip: bool):
        super().__init__()
        self.blocks = nn.ModuleList(Block(config, s, size, channels, context, skip=skip) for s in Stream)
        self.link = _linear(channel_of(2 * config.width, 1), channel_of(config.width, 1))

    def forward(self, stream: Stream, x: Both, skip: Both | None, run: Run) -> Both:
        block = self.blocks[stream]
        if stream == Stream.LEFT:
            return block(x, skip, run.links.get(self), run)
        x = block(x, skip, None, run)
        link = self.link(x.e)
        if run.at is None:
            run.links[self] = link
        else:
            self.blocks[Stream.LEFT].begin_row(run.at, link)  # pyright: ignore[reportCallIssue]
        return x


class Block(nn.Module):
    """The gated residual block: h + a * sigmoid(b)."""

    def __init__(
        self, config: PixelCNNPP.Config, stream: Stream, size: Shape, channels: int, context: int, *, skip: bool
    ):
        super().__init__()
        hidden, both = channel_of(config.width, channels), channel_of(config.width, channels, parts=2)
        self.first = _convolution(stream, both, hidden, SQUARE)
        self.second = _convolution(stream, both, both, SQUARE * 100)  # a tenth: the sum begins as nearly h itself
        self.skip = _linear(both, hidden, masked=stream == Stream.LEFT) if skip else None
        self.shift = Shift(2 * config.width, context, size if config.places else None)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Both, skip: Both | None, link: Tensor | None, run: Run) -> Both:
        t = self.first(x.e, run.at)
        if self.skip is not None and skip is not None:
            t = t + self.skip(skip.e)
        if link is not None:
            t = t + link
        gates = self.second(self.dropout(concat_elu(t)), run.at)
        if run.at is None or run.at.j is None:
            gates = gates + self.shift(run.c, run.at)
        return Both.of(x.h + F.glu(gates, -1))

    def begin_row(self, at: At, link: Tensor) -> None:
        """Of the stream to the left: what is the same whatever is drawn in the row."""
        self.first.begin_row(at, link)  # pyright: ignore[reportCallIssue]
        self.second.begin_row(at, self.shift(None, at))  # pyright: ignore[reportCallIssue]


class Enlarge(nn.Module):
    """A transposed convolution of stride 2 from the next coarser level: maps x [B, H, W, F] -> [B, 2H, 2W, F].

    Kernel (2, columns): position (i, j) reaches the rows 2i and 2i + 1 and there the columns 2j and 2j + 1, with 3
    columns 2j - 1 too. At a row of the finer level, x [B, W, F] -> [B, 2W, F], or a position [B, F] -> [B, F]: what x
    reaches is kept, and x is None at rows and positions for which there is no new one.

    seen: [O, I], which inputs an output may see; None for all.
    """

    mask: Tensor | None

    def __init__(self, width: int, columns: int, seen: Tensor | None = None):
        super().__init__()
        conv = nn.ConvTranspose2d(width, width, (2, columns))
        assert conv.bias is not None
        masked = seen is not None and not bool(seen.all())
        mask = seen.T[:, :, None, None].to(conv.weight) if seen is not None and masked else None
        self.register_buffer("mask", mask, persistent=False)
        self.weight = nn.Parameter(noise.randn_like(conv.weight) / (width * columns / 2) ** 0.5)
        self.bias = nn.Parameter(torch.zeros_like(conv.bias))
        self.side = columns - 2

    def forward(self, x: Tensor | None, at: At | None = None) -> Tensor:
        if at is None:
            assert x is not None
            return self._maps(x)
        kept = self._kept(at.cache)
        row, j = kept[:, at.i % 2], at.j
        if j is None:
            if x is not None:
                kept[:] = self._maps(x[:, None])
            return row
        if x is not None:
            kept[:, :, j : j + 2] = self._maps(x[:, None, None])
        return row[:, j]

    def _maps(self, x: Tensor) -> Tensor:
        weight = self.weight if self.mask is None else self.weight * self.mask
        t = F.conv_transpose2d(x.permute(0, 3, 1, 2), weight, self.bias, 2, (0, self.side), (0, self.side))
        return t.permute(0, 2, 3, 1)

    def _kept(self, cache: Cache) -> Tensor:
        """The two rows that the last one reaches: [B, 2, W, F]."""
        if self not in cache.layers:
            cache.layers[self] = cache.zeros(2, cache.size[1], len(self.bias))
        return cache.layers[self]


def concat_elu(h: Tensor) -> Tensor:
    """elu of the features and of their negatives: [..., F] -> [..., 2F]."""
    return F.elu(torch.cat([h, -h], -1), inplace=True)


def _convolution(
    stream: Stream, inputs: Tensor, outputs: Tensor, square: float, *, stride: int = 1
) -> RowConv | MaskedConv:
    """The stream's convolution between features of these channels; inputs are of this mean square."""
    if stream == Stream.ABOVE:
        conv = RowConv(len(inputs), len(outputs), (2, 3), stride=stride)
    else:
        centre = may_see(outputs, inputs, strict=False)
        conv = MaskedConv(len(inputs), len(outputs), (2, 2), centre=centre, stride=stride)
    _scale(conv.weight, square)
    nn.init.zeros_(conv.bias)
    return conv


def _linear(inputs: Tensor, outputs: Tensor, *, masked: bool = False) -> MaskedLinear:
    linear = MaskedLinear(len(inputs), len(outputs), may_see(outputs, inputs, strict=False) if masked else None)
    _scale(linear.weight, SQUARE)
    nn.init.zeros_(linear.bias)
    return linear


@torch.no_grad()
def _scale(weight: Tensor, square: float) -> None:
    """From torch's initial weights, of variance 1 / (3 inputs), to outputs of variance 1 for inputs of this square."""
    weight.mul_((3 / square) ** 0.5)


def _with_one(x: Tensor) -> Tensor:
    """x [..., F] with another feature that is 1."""
    return F.pad(x, (0, 1), value=1.0)


def _halved(c: Tensor | None) -> Tensor | None:
    """The condition [B, H or 1, W or 1, D] for maps half as large."""
    if c is None or c.shape[1] == 1 == c.shape[2]:
        return c
    return F.avg_pool2d(c.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)


def _check_size(size: Shape, levels: int) -> None:
    """Raise ConfigError unless maps of this size can be halved for all levels."""
    factor = 2 ** (levels - 1)
    if any(s % factor for s in size):
        fit = "x".join(str(max(factor, round(s / factor) * factor)) for s in size)
        most = min((s & -s).bit_length() for s in size)
        raise ConfigError(
            f"model.network.levels: {levels} levels need a height and a width that are multiples of {factor} (such as "
            f"{fit}), got {'x'.join(map(str, size))}; set data.size, or levels={most} or fewer"
        )

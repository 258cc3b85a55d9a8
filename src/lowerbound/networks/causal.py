"""Causal networks: what comes out at a position depends on the input at earlier positions alone.

Inside, tensors have their channels last: a map [B, H, W, F], a row of it [B, W, F], a position [B, F]. Layers that
work position by position take any of them, so that each network's pass is written once, and runs over whole maps in
training or over a single position in sampling. What a position needs of earlier ones is kept in a `Cache` by the layers
that look around: the convolutions, the attention and the recurrences.
"""

import copy
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lowerbound import noise
from lowerbound.config import Component
from lowerbound.devices import Reducible
from lowerbound.errors import ConfigError
from lowerbound.networks.base import Shape

T = TypeVar("T")


class Cache:
    """What a network remembers of n images that are drawn position by position."""

    def __init__(self, n: int, size: Shape, features: int, like: Tensor):
        self.n = n
        self.size = size
        self.like = like  # a tensor of the type and on the device that all are made of
        self.x = like.new_zeros(n, *size, features)  # what has been put
        self.row = -1  # the row that was last begun
        self.layers: dict[nn.Module, Any] = {}
        self.held = self.x.numel()  # numbers that are kept

    def zeros(self, *shape: int) -> Tensor:
        """Zeros [n, *shape]."""
        made = self.like.new_zeros(self.n, *shape)
        self.held += made.numel()
        return made

    def coarser(self) -> "Cache":
        """The same memory, for layers whose maps are half as large."""
        half = copy.copy(self)
        half.size = tuple(s // 2 for s in self.size)
        return half


class At(NamedTuple):
    """Where a pass is: position (i, j) of the images in the cache, or all of row i where j is None."""

    cache: Cache
    i: int
    j: int | None = None

    def of(self, maps: Tensor) -> Tensor:
        """The position or row of maps [B or 1, H or 1, W or 1, F]."""
        row = maps[:, self.i if maps.shape[1] > 1 else 0]
        return row if self.j is None else row[:, self.j if maps.shape[2] > 1 else 0]

    def coarser(self) -> "At":
        """Where that is in maps half as large."""
        return At(self.cache.coarser(), self.i // 2, None if self.j is None else self.j // 2)

    def between(self, stride: int) -> bool:
        """Whether it is none of the places that a convolution with this stride puts something out for."""
        return bool(self.i % stride or (self.j or 0) % stride)


class CausalNetwork(Reducible):
    """x [B, F, H, W], c -> h [B, P, H, W], where h at a position depends on x at earlier positions alone.

    The order is that of reading: row by row, from left to right. With `channels` > 1 the features of a position are in
    order as well: feature k of x, and output k of h, is of channel k % channels, and an output depends on all earlier
    positions and, at its own, on the earlier channels.

    The condition c: [B, D, 1, 1], or a map [B, D, H, W]; it reaches every output.

    `start`, `put` and `step` do the same for a single position, for a constant amount of work (attention: a growing
    one): put what is at a position, as far as it is known, and step to what comes out there. Both may be repeated.
    Subclasses are final, with a nested Config.

    Example:
        >>> from lowerbound.networks.pixelcnn import PixelCNN
        >>> net = PixelCNN.Config(blocks=1).build((1, 8, 8), (1, 8, 8))
        >>> net(torch.zeros(2, 1, 8, 8)).shape, net.step(net.start(2), 0, 0).shape
        (torch.Size([2, 1, 8, 8]), torch.Size([2, 1]))
    """

    class Config(Component, abstract=True):
        @abstractmethod
        def build(self, in_shape: Shape, out_shape: Shape, *, channels: int = 1, context: int = 0) -> "CausalNetwork":
            """in_shape (F, H, W), out_shape (P, H, W). Raises ConfigError for a size that the network can't take."""

        @classmethod
        @abstractmethod
        def example(cls) -> tuple["CausalNetwork.Config", Shape]:
            """The smallest valid instance: configuration, and the size (H, W) it is checked with."""

    def __init__(self, in_shape: Shape):
        super().__init__()
        self.in_shape = in_shape

    @property
    def order(self) -> list[tuple[int, int]]:
        """The positions (i, j) in the order in which they are seen: that of reading."""
        H, W = self.in_shape[1:]
        return [(i, j) for i in range(H) for j in range(W)]

    def forward(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        c = None if c is None else c.permute(0, 2, 3, 1)
        return self._maps(x.permute(0, 2, 3, 1), c).permute(0, 3, 1, 2)

    def start(self, n: int, c: Tensor | None = None) -> Cache:
        """A cache for n images, given c [n or 1, D, 1, 1] or [n or 1, D, H, W]."""
        cache = Cache(n, self.in_shape[1:], self.in_shape[0], next(self.parameters()))
        self._begin(cache, None if c is None else c.permute(0, 2, 3, 1))
        return cache

    def put(self, cache: Cache, x: Tensor, i: int, j: int) -> None:
        """x [n, F]: the features at (i, j); those of channels that are not known yet may be anything."""
        cache.x[:, i, j] = x
        for conv in self._inputs():
            conv.put(x, At(cache, i, j))

    @abstractmethod
    def step(self, cache: Cache, i: int, j: int) -> Tensor:
        """h at (i, j), [n, P]; every earlier position has been put and stepped through, in order."""

    @abstractmethod
    def _maps(self, x: Tensor, c: Tensor | None) -> Tensor:
        """x [B, H, W, F] -> h [B, H, W, P]."""

    def _begin(self, cache: Cache, c: Tensor | None) -> None:
        """Prepare a cache, given the condition [B, H or 1, W or 1, D]."""
        cache.held += 0 if c is None else c.numel()
        for module in self.modules():
            if isinstance(module, Shift):
                module.begin(cache, c)

    def _inputs(self) -> Sequence["MaskedConv | RowConv"]:
        """The convolutions that look at x itself, to which `put` gives it."""
        return ()


def may_see(outputs: Tensor, inputs: Tensor, *, strict: bool) -> Tensor:
    """[O, I]: whether an output of a channel may depend on an input of one at its own position."""
    return outputs[:, None] > inputs if strict else outputs[:, None] >= inputs


def channel_of(features: int, channels: int, parts: int = 1) -> Tensor:
    """The channel that each of `features` belongs to, in turn; for `parts` stacked alike: [parts * features]."""
    return (torch.arange(features) % channels).repeat(parts)


def recomputed(layer: Callable[..., T], *inputs: Any, when: bool) -> T:
    """layer(*inputs); `when` true, nothing inside is kept for its gradient, but computed again, with the same dropout.

    Chen et al. (2016), Training Deep Nets with Sublinear Memory Cost, https://arxiv.org/abs/1604.06174.
    """
    if when and torch.is_grad_enabled():
        return checkpoint(  # pyright: ignore[reportReturnType]
            layer, *inputs, use_reentrant=False, preserve_rng_state=not noise.is_seeded(), context_fn=noise.twice
        )
    return layer(*inputs)


def check_heads(width: int, heads: int, after: Sequence[int], layers: int) -> None:
    """Raise ConfigError unless attention with so many heads can follow these of the layers, counted from 1."""
    if after and width % heads:
        raise ConfigError(f"model.network.heads: expected a divisor of the width {width}, got {heads}")
    if any(not 1 <= b <= layers for b in after) or len(set(after)) < len(after):
        raise ConfigError(f"model.network.attention: expected numbers from 1 to {layers}, once each, got {list(after)}")


class MaskedConv(nn.Module):
    """A convolution over the rows above a position and, in its own row, what is to the left.

    Kernel (kh, kw): kh - 1 rows above and the own row; `right` of the kw columns lie to the right of the position, and
    are not seen in the own row. Only rows and columns that may be seen are computed, save those: van den Oord et al.
    (2016), Pixel Recurrent Neural Networks, section 3.4, without the lower half of the kernel.

    centre: [O, I], which inputs an output may see at the position itself; a bool for all alike: mask B, or A.

    stride: of the places (i, j), only those that it divides both of.

    x: maps [B, H, W, I] -> [B, H / stride, W / stride, O]. At a position: x [B, I] -> [B, O], or None between those
    places; None for x where it has been put.
    """

    mask: Tensor

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: tuple[int, int],
        *,
        right: int = 0,
        centre: Tensor | bool,
        stride: int = 1,
    ):
        super().__init__()
        kw = kernel[1]
        self.stride = stride
        self.kernel, self.left, self.right = kernel, kw - 1 - right, right
        conv = nn.Conv2d(inputs, outputs, kernel)
        # --8<-- [start:mask]
        mask = torch.ones_like(conv.weight)
        mask[:, :, -1, kw - right :] = 0
        mask[:, :, -1, self.left] = torch.as_tensor(centre).to(mask)
        # --8<-- [end:mask]
        assert conv.bias is not None
        weight = conv.weight.detach() * mask / mask.mean().sqrt()  # for as many inputs as are seen
        self.weight = nn.Parameter(weight.to(memory_format=torch.channels_last))
        self.bias = nn.Parameter(conv.bias.detach())
        self.masked = not bool(mask.all())
        self.register_buffer("mask", mask, persistent=False)

    @property
    def seen(self) -> Tensor:
        """The weights [O, I, kh, kw], zero at what is not seen."""
        return self.weight * self.mask if self.masked else self.weight

    def forward(self, x: Tensor | None, at: At | None = None) -> Tensor | None:
        if at is not None:
            return self._at(x, at)
        assert x is not None
        padded = F.pad(x, (0, 0, self.left, self.right, self.kernel[0] - 1, 0)).permute(0, 3, 1, 2)
        # a single input channel would give a map whose channels come first
        return F.conv2d(padded, self.seen, self.bias, self.stride).permute(0, 2, 3, 1).contiguous()

    def put(self, x: Tensor, at: At) -> None:
        self._state(at.cache).x[:, at.i + self.kernel[0] - 1, at.j + self.left] = x  # pyright: ignore[reportOptionalOperand]

    def _state(self, cache: Cache) -> "_Around":
        if self not in cache.layers:
            cache.layers[self] = _Around(self, cache)
        return cache.layers[self]

    def _at(self, x: Tensor | None, at: At) -> Tensor | None:
        if x is not None:
            self.put(x, at)
        if at.between(self.stride):
            return None
        state, j = self._state(at.cache), at.j
        assert j is not None
        if state.row != at.i:
            state.begin_row(at.i, 0.0)
        own = state.x[:, at.i + state.rows, j : j + self.left + 1].flatten(1)  # [B, (left + 1) * I]
        return torch.addmm(state.above[j], own, state.own)

    def begin_row(self, at: At, more: Tensor | float) -> None:
        """Prepare a row, to every position of which something known is added: more [B or 1, W or 1, O]."""
        self._state(at.cache).begin_row(at.i, more)


class _Around:
    """The inputs of a masked convolution so far, and what the rows above add to each position of the row."""

    def __init__(self, conv: MaskedConv, cache: Cache):
        (H, W), (kh, _), weight = cache.size, conv.kernel, conv.seen
        self.bias = conv.bias
        self.rows = kh - 1
        self.x = cache.zeros(H + kh - 1, W + conv.left + conv.right, weight.shape[1])
        self.over = weight[:, :, :-1]  # [O, I, kh - 1, kw]
        self.own = weight[:, :, -1, : conv.left + 1].permute(2, 1, 0).flatten(0, 1)  # [(left + 1) * I, O]
        self.row = -1
        self.nothing = self.bias.expand(1, W, -1)  # [B or 1, W, O]
        self.above = self.nothing  # [W, B or 1, O]

    def begin_row(self, i: int, more: Tensor | float) -> None:
        self.row = i
        above = self.nothing
        if self.rows:
            rows = self.x[:, i : i + self.rows].permute(0, 3, 1, 2)
            above = F.conv2d(rows, self.over, self.bias)[:, :, 0].transpose(1, 2)
        self.above = (above + more).transpose(0, 1).contiguous()


class RowConv(nn.Module):
    """A convolution over whole rows: the kh - 1 rows above and the own one, or with `strict` the kh rows above.

    stride: of the places (i, j), only those that it divides both of.

    x: maps [B, H, W, I] -> [B, H / stride, W / stride, O]. At a row: x [B, W, I] -> [B, W / stride, O], or None between
    those rows; None for x where it has been put.
    """

    def __init__(self, inputs: int, outputs: int, kernel: tuple[int, int], *, strict: bool = False, stride: int = 1):
        super().__init__()
        kh, kw = kernel
        self.stride = stride
        self.top, self.side, self.strict = kh - 1 + strict, kw // 2, strict
        conv = nn.Conv2d(inputs, outputs, (kh, 2 * self.side + 1))
        assert conv.bias is not None
        self.weight = nn.Parameter(conv.weight.detach().to(memory_format=torch.channels_last))
        self.bias = nn.Parameter(conv.bias.detach())

    def forward(self, x: Tensor | None, at: At | None = None) -> Tensor | None:
        if at is not None:
            if x is not None:
                self._rows(at.cache)[:, at.i + self.top, self.side : self.side + x.shape[1]] = x
            if at.between(self.stride):
                return None
            window = self._rows(at.cache)[:, at.i : at.i + self.weight.shape[2]].permute(0, 3, 1, 2)
            return F.conv2d(window, self.weight, self.bias, self.stride)[:, :, 0].transpose(1, 2)
        assert x is not None
        padded = F.pad(x, (0, 0, self.side, self.side, self.top, -1 if self.strict else 0))
        return (
            F.conv2d(padded.permute(0, 3, 1, 2), self.weight, self.bias, self.stride).permute(0, 2, 3, 1).contiguous()
        )

    def put(self, x: Tensor, at: At) -> None:
        assert at.j is not None
        self._rows(at.cache)[:, at.i + self.top, at.j + self.side] = x

    def _rows(self, cache: Cache) -> Tensor:
        """The inputs so far: [B, top + H, side + W + side, I]."""
        if self not in cache.layers:
            H, W = cache.size
            cache.layers[self] = cache.zeros(self.top + H, W + 2 * self.side, self.weight.shape[1])
        return cache.layers[self]


class MaskedLinear(nn.Linear):
    """A linear map position by position, [..., I] -> [..., O], of which `seen` [O, I] says what may be seen.

    seen: None where all of it may.
    """

    mask: Tensor | None

    def __init__(self, inputs: int, outputs: int, seen: Tensor | None = None, *, bias: bool = True):
        super().__init__(inputs, outputs, bias)
        masked = seen is not None and not bool(seen.all())
        self.register_buffer(
            "mask", seen.to(self.weight.dtype) if seen is not None and masked else None, persistent=False
        )

    @property
    def seen(self) -> Tensor:
        """The weights [O, I], zero at what is not seen."""
        return self.weight if self.mask is None else self.weight * self.mask

    def forward(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return F.linear(x, self.seen, self.bias)


class Shift(nn.Module):
    """What a layer adds whatever the image: for the condition and, with `places`, for the place.

    c: [B, H or 1, W or 1, D] -> [B or 1, H or 1, W or 1, width]; 0.0 where there is neither. In sampling, c is what
    `begin` was given, and a row of the result is computed when it is first asked for.
    """

    def __init__(self, width: int, context: int, places: Shape | None = None):
        super().__init__()
        self.context = nn.Linear(context, width, bias=False) if context else None
        self.places = nn.Parameter(torch.zeros(1, *places, width)) if places else None

    def forward(self, c: Tensor | None, at: At | None = None) -> Tensor | float:
        if at is not None:
            return self._at(at)
        given = self.context(c) if self.context is not None and c is not None else 0.0
        return given if self.places is None else given + self.places

    def begin(self, cache: Cache, c: Tensor | None) -> None:
        """Prepare a cache, given c."""
        cache.layers[self] = _Row(c)

    def _at(self, at: At) -> Tensor | float:
        """At a position [B or 1, width], or a row [B or 1, W or 1, width]."""
        row: _Row = at.cache.layers[self]
        if row.i != at.i:
            row.i, row.more = at.i, self._row(row.c, At(at.cache, at.i))
        if at.j is None or not isinstance(row.more, Tensor):
            return row.more
        return row.more[:, at.j if row.more.shape[1] > 1 else 0]

    def _row(self, c: Tensor | None, at: At) -> Tensor | float:
        given = self.context(at.of(c)) if self.context is not None and c is not None else 0.0
        return given if self.places is None else given + at.of(self.places)


class _Row:
    """The condition, and what a layer adds to the row that was last asked for."""

    def __init__(self, c: Tensor | None):
        self.c, self.i = c, -1
        self.more: Tensor | float = 0.0

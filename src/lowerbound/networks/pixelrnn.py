"""PixelRNN: residual layers of LSTMs that run over the rows of an image, or over its diagonals."""

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from itertools import pairwise

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from lowerbound.networks.base import Dropout, Shape
from lowerbound.networks.causal import At, Cache, CausalNetwork, MaskedConv, MaskedLinear, Shift, channel_of, may_see


class PixelRNN(CausalNetwork):
    """What the two have in common, of van den Oord et al. (2016), Pixel Recurrent Neural Networks, table 1,
    https://arxiv.org/abs/1601.06759.

    A convolution with mask A, residual layers of states with mask B (figure 5), and two more layers position by
    position. A layer's states have h features, what goes from layer to layer 2h.
    """

    class Config(CausalNetwork.Config, abstract=True):
        width: int = Field(default=32, gt=0)  # features of a state: h
        layers: int = Field(default=7, gt=0)  # of LSTMs
        first_kernel: int = Field(default=7, gt=1)  # width of the first convolution
        out_width: int = Field(default=64, gt=0)  # of the layer before the last
        skip: bool = False  # whether every layer's states also go to the last two layers directly (section 3.3)
        dropout: float = Field(default=0.0, ge=0, lt=1)  # share of the features that training leaves out

    def __init__(self, config: Config, states: Iterable["States"], in_shape: Shape, out_shape: Shape, channels: int):
        super().__init__(in_shape)
        inputs, outputs = channel_of(in_shape[0], channels), channel_of(out_shape[0], channels)
        hidden, last = channel_of(2 * config.width, channels), channel_of(config.out_width, channels)
        kernel = (config.first_kernel // 2 + 1, config.first_kernel // 2 * 2 + 1)
        centre = may_see(hidden, inputs, strict=True)
        self.first = MaskedConv(in_shape[0], 2 * config.width, kernel, right=kernel[1] // 2, centre=centre)
        self.layers = nn.ModuleList(Layer(config, s, channels) for s in states)
        self.mix = MaskedLinear(2 * config.width, config.out_width, may_see(last, hidden, strict=False))
        self.out = MaskedLinear(config.out_width, out_shape[0], may_see(outputs, last, strict=False))

    @property
    def apart(self) -> Iterable[nn.Module]:
        return self.layers

    def _maps(self, x: Tensor, c: Tensor | None) -> Tensor:
        return self._rest(self.first(x), x, c, None)

    def step(self, cache: Cache, i: int, j: int) -> Tensor:
        at = At(cache, i, j)
        return self._rest(self.first(None, at), cache.x[:, i, j], None, at)

    def _inputs(self) -> tuple[MaskedConv, ...]:
        return (self.first,)

    def _rest(self, h: Tensor, x: Tensor, c: Tensor | None, at: At | None) -> Tensor:
        skipped = 0.0
        for layer in self.layers:
            h, more = layer(h, x, c, at)
            skipped = skipped + more
        return self.out(F.relu(self.mix(F.relu(h + skipped))))


class RowLSTM(PixelRNN):
    r"""The Row LSTM (section 3.1): the states of a row at once, from those of the row above.

    .. math:: [o_i, f_i, i_i, g_i] = \sigma(K^{ss} * h_{i-1} + K^{is} * x_i), \quad
        c_i = f_i \odot c_{i-1} + i_i \odot g_i, \quad h_i = o_i \odot \tanh(c_i)

    (eq. 3, for row i; tanh for g). It does not see all earlier positions: a state sees a triangle above it (figure 4),
    which begins as wide as the first kernel and widens by half a kernel with each row; what is further to the right, or
    to the left, is in a blind spot.

    Example:
        >>> net = RowLSTM.Config(width=8, layers=2).build((1, 8, 8), (1, 8, 8))
        >>> net(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 1, 8, 8])
    """

    class Config(PixelRNN.Config):
        kernel: int = Field(default=3, gt=1)  # columns, of the row above; in the own row half of it, and the own

        def build(self, in_shape: Shape, out_shape: Shape, *, channels: int = 1, context: int = 0) -> "RowLSTM":
            return RowLSTM(self, in_shape, out_shape, channels, context)

        @classmethod
        def example(cls) -> tuple["RowLSTM.Config", Shape]:
            return cls(width=4, layers=2, first_kernel=3, out_width=6, skip=True), (2, 2)

    def __init__(self, config: Config, in_shape: Shape, out_shape: Shape, channels: int, context: int):
        states = (RowStates(config.width, config.kernel, channels, context) for _ in range(config.layers))
        super().__init__(config, states, in_shape, out_shape, channels)


class DiagonalBiLSTM(PixelRNN):
    r"""The Diagonal BiLSTM (section 3.2): the states of a diagonal at once, in both directions, which see all of the
    image above and to the left.

    Eq. 3 as in `RowLSTM`, where i counts the diagonals and K^ss is of two neighbours: the one above, and the one to the
    left or, in the leftward direction, to the right, whose cell goes on. The leftward states are moved down by a row
    before the two maps are added, so that none sees what comes later.

    Not as in the paper: its features know nothing of their own position (mask A), and so the leftward states, which
    are used a row lower, nothing of the last position of the row above, unless the first kernel reaches it. Here they
    are also made of the input x at their positions, and of all channels there; thus there is no blind spot.

    Example:
        >>> net = DiagonalBiLSTM.Config(width=8, layers=2).build((3, 8, 8), (3 * 256, 8, 8), channels=3)
        >>> net(torch.zeros(2, 3, 8, 8)).shape
        torch.Size([2, 768, 8, 8])
    """

    class Config(PixelRNN.Config):
        def build(self, in_shape: Shape, out_shape: Shape, *, channels: int = 1, context: int = 0) -> "DiagonalBiLSTM":
            return DiagonalBiLSTM(self, in_shape, out_shape, channels, context)

        @classmethod
        def example(cls) -> tuple["DiagonalBiLSTM.Config", Shape]:
            return cls(width=4, layers=2, first_kernel=3, out_width=6), (2, 2)

    def __init__(self, config: Config, in_shape: Shape, out_shape: Shape, channels: int, context: int):
        states = (DiagonalStates(config.width, in_shape, channels, context) for _ in range(config.layers))
        super().__init__(config, states, in_shape, out_shape, channels)


class Layer(nn.Module):
    """h + up(states(h)), and what goes directly to the last layers, or 0 (figure 5)."""

    def __init__(self, config: PixelRNN.Config, states: "States", channels: int):
        super().__init__()
        narrow, wide = channel_of(config.width, channels), channel_of(2 * config.width, channels)
        seen = may_see(wide, narrow, strict=False)
        self.states = states
        self.up = MaskedLinear(config.width, 2 * config.width, seen)
        self.skip = MaskedLinear(config.width, 2 * config.width, seen, bias=False) if config.skip else None
        self.dropout = Dropout(config.dropout)

    def forward(self, h: Tensor, x: Tensor, c: Tensor | None, at: At | None) -> tuple[Tensor, Tensor | float]:
        states = self.dropout(self.states(h, x, c) if at is None else self.states.at(h, x, at))
        return h + self.up(states), 0.0 if self.skip is None else self.skip(states)


def lstm(gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """State and cell [..., h] from the sums [o, f, i, g] [..., 4h] and the cell before (eq. 3)."""
    width = cell.shape[-1]
    o, f, i = gates[..., : 3 * width].sigmoid().chunk(3, -1)
    cell = f * cell + i * gates[..., 3 * width :].tanh()
    return o * cell.tanh(), cell


class States(nn.Module):
    """The states of a layer, [..., h], from what comes into it, h [..., 2h], and the input x [..., F]; abstract."""

    @abstractmethod
    def forward(self, h: Tensor, x: Tensor, c: Tensor | None) -> Tensor:
        """h [B, H, W, 2h] -> [B, H, W, h]."""

    @abstractmethod
    def at(self, h: Tensor, x: Tensor, at: At) -> Tensor:
        """h [B, 2h] -> [B, h]."""


class RowStates(States):
    """States by rows: K^is is `input`, masked, along the own row; K^ss is `state`, over the states of the row above."""

    def __init__(self, width: int, kernel: int, channels: int, context: int):
        super().__init__()
        self.width, self.side = width, kernel // 2
        wide, gates = channel_of(2 * width, channels), channel_of(width, channels, parts=4)
        self.input = MaskedConv(2 * width, 4 * width, (1, self.side + 1), centre=may_see(gates, wide, strict=False))
        self.state = nn.Linear((2 * self.side + 1) * width, 4 * width, bias=False)
        self.shift = Shift(4 * width, context)

    def forward(self, h: Tensor, x: Tensor, c: Tensor | None) -> Tensor:
        given = (self.input(h) + self.shift(c)).transpose(0, 1)  # [H, B, W, 4h]
        state = cell = given.new_zeros(*given.shape[1:3], self.width)
        states = []
        for row in given.unbind(0):
            state, cell = lstm(row + self.state(self._around(state)), cell)
            states.append(state)
        return torch.stack(states, 1)

    def _around(self, state: Tensor) -> Tensor:
        """A row of states [B, W, h] -> those under the kernel at each position, [B, W, kernel * h]."""
        padded = F.pad(state, (0, 0, self.side, self.side))
        W = state.shape[1]
        return torch.cat([padded[:, k : k + W] for k in range(2 * self.side + 1)], -1)

    def at(self, h: Tensor, x: Tensor, at: At) -> Tensor:
        if self not in at.cache.layers:
            at.cache.layers[self] = _Rows(self, at.cache)
        rows: _Rows = at.cache.layers[self]
        if rows.row != at.i:
            rows.begin_row(at.i)
        gates = self.input(h, at) + rows.from_above[:, at.j] + self.shift(None, at)
        rows.state[:, at.j], rows.cell[:, at.j] = lstm(gates, rows.cell_above[:, at.j])
        return rows.state[:, at.j]


class _Rows:
    """The states and cells [B, W, h] of the row so far, and what the row above gives to it."""

    def __init__(self, states: RowStates, cache: Cache):
        self.states = states
        self.row = -1
        self.state, self.cell = (cache.zeros(cache.size[1], states.width) for _ in range(2))

    def begin_row(self, i: int) -> None:
        self.row = i
        self.cell_above = self.cell.clone()
        self.from_above = self.states.state(self.states._around(self.state))  # [B, W, 4h]


class DiagonalStates(States):
    """States by diagonals: K^is is `right` and `left`, for the two directions; K^ss is `state`, over the states of the
    neighbours in the row and above.
    """

    def __init__(self, width: int, in_shape: Shape, channels: int, context: int):
        super().__init__()
        self.width = width
        wide, gates = channel_of(2 * width, channels), channel_of(width, channels, parts=4)
        self.right = MaskedLinear(2 * width, 4 * width, may_see(gates, wide, strict=False))
        self.left = nn.Linear(2 * width + in_shape[0], 4 * width)
        linear = [nn.Linear(2 * width, 4 * width, bias=False).weight.detach().T for _ in range(2)]
        self.state = nn.Parameter(torch.stack(linear))  # [2, 2h, 4h]
        self.shift_right, self.shift_left = Shift(4 * width, context), Shift(4 * width, context)
        self.diagonals = Diagonals(*in_shape[1:])

    def forward(self, h: Tensor, x: Tensor, c: Tensor | None) -> Tensor:
        right = self.right(h) + self.shift_right(c)
        left = self.left(torch.cat([h, x], -1)) + self.shift_left(c)
        right, left = self._both(torch.stack([right, left.flip(2)])).unbind(0)
        return right + F.pad(left.flip(2), (0, 0, 0, 0, 1, -1))

    def _both(self, given: Tensor) -> Tensor:
        """The states of both directions, each from left to right: [2, B, H, W, 4h] -> [2, B, H, W, h]."""
        B = given.shape[1]
        state = cell = given.new_zeros(2, 0, B, self.width)  # [2, rows of the diagonal, B, h]
        states = []
        for gates, above in self.diagonals.split(given):
            n = gates.shape[1]
            own = slice(above + 1, above + 1 + n)
            state, cell = (F.pad(t, (0, 0, 0, 0, 1, 1)) for t in (state, cell))
            around = torch.cat([state[:, own], state[:, above : above + n]], -1)
            sums = torch.baddbmm(gates.flatten(1, 2), around.flatten(1, 2), self.state)
            state, cell = lstm(sums.unflatten(1, (n, B)), cell[:, own])
            states.append(state)
        return self.diagonals.join(states)

    def at(self, h: Tensor, x: Tensor, at: At) -> Tensor:
        if self not in at.cache.layers:
            at.cache.layers[self] = _Diagonals(self, at.cache)
        kept: _Diagonals = at.cache.layers[self]
        if kept.row != at.i:
            kept.begin_row(at.i)
        return kept.step(h, at)


class _Diagonals:
    """The rightward states and cells of the row so far and the leftward states of the row above, [B, W + 1, h]; where a
    direction begins there is a column of zeros.
    """

    def __init__(self, states: DiagonalStates, cache: Cache):
        self.states, self.cache = states, cache
        self.row = -1
        W = cache.size[1]
        self.inputs = cache.zeros(W, states.right.in_features)  # of the row so far
        self.right, self.right_cell, self.left = (cache.zeros(W + 1, states.width) for _ in range(3))
        self.above = self.right  # the rightward states of the row above

    def begin_row(self, i: int) -> None:
        self.row = i
        self.above = self.right.clone()
        if i:
            self._leftward(At(self.cache, i - 1))

    def _leftward(self, at: At) -> None:
        """The leftward states of a row that is complete, from those of the row above it."""
        net = self.states
        given = net.left(torch.cat([self.inputs, self.cache.x[:, at.i]], -1)) + net.shift_left(None, at)
        state, cell = torch.zeros_like(self.left), self.cache.zeros(net.width)
        for j in reversed(range(given.shape[1])):
            around = torch.cat([state[:, j + 1], self.left[:, j]], -1)
            state[:, j], cell = lstm(given[:, j] + around @ net.state[1], cell)
        self.left = state

    def step(self, h: Tensor, at: At) -> Tensor:
        j, net = at.j, self.states
        assert j is not None
        self.inputs[:, j] = h
        around = torch.cat([self.right[:, j], self.above[:, j + 1]], -1)
        sums = net.right(h) + net.shift_right(None, at) + around @ net.state[0]
        self.right[:, j + 1], self.right_cell[:, j + 1] = lstm(sums, self.right_cell[:, j])
        return self.right[:, j + 1] + self.left[:, j]


class Diagonals(nn.Module):
    """The positions of maps in the order of their diagonals, each from its top row down: the skewed map of figure 3,
    without what would be added at the edges.
    """

    order: Tensor
    back: Tensor

    def __init__(self, H: int, W: int):
        super().__init__()
        diagonal = torch.arange(H)[:, None] + torch.arange(W)
        order = diagonal.flatten().argsort(stable=True)
        self.register_buffer("order", order, persistent=False)
        self.register_buffer("back", order.argsort(), persistent=False)
        self.size = (H, W)
        tops = [0, *(max(0, d - W + 1) for d in range(H + W - 1))]
        self.lengths = [min(d, H - 1) - top + 1 for d, top in enumerate(tops[1:])]
        self.downs = [b - a for a, b in pairwise(tops)]

    def split(self, maps: Tensor) -> Iterator[tuple[Tensor, int]]:
        """[2, B, H, W, F] -> each diagonal [2, rows, B, F], and how many rows its first is below the last one's."""
        ordered = maps.flatten(2, 3).transpose(1, 2).index_select(1, self.order)
        return zip(ordered.split(self.lengths, 1), self.downs, strict=True)

    def join(self, diagonals: list[Tensor]) -> Tensor:
        """Each diagonal [2, rows, B, F] -> [2, B, H, W, F]."""
        ordered = torch.cat(diagonals, 1).index_select(1, self.back)
        return ordered.unflatten(1, self.size).movedim(3, 1)

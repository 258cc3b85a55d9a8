"""MADE: dense layers over all positions of an image, masked so that outputs depend on earlier inputs alone."""

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from lowerbound.networks.base import Dropout, Shape
from lowerbound.networks.causal import Cache, CausalNetwork, MaskedLinear, channel_of
from lowerbound.networks.mlp import ACTIVATIONS, Activation, Widths


class MADE(CausalNetwork):
    r"""MADE of Germain et al. (2015), Masked Autoencoder for Distribution Estimation, https://arxiv.org/abs/1502.03509.

    Inputs and outputs have the degrees d = 1 to D in the order of reading, the channels of a position innermost; hidden
    unit k of K has the degree floor(k D / K), from 0 on, so that each degree has as many units but for one, and the
    units of a degree are neighbours. What may be seen (their eq. 12 and 13, with one degree m for each unit):

    .. math:: m^l_k \ge m^{l-1}_{k'} \text{ in hidden layers}, \quad d > m^L_k \text{ in outputs}, \quad d > d'
        \text{ directly}

    The condition is added in every hidden layer and to the outputs; units of degree 0 see nothing else. A unit sees all
    of a vector, and of a map what is at the position that follows its inputs.

    One order and one connectivity: the ensembles over several of both in their section 4 are left out, since drawing
    from one costs as many networks.

    Example:
        >>> net = MADE.Config(hidden=(100, 100)).build((3, 4, 4), (3 * 256, 4, 4), channels=3)
        >>> net(torch.zeros(2, 3, 4, 4)).shape
        torch.Size([2, 768, 4, 4])
    """

    class Config(CausalNetwork.Config):
        hidden: Widths = (1000,)  # widths of the hidden layers
        activation: Activation = "relu"  # of the hidden layers: relu, tanh, leaky_relu …
        direct: bool = True  # whether outputs also see inputs directly
        dropout: float = Field(default=0.0, ge=0, lt=1)  # share of the units that training leaves out

        def build(self, in_shape: Shape, out_shape: Shape, *, channels: int = 1, context: int = 0) -> "MADE":
            return MADE(self, in_shape, out_shape, channels, context)

        @classmethod
        def example(cls) -> tuple["MADE.Config", Shape]:
            return cls(hidden=(9, 8), activation="tanh"), (2, 2)

    def __init__(self, config: Config, in_shape: Shape, out_shape: Shape, channels: int, context: int):
        super().__init__(in_shape)
        size = in_shape[1:]
        self.positions, self.outputs_each = size[0] * size[1], out_shape[0]
        inputs, outputs = (Units.at_positions(self.positions, shape[0], channels) for shape in (in_shape, out_shape))
        units = [inputs, *(Units.hidden(width, self.positions, channels) for width in config.hidden)]
        self.ends = [u.ends(self.positions) for u in units]
        self.hidden = nn.ModuleList(Triangle(b.degree[:, None] >= a.degree) for a, b in pairwise(units))
        self.given = nn.ModuleList(Given(u.position, context) for u in units[1:]) if context else None
        self.out = Triangle(outputs.degree[:, None] > units[-1].degree)
        self.given_out = Given(outputs.position, context) if context else None
        beside = config.direct and bool(config.hidden)
        self.direct = Triangle(outputs.degree[:, None] > inputs.degree, bias=False) if beside else None
        self.activation = ACTIVATIONS[config.activation]()
        self.dropout = Dropout(config.dropout)

    def _maps(self, x: Tensor, c: Tensor | None) -> Tensor:
        B, H, W, _ = x.shape
        x = h = x.flatten(1)  # [B, D]
        for k, layer in enumerate(self.hidden):
            h = self._activate(layer(h), 0.0 if c is None or self.given is None else self.given[k](c))
        h = self.out(h)
        if self.direct is not None:
            h = h + self.direct(x)
        if self.given_out is not None and c is not None:
            h = h + self.given_out(c)
        return h.view(B, H, W, -1)

    def _activate(self, h: Tensor, given: Tensor | float) -> Tensor:
        return self.dropout(self.activation(h + given))

    def _begin(self, cache: Cache, c: Tensor | None) -> None:
        cache.layers[self] = _Drawn(self, cache, c)

    def step(self, cache: Cache, i: int, j: int) -> Tensor:
        """Only the hidden units that see this position's inputs and no later ones, and only its outputs."""
        drawn: _Drawn = cache.layers[self]
        t = i * cache.size[1] + j
        for k in range(len(self.hidden)):
            own = slice(self.ends[k + 1][t - 1] if t else 0, self.ends[k + 1][t])
            drawn.units[k + 1][:, own] = self._activate(drawn.product(k, own, self.ends[k][t]), drawn.given[k][:, own])
        own = slice(t * self.outputs_each, (t + 1) * self.outputs_each)
        h = drawn.product(-1, own, self.ends[-1][t]) + drawn.given[-1][:, own]
        if drawn.direct is not None:
            seen = self.ends[0][t]
            h = h + drawn.units[0][:, :seen] @ drawn.direct[own, :seen].T
        return h


class _Drawn:
    """The units of all layers so far, and the weights, masked once for all positions."""

    def __init__(self, net: MADE, cache: Cache, c: Tensor | None):
        layers = [*net.hidden, net.out]
        self.weights = [layer.weight for layer in layers]  # [O, I]
        self.biases = [layer.bias for layer in layers]
        self.direct = None if net.direct is None else net.direct.weight
        self.units = [cache.x.flatten(1), *(cache.zeros(len(bias)) for bias in self.biases[:-1])]
        zeros = [cache.like.new_zeros(1, len(bias)) for bias in self.biases]
        givens = [] if net.given is None else [*net.given, net.given_out]
        self.given = [given(c) for given in givens] if givens and c is not None else zeros  # [n or 1, O]

    def product(self, layer: int, own: slice, seen: int) -> Tensor:
        """What these units of a layer are before the activation, given as many of the layer before: [n, own]."""
        before = self.units[layer][:, :seen]
        return F.linear(before, self.weights[layer][own, :seen], self.biases[layer][own])


class Triangle(nn.Module):
    """A masked linear map [B, I] -> [B, O] between units in order, in blocks of outputs.

    Each block has weights for the inputs up to the last that it sees, which saves nearly half of the products, the
    weights and the optimizer's work.

    seen: [O, I].
    """

    BLOCKS = 8

    def __init__(self, seen: Tensor, *, bias: bool = True):
        super().__init__()
        self.inputs = seen.shape[1]
        blocks = list(seen.chunk(self.BLOCKS))
        while len(blocks) > 1 and not blocks[0].any():  # outputs that see nothing have no weights of their own
            blocks[:2] = [torch.cat(blocks[:2])]
        self.ends = [int(block.any(0).nonzero().max()) + 1 if block.any() else 1 for block in blocks]
        self.blocks = nn.ModuleList(
            MaskedLinear(end, len(block), block[:, :end], bias=bias)
            for block, end in zip(blocks, self.ends, strict=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([block(x[:, :end]) for block, end in zip(self.blocks, self.ends, strict=True)], -1)

    @property
    def weight(self) -> Tensor:
        """[O, I], zero at what is not seen."""
        return torch.cat([F.pad(block.seen, (0, self.inputs - block.in_features)) for block in self._linear])

    @property
    def bias(self) -> Tensor:
        return torch.cat([block.bias for block in self._linear])

    @property
    def _linear(self) -> Iterator[MaskedLinear]:
        return (block for block in self.blocks if isinstance(block, MaskedLinear))


class Units(NamedTuple):
    """The units of a layer, in order."""

    degree: Tensor  # [K]
    position: Tensor  # [K], the first one whose outputs may see the unit; of inputs and outputs, their own

    @staticmethod
    def at_positions(positions: int, features: int, channels: int) -> "Units":
        """Inputs or outputs: `features` at each position."""
        position = torch.arange(positions).repeat_interleave(features)
        return Units(position * channels + channel_of(features, channels, positions) + 1, position)

    @staticmethod
    def hidden(width: int, positions: int, channels: int) -> "Units":
        degree = torch.arange(width) * (positions * channels) // width
        return Units(degree, degree // channels)

    def ends(self, positions: int) -> list[int]:
        """How many units belong to each position or earlier ones."""
        return torch.searchsorted(self.position, torch.arange(positions), right=True).tolist()


class Given(nn.Module):
    """What the condition adds to the units of a layer, which see it at their own positions.

    c: [B, 1, 1, D] or [B, H, W, D] -> [B, units]
    """

    position: Tensor

    def __init__(self, position: Tensor, context: int):
        super().__init__()
        self.weight = nn.Parameter(nn.Linear(context, len(position)).weight.detach())
        self.register_buffer("position", position, persistent=False)

    def forward(self, c: Tensor) -> Tensor:
        if c.shape[1:3] == (1, 1):
            return F.linear(c[:, 0, 0], self.weight)
        return torch.einsum("bkd,kd->bk", c.flatten(1, 2)[:, self.position], self.weight)

"""A deep network of vectors, told at every block what is given."""

import math
from collections.abc import Iterable

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from lowerbound.networks.base import Dropout, Network, Shape


class ResidualMLP(Network):
    """Residual blocks between two linear layers; any shapes, which are flattened. New, it puts out zeros, unless it is
    given a gain.

    A block adds W₂ silu(W₁ silu(norm(h)) + V c) to h; W₂ begins at zero (He et al. 2016,
    https://arxiv.org/abs/1603.05027, for the order). Where it is `scaled` by the context, W₁ ... is multiplied by
    1 + U c too (Perez et al. 2018, FiLM, https://arxiv.org/abs/1709.07871, eq. 2).

    Example:
        >>> import torch
        >>> net = ResidualMLP.Config(width=32).build((1, 8, 8), (10,), context=3)
        >>> net(torch.zeros(2, 1, 8, 8), torch.zeros(2, 3)).shape
        torch.Size([2, 10])
    """

    class Config(Network.Config):
        width: int = Field(default=256, gt=0)  # of every block
        blocks: int = Field(default=3, gt=0)  # residual ones
        dropout: float = Field(default=0.0, ge=0, lt=1)  # share of the units that training leaves out
        gain: float = Field(default=0.0, ge=0)  # the last weights begin as N(0, gain² / width)
        scaled: bool = False  # by the context, beside being shifted by it

        def build(self, in_shape: Shape, out_shape: Shape, context: int = 0) -> "ResidualMLP":
            return ResidualMLP(self, in_shape, out_shape, context)

        @classmethod
        def example(cls) -> tuple["ResidualMLP.Config", Shape, Shape]:
            return cls(width=5, blocks=1), (1, 2, 2), (3,)

    def __init__(self, config: Config, in_shape: Shape, out_shape: Shape, context: int = 0):
        super().__init__()
        self.out_shape = out_shape
        self.first = nn.Linear(math.prod(in_shape), config.width)
        self.blocks = nn.ModuleList(Block(config, context) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(config.width)
        self.last = _zeros(nn.Linear(config.width, math.prod(out_shape)))
        if config.gain:
            nn.init.normal_(self.last.weight, std=config.gain * config.width**-0.5)

    @property
    def apart(self) -> Iterable[nn.Module]:
        return self.blocks

    def forward(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        h = self.first(x.flatten(1))
        for block in self.blocks:
            h = block(h, c)
        return self.last(F.silu(self.norm(h))).unflatten(1, self.out_shape)


class Block(nn.Module):
    """h + W₂ silu((1 + U c) W₁ silu(norm(h)) + V c), U only where it is scaled."""

    def __init__(self, config: ResidualMLP.Config, context: int):
        super().__init__()
        self.norm = nn.LayerNorm(config.width)
        self.first = nn.Linear(config.width, config.width)
        self.last = _zeros(nn.Linear(config.width, config.width))
        self.context = nn.Linear(context, config.width) if context else None
        self.scale = nn.Linear(context, config.width) if context and config.scaled else None
        self.dropout = Dropout(config.dropout)

    def forward(self, h: Tensor, c: Tensor | None = None) -> Tensor:
        inside = self.first(F.silu(self.norm(h)))
        if self.scale is not None:
            inside = inside * (1 + self.scale(c))
        if self.context is not None:
            inside = inside + self.context(c)
        return h + self.last(self.dropout(F.silu(inside)))


def _zeros(linear: nn.Linear) -> nn.Linear:
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear

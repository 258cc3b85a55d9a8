"""Fully connected layers."""

import math
from itertools import pairwise

import torch
from pydantic import field_validator
from torch import Tensor, nn

from lowerbound.errors import did_you_mean
from lowerbound.networks.base import Network, Shape

ACTIVATIONS = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "elu": nn.ELU,
    "leaky_relu": nn.LeakyReLU,
    "softplus": nn.Softplus,
    "sigmoid": nn.Sigmoid,
}


class MLP(Network):
    """Linear layers with an activation between them; the context is one more input of the first.

    Example:
        >>> net = MLP.Config(hidden=(32,), activation="tanh").build((1, 8, 8), (10,))
        >>> net(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """

    class Config(Network.Config):
        hidden: tuple[int, ...] = (512,)
        activation: str = "relu"

        @field_validator("hidden")
        @classmethod
        def _positive(cls, widths: tuple[int, ...]) -> tuple[int, ...]:
            if any(w < 1 for w in widths):
                raise ValueError(f"expected widths above 0, got {list(widths)}")
            return widths

        @field_validator("activation")
        @classmethod
        def _known(cls, name: str) -> str:
            if name not in ACTIVATIONS:
                raise ValueError(f"no activation {name!r}{did_you_mean(name, ACTIVATIONS)}")
            return name

        def build(self, in_shape: Shape, out_shape: Shape, context: int = 0) -> "MLP":
            return MLP(self, in_shape, out_shape, context)

        @classmethod
        def example(cls) -> tuple["MLP.Config", Shape, Shape]:
            return cls(hidden=(5,)), (1, 2, 2), (3,)

    def __init__(self, config: Config, in_shape: Shape, out_shape: Shape, context: int = 0):
        super().__init__()
        self.out_shape = out_shape
        widths = [math.prod(in_shape) + context, *config.hidden, math.prod(out_shape)]
        layers: list[nn.Module] = []
        for i, o in pairwise(widths):
            layers += [nn.Linear(i, o), ACTIVATIONS[config.activation]()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        x = x.flatten(1)
        h = self.layers(x if c is None else torch.cat([x, c], 1))
        return h.unflatten(1, self.out_shape)

"""Fully connected layers."""

import math
from itertools import pairwise
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import AfterValidator, Field
from torch import Tensor, nn

from lowerbound.devices import Reducible
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


def _positive(widths: tuple[int, ...]) -> tuple[int, ...]:
    if any(w < 1 for w in widths):
        raise ValueError(f"expected widths above 0, got {list(widths)}")
    return widths


def _known(name: str) -> str:
    if name not in ACTIVATIONS:
        raise ValueError(f"no activation {name!r}{did_you_mean(name, ACTIVATIONS)}")
    return name


Widths = Annotated[tuple[int, ...], AfterValidator(_positive)]
Activation = Annotated[str, AfterValidator(_known)]


class MLP(Network):
    """Linear layers with an activation between them; the context is one more input of the first.

    Example:
        >>> net = MLP.Config(hidden=(32,), activation="tanh").build((1, 8, 8), (10,))
        >>> net(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """

    class Config(Network.Config):
        hidden: Widths = (512,)  # widths of the hidden layers
        activation: Activation = "relu"  # between them: relu, tanh, leaky_relu …
        # weights begin as N(0, gain² / inputs) and biases at 0: 1.41 keeps the size of a signal through rectifiers
        # (He et al. 2015, https://arxiv.org/abs/1502.01852); None: torch's own, by which it shrinks from layer to layer
        gain: float | None = Field(default=None, gt=0)

        def build(self, in_shape: Shape, out_shape: Shape, context: int = 0) -> "MLP":
            return MLP(self, in_shape, out_shape, context)

        @classmethod
        def example(cls) -> tuple["MLP.Config", Shape, Shape]:
            return cls(hidden=(5,)), (1, 2, 2), (3,)

    def __init__(self, config: Config, in_shape: Shape, out_shape: Shape, context: int = 0):
        super().__init__()
        self.in_shape, self.out_shape = in_shape, out_shape
        self.activation = config.activation
        widths = [math.prod(in_shape) + context, *config.hidden, math.prod(out_shape)]
        layers: list[nn.Module] = []
        for i, o in pairwise(widths):
            layers += [nn.Linear(i, o), ACTIVATIONS[config.activation]()]
        self.layers = nn.Sequential(*layers[:-1])
        if config.gain is not None:
            for layer in self.linear:
                nn.init.normal_(layer.weight, std=config.gain / math.sqrt(layer.in_features))
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        x = x.flatten(1)
        h = self.layers(x if c is None else torch.cat([x, c], 1))
        return h.unflatten(1, self.out_shape)

    @property
    def linear(self) -> list[nn.Linear]:
        return [layer for layer in self.layers if isinstance(layer, nn.Linear)]

    def transposed(self) -> "Transposed":
        return Transposed(self)


class Transposed(Reducible):
    """An MLP backwards, through the transposes of its weights: the decoder of an autoencoder with tied weights.

    The biases are its own; the weights stay the other network's, are trained and saved with it, and with it alone.

    Example:
        >>> net = MLP.Config(hidden=(32,)).build((1, 8, 8), (10,))
        >>> back = net.transposed()
        >>> back(net(torch.zeros(2, 1, 8, 8))).shape, [name for name, _ in back.named_parameters()]
        (torch.Size([2, 1, 8, 8]), ['biases.0', 'biases.1'])
    """

    def __init__(self, of: MLP):
        super().__init__()
        self._of = (of,)  # in a tuple, so that its parameters are not this module's as well
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(layer.in_features)) for layer in reversed(of.linear))
        self.activation = ACTIVATIONS[of.activation]()

    def forward(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        (of,) = self._of
        h = x.flatten(1)
        for i, (layer, bias) in enumerate(zip(reversed(of.linear), self.biases, strict=True)):
            h = F.linear(self.activation(h) if i else h, layer.weight.T, bias)
        return h.unflatten(1, of.in_shape)

"""A network maps one tensor to another, perhaps given a context vector."""

import math
from abc import abstractmethod

from torch import Tensor, nn

from lowerbound import noise
from lowerbound.config import Component
from lowerbound.devices import Reducible
from lowerbound.errors import ConfigError, ModelError

Shape = tuple[int, ...]


class Network(Reducible):
    """x [B, *in_shape], c [B, context] -> [B, *out_shape]. Subclasses are final, with a nested Config."""

    class Config(Component, abstract=True):
        @abstractmethod
        def build(self, in_shape: Shape, out_shape: Shape, context: int = 0) -> "Network": ...

        @classmethod
        @abstractmethod
        def example(cls) -> tuple["Network.Config", Shape, Shape]:
            """The smallest valid instance: configuration, input shape, output shape."""

    @abstractmethod
    def forward(self, x: Tensor, c: Tensor | None = None) -> Tensor: ...

    def largest(self, size: Shape) -> int:
        """How many numbers its largest layer puts out for an event of this size, (H, W) or () of vectors, roughly:
        every kernel is taken to be used at that size."""
        area = math.prod(size)
        return max((w.shape[0] * (area if w.dim() == 4 else 1) for w in self.parameters()), default=1)

    def transposed(self) -> nn.Module:
        """The way back through the same weights, with biases of its own: [B, *out_shape] -> [B, *in_shape]."""
        raise ConfigError(
            f"model.tied: {type(self).__name__} can't be turned around; use networks.mlp.MLP, or tied=false"
        )


class Dropout(nn.Module):
    """In training, elements that are left out with the probability `rate`, drawn by `lowerbound.noise`."""

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        return noise.dropout(x, self.rate, self.training)


def halvings(shape: Shape, strides: int) -> Shape:
    """[C, H, W] -> (H, W) after this many strides of 2. Raises ModelError for a size that they don't divide."""
    sizes = shape[-2:]
    factor = 2**strides
    if any(s % factor for s in sizes):
        height, width = (max(factor, round(s / factor) * factor) for s in sizes)
        raise ModelError(
            f"images of {sizes[0]}x{sizes[1]} can't be halved {strides} times: height and width must be multiples of "
            f"{factor} (such as {height}x{width}); set data.size, or a model of fewer such steps"
        )
    return tuple(s // factor for s in sizes)


def is_image(shape: Shape) -> bool:
    return len(shape) == 3

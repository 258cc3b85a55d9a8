"""Strided convolutions down, transposed ones back: the classic."""

import math
from itertools import pairwise

import torch
from pydantic import Field
from torch import Tensor, nn

from lowerbound.errors import ModelError
from lowerbound.networks.base import Network, Shape, halvings, is_image
from lowerbound.parallel.rows import over_all, processes, whole_of


class Conv(Network):
    """ReLU convolutions of stride 2, one for each width. The direction follows from the shapes: an image in (and a
    vector or a smaller map out) goes down, an image out comes up. A context joins the vector, or every pixel.

    The networks of a DCGAN (Radford et al. 2016, https://arxiv.org/abs/1511.06434, section 3) are, up, the normalized
    one, and down the one whose rectifiers have a `slope` of 0.2.

    Example:
        >>> down = Conv.Config(widths=(16, 32)).build((1, 28, 28), (10,))
        >>> down(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 10])
        >>> up = Conv.Config(widths=(16, 32)).build((10,), (1, 28, 28))
        >>> up(torch.zeros(2, 10)).shape
        torch.Size([2, 1, 28, 28])
    """

    class Config(Network.Config):
        # channels of each convolution, the image's side first
        widths: tuple[int, ...] = Field(default=(32, 64), min_length=1)
        slope: float = Field(default=0.0, ge=0, lt=1)  # of the rectifiers, below zero
        normalized: bool = False  # over the batch, before every rectifier but down's first

        def build(self, in_shape: Shape, out_shape: Shape, context: int = 0) -> "Conv":
            return Conv(self, in_shape, out_shape, context)

        @classmethod
        def example(cls) -> tuple["Conv.Config", Shape, Shape]:
            return cls(widths=(4,)), (1, 2, 2), (3,)

    def __init__(self, config: Config, in_shape: Shape, out_shape: Shape, context: int = 0):
        super().__init__()
        widths, down = config.widths, goes_down(in_shape, out_shape)
        image, inner = (in_shape, out_shape) if down else (out_shape, in_shape)
        small = (widths[-1], *halvings(image, len(widths)))
        strided: list[nn.Module] = []
        if down:
            for n, (i, o) in enumerate(zip((in_shape[0] + context, *widths), widths, strict=False)):
                normalized = config.normalized and n > 0
                strided += [
                    nn.Conv2d(i, o, 4, stride=2, padding=1, bias=not normalized),
                    *_rectified(o, config.slope, normalized),
                ]
            self.layers = nn.Sequential(*strided, from_map(small, inner))
        else:
            steps = (*reversed(widths), out_shape[0])
            for n, (i, o) in enumerate(pairwise(steps), 1):
                bias = not config.normalized or n == len(widths)
                strided += [
                    *_rectified(i, config.slope, config.normalized),
                    nn.ConvTranspose2d(i, o, 4, stride=2, padding=1, bias=bias),
                ]
            self.layers = nn.Sequential(to_map(inner, small, context), *strided)

    def forward(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        return self.layers(join(x, c))


def _rectified(width: int, slope: float, normalized: bool) -> list[nn.Module]:
    rectifier = nn.LeakyReLU(slope) if slope else nn.ReLU()
    return [BatchNorm(width), rectifier] if normalized else [rectifier]


class BatchNorm(nn.BatchNorm2d):
    """Maps [B, C, H, W] with mean 0 and variance 1 of each channel over the batch: the whole of it, where several
    processes share it."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or processes().size == 1:
            return super().forward(x)
        assert isinstance(self.running_mean, Tensor)
        assert isinstance(self.running_var, Tensor)
        assert self.momentum is not None
        axes, n = (0, 2, 3), whole_of(len(x)) * x[0, 0].numel()
        mean = over_all(x.sum(axes)) / n
        centred = x - mean[:, None, None]
        variance = over_all(centred.square().sum(axes)) / n
        with torch.no_grad():
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_((variance * n / (n - 1)).to(self.running_var.dtype), self.momentum)
            self.num_batches_tracked.add_(1)  # pyright: ignore[reportOptionalMemberAccess]
        scale = self.weight / (variance + self.eps).sqrt()
        return centred * scale[:, None, None] + self.bias[:, None, None]


def goes_down(in_shape: Shape, out_shape: Shape) -> bool:
    """Whether the map of these shapes makes an image smaller (an encoder) rather than larger."""
    if is_image(in_shape) and is_image(out_shape):
        return in_shape[-1] >= out_shape[-1]
    return is_image(in_shape)


def join(x: Tensor, c: Tensor | None) -> Tensor:
    """x with the context as further channels (of every pixel, unless it is a map itself), or elements of the vector."""
    if c is None:
        return x
    return torch.cat([x, c.reshape(*c.shape, *[1] * (x.dim() - c.dim())).expand(-1, -1, *x.shape[2:])], 1)


def from_map(small: Shape, out_shape: Shape) -> nn.Module:
    """The end of an encoder: the smallest map -> a vector, or a map of the same size."""
    if is_image(out_shape):
        check_same_size(small, out_shape)
        return nn.Conv2d(small[0], out_shape[0], 3, padding=1)
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(small), math.prod(out_shape)), nn.Unflatten(1, out_shape))


def to_map(in_shape: Shape, small: Shape, context: int) -> nn.Module:
    """The beginning of a decoder: a vector, or a map of the same size -> the smallest map."""
    if is_image(in_shape):
        check_same_size(small, in_shape)
        return nn.Conv2d(in_shape[0] + context, small[0], 3, padding=1)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(math.prod(in_shape) + context, math.prod(small)), nn.Unflatten(1, small)
    )


def check_same_size(small: Shape, latent: Shape) -> None:
    if small[-2:] != latent[-2:]:
        raise ModelError(
            f"the latent map is {latent[-2]}x{latent[-1]}, but the network's smallest is {small[-2]}x{small[-1]}: "
            f"set model.latent=[C,{small[-2]},{small[-1]}], or another number of network widths"
        )

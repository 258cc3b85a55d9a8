"""The strided residual networks of VQ-VAE: a map to one `factor` times smaller, and back."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lowerbound.devices import Reducible


class Residual(nn.Module):
    """x + conv1x1(relu(conv3x3(relu(x)))), with `inner` features between the two.

    van den Oord et al. (2017), Neural Discrete Representation Learning, https://arxiv.org/abs/1711.00937, section 4.1.
    """

    def __init__(self, width: int, inner: int):
        super().__init__()
        self.first = nn.Conv2d(width, inner, 3, padding=1)
        self.last = nn.Conv2d(inner, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.last(F.relu(self.first(F.relu(x))))


class Blocks(nn.Module):
    """Residual blocks and a ReLU. checkpoint: compute them again in the backward pass instead of keeping their maps."""

    def __init__(self, width: int, inner: int, blocks: int, *, checkpoint: bool = False):
        super().__init__()
        self.blocks = nn.ModuleList(Residual(width, inner) for _ in range(blocks))
        self.checkpoint = checkpoint

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if self.checkpoint and self.training else block(x)  # pyright: ignore[reportAssignmentType]
        return F.relu(x)


class Conv(nn.Conv2d):
    """With the channels of an image filled up with zeros where the units of a GPU for bfloat16 ask for whole eights."""

    def forward(self, x: Tensor) -> Tensor:
        more = _missing(x, self.in_channels)
        if not more:
            return super().forward(x)
        filled = (0, 0, 0, 0, 0, more)
        return self._conv_forward(F.pad(x, filled), F.pad(self.weight, filled), self.bias)


class ConvTranspose(nn.ConvTranspose2d):
    """As Conv, of the channels that it puts out."""

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        more = _missing(x, self.out_channels)
        if not more:
            return super().forward(x, output_size)
        weight = F.pad(self.weight, (0, 0, 0, 0, 0, more))
        y = F.conv_transpose2d(x, weight, None, self.stride, self.padding)[:, : self.out_channels]  # pyright: ignore
        return y if self.bias is None else y + self.bias.to(y.dtype)[:, None, None]


def _missing(x: Tensor, channels: int) -> int:
    """How many channels convolutions want more: in bfloat16 on a GPU, cuDNN has none on tensor cores for 3."""
    whole = x.is_cuda and torch.is_autocast_enabled("cuda") and torch.get_autocast_dtype("cuda").itemsize == 2
    return -channels % 8 if whole else 0


class Projection(Reducible, Conv):
    """A convolution of its own, outside of a larger network."""


class Enlarged(Reducible, nn.Sequential):
    """[B, width, H, W] -> [B, width, H * factor, W * factor]: transposed convolutions alone."""

    def __init__(self, width: int, factor: int):
        super().__init__(*enlarged([width] * factor.bit_length()))


class Down(Reducible, nn.Sequential):
    """[B, channels, H, W] -> [B, width, H / factor, W / factor], factor a power of 2: convolutions of stride 2, the
    first of half the width, then residual blocks."""

    def __init__(self, channels: int, width: int, factor: int, blocks: Blocks):
        strides = factor.bit_length() - 1
        widths = [channels, width // 2, *[width] * (strides - 1)]
        layers: list[nn.Module] = []
        for i, o in pairwise(widths):
            layers += [Conv(i, o, 4, stride=2, padding=1), nn.ReLU()]
        super().__init__(*layers, nn.Conv2d(widths[-1], width, 3, padding=1), blocks)


class Up(Reducible, nn.Sequential):
    """[B, channels, H, W] -> [B, out, H * factor, W * factor]: residual blocks, then transposed convolutions of stride
    2, the last but one to half the width."""

    def __init__(self, channels: int, out: int, width: int, factor: int, blocks: Blocks):
        strides = factor.bit_length() - 1
        widths = [*[width] * (strides - 1), width // 2, out] if strides > 1 else [width, out]
        super().__init__(nn.Conv2d(channels, width, 3, padding=1), blocks, *enlarged(widths))


def enlarged(widths: list[int]) -> list[nn.Module]:
    """Transposed convolutions of stride 2 from each width to the next, with ReLUs between them."""
    layers: list[nn.Module] = []
    for i, o in pairwise(widths):
        layers += [nn.ReLU(), ConvTranspose(i, o, 4, stride=2, padding=1)]
    return layers[1:]

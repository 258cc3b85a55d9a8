"""The strided residual networks of VQ-VAE: a map to one `factor` times smaller, and back."""

from itertools import pairwise

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


class Down(Reducible, nn.Sequential):
    """[B, channels, H, W] -> [B, width, H / factor, W / factor], factor a power of 2: convolutions of stride 2, the
    first of half the width, then residual blocks."""

    def __init__(self, channels: int, width: int, factor: int, blocks: Blocks):
        strides = factor.bit_length() - 1
        widths = [channels, width // 2, *[width] * (strides - 1)]
        layers: list[nn.Module] = []
        for i, o in pairwise(widths):
            layers += [nn.Conv2d(i, o, 4, stride=2, padding=1), nn.ReLU()]
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
        layers += [nn.ReLU(), nn.ConvTranspose2d(i, o, 4, stride=2, padding=1)]
    return layers[1:]

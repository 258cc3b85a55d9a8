"""Couplings of maps: some numbers of a map move, by convolutions over the others."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lowerbound.devices import Reducible, widened
from lowerbound.networks.conv import join
from lowerbound.networks.resnet import Block
from lowerbound.space import Shape
from lowerbound.transforms.base import Bijection, half


class MapCoupling(Bijection):
    r"""An affine coupling of maps x [B, C, H, W] by a mask b (Dinh et al. 2017, Real NVP,
    https://arxiv.org/abs/1605.08803, "masked convolution"); at first the identity.

    .. math:: z = b \odot u + (1 - b) \odot (u \odot \exp(s(b \odot u)) + t(b \odot u)), \qquad
        \log |\det \partial z / \partial u| = \sum (1 - b) \odot s

    kept [C, H, W] is b: true for the numbers that stay as they are. s and t come from one residual convolutional
    network, which is given the condition as further channels; s is kept in (-bound, bound) by a hyperbolic tangent.
    """

    kept: Tensor

    def __init__(self, kept: Tensor, context: int, width: int, blocks: int, bound: float):
        super().__init__()
        self.bound = bound
        self.register_buffer("kept", kept.clone(), persistent=False)
        between = nn.Sequential(*(Block(width) for _ in range(blocks)))
        self.network = Conditioner(len(kept), context, width, between, 2 * len(kept))

    def forward(self, x: Tensor, c: Tensor | None = None, inverse: bool = False) -> tuple[Tensor, Tensor]:
        s, t = self._parameters_of(x, c)
        x = (x - t) * torch.exp(-s) if inverse else x * torch.exp(s) + t
        return x, s.flatten(1).sum(1)

    def _parameters_of(self, x: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor]:
        """s and t, [B, C, H, W] each; 0 where x stays."""
        dtype = self.network.last.weight.dtype
        seen = x.masked_fill(~self.kept, 0.0).to(dtype)
        s, t = widened(self.network(seen, None if c is None else c.to(dtype))).chunk(2, 1)
        s = self.bound * torch.tanh(s / self.bound)
        return s.masked_fill(self.kept, 0.0), t.masked_fill(self.kept, 0.0)


class Conditioner(Reducible):
    """x [B, C, H, W], c [B, context] or [B, context, H, W] or None -> [B, out, H, W]: a 3x3 convolution, what is
    between, of `width` channels, and another 3x3 convolution, which begins at zero."""

    def __init__(self, channels: int, context: int, width: int, between: nn.Module, out: int):
        super().__init__()
        self.first = nn.Conv2d(channels + context, width, 3, padding=1)
        self.blocks = between
        self.last = nn.Conv2d(width, out, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # pyright: ignore[reportArgumentType]

    def forward(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        return self.last(F.silu(self.blocks(self.first(join(x, c)))))


def map_half(shape: Shape, layer: int) -> Tensor:
    """Which numbers of a map [C, H, W] a coupling leaves as they are: a checkerboard of its places and what that leaves
    out, then one half of its channels and the other; only the ones or the others, where there are no two; bool
    [C, H, W]."""
    C, H, W = shape
    by_place = C == 1 or (H * W > 1 and layer % 4 < 2)
    if by_place:
        white = (torch.arange(H)[:, None] + torch.arange(W)) % 2 == layer % 2
        return white.expand(C, H, W)
    pair = layer // 4 if H * W > 1 else layer // 2  # odd and even channels, then the first and last half
    return half(C, 2 * (pair % 2) + layer % 2)[:, None, None].expand(C, H, W)

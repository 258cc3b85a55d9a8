"""The block of very deep VAEs: through a narrow middle, and back."""

import torch.nn.functional as F
from torch import Tensor, nn

from lowerbound.devices import Reducible

SMALLEST = 3  # the side from which a kernel of 3x3 sees neighbours


class Bottleneck(Reducible):
    """[B, channels, H, W] -> [B, out, H, W]: four convolutions, of 1x1, 3x3, 3x3 and 1x1, with GELU before each, and
    `inner` features between them. On maps of less than 3x3 all are of 1x1.

    Child (2021), Very Deep VAEs, https://arxiv.org/abs/2011.10650, figure 3. residual: add the input. gain: of the
    last weights as they begin; 0, and the block begins as the identity, or as nothing.
    """

    def __init__(
        self, channels: int, inner: int, out: int, side: int, *, residual: bool = False, gain: float = 1.0
    ) -> None:
        super().__init__()
        kernel = 3 if side >= SMALLEST else 1
        self.residual = residual
        self.layers = nn.ModuleList(
            (
                nn.Conv2d(channels, inner, 1),
                nn.Conv2d(inner, inner, kernel, padding=kernel // 2),
                nn.Conv2d(inner, inner, kernel, padding=kernel // 2),
                last := nn.Conv2d(inner, out, 1),
            )
        )
        nn.init.zeros_(last.bias)  # pyright: ignore[reportArgumentType]
        last.weight.data.mul_(gain)

    def forward(self, x: Tensor) -> Tensor:
        h = x
        for layer in self.layers:
            h = layer(F.gelu(h))
        return x + h if self.residual else h

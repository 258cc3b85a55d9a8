"""A small codebook of numbers for every element."""

import torch
from pydantic import Field
from torch import Tensor, nn

from lowerbound.quantizers.base import Quantized, Quantizer, _no_autocast, _squared_error, _straight_through
from lowerbound.space import Space


class LQ(Quantizer):
    r"""Every element d on the nearest of V values v_d of its own (Hsu et al. 2023, Disentanglement via Latent
    Quantization, https://arxiv.org/abs/2305.18378; its authors' code).

    .. math:: k_d = \arg\min_j |h_d - v_{dj}|, \quad z_d = v_{d k_d}
    .. math:: L = \lambda_q\, \mathrm{mean}_d (sg[h_d] - z_d)^2 + \lambda_c\, \mathrm{mean}_d (h_d - sg[z_d])^2

    The values are learned by gradient, and begin evenly spaced from -1/2 to 1/2. h: [B, dim, H, W]; codes: likewise.

    Example:
        >>> lq = LQ.Config(dim=2, values=3).build()
        >>> z, codes, _ = lq(torch.tensor([0.1, 0.4]).view(1, 2, 1, 1))
        >>> z.flatten().tolist(), codes.flatten().tolist()
        ([0.0, 0.5], [1, 2])
    """

    class Config(Quantizer.Config):
        dim: int = Field(default=10, gt=0)  # D
        values: int = Field(default=10, gt=1)  # V
        quantize: float = Field(default=0.01, ge=0)  # λ_q, which moves the values
        commit: float = Field(default=0.01, ge=0)  # λ_c, which moves the encoder

        def build(self) -> "LQ":
            return LQ(self)

        @classmethod
        def example(cls) -> "LQ.Config":
            return cls(dim=3, values=4)

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.dim = config.dim
        dtype = torch.promote_types(torch.get_default_dtype(), torch.float32)
        # as one axis, which weight decay can spare as it does biases: the decay is of networks alone
        self.values = nn.Parameter(torch.linspace(-0.5, 0.5, config.values, dtype=dtype).repeat(config.dim))

    @property
    def book(self) -> Tensor:
        """v: [D, V]."""
        return self.values.view(self.dim, -1)

    def space(self, size: tuple[int, int]) -> Space:
        return Space((self.dim, *size), levels=self.config.values, ordered=False)

    def forward(self, h: Tensor) -> Quantized:
        self._check(h)
        with _no_autocast(h):
            x = h.to(self.values.dtype)
            codes = self._nearest(x)
            z = self.decode(codes)
            loss = self.config.quantize * _squared_error(x.detach(), z)
            loss = loss + self.config.commit * _squared_error(x, z.detach())
            return Quantized(_straight_through(x, z).to(h.dtype), codes, loss)

    @torch.no_grad()
    def encode(self, h: Tensor) -> Tensor:
        self._check(h)
        with _no_autocast(h):
            return self._nearest(h.to(self.values.dtype))

    def _nearest(self, x: Tensor) -> Tensor:
        return (x[..., None] - self.book.detach()[:, None, None]).abs().argmin(-1)

    def decode(self, codes: Tensor) -> Tensor:
        first = torch.arange(self.dim, device=codes.device) * self.config.values  # of each element's values
        return self.values[codes + first[:, None, None]]

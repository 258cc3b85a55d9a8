"""Codes without a codebook."""

import math
from typing import Annotated

import torch
from pydantic import AfterValidator
from torch import Tensor

from lowerbound.quantizers.base import _EPSILON, Quantized, Quantizer, _at_least_two, _straight_through
from lowerbound.space import Space

# ---- no codebook


class FSQ(Quantizer):
    r"""Every element rounded to one of a few levels (Mentzer et al. 2023, https://arxiv.org/abs/2309.15505).

    .. math:: b(h) = \tanh(h + s) (L - 1)(1 - \epsilon) / 2 - o, \quad z = round(b(h)) / \lfloor L / 2 \rfloor

    as in the paper's appendix A.1: for an even L, o = 1/2 and h = 0 stays near 0 by the shift s; for an odd one both
    are 0. An element of z is in [-1, 1]; its levels are the digits of the code, the first the lowest. No loss and no
    parameters. h: [B, len(levels), H, W]; codes: [B, H, W]. encode() bounds h and z is bounded already, so that
    encode(decode(codes)) may give other codes: `codes_of` turns z back.

    Example:
        >>> fsq = FSQ.Config(levels=(3, 4)).build()
        >>> codes = torch.arange(12).reshape(1, 3, 4)
        >>> z = fsq.decode(codes)
        >>> z[0, :, 0, 1].tolist(), bool((fsq.codes_of(z) == codes).all())
        ([0.0, -1.0], True)
    """

    class Config(Quantizer.Config):
        # values of each element of z; their product is the number of codes
        levels: Annotated[tuple[int, ...], AfterValidator(_at_least_two)] = (8, 5, 5, 5)

        def build(self) -> "FSQ":
            return FSQ(self)

        @classmethod
        def example(cls) -> "FSQ.Config":
            return cls(levels=(3, 4))

    levels: Tensor
    places: Tensor

    def __init__(self, config: Config):
        super().__init__()
        self.codes = math.prod(config.levels)
        self.dim = len(config.levels)
        levels = torch.tensor(config.levels).reshape(-1, 1, 1)  # [D, 1, 1]
        self.register_buffer("levels", levels, persistent=False)
        self.register_buffer("places", levels.cumprod(0) // levels, persistent=False)  # what a digit counts

    def space(self, size: tuple[int, int]) -> Space:
        return Space(size, levels=self.codes, ordered=False)

    def bounded(self, h: Tensor) -> Tensor:
        """b(h): [B, D, H, W], to be rounded to whole numbers from -⌊L / 2⌋ on."""
        half = (self.levels - 1) * (1 - _EPSILON) / 2
        offset = torch.where(self.levels % 2 == 0, 0.5, 0.0).to(h.dtype)
        return torch.tanh(h + torch.tan(offset / half)) * half - offset

    def forward(self, h: Tensor) -> Quantized:
        self._check(h)
        b = self.bounded(h.to(torch.promote_types(h.dtype, torch.float32)))
        z = _straight_through(b, b.round()) / (self.levels // 2)
        return Quantized(z.to(h.dtype), self.codes_of(z), z.new_zeros(h.shape[0]))

    @torch.no_grad()
    def encode(self, h: Tensor) -> Tensor:
        return self(h).codes

    def codes_of(self, z: Tensor) -> Tensor:
        """The codes of vectors on the levels, [B, D, H, W]: int64 [B, H, W]."""
        half = self.levels // 2
        return (((z.detach() * half).round().long() + half) * self.places).sum(1)

    def decode(self, codes: Tensor) -> Tensor:
        half = self.levels // 2
        digits = codes[:, None] // self.places % self.levels
        return (digits - half).to(torch.get_default_dtype()) / half

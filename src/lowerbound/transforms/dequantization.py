"""How whole numbers are made real ones, so that a density over real numbers bounds their probability."""

from abc import abstractmethod

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from lowerbound import noise
from lowerbound.config import Component
from lowerbound.devices import Reducible, at_least_float32, widened
from lowerbound.networks.conv import join
from lowerbound.networks.resnet import Block
from lowerbound.space import Space
from lowerbound.transforms.base import Chain
from lowerbound.transforms.multiscale import Coupled, Mixing, Squeezed


class Dequantizer(nn.Module):
    r"""Noise u in [0, 1)^D of q(u|x) that is put on whole numbers x, each then somewhere in its bin [x, x + 1).

    .. math:: \log P(x) = \log \int p(x + u)\, du \ge E_{q(u|x)}[\log p(x + u) - \log q(u|x)]

    Theis et al. (2016, https://arxiv.org/abs/1511.01844) with the uniform q; Ho et al. (2019), Flow++,
    https://arxiv.org/abs/1902.00275, eq. 12, with any. Draws may be weighted: the mean of p(x + u) / q(u|x) is P(x).
    """

    class Config(Component, abstract=True):
        @abstractmethod
        def build(self, space: Space, context: int) -> "Dequantizer": ...

    @abstractmethod
    def forward(self, seen: Tensor, c: Tensor | None, draws: int) -> tuple[Tensor, Tensor]:
        """Draws of u [K, B, C, H, W] and their log q(u|x) [K, B].

        seen: x as networks see it, [B, C, H, W]. c: the context of each, [B, context], or None.
        """


class Uniform(Dequantizer):
    """u is anywhere in its bin alike."""

    class Config(Dequantizer.Config):
        def build(self, space: Space, context: int) -> "Uniform":
            return Uniform()

    def forward(self, seen: Tensor, c: Tensor | None, draws: int) -> tuple[Tensor, Tensor]:
        dtype = at_least_float32(seen.dtype)
        u = noise.rand((draws, *seen.shape), dtype=dtype, device=seen.device)
        return u, u.new_zeros(draws, len(seen))


class Variational(Dequantizer):
    r"""u is a flow of its own, given x (Ho et al. 2019, Flow++, https://arxiv.org/abs/1902.00275, section 3.1.2): a
    tighter bound.

    .. math:: u = \Phi(f(\epsilon; x)), \quad \epsilon \sim N(0, I)

    with the distribution function Φ of N(0, 1), where Flow++ has a sigmoid, so that it begins as the uniform one. f is
    made of 1x1 convolutions and affine couplings of u at half its size, which convolutions over x are a context of.
    """

    class Config(Dequantizer.Config):
        steps: int = Field(default=2, gt=0)  # couplings of the flow of u
        width: int = Field(default=32, gt=0)  # channels of the networks of the couplings, and of the one over x
        blocks: int = Field(default=1, ge=0)  # residual ones, of the network over x
        bound: float = Field(default=2.0, gt=0, allow_inf_nan=False)  # of the log-scale of one coupling

        def build(self, space: Space, context: int) -> "Variational":
            return Variational(self, space, context)

    def __init__(self, config: Config, space: Space, context: int):
        super().__init__()
        C, how = 4 * space.shape[0], Coupled(config.width, bound=config.bound)
        self.features = Features(C + context, config.width, config.blocks)
        steps = [part for _ in range(config.steps) for part in (how.coupling(C, config.width), Mixing(C))]
        self.bijection = Squeezed(Chain(steps))

    def forward(self, seen: Tensor, c: Tensor | None, draws: int) -> tuple[Tensor, Tensor]:
        h = widened(self.features(join(F.pixel_unshuffle(seen, 2), None if c is None else c.to(seen.dtype))))
        epsilon = noise.randn((draws, *seen.shape), dtype=h.dtype, device=h.device)
        # from what the bijection calls z to u, which is the way without an inverse of matrices
        s, log_det = self.bijection(epsilon.flatten(0, 1), h.repeat(draws, 1, 1, 1), inverse=True)
        s, log_det = s.view_as(epsilon), log_det.view(draws, -1)
        squares = 0.5 * (s.square() - epsilon.square()).flatten(2).sum(2)  # log N(ε) - log N(s), the slope of Φ
        return torch.special.ndtr(s), squares + log_det


class Features(Reducible):
    """What is seen of x at half its size: [B, C, h, w] -> [B, width, h, w]."""

    def __init__(self, channels: int, width: int, blocks: int):
        super().__init__()
        first = nn.Conv2d(channels, width, 3, padding=1)
        self.layers = nn.Sequential(first, *(Block(width) for _ in range(blocks)), nn.SiLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)

"""What flows of images are made of: couplings of channels between invertible 1x1 convolutions, at several scales."""

import math
from abc import abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lowerbound import noise
from lowerbound.devices import widened
from lowerbound.errors import ModelError
from lowerbound.networks.resnet import Block
from lowerbound.transforms.base import Bijection, Chain
from lowerbound.transforms.maps import Conditioner
from lowerbound.transforms.splines import rational_quadratic

SPREAD = 1e-6  # the least standard deviation that a channel is taken to have


class ActNorm(Bijection):
    r"""A scale and a shift for each channel (Kingma & Dhariwal 2018, Glow, https://arxiv.org/abs/1807.03039, section
    3.1): z = e^s u + b.

    `awaits`: the next batch of z that goes to u sets both, so that u has mean 0 and variance 1 in every channel.
    """

    awaits = False

    def __init__(self, channels: int):
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(channels, 1, 1))
        self.shift = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor, c: Tensor | None = None, inverse: bool = False) -> tuple[Tensor, Tensor]:
        if self.awaits and inverse:
            self._set(x)
        s, b = widened(self.log_scale), widened(self.shift)
        log_det = (s.sum() * math.prod(x.shape[2:])).expand(x.shape[0])
        return ((x - b) * torch.exp(-s) if inverse else x * torch.exp(s) + b), log_det

    @torch.no_grad()
    def _set(self, z: Tensor) -> None:
        variance, mean = torch.var_mean(z, (0, 2, 3), correction=0)
        self.shift.copy_(mean[:, None, None])
        self.log_scale.copy_(variance.sqrt().clamp(min=SPREAD).log()[:, None, None])
        self.awaits = False


class Mixing(Bijection):
    r"""An invertible 1x1 convolution (Kingma & Dhariwal 2018, Glow, https://arxiv.org/abs/1807.03039, section 3.2); at
    first a random rotation of the channels.

    .. math:: u_{hw} = W z_{hw}, \qquad W = P L (U + \mathrm{diag}(s)), \qquad
        \log |\det \partial u / \partial z| = H W \sum \log |s|

    P is a permutation and stays, L is lower triangular with ones on the diagonal, U strictly upper triangular, and of s
    the signs stay: W can be inverted unless an |s| leaves the range of floating point.
    """

    permutation: Tensor
    sign: Tensor

    def __init__(self, channels: int):
        super().__init__()
        rotation, _ = torch.linalg.qr(noise.randn((channels, channels)))
        P, L, U = torch.linalg.lu(rotation)
        self.register_buffer("permutation", P)
        self.register_buffer("sign", U.diagonal().sign())
        self.lower = nn.Parameter(L.tril(-1))
        self.upper = nn.Parameter(U.triu(1))
        self.log_diagonal = nn.Parameter(U.diagonal().abs().log())

    @property
    def weight(self) -> Tensor:
        """W [C, C]."""
        P, sign, lower, upper, log_s = map(
            widened, (self.permutation, self.sign, self.lower, self.upper, self.log_diagonal)
        )
        L = lower.tril(-1) + torch.eye(len(lower), dtype=lower.dtype, device=lower.device)
        return P @ L @ (upper.triu(1) + torch.diag(sign * log_s.exp()))

    def forward(self, x: Tensor, c: Tensor | None = None, inverse: bool = False) -> tuple[Tensor, Tensor]:
        W = self.weight
        if not inverse:
            W = torch.linalg.inv(W.double()).to(W.dtype)
        log_det = (-widened(self.log_diagonal).sum() * math.prod(x.shape[2:])).expand(x.shape[0])
        return F.conv2d(x, W[:, :, None, None]), log_det

    def check(self, name: str) -> None:
        """Raise ModelError where W can't be inverted in its floating-point type."""
        W = self.weight.detach()
        condition = float(torch.linalg.cond(W.double())) if bool(W.isfinite().all()) else math.inf
        if not condition < 1 / torch.finfo(W.dtype).eps:
            raise ModelError(
                f"{name}: this 1x1 convolution is singular (its condition number is {condition:.2g}), so that nothing "
                "can be drawn or encoded; train with a smaller train.optimizer.lr"
            )


@dataclass(frozen=True)
class Coupled:
    """How the couplings of a flow are built."""

    width: int  # channels of their networks
    blocks: int = 0  # residual ones, in each of them
    bound: float = 2.0  # of the log-scale of one affine coupling
    bins: int | None = None  # of rational-quadratic splines; None: affine
    tail: float = 4.0  # beyond which splines are the identity

    def between(self) -> nn.Module:
        """What a network is made of between its first convolution of 3x3 and its last."""
        if self.blocks:
            return nn.Sequential(*(Block(self.width) for _ in range(self.blocks)))
        return nn.Sequential(nn.SiLU(), nn.Conv2d(self.width, self.width, 1))

    def coupling(self, channels: int, context: int) -> "ChannelCoupling":
        kind = AffineChannels if self.bins is None else SplineChannels
        return kind(channels, context, self)


class ChannelCoupling(Bijection):
    """The second half of a map's channels moves, by what a network says of the first and of c; at first it stays."""

    numbers: int  # that say how one number moves

    def __init__(self, channels: int, context: int, how: Coupled):
        super().__init__()
        self.how = how
        self.kept = channels // 2
        out = self.numbers * (channels - self.kept)
        self.network = Conditioner(self.kept, context, how.width, how.between(), out)

    def forward(self, x: Tensor, c: Tensor | None = None, inverse: bool = False) -> tuple[Tensor, Tensor]:
        kept, moved = x.split([self.kept, x.shape[1] - self.kept], 1)
        dtype = self.network.last.weight.dtype
        h = widened(self.network(kept.to(dtype), None if c is None else c.to(dtype)))
        moved, log_slope = self._moved(moved, h.unflatten(1, (self.numbers, moved.shape[1])), inverse)
        return torch.cat([kept, moved], 1), log_slope.flatten(1).sum(1)

    @abstractmethod
    def _moved(self, x: Tensor, h: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        """Each number of x [B, C, H, W] by h [B, numbers, C, H, W], or back, and the logarithms of the slopes forth."""


class AffineChannels(ChannelCoupling):
    r"""z = u e^s + t (Dinh et al. 2017, Real NVP, https://arxiv.org/abs/1605.08803, eq. 4); s is kept in (-bound,
    bound) by a hyperbolic tangent."""

    numbers = 2

    def _moved(self, x: Tensor, h: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        s, t = h.unbind(1)
        s = self.how.bound * torch.tanh(s / self.how.bound)
        return ((x - t) * torch.exp(-s) if inverse else x * torch.exp(s) + t), s


class SplineChannels(ChannelCoupling):
    """By rational-quadratic splines (Durkan et al. 2019, Neural Spline Flows, https://arxiv.org/abs/1906.04032)."""

    def __init__(self, channels: int, context: int, how: Coupled):
        self.numbers = 3 * (how.bins or 2) - 1
        super().__init__(channels, context, how)

    def _moved(self, x: Tensor, h: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        return rational_quadratic(x, h.movedim(1, -1), self.how.tail, inverse)


class FirstHalf(Bijection):
    """The first half of a map's channels goes through a bijection, the others stay."""

    def __init__(self, bijection: Bijection):
        super().__init__()
        self.bijection = bijection

    def forward(self, x: Tensor, c: Tensor | None = None, inverse: bool = False) -> tuple[Tensor, Tensor]:
        first, second = x.chunk(2, 1)
        first, log_det = self.bijection(first, c, inverse)
        return torch.cat([first, second], 1), log_det


class Squeezed(Bijection):
    """A map [C, H, W] goes through a bijection as one of [4C, H/2, W/2], and comes back."""

    def __init__(self, bijection: Bijection):
        super().__init__()
        self.bijection = bijection

    def forward(self, x: Tensor, c: Tensor | None = None, inverse: bool = False) -> tuple[Tensor, Tensor]:
        x, log_det = self.bijection(F.pixel_unshuffle(x, 2), c, inverse)
        return F.pixel_shuffle(x, 2), log_det


def multiscale(channels: int, context: int, steps: int, scales: int, how: Coupled) -> Bijection:
    r"""A flow of several scales (Dinh et al. 2017, Real NVP, section 3.6; Kingma & Dhariwal 2018, Glow, figure 2b), of
    maps of so many channels whose sizes can be halved `scales` times.

    From z to u: z [C, H, W] is squeezed to [4C, H/2, W/2] and goes through so many steps. The first half a of the
    channels then goes on to the next scale, and the second is measured by a normal that a gives,

    .. math:: u_b = (b - \mu(a)) / \sigma(a),

    so that N(0, I) is the base of all numbers alike. Every number of u is put back to where it came from in z.
    """
    C = 4 * channels
    parts = [part for _ in range(steps) for part in step(C, context, how)]
    if scales > 1:
        inner = multiscale(C // 2, context, steps, scales - 1, how)
        parts = [FirstHalf(inner), AffineChannels(C, context, how), *parts]
    return Squeezed(Chain(parts))


def step(channels: int, context: int, how: Coupled) -> tuple[Bijection, ...]:
    """A step of Glow (figure 2a), from u to z: from z to u it is a normalization, a 1x1 convolution and a coupling."""
    return how.coupling(channels, context), Mixing(channels), ActNorm(channels)

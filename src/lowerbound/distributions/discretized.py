"""Densities over real numbers, cut into bins at the values a pixel takes."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lowerbound import noise
from lowerbound.distributions.pixels import FAR, Pixels, _pick, _take
from lowerbound.space import Space
from lowerbound.units import from_unit, to_unit, unit_bin


class DiscretizedNormal(Pixels):
    r"""Each value k has the normal's mass on [k - 1/2, k + 1/2]; the lowest and highest take the tails.

    .. math:: P(k) = \Phi((k + 1/2 - \mu) / s) - \Phi((k - 1/2 - \mu) / s)

    The decoder of Ho et al. (2020), DDPM, eq. 13, https://arxiv.org/abs/2006.11239. In the left tail, where every bin
    is put by symmetry, with lower edge b and upper edge a, log P = log Φ(a) + log(1 - e^{log Φ(b) - log Φ(a)}).

    Means and log-scales on the scale of [-1, 1]: [*batch, *event].

    Example:
        >>> d = DiscretizedNormal(torch.zeros(5, 3), torch.zeros(5, 3), Space((3,), levels=17))
        >>> d.mean[0].tolist(), d.log_prob(d.sample()).shape
        ([8.0, 8.0, 8.0], torch.Size([5]))
    """

    def __init__(self, loc: Tensor, log_scale: Tensor, space: Space):
        shape = torch.broadcast_shapes(loc.shape, log_scale.shape)
        super().__init__(shape[: len(shape) - len(space.shape)], space)
        self.loc = loc
        self.log_scale = log_scale

    def log_prob(self, value: Tensor) -> Tensor:
        """log P(x) in nats, [...]."""
        lower, upper = _edges(value, self.levels, self.loc.dtype)
        inverse = torch.exp(-self.log_scale)
        a, b = (upper - self.loc) * inverse, (lower - self.loc) * inverse
        right = a + b > 0
        a, b = torch.where(right, -b, a), torch.where(right, -a, b)
        log_a: Tensor = _LogNormalCdf.apply(a)  # pyright: ignore[reportAssignmentType]
        gap = (log_a - _LogNormalCdf.apply(b)).clamp_min(torch.finfo(a.dtype).tiny)
        return self._sum(log_a + torch.log(-torch.expm1(-gap)))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """The value nearest to a draw of the normal."""
        with torch.no_grad():
            shape = self._extended_shape(torch.Size(sample_shape))
            eps = noise.randn(shape, dtype=self.loc.dtype, device=self.loc.device, axes=noise.behind(sample_shape))
            return _nearest(self.loc + self.log_scale.exp() * eps, self.levels).to(self.space.dtype)

    @property
    def mean(self) -> Tensor:
        return _mean_value(torch.special.ndtr, self.loc, self.log_scale, self.levels)

    @property
    def mode(self) -> Tensor:
        """The value nearest to the mean of the normal (the tails' mass at the edges aside)."""
        return _nearest(self.loc, self.levels).to(self.space.dtype)


class _LogNormalCdf(torch.autograd.Function):
    """log Φ(x), with its gradient φ(x) / Φ(x) right in the far left tail too, where torch's own (2.13) is not."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return torch.special.log_ndtr(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        (x,) = ctx.saved_tensors
        return grad * math.sqrt(2 / math.pi) / torch.special.erfcx(-x / math.sqrt(2))


def _edges(value: Tensor, levels: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The edges of the values' bins on the scale of [-1, 1], the outer ones far away."""
    s = to_unit(value.to(dtype), levels)
    half = unit_bin(levels) / 2
    return torch.where(value == 0, -FAR, s - half), torch.where(value == levels - 1, FAR, s + half)


def _nearest(s: Tensor, levels: int) -> Tensor:
    """The pixel value nearest to s in [-1, 1], not cast."""
    return from_unit(s, levels).round().clamp(0, levels - 1)


def _mean_value(cdf: Callable[[Tensor], Tensor], loc: Tensor, log_scale: Tensor, levels: int) -> Tensor:
    """E[k] = Σ_j P(k >= j) over j = 1 ... levels - 1, with P(k >= j) = cdf((loc - edge_j) / s) for symmetric noise."""
    inverse = torch.exp(-log_scale)
    total = torch.zeros_like(loc * inverse)
    for j in range(1, levels):
        total = total + cdf((loc - to_unit(j - 0.5, levels)) * inverse)
    return total


class LogisticMixture(Pixels):
    r"""A mixture of discretized logistics for all channels of a pixel together, each after the ones before it.

    .. math::
        P(x) = \sum_m \pi_m \prod_c \left[\sigma((x_c + 1/2 - \mu_{mc}) / s_{mc})
               - \sigma((x_c - 1/2 - \mu_{mc}) / s_{mc})\right], \quad
        \mu_{mc} = \mathrm{loc}_{mc} + \sum_{j < c} \alpha_{mcj}\, x_j

    The lowest value takes the left tail, the highest the right one. Salimans et al. (2017), PixelCNN++,
    sections 2.1 and 2.2, https://arxiv.org/abs/1701.05517; as in its code one component is chosen for the whole
    pixel. Later channels couple to the rounded earlier ones, in sampling too.

    Of an event [C, *grid] (or [*grid], C = 1), on the scale of [-1, 1], with M components:
    logits [*batch, M, *grid], loc and log_scale [*batch, M, C, *grid], coupling (α, in the order
    21, 31, 32, ...) [*batch, M, C(C-1)/2, *grid].

    Example:
        >>> zeros = torch.zeros(5, 10, 3, 8, 8)
        >>> d = LogisticMixture(zeros[:, :, 0], zeros, zeros, zeros, Space((3, 8, 8), levels=256))
        >>> d.log_prob(d.sample((7,))).shape
        torch.Size([7, 5])
    """

    def __init__(self, logits: Tensor, loc: Tensor, log_scale: Tensor, coupling: Tensor, space: Space):
        grid_dims = len(space.shape) - 1 if len(space.shape) == 3 else len(space.shape)
        self.channel = -grid_dims - 1  # the channels' axis; in logits and densities of pixels, the components'
        self.component = self.channel - 1  # the components' axis
        super().__init__(logits.shape[: logits.dim() + self.channel], space)
        self.logits = logits
        self.loc = loc
        self.log_scale = log_scale
        self.coupling = coupling

    def log_prob(self, value: Tensor) -> Tensor:
        """log P(x) in nats, [...]."""
        x = value if len(self.space.shape) == 3 else value.unsqueeze(self.channel)  # [..., C, *grid]
        marks = to_unit(x.to(self.loc.dtype), self.levels), *_edges(x, self.levels, self.loc.dtype)
        s, lower, upper = (m.unsqueeze(self.component).unbind(self.channel) for m in marks)  # C of [..., 1, *grid]
        loc, log_scale, coupling = (p.unbind(self.channel) for p in (self.loc, self.log_scale, self.coupling))
        joint = F.log_softmax(self.logits, self.channel)  # log P(m, x_1 ... x_c), [..., M, *grid]
        for c in range(len(s)):
            joint = joint + _log_logistic_mass(lower[c], upper[c], _coupled(loc[c], coupling, s[:c]), log_scale[c])
        pixels = torch.logsumexp(joint, self.channel)  # [..., *grid]
        return pixels.sum(tuple(range(self.channel + 1, 0))) if self.channel < -1 else pixels

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with torch.no_grad():
            shape = self._extended_shape(torch.Size(sample_shape))
            chosen = _pick(self.logits, self._one_channel(shape), self.channel, noise.behind(sample_shape))
            axes = noise.behind(sample_shape)
            u = noise.rand(self._all_channels(shape), dtype=self.loc.dtype, device=self.loc.device, axes=axes)
            return self._draw(chosen, torch.logit(u, eps=torch.finfo(u.dtype).eps / 2))  # u may be 0

    @property
    def mean(self) -> Tensor:
        """The expected value; exact for a first channel, while later ones couple to the components' means of it."""
        loc, log_scale, coupling = (p.unbind(self.channel) for p in (self.loc, self.log_scale, self.coupling))
        means: list[Tensor] = []  # of each component, [..., M, *grid]
        for c in range(len(loc)):
            mean = _coupled(loc[c], coupling, [to_unit(m, self.levels) for m in means])
            means.append(_mean_value(torch.sigmoid, mean, log_scale[c], self.levels))
        weights = self.logits.softmax(self.channel)
        return self._as_event([(weights * m).sum(self.channel) for m in means])

    @property
    def mode(self) -> Tensor:
        """The value nearest to the mean of the heaviest component: the limit of temperature 0."""
        with torch.no_grad():
            chosen = self.logits.argmax(self.channel, keepdim=True)
            return self._draw(chosen, torch.zeros_like(self.loc.select(self.component, 0)))

    def _draw(self, chosen: Tensor, logistic: Tensor) -> Tensor:
        """Components [..., 1, *grid] and logistic noise [..., C, *grid] -> the event."""
        index = chosen.unsqueeze(self.channel)
        parameters = (_take(p, index, self.component) for p in (self.loc, self.log_scale, self.coupling))
        loc, log_scale, coupling = (p.unbind(self.channel) for p in parameters)
        values: list[Tensor] = []
        for c, e in enumerate(logistic.unbind(self.channel)):
            mean = _coupled(loc[c], coupling, [to_unit(v, self.levels) for v in values])
            values.append(_nearest(mean + log_scale[c].exp() * e, self.levels))
        return self._as_event(values).to(self.space.dtype)

    def _as_event(self, channels: list[Tensor]) -> Tensor:
        return torch.stack(channels, self.channel) if len(self.space.shape) == 3 else channels[0]

    def _one_channel(self, shape: torch.Size) -> list[int]:
        """[..., *event] -> [..., *grid]."""
        return [*shape[: len(shape) - len(self.space.shape)], *self.loc.shape[self.loc.dim() + self.channel + 1 :]]

    def _all_channels(self, shape: torch.Size) -> list[int]:
        """[..., *event] -> [..., C, *grid]."""
        return [*shape[: len(shape) - len(self.space.shape)], *self.loc.shape[self.loc.dim() + self.channel :]]


def _coupled(loc: Tensor, coupling: Sequence[Tensor], earlier: Sequence[Tensor]) -> Tensor:
    """The mean of the channel after the earlier ones, which are in [-1, 1]; `coupling` in the order 21, 31, 32, ..."""
    first = len(earlier) * (len(earlier) - 1) // 2
    for j, s in enumerate(earlier):
        loc = loc + coupling[first + j] * s
    return loc


def _log_logistic_mass(lower: Tensor, upper: Tensor, loc: Tensor, log_scale: Tensor) -> Tensor:
    r"""log(σ(a) - σ(b)) = log σ(a) + log σ(-b) + log(1 - e^{b - a}), which holds for bins of any width anywhere."""
    inverse = torch.exp(-log_scale)
    a, b = (upper - loc) * inverse, (lower - loc) * inverse
    return F.logsigmoid(a) + F.logsigmoid(-b) + torch.log(-torch.expm1((lower - upper) * inverse))

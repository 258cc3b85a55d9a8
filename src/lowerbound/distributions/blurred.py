"""Whole numbers seen through a normal blur."""

import math

import torch
from torch import Tensor

from lowerbound import noise
from lowerbound.distributions.pixels import FAR, Pixels, _pick
from lowerbound.space import Space

NEGLIGIBLE = 9.0  # standard deviations away, at which e^(-u²/2) is below what float64 tells from 0 beside 1


class Blurred(Pixels):
    r"""Each element is the value k with a probability in proportion to the normal density of what is seen of it.

    .. math:: P(k) \propto e^{-(c - k)^2 / 2 r^2}, \quad 0 \le k < \mathrm{levels}

    Centre c: [*batch, *event], in values, not rounded. r: a scalar, in values. reach: so many values on both sides of
    the nearest are looked at, where the others' probability is known to be negligible (`reach_of`); None: all.

    Example:
        >>> d = Blurred(torch.full((5, 3), 1.4), torch.tensor(0.2), Space((3,), levels=256), reach=reach_of(0.2))
        >>> d.log_prob(torch.ones(5, 3, dtype=torch.uint8))[0], d.mode[0].tolist()
        (tensor(-0.2367), [1, 1, 1])
    """

    def __init__(self, centre: Tensor, r: Tensor, space: Space, reach: int | None = None):
        super().__init__(centre.shape[: centre.dim() - len(space.shape)], space)
        self.centre, self.r = centre, r
        self.axis = -len(space.shape) - 1
        reach = self.levels if reach is None else reach
        whole = 2 * reach + 1 >= self.levels
        self.offsets = torch.arange(self.levels if whole else 2 * reach + 1, device=centre.device)
        self.first = torch.zeros_like(centre) if whole else self._nearest - reach  # the value of offset 0

    @property
    def _nearest(self) -> Tensor:
        return self.centre.detach().round().clamp(0, self.levels - 1)

    def _exponent(self, k: Tensor, centre: Tensor) -> Tensor:
        return -0.5 * ((centre - k) / self.r).square()

    @property
    def _logits(self) -> Tensor:
        """Of the values that are looked at: [*batch, offsets, *event]."""
        k = self.first.unsqueeze(self.axis) + self.offsets.reshape(-1, *[1] * len(self.space.shape))
        outside = (k < 0) | (k >= self.levels)
        return self._exponent(k, self.centre.unsqueeze(self.axis)).masked_fill(outside, -FAR)

    def log_prob(self, value: Tensor) -> Tensor:
        """log P(x) in nats, [...]."""
        return self._sum(self._exponent(value.to(self.centre.dtype), self.centre) - self._logits.logsumexp(self.axis))

    def sample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:
        with torch.no_grad():
            shape = self._extended_shape(torch.Size(sample_shape))
            place = _pick(self._logits, shape, self.axis, noise.behind(sample_shape)).squeeze(self.axis)
            return (self.first + place).clamp(0, self.levels - 1).to(self.space.dtype)

    @property
    def mean(self) -> Tensor:
        offset = (self._logits.softmax(self.axis).movedim(self.axis, -1) * self.offsets).sum(-1)
        return (self.first + offset).clamp(0, self.levels - 1)

    @property
    def mode(self) -> Tensor:
        return self._nearest.to(self.space.dtype)


def reach_of(r: float) -> int:
    """How many values on both sides of the nearest are not negligible, for a blur of r values."""
    return math.ceil(NEGLIGIBLE * r) + 1

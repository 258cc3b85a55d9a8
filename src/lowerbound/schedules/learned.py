"""Schedules that are learned."""

import math
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from lowerbound import noise
from lowerbound.schedules.base import Pull, Schedule
from lowerbound.space import Space

INIT = 0.01  # standard deviation of a network's first weights


class Ends(nn.Module):
    """γ(0), and how much larger γ(1) is: parameters, the latter's logarithm."""

    def __init__(self, low: float, high: float):
        super().__init__()
        self.low = nn.Parameter(torch.tensor(low))
        self.log_width = nn.Parameter(torch.tensor(math.log(high - low)))

    def forward(self) -> tuple[Tensor, Tensor]:
        return self.low.double(), self.log_width.double().exp()


class LearnedEnds(Schedule):
    r"""Linear in the logarithm of the signal-to-noise ratio, between ends that are learned with the bound.

    As the CIFAR-10 model of Kingma et al. (2021) is in its code (https://github.com/google-research/vdm), but that the
    width is an exponential in the place of an absolute value.
    """

    learned: ClassVar[bool] = True

    class Config(Schedule.Config):
        def build(self, space: Space) -> "LearnedEnds":
            return LearnedEnds(self, space)

    def __init__(self, config: Config, space: Space):
        super().__init__(config, space)
        self.ends = Ends(*self.begins)

    def forward(self, t: Tensor, pull: Pull | None = None) -> Tensor:
        low, width = self.ends()
        return low + width * t.double()

    def slope(self, t: Tensor, pull: Pull | None = None) -> Tensor:
        return self.ends()[1].expand(t.shape)


class Monotone(Schedule):
    r"""A network that grows by construction, between ends that are learned too.

    .. math:: \gamma(t) = \gamma_0 + (\gamma_1 - \gamma_0) \frac{g(t) - g(0)}{g(1) - g(0)}, \quad
        g(t) = |a| t + \frac1n \sum_j |c_j| (2\, \mathrm{sigmoid}(|w_j| (2 t - 1) + b_j) - 1)

    Kingma et al. (2021), appendix H. The ends follow the gradient of the bound. In continuous time what lies between
    them does not change the bound's mean, only its variance, and follows the gradient of that: by `pull`, which a
    model gives, the gradient of each time's square (appendix I.2 there).
    """

    learned: ClassVar[bool] = True

    class Config(Schedule.Config):
        features: int = Field(default=1024, gt=0)  # n

        def build(self, space: Space) -> "Monotone":
            return Monotone(self, space)

    def __init__(self, config: Config, space: Space):
        super().__init__(config, space)
        low, high = self.begins
        self.ends = Ends(low, high)
        self.a = nn.Parameter(torch.tensor(high - low))
        self.w, self.c = (nn.Parameter(INIT * noise.randn((config.features,))) for _ in range(2))
        self.b = nn.Parameter(torch.zeros(config.features))

    def _g(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """g(t), and its slope."""
        a, w, c = (p.double().abs() for p in (self.a, self.w, self.c))
        s = torch.sigmoid(w * (2 * t.double().unsqueeze(-1) - 1) + self.b.double())  # [..., n]
        g = a * t + (c * (2 * s - 1)).mean(-1)
        return g, a + (4 * c * w * s * (1 - s)).mean(-1)

    def _range(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """g(0) and g(1) - g(0)."""
        first, last = self._g(torch.arange(2, device=t.device, dtype=torch.float64))[0]
        return first, last - first

    def forward(self, t: Tensor, pull: Pull | None = None) -> Tensor:
        low, width = self.ends()
        first, whole = self._range(t)
        return low + width * _pulled((self._g(t)[0] - first) / whole, pull)

    def slope(self, t: Tensor, pull: Pull | None = None) -> Tensor:
        return self.ends()[1] * _pulled(self._g(t)[1] / self._range(t)[1], pull)


def _pulled(inside: Tensor, pull: Pull | None) -> Tensor:
    if pull is not None and inside.requires_grad:
        inside.register_hook(pull)
    return inside

"""Schedules without anything to learn."""

import math

import torch
from torch import Tensor

from lowerbound.schedules.base import Pull, Schedule
from lowerbound.space import Space


class LogLinear(Schedule):
    r"""Linear in the logarithm of the signal-to-noise ratio: :math:`\gamma(t) = \gamma_0 + (\gamma_1 - \gamma_0) t`."""

    class Config(Schedule.Config):
        def build(self, space: Space) -> "LogLinear":
            return LogLinear(self, space)

    def forward(self, t: Tensor, pull: Pull | None = None) -> Tensor:
        low, high = self.begins
        return low + (high - low) * t.double()

    def slope(self, t: Tensor, pull: Pull | None = None) -> Tensor:
        low, high = self.begins
        return torch.full_like(t, high - low, dtype=torch.float64)


class Cosine(Schedule):
    r"""α falls as a cosine, between the ends: :math:`\gamma(t) = 2 \log \tan(\theta_0 + (\theta_1 - \theta_0) t)`,
    :math:`\theta = \arctan e^{\gamma / 2}`.

    Nichol & Dhariwal (2021), https://arxiv.org/abs/2102.09672, as Ho & Salimans (2022),
    https://arxiv.org/abs/2207.12598, keep it between two ends.
    """

    class Config(Schedule.Config):
        def build(self, space: Space) -> "Cosine":
            return Cosine(self, space)

    def _angle(self, t: Tensor) -> tuple[Tensor, float]:
        """θ, and its slope."""
        low, high = (math.atan(math.exp(end / 2)) for end in self.begins)
        return low + (high - low) * t.double(), high - low

    def forward(self, t: Tensor, pull: Pull | None = None) -> Tensor:
        return 2 * self._angle(t)[0].tan().log()

    def slope(self, t: Tensor, pull: Pull | None = None) -> Tensor:
        theta, slope = self._angle(t)
        return 4 * slope / (2 * theta).sin()


class BetaLinear(Schedule):
    r"""The rate of the noise grows linearly with time, as in DDPM:
    :math:`\gamma(t) = \log(e^{b(t)} - 1), b(t) = b_0 + (b_1 - b_0) t^2`, with :math:`\alpha_t^2 = e^{-b(t)}`.

    Ho et al. (2020), https://arxiv.org/abs/2006.11239, whose T = 1000 steps are b(t) = 10⁻⁴ + 10 t² (Kingma et al.
    2021): gamma_min=-9.2, gamma_max=10.
    """

    class Config(Schedule.Config):
        def build(self, space: Space) -> "BetaLinear":
            return BetaLinear(self, space)

    def _b(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """b, and its slope."""
        t = t.double()
        low, high = (math.log1p(math.exp(end)) for end in self.begins)
        return low + (high - low) * t**2, 2 * (high - low) * t

    def forward(self, t: Tensor, pull: Pull | None = None) -> Tensor:
        return self._b(t)[0].expm1().log()

    def slope(self, t: Tensor, pull: Pull | None = None) -> Tensor:
        b, slope = self._b(t)
        return slope / -torch.expm1(-b)

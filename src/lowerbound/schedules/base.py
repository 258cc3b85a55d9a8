"""How much noise there is at which time."""

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from lowerbound.config import Component
from lowerbound.errors import ConfigError
from lowerbound.space import Space
from lowerbound.units import unit_bin

APART = 6.0  # standard deviations of the noise at time 0 that neighbouring values are apart, where no end is given
REAL = -8.0  # the end at time 0 where events are real numbers
Pull = Callable[[Tensor], Tensor]  # a gradient [...] of each time -> the one that a schedule's inside follows


def alpha(gamma: Tensor) -> Tensor:
    """The factor of the signal, of γ: sqrt(sigmoid(-γ)) (Kingma et al. 2021, eq. 4)."""
    return torch.sigmoid(-gamma).sqrt()


def sigma(gamma: Tensor) -> Tensor:
    """The standard deviation of the noise, of γ: sqrt(sigmoid(γ))."""
    return torch.sigmoid(gamma).sqrt()


class Schedule(nn.Module):
    r"""γ(t), which grows with the time t in [0, 1]: minus the logarithm of the signal-to-noise ratio.

    .. math:: q(z_t|x) = N(z_t; \alpha_t x, \sigma_t^2 I), \quad \sigma_t^2 = \mathrm{sigmoid}(\gamma(t)), \quad
        \alpha_t^2 = 1 - \sigma_t^2, \quad \mathrm{SNR}(t) = e^{-\gamma(t)}

    Kingma et al. (2021), Variational Diffusion Models, https://arxiv.org/abs/2107.00630, eq. 1 to 5. Times and γ are in
    float64 (there are few, and the bound has differences of them). It grows by construction, whatever its parameters.
    Subclasses are final, with a nested Config.
    """

    class Config(Component, abstract=True):
        # γ(0), and γ(1). None: -8 for real events, and for pixels what keeps neighbouring values 6 standard deviations
        # of the noise apart: -13.3 for 256 of them
        gamma_min: float | None = Field(default=None, ge=-40, le=40)
        gamma_max: float = Field(default=5.0, ge=-40, le=40)  # log of noise over signal at time 1, γ(1)

        @abstractmethod
        def build(self, space: Space) -> "Schedule": ...

        def ends(self, space: Space) -> tuple[float, float]:
            """γ(0) and γ(1) for events of a space. Raises ConfigError unless they are in this order."""
            low, high = self.gamma_min, self.gamma_max
            if low is None:
                low = REAL if space.levels is None else 2 * math.log(unit_bin(space.levels + 1) / APART)
            if low >= high:
                raise ConfigError(
                    f"model.schedule.gamma_max={high:g}: there is more noise at time 1 than at time 0, where gamma_min "
                    f"is {low:.4g}; set a larger model.schedule.gamma_max, such as {max(5, math.ceil(low) + 5)}"
                )
            return low, high

    def __init__(self, config: Config, space: Space):
        super().__init__()
        self.begins = config.ends(space)  # γ(0) and γ(1) before any training

    learned: ClassVar[bool] = False  # whether γ(0) and γ(1) are

    @abstractmethod
    def forward(self, t: Tensor, pull: Pull | None = None) -> Tensor:
        """γ(t) of times in [0, 1], float64, of their shape.

        pull: where what lies between the ends is learned, its gradient goes through this (see `Monotone`).
        """

    @abstractmethod
    def slope(self, t: Tensor, pull: Pull | None = None) -> Tensor:
        """dγ/dt, float64, of the times' shape."""

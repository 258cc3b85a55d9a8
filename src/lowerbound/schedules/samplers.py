"""From noise to an event, step by step, and back."""

from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from lowerbound import noise
from lowerbound.config import Component
from lowerbound.schedules.base import alpha, sigma

Noise = Callable[[Tensor, Tensor], Tensor]  # z [n, *shape] and its γ, a scalar -> the noise in it


class Sampler(Component, abstract=True):
    """How z_s comes of z_t; s < t where noise is taken away. γ_t and γ_s are scalars."""

    deterministic: ClassVar[bool] = True  # whether it goes along the probability flow, so that there is a way back
    steps: int | None = Field(default=None, gt=0)  # None: those of the model, and 100 of one in continuous time

    def step(self, z: Tensor, t: Tensor, s: Tensor, noise_of: Noise, temperature: float = 1.0) -> Tensor:
        """z_s [n, *shape], for z_t and the γ of both times. temperature: times the noise that is added."""
        mean, deviation = self.moments(z, t, s, noise_of)
        return mean if deviation is None else mean + temperature * deviation * noise.randn_like(z)

    @abstractmethod
    def moments(self, z: Tensor, t: Tensor, s: Tensor, noise_of: Noise) -> tuple[Tensor, Tensor | None]:
        """The mean of z_s and its standard deviation, a scalar; None: there is none."""


class Ancestral(Sampler):
    r"""A draw of the model's own p(z_s|z_t) (Kingma et al. 2021, https://arxiv.org/abs/2107.00630):

    .. math:: z_s = \frac{\alpha_s}{\alpha_t} (z_t - \sigma_t c\, \hat\epsilon) + \sigma_s \sqrt{c}\, u, \quad
        c = 1 - e^{\gamma_s - \gamma_t}, \quad u \sim N(0, I)
    """

    deterministic: ClassVar[bool] = False

    def moments(self, z: Tensor, t: Tensor, s: Tensor, noise_of: Noise) -> tuple[Tensor, Tensor | None]:
        c = -torch.expm1(s - t)
        mean = alpha(s) / alpha(t) * (z - sigma(t) * c * noise_of(z, t))
        return mean, sigma(s) * c.sqrt()


class DDIM(Sampler):
    r"""Along the probability flow, to first order: :math:`z_s = \alpha_s \hat x + \sigma_s \hat\epsilon`.

    Song et al. (2021), Denoising Diffusion Implicit Models, https://arxiv.org/abs/2010.02502, with η = 0. In
    :math:`\bar z = z / \alpha` and :math:`\bar\sigma = \sigma / \alpha` the flow is
    :math:`d\bar z / d\bar\sigma = \hat\epsilon`, and this Euler's step of it.
    """

    def moments(self, z: Tensor, t: Tensor, s: Tensor, noise_of: Noise) -> tuple[Tensor, Tensor | None]:
        return alpha(s) * (z / alpha(t) + ((s / 2).exp() - (t / 2).exp()) * noise_of(z, t)), None


class Heun(Sampler):
    """Along the probability flow, to second order: DDIM's step, then once more with the mean of the noises at both of
    its ends. Two passes of the network a step (Karras et al. 2022, https://arxiv.org/abs/2206.00364)."""

    def moments(self, z: Tensor, t: Tensor, s: Tensor, noise_of: Noise) -> tuple[Tensor, Tensor | None]:
        start, way = z / alpha(t), (s / 2).exp() - (t / 2).exp()
        first = noise_of(z, t)
        second = noise_of(alpha(s) * (start + way * first), s)
        return alpha(s) * (start + way * (first + second) / 2), None

"""The visible units of a Boltzmann machine: what an event is to the energy, and how it is drawn given the hidden units.

With a bias b and what the hidden units put in, m, both [..., V], they have the part g(v) of minus the energy, and
s(v)ᵀ m. Given the hidden units they are independent, with a distribution that depends on a = b + m.
"""

import math
from abc import abstractmethod
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Distribution

from lowerbound import noise
from lowerbound.config import Component
from lowerbound.distributions import Bernoulli, dequantized
from lowerbound.errors import ConfigError
from lowerbound.families.base import normal_over
from lowerbound.space import Density, Space
from lowerbound.units import to_unit

SMALLEST = 1e-3  # variance that learned units begin at


def flipped(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Bits that are 1 with probability sigmoid(logits / T), as numbers of the logits' type; at T = 0 the likelier."""
    if temperature == 0:
        return (logits > 0).to(logits.dtype)
    p = (logits if temperature == 1 else logits / temperature).sigmoid()
    return (noise.rand_like(p) < p).to(p.dtype)  # in half the time of torch.bernoulli


class Visible(Component, abstract=True):
    """A layer of visible units v [..., V]."""

    countable: ClassVar[bool] = False  # whether they have two values each

    @classmethod
    def example(cls) -> "Visible":
        return cls()

    @abstractmethod
    def density(self, space: Space) -> Density:
        """What log p(x|h) over this space is worth. Raises ConfigError for events that are none of such units."""

    def learned_scale(self, V: int) -> Tensor | None:
        """log σ of each unit at the beginning, where it is learned; None: it is not."""
        return None

    @abstractmethod
    def begun_at(self, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """The biases b, and log σ, of units that are independent of each other and have these moments, [V] each."""

    @abstractmethod
    def values(self, x: Tensor, space: Space, dtype: torch.dtype) -> tuple[Tensor, float]:
        """Events [..., *space.shape] as v [..., V], and log of how much of the scale of v a value takes up: what a
        density of v is multiplied with to be a probability of x. Where values are dequantized, noise is drawn anew."""

    @abstractmethod
    def centres(self, x: Tensor, space: Space, dtype: torch.dtype) -> Tensor:
        """The same without noise, in the middle of the values' bins: [..., V]."""

    @abstractmethod
    def log_g(self, v: Tensor, b: Tensor, scale: Tensor) -> Tensor:
        """g(v), the part of minus the energy that does without hidden units: [...]."""

    @abstractmethod
    def seen(self, v: Tensor, scale: Tensor) -> Tensor:
        """s(v), what hidden units see of v: [..., V]."""

    @abstractmethod
    def log_total(self, a: Tensor, b: Tensor, scale: Tensor) -> Tensor:
        """The log of the sum, or integral, of exp(g(v) + s(v)ᵀ (a - b)) over all v: [...]."""

    @abstractmethod
    def draw(self, a: Tensor, scale: Tensor, temperature: float = 1.0) -> Tensor:
        """v of p(v|h), [..., V]."""

    @abstractmethod
    def over(self, a: Tensor, scale: Tensor, space: Space) -> Distribution:
        """p(x|h) over events of the space."""


class Binary(Visible):
    r"""Units of two values, with :math:`g(v) = b^T v, \; s(v) = v, \; p(v_i = 1|h) = \sigma(a_i)`."""

    countable: ClassVar[bool] = True

    def density(self, space: Space) -> Density:
        if space.levels != 2:
            what = "real numbers" if space.levels is None else f"of {space.levels} values"
            raise ConfigError(
                f"model.visible: binary units have two values, and these events are {what}; binarize them "
                "(data.binarize=true), or set model.visible=models.visibles.Gaussian"
            )
        return Density.EXACT

    def begun_at(self, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        return torch.logit(mean), torch.zeros_like(mean)

    def values(self, x: Tensor, space: Space, dtype: torch.dtype) -> tuple[Tensor, float]:
        return self.centres(x, space, dtype), 0.0

    def centres(self, x: Tensor, space: Space, dtype: torch.dtype) -> Tensor:
        return space.features(x).to(dtype).flatten(-len(space.shape))

    def log_g(self, v: Tensor, b: Tensor, scale: Tensor) -> Tensor:
        return (v * b).sum(-1)

    def seen(self, v: Tensor, scale: Tensor) -> Tensor:
        return v

    def log_total(self, a: Tensor, b: Tensor, scale: Tensor) -> Tensor:
        return F.softplus(a).sum(-1)

    def draw(self, a: Tensor, scale: Tensor, temperature: float = 1.0) -> Tensor:
        return flipped(a, temperature)

    def over(self, a: Tensor, scale: Tensor, space: Space) -> Distribution:
        return Bernoulli(a.unflatten(-1, space.shape), space)


class Gaussian(Visible):
    r"""Real units, with :math:`g(v) = -\sum_i (v_i - b_i)^2 / 2 \sigma_i^2, \; s(v)_i = v_i / \sigma_i^2, \;
    p(v_i|h) = N(a_i, \sigma_i^2)` (Cho et al. 2011, https://doi.org/10.1007/978-3-642-21735-7_2).

    Pixel values are dequantized to [-1, 1): `distributions.Dequantized`. learned: σ of each unit is; else it is 1.
    """

    learned: bool = False  # whether σ of each visible unit is; else it is 1

    def density(self, space: Space) -> Density:
        if space.levels is not None and not space.ordered:
            raise ConfigError("model.visible: Gaussian units are numbers, and these events are names (codes or labels)")
        return Density.EXACT if space.levels is None else Density.BOUND

    def learned_scale(self, V: int) -> Tensor | None:
        return torch.zeros(V) if self.learned else None

    def begun_at(self, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        return mean, 0.5 * variance.clamp(min=SMALLEST).log()

    def values(self, x: Tensor, space: Space, dtype: torch.dtype) -> tuple[Tensor, float]:
        if space.levels is None:
            return self.centres(x, space, dtype), 0.0
        s, log_bins = dequantized(x, space, dtype)
        return s.flatten(-len(space.shape)), log_bins

    def centres(self, x: Tensor, space: Space, dtype: torch.dtype) -> Tensor:
        s = x.to(dtype) if space.levels is None else to_unit(x.to(dtype) + 0.5, space.levels + 1)
        return s.flatten(-len(space.shape))

    def log_g(self, v: Tensor, b: Tensor, scale: Tensor) -> Tensor:
        return -0.5 * ((v - b) / scale).square().sum(-1)

    def seen(self, v: Tensor, scale: Tensor) -> Tensor:
        return v / scale**2

    def log_total(self, a: Tensor, b: Tensor, scale: Tensor) -> Tensor:
        return (0.5 * math.log(2 * math.pi) + scale.log() + 0.5 * (a**2 - b**2) / scale**2).sum(-1)

    def draw(self, a: Tensor, scale: Tensor, temperature: float = 1.0) -> Tensor:
        return a if temperature == 0 else a + temperature * scale * noise.randn_like(a)

    def over(self, a: Tensor, scale: Tensor, space: Space) -> Distribution:
        return normal_over(a.unflatten(-1, space.shape), scale.expand(a.shape[-1]).unflatten(-1, space.shape), space)

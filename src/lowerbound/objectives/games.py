"""What a discriminator and a generator each descend, and what keeps the discriminator smooth."""

from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from lowerbound import noise
from lowerbound.config import Component

Judge = Callable[[Tensor], Tensor]  # events [B, ...] -> D(x) [B], larger where they look real


class Game(Component, abstract=True):
    """The losses of a discriminator D and of a generator, of D(x) of real events and D(x̃) of drawn ones, [B] each."""

    judges: ClassVar[bool] = True  # whether D(x) > 0 says that x is real

    @abstractmethod
    def discriminator(self, real: Tensor, drawn: Tensor) -> Tensor:
        """What D descends: [B]."""

    @abstractmethod
    def generator(self, drawn: Tensor) -> Tensor:
        """What the generator descends: [B]."""


class NonSaturating(Game):
    r"""D(x) is the log-odds that x is real: Goodfellow et al. (2014), https://arxiv.org/abs/1406.2661.

    .. math:: L_D = -E[\log \sigma(D(x))] - E[\log(1 - \sigma(D(\tilde x)))], \quad L_G = -E[\log \sigma(D(\tilde x))]

    L_G is the one of section 3 there that does not saturate where D is sure. The best D is log p(x) - log p̃(x), and L_D
    is then 2 ln 2 - 2 JS(p, p̃).

    Example:
        >>> game, zero = NonSaturating(), torch.zeros(1)
        >>> round(float(game.discriminator(zero, zero)), 4), round(float(game.generator(zero)), 4)
        (1.3863, 0.6931)
    """

    def discriminator(self, real: Tensor, drawn: Tensor) -> Tensor:
        return F.softplus(-real) + F.softplus(drawn)

    def generator(self, drawn: Tensor) -> Tensor:
        return F.softplus(-drawn)


class Hinge(Game):
    r"""D is pushed no further than a margin: as Miyato et al. (2018), https://arxiv.org/abs/1802.05957, use it with
    spectral normalization.

    .. math:: L_D = E[\max(0, 1 - D(x))] + E[\max(0, 1 + D(\tilde x))], \quad L_G = -E[D(\tilde x)]
    """

    def discriminator(self, real: Tensor, drawn: Tensor) -> Tensor:
        return F.relu(1 - real) + F.relu(1 + drawn)

    def generator(self, drawn: Tensor) -> Tensor:
        return -drawn


class Wasserstein(Game):
    r"""The Wasserstein-1 distance, where D is 1-Lipschitz, by a `OneLipschitz` penalty: Arjovsky et al. (2017),
    https://arxiv.org/abs/1701.07875.

    .. math:: L_D = E[D(\tilde x)] - E[D(x)], \quad L_G = -E[D(\tilde x)]
    """

    judges: ClassVar[bool] = False

    def discriminator(self, real: Tensor, drawn: Tensor) -> Tensor:
        return drawn - real

    def generator(self, drawn: Tensor) -> Tensor:
        return -drawn


class Penalty(Component, abstract=True):
    """What D descends beside its loss, for the sake of its slope. The slopes of different events must not mix: D is not
    normalized over the batch."""

    @abstractmethod
    def __call__(self, D: Judge, real: Tensor, drawn: Tensor) -> Tensor:
        """Of real and drawn events, [B, ...] each: [B]."""


class R1(Penalty):
    r"""No slope at real events, so that training settles where the distributions agree: Mescheder et al. (2018),
    https://arxiv.org/abs/1801.04406.

    .. math:: \frac\gamma2 E \|\nabla D(x)\|^2

    Pixels count from -1 to 1. The paper's gamma is 10 for its images.
    """

    gamma: float = Field(default=1.0, gt=0)  # weight of the squared slope, γ

    def __call__(self, D: Judge, real: Tensor, drawn: Tensor) -> Tensor:
        return self.gamma / 2 * slopes(D, real).square().sum(1)


class OneLipschitz(Penalty):
    r"""A slope of 1 between real and drawn events, as the best D of the Wasserstein distance has: Gulrajani et al.
    (2017), https://arxiv.org/abs/1704.00028, section 4.

    .. math:: \lambda E (\|\nabla D(\hat x)\| - 1)^2, \quad \hat x = \epsilon x + (1 - \epsilon) \tilde x, \quad
        \epsilon \sim U(0, 1)

    With `objectives.Wasserstein`, and five steps of D for one of the generator.
    """

    weight: float = Field(default=10.0, gt=0)  # λ

    def __call__(self, D: Judge, real: Tensor, drawn: Tensor) -> Tensor:
        epsilon = noise.rand((len(real), *[1] * (real.dim() - 1)), dtype=real.dtype, device=real.device)
        return self.weight * (slopes(D, torch.lerp(drawn, real, epsilon)).norm(dim=1) - 1).square()


def slopes(D: Judge, x: Tensor) -> Tensor:
    """The gradient of D at events [B, ...], each with its own: [B, dims]. It can be differentiated again."""
    x = x.detach().requires_grad_()
    found = D(x.view_as(x))  # what counts a network's products can't follow a leaf through it
    (slope,) = torch.autograd.grad(found.sum(), x, create_graph=True)
    return slope.flatten(1)

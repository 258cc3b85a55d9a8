"""What a network that is shown z_t says of it."""

from abc import abstractmethod

from torch import Tensor

from lowerbound.config import Component
from lowerbound.schedules.base import alpha, sigma


class Prediction(Component, abstract=True):
    r"""What the output of a network is, for :math:`z_t = \alpha_t x + \sigma_t \epsilon`.

    They are linear functions of each other, given z_t: all have the same bound, and differ in what the network has to
    learn, and in how its errors at one time weigh against those at another.
    """

    @abstractmethod
    def noise(self, out: Tensor, z: Tensor, gamma: Tensor) -> Tensor:
        """The ε that it means: out and z of [..., *shape], γ of a shape that broadcasts to theirs."""


class Epsilon(Prediction):
    r"""The noise less z, which the noise is near to where there is much: :math:`\hat\epsilon = z + h`.

    Kingma et al. (2021), in their code.
    """

    def noise(self, out: Tensor, z: Tensor, gamma: Tensor) -> Tensor:
        return z + out


class X(Prediction):
    r"""The event itself: :math:`\hat\epsilon = (z - \alpha h) / \sigma`."""

    def noise(self, out: Tensor, z: Tensor, gamma: Tensor) -> Tensor:
        return (z - alpha(gamma) * out) / sigma(gamma)


class V(Prediction):
    r"""The velocity :math:`v = \alpha \epsilon - \sigma x`, whose size hardly changes with time:
    :math:`\hat\epsilon = \sigma z + \alpha h`.

    Of h = 0 it is the noise in z where x comes from N(0, I), so a network that begins at zero begins at that density.
    Salimans & Ho (2022), https://arxiv.org/abs/2202.00512.
    """

    def noise(self, out: Tensor, z: Tensor, gamma: Tensor) -> Tensor:
        return sigma(gamma) * z + alpha(gamma) * out

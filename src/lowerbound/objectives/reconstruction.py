"""The reconstruction error alone: autoencoders."""

from abc import abstractmethod

import torch
from pydantic import Field
from torch import Tensor

from lowerbound.config import Component
from lowerbound.distributions import Point, residual
from lowerbound.model import ElboTerms
from lowerbound.noise import rand_like, randn_like
from lowerbound.objectives.base import Objective
from lowerbound.stages import Loss


class Error(Component, abstract=True):
    """How far the decoder's picture is from the image; whole numbers are divided by levels - 1."""

    @abstractmethod
    def __call__(self, terms: ElboTerms) -> Tensor:
        """[K, B], summed over the event."""


# --8<-- [start:squared-error]
class SquaredError(Error):
    """L2: the sum of squared differences from the mean of p(x|z); the metric of this name is its value."""

    def __call__(self, terms: ElboTerms) -> Tensor:
        return residual(terms.p_x, terms.x).square().flatten(2).sum(-1)
        # --8<-- [end:squared-error]


class AbsoluteError(Error):
    """L1: the sum of absolute differences from the mean of p(x|z)."""

    def __call__(self, terms: ElboTerms) -> Tensor:
        return residual(terms.p_x, terms.x).abs().flatten(2).sum(-1)


class CrossEntropy(Error):
    """-log p(x|z) in nats: for a Bernoulli likelihood, also of grey values, the cross-entropy."""

    def __call__(self, terms: ElboTerms) -> Tensor:
        return -terms.log_px


class Corruption(Component, abstract=True):
    """Noise on what the encoder sees, so that it can't just copy: the denoising autoencoder (Vincent et al. 2008, 2010,
    https://www.jmlr.org/papers/v11/vincent10a.html)."""

    @abstractmethod
    def __call__(self, h: Tensor, black_and_white: tuple[float, float]) -> Tensor:
        """Features [B, ...], corrupted; with the features of the lowest and the highest value."""


class GaussianNoise(Corruption):
    """Isotropic noise with a standard deviation of `scale` times the distance from black to white."""

    scale: float = Field(default=0.25, gt=0)  # its standard deviation, for one of the distance from black to white

    def __call__(self, h: Tensor, black_and_white: tuple[float, float]) -> Tensor:
        black, white = black_and_white
        return h + self.scale * (white - black) * randn_like(h)


class Masking(Corruption):
    """Each element is black with probability `fraction`, on its own."""

    fraction: float = Field(default=0.25, gt=0, lt=1)  # of the elements that are black

    def __call__(self, h: Tensor, black_and_white: tuple[float, float]) -> Tensor:
        return torch.where(rand_like(h) < self.fraction, black_and_white[0], h)


class SaltAndPepper(Corruption):
    """Each element is black or white, with even chances, with probability `fraction`, on its own."""

    fraction: float = Field(default=0.1, gt=0, lt=1)  # of the elements that are black or white

    def __call__(self, h: Tensor, black_and_white: tuple[float, float]) -> Tensor:
        black, white = black_and_white
        u = rand_like(h)
        return h.masked_fill(u < self.fraction, white).masked_fill(u < self.fraction / 2, black)


class Reconstruction(Objective):
    r"""The reconstruction error, and nothing else of the bound: the plain autoencoder's objective.

    .. math:: E_q[\mathrm{error}(x, \hat x(z))] + \lambda \sum_d |z_d|

    `noise` corrupts what the encoder sees in training, never the image that is to come back. `sparsity` is λ, in units
    of the error per unit of the code: the sparse autoencoder with an L1 penalty (Goodfellow et al. 2016, Deep Learning,
    section 14.2.1). A code can escape it by being small where the decoder's weights are large: tie the weights or decay
    them. With a posterior that is no point, the codes are drawn from it and nothing keeps its noise from vanishing. A
    posterior that quantizes (`families.Quantized`) adds what that costs.
    """

    error: Error = SquaredError()  # of what comes back, beside the image
    noise: Corruption | None = None  # what corrupts the image that the encoder sees in training
    sparsity: float = Field(default=0.0, ge=0)  # weight of the absolute code, λ

    def seen(self, h: Tensor, black_and_white: tuple[float, float]) -> Tensor:
        return h if self.noise is None else self.noise(h, black_and_white)

    def __call__(self, terms: ElboTerms, step: int) -> Loss:
        # --8<-- [start:reconstruction]
        error = terms.mean(self.error(terms))  # [B]
        loss, shown = error.mean(), {"error": error.detach()}
        if self.sparsity > 0:
            size = torch.stack([terms.mean(z.abs().flatten(2).sum(-1)) for z in terms.z]).sum(0)  # [B]
            loss, shown = loss + self.sparsity * size.mean(), shown | {"code": size.detach()}
        for q in terms.q:
            if isinstance(q, Point) and q.loss is not None:
                cost = q.loss * terms.x[0].numel()  # an element of z weighs as one of x
                loss, shown = loss + cost.mean(), shown | {"quantization": cost.detach()}
        return Loss(loss, shown)
        # --8<-- [end:reconstruction]

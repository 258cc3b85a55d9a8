"""A trace of the bound -> the loss that is descended."""

from abc import abstractmethod

import torch
from pydantic import Field
from torch import Tensor

from lowerbound.config import Component
from lowerbound.distributions import residual
from lowerbound.errors import ConfigError
from lowerbound.model import ElboTerms
from lowerbound.noise import rand_like, randn_like
from lowerbound.stages import Loss, Score
from lowerbound.units import nats


class Objective(Component, abstract=True):
    """What is made of the terms of `draws` draws of the latents."""

    draws: int = Field(default=1, gt=0)

    @abstractmethod
    def __call__(self, terms: ElboTerms, step: int) -> Loss: ...

    @property
    def score(self) -> Score:
        """By what the weights that it trains are chosen: by itself, where it is no bound of log p(x)."""
        return Score(draws=None)

    def seen(self, h: Tensor, black_and_white: tuple[float, float]) -> Tensor:
        """What the encoder sees of the features h [B, ...] in training."""
        return h


class Bound(Objective, abstract=True):
    """A bound of log p(x), which needs log q(z|x)."""

    warmup: int = Field(default=0, ge=0)  # steps over which the latents' terms grow from 0 (Sønderby et al. 2016)

    @abstractmethod
    def of_each(self, terms: ElboTerms, step: int) -> Tensor:
        """Minus the bound of each event with its gradient, without free bits: [B]. For a mean that is weighted."""

    def warmed(self, step: int) -> float:
        """The factor of the latents' terms, up to 1."""
        return min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0


class ELBO(Bound):
    r"""The evidence lower bound, :math:`E_q[\log p(x|z)] - \beta\, KL(q(z|x) \| p(z))`, averaged over the draws.

    The KL is closed where it can be, else sampled. beta: Higgins et al. (2017); it grows from 0 over the first `warmup`
    steps. Free bits (Kingma et al. 2016, eq. 15, https://arxiv.org/abs/1606.04934): a group whose mean KL over the
    batch and the draws is below its allowance (in bits; a bit is ln 2 nats) costs the allowance, and pulls no more; a
    group is one latent dimension, or one level of latents.
    """

    beta: float = Field(default=1.0, ge=0)
    free_bits_dimension: float = Field(default=0.0, ge=0)
    free_bits_level: float = Field(default=0.0, ge=0)

    def __call__(self, terms: ElboTerms, step: int) -> Loss:
        distortion = -terms.mean(terms.log_px)  # [B]
        kl = terms.mean(terms.log_qz - terms.log_pz) if terms.kl is None else terms.kl.mean(0)  # [B, L]
        beta = self.beta * self.warmed(step)
        penalty = kl.mean(0).sum() if not self._free else self._penalty(terms, kl)
        shown = {"distortion": distortion.detach(), "kl": kl.detach().sum(-1)}
        shown = {"elbo": -(shown["distortion"] + shown["kl"]), **shown, **_by_level(kl.detach())}
        return Loss(distortion.mean() + beta * penalty, shown)

    def of_each(self, terms: ElboTerms, step: int) -> Tensor:
        kl = terms.mean(terms.log_qz - terms.log_pz) if terms.kl is None else terms.kl.mean(0)  # [B, L]
        return self.beta * self.warmed(step) * kl.sum(-1) - terms.mean(terms.log_px)

    @property
    def score(self) -> Score:
        """The plain bound, without free bits; another beta is another goal."""
        return Score(draws=1 if self.beta == 1 else None)

    @property
    def _free(self) -> bool:
        return self.free_bits_dimension > 0 or self.free_bits_level > 0

    def _penalty(self, terms: ElboTerms, kl: Tensor) -> Tensor:
        levels = kl.mean(0)  # [L]
        if self.free_bits_dimension > 0:
            floor = nats(self.free_bits_dimension)
            levels = torch.stack([k.clamp(min=floor).sum() for k in _dimension_means(terms)])
        return levels.clamp(min=nats(self.free_bits_level)).sum()


class IWAE(Bound):
    r"""The importance-weighted bound (Burda et al. 2016, eq. 8, https://arxiv.org/abs/1509.00519),
    :math:`E[\log \frac1K \sum_k w_k], w_k = p(x, z_k) / q(z_k|x)`.

    With `dreg`, the doubly reparameterized gradient of the encoder (Tucker et al. 2019,
    https://arxiv.org/abs/1810.04152): the path through each z_k is weighted by the square of its normalized weight, and
    the score of q is left out. The decoder's and the prior's gradients are the same either way.
    """

    draws: int = Field(default=5, gt=0)
    dreg: bool = False

    @property
    def score(self) -> Score:
        return Score(self.draws)

    def __call__(self, terms: ElboTerms, step: int) -> Loss:
        beta = self.warmed(step)
        bound = terms.log_mean(terms.log_weight)
        shown = {
            "iwae": bound.detach(),
            "elbo": terms.mean(terms.log_weight).detach(),
            "distortion": -terms.mean(terms.log_px).detach(),
            "kl": terms.mean((terms.log_qz - terms.log_pz).sum(-1)).detach(),
        }
        if self.dreg:
            return Loss(self._dreg(terms, beta), shown)
        if beta < 1:
            bound = terms.log_mean(terms.log_px + beta * (terms.log_pz - terms.log_qz).sum(-1))
        return Loss(-bound.mean(), shown)

    def of_each(self, terms: ElboTerms, step: int) -> Tensor:
        return -terms.log_mean(terms.log_px + self.warmed(step) * (terms.log_pz - terms.log_qz).sum(-1))

    def _dreg(self, terms: ElboTerms, beta: float) -> Tensor:
        log_w = terms.log_px + beta * (terms.log_pz - terms.through_draws()).sum(-1)  # [K, B]
        weight = torch.softmax(log_w.detach(), 0)
        pull = 1 - beta + beta * weight  # beside the weight that is in the loss: its square at beta 1
        for z in terms.z:
            if z.requires_grad:
                z.register_hook(lambda g: g * pull.reshape(*pull.shape, *[1] * (g.dim() - 2)))
        return -(weight * log_w).sum(0).mean()


class Error(Component, abstract=True):
    """How far the decoder's picture is from the image; whole numbers are divided by levels - 1."""

    @abstractmethod
    def __call__(self, terms: ElboTerms) -> Tensor:
        """[K, B], summed over the event."""


class SquaredError(Error):
    """L2: the sum of squared differences from the mean of p(x|z); the metric of this name is its value."""

    def __call__(self, terms: ElboTerms) -> Tensor:
        return residual(terms.p_x, terms.x).square().flatten(2).sum(-1)


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

    scale: float = Field(default=0.25, gt=0)

    def __call__(self, h: Tensor, black_and_white: tuple[float, float]) -> Tensor:
        black, white = black_and_white
        return h + self.scale * (white - black) * randn_like(h)


class Masking(Corruption):
    """Each element is black with probability `fraction`, on its own."""

    fraction: float = Field(default=0.25, gt=0, lt=1)

    def __call__(self, h: Tensor, black_and_white: tuple[float, float]) -> Tensor:
        return torch.where(rand_like(h) < self.fraction, black_and_white[0], h)


class SaltAndPepper(Corruption):
    """Each element is black or white, with even chances, with probability `fraction`, on its own."""

    fraction: float = Field(default=0.1, gt=0, lt=1)

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
    them. With a posterior that is no point, the codes are drawn from it and nothing keeps its noise from vanishing.
    """

    error: Error = SquaredError()
    noise: Corruption | None = None
    sparsity: float = Field(default=0.0, ge=0)

    def seen(self, h: Tensor, black_and_white: tuple[float, float]) -> Tensor:
        return h if self.noise is None else self.noise(h, black_and_white)

    def __call__(self, terms: ElboTerms, step: int) -> Loss:
        error = terms.mean(self.error(terms))  # [B]
        if self.sparsity == 0:
            return Loss(error.mean(), {"error": error.detach()})
        size = torch.stack([terms.mean(z.abs().flatten(2).sum(-1)) for z in terms.z]).sum(0)  # [B]
        loss = error.mean() + self.sparsity * size.mean()
        return Loss(loss, {"error": error.detach(), "code": size.detach()})


def _by_level(kl: Tensor) -> dict[str, Tensor]:
    """Of several levels each one's, [B, L] -> [B] by name."""
    levels = kl.unbind(-1)
    return {f"kl.z{l + 1}": k for l, k in enumerate(levels)} if len(levels) > 1 else {}


def _dimension_means(terms: ElboTerms) -> list[Tensor]:
    """The mean KL of every latent dimension over the batch and the draws, level by level: [*latent] each."""
    if any(kl is None for kl in terms.kl_dimensions):
        raise ConfigError(
            "model.objective.free_bits_dimension: the KL of this posterior and prior is not a sum over dimensions; "
            "use free_bits_level"
        )
    return [kl.mean(0) for kl in terms.kl_dimensions if kl is not None]

"""Bounds of log p(x)."""

from abc import abstractmethod
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from lowerbound.errors import ConfigError
from lowerbound.model import ElboTerms
from lowerbound.objectives.base import Objective, by_level
from lowerbound.optimization import grown
from lowerbound.parallel.rows import mean_of_rows
from lowerbound.stages import Loss, Score
from lowerbound.units import nats


class Bound(Objective, abstract=True):
    """A bound of log p(x), which needs log q(z|x)."""

    warmup: int = Field(default=0, ge=0)  # steps over which the latents' terms grow from 0 (Sønderby et al. 2016)

    @abstractmethod
    def of_each(self, terms: ElboTerms, step: int) -> Tensor:
        """Minus the bound of each event with its gradient, without free bits: [B]. For a mean that is weighted."""

    def warmed(self, step: int) -> Any:
        """The factor of the latents' terms, up to 1."""
        return grown(step + 1, self.warmup) if self.warmup else 1.0


class ELBO(Bound):
    r"""The evidence lower bound, :math:`E_q[\log p(x|z)] - \beta\, KL(q(z|x) \| p(z))`, averaged over the draws.

    The KL is closed where it can be, else sampled. beta: Higgins et al. (2017); it grows from 0 over the first `warmup`
    steps. Free bits (Kingma et al. 2016, eq. 15, https://arxiv.org/abs/1606.04934): a group whose mean KL over the
    batch and the draws is below its allowance (in bits; a bit is ln 2 nats) costs the allowance, and pulls no more; a
    group is one latent dimension, or one level of latents.
    """

    beta: float = Field(default=1.0, ge=0)  # weight of the KL, β
    free_bits_dimension: float = Field(default=0.0, ge=0)  # bits that a latent dimension may hold at no cost
    free_bits_level: float = Field(default=0.0, ge=0)  # bits that a level of latents may hold at no cost

    def __call__(self, terms: ElboTerms, step: int) -> Loss:
        # --8<-- [start:elbo]
        distortion = -terms.mean(terms.log_px)  # [B]
        kl = terms.mean(terms.log_qz - terms.log_pz) if terms.kl is None else terms.kl.mean(0)  # [B, L]
        beta = self.beta * self.warmed(step)
        penalty = kl.mean(0).sum() if not self._free else self._penalty(terms, kl)
        shown = {"distortion": distortion.detach(), "kl": kl.detach().sum(-1)}
        shown = {"elbo": -(shown["distortion"] + shown["kl"]), **shown, **by_level(kl.detach())}
        return Loss(distortion.mean() + beta * penalty, shown)
        # --8<-- [end:elbo]

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
        levels = mean_of_rows(kl)  # [L]
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

    draws: int = Field(default=5, gt=0)  # of z for each image in a step, K
    dreg: bool = False  # whether the encoder has the doubly reparameterized gradient

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
        if self.warmup:
            bound = terms.log_mean(terms.log_px + beta * (terms.log_pz - terms.log_qz).sum(-1))
        return Loss(-bound.mean(), shown)

    def of_each(self, terms: ElboTerms, step: int) -> Tensor:
        return -terms.log_mean(terms.log_px + self.warmed(step) * (terms.log_pz - terms.log_qz).sum(-1))

    def _dreg(self, terms: ElboTerms, beta: Any) -> Tensor:
        log_w = terms.log_px + beta * (terms.log_pz - terms.through_draws()).sum(-1)  # [K, B]
        weight = torch.softmax(log_w.detach(), 0)
        pull = 1 - beta + beta * weight  # beside the weight that is in the loss: its square at beta 1
        for z in terms.z:
            if z.requires_grad:
                z.register_hook(lambda g: g * pull.reshape(*pull.shape, *[1] * (g.dim() - 2)))
        return -(weight * log_w).sum(0).mean()


def _dimension_means(terms: ElboTerms) -> list[Tensor]:
    """The mean KL of every latent dimension over the batch and the draws, level by level: [*latent] each."""
    if any(kl is None for kl in terms.kl_dimensions):
        raise ConfigError(
            "model.objective.free_bits_dimension: the KL of this posterior and prior is not a sum over dimensions; "
            "use free_bits_level"
        )
    return [mean_of_rows(kl) for kl in terms.kl_dimensions if kl is not None]

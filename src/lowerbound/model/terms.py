"""The parts of the bound, for draws of levels of latents."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.distributions import Distribution

from lowerbound.distributions import closed_kl, kl_per_dimension
from lowerbound.estimators import Draws


@dataclass(frozen=True)
class ElboTerms:
    """The parts of the bound for K draws of L levels of latents, the coarsest first.

    A mean over draws is `mean`, that of weights `log_mean`: draws may have shares of their own in it, and their
    gradient comes from there (`estimators`).

    q and p of a level are given the draws of the coarser ones: of batch shape [K, B] where they depend on them, else
    [B]; a prior that nothing is given has none.
    """

    x: Tensor  # [B, *event]
    p_x: Distribution  # p(x|z), [K, B]
    log_px: Tensor  # [K, B], log p(x|z)
    z: tuple[Tensor, ...]  # [K, B, *latent] each
    q: tuple[Distribution, ...]
    p: tuple[Distribution, ...]
    latents: Callable[[], tuple[Tensor, Tensor]]  # log p(z|y) and log q(z|x), [K, B, L] each, once they are asked for
    through_draws: Callable[[], Tensor]  # log q(z|x), [K, B, L], with a gradient for z alone, none for q's parameters
    draws: Draws  # what means over the K draws are
    images: int | None = None  # of how many that are trained on x is a batch; None: it is all

    @classmethod
    def of(
        cls,
        x: Tensor,
        z: tuple[Tensor, ...],
        q: tuple[Distribution, ...],
        p: tuple[Distribution, ...],
        p_x: Distribution,
        through_draws: Callable[[], Tensor],
        draws: Draws,
    ) -> "ElboTerms":
        """Of draws z, and the distributions that they came from and are measured by."""
        return cls(
            x=x,
            p_x=p_x,
            log_px=p_x.log_prob(x),
            z=z,
            q=q,
            p=p,
            latents=lambda: (log_probs(p, z), log_probs(q, z)),
            through_draws=through_draws,
            draws=draws,
        )

    def mean(self, f: Tensor) -> Tensor:
        """E_q[f] of f [K, B, ...], estimated by the draws: [B, ...]."""
        return self.draws.mean(f)

    def log_mean(self, log_w: Tensor) -> Tensor:
        """The logarithm of the mean of weights [K, B] over the draws: [B]."""
        return self.draws.log_mean(log_w)

    @cached_property
    def _latents(self) -> tuple[Tensor, Tensor]:
        return self.latents()

    @cached_property
    def kl(self) -> Tensor | None:
        """KL(q || p) of each level given the draws of the coarser: [K, B, L]; None where one isn't closed."""
        found = [closed_kl(q, p) for q, p in zip(self.q, self.p, strict=True)]
        known = [kl.expand(self.log_px.shape) for kl in found if kl is not None]
        return torch.stack(known, -1) if len(known) == len(found) else None

    @cached_property
    def kl_dimensions(self) -> tuple[Tensor | None, ...]:
        """The same of each dimension, averaged over draws: [B, *latent] each; None where it is no sum over them."""
        return tuple(_mean_of_draws(kl_per_dimension(q, p), z) for q, p, z in zip(self.q, self.p, self.z, strict=True))

    @property
    def log_pz(self) -> Tensor:
        """log p(z|y): [K, B, L]."""
        return self._latents[0]

    @property
    def log_qz(self) -> Tensor:
        """log q(z|x): [K, B, L]."""
        return self._latents[1]

    # --8<-- [start:log-weight]
    @property
    def log_weight(self) -> Tensor:
        """log p(x, z) - log q(z|x): [K, B]."""
        return self.log_px + (self.log_pz - self.log_qz).sum(-1)
        # --8<-- [end:log-weight]


def _mean_of_draws(kl: Tensor | None, z: Tensor) -> Tensor | None:
    """[B, *latent], of what may be one for each draw."""
    return kl.mean(0) if kl is not None and kl.dim() == z.dim() else kl


def log_probs(distributions: tuple[Distribution, ...], z: tuple[Tensor, ...]) -> Tensor:
    """[K, B, L]."""
    return torch.stack([d.log_prob(part) for d, part in zip(distributions, z, strict=True)], -1)

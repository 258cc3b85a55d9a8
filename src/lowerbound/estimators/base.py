r"""How latents are drawn in training, and how the gradient of a mean over draws reaches the posterior.

The bound is a mean over draws of q(z|x), whose gradient has a part that goes through the draws. An estimator draws z,
and gives the mean of what is computed of the draws such that both its value and its gradient are estimates of the
right ones (of a biased estimator: of something near). Evaluation knows none of it: it draws from q itself.
"""

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution

from lowerbound.config import Component
from lowerbound.space import Space


@dataclass(frozen=True)
class Draws:
    """K draws of a latent, and what means over them are.

    z: [K, B, *latent]; of whole numbers also float features [K, B, *feature_shape], where a gradient goes through them.
    log_share: log of each draw's share in a mean, [K, B], which add up to 1; None: 1/K each.
    """

    z: Tensor
    log_share: Tensor | None = None

    def credited(self, f: Tensor) -> Tensor:
        """f [K, B, ...] of the draws with the gradient that goes through them; the values stay."""
        return f

    def mean(self, f: Tensor) -> Tensor:
        """E_q[f] of f [K, B, ...], estimated: [B, ...]."""
        f = self.credited(f)
        if self.log_share is None:
            return f.mean(0)
        return (self.log_share.exp().reshape(*self.log_share.shape, *(1 for _ in f.shape[2:])) * f).sum(0)

    def log_mean(self, log_w: Tensor) -> Tensor:
        """The logarithm of the mean of weights, of their logarithms [K, B]: [B] (Burda et al. 2016, eq. 8)."""
        if self.log_share is None:
            return torch.logsumexp(log_w, 0) - math.log(len(log_w))
        return torch.logsumexp(self.log_share + log_w, 0)


class Estimator(Component, abstract=True):
    """How z is drawn, and how gradients reach q through the draws."""

    biased: ClassVar[bool] = False  # whether the mean of its gradients is another than the bound's
    averages: ClassVar[bool] = True  # whether it estimates the gradient of a mean over draws
    weighs: ClassVar[bool] = True  # and that of an importance-weighted bound
    chains: ClassVar[bool] = (
        False  # whether finer latents may be drawn given its draws, each with a gradient of its own
    )
    relaxed: ClassVar[bool] = False  # whether z are features between whole numbers, which have no log-probability

    def why_not(self, q: Distribution, space: Space, n: int = 1) -> str:
        """What keeps it from n draws of q over a space, and what does instead; "" where nothing does."""
        return ""

    def other(self, objective: str) -> str:
        """What is to be used for an objective that it has no gradient of."""
        return f"has no gradient of {objective}"

    @abstractmethod
    def draw(self, q: Distribution, n: int, step: int = 0) -> Draws:
        """n draws of q, or n of each of what it is made of. q: of batch shape [B]; or [K, B], which is drawn once."""

    def rows(self, q: Distribution, n: int) -> int:
        """How many draws `draw` makes."""
        return n


def shape_of(q: Distribution, n: int) -> torch.Size:
    """That of n draws of q [B], or of one of each of q [K, B]."""
    return torch.Size((n,) if len(q.batch_shape) == 1 else ())


class Pathwise(Estimator):
    """The reparameterized gradient (Kingma & Welling 2014; Rezende et al. 2014), where draws have one."""

    chains: ClassVar[bool] = True

    def why_not(self, q: Distribution, space: Space, n: int = 1) -> str:
        if q.has_rsample:
            return ""
        return (
            "can't be reparameterized, so the bound's gradient would not reach the encoder; use a posterior with "
            "rsample, such as families.DiagonalNormal"
        )

    def draw(self, q: Distribution, n: int, step: int = 0) -> Draws:
        return Draws(q.rsample(shape_of(q, n)) if q.has_rsample else q.sample(shape_of(q, n)))

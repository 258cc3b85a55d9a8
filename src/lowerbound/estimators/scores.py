r"""Gradients through draws of whole numbers, by what became of them: unbiased, and of more or less noise.

They weigh the score :math:`\nabla \log q(z|x)` of a draw by its f(z), less what is known without it.
"""

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution

from lowerbound import noise
from lowerbound.distributions import Bernoulli, Categorical
from lowerbound.estimators.base import Draws, Estimator, shape_of
from lowerbound.space import Space

CODES = "draws real numbers; use estimators.Pathwise, or model.latent_levels with families.Categorical"


def is_binary(q: Distribution) -> bool:
    return isinstance(q, Bernoulli) and q.levels == 2


def with_gradient(value: Tensor, surrogate: Tensor) -> Tensor:
    """The value, with the gradient of the surrogate beside its own."""
    return value + (surrogate - surrogate.detach())


def like(weights: Tensor, f: Tensor) -> Tensor:
    """Weights [K, B] with as many axes as f [K, B, ...]."""
    return weights.reshape(*weights.shape, *(1 for _ in f.shape[2:]))


class OfCodes(Estimator, abstract=True):
    """An estimator for whole numbers of any kind."""

    weighs: ClassVar[bool] = False

    def why_not(self, q: Distribution, space: Space, n: int = 1) -> str:
        return "" if is_binary(q) or isinstance(q, Categorical) else CODES

    def other(self, objective: str) -> str:
        return f"has no gradient of {objective}; use estimators.VIMCO"


# ---- one draw at a time


@dataclass(frozen=True)
class Scored(Draws):
    """Draws with log q(z|x), [K, B]."""

    log_q: Tensor | None = None

    def credited(self, f: Tensor) -> Tensor:
        assert self.log_q is not None
        return with_gradient(f, (f - self.baseline(f)).detach() * like(self.log_q, f))

    def baseline(self, f: Tensor) -> Tensor:
        """What f of a draw is compared with, which must not depend on that draw."""
        return torch.zeros_like(f)


class Scores(OfCodes, abstract=True):
    @abstractmethod
    def scored(self, z: Tensor, log_q: Tensor) -> Draws: ...

    def draw(self, q: Distribution, n: int, step: int = 0) -> Draws:
        z = q.sample(shape_of(q, self.rows(q, n)))
        return self.scored(z, q.log_prob(z))


class Reinforce(Scores):
    r"""The score function's gradient, :math:`f(z) \nabla \log q(z|x)` (Williams 1992): of so much noise that it is here
    to be compared with."""

    def scored(self, z: Tensor, log_q: Tensor) -> Draws:
        return Scored(z, None, log_q)


# --8<-- [start:left-out]
@dataclass(frozen=True)
class LeftOut(Scored):
    def baseline(self, f: Tensor) -> Tensor:
        return (f.sum(0) - f) / (len(f) - 1)
        # --8<-- [end:left-out]


class RLOO(Scores):
    r"""Draws compared with the mean of the others (Kool et al. 2019, https://openreview.net/forum?id=r1lgTGL5DE):

    .. math:: \frac1{K-1} \sum_k \left(f(z_k) - \frac1K \sum_j f(z_j)\right) \nabla \log q(z_k|x)

    Two draws are made where one is asked for.
    """

    def scored(self, z: Tensor, log_q: Tensor) -> Draws:
        return LeftOut(z, None, log_q)

    def rows(self, q: Distribution, n: int) -> int:
        return max(2, n)


# ---- binary variables in pairs


@dataclass(frozen=True)
class Paired(Draws):
    """n draws and then their antithetic ones, [2n, B, ...]; by which f(z) - f(z') weighs the logits: [n, B]."""

    weighed: Tensor | None = None

    def credited(self, f: Tensor) -> Tensor:
        assert self.weighed is not None
        first, second = f.chunk(2)
        surrogate = (first - second).detach() * like(self.weighed, first)
        return with_gradient(f, torch.cat([surrogate, surrogate]))


class Antithetic(Estimator, abstract=True):
    """n pairs of draws of binary variables, of u and of 1 - u: two passes through the decoder for each."""

    weighs: ClassVar[bool] = False

    def why_not(self, q: Distribution, space: Space, n: int = 1) -> str:
        if is_binary(q):
            return ""
        if isinstance(q, Categorical):
            return f"has {q.levels} values a variable, and {self.type_name()} is for two; use estimators.RLOO"
        return CODES

    def other(self, objective: str) -> str:
        return f"has no gradient of {objective}; use estimators.VIMCO"

    def draw(self, q: Distribution, n: int, step: int = 0) -> Draws:
        assert isinstance(q, Bernoulli)
        shape = shape_of(q, n) + q.logits.shape
        u = noise.rand(shape, dtype=q.logits.dtype, device=q.logits.device, axes=noise.behind(shape_of(q, n)))
        s = q.logits.sigmoid()
        z, other = u < s, 1 - u < s
        weights = self.weights(u, q.logits, z, other).detach()
        return Paired(torch.cat([z, other]).to(q.space.dtype), None, q._sum(weights * q.logits))

    @abstractmethod
    def weights(self, u: Tensor, logits: Tensor, z: Tensor, other: Tensor) -> Tensor:
        """What f(z) - f(z') is multiplied by in the gradient to each logit: [n, B, *event]."""

    def rows(self, q: Distribution, n: int) -> int:
        return 2 * n


class ARM(Antithetic):
    r"""Augment, reinforce, merge (Yin & Zhou 2019, https://arxiv.org/abs/1807.11143):
    :math:`(f(z') - f(z)) (u - 1/2)`, with z = 1[u < σ(l)] and z' = 1[1 - u < σ(l)]."""

    def weights(self, u: Tensor, logits: Tensor, z: Tensor, other: Tensor) -> Tensor:
        return 0.5 - u


class DisARM(Antithetic):
    r"""ARM with u summed out (Dong et al. 2020, https://arxiv.org/abs/2006.10680, eq. 5), of less variance:

    .. math:: \tfrac12 (f(z) - f(z')) (-1)^{z'_i}\, 1[z_i \ne z'_i]\, \sigma(|l_i|)
    """

    def weights(self, u: Tensor, logits: Tensor, z: Tensor, other: Tensor) -> Tensor:
        sign = torch.where(other, -1.0, 1.0).to(logits.dtype)
        return 0.5 * sign * (z != other) * logits.abs().sigmoid()


# ---- the importance-weighted bound


@dataclass(frozen=True)
class Signalled(Draws):
    log_q: Tensor | None = None

    def log_mean(self, log_w: Tensor) -> Tensor:
        assert self.log_q is not None
        K, w = len(log_w), log_w.detach()
        bound = super().log_mean(log_w)
        others = (w.sum(0) - w) / (K - 1)  # the geometric mean of the other weights, in the place of each
        one_out = torch.where(torch.eye(K, dtype=torch.bool, device=w.device)[..., None], others, w)  # [K, K, B]
        signal = bound.detach() - (torch.logsumexp(one_out, 1) - math.log(K))
        return with_gradient(bound, (signal * self.log_q).sum(0))


class VIMCO(OfCodes):
    r"""The gradient of the importance-weighted bound (Mnih & Rezende 2016, https://arxiv.org/abs/1602.06725, eq. 10 and
    11): each draw's score is weighed by how much the bound is more than with the geometric mean of the other weights in
    its place. For `objectives.IWAE` of at least two draws."""

    averages: ClassVar[bool] = False
    weighs: ClassVar[bool] = True

    def why_not(self, q: Distribution, space: Space, n: int = 1) -> str:
        if why := super().why_not(q, space, n):
            return why
        return "" if n > 1 else "by estimators.VIMCO compares draws of one image; set model.objective.draws=5"

    def other(self, objective: str) -> str:
        return f"is for objectives.IWAE, got {objective}; use estimators.RLOO"

    def draw(self, q: Distribution, n: int, step: int = 0) -> Draws:
        z = q.sample(shape_of(q, n))
        return Signalled(z, None, q.log_prob(z))

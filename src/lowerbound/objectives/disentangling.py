"""The bound with other weights on the parts of its KL, so that each element of z says one thing."""

import math
from abc import abstractmethod
from typing import Any

import torch
from pydantic import Field
from torch import Tensor
from torch.distributions import Distribution, Independent

from lowerbound.config import Component
from lowerbound.errors import ConfigError
from lowerbound.model import ElboTerms
from lowerbound.objectives.base import Objective
from lowerbound.optimization import grown
from lowerbound.parallel.rows import all_rows, mean_of_rows, own_rows, processes
from lowerbound.stages import Loss, Size


class Disentangling(Objective, abstract=True):
    """-log p(x|z) and a price of z's one level, a vector or map of real numbers, of a whole batch."""

    def __call__(self, terms: ElboTerms, step: int) -> Loss:
        distortion = -terms.mean(terms.log_px)  # [B]
        kl = terms.mean(terms.log_qz - terms.log_pz) if terms.kl is None else terms.kl.mean(0)  # [B, 1]
        price, shown = self.price(terms, kl[:, 0], step)
        plain = {"distortion": distortion.detach(), "kl": kl.detach()[:, 0]}
        plain = {"elbo": -(plain["distortion"] + plain["kl"]), **plain}
        return Loss(distortion.mean() + price, plain | {name: value.detach() for name, value in shown.items()})

    @abstractmethod
    def price(self, terms: ElboTerms, kl: Tensor, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """What stands in the place of the mean KL [B], a scalar, and what of it is logged: [B] each."""

    def why_not(self, q: Distribution) -> str:
        if isinstance(q, Independent) and q.has_rsample and not q.base_dist.event_shape:
            return ""
        return (
            "takes a posterior of independent real elements; use families.DiagonalNormal and model.latent_levels=null,"
            " or objectives.ELBO"
        )


class Capacity(Disentangling):
    r"""A KL that is held at a capacity C, which grows from 0 to `capacity` nats over `steps` (Burgess et al. 2018,
    https://arxiv.org/abs/1804.03599).

    .. math:: E_{q(z|x)}[\log p(x|z)] - \gamma\, |KL(q(z|x) \| p(z)) - C| \qquad (8)

    with the mean KL of the batch. The paper's sprites have C up to 25 nats over 100,000 steps, and γ = 1000.
    """

    gamma: float = Field(default=1000.0, ge=0)  # nats of the loss for a nat of the KL away from C, γ
    capacity: float = Field(default=25.0, ge=0)  # nats
    steps: int = Field(default=100_000, gt=0)  # until C is at `capacity`

    def check(self, size: Size) -> None:
        if self.steps > size.steps:
            raise ConfigError(
                f"model.objective.steps={self.steps}: the capacity would still grow when training ends, after "
                f"{size.steps} steps; set model.objective.steps={max(1, size.steps // 2)}, or a longer training"
            )

    def at(self, step: int) -> Any:
        """C after so many steps, in nats."""
        return self.capacity * grown(step, self.steps)

    def price(self, terms: ElboTerms, kl: Tensor, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        capacity = self.at(step)
        return self.gamma * (mean_of_rows(kl) - capacity).abs(), {"capacity": torch.zeros_like(kl) + capacity}


class Sampling(Component, abstract=True):
    """How q(z), the mean of q(z|x) over all N training images, is estimated of the B images of a batch.

    As a sum over them, for a z that was drawn of one of them: the logarithms of their weights.
    """

    @abstractmethod
    def log_weights(self, batch: int, images: int) -> tuple[float, float]:
        """Of the image that z was drawn of, and of each other."""


class Weighted(Sampling):
    r"""Minibatch-weighted sampling (Chen et al. 2018, eq. 3): a lower bound of log q(z) in the mean.

    .. math:: \log q(z) \approx \log \frac{1}{N B} \sum_j q(z|x_j)
    """

    def log_weights(self, batch: int, images: int) -> tuple[float, float]:
        each = -math.log(images * batch)
        return each, each


class Stratified(Sampling):
    r"""Minibatch-stratified sampling (Chen et al. 2018, appendix C): q(z) itself in the mean.

    .. math:: q(z) \approx \frac1N q(z|x_i) + \frac{N - 1}{N (B - 1)} \sum_{j \ne i} q(z|x_j)

    for z drawn of q(z|x_i), in a batch without repetition. The paper weighs the others by 1 / M, M = B - 1, and the
    last of them by (N - M) / (N M); this is its mean over which is the last, with less variance, and exact where the
    batch is all there is.
    """

    def log_weights(self, batch: int, images: int) -> tuple[float, float]:
        if min(batch, images) == 1:
            return 0.0, 0.0
        return -math.log(images), math.log((images - 1) / (images * (batch - 1)))


class BetaTC(Disentangling):
    r"""The total correlation of z weighed by β: β-TCVAE (Chen et al. 2018, https://arxiv.org/abs/1802.04942).

    .. math:: E_{q(z,n)}[\log p(n|z)] - \alpha\, I_q(z;n) - \beta\, KL\Big(q(z) \Big\| \prod_j q(z_j)\Big)
        - \gamma \sum_j KL(q(z_j) \| p(z_j)) \qquad (4)

    of training images n, with q(z) their mean posterior, estimated on the batch (`sampling`). With α = β = γ = 1 it is
    the bound, whose KL is the sum of the three (2): what is descended is that KL, closed where it can be, and each part
    times its weight less 1. Mutual information and total correlation are of the training set, not of the batch.
    """

    beta: float = Field(default=6.0, ge=0)  # weight of the total correlation, β
    alpha: float = Field(default=1.0, ge=0)  # weight of the mutual information of z and the image, α
    gamma: float = Field(default=1.0, ge=0)  # weight of each dimension's own KL, γ
    sampling: Sampling = Stratified()  # how q(z) is estimated on a batch

    def check(self, size: Size) -> None:
        if size.batch < 2:
            raise ConfigError(
                f"train.batch={size.batch}: {self.type_name()} compares the images of a batch; set train.batch=64"
            )

    def price(self, terms: ElboTerms, kl: Tensor, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        # --8<-- [start:beta-tc]
        log_qz, log_product = aggregated(terms, self.sampling)  # [K, B]
        parts = {
            "mutual_information": terms.mean(terms.log_qz[..., 0] - log_qz),
            "total_correlation": terms.mean(log_qz - log_product),
            "kl_of_elements": terms.mean(log_product - terms.log_pz[..., 0]),
        }
        price = kl.mean()
        for weight, part in zip((self.alpha, self.beta, self.gamma), parts.values(), strict=True):
            if weight != 1:
                price = price + (weight - 1) * part.mean()
        return price, parts
        # --8<-- [end:beta-tc]


def aggregated(terms: ElboTerms, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """log q(z) and log Π_j q(z_j) of every draw, estimated on the batch: [K, B] each."""
    (z,), (q,) = terms.z, terms.q
    assert isinstance(q, Independent)
    whole = _of_all_rows(q.base_dist)
    # --8<-- [start:aggregated]
    log_q = whole.log_prob(z[:, :, None]).flatten(3)  # [K, B of z, B of x, D]; of several processes, each its own z
    B = log_q.shape[2]
    rows = own_rows(B)
    own, other = sampling.log_weights(B, max(B, terms.images or B))
    weights = torch.full((B, B), other, dtype=log_q.dtype, device=log_q.device).fill_diagonal_(own)
    weights = weights[rows.start : rows.stop]
    joint = (weights + log_q.sum(-1)).logsumexp(2)
    return joint, (weights[..., None] + log_q).logsumexp(2).sum(-1)
    # --8<-- [end:aggregated]


def _of_all_rows(q: Distribution) -> Distribution:
    """The posteriors of the whole batch, of which q are this process's."""
    if processes().size == 1:
        return q
    parts: dict[str, Any] = {name: all_rows(getattr(q, name)) for name in q.arg_constraints}
    return type(q)(**parts, validate_args=False)


class DIP(Disentangling, abstract=True):
    """The covariance of z's elements, drawn to the identity."""

    off_diagonal: float = Field(default=10.0, ge=0)  # λ_od
    diagonal: float = Field(default=100.0, ge=0)  # λ_d

    def check(self, size: Size) -> None:
        if size.batch < 2:
            raise ConfigError(
                f"train.batch={size.batch}: {self.type_name()} takes the covariance over a batch; set train.batch=64"
            )

    @abstractmethod
    def covariance(self, q: Distribution) -> Tensor:
        """Of the elements of z over a batch: [D, D]."""

    def price(self, terms: ElboTerms, kl: Tensor, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        (q,) = terms.q
        square = (self.covariance(q) - torch.eye(q.mean[0].numel(), device=kl.device)).square()
        diagonal = square.diagonal().sum()
        off_diagonal = square.sum() - diagonal
        penalty = self.off_diagonal * off_diagonal + self.diagonal * diagonal
        shown = {"off_diagonal": off_diagonal.expand_as(kl), "diagonal": diagonal.expand_as(kl)}
        return kl.mean() + penalty, shown


class DIP1(DIP):
    r"""Posterior means of uncorrelated elements of variance 1: DIP-VAE-I (Kumar et al. 2018,
    https://arxiv.org/abs/1711.00848).

    .. math:: ELBO - \lambda_{od} \sum_{i \ne j} [Cov_{p(x)}(\mu(x))]_{ij}^2
        - \lambda_d \sum_i ([Cov_{p(x)}(\mu(x))]_{ii} - 1)^2 \qquad (6)
    """

    def covariance(self, q: Distribution) -> Tensor:
        return covariance(q.mean)


class DIP2(DIP):
    r"""Draws of uncorrelated elements of variance 1: DIP-VAE-II (Kumar et al. 2018, https://arxiv.org/abs/1711.00848).

    .. math:: ELBO - \lambda_{od} \sum_{i \ne j} [Cov_{q}(z)]_{ij}^2 - \lambda_d \sum_i ([Cov_{q}(z)]_{ii} - 1)^2,
        \quad Cov_q(z) = E_{p(x)}[\Sigma(x)] + Cov_{p(x)}(\mu(x)) \qquad (7)
    """

    diagonal: float = Field(default=10.0, ge=0)  # weight of the variances away from 1, λ_d

    def covariance(self, q: Distribution) -> Tensor:
        return covariance(q.mean) + mean_of_rows(q.variance.flatten(1)).diag()


def covariance(z: Tensor) -> Tensor:
    """E[z zᵀ] - E[z] E[z]ᵀ over a batch [B, ...], the whole of it: [D, D]."""
    z = all_rows(z.flatten(1))
    centred = z - z.mean(0)
    return centred.T @ centred / len(z)

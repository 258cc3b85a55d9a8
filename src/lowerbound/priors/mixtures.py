"""Mixtures of normals."""

import math
import warnings
from collections.abc import Iterable
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, MixtureSameFamily

from lowerbound import noise
from lowerbound.devices import widened
from lowerbound.distributions import Choice, MultivariateNormal, Normal
from lowerbound.errors import ModelError
from lowerbound.model import Model
from lowerbound.priors.base import Mixed, check_real, length
from lowerbound.priors.normals import Cholesky
from lowerbound.space import Shape, Space, Y
from lowerbound.stages import Stage, Turn, of_events

CHOICES = (5, 20, 60)  # components of a mixture, of which held-out events choose
MIXED = 20_000  # events, at most, that a mixture is fitted to: its time grows with them times components times D²


class GaussianMixture(Mixed):
    r"""A learned mixture of diagonal Gaussians, :math:`\sum_k \pi_k N(z; \mu_k, \sigma_k^2)`.

    Its KL to a posterior has no closed form: the bound is trained by the sampled ratio.
    """

    class Config(Model.Config):
        one_for_all: ClassVar[bool] = True
        components: int = Field(default=10, gt=0)  # of the mixture
        starts: int = Field(default=10, gt=0)  # of `fit`, of which the likeliest counts

        def build(self, space: Space, given: tuple[Space, ...] = ()) -> "GaussianMixture":
            return GaussianMixture(self, space, given)

        @classmethod
        def example(cls) -> tuple["GaussianMixture.Config", Space, tuple[Space, ...]]:
            return cls(components=2), Space((2,)), ()

    def __init__(self, config: Config, space: Space, given: tuple[Space, ...] = ()):
        super().__init__(config, space, given)
        check_real(config, space)
        shape: Shape = (config.components, *space.shape)
        self.logits = nn.Parameter(torch.zeros(config.components))
        self.mean = nn.Parameter(noise.randn(shape))
        self.log_scale = nn.Parameter(torch.zeros(shape))

    def distribution(self, y: Y = None) -> Distribution:
        normal = Normal(widened(self.mean), widened(self.log_scale).exp(), validate_args=False)
        return MixtureSameFamily(
            Choice(logits=widened(self.logits), validate_args=False),
            Independent(normal, len(self.space.shape), validate_args=False),
            validate_args=False,
        )

    @torch.no_grad()
    def fit(self, events: Iterable[Tensor]) -> None:
        """Set it to the likeliest that expectation maximization finds of all events [B, *shape] of the batches, read
        once.

        Raises ModelError for fewer than two events for each component.
        """
        flat = (x.flatten(1) for x in events)
        weights, mean, variance = expectation_maximization(flat, self.config.components, "diag", self.config.starts)
        self.logits.copy_(weights.log())
        self.mean.copy_(mean.view_as(self.mean))
        self.log_scale.copy_(0.5 * variance.log().view_as(self.log_scale))


class FullGaussianMixture(Mixed):
    r"""A mixture of normals with any covariances, :math:`\sum_k \pi_k N(z; \mu_k, L_k L_k^T)`. Events: vectors."""

    class Config(Model.Config):
        offered_as: ClassVar[str | None] = "mixture"
        one_for_all: ClassVar[bool] = True
        components: int = Field(default=10, gt=0)  # of the mixture, each of any covariance
        starts: int = Field(default=1, gt=0)  # of `fit`, of which the likeliest counts
        even: bool = False  # instead, the one whose weights are the most even: clusters taken to be equally frequent

        @classmethod
        def choices(cls, space: Space) -> tuple["FullGaussianMixture.Config", ...]:
            return tuple(cls(components=k) for k in CHOICES)

        def build(self, space: Space, given: tuple[Space, ...] = ()) -> "FullGaussianMixture":
            return FullGaussianMixture(self, space, given)

        @classmethod
        def example(cls) -> tuple["FullGaussianMixture.Config", Space, tuple[Space, ...]]:
            return cls(components=2), Space((2,)), ()

    def __init__(self, config: Config, space: Space, given: tuple[Space, ...] = ()):
        super().__init__(config, space, given)
        K, D = config.components, length(config, space)
        self.logits = nn.Parameter(torch.zeros(K))
        self.mean = nn.Parameter(noise.randn((K, D)))
        self.cholesky = Cholesky(D, K)

    def distribution(self, y: Y = None) -> Distribution:
        weights = Choice(logits=widened(self.logits), validate_args=False)
        normals = MultivariateNormal(widened(self.mean), scale_tril=self.cholesky(), validate_args=False)
        return MixtureSameFamily(weights, normals, validate_args=False)

    def stages(self) -> tuple[Stage, ...]:
        return (Stage("model", (Turn((self,), self._loss),), fit=of_events(self.fit)),)

    def fit(self, events: Iterable[Tensor]) -> None:
        """Set it to what expectation maximization makes of all events [B, D] of the batches, read once.

        Raises ModelError for fewer than two events for each component.
        """
        weights, mean, covariance = expectation_maximization(
            events, self.config.components, "full", self.config.starts, self.config.even
        )
        self.put(weights, mean, covariance)

    @torch.no_grad()
    def put(self, weights: Tensor, mean: Tensor, covariance: Tensor) -> None:
        """Set π [K], the means [K, D] and the covariances [K, D, D]."""
        self.logits.copy_(weights.log())
        self.mean.copy_(mean)
        self.cholesky.put(covariance)


def expectation_maximization(
    events: Iterable[Tensor], K: int, covariance: Literal["full", "diag"], starts: int = 1, even: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Weights [K], means [K, D] and covariances [K, D, D], or variances [K, D], of events [B, D] in batches.

    That is scikit-learn's, on at most MIXED standardized events, from starts drawn by `noise`; 100 steps at most, which
    are near enough. Of several starts the likeliest counts, or with `even` that of the most even weights.

    Raises ModelError for fewer than two events for each component, and too few for a full covariance.
    """
    from scipy.stats import entropy
    from sklearn.exceptions import ConvergenceWarning  # slow imports, and all modules are imported to find priors
    from sklearn.mixture import GaussianMixture as Estimator

    z = torch.cat([x.cpu() for x in events])
    z = z[:: math.ceil(len(z) / MIXED)].double()
    if len(z) < 2 * K:
        raise ModelError(f"components={K}: {len(z)} codes are too few for so many; expected at most {len(z) // 2}")
    if covariance == "full" and len(z) <= z.shape[1]:
        raise ModelError(
            f"{len(z)} codes are too few for covariances of {z.shape[1]} numbers; it takes more than so many"
        )
    mean, scale = z.mean(0), z.std(0).clamp(min=1e-3 * float(z.std(0).max()))
    seed = int(noise.randint(0, 2**31, ()))
    standardized = ((z - mean) / scale).numpy()

    def fitted(seed: int, starts: int) -> Estimator:
        return Estimator(K, covariance_type=covariance, reg_covar=1e-5, random_state=seed, n_init=starts).fit(
            standardized
        )

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        if even:  # the likeliest is often one that parts a cluster of thin shape, and joins two others
            found = (fitted((seed + i) % 2**31, 1) for i in range(starts))
            estimator = max(found, key=lambda e: float(entropy(np.asarray(e.weights_))))
        else:
            estimator = fitted(seed, starts)
    weights, means, covariances = (
        torch.from_numpy(np.asarray(a)) for a in (estimator.weights_, estimator.means_, estimator.covariances_)
    )
    spread = scale.square() if covariance == "diag" else scale[:, None] * scale
    return weights.clamp(min=1e-12), mean + scale * means, covariances * spread

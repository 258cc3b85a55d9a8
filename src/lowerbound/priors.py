"""Small models over latents. A prior is a Model whose space is the latent's."""

import math
import warnings
from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, MixtureSameFamily

from lowerbound import noise
from lowerbound.devices import widened
from lowerbound.distributions import Choice, MultivariateNormal, Normal, normal_moments, tempered
from lowerbound.errors import ConfigError, ModelError
from lowerbound.model import Draw, Drawn, ExactModel, Model, Told
from lowerbound.space import Shape, Space, Y
from lowerbound.stages import Stage, Turn

CHOICES = (5, 20, 60)  # components of a mixture, of which held-out events choose
MIXED = 20_000  # events, at most, that a mixture is fitted to: its time grows with them times components times D²


class Prior(ExactModel):
    """A model over latents that is one torch distribution: its KL to a posterior may then be closed."""

    def distribution(self, y: Y = None) -> Distribution:
        """p(z|y), without batch dimensions."""
        raise NotImplementedError

    def _log_prob(self, x: Tensor, y: Y = None) -> Tensor:
        return self.distribution(y).log_prob(x)

    def _draw(self, n: int, y: Y, how: Draw, told: Told) -> Drawn:
        return Drawn(tempered(self.distribution(y), how.at().temperature).sample((n,)))


class Given(Distribution):
    """p(·|y) of any model as a distribution: of the prior of latents [..., B, *latent].

    y: the parts of the condition, [..., B, *shape] each, with draws before the batch where one has any. log_prob is
    `log_weights` of one draw: the exact value, or a draw of the bound, whose noise is [1, draws x B, ...].
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}  # pyright: ignore[reportIncompatibleMethodOverride]

    def __init__(self, model: Model, y: Y = None, temperature: float = 1.0):
        self.model, self.temperature = model, temperature
        self.parts = () if y is None else (y,) if isinstance(y, Tensor) else tuple(y)
        batches = [part.shape[: part.dim() - len(s.shape)] for part, s in zip(self.parts, model.given, strict=True)]
        super().__init__(torch.broadcast_shapes(*batches), torch.Size(model.space.shape), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """[..., B]."""
        batch = value.shape[: value.dim() - len(self.event_shape)]
        flat = value.reshape(-1, *self.event_shape)
        return self.model._log_weights(flat, self._condition(batch), 1)[0].view(batch)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        batch = shape[: len(shape) - len(self.event_shape)]
        return self.model.sample(math.prod(batch), self._condition(batch), self.temperature).view(shape)

    def _condition(self, batch: torch.Size) -> Y:
        """The parts for every event of a batch."""
        given = zip(self.parts, self.model.given, strict=True)
        return tuple(part.expand(*batch, *s.shape).reshape(-1, *s.shape) for part, s in given) or None


@tempered.register
def _(d: Given, t: float) -> Distribution:
    return Given(d.model, d.parts, t)


def prior_given(model: Model, y: Y = None) -> Distribution:
    """p(·|y) of a model of latents: what `Prior.distribution` gives, with its closed KLs, or else `Given`."""
    return model.distribution(y) if isinstance(model, Prior) else Given(model, y)


class StandardNormal(Prior):
    """N(0, I), the VAE's prior (Kingma & Welling 2014)."""

    class Config(Model.Config):
        def build(self, space: Space, given: tuple[Space, ...] = ()) -> "StandardNormal":
            return StandardNormal(self, space, given)

        @classmethod
        def example(cls) -> tuple["StandardNormal.Config", Space, tuple[Space, ...]]:
            return cls(), Space((2,)), ()

    zero: Tensor

    def __init__(self, config: Config, space: Space, given: tuple[Space, ...] = ()):
        super().__init__(config, space, given)
        self.register_buffer("zero", torch.zeros(space.shape), persistent=False)

    def distribution(self, y: Y = None) -> Distribution:
        zero = widened(self.zero)
        normal = Normal(zero, torch.ones_like(zero), validate_args=False)
        return Independent(normal, zero.dim(), validate_args=False)


class GaussianMixture(Prior):
    r"""A learned mixture of diagonal Gaussians, :math:`\sum_k \pi_k N(z; \mu_k, \sigma_k^2)`.

    Its KL to a posterior has no closed form: the bound is trained by the sampled ratio.
    """

    class Config(Model.Config):
        components: int = Field(default=10, gt=0)

        def build(self, space: Space, given: tuple[Space, ...] = ()) -> "GaussianMixture":
            return GaussianMixture(self, space, given)

        @classmethod
        def example(cls) -> tuple["GaussianMixture.Config", Space, tuple[Space, ...]]:
            return cls(components=2), Space((2,)), ()

    def __init__(self, config: Config, space: Space, given: tuple[Space, ...] = ()):
        super().__init__(config, space, given)
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


class Gaussian(Prior):
    r"""One normal with any mean and covariance, :math:`N(z; \mu, L L^T)`: its KL to a normal posterior is closed.

    L's diagonal is the exponential of what is learned. Events: vectors.
    """

    class Config(Model.Config):
        offered_as: ClassVar[str | None] = "gaussian"

        def build(self, space: Space, given: tuple[Space, ...] = ()) -> "Gaussian":
            return Gaussian(self, space, given)

        @classmethod
        def example(cls) -> tuple["Gaussian.Config", Space, tuple[Space, ...]]:
            return cls(), Space((2,)), ()

    def __init__(self, config: Config, space: Space, given: tuple[Space, ...] = ()):
        super().__init__(config, space, given)
        self.mean = nn.Parameter(torch.zeros(_length(config, space)))
        self.cholesky = Cholesky(space.shape[0])

    def distribution(self, y: Y = None) -> Distribution:
        return MultivariateNormal(widened(self.mean), scale_tril=self.cholesky(), validate_args=False)

    def stages(self) -> tuple[Stage, ...]:
        return (Stage("model", (Turn((self,), self._loss),), fit=self.fit),)

    def fit(self, events: Iterable[Tensor]) -> None:
        """Set μ and the covariance to those of all events [B, D] of the batches, read once."""
        self.put(*normal_moments(events))

    @torch.no_grad()
    def put(self, mean: Tensor, covariance: Tensor) -> None:
        """Set μ [D] and the covariance [D, D]."""
        self.mean.copy_(mean)
        self.cholesky.put(covariance)


class FullGaussianMixture(Prior):
    r"""A mixture of normals with any covariances, :math:`\sum_k \pi_k N(z; \mu_k, L_k L_k^T)`. Events: vectors."""

    class Config(Model.Config):
        offered_as: ClassVar[str | None] = "mixture"
        components: int = Field(default=10, gt=0)

        @classmethod
        def choices(cls) -> tuple["FullGaussianMixture.Config", ...]:
            return tuple(cls(components=k) for k in CHOICES)

        def build(self, space: Space, given: tuple[Space, ...] = ()) -> "FullGaussianMixture":
            return FullGaussianMixture(self, space, given)

        @classmethod
        def example(cls) -> tuple["FullGaussianMixture.Config", Space, tuple[Space, ...]]:
            return cls(components=2), Space((2,)), ()

    def __init__(self, config: Config, space: Space, given: tuple[Space, ...] = ()):
        super().__init__(config, space, given)
        K, D = config.components, _length(config, space)
        self.logits = nn.Parameter(torch.zeros(K))
        self.mean = nn.Parameter(noise.randn((K, D)))
        self.cholesky = Cholesky(D, K)

    def distribution(self, y: Y = None) -> Distribution:
        weights = Choice(logits=widened(self.logits), validate_args=False)
        normals = MultivariateNormal(widened(self.mean), scale_tril=self.cholesky(), validate_args=False)
        return MixtureSameFamily(weights, normals, validate_args=False)

    def stages(self) -> tuple[Stage, ...]:
        return (Stage("model", (Turn((self,), self._loss),), fit=self.fit),)

    def fit(self, events: Iterable[Tensor]) -> None:
        """Set it to what expectation maximization makes of all events [B, D] of the batches, read once.

        That is scikit-learn's, on at most MIXED standardized events, from a start drawn by `noise`; 100 steps at most,
        which are near enough. Raises ModelError for fewer than two events for each component.
        """
        from sklearn.exceptions import ConvergenceWarning  # slow imports, and all modules are imported to find priors
        from sklearn.mixture import GaussianMixture as Estimator

        z, K = torch.cat([x.cpu() for x in events]), self.config.components
        z = z[:: math.ceil(len(z) / MIXED)].double()
        if len(z) < 2 * K:
            raise ModelError(
                f"--components {K}: {len(z)} codes are too few for so many; expected at most {len(z) // 2}"
            )
        mean, scale = z.mean(0), z.std(0).clamp(min=1e-3 * float(z.std(0).max()))
        estimator = Estimator(K, reg_covar=1e-5, random_state=int(noise.randint(0, 2**31, ())))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            estimator.fit(((z - mean) / scale).numpy())
        weights, means, covariances = (
            torch.from_numpy(np.asarray(a)) for a in (estimator.weights_, estimator.means_, estimator.covariances_)
        )
        self.put(weights.clamp(min=1e-12), mean + scale * means, scale[:, None] * covariances * scale)

    @torch.no_grad()
    def put(self, weights: Tensor, mean: Tensor, covariance: Tensor) -> None:
        """Set π [K], the means [K, D] and the covariances [K, D, D]."""
        self.logits.copy_(weights.log())
        self.mean.copy_(mean)
        self.cholesky.put(covariance)


class Cholesky(nn.Module):
    """Learned lower triangular matrices with a positive diagonal: [*batch, D, D], at first the identity."""

    rows: Tensor
    columns: Tensor

    def __init__(self, D: int, *batch: int):
        super().__init__()
        self.log_diagonal = nn.Parameter(torch.zeros(*batch, D))
        self.below = nn.Parameter(torch.zeros(*batch, D * (D - 1) // 2))
        rows, columns = torch.tril_indices(D, D, -1)
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("columns", columns, persistent=False)

    def forward(self) -> Tensor:
        L = torch.diag_embed(widened(self.log_diagonal).exp())
        return L.index_put((*self._batch(), self.rows, self.columns), widened(self.below))

    def _batch(self) -> tuple[Tensor, ...]:
        return tuple(torch.arange(n, device=self.rows.device)[:, None] for n in self.below.shape[:-1])

    @torch.no_grad()
    def put(self, covariance: Tensor) -> None:
        """Set it to the Cholesky factor of covariances [*batch, D, D]."""
        L = torch.linalg.cholesky(covariance.double())
        self.log_diagonal.copy_(L.diagonal(dim1=-2, dim2=-1).log())
        self.below.copy_(L[..., self.rows, self.columns])


def _length(config: Model.Config, space: Space) -> int:
    """The length of the vectors of a space. Raises ConfigError for another one."""
    if space.levels is not None or len(space.shape) != 1:
        raise ConfigError(
            f"{config.type_name()} is over vectors of real numbers, got events of shape {list(space.shape)}"
        )
    return space.shape[0]

"""Probabilistic principal component analysis: the linear Gaussian latent-variable model, in closed form."""

import math
from collections.abc import Iterable

import torch
from pydantic import Field
from scipy.linalg import eigh
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, LowRankMultivariateNormal

from lowerbound.devices import at_least_float32, widened
from lowerbound.distributions import Dequantized, MultivariateNormal, Normal, covariance, tempered
from lowerbound.errors import ConfigError, ModelError
from lowerbound.model import Draw, LatentModel, Model, Told
from lowerbound.space import Density, Space, Y, conditions
from lowerbound.stages import Loss, Stage, Turn, of_events
from lowerbound.units import to_unit, unit_bin


class PPCA(LatentModel):
    r"""Probabilistic PCA (Tipping & Bishop 1999, https://doi.org/10.1111/1467-9868.00196).

    .. math::
        z \sim N(0, I_L), \quad x | z \sim N(W z + \mu, \sigma^2 I_D), \quad x \sim N(\mu, W W^T + \sigma^2 I),
        \quad z | x \sim N(M^{-1} W^T (x - \mu), \sigma^2 M^{-1}), \quad M = W^T W + \sigma^2 I

    `fit` finds the maximum of the likelihood: with the eigenvectors U and eigenvalues λ of the covariance of the data,
    the largest first,

    .. math:: W = U_L (\Lambda_L - \sigma^2 I)^{1/2}, \quad \sigma^2 = \frac{1}{D - L} \sum_{j > L} \lambda_j

    Over real numbers the density is exact. Pixel values are dequantized to s in [-1, 1): `distributions.Dequantized`
    says how, and log P(x) has a bound, whose mean over the noise is what `fit` maximizes. There z is inferred from the
    middle of the values' bins, which is the best q(z|x) there is that does not see the noise.

    Example:
        >>> pca = PPCA.Config(latent=2).build(Space((3,)))
        >>> pca.fit([torch.randn(1000, 3) * torch.tensor([3.0, 2.0, 1.0])])
        >>> pca.encode(torch.zeros(5, 3)).mean.shape, pca.density
        (torch.Size([5, 2]), <Density.EXACT: '='>)
    """

    class Config(Model.Config):
        latent: int = Field(20, gt=0)  # dimensions of z, fewer than the event has

        def build(self, space: Space, given: tuple[Space, ...] = ()) -> "PPCA":
            return PPCA(self, space, given)

        @classmethod
        def example(cls) -> tuple["PPCA.Config", Space, tuple[Space, ...]]:
            return cls(latent=1), Space((1, 2, 2), levels=3), ()

    prior_mean: Tensor

    def __init__(self, config: Config, space: Space, given: tuple[Space, ...] = ()):
        super().__init__(config, space, given)
        D, L = space.dims, config.latent
        if L >= D:
            raise ConfigError(f"model.latent: expected a whole number below {D}, the size of an event, got {L}")
        if space.levels is not None and not space.ordered:
            raise ConfigError("model: PPCA is over numbers, and these events are names (codes or labels)")
        if given:
            raise ConfigError("model: PPCA takes no condition; set data.label=false")
        self.mean = nn.Parameter(torch.zeros(D))  # μ
        self.weight = nn.Parameter(torch.eye(D, L))  # W
        self.log_scale = nn.Parameter(torch.zeros(()))  # log σ
        self.register_buffer("prior_mean", torch.zeros(L), persistent=False)
        self.flat = Space((D,), space.levels)  # the events as vectors

    # ---- the fit, in place of gradient steps

    def stages(self) -> tuple[Stage, ...]:
        return (Stage("model", (Turn((self,), self._loss),), fit=of_events(self.fit)),)

    @torch.no_grad()
    def fit(self, batches: Iterable[Tensor]) -> None:
        """Set μ, W and σ to the maximum of the likelihood of all events [B, *space.shape] of the batches, read once.

        Memory: D x D numbers. Raises ModelError where the events are fewer than two, or lie in L dimensions.
        """
        n, mean, cov = covariance(self._centres(x) for x in batches)
        if n < 2:
            raise ModelError(f"PPCA can't be fitted to {n} events")
        cov, D, L = cov.cpu(), self.space.dims, self.config.latent
        if self.space.levels is not None:
            cov.diagonal().add_(unit_bin(self.space.levels + 1) ** 2 / 12)  # the noise of dequantization
        values, vectors = eigh(cov.numpy(), subset_by_index=[D - L, D - 1])
        top, U = torch.from_numpy(values).flip(0), torch.from_numpy(vectors).flip(1)  # [L], [D, L]
        U = U * U.gather(0, U.abs().argmax(0, keepdim=True)).sign()  # a sign of our own choice
        variance = float(cov.trace() - top.sum()) / (D - L)  # σ²
        if variance <= 1e-12 * float(cov.trace()):
            raise ModelError(f"model.latent: the events lie in {L} dimensions or fewer; expected fewer latents")
        self.mean.copy_(mean)
        # of all rotations of W, the one whose posterior is diagonal
        self.weight.copy_(U * (top - variance).clamp(min=0).sqrt())
        self.log_scale.fill_(0.5 * math.log(variance))

    def _centres(self, x: Tensor) -> Tensor:
        """Events as the vectors that the model is of: real ones as they are, whole ones at the middle of their bins."""
        x = x.flatten(1)
        return (
            x if self.space.levels is None else to_unit(x.to(at_least_float32(self.dtype)) + 0.5, self.space.levels + 1)
        )

    # ---- densities

    @property
    def density(self) -> Density:
        return Density.EXACT if self.space.levels is None else Density.BOUND

    @property
    def pixelwise(self) -> bool:
        return True

    @property
    def likelihood_density(self) -> Density:
        return Density.EXACT if self.space.levels is None else Density.BOUND

    @property
    def prior_densities(self) -> tuple[Density, ...]:
        return (Density.EXACT,)

    @property
    def unbiased(self) -> bool:
        return True

    def _loss(self, x: Tensor, y: Y = None, step: int = 0) -> Loss:
        nll = -self._log_weights(x, y)[0]
        return Loss(nll.mean(), {"nll": nll.detach()})

    def _log_weights(self, x: Tensor, y: Y = None, draws: int = 1) -> Tensor:
        """log p(x) of real events, [1, B]; a draw of the bound for each noise of dequantization, [K, B]."""
        conditions(y, self.given)
        x, marginal = x.flatten(1), self.marginal
        if self.space.levels is None:
            return marginal.log_prob(x).unsqueeze(0)
        return Dequantized(marginal, self.flat).log_prob(x.expand(draws, *x.shape))

    @property
    def marginal(self) -> Distribution:
        """p(x) = N(μ, W Wᵀ + σ² I) over vectors, without batch dimensions."""
        W, mean, log_scale = self._parameters_widened()
        return LowRankMultivariateNormal(mean, W, (2 * log_scale).exp().expand_as(mean), validate_args=False)

    def _parameters_widened(self) -> tuple[Tensor, Tensor, Tensor]:
        """W, μ and log σ; in half precision there is nothing that solves for z."""
        return widened(self.weight), widened(self.mean), widened(self.log_scale)

    @property
    def prior(self) -> Distribution:
        zero = widened(self.prior_mean)
        return Independent(Normal(zero, torch.ones_like(zero), validate_args=False), 1)

    # ---- latents

    @property
    def latents(self) -> tuple[Space, ...]:
        return (Space((self.config.latent,)),)

    def bottom_up(self, x: Tensor, y: Y = None) -> Tensor:
        conditions(y, self.given)
        return self._centres(x)

    def posterior(self, l: int, h: Tensor, coarser: tuple[Tensor, ...] = (), y: Y = None) -> Distribution:
        W, mean, log_scale = self._parameters_widened()
        scale = log_scale.exp()
        M = W.T @ W + scale**2 * torch.eye(W.shape[1], dtype=W.dtype, device=W.device)
        z = torch.linalg.solve(M, W.T @ (h - mean).T).T  # [B, L]
        return MultivariateNormal(z, precision_matrix=M / scale**2, validate_args=False)

    def prior_of(self, l: int, coarser: tuple[Tensor, ...] = (), y: Y = None) -> Distribution:
        return self.prior

    def likelihood(self, z: tuple[Tensor, ...], y: Y = None) -> Distribution:
        conditions(y, self.given)
        (code,) = z
        W, mean, log_scale = self._parameters_widened()
        normal = Normal((code @ W.T + mean).unflatten(-1, self.space.shape), log_scale.exp(), validate_args=False)
        base = Independent(normal, len(self.space.shape), validate_args=False)
        return base if self.space.levels is None else Dequantized(base, self.space)

    @property
    def is_plane(self) -> bool:
        return self.config.latent == 2

    def _draw_latents(self, n: int, y: Y, how: Draw, told: Told, coarse: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (tempered(self.prior, how.at().temperature).sample((n,)),)

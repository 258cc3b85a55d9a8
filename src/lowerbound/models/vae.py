"""The variational autoencoder."""

from typing import Any

import torch
from pydantic import Field, field_validator
from torch import Tensor
from torch.distributions import Distribution

from lowerbound.distributions import closed_kl
from lowerbound.errors import ConfigError
from lowerbound.families import Bernoulli, DiagonalNormal, Family, Head
from lowerbound.models.base import Context, Density, ElboTerms, LatentModel, Loss, Model, Space, Y
from lowerbound.networks.base import Network
from lowerbound.networks.mlp import MLP
from lowerbound.objectives import ELBO, IWAE, Objective
from lowerbound.priors import Prior, StandardNormal


class VAE(LatentModel):
    r"""A prior, a posterior and a likelihood, each two of a network and a family (Kingma & Welling 2014).

    .. math:: \log p(x|y) \ge E_{q(z|x,y)}[\log p(x|z,y) + \log p(z|y) - \log q(z|x,y)]

    What varies is passed as a part: a beta-VAE is `objective=ELBO(beta=4)`, an IWAE `objective=IWAE(draws=5)`.

    Example:
        >>> vae = VAE.Config(latent=2).build(Space((1, 8, 8), levels=2))
        >>> x = vae.sample(16)
        >>> vae.decode(vae.encode(x).sample((5,))).batch_shape
        torch.Size([5, 16])
    """

    class Config(Model.Config):
        latent: tuple[int, ...] = Field(default=(20,), min_length=1)  # the shape of z: 20, or [8, 4, 4] for a map
        posterior: Family = DiagonalNormal()
        likelihood: Family = Bernoulli()
        prior: Model.Config = StandardNormal.Config()
        encoder: Network.Config = MLP.Config()
        decoder: Network.Config = MLP.Config()
        objective: Objective = ELBO()
        context: int = Field(default=32, gt=0)  # width of the condition's embedding, where there is a condition

        @field_validator("latent", mode="before")
        @classmethod
        def _shape(cls, value: Any) -> Any:
            sizes = value if isinstance(value, (list, tuple)) else (value,)
            for size in sizes:
                if isinstance(size, bool) or not isinstance(size, int) or size < 1:
                    raise ValueError(f"expected a whole number above 0, got {size!r}")
            return tuple(sizes)

        def build(self, space: Space, given: tuple[Space, ...] = ()) -> "VAE":
            return VAE(self, space, given)

        def binary(self) -> bool:
            return isinstance(self.likelihood, Bernoulli)

        @classmethod
        def example(cls) -> tuple["VAE.Config", Space, tuple[Space, ...]]:
            small = MLP.Config(hidden=(4,))
            return cls(latent=(2,), encoder=small, decoder=small), Space((1, 2, 2), levels=2), ()

    def __init__(self, config: Config, space: Space, given: tuple[Space, ...] = ()):
        super().__init__(config, space, given)
        self.latent = Space(config.latent)
        self.prior: Model = config.prior.build(self.latent, given)
        self.posterior_head = Head(config.posterior, self.latent)
        self.likelihood_head = Head(config.likelihood, space)
        self.context = Context(given, config.context)
        self.encoder = config.encoder.build(space.feature_shape, self.posterior_head.in_shape, self.context.width)
        self.decoder = config.decoder.build(config.latent, self.likelihood_head.in_shape, self.context.width)
        if isinstance(config.objective, IWAE) and not self.prior.unbiased:
            raise ConfigError(
                "model.objective: the bound of this prior is noisy, so its draws can't be weighted; use ELBO"
            )

    @property
    def density(self) -> Density:
        parts = (self.posterior_head, self.likelihood_head, self.prior)
        return Density.worst(Density.BOUND, *(part.density for part in parts))

    @property
    def unbiased(self) -> bool:
        return self.prior.unbiased

    def why_no_density(self) -> str:
        if self.likelihood_head.density is Density.NONE:
            return (
                f"its likelihood {self.config.likelihood.type_name()} is no probability of {self.space.levels} levels"
            )
        return super().why_no_density()

    def loss(self, x: Tensor, y: Y = None, step: int = 0) -> Loss:
        return self.config.objective(self.elbo_terms(x, y, self.config.objective.draws), step)

    def posteriors(self, x: Tensor, y: Y = None) -> tuple[Distribution, ...]:
        return (self.posterior_head(self.encoder(self.space.features(x), self.context(y))),)

    def likelihood(self, z: tuple[Tensor, ...], y: Y = None) -> Distribution:
        (code,) = z
        batch = code.shape[: code.dim() - len(self.latent.shape)]  # [..., B]
        c = self.context(y)
        if c is not None:
            c = c.expand(*batch, c.shape[-1]).reshape(-1, c.shape[-1])
        h = self.decoder(code.reshape(-1, *self.latent.shape), c)
        return self.likelihood_head(h.unflatten(0, batch))

    def elbo_terms(self, x: Tensor, y: Y = None, draws: int = 1) -> ElboTerms:
        (q,) = self.posteriors(x, y)
        z = q.rsample((draws,))  # [K, B, *latent]
        p = self.prior.distribution(y) if isinstance(self.prior, Prior) else None
        kl = None if p is None else closed_kl(q, p)  # [B]
        return ElboTerms(
            log_px=self.likelihood((z,), y).log_prob(x),
            latents=lambda: (self._log_pz(z, y).unsqueeze(-1), q.log_prob(z).unsqueeze(-1)),
            z=(z,),
            q=(q,),
            p=(p,),
            kl=None if kl is None else kl.expand(draws, -1).unsqueeze(-1),
        )

    def _log_pz(self, z: Tensor, y: Y) -> Tensor:
        """log p(z|y): [K, B]."""
        if not self.given:
            return self.prior.log_density(z.flatten(0, 1)).view(z.shape[:2])
        return torch.stack([self.prior.log_density(draw, y) for draw in z])

    def draw_likelihood(self, n: int, y: Y = None, temperature: float = 1.0) -> Distribution:
        return self.likelihood((self.prior.sample(n, y, temperature),), y)

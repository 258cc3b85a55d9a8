"""The variational autoencoder, and the plain one."""

from functools import partial
from typing import Any

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn
from torch.distributions import Distribution

from lowerbound.errors import ConfigError, ModelError
from lowerbound.estimators import Estimator, Pathwise
from lowerbound.families import Bernoulli, DiagonalNormal, Family, Head
from lowerbound.model import Draw, Model, Refittable, Told
from lowerbound.networks.base import Network
from lowerbound.networks.context import Context
from lowerbound.networks.mlp import MLP
from lowerbound.objectives import ELBO, IWAE, Bound, Objective
from lowerbound.priors import StandardNormal, prior_given
from lowerbound.space import Density, Space, Y
from lowerbound.stages import Loss, Prepare, Stage, Turn


def latent_shape(value: Any) -> Any:
    """16 or [8, 4, 4] -> (16,) or (8, 4, 4). Raises ValueError for what is no shape."""
    sizes = value if isinstance(value, (list, tuple)) else (value,)
    for size in sizes:
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ValueError(f"expected a whole number above 0, got {size!r}")
    return tuple(sizes)


class VAE(Refittable):
    r"""A prior, a posterior and a likelihood, each two of a network and a family (Kingma & Welling 2014).

    .. math:: \log p(x|y) \ge E_{q(z|x,y)}[\log p(x|z,y) + \log p(z|y) - \log q(z|x,y)]

    What varies is passed as a part: a beta-VAE is `objective=ELBO(beta=4)`, an IWAE `objective=IWAE(draws=5)`, a plain
    autoencoder `posterior=Point(), objective=Reconstruction(), likelihood=Noiseless()`. That one says nothing of
    log p(x), and has no p(z) to draw from.

    `prior` is the p(z) of every number and sample: the one it was trained with, or a fitted one that has taken its
    place since (`lowerbound.training.fits`). With `tied`, the decoder goes back through the encoder's weights.

    Example:
        >>> vae = VAE.Config(latent=2).build(Space((1, 8, 8), levels=2))
        >>> x = vae.sample(16)
        >>> vae.decode(vae.encode(x).sample((5,))).batch_shape
        torch.Size([5, 16])
    """

    class Config(Refittable.Config):
        latent: tuple[int, ...] = Field(default=(20,), min_length=1)  # the shape of z: 20, or [8, 4, 4] for a map
        posterior: Family = DiagonalNormal()
        likelihood: Family = Bernoulli()
        prior: Model.Config = StandardNormal.Config()
        encoder: Network.Config = MLP.Config()
        decoder: Network.Config = MLP.Config()
        objective: Objective = ELBO()
        estimator: Estimator | None = None  # of the gradient through draws of z; None: the posterior's own
        context: int = Field(default=32, gt=0)  # width of the condition's embedding, where there is a condition
        tied: bool = False  # the decoder's weights are the transposes of the encoder's
        fitted_prior: Model.Config | None = None  # fitted to the codes after training: `lowerbound fit-prior`

        _shape = field_validator("latent", mode="before")(latent_shape)

        def as_trained(self) -> "VAE.Config":
            return self if self.fitted_prior is None else self.with_prior(None)

        def with_prior(self, prior: Model.Config | None) -> "VAE.Config":
            return self.model_copy(update={"fitted_prior": prior})

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
        self.own_prior: Model = config.prior.build(self.latent, given)
        self.fitted_prior = None if config.fitted_prior is None else config.fitted_prior.build(self.latent, given)
        self.posterior_head = Head(config.posterior, self.latent)
        self.likelihood_head = Head(config.likelihood, space)
        self.context = Context(given, config.context)
        self.encoder = config.encoder.build(space.feature_shape, self.posterior_head.in_shape, self.context.width)
        self.decoder: nn.Module = (
            self._tied()
            if config.tied
            else config.decoder.build(config.latent, self.likelihood_head.in_shape, self.context.width)
        )
        self.register_load_state_dict_pre_hook(_as_now)
        if isinstance(config.objective, IWAE) and not self.own_prior.unbiased:
            raise ConfigError(
                "model.objective: the bound of this prior is noisy, so its draws can't be weighted; use ELBO"
            )
        self._check_estimator()
        if self.has_point and isinstance(config.objective, Bound):
            raise ConfigError(
                f"model.objective: {config.objective.type_name()} takes a posterior with a density, and "
                f"{config.posterior.type_name()} has none; use objectives.Reconstruction, or families.DiagonalNormal"
            )

    @property
    def estimator(self) -> Estimator:
        """How z is drawn in training."""
        return self.config.posterior.natural if self.config.estimator is None else self.config.estimator

    def _check_estimator(self) -> None:
        """Raise ConfigError where the objective's gradient would not get through draws of the posterior."""
        posterior, estimator, objective = self.config.posterior, self.estimator, self.config.objective
        with torch.no_grad():
            q = self.posterior_head(torch.zeros(1, *self.posterior_head.in_shape))
        named = "posterior" if self.config.estimator is None else "estimator"
        if why := estimator.why_not(q, self.latent, objective.draws):
            raise ConfigError(f"model.{named}: {posterior.type_name()} {why}")
        if isinstance(objective, IWAE) and objective.dreg and not isinstance(estimator, Pathwise):
            raise ConfigError(
                f"model.objective.dreg: it goes through reparameterized draws, and those of {posterior.type_name()} by "
                f"{estimator.type_name()} are others; set model.objective.dreg=false"
            )
        if not (estimator.weighs if isinstance(objective, IWAE) else estimator.averages):
            raise ConfigError(f"model.estimator: {estimator.type_name()} {estimator.other(objective.type_name())}")

    def _tied(self) -> nn.Module:
        """The decoder that goes back through the encoder. Raises ConfigError where its shapes are not the decoder's."""
        if self.given:
            raise ConfigError(
                "model.tied: a condition enters the two networks apart; set tied=false or data.label=false"
            )
        wanted = self.latent.shape, self.likelihood_head.in_shape
        there = self.posterior_head.in_shape, self.space.feature_shape
        if wanted != there:
            raise ConfigError(
                f"model.tied: the encoder maps {list(there[1])} to {list(there[0])}, but a decoder must map "
                f"{list(wanted[0])} to {list(wanted[1])}; use families.Point and a likelihood of one number per pixel, "
                "such as families.Noiseless, or tied=false"
            )
        _check_mirror(self.config.encoder, self.config.decoder)
        return self.encoder.transposed()

    @property
    def prior(self) -> Model:
        """p(z): the fitted one, where there is one."""
        return self.own_prior if self.fitted_prior is None else self.fitted_prior

    @property
    def has_point(self) -> bool:
        return self.posterior_head.density is Density.NONE

    @property
    def can_sample(self) -> bool:
        return not self.has_point or self.fitted_prior is not None

    @property
    def density(self) -> Density:
        parts = (self.posterior_head, self.likelihood_head, self.prior)
        return Density.worst(Density.BOUND, *(part.density for part in parts))

    @property
    def likelihood_density(self) -> Density:
        return self.likelihood_head.density

    @property
    def prior_densities(self) -> tuple[Density, ...]:
        return (self.prior.density,)

    @property
    def unbiased(self) -> bool:
        return self.prior.unbiased

    def why_no_fitted_prior(self) -> str:
        if len(self.latent.shape) != 1:
            shape = list(self.latent.shape)
            return f"a single vector of latents, and this model has a map of {shape}; train one with model.latent=20"
        return "a model without a condition; train one with data.label=false" if self.given else ""

    def why_no_density(self) -> str:
        if self.has_point:
            return (
                f"its posterior {self.config.posterior.type_name()} is a point, which has no log q(z|x) to make a "
                "bound of, whatever prior is fitted; reconstruction errors are what it has"
            )
        if self.likelihood_head.density is Density.NONE:
            return (
                f"its likelihood {self.config.likelihood.type_name()} is no probability of {self.space.levels} levels"
            )
        return super().why_no_density()

    def _loss(self, x: Tensor, y: Y = None, step: int = 0) -> Loss:
        objective, h = self.config.objective, self.seen(x)
        if self.training:
            h = objective.seen(h, self.space.black_and_white)
        draw = partial(self.estimator.draw, n=objective.draws, step=step)
        return objective(self._terms(x, self.encoder(h, self.context(y)), y, draw, self._own_prior_of), step)

    def stages(self) -> tuple[Stage, ...]:
        """The model, and the fitted prior: the gradient of each ends where the other begins."""
        if self.fitted_prior is None:
            return (Stage("model", (Turn((self,), self._loss),), score=self.config.objective.score),)
        parts = (self.own_prior, self.posterior_head, self.likelihood_head, self.context, self.encoder, self.decoder)
        trained = Stage("model", (Turn(parts, self._loss),), score=self.config.objective.score)
        return trained, self._prior_stage(self.fitted_prior)

    def _prior_stage(self, prior: Model) -> Stage:
        """How a prior is trained, on a draw of z for each x in the place of events."""

        def drawn(x: Tensor) -> tuple[Tensor, ...]:
            return tuple(q.sample() for q in self.posteriors(x))

        (own,) = prior.stages()
        codes = Prepare(("z",), self.latents, drawn, lambda z, y: (z[0], y))
        return own._replace(name="fitted_prior", prepare=codes, model=prior)

    # ---- the parts

    @property
    def latents(self) -> tuple[Space, ...]:
        return (self.latent,)

    def bottom_up(self, x: Tensor, y: Y = None) -> Tensor:
        return self.encoder(self.seen(x), self.context(y))

    def posterior(self, l: int, h: Tensor, coarser: tuple[Tensor, ...] = (), y: Y = None) -> Distribution:
        return self.posterior_head(h)

    def prior_of(self, l: int, coarser: tuple[Tensor, ...] = (), y: Y = None) -> Distribution:
        return prior_given(self.prior, y)

    def _own_prior_of(self, l: int, coarser: tuple[Tensor, ...], y: Y) -> Distribution:
        return prior_given(self.own_prior, y)

    def likelihood(self, z: tuple[Tensor, ...], y: Y = None) -> Distribution:
        (code,) = z
        batch = code.shape[: code.dim() - len(self.latent.shape)]  # [..., B]
        c = self.context(y)
        if c is not None:
            c = c.expand(*batch, c.shape[-1]).reshape(-1, c.shape[-1])
        h = self.decoder(code.reshape(-1, *self.latent.shape).to(self.dtype), c)
        return self.likelihood_head(h.unflatten(0, batch))

    @property
    def is_plane(self) -> bool:
        return self.latent.shape == (2,) and not self.given and self.can_sample and self.fitted_prior is None

    @property
    def cost(self) -> int:
        return self.prior.cost

    def _draw_latents(self, n: int, y: Y, how: Draw, told: Told, coarse: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if not self.can_sample:
            raise ModelError(
                f"this autoencoder can't sample: its posterior {self.config.posterior.type_name()} is a point, so "
                "training held its codes to no prior, and what a draw of N(0, I) decodes to means nothing. Fit a "
                "density to the codes first: lowerbound fit-prior RUN --prior gaussian|mixture|flow"
            )
        return (self.prior.draw(n, y, Draw(how.temperature), told).x,)


def _as_now(model: VAE, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Weights take the names they have now, and those of a fitted prior that is not configured are left out."""
    for name in [n for n in state if n.startswith(prefix + "prior.")]:
        state[prefix + "own_" + name.removeprefix(prefix)] = state.pop(name)
    if model.fitted_prior is None:
        for name in [n for n in state if n.startswith(prefix + "fitted_prior.")]:
            del state[name]


def _check_mirror(encoder: Network.Config, decoder: Network.Config) -> None:
    """Raise ConfigError where the decoder's configuration says something else than what tied weights make of it."""
    if isinstance(encoder, MLP.Config):
        mirror = encoder.model_copy(update={"hidden": tuple(reversed(encoder.hidden))})
        if decoder != mirror:
            raise ConfigError(
                "model.tied: the decoder is the encoder backwards; set "
                f"model.decoder.hidden={list(mirror.hidden)} model.decoder.activation={mirror.activation}"
            )

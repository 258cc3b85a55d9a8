"""The variational autoencoder, and the plain one."""

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn
from torch.distributions import Distribution

from lowerbound.devices import widened
from lowerbound.errors import ConfigError, ModelError
from lowerbound.estimators import Draws, Estimator
from lowerbound.families import Bernoulli, DiagonalNormal, Family, Head
from lowerbound.model import Draw, ElboTerms, LatentModel, Model, Refittable, Told
from lowerbound.models.attributes import predictor
from lowerbound.models.labels import SemiSupervised, drawn_label
from lowerbound.models.latents import (
    Offset,
    check_estimator,
    check_kind,
    check_learned_labels,
    check_mirror,
    check_objectives,
    check_prior_after,
    check_tied,
    label_network,
    latent_shape,
    opponent,
    remarks_of,
)
from lowerbound.networks.base import Network
from lowerbound.networks.context import Context
from lowerbound.networks.mlp import MLP
from lowerbound.objectives import ELBO, Adversary, Bound, Objective, Reconstruction
from lowerbound.priors import Begins, Bindable, Categorical, Mixed, StandardNormal, offered, prior_given
from lowerbound.space import UNKNOWN, Density, Space, Y, conditions
from lowerbound.stages import Loss, Prepare, Score, Size, Stage, Turn


class VAE(Refittable):
    r"""A prior, a posterior and a likelihood, each two of a network and a family (Kingma & Welling 2014).

    .. math:: \log p(x|y) \ge E_{q(z|x,y)}[\log p(x|z,y) + \log p(z|y) - \log q(z|x,y)]

    What varies is passed as a part: a beta-VAE is `objective=ELBO(beta=4)`, an IWAE `objective=IWAE(draws=5)`, a plain
    autoencoder `posterior=Point(), objective=Reconstruction(), likelihood=Noiseless()`. That one says nothing of
    log p(x), and has no p(z) to draw from.

    `prior` is the p(z) of every number and sample: the one it was trained with, or a fitted one that has taken its
    place since (`lowerbound.training.fits`). With `tied`, the decoder goes back through the encoder's weights.

    With a `classifier` q(y|x) of the label it is "M2" of Kingma et al. (2014): trained on images of which few have a
    label (`data.labels=100`), it predicts the others' (`lowerbound.models.labels`). A prior that is such a VAE makes it
    "M1+M2": p(x|z1) p(z1|y, z2), where the label acts through the prior alone. The networks are trained with N(0, I) in
    its place, and then the prior, on draws of q(z1|x) that are new at every step. Where the prior is a mixture, its
    components are clusters, and p(c|x) is p(c|z) at the posterior mean (Jiang et al. 2017, VaDE,
    https://arxiv.org/abs/1611.05148, eq. 16). `pretraining` is the objective of a stage before the training, after
    which the prior begins at the codes: without it most clusters of VaDE are never found.

    Example:
        >>> vae = VAE.Config(latent=2).build(Space((1, 8, 8), levels=2))
        >>> x = vae.sample(16)
        >>> vae.decode(vae.encode(x).sample((5,))).batch_shape
        torch.Size([5, 16])
    """

    class Config(Refittable.Config):
        latent: tuple[int, ...] = Field(default=(20,), min_length=1)  # the shape of z: 20, or [8, 4, 4] for a map
        latent_levels: int | None = Field(default=None, ge=2)  # values that each variable of z takes; None: it is real
        posterior: Family = DiagonalNormal()  # q(z|x), of what the encoder puts out
        likelihood: Family = Bernoulli()  # p(x|z), of what the decoder puts out
        prior: Model.Config = StandardNormal.Config()  # p(z)
        encoder: Network.Config = MLP.Config()  # from x to what the posterior needs
        decoder: Network.Config = MLP.Config()  # from z to what the likelihood needs
        objective: Objective = ELBO()  # from the terms of the bound to the loss
        adversary: Adversary.Config | None = None  # whom z is trained against, by turns
        estimator: Estimator | None = None  # of the gradient through draws of z; None: the posterior's own
        classifier: Network.Config | None = None  # q(y|x) of the label, to be trained on images of which few have one
        predictor: Network.Config | None = None  # predicts the given attributes from x, for images that come without
        alpha: float = Field(default=1.0, ge=0)  # what -log q(y|x) of a known label counts beside a bound
        pretraining: Reconstruction | None = None  # of a stage before; the prior then begins at the codes
        prior_after: bool = False  # the networks are trained with N(0, I), and then the prior, on draws of q(z|x)
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

        def learns_labels(self) -> bool:
            return self.classifier is not None or self.prior.learns_labels()

        def of_stage(self, stage: str) -> tuple[str, ...]:
            return ("prior.",) if stage == "prior" else ()

        def binary(self) -> bool:
            return isinstance(self.likelihood, Bernoulli)

        @classmethod
        def example(cls) -> tuple["VAE.Config", Space, tuple[Space, ...]]:
            small = MLP.Config(hidden=(4,))
            return cls(latent=(2,), encoder=small, decoder=small), Space((1, 2, 2), levels=2), ()

    prior_learned: Tensor  # whether it is trained, where that is after the networks

    def __init__(self, config: Config, space: Space, given: tuple[Space, ...] = ()):
        super().__init__(config, space, given)
        self.latent = Space(config.latent, config.latent_levels, ordered=config.latent_levels in (None, 2))
        check_kind("posterior", config.posterior, config.latent_levels)
        self.own_prior: Model = config.prior.build(self.latent, given)
        self.fitted_prior = None if config.fitted_prior is None else config.fitted_prior.build(self.latent, given)
        self.first_prior: StandardNormal | None = self._first_prior()
        self.posterior_head = Head(config.posterior, self.latent)
        self.likelihood_head = Head(config.likelihood, space)
        self.context = Context(() if self.first_prior else given, config.context)
        self.encoder = config.encoder.build(space.feature_shape, self.posterior_head.in_shape, self.context.width)
        self.decoder: nn.Module = (
            self._tied()
            if config.tied
            else config.decoder.build(self.latent.feature_shape, self.likelihood_head.in_shape, self.context.width)
        )
        self.classifier = label_network(config.classifier, space, given, config.objective)
        self.predictor = predictor(config.predictor, space, given)
        self.offset = Offset(self.likelihood_head) if isinstance(self.own_prior, Bindable) else nn.Identity()
        self.register_load_state_dict_pre_hook(_as_now)
        check_objectives(config.objective, config.pretraining, self.own_prior, apart=self.first_prior is not None)
        q = self._check_estimator()
        self.adversary = opponent(config.adversary, q, self.latent, given, self.classifier is not None)
        self.images: int | None = None  # that are trained on, once it is known
        if isinstance(self.own_prior, Bindable):
            self._bind(self.own_prior)
        if self.has_point and isinstance(config.objective, Bound):
            raise ConfigError(
                f"model.objective: {config.objective.type_name()} takes a posterior with a density, and "
                f"{config.posterior.type_name()} has none; use objectives.Reconstruction, or families.DiagonalNormal"
            )

    def _first_prior(self) -> StandardNormal | None:
        """What the networks are trained with, where the prior is trained on their draws after them."""
        if self.config.prior.learns_labels():
            check_learned_labels(self.config.prior, self.config.objective, self.latent, self.config.classifier is None)
        elif not self.config.prior_after:
            return None
        check_prior_after(self.config.prior, self.own_prior, self.latent, self.config.pretraining is not None)
        self.register_buffer("prior_learned", torch.tensor(True))
        return StandardNormal.Config().build(self.latent)

    def _bind(self, prior: Bindable) -> None:
        """Raises ConfigError where posteriors have no density."""
        if self.has_point:
            raise ConfigError(
                f"model.prior: {self.config.prior.type_name()} mixes posteriors, and those of "
                f"{self.config.posterior.type_name()} have no density; use families.DiagonalNormal"
            )
        prior.bind(self.space, self._posterior_of)

    def _posterior_of(self, h: Tensor, y: Y) -> Distribution:
        """q(z|x, y) of features [N, *feature_shape]."""
        return self.posterior_head(self.encoder(h.to(self.dtype), self._context(y)))

    @property
    def dtype(self) -> torch.dtype:
        return next(self.encoder.parameters()).dtype  # values of a quantizer stay in float32

    @property
    def estimator(self) -> Estimator:
        """How z is drawn in training."""
        return self.config.posterior.natural if self.config.estimator is None else self.config.estimator

    @property
    def remarks(self) -> tuple[str, ...]:
        return remarks_of(self.estimator)

    def _check_estimator(self) -> Distribution:
        """A posterior of a batch. Raises ConfigError where the objective's gradient would not get through its draws."""
        posterior, estimator = self.config.posterior, self.estimator
        with torch.no_grad():
            q = self.posterior_head(torch.zeros(1, *self.posterior_head.in_shape))
        named = "posterior" if self.config.estimator is None else "estimator"
        check_estimator(estimator, posterior, q, self.latent, self.config.objective, named)
        if estimator.relaxed and not isinstance(self.own_prior, Categorical):
            raise ConfigError(
                f"model.estimator: relaxed draws have no probability under {self.config.prior.type_name()}; use "
                "model.prior=priors.Categorical, whose KL is closed, or model.estimator=estimators.RLOO"
            )
        return q

    def _tied(self) -> nn.Module:
        """The decoder that goes back through the encoder. Raises ConfigError where its shapes are not the decoder's."""
        encoder = self.space.feature_shape, self.posterior_head.in_shape
        check_tied(bool(self.given), encoder, (self.latent.shape, self.likelihood_head.in_shape))
        check_mirror(self.config.encoder, self.config.decoder)
        return self.encoder.transposed()

    @property
    def prior(self) -> Model:
        """p(z): the fitted one, where there is one; of one that is trained after the networks N(0, I), until it is."""
        if self.first_prior is not None and not self.prior_learned:
            return self.first_prior
        return self.own_prior if self.fitted_prior is None else self.fitted_prior

    @property
    def has_point(self) -> bool:
        return self.posterior_head.density is Density.NONE

    @property
    def can_sample(self) -> bool:
        apart = self.first_prior is not None and bool(self.prior_learned)
        return not self.has_point or self.fitted_prior is not None or apart

    @property
    def density(self) -> Density:
        parts = (self.posterior_head, self.likelihood_head, self.prior)
        return Density.worst(Density.BOUND, *(part.density for part in parts))

    @property
    def pixelwise(self) -> bool:
        return self.config.likelihood.pixelwise

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
        if self.latent.levels is not None:
            return (
                "latents of real numbers, and these take whole ones; train a prior with the model, such as "
                "model.prior=models.autoregressive.Autoregressive"
            )
        if len(self.latent.shape) not in (1, 3):
            shape = list(self.latent.shape)
            return f"a vector of latents or a map [C, H, W], and these are {shape}; train one with model.latent=20"
        return ""

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
        if self.classifier is not None:
            return self._semi_supervised(x, y, step)
        terms = self._trained_terms(x, y, step)
        loss = self.config.objective(terms, step)
        if self.adversary is None:
            return loss
        return self.adversary.opposing(loss, terms.q[0].rsample().to(self.dtype), y, step)

    def _adversary_loss(self, x: Tensor, y: Y = None, step: int = 0) -> Loss:
        assert self.adversary is not None
        with torch.no_grad():
            z = self._posterior_of(self.seen(x), y).sample()
        return self.adversary.loss(z.to(self.dtype), y)

    def _predictor_loss(self, x: Tensor, y: Y = None, step: int = 0) -> Loss:
        assert self.predictor is not None
        return self.predictor.loss(self.seen(x), y)

    def _predicted_condition(self, x: Tensor) -> Tensor | None:
        return None if self.predictor is None else self.predictor(self.seen(x))

    def _context(self, y: Y) -> Tensor | None:
        return self.context(y if self.context.given else None)

    def _trained_terms(self, x: Tensor, y: Y, step: int) -> ElboTerms:
        objective, h = self.config.objective, self.seen(x)
        if self.training:
            h = objective.seen(h, self.space.black_and_white)
        draw = partial(self.estimator.draw, n=objective.draws, step=step)
        terms = self._terms(x, self.encoder(h, self._context(y)), y, draw, self._own_prior_of)
        return replace(terms, images=self.images)

    def _pretraining_loss(self, x: Tensor, y: Y = None, step: int = 0) -> Loss:
        """Of an autoencoder's codes: the posterior means."""
        assert self.config.pretraining is not None
        h = self.seen(x)
        if self.training:
            h = self.config.pretraining.seen(h, self.space.black_and_white)
        terms = self._terms(x, self.encoder(h, self._context(y)), y, lambda q: Draws(q.mean[None]), self._own_prior_of)
        return self.config.pretraining(terms, step)

    def _semi_supervised(self, x: Tensor, y: Y, step: int) -> Loss:
        """Of a batch of which some labels are UNKNOWN."""
        objective = self.config.objective
        assert isinstance(objective, Bound)
        (label,) = conditions(y, self.given)

        def cost(x: Tensor, y: Tensor) -> Tensor:
            return objective.of_each(self._trained_terms(x, y, step), step)

        return SemiSupervised.of(x, label, self._predicted(x), cost).loss(self.config.alpha)

    def stages(self) -> tuple[Stage, ...]:
        """The model, and the fitted prior: the gradient of each ends where the other begins."""
        networks = (self.posterior_head, self.likelihood_head, self.context, self.encoder, self.decoder, self.offset)
        own = (self.own_prior, *networks, *(() if self.classifier is None else (self.classifier,)))
        apart = any(part is not None for part in (self.fitted_prior, self.adversary, self.predictor))
        parts = networks if self.first_prior is not None else own if apart else (self,)
        score = self.config.objective.score if self.classifier is None else Score(draws=None)
        turns = (Turn(parts, self._loss),)
        if (adversary := self.adversary) is not None:
            against = Turn((adversary,), self._adversary_loss, "adversary", adversary.config.optimizer)
            turns, score = (*turns, against), None
        if self.predictor is not None:
            turns = (*turns, Turn((self.predictor,), self._predictor_loss, "predictor"))
        found = (Stage("model", turns, score=score, sized=self._sized),)
        if (objective := self.config.pretraining) is not None:
            before = Stage("pretraining", (Turn(networks, self._pretraining_loss),), score=objective.score)
            found = before, found[0]._replace(begin=self._begin)
        elif isinstance(self.own_prior, Mixed):
            found = (found[0]._replace(begin=self.own_prior.check_enough),)
        if isinstance(self.own_prior, Bindable):
            found = (*found[:-1], found[-1]._replace(begin=self._begin_inputs))
        if self.first_prior is not None:
            found = (*found, self._stage_after())
        return found if self.fitted_prior is None else (*found, self._prior_stage(self.fitted_prior))

    def _sized(self, size: Size) -> None:
        for part in (self.config.objective, self.adversary):
            if part is not None:
                part.check(size)
        self.images = size.events

    def _begin(self, events: Iterable[Tensor]) -> None:
        """The prior begins at the posterior means of all events."""
        assert isinstance(self.own_prior, Begins)
        self.own_prior.fit(tuple(self.posterior(0, self.bottom_up(x)).mean for x in events))

    def _begin_inputs(self, events: Iterable[Tensor]) -> None:
        """The prior begins at training images, if it does, and what the decoder adds at their mean."""
        prior, offset = self.own_prior, self.offset
        assert isinstance(prior, Bindable)
        assert isinstance(offset, Offset)
        seen = (self.seen(x) for x in offset.passing(events))
        prior.begin_at(seen)
        for _ in seen:
            pass

    def _prior_stage(self, prior: Model) -> Stage:
        """How a prior is trained, on a draw of z for each x in the place of events."""

        def drawn(x: Tensor, y: Y) -> tuple[Tensor, ...]:
            return tuple(q.sample() for q in self.posteriors(x, y))

        (own,) = prior.stages()
        codes = Prepare(("z",), self.latents, drawn, lambda z, y: (z[0], y))
        return own._replace(name="fitted_prior", prepare=codes, model=prior)

    def _stage_after(self) -> Stage:
        """How the prior is trained apart: on draws of z for each x, which are new at every step."""
        seen = Space(self.posterior_head.in_shape)

        def drawn(h: tuple[Tensor, ...], y: Y) -> tuple[Tensor, Y]:
            return self.posterior_head(h[0].to(self.dtype)).sample(), y

        def learned(yes: bool) -> None:
            self.prior_learned.fill_(yes)

        (own,) = self.own_prior.stages()
        codes = Prepare(("h",), (seen,), lambda x, y: (self.bottom_up(x),), drawn)
        return own._replace(name="prior", prepare=codes, model=self.own_prior, learned=learned)

    # ---- labels and clusters

    @property
    def predicts(self) -> str:
        if self.classifier is not None:
            return "label"
        if self.config.prior.learns_labels():
            return self.own_prior.predicts
        return "cluster" if self.clusters else ""

    @property
    def clusters(self) -> int:
        return 0 if self.classifier is not None else self.prior.clusters

    def _predicted(self, x: Tensor) -> Tensor:
        """log q(y|x), or log p(c|z) at the posterior mean, up to a constant: [B, C]."""
        if self.classifier is not None:
            return widened(self.classifier(self.seen(x)))
        (q,) = self.posteriors(x)
        if self.config.prior.learns_labels():
            return self.own_prior._predicted(q.mean)
        assert isinstance(self.prior, Mixed)
        return self.prior.log_joint(q.mean)

    def relabelled(self, z: Tensor, y: Y, target: Y) -> Tensor:
        """Where the label acts through the prior: the mean of p(z1|y, z2) at the mean of q(z2|z1, y)."""
        if not self.config.prior.learns_labels():
            return z
        assert isinstance(self.own_prior, LatentModel)
        return self.own_prior.likelihood(tuple(q.mean for q in self.own_prior.posteriors(z, y)), target).mean

    def why_no_labels(self) -> str:
        return (
            "its prior is no mixture, whose components would be clusters, and it has no classifier of labels; train it "
            "with model.prior=priors.GaussianMixture, or model.classifier=networks.mlp.MLP data.label=true"
        )

    def _log_weights(self, x: Tensor, y: Y = None, draws: int = 1) -> Tensor:
        """Of images whose label is UNKNOWN, the weights of log p(x) with y from q(y|x)."""
        if self.classifier is None:
            return super()._log_weights(x, y, draws)
        (label,) = conditions(y, self.given)
        found, log_ratio = drawn_label(self._predicted(x), draws)  # [K, B]
        known = label != UNKNOWN
        found = torch.where(known, label, found)
        many = x.expand(draws, *x.shape)
        log_w = self.elbo_terms(many.flatten(0, 1), found.flatten(), 1).log_weight.view(draws, -1)
        return log_w + torch.where(known, 0.0, log_ratio)

    # ---- the parts

    @property
    def latents(self) -> tuple[Space, ...]:
        return (self.latent,)

    def bottom_up(self, x: Tensor, y: Y = None) -> Tensor:
        return self.encoder(self.seen(x), self._context(y))

    def posterior(self, l: int, h: Tensor, coarser: tuple[Tensor, ...] = (), y: Y = None) -> Distribution:
        return self.posterior_head(h)

    def prior_of(self, l: int, coarser: tuple[Tensor, ...] = (), y: Y = None) -> Distribution:
        return prior_given(self.prior, y)

    def _own_prior_of(self, l: int, coarser: tuple[Tensor, ...], y: Y) -> Distribution:
        return prior_given(self.own_prior if self.first_prior is None else self.first_prior, y)

    def likelihood(self, z: tuple[Tensor, ...], y: Y = None) -> Distribution:
        (code,) = z
        relaxed = self.latent.levels is None or code.is_floating_point()  # what the decoder sees, already
        shape = self.latent.feature_shape if relaxed else self.latent.shape
        batch = code.shape[: code.dim() - len(shape)]  # [..., B]
        c = self._context(y)
        if c is not None:
            c = c.expand(*batch, c.shape[-1]).reshape(-1, c.shape[-1])
        flat = code.reshape(-1, *shape)
        h = self.decoder((flat if relaxed else self.latent.features(flat)).to(self.dtype), c)
        return self.likelihood_head(self.offset(h.reshape(*batch, *h.shape[1:])))

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
                f"density to the codes first: lowerbound fit-prior RUN --prior {'|'.join(sorted(offered(self.latent)))}"
            )
        return (self.prior.draw(n, y if self.prior.given else None, replace(how, mean=False), told).x,)


def _as_now(model: VAE, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Weights take the names they have now; those of a fitted prior that is not configured are left out, and those of
    a prior that was not trained yet, which may be configured anew before it is."""
    for name in [n for n in state if n.startswith(prefix + "prior.")]:
        state[prefix + "own_" + name.removeprefix(prefix)] = state.pop(name)
    if model.first_prior is not None and not state.get(prefix + "prior_learned", model.prior_learned):
        for name in [n for n in state if n.startswith(prefix + "own_prior.")]:
            del state[name]
        state.update(model.own_prior.state_dict(prefix=prefix + "own_prior."))
    for name, own in model.offset.state_dict(prefix=prefix + "offset.").items():
        state.setdefault(name, torch.zeros_like(own))
    if model.fitted_prior is None:
        for name in [n for n in state if n.startswith(prefix + "fitted_prior.")]:
            del state[name]

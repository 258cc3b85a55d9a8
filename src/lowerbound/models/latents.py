"""What models with latents that are drawn by a posterior's network have in common: what of it fits together."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from lowerbound.errors import ConfigError
from lowerbound.estimators import Estimator, Pathwise
from lowerbound.families import Bernoulli, Categorical, Family, Head
from lowerbound.model import Model
from lowerbound.networks.base import Network
from lowerbound.networks.mlp import MLP
from lowerbound.objectives import IWAE, Adversary, Bound, Objective, Reconstruction
from lowerbound.priors import Begins, Bindable
from lowerbound.space import Shape, Space


def latent_shape(value: Any) -> Any:
    """16 or [8, 4, 4] -> (16,) or (8, 4, 4). Raises ValueError for what is no shape."""
    sizes = value if isinstance(value, (list, tuple)) else (value,)
    for size in sizes:
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ValueError(f"expected a whole number above 0, got {size!r}")
    return tuple(sizes)


class Offset(nn.Module):
    """What is added to the decoder's output: learned, and begun at the parameters of the mean event.

    Else the mean event is the first thing that a decoder learns, and where no prior holds posterior means near 0 it
    learns it through them: they drift off together, units that saturate see a constant, and z says nothing any more.
    """

    def __init__(self, head: Head):
        super().__init__()
        self.head = (head,)  # not a part of it
        self.h = nn.Parameter(torch.zeros(head.in_shape))

    def forward(self, h: Tensor) -> Tensor:
        return h + self.h

    @torch.no_grad()
    def passing(self, events: Iterable[Tensor]) -> Iterator[Tensor]:
        """The events [B, *shape], and after the last of them begin at their mean."""
        (head,) = self.head
        total, n = torch.zeros(head.space.shape, dtype=torch.float64, device=self.h.device), 0
        for x in events:
            total, n = total + x.double().sum(0), n + len(x)
            yield x
        self.h.copy_(head.family.around(total / max(1, n), head.space))


def check_kind(field: str, family: Family, levels: int | None) -> None:
    """Raise ConfigError where a family over latents and these are of different kinds. levels: None for real ones."""
    whole = isinstance(family, Categorical | Bernoulli)
    if levels is None and whole:
        raise ConfigError(
            f"model.{field}: {family.type_name()} is over whole numbers, and z is real; set "
            "model.latent_levels, such as 10, and model.prior=priors.Categorical"
        )
    right = Bernoulli if levels == 2 else Categorical
    if levels is not None and not isinstance(family, right):
        raise ConfigError(f"model.{field}: z takes {levels} values, got {family.type_name()}; use {right.type_name()}")


def check_estimator(
    estimator: Estimator, posterior: Family, q: Distribution, latent: Space, objective: Objective, named: str
) -> None:
    """Raise ConfigError where an objective's gradient would not get through draws of the posterior.

    q: such a posterior, of a batch. named: the field that says how z is drawn, estimator or posterior.
    """
    if not (estimator.weighs if isinstance(objective, IWAE) else estimator.averages):
        raise ConfigError(f"model.estimator: {estimator.type_name()} {estimator.other(objective.type_name())}")
    if why := estimator.why_not(q, latent, objective.draws):
        raise ConfigError(f"model.{named}: {posterior.type_name()} {why}")
    if why := objective.why_not(q):
        raise ConfigError(f"model.objective: {objective.type_name()} {why}")
    if isinstance(objective, IWAE) and objective.dreg and not isinstance(estimator, Pathwise):
        raise ConfigError(
            f"model.objective.dreg: it goes through reparameterized draws, and those of {posterior.type_name()} by "
            f"{estimator.type_name()} are others; set model.objective.dreg=false"
        )


def opponent(
    config: Adversary.Config | None, q: Distribution, latent: Space, given: tuple[Space, ...], labelled: bool
) -> Adversary | None:
    """Whom z is trained against, if anybody. q: a posterior of a batch. labelled: whether few images have a label.

    Raises ConfigError where no gradient would come back to the encoder, and where the label is learned with the model.
    """
    if config is None:
        return None
    if latent.levels is not None or not q.has_rsample:
        raise ConfigError(
            f"model.adversary: {config.type_name()} reads real latents, by a gradient that goes through their draws; "
            "use model.latent_levels=null and a posterior such as families.DiagonalNormal, or model.adversary=null"
        )
    if labelled:
        raise ConfigError(
            "model.adversary: is for a model that learns no label beside; set model.classifier=null, or "
            "model.adversary=null"
        )
    return config.build(latent, given)


def check_objectives(objective: Objective, pretraining: Reconstruction | None, prior: Model, *, apart: bool) -> None:
    """Raise ConfigError for objectives that are none with a prior. apart: whether it is trained after the networks."""
    if pretraining is not None and not isinstance(prior, Begins):
        raise ConfigError(
            f"model.pretraining: {prior.config.type_name()} is nothing that could begin at the codes it leads to; "
            "use model.prior=priors.GaussianMixture, or model.pretraining=null"
        )
    if isinstance(objective, IWAE) and not apart and not prior.unbiased:
        raise ConfigError("model.objective: the bound of this prior is noisy, so its draws can't be weighted; use ELBO")


def check_bound(objective: Objective) -> None:
    """Raise ConfigError where the objective of several levels of latents is made for one."""
    if not isinstance(objective, Bound):
        raise ConfigError(
            f"model.objective: {objective.type_name()} is no bound of log p(x), which levels of latents are trained by;"
            " use objectives.ELBO"
        )


def label_network(
    config: Network.Config | None, space: Space, given: tuple[Space, ...], objective: Objective
) -> Network | None:
    """q(y|x), if the label is learned. Raises ConfigError where there is no one label, or no bound of each image to
    weigh."""
    if config is None:
        return None
    if len(given) != 1 or given[0].levels is None or given[0].shape:
        raise ConfigError("model.classifier: learns one label from each image; set data.label=true")
    if not isinstance(objective, Bound):
        raise ConfigError(
            f"model.objective: {objective.type_name()} is no bound of log p(x|y), which a classifier is trained by; "
            "use objectives.ELBO"
        )
    return config.build(space.feature_shape, (given[0].levels,))


def check_learned_labels(prior: Model.Config, objective: Objective, latent: Space, alone: bool) -> None:
    """Raise ConfigError where a prior can't learn the label of draws of q(z|x). alone: there is no classifier."""
    if not alone or not isinstance(objective, Bound) or latent.levels:
        raise ConfigError(
            f"model.prior: {prior.type_name()} learns the label, of draws of q(z|x); use model.classifier=null, "
            "model.latent_levels=null and model.objective=objectives.ELBO with it"
        )


def check_prior_after(config: Model.Config, prior: Model, latent: Space, pretrained: bool) -> None:
    """Raise ConfigError for a prior that can't be trained apart, and for networks that can't have N(0, I)."""
    if len(prior.stages()) > 1:
        raise ConfigError("model.prior: is trained in one stage, and this one needs several; use another")
    if isinstance(prior, Bindable) or pretrained or latent.levels is not None:
        raise ConfigError(
            "model.prior_after: networks of latents that are real are trained with N(0, I), and then a prior that is "
            f"not made of them, which {config.type_name()} is not here; use model.prior_after=false"
        )


def check_tied(given: bool, encoder: tuple[Shape, Shape], decoder: tuple[Shape, Shape]) -> None:
    """Raise ConfigError where the way back through the encoder is no decoder. Each: the shapes that it maps."""
    if given:
        raise ConfigError("model.tied: a condition enters the two networks apart; set tied=false or data.label=false")
    if decoder != (encoder[1], encoder[0]):
        raise ConfigError(
            f"model.tied: the encoder maps {list(encoder[0])} to {list(encoder[1])}, but a decoder must map "
            f"{list(decoder[0])} to {list(decoder[1])}; use families.Point and a likelihood of one number per pixel, "
            "such as families.Noiseless, or tied=false"
        )


def remarks_of(estimator: Estimator) -> tuple[str, ...]:
    """What whoever trains with it should know."""
    if not estimator.biased:
        return ()
    name = estimator.type_name()
    return (f"model.estimator: the gradient of {name} is biased; what is measured draws from q(z|x) itself",)


def check_mirror(encoder: Network.Config, decoder: Network.Config) -> None:
    """Raise ConfigError where the decoder's configuration says something else than what tied weights make of it."""
    if isinstance(encoder, MLP.Config):
        mirror = encoder.model_copy(update={"hidden": tuple(reversed(encoder.hidden))})
        if decoder != mirror:
            raise ConfigError(
                "model.tied: the decoder is the encoder backwards; set "
                f"model.decoder.hidden={list(mirror.hidden)} model.decoder.activation={mirror.activation}"
            )

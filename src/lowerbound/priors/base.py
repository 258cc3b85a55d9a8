"""Small models over latents. A prior is a Model whose space is the latent's."""

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, MixtureSameFamily

from lowerbound.config import components
from lowerbound.distributions import tempered
from lowerbound.errors import ConfigError, ModelError
from lowerbound.model import Draw, Drawn, ExactModel, Model, Told
from lowerbound.space import Shape, Space, Y


class Prior(ExactModel):
    """A model over latents that is one torch distribution: its KL to a posterior may then be closed."""

    def distribution(self, y: Y = None) -> Distribution:
        """p(z|y), without batch dimensions."""
        raise NotImplementedError

    def _log_prob(self, x: Tensor, y: Y = None) -> Tensor:
        return self.distribution(y).log_prob(x)

    def _draw(self, n: int, y: Y, how: Draw, told: Told) -> Drawn:
        return Drawn(tempered(self.distribution(y), how.at().temperature).sample((n,)))


class Begins(Prior):
    """A prior that can be set to what events of it look like, before it is trained on."""

    @abstractmethod
    def fit(self, events: Iterable[Tensor]) -> None:
        """Set it to all events [B, *shape] of the batches, read once."""


class Bindable(Prior):
    """A prior made of posteriors, which only its owner has."""

    @abstractmethod
    def bind(self, seen: Space, q: Callable[[Tensor, Y], Distribution]) -> None:
        """Called once by the owner, before any weights are read.

        Args:
            seen: the space of its events
            q: features of events [N, *feature_shape] and their conditions -> q(z|x, y), of batch shape [N]
        """

    @property
    @abstractmethod
    def begins(self) -> bool:
        """Whether it begins at training events, by `begin_at`."""

    @abstractmethod
    def begin_at(self, events: Iterable[Tensor]) -> None:
        """Begin at the features [B, *feature_shape] of all training events, read once."""


class Mixed(Begins):
    """A mixture whose components are clusters of its events."""

    @property
    def clusters(self) -> int:
        return self._mixture()[0].logits.shape[-1]

    def check_enough(self, events: Iterable[Tensor]) -> None:
        """Raise ModelError for fewer events [B, ...] than components; no more are read than that takes."""
        check_enough(self.clusters, events)

    def _mixture(self) -> tuple[Any, Distribution]:
        """The weights, and the components, of batch shape [K]."""
        p = self.distribution()
        assert isinstance(p, MixtureSameFamily)
        return p.mixture_distribution, p.component_distribution

    def _draw(self, n: int, y: Y, how: Draw, told: Told) -> Drawn:
        if how.cluster is None:
            return super()._draw(n, y, how, told)
        _, components = self._mixture()
        return Drawn(tempered(components, how.at().temperature).sample((n,))[:, how.cluster])

    def log_joint(self, z: Tensor) -> Tensor:
        """log π_c + log p(z|c) of every component c: [..., C]."""
        weights, components = self._mixture()
        return weights.logits + components.log_prob(z.unsqueeze(-len(self.space.shape) - 1))


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


def offered(latent: Space) -> dict[str, type[Model.Config]]:
    """The densities that can be fitted to codes of such a space, by the names that `fit-prior --prior` takes."""
    axes = len(latent.shape)
    return {k.offered_as: k for k in components(Model.Config) if k.offered_as is not None and axes in k.offered_to}


def check_enough(components: int, events: Iterable[Tensor]) -> None:
    """Raise ModelError for fewer training events [B, ...] than components; no more are read than that takes."""
    n = 0
    for x in events:
        n += len(x)
        if n >= components:
            return
    raise ModelError(f"model.prior.components={components}: there are {n} training images; set at most {n}")


def check_real(config: Model.Config, space: Space) -> None:
    """Raise ConfigError for a space of whole numbers."""
    if space.levels is not None:
        raise ConfigError(
            f"model.prior: {config.type_name()} is over real numbers, and z takes {space.levels} values; use "
            "priors.Categorical"
        )


def length(config: Model.Config, space: Space) -> int:
    """The length of the vectors of a space. Raises ConfigError for another one."""
    if space.levels is not None or len(space.shape) != 1:
        raise ConfigError(
            f"{config.type_name()} is over vectors of real numbers, got events of shape {list(space.shape)}"
        )
    return space.shape[0]


def map_shape(config: Model.Config, space: Space) -> Shape:
    """[C, H, W]. Raises ConfigError for a space of other events, or of a single number."""
    if space.levels is not None or len(space.shape) != 3 or space.dims < 2:
        raise ConfigError(
            f"{config.type_name()} is over maps [C, H, W] of at least 2 real numbers, got events of shape "
            f"{list(space.shape)}; use priors.Gaussian, or model.latent=[8,4,4]"
        )
    return space.shape

"""The mixture of the posteriors of learned inputs."""

import math
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch import distributions as td
from torch.distributions import Distribution, Independent

from lowerbound import noise
from lowerbound.devices import widened
from lowerbound.distributions import Normal, tempered
from lowerbound.errors import ConfigError, ModelError
from lowerbound.model import Draw, Drawn, Model, Told
from lowerbound.priors.base import Bindable, check_enough
from lowerbound.space import Space, Y, conditions
from lowerbound.stages import some

Posterior = Callable[[Tensor, Y], Distribution]  # features [N, *feature_shape] and conditions -> q, of batch shape [N]
MOST = 2**24  # numbers that a part of log-densities holds
START, SPREAD = 0.05, 0.01  # mean and deviation of what inputs begin at, from black 0 to white 1


class VampPrior(Bindable):
    r"""The mixture of the posteriors of K inputs u, which are learned (Tomczak & Welling 2018, VampPrior,
    https://arxiv.org/abs/1705.07120, eq. 9).

    .. math:: p(z) = \frac1K \sum_k q(z|u_k), \qquad p(z|y) = \frac{1}{|K_y|} \sum_{k: y_k = y} q(z|u_k, y_k)

    The inputs are what the encoder sees, so its gradient also comes from the prior. They are kept between black and
    white, and begin near black, or (begin="data") at training images drawn at random. Given a label, each input has
    one, all labels in turn. Drawing z is drawing an input, at any temperature all alike, and then from its posterior.

    The owner says by `bind` what a posterior is; before that inputs are latents, and q(z|u) = N(u, I).
    """

    class Config(Model.Config):
        components: int = Field(default=500, gt=0)  # pseudo-inputs, whose posteriors are mixed
        begin: Literal["noise", "data"] = "noise"  # what pseudo-inputs begin as: noise, or training images

        def build(self, space: Space, given: tuple[Space, ...] = ()) -> "VampPrior":
            return VampPrior(self, space, given)

        @classmethod
        def example(cls) -> tuple["VampPrior.Config", Space, tuple[Space, ...]]:
            return cls(components=3), Space((2,)), ()

    labels: Tensor

    def __init__(self, config: Config, space: Space, given: tuple[Space, ...] = ()):
        super().__init__(config, space, given)
        K, classes = config.components, _classes(config, given)
        if space.levels is not None:
            raise ConfigError(f"{config.type_name()} is over real latents, and these are of {space.levels} values")
        if classes > K:
            raise ConfigError(
                f"model.prior.components={K}: of {classes} labels each needs an input; set at least {classes}"
            )
        if classes > 1 and config.begin == "data":
            raise ConfigError(
                "model.prior.begin=data: the images that inputs would begin at come without their labels; set "
                "model.prior.begin=noise, or data.label=false"
            )
        self.register_buffer("labels", torch.arange(K) % classes, persistent=False)
        self._seen, self._q = space, _standard
        self.inputs = nn.Parameter(noise.randn((K, *space.shape)))

    def bind(self, seen: Space, q: Posterior) -> None:
        self._seen, self._q = seen, q
        black, white = seen.black_and_white
        start = noise.randn((self.config.components, *seen.feature_shape))
        if seen.levels is not None:
            start = black + (white - black) * (START + SPREAD * start)
        self.inputs = nn.Parameter(start)

    @property
    def begins(self) -> bool:
        return self.config.begin == "data"

    @torch.no_grad()
    def begin_at(self, events: Iterable[Tensor]) -> None:
        """Begin at K of the features [B, *feature_shape] of all training events, drawn at random, if it does so.

        Raises ModelError where these are fewer, wherever it begins.
        """
        if not self.begins:
            check_enough(self.config.components, events)
            return
        K, kept = self.config.components, some(events, self.config.components)
        if (n := len(kept)) < K:
            raise ModelError(f"model.prior.components={K}: there are {n} training images to begin at; set at most {n}")
        self.inputs.copy_(kept)

    def posteriors(self, k: Tensor | None = None) -> Distribution:
        """q(z|u) of the inputs at some places [N], or of all: of batch shape [N]."""
        u, labels = (self.inputs, self.labels) if k is None else (self.inputs[k], self.labels[k])
        if self._seen.levels is not None:
            u = u.clamp(*self._seen.black_and_white)
        return self._q(u, labels if self.given else None)

    def distribution(self, y: Y = None) -> Distribution:
        """p(z|y) of batch shape [B], and without a condition of none."""
        return Mixture(self, self._allowed(y))

    def _allowed(self, y: Y) -> Tensor | None:
        """The inputs of each condition: [..., B, K]; None: all."""
        if not self.given:
            return None
        (label,) = conditions(y, self.given) if isinstance(y, tuple) or y is None else (y,)
        return label.unsqueeze(-1) == self.labels

    def _draw(self, n: int, y: Y, how: Draw, told: Told) -> Drawn:
        allowed = self._allowed(y)
        return Drawn(self.drawn(n, allowed, how.at().temperature))

    def drawn(self, n: int, allowed: Tensor | None, temperature: float = 1.0) -> Tensor:
        """n latents, the k-th from the inputs that are allowed for it, [n, K]; None: all."""
        weights = self.inputs.new_ones(n, len(self.inputs)) if allowed is None else allowed.to(self.inputs.dtype)
        k = noise.multinomial(widened(weights), 1).squeeze(-1)
        return tempered(self.posteriors(k), temperature).sample()


def _classes(config: VampPrior.Config, given: tuple[Space, ...]) -> int:
    """How many labels there are; 1 where none is given. Raises ConfigError for another condition."""
    if not given:
        return 1
    if len(given) != 1 or given[0].levels is None or given[0].shape:
        raise ConfigError(f"{config.type_name()} takes one label as its condition, or none; set data.label accordingly")
    return given[0].levels


def _standard(u: Tensor, y: Y) -> Distribution:
    u = widened(u)
    return Independent(Normal(u, torch.ones_like(u), validate_args=False), u.dim() - 1, validate_args=False)


class Mixture(Distribution):
    """p(z|y) of a VampPrior, with the posteriors of its inputs computed once.

    allowed: the inputs that are mixed for each condition, [*batch, K]; None: all.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}  # pyright: ignore[reportIncompatibleMethodOverride]

    def __init__(self, prior: VampPrior, allowed: Tensor | None, temperature: float = 1.0):
        self.prior, self.allowed, self.temperature = prior, allowed, temperature
        self.components = tempered(prior.posteriors(), temperature) if temperature != 1 else prior.posteriors()
        batch = torch.Size() if allowed is None else allowed.shape[:-1]
        super().__init__(batch, torch.Size(prior.space.shape), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """[...] of values [..., *event], in parts that fit in memory."""
        batch = torch.broadcast_shapes(value.shape[: value.dim() - len(self.event_shape)], self.batch_shape)
        flat = value.expand(*batch, *self.event_shape).reshape(-1, *self.event_shape)
        of_each = self._of_each()
        rows = max(1, MOST // (len(self.prior.inputs) * of_each.numbers))
        log_p = torch.cat([of_each(part) for part in flat.split(rows)]).view(*batch, -1)  # [..., K]
        if self.allowed is None:
            return (torch.logsumexp(log_p, -1) - math.log(log_p.shape[-1])).to(value.dtype)
        count = self.allowed.sum(-1).to(log_p.dtype)
        log_p = log_p.masked_fill(~self.allowed, -math.inf)
        return (torch.logsumexp(log_p, -1) - count.log()).to(value.dtype)

    def _of_each(self) -> "_Components":
        q = self.components
        plain = isinstance(q, Independent) and isinstance(q.base_dist, td.Normal)
        return _Normals(q) if plain else _Components(q)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        batch = shape[: len(shape) - len(self.event_shape)]
        allowed = None if self.allowed is None else self.allowed.expand(*batch, -1).reshape(-1, self.allowed.shape[-1])
        with torch.no_grad():
            return self.prior.drawn(math.prod(batch), allowed, self.temperature).view(shape)

    @property
    def mean(self) -> Tensor:
        return self._mixed(self.components.mean)

    @property
    def variance(self) -> Tensor:
        return self._mixed(self.components.variance + self.components.mean.square()) - self.mean.square()

    def _mixed(self, values: Tensor) -> Tensor:
        """The mean of values [K, *event] over what is allowed: [*batch, *event]."""
        if self.allowed is None:
            return values.mean(0)
        weights = self.allowed.to(values.dtype)
        weights = weights / weights.sum(-1, keepdim=True)
        return (weights @ values.flatten(1)).view(*self.batch_shape, *self.event_shape)


class _Components:
    """log q(z|u_k) of values [N, *event] under every component: [N, K]."""

    def __init__(self, q: Distribution):
        self.q = q
        self.numbers = math.prod(q.event_shape)  # that are held of each

    def __call__(self, z: Tensor) -> Tensor:
        return self.q.log_prob(z.unsqueeze(1))


class _Normals(_Components):
    """Of independent normals by products of matrices, in float64: the squares that cancel are many times as large."""

    numbers = 1  # pyright: ignore[reportAssignmentType]

    def __init__(self, q: Distribution):
        assert isinstance(q, Independent)
        normal: Any = q.base_dist
        mean, scale = (t.expand(*q.batch_shape, *q.event_shape).flatten(1).double() for t in (normal.loc, normal.scale))
        self.precision = scale.square().reciprocal()  # [K, D]
        self.pull = mean * self.precision
        self.constant = -0.5 * (mean * self.pull + math.log(2 * math.pi)).sum(1) - scale.log().sum(1)

    def __call__(self, z: Tensor) -> Tensor:
        z = z.flatten(1).double()
        return self.constant + z @ self.pull.T - 0.5 * z.square() @ self.precision.T


@tempered.register
def _(d: Mixture, t: float) -> Distribution:
    return Mixture(d.prior, d.allowed, t)

"""What every model answers: a loss to train it, samples, and log p(x) with what that number is worth."""

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from lowerbound.config import Component
from lowerbound.directions import Direction, shifted
from lowerbound.distributions import Tempering, check_truncation, closed_kl, detached, kl_per_dimension
from lowerbound.errors import ModelError, did_you_mean
from lowerbound.space import Density, Space, Y, check_conditions, check_draw, check_events
from lowerbound.stages import Loss, Stage, Turn

AUTOREGRESSIVE = "an autoregressive model, such as pixelcnn-mnist,"  # what can do more with its values
T = TypeVar("T")
ByLevel = T | Mapping[str, T]
Told = Callable[[int, int], None]  # told how many values are drawn, and of how many


def told_nobody(done: int, of: int) -> None:
    pass


@dataclass(frozen=True)
class Draw:
    """How values are drawn; each number for all levels of a model alike, or by level, and then not for the others.

    Example:
        >>> Draw(temperature={"top": 0.9}, top_k=5).at("bottom")
        Tempering(temperature=1.0, top_k=5, top_p=None)
    """

    temperature: ByLevel[float] = 1.0  # of the noise's standard deviation; divides logits; 0 is the mode
    top_k: ByLevel[int] | None = None  # only the k likeliest values, where each has a probability
    top_p: ByLevel[float] | None = None  # only the fewest likeliest values that hold a probability of p
    mean: bool = False  # the means of p(x|z) instead of draws from it

    def at(self, level: str = "") -> Tempering:
        """What it says of a level, or of a model without any."""
        return Tempering(_at(self.temperature, level, 1.0), _at(self.top_k, level, None), _at(self.top_p, level, None))


PLAIN = Draw()  # from the model's own distribution


def _at(value: ByLevel[T], level: str, otherwise: T) -> T:
    return value.get(level, otherwise) if isinstance(value, Mapping) else value  # pyright: ignore[reportReturnType]


class Drawn(NamedTuple):
    """What was drawn."""

    x: Tensor  # events [n, *space.shape]; or the means of p(x|z), float, in pixel values, not rounded
    z: tuple[Tensor, ...] = ()  # the latents or codes of each level, [n, *latent]; () where there are none


class Model(nn.Module):
    """A model of events in `space`, perhaps given a condition y.

    Events are uint8 [B, C, H, W] with values in [0, levels), int64 codes, or real numbers. A log-probability is in
    nats per event, shape [B], with the sign of log p. A subclass is final and has a nested `Config` whose `build`
    makes it.
    """

    class Config(Component, abstract=True, rooms=("models", "priors")):
        @abstractmethod
        def build(self, space: Space, given: tuple[Space, ...] = ()) -> "Model": ...

        @classmethod
        @abstractmethod
        def example(cls) -> tuple["Model.Config", Space, tuple[Space, ...]]:
            """The smallest valid instance: configuration, space, condition. The batteries run over it."""

        def binary(self) -> bool:
            """Whether the model is one of binary values, so that grey images are binarized for it."""
            return False

    def __init__(self, config: "Model.Config", space: Space, given: tuple[Space, ...] = ()):
        super().__init__()
        self.config: Any = config
        self.space = space
        self.given = given

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next((w.device for w in (*self.parameters(), *self.buffers())), torch.device("cpu"))

    @property
    @abstractmethod
    def density(self) -> Density:
        """What `log_density` is worth: the worst of the parts."""

    @property
    @abstractmethod
    def unbiased(self) -> bool:
        """Whether E exp(log_density(x)) <= p(x), so that draws may be importance-weighted."""

    @property
    def noisy(self) -> bool:
        """Whether `log_weights` is another number in every draw, so that several say more than one."""
        return self.density is Density.BOUND

    @property
    def can_sample(self) -> bool:
        """Whether there is a density to draw from; where there is none, `sample` says why."""
        return True

    @property
    def levels(self) -> tuple[str, ...]:
        """The names of the levels of latents that are drawn one after another, the coarsest first; () for others."""
        return ()

    @property
    def has_means(self) -> bool:
        """Whether events are drawn from a p(x|z), whose means can be shown instead."""
        return False

    @property
    def truncates(self) -> bool:
        """Whether values are drawn from a probability of each, which can be truncated."""
        return False

    @property
    def passes(self) -> int:
        """How many passes over a whole event drawing it takes that remembers nothing; 0 where it isn't so drawn."""
        return 0

    @property
    def cost(self) -> int:
        """How many products drawing an event takes in what is drawn position by position; 0 where one pass does."""
        return 0

    @property
    def footprint(self) -> int:
        """How many numbers a pass holds for an event, roughly: those of its largest layer, if that is larger than x."""
        return max(1, self.space.dims)

    @abstractmethod
    def loss(self, x: Tensor, y: Y = None, step: int = 0) -> Loss:
        """The loss of a batch in training."""

    @abstractmethod
    def _draw(self, n: int, y: Y, how: Draw, told: Told) -> Drawn:
        """n events, once it has been checked that they can be drawn."""

    @abstractmethod
    def log_weights(self, x: Tensor, y: Y = None, draws: int = 1) -> Tensor:
        """[K, B]: log p(x) up to noise. Where `unbiased`, the mean of exp over draws is p(x); else it is a bound of it.

        Every draw of noise is [draws, B, ...]. K may be 1 where there is no noise.
        """

    def after_step(self) -> None:
        """Called once after every optimizer step: moving-average codebooks and the like."""

    def stages(self) -> tuple[Stage, ...]:
        return (Stage("model", (Turn((self,), self.loss),)),)

    # ---- drawing

    def sample(
        self,
        n: int,
        y: Y = None,
        temperature: ByLevel[float] = 1.0,
        *,
        top_k: ByLevel[int] | None = None,
        top_p: ByLevel[float] | None = None,
    ) -> Tensor:
        """n events of `space`, drawn from the model: [n, *space.shape]. `draw` says more of them."""
        return self.draw(n, y, Draw(temperature, top_k, top_p)).x

    @torch.no_grad()
    def draw(self, n: int, y: Y = None, how: Draw = PLAIN, told: Told = told_nobody) -> Drawn:
        """n events drawn from the model, and the latents they were drawn with.

        told: told now and then how many of all values are drawn, where it takes long.

        Raises ModelError for conditions that don't fit, for numbers out of range, and for what the model doesn't have.
        """
        self.check_how(how)
        self._check_draw(n, y, how)
        return self._draw(n, y, how, told)

    def sample_naively(self, n: int, y: Y = None, temperature: float = 1.0, *, positions: int | None = None) -> Tensor:
        """The same by a pass over the whole event for every position: what remembering is measured against.

        positions: stop after so many; the rest is zero. Raises ModelError where `passes` is 0.
        """
        raise ModelError(f"{type(self).__name__} is not drawn position by position")

    def at_once(self) -> int:
        """How many events are drawn at once, in bounded memory."""
        return self.rows

    @property
    def rows(self) -> int:
        """How many events a pass is given at once: enough to keep all cores busy, few enough for bounded memory."""
        return max(1, min(8192, 2**22 // self.footprint))

    def check_how(self, how: Draw, kept: Sequence[str] = ()) -> None:
        """Raise ModelError for an option that the model does not have. kept: the levels that are not drawn."""
        for name in ("temperature", "top_k", "top_p"):
            option, value = f"--{name.replace('_', '-')}", getattr(how, name)
            if isinstance(value, Mapping):
                self._check_levels(option, value, kept)
            elif name != "temperature" and value is not None and not self.truncates:
                raise ModelError(
                    f"{option}: {type(self).__name__} does not draw values from a probability of each; "
                    f"{AUTOREGRESSIVE} does"
                )
        if how.mean and not self.has_means:
            raise ModelError(f"--mean: {type(self).__name__} has no mean of p(x|z) to show")

    def _check_levels(self, option: str, numbers: Mapping[str, float], kept: Sequence[str]) -> None:
        for name, value in numbers.items():
            if not self.levels:
                raise ModelError(f"{option} {name}={value:g}: {type(self).__name__} has no levels, expected one number")
            if name not in self.levels:
                raise ModelError(f"{option} {name}={value:g}: no level {name!r}{did_you_mean(name, self.levels)}")
            if name in kept:
                raise ModelError(f"{option} {name}={value:g}: the codes of {name} are kept, not drawn")

    def _check_draw(self, n: int, y: Y, how: Draw) -> None:
        for level in self.levels or ("",):
            tempering = how.at(level)
            check_draw(n, y, self.given, tempering.temperature)
            check_truncation(tempering.top_k, tempering.top_p)

    def complete(self, x: Tensor, kept: Tensor, y: Y = None, how: Draw = PLAIN, told: Told = told_nobody) -> Drawn:
        """Events like x [n, *space.shape] where `kept` (bool [H, W]) is true, and drawn given that elsewhere.

        Raises ModelError for a model that can't, for what it can't keep, and as `draw` does.
        """
        raise ModelError(self._cannot_complete())

    def keeps(self, kept: Tensor) -> dict[str, Tensor]:
        """What stays when `kept` [H, W] does: of the pixels, or of each level of codes, bool [h, w] by name.

        Raises ModelError for a model that can't complete events, and for what it can't keep.
        """
        raise ModelError(self._cannot_complete())

    def log_p_kept(self, x: Tensor, kept: Tensor, y: Y = None) -> Tensor:
        """log p of what stays of x when `kept` does, given y, in nats: [B]. Raises ModelError as `keeps` does."""
        raise ModelError(self._cannot_complete())

    def _cannot_complete(self) -> str:
        name = type(self).__name__
        return f"{name} can't complete images; {AUTOREGRESSIVE} can, and a VQ-VAE with autoregressive priors"

    # ---- log p(x)

    def log_density(self, x: Tensor, y: Y = None, draws: int = 1) -> Tensor:
        """log p(x), or its bound with this many draws, in nats: [B]. Raises ModelError where `density` is NONE."""
        if self.density is Density.NONE:
            raise ModelError(f"{type(self).__name__} as configured says nothing of log p(x): {self.why_no_density()}")
        if draws < 1:
            raise ModelError(f"draws: expected a whole number of at least 1, got {draws}")
        check_events(x, self.space)
        check_conditions(len(x), y, self.given)
        log_w = self.log_weights(x, y, draws)
        # Burda et al. 2016, eq. 8, where draws may be weighted
        return torch.logsumexp(log_w, 0) - math.log(len(log_w)) if self.unbiased else log_w.mean(0)

    def why_no_density(self) -> str:
        return "one of its parts has no density"


class ExactModel(Model):
    """log p(x) itself. `density` may still be BOUND for events it reaches through dequantization."""

    @abstractmethod
    def log_prob(self, x: Tensor, y: Y = None) -> Tensor:
        """log p(x) in nats: [B]."""

    @property
    def density(self) -> Density:
        return Density.EXACT

    @property
    def unbiased(self) -> bool:
        return True

    def log_weights(self, x: Tensor, y: Y = None, draws: int = 1) -> Tensor:
        return self.log_prob(x, y).unsqueeze(0)

    def loss(self, x: Tensor, y: Y = None, step: int = 0) -> Loss:
        nll = -self.log_prob(x, y)
        return Loss(nll.mean(), {"nll": nll.detach()})


class BoundModel(Model):
    """A lower bound of log p(x)."""

    @abstractmethod
    def elbo(self, x: Tensor, y: Y = None) -> Tensor:
        """One draw of the evidence lower bound in nats: [B]."""


@dataclass(frozen=True)
class ElboTerms:
    """The parts of the bound for K draws of L levels of latents, the coarsest first.

    q and p of a level are given the draws of the coarser ones: of batch shape [K, B] where they depend on them, else
    [B]; a prior that nothing is given has none.
    """

    x: Tensor  # [B, *event]
    p_x: Distribution  # p(x|z), [K, B]
    log_px: Tensor  # [K, B], log p(x|z)
    z: tuple[Tensor, ...]  # [K, B, *latent] each
    q: tuple[Distribution, ...]
    p: tuple[Distribution, ...]
    latents: Callable[[], tuple[Tensor, Tensor]]  # log p(z|y) and log q(z|x), [K, B, L] each, once they are asked for
    through_draws: Callable[[], Tensor]  # log q(z|x), [K, B, L], with a gradient for z alone, none for q's parameters

    @cached_property
    def _latents(self) -> tuple[Tensor, Tensor]:
        return self.latents()

    @cached_property
    def kl(self) -> Tensor | None:
        """KL(q || p) of each level given the draws of the coarser: [K, B, L]; None where one isn't closed."""
        found = [closed_kl(q, p) for q, p in zip(self.q, self.p, strict=True)]
        known = [kl.expand(self.log_px.shape) for kl in found if kl is not None]
        return torch.stack(known, -1) if len(known) == len(found) else None

    @cached_property
    def kl_dimensions(self) -> tuple[Tensor | None, ...]:
        """The same of each dimension, averaged over draws: [B, *latent] each; None where it is no sum over them."""
        return tuple(_mean_of_draws(kl_per_dimension(q, p), z) for q, p, z in zip(self.q, self.p, self.z, strict=True))

    @property
    def log_pz(self) -> Tensor:
        """log p(z|y): [K, B, L]."""
        return self._latents[0]

    @property
    def log_qz(self) -> Tensor:
        """log q(z|x): [K, B, L]."""
        return self._latents[1]

    @property
    def log_weight(self) -> Tensor:
        """log p(x, z) - log q(z|x): [K, B]."""
        return self.log_px + (self.log_pz - self.log_qz).sum(-1)


def _mean_of_draws(kl: Tensor | None, z: Tensor) -> Tensor | None:
    """[B, *latent], of what may be one for each draw."""
    return kl.mean(0) if kl is not None and kl.dim() == z.dim() else kl


class LatentModel(BoundModel):
    r"""A model with latents z in levels, the coarsest first: priors, posteriors and a likelihood.

    .. math:: p(x, z|y) = p(x|z, y) \prod_l p(z_l | z_{<l}, y), \quad q(z|x, y) = \prod_l q(z_l | z_{<l}, x, y)

    Most have one level.
    """

    has_means = True  # pyright: ignore[reportAssignmentType]
    draws_pixels = True  # whether draws of p(x|z) show something else than its means
    directions: Mapping[str, Direction] = MappingProxyType({})  # the named ones of the run it was loaded from

    @property
    @abstractmethod
    def latents(self) -> tuple[Space, ...]:
        """The space of each level of z."""

    @abstractmethod
    def bottom_up(self, x: Tensor, y: Y = None) -> Any:
        """What the posteriors of all levels see of x: tensors, or tuples and lists of them."""

    @abstractmethod
    def posterior(self, l: int, h: Any, coarser: tuple[Tensor, ...] = (), y: Y = None) -> Distribution:
        """q(z_l | z_<l, x, y) for h of `bottom_up` and z_<l of [..., B, *latent] each: of batch shape [..., B], or [B]
        where it does not depend on them."""

    @abstractmethod
    def prior_of(self, l: int, coarser: tuple[Tensor, ...] = (), y: Y = None) -> Distribution:
        """p(z_l | z_<l, y) for z_<l of [..., B, *latent] each: of batch shape [..., B], [B] or none."""

    @abstractmethod
    def likelihood(self, z: tuple[Tensor, ...], y: Y = None) -> Distribution:
        """p(x|z) for z of [..., B, *latent] each; leading dimensions are kept."""

    def posteriors(self, x: Tensor, y: Y = None) -> tuple[Distribution, ...]:
        """q(z|x) level by level, the coarsest first; the finer ones given the means of the coarser."""
        h, found, coarser = self.bottom_up(x, y), (), ()
        for l, space in enumerate(self.latents):
            q = self.posterior(l, h, coarser, y)
            found, coarser = (*found, q), (*coarser, q.mean if space.levels is None else q.mode)
        return found

    def elbo_terms(self, x: Tensor, y: Y = None, draws: int = 1) -> ElboTerms:
        """Everything of the bound, for this many draws of z. Every draw of noise is [draws, B, ...]."""
        return self._terms(x, self.bottom_up(x, y), y, draws, self.prior_of)

    def _terms(self, x: Tensor, h: Any, y: Y, draws: int, prior_of: Callable[..., Distribution]) -> ElboTerms:
        q, z, path = (), (), ()
        for l in range(len(self.latents)):
            q = (*q, self.posterior(l, h, path, y))
            drawn = _draws(q[l], draws)
            # What is measured of a draw, and its way on to finer draws, are two: an objective may weigh the first alone
            z, path = (*z, drawn.view_as(drawn)), (*path, drawn)
        p = tuple(prior_of(l, z[:l], y) for l in range(len(z)))
        p_x = self.likelihood(z, y)
        return ElboTerms(
            x=x,
            p_x=p_x,
            log_px=p_x.log_prob(x),
            z=z,
            q=q,
            p=p,
            latents=lambda: (_log_probs(p, z), _log_probs(q, z)),
            through_draws=lambda: _through_draws(self, h, q, z, y),
        )

    # ---- drawing

    @abstractmethod
    def _latents(self, n: int, y: Y, how: Draw, told: Told, coarse: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """What `draw_latents` gives, once it has been checked that they can be drawn."""

    @torch.no_grad()
    def draw_latents(
        self, n: int, y: Y = None, how: Draw = PLAIN, told: Told = told_nobody, coarse: tuple[Tensor, ...] = ()
    ) -> tuple[Tensor, ...]:
        """Latents of n events from the prior, the coarsest level first: [n, *latent] each.

        coarse: those of the coarsest levels, where these are known and only the finer are drawn.

        Raises ModelError as `draw` does.
        """
        self.check_how(how, self.levels[: len(coarse)])
        self._check_draw(n, y, how)
        return self._latents(n, y, how, told, coarse)

    def _draw(self, n: int, y: Y, how: Draw, told: Told) -> Drawn:
        z = self._latents(n, y, how, told, ())
        return Drawn(self.render(z, y, mean=how.mean), z)

    def redraw(self, coarse: tuple[Tensor, ...], y: Y = None, how: Draw = PLAIN, told: Told = told_nobody) -> Drawn:
        """n events whose latents of the coarsest levels are these [n, *latent], the finer ones drawn as by `draw`."""
        z = self.draw_latents(len(coarse[0]), y, how, told, coarse)
        return Drawn(self.render(z, y, mean=how.mean), z)

    @torch.no_grad()
    def sample_mean(self, n: int, y: Y = None, temperature: ByLevel[float] = 1.0) -> Tensor:
        """The means of p(x|z) for n draws of z, in pixel values, not rounded: float [n, *space.shape]."""
        return self.draw(n, y, Draw(temperature, mean=True)).x

    @property
    def is_plane(self) -> bool:
        """Whether z is a point of the plane that N(0, I) is drawn from."""
        return False

    def reconstruct(self, x: Tensor, y: Y = None, levels: Sequence[str] | None = None) -> Tensor:
        """The mean of p(x|z) at the posterior mean, in pixel values, not rounded: float [B, *space.shape].

        levels: of several levels of codes, only these. Raises ModelError for a model that has none, or no such one.
        """
        if levels is not None:
            raise ModelError(f"{type(self).__name__} has no levels of codes")
        return self.likelihood(tuple(q.mean for q in self.posteriors(x, y)), y).mean

    def log_p_coarse(self, coarse: tuple[Tensor, ...], y: Y = None) -> Tensor:
        """log p of latents of the coarsest levels given y, in nats: [B]."""
        raise ModelError(f"{type(self).__name__} has no levels of codes; a VQ-VAE of two levels or more has")

    @torch.no_grad()
    def render(self, z: tuple[Tensor, ...], y: Y = None, *, mean: bool = False) -> Tensor:
        """Events from p(x|z) for latents [n, *latent] of each level, or its means: [n, *space.shape], in parts."""
        found = []
        for part in torch.arange(len(z[0])).split(self.rows):
            p = self.likelihood(tuple(level[part] for level in z), rows_of(y, part))
            found.append(p.mean if mean else p.sample())
        return torch.cat(found)

    # ---- latents

    def encode(self, x: Tensor, y: Y = None) -> Any:
        """The posterior q(z|x): one Distribution, or a tuple of them where there are several levels."""
        check_events(x, self.space)
        check_conditions(len(x), y, self.given)
        q = self.posteriors(x, y)
        return q[0] if len(q) == 1 else q

    def decode(self, z: Tensor | tuple[Tensor, ...], y: Y = None) -> Distribution:
        """The likelihood p(x|z); leading dimensions of z are kept: z [5, 16, D] -> batch shape [5, 16]."""
        return self.likelihood((z,) if isinstance(z, Tensor) else z, y)

    def features(self, x: Tensor, y: Y = None) -> Tensor:
        """What downstream tasks are given of x: the posterior means of all levels, coarsest first, as [B, D]."""
        return torch.cat([q.mean.flatten(1) for q in self.posteriors(x, y)], 1)

    def vector_posterior(self, x: Tensor, y: Y = None) -> Distribution:
        """q(z|x) where z is a single vector [D]. Raises ModelError where it is several levels, or a map."""
        q = self.posteriors(x, y)
        shapes = [list(level.event_shape) for level in q]
        if len(shapes) != 1 or len(shapes[0]) != 1:
            raise ModelError(
                f"{type(self).__name__}: its latents are of shape {' and '.join(map(str, shapes))}; editing needs a "
                "single vector, such as model.latent=64"
            )
        return q[0]

    @torch.no_grad()
    def edit(self, x: Tensor, strengths: Mapping[str, float], y: Y = None, *, residual: bool = False) -> Tensor:
        """Events [B, *space.shape] moved along named directions of the run: encoded, changed, decoded.

        Args:
            strengths: direction -> strength, 1 being the distance of the two class means along it. Latent arithmetic
                is `{"smile": 1.0, "glasses": -1.0}`.
            residual: add back what the reconstruction of x lost; the values are kept in range.

        Returns the means of p(x|z), rounded. Raises ModelError for an unknown direction, and without a vector latent.
        """
        check_events(x, self.space)
        check_conditions(len(x), y, self.given)
        z = self.vector_posterior(x, y).mean
        edited = self.decode(shifted(z, strengths, self.directions), y).mean
        if residual:
            edited = with_residual(edited, x, self.decode(z, y).mean, self.space)
        return edited if self.space.levels is None else edited.round().to(self.space.dtype)

    def elbo(self, x: Tensor, y: Y = None) -> Tensor:
        """log p(x, z) - log q(z|x) for one draw of z, in nats: [B]."""
        return self.elbo_terms(x, y).log_weight[0]

    def log_weights(self, x: Tensor, y: Y = None, draws: int = 1) -> Tensor:
        return self.elbo_terms(x, y, draws).log_weight


def share_of(told: Told, places: Tensor, n: int) -> Told:
    """What is told of a part of n events, those at some places [P] next to each other, as progress in all."""
    first, rows = int(places[0]), len(places)
    return lambda done, of: told(first * of + done * rows, n * of)


def rows_of(y: Y, places: Tensor) -> Y:
    """The conditions at some places [P] of a batch."""
    if y is None or isinstance(y, Tensor):
        return None if y is None else y[places.to(y.device)]
    return tuple(part[places.to(part.device)] for part in y)


def _draws(q: Distribution, draws: int) -> Tensor:
    """[K, B, *latent]: so many of a posterior [B], or one of each of a posterior [K, B]."""
    shape = torch.Size((draws,) if len(q.batch_shape) == 1 else ())
    return q.rsample(shape) if q.has_rsample else q.sample(shape)


def _log_probs(distributions: tuple[Distribution, ...], z: tuple[Tensor, ...]) -> Tensor:
    """[K, B, L]."""
    return torch.stack([d.log_prob(part) for d, part in zip(distributions, z, strict=True)], -1)


class _Posteriors(nn.Module):
    """z -> log q(z|x) of every level, [K, B, L], for what a model sees of x."""

    def __init__(self, model: LatentModel):
        super().__init__()
        self.model = model

    def forward(self, h: Any, z: tuple[Tensor, ...], y: Y) -> Tensor:
        return _log_probs(tuple(self.model.posterior(l, h, z[:l], y) for l in range(len(z))), z)


def _through_draws(model: LatentModel, h: Any, q: tuple[Distribution, ...], z: tuple[Tensor, ...], y: Y) -> Tensor:
    """log q(z|x) of every level as a function of z alone: the weights, and what is seen of x, are held fixed."""
    if len(z) == 1:
        return _log_probs((detached(q[0]),), z)
    posteriors = _Posteriors(model)
    weights = {name: p.detach() for name, p in posteriors.named_parameters()}
    return torch.func.functional_call(posteriors, weights, (_cut(h), z, y))


def _cut(h: Any) -> Any:
    """Cut from the graph: a tensor, or those in tuples and lists."""
    return h.detach() if isinstance(h, Tensor) else type(h)(map(_cut, h)) if isinstance(h, tuple | list) else h


def with_residual(edited: Tensor, x: Tensor, reconstruction: Tensor, space: Space) -> Tensor:
    """Edited means [..., B, *shape] with what the reconstructions [B, *shape] of x lost added back, kept in range."""
    whole = x + (edited - reconstruction)
    return whole if space.levels is None else whole.clamp(0, space.levels - 1)

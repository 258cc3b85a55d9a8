"""Models with latents: a prior, a posterior and a likelihood."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from lowerbound import noise
from lowerbound.directions import Direction, shifted
from lowerbound.distributions import Categorical, detached
from lowerbound.errors import ModelError, did_you_mean
from lowerbound.estimators import Draws, Estimator, Pathwise
from lowerbound.model.base import BoundModel
from lowerbound.model.draws import PLAIN, ByLevel, Draw, Drawn, rows_of
from lowerbound.model.terms import ElboTerms, log_probs
from lowerbound.progress import Told, told_nobody
from lowerbound.space import Density, Space, Y, as_tensor, check_events

PLAINLY = Pathwise()
SWEEPS = 200  # over the rest of an image of which a part is kept


class Descent(ABC):
    """The way down through the levels of a model, at z_1 when it begins."""

    @abstractmethod
    def posterior(self) -> Distribution:
        """q(z_l | z_<l, x, y)."""

    @abstractmethod
    def prior(self) -> Distribution:
        """p(z_l | z_<l, y)."""

    @abstractmethod
    def take(self, z: Tensor) -> None:
        """Go on with z_l [..., *latent]."""

    @abstractmethod
    def likelihood(self) -> Distribution:
        """p(x|z, y), after all levels."""


class LatentModel(BoundModel):
    r"""A model with latents z in levels, the coarsest first: priors, posteriors and a likelihood.

    .. math:: p(x, z|y) = p(x|z, y) \prod_l p(z_l | z_{<l}, y), \quad q(z|x, y) = \prod_l q(z_l | z_{<l}, x, y)

    Most have one level.
    """

    has_means = True  # pyright: ignore[reportAssignmentType]
    draws_pixels = True  # whether draws of p(x|z) show something else than its means
    directions: Mapping[str, Direction] = MappingProxyType({})  # the named ones of the run it was loaded from

    @property
    def has_point(self) -> bool:
        """Whether z, of real numbers, is a function of x, so that nothing is said of how it is distributed."""
        return False

    @property
    def pixelwise(self) -> bool:
        """Whether p(x|z) is known to be a product over the pixels of an image."""
        return False

    @property
    def estimator(self) -> Estimator:
        """How z is drawn where the gradient of a mean over draws is to reach the posterior."""
        return PLAINLY

    @property
    @abstractmethod
    def latents(self) -> tuple[Space, ...]:
        """The space of each level of z."""

    @property
    @abstractmethod
    def likelihood_density(self) -> Density:
        """What log p(x|z) is worth."""

    @property
    @abstractmethod
    def prior_densities(self) -> tuple[Density, ...]:
        """What log p(z_l | z_<l, y) of each level is worth."""

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

    def descent(self, h: Any = None, y: Y = None) -> "Descent":
        """The levels one after another, for one that has z_l as soon as it has seen how it is distributed.

        h: of `bottom_up`; None: posteriors are not asked for.
        """
        return _ByLevel(self, h, y)

    def posteriors(self, x: Tensor, y: Y = None) -> tuple[Distribution, ...]:
        """q(z|x) level by level, the coarsest first; the finer ones given the means of the coarser."""
        h, found, coarser = self.bottom_up(x, y), (), ()
        for l, space in enumerate(self.latents):
            q = self.posterior(l, h, coarser, y)
            found, coarser = (*found, q), (*coarser, center(q, space, x.shape[0]))
        return found

    def elbo_terms(self, x: Tensor, y: Y = None, draws: int = 1) -> ElboTerms:
        """Everything of the bound, for this many draws of z from q itself. Every draw of noise is [draws, B, ...]."""
        return self._terms(x, self.bottom_up(x, y), y, lambda q: PLAINLY.draw(q, draws), self.prior_of)

    def _terms(
        self, x: Tensor, h: Any, y: Y, draw: Callable[[Distribution], Draws], prior_of: Callable[..., Distribution]
    ) -> ElboTerms:
        q, z, path, drawn = (), (), (), Draws(x)
        for l in range(len(self.latents)):
            q = (*q, self.posterior(l, h, path, y))
            drawn = draw(q[l])
            # What is measured of a draw, and its way on to finer draws, are two: an objective may weigh the first alone
            z, path = (*z, drawn.z.view_as(drawn.z)), (*path, drawn.z)
        p = tuple(prior_of(l, z[:l], y) for l in range(len(z)))
        return ElboTerms.of(x, z, q, p, self.likelihood(z, y), lambda: through_draws(self, h, q, z, y), drawn)

    # ---- drawing

    @abstractmethod
    def _draw_latents(self, n: int, y: Y, how: Draw, told: Told, coarse: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
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
        y = self._checked_draw(n, y, how)
        return self._draw_latents(n, y, how, told, coarse)

    def _draw(self, n: int, y: Y, how: Draw, told: Told) -> Drawn:
        z = self._draw_latents(n, y, how, told, ())
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

        levels: of several levels of latents, only these are of x; the others are the means of their priors. Raises
        ModelError for a model that has none, or no such one.
        """
        x, y = self.taken(x, y)
        return self.likelihood(self._centers(x, y, levels), y).mean

    @torch.no_grad()
    def changed(self, x: Tensor, y: Y, target: Y) -> Tensor:
        """Events [B, ...] of which y is given, as they would be with another condition: the mean of p(x|z, target) at
        the posterior mean of z, as `reconstruct`."""
        x, y = self.taken(x, y)
        target = self.taken_conditions(len(x), target)
        z = tuple(self.relabelled(level, y, target) for level in self._centers(x, y))
        return self.likelihood(z, target).mean

    def centers(self, x: Tensor, y: Y = None, levels: Sequence[str] | None = None) -> tuple[Tensor, ...]:
        """The code of x: the posterior means of each level given those of the coarser, of whole numbers the likeliest,
        the coarsest level first: [B, *latent] each.

        levels: of several levels of latents, only these are of x; the others are the means of their priors. Raises
        ModelError for a model that has none, or no such one.
        """
        return self._centers(*self.taken(x, y), levels)

    def _centers(self, x: Tensor, y: Y = None, levels: Sequence[str] | None = None) -> tuple[Tensor, ...]:
        """What `centers` gives, of a batch of the package's own."""
        h, z = self.bottom_up(x, y), ()
        for l, of_x in enumerate(self._of_x(levels)):
            z = (*z, center(self.posterior(l, h, z, y) if of_x else self.prior_of(l, z, y), self.latents[l], len(x)))
        return z

    def _of_x(self, levels: Sequence[str] | None) -> list[bool]:
        """Of each level, whether it is among the named. Raises ModelError for one that isn't there."""
        if levels is None:
            return [True] * len(self.latents)
        if not self.levels:
            raise ModelError(f"{type(self).__name__} has no levels of latents")
        for name in levels:
            if name not in self.levels:
                raise ModelError(f"no level {name!r}{did_you_mean(name, self.levels)}")
        return [name in levels for name in self.levels]

    def log_p_coarse(self, coarse: tuple[Tensor, ...], y: Y = None) -> Tensor:
        """log p of latents of the coarsest levels given y, in nats: [B]."""
        if not self.levels:
            raise ModelError(
                f"{type(self).__name__} has no levels of latents; a VQ-VAE of two levels, or a hierarchical VAE, has"
            )
        n = len(coarse[0])
        log_p = [self.prior_of(l, coarse[:l], y).log_prob(z).double().expand(n) for l, z in enumerate(coarse)]
        return torch.stack(log_p).sum(0)

    # ---- completing

    def keeps(self, kept: Tensor) -> dict[str, Tensor]:
        if self.density is Density.NONE or not (self.unbiased and self.pixelwise):
            raise ModelError(self._cannot_complete())
        if tuple(kept.shape) != self.space.shape[1:]:
            wanted = list(self.space.shape[1:])
            raise ModelError(f"the mask is of {list(kept.shape)}, expected the size of the images, {wanted}")
        return {"pixels": kept}

    def log_p_kept(self, x: Tensor, kept: Tensor, y: Y = None) -> Tensor:
        raise ModelError(
            f"{type(self).__name__} has no log p of a part of an image, to draw what is given by; give --label"
        )

    @torch.no_grad()
    def complete(self, x: Tensor, kept: Tensor, y: Y = None, how: Draw = PLAIN, told: Told = told_nobody) -> Drawn:
        """Events like x where `kept` [H, W] is true, and drawn given that elsewhere: the more sweeps of a Markov chain,
        the nearer to p(rest|kept), which it leaves as it is.

        The rest begins as that of a sample. A sweep draws z of q(z|x), x being what is kept and the last rest, and the
        rest of p(x|z). In the first half of SWEEPS every z is taken (Rezende et al. 2014,
        https://arxiv.org/abs/1401.4082, appendix F); in the second one is accepted with probability
        min(1, w(z) / w(last z)), w(z) = p(x, z) / q(z|x) (Metropolis within Gibbs, Mattei & Frellsen 2018,
        https://arxiv.org/abs/1802.04826, algorithm 1).
        """
        self.check_how(how)
        if how.at().temperature != 1:
            raise ModelError("--temperature: what is drawn beside what is kept is drawn as it is, at temperature 1")
        x, y = self.taken(x, y)
        y = self._checked_draw(len(x), y, how)
        stays = self.keeps(kept)["pixels"].to(self.device)
        at, z = torch.where(stays, x, self._draw(len(x), y, PLAIN, told_nobody).x), ()
        for sweep in range(SWEEPS):
            z = self._moved(at, y, z if sweep >= SWEEPS // 2 else ())
            at = torch.where(stays, x, self.likelihood(z, y).sample())
            told(sweep + 1, SWEEPS)
        if how.mean:
            mean = self.likelihood(z, y).mean
            at = torch.where(stays, x.to(mean.dtype), mean)
        return Drawn(at, z)

    def _moved(self, x: Tensor, y: Y, last: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Latents of q(z|x); where there are the last ones, these stay where the new are not accepted."""
        terms = self.elbo_terms(x, y)
        z = tuple(level[0] for level in terms.z)
        if not last:
            return z
        ratio = terms.log_weight[0] - self._log_weight_of(x, last, y)
        accepted = noise.rand_like(ratio).log() < ratio
        return tuple(torch.where(_over(accepted, new), new, old) for new, old in zip(z, last, strict=True))

    def _log_weight_of(self, x: Tensor, z: tuple[Tensor, ...], y: Y) -> Tensor:
        """log p(x, z|y) - log q(z|x, y) of given latents, [B, *latent] each: [B]."""
        h, log_w = self.bottom_up(x, y), self.likelihood(z, y).log_prob(x)
        for l in range(len(z)):
            log_w = log_w + self.prior_of(l, z[:l], y).log_prob(z[l]) - self.posterior(l, h, z[:l], y).log_prob(z[l])
        return log_w

    # --8<-- [start:render]
    @torch.no_grad()
    def render(self, z: tuple[Tensor, ...], y: Y = None, *, mean: bool = False) -> Tensor:
        """Events from p(x|z) for latents [n, *latent] of each level, or its means: [n, *space.shape], in parts."""
        found = []
        for part in torch.arange(len(z[0])).split(self.rows):
            p = self.likelihood(tuple(level[part] for level in z), rows_of(y, part))
            found.append(p.mean if mean else p.sample())
        return torch.cat(found)
        # --8<-- [end:render]

    # ---- latents

    def encode(self, x: Tensor, y: Y = None) -> Any:
        """The posterior q(z|x): one Distribution, or a tuple of them where there are several levels."""
        x, y = self.taken(x, y)
        q = self.posteriors(x, y)
        return q[0] if len(q) == 1 else q

    def decode(self, z: Tensor | tuple[Tensor, ...], y: Y = None) -> Distribution:
        """The likelihood p(x|z); leading dimensions of z are kept: z [5, 16, D] -> batch shape [5, 16].

        Raises ModelError for what are no latents of every level, [..., B, *latent], and no condition of B events.
        """
        z, batch = self._taken_latents(z)
        return self.likelihood(z, None if y is None else self.taken_conditions(batch[-1] if batch else 1, y))

    def _taken_latents(self, z: Any) -> tuple[tuple[Tensor, ...], torch.Size]:
        """Latents of every level as a caller gives them, and their batch shape: [..., B], or none."""
        z = tuple(z) if isinstance(z, tuple | list) else (z,)
        if len(z) != len(self.latents):
            names = " and ".join(self.levels) or f"{len(self.latents)} level(s)"
            raise ModelError(f"decode: expected {self.latents[0].what} of {names}, got {len(z)} tensor(s)")
        z = tuple(as_tensor(part, "latents") for part in z)
        least = 0 if self.latents[0].levels is None else 1  # codes are decoded in a batch alone
        batch = z[0].shape[: max(least, z[0].dim() - len(self.latents[0].shape))]
        for part, space in zip(z, self.latents, strict=True):
            if part.shape != (*batch, *space.shape):
                raise ModelError(f"decode: expected {space.what} of {[*batch, *space.shape]}, got {list(part.shape)}")
            check_events(part.reshape(-1, *space.shape), space)
        return tuple(map(self._placed, z)), batch

    # --8<-- [start:features]
    def features(self, x: Tensor, y: Y = None) -> Tensor:
        """What downstream tasks are given of x: the posterior means of all levels, coarsest first, as [B, D].

        Of whole numbers: the probabilities of their values.
        """
        x, y = self.taken(x, y)
        return torch.cat([(_probabilities(q) if l.levels else q.mean).flatten(1) for q, l in self._levels(x, y)], 1)
        # --8<-- [end:features]

    def _levels(self, x: Tensor, y: Y) -> Iterator[tuple[Distribution, Space]]:
        return zip(self.posteriors(x, y), self.latents, strict=True)

    def vector_posterior(self, x: Tensor, y: Y = None) -> Distribution:
        """q(z|x) where z is a single vector [D]. Raises ModelError where it is several levels, or a map."""
        x, y = self.taken(x, y)
        q = self.posteriors(x, y)
        if any(space.levels is not None for space in self.latents):
            raise ModelError(
                f"{type(self).__name__}: its latents are whole numbers, and what this asks for is done to real ones; "
                "`lowerbound traverse` goes through their values"
            )
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
        x, y = self.taken(x, y)
        z = self.vector_posterior(x, y).mean
        edited = self.decode(shifted(z, strengths, self.directions), y).mean
        if residual:
            edited = with_residual(edited, x, self.decode(z, y).mean, self.space)
        return edited if self.space.levels is None else edited.round().to(self.space.dtype)

    def relabelled(self, z: Tensor, y: Y, target: Y) -> Tensor:
        """What latents [B, D] of events of labels y [B] become with other labels: the same, where p(x|z, y) is told."""
        return z

    def elbo(self, x: Tensor, y: Y = None) -> Tensor:
        """log p(x, z) - log q(z|x) for one draw of z, in nats: [B]. Raises ModelError where `density` is NONE."""
        self._check_density()
        x, y = self.taken(x, y)
        with self._rounding_nothing():
            return self.elbo_terms(x, y).log_weight[0]

    def _log_weights(self, x: Tensor, y: Y = None, draws: int = 1) -> Tensor:
        if self.noisy:
            return self.elbo_terms(x, y, draws).log_weight
        return self.elbo_terms(x, y).log_weight.expand(draws, -1)


class _ByLevel(Descent):
    """Of a model that is asked for each level by itself."""

    def __init__(self, model: LatentModel, h: Any, y: Y):
        self.model, self.h, self.y = model, h, y
        self.z: tuple[Tensor, ...] = ()

    def posterior(self) -> Distribution:
        return self.model.posterior(len(self.z), self.h, self.z, self.y)

    def prior(self) -> Distribution:
        return self.model.prior_of(len(self.z), self.z, self.y)

    def take(self, z: Tensor) -> None:
        self.z = (*self.z, z)

    def likelihood(self) -> Distribution:
        return self.model.likelihood(self.z, self.y)


def _over(of_each: Tensor, like: Tensor) -> Tensor:
    """[B] -> [B, 1, ...], to be spread over the elements of every event."""
    return of_each.view(-1, *[1] * (like.dim() - 1))


def center(d: Distribution, space: Space, n: int) -> Tensor:
    """The means of n events' latents, of whole numbers the likeliest: [n, *space.shape]."""
    return (d.mean if space.levels is None else d.mode).expand(n, *space.shape)


def _probabilities(q: Any) -> Tensor:
    """Of every value of every element, [B, levels, ...]; of binary elements, that of 1."""
    return q.log_probs.exp() if isinstance(q, Categorical) else q.mean


class _Posteriors(nn.Module):
    """z -> log q(z|x) of every level, [K, B, L], for what a model sees of x."""

    def __init__(self, model: LatentModel):
        super().__init__()
        self.model = model

    def forward(self, h: Any, z: tuple[Tensor, ...], y: Y) -> Tensor:
        return log_probs(tuple(self.model.posterior(l, h, z[:l], y) for l in range(len(z))), z)


def through_draws(model: LatentModel, h: Any, q: tuple[Distribution, ...], z: tuple[Tensor, ...], y: Y) -> Tensor:
    """log q(z|x) of every level as a function of z alone: the weights, and what is seen of x, are held fixed."""
    if len(z) == 1:
        return log_probs((detached(q[0]),), z)
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

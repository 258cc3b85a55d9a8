"""The hierarchical VAE: levels of latents, each given all coarser ones."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.distributions import Distribution

from lowerbound.config import Component
from lowerbound.devices import Reducible
from lowerbound.distributions import tempered
from lowerbound.errors import ConfigError
from lowerbound.estimators import Draws, Estimator
from lowerbound.families import Bernoulli, DiagonalNormal, Family, Head
from lowerbound.model import Descent, Draw, ElboTerms, LatentModel, Model, Told
from lowerbound.model.latent import center, through_draws
from lowerbound.models.latents import check_bound, check_estimator, check_kind, remarks_of
from lowerbound.networks.base import Network
from lowerbound.networks.bottleneck import Bottleneck
from lowerbound.networks.context import Context
from lowerbound.objectives import ELBO, IWAE, Objective
from lowerbound.space import Density, Space, Y, conditions
from lowerbound.stages import Loss, Stage, Turn

LARGEST_START = 64  # the side up to which every place of a map begins at numbers of its own (Child 2021, code)


class Scale(Component):
    """Levels of latents on maps of one size."""

    factor: int = Field(default=1, gt=0)  # how many times smaller than the image
    levels: int = Field(default=1, gt=0)  # of latents, one after another
    latent: int = Field(default=8, gt=0)  # channels of each
    blocks: int = Field(default=2, ge=0)  # residual blocks on the way up


class HierarchicalVAE(LatentModel):
    r"""Levels of latents z_1, ..., z_L, the coarsest first; priors and posteriors given all coarser ones.

    .. math:: \log p(x|y) \ge E_q\Big[\log p(x|z, y) + \sum_l \log p(z_l|z_{<l}, y) - \log q(z_l|z_{<l}, x, y)\Big]

    Inference goes down with generation (Sønderby et al. 2016, https://arxiv.org/abs/1602.02282), in the residual blocks
    of Child (2021, VDVAE, https://arxiv.org/abs/2011.10650): one state, a map, goes down through the levels; each
    level's prior is made of the state alone, its posterior of the state and what the way up made of the image, and what
    is drawn is added to the state. At each scale all levels have maps of one size, which is `factor` times smaller than
    the image; the state begins the first at learned numbers, and each further one at the enlarged state. The last
    weights of what is added to a state of N blocks begin 1 / √N as large; those of priors begin at 0, so at N(0, I).

    With one level it is a VAE whose prior is one learned normal. A condition is one vector, added at every scale alike;
    one that is a map of real numbers, as large as the finest scale's, is added place by place, pooled to each scale.

    Example:
        >>> scales = (Scale(factor=8, latent=4), Scale(factor=2, levels=2, latent=1))
        >>> vae = HierarchicalVAE.Config(scales=scales, width=8, inner=4).build(Space((1, 8, 8), levels=17))
        >>> vae.levels, [list(q.event_shape) for q in vae.encode(vae.sample(5))]
        (('z1', 'z2', 'z3'), [[4, 1, 1], [1, 4, 4], [1, 4, 4]])
    """

    class Config(Model.Config):
        scales: tuple[Scale, ...] = Field(
            default=(Scale(factor=4), Scale(factor=2)), min_length=1
        )  # the coarsest first
        latent_levels: int | None = Field(default=None, ge=2)  # values that each variable of z takes; None: it is real
        posterior: Family = DiagonalNormal()  # q of each level, given the coarser ones and x
        prior: Family = DiagonalNormal()  # of every level, given the coarser
        likelihood: Family = Bernoulli()  # p(x|z), of what the decoder puts out
        width: int = Field(default=32, gt=0)  # features of the state
        inner: int = Field(default=16, gt=0)  # features in the middle of a block
        encoder: Network.Config | None = None  # of an image, to the finest scale's map; None: a convolution
        decoder: Network.Config | None = None  # of the finest scale's map, to p(x|z); None: a convolution
        objective: Objective = ELBO()  # from the terms of the bound to the loss
        estimator: Estimator | None = None  # of the gradient through draws of z; None: the posterior's own
        context: int = Field(default=32, gt=0)  # width of the condition's embedding, where there is a condition

        def build(self, space: Space, given: tuple[Space, ...] = ()) -> "HierarchicalVAE":
            return HierarchicalVAE(self, space, given)

        def binary(self) -> bool:
            return isinstance(self.likelihood, Bernoulli)

        @classmethod
        def example(cls) -> tuple["HierarchicalVAE.Config", Space, tuple[Space, ...]]:
            scales = (Scale(factor=2, latent=1, blocks=1), Scale(factor=1, latent=1, blocks=1))
            return cls(scales=scales, width=4, inner=2), Space((1, 2, 2), levels=2), ()

    def __init__(self, config: Config, space: Space, given: tuple[Space, ...] = ()):
        super().__init__(config, space, given)
        _check(config, space)
        self.shows = _shows(config, space, given)
        width, inner = config.width, config.inner
        sizes = [(space.shape[-2] // s.factor, space.shape[-1] // s.factor) for s in config.scales]
        self.scale_of = tuple(k for k, scale in enumerate(config.scales) for _ in range(scale.levels))  # [L]
        self.spaces = tuple(_latents(config, config.scales[k].latent, sizes[k]) for k in self.scale_of)
        self.posterior_heads = nn.ModuleList(Head(config.posterior, s) for s in self.spaces)
        self.prior_heads = nn.ModuleList(Head(config.prior, s) for s in self.spaces)
        self.likelihood_head = Head(config.likelihood, space)
        self.context = Context(() if self.shows else given, config.context)
        finest = config.scales[-1].factor
        up, down = sum(s.blocks for s in config.scales), len(self.spaces)

        def block(side: int, blocks: int) -> Bottleneck:
            return Bottleneck(width, inner, width, side, residual=True, gain=blocks**-0.5)

        # ---- up
        seen, shown, map_ = space.feature_shape, self.likelihood_head.in_shape, (width, *sizes[-1])
        self.stem = config.encoder.build(seen, map_) if config.encoder else Entry(seen[0], width, finest)
        self.ups = nn.ModuleList(
            nn.Sequential(*(block(min(size), up) for _ in range(s.blocks)))
            for s, size in zip(config.scales, sizes, strict=True)
        )
        # ---- down
        self.starts = nn.ParameterList(
            torch.zeros(width, *(size if max(size) <= LARGEST_START else (1, 1))) for size in sizes
        )
        self.conditions = nn.ModuleList(
            nn.Conv2d(given[0].shape[0], width, 1) if self.shows else nn.Linear(self.context.width, width)
            for _ in (config.scales if given else ())
        )
        sides = [min(sizes[k]) for k in self.scale_of]
        self.posteriors_of = nn.ModuleList(
            Bottleneck(2 * width, inner, head.in_shape[0], side)
            for head, side in zip(self._heads(self.posterior_heads), sides, strict=True)
        )
        self.priors_of = nn.ModuleList(
            Bottleneck(width, inner, head.in_shape[0] + width, side, gain=0.0)
            for head, side in zip(self._heads(self.prior_heads), sides, strict=True)
        )
        self.projections = nn.ModuleList(Projection(_channels(s), width, down**-0.5) for s in self.spaces)
        self.blocks = nn.ModuleList(block(side, down) for side in sides)
        self.exit = config.decoder.build(map_, shown) if config.decoder else Exit(width, shown[0], finest)
        self._check_draws()

    @staticmethod
    def _heads(heads: nn.ModuleList) -> list[Head]:
        return list(heads)  # pyright: ignore[reportReturnType]

    def _check_draws(self) -> None:
        """Raise ConfigError where a gradient would not get through draws of one level to the finer, or not into q."""
        config, estimator = self.config, self.estimator
        if any(head.density is Density.NONE for head in self._heads(self.posterior_heads)):
            raise ConfigError(
                f"model.posterior: {config.posterior.type_name()} is a point, which no prior gives a probability; use "
                "families.DiagonalNormal"
            )
        check_bound(config.objective)
        for head, space in zip(self._heads(self.posterior_heads), self.spaces, strict=True):
            with torch.no_grad():
                q = head(torch.zeros(1, *head.in_shape))
            named = "posterior" if config.estimator is None else "estimator"
            check_estimator(estimator, config.posterior, q, space, config.objective, named)
        if not estimator.chains:
            others = "estimators.GumbelSoftmax" if config.latent_levels else "estimators.Pathwise"
            raise ConfigError(
                f"model.estimator: {estimator.type_name()} has a gradient for the draws of one level of latents, and "
                f"here finer ones depend on them; use {others}"
            )

    @property
    def estimator(self) -> Estimator:
        return self.config.posterior.natural if self.config.estimator is None else self.config.estimator

    @property
    def remarks(self) -> tuple[str, ...]:
        return remarks_of(self.estimator)

    # ---- what the numbers are worth

    @property
    def density(self) -> Density:
        parts = (*self._heads(self.posterior_heads), *self._heads(self.prior_heads), self.likelihood_head)
        return Density.worst(Density.BOUND, *(part.density for part in parts))

    @property
    def pixelwise(self) -> bool:
        return self.config.likelihood.pixelwise

    @property
    def likelihood_density(self) -> Density:
        return self.likelihood_head.density

    @property
    def prior_densities(self) -> tuple[Density, ...]:
        return tuple(head.density for head in self._heads(self.prior_heads))

    @property
    def unbiased(self) -> bool:
        return True

    def why_no_density(self) -> str:
        if self.likelihood_head.density is Density.NONE:
            return (
                f"its likelihood {self.config.likelihood.type_name()} is no probability of {self.space.levels} levels"
            )
        return super().why_no_density()

    @property
    def footprint(self) -> int:
        finest = self.config.scales[-1].factor
        maps = 2 * self.config.width * math.prod(self.space.shape[-2:]) // finest**2
        return max(self.space.dims, maps, math.prod(self.likelihood_head.in_shape))

    # ---- the levels

    @property
    def latents(self) -> tuple[Space, ...]:
        return self.spaces

    @property
    def levels(self) -> tuple[str, ...]:
        """z1, z2, ...: as the papers call them, but that the coarsest is the first."""
        return tuple(f"z{l + 1}" for l in range(len(self.spaces)))

    def condition(self, y: Y) -> Tensor | None:
        """What is given, as one vector per image [B, context]; a map of real numbers [B, D, h, w] as it is."""
        return conditions(y, self.given)[0].to(self.dtype) if self.shows else self.context(y)

    def told(self, k: int, c: Tensor, size: Sequence[int]) -> Tensor:
        """What is added to the state at scale k for it: [B, width, h, w], of a vector [B, width, 1, 1]."""
        if not self.shows:
            return self.conditions[k](c)[..., None, None]
        ratio = c.shape[-1] // size[-1]
        return self.conditions[k](F.avg_pool2d(c, ratio) if ratio > 1 else c)

    def bottom_up(self, x: Tensor, y: Y = None) -> list[Tensor]:
        """A map of each scale, the coarsest first: [B, width, h, w]."""
        h, found = self.stem(self.seen(x)), []
        if (c := self.condition(y)) is not None:
            h = h + self.told(-1, c, h.shape[-2:])
        for blocks, ratio in zip(reversed(self.ups), (*reversed(_ratios(self.config)), 1), strict=True):  # pyright: ignore[reportArgumentType, reportCallIssue]
            h = blocks(h)
            found.append(h)
            h = F.avg_pool2d(h, ratio) if ratio > 1 else h
        return found[::-1]

    def descent(self, h: list[Tensor] | None = None, y: Y = None) -> Descent:
        return ByState(self, h, y)

    def posterior(self, l: int, h: list[Tensor], coarser: tuple[Tensor, ...] = (), y: Y = None) -> Distribution:
        return self._after(coarser, h, y).posterior()

    def prior_of(self, l: int, coarser: tuple[Tensor, ...] = (), y: Y = None) -> Distribution:
        return self._after(coarser, None, y).prior()

    def likelihood(self, z: tuple[Tensor, ...], y: Y = None) -> Distribution:
        return self._after(z, None, y).likelihood()

    def _after(self, z: tuple[Tensor, ...], h: list[Tensor] | None, y: Y) -> "ByState":
        descent = ByState(self, h, y)
        for level in z:
            descent.take(level)
        return descent

    def posteriors(self, x: Tensor, y: Y = None) -> tuple[Distribution, ...]:
        descent, found = ByState(self, self.bottom_up(x, y), y), ()
        for space in self.spaces:
            q = descent.posterior()
            found = (*found, q)
            descent.take(center(q, space, x.shape[0]))
        return found

    def _terms(
        self, x: Tensor, h: Any, y: Y, draw: Callable[[Distribution], Draws], prior_of: Callable[..., Distribution]
    ) -> ElboTerms:
        """The same as of every model with latents, with one way down for all levels instead of two for each.

        But where an objective weighs the gradient that comes to a draw, and not what goes on to the finer ones, these
        must be apart.
        """
        if isinstance(self.config.objective, IWAE) and self.config.objective.dreg:
            return super()._terms(x, h, y, draw, prior_of)
        descent, q, p, z, drawn = ByState(self, h, y), (), (), (), Draws(x)
        for _ in self.spaces:
            q, p = (*q, descent.posterior()), (*p, descent.prior())
            drawn = draw(q[-1])
            z = (*z, drawn.z)
            descent.take(drawn.z)
        return ElboTerms.of(x, z, q, p, descent.likelihood(), lambda: through_draws(self, h, q, z, y), drawn)

    def _loss(self, x: Tensor, y: Y = None, step: int = 0) -> Loss:
        objective = self.config.objective
        h = self.bottom_up(x, y)
        terms = self._terms(x, h, y, lambda q: self.estimator.draw(q, objective.draws, step), self.prior_of)
        return objective(terms, step)

    def stages(self) -> tuple[Stage, ...]:
        return (Stage("model", (Turn((self,), self._loss),), score=self.config.objective.score),)

    # ---- drawing

    def _log_weight_of(self, x: Tensor, z: tuple[Tensor, ...], y: Y) -> Tensor:
        descent, log_w = ByState(self, self.bottom_up(x, y), y), []
        for level in z:
            log_w += [descent.prior().log_prob(level), -descent.posterior().log_prob(level)]
            descent.take(level)
        return torch.stack([*log_w, descent.likelihood().log_prob(x)]).sum(0)

    def _draw_latents(self, n: int, y: Y, how: Draw, told: Told, coarse: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        descent = self._after(coarse, None, y)
        z = coarse
        for name in self.levels[len(coarse) :]:
            p = tempered(descent.prior(), how.at(name).temperature)
            z = (*z, p.sample() if p.batch_shape else p.sample((n,)))
            descent.take(z[-1])
        return z

    def _centers(self, x: Tensor, y: Y = None, levels: Sequence[str] | None = None) -> tuple[Tensor, ...]:
        descent, z = ByState(self, self.bottom_up(x, y), y), ()
        for of_x, space in zip(self._of_x(levels), self.spaces, strict=True):
            z = (*z, center(descent.posterior() if of_x else descent.prior(), space, len(x)))
            descent.take(z[-1])
        return z

    @torch.no_grad()
    def log_p_coarse(self, coarse: tuple[Tensor, ...], y: Y = None) -> Tensor:
        descent, log_p = ByState(self, None, y), []
        for z in coarse:
            log_p.append(descent.prior().log_prob(z).double())
            descent.take(z)
        return torch.stack(log_p).sum(0)


class ByState(Descent):
    """The state on its way down through the levels.

    Its maps are of a batch of shape `lead`: of no dimension as long as nothing was given or drawn, then [B] or [K, B].
    """

    def __init__(self, model: HierarchicalVAE, h: list[Tensor] | None, y: Y):
        self.model, self.h = model, h
        self.c: Tensor | None = model.condition(y)
        self.lead = torch.Size(()) if self.c is None else self.c.shape[:1]
        self.l = 0
        self.s = self._begun(0)

    def posterior(self) -> Distribution:
        assert self.h is not None
        h = self.h[self.scale]
        lead = self.lead or h.shape[:1]
        s, h = _spread(self.s, self.lead, lead), _spread(h, h.shape[:1], lead)
        params = self.model.posteriors_of[self.l](torch.cat([s, h], 1))
        return self.model.posterior_heads[self.l](params.reshape(*lead, *params.shape[1:]))

    def prior(self) -> Distribution:
        params = self._of_prior()[0]
        return self.model.prior_heads[self.l](params.reshape(*self.lead, *params.shape[1:]))

    def _of_prior(self) -> tuple[Tensor, Tensor]:
        """The prior's parameters, and what else is added to the state."""
        if self._kept is None:
            both = self.model.priors_of[self.l](self.s)
            width = self.model.config.width
            self._kept = both[:, :-width], both[:, -width:]
        return self._kept

    def take(self, z: Tensor) -> None:
        """Go on with z [..., *latent], or with float features of whole numbers."""
        model, space = self.model, self.model.spaces[self.l]
        relaxed = space.levels is None or z.is_floating_point()
        shape = space.feature_shape if relaxed else space.shape
        lead, flat = z.shape[: z.dim() - len(shape)], z.reshape(-1, *shape)
        features = (flat if relaxed else space.features(flat)).to(model.dtype)
        s = _spread(self.s + self._of_prior()[1], self.lead, lead)
        s = s + model.projections[self.l](features.reshape(flat.shape[0], -1, *s.shape[-2:]))
        self.s, self.lead = model.blocks[self.l](s), lead
        before = self.scale
        self.l += 1
        self._kept = None
        if self.l < len(model.spaces) and self.scale > before:
            self.s = self._begun(self.scale)

    def likelihood(self) -> Distribution:
        h = self.model.exit(self.s)
        return self.model.likelihood_head(h.reshape(*self.lead, *h.shape[1:]))

    @property
    def scale(self) -> int:
        return self.model.scale_of[self.l]

    _kept: tuple[Tensor, Tensor] | None = None

    def _begun(self, k: int) -> Tensor:
        """The state at the beginning of a scale: [N, width, h, w]."""
        model = self.model
        height, width = model.spaces[self.l].shape[-2:]
        start = model.starts[k]
        s = start + start.new_zeros(1, 1, height, width)
        if k:
            s = s + F.interpolate(self.s, size=(height, width))
        if self.c is None:
            return s
        c = model.told(k, self.c, (height, width))
        return s + _spread(c, c.shape[:1], self.lead)


class Entry(Reducible):
    """[B, C, H, W] -> [B, width, H / factor, W / factor]."""

    def __init__(self, channels: int, width: int, factor: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, width, factor + 2, stride=factor, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Exit(Reducible):
    """[B, width, h, w] -> [B, out, h * factor, w * factor], after a learned gain and bias of each channel."""

    def __init__(self, width: int, out: int, factor: int):
        super().__init__()
        self.gain, self.bias = nn.Parameter(torch.ones(width, 1, 1)), nn.Parameter(torch.zeros(width, 1, 1))
        self.conv, self.factor = nn.Conv2d(width, out * factor**2, 3, padding=1), factor

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(self.conv(x * self.gain + self.bias), self.factor)


class Projection(Reducible):
    """What is added to the state for a latent."""

    def __init__(self, channels: int, width: int, gain: float):
        super().__init__()
        self.conv = nn.Conv2d(channels, width, 1)
        self.conv.weight.data.mul_(gain)

    def forward(self, z: Tensor) -> Tensor:
        return self.conv(z)


def _spread(t: Tensor, lead: torch.Size, to: torch.Size) -> Tensor:
    """[prod(lead), ...] -> [prod(to), ...], over the dimensions that lead lacks."""
    if lead == to or (not to and t.shape[0] == 1):
        return t
    return t.reshape(*lead, *t.shape[1:]).expand(*to, *t.shape[1:]).reshape(-1, *t.shape[1:])


def _latents(config: HierarchicalVAE.Config, channels: int, size: tuple[int, int]) -> Space:
    return Space((channels, *size), config.latent_levels, ordered=config.latent_levels in (None, 2))


def _channels(space: Space) -> int:
    return math.prod(space.feature_shape[:-2])


def _ratios(config: HierarchicalVAE.Config) -> list[int]:
    """How many times larger each scale's maps are than those of the scale before."""
    return [coarse.factor // fine.factor for coarse, fine in pairwise(config.scales)]


def _shows(config: HierarchicalVAE.Config, space: Space, given: tuple[Space, ...]) -> bool:
    """Whether what is given is a map of real numbers. Raises ConfigError for one that no scale is as large as."""
    if len(given) != 1 or given[0].levels is not None or len(given[0].shape) != 3:
        return False
    wanted = [side // config.scales[-1].factor for side in space.shape[-2:]]
    if list(given[0].shape[-2:]) != wanted:
        raise ConfigError(
            f"model: is given a map of {list(given[0].shape)}, expected one of {wanted}, the finest scale's"
        )
    return True


def _check(config: HierarchicalVAE.Config, space: Space) -> None:
    """Raise ConfigError for scales that do not fit each other or the images, and families of other latents."""
    if len(space.shape) != 3:
        raise ConfigError(f"model: a HierarchicalVAE takes images, got events of shape {list(space.shape)}")
    factors, (height, width) = [s.factor for s in config.scales], space.shape[-2:]
    for coarse, fine in pairwise(factors):
        if coarse <= fine:
            raise ConfigError(f"model.scales: expected factors that fall, the coarsest scale first, got {factors}")
        if coarse % fine:
            raise ConfigError(f"model.scales: maps grow by whole factors, and {coarse} is no multiple of {fine}")
    if height % factors[0] or width % factors[0]:
        possible = [f for f in range(1, min(height, width) + 1) if height % f == width % f == 0]
        raise ConfigError(
            f"model.scales.0.factor={factors[0]}: does not divide images of {height}x{width}; set one of {possible} "
            "(finer scales divide it in turn), or data.size"
        )
    check_kind("posterior", config.posterior, config.latent_levels)
    check_kind("prior", config.prior, config.latent_levels)

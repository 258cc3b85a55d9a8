"""VQ-VAE: grids of discrete codes at one or several levels, and a prior over each."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.distributions import Distribution

from lowerbound import noise
from lowerbound.config import Component
from lowerbound.distributions import Categorical, Point
from lowerbound.errors import ConfigError, ModelError, UserError, did_you_mean
from lowerbound.estimators import Draws
from lowerbound.families import Bernoulli, Family, Head, Noiseless
from lowerbound.model import PLAIN, CodeModel, Draw, Drawn, ElboTerms, Model, Told, told_nobody
from lowerbound.models.autoregressive import Autoregressive
from lowerbound.models.kept import Part, cells_kept, draw_rest, filled, redraw_cells
from lowerbound.networks.base import halvings
from lowerbound.networks.made import MADE
from lowerbound.networks.strided import Blocks, Down, Enlarged, Projection, Up
from lowerbound.priors import prior_given
from lowerbound.quantizers import VQ, Quantized, Quantizer
from lowerbound.space import Density, Space, Y, conditions
from lowerbound.stages import Loss, Prepare, Stage, Turn


class Level(Component):
    """One grid of codes."""

    factor: int = Field(default=4, gt=1)  # how many times smaller than the image: a power of 2
    quantizer: Quantizer.Config = VQ.Config()  # of the vectors of the grid


def level_names(levels: int) -> tuple[str, ...]:
    """What the levels are called, the coarsest first.

    Example:
        >>> level_names(1), level_names(3)
        (('top',), ('top', 'middle', 'bottom'))
    """
    if levels == 1:
        return ("top",)
    between = ("middle",) if levels == 3 else tuple(f"middle{i}" for i in range(1, levels - 1))
    return ("top", *between, "bottom")


class VQVAE(CodeModel):
    r"""Images as grids of codes z_1, ..., z_L from a codebook each, the coarsest first, and a prior that draws them.

    .. math:: \log p(x|y) \ge \log p(x|z) + \sum_l \log P(z_l | z_{<l}, y), \quad z = \mathrm{codes}(x)

    since p(x|y) is the sum over all grids z, of which this is one term. One level is VQ-VAE (van den Oord et al. 2017,
    https://arxiv.org/abs/1711.00937), two and three are VQ-VAE-2 (Razavi et al. 2019, https://arxiv.org/abs/1906.00446):
    maps of the image are made from the finest to the coarsest; the coarsest is quantized first, and each finer one
    given what the coarser decode to; the decoder sees all levels.

    The autoencoder is trained first, without the condition; then each prior on the codes it gives, as a stage of its
    own (`prior.top`, ...), given y and the coarser codes. Until its prior is trained, a level's codes count as uniform:
    log P(z_l) = -n log K, which is a prior too, but none to draw images from.

    Example:
        >>> levels = (Level(factor=4, quantizer=VQ.Config(codes=8)), Level(factor=2, quantizer=VQ.Config(codes=8)))
        >>> model = VQVAE.Config(levels=levels, width=8, inner=4).build(Space((1, 8, 8), levels=17))
        >>> top, bottom = model.codes(torch.zeros(3, 1, 8, 8, dtype=torch.uint8))
        >>> top.shape, bottom.shape, model.decode((top, bottom)).mean.shape
        (torch.Size([3, 2, 2]), torch.Size([3, 4, 4]), torch.Size([3, 1, 8, 8]))
    """

    class Config(Model.Config):
        levels: tuple[Level, ...] = Field(default=(Level(),), min_length=1)  # the coarsest first
        priors: tuple[Model.Config, ...] = ()  # over each level's codes, given the label and the coarser; (): uniform
        likelihood: Family = Noiseless(sigmoid=False)  # p(x|z), of what the decoder puts out
        width: int = Field(default=128, gt=1)  # features of the maps
        inner: int = Field(default=32, gt=0)  # features inside a residual block
        blocks: int = Field(default=2, ge=0)  # residual blocks in each encoder and decoder
        drop: float = Field(default=0.0, ge=0, lt=1)  # share of images that training decodes from coarser levels alone
        checkpoint: bool = False  # compute the blocks twice in training instead of keeping their maps in memory

        def binary(self) -> bool:
            return isinstance(self.likelihood, Bernoulli)

        def of_stage(self, stage: str) -> tuple[str, ...]:
            return tuple(f"priors.{l}." for l, n in enumerate(level_names(len(self.levels))) if stage == f"prior.{n}")

        def build(self, space: Space, given: tuple[Space, ...] = ()) -> "VQVAE":
            return VQVAE(self, space, given)

        @classmethod
        def example(cls) -> tuple["VQVAE.Config", Space, tuple[Space, ...]]:
            prior = Autoregressive.Config(network=MADE.Config(hidden=(4,)), context=4, context_blocks=1, embedding=2)
            level = Level(factor=2, quantizer=VQ.Config(codes=3, dim=2, initial=0))
            config = cls(levels=(level,), priors=(prior,), likelihood=Bernoulli(), width=4, inner=2, blocks=1)
            return config, Space((1, 2, 4), levels=2), ()

    prior_learned: Tensor

    def __init__(self, config: Config, space: Space, given: tuple[Space, ...] = ()):
        super().__init__(config, space, given)
        L, width = len(config.levels), config.width
        _check(config, space, given)
        factors = [level.factor for level in config.levels]
        between = [coarse // fine for coarse, fine in pairwise(factors)]  # [L - 1]
        blocks = lambda: Blocks(width, config.inner, config.blocks, checkpoint=config.checkpoint)  # noqa: E731
        self.quantizers = nn.ModuleList(level.quantizer.build() for level in config.levels)
        dims = [q.dim for q in self._quantizers]
        self.likelihood_head = Head(config.likelihood, space)
        inputs = [*[width] * (L - 1), space.feature_shape[0]]
        self.encoders = nn.ModuleList(
            Down(c, width, f, blocks()) for c, f in zip(inputs, [*between, factors[-1]], strict=True)
        )
        self.project = nn.ModuleList(Projection(width if l == 0 else 2 * width, dims[l], 1) for l in range(L))
        self.between = nn.ModuleList(
            Up(dims[l] + (width if l else 0), width, width, between[l], blocks()) for l in range(L - 1)
        )
        self.enlarge = nn.ModuleList(Enlarged(dims[l], factors[l] // factors[-1]) for l in range(L - 1))
        self.decoder = Up(sum(dims), self.likelihood_head.in_shape[0], width, factors[-1], blocks())
        H, W = space.shape[-2:]
        self.spaces = tuple(q.space((H // f, W // f)) for q, f in zip(self._quantizers, factors, strict=True))
        self.priors: nn.ModuleList = nn.ModuleList(
            _built_prior(config, l, self.spaces[l], (*given, *self.spaces[:l])) for l in range(len(config.priors))
        )
        self.register_buffer("prior_learned", torch.ones(len(config.priors), dtype=torch.bool))

    def load_state_dict(self, state_dict: Mapping[str, Tensor], strict: bool = True, assign: bool = False) -> Any:
        """As of every module; but a prior that was not trained yet when they were saved keeps its own weights, since
        it may be configured anew before it is."""
        learned = state_dict.get("prior_learned", self.prior_learned)
        waiting = tuple(f"priors.{l}." for l, yes in enumerate(learned.tolist()) if not yes)
        own = {k: t for k, t in self.state_dict().items() if k.startswith(waiting)}
        others = {k: t for k, t in state_dict.items() if not k.startswith(waiting)}
        return super().load_state_dict(others | own, strict, assign)

    @property
    def _quantizers(self) -> list[Quantizer]:
        return list(self.quantizers)  # pyright: ignore[reportReturnType]

    @property
    def dtype(self) -> torch.dtype:
        return next(self.encoders.parameters()).dtype  # codebooks stay in float32

    # ---- what the numbers are worth

    @property
    def learned(self) -> tuple[bool, ...]:
        return tuple(self.prior_learned.tolist()) or (False,) * len(self.levels)

    @property
    def density(self) -> Density:
        parts = [p for p, learned in zip(self._priors, self.learned, strict=False) if learned]
        return Density.worst(Density.BOUND, self.likelihood_head.density, *(p.density for p in parts))

    @property
    def noisy(self) -> bool:
        return self.likelihood_head.density is not Density.EXACT or any(p.noisy for p in self._priors)

    @property
    def likelihood_density(self) -> Density:
        return self.likelihood_head.density

    @property
    def prior_densities(self) -> tuple[Density, ...]:
        return tuple(self._priors[l].density if learned else Density.EXACT for l, learned in enumerate(self.learned))

    @property
    def unbiased(self) -> bool:
        return all(p.unbiased for p in self._priors)

    @property
    def can_sample(self) -> bool:
        return all(self.learned)

    @property
    def footprint(self) -> int:
        H, W = self.space.shape[-2:]
        first = self.config.width // 2 * H * W // 4
        return max(self.space.dims, first, math.prod(self.likelihood_head.in_shape))

    def why_no_density(self) -> str:
        if self.likelihood_head.density is Density.NONE:
            return (
                f"its likelihood {self.config.likelihood.type_name()} is no probability of {self.space.levels} levels; "
                "reconstruction errors are what it has, and the bits of its codes"
            )
        return super().why_no_density()

    @property
    def _priors(self) -> list[Model]:
        return list(self.priors)  # pyright: ignore[reportReturnType]

    # ---- images to codes

    def _quantize(self, x: Tensor) -> list[Quantized]:
        """Every level, the coarsest first."""
        h, maps, given, found = self.seen(x), [], None, []
        for encoder in reversed(self.encoders):  # pyright: ignore[reportArgumentType, reportCallIssue]
            h = encoder(h)
            maps.append(h)
        for l, h in enumerate(reversed(maps)):
            own = h if given is None else torch.cat([h, given], 1)
            q: Quantized = self.quantizers[l](self.project[l](own))
            found.append(q)
            if l + 1 < len(maps):
                given = self.between[l](q.z if given is None else torch.cat([q.z, given], 1))
        return found

    def codes(self, x: Tensor) -> tuple[Tensor, ...]:
        """The codes of events x, the coarsest level first: int64 [B, h, w] each."""
        x = self.taken_events(x)
        return tuple(q.codes for q in self._quantize(x))

    @property
    def latents(self) -> tuple[Space, ...]:
        return self.spaces

    def bottom_up(self, x: Tensor, y: Y = None) -> tuple[Tensor, ...]:
        """The codes of x."""
        return tuple(q.codes for q in self._quantize(x))

    def posterior(self, l: int, h: tuple[Tensor, ...], coarser: tuple[Tensor, ...] = (), y: Y = None) -> Distribution:
        """All mass on the codes of x."""
        return Point(h[l], len(self.spaces[l].shape))

    def prior_of(self, l: int, coarser: tuple[Tensor, ...] = (), y: Y = None) -> Distribution:
        if self.learned[l]:
            return prior_given(self._priors[l], (*conditions(y, self.given), *coarser))
        space = self.spaces[l]
        logits = torch.zeros(space.levels or 1, *space.shape, device=self.prior_learned.device)
        return Categorical(logits, space)

    def features(self, x: Tensor, y: Y = None) -> Tensor:
        """The code vectors of all levels, coarsest first: [B, D]."""
        return torch.cat([q.z.flatten(1) for q in self._quantize(self._taken_images(x, y))], 1)

    def _taken_images(self, x: Any, y: Any) -> Tensor:
        """Events as a caller gives them; the autoencoder needs no condition, and one that is given is checked alone."""
        return self.taken_events(x) if y is None else self.taken(x, y)[0]

    # ---- codes to images

    def _decode(self, vectors: Sequence[Tensor]) -> Tensor:
        """The code vectors of all levels, [N, D, h, w] each -> what the likelihood is made of, [N, P, H, W]."""
        enlarged = [m(v) for m, v in zip(self.enlarge, vectors, strict=False)]
        return self.decoder(torch.cat([*enlarged, vectors[-1]], 1))

    def vectors(self, codes: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The code vectors of codes [B, h, w] of each level: [B, D, h, w]."""
        return tuple(q.decode(c).to(self.dtype) for q, c in zip(self._quantizers, codes, strict=True))

    def likelihood(self, z: tuple[Tensor, ...], y: Y = None) -> Distribution:
        batch = z[0].shape[: z[0].dim() - len(self.spaces[0].shape)]  # [..., B]
        flat = tuple(codes.reshape(-1, *space.shape) for codes, space in zip(z, self.spaces, strict=True))
        h = self._decode(self.vectors(flat))
        return self.likelihood_head(h.unflatten(0, batch))

    def reconstruct(self, x: Tensor, y: Y = None, levels: Sequence[str] | None = None) -> Tensor:
        x = self._taken_images(x, y)
        return self.likelihood(self.codes(x)).mean if levels is None else self.partial(x, levels)

    @torch.no_grad()
    def partial(self, x: Tensor, levels: Sequence[str]) -> Tensor:
        """Reconstructions from some levels alone, float [B, *space.shape] in pixel values; the code vectors of the
        others are zero, as in training with `drop`."""
        kept, quantized = {self._level(name) for name in levels}, self._quantize(self.taken_events(x))
        vectors = [q.z if l in kept else torch.zeros_like(q.z) for l, q in enumerate(quantized)]
        return self.likelihood_head(self._decode(vectors)).mean

    def _dropped(self, vectors: list[Tensor]) -> list[Tensor]:
        """Without the finer levels for some of the images, so that the coarser learn to stand for an image alone."""
        if not (self.training and self.config.drop and len(vectors) > 1):
            return vectors
        u = noise.rand((len(vectors[0]), 1, 1, 1), device=vectors[0].device) / self.config.drop  # above 1: none drops
        cut = len(vectors) - 1  # with u in [0, 1): the levels that are kept are 1 + floor(u cut)
        return [v if l == 0 else torch.where(u * cut < l, 0.0, v) for l, v in enumerate(vectors)]

    def _level(self, name: str) -> int:
        if name not in self.levels:
            raise ModelError(f"no level {name!r}{did_you_mean(name, self.levels)}")
        return self.levels.index(name)

    # ---- the bound

    def _loss(self, x: Tensor, y: Y = None, step: int = 0) -> Loss:
        """Of the autoencoder: -log p(x|z), and what the quantizers add, an element of theirs weighing as one of x."""
        quantized = self._quantize(x)
        distortion = -self.likelihood_head(self._decode(self._dropped([q.z for q in quantized]))).log_prob(x)  # [B]
        added = torch.stack([q.loss for q in quantized])  # [L, B]
        terms = {"distortion": distortion} | {f"commitment.{n}": a for n, a in zip(self.levels, added, strict=True)}
        value = (distortion + self.space.dims * added.sum(0)).mean()
        return Loss(value, {name: term.detach() for name, term in terms.items()})

    @property
    def kept_whole(self) -> tuple[nn.Module, ...]:
        return (self.quantizers,)

    def after_step(self) -> None:
        for quantizer in self._quantizers:
            quantizer.after_step()

    def elbo_terms(self, x: Tensor, y: Y = None, draws: int = 1) -> ElboTerms:
        quantized = self._quantize(x)
        codes = tuple(q.codes for q in quantized)
        h = self._decode([q.z for q in quantized])
        p_x = self.likelihood_head(h.expand(draws, *h.shape))
        log_pz = self._log_pz(codes, y, draws)
        return ElboTerms(
            x=x,
            p_x=p_x,
            log_px=p_x.log_prob(x),
            latents=lambda: (log_pz, torch.zeros_like(log_pz)),
            z=tuple(c.expand(draws, *c.shape) for c in codes),
            q=tuple(self.posterior(l, codes) for l in range(len(codes))),
            p=tuple(self.prior_of(l, codes[:l], y) for l in range(len(codes))),
            through_draws=lambda: torch.zeros_like(log_pz),
            draws=Draws(codes[0]),
        )

    def log_p_codes(self, codes: tuple[Tensor, ...], y: Y = None) -> Tensor:
        return self._log_pz(codes, y, 1)[0].T

    def _log_pz(self, codes: tuple[Tensor, ...], y: Y, draws: int) -> Tensor:
        """What `log_p_codes` gives, for this many draws of the noise that a prior may have: [K, B, L]."""
        given, found = conditions(y, self.given), []
        for l, (z, space, learned) in enumerate(zip(codes, self.spaces, self.learned, strict=False)):
            if learned:
                log_p = self._priors[l]._log_weights(z, (*given, *codes[:l]), draws)  # [K or 1, B]
            else:
                log_p = torch.tensor(-space.dims * math.log(space.levels or 1), device=z.device)
            found.append(log_p.expand(draws, len(z)))
        return torch.stack(found, -1)

    # ---- drawing

    @property
    def levels(self) -> tuple[str, ...]:
        return level_names(len(self.config.levels))

    @property
    def draws_pixels(self) -> bool:
        return self.likelihood_head.density is not Density.NONE

    @property
    def truncates(self) -> bool:
        return True

    @property
    def cost(self) -> int:
        return sum(prior.cost for prior in self._priors)

    def at_once(self) -> int:
        return min((prior.at_once() for prior in self._priors if prior.cost), default=4096)

    def _draw_latents(self, n: int, y: Y, how: Draw, told: Told, coarse: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        self._check_can_draw()
        given, codes = conditions(y, self.given), tuple(coarse)
        total, done = sum(s.dims for s in self.spaces[len(codes) :]), 0
        for l in range(len(codes), len(self.spaces)):
            own = self.spaces[l].dims
            prior, its = self._prior(l, how)
            codes = (*codes, prior.draw(n, (*given, *codes), its, _further(told, done, total, own)).x)
            done += own
        return codes

    def _prior(self, l: int, how: Draw) -> tuple[Model, Draw]:
        """The prior of a level, and how it is drawn from. Raises ModelError where it can't be so drawn from."""
        prior, its = self._priors[l], Draw(*how.at(self.levels[l]))
        if (its.top_k is not None or its.top_p is not None) and not prior.truncates:
            raise ModelError(f"--top-k, --top-p: {type(prior).__name__} does not draw codes one after another")
        return prior, its

    def log_p_coarse(self, coarse: tuple[Tensor, ...], y: Y = None) -> Tensor:
        return self.log_p_codes(coarse, y).double().sum(0)

    # ---- completing

    def keeps(self, kept: Tensor) -> dict[str, Tensor]:
        """Of each level the codes whose cell, of factor x factor pixels, is kept as a whole."""
        self._check_can_draw()
        if tuple(kept.shape) != self.space.shape[-2:]:
            wanted = list(self.space.shape[-2:])
            raise ModelError(f"the mask is of {list(kept.shape)}, expected the size of the images, {wanted}")
        cells = {name: cells_kept(kept, space.shape[-2:]) for name, space in zip(self.levels, self.spaces, strict=True)}
        for prior, mask in zip(self._priors, cells.values(), strict=True):
            prior.keeps(mask)
        return cells

    @torch.no_grad()
    def complete(self, x: Tensor, kept: Tensor, y: Y = None, how: Draw = PLAIN, told: Told = told_nobody) -> Drawn:
        """Images like x where `kept` is true; elsewhere they are decoded from codes drawn given those that are kept.

        Kept are the codes whose cell is kept as a whole (`keeps`), as they are once every pixel that is not kept has
        the value of the nearest that is: those have no say in what is drawn. `draw_rest` draws the others.
        """
        self.check_how(how)
        x, y = self.taken(x, y)
        y = self._checked_draw(len(x), y, how)
        codes, _ = draw_rest(self._parts(x, kept, how, told), conditions(y, self.given))
        drawn = self.render(codes, y, mean=how.mean)
        return Drawn(torch.where(kept.to(x.device), x.to(drawn.dtype), drawn), codes)

    @torch.no_grad()
    def log_p_kept(self, x: Tensor, kept: Tensor, y: Y = None) -> Tensor:
        """log P(kept codes | y) in nats, [B]; an estimate where finer levels keep codes too (see `draw_rest`)."""
        x, y = self.taken(x, y)
        return draw_rest(self._parts(x, kept, PLAIN, told_nobody), conditions(y, self.given), finest=False)[1]

    @torch.no_grad()
    def redrawn(self, codes: tuple[Tensor, ...], drawn: tuple[Tensor, ...], y: Y = None) -> tuple[Tensor, ...]:
        self._check_can_draw()
        return redraw_cells(self._priors, codes, drawn, conditions(self.taken_conditions(len(codes[0]), y), self.given))

    def _parts(self, x: Tensor, kept: Tensor, how: Draw, told: Told) -> list[Part]:
        """What is kept of the codes of each level."""
        masks, own, parts = self.keeps(kept), self.codes(filled(x, kept)), []
        total, done = sum(space.dims for space in self.spaces), 0
        for l, (mask, codes, space) in enumerate(zip(masks.values(), own, self.spaces, strict=True)):
            prior, its = self._prior(l, how)
            parts.append(Part(prior, codes, mask, its, _further(told, done, total, space.dims)))
            done += space.dims
        return parts

    def _check_can_draw(self) -> None:
        if not self.priors:
            raise ModelError("this VQ-VAE has no priors to draw its codes from; train one with model.priors")
        missing = [f"prior.{name}" for name, learned in zip(self.levels, self.learned, strict=True) if not learned]
        if missing:
            raise ModelError(
                f"this VQ-VAE can't be drawn from yet: {' and '.join(missing)} "
                f"{'is' if len(missing) == 1 else 'are'} not trained, and uniform codes decode to noise. Train with: "
                f"lowerbound train RECIPE --out RUN --resume{f' --stage {missing[0]}' if len(missing) == 1 else ''}"
            )

    # ---- the stages

    def stages(self) -> tuple[Stage, ...]:
        """The autoencoder, then each prior, on the codes that the trained autoencoder gives."""
        parts = (
            *(self.encoders, self.project, self.quantizers, self.between),
            *(self.enlarge, self.decoder, self.likelihood_head),
        )
        first = Stage("autoencoder", (Turn(parts, self._loss),))
        return first, *(self._prior_stage(l) for l in range(len(self.priors)))

    def _prior_stage(self, l: int) -> Stage:
        prior = self._priors[l]

        def given(kept: tuple[Tensor, ...], y: Y) -> tuple[Tensor, Y]:
            return kept[l], (*conditions(y, self.given), *kept[:l])

        def learned(yes: bool) -> None:
            self.prior_learned[l] = yes

        return Stage(
            f"prior.{self.levels[l]}",
            (Turn((prior,), prior._loss),),
            prepare=Prepare(self.levels, self.spaces, lambda x, _: self.codes(x), given),
            model=prior,
            learned=learned,
        )


def _check(config: VQVAE.Config, space: Space, given: tuple[Space, ...]) -> None:
    """Raise ConfigError or ModelError for levels that do not fit each other or the images, and labels of no use."""
    if len(space.shape) != 3:
        raise ConfigError(f"model: a VQVAE takes images, got events of shape {list(space.shape)}")
    factors = [level.factor for level in config.levels]
    for l, factor in enumerate(factors):
        if factor & (factor - 1):
            raise ConfigError(f"model.levels.{l}.factor: expected a power of 2, got {factor}")
    if any(coarse <= fine for coarse, fine in pairwise(factors)):
        raise ConfigError(f"model.levels: expected factors that fall, the coarsest level first, got {factors}")
    if config.priors and len(config.priors) != len(factors):
        raise ConfigError(
            f"model.priors: expected none or one for each of the {len(factors)} levels, got {len(config.priors)}"
        )
    if given and not config.priors:
        raise ConfigError("data.label: only the priors of a VQVAE are given labels; set model.priors, or label=false")
    halvings(space.shape, factors[0].bit_length() - 1)


def _built_prior(config: VQVAE.Config, l: int, space: Space, given: tuple[Space, ...]) -> Model:
    """The prior of a level. Raises ConfigError for one that is none of codes."""
    try:
        prior = config.priors[l].build(space, given)
    except UserError as e:
        told = str(e)
        raise ConfigError(
            f"model.priors.{l}{'.' if told.startswith('model.') else ': '}{told.removeprefix('model.')}"
        ) from None
    if prior.density is Density.NONE:
        raise ConfigError(f"model.priors.{l}: expected a model with a density, got {config.priors[l].type_name()}")
    return prior


def _further(told: Told, before: int, total: int, own: int) -> Told:
    """What is told of one level's progress, as progress in all."""
    return lambda done, of: told(before + done * own // of, total)

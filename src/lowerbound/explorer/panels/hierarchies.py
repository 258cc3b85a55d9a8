"""Levels of latents: what each carries, the finer drawn anew below the coarser, and levels of two images mixed."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from pydantic import Field
from torch import Tensor

from lowerbound.editing.controls import conditions, in_words
from lowerbound.errors import UserError
from lowerbound.explorer.conditions import condition
from lowerbound.explorer.messages import Answer
from lowerbound.explorer.panels.base import Finite, Given, Name, Panel, Seed, action
from lowerbound.explorer.shelf import Heard, Shown
from lowerbound.explorer.strips import strip
from lowerbound.model import CodeModel, Draw, LatentModel, Model, Viewing
from lowerbound.noise import seeded
from lowerbound.runs.conditions import NOTHING, Asked
from lowerbound.space import Density, Y

MOST = 128  # levels
KL_DRAWS = 16  # of the latents, over which the KL of an image is averaged
MODES = Draw(temperature=0.0)  # the means of the priors, of whole numbers the likeliest

Temperature = Annotated[Finite, Field(ge=0, le=10)]
Count = Annotated[int, Field(ge=1, le=64)]
Draws = Annotated[int, Field(ge=1, le=16)]
Source = Name  # upload:HASH, valid:17; or prior:SEED, a draw
Of = Annotated[list[Literal["A", "B", "mean", "draw"]], Field(max_length=MOST)]


class Code(NamedTuple):
    """What a picture is made of."""

    z: tuple[Tensor, ...]  # [1, *latent] of each level, the coarsest first
    x: Tensor | None  # [1, C, H, W], of an image
    y: Tensor | None
    notes: list[str]


class Hierarchies(Panel):
    """For models with several levels of latents, each given all coarser ones."""

    title = "Hierarchies"
    place = 50

    def fits(self, shown: Shown) -> bool:
        return shown.is_a(LatentModel) and _is_hierarchy(shown.model)

    @action
    def about(self, shown: Shown) -> Answer:
        """The levels, the coarsest first, with the shapes of their latents."""
        model = _model(shown)
        levels = [{"name": n, "shape": [*s.shape]} for n, s in zip(model.levels, model.latents, strict=True)]
        said = {
            "levels": levels,
            **conditions(shown.run, model),
        }
        return Answer(said)

    @action
    def look(self, shown: Shown, *, source: Source, given: Given = NOTHING) -> Iterator[Answer | None]:
        """An image, or a draw, and what its levels carry.

        First the image, and the KL of each level in nats with where it lies, [h, w]; then one picture after another of
        which the first k levels are its own and the finer ones the means of their priors, k = 0, ..., L.
        """
        model, code = _model(shown), _code(shown, source, given)
        said: dict[str, Any] = {
            "given": in_words(shown.run, None if code.y is None else code.y.cpu()),
            "notes": code.notes,
        }
        arrays = {}
        if code.x is not None:
            measured, maps = _measured(model, code.x, code.y)
            said |= measured
            arrays = {"original": shown.pictures(code.x[0])} | maps
        yield Answer(said, arrays)
        for k in range(len(code.z) + 1):
            z = model.draw_latents(1, code.y, MODES, coarse=code.z[:k])
            yield Answer({"k": k}, {"picture": _pictures(shown, z, code.y)[0]})

    @action
    def mix(
        self,
        shown: Shown,
        *,
        levels: Of,
        a: Source,
        b: Source | None = None,
        seed: Seed = 0,
        draws: Draws = 1,
        temperature: Temperature = 1.0,
        given: Given = NOTHING,
    ) -> Answer:
        """Pictures of which each level is that of A or B, the mean of its prior, or drawn from it: [draws, H, W, C].

        The code of A and of B is as the whole image was encoded; the priors are given what stands above. An image of
        the run's data is encoded by what it was given there, an upload, as all else, by what is said.
        """
        model = _model(shown)
        if len(levels) != len(model.levels):
            raise UserError(f"{shown.name} has {len(model.levels)} levels, got {len(levels)}")
        if b is None and "B" in levels:
            raise UserError("a level is to be B's, and there is no B")
        code = _code(shown, a, given)
        codes = {"A": code.z}
        if b is not None and "B" in levels:
            codes["B"] = _code(shown, b, given).z
        y = code.y if given == NOTHING else condition(shown, given)
        y = None if y is None else y.expand(draws, *y.shape[1:])
        with seeded(seed, "sample", quick=True):
            z = _mixed(model, codes, levels, y, draws, temperature)
        return Answer(arrays={"pictures": _pictures(shown, z, y)})

    @action
    def images(self, shown: Shown, *, start: Annotated[int, Field(ge=0)] = 0, count: Count = 24) -> Answer:
        """Images of the run's own data, to begin from."""
        return strip(shown, start, count)


def _is_hierarchy(model: Model) -> bool:
    levels, shape = len(model.levels), model.space.shape
    return not isinstance(model, CodeModel | Viewing) and 1 < levels <= MOST and len(shape) == 3


def _model(shown: Shown) -> LatentModel:
    """Raises UserError for another model."""
    model = shown.model
    if not isinstance(model, LatentModel) or not _is_hierarchy(model):
        raise UserError(f"{shown.name} has not several levels of latents")
    return model


def _code(shown: Shown, source: str, given: Asked) -> Code:
    """Raises UserError for what is no image and no draw."""
    model = _model(shown)
    kind, _, which = source.partition(":")
    if kind == "prior":
        if not which.isdecimal() or int(which) >= 2**31:
            raise UserError(f"no draw {source}; expected prior:SEED, a whole number below {2**31}")
        y = condition(shown, given)
        with seeded(int(which), "sample", quick=True):
            return Code(model.draw_latents(1, y), None, y, [])
    heard = Heard()
    shown.run.check_asked(given)
    images, lines = shown.images([source])
    y = shown.condition(images, given if kind == "upload" else NOTHING, heard)
    return Code(model.centers(images.x, y), images.x, y, lines + heard.lines)


def _mixed(
    model: LatentModel,
    codes: dict[str, tuple[Tensor, ...]],
    of: Sequence[str],
    y: Y,
    n: int,
    temperature: float,
) -> tuple[Tensor, ...]:
    """Latents of each level, [n, *latent], whence it is said; those of a row that are of their priors at once."""
    z: tuple[Tensor, ...] = ()
    for own, group in groupby(enumerate(of), lambda at: at[1] in codes):
        places = [*group]
        if own:
            z += tuple(codes[which][l].expand(n, *model.latents[l].shape) for l, which in places)
            continue
        temperatures = {model.levels[l]: 0.0 if how == "mean" else temperature for l, how in places}
        z = model.draw_latents(n, y, Draw(temperatures), coarse=z)[: len(z) + len(places)]
    return z


def _pictures(shown: Shown, z: tuple[Tensor, ...], y: Y) -> np.ndarray:
    """The means of p(x|z): uint8 [n, H, W, C]."""
    return shown.pictures(_model(shown).render(z, y, mean=True))


def _measured(model: LatentModel, x: Tensor, y: Y) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The KL of each level and, where it is a density, -log p(x|z), in nats, over draws of the latents; and where in
    each level the KL lies, [h, w]."""
    x, y = model.taken(x, y)
    with seeded(0, "kl", quick=True):
        terms = model.elbo_terms(x, y, KL_DRAWS)
        closed = terms.kl
        kl = terms.log_qz - terms.log_pz if closed is None else closed  # [K, 1, L]
    said: dict[str, Any] = {"kl": kl.double().mean((0, 1)).tolist(), "draws": KL_DRAWS}
    if model.likelihood_density is not Density.NONE:
        said["reconstruction"] = -float(terms.log_px.double().mean())
    maps = {
        f"kl_{name}": of_each[0].flatten(0, -3).sum(0).float().cpu().numpy()
        for name, of_each in zip(model.levels, terms.kl_dimensions, strict=True)
        if of_each is not None and of_each.dim() > 3
    }
    return said, maps

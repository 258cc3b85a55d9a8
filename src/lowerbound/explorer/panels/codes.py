"""Grids of codes: painted with, swapped between images, drawn anew; and what each code looks like."""

from typing import Annotated, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from lowerbound.editing.controls import conditions, in_words
from lowerbound.errors import UserError
from lowerbound.explorer.conditions import condition
from lowerbound.explorer.messages import Answer
from lowerbound.explorer.panels.base import Finite, Given, ImageName, Name, Panel, Places, Seed, action
from lowerbound.explorer.shelf import Heard, Shown
from lowerbound.explorer.strips import strip
from lowerbound.model import CodeModel, Draw
from lowerbound.noise import seeded
from lowerbound.quantizers import Usage
from lowerbound.runs.conditions import NOTHING

SEEN = 256  # images whose codes are counted

Temperature = Annotated[Finite, Field(ge=0, le=10)]
Count = Annotated[int, Field(ge=1, le=64)]
ByLevel = Annotated[dict[Name, Places], Field(max_length=16)]


class Codes(Panel):
    """For models whose images are made of grids of codes."""

    title = "Codes"
    place = 30

    def fits(self, shown: Shown) -> bool:
        return shown.is_a(CodeModel) and all(len(s.shape) == 2 for s in _model(shown).latents)

    @action
    def about(self, shown: Shown) -> Answer:
        """The levels, the coarsest first; of each code how often some of the run's images have it, and its patch.

        That is the mean of what their reconstructions show there; of a code that none has, what it decodes to alone.
        """
        model = _model(shown)
        books, note = _books(shown)
        levels = [
            {"name": name, "shape": [*space.shape], "codes": space.levels, "learned": learned}
            for name, space, learned in zip(model.levels, model.latents, model.learned, strict=True)
        ]
        said = {
            "levels": levels,
            "draws": model.can_sample,
            **conditions(shown.run, model),
            "notes": [note] if note else [],
        }
        named = [*zip(model.levels, books, strict=True)]
        counts = {f"used_{name}": book.counts for name, book in named}
        return Answer(said, counts | {f"patches_{name}": book.patches for name, book in named})

    @action
    def encode(self, shown: Shown, *, image: ImageName, given: Given = NOTHING) -> Answer:
        """The codes of an image, what the model saw of it, and its reconstruction."""
        model, heard = _model(shown), Heard()
        images, lines = shown.images([image])
        codes = model.codes(images.x)
        y = shown.condition(images, given, heard)
        said = {"given": in_words(shown.run, None if y is None else y.cpu()), "notes": lines + heard.lines}
        pictures = {"original": shown.pictures(images.x[0]), "reconstruction": _picture(shown, codes)}
        return Answer(said, pictures | _arrays(model, codes))

    @action
    def decode(self, shown: Shown, *, codes: ByLevel) -> Answer:
        """The picture of codes, those of each level in the order of reading."""
        return Answer(arrays={"picture": _picture(shown, _taken(shown, codes))})

    @action
    def draw(self, shown: Shown, *, seed: Seed, temperature: Temperature = 1.0, given: Given = NOTHING) -> Answer:
        """Codes drawn from the prior, and their picture."""
        model, y = _model(shown), condition(shown, given)
        with seeded(seed, "sample", quick=True):
            codes = model.draw_latents(1, y, Draw(temperature))
        return Answer(arrays={"picture": _picture(shown, codes)} | _arrays(model, codes))

    @action
    def redraw(self, shown: Shown, *, codes: ByLevel, region: ByLevel, seed: Seed, given: Given = NOTHING) -> Answer:
        """Codes in which those of a region, places of some levels, are drawn from the prior given the others."""
        model, own, y = _model(shown), _taken(shown, codes), condition(shown, given)
        drawn = []
        for name in region:
            _level(shown, name)
        for name, space in zip(model.levels, model.latents, strict=True):
            mask = torch.zeros(space.dims, dtype=torch.bool)
            places = region.get(name, [])
            if max(places, default=0) >= space.dims:
                raise UserError(f"level {name} has {space.dims} codes; there is no place {max(places)}")
            mask[places] = True
            drawn.append(mask.view(space.shape))
        if not any(bool(mask.any()) for mask in drawn):
            raise UserError("no place is chosen to be drawn anew")
        with seeded(seed, "redraw", quick=True):
            found = model.redrawn(own, tuple(drawn), y)
        return Answer(arrays={"picture": _picture(shown, found)} | _arrays(model, found))

    @action
    def images(self, shown: Shown, *, start: Annotated[int, Field(ge=0)] = 0, count: Count = 24) -> Answer:
        """Images of the run's own data, to begin from."""
        return strip(shown, start, count)


def _model(shown: Shown) -> CodeModel:
    assert isinstance(shown.model, CodeModel)
    return shown.model


def _level(shown: Shown, name: str) -> int:
    levels = _model(shown).levels
    if name not in levels:
        raise UserError(f"no level {name!r}; expected one of {', '.join(levels)}")
    return levels.index(name)


def _taken(shown: Shown, codes: dict[str, list[int]]) -> tuple[Tensor, ...]:
    """Codes as a page gives them, as the model takes them: [1, h, w] each. Raises UserError for what are none."""
    model, found = _model(shown), []
    for name in codes:
        _level(shown, name)
    for name, space in zip(model.levels, model.latents, strict=True):
        own = codes.get(name, [])
        if len(own) != space.dims:
            raise UserError(f"level {name} has {space.dims} codes, got {len(own)}")
        if max(own) >= (space.levels or 0):
            raise UserError(f"level {name} has codes from 0 to {(space.levels or 0) - 1}, got {max(own)}")
        found.append(torch.tensor(own, device=shown.device).view(1, *space.shape))
    return tuple(found)


def _picture(shown: Shown, codes: tuple[Tensor, ...]) -> np.ndarray:
    """uint8 [H, W, C] of codes [1, h, w] each."""
    return shown.pictures(_model(shown).likelihood(codes).mean[0])


def _arrays(model: CodeModel, codes: tuple[Tensor, ...]) -> dict[str, np.ndarray]:
    return {f"codes_{n}": c[0].cpu().numpy().astype(np.int32) for n, c in zip(model.levels, codes, strict=True)}


class Book(NamedTuple):
    """The codes of a level, K of them."""

    counts: np.ndarray  # int32 [K]: how often the run's images have each
    patches: np.ndarray  # uint8 [K, h, w, C]: what it decodes to


def _books(shown: Shown) -> tuple[list[Book], str]:
    """Of each level; and why it is not known how often codes occur."""
    return shown.once("codebooks", lambda: _found(shown))


def _found(shown: Shown) -> tuple[list[Book], str]:
    model = _model(shown)
    used = [Usage(space.levels or 1) for space in model.latents]
    sums = [torch.zeros(s.levels or 1, *_cell(model, l), device=shown.device) for l, s in enumerate(model.latents)]
    x, note = torch.zeros(0, *model.space.shape), ""
    try:
        x = torch.from_numpy(shown.data().x[:SEEN])
    except UserError as e:
        note = f"the run's images can't be had, so no code counts as used: {e}"
    for part in x.split(model.rows) if len(x) else ():
        codes = model.codes(part.to(shown.device))
        means = model.likelihood(codes).mean
        for l, z in enumerate(codes):
            used[l].add(z)
            sums[l].index_add_(0, z.flatten(), _cells(model, l, means).to(sums[l]))
    books = []
    for l, usage in enumerate(used):
        often = usage.counts.to(shown.device)[:, None, None, None]
        patches = torch.where(often > 0, sums[l] / often.clamp(min=1), _everywhere(shown, l, used))
        books.append(Book(usage.counts.numpy().astype(np.int32), shown.pictures(patches)))
    return books, note


def _everywhere(shown: Shown, l: int, used: list[Usage]) -> Tensor:
    """[K, C, h, w]: what lies in the middle of pictures in which a level has one code everywhere, and each other its
    most frequent one."""
    model, found = _model(shown), []
    space = model.latents[l]
    for part in torch.arange(space.levels or 1).split(model.rows):
        each = [part if m == l else torch.full_like(part, int(u.counts.argmax())) for m, u in enumerate(used)]
        codes = (k.view(-1, 1, 1).expand(-1, *s.shape) for k, s in zip(each, model.latents, strict=True))
        cells = _cells(model, l, model.likelihood(tuple(z.to(shown.device) for z in codes)).mean)
        found.append(
            cells.unflatten(0, (len(part), space.dims))[:, space.shape[0] // 2 * space.shape[1] + space.shape[1] // 2]
        )
    return torch.cat(found)


def _cell(model: CodeModel, l: int) -> tuple[int, int, int]:
    """The pixels [C, h, w] that a code of a level lies over."""
    (C, H, W), (h, w) = model.space.shape, model.latents[l].shape
    return C, H // h, W // w


def _cells(model: CodeModel, l: int, x: Tensor) -> Tensor:
    """Images [B, C, H, W] in the cells of a level, in the order of its codes: [B * cells, C, h, w]."""
    _, h, w = _cell(model, l)
    return x.unflatten(3, (-1, w)).unflatten(2, (-1, h)).permute(0, 2, 4, 1, 3, 5).flatten(0, 2)

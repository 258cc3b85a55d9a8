"""Pixels one after another: a region completed while one looks on, and what the model expects of each."""

from collections.abc import Iterator
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from lowerbound.editing.controls import conditions, in_words
from lowerbound.errors import UserError
from lowerbound.explorer.conditions import condition
from lowerbound.explorer.messages import Answer
from lowerbound.explorer.panels.base import Finite, Given, ImageName, Panel, Seed, action
from lowerbound.explorer.shelf import Heard, Shown
from lowerbound.explorer.strips import strip
from lowerbound.model import Draw, Ordered
from lowerbound.noise import seeded
from lowerbound.runs.conditions import NOTHING
from lowerbound.units import bits_per_dim

MOST = 3 * 128 * 128  # values of an image

Temperature = Annotated[Finite, Field(ge=0, le=10)]
Count = Annotated[int, Field(ge=1, le=64)]
Draws = Annotated[int, Field(ge=1, le=16)]
Values = Annotated[list[Annotated[int, Field(ge=0, le=255)]], Field(max_length=MOST)]
Erased = Annotated[list[Annotated[int, Field(ge=0, lt=MOST)]], Field(max_length=MOST)]


class Autoregressive(Panel):
    """For models that draw the pixels of an image one after another."""

    title = "Pixel by pixel"
    place = 40

    def fits(self, shown: Shown) -> bool:
        if not shown.is_a(Ordered):
            return False
        space = shown.model.space
        return len(space.shape) == 3 and space.dims <= MOST and 0 < (space.levels or 0) <= 256

    @action
    def about(self, shown: Shown) -> Answer:
        """The size of images, [H, W, C], and what they are given."""
        model = shown.model
        C, H, W = model.space.shape
        said = {
            "shape": [H, W, C],
            "levels": model.space.levels,
            **conditions(shown.run, model),
        }
        return Answer(said)

    @action
    def image(self, shown: Shown, *, image: ImageName, given: Given = NOTHING) -> Answer:
        """An image as the model takes it, uint8 [H, W, C] in its own values."""
        heard = Heard()
        images, lines = shown.images([image])
        y = condition(shown, given) if image.startswith("upload:") else shown.condition(images, given, heard)
        said = {"given": in_words(shown.run, None if y is None else y.cpu()), "notes": lines + heard.lines}
        return Answer(said, {"values": images.x[0].movedim(0, -1).to(torch.uint8).cpu().numpy()})

    @action
    def complete(
        self,
        shown: Shown,
        *,
        values: Values,
        erased: Erased,
        seed: Seed,
        draws: Draws = 1,
        temperature: Temperature = 1.0,
        given: Given = NOTHING,
    ) -> Iterator[Answer | None]:
        """The erased places of an image, drawn in the order of the model, several times side by side.

        Each answer says which place is drawn, and its values, [draws, C]. The last has the weight of each draw, by what
        the pixels that were kept are worth given those drawn before them.
        """
        model, y, how = _model(shown), condition(shown, given), Draw(temperature)
        x = _taken(shown, values).repeat(draws, 1, 1, 1)
        drawn = torch.zeros(x.shape[-2:], dtype=torch.bool)
        if max(erased, default=0) >= drawn.numel():
            raise UserError(f"the image has {drawn.numel()} pixels; there is no pixel {max(erased)}")
        drawn.view(-1)[erased] = True
        given_each = None if y is None else y.expand(draws, *y.shape[1:])
        filling, done = model.filling(x, drawn, given_each, how), 0
        while True:
            with seeded(seed, "complete", done, quick=True):  # of a place, so that others may be erased beside it
                filled = next(filling, None)
            if filled is None:
                break
            done += 1
            (i, j), x = filled
            if bool(drawn[i, j]):
                said = {"i": i, "j": j, "done": done, "of": drawn.numel()}
                yield Answer(said, {"values": x[:, :, i, j].to(torch.uint8).cpu().numpy()})
            elif j + 1 == drawn.shape[1]:
                yield Answer({"done": done, "of": drawn.numel()})
        weights = torch.full((draws,), 1 / draws, dtype=torch.float64)
        if draws > 1 and bool(drawn.any()) and not bool(drawn.all()):
            log_p = model.log_probs(x, given_each)[:, ~drawn.to(x.device)].double().sum(1).cpu()
            weights = log_p.softmax(0)
        yield Answer({"weights": [round(float(w), 6) for w in weights], "best": int(weights.argmax())})

    @action
    def probabilities(
        self,
        shown: Shown,
        *,
        values: Values,
        i: Annotated[int, Field(ge=0)],
        j: Annotated[int, Field(ge=0)],
        given: Given = NOTHING,
    ) -> Answer:
        """The probability of each value of a pixel, given those before it: [C, K]."""
        x = _taken(shown, values)
        if i >= x.shape[-2] or j >= x.shape[-1]:
            raise UserError(f"there is no pixel {i}, {j} in images of {x.shape[-2]}x{x.shape[-1]}")
        p = _model(shown).value_probs(x, (i, j), condition(shown, given))[0]
        return Answer(arrays={"p": p.float().cpu().numpy()})

    @action
    def surprise(self, shown: Shown, *, values: Values, given: Given = NOTHING) -> Answer:
        """The bits that each pixel takes given those before it, [H, W], and all of them."""
        nats = -_model(shown).log_probs(_taken(shown, values), condition(shown, given))[0].double().cpu().numpy()
        bits = np.asarray(bits_per_dim(nats, 1))
        return Answer({"bits": float(bits.sum()), "nats": float(nats.sum())}, {"bits": bits.astype(np.float32)})

    @action
    def images(self, shown: Shown, *, start: Annotated[int, Field(ge=0)] = 0, count: Count = 24) -> Answer:
        """Images of the run's own data, to begin from."""
        return strip(shown, start, count)


def _model(shown: Shown) -> Ordered:
    assert isinstance(shown.model, Ordered)
    return shown.model


def _taken(shown: Shown, values: list[int]) -> Tensor:
    """An image as a page gives it, [H, W, C] in a row, as the model takes it: [1, C, H, W]. Raises UserError."""
    space = shown.model.space
    C, H, W = space.shape
    if len(values) != space.dims:
        raise UserError(f"an image has {space.dims} values, got {len(values)}")
    if max(values) >= (space.levels or 0):
        raise UserError(f"a pixel has values from 0 to {(space.levels or 0) - 1}, got {max(values)}")
    return torch.tensor(values, dtype=space.dtype, device=shown.device).view(1, H, W, C).movedim(-1, 1).contiguous()

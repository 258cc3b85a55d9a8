"""Latents pulled at: codes as pictures, pictures as codes, and what moves them."""

from collections.abc import Sequence
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from lowerbound.directions import Direction, check_name, shifted
from lowerbound.editing.controls import controls, directions, in_words, known
from lowerbound.editing.learn import as_step, learn
from lowerbound.editing.paths import lerp, slerp
from lowerbound.errors import UserError
from lowerbound.explorer.conditions import condition
from lowerbound.explorer.films import gif
from lowerbound.explorer.messages import Answer
from lowerbound.explorer.panels.base import (
    Finite,
    Given,
    ImageName,
    Name,
    Panel,
    Seed,
    Strengths,
    Vector,
    action,
)
from lowerbound.explorer.shelf import Heard, Shown
from lowerbound.explorer.strips import strip
from lowerbound.model import Draw, LatentModel
from lowerbound.noise import randn, seeded
from lowerbound.runs.conditions import NOTHING

Temperature = Annotated[Finite, Field(ge=0, le=10)]
Count = Annotated[int, Field(ge=1, le=64)]
Picked = Annotated[list[ImageName], Field(min_length=1, max_length=256)]


class Latent(Panel):
    """For models whose images are made of one vector of numbers."""

    title = "Latents"
    place = 10

    def fits(self, shown: Shown) -> bool:
        try:
            return bool(shown.codec.size)
        except UserError:
            return False

    @action
    def about(self, shown: Shown) -> Answer:
        """The sliders, the most used first, and whatever else moves the picture."""
        found = shown.once("known", lambda: known(shown.codec))
        arrays = {"origin": found.origin.float().numpy(), "scale": found.scale.float().numpy()}
        return Answer(controls(shown.codec, found), arrays)

    @action
    def decode(self, shown: Shown, *, z: Vector, strengths: Strengths = {}, given: Given = NOTHING) -> Answer:  # noqa: B006
        """The picture of a code, moved along directions."""
        at = _moved(shown, z, strengths)[None]
        return Answer(arrays={"picture": shown.pictures(shown.codec.decode(at, condition(shown, given))[0])})

    @action
    def draw(
        self, shown: Shown, *, seed: Seed, count: Count = 1, temperature: Temperature = 1.0, given: Given = NOTHING
    ) -> Answer:
        """Codes drawn from the prior, [count, D], and their pictures."""
        y = condition(shown, given)
        z = _drawn(shown, seed, count, temperature, y)
        return Answer(arrays={"z": z.float().cpu().numpy(), "pictures": shown.pictures(shown.codec.decode(z, y))})

    @action
    def encode(self, shown: Shown, *, image: ImageName, given: Given = NOTHING) -> Answer:
        """The code of an image, what the model saw of it, and its reconstruction."""
        heard = Heard()
        images, lines = shown.images([image])
        y = shown.condition(images, given, heard)
        z = shown.codec.encode(images.x, y)
        said = {"given": {} if y is None else in_words(shown.run, y.cpu()), "notes": lines + heard.lines}
        pictures = {"original": images.x[0], "reconstruction": shown.codec.decode(z, y)[0]}
        arrays = {name: shown.pictures(x) for name, x in pictures.items()}
        return Answer(said, arrays | {"z": z[0].float().cpu().numpy()})

    @action
    def relabel(self, shown: Shown, *, z: Vector, own: Given, given: Given) -> Answer:
        """The code of an image of one condition as that of another, where conditions act through codes."""
        at, y, target = _vector(shown, z)[None, None], condition(shown, own), condition(shown, given)
        if y is not None and target is not None:
            at = shown.codec.relabelled(at, y, target[:, None])
        return Answer(arrays={"z": at[0, 0].float().cpu().numpy()})

    @action
    def images(self, shown: Shown, *, start: Annotated[int, Field(ge=0)] = 0, count: Count = 24) -> Answer:
        """Images of the run's own data, to begin from or to teach by."""
        return strip(shown, start, count)

    @action
    def way(
        self,
        shown: Shown,
        *,
        z: Vector,
        to: Vector,
        strengths: Strengths = {},  # noqa: B006
        to_strengths: Strengths = {},  # noqa: B006
        given: Given = NOTHING,
        frames: Annotated[int, Field(ge=2, le=120)] = 24,
        milliseconds: Annotated[int, Field(ge=20, le=2000)] = 80,
    ) -> Answer:
        """The pictures on the way from one code to another and back, as an animation: the bytes of a GIF."""
        a, b = _moved(shown, z, strengths), _moved(shown, to, to_strengths)
        if shown.codec.values is not None:
            raise UserError("these latents take whole numbers, and there is nothing between two of them")
        along = slerp if shown.codec.sphere else lerp
        path = along(a.cpu(), b.cpu(), torch.linspace(0, 1, frames)).to(a)
        x = shown.pictures(shown.codec.decode(path, condition(shown, given)))
        there_and_back = [*x, *x[-2:0:-1]]
        return Answer(arrays={"gif": np.frombuffer(gif(there_and_back, milliseconds), np.uint8)})

    @action
    def teach(self, shown: Shown, *, name: Name, positive: Picked, negative: Picked) -> Answer:
        """Learn a direction from picked images, and store it in the run as `lowerbound direction` does."""
        check_name(name)
        if name in shown.codec.directions:
            raise UserError(f"there is a direction {name!r} already; choose another name")
        if both := set(positive) & set(negative):
            raise UserError(f"{min(both)} is on both sides; an image can't be")
        heard = Heard()
        images, _ = shown.images([*positive, *negative])
        z = shown.codec.encode(images.x, shown.condition(images, NOTHING, heard)).double().cpu().numpy()
        step = learn(z, np.arange(len(z)) < len(positive))
        report = {
            "name": name,
            "method": "means",
            "learnt_from": f"{len(positive)} against {len(negative)} images picked on the page",
            "orthogonal_to": [],
            "distance": float(np.linalg.norm(step)),
            "train": {"positive": len(positive), "negative": len(negative)},
            "held_out": {"positive": 0, "negative": 0},
            "auroc": {"value": None, "stderr": None, "interval": None},
            "redrawn": None,
            "leakage": {"directions": {}, "attributes": {}},
        }
        shown.run.save_direction(Direction(name, as_step(step), report), shown.model)
        return Answer({"directions": directions(shown.codec)})


# ---- codes


def _vector(shown: Shown, z: Sequence[float]) -> Tensor:
    """[D], as the model takes it. Raises UserError for another length, or values that there are not."""
    editor = shown.codec
    if len(z) != editor.size:
        raise UserError(f"the code has {len(z)} numbers; {shown.name} has {editor.size}")
    at = torch.tensor(z, dtype=torch.float64)
    if editor.values is not None:
        at = at.round()
        if bool(((at < 0) | (at >= editor.values)).any()):
            raise UserError(f"a latent of {shown.name} takes a whole number from 0 to {editor.values - 1}")
        assert isinstance(editor.model, LatentModel)
        return at.to(shown.device, editor.model.latents[0].dtype)
    return at.to(shown.device)


def _moved(shown: Shown, z: Sequence[float], strengths: dict[str, float]) -> Tensor:
    at = _vector(shown, z)
    return shifted(at, strengths, shown.codec.directions) if strengths else at


def _drawn(shown: Shown, seed: int, n: int, temperature: float, y: Tensor | None) -> Tensor:
    """[n, D]."""
    model = shown.model
    with seeded(seed, "sample", quick=True):
        if isinstance(model, LatentModel):
            given = None if y is None else y.expand(n, *y.shape[1:])
            levels = model.draw_latents(n, given, Draw(temperature))
            return torch.cat([level.flatten(1) for level in levels], 1)
        return temperature * randn((n, shown.codec.size), device=shown.device)

"""Noise taken away step by step; and images with noise put on them, and taken away again."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Annotated, Any, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from lowerbound.config import components
from lowerbound.editing.controls import conditions, in_words
from lowerbound.errors import ModelError, UserError
from lowerbound.explorer.conditions import condition
from lowerbound.explorer.films import gif
from lowerbound.explorer.messages import Answer
from lowerbound.explorer.panels.base import Finite, Given, ImageName, Name, Panel, Seed, action
from lowerbound.explorer.shelf import Heard, Shown
from lowerbound.explorer.strips import strip
from lowerbound.model import Diffusing, Draw, Model, Moment, Refittable
from lowerbound.noise import stream
from lowerbound.runs.conditions import NOTHING, Asked
from lowerbound.schedules import Sampler
from lowerbound.verbs.sample import sampler_named

MOST = 1000  # steps
KEPT = 250  # steps whose pictures are sent; of more, every so many
FILM = 60  # pictures of a film
HELD = 12  # times that it shows the last

Count = Annotated[int, Field(ge=1, le=64)]
Time = Annotated[Finite, Field(ge=0, le=1)]


class How(BaseModel):
    """How noise is taken away."""

    model_config = ConfigDict(extra="forbid")

    seed: Seed = 0
    draws: Annotated[int, Field(ge=1, le=8)] = 1
    steps: Annotated[int, Field(ge=1, le=MOST)] | None = None  # of the whole way; None: as many as the model has
    sampler: Name | None = None
    guidance: Annotated[Finite, Field(ge=0, le=100)] | None = None
    temperature: Annotated[Finite, Field(ge=0, le=10)] = 1.0

    def draw(self, model: Diffusing) -> Draw:
        """Raises UserError for a sampler that there is not."""
        sampler = None if self.sampler is None else sampler_named(self.sampler, "sampler")
        steps = self.steps or len(model.gammas()) - 1
        return Draw(self.temperature, sampler=sampler, steps=steps, guidance=self.guidance)


class Way(NamedTuple):
    """Draws on their way out of noise."""

    moments: Iterator[Moment]
    steps: int  # that are left
    y: Tensor | None  # what each is given
    said: dict[str, Any]
    arrays: dict[str, np.ndarray]  # the image, where there is one


class Diffusion(Panel):
    """For models that take normal noise away step by step: of pixels, or of latents, as the prior of a VAE."""

    title = "Diffusion"
    place = 60

    def fits(self, shown: Shown) -> bool:
        return shown.is_a(Diffusing, Refittable) and _is_shown(shown.model)

    @action
    def about(self, shown: Shown) -> Answer:
        """The samplers and steps that there are, what the model is given, and log SNR at 101 times from 0 to 1."""
        model = _diffusing(shown)
        said = {
            "steps": len(model.gammas()) - 1,
            "most": MOST,
            "samplers": sorted(kind.__name__ for kind in components(Sampler)),
            "guided": _is_guided(model),
            "latent": model is not shown.model,
            **conditions(shown.run, shown.model),
        }
        return Answer(said, {"log_snr": -model.gammas(100).flip(0).float().cpu().numpy()})

    @action
    def denoise(
        self, shown: Shown, *, how: How, image: ImageName | None = None, t: Time = 0.5, given: Given = NOTHING
    ) -> Iterator[Answer | None]:
        """Draws of the model on their way out of noise; of an image: with the noise of time t on it, and taken away.

        Each answer is of one time: how far it is, t and the logarithm of the signal-to-noise ratio; z_t, and what the
        model sees in it, uint8 [draws, H, W, C] each. The first has what is given, and the image as the model sees it.
        """
        way = _way(shown, how, image, t, given)
        yield Answer(way.said, way.arrays)
        for i, moment in enumerate(way.moments):
            said = {"i": i, "of": way.steps, "t": moment.t, "log_snr": -moment.gamma}
            yield Answer(said, _pictures(shown, moment, way.y) if _is_kept(i, way.steps, KEPT) else {})

    @action
    def film(
        self, shown: Shown, *, how: How, image: ImageName | None = None, t: Time = 0.5, given: Given = NOTHING
    ) -> Answer:
        """The same of the first draw as a film, z_t on the left: the bytes of a GIF."""
        way, frames = _way(shown, how, image, t, given), []
        for i, moment in enumerate(way.moments):
            if _is_kept(i, way.steps, FILM):
                seen = _pictures(shown, moment, way.y)
                frames.append(np.concatenate([seen["z"][0], seen["x"][0]], 1))
        return Answer(arrays={"gif": np.frombuffer(gif([*frames, *frames[-1:] * HELD], 80), np.uint8)})

    @action
    def images(self, shown: Shown, *, start: Annotated[int, Field(ge=0)] = 0, count: Count = 24) -> Answer:
        """Images of the run's own data, to begin from."""
        return strip(shown, start, count)


def _of(model: Model) -> Model:
    """The model, or the prior of one with latents."""
    return model.prior if isinstance(model, Refittable) else model


def _is_shown(model: Model) -> bool:
    return isinstance(_of(model), Diffusing) and len(model.space.shape) == 3


def _diffusing(shown: Shown) -> Diffusing:
    """Raises UserError for another model."""
    model = _of(shown.model)
    if not isinstance(model, Diffusing) or not _is_shown(shown.model):
        raise UserError(f"{shown.name} takes no noise away from images, nor from their latents")
    return model


def _is_guided(model: Diffusing) -> bool:
    try:
        model.check_how(Draw(guidance=2.0))
    except ModelError:
        return False
    return True


def _way(shown: Shown, how: How, image: str | None, t: float, given: Asked) -> Way:
    """What `sample`, or of an image `edit --strength`, draws, by the same noise. Raises UserError."""
    model = _diffusing(shown)
    draw, n = how.draw(model), how.draws
    steps, noise = draw.steps or 0, stream(how.seed, "sample" if image is None else "edit")
    if image is None:
        y, said, arrays = condition(shown, given), {}, {}
        each = _each(y, n)
        with noise():
            moments = model.drawing(n, each if model.given else None, draw)
    else:
        heard = Heard()
        shown.run.check_asked(given)
        images, lines = shown.images([image])
        y = shown.condition(images, given, heard)
        each, x = _each(y, n), images.x
        said, arrays = {"notes": lines + heard.lines}, {"original": shown.pictures(x[0])}
        if isinstance(shown.model, Refittable):
            (x,) = shown.model.centers(x, y)
        with noise():
            moments = model.redoing(x.expand(n, *x.shape[1:]), each if model.given else None, t, draw)
        steps = round(t * steps)
    said |= {"given": in_words(shown.run, None if y is None else y.cpu())}
    return Way(_drawn(moments, noise), steps, each, said, arrays)


def _each(y: Tensor | None, n: int) -> Tensor | None:
    return None if y is None else y.expand(n, *y.shape[1:])


def _drawn(moments: Iterator[Moment], noise: Callable[[], AbstractContextManager[None]]) -> Iterator[Moment]:
    """One after another, each perhaps in another thread, by one stream of noise."""
    while True:
        with noise():
            moment = next(moments, None)
        if moment is None:
            return
        yield moment


def _is_kept(i: int, of: int, most: int) -> bool:
    return i % max(1, -(-of // most)) == 0 or i == of


def _pictures(shown: Shown, moment: Moment, y: Tensor | None) -> dict[str, np.ndarray]:
    """z_t and what is seen in it, uint8 [draws, H, W, C]; latents are decoded."""
    found = {"z": _diffusing(shown).in_values(moment.z), "x": moment.x}
    if isinstance(shown.model, Refittable):
        found = {name: shown.model.likelihood((z,), y).mean for name, z in found.items()}
    return {name: shown.pictures(x) for name, x in found.items()}

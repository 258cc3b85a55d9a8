"""The pictures of a run."""

import time
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lowerbound import pictures
from lowerbound.data.batches import Batch, Batches
from lowerbound.model import Chained, Draw, LatentModel, Model, Viewing, rows_of
from lowerbound.noise import key, seeded
from lowerbound.progress import Progress
from lowerbound.runs.inputs import Held
from lowerbound.runs.run import Run
from lowerbound.sampling import completion, drawing, scenes
from lowerbound.sampling.drawing import to_device
from lowerbound.space import Y
from lowerbound.stages import Stage

MOST_FILTERS = 100
MOST_ROWS = 8  # of a picture of reconstructions from more and more levels
CHAINS, STATES = 8, 16  # of a picture of Markov chains


@torch.no_grad()
def draw_samples(
    run: Run, model: Model, n: int = 64, progress: Progress | None = None, *, valid: Batches | None = None
) -> None:
    """samples.png, and samples_mean.png for the same latents; labels by their frequencies. Of a model of views, which
    are those of valid images: the same scenes in both.

    Fewer than n of a model that would take long.
    """
    if isinstance(model, Viewing) and valid is not None:
        return draw_scenes(run, model, valid, progress)
    n, levels = drawing.affordable(model, n), model.space.levels or 256
    y = run.condition(n)
    drawn = drawing.draw(model, n, y, progress=progress)
    pictures.save_png(pictures.grid(drawn.x.numpy(), levels), run.picture("samples.png"))
    if isinstance(model, LatentModel) and model.draws_pixels:
        z = tuple(part.to(model.device) for part in drawn.z)
        mean = model.render(z, to_device(y, model.device), mean=True).cpu()
        pictures.save_png(pictures.grid(mean.numpy(), levels), run.picture("samples_mean.png"))


def draw_scenes(run: Run, model: Viewing, valid: Batches, progress: Progress | None = None) -> None:
    """samples.png: a scene in each row, given one view more; samples_mean.png: means of p(x|z) of other draws."""
    assert valid.views is not None
    number = scenes.in_turn(model, min(model.context_views + 1, len(valid.views)))
    for name, how in (("samples.png", Draw()), ("samples_mean.png", Draw(mean=True))):
        drawn = scenes.draw(model, valid, number, how=how, progress=progress)
        pictures.save_png(pictures.table_picture(drawn.table()), run.picture(name))


def draw_chains(run: Run, model: Chained) -> None:
    """chain.png: a chain in each row, its states one after another, from that on which would be drawn."""
    y = drawing.to_device(run.condition(CHAINS), model.device)
    states = model.chain(CHAINS, STATES, y).flatten(0, 1).cpu().numpy()
    pictures.save_png(pictures.grid(states, model.space.levels or 256, columns=STATES), run.picture("chain.png"))


@torch.no_grad()
def draw_reconstructions(run: Run, model: LatentModel, batch: Batch) -> None:
    """reconstructions.png: images above their reconstructions; of several levels of codes, those from the coarsest
    alone, from the two coarsest, ..."""
    x, levels = batch.x.cpu().numpy(), model.space.levels or 256
    if len(model.levels) > 1:
        first = torch.arange(len(batch.x))[:8]
        picture = pictures.table_picture(by_levels(model, batch.x[:8], rows_of(batch.y, first)))
    else:
        picture = pictures.pairs(x, model.reconstruct(batch.x, batch.y).cpu().numpy(), levels)
    pictures.save_png(picture, run.picture("reconstructions.png"))


def by_levels(model: LatentModel, x: Tensor, y: Y = None) -> pictures.Table:
    """Images in a row, and under them their reconstructions from more and more levels."""
    L = len(model.levels)
    used = [model.levels[: l + 1] for l in sorted({round(l) for l in np.linspace(0, L - 1, min(L, MOST_ROWS))})]
    parts = (model.reconstruct(x, y, names) for names in used)
    shown = torch.stack([x.to(torch.float32), *parts])  # [1 + L, B, C, H, W]
    rows = ("original", f"{used[0][0]} alone", *(_from_to(names) for names in used[1:]))
    return pictures.Table(shown.cpu().numpy(), model.space.levels or 256, rows=rows)


def _from_to(names: Sequence[str]) -> str:
    return " + ".join(names) if len(names) <= 3 else f"{names[0]} to {names[-1]}"


def draw_completions(held: Held, progress: Progress | None = None) -> None:
    """completions.png: of eight validation images the upper half is kept, and the rest drawn a few times.

    Of models that are slow to draw there are fewer: no more images are drawn than samples.
    """
    model = held.model
    most = drawing.affordable(model)
    batch = next(held.valid.in_order(min(8, most)))
    n = max(1, most // 10)
    mask = completion.rows_kept(0.5, model.space.shape[-2:])
    y = None if batch.y is None else torch.stack([batch.y] * n, 1)
    drawn = completion.complete(model, batch.x, mask, n, y, progress=progress)
    done = completion.Completion(
        batch.x.cpu().numpy(), mask.numpy(), drawing.pixels(drawn.x), model.space.levels or 256
    )
    done.save(held.run.picture("completions.png"))


def draw_filters(run: Run, filters: Tensor) -> None:
    """filters.png: the weights [units, C, H, W] of the first units; 0 is grey, the largest of all white, or black."""
    some = filters[:MOST_FILTERS].double().cpu().numpy()
    shown = 127.5 * (1 + some / max(1e-12, np.abs(some).max()))
    pictures.save_png(pictures.grid(shown), run.picture("filters.png"))


def draw_pictures(held: Held, progress: Progress | None = None) -> None:
    """Everything in pictures/: samples, their means, Markov chains, reconstructions, completions, the manifold where z
    is a plane, filters, curves."""
    run, model = held.run, held.model
    if model.can_sample:
        with seeded(run.recipe.seed, "pictures"):
            draw_samples(run, model, progress=progress, valid=held.valid)
            if isinstance(model, Chained):
                draw_chains(run, model)
            if model.passes:
                draw_completions(held, progress)
    if isinstance(model, LatentModel):
        draw_reconstructions(run, model, next(held.valid.in_order(16)))
        if model.is_plane:
            pictures.save_png(_manifold(model), run.picture("manifold.png"))
    if model.filters is not None and len(model.space.shape) == 3:
        draw_filters(run, model.filters)
    if records := list(run.log.records()):
        pictures.curves(records, run.picture("curves.png"))


def _manifold(model: LatentModel) -> np.ndarray:
    @torch.no_grad()
    def decode_mean(z: np.ndarray) -> np.ndarray:
        return model.decode(torch.from_numpy(z).float().to(model.device)).mean.cpu().numpy()

    return pictures.manifold(decode_mean, levels=model.space.levels or 256)


class Live:
    """Pictures in the middle of a training: samples of the weights so far, or where there are none, reconstructions.

    Of a model that is slow to draw there are fewer, and they take no more than SHARE of the time.
    """

    SHARE = 0.05

    def __init__(self, run: Run, valid: Batches):
        self.run, self.valid = run, valid
        self.begun, self.drawing = time.monotonic(), 0.0

    def __call__(self, model: Model, stage: Stage) -> None:
        slow, begun = model.cost > 0, time.monotonic()
        if len(model.space.shape) != 3 or self.drawing > self.SHARE * (begun - self.begun):
            return
        with seeded(key(self.run.recipe.seed, stage.name), "pictures"):
            if model.can_sample and (not slow or self._is_quick(model)):
                draw_samples(self.run, model, 16 if slow else 64, valid=self.valid)
            elif model.levels and isinstance(model, LatentModel) and stage.prepare is None:
                draw_reconstructions(self.run, model, next(self.valid.in_order(16)))
        self.drawing += time.monotonic() - begun if slow else 0.0

    def _is_quick(self, model: Model) -> bool:
        """Whether samples take seconds."""
        return self.valid.device.type != "cpu" or drawing.affordable(model, 16, least=0) > 0

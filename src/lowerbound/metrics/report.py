"""What `evaluate` reports of a run, and what follows a training reports too."""

import math
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import torch

from lowerbound.chunks import Advance
from lowerbound.data.base import Images
from lowerbound.errors import ModelError
from lowerbound.metrics.base import World, check_names, measure
from lowerbound.parallel import ALONE, part_of, team, together
from lowerbound.progress import Progress
from lowerbound.runs.inputs import Held, as_batches, open_data
from lowerbound.runs.run import Run, weights_code
from lowerbound.sampling.sheets import draw_pictures

FEW = 4  # draws of a bound that are averaged, in the short evaluation after a training
LEAST = {  # whole numbers among the options
    "draws": 1,
    "limit": 1,
    "samples": 2,
    "extractor_size": 2,
    "seeds": 1,
    "temperatures": 1,
    "chains": 1,
    "refinement": 0,
}


def evaluated(
    run: Run,
    *,
    data: str | None = None,
    split: str = "test",
    metrics: Sequence[str] | None = None,
    limit: int | None = None,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure a run on a split: the report of `evaluate --json`. One of all images and all metrics is saved in the run.

    data: a data set in the place of the run's own.
    metrics: names of metrics; None: all that apply and are not costly. limit: only the first so many images.
    options: fields of metrics, such as draws; None for what they have by default.

    Raises ConfigError for an unknown metric or option, ModelError for a metric that the model does not have.
    """
    options = {k: v for k, v in {**(options or {}), "limit": limit}.items() if v is not None}
    progress = progress or Progress()
    for name, value, least in ((k, options[k], LEAST[k]) for k in LEAST if k in options):
        if value < least:
            raise ModelError(f"--{name.replace('_', '-')} {value}: expected a whole number of at least {least}")
    if not 0 < (sigma := options.get("sigma", 1.0)) < math.inf:
        raise ModelError(f"--sigma {sigma:g}: expected a number above 0, a share of the range of pixels")
    check_names(metrics or ())
    model, images = run.load(device), open_data(run, split, data, progress)
    images = images if limit is None else images.head(limit)
    batches = as_batches(run, images, torch.device(device))
    world = World(model, batches, run, data, seed, progress, _counter(progress, images))
    return _report(run, world, metrics, options, save=limit is None and metrics is None and team().first)


def _report(
    run: Run, world: World, metrics: Sequence[str] | None, options: Mapping[str, Any], *, save: bool
) -> dict[str, Any]:
    """What is measured in a world, and of what; save: keep it in the run."""
    images, values = world.images, measure(world, names=metrics, options=options)
    report = {
        "run": str(run.path),
        "model": run.recipe.model.type_name(),
        "seed": world.seed,
        "version": version("lowerbound"),
        "data": {
            "name": images.name,
            "split": images.split,
            "n": len(images),
            "shape": list(run.facts.shape),
            "levels": run.facts.levels,
            "binarization": run.facts.binarization,
        },
        "metrics": {name: value.entry() for name, value in values.items()},
    }
    if save:
        detail = {name: report["metrics"][name] | (value.detail or {}) for name, value in values.items()}
        each = {name: value.each for name, value in values.items() if value.each is not None}
        more = {"metrics": detail, "fingerprint": images.fingerprint, "weights": weights_code(world.model)}
        run.save_evaluation(report | more, each)
    return report


def _counter(progress: Progress, images: Images) -> Advance:
    """Told of images by pass after pass over all of them, or those that are this process's."""
    told, done, own = progress.count("measuring"), 0, max(1, part_of(len(images)).n)

    def advance(n: int) -> None:
        nonlocal done
        done = done % own + n
        told(done, own)

    return advance


def finish(held: Held, progress: Progress | None = None) -> dict[str, Any]:
    """What follows a training: all pictures, and a short evaluation on valid, which is returned.

    Short: 50 draws of MNIST's size, fewer of larger images, and FEW where they are only averaged.
    """
    progress = progress or Progress()
    if team().first:
        with together(ALONE):
            draw_pictures(held, progress)
    images = held.valid.images
    world = World(held.model, held.valid, held.run, progress=progress, advance=_counter(progress, images))
    draws = short_draws(held.run, images)
    options = {"draws": draws if held.model.unbiased else min(draws, FEW)}
    return _report(held.run, world, None, options, save=team().first)


def short_draws(run: Run, images: Images) -> int:
    """The draws of the short evaluation after a training."""
    return max(1, min(50, 2 * 10**8 // (len(images) * run.facts.space.dims)))

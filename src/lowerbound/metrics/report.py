"""The report of an evaluation, and what follows a training."""

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import torch

from lowerbound.chunks import Advance
from lowerbound.data.base import Images
from lowerbound.errors import ModelError
from lowerbound.metrics import samples
from lowerbound.metrics.base import Value, base, check_names, measure
from lowerbound.metrics.judge import Protocol
from lowerbound.progress import Progress
from lowerbound.runs.inputs import as_batches, open_data
from lowerbound.runs.run import Run
from lowerbound.sampling.sheets import draw_pictures


def evaluated(
    run: Run,
    *,
    data: str | None = None,
    split: str = "test",
    metrics: Sequence[str] | None = None,
    draws: int = 500,
    limit: int | None = None,
    protocol: Protocol | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure a run on a split: the report of `evaluate --json`. A full one is saved in the run.

    metrics: names of metrics; None: all that apply, but for those of sample quality (`samples.NAMES`), which take long.
    protocol: how sample quality is measured.

    Raises ConfigError for an unknown metric, ModelError for one that the model does not have.
    """
    progress = progress or Progress()
    if draws < 1 or (limit is not None and limit < 1):
        raise ModelError(f"{'--draws' if draws < 1 else '--limit'}: expected a whole number of at least 1")
    check_names(metrics or (), samples.NAMES)
    model = run.load(device)
    images = open_data(run, split, data, progress)
    judged = [name for name in metrics or () if base(name) in samples.NAMES]
    others = None if metrics is None else [name for name in metrics if name not in judged]
    values: dict[str, Value] = {}
    if others is None or others:
        values |= measure(
            model,
            as_batches(run, images, torch.device(device)),
            names=others,
            options={"draws": draws},
            seed=seed,
            limit=limit,
            advance=_counter(progress, images),
        )
    if judged:
        part = images if limit is None else images.head(limit)
        protocol = protocol or Protocol()
        values |= samples.measure(
            run, model, part, judged, protocol, data=data, seed=seed, device=device, progress=progress
        )
    report = {
        "run": str(run.path),
        "model": run.recipe.model.type_name(),
        "seed": seed,
        "version": version("lowerbound"),
        "data": {
            "name": images.name,
            "split": split,
            "n": len(images) if limit is None else min(limit, len(images)),
            "shape": list(run.facts.shape),
            "levels": run.facts.levels,
            "binarization": run.facts.binarization,
        },
        "metrics": {name: _entry(run, name, value) for name, value in values.items()},
    }
    if limit is None and metrics is None:
        detail = {n: report["metrics"][n] | (v.detail or {}) for n, v in values.items()}
        run.save_evaluation(report | {"metrics": detail}, {n: v.each for n, v in values.items() if v.each is not None})
    return report


_LIKELIHOODS = ("elbo", "nll", "bits_per_dim", "kl", "distortion", "bits_per_code", "rate")


def _entry(run: Run, name: str, value: Value) -> dict[str, Any]:
    if value.value is None:
        return {"value": None, "relation": value.relation}
    return value.entry() | ({"given": "label"} if run.recipe.data.label and base(name) in _LIKELIHOODS else {})


def _counter(progress: Progress, images: Images) -> Advance:
    told, done = progress.count("measuring"), 0

    def advance(n: int) -> None:
        nonlocal done
        done = done % len(images) + n
        told(done, len(images))

    return advance


def finish(run: Run, *, device: torch.device | str = "cpu", progress: Progress | None = None) -> dict[str, Any]:
    """What follows a training: all pictures, and a short evaluation on valid, which is returned.

    Short: 50 draws of MNIST's size, fewer of larger images.
    """
    draw_pictures(run, device, progress)
    draws = short_draws(run, open_data(run, "valid"))
    return evaluated(run, split="valid", draws=draws, device=device, progress=progress)


def short_draws(run: Run, images: Images) -> int:
    """The draws of the short evaluation after a training."""
    return max(1, min(50, 2 * 10**8 // (len(images) * run.facts.space.dims)))

"""What is wrong with a run: `lowerbound doctor`. A file for each thing measures it and judges it."""

from importlib.metadata import version
from typing import Any

import torch

from lowerbound.progress import Progress
from lowerbound.runs.run import Run
from lowerbound.verbs.doctor import (
    codes,
    labels,
    latents,
    likelihoods,
    networks,
    pixels,
    reconstructions,
    samples,
    training,
    weights,
)
from lowerbound.verbs.doctor.check import Check
from lowerbound.verbs.doctor.examined import Examined


def doctor(
    run: Run,
    *,
    data: str | None = None,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """What is wrong with a run, and what was looked at: the report of `doctor --json`.

    Its log and its states are read, and some images of train and valid measured, evenly spaced over their split.
    A finding has a name (part.what), a severity (problem: the run does not do its work; advice: it could do better),
    a message, a remedy, and the value that is beyond a threshold. Nothing is written.

    Args:
        data: measure on this data set; None: the run's own.

    Raises RunError or DataError where there is no such run, or no such data.
    """
    where = torch.device(device)
    checks = training.checks(run)
    model, found = weights.loaded(run, where)
    checks += found
    looked: dict[str, int] = {}
    if model is not None:
        examined = Examined.of(run, model, data, where, progress or Progress())
        looked = {"train": len(examined.train), "valid": len(examined.valid)}
        checks += examine(examined)
    return {
        "run": str(run.path),
        "model": run.recipe.model.type_name(),
        "version": version("lowerbound"),
        "data": {"name": run.facts.name if data is None else data, "images": looked},
        "findings": [_finding(check) for check in checks if check.wrong],
        "checked": [{"name": c.name, "value": float(c.value), "threshold": float(c.threshold)} for c in checks],
    }


@torch.no_grad()
def examine(e: Examined) -> list[Check]:
    """What the images say of a model: every check that its kind has."""
    with networks.watched(e.model) as active:
        asked = [*likelihoods.checks(e), *labels.checks(e), *latents.checks(e), *reconstructions.checks(e)]
    return [*pixels.checks(e), *asked, *networks.checks(active), *samples.checks(e), *codes.checks(e)]


def _finding(check: Check) -> dict[str, Any]:
    numbers = {"value": float(check.value), "threshold": float(check.threshold)}
    return {k: v for k, v in check._asdict().items() if k != "wrong"} | numbers

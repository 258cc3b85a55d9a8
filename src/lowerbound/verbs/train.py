"""Train a recipe."""

from typing import Any

import torch

from lowerbound.data.base import Images
from lowerbound.progress import Progress
from lowerbound.runs.inputs import open_data
from lowerbound.runs.run import Run
from lowerbound.sampling.sheets import draw_pictures
from lowerbound.verbs.evaluate import evaluate


def finish(run: Run, *, device: torch.device | str = "cpu", progress: Progress | None = None) -> dict[str, Any]:
    """What follows a training: all pictures, and a short evaluation on valid, which is returned.

    Short: 50 draws of MNIST's size, fewer of larger images.
    """
    draw_pictures(run, device, progress)
    draws = short_draws(run, open_data(run, "valid"))
    return evaluate(run, split="valid", draws=draws, device=device, progress=progress)


def short_draws(run: Run, images: Images) -> int:
    """The draws of the short evaluation after a training."""
    return max(1, min(50, 2 * 10**8 // (len(images) * run.facts.space.dims)))

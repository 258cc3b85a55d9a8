"""How good the samples of each run are, by one extractor, and what else it can be asked."""

from typing import Any

import torch

from lowerbound.editing.latents import codec
from lowerbound.errors import ModelError
from lowerbound.metrics.base import World, measure
from lowerbound.model import LatentModel, Model, Viewing
from lowerbound.progress import Progress
from lowerbound.space import Density
from lowerbound.verbs.compare.entries import Entry, Terms

NAMES = ("frechet", "precision", "recall")


def quality(entry: Entry, terms: Terms, progress: Progress) -> dict[str, Any] | None:
    """Fréchet distance, precision and recall of samples, each with what real images get (NAME.real), as `evaluate`
    reports them; None where they are not asked for, or nothing can be drawn."""
    if not terms.quality or not entry.model.can_sample or isinstance(entry.model, Viewing):
        return None
    progress.say(f"{entry.run.place}: drawing samples to be compared with images")
    world = World(entry.model, entry.batches.head(terms.limit), entry.run, terms.data, terms.seed, progress)
    try:
        found = measure(world, names=NAMES, options={"extractor": terms.extractor})
    except ModelError as e:
        raise ModelError(f"{entry.run.place}: {e}") from None
    return {name: value.entry() for name, value in found.items()}


def answers(entry: Entry) -> list[str]:
    """What the model can be asked for, of: density, samples, code, edit, complete."""
    model = entry.model
    can = {
        "density": model.density is not Density.NONE,
        "samples": model.can_sample,
        "code": isinstance(model, LatentModel) or _edits(entry),
        "edit": _edits(entry),
        "complete": _completes(model),
    }
    return [name for name, yes in can.items() if yes]


def _edits(entry: Entry) -> bool:
    try:
        codec(entry.run)
    except ModelError:
        return False
    return True


def _completes(model: Model) -> bool:
    """Whether the lower half of an event can be drawn given the upper."""
    size = model.space.shape[-2:]
    upper = torch.zeros(size, dtype=torch.bool)
    upper[: size[0] // 2] = True
    try:
        model.keeps(upper)
    except ModelError:
        return False
    return True

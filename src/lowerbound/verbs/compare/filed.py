"""The first images as a file, by each model."""

from typing import Any

from lowerbound.errors import ModelError
from lowerbound.metrics.base import World, measure
from lowerbound.progress import Progress
from lowerbound.verbs.compare.entries import Entry, Terms


def filed(entry: Entry, terms: Terms, progress: Progress) -> dict[str, Any] | None:
    """What `evaluate --metrics file_bits` says, None where it is not asked for; of a model that makes no file `why`."""
    if not terms.file_bits:
        return None
    progress.say(f"{entry.run.path}: putting images into a file")
    world = World(entry.model, entry.batches, entry.run, terms.data, terms.seed, progress)
    options = {} if terms.limit is None else {"limit": terms.limit}
    try:
        found = measure(world, names=["file_bits"], options=options)
    except ModelError as e:
        return {"value": None, "why": str(e)}
    parts = {name.partition(".")[2]: value.entry() for name, value in found.items()}
    return parts.pop("") | parts

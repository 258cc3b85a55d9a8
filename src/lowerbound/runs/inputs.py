"""The one way to open a run's data, or other images as the run prepares them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lowerbound.data import decode
from lowerbound.data.base import Data, Images, open_images
from lowerbound.data.batches import Batches, binarized
from lowerbound.errors import ModelError, RunError, UserError
from lowerbound.model import LatentModel, Model
from lowerbound.progress import Progress
from lowerbound.runs.run import Run


def open_data(
    run: Run,
    split: str,
    source: str | None = None,
    progress: Progress | None = None,
    *,
    label: bool | None = None,
) -> Images:
    """A split of the run's data, or of other data prepared in the same way. Raises RunError where they don't fit.

    label: whether their labels must be those of the run; None: where its model is given them.
    """
    label = run.recipe.data.label if label is None else label
    changes = {"label": label} | ({} if source is None else {"source": source})
    data: Data = run.recipe.data.model_copy(update=changes)
    images = data.open(split, progress=(progress or Progress()).count("decoding"))
    facts = run.facts
    if images.shape != facts.shape or images.levels != facts.levels:
        found, wanted = f"{images.shape}, {images.levels} levels", f"{facts.shape}, {facts.levels} levels"
        raise RunError(f"{images.name} has images of {found}; {run.path} was trained on {wanted}")
    if label and images.classes != facts.classes:
        raise RunError(
            f"the classes of {images.name} are not those of {facts.name}, which {run.path} is conditioned on"
        )
    return images


def as_batches(run: Run, images: Images, device: torch.device, *, label: bool | None = None) -> Batches:
    """label: whether they are given with their labels; None: as the run's model is."""
    label = run.recipe.data.label if label is None else label
    return Batches(images, device, binarize=run.facts.binarizes, label=label)


@dataclass(frozen=True)
class Held:
    """A run, its model in eval mode, and its validation images: what is measured and shown after a training."""

    run: Run
    model: Model
    valid: Batches

    @staticmethod
    def of(run: Run, device: torch.device | str, progress: Progress | None = None) -> "Held":
        """What lies in the run's folder, opened."""
        valid = open_data(run, "valid", progress=progress)
        return Held(run, run.load(device), as_batches(run, valid, torch.device(device)))


def user_images(run: Run, paths: Sequence[str | Path], progress: Progress | None = None) -> Tensor:
    """Image files, prepared as the run's data were: uint8 [B, C, H, W]. What had to be converted is said."""
    facts = run.facts
    x = torch.from_numpy(open_images(paths, run.recipe.data, facts.shape, facts.levels))
    for path in paths:
        _tell_conversion(run, Path(path), progress or Progress())
    return binarized(x, facts.levels, np.arange(len(x))) if facts.binarizes else x


def _tell_conversion(run: Run, path: Path, progress: Progress) -> None:
    channels, height, width = run.facts.shape
    with path.open("rb") as file:
        header = decode.header(file)
    kinds = {True: "in colour", False: "grey"}
    if (header.height, header.width, header.colour) != (height, width, channels == 3):
        progress.say(
            f"{path}: {header.width}x{header.height} {kinds[header.colour]}, made {width}x{height} "
            f"{kinds[channels == 3]} as the images of {run.path} are"
        )


def open_like(run: Run, split: str, source: str | None, progress: Progress) -> Images:
    """A part of the run's data, or of others brought to the run's size and colour mode, which is said."""
    if source is None:
        return open_data(run, split, None, progress)
    channels, height, width = run.facts.shape
    try:
        return open_data(run, split, source, progress)
    except UserError as first:
        if height != width:
            raise
        data = run.recipe.data.model_copy(update={"size": height, "gray": run.recipe.data.gray or channels == 1})
        alike = Run(run.path, run.name, run.recipe.model_copy(update={"data": data}), run.facts)
        try:
            images = open_data(alike, split, source, progress)
        except UserError:
            raise first from None
    kind = "grey" if channels == 1 else "in colour"
    progress.say(f"{source}: made {width}x{height} {kind} as the images of {run.path} are")
    return images


def latent_model(run: Run, device: torch.device | str) -> LatentModel:
    """The run's model. Raises ModelError for one without latents."""
    model = run.load(device)
    if not isinstance(model, LatentModel):
        raise ModelError(f"{run.path}: {type(model).__name__} has no latent code")
    return model

"""The one way to open a run's data, or other images as the run prepares them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lowerbound.data import decode
from lowerbound.data.base import Data, check_split, is_there, open_readable
from lowerbound.data.batches import Batches, binarized
from lowerbound.data.cache import Stored
from lowerbound.data.images import Failed, Images
from lowerbound.errors import DataError, ModelError, RunError
from lowerbound.model import Invertible, LatentModel, Model
from lowerbound.progress import Progress
from lowerbound.runs.run import Run


def open_data(
    run: Run,
    split: str,
    source: str | None = None,
    progress: Progress | None = None,
    *,
    conditioned: bool = True,
) -> Images:
    """A split of the run's data, or of other data prepared in the same way. Raises RunError where they don't fit.

    Where the images of the training are others now, which may change the parts, it is said.

    conditioned: whether they must say what its model is given, where it is given labels or attributes.
    """
    facts, told = run.facts, progress or Progress()
    check_split(split)
    stored = open_all(run, source, progress, conditioned=conditioned)
    images = stored.of(split)
    if source is None and (doubt := doubt_of(run, images, stored)):
        told.say(f"{run.path}: {doubt}")
    label = conditioned and run.recipe.data.label
    if images.shape != facts.shape or images.levels != facts.levels:
        found, wanted = f"{images.shape}, {images.levels} levels", f"{facts.shape}, {facts.levels} levels"
        raise RunError(f"{images.name} has images of {found}; {run.path} was trained on {wanted}")
    if label and images.classes != facts.classes:
        raise RunError(
            f"the classes of {images.name} are not those of {facts.name}, which {run.path} is conditioned on"
        )
    if source is not None and progress is not None and images.unreadable:
        progress.say(f"{images.name}: {images.left_out()}")
    return images


def open_all(
    run: Run, source: str | None = None, progress: Progress | None = None, *, conditioned: bool = True
) -> Stored:
    """All parts of the run's data, or of other data prepared in the same way. Raises RunError where they have moved."""
    own = run.recipe.data.source
    if source is None and Path(own).is_absolute() and not is_there(own):
        raise RunError(
            f"the data of {run.path} are no longer at {own}; where they are now, say with `lowerbound train {run.name} "
            f"… --data DATA --out {run.path} --resume`"
        )
    changes = ({} if conditioned else {"label": False, "given": ()}) | ({} if source is None else {"source": source})
    data: Data = run.recipe.data.model_copy(update=changes)
    return data.whole((progress or Progress()).count("decoding"))


def doubt_of(run: Run, images: Images, stored: Stored) -> str | None:
    """What must be known of images of the run's data where the training images are others now than those it saw."""
    if images.split == "train" or run.facts.fingerprint in (None, stored.fingerprints["train"]):
        return None
    return (
        f"the images of {images.name} have changed since it was trained; where some were renamed or taken away, those "
        f"of {images.split} may be some that it was trained on"
    )


def as_batches(run: Run, images: Images, device: torch.device, *, conditioned: bool = True) -> Batches:
    """conditioned: with what the run's model is given of each."""
    conditions = run.facts.conditions(run.recipe) if conditioned else {}
    return Batches(images, device, binarize=run.facts.binarizes, **conditions)


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


@dataclass(frozen=True)
class UserImages:
    """A user's own images, those that can be read; whatever is given or made for each image goes by these alone."""

    x: Tensor  # uint8 [B, C, H, W]
    paths: tuple[str, ...]  # [B], as they were given
    failed: tuple[Failed, ...]


def user_images(
    run: Run, paths: Sequence[str | Path], progress: Progress | None = None, device: torch.device | str = "cpu"
) -> UserImages:
    """Image files, prepared as the run's data were. What had to be converted is said, and what can't be read.

    Raises DataError where none can be.
    """
    facts, told = run.facts, progress or Progress()
    opened = open_readable(paths, run.recipe.data, facts.shape, facts.levels)
    for path in dict.fromkeys(opened.paths):
        _tell_conversion(run, Path(path), told)
    for note in opened.notes:
        told.say(note)
    for failed in opened.failed:
        told.say(f"{failed}; left out")
    x = torch.from_numpy(opened.x)
    x = binarized(x, facts.levels, np.arange(len(x))) if facts.binarizes else x
    return UserImages(x.to(device), tuple(map(str, opened.paths)), opened.failed)


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
    try:
        return open_data(run, split, source, progress)
    except (DataError, RunError):
        channels, height, width = run.facts.shape
        data = run.recipe.data.model_copy(update={"size": height, "gray": channels == 1})
        if source is None or height != width or data == run.recipe.data:
            raise
        alike = Run(run.path, run.name, run.recipe.model_copy(update={"data": data}), run.facts)
        images = open_data(alike, split, source, progress)
    kind = "grey" if channels == 1 else "in colour"
    progress.say(f"{source}: made {width}x{height} {kind} as the images of {run.path} are")
    return images


def code_model(run: Run, device: torch.device | str) -> LatentModel | Invertible:
    """The run's model, that makes a code of an image and an image of a code. Raises ModelError for one that doesn't."""
    model = run.load(device)
    return model if isinstance(model, Invertible) else latent_model(run, device)


def latent_model(run: Run, device: torch.device | str) -> LatentModel:
    """The run's model. Raises ModelError for one without latents."""
    model = run.load(device)
    if isinstance(model, Invertible):
        raise ModelError(
            f"{run.path}: {type(model).__name__} has no latent code of few numbers: an image's is as large as itself; "
            "`encode`, `interpolate`, `direction` and `edit` take that"
        )
    if not isinstance(model, LatentModel):
        raise ModelError(f"{run.path}: {model.why_no_code()}")
    return model

"""The runs that are compared, and the images that all are measured on."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lowerbound.data.base import Images, check_split
from lowerbound.data.batches import Batches
from lowerbound.errors import ConfigError, RunError
from lowerbound.model import Model
from lowerbound.progress import Progress
from lowerbound.runs.inputs import doubt_of, open_all
from lowerbound.runs.run import Run

SHOWN = 64  # samples of each run at most


@dataclass(frozen=True)
class Terms:
    """What is the same for all runs."""

    data: str | None  # None: each run's own
    split: str
    limit: int | None  # only the first so many images
    draws: int  # importance-weighted, of a bound
    samples: int  # of each run, drawn at once
    seed: int
    device: torch.device
    quality: bool = False  # whether that of samples is measured
    file_bits: bool = False  # whether a file is made of the first images
    extractor: Path | None = None  # whose features it is measured in; None: principal components of pixels

    def check(self) -> None:
        """Raise ConfigError for a number that is none, and DataError for a part."""
        check_split(self.split)
        for name in ("draws", "samples", "limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"--{name} {value}: expected a whole number of at least 1")
        if self.samples > SHOWN:
            raise ConfigError(f"--samples {self.samples}: expected at most {SHOWN}")
        if self.extractor is not None and not self.quality:
            raise ConfigError(
                f"--extractor {self.extractor}: the quality of samples is measured with it; add --quality"
            )


@dataclass(frozen=True)
class Entry:
    """A run, its model, and the images it is measured on."""

    run: Run
    name: str  # in the table
    model: Model
    images: Images
    batches: Batches
    doubt: str | None  # where its data are others now than those it was trained on

    @property
    def binarization(self) -> str | None:
        return "fixed" if self.images.levels == 2 else "dynamic" if self.batches.binarize else None

    @property
    def pixels(self) -> str:
        """What it is measured on, in words."""
        how = f", {self.binarization} binarization" if self.binarization else f", {self.images.levels} levels"
        return f"{self.images.name} ({self.images.split}, {list(self.images.shape)}{how})"

    def count(self, limit: int | None) -> int:
        """How many images are measured."""
        return len(self.images) if limit is None else min(limit, len(self.images))

    def data(self, limit: int | None) -> dict[str, Any]:
        """What it is measured on, as in the report of `evaluate`."""
        images = self.images
        return {
            "name": images.name,
            "split": images.split,
            "n": self.count(limit),
            "shape": list(images.shape),
            "levels": images.levels,
            "binarization": self.binarization,
        }

    def seen(self, limit: int | None) -> Iterator[np.ndarray]:
        """The images as they are measured, binarized if they are: uint8 [B, C, H, W] each."""
        return (batch.x.cpu().numpy() for batch in self.batches.in_order(4096, limit))


def check_runs(runs: Sequence[Run]) -> None:
    """Raise RunError for a run that is given twice."""
    seen: dict[Path, Run] = {}
    for run in runs:
        place = run.path.resolve()
        if place in seen:
            raise RunError(
                f"{run.place} is given twice{'' if seen[place].place == run.place else f', {seen[place].place}'}"
            )
        seen[place] = run


def opened(runs: Sequence[Run], terms: Terms, progress: Progress) -> list[Entry]:
    """The models of runs and the images they are measured on. Raises RunError unless the pixels are the same."""
    names = [run.title for run in runs]
    names = names if len(set(names)) == len(names) else [run.place for run in runs]
    entries = [_opened(run, name, terms, progress) for run, name in zip(runs, names, strict=True)]
    codes = [_pixel_code(entry, terms.limit) for entry in entries]
    for entry, code in zip(entries, codes, strict=True):
        if code != codes[0]:
            first, other = entries[0], entry
            advice = "" if terms.data else "; --data DATA measures all on one data set"
            raise RunError(
                f"{first.run.path} is measured on {first.pixels}, and {other.run.path} on {other.pixels}: these are "
                f"not the same pixels{advice}"
            )
    return entries


def _opened(run: Run, name: str, terms: Terms, progress: Progress) -> Entry:
    """Grey images are binarized for a model of binary pixels, and binary ones given to it as they are."""
    model = run.load(terms.device)
    data, facts = run.recipe.data, run.facts
    stored = open_all(run, terms.data, progress)
    images = stored.of(terms.split)
    binarize = facts.space.levels == 2 and images.levels > 2
    if images.shape != facts.shape or (2 if binarize else images.levels) != facts.space.levels:
        found, wanted = f"{images.shape}, {images.levels} levels", f"{facts.shape}, {facts.space.levels} levels"
        raise RunError(f"{images.name} has images of {found}; {run.path} is a model of {wanted}")
    if data.label and images.classes != facts.classes:
        raise RunError(
            f"the classes of {images.name} are not those of {facts.name}, which {run.path} is conditioned on"
        )
    batches = Batches(images, terms.device, binarize=binarize, **facts.conditions(run.recipe))
    doubt = doubt_of(run, images, stored) if terms.data is None else None
    return Entry(run, name, model, images, batches, doubt)


def _pixel_code(entry: Entry, limit: int | None) -> str:
    """What tells one sequence of images from another, as they are measured: binarized, if they are."""
    digest = hashlib.blake2b(f"{list(entry.images.shape)} {entry.model.space.levels}".encode(), digest_size=16)
    for x in entry.seen(limit):
        digest.update(x.tobytes())
    return digest.hexdigest()

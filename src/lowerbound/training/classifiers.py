"""Classifiers that begin at a trained encoder, trained by the ordinary loop, in runs of their own."""

import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from lowerbound import pictures
from lowerbound.config import resolve
from lowerbound.data.base import Data, Images
from lowerbound.data.batches import Batches
from lowerbound.errors import UserError
from lowerbound.model import Classifying, LatentModel, Model
from lowerbound.noise import seeded
from lowerbound.optimization import AdamW, Cosine
from lowerbound.progress import Progress
from lowerbound.runs.facts import Facts
from lowerbound.runs.inputs import as_batches, open_data
from lowerbound.runs.recipes import About, Recipe, Training
from lowerbound.runs.run import Run
from lowerbound.space import conditions
from lowerbound.training.loop import Loop

CLASSIFIER = "models.classifier.Classifier"  # what is trained
BATCH = 128
STEPS = 400  # at least, however few images there are
EPOCHS = 2  # at least, however many
TRAINING = (
    f"AdamW, learning rate 1e-3 by half a cosine, weight decay 0.05, batches of {BATCH}, {STEPS} steps or {EPOCHS} "
    "epochs, whichever is more; the averaged weights at the end, nothing chosen by other images"
)
PROTOCOL = (
    f"{TRAINING}; the classifier begins at the encoder and the linear probe of its features, and from scratch at new "
    "weights"
)
Head = tuple[np.ndarray, np.ndarray]  # weights [classes, D] and biases [classes]


@dataclass(frozen=True)
class Tuner:
    """Trains classifiers on labelled images, prepared as a run's were."""

    run: Run
    model: LatentModel | None  # that they may begin at
    config: Classifying.Config
    data: Data
    valid: Images
    device: torch.device

    @staticmethod
    def of(run: Run, model: LatentModel, data: str | None, device: torch.device) -> "Tuner":
        """Raises ModelError for a model without an encoder network."""
        config = resolve(CLASSIFIER, Classifying.Config).of(model)
        changes = {"label": True, "binarize": run.facts.binarizes or None} | ({} if data is None else {"source": data})
        prepared = run.recipe.data.model_copy(update=changes).absolute()
        return Tuner(run, model, config, prepared, open_data(run, "valid", data), device)

    def accuracy(
        self,
        train: Images,
        test: Images,
        subset: np.ndarray,
        seed: int,
        *,
        head: Head | None = None,
        out: Path | None = None,
    ) -> float:
        """The accuracy on all test images of a classifier trained on some images; from scratch without a `head`.

        out: a folder that is to hold the classifier as a run; it appears when the training is done.
        """
        with _folder(out) as path:
            run = self.trained(path, train if len(subset) == len(train) else rows(train, subset), seed, head)
            accuracy = _accuracy(run.load(self.device), as_batches(run, test, self.device))
            if out is not None:
                pictures.curves(run.log.records(), run.picture("curves.png"))
                shutil.rmtree(path / "state")  # it began at weights that are not here: nothing could be resumed
        return accuracy

    def trained(self, path: Path, images: Images, seed: int, head: Head | None = None) -> Run:
        """A classifier of these images, as a new run; from scratch without a `head`."""
        recipe = Recipe(
            about=About(model=f"classifier, from {self.run.path.name}" if head else "classifier"),
            seed=seed,
            data=self.data,
            model=self.config,
            train=training(len(images)),
        )
        facts = Facts.of(images, recipe).model_copy(update={"fingerprint": None})  # of some of the data, or of samples
        with seeded(seed, "weights"):
            model = self.config.build(facts.space, facts.given(recipe)).to(self.device)
        if head is not None:
            assert self.model is not None
            assert isinstance(model, Classifying)
            model.begin_at(self.model, *map(torch.from_numpy, head))
        run = Run.create(path, "classifier", recipe, facts)
        batches = (as_batches(run, part, self.device) for part in (images, self.valid))
        (stage,) = model.stages()
        Loop(run, model, stage, tuple(batches), Progress(), threading.Event()).run_through()  # pyright: ignore
        return run


@torch.no_grad()
def _accuracy(model: Model, test: Batches) -> float:
    """The share of images whose label is the most probable one."""
    assert isinstance(model, Classifying)
    right = []
    for batch in test.in_order(model.rows):
        (label,) = conditions(batch.y, model.given)
        right.append((model.logits(batch.x).argmax(1) == label).double())
    return float(torch.cat(right).mean())


def training(n: int) -> Training:
    """How n images are trained on."""
    steps = max(STEPS, EPOCHS * n // BATCH)
    return Training(
        steps=steps,
        batch=min(BATCH, n),
        optimizer=AdamW(lr=1e-3, weight_decay=0.05),
        schedule=Cosine(),
        valid_every=steps,
        log_every=min(20, steps),
    )


def rows(images: Images, index: np.ndarray) -> Images:
    """These images of a split alone: copies, for an index [n] into them."""
    return images.take(index)


@contextmanager
def _folder(out: Path | None) -> Iterator[Path]:
    """A folder to work in, which is gone afterwards, or is `out` if all went well."""
    try:
        if out is not None:
            out.parent.mkdir(parents=True, exist_ok=True)
        where = tempfile.mkdtemp(prefix=".lowerbound-", dir=None if out is None else out.parent)
    except OSError as e:
        raise UserError(f"can't write {out or tempfile.gettempdir()}: {e.strerror}") from None
    try:
        yield Path(where) / "run"
        if out is not None:
            os.replace(Path(where) / "run", out)
    finally:
        shutil.rmtree(where, ignore_errors=True)

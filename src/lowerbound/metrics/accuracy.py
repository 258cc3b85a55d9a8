"""The classification accuracy score."""

import math
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field

from lowerbound.chunks import own_batches
from lowerbound.config import parse
from lowerbound.data.base import Data, Images
from lowerbound.errors import ConfigError
from lowerbound.metrics import samples
from lowerbound.metrics.base import Metric, Value, World
from lowerbound.metrics.samples import shares
from lowerbound.model import Classifying, LatentModel
from lowerbound.networks.base import Network, Shape
from lowerbound.networks.conv import Conv
from lowerbound.networks.mlp import MLP
from lowerbound.noise import key
from lowerbound.parallel import each_once, gathered
from lowerbound.runs.inputs import as_batches
from lowerbound.runs.run import Run
from lowerbound.training.classifiers import CLASSIFIER, TRAINING, Tuner, rows

MOST = 10_000  # images that a classifier is trained on


class ClassificationAccuracy(Metric):
    """The accuracy on the split's images of a classifier that was trained on samples alone (cas.samples), on
    reconstructions of training images (cas.reconstructions), on these themselves (cas.real): as many of each, with the
    same labels. With ten classes or more also whether the label is among the five most probable: cas.samples.top5.

    samples: None: as many as there are training images, at most MOST, and fewer where drawing takes long.
    seeds: so many classifiers, each of samples of its own; the error then holds what these bring to it.

    Ravuri & Vinyals (2019), Classification Accuracy Score, https://arxiv.org/abs/1905.10887
    """

    names: ClassVar[tuple[str, ...]] = ("cas",)
    suffixes: ClassVar[tuple[str, ...]] = tuple(
        f".{name}{top}" for name in ("samples", "reconstructions", "real") for top in ("", ".top5")
    )
    costly: ClassVar[bool] = True
    # of each kind that it is trained on; None: as many as there are training images
    samples: int | None = Field(default=None, ge=2)
    seeds: int = Field(default=1, ge=1)  # classifiers, each of samples of its own

    def applies(self, world: World) -> bool:
        return world.run is not None

    def __call__(self, world: World) -> dict[str, Value]:
        run = world.run
        assert run is not None
        if not run.recipe.data.label:
            raise ConfigError(
                f"cas: {run.path} is not given labels, so its samples have none; train it with data.label=true"
            )
        train = world.open("train")
        n = min(samples.count(world, self.samples, min(MOST, len(train))), len(train))
        tuner = _tuner(world, run, train)
        test = samples.pixels(world, world.images, np.arange(len(world.images)))
        recipe = samples.recipe(world) | {"samples": n, "images": len(test), "labels": "as in training"}
        recipe |= {"classifier": tuner.config.model_dump(mode="json", serialize_as_any=True), "training": TRAINING}
        recipe |= {"seeds": self.seeds, "error": _covers(self.seeds)}
        right: dict[str, list[np.ndarray]] = {}
        for seed in range(world.seed, world.seed + self.seeds):
            sets = _sets(world, train, n, seed)

            def told(i: int, seed: int = seed, sets: dict[str, Images] = sets) -> tuple[str, dict[str, np.ndarray]]:
                name = [*sets][i]
                world.progress.say(f"cas: a classifier of {n:,} images ({name})")
                model = _trained(tuner, sets[name], seed)
                return name, correct(model, test, world.images.y, tuner.device)

            for name, found in each_once(told, len(sets)):
                for suffix, each in found.items():
                    right.setdefault(f"cas.{name}{suffix}", []).append(each)
        return {name: _value(np.stack(each), recipe) for name, each in right.items()}


def _covers(seeds: int) -> str:
    """What the standard error holds."""
    if seeds == 1:
        return "of the images; not of the samples and the classifier's seed, which more seeds would show"
    return f"of the images, and of the samples and the seed by {seeds} classifiers"


def _value(right: np.ndarray, recipe: dict[str, Any]) -> Value:
    """From whether each of S classifiers is right about each of N images, 1 or 0: [S, N].

    The mean of classifiers varies by the images, var / N, and by the classifiers, whose accuracies vary on the same
    images: var / S.
    """
    S = len(right)
    by_seed = float(right.mean(1).var(ddof=1)) / S if S > 1 else 0.0
    return Value.share(right.mean(0), "of images", draws=0, also=by_seed, recipe=recipe)


# ---- what classifiers are trained on


def _sets(world: World, train: Images, n: int, seed: int) -> dict[str, Images]:
    """n samples, reconstructions and real training images, with the same labels."""
    part = rows(train, labelled(train, n, seed))
    assert part.y is not None
    sets = {"samples": samples.draw(world, n, torch.from_numpy(part.y), seed)}
    if isinstance(world.model, LatentModel):
        sets["reconstructions"] = reconstructed(world, world.model, part)
    sets["real"] = samples.pixels(world, part, np.arange(n))
    return {name: replace(part, x=x, levels=samples.levels(world)) for name, x in sets.items()}


def labelled(images: Images, n: int, seed: int) -> np.ndarray:
    """n images at random, of each class as many as in proportion: indices [n] in random order."""
    assert images.y is not None
    rng, y = np.random.default_rng(key(seed, "labelled")), np.asarray(images.y)
    counts = shares(np.bincount(y, minlength=len(images.classes or ())).tolist(), n)
    chosen = [rng.permutation(np.flatnonzero(y == c))[:k] for c, k in enumerate(counts)]
    return rng.permutation(np.concatenate(chosen))


def reconstructed(world: World, model: LatentModel, images: Images) -> np.ndarray:
    """The means of p(x|z) at the posterior means: uint8 [N, C, H, W]."""
    assert world.run is not None
    batches = own_batches(as_batches(world.run, images, world.batches.device), model.rows)
    found = [samples.shown(world, model.reconstruct(batch.x, batch.y)) for batch in batches]
    return np.concatenate(gathered(found))


# ---- classifiers


def _tuner(world: World, run: Run, train: Images) -> Tuner:
    """What trains the classifiers. Nothing is chosen by its validation images."""
    changes = {"label": run.recipe.data.label, "binarize": False, "flip": False}
    data: Data = run.recipe.data.model_copy(update=changes)
    values = {"type": CLASSIFIER, "latent": 64, "encoder": _encoder(run.facts.shape)}
    valid = replace(train.head(128), levels=samples.levels(world))
    valid = replace(valid, x=samples.pixels(world, train, np.arange(len(valid))))
    return Tuner(run, None, parse(Classifying.Config, values), data.absolute(), valid, world.batches.device)


def _encoder(shape: Shape) -> Network.Config:
    """Convolutions down to a map of at most 8 pixels, where the image can be halved so often."""
    _, H, W = shape
    halvings = max(1, math.ceil(math.log2(min(H, W) / 8)))
    if H % 2**halvings or W % 2**halvings:
        return MLP.Config()
    return Conv.Config(widths=tuple(min(256, 32 * 2**i) for i in range(halvings)))


@torch.enable_grad()
def _trained(tuner: Tuner, images: Images, seed: int) -> Classifying:
    with tempfile.TemporaryDirectory(prefix="lowerbound-") as folder:
        model = tuner.trained(Path(folder) / "run", images, seed).load(tuner.device)
    assert isinstance(model, Classifying)
    return model


def correct(model: Classifying, x: np.ndarray, y: np.ndarray | None, device: torch.device) -> dict[str, np.ndarray]:
    """Whether the label of each image is the most probable, 1 or 0: [N]; `.top5`: among the five, of ten or more."""
    assert y is not None
    label = torch.from_numpy(np.asarray(y))
    parts = torch.from_numpy(x).split(model.rows)
    ranked = torch.cat([model.logits(part.to(device)).topk(min(5, model.classes)).indices.cpu() for part in parts])
    right = (ranked == label[:, None]).double().numpy()
    return {"": right[:, 0]} | ({".top5": right.sum(1)} if model.classes >= 10 else {})

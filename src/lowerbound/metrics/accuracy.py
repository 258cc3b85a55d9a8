"""The classification accuracy score."""

import math
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from lowerbound.chunks import reconstruct, rows_at_once
from lowerbound.data.base import Data, Images
from lowerbound.errors import ConfigError
from lowerbound.metrics.base import Value
from lowerbound.metrics.judge import MOST_LABELLED, Judge, shares
from lowerbound.model import LatentModel
from lowerbound.models.classifier import Classifier
from lowerbound.networks.base import Network, Shape
from lowerbound.networks.conv import Conv
from lowerbound.networks.mlp import MLP
from lowerbound.noise import key
from lowerbound.runs.inputs import as_batches, open_data
from lowerbound.training.classifiers import TRAINING, Tuner, rows

# ---- classifiers


def _classified(judge: Judge) -> dict[str, Value]:
    """cas.samples, cas.reconstructions, cas.real: the accuracy on the split's images of a classifier that was trained
    on samples alone, on reconstructions of training images, on these themselves: as many of each, with the same labels.

    Ravuri & Vinyals (2019), Classification Accuracy Score, https://arxiv.org/abs/1905.10887
    """
    if not judge.run.recipe.data.label:
        raise ConfigError(
            f"cas: {judge.run.path} is not given labels, so its samples have none; train it with data.label=true"
        )
    train = open_data(judge.run, "train", judge.source, judge.progress)
    part = rows(train, labelled(train, min(judge.count(min(MOST_LABELLED, len(train))), len(train)), judge.seed))
    assert part.y is not None
    y = torch.from_numpy(part.y)
    sets = {"samples": judge.draw(len(y), y)}
    if isinstance(judge.model, LatentModel):
        sets["reconstructions"] = reconstructed(judge, judge.model, part)
    sets["real"] = judge.pixels(part, np.arange(len(part)))
    tuner = _tuner(judge, replace(part, x=sets["real"], levels=judge.levels).head(128))
    test = judge.pixels(judge.images, np.arange(len(judge.images)))
    recipe = judge.recipe | {"samples": len(y), "images": len(test), "labels": "as in training"}
    recipe |= {"classifier": tuner.config.model_dump(mode="json", serialize_as_any=True), "training": TRAINING}
    values: dict[str, Value] = {}
    for name, x in sets.items():
        judge.progress.say(f"cas: a classifier of {len(y):,} images ({name})")
        model = _trained(tuner, replace(part, x=x, levels=judge.levels), judge.seed)
        for suffix, right in correct(model, test, judge.images.y, judge.device).items():
            values[f"cas.{name}{suffix}"] = Value.mean(right, "of images", draws=0, recipe=recipe)
    return values


def labelled(images: Images, n: int, seed: int) -> np.ndarray:
    """n images at random, of each class as many as in proportion: indices [n] in random order."""
    assert images.y is not None
    rng, y = np.random.default_rng(key(seed, "labelled")), np.asarray(images.y)
    counts = shares(np.bincount(y, minlength=len(images.classes or ())).tolist(), n)
    chosen = [rng.permutation(np.flatnonzero(y == c))[:k] for c, k in enumerate(counts)]
    return rng.permutation(np.concatenate(chosen))


def reconstructed(judge: Judge, model: LatentModel, images: Images) -> np.ndarray:
    """The means of p(x|z) at the posterior means: uint8 [N, C, H, W]."""
    batches = as_batches(judge.run, images, judge.device).in_order(rows_at_once(model))
    return np.concatenate([judge.shown(reconstruct(model, batch.x, batch.y)) for batch in batches])


def _tuner(judge: Judge, valid: Images) -> Tuner:
    """What trains the classifiers. Nothing is chosen by `valid`."""
    changes = {"label": True, "binarize": False, "flip": False}
    data: Data = judge.run.recipe.data.model_copy(update=changes)
    config = Classifier.Config(latent=(64,), encoder=_encoder(judge.run.facts.shape))
    return Tuner(judge.run, None, config, data.absolute(), valid, judge.device)


def _encoder(shape: Shape) -> Network.Config:
    """Convolutions down to a map of at most 8 pixels, where the image can be halved so often."""
    _, H, W = shape
    halvings = max(1, math.ceil(math.log2(min(H, W) / 8)))
    if H % 2**halvings or W % 2**halvings:
        return MLP.Config()
    return Conv.Config(widths=tuple(min(256, 32 * 2**i) for i in range(halvings)))


@torch.enable_grad()
def _trained(tuner: Tuner, images: Images, seed: int) -> Classifier:
    with tempfile.TemporaryDirectory(prefix="lowerbound-") as folder:
        model = tuner.trained(Path(folder) / "run", images, seed).load(tuner.device)
    assert isinstance(model, Classifier)
    return model


def correct(model: Classifier, x: np.ndarray, y: np.ndarray | None, device: torch.device) -> dict[str, np.ndarray]:
    """Whether the label of each image is the most probable, 1 or 0: [N]; `.top5`: among the five, of ten or more."""
    assert y is not None
    label = torch.from_numpy(np.asarray(y))
    parts = torch.from_numpy(x).split(rows_at_once(model))
    ranked = torch.cat([model.logits(part.to(device)).topk(min(5, model.classes)).indices.cpu() for part in parts])
    right = (ranked == label[:, None]).double().numpy()
    return {"": right[:, 0]} | ({".top5": right.sum(1)} if model.classes >= 10 else {})

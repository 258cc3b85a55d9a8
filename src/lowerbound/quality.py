"""How good samples are: sets of them against real images, and classifiers trained on them."""

import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lowerbound import drawing, extractors
from lowerbound.data.base import Data, Images
from lowerbound.data.batches import binarized
from lowerbound.errors import ConfigError
from lowerbound.extractors import Extractor, Input
from lowerbound.finetune import TRAINING, Tuner, rows
from lowerbound.metrics.base import Value, base, rows_at_once, taken
from lowerbound.metrics.reconstruction import reconstruct
from lowerbound.metrics.samples import covered, frechet, kernel_distance
from lowerbound.models.autoregressive import Autoregressive
from lowerbound.models.base import LatentModel, Model
from lowerbound.models.classifier import Classifier
from lowerbound.networks.base import Network, Shape
from lowerbound.networks.conv import Conv
from lowerbound.networks.mlp import MLP
from lowerbound.noise import key, seeded
from lowerbound.progress import Progress
from lowerbound.run import Run
from lowerbound.verbs import as_batches, open_data

NAMES = ("frechet", "kernel", "precision", "recall", "cas")
MOST = 5000  # samples, and as many real images
MOST_LABELLED = 10_000  # images that a classifier is trained on
AFFORDABLE = 5e12  # products that drawing may take unasked: 5 to 10 minutes of a CPU core
NEIGHBOURS = 3


@dataclass(frozen=True)
class Protocol:
    """What numbers of sample quality depend on beside the model and the images.

    samples: None: as many as there are images, at most MOST, and fewer where drawing takes long.
    extractor: the run of a classifier, or a TorchScript or ONNX file; None: principal components of pixels.
    """

    samples: int | None = None
    extractor: str | Path | None = None
    input: Input = field(default_factory=Input)


def same_recipe(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Whether two entries of reports were measured alike, so that their values may stand side by side.

    How the samples were drawn belongs to the model.
    """
    first, second = ({k: v for k, v in (e.get("recipe") or {}).items() if k != "drawn"} for e in (a, b))
    return bool(first) and first == second


@dataclass(frozen=True)
class Judge:
    """A model, the images of a split that its samples are held against, and all images as `pixels` shows them.

    A latent model shows means of p(x|z), in the levels of the data as they were before any binarization; others show
    samples, in the levels of their own.
    """

    run: Run
    model: Model
    images: Images
    source: str | None  # of data other than the run's
    protocol: Protocol
    seed: int
    device: torch.device
    progress: Progress

    @property
    def means(self) -> bool:
        return isinstance(self.model, LatentModel)

    @property
    def levels(self) -> int:
        return self.images.levels if self.means else self.model.space.levels or 2

    def count(self, most: int) -> int:
        """How many samples are drawn: as asked for, or as is affordable, which is said."""
        if self.protocol.samples is not None:
            return self.protocol.samples
        n = affordable(self.model, most)
        if n < most:
            self.progress.say(f"{n:,} samples, not {most:,}, as they take long to draw; --samples draws more")
        return n

    def chosen(self, images: Images, n: int) -> np.ndarray:
        """n places of images at random, or all: [n]."""
        return np.random.default_rng(key(self.seed, "chosen", images.split)).permutation(len(images))[:n]

    def pixels(self, images: Images, index: np.ndarray) -> np.ndarray:
        """Real images: uint8 [n, C, H, W]."""
        x = np.asarray(images.x[index])
        if self.levels == images.levels:
            return x
        return binarized(torch.from_numpy(x), images.levels, index).numpy()

    def shown(self, mean: Tensor) -> np.ndarray:
        """Means of p(x|z), from 0 to the model's highest level, as pixels."""
        top = (self.model.space.levels or 2) - 1
        return (mean * ((self.levels - 1) / top)).round().to(torch.uint8).cpu().numpy()

    def draw(self, n: int, y: Tensor | None) -> np.ndarray:
        """n samples given labels y [n]: uint8 [n, C, H, W]."""
        model, told = self.model, self.progress.count("drawing samples")
        with seeded(self.seed, "quality", device=self.device):
            if isinstance(model, Autoregressive):
                return drawing.sample(model, n, y, progress=self.progress)
            drawn = []
            for part in torch.arange(n).split(rows_at_once(model)):
                given = None if y is None else y[part].to(self.device)
                if isinstance(model, LatentModel):
                    drawn.append(self.shown(model.sample_mean(len(part), given)))
                else:
                    drawn.append(model.sample(len(part), given).cpu().numpy())
                told(int(part[-1]) + 1, n)
        return np.concatenate(drawn)

    @property
    def recipe(self) -> dict[str, Any]:
        """What all numbers depend on."""
        return {
            "data": self.images.name,
            "split": self.images.split,
            "levels": self.levels,
            "drawn": "means of p(x|z), rounded" if self.means else "samples",
        }


@torch.no_grad()
def measure(
    run: Run,
    model: Model,
    images: Images,
    names: Sequence[str],
    protocol: Protocol,
    *,
    data: str | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> dict[str, Value]:
    """The named ones of NAMES (or a single value, such as cas.real), on images of a split.

    NAME.real is what real training images get in the samples' place: what a perfect model would reach.
    Raises ModelError for a model that can't be sampled, ConfigError for cas of one that is not given the label.
    """
    taken(dict.fromkeys(_VALUES, _NOTHING), names)  # raises for a name of none
    if not model.can_sample:
        model.sample(1)  # says why
    for name, n in (("samples", protocol.samples), ("extractor-size", protocol.input.size)):
        if n is not None and n < 2:
            raise ConfigError(f"--{name} {n}: expected a whole number of at least 2")
    judge = Judge(run, model, images, data, protocol, seed, torch.device(device), progress or Progress())
    kinds = [name for name in _KINDS if name in map(base, names)]
    values = _by_vectors(judge, kinds) if kinds else {}
    if "cas" in map(base, names):
        values |= _classified(judge)
    return taken(values, names)


def affordable(model: Model, most: int) -> int:
    """How many samples are drawn unasked: `most`, or fewer where parts of the model draw one position after another."""
    cost = drawing.products(model)
    return min(most, max(16, int(AFFORDABLE / cost))) if cost else most


# ---- sets of vectors


def _frechet(a: np.ndarray, real: np.ndarray) -> Value:
    return Value(frechet(a, real), None, "squared distance", "=", len(a), 0)


def _kernel(a: np.ndarray, real: np.ndarray) -> Value:
    value, stderr = kernel_distance(a, real)
    return Value(value, stderr, "squared discrepancy", "=", len(a), 0)


def _precision(a: np.ndarray, real: np.ndarray) -> Value:
    return Value.mean(covered(a, real, NEIGHBOURS).astype(float), "of samples", draws=0)


def _recall(a: np.ndarray, real: np.ndarray) -> Value:
    return Value.mean(covered(real, a, NEIGHBOURS).astype(float), "of images", draws=0)


_KINDS: dict[str, Callable[[np.ndarray, np.ndarray], Value]] = {
    "frechet": _frechet,
    "kernel": _kernel,
    "precision": _precision,
    "recall": _recall,
}


_NOTHING = Value(None, None, "", "?", 0, 0)
_VALUES = [kind + suffix for kind in _KINDS for suffix in ("", ".real")] + [
    f"cas.{name}{suffix}" for name in ("samples", "reconstructions", "real") for suffix in ("", ".top5")
]


def _by_vectors(judge: Judge, kinds: list[str]) -> dict[str, Value]:
    n = judge.count(min(MOST, len(judge.images)))
    train = open_data(judge.run, "train", judge.source, judge.progress)
    real, other = (judge.pixels(i, judge.chosen(i, n)) for i in (judge.images, train))
    if min(len(real), len(other)) < 2:
        raise ConfigError(f"{', '.join(kinds)}: expected at least 2 images of {judge.images.split} and of train")
    extractor = _extractor(judge, other)
    samples = judge.draw(n, labels(judge.run, n, judge.seed))
    vectors = extractor.vectors(real)
    recipe = judge.recipe | {"extractor": extractor.recipe, "images": len(real)}
    values = {}
    for suffix, x in (("", extractor.vectors(samples)), (".real", extractor.vectors(other))):
        for kind in kinds:
            values[kind + suffix] = _KINDS[kind](x, vectors)._replace(recipe=recipe | {"samples": len(x)})
    return {name: values[name] for kind in kinds for name in (kind, f"{kind}.real")}


def _extractor(judge: Judge, train: np.ndarray) -> Extractor:
    where = judge.protocol.extractor
    if where is None:
        return extractors.pixels(train, judge.levels)
    return extractors.opened(where, judge.protocol.input, judge.levels, judge.device)


def labels(run: Run, n: int, seed: int) -> Tensor | None:
    """n labels in the proportions of training, as near as whole numbers come, in random order: [n].

    None for a model that is not conditional.
    """
    if not run.recipe.data.label:
        return None
    assert run.facts.counts is not None
    y = np.repeat(np.arange(len(run.facts.counts)), shares(run.facts.counts, n))
    return torch.from_numpy(np.random.default_rng(key(seed, "labels")).permutation(y))


def shares(counts: Sequence[int], n: int) -> np.ndarray:
    """n divided in these proportions, the largest remainders rounded up: [K].

    Example:
        >>> shares([50, 30, 20], 6).tolist()
        [3, 2, 1]
    """
    exact = np.asarray(counts) * n / sum(counts)
    whole = np.floor(exact).astype(int)
    whole[np.argsort(whole - exact, kind="stable")[: n - whole.sum()]] += 1
    return whole


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

"""How good samples are: sets of them against real images."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from lowerbound.data.base import Images
from lowerbound.errors import ConfigError
from lowerbound.metrics import extractors
from lowerbound.metrics.accuracy import _classified
from lowerbound.metrics.base import Value, base, taken
from lowerbound.metrics.distances import covered, frechet, kernel_distance
from lowerbound.metrics.extractors import Extractor
from lowerbound.metrics.judge import MOST, Judge, Protocol, labels
from lowerbound.model import Model
from lowerbound.progress import Progress
from lowerbound.runs.inputs import open_data
from lowerbound.runs.run import Run

NAMES = ("frechet", "kernel", "precision", "recall", "cas")
NEIGHBOURS = 3


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

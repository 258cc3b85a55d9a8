"""A model and the images its samples are held against."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lowerbound.chunks import rows_at_once
from lowerbound.data.base import Images
from lowerbound.data.batches import binarized
from lowerbound.metrics.extractors import Input
from lowerbound.model import LatentModel, Model
from lowerbound.models.autoregressive import Autoregressive
from lowerbound.noise import key, seeded
from lowerbound.progress import Progress
from lowerbound.runs.run import Run
from lowerbound.sampling import drawing

MOST = 5000  # samples, and as many real images
MOST_LABELLED = 10_000  # images that a classifier is trained on
AFFORDABLE = 5e12  # products that drawing may take unasked: 5 to 10 minutes of a CPU core


@dataclass(frozen=True)
class Protocol:
    """What numbers of sample quality depend on beside the model and the images.

    samples: None: as many as there are images, at most MOST, and fewer where drawing takes long.
    extractor: the run of a classifier, or a TorchScript or ONNX file; None: principal components of pixels.
    """

    samples: int | None = None
    extractor: str | Path | None = None
    input: Input = field(default_factory=Input)


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


def affordable(model: Model, most: int) -> int:
    """How many samples are drawn unasked: `most`, or fewer where parts of the model draw one position after another."""
    cost = drawing.products(model)
    return min(most, max(16, int(AFFORDABLE / cost))) if cost else most


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

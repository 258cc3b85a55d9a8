"""Samples of a model, and real images as they are held against them: both as pixels of so many levels.

A latent model shows means of p(x|z), in the levels of the data as they were before any binarization; others show
samples, in the levels of their own.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lowerbound.data.base import Images
from lowerbound.data.batches import binarized
from lowerbound.errors import ModelError
from lowerbound.metrics.base import World
from lowerbound.model import Draw, Model
from lowerbound.noise import key, seeded
from lowerbound.runs.run import Run
from lowerbound.sampling import drawing

AFFORDABLE = 5e12  # products that drawing may take unasked: 5 to 10 minutes of a CPU core


def levels(world: World) -> int:
    """Of the pixels that samples and real images are compared in."""
    return world.images.levels if world.model.has_means else world.model.space.levels or 2


def recipe(world: World) -> dict[str, Any]:
    """What all numbers of samples depend on."""
    return {
        "data": world.images.name,
        "split": world.images.split,
        "levels": levels(world),
        "drawn": "means of p(x|z), rounded" if world.model.has_means else "samples",
    }


# ---- samples


def count(world: World, asked: int | None, most: int) -> int:
    """How many samples are drawn: as asked for, or as many as are affordable, which is said."""
    if asked is not None:
        return asked
    n = affordable(world.model, most)
    if n < most:
        world.progress.say(f"{n:,} samples, not {most:,}, as they take long to draw; --samples draws more")
    return n


def affordable(model: Model, most: int) -> int:
    """How many samples are drawn unasked: `most`, or fewer where parts of the model draw one position after another."""
    cost = model.cost
    return min(most, max(16, int(AFFORDABLE / cost))) if cost else most


def draw(world: World, n: int, y: Tensor | None, seed: int | None = None) -> np.ndarray:
    """n samples given labels y [n], by the world's seed or another: uint8 [n, C, H, W].

    Raises ModelError for a model that can't be sampled.
    """
    model, means = world.model, world.model.has_means
    if not model.can_sample:
        model.sample(1)  # says why
    with seeded(world.seed if seed is None else seed, "quality", quick=True):
        x = drawing.draw(model, n, y, Draw(mean=means), world.progress).x
    return shown(world, x) if means else x.numpy()


def shown(world: World, mean: Tensor) -> np.ndarray:
    """Means of p(x|z), from 0 to the model's highest level, as pixels."""
    top = (world.model.space.levels or 2) - 1
    return (mean * ((levels(world) - 1) / top)).round().to(torch.uint8).cpu().numpy()


def labels(run: Run, n: int, seed: int) -> Tensor | None:
    """n labels in the proportions of training, as near as whole numbers come, in random order: [n]; or the attributes
    of training images.

    None for a model that is not conditional. Raises ModelError for one of views of scenes.
    """
    if run.recipe.model.views_given():
        raise ModelError(
            f"{run.path} draws views of scenes given others, no images by themselves; measure it by "
            "--metrics view_rmse,view_psnr"
        )
    if run.facts.factors:
        return run.condition(n, seed=seed)
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


# ---- real images


def shuffled(world: World, images: Images) -> np.ndarray:
    """The places of the images in random order, the same each time: [N]."""
    return np.random.default_rng(key(world.seed, "chosen", images.split)).permutation(len(images))


def pixels(world: World, images: Images, index: np.ndarray) -> np.ndarray:
    """Real images: uint8 [n, C, H, W]."""
    x = np.asarray(images.x[index])
    if levels(world) == images.levels:
        return x
    return binarized(torch.from_numpy(x), images.levels, index).numpy()

"""A given image rendered again with other attributes, held against what the renderer makes of them."""

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from lowerbound.data.attributes import Factor, decoded, encoded
from lowerbound.data.given import factors_of, values_of
from lowerbound.data.images import Images
from lowerbound.errors import ModelError
from lowerbound.metrics.base import Metric, Value, World
from lowerbound.metrics.reconstruction import ssim
from lowerbound.model import LatentModel
from lowerbound.noise import key
from lowerbound.parallel import gathered, part_of

NEAREST = 16  # training images of which the mean is the conditional mean image


class Change(NamedTuple):
    """Attributes that are changed together."""

    name: str
    places: tuple[int, ...]  # among the factors that the model is given


class Rerender(Metric):
    """Each image encoded with its own attributes and decoded with those of another image of the split, one attribute
    changed or all of one kind (camera: those called camera_…), beside the renderer's image of them.

    psnr in dB, rmse of pixels in [0, 1], ssim; `predicted`: psnr where the image's own attributes are predicted by the
    model's head. Beside them the psnr of what needs no model: `copy`, the given image itself; `nearest`, the training
    image whose given attributes are nearest to the target's; `mean`, the mean of the NEAREST of them. Only of models
    with latents that are given attributes of rendered images.
    """

    names: ClassVar[tuple[str, ...]] = ("rerender",)
    costly: ClassVar[bool] = True
    limit: int = Field(default=500, gt=0)  # images

    def applies(self, world: World) -> bool:
        return isinstance(world.model, LatentModel) and world.run is not None and bool(world.run.facts.factors)

    def __call__(self, world: World) -> dict[str, Value]:
        scene = Scenes.of(world, self.limit)
        recipe = {"data": world.images.name, "split": world.images.split}
        found: dict[str, Value] = {}
        for change in changes(scene.factors):
            parts = gathered([scene.measured(change)] if len(scene.rows) else [])
            for name, (_, unit) in parts[0].items():
                each = np.concatenate([part[name][0] for part in parts])
                found[f"rerender.{name}.{change.name}"] = Value.mean(each, unit, recipe=recipe)
        return found


def changes(factors: Sequence[Factor]) -> list[Change]:
    """Each attribute, and those together whose names begin alike.

    Example:
        >>> names = ("camera_azimuth", "camera_distance", "size")
        >>> [c.name for c in changes([Factor(name=n) for n in names])]
        ['camera', 'camera_azimuth', 'camera_distance', 'size']
    """
    kinds: dict[str, list[int]] = {}
    for i, factor in enumerate(factors):
        kinds.setdefault(factor.name.partition("_")[0], []).append(i)
    together = [Change(name, tuple(places)) for name, places in kinds.items() if len(places) > 1]
    return together + [Change(f.name, (i,)) for i, f in enumerate(factors)]


class Scenes:
    """Images, what is known of them, and what there is of training images to hold against. rows: the images that are
    this process's."""

    def __init__(self, world: World, images: Images, known: Images, source: Any):
        assert world.run is not None
        assert isinstance(world.model, LatentModel)
        self.world, self.model, self.source = world, world.model, source
        self.factors = world.run.facts.factors
        every = factors_of(images)
        self.all = np.asarray(images.factors, np.float64)  # [N, all factors]
        self.at = [[f.name for f in every].index(f.name) for f in self.factors]
        own = part_of(len(images))
        self.rows = np.arange(own.start, own.stop)
        self.x = next(world.batches.head(len(images)).in_order(len(images))).x[own.start : own.stop]
        self.own = values_of(images, self.factors)
        self.train, self.seen_in_training = known.x, encoded(values_of(known, self.factors), self.factors)
        self.top = images.levels - 1

    @staticmethod
    def of(world: World, limit: int) -> "Scenes":
        """Raises ModelError where nobody can render the truth."""
        assert world.run is not None
        data = world.run.recipe.data
        source = (data if world.source is None else data.model_copy(update={"source": world.source})).found()
        if not source.rendered or world.batches.binarize:
            raise ModelError(
                f"rerender: {world.images.name} is not rendered, so nobody knows what its images were with other "
                "attributes; it is for models of scenes and sprites as they are"
            )
        source.contents()
        images = world.images.head(limit)
        if len(images) < 2:
            raise ModelError("rerender: the attributes are those of other images of the split, and there is one image")
        return Scenes(world, images, world.open("train"), source)

    def measured(self, change: Change) -> dict[str, tuple[np.ndarray, str]]:
        """Of each of `rows` [n]: the values by their names, with units."""
        target, truth = self.target(change)
        y, wanted = encoded(self.own[self.rows], self.factors), encoded(target, self.factors)
        made = self._made(y, wanted)
        found = {
            "psnr": (psnr(made, truth), "dB"),
            "ssim": (ssim(made, truth).numpy(), "of at most 1"),
            "rmse": ((made - truth).square().flatten(1).mean(1).sqrt().numpy(), "of 1"),
        }
        if (seen := self.model.predicted_condition(self.x)) is not None:
            told = decoded(seen, self.factors)
            own, told[:, change.places] = encoded(told, self.factors), target[:, change.places]
            found["predicted"] = psnr(self._made(own, encoded(told, self.factors)), truth), "dB"
        near = torch.cdist(wanted, self.seen_in_training).topk(min(NEAREST, len(self.train)), largest=False).indices
        others = [torch.from_numpy(np.asarray(self.train[i])).double() / self.top for i in near.numpy()]
        baselines = {
            "copy": self.x.cpu().double() / self.top,
            "nearest": torch.stack([x[0] for x in others]),
            "mean": torch.stack([x.mean(0) for x in others]),
        }
        return found | {name: (psnr(x, truth), "dB") for name, x in baselines.items()}

    def target(self, change: Change) -> tuple[np.ndarray, Tensor]:
        """The given attributes of `rows` with those of another image in the places of a change [n, F], and their
        images."""
        order = np.random.default_rng(key(self.world.seed, "rerender", change.name)).permutation(len(self.own))
        other = np.empty(len(order), np.int64)
        other[order] = np.roll(order, 1)  # never the image itself
        target, every = self.own.copy(), self.all.copy()
        for place in change.places:
            target[:, place] = self.own[other, place]
            every[:, self.at[place]] = self.all[other, self.at[place]]
        truth = self.source.pictured(every[self.rows])
        return target[self.rows], torch.from_numpy(truth).double() / self.top

    def _made(self, y: Tensor, target: Tensor) -> Tensor:
        """The images with other attributes: float64 [n, C, H, W] in [0, 1]."""
        parts = torch.arange(len(self.x)).split(self.model.rows)
        x = torch.cat([self.model.changed(self.x[part], y[part], target[part]).cpu() for part in parts])
        return (x.double() / self.top).clamp(0, 1)


def psnr(a: Tensor, b: Tensor) -> np.ndarray:
    """Of images on a scale from 0 to 1, in dB: [B]."""
    return -10 * (a - b).square().flatten(1).mean(1).clamp(min=1e-12).log10().numpy()

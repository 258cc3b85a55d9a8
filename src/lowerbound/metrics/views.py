"""How well a view of a scene is told from others."""

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from lowerbound.data.views import Views
from lowerbound.metrics.base import Metric, Value, World
from lowerbound.model import Viewing
from lowerbound.noise import KeyedNoise
from lowerbound.parallel import gathered, part_of
from lowerbound.processes import keep_freed

DRAWS = 8  # of the latents, whose means of p(x|z) are averaged


class QueriedViews(Metric):
    """The error of the first view of each scene, given 0, 1, ... of the views that follow it and all cameras:
    view_rmse.3 is that given three.

    What is compared is the mean of x given these, estimated by DRAWS draws of the latents. view_rmse: the root of the
    mean squared error of a view, averaged over scenes, in pixel values; view_psnr: -10 log10 of the mean squared error
    on [0, 1], averaged over scenes. Beside them what nobody needs to learn: `nearest.3`, of three views the one whose
    camera is nearest in its coordinates, and `mean`, the mean of the training images.
    """

    names: ClassVar[tuple[str, ...]] = ("view_rmse", "view_psnr")
    first: ClassVar[bool] = True

    def applies(self, world: World) -> bool:
        return isinstance(world.model, Viewing) and world.batches.views is not None

    def __call__(self, world: World) -> dict[str, Value]:
        model, views = world.model, world.batches.views
        assert isinstance(model, Viewing)
        assert views is not None
        keep_freed()
        parts: list[dict[str, Tensor]] = []
        mean = torch.from_numpy(_mean_image(world)).to(world.batches.device)
        own = part_of(len(views))
        for scenes in torch.arange(own.start, own.stop).split(max(1, model.rows // DRAWS)) if own.n else ():
            squared = {
                suffix: (seen - truth).square().flatten(1).mean(1).cpu()
                for suffix, seen, truth in self._predictions(world, model, views, scenes)
            }
            truth = _pixels(views, scenes * views.of_scene, world)
            parts.append(squared | {"mean": (mean - truth).square().flatten(1).mean(1).cpu()})
            world.advance(len(scenes) * views.of_scene)
        parts = gathered(parts)
        return _values({suffix: torch.cat([part[suffix] for part in parts]).numpy() for suffix in parts[0]}, world)

    def _predictions(
        self, world: World, model: Viewing, views: Views, scenes: Tensor
    ) -> Iterator[tuple[str, Tensor, Tensor]]:
        """The pictures of the model and of the nearest view, of each scene given 0, 1, ... views, and the truth:
        [B, C, H, W] each, after what the values are called."""
        for k in range(model.context_views + 1):
            index, y = views.of_scenes(scenes, torch.full((len(scenes),), k))
            truth = _pixels(views, index, world)
            x, cameras, _, camera = y = world.batches.on(world.batches.device, y)
            with KeyedNoise(world.seed, index.numpy()) as noise:
                yield str(k), model.predicted(y, noise.chunk(DRAWS)).double(), truth
            if k:
                near = (cameras[:, :k] - camera[:, None]).square().sum(-1).argmin(1)
                yield f"nearest.{k}", x[torch.arange(len(x), device=x.device), near].double(), truth


def _pixels(views: Views, index: Tensor, world: World) -> Tensor:
    return views.x[index.to(views.x.device)].to(world.batches.device).double()


def _mean_image(world: World) -> np.ndarray:
    """Of the training images, where there are any: float64 [C, H, W]."""
    images = world.images if world.run is None else world.open("train")
    return np.asarray(images.x).mean(0, dtype=np.float64)


def _values(squared: dict[str, np.ndarray], world: World) -> dict[str, Value]:
    """From the mean squared error of each scene [S], by what it was told from."""
    top, found = world.images.levels - 1, {}
    for suffix, error in squared.items():
        own: dict[str, Any] = {"draws": DRAWS, "given": world.given} if suffix.isdigit() else {}
        found[f"view_rmse.{suffix}"] = Value.mean(np.sqrt(error), f"of {top}", **own)
        found[f"view_psnr.{suffix}"] = Value.mean(-10 * np.log10(np.maximum(error / top**2, 1e-12)), "dB", **own)
    return dict(sorted(found.items(), key=lambda named: _order(named[0])))


def _order(name: str) -> tuple[bool, bool, str]:
    """The model's before the baselines, errors before ratios."""
    base, _, suffix = name.partition(".")
    return not suffix.isdigit(), base != "view_rmse", suffix

"""A model and the images it is examined on."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from lowerbound.data.base import Images
from lowerbound.data.batches import Batch, Batches
from lowerbound.model import LatentModel, Model
from lowerbound.progress import Progress
from lowerbound.runs.inputs import as_batches, open_data
from lowerbound.runs.run import Run
from lowerbound.space import Density

MOST, FEWEST = 1000, 100  # images of each split that are measured
AFFORDABLE = 1e11  # products that measuring a split may take: 5 to 10 seconds of a CPU core
LOOKED_AT = 5000  # training images, at most, whose pixels are counted


@dataclass(frozen=True)
class Examined:
    """A run, its model, and the images of train and valid that are measured."""

    run: Run
    model: Model
    device: torch.device
    pixels: Images  # training images as they lie, whose pixels are counted
    train: Batches  # evenly spaced over their split, and few where the model is large
    valid: Batches

    @staticmethod
    def of(run: Run, model: Model, data: str | None, device: torch.device, progress: Progress) -> "Examined":
        train, valid = open_data(run, "train", data, progress), open_data(run, "valid", data)
        n = _how_many(model, as_batches(run, valid.head(1), device))
        some = [as_batches(run, _spread(images, n), device) for images in (train, valid)]
        return Examined(run, model, device, _spread(train, LOOKED_AT), *some)

    @property
    def counted(self) -> Batches:
        """The training images whose pixels are counted, as the model sees them."""
        return as_batches(self.run, self.pixels, self.device)

    def in_order(self, batches: Batches) -> Iterator[Batch]:
        """As many at once as the model can measure."""
        return batches.in_order(self.model.rows)


def _spread(images: Images, n: int) -> Images:
    """n images, evenly spaced over the split."""
    V = images.views or 1  # scenes stay whole
    scenes = np.linspace(0, len(images) // V - 1, min(-(-n // V), len(images) // V)).astype(int)
    return images.take((scenes[:, None] * V + np.arange(V)).flatten())


@torch.no_grad()
def _how_many(model: Model, one: Batches) -> int:
    """So many images of a split that measuring them stays within AFFORDABLE."""
    batch = next(one.in_order(1))
    with FlopCounterMode(display=False) as counter:
        _pass(model, batch)
    return int(np.clip(AFFORDABLE / max(1, counter.get_total_flops()), FEWEST, MOST))


def _pass(model: Model, batch: Batch) -> None:
    """What an image costs that is measured."""
    if isinstance(model, LatentModel):
        model.reconstruct(batch.x, batch.y)
    elif model.density is not Density.NONE:
        model.log_density(batch.x, batch.y)
    else:
        model.loss(batch.x, batch.y)


def seen(batches: Batches) -> np.ndarray:
    """The images as the model sees them: uint8 [N, D]."""
    return np.concatenate([b.x.flatten(1).cpu().numpy() for b in batches.in_order(1000)])


def distances(a: Tensor, b: Tensor) -> Tensor:
    """Squared, between images: [N]."""
    return (a - b).square().flatten(1).sum(1)

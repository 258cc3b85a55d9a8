"""How well labels are told."""

from typing import ClassVar

import numpy as np
import torch

from lowerbound.chunks import own_batches
from lowerbound.metrics.base import Metric, Value, World
from lowerbound.parallel import gathered
from lowerbound.space import conditions


class Classification(Metric):
    """accuracy: the share of images whose label is the most probable one; cross_entropy: -log p(label | image)."""

    names: ClassVar[tuple[str, ...]] = ("accuracy", "cross_entropy")

    def applies(self, world: World) -> bool:
        return world.model.predicts == "label"

    def __call__(self, world: World) -> dict[str, Value]:
        model = world.model
        right, nats = [], []
        for batch in own_batches(world.batches, model.rows):
            (label,) = conditions(batch.y, model.given)
            log_p = model._predicted(batch.x).double().log_softmax(1)
            right.append((log_p.argmax(1) == label).double().cpu().numpy())
            nats.append(-torch.gather(log_p, 1, label[:, None])[:, 0].cpu().numpy())
            world.advance(len(batch.index))
        return {
            "accuracy": Value.share(np.concatenate(gathered(right)), "of images"),
            "cross_entropy": Value.mean(np.concatenate(gathered(nats)), "nats/label"),
        }

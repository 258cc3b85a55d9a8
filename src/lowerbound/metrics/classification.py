"""How well a classifier tells the labels."""

from typing import ClassVar

import numpy as np
import torch

from lowerbound.chunks import Advance, rows_at_once
from lowerbound.data.batches import Batches
from lowerbound.metrics.base import Metric, Value
from lowerbound.model import Model
from lowerbound.models.classifier import Classifier
from lowerbound.space import conditions


class Classification(Metric):
    """accuracy: the share of images whose label is the most probable one; cross_entropy: -log p(label | image)."""

    names: ClassVar[tuple[str, ...]] = ("accuracy", "cross_entropy")

    def applies(self, model: Model) -> bool:
        return isinstance(model, Classifier)

    def __call__(
        self, model: Model, images: Batches, seed: int, limit: int | None, advance: Advance
    ) -> dict[str, Value]:
        assert isinstance(model, Classifier)
        right, nats = [], []
        for batch in images.in_order(rows_at_once(model), limit):
            (label,) = conditions(batch.y, model.given)
            log_p = model.logits(batch.x).double().log_softmax(1)
            right.append((log_p.argmax(1) == label).double().cpu().numpy())
            nats.append(-torch.gather(log_p, 1, label[:, None])[:, 0].cpu().numpy())
            advance(len(batch.index))
        return {
            "accuracy": Value.mean(np.concatenate(right), "of images"),
            "cross_entropy": Value.mean(np.concatenate(nats), "nats/label"),
        }

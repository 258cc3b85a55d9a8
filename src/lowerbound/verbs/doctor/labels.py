"""Whether the labels that a classifier gives are right."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lowerbound.data.batches import Batches
from lowerbound.model import Classifying
from lowerbound.space import conditions
from lowerbound.verbs.doctor.check import ERRORS, LESS_BY_HEART, Check, difference, showing, stderr
from lowerbound.verbs.doctor.evidence import SHOWN, Bars, Evidence, Pictures, some
from lowerbound.verbs.doctor.examined import Examined

GAP = 0.1  # of the labels, that are right for training images alone


def checks(e: Examined) -> list[Check]:
    model = e.model
    if not isinstance(model, Classifying):
        return []
    train, _ = _right(e, model, e.train)
    valid, labels = _right(e, model, e.valid)
    commonest = float(torch.bincount(labels).max()) / len(labels)

    def shows() -> list[Evidence]:
        shares = np.array([train.mean(), valid.mean(), commonest])
        wrong = e.valid.images.x[np.flatnonzero(~valid)[:SHOWN]]
        bars = Bars("share of the labels that are right", ["training", "validation", "the commonest alone"], shares)
        return [bars, Pictures("validation images labelled wrongly", {"wrong": some(wrong)}, e.valid.levels)]

    return showing(Labelled(train, valid, commonest).checks(), shows)


def _right(e: Examined, model: Classifying, batches: Batches) -> tuple[np.ndarray, Tensor]:
    """Of each image whether its label is found, bool [n], and the label."""
    found = [(model.logits(b.x).argmax(1), conditions(b.y, model.given)[0]) for b in e.in_order(batches)]
    given, labels = (torch.cat(parts) for parts in zip(*found, strict=True))
    return (given == labels).cpu().numpy(), labels


@dataclass(frozen=True)
class Labelled:
    """Whether the labels that a classifier gives are right: bool [n]."""

    train: np.ndarray
    valid: np.ndarray
    commonest: float  # the share of the validation images that have the commonest label

    def checks(self) -> list[Check]:
        right = float(self.valid.mean())
        gap, sure = difference(self.train.astype(float), self.valid.astype(float))
        return [
            Check(
                "labels.guessed",
                right,
                self.commonest,
                right - self.commonest < ERRORS * stderr(self.valid.astype(float)),
                "problem",
                f"{right:.1%} of the labels are right; always saying the commonest one has {self.commonest:.1%}",
                "a longer training, a smaller train.optimizer.lr; are the labels right? lowerbound data show",
            ),
            Check(
                "labels.overfitted",
                gap,
                GAP,
                sure and gap > GAP,
                "advice",
                f"{gap:.1%} more of the labels are right for training images than for validation images",
                LESS_BY_HEART,
            ),
        ]

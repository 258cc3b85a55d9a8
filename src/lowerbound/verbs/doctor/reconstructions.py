"""How images come back from their codes."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lowerbound.data.batches import Batches
from lowerbound.model import LatentModel
from lowerbound.verbs.doctor.check import LESS_BY_HEART, Check, difference, showing
from lowerbound.verbs.doctor.evidence import Pictures, some
from lowerbound.verbs.doctor.examined import Examined, distances

ALIKE = 0.01  # variance between the reconstructions, for one of the data
DECIBELS = 1.0  # by which reconstructions are to be nearer than the mean image
DETAIL = 0.1  # squared differences of neighbouring pixels, for one of the data; 2 latents for MNIST keep 0.2
GAP = 0.1  # of the variance of the data
MORE = "a larger model.latent, a wider network, model.objective.beta=1, a longer training"


class _Came(NamedTuple):
    """Images and what comes back of them, float64 [N, C, H, W]."""

    x: Tensor
    r: Tensor


def checks(e: Examined) -> list[Check]:
    """Of images that are not all the same."""
    if not isinstance(e.model, LatentModel) or e.model.space.levels is None:
        return []
    train, valid = (_back(e, e.model, batches) for batches in (e.train, e.valid))
    variance = float(distances(valid.x, valid.x.mean(0)).mean())
    if variance == 0:
        return []
    levels = e.model.space.levels
    found = Reconstructed(
        train=(distances(train.x, train.r) / variance).numpy(),
        valid=(distances(valid.x, valid.r) / variance).numpy(),
        variety=float(distances(valid.r, valid.r.mean(0)).mean()) / variance,
        detail=_contrast(valid.r) / max(_contrast(valid.x), 1e-12),
    ).checks()
    return showing(found, lambda: [_pairs("validation", valid, levels), _pairs("training", train, levels)])


def _pairs(split: str, came: _Came, levels: int) -> Pictures:
    return Pictures(f"{split} images", {"original": some(came.x), "reconstruction": some(came.r)}, levels)


def _back(e: Examined, model: LatentModel, batches: Batches) -> _Came:
    found = [(b.x.double().cpu(), model.reconstruct(b.x, b.y).double().cpu()) for b in e.in_order(batches)]
    return _Came(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def _contrast(x: Tensor) -> float:
    """The sum of the squared differences of neighbouring pixels."""
    return float(x.diff(dim=-1).square().sum() + x.diff(dim=-2).square().sum())


@dataclass(frozen=True)
class Reconstructed:
    """How images come back from their codes. Errors are squared, for one of the variance of the data."""

    train: np.ndarray  # [n], the error of each training image
    valid: np.ndarray
    variety: float  # variance between the reconstructions, for one of the data
    detail: float  # squared differences of neighbouring pixels, for one of the data

    def checks(self) -> list[Check]:
        better = -10 * math.log10(max(float(self.valid.mean()), 1e-12))
        alike, near = self.variety < ALIKE, better < DECIBELS
        gap, sure = difference(self.valid, self.train)
        return [
            Check(
                "reconstructions.alike",
                self.variety,
                ALIKE,
                alike,
                "problem",
                f"all images come back as the same picture: reconstructions vary by {self.variety:.2%} of the variance "
                "of the images",
                MORE,
            ),
            Check(
                "reconstructions.mean_image",
                better,
                DECIBELS,
                near and not alike,
                "problem",
                f"reconstructions are {better:.2f} dB nearer to the images than the mean image is, which takes no code",
                MORE,
            ),
            Check(
                "reconstructions.blurry",
                self.detail,
                DETAIL,
                self.detail < DETAIL and not near and not alike,
                "advice",
                f"reconstructions have {self.detail:.1%} of the images' contrast between neighbouring pixels",
                MORE,
            ),
            Check(
                "reconstructions.overfitted",
                gap,
                GAP,
                sure and gap > GAP,
                "advice",
                f"validation images come back worse than training images, by {gap:.0%} of the variance: the networks "
                "know these by heart",
                LESS_BY_HEART,
            ),
        ]

"""What a check is, and when a difference is none of chance."""

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from lowerbound.verbs.doctor.evidence import Shows, nothing

ERRORS = 4.0  # standard errors beyond which a difference is none of chance
LESS_BY_HEART = (  # the remedy where training images are known too well
    "more images, data.flip=true, a smaller network, or train.optimizer=optimization.AdamW "
    "train.optimizer.weight_decay=0.3"
)


class Check(NamedTuple):
    """One thing that was looked at: a number, the bound it is held to, and whether it is wrong."""

    name: str  # part.what
    value: float
    threshold: float
    wrong: bool
    severity: str  # problem: the run does not do its work; advice: it could do better
    message: str  # what was found, and why it matters
    remedy: str  # a command, or KEY=VALUE to train with
    shows: Shows = nothing  # what can be looked at

    @property
    def page(self) -> str:
        """Of docs/errors/: codes.top.dead is in doctor/codes, under dead."""
        return f"doctor/{self.name.partition('.')[0]}#{self.name.rpartition('.')[2]}"


def showing(checks: Iterable[Check], shows: Shows) -> list[Check]:
    """Checks that have the same to be looked at."""
    return [check._replace(shows=shows) for check in checks]


def stderr(each: np.ndarray) -> float:
    """The standard error of a mean; infinite for a single number."""
    return float(each.std(ddof=1) / math.sqrt(len(each))) if len(each) > 1 else math.inf


def difference(a: np.ndarray, b: np.ndarray) -> tuple[float, bool]:
    """The difference of the means of two sets of images, and whether it is beyond ERRORS standard errors."""
    gap = float(a.mean() - b.mean())
    return gap, gap > ERRORS * math.hypot(stderr(a), stderr(b))

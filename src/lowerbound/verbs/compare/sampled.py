"""Samples of each run, and their time."""

import time
from collections.abc import Callable
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lowerbound.model import Model, Viewing
from lowerbound.noise import seeded
from lowerbound.sampling import drawing
from lowerbound.verbs.compare.entries import Entry, Terms

POSITIONS = 8  # of a sample without cache that are measured; the rest is extrapolated


class Timing(NamedTuple):
    """How long an image takes that is drawn among `batch` of them."""

    seconds: float
    batch: int
    naive: dict[str, Any] | None = None  # without the cache: seconds, and how many of all passes were measured


@torch.no_grad()
def drawn(entry: Entry, terms: Terms) -> tuple[np.ndarray | None, Timing | None]:
    """Samples, those of `sample RUN -n N --seed SEED`: uint8 [n, C, H, W], and their time; nothing where there are
    none."""
    model, n = entry.model, terms.samples
    if not model.can_sample or isinstance(model, Viewing):  # which draws views of scenes alone
        return None, None
    y = entry.run.condition(n, seed=terms.seed)
    y = None if y is None else y.to(terms.device)

    def draw() -> Tensor:
        with seeded(terms.seed, "sample", quick=True):
            return drawing.draw(model, n, y).x

    seconds, x = timed(draw, terms.device)
    return x.numpy(), Timing(seconds / n, n, without_cache(model, n, y, terms))


def without_cache(model: Model, n: int, y: Tensor | None, terms: Terms) -> dict[str, Any] | None:
    """The seconds of an image drawn without the cache, from a few of its passes; None where there is no such way."""
    if not model.passes:
        return None
    H, W = model.space.shape[-2:]
    positions = min(POSITIONS, H * W)
    measured = model.passes // (H * W) * positions  # a pass for each channel where these are in order
    with seeded(terms.seed, "sample", quick=True):
        seconds, _ = timed(lambda: model.sample_naively(n, y, positions=positions), terms.device)
    return {"seconds": seconds / n / measured * model.passes, "passes": model.passes, "measured_passes": measured}


def timed(draw: Callable[[], Tensor], device: torch.device, patience: float = 1.0) -> tuple[float, Tensor]:
    """Seconds of a call, and what its first one gave.

    The first warms up, and the median of those that follow counts: 3 to 20 of them, for as long as the patience, in
    seconds. Where the first alone takes longer, it is the one that counts.
    """
    first, x = _once(draw, device)
    if first > patience:
        return first, x
    found: list[float] = []
    while len(found) < 3 or (len(found) < 20 and sum(found) < patience):
        found.append(_once(draw, device)[0])
    return median(found), x


def _once(draw: Callable[[], Tensor], device: torch.device) -> tuple[float, Tensor]:
    start = time.perf_counter()
    x = draw()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start, x

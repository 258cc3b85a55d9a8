"""A model asked about many images, in parts that fit in memory."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from lowerbound.data.batches import Batch, Shuffled
from lowerbound.model import Model
from lowerbound.noise import KeyedNoise
from lowerbound.parallel import ALONE, gathered, part_of, sharing, team, together
from lowerbound.processes import keep_freed

T = TypeVar("T")
Advance = Callable[[int], None]  # told how many images are done
AVERAGED = 20  # draws of a bound that are only averaged: its noise is then small beside how images differ


def draws_of(model: Model, asked: int) -> int:
    """How many draws are made of log p(x) where so many are asked for: one where there is no noise, and at most
    AVERAGED where more would make the noise smaller and the bound no tighter."""
    return 1 if not model.noisy else asked if model.unbiased else min(asked, AVERAGED)


def own_batches(images: Shuffled, size: int, limit: int | None = None, start: int = 0) -> Iterator[Batch]:
    """All images in order, or those of the places from `start` to `limit`, at most so many at a time. Of processes that
    work `together` each is given its part; what they find is then `gathered`."""
    n = len(images) if limit is None else min(limit, len(images))
    own = part_of(n - start)
    return images.in_order(size, start + own.stop, start + own.start) if own.n else iter(())


def in_rounds(images: Shuffled, size: int, make: Callable[[Batch], T]) -> Iterator[tuple[np.ndarray, T]]:
    """Of all images in order, at most so many at a time: their places, and what is made of them. Processes that work
    `together` make a part each at a time, and all are given the parts of all."""
    world = team()
    if world.size == 1:
        yield from ((batch.index, make(batch)) for batch in images.in_order(size))
        return
    step = size * world.size
    for start in range(0, len(images), step):
        own = own_batches(images, size, start + step, start)
        yield from gathered([(batch.index, make(batch)) for batch in own])


@contextmanager
def own_events(part: Tensor) -> Iterator[Tensor]:
    """Inside, what is drawn is what one process would draw for those events of a part that are this process's, which
    are yielded. Of a part of fewer than two events for each process that works `together`, each has all of them."""
    world = team()
    if world.size == 1 or len(part) < 2 * world.size:
        yield part
        return
    axes = (0, 1)  # what is drawn for events begins with them, or with one draw
    with together(ALONE), sharing(world, len(part), axes) as rows:
        yield part[rows.start : rows.stop]


def keyed_chunks(
    model: Model, images: Shuffled, draws: int, seed: int, limit: int | None = None, start: int = 0
) -> Iterator[tuple[Batch, Iterator[int]]]:
    """`own_batches`, each with the sizes of the chunks its draws are cut into, inside noise keyed by
    (seed, image index, draw)."""
    rows = model.rows
    keep_freed()
    for batch in own_batches(images, max(1, rows // draws), limit, start):
        with KeyedNoise(seed, batch.index) as noise:
            step = max(1, rows // len(batch.index))
            yield batch, (noise.chunk(min(step, draws - done)) for done in range(0, draws, step))


def log_mean(log_w: torch.Tensor, unbiased: bool) -> torch.Tensor:
    """The estimate that draws of log-weights [K, B] give: [B]; Burda et al. (2016), eq. 8, where `unbiased`."""
    return torch.logsumexp(log_w, 0) - math.log(len(log_w)) if unbiased else log_w.mean(0)


def log_density(
    model: Model,
    images: Shuffled,
    draws: int = 1,
    seed: int = 0,
    limit: int | None = None,
    advance: Advance = lambda n: None,
    start: int = 0,
) -> np.ndarray:
    """log p(x) of every image, or its bound with this many draws, in nats: float64 [N].

    limit, start: only of the images before, and from, these places. Processes that work `together` share them out.
    """
    found = []
    for batch, chunks in keyed_chunks(model, images, draws, seed, limit, start):
        total, seen = None, 0
        for k in chunks:
            log_w = model._log_weights(batch.x, batch.y, k).double()  # [k or 1, B]
            part = torch.logsumexp(log_w, 0) if model.unbiased else log_w.sum(0)
            if total is not None:
                part = torch.logaddexp(total, part) if model.unbiased else total + part
            total, seen = part, seen + len(log_w)
        assert total is not None
        found.append((total - math.log(seen) if model.unbiased else total / seen).cpu().numpy())
        advance(len(batch.index))
    return np.concatenate([np.zeros(0), *gathered(found)])

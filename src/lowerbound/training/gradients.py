"""Gradients and numbers of a step, added up over all processes."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from lowerbound.parallel import World

BUCKET = 2**25  # bytes that are added up at once


def add_up(world: World, parameters: Sequence[nn.Parameter], numbers: Tensor) -> Tensor:
    """Put the sums of all processes in the place of the gradients; returns those of the numbers [n].

    A parameter that a loss does not reach has no gradient before and after: which these are is the same everywhere.
    Gradients go together in flat buckets, each of one type, and the numbers with the last.
    """
    grads = [p.grad for p in parameters if p.grad is not None]
    left = numbers
    for bucket in _buckets([*grads, numbers]):
        flat = world.sum_(torch.cat([t.reshape(-1) for t in bucket]))
        for t, own in zip(bucket, flat.split([t.numel() for t in bucket]), strict=True):
            if t is numbers:
                left = own
            else:
                t.copy_(own.view_as(t))
    return left


def _buckets(tensors: list[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    size = 0
    for t in tensors:
        if bucket and (size >= BUCKET or t.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(t)
        size += t.numel() * t.element_size()
    yield bucket

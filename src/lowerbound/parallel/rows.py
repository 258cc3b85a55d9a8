"""A batch that processes share: whose rows are whose, and what a loss of all rows needs of the others.

Inside `sharing`, the tensors of a batch hold the rows of this process. The loss of a process counts by the share that
its rows are of the batch, and the gradients of all processes are added up: so a mean over rows is one over the whole
batch by itself. What is no sum over rows (a covariance, a maximum of a mean) asks for `all_rows`.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lowerbound import noise
from lowerbound.noise import Rows
from lowerbound.parallel.world import ALONE, World


class _Shared(NamedTuple):
    world: World
    rows: Rows
    counts: tuple[int, ...]  # of each process's rows


class _Thread(threading.local):
    shared: _Shared | None = None


_thread = _Thread()


@contextmanager
def sharing(world: World, whole: int, axes: tuple[int, ...] | None = None) -> Iterator[Rows]:
    """Inside, a batch of so many rows is shared: yields those of this process. Noise for rows is theirs too; axes: see
    `Rows`."""
    rows = Rows.of(world.rank, world.size, whole)._replace(axes=axes)
    if world.size == 1:
        yield rows
        return
    counts = tuple(Rows.of(r, world.size, whole).n for r in range(world.size))
    with _of(_Shared(world, rows, counts)):
        yield rows


@contextmanager
def of_other_rows(n: int) -> Iterator[None]:
    """Inside, the rows of the batch that is shared are others, made of them in their order: of this process so many."""
    shared = _thread.shared
    if shared is None:
        yield
        return
    counts = shared.world.gather(torch.tensor([n])).tolist()
    start = sum(counts[: shared.world.rank])
    with _of(_Shared(shared.world, Rows(start, start + n, sum(counts)), tuple(counts))):
        yield


@contextmanager
def _of(shared: _Shared) -> Iterator[None]:
    before, _thread.shared = _thread.shared, shared
    try:
        with noise.of_rows(shared.rows):
            yield
    finally:
        _thread.shared = before


def processes() -> World:
    """Those that share the batch at hand."""
    return ALONE if _thread.shared is None else _thread.shared.world


def own_rows(whole: int) -> Rows:
    """Those of this process, of what a batch has so many of in all, as many for each of its rows."""
    shared = _thread.shared
    if shared is None:
        return Rows(0, whole, whole)
    each = whole // shared.rows.whole
    return Rows(each * shared.rows.start, each * shared.rows.stop, whole)


def all_rows(x: Tensor) -> Tensor:
    """The rows of the whole batch, of which x [b, ...] are this process's; or as many of each: [B, ...].

    Its gradient is what all processes' losses make of these rows.
    """
    shared = _thread.shared
    if shared is None:
        return x
    return _AllRows.apply(x, shared)  # pyright: ignore[reportReturnType]


def over_all(x: Tensor) -> Tensor:
    """The sum of the tensors of all processes, of one shape. Its gradient is what all their losses make of it."""
    shared = _thread.shared
    return x if shared is None else _OverAll.apply(x, shared.world)  # pyright: ignore[reportReturnType]


def mean_of_rows(x: Tensor) -> Tensor:
    """The mean over the rows of the whole batch, of which x [b, ...] are this process's: [...]."""
    return x.mean(0) if _thread.shared is None else over_all(x.sum(0)) / whole_of(len(x))


def whole_of(n: int) -> int:
    """How many rows the whole batch has where this process has n of them, or as many of each."""
    shared = _thread.shared
    return n if shared is None else n // shared.rows.n * shared.rows.whole


class _OverAll(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, world: World) -> Tensor:
        ctx.world = world
        return world.sum_(x.detach().contiguous().clone())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return ctx.world.sum_(grads[0].contiguous().clone()), None


class _AllRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, shared: _Shared) -> Tensor:
        each = len(x) // shared.rows.n
        ctx.world, ctx.start, ctx.n = shared.world, each * shared.rows.start, len(x)
        return shared.world.gather_counted(x.detach(), [each * n for n in shared.counts])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        grad = ctx.world.sum_(grads[0].contiguous().clone())
        return grad[ctx.start : ctx.start + ctx.n], None

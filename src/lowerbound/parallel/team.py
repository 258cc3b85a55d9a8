"""Processes that do the same work together: what is long is shared out, and all are given the whole of it."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from lowerbound.noise import Rows
from lowerbound.parallel.world import ALONE, World

T = TypeVar("T")


class _Thread(threading.local):
    team: World = ALONE


_thread = _Thread()


@contextmanager
def together(world: World) -> Iterator[None]:
    """Inside, all processes do the same, and what is long is shared out: each does its part of the images."""
    before, _thread.team = _thread.team, world
    try:
        yield
    finally:
        _thread.team = before


def team() -> World:
    """Those among whom what is long is shared out."""
    return _thread.team


def part_of(n: int) -> Rows:
    """Which of n things that are shared out are this process's."""
    return Rows.of(team().rank, team().size, n)


def gathered(found: list[T]) -> list[T]:
    """What all processes have found of things that were shared out, in their order."""
    return team().lists(found)


def each_once(work: Callable[[int], T], n: int) -> list[T]:
    """work(0), ..., work(n - 1), each done by one of the processes, by itself."""
    own = part_of(n)
    with together(ALONE):
        found = [work(i) for i in range(own.start, own.stop)]
    return gathered(found)


def by_first(work: Callable[[], T]) -> T:
    """What the first process does by itself while the others wait; all are given it."""
    world = team()
    with together(ALONE):
        found = work() if world.first else None
    return world.told(found)

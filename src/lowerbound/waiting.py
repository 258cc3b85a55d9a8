"""How OpenMP's threads wait for one another: spinning where the cores are theirs, asleep where others want them too.

With libgomp, the OpenMP of torch's Linux builds, waiting threads spin for milliseconds before they sleep. On idle cores
that is the fastest; beside another busy process two threads on two cores spin for one that is not running, and a
training takes ten times as long. Its own way out is documented (GOMP_SPINCOUNT): where more threads are in teams than
there are cores, they spin for microseconds only. A second team that does nothing makes it so, and by its end undoes it:
what is computed, and in which order, stays the same.
"""

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

LOOK_SECONDS = 0.5
BUSY, CALM = 0.25, 0.1  # the share of the time that threads were ready to run and had no core; alone it is below 0.08
BUSY_LOOKS, CALM_LOOKS = 2, 10  # so many looks in a row before it is believed

_TASKS = Path("/proc/self/task")
_SHARE = 2**15  # elements for each thread: fewer than these torch does not share out


@contextmanager
def sharing_cores() -> Iterator[None]:
    """Inside, OpenMP's threads sleep while they wait, whenever other processes want the cores.

    Does nothing where the user has chosen how they wait (GOMP_SPINCOUNT, OMP_WAIT_POLICY), where torch has one thread,
    or where the system does not say for how long threads had to wait for a core (elsewhere than on Linux). It works
    where torch has more than half as many threads as there are cores, as it has by default.
    """
    chosen = {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys()
    if sys.platform != "linux" or chosen or torch.get_num_threads() == 1 or not waited():
        yield
        return
    over = threading.Event()
    watch = threading.Thread(target=_watch, args=(over,), daemon=True, name="sharing-cores")
    watch.start()
    try:
        yield
    finally:
        over.set()
        watch.join()


def waited() -> float:
    """Seconds for which this process's threads together were ready to run and had no core; 0 where nobody knows."""
    total = 0
    with suppress(OSError):
        for task in _TASKS.iterdir():
            with suppress(OSError):  # it has ended
                total += int((task / "schedstat").read_text().split()[1])
    return total / 1e9


def _watch(over: threading.Event) -> None:
    crowd, busy, calm = Crowd(), 0, 0
    before, since = waited(), time.monotonic()
    while not over.wait(LOOK_SECONDS):
        now, at = waited(), time.monotonic()
        share = (now - before) / (at - since)
        before, since = now, at
        busy, calm = busy + 1 if share > BUSY else 0, calm + 1 if share < CALM else 0
        if busy >= BUSY_LOOKS:
            crowd.gather()
        elif calm >= CALM_LOOKS:
            crowd.leave()
    crowd.leave()


class Crowd:
    """A team of threads that does nothing, there or not."""

    def __init__(self) -> None:
        self.gone: threading.Event | None = None
        self._thread: threading.Thread | None = None

    def gather(self) -> None:
        if self._thread is None:
            self.gone = threading.Event()
            self._thread = threading.Thread(target=_stand, args=(self.gone,), daemon=True, name="crowd")
            self._thread.start()

    def leave(self) -> None:
        if self._thread is not None and self.gone is not None:
            self.gone.set()
            self._thread.join()
            self._thread = None


def _stand(gone: threading.Event) -> None:
    """A thread that has entered a parallel region has a team, until it ends."""
    torch.zeros(_SHARE * torch.get_num_threads())
    gone.wait()

"""Threads sleep while they wait beside busy processes, spin where they are alone, and compute the same either way."""

import os
import subprocess
import sys
import threading
from itertools import accumulate

import pytest

from lowerbound import waiting

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="libgomp, and how long threads waited, are Linux's")

# Beside three busy processes on the two cores that are its own
BESIDE_OTHERS = """
import os, subprocess, sys, threading, time
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(3)]
import torch
from lowerbound.waiting import sharing_cores
a = torch.rand(300, 300)
try:
    with sharing_cores():
        end = time.monotonic() + 60
        while "crowd" not in {t.name for t in threading.enumerate()} and time.monotonic() < end:
            a @ a
        print("crowd" in {t.name for t in threading.enumerate()})
    print({t.name for t in threading.enumerate()} == {"MainThread"})
finally:
    for other in others:
        other.kill()
"""
CLEAN = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS")}


@pytest.mark.slow  # it makes the machine busy for 10 s
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="a single core has a single thread")
@pytest.mark.parametrize(("chosen", "expected"), [({}, "True\nTrue"), ({"GOMP_SPINCOUNT": "5"}, "False\nTrue")])
def test_beside_busy_processes_a_crowd_gathers(chosen: dict[str, str], expected: str):
    code = BESIDE_OTHERS.replace("60", "3") if chosen else BESIDE_OTHERS
    done = subprocess.run([sys.executable, "-c", code], env=CLEAN | chosen, capture_output=True, text=True)
    assert done.stdout.strip() == expected, done.stderr


def looked(monkeypatch: pytest.MonkeyPatch, shares: list[float]) -> list[bool]:
    """Whether the crowd was there after each look, for the shares of time that threads are said to have waited."""
    there: list[bool] = []
    clock, crowd = iter(range(len(shares) + 1)), waiting.Crowd()
    totals = iter([0.0, *accumulate(shares)])

    class Over(threading.Event):
        looks = 0

        def wait(self, timeout: float | None = None) -> bool:
            if self.looks:
                there.append(crowd.gone is not None and not crowd.gone.is_set())
            self.looks += 1
            return self.looks > len(shares)

    monkeypatch.setattr(waiting, "Crowd", lambda: crowd)
    monkeypatch.setattr(waiting, "waited", lambda: next(totals))
    monkeypatch.setattr(waiting.time, "monotonic", lambda: float(next(clock)))
    waiting._watch(Over())
    return there


def test_when_the_crowd_is_there(monkeypatch: pytest.MonkeyPatch):
    once, twice, calm = [0.9, 0.0], [0.9, 0.9], [0.0] * 9
    assert not any(looked(monkeypatch, [*once, *once, 0.2, 0.2, 0.2]))
    assert looked(monkeypatch, [*twice, *calm, 0.2, *calm, 0.0, 0.0]) == [False] + [True] * 20 + [False] * 2


LEAVING = """
import os, time
import torch
from lowerbound import waiting
def threads():
    return len(os.listdir("/proc/self/task"))
torch.zeros(2**20)  # the main thread's own team
before = threads()
with waiting.sharing_cores():
    pass
crowd = waiting.Crowd()
crowd.gather(), crowd.gather()
time.sleep(0.5)
there = threads()
crowd.leave(), crowd.leave()
time.sleep(0.5)  # the threads of its team end a moment after it
print(before, there, threads())
"""


def test_nothing_is_left_behind():
    done = subprocess.run([sys.executable, "-c", LEAVING], env=CLEAN, capture_output=True, text=True, check=True)
    before, there, after = map(int, done.stdout.split())
    cores = len(os.sched_getaffinity(0))
    assert (there, after) == (before + cores, before)  # a team of as many, in one thread more

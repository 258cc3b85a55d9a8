"""Several processes of this machine, begun as torchrun begins them: by the command that this one was."""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import IO

from torch._C._distributed_c10d import TCPStore

from lowerbound.errors import ConfigError, Ended, Interrupted, UserError, counted

ENDING = 15.0  # seconds for the others to end by themselves, after one has failed
LOOKING = 0.05  # seconds between two looks
MISTAKE, INTERRUPTED = 2, 130  # exit statuses: after a UserError, and after Ctrl-C
_PR_SET_PDEATHSIG = 1  # of prctl(2)


def launch(words: Sequence[str], n: int, *, quiet: bool = False) -> str:
    """Run `lowerbound` with these words in n processes; what the first wrote on standard output.

    quiet: what they say on standard error is kept back, and raised as UserError where they fail. Else they have said
    it, and Ended is raised; Interrupted after Ctrl-C.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if n < 1:
        raise ConfigError(f"--processes {n}: expected a whole number of at least 1")
    store = TCPStore("127.0.0.1", 0, None, True, timeout=timedelta(seconds=300), wait_for_workers=False)
    shared = {
        "WORLD_SIZE": str(n),
        "LOCAL_WORLD_SIZE": str(n),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # the store is here, and not in process 0
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, cores // n))),
    }
    own = [{**os.environ, **shared, "RANK": str(r), "LOCAL_RANK": str(r)} for r in range(n)]
    command = [sys.executable, "-m", "lowerbound", *words]
    workers = [_started(command, env, quiet, first=r == 0) for r, env in enumerate(own)]
    readers = [_Reader(w.stdout) for w in workers[:1]] + [_Reader(w.stderr) for w in workers if quiet]
    with _handed_on(workers):
        status = _ended(workers)
    out, *said = [reader.text() for reader in readers]
    if status == INTERRUPTED:
        raise Interrupted
    if status == MISTAKE and quiet:
        raise UserError(" ".join("".join(said).split()).removeprefix("lowerbound: "))
    if status:
        raise Ended(" ".join("".join(said).split()) or f"{counted(n, 'process')} failed", status)
    return out


def _started(command: list[str], env: dict[str, str], quiet: bool, *, first: bool) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        command,
        env=env,
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE if first else subprocess.DEVNULL,
        stderr=subprocess.PIPE if quiet else None,
        start_new_session=True,  # Ctrl-C comes to this process alone, which hands it on once
        preexec_fn=_end_with(os.getpid()) if sys.platform == "linux" else None,
    )


def _end_with(parent: int):
    """Has a new process save and end when its parent is killed."""
    prctl = ctypes.CDLL(None).prctl

    def before() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGTERM)

    return before


class _Reader:
    """Takes what comes through a pipe, so that it is never full."""

    def __init__(self, pipe: IO[str] | None):
        self.pipe, self.found = pipe, ""
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        if self.pipe is not None:
            with self.pipe:
                self.found = self.pipe.read()

    def text(self) -> str:
        self.thread.join()
        return self.found


@contextmanager
def _handed_on(workers: "list[subprocess.Popen[str]]") -> Iterator[None]:
    """Inside, signals that ask this process to end go on to the workers."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def hand_on(number: int, frame: object) -> None:
        for worker in workers:
            if worker.poll() is None:
                worker.send_signal(number)

    old = {s: signal.signal(s, hand_on) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for s, handler in old.items():
            signal.signal(s, handler)


def _ended(workers: "list[subprocess.Popen[str]]") -> int:
    """Wait for all; the status of the first that failed, 0 where none did. What the others do not end by is time."""
    until, status = None, 0
    try:
        while any(w.poll() is None for w in workers):
            failed = [w.returncode for w in workers if w.returncode]
            if failed and until is None:
                until = time.monotonic() + ENDING
            if until is not None and time.monotonic() > until:
                break
            time.sleep(LOOKING)
    finally:
        for w in workers:
            if w.poll() is None:
                w.kill()
                with suppress(subprocess.TimeoutExpired):
                    w.wait(10)
    codes = [w.returncode for w in workers]
    for wanted in (MISTAKE, INTERRUPTED):  # who said something, before those that were killed
        status = status or (wanted if wanted in codes else 0)
    return status or next((1 for code in codes if code), 0)

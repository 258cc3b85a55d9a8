"""This process and others: memory that is kept for the next batch, and who a process is."""

import ctypes
import os
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Self

_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1  # of mallopt(3)


def keep_freed() -> None:
    """Have glibc keep what is freed, instead of giving it back to the system and asking for new pages in the next step.

    A training step frees and needs the same tensors again and again; up to a quarter of its time went into new pages.
    A process then holds on to the most it has ever needed. Elsewhere than on Linux with glibc it does nothing.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(_MMAP_THRESHOLD, 2**30)
        libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1)


def speaks() -> bool:
    """Whether this is the one of several processes that prints."""
    return os.environ.get("WORLD_SIZE", "1") == "1" or os.environ.get("RANK", "0") == "0"


class Owner(NamedTuple):
    """A process that something belongs to."""

    host: str
    pid: int
    started: str  # what tells it from another process that was given its number later
    since: str  # the time at which it took hold

    @classmethod
    def me(cls) -> Self:
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        return cls(socket.gethostname(), os.getpid(), started(os.getpid()) or "", now)

    @property
    def is_gone(self) -> bool:
        """Whether it has certainly ended; of a process of another machine that can't be known."""
        return self.host == socket.gethostname() and started(self.pid) != self.started

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"


def started(pid: int) -> str | None:
    """When a process of this machine was started, in the system's own words; None where there is none."""
    if Path("/proc/self/stat").exists():
        with suppress(OSError, IndexError):
            fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()  # proc(5)
            boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
            return None if fields[0] in "ZX" else f"{boot}/{fields[19]}"  # Z: killed, and not yet waited for
        return None
    words = ["ps", "-o", "lstart=", "-p", str(pid)]
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip() or None

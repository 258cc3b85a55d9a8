"""Memory that is freed is kept for the next batch."""

import ctypes
import sys

_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1  # of mallopt(3)


def keep_freed() -> None:
    """Have glibc keep what is freed, instead of giving it back to the system and asking for new pages in the next step.

    A training step frees and needs the same tensors again and again; up to a quarter of its time went into new pages.
    A process then holds on to the most it has ever needed. Elsewhere than on Linux with glibc it does nothing.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(_MMAP_THRESHOLD, 2**30)
        libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1)

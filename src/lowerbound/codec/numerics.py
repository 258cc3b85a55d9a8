"""What the last bits of a float32 network depend on, and the one way in which it is computed for a file.

A sum of products is another number in its last bit when its terms are added in another order, and that differs by
processor, by the build of torch and its instructions, by the number of threads and by the size of the batch. A file of
the float path is read where all of them agree, or not at all: a network computes on one thread, and on batches of one
size. (`exact` is the path that needs none of this.)
"""

import contextlib
import functools
import hashlib
import os
import platform
import struct
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import torch

from lowerbound.devices import rounding

SIZE = 2  # bytes that a file holds of each
FORCED = ("MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS", "DNNL_MAX_CPU_ISA", "ONEDNN_MAX_CPU_ISA")  # change the instructions


def surroundings() -> dict[str, str]:
    """What must agree, by what it is called in messages."""
    forced = " ".join(f"{name}={os.environ[name]}" for name in FORCED if name in os.environ)
    return {
        "processor": _processor(),
        "build of torch": f"{torch.__version__} {torch.version.git_version[:10]}",
        "instructions": f"{torch.backends.cpu.get_cpu_capability()} {forced}".strip(),
        "version of lowerbound": version("lowerbound"),
    }


@functools.cache
def _processor() -> str:
    """Its model, where the system says it."""
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    return f"{name} ({platform.machine()}, {platform.system()})"


def fingerprint() -> bytes:
    """Of the surroundings: SIZE bytes of each, in their order."""
    return b"".join(hashlib.blake2b(what.encode(), digest_size=SIZE).digest() for what in surroundings().values())


def differing(other: bytes) -> dict[str, str]:
    """What of these surroundings is not as a fingerprint says: name -> what it is here."""
    here = struct.iter_unpack(f"{SIZE}s", fingerprint())
    there = struct.iter_unpack(f"{SIZE}s", other)
    pairs = zip(surroundings().items(), here, there, strict=True)
    return {name: what for (name, what), own, others in pairs if own != others}


@contextlib.contextmanager
def repeatable() -> Iterator[None]:
    """Inside, networks compute the same bits whenever they are given the same, in these surroundings: without
    gradients, on one thread, in full precision."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.no_grad(), torch.autocast("cpu", enabled=False), rounding(False):
            yield
    finally:
        torch.set_num_threads(threads)

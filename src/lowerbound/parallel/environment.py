"""Which process this is, by the variables that torchrun sets: as Slurm, Kubernetes, Ray and accelerate can too."""

import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from lowerbound.errors import ConfigError, Ended, counted
from lowerbound.parallel.world import ALONE, World

NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
MEETING = 300  # seconds for all processes to come


class Environment(NamedTuple):
    """rank: of all processes; local: of those of this machine. restarts: how often they were all begun anew."""

    rank: int = 0
    size: int = 1
    local: int = 0
    restarts: int = 0

    @staticmethod
    def read() -> "Environment":
        """What the variables say; nothing of it: a process alone. Raises ConfigError for one that is missing or no
        number."""
        if not any(os.environ.get(name) for name in NEEDED[:2]):
            return Environment()
        if os.environ.get("WORLD_SIZE") == "1":
            return Environment(restarts=_number("TORCHELASTIC_RESTART_COUNT", 0))
        missing = [name for name in NEEDED if not os.environ.get(name)]
        if missing:
            there = ", ".join(f"{name}={os.environ[name]}" for name in NEEDED if name not in missing)
            raise ConfigError(
                f"{', '.join(missing)}: not set, though {there} is; start processes by torchrun or `--processes N`, "
                f"or set all of {', '.join(NEEDED)}"
            )
        rank, size = _number("RANK"), _number("WORLD_SIZE")
        if not 0 <= rank < size:
            raise ConfigError(f"RANK={rank}: expected a number from 0 to WORLD_SIZE - 1, which is {size - 1}")
        _number("MASTER_PORT")
        return Environment(rank, size, _number("LOCAL_RANK", rank), _number("TORCHELASTIC_RESTART_COUNT", 0))

    def begins(self, processes: int | None) -> bool:
        """Whether so many are asked for that are still to be begun. Raises ConfigError where others were."""
        if self.size == 1 and processes not in (None, 1):
            return True
        if processes not in (None, self.size):
            raise ConfigError(f"--processes {processes}: there are {self.size} already (WORLD_SIZE); leave it out")
        return False

    def device(self, asked: str) -> str:
        """The device of this process, of what was asked for all. Raises ConfigError."""
        if self.size == 1 or asked == "cpu":
            return asked
        if asked.startswith("cuda:"):
            raise ConfigError(
                f"--device {asked}: {self.size} processes take a GPU each, by their number; say --device cuda, or "
                "CUDA_VISIBLE_DEVICES"
            )
        if asked == "auto" and not torch.cuda.is_available():
            return "cpu"
        there = torch.cuda.device_count()
        if there and self.local >= there:
            raise ConfigError(
                f"process {self.local} of this machine has no GPU: {counted(there, 'CUDA device')} here; start "
                f"{counted(there, 'process')}, or --device cpu"
            )
        return f"cuda:{self.local}" if there else asked


def _number(name: str, otherwise: int | None = None) -> int:
    text = os.environ.get(name, "")
    if not text and otherwise is not None:
        return otherwise
    if not text.isdigit():
        raise ConfigError(f"{name}={text}: expected a whole number")
    return int(text)


@contextmanager
def joined(environment: Environment, device: torch.device) -> Iterator[World]:
    """Inside, the world of all processes; of one alone nothing is begun.

    An error is raised by the process that met it first, and named by its number; by the others, Ended.
    """
    if environment.size == 1:
        yield ALONE
        return
    world, before = _met(environment, device), dist.is_initialized()
    try:
        yield world
    except Ended:
        raise
    except Exception as e:
        said = world.fail(e)
        if said is e:
            raise
        raise said from e
    finally:
        if dist.is_initialized() and not before:  # for weights that were shared out
            dist.destroy_process_group()


def _met(environment: Environment, device: torch.device) -> World:
    rank, size = environment.rank, environment.size
    where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    try:
        waiting = timedelta(seconds=MEETING)
        store, *_ = next(iter(rendezvous("env://", rank, size, timeout=waiting)))
        store.set_timeout(waiting)
        store = fresh(store, rank, size)
        groups: dict[str, Any] = {"cpu": dist.ProcessGroupGloo(PrefixStore("cpu", store), rank, size, waiting)}
        if device.type == "cuda":
            torch.cuda.set_device(device)
            options = dist.ProcessGroupNCCL.Options()
            groups["cuda"] = dist.ProcessGroupNCCL(PrefixStore("cuda", store), rank, size, options)
    except (RuntimeError, dist.DistError, ValueError) as e:
        reason = str(e).splitlines()[0]
        raise ConfigError(
            f"process {rank} of {size} has not met the others at MASTER_ADDR:MASTER_PORT {where} ({reason})"
        ) from e
    return World(rank, size, groups, store)


def fresh(store: Store, rank: int, size: int, patience: float = MEETING) -> Store:
    """A part of a store that has nothing in it of processes that met there before: torchrun keeps its store when it
    begins all anew. Raises RuntimeError where not all come.

    Each writes a name that nobody had before; the first lists them all, until everyone has read one and the same list
    with its own name in it.
    """
    own, until = uuid.uuid4().hex, time.monotonic() + patience
    names, read = [f"name/{r}" for r in range(size)], [f"read/{r}" for r in range(size)]
    store.set(names[rank], own)
    while time.monotonic() < until:
        if rank == 0 and store.check(names):
            store.set("list", b" ".join(store.multi_get(names)).decode())
        found = store.get("list").decode() if store.check(["list"]) else ""
        if own in found.split():
            store.set(read[rank], found)
            if rank == 0 and store.check(read) and {word.decode() for word in store.multi_get(read)} == {found}:
                store.set("agreed", found)
            if store.check(["agreed"]) and store.get("agreed").decode() == found:
                return PrefixStore(found.split()[0], store)
        time.sleep(0.02)
    raise RuntimeError(f"not all had come after {patience:g} seconds")

"""The processes that train together, and what they tell each other: by torch's process groups, gloo's on processors and
NCCL's on GPUs.

A collective is called by all processes or by none, in the same order. One that fails, or that another process does not
join in time, becomes an error that names the process that is to blame; the others end quietly.
"""

import pickle
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import AllgatherOptions, PrefixStore, ReduceScatterOptions, Store
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from lowerbound.errors import Ended, TrainingError, UserError

T = TypeVar("T")
PATIENCE = 1800.0  # seconds that a process waits for the others, if nobody says anything
GRACE = 3.0  # seconds in which processes say what has become of them, after one has failed
_SENT = {  # of what a collective of n processes is given, the share that a ring has each send
    "allreduce": lambda n: 2 * (n - 1) / n,
    "allgather": lambda n: n - 1,
    "_allgather_base": lambda n: n - 1,
    "_reduce_scatter_base": lambda n: (n - 1) / n,
}
_AS = {torch.bool: torch.uint8, torch.int16: torch.int32}  # types that groups have not, as ones that they have


class Blamed(TrainingError):
    """Another process is to blame, which this one names."""


class World:
    """This process among all: its number `rank` of `size`.

    `groups`: of the devices' kinds, "cpu" and perhaps "cuda". `store`: where processes say what ends them. A world of
    one has neither, and everything is there already.
    """

    def __init__(self, rank: int = 0, size: int = 1, groups: dict[str, Any] | None = None, store: Store | None = None):
        self.rank, self.size, self.groups, self.store = rank, size, groups or {}, store
        self.patience = PATIENCE
        self.told_bytes = 0.0  # that this process has sent in collectives so far, were they a ring's

    @property
    def first(self) -> bool:
        """Whether it is the process that writes and speaks."""
        return self.rank == 0

    # ---- collectives

    def sum_(self, t: Tensor) -> Tensor:
        """The sum over all processes, in place."""
        if self.size > 1:
            options = dist.AllreduceOptions()
            self._wait(t, "allreduce", [t], options)
        return t

    def gather(self, t: Tensor) -> Tensor:
        """The rows of all processes, in their order: [n, ...] of this one, and others' numbers of them -> [N, ...]."""
        if self.size == 1:
            return t
        each = self._gather_equal(torch.tensor([len(t)], device=t.device))
        return self.gather_counted(t, [int(n) for n in each])

    def gather_counted(self, t: Tensor, counts: Sequence[int]) -> Tensor:
        """As `gather`, where everybody knows how many rows each has."""
        if self.size == 1:
            return t
        if max(counts) > len(t):
            t = torch.cat([t, t.new_zeros(max(counts) - len(t), *t.shape[1:])])
        return torch.cat([part[:n] for part, n in zip(self._gather_equal(t), counts, strict=True)])

    def lists(self, found: list[T]) -> list[T]:
        """What is in the lists of all processes, in their order."""
        if self.size == 1:
            return found
        data = torch.frombuffer(bytearray(pickle.dumps(found)), dtype=torch.uint8)
        counts = [int(n) for n in self._gather_equal(torch.tensor([len(data)]))]
        parts = self.gather_counted(data, counts).split(counts)
        return [value for part in parts for value in pickle.loads(part.numpy().tobytes())]

    def _gather_equal(self, t: Tensor) -> list[Tensor]:
        kind = _AS.get(t.dtype, t.dtype)
        t, dtype = t.to(kind).contiguous(), t.dtype
        found = [torch.empty_like(t) for _ in range(self.size)]
        self._wait(t, "allgather", [found], [t], AllgatherOptions())
        return [part.to(dtype) for part in found]

    def gather_into(self, found: Tensor, own: Tensor) -> None:
        """The numbers of all processes, in their order, of which each has as many: [n] of this one -> [size * n]."""
        self._wait(own, "_allgather_base", found, own, AllgatherOptions())

    def sum_into(self, found: Tensor, t: Tensor) -> None:
        """This process's part [n] of the sum over all processes of t [size * n]."""
        self._wait(t, "_reduce_scatter_base", found, t, ReduceScatterOptions())

    def broadcast_(self, tensors: Sequence[Tensor]) -> None:
        """Those of process 0, in place."""
        if self.size == 1:
            return
        for t in tensors:
            sent = t.detach().to(_AS.get(t.dtype, t.dtype)).contiguous()
            options = dist.BroadcastOptions()
            options.rootRank = 0
            self._wait(sent, "broadcast", [sent], options)
            if sent.data_ptr() != t.data_ptr():
                t.detach().copy_(sent)

    def told(self, value: Any = None) -> Any:
        """What process 0 has; the others' values don't matter."""
        if self.size == 1:
            return value
        data = torch.frombuffer(bytearray(pickle.dumps(value)), dtype=torch.uint8) if self.first else torch.zeros(0)
        n = torch.tensor([len(data)])
        self.broadcast_([n])
        data = data if self.first else torch.empty(int(n), dtype=torch.uint8)
        self.broadcast_([data])
        return value if self.first else pickle.loads(data.numpy().tobytes())

    def meet(self) -> None:
        """Go on when all have come as far."""
        if self.size > 1:
            self.sum_(torch.zeros(1))

    # ---- torch's own view of them

    def mesh(self, device: torch.device) -> DeviceMesh:
        """All processes in a row, as FSDP2 and sharded checkpoints know them: through torch's default group, which is
        begun here."""
        if not dist.is_initialized():
            kinds = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
            patience = timedelta(seconds=self.patience)
            store = PrefixStore("mesh", self.store)  # pyright: ignore[reportArgumentType]
            dist.init_process_group(kinds, store=store, rank=self.rank, world_size=self.size, timeout=patience)
        return init_device_mesh(device.type, (self.size,))

    # ---- what can go wrong

    def _wait(self, t: Tensor, name: str, *args: Any) -> None:
        """Do a collective of a group on tensors like t."""
        options = args[-1]
        options.timeout = timedelta(seconds=self.patience)
        self.told_bytes += _SENT.get(name, lambda n: 1)(self.size) * t.numel() * t.element_size()
        try:
            getattr(self.groups[t.device.type], name)(*args).wait()
        except RuntimeError as e:
            raise self.blamed(e) from e

    def blamed(self, error: RuntimeError) -> Exception:
        """Whom a failed collective is the fault of: the first process that asks says so, the others end."""
        assert self.store is not None
        try:
            self.store.set(f"waits/{self.rank}", "yes")
            until = time.monotonic() + GRACE
            missing = self._missing()
            while missing and time.monotonic() < until and not self._has_ended():
                time.sleep(0.05)
                missing = self._missing()
            if self._has_ended() or self.store.add("blamed", 1) > 1:
                return Ended()
        except (RuntimeError, dist.DistError):  # whoever keeps the store is gone too
            return Blamed(f"process {self.rank}: the others are gone. {_RESUME}") if self.rank == 1 else Ended()
        if not missing:
            return Blamed(f"processes can't reach each other any more ({str(error).splitlines()[0]}). {_RESUME}")
        who = ", ".join(map(str, missing))
        late = "Timed out" in str(error) or "timeout" in str(error).lower()
        if late:
            return Blamed(
                f"process {who} of {self.size} has not answered for {self.patience:g} seconds: it hangs, or is that "
                f"slow (train.wait_seconds). {_RESUME}"
            )
        return Blamed(f"process {who} of {self.size} is gone: it was killed, or its machine is. {_RESUME}")

    def _missing(self) -> list[int]:
        assert self.store is not None
        return [r for r in range(self.size) if not self.store.check([f"waits/{r}"])]

    def _has_ended(self) -> bool:
        """Whether a process has said why it ended."""
        assert self.store is not None
        return self.store.check(["ended"])

    def fail(self, error: Exception) -> Exception:
        """An error of this process, as it is to be raised: the first one says it, and in whose number's name; where all
        fail alike, nobody's. It has left the world then, and the others' collectives fail."""
        try:
            return self._told(error)
        finally:
            self.groups.clear()

    def _told(self, error: Exception) -> Exception:
        if self.store is None or isinstance(error, Ended | Blamed):
            return error
        try:
            turn = self.store.add("failures", 1)
            self.store.set(f"failed/{self.rank}", str(error))
            self.store.set("ended", "yes")
            if turn > 1:
                return Ended()
            until = time.monotonic() + GRACE / 5
            others = [r for r in range(self.size) if r != self.rank]
            while time.monotonic() < until and not all(self.store.check([f"failed/{r}"]) for r in others):
                time.sleep(0.02)
            same = [r for r in others if self.store.check([f"failed/{r}"])]
            if len(same) == len(others) and all(self.store.get(f"failed/{r}") == str(error).encode() for r in same):
                return error
        except (RuntimeError, dist.DistError):
            pass
        if isinstance(error, UserError):
            return type(error)(f"process {self.rank}: {error}")
        error.add_note(f"in process {self.rank} of {self.size}")
        return error


_RESUME = "What was trained is kept as it was last saved; --resume goes on from it"
ALONE = World()

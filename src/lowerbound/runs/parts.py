"""The tensors of a state that processes share out: a folder, into which each writes its part, by
torch.distributed.checkpoint. Any number of processes reads them, also one alone.

Files are safetensors: reading them executes nothing.
"""

import os
import secrets
import shutil
import warnings
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lowerbound.errors import UserError
from lowerbound.parallel import World

Cut = Callable[[str, torch.Size, torch.dtype], Tensor]  # name, whole shape, type -> a DTensor to fill


def write(state: Path, tensors: Mapping[str, Tensor], world: World) -> dict[str, Any]:
    """Write the parts of tensors (DTensor) beside a state, which does not know of them yet; what it is to hold of them.

    All processes call it. Raises UserError where one can't write.
    """
    # takes a second, for which others need not wait
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    code = world.told(secrets.randbelow(10**12) if world.first else None)
    temporary = state.with_name(f".{state.stem}.{code:012d}")  # which `Run.tidy` removes, if it stays
    try:
        temporary.mkdir(parents=True, exist_ok=True)
        save(dict(tensors), storage_writer=HuggingFaceStorageWriter(str(temporary), save_distributed=True))
    except CheckpointException as e:
        raise _unwritten(state, dict(e.failures)) from None
    except RuntimeError as e:
        raise world.blamed(e) from e
    own = next(temporary.glob(f"shard-{world.rank + 1:05d}-*"))
    sums = world.gather(torch.tensor([_sum(own)])).tolist()
    folder = state.with_name(f"{state.stem}.parts-{code:012d}")
    if world.first:
        os.replace(temporary, folder)
    return {"folder": folder.name, "sums": dict(zip(_files(world.size), sums, strict=True))}


def check(state: Path, parts: Mapping[str, Any]) -> None:
    """Raise ValueError or OSError where they are not what was saved."""
    for name, wanted in parts["sums"].items():
        found = state.with_name(parts["folder"]) / name
        if _sum(found) != wanted:
            raise ValueError(f"{found.relative_to(state.parent)} is not what was saved")


def read(state: Path, parts: Mapping[str, Any], cut: Cut | None = None) -> dict[str, Tensor]:
    """The whole tensors, read by this process alone; or what `cut` gives for each, filled, where all processes read."""
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load

    reader = HuggingFaceStorageReader(str(state.with_name(parts["folder"])))
    known: Any = reader.read_metadata().state_dict_metadata
    if cut is None:
        tensors = {name: torch.empty(m.size, dtype=m.properties.dtype) for name, m in known.items()}
    else:
        tensors = {name: cut(name, m.size, m.properties.dtype) for name, m in known.items()}
    with warnings.catch_warnings():  # that this process reads alone is what is meant
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        load(tensors, storage_reader=reader, no_dist=cut is None)
    return tensors


def tidy(state: Path, kept: Iterable[Mapping[str, Any]]) -> None:
    """Remove parts of this state that none of these knows of."""
    names = {parts["folder"] for parts in kept}
    for folder in state.parent.glob(f"{state.stem}.parts-*"):
        if folder.name not in names:
            shutil.rmtree(folder, ignore_errors=True)


def _unwritten(state: Path, failures: dict[int, Any]) -> Exception:
    for rank, (error, _) in failures.items():
        if isinstance(error, OSError):
            return UserError(f"process {rank} can't write its part of {state}: {error.strerror or error}")
    return RuntimeError(f"{state} is not saved: {failures}")


def _files(n: int) -> list[str]:
    return [f"shard-{r + 1:05d}-model-00001-of-00001.safetensors" for r in range(n)]


def _sum(path: Path) -> int:
    found = 0
    with path.open("rb") as file:
        while block := file.read(2**20):
            found = zlib.crc32(block, found)
    return found

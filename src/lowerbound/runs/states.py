"""Tensors in files, with JSON values beside them; and states, of which the one before the last is kept too."""

import json
import os
import secrets
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from lowerbound.errors import RunError
from lowerbound.files import replacing
from lowerbound.runs import parts

Loaded = tuple[dict[str, Tensor], dict[str, Any]]
Said = Callable[[str], None]
DAMAGE = (SafetensorError, OSError, KeyError, TypeError, ValueError)  # what reading a damaged file ends in


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(save(_packed(tensors), metadata))


def load_tensors(path: Path) -> Loaded:
    """Tensors, and the JSON values saved beside them."""
    with safe_open(path, "pt") as file:
        return {k: file.get_tensor(k) for k in file.keys()}, json.loads(file.metadata()["values"])  # noqa: SIM118


def save_state(path: Path, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
    """Whole or not at all; the state that was there is kept as the one before.

    `values["parts"]`, if it is there: what `parts.write` gave of the tensors that processes share out, all by now.
    """
    packed = _packed(tensors)
    metadata = {"values": json.dumps(values), "sum": _sum(packed)}
    with suppress(OSError):  # of a file system without links: the last is all there is
        _keep(path)
    save_tensors(path, packed, metadata)
    known = [_values(p).get("parts") for p in (path, before(path)) if p.is_file()]
    parts.tidy(path, filter(None, known))


def load_state(path: Path, said: Said | None, *, whole: bool = True) -> Loaded | None:
    """The last state; None before the first. Where it is damaged the one before it, which is told to `said`.

    whole: with what processes share out.

    Raises RunError where no state can be read; without `said` where the last can't.
    """
    if not path.is_file():
        return None
    try:
        return _whole(path, whole)
    except DAMAGE as e:
        problem = f"{path} is damaged ({e})"
        if said is not None and before(path).is_file():
            with suppress(*DAMAGE):
                found = _whole(before(path), whole)
                said(f"{problem}; going on from the state before it, of step {found[1]['step']}")
                return found
    raise RunError(f"{problem}; start over with --overwrite")


def before(path: Path) -> Path:
    """Where the state before this one is."""
    return path.with_name(f"{path.stem}.before{path.suffix}")


def is_last(path: Path) -> bool:
    """Whether a file is a stage's last state, and not the one before."""
    return not path.name.startswith(".") and not path.stem.endswith(".before")


def _keep(path: Path) -> None:
    """Another name for the file: what is saved over it leaves that alone."""
    if path.is_file():
        temporary = path.with_name(f".{path.stem}.{secrets.randbelow(10**12):012d}{path.suffix}")
        os.link(path, temporary)
        try:
            os.replace(temporary, before(path))
        finally:
            temporary.unlink(missing_ok=True)  # which is left where both are names of one file


def _whole(path: Path, parted: bool) -> Loaded:
    """Raises one of DAMAGE where it is not what was saved."""
    tensors, values = load_tensors(path)
    if "parts" in values:
        parts.check(path, values["parts"])
    with safe_open(path, "pt") as file:
        wanted = file.metadata().get("sum")
    if wanted is not None and wanted != _sum(tensors):
        raise ValueError("its tensors are not those that were saved")
    more = parts.read(path, values["parts"]) if parted and "parts" in values else {}
    return tensors | more, values


def _values(path: Path) -> dict[str, Any]:
    with suppress(*DAMAGE), safe_open(path, "pt") as file:
        return json.loads(file.metadata()["values"])
    return {}


def _packed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k: t.detach().cpu().contiguous() for k, t in tensors.items()}


def _sum(tensors: Mapping[str, Tensor]) -> str:
    """What tells these from damaged ones."""
    found = 0
    for name in sorted(tensors):
        found = zlib.crc32(tensors[name].flatten().view(torch.uint8).numpy().data, found)
    return f"{found:08x}"

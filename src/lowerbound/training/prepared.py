"""What images are turned into once, such as codes: kept in a folder, memory-mapped, and batched as images are."""

import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lowerbound.chunks import in_rounds
from lowerbound.data.batches import Batch, Batches, Shuffled
from lowerbound.errors import UserError
from lowerbound.parallel import by_first, team
from lowerbound.space import Space
from lowerbound.stages import Prepare

Told = Callable[[int, int], None]  # told how many images are done, and of how many


class Prepared(Shuffled):
    """The parts of a split's images, as a stage takes them. parts: [N, *shape] each; y: labels [N] or None."""

    def __init__(
        self,
        parts: tuple[Tensor, ...],
        y: Tensor | None,
        prepare: Prepare,
        device: torch.device,
        fingerprint: str = "",  # of the images that they were made of
        labelled: Tensor | None = None,
    ):
        super().__init__()
        self.fingerprint = fingerprint
        self.parts, self.y, self.prepare, self.device = parts, y, prepare, device
        self.labelled = labelled

    def __len__(self) -> int:
        return len(self.parts[0])

    def training(self, step: int, size: int, seed: int) -> tuple[Tensor, Any]:
        return self._take(self._places(step, size, seed))

    def in_order(self, size: int, limit: int | None = None, start: int = 0) -> Iterator[Batch]:
        n = len(self) if limit is None else min(limit, len(self))
        for i in range(start, n, size):
            index = torch.arange(i, min(i + size, n))
            yield Batch(*self._take(index), index.numpy())

    def _take(self, index: Tensor) -> tuple[Tensor, Any]:
        parts = tuple(
            part.index_select(0, index).to(self.device).to(space.dtype)
            for part, space in zip(self.parts, self.prepare.spaces, strict=True)
        )
        return self.prepare.given(parts, None if self.y is None else self.y[index].to(self.device))


def prepared(folder: Path, images: Batches, prepare: Prepare, made_by: str, told: Told) -> Prepared:
    """What is kept of a split in the folder, where it was made of these images by the weights `made_by`; else it is
    made, and kept.

    Of images that are mirrored in training, the mirrored ones follow the others. Processes that work `together` share
    them out, and the first writes; all must see the folder. Raises UserError where the disk is full; a folder half
    written is never left under the name.
    """
    mirrored = (False, True) if images.flip else (False,)
    n = len(images) * len(mirrored)
    wanted = {"weights": made_by, "n": n, "parts": list(prepare.names), "data": images.fingerprint}
    if not by_first(lambda: _kept(folder, prepare, wanted) is not None):
        _make(folder, images, prepare, mirrored, wanted, told)
    parts = _parts(folder, prepare)
    y = None if images.y is None else torch.cat([images.y] * len(mirrored))
    few = images.labelled
    if few is not None and images.flip:
        few = torch.cat([few, few + len(images)])
    return Prepared(parts, y, prepare, images.device, images.fingerprint, few)


def _kept(folder: Path, prepare: Prepare, wanted: dict[str, Any]) -> tuple[Tensor, ...] | None:
    """What is kept; None where that is nothing whole, or not what is wanted."""
    try:
        if json.loads((folder / "made_by.json").read_text(encoding="utf-8")) != wanted:
            return None
        parts = _parts(folder, prepare)
    except (OSError, ValueError, EOFError):
        return None
    return parts if all(_fits(p, wanted["n"], s) for p, s in zip(parts, prepare.spaces, strict=True)) else None


def _fits(part: Tensor, n: int, space: Space) -> bool:
    """Whether these are n events of a space."""
    inside = space.levels is None or (int(part.min()) >= 0 and int(part.max()) < space.levels)
    return tuple(part.shape) == (n, *space.shape) and part.numpy().dtype == _dtype(space) and inside


def _parts(folder: Path, prepare: Prepare) -> tuple[Tensor, ...]:
    return tuple(torch.from_numpy(np.load(folder / f"{name}.npy", mmap_mode="c")) for name in prepare.names)


def _make(
    folder: Path, images: Batches, prepare: Prepare, mirrored: tuple[bool, ...], facts: dict[str, Any], told: Told
) -> None:
    if not team().first:
        for _ in _made(images, prepare, mirrored, told):
            pass
        team().meet()
        return
    temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    try:
        temporary.mkdir(parents=True)
        _write(temporary, images, prepare, mirrored, told)
        (temporary / "made_by.json").write_text(json.dumps(facts), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(temporary, folder)
        team().meet()
    except OSError as e:
        raise UserError(f"can't write {folder}: {e.strerror or e}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write(folder: Path, images: Batches, prepare: Prepare, mirrored: tuple[bool, ...], told: Told) -> None:
    """Row after row, so that a full disk is an error, and not a signal from a memory map."""
    total = len(images) * len(mirrored)
    with ExitStack() as stack:
        files = [stack.enter_context((folder / f"{name}.npy").open("wb")) for name in prepare.names]
        for file, space in zip(files, prepare.spaces, strict=True):
            header = {"descr": _dtype(space).str, "fortran_order": False, "shape": (total, *space.shape)}
            np.lib.format.write_array_header_1_0(file, header)
        for parts in _made(images, prepare, mirrored, told):
            for file, part in zip(files, parts, strict=True):
                file.write(part.tobytes())


@torch.no_grad()
def _made(images: Batches, prepare: Prepare, mirrored: tuple[bool, ...], told: Told) -> Iterator[list[np.ndarray]]:
    """What the images are turned into, some after others."""
    done = 0
    for flip in mirrored:

        def make(batch: Batch, flip: bool = flip) -> list[np.ndarray]:
            parts = prepare.make(batch.x.flip(-1) if flip else batch.x, batch.y)
            return [part.cpu().numpy().astype(_dtype(space)) for part, space in zip(parts, prepare.spaces, strict=True)]

        for index, parts in in_rounds(images, _at_once(images), make):
            yield parts
            done += len(index)
            told(done, len(images) * len(mirrored))


def _at_once(images: Batches) -> int:
    """How many images are turned at once: 256, of large ones as many as 5 of 3x1024x1024."""
    return max(1, min(256, 2**24 // images.x[0].numel()))


def _dtype(space: Space) -> np.dtype:
    """The smallest that holds the values, of those that torch can index; float32 of real numbers."""
    if space.levels is None:
        return np.dtype("float32")
    return np.dtype("uint8" if space.levels <= 256 else "int16" if space.levels <= 2**15 else "int32")


def in_memory(images: Shuffled, prepare: Prepare, n: int) -> Prepared:
    """What the first n images are turned into, kept nowhere."""
    batch = next(images.in_order(n))
    with torch.no_grad():
        parts = prepare.make(batch.x, batch.y)
    return Prepared(
        tuple(part.cpu() for part in parts), None if batch.y is None else batch.y.cpu(), prepare, images.device
    )

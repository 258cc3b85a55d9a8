"""The runs that a server was started with: opened when they are asked for, and again once they have other weights."""

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from lowerbound.data.batches import Batch, binarized
from lowerbound.data.images import Images
from lowerbound.editing.latents import Codec, codec
from lowerbound.errors import UserError
from lowerbound.explorer.uploads import Uploads
from lowerbound.model import Model
from lowerbound.progress import Progress
from lowerbound.runs.conditions import Asked
from lowerbound.runs.inputs import UserImages, as_batches, open_data, user_images
from lowerbound.runs.run import Run
from lowerbound.units import to_bytes

T = TypeVar("T")


class Heard(Progress):
    """What would be said on a terminal, for the page."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


class Shown:
    """A run as panels are given it, with one set of weights; what they find of it, they may keep by `once`.

    uploads: the images that pages have sent. runs: all of the server, by their place.
    """

    def __init__(self, run: Run, name: str, device: torch.device, uploads: Uploads, runs: Sequence[Run] = ()):
        self.run = run
        self.name = name
        self.device = device
        self.uploads = uploads
        self.runs = runs
        self.stamp = _stamp(run)
        self._kept: dict[Any, Any] = {}
        self._locks: dict[Any, threading.Lock] = {}
        self._lock = threading.Lock()

    @property
    def is_stale(self) -> bool:
        """Whether the run has other weights by now."""
        return _stamp(self.run) != self.stamp

    def once(self, key: Any, find: Callable[[], T]) -> T:
        """What `find` gives, found once for all pages. Whoever asks meanwhile waits, the others go on."""
        with self._lock:
            if key in self._kept:
                return self._kept[key]
            lock = self._locks.setdefault(key, threading.Lock())
        with lock:
            if key not in self._kept:
                self._kept[key] = find()
            return self._kept[key]

    @property
    def model(self) -> Model:
        """In eval mode. Raises RunError before there are weights."""
        return self.once("model", lambda: self.run.load(self.device))

    @property
    def codec(self) -> Codec:
        """Images as vectors, and back. Raises ModelError for a model without."""
        return self.once("codec", lambda: codec(self.run, self.device, whole=True))

    def is_a(self, *roles: type) -> bool:
        """Whether the model has one of some roles; false before there is one."""
        try:
            return isinstance(self.model, roles)
        except UserError:
            return False

    @cached_property
    def levels(self) -> int:
        """How many values a pixel takes."""
        return self.run.facts.space.levels or 256

    # ---- images

    def pictures(self, x: Tensor | np.ndarray) -> np.ndarray:
        """Events, or means of pixels, [..., C, H, W] -> uint8 [..., H, W, C] in 0-255, as the page draws them."""
        array = x.detach().cpu().numpy() if isinstance(x, Tensor) else x
        return np.moveaxis(to_bytes(array, self.levels), -3, -1)

    def data(self, split: str = "valid") -> Images:
        """A part of the run's data. Raises UserError where they are not to be had."""
        return self.once(("data", split), lambda: open_data(self.run, split))

    def images(self, names: Sequence[str]) -> tuple[UserImages, list[str]]:
        """Images of the page's, `upload:NAME`, or of the run's data, `valid:17`, prepared as the run's data were, and
        what is to be said of how they were made so. Raises Gone for an upload that is not there any more.
        """
        heard = Heard()
        parts = [self._image(name, heard) for name in names]
        return UserImages(torch.cat(parts), tuple(names), ()), heard.lines

    def _image(self, name: str, heard: Progress) -> Tensor:
        kind, _, which = name.partition(":")
        if kind == "upload":
            path = self.uploads.path(which)
            own = user_images(self.run, [path], heard, self.device)
            return own.x
        return self._of_data(kind, which).x

    def condition(self, images: UserImages, asked: Asked, heard: Progress) -> Tensor | None:
        """What images are encoded with: as asked for, else as the data say, else as the model tells: [B, ...]."""
        if not self.model.given:
            return None
        own = [name.partition(":") for name in images.paths]
        if not asked and all(kind != "upload" for kind, _, _ in own):
            known = [self._of_data(kind, which).y for kind, _, which in own]
            return torch.cat(known)
        editor = self.codec
        editor.run.check_asked(asked)
        return editor.condition(images, asked)

    def _of_data(self, split: str, which: str) -> Batch:
        """A batch of one image of the run's data, with its condition."""
        if split not in ("valid", "train", "test"):
            raise UserError(f"no image {split}:{which}; expected upload:NAME or valid:NUMBER")
        n = len(self.data(split))
        if not which.isdecimal() or int(which) >= n:
            raise UserError(f"no image {split}:{which}; expected a number below {n}")
        return self.batch(split, np.array([int(which)]))

    def batch(self, split: str, rows: np.ndarray) -> Batch:
        """Images of the run's data by their places, [B], as the model is shown them, with their conditions."""
        images = self.data(split)
        (batch,) = as_batches(self.run, images.take(rows), self.device).in_order(len(rows))
        if self.run.facts.binarizes:  # by the image's own place, as everywhere
            batch = batch._replace(x=binarized(torch.from_numpy(images.x[rows]), images.levels, rows).to(self.device))
        return batch


class Shelf:
    """All runs of a server, by their place."""

    def __init__(self, runs: Sequence[Run], device: torch.device, uploads: Uploads):
        self.runs = runs
        self.device = device
        self.uploads = uploads
        self._opened: dict[int, Shown] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.runs)

    def __getitem__(self, place: int) -> Shown:
        """Raises UserError for no such run."""
        if not 0 <= place < len(self.runs):
            raise UserError(f"no run {place}; expected a number below {len(self.runs)}")
        with self._lock:
            shown = self._opened.get(place)
            if shown is None or shown.is_stale:
                run = self._as_it_is(place, shown)
                shown = Shown(run, _name(run, self.runs), self.device, self.uploads, self.runs)
                self._opened[place] = shown
            return shown

    def _as_it_is(self, place: int, before: Shown | None) -> Run:
        """The run, opened again where it may have been started over; as it was, where it can't be opened."""
        run = self.runs[place] if before is None else before.run
        try:
            return run if before is None else run.again()
        except UserError:
            return run


def _name(run: Run, others: Sequence[Run]) -> str:
    """What it is asked for by, or the folder's name; where two runs share it, with the folder above."""
    alike = [o for o in others if o.title == run.title]
    path = run.path.resolve()
    return run.title if len(alike) == 1 else f"{path.parent.name}/{path.name}"


def _stamp(run: Run) -> tuple[int, ...]:
    """What tells one state of the weights and of the configuration from another."""
    found: list[int] = []
    for name in ("model.safetensors", "config.json"):
        with suppress(OSError):
            stat = (run.path / name).stat()
            found += [stat.st_mtime_ns, stat.st_size, stat.st_ino]
    return tuple(found)

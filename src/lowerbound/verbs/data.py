"""Data sets: what there is, and what is in one."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lowerbound import pictures
from lowerbound.config import override
from lowerbound.data import bundled
from lowerbound.data.base import Data
from lowerbound.data.shards import pack
from lowerbound.data.survey import Sheet, sheet, summary
from lowerbound.errors import UserError
from lowerbound.verbs.base import File, Out, Report, Rows, Told, called, verb


@verb
def list_data() -> Rows:
    """The data sets that have a name, and whether their files are there."""
    return Rows([row._asdict() for row in bundled.names()])


@dataclass(frozen=True, eq=False)
class Summary(Report):
    """What is in a data set; see `data.survey.summary`."""

    name: str
    n: int
    splits: dict[str, int]
    shape: list[int] | None
    levels: int
    classes: dict[str, int] | None
    factor_names: list[str] | None
    mean: list[float] | None
    unreadable: list[list[str]]
    ignored: int
    layout: str
    remarks: list[str] = field(metadata=called("notes"))
    sizes: dict[str, int] | None = None
    other_sizes: int | None = None
    modes: dict[str, int] | None = None
    crop: dict[str, Any] | None = None
    out: str | None = None


@verb
def show_data(data: str, /, *changes: str, out: File = None, progress: Told = False) -> Summary:
    """A summary and a contact sheet of a data set.

    Args:
        data: a bundled name, a folder, .zip, .tar or .npz, or shards and their URL
        changes: KEY=VALUE of the data, such as size=64 gray=true
        out: write a contact sheet to this .png
    """
    if out is not None and Path(out).suffix.lower() != ".png":
        raise UserError(f"--out {out}: expected a file ending in .png")
    config = override(Data(source=data), [c.removeprefix("data.") for c in changes])
    report = summary(config, progress=progress.count("decoding"))
    report["remarks"] = report.pop("notes")
    if out is not None:
        shown = sheet(config)
        pictures.save_png(_picture(shown), Path(out))
    return Summary(**report, out=str(out) if out else None)


@dataclass(frozen=True, eq=False)
class Packing(Report):
    """What lies packed in a folder. written: its shards that were written now; 0 where they all were there."""

    out: str
    name: str
    n: int
    splits: dict[str, int]
    shape: list[int]
    levels: int
    shards: int
    bytes: int
    written: int
    taken_up: int  # shards that an interrupted packing had finished
    fingerprint: str  # of the images

    def notes(self) -> Sequence[str]:
        if not self.written:
            return [f"{self.out} holds these data already; nothing was written"]
        return [f"train on it with --data {self.out}"]


# what is said of training, not of what the data are
_OF_TRAINING = ("label", "labels", "given", "flip", "binarize", "window")


@verb
def pack_data(
    data: str,
    /,
    *changes: str,
    out: Out = None,
    shard_size: str = "512MB",
    overwrite: bool = False,
    progress: Told = False,
) -> Packing:
    """Packs a data set into shards, which are read where they lie: of data larger than the memory, or on a server.

    A shard is an .npy of images as they are trained on. Interrupted, the same command goes on where it was.

    Args:
        data: a bundled name, a folder, .zip, .tar or .npz, or shards and their URL
        changes: KEY=VALUE of the data, such as size=64 gray=true
        out: the folder to write
        shard_size: bytes of pixels in a file at most, such as 512MB or 1GiB
        overwrite: replace the shards that lie there
    """
    if out is None:
        raise UserError("out: expected the folder to write")
    config = override(Data(source=data), [c.removeprefix("data.") for c in changes])
    for name in _OF_TRAINING:
        if getattr(config, name) != Data.model_fields[name].default:
            raise UserError(f"data.{name}: is of a training, and shards hold all that is known; say it to `train`")
    folder = Path(out).expanduser()
    try:
        done = pack.pack(
            config, folder, pack.size_of(shard_size), overwrite=overwrite, progress=progress.count("packing")
        )
    except KeyboardInterrupt:
        progress.say(f"interrupted; the same command goes on with what is in {folder}.part")
        raise
    index = done.index
    return Packing(
        out=str(out),
        name=index.facts["name"],
        n=index.n,
        splits={part: n for part, n in index.counts.items() if n},
        shape=list(index.shape),
        levels=index.facts["levels"],
        shards=len(index.shards),
        bytes=index.size,
        written=done.written,
        taken_up=done.taken_up,
        fingerprint=index.fingerprints["all"],
    )


def _picture(shown: Sheet) -> np.ndarray:
    """Images with the names of their classes; of rendered data a factor a row."""
    if shown.varied is None:
        return pictures.contact_sheet(shown.x, shown.levels, shown.labels)
    return pictures.table_picture(pictures.Table(shown.varied.x, shown.levels, shown.varied.names))

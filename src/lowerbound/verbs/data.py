"""Data sets: what there is, and what is in one."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lowerbound import pictures
from lowerbound.config import override
from lowerbound.data import bundled
from lowerbound.data.base import Data
from lowerbound.data.survey import Sheet, sheet, summary
from lowerbound.errors import UserError
from lowerbound.verbs.base import File, Report, Rows, Told, called, verb


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


def _picture(shown: Sheet) -> np.ndarray:
    """Images with the names of their classes; of rendered data a factor a row."""
    if shown.varied is None:
        return pictures.contact_sheet(shown.x, shown.levels, shown.labels)
    return pictures.table_picture(pictures.Table(shown.varied.x, shown.levels, shown.varied.names))

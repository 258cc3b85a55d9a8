"""Take images out of a file that `compress` wrote, all or some."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from lowerbound.codec.archive import Archive
from lowerbound.codec.choice import Way
from lowerbound.codec.container import Container
from lowerbound.codec.contents import Contents
from lowerbound.codec.images import Values, targets
from lowerbound.errors import RunError, UserError, counted, did_you_mean
from lowerbound.pictures import save_png
from lowerbound.runs.run import Run
from lowerbound.verbs.base import MANY, Option, OtherRun, Report, Rows, Shown, Told, verb


@dataclass(frozen=True, eq=False)
class Decompressed(Report):
    """Images that were taken out of a file."""

    out: str
    images: int
    lossy: bool  # whether the file holds codes alone, and the images are what these decode to
    seconds: float
    mb_per_second: float  # of pixel values

    def shown(self) -> str:
        like = ", not the pixels that went in but what their codes decode to (lossy)" if self.lossy else ""
        return f"{counted(self.images, 'image')} in {self.out}{like}, {self.mb_per_second:.2g} MB/s"


@verb
def decompress(
    file: Annotated[str | Path, Option(kind=Path)],
    /,
    *,
    out: Annotated[str | Path | None, Option(kind=Path | None)] = None,
    only: Annotated[Sequence[str] | None, Option(kind=list[str] | None), MANY] = None,
    listing: Annotated[bool, Parameter(name="--list")] = False,
    overwrite: bool = False,
    run: OtherRun = None,
    progress: Told = False,
) -> Shown:
    """Take images out of a file that `compress` wrote, all or some: PNG files of the same pixels.

    Args:
        file: what `compress` wrote
        out: the folder for the images
        only: an image of this name alone; may be given several times
        listing: say which images there are, without decoding any
        overwrite: write over files that are there
        run: the run that wrote it, where it doesn't lie where the file says

    Raises UserError: for another model, a file that is damaged, where this machine does not compute as that which wrote
    it, and for images that are there already.
    """
    with Container(Path(file)) as container:
        if listing:
            return _listed(Contents.of(container), Way.of(container))
        if out is None:
            raise UserError("--out: say the folder for the images, or --list to see which there are")
        begun, run, lossy = time.monotonic(), _run_of(container, run), Way.of(container).lossy
        model = run.load()
        values = Values(model.space, run.recipe.data.levels is None)
        contents = Contents.of(container)
        layout = contents.layout(container, run.facts.shape)
        wanted = _wanted(contents.names, only)
        paths = targets(contents.names)
        there = [] if overwrite else [Path(out, paths[i]) for i in wanted if os.path.lexists(Path(out, paths[i]))]
        if there:
            raise UserError(f"{there[0]} is there already; say another folder, or --overwrite")
        y = contents.labels_of(container, layout, model.given)
        archive, told, done = Archive(container, model, y), progress.count("decompressing"), 0
        for k, i in enumerate(wanted):
            part = layout.tiles(i)
            x = values.back(layout.joined(i, archive[part.start : part.stop]))
            save_png(x[0] if len(x) == 1 else x.transpose(1, 2, 0), Path(out) / os.fspath(paths[i]))
            done += x.size
            told(k + 1, len(wanted))
    seconds = time.monotonic() - begun
    return Decompressed(str(out), len(wanted), lossy, seconds, done / seconds / 1e6)


def _listed(contents: Contents, way: Way) -> Rows:
    sizes = contents.sizes or [None] * len(contents.names)
    rows = zip(contents.names, sizes, strict=True)
    kept = {"kept": "nearly (lossy)"} if way.lossy else {}
    return Rows([{"name": name, "width": size and size[1], "height": size and size[0]} | kept for name, size in rows])


def _run_of(container: Container, run: Run | None) -> Run:
    """The run that was named, or where the file says that it lies."""
    if run is not None:
        return run
    path = container.head.table.get("run")
    if not isinstance(path, str):
        raise RunError(f"{container.path} does not say which run wrote it: name it by --run")
    try:
        return Run.open(path)
    except RunError as e:
        raise RunError(
            f"{container.path} was written by the run {path}: {e}; name where it lies now by --run"
        ) from None


def _wanted(names: Sequence[str], only: Sequence[str] | None) -> list[int]:
    if only is None:
        return list(range(len(names)))
    for name in only:
        if name not in names:
            raise UserError(f"--only {name}: no image of this name{did_you_mean(name, names)}")
    return [i for i, name in enumerate(names) if name in set(only)]

"""Put images into one file, by the probabilities of a model: lossless."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated

from lowerbound.codec import archive
from lowerbound.codec.choice import Way
from lowerbound.codec.container import is_one
from lowerbound.codec.contents import labels_of_tiles, table_of
from lowerbound.codec.images import Values, found, read
from lowerbound.codec.tiles import Layout, Tiles
from lowerbound.errors import UserError, counted
from lowerbound.runs.conditions import Asked
from lowerbound.runs.run import Run
from lowerbound.space import Space
from lowerbound.verbs.base import Files, Label, Option, Report, SomeWhole, Told, verb


@dataclass(frozen=True, eq=False)
class Compressed(Report):
    """A file of images: its size, and what it is made of."""

    out: str
    images: int
    tiles: int  # images of the model's size that they were cut into
    levels: int  # values that a pixel takes
    lossy: bool  # whether it holds the codes alone
    psnr: float | None  # of what comes back, in dB, where it is lossy
    bytes: int  # of the file
    bits_per_dim: float  # of the file, by the pixel values of the images
    net_bits_per_dim: float  # of the messages without initial bits, by the pixel values of the tiles: what a bound says
    initial_bytes: int
    table_bytes: int
    framing_bytes: int
    blocks: int
    verified: bool
    seconds: float
    mb_per_second: float  # of pixel values in, to be verified out again too

    def shown(self) -> str:
        kind = "two-level image" if self.levels == 2 else "image"
        checked = "read back and compared" if self.verified else "not read back"
        return (
            f"{counted(self.images, kind)} in {self.out}: {self.bytes:,} bytes, {self.bits_per_dim:.4g} bits/dim; "
            f"{self.net_bits_per_dim:.4g} without names, checksums and initial bits ({self.initial_bytes:,} bytes); "
            f"{checked}{self._lost()}, {self.mb_per_second:.2g} MB/s"
        )

    def _lost(self) -> str:
        return "" if self.psnr is None else f", LOSSY: other pixels come back, PSNR {self.psnr:.1f} dB"


@verb
def compress(
    run: Run,
    images: Files,
    /,
    *,
    out: Annotated[str | Path, Option(kind=Path)],
    label: Label = None,
    steps: SomeWhole = None,
    lossy: bool = False,
    block: SomeWhole = None,
    float32: bool = False,
    no_names: bool = False,
    no_verify: bool = False,
    progress: Told = False,
) -> Compressed:
    """Put images into one file, by the probabilities of a model: lossless.

    The file holds the pixels, to the last bit, the names, and where the run lies; `decompress` needs the run's weights.
    Images of another size than the model's are cut into tiles, each coded by itself.

    Args:
        images: image files, or folders of them
        out: the file; one that was there is replaced, if `compress` wrote it
        label: what all images are, for a model that is given the label; by default the folder's name that each is in
        steps: in which a diffusion model is coded, by default its own or 16: more take longer, and less room
        lossy: of a VQ-VAE, keep the codes alone: a tiny file, of which other pixels come back
        block: images of a block, which are decoded together; by default as many as suit the model
        float32: networks as they are, not by sums that are exact: faster, and for this machine and its like alone
        no_names: leave out the names of the images, and where the run lies
        no_verify: don't decode the whole file and compare before it takes its name

    Raises UserError: for a model that can't, for images of which something would be lost, and for another program's
    file in the place of `out`.
    """
    _check_free(Path(out))
    begun, model = time.monotonic(), run.load()
    values = Values(model.space, run.recipe.data.levels is None)
    pictures = found(images)
    layout = Layout([p.size for p in pictures], run.facts.shape)
    tiles = Tiles(layout, lambda i: read(pictures[i], values))
    names, place = (None, None) if no_names else ([p.name for p in pictures], run.place)
    labels = _labels(run, [p.name for p in pictures], label)
    table = table_of(layout.sizes, run.facts.shape, names, place, labels)
    written = archive.write(
        Path(out),
        model,
        tiles,
        table,
        y=None if labels is None else labels_of_tiles(labels, layout),
        way=Way(lossy, steps),
        block=block,
        float32=float32,
        verify=not no_verify,
        told=progress.count("compressing"),
    )
    seconds, values_of = time.monotonic() - begun, sum(h * w for h, w in layout.sizes) * model.space.shape[0]
    return Compressed(
        out=str(out),
        images=len(pictures),
        tiles=written.n,
        levels=model.space.levels or 0,
        lossy=lossy,
        psnr=_psnr(written, model.space) if lossy else None,
        bytes=written.bits // 8,
        bits_per_dim=written.bits / values_of,
        net_bits_per_dim=written.net / (written.n * model.space.dims),
        initial_bytes=written.initial // 8,
        table_bytes=written.table // 8,
        framing_bytes=written.framing // 8,
        blocks=written.blocks,
        verified=not no_verify,
        seconds=seconds,
        mb_per_second=values_of / seconds / 1e6,
    )


def _check_free(out: Path) -> None:
    """Raise UserError where a file would be lost that `compress` did not write, such as one of the images."""
    if out.is_file() and not is_one(out):
        raise UserError(f"--out {out}: this file is there and `lowerbound compress` did not write it; say another name")


def _labels(run: Run, names: Sequence[str], label: str | int | None) -> list[int] | None:
    """Of each image, where the run's model is given it: what is asked for, or the folder's name that the image is in.

    Raises UserError where it is neither.
    """
    classes = run.facts.classes
    if label is not None or not run.recipe.data.label or classes is None:
        y = None if label is None else run.condition(1, Asked(label))
        return None if y is None else [int(y)] * len(names)
    folders = [PurePosixPath(name).parent.name for name in names]
    for name, folder in zip(names, folders, strict=True):
        if folder not in classes:
            raise UserError(
                f"{name}: the model is given what each image is ({', '.join(classes[:3])}, ...); say it of all by "
                "--label, or give a folder with a folder of images for each"
            )
    return [classes.index(folder) for folder in folders]


def _psnr(written: archive.Written, space: Space) -> float:
    mse = written.squared_error / (written.n * space.dims) / ((space.levels or 256) - 1) ** 2
    return -10 * math.log10(mse) if mse else math.inf

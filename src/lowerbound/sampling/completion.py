"""Images of which a part is kept and the rest drawn."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lowerbound.data.base import open_mask
from lowerbound.errors import UserError, did_you_mean
from lowerbound.model import PLAIN, Draw, Drawn, LatentModel, Model, Told
from lowerbound.pictures import Table, save_table
from lowerbound.progress import Progress
from lowerbound.sampling.drawing import in_file, in_parts
from lowerbound.space import Y

IN_A_ROW = 12  # completions, at most, in a row of the picture


def complete(
    model: Model,
    x: Tensor,
    kept: Tensor,
    n: int,
    y: Tensor | None = None,
    how: Draw = PLAIN,
    progress: Progress | None = None,
) -> Drawn:
    """What `model.complete` draws, n times for each of B events: [B, n, ...]. y [B, n] on any device."""

    def some(part: Tensor, given: Y, told: Told) -> Drawn:
        return model.complete(x[part // n], kept, given, how, told)

    return _by_image(in_parts(model, len(x) * n, None if y is None else y.flatten(), some, progress), n)


def redraw(
    model: LatentModel,
    coarse: tuple[Tensor, ...],
    n: int,
    y: Tensor | None = None,
    how: Draw = PLAIN,
    progress: Progress | None = None,
) -> Drawn:
    """What `model.redraw` draws, n times for the coarsest latents of each of B events: [B, n, ...]. y [B, n]."""

    def some(part: Tensor, given: Y, told: Told) -> Drawn:
        return model.redraw(tuple(level[part // n] for level in coarse), given, how, told)

    return _by_image(in_parts(model, len(coarse[0]) * n, None if y is None else y.flatten(), some, progress), n)


def _by_image(drawn: Drawn, n: int) -> Drawn:
    """[B * n, ...] -> [B, n, ...]."""
    return Drawn(drawn.x.unflatten(0, (-1, n)), tuple(z.unflatten(0, (-1, n)) for z in drawn.z))


# ---- what is kept


def rows_kept(fraction: float, size: tuple[int, ...]) -> Tensor:
    """The upper fraction of the rows, rounded to whole ones: bool [H, W]."""
    return _first_rows(math.floor(fraction * size[0] + 0.5), size)


def _first_rows(rows: int, size: tuple[int, ...]) -> Tensor:
    return (torch.arange(size[0]) < rows)[:, None].expand(size)


def kept(keep: str, size: tuple[int, ...]) -> Tensor:
    """What `--keep` says, for images of this size: bool [H, W]. Raises UserError."""
    H, W = size
    what, colon, value = keep.partition(":")
    if what == "top" and colon:
        share = _number(value)
        if share is None or not 0 <= share <= 1:
            raise UserError(f"--keep {keep}: expected a fraction of the rows from 0 to 1, such as top:0.5")
        return rows_kept(share, size)
    if what == "rows" and colon:
        if not value.isdecimal() or int(value) > H:
            raise UserError(f"--keep {keep}: expected a whole number of rows from 0 to {H}, such as rows:{H // 2}")
        return _first_rows(int(value), size)
    if not Path(keep).exists():
        raise UserError(
            f"--keep {keep}: no such file; expected top:FRACTION of the rows, rows:N, or a picture of {W}x{H} pixels "
            "that is white where they are kept and black elsewhere"
        )
    return torch.from_numpy(open_mask(keep, (H, W)))


def levels_kept(model: Model, keep: str) -> int:
    """How many of the coarsest levels `--keep-level` names: z3, with all that are coarser, or these: `top,middle`.

    Raises UserError.
    """
    names = keep.split(",")
    for name in names:
        if name not in model.levels:
            raise UserError(f"--keep-level {keep}: no level {name!r}{did_you_mean(name, model.levels)}")
    if len(names) == 1:
        names = model.levels[: model.levels.index(keep) + 1]
    if len(set(names)) == len(model.levels):
        raise UserError(f"--keep-level {keep}: keeps every level of this model, so there is nothing to draw")
    if set(names) != set(model.levels[: len(names)]):
        coarsest = " or ".join(",".join(model.levels[: l + 1]) for l in range(len(model.levels) - 1))
        raise UserError(f"--keep-level {keep}: finer levels are drawn given the coarser, so expected {coarsest}")
    return len(names)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


# ---- what comes of it


@dataclass(frozen=True)
class Completion:
    """Images, of which a part was kept and the rest drawn."""

    originals: np.ndarray  # uint8 [B, C, H, W], as the run prepares them
    kept: np.ndarray  # bool [H, W]
    x: np.ndarray  # uint8 [B, n, C, H, W]
    levels: int
    names: tuple[str, ...] = ()  # [B], of the images
    labels: tuple[tuple[str, ...], ...] | None = None  # [B][n], where they were drawn
    title: str = ""
    codes: Mapping[str, np.ndarray] = field(default_factory=dict)  # int64 [B, n, h, w] of each level, where there are

    @cached_property
    def seam(self) -> dict[str, float] | None:
        """How much neighbouring pixels of two rows differ where what is kept ends, and elsewhere in the originals."""
        return seam(self.originals, self.kept, self.x)

    def save(self, out: Path) -> None:
        """By the rule of `--out`: a picture has the originals and what is kept of them too, all else only the draws; an
        .npz has their codes, where there are any."""
        _save(self.table(), self.x, self.names, out, flat_codes(self.codes))

    def table(self) -> Table:
        """A row for each image: the original, what is kept, the draws; many draws are wrapped."""
        kept = np.stack([self._greyed(image) for image in self.originals])
        return _table({"original": self.originals, "kept": kept}, self.x, self.levels, self.names, self.title)

    def _greyed(self, image: np.ndarray) -> np.ndarray:
        """The image with a chequered grey where it is not kept."""
        H, W = self.kept.shape
        grey = np.where(np.add.outer(np.arange(H), np.arange(W)) % 2, 0.65, 0.45) * (self.levels - 1)
        return np.where(self.kept, image, grey)


@dataclass(frozen=True)
class Redrawn:
    """Images, of which the codes of the coarsest levels were kept and the finer drawn."""

    originals: np.ndarray  # uint8 [B, C, H, W], as the run prepares them
    reconstructions: np.ndarray  # float [B, C, H, W], from all of their own codes
    x: np.ndarray  # uint8 [B, n, C, H, W]
    codes: Mapping[str, np.ndarray]  # [B, n, *latent] of each level; int64, or float latents
    levels: int
    names: tuple[str, ...] = ()  # [B], of the images
    labels: tuple[tuple[str, ...], ...] | None = None  # [B][n], where they were drawn
    title: str = ""
    x_levels: int | None = None  # of means 256; None: those of the model, as originals and reconstructions have

    def save(self, out: Path) -> None:
        """By the rule of `--out`: a picture has the originals and reconstructions too, all else only the draws; an
        .npz has their codes."""
        _save(self.table(), self.x, self.names, out, flat_codes(self.codes))

    def table(self) -> Table:
        """A row for each image: the original, its reconstruction, the draws; many draws are wrapped."""
        levels = self.x_levels or self.levels
        scale = (levels - 1) / (self.levels - 1)
        before = {"original": self.originals * scale, "recon\u00adstruction": self.reconstructions * scale}
        return _table(before, self.x, levels, self.names, self.title)


def seam(originals: np.ndarray, kept: np.ndarray, x: np.ndarray) -> dict[str, float] | None:
    """The mean absolute difference of pixels above one another across the boundary of what is kept, in draws
    x [B, n, C, H, W]; that elsewhere in the originals [B, C, H, W]; and their ratio. None where one has no such pixels.

    A ratio of 1 is a seam that nobody sees; far above 1, what is drawn does not go on where the image ends.

    Example:
        >>> originals = np.arange(8, dtype=np.uint8).reshape(1, 1, 4, 2)
        >>> seam(originals, np.arange(4)[:, None].repeat(2, 1) < 2, originals[:, None] * 0 + 6)
        {'across': 3.5, 'elsewhere': 2.0, 'ratio': 1.75}
    """
    boundary = kept[1:] != kept[:-1]
    whole = np.where(kept, originals[:, None], x).astype(np.float64)
    across = np.abs(np.diff(whole, axis=-2))[..., boundary]
    elsewhere = np.abs(np.diff(originals.astype(np.float64), axis=-2))[..., ~boundary]
    if not across.size or not elsewhere.any():
        return None
    found = float(across.mean()), float(elsewhere.mean())
    return {"across": found[0], "elsewhere": found[1], "ratio": found[0] / found[1]}


def told_seam(seam: Mapping[str, float]) -> str:
    """For a person."""
    return f"rows differ {seam['ratio']:.2g} times as much across the seam as elsewhere in the originals"


def flat_codes(codes: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Codes [B, n, h, w] of each level as an .npz has them, beside images [B * n, ...]."""
    return in_file({name: c.reshape(-1, *c.shape[2:]) for name, c in codes.items()})


def _save(
    table: Table, x: np.ndarray, names: Sequence[str], out: Path, arrays: Mapping[str, np.ndarray] | None = None
) -> None:
    """Draws x [B, n, C, H, W], called after their images and numbered; a picture is of the table."""
    B, n = x.shape[:2]
    stems = [Path(name).stem for name in names] or [str(b) for b in range(B)]
    width = len(str(n))
    numbered = [f"{stem}-{i + 1:0{width}d}.png" for stem in stems for i in range(n)]
    save_table(table, x.reshape(B * n, *x.shape[2:]), out, numbered, arrays=arrays)


def _table(before: Mapping[str, np.ndarray], x: np.ndarray, levels: int, names: Sequence[str], title: str) -> Table:
    """A row for each image: what comes `before` its draws, [B, C, H, W] each, and the draws x [B, n, C, H, W]."""
    B, n = x.shape[:2]
    lines = math.ceil(n / IN_A_ROW)
    across = math.ceil(n / lines)
    whole = np.full((B, lines, len(before) + across, *x.shape[2:]), levels - 1.0, np.float32)  # paper
    for s, images in enumerate(before.values()):
        whole[:, 0, s] = images
    for line in range(lines):
        part = x[:, line * across : (line + 1) * across]
        whole[:, line, len(before) : len(before) + part.shape[1]] = part
    numbers = tuple(str(i + 1) for i in range(n)) if lines == 1 else ("drawn",) * across
    return Table(
        x=whole.reshape(B * lines, *whole.shape[2:]),
        levels=levels,
        rows=tuple(name for row in names for name in (row, *[""] * (lines - 1))) if B > 1 else (),
        columns=(*before, *numbers),
        title=title,
    )

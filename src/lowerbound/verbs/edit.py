"""Change images by their codes: encode, change z, decode."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from cyclopts import Parameter
from torch import Tensor

from lowerbound.data.images import Failed
from lowerbound.directions import Direction, found, shifted
from lowerbound.editing.checks import check_number
from lowerbound.editing.latents import Codec, codec
from lowerbound.errors import ModelError, UserError, counted
from lowerbound.model import Diffusing, Drawn, with_residual
from lowerbound.model import Told as Counted
from lowerbound.noise import seeded
from lowerbound.pictures import Table, check_out, save_table
from lowerbound.progress import Progress
from lowerbound.runs.conditions import Asked, Range
from lowerbound.runs.inputs import user_images
from lowerbound.runs.run import Run
from lowerbound.runs.told import condition_of
from lowerbound.sampling.drawing import in_parts
from lowerbound.space import Y
from lowerbound.verbs.base import (
    MANY,
    WHOLE,
    WITH_HYPHEN,
    Attributes,
    Device,
    Files,
    Label,
    Made,
    N,
    Option,
    Out,
    Seed,
    Told,
    assigned,
    numbers,
    verb,
)


@dataclass(frozen=True)
class Edit:
    """What is changed of a code: dimensions set to values, then directions added at their strengths."""

    values: Mapping[int, float] = field(default_factory=dict)
    strengths: Mapping[str, float] = field(default_factory=dict)

    def check(self, editor: Codec) -> None:
        """Raise UserError for a dimension, direction or number that can't be."""
        for d, value in self.values.items():
            editor.check_dimension(d, f"--set {d}={value:g}")
            check_number(value, f"--set {d}={value:g}")
            if editor.values is not None and value not in range(editor.values):
                wanted = f"a whole number from 0 to {editor.values - 1}, the values of each variable"
                raise UserError(f"--set {d}={value:g}: expected {wanted}")
        if editor.values is not None and self.strengths:
            raise UserError("--direction: goes along real numbers, and these latents take whole ones; give --set DIM=V")
        known = editor.directions if self.strengths else {}
        for name, strength in self.strengths.items():
            found(name, known)
            check_number(strength, f"--direction {name}={strength:g}")

    def __call__(self, z: Tensor, known: Mapping[str, Direction]) -> Tensor:
        """Codes [..., D] changed."""
        z = z.clone()
        for d, value in self.values.items():
            z[..., d] = value
        return shifted(z, self.strengths, known)

    def __str__(self) -> str:
        parts = [f"z{d} = {v:g}" for d, v in self.values.items()] + [f"{n} {s:+g}" for n, s in self.strengths.items()]
        return ", ".join(parts)


@dataclass(frozen=True)
class Edited(Made):
    """The picture, a row for each image, and the edited images alone."""

    table: Table
    x: np.ndarray  # [B, S, C, H, W], S strengths
    names: list[str]  # [B S], of files
    images: tuple[str, ...]  # [B], the names of the originals
    residual: bool = False
    seed: int | None = None  # of the draws of q(z|x), where codes are draws
    out: Path | None = None
    failed: tuple[Failed, ...] = ()

    @property
    def n(self) -> int:
        return self.x.shape[0] * self.x.shape[1]

    def json(self) -> dict[str, Any]:
        report = {
            "out": self.where(),
            "images": [*self.images],
            "n": self.n,
            "residual": self.residual,
            "seed": self.seed,
        }
        return report | {"failed": self.failures()}

    def shown(self) -> str:
        return f"{counted(self.n, 'edited image')} in {self.out}"

    def save(self, out: Path) -> None:
        """By the rule of `--out`: a picture has the originals and reconstructions too, all else the edited alone."""
        save_table(self.table, self.x.reshape(-1, *self.x.shape[2:]), out, self.names)


@verb
def edit(
    run: Run,
    images: Files,
    /,
    *,
    out: Out = None,
    set: Annotated[Mapping[int, float] | None, Option(list[str] | None, assigned(int)), MANY] = None,
    direction: Annotated[Mapping[str, float] | None, Option(list[str] | None, assigned(default="1")), MANY] = None,
    label: Label = None,
    own_label: Label = None,
    attribute: Attributes = None,
    own: Attributes = None,
    code: Annotated[str, Parameter(name="--from")] = "mean",
    n: Annotated[int | None, WHOLE, N] = None,
    strength_grid: Annotated[Sequence[float] | None, Option(str | None, numbers(float)), WITH_HYPHEN] = None,
    residual: bool = False,
    strength: float | None = None,
    device: Device = "auto",
    seed: Seed = 0,
    progress: Told = False,
) -> Edited:
    """Change images by their codes: encode, change z, decode; by a diffusion model: put noise on, take it away again.

    Args:
        images: image files
        out: ends in .png: a labelled grid; .gif: an animation; .npz; else a folder
        set: DIM=V: a dimension's new value; of latents that take whole numbers one of these
        direction: NAME=V: a direction and its strength, 1 if not said
        label: what the image becomes (conditional models)
        own_label: what it is; by default the likeliest by the bound
        attribute: NAME=V: what the image is to have (models that are given attributes); NAME=LOW..HIGH:N, of one: a row
        own: NAME=V: what it has; by default as the model predicts, or the likeliest by the bound
        code: mean or sample: of q(z|x); of whole numbers the mode stands for the mean
        n: with --from sample: so many draws of each image, a row, of --seed and the numbers after it
        strength_grid: -1,0,1,2: the whole change times each of these
        residual: add back what the reconstruction lost
        strength: of a diffusion model's noise, from 0 (the image stays) to 1 (another image)
        seed: of the draws of q(z|x), and of noise
    """
    if strength is not None:
        others = {
            "--set": set,
            "--direction": direction,
            "--strength-grid": strength_grid,
            "--own-label": own_label,
            "--own": own,
        }
        if said := [name for name, value in others.items() if value]:
            raise UserError(f"{said[0]}: changes a code, and --strength {strength:g} puts noise on the image; give one")
        return _redone(
            run, images, strength, Asked(label, attribute or {}), check_out(out, images), device, seed, progress
        )
    if code not in ("mean", "sample"):
        raise UserError(f"--from {code}: expected mean or sample")
    change, draw = Edit(set or {}, direction or {}), seed if code == "sample" else None
    strengths = strength_grid
    out = check_out(out, images, moving=True)
    for s in strengths or ():
        check_number(s, f"--strength-grid {s:g}")
    to, of = Asked(label, attribute or {}), Asked(own_label, own or {})
    if not (change.values or change.strengths or to):
        raise UserError(
            "nothing to change: give --set DIM=V, --direction NAME=V, or of a conditional model --label or --attribute"
        )
    editor = codec(run, device, progress, whole=True)
    change.check(editor)
    if strengths is not None and editor.values is not None:
        raise UserError("--strength-grid: goes along real numbers, and these latents take whole ones; leave it out")
    ranged = _checked(run, to, of)
    if ranged is not None and strengths is not None:
        raise UserError(f"--attribute {ranged.name}: has a range, and --strength-grid a row of its own; give one")
    if n is not None:
        _check_draws(n, code, alone=strengths is None and ranged is None)
    opened = editor.open(images)
    x = opened.x
    y = editor.condition(opened, of)
    z = editor.encode(x, y, draw)
    moved = change(z, editor.directions)
    lattice = moved[:, None] if strengths is None else _times(z, moved, strengths)  # [B, S, D]
    if n is not None:
        draws = (editor.encode(x, y, seed + i) for i in range(n))
        lattice = torch.stack([change(one, editor.directions) for one in draws], 1)
    wanted = None if y is None else _wanted(run, y, to, ranged)  # [B, 1 or S, ...]
    if y is not None and wanted is not None and to:
        lattice = lattice.expand(-1, max(lattice.shape[1], wanted.shape[1]), -1)
        wanted = wanted.expand(-1, lattice.shape[1], *wanted.shape[2:])
        lattice = editor.relabelled(lattice, y, wanted)
    edited = editor.decode(lattice, wanted)
    reconstruction = editor.decode(z, y)
    if residual:
        edited = with_residual(edited, x[:, None], reconstruction[:, None], editor.model.space)
    words = ", ".join(filter(None, [str(change), str(to if ranged is None else ranged.rest)]))
    columns, marks = _captions(words, strengths, ranged, n)
    name = "" if ranged is None else ranged.name
    title = "; ".join(filter(None, [name, words])) if len(columns) > 1 else ""
    title += ("; " if title else "") + "with the residual added back" if residual else ""
    whole = torch.cat([x[:, None].to(edited), reconstruction[:, None], edited], 1)
    table = Table(
        x=whole.cpu().numpy(),
        levels=editor.levels,
        columns=("original", "recon\u00adstruction", *columns),
        title=title,
    )
    suffix = "-residual" if residual else ""
    names = [f"{Path(path).stem}-{mark}{suffix}.png" for path in opened.paths for mark in marks]
    return Edited(table, edited.cpu().numpy(), names, opened.paths, residual, draw, out, opened.failed).saved()


def _checked(run: Run, to: Asked, of: Asked) -> Range | None:
    """The range of values there may be. Raises UserError for labels and attributes that the run's model isn't given."""
    factors = run.facts.factors
    for asked in (to, of):
        run.check_asked(asked)
        if asked.label is not None:
            run.condition(1, asked)  # whether there is such a class
    ranged, nothing = to.ranged(factors), np.zeros((1, len(factors)))
    (to if ranged is None else ranged.rest).over(nothing, factors)
    of.over(nothing, factors, "--own")
    return ranged


def _check_draws(n: int, code: str, *, alone: bool) -> None:
    """Raise UserError where there is no row of so many draws."""
    if n < 1:
        raise UserError(f"-n {n}: expected a whole number of at least 1")
    if code != "sample":
        raise UserError(f"-n {n}: all would be alike, of the code's mean; add --from sample")
    if not alone:
        raise UserError(f"-n {n}: is a row of draws, and --strength-grid or a range of an attribute another; give one")


def _wanted(run: Run, y: Tensor, to: Asked, ranged: Range | None) -> Tensor:
    """What images of conditions y [B, ...] are to become: [B, 1, ...], or of a range of S values [B, S, ...]."""
    if not run.facts.factors:
        label = run.condition(len(y), to) if to else None
        return (y if label is None else label.to(y.device))[:, None]
    each = [to] if ranged is None else ranged.each()
    return torch.stack([run.completed(y, asked) for asked in each], 1).to(y.device)


def _captions(
    words: str, strengths: Sequence[float] | None, ranged: Range | None, n: int | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Above the columns of edited images, and in the names of their files."""
    if ranged is not None:
        return tuple(ranged.values), tuple(f"{ranged.name}{v}" for v in ranged.values)
    if strengths is not None:
        return tuple(f"times {s:g}" for s in strengths), tuple(f"times{s:g}" for s in strengths)
    if n is not None:
        return tuple(f"draw {i + 1}" for i in range(n)), tuple(f"draw{i + 1}" for i in range(n))
    return (words,), ("edited",)


def _redone(
    run: Run,
    images: Sequence[str | Path],
    strength: float,
    asked: Asked,
    out: Path | None,
    device: torch.device,
    seed: int,
    progress: Progress,
) -> Edited:
    """Images with noise put on them and taken away. Raises ModelError for a model that doesn't."""
    model = run.load(device)
    if not isinstance(model, Diffusing):
        raise ModelError(f"--strength {strength:g}: {type(model).__name__} takes no noise away; a diffusion model does")
    own = user_images(run, images, progress, device)
    y = condition_of(run, model, own, asked, progress) if run.facts.factors else run.condition(len(own.x), asked, seed)

    def some(part: Tensor, given: Y, told: Counted) -> Drawn:
        return Drawn(model.redone(own.x[part], given, strength, told=told))

    with seeded(seed, "edit", quick=True):
        edited = in_parts(model, len(own.x), y, some, progress).x.cpu().numpy()
    words = f"noise of time {strength:g}" + (f"; {asked}" if asked else "")
    whole = np.stack([own.x.cpu().numpy(), edited], 1)
    table = Table(x=whole, levels=model.space.levels or 256, columns=("original", words))
    names = [f"{Path(path).stem}-edited.png" for path in own.paths]
    return Edited(table, edited[:, None], names, own.paths, False, seed, out, own.failed).saved()


def _times(z: Tensor, moved: Tensor, strengths: Sequence[float]) -> Tensor:
    """z + s (moved - z) for each strength: [B, S, D]."""
    s = torch.tensor(list(strengths), dtype=z.dtype, device=z.device)[:, None]
    return z[:, None] + s * (moved - z)[:, None]

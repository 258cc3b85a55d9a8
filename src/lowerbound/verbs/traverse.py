"""One row of images for each latent dimension, the most used first, all others held."""

import builtins
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Annotated, Any, NamedTuple

import torch
from torch import Tensor

from lowerbound.editing.checks import check_number, check_steps
from lowerbound.editing.latents import Codes, Editor, codes
from lowerbound.editing.values import is_of_values, start, values
from lowerbound.errors import UserError, counted
from lowerbound.metrics.disentangling.measured import Tells, tells
from lowerbound.model import LatentModel
from lowerbound.pictures import Table, check_out, save_table
from lowerbound.progress import Progress
from lowerbound.runs.conditions import Asked
from lowerbound.runs.inputs import as_batches, latent_model, open_data, user_images
from lowerbound.runs.run import Run
from lowerbound.verbs.base import (
    Attributes,
    Device,
    Label,
    Made,
    Option,
    Out,
    Seed,
    SomeWhole,
    Told,
    Whole,
    numbers,
    verb,
)

MOST = 5000  # images by which dimensions are named after factors

# ---- traversals


class Ruler(NamedTuple):
    """The values that a traversal gives each dimension, and how they are called."""

    values: Callable[[int], Tensor]  # dimension -> [S]
    captions: tuple[str, ...]  # [S]
    unit: str


@dataclass(frozen=True)
class Traversal(Made):
    """The picture, and the numbers of its rows."""

    table: Table
    dims: list[int]
    use: list[float]
    use_name: str
    unit: str
    out: Path | None = None
    factors: list[Tells | None] | None = None  # of each row; None: nobody asked

    def json(self) -> dict[str, Any]:
        found = {"out": self.where(), "dims": self.dims, self.use_name.lower(): self.use, "unit": self.unit}
        if self.factors is None:
            return found
        return found | {"factors": [None if told is None else told._asdict() for told in self.factors]}

    def shown(self) -> str:
        return f"{counted(len(self.dims), 'dimension')} in {self.out}, {self.use_name} from {self.use[0]:.3g} down"

    def save(self, out: Path) -> None:
        """By the rule of `--out`: rows one after another in an .npz and a folder."""
        R, S = self.table.x.shape[:2]
        names = [f"{r:03d}-z{d}-{s}" for r, d in enumerate(self.dims) for s in range(S)]
        save_table(self.table, self.table.x.reshape(R * S, *self.table.x.shape[2:]), out, names)


@verb
def traverse(
    run: Run,
    image: Annotated[str | Path | None, Option(kind=Path | None)] = None,
    /,
    *,
    out: Out = None,
    dims: Annotated[Sequence[int] | None, Option(kind=str | None, parse=numbers(int))] = None,
    top: SomeWhole = None,
    range: float = 3.0,
    steps: Whole = 7,
    quantiles: bool = False,
    posterior: bool = False,
    factors: bool = False,
    label: Label = None,
    attribute: Attributes = None,
    device: Device = "auto",
    seed: Seed = 0,
    progress: Told = False,
) -> Traversal:
    """One row of images for each latent dimension, the most used first, all others held.

    A row goes around the value held, the prior's mean or the image's code, by standard deviations of the aggregate
    posterior. With quantiles, at the levels that a normal has at those standard deviations.

    Args:
        image: start from its code; without it, from the prior's mean
        out: ends in .png: a grid; .npz: an array x; else a folder of PNGs
        dims: 0,1,…: only these dimensions
        top: only so many, the most used
        range: standard deviations of the codes, to either side
        steps: images in a row
        quantiles: go through quantiles of the codes instead
        posterior: go through standard deviations of the IMAGE's own q(z|x) instead
        factors: name the factor of variation that each dimension tells most of, and its share of all that it tells
        label: a class, by name or number (conditional models); by default the image's likeliest, or the most frequent
        attribute: NAME=V, of models that are given attributes; by default the image's likeliest, or typical ones
        seed: nothing is drawn

    A row of a latent that takes whole numbers goes through all its values. What a dimension tells of a factor is the
    mutual information of the posterior mean and the factor, over its entropy, of training images (at most 5,000).
    """
    out, reach, asked = check_out(out, () if image is None else (image,)), range, Asked(label, attribute or {})
    model = latent_model(run, device)
    if is_of_values(model):
        if quantiles or posterior:
            raise UserError("--quantiles, --posterior: are about real numbers, and these latents take whole ones")
        return _values(run, model, image, dims, top, asked, device, progress, out, factors)
    check_number(reach, f"--range {reach:g}", 0)
    check_steps(steps)
    if posterior and (image is None or quantiles):
        raise UserError("--posterior: is about an image's own q(z|x), so it needs an IMAGE, and no --quantiles")
    if top is not None and top < 1:
        raise UserError(f"--top {top}: expected at least 1")
    editor = Editor(run, device, progress)
    for d in dims or ():
        editor.check_dimension(d, f"--dims {d}")
    measured = codes(run, editor.model, device, progress)
    z, spread, y = _start(editor, measured, image, asked)
    chosen = [d for d in measured.order() if dims is None or d in dims][:top]
    ruler = _ruler(measured, z, spread if posterior else measured.scale, reach, steps, quantiles)
    if posterior:
        ruler = ruler._replace(unit="standard deviations of the image's q(z|x)")
    lattice = z.repeat(len(chosen), steps, 1)  # [R, S, D]
    for row, d in enumerate(chosen):
        lattice[row, :, d] = ruler.values(d)
    x = editor.decode(lattice.to(editor.device), y)
    use = [float(measured.use[d]) for d in chosen]
    told = _told(run, model, device, progress, chosen) if factors else None
    table = Table(
        x=x.cpu().numpy(),
        levels=editor.levels,
        rows=_captions(chosen, measured.use_name, use, told),
        columns=ruler.captions,
        title=f"from {'the prior mean' if image is None else Path(image).name}; {ruler.unit}",
    )
    return Traversal(table, chosen, use, measured.use_name, ruler.unit, out, told).saved()


def _told(
    run: Run, model: LatentModel, device: torch.device | str, progress: Progress, dims: Sequence[int]
) -> list[Tells | None]:
    """What each of some dimensions tells, by the first training images."""
    images = open_data(run, "train", progress=progress).head(MOST)
    found = tells(model, as_batches(run, images, torch.device(device)), "--factors")
    return [found[d] for d in dims]


def _captions(
    dims: Sequence[int], use_name: str, use: Sequence[float], told: Sequence[Tells | None] | None
) -> tuple[str, ...]:
    """z3 KL 2.10 camera_azimuth 83 %."""
    ends = [""] * len(dims) if told is None else [_tells(one) for one in told]
    return tuple(f"z{d}  {use_name} {u:.2f}{end}" for d, u, end in zip(dims, use, ends, strict=True))


def _tells(told: Tells | None) -> str:
    return "  no factor" if told is None else f"  {told.factor} {100 * told.share:.0f} %"


def _values(
    run: Run,
    model: LatentModel,
    image: str | Path | None,
    dims: Sequence[int] | None,
    top: int | None,
    asked: Asked,
    device: torch.device | str,
    progress: Progress,
    out: Path | None,
    factors: bool,
) -> Traversal:
    """One row for each variable that takes whole numbers, through all of them."""
    D = model.latents[0].dims
    for d in dims or ():
        if not 0 <= d < D:
            raise UserError(f"--dims {d}: expected a number from 0 to {D - 1}")
    if top is not None and top < 1:
        raise UserError(f"--top {top}: expected at least 1")
    measured = values(run, model, device)
    x = None if image is None else user_images(run, [image], progress, device).x
    y = run.typical(asked)
    y = None if y is None else y.to(device)
    chosen = [d for d in measured.order() if dims is None or d in dims][:top]
    first = measured.likeliest if x is None else start(model, x, y)
    lattice = measured.through(first.to(model.latents[0].dtype), chosen).to(device)  # [R, S, D]
    rows = lattice.flatten(0, 1)
    found = model.render((rows,), None if y is None else torch.cat([y] * len(rows)), mean=True)
    scaled = found.unflatten(0, lattice.shape[:2]).cpu().numpy()
    use = [float(measured.use[d]) for d in chosen]
    told = _told(run, model, device, progress, chosen) if factors else None
    table = Table(
        x=scaled,
        levels=run.facts.space.levels or 256,
        rows=_captions(chosen, measured.use_name, use, told),
        columns=tuple(map(str, builtins.range(measured.levels))),
        title=f"from {'the likeliest values' if image is None else Path(image).name}; values",
    )
    return Traversal(table, chosen, use, measured.use_name, "values", out, told).saved()


def _start(
    editor: Editor, measured: Codes, image: str | Path | None, asked: Asked
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The code that a traversal starts from [D], q(z|x)'s standard deviations [D], and its label [1]."""
    if image is None:
        y = editor.run.typical(asked)
        return measured.origin, measured.scale, None if y is None else y.to(editor.device)
    own = editor.open([image])
    y = editor.condition(own, asked)
    with torch.no_grad():
        q = editor.model.vector_posterior(own.x, y)
    return q.mean[0].double().cpu(), q.stddev[0].double().cpu(), y


def _ruler(measured: Codes, z: Tensor, scale: Tensor, reach: float, steps: int, quantiles: bool) -> Ruler:
    t = [reach * (2 * i - (steps - 1)) / (steps - 1) for i in range(steps)]  # the middle one is 0 exactly
    if quantiles:
        share = [NormalDist().cdf(v) for v in t]
        return Ruler(
            lambda d: measured.quantile(d, share).double(),
            tuple(f"{100 * s:.3g} %" for s in share),
            "quantiles of the aggregate posterior",
        )
    offsets = torch.tensor(t, dtype=torch.float64)
    return Ruler(
        lambda d: z[d] + offsets * scale[d],
        tuple(f"{v:+.2g}" if v else "0" for v in t),
        "standard deviations of the aggregate posterior",
    )

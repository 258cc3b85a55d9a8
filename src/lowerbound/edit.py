"""Editing a run's images by their codes: traversals, interpolations, edits.

All of it is of models with a single vector of latents. Images are decoded as the means of p(x|z), not rounded.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lowerbound.directions import Direction, found, shifted
from lowerbound.errors import ModelError, UserError
from lowerbound.latents import Codes, Editor, codes
from lowerbound.models.base import with_residual
from lowerbound.pictures import Table, save_table
from lowerbound.progress import Progress
from lowerbound.run import Run

# ---- traversals


class Ruler(NamedTuple):
    """The values that a traversal gives each dimension, and how they are called."""

    values: Callable[[int], Tensor]  # dimension -> [S]
    captions: tuple[str, ...]  # [S]
    unit: str


@dataclass(frozen=True)
class Traversal:
    """What `traverse` found: the picture, and the numbers of its rows."""

    table: Table
    dims: list[int]
    use: list[float]
    use_name: str
    unit: str

    def save(self, out: Path) -> None:
        """By the rule of `--out`: rows one after another in an .npz and a folder."""
        R, S = self.table.x.shape[:2]
        names = [f"{r:03d}-z{d}-{s}" for r, d in enumerate(self.dims) for s in range(S)]
        save_table(self.table, self.table.x.reshape(R * S, *self.table.x.shape[2:]), out, names)


def traverse(
    run: Run,
    image: str | Path | None = None,
    *,
    dims: Sequence[int] | None = None,
    top: int | None = None,
    reach: float = 3.0,
    steps: int = 7,
    quantiles: bool = False,
    posterior: bool = False,
    label: str | int | None = None,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> Traversal:
    """One row for each latent dimension, the most used first, all others held at the prior's mean or an image's code.

    A row goes from -reach to reach standard deviations of the aggregate posterior, around the value held. With
    `quantiles` it goes through the aggregate posterior's quantiles, at the levels that a normal has at those standard
    deviations; with `posterior`, through standard deviations of the image's own q(z|x). Deterministic.

    Args:
        dims: only these dimensions. top: only the so many most used.
        label: of a conditional model; None: the image's likeliest, or without an image the most frequent.
    """
    _check_number(reach, f"--range {reach:g}", 0)
    _check_steps(steps)
    if posterior and (image is None or quantiles):
        raise UserError("--posterior: is about an image's own q(z|x), so it needs an IMAGE, and no --quantiles")
    if top is not None and top < 1:
        raise UserError(f"--top {top}: expected at least 1")
    editor = Editor(run, device, progress)
    for d in dims or ():
        editor.check_dimension(d, f"--dims {d}")
    measured = codes(run, editor.model, device, progress)
    z, spread, y = _start(editor, measured, image, label)
    chosen = [d for d in measured.order() if dims is None or d in dims][:top]
    ruler = _ruler(measured, z, spread if posterior else measured.scale, reach, steps, quantiles)
    if posterior:
        ruler = ruler._replace(unit="standard deviations of the image's q(z|x)")
    lattice = z.repeat(len(chosen), steps, 1)  # [R, S, D]
    for row, d in enumerate(chosen):
        lattice[row, :, d] = ruler.values(d)
    x = editor.decode(lattice.to(editor.device), y)
    use = [float(measured.use[d]) for d in chosen]
    table = Table(
        x=x.cpu().numpy(),
        levels=editor.levels,
        rows=tuple(f"z{d}  {measured.use_name} {u:.2f}" for d, u in zip(chosen, use, strict=True)),
        columns=ruler.captions,
        title=f"from {'the prior mean' if image is None else Path(image).name}; {ruler.unit}",
    )
    return Traversal(table, chosen, use, measured.use_name, ruler.unit)


def _start(
    editor: Editor, measured: Codes, image: str | Path | None, label: str | int | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The code that a traversal starts from [D], q(z|x)'s standard deviations [D], and its label [1]."""
    if image is None:
        counts = editor.run.facts.counts
        frequent = None if not editor.model.given or not counts else int(np.argmax(counts))
        y = editor.run.labels(1, frequent if label is None else label)
        return measured.origin, measured.scale, None if y is None else y.to(editor.device)
    x = editor.open([image])
    y = editor.labels(x, label, [image])
    with torch.no_grad():
        q = editor.model.vector_posterior(x, y)
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


# ---- interpolations


def slerp(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    r"""Along the great circle from a to b, [D] each, at t [S] in [0, 1]: [S, D].

    .. math:: \frac{\sin((1 - t) \omega)}{\sin \omega} a + \frac{\sin(t \omega)}{\sin \omega} b,
        \quad \cos \omega = \frac{a \cdot b}{|a| |b|}

    Shoemake (1985), Animating rotation with quaternion curves, https://doi.org/10.1145/325334.325242; for latents
    White (2016), Sampling generative networks, https://arxiv.org/abs/1609.04468. Where a and b have the same norm,
    all have it. Straight where they are parallel, or one is 0. Raises ModelError for opposite ones.
    """
    a, b, t = a.double(), b.double(), t.double()[:, None]
    norms = a.norm() * b.norm()
    if norms == 0:
        return lerp(a, b, t[:, 0])
    u, v = a / a.norm(), b / b.norm()
    omega = 2 * torch.atan2((u - v).norm(), (u + v).norm())  # Kahan's: exact for small angles too
    if float(omega) > math.pi - 1e-6:
        raise ModelError("the codes of two images are opposite, and no great circle is the shortest; use --straight")
    if float(omega) < 1e-6:
        return lerp(a, b, t[:, 0])
    return (torch.sin((1 - t) * omega) * a + torch.sin(t * omega) * b) / torch.sin(omega)


def lerp(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """The straight line from a to b, [D] each, at t [S]: [S, D]. Exact at both ends."""
    t = t.double()[:, None]
    return (1 - t) * a.double() + t * b.double()


@dataclass(frozen=True)
class Interpolation:
    """What `interpolate` found: the picture, a row for each pair of images, and the frames in their order."""

    table: Table
    frames: np.ndarray  # [N, C, H, W]; of a loop the last frame is not the first again
    sphere: bool

    def save(self, out: Path) -> None:
        """By the rule of `--out`; a .gif shows the frames."""
        save_table(self.table, self.frames, out)


def interpolate(
    run: Run,
    images: Sequence[str | Path],
    *,
    steps: int = 9,
    loop: bool = False,
    straight: bool = False,
    label: str | int | None = None,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> Interpolation:
    """From each image to the next, and with `loop` back to the first: along the sphere for Gaussian latents.

    Args:
        steps: images from one to the next, both ends included.
        straight: along lines, whatever the latents are.
        label: of a conditional model; None: the images' likeliest, which must be the same.
    """
    _check_steps(steps)
    if len(images) < 2:
        raise UserError(f"expected at least two images to go between, got {len(images)}")
    editor = Editor(run, device, progress)
    x = editor.open(images)
    y = editor.labels(x, label, images)
    if y is not None and len(y.unique()) > 1:
        raise UserError("the images have different labels; --label gives all of them one")
    sphere = not straight and codes(run, editor.model, device, progress).sphere
    z = editor.encode(x, y).double().cpu()
    ends = [(i, (i + 1) % len(z)) for i in range(len(z) if loop else len(z) - 1)]
    path = slerp if sphere else lerp
    lattice = torch.stack([path(z[a], z[b], torch.linspace(0, 1, steps, dtype=torch.float64)) for a, b in ends])
    drawn = editor.decode(lattice.to(editor.device), None if y is None else y[:1]).cpu().numpy()
    originals = x.cpu().numpy()
    whole = [np.concatenate([originals[[a]], row, originals[[b]]]) for (a, b), row in zip(ends, drawn, strict=True)]
    frames = np.concatenate([row[1 if i else 0 :] for i, row in enumerate(drawn)])
    table = Table(
        x=np.stack(whole),
        levels=editor.levels,
        columns=("from", *(f"{i / (steps - 1):.2g}" for i in range(steps)), "to"),
        title="along the sphere" if sphere else "along a straight line",
    )
    return Interpolation(table, frames[:-1] if loop else frames, sphere)


# ---- edits


@dataclass(frozen=True)
class Edit:
    """What is changed of a code: dimensions set to values, then directions added at their strengths."""

    values: Mapping[int, float] = field(default_factory=dict)
    strengths: Mapping[str, float] = field(default_factory=dict)

    def check(self, editor: Editor) -> None:
        """Raise UserError for a dimension, direction or number that can't be."""
        for d, value in self.values.items():
            editor.check_dimension(d, f"--set {d}={value:g}")
            _check_number(value, f"--set {d}={value:g}")
        known = editor.directions if self.strengths else {}
        for name, strength in self.strengths.items():
            found(name, known)
            _check_number(strength, f"--direction {name}={strength:g}")

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
class Edited:
    """What `edit` made: the picture, a row for each image, and the edited images alone."""

    table: Table
    x: np.ndarray  # [B, S, C, H, W], S strengths
    names: list[str]  # [B S], for files

    def save(self, out: Path) -> None:
        """By the rule of `--out`: a picture has the originals and reconstructions too, all else the edited alone."""
        save_table(self.table, self.x.reshape(-1, *self.x.shape[2:]), out, self.names)


def edit(
    run: Run,
    images: Sequence[str | Path],
    change: Edit,
    *,
    label: str | int | None = None,
    own: str | int | None = None,
    draw: int | None = None,
    strengths: Sequence[float] | None = None,
    residual: bool = False,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> Edited:
    """Encode images, change their codes, decode.

    Args:
        change: what is changed of z.
        label: of a conditional model, what the images become; own: what they are (None: their likeliest label).
        draw: take z from q(z|x), keyed by this seed; None: its mean.
        strengths: the whole change times each of these, 0 being the reconstruction; None: the change once.
        residual: add back what the reconstruction lost, and keep the values in range.
    """
    for s in strengths or ():
        _check_number(s, f"--strength-grid {s:g}")
    if not (change.values or change.strengths) and label is None:
        raise UserError("nothing to change: give --set DIM=V, --direction NAME=V, or --label of a conditional model")
    editor = Editor(run, device, progress)
    change.check(editor)
    x = editor.open(images)
    target = editor.run.labels(len(x), label) if label is not None else None
    y = editor.labels(x, own, images)
    z = editor.encode(x, y, draw)
    moved = change(z, editor.model.directions)
    lattice = moved[:, None] if strengths is None else _times(z, moved, strengths)  # [B, S, D]
    shown = y if target is None else target.to(editor.device)
    edited = editor.decode(lattice, None if shown is None else shown[:, None])
    reconstruction = editor.decode(z, y)
    if residual:
        edited = with_residual(edited, x[:, None], reconstruction[:, None], editor.model.space)
    words = ", ".join([str(change)] * bool(str(change)) + ([f"label {label}"] if label is not None else []))
    columns = (words,) if strengths is None else tuple(f"times {s:g}" for s in strengths)
    title = words if strengths is not None else ""
    title += ("; " if title else "") + "with the residual added back" if residual else ""
    whole = torch.cat([x[:, None].to(edited), reconstruction[:, None], edited], 1)
    table = Table(
        x=whole.cpu().numpy(),
        levels=editor.levels,
        columns=("original", "recon\u00adstruction", *columns),
        title=title,
    )
    suffix = "-residual" if residual else ""
    marks = ["edited"] if strengths is None else [f"times{s:g}" for s in strengths]
    names = [f"{Path(image).stem}-{mark}{suffix}" for image in images for mark in marks]
    return Edited(table, edited.cpu().numpy(), names)


def _times(z: Tensor, moved: Tensor, strengths: Sequence[float]) -> Tensor:
    """z + s (moved - z) for each strength: [B, S, D]."""
    s = torch.tensor(list(strengths), dtype=z.dtype, device=z.device)[:, None]
    return z[:, None] + s * (moved - z)[:, None]


def _check_number(value: float, option: str, low: float = -math.inf) -> None:
    if not math.isfinite(value) or value <= low:
        wanted = "a finite number" if low == -math.inf else f"a finite number above {low:g}"
        raise UserError(f"{option}: expected {wanted}")


def _check_steps(steps: int) -> None:
    if steps < 2:
        raise UserError(f"--steps {steps}: expected at least 2")

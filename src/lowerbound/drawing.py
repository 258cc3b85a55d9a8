"""Drawing images in parts that fit in memory: samples, completions, and the finer levels of codes drawn anew."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lowerbound.data.base import open_mask
from lowerbound.errors import ModelError, UserError, did_you_mean
from lowerbound.metrics.base import rows_at_once
from lowerbound.models.autoregressive import Advance, Autoregressive
from lowerbound.models.base import LatentModel, Model
from lowerbound.models.vqvae import VQVAE, Temperature, TopK, TopP
from lowerbound.pictures import Table, save_images, save_table
from lowerbound.progress import Progress

IN_A_ROW = 12  # completions, at most, in a row of the picture
AFFORDABLE = 2e11  # products that pictures nobody asked for may take: 10 to 20 seconds of a CPU core
AUTOREGRESSIVE = "an autoregressive model, such as pixelcnn-mnist,"


@dataclass(frozen=True)
class How:
    """How values are drawn; by level where a model has several levels of codes."""

    temperature: Temperature = 1.0
    top_k: TopK = None
    top_p: TopP = None
    mean: bool = False  # the means of p(x|z) instead of draws from it

    def check(self, model: Model, kept: Sequence[str] = ()) -> None:
        """Raise ModelError for an option that the model does not have. kept: the levels that are not drawn."""
        for name in ("temperature", "top_k", "top_p"):
            option, value = f"--{name.replace('_', '-')}", getattr(self, name)
            if isinstance(value, Mapping):
                _check_levels(model, option, value, kept)
            elif name != "temperature" and value is not None and not isinstance(model, Autoregressive | VQVAE):
                raise ModelError(
                    f"{option}: {type(model).__name__} does not draw values from a probability of each; "
                    f"{AUTOREGRESSIVE} does"
                )
        if self.mean and not isinstance(model, LatentModel):
            raise ModelError(f"--mean: {type(model).__name__} has no mean of p(x|z) to show")


def _check_levels(model: Model, option: str, names: Mapping[str, float], kept: Sequence[str]) -> None:
    for name, value in names.items():
        if not isinstance(model, VQVAE):
            raise ModelError(f"{option} {name}={value:g}: {type(model).__name__} has no levels, expected one number")
        if name not in model.names:
            raise ModelError(f"{option} {name}={value:g}: no level {name!r}{did_you_mean(name, model.names)}")
        if name in kept:
            raise ModelError(f"{option} {name}={value:g}: the codes of {name} are kept, not drawn")


@dataclass(frozen=True)
class Samples:
    """Images drawn from a model."""

    x: np.ndarray  # uint8 [n, C, H, W]
    levels: int
    y: np.ndarray | None = None  # int64 [n], the labels they were drawn for
    codes: Mapping[str, np.ndarray] = field(default_factory=dict)  # int64 [n, h, w] of each level

    def save(self, out: Path) -> None:
        """By the rule of `--out`; an .npz has the labels, `y`, and the codes, `codes_LEVEL`, too."""
        labels = {} if self.y is None else {"y": self.y}
        save_images(self.x, self.levels, out, arrays=labels | _named(self.codes))


def _named(codes: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {f"codes_{name}": values for name, values in codes.items()}


@torch.no_grad()
def draw(
    model: Model, n: int, y: Tensor | None = None, how: How | None = None, progress: Progress | None = None
) -> Samples:
    """n images of any model that can be drawn from; y [n] on any device. Raises ModelError."""
    how = how or How()
    how.check(model)
    labels, levels = None if y is None else y.cpu().numpy(), model.space.levels or 256
    if isinstance(model, VQVAE):
        z = codes(model, n, y, how.temperature, top_k=how.top_k, top_p=how.top_p, progress=progress)
        named = {name: c.numpy() for name, c in zip(model.names, z, strict=True)}
        return Samples(decoded(model, z, y, mean=how.mean), levels, labels, named)
    t = how.temperature
    assert not isinstance(t, Mapping)
    if isinstance(model, Autoregressive):
        assert not isinstance(how.top_k, Mapping)
        assert not isinstance(how.top_p, Mapping)
        x = sample(model, n, y, t, top_k=how.top_k, top_p=how.top_p, progress=progress)
        return Samples(x, levels, labels)
    parts = [(len(part), _given(y, part, model)) for part in torch.arange(n).split(rows_at_once(model))]
    if how.mean:
        assert isinstance(model, LatentModel)
        drawn = [model.sample_mean(k, given, t).round().to(torch.uint8) for k, given in parts]
    else:
        drawn = [model.sample(k, given, t) for k, given in parts]
    return Samples(torch.cat(drawn).cpu().numpy(), levels, labels)


def sample(
    model: Autoregressive,
    n: int,
    y: Tensor | None = None,
    temperature: float = 1.0,
    *,
    top_k: int | None = None,
    top_p: float | None = None,
    progress: Progress | None = None,
) -> np.ndarray:
    """What `model.sample` draws, for any n: [n, *space.shape]. y [n] on any device."""
    drawn = []
    for part, advance in _parts(model, n, progress):
        given = _given(y, part, model)
        x = model.sample(len(part), given, temperature, top_k=top_k, top_p=top_p, advance=advance)
        drawn.append(x.cpu().numpy())
    return np.concatenate(drawn)


def codes(
    model: VQVAE,
    n: int,
    y: Tensor | None = None,
    temperature: Temperature = 1.0,
    *,
    top_k: TopK = None,
    top_p: TopP = None,
    coarse: tuple[Tensor, ...] = (),
    progress: Progress | None = None,
) -> tuple[Tensor, ...]:
    """What `model.draw_codes` draws, for any n: [n, h, w] of each level, on the processor."""
    drawn = []
    for part, advance in _parts(model, n, progress):
        drawn.append(
            model.draw_codes(
                len(part),
                _given(y, part, model),
                temperature,
                top_k=top_k,
                top_p=top_p,
                coarse=tuple(c[part].to(next(model.parameters()).device) for c in coarse),
                advance=advance,
            )
        )
    return tuple(torch.cat([level.cpu() for level in levels]) for levels in zip(*drawn, strict=True))


@torch.no_grad()
def decoded(model: VQVAE, codes: tuple[Tensor, ...], y: Tensor | None = None, *, mean: bool = False) -> np.ndarray:
    """Draws of p(x|z) for codes of every level, or its means, rounded: uint8 [n, C, H, W]."""
    images = []
    for part in torch.arange(len(codes[0])).split(rows_at_once(model)):
        device = next(model.parameters()).device
        p = model.likelihood(tuple(c[part].to(device) for c in codes), _given(y, part, model))
        images.append((p.mean.round().to(torch.uint8) if mean else p.sample()).cpu().numpy())
    return np.concatenate(images)


def complete(
    model: Autoregressive,
    x: Tensor,
    kept: Tensor,
    n: int,
    y: Tensor | None = None,
    temperature: float = 1.0,
    *,
    top_k: int | None = None,
    top_p: float | None = None,
    progress: Progress | None = None,
) -> np.ndarray:
    """What `model.complete` draws, n times for each of B events: [B, n, *space.shape]. y [B, n] on any device."""
    drawn, y = [], None if y is None else y.flatten()
    for part, advance in _parts(model, len(x) * n, progress):
        given = _given(y, part, model)
        whole = model.complete(x[part // n], kept, given, temperature, top_k=top_k, top_p=top_p, advance=advance)
        drawn.append(whole.cpu().numpy())
    return np.concatenate(drawn).reshape(len(x), n, *model.space.shape)


def _parts(model: Autoregressive | VQVAE, n: int, progress: Progress | None) -> Iterator[tuple[Tensor, Advance]]:
    """The places of n events that are drawn at once, and what is told how far each such part has come."""
    told = (progress or Progress()).count("drawing codes" if isinstance(model, VQVAE) else "drawing pixels")
    for part in torch.arange(n).split(model.at_once()):

        def advance(done: int, of: int, before: int = int(part[0]), at_once: int = len(part)) -> None:
            told(before * of + done * at_once, n * of)

        yield part, advance


def _given(y: Tensor | None, part: Tensor, model: Model) -> Tensor | None:
    return None if y is None else y[part].to(next(model.parameters()).device)


def affordable(model: Autoregressive | VQVAE, most: int = 64, least: int = 4) -> int:
    """How many samples a picture shows that nobody asked for: `most`, or a smaller square of what takes longer to draw,
    or `least`.

    Measured on one core of a CPU, 64 images of 28x28 take 4 seconds by a network of a million parameters, and 16 of
    32x32x3 by one of five million 7.
    """
    cost = products(model)
    return next((k for k in (64, 36, 16, 9, 4) if k <= most and k * cost <= AFFORDABLE), least)


def products(model: Model) -> int:
    """How many products an event takes in the parts of a model that draw one position after another."""
    slow = [part for part in model.modules() if isinstance(part, Autoregressive)]
    return sum(2 * sum(w.numel() for w in part.parameters()) * part.passes for part in slow)


# ---- what is kept


def rows_kept(fraction: float, size: tuple[int, int]) -> Tensor:
    """The upper fraction of the rows, rounded to whole ones: bool [H, W]."""
    return _first_rows(math.floor(fraction * size[0] + 0.5), size)


def _first_rows(rows: int, size: tuple[int, int]) -> Tensor:
    return (torch.arange(size[0]) < rows)[:, None].expand(size)


def kept(keep: str, size: tuple[int, int]) -> Tensor:
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
    return torch.from_numpy(open_mask(keep, size))


def levels_kept(model: VQVAE, keep: str) -> int:
    """How many of the coarsest levels `--keep-level` names: `top`, or `top,middle`. Raises UserError."""
    names = keep.split(",")
    for name in names:
        if name not in model.names:
            raise UserError(f"--keep-level {keep}: no level {name!r}{did_you_mean(name, model.names)}")
    if len(set(names)) == len(model.names):
        raise UserError(f"--keep-level {keep}: keeps every level of this model, so there is nothing to draw")
    if set(names) != set(model.names[: len(names)]):
        coarsest = " or ".join(",".join(model.names[: l + 1]) for l in range(len(model.names) - 1))
        raise UserError(f"--keep-level {keep}: finer codes are drawn given the coarser, so expected {coarsest}")
    return len(names)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


# ---- labels that nobody gave


@torch.no_grad()
def draw_labels(
    model: Autoregressive, x: Tensor, kept: Tensor, n: int, counts: Sequence[int], generator: torch.Generator
) -> Tensor:
    """n labels for each of B events, from p(y | what is kept of x), with p(y) by the counts: [B, n] on the CPU.

    With labels so drawn, a completion is a draw of p(rest | kept). Nothing kept: by the counts alone.
    """

    def log_p(i: Tensor, k: Tensor) -> Tensor:
        return model.log_probs(x[i], k)[:, kept].double().sum(1)

    given = _posterior(log_p, x, counts, rows_at_once(model)) if bool(kept.any()) else _prior(x, counts)
    return torch.multinomial(given.softmax(1), n, replacement=True, generator=generator)


@torch.no_grad()
def draw_labels_of_codes(
    model: VQVAE, coarse: tuple[Tensor, ...], n: int, counts: Sequence[int], generator: torch.Generator
) -> Tensor:
    """n labels for each of B images, from p(y | the codes of their coarsest levels), as `draw_labels`: [B, n]."""

    def log_p(i: Tensor, k: Tensor) -> Tensor:
        return model.log_p_codes(tuple(c[i] for c in coarse), k).double().sum(0)

    given = _posterior(log_p, coarse[0], counts, rows_at_once(model))
    return torch.multinomial(given.softmax(1), n, replacement=True, generator=generator)


def _prior(x: Tensor, counts: Sequence[int]) -> Tensor:
    """log p(y) up to a constant for each of B events: [B, K] on the CPU."""
    return torch.tensor(counts, dtype=torch.float64).log().repeat(len(x), 1)


def _posterior(log_p: Callable[[Tensor, Tensor], Tensor], x: Tensor, counts: Sequence[int], rows: int) -> Tensor:
    """log p(y | what is kept of x_i) up to a constant, [B, K]; log_p: log p(what is kept | y) of pairs (i, y), [P]."""
    pairs = torch.cartesian_prod(torch.arange(len(x)), torch.arange(len(counts)))
    found = torch.cat([log_p(*part.to(x.device).unbind(1)).cpu() for part in pairs.split(rows)])
    return _prior(x, counts) + found.view(len(x), len(counts))


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

    def save(self, out: Path) -> None:
        """By the rule of `--out`: a picture has the originals and what is kept of them too, all else only the draws."""
        _save(self.table(), self.x, self.names, out)

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
    codes: Mapping[str, np.ndarray]  # int64 [B, n, h, w] of each level
    levels: int
    names: tuple[str, ...] = ()  # [B], of the images
    labels: tuple[tuple[str, ...], ...] | None = None  # [B][n], where they were drawn
    title: str = ""

    def save(self, out: Path) -> None:
        """By the rule of `--out`: a picture has the originals and reconstructions too, all else only the draws; an
        .npz has their codes."""
        flat = {name: c.reshape(-1, *c.shape[2:]) for name, c in self.codes.items()}
        _save(self.table(), self.x, self.names, out, _named(flat))

    def table(self) -> Table:
        """A row for each image: the original, its reconstruction, the draws; many draws are wrapped."""
        before = {"original": self.originals, "recon\u00adstruction": self.reconstructions}
        return _table(before, self.x, self.levels, self.names, self.title)


def _save(
    table: Table, x: np.ndarray, names: Sequence[str], out: Path, arrays: Mapping[str, np.ndarray] | None = None
) -> None:
    """Draws x [B, n, C, H, W], called after their images and numbered; a picture is of the table."""
    B, n = x.shape[:2]
    stems = [Path(name).stem for name in names] or [str(b) for b in range(B)]
    width = len(str(n))
    numbered = [f"{stem}-{i + 1:0{width}d}" for stem in stems for i in range(n)]
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


def told_labels(names: Sequence[str], labels: Sequence[Sequence[str]], progress: Progress) -> None:
    """Say which labels were drawn, the most frequent first."""
    for name, drawn in zip(names, labels, strict=True):
        often = ", ".join(f"{label} ({k})" for label, k in Counter(drawn).most_common(10))
        progress.say(f"{name}: labels drawn given what is kept: {often}")

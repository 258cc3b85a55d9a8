"""Drawing from models that draw one position after another: samples in parts that fit in memory, and completions."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lowerbound.data.base import open_mask
from lowerbound.errors import UserError
from lowerbound.metrics.base import rows_at_once
from lowerbound.models.autoregressive import Advance, Autoregressive
from lowerbound.models.vqvae import VQVAE, Temperature, TopK, TopP
from lowerbound.pictures import Table, save_table
from lowerbound.progress import Progress

IN_A_ROW = 12  # completions, at most, in a row of the picture
AFFORDABLE = 2e11  # products that pictures nobody asked for may take: 10 to 20 seconds of a CPU core


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


def _given(y: Tensor | None, part: Tensor, model: Autoregressive | VQVAE) -> Tensor | None:
    return None if y is None else y[part].to(next(model.parameters()).device)


def affordable(model: Autoregressive | VQVAE, most: int = 64) -> int:
    """How many samples a picture shows that nobody asked for: `most`, or a smaller square of what takes longer to draw.

    Measured on one core of a CPU, 64 images of 28x28 take 4 seconds by a network of a million parameters, and 16 of
    32x32x3 by one of five million 7.
    """
    priors = [p for p in model.priors if isinstance(p, Autoregressive)] if isinstance(model, VQVAE) else [model]
    products = sum(2 * sum(w.numel() for w in p.parameters()) * p.passes for p in priors)
    return next((k for k in (64, 36, 16, 9) if k <= most and k * products <= AFFORDABLE), 4)


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
    log_p = torch.tensor(counts, dtype=torch.float64).log().repeat(len(x), 1)  # [B, K]
    if bool(kept.any()):
        pairs = torch.cartesian_prod(torch.arange(len(x)), torch.arange(len(counts)))
        log_p += torch.cat([_log_p_kept(model, x, kept, part) for part in pairs.split(rows_at_once(model))]).view_as(
            log_p
        )
    return torch.multinomial(log_p.softmax(1), n, replacement=True, generator=generator)


def _log_p_kept(model: Autoregressive, x: Tensor, kept: Tensor, pairs: Tensor) -> Tensor:
    """log p(what is kept of x_i | label k) in nats for pairs (i, k): [P]."""
    i, k = pairs.to(x.device).unbind(1)
    return model.log_probs(x[i], k)[:, kept].double().sum(1).cpu()


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
        B, n = self.x.shape[:2]
        stems = [Path(name).stem for name in self.names] or [str(b) for b in range(B)]
        width = len(str(n))
        names = [f"{stem}-{i + 1:0{width}d}" for stem in stems for i in range(n)]
        save_table(self.table(), self.x.reshape(B * n, *self.x.shape[2:]), out, names)

    def table(self) -> Table:
        """A row for each image: the original, what is kept, the draws; many draws are wrapped."""
        n = self.x.shape[1]
        lines = math.ceil(n / IN_A_ROW)
        across = math.ceil(n / lines)
        numbers = tuple(str(i + 1) for i in range(n)) if lines == 1 else ("drawn",) * across
        return Table(
            x=np.concatenate([self._lines(b, lines, across) for b in range(len(self.x))]),
            levels=self.levels,
            rows=tuple(name for row in self.names for name in (row, *[""] * (lines - 1))) if len(self.x) > 1 else (),
            columns=("original", "kept", *numbers),
            title=self.title,
        )

    def _lines(self, b: int, lines: int, across: int) -> np.ndarray:
        """The lines of one image, [lines, 2 + across, C, H, W], with paper where nothing is."""
        image, draws = self.originals[b], self.x[b]
        whole = np.full((lines, 2 + across, *image.shape), self.levels - 1.0, np.float32)
        whole[0, 0], whole[0, 1] = image, self._greyed(image)
        for line in range(lines):
            part = draws[line * across : (line + 1) * across]
            whole[line, 2 : 2 + len(part)] = part
        return whole

    def _greyed(self, image: np.ndarray) -> np.ndarray:
        """The image with a chequered grey where it is not kept."""
        H, W = self.kept.shape
        grey = np.where(np.add.outer(np.arange(H), np.arange(W)) % 2, 0.65, 0.45) * (self.levels - 1)
        return np.where(self.kept, image, grey)


def told_labels(names: Sequence[str], labels: Sequence[Sequence[str]], progress: Progress) -> None:
    """Say which labels were drawn, the most frequent first."""
    for name, drawn in zip(names, labels, strict=True):
        often = ", ".join(f"{label} ({k})" for label, k in Counter(drawn).most_common(10))
        progress.say(f"{name}: labels drawn given what is kept: {often}")

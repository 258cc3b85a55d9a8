"""Images drawn in parts that fit in memory."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lowerbound.chunks import rows_at_once
from lowerbound.errors import ModelError, did_you_mean
from lowerbound.model import LatentModel, Model
from lowerbound.models.autoregressive import Advance, Autoregressive
from lowerbound.models.vqvae import VQVAE, Temperature, TopK, TopP
from lowerbound.pictures import save_images
from lowerbound.progress import Progress

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

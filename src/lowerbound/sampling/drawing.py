"""Images drawn from any model, in parts that fit in memory."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lowerbound.chunks import own_events
from lowerbound.model import PLAIN, Draw, Drawn, Model, Told, rows_of, share_of
from lowerbound.parallel import gathered
from lowerbound.pictures import save_images
from lowerbound.processes import keep_freed
from lowerbound.progress import Progress
from lowerbound.space import Y
from lowerbound.units import to_bytes

AFFORDABLE = 2e11  # products that pictures nobody asked for may take: 10 to 20 seconds of a CPU core


def draw(model: Model, n: int, y: Y = None, how: Draw = PLAIN, progress: Progress | None = None) -> Drawn:
    """What `model.draw` draws, for any n, on the processor; y [n] on any device."""
    return in_parts(model, n, y, lambda part, given, told: model.draw(len(part), given, how, told), progress)


@torch.no_grad()
def in_parts(
    model: Model, n: int, y: Y, draw: Callable[[Tensor, Y, Told], Drawn], progress: Progress | None = None
) -> Drawn:
    """What `draw` makes of the places of n events and their conditions, as many at a time as the model draws at once.

    It tells how many values of its part are drawn, where that takes long. On the processor. Processes that work
    `together` share each part out; one of fewer than two events for each of them they all draw alike.
    """
    keep_freed()
    cost = model.cost  # counted by a pass of a network
    what = "images" if not cost else "codes" if model.levels else "pixels"
    told, device, drawn = (progress or Progress()).count(f"drawing {what}"), model.device, []
    for part in torch.arange(n).split(model.at_once()):
        so_far = share_of(told, part, n)
        with own_events(part) as own:
            found = draw(own, to_device(rows_of(y, own), device), so_far)
        values = [(found.x.cpu(), *(z.cpu() for z in found.z))]
        drawn += values if len(own) == len(part) else gathered(values)
        if not cost:
            so_far(1, 1)
    x, *z = (torch.cat(parts) for parts in zip(*drawn, strict=True))
    return Drawn(x, tuple(z))


def to_device(y: Y, device: torch.device) -> Y:
    """A condition on a device."""
    return None if y is None else y.to(device) if isinstance(y, Tensor) else tuple(part.to(device) for part in y)


def affordable(model: Model, most: int = 64, least: int = 4) -> int:
    """How many samples a picture shows that nobody asked for: `most`, or a smaller square of what takes longer to draw,
    or `least`.

    Measured on one core of a CPU, 64 images of 28x28 take 4 seconds by a network of a million parameters, and 16 of
    32x32x3 by one of five million 7.
    """
    return next((k for k in (most, 36, 16, 9, 4) if k <= most and k * model.cost <= AFFORDABLE), least)


def pixels(x: Tensor) -> np.ndarray:
    """Events, or means of pixels, which are rounded: uint8 [n, C, H, W]."""
    return (x.round().to(torch.uint8) if x.is_floating_point() else x).numpy()


def shown(x: Tensor, levels: int, how: Draw) -> tuple[np.ndarray, int]:
    """Events, uint8 [..., C, H, W], and how many values a pixel has: their own; 256 where means were asked for, so that
    those of black and white pixels are grey."""
    return (to_bytes(x.numpy(), levels), 256) if how.mean else (pixels(x), levels)


def named(levels: Sequence[str], z: Sequence[Tensor]) -> dict[str, np.ndarray]:
    """Codes by the names of their levels; none of a model without levels."""
    return {name: codes.numpy() for name, codes in zip(levels, z, strict=bool(levels))}


@dataclass(frozen=True)
class Samples:
    """Images drawn from a model."""

    x: np.ndarray  # uint8 [n, C, H, W]
    levels: int  # the model's; of means 256
    y: np.ndarray | None = (
        None  # int64 [n], the labels they were drawn for; or float [n, D], attributes as the model sees them
    )
    codes: Mapping[str, np.ndarray] = field(default_factory=dict)  # [n, *latent] of each level; int64, or float latents

    @staticmethod
    def of(model: Model, drawn: Drawn, y: Tensor | None = None, how: Draw = PLAIN) -> "Samples":
        """What was drawn from a model for labels y [n]."""
        labels = None if y is None else y.cpu().numpy()
        return Samples(*shown(drawn.x, model.space.levels or 256, how), labels, named(model.levels, drawn.z))

    def save(self, out: Path) -> None:
        """By the rule of `--out`; an .npz has the labels, `y`, and the codes, `codes_LEVEL`, too."""
        labels = {} if self.y is None else {"y": self.y}
        save_images(self.x, self.levels, out, arrays=labels | in_file(self.codes))


def in_file(codes: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Codes, or real latents, by the names that they have in an .npz: codes_top, z1."""
    whole = {name: np.issubdtype(values.dtype, np.integer) for name, values in codes.items()}
    return {f"codes_{name}" if whole[name] else name: values for name, values in codes.items()}

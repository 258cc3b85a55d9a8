"""How values are drawn, and what was drawn."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from torch import Tensor

from lowerbound.distributions import Tempering
from lowerbound.progress import Told
from lowerbound.schedules import Sampler
from lowerbound.space import Y

T = TypeVar("T")
ByLevel = T | Mapping[str, T]


@dataclass(frozen=True)
class Draw:
    """How values are drawn; each number for all levels of a model alike, or by level, and then not for the others.

    Example:
        >>> Draw(temperature={"top": 0.9}, top_k=5).at("bottom")
        Tempering(temperature=1.0, top_k=5, top_p=None)
    """

    temperature: ByLevel[float] = 1.0  # of the noise's standard deviation; divides logits; 0 is the mode
    top_k: ByLevel[int] | None = None  # only the k likeliest values, where each has a probability
    top_p: ByLevel[float] | None = None  # only the fewest likeliest values that hold a probability of p
    mean: bool = False  # the means of p(x|z) instead of draws from it
    cluster: int | None = None  # from this component of a mixture alone
    sampler: Sampler | None = None  # by which a diffusion model takes noise away; None: its own
    steps: int | None = None  # of it, or of a Markov chain; None: its own
    guidance: float | None = None  # times what a condition changes of the noise that such a model sees; None: 1

    def at(self, level: str = "") -> Tempering:
        """What it says of a level, or of a model without any."""
        return Tempering(_at(self.temperature, level, 1.0), _at(self.top_k, level, None), _at(self.top_p, level, None))


PLAIN = Draw()  # from the model's own distribution


def _at(value: ByLevel[T], level: str, otherwise: T) -> T:
    return value.get(level, otherwise) if isinstance(value, Mapping) else value  # pyright: ignore[reportReturnType]


class Drawn(NamedTuple):
    """What was drawn."""

    x: Tensor  # events [n, *space.shape]; or the means of p(x|z), float, in pixel values, not rounded
    z: tuple[Tensor, ...] = ()  # the latents or codes of each level, [n, *latent]; () where there are none


def share_of(told: Told, places: Tensor, n: int) -> Told:
    """What is told of a part of n events, those at some places [P] next to each other, as progress in all."""
    first, rows = int(places[0]), len(places)
    return lambda done, of: told(first * of + done * rows, n * of)


def rows_of(y: Y, places: Tensor) -> Y:
    """The conditions at some places [P] of a batch."""
    if y is None or isinstance(y, Tensor):
        return None if y is None else y[places.to(y.device)]
    return tuple(part[places.to(part.device)] for part in y)

"""Where events live: spaces, what a number says of log p(x), conditions, and checks of both."""

import enum
import math
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lowerbound.errors import ModelError
from lowerbound.units import to_unit

Shape = tuple[int, ...]
Y = Tensor | tuple[Tensor, ...] | None  # the condition; matches `given`
UNKNOWN = -1  # in the place of a label: of an image that is trained on without


# --8<-- [start:density]
class Density(enum.Enum):
    """What a model's numbers say of log p(x); the relation that is printed with its negative."""

    EXACT = "="
    BOUND = "<="
    ESTIMATE = "~"  # of its normalizing constant, with an error that all events have in common
    NONE = "?"
    # --8<-- [end:density]

    # --8<-- [start:worst]
    @staticmethod
    def worst(*parts: "Density") -> "Density":
        """The density of a whole made of these parts.

        Example:
            >>> Density.worst(Density.EXACT, Density.BOUND)
            <Density.BOUND: '<='>
            >>> Density.worst(Density.ESTIMATE, Density.BOUND)
            <Density.ESTIMATE: '~'>
        """
        return max(parts, key=list(Density).index)
        # --8<-- [end:worst]


class Estimate(NamedTuple):
    """What is known of a normalizing constant Z that is estimated, in nats; where there is one for each label, in the
    mean over labels."""

    log_z: float
    error: float  # its standard error, which log p of all events has in common; of several labels the largest
    reverse: float  # log Z from the other side: chains that begin at the model and end where Z is known
    reverse_error: float
    chains: int
    temperatures: int


class Space(NamedTuple):
    """Where an event lives: an image, code grid, latent, label or attributes.

    Example:
        >>> mnist = Space((1, 28, 28), levels=256)
        >>> mnist.features(torch.tensor([[[[0, 255]]]])).flatten().tolist()
        [-1.0, 1.0]
        >>> Space((), levels=10, ordered=False).feature_shape  # a label
        (10,)
    """

    shape: Shape
    levels: int | None = None  # values an element takes; None: real numbers
    ordered: bool = True  # False: codes and labels, whose numbers are names

    @property
    def dtype(self) -> torch.dtype:
        if self.levels is None:
            return torch.get_default_dtype()
        return torch.uint8 if self.ordered and self.levels <= 256 else torch.int64

    @property
    def what(self) -> str:
        """What latents of this space are called."""
        return "latents" if self.levels is None else "codes"

    @property
    def dims(self) -> int:
        return math.prod(self.shape)

    @property
    def feature_shape(self) -> Shape:
        if self.levels is None or self.ordered:
            return self.shape
        return (self.levels, *self.shape)

    @property
    def black_and_white(self) -> tuple[float, float]:
        """The features of the lowest and the highest value; 0 and 1 for real numbers, codes and labels."""
        return (-1.0, 1.0) if self.ordered and self.levels is not None and self.levels > 2 else (0.0, 1.0)

    def features(self, x: Tensor) -> Tensor:
        """Events [B, *shape] -> what networks see: float [B, *feature_shape]; pixels in [-1, 1], codes one-hot.

        Binary pixels stay 0 and 1: most are 0 and then move no weights. At -1 they all would, together, and Adam's
        steps would have to be ten times smaller.
        """
        if self.levels is None:
            return x
        if self.ordered and self.levels == 2:
            return x.to(torch.get_default_dtype())
        if self.ordered:
            return to_unit(x.to(torch.get_default_dtype()), self.levels)
        return F.one_hot(x.long(), self.levels).movedim(-1, 1).to(torch.get_default_dtype())


def told_of(given: tuple[Space, ...]) -> str | None:
    """What a model is told of each image, in a word: its label, attributes, or other views of its scene."""
    if len(given) > 1:
        return "views"
    return None if not given else "label" if given[0].levels is not None else "attributes"


def conditions(y: Y, given: tuple[Space, ...]) -> tuple[Tensor, ...]:
    """The condition as a tuple that matches `given`. Raises ModelError where it doesn't."""
    parts = () if y is None else tuple(y) if isinstance(y, tuple | list) else (y,)
    if len(parts) != len(given):
        raise ModelError(f"this model is given {len(given)} condition(s) (labels, attributes), got {len(parts)}")
    for part, space in zip(parts, given, strict=True):
        if tuple(part.shape[1:]) != space.shape:
            raise ModelError(f"a condition of shape {tuple(part.shape[1:])} was given, expected {space.shape}")
    return parts


def taken_events(x: Any, space: Space) -> Tensor:
    """What a caller gives as events, a tensor or an array, as a tensor. Raises ModelError where these are none.

    Booleans are binary values; other types are not guessed at.
    """
    x = as_tensor(x, "events")
    if x.dtype == torch.bool and space.levels == 2:
        x = x.to(space.dtype)
    check_events(x, space)
    if not len(x):
        raise ModelError("this batch is empty: expected at least one event")
    return x


def taken_conditions(n: int, y: Any, given: tuple[Space, ...]) -> Y:
    """What a caller gives as the condition of n events, tensors or arrays or lists of labels, as tensors.

    Raises ModelError where it is none.
    """
    if y is None or not given:
        check_conditions(n, y, given)
        return y
    parts = tuple(y) if len(given) > 1 and isinstance(y, tuple | list) else y if isinstance(y, tuple) else (y,)
    parts = tuple(as_tensor(part, "the condition") for part in parts)
    for part, space in zip(conditions(parts, given), given, strict=True):
        if space.levels is not None and (part.is_floating_point() or part.dtype == torch.bool):
            raise ModelError(f"label: expected whole numbers in [0, {space.levels}), got {part.dtype}")
        if space.levels is None and part.device.type == "cpu" and not part.isfinite().all():
            raise ModelError("a condition holds numbers that are not finite")
    whole = tuple(p.long() if s.levels is not None else p for p, s in zip(parts, given, strict=True))
    y = whole[0] if len(whole) == 1 else whole
    check_conditions(n, y, given)
    return y


def as_tensor(values: Any, what: str) -> Tensor:
    """Raises ModelError for what is no array of numbers."""
    if isinstance(values, Tensor):
        return values
    try:
        return torch.as_tensor(np.asarray(values))
    except (TypeError, ValueError, RuntimeError):
        raise ModelError(f"{what}: expected a tensor or an array of numbers, got {type(values).__name__}") from None


def check_number_of(n: Any, name: str) -> None:
    """Raise ModelError unless it is a whole number of at least 1."""
    if isinstance(n, bool) or not isinstance(n, Integral) or n < 1:
        raise ModelError(f"{name}: expected a whole number of at least 1, got {n}")


def check_events(x: Tensor, space: Space) -> None:
    """Raise ModelError unless x is a batch of events of the space."""
    if tuple(x.shape[1:]) != space.shape:
        raise ModelError(f"this model takes {list(space.shape)}, got a batch of {list(x.shape[1:])}")
    if space.levels is None:
        if not x.is_floating_point():
            raise ModelError(f"this model takes real numbers, got {x.dtype}")
        return
    if x.is_floating_point() or x.dtype == torch.bool:
        raise ModelError(f"this model takes whole numbers in [0, {space.levels}), got {x.dtype}")
    if x.numel() and not x.is_meta and not (int(x.min()) >= 0 and int(x.max()) < space.levels):
        raise ModelError(f"this model takes values in [0, {space.levels}), got {int(x.min())} to {int(x.max())}")


def check_draw(n: int, y: Y, given: tuple[Space, ...], temperature: float) -> None:
    """Raise ModelError unless n events can be drawn given y at this temperature."""
    check_number_of(n, "n")
    if not (math.isfinite(temperature) and temperature >= 0):
        raise ModelError(f"temperature: expected a number of at least 0, got {temperature}")
    check_conditions(n, y, given, wait=True)


def check_conditions(n: int, y: Y, given: tuple[Space, ...], *, wait: bool = False) -> None:
    """Raise ModelError unless y holds a condition for each of n events.

    wait: look at labels on an accelerator too, for which the processor waits; else only at those at hand.
    """
    for part, space in zip(conditions(y, given), given, strict=True):
        if not part.dim():
            raise ModelError(f"{n} events need as many conditions, got one number; expected a tensor or a list of {n}")
        if len(part) != n:
            raise ModelError(f"{n} events need as many conditions, got {len(part)}")
        if space.levels is None or not (wait or part.device.type == "cpu"):
            continue
        if not (int(part.min()) >= 0 and int(part.max()) < space.levels):
            raise ModelError(f"label: expected a whole number in [0, {space.levels}), got {part.tolist()}")

"""Factors of variation and users' attributes: their kinds, ranges and units, and how networks see their values."""

import math
import re
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from lowerbound.config import Component
from lowerbound.errors import DataError, did_you_mean

Kind = Literal["continuous", "circular", "categorical"]


class Factor(Component):
    """What an image has a value of: a number in a range, a point of a circle, or one of some names.

    Values are kept as numbers; of a category, the place of its name. A circular one has the period `high - low`.

    Example:
        >>> azimuth = Factor(name="camera_azimuth", kind="circular", low=0, high=360, unit="deg")
        >>> azimuth.number("-90"), azimuth.period
        (270.0, 360.0)
    """

    name: str
    kind: Kind = "continuous"
    low: float = 0.0
    high: float = 1.0
    unit: str = ""
    values: tuple[str, ...] = ()  # of a category
    mean: float = 0.0  # of the training images, by which numbers are standardized
    std: float = Field(default=1.0, gt=0)

    @property
    def period(self) -> float:
        return self.high - self.low

    @property
    def width(self) -> int:
        """How many numbers networks see of it."""
        return {"continuous": 1, "circular": 2, "categorical": len(self.values)}[self.kind]

    def encoded(self, values: Tensor) -> Tensor:
        """Values [B] as networks see them, float64 [B, width]: standardized; cosine and sine; or one-hot, of which a
        linear map makes an embedding."""
        values = values.double()
        if self.kind == "categorical":
            return F.one_hot(values.long(), len(self.values)).double()
        if self.kind == "circular":
            turn = (values - self.low) * (2 * math.pi / self.period)
            return torch.stack([turn.cos(), turn.sin()], -1)
        return (values[:, None] - self.mean) / self.std

    def decoded(self, seen: Tensor) -> Tensor:
        """The values [B] that networks see as [B, width]; of what lies between them, the nearest."""
        if self.kind == "categorical":
            return seen.argmax(-1).double()
        if self.kind == "circular":
            turn = torch.atan2(seen[:, 1].double(), seen[:, 0].double()) / (2 * math.pi) * self.period
            return self.low + turn % self.period
        return seen[:, 0].double() * self.std + self.mean

    def standardized_by(self, values: np.ndarray) -> "Factor":
        """The same with the mean and standard deviation of these values [N], where it is a number."""
        if self.kind != "continuous":
            return self
        std = float(np.std(values, dtype=np.float64))
        return self.model_copy(update={"mean": float(np.mean(values, dtype=np.float64)), "std": std or 1.0})

    def said(self, value: float) -> str:
        """A value as a person reads it."""
        return self.values[int(value)] if self.kind == "categorical" else f"{value:.4g}"

    def number(self, text: str, what: str = "") -> float:
        """A value as a user writes it. Raises DataError for one of another kind, or out of range.

        what: how it was written, for the message.
        """
        what = what or f"{self.name}={text}"
        if self.kind == "categorical":
            if text not in self.values:
                near = did_you_mean(text, self.values)
                raise DataError(f"{what}: expected one of {', '.join(self.values)}{near if 'did' in near else ''}")
            return float(self.values.index(text))
        try:
            value = float(text)
        except ValueError:
            raise DataError(f"{what}: expected a number {self.range_said()}, got {text!r}") from None
        if self.kind == "circular" and math.isfinite(value):
            return self.low + (value - self.low) % self.period
        if not self.low <= value <= self.high:
            raise DataError(f"{what}: expected a number {self.range_said()}")
        return value

    def range_said(self) -> str:
        return f"from {self.low:g} to {self.high:g}{self._unit()}"

    def said_in_all(self) -> str:
        """Its names, or its range."""
        return f"({', '.join(self.values)})" if self.values else f"({self.low:g} to {self.high:g}{self._unit()})"

    def _unit(self) -> str:
        return f" {self.unit}" if self.unit else ""

    def grid(self, n: int) -> np.ndarray:
        """n values from its lowest to its highest; of a circle without the end, of a category all names: [n]."""
        if self.kind == "categorical":
            return np.arange(len(self.values), dtype=np.float64)
        return np.linspace(self.low, self.high, n, endpoint=self.kind != "circular")


def named(name: str, factors: Sequence[Factor], what: str) -> int:
    """The place of a factor. Raises DataError for an unknown one, and says the nearest."""
    names = [f.name for f in factors]
    if name not in names:
        raise DataError(f"{what}: no factor {name!r}{did_you_mean(name, names)}")
    return names.index(name)


def of_header(text: str) -> tuple[str, str]:
    """The name and the unit of a column called `azimuth (deg)` or `azimuth [deg]`.

    Example:
        >>> of_header("azimuth (deg)"), of_header("smile")
        (('azimuth', 'deg'), ('smile', ''))
    """
    found = re.fullmatch(r"(.*?)\s*[(\[](\w+)[)\]]", text.strip())
    return (found[1], found[2]) if found else (text.strip(), "")


def number_of(header: str, values: np.ndarray) -> Factor:
    """The factor of a column of numbers [N], in which NaN is missing: a circle of 360 where its unit is deg."""
    name, unit = of_header(header)
    if unit == "deg":
        return Factor(name=name, kind="circular", low=0, high=360, unit=unit)
    known = values[np.isfinite(values)]
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
    return Factor(name=name, low=low, high=high, unit=unit)


def kinds_of(names: Sequence[str], values: np.ndarray) -> tuple[Factor, ...]:
    """What columns [N, F] are of which nobody said more than their names."""
    return tuple(number_of(name, np.asarray(column, np.float64)) for name, column in zip(names, values.T, strict=True))


def encoded(values: np.ndarray | Tensor, factors: Sequence[Factor]) -> Tensor:
    """Rows of values [B, F] as the vector that a model is given, [B, D] in torch's default type."""
    columns = torch.as_tensor(values).T
    parts = [f.encoded(column) for f, column in zip(factors, columns, strict=True)]
    return torch.cat(parts, 1).to(torch.get_default_dtype())


def decoded(seen: Tensor, factors: Sequence[Factor]) -> np.ndarray:
    """Its inverse: float64 [B, F]."""
    parts = seen.detach().cpu().split([f.width for f in factors], 1)
    return torch.stack([f.decoded(part) for f, part in zip(factors, parts, strict=True)], 1).numpy()


def said_of(row: np.ndarray, factors: Sequence[Factor]) -> str:
    """Values [F] as a person reads them."""
    return ", ".join(f"{f.name}={f.said(value)}" for f, value in zip(factors, row, strict=True))

"""Factors of variation and users' attributes: their kinds, ranges and units."""

import math
import re
from collections.abc import Sequence
from typing import Literal

import numpy as np

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

    @property
    def period(self) -> float:
        return self.high - self.low

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

"""What a user says of the images that a model is to make, or that it is shown: their label, or their attributes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from torch import Tensor

from lowerbound.data.attributes import Factor
from lowerbound.errors import DataError, UserError, did_you_mean

Said = str | int | float


@dataclass(frozen=True)
class Asked:
    """A label, or values of attributes by their names; whatever isn't said is drawn, told or predicted.

    Example:
        >>> str(Asked(attributes={"smile": 1, "light_azimuth": "40"}))
        'smile=1, light_azimuth=40'
    """

    label: str | int | None = None  # a class's name or number
    attributes: Mapping[str, Said] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return self.label is not None or bool(self.attributes)

    def __str__(self) -> str:
        label = [] if self.label is None else [f"label {self.label}"]
        return ", ".join(label + [f"{name}={value}" for name, value in self.attributes.items()])

    def are_all_of(self, factors: Sequence[Factor]) -> bool:
        """Whether a value of each of some factors is said."""
        return bool(factors) and set(self.attributes) >= {f.name for f in factors}

    def over(self, rows: np.ndarray, factors: Sequence[Factor], option: str = "--attribute") -> np.ndarray:
        """Rows of values [n, F] with what is said of them in its place. Raises UserError for what can't be."""
        rows = np.array(rows, np.float64)
        for name, value in self.attributes.items():
            what = f"{option} {name}={value}"
            place = _place(name, factors, what)
            rows[:, place] = _number(factors[place], value, what)
        return rows

    def ranged(self, factors: Sequence[Factor], option: str = "--attribute") -> "Range | None":
        """The one attribute of which several values are said: `LOW..HIGH:N`. Raises UserError for two such."""
        found = [(name, str(value)) for name, value in self.attributes.items() if ".." in str(value)]
        if len(found) > 1:
            raise UserError(f"{option}: {found[0][0]} and {found[1][0]} both have a range; give one of them a value")
        return _range(*found[0], factors, self, option) if found else None


NOTHING = Asked()


class Range(NamedTuple):
    """Values of one attribute, one after another, with what else is said."""

    name: str
    values: tuple[str, ...]
    rest: Asked

    def each(self) -> list[Asked]:
        return [replace(self.rest, attributes={**self.rest.attributes, self.name: value}) for value in self.values]


class Candidates(NamedTuple):
    """Conditions that images may have, K of them."""

    y: Tensor  # [K] labels, or [K, D]
    weights: Sequence[int]  # how often each is found in training
    names: tuple[str, ...]


def _place(name: str, factors: Sequence[Factor], what: str) -> int:
    names = [f.name for f in factors]
    if name not in names:
        raise UserError(f"{what}: {name!r} is not among what the model is given{did_you_mean(name, names)}")
    return names.index(name)


def _number(factor: Factor, value: Said, what: str) -> float:
    try:
        return factor.number(str(value), what)
    except DataError as e:
        raise UserError(str(e)) from None


def _range(name: str, text: str, factors: Sequence[Factor], asked: Asked, option: str) -> Range:
    """A range of a circle that is the whole of it ends one step before it begins again."""
    what = f"{option} {name}={text}"
    factor = factors[_place(name, factors, what)]
    ends, _, n = text.partition(":")
    low, _, high = ends.partition("..")
    if factor.kind == "categorical":
        raise UserError(f"{what}: {name} has names, expected one of {', '.join(factor.values)}")
    if not n.isdecimal() or int(n) < 2:
        raise UserError(
            f"{what}: expected LOW..HIGH:N with N values, 2 or more, such as {factor.low:g}..{factor.high:g}:8"
        )
    try:
        first, last = float(low), float(high)
    except ValueError:
        raise UserError(f"{what}: expected LOW..HIGH:N, two numbers and how many values") from None
    whole = factor.kind == "circular" and abs(last - first) == factor.period
    values = np.linspace(first, last, int(n), endpoint=not whole).tolist()
    for value in values:
        _number(factor, value, what)
    rest = {k: v for k, v in asked.attributes.items() if k != name}
    return Range(name, tuple(f"{value:.6g}" for value in values), replace(asked, attributes=rest))

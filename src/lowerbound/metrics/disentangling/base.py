"""Codes and factors of the same images, checked, and what a score of them says."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lowerbound.data.attributes import Factor, number_of
from lowerbound.errors import DataError

Floats = NDArray[np.float64]
Whole = NDArray[np.int64]
Kinds = Sequence[Factor | str] | None
FEW = 10  # different whole numbers that a column has at most, to be taken for categories
SAID = 0.05  # of a factor's entropy: a dimension that knows less of it is not said to tell it
UNUSED = 0.05  # of the widest dimension: one that varies less is not used


class Estimate(NamedTuple):
    """A number, and the ends of 95 % of it: NaN where nothing is known of its spread."""

    value: float
    low: float = float("nan")
    high: float = float("nan")

    @staticmethod
    def of(value: float, drawn: Sequence[float]) -> "Estimate":
        """1.96 standard deviations of what was drawn to either side."""
        width = 1.96 * float(np.std(drawn, ddof=1)) if len(drawn) > 1 else float("nan")
        return Estimate(float(value), float(value) - width, float(value) + width)


@dataclass(frozen=True)
class Score:
    """A score of codes, what it was computed of, and what that says.

    value: the score; low, high: 95 % of it, over bootstrap draws of the images, splits of them, or runs. matrix: as the
    function says, mostly [D, F]. parts: scores by name, of which `value` may be one. remark: a plain sentence on which
    dimension tells which factor.
    """

    value: float
    low: float
    high: float
    matrix: Floats
    remark: str
    parts: dict[str, Estimate] = field(default_factory=dict)


@dataclass(frozen=True)
class Known:
    """Codes z [N, D] and factors v [N, F] of the same images; NaN: a factor is missing."""

    z: Floats
    v: Floats
    kinds: tuple[Factor, ...]

    @staticmethod
    def of(
        name: str,
        codes: ArrayLike,
        factors: ArrayLike,
        kinds: Kinds,
        *,
        least: int,
        dims: int = 1,
        several: bool = False,
    ) -> "Known":
        """Raises DataError for what the score of this name can't be computed of.

        least: images that must be known of each factor. dims: dimensions of the codes at least. several: whether one
        factor alone is none.
        """
        z, v = as_numbers("codes", codes), as_numbers("factors", factors, "F", missing=True)
        if len(z) != len(v):
            raise DataError(f"{name}: codes of {len(z)} images and factors of {len(v)}; give those of the same images")
        if several and v.shape[1] == 1:
            raise DataError(f"{name}: there is 1 factor, and it compares two; give 2 or more, or take mig or sap")
        if z.shape[1] < dims:
            raise DataError(
                f"{name}: the codes have {z.shape[1]} dimension, and it compares two; give codes of 2 or more"
            )
        found = described(v, kinds)
        for column, factor in zip(v.T, found, strict=True):
            known = column[~np.isnan(column)]
            if len(known) < least:
                raise DataError(
                    f"{name}: {factor.name} is known of {len(known)} images, fewer than {least} bins; give more images"
                )
            if is_constant(column, factor):
                raise DataError(f"{name}: {factor.name} is constant, and nothing can tell of it; leave it out")
        return Known(z, v, found)

    def rows(self, k: int) -> Whole:
        """The images that factor k is known of."""
        return np.flatnonzero(~np.isnan(self.v[:, k]))

    def take(self, rows: Whole) -> "Known":
        return Known(self.z[rows], self.v[rows], self.kinds)

    @property
    def standardized(self) -> Floats:
        """z with each dimension of mean 0 and variance 1, or 0 where it is constant."""
        scale = self.z.std(0)
        return (self.z - self.z.mean(0)) / np.where(scale > 0, scale, 1)


def as_numbers(what: str, values: ArrayLike, width: str = "D", *, missing: bool = False) -> Floats:
    """Float64 [N, D]. Raises DataError for another shape, and for what is not finite; missing: but NaN."""
    array = np.asarray(values)
    if array.ndim != 2 or not array.shape[1] or array.dtype.kind not in "biuf":
        raise DataError(f"{what}: expected numbers [N, {width}], got {array.dtype} {list(array.shape)}")
    array = array.astype(np.float64)
    bad = np.isinf(array) if missing else ~np.isfinite(array)
    if bad.any():
        also = "; a missing value is NaN" if missing else "; leave those images out"
        raise DataError(f"{what}: {int(bad.any(1).sum())} of {len(array)} rows are not finite{also}")
    return array


def described(v: Floats, kinds: Kinds) -> tuple[Factor, ...]:
    """What each of the columns [N, F] is. Of a name alone: a circle by its unit, (deg); categories where it takes at
    most FEW whole numbers; else a number."""
    given = [f"factor {k}" for k in range(v.shape[1])] if kinds is None else list(kinds)
    if len(given) != v.shape[1]:
        raise DataError(f"kinds: {len(given)} are given of {v.shape[1]} factors; give one of each")
    return tuple(g if isinstance(g, Factor) else _guessed(g, column) for g, column in zip(given, v.T, strict=True))


def _guessed(name: str, column: Floats) -> Factor:
    found, values = number_of(name, column), np.unique(column[~np.isnan(column)])
    few = len(values) <= FEW and bool((values == np.rint(values)).all())
    return Factor(name=found.name, kind="categorical") if few and found.kind == "continuous" else found


def is_constant(column: Floats, factor: Factor) -> bool:
    """Whether a factor [N] has one value at most where it is known."""
    known = column[~np.isnan(column)]
    return len(np.unique(_around(known, factor))) < 2


def _around(x: Floats, factor: Factor | None) -> Floats:
    """Values of a circle from its lowest on."""
    return x if factor is None or factor.kind != "circular" else (x - factor.low) % factor.period


def in_bins(x: Floats, factor: Factor | None, bins: int) -> Whole:
    """The bin of each of values [N], all as wide: values themselves where they are categories, or at most so many."""
    x = _around(x, factor)
    values, index = np.unique(x, return_inverse=True)
    if len(values) <= bins or (factor is not None and factor.kind == "categorical"):
        return index.astype(np.int64)
    low, width = (0.0, factor.period) if factor and factor.kind == "circular" else (values[0], values[-1] - values[0])
    return np.clip(((x - low) / width * bins).astype(np.int64), 0, bins - 1)


def factors_in_bins(known: Known, bins: int) -> Whole:
    """[N, F]; -1: missing."""
    found = np.full(known.v.shape, -1)
    for k, factor in enumerate(known.kinds):
        rows = known.rows(k)
        found[rows, k] = in_bins(known.v[rows, k], factor, bins)
    return found


def used(z: Floats) -> NDArray[np.bool_]:
    """Which dimensions vary by more than UNUSED of what the widest does: [D]."""
    scale = z.std(0)
    return scale > UNUSED * scale.max()


def resampled(n: int, draws: int) -> list[Whole]:
    """Bootstrap draws of n images, the same for every score."""
    draw = np.random.default_rng(0)
    return [draw.integers(n, size=n) for _ in range(draws)]


def in_two(rows: Whole, seed: int) -> tuple[Whole, Whole]:
    """Two thirds to train on, the rest to test on."""
    first, second = np.split(np.random.default_rng(seed).permutation(rows), [len(rows) * 2 // 3])
    return first, second

"""A split by combination: the test part holds combinations of factors that training never sees."""

from dataclasses import replace
from typing import Any

import numpy as np

from lowerbound.data.attributes import Factor, kinds_of, named
from lowerbound.data.source import Changed, Contents, Source
from lowerbound.data.split import PARTS, UNDECIDED
from lowerbound.errors import DataError


class HeldOut(Changed):
    """A source whose test part are the rows that fulfil all of `shape=box,object_hue=0.5..0.7`, and no others."""

    def __init__(self, source: Source, wanted: str):
        super().__init__(source)
        self.wanted, self.origin = wanted, f"{source.origin} without {wanted}"

    def fingerprint(self) -> Any:
        return [self.source.fingerprint(), self.wanted]

    def contents(self) -> Contents:
        contents = self.source.contents()
        out = held_out(contents, self.wanted)
        _check_scenes(out, contents.views, self.wanted)
        part = np.where(out, PARTS.index("test"), contents.part).astype(np.int8)
        part[~out & (part == PARTS.index("test"))] = UNDECIDED
        return replace(contents, part=part, carve=tuple(p for p in contents.carve if p != "test"))


def held_out(contents: Contents, wanted: str) -> np.ndarray:
    """Which rows fulfil all of it: bool [N]. Raises DataError where these are none, or all."""
    what = f"data.holdout={wanted}"
    if contents.factors is None or contents.factor_names is None:
        raise DataError(
            f"{what}: the data have no factors, which an .npz has as the array factors; set data.holdout=null"
        )
    kinds = contents.kinds or kinds_of(contents.factor_names, contents.factors)
    out = np.ones(len(contents.keys), bool)
    for term in wanted.split(","):
        name, equals, value = (part.strip() for part in term.partition("="))
        if not equals:
            raise DataError(f"{what}: expected NAME=VALUE or NAME=LOW..HIGH with commas between, got {term.strip()!r}")
        i = named(name, kinds, what)
        out &= _within(np.asarray(contents.factors[:, i], np.float64), kinds[i], value, what)
    if not out.any():
        raise DataError(f"{what}: none of the {len(out):,} images is so, and the test part would be empty; widen it")
    if out.sum() > len(out) - 2:
        raise DataError(f"{what}: all but {len(out) - out.sum()} images are so, which leaves nothing to train on")
    return out


def _check_scenes(out: np.ndarray, views: int | None, wanted: str) -> None:
    """Raise DataError where some views of a scene would be held out, and others not."""
    if views is not None and (out != np.repeat(out[::views], views)).any():
        raise DataError(
            f"data.holdout={wanted}: holds out some views of a scene and not the others; name what is the same in all"
        )


def _within(values: np.ndarray, factor: Factor, wanted: str, what: str) -> np.ndarray:
    """Which values [N] are the one, or between the two; of a circle, from the first on to the second."""
    low, dots, high = wanted.partition("..")
    first = factor.number(low, what)
    if not dots or low == high:  # else 90..90 were a whole circle
        return np.isclose(values, first, rtol=0, atol=1e-5 * factor.period)
    if factor.kind == "categorical":
        raise DataError(f"{what}: {factor.name} has names, expected one of {', '.join(factor.values)}")
    last = factor.number(high, what)
    if factor.kind == "circular" and last <= first:
        return (values >= first) | (values <= last)
    return (values >= first) & (values <= last)

"""What shows a finding: the numbers that were judged, or images, as something to look at."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

SHOWN = 8  # images of a kind


class Bars(NamedTuple):
    """Numbers side by side."""

    title: str
    names: Sequence[str]
    values: np.ndarray  # [N]
    bound: float | None = None  # what each is held to


class Histograms(NamedTuple):
    """How numbers of several sets of images lie."""

    title: str
    sets: Mapping[str, np.ndarray]  # [n] each


class Line(NamedTuple):
    """A number in the course of a training."""

    title: str
    x: Sequence[float]
    y: Sequence[float]
    x_name: str = "step"


class Pictures(NamedTuple):
    """Rows of images: pixel values [n, C, H, W] each, of a space of so many levels."""

    title: str
    rows: Mapping[str, np.ndarray]
    levels: int


Evidence = Bars | Histograms | Line | Pictures
Shows = Callable[[], Sequence[Evidence]]  # made only where somebody looks


def nothing() -> Sequence[Evidence]:
    return ()


def most(title: str, named: Mapping[str, float], bound: float | None = None, at_most: int = 64) -> Bars:
    """Bars from the largest down, of so many at most."""
    names = sorted(named, key=lambda name: -named[name])[:at_most]
    return Bars(title, names, np.array([named[name] for name in names], np.float64), bound)


def some(x: Tensor | np.ndarray) -> np.ndarray:
    """A few images of many [N, ...]."""
    return x[:SHOWN].detach().cpu().numpy() if isinstance(x, Tensor) else x[:SHOWN]

"""A metric measures a model on all images of a split, once each, and says how sure the number is."""

import math
from abc import abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np
import torch

from lowerbound.chunks import Advance
from lowerbound.config import Component, components
from lowerbound.data.base import Images
from lowerbound.data.batches import Batches
from lowerbound.errors import ConfigError, ModelError, did_you_mean
from lowerbound.model import Model
from lowerbound.progress import Progress
from lowerbound.runs.inputs import open_data
from lowerbound.runs.run import Run
from lowerbound.space import told_of
from lowerbound.units import share_interval

T = TypeVar("T")


class Value(NamedTuple):
    """A measured number. `relation` is what holds between the true quantity and `value`."""

    value: float | None
    stderr: float | None
    unit: str
    relation: str
    n: int
    draws: int
    each: np.ndarray | None = None  # [n], for paired comparisons
    detail: dict[str, list[float]] | None = None  # in the saved report
    recipe: dict[str, Any] | None = None  # what the number depends on beside the model and the images
    given: str | None = None  # what the model was told of each image: its label
    interval: tuple[float, float] | None = (
        None  # holds the true quantity 95 times in 100, also at the ends of its range
    )
    remark: str | None = None  # what it says, in a plain sentence
    table: dict[str, Any] | None = None  # what it was computed of: `columns` by name, `rows` of numbers

    @staticmethod
    def mean(
        each: np.ndarray, unit: str, relation: str = "=", draws: int = 1, *, common: float = 0.0, **more: Any
    ) -> "Value":
        """The mean over images and its standard error. Raises ModelError where a number is not finite.

        common: the standard error that all images have in common, which more of them don't make smaller.
        """
        if not np.isfinite(each).all():
            raise ModelError(f"{int((~np.isfinite(each)).sum())} of {len(each)} images have a value that is not finite")
        error = math.hypot(each.std(ddof=1) / np.sqrt(len(each)), common) if len(each) > 1 else common or None
        return Value(float(each.mean()), error, unit, relation, len(each), draws, each, **more)

    @staticmethod
    def share(each: np.ndarray, unit: str, draws: int = 1, also: float = 0.0, **more: Any) -> "Value":
        """The share of images that are 1 and not 0, with an interval that is right at 0 and 1 too.

        also: the variance that the share has beside that of its images. The interval is that of a share of so many
        independent images as have the same variance.
        """
        value, p, n = Value.mean(each, unit, "=", draws, **more), float(each.mean()), len(each)
        error = None if value.stderr is None else math.hypot(value.stderr, math.sqrt(also))
        spread = (p * n + 1) * (n - p * n + 1) / (n + 2) ** 2  # p (1 - p), and above 0
        return value._replace(stderr=error, interval=share_interval(p, spread / (spread / n + also)))

    def entry(self) -> dict[str, Any]:
        """As it stands in a report."""
        if self.value is None:
            return {"value": None, "relation": self.relation}
        numbers = {k: getattr(self, k) for k in ("value", "stderr", "unit", "relation", "n", "draws")}
        interval = None if self.interval is None else list(self.interval)
        more = {"given": self.given, "interval": interval, "recipe": self.recipe}
        more |= {"remark": self.remark, "table": self.table}
        return numbers | {k: v for k, v in more.items() if v is not None}


@dataclass(frozen=True)
class World:
    """What a metric is asked with: a model, the images of a split, and where more is to be had.

    batches: the images as the model takes them; `images` has what else is known of them: labels, factors, names.
    run: the run that the model is of; None for a model by itself, without training images.
    source: the data set that is measured on in the place of the run's own; None: the run's.
    advance: told how many images were passed, in every pass.
    """

    model: Model
    batches: Batches
    run: Run | None = None
    source: str | None = None
    seed: int = 0
    progress: Progress = field(default_factory=Progress, repr=False)
    advance: Advance = field(default=lambda n: None, repr=False)
    _kept: dict[Hashable, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def images(self) -> Images:
        return self.batches.images

    @property
    def given(self) -> str | None:
        """What the model is told of each image, in a word."""
        return told_of(self.model.given)

    def open(self, split: str) -> Images:
        """Another split of the same data. Raises ModelError where there is no run."""
        if self.run is None:
            raise ModelError(f"{type(self.model).__name__} is of no run, so there are no {split} images")
        return open_data(self.run, split, self.source)  # decoded already, and what can't be read was said

    def once(self, what: Hashable, make: Callable[[], T]) -> T:
        """What several metrics need, made when the first of them asks for it."""
        if what not in self._kept:
            self._kept[what] = make()
        return self._kept[what]


class Metric(Component, abstract=True):
    """Measures one kind of question; a single pass may give several numbers, named in `names`. Its options are fields.

    A value is called by one of the names, or by one with a suffix where there are several of it: usage.top.
    """

    names: ClassVar[tuple[str, ...]]
    suffixes: ClassVar[tuple[str, ...]] = ()  # of its names, where they are the same for all models
    costly: ClassVar[bool] = False  # measured only where it is named
    first: ClassVar[bool] = False  # reported before the others

    @abstractmethod
    def applies(self, world: World) -> bool:
        """Whether the question makes sense for the model."""

    @abstractmethod
    def __call__(self, world: World) -> dict[str, Value]:
        """Of all images, once each, in order."""


def measure(
    world: World, *, names: Sequence[str] | None = None, options: Mapping[str, Any] | None = None
) -> dict[str, Value]:
    """The named metrics, or all that apply and are not costly. `options` go to the metrics that have them (draws).

    A name takes all values that begin with it (usage: usage.top and usage.bottom), or is that of a single one.
    Raises ConfigError for an unknown name and ModelError for a quantity that the model does not have.
    """
    check_names(names or ())
    model = type(world.model).__name__
    values: dict[str, Value] = {}
    for kind in kinds():
        wanted = [n for n in names if base(n) in kind.names] if names is not None else [] if kind.costly else kind.names
        metric = kind(**{k: v for k, v in (options or {}).items() if k in kind.model_fields})
        if wanted and metric.applies(world):
            values |= taken(_measured(metric, world), wanted)
        elif wanted and names is not None:
            raise ModelError(f"{model} has no {', '.join(wanted)}")
    for name, value in values.items():
        if value.value is None and names is not None:
            raise ModelError(f"{name}: {model} says nothing of log p(x): {world.model.why_no_density()}")
    return values


def kinds() -> list[type[Metric]]:
    """Every metric there is, those that take long last."""
    return sorted(components(Metric), key=lambda kind: (kind.costly, not kind.first))


def check_names(names: Sequence[str]) -> None:
    """Raise ConfigError unless they are names of metrics."""
    known = {name: kind for kind in kinds() for name in kind.names}
    for name in names:
        if base(name) not in known:
            raise ConfigError(f"no metric {name!r}{did_you_mean(name, known)}")
        if suffixes := known[base(name)].suffixes:
            taken({base(name) + suffix: None for suffix in suffixes}, [name])


def base(name: str) -> str:
    """usage, of usage.top."""
    return name.partition(".")[0]


def taken(values: Mapping[str, T], names: Sequence[str]) -> dict[str, T]:
    """Those of the values that the names take. Raises ConfigError for a name that takes none.

    Example:
        >>> found = dict.fromkeys(("usage.top", "usage.bottom"), Value(1.0, None, "", "=", 1, 0))
        >>> list(taken(found, ["usage"])), list(taken(found, ["usage.top"]))
        (['usage.top', 'usage.bottom'], ['usage.top'])
    """
    for name in names:
        if not any(f"{found}.".startswith(f"{name}.") for found in values):
            raise ConfigError(f"no metric {name!r}{did_you_mean(name, values)}")
    return {found: v for found, v in values.items() if any(f"{found}.".startswith(f"{n}.") for n in names)}


@torch.no_grad()
def _measured(metric: Metric, world: World) -> dict[str, Value]:
    training = world.model.training
    world.model.eval()
    try:
        return metric(world)
    finally:
        world.model.train(training)

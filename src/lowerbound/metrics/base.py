"""A metric measures a model on all images of a split, once each, and says how sure the number is."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch

from lowerbound.config import Component, components
from lowerbound.data.batches import Batch, Batches, Shuffled
from lowerbound.errors import ConfigError, ModelError, did_you_mean
from lowerbound.memory import keep_freed
from lowerbound.models.base import Model
from lowerbound.noise import KeyedNoise

Advance = Callable[[int], None]  # told how many images are done


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

    @staticmethod
    def mean(each: np.ndarray, unit: str, relation: str = "=", draws: int = 1, **more: Any) -> "Value":
        """The mean over images and its standard error. Raises ModelError where a number is not finite."""
        if not np.isfinite(each).all():
            raise ModelError(f"{int((~np.isfinite(each)).sum())} of {len(each)} images have a value that is not finite")
        error = float(each.std(ddof=1) / np.sqrt(len(each))) if len(each) > 1 else None
        return Value(float(each.mean()), error, unit, relation, len(each), draws, each, **more)


class Metric(Component, abstract=True):
    """Measures one kind of question; a single pass may give several numbers, named in `names`.

    A value is called by one of the names, or by one with a suffix where there are several of it: usage.top.
    """

    names: ClassVar[tuple[str, ...]]

    @abstractmethod
    def applies(self, model: Model) -> bool:
        """Whether the question makes sense for the model."""

    @abstractmethod
    def __call__(
        self, model: Model, images: Batches, seed: int, limit: int | None, advance: Advance
    ) -> dict[str, Value]:
        """All images, or the first `limit`, once each, in order."""


def measure(
    model: Model,
    images: Batches,
    *,
    names: Sequence[str] | None = None,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
    limit: int | None = None,
    advance: Advance = lambda n: None,
) -> dict[str, Value]:
    """The named metrics, or all that apply. `options` go to the metrics that have them (draws).

    A name takes all values that begin with it (usage: usage.top and usage.bottom), or is that of a single one.
    Raises ConfigError for an unknown name and ModelError for a quantity that the model does not have.
    """
    kinds: list[Any] = components(Metric)
    known = [name for kind in kinds for name in kind.names]
    for name in names or ():
        if base(name) not in known:
            raise ConfigError(f"no metric {name!r}{did_you_mean(name, known)}")
    values: dict[str, Value] = {}
    for kind in kinds:
        wanted = kind.names if names is None else [n for n in names if base(n) in kind.names]
        metric = kind(**{k: v for k, v in (options or {}).items() if k in kind.model_fields})
        if wanted and metric.applies(model):
            values |= taken(_measured(metric, model, images, seed, limit, advance), wanted)
        elif wanted and names is not None:
            raise ModelError(f"{type(model).__name__} has no {', '.join(wanted)}")
    for name, value in values.items():
        if value.value is None and names is not None:
            raise ModelError(f"{name}: {type(model).__name__} says nothing of log p(x): {model.why_no_density()}")
    return values


def base(name: str) -> str:
    """usage, of usage.top."""
    return name.partition(".")[0]


def taken(values: Mapping[str, Value], names: Sequence[str]) -> dict[str, Value]:
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
def _measured(
    metric: Metric, model: Model, images: Batches, seed: int, limit: int | None, advance: Advance
) -> dict[str, Value]:
    training = model.training
    model.eval()
    try:
        return metric(model, images, seed, limit, advance)
    finally:
        model.train(training)


def rows_at_once(model: Model) -> int:
    """How many events are measured at once: enough to keep all cores busy, few enough for bounded memory."""
    return max(1, min(8192, 2**22 // model.footprint))


def keyed_chunks(
    model: Model, images: Shuffled, draws: int, seed: int, limit: int | None
) -> Iterator[tuple[Batch, Iterator[int]]]:
    """Batches of images, each with the sizes of the chunks its draws are cut into, inside noise keyed by
    (seed, image index, draw)."""
    rows = rows_at_once(model)
    keep_freed()
    for batch in images.in_order(max(1, rows // draws), limit):
        with KeyedNoise(seed, batch.index) as noise:
            step = max(1, rows // len(batch.index))
            yield batch, (noise.chunk(min(step, draws - done)) for done in range(0, draws, step))

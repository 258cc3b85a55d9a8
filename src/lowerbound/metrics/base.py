"""A metric measures a model on all images of a split, once each, and says how sure the number is."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch

from lowerbound.chunks import Advance
from lowerbound.config import Component, components
from lowerbound.data.batches import Batches
from lowerbound.errors import ConfigError, ModelError, did_you_mean
from lowerbound.model import Model


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

    @staticmethod
    def mean(each: np.ndarray, unit: str, relation: str = "=", draws: int = 1, **more: Any) -> "Value":
        """The mean over images and its standard error. Raises ModelError where a number is not finite."""
        if not np.isfinite(each).all():
            raise ModelError(f"{int((~np.isfinite(each)).sum())} of {len(each)} images have a value that is not finite")
        error = float(each.std(ddof=1) / np.sqrt(len(each))) if len(each) > 1 else None
        return Value(float(each.mean()), error, unit, relation, len(each), draws, each, **more)

    def entry(self) -> dict[str, Any]:
        """As it stands in a report."""
        kept = {k: v for k, v in self._asdict().items() if k not in ("each", "detail", "recipe")}
        return kept | ({} if self.recipe is None else {"recipe": self.recipe})


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
    check_names(names or ())
    kinds: list[Any] = components(Metric)
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


def check_names(names: Sequence[str], more: Sequence[str] = ()) -> None:
    """Raise ConfigError unless they are names of metrics, or of what `more` names."""
    known = [name for kind in components(Metric) for name in kind.names] + [*more]
    for name in names:
        if base(name) not in known:
            raise ConfigError(f"no metric {name!r}{did_you_mean(name, known)}")


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

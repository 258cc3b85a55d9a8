"""What holds of every metric: the values it names, whatever the batches, the same for one seed."""

import json
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from unittest.mock import patch

import numpy as np
import torch

from lowerbound.data.base import Images
from lowerbound.data.batches import Batches
from lowerbound.metrics.base import Metric, Value, base, measure
from lowerbound.model import Model
from lowerbound.models.vae import VAE
from lowerbound.testing.base import events, expect, expect_round_trip, run_checks
from lowerbound.testing.models import ModelCase


def check_metric(metric: Metric | type[Metric], model: Model | None = None) -> None:
    """All of METRIC_CHECKS, on this model of images or a tiny VAE, if the metric applies to it."""
    few = {"draws": 7} if "draws" in metric.model_fields else {}
    metric = metric(**few) if isinstance(metric, type) else metric
    case = MetricCase.of(metric, model)
    if metric.applies(case.model):
        run_checks(metric, METRIC_CHECKS, case)


@dataclass(frozen=True)
class MetricCase:
    """A metric, a model of images, and images of its space."""

    metric: Metric
    model: Model
    images: Batches

    @staticmethod
    def of(metric: Metric, model: Model | None = None) -> "MetricCase":
        model = ModelCase.of(VAE.Config).build() if model is None else model
        levels = model.space.levels
        if levels is None or len(model.space.shape) != 3:
            raise ValueError(f"check_metric takes a model of images, got one of events {model.space}")
        label = model.given[0] if len(model.given) == 1 else None
        classes = None if label is None else tuple(str(i) for i in range(label.levels or 0))
        y = None if label is None else events(label, 11).numpy().astype(np.int64)
        x = events(model.space, 11).numpy()
        images = Images("random", "test", x, levels, y=y, classes=classes)
        return MetricCase(metric, model, Batches(images, torch.device("cpu"), label=label is not None))

    def __call__(self, seed: int = 0, limit: int | None = None, advance: Callable[[int], None] = lambda n: None):
        with torch.no_grad():
            return self.metric(self.model, self.images, seed, limit, advance)


def metric_round_trips_through_json(case: MetricCase) -> None:
    expect_round_trip(case.metric, Metric)


def metric_gives_the_values_it_names(case: MetricCase) -> None:
    done: list[int] = []
    values = case(advance=done.append)
    expect({*map(base, values)} == set(case.metric.names), f"gives {sorted(values)}, names {sorted(case.metric.names)}")
    expect(sum(done) == len(case.images), f"advance was told of {sum(done)} images of {len(case.images)}")
    for name, value in values.items():
        expect(isinstance(value, Value), f"{name} is a {type(value).__name__}")
        expect(value.relation in ("=", "<=", ">=", "?"), f"{name} has the relation {value.relation!r}")
        expect((value.value is None) == (value.relation == "?"), f"{name}: value and relation disagree")
        if value.value is not None:
            expect(math.isfinite(value.value) and bool(value.unit), f"{name} is {value.value} {value.unit}")
            expect(value.n == len(case.images), f"{name} counts {value.n} images of {len(case.images)}")
        if value.each is not None and value.value is not None:
            expect(value.each.shape == (value.n,), f"{name} has {value.each.shape} values per image")
            expect(np.isclose(value.each.mean(), value.value), f"{name} is not the mean of its values per image")
    json.dumps([value.detail for value in values.values()], allow_nan=False)


def metric_does_not_depend_on_batch_size(case: MetricCase) -> None:
    expected = case()
    for rows in (1, 3):
        with _rows_at_once(rows):
            _expect_same_values(f"with {rows} rows at once", case(), expected)


@contextmanager
def _rows_at_once(rows: int) -> Iterator[None]:
    """Inside, metrics take so many rows at once."""
    with ExitStack() as stack:
        for module in list(sys.modules.values()):
            if getattr(module, "rows_at_once", None) is not None:
                stack.enter_context(patch.object(module, "rows_at_once", lambda model: rows))
        yield


def _expect_same_values(
    when: str, values: dict[str, Value], expected: dict[str, Value], rows: int | None = None
) -> None:
    """The same per image (of the first `rows`), and on the whole where these are all."""
    for name, value in values.items():
        other = expected[name]
        if value.each is not None and other.each is not None:
            same = np.allclose(value.each, other.each[:rows], rtol=1e-4, atol=1e-6)
            expect(same, f"{name} of an image is another {when}")
        if rows is None and value.value is not None and other.value is not None:
            same = bool(np.isclose(value.value, other.value, rtol=1e-5))
            expect(same, f"{name} is {other.value}, and {value.value} {when}")


def metric_noise_is_keyed_by_seed(case: MetricCase) -> None:
    expected = case(seed=1)
    torch.rand(7)  # the global noise moves on
    _expect_same_values("measured again", case(seed=1), expected)


def metric_takes_the_first_images(case: MetricCase) -> None:
    whole, part = case(), case(limit=4)
    for name, value in part.items():
        expect(value.value is None or value.n == 4, f"{name} counts {value.n} images of 4")
    _expect_same_values("with limit=4", part, whole, 4)


def metric_is_found_by_its_names(case: MetricCase) -> None:
    case.model.train()
    values = measure(case.model, case.images, names=case.metric.names, options={"draws": 3}, limit=2)
    expect(case.model.training, "the model is left in eval mode")
    case.model.eval()
    expect({*map(base, values)} == set(case.metric.names), f"measure gives {sorted(values)}")


METRIC_CHECKS = (
    metric_round_trips_through_json,
    metric_gives_the_values_it_names,
    metric_does_not_depend_on_batch_size,
    metric_noise_is_keyed_by_seed,
    metric_takes_the_first_images,
    metric_is_found_by_its_names,
)

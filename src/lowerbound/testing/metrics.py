"""What holds of every metric: the values it names, whatever the batches, the same for one seed."""

import json
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from lowerbound import parallel
from lowerbound.chunks import Advance
from lowerbound.config import resolve
from lowerbound.data.base import Data, Images
from lowerbound.data.batches import Batches
from lowerbound.metrics.base import Metric, Value, World, base, measure
from lowerbound.model import Model
from lowerbound.parallel import together
from lowerbound.runs.facts import Facts
from lowerbound.runs.inputs import as_batches, open_data
from lowerbound.runs.recipes import Recipe
from lowerbound.runs.run import Run
from lowerbound.testing.base import checks_in, events, expect, expect_round_trip, run_checks
from lowerbound.testing.cases import ModelCase
from lowerbound.testing.processes import in_threads
from lowerbound.training import classifiers

# what converges nowhere, and takes no time
_HARDLY = {"temperatures": 3, "chains": 2, "refinement": 2, "splits": 1, "sigma": 0.2}
_VAE = "models.vae.VAE"  # what metrics are tried on, where no model is given


def check_metric(
    metric: Metric | type[Metric], model: Model | None = None, *, checks: Sequence[Callable[[Any], None]] | None = None
) -> None:
    """The checks that METRIC_CHECKS names, or these, on this model of images or a tiny VAE, if it applies to that.

    A costly metric is checked on a tiny run of `digits`, by COSTLY_CHECKS, which measure three times.
    """
    few = {"draws": 7, "samples": 40} | _HARDLY
    metric = (
        metric(**{k: v for k, v in few.items() if k in metric.model_fields}) if isinstance(metric, type) else metric
    )
    if metric.costly:
        with tempfile.TemporaryDirectory(prefix="lowerbound-") as folder, _few_steps():
            case = MetricCase.of_run(metric, Path(folder) / "run")
            if metric.applies(case.world()):
                run_checks(metric, COSTLY_CHECKS if checks is None else checks, case)
        return
    case = MetricCase.of(metric, model)
    if metric.applies(case.world()):
        run_checks(metric, METRIC_CHECKS if checks is None else checks, case)


@dataclass(frozen=True)
class MetricCase:
    """A metric, a model of images, and images of its space."""

    metric: Metric
    model: Model
    images: Batches
    run: Run | None = None

    @staticmethod
    def of(metric: Metric, model: Model | None = None) -> "MetricCase":
        """Random images, and a model by itself."""
        model = ModelCase.of(resolve(_VAE, Model.Config)).build() if model is None else model
        levels = model.space.levels
        if levels is None or len(model.space.shape) != 3:
            raise ValueError(f"check_metric takes a model of images, got one of events {model.space}")
        label = model.given[0] if len(model.given) == 1 else None
        classes = None if label is None else tuple(str(i) for i in range(label.levels or 0))
        y = None if label is None else events(label, 11).numpy().astype(np.int64)
        x = events(model.space, 11).numpy()
        images = _with_factors(Images("random", "test", x, levels, y=y, classes=classes))
        return MetricCase(metric, model, Batches(images, torch.device("cpu"), label=label is not None))

    @staticmethod
    def of_run(metric: Metric, path: Path) -> "MetricCase":
        """The first test images of `digits`, and the run of an untrained VAE that is given the label."""
        recipe = Recipe(data=Data(source="digits", label=True), model=resolve(_VAE, Model.Config).example()[0])
        run = Run.create(path, "tiny", recipe, Facts.of(recipe.data.open("train"), recipe))
        run.save_model(run.build())
        images = as_batches(run, _with_factors(open_data(run, "test").head(40)), torch.device("cpu"))
        return MetricCase(metric, run.load(), images, run)

    def world(self, seed: int = 0, limit: int | None = None, advance: Advance = lambda n: None) -> World:
        return World(self.model, self.images.head(limit), self.run, seed=seed, advance=advance)

    def __call__(self, seed: int = 0, limit: int | None = None, advance: Advance = lambda n: None):
        with torch.no_grad():
            return self.metric(self.world(seed, limit, advance))


def _with_factors(images: Images) -> Images:
    """As if two factors of variation were known, of 3 and 2 values."""
    i = np.arange(len(images))
    return replace(images, factors=np.stack([i % 3, i % 2], 1), factor_names=("thirds", "halves"))


@contextmanager
def _few_steps() -> Iterator[None]:
    """Inside, classifiers are hardly trained."""
    with patch.object(classifiers, "STEPS", 2), patch.object(classifiers, "EPOCHS", 1):
        yield


def metric_round_trips_through_json(case: MetricCase) -> None:
    expect_round_trip(case.metric, Metric)


def metric_gives_the_values_it_names(case: MetricCase) -> None:
    done: list[int] = []
    values = case(advance=done.append)
    expect({*map(base, values)} == set(case.metric.names), f"gives {sorted(values)}, names {sorted(case.metric.names)}")
    known = {name + suffix for name in case.metric.names for suffix in case.metric.suffixes}
    expect(not known or known >= set(values), f"gives {sorted(set(values) - known)}, which its suffixes don't name")
    told = sum(done) == len(case.images) or case.metric.costly
    expect(told, f"advance was told of {sum(done)} images of {len(case.images)}")
    for name, value in values.items():
        expect(isinstance(value, Value), f"{name} is a {type(value).__name__}")
        expect(value.relation in ("=", "<=", ">=", "~", "?"), f"{name} has the relation {value.relation!r}")
        expect((value.value is None) == (value.relation == "?"), f"{name}: value and relation disagree")
        if value.value is not None:
            expect(math.isfinite(value.value) and bool(value.unit), f"{name} is {value.value} {value.unit}")
            expect(value.n == len(case.images), f"{name} counts {value.n} images of {len(case.images)}")
        if value.interval is not None and value.value is not None:
            low, high = value.interval
            expect(low <= value.value <= high and low < high, f"{name} is {value.value}, between {low} and {high}")
        if value.each is not None and value.value is not None:
            expect(value.each.shape == (value.n,), f"{name} has {value.each.shape} values per image")
            expect(np.isclose(value.each.mean(), value.value), f"{name} is not the mean of its values per image")
    json.dumps([[value.detail, value.entry()] for value in values.values()], allow_nan=False)


def metric_does_not_depend_on_batch_size(case: MetricCase) -> None:
    expected = case()
    for rows in (1, 3):
        with patch.object(Model, "rows", rows):
            _expect_same_values(f"with {rows} rows at once", case(), expected)


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


def metric_is_the_same_in_several_processes(case: MetricCase) -> None:
    """Of which one has no image, where there are few."""
    few = 2 if not case.metric.costly else None

    def measured(world: parallel.World) -> dict[str, Value]:
        with together(world):
            return case(limit=few)

    expected = case(limit=few)
    for values in in_threads(3, measured):
        expect([*values] == [*expected], f"gives {[*values]} in three processes, {[*expected]} in one")
        _expect_same_values("in three processes", values, expected)


def metric_is_found_by_its_names(case: MetricCase) -> None:
    case.model.train()
    options = {"draws": 3, "samples": 20} | _HARDLY
    values = measure(case.world(limit=20), names=case.metric.names, options=options)
    expect(case.model.training, "the model is left in eval mode")
    case.model.eval()
    expect({*map(base, values)} == set(case.metric.names), f"measure gives {sorted(values)}")
    unasked = () if case.metric.costly else case.metric.names
    found = set() if case.metric.costly else {*map(base, measure(case.world(limit=2), options=options))}
    expect(found >= set(unasked), f"measure gives {sorted(found)} unasked")


METRIC_CHECKS = checks_in(__name__, "metric_")
_MANY_PASSES = (
    metric_does_not_depend_on_batch_size,
    metric_takes_the_first_images,
    metric_is_the_same_in_several_processes,
)
COSTLY_CHECKS = tuple(check for check in METRIC_CHECKS if check not in _MANY_PASSES)

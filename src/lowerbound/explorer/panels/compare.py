"""Runs side by side: the table of `lowerbound compare` as it is measured, samples by one seed, an image through all."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field
from torch import Tensor

from lowerbound.chunks import draws_of, log_density
from lowerbound.data.batches import Batch, Shuffled
from lowerbound.editing.controls import in_words
from lowerbound.errors import ModelError, RunError
from lowerbound.explorer.conditions import condition
from lowerbound.explorer.messages import Answer
from lowerbound.explorer.panels.base import ImageName, Panel, Seed, action
from lowerbound.explorer.shelf import Heard, Shown
from lowerbound.explorer.strips import strip
from lowerbound.metrics.likelihood import NATS, likelihood
from lowerbound.model import Invertible, LatentModel, Model, Viewing
from lowerbound.noise import seeded
from lowerbound.progress import Progress
from lowerbound.runs.conditions import NOTHING
from lowerbound.runs.run import Run
from lowerbound.sampling import drawing
from lowerbound.space import Density, told_of
from lowerbound.units import bits_per_dim
from lowerbound.verbs.compare import page
from lowerbound.verbs.compare.entries import Entry, Terms, check_runs, opened
from lowerbound.verbs.compare.measured import Measured, growing
from lowerbound.verbs.compare.notes import notes
from lowerbound.verbs.compare.rows import first_with_likelihood, numbers, table

FIRST, MOST = 16, 256  # images that are measured before the table is shown again, at first and later
COLUMNS = ("run", "model", "nll", "bits", "difference", "reconstruction", "parameters", "training", "code", "answers")

Together = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1, max_length=16)]
Draws = Annotated[int, Field(ge=1, le=5000)]
Limit = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=1, le=64)]


class Compare(Panel):
    """For runs that have weights."""

    title = "Compare"
    place = 80

    def fits(self, shown: Shown) -> bool:
        return shown.is_a(Model)

    @action
    def measure(
        self,
        shown: Shown,
        *,
        runs: Together,
        draws: Draws = 500,
        limit: Limit | None = None,
        split: Literal["test", "valid"] = "test",
        seed: Seed = 0,
        data_of: Annotated[int, Field(ge=0)] | None = None,
    ) -> Iterator[Answer | None]:
        """The table, of more and more images. runs: by their place; the differences are to the first with a
        likelihood. data_of: the run on whose data all are measured; without it each on its own."""
        source = None if data_of is None else str(_reopened(shown, data_of).recipe.data.source)
        terms = Terms(source, split, limit, draws, 1, seed, shown.device)
        chosen = [_reopened(shown, place) for place in runs]
        check_runs(chosen)
        entries = opened(chosen, terms, Progress())
        return _growing(entries, terms)

    @action
    def draw(self, shown: Shown, *, seed: Seed, count: Count = 8) -> Answer:
        """Samples of the run, those of `lowerbound sample RUN -n COUNT --seed SEED`; fewer of models slow to draw."""
        model = shown.model
        if not model.can_sample or isinstance(model, Viewing):
            why = "draws views of scenes alone" if isinstance(model, Viewing) else "has no density to draw samples from"
            raise ModelError(f"{shown.name} {why}")
        n = min(count, drawing.affordable(model, count))
        y = shown.run.condition(n, seed=seed)
        y = None if y is None else y.to(shown.device)
        with seeded(seed, "sample", quick=True):
            x = drawing.draw(model, n, y).x
        return Answer({"labels": [] if y is None else shown.run.said(y.cpu())}, {"pictures": shown.pictures(x)})

    @action
    def through(self, shown: Shown, *, image: ImageName, draws: Draws = 100, seed: Seed = 0) -> Answer:
        """What a run makes of an image: as it sees it, its reconstruction, and what both are worth."""
        model, heard = shown.model, Heard()
        if isinstance(model, Viewing):
            raise ModelError(f"{shown.name} is given other views of a scene, and says nothing of an image alone")
        images, lines = shown.images([image])
        kind, _, which = image.partition(":")
        tells = kind != "upload" or isinstance(model, LatentModel | Invertible)  # what an image is given
        y = shown.condition(images, NOTHING, heard) if tells else condition(shown, NOTHING)
        one = _One(Batch(images.x, y, np.array([int(which) if kind != "upload" else 0])))
        given = in_words(shown.run, None if y is None else y.cpu())
        said: dict[str, Any] = {"notes": lines + heard.lines, "given": given}
        said |= _worth(model, one, draws, seed)
        arrays = {"original": shown.pictures(images.x[0])}
        if isinstance(model, LatentModel) and model.space.levels:
            r = model.reconstruct(images.x, y)
            arrays["reconstruction"] = shown.pictures(r[0])
            error = (r - images.x).double() / (model.space.levels - 1)
            arrays["error"] = shown.pictures(error[0].abs() * (shown.levels - 1))
            said["squared_error"] = float(error.square().sum())
        return Answer(said, arrays)

    @action
    def images(self, shown: Shown, *, start: Annotated[int, Field(ge=0)] = 0, count: Count = 24) -> Answer:
        """Images of the run's own data, to choose from."""
        return strip(shown, start, count)


def _reopened(shown: Shown, place: int) -> Run:
    """A run as it is now. Raises RunError where it is gone."""
    if place >= len(shown.runs):
        raise RunError(f"no run {place}; expected a number below {len(shown.runs)}")
    return Run.open(shown.runs[place].path)


def _growing(entries: list[Entry], terms: Terms) -> Iterator[Answer | None]:
    """The table of the first images, and then of more; after each run's part it may be left off."""
    total = entries[0].count(terms.limit)
    counts = list(_counts(total)) if all(e.batches.asked is None for e in entries) else [total]
    measuring = [growing(entry, terms, Progress(), counts) for entry in entries]
    rows: list[dict[str, Any]] = []
    for n in counts:
        values: list[Measured] = []
        for i, found in enumerate(measuring):
            values.append(next(found))
            if i + 1 < len(entries):
                yield Answer({"under": entries[i + 1].name, "done": n, "of": total})
        reference = first_with_likelihood(values)
        if not rows:
            nothing = [None] * len(entries)
            rows = table(entries, values, nothing, nothing, nothing, reference)
        rows = [row | more for row, more in zip(rows, numbers(entries, values, reference), strict=True)]
        yield Answer(_told(entries, rows, reference, terms, n, total))


def _counts(total: int) -> Iterator[int]:
    """16, 32, 64, 128, 256, 512, 768, ..., total."""
    n = min(FIRST, total)
    while n < total:
        yield n
        n = min(total, n + min(n, MOST))
    yield total


def _told(
    entries: list[Entry], rows: list[dict[str, Any]], reference: int | None, terms: Terms, n: int, total: int
) -> dict[str, Any]:
    """The table in numbers, as `compare --json` has it, and in words."""
    name = None if reference is None else entries[reference].name
    report = {"reference": name, "runs": rows, "data": entries[0].data(n), "seed": terms.seed}
    columns = page.shown_columns(report, COLUMNS)
    cells = [page.cells(row, report) for row in rows]
    return {
        **report,
        "done": n,
        "of": total,
        "columns": [{"name": c, "title": page.heading(c, report), "text": c in page.TEXT} for c in columns],
        "cells": [[row[c] for c in columns] for row in cells],
        "pixels": page.pixels(report),
        "legend": page.legend(report),
        "notes": notes(entries, rows),
    }


class _One(Shuffled):
    """One image, with its place in its split."""

    def __init__(self, batch: Batch):
        super().__init__()
        self.batch = batch

    def __len__(self) -> int:
        return 1

    def training(self, step: int, size: int, seed: int) -> tuple[Tensor, Any]:
        return self.batch.x, self.batch.y

    def in_order(self, size: int, limit: int | None = None, start: int = 0) -> Iterator[Batch]:
        yield self.batch


def _worth(model: Model, one: _One, draws: int, seed: int) -> dict[str, Any]:
    """nll and bits_per_dim of an image, or why there is none."""
    if model.density is Density.NONE:
        return {"nll": {"value": None, "relation": model.density.value}, "why": model.why_no_density()}
    nll = -log_density(model, one, draws_of(model, draws), seed)
    if not np.isfinite(nll).all():
        raise ModelError("the likelihood of this image is not finite")
    more = {"relation": model.density.value, "draws": draws_of(model, draws), "given": told_of(model.given)}
    dims = model.space.dims
    return {
        "nll": likelihood(nll, NATS, model.estimate, **more).entry(),
        "bits_per_dim": likelihood(
            bits_per_dim(nll, dims), "bits/dim", model.estimate, float(bits_per_dim(1.0, dims)), **more
        ).entry(),
    }

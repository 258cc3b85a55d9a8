"""One table over runs of any family: what each says of log p(x), what it costs, and what else it can do."""

from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich import box
from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from lowerbound.errors import ConfigError
from lowerbound.verbs.base import ASIDE, Device, File, Report, Runs, Seed, SomeWhole, Told, Whole, called, verb
from lowerbound.verbs.compare import outputs, page
from lowerbound.verbs.compare.anchors import anchors
from lowerbound.verbs.compare.entries import Entry, Terms, check_runs, opened
from lowerbound.verbs.compare.filed import filed
from lowerbound.verbs.compare.measured import Measured, measured
from lowerbound.verbs.compare.notes import notes
from lowerbound.verbs.compare.quality import quality as quality_of
from lowerbound.verbs.compare.rows import first_with_likelihood, table
from lowerbound.verbs.compare.sampled import drawn


@dataclass(frozen=True, eq=False)
class Comparison(Report):
    """What the runs say, what they cost, the anchors, and what must be known of them."""

    version: str
    seed: int
    device: str
    threads: int
    data: dict[str, Any]
    reference: str | None  # the name of the run that the differences are to
    runs: list[dict[str, Any]]
    anchors: list[dict[str, Any]]
    to_know: list[str] = field(metadata=called("notes"))
    written: tuple[str, ...] = field(default=(), metadata=ASIDE)  # files

    def notes(self) -> tuple[str, ...]:
        return self.written

    def shown(self) -> Any:
        facts = Text(f"\n{page.pixels(self)}\n{page.conditions(self)}", style="italic")
        tables = [_columns(self, names) for names in page.tables(self)]
        notes = [Padding(Text(f"- {note}"), (0, 1)) for note in self.to_know]
        return Group(facts, *tables, _anchors(page.anchor_rows(self)), *notes)


def _columns(report: Report, names: tuple[str, ...]) -> Any:
    made, shown = Table(box=box.SIMPLE), page.shown_columns(report, names)
    for name in shown:
        made.add_column(page.heading(name, report), justify="left" if name in page.TEXT else "right")
    for row in report["runs"]:
        cells = page.cells(row, report)
        made.add_row(*(Text(cells[name]) for name in shown))
    return made


def _anchors(rows: Any) -> Any:
    made = Table("the same pixels", "as", box=box.SIMPLE)
    for name in ("bits/dim", "nats/image"):
        made.add_column(name, justify="right")
    for row in rows:
        made.add_row(*row)
    return made


@verb
def compare(
    runs: Runs,
    /,
    *,
    html: File = None,
    png: File = None,
    markdown: File = None,
    data: str | None = None,
    split: str = "test",
    draws: Whole = 500,
    limit: SomeWhole = None,
    samples: Whole = 10,
    quality: bool = False,
    extractor: File = None,
    file_bits: bool = False,
    device: Device = "auto",
    seed: Seed = 0,
    progress: Told = False,
) -> Comparison:
    """One table over runs of any family on the same images: likelihood, cost, what else a model can do.

    The differences are to the first run with a likelihood, paired by images, and of a row minus that run: below zero
    the row has the lower NLL. Values that a run saved (`evaluate`) are taken where they are of these images, draws and
    seed, and newer than its weights; all others are measured, which is said, and not saved. Nothing in a run changes.

    Args:
        runs: run folders; the differences are to the first with a likelihood
        html: write a page: the table, samples, a plot
        png: write a picture: a row of samples for each run
        markdown: write the table to a .md, between <!-- compare --> and <!-- /compare -->
        data: measure all runs on this data set; by default each on its own
        draws: importance-weighted draws of a bound
        limit: only the first so many images
        samples: images drawn of each run, at once
        quality: also measure Fréchet distance, precision and recall of samples, as many as evaluate draws
        extractor: a classifier's run, a TorchScript or ONNX file, whose features quality is measured in; by default
            principal components of pixels
        file_bits: also put the first images (256, or --limit) into a file by each model, and show its size

    Raises UserError: for runs whose pixels are not the same, a run twice, one without weights, a file it can't write.
    """
    if not runs:
        raise ConfigError("compare: expected at least one run")
    features = None if extractor is None else Path(extractor)
    terms = Terms(data, split, limit, draws, samples, seed, torch.device(device), quality, file_bits, features)
    terms.check()
    files = outputs.checked({"html": html, "png": png, "markdown": markdown})
    check_runs(runs)
    entries = opened(runs, terms, progress)
    values = [measured(entry, terms, progress) for entry in entries]
    samples_of = [drawn(entry, terms) for entry in entries]
    qualities = [quality_of(entry, terms, progress) for entry in entries]
    files_of = [filed(entry, terms, progress) for entry in entries]
    rows = table(
        entries, values, [timing for _, timing in samples_of], qualities, files_of, first_with_likelihood(values)
    )
    report = _compared(entries, values, rows, terms, tuple(map(str, files.values())))
    drawings = [(entry.name, x) for entry, (x, _) in zip(entries, samples_of, strict=True) if x is not None]
    outputs.write(
        report, [*outputs.data_row(entries[0], samples), *drawings], entries[0].model.space.levels or 256, files
    )
    return report


def _compared(
    entries: list[Entry],
    values: list[Measured],
    rows: list[dict[str, Any]],
    terms: Terms,
    written: tuple[str, ...],
) -> Comparison:
    first, reference = entries[0], first_with_likelihood(values)
    pixels = np.concatenate(list(first.seen(terms.limit)))
    return Comparison(
        version=version("lowerbound"),
        seed=terms.seed,
        device=str(terms.device),
        threads=torch.get_num_threads(),
        data=first.data(terms.limit),
        reference=None if reference is None else entries[reference].name,
        runs=rows,
        anchors=[a._asdict() for a in anchors(pixels, first.model.space.levels or 256)],
        to_know=notes(entries, rows),
        written=written,
    )

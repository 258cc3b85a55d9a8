"""One table over runs of any family: what each says of log p(x), what it costs, and what else it can do."""

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch
from rich import box
from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text
from torch import Tensor

from lowerbound import pictures
from lowerbound.chunks import Advance
from lowerbound.config import Component
from lowerbound.data.base import Images
from lowerbound.data.batches import Batches, binarized
from lowerbound.errors import ConfigError, ModelError, RunError
from lowerbound.files import replacing
from lowerbound.metrics.base import Value, World, measure
from lowerbound.metrics.likelihood import NATS
from lowerbound.model import LatentModel, Model
from lowerbound.noise import seeded
from lowerbound.progress import Progress
from lowerbound.runs import fitted
from lowerbound.runs.run import Run
from lowerbound.sampling import drawing
from lowerbound.space import Density
from lowerbound.units import bits_per_dim
from lowerbound.verbs.base import Device, File, Report, Runs, Seed, SomeWhole, Told, Whole, verb
from lowerbound.verbs.compare import html, page
from lowerbound.verbs.compare.anchors import anchors

SHOWN = 64  # samples of each run at most
AGAIN = 4  # images of a saved evaluation that are measured anew, to see that it is of these weights and pixels
POSITIONS = 8  # of a sample without cache that are measured; the rest is extrapolated
SUFFIXES = {"html": (".html", ".htm"), "png": (".png",), "markdown": (".md",)}


@dataclass(frozen=True)
class Terms:
    """What is the same for all runs."""

    data: str | None  # None: each run's own
    split: str
    limit: int | None  # only the first so many images
    draws: int  # importance-weighted, of a bound
    samples: int  # of each run, drawn at once
    seed: int
    device: torch.device


@dataclass(frozen=True)
class Entry:
    """A run, its model, and the images it is measured on."""

    run: Run
    name: str  # in the table
    model: Model
    images: Images
    batches: Batches

    @property
    def binarization(self) -> str | None:
        return "fixed" if self.images.levels == 2 else "dynamic" if self.batches.binarize else None

    @property
    def pixels(self) -> str:
        """What it is measured on, in words."""
        how = f", {self.binarization} binarization" if self.binarization else f", {self.images.levels} levels"
        return f"{self.images.name} ({self.images.split}, {list(self.images.shape)}{how})"


class Measured(NamedTuple):
    """Per-image values [n] in float64, None where the model has none."""

    nll: np.ndarray | None  # nats, with the sign of -log p
    squared_error: np.ndarray | None  # sum over pixels scaled to [0, 1]
    saved: bool  # whether they are those of the run's own evaluation


@dataclass(frozen=True, eq=False)
class Comparison(Report):
    """What the runs say, what they cost, the anchors, and what must be known of them."""

    report: dict[str, Any]
    written: tuple[str, ...] = ()

    def json(self) -> dict[str, Any]:
        return self.report

    def notes(self) -> tuple[str, ...]:
        return self.written

    def shown(self) -> Any:
        facts = Text(f"\n{page.pixels(self)}\n{page.conditions(self)}", style="italic")
        tables = [_columns(self, names) for names in (page.LIKELIHOOD, page.COST)]
        notes = [Padding(Text(f"- {note}"), (0, 1)) for note in self["notes"]]
        return Group(facts, *tables, _anchors(page.anchor_rows(self)), *notes)


def _columns(report: dict[str, Any], names: tuple[str, ...]) -> Any:
    table, shown = Table(box=box.SIMPLE), page.shown_columns(report, names)
    for name in shown:
        table.add_column(page.heading(name, report), justify="left" if name in ("run", "model") else "right")
    for row in report["runs"]:
        cells = page.cells(row, report)
        table.add_row(*(Text(cells[name]) for name in shown))
    return table


def _anchors(rows: Any) -> Any:
    table = Table("the same pixels", "as", box=box.SIMPLE)
    for name in ("bits/dim", "nats/image"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*row)
    return table


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

    Raises UserError: for runs whose pixels are not the same, a run twice, one without weights, a file it can't write.
    """
    terms = Terms(data, split, limit, draws, samples, seed, torch.device(device))
    outputs = {k: Path(v) for k, v in (("html", html), ("png", png), ("markdown", markdown)) if v is not None}
    _check(runs, terms, outputs)
    entries = opened(runs, terms, progress)
    measured = [_measured(entry, terms, progress) for entry in entries]
    drawn = [_drawn(entry, terms) for entry in entries]
    report = _report(entries, measured, [timing for _, timing in drawn], terms)
    rows = [(entry.name, x) for entry, (x, _) in zip(entries, drawn, strict=True) if x is not None]
    _write(report, [*_data_row(entries[0], samples), *rows], entries[0].model.space.levels or 256, outputs)
    return Comparison(report, tuple(map(str, outputs.values())))


# ---- what can't be compared


def _check(runs: Sequence[Run], terms: Terms, outputs: dict[str, Path]) -> None:
    """Raise UserError for a wrong option, before anything is measured."""
    if not runs:
        raise ConfigError("compare: expected at least one run")
    for name, value in (("draws", terms.draws), ("samples", terms.samples), ("limit", terms.limit)):
        if value is not None and value < 1:
            raise ConfigError(f"--{name} {value}: expected a whole number of at least 1")
    if terms.samples > SHOWN:
        raise ConfigError(f"--samples {terms.samples}: expected at most {SHOWN}")
    for name, path in outputs.items():
        if path.suffix.lower() not in SUFFIXES[name]:
            raise ConfigError(f"--{name} {path}: expected a file ending in {SUFFIXES[name][0]}")
    if "markdown" in outputs:
        page.check_markers(outputs["markdown"])
    seen: dict[Path, Run] = {}
    for run in runs:
        place = run.path.resolve()
        if place in seen:
            raise RunError(
                f"{run.path} is given twice{'' if seen[place].path == run.path else f', {seen[place].path}'}"
            )
        seen[place] = run


def opened(runs: Sequence[Run], terms: Terms, progress: Progress) -> list[Entry]:
    """The models of runs and the images they are measured on. Raises RunError unless the pixels are the same."""
    names = [run.path.resolve().name for run in runs]
    names = names if len(set(names)) == len(names) else [str(run.path) for run in runs]
    entries = [_opened(run, name, terms, progress) for run, name in zip(runs, names, strict=True)]
    codes = [_pixel_code(entry, terms.limit) for entry in entries]
    for entry, code in zip(entries, codes, strict=True):
        if code != codes[0]:
            first, other = entries[0], entry
            advice = "" if terms.data else "; --data DATA measures all on one data set"
            raise RunError(
                f"{first.run.path} is measured on {first.pixels}, and {other.run.path} on {other.pixels}: these are "
                f"not the same pixels{advice}"
            )
    return entries


def _opened(run: Run, name: str, terms: Terms, progress: Progress) -> Entry:
    """Grey images are binarized for a model of binary pixels, and binary ones given to it as they are."""
    model = run.load(terms.device)
    data, facts = run.recipe.data, run.facts
    data = data if terms.data is None else data.model_copy(update={"source": terms.data})
    images = data.open(terms.split, progress=progress.count("decoding"))
    binarize = facts.space.levels == 2 and images.levels > 2
    if images.shape != facts.shape or (2 if binarize else images.levels) != facts.space.levels:
        found, wanted = f"{images.shape}, {images.levels} levels", f"{facts.shape}, {facts.space.levels} levels"
        raise RunError(f"{images.name} has images of {found}; {run.path} is a model of {wanted}")
    if data.label and images.classes != facts.classes:
        raise RunError(
            f"the classes of {images.name} are not those of {facts.name}, which {run.path} is conditioned on"
        )
    batches = Batches(images, terms.device, binarize=binarize, label=data.label)
    return Entry(run, name, model, images, batches)


def _pixel_code(entry: Entry, limit: int | None) -> str:
    """What tells one sequence of images from another, as they are measured: binarized, if they are."""
    digest = hashlib.blake2b(f"{list(entry.images.shape)} {entry.model.space.levels}".encode(), digest_size=16)
    for batch in entry.batches.in_order(4096, limit):
        digest.update(batch.x.cpu().numpy().tobytes())
    return digest.hexdigest()


# ---- likelihoods and reconstructions, image by image


def _measured(entry: Entry, terms: Terms, progress: Progress) -> Measured:
    """The saved values where they fit, else new ones."""
    names = ["nll"] if entry.model.density is not Density.NONE else []
    names += ["squared_error"] if isinstance(entry.model, LatentModel) and entry.model.space.levels else []
    if not names:
        return Measured(None, None, False)
    try:
        found, saved = _saved(entry, names, terms), True
    except RunError as e:
        progress.say(f"{entry.run.path}: measured now, on {_count(entry, terms):,} images ({e})")
        found, saved = _anew(entry, names, terms, progress), False
    return Measured(found.get("nll"), found.get("squared_error"), saved)


def _saved(entry: Entry, names: list[str], terms: Terms) -> dict[str, np.ndarray]:
    """Values of the run's own evaluation, [n] each. Raises RunError, saying why, where they are of something else.

    That they are of these weights and pixels is seen from the first images, whose noise is keyed, measured again.
    """
    run, images = entry.run, entry.images
    report, each = run.load_evaluation(images.name, images.split)
    wanted = {"n": len(images), "shape": list(images.shape), "levels": images.levels, "seed": terms.seed}
    wanted["binarization"] = entry.binarization
    wanted |= {"draws": terms.draws} if entry.model.density is Density.BOUND else {}
    try:
        there = {k: report["data"][k] for k in ("n", "shape", "levels", "binarization")} | {"seed": report["seed"]}
        there["draws"] = report["metrics"]["nll"].get("draws")
        found = {name: np.asarray(each[name], np.float64) for name in names}
    except (KeyError, TypeError, ValueError, AttributeError):
        raise RunError("its saved evaluation is damaged") from None
    other = [f"{k} {there[k]}, not {v}" for k, v in wanted.items() if v != there[k]]
    if other:
        raise RunError(f"its saved evaluation has {', '.join(other)}")
    if any(values.shape != (len(images),) or not np.isfinite(values).all() for values in found.values()):
        raise RunError("its saved evaluation is damaged")
    again = _anew(entry, names, replace(terms, limit=AGAIN), Progress())
    if not all(np.allclose(found[name][:AGAIN], again[name], rtol=1e-4, atol=1e-2) for name in names):
        raise RunError("its saved evaluation is of other weights or pixels")
    return {name: values[: terms.limit] for name, values in found.items()}


def _anew(entry: Entry, names: list[str], terms: Terms, progress: Progress) -> dict[str, np.ndarray]:
    """Values [n] of the metrics of these names. Raises ModelError where one is not finite."""
    found: dict[str, np.ndarray] = {}
    advance = _counter(progress.count("measuring"), len(names) * _count(entry, terms))
    try:
        world = World(entry.model, entry.batches.head(terms.limit), entry.run, seed=terms.seed, advance=advance)
        values = measure(world, names=names, options={"draws": terms.draws})
    except ModelError as e:
        raise ModelError(f"{entry.run.path}: {e}") from None
    for name, value in values.items():
        assert value.each is not None
        found[name] = value.each
    return found


def _count(entry: Entry, terms: Terms) -> int:
    return len(entry.images) if terms.limit is None else min(terms.limit, len(entry.images))


def _counter(told: Callable[[int, int], None], total: int) -> Advance:
    done = 0

    def advance(n: int) -> None:
        nonlocal done
        done += n
        told(done, total)

    return advance


# ---- samples, and their time


class Timing(NamedTuple):
    """How long an image takes that is drawn among `batch` of them."""

    seconds: float
    batch: int
    naive: dict[str, Any] | None = None  # without the cache: seconds, and how many of all passes were measured


@torch.no_grad()
def _drawn(entry: Entry, terms: Terms) -> tuple[np.ndarray | None, Timing | None]:
    """Samples, those of `sample RUN -n N --seed SEED`: uint8 [n, C, H, W], and their time; nothing where there are
    none."""
    model, n = entry.model, terms.samples
    if not model.can_sample:
        return None, None
    y = entry.run.labels(n, None, terms.seed)
    y = None if y is None else y.to(terms.device)

    def drawn() -> Tensor:
        with seeded(terms.seed, "sample", device=terms.device):
            return drawing.draw(model, n, y).x

    seconds, x = timed(drawn, terms.device)
    return x.numpy(), Timing(seconds / n, n, without_cache(model, n, y, terms))


def without_cache(model: Model, n: int, y: Tensor | None, terms: Terms) -> dict[str, Any] | None:
    """The seconds of an image drawn without the cache, from a few of its passes; None where there is no such way."""
    if not model.passes:
        return None
    H, W = model.space.shape[-2:]
    positions = min(POSITIONS, H * W)
    measured = model.passes // (H * W) * positions  # a pass for each channel where these are in order
    with seeded(terms.seed, "sample", device=terms.device):
        seconds, _ = timed(lambda: model.sample_naively(n, y, positions=positions), terms.device)
    return {"seconds": seconds / n / measured * model.passes, "passes": model.passes, "measured_passes": measured}


def timed(draw: Callable[[], Tensor], device: torch.device, patience: float = 1.0) -> tuple[float, Tensor]:
    """Seconds of a call, and what its first one gave.

    The first warms up, and the median of those that follow counts: 3 to 20 of them, for as long as the patience, in
    seconds. Where the first alone takes longer, it is the one that counts.
    """
    first, x = _once(draw, device)
    if first > patience:
        return first, x
    found: list[float] = []
    while len(found) < 3 or (len(found) < 20 and sum(found) < patience):
        found.append(_once(draw, device)[0])
    return median(found), x


def _once(draw: Callable[[], Tensor], device: torch.device) -> tuple[float, Tensor]:
    start = time.perf_counter()
    x = draw()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start, x


# ---- the report


def difference_relation(nll: str, reference: str) -> str:
    """What holds between the true difference of two NLLs and that of the values, from what holds of each of them.

    A bound is a value that the truth is at most; so a difference of two bounds says nothing for certain.

    Example:
        >>> difference_relation("=", "<="), difference_relation("<=", "=")
        ('>=', '<=')
        >>> difference_relation("<=", "<=")
        '?'
    """
    return {("=", "="): "=", ("<=", "="): "<=", ("=", "<="): ">="}.get((nll, reference), "?")


def _report(
    entries: list[Entry], measured: list[Measured], timings: list[Timing | None], terms: Terms
) -> dict[str, Any]:
    first = entries[0]
    reference = next((i for i, m in enumerate(measured) if m.nll is not None), None)
    rows = [
        _row(entry, values, timing, terms) for entry, values, timing in zip(entries, measured, timings, strict=True)
    ]
    for i, row in enumerate(rows):
        row["difference"] = None if reference in (None, i) else _difference(entries, measured, i, reference)
    return {
        "version": version("lowerbound"),
        "seed": terms.seed,
        "device": str(terms.device),
        "threads": torch.get_num_threads(),
        "data": {
            "name": first.images.name,
            "split": first.images.split,
            "n": _count(first, terms),
            "shape": list(first.images.shape),
            "levels": first.images.levels,
            "binarization": first.binarization,
        },
        "reference": None if reference is None else rows[reference]["name"],
        "runs": rows,
        "anchors": [a._asdict() for a in anchors(_pixels(first, terms.limit), first.model.space.levels or 256)],
        "notes": _notes(entries, rows),
    }


def _row(entry: Entry, values: Measured, timing: Timing | None, terms: Terms) -> dict[str, Any]:
    run, model = entry.run, entry.model
    parts = {name: getattr(model.config, name, None) for name in ("network", "objective")}
    return {
        "name": entry.name,
        "run": str(run.path),
        "recipe": run.name,
        "model": model.config.type_name(),
        **{name: part.type_name() if isinstance(part, Component) else None for name, part in parts.items()},
        **_likelihood(entry, values, terms),
        "squared_error": None if values.squared_error is None else _value(values.squared_error, "per image"),
        "code": _code(entry),
        "parameters": sum(p.numel() for p in model.parameters()),
        "training": training(run, model),
        "sampling": None if timing is None else timing._asdict(),
        "saved_evaluation": values.saved,
    }


def _likelihood(entry: Entry, values: Measured, terms: Terms) -> dict[str, Any]:
    """nll and bits_per_dim, as in the report of `evaluate`."""
    density, dims = entry.model.density, entry.model.space.dims
    if values.nll is None:
        nothing = {"value": None, "relation": density.value}
        return {"nll": nothing, "bits_per_dim": nothing}
    draws = terms.draws if density is Density.BOUND else 1
    given = {"given": "label"} if entry.run.recipe.data.label else {}
    bits = bits_per_dim(values.nll, dims)
    return {
        "nll": _value(values.nll, NATS, density.value, draws) | given,
        "bits_per_dim": _value(bits, "bits/dim", density.value, draws) | given,
    }


def _value(each: np.ndarray, unit: str, relation: str = "=", draws: int = 1) -> dict[str, Any]:
    return Value.mean(each, unit, relation, draws).entry()


def _difference(entries: list[Entry], measured: list[Measured], i: int, reference: int) -> dict[str, Any] | None:
    """NLL minus the reference's, image by image, so that what is hard about an image falls out; None where the two are
    not of one quantity."""
    a, b = measured[i].nll, measured[reference].nll
    if a is None or b is None or entries[i].run.recipe.data.label != entries[reference].run.recipe.data.label:
        return None
    relation = difference_relation(entries[i].model.density.value, entries[reference].model.density.value)
    each = a - b
    value = {k: v for k, v in _value(each, NATS, relation).items() if k != "draws"}
    return value | {"to": entries[reference].name}


def _code(entry: Entry) -> dict[str, Any] | None:
    """The shapes of the code, coarsest first, and how many numbers it is."""
    model = entry.model
    if not isinstance(model, LatentModel):
        return None
    batch = next(entry.batches.in_order(1))
    with torch.no_grad():
        shapes = [list(q.event_shape) for q in model.posteriors(batch.x, batch.y)]
    return {"shapes": shapes, "dims": sum(int(np.prod(shape)) for shape in shapes)}


def training(run: Run, model: Model) -> dict[str, Any] | None:
    """Seconds in training steps (validation and pictures left out) over all stages of the log, images a second, and
    the machine. None where there is no log.

    What has a closed form sees every image once.
    """
    fits = [stage.name for stage in model.stages() if stage.fit]
    seconds: dict[str, float] = {}
    images: dict[str, float] = {}
    for line in run.log.records():
        if line["split"] != "train" or "seconds" not in line:
            continue
        stage, now = line["stage"], float(line["seconds"])
        rate = line.get("images_per_second", 0.0)
        images[stage] = images.get(stage, 0.0) + rate * (now - seconds.get(stage, 0.0))
        seconds[stage] = now
    if not seconds:
        return None
    seen = sum(run.facts.images if stage in fits else n for stage, n in images.items())
    total = sum(seconds.values())
    states = run.states()
    machines = [state["machine"] for state in states.values() if "machine" in state]
    return {
        "seconds": round(total, 3),
        "stages": {stage: round(s, 3) for stage, s in seconds.items()},
        "images_per_second": round(seen / total, 1) if total > 0 else None,
        "machine": machines[-1] if machines else None,
        "finished": all(state.get("finished", True) for state in states.values()),
    }


def _notes(entries: list[Entry], rows: list[dict[str, Any]]) -> list[str]:
    """What a reader must know of some rows; what is true of several is said once."""
    said: dict[str, list[str]] = {}
    for entry, row in zip(entries, rows, strict=True):
        for text in _notes_on(entry, row):
            said.setdefault(text, []).append(entry.name)
    notes = [f"{', '.join(names)}: {text}." for text, names in said.items()]
    if any(row["difference"] and row["difference"]["relation"] == "?" for row in rows):
        notes.append(
            "A difference of two bounds (?) says nothing for certain of the truth: the run whose bound is looser may "
            "have the higher log p(x)."
        )
    machines = [row["training"]["machine"] for row in rows if row["training"] and row["training"]["machine"]]
    if any(machine != machines[0] for machine in machines):
        notes.append(
            "The runs were trained on different machines, numbers of threads or versions of torch, and their times "
            "differ by that too."
        )
    return notes


def _notes_on(entry: Entry, row: dict[str, Any]) -> Iterator[str]:
    model, training = entry.model, row["training"]
    naive = row["sampling"] and row["sampling"]["naive"]
    if row["nll"]["value"] is None:
        yield f"nothing is said of log p(x): {model.why_no_density()}"
    if "given" in row["nll"]:
        yield "given the label, and log p(x | label) is another quantity than log p(x)"
    if naive and naive["measured_passes"] < naive["passes"]:
        yield f"the time without cache is extrapolated from {naive['measured_passes']} of {naive['passes']:,} passes"
    if not model.can_sample:
        yield "no density to draw samples from"
    if entry.run.facts.name != entry.images.name:
        yield f"trained on {entry.run.facts.name}"
    if training is not None and not training["finished"]:
        yield "not trained to its end"
    if fitted.is_fitted(entry.run.recipe):
        yield "the prior was fitted after training, and that time is not in the log"


def _pixels(entry: Entry, limit: int | None) -> np.ndarray:
    """The images as they are measured: uint8 [n, C, H, W]."""
    return np.concatenate([batch.x.cpu().numpy() for batch in entry.batches.in_order(4096, limit)])


def _data_row(entry: Entry, n: int) -> list[html.Row]:
    """Images of the data, evenly spaced, as a row above the samples; none where they are fewer."""
    images = entry.images
    if len(images) < n:
        return []
    index = np.linspace(0, len(images) - 1, n).astype(int)
    x = torch.from_numpy(np.asarray(images.x[index]))
    x = binarized(x, images.levels, index) if entry.batches.binarize else x
    return [(f"{images.name}, {images.split}", x.numpy())]


# ---- files


def _write(report: dict[str, Any], samples: list[html.Row], levels: int, outputs: dict[str, Path]) -> None:
    """Everything that was asked for; each file whole or not at all. Raises ModelError for a picture of nothing."""
    if "png" in outputs:
        if not samples:
            raise ModelError(f"--png {outputs['png']}: no run here draws samples")
        table = pictures.Table(np.stack([x for _, x in samples]), levels, rows=tuple(name for name, _ in samples))
        pictures.save_png(pictures.table_picture(table), outputs["png"])
    if "html" in outputs:
        _write_text(outputs["html"], html.html(report, samples, levels))
    if "markdown" in outputs:
        _write_text(outputs["markdown"], page.in_place(outputs["markdown"], page.markdown(report)))


def _write_text(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")

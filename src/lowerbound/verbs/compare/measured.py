"""Likelihoods and reconstructions of each run, image by image: those that it saved where they fit, else new ones."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from lowerbound.chunks import Advance, draws_of
from lowerbound.errors import ModelError, RunError
from lowerbound.metrics.base import World, measure
from lowerbound.model import LatentModel
from lowerbound.progress import Progress
from lowerbound.space import Density
from lowerbound.verbs.compare.entries import Entry, Terms

AGAIN = 4  # images of a saved evaluation that are measured anew, to see that it is of these weights and pixels


class Measured(NamedTuple):
    """Per-image values [n] in float64, None where the model has none."""

    nll: np.ndarray | None  # nats, with the sign of -log p
    squared_error: np.ndarray | None  # sum over pixels scaled to [0, 1]
    draws: int  # of the bound
    saved: bool  # whether they are those of the run's own evaluation


def measured(entry: Entry, terms: Terms, progress: Progress) -> Measured:
    """The saved values where they fit, else new ones."""
    (found,) = growing(entry, terms, progress, [entry.count(terms.limit)])
    return found


def growing(entry: Entry, terms: Terms, progress: Progress, counts: Sequence[int]) -> Iterator[Measured]:
    """The same of the first so many images, of more and more of them: each image is measured once."""
    names = ["nll"] if entry.model.density is not Density.NONE else []
    names += ["squared_error"] if isinstance(entry.model, LatentModel) and entry.model.space.levels else []
    draws, done = _draws(entry, terms), 0
    found: dict[str, np.ndarray] = {}
    saved: dict[str, np.ndarray] | None = None
    try:
        saved = _saved(entry, names, terms) if names else {}
    except RunError as e:
        progress.say(f"{entry.run.place}: measured now, on {entry.count(terms.limit):,} images ({e})")
    for n in counts:
        if saved is None:
            more = _anew(entry, names, terms, progress, done, n)
            found = {name: np.concatenate([found.get(name, values[:0]), values]) for name, values in more.items()}
        else:
            found = {name: values[:n] for name, values in saved.items()}
        done = n
        yield Measured(found.get("nll"), found.get("squared_error"), draws if names else 1, bool(saved))


def _draws(entry: Entry, terms: Terms) -> int:
    """How many are drawn of the bound."""
    return draws_of(entry.model, terms.draws)


def _saved(entry: Entry, names: list[str], terms: Terms) -> dict[str, np.ndarray]:
    """Values of the run's own evaluation, [n] each. Raises RunError, saying why, where they are of something else.

    That they are of these weights and pixels is seen from the first images, whose noise is keyed, measured again.
    """
    run, images = entry.run, entry.images
    report, each = run.load_evaluation(images.name, images.split)
    wanted = {k: v for k, v in entry.data(None).items() if k not in ("name", "split")} | {"seed": terms.seed}
    wanted |= {"draws": _draws(entry, terms)} if "nll" in names else {}
    try:
        there = {k: report["data"][k] for k in ("n", "shape", "levels", "binarization")} | {"seed": report["seed"]}
        there["draws"] = report["metrics"]["nll"].get("draws")
        fingerprint = report.get("fingerprint")  # older ones have none
        found = {name: np.asarray(each[name], np.float64) for name in names}
    except (KeyError, TypeError, ValueError, AttributeError):
        raise RunError("its saved evaluation is damaged") from None
    other = [f"{k} {there[k]}, not {v}" for k, v in wanted.items() if v != there[k]]
    if fingerprint not in (None, images.fingerprint):
        raise RunError("its saved evaluation is of other data")
    if other:
        raise RunError(f"its saved evaluation has {', '.join(other)}")
    if any(values.shape != (len(images),) or not np.isfinite(values).all() for values in found.values()):
        raise RunError("its saved evaluation is damaged")
    again = _anew(entry, names, terms, Progress(), 0, min(AGAIN, len(images)))
    if not all(np.allclose(found[name][:AGAIN], again[name], rtol=1e-4, atol=1e-2) for name in names):
        raise RunError("its saved evaluation is of other weights or pixels")
    return {name: values[: terms.limit] for name, values in found.items()}


def _anew(
    entry: Entry, names: list[str], terms: Terms, progress: Progress, start: int, stop: int
) -> dict[str, np.ndarray]:
    """Values [n] of the metrics of these names, of some images. Raises ModelError where one is not finite."""
    found: dict[str, np.ndarray] = {}
    advance = _counter(progress.count("measuring"), len(names) * (stop - start))
    try:
        batches = entry.batches if (start, stop) == (0, len(entry.batches)) else entry.batches.between(start, stop)
        world = World(entry.model, batches, entry.run, seed=terms.seed, advance=advance)
        values = measure(world, names=names, options={"draws": terms.draws})
    except ModelError as e:
        raise ModelError(f"{entry.run.place}: {e}") from None
    for name, value in values.items():
        assert value.each is not None
        found[name] = value.each
    return found


def _counter(told: Callable[[int, int], None], total: int) -> Advance:
    done = 0

    def advance(n: int) -> None:
        nonlocal done
        done += n
        told(done, total)

    return advance

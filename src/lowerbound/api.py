"""What Python users call: the verbs of the command line, as functions of a run's path."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lowerbound.config import allowing
from lowerbound.devices import pick_device
from lowerbound.model import Model
from lowerbound.progress import Progress, Terminal
from lowerbound.runs.run import Run
from lowerbound.sampling.completion import Completion, Redrawn
from lowerbound.sampling.drawing import Samples
from lowerbound.training.train import train as _train
from lowerbound.verbs import complete as _complete_verb
from lowerbound.verbs import encode as _encode_verb
from lowerbound.verbs import evaluate as _evaluate_verb
from lowerbound.verbs import fit_prior as _fit_prior_verb
from lowerbound.verbs import reconstruct as _reconstruct_verb
from lowerbound.verbs import sample as _sample_verb
from lowerbound.verbs import train as _train_verb
from lowerbound.verbs.compare.compare import compare as _compare
from lowerbound.verbs.doctor.doctor import doctor as _doctor
from lowerbound.verbs.predict import predict as _predict
from lowerbound.verbs.probe.probe import probe as _probe
from lowerbound.verbs.score import score as _score


def train(
    recipe: str | Path,
    *,
    data: str | Path | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    stage: str | None = None,
    model: Mapping[str, Any] | None = None,
    train: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    seed: int | None = None,
    device: str = "auto",
    progress: bool = False,
    allow: Iterable[str] = (),
) -> Run:
    """Train a recipe; the same as the command.

    Args:
        recipe: a bundled name, or a TOML or JSON file.
        data: a bundled name or a path; None: the recipe's.
        out: the run's folder; None: runs/RECIPE.
        stage: only this one, such as "prior.top"; with resume the rest of it, with overwrite all of it again.
        model, train, options: changes to the recipe's tables, `options` to that of the data, as in
            `train={"steps": 2000}`.
        progress: whether to show bars on standard error.
        allow: packages besides lowerbound that components may come from.

    Raises UserError, with a message that names the mistake.
    """
    tables = {"model": model, "train": train, "data": options}
    changes = {name: table for name, table in tables.items() if table is not None}
    shown = Terminal() if progress else Progress()
    with allowing(allow):
        run = _train(
            recipe,
            data=data,
            out=out,
            resume=resume,
            overwrite=overwrite,
            stage=stage,
            changes=changes,
            seed=seed,
            device=device,
            progress=shown,
        )
        _train_verb.finish(run, device=pick_device(device), progress=shown)
        return run


def load(path: str | Path, *, device: str = "auto", allow: Iterable[str] = ()) -> Model:
    """The trained model of a run, an nn.Module in eval mode. Nothing in a run is ever executed.

    `allow`: packages besides lowerbound that its components may come from. Raises RunError.
    """
    return Run.open(path, allow).load(pick_device(device))


def fit_prior(
    path: str | Path,
    prior: str = "gaussian",
    *,
    components: int | None = None,
    seed: int = 0,
    device: str = "auto",
    progress: bool = False,
    allow: Iterable[str] = (),
) -> dict[str, Any]:
    """Fit a density to a run's codes, to sample from: gaussian, mixture, flow, or none; see `fit_prior.fit_prior`."""
    run, shown = Run.open(path, allow), Terminal() if progress else Progress()
    with allowing(allow):
        return _fit_prior_verb.fit_prior(
            run, prior, components=components, seed=seed, device=pick_device(device), progress=shown
        )


def evaluate(path: str | Path, *, device: str = "auto", **options: Any) -> dict[str, Any]:
    """The report of `lowerbound evaluate --json`; options as those of `evaluate.evaluate`."""
    return _evaluate_verb.evaluate(Run.open(path), device=pick_device(device), **options)


def compare(paths: Sequence[str | Path], *, device: str = "auto", **options: Any) -> dict[str, Any]:
    """The report of `lowerbound compare --json` over runs."""
    return _compare([Run.open(path) for path in paths], device=pick_device(device), **options)


def doctor(path: str | Path, *, data: str | None = None, device: str = "auto") -> dict[str, Any]:
    """The report of `lowerbound doctor --json`: what is wrong with a run, and what to do."""
    return _doctor(Run.open(path), data=data, device=pick_device(device))


def probe(path: str | Path, *, device: str = "auto", **options: Any) -> dict[str, Any]:
    """The report of `lowerbound probe --json`; options as those of `lowerbound.verbs.probe.probe.probe`."""
    return _probe(Run.open(path), device=pick_device(device), **options)


def predict(path: str | Path, images: Sequence[str | Path] = (), *, device: str = "auto", **options: Any) -> list[Any]:
    """The labels that a classifier gives to image files, or with `data=` to a data set: path, label, probability."""
    return _predict(Run.open(path), images, device=pick_device(device), **options)


def score(path: str | Path, data: str, *, out: str | Path, device: str = "auto", **options: Any) -> dict[str, Any]:
    """Write the scores of every image of a data set to a .csv; options as those of `lowerbound.verbs.score`."""
    return _score(Run.open(path), data, out=out, device=pick_device(device), **options)


def complete(
    path: str | Path,
    images: Sequence[str | Path],
    keep: str = "top:0.5",
    n: int = 8,
    *,
    device: str = "auto",
    **options: Any,
) -> Completion:
    """Image files with their rest drawn n times each, given the part that is kept; options as of `complete.complete`.

    `.x` holds the draws, uint8 [B, n, C, H, W]; `.save(Path("completions.png"))` makes the picture.
    """
    return _complete_verb.complete(Run.open(path), images, keep, n, device=pick_device(device), **options)


def sample(
    path: str | Path, n: int = 16, *, reject: str | Path | None = None, device: str = "auto", **options: Any
) -> Samples:
    """n images drawn from a run; other options as of `sample.sample`, by level where it has several levels of codes.

    `.x` holds them, uint8 [n, C, H, W], `.y` their labels and `.codes` their codes; `.save(Path("samples.png"))` makes
    the picture. reject: the run of a classifier, which keeps the share `accept` that it is surest of.
    """
    judge = None if reject is None else Run.open(reject)
    return _sample_verb.sample(Run.open(path), n, reject=judge, device=pick_device(device), **options)[0]


def redraw(
    path: str | Path,
    images: Sequence[str | Path],
    keep_level: str = "top",
    n: int = 8,
    *,
    device: str = "auto",
    **options: Any,
) -> Redrawn:
    """Image files with their finer codes drawn n times each, given the coarser; options as of `sample.redraw`.

    `.x` holds the draws, uint8 [B, n, C, H, W], `.codes` their codes; `.save(Path("redrawn.png"))` makes the picture.
    """
    return _sample_verb.redraw(Run.open(path), images, keep_level, n, device=pick_device(device), **options)


def reconstruct(
    path: str | Path, images: Sequence[str | Path], *, device: str = "auto", **options: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Image files as a run prepares them, uint8 [B, C, H, W], and their reconstructions, float."""
    x, r, _ = _reconstruct_verb.reconstruct(Run.open(path), images, device=pick_device(device), **options)
    return x, r


def encode(path: str | Path, *, out: str | Path, device: str = "auto", **options: Any) -> int:
    """Write the codes of a split to an .npz: how many there are; options as of `encode.encode`."""
    return _encode_verb.encode(Run.open(path), out=out, device=pick_device(device), **options)

"""How usual images are for a model, one by one: likelihood, reconstruction error, KL, typicality."""

import csv
import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch

from lowerbound import pictures
from lowerbound.chunks import keyed_chunks, log_mean
from lowerbound.data.batches import Batch, Batches
from lowerbound.data.images import Failed, Images
from lowerbound.errors import ConfigError, ModelError
from lowerbound.files import replacing
from lowerbound.model import LatentModel, Model
from lowerbound.noise import KeyedNoise
from lowerbound.progress import Progress
from lowerbound.runs.inputs import as_batches, open_data, open_like
from lowerbound.runs.run import Run
from lowerbound.space import Density
from lowerbound.verbs.base import Device, Option, Report, Seed, Told, Whole, verb

COLUMNS = ("index", "path", "label", "log_likelihood", "relation", "reconstruction_error", "kl", "typicality")
REFERENCE = 5000  # training images at most, evenly spaced, whose mean log-likelihood is the typical one
SHOWN = 64
RELATIONS = {
    Density.EXACT: "=",
    Density.BOUND: ">=",
    Density.ESTIMATE: "~",
    Density.NONE: "?",
}  # of log p(x) to what is written


class Scores(NamedTuple):
    """Numbers of some images [B]; NaN where the model has none."""

    log_likelihood: np.ndarray  # log p(x) or its bound, nats
    reconstruction_error: np.ndarray  # sum over pixels scaled to [0, 1] of (x - x̂)²
    kl: np.ndarray  # nats


class Typical(NamedTuple):
    """The log-likelihood of training images, in nats."""

    mean: float
    std: float
    n: int


class Unusual(NamedTuple):
    """An image that is among the least usual so far; the first field orders the heap."""

    usual: float
    index: int
    x: np.ndarray


@dataclass(frozen=True, eq=False)
class Scored(Report):
    """Where the scores are, and what they are of."""

    out: str
    picture: str
    run: str
    version: str
    data: dict[str, Any]
    relation: str
    draws: int
    seed: int
    training: dict[str, Any] | None
    failed: tuple[Failed, ...] = ()

    def json(self) -> dict[str, Any]:
        return super().json() | {"failed": self.failures()}

    def shown(self) -> str:
        return f"{self.data['n']} images in {self.out}; the least usual in {self.picture}"


@verb
def score(
    run: Run,
    data: str,
    /,
    *,
    out: Annotated[str | Path, Option(kind=Path)],
    split: str = "all",
    draws: Whole = 10,
    device: Device = "auto",
    seed: Seed = 0,
    progress: Told = False,
) -> Scored:
    """How usual images are for a model: likelihood, reconstruction error, KL, typicality, one by one.

    The columns are COLUMNS. log_likelihood: log p(x), or its bound with so many draws; relation is what holds between
    log p(x) and that value. typicality: its distance from the mean over training images, |log p(x) - mean|, in nats
    (Nalisnick et al. 2019, Detecting Out-of-Distribution Inputs to Deep Generative Models Using Typicality, eq. 5 for
    one image, https://arxiv.org/abs/1906.02994). A cell is empty where the model has no such number.

    Args:
        data: a bundled name, a folder, .zip, .tar or .npz, or shards and their URL
        out: a file ending in .csv, one line per image; a picture comes beside it
        draws: importance-weighted draws of the likelihood
    """
    out = Path(out)
    if out.suffix.lower() != ".csv":
        raise ConfigError(f"--out {out}: expected a file ending in .csv")
    if draws < 1:
        raise ConfigError(f"--draws {draws}: expected a whole number of at least 1")
    model = run.load(device)
    if model.density is Density.NONE and not isinstance(model, LatentModel):
        raise ModelError(f"{run.path}: {type(model).__name__} has no score of an image: {model.why_no_density()}")
    draws = draws if model.noisy or model.density is Density.BOUND else 1
    images = open_like(run, split, data, progress)
    where = torch.device(device)
    typical = typicality(run, model, draws, seed, where, progress) if model.density is not Density.NONE else None
    batches = as_batches(run, images, where)
    unusual: list[Unusual] = []
    told = progress.count("scoring")
    with replacing(out) as temporary, temporary.open("w", newline="", encoding="utf-8", errors="replace") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for batch, scores in scored(model, batches, draws, seed):
            writer.writerows(_lines(images, batch.index, scores, RELATIONS[model.density], typical))
            _keep(unusual, images, batch.index, scores)
            told(int(batch.index[-1]) + 1, len(images))
    picture = out.with_name(f"{out.stem}_{'least_likely' if typical else 'largest_error'}.png")
    worst = np.stack([u.x for u in sorted(unusual)])
    pictures.save_png(pictures.grid(worst, images.levels), picture)
    report = {
        "out": str(out),
        "picture": str(picture),
        "run": str(run.path),
        "version": version("lowerbound"),
        "data": {"name": images.name, "split": split, "n": len(images)},
        "relation": RELATIONS[model.density],
        "draws": draws,
        "seed": seed,
        "training": None if typical is None else typical._asdict(),
    }
    return Scored(**report, failed=images.unreadable)


@torch.no_grad()
def scored(model: Model, images: Batches, draws: int, seed: int = 0) -> Iterator[tuple[Batch, Scores]]:
    """Every batch of images with its scores. Raises ModelError where one is not finite."""
    for batch, chunks in keyed_chunks(model, images, draws, seed, None):
        nothing = np.full(len(batch.index), np.nan)
        scores = Scores(nothing, nothing, nothing)
        if model.density is not Density.NONE:
            log_w = torch.cat([model._log_weights(batch.x, batch.y, k).double() for k in chunks])
            scores = scores._replace(log_likelihood=log_mean(log_w, model.unbiased).cpu().numpy())
        if isinstance(model, LatentModel):
            kl = divergence(model, batch, seed)
            kl = nothing if kl is None else kl
            scores = scores._replace(reconstruction_error=squared_error(model, batch), kl=kl)
        for name, values in scores._asdict().items():
            if values is not nothing and not np.isfinite(values).all():
                raise ModelError(f"the {name} of image {batch.index[~np.isfinite(values)][0]} is not finite")
        yield batch, scores


def divergence(model: LatentModel, batch: Batch, seed: int) -> np.ndarray | None:
    """KL(q(z|x) || p(z)), all levels together, in nats: [B]; of one draw where it isn't closed, None for a point."""
    with KeyedNoise(seed, batch.index) as noise:
        terms = model.elbo_terms(batch.x, batch.y, noise.chunk(1))
        if terms.kl is None and model.density is Density.NONE:
            return None
        kl = terms.log_qz - terms.log_pz if terms.kl is None else terms.kl  # [1, B, L]
    return kl[0].sum(-1).double().cpu().numpy()


def squared_error(model: LatentModel, batch: Batch) -> np.ndarray:
    """The sum over pixels, scaled to [0, 1], of the squared error of the reconstruction: float64 [B]."""
    assert model.space.levels is not None
    difference = (model.reconstruct(batch.x, batch.y) - batch.x).double() / (model.space.levels - 1)
    return difference.square().flatten(1).sum(1).cpu().numpy()


def typicality(
    run: Run, model: Model, draws: int, seed: int, device: torch.device, progress: Progress | None = None
) -> Typical:
    """What is typical: the log-likelihood of training images, evenly spaced over the split."""
    images = open_data(run, "train", None, progress)
    index = np.linspace(0, len(images) - 1, min(REFERENCE, len(images))).astype(int)
    some = images.take(index)
    found = [scores.log_likelihood for _, scores in scored(model, as_batches(run, some, device), draws, seed)]
    each = np.concatenate(found)
    return Typical(float(each.mean()), float(each.std(ddof=1)) if len(each) > 1 else 0.0, len(each))


def _lines(
    images: Images, index: np.ndarray, scores: Scores, relation: str, typical: Typical | None
) -> Iterator[list[Any]]:
    for row, i in enumerate(index.tolist()):
        label = "" if images.y is None or images.classes is None else images.classes[int(images.y[i])]
        path = "" if images.paths is None else images.paths[i]
        values = [_cell(values[row]) for values in scores]
        away = "" if typical is None else repr(abs(float(scores.log_likelihood[row]) - typical.mean))
        yield [i, path, label, values[0], relation, *values[1:], away]


def _cell(value: float) -> str:
    return "" if np.isnan(value) else repr(float(value))


def _keep(unusual: list[Unusual], images: Images, index: np.ndarray, scores: Scores) -> None:
    """Keep the SHOWN least likely images (of a model without likelihood: those that come back worst)."""
    likely = scores.log_likelihood
    usual = -scores.reconstruction_error if np.isnan(likely).all() else likely
    candidates = [
        Unusual(float(usual[r]), int(index[r]), np.asarray(images.x[index[r]])) for r in usual.argsort()[:SHOWN]
    ]
    unusual[:] = heapq.nsmallest(SHOWN, [*unusual, *candidates], key=lambda u: u[:2])

"""What an encoder's features are worth for telling labels, against raw pixels and PCA, over budgets of labels."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from rich import box
from rich.table import Table

from lowerbound import pictures
from lowerbound.data.base import Images
from lowerbound.errors import ConfigError, DataError, ModelError, RunError
from lowerbound.model import LatentModel
from lowerbound.noise import key
from lowerbound.progress import Progress
from lowerbound.runs.inputs import as_batches, open_data
from lowerbound.runs.run import Run, occupied
from lowerbound.training import classifiers
from lowerbound.verbs.base import Device, File, Option, Report, Seed, Told, Whole, verb
from lowerbound.verbs.probe.methods import CHOSEN_ON, FOLDS, linear, neighbours
from lowerbound.verbs.probe.spaces import Space, _float, baselines

PROTOCOL = {
    "linear": "multinomial logistic regression on features standardized by all training images, no labels (pixels by "
    "one scale for all of them, which serves them better than one each); penalty "
    f"1/C, C of 1e-4 to 10, by the log-loss of {FOLDS}-fold cross-validation over at most {CHOSEN_ON:,} of the "
    "labelled images (C = 0.01 with one label per class)",
    "knn": "majority of the k nearest by Euclidean distance, features as they are; k of 1, 3, 5, 10, by leaving one "
    f"out of at most {CHOSEN_ON:,} of the labelled images (k = 1 with one label per class)",
    "pixels": "values scaled to [0, 1], grey also where the encoder is given binary draws",
    "PCA": "as many components as the encoder has features, fitted to all training images, no labels",
}


@dataclass(frozen=True)
class Probe:
    """The labelled data of a run, and the images as its encoder, PCA and nobody sees them."""

    run: Run
    model: LatentModel
    train: Images
    test: Images
    device: torch.device
    progress: Progress

    @staticmethod
    def of(run: Run, data: str | None, device: torch.device, progress: Progress) -> "Probe":
        """Raises RunError, ModelError or DataError for a run or data that can't be probed."""
        model = run.load(device)
        if not isinstance(model, LatentModel):
            raise ModelError(f"{run.path}: {model.why_no_code()}")
        if run.recipe.model.views_given():
            raise ModelError(f"{run.path} is of views of scenes: a probe has no others to give it with an image")
        if model.given:
            raise ModelError(
                f"{run.path} is given the label (data.label=true), which a probe should find in its features; "
                "probe a run that was trained with data.label=false"
            )
        train, test = open_data(run, "train", data, progress), open_data(run, "test", data)
        check_labels(train, test)
        return Probe(run, model, train, test, device, progress)

    @cached_property
    def spaces(self) -> tuple[Space, ...]:
        encoded = [self._features(images) for images in (self.train, self.test)]
        mean, scale = encoded[0].mean(0, dtype=np.float64), encoded[0].std(0, dtype=np.float64)
        encoder = Space("encoder", lambda i: encoded[0][i], encoded[1], *_float(mean, scale))
        return (encoder, *baselines(self.train, self.test, encoded[0].shape[1]))

    @torch.no_grad()
    def _features(self, images: Images) -> np.ndarray:
        told, found = self.progress.count("encoding"), []
        for batch in as_batches(self.run, images, self.device).in_order(self.model.rows):
            found.append(self.model.features(batch.x).float().cpu().numpy())
            told(int(batch.index[-1]) + 1, len(images))
        return np.concatenate(found)


@dataclass(frozen=True, eq=False)
class Accuracies(Report):
    """Methods down, labels per class across: the accuracy in %, with its standard deviation over the seeds."""

    run: str
    model: str
    seed: int
    version: str
    data: dict[str, Any]  # name, split, n, classes
    features: int
    protocol: dict[str, str]  # of each method
    results: list[dict[str, Any]]  # method, labels, images, accuracy, std, each
    out: str | None = None
    picture: str | None = None

    def notes(self) -> tuple[str, ...]:
        return () if self.picture is None else (self.picture,)

    def shown(self) -> Any:
        data, rows = self.data, self.results
        columns = list(dict.fromkeys(row["labels"] for row in rows))
        facts = f"{data['name']}, {data['split']}, n={data['n']}, {self.features} features"
        table = Table("accuracy, %; labels per class", *map(str, columns), box=box.SIMPLE, title=facts)
        for method in dict.fromkeys(row["method"] for row in rows):
            found = {row["labels"]: row for row in rows if row["method"] == method}
            cells = []
            for row in (found[c] for c in columns):
                spread = "" if row["std"] is None else f" ± {100 * row['std']:.1f}"
                cells.append(f"{100 * row['accuracy']:.1f}{spread}")
            table.add_row(method, *cells)
        return table


@verb
def probe(
    run: Run,
    /,
    *,
    labels: Annotated[str | Sequence[int | str], Option(kind=str)] = "1,10,100,all",
    seeds: Whole = 5,
    finetune: bool = False,
    data: str | None = None,
    out: File = None,
    device: Device = "auto",
    seed: Seed = 0,
    progress: Told = False,
) -> Accuracies:
    """What the features are worth for telling labels, against raw pixels and PCA, on the test split.

    Args:
        labels: labels per class
        seeds: subsets of labelled images
        finetune: classifiers too: begun at the encoder and trained with it, and from scratch
        data: labelled data other than the run's
        out: keep the fine-tuned classifier of the most labels as a run

    The report is saved in the run with a plot. Raises UserError.
    """
    asked = budgets(labels)
    if seeds < 1:
        raise ConfigError(f"--seeds {seeds}: expected a whole number of at least 1")
    if out is not None and not finetune:
        raise ConfigError("--out keeps a fine-tuned classifier: give --finetune with it")
    if out is not None and occupied(Path(out)):
        raise RunError(f"--out {out} already holds something; choose another folder")
    world = Probe.of(run, data, torch.device(device), progress)
    tuner = classifiers.Tuner.of(run, world.model, data, world.device) if finetune else None
    check_budgets(asked, world.train)
    measured: dict[tuple[str, int | None], list[float]] = {}
    for k in asked:
        for i in range(seeds):
            subset = labelled(world.train, k, key(seed, "labels", i))
            for space in world.spaces if i == 0 or k is not None else ():  # all labels are the same for every seed
                for method, accuracy in _frozen(space, world, subset, k):
                    measured.setdefault((method, k), []).append(accuracy)
            if tuner is not None:
                kept = Path(out) if out is not None and k == asked[-1] and i == 0 else None
                for method, accuracy in _tuned(tuner, world, subset, key(seed, "tuning", i), kept):
                    measured.setdefault((method, k), []).append(accuracy)
            progress.note(f"{_words(k)}, seed {i + 1} of {seeds}", last=i + 1 == seeds)
    report = _report(world, measured, seed, None if out is None else str(out))
    name = "probe" if data is None else f"probe-{world.train.name}"
    run.write_json(f"evaluation/{name}.json", report.json())
    draw(report, run.picture(f"{name}.png"))
    return replace(report, picture=str(run.picture(f"{name}.png")))


def _report(
    world: Probe, measured: dict[tuple[str, int | None], list[float]], seed: int, out: str | None
) -> Accuracies:
    classes = _counts(world.train) > 0
    tuned = any(method == "fine-tuned" for method, _ in measured)
    return Accuracies(
        run=str(world.run.path),
        model=world.run.recipe.model.type_name(),
        seed=seed,
        version=version("lowerbound"),
        data={"name": world.train.name, "split": "test", "n": len(world.test), "classes": int(classes.sum())},
        features=world.spaces[0].test.shape[1],
        protocol=PROTOCOL | ({"fine-tuned": classifiers.PROTOCOL} if tuned else {}),
        results=[
            {
                "method": method,
                "labels": "all" if k is None else k,
                "images": len(world.train) if k is None else k * int(classes.sum()),
                "accuracy": float(np.mean(each)),
                "std": float(np.std(each, ddof=1)) if len(each) > 1 else None,
                "each": each,
            }
            for (method, k), each in measured.items()
        ],
        out=out,
    )


def _words(k: int | None) -> str:
    return "all labels" if k is None else f"{k} label{'s' if k > 1 else ''} per class"


# ---- the labels


def budgets(labels: str | Sequence[int | str]) -> tuple[int | None, ...]:
    """Labels per class, the fewest first; None: all.

    Example:
        >>> budgets("all,1,10")
        (1, 10, None)
    """
    words = [str(word).strip() for word in (labels.split(",") if isinstance(labels, str) else labels)]
    for word in words:
        if word != "all" and not (word.isascii() and word.isdigit() and int(word) > 0):
            raise ConfigError(f"--labels {word}: expected labels per class, such as 1,10,100,all")
    if not words:
        raise ConfigError("--labels: expected labels per class, such as 1,10,100,all")
    numbers: list[int | None] = [*sorted({int(word) for word in words if word != "all"})]
    return (*numbers, None) if "all" in words else tuple(numbers)


def check_labels(train: Images, test: Images) -> None:
    """Raise DataError unless both have labels, and training images every class that is tested."""
    if train.y is None or train.classes is None or test.y is None:
        raise DataError(
            f"{train.name} has no labels to probe with: every image must lie in a class folder, or an .npz hold y"
        )
    missing = np.flatnonzero((_counts(test) > 0) & (_counts(train) == 0))
    if len(missing):
        names = ", ".join(train.classes[c] for c in missing[:3])
        raise DataError(
            f"{train.name}: {len(missing)} classes of the test images have no training image ({names}"
            f"{', …' if len(missing) > 3 else ''}), so nothing can learn them"
        )
    if (_counts(train) > 0).sum() < 2:
        raise DataError(f"{train.name}: its training images are all of one class; a probe needs at least two")


def check_budgets(asked: Iterable[int | None], train: Images) -> None:
    """Raise DataError for a budget that a class hasn't the training images for."""
    counts = _counts(train)
    smallest = int(np.where(counts > 0, counts, len(train) + 1).argmin())
    for k in asked:
        if k is not None and counts[smallest] < k:
            assert train.classes is not None
            raise DataError(
                f"--labels {k}: the class {train.classes[smallest]} of {train.name} has {counts[smallest]} training "
                f"images; expected at most so many, or all"
            )


def _counts(images: Images) -> np.ndarray:
    assert images.y is not None
    return np.bincount(images.y, minlength=len(images.classes or ()))


def labelled(images: Images, k: int | None, seed: int) -> np.ndarray:
    """k training images of every class, or all: indices [n], in order. Those of a larger k hold those of a smaller."""
    assert images.y is not None
    if k is None:
        return np.arange(len(images))
    rng = np.random.default_rng(seed)
    y = np.asarray(images.y)
    chosen = [rng.permutation(np.flatnonzero(y == c))[:k] for c in np.unique(y)]
    return np.sort(np.concatenate(chosen))


# ---- the probes


def _frozen(space: Space, world: Probe, subset: np.ndarray, k: int | None) -> Iterator[tuple[str, float]]:
    assert world.train.y is not None
    assert world.test.y is not None
    x, y = space.train(subset), np.asarray(world.train.y)[subset]
    truth = np.asarray(world.test.y)
    weight, bias = linear(space.standard(x), y, choose=k != 1)
    scores = space.standard(space.test) @ weight.T + bias
    yield f"{space.name}, linear", float((np.unique(y)[scores.argmax(1)] == truth).mean())
    yield f"{space.name}, kNN", float((neighbours(x, y, space.test, choose=k != 1) == truth).mean())


def _tuned(
    tuner: "classifiers.Tuner", world: Probe, subset: np.ndarray, seed: int, kept: Path | None
) -> Iterator[tuple[str, float]]:
    """The classifier that begins at the encoder and the linear probe of it, and that from scratch."""
    assert world.train.y is not None
    encoder = world.spaces[0]
    y = np.asarray(world.train.y)[subset]
    weight, bias = linear(encoder.standard(encoder.train(subset)), y, choose=len(subset) > len(np.unique(y)))
    weight = weight / encoder.scale  # of the features as they are
    head = np.zeros((len(world.train.classes or ()), weight.shape[1])), np.full(len(world.train.classes or ()), -10.0)
    head[0][np.unique(y)], head[1][np.unique(y)] = weight, bias - weight @ encoder.mean
    yield "fine-tuned", tuner.accuracy(world.train, world.test, subset, seed, head=head, out=kept)
    yield "from scratch", tuner.accuracy(world.train, world.test, subset, seed)


# ---- the plot


_LINES = {
    "fine-tuned": ("tab:red", "-", "o"),
    "from scratch": ("tab:red", ":", "s"),
    "encoder, linear": ("tab:blue", "-", "o"),
    "encoder, kNN": ("tab:blue", "--", "s"),
    "PCA, linear": ("tab:green", "-", "o"),
    "PCA, kNN": ("tab:green", "--", "s"),
    "pixels, linear": ("0.45", "-", "o"),
    "pixels, kNN": ("0.45", "--", "s"),
}


def draw(report: Accuracies, out: Path) -> None:
    """Accuracy over the labels per class, one line for each method, bars of one standard deviation over the seeds."""
    data = report.data
    by_method: dict[str, list[dict[str, Any]]] = {}
    for row in report.results:
        by_method.setdefault(row["method"], []).append(row)
    series = []
    for i, (name, (color, style, marker)) in enumerate(_LINES.items()):
        rows, aside = by_method.get(name, []), 1.03 ** (i - len(_LINES) / 2)  # so that bars don't hide each other
        points = [
            (aside * row["images"] / data["classes"], 100 * row["accuracy"], 100 * (row["std"] or 0)) for row in rows
        ]
        if points:
            series.append(pictures.Series(name, points, color, style, marker))
    ticks = {row["images"] / data["classes"]: str(row["labels"]) for row in report.results}
    title = f"{data['name']}: {data['n']:,} test images, {report.features} features"
    pictures.lines(series, out, title=title, x="labels per class", y="accuracy, %", ticks=ticks)

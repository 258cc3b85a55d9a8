"""What holds of every data set: its images, its parts, that it opens the same again, its batches."""

import itertools

import numpy as np
import torch

from lowerbound.data.base import Data, Images
from lowerbound.data.batches import Batches
from lowerbound.data.split import PARTS
from lowerbound.errors import DataError
from lowerbound.testing.base import checks_in, expect, expect_error, expect_round_trip, run_checks


def check_dataset(data: Data) -> None:
    """All of DATASET_CHECKS."""
    run_checks(data, DATASET_CHECKS, data, name=data.source)


def dataset_round_trips_through_json(data: Data) -> None:
    expect_round_trip(data, Data)


def dataset_opens_to_images(data: Data) -> None:
    images = data.open("all")
    x, n = images.x, len(images)
    expect(n > 0, "there are no images")
    expect(x.dtype == np.uint8 and x.ndim == 4, f"x is {x.dtype} of {x.ndim} axes, expected uint8 [N, C, H, W]")
    expect(images.shape == x.shape[1:], f"shape says {images.shape}, x has {x.shape[1:]}")
    expect(2 <= images.levels <= 256, f"levels is {images.levels}, expected 2 to 256")
    expect(max(int(x[i : i + 4096].max()) for i in range(0, n, 4096)) < images.levels, "a value is not below levels")
    for name in ("y", "paths", "factors"):
        values = getattr(images, name)
        expect(values is None or len(values) == n, f"{name} has {0 if values is None else len(values)} rows, x {n}")
    if images.y is not None:
        expect(images.y.dtype == np.int64, f"y is {images.y.dtype}, expected int64")
        classes = len(images.classes or ())
        expect(bool((images.y.min() >= 0) and images.y.max() < classes), f"a label is outside [0, {classes})")
    expect(images.ignored >= 0 and isinstance(images.unreadable, tuple), "no account of unreadable files")


def _open_parts(data: Data) -> dict[str, Images]:
    found = {}
    for part in PARTS:
        try:
            found[part] = data.open(part)
        except DataError:
            continue  # a part may be empty
    return found


def dataset_parts_are_the_whole(data: Data) -> None:
    parts, whole = _open_parts(data), data.open("all")
    expect("train" in parts, "there is no training part")
    counts = [len(images) for images in parts.values()]
    expect(sum(counts) == len(whole), f"the parts have {counts} images, the whole {len(whole)}")
    starts = itertools.accumulate([0, *counts[:-1]])
    for start, (part, images) in zip(starts, parts.items(), strict=True):
        rows = slice(start, start + min(5, len(images)))
        expect(np.array_equal(images.x[:5], whole.x[rows]), f"{part} is not the rows of the whole from {start} on")


def dataset_opens_again_the_same(data: Data) -> None:
    a, b = data.open("train").head(100), data.open("train").head(100)
    expect(np.array_equal(a.x, b.x), "opened twice, the images differ")


def dataset_makes_batches(data: Data) -> None:
    images = data.open("train").head(50)
    batches = Batches(images, torch.device("cpu"), label=images.y is not None)
    seen = np.concatenate([batch.x.numpy() for batch in batches.in_order(7)])
    expect(np.array_equal(seen, images.x), "batches in order are not the images in order")
    first, again, other = (batches.training(step, 8, 0)[0] for step in (0, 0, 1))
    expect(torch.equal(first, again), "the batch of a step is not a function of the step")
    expect(len(images) < 16 or not torch.equal(first, other), "two steps have the same batch")


def dataset_knows_its_splits(data: Data) -> None:
    expect_error(DataError, "an unknown split", lambda: data.open("trian"))


DATASET_CHECKS = checks_in(__name__, "dataset_")

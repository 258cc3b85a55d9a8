"""Label images by a classifier (`lowerbound probe RUN --finetune --out CLASSIFIER`)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lowerbound.data.base import open_images
from lowerbound.data.batches import binarized
from lowerbound.errors import ConfigError, ModelError
from lowerbound.model import Classifying
from lowerbound.runs.inputs import as_batches, open_data
from lowerbound.runs.run import Run
from lowerbound.verbs.base import Device, Files, Seed, Told, verb

Row = dict[str, Any]  # path (or index), label, probability


@verb
def predict(
    run: Run,
    images: Files = (),
    /,
    *,
    data: str | None = None,
    split: str = "all",
    device: Device = "auto",
    seed: Seed = 0,
    progress: Told = False,
) -> list[Row]:
    """Label images by a classifier (`lowerbound probe RUN --finetune --out CLASSIFIER`).

    Args:
        images: image files
        data: label this data set instead
        seed: nothing is drawn

    Returns a row for each image: path (or index), label, probability. Raises ModelError for a run that is no
    classifier, ConfigError for both images and data, or neither.
    """
    if bool(images) == (data is not None):
        raise ConfigError("predict: expected image files, or --data with a data set, and not both")
    model = run.load(device)
    if not isinstance(model, Classifying):
        raise ModelError(
            f"{run.path}: {type(model).__name__} gives no labels; `lowerbound probe {run.path} --finetune --out RUN` "
            "makes a classifier of its encoder"
        )
    if data is None:
        x = torch.from_numpy(open_images(images, run.recipe.data, run.facts.shape, run.facts.levels))
        x = binarized(x, run.facts.levels, np.arange(len(x))) if run.facts.binarizes else x
        return _rows(run, model.probabilities(x.to(device)), [str(path) for path in images])
    opened = open_data(run, split, data, progress, label=False)
    rows: list[Row] = []
    for batch in as_batches(run, opened, torch.device(device), label=False).in_order(model.rows):
        names: list[Any] = batch.index.tolist()
        if opened.paths is not None:
            names = [opened.paths[i] for i in names]
        rows += _rows(run, model.probabilities(batch.x), names)
    return rows


def _rows(run: Run, probabilities: Tensor, names: Sequence[str | int]) -> list[Row]:
    """One row per image [B, classes]."""
    assert run.facts.classes is not None
    p, label = probabilities.cpu().max(1)
    return [
        {"index" if isinstance(name, int) else "path": name, "label": run.facts.classes[c], "probability": value}
        for name, c, value in zip(names, label.tolist(), p.tolist(), strict=True)
    ]

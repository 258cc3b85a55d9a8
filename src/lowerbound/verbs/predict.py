"""Label images by a classifier (`lowerbound probe RUN --finetune --out CLASSIFIER`)."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from lowerbound.data.images import Failed
from lowerbound.errors import ConfigError, ModelError
from lowerbound.model import Adversarial
from lowerbound.runs.inputs import as_batches, open_data, user_images
from lowerbound.runs.run import Run
from lowerbound.verbs import tables
from lowerbound.verbs.base import Device, Files, Seed, Shown, Told, verb

Row = dict[str, Any]  # path (or index), label, probability


class Predicted(list[Row], Shown):
    """A row for each image that can be read."""

    def __init__(self, rows: Iterable[Row], failed: tuple[Failed, ...] = ()):
        super().__init__(rows)
        self.failed = failed

    def json(self) -> list[Row]:
        return [*self]

    def shown(self) -> Any:
        return tables.plain(self.json())


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
) -> Predicted:
    """Label images by a classifier (`lowerbound probe RUN --finetune --out CLASSIFIER`).

    So does a VAE that learns labels of a few images (`data.labels=100`); one whose prior is a mixture tells clusters.

    Args:
        images: image files
        data: label this data set instead
        seed: nothing is drawn

    Returns a row for each image: path (or index), label (or cluster), probability. Raises ModelError for a run that
    predicts nothing, ConfigError for both images and data, or neither.
    """
    if bool(images) == (data is not None):
        raise ConfigError("predict: expected image files, or --data with a data set, and not both")
    model = run.load(device)
    if not model.predicts:
        probed = f"`lowerbound probe {run.path} --finetune --out RUN` makes a classifier of its encoder"
        raise ModelError(
            f"{run.path}: {type(model).__name__} gives no labels; "
            + ("a classifier does (recipe classifier)" if isinstance(model, Adversarial) else probed)
        )
    names = run.facts.classes if model.predicts == "label" else None
    if data is None:
        own = user_images(run, images, progress, device)
        return Predicted(_rows(names, model.probabilities(own.x), own.paths), own.failed)
    opened = open_data(run, split, data, progress, conditioned=False)
    rows: list[Row] = []
    for batch in as_batches(run, opened, torch.device(device), conditioned=False).in_order(model.rows):
        which: list[Any] = batch.index.tolist()
        if opened.paths is not None:
            which = [opened.paths[i] for i in which]
        rows += _rows(names, model.probabilities(batch.x), which)
    return Predicted(rows, opened.unreadable)


def _rows(names: Sequence[str] | None, probabilities: Tensor, images: Sequence[str | int]) -> list[Row]:
    """One row per image [B, C]. names: of the labels; None: it is clusters, which have numbers."""
    p, found = probabilities.cpu().max(1)
    return [
        {"index" if isinstance(image, int) else "path": image}
        | ({"cluster": c} if names is None else {"label": names[c]})
        | {"probability": value}
        for image, c, value in zip(images, found.tolist(), p.tolist(), strict=True)
    ]

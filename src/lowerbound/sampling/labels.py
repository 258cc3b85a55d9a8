"""Labels that nobody gave: drawn by their frequencies, given what is kept of an image."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lowerbound.errors import ModelError
from lowerbound.model import Model
from lowerbound.noise import key
from lowerbound.progress import Progress
from lowerbound.runs.run import Run

LogP = Callable[[Tensor, Tensor], Tensor]  # images i [P] and labels y [P] -> log p(what is kept of x_i | y), [P]


class Labels(NamedTuple):
    """The labels of n draws for each of B images."""

    y: Tensor | None  # [B, n]; None of a model that is given none
    names: tuple[tuple[str, ...], ...] | None = None  # [B][n], where they were drawn


def labels_given(
    run: Run,
    model: Model,
    images: Sequence[str],
    n: int,
    label: str | int | None,
    seed: int,
    log_p: LogP,
    progress: Progress,
) -> Labels:
    """The one that is said, or those that are drawn given what is kept of each image, which is told."""
    y = run.labels(len(images) * n, label, seed)
    if y is None or label is not None:
        return Labels(None if y is None else y.view(len(images), n))
    classes, counts = run.facts.classes, run.facts.counts
    assert classes is not None
    assert counts is not None
    drawn = draw_labels(model, log_p, len(images), n, counts, torch.Generator().manual_seed(key(seed, "labels")))
    names = tuple(tuple(classes[k] for k in row) for row in drawn.tolist())
    for image, row in zip(images, names, strict=True):
        often = ", ".join(f"{name} ({k})" for name, k in Counter(row).most_common(10))
        progress.say(f"{image}: labels drawn given what is kept: {often}")
    return Labels(drawn, names)


@torch.no_grad()
def draw_labels(model: Model, log_p: LogP, B: int, n: int, counts: Sequence[int], generator: torch.Generator) -> Tensor:
    """n labels for each of B images from p(y | what is kept of x), with p(y) by the counts: [B, n], on the processor.

    With labels so drawn, a completion is a draw of p(rest | kept).
    """
    pairs = torch.cartesian_prod(torch.arange(B), torch.arange(len(counts)))
    found = torch.cat([log_p(*part.to(model.device).unbind(1)).cpu() for part in pairs.split(model.rows)])
    given = torch.tensor(counts, dtype=torch.float64).log() + found.view(B, len(counts))
    return torch.multinomial(given.softmax(1), n, replacement=True, generator=generator)


def check_number_of_images(n: int) -> None:
    if n < 1:
        raise ModelError(f"-n {n}: expected a whole number of at least 1")

"""Labels and attributes that nobody gave: drawn as they are in training, given what is kept of an image."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lowerbound.errors import ModelError
from lowerbound.model import Model
from lowerbound.noise import key
from lowerbound.progress import Progress
from lowerbound.runs.conditions import Asked, Candidates
from lowerbound.runs.run import Run

LogP = Callable[[Tensor, Tensor], Tensor]  # images i [P], conditions y [P, ...] -> log p(what is kept of x_i | y), [P]


class Labels(NamedTuple):
    """The labels, or attributes, of n draws for each of B images."""

    y: Tensor | None  # [B, n] or [B, n, D]; None of a model that is given none
    names: tuple[tuple[str, ...], ...] | None = None  # [B][n], where they were drawn


def labels_given(
    run: Run,
    model: Model,
    images: Sequence[str],
    n: int,
    asked: Asked,
    seed: int,
    log_p: LogP,
    progress: Progress,
) -> Labels:
    """Those that are said, or that are drawn given what is kept of each image, which is told.

    Of attributes of which not all are said, it is among those of some images of training.
    """
    y = run.condition(len(images) * n, asked, seed)
    if y is None or asked.label is not None or asked.are_all_of(run.facts.factors):
        return Labels(None if y is None else y.unflatten(0, (len(images), n)))
    candidates = run.candidates(asked, seed)
    generator = torch.Generator().manual_seed(key(seed, "labels"))
    drawn = draw_candidates(model, log_p, len(images), n, candidates, generator)
    names = tuple(tuple(candidates.names[k] for k in row) for row in drawn.tolist())
    for image, row in zip(images, names, strict=True):
        often = Counter(row).most_common(10 if run.recipe.data.label else 1)
        what = "labels" if run.recipe.data.label else "attributes"
        progress.say(f"{image}: {what} drawn given what is kept: {', '.join(f'{name} ({k})' for name, k in often)}")
    return Labels(candidates.y[drawn], names if run.recipe.data.label else None)


@torch.no_grad()
def draw_candidates(
    model: Model, log_p: LogP, B: int, n: int, candidates: Candidates, generator: torch.Generator
) -> Tensor:
    """n of K conditions for each of B images from p(y | what is kept of x), with p(y) by their weights: the places
    [B, n], on the processor.

    With conditions so drawn, a completion is a draw of p(rest | kept).
    """
    K, y = len(candidates.y), candidates.y.to(model.device)
    pairs = torch.cartesian_prod(torch.arange(B), torch.arange(K))
    found = [log_p(i, y[k]).cpu() for i, k in (part.to(model.device).unbind(1) for part in pairs.split(model.rows))]
    given = torch.tensor(candidates.weights, dtype=torch.float64).log() + torch.cat(found).view(B, K)
    return torch.multinomial(given.softmax(1), n, replacement=True, generator=generator)


def check_number_of_images(n: int) -> None:
    if n < 1:
        raise ModelError(f"-n {n}: expected a whole number of at least 1")

"""Labels that nobody gave: drawn by their frequencies, or given what is kept of an image."""

from collections import Counter
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lowerbound.chunks import rows_at_once
from lowerbound.errors import ModelError
from lowerbound.models.autoregressive import Autoregressive
from lowerbound.models.vqvae import VQVAE
from lowerbound.noise import key
from lowerbound.progress import Progress
from lowerbound.runs.run import Run

# ---- labels that nobody gave


@torch.no_grad()
def draw_labels(
    model: Autoregressive, x: Tensor, kept: Tensor, n: int, counts: Sequence[int], generator: torch.Generator
) -> Tensor:
    """n labels for each of B events, from p(y | what is kept of x), with p(y) by the counts: [B, n] on the CPU.

    With labels so drawn, a completion is a draw of p(rest | kept). Nothing kept: by the counts alone.
    """

    def log_p(i: Tensor, k: Tensor) -> Tensor:
        return model.log_probs(x[i], k)[:, kept].double().sum(1)

    given = _posterior(log_p, x, counts, rows_at_once(model)) if bool(kept.any()) else _prior(x, counts)
    return torch.multinomial(given.softmax(1), n, replacement=True, generator=generator)


@torch.no_grad()
def draw_labels_of_codes(
    model: VQVAE, coarse: tuple[Tensor, ...], n: int, counts: Sequence[int], generator: torch.Generator
) -> Tensor:
    """n labels for each of B images, from p(y | the codes of their coarsest levels), as `draw_labels`: [B, n]."""

    def log_p(i: Tensor, k: Tensor) -> Tensor:
        return model.log_p_codes(tuple(c[i] for c in coarse), k).double().sum(0)

    given = _posterior(log_p, coarse[0], counts, rows_at_once(model))
    return torch.multinomial(given.softmax(1), n, replacement=True, generator=generator)


def _prior(x: Tensor, counts: Sequence[int]) -> Tensor:
    """log p(y) up to a constant for each of B events: [B, K] on the CPU."""
    return torch.tensor(counts, dtype=torch.float64).log().repeat(len(x), 1)


def _posterior(log_p: Callable[[Tensor, Tensor], Tensor], x: Tensor, counts: Sequence[int], rows: int) -> Tensor:
    """log p(y | what is kept of x_i) up to a constant, [B, K]; log_p: log p(what is kept | y) of pairs (i, y), [P]."""
    pairs = torch.cartesian_prod(torch.arange(len(x)), torch.arange(len(counts)))
    found = torch.cat([log_p(*part.to(x.device).unbind(1)).cpu() for part in pairs.split(rows)])
    return _prior(x, counts) + found.view(len(x), len(counts))


def told_labels(names: Sequence[str], labels: Sequence[Sequence[str]], progress: Progress) -> None:
    """Say which labels were drawn, the most frequent first."""
    for name, drawn in zip(names, labels, strict=True):
        often = ", ".join(f"{label} ({k})" for label, k in Counter(drawn).most_common(10))
        progress.say(f"{name}: labels drawn given what is kept: {often}")


Labels = tuple[Tensor | None, tuple[tuple[str, ...], ...] | None]  # [B, n]; and their names, where they were drawn


def labels_for(
    run: Run,
    B: int,
    n: int,
    label: str | int | None,
    seed: int,
    draw: Callable[[tuple[int, ...], torch.Generator], Tensor],
) -> Labels:
    given = run.labels(B * n, label, seed)
    if given is None or label is not None:
        return None if given is None else given.view(B, n), None
    classes, counts = run.facts.classes, run.facts.counts
    assert classes is not None
    assert counts is not None
    y = draw(counts, torch.Generator().manual_seed(key(seed, "labels")))
    return y, tuple(tuple(classes[k] for k in row) for row in y.tolist())


def check_number_of_images(n: int) -> None:
    if n < 1:
        raise ModelError(f"-n {n}: expected a whole number of at least 1")

"""Latents of whole numbers: which of them are used, and what each value of one does."""

from typing import NamedTuple

import torch
from torch import Tensor

from lowerbound.distributions import kl_per_dimension
from lowerbound.errors import ModelError
from lowerbound.model import CodeModel, LatentModel
from lowerbound.runs.inputs import as_batches, open_data
from lowerbound.runs.run import Run

MOST = 1000  # validation images by which the variables are ordered


class Values(NamedTuple):
    """A vector z of D variables that take `levels` values each."""

    use: Tensor  # the mean of KL(q(z_d|x) || p(z_d)) in nats over validation images, [D]
    levels: int

    def order(self) -> list[int]:
        return self.use.argsort(descending=True).tolist()

    def through(self, z: Tensor, variables: list[int]) -> Tensor:
        """z [D] with each of some variables at each of its values: [R, levels, D]."""
        found = z.repeat(len(variables), self.levels, 1)
        for row, d in enumerate(variables):
            found[row, :, d] = torch.arange(self.levels)
        return found


def is_of_values(model: LatentModel) -> bool:
    """Whether z is one vector of whole numbers."""
    (first, *more) = model.latents
    return not more and first.levels is not None and len(first.shape) == 1 and not isinstance(model, CodeModel)


@torch.no_grad()
def values(run: Run, model: LatentModel, device: torch.device | str) -> Values:
    """How much each variable is used. Raises ModelError where its KL is not closed."""
    images, total, n = open_data(run, "valid"), torch.zeros(model.latents[0].shape, dtype=torch.float64), 0
    for batch in as_batches(run, images, torch.device(device)).in_order(model.rows, MOST):
        (q,) = model.posteriors(batch.x, batch.y)
        kl = kl_per_dimension(q, model.prior_of(0, (), batch.y))
        if kl is None:
            raise ModelError(f"{run.path}: the KL of each variable is not closed, so nothing orders them")
        total += kl.double().cpu().sum(0)
        n += len(batch.index)
    return Values(total / n, model.latents[0].levels or 0)


@torch.no_grad()
def start(model: LatentModel, x: Tensor | None, y: Tensor | None) -> Tensor:
    """The likeliest z of an image [1, ...], or of the prior: [D]."""
    q = model.prior_of(0, (), y) if x is None else model.posteriors(x, y)[0]
    return q.mode.reshape(-1, *model.latents[0].shape)[0].cpu()

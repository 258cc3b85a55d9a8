"""Latents of whole numbers: which of them are used, and what each value of one does."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.special import entr

from lowerbound.distributions import Bernoulli, Categorical, kl_per_dimension
from lowerbound.model import CodeModel, LatentModel
from lowerbound.runs.inputs import as_batches, open_data
from lowerbound.runs.run import Run

MOST = 1000  # validation images by which the variables are ordered


class Values(NamedTuple):
    """A vector z of D variables that take `levels` values each."""

    use: Tensor  # the mean of KL(q(z_d|x) || p(z_d)) over images, or of that to the average of q; in nats, [D]
    use_name: str
    likeliest: Tensor  # by the average of q over images, [D]
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
    """How much each variable is used by validation images, and which values are the likeliest."""
    probabilities, kls = [], []
    for batch in as_batches(run, open_data(run, "valid"), torch.device(device)).in_order(model.rows, MOST):
        (q,) = model.posteriors(batch.x, batch.y)
        probabilities.append(_of_each(q).double().cpu())
        kl = kl_per_dimension(q, model.prior_of(0, (), batch.y))
        kls += [] if kl is None else [kl.double().cpu()]
    each = torch.cat(probabilities)  # [N, levels, D]
    average = each.mean(0)
    closed = len(kls) == len(probabilities)
    use = torch.cat(kls).mean(0) if closed else (entr(average) - entr(each).mean(0)).sum(0)
    return Values(use, "KL" if closed else "information", average.argmax(0), each.shape[1])


def _of_each(q: Distribution) -> Tensor:
    """The probability of every value of every variable: [B, levels, D]."""
    if isinstance(q, Bernoulli):
        return torch.stack([1 - q.mean, q.mean], 1)
    assert isinstance(q, Categorical)
    return q.log_probs.exp()


@torch.no_grad()
def start(model: LatentModel, x: Tensor, y: Tensor | None) -> Tensor:
    """The likeliest z of an image [1, ...]: [D]."""
    return model.posteriors(x, y)[0].mode[0].cpu()

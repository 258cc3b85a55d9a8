"""The best member of a posterior's family for each image, found by descent from what the encoder gives."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from lowerbound.devices import widened
from lowerbound.errors import ModelError
from lowerbound.estimators import Draws
from lowerbound.inference.own import Own
from lowerbound.model import LatentModel
from lowerbound.model.latent import PLAINLY
from lowerbound.noise import KeyedNoise, randn
from lowerbound.objectives import ELBO
from lowerbound.progress import Step, silent
from lowerbound.space import Y

CHOOSING = 100  # draws of the bound by which the better of several posteriors is taken
NEAR = 0.1  # standard deviation of what a descent begins with near zero, so that what is alike can part


@dataclass(frozen=True)
class Refinement:
    """How the bound is climbed: by Adam, of a rate that falls to 0 as half a cosine. draws: of each step."""

    steps: int = 500
    draws: int = 20
    rate: float = 0.05


def refined(model: LatentModel, x: Tensor, h: Any, y: Y, how: Refinement, own: Own, told: Step = silent) -> Any:
    r"""What the posterior would have to be given for each image x [B, ...] in the place of h for the highest bound.

    .. math:: q^* = \arg\max_q E_q[\log p(x|z) + \log p(z) - \log q(z)]

    over the members of the family, one for each image (Cremer et al. 2018, https://arxiv.org/abs/1801.03558): by two
    climbs, from h = `model.bottom_up(x, y)` and from near zero, where posteriors are near N(0, I). Of what they find
    and h itself the best is taken for each image, by draws that are used for nothing else. A climb may end below the
    best: the bound of the family's best member is at least that of what is found.

    told: called after each step of either climb. Raises ModelError where no gradient reaches h.
    """
    h = _changed(widened, h)
    with own.noise("near zero") as noise:
        noise.chunk(1)
        near = _changed(lambda t: NEAR * randn((1, *t.shape), dtype=t.dtype, device=t.device)[0], h)
    found = [h, *(_climbed(model, x, start, y, how, own.noise("climb"), told) for start in (h, near))]
    bounds = [log_weights(model, x, each, y, CHOOSING, own.noise("choice")).mean(0) for each in found]
    best, rows = torch.stack(bounds).nan_to_num(-math.inf).argmax(0), torch.arange(len(x), device=x.device)
    return _changed(lambda *each: torch.stack(each)[best, rows], *found)


@torch.no_grad()
def log_weights(model: LatentModel, x: Tensor, h: Any, y: Y, draws: int, noise: KeyedNoise) -> Tensor:
    """log p(x, z) - log q(z|x) where the posterior is given h, in parts that fit in memory: [draws, B], float64."""
    step, found = max(1, model.rows // len(x)), []
    with noise:
        for done in range(0, draws, step):
            draw = partial(PLAINLY.draw, n=noise.chunk(min(step, draws - done)))
            found.append(model._terms(x, h, y, draw, model.prior_of).log_weight.double())
    return torch.cat(found)


def _climbed(model: LatentModel, x: Tensor, h: Any, y: Y, how: Refinement, noise: KeyedNoise, told: Step) -> Any:
    """Each image's part of h moves alone: the loss is a sum over images, and Adam scales every number by itself."""
    h = _changed(lambda t: t.detach().clone().requires_grad_(), h)
    free = list(_tensors(h))
    optimizer = torch.optim.Adam(free, lr=how.rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, how.steps))

    def draw(q: Distribution) -> Draws:
        """In all about as many draws, also where every component is drawn from."""
        n = max(1, how.draws // model.estimator.rows(q, 1))
        return model.estimator.draw(q, noise.chunk(n))

    with noise, torch.enable_grad():
        for _ in range(how.steps):
            terms = model._terms(x, h, y, draw, model.prior_of)
            _descend(ELBO().of_each(terms, 0).sum(), free)
            optimizer.step()
            schedule.step()
            told()
    return _changed(Tensor.detach, h)


def _descend(loss: Tensor, free: list[Tensor]) -> None:
    """Give what is free its gradient, and nothing else."""
    grads = torch.autograd.grad(loss, free, allow_unused=True) if loss.requires_grad else [None]
    if all(grad is None for grad in grads):
        raise ModelError("this posterior can't be refined: the gradient of its bound does not reach its parameters")
    for t, grad in zip(free, grads, strict=True):
        t.grad = grad


def _changed(change: Callable[..., Tensor], *h: Any) -> Any:
    """What posteriors see, its tensors of real numbers changed: tensors, or tuples and lists of them."""
    if isinstance(h[0], Tensor):
        return change(*h) if h[0].is_floating_point() else h[0]
    return type(h[0])(_changed(change, *parts) for parts in zip(*h, strict=True))


def _tensors(h: Any) -> Iterator[Tensor]:
    if isinstance(h, Tensor):
        yield from (h,) if h.is_floating_point() else ()
    else:
        for part in h:
            yield from _tensors(part)

"""Labels of few images: q(y|x), and the bound of images without a label (Kingma et al. 2014, "M2")."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lowerbound import noise
from lowerbound.parallel.rows import mean_of_rows, of_other_rows, whole_of
from lowerbound.space import UNKNOWN
from lowerbound.stages import Loss

Cost = Callable[[Tensor, Tensor], Tensor]  # events [N, ...] and their labels [N] -> minus the bound of log p(x|y), [N]


class SemiSupervised(NamedTuple):
    r"""The parts of the loss for a batch of which some labels are known, [B] each, in nats.

    Kingma et al. (2014), https://arxiv.org/abs/1406.5298, eq. 6 to 9, with p(y) uniform over C classes:

    .. math::
        -L(x, y) = E_q[\log p(x|y, z)] - KL(q(z|x, y) \| p(z)) + \log p(y), \qquad
        -U(x) = \sum_y q(y|x) (-L(x, y)) + H(q(y|x))
    """

    labelled: Tensor  # L(x, y) where y is known, else of no meaning
    unlabelled: Tensor  # U(x) where y is not known, else 0
    cross_entropy: Tensor  # -log q(y|x) where y is known, else 0
    right: Tensor  # whether the likeliest label is the known one, else 0
    known: Tensor  # 1 where y is known, else 0

    @staticmethod
    def of(x: Tensor, y: Tensor, logits: Tensor, cost: Cost) -> "SemiSupervised":
        """logits: log q(y|x) up to a constant, [B, C].

        On a CPU, labels whose q(y|x) is lost in the rounding of a sum of 1 are left out of the sum: where the
        classifier is sure of itself, an event costs little more than one pass, not C. Another device would have to wait
        for their number.
        """
        C = logits.shape[1]
        log_q = logits.log_softmax(1)
        known = y != UNKNOWN
        own = y.clamp(min=0)
        place = torch.arange(log_q.numel(), device=x.device)  # of each event and label
        if x.device.type == "cpu":
            lost = log_q < math.log(torch.finfo(log_q.dtype).eps)
            place = place[torch.where(known[:, None], F.one_hot(own, C) > 0, ~lost).flatten()]
        event, label = place // C, place % C
        with of_other_rows(len(place)):
            costs = cost(x[event], label).to(log_q.dtype) + math.log(C)
        L = log_q.new_zeros(log_q.numel()).scatter(0, place, costs).view_as(log_q)
        return SemiSupervised(
            labelled=L.gather(1, own[:, None])[:, 0],
            unlabelled=torch.where(known, 0, (log_q.exp() * (L + log_q)).sum(1)),
            cross_entropy=F.cross_entropy(logits, y, ignore_index=UNKNOWN, reduction="none"),
            right=((logits.argmax(1) == own) & known).to(logits.dtype),
            known=known.to(logits.dtype),
        )

    def loss(self, alpha: float) -> Loss:
        """J of eq. 9: the mean over events of L or U, and alpha times the mean over known labels of -log q(y|x)."""
        cost = torch.where(self.known > 0, self.labelled, self.unlabelled)
        share = mean_of_rows(self.known).clamp(min=1 / whole_of(len(self.known)))
        terms = {"bound": -cost, "cross_entropy": self.cross_entropy / share, "accuracy": self.right / share}
        value = cost.mean() + alpha * self.cross_entropy.mean() / share
        return Loss(value, {name: term.detach() for name, term in terms.items()})


def drawn_label(logits: Tensor, draws: int) -> tuple[Tensor, Tensor]:
    """Labels from q(y|x) of logits [B, C], one for each draw, and log p(y) - log q(y|x) with p(y) uniform: [K, B]."""
    log_q = logits.log_softmax(1)
    u = noise.rand((draws, len(logits), 1), dtype=logits.dtype, device=logits.device)
    below = log_q.exp().cumsum(1)
    y = (below <= u * below[:, -1:]).sum(-1).clamp(max=logits.shape[1] - 1)  # [K, B]
    return y, -math.log(logits.shape[1]) - log_q.gather(1, y.T).T

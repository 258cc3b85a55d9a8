"""Labels of few images: q(y|x), and the bound of images without a label (Kingma et al. 2014, "M2")."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lowerbound import noise
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

    labelled: Tensor  # L(x, y) where y is known
    unlabelled: Tensor  # U(x)
    cross_entropy: Tensor  # -log q(y|x) where y is known, else 0
    right: Tensor  # whether the likeliest label is the known one, else 0
    known: Tensor  # 1 where y is known, else 0

    @staticmethod
    def of(x: Tensor, y: Tensor, logits: Tensor, cost: Cost) -> "SemiSupervised":
        """logits: log q(y|x) up to a constant, [B, C]. The sum over all labels is exact: C costs for each event."""
        B, C = logits.shape
        log_q = logits.log_softmax(1)
        every = torch.arange(C, device=x.device).repeat(B)
        L = cost(x.repeat_interleave(C, 0), every).view(B, C) + math.log(C)
        known = y != UNKNOWN
        own = y.clamp(min=0)
        return SemiSupervised(
            labelled=L.gather(1, own[:, None])[:, 0],
            unlabelled=(log_q.exp() * (L + log_q)).sum(1),
            cross_entropy=F.cross_entropy(logits, y, ignore_index=UNKNOWN, reduction="none"),
            right=((logits.argmax(1) == own) & known).to(logits.dtype),
            known=known.to(logits.dtype),
        )

    def loss(self, alpha: float) -> Loss:
        """J of eq. 9: the mean over events of L or U, and alpha times the mean over known labels of -log q(y|x)."""
        cost = torch.where(self.known > 0, self.labelled, self.unlabelled)
        share = self.known.mean().clamp(min=1 / len(self.known))
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

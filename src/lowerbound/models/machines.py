"""What a restricted Boltzmann machine computes, at any temperature between one without connections and itself."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lowerbound.models.visibles import Visible, flipped

CHUNK = 2**22  # numbers that are held at once where states are counted


class Machine(NamedTuple):
    r"""Weights and biases, and the inverse temperature β at which they are looked at.

    .. math::
        -E(v, h) = g(v) + \beta c^T h + \beta s(v)^T W h, \quad
        -F(v) = \log \sum_h e^{-E(v, h)} = g(v) + \sum_j \log(1 + e^{\beta (c + W^T s(v))_j})

    At β = 1 it is the machine itself. `tempered` gives those between it and independent units of given biases, at
    β = 0 (Salakhutdinov & Murray 2008, https://doi.org/10.1145/1390156.1390266, with base-rate biases).
    """

    units: Visible
    W: Tensor  # [V, H]
    b: Tensor  # of visible units, [..., V]
    c: Tensor  # of hidden units, [..., H]
    scale: Tensor  # σ of Gaussian units, [V] or []
    beta: float | Tensor = 1.0  # a number, or one for each row

    def tempered(self, beta: float | Tensor, base: Tensor) -> "Machine":
        """The one at β, whose visible biases are (1 - β) base + β b."""
        return self._replace(b=base + beta * (self.b - base), beta=beta)

    # ---- hidden units given visible ones, and back

    def field(self, v: Tensor) -> Tensor:
        """c + Wᵀ s(v), the logits of p(h|v) at β = 1: [..., H]."""
        return self.units.seen(v, self.scale) @ self.W + self.c

    def inputs(self, h: Tensor) -> Tensor:
        """a, on which p(v|h) depends: [..., V]."""
        return self.b + self.beta * (h @ self.W.T)

    def hidden(self, field: Tensor, temperature: float = 1.0) -> Tensor:
        """h of p(h|v), as numbers, for the `field` of v: [..., H]."""
        return flipped(self.beta * field, temperature)

    def visible(self, h: Tensor, temperature: float = 1.0) -> Tensor:
        """v of p(v|h): [..., V]."""
        return self.units.draw(self.inputs(h), self.scale, temperature)

    def stepped(self, h: Tensor, steps: int = 1, temperature: float = 1.0) -> Tensor:
        """h after so many steps of block Gibbs sampling, each v of p(v|h) and then h of p(h|v): [..., H]."""
        for _ in range(steps):
            h = self.hidden(self.field(self.visible(h, temperature)), temperature)
        return h

    # ---- what they weigh

    def free_energy(self, v: Tensor, field: Tensor | None = None) -> Tensor:
        """F(v) in nats, so that p(v) = exp(-F(v)) / Z: [...]. field: of v, where it is known."""
        field = self.field(v) if field is None else field
        return -self.units.log_g(v, self.b, self.scale) - F.softplus(self.beta * field).sum(-1)

    def log_weight(self, h: Tensor) -> Tensor:
        """log of the sum over v of exp(-E(v, h)), so that p(h) is its exponential / Z: [...]."""
        total = self.units.log_total(self.inputs(h), self.b, self.scale)
        return (h * (self.beta * self.c)).sum(-1) + total

    def log_z(self) -> Tensor:
        """log Z by counting all states of the hidden units, or of the visible ones (`fewest`), with its gradient: a
        scalar. The biases are of one condition, [V] and [H]."""
        n, hidden = fewest(self.units, *self.W.shape)
        parts = [
            torch.logsumexp(self.log_weight(s) if hidden else -self.free_energy(s), 0)
            for s in all_bits(n, CHUNK // max(self.W.shape), self.W)
        ]
        return torch.logsumexp(torch.stack(parts), 0)

    def log_z_without_connections(self) -> Tensor:
        """log Z of the machine at β = 0: a scalar."""
        return self.units.log_total(self.b, self.b, self.scale) + self.W.shape[1] * math.log(2)


def fewest(units: Visible, V: int, H: int) -> tuple[int, bool]:
    """How many units have states that can be counted, and whether these are the hidden ones."""
    return (V, False) if units.countable and V < H else (H, True)


def all_bits(n: int, rows: int, like: Tensor) -> Iterator[Tensor]:
    """All states of n two-valued units, as numbers of a type and device, so many at once: [rows, n]."""
    places = torch.arange(n, device=like.device)
    for part in torch.arange(2**n, device=like.device).split(max(1, rows)):
        yield (part[:, None] >> places & 1).to(like.dtype)

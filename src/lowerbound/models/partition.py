r"""The normalizing constant of a Boltzmann machine, by annealed importance sampling.

Neal (2001), https://arxiv.org/abs/physics/9803008; of these machines, Salakhutdinov & Murray (2008),
https://doi.org/10.1145/1390156.1390266. With :math:`p^*_\beta(v) = e^{-F_\beta(v)}` of the machine at β, a chain goes
from an exact draw of :math:`p_0` by transitions that leave :math:`p_{\beta_t}` alone:

.. math:: \log w = \sum_{t=1}^T \log \frac{p^*_{\beta_t}(v_{t-1})}{p^*_{\beta_{t-1}}(v_{t-1})}, \quad
    E[w] = \frac{Z_1}{Z_0}

so that log of the mean of w is too low for log Z in the mean, and log p(x) by it too high. In reverse order, from a
sample of the model to where Z is known, E[w] = Z_0 / Z_1, and the estimate is too high (Grosse et al. 2015,
https://arxiv.org/abs/1511.02543; for a reverse path from each test image, Burda et al. 2015,
https://arxiv.org/abs/1412.8566). That holds for exact samples of the model; here they are the ends of Markov chains of
their own, and the two estimates can agree and both be wrong where no chain has been.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from lowerbound.config import Component
from lowerbound.models.machines import Machine
from lowerbound.progress import Step, silent
from lowerbound.space import Estimate


class Annealing(Component):
    """How log Z is estimated.

    The temperatures are spaced as by Salakhutdinov & Murray, who have 14,500: one in 29 of β from 0 to 1/2, 8 in 29
    from there to 0.9, 20 in 29 from there to 1.
    """

    chains: int = Field(default=100, gt=1)  # that are annealed, each with a weight of its own
    temperatures: int = Field(default=14500, gt=1)  # beside β = 0; with one there would be no annealing
    burn_in: int = Field(default=1000, ge=0)  # steps of the reverse chains at β = 1, before they are annealed

    def betas(self) -> list[float]:
        """β from 0 to 1."""
        T = self.temperatures
        ends, shares = (0.0, 0.5, 0.9, 1.0), (1 / 29, 9 / 29, 1.0)
        counts = [0, *(min(T, max(i + 1, round(share * T))) for i, share in enumerate(shares))]
        found = [0.0]
        for low, high, a, b in zip(ends, ends[1:], counts, counts[1:], strict=False):
            found += [low + (high - low) * (t + 1) / (b - a) for t in range(b - a)]
        return [*found[:-1], 1.0]


class Mean(NamedTuple):
    """The mean of weights, by its logarithm."""

    log: float
    error: float  # standard error of the logarithm


def mean_of(log_w: Tensor) -> Mean:
    """log of the mean of w, of log w [n], and its standard error: that of the mean, in units of the mean."""
    log_mean = float(torch.logsumexp(log_w, 0)) - math.log(len(log_w))
    return Mean(log_mean, float((log_w - log_mean).exp().std()) / math.sqrt(len(log_w)))


def annealed(machine: Machine, base: Tensor, v: Tensor, betas: Sequence[float], told: Step = silent) -> Tensor:
    """log w of chains v [n, V], of exact draws at the first β, through the others: float64 [n]."""
    log_w, field = torch.zeros(len(v), dtype=torch.float64, device=v.device), machine.field(v)
    at = machine.tempered(betas[0], base)
    for t, beta in enumerate(betas[1:], 2):
        to = machine.tempered(beta, base)
        log_w += (at.free_energy(v, field) - to.free_energy(v, field)).double()
        if t < len(betas):
            v = to.visible(to.hidden(field))
            field, at = machine.field(v), to
        told()
    return log_w


def from_below(machine: Machine, base: Tensor, how: Annealing, told: Step = silent) -> Mean:
    """log Z by chains from β = 0 to 1; biases of one condition."""
    apart = machine.tempered(0.0, base)
    v = machine.units.draw(base.expand(how.chains, -1), machine.scale)
    found = mean_of(annealed(machine, base, v, how.betas(), told))
    return found._replace(log=found.log + float(apart.log_z_without_connections()))


def from_above(machine: Machine, base: Tensor, v: Tensor, how: Annealing, told: Step = silent) -> Mean:
    """log Z by as many chains from β = 1 to 0, that begin where v [n, V] are after the burn-in; of no v, at independent
    units."""
    v = v if len(v) else machine.units.draw(base[None], machine.scale)
    v = v[torch.arange(how.chains, device=v.device) % len(v)]
    for _ in range(how.burn_in):
        v = machine.visible(machine.hidden(machine.field(v)))
        told()
    found = mean_of(annealed(machine, base, v, how.betas()[::-1], told))
    return Mean(float(machine.tempered(0.0, base).log_z_without_connections()) - found.log, found.error)


class LogZ(nn.Module):
    """log Z of the machine of each label, [labels]; or the only one, [1]. What is fitted after the machine."""

    known: Tensor
    errors: Tensor
    reverse: Tensor
    reverse_errors: Tensor

    def __init__(self, labels: int):
        super().__init__()
        self.value = nn.Parameter(torch.zeros(labels))  # as a loss, -log p(x) has a gradient of it, that is 1
        self.register_buffer("known", torch.zeros((), dtype=torch.bool))  # whether it is that of the weights
        for name in ("errors", "reverse", "reverse_errors"):
            self.register_buffer(name, torch.zeros(labels))

    @torch.no_grad()
    def set(self, label: int, below: Mean, above: Mean) -> None:
        self.value[label], self.errors[label] = below
        self.reverse[label], self.reverse_errors[label] = above

    def estimate(self, how: Annealing) -> Estimate:
        return Estimate(
            log_z=float(self.value.detach().double().mean()),
            error=float(self.errors.max()),
            reverse=float(self.reverse.double().mean()),
            reverse_error=float(self.reverse_errors.max()),
            chains=how.chains,
            temperatures=how.temperatures,
        )

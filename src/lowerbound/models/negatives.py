r"""Where a Boltzmann machine is compared with its data: the model's own samples, in the gradient of log p(x).

.. math:: -\nabla \log p(x) = \nabla F(x) - E_{x' \sim p}[\nabla F(x')]

The second expectation is of the model's own samples, which are never exact: they come from Markov chains.
"""

import torch
from pydantic import Field
from torch import Tensor

from lowerbound import noise
from lowerbound.config import Component
from lowerbound.models.machines import Machine


class Negative(Component, abstract=True):
    """Whence the model's samples of a step's gradient come."""

    steps: int = Field(default=1, gt=0)  # of Gibbs sampling, between two gradient steps

    @classmethod
    def example(cls) -> "Negative":
        return cls()

    @property
    def shape(self) -> tuple[int, int]:
        """Chains that go on from one gradient step to the next: at how many temperatures, and how many at each."""
        return 0, 0

    def moved(self, h: Tensor, machine: Machine, base: Tensor) -> Tensor:
        """Chains h [..., C, H] some steps later. base: visible biases of the machine without connections."""
        return machine.stepped(h, self.steps)


class Contrastive(Negative):
    """Contrastive divergence, CD-k: k steps from the data of each batch (Hinton 2002,
    https://doi.org/10.1162/089976602760128018). Biased, the less the more steps: no gradient of log p(x)."""


class Persistent(Negative):
    """Persistent contrastive divergence, PCD-k, or stochastic maximum likelihood: chains that go on from one gradient
    step to the next by k steps (Tieleman 2008, https://doi.org/10.1145/1390156.1390290)."""

    chains: int = Field(default=100, gt=0)  # where labels are given, shared out evenly among these

    @property
    def shape(self) -> tuple[int, int]:
        return 1, self.chains


class Tempered(Negative):
    r"""Parallel tempering: persistent chains at inverse temperatures β evenly spaced from 0 to 1, which swap states
    (Desjardins et al. 2010, https://proceedings.mlr.press/v9/desjardins10a.html).

    After the steps of all chains, neighbours swap with probability :math:`\min(1, p_r(h') p_{r'}(h) / p_r(h)
    p_{r'}(h'))`, first those of even and then those of odd number, so that what a hot chain finds comes down to β = 1.
    """

    chains: int = Field(default=100, gt=0)  # at each temperature
    temperatures: int = Field(default=10, gt=1)  # inverse ones, evenly from 0 to 1

    @property
    def shape(self) -> tuple[int, int]:
        return self.temperatures, self.chains

    def moved(self, h: Tensor, machine: Machine, base: Tensor) -> Tensor:
        betas = torch.linspace(0, 1, self.temperatures, dtype=h.dtype, device=h.device)[:, None, None]
        h = machine.tempered(betas, base).stepped(h, self.steps)
        for first in (0, 1):
            low, high = h[first:-1:2], h[first + 1 :: 2]
            cold, hot = (machine.tempered(b, base) for b in (betas[first + 1 :: 2], betas[first:-1:2]))
            log_ratio = cold.log_weight(low) + hot.log_weight(high) - cold.log_weight(high) - hot.log_weight(low)
            swap = (noise.rand_like(log_ratio).log() < log_ratio)[..., None]  # [pairs, C, 1]
            h = h.clone()
            h[first:-1:2], h[first + 1 :: 2] = torch.where(swap, high, low), torch.where(swap, low, high)
        return h

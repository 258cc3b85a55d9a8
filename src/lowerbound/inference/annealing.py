r"""log p(x) by annealed importance sampling, and from above too where an exact draw of p(z|x) is known.

Neal (2001), https://arxiv.org/abs/physics/9803008; of decoders, Wu et al. (2017), https://arxiv.org/abs/1611.04273;
from both sides, Grosse et al. (2015), https://arxiv.org/abs/1511.02543. With :math:`\log f_b = (1-b) \log f_0 +
b \log f_1`, f_0 normalized and f_1(z) = p(x, z), chains go from a draw of f_0 by transitions that leave f_{b_t} alone:

.. math:: \log w = \sum_{t=1}^T (b_t - b_{t-1}) \log \frac{f_1(z_{t-1})}{f_0(z_{t-1})}, \quad E[w] = p(x)

so that the mean of log w is at most log p(x). The same in reverse order, from an exact draw of p(z|x), gives
E[1/w] = 1/p(x), and the mean of log w is at least log p(x).
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lowerbound.chunks import log_mean
from lowerbound.inference.hmc import Bridge, moved
from lowerbound.noise import KeyedNoise
from lowerbound.progress import Step, silent

PILOTS = 4  # chains that find the sizes of steps
BROAD = 64  # draws of f_0 that say how broad it is
TARGET = 0.65  # acceptance
STEP = (1e-4, 0.2, 0.5)  # the least, the first and the largest size of a step, in units of the breadth of f_0


@dataclass(frozen=True)
class Annealing:
    """How it is annealed.

    temperatures: T. chains: of each image. leapfrogs: steps of a transition. from_prior: f_0 is p(z), else q(z|x); of a
    flow the normal with its mean and variance.
    """

    temperatures: int = 100
    chains: int = 16
    leapfrogs: int = 10
    from_prior: bool = False

    def schedule(self) -> Tensor:
        r"""b_0 = 0 to b_T = 1: :math:`\sigma(4 (2t/T - 1))`, moved and stretched (Wu et al. 2017)."""
        b = torch.sigmoid(4 * torch.linspace(-1, 1, self.temperatures + 1, dtype=torch.float64))
        return (b - b[0]) / (b[-1] - b[0])


class Annealed(NamedTuple):
    """What the chains of each image say of it, [B] each."""

    log_p: Tensor  # nats: a stochastic lower bound of log p(x), or, of chains in reverse, an upper one
    acceptance: Tensor  # the mean chance that a proposal was accepted; 1 where there was none
    size: Tensor  # effective number of chains, (Σ w)² / Σ w²: 1 to K


def forward(
    bridge: Bridge, z: Tensor, steps: Tensor, how: Annealing, noise: KeyedNoise, told: Step = silent
) -> Annealed:
    """From draws z [K, B, *latent] of f_0, by steps of `found_steps`."""
    return _annealed(bridge, z, how.schedule(), steps, how.leapfrogs, noise, told)


def backward(
    bridge: Bridge, z: Tensor, steps: Tensor, how: Annealing, noise: KeyedNoise, told: Step = silent
) -> Annealed:
    """In reverse order from z [K, B, *latent], of which each is an exact draw of p(z|x): the z that x was made with, as
    often as there are chains. The steps are those of the way there."""
    found = _annealed(bridge, z, how.schedule().flip(0), steps.flip(0), how.leapfrogs, noise, told)
    return found._replace(log_p=-found.log_p)  # its weights are 1 / w


def _annealed(
    bridge: Bridge, z: Tensor, b: Tensor, steps: Tensor, leapfrogs: int, noise: KeyedNoise, told: Step
) -> Annealed:
    at, chances = bridge.place(z), []
    log_w = torch.zeros_like(at.log_f[0], dtype=torch.float64)
    for t in range(1, len(b)):
        log_w = log_w + float(b[t] - b[t - 1]) * (at.log_f[1].double() - at.log_f[0].double())
        if t < len(b) - 1:
            noise.chunk(len(z))
            at, chance = moved(bridge, at, float(b[t]), steps[t - 1], leapfrogs)
            chances.append(chance.mean(0))
        told()
    acceptance = torch.stack(chances).mean(0) if chances else torch.ones_like(log_w[0])
    return Annealed(log_mean(log_w, True), acceptance, _effective(log_w))


def _effective(log_w: Tensor) -> Tensor:
    """(Σ w)² / Σ w² of weights [K, B]: [B]."""
    return (2 * torch.logsumexp(log_w, 0) - torch.logsumexp(2 * log_w, 0)).exp()


def found_steps(bridge: Bridge, z: Tensor, how: Annealing, noise: KeyedNoise, told: Step = silent) -> Tensor:
    """The sizes of steps at every temperature between the ends, by a run of a few chains: [T - 1, B, *latent].

    z: [n, B, *latent], draws of f_0, whose standard deviation is the unit of each dimension. A step grows by 2 % where
    the mean acceptance of an image's chains (smoothed over temperatures by 0.9) is above 0.65, and shrinks by 2 % below
    it (Wu et al. 2017). The chains that count have noise of their own and take these steps as given: if they chose
    their steps by what they met, E[w] would not be p(x).
    """
    least, first, largest = STEP
    wide = (-1, *[1] * (z.dim() - 2))
    breadth, at = z.std(0), bridge.place(z[:PILOTS])
    size = torch.full_like(at.log_f[0, 0], first)  # [B]
    smoothed, found = torch.full_like(size, TARGET), [breadth[None][:0]]
    for b in how.schedule()[1:-1].tolist():
        step = size.view(wide) * breadth
        noise.chunk(len(at.z))
        at, chance = moved(bridge, at, b, step, how.leapfrogs)
        smoothed = 0.9 * smoothed + 0.1 * chance.mean(0)
        found.append(step[None])
        size = torch.where(smoothed > TARGET, 1.02 * size, 0.98 * size).clamp(least, largest)
        told()
    return torch.cat(found)

"""Hamiltonian Monte Carlo on the way from one density of z to another."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from lowerbound.noise import rand, randn_like

LogDensity = Callable[[Tensor], Tensor]  # z [K, B, *latent] -> log f(z) up to a constant, [K, B]


class Place(NamedTuple):
    """Where K chains of each of B images are, and what the two ends of a bridge say there."""

    z: Tensor  # [K, B, *latent]
    log_f: Tensor  # [2, K, B]
    slope: Tensor  # [2, K, B, *latent], the gradients of both with respect to z

    def log(self, b: float) -> Tensor:
        """log f_b(z): [K, B]."""
        return (1 - b) * self.log_f[0] + b * self.log_f[1]

    def force(self, b: float) -> Tensor:
        """Its gradient: [K, B, *latent]."""
        return (1 - b) * self.slope[0] + b * self.slope[1]

    def or_at(self, other: "Place", moved: Tensor) -> "Place":
        """The other place where `moved` [K, B] is true."""
        wide = moved.reshape(*moved.shape, *[1] * (self.z.dim() - moved.dim()))
        return Place(
            torch.where(wide, other.z, self.z),
            torch.where(moved, other.log_f, self.log_f),
            torch.where(wide, other.slope, self.slope),
        )


class Bridge(NamedTuple):
    r"""Densities between two, which need not be normalized: :math:`\log f_b = (1 - b) \log f_0 + b \log f_1`."""

    start: LogDensity
    end: LogDensity

    def place(self, z: Tensor) -> Place:
        (log_0, slope_0), (log_1, slope_1) = _with_slope(self.start, z), _with_slope(self.end, z)
        return Place(z, torch.stack([log_0, log_1]), torch.stack([slope_0, slope_1]))


def _with_slope(log_f: LogDensity, z: Tensor) -> tuple[Tensor, Tensor]:
    """log f(z) [K, B], and its gradient."""
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        value = log_f(z)
        (slope,) = torch.autograd.grad(value.sum(), z)
    return value.detach(), slope


def leapfrog(bridge: Bridge, at: Place, p: Tensor, b: float, step: Tensor, steps: int) -> tuple[Place, Tensor]:
    """So many steps of Hamilton's equations for the energy -log f_b(z) + |p|²/2 (Neal 2011,
    https://arxiv.org/abs/1206.1901): where they lead, and the momentum p [K, B, *latent] there. step: broadcast to z.
    """
    p = p + step / 2 * at.force(b)
    for i in range(steps):
        at = bridge.place(at.z + step * p)
        p = p + (step if i < steps - 1 else step / 2) * at.force(b)
    return at, p


def moved(bridge: Bridge, at: Place, b: float, step: Tensor, steps: int) -> tuple[Place, Tensor]:
    """A transition that leaves f_b as it is, and each chain's chance [K, B] that the proposal was accepted.

    The step is multiplied by a number of each chain's own in [0.2, 1): trajectories of one length may all come back to
    where they began. One that runs off to infinity is rejected.
    """
    p = randn_like(at.z)
    stretch = 0.2 + 0.8 * rand(at.z.shape[:2], dtype=at.z.dtype, device=at.z.device)
    step = step * stretch.reshape(*stretch.shape, *[1] * (at.z.dim() - 2))
    to, turned = leapfrog(bridge, at, p, b, step, steps)
    log_ratio = to.log(b) - _energy(turned) - at.log(b) + _energy(p)
    chance = log_ratio.clamp(max=0).exp().nan_to_num(0.0)
    u = rand(chance.shape, dtype=chance.dtype, device=chance.device)
    return at.or_at(to, u < chance), chance


def _energy(p: Tensor) -> Tensor:
    """|p|²/2: [K, B]."""
    return p.square().flatten(2).sum(-1) / 2

"""Paths between codes."""

import math

import torch
from torch import Tensor

from lowerbound.errors import ModelError

# ---- interpolations


def slerp(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    r"""Along the great circle from a to b, [D] each, at t [S] in [0, 1]: [S, D].

    .. math:: \frac{\sin((1 - t) \omega)}{\sin \omega} a + \frac{\sin(t \omega)}{\sin \omega} b,
        \quad \cos \omega = \frac{a \cdot b}{|a| |b|}

    Shoemake (1985), Animating rotation with quaternion curves, https://doi.org/10.1145/325334.325242; for latents
    White (2016), Sampling generative networks, https://arxiv.org/abs/1609.04468. Where a and b have the same norm,
    all have it. Straight where they are parallel, or one is 0. Raises ModelError for opposite ones.
    """
    a, b, t = a.double(), b.double(), t.double()[:, None]
    norms = a.norm() * b.norm()
    if norms == 0:
        return lerp(a, b, t[:, 0])
    u, v = a / a.norm(), b / b.norm()
    omega = 2 * torch.atan2((u - v).norm(), (u + v).norm())  # Kahan's: exact for small angles too
    if float(omega) > math.pi - 1e-6:
        raise ModelError("the codes of two images are opposite, and no great circle is the shortest; use --straight")
    if float(omega) < 1e-6:
        return lerp(a, b, t[:, 0])
    return (torch.sin((1 - t) * omega) * a + torch.sin(t * omega) * b) / torch.sin(omega)


def lerp(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """The straight line from a to b, [D] each, at t [S]: [S, D]. Exact at both ends."""
    t = t.double()[:, None]
    return (1 - t) * a.double() + t * b.double()

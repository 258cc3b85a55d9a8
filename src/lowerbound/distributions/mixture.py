"""Mixtures of normals, drawing by `lowerbound.noise`."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Independent, MixtureSameFamily

from lowerbound import noise
from lowerbound.distributions.normal import Choice, Normal
from lowerbound.distributions.pixels import _pick

SMALLEST = 1e-30  # of a conditional density, which is divided by


class NormalMixture(MixtureSameFamily):
    r"""A mixture of independent normals, :math:`\sum_k \pi_k N(z; \mu_k, \sigma_k^2)`: one component for the event.

    logits [*batch, C]; loc and scale [*batch, C, *event]. The mean and the variance are the mixture's; the mode is the
    component's mean where the mixture is densest, which is nearly its highest point where components lie apart.

    `rsample` draws from the mixture with implicit gradients (Graves 2016, https://arxiv.org/abs/1607.05690; Figurnov et
    al. 2018, https://arxiv.org/abs/1805.08498), which reach the means, scales and logits of all components in every
    draw. Uniform noise is the conditional distribution functions of the draw, and stays as it is while they change:

    .. math:: F_d(z_{1..d}; \phi) = \sum_k r_{dk}\, \Phi\left(\frac{z_d - \mu_{kd}}{\sigma_{kd}}\right), \quad
        r_{dk} \propto \pi_k \prod_{e < d} N(z_e; \mu_{ke}, \sigma_{ke}^2), \qquad
        \frac{dz}{d\phi} = -\left(\frac{\partial F}{\partial z}\right)^{-1} \frac{\partial F}{\partial \phi}

    This is computed in float64, in time and memory that grow with the square of the event's size.

    Example:
        >>> d = NormalMixture(torch.zeros(5, 3), torch.zeros(5, 3, 2), torch.ones(5, 3, 2))
        >>> d.sample((7,)).shape, d.log_prob(torch.zeros(5, 2)).shape
        (torch.Size([7, 5, 2]), torch.Size([5]))
    """

    has_rsample = True

    def __init__(self, logits: Tensor, loc: Tensor, scale: Tensor):
        self.logits, self.loc, self.scale = logits, loc, scale
        components = Independent(Normal(loc, scale, validate_args=False), loc.dim() - logits.dim(), validate_args=False)
        super().__init__(Choice(logits=logits, validate_args=False), components, validate_args=False)

    @property
    def axis(self) -> int:
        """That of the components in what has an event after it."""
        return -len(self.event_shape) - 1

    @property
    def log_weights(self) -> Tensor:
        """log π: [*batch, C]."""
        return torch.log_softmax(self.logits, -1)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        z = self.sample(sample_shape)
        if not (torch.is_grad_enabled() and any(t.requires_grad for t in (self.logits, self.loc, self.scale))):
            return z
        return z + _implicit(self, z).to(z.dtype)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with torch.no_grad():
            shape = torch.Size(sample_shape) + self.batch_shape
            axes = noise.behind(sample_shape)
            chosen = _pick(self.logits, shape, -1, axes)  # [..., 1]
            loc, scale = (self._of(chosen, t.expand(*shape, *t.shape[self.axis :])) for t in (self.loc, self.scale))
            return loc + scale * noise.randn(loc.shape, dtype=loc.dtype, device=loc.device, axes=axes)

    def _of(self, chosen: Tensor, values: Tensor) -> Tensor:
        """Those of a component [..., 1] of values [..., C, *event]: [..., *event]."""
        index = chosen.reshape(*chosen.shape, *(1 for _ in self.event_shape))
        return torch.take_along_dim(values, index, self.axis).squeeze(self.axis)

    @property
    def mode(self) -> Tensor:
        densest = self.log_prob(self.loc.movedim(self.axis, 0)).argmax(0)  # [*batch]
        return self._of(densest.unsqueeze(-1), self.loc)

    def each(self, sample_shape: Any = ()) -> Tensor:
        """A draw of every component, with its gradient: [*sample, *batch, C, *event]."""
        return self.component_distribution.rsample(torch.Size(sample_shape))


def _implicit(q: NormalMixture, z: Tensor) -> Tensor:
    """Zeros like z [..., *event] with the gradient of z."""
    flat = z.flatten(-len(q.event_shape)).double().unsqueeze(-2)  # [..., 1, D]
    loc, scale = (t.flatten(-len(q.event_shape)).double() for t in (q.loc, q.scale))  # [*batch, C, D]
    s = (flat - loc) / scale  # [..., C, D]
    log_p = -0.5 * s.square() - scale.log()
    before = torch.cumsum(log_p, -1) - log_p  # of the elements before d
    r = torch.softmax(q.log_weights.double().unsqueeze(-1) + before, -2)  # [..., C, D]
    cdf = torch.special.ndtr(s)
    F = (r * cdf).sum(-2)  # [..., D]
    with torch.no_grad():
        density = (r * torch.exp(log_p - 0.5 * math.log(2 * math.pi))).sum(-2).clamp(min=SMALLEST)
        slope = -s / scale  # of log N(z_e), [..., C, D]
        J = torch.einsum("...cd,...ce->...de", r * (cdf - F.unsqueeze(-2)), slope).tril(-1) + torch.diag_embed(density)
    step = -torch.linalg.solve_triangular(J, F.unsqueeze(-1), upper=False).squeeze(-1)
    return (step - step.detach()).view(z.shape)

"""Normals that flows bend, given what the network says: posteriors of vectors of any form."""

from typing import Any

from pydantic import Field
from torch import Tensor, nn
from torch.distributions import Distribution

from lowerbound.distributions import Bent
from lowerbound.errors import ConfigError
from lowerbound.families.base import LOG_SCALE, Family, length, normal_over
from lowerbound.networks.mlp import Widths
from lowerbound.space import Density, Shape, Space
from lowerbound.transforms import Chain, Contextual, GatedAutoregression, half
from lowerbound.transforms import SplineCoupling as Coupling


class _Flow(Family, abstract=True):
    """h: (2D + context,): means and log-scales of the base, and what every step of the flow is given."""

    closed = False  # pyright: ignore[reportAssignmentType]
    context: int = Field(default=64, gt=0)  # numbers that the network says to every step
    hidden: Widths = (200,)  # widths of each step's network

    @classmethod
    def example(cls) -> Family:
        return cls(context=2, hidden=(4,))

    def density(self, space: Space) -> Density:
        if length(self, space) < 2:
            raise ConfigError(f"{self.type_name()} is over at least 2 numbers; use families.GaussianMixture for one")
        return Density.EXACT

    def param_shape(self, space: Space) -> Shape:
        self.density(space)
        return (2 * space.shape[0] + self.context,)

    def _split(self, h: Tensor, space: Space) -> tuple[Tensor, Tensor, Tensor]:
        """Means, scales and context."""
        D = space.shape[0]
        mean, log_scale, context = h.split([D, D, self.context], -1)
        return mean, log_scale.clamp(*LOG_SCALE).exp(), context


class IAF(_Flow):
    r"""Inverse autoregressive flow (Kingma et al. 2016, https://arxiv.org/abs/1606.04934).

    .. math:: u_0 \sim N(\mu, \sigma^2), \qquad
        u_t = \sigma(s_t) u_{t-1} + (1 - \sigma(s_t)) m_t, \qquad (s_t, m_t)_d = f_t(u_{t-1, <d}, c)

    The network gives μ, σ and the context c; each f_t is a MADE that the Head owns, with the order of the one before
    reversed. It begins as the plain DiagonalNormal (`transforms.GatedAutoregression`). Drawing, with the density of the
    draws, takes one pass through each step; the density of other values D passes, which `dreg` needs.
    Its mean and mode: see `distributions.Bent`.

    Example:
        >>> import torch
        >>> from lowerbound.families import Head
        >>> q = Head(IAF(), Space((2,)))(torch.zeros(5, 68))
        >>> q.log_prob(q.rsample((7,))).shape
        torch.Size([7, 5])
    """

    steps: int = Field(default=4, gt=0)  # of the flow, one after another

    def network(self, space: Space) -> nn.Module:
        D = space.shape[0]
        return Chain([GatedAutoregression(D, self.context, self.hidden, reverse=t % 2 == 1) for t in range(self.steps)])

    def __call__(self, h: Tensor, space: Space, learned: Any = None) -> Distribution:
        mean, scale, context = self._split(h, space)
        return Bent(normal_over(mean, scale, space), Contextual(learned, context))  # pyright: ignore


class SplineCoupling(_Flow):
    r"""Rational-quadratic neural spline couplings (Durkan et al. 2019, https://arxiv.org/abs/1906.04032).

    .. math:: z = \mu + \sigma f(\epsilon; c), \qquad \epsilon \sim N(0, I)

    The network gives μ, σ and the context c; f is made of couplings that the Head owns, of which each moves half of the
    noise by splines of so many bins in [-tail, tail], given the other half and c (`transforms.SplineCoupling`). It
    begins as the plain DiagonalNormal; a draw costs as much as the density of any value.
    Its mean and mode: see `distributions.Bent`.

    Example:
        >>> import torch
        >>> from lowerbound.families import Head
        >>> q = Head(SplineCoupling(), Space((2,)))(torch.zeros(5, 68))
        >>> q.log_prob(torch.zeros(5, 2)).shape
        torch.Size([5])
    """

    steps: int = Field(default=4, gt=1)  # couplings, which move one half and the other in turn
    bins: int = Field(default=8, gt=1, le=100)  # of each spline
    # the splines bend [-tail, tail], and nothing outside
    tail: float = Field(default=3.0, gt=0, allow_inf_nan=False)

    def network(self, space: Space) -> nn.Module:
        D = space.shape[0]
        return Chain([Coupling(half(D, t), self.context, self.hidden, self.bins, self.tail) for t in range(self.steps)])

    def __call__(self, h: Tensor, space: Space, learned: Any = None) -> Distribution:
        mean, scale, context = self._split(h, space)
        return Bent(normal_over(mean, scale, space), Contextual(learned, context, mean, scale))  # pyright: ignore

"""A normalizing flow of affine couplings: an exact density of vectors."""

from collections.abc import Iterable
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.distributions import Distribution, Independent

from lowerbound.devices import widened
from lowerbound.distributions import Normal, normal_moments
from lowerbound.errors import ConfigError
from lowerbound.model import Draw, Drawn, ExactModel, Model, Told
from lowerbound.networks.context import Context
from lowerbound.networks.mlp import MLP
from lowerbound.space import Space, Y
from lowerbound.stages import Stage, Turn
from lowerbound.transforms import half


class Flow(ExactModel):
    r"""Affine coupling layers over vectors, perhaps given a condition (Dinh et al. 2017, Real NVP, https://arxiv.org/abs/1605.08803).

    .. math::
        \log p(z) = \log N(f(z); 0, I) + \log |\det \partial f / \partial z|, \quad f = f_n \circ \dots f_1 \circ a

    a: z -> L^{-1} (z - m), fixed to the data's mean and covariance by `whiten`: a new flow is the fitted normal, which
    couplings bend. A coupling leaves one half of the vector as it is, and from it moves the other (section 3.2 there,
    in the direction data -> noise):

    .. math:: v_1 = u_1, \quad v_2 = (u_2 - t(u_1)) \exp(-s(u_1))

    The halves change roles from layer to layer, and elements their halves every second one. s is kept in
    (-bound, bound) by a hyperbolic tangent; every layer begins as the identity.

    Example:
        >>> flow = Flow.Config().build(Space((5,)))
        >>> z = flow.sample(3)
        >>> u, log_det = flow.to_noise(z)
        >>> torch.allclose(flow.from_noise(u), z, atol=1e-5), flow.log_density(z).shape
        (True, torch.Size([3]))
    """

    class Config(Model.Config):
        offered_as: ClassVar[str | None] = "flow"
        layers: int = Field(default=8, gt=0)  # couplings, which move one half and the other in turn
        hidden: tuple[int, ...] = (128, 128)  # widths of each coupling's network
        bound: float = Field(default=2.0, gt=0)  # of the log-scale of one layer
        context: int = Field(default=32, gt=0)  # width of the condition's embedding, where there is a condition

        def build(self, space: Space, given: tuple[Space, ...] = ()) -> "Flow":
            return Flow(self, space, given)

        @classmethod
        def example(cls) -> tuple["Flow.Config", Space, tuple[Space, ...]]:
            return cls(layers=2, hidden=(4,)), Space((2,)), ()

    mean: Tensor
    cholesky: Tensor

    def __init__(self, config: Config, space: Space, given: tuple[Space, ...] = ()):
        super().__init__(config, space, given)
        if space.levels is not None or len(space.shape) != 1 or space.shape[0] < 2:
            raise ConfigError(
                f"{config.type_name()} is over vectors of at least 2 real numbers, got events of shape "
                f"{list(space.shape)}; use priors.Gaussian"
            )
        D = space.shape[0]
        self.register_buffer("mean", torch.zeros(D))
        self.register_buffer("cholesky", torch.eye(D))  # L
        self.condition = Context(given, config.context)
        width = self.condition.width
        self.couplings = nn.ModuleList(Coupling(config, half(D, layer), width) for layer in range(config.layers))

    def stages(self) -> tuple[Stage, ...]:
        return (Stage("model", (Turn((self,), self._loss),), begin=self.begin),)

    def begin(self, events: Iterable[Tensor]) -> None:
        """Begin at the normal of all events [B, D] of the batches, read once."""
        self.whiten(*normal_moments(events))

    @torch.no_grad()
    def whiten(self, mean: Tensor, covariance: Tensor) -> None:
        """Set the first, fixed layer: m [D] and L Lᵀ [D, D]."""
        self.mean.copy_(mean)
        self.cholesky.copy_(torch.linalg.cholesky(covariance.double()))

    @property
    def base(self) -> Distribution:
        zero = torch.zeros_like(widened(self.mean))
        return Independent(Normal(zero, torch.ones_like(zero), validate_args=False), 1, validate_args=False)

    def to_noise(self, z: Tensor, y: Y = None) -> tuple[Tensor, Tensor]:
        """z [B, D] -> u = f(z; y) [B, D], and log |det df/dz| [B]."""
        c = self.condition(y)
        L = widened(self.cholesky)
        u = torch.linalg.solve_triangular(L, (z - widened(self.mean)).T, upper=False).T
        log_det = -L.diagonal().log().sum()
        for coupling in self.couplings:
            u, change = coupling(u, c)
            log_det = log_det + change
        return u, log_det

    def from_noise(self, u: Tensor, y: Y = None) -> Tensor:
        """The inverse of f: u [B, D] -> z [B, D]."""
        c = self.condition(y)
        for coupling in reversed(self.couplings):
            assert isinstance(coupling, Coupling)
            u = coupling.inverse(u, c)
        return widened(self.mean) + u @ widened(self.cholesky).T

    def _log_prob(self, x: Tensor, y: Y = None) -> Tensor:
        u, log_det = self.to_noise(x, y)
        return self.base.log_prob(u) + log_det

    def _draw(self, n: int, y: Y, how: Draw, told: Told) -> Drawn:
        return Drawn(self.from_noise(how.at().temperature * self.base.sample((n,)), y))


class Coupling(nn.Module):
    """One affine coupling layer; `kept` [D] is true for the elements that it leaves as they are."""

    first: Tensor
    second: Tensor

    def __init__(self, config: Flow.Config, kept: Tensor, context: int):
        super().__init__()
        self.bound = config.bound
        self.register_buffer("first", kept.nonzero().flatten(), persistent=False)
        self.register_buffer("second", (~kept).nonzero().flatten(), persistent=False)
        moved = len(self.second)
        network = MLP.Config(hidden=config.hidden, activation="silu")
        self.network = network.build((len(self.first),), (2, moved), context)
        last = self.network.linear[-1]
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def _parameters_of(self, u: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor]:
        """s and t, [B, D - kept] each."""
        kept = u.index_select(-1, self.first)
        s, t = widened(self.network(kept.to(self.network.linear[-1].weight.dtype), c)).unbind(-2)
        return self.bound * torch.tanh(s / self.bound), t

    def forward(self, u: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        s, t = self._parameters_of(u, c)
        moved = (u.index_select(-1, self.second) - t) * torch.exp(-s)
        return u.index_copy(-1, self.second, moved), -s.sum(-1)

    def inverse(self, v: Tensor, c: Tensor | None = None) -> Tensor:
        s, t = self._parameters_of(v, c)
        return v.index_copy(-1, self.second, v.index_select(-1, self.second) * torch.exp(s) + t)

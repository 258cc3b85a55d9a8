"""One normal."""

from collections.abc import Iterable
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent

from lowerbound.devices import widened
from lowerbound.distributions import MultivariateNormal, Normal, normal_moments
from lowerbound.model import Model
from lowerbound.priors.base import Begins, Prior, check_real, length
from lowerbound.space import Space, Y
from lowerbound.stages import Stage, Turn, of_events


class StandardNormal(Prior):
    """N(0, I), the VAE's prior (Kingma & Welling 2014)."""

    class Config(Model.Config):
        one_for_all: ClassVar[bool] = True

        def build(self, space: Space, given: tuple[Space, ...] = ()) -> "StandardNormal":
            return StandardNormal(self, space, given)

        @classmethod
        def example(cls) -> tuple["StandardNormal.Config", Space, tuple[Space, ...]]:
            return cls(), Space((2,)), ()

    zero: Tensor

    def __init__(self, config: Config, space: Space, given: tuple[Space, ...] = ()):
        super().__init__(config, space, given)
        check_real(config, space)
        self.register_buffer("zero", torch.zeros(space.shape), persistent=False)

    def distribution(self, y: Y = None) -> Distribution:
        zero = widened(self.zero)
        normal = Normal(zero, torch.ones_like(zero), validate_args=False)
        return Independent(normal, zero.dim(), validate_args=False)


class Gaussian(Begins):
    r"""One normal with any mean and covariance, :math:`N(z; \mu, L L^T)`: its KL to a normal posterior is closed.

    L's diagonal is the exponential of what is learned. Events: vectors.
    """

    class Config(Model.Config):
        offered_as: ClassVar[str | None] = "gaussian"
        one_for_all: ClassVar[bool] = True

        def build(self, space: Space, given: tuple[Space, ...] = ()) -> "Gaussian":
            return Gaussian(self, space, given)

        @classmethod
        def example(cls) -> tuple["Gaussian.Config", Space, tuple[Space, ...]]:
            return cls(), Space((2,)), ()

    def __init__(self, config: Config, space: Space, given: tuple[Space, ...] = ()):
        super().__init__(config, space, given)
        self.mean = nn.Parameter(torch.zeros(length(config, space)))
        self.cholesky = Cholesky(space.shape[0])

    def distribution(self, y: Y = None) -> Distribution:
        return MultivariateNormal(widened(self.mean), scale_tril=self.cholesky(), validate_args=False)

    def stages(self) -> tuple[Stage, ...]:
        return (Stage("model", (Turn((self,), self._loss),), fit=of_events(self.fit)),)

    # --8<-- [start:fit]
    def fit(self, events: Iterable[Tensor]) -> None:
        """Set μ and the covariance to those of all events [B, D] of the batches, read once."""
        self.put(*normal_moments(events))
        # --8<-- [end:fit]

    @torch.no_grad()
    def put(self, mean: Tensor, covariance: Tensor) -> None:
        """Set μ [D] and the covariance [D, D]."""
        self.mean.copy_(mean)
        self.cholesky.put(covariance)


class Cholesky(nn.Module):
    """Learned lower triangular matrices with a positive diagonal: [*batch, D, D], at first the identity."""

    rows: Tensor
    columns: Tensor

    def __init__(self, D: int, *batch: int):
        super().__init__()
        self.log_diagonal = nn.Parameter(torch.zeros(*batch, D))
        self.below = nn.Parameter(torch.zeros(*batch, D * (D - 1) // 2))
        rows, columns = torch.tril_indices(D, D, -1)
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("columns", columns, persistent=False)

    def forward(self) -> Tensor:
        L = torch.diag_embed(widened(self.log_diagonal).exp())
        return L.index_put((*self._batch(), self.rows, self.columns), widened(self.below))

    def _batch(self) -> tuple[Tensor, ...]:
        return tuple(torch.arange(n, device=self.rows.device)[:, None] for n in self.below.shape[:-1])

    @torch.no_grad()
    def put(self, covariance: Tensor) -> None:
        """Set it to the Cholesky factor of covariances [*batch, D, D]."""
        L = torch.linalg.cholesky(covariance.double())
        self.log_diagonal.copy_(L.diagonal(dim1=-2, dim2=-1).log())
        self.below.copy_(L[..., self.rows, self.columns])

"""torch's normals, and the choice of a mixture's component, drawing by `lowerbound.noise`.

Whatever holds of torch's distribution holds of these, KLs included; they draw the same numbers, but from the thread's
own generator inside `seeded`. A `sample` is an `rsample` without its gradient.
"""

from typing import Any

import torch
from torch import Tensor
from torch import distributions as td

from lowerbound import noise


class Normal(td.Normal):
    """N(loc, scale²) of each element.

    Example:
        >>> Normal(torch.zeros(5), 1.0).sample((3,)).shape
        torch.Size([3, 5])
    """

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        return (
            self.loc
            + noise.randn(shape, dtype=self.loc.dtype, device=self.loc.device, axes=noise.behind(sample_shape))
            * self.scale
        )

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with torch.no_grad():
            return self.rsample(sample_shape)


class MultivariateNormal(td.MultivariateNormal):
    """N(loc, L Lᵀ) of each vector.

    Example:
        >>> MultivariateNormal(torch.zeros(5, 2), scale_tril=torch.eye(2)).rsample((3,)).shape
        torch.Size([3, 5, 2])
    """

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        u = noise.randn(shape, dtype=self.loc.dtype, device=self.loc.device, axes=noise.behind(sample_shape))
        return self.loc + (self._unbroadcasted_scale_tril @ u.unsqueeze(-1)).squeeze(-1)


class LowRankNormal(td.LowRankMultivariateNormal):
    """N(loc, W Wᵀ + diag(d)) of each vector, for W [..., D, R] and d [..., D].

    Example:
        >>> LowRankNormal(torch.zeros(5, 2), torch.ones(5, 2, 1), torch.ones(5, 2)).rsample((3,)).shape
        torch.Size([3, 5, 2])
    """

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        W, d = self._unbroadcasted_cov_factor, self._unbroadcasted_cov_diag
        axes = noise.behind(sample_shape)
        sizes = (W.shape[-1], shape[-1])
        u, v = (noise.randn((*shape[:-1], n), dtype=d.dtype, device=d.device, axes=axes) for n in sizes)
        return self.loc + (W @ u.unsqueeze(-1)).squeeze(-1) + d.sqrt() * v

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with torch.no_grad():
            return self.rsample(sample_shape)


class Choice(td.Categorical):
    """One of K with probabilities of their own, as a mixture chooses its component: int64.

    Example:
        >>> Choice(logits=torch.zeros(4)).sample((3,)).shape
        torch.Size([3])
    """

    def sample(self, sample_shape: Any = ()) -> Tensor:
        shape = torch.Size(sample_shape)
        chosen = noise.multinomial(self.probs.reshape(-1, self.probs.shape[-1]), shape.numel())
        return chosen.T.reshape(self._extended_shape(shape))

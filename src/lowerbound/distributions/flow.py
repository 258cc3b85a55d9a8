"""A normal that a bijection has bent."""

from functools import cache
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution, Independent

POINTS = 64  # of a mean


class Map(Protocol):
    """A bijection of vectors [..., D], with log |det dz/du| [...] of the way forth."""

    def forward(self, u: Tensor) -> tuple[Tensor, Tensor]: ...

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]: ...

    def detached(self) -> "Map": ...


class Bent(Distribution):
    r"""The distribution of z = f(u) for vectors u of independent normals, :math:`q(z) = N(u) / |\det dz/du|`.

    A draw's log-density is known from how it was drawn, without an inverse; its gradient is then that of
    log q(z(u)) with respect to the parameters. For other values f is inverted.

    There is no closed mean. `mean` and `variance` are those of the images of 64 fixed points of the base, mirrored
    about its mean: right where f is affine, near where it is nearly so, and the same in every call. `mode` is the image
    of the base's mode, which need not be where the density is highest.
    """

    has_rsample = True
    arg_constraints: ClassVar[dict[str, Any]] = {}  # pyright: ignore[reportIncompatibleMethodOverride]

    def __init__(self, base: Independent, transform: Map):
        self.base, self.transform = base, transform
        self._drawn: tuple[Tensor, Tensor] | None = None
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        u = self.base.rsample(torch.Size(sample_shape))
        z, log_det = self.transform.forward(u)
        self._drawn = z, self.base.log_prob(u) - log_det
        return z

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with torch.no_grad():
            return self.rsample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._drawn is not None and _same(value, self._drawn[0]):
            return self._drawn[1]
        u, log_det = self.transform.inverse(value)
        return self.base.log_prob(u) - log_det

    @property
    def mode(self) -> Tensor:
        return self.transform.forward(self.base.mean)[0]

    @property
    def mean(self) -> Tensor:
        return self._images().mean(0)

    @property
    def variance(self) -> Tensor:
        return self._images().var(0, correction=0)

    def _images(self) -> Tensor:
        """[POINTS, *batch, D]."""
        mean, scale = self.base.mean, self.base.stddev
        D = mean.shape[-1]
        points = torch.from_numpy(_points(D)).to(mean).view(POINTS, *(1 for _ in mean.shape[:-1]), D)
        return self.transform.forward(mean + scale * points)[0]


def _same(value: Tensor, drawn: Tensor) -> bool:
    """Whether it is the draw, or a view of all of it, in the graph that it was drawn in."""
    if torch.is_grad_enabled() and not drawn.requires_grad:
        return False  # its log-density has no gradient, and may be asked for one
    root = drawn if drawn._base is None else drawn._base
    there = value is drawn or (value._base is root and value.storage_offset() == drawn.storage_offset())
    return there and value.shape == drawn.shape and value.stride() == drawn.stride()


@cache
def _points(D: int) -> np.ndarray:
    """Of mean 0 and variance 1 in every dimension: [POINTS, D]."""
    half = np.random.default_rng(0).standard_normal((POINTS // 2, D))
    half /= np.sqrt(np.square(half).mean(0))
    return np.concatenate([half, -half])

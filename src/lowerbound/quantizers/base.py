"""What every quantizer answers, and what they share."""

import math
from abc import abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lowerbound import noise
from lowerbound.config import Component
from lowerbound.errors import ModelError
from lowerbound.space import Space

_SMOOTHING = 1e-5  # what Laplace smoothing adds to every count, as in VQ-VAE's own code
_COUNT_DECAY = 0.99  # of the counts where the vectors are learned by gradient and only revival needs them
_UNSEEN = 0.1  # the count of a code that has had no vector yet: less than one, and not nothing
_SEEDINGS = 32  # rounds in which k-means chooses its seeds
_LLOYD = 10  # iterations of k-means
_EPSILON = 1e-3  # of FSQ: how far within the outermost levels its bound stays
_DISTANCES = 2**26  # distances held at once: 256 MB


class Quantized(NamedTuple):
    """A map of vectors after a quantizer."""

    z: Tensor  # [B, D, H, W]: the code vectors; their gradient goes straight through to what was quantized
    codes: Tensor  # int64 [B, *code shape]
    loss: Tensor  # [B]: what the quantizer adds to an image's loss, a mean over positions and the D elements


class Quantizer(nn.Module):
    """Maps of vectors [B, D, H, W] <-> codes [B, *code shape]. Subclasses are final, with a nested Config.

    All is computed in float32 (float64 where the codebook is), whatever the input's type and autocast say, and the
    codebook stays so when the module is moved to half precision; z has the input's type, decode() the codebook's.
    """

    dim: int  # D

    class Config(Component, abstract=True):
        @abstractmethod
        def build(self) -> "Quantizer": ...

        @classmethod
        @abstractmethod
        def example(cls) -> "Quantizer.Config":
            """The smallest valid instance."""

    @abstractmethod
    def space(self, size: tuple[int, int]) -> Space:
        """Where the codes of a map of H x W vectors live."""

    @abstractmethod
    def forward(self, h: Tensor) -> Quantized:
        """Quantize h [B, D, H, W]; in train mode gathers what after_step needs. Raises ModelError for another D."""

    @abstractmethod
    def encode(self, h: Tensor) -> Tensor:
        """The codes of h [B, D, H, W] alone, without gradient or statistics: int64 [B, *code shape]."""

    @abstractmethod
    def decode(self, codes: Tensor) -> Tensor:
        """The vectors of codes [B, *code shape]: [B, D, H, W]."""

    def after_step(self) -> None:
        """The codebook's move after an optimizer step. With several processes, each must call it."""

    def _check(self, h: Tensor) -> None:
        if h.ndim != 4 or h.shape[1] != self.dim:
            shape = list(h.shape)
            raise ModelError(f"{type(self).__name__}: expected vectors [B, {self.dim}, H, W], got {shape}")

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Quantizer":
        """As nn.Module's, but half precision is no type for a codebook: it stays as it is."""

        def kept(t: Tensor) -> Tensor:
            moved = fn(t)
            return t.to(moved.device) if t.is_floating_point() and moved.dtype.itemsize < 4 else moved

        return super()._apply(kept, recurse)


def _at_least_two(levels: tuple[int, ...]) -> tuple[int, ...]:
    if not levels or min(levels) < 2 or math.prod(levels) >= 2**31:
        raise ValueError(f"expected numbers of levels of at least 2, of less than 2^31 codes, got {list(levels)}")
    return levels


# ---- the arithmetic of codebooks


def nearest(x: Tensor, vectors: Tensor) -> Tensor:
    """Which of the vectors [K, D] is the nearest to each of x [N, D]: int64 [N]; the first of equals."""
    vectors = vectors.detach()
    squares = vectors.square().sum(1)
    whole = torch.compiler.is_compiling()  # a graph has no loop over as many parts as a batch has
    parts = (x,) if whole else x.split(max(1, _DISTANCES // len(vectors)))
    return torch.cat([torch.addmm(squares, part, vectors.T, alpha=-2).argmin(1) for part in parts])


def statistics(x: Tensor, k: Tensor, codes: int) -> tuple[Tensor, Tensor]:
    """How many of x [N, D] have each code, [K], and their sums, [K, D]."""
    count = x.new_zeros(codes).index_add_(0, k, x.new_ones(len(k)))
    return count, x.new_zeros(codes, x.shape[1]).index_add_(0, k, x)


def seeds(x: Tensor, vectors: Tensor, free: Tensor) -> Tensor:
    """The vectors [K, D] with those at `free` [K] put on some of x [N, D], far from all others.

    As k-means++ (Arthur & Vassilvitskii 2007), each with a chance in proportion to its squared distance from the
    nearest so far, but many in a round, without replacement: x is used up before one is taken twice.
    """
    vectors, places = vectors.clone(), free.nonzero().flatten()
    taken = vectors[~free]
    distance = x.new_full((len(x),), math.inf)
    for part in places.split(math.ceil(len(places) / _SEEDINGS)) if len(places) else ():
        if len(taken):
            distance = distance.minimum((x - taken[nearest(x, taken)]).square().sum(1))
        weight = torch.where(distance.isinf(), 1.0, distance)
        part = part[: len(x)]
        taken = x[(weight / noise.exponential_like(weight)).topk(len(part)).indices]
        vectors[part] = taken
    return vectors


def _smoothed(count: Tensor) -> Tensor:
    """Counts [K] after Laplace smoothing, with the same sum: none is zero."""
    n = count.sum()
    return (count + _SMOOTHING) / (n + len(count) * _SMOOTHING) * n


# ---- the straight-through gradient, and what goes with it


def _straight_through(x: Tensor, z: Tensor) -> Tensor:
    """Exactly z, with the gradient of x."""
    return z.detach() + (x - x.detach())


def _squared_error(a: Tensor, b: Tensor) -> Tensor:
    """[B]: the mean of (a - b)² over all but the first axis."""
    return (a - b).square().flatten(1).mean(1)


def _rows(x: Tensor) -> Tensor:
    """[B, D, H, W] -> [B * H * W, D]."""
    return x.movedim(1, -1).reshape(-1, x.shape[1])


def _look_up(codes: Tensor, vectors: Tensor) -> Tensor:
    """Codes [B, H, W] -> [B, D, H, W]."""
    return F.embedding(codes, vectors).movedim(-1, 1).contiguous()


def _no_autocast(h: Tensor) -> AbstractContextManager[Any]:
    kind = h.device.type
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()

"""Noise of each image, keyed by (seed, image index, draw)."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from lowerbound.noise.draws import drawing_from_torch, is_drawn


class KeyedNoise(TorchFunctionMode):
    """Inside, every image of a batch has noise of its own, keyed by (seed, image index, draw).

    Every tensor of noise must be [draws, B, ...] with B = len(index), or [1, draws x B, ...] where draws are events of
    their own, as of a prior; a stream per image and call gives the draws one after another, so that they do not depend
    on how they are cut into chunks. Call `chunk(draws)` before each. Normal and uniform numbers can be keyed so, and
    what is made of them; every other random function of torch raises RuntimeError, as does noise of another shape. What
    is given a generator is left alone, and so is a `seeded` inside.

    Example:
        >>> def normals(index, chunks):
        ...     with KeyedNoise(0, index) as noise:
        ...         return torch.cat([torch.randn(noise.chunk(k), len(index), 2) for k in chunks])
        >>> torch.equal(normals([3, 4], [5])[:, 1], normals([4], [2, 3])[:, 0])
        True
    """

    def __init__(self, seed: int, index: Sequence[int] | np.ndarray):
        super().__init__()
        self.seed = seed
        self.index = [int(i) for i in index]
        self.streams: list[list[np.random.Generator]] = []  # [call][image]
        self.draws = 0
        self.call = 0

    def __enter__(self) -> "KeyedNoise":
        self.outside = drawing_from_torch()
        self.outside.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.outside.__exit__(*error)

    def chunk(self, draws: int) -> int:
        """Begin the next chunk of this many draws; returns their number."""
        self.draws, self.call = draws, 0
        return draws

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if not is_drawn(func, args, kwargs):
            return func(*args, **kwargs)
        if func not in _KEYED:
            raise RuntimeError(
                f"{func.__name__} can't be keyed by image: inside KeyedNoise draw by rand, randn or bernoulli, "
                "or sample by rsample"
            )
        return _KEYED[func](self, *args, **kwargs)

    def fill(self, like: Tensor, kind: str) -> Tensor:
        """Standard normal or uniform noise in the shape, type and device of `like`."""
        shape, K, B = tuple(like.shape), self.draws, len(self.index)
        if shape[:2] not in ((K, B), (1, K * B)):
            raise RuntimeError(f"noise of shape {shape} is neither [draws={K}, B={B}, ...] nor [1, {K * B}, ...]")
        if self.call == len(self.streams):
            keys = [np.random.SeedSequence((self.seed, i, self.call)) for i in self.index]
            self.streams.append([np.random.Generator(np.random.SFC64(key)) for key in keys])
        dtype = np.float64 if like.dtype == torch.float64 else np.float32
        out = np.empty((B, K, *shape[2:]), dtype)
        for row, stream in zip(out, self.streams[self.call], strict=True):
            stream.standard_normal(dtype=dtype, out=row) if kind == "normal" else stream.random(dtype=dtype, out=row)
        self.call += 1
        return torch.from_numpy(out).transpose(0, 1).reshape(shape).to(like)


def image_bits(image: int, what: str) -> np.random.BitGenerator:
    """The bits of something fixed of an image, whatever the seed, apart from all noise of evaluations.

    (numpy fills keys up with zeros: without what they are for, those of image i would be those of (seed i, image 0,
    first call).)
    """
    return np.random.SFC64(np.random.SeedSequence((image, *what.encode())))


def _normal_(noise: KeyedNoise, out: Tensor, mean: float = 0.0, std: float = 1.0, *, generator: None = None) -> Tensor:
    return out.copy_(noise.fill(out, "normal").mul_(std).add_(mean))


def _uniform_(noise: KeyedNoise, out: Tensor, a: float = 0.0, b: float = 1.0, *, generator: None = None) -> Tensor:
    return out.copy_(noise.fill(out, "uniform").mul_(b - a).add_(a))


def _bernoulli(noise: KeyedNoise, x: Tensor, p: float | None = None, *, generator: None = None) -> Tensor:
    return (noise.fill(x, "uniform") < (x if p is None else p)).to(x.dtype)


def _normal(
    noise: KeyedNoise, mean: Any, std: Any = 1.0, size: Any = None, *, generator: None = None, **options: Any
) -> Tensor:
    tensors = [t for t in (mean, std) if isinstance(t, Tensor)]
    if size is not None:
        like = torch.empty(size, **options)
    else:
        like = tensors[0].new_empty(torch.broadcast_shapes(*(t.shape for t in tensors)))
    return noise.fill(like, "normal") * std + mean


def _randn(noise: KeyedNoise, *shape: Any, generator: None = None, **options: Any) -> Tensor:
    return noise.fill(torch.empty(*shape, **options), "normal")


def _rand(noise: KeyedNoise, *shape: Any, generator: None = None, **options: Any) -> Tensor:
    return noise.fill(torch.empty(*shape, **options), "uniform")


_KEYED: dict[Callable, Callable[..., Tensor]] = {
    Tensor.normal_: _normal_,
    Tensor.uniform_: _uniform_,
    Tensor.bernoulli: _bernoulli,
    torch.bernoulli: _bernoulli,
    torch.normal: _normal,
    torch.randn: _randn,
    torch.rand: _rand,
    torch.randn_like: lambda noise, like, **options: noise.fill(torch.empty_like(like, **options), "normal"),
    torch.rand_like: lambda noise, like, **options: noise.fill(torch.empty_like(like, **options), "uniform"),
}

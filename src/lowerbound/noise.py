"""Random numbers that are a function of what they are for, not of when they are drawn.

Training noise is keyed by the step, so that a resumed run repeats it. Evaluation noise is keyed by
(seed, image index, draw), so that batching, chunking, the device and the number of processes change nothing.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


def key(*parts: int | str) -> int:
    """A 63-bit number from anything; equal parts give equal keys, others independent ones.

    Example:
        >>> key(0, "train", 1) == key(0, "train", 1) != key(0, "train", 2)
        True
    """
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "little") >> 1


def reseed(number: int, device: torch.device) -> None:
    """torch's noise on the device, and on the processor, begins anew at this key.

    torch.manual_seed also tells every accelerator there could be, which takes longer than a small layer.
    """
    if device.type == "cpu":
        torch.default_generator.manual_seed(number)
    else:
        torch.manual_seed(number)


@contextmanager
def seeded(*parts: int | str, device: torch.device | None = None) -> Iterator[None]:
    """Inside, torch's noise is keyed by the parts; outside, the generators are left as they were."""
    devices = [device] if device is not None and device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(key(*parts))
        yield


class KeyedNoise(TorchFunctionMode):
    """Inside, every image of a batch has noise of its own, keyed by (seed, image index, draw).

    Every tensor of noise must be [draws, B, ...] with B = len(index), or [1, draws x B, ...] where draws are events of
    their own, as of a prior; a stream per image and call gives the draws one after another, so that they do not depend
    on how they are cut into chunks. Call `chunk(draws)` before each.

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

    def chunk(self, draws: int) -> int:
        """Begin the next chunk of this many draws; returns their number."""
        self.draws, self.call = draws, 0
        return draws

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        replaced = _REPLACED.get(func)
        return replaced(self, *args, **(kwargs or {})) if replaced else func(*args, **(kwargs or {}))

    def fill(self, like: Tensor, kind: str) -> Tensor:
        """Standard normal or uniform noise in the shape, type and device of `like`."""
        shape, K, B = tuple(like.shape), self.draws, len(self.index)
        if shape[:2] not in ((K, B), (1, K * B)):
            raise RuntimeError(f"noise of shape {shape} is neither [draws={K}, B={B}, ...] nor [1, {K * B}, ...]")
        if self.call == len(self.streams):
            self.streams.append([np.random.Generator(self._bits(i, self.call)) for i in self.index])
        dtype = np.float64 if like.dtype == torch.float64 else np.float32
        out = np.empty((B, K, *shape[2:]), dtype)
        for row, stream in zip(out, self.streams[self.call], strict=True):
            stream.standard_normal(dtype=dtype, out=row) if kind == "normal" else stream.random(dtype=dtype, out=row)
        self.call += 1
        return torch.from_numpy(out).transpose(0, 1).reshape(shape).to(like)

    def _bits(self, image: int, call: int) -> np.random.BitGenerator:
        return np.random.SFC64(np.random.SeedSequence((self.seed, image, call)))


def _normal_(noise: KeyedNoise, out: Tensor, mean: float = 0.0, std: float = 1.0, *, generator: None = None) -> Tensor:
    return out.copy_(noise.fill(out, "normal").mul_(std).add_(mean))


def _uniform_(noise: KeyedNoise, out: Tensor, a: float = 0.0, b: float = 1.0, *, generator: None = None) -> Tensor:
    return out.copy_(noise.fill(out, "uniform").mul_(b - a).add_(a))


def _bernoulli(noise: KeyedNoise, p: Tensor, *, generator: None = None) -> Tensor:
    return (noise.fill(p, "uniform") < p).to(p.dtype)


def _multinomial(*_: Any, **__: Any) -> Tensor:
    raise RuntimeError("torch.multinomial can't be keyed by image: draw a categorical by the Gumbel trick from rand")


_REPLACED: dict[Callable, Callable] = {
    Tensor.normal_: _normal_,
    Tensor.uniform_: _uniform_,
    torch.bernoulli: _bernoulli,
    torch.multinomial: _multinomial,
    torch.randn: lambda noise, *shape, **kw: noise.fill(torch.empty(*shape, **kw), "normal"),
    torch.rand: lambda noise, *shape, **kw: noise.fill(torch.empty(*shape, **kw), "uniform"),
    torch.randn_like: lambda noise, like, **kw: noise.fill(torch.empty_like(like, **kw), "normal"),
    torch.rand_like: lambda noise, like, **kw: noise.fill(torch.empty_like(like, **kw), "uniform"),
}

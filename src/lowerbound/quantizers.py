"""Codebooks: vectors -> codes -> vectors, with the straight-through gradient; how full a codebook is."""

import math
from abc import abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Annotated, Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from pydantic import AfterValidator, Field
from torch import Tensor, nn

from lowerbound.config import Component
from lowerbound.errors import ModelError
from lowerbound.models.base import Space
from lowerbound.units import bits_per_dim

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


# ---- codebooks


class VQ(Quantizer):
    r"""The nearest of K vectors, by Euclidean distance (van den Oord et al. 2017, https://arxiv.org/abs/1711.00937).

    .. math:: k = \arg\min_j ||h - e_j||, \quad z = e_k \qquad (1, 2)
    .. math:: L = ||sg[h] - e_k||^2 + \beta ||h - sg[e_k]||^2 \qquad (3)

    With a `decay` γ the codebook's term falls away, and vectors are moving averages of what they are chosen for
    (appendix A.1), n_i of a batch's vectors, their number smoothed as in the authors' code:

    .. math:: N_i := \gamma N_i + (1 - \gamma) n_i, \quad m_i := \gamma m_i + (1 - \gamma) \sum_j h_{ij}
    .. math:: e_i := m_i / N_i

    Only N and m are kept, so that averages of two such codebooks are one. They begin at N = 1 and m = e, random or by
    k-means on the first batches. h: [B, dim, H, W]; codes: [B, H, W].

    Example:
        >>> vq = VQ.Config(codes=16, dim=2).build().eval()
        >>> z, codes, loss = vq(torch.randn(3, 2, 4, 4))
        >>> z.shape, codes.shape, loss.shape, bool((vq.decode(codes) == z).all())
        (torch.Size([3, 2, 4, 4]), torch.Size([3, 4, 4]), torch.Size([3]), True)
    """

    class Config(Quantizer.Config):
        codes: int = Field(default=512, gt=0)  # K
        dim: int = Field(default=64, gt=0)  # D
        beta: float = Field(default=0.25, ge=0)  # of the commitment, which moves the encoder
        decay: float | None = Field(default=0.99, ge=0, lt=1)  # of the moving averages; None: learned by gradient
        # directions alone: vectors and codebook have length 1 (Yu et al. 2022, https://arxiv.org/abs/2110.04627)
        cosine: bool = False
        initial: int = Field(default=1, ge=0)  # first batches for k-means, more until K vectors are seen; 0: random
        # a code chosen less often than this share of an even use is put on a random vector of the batch; 0: never
        revive: float = Field(default=0.01, ge=0, lt=1)

        def build(self) -> "VQ":
            return VQ(self)

        @classmethod
        def example(cls) -> "VQ.Config":
            return cls(codes=5, dim=3)

    count: Tensor
    total: Tensor
    waiting: Tensor
    revived: Tensor

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.dim = config.dim
        self.learned = config.decay is None
        dtype = torch.promote_types(torch.get_default_dtype(), torch.float32)
        vectors = torch.randn(config.codes, config.dim, dtype=dtype) / math.sqrt(config.dim)
        count = torch.full((config.codes,), _UNSEEN if config.initial else 1.0, dtype=dtype)
        self.register_buffer("count", count)  # N [K]: how often each is chosen in a batch
        if self.learned:
            self.weight = nn.Parameter(vectors)
        else:
            self.register_buffer("total", count[:, None] * vectors)  # m [K, D]
        self.register_buffer("waiting", torch.tensor(config.initial))  # first batches that k-means has yet to see
        self.register_buffer("revived", torch.tensor(0))  # codes, so far
        self.register_load_state_dict_post_hook(_forget)
        self._forget()

    def _forget(self) -> None:
        """As if nothing had been gathered."""
        self._starting = self.config.initial > 0  # what `waiting > 0` last was
        # n [K] and the sums [K, D] of all passes since the last step; the vectors [N, D] of the latest
        self._statistics: tuple[Tensor, Tensor] | None = None
        self._latest: Tensor | None = None

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Quantizer":
        self._forget()
        return super()._apply(fn, recurse)

    @property
    def vectors(self) -> Tensor:
        """The codebook e, [K, D]."""
        return self._directions(self.weight if self.learned else self.total / _smoothed(self.count)[:, None])

    def _directions(self, x: Tensor, axis: int = -1) -> Tensor:
        return F.normalize(x, dim=axis) if self.config.cosine else x

    def space(self, size: tuple[int, int]) -> Space:
        return Space(size, levels=self.config.codes, ordered=False)

    def forward(self, h: Tensor) -> Quantized:
        self._check(h)
        with _no_autocast(h):
            vectors = self.vectors
            x = self._directions(h.to(vectors.dtype), 1)
            flat = _rows(x.detach())
            k = nearest(flat, vectors)
            codes = k.reshape(len(h), *h.shape[2:])
            e = _look_up(codes, vectors)
            loss = self.config.beta * _squared_error(x, e.detach())
            if self.learned:
                loss = loss + _squared_error(x.detach(), e)
            if self.training:
                self._gather(flat, k)
            return Quantized(_straight_through(x, e).to(h.dtype), codes, loss)

    @torch.no_grad()
    def encode(self, h: Tensor) -> Tensor:
        self._check(h)
        with _no_autocast(h):
            vectors = self.vectors
            flat = _rows(self._directions(h.to(vectors.dtype), 1))
            return nearest(flat, vectors).reshape(len(h), *h.shape[2:])

    def decode(self, codes: Tensor) -> Tensor:
        return _look_up(codes, self.vectors)

    # ---- how the codebook moves

    @torch.no_grad()
    def _gather(self, x: Tensor, k: Tensor) -> None:
        if not self.learned or self.config.revive:
            new, old = statistics(x, k, self.config.codes), self._statistics
            self._statistics = new if old is None else (old[0] + new[0], old[1] + new[1])
        if self._starting or self.config.revive:
            self._latest = x

    @torch.no_grad()
    def after_step(self) -> None:
        """Move towards what was gathered since the last call; nothing where there was no pass in train mode."""
        gathered, x = self._statistics, self._latest
        self._statistics = self._latest = None
        with _no_autocast(self.count):
            if x is not None and self._is_starting():
                self._start(x)
            elif gathered is not None:
                n, sums = _over_processes(*gathered)
                self._average(n, sums)
                if x is not None and self.config.revive:
                    self._revive(x, n.sum() / self.config.codes)

    def _is_starting(self) -> bool:
        """Whether k-means has batches to see; waits for the device until it once has not."""
        self._starting = self._starting and bool(self.waiting > 0)
        return self._starting

    def _average(self, n: Tensor, sums: Tensor) -> None:
        """One step of the moving averages."""
        rate = 1 - (_COUNT_DECAY if self.config.decay is None else self.config.decay)
        self.count.lerp_(n, rate)
        if not self.learned:
            self.total.lerp_(sums, rate)

    def _start(self, x: Tensor) -> None:
        """One batch's share of k-means: codes without a vector get one of the batch, then all move to their means.

        Vectors of earlier batches stay with the codes that they went to, as their mean and number.
        """
        vectors, before = self.vectors, torch.where(self.count < 1, 0.0, self.count)
        means = _of_process_0(seeds(x, vectors, before == 0))
        for _ in range(_LLOYD):
            n, sums = _over_processes(*statistics(x, nearest(x, means), len(means)))
            count = before + n
            sums += before[:, None] * vectors
            means = self._directions(torch.where(count[:, None] > 0, sums / count.clamp(min=1)[:, None], means))
        self.count.copy_(count.clamp(min=_UNSEEN))
        if self.learned:
            self.weight.copy_(means)
        else:
            self.total.copy_(means * self.count[:, None])
        self.waiting.copy_(torch.maximum(self.waiting - 1, (count.sum() < self.config.codes).long()))

    def _revive(self, x: Tensor, even: Tensor) -> None:
        """Codes whose count is below the share of an even one go to random vectors of x, with an even count."""
        chosen = _of_process_0(x[torch.randint(len(x), (self.config.codes,), device=x.device)])
        dead = self.count < self.config.revive * even
        if self.learned:
            self.weight.copy_(torch.where(dead[:, None], chosen, self.weight))
        else:
            self.total.copy_(torch.where(dead[:, None], even * chosen, self.total))
        self.count.copy_(torch.where(dead, even, self.count))
        self.revived += dead.sum()


def _forget(vq: VQ, _: Any) -> None:
    vq._forget()


def _with_lengths(config: VQ.Config) -> VQ.Config:
    if config.cosine:
        raise ValueError("expected cosine=false: vectors of length 1 don't add up to what is left")
    return config


class ResidualVQ(Quantizer):
    r"""A VQ for what the one before leaves over, `depth` times, each with a codebook of its own; z is their sum.

    .. math:: r_0 = h, \quad r_d = r_{d-1} - e(k_d), \quad z = \sum_d e(k_d)

    The loss is the sum of the depths', so that every partial sum is held to h. Reference: Lee et al. (2022), RQ-VAE,
    https://arxiv.org/abs/2203.01941, section 3.1, there with one codebook for all. h: [B, dim, H, W]; codes:
    [B, depth, H, W]. encode(decode(codes)) may give other codes: each is the nearest to what is left, not the best.

    Example:
        >>> rq = ResidualVQ.Config(quantizer=VQ.Config(codes=16, dim=2), depth=3).build()
        >>> rq.space((8, 8))
        Space(shape=(3, 8, 8), levels=16, ordered=False)
    """

    class Config(Quantizer.Config):
        quantizer: Annotated[VQ.Config, AfterValidator(_with_lengths)] = VQ.Config()
        depth: int = Field(default=4, gt=0)

        def build(self) -> "ResidualVQ":
            return ResidualVQ(self)

        @classmethod
        def example(cls) -> "ResidualVQ.Config":
            return cls(quantizer=VQ.Config.example(), depth=2)

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.dim = config.quantizer.dim
        self.depths = nn.ModuleList(config.quantizer.build() for _ in range(config.depth))

    @property
    def vqs(self) -> list[VQ]:
        return [vq for vq in self.depths if isinstance(vq, VQ)]

    def space(self, size: tuple[int, int]) -> Space:
        return Space((self.config.depth, *size), levels=self.config.quantizer.codes, ordered=False)

    def forward(self, h: Tensor) -> Quantized:
        self._check(h)
        x = h.to(self.vqs[0].count.dtype)
        residual, parts = x, []
        for vq in self.vqs:
            parts.append(vq(residual))
            residual = residual - parts[-1].z.detach()
        z = torch.stack([p.z.detach() for p in parts]).sum(0)
        codes = torch.stack([p.codes for p in parts], 1)
        return Quantized(_straight_through(x, z).to(h.dtype), codes, torch.stack([p.loss for p in parts]).sum(0))

    @torch.no_grad()
    def encode(self, h: Tensor) -> Tensor:
        self._check(h)
        residual, codes = h.to(self.vqs[0].count.dtype), []
        for vq in self.vqs:
            codes.append(vq.encode(residual))
            residual = residual - vq.decode(codes[-1])
        return torch.stack(codes, 1)

    def decode(self, codes: Tensor) -> Tensor:
        return torch.stack([vq.decode(k) for vq, k in zip(self.vqs, codes.unbind(1), strict=True)]).sum(0)

    def after_step(self) -> None:
        for vq in self.vqs:
            vq.after_step()


# ---- no codebook


class FSQ(Quantizer):
    r"""Every element rounded to one of a few levels (Mentzer et al. 2023, https://arxiv.org/abs/2309.15505).

    .. math:: b(h) = \tanh(h + s) (L - 1)(1 - \epsilon) / 2 - o, \quad z = round(b(h)) / \lfloor L / 2 \rfloor

    as in the paper's appendix A.1: for an even L, o = 1/2 and h = 0 stays near 0 by the shift s; for an odd one both
    are 0. An element of z is in [-1, 1]; its levels are the digits of the code, the first the lowest. No loss and no
    parameters. h: [B, len(levels), H, W]; codes: [B, H, W]. encode() bounds h and z is bounded already, so that
    encode(decode(codes)) may give other codes: `codes_of` turns z back.

    Example:
        >>> fsq = FSQ.Config(levels=(3, 4)).build()
        >>> codes = torch.arange(12).reshape(1, 3, 4)
        >>> z = fsq.decode(codes)
        >>> z[0, :, 0, 1].tolist(), bool((fsq.codes_of(z) == codes).all())
        ([0.0, -1.0], True)
    """

    class Config(Quantizer.Config):
        levels: Annotated[tuple[int, ...], AfterValidator(_at_least_two)] = (8, 5, 5, 5)

        def build(self) -> "FSQ":
            return FSQ(self)

        @classmethod
        def example(cls) -> "FSQ.Config":
            return cls(levels=(3, 4))

    levels: Tensor
    places: Tensor

    def __init__(self, config: Config):
        super().__init__()
        self.codes = math.prod(config.levels)
        self.dim = len(config.levels)
        levels = torch.tensor(config.levels).reshape(-1, 1, 1)  # [D, 1, 1]
        self.register_buffer("levels", levels, persistent=False)
        self.register_buffer("places", levels.cumprod(0) // levels, persistent=False)  # what a digit counts

    def space(self, size: tuple[int, int]) -> Space:
        return Space(size, levels=self.codes, ordered=False)

    def bounded(self, h: Tensor) -> Tensor:
        """b(h): [B, D, H, W], to be rounded to whole numbers from -⌊L / 2⌋ on."""
        half = (self.levels - 1) * (1 - _EPSILON) / 2
        offset = torch.where(self.levels % 2 == 0, 0.5, 0.0).to(h.dtype)
        return torch.tanh(h + torch.tan(offset / half)) * half - offset

    def forward(self, h: Tensor) -> Quantized:
        self._check(h)
        b = self.bounded(h.to(torch.promote_types(h.dtype, torch.float32)))
        z = _straight_through(b, b.round()) / (self.levels // 2)
        return Quantized(z.to(h.dtype), self.codes_of(z), z.new_zeros(len(h)))

    @torch.no_grad()
    def encode(self, h: Tensor) -> Tensor:
        return self(h).codes

    def codes_of(self, z: Tensor) -> Tensor:
        """The codes of vectors on the levels, [B, D, H, W]: int64 [B, H, W]."""
        half = self.levels // 2
        return (((z.detach() * half).round().long() + half) * self.places).sum(1)

    def decode(self, codes: Tensor) -> Tensor:
        half = self.levels // 2
        digits = codes[:, None] // self.places % self.levels
        return (digits - half).to(torch.get_default_dtype()) / half


# ---- how full a codebook is


class Usage:
    """Counts codes over batches.

    Example:
        >>> usage = Usage(4)
        >>> usage.add(torch.tensor([[0, 0], [1, 1]]))
        >>> usage.share, usage.dead, usage.perplexity, usage.bits
        (0.5, 2, 2.0, 1.0)
    """

    def __init__(self, codes: int):
        self.counts = torch.zeros(codes, dtype=torch.int64)  # [K]

    def add(self, codes: Tensor) -> None:
        """Codes of any shape, in [0, K)."""
        self.counts += torch.bincount(codes.flatten(), minlength=len(self.counts)).cpu()

    @property
    def dead(self) -> int:
        """How many codes were never chosen."""
        return int((self.counts == 0).sum())

    @property
    def share(self) -> float:
        """Of the codes, those that were chosen at least once."""
        return 1 - self.dead / len(self.counts)

    @property
    def nats(self) -> float:
        """The entropy of the codes' frequencies, in nats per code."""
        p = self.counts.double() / self.counts.sum()
        return -float(torch.xlogy(p, p).sum())

    @property
    def bits(self) -> float:
        """The same in bits: what a code costs without a model of its neighbours."""
        return bits_per_dim(self.nats, 1)

    @property
    def perplexity(self) -> float:
        """How many codes, evenly used, would have this entropy."""
        return math.exp(self.nats)


# ---- the arithmetic of codebooks


def nearest(x: Tensor, vectors: Tensor) -> Tensor:
    """Which of the vectors [K, D] is the nearest to each of x [N, D]: int64 [N]; the first of equals."""
    vectors = vectors.detach()
    squares = vectors.square().sum(1)
    parts = x.split(max(1, _DISTANCES // len(vectors)))
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
        taken = x[(weight / torch.empty_like(weight).exponential_()).topk(len(part)).indices]
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


def _over_processes(*each: Tensor) -> tuple[Tensor, ...]:
    """The sums over all processes, in place."""
    if dist.is_available() and dist.is_initialized():
        for t in each:
            dist.all_reduce(t)
    return each


def _of_process_0(t: Tensor) -> Tensor:
    if dist.is_available() and dist.is_initialized():
        dist.broadcast(t, 0)
    return t

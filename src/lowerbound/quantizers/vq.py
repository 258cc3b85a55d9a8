"""One codebook: by moving averages or gradients, and residual codebooks after one another."""

import math
from collections.abc import Callable
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import AfterValidator, Field
from torch import Tensor, nn

from lowerbound import noise
from lowerbound.parallel.rows import all_rows, own_rows, processes, whole_of
from lowerbound.quantizers.base import (
    _COUNT_DECAY,
    _LLOYD,
    _UNSEEN,
    Quantized,
    Quantizer,
    _look_up,
    _no_autocast,
    _rows,
    _smoothed,
    _squared_error,
    _straight_through,
    nearest,
    seeds,
    statistics,
)
from lowerbound.space import Space

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
        vectors = noise.randn((config.codes, config.dim), dtype=dtype) / math.sqrt(config.dim)
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
            # --8<-- [start:vq]
            vectors = self.vectors
            x = self._directions(h.to(vectors.dtype), 1)
            flat = _rows(x.detach())
            k = nearest(flat, vectors)
            codes = k.reshape(h.shape[0], *h.shape[2:])
            e = _look_up(codes, vectors)
            loss = self.config.beta * _squared_error(x, e.detach())
            if self.learned:
                loss = loss + _squared_error(x.detach(), e)
            if self.training:
                self._gather(flat, k)
            return Quantized(_straight_through(x, e).to(h.dtype), codes, loss)
            # --8<-- [end:vq]

    @torch.no_grad()
    def encode(self, h: Tensor) -> Tensor:
        self._check(h)
        with _no_autocast(h):
            vectors = self.vectors
            flat = _rows(self._directions(h.to(vectors.dtype), 1))
            return nearest(flat, vectors).reshape(h.shape[0], *h.shape[2:])

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
                n, sums = map(processes().sum_, gathered)
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
        x = all_rows(x)
        means = seeds(x, vectors, before == 0)
        for _ in range(_LLOYD):
            n, sums = statistics(x, nearest(x, means), len(means))
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
        whole = whole_of(len(x))
        rows = own_rows(whole)
        at = noise.randint(0, whole, (self.config.codes,), device=x.device) - rows.start
        own = (at >= 0) & (at < len(x))  # of the rows of the whole batch, each process gives its own
        chosen = processes().sum_(x[at.clamp(0, len(x) - 1)] * own[:, None])
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
        # of each depth, with a codebook of its own
        quantizer: Annotated[VQ.Config, AfterValidator(_with_lengths)] = VQ.Config()
        depth: int = Field(default=4, gt=0)  # codes that add up to a vector

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

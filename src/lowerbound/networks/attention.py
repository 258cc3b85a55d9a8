"""Attention of each position to all earlier ones."""

import math
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lowerbound import noise
from lowerbound.networks.causal import At, Cache, MaskedLinear, channel_of


def attend(q: Tensor, k: Tensor, v: Tensor, dropout: float, *, causal: bool) -> Tensor:
    """softmax(q kᵀ / √C) v, the weights dropped out at this rate: [B, heads, T, C] each.

    torch's attention takes no generator: those that drop out lend theirs, and do so one after another.
    """
    if dropout and noise.rows() is not None:  # of a batch that is shared, whose noise torch can't draw
        logits = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
        if causal:
            logits = logits.masked_fill(torch.ones_like(logits[0, 0], dtype=torch.bool).triu(1), -math.inf)
        return noise.dropout(logits.softmax(-1), dropout) @ v
    with noise.borrowed(q.device) if dropout else nullcontext():
        return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=causal)


class CausalAttention(nn.Module):
    """What a position gathers of all earlier ones, added to its features: PixelSNAIL's block (Chen et al. 2018,
    https://arxiv.org/abs/1712.09763, section 3), with scaled dot products.

    Keys and values are made of the features h and of the input x at a position, which only later positions look at;
    before them all comes a learned one, for the first position to look at. Where channels are ordered, queries are made
    of the first channel's features, so that every output may use what they find.

    h: maps [B, H, W, C], x: [B, H, W, F] -> [B, H, W, C]; at a position h [B, C], and x from the cache. In sampling,
    keys and values are kept: position t costs t products of the head's size.
    """

    def __init__(self, width: int, inputs: int, *, channels: int = 1, heads: int = 4, dropout: float = 0.0):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        first = (channel_of(width, channels) == 0).expand(width, -1)
        self.query = MaskedLinear(width, width, first)
        self.key_value = nn.Linear(width + inputs, 2 * width)
        self.before = nn.Parameter(torch.zeros(2 * width))  # key and value of what comes before the first position
        self.out = nn.Linear(width, width)

    def forward(self, h: Tensor, x: Tensor, at: At | None = None) -> Tensor:
        if at is not None:
            return h + self.out(self._at(h, at))
        B, H, W, C = h.shape
        q = self._split(self.query(F.silu(h)).flatten(1, 2))
        pairs = self.key_value(torch.cat([F.silu(h), x], -1)).flatten(1, 2)  # [B, T, 2C]
        shifted = torch.cat([self.before.expand(B, 1, -1), pairs[:, :-1]], 1)
        k, v = (self._split(part) for part in shifted.chunk(2, -1))
        dropout = self.dropout if self.training else 0.0  # of the weights
        found = attend(q, k, v, dropout, causal=True)  # [B, heads, T, C / heads]
        return h + self.out(found.transpose(1, 2).reshape(B, H, W, C))

    def _split(self, t: Tensor) -> Tensor:
        """[B, T, C] -> [B, heads, T, C / heads]."""
        return t.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def _at(self, h: Tensor, at: At) -> Tensor:
        cache, j = at.cache, at.j
        assert j is not None
        if self not in cache.layers:
            cache.layers[self] = _Earlier(self, cache)
        state: _Earlier = cache.layers[self]
        t = at.i * cache.size[1] + j
        if state.last < t:  # the position before this one is known now
            if t:
                i, j = divmod(t - 1, cache.size[1])
                state.add(t, self.key_value(torch.cat([F.silu(state.h), cache.x[:, i, j]], -1)))
            state.last = t
        state.h = h
        q = self._split(self.query(F.silu(h)).unsqueeze(1))
        k, v = state.k[:, :, : t + 1], state.v[:, :, : t + 1]
        return F.scaled_dot_product_attention(q, k, v).flatten(1)


class _Earlier:
    """Keys and values of all positions so far, [B, heads, T, C / heads]; index t is of position t - 1."""

    def __init__(self, attention: CausalAttention, cache: Cache):
        H, W = cache.size
        width = attention.out.in_features
        self.heads = attention.heads
        self.k, self.v = (cache.zeros(self.heads, H * W, width // self.heads) for _ in range(2))
        self.h = cache.zeros(width)  # the features where the attention was last
        self.last = -1
        self.add(0, attention.before.expand(cache.n, -1))

    def add(self, t: int, pair: Tensor) -> None:
        k, v = pair.chunk(2, -1)
        self.k[:, :, t] = k.unflatten(-1, (self.heads, -1))
        self.v[:, :, t] = v.unflatten(-1, (self.heads, -1))

"""A transformer over the positions: whatever came before is looked at directly, however far away it is."""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from lowerbound import noise
from lowerbound.errors import ConfigError
from lowerbound.networks.attention import attend
from lowerbound.networks.base import Dropout, Shape
from lowerbound.networks.causal import At, Cache, CausalNetwork, MaskedLinear, Shift, channel_of, may_see, recomputed


class Transformer(CausalNetwork):
    r"""A decoder-only transformer: Vaswani et al. (2017), https://arxiv.org/abs/1706.03762, over images as in Child et
    al. (2019), https://arxiv.org/abs/1904.10509, with the norms before each part and the residual branches scaled down.

    The token of position t is made of the input at t - 1 (a learned start for the first), the row and the column of t,
    and the condition at t; each layer adds to it

    .. math:: h \leftarrow h + attention(norm(h)), \quad h \leftarrow h + W_2\, gelu(W_1\, norm(h))

    where attention looks at all tokens up to the own one. Where channels are ordered (red, green, blue; the codes of
    one place) a masked layer after the last norm adds what the earlier channels of the own position say.

    In sampling, keys and values are kept: position t costs t products of the head's size.

    Example:
        >>> net = Transformer.Config(width=32, layers=2).build((16, 8, 8), (16, 8, 8))  # a grid of 16 codes
        >>> net(torch.zeros(2, 16, 8, 8)).shape
        torch.Size([2, 16, 8, 8])
    """

    class Config(CausalNetwork.Config):
        width: int = Field(default=256, gt=1)  # features of a token
        layers: int = Field(default=8, gt=0)  # of attention and two linear maps
        heads: int = Field(default=4, gt=0)  # of an attention layer
        dropout: float = Field(default=0.0, ge=0, lt=1)  # of tokens, of attention's weights, of what each part adds
        checkpoint: bool = False  # in training, compute each layer again for its gradient: less memory, more time

        def build(self, in_shape: Shape, out_shape: Shape, *, channels: int = 1, context: int = 0) -> "Transformer":
            return Transformer(self, in_shape, out_shape, channels, context)

        @classmethod
        def example(cls) -> tuple["Transformer.Config", Shape]:
            return cls(width=6, layers=2, heads=2), (2, 2)

    def __init__(self, config: Config, in_shape: Shape, out_shape: Shape, channels: int, context: int):
        super().__init__(in_shape)
        if config.width % config.heads:
            raise ConfigError(
                f"model.network.heads: expected a divisor of the width {config.width}, got {config.heads}"
            )
        (features, H, W), width = in_shape, config.width
        self.embed = nn.Linear(features, width)
        self.first = nn.Parameter(noise.randn((width,)) * 0.02)  # in place of the input before the first position
        self.rows = nn.Parameter(noise.randn((1, H, 1, width)) * 0.02)
        self.columns = nn.Parameter(noise.randn((1, 1, W, width)) * 0.02)
        self.shift = Shift(width, context)
        self.dropout = Dropout(config.dropout)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, out_shape[0])
        self.own = Own(width, features, out_shape[0], channels) if channels > 1 else None
        self.checkpoint = config.checkpoint

    @property
    def apart(self) -> Iterable[nn.Module]:
        return self.layers

    def _maps(self, x: Tensor, c: Tensor | None) -> Tensor:
        B, H, W, _ = x.shape
        before = torch.cat([self.first.expand(B, 1, -1), self.embed(x).flatten(1, 2)[:, :-1]], 1)
        h = self.dropout(before.view(B, H, W, -1) + self.rows + self.columns + self.shift(c)).flatten(1, 2)
        for layer in self.layers:
            h = recomputed(layer, h, when=self.checkpoint and self.training)
        return self._last(h.view(B, H, W, -1), x)

    def step(self, cache: Cache, i: int, j: int) -> Tensor:
        t = i * cache.size[1] + j
        if self not in cache.layers:
            cache.layers[self] = _Reached(cache.zeros(self.first.shape[0]))
        reached: _Reached = cache.layers[self]
        if reached.t != t:  # what is at the position itself is seen by the last layer alone
            reached.t, reached.h = t, self._token(cache, At(cache, i, j), t)
        return self._last(reached.h, cache.x[:, i, j])

    def _token(self, cache: Cache, at: At, t: int) -> Tensor:
        """The token of position t after all layers: [B, width]."""
        i, j = divmod(t - 1, cache.size[1])
        before = self.embed(cache.x[:, i, j]) if t else self.first.expand(cache.n, -1)
        h = (before + at.of(self.rows) + at.of(self.columns) + self.shift(None, at)).unsqueeze(1)
        for layer in self.layers:
            h = layer(h, cache, t)
        return h.squeeze(1)

    def _last(self, h: Tensor, x: Tensor) -> Tensor:
        h = self.norm(h)
        return self.out(h) if self.own is None else self.out(h) + self.own(h, x)


class _Reached:
    """The position where the network was last, and its token after all layers."""

    def __init__(self, h: Tensor):
        self.t, self.h = -1, h


class Layer(nn.Module):
    """Attention and a network of two layers, each added to the tokens h [B, T, width].

    In a cache: the token of position t alone, [B, 1, width]; earlier ones are looked at by what was kept of them.
    """

    def __init__(self, config: Transformer.Config):
        super().__init__()
        width = config.width
        self.heads, self.rate = config.heads, config.dropout
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.look = nn.Linear(width, 3 * width)  # queries, keys, values
        self.found = nn.Linear(width, width)
        self.inner, self.outer = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.dropout = Dropout(config.dropout)
        with torch.no_grad():  # as many branches are summed (Radford et al. 2019, GPT-2, section 2.3)
            for linear in (self.found, self.outer):
                linear.weight.div_((2 * config.layers) ** 0.5)

    def forward(self, h: Tensor, cache: Cache | None = None, t: int = 0) -> Tensor:
        h = h + self.dropout(self.found(self._attend(self.norms[0](h), cache, t)))
        return h + self.dropout(self.outer(F.gelu(self.inner(self.norms[1](h)))))

    def _attend(self, h: Tensor, cache: Cache | None, t: int) -> Tensor:
        # [B, heads, T, width / heads] each
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.look(h).chunk(3, -1))
        if cache is not None:
            k, v = self._kept(cache, k, v, t)
        dropout = self.rate if self.training else 0.0
        found = attend(q, k, v, dropout, causal=cache is None)
        return found.transpose(1, 2).flatten(2)

    def _kept(self, cache: Cache, k: Tensor, v: Tensor, t: int) -> tuple[Tensor, Tensor]:
        """Keys and values of all tokens up to t, whose own are these."""
        if self not in cache.layers:
            places = cache.size[0] * cache.size[1]
            cache.layers[self] = [cache.zeros(self.heads, places, k.shape[-1]) for _ in range(2)]
        keys, values = cache.layers[self]
        keys[:, :, t], values[:, :, t] = k[:, :, 0], v[:, :, 0]
        return keys[:, :, : t + 1], values[:, :, : t + 1]


class Own(nn.Module):
    """What the earlier channels of a position add to the outputs: h [..., width], x [..., F] -> [..., P]."""

    def __init__(self, width: int, features: int, outputs: int, channels: int):
        super().__init__()
        inputs, hidden, last = (channel_of(n, channels) for n in (features, 4 * width, outputs))
        self.look = nn.Linear(width, 4 * width)  # all channels may use the token
        self.own = MaskedLinear(features, 4 * width, may_see(hidden, inputs, strict=True), bias=False)
        self.out = MaskedLinear(4 * width, outputs, may_see(last, hidden, strict=False), bias=False)

    def forward(self, h: Tensor, x: Tensor) -> Tensor:
        return self.out(F.gelu(self.look(h) + self.own(x)))

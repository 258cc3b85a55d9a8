"""NADE: a hidden layer for each pixel of an image, with weights that all of them share."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor, nn

from lowerbound.networks.base import Shape
from lowerbound.networks.causal import At, Cache, CausalNetwork, Shift
from lowerbound.networks.mlp import ACTIVATIONS, Activation

BLOCK = 16  # variables whose hidden units are computed at once: few enough to stay in a processor's cache


class NADE(CausalNetwork):
    r"""NADE of Larochelle and Murray (2011), The Neural Autoregressive Distribution Estimator,
    https://proceedings.mlr.press/v15/larochelle11a.html; Uria et al. (2016), https://arxiv.org/abs/1605.02226.

    Each variable d of D, in the order of reading, the channels of a position innermost, has K hidden units of its own.
    They see the variables before it through the columns of one W; c is shared too, V and b are not:

    .. math:: h_d = \sigma(c + W_{\cdot, <d}\, x_{<d}), \quad o_d = b_d + V_d h_d

    For a Bernoulli, o_d is the log-odds of x_d. A variable of more values has more outputs, and of codes more inputs.
    The condition y adds U y inside of σ, that of a map at the variable's own position. Drawing remembers the K sums
    inside of σ, to which a position adds its columns of W.

    Log-odds that are linear in the earlier pixels, without hidden units, are those of a fully visible belief net:
    `MADE` with `hidden=[]`.

    Example:
        >>> net = NADE.Config(hidden=100).build((3, 4, 4), (3 * 256, 4, 4), channels=3)
        >>> net(torch.zeros(2, 3, 4, 4)).shape
        torch.Size([2, 768, 4, 4])
    """

    class Config(CausalNetwork.Config):
        hidden: int = Field(default=500, gt=0)  # K
        activation: Activation = "sigmoid"  # σ

        def build(self, in_shape: Shape, out_shape: Shape, *, channels: int = 1, context: int = 0) -> "NADE":
            return NADE(self, in_shape, out_shape, channels, context)

        @classmethod
        def example(cls) -> tuple["NADE.Config", Shape]:
            return cls(hidden=7), (2, 2)

    def __init__(self, config: Config, in_shape: Shape, out_shape: Shape, channels: int, context: int):
        super().__init__(in_shape)
        self.channels = channels
        D, K = in_shape[1] * in_shape[2] * channels, config.hidden
        inputs, outputs = in_shape[0] // channels, out_shape[0] // channels  # of a variable
        first, last = nn.Linear(D * inputs, K), nn.Linear(K, D * outputs)  # for how they begin
        self.W = nn.Parameter(first.weight.detach().T.reshape(D, inputs, K).clone())
        self.c = nn.Parameter(first.bias.detach())
        self.V = nn.Parameter(last.weight.detach().T.reshape(K, D, outputs).transpose(0, 1).clone())
        self.b = nn.Parameter(last.bias.detach().view(D, 1, outputs))
        self.U = Shift(K, context)
        self.activation = ACTIVATIONS[config.activation]()

    def _maps(self, x: Tensor, c: Tensor | None) -> Tensor:
        B, H, W, _ = x.shape
        parts = (t.split(BLOCK) for t in (self._variables(x), self.W, self.V))
        before, out = self.c.expand(B, -1), []  # c + W x of all variables before a block
        for own, w, v, given in zip(*parts, self._given(c, (H, W)), strict=True):
            T, _, f = own.shape
            block, w = own.transpose(0, 1).flatten(1), w.flatten(0, 1)  # [B, T f], [T f, K]
            sums = before + (earlier(T, f, block) * block) @ w  # [T, B, K]
            out.append(self.activation(sums if given is None else sums + given) @ v)  # [T, B, p]
            before = torch.addmm(before, block, w)
        return self._positions(torch.cat(out) + self.b).view(B, H, W, -1)

    def _given(self, c: Tensor | None, size: tuple[int, int]) -> Sequence[Tensor | None]:
        """U y at the variables of each block, [T, B, K]; None where nothing is given."""
        given = self.U(c)
        if not isinstance(given, Tensor):
            return [None] * math.ceil(len(self.W) / BLOCK)
        places = given.expand(-1, *size, -1).flatten(1, 2).transpose(0, 1)  # [HW, B, K]
        return places.repeat_interleave(self.channels, 0).split(BLOCK)

    def _variables(self, x: Tensor) -> Tensor:
        """Positions [B, ..., F], whose feature k is of channel k % C, by variable: [D, B, f]."""
        x = x.flatten(1, -2).unflatten(-1, (-1, self.channels))  # [B, positions, f, C]
        return x.permute(1, 3, 0, 2).flatten(0, 1)

    def _positions(self, o: Tensor) -> Tensor:
        """The way back: [D, B, p] -> [B, positions, P]."""
        return o.unflatten(0, (-1, self.channels)).permute(2, 0, 3, 1).flatten(2)

    def _begin(self, cache: Cache, c: Tensor | None) -> None:
        super()._begin(cache, c)
        cache.layers[self] = _Sums(cache.zeros(len(self.c)) + self.c)

    def step(self, cache: Cache, i: int, j: int) -> Tensor:
        """Only the columns of W of the position before, and of the channels of this one."""
        sums, t = cache.layers[self], i * cache.size[1] + j
        while sums.t < t:
            sums.before, sums.t = self._sums(sums, cache)[-1], sums.t + 1
        seen = self._sums(sums, cache)[:-1] + self.U(None, At(cache, i, j))  # [C, n, K]
        own = slice(t * self.channels, (t + 1) * self.channels)
        return self._positions(self.activation(seen) @ self.V[own] + self.b[own])[:, 0]

    def _sums(self, sums: "_Sums", cache: Cache) -> Tensor:
        """Those before each variable of the position that they are at, and after its last: [C + 1, n, K]."""
        t, C = sums.t, self.channels
        x = self._variables(cache.x.flatten(1, 2)[:, t : t + 1])  # [C, n, f]
        return torch.cat([sums.before[None], x @ self.W[t * C : (t + 1) * C]]).cumsum(0)


@dataclass
class _Sums:
    """c + W x of all positions before position t: [n, K]."""

    before: Tensor
    t: int = 0


def earlier(variables: int, features: int, like: Tensor) -> Tensor:
    """Which of the features of some variables each of them sees: [T, 1, T f], 0 or 1."""
    t = torch.arange(variables, device=like.device)
    return (t[:, None, None] > t.repeat_interleave(features)).to(like.dtype)

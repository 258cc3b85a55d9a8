"""Couplings by monotonic rational-quadratic splines."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lowerbound.devices import widened
from lowerbound.networks.mlp import MLP
from lowerbound.transforms.base import Bijection

SMALLEST = 1e-3  # width and height of a bin, as a share of all, and slope at a knot


class SplineCoupling(Bijection):
    """One half of a vector moves by splines that the other half gives (Durkan et al. 2019, Neural Spline Flows,
    https://arxiv.org/abs/1906.04032); at first the identity.

    kept [D] is true for the elements that stay as they are. Outside [-tail, tail] every element stays.
    """

    first: Tensor
    second: Tensor

    def __init__(self, kept: Tensor, context: int, hidden: tuple[int, ...], bins: int, tail: float):
        super().__init__()
        self.tail = tail
        self.register_buffer("first", kept.nonzero().flatten(), persistent=False)
        self.register_buffer("second", (~kept).nonzero().flatten(), persistent=False)
        out = (len(self.second), 3 * bins - 1)
        self.network = MLP.Config(hidden=hidden, activation="silu").build((len(self.first),), out, context)
        last = self.network.linear[-1]
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, x: Tensor, c: Tensor | None = None, inverse: bool = False) -> tuple[Tensor, Tensor]:
        kept, moved = x.index_select(-1, self.first), x.index_select(-1, self.second)
        dtype = self.network.linear[-1].weight.dtype
        h = widened(self.network(kept.to(dtype), None if c is None else c.to(dtype)))
        moved, log_slope = rational_quadratic(moved, h, self.tail, inverse)
        return x.index_copy(-1, self.second, moved), log_slope.sum(-1)


def rational_quadratic(x: Tensor, h: Tensor, tail: float, inverse: bool = False) -> tuple[Tensor, Tensor]:
    r"""Each element of x [...] by a spline of h [..., 3K - 1]: its value, and the logarithm of the slope there.

    .. math:: g(\xi) = y_k + \frac{(y_{k+1} - y_k) [s \xi^2 + \delta_k \xi (1 - \xi)]}
        {s + (\delta_{k+1} + \delta_k - 2 s) \xi (1 - \xi)}, \qquad \xi = \frac{x - x_k}{x_{k+1} - x_k}

    in the bin k of x (Durkan et al. 2019, eq. 4 to 8), s being the bin's height by its width. h: the K widths and K
    heights before a softmax, and the slopes δ at the K - 1 knots inside, before a softplus; all zero is the identity.
    Outside [-tail, tail] it is the identity too, and δ is 1 where that begins. Inverse: the value is that of the
    inverse, and the slope still that of the spline.
    """
    K = (h.shape[-1] + 1) // 3
    widths, heights, slopes = h.split([K, K, K - 1], -1)
    xs, ys = _knots(widths, tail), _knots(heights, tail)
    delta = SMALLEST + F.softplus(slopes + math.log(math.expm1(1 - SMALLEST)))
    delta = F.pad(delta, (1, 1), value=1.0)
    inside = (x >= -tail) & (x <= tail)
    at = x.clamp(-tail, tail)
    k = (at.unsqueeze(-1) >= (ys if inverse else xs)[..., 1:-1]).sum(-1, keepdim=True)  # [..., 1]
    x0, x1, y0, y1, d0, d1 = (
        t.gather(-1, k + n).squeeze(-1) for t, n in ((xs, 0), (xs, 1), (ys, 0), (ys, 1), (delta, 0), (delta, 1))
    )
    width, height = x1 - x0, y1 - y0
    s = height / width
    bend = d1 + d0 - 2 * s
    xi = _root(at - y0, height, s, d0, bend) if inverse else (at - x0) / width
    both = xi * (1 - xi)
    below = s + bend * both
    value = x0 + width * xi if inverse else y0 + height * (s * xi.square() + d0 * both) / below
    slope = d1 * xi.square() + 2 * s * both + d0 * (1 - xi).square()
    log_slope = 2 * s.log() + slope.log() - 2 * below.log()
    return torch.where(inside, value, x), torch.where(inside, log_slope, 0.0)


def _knots(h: Tensor, tail: float) -> Tensor:
    """Where K bins begin and end, from -tail to tail: [..., K + 1]."""
    share = SMALLEST + (1 - SMALLEST * h.shape[-1]) * torch.softmax(h, -1)
    inner = tail * (2 * share.cumsum(-1)[..., :-1] - 1)
    return F.pad(F.pad(inner, (1, 0), value=-tail), (0, 1), value=tail)


def _root(rise: Tensor, height: Tensor, s: Tensor, d0: Tensor, bend: Tensor) -> Tensor:
    """ξ for a value that lies `rise` above its bin's beginning (eq. 6 to 8, and A.2)."""
    a = height * (s - d0) + rise * bend
    b = height * d0 - rise * bend
    c = -s * rise
    root = (b.square() - 4 * a * c).clamp(min=1e-20).sqrt()
    return (2 * c / (-b - root)).clamp(0, 1)

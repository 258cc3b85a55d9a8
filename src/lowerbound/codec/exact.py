"""The portable path: networks in float64 whose sums are never rounded, so that they are the same bits everywhere.

An addition, a product or a quotient of two numbers is rounded in one way by IEEE 754, on every machine. A sum of many
is not, for its order differs by processor, threads and batch; unless it is exact. So whatever is summed is first made
of whole numbers: weights are multiples of 2^-16, and so is what they are multiplied by; a product is a multiple of
2^-32, and every partial sum below 2^21 is a number of float64. exp, tanh and their like are those of `elementary`.

Integer networks, against the other bits of other machines: Balle, Johnston & Minnen (2019), Integer Networks for Data
Compression with Latent-Variable Models, https://openreview.net/forum?id=S1zz2i0cY7. Theirs are trained so; here the
numbers have so many digits that a network need not know.
"""

import contextlib
import copy
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from lowerbound.codec import elementary
from lowerbound.errors import ModelError

M = TypeVar("M", bound=nn.Module)
DIGITS = 16  # binary ones behind the point, of what is summed
LARGEST_SUM = 2.0 ** (53 - DIGITS)  # what the sizes of the terms of a sum may add up to
LARGEST = 2.0 ** (53 - 2 * DIGITS)  # what the sizes of products may add up to

aten = torch.ops.aten


def portable(model: M) -> M:
    """A copy whose weights are of float64."""
    return copy.deepcopy(model).double().eval()


class Exactly(TorchDispatchMode):
    """Inside, float64 networks compute the same bits on every machine, in batches of any size, on any number of
    threads. Raises ModelError for an operation of which that isn't known, and for numbers that are too large.

    Example:
        >>> x = torch.tensor([[0.1, 0.2, 0.3]], dtype=torch.float64)
        >>> with Exactly():
        ...     print((x @ x.T).item() * 2**32 % 1)
        0.0
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled in here, and what torch would put around every call to say so takes seconds to import."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, packet = kwargs or {}, func.overloadpacket
        if packet in REPLACED and not _whole(args):
            return REPLACED[packet](*args, **kwargs)
        if packet not in PLAIN and not _whole(args):
            raise ModelError(f"the network's {packet.__name__} is not known to be the same on every machine")
        return func(*args, **kwargs)


@contextlib.contextmanager
def computing() -> Iterator[None]:
    """Inside, `portable` networks are computed exactly, without gradients."""
    with torch.no_grad(), torch.autocast("cpu", enabled=False), Exactly():
        yield


@contextlib.contextmanager
def freely() -> Iterator[None]:
    """Inside `computing`, networks compute as they do outside: what need not be the same bits."""
    with _disable_current_modes():
        yield


def _whole(args: Any) -> bool:
    """Whether none of the arguments is of real numbers."""
    return not any(isinstance(a, Tensor) and a.is_floating_point() for a in args)


# ---- sums


def _rounded(x: Tensor) -> Tensor:
    """In float64, a multiple of 2^-DIGITS."""
    return torch.round(x.double() * 2.0**DIGITS) * 2.0**-DIGITS


def _product(
    of: Callable[[Tensor, Tensor], Tensor], weights: Callable[[Tensor], Tensor], a: Tensor, b: Tensor
) -> Tensor:
    """Sums of products a b. Raises ModelError where one may be too large to be exact.

    weights: what of |b| each sum is made of, added up: a quick bound, times the largest of |a|.
    """
    a, b = _rounded(a), _rounded(b)
    if not a.numel() or not b.numel():
        return of(a, b)
    if not 2 * _size(a) * _size(weights(b.abs())) < LARGEST and not 2 * _size(of(a.abs(), b.abs())) < LARGEST:
        raise ModelError("its numbers are too large to be summed exactly")
    return of(a, b)


def _size(x: Tensor) -> float:
    return float(x.abs().max())


def _mm(a: Tensor, b: Tensor) -> Tensor:
    return _product(torch.matmul, lambda b: b.sum(-2), a, b)


def _baddbmm(bias: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    assert beta == 1
    return bias + _mm(a, b) * alpha


def _addmm(bias: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    assert beta == 1
    assert alpha == 1
    return _mm(a, b) + bias


def _convolution(x: Tensor, weight: Tensor, bias: Tensor | None, *where: Any) -> Tensor:
    def of(x: Tensor, weight: Tensor) -> Tensor:
        return aten.convolution(x, weight, None, *where)

    transposed = where[3]
    found = _product(of, lambda w: w.transpose(0, 1 if transposed else 0).flatten(1).sum(1), x, weight)
    return found if bias is None else found + bias.view(-1, *[1] * (found.dim() - 2))


def _add(a: Any, b: Any, *, alpha: float = 1) -> Tensor:
    """Rounded twice where alpha isn't 1, not once by the processors that can."""
    return a + (b if alpha == 1 else b * alpha)


def _sub(a: Any, b: Any, *, alpha: float = 1) -> Tensor:
    return a - (b if alpha == 1 else b * alpha)


def _cumsum(x: Tensor, dim: int) -> Tensor:
    return torch.cumsum(_checked(x, x.shape[dim]), dim)


def _sum(x: Tensor, *over: Any, **how: Any) -> Tensor:
    return torch.sum(_checked(x, x.numel()), *over, **how)


def _avg_pool2d(x: Tensor, size: Any, *how: Any) -> Tensor:
    cells = math.prod(size) if len(size) > 1 else size[0] ** 2
    return F.avg_pool2d(_checked(x, cells), size, *how, divisor_override=1) / cells


def _mean(x: Tensor, dim: Any = None, keepdim: bool = False, **how: Any) -> Tensor:
    over = range(x.dim()) if dim is None else [dim] if isinstance(dim, int) else dim
    n = math.prod(x.shape[d] for d in over)
    return torch.sum(_checked(x, n), [*over], keepdim) / n


def _checked(x: Tensor, terms: int) -> Tensor:
    """Rounded. Raises ModelError where a sum of so many may be too large."""
    x = _rounded(x)
    if x.numel() and not terms * _size(x) < LARGEST_SUM:
        raise ModelError("its numbers are too large to be summed exactly")
    return x


# ---- normalizations


def _normalized(x: Tensor, eps: float) -> Tensor:
    """Of rows [N, n]: (x - mean) / sqrt(variance + eps).

    What is squared is first divided by a power of 2 above all of its row, which rounds nothing, so that few digits
    are lost however large or small the row is. Square roots are rounded in one way by IEEE 754, as quotients are.
    """
    x = x - _mean(x, 1, True)
    power = torch.from_numpy(np.ldexp(1.0, np.frexp(x.abs().amax(1, keepdim=True).numpy())[1]))
    deviation = (_mean((_rounded(x / power)).square(), 1, True) * power.square() + eps).sqrt()
    return x / deviation


def _layer_norm(x: Tensor, shape: Any, weight: Any, bias: Any, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """And what only a gradient needs, as of all normalizations."""
    found = _normalized(x.reshape(-1, math.prod(shape)), eps).view(x.shape)
    return _affine(found, weight, bias), x.new_empty(0), x.new_empty(0)


def _group_norm(
    x: Tensor, weight: Any, bias: Any, N: int, C: int, area: int, groups: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    found, shape = _normalized(x.reshape(N * groups, -1), eps).view(x.shape), (1, C, *[1] * (x.dim() - 2))
    weight, bias = (part if part is None else part.view(shape) for part in (weight, bias))
    return _affine(found, weight, bias), x.new_empty(0), x.new_empty(0)


def _batch_norm(x: Tensor, weight: Any, bias: Any, mean: Tensor, variance: Tensor, *how: Any) -> tuple[Tensor, ...]:
    """That of a network that is not trained: a factor and a sum for each channel."""
    shape = (1, -1, *[1] * (x.dim() - 2))
    found = (x - mean.view(shape)) / (variance + how[-1]).sqrt().view(shape)
    weight, bias = (part if part is None else part.view(shape) for part in (weight, bias))
    return _affine(found, weight, bias), x.new_empty(0), x.new_empty(0)


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


def _attention(
    q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0, causal: bool = False, **how: Any
) -> tuple[Any, ...]:
    """softmax(q kᵀ / sqrt(C)) v of [B, heads, T, C]; and what only a gradient needs."""
    mask, scale = how.get("attn_mask"), how.get("scale")
    assert dropout == 0
    scores = _mm(q / math.sqrt(q.shape[-1]) if scale is None else q * scale, k.transpose(-1, -2))
    if causal:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        scores = scores.masked_fill(later, -math.inf)
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
    return _mm(_softmax(scores, -1), v), scores.new_empty(0)


# ---- functions


def _by(f: Callable[[np.ndarray], np.ndarray]) -> Callable[..., Tensor]:
    def applied(x: Tensor) -> Tensor:
        return torch.from_numpy(np.asarray(f(x.double().numpy())))

    return applied


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return elementary.logistic(x)


def _softplus(x: Tensor, beta: float = 1, threshold: float = 20) -> Tensor:
    return _by(elementary.softplus)(x * beta) / beta


def _pow(x: Any, exponent: Any) -> Tensor:
    """By products, for small whole exponents; else of numbers above 0."""
    if not isinstance(exponent, Tensor) and exponent in (1, 2, 3, 4):
        return functools.reduce(torch.mul, [x] * int(exponent))
    if isinstance(exponent, int | float) and exponent in (0.5, -0.5):
        return x.sqrt() if exponent > 0 else 1.0 / x.sqrt()
    base = elementary.log(np.asarray(x, np.float64) if not isinstance(x, Tensor) else x.double().numpy())
    return torch.from_numpy(np.asarray(elementary.exp(base * np.asarray(exponent))))


def _log_softmax(x: Tensor, dim: int, half_to_float: bool = False) -> Tensor:
    x = x - x.amax(dim, keepdim=True)
    weights = _rounded(_by(elementary.exp)(x))
    return x - _by(elementary.log)(weights.sum(dim, keepdim=True))


def _logsumexp(x: Tensor, dim: Any, keepdim: bool = False) -> Tensor:
    most = x.amax(dim, keepdim=True)
    found = most + _by(elementary.log)(_rounded(_by(elementary.exp)(x - most)).sum(dim, keepdim=True))
    return found if keepdim else found.squeeze(dim)


def _gelu(x: Tensor, approximate: str = "none") -> Tensor:
    return x * _by(elementary.normal())(x)


def _elu(x: Tensor, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Tensor:
    below = _by(elementary.exp)(x.clamp(max=0.0) * input_scale) - 1.0
    return torch.where(x > 0, x * scale, below * (alpha * scale))


def _glu(x: Tensor, dim: int = -1) -> Tensor:
    a, b = x.chunk(2, dim)
    return a * _by(_sigmoid)(b)


def _softmax(x: Tensor, dim: int, half_to_float: bool = False) -> Tensor:
    weights = _rounded(_by(elementary.exp)(x - x.amax(dim, keepdim=True)))
    return weights / weights.sum(dim, keepdim=True)


REPLACED: Mapping[Any, Callable[..., Any]] = {
    aten.add: _add,
    aten.sub: _sub,
    aten.rsub: lambda a, b: b - a,
    aten.mm: _mm,
    aten.bmm: _mm,
    aten.baddbmm: _baddbmm,
    aten.addmm: _addmm,
    aten.convolution: _convolution,
    aten.cumsum: _cumsum,
    aten.sum: _sum,
    aten.mean: _mean,
    aten.avg_pool2d: _avg_pool2d,
    aten.native_layer_norm: _layer_norm,
    aten.native_group_norm: _group_norm,
    aten.native_batch_norm: _batch_norm,
    aten._native_batch_norm_legit_no_training: lambda *a: _batch_norm(*a[:5], a[-1]),
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    aten._scaled_dot_product_attention_math: _attention,
    aten.exp: _by(elementary.exp),
    aten.expm1: lambda x: _by(elementary.exp)(x) - 1.0,
    aten.log: _by(elementary.log),
    aten.log1p: lambda x: _by(elementary.log)(1.0 + x),
    aten.pow: _pow,
    aten.rsqrt: lambda x: 1.0 / x.sqrt(),
    aten.sin: _by(elementary.sin),
    aten.cos: _by(lambda x: elementary.sin(x, 0.25)),
    aten.erf: _by(lambda x: 2.0 * elementary.normal()(x * math.sqrt(2.0)) - 1.0),
    aten.special_ndtr: lambda x: _by(elementary.normal())(x),
    aten.softplus: _softplus,
    aten.log_sigmoid_forward: lambda x: (-_softplus(-x), x.new_empty(0)),
    aten.sigmoid: _by(_sigmoid),
    aten.tanh: _by(lambda x: 2.0 * elementary.logistic(2.0 * x) - 1.0),
    aten.silu: lambda x: x * _by(_sigmoid)(x),
    aten.gelu: _gelu,
    aten.elu: _elu,
    aten.elu_: lambda x, *how: x.copy_(_elu(x, *how)),
    aten.glu: _glu,
    aten._softmax: _softmax,
    aten._log_softmax: _log_softmax,
    aten.logsumexp: _logsumexp,
}

# What rounds each number once, in one way, or none
NAMES = """
abs amax amin argmax clamp clone copy_ div eq fill_ ge gt hardtanh leaky_relu le lt masked_fill masked_fill_ max maximum
max_pool2d_with_indices min minimum mul ne neg relu relu_ round sqrt square where
_reshape_alias _unsafe_view alias as_strided cat constant_pad_nd detach embedding expand flip gather index index_select
narrow permute pixel_shuffle pixel_unshuffle repeat reshape select select_scatter slice slice_scatter split
split_with_sizes squeeze stack t transpose tril triu unbind unfold unsqueeze upsample_nearest2d view
_local_scalar_dense _to_copy all any arange empty empty_like full full_like isfinite lift_fresh new_empty new_full
new_ones new_zeros ones ones_like promote_types scalar_tensor zero_ zeros zeros_like
"""
PLAIN = frozenset(getattr(aten, name) for name in NAMES.split())

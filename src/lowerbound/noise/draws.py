"""Random numbers that are a function of what they are for, not of when they are drawn, nor of what other threads do.

torch has one generator for a process (and one for each accelerator): a seed given to it means nothing beside another
thread that draws. So what is drawn inside `seeded` comes from generators of the thread's own, and torch's are left as
they were; outside it, from torch's, as everybody expects of a torch module after torch.manual_seed. A generator
begun at a number gives what torch's own gives after torch.manual_seed of it, bit for bit.

Training noise is keyed by the step, so that a resumed run repeats it. Evaluation noise is keyed by
(seed, image index, draw), so that batching, chunking, the device and the number of processes change nothing.

Of a batch that several processes share, each draws the noise of its own rows (`of_rows`): what one process would.

The package draws by the functions of this file alone: `rand`, `randn`, `dropout` and the others are torch's, but of the
right generator. Distributions draw by them too: torch's normals and categoricals would not, those of
`lowerbound.distributions` do.
"""

import functools
import hashlib
import inspect
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch._ops import OpOverload, OpOverloadPacket
from torch.overrides import TorchFunctionMode

from lowerbound.noise.rows import Rows

Device = torch.device | str | None  # None: torch's default


def key(*parts: int | str) -> int:
    """A 63-bit number from anything; equal parts give equal keys, others independent ones.

    Example:
        >>> key(0, "train", 1) == key(0, "train", 1) != key(0, "train", 2)
        True
    """
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "little") >> 1


# ---- whose numbers are drawn


class _Generators:
    """A thread's own, one for each device that is drawn on, all begun at one number."""

    def __init__(self, number: int):
        self.number = number
        self.of: dict[torch.device, Generator] = {}

    def begin(self, number: int) -> None:
        self.number = number
        for generator in self.of.values():
            generator.manual_seed(number)

    def on(self, device: torch.device) -> Generator:
        if device not in self.of:
            self.of[device] = Generator(device).manual_seed(self.number)
        return self.of[device]

    def copy(self) -> "_Generators":
        found = _Generators(self.number)
        for device, generator in self.of.items():
            found.on(device).set_state(generator.get_state())
        return found


class _Thread(threading.local):
    own: _Generators | None = None
    lent: bool = False  # to torch's default, for one call
    rows: Rows | None = None  # of a batch that is shared with other processes


_thread = _Thread()
_lock = threading.RLock()  # of whoever borrows torch's default generators
_foreign = False  # whether components from outside the package may draw too


@contextmanager
def _drawing_from(own: _Generators, quick: bool) -> Iterator[None]:
    before, _thread.own = _thread.own, own
    try:
        with nullcontext() if quick and not _foreign else _Whoever():
            yield
    finally:
        _thread.own = before


def seeded(*parts: int | str, quick: bool = False) -> AbstractContextManager[None]:
    """Inside, all random numbers of this thread are keyed by the parts, whoever draws them, on whatever device.

    Torch's generators are left as they are: neither what the caller nor what another thread draws is changed by it.
    Contexts may be nested; the innermost counts, and afterwards the outer one goes on where it was.

    quick: not whoever draws, but the functions of this file alone. To see to torch's other random functions (weights
    that torch.nn begins with, distributions of torch's) takes a microsecond for each call of a torch function, which
    is a third of a small one: loops over the package's own parts, which draw by this file, leave that out. It is not
    left out once a component from outside the package was found in a configuration.

    Example:
        >>> with seeded(0, "example"):
        ...     a = torch.rand(3), rand([3])
        >>> with seeded(0, "example", quick=True):
        ...     b = rand([3]), rand([3])
        >>> torch.equal(a[0], b[0]), torch.equal(a[1], b[1]), torch.equal(a[0], a[1])
        (True, True, False)
    """
    return _drawing_from(_Generators(key(*parts)), quick)


def stream(*parts: int | str) -> Callable[[], AbstractContextManager[None]]:
    """`seeded(*parts, quick=True)` in pieces: a context that goes on where it was whenever, in whatever thread, it is
    entered again; for what is drawn between two answers of a generator."""
    return functools.partial(_drawing_from, _Generators(key(*parts)), True)


def reseed(number: int) -> None:
    """The noise of the surrounding `seeded` begins anew at this key, on every device. Microseconds.

    Raises RuntimeError outside `seeded`, whose generators are torch's.
    """
    if _thread.own is None:
        raise RuntimeError("reseed outside of `seeded` would seed the caller's generators")
    _thread.own.begin(number)


def is_seeded() -> bool:
    return _thread.own is not None


def never_quick() -> None:
    """From now on `quick` is not heeded: there is a component from outside the package, which may draw by torch."""
    global _foreign
    _foreign = True


@contextmanager
def borrowed(device: torch.device) -> Iterator[None]:
    """Inside `seeded`, lends the thread's generator to one call of a torch function that takes none.

    Torch's default generator of the device has the state of the thread's own as long as this lasts, and its own one
    again afterwards. Threads take turns by a lock; what this can't keep out is somebody else's thread that draws from
    torch's default generator at that very moment: such a call is for what torch leaves no other way to do
    (attention's dropout). Draw nothing inside by the functions of this file.
    """
    own = generator_on(device)
    if own is None or _thread.lent:
        yield
        return
    default = torch.default_generator if device.type == "cpu" else torch.cuda.default_generators[own.device.index]
    with _lock:
        before = default.get_state()
        default.set_state(own.get_state())
        _thread.lent = True
        try:
            yield
        finally:
            _thread.lent = False
            own.set_state(default.get_state())
            default.set_state(before)


@contextmanager
def of_rows(rows: Rows | None) -> Iterator[None]:
    """Inside, what is drawn for a batch of n rows is what these rows of a whole batch would be given.

    With None everything is drawn as it is asked for, alike in all processes that are at the same place of a stream.
    """
    before, _thread.rows = _thread.rows, rows
    try:
        yield
    finally:
        _thread.rows = before


def rows() -> Rows | None:
    """Those of this process, of the batch that it shares with others."""
    return _thread.rows


def twice() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """For a computation that begins now, and for its repetitions, perhaps in a thread of autograd's: all draw alike.

    Inside `seeded` alone: torch's default generators are not rewound.
    """
    return nullcontext(), _Again(None if _thread.own is None else _thread.own.copy())


class _Again:
    """May be entered more than once."""

    def __init__(self, kept: _Generators | None):
        self.kept, self.rows = kept, _thread.rows

    def __enter__(self) -> None:
        self.before = _thread.own, _thread.rows
        _thread.own, _thread.rows = self.kept and self.kept.copy(), self.rows

    def __exit__(self, *_: object) -> None:
        _thread.own, _thread.rows = self.before


# ---- drawing


def generator_on(device: torch.device) -> Generator | None:
    """The generator that this thread draws from on a device; None is torch's default."""
    own = _thread.own
    if own is None or device.type == "meta":
        return None
    if device.type != "cpu" and device.index is None:
        device = torch.empty(0, device=device).device
    return own.on(device)


def _on(device: Device) -> Generator | None:
    return generator_on(torch.get_default_device() if device is None else torch.device(device))


Axes = tuple[int, ...]
EITHER: Axes = (0, 1)  # of [B, ...] or [K, B, ...]; see Rows.drawn
FIRST: Axes = (0,)


def behind(draws: Sequence[int]) -> Axes:
    """The axes that rows may have of a distribution's draws of this sample shape."""
    return len(draws), len(draws) + 1, *EITHER


def _drawn(shape: Sequence[int], draw: Callable[[tuple[int, ...]], Tensor], axes: Axes = EITHER) -> Tensor:
    own = _thread.rows
    return draw(tuple(shape)) if own is None else own.drawn(tuple(shape), draw, axes)


def _like(
    like: Tensor, fill: Callable[[Tensor], Tensor], dtype: torch.dtype | None = None, axes: Axes = EITHER
) -> Tensor:
    """What fills a tensor of the shape, the type and the layout of another."""
    own = _thread.rows
    if own is None:
        return fill(torch.empty_like(like, dtype=dtype, requires_grad=False))
    dtype = dtype or like.dtype
    return own.drawn(tuple(like.shape), lambda shape: fill(torch.empty(shape, dtype=dtype, device=like.device)), axes)


def rand(
    shape: Sequence[int], *, dtype: torch.dtype | None = None, device: Device = None, axes: Axes = EITHER
) -> Tensor:
    """Uniform on [0, 1)."""
    return _drawn(shape, lambda whole: torch.rand(whole, generator=_on(device), dtype=dtype, device=device), axes)


def randn(
    shape: Sequence[int], *, dtype: torch.dtype | None = None, device: Device = None, axes: Axes = EITHER
) -> Tensor:
    """Standard normal."""
    return _drawn(shape, lambda whole: torch.randn(whole, generator=_on(device), dtype=dtype, device=device), axes)


def rand_like(like: Tensor, *, dtype: torch.dtype | None = None) -> Tensor:
    return _like(like, lambda out: out.uniform_(generator=generator_on(like.device)), dtype)


def randn_like(like: Tensor, *, dtype: torch.dtype | None = None) -> Tensor:
    return _like(like, lambda out: out.normal_(generator=generator_on(like.device)), dtype)


def exponential_like(like: Tensor) -> Tensor:
    """Of rate 1."""
    return _like(like, lambda out: out.exponential_(generator=generator_on(like.device)))


def randint(
    low: int, high: int, shape: Sequence[int], *, dtype: torch.dtype = torch.int64, device: Device = None
) -> Tensor:
    """Whole numbers, low <= i < high, each as likely."""

    def draw(whole: tuple[int, ...]) -> Tensor:
        return torch.randint(low, high, whole, generator=_on(device), dtype=dtype, device=device)

    return _drawn(shape, draw)


def randperm(n: int) -> Tensor:
    """The numbers below n in a random order, int64 [n] on the processor."""
    return torch.randperm(n, generator=_on("cpu"), device="cpu")


def bernoulli(p: Tensor, axes: Axes = EITHER) -> Tensor:
    """1 with probability p, else 0; of the type and shape of p."""
    own = _thread.rows
    if own is None:
        return torch.bernoulli(p, generator=generator_on(p.device))
    return own.around(p, lambda whole: torch.bernoulli(whole, generator=generator_on(p.device)), axes)


def multinomial(weights: Tensor, n: int, axes: Axes = EITHER) -> Tensor:
    """n draws, each put back, from each row of weights [..., K]: int64 [..., n]."""
    own = _thread.rows
    if own is None:
        return torch.multinomial(weights, n, True, generator=generator_on(weights.device))
    if len(weights) == 1 and weights.dim() == 2 and n == own.n > 1:  # a draw for each row, of the same weights
        whole = torch.multinomial(weights, own.whole, True, generator=generator_on(weights.device))
        return whole[:, own.start : own.stop]
    return own.around(
        weights, lambda whole: torch.multinomial(whole, n, True, generator=generator_on(whole.device)), axes
    )


def dropout(x: Tensor, rate: float, training: bool = True) -> Tensor:
    """In training each element is 0 with this probability, and otherwise divided by the probability to stay.

    On the processor F.dropout's numbers; on a GPU others than its fused kernel's, which takes no generator.
    """
    if not training or rate == 0:
        return x
    kept = _like(x, lambda out: out.bernoulli_(1 - rate, generator=generator_on(x.device)), axes=FIRST)
    return x * kept.div_(1 - rate)


# ---- torch's random functions, by whomever called


def _always(*_: Any, **__: Any) -> bool:
    return True


def _drops(
    x: Any, p: float = 0.5, training: bool | None = True, inplace: bool = False, *, train: bool | None = True
) -> bool:
    return p > 0 and training is not False and train is not False  # None, of native_dropout, is as True


def _drops_between_layers(*args: Any) -> bool:
    """Of the arguments of torch.lstm, gru and rnn: ..., has_biases, num_layers, dropout, train, ..."""
    _, _, rate, train, *_ = (a for a in args if isinstance(a, bool | int | float))
    return rate > 0 and bool(train)


def _slopes_are_drawn(x: Any, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False, *_: Any, **__: Any):
    return training


def _attention_drops(q: Any, k: Any, v: Any, attn_mask: Any = None, dropout_p: float = 0.0, *_: Any, **__: Any):
    return dropout_p > 0


def _heads_drop(*args: Any, **kwargs: Any) -> bool:
    given = inspect.signature(F.multi_head_attention_forward).bind(*args, **kwargs)
    given.apply_defaults()
    return given.arguments["dropout_p"] > 0 and given.arguments["training"]


def _regions_are_drawn(*args: Any, _random_samples: Any = None, **_: Any) -> bool:
    return _random_samples is None


def _begins_at_random(A: Any, k: Any = None, B: Any = None, X: Any = None, *_: Any, **__: Any) -> bool:
    return X is None


def _named(owner: Any, names: str) -> list[Callable]:
    """The functions of these names that this version of torch has."""
    return [function for name in names.split() if (function := getattr(owner, name, None)) is not None]


_GENERATED = frozenset(  # those that take a generator
    _named(torch, "rand randn randint randperm normal bernoulli multinomial poisson binomial")
    + _named(torch, "_standard_gamma _sample_dirichlet")
    + _named(Tensor, "normal_ uniform_ bernoulli bernoulli_ random_ exponential_ geometric_ cauchy_ log_normal_")
    + _named(Tensor, "multinomial")
    + _named(nn.init, "uniform_ normal_ trunc_normal_ kaiming_uniform_ kaiming_normal_ xavier_uniform_ xavier_normal_")
    + _named(nn.init, "orthogonal_ sparse_")
)
# of C++ alone, under the functions above; nobody's to call, but within reach
_INNER = "_cudnn_rnn _cudnn_init_dropout_state miopen_rnn _lstm_mps _nested_tensor_softmax_with_shape"
_INNER += " _fill_mem_eff_dropout_mask_ _flash_attention_forward_no_dropout_inplace _triton_scaled_dot_attention"
_INNER += " _scaled_dot_product_attention_math _scaled_dot_product_attention_math_for_mps"
_INNER += " _scaled_dot_product_cudnn_attention _scaled_dot_product_efficient_attention"
_INNER += " _scaled_dot_product_flash_attention _scaled_dot_product_flash_attention_for_cpu"
_INSIDE = _named(torch, _INNER) + _named(torch._C._nn, "rrelu_with_noise rrelu_with_noise_")  # pyright: ignore
_DROPOUTS = "dropout dropout_ alpha_dropout alpha_dropout_ feature_dropout feature_dropout_ feature_alpha_dropout"
_DROPOUTS += " feature_alpha_dropout_ native_dropout dropout1d dropout2d dropout3d"
_POOLS = "_fractional_max_pool2d fractional_max_pool2d_with_indices"
_POOLS += " _fractional_max_pool3d fractional_max_pool3d_with_indices"
# Every random function of torch, and whether a call of it draws.
RANDOM: dict[Callable, Callable[..., bool]] = (
    dict.fromkeys(_GENERATED, _always)
    | dict.fromkeys(_named(torch, "rand_like randn_like randint_like svd_lowrank pca_lowrank _fused_dropout"), _always)
    | dict.fromkeys(_named(F, "gumbel_softmax"), _always)
    | dict.fromkeys([*_named(torch, _DROPOUTS), *_named(F, _DROPOUTS)], _drops)
    | dict.fromkeys([*_named(torch, "rrelu rrelu_"), *_named(F, "rrelu rrelu_")], _slopes_are_drawn)
    | dict.fromkeys(_named(torch, "lstm gru rnn_tanh rnn_relu"), _drops_between_layers)
    | dict.fromkeys(_named(F, "scaled_dot_product_attention"), _attention_drops)
    | dict.fromkeys(_named(F, "multi_head_attention_forward"), _heads_drop)
    | dict.fromkeys(_named(F, _POOLS), _regions_are_drawn)
    | dict.fromkeys(_named(torch, "lobpcg"), _begins_at_random)
    | dict.fromkeys(_INSIDE, _always)
)


def is_drawn(func: Callable, args: tuple, kwargs: dict) -> bool:
    """Whether a call of a function of torch draws, and not from a generator that it is given."""
    draws = RANDOM.get(func)
    if draws is None:
        return isinstance(func, OpOverload | OpOverloadPacket) and _is_random(func) and not kwargs.get("generator")
    return kwargs.get("generator") is None and draws(*args, **kwargs)


@functools.cache
def _is_random(op: OpOverload | OpOverloadPacket) -> bool:
    """Whether torch says of an operator (of torch.ops) that it draws, or could be given a generator."""
    overloads = [op] if isinstance(op, OpOverload) else [getattr(op, name) for name in op.overloads()]
    tagged = any(torch.Tag.nondeterministic_seeded in overload.tags for overload in overloads)
    return tagged or any("Generator" in str(a.type) for overload in overloads for a in overload._schema.arguments)


@contextmanager
def drawing_from_torch() -> Iterator[None]:
    """Inside, this thread draws from torch's default generators."""
    before, _thread.own = _thread.own, None
    try:
        yield
    finally:
        _thread.own = before


class _Whoever(TorchFunctionMode):
    """Inside, torch's random functions draw from the thread's generators too."""

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if not is_drawn(func, args, kwargs):
            return func(*args, **kwargs)
        device = _device_of(args, kwargs)
        if func in _GENERATED:
            return func(*args, **kwargs | {"generator": generator_on(device)})
        if func in _LIKE:
            return _LIKE[func](*args, **kwargs)
        with borrowed(device):
            return func(*args, **kwargs)


_LIKE: dict[Callable, Callable[..., Tensor]] = {torch.rand_like: rand_like, torch.randn_like: randn_like}


def _device_of(args: tuple, kwargs: dict) -> torch.device:
    """Where a function puts what it draws: where it is told to, or where the first tensor is that it is given."""
    if kwargs.get("device") is not None:
        return torch.device(kwargs["device"])
    return next((a.device for a in (*args, *kwargs.values()) if isinstance(a, Tensor)), torch.get_default_device())

"""The device that computes, and in what precision: less inside networks while they are trained, else float32."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lowerbound.errors import ConfigError, counted


def pick_device(name: str | torch.device) -> torch.device:
    """auto, cpu, cuda or cuda:N as a device that is there. Raises ConfigError."""
    name = str(name)
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdigit()):
        raise ConfigError(f"--device {name}: expected auto, cpu, cuda or cuda:N")
    there = torch.cuda.device_count() if kind == "cuda" else 0
    if kind == "cuda" and int(number or 0) >= there:
        known = "use --device cpu" if not there else "expected cuda:0" + (f" to cuda:{there - 1}" if there > 1 else "")
        raise ConfigError(f"--device {name}: {counted(there, 'CUDA device')} here; {known}")
    return torch.device(name)


def out_of_memory(error: BaseException) -> bool:
    """Whether torch or numpy had no memory for what they were to make.

    Example:
        >>> try:
        ...     torch.empty(2**60)
        ... except RuntimeError as error:
        ...     print(out_of_memory(error), out_of_memory(RuntimeError("another")))
        True False
    """
    said = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)  # of the processor
    return said or isinstance(error, MemoryError | torch.OutOfMemoryError)


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """The type that log-probabilities are computed in, for weights of this type."""
    return torch.promote_types(dtype, torch.float32)


def widened(t: Tensor) -> Tensor:
    """In float32 what is in half precision: itself, if it isn't."""
    wide = at_least_float32(t.dtype)
    return t if t.dtype == wide else t.to(wide)


Precision = Literal["float32", "tf32", "bfloat16"]
_TYPES = {"float32": None, "tf32": None, "bfloat16": torch.bfloat16}
_inside: ContextVar[torch.dtype | None] = ContextVar("_inside", default=None)


@contextmanager
def reduced(precision: Precision) -> Iterator[None]:
    """Inside, every `Reducible` is computed in this precision: its products and convolutions, by torch's autocast.

    Weights, gradients, and all that is done with what networks put out stay in float32: codebooks, distributions and
    log-probabilities. Leave before the backward pass. What tf32 does is done by `rounding`, beside this.
    """
    token = _inside.set(_TYPES[precision])
    try:
        yield
    finally:
        _inside.reset(token)


@contextmanager
def rounding(yes: bool) -> Iterator[None]:
    """Whether products and convolutions of float32 on a GPU may round their inputs to 10 bits (TF32), inside.

    Torch lets its convolutions do so if nobody says anything, and its products not: float32 means neither, here.
    """
    convolutions, products = torch.backends.cudnn, torch.backends.cuda.matmul
    before = convolutions.allow_tf32, products.allow_tf32
    convolutions.allow_tf32 = products.allow_tf32 = yes  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        convolutions.allow_tf32, products.allow_tf32 = before  # pyright: ignore[reportAttributeAccessIssue]


class Reducible(nn.Module):
    """A network that `reduced` and `fuse` have an effect on; what it puts out is float32 all the same.

    Example:
        >>> class Twice(Reducible, nn.Linear): ...
        >>> twice, x = Twice(1, 1, bias=False), torch.ones(1, 1)
        >>> _ = nn.init.constant_(twice.weight, 2.001)
        >>> with reduced("bfloat16"):
        ...     print(twice(x))
        tensor([[2.]], grad_fn=<ToCopyBackward0>)
    """

    fused: Callable[..., Any] | None = None  # its pass, compiled

    @property
    def apart(self) -> Iterable[nn.Module]:
        """Blocks whose weights may come and go one block after another (train.shard): in training each is entered by
        its pass alone, and all that it gives comes out of that."""
        return ()

    def __call__(self, *inputs: Any, **more: Any) -> Any:
        call = self.fused if self.fused is not None and self.training else super().__call__
        dtype = _inside.get()
        if dtype is None:
            return call(*inputs, **more)
        token = _inside.set(None)  # parts of it are not brought back to float32 one by one
        try:
            with torch.autocast(_device(inputs), dtype):
                out = call(*inputs, **more)
        finally:
            _inside.reset(token)
        return out.float() if isinstance(out, Tensor) and out.dtype is dtype else out


def fuse(module: nn.Module, backend: str | None = "inductor") -> None:
    """Compile the passes of the networks in a module, in training alone: each `Reducible` that is in no other.

    What they are given and put out stays outside, and so do all draws of noise: they are the same numbers. With None
    all are as they were.
    """
    if isinstance(module, Reducible):
        module.fused = torch.compile(module.forward, backend=backend, dynamic=False) if backend else None
        return
    for part in module.children():
        fuse(part, backend)


def _device(inputs: tuple[Any, ...]) -> str:
    return next(x.device.type for x in inputs if isinstance(x, Tensor))


def check_precision(precision: Precision, device: torch.device) -> None:
    """Raise ConfigError for a precision that the device has no instructions for."""
    if precision == "float32":
        return
    if not (_gpu_has(precision, device) if device.type == "cuda" else _processor_has(precision)):
        raise ConfigError(
            f"train.precision={precision}: this {'GPU' if device.type == 'cuda' else 'processor'} has no instructions "
            "for it, and would be many times slower; train with train.precision=float32"
        )


def _gpu_has(precision: Precision, device: torch.device) -> bool:
    """Both came with compute capability 8.0."""
    return torch.cuda.get_device_capability(device) >= (8, 0)


def _processor_has(precision: Precision) -> bool:
    return precision == "bfloat16" and _processor_has_bfloat16()


def _processor_has_bfloat16() -> bool:
    """Natively: without, torch computes it too, many times slower. An older torch can't say, and counts as without."""
    known = getattr(torch.cpu, "get_capabilities", dict)()
    return any("bf16" in name and bool(has) for name, has in known.items())

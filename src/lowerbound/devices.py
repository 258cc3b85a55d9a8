"""The device that computes, and in what precision: half inside networks while they are trained, else float32."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lowerbound.errors import ConfigError


def pick_device(name: str | torch.device) -> torch.device:
    """auto, cpu, cuda or cuda:N as a device that is there. Raises ConfigError."""
    name = str(name)
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdigit()):
        raise ConfigError(f"--device {name}: expected auto, cpu, cuda or cuda:N")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise ConfigError(f"--device {name}: there are {torch.cuda.device_count()} CUDA devices here; use --device cpu")
    return torch.device(name)


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """The type that log-probabilities are computed in, for weights of this type."""
    return torch.promote_types(dtype, torch.float32)


def widened(t: Tensor) -> Tensor:
    """In float32 what is in half precision: itself, if it isn't."""
    wide = at_least_float32(t.dtype)
    return t if t.dtype == wide else t.to(wide)


Precision = Literal["float32", "bfloat16"]
_TYPES = {"float32": None, "bfloat16": torch.bfloat16}
_inside: ContextVar[torch.dtype | None] = ContextVar("_inside", default=None)


@contextmanager
def reduced(precision: Precision) -> Iterator[None]:
    """Inside, every `Reducible` is computed in this precision: its products and convolutions, by torch's autocast.

    Weights, gradients, and all that is done with what networks put out stay in float32: codebooks, distributions and
    log-probabilities. Leave before the backward pass.
    """
    token = _inside.set(_TYPES[precision])
    try:
        yield
    finally:
        _inside.reset(token)


class Reducible(nn.Module):
    """A network that `reduced` has an effect on; what it puts out is float32 all the same.

    Example:
        >>> class Twice(Reducible, nn.Linear): ...
        >>> twice, x = Twice(1, 1, bias=False), torch.ones(1, 1)
        >>> _ = nn.init.constant_(twice.weight, 2.001)
        >>> with reduced("bfloat16"):
        ...     print(twice(x))
        tensor([[2.]], grad_fn=<ToCopyBackward0>)
    """

    def __call__(self, *inputs: Any, **more: Any) -> Any:
        dtype = _inside.get()
        if dtype is None:
            return super().__call__(*inputs, **more)
        token = _inside.set(None)  # parts of it are not brought back to float32 one by one
        try:
            with torch.autocast(_device(inputs), dtype):
                out = super().__call__(*inputs, **more)
        finally:
            _inside.reset(token)
        return out.float() if isinstance(out, Tensor) and out.dtype is dtype else out


def _device(inputs: tuple[Any, ...]) -> str:
    return next(x.device.type for x in inputs if isinstance(x, Tensor))


def check_precision(precision: Precision, device: torch.device) -> None:
    """Raise ConfigError for a precision that the device has no instructions for."""
    if precision == "float32":
        return
    there = torch.cuda.is_bf16_supported(False) if device.type == "cuda" else _processor_has_bfloat16()
    if not there:
        raise ConfigError(
            f"train.precision={precision}: this {'GPU' if device.type == 'cuda' else 'processor'} has no instructions "
            "for it, and would be many times slower; train with train.precision=float32"
        )


def _processor_has_bfloat16() -> bool:
    """Natively: without, torch computes it too, many times slower. An older torch can't say, and counts as without."""
    known = getattr(torch.cpu, "get_capabilities", dict)()
    return any("bf16" in name and bool(has) for name, has in known.items())

"""The whole step of a training as one CUDA graph: one call begins its kernels, where small models wait for Python.

A graph is what the device was told to do in one step; replayed, it does the same with what is then in the same memory.
So a step can be one if all that changes from step to step is on the device: the batch, the number of the step, the
learning rate, the place in the stream of noise (torch sees to that), and what models keep in their buffers. Steps are
watched until they wait for nothing and leave nothing behind in Python; then one is captured. The noise, the kernels and
so the weights are those of steps without a graph.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lowerbound import noise
from lowerbound.space import Y
from lowerbound.stages import Loss, Pair

QUIET = 3  # steps in a row that wait for nothing, before one is captured
PATIENCE = 200  # steps after which it is given up


class Moved(NamedTuple):
    """What one move of a turn gives."""

    loss: Loss
    norm: Tensor  # of the gradient, before clipping


Step = Callable[[Sequence[Pair], Any], list[Moved]]  # batches and the number of the step -> each turn's move


class Graphed:
    """A step that becomes a graph as soon as it can; `say` is told where it can't."""

    def __init__(self, step: Step, model: nn.Module, device: torch.device, say: Callable[[str], None]):
        self.step, self.model, self.device, self.say = step, model, device, say
        self.graph: torch.cuda.CUDAGraph | None = None
        self.stream = torch.cuda.Stream(device)
        self.number = torch.zeros((), device=device)
        self.quiet, self.seen, self.given_up = 0, 0, False

    def __call__(self, batches: Sequence[Pair], step: int) -> list[Moved]:
        """As the step, but of terms the mean, [1]: what a graph leaves of them, and so what steps before it give."""
        self.number.fill_(step)
        if self.graph is None and not self.given_up and self.quiet == QUIET:
            self._capture(batches)
        if self.graph is None or _shapes(batches) != self.shapes:
            watched = self.graph is None and not self.given_up
            moved = self._watched(batches) if watched else self.step(batches, step if self.given_up else self.number)
            return _apart(*_together(moved))
        for static, now in zip(_tensors(self.batches), _tensors(batches), strict=True):
            static.copy_(now, non_blocking=True)
        self.graph.replay()
        return _apart(self.numbers.clone(), self.names)

    # ---- whether it can

    def _watched(self, batches: Sequence[Pair]) -> list[Moved]:
        """A step as without a graph, of which is found out what would keep it from being one."""
        before = state(self.model)
        with torch.cuda.device(self.device), warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            mode = torch.cuda.get_sync_debug_mode()
            torch.cuda.set_sync_debug_mode("warn")
            try:
                self.stream.wait_stream(torch.cuda.current_stream())
                with torch.cuda.stream(self.stream):
                    moved = self.step(batches, self.number)
                torch.cuda.current_stream().wait_stream(self.stream)
            finally:
                torch.cuda.set_sync_debug_mode(mode)
        waits = [w for w in told if "synchronizing CUDA operation" in str(w.message)]
        after = state(self.model)
        left = sorted(name for name in before | after if before.get(name) != after.get(name))
        self.seen += 1
        self.quiet = 0 if waits or left else self.quiet + 1
        if not self.quiet and self.seen >= PATIENCE:
            where = f"waits for the device in {waits[0].filename}:{waits[0].lineno}" if waits else f"changes {left[0]}"
            self._give_up(f"a step {where}")
        return moved

    def _give_up(self, why: str) -> None:
        self.given_up = True
        self.say(f"train.graph=true: {why}; training goes on without a graph")

    # ---- the capture

    def _capture(self, batches: Sequence[Pair]) -> None:
        """Record a step; nothing is computed."""
        graph = torch.cuda.CUDAGraph()
        own = noise.generator_on(self.device)
        if own is not None:
            graph.register_generator_state(own)
        self.batches = [(x.clone(), _like(y)) for x, y in batches]
        self.shapes = _shapes(batches)
        torch.cuda.synchronize(self.device)
        try:
            with torch.cuda.device(self.device), torch.cuda.graph(graph, stream=self.stream):
                self.numbers, self.names = _together(self.step(self.batches, self.number))
        except RuntimeError as e:
            torch.cuda.synchronize(self.device)
            self._give_up(f"can't be captured ({str(e).splitlines()[0]})")
            return
        self.graph = graph


# ---- batches, and what a step gives


def _tensors(batches: Sequence[Pair]) -> Iterator[Tensor]:
    for x, y in batches:
        yield x
        yield from (y if isinstance(y, tuple) else () if y is None else (y,))


def _shapes(batches: Sequence[Pair]) -> list[tuple[Any, ...]]:
    return [(t.shape, t.dtype) for t in _tensors(batches)]


def _like(y: Y) -> Y:
    return tuple(part.clone() for part in y) if isinstance(y, tuple) else None if y is None else y.clone()


def _together(moved: list[Moved]) -> tuple[Tensor, list[list[str]]]:
    """The numbers that are logged as one tensor, the loss and the norm of each turn before the means of its terms."""
    names = [list(m.loss.terms) for m in moved]
    numbers = [[m.loss.value, m.norm, *(t.detach().float().mean() for t in m.loss.terms.values())] for m in moved]
    return torch.stack([n for part in numbers for n in part]), names


def _apart(numbers: Tensor, names: list[list[str]]) -> list[Moved]:
    """Of `_together`; terms are [1]."""
    moved = []
    for own in names:
        value, norm = numbers[:2]
        terms = dict(zip(own, numbers[2 : 2 + len(own)].split(1), strict=True)) if own else {}
        moved.append(Moved(Loss(value, terms), norm))
        numbers = numbers[2 + len(own) :]
    return moved


# ---- what a step leaves behind in Python


def state(model: nn.Module) -> dict[str, Any]:
    """What the modules hold beside the values in their tensors: numbers as they are, all else by which object it is."""
    found: dict[str, Any] = {}
    for name, module in model.named_modules():
        for key, value in _held(module):
            _note(found, f"{name}.{key}" if name else key, value, 0)
    return found


def _held(module: nn.Module) -> Iterator[tuple[str, Any]]:
    for key, value in vars(module).items():
        if key in ("_parameters", "_buffers"):
            yield from value.items()
        elif key not in ("_modules", "training"):
            yield key, value


def _note(found: dict[str, Any], name: str, value: Any, depth: int) -> None:
    found[name] = value if isinstance(value, bool | int | float | str | None) else id(value)
    if depth == 3 or isinstance(value, nn.Module | Tensor | type):
        return
    parts: dict[Any, Any] = {}
    if isinstance(value, dict):
        parts = value
    elif isinstance(value, list | tuple):
        parts = dict(enumerate(value))
    elif type(value).__module__.startswith("lowerbound."):
        parts = getattr(value, "__dict__", {})
    for key, part in parts.items():
        _note(found, f"{name}.{key}", part, depth + 1)

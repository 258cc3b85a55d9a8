"""What the batteries share: how checks are run, what they expect, and the tiny worlds they look at."""

import inspect
import itertools
import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from lowerbound.config import Component, allowing, dump, parse
from lowerbound.devices import reduced
from lowerbound.errors import UserError
from lowerbound.noise import seeded
from lowerbound.space import Space, Y

_C = TypeVar("_C", bound=Component)
ERRORS = 5.0  # standard errors that chance is allowed; every check draws the same noise each time
MANY = 4000  # draws of an estimate


def checks_in(file: str, prefix: str) -> tuple[Callable[[Any], None], ...]:
    """The checks of a battery: the functions of its file whose names begin so, as they are written there.

    file: its `__name__`; to be called below them.
    """
    functions = (f for f in vars(sys.modules[file]).values() if inspect.isfunction(f) and f.__module__ == file)
    return tuple(f for f in functions if f.__name__.startswith(prefix))


def run_checks(component: Component | type[Component], checks: Iterable[Callable], case: Any, name: str = "") -> None:
    """Each check of the case. Raises AssertionError with the component's name, the check's and what is wrong."""
    for check in checks:
        try:
            check(case)
        except Exception as e:
            what = e if isinstance(e, AssertionError) else repr(e)
            where = name or component.type_name()
            raise AssertionError(f"{where}: {check.__name__.replace('_', ' ')}: {what}") from e


# ---- what is expected


def expect(holds: bool, message: str) -> None:
    if not holds:
        raise AssertionError(message)


def expect_finite(name: str, t: Tensor) -> None:
    expect(bool(torch.isfinite(t).all()), f"{name} is not finite")


def expect_shape(name: str, t: Tensor, shape: Sequence[int]) -> None:
    expect(tuple(t.shape) == tuple(shape), f"{name} has shape {list(t.shape)}, expected {list(shape)}")


def expect_equal(name: str, a: Tensor, b: Tensor, tolerance: float = 1e-9) -> None:
    expect_shape(name, a, b.shape)
    if a.numel() and not torch.allclose(a.double(), b.double(), rtol=tolerance, atol=tolerance):
        raise AssertionError(f"{name} differ by up to {float((a.double() - b.double()).detach().abs().max()):.3g}")


def expect_error(error: type[UserError], what: str, call: Callable[[], Any]) -> None:
    try:
        call()
    except error as e:
        expect(len(str(e)) > 10, f"{what}: {error.__name__} without a message")
    except Exception as e:
        raise AssertionError(f"{what}: expected a {error.__name__}, got {e!r}") from e
    else:
        raise AssertionError(f"{what}: expected a {error.__name__}, got none")


def expect_in_space(x: Tensor, n: int, space: Space) -> None:
    expect_shape("a sample", x, (n, *space.shape))
    expect(x.dtype == space.dtype, f"a sample is {x.dtype}, expected {space.dtype}")
    if space.levels is None:
        expect_finite("a sample", x)
    else:
        inside = (x >= 0) & (x.long() < space.levels)  # no uint8 is less than 256 as a uint8
        expect(bool(inside.all()), f"a sample is outside [0, {space.levels})")


# ---- what holds but for chance


def expect_mean(name: str, each: Tensor, expected: Tensor | float) -> None:
    """The mean over the first axis is what is expected, but for chance."""
    error = each.std(0) / math.sqrt(len(each)) + 1e-9
    off = ((each.mean(0) - expected) / error).abs().max()
    expect(bool(off < ERRORS), f"{name} is {float(off):.1f} standard errors from what is expected")


def expect_frequencies(x: Tensor, p: Tensor, world: Tensor, error: Tensor | float = 0.0) -> None:
    """Samples have the probabilities of the events of the world (Pearson's chi-squared test); those have this error."""
    from scipy.special import chdtrc  # a slow import, and all modules are imported to find the components

    counts = (x.reshape(len(x), 1, -1) == world.reshape(len(world), -1)).all(-1).double().sum(0)
    expected = p.double() * len(x)
    enough = expected >= 5
    terms = (counts - expected) ** 2 / (expected + (error * torch.ones_like(expected) * len(x)) ** 2)
    chance = float(chdtrc(max(1, int(enough.sum()) - 1), float(terms[enough].sum())))
    expect(chance > 1e-5, f"samples have other frequencies than the density says (by chance: {chance:.1g})")
    rest = float(counts[~enough].sum() - expected[~enough].sum()) / max(1.0, float(expected[~enough].sum())) ** 0.5
    expect(abs(rest) < 2 * ERRORS, "samples have other frequencies of rare events than the density says")


def expect_at_most_one(total: Tensor) -> bool:
    """The mean is 1 or less, but for chance; returns whether it is less."""
    error = float(total.std()) / math.sqrt(len(total)) + 1e-9
    off = (float(total.mean()) - 1) / error
    expect(off < ERRORS, f"the probabilities of all events add up to {float(total.mean()):.4f}, more than 1")
    return off < -ERRORS


# ---- configurations and modules


def expect_round_trip(component: _C, base: type[_C]) -> None:
    values = json.loads(json.dumps(dump(component)))
    with allowing([type(component).__module__.partition(".")[0]]):
        again = parse(base, values)
    expect(again == component, f"parse(dump(c)) is another configuration: {values}")


def expect_file_round_trip(a: nn.Module, b: nn.Module, value: Callable[[Any], Tensor]) -> None:
    with seeded("state"):
        expected = value(a)
    b.load_state_dict(load(save({k: t.contiguous() for k, t in a.state_dict().items()})))
    with seeded("state"):
        expect_equal("outputs before and after the file", value(b), expected)


def expect_gradients(losses: Callable[[int], Iterable[tuple[nn.Module, Tensor]]]) -> None:
    """Every parameter has a finite gradient of its module's loss, not zero in at least one of three attempts."""
    moved: dict[str, bool] = {}
    for attempt in range(3):
        with seeded("gradient", attempt):
            for module, loss in losses(attempt):
                parameters = dict(module.named_parameters())
                grads = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True, retain_graph=True)
                for name, grad in zip(parameters, grads, strict=True):
                    expect_finite(f"the gradient of {name}", torch.zeros(()) if grad is None else grad)
                    moved[name] = moved.get(name, False) or (grad is not None and bool((grad != 0).any()))
    expect(all(moved.values()), f"no gradient reaches {', '.join(n for n, m in moved.items() if not m)}")


def expect_half_precision(network: nn.Module, run: Callable[[], Tensor]) -> None:
    """Inside `reduced` a network puts out nearly the same, in float32, and its gradients are float32."""
    exact = run().detach()
    with reduced("bfloat16"):
        half = run()
    expect(half.dtype == torch.float32, f"the output in half precision is {half.dtype}")
    error = float((half.detach() - exact).abs().max() / exact.abs().max())
    expect(error > 0, "half precision changes nothing: is the network none of `Reducible`?")
    expect(error < 0.1, f"in half precision the output is off by {error:.2g} of the largest value")
    half.square().sum().backward()
    for name, p in network.named_parameters():
        if p.grad is not None:
            expect(p.grad.dtype == torch.float32, f"the gradient of {name} in half precision is {p.grad.dtype}")
            expect_finite(f"the gradient of {name} in half precision", p.grad)


# ---- what the checks are made with


def example(config: Any) -> tuple[Any, ...]:
    """What example() of its class gives, but for the configuration itself where it is not the class alone."""
    cls = config if isinstance(config, type) else type(config)
    its, *world = cls.example()
    return (its if config is cls else config, *world)


def double() -> AbstractContextManager[None]:
    """Inside, new tensors are float64, so that equal means equal."""
    return _new_tensors_are(torch.float64)


def single() -> AbstractContextManager[None]:
    """Inside, new tensors are float32, also where a caller's are float64."""
    return _new_tensors_are(torch.float32)


@contextmanager
def _new_tensors_are(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def shake_parameters(module: nn.Module, *seed: int | str, scale: float = 0.3) -> None:
    """Put noise on every parameter: what begins at zero no longer hides what it is multiplied with."""
    with seeded("shake", *seed), torch.no_grad():
        for p in module.parameters():
            p.add_(scale * torch.randn_like(p))


def events(space: Space, n: int, *seed: int | str) -> Tensor:
    """n events of the space, uniform or standard normal: [n, *space.shape]."""
    with seeded("events", *seed):
        if space.levels is None:
            return torch.randn(n, *space.shape)
        return torch.randint(space.levels, (n, *space.shape)).to(space.dtype)


def condition(given: tuple[Space, ...], n: int, *seed: int | str) -> Y:
    """A condition for n events; None where nothing is given."""
    parts = tuple(events(space, n, "condition", i, *seed) for i, space in enumerate(given))
    return None if not parts else parts[0] if len(parts) == 1 else parts


def all_events(space: Space, at_most: int = 1024) -> Tensor | None:
    """Every event of a space of whole numbers, [levels^D, *space.shape]; None where there are too many."""
    if space.levels is None or space.levels**space.dims > at_most:
        return None
    grid = itertools.product(range(space.levels), repeat=space.dims)
    return torch.tensor(list(grid)).reshape(-1, *space.shape).to(space.dtype)


def lattice(dims: int, reach: float = 12.0, step: float = 0.1) -> tuple[Tensor, float]:
    """The points of a lattice around zero, [N, dims], and the volume that each stands for (the rectangle rule)."""
    axis = torch.arange(-reach, reach + step / 2, step)
    return torch.cartesian_prod(*[axis] * dims).reshape(-1, dims), step**dims

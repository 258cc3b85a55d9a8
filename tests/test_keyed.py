"""Inside keyed noise nothing of torch draws unseen: whatever torch knows to be random is keyed, or raises."""

import inspect
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lowerbound.noise import RANDOM, KeyedNoise, seeded
from lowerbound.noise.draws import _is_random

OWNERS = {"torch": torch, "Tensor": Tensor, "F": F, "torch._C._nn": torch._C._nn, "torch.special": torch.special}
SEEDS = {"manual_seed", "seed", "initial_seed"}  # of a generator, which they are given
CHOOSES = {"_fused_sdp_choice"}  # which kernel is to compute an attention


def random_schemas() -> dict[Any, Any]:
    """Every overload of every operator that torch tags as drawing, or that takes a generator, with its schema."""
    found = {}
    for schema in torch._C._jit_get_all_schemas():
        room, _, name = schema.name.partition("::")
        if room == "aten" and name not in SEEDS:
            try:
                op = getattr(getattr(torch.ops.aten, name), schema.overload_name or "default")
            except AttributeError:  # of TorchScript alone
                continue
            given = any("Generator" in str(argument.type) for argument in schema.arguments)
            if given or torch.Tag.nondeterministic_seeded in op.tags:
                found[op] = schema
    return found


SCHEMAS = random_schemas()
NAMES = sorted({schema.name.partition("::")[2] for schema in SCHEMAS.values()})


def functions_named(name: str) -> Iterator[tuple[str, Callable]]:
    for owner, module in OWNERS.items():
        function = getattr(module, name, None)
        if callable(function):
            yield f"{owner}.{name}", function


def test_every_random_function_is_known():
    assert len(NAMES) > 50
    reached = {where: f for name in NAMES for where, f in functions_named(name)}
    assert len(reached) > 50
    assert [where for where, f in reached.items() if f not in RANDOM and f.__name__ not in CHOOSES] == []


def test_every_random_operator_is_known():
    """Of torch.ops, overloads and their packets."""
    assert len(SCHEMAS) > 100
    assert [op for op in SCHEMAS if not (_is_random(op) and _is_random(op.overloadpacket))] == []
    assert not _is_random(torch.ops.aten.add.Tensor)
    assert not _is_random(torch.ops.aten.softplus)


def test_every_function_of_torchs_python_that_draws_is_known():
    """A mode sees a function that asks it (`handle_torch_function`), and nothing of what that calls."""
    public = [f for fs in torch.overrides.get_overridable_functions().values() for f in fs if inspect.isfunction(f)]
    public += [f for f in vars(nn.init).values() if inspect.isfunction(f)]
    modules = [sys.modules[name] for name in {f.__module__ for f in public}]
    every = {f for module in modules for f in vars(module).values() if inspect.isfunction(f)} | set(public)
    source = {f: re.sub(r'"""(.|\n)*?"""', "", _source(f)).partition(":\n")[2] for f in every}
    drawing, known = set[Callable](), set(NAMES)
    while True:
        calls = re.compile(rf"(?<!\w)({'|'.join(map(re.escape, known))})\(")
        new = {f for f in every - drawing if calls.search(source[f])}
        if not new:
            break
        drawing |= new
        known |= {f.__name__ for f in new}
    seen = {f for f in drawing if "handle_torch_function" in source[f]}
    assert len(seen) > 15
    assert sorted(f.__name__ for f in seen - RANDOM.keys()) == []


def _source(function: Callable) -> str:
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):
        return ""


# ---- called


def arguments(schema: Any) -> tuple[list[Any], dict[str, Any]]:
    """What nearly every function takes: a value of each required argument's type."""
    values = {"Tensor": torch.full((2, 3), 0.5), "int": 1, "float": 0.5, "bool": True, "number": 0.5, "bool?": True}
    args, kwargs = [], {}
    for argument in schema.arguments:
        kind = str(argument.type)
        value = [2, 3] if "List[int]" in kind or "List[SymInt]" in kind else values.get(kind.replace("SymInt", "int"))
        value = True if "Optional[bool]" in kind else value
        value = value.clone() if isinstance(value, Tensor) else value
        if argument.name == "training":
            args.append(True)
        elif argument.has_default_value() or argument.name == "generator":
            continue
        elif argument.kwarg_only:
            kwargs[argument.name] = value
        else:
            args.append(value)
    return args, kwargs


def draws(call: Callable[[], Any]) -> bool:
    """Whether torch's own generator moves on."""
    before = torch.get_rng_state()
    try:
        call()
    except (RuntimeError, TypeError, IndexError, ValueError, NotImplementedError):
        return not torch.equal(torch.get_rng_state(), before)
    return not torch.equal(torch.get_rng_state(), before)


def every_call() -> Iterator[tuple[str, Callable[[], Any]]]:
    for op, schema in SCHEMAS.items():
        name = schema.name.partition("::")[2]
        every = [*functions_named(name), (str(op), op), (f"{op.overloadpacket}, packet of {op}", op.overloadpacket)]
        for where, function in every:

            def call(function: Callable = function, schema: Any = schema) -> Any:
                args, kwargs = arguments(schema)
                return function(*args, **kwargs)

            yield where, call


@pytest.mark.filterwarnings("ignore")
def test_nothing_draws_unseen_when_it_is_called():
    """On the processor each call that draws outside leaves torch's generator alone inside keyed noise and `seeded`."""
    with torch.random.fork_rng():
        drawing = [(where, call) for where, call in every_call() if draws(call)]
        assert len({where for where, _ in drawing}) > 100
        for where, call in drawing:
            with KeyedNoise(0, range(3)) as keyed:
                keyed.chunk(2)
                assert not draws(call), f"{where} draws unseen inside keyed noise"
            with seeded(0, "x"):
                assert not draws(call), f"{where} draws from torch's generator inside a seed"


def test_an_operator_called_by_itself():
    with KeyedNoise(0, range(3)) as keyed:
        keyed.chunk(2)
        for op in (torch.ops.aten.rand, torch.ops.aten.rand.default):
            with pytest.raises(RuntimeError, match="can't be keyed by image"):
                op([2, 3])
        own = torch.Generator().manual_seed(0)
        assert torch.ops.aten.normal_(torch.zeros(2), generator=own).shape == (2,)
    found = []
    for _ in range(2):
        with seeded(3, "operators"):
            found.append(torch.ops.aten.rand.default([5]))
    assert torch.equal(*found)

"""What callers may give to a model's public methods, and in what types and surroundings these compute."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.distributions import Distribution

from lowerbound.devices import at_least_float32
from lowerbound.errors import ModelError, UserError
from lowerbound.model import Drawn, LatentModel, Model, latent
from lowerbound.noise import seeded
from lowerbound.space import Density, Space, Y
from lowerbound.stages import Loss
from lowerbound.testing.base import checks_in, double, expect, expect_equal, expect_error, expect_finite, single
from lowerbound.testing.cases import LABEL, ModelCase

# What a model asks itself, of what it has been given already; all other methods of events are for everybody.
INSIDE = frozenset(["bottom_up", "posteriors", "elbo_terms", "seen", "code"])
Door = Callable[[Any, Any], Any]


def doors(model: Model) -> dict[str, Door]:
    """The public methods of events x, each as a function of x and y."""
    methods = inspect.getmembers(type(model), inspect.isfunction)
    found = {name: list(inspect.signature(method).parameters.values())[1:] for name, method in methods}
    return {
        name: partial(_asked, model, name, parameters)
        for name, parameters in found.items()
        if [p.name for p in parameters[:1]] == ["x"] and not name.startswith("_") and name not in INSIDE
    }


def _asked(model: Model, name: str, parameters: list[inspect.Parameter], x: Any, y: Any) -> Any:
    size = (1, *model.space.shape)[-2:]
    kept = torch.zeros(size, dtype=torch.bool)
    needed = {"kept": kept, "drawn": ~kept, "place": (0, 0), "strengths": {}, "levels": model.levels, "target": y}
    given = {p.name: needed[p.name] for p in parameters[1:] if p.default is p.empty and p.name != "y"}
    return getattr(model, name)(x, **given, **({"y": y} if _is_given_y(parameters) else {}))


def _is_given_y(parameters: list[inspect.Parameter]) -> bool:
    return any(p.name == "y" for p in parameters)


def _tensors(answer: Any) -> list[Tensor]:
    """What a method says, as tensors."""
    if isinstance(answer, Tensor):
        return [answer]
    if isinstance(answer, Loss):
        return [answer.value, *answer.terms.values()]
    if isinstance(answer, Drawn):
        return [answer.x]
    if isinstance(answer, Distribution):
        return [answer.mean]
    if answer is None or isinstance(answer, int | float):
        return []
    return [t for part in answer for t in _tensors(part)]


def _answer(door: Door, x: Any, y: Any) -> list[Tensor] | None:
    """What it says for one noise; None where the model hasn't got what is asked for."""
    try:
        with seeded("door"):
            return _tensors(door(x, y))
    except ModelError:
        return None


# ---- what is given


@patch.object(latent, "SWEEPS", 2)  # an image is completed like that as by hundreds
def model_takes_arrays_and_lists_of_labels(case: ModelCase) -> None:
    model, x, y = case.build(), case.x(4), case.y(4)
    others = [_each(y, Tensor.numpy)]
    if isinstance(y, Tensor) and not y.is_floating_point():
        others.append(y.tolist())
    for name, door in doors(model).items():
        expected = _answer(door, x, y)
        for other in others:
            found = _answer(door, x.numpy(), other)
            expect((found is None) == (expected is None), f"{name} takes a tensor, or an array, but not both")
            for a, b in zip(found or [], expected or [], strict=True):
                expect_equal(f"{name} of an array and of a tensor", a.detach(), b.detach(), 0.0)


def _each(y: Any, change: Callable[[Tensor], Any]) -> Any:
    return change(y) if isinstance(y, Tensor) else None if y is None else tuple(map(change, y))


def model_refuses_what_is_no_event(case: ModelCase) -> None:
    model, y = case.build(), case.y(3)
    for name, door in doors(model).items():
        for what, x in _no_events(case.space).items():
            expect_error(ModelError, f"{name} of {what}", lambda door=door, x=x: door(x, y))


def _no_events(space: Space) -> dict[str, Any]:
    """For three."""
    shape, whole = (3, *space.shape), torch.int64
    found: dict[str, Any] = {
        "another shape": torch.zeros(*shape, 2, dtype=space.dtype),
        "an empty batch": torch.zeros(0, *space.shape, dtype=space.dtype),
        "words": ["a", "b", "c"],
        "nothing": None,
    }
    if space.levels is None:
        return found | {"whole numbers": torch.zeros(shape, dtype=whole), "booleans": torch.zeros(shape).bool()}
    found |= {"floats in [0, 1]": torch.rand(shape), "an array of them": torch.rand(shape).numpy()}
    found |= {"values above": torch.full(shape, space.levels), "values below": torch.full(shape, -1)}
    return found if space.levels == 2 else found | {"booleans": torch.zeros(shape).bool()}


def model_refuses_what_is_no_label(case: ModelCase) -> None:
    """Of a model that is given one label; asked for anything of three events."""
    label = next(iter(case.given), LABEL)
    if len(case.given) > 1 or label.levels is None or label.shape:
        return
    try:
        model = case.build(given=(label,))
    except UserError:
        return
    x, top = case.x(3), label.levels
    wrong: dict[str, Any] = {
        "floats": torch.zeros(3),
        "booleans": torch.zeros(3).bool(),
        "labels above": [0, 0, top],
        "labels below": torch.full((3,), -1),
        "two labels": [0, 0],
        "labels of another shape": torch.zeros(3, 2, dtype=torch.int64),
        "words": ["a", "b", "c"],
        "two conditions": (torch.zeros(3, dtype=torch.int64),) * 2,
    }
    for what, y in wrong.items():
        for name, door in doors(model).items():
            if _is_given_y(door.args[2]):  # pyright: ignore[reportFunctionMemberAccess]
                expect_error(ModelError, f"{name} given {what}", lambda door=door, y=y: door(x, y))
        expect_error(ModelError, f"sample given {what}", lambda y=y: model.sample(3, y))


def model_refuses_what_is_no_number_of_draws(case: ModelCase) -> None:
    model, x, y = case.build(), case.x(1), case.y(1)
    wrong: tuple[Any, ...] = (0, -1, 2.0, True, "2", None)
    for n in wrong:
        expect_error(ModelError, f"sample({n!r})", lambda n=n: model.sample(n, y))
        for name in ("log_density", "log_weights"):
            ask = getattr(model, name)
            expect_error(ModelError, f"{name} of draws={n!r}", lambda ask=ask, n=n: ask(x, y, n))


# ---- in what it computes


def _uses(model: Model, x: Tensor, y: Y) -> dict[str, Tensor]:
    """Numbers that hardly differ between types: means of many events, of one noise."""
    with torch.no_grad(), seeded("uses"):
        found = {"the loss": model.loss(x, y).value}
        if model.density is not Density.NONE:
            found["log_density"] = model.log_density(x, y).mean()
        if isinstance(model, LatentModel):
            found |= {"the features": model.features(x, y), "reconstructions": model.reconstruct(x, y)}
        if model.can_sample:
            found["samples"] = model.sample(len(x), y)
    return found


def _expect_near(when: str, found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name, value in found.items():
        expect_finite(f"{name} {when}", value)
        if name != "samples":  # which round
            a, b = value.double(), expected[name].double()
            off = float((a - b).abs().max()) / max(1.0, float(b.abs().max()))
            expect(off < 0.1, f"{name} {when} is off by {off:.2g}")


def model_computes_in_every_type(case: ModelCase) -> None:
    """Weights in double and half precision; of the latter log-probabilities and losses are float32 all the same."""
    with single():
        model, x, y = case.build(), case.x(64), case.y(64)
        expected = _uses(model, x, y)
        for dtype in (torch.bfloat16, torch.float16, torch.float64):
            found = _uses(case.build().to(dtype), x.to(dtype) if x.is_floating_point() else x, y)
            for name in ("the loss", "log_density"):
                if name in found:
                    expect(found[name].dtype == at_least_float32(dtype), f"{name} in {dtype} is {found[name].dtype}")
            # float64 has other noise
            near = found if dtype != torch.float64 else {name: found[name] for name in found.keys() & _WITHOUT_NOISE}
            _expect_near(f"in {dtype}", near, expected)
            for name, value in found.items():
                expect_finite(f"{name} in {dtype}", value)
    with double():
        _expect_near("where torch's default is float64", _uses(model, x, y), expected)


_WITHOUT_NOISE = frozenset(["the features", "reconstructions"])


def model_computes_inside_autocast(case: ModelCase) -> None:
    """Log-probabilities are those outside, bit for bit; the others near them."""
    with single():
        model, x, y = case.build(), case.x(64), case.y(64)
        expected = _uses(model, x, y)
        with torch.autocast("cpu", torch.bfloat16):
            found = _uses(model, x, y)
        _expect_near("inside autocast", found, expected)
        if "log_density" in found:
            expect_equal("log_density inside autocast and outside", found["log_density"], expected["log_density"], 0.0)


DOOR_CHECKS = checks_in(__name__, "model_")

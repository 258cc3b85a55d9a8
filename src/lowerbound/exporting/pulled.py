"""The one graph of a page that pulls at latents: the picture of a code, of which any levels are drawn anew."""

import torch
from torch import Tensor
from torch.distributions import Distribution

from lowerbound.errors import ModelError
from lowerbound.exporting.parts import STANDARD, Part, Port, _given, _latents, _mean, _noises, _y, drawn
from lowerbound.model import Generating, LatentModel, Model
from lowerbound.space import Space, Y


def pulled(model: Model) -> Part:
    """z [B, D], all levels in one vector, the coarsest first -> the mean of p(x|z), and z as it was decoded.

    Where `fresh` [B, L] is 1 a level is drawn by its prior given the coarser, of noise [B, D] and, of a mixture, of a
    uniform number [B, L], at a temperature. Raises ModelError for a model without real latents.
    """
    spaces = _spaces(model)
    sizes, levels, D = [space.dims for space in spaces], len(spaces), sum(space.dims for space in spaces)
    draws = can_draw(model)

    def function(z: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        noise, choice, fresh, t = inputs[:4] if draws else (z,) * 4
        y, found = _y(inputs[4 * draws :]), ()
        parts = zip(z.split(sizes, 1), noise.split(sizes, 1), spaces, strict=True)
        for l, (own, u, space) in enumerate(parts):
            level = own.unflatten(1, space.shape)
            if draws:
                anew = drawn(_prior(model, l, found, y), u.unflatten(1, space.shape), choice[:, l], t)
                level = torch.where(fresh[:, l].view(-1, *[1] * len(space.shape)) > 0.5, anew, level)
            found = (*found, level)
        return _decoded(model, found, y), torch.cat([level.flatten(1) for level in found], 1)

    code = Port("z", Space((D,)), "all levels of latents in one vector, the coarsest first")
    more = (
        Port("noise", Space((D,)), STANDARD),
        Port("choice", Space((levels,)), "uniform on [0, 1): of which component", uniform=True),
        Port("fresh", Space((levels,)), "1 where a level is drawn by its prior", uniform=True),
        Port("temperature", Space(()), "of the draws", batched=False, values=(0.7, 1.0)),
    )
    inputs = (code, *(more if draws else ()), *_given(model))
    return Part(
        "page",
        "the mean of p(x|z), of latents given or drawn",
        inputs,
        (_mean(model), code._replace(name="code")),
        function,
    )


def can_draw(model: Model) -> bool:
    """Whether a draw of every level's prior is a function of noise that a graph says."""
    if isinstance(model, Generating):
        return bool(_noises(model.base, Port("z", _spaces(model)[0], "")))
    assert isinstance(model, LatentModel)
    if not model.can_sample:
        return False
    ports, y = _latents(model), [torch.zeros(1, *space.shape, dtype=space.dtype) for space in model.given]
    zeros = tuple(torch.zeros(1, *port.space.shape) for port in ports)
    with torch.no_grad():
        return all(_noises(model.prior_of(l, zeros[:l], _y(tuple(y))), port) for l, port in enumerate(ports))


def _spaces(model: Model) -> tuple[Space, ...]:
    if isinstance(model, Generating):
        return (Space(tuple(model.base.event_shape)),)
    if not isinstance(model, LatentModel) or any(space.levels is not None for space in model.latents):
        raise ModelError(f"{type(model).__name__} has no latents of real numbers, which a page pulls at")
    return model.latents


def _prior(model: Model, l: int, coarser: tuple[Tensor, ...], y: Y) -> Distribution:
    if isinstance(model, Generating):
        return model.base
    assert isinstance(model, LatentModel)
    return model.prior_of(l, coarser, y)


def _decoded(model: Model, z: tuple[Tensor, ...], y: Y) -> Tensor:
    if isinstance(model, Generating):
        return model.generated(z[0], y)
    assert isinstance(model, LatentModel)
    return model.likelihood(z, y).mean

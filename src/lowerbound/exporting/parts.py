"""What of a model can stand alone: functions of tensors, each found by what the model answers."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, MixtureSameFamily

from lowerbound import distributions as dist
from lowerbound.errors import ModelError
from lowerbound.model import Classifying, Diffusing, Generating, Invertible, LatentModel, Model, Ordered
from lowerbound.model.latent import center
from lowerbound.priors import Given
from lowerbound.space import Space, Y, told_of

STANDARD = "N(0, I)"


class Port(NamedTuple):
    """A tensor that goes in or comes out: [B, *space.shape], or a scalar where there is no batch of it."""

    name: str
    space: Space
    what: str
    batched: bool = True
    uniform: bool = False  # noise on [0, 1), not N(0, I)
    values: tuple[float, ...] = ()  # of a scalar: at each step


class Part(NamedTuple):
    """A function of tensors, in the order of its ports."""

    name: str
    what: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    function: Callable[..., tuple[Tensor, ...]]


class Graph(nn.Module):
    """A part as a module, over the model's own weights."""

    def __init__(self, model: Model, part: Part):
        super().__init__()
        self.model, self.part = model, part

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return self.part.function(*inputs)


def parts(model: Model) -> tuple[Part, ...]:
    """Encoder, decoder, steps of the sampler: what the model has of them. Raises ModelError where that is nothing."""
    if told_of(model.given) == "views":
        raise ModelError(f"{type(model).__name__} is given other views of a scene, in any number, which no graph takes")
    found = tuple(_found(model))
    if not found:
        raise ModelError(
            f"{type(model).__name__} can't be exported: it makes no code of an image and no image of a code, and its "
            "draws are no function of noise"
        )
    return found


def _found(model: Model) -> Iterator[Part]:
    if isinstance(model, Classifying):
        yield _classifier(model)
    if isinstance(model, LatentModel):
        yield _encoder(model)
        yield _decoder(model)
        for l in range(len(model.latents) if model.can_sample else 0):
            yield from _sampler(model, l)
    if isinstance(model, Generating):
        yield _generator(model)
    if isinstance(model, Diffusing):
        yield _remover(model)
        yield _last(model)
    elif isinstance(model, Invertible):
        yield from _bijection(model)
    if isinstance(model, Ordered):
        yield from _conditionals(model)


# ---- what goes in


def _given(model: Model) -> tuple[Port, ...]:
    """The condition, where there is one."""
    what = told_of(model.given)
    return tuple(Port(what, space, f"the {what} that the model is given") for space in model.given if what)


def _y(parts: tuple[Tensor, ...]) -> Y:
    return parts[0] if parts else None


def _image(model: Model) -> Port:
    return Port("x", model.space, "images, in pixel values" if model.space.levels else "events")


def _mean(model: Model) -> Port:
    return Port("mean", model.space, "in pixel values, not rounded")


def _latents(model: LatentModel, n: int | None = None) -> tuple[Port, ...]:
    """z, or codes, of the n coarsest levels; None: of all."""
    found = []
    for level, space in zip(_level_names(model), model.latents[:n], strict=False):
        kind = "z" if space.levels is None else "codes"
        found.append(Port(_of_level(kind, level), space, space.what + (f" of level {level}" if level else "")))
    return tuple(found)


def _level_names(model: LatentModel) -> tuple[str, ...]:
    return model.levels or ("",) * len(model.latents)


def _of_level(name: str, level: str) -> str:
    """codes_top, stddev_z1, z1."""
    return level if level[:1] == name else f"{name}_{level}" if level else name


# ---- parts


def _encoder(model: LatentModel) -> Part:
    z, given = _latents(model), _given(model)
    spread = [not model.has_point and space.levels is None for space in model.latents]
    deviations = tuple(
        p._replace(name=_of_level("stddev", level), what=f"standard deviations of q({p.name}|x)")
        for p, level, real in zip(z, _level_names(model), spread, strict=True)
        if real
    )

    def function(x: Tensor, *y: Tensor) -> tuple[Tensor, ...]:
        q = model.posteriors(x, _y(y))
        means = tuple(center(level, space, x.shape[0]) for level, space in zip(q, model.latents, strict=True))
        levels = zip(q, means, spread, strict=True)
        return *means, *(level.variance.sqrt().expand(mean.shape) for level, mean, real in levels if real)

    what = "q(z|x): its mean, of codes the likeliest"
    return Part("encoder", what, (_image(model), *given), (*z, *deviations), function)


def _decoder(model: LatentModel) -> Part:
    z, given = _latents(model), _given(model)

    def function(*inputs: Tensor) -> tuple[Tensor, ...]:
        mean = model.likelihood(inputs[: len(z)], _y(inputs[len(z) :])).mean
        return (mean,)

    return Part("decoder", "the mean of p(x|z)", (*z, *given), (_mean(model),), function)


def _classifier(model: Classifying) -> Part:
    classes = Port("probabilities", Space((model.classes,)), "p(y|x) of every class")
    return Part("classifier", "p(y|x)", (_image(model),), (classes,), lambda x: (model._predicted(x).softmax(1),))


def _generator(model: Generating) -> Part:
    z = Port("z", Space(tuple(model.base.event_shape)), "noise, N(0, I)")
    return Part(
        "decoder",
        "the sample that noise is made into",
        (z, *_given(model)),
        (_mean(model),),
        lambda z, *y: (model.generated(z, _y(y)),),
    )


def _bijection(model: Invertible) -> Iterator[Part]:
    z, given = Port("z", Space(model.space.shape), "noise, N(0, I)"), _given(model)
    encode = lambda x, *y: (model._noise_of(x, _y(y)),)  # noqa: E731
    decode = lambda z, *y: (model._made_of(z, _y(y)),)  # noqa: E731
    yield Part("encoder", "the noise that images are made of", (_image(model), *given), (z,), encode)
    yield Part("decoder", "the images that are made of noise", (z, *given), (_image(model),), decode)


# ---- steps of a sampler


def _remover(model: Diffusing) -> Part:
    z = Port("z_t", Space(model.space.shape), "events with the noise of time t")
    gammas = tuple(model.gammas().float().tolist())
    t = Port("gamma_t", Space(()), "γ of time t, step by step", batched=False, values=gammas[:-1])
    s = Port("gamma_s", Space(()), "γ of time s, step by step", batched=False, values=gammas[1:])
    noise = Port("noise", Space(model.space.shape), "N(0, I)")

    def function(z: Tensor, t: Tensor, s: Tensor, u: Tensor, *y: Tensor) -> tuple[Tensor, ...]:
        mean, deviation = model.finer(z, t, s, _y(y))
        return (mean + 0 * u if deviation is None else mean + deviation * u,)

    what = "a step of the sampler: z of time s < t, of z of time t"
    return Part("sampler", what, (z, t, s, noise, *_given(model)), (z._replace(name="z_s"),), function)


def _last(model: Diffusing) -> Part:
    z = Port("z", Space(model.space.shape), "events with the noise of time 0")
    out = (_mean(model),)
    return Part("decoder", "the mean of p(x|z) at time 0", (z,), out, lambda z: (model.likelihood(z).mean,))


def _conditionals(model: Ordered) -> Iterator[Part]:
    space = model.space
    with torch.no_grad():
        p = model._conditionals(torch.zeros(1, *space.shape, dtype=space.dtype), _zeros(model.given))
    if not isinstance(p, dist.Categorical | dist.Bernoulli):
        return
    out = Port("log_p", Space((space.levels or 2, *space.shape)), "log p of every value, given the earlier positions")
    function = lambda x, *y: (_log_probs(model._conditionals(x, _y(y))),)  # noqa: E731
    yield Part("sampler", "log p of the values of each position", (_image(model), *_given(model)), (out,), function)


def _zeros(given: tuple[Space, ...]) -> Y:
    found = tuple(torch.zeros(1, *space.shape, dtype=space.dtype) for space in given)
    return found[0] if len(found) == 1 else found or None


def _log_probs(p: Distribution) -> Tensor:
    """[B, values, *event]."""
    if isinstance(p, dist.Bernoulli):
        logits = torch.cat([-p.logits.unsqueeze(1), p.logits.unsqueeze(1)], 1)
        return logits.clamp(max=0) - (1 + (-logits.abs()).exp()).log()  # logsigmoid, which ONNX rounds to log 0
    assert isinstance(p, dist.Categorical)
    return p.log_probs


def _sampler(model: LatentModel, l: int) -> Iterator[Part]:
    """A draw of a level's latents by its prior, given the coarser; nothing where it is N(0, I), or no graph of it."""
    own, coarser, given = _latents(model)[l], _latents(model, l), _given(model)
    name = _of_level("sampler", _level_names(model)[l])

    def prior(*inputs: Tensor) -> Distribution:
        return model.prior_of(l, inputs[:l], _y(inputs[l:]))

    with torch.no_grad():
        p = prior(*(_zeros((port.space,)) for port in (*coarser, *given)))  # pyright: ignore[reportArgumentType]
    if isinstance(p, Given):
        if isinstance(p.model, Ordered):
            yield from _code_sampler(name, own, (*coarser, *given), prior)
    elif not is_standard(p) and (noise := _noises(p, own)):

        def function(*inputs: Tensor) -> tuple[Tensor, ...]:
            return (drawn(prior(*inputs[len(noise) :]), *inputs[: len(noise)]),)

        yield Part(name, f"{own.name} drawn by its prior", (*noise, *coarser, *given), (own,), function)


def _code_sampler(name: str, own: Port, given: tuple[Port, ...], prior: Callable[..., Distribution]) -> Iterator[Part]:
    levels = own.space.levels or 2
    out = Port("log_p", Space((levels, *own.space.shape)), "log p of every code, given the earlier positions")

    def function(codes: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        p = prior(*inputs)
        assert isinstance(p, Given)
        assert isinstance(p.model, Ordered)
        return (_log_probs(p.model._conditionals(codes, p.parts or None)),)

    yield Part(name, "log p of the codes of each position", (own, *given), (out,), function)


def is_standard(p: Distribution) -> bool:
    """Whether it is N(0, I), whatever is given."""
    base = p.base_dist if isinstance(p, Independent) else p
    return (
        not p.batch_shape and isinstance(base, dist.Normal) and bool((base.loc == 0).all() and (base.scale == 1).all())
    )


def _noises(p: Distribution, z: Port) -> tuple[Port, ...]:
    """What a draw is a function of; () where it is none that is known."""
    normal = Port("noise", z.space, "N(0, I)")
    if isinstance(p, MixtureSameFamily) and _noises(p.component_distribution, z):
        return normal, Port("choice", Space(()), "uniform on [0, 1): of which component", uniform=True)
    if isinstance(p, dist.MultivariateNormal) or (isinstance(p, Independent) and isinstance(p.base_dist, dist.Normal)):
        return (normal,)
    if isinstance(p, dist.Categorical) and not z.space.ordered:
        return (Port("choice", Space(z.space.shape), "uniform on [0, 1)", uniform=True),)
    return ()


def drawn(p: Distribution, noise: Tensor, choice: Tensor | None = None, t: Tensor | float = 1.0) -> Tensor:
    """The draw of a distribution that noise [B, *event] stands for, and of a mixture a uniform number [B].

    t: the temperature, as `distributions.tempered` has it, above 0.
    """
    if isinstance(p, MixtureSameFamily):
        assert choice is not None
        weights = (p.mixture_distribution.logits / t).softmax(-1)  # pyright: ignore[reportAttributeAccessIssue]
        k = (weights.cumsum(-1)[..., :-1] <= choice[:, None]).sum(-1)  # [B]
        axis = -len(p.event_shape) - 1
        every = drawn(p.component_distribution, noise.unsqueeze(axis), t=t)  # [B, K, *event]
        index = k.view(-1, *[1] * (every.dim() - 1)).expand_as(every.narrow(axis, 0, 1))
        return every.gather(axis, index).squeeze(axis)
    if isinstance(p, dist.MultivariateNormal):
        return p.loc + (p.scale_tril @ (t * noise).unsqueeze(-1)).squeeze(-1)
    if isinstance(p, dist.Categorical):
        below = p.log_probs.exp().cumsum(p.axis).narrow(p.axis, 0, p.levels - 1)
        return (below <= noise.unsqueeze(p.axis)).sum(p.axis)
    return p.mean + p.stddev * (t * noise)


def drawn_by(model: Model) -> dict[str, str]:
    """Of each latent, what draws it: N(0, I), one of the parts, or lowerbound alone; {} where there are none."""
    if isinstance(model, Generating | Invertible):
        return {"z": STANDARD}
    if not isinstance(model, LatentModel):
        return {}
    return {port.name: _drawn_by(model, l) for l, port in enumerate(_latents(model))}


def _drawn_by(model: LatentModel, l: int) -> str:
    if not model.can_sample:
        return "nothing: there is no density to draw from"
    found = next(_sampler(model, l), None)
    if found is not None:
        return found.name
    with torch.no_grad():
        standard = l == 0 and is_standard(model.prior_of(0, (), _zeros(model.given)))
    return STANDARD if standard else "lowerbound alone: no graph says it"

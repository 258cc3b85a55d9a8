"""What holds of every model: its file, loss and gradients, that its density is a probability, its samples, latents."""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from lowerbound.devices import reduced
from lowerbound.errors import ModelError, UserError
from lowerbound.model import LatentModel, Model
from lowerbound.noise import KeyedNoise, seeded
from lowerbound.space import Density, Space, Y
from lowerbound.stages import Stage
from lowerbound.testing.base import (
    ERRORS,
    MANY,
    all_events,
    checks_in,
    condition,
    double,
    expect,
    expect_at_most_one,
    expect_equal,
    expect_error,
    expect_file_round_trip,
    expect_finite,
    expect_frequencies,
    expect_gradients,
    expect_in_space,
    expect_mean,
    expect_round_trip,
    expect_shape,
    lattice,
    run_checks,
    single,
)
from lowerbound.testing.cases import LABEL, ModelCase, each_part
from lowerbound.testing.doors import DOOR_CHECKS


def check_model(
    config: Model.Config | type[Model.Config], space: Space | None = None, given: tuple[Space, ...] = ()
) -> None:
    """All of MODEL_CHECKS. Without a space: the one of the configuration's example()."""
    run_checks(config, MODEL_CHECKS, ModelCase.of(config, space, given))


def _rows(y: Y, rows: slice) -> Y:
    return each_part(y, lambda part: part[rows])


def _parts(y: Y) -> tuple[Tensor, ...]:
    return () if y is None else (y,) if isinstance(y, Tensor) else y


def _keyed_weights(model: Model, x: Tensor, y: Y, index: Sequence[int], chunks: Sequence[int]) -> Tensor:
    """The log-weights with noise keyed by image, the draws in these chunks; also those of which no density is made."""
    with KeyedNoise(0, index) as noise, torch.no_grad():
        return torch.cat([model._log_weights(x, y, noise.chunk(k)) for k in chunks])


def model_round_trips_through_json(case: ModelCase) -> None:
    expect_round_trip(case.config, Model.Config)


def model_round_trips_through_a_file(case: ModelCase) -> None:
    x, y = case.x(4), case.y(4)
    expect_file_round_trip(case.build("a"), case.build("b"), lambda m: m.loss(x, y).value.detach())


def model_trains_every_parameter_in_one_turn(case: ModelCase) -> None:
    """Of a stage: what one trains, a later one may train on."""
    model = case.build()
    trained = [
        [id(p) for turn in stage.turns for part in turn.parts for p in part.parameters()] for stage in model.stages()
    ]
    all_trained = {i for own in trained for i in own}
    left = [name for name, p in model.named_parameters() if id(p) not in all_trained]
    expect(not left, f"no turn of any stage trains {', '.join(left)}")
    expect(all(len(own) == len(set(own)) for own in trained), "a parameter is in two turns")
    expect(len({s.name for s in model.stages()}) == len(model.stages()), "two stages have one name")


def model_loss_is_a_scalar_with_terms_per_event(case: ModelCase) -> None:
    model = case.build().train()
    loss = model.loss(case.x(5), case.y(5), 3)
    expect_shape("the loss", loss.value, ())
    expect_finite("the loss", loss.value)
    expect(bool(loss.terms), "the loss has no terms")
    for name, term in loss.terms.items():
        expect_shape(f"the term {name}", term, (5,))
        expect_finite(f"the term {name}", term)
        expect(not term.requires_grad, f"the term {name} holds the graph; detach it")
    model.after_step()


def model_gradients_reach_every_parameter(case: ModelCase) -> None:
    def losses(i: int) -> Iterator[tuple[nn.Module, Tensor]]:
        model = case.build("gradient", i).train()
        for stage in model.stages():
            x, y = _prepared(stage, case.x(16, i), case.y(16, i))
            for turn in stage.turns:
                parts = nn.ModuleDict(
                    {f"{stage.name}_{n}".replace(".", "_"): part for n, part in enumerate(turn.parts)}
                )
                if any(True for _ in parts.parameters()):
                    yield parts, turn.loss(x, y, 10**6).value

    expect_gradients(losses)


@torch.no_grad()
def _prepared(stage: Stage, x: Tensor, y: Y) -> tuple[Tensor, Y]:
    """Events and their condition as a stage takes them; what is drawn for it is the same each time."""
    with seeded("prepared"):
        return (x, y) if stage.prepare is None else stage.prepare.given(stage.prepare.make(x, y), y)


def model_loss_is_of_float32_in_half_precision(case: ModelCase) -> None:
    """What networks put out is rounded; distributions and their log-probabilities are not: nearly the same loss."""
    with single():
        model = case.build().train()
        for stage in model.stages():
            x, y = _prepared(stage, case.x(64), case.y(64))
            for turn in stage.turns:
                with seeded("noise"):
                    exact = turn.loss(x, y, 10**6)
                with seeded("noise"), reduced("bfloat16"):
                    half = turn.loss(x, y, 10**6)
                for name, term in {"loss": half.value, **half.terms}.items():
                    expect(term.dtype == torch.float32, f"{name} in half precision is {term.dtype}")
                a, b = float(half.value.detach()), float(exact.value.detach())
                expect(abs(a - b) < 0.05 * max(1.0, abs(b)), f"the loss is {b:.4g}, in half precision {a:.4g}")


def model_loss_neither_syncs_nor_leaves_its_device(case: ModelCase) -> None:
    model = case.build().train().to("meta")
    loss = model.loss(case.x(4).to("meta"), each_part(case.y(4), lambda part: part.to("meta")), 1)
    expect(loss.value.device.type == "meta", f"the loss is on {loss.value.device}")


def model_samples_are_events(case: ModelCase) -> None:
    model, y = case.build(), case.y(6)
    if not model.can_sample:
        expect_error(ModelError, "sample of a model that has nothing to draw from", lambda: model.sample(6, y))
        return
    for temperature in (1.0, 0.5, 0.0):
        with seeded("sample"):
            x = model.sample(6, y, temperature)
        expect_in_space(x, 6, case.space)
        with seeded("sample"):
            again = model.sample(6, y, temperature)
        expect_equal("samples of one seed", again, x)
    expect(not x.requires_grad, "a sample holds the graph")


def model_density_is_what_it_says(case: ModelCase) -> None:
    with double(), torch.no_grad():
        model, x, y = case.build(), case.x(5), case.y(5)
        if model.density is Density.NONE:
            expect_error(ModelError, "log_density of a model without a density", lambda: model.log_density(x, y))
            expect(len(model.why_no_density()) > 10, "why_no_density() gives no reason")
            return
        value = model.log_density(x, y, draws=3)
        expect_shape("log_density", value, (5,))
        expect_finite("log_density", value)
        if not model.noisy:
            expect_equal("two calls of a log_density without noise", model.log_density(x, y), value)


def model_draws_are_as_many_as_asked(case: ModelCase) -> None:
    with double(), torch.no_grad():
        model = case.build()
        if model.density is Density.NONE:
            return
        if not model.noisy:
            log_w = model.log_weights(case.x(5), case.y(5), 3)
            expect(len(log_w) in (1, 3), f"log_weights of 3 draws has {len(log_w)}")
            expect_equal("draws without noise", log_w, log_w[:1].expand_as(log_w), 0.0)
            return
        n, k = 2000, 16
        x, y = case.x(1).expand(n, *case.space.shape), case.one_y(n)
        with seeded("draws"):
            log_w = model.log_weights(x, y, k)
        with seeded("draws"):
            value = model.log_density(x, y, k)
        expect_shape(f"log_weights of {k} draws", log_w, (k, n))
        expect_shape("log_weights of 1 draw", model.log_weights(x, y, 1), (1, n))
        expected = torch.logsumexp(log_w, 0) - math.log(k) if model.unbiased else log_w.mean(0)
        expect_equal("log_density and the mean of its weights", value, expected)
        above = (log_w > log_w.median()).double()  # of one draw: variance 1/4, whatever the tails
        ratio = 0.25 / float(above.mean(0).var())
        expect(k / 1.3 < ratio < k * 1.3, f"the mean of {k} draws varies as that of {ratio:.1f} independent ones")


def model_rows_are_independent(case: ModelCase) -> None:
    with double():
        model, x, y = case.build(), case.x(5), case.y(5)
        if model.density is not Density.NONE:
            whole = _keyed_weights(model, x, y, range(5), [3])
            for i in range(5):
                alone = _keyed_weights(model, x[i : i + 1], _rows(y, slice(i, i + 1)), [i], [3])
                expect_equal("log_weights of a row alone and in its batch", alone[:, 0], whole[:, i])
        if isinstance(model, LatentModel):
            with torch.no_grad():
                for q, one in zip(model.posteriors(x, y), model.posteriors(x[3:4], _rows(y, slice(3, 4))), strict=True):
                    expect_equal("posterior means of a row alone and in its batch", one.mean[0], q.mean[3])


def model_noise_does_not_depend_on_chunks(case: ModelCase) -> None:
    with double():
        model, x, y = case.build(), case.x(3), case.y(3)
        if model.noisy:
            whole, cut = (_keyed_weights(model, x, y, range(3), chunks) for chunks in ([5], [2, 1, 2]))
            expect_equal("log_weights in one chunk and in three", cut, whole)


def model_refuses_what_it_cannot_take(case: ModelCase) -> None:
    model, x, y, space = case.build(), case.x(3), case.y(3), case.space
    expect_error(ModelError, "sample(0)", lambda: model.sample(0, _rows(y, slice(0, 0))))
    for t in (-1.0, math.nan, math.inf):
        expect_error(ModelError, f"temperature {t}", lambda t=t: model.sample(3, y, t))
    too_many = (*_parts(y), torch.zeros(3))
    expect_error(ModelError, "a condition too many", lambda: model.sample(3, too_many))
    if model.density is Density.NONE:
        return
    expect_error(ModelError, "draws=0", lambda: model.log_density(x, y, draws=0))
    expect_error(ModelError, "a condition too many", lambda: model.log_density(x, too_many))
    bigger = torch.zeros(3, *space.shape, 2, dtype=x.dtype)
    expect_error(ModelError, "events of another shape", lambda: model.log_density(bigger, y))
    if space.levels is not None:
        expect_error(ModelError, "real numbers for whole ones", lambda: model.log_density(x.float(), y))
        if space.levels <= 255:
            above = torch.full_like(x, space.levels)
            expect_error(ModelError, "values above the levels", lambda: model.log_density(above, y))


def model_uses_its_condition(case: ModelCase) -> None:
    """Given a label, the density depends on it, unless it says otherwise; a model may refuse it."""
    given = case.given or (LABEL,)
    with double():
        try:
            model = case.build(given=given)
        except UserError:
            return
        x, (a, b) = case.x(4), (condition(given, 4, "condition", i) for i in range(2))
        if model.can_sample:
            expect_in_space(model.sample(4, a), 4, case.space)
        expect_error(ModelError, "sample without a condition", lambda: model.sample(4))
        expect_error(ModelError, "5 samples of 4 conditions", lambda: model.sample(5, a))
        wrong = torch.full((4,), 3)
        if given == (LABEL,):
            expect_error(ModelError, "a label that is not", lambda: model.sample(4, wrong))
        if model.density is Density.NONE:
            return
        expect_error(ModelError, "log_density without a condition", lambda: model.log_density(x))
        if given == (LABEL,):
            a, b = torch.zeros(4, dtype=torch.int64), torch.ones(4, dtype=torch.int64)
            expect_error(ModelError, "a label that is not", lambda: model.log_density(x, wrong))
        first, second = (_keyed_weights(model, x, y, range(4), [2]) for y in (a, b))
        if case.config.one_for_all:
            expect_equal("log_density of two conditions", first, second)
        else:
            expect(not torch.allclose(first, second), "log_density is the same whatever is given")


def model_is_a_probability(case: ModelCase) -> None:
    """Over a world small enough to be counted, what it says adds up to 1 (a bound: to no more), and samples have the
    frequencies it says."""
    with double(), torch.no_grad(), seeded("world"):
        # shaken little: where q is far from the posterior, the mean of the weights has no known error
        model, world = case.build(shake=0.1), all_events(case.space, 256)
        if model.density is Density.NONE:
            return
        if world is None:
            _real_model_is_a_probability(case, model)
            return
        log_w = model.log_weights(world, case.one_y(len(world)), MANY if model.noisy else 1)
        if model.estimate is not None:
            total, error = float(torch.logsumexp(log_w.mean(0), 0)), ERRORS * model.estimate.error
            expect(abs(total) < error, f"log of the sum of all probabilities is {total:.4f}, expected 0 ± {error:.4f}")
            expect_frequencies(model.sample(2000, case.one_y(2000)), log_w.mean(0).softmax(0), world)
            return
        if not model.unbiased:
            total = float(log_w.mean(0).exp().sum())
            expect(total < 1.01, f"the bounds of all events add up to {total:.4f}")
            return
        w = log_w.exp()  # [K, N]
        if not model.noisy and model.density is Density.BOUND:
            expect(float(w.sum()) < 1 + 1e-9, f"the bounds of all events add up to {float(w.sum()):.9f}")
            return
        if model.density is Density.EXACT:
            expect_equal("the probabilities of all events and 1", w.sum(1), torch.ones(1), 1e-8)
        elif expect_at_most_one(w.sum(1)):
            return  # dequantization: what lies beyond the scale is in the samples, but in no event's density
        error = w.std(0) / math.sqrt(len(w)) if len(w) > 1 else torch.zeros(len(world))
        expect_frequencies(model.sample(2000, case.one_y(2000)), w.mean(0), world, error)


def _real_model_is_a_probability(case: ModelCase, model: Model) -> None:
    if case.space.levels is not None or case.space.dims > 2 or model.density is not Density.EXACT:
        return
    points, volume = lattice(case.space.dims)
    p = model.log_density(points.reshape(-1, *case.space.shape), case.one_y(len(points))).exp() * volume
    expect(abs(float(p.sum()) - 1) < 1e-6, f"the density integrates to {float(p.sum()):.6f}")
    x = model.sample(MANY, case.one_y(MANY)).flatten(1)
    for power in (1, 2):
        expect_mean(f"the samples' moment {power}", x**power, (p[:, None] * points**power).sum(0))


def model_latents_have_the_shapes_they_should(case: ModelCase) -> None:
    with double(), torch.no_grad():
        model, x, y = case.build(), case.x(4), case.y(4)
        if not isinstance(model, LatentModel):
            return
        q = model.posteriors(x, y)
        terms = model.elbo_terms(x, y, 3)
        expect_shape("log_px", terms.log_px, (3, 4))
        for name, t in (("log_pz", terms.log_pz), ("log_qz", terms.log_qz), ("kl", terms.kl)):
            if t is not None:
                expect_shape(name, t, (3, 4, len(q)))
        if model.density is Density.NONE:
            expect_error(ModelError, "elbo of a model without a density", lambda: model.elbo(x, y))
        else:
            expect_shape("the bound", model.elbo(x, y), (4,))
        for level, z in zip(q, terms.z, strict=True):
            expect_shape("z", z, (3, 4, *level.event_shape))
        p = model.decode(terms.z, y)
        expect(p.batch_shape == (3, 4), f"decode keeps no leading dimensions: batch shape {list(p.batch_shape)}")
        expect(p.event_shape == case.space.shape, f"decode gives events of shape {list(p.event_shape)}")
        for name, mean in _means(model, p, y):
            expect_shape(name, mean, (4, *case.space.shape))
            if case.space.levels is not None and case.space.ordered:
                inside = (mean >= -1e-9) & (mean <= case.space.levels - 1 + 1e-9)
                expect(bool(inside.all()), f"{name} is outside [0, {case.space.levels - 1}]")


def _means(model: LatentModel, p: Distribution, y: Y) -> Iterator[tuple[str, Tensor]]:
    yield "the mean of p(x|z)", p.mean[0]
    if model.can_sample:
        yield "sample_mean", model.sample_mean(4, y)
    else:
        expect_error(
            ModelError, "sample_mean of a model that has nothing to draw from", lambda: model.sample_mean(4, y)
        )


def model_closed_kl_is_the_mean_of_the_sampled_one(case: ModelCase) -> None:
    with double(), torch.no_grad(), seeded("kl"):
        model = case.build()
        if not isinstance(model, LatentModel) or model.density is Density.NONE:
            return
        terms = model.elbo_terms(case.x(4), case.y(4), MANY)
        if terms.kl is not None:
            expect(bool((terms.kl > -1e-9).all()), "a KL is below 0")
            expect_mean("log q - log p", (terms.log_qz - terms.log_pz - terms.kl).flatten(1), 0.0)


MODEL_CHECKS = (*checks_in(__name__, "model_"), *DOOR_CHECKS)

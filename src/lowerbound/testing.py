"""Public batteries: what holds of every model, family, network, data set and metric, a user's own included.

    check_model(MyModel.Config(width=4), Space((1, 2, 2), levels=2))     # or the class alone: its example() is taken
    check_family(MyFamily())
    check_network(MyNetwork.Config)
    check_dataset(Data(source="photos/"))
    check_metric(MyMetric())

Each runs its named checks (`MODEL_CHECKS`, …) on tiny instances, and raises AssertionError with the component, the
check and what is wrong.
"""

import itertools
import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar
from unittest.mock import patch

import numpy as np
import torch
from safetensors.torch import load, save
from scipy.stats import chi2
from torch import Tensor, nn
from torch.distributions import Distribution

from lowerbound.config import Component, dump, parse
from lowerbound.data.base import Data, Images
from lowerbound.data.batches import Batches
from lowerbound.data.split import PARTS
from lowerbound.distributions import detached, tempered
from lowerbound.errors import ConfigError, DataError, ModelError, UserError
from lowerbound.families import Family, Head
from lowerbound.metrics.base import Metric, Value, measure
from lowerbound.models.base import Density, LatentModel, Model, Space, Y
from lowerbound.models.vae import VAE
from lowerbound.networks.base import Network, Shape
from lowerbound.noise import KeyedNoise, seeded
from lowerbound.priors import Prior

C = TypeVar("C", bound=Component)
LABEL = Space((), levels=3, ordered=False)
ERRORS = 5.0  # standard errors that chance is allowed; every check draws the same noise each time
MANY = 4000  # draws of an estimate


def check_model(
    config: Model.Config | type[Model.Config], space: Space | None = None, given: tuple[Space, ...] = ()
) -> None:
    """All of MODEL_CHECKS. Without a space: the one of the configuration's example()."""
    _run(config, MODEL_CHECKS, ModelCase.of(config, space, given))


def check_family(family: Family | type[Family], spaces: Sequence[Space] | None = None) -> None:
    """All of FAMILY_CHECKS over every space that the family takes, of these or of SPACES."""
    family = family() if isinstance(family, type) else family
    taken = [space for space in (SPACES if spaces is None else spaces) if takes(family, space)]
    _expect(bool(taken), f"{family.type_name()} takes none of {list(SPACES if spaces is None else spaces)}")
    for space in taken:
        _run(family, FAMILY_CHECKS, FamilyCase(family, space))


def check_network(
    config: Network.Config | type[Network.Config], in_shape: Shape | None = None, out_shape: Shape | None = None
) -> None:
    """All of NETWORK_CHECKS. Without shapes: those of the configuration's example()."""
    _run(config, NETWORK_CHECKS, NetworkCase.of(config, in_shape, out_shape))


def check_dataset(data: Data) -> None:
    """All of DATASET_CHECKS."""
    _run(data, DATASET_CHECKS, data, name=data.source)


def check_metric(metric: Metric | type[Metric], model: Model | None = None) -> None:
    """All of METRIC_CHECKS, on this model of images or a tiny VAE, if the metric applies to it."""
    few = {"draws": 7} if "draws" in metric.model_fields else {}
    metric = metric(**few) if isinstance(metric, type) else metric
    case = MetricCase.of(metric, model)
    if metric.applies(case.model):
        _run(metric, METRIC_CHECKS, case)


# ---- what the checks share


def _run(component: Component | type[Component], checks: Iterable[Callable], case: Any, name: str = "") -> None:
    for check in checks:
        try:
            check(case)
        except Exception as e:
            what = e if isinstance(e, AssertionError) else repr(e)
            where = name or component.type_name()
            raise AssertionError(f"{where}: {check.__name__.replace('_', ' ')}: {what}") from e


def _expect(holds: bool, message: str) -> None:
    if not holds:
        raise AssertionError(message)


def _expect_shape(name: str, t: Tensor, shape: Sequence[int]) -> None:
    _expect(tuple(t.shape) == tuple(shape), f"{name} has shape {list(t.shape)}, expected {list(shape)}")


def _expect_equal(name: str, a: Tensor, b: Tensor, tolerance: float = 1e-9) -> None:
    _expect_shape(name, a, b.shape)
    if a.numel() and not torch.allclose(a.double(), b.double(), rtol=tolerance, atol=tolerance):
        raise AssertionError(f"{name} differ by up to {float((a.double() - b.double()).abs().max()):.3g}")


def _expect_error(error: type[UserError], what: str, call: Callable[[], Any]) -> None:
    try:
        call()
    except error as e:
        _expect(len(str(e)) > 10, f"{what}: {error.__name__} without a message")
    except Exception as e:
        raise AssertionError(f"{what}: expected a {error.__name__}, got {e!r}") from e
    else:
        raise AssertionError(f"{what}: expected a {error.__name__}, got none")


def _expect_mean(name: str, each: Tensor, expected: Tensor | float) -> None:
    """The mean over the first axis is what is expected, but for chance."""
    error = each.std(0) / math.sqrt(len(each)) + 1e-9
    off = ((each.mean(0) - expected) / error).abs().max()
    _expect(bool(off < ERRORS), f"{name} is {float(off):.1f} standard errors from what is expected")


@contextmanager
def _double() -> Iterator[None]:
    """Inside, new tensors are float64, so that equal means equal."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _round_trip(component: C, base: type[C]) -> None:
    values = json.loads(json.dumps(dump(component)))
    _expect(parse(base, values) == component, f"parse(dump(c)) is another configuration: {values}")


def _shake(module: nn.Module, *seed: int | str, scale: float = 0.3) -> None:
    """Put noise on every parameter: what begins at zero no longer hides what it is multiplied with."""
    with seeded("shake", *seed), torch.no_grad():
        for p in module.parameters():
            p.add_(scale * torch.randn_like(p))


def _state_round_trip(a: nn.Module, b: nn.Module, value: Callable[[Any], Tensor]) -> None:
    with seeded("state"):
        expected = value(a)
    b.load_state_dict(load(save({k: t.contiguous() for k, t in a.state_dict().items()})))
    with seeded("state"):
        _expect_equal("outputs before and after the file", value(b), expected)


def _gradients(losses: Callable[[], Iterable[tuple[nn.Module, Tensor]]]) -> None:
    """Every parameter has a finite gradient, and one that is not zero in at least one of three attempts."""
    moved: dict[str, bool] = {}
    for attempt in range(3):
        with seeded("gradient", attempt):
            for module, loss in losses():
                parameters = dict(module.named_parameters())
                grads = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True, retain_graph=True)
                for name, grad in zip(parameters, grads, strict=True):
                    _expect(grad is None or bool(torch.isfinite(grad).all()), f"the gradient of {name} is not finite")
                    moved[name] = moved.get(name, False) or (grad is not None and bool((grad != 0).any()))
    _expect(all(moved.values()), f"no gradient reaches {', '.join(n for n, m in moved.items() if not m)}")


def events(space: Space, n: int, *seed: int | str) -> Tensor:
    """n events of the space, uniform or standard normal: [n, *space.shape]."""
    with seeded("events", *seed):
        if space.levels is None:
            return torch.randn(n, *space.shape)
        return torch.randint(space.levels, (n, *space.shape)).to(space.dtype)


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


def condition(given: tuple[Space, ...], n: int, *seed: int | str) -> Y:
    """A condition for n events; None where nothing is given."""
    parts = tuple(events(space, n, "condition", i, *seed) for i, space in enumerate(given))
    return None if not parts else parts[0] if len(parts) == 1 else parts


def _rows(y: Y, rows: Any) -> Y:
    return None if y is None else y[rows] if isinstance(y, Tensor) else tuple(part[rows] for part in y)


def _meta(y: Y) -> Y:
    return None if y is None else y.to("meta") if isinstance(y, Tensor) else tuple(part.to("meta") for part in y)


def _expect_in_space(x: Tensor, n: int, space: Space) -> None:
    _expect_shape("a sample", x, (n, *space.shape))
    _expect(x.dtype == space.dtype, f"a sample is {x.dtype}, expected {space.dtype}")
    if space.levels is None:
        _expect(bool(torch.isfinite(x).all()), "a sample is not finite")
    else:
        _expect(bool(((x >= 0) & (x < space.levels)).all()), f"a sample is outside [0, {space.levels})")


def _expect_frequencies(x: Tensor, p: Tensor, world: Tensor, error: Tensor | float = 0.0) -> None:
    """Samples have the probabilities of the events of the world (Pearson's chi-squared test); those have this error."""
    counts = (x.reshape(len(x), 1, -1) == world.reshape(len(world), -1)).all(-1).double().sum(0)
    expected = p.double() * len(x)
    enough = expected >= 5
    terms = (counts - expected) ** 2 / (expected + (error * torch.ones_like(expected) * len(x)) ** 2)
    chance = float(chi2.sf(float(terms[enough].sum()), max(1, int(enough.sum()) - 1)))
    _expect(chance > 1e-5, f"samples have other frequencies than the density says (by chance: {chance:.1g})")
    rest = float(counts[~enough].sum() - expected[~enough].sum()) / max(1.0, float(expected[~enough].sum())) ** 0.5
    _expect(abs(rest) < 2 * ERRORS, "samples have other frequencies of rare events than the density says")


# ---- models


@dataclass(frozen=True)
class ModelCase:
    """A model's configuration and the world it is checked in."""

    config: Model.Config
    space: Space
    given: tuple[Space, ...] = ()

    @staticmethod
    def of(
        config: Model.Config | type[Model.Config], space: Space | None = None, given: tuple[Space, ...] = ()
    ) -> "ModelCase":
        example, its_space, its_given = (config if isinstance(config, type) else type(config)).example()
        config = example if isinstance(config, type) else config
        return ModelCase(config, its_space, its_given) if space is None else ModelCase(config, space, given)

    def build(self, *seed: int | str, given: tuple[Space, ...] | None = None, shake: float = 0.3) -> Model:
        with seeded("build", *seed):
            model = self.config.build(self.space, self.given if given is None else given)
        _shake(model, *seed, scale=shake)
        return model.eval()

    def x(self, n: int, *seed: int | str) -> Tensor:
        return events(self.space, n, *seed)

    def y(self, n: int, *seed: int | str) -> Y:
        return condition(self.given, n, *seed)


def _keyed_weights(model: Model, x: Tensor, y: Y, index: Sequence[int], chunks: Sequence[int]) -> Tensor:
    """log_weights with noise keyed by image, the draws in these chunks."""
    with KeyedNoise(0, index) as noise, torch.no_grad():
        return torch.cat([model.log_weights(x, y, noise.chunk(k)) for k in chunks])


def model_round_trips_through_json(case: ModelCase) -> None:
    _round_trip(case.config, Model.Config)


def model_round_trips_through_a_file(case: ModelCase) -> None:
    x, y = case.x(4), case.y(4)
    _state_round_trip(case.build("a"), case.build("b"), lambda m: m.loss(x, y).value.detach())


def model_trains_every_parameter_in_one_turn(case: ModelCase) -> None:
    model = case.build()
    turns = [turn for stage in model.stages() for turn in stage.turns]
    trained = [id(p) for turn in turns for part in turn.parts for p in part.parameters()]
    left = [name for name, p in model.named_parameters() if id(p) not in trained]
    _expect(not left, f"no turn of any stage trains {', '.join(left)}")
    _expect(len(trained) == len(set(trained)), "a parameter is in two turns")
    _expect(len({s.name for s in model.stages()}) == len(model.stages()), "two stages have one name")


def model_loss_is_a_scalar_with_terms_per_event(case: ModelCase) -> None:
    model = case.build().train()
    loss = model.loss(case.x(5), case.y(5), 3)
    _expect_shape("the loss", loss.value, ())
    _expect(bool(torch.isfinite(loss.value)), "the loss is not finite")
    _expect(bool(loss.terms), "the loss has no terms")
    for name, term in loss.terms.items():
        _expect_shape(f"the term {name}", term, (5,))
        _expect(bool(torch.isfinite(term).all()), f"the term {name} is not finite")
        _expect(not term.requires_grad, f"the term {name} holds the graph; detach it")
    model.after_step()


def model_gradients_reach_every_parameter(case: ModelCase) -> None:
    attempts = itertools.count()

    def losses() -> Iterator[tuple[nn.Module, Tensor]]:
        i = next(attempts)
        model = case.build("gradient", i).train()
        for stage in model.stages():
            for turn in stage.turns if stage.prepare is None else ():
                parts = nn.ModuleDict({str(n): part for n, part in enumerate(turn.parts)})
                if any(True for _ in parts.parameters()):
                    yield parts, turn.loss(case.x(16, i), case.y(16, i), 10**6).value

    _gradients(losses)


def model_loss_neither_syncs_nor_leaves_its_device(case: ModelCase) -> None:
    model = case.build().train().to("meta")
    loss = model.loss(case.x(4).to("meta"), _meta(case.y(4)), 1)
    _expect(loss.value.device.type == "meta", f"the loss is on {loss.value.device}")


def model_samples_are_events(case: ModelCase) -> None:
    model, y = case.build(), case.y(6)
    for temperature in (1.0, 0.5, 0.0):
        with seeded("sample"):
            x = model.sample(6, y, temperature)
        _expect_in_space(x, 6, case.space)
        with seeded("sample"):
            again = model.sample(6, y, temperature)
        _expect_equal("samples of one seed", again, x)
    _expect(not x.requires_grad, "a sample holds the graph")


def model_density_is_what_it_says(case: ModelCase) -> None:
    with _double():
        model, x, y = case.build(), case.x(5), case.y(5)
        if model.density is Density.NONE:
            _expect_error(ModelError, "log_density of a model without a density", lambda: model.log_density(x, y))
            _expect(len(model.why_no_density()) > 10, "why_no_density() gives no reason")
            return
        with torch.no_grad():
            value = model.log_density(x, y, draws=3)
        _expect_shape("log_density", value, (5,))
        _expect(bool(torch.isfinite(value).all()), "log_density is not finite")
        if model.density is Density.EXACT:
            with torch.no_grad():
                _expect_equal("two calls of an exact log_density", model.log_density(x, y), value)


def model_draws_are_as_many_as_asked(case: ModelCase) -> None:
    with _double():
        model = case.build()
        if model.density is not Density.BOUND:
            return
        n, k = 2000, 16
        x, y = case.x(1).expand(n, *case.space.shape), _rows(case.y(1), [0] * n)
        with seeded("draws"), torch.no_grad():
            log_w = model.log_weights(x, y, k)
        with seeded("draws"), torch.no_grad():
            value = model.log_density(x, y, k)
        _expect_shape(f"log_weights of {k} draws", log_w, (k, n))
        _expect_shape("log_weights of 1 draw", model.log_weights(x, y, 1), (1, n))
        expected = torch.logsumexp(log_w, 0) - math.log(k) if model.unbiased else log_w.mean(0)
        _expect_equal("log_density and the mean of its weights", value, expected)
        above = (log_w > log_w.median()).double()  # of one draw: variance 1/4, whatever the tails
        ratio = 0.25 / float(above.mean(0).var())
        _expect(k / 1.3 < ratio < k * 1.3, f"the mean of {k} draws varies as that of {ratio:.1f} independent ones")


def model_rows_are_independent(case: ModelCase) -> None:
    with _double():
        model, x, y = case.build(), case.x(5), case.y(5)
        if model.density is not Density.NONE:
            whole = _keyed_weights(model, x, y, range(5), [3])
            for i in range(5):
                alone = _keyed_weights(model, x[i : i + 1], _rows(y, slice(i, i + 1)), [i], [3])
                _expect_equal("log_weights of a row alone and in its batch", alone[:, 0], whole[:, i])
        if isinstance(model, LatentModel):
            with torch.no_grad():
                for q, one in zip(model.posteriors(x, y), model.posteriors(x[3:4], _rows(y, slice(3, 4))), strict=True):
                    _expect_equal("posterior means of a row alone and in its batch", one.mean[0], q.mean[3])


def model_noise_does_not_depend_on_chunks(case: ModelCase) -> None:
    with _double():
        model, x, y = case.build(), case.x(3), case.y(3)
        if model.density is Density.BOUND:
            whole, cut = (_keyed_weights(model, x, y, range(3), chunks) for chunks in ([5], [2, 1, 2]))
            _expect_equal("log_weights in one chunk and in three", cut, whole)


def model_refuses_what_it_cannot_take(case: ModelCase) -> None:
    model, x, y, space = case.build(), case.x(3), case.y(3), case.space
    _expect_error(ModelError, "sample(0)", lambda: model.sample(0, _rows(y, slice(0, 0))))
    for t in (-1.0, math.nan, math.inf):
        _expect_error(ModelError, f"temperature {t}", lambda t=t: model.sample(3, y, t))
    _expect_error(ModelError, "a condition too many", lambda: model.sample(3, (*_parts(y), torch.zeros(3))))
    if model.density is Density.NONE:
        return
    _expect_error(ModelError, "draws=0", lambda: model.log_density(x, y, draws=0))
    _expect_error(ModelError, "a condition too many", lambda: model.log_density(x, (*_parts(y), torch.zeros(3))))
    bigger = torch.zeros(3, *space.shape, 2, dtype=x.dtype)
    _expect_error(ModelError, "events of another shape", lambda: model.log_density(bigger, y))
    if space.levels is not None:
        _expect_error(ModelError, "real numbers for whole ones", lambda: model.log_density(x.float(), y))
        above = torch.full_like(x, min(space.levels, 255))
        if space.levels <= 255:
            _expect_error(ModelError, "values above the levels", lambda: model.log_density(above, y))


def _parts(y: Y) -> tuple[Tensor, ...]:
    return () if y is None else (y,) if isinstance(y, Tensor) else y


def model_uses_its_condition(case: ModelCase) -> None:
    """Given a label, the density depends on it; a small prior may ignore it, and a model refuse it."""
    given = case.given or (LABEL,)
    with _double():
        try:
            model = case.build(given=given)
        except UserError:
            return
        x, (a, b) = case.x(4), (condition(given, 4, "condition", i) for i in range(2))
        _expect_in_space(model.sample(4, a), 4, case.space)
        _expect_error(ModelError, "sample without a condition", lambda: model.sample(4))
        _expect_error(ModelError, "5 samples of 4 conditions", lambda: model.sample(5, a))
        if given == (LABEL,):
            _expect_error(ModelError, "a label that is not", lambda: model.sample(4, torch.full((4,), 3)))
        if model.density is Density.NONE:
            return
        _expect_error(ModelError, "log_density without a condition", lambda: model.log_density(x))
        if given == (LABEL,):
            a, b = torch.zeros(4, dtype=torch.int64), torch.ones(4, dtype=torch.int64)
            wrong = torch.full((4,), 3)
            _expect_error(ModelError, "a label that is not", lambda: model.log_density(x, wrong))
        first, second = (_keyed_weights(model, x, y, range(4), [2]) for y in (a, b))
        if not isinstance(model, Prior):
            _expect(not torch.allclose(first, second), "log_density is the same whatever is given")


def model_is_a_probability(case: ModelCase) -> None:
    """Over a world small enough to be counted, what it says adds up to 1 (a noisy bound: to no more), and samples have
    the frequencies it says."""
    with _double(), torch.no_grad(), seeded("world"):
        # shaken little: where q is far from the posterior, the mean of the weights has no known error
        model, world = case.build(shake=0.1), all_events(case.space, 256)
        if model.density is Density.NONE:
            return
        if world is None:
            _real_model_is_a_probability(case, model)
            return
        y = _rows(case.y(1), [0] * len(world))
        log_w = model.log_weights(world, y, 1 if model.density is Density.EXACT else MANY)
        if not model.unbiased:
            total = float(log_w.mean(0).exp().sum())
            _expect(total < 1.01, f"the bounds of all events add up to {total:.4f}")
            return
        w = log_w.exp()  # [K, N]
        if model.density is Density.EXACT:
            _expect_equal("the probabilities of all events and 1", w.sum(1), torch.ones(1), 1e-8)
        elif _expect_at_most_one(w.sum(1)):
            return  # dequantization: what lies beyond the scale is in the samples, but in no event's density
        error = w.std(0) / math.sqrt(len(w)) if len(w) > 1 else torch.zeros(len(world))
        _expect_frequencies(model.sample(2000, _rows(case.y(1), [0] * 2000)), w.mean(0), world, error)


def _expect_at_most_one(total: Tensor) -> bool:
    """The mean is 1 or less, but for chance; returns whether it is less."""
    error = float(total.std()) / math.sqrt(len(total)) + 1e-9
    off = (float(total.mean()) - 1) / error
    _expect(off < ERRORS, f"the probabilities of all events add up to {float(total.mean()):.4f}, more than 1")
    return off < -ERRORS


def _real_model_is_a_probability(case: ModelCase, model: Model) -> None:
    if case.space.levels is not None or case.space.dims > 2 or model.density is not Density.EXACT:
        return
    points, volume = lattice(case.space.dims)
    p = model.log_density(points.reshape(-1, *case.space.shape), _rows(case.y(1), [0] * len(points))).exp() * volume
    _expect(abs(float(p.sum()) - 1) < 1e-6, f"the density integrates to {float(p.sum()):.6f}")
    x = model.sample(MANY, _rows(case.y(1), [0] * MANY)).flatten(1)
    for power in (1, 2):
        _expect_mean(f"the samples' moment {power}", x**power, (p[:, None] * points**power).sum(0))


def model_latents_have_the_shapes_they_should(case: ModelCase) -> None:
    with _double(), torch.no_grad():
        model, x, y = case.build(), case.x(4), case.y(4)
        if not isinstance(model, LatentModel):
            return
        q = model.posteriors(x, y)
        terms = model.elbo_terms(x, y, 3)
        _expect_shape("log_px", terms.log_px, (3, 4))
        for name, t in (("log_pz", terms.log_pz), ("log_qz", terms.log_qz), ("kl", terms.kl)):
            if t is not None:
                _expect_shape(name, t, (3, 4, len(q)))
        _expect_shape("the bound", model.elbo(x, y), (4,))
        for level, z in zip(q, terms.z, strict=True):
            _expect_shape("z", z, (3, 4, *level.event_shape))
        many = _rows(y, slice(None))
        p = model.decode(terms.z, many)
        _expect(p.batch_shape == (3, 4), f"decode keeps no leading dimensions: batch shape {list(p.batch_shape)}")
        _expect(p.event_shape == case.space.shape, f"decode gives events of shape {list(p.event_shape)}")
        mean = model.sample_mean(4, y)
        _expect_shape("sample_mean", mean, (4, *case.space.shape))
        if case.space.levels is not None and case.space.ordered:
            inside = (mean >= -1e-9) & (mean <= case.space.levels - 1 + 1e-9)
            _expect(bool(inside.all()), f"sample_mean is outside [0, {case.space.levels - 1}]")


def model_closed_kl_is_the_mean_of_the_sampled_one(case: ModelCase) -> None:
    with _double(), torch.no_grad(), seeded("kl"):
        model = case.build()
        if not isinstance(model, LatentModel) or model.density is Density.NONE:
            return
        terms = model.elbo_terms(case.x(4), case.y(4), MANY)
        if terms.kl is not None:
            _expect(bool((terms.kl > -1e-9).all()), "a KL is below 0")
            _expect_mean("log q - log p", (terms.log_qz - terms.log_pz).flatten(1), terms.kl[0].flatten())


MODEL_CHECKS = (
    model_round_trips_through_json,
    model_round_trips_through_a_file,
    model_trains_every_parameter_in_one_turn,
    model_loss_is_a_scalar_with_terms_per_event,
    model_gradients_reach_every_parameter,
    model_loss_neither_syncs_nor_leaves_its_device,
    model_samples_are_events,
    model_density_is_what_it_says,
    model_draws_are_as_many_as_asked,
    model_rows_are_independent,
    model_noise_does_not_depend_on_chunks,
    model_refuses_what_it_cannot_take,
    model_uses_its_condition,
    model_is_a_probability,
    model_latents_have_the_shapes_they_should,
    model_closed_kl_is_the_mean_of_the_sampled_one,
)


# ---- families

SPACES = (
    Space((1,)),
    Space((2,)),
    Space((1, 1, 2)),
    Space((1, 2, 2), levels=2),
    Space((3, 1, 1), levels=5),
    Space((2,), levels=3),
    Space((1, 2), levels=3, ordered=False),
    Space((), levels=3, ordered=False),
)


@dataclass(frozen=True)
class FamilyCase:
    """A family and the space it is checked over."""

    family: Family
    space: Space

    def head(self) -> Head:
        head = Head(self.family, self.space)
        _shake(head, "head")
        return head

    def h(self, *lead: int, scale: float = 1.0) -> Tensor:
        with seeded("h", *lead):
            return scale * torch.randn(*lead, *self.family.param_shape(self.space))

    def __call__(self, *lead: int, scale: float = 1.0) -> Any:
        """A distribution with this batch shape, its parameters drawn anew the same."""
        return self.head()(self.h(*lead, scale=scale))

    @property
    def density(self) -> Density:
        return self.family.density(self.space)


def takes(family: Family, space: Space) -> bool:
    """Whether the family is over such events."""
    try:
        family.density(space)
    except ConfigError:
        return False
    return True


def family_round_trips_through_json(case: FamilyCase) -> None:
    _round_trip(case.family, Family)


def family_has_the_shapes_of_its_space(case: FamilyCase) -> None:
    d, x = case(3, 4), events(case.space, 4)
    _expect(d.batch_shape == (3, 4), f"batch shape {list(d.batch_shape)}, expected [3, 4]")
    _expect(d.event_shape == case.space.shape, f"event shape {list(d.event_shape)}, expected {list(case.space.shape)}")
    _expect_shape("log_prob", d.log_prob(x), (3, 4))
    _expect_shape("a sample", d.sample((2,)), (2, 3, 4, *case.space.shape))
    _expect_shape("the mode", d.mode, (3, 4, *case.space.shape))
    if case.space.ordered:
        _expect_shape("the mean", d.mean, (3, 4, *case.space.shape))
        if case.space.levels is not None:
            _expect(bool(((d.mean >= 0) & (d.mean <= case.space.levels - 1)).all()), "the mean is outside the values")


def family_samples_are_events(case: FamilyCase) -> None:
    for scale in (1.0, 30.0):
        _expect_in_space(case(4, scale=scale).sample((5,)).flatten(0, 1), 20, case.space)


def family_is_a_probability(case: FamilyCase) -> None:
    """The probabilities of all events add up to 1, samples have their frequencies; of a bound: to no more than 1."""
    with _double(), torch.no_grad(), seeded("probability"):
        d, world = case(2, scale=0.3), all_events(case.space)
        if case.density is Density.NONE:
            return
        if case.space.levels is None:
            points, volume = lattice(case.space.dims)
            p = d.log_prob(points.reshape(-1, 1, *case.space.shape)).exp() * volume  # [N, 2]
            _expect_equal("integral and 1", p.sum(0), torch.ones(2), 1e-6)
            first = (p[:, :, None] * points[:, None]).sum(0)  # [2, D]
            _expect_mean("the samples", d.sample((MANY,)).flatten(2), first)
            _expect_equal("mean and first moment", d.mean.flatten(1), first, 1e-6)
            return
        assert world is not None
        if case.density is Density.EXACT:
            p = d.log_prob(world.unsqueeze(1)).exp()
            _expect_equal("sum and 1", p.sum(0), torch.ones(2), 1e-6)
            _expect_frequencies(d.sample((MANY,))[:, 0], p[:, 0], world)
            if case.space.ordered and not case.family.joint:
                first = torch.einsum("nb,n...->b...", p, world.double())
                _expect_equal("mean and first moment", d.mean, first, 1e-6)
        else:
            x = world[:, None, None].expand(-1, 500, 2, *case.space.shape)
            for total in d.log_prob(x).exp().sum(0).T:
                _expect_at_most_one(total)


def family_samples_carry_gradients_over_real_numbers(case: FamilyCase) -> None:
    if case.space.levels is None:
        h = case.h(3).requires_grad_()
        z = case.head()(h).rsample((2,))
        (grad,) = torch.autograd.grad(z.square().sum(), h)
        _expect(bool((grad != 0).any()), "rsample has no gradient with respect to h")


def family_is_finite_far_away(case: FamilyCase) -> None:
    if case.density is Density.NONE and case.space.levels is None:
        return
    for scale in (1.0, 30.0):
        h, head = case.h(6, scale=scale).requires_grad_(), case.head()
        value = head(h).log_prob(events(case.space, 6))
        _expect(bool(torch.isfinite(value).all()), f"log_prob is not finite for |h| about {scale:.0f}")
        for grad in torch.autograd.grad(value.sum(), [h, *head.parameters()]):
            _expect(bool(torch.isfinite(grad).all()), f"the gradient is not finite for |h| about {scale:.0f}")


def family_gradients_reach_what_is_learned_once(case: FamilyCase) -> None:
    head = case.head()
    if any(True for _ in head.parameters()):
        _gradients(lambda: [(head, head(case.h(16)).log_prob(events(case.space, 16)).sum())])


def family_rows_are_independent(case: FamilyCase) -> None:
    with _double():
        h, x, head = case.h(5), events(case.space, 5), case.head()

        def value(rows: slice) -> Tensor:
            with KeyedNoise(0, range(5)[rows]) as noise:
                noise.chunk(1)
                return head(h[rows][None]).log_prob(x[rows][None])[0].detach()

        if case.density is not Density.NONE or case.space.levels is not None:
            _expect_equal("log_prob of a row alone and in its batch", value(slice(3, 4)), value(slice(0, 5))[3:4])


def family_has_a_temperature(case: FamilyCase) -> None:
    d, x = case(4), events(case.space, 4)
    if case.density is Density.EXACT:
        _expect_equal("log_prob at temperature 1", tempered(d, 1.0).log_prob(x), d.log_prob(x), 1e-5)
    cold = tempered(d, 0.0).sample((3,))
    _expect_equal("samples at temperature 0 and the mode", cold, d.mode.expand(cold.shape), 1e-6)
    _expect_in_space(tempered(d, 0.5).sample(), 4, case.space)


def family_can_be_cut_from_the_graph(case: FamilyCase) -> None:
    h = case.h(4).requires_grad_()
    d, x = case.head()(h), events(case.space, 4)
    with seeded("detached"):
        expected = d.log_prob(x)
    with seeded("detached"):
        value = detached(d).log_prob(x)
    _expect(not value.requires_grad, "detached(d) holds the graph")
    _expect_equal("log_prob of d and detached(d)", value, expected.detach(), 1e-6)


def family_neither_syncs_nor_leaves_its_device(case: FamilyCase) -> None:
    d: Distribution = case.head().to("meta")(case.h(4).to("meta"))
    value = d.log_prob(events(case.space, 4).to("meta"))
    _expect(value.device.type == "meta" and value.shape == (4,), f"log_prob is {value.shape} on {value.device}")


FAMILY_CHECKS = (
    family_round_trips_through_json,
    family_has_the_shapes_of_its_space,
    family_samples_are_events,
    family_is_a_probability,
    family_samples_carry_gradients_over_real_numbers,
    family_is_finite_far_away,
    family_gradients_reach_what_is_learned_once,
    family_rows_are_independent,
    family_has_a_temperature,
    family_can_be_cut_from_the_graph,
    family_neither_syncs_nor_leaves_its_device,
)


# ---- networks


@dataclass(frozen=True)
class NetworkCase:
    """A network's configuration and the shapes it is checked with."""

    config: Network.Config
    in_shape: Shape
    out_shape: Shape
    width: int = 3  # of the context

    @staticmethod
    def of(
        config: Network.Config | type[Network.Config], in_shape: Shape | None = None, out_shape: Shape | None = None
    ) -> "NetworkCase":
        example, its_in, its_out = (config if isinstance(config, type) else type(config)).example()
        config = example if isinstance(config, type) else config
        return NetworkCase(
            config, its_in if in_shape is None else in_shape, its_out if out_shape is None else out_shape
        )

    def build(self, *seed: int | str, context: int = 0) -> Network:
        with seeded("build", *seed):
            network = self.config.build(self.in_shape, self.out_shape, context)
        _shake(network, *seed)
        return network.eval()

    def x(self, n: int) -> Tensor:
        return events(Space(self.in_shape), n)

    def c(self, n: int, *seed: int | str) -> Tensor:
        return events(Space((self.width,)), n, "c", *seed)


def network_round_trips_through_json(case: NetworkCase) -> None:
    _round_trip(case.config, Network.Config)


def network_round_trips_through_a_file(case: NetworkCase) -> None:
    _state_round_trip(case.build("a"), case.build("b"), lambda network: network(case.x(3)).detach())


def network_puts_out_the_shape_asked_for(case: NetworkCase) -> None:
    out = case.build()(case.x(3))
    _expect_shape("the output", out, (3, *case.out_shape))
    _expect(bool(torch.isfinite(out).all()), "the output is not finite")
    _expect_shape("the output given a context", case.build(context=3)(case.x(3), case.c(3)), (3, *case.out_shape))


def network_uses_its_input_and_its_context(case: NetworkCase) -> None:
    network = case.build(context=case.width)
    out = network(case.x(4), case.c(4))
    _expect(not torch.allclose(out, network(case.x(4), case.c(4, "other"))), "the context changes nothing")
    _expect(not torch.allclose(out, network(case.x(4).flip(0), case.c(4))), "the input changes nothing")


def network_rows_are_independent(case: NetworkCase) -> None:
    with _double():
        network, x, c = case.build(context=case.width), case.x(4), case.c(4)
        _expect_equal("a row alone and in its batch", network(x[2:3], c[2:3]), network(x, c)[2:3])


def network_gradients_reach_every_parameter(case: NetworkCase) -> None:
    network = case.build(context=case.width).train()
    _gradients(lambda: [(network, network(case.x(16), case.c(16)).square().sum())])


def network_neither_syncs_nor_leaves_its_device(case: NetworkCase) -> None:
    out = case.build(context=case.width).to("meta")(case.x(3).to("meta"), case.c(3).to("meta"))
    _expect(out.device.type == "meta", f"the output is on {out.device}")


NETWORK_CHECKS = (
    network_round_trips_through_json,
    network_round_trips_through_a_file,
    network_puts_out_the_shape_asked_for,
    network_uses_its_input_and_its_context,
    network_rows_are_independent,
    network_gradients_reach_every_parameter,
    network_neither_syncs_nor_leaves_its_device,
)


# ---- data sets


def dataset_round_trips_through_json(data: Data) -> None:
    _round_trip(data, Data)


def _open_parts(data: Data) -> dict[str, Images]:
    found = {}
    for part in PARTS:
        try:
            found[part] = data.open(part)
        except DataError:
            continue  # a part may be empty
    return found


def dataset_opens_to_images(data: Data) -> None:
    images = data.open("all")
    x, n = images.x, len(images)
    _expect(n > 0, "there are no images")
    _expect(x.dtype == np.uint8 and x.ndim == 4, f"x is {x.dtype} of {x.ndim} axes, expected uint8 [N, C, H, W]")
    _expect(images.shape == x.shape[1:], f"shape says {images.shape}, x has {x.shape[1:]}")
    _expect(2 <= images.levels <= 256, f"levels is {images.levels}, expected 2 to 256")
    _expect(max(int(x[i : i + 4096].max()) for i in range(0, n, 4096)) < images.levels, "a value is not below levels")
    for name in ("y", "paths", "factors"):
        values = getattr(images, name)
        _expect(values is None or len(values) == n, f"{name} has {0 if values is None else len(values)} rows, x {n}")
    if images.y is not None:
        _expect(images.y.dtype == np.int64, f"y is {images.y.dtype}, expected int64")
        classes = len(images.classes or ())
        _expect(bool((images.y.min() >= 0) and images.y.max() < classes), f"a label is outside [0, {classes})")
    _expect(images.ignored >= 0 and isinstance(images.unreadable, tuple), "no account of unreadable files")


def dataset_parts_are_the_whole(data: Data) -> None:
    parts, whole = _open_parts(data), data.open("all")
    _expect("train" in parts, "there is no training part")
    counts = [len(images) for images in parts.values()]
    _expect(sum(counts) == len(whole), f"the parts have {counts} images, the whole {len(whole)}")
    _expect(
        np.array_equal(np.concatenate([i.x[:5] for i in parts.values()]), np.concatenate(_heads(whole, counts))), ""
    )


def _heads(whole: Images, counts: Sequence[int]) -> list[np.ndarray]:
    starts = itertools.accumulate([0, *counts[:-1]])
    return [whole.x[start : start + min(5, count)] for start, count in zip(starts, counts, strict=True)]


def dataset_opens_again_the_same(data: Data) -> None:
    a, b = data.open("train").head(100), data.open("train").head(100)
    _expect(np.array_equal(a.x, b.x), "opened twice, the images differ")


def dataset_makes_batches(data: Data) -> None:
    images = data.open("train").head(50)
    batches = Batches(images, torch.device("cpu"), label=images.y is not None)
    seen = np.concatenate([batch.x.numpy() for batch in batches.in_order(7)])
    _expect(np.array_equal(seen, images.x), "batches in order are not the images in order")
    first, again, other = (batches.training(step, 8, 0)[0] for step in (0, 0, 1))
    _expect(torch.equal(first, again), "the batch of a step is not a function of the step")
    _expect(len(images) < 16 or not torch.equal(first, other), "two steps have the same batch")


def dataset_knows_its_splits(data: Data) -> None:
    _expect_error(DataError, "an unknown split", lambda: data.open("trian"))


DATASET_CHECKS = (
    dataset_round_trips_through_json,
    dataset_opens_to_images,
    dataset_parts_are_the_whole,
    dataset_opens_again_the_same,
    dataset_makes_batches,
    dataset_knows_its_splits,
)


# ---- metrics


@dataclass(frozen=True)
class MetricCase:
    """A metric, a model of images, and images of its space."""

    metric: Metric
    model: Model
    images: Batches

    @staticmethod
    def of(metric: Metric, model: Model | None = None) -> "MetricCase":
        model = ModelCase.of(VAE.Config).build() if model is None else model
        levels = model.space.levels
        if levels is None or len(model.space.shape) != 3:
            raise ValueError(f"check_metric takes a model of images, got one of events {model.space}")
        label = model.given[0] if len(model.given) == 1 else None
        classes = None if label is None else tuple(str(i) for i in range(label.levels or 0))
        y = None if label is None else events(label, 11).numpy().astype(np.int64)
        x = events(model.space, 11).numpy()
        images = Images("random", "test", x, levels, y=y, classes=classes)
        return MetricCase(metric, model, Batches(images, torch.device("cpu"), label=label is not None))

    def __call__(self, seed: int = 0, limit: int | None = None, advance: Callable[[int], None] = lambda n: None):
        with torch.no_grad():
            return self.metric(self.model, self.images, seed, limit, advance)


def metric_round_trips_through_json(case: MetricCase) -> None:
    _round_trip(case.metric, Metric)


def metric_gives_the_values_it_names(case: MetricCase) -> None:
    done: list[int] = []
    values = case(advance=done.append)
    _expect(set(values) == set(case.metric.names), f"gives {sorted(values)}, names {sorted(case.metric.names)}")
    _expect(sum(done) == len(case.images), f"advance was told of {sum(done)} images of {len(case.images)}")
    for name, value in values.items():
        _expect(isinstance(value, Value), f"{name} is a {type(value).__name__}")
        _expect(value.relation in ("=", "<=", ">=", "?"), f"{name} has the relation {value.relation!r}")
        _expect((value.value is None) == (value.relation == "?"), f"{name}: value and relation disagree")
        if value.value is not None:
            _expect(math.isfinite(value.value) and bool(value.unit), f"{name} is {value.value} {value.unit}")
            _expect(value.n == len(case.images), f"{name} counts {value.n} images of {len(case.images)}")
        if value.each is not None and value.value is not None:
            _expect(value.each.shape == (value.n,), f"{name} has {value.each.shape} values per image")
            _expect(np.isclose(value.each.mean(), value.value), f"{name} is not the mean of its values per image")
    json.dumps([value.detail for value in values.values()], allow_nan=False)


def metric_does_not_depend_on_batch_size(case: MetricCase) -> None:
    expected = case()
    for rows in (1, 3):
        with _rows_at_once(rows):
            _expect_same_values(f"with {rows} rows at once", case(), expected)


@contextmanager
def _rows_at_once(rows: int) -> Iterator[None]:
    """Inside, metrics take so many rows at once."""
    with ExitStack() as stack:
        for name, module in list(sys.modules.items()):
            if getattr(module, "rows_at_once", None) is not None and not name.endswith("testing"):
                stack.enter_context(patch.object(module, "rows_at_once", lambda model: rows))
        yield


def _expect_same_values(
    when: str, values: dict[str, Value], expected: dict[str, Value], rows: int | None = None
) -> None:
    """The same per image (of the first `rows`), and on the whole where these are all."""
    for name, value in values.items():
        other = expected[name]
        if value.each is not None and other.each is not None:
            same = np.allclose(value.each, other.each[:rows], rtol=1e-4, atol=1e-6)
            _expect(same, f"{name} of an image is another {when}")
        if rows is None and value.value is not None and other.value is not None:
            same = bool(np.isclose(value.value, other.value, rtol=1e-5))
            _expect(same, f"{name} is {other.value}, and {value.value} {when}")


def metric_noise_is_keyed_by_seed(case: MetricCase) -> None:
    expected = case(seed=1)
    torch.rand(7)  # the global noise moves on
    _expect_same_values("measured again", case(seed=1), expected)


def metric_takes_the_first_images(case: MetricCase) -> None:
    whole, part = case(), case(limit=4)
    for name, value in part.items():
        _expect(value.value is None or value.n == 4, f"{name} counts {value.n} images of 4")
    _expect_same_values("with limit=4", part, whole, 4)


def metric_is_found_by_its_names(case: MetricCase) -> None:
    case.model.train()
    values = measure(case.model, case.images, names=case.metric.names, options={"draws": 3}, limit=2)
    _expect(case.model.training, "the model is left in eval mode")
    case.model.eval()
    _expect(set(values) == set(case.metric.names), f"measure gives {sorted(values)}")


METRIC_CHECKS = (
    metric_round_trips_through_json,
    metric_gives_the_values_it_names,
    metric_does_not_depend_on_batch_size,
    metric_noise_is_keyed_by_seed,
    metric_takes_the_first_images,
    metric_is_found_by_its_names,
)

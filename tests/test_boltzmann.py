"""Restricted Boltzmann machines: on machines whose states can be counted, everything that is estimated is known."""

import csv
import math
import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import lowerbound as lb
from command import call, right
from lowerbound import testing
from lowerbound.config import parse
from lowerbound.errors import ConfigError, Interrupted, ModelError
from lowerbound.metrics.likelihood import NLL, Bound
from lowerbound.model import Draw, Model
from lowerbound.models.boltzmann import RBM
from lowerbound.models.machines import Machine, all_bits
from lowerbound.models.negatives import Contrastive, Negative, Persistent, Tempered
from lowerbound.models.partition import Annealing, annealed, from_above, from_below, mean_of
from lowerbound.models.visibles import Binary, Gaussian
from lowerbound.noise import seeded
from lowerbound.progress import Progress
from lowerbound.schedules import DDIM
from lowerbound.space import Density, Estimate, Space
from lowerbound.testing.base import (
    all_events,
    double,
    expect_frequencies,
    expect_mean,
    run_checks,
    shake_parameters,
)
from lowerbound.testing.cases import ModelCase
from lowerbound.training.train import train
from lowerbound.verbs.compare import plot
from lowerbound.verbs.doctor.likelihoods import two_sides

BINARY, LABEL = Space((1, 2, 2), levels=2), Space((), levels=3, ordered=False)
REAL, CHAINS = Space((2,)), Persistent(chains=12)


def machine(V: int = 6, H: int = 5, scale: float = 1.0, *seed: int) -> Machine:
    """Of random weights, float64."""
    with seeded("machine", *seed):
        W, b, c = (scale * torch.randn(*shape, dtype=torch.float64) for shape in ((V, H), (V,), (H,)))
    return Machine(Binary(), W, b, c, torch.ones(V, dtype=torch.float64))


def model(negative: Negative = CHAINS, space: Space = BINARY, given: tuple[Space, ...] = (), **more: Any) -> RBM:
    with seeded("model"):
        rbm = RBM.Config(hidden=3, negative=negative, steps=100, **more).build(space, given)
    shake_parameters(rbm, "model", scale=1.0)
    return rbm


def bits(n: int) -> Tensor:
    return torch.cat(list(all_bits(n, 1000, torch.zeros((), dtype=torch.float64))))


# ---- energies


@pytest.mark.parametrize("beta", [0.0, 0.4, 1.0])
def test_free_energies_are_sums_over_the_other_layer(beta: float):
    m, base = machine(), torch.linspace(-1, 1, 6, dtype=torch.float64)
    m = m.tempered(beta, base)
    v, h = bits(6), bits(5)
    b = base + beta * (machine().b - base)
    minus_energy = (v @ b)[:, None] + beta * (h @ m.c)[None] + beta * v @ m.W @ h.T  # [64, 32]
    torch.testing.assert_close(-m.free_energy(v), torch.logsumexp(minus_energy, 1))
    torch.testing.assert_close(m.log_weight(h), torch.logsumexp(minus_energy, 0))
    torch.testing.assert_close(m.log_z(), torch.logsumexp(minus_energy.flatten(), 0))
    if beta == 0:
        torch.testing.assert_close(m.log_z(), m.log_z_without_connections())


def test_either_layer_may_be_counted():
    m = machine(6, 5)
    swapped = m._replace(W=m.W.T, b=m.c, c=m.b, scale=torch.ones(5, dtype=torch.float64))  # counts the visible ones
    torch.testing.assert_close(m.log_z(), swapped.log_z())


def test_gaussian_weights_are_integrals():
    """Of two visible units, over a lattice."""
    with double():
        rbm = model(visible=Gaussian(learned=True), space=REAL)
        m = rbm.energy.machine()
        points, volume = testing.base.lattice(2, reach=15.0, step=0.05)
        for h in bits(3):
            inside = m.units.log_g(points, m.b, m.scale) + m.units.seen(points, m.scale) @ m.W @ h + h @ m.c
            torch.testing.assert_close(torch.logsumexp(inside, 0) + math.log(volume), m.log_weight(h))


def test_every_draw_of_the_hidden_units_gives_log_p():
    with double(), torch.no_grad():
        rbm, x = model(), all_events(BINARY)
        assert x is not None
        terms = rbm.elbo_terms(x, draws=5)
        torch.testing.assert_close(terms.log_weight, rbm.log_density(x).expand(5, -1))
        assert float(rbm.log_density(x).exp().sum()) == pytest.approx(1, abs=1e-12)


# ---- gradients


def exact_gradient(rbm: RBM, x: Tensor, y: Any = None) -> list[Tensor]:
    """Of the mean of -log p(x|y), by counting."""
    return list(torch.autograd.grad(-rbm.log_density(x, y).mean(), list(rbm.energy.parameters())))


def settled(rbm: RBM, chains: int = 2000, steps: int = 60) -> None:
    """Persistent chains that are samples of the model."""
    rbm.chains = torch.randint(2, (len(rbm.chains), chains, 3)).to(torch.uint8)
    for _ in range(steps):
        rbm.after_step()


@pytest.mark.parametrize("given", [(), (LABEL,)], ids=["alone", "given a label"])
@pytest.mark.parametrize("negative", [Persistent(), Tempered(temperatures=3)], ids=["persistent", "tempered"])
def test_the_loss_has_the_gradient_of_log_p_where_its_samples_are_the_model_s(negative: Negative, given: Any):
    """Labels of a batch needn't be as frequent as those of chains."""
    with double(), seeded("gradient"):
        rbm = model(negative, given=given)
        x, y = testing.base.events(BINARY, 40), torch.tensor([0] * 25 + [1] * 10 + [2] * 5) if given else None
        settled(rbm)
        expected = exact_gradient(rbm, x, y)
        found = []
        for _ in range(25):
            rbm.after_step()
            found.append(torch.autograd.grad(rbm.loss(x, y).value, list(rbm.energy.parameters())))
        for each, wanted in zip(zip(*found, strict=True), expected, strict=True):
            expect_mean("the gradient", torch.stack(each), wanted)


def test_contrastive_divergence_comes_nearer_with_more_steps():
    """CD is biased: one step is far from the gradient, thirty are not."""
    with double(), seeded("divergence"):
        far = []
        for steps in (1, 30):
            rbm = model(Contrastive(steps=steps))
            rbm.energy.W.data *= 3  # mixes slowly
            x = torch.ones(4000, 1, 2, 2, dtype=torch.uint8)  # where the model rarely is
            expected = exact_gradient(rbm, x)
            found = torch.autograd.grad(rbm.loss(x).value, list(rbm.energy.parameters()))
            far.append(max(float((a - b).abs().max()) for a, b in zip(found, expected, strict=True)))
        assert far[0] > 0.1
        assert far[1] < far[0] / 4


# ---- chains


def test_tempered_chains_have_the_frequencies_of_their_temperatures():
    with double(), seeded("tempered"):
        m, base = machine(4, 3), torch.linspace(-1, 1, 4, dtype=torch.float64)
        negative, h = Tempered(temperatures=3), torch.zeros(3, 4000, 3)
        for _ in range(50):
            h = negative.moved(h, m, base)
        for own, beta in zip(h, (0.0, 0.5, 1.0), strict=True):
            at = m.tempered(beta, base)
            expect_frequencies(own, (at.log_weight(bits(3)) - at.log_z()).exp(), bits(3))


def test_tempering_brings_chains_over_where_gibbs_alone_stays():
    """Two modes of equal weight, which block Gibbs sampling doesn't leave."""
    W = 4.0 * torch.ones(6, 4, dtype=torch.float64)
    m = Machine(Binary(), W, -0.5 * W.sum(1), -0.5 * W.sum(0), torch.ones(6, dtype=torch.float64))
    up = torch.ones(8, 200, 4, dtype=torch.float64)
    base = torch.zeros(6, dtype=torch.float64)
    with seeded("modes"):
        stayed, tempered = up[:1], up
        for _ in range(100):
            stayed = Persistent().moved(stayed, m, base)
            tempered = Tempered(temperatures=8).moved(tempered, m, base)
    assert float(stayed.mean()) > 0.95
    assert float(tempered[-1].mean()) == pytest.approx(0.5, abs=0.15)


@pytest.mark.parametrize("negative", [Persistent(chains=12), Tempered(chains=12, temperatures=3), Contrastive()])
def test_training_resumes_with_its_chains_bit_for_bit(negative: Negative):
    """With log Z estimated, as of a machine that can't be counted: in a stage of its own."""
    config = RBM.Config(hidden=3, counted=0, negative=negative, annealing=QUICK, steps=20)
    testing.check_training(config, BINARY, (LABEL,) if negative.shape[0] else ())


# ---- log Z

QUICK = Annealing(chains=4, temperatures=5, burn_in=2)


def test_temperatures_go_from_0_to_1():
    for T in (2, 3, 5, 29, 14500):
        betas = Annealing(temperatures=T).betas()
        assert len(betas) == T + 1
        assert (betas[0], betas[-1]) == (0, 1)
        assert all(np.diff(betas) > 0)
    betas = np.diff(Annealing().betas())  # those of the paper: 500, 4,000 and 10,000
    np.testing.assert_allclose(betas[[0, 499, 500, 4499, 4500, -1]], [1e-3, 1e-3, 1e-4, 1e-4, 1e-5, 1e-5], rtol=1e-6)


@pytest.mark.parametrize("units", ["binary", "gaussian"])
def test_weights_of_annealing_are_unbiased_from_both_sides(units: str):
    """With few temperatures, so that they scatter."""
    with double(), seeded("weights"):
        rbm = model(visible=Binary() if units == "binary" else Gaussian(), space=BINARY if units == "binary" else REAL)
        m = rbm.energy.machine()
        m = Machine(m.units, m.W.detach(), m.b.detach(), m.c.detach(), m.scale)
        base = torch.linspace(-1, 1, len(m.b))
        ratio = float(m.log_z() - m.tempered(0, base).log_z_without_connections())
        n, betas = 20000, [0, 0.3, 0.7, 1]
        up = annealed(m, base, m.units.draw(base.expand(n, -1), m.scale), betas)
        expect_mean("w / E[w]", (up - ratio).exp(), 1.0)
        v = m.visible(m.stepped(torch.zeros(n, 3), 200))
        down = annealed(m, base, v, betas[::-1])
        expect_mean("w / E[w] in reverse", (down + ratio).exp(), 1.0)
        assert up.mean() < ratio < -down.mean()


def test_estimates_come_near_log_z_and_say_how_near():
    """Of 32 machines: the errors scatter as the standard errors say, from below and from above."""
    how = Annealing(chains=60, temperatures=80, burn_in=50)
    scaled: dict[str, list[float]] = {"below": [], "above": []}
    for i in range(32):
        m, base = machine(6, 5, 0.7, i), torch.zeros(6, dtype=torch.float64)
        with seeded("annealing", i):
            below = from_below(m, base, how)
            above = from_above(m, base, m.visible(torch.zeros(10, 5, dtype=torch.float64)), how)
        truth = float(m.log_z())
        assert below.log == pytest.approx(truth, abs=0.2)
        assert above.log == pytest.approx(truth, abs=0.2)
        scaled["below"].append((below.log - truth) / below.error)
        scaled["above"].append((above.log - truth) / above.error)
    for errors in scaled.values():
        assert 0.65 < np.std(errors) < 1.45
        assert abs(np.mean(errors)) < 0.6


def test_the_mean_of_weights_and_its_error():
    w = torch.tensor([1.0, 2.0, 3.0, 6.0], dtype=torch.float64)
    found = mean_of(w.log())
    assert found.log == pytest.approx(math.log(3))
    assert found.error == pytest.approx(float(w.std()) / 2 / 3)


def estimated(given: tuple[Space, ...] = (), **more: Any) -> RBM:
    """A machine that is not counted, with its estimate."""
    rbm = model(given=given, counted=0, annealing=Annealing(chains=200, temperatures=300, burn_in=50), **more)
    settle(rbm)
    return rbm


def settle(rbm: RBM) -> None:
    (stage,) = (stage for stage in rbm.stages() if stage.fit)
    y = testing.base.condition(rbm.given, 30)
    assert stage.fit is not None
    with seeded("fit"):
        stage.fit([(testing.base.events(rbm.space, 30), y)])


@pytest.mark.parametrize("given", [(), (LABEL,)], ids=["alone", "given a label"])
@pytest.mark.parametrize("negative", [Persistent(chains=12), Contrastive()], ids=["chains", "data"])
def test_an_estimate_is_near_what_is_counted(given: Any, negative: Negative):
    with double(), torch.no_grad():
        counted, other = model(negative, given=given), estimated(given, negative=negative)
        x, y = testing.base.events(BINARY, 30), testing.base.condition(given, 30)
        torch.testing.assert_close(other.log_density(x, y), counted.log_density(x, y), atol=0.06, rtol=0)
        assert counted.density is Density.EXACT
        assert other.density is Density.ESTIMATE
        assert counted.estimate is None
        assert other.estimate is not None
        assert 0 < other.estimate.error < 0.05
        assert abs(other.estimate.reverse - other.estimate.log_z) < 0.1


def test_a_label_that_no_event_has_is_estimated_too():
    rbm = model(Contrastive(), given=(LABEL,), counted=0, annealing=QUICK)
    rbm._fit_log_z([(testing.base.events(BINARY, 8), torch.zeros(8, dtype=torch.int64))])
    assert rbm.density is Density.ESTIMATE


def test_a_step_of_training_makes_an_estimate_one_of_other_weights():
    rbm = estimated()
    rbm.after_step()
    assert rbm.density is Density.NONE
    with pytest.raises(ModelError, match="not estimated"):
        rbm.log_density(testing.base.events(BINARY, 2))


def test_the_parts_of_a_density_at_their_worst():
    assert Density.worst(Density.EXACT, Density.ESTIMATE) is Density.ESTIMATE
    assert Density.worst(Density.BOUND, Density.ESTIMATE) is Density.ESTIMATE
    assert Density.worst(Density.NONE, Density.ESTIMATE) is Density.NONE


# ---- what else it does


def test_the_rest_of_an_image_is_drawn_as_its_probability_given_what_is_kept():
    with double(), torch.no_grad(), seeded("rest"):
        rbm, world = model(), all_events(BINARY)
        assert world is not None
        kept = torch.tensor([[True, True], [False, False]])
        x = world[[5] * 2000]
        drawn = rbm.complete(x, kept).x
        assert torch.equal(drawn[..., 0, :], x[..., 0, :])
        fits = (world == world[5])[:, 0, 0].all(-1)
        expect_frequencies(drawn, rbm.log_density(world[fits]).softmax(0), world[fits])


def test_states_of_a_chain_have_the_probabilities_of_the_model():
    with double(), torch.no_grad():
        rbm, world = model(), all_events(BINARY)
        assert world is not None
        with seeded("chain"):
            states = rbm.chain(4000, 3)
        for t in range(3):
            expect_frequencies(states[:, t], rbm.log_density(world).exp(), world)
        with seeded("chain"):
            assert torch.equal(rbm.sample(4000), states[:, 0])
        alike = (states[:, 0] == states[:, 1]).double().mean()
        assert alike > (states[:, 0] == states[:, 1].roll(1, 0)).double().mean() + 0.015


def test_at_temperature_0_a_sample_is_where_every_unit_is_at_its_likelier_value():
    with double(), seeded("mode"):
        rbm = model()
        h = rbm.draw(3, how=Draw(temperature=0.0)).z[0].double()
        m = rbm.energy.machine()
        assert torch.equal(m.stepped(h, temperature=0), h)


def test_latents_are_probabilities_of_the_hidden_units():
    with torch.no_grad():
        rbm, x = model(), testing.base.events(BINARY, 4)
        expected = (x.flatten(1).float() @ rbm.energy.W + rbm.energy.c).sigmoid()
        torch.testing.assert_close(rbm.encode(x).mean, expected)
        torch.testing.assert_close(rbm.features(x), expected)


@pytest.mark.parametrize(
    ("units", "space"),
    [(Gaussian(), REAL), (Gaussian(learned=True), REAL), (Gaussian(learned=True), Space((2,), levels=5))],
    ids=["real", "of its own variance", "grey"],
)
def test_other_visible_units_pass_the_batteries(units: Gaussian, space: Space):
    testing.check_model(RBM.Config(hidden=2, visible=units, negative=Persistent(chains=12), steps=100), space)


def test_tempered_and_contrastive_pass_the_batteries():
    for negative in (Contrastive(steps=2), Tempered(chains=12, temperatures=3)):
        testing.check_model(RBM.Config(hidden=3, negative=negative, steps=100), BINARY)


@dataclass(frozen=True)
class Settled(ModelCase):
    """Machines whose log Z is estimated."""

    def build(self, *seed: int | str, given: tuple[Space, ...] | None = None, shake: float = 0.3) -> Model:
        rbm = super().build(*seed, given=given, shake=shake)
        assert isinstance(rbm, RBM)
        settle(rbm)
        assert rbm.density is Density.ESTIMATE
        return rbm


@pytest.mark.parametrize("given", [(), (LABEL,)], ids=["alone", "given a label"])
def test_an_estimated_machine_passes_the_battery(given: Any):
    how = Annealing(chains=30, temperatures=10, burn_in=20)
    config = RBM.Config(hidden=3, negative=CHAINS, steps=100, counted=0, annealing=how)
    run_checks(config, testing.MODEL_CHECKS, Settled(config, BINARY, given))


def test_metrics_take_an_estimated_machine():
    rbm = estimated()
    testing.check_metric(NLL(draws=3), rbm)
    testing.check_metric(Bound(), rbm)


# ---- mistakes


def test_mistakes_are_named():
    with pytest.raises(ConfigError, match=r"binary units have two values, and these events are of 256 values; binariz"):
        RBM.Config().build(Space((1, 4, 4), levels=256))
    with pytest.raises(ConfigError, match="these events are real numbers"):
        RBM.Config().build(REAL)
    with pytest.raises(ConfigError, match="at least 3, one for each label, got 2"):
        RBM.Config(negative=Persistent(chains=2)).build(BINARY, (LABEL,))
    with pytest.raises(ConfigError, match="labels alone"):
        RBM.Config().build(BINARY, (REAL,))
    for wrong_value in (
        {"annealing": {"temperatures": 1}},
        {"negative": {"type": "models.negatives.Persistent", "steps": 0}},
        {"negative": {"type": "models.negatives.Persistent", "chains": 0}},
        {"steps": 0},
    ):
        with pytest.raises(ConfigError, match=r"expected a whole number (above|of at least) [01], got"):
            parse(Model.Config, {"type": "models.boltzmann.RBM", **wrong_value})
    with pytest.raises(ModelError, match="--sampler"):
        model().draw(2, how=Draw(sampler=DDIM()))


def test_doctor_sees_two_sides_that_differ():
    well = Estimate(90.0, 0.02, 90.08, 0.03, 100, 1000)
    assert not two_sides(well).wrong
    check = two_sides(well._replace(reverse=90.2))
    assert check.wrong
    assert "temperatures=10000" in check.remedy


# ---- as runs


SMALL = ["model.hidden=6", "model.steps=20", "train.steps=60", "model.negative.steps=1"]
SMALL += [f"model.annealing.{k}" for k in ("temperatures=100", "chains=50", "burn_in=20")]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Of binarized digits: a small machine that is counted, and the same one estimated."""
    folder = tmp_path_factory.mktemp("machines")
    for name, more in {"counted": [], "estimated": ["model.counted=0"]}.items():
        right("train", "rbm-digits", "--out", folder / name, *SMALL, *more)
        right("evaluate", folder / name)
    return {name: folder / name for name in ("counted", "estimated")}


def test_a_report_says_how_sure_it_is_of_what_is_estimated(runs: dict[str, Path]):
    counted, found = (right("evaluate", runs[name], "--json").json["metrics"] for name in ("counted", "estimated"))
    nll, e = found["nll"], found["nll"]["recipe"]["estimate"]
    assert (counted["nll"]["relation"], nll["relation"], found["elbo"]["relation"], found["kl"]["relation"]) == tuple(
        "=~~~"
    )
    assert found["distortion"]["relation"] == "="
    each = np.load(runs["estimated"] / "evaluation" / "test.npz")["nll"]
    sampling = each.std(ddof=1) / math.sqrt(len(each))
    assert e["error"] > 0
    assert nll["stderr"] == pytest.approx(math.hypot(sampling, e["error"]))
    assert found["bits_per_dim"]["stderr"] == pytest.approx(nll["stderr"] / (64 * math.log(2)))
    assert nll["recipe"]["reverse"] == pytest.approx(nll["value"] + e["reverse"] - e["log_z"])
    assert (e["chains"], e["temperatures"]) == (50, 100)
    low, high = nll["interval"]
    assert low < min(nll["value"], nll["recipe"]["reverse"]) < max(nll["value"], nll["recipe"]["reverse"]) < high
    assert "recipe" not in counted["nll"]


def test_scores_have_the_relation_of_an_estimate(runs: dict[str, Path], tmp_path: Path):
    report = right("score", runs["estimated"], "digits", "--split", "valid", "--out", tmp_path / "s.csv", "--json").json
    assert report["relation"] == "~"
    with (tmp_path / "s.csv").open(newline="") as file:
        assert {line["relation"] for line in csv.DictReader(file)} == {"~"}


def test_a_difference_to_an_estimate_is_as_unsure_as_that(runs: dict[str, Path], tmp_path: Path):
    page = tmp_path / "page.html"
    report = right("compare", runs["counted"], runs["estimated"], "--json", "--html", page).json
    exact, row = report["runs"]
    each = [np.load(runs[name] / "evaluation" / "test.npz")["nll"] for name in ("counted", "estimated")]
    paired, error = each[1] - each[0], right("evaluate", runs["estimated"], "--json").json
    common = error["metrics"]["nll"]["recipe"]["estimate"]["error"]
    assert (exact["nll"]["relation"], row["nll"]["relation"], row["difference"]["relation"]) == ("=", "~", "~")
    assert row["difference"]["stderr"] == pytest.approx(
        math.hypot(paired.std(ddof=1) / math.sqrt(len(paired)), common), rel=1e-6
    )
    assert any("log Z is estimated" in note for note in report["notes"])
    drawn = page.read_text()
    assert "A bar: where it lies" in drawn
    (bar,), points = re.findall(r'd="M([\d.]+) [\d.]+ V', drawn), re.findall(r'class="mark" cx="([\d.]+)"', drawn)
    assert bar in points
    assert all(plot.LEFT <= float(x) <= plot.WIDTH - plot.RIGHT for x in points)


def test_more_steps_need_a_new_estimate(runs: dict[str, Path]):
    """log Z of former weights is not that of these; and it can be estimated again alone."""
    run = lb.Run.open(runs["estimated"])
    before = run.load().estimate
    assert before is not None
    again = ["train", "rbm-digits", "--out", runs["estimated"], *SMALL, "model.counted=0"]
    right(*again, "--stage", "log_z", "--overwrite")
    assert lb.Run.open(runs["estimated"]).load().estimate == before
    again += ["model.annealing.temperatures=150"]
    right(*again, "--stage", "log_z", "--overwrite")
    after = lb.Run.open(runs["estimated"]).load().estimate
    assert after is not None
    assert after.temperatures == 150
    assert after.log_z == pytest.approx(before.log_z, abs=0.5)
    done = call(*again, "--resume", "train.steps=70")
    assert done.status == 2
    assert "--stage log_z --overwrite" in done.err


class Asking(Progress):
    """Told how far a stage is; Ctrl-C comes in the middle of the one that estimates, unless it is gone on with."""

    def __init__(self, stop: bool):
        self.stop, self.parts = stop, []

    @contextmanager
    def bar(self, total: int, start: int = 0) -> Iterator[Any]:
        def tell(step: float, terms: Any) -> None:
            if step % 1:
                self.parts.append(step)
            if self.stop and len(self.parts) == 10:
                os.kill(os.getpid(), signal.SIGINT)

        yield tell


def test_an_estimate_tells_how_far_it_is_and_begins_anew_after_ctrl_c(tmp_path: Path):
    whole, parts, changes = tmp_path / "whole", tmp_path / "parts", [*SMALL, "model.counted=0"]
    asked, again = Asking(stop=True), Asking(stop=False)
    train("rbm-digits", out=whole, changes=changes)
    with pytest.raises(Interrupted):
        train("rbm-digits", out=parts, changes=changes, progress=asked)
    assert len(asked.parts) == 10
    train("rbm-digits", out=parts, changes=changes, progress=again, resume=True)
    assert again.parts == pytest.approx([i / 220 for i in range(1, 220)])  # there and back, and 20 steps of burn-in
    assert (whole / "model.safetensors").read_bytes() == (parts / "model.safetensors").read_bytes()


def test_what_a_run_shows_and_draws(runs: dict[str, Path], tmp_path: Path):
    assert (runs["counted"] / "pictures" / "filters.png").is_file()
    right("sample", runs["counted"], "-n", "4", "--steps", "7", "--out", tmp_path / "x.npz")
    assert np.load(tmp_path / "x.npz")["x"].shape == (4, 8, 8, 1)
    right("encode", runs["counted"], "--split", "valid", "--out", tmp_path / "z.npz")
    with np.load(tmp_path / "z.npz") as z, np.load(runs["counted"] / "evaluation" / "valid.npz") as each:
        assert z["z"].shape == (len(each["nll"]), 6)
        assert ((z["z"] > 0) & (z["z"] < 1)).all()  # p(h = 1|v)

"""Where the nats are lost: against the linear Gaussian world, where log p(x), the posterior and all gaps are known."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Distribution

import lowerbound as lb
from command import call, right
from hierarchies import TwoLevels
from linear_worlds import linear_vae, ppca
from lowerbound import priors
from lowerbound.config import components
from lowerbound.distributions import closed_kl
from lowerbound.errors import ModelError
from lowerbound.estimators import RLOO
from lowerbound.families import Categorical, DiagonalNormal, Family, FullNormal, GaussianMixture
from lowerbound.inference import annealing
from lowerbound.inference.annealing import Annealing
from lowerbound.inference.gaps import Bounds, Sides, bounds, check, simulated
from lowerbound.inference.hmc import Bridge, Place, leapfrog, moved
from lowerbound.inference.own import Own
from lowerbound.inference.refinement import Refinement, refined
from lowerbound.metrics.gaps import Gaps
from lowerbound.model import LatentModel, Model
from lowerbound.models.ppca import PPCA
from lowerbound.models.vae import VAE
from lowerbound.models.vqvae import VQVAE
from lowerbound.networks.mlp import MLP
from lowerbound.noise import seeded
from lowerbound.objectives import ELBO
from lowerbound.runs.run import Run
from lowerbound.space import Density, Space
from lowerbound.testing.base import lattice
from lowerbound.testing.families import takes

SMALL = MLP.Config(hidden=(2,))
IMAGE = Space((1, 2, 2), levels=2)
N = 40
OWN = Own(0, range(N))

pytestmark = pytest.mark.usefixtures("double")


def close(estimates: Tensor, truth: Tensor | float, errors: float = 4.0) -> None:
    """The mean over the first axis is the truth, within its standard errors."""
    error = estimates.std(0) / math.sqrt(len(estimates))
    off = (estimates.mean(0) - truth).abs() / error
    assert off.max() < errors, f"{float(off.max()):.1f} standard errors off"


def world(posterior: Family, wrong: float = 0.0) -> tuple[PPCA, VAE, Tensor]:
    """Three latents of six numbers, the VAE whose posteriors are the true ones (of a diagonal family those with its
    scales), with this much noise on what its encoder puts out for every image alike, and events."""
    truth = ppca(D=6, L=3)
    vae = linear_vae(truth, posterior).eval().requires_grad_(False)  # pyright: ignore[reportArgumentType]
    with torch.no_grad():
        bias = vae.encoder.layers[0].bias  # pyright: ignore
        bias += wrong * torch.randn(bias.shape, generator=torch.Generator().manual_seed(1))
    return truth.requires_grad_(False), vae, truth.sample(N)


# ---- Hamiltonian Monte Carlo


def normals() -> Bridge:
    """From N(0, 1) of each element to N(1, 1/4)."""
    return Bridge(lambda z: -0.5 * z.square().flatten(2).sum(-1), lambda z: -2 * (z - 1).square().flatten(2).sum(-1))


def test_leapfrog_goes_back_where_it_came_from_and_nearly_keeps_the_energy():
    bridge, p = normals(), torch.randn(5, 4, 2, 3)
    at = bridge.place(torch.randn(5, 4, 2, 3))
    energies = []
    for step, steps in ((0.1, 10), (0.05, 20)):  # the same time
        to, turned = leapfrog(bridge, at, p, 0.5, torch.tensor(step), steps)
        back, returned = leapfrog(bridge, to, -turned, 0.5, torch.tensor(step), steps)
        assert torch.allclose(back.z, at.z, atol=1e-12)
        assert torch.allclose(-returned, p, atol=1e-12)
        kinetic = (turned.square() - p.square()).flatten(2).sum(-1) / 2
        energies.append((to.log(0.5) - at.log(0.5) - kinetic).abs().mean())
    assert 3.5 < energies[0] / energies[1] < 4.5  # of second order


@pytest.mark.parametrize("b", [0.0, 0.6, 1.0])
def test_transitions_leave_the_density_as_it_is(b: float):
    """Draws of f_b are draws of it after a transition, also where many proposals are rejected."""
    precision, mean = (1 - b) + 4 * b, 4 * b / ((1 - b) + 4 * b)
    at = normals().place(mean + torch.randn(5000, 4, 1) / math.sqrt(precision))
    step = torch.tensor([0.2, 0.6, 1.0, 1.4]).view(-1, 1) * 1.6 / math.sqrt(precision)
    to, chance = moved(normals(), at, b, step, 3)
    z = (to.z - mean) * math.sqrt(precision)
    close(torch.cat([z, z.square() - 1, z**4 - 3], -1), 0.0)
    assert chance.mean(0)[0] > 0.9 > chance.mean(0)[3]
    stayed = (to.z == at.z)[..., 0].double()
    close(stayed - (1 - chance), 0.0)


def test_a_trajectory_that_runs_off_is_rejected():
    at = normals().place(torch.randn(8, 4, 1))
    to, chance = moved(normals(), at, 1.0, torch.tensor(1e200), 10)
    assert torch.equal(to.z, at.z)
    assert float(chance.sum()) == 0


# ---- annealing


def test_the_schedule_is_a_sigmoid():
    b = Annealing(temperatures=4).schedule()
    s = torch.sigmoid(torch.tensor([-4.0, -2.0, 0.0, 2.0, 4.0]))
    assert torch.allclose(b, (s - s[0]) / (s[-1] - s[0]), atol=1e-15)


@pytest.mark.parametrize("from_prior", [False, True], ids=["encoder", "prior"])
def test_annealing_is_within_a_twentieth_of_a_nat_and_the_interval_holds_the_truth(from_prior: bool):
    """Seconds, on a busy machine more than five: two pilots and three annealings of 40 temperatures, ten steps each."""
    truth, vae, x = world(FullNormal(), wrong=0.3)
    how = Annealing(temperatures=40, chains=24, from_prior=from_prior)
    found = Sides(vae, x, None, how, OWN).below()
    exact = truth.log_density(x)
    bound = vae.log_weights(x, draws=100).mean(0)
    assert (exact - bound).mean() > 0.5  # what annealing has to make up for
    error = found.log_p - exact
    assert abs(float(error.mean())) < 0.05
    assert error.abs().max() < 1
    assert 0.5 < float(found.acceptance.mean()) < 1
    assert 6 < float(found.size.mean()) < 24

    x, z = simulated(vae, None, OWN)
    exact, sides = truth.log_density(x), Sides(vae, x, None, how, Own(1, range(N)))
    below, above = sides.below().log_p - exact, sides.above(z).log_p - exact
    assert float(below.mean()) < 4 * float(below.std()) / math.sqrt(N)
    assert float(above.mean()) > -4 * float(above.std()) / math.sqrt(N)
    gap = above - below
    assert -4 * float(gap.std()) / math.sqrt(N) < float(gap.mean()) < 0.2


def test_with_one_temperature_it_is_importance_weighting_and_is_loose_on_both_sides():
    truth, vae, _ = world(FullNormal(), wrong=0.3)
    x, z = simulated(vae, None, OWN)
    sides = Sides(vae, x, None, Annealing(temperatures=1, chains=7), OWN)
    with OWN.noise("chains") as noise:
        expected = vae.log_density(x, draws=noise.chunk(7))
    assert torch.allclose(sides.below().log_p, expected, atol=1e-10)
    exact = truth.log_density(x)
    q = vae.encode(x)
    assert torch.allclose(
        sides.above(z).log_p,
        vae.decode(z).log_prob(x) + vae.prior.log_density(z) - q.log_prob(z),
        atol=1e-10,
    )
    assert float((exact - sides.below().log_p).mean()) > 0.1
    assert float((sides.above(z).log_p - exact).mean()) > 0.3


def test_the_weights_are_unbiased():
    """E[w] = p(x), and of chains in reverse E[1/w] = 1/p(x): of one x, 4,000 chains of few temperatures."""
    truth, vae, _ = world(FullNormal(), wrong=0.1)
    x, z = (t[:1].expand(4000, *t.shape[1:]) for t in simulated(vae, None, OWN))
    how = Annealing(temperatures=4, chains=1, leapfrogs=3)
    sides = Sides(vae, x, None, how, Own(0, range(4000)))
    log_w = sides.below().log_p - truth.log_density(x)
    assert log_w.std() > 0.2
    close(log_w.exp(), 1.0)
    with seeded("posterior"):  # each of its own: one z alone would be no sample of 1/w
        z = truth.encode(x).sample()
    close((truth.log_density(x) - sides.above(z).log_p).exp(), 1.0)


def test_with_the_true_posterior_every_chain_is_log_p():
    truth, vae, x = world(FullNormal())
    found = Sides(vae, x, None, Annealing(temperatures=3, chains=2), OWN).below()
    assert (found.log_p - truth.log_density(x)).abs().max() < 1e-9
    assert torch.allclose(found.size, torch.tensor(2.0))


class Flow(Distribution):
    """A normal that won't say its density."""

    def __init__(self, normal: Any):
        self.normal = normal
        super().__init__(normal.batch_shape, normal.event_shape, validate_args=False)

    @property
    def mean(self) -> Tensor:
        return self.normal.mean

    @property
    def variance(self) -> Tensor:
        return self.normal.variance


def test_chains_begin_with_a_normal_like_a_flow(monkeypatch: pytest.MonkeyPatch):
    _, vae, x = world(DiagonalNormal(), wrong=0.3)
    plain = Sides(vae, x, None, Annealing(temperatures=3, chains=2), OWN)
    flow = replace(plain)
    expected = plain.below()
    monkeypatch.setattr(VAE, "posterior", lambda self, l, h, *_: Flow(self.posterior_head(h)))
    assert torch.allclose(flow.below().log_p, expected.log_p, atol=1e-9)
    assert (plain.begun, flow.begun) == ("encoder", "normal with the encoder's mean and variance")


def test_simulated_events_are_the_models_and_their_latents_draws_of_the_posterior():
    truth, vae, _ = world(FullNormal())
    own = Own(0, range(1000))
    x, z = simulated(vae, None, own)
    q = truth.encode(x)
    close((z - q.mean) @ torch.linalg.inv(torch.linalg.cholesky(q.covariance_matrix[0])).T, 0.0)
    close(x, truth.mean)
    again = simulated(vae, None, Own(0, [7, 3]))
    assert torch.equal(again[0], x[[7, 3]])
    assert torch.equal(again[1], z[[7, 3]])


def test_the_way_back_takes_the_steps_of_the_way_there(monkeypatch: pytest.MonkeyPatch):
    _, vae, _ = world(FullNormal(), wrong=0.3)
    x, z = simulated(vae, None, OWN)
    sides = Sides(vae, x, None, Annealing(temperatures=5, chains=2, leapfrogs=1), OWN)
    assert len(sides.steps) == 4
    assert len({float(step.mean()) for step in sides.steps}) == 4  # they are not all the same
    taken: list[tuple[float, float]] = []

    def noted(bridge: Bridge, at: Place, b: float, step: Tensor, steps: int) -> tuple[Place, Tensor]:
        taken.append((b, float(step.mean())))
        return moved(bridge, at, b, step, steps)

    monkeypatch.setattr(annealing, "moved", noted)
    sides.below()
    sides.above(z)
    assert taken[:4] == taken[:3:-1]
    assert [b for b, _ in taken[:4]] == sides.how.schedule()[1:-1].tolist()


def test_images_given_labels():
    """Events of the model's own are of their labels, and every number of an image is that of the image alone."""
    config = VAE.Config(latent=(2,), encoder=MLP.Config(hidden=()), decoder=MLP.Config(hidden=()))
    vae = config.build(Space((1, 2, 2), levels=2), (Space((), levels=3, ordered=False),)).eval()
    y, how = torch.tensor([0, 2, 1, 2]), Annealing(temperatures=3, chains=2)
    with torch.no_grad():
        for p in vae.context.parameters():  # what a label says, it says loudly
            p.mul_(20)

    def numbers(rows: list[int], label: Tensor, prior: bool = False) -> Tensor:
        own = Own(0, rows)
        x, z = simulated(vae, label, own)
        sides = Sides(vae, x, label, replace(how, from_prior=prior), own)
        found = bounds(vae, x, label, Refinement(3, 2), 5, own)
        return torch.stack([x.double().flatten(1).sum(1), sides.below().log_p, sides.above(z).log_p, *found])

    for prior in (False, True):
        whole = numbers([0, 1, 2, 3], y, prior)
        for i in (0, 3):
            assert torch.allclose(numbers([i], y[[i]], prior)[:, 0], whole[:, i], atol=1e-9)
    many = simulated(vae, torch.arange(3).repeat_interleave(100), Own(0, range(300)))[0].double().view(3, 100, 4)
    assert (many.mean(1)[0] - many.mean(1)[1]).abs().max() > 0.2


POSTERIORS = [family for family in components(Family) if takes(family(), Space((2,)))]
WITH_DENSITY = [family for family in POSTERIORS if family().density(Space((2,))) is Density.EXACT]


@pytest.mark.parametrize("family", WITH_DENSITY, ids=lambda family: family.__name__)
def test_every_posterior_with_a_density_has_gaps(family: type[Family]):
    """Against the integral over a lattice: log p(x) is found whatever the posterior, and no bound is above it."""
    config = VAE.Config(latent=(2,), posterior=family(), encoder=SMALL, decoder=SMALL)
    vae = config.build(IMAGE).eval()
    x = torch.randint(2, (4, 1, 2, 2), dtype=torch.uint8)
    points, volume = lattice(2, reach=6.0)
    joint = vae.decode(points[:, None]).log_prob(x) + vae.prior.log_density(points)[:, None]
    exact = joint.logsumexp(0).detach() + math.log(volume)
    found = bounds(vae, x, None, Refinement(60, 10), 400, Own(0, range(4)))
    ais = Sides(vae, x, None, Annealing(temperatures=10, chains=30, leapfrogs=4), Own(0, range(4))).below()
    assert (found.importance - exact).abs().max() < 0.1
    assert (ais.log_p - exact).abs().max() < 0.3
    assert (found.refined - exact).max() < 0.05
    assert (found.refined - found.encoder).min() > -0.05


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_weights_of_half_precision(dtype: torch.dtype):
    torch.set_default_dtype(torch.float32)
    vae = VAE.Config.example()[0].build(IMAGE).eval().to(dtype)
    x, z = simulated(vae, None, Own(0, range(3)))
    sides = Sides(vae, x, None, Annealing(temperatures=3, chains=2), Own(0, range(3)))
    found = bounds(vae, x, None, Refinement(3, 2), 5, Own(0, range(3)))
    best = refined(vae, x, vae.bottom_up(x), None, Refinement(3, 2), Own(0, range(3)))
    assert best.dtype == torch.float32  # small steps would be rounded away
    for t in (*found, *sides.below(), *sides.above(z)):
        assert t.dtype in (torch.float32, torch.float64)
        assert t.isfinite().all()


def test_a_map_of_latents_and_a_mixture_prior():
    """Whatever the shape of z and the prior: against the integral over a lattice."""
    small = MLP.Config(hidden=())
    config = VAE.Config(
        latent=(1, 1, 2), prior=priors.GaussianMixture.Config(components=2), encoder=small, decoder=small
    )
    vae = config.build(Space((1, 2, 2), levels=2)).eval()
    x = torch.randint(2, (4, 1, 2, 2), dtype=torch.uint8)
    points, volume = lattice(2)
    z = points.view(-1, 1, 1, 1, 2)
    joint = vae.decode(z).log_prob(x) + vae.prior.log_density(z[:, 0])[:, None]
    exact = joint.logsumexp(0).detach() + math.log(volume)
    for from_prior in (False, True):
        found = Sides(vae, x, None, Annealing(30, 100, 8, from_prior), Own(0, range(4))).below()
        assert (found.log_p - exact).abs().max() < 0.2


# ---- the gaps


FEW = Refinement(steps=300, draws=10)


def gaps_of(vae: VAE, x: Tensor) -> Bounds:
    return bounds(vae, x, None, FEW, 500, OWN)


def test_the_approximation_gap_of_a_diagonal_posterior_is_the_closed_form():
    r"""½ (Σ log Λ_dd - log det Λ) for the precision Λ of the true posterior: q* has the variances 1 / Λ_dd."""
    truth, vae, x = world(DiagonalNormal(), wrong=0.4)
    precision = torch.linalg.inv(truth.encode(x[:1]).covariance_matrix[0])
    expected = float(precision.diagonal().log().sum() - torch.logdet(precision)) / 2
    assert expected > 0.05
    exact, found = truth.log_density(x), gaps_of(vae, x)
    assert float((exact - found.refined).mean()) == pytest.approx(expected, abs=0.02)
    assert float((found.importance - exact).mean()) == pytest.approx(0, abs=0.01)
    # and what is found by the family: the amortization gap is the rest of KL(q || p(z|x))
    gap = closed_kl(vae.encode(x), truth.encode(x))
    assert gap is not None
    assert float((found.refined - found.encoder).mean()) == pytest.approx(float(gap.mean()) - expected, abs=0.05)


def test_a_mixture_is_refined_to_less_than_half_the_gap_of_a_diagonal_posterior():
    truth, diagonal, x = world(DiagonalNormal())
    config = diagonal.config.model_copy(update={"posterior": GaussianMixture(components=2)})
    vae = config.build(diagonal.space).eval().requires_grad_(False)
    for part in ("decoder", "likelihood_head"):
        vae.get_submodule(part).load_state_dict(diagonal.get_submodule(part).state_dict())
    exact, found = truth.log_density(x), gaps_of(vae, x)
    gap, whole = (exact - found.refined).mean(), (exact - gaps_of(diagonal, x).refined).mean()
    assert -0.02 < float(gap) < 0.5 * float(whole)
    assert float((found.importance - exact).mean()) == pytest.approx(0, abs=0.01)


def test_a_full_posterior_has_no_approximation_gap_and_a_wrong_encoder_is_short_by_its_kl():
    truth, vae, x = world(FullNormal(), wrong=0.4)
    exact, found = truth.log_density(x), gaps_of(vae, x)
    assert (exact - found.refined).abs().max() < 0.05
    gap = closed_kl(vae.encode(x), truth.encode(x))
    assert gap is not None
    assert gap.mean() > 1
    close((found.refined - found.encoder - gap)[:, None], 0.0)


def test_the_exact_encoder_has_no_amortization_gap():
    truth, vae, x = world(FullNormal())
    found = gaps_of(vae, x)
    assert (found.refined - found.encoder).abs().max() < 0.02  # what is found may be a hair beside it
    assert abs(float((found.refined - found.encoder).mean())) < 0.005
    assert (found.importance - truth.log_density(x)).abs().max() < 0.02


def test_each_image_is_refined_alone():
    _, vae, x = world(DiagonalNormal(), wrong=0.4)
    few = Refinement(steps=20, draws=3)
    whole = refined(vae, x, vae.bottom_up(x), None, few, OWN)
    part = refined(vae, x[[5, 2]], vae.bottom_up(x[[5, 2]]), None, few, Own(0, [5, 2]))
    assert torch.allclose(part, whole[[5, 2]], atol=1e-9)


def test_refining_needs_a_gradient():
    _, vae, x = world(DiagonalNormal())
    vae.posterior_head.forward = lambda h: DiagonalNormal()(h.detach(), vae.latent)  # type: ignore[method-assign]
    with pytest.raises(ModelError, match="can't be refined"):
        refined(vae, x, vae.bottom_up(x), None, FEW, OWN)


def test_refining_leaves_the_model_as_it_is():
    _, vae, x = world(DiagonalNormal(), wrong=0.4)
    vae.requires_grad_()
    refined(vae, x, vae.bottom_up(x), None, Refinement(steps=2, draws=2), OWN)
    assert all(p.grad is None for p in vae.parameters())


# ---- what can't be measured


def test_what_has_no_gaps_says_why():
    from_pixels = VAE.Config(likelihood=DiagonalNormal(), encoder=SMALL, decoder=SMALL)
    with pytest.raises(ModelError, match=r"gaps: .*by dequantization.*train with .*families\.DiscretizedNormal"):
        check(from_pixels.build(Space((1, 2, 2), levels=5)))
    with pytest.raises(ModelError, match="gaps: VAE says nothing of log p"):
        check(VAE.Config(encoder=SMALL, decoder=SMALL).build(Space((1, 2, 2), levels=5)))
    with pytest.raises(ModelError, match="gaps: TwoLevels has 2 levels of latents"):
        check(TwoLevels.Config().build(IMAGE))
    config, space, _ = VQVAE.Config.example()
    codes = config.build(space)
    assert isinstance(codes, LatentModel)
    with pytest.raises(ModelError, match=r"gaps: the latents of VQVAE take \d+ values"):
        check(codes)
    parts = {"posterior": Categorical(), "prior": priors.Categorical.Config(), "encoder": SMALL, "decoder": SMALL}
    with pytest.raises(ModelError, match="gaps: the latents of VAE take 3 values"):
        check(VAE.Config(latent=(2,), latent_levels=3, estimator=RLOO(), objective=ELBO(draws=2), **parts).build(IMAGE))
    prior = VAE.Config(likelihood=DiagonalNormal(), encoder=SMALL, decoder=SMALL)
    nested = VAE.Config(prior=prior, encoder=SMALL, decoder=SMALL).build(IMAGE)
    with pytest.raises(ModelError, match=r"gaps: log p\(z\) of VAE is known by a noisy bound"):
        check(nested)


# ---- the metric


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    small = {"latent": 2, "encoder": {"hidden": [16]}, "decoder": {"hidden": [16]}}
    path = tmp_path_factory.mktemp("runs") / "tiny"
    return lb.train("vae", data="digits", out=path, model=small, train={"steps": 60})


HARDLY = ("--temperatures", "4", "--chains", "3", "--refinement", "20", "--draws", "20", "--limit", "6")


@pytest.mark.usefixtures("surroundings")
def test_evaluate(run: Run, monkeypatch: pytest.MonkeyPatch):
    torch.set_default_dtype(torch.float32)
    report = right("evaluate", run.path, "--metrics", "gaps", *HARDLY, "--json").json
    values = report["metrics"]
    assert set(values) == {f"gaps{suffix}" for suffix in Gaps.suffixes}
    v = {name.removeprefix("gaps."): entry["value"] for name, entry in values.items()}
    assert v["marginal"] == pytest.approx(v["approximation"] + v["amortization"])
    assert v["marginal"] == pytest.approx(max(v["importance"], v["ais"]) - v["elbo"])
    assert v["simulated.gap"] == pytest.approx(v["simulated.upper"] - v["simulated.lower"])
    assert {name: e["relation"] for name, e in values.items() if e["relation"] != ">="} == {
        **dict.fromkeys(["gaps.elbo", "gaps.ais.acceptance", "gaps.ais.ess"], "="),
        **dict.fromkeys(["gaps.simulated.upper", "gaps.simulated.gap"], "<="),
        "gaps.approximation": "~",
    }
    assert {(e["n"], e["stderr"] > 0) for e in values.values()} == {(6, True)}
    assert values["gaps.marginal"]["recipe"]["annealing"]["temperatures"] == 4
    again = right("evaluate", run.path, "--metrics", "gaps", *HARDLY, "--json").json
    assert again == report
    with monkeypatch.context() as m:
        m.setattr(Model, "rows", 41)  # two images at once
        other = right("evaluate", run.path, "--metrics", "gaps", *HARDLY, "--json").json["metrics"]
    for name, value in other.items():
        assert value["value"] == pytest.approx(values[name]["value"], rel=1e-4, abs=1e-3), name
    one = right("evaluate", run.path, "--metrics", "gaps.ais.ess", *HARDLY, "--json").json["metrics"]
    assert set(one) == {"gaps.ais.ess"}
    assert "temperatures: 4" in right("evaluate", run.path, "--metrics", "gaps", *HARDLY).out
    assert call("evaluate", run.path, "--metrics", "gaps", "--chains", "0").status == 2


@pytest.mark.usefixtures("surroundings")
def test_as_many_images_as_the_field_says_where_there_is_no_limit(run: Run):
    torch.set_default_dtype(torch.float32)
    report = lb.evaluate(run, metrics=["gaps"], draws=2, temperatures=1, chains=1, refinement=0)
    values = report["metrics"]
    assert {e["n"] for e in values.values()} == {100}

"""The likelihood of what a model makes of z, with noise on it: against closed forms and integrals over a lattice."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import lowerbound as lb
from command import call, right, tree
from linear_worlds import LINEAR, ppca
from lowerbound import priors
from lowerbound.errors import ModelError
from lowerbound.families import Bernoulli, Noiseless, Point
from lowerbound.inference.annealing import Annealing
from lowerbound.inference.gaps import Sides, simulated
from lowerbound.inference.observed import Observed
from lowerbound.inference.own import Own
from lowerbound.models.autoregressive import Autoregressive
from lowerbound.models.gan import GAN, Discriminating
from lowerbound.models.vae import VAE
from lowerbound.networks.mlp import MLP
from lowerbound.noise import seeded
from lowerbound.objectives import Reconstruction
from lowerbound.progress import Terminal
from lowerbound.runs.run import Run
from lowerbound.space import Space
from lowerbound.testing.base import lattice

SMALL = MLP.Config(hidden=(4,))
PIXELS = Space((1, 2, 2), levels=5)
LABELS = Space((), levels=3)
N = 30
OWN = Own(0, range(N))


def gan(generator: MLP.Config, space: Space, given: tuple[Space, ...] = ()) -> GAN:
    own = Discriminating(network=SMALL, features=3)
    return GAN.Config(latent=2, generator=generator, discriminator=own).build(space, given).eval().requires_grad_(False)


# ---- closed form


def test_a_linear_generator_with_normal_noise_is_probabilistic_pca(double):
    """From both sides, and within a twentieth of a nat of it."""
    truth = ppca(D=5, L=2).requires_grad_(False)
    model = gan(LINEAR, truth.space)
    layer: Any = model.generator.layers[0]  # pyright: ignore
    layer.weight.copy_(truth.weight)
    layer.bias.copy_(truth.mean)
    seen = Observed.of(model, float(truth.log_scale.exp()))
    how = Annealing(temperatures=60, chains=20)
    x = truth.sample(N)
    error = Sides(seen, x, None, how, OWN).below().log_p - truth.log_density(x)
    assert abs(float(error.mean())) < 0.05

    x, z = simulated(seen, None, OWN)
    sides, exact = Sides(seen, x, None, how, Own(1, range(N))), truth.log_density(x)
    below, above = sides.below().log_p - exact, sides.above(z).log_p - exact
    assert sides.begun == "prior"
    assert float(below.mean()) < 4 * float(below.std()) / math.sqrt(N)
    assert float(above.mean()) > -4 * float(above.std()) / math.sqrt(N)
    assert float((above - below).mean()) < 0.2


def test_twice_the_noise_is_another_model(double):
    truth = ppca(D=3, L=2).requires_grad_(False)
    model = gan(LINEAR, truth.space)
    z = torch.zeros(2, 1, 2)
    x = model.generated(z)[0] + 1.0
    one, two = (Observed.of(model, s).likelihood((z,)).log_prob(x) for s in (1.0, 2.0))
    assert torch.allclose(one - two, torch.full((2, 1), 3 * (-0.5 + math.log(2) + 0.125)))


# ---- pixels, conditions, and whatever makes events of z


def vae(**parts: Any) -> VAE:
    return VAE.Config(latent=(2,), encoder=SMALL, decoder=SMALL, **parts).build(PIXELS).eval().requires_grad_(False)


def autoencoder(prior: Any = None) -> VAE:
    return vae(posterior=Point(), objective=Reconstruction(), likelihood=Noiseless(), fitted_prior=prior)


MODELS: dict[str, tuple[Callable[[], Any], Tensor | None]] = {
    "GAN": (lambda: gan(SMALL, PIXELS), None),
    "GAN given a label": (lambda: gan(SMALL, PIXELS, (LABELS,)), torch.tensor([0, 2, 1, 2])),
    "VAE whose own likelihood says nothing": (lambda: vae(likelihood=Bernoulli()), None),
    "autoencoder with a fitted prior": (lambda: autoencoder(priors.Gaussian.Config()), None),
}


@pytest.mark.parametrize("name", MODELS)
def test_against_the_integral_over_a_lattice(name: str, double):
    make, y = MODELS[name]
    with seeded("weights", 3):
        model = make()
    x = torch.randint(5, (4, 1, 2, 2), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    sigma = 0.2
    points, volume = lattice(2, reach=6.0, step=0.05)
    prior = model.base if isinstance(model, GAN) else model.prior_of(0)
    z = points[:, None].expand(-1, 4, -1)
    mean = model.generated(z, y) if isinstance(model, GAN) else model.likelihood((z,), y).mean
    normal = torch.distributions.Normal(mean, sigma * 4)  # of pixels, that range from 0 to 4
    upper = torch.where(x == 4, 1.0, normal.cdf(x + 0.5))
    lower = torch.where(x == 0, 0.0, normal.cdf(x - 0.5))
    joint = (upper - lower).log().flatten(2).sum(2) + prior.log_prob(points)[:, None]
    exact = joint.logsumexp(0) + math.log(volume)
    found = Sides(Observed.of(model, sigma), x, y, Annealing(40, 60, 6), Own(0, range(4))).below()
    assert (found.log_p - exact).abs().max() < 0.15


def test_events_that_it_draws_are_what_z_is_made_into_with_the_noise(double):
    model = gan(SMALL, Space((3,)))
    seen = Observed.of(model, 0.5)
    with seeded(0):
        x, z = seen.draw(4000)[:2]
    noise = (x - model.generated(z[0])) / 0.5
    assert noise.mean(0).abs().max() < 4 / math.sqrt(4000)
    assert (noise.square().mean(0) - 1).abs().max() < 4 * math.sqrt(2 / 4000)
    assert (z[0].std(0) - 1).abs().max() < 0.1


def test_samples_are_what_is_generated_rounded():
    model = gan(SMALL, PIXELS, (LABELS,))
    z, y = torch.randn(4, 2), torch.tensor([0, 2, 1, 2])
    several = model.generated(z.expand(3, 4, 2), y)
    assert several.shape == (3, 4, 1, 2, 2)
    assert torch.equal(several[2].round().to(torch.uint8), model.from_noise(z, y))


# ---- what has none


def test_what_makes_no_events_of_one_level_of_real_latents():
    with pytest.raises(ModelError, match=r"ais: VAE has no p\(z\); .*fit-prior"):
        Observed.of(autoencoder(), 0.1)
    pixelcnn = Autoregressive.Config.example()[0].build(Space((1, 2, 2), levels=2))
    with pytest.raises(ModelError, match="ais: Autoregressive makes no images of latents; expected a GAN"):
        Observed.of(pixelcnn, 0.1)


# ---- the metric


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    small = {"latent": 2, "generator": {"widths": [4, 4]}, "discriminator": {"network": {"widths": [4, 4]}}}
    path = tmp_path_factory.mktemp("runs") / "tiny"
    return lb.train("gan-digits", out=path, model=small, train={"steps": 5})


FEW = ("--metrics", "ais", "--temperatures", "6", "--chains", "3", "--limit", "5")


@pytest.mark.usefixtures("surroundings")
def test_evaluate_says_which_model_it_is_of(run: Run):
    before = tree(run.path)
    report = right("evaluate", run.path, *FEW, "--sigma", "0.2", "--json").json
    values = report["metrics"]
    assert set(values) == {"ais.nll", "ais.bits_per_dim", "ais.acceptance", "ais.ess", "ais.simulated.gap"}
    assert {k: v["relation"] for k, v in values.items() if v["relation"] != "="} == dict.fromkeys(
        ["ais.nll", "ais.bits_per_dim", "ais.simulated.gap"], "<="
    )
    nll = values["ais.nll"]
    assert values["ais.bits_per_dim"]["value"] == pytest.approx(nll["value"] / 64 / math.log(2))
    assert (nll["n"], nll["recipe"]["sigma"], nll["recipe"]["annealing"]["temperatures"]) == (5, 0.2, 6)
    assert "another model than the GAN" in nll["remark"]
    assert "σ = 0.2 of the range of pixels" in right("evaluate", run.path, *FEW, "--sigma", "0.2").out
    assert right("evaluate", run.path, *FEW, "--sigma", "0.2", "--json").json == report
    assert right("evaluate", run.path, "--metrics", "ais.ess", *FEW[2:], "--sigma", "0.2", "--json").json[
        "metrics"
    ] == {"ais.ess": values["ais.ess"]}
    assert tree(run.path) == before  # and nothing of the kind is in the run, whose own log p(x) is unknown
    assert call("evaluate", run.path, "--metrics", "nll").status == 2


@pytest.mark.usefixtures("surroundings")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "ais: the noise on what is drawn is part of the model; say how much, such as --sigma 0.1"),
        (("--sigma", "0"), "--sigma 0: expected a number above 0"),
        (("--sigma", "nan"), "--sigma nan: expected a number above 0"),
        (("--sigma", "0.1", "--temperatures", "0"), "--temperatures 0: expected a whole number of at least 1"),
    ],
)
def test_noise_has_to_be_stated(run: Run, words: tuple[str, ...], said: str):
    done = call("evaluate", run.path, "--metrics", "ais", *words)
    assert done.status == 2
    assert said in done.err


@pytest.mark.usefixtures("surroundings")
@pytest.mark.parametrize("metric", ["ais", "gaps"])
def test_it_tells_how_far_it_is_while_a_batch_is_under_way_and_stops_at_ctrl_c(
    metric: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = run.path
    if metric == "gaps":
        small = {"latent": 2, "encoder": {"hidden": [4]}, "decoder": {"hidden": [4]}}
        path = lb.train("vae", data="digits", out=tmp_path / "run", model=small, train={"steps": 5}).path
    told: list[tuple[int, int]] = []
    monkeypatch.setattr(Terminal, "count", lambda self, what: lambda *numbers: told.append(numbers))
    words = ["evaluate", path, "--metrics", metric, "--sigma", "0.2", "--refinement", "3", *FEW[2:]]
    right(*words)
    done, totals = zip(*told, strict=True)
    assert len(set(totals)) == 1
    assert sorted(done) == list(done)
    assert done[-1] > 0.9 * totals[0]
    assert len(done) > 20  # though all five images are in one batch

    def stopped(self: Terminal, what: str) -> Callable[[int, int], None]:
        def tell(done: int, of: int) -> None:
            if done > of / 2:
                raise KeyboardInterrupt

        return tell

    before = tree(path)
    monkeypatch.setattr(Terminal, "count", stopped)
    ended = call(*words)
    assert (ended.status, ended.out) == (130, "")
    assert ended.err == "lowerbound: stopped\n"
    assert tree(path) == before

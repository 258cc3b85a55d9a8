"""Priors of maps of latents: flows of convolutions, autoregressive ones, normals; and how they are fitted."""

import math
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

import lowerbound as lb
from command import call, right, some_digits
from lowerbound.distributions import MultivariateNormal
from lowerbound.errors import ConfigError, ModelError
from lowerbound.metrics import report as metrics_report
from lowerbound.model import Model
from lowerbound.models.vae import VAE
from lowerbound.networks.gated import GatedPixelCNN
from lowerbound.networks.mlp import MLP
from lowerbound.noise import seeded
from lowerbound.priors import MapAutoregressive, MapFlow, MapGaussian, maps
from lowerbound.space import Space
from lowerbound.testing import LABEL
from lowerbound.testing.base import double, expect_mean, lattice, shake_parameters
from lowerbound.training import fits
from lowerbound.transforms import map_half

FLOW = MapFlow.Config(steps=8, width=6, context=2)
NETWORK = GatedPixelCNN.Config(width=6, layers=2, first_kernel=3, out_width=6)
AUTOREGRESSIVE = MapAutoregressive.Config(components=2, network=NETWORK, context=2)
SMALL = MLP.Config(hidden=(8,))


def waves(n: int, *seed: int) -> Tensor:
    """Maps [n, 2, 4, 4] of two waves, whose places go together."""
    with seeded("waves", *seed):
        phase = 2 * math.pi * torch.rand(n, 2, 1, 1)
        return torch.sin(phase + torch.arange(4)[:, None] + 0.5 * torch.arange(4)) + 0.1 * torch.randn(n, 2, 4, 4)


def patches(n: int, *seed: int) -> Tensor:
    """Maps [n, 2, 4, 4] that no normal describes: the first channel is about 1 or -1, and the second wide or narrow."""
    with seeded("patches", *seed):
        sign = torch.randint(2, (n, 4, 4)) * 2.0 - 1
        wide = torch.where(sign > 0, 1.0, 0.1)
        return torch.stack([sign + 0.1 * torch.randn(n, 4, 4), wide * torch.randn(n, 4, 4)], 1)


@pytest.mark.parametrize("given", [(), (LABEL,)], ids=["plain", "label"])
@pytest.mark.parametrize("shape", [(3, 2, 2), (1, 2, 3), (4, 1, 1), (2, 3, 1)])
def test_a_flow_is_a_change_of_variables(shape: tuple[int, ...], given: tuple[Space, ...]):
    with double(), seeded("flow"):
        flow = FLOW.build(Space(shape), given)
        assert isinstance(flow, MapFlow)
        shake_parameters(flow, scale=0.15)
        mix = torch.randn(shape[0], shape[0])
        flow.begin((mix @ torch.randn(60, shape[0], math.prod(shape[1:])) + 1).view(60, *shape).split(25))
        D, y = math.prod(shape), torch.tensor([2]) if given else None

        def z_of(u: Tensor) -> Tensor:
            z, _ = flow.bijection(u.view(1, *shape), flow.condition(y))
            return (flow.mean + (flow.cholesky @ z.flatten(2)).view_as(z)).flatten()

        u = torch.randn(D)
        J = torch.autograd.functional.jacobian(z_of, u)
        assert isinstance(J, Tensor)
        numeric = torch.stack([(z_of(u + e) - z_of(u - e)) / 2e-6 for e in 1e-6 * torch.eye(D)], 1)
        torch.testing.assert_close(J, numeric, rtol=1e-6, atol=1e-6)
        expected = -0.5 * (u.square() + math.log(2 * math.pi)).sum() - torch.linalg.slogdet(numeric)[1]
        torch.testing.assert_close(flow.log_prob(z_of(u).view(1, *shape), y)[0], expected, rtol=1e-6, atol=1e-6)
        x = 2 * torch.randn(50, *shape)
        c = flow.condition(torch.arange(50) % 3 if given else None)
        there, log_det = flow.bijection(x, c)
        back, same = flow.bijection(there, c, inverse=True)
        assert float((back - x).detach().abs().max()) < 1e-10
        torch.testing.assert_close(same, log_det, rtol=1e-10, atol=1e-10)
        assert float((there - x).detach().abs().max()) > 0.1


@pytest.mark.parametrize("shape", [(1, 2, 2), (2, 1, 1), (5, 1, 1), (3, 4, 4), (2, 1, 3), (1, 1, 2)])
def test_couplings_keep_some_numbers_and_move_all_others_in_turn(shape: tuple[int, ...]):
    halves = [map_half(shape, t) for t in range(8)]
    for first, second in zip(halves[::2], halves[1::2], strict=True):
        assert bool(first.any())
        assert torch.equal(first, ~second)
    checkerboards = 2 if shape[1] * shape[2] > 1 else 0
    of_channels = 0 if shape[0] == 1 else 2 if shape[0] == 2 else 4
    assert len({tuple(h.flatten().tolist()) for h in halves}) == checkerboards + of_channels


@pytest.mark.parametrize("shape", [(2, 1, 1), (1, 1, 2)], ids=["channels", "places"])
@pytest.mark.parametrize("config", [FLOW, AUTOREGRESSIVE], ids=["flow", "autoregressive"])
def test_densities_of_each_label_integrate_to_one_and_are_drawn_from(config: Model.Config, shape: tuple[int, ...]):
    with double(), seeded("exact"), torch.no_grad():
        prior = config.build(Space(shape), (LABEL,))
        shake_parameters(prior, scale=0.15)
        correlated = torch.randn(500, 2) @ torch.tensor([[1.0, 0.5], [0.0, 0.7]]) + 0.5
        (stage,) = prior.stages()
        assert stage.begin is not None
        stage.begin(correlated.view(-1, *shape).split(99))
        points, volume = lattice(2, reach=8, step=0.16)
        found = []
        for label in (0, 2):
            y = torch.full((len(points),), label)
            p = prior.log_density(points.view(-1, *shape), y).exp() * volume
            assert abs(float(p.sum()) - 1) < 1e-3
            z = prior.sample(4000, y[:4000]).flatten(1)
            for power in (1, 2):
                expect_mean(f"moment {power} of label {label}", z**power, (p[:, None] * points**power).sum(0))
            expect_mean("the product of the two", z.prod(1), (p * points.prod(1)).sum())
            found.append(p)
        assert float((found[0] - found[1]).abs().sum()) > 1e-3


def test_numbers_are_drawn_given_all_earlier_ones():
    """At temperature 0 each is the mean of the heaviest component that a pass over the whole map gives it."""
    with double(), seeded("numbers"), torch.no_grad():
        prior = AUTOREGRESSIVE.build(Space((3, 2, 3)), (LABEL,))
        assert isinstance(prior, MapAutoregressive)
        shake_parameters(prior, scale=1.0)
        prior.begin([3 * torch.randn(50, 3, 2, 3) - 1])
        y = torch.tensor([0, 1, 2, 1])
        u = (prior.sample(4, y, 0.0) - prior.mean) / prior.scale
        h = prior.network(u, prior._context(y)).reshape(4, 3, 2, 18)
        heaviest = h[:, 1].gather(1, h[:, 0].argmax(1, keepdim=True))[:, 0]
        torch.testing.assert_close(u.flatten(1), heaviest)
        assert len(set(heaviest.flatten().tolist())) > 50


def test_a_normal_of_maps_is_the_likeliest_one():
    z = waves(400)
    whole, places = (MapGaussian.Config(whole=w).build(Space((2, 4, 4))) for w in (True, False))
    for prior in (whole, places):
        (stage,) = prior.stages()
        assert stage.fit is not None
        stage.fit((part, None) for part in z.split(150))
    flat = z.flatten(1)
    normal = MultivariateNormal(flat.mean(0), torch.cov(flat.T, correction=0))
    assert float((whole.log_density(z) - normal.log_prob(flat)).detach().abs().max()) < 0.05
    expected = 0.0
    for i in range(4):
        for j in range(4):
            own = z[:, :, i, j]
            expected = expected + MultivariateNormal(own.mean(0), torch.cov(own.T, correction=0)).log_prob(own)
    assert float((places.log_density(z) - expected).detach().abs().max()) < 0.05  # pyright: ignore
    for prior, name in ((whole, "whole"), (places, "places")):
        with seeded(name):
            off = prior.sample(4000) - z.mean(0)
        expect_mean(name, off, 0.0)
        expect_mean(name, off.prod(1), (z - z.mean(0)).prod(1).mean(0))
    with pytest.raises(ModelError, match="32 codes are too few for the covariance of 32 numbers"):
        whole.stages()[0].fit([(z[:32], None)])  # pyright: ignore


def test_held_out_codes_choose_between_all_covariances_and_those_of_places(monkeypatch: pytest.MonkeyPatch):
    with seeded("vae"):
        vae = VAE.Config(latent=(2, 4, 4), encoder=SMALL, decoder=SMALL).build(Space((1, 2, 2), levels=2))
    many, few, held_out = fits.Codes(waves(600)), fits.Codes(waves(30)), fits.Codes(waves(200, 1))
    assert fits.best(vae, MapGaussian.Config.choices(vae.latent), many, held_out).config.fitted_prior.whole
    assert not fits.best(vae, MapGaussian.Config.choices(vae.latent), few, held_out).config.fitted_prior.whole
    monkeypatch.setattr(maps, "LARGEST", 31)
    with pytest.raises(ConfigError, match=r"model\.prior\.whole: a map of 32 numbers has too many covariances"):
        MapGaussian.Config().build(Space((2, 4, 4)))
    assert not fits.best(vae, MapGaussian.Config.choices(vae.latent), many, held_out).config.fitted_prior.whole


WIDE = MapFlow.Config(steps=4, width=16, blocks=0)
MIXED = MapAutoregressive.Config(components=3, network=GatedPixelCNN.Config(width=16, layers=2, first_kernel=5))


@pytest.mark.parametrize("config", [WIDE, MIXED], ids=["flow", "autoregressive"])
def test_fitted_to_maps_that_no_normal_describes(config: Model.Config, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fits, "FEWEST", 80)
    monkeypatch.setattr(fits, "LOOKS", 3)
    with seeded("vae"):
        vae = VAE.Config(latent=(2, 4, 4), encoder=SMALL, decoder=SMALL).build(Space((1, 2, 2), levels=2))
    z, held_out = fits.Codes(patches(1000)), fits.Codes(patches(200, 1))
    normal, whole = (fits.best(vae, [c], z, held_out) for c in (MapGaussian.Config(), config))
    assert fits.mean_density(whole.prior, held_out) > fits.mean_density(normal.prior, held_out) + 5
    assert whole.sample(3).shape == (3, 1, 2, 2)


# ---- from the command line

CONV = ["model.encoder.type=networks.conv.Conv", "model.encoder.widths=[8]"]
CONV += ["model.decoder.type=networks.conv.Conv", "model.decoder.widths=[8]"]
MAP = [
    "model.latent=[2,4,4]",
    *CONV,
    "train.optimizer.lr=0.005",
    "data.label=true",
    "train.batch=32",
    "train.valid_every=1000",
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, surroundings: None) -> Path:
    home = tmp_path_factory.mktemp("trained")
    folder, digits = home / "map", some_digits(home / "digits.npz")
    with pytest.MonkeyPatch.context() as m:
        m.setattr(metrics_report, "draw_pictures", lambda *_: None)
        right("train", "vae", "--data", digits, "--out", folder, *MAP, "train.steps=30", "model.objective.beta=0.01")
    return folder


@pytest.fixture
def run(trained: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy, to be changed; what is fitted to it is small."""
    monkeypatch.setattr(metrics_report, "draw_pictures", lambda *_: None)
    for config in (WIDE, MIXED):
        monkeypatch.setattr(type(config), "choices", classmethod(lambda cls, space, one=config: (one,)))
    monkeypatch.setattr(fits, "FEWEST", 20)
    monkeypatch.setattr(fits, "ENOUGH", 1000)
    monkeypatch.setattr(fits, "LOOKS", 3)
    return Path(shutil.copytree(trained, here / "run"))


@pytest.mark.parametrize("prior", ["gaussian", "flow", "autoregressive"])
def test_what_is_fitted_to_maps_is_drawn_from_and_measured(run: Path, prior: str):
    names = {"gaussian": "PerLabel", "flow": "MapFlow", "autoregressive": "MapAutoregressive"}
    report = right("fit-prior", run, "--prior", prior, "--json").json
    assert report["prior"] == f"priors.{names[prior]}"
    density, bound = report["log_density_of_codes"], report["likelihoods"]["elbo"]
    assert density["fitted"] > density["former"]
    assert bound["fitted"]["value"] > bound["former"]["value"]
    right("sample", run, "-n", "3", "--label", "7", "--out", "seven.npz")
    metrics = right("evaluate", run, "--metrics", "nll", "--draws", "1", "--json").json["metrics"]
    assert metrics["nll"]["given"] == "label"


def test_what_cannot_be_a_prior_of_maps_is_answered(run: Path):
    done = call("fit-prior", run, "--prior", "mixture")
    assert done.status == 2
    said = "--prior mixture: is no density of a map, and this model's latents are [2, 4, 4]; use autoregressive, "
    assert said + "diffusion, flow, gaussian, spline" in done.err
    assert "did you mean flow?" in call("fit-prior", run, "--prior", "flew").err
    for prior in ("MapFlow", "MapAutoregressive", "MapGaussian"):
        done = call("train", "vae", "--out", "other", f"model.prior=priors.{prior}")
        assert done.status == 2
        assert f"priors.{prior} is over maps [C, H, W] of at least 2 real numbers, got events of shape [10]" in done.err


def test_trained_with_the_model(here: Path, surroundings: None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(metrics_report, "draw_pictures", lambda *_: None)
    words = ["model.prior=priors.MapFlow", "model.prior.steps=4", "model.prior.width=8", "train.steps=8"]
    words += ["train.averaging=null"]
    right("train", "vae", "--data", some_digits(here / "digits.npz"), "--out", "joint", *MAP, *words)
    model = lb.load("joint", device="cpu")
    assert isinstance(model, VAE)
    flow = model.prior
    assert isinstance(flow, MapFlow)
    moved = [float(p.detach().abs().max()) for name, p in flow.named_parameters() if name.endswith("last.weight")]
    assert min(moved) > 0
    right("sample", "joint", "-n", "2", "--label", "1", "--out", "one.png")

"""Priors of models that are given a label, fitted to the codes of each label or of all."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lowerbound as lb
from command import call, right, some_digits
from lowerbound.errors import ConfigError, ModelError
from lowerbound.families import DiagonalNormal
from lowerbound.metrics import report as metrics_report
from lowerbound.model import Model
from lowerbound.models.flow import Flow
from lowerbound.models.vae import VAE
from lowerbound.networks.mlp import MLP
from lowerbound.noise import seeded
from lowerbound.priors import FullGaussianMixture, Gaussian, PerLabel, SplineFlow, mixtures
from lowerbound.runs.inputs import open_data
from lowerbound.runs.run import Run
from lowerbound.space import Space
from lowerbound.testing import LABEL
from lowerbound.testing.base import expect_mean
from lowerbound.training import fits

NAMES = ("ant", "bee", "cat")
SMALL = MLP.Config(hidden=(6,))


def codes(n: int = 900, *, labels: int = 3, seed: int = 0) -> fits.Codes:
    """Of three labels, each a normal of its own: the third has half of the others' and lies apart."""
    with seeded("codes", seed):
        y = torch.arange(n) % 5 % labels
        L = torch.tensor([[[1.0, 0.0], [0.8, 0.5]], [[0.3, 0.0], [0.0, 0.3]], [[0.5, 0.0], [-0.6, 0.2]]])
        z = (L[y] @ torch.randn(n, 2, 1))[..., 0] + torch.tensor([[0.0, 0.0], [1.0, -1.0], [4.0, 2.0]])[y]
    return fits.Codes(z, y, classes=NAMES)


def vae(**parts: Any) -> VAE:
    with seeded("vae"):
        config = VAE.Config(**{"latent": (2,), "encoder": SMALL, "decoder": SMALL, **parts})
        return config.build(Space((1, 2, 2), levels=2), (LABEL,))


def fitted(config: Model.Config, data: fits.Codes) -> Model:
    return fits.best(vae(), [fits.conditional(config, (LABEL,))], data, codes(seed=1)).prior


def test_the_normal_of_each_label_is_the_likeliest_one():
    data = codes()
    prior = fitted(Gaussian.Config(), data)
    assert isinstance(prior, PerLabel)
    assert data.y is not None
    for c in range(3):
        own = data.z[data.y == c]
        normal = torch.distributions.MultivariateNormal(own.mean(0), torch.cov(own.T, correction=0))
        found = prior.log_density(own, torch.full((len(own),), c))
        torch.testing.assert_close(found, normal.log_prob(own), atol=1e-3, rtol=1e-3)
        with seeded("draws", c):
            z = prior.sample(3000, torch.full((3000,), c))
        expect_mean("draws", z, own.mean(0))
    mixed = torch.tensor([2, 0, 1, 2])
    with seeded("mixed"):
        z = torch.stack([prior.sample(4, mixed) for _ in range(400)])
    expect_mean("draws of several labels at once", z, torch.stack([data.z[data.y == c].mean(0) for c in mixed]))


def test_a_mixture_of_each_label_is_that_of_its_codes_alone():
    data = codes()
    prior = fitted(FullGaussianMixture.Config(components=2), data)
    assert isinstance(prior, PerLabel)
    assert data.y is not None
    own = data.z[data.y == 1]
    alone = FullGaussianMixture.Config(components=2).build(Space((2,)))
    with seeded("alone"):
        alone.fit([own])
    other = codes(seed=2)
    assert other.y is not None
    z = other.z[other.y == 1]
    expected = float(alone.log_density(z).mean().detach())
    assert float(prior.log_density(z, torch.ones(len(z)).long()).mean().detach()) == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize(
    "config", [Flow.Config(layers=4, hidden=(32,)), SplineFlow.Config(steps=2, hidden=(16,))], ids=["flow", "spline"]
)
def test_one_that_learns_from_all_labels_tells_them_apart(config: Model.Config, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fits, "FEWEST", 160)
    monkeypatch.setattr(fits, "LOOKS", 3)
    data, other = codes(), codes(seed=2)
    prior = fitted(config, data)
    normal = torch.distributions.MultivariateNormal(data.z.mean(0), torch.cov(data.z.T))
    assert fits.mean_density(prior, other) > float(normal.log_prob(other.z).mean()) + 0.8
    assert other.y is not None
    with torch.no_grad():
        swapped = prior.log_density(other.z, 2 - other.y)
        assert float(prior.log_density(other.z, other.y).mean()) > float(swapped.mean()) + 1


def test_those_that_there_are_too_few_codes_for_are_left_out():
    few = codes(60)
    choices = [PerLabel.Config(each=FullGaussianMixture.Config(components=k)) for k in (2, 60)]
    best = fits.best(vae(), choices, few, codes(seed=1))
    assert best.config.fitted_prior == choices[0]
    with pytest.raises(ModelError, match="label ant: components=60: 24 codes are too few"):
        fits.best(vae(), choices[1:], few, codes(seed=1))


@pytest.mark.parametrize(
    ("n", "labels", "message"),
    [
        (900, 2, "label cat: has 0 codes, and a density of its own takes more than 2; use --prior flow, spline"),
        (10, 3, "label cat: has 2 codes, and"),
    ],
)
def test_a_label_without_enough_codes_is_named(n: int, labels: int, message: str):
    with pytest.raises(ModelError, match=message):
        fitted(Gaussian.Config(), codes(n, labels=labels))


def test_what_a_prior_of_each_label_refuses():
    with pytest.raises(ConfigError, match=r"takes one label as its condition; set data\.label=true"):
        PerLabel.Config().build(Space((2,)))
    with pytest.raises(ConfigError, match=r"one label as its condition"):
        PerLabel.Config().build(Space((2,)), (LABEL, LABEL))
    with pytest.raises(ConfigError, match=r"model\.prior\.each: models\.vae\.VAE has no density of its own"):
        PerLabel.Config(each=VAE.Config(likelihood=DiagonalNormal())).build(Space((2,)), (LABEL,))
    with pytest.raises(ModelError, match="label 1: there is nothing of it"):
        PerLabel.Config().build(Space((2,)), (LABEL,)).stages()[0].fit([(torch.randn(9, 2), torch.zeros(9).long())])


# ---- from the command line

SHORT = ["data.label=true", "train.steps=150", "model.encoder.hidden=[24]", "model.decoder.hidden=[24]"]
SHORT += ["model.latent=3", "train.optimizer.lr=0.01", "train.valid_every=1000"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, surroundings: None) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "label"
    with pytest.MonkeyPatch.context() as m:
        m.setattr(metrics_report, "draw_pictures", lambda *_: None)
        right("train", "vae", "--out", folder, *SHORT)
    return folder


@pytest.fixture
def run(trained: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy, to be changed."""
    monkeypatch.setattr(metrics_report, "draw_pictures", lambda *_: None)
    return Path(shutil.copytree(trained, here / "run"))


@pytest.mark.parametrize("prior", ["gaussian", "mixture", "flow"])
def test_what_is_fitted_is_drawn_from_and_measured(run: Path, prior: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(mixtures, "CHOICES", (2, 5000))
    monkeypatch.setattr(fits, "FEWEST", 100)
    monkeypatch.setattr(fits, "LOOKS", 4)
    monkeypatch.setattr(Flow.Config, "choices", classmethod(lambda cls, space: (cls(layers=4, hidden=(32,)),)))
    report = right("fit-prior", run, "--prior", prior, "--json").json
    bound = report["likelihoods"]["elbo"]
    assert bound["fitted"]["value"] > bound["former"]["value"]
    assert bound["fitted"]["given"] == "label"
    density = report["log_density_of_codes"]
    assert density["fitted"] > density["former"] + 0.05
    each = {"gaussian": "priors.Gaussian", "mixture": "priors.FullGaussianMixture"}.get(prior)
    assert report.get("each") == each
    measured = right("evaluate", run, "--split", "valid", "--metrics", "elbo,kl,nll", "--draws", "20", "--json").json
    assert measured["metrics"]["nll"]["given"] == "label"
    if prior == "gaussian":
        for name in ("elbo", "kl"):
            expected = report["likelihoods"][name]["fitted"]["value"]
            assert measured["metrics"][name]["value"] == pytest.approx(expected, rel=1e-5)
    if prior != "flow":
        model = lb.load(run, device="cpu")
        assert isinstance(model, VAE)
        known = fits.drawn_codes(Run.open(run), model, "train")
        assert known.y is not None
        with seeded("three"):
            z = model.prior.sample(4000, torch.full((4000,), 3))
        expect_mean("draws of a label", z, known.z[known.y == 3].mean(0))
    right("sample", run, "-n", "4", "--label", "3", "--out", "three.npz")
    assert np.load("three.npz")["x"].shape == (4, 8, 8, 1)


def test_labels_that_nobody_gave_are_drawn_by_their_frequencies(run: Path):
    lb.fit_prior(run, device="cpu")
    drawn: Any = lb.sample(run, 300, seed=0, device="cpu")
    assert set(drawn.y.tolist()) == set(range(10))
    right("sample", run, "-n", "4", "--out", "four.png")


def test_runs_with_a_prior_of_each_label_are_compared(run: Path, trained: Path):
    lb.fit_prior(run, device="cpu")
    assert '"given": "label"' in right("compare", run, trained, "--draws", "3", "--json").out
    assert call("doctor", run).status == 0


def test_a_classifier_of_few_labels_gives_the_others(here: Path, monkeypatch: pytest.MonkeyPatch, surroundings: None):
    """Only known labels are looked at: with those of the others changed, the same is fitted."""
    monkeypatch.setattr(metrics_report, "draw_pictures", lambda *_: None)
    few = ["model.classifier=networks.mlp.MLP", "data.labels=60", "train.steps=40"]
    few += ["model.classifier.hidden=[16]"]
    right("train", "vae", "--data", some_digits(here / "digits.npz", 700), "--out", "run", *SHORT, *few)
    run = Run.open("run")
    model = run.load()
    assert isinstance(model, VAE)
    found, images = fits.drawn_codes(run, model, "train"), open_data(run, "train")
    assert found.y is not None
    assert images.y is not None
    assert found.image is not None
    once = np.unique(found.image, return_index=True)[1]  # all codes of an image are given one label
    y, known = found.y[once], np.isin(np.arange(len(images)), run.facts.labelled or ())
    assert known.any()
    assert (y.numpy() == images.y)[known].all()
    assert 0.12 < (y.numpy() == images.y)[~known].mean() < 1
    probability = model.probabilities(torch.from_numpy(np.asarray(images.x)))
    drawn = torch.nn.functional.one_hot(y, 10) - probability
    expect_mean("how often each is drawn", drawn[torch.from_numpy(~known)], 0.0)
    report = lb.fit_prior("run", device="cpu")
    assert report["each"] == "priors.Gaussian"
    right("sample", "run", "-n", "2", "--label", "1", "--out", "one.png")

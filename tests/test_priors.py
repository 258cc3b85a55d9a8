"""Priors of many parts: mixtures of posteriors, autoregressive ones, flows."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from command import right
from lowerbound.distributions import MultivariateNormal
from lowerbound.errors import ConfigError, ModelError
from lowerbound.families import (
    Bernoulli,
    DiagonalNormal,
    DiscretizedNormal,
    Family,
    FixedScaleNormal,
    FullNormal,
    LogisticMixture,
    Point,
    SharedScaleNormal,
)
from lowerbound.model import Model
from lowerbound.models.flow import Flow
from lowerbound.models.vae import VAE
from lowerbound.networks.mlp import MLP
from lowerbound.noise import seeded
from lowerbound.objectives import Reconstruction
from lowerbound.priors import AutoregressiveMixture, GaussianMixture, SplineFlow, VampPrior, offered
from lowerbound.progress import Progress
from lowerbound.space import Space
from lowerbound.testing import LABEL
from lowerbound.testing.base import double, events, expect_mean, lattice, shake_parameters
from lowerbound.training import fits
from lowerbound.training.train import train

IMAGE = Space((1, 2, 2), levels=5)
SMALL = MLP.Config(hidden=(6,))


def vamp(*, given: tuple[Space, ...] = (), space: Space = IMAGE, K: int = 7, **parts: object) -> tuple[VAE, VampPrior]:
    with double(), seeded("vamp"):
        prior = VampPrior.Config(components=K)
        config = VAE.Config(**{"latent": (2,), "prior": prior, "encoder": SMALL, "decoder": SMALL, **parts})  # pyright: ignore
        vae = config.build(space, given)
        shake_parameters(vae)
    assert isinstance(vae.own_prior, VampPrior)
    return vae, vae.own_prior


@pytest.mark.parametrize("given", [(), (LABEL,)], ids=["plain", "labels"])
@pytest.mark.parametrize(
    "parts", [{}, {"posterior": FullNormal()}, {"latent": (2, 1, 1)}], ids=["diagonal", "full", "map"]
)
def test_the_density_is_that_of_the_posteriors_of_the_inputs_one_by_one(parts: dict, given: tuple[Space, ...]):
    vae, prior = vamp(given=given, **parts)
    z = torch.randn(3, 6, *vae.latent.shape, dtype=torch.float64)
    y = torch.tensor([0, 1, 2, 0, 1, 2]) if given else None
    found = vae.prior_of(0, (), y).log_prob(z)
    assert found.shape == (3, 6)
    for b in range(6):
        kept = [k for k in range(7) if not given or k % 3 == b % 3]
        q = [
            vae.posterior(
                0,
                vae.encoder(
                    prior.inputs[k : k + 1].clamp(-1, 1), vae.context(prior.labels[k : k + 1] if given else None)
                ),
            )
            for k in kept
        ]
        each = torch.stack([d.log_prob(z[:, b]) for d in q])
        torch.testing.assert_close(found[:, b], torch.logsumexp(each, 0) - math.log(len(kept)))


def test_it_integrates_to_one_and_is_drawn_from():
    _, prior = vamp(given=(LABEL,))
    points, volume = lattice(2, reach=8)
    with torch.no_grad(), seeded("draws"):
        for label in range(3):
            y = torch.full((len(points),), label)
            p = prior.log_prob(points.double(), y).exp() * volume
            assert abs(float(p.sum()) - 1) < 1e-6
            d = prior.distribution(y[:1])
            z = prior.sample(4000, y[:4000])
            assert d.sample((5,)).shape == (5, 1, 2)
            first, second = ((p[:, None] * points**power).sum(0) for power in (1, 2))
            expect_mean("the mean of draws", z, first)
            expect_mean("the second moment", z**2, second)
            torch.testing.assert_close(d.mean[0], first)
            torch.testing.assert_close(d.variance[0], second - first**2)


def test_single_precision_loses_nothing_far_from_zero_with_small_scales():
    _, prior = vamp()
    far = torch.randn(7, 4) * 0.01
    far[:, :2] += 30

    def tight(u: Tensor, y: object) -> torch.distributions.Distribution:
        normal = torch.distributions.Normal(far[:, :2].to(u), far[:, 2:].abs().to(u) + 0.003)
        return torch.distributions.Independent(normal, 1)

    prior._q = tight
    z = far[:, :2] + 0.005 * torch.randn(7, 2)
    exact = prior.distribution().log_prob(z.double())
    assert float((prior.float().distribution().log_prob(z).double() - exact).detach().abs().max()) < 0.05


def test_gradients_reach_the_inputs_and_only_those_of_the_label():
    vae, prior = vamp(given=(LABEL,))
    with seeded("loss"):
        vae.train().loss(events(IMAGE, 8), torch.full((8,), 1)).value.backward()
    assert prior.inputs.grad is not None
    moved = prior.inputs.grad.flatten(1).abs().sum(1) > 0
    assert moved.tolist() == [k % 3 == 1 for k in range(7)]


def test_inputs_begin_near_black_or_at_images():
    with seeded("begin"):
        vae = VAE.Config(latent=(2,), prior=VampPrior.Config(components=50)).build(Space((1, 8, 8), levels=2))
        own = vae.own_prior
        assert isinstance(own, VampPrior)
        assert abs(float(own.inputs.detach().mean()) - 0.05) < 0.002
        assert own.inputs.shape == (50, 1, 8, 8)
        data = VAE.Config(latent=(2,), prior=VampPrior.Config(components=9, begin="data")).build(IMAGE)
        x = events(IMAGE, 40)
        (stage,) = data.stages()
        assert stage.begin is not None
        stage.begin(x.split(7))
    inputs = data.own_prior.get_parameter("inputs").detach()
    same = (inputs.flatten(1)[:, None] == IMAGE.features(x).flatten(1)).all(-1)
    assert bool(same.any(1).all())
    assert len(set(same.float().argmax(1).tolist())) > 5  # drawn without repeats
    with pytest.raises(ModelError, match=r"components=9: there are 8 training images to begin at; set at most 8"):
        stage.begin(x[:8].split(3))


@pytest.mark.parametrize("prior", [VampPrior.Config(components=9), GaussianMixture.Config(components=9)])
def test_more_components_than_training_images_are_refused(prior: VampPrior.Config | GaussianMixture.Config):
    (stage,) = VAE.Config(latent=(2,), prior=prior).build(IMAGE).stages()
    assert stage.begin is not None
    x = events(IMAGE, 9)
    stage.begin(x.split(4))
    with pytest.raises(ModelError, match=r"components=9: there are 8 training images; set at most 8"):
        stage.begin(x[:8].split(3))


MEANS = [Bernoulli(), DiscretizedNormal(), DiagonalNormal(), SharedScaleNormal(), FixedScaleNormal(scale=0.01)]


@pytest.mark.parametrize("likelihood", [*MEANS, LogisticMixture(components=2)], ids=lambda f: type(f).__name__)
def test_the_decoder_begins_at_the_mean_image(likelihood: Family):
    """With weights of 0, whatever z is; with a mixture it begins where it did."""
    space = Space((1, 4, 4), levels=2 if isinstance(likelihood, Bernoulli) else 17)
    vae = VAE.Config(latent=(2,), prior=VampPrior.Config(components=5), likelihood=likelihood).build(space)
    for p in vae.decoder.parameters():
        nn.init.zeros_(p)
    with seeded("begin"):
        x, z = events(space, 200), torch.randn(3, 2)
        before = vae.decode(z).mean
        (stage,) = vae.stages()
        assert stage.begin is not None
        stage.begin(x.split(70))
    h, mean = vae.get_parameter("offset.h").detach(), x.double().mean(0).float()
    if isinstance(likelihood, LogisticMixture):
        assert torch.equal(vae.decode(z).mean, before)
    elif isinstance(likelihood, Bernoulli | FixedScaleNormal):
        assert torch.allclose(vae.decode(z).mean, mean.expand(3, -1, -1, -1), atol=0.05)
    else:
        assert torch.allclose(h[:1], mean / 8 - 1, atol=1e-6)
        assert not h[1:].any()


@pytest.mark.parametrize(
    ("parts", "given", "message"),
    [
        (
            {"prior": VampPrior.Config(components=2)},
            (LABEL,),
            "components=2: of 3 labels each needs an input; set at least 3",
        ),
        ({"prior": VampPrior.Config(begin="data")}, (LABEL,), r"model\.prior\.begin=data: .* without their labels"),
        ({}, (Space((2,)),), "takes one label as its condition"),
        ({"posterior": Point(), "objective": Reconstruction()}, (), r"mixes posteriors, .*Point have no density"),
    ],
)
def test_what_it_refuses(parts: dict, given: tuple[Space, ...], message: str):
    config = VAE.Config(**{"latent": (2,), "prior": VampPrior.Config(components=4), **parts})
    with pytest.raises(ConfigError, match=message):
        config.build(IMAGE, given)


SPLINES = SplineFlow.Config(steps=3, bins=4, hidden=(6,), context=2)
MADE = AutoregressiveMixture.Config(components=3, hidden=(6,), context=2)


AFFINE = Flow.Config(layers=3, hidden=(6,), context=2)


@pytest.mark.parametrize("config", [SPLINES, MADE, AFFINE], ids=["splines", "autoregressive", "affine"])
def test_exact_densities_of_each_label_integrate_to_one_and_are_drawn_from(config: Model.Config):
    with double(), seeded("exact"), torch.no_grad():
        prior = config.build(Space((2,)), (LABEL,))
        shake_parameters(prior, scale=0.15)
        correlated = torch.randn(500, 2) @ torch.tensor([[1.0, 0.5], [0.0, 0.7]]) + 0.5
        (stage,) = prior.stages()
        assert stage.begin is not None
        stage.begin(correlated.split(99))
        points, volume = lattice(2, reach=16, step=0.05)
        found = []
        for label in (0, 2):
            y = torch.full((len(points),), label)
            p = prior.log_density(points, y).exp() * volume
            assert abs(float(p.sum()) - 1) < 1e-3
            z = prior.sample(4000, y[:4000])
            for power in (1, 2):
                expect_mean(f"moment {power} of label {label}", z**power, (p[:, None] * points**power).sum(0))
            expect_mean("the product of the two", z.prod(1), (p * points.prod(1)).sum())
            found.append(p)
        assert float((found[0] - found[1]).abs().sum()) > 1e-3


def test_the_determinant_of_splines_over_a_map_is_the_numeric_one():
    with double(), seeded("map"):
        prior = SPLINES.build(Space((2, 1, 2)))
        shake_parameters(prior)
        assert isinstance(prior, SplineFlow)
        prior.begin([torch.randn(50, 2, 1, 2) * 0.7 + 0.2])
        u = torch.randn(4)
        L, z = prior.cholesky, lambda u: prior.mean + prior.bijection(u[None])[0][0] @ prior.cholesky.T
        J = torch.autograd.functional.jacobian(z, u)
        assert isinstance(J, Tensor)
        expected = -0.5 * (u.square() + math.log(2 * math.pi)).sum() - torch.linalg.slogdet(J)[1]
        torch.testing.assert_close(prior.log_prob(z(u).view(1, 2, 1, 2))[0], expected)
        assert bool(torch.diagonal(L).ne(1).all())


@pytest.mark.parametrize(("name", "steps"), [("autoregressive", 800), ("spline", 150)])
def test_fit_prior_offers_it_and_fits_what_no_normal_does(name: str, steps: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fits, "FEWEST", steps)
    monkeypatch.setattr(fits, "LOOKS", 3)
    config = offered(Space((2,)))[name].model_validate({"hidden": (32,)})
    with seeded("a ring"):
        vae = VAE.Config(latent=(2,), encoder=SMALL, decoder=SMALL).build(IMAGE)
        angle = 2 * math.pi * torch.rand(1200)
        z = torch.stack([angle.cos(), angle.sin()], 1) + 0.1 * torch.randn(1200, 2)
    whole = fits.best(vae, [config], fits.Codes(z[:1000]), fits.Codes(z[1000:]))
    normal = MultivariateNormal(z.mean(0), z.T.cov())
    assert fits.mean_density(whole.prior, fits.Codes(z[1000:])) > float(normal.log_prob(z[1000:]).mean()) + 0.1
    assert whole.sample(3).shape == (3, 1, 2, 2)


class Stopped(BaseException):
    pass


class Stopping(Progress):
    """Training ends at a step as by a kill."""

    @contextmanager
    def bar(self, total: int, start: int = 0) -> Iterator[Any]:
        def tell(step: int, terms: Any) -> None:
            if step == 7:
                raise Stopped

        yield tell


@pytest.mark.usefixtures("surroundings")
def test_trained_from_the_command_resumed_sampled_and_evaluated(tmp_path: Path):
    """Inputs that begin at images are drawn from the seed as well. Four commands, which take most of the time."""
    words = ["model.prior=priors.VampPrior", "model.prior.components=20", "model.prior.begin=data"]
    words += ["train.epochs=null", "train.steps=12", "train.batch=16", "train.save_seconds=1e-9"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    right("train", "vae", *words, "--out", whole, "--device", "cpu")
    with pytest.raises(Stopped):
        train("vae", out=parts, changes=words, device="cpu", progress=Stopping())
    right("train", "vae", *words, "--out", parts, "--device", "cpu", "--resume")
    assert (whole / "model.safetensors").read_bytes() == (parts / "model.safetensors").read_bytes()
    right("sample", parts, "-n", "4", "--out", tmp_path / "samples.npz")
    nll = right("evaluate", parts, "--metrics", "nll", "--draws", "2", "--json").json["metrics"]["nll"]
    assert nll["relation"] == "<="

"""Latent diffusion: a VAE whose prior is trained after its networks, on draws of their posteriors."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import lowerbound as lb
from command import right
from lowerbound import testing
from lowerbound.errors import ConfigError, ModelError
from lowerbound.families import Point, SharedScaleNormal
from lowerbound.models.diffusion import Diffusion
from lowerbound.models.vae import VAE
from lowerbound.networks.mlp import MLP
from lowerbound.networks.residual import ResidualMLP
from lowerbound.networks.unet import UNet
from lowerbound.noise import seeded
from lowerbound.objectives import IWAE, Reconstruction
from lowerbound.priors import GaussianMixture, StandardNormal, VampPrior
from lowerbound.runs.run import Run
from lowerbound.schedules import Ancestral
from lowerbound.space import Space
from lowerbound.testing.base import shake_parameters
from lowerbound.training import fits
from lowerbound.training.train import train

SMALL = MLP.Config(hidden=(4,))
PRIOR = Diffusion.Config(network=ResidualMLP.Config(width=6, blocks=1), context=4, sampler=Ancestral(steps=5))
BINARY, IMAGE = Space((1, 2, 2), levels=2), Space((1, 4, 4), levels=17)


def latent(**parts: Any) -> VAE.Config:
    wanted = {"latent": (2,), "encoder": SMALL, "decoder": SMALL, "prior": PRIOR, "prior_after": True}
    return VAE.Config(**wanted | parts)


def test_it_is_a_model():
    testing.check_model(latent(), BINARY)
    testing.check_model(latent(), BINARY, (testing.LABEL,))  # which the prior alone is given


def test_each_stage_moves_its_own_weights():
    model = latent().build(BINARY)
    shake_parameters(model, "each")
    first, second = model.stages()
    x = torch.randint(2, (8, *BINARY.shape), dtype=torch.uint8)
    first.turns[0].loss(x, None, 0).value.backward()
    moved = {name for name, w in model.named_parameters() if w.grad is not None}
    own = {f"own_prior.{name}" for name, _ in model.own_prior.named_parameters()}
    assert moved == {name for name, _ in model.named_parameters()} - own
    model.zero_grad()
    assert second.prepare is not None
    z, y = second.prepare.given(second.prepare.make(x, None), None)
    second.turns[0].loss(z, y, 0).value.backward()
    assert {name for name, w in model.named_parameters() if w.grad is not None} == own


def test_until_the_prior_is_trained_the_bound_is_of_the_standard_normal():
    model, plain = latent().build(BINARY).eval(), latent(prior=StandardNormal.Config(), prior_after=False).build(BINARY)
    shake_parameters(model, "until")
    networks = {k: v for k, v in model.state_dict().items() if "prior" not in k}
    plain.load_state_dict(networks, strict=False)
    _, second = model.stages()
    x = torch.randint(2, (50, *BINARY.shape), dtype=torch.uint8)
    found = []
    for learned in (False, True):
        second.learned(learned)
        assert isinstance(model.prior, Diffusion if learned else StandardNormal)
        for part in (model, plain):
            with seeded("bound"):
                found.append(part.elbo(x).detach())
    torch.testing.assert_close(found[0], found[1])
    assert float((found[2] - found[3]).abs().mean()) > 0.01


def test_an_autoencoder_samples_once_its_prior_is_trained():
    model = latent(posterior=Point(), objective=Reconstruction(), likelihood=SharedScaleNormal()).build(IMAGE)
    _, second = model.stages()
    second.learned(False)
    with pytest.raises(ModelError, match=r"posterior families\.Point is a point"):
        model.sample(1)
    second.learned(True)
    assert model.sample(3).shape == (3, *IMAGE.shape)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"prior": VampPrior.Config(components=3)}, "priors.VampPrior is not here; use model.prior_after=false"),
        ({"prior": GaussianMixture.Config(), "pretraining": Reconstruction()}, "use model.prior_after=false"),
    ],
)
def test_mistakes(parts: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        latent(**parts).build(BINARY)


def test_networks_with_the_standard_normal_may_be_weighted():
    assert not latent(objective=IWAE()).build(BINARY).unbiased


# ---- the command

MAP = ["model.latent=[2,4,4]", "model.encoder.widths=[8]", "model.decoder.widths=[8]", "data.size=8"]
NET = ["model.prior.network.widths=[8,8]", "model.prior.network.blocks=1", "model.prior.sampler.steps=5"]
QUICK = [*MAP, *NET, "model.prior.sampler.type=schedules.DDIM", "train.steps=10", "train.stages.prior.steps=10"]
RECIPE = "latent-diffusion-lfw"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained stage by stage."""
    path = tmp_path_factory.mktemp("latent") / "run"
    first = train(RECIPE, data="digits", out=path, changes=QUICK, stage="model", device="cpu")
    assert isinstance(first.model.prior, StandardNormal)  # pyright: ignore
    both = train(RECIPE, data="digits", out=path, changes=QUICK, resume=True, device="cpu")
    assert isinstance(both.model.prior, Diffusion)  # pyright: ignore
    return path


def test_latents_are_standardized_by_the_draws_that_the_prior_is_trained_on(run: Path):
    model = lb.load(run, device="cpu")
    assert isinstance(model, VAE)
    assert isinstance(model.prior, Diffusion)
    z = fits.drawn_codes(Run.open(run), model, "train").z
    u = (z - model.prior.shift) / model.prior.scale
    mean, deviation = u.mean(0), u.std(0)
    assert float(mean.abs().max()) < 0.1  # other draws of the same images, mirrored for the prior
    assert float((deviation - 1).abs().max()) < 0.1


def test_it_is_measured_and_drawn(run: Path, tmp_path: Path):
    report = right("evaluate", run, "--draws", "3", "--json").json["metrics"]
    assert report["nll"]["relation"] == "<="
    right("sample", run, "-n", "4", "--out", tmp_path / "s.npz")
    right("sample", run, "-n", "4", "--sampler", "heun", "--steps", "3", "--out", tmp_path / "h.npz")
    right("doctor", run)


def test_the_prior_is_trained_anew_as_another_one(run: Path, tmp_path: Path):
    path = shutil.copytree(run, tmp_path / "run")
    before, wider = lb.load(path, device="cpu").state_dict(), [*QUICK, "model.prior.network.widths=[12,8]"]
    anew = train(RECIPE, data="digits", out=path, changes=wider, stage="prior", overwrite=True, device="cpu").model
    assert anew.own_prior.config.network.widths == (12, 8)  # pyright: ignore
    kept = anew.state_dict()
    assert all(torch.equal(v, kept[k]) for k, v in before.items() if "prior" not in k)


def test_a_diffusion_model_is_fitted_to_codes(monkeypatch: pytest.MonkeyPatch):
    """Codes on a circle: the bound of what is fitted lies above the density of the best normal."""
    monkeypatch.setattr(fits, "FEWEST", 400)
    with seeded("circle"):
        angle = 6.3 * torch.rand(2000)
        z = torch.stack([angle.cos(), angle.sin()], 1) + 0.05 * torch.randn(2000, 2)
    model = VAE.Config(latent=(2,), encoder=SMALL, decoder=SMALL).build(BINARY)
    codes, held_out = fits.Codes(z[:1500]), fits.Codes(z[1500:])
    (config,) = Diffusion.Config.choices(model.latent)
    quick = config.model_copy(update={"network": ResidualMLP.Config(width=48, blocks=1)})
    fitted = fits.best(model, [quick], codes, held_out)
    normal = torch.distributions.MultivariateNormal(z.mean(0), torch.cov(z.T))
    with seeded("density"):
        bound = fits.mean_density(fitted.prior, held_out)
    assert bound > float(normal.log_prob(held_out.z).mean()) + 0.3


def test_networks_that_are_fitted_go_with_the_codes():
    shapes = {(5,): ResidualMLP, (2, 4, 4): UNet, (2, 7, 7): UNet}
    for shape, kind in shapes.items():
        (config,) = Diffusion.Config.choices(Space(shape))
        assert isinstance(config.build(Space(shape)).network, kind)

"""Every component of the package passes its battery: a new class is tested before its author writes a test."""

import importlib
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lowerbound import testing
from lowerbound.config import components
from lowerbound.data.base import Data
from lowerbound.data.bundled import bundled
from lowerbound.estimators import REBAR, VIMCO, Enumeration, GumbelSoftmax, Pathwise
from lowerbound.families import (
    IAF,
    Bernoulli,
    Categorical,
    DiagonalNormal,
    DiscretizedNormal,
    Family,
    FullNormal,
    LowRankNormal,
    Noiseless,
    Point,
    SplineCoupling,
)
from lowerbound.families import GaussianMixture as GaussianMixtureFamily
from lowerbound.metrics.base import Metric
from lowerbound.model import Model
from lowerbound.models.autoregressive import Autoregressive
from lowerbound.models.flow import Flow
from lowerbound.models.vae import VAE
from lowerbound.networks.base import Network
from lowerbound.networks.causal import CausalNetwork
from lowerbound.networks.made import MADE
from lowerbound.networks.mlp import MLP
from lowerbound.objectives import ELBO, IWAE, AbsoluteError, CrossEntropy, Masking, Reconstruction
from lowerbound.priors import AutoregressiveMixture, Gaussian, GaussianMixture, MapFlow, PerLabel, SplineFlow, VampPrior
from lowerbound.priors import Categorical as Independent
from lowerbound.quantizers import Quantizer
from lowerbound.space import Density, Space


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # nothing here is large enough for more
    yield
    torch.set_num_threads(threads)


SMALL = MLP.Config(hidden=(4,))


def name(component: object) -> str:
    if callable(component) and not isinstance(component, type) and hasattr(component, "__name__"):
        return component.__name__.replace("_", "-")
    return component.type_name() if hasattr(component, "type_name") else str(component)  # pyright: ignore


def vae(**parts: object) -> VAE.Config:
    return VAE.Config(**{"latent": 2, "encoder": SMALL, "decoder": SMALL, **parts})  # pyright: ignore


@pytest.mark.parametrize("check", testing.MODEL_CHECKS, ids=name)
@pytest.mark.parametrize("config", components(Model.Config), ids=name)
def test_models(config: type[Model.Config], check):
    check(testing.ModelCase.of(config))


@pytest.mark.parametrize("config", components(Model.Config), ids=name)
def test_trainings(config: type[Model.Config]):
    testing.check_training(config)


IMAGE = Space((1, 2, 2), levels=3)
DENOISING = Reconstruction(error=CrossEntropy(), noise=Masking(fraction=0.5), sparsity=0.1)
VARIANTS = {
    "full posterior": (vae(posterior=FullNormal()), Space((1, 2, 2), levels=2)),
    "mixture prior": (vae(prior=GaussianMixture.Config(components=2)), Space((1, 2, 2), levels=2)),
    "importance-weighted": (vae(objective=IWAE(draws=3)), Space((1, 2, 2), levels=2)),
    "doubly reparameterized": (vae(objective=IWAE(draws=3, dreg=True)), Space((1, 2, 2), levels=2)),
    "free bits": (vae(objective=ELBO(free_bits_level=0.01, warmup=5)), Space((1, 2, 2), levels=2)),
    "categorical pixels": (vae(likelihood=Categorical()), IMAGE),
    "discretized pixels": (vae(likelihood=DiscretizedNormal()), IMAGE),
    "dequantized pixels": (vae(likelihood=DiagonalNormal()), IMAGE),
    "real events": (vae(likelihood=DiagonalNormal()), Space((3,))),
    "map of latents": (vae(latent=(1, 2, 2)), Space((1, 2, 2), levels=2)),
    "no density of grey values": (vae(likelihood=Bernoulli()), IMAGE),
    "fitted prior": (vae(fitted_prior=Flow.Config(layers=2, hidden=(4,))), Space((1, 2, 2), levels=2)),
    "fitted over a learned prior": (
        vae(prior=GaussianMixture.Config(components=2), fitted_prior=Gaussian.Config()),
        Space((1, 2, 2), levels=2),
    ),
    "no density of a point with a fitted prior": (
        vae(posterior=Point(), likelihood=Noiseless(), objective=DENOISING, fitted_prior=Gaussian.Config()),
        IMAGE,
    ),
    "no density with tied weights": (
        vae(posterior=Point(), likelihood=Noiseless(), objective=Reconstruction(), tied=True),
        IMAGE,
    ),
    "no density of a picture": (vae(likelihood=Noiseless(sigmoid=False)), IMAGE),
    "reconstruction of real events": (
        vae(likelihood=DiagonalNormal(), objective=Reconstruction(error=AbsoluteError())),
        Space((3,)),
    ),
    "low-rank posterior": (vae(posterior=LowRankNormal(rank=1)), Space((1, 2, 2), levels=2)),
    "autoregressive posterior": (vae(posterior=IAF.example()), Space((1, 2, 2), levels=2)),
    "autoregressive posterior, doubly reparameterized": (
        vae(posterior=IAF.example(), objective=IWAE(draws=3, dreg=True)),
        Space((1, 2, 2), levels=2),
    ),
    "spline posterior": (vae(posterior=SplineCoupling.example()), Space((1, 2, 2), levels=2)),
    "spline posterior, doubly reparameterized": (
        vae(posterior=SplineCoupling.example(), objective=IWAE(draws=3, dreg=True)),
        Space((1, 2, 2), levels=2),
    ),
    "flow prior": (vae(prior=Flow.Config(layers=2, hidden=(4,))), Space((1, 2, 2), levels=2)),
    "autoregressive prior": (
        vae(prior=AutoregressiveMixture.Config(components=2, hidden=(4,))),
        Space((1, 2, 2), levels=2),
    ),
    "spline prior of a map": (
        vae(latent=(2, 1, 2), prior=SplineFlow.Config(steps=2, bins=3, hidden=(4,))),
        Space((1, 2, 2), levels=2),
    ),
    "convolutional flow prior of a map": (
        vae(latent=(2, 1, 2), prior=MapFlow.Config(steps=4, width=4)),
        Space((1, 2, 2), levels=2),
    ),
    "mixture of posteriors": (vae(prior=VampPrior.Config(components=3)), Space((1, 2, 2), levels=2)),
    "mixture of posteriors of grey values": (
        vae(prior=VampPrior.Config(components=3), likelihood=Categorical()),
        IMAGE,
    ),
    "mixture of spline posteriors": (
        vae(prior=VampPrior.Config(components=2), posterior=SplineCoupling.example()),
        Space((1, 2, 2), levels=2),
    ),
    "mixture posterior": (vae(posterior=GaussianMixtureFamily(components=3)), Space((1, 2, 2), levels=2)),
    "mixture posterior, importance-weighted": (
        vae(posterior=GaussianMixtureFamily(components=2, learned_weights=True), objective=IWAE(draws=2)),
        Space((1, 2, 2), levels=2),
    ),
    "mixture posterior with implicit gradients": (
        vae(posterior=GaussianMixtureFamily(components=2, learned_weights=True), estimator=Pathwise()),
        Space((1, 2, 2), levels=2),
    ),
    "clusters that begin at the codes": (
        vae(prior=GaussianMixture.Config(components=2), pretraining=Reconstruction(error=CrossEntropy())),
        Space((1, 2, 2), levels=2),
    ),
    "binary latents": (
        vae(latent_levels=2, posterior=Bernoulli(), prior=Independent.Config()),
        Space((1, 2, 2), levels=2),
    ),
    "categorical latents": (
        vae(latent_levels=3, posterior=Categorical(), prior=Independent.Config(learned=True)),
        Space((1, 2, 2), levels=2),
    ),
    "binary latents with an autoregressive prior": (
        vae(
            latent=6,
            latent_levels=2,
            posterior=Bernoulli(),
            prior=Autoregressive.Config(network=MADE.Config(hidden=(8,))),
        ),
        Space((1, 2, 2), levels=2),
    ),
    "a grid of categorical latents": (
        vae(latent=(2, 2), latent_levels=3, posterior=Categorical(), prior=Independent.Config(), estimator=REBAR()),
        Space((1, 2, 2), levels=2),
    ),
    "enumerated latents": (
        vae(latent_levels=2, posterior=Bernoulli(), prior=Independent.Config(), estimator=Enumeration()),
        Space((1, 2, 2), levels=2),
    ),
    "relaxed latents": (
        vae(latent_levels=3, posterior=Categorical(), prior=Independent.Config(), estimator=GumbelSoftmax()),
        Space((1, 2, 2), levels=2),
    ),
    "categorical latents, importance-weighted": (
        vae(latent_levels=3, posterior=Categorical(), prior=Independent.Config(), estimator=VIMCO(), objective=IWAE()),
        Space((1, 2, 2), levels=2),
    ),
    "no density of a point": (vae(posterior=Point(), objective=Reconstruction()), Space((1, 2, 2), levels=2)),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_vae_variants(variant: str):
    config, space = VARIANTS[variant]
    testing.check_model(config, space)
    expected = Density.NONE if variant.startswith("no density") else Density.BOUND
    assert config.build(space).density is expected


def test_conditional_vae():
    testing.check_model(vae(classifier=SMALL), Space((1, 2, 2), levels=2), (testing.LABEL,))
    learns = vae(classifier=SMALL, likelihood=DiagonalNormal())
    testing.check_model(vae(prior=learns), Space((1, 2, 2), levels=2), (testing.LABEL,))
    testing.check_model(vae(), Space((1, 2, 2), levels=2), (testing.LABEL,))
    testing.check_model(vae(prior=VampPrior.Config(components=5)), Space((1, 2, 2), levels=2), (testing.LABEL,))
    testing.check_model(vae(fitted_prior=PerLabel.Config()), Space((1, 2, 2), levels=2), (testing.LABEL,))
    flow = Flow.Config(layers=2, hidden=(4,), context=3)
    testing.check_model(vae(fitted_prior=flow), Space((1, 2, 2), levels=2), (testing.LABEL,))
    testing.check_model(vae(), Space((1, 2, 2), levels=2), (testing.LABEL, Space((2,))))


@pytest.mark.parametrize("family", components(Family), ids=name)
def test_families(family: type[Family]):
    testing.check_family(family)


@pytest.mark.parametrize("config", components(Network.Config), ids=name)
def test_networks(config: type[Network.Config]):
    testing.check_network(config)


@pytest.mark.parametrize("check", testing.CAUSAL_CHECKS, ids=name)
@pytest.mark.parametrize("config", components(CausalNetwork.Config), ids=name)
def test_causal_networks(config: type[CausalNetwork.Config], check):
    check(testing.CausalCase.of(config))


@pytest.mark.parametrize("config", components(Quantizer.Config), ids=name)
def test_quantizers(config: type[Quantizer.Config]):
    testing.check_quantizer(config)


def test_networks_go_both_ways():
    for config in components(Network.Config):
        example, in_shape, out_shape = config.example()
        testing.check_network(example, out_shape, in_shape)


@pytest.mark.parametrize("metric", components(Metric), ids=name)
def test_metrics(metric: type[Metric]):
    testing.check_metric(metric)
    if metric.costly:
        return
    grey = testing.ModelCase.of(vae(likelihood=DiscretizedNormal()), Space((2, 3, 2), levels=5), (testing.LABEL,))
    testing.check_metric(metric, grey.build())


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.parametrize("source", [n for n, b in bundled().items() if not b.missing() and not b.downloads])
def test_bundled_data_sets(source: str):
    rendered = source in ("scenes", "sprites")  # whose images are as many as are asked for
    testing.check_dataset(Data(source=source, images=300) if rendered else Data(source=source))


def test_a_data_set_of_arrays(tmp_path: Path):
    draw = np.random.default_rng(0)
    x = draw.integers(0, 5, (40, 6, 4), dtype=np.uint8)
    np.savez(tmp_path / "set.npz", x=x, y=draw.integers(0, 3, 40), levels=5)
    testing.check_dataset(Data(source=str(tmp_path / "set.npz")))
    testing.check_dataset(Data(source=str(tmp_path / "set.npz"), size=3, label=True))


class Broken:
    """What the batteries must find."""

    @staticmethod
    def found(check, case) -> str:
        with pytest.raises(AssertionError) as e:
            check(case)
        return str(e.value)


def test_the_batteries_find_what_is_broken(monkeypatch: pytest.MonkeyPatch):
    case = testing.ModelCase.of(VAE.Config)
    elbo_terms = VAE.elbo_terms

    with monkeypatch.context() as m:  # always as many draws, whatever is asked for
        m.setattr(VAE, "elbo_terms", lambda self, x, y=None, draws=1: elbo_terms(self, x, y, 100))
        assert "shape" in Broken.found(testing.model_draws_are_as_many_as_asked, case)
    with monkeypatch.context() as m:  # a bound that is too good

        def better(self, x, y=None, draws=1):
            terms = elbo_terms(self, x, y, draws)
            return replace(terms, log_px=0.5 * terms.log_px)

        m.setattr(VAE, "elbo_terms", better)
        assert "more than 1" in Broken.found(testing.model_is_a_probability, case)
    with monkeypatch.context() as m:  # rows that look at each other
        features = Space.features
        m.setattr(Space, "features", lambda self, x: features(self, x) - features(self, x).mean(0))
        assert "alone" in Broken.found(testing.model_rows_are_independent, case)
    with monkeypatch.context() as m:  # a condition that is not used
        m.setattr("lowerbound.networks.context.Context.forward", lambda self, y: torch.zeros(4, 32).double())
        assert "the same whatever" in Broken.found(testing.model_uses_its_condition, case)
    with monkeypatch.context() as m:  # noise for the batch as a whole
        bottom_up = VAE.bottom_up

        def noisy(self, x, y=None):
            torch.rand(3)
            return bottom_up(self, x, y)

        m.setattr(VAE, "bottom_up", noisy)
        with pytest.raises(RuntimeError, match="is neither"):
            testing.model_rows_are_independent(case)


def test_the_battery_names_component_and_check():
    with pytest.raises(AssertionError, match=r"models\.vae\.VAE: model .*: "):
        testing.run_checks(VAE.Config(), [testing.model_samples_are_events], None)


def test_a_new_check_is_in_its_battery_and_public_without_an_edit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = Path(shutil.copytree(Path(testing.__file__).parent, tmp_path / "batteries"))
    for file in folder.glob("*.py"):
        text = file.read_text(encoding="utf-8").replace("lowerbound.testing", "batteries")
        new = "def quantizer_is_new(case: QuantizerCase) -> None: ...\n\n\nQUANTIZER_CHECKS ="
        file.write_text(text.replace("QUANTIZER_CHECKS =", new), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    batteries = importlib.import_module("batteries")
    assert batteries.QUANTIZER_CHECKS[-1] is batteries.quantizer_is_new
    assert set(batteries.__all__) == {*testing.__all__, "quantizer_is_new"}
    assert {"check_model", "model_loss_is_of_float32_in_half_precision", "LABEL", "ModelCase"} < set(testing.__all__)
    assert "VAE" not in testing.__all__  # which a battery imports

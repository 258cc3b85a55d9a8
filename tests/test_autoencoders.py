"""Autoencoders, and the density that is fitted to their codes: what is true of them, and what they say of a mistake."""

import json
import math
import shutil
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm, subspace_angles
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from torch.distributions import Independent, Laplace

import lowerbound as lb
from command import call, right
from lowerbound import testing
from lowerbound.config import override
from lowerbound.distributions import closed_kl, normal_moments
from lowerbound.errors import ConfigError, ModelError, UserError
from lowerbound.families import DiagonalNormal, Noiseless, Point
from lowerbound.likeness import PixelFeatures, frechet
from lowerbound.metrics import report as metrics_report
from lowerbound.model import Draw, Drawn, Model
from lowerbound.models.flow import Flow
from lowerbound.models.vae import VAE
from lowerbound.networks.conv import Conv
from lowerbound.networks.mlp import MLP
from lowerbound.objectives import (
    ELBO,
    IWAE,
    AbsoluteError,
    CrossEntropy,
    GaussianNoise,
    Masking,
    Reconstruction,
    SaltAndPepper,
    SquaredError,
)
from lowerbound.priors import FullGaussianMixture, Gaussian, GaussianMixture, Prior, mixtures, offered
from lowerbound.runs import recipes
from lowerbound.runs.inputs import as_batches, open_data
from lowerbound.runs.run import Run
from lowerbound.space import Density, Space
from lowerbound.stages import Stage, Turn
from lowerbound.training import fits
from lowerbound.verbs import fit_prior
from test_quality import noisy

pytestmark = pytest.mark.usefixtures("surroundings")


LINEAR = MLP.Config(hidden=())
GRAY = Space((1, 4, 4), levels=17)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def autoencoder(space: Space = GRAY, **parts: Any) -> VAE:
    small = MLP.Config(hidden=(6,))
    values = {"latent": 3, "posterior": Point(), "likelihood": Noiseless(), "objective": Reconstruction()}
    return VAE.Config(**{**values, "encoder": small, "decoder": small, **parts}).build(space)


# ---- the linear autoencoder is principal component analysis (Baldi & Hornik 1989)


@pytest.mark.parametrize("tied", [False, True])
def test_the_linear_autoencoder_is_pca(tied):
    x = torch.from_numpy(load_digits().data).float() / 16
    x = x - x.mean(0) if tied else x
    ae = autoencoder(Space((64,)), latent=4, encoder=LINEAR, decoder=LINEAR, tied=tied).train()
    optimizer = torch.optim.LBFGS(ae.parameters(), max_iter=350, line_search_fn="strong_wolfe", history_size=30)

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = ae.loss(x).value
        value.backward()
        return value

    optimizer.step(loss)  # pyright: ignore[reportArgumentType]
    pca = PCA(4).fit(x)
    least = float(((pca.inverse_transform(pca.transform(x)) - x.numpy()) ** 2).sum(1).mean())
    error = ae.loss(x).value.item()
    assert least * (1 - 1e-5) <= error < 1.01 * least
    basis = dict(ae.named_parameters())["encoder.layers.0.weight" if tied else "decoder.layers.0.weight"].detach()
    angles = subspace_angles((basis.T if tied else basis).double().numpy(), pca.components_.T)
    assert np.degrees(angles.max()) < 3


def test_the_sum_of_squares_is_what_the_metric_measures():
    ae, x = autoencoder(), torch.randint(17, (6, 1, 4, 4), dtype=torch.uint8)
    picture = ae.decode(ae.encode(x).mean).mean
    by_hand = ((picture - x) / 16).square().flatten(1).sum(1)
    torch.testing.assert_close(ae.loss(x).terms["error"], by_hand)
    assert (picture >= 0).all()
    assert (picture <= 16).all()
    absolute = autoencoder(objective=Reconstruction(error=AbsoluteError()))
    absolute.load_state_dict(ae.state_dict())
    torch.testing.assert_close(absolute.loss(x).terms["error"], ((picture - x) / 16).abs().flatten(1).sum(1))


def test_a_picture_beyond_the_values_is_drawn_inside_and_pulled_back():
    likelihood = Noiseless(sigmoid=False)
    h = torch.full((1, 1, 4, 4), 3.0, requires_grad=True)  # twice as far as white
    p = likelihood(h, GRAY)
    assert p.mean.max() == 16
    assert p.sample().dtype == torch.uint8
    p.log_prob(torch.full((1, 1, 4, 4), 16, dtype=torch.uint8)).sum().backward()
    assert h.grad is not None
    assert (h.grad < 0).all(), "no gradient from outside"
    middle = likelihood(torch.zeros(1, 1, 4, 4), GRAY)
    assert middle.mean.unique().tolist() == [8.0]


# ---- tied weights


def test_tied_weights_are_transposes():
    mirrored = MLP.Config(hidden=(7, 5), activation="tanh"), MLP.Config(hidden=(5, 7), activation="tanh")
    ae = autoencoder(encoder=mirrored[0], decoder=mirrored[1], tied=True)
    z = torch.randn(4, 3)
    W = [layer.weight for layer in ae.encoder.layers if isinstance(layer, torch.nn.Linear)]  # pyright: ignore
    b = list(ae.decoder.parameters())
    for bias in b:
        torch.nn.init.normal_(bias)
    h = torch.tanh(z @ W[2] + b[0])
    h = torch.tanh(h @ W[1] + b[1]) @ W[0] + b[2]
    torch.testing.assert_close(ae.decode(z).mean, 16 * h.sigmoid().view(4, 1, 4, 4))
    names = [n for n, _ in ae.named_parameters()]
    assert len(names) == len(set(names)) == 9, "three weights, and six biases"
    with torch.no_grad():
        W[0].add_(1.0)
    assert not torch.allclose(ae.decode(z).mean, 16 * h.sigmoid().view(4, 1, 4, 4)), "a copy of the weights"


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"encoder": Conv.Config(widths=(4,))}, "Conv can't be turned around"),
        ({"posterior": DiagonalNormal()}, r"maps \[1, 4, 4\] to \[6\], but a decoder must map \[3\]"),
        ({"likelihood": DiagonalNormal()}, "a likelihood of one number per pixel"),
        ({"decoder": MLP.Config(hidden=(9,))}, r"set model\.decoder\.hidden=\[6\]"),
    ],
)
def test_weights_that_can_not_be_tied(parts, words):
    with pytest.raises(ConfigError, match=words):
        autoencoder(tied=True, **parts)
    with pytest.raises(ConfigError, match=r"tied=false or data\.label=false"):
        VAE.Config(tied=True).build(GRAY, (testing.LABEL,))


# ---- noise and sparsity


@pytest.mark.parametrize("noise", [GaussianNoise(scale=0.3), Masking(fraction=0.4), SaltAndPepper(fraction=0.4)])
def test_noise_is_on_what_the_encoder_sees_in_training_alone(noise, monkeypatch):
    ae, x = autoencoder(objective=Reconstruction(noise=noise)), torch.randint(17, (500, 1, 4, 4), dtype=torch.uint8)
    seen, forward = [], MLP.forward
    monkeypatch.setattr(MLP, "forward", lambda self, h, c=None: (seen.append(h), forward(self, h, c))[1])
    loss = ae.train().loss(x)
    corrupted = seen[0]
    clean = GRAY.features(x)
    with torch.no_grad():
        error = (ae.decode(forward(ae.encoder, corrupted)).mean - x).div(16).square().flatten(1).sum(1)  # pyright: ignore
    torch.testing.assert_close(loss.terms["error"], error)
    changed = corrupted != clean
    if isinstance(noise, GaussianNoise):
        assert (corrupted - clean).std().item() == pytest.approx(2 * 0.3, rel=0.03), "black to white is 2"
    else:
        black, white = (((corrupted == v) & changed).double().mean().item() for v in (-1.0, 1.0))
        assert black + white == pytest.approx(changed.double().mean().item())
        rate = 0.4 * 16 / 17 / (1 if isinstance(noise, Masking) else 2)  # one in 17 was that value before
        assert black == pytest.approx(rate, abs=0.02)
        assert white == pytest.approx(0.0 if isinstance(noise, Masking) else rate, abs=0.02)
    seen.clear()
    ae.eval().loss(x)
    assert torch.equal(seen[0], clean)
    ae.encode(x[:1])
    assert torch.equal(seen[-1], clean[:1])


def test_a_penalty_makes_codes_sparse():
    x = torch.randint(17, (8, 1, 4, 4), dtype=torch.uint8)
    ae = autoencoder(objective=Reconstruction(sparsity=0.5))
    loss = ae.loss(x)
    size = ae.encode(x).mean.abs().sum(1)
    torch.testing.assert_close(loss.terms["code"], size)
    torch.testing.assert_close(loss.value, loss.terms["error"].mean() + 0.5 * size.mean())


def test_the_start_keeps_the_size_of_signals():
    wide = (256,) * 6
    h = torch.randn(500, 256)
    kept = MLP.Config(hidden=wide, gain=math.sqrt(2)).build((256,), (256,))(h).std()
    shrunk = MLP.Config(hidden=wide).build((256,), (256,))(h).std()
    assert 0.7 < kept / math.sqrt(2) < 1.4
    assert shrunk < 0.1


# ---- what an autoencoder does not have


@pytest.mark.parametrize("objective", [ELBO(), IWAE()])
def test_a_point_has_no_bound(objective):
    with pytest.raises(ConfigError, match=r"families\.Point has none; use objectives\.Reconstruction"):
        autoencoder(objective=objective)


def test_an_autoencoder_says_why_it_has_no_density_and_no_samples():
    ae, x = autoencoder(), torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    assert ae.density is Density.NONE
    with pytest.raises(ModelError, match=r"says nothing of log p\(x\): its posterior families.Point is a point"):
        ae.log_density(x)
    for ask in (ae.sample, ae.sample_mean):
        with pytest.raises(ModelError, match=r"--prior autoregressive\|diffusion\|flow\|gaussian\|mixture\|spline$"):
            ask(2)
    fitted = autoencoder(fitted_prior=Gaussian.Config())
    assert fitted.density is Density.NONE
    assert fitted.sample(2).shape == (2, 1, 4, 4)


# ---- the flow


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flows are small, and fitted in few steps."""
    monkeypatch.setattr(fits, "FEWEST", 200)
    monkeypatch.setattr(Flow.Config, "choices", classmethod(lambda cls, space: (cls(layers=2, hidden=(8,)),)))


def shaken_flow(D: int, **options: Any) -> Flow:
    flow = Flow.Config(**{"layers": 5, "hidden": (8,), **options}).build(Space((D,)))
    testing.base.shake_parameters(flow, scale=0.2)
    A = torch.randn(D, D)
    flow.whiten(torch.arange(D), A @ A.T + torch.eye(D))
    return flow


def test_the_flow_is_a_change_of_variables():
    with testing.base.double():
        flow, z = shaken_flow(5), 3 * torch.randn(7, 5)
        u, log_det = flow.to_noise(z)
        torch.testing.assert_close(flow.from_noise(u), z)
        jacobian = torch.autograd.functional.jacobian(lambda z: flow.to_noise(z)[0].sum(0), z)
        torch.testing.assert_close(torch.linalg.slogdet(jacobian.movedim(1, 0)).logabsdet, log_det)  # pyright: ignore
        normal = torch.distributions.Normal(0.0, 1.0).log_prob(u).sum(1)
        torch.testing.assert_close(flow.log_density(z), normal + log_det)
        assert (jacobian.movedim(1, 0)[0] != 0).all(), "every element moves every other"  # pyright: ignore


def test_the_flow_is_a_density_of_the_plane():
    with testing.base.double(), torch.no_grad():
        points, volume = testing.lattice(2, reach=40.0, step=0.1)
        flow = shaken_flow(2)
        assert float(flow.log_density(points).exp().sum()) * volume == pytest.approx(1.0, abs=1e-6)


def test_a_flow_wants_two_halves():
    for space in (Space((1,)), Space((2, 2, 2)), Space((4,), levels=3)):
        with pytest.raises(ConfigError, match=r"at least 2 real numbers.*use priors\.Gaussian"):
            Flow.Config().build(space)


# ---- fits


def fitted(configs: list[Any], z: torch.Tensor, held_out: torch.Tensor) -> Model:
    """Of the priors, fitted to codes, the one that held-out codes like best."""
    return fits.best(autoencoder(latent=z.shape[1]), configs, fits.Codes(z), fits.Codes(held_out)).prior


def draws_of_a_normal(n: int = 3000) -> torch.Tensor:
    L = torch.tensor([[2.0, 0.0, 0.0], [1.5, 0.5, 0.0], [-1.0, 0.2, 0.1]])
    return torch.randn(n, 3) @ L.T + torch.tensor([5.0, -3.0, 0.0])


def test_the_fitted_normal_is_the_closed_form():
    z = draws_of_a_normal()
    prior = fitted([Gaussian.Config()], z, z)
    p = prior.distribution()  # pyright: ignore
    torch.testing.assert_close(p.mean, z.mean(0), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(p.covariance_matrix, torch.cov(z.T, correction=0), rtol=1e-3, atol=1e-4)
    highest = float(torch.distributions.MultivariateNormal(z.mean(0), torch.cov(z.T, correction=0)).log_prob(z).mean())
    assert float(prior.log_density(z).mean().detach()) == pytest.approx(highest, abs=1e-3)


@pytest.mark.usefixtures("hasty")
def test_codes_in_a_plane_are_fitted_too():
    z = draws_of_a_normal()
    flat = torch.cat([z, z[:, :1], torch.zeros(len(z), 1)], 1)
    for config in (Gaussian.Config(), FullGaussianMixture.Config(components=2), Flow.Config(layers=2, hidden=(8,))):
        prior = fitted([config], flat, flat[:200])
        x = prior.sample(2000)
        assert torch.isfinite(x).all()
        assert (x.mean(0) - flat.mean(0)).abs().max() < 0.3
        assert x[:, 4].abs().max() < 0.05
    with pytest.raises(ModelError, match="do not vary enough"):
        fitted([Gaussian.Config()], torch.ones(50, 3), z)


def two_moons(n: int) -> torch.Tensor:
    angle, side = math.pi * torch.rand(n), torch.randint(2, (n,)) * 2 - 1
    moons = torch.stack([side * torch.cos(angle) + side / 2, side * torch.sin(angle) - side / 4], 1)
    return 10 * (moons + 0.08 * torch.randn(n, 2))


def test_a_mixture_and_a_flow_see_what_a_normal_does_not(monkeypatch):
    monkeypatch.setattr(fits, "FEWEST", 600)
    z, held_out, other = two_moons(2000), two_moons(500), two_moons(2000)
    score: dict[str, float] = {}
    for config in (
        Gaussian.Config(),
        FullGaussianMixture.Config(components=12),
        Flow.Config(layers=4, hidden=(32, 32)),
    ):
        prior = fitted([config], z, held_out)
        score[config.type_name()] = float(prior.log_density(other).mean().detach())
    flow, mixture, normal = (score[n] for n in ("models.flow.Flow", "priors.FullGaussianMixture", "priors.Gaussian"))
    assert mixture > normal + 0.7
    assert flow > normal + 0.5


def test_held_out_codes_choose_the_components():
    z = torch.cat([draws_of_a_normal(300) + 30 * i for i in range(3)])
    few, right = FullGaussianMixture.Config(components=1), FullGaussianMixture.Config(components=3)
    assert fitted([few, right], z, z[::7]).config == right
    with pytest.raises(ModelError, match="components=500: 900 codes are too few"):
        fitted([FullGaussianMixture.Config(components=500)], z, z)


def test_frechet_is_the_distance_of_two_normals():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(400, 6)) @ rng.normal(size=(6, 6)), rng.normal(size=(300, 6)) + 1
    A, B = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    by_hand = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(A + B - 2 * np.real(sqrtm(A @ B)))
    assert frechet(a, b) == pytest.approx(by_hand)
    assert frechet(a, a) == pytest.approx(0, abs=1e-9)
    images = rng.integers(0, 17, (50, 1, 4, 4), dtype=np.uint8)
    features = PixelFeatures(images, 17, components=16)
    distance = np.linalg.norm(features(images[:1]) - features(images[1:2]))
    assert distance == pytest.approx(np.linalg.norm(images[0] / 16.0 - images[1] / 16.0))


# ---- from the command line


AUTOENCODER = ["model.posterior=families.Point", "model.objective=objectives.Reconstruction"]
SHORT = ["train.steps=60", "train.valid_every=30", "model.encoder.hidden=[16]", "model.decoder.hidden=[16]"]
SHORT += ["model.latent=3", "train.optimizer.lr=0.01"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("trained")
    more = {"ae": [*AUTOENCODER, "model.likelihood=families.Noiseless"], "vae": []}
    for name, changes in more.items():
        right("train", "vae", "--out", folder / name, *SHORT, *changes)
    return {name: folder / name for name in more}


@pytest.fixture
def runs(trained: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Copies, to be changed."""
    monkeypatch.chdir(tmp_path)
    return {name: Path(shutil.copytree(path, tmp_path / name)) for name, path in trained.items()}


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_report, "draw_pictures", lambda *_: None)


def test_train_and_evaluate_an_autoencoder(runs):
    ae = runs["ae"]
    pictures = {p.name for p in (ae / "pictures").iterdir()}
    assert pictures == {"reconstructions.png", "curves.png"}
    metrics = json.loads(right("evaluate", ae, "--json").out)["metrics"]
    assert metrics["nll"] == {"value": None, "relation": "?"}
    assert "elbo" not in metrics
    assert metrics["squared_error"]["value"] == pytest.approx(64 * metrics["mse"]["value"])
    lines = [json.loads(line) for line in (ae / "log.jsonl").read_text().splitlines()]
    assert all("elbo" not in line for line in lines), "no bound where there is none"
    last = [line["minus_loss"] for line in lines if line["split"] == "valid"][-1]
    measured = json.loads((ae / "evaluation/valid.json").read_text())["metrics"]["squared_error"]["value"]
    assert -last == pytest.approx(measured, rel=1e-4)
    done = call("sample", ae, "--out", "s.png")
    assert done.status == 2
    assert "can't sample" in done.err
    assert "fit-prior RUN" in done.err
    assert "Traceback" not in done.err
    assert "is a point" in call("evaluate", ae, "--metrics", "nll").err


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("prior", ["gaussian", "mixture", "flow"])
def test_fit_prior_of_an_autoencoder(runs, prior, monkeypatch):
    monkeypatch.setattr(mixtures, "CHOICES", (3, 9))
    ae = runs["ae"]
    before = lb.load(ae, device="cpu")
    report = json.loads(right("fit-prior", ae, "--prior", prior, "--json").out)
    after = lb.load(ae, device="cpu")
    assert isinstance(after, VAE)
    assert after.config.fitted_prior.type_name() == report["prior"]
    assert report["likelihoods"] == {}
    assert report.get("components") == getattr(after.config.fitted_prior, "components", None)
    assert report["frechet"]["fitted"] < report["frechet"]["former"]
    assert after.density is Density.NONE
    x = torch.randint(17, (5, 1, 8, 8), dtype=torch.uint8)
    torch.testing.assert_close(after.encode(x).mean, before.encode(x).mean)  # pyright: ignore
    valid = fits.drawn_codes(Run.open(ae), after, "valid").z
    valid = valid if prior == "gaussian" else valid[1::2]  # the others chose
    assert float(after.prior.log_density(valid).mean().detach()) == pytest.approx(
        report["log_density_of_codes"]["fitted"], abs=1e-4
    )
    right("sample", ae, "-n", "4", "--out", "s.png")
    assert (ae / "pictures/samples.png").exists()
    assert json.loads((ae / "evaluation/valid.json").read_text())["metrics"]["nll"]["relation"] == "?"


@pytest.mark.usefixtures("no_pictures")
def test_a_fitted_prior_is_replaced_and_removed(runs):
    ae = runs["ae"]
    (ae / "pictures/samples.png").touch()
    bare = (ae / "config.json").read_text()
    right("fit-prior", ae, "--prior", "mixture", "--components", "4")
    assert '"components": 4' in (ae / "config.json").read_text()
    lb.fit_prior(ae, "gaussian", device="cpu")
    assert Run.open(ae).recipe.model.fitted_prior == Gaussian.Config()  # pyright: ignore
    assert "no fitted prior" in right("fit-prior", ae, "--prior", "none").out
    assert (ae / "config.json").read_text() == bare
    assert not (ae / "pictures/samples.png").exists()
    assert not [n for n in names_of_weights(ae) if n.startswith("fitted")]
    assert call("sample", ae, "--out", "s.png").status == 2


def names_of_weights(run: Path) -> list[str]:
    from safetensors import safe_open

    with safe_open(run / "model.safetensors", "pt") as file:
        return list(file.keys())


def test_the_bound_with_a_fitted_prior_is_measured_anew(runs):
    run = runs["vae"]
    right("evaluate", run, "--draws", "3")
    assert (run / "evaluation/test.json").exists()
    report = json.loads(right("fit-prior", run, "--json").out)
    assert not (run / "evaluation/test.json").exists(), "of the former prior"
    assert not (run / "evaluation/test.npz").exists()
    assert report["likelihoods"]["kl"]["fitted"]["value"] < report["likelihoods"]["kl"]["former"]["value"]
    model = lb.load(run, device="cpu")
    assert isinstance(model, VAE)
    x = torch.randint(17, (6, 1, 8, 8), dtype=torch.uint8)
    q = model.encode(x)
    for seed in range(3):
        torch.manual_seed(seed)
        bound = model.elbo(x)
        torch.manual_seed(seed)
        z = q.rsample((1,))[0]
        by_hand = model.decode(z).log_prob(x) + model.prior.log_density(z) - q.log_prob(z)
        torch.testing.assert_close(bound, by_hand)
    p = model.prior.distribution()  # pyright: ignore
    z = q.rsample((4000,))
    sampled = (q.log_prob(z) - p.log_prob(z)).mean(0)
    closed = closed_kl(q, p)
    assert closed is not None
    assert (sampled - closed).abs().max() < 0.2
    terms = model.elbo_terms(x)
    assert terms.kl is not None
    torch.testing.assert_close(terms.kl[0, :, 0], closed)
    measured = lb.evaluate(run, split="valid", draws=50, device="cpu")["metrics"]
    for name in ("elbo", "kl", "nll"):
        assert measured[name]["value"] == pytest.approx(report["likelihoods"][name]["fitted"]["value"], rel=1e-5)


def test_codes_are_draws_and_not_means(runs):
    run = Run.open(runs["vae"])
    model = run.load()
    assert isinstance(model, VAE)
    z = fits.drawn_codes(run, model, "train").z
    images = run.facts.images
    draws = math.ceil(fits.ENOUGH / images)
    assert len(z) == draws * images
    x = next(as_batches(run, open_data(run, "train"), torch.device("cpu")).in_order(images)).x
    with torch.no_grad():
        q = model.encode(x)
    spread = z.view(draws, images, 3).var(0).mean(0)
    torch.testing.assert_close(spread, q.variance.mean(0), rtol=0.05, atol=1e-3)
    assert torch.equal(z, fits.drawn_codes(run, model, "train").z)


# ---- what the report is of


@pytest.mark.usefixtures("no_pictures")
def test_the_floor_is_that_of_other_training_images(here, monkeypatch):
    """50 training images score what 50 others do, in components that are fitted to neither."""
    monkeypatch.setattr(fit_prior, "JUDGED", 50)
    right("train", "vae", "--data", noisy(here / "noisy.npz"), "--out", "run", *SHORT)
    found = lb.fit_prior("run", device="cpu")["frechet"]
    train, valid = (np.asarray(open_data(Run.open("run"), split).x) for split in ("train", "valid"))
    assert found["n"] == 50
    places = np.random.default_rng(0).permutation(len(train))
    features = PixelFeatures(train[places[400:]], 256)
    real = features(valid[np.linspace(0, len(valid) - 1, 50).astype(int)])
    others = [frechet(features(train[part]), real) for part in np.split(places[:400], 8)]
    assert abs(found["floor"] - np.mean(others)) < 3 * np.std(others)


@pytest.mark.usefixtures("no_pictures", "hasty")
@pytest.mark.parametrize("prior", ["gaussian", "mixture", "flow"])
def test_a_prior_is_chosen_by_some_validation_images_and_reported_on_others(runs, prior, monkeypatch):
    run, chosen = runs["ae"], []
    monkeypatch.setattr(mixtures, "CHOICES", (3, 9))
    best = fits.best

    def watched(model: VAE, offered: Any, z: fits.Codes, held_out: fits.Codes, *more: Any) -> VAE:
        chosen.append(held_out.z)
        return best(model, offered, z, held_out, *more)

    monkeypatch.setattr(fits, "best", watched)
    former = Run.open(run).load()
    assert isinstance(former, VAE)
    z = fits.drawn_codes(Run.open(run), former, "valid").z
    n = len(z)
    report = lb.fit_prior(run, prior, device="cpu")
    mean = float(former.own_prior.log_density(z if prior == "gaussian" else z[1::2]).mean())
    assert report["log_density_of_codes"]["former"] == pytest.approx(mean, abs=1e-4)
    if prior == "gaussian":
        assert report["validation"] == {"images": n, "chosen_by": 0, "reported_on": n}
    else:
        assert torch.equal(chosen[0], z[::2])
        assert report["validation"] == {"images": n, "chosen_by": n - n // 2, "reported_on": n // 2}
        assert f"{n // 2} validation images; {n - n // 2} others chose" in right("fit-prior", run, "--prior", prior).out
    assert report["frechet"]["n"] == report["validation"]["reported_on"]


@pytest.mark.usefixtures("no_pictures")
def test_likelihoods_are_reported_on_the_images_that_chose_nothing(runs, monkeypatch):
    monkeypatch.setattr(mixtures, "CHOICES", (2, 3))
    run = Run.open(runs["vae"])
    report = lb.fit_prior(run, "mixture", device="cpu")["likelihoods"]
    saved, _ = run.load_evaluation("digits", "valid")
    each = np.load(run.path / "evaluation/valid.npz")["elbo"]
    assert saved["metrics"]["elbo"]["value"] == pytest.approx(each.mean())
    assert report["elbo"]["fitted"]["n"] == len(each) // 2
    own = abs(report["elbo"]["fitted"]["value"] - each[1::2].mean())
    assert own < 0.5 * report["elbo"]["fitted"]["stderr"]  # other draws of the same images


def test_every_validation_image_has_its_part():
    for n in (2, 3, 10, 149):
        choosing, reported = (np.arange(n)[part] for part in fit_prior._parts(n, chosen=True))
        assert sorted([*choosing, *reported]) == list(range(n))
        assert len(choosing) - len(reported) in (0, 1)
    assert [np.arange(1)[part].tolist() for part in fit_prior._parts(1, chosen=True)] == [[0], [0]]
    assert [len(np.arange(7)[part]) for part in fit_prior._parts(7, chosen=False)] == [0, 7]


@pytest.mark.usefixtures("no_pictures")
def test_a_single_validation_image_is_not_enough_to_be_apart(here):
    """It chooses and is reported on, which is said; there is no distance of it."""
    x = np.random.default_rng(0).integers(0, 256, (12, 4, 4), dtype=np.uint8)
    np.savez("few.npz", x=x)
    right("train", "vae", "--data", "few.npz", "--out", "run", *SHORT[:4], "model.latent=2")
    done = right("fit-prior", "run", "--prior", "mixture", "--components", "2")
    assert "of 1 validation image; nothing was chosen by them" in " ".join(done.out.split())
    done = right("fit-prior", "run", "--prior", "flow")
    assert "by which the prior was chosen too" in " ".join(done.out.split())
    assert right("fit-prior", "run", "--json").json["frechet"] == {
        "former": None,
        "fitted": None,
        "floor": None,
        "n": 1,
    }


# ---- priors of one's own


class Laplaces(Prior):
    """Independent Laplace distributions."""

    class Config(Model.Config):
        offered_as: ClassVar[str | None] = "laplace"

        def build(self, space: Space, given: tuple[Space, ...] = ()) -> "Laplaces":
            return Laplaces(self, space, given)

        @classmethod
        def example(cls) -> tuple["Laplaces.Config", Space, tuple[Space, ...]]:
            return cls(), Space((2,)), ()

    def __init__(self, config: Config, space: Space, given: tuple[Space, ...] = ()):
        super().__init__(config, space, given)
        self.middle = torch.nn.Parameter(torch.zeros(space.shape))
        self.log_scale = torch.nn.Parameter(torch.zeros(space.shape))

    def distribution(self, y: Any = None) -> Any:
        return Independent(Laplace(self.middle, self.log_scale.exp(), validate_args=False), 1)

    def stages(self) -> tuple[Stage, ...]:
        return (Stage("model", (Turn((self,), self._loss),), begin=self.begin),)

    def begin(self, events: Any) -> None:
        mean, covariance = normal_moments(events)
        self.middle.copy_(mean)
        self.log_scale.copy_(covariance.diagonal().log() / 2)

    def _draw(self, n: int, y: Any, how: Draw, told: Any) -> Drawn:
        return Drawn(self.distribution().sample((n,)))


def test_a_prior_of_ones_own_is_offered_and_trained_by_the_loop(runs, no_pictures):
    """From the normal's mean and deviation, gradients take it to the median and the mean distance from it."""
    run = runs["ae"]
    report = lb.fit_prior(run, "laplace", device="cpu", allow=["test_autoencoders"])
    assert report["prior"] == "test_autoencoders.Laplaces"
    model = lb.load(run, device="cpu", allow=["test_autoencoders"])
    assert isinstance(model, VAE)
    assert isinstance(model.prior, Laplaces)
    z = fits.drawn_codes(Run.open(run, ["test_autoencoders"]), model, "train").z
    spread = (z - z.median(0).values).abs().mean(0)
    assert ((model.prior.middle - z.median(0).values).abs() < 0.1 * spread).all()
    torch.testing.assert_close(model.prior.log_scale.exp(), spread, rtol=0.03, atol=0)
    with pytest.raises(
        ConfigError, match="such prior; known: autoregressive, diffusion, flow, gaussian, mixture, none"
    ):
        lb.fit_prior(runs["vae"], "laplace", device="cpu")


@pytest.mark.parametrize(("latent", "mixture"), [((2,), True), ((2, 2, 2), False)])
def test_what_can_be_fitted_is_said(latent: tuple[int, ...], mixture: bool):
    net = MLP.Config(hidden=(4,))
    config = VAE.Config(latent=latent, posterior=Point(), objective=Reconstruction(), encoder=net, decoder=net)
    with pytest.raises(ModelError, match=r"fit-prior RUN --prior autoregressive\|.*flow\|gaussian") as found:
        config.build(Space((1, 2, 2), levels=2)).sample(1)
    assert ("mixture" in str(found.value)) is mixture


def test_what_is_offered():
    assert sorted(offered(Space((2,)))) == [
        "autoregressive",
        "diffusion",
        "flow",
        "gaussian",
        "mixture",
        "spline",
    ]


def test_the_stage_of_a_fitted_prior_is_the_priors_own_on_codes():
    x = torch.randint(17, (500, 1, 4, 4), dtype=torch.uint8)
    for config in (Gaussian.Config(), Flow.Config(layers=2, hidden=(4,))):
        model = autoencoder(fitted_prior=config)
        *_, stage = model.stages()
        assert stage.prepare is not None
        with torch.no_grad():
            z, y = stage.prepare.given(stage.prepare.make(x, None), None)
        torch.testing.assert_close(z, model.encode(x).mean.detach())  # a point's draw
        start = stage.fit or stage.begin
        assert start is not None
        with torch.no_grad():
            start(iter(z.split(200)) if stage.fit is None else ((part, None) for part in z.split(200)))  # pyright: ignore
        normal = torch.distributions.MultivariateNormal(z.mean(0), torch.cov(z.T, correction=0))
        expected = -float(normal.log_prob(z).mean())
        assert float(stage.turns[0].loss(z, y, 0).value.detach()) == pytest.approx(expected, abs=1e-2)


class Killed(BaseException):
    pass


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("at", range(7))
def test_a_kill_on_the_way_leaves_a_run(runs, monkeypatch, at):
    ae = runs["ae"]
    fit_prior.fit_prior(Run.open(ae), "mixture", components=4)
    steps = 0

    def mortal(real: Any) -> Any:
        def step(self: Run, *words: Any) -> None:
            nonlocal steps
            if steps == at:
                raise Killed
            steps += 1
            real(self, *words)

        return step

    for name in ("save_config", "save_weights", "forget_prior"):
        monkeypatch.setattr(Run, name, mortal(getattr(Run, name)))
    with pytest.raises(Killed):
        fit_prior.fit_prior(Run.open(ae), "gaussian")
    monkeypatch.undo()
    monkeypatch.setattr(metrics_report, "draw_pictures", lambda *_: None)
    model = lb.load(ae, device="cpu")
    assert model.config.fitted_prior in (None, FullGaussianMixture.Config(components=4))
    right("evaluate", ae, "--json")
    lb.fit_prior(ae, "gaussian", device="cpu")
    lb.load(ae, device="cpu").sample(2)


@pytest.mark.usefixtures("no_pictures")
def test_a_run_with_a_fitted_prior_is_resumed_sanely(runs):
    ae = runs["ae"]
    words = ["vae", "--out", ae, "--resume", *AUTOENCODER, "model.likelihood=families.Noiseless", *SHORT]
    right("fit-prior", ae)
    assert "is finished; nothing to resume" in right("train", *words).err
    assert call("sample", ae, "--out", "s.png").status == 0
    (ae / "pictures/samples.png").touch()
    done = right("train", *words, "train.steps=80")
    assert "the prior fitted to" in done.err
    assert not (ae / "pictures/samples.png").exists(), "of the prior that is gone"
    assert "resuming" in done.err
    assert call("sample", ae, "--out", "s.png").status == 2
    assert "can't be" not in right("fit-prior", ae).err
    done = call("train", "vae", "--out", "other", "model.fitted_prior=priors.Gaussian")
    assert done.status == 2
    assert "by `lowerbound fit-prior RUN`" in done.err


def test_old_weights_of_a_learned_prior_still_load():
    config = VAE.Config(latent=2, prior=GaussianMixture.Config(components=2))
    old, new = config.build(GRAY), config.build(GRAY)
    new.load_state_dict({k.replace("own_prior.", "prior."): t for k, t in old.state_dict().items()})
    assert isinstance(old.prior, GaussianMixture)
    assert isinstance(new.prior, GaussianMixture)
    assert torch.equal(old.prior.mean, new.prior.mean)


@pytest.mark.usefixtures("no_pictures")
def test_mistakes_of_fit_prior(runs):
    ae = runs["ae"]
    short = [w for w in SHORT if "latent" not in w]
    right("train", "ppca", "--out", "ppca")
    networks = ["model.encoder.type=networks.conv.Conv", "model.decoder.type=networks.conv.Conv"]
    networks += ["model.encoder.widths=[4]", "model.decoder.widths=[4]"]
    right("train", "vae", "--out", "map", "model.latent=[2,4,4]", *short[:2], *networks)
    for words, said in [
        ([ae, "--prior", "gausian"], "--prior gausian: no such prior; did you mean gaussian?"),
        ([ae, "--prior", "mixture", "--components", "0"], "--components 0: expected a whole number above 0"),
        ([ae, "--prior", "mixture", "--components", "2.5"], "expected a whole number, got 2.5"),
        ([ae, "--prior", "mixture", "--components", "90000"], "codes are too few"),
        ([ae, "--prior", "flow", "--components", "3"], "is for --prior autoregressive or mixture"),
        (["ppca"], "takes a VAE or an autoencoder, and this is a models.ppca.PPCA"),
        (
            ["map", "--prior", "mixture"],
            "mixture: is no density of a map, and this model's latents are [2, 4, 4]; use ",
        ),
        (["nowhere"], "no such run"),
    ]:
        done = call("fit-prior", *words)
        assert done.status == 2, done
        assert said in done.err
        assert "Traceback" not in done.err
    assert call("evaluate", ae).status == 0


@pytest.mark.parametrize("name", [n for n in recipes.names() if n.startswith("ae-")])
def test_recipes(name):
    recipe = recipes.load(name)
    shape, levels = ((3, 32, 32), 256) if "cifar" in name else ((1, 28, 28), 256)
    model: Model = recipe.model.build(Space(shape, levels))
    assert model.density is Density.NONE
    assert recipe.data.binarize is False or not recipe.model.binary()
    if "conv" not in name:
        override(recipe, ["model.tied=true"]).model.build(Space(shape, levels))
    if name == "ae-deep-mnist":
        widths = [p.shape[0] for n, p in model.named_parameters() if n.endswith("weight")]
        assert widths == [1000, 500, 250, 30, 250, 500, 1000, 784]


def test_parts_by_name():
    recipe = override(
        recipes.load("ae-linear"),
        [
            "model.objective.noise.type=objectives.Masking",
            "model.objective.noise.fraction=0.5",
            "model.objective.sparsity=1",
        ],
    )
    objective: Any = recipe.model.objective  # pyright: ignore
    assert objective == Reconstruction(error=SquaredError(), noise=Masking(fraction=0.5), sparsity=1.0)
    assert override(recipe, ["model.objective.error=objectives.CrossEntropy"]).model.objective.error == CrossEntropy()  # pyright: ignore
    with pytest.raises(UserError, match="fraction"):
        override(recipe, ["model.objective.noise.fraction=2"])

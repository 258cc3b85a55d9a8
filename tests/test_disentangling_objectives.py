"""Objectives that weigh the parts of the KL apart: closed forms, enumeration, and what they refuse."""

import math
from itertools import combinations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Independent

from lowerbound import testing
from lowerbound.distributions import Normal
from lowerbound.errors import ConfigError
from lowerbound.estimators import Draws
from lowerbound.model import ElboTerms
from lowerbound.models.vae import VAE
from lowerbound.networks.mlp import MLP
from lowerbound.noise import seeded
from lowerbound.objectives import DIP1, DIP2, ELBO, BetaTC, Capacity, Objective, Stratified, Weighted
from lowerbound.objectives.disentangling import aggregated, covariance
from lowerbound.optimization import Adam
from lowerbound.runs import recipes
from lowerbound.space import Space
from lowerbound.stages import Score
from lowerbound.testing.training import EVENTS
from test_train import train

pytestmark = pytest.mark.usefixtures("surroundings")

SMALL = MLP.Config(hidden=(4,))
IMAGE = Space((1, 2, 2), levels=2)
OBJECTIVES = (Capacity(gamma=5.0, capacity=1.0, steps=5), BetaTC(alpha=0.5, gamma=2.0), DIP1(), DIP2())
CHECKS = ("model_loss", "model_gradients", "model_round_trips_through_j", "model_computes")


def vae(objective: Objective, **more: object) -> VAE.Config:
    return VAE.Config(latent=(2,), encoder=SMALL, decoder=SMALL, objective=objective, **more)  # pyright: ignore


@pytest.mark.parametrize("check", [c for c in testing.MODEL_CHECKS if c.__name__.startswith(CHECKS)])
@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: o.type_name())
def test_a_model_with_each(objective, check):
    check(testing.ModelCase.of(vae(objective), IMAGE))


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: o.type_name())
def test_its_training(objective):
    testing.check_training(vae(objective), IMAGE)
    assert vae(objective).build(IMAGE).stages()[0].score == Score(draws=None)


# ---- q(z), the mean posterior


def terms_of(mean: Tensor, scale: float, draws: int = 1, images: int | None = None, seed: int = 0) -> ElboTerms:
    """Of posteriors N(mean_i, scale² I), a prior N(0, I), and log p(x|z) = -3."""
    B, D = mean.shape
    q = Independent(Normal(mean, torch.full_like(mean, scale)), 1)
    p = Independent(Normal(mean.new_zeros(D), mean.new_ones(D)), 1)
    with seeded("z", seed):
        z = q.rsample((draws,))
    log_px = mean.new_full((draws, B), -3.0)
    log_p, log_q = p.log_prob(z)[..., None], q.log_prob(z)[..., None]
    x = torch.zeros(B, D)
    return ElboTerms(x, q, log_px, (z,), (q,), (p,), lambda: (log_p, log_q), lambda: log_q, Draws(z), images)


def grid(n: int) -> Tensor:
    """n x n posterior means, each element's at the quantiles of N(0, 1): the elements are independent."""
    points = torch.special.ndtri((torch.arange(n, dtype=torch.float64) + 0.5) / n)
    points = points / points.std(correction=0)
    return torch.cartesian_prod(points, points)


SCALE = 0.5


@pytest.mark.parametrize("rho", [0.0, 0.8])
def test_the_parts_of_the_kl_of_a_normal_have_their_closed_forms(rho):
    """z = A e + 0.5 u of normal e and u: q(z) is nearly N(0, C), C = A Aᵀ + 0.25 I."""
    A = torch.tensor([[1.0, 0.0], [rho, math.sqrt(1 - rho**2)]], dtype=torch.float64)
    C = A @ A.T + SCALE**2 * torch.eye(2)
    terms = terms_of(grid(20) @ A.T, SCALE, draws=10)  # the batch is the data set
    _, parts = BetaTC().price(terms, torch.zeros(400, dtype=torch.float64), 0)
    variance = C.diagonal()
    wanted = {
        "mutual_information": 0.5 * float(torch.logdet(C)) - 2 * math.log(SCALE),
        "total_correlation": -0.5 * float(torch.logdet(C) - variance.log().sum()),
        "kl_of_elements": 0.5 * float((variance - 1 - variance.log()).sum()),
    }
    if rho == 0:  # exactly, in every draw: the mixture is the product of two
        assert float(parts["total_correlation"].abs().max()) < 1e-9
    else:
        assert wanted["total_correlation"] == pytest.approx(0.2635, abs=1e-4)
    for name, value in parts.items():
        assert float(value.mean()) == pytest.approx(wanted[name], abs=0.03), name
    assert torch.allclose(sum(parts.values()), (terms.log_qz - terms.log_pz)[..., 0].mean(0))  # pyright: ignore


def test_stratified_sampling_is_q_of_z_in_the_mean_over_all_batches():
    mean, N, B = torch.randn(6, 2, dtype=torch.float64), 6, 3
    q = Independent(Normal(mean, torch.full_like(mean, SCALE)), 1)
    z = mean[0] + 0.3
    whole = q.log_prob(z).exp().mean()
    by_element = q.base_dist.log_prob(z).exp().mean(0)
    found, elements = [], []
    for others in combinations(range(1, N), B - 1):
        own, other = Stratified().log_weights(B, N)
        rows = [0, *others]
        weights = torch.tensor([own, *[other] * (B - 1)]).exp()
        assert float(weights.sum()) == pytest.approx(1)
        found.append((weights * q.log_prob(z).exp()[rows]).sum())
        elements.append((weights[:, None] * q.base_dist.log_prob(z).exp()[rows]).sum(0))
    assert float(torch.stack(found).mean()) == pytest.approx(float(whole), rel=1e-6)
    assert torch.allclose(torch.stack(elements).mean(0), by_element)


@pytest.mark.parametrize("images", [None, 5, 100])
def test_weighted_and_stratified_sampling_by_hand(images):
    mean = torch.randn(5, 3, dtype=torch.float64)
    terms, N = terms_of(mean, SCALE, draws=2, images=images), images or 5
    z = terms.z[0].numpy()
    difference = (z[:, :, None] - mean.numpy()) / SCALE  # [K, B, B, D]
    log_q = -0.5 * difference**2 - math.log(SCALE) - 0.5 * math.log(2 * math.pi)
    own, every = np.eye(5), np.ones((5, 5))
    for sampling, w in (
        (Weighted(), every / (5 * N)),
        (Stratified(), own / N + (every - own) * (N - 1) / (N * 4)),
    ):
        joint, product = aggregated(terms, sampling)
        assert np.allclose(joint, np.log((w * np.exp(log_q.sum(-1))).sum(2)))
        assert np.allclose(product, np.log((w[..., None] * np.exp(log_q)).sum(2)).sum(-1))


def test_each_weight_counts_its_part():
    terms = terms_of(torch.randn(8, 2, dtype=torch.float64), SCALE, draws=3, images=50)
    bound = float(ELBO()(terms, 0).value)
    found = BetaTC(beta=1)(terms, 0)
    assert float(found.value) == pytest.approx(bound)
    for weight, part in (("alpha", "mutual_information"), ("beta", "total_correlation"), ("gamma", "kl_of_elements")):
        loss = BetaTC(**{"beta": 1.0, weight: 4.0})(terms, 0)  # pyright: ignore
        assert float(loss.value) == pytest.approx(bound + 3 * float(found.terms[part].mean()))
    assert found.terms["elbo"].tolist() == pytest.approx(ELBO()(terms, 0).terms["elbo"].tolist())


def test_training_tells_how_many_images_there_are(monkeypatch):
    seen, price = [], BetaTC.price
    monkeypatch.setattr(BetaTC, "price", lambda self, terms, *a: (seen.append(terms.images), price(self, terms, *a))[1])
    testing.check_training(vae(BetaTC()), IMAGE)
    assert set(seen) == {EVENTS}


# ---- covariances, capacity


def test_covariances_are_numpys():
    mean = torch.randn(50, 3, dtype=torch.float64) @ torch.randn(3, 3, dtype=torch.float64)
    assert np.allclose(covariance(mean), np.cov(mean.numpy().T, bias=True))
    terms = terms_of(mean, SCALE)
    C = np.cov(mean.numpy().T, bias=True)
    bound = float(ELBO()(terms, 0).value)
    for objective, own in (
        (DIP1(off_diagonal=2, diagonal=3), C),
        (DIP2(off_diagonal=2, diagonal=3), C + np.eye(3) / 4),
    ):
        square = (own - np.eye(3)) ** 2
        off, on = square.sum() - np.trace(square), np.trace(square)
        loss = objective(terms, 0)
        assert float(loss.value) == pytest.approx(bound + 2 * off + 3 * on)
        assert loss.terms["off_diagonal"].tolist() == pytest.approx([off] * 50)


def test_the_capacity_grows_and_is_kept():
    objective = Capacity(gamma=20, capacity=1.5, steps=100)
    assert [objective.at(step) for step in (0, 50, 100, 1000)] == [0, 0.75, 1.5, 1.5]
    with seeded("capacity"):
        x = torch.randint(0, 2, (64, 1, 2, 2), dtype=torch.uint8)
        model = vae(objective).build(IMAGE).train()
        optimizer = Adam(lr=0.02).build(model.parameters())
        kl = []
        for step in range(250):
            model.zero_grad()
            loss = model.loss(x, None, step)
            loss.value.backward()
            optimizer.step()
            kl.append(float(loss.terms["kl"].mean()))
    assert kl[50] == pytest.approx(0.75, abs=0.3)
    assert np.mean(kl[-50:]) == pytest.approx(1.5, abs=0.1)


# ---- what is refused

WHOLE = ["model.latent_levels=3", "model.posterior=families.Categorical", "model.prior=priors.Categorical"]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (["model.objective=objectives.BetaTC", "train.batch=1"], r"train\.batch=1: objectives\.BetaTC compares"),
        (
            ["model.objective=objectives.DIP2", "train.batch=1"],
            r"train\.batch=1: objectives\.DIP2 takes the covariance",
        ),
        (
            ["model.objective=objectives.Capacity", "model.objective.steps=61"],
            r"objective\.steps=61: the capacity would still grow .* after 60 steps; set model\.objective\.steps=30",
        ),
        *(
            (
                [f"model.objective=objectives.{name}", *more],
                rf"model\.objective: objectives\.{name} takes a posterior of",
            )
            for name in ("BetaTC", "Capacity", "DIP1")
            for more in (WHOLE, ["model.posterior=families.FullNormal"], ["model.posterior=families.Point"])
        ),
    ],
)
def test_what_is_refused(tmp_path, changes, told):
    with pytest.raises(ConfigError, match=told):
        train(tmp_path / "run", *changes)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["BetaTC", "Capacity", "DIP1", "DIP2"])
def test_models_of_several_levels_take_none_of_them(name):
    with pytest.raises(
        ConfigError, match=rf"model\.objective: objectives\.{name} is no bound of log p\(x\), which lev"
    ):
        recipes.load("hvae-mnist", [f"model.objective=objectives.{name}"]).model.build(Space((1, 28, 28), levels=2))

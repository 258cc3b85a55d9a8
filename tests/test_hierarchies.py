"""Latents in two levels, the finer given the coarser draw; and priors that are models with noise of their own."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import kl_divergence

import lowerbound as lb
from command import right
from hierarchies import TwoLevels, linear_gaussian
from lowerbound import testing
from lowerbound.data.base import Images
from lowerbound.data.batches import Batches
from lowerbound.families import FixedScaleNormal, SharedScaleNormal
from lowerbound.metrics.base import World, measure
from lowerbound.model import ElboTerms
from lowerbound.models.vae import VAE
from lowerbound.networks.mlp import MLP
from lowerbound.noise import KeyedNoise
from lowerbound.objectives import ELBO, IWAE, Objective
from lowerbound.space import Space
from lowerbound.units import nats

ERRORS = 4.0  # standard errors
WORLD = torch.tensor(list(itertools.product([0, 1], repeat=4)), dtype=torch.uint8).view(16, 1, 2, 2)
SMALL = MLP.Config(hidden=(4,))


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


def binary(objective: Objective | None = None) -> TwoLevels:
    model = TwoLevels.Config(objective=objective or ELBO()).build(Space((1, 2, 2), levels=2))
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(0.3)  # the posteriors no farther from the true ones than weights of draws can bear
    return model


def close(estimates: Tensor, truth: Tensor | float) -> None:
    """The mean over the first axis is the truth, within its standard errors."""
    error = estimates.std(0) / math.sqrt(len(estimates)) + 1e-12
    assert ((estimates.mean(0) - truth).abs() / error).max() < ERRORS


# ---- two levels


@pytest.mark.parametrize("space", [None, Space((3,))])
def test_two_levels_pass_the_battery_of_models(space: Space | None):
    config = TwoLevels.Config() if space is None else TwoLevels.Config(likelihood=SharedScaleNormal())
    testing.check_model(config, space or Space((1, 2, 2), levels=2))


def test_with_the_true_posteriors_every_draw_is_the_exact_density():
    model, x, log_p = linear_gaussian(ELBO(), exact=True)
    with torch.no_grad():
        torch.testing.assert_close(model.log_weights(x, draws=7), log_p.expand(7, 5), rtol=0, atol=1e-9)


def test_importance_weighting_goes_to_the_exact_density_and_stays_below_it():
    model, x, log_p = linear_gaussian(ELBO())
    with torch.no_grad():
        w = (model.log_weights(x, draws=200_000) - log_p).exp()
    assert 0.01 < float(w.std(0).max()) < 20  # the posteriors are not the true ones
    close(w, 1.0)
    with torch.no_grad():
        close(binary().log_weights(WORLD, draws=40_000).exp().sum(1), 1.0)


def quadrature(model: TwoLevels, x: Tensor, points: int = 20) -> tuple[Tensor, Tensor]:
    """E_q[log p(x, z) - log q(z|x)] and E_q of the two levels' closed KLs, by Gauss and Hermite: [B], [B, 2]."""
    e, w = (torch.from_numpy(a) for a in np.polynomial.hermite_e.hermegauss(points))
    e, w = torch.cartesian_prod(e, e, e), torch.cartesian_prod(*[w / w.sum()] * 3).prod(1)  # [G, 3], [G]
    h = model.bottom_up(x)
    q1 = model.posterior(0, h)
    z1 = q1.mean + q1.stddev * e[:, None, :1]  # [G, B, 1]
    q2 = model.posterior(1, h, (z1,))
    z2 = q2.mean + q2.stddev * e[:, None, 1:]
    p1, p2 = model.prior_of(0), model.prior_of(1, (z1,))
    log_w = model.decode((z1, z2)).log_prob(x) + p1.log_prob(z1) + p2.log_prob(z2) - q1.log_prob(z1) - q2.log_prob(z2)
    kl = torch.stack([kl_divergence(q1, p1).expand(len(w), -1), kl_divergence(q2, p2)], -1)
    return w @ log_w, torch.einsum("g,gbl->bl", w, kl)


def test_the_bound_and_its_two_estimates_are_what_quadrature_says():
    model = binary()
    with torch.no_grad():
        bound, kl = quadrature(model, WORLD)
        terms = model.elbo_terms(WORLD, draws=20_000)
        close(terms.log_weight, bound)
        assert terms.kl is not None
        close(terms.kl, kl)
        close(terms.log_px - terms.kl.sum(-1), bound)
        close(terms.log_qz - terms.log_pz, kl)
        loss = model.loss(WORLD.repeat(500, 1, 1, 1))
        assert float(-loss.value.detach()) == pytest.approx(float(bound.mean()), abs=0.02)


def normal_kls(terms: ElboTerms) -> tuple[Tensor, Tensor]:
    """KL of every dimension for every draw, by the formula of two normals: [K, B, 1] and [K, B, 2]."""
    pairs = [(q.base_dist, p.base_dist) for q, p in zip(terms.q, terms.p, strict=True)]  # pyright: ignore
    coarse, fine = (
        (p.scale / q.scale).log() + (q.scale**2 + (q.loc - p.loc) ** 2) / (2 * p.scale**2) - 0.5 for q, p in pairs
    )
    return coarse.expand(fine.shape[0], *coarse.shape), fine


@pytest.mark.parametrize("draws", [1, 6])
def test_free_bits_are_of_the_mean_over_the_batch_and_the_draws(draws: int):
    torch.manual_seed(1)
    terms = binary().elbo_terms(WORLD, draws=draws)
    coarse, fine = (kl.mean((0, 1)) for kl in normal_kls(terms))
    each = torch.cat([coarse, fine])  # [3]
    distortion = -terms.log_px.mean()
    for bits in (0.0, 0.02, float(each.detach().mean()) / math.log(2), 5.0):
        by_dimension = ELBO(free_bits_dimension=bits)(terms, 0).value
        torch.testing.assert_close(by_dimension, distortion + each.clamp(min=nats(bits)).sum(), rtol=1e-9, atol=0)
        by_level = ELBO(free_bits_level=bits)(terms, 0).value
        levels = torch.stack([coarse.sum(), fine.sum()])
        torch.testing.assert_close(by_level, distortion + levels.clamp(min=nats(bits)).sum(), rtol=1e-9, atol=0)


def gradient(model: TwoLevels, loss: Tensor, names: str = "q") -> Tensor:
    parts = [p for name, p in model.named_parameters() if name.startswith(names)]
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, parts, retain_graph=True)])


def test_the_doubly_reparameterized_gradient_of_the_true_posteriors_is_zero_in_every_draw():
    model, x, _ = linear_gaussian(IWAE(draws=3, dreg=True), exact=True)
    for event in x:
        assert float(gradient(model, model.loss(event[None]).value).abs().max()) < 1e-9


def test_the_doubly_reparameterized_gradient_is_the_gradient_of_the_bound():
    """For one draw that of the closed bound; for several, the mean of the plain estimator, draw by draw paired."""
    model, x, _ = linear_gaussian(IWAE(draws=1, dreg=True))
    one = x[:1]
    with torch.enable_grad():
        exact = gradient(model, -quadrature(model, one, 6)[0].mean())
    dreg = IWAE(draws=1, dreg=True)
    many = one.expand(500, 3)
    close(torch.stack([gradient(model, dreg(model.elbo_terms(many), 0).value) for _ in range(60)]), exact)
    dreg, plain = IWAE(draws=4, dreg=True), IWAE(draws=4)
    estimates = []
    for _ in range(150):
        terms = model.elbo_terms(many, draws=4)
        estimates.append(torch.stack([gradient(model, plain(terms, 0).value), gradient(model, dreg(terms, 0).value)]))
    by_plain, by_dreg = torch.stack(estimates, 1)
    close(by_dreg - by_plain, 0.0)
    error = (by_dreg - by_plain).std(0) / math.sqrt(len(by_plain))
    assert float(error.norm() / by_plain.mean(0).norm()) < 0.01  # a hundredth of it would be seen


@pytest.mark.parametrize("dreg", [False, True])
def test_the_gradient_of_the_other_parts_is_that_of_the_bound_with_either_estimator(dreg: bool):
    model, x, _ = linear_gaussian(IWAE(draws=4, dreg=dreg))
    torch.manual_seed(3)
    terms = model.elbo_terms(x, draws=4)
    by_hand = -(torch.logsumexp(terms.log_weight, 0) - math.log(4)).mean()
    loss = model.config.objective(terms, 0).value
    for names in ("decoder", "p2", "likelihood_head"):
        expected = gradient(model, by_hand, names)
        torch.testing.assert_close(gradient(model, loss, names), expected, rtol=1e-9, atol=1e-12)


def batches(x: Tensor, levels: int = 2) -> Batches:
    images = Images("world", "test", x.numpy(), levels)
    return Batches(images, torch.device("cpu"), binarize=False)


def test_the_elbo_metric_gives_the_kl_of_each_dimension_of_both_levels():
    model = binary()
    values = measure(World(model, batches(WORLD)), names=["elbo", "kl", "distortion"])
    with KeyedNoise(0, range(16)) as noise, torch.no_grad():
        terms = model.elbo_terms(WORLD, draws=noise.chunk(1))
    detail = values["kl"].detail
    assert detail is not None
    each = torch.cat([kl.mean((0, 1)) for kl in normal_kls(terms)])
    assert detail["per_dimension"] == pytest.approx(each.tolist(), abs=1e-9)
    assert values["elbo"].value == pytest.approx(float(terms.log_weight.mean()), abs=1e-9)


# ---- a prior with noise of its own


def nested() -> VAE.Config:
    """A VAE whose prior is a VAE over its latents."""
    inner = VAE.Config(latent=(1,), likelihood=FixedScaleNormal(scale=0.5), encoder=SMALL, decoder=SMALL)
    return VAE.Config(latent=(2,), prior=inner, encoder=SMALL, decoder=SMALL)


def test_a_vae_with_a_vae_as_its_prior_passes_the_battery_of_models():
    label = Space((), levels=3, ordered=False)
    testing.check_model(nested(), Space((1, 2, 2), levels=2))
    testing.check_model(nested(), Space((1, 2, 2), levels=2), (label,))


def test_a_vae_with_a_vae_as_its_prior_is_trained_and_evaluated_by_the_command(surroundings: None, here: Path):
    torch.set_default_dtype(torch.float32)
    options = "train.steps=20 model.latent=4 model.encoder.hidden=[16] model.decoder.hidden=[16]"
    prior = (
        "model.prior.type=models.vae.VAE model.prior.latent=2 model.prior.likelihood.type=families.SharedScaleNormal"
    )
    right(*f"train vae --data digits --out nested {options} {prior}".split())
    metrics = right(*["evaluate", "nested", "--limit", "64", "--draws", "20", "--json"]).json["metrics"]
    assert (metrics["nll"]["relation"], metrics["nll"]["draws"]) == ("<=", 20)
    assert metrics["nll"]["value"] < -metrics["elbo"]["value"]
    model = lb.load("nested")
    x = torch.randint(2, (3, 1, 8, 8), dtype=torch.uint8)
    with KeyedNoise(0, [5, 6, 7]) as noise, torch.no_grad():
        whole = model.log_weights(x, draws=noise.chunk(4))
    with KeyedNoise(0, [6]) as noise, torch.no_grad():
        alone = torch.cat([model.log_weights(x[1:2], draws=noise.chunk(k)) for k in (1, 3)])
    torch.testing.assert_close(alone[:, 0], whole[:, 1], rtol=1e-5, atol=1e-5)

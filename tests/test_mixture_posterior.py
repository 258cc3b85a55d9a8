"""A Gaussian mixture for each image: what its bound is, that every gradient is that of the bound, and what is refused.

The truths are integrals over a grid of a latent of one or two dimensions. Estimates are allowed 4 standard errors.
"""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, Normal

import lowerbound as lb
from command import call, right
from lowerbound.distributions import NormalMixture, detached, tempered
from lowerbound.errors import ConfigError
from lowerbound.estimators import Pathwise, Stratified
from lowerbound.families import DiagonalNormal, GaussianMixture
from lowerbound.models.vae import VAE
from lowerbound.networks.mlp import MLP
from lowerbound.noise import seeded
from lowerbound.objectives import ELBO, IWAE
from lowerbound.space import Space
from lowerbound.testing.base import all_events, shake_parameters

ERRORS = 4.0  # standard errors
SPACE = Space((1, 2, 2), levels=2)
SMALL = MLP.Config(hidden=(4,))

pytestmark = pytest.mark.usefixtures("double")


def close(estimates: Tensor, truth: Tensor | float) -> None:
    """The mean over the first axis is the truth, within its standard errors."""
    error = estimates.std(0) / math.sqrt(len(estimates)) + 1e-12
    off = (estimates.mean(0) - truth).abs() / error
    assert off.max() < ERRORS, f"{float(off.max()):.1f} standard errors off"


def vae(K: int = 3, latent: int = 1, **parts: Any) -> VAE:
    """Its posterior has modes apart from one another and uneven weights."""
    posterior = GaussianMixture(components=K, learned_weights=True)
    made = {"latent": latent, "posterior": posterior, "encoder": SMALL, "decoder": SMALL, **parts}
    with seeded("vae"):
        model = VAE.Config(**made).build(SPACE)  # pyright: ignore[reportArgumentType]
    shake_parameters(model, "mixture")
    return model


def events(n: int = 4) -> Tensor:
    world = all_events(SPACE, 256)
    assert world is not None
    return world[3 : 3 + n]


def grid(q: NormalMixture) -> tuple[Tensor, Tensor]:
    """A grid over a latent of one dimension that holds all of q, [G, B, 1], and its spacing."""
    ends = float((q.loc.abs() + 9 * q.scale).max().detach())
    points = torch.linspace(-ends, ends, 20_001)
    return points[:, None, None].expand(-1, len(q.loc), 1), points[1] - points[0]


def exact_bound(model: VAE, x: Tensor) -> Tensor:
    """E_q[log p(x, z) - log q(z|x)] by integration, with its gradient: [B]."""
    q = model.encode(x)
    z, spacing = grid(q)
    log_q = q.log_prob(z)
    log_w = model.decode(z).log_prob(x) + model.prior_of(0).log_prob(z) - log_q
    return (log_q.exp() * log_w).sum(0) * spacing


def exact_log_p(model: VAE, x: Tensor) -> Tensor:
    z, spacing = grid(model.encode(x))
    return torch.logsumexp(model.decode(z).log_prob(x) + model.prior_of(0).log_prob(z), 0) + spacing.log()


def gradient(model: VAE, value: Tensor) -> Tensor:
    return torch.cat([g.flatten() for g in torch.autograd.grad(value, list(model.parameters()))])


# ---- the distribution


def mixture(logits: Tensor, loc: Tensor, scale: Tensor) -> NormalMixture:
    return NormalMixture(logits.requires_grad_(), loc.requires_grad_(), scale.requires_grad_())


def test_a_single_component_is_the_diagonal_posterior_bit_for_bit():
    one, other = (
        VAE.Config(latent=(2,), posterior=p, encoder=SMALL, decoder=SMALL)
        for p in (GaussianMixture(components=1, learned_weights=True), DiagonalNormal())
    )
    with seeded("a"):
        a = one.build(SPACE)
    with seeded("a"):
        b = other.build(SPACE)
    for objective in (ELBO(), IWAE(draws=3)):
        for model in (a, b):
            model.config = model.config.model_copy(update={"objective": objective})
        losses = []
        for model in (a, b):
            with seeded("loss"):
                losses.append(model.loss(events()).value)
        assert torch.equal(*losses)
        assert torch.equal(gradient(a, losses[0]), gradient(b, losses[1]))
    with seeded("nll"):
        first = a.log_density(events(), draws=7)
    with seeded("nll"):
        assert torch.equal(first, b.log_density(events(), draws=7))


def test_components_that_are_one_give_the_bound_of_one():
    """And components far apart give log K more: the bound is the components' own and their divergence (JSD)."""
    one = Normal(torch.zeros(5, 2), torch.ones(5, 2))
    for apart, gain in ((0.0, 0.0), (1e3, math.log(3))):
        loc = apart * torch.arange(3.0)[None, :, None].expand(5, 3, 2)
        q = NormalMixture(torch.zeros(5, 3), loc, torch.ones(5, 3, 2))
        draws = Stratified().draw(q, 4)
        assert draws.z.shape == (12, 5, 2)
        own = Independent(one, 1).log_prob(draws.z - loc.movedim(1, 0).repeat_interleave(4, 0))
        torch.testing.assert_close(draws.mean(own - q.log_prob(draws.z)), torch.full((5,), gain))


def test_moments_mode_and_temperature():
    q = NormalMixture(torch.tensor([0.0, 1.0]), torch.tensor([[-3.0, 0.0], [3.0, 1.0]]), torch.full((2, 2), 0.1))
    z = q.sample((100_000,))
    close(z, q.mean)
    close((z - q.mean).square(), q.variance)
    assert torch.equal(q.mode, torch.tensor([3.0, 1.0]))  # the heavier of two of one width
    assert torch.equal(tempered(q, 0.0).sample(), q.mode)
    assert torch.allclose(tempered(q, 0.5).scale, torch.full((2, 2), 0.05))  # pyright: ignore
    narrow = NormalMixture(torch.tensor([1.0, 0.0]), q.loc, torch.tensor([[1.0, 1.0], [0.1, 0.1]]))
    assert torch.equal(narrow.mode, torch.tensor([3.0, 1.0]))  # the denser, though lighter
    assert not detached(mixture(torch.zeros(2), q.loc.clone(), q.scale.clone())).logits.requires_grad


def test_implicit_gradients_of_moments():
    """E[z_1] = Σ π μ_1, E[z_1 z_2] = Σ π μ_1 μ_2, E[z_2²] = Σ π (μ_2² + σ_2²), whose gradients are known."""
    torch.manual_seed(1)
    parameters = torch.randn(3), torch.randn(3, 2), torch.rand(3, 2) + 0.3
    q = mixture(*(p.clone() for p in parameters))
    log_pi, loc, scale = q.log_weights, q.loc, q.scale
    pi = log_pi.exp()
    moments = (
        (lambda z: z[..., 0], pi @ loc[:, 0]),
        (lambda z: z[..., 0] * z[..., 1], pi @ (loc[:, 0] * loc[:, 1])),
        (lambda z: z[..., 1].square(), pi @ (loc[:, 1].square() + scale[:, 1].square())),
    )
    for f, moment in moments:
        exact = torch.autograd.grad(moment, [q.logits, loc, scale], retain_graph=True, allow_unused=True)
        exact = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, exact, strict=True)]
        n = 200_000
        many = mixture(*(p.expand(n, *p.shape).clone() for p in parameters))
        found = torch.autograd.grad(f(many.rsample()).sum(), [many.logits, many.loc, many.scale])
        for g, truth in zip(found, exact, strict=True):
            error = g.std(0) / math.sqrt(n) + 1e-12
            assert ((g.mean(0) - truth).abs() / error).max() < ERRORS


def test_implicit_gradients_far_in_the_tails_are_finite():
    q = mixture(torch.tensor([50.0, -50.0]), torch.tensor([[-300.0], [300.0]]), torch.tensor([[1e-3], [1e-3]]))
    z = q.rsample((50,))
    for g in torch.autograd.grad(z.sum(), [q.logits, q.loc, q.scale]):
        assert torch.isfinite(g).all()


# ---- the bound


@pytest.mark.parametrize("estimator", [Stratified(), Pathwise()])
def test_the_bound_and_its_gradient_are_those_of_the_integral(estimator):
    model, x = vae(estimator=estimator), events(1)
    q = model.encode(x)
    assert isinstance(q, NormalMixture)
    assert q.log_weights.exp().max() < 0.9  # of several components
    truth = exact_bound(model, x)
    exact = gradient(model, truth.sum())
    many = x.expand(250, *SPACE.shape)
    values, gradients = [], []
    for _ in range(120):
        loss = model.loss(many)
        values.append(loss.terms["elbo"].mean())
        gradients.append(-gradient(model, loss.value))
    close(torch.stack(values), truth.item())
    close(torch.stack(gradients), exact)
    shares = torch.stack(gradients)
    error = shares.std(0) / math.sqrt(len(shares))
    assert float(error.norm() / exact.norm()) < 0.05  # a twentieth of it would be seen


def test_the_sum_inside_the_logarithm_is_tighter_and_below_log_p():
    model, x = vae(), events(4)
    many = x.repeat_interleave(2000, 0)
    log_p = exact_log_p(model, x)
    bounds = [exact_bound(model, x)]
    for draws in (1, 5):
        model.config = model.config.model_copy(update={"objective": IWAE(draws=draws)})
        each = model.loss(many).terms["iwae"].view(4, 2000)
        error = each.std(1) / math.sqrt(2000)
        assert ((each.mean(1) - bounds[-1]) > 2 * error).all()
        assert ((log_p - each.mean(1)) > -ERRORS * error).all()
        bounds.append(each.mean(1))
    with torch.no_grad():  # and the weights' own mean is p(x): of draws of the mixture itself
        close((model.log_weights(x, draws=40_000) - log_p).exp(), 1.0)


def test_shares_are_right_where_the_bound_is_weighted():
    """E[Σ_k π_k w_k] = p(x), for draws of every component: a wrong share would be seen."""
    model, x = vae(), events(3)
    draws = Stratified().draw(model.encode(x), 20_000)
    assert draws.log_share is not None
    torch.testing.assert_close(draws.log_share.exp().sum(0), torch.ones(3))
    z = draws.z
    log_w = model.decode(z).log_prob(x) + model.prior_of(0).log_prob(z) - model.encode(x).log_prob(z)
    torch.testing.assert_close(draws.log_mean(log_w), exact_log_p(model, x), rtol=0, atol=0.02)


def test_maps_of_latents_and_equal_weights():
    model = vae(latent=2).config.model_copy(update={"latent": (2, 2, 2), "posterior": GaussianMixture(components=4)})
    with seeded("map"):
        built = model.build(SPACE)
    q = built.encode(events())
    assert isinstance(q, NormalMixture)
    assert q.sample((3,)).shape == (3, 4, 2, 2, 2)
    torch.testing.assert_close(q.log_weights.exp(), torch.full((4, 4), 0.25))
    assert torch.isfinite(built.loss(events()).value)


# ---- mistakes, and the command


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"estimator": Stratified(), "posterior": DiagonalNormal()}, "model.estimator: families.DiagonalNormal has no"),
        ({"objective": IWAE(draws=3, dreg=True)}, r"set model\.objective\.dreg=false"),
        ({"objective": ELBO(free_bits_dimension=0.1)}, "use free_bits_level"),
    ],
)
def test_what_does_not_go_together_is_said(parts: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        vae(**parts).loss(events())


def test_it_is_all_that_a_user_types(tmp_path: Path):
    """Trained, measured, encoded, shown, compared: everything takes a posterior without a closed KL."""
    run = tmp_path / "run"
    small = ["train.steps=30", "model.encoder.hidden=[16]", "model.decoder.hidden=[16]", "train.valid_every=30"]
    torch.set_default_dtype(torch.float32)
    right("train", "vae", "model.posterior=families.GaussianMixture", *small, "--out", run)
    report = right("evaluate", run, "--limit", "50", "--draws", "5", "--json").json["metrics"]
    assert report["nll"]["relation"] == "<="
    assert report["nll"]["value"] < -report["elbo"]["value"]
    assert report["active_units"]["n"] == 50
    right("traverse", run, "--out", tmp_path / "t.png")
    right("encode", run, "--split", "test", "--out", tmp_path / "z.npz")
    right("score", run, "digits", "--out", tmp_path / "s.csv")
    right("doctor", run)
    right("compare", run)
    right("sample", run, "-n", "4", "--out", tmp_path / "x.png")
    model = lb.load(run, device="cpu")
    assert isinstance(model, VAE)
    x = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    assert torch.equal(model.features(x), model.encode(x).mean)  # the mixture's mean
    refused = call("train", "vae", "model.posterior=families.GaussianMixture", "model.posterior.components=0")
    assert refused.status == 2
    assert "model.posterior.components" in refused.err

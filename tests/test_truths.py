"""What must hold whatever the code looks like: closed forms, enumeration, and estimates that agree with them.

Every inequality has an equality beside it. Estimates are allowed 4 standard errors; their noise is the same each time.
"""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import chi2
from sklearn.decomposition import PCA
from torch import Tensor
from torch.distributions import Independent, Normal

from linear_worlds import linear_vae, ppca, rotated
from lowerbound.chunks import log_density
from lowerbound.data.base import Data, Images
from lowerbound.data.batches import Batches
from lowerbound.distributions import closed_kl
from lowerbound.errors import ConfigError, ModelError
from lowerbound.estimators import Draws
from lowerbound.families import Bernoulli, DiagonalNormal, FixedScaleNormal, FullNormal, Head
from lowerbound.metrics.base import World, measure
from lowerbound.model import ElboTerms, Model
from lowerbound.models.ppca import PPCA, covariance
from lowerbound.models.vae import VAE
from lowerbound.networks.mlp import MLP
from lowerbound.noise import KeyedNoise
from lowerbound.objectives import ELBO, IWAE
from lowerbound.priors import GaussianMixture, StandardNormal
from lowerbound.space import Density, Space
from lowerbound.training.train import train

ERRORS = 4.0  # standard errors

pytestmark = pytest.mark.usefixtures("double")


def close(estimates: Tensor, truth: Tensor | float, errors: float = ERRORS) -> None:
    """The mean over the first axis is the truth, within its standard errors."""
    error = estimates.std(0) / math.sqrt(len(estimates))
    off = (estimates.mean(0) - truth).abs() / error
    assert off.max() < errors, f"{float(off.max()):.1f} standard errors off"


# ---- the linear Gaussian world


@pytest.mark.parametrize("posterior", [FullNormal(), DiagonalNormal()], ids=["full", "diagonal, rotated"])
def test_with_the_true_posterior_every_single_draw_is_log_p(posterior):
    truth = ppca() if isinstance(posterior, FullNormal) else rotated(ppca())
    vae, x = linear_vae(truth, posterior), ppca().sample(50)
    exact = truth.log_density(x)
    assert truth.density is Density.EXACT
    terms = vae.elbo_terms(x, draws=7)
    assert (terms.log_weight - exact).abs().max() < 1e-9
    assert (vae.log_density(x, draws=3) - exact).abs().max() < 1e-9
    assert (vae.elbo(x) - exact).abs().max() < 1e-9
    assert (truth.elbo_terms(x, draws=7).log_weight - exact).abs().max() < 1e-9

    many = vae.elbo_terms(x[:5], draws=4000)
    assert many.kl is not None
    close(many.log_px - many.kl.sum(-1), exact[:5])
    assert (many.log_px - many.kl.sum(-1)).std(0).min() > 0.1  # it is an estimate, not the same number
    assert torch.allclose(-ELBO()(many, 0).value, (many.log_px - many.kl.sum(-1)).mean(), atol=1e-9)


def test_with_another_posterior_the_bound_is_short_by_its_kl():
    """log p(x) - ELBO = KL(q(z|x) || p(z|x)): an equality, where a bound alone could be too loose."""
    truth = ppca()
    vae, x = linear_vae(truth, FullNormal()), truth.sample(5)
    with torch.no_grad():
        vae.encoder.layers[0].bias += 0.3 * torch.randn(5)  # pyright: ignore
    gap = closed_kl(vae.encode(x), truth.encode(x))
    assert gap is not None
    assert gap.min() > 0.01
    close(vae.elbo_terms(x, draws=20_000).log_weight, truth.log_density(x) - gap)


def test_ppca_is_scikit_learns():
    x = np.random.default_rng(0).normal(size=(300, 6)) @ np.random.default_rng(1).normal(size=(6, 6)) + 3
    model = PPCA.Config(latent=2).build(Space((6,)))
    model.fit(torch.from_numpy(x).split(77))
    model.requires_grad_(False)
    sk = PCA(2, svd_solver="full").fit(x)
    # scikit-learn divides the covariance by n - 1, the maximum of the likelihood by n
    n = len(x)
    sk.explained_variance_ *= (n - 1) / n
    sk.noise_variance_ *= (n - 1) / n
    assert float((2 * model.log_scale).exp()) == pytest.approx(sk.noise_variance_, rel=1e-12)
    assert np.allclose(model.mean.detach().numpy(), sk.mean_)
    assert np.allclose(model.log_density(torch.from_numpy(x)).detach().numpy(), sk.score_samples(x), atol=1e-9)
    # the posterior mean: the principal components, shrunk
    shrunk = sk.transform(x) * np.sqrt(sk.explained_variance_ - sk.noise_variance_) / sk.explained_variance_
    signs = np.sign(model.weight.detach().numpy().T @ sk.components_.T).diagonal()
    q = model.encode(torch.from_numpy(x))
    assert np.allclose(q.mean.detach().numpy(), shrunk * signs, atol=1e-9)
    variance = torch.from_numpy(sk.noise_variance_ / sk.explained_variance_)
    assert torch.allclose(q.covariance_matrix[0], variance.diag(), atol=1e-9)


def test_the_fit_is_the_maximum_of_the_likelihood():
    model = PPCA.Config(latent=2).build(Space((5,)))
    x = ppca().sample(500)
    model.fit([x])
    best = model.loss(x).value
    for grad in torch.autograd.grad(best, list(model.parameters())):
        assert grad.abs().max() < 1e-9
    for _ in range(20):
        other = PPCA.Config(latent=2).build(Space((5,)))
        other.load_state_dict({k: t + 0.05 * torch.randn_like(t) for k, t in model.state_dict().items()})
        assert other.loss(x).value > best


def test_ppca_over_pixels_is_fitted_to_the_dequantized_values():
    """The covariance of x + u is that of x with 1/12 of a bin's square on the diagonal; the fit needs no noise."""
    space = Space((1, 2, 2), levels=5)
    x = (torch.randint(4, (4000, 1, 1, 1)) + torch.randint(2, (4000, 1, 2, 2))).to(torch.uint8)
    model = PPCA.Config(latent=1).build(space).requires_grad_(False)
    model.fit(x.split(1000))
    s = 2 * (x + torch.rand(50, *x.shape)) / 5 - 1
    noisy = PPCA.Config(latent=1).build(Space((4,))).requires_grad_(False)
    noisy.fit([s.reshape(-1, 4)])
    for name, t in noisy.state_dict().items():
        assert torch.allclose(t, model.state_dict()[name], atol=2e-3), name
    # and the bound is the density of s, in the units of x
    assert model.density is Density.BOUND
    truth = noisy.log_density(s.reshape(-1, 4)).reshape(50, -1) + 4 * math.log(2 / 5)
    assert float(model.log_weights(x, draws=50).mean()) == pytest.approx(float(truth.mean()), abs=0.01)


def test_ppca_over_pixels_keeps_the_mass_of_the_scale():
    """Summed over all events, E_u exp(log_weights) is P(s in [-1, 1]^D): nearly 1 for a narrow density."""
    model = PPCA.Config(latent=1).build(Space((2,), levels=4))
    with torch.no_grad():
        model.weight.fill_(0.2)
        model.log_scale.fill_(-2.0)
    world = torch.tensor(list(itertools.product(range(4), repeat=2)), dtype=torch.uint8)
    total = model.log_weights(world, draws=20_000).exp().sum(1)
    close(total, 1.0)


def test_training_ppca_is_its_fit(tmp_path, monkeypatch):
    """`train` calls the closed form once, on the training part alone, and the run holds what it found."""
    torch.set_default_dtype(torch.float32)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    run = train("ppca", out=tmp_path / "run", changes=["model.latent=3", "train.steps=50"], device="cpu").run
    images = Data(source="digits").open("train")
    model = PPCA.Config(latent=3).build(Space(images.shape, levels=17))
    model.fit([torch.from_numpy(images.x.copy())])
    trained = run.load()
    for name, t in model.state_dict().items():
        assert torch.allclose(trained.state_dict()[name], t, atol=1e-5), name
    assert [line["step"] for line in run.log.records()] == [1, 1]
    train("ppca", out=tmp_path / "run", changes=["model.latent=3"], resume=True, device="cpu")
    assert len(list(run.log.records())) == 2


def test_ppca_of_mirrored_images_is_that_of_both():
    space = Space((1, 2, 2), levels=3)
    x = torch.randint(3, (50, 1, 2, 2), dtype=torch.uint8)
    images = Images("random", "train", x.numpy(), 3)
    mirrored, both = (PPCA.Config(latent=1).build(space) for _ in range(2))
    mirrored.stages()[0].fit(Batches(images, torch.device("cpu"), flip=True).pairs(20))  # pyright: ignore
    both.fit([torch.cat([x, x.flip(-1)])])
    assert torch.allclose(mirrored.marginal.covariance_matrix, both.marginal.covariance_matrix)  # pyright: ignore


def test_streamed_covariance_is_the_covariance():
    x = torch.randn(101, 4) @ torch.randn(4, 4) + 1e4
    n, mean, cov = covariance(x.split(10))
    assert n == 101
    assert torch.allclose(mean, x.mean(0), rtol=1e-12)
    assert torch.allclose(cov, torch.cov(x.T, correction=0), rtol=1e-8, atol=1e-8)


def test_ppca_refuses_what_has_no_fit():
    with pytest.raises(ModelError, match="lie in 2 dimensions"):
        PPCA.Config(latent=2).build(Space((3,))).fit([torch.randn(50, 2) @ torch.randn(2, 3)])
    for n in (0, 1):
        with pytest.raises(ModelError, match=f"fitted to {n} events"):
            PPCA.Config(latent=2).build(Space((3,))).fit([torch.randn(1, 3)] * n)
    with pytest.raises(ConfigError, match=r"model\.latent: expected a whole number below 3"):
        PPCA.Config(latent=3).build(Space((3,)))


# ---- the 2x2 binary world, with one latent number

IMAGE = Space((1, 2, 2), levels=2)
WORLD = torch.tensor(list(itertools.product(range(2), repeat=4)), dtype=torch.uint8).reshape(16, 1, 2, 2)


def tiny(**parts) -> VAE:
    """A VAE of 2x2 binary images with one latent number, none of whose parameters is special."""
    net = MLP.Config(hidden=(3,), activation="tanh")
    config = VAE.Config(**{"latent": 1, "encoder": net, "decoder": net} | parts)
    vae = config.build(IMAGE)
    with torch.no_grad():
        for p in vae.parameters():
            p.add_(0.8 * torch.randn_like(p))
        for p in vae.encoder.parameters():
            p.mul_(0.4)  # q is not narrow, so that importance weights have an error that can be told
    return vae.requires_grad_(False)


def quadrature(n: int = 80) -> tuple[Tensor, Tensor]:
    """Points and weights with Σ w f(e) = E f(N(0, 1)) for polynomials to the degree 2n - 1 (Gauss-Hermite)."""
    points, weights = np.polynomial.hermite_e.hermegauss(n)
    return torch.from_numpy(points), torch.from_numpy(weights / weights.sum())


def exact(vae: VAE) -> Tensor:
    """log p(x) of all 16 images: the sum over the prior's noise."""
    e, w = quadrature()
    log_px = torch.stack([vae.decode(e[:, None]).log_prob(x.expand(len(e), 1, 2, 2)) for x in WORLD])
    return torch.logsumexp(log_px + w.log(), 1)


def expected_elbo(vae: VAE) -> Tensor:
    """E_q[log p(x, z) - log q(z|x)] of all 16 images, through public calls alone."""
    e, w = quadrature()
    q = vae.encode(WORLD)
    z = q.mean + q.stddev * e[:, None, None]  # [E, 16, 1]
    log_w = vae.decode(z).log_prob(WORLD) + vae.prior.log_density(z.flatten(0, 1)).view(-1, 16) - q.log_prob(z)
    return (w[:, None] * log_w).sum(0)


def test_exact_marginals_sum_to_one():
    assert float(exact(tiny()).exp().sum()) == pytest.approx(1, abs=1e-10)


def test_every_expected_bound_is_below_its_marginal():
    vae = tiny()
    elbo, truth = expected_elbo(vae), exact(vae)
    assert (elbo <= truth).all()
    assert float(elbo.exp().sum()) <= 1
    # the equality beside it: the gap is KL(q || p(z|x)), with p(z|x) by quadrature
    e, w = quadrature()
    q = vae.encode(WORLD)
    z = q.mean + q.stddev * e[:, None, None]
    log_posterior = vae.decode(z).log_prob(WORLD) + vae.prior.log_density(z.flatten(0, 1)).view(-1, 16) - truth
    gap = (w[:, None] * (q.log_prob(z) - log_posterior)).sum(0)
    assert torch.allclose(truth - elbo, gap, atol=1e-10)
    assert gap.min() > 1e-3


def test_estimates_of_the_bound_agree_with_quadrature():
    vae = tiny()
    truth = expected_elbo(vae)
    terms = vae.elbo_terms(WORLD, draws=20_000)
    assert terms.kl is not None
    close(terms.log_weight, truth)
    close(terms.log_px - terms.kl.sum(-1), truth)  # the closed KL
    assert torch.allclose(ELBO()(terms, 0).terms["elbo"], (terms.log_px - terms.kl.sum(-1)).mean(0))
    close(vae.elbo(WORLD.repeat(2000, 1, 1, 1)).view(2000, 16), truth)


def test_importance_weighted_bounds_grow_to_the_marginal():
    """log p(x) >= L_{k+1} >= L_k (Burda et al. 2016, theorem 1), and the weights' mean is p(x) itself (eq. 9)."""
    vae = tiny()
    truth = exact(vae)
    log_w = vae.log_weights(WORLD, draws=60_000)  # [K, 16]
    close(log_w.exp(), truth.exp())
    bounds = []
    for k in (1, 2, 4, 16, 64):
        each = torch.logsumexp(log_w[: 60_000 // k * k].view(-1, k, 16), 1) - math.log(k)
        bounds.append((each.mean(0), each.std(0) / math.sqrt(len(each))))
        assert (bounds[-1][0] - truth <= ERRORS * bounds[-1][1]).all()
    assert torch.allclose(bounds[0][0], expected_elbo(vae), atol=0.05)
    for (low, _), (high, error) in itertools.pairwise(bounds):
        assert (high >= low - ERRORS * error).all()
        assert high.sum() > low.sum()
    assert (truth - bounds[-1][0]).sum() < 0.15 * (truth - bounds[0][0]).sum()


def test_iwae_of_two_draws_is_its_double_integral():
    """L_2 by quadrature over both draws, against log_density(draws=2)."""
    vae = tiny()
    e, w = quadrature(40)
    q = vae.encode(WORLD)
    z = q.mean + q.stddev * e[:, None, None]
    log_w = vae.decode(z).log_prob(WORLD) + vae.prior.log_density(z.flatten(0, 1)).view(-1, 16) - q.log_prob(z)
    pair = torch.logaddexp(log_w[:, None], log_w[None]) - math.log(2)  # [E, E, 16]
    truth = (w[:, None, None] * w[None, :, None] * pair).sum((0, 1))
    close(vae.log_density(WORLD.repeat(20_000, 1, 1, 1), draws=2).view(20_000, 16), truth)


def test_samples_have_the_exact_marginals():
    vae = tiny()
    n, p = 20_000, exact(vae).exp()
    x = vae.sample(n).flatten(1).long()
    counts = torch.bincount((x * torch.tensor([8, 4, 2, 1])).sum(1), minlength=16)
    statistic = float(((counts - n * p) ** 2 / (n * p)).sum())
    assert chi2.sf(statistic, 15) > 1e-3
    assert chi2.sf(float(((counts - n / 16) ** 2 / (n / 16)).sum()), 15) < 1e-6  # the test can fail
    mean = vae.sample_mean(n).flatten(1)
    close(mean, (p[:, None] * WORLD.flatten(1)).sum(0))


def test_samples_at_temperature_zero_are_the_modes():
    vae = tiny()
    mean = vae.sample_mean(50, temperature=0.0)
    assert torch.equal(mean, vae.decode(torch.zeros(1, 1)).mean.expand_as(mean))


# ---- KL


@pytest.mark.parametrize("posterior", [DiagonalNormal(), FullNormal()], ids=["diagonal", "full"])
def test_the_closed_kl_is_the_mean_of_the_sampled_one(posterior):
    space = Space((3,))
    head, prior = Head(posterior, space), StandardNormal.Config().build(space)
    q = head(torch.randn(4, *head.in_shape))
    kl = closed_kl(q, prior.distribution())
    z = q.rsample((40_000,))
    assert kl is not None
    close(q.log_prob(z) - prior.log_density(z.flatten(0, 1)).view(-1, 4), kl)


def test_a_mixture_has_no_closed_kl_and_is_sampled():
    vae = tiny(prior=GaussianMixture.Config(components=2))
    terms = vae.elbo_terms(WORLD, draws=3)
    assert terms.kl is None
    sampled = (terms.log_qz - terms.log_pz).sum(-1)
    assert torch.allclose(ELBO()(terms, 0).terms["kl"], sampled.mean(0))
    assert (terms.log_weight - (terms.log_px - sampled)).abs().max() < 1e-12


# ---- objectives, by hand


def terms_of(kl_per_dimension: Tensor, log_px: Tensor) -> ElboTerms:
    """Terms whose KLs are these [B, D], with KL(N(m, 1) || N(0, 1)) = m²/2."""
    B, D = kl_per_dimension.shape
    prior = StandardNormal.Config().build(Space((D,)))
    q = Head(FixedScaleNormal(scale=1.0), Space((D,)))((2 * kl_per_dimension).sqrt())
    z = q.rsample((len(log_px),))
    log_pz, log_qz = prior.log_density(z.flatten(0, 1)).view(-1, B, 1), q.log_prob(z)[..., None]
    x, p_x = torch.zeros(B, D), Independent(Normal(torch.zeros(len(log_px), B, D), 1.0), 1)
    p = prior.distribution()
    return ElboTerms(x, p_x, log_px, (z,), (q,), (p,), lambda: (log_pz, log_qz), lambda: log_qz, Draws(z))


KL = torch.tensor([[0.1, 2.0, 0.5], [0.3, 1.0, 0.1]], dtype=torch.float64)  # means 0.2, 1.5, 0.3; sums 2.6, 1.4
LOG_PX = torch.tensor([[-10.0, -20.0], [-12.0, -18.0]], dtype=torch.float64)  # distortions 11 and 19
LN2 = math.log(2)


@pytest.mark.parametrize(
    ("objective", "step", "expected"),
    [
        (ELBO(), 0, 15 + 2.0),
        (ELBO(beta=4), 0, 15 + 4 * 2.0),
        (ELBO(beta=0), 0, 15),
        (ELBO(warmup=10), 0, 15 + 0.1 * 2.0),
        (ELBO(warmup=10), 4, 15 + 0.5 * 2.0),
        (ELBO(warmup=10, beta=2), 9, 15 + 2 * 2.0),
        (ELBO(warmup=10), 1000, 15 + 2.0),
        (ELBO(free_bits_dimension=1), 0, 15 + LN2 + 1.5 + LN2),  # the mean over the batch is compared, eq. 15
        (ELBO(free_bits_dimension=0.4), 0, 15 + 0.4 * LN2 + 1.5 + 0.3),
        (ELBO(free_bits_level=2), 0, 15 + 2.0),  # 2 bits are 1.39 nats
        (ELBO(free_bits_level=4), 0, 15 + 4 * LN2),
        (ELBO(free_bits_level=4, beta=2), 0, 15 + 2 * 4 * LN2),
        (ELBO(free_bits_level=9, free_bits_dimension=1), 0, 15 + 9 * LN2),
    ],
    ids=lambda v: f"{v:.4g}" if isinstance(v, float) else str(v),
)
def test_objectives_by_hand(objective: ELBO, step: int, expected: float):
    loss = objective(terms_of(KL, LOG_PX), step)
    assert float(loss.value) == pytest.approx(expected, abs=1e-12)
    # the terms are the plain bound, whatever is descended
    assert loss.terms["kl"].tolist() == pytest.approx([2.6, 1.4])
    assert loss.terms["distortion"].tolist() == [11, 19]
    assert loss.terms["elbo"].tolist() == pytest.approx([-13.6, -20.4])


def test_free_bits_pull_no_more_below_the_allowance():
    kl = KL.clone().requires_grad_()
    ELBO(free_bits_dimension=1)(terms_of(kl, LOG_PX), 0).value.backward()
    assert kl.grad is not None
    assert torch.allclose(kl.grad, torch.tensor([[0.0, 0.5, 0.0]] * 2), atol=1e-12)


def test_free_bits_of_dimensions_need_independent_ones():
    vae = tiny(latent=2, posterior=FullNormal(), objective=ELBO(free_bits_dimension=1))
    with pytest.raises(ConfigError, match=r"model\.objective\.free_bits_dimension.*use free_bits_level"):
        vae.loss(WORLD)


def test_iwae_by_hand():
    log_w = LOG_PX - 1.0
    zero = torch.zeros(2, 2, 1)
    loss = IWAE(draws=2)(replace(terms_of(KL, LOG_PX), latents=lambda: (zero, zero + 1)), 0)
    by_hand = [math.log((math.exp(a) + math.exp(b)) / 2) for a, b in log_w.T.tolist()]
    assert float(loss.value) == pytest.approx(-sum(by_hand) / 2)
    half = IWAE(draws=2, warmup=2)(replace(terms_of(KL, LOG_PX), latents=lambda: (zero, zero + 1)), 0)
    assert float(half.value) == pytest.approx(-sum(by_hand) / 2 - 0.5)
    assert half.terms["iwae"].tolist() == loss.terms["iwae"].tolist()
    assert loss.terms["iwae"].tolist() == pytest.approx(by_hand)
    assert loss.terms["elbo"].tolist() == pytest.approx([-12, -20])


# ---- the doubly reparameterized gradient


def gradients(vae: VAE, objective: IWAE, n: int) -> tuple[Tensor, Tensor]:
    """Of n losses of one image, each with noise of its own: the gradient of each with respect to the encoder's output,
    [n, 2], and that of their mean with respect to all that is not the encoder's."""
    torch.manual_seed(0)
    outputs: list[Tensor] = []
    hook = vae.encoder.register_forward_hook(lambda module, args, out: outputs.append(out))
    loss = objective(vae.elbo_terms(WORLD[5:6].expand(n, 1, 2, 2), None, objective.draws), 0).value
    hook.remove()
    others = [p for name, p in vae.named_parameters() if not name.startswith("encoder")]
    encoder, *rest = torch.autograd.grad(loss, [*outputs, *others])
    return n * encoder, torch.cat([g.flatten() for g in rest])


@pytest.mark.parametrize("prior", [StandardNormal.Config(), GaussianMixture.Config(components=2)], ids=["N", "mixture"])
@pytest.mark.parametrize("warmup", [0, 3])  # at the first step: beta 1 and 1/3
def test_dreg_has_the_gradient_of_iwae(prior, warmup: int):
    vae = tiny(prior=prior).requires_grad_()
    plain, rest = gradients(vae, IWAE(draws=8, warmup=warmup), 40_000)
    dreg, dreg_rest = gradients(vae, IWAE(draws=8, warmup=warmup, dreg=True), 40_000)
    assert torch.allclose(rest, dreg_rest, rtol=1e-9, atol=1e-12)
    close(plain - dreg, 0.0)  # the same noise: a paired comparison
    assert ((plain - dreg).std(0) > 0.01).all()


@pytest.mark.parametrize("prior", [StandardNormal.Config(), GaussianMixture.Config(components=2)], ids=["N", "mixture"])
def test_both_have_the_true_gradient_of_one_draw(prior):
    vae = tiny(prior=prior).requires_grad_()
    e, w = quadrature()
    h = vae.encoder(vae.space.features(WORLD[5:6])).detach().requires_grad_()
    q = vae.posterior_head(h)
    z = q.mean + q.stddev * e[:, None, None]
    log_w = vae.decode(z).log_prob(WORLD[5:6]) + vae.prior.log_density(z[:, 0])[:, None] - q.log_prob(z)
    (truth,) = torch.autograd.grad(-(w[:, None] * log_w).sum(), h)
    for objective in (IWAE(draws=1), IWAE(draws=1, dreg=True)):
        close(gradients(vae, objective, 40_000)[0], truth[0])


def test_dreg_has_the_smaller_variance():
    vae = tiny().requires_grad_()
    plain, dreg = (gradients(vae, IWAE(draws=8, dreg=d), 20_000)[0] for d in (False, True))
    assert (dreg.var(0) < 0.7 * plain.var(0)).all()


def test_dreg_is_silent_at_the_true_posterior():
    """Where q(z|x) = p(z|x), every draw's gradient of the encoder is 0: the score, left out, was all noise."""
    truth = ppca()
    vae, x = linear_vae(truth, FullNormal()), truth.sample(20)
    encoder = list(vae.encoder.parameters())
    for dreg in (False, True):
        loss = IWAE(draws=4, dreg=dreg)(vae.elbo_terms(x, draws=4), 0)
        size = max(float(g.abs().max()) for g in torch.autograd.grad(loss.value, encoder))
        assert size < 1e-9 if dreg else size > 1e-2


# ---- draws, and noise keyed by image


def batches(n: int, space: Space = IMAGE) -> Batches:
    x = torch.randint(space.levels or 0, (n, *space.shape), dtype=torch.uint8).numpy()
    return Batches(Images("random", "test", x, space.levels or 0), torch.device("cpu"))


def test_draws_are_as_many_as_asked():
    """The variance of the mean of k draws is 1/k of that of one; the decoder is asked for k x B images, no more."""
    vae = tiny()
    x = WORLD[5:6].expand(4000, 1, 2, 2)
    one = vae.log_weights(x, draws=1)[0].var()
    for k in (2, 8):
        assert float(one / vae.log_weights(x, draws=k).mean(0).var()) == pytest.approx(k, rel=0.15)
    rows: list[int] = []
    vae.decoder.register_forward_hook(lambda module, args, out: rows.append(len(out)))
    vae.log_density(WORLD, draws=5)
    vae.loss(WORLD)
    assert rows == [5 * 16, 16]


def test_keyed_noise_is_the_same_in_any_batch_and_any_chunk():
    def draw(index: list[int], chunks: list[int], kind: str = "randn") -> Tensor:
        with KeyedNoise(3, index) as noise:
            parts = [
                (noise.chunk(k), getattr(torch, kind)(k, len(index), 2), torch.rand(k, len(index))) for k in chunks
            ]
        return torch.cat([torch.cat([a, b[..., None]], -1) for _, a, b in parts])

    whole = draw([0, 1, 2, 3], [6])
    assert torch.equal(draw([0, 1, 2, 3], [1, 2, 3]), whole)
    assert torch.equal(draw([2], [6])[:, 0], whole[:, 2])
    assert torch.equal(draw([3, 1], [4, 2]), whole[:, [3, 1]])
    assert len(whole[..., 0].unique()) == whole[..., 0].numel()  # no two are the same
    with KeyedNoise(3, [0, 1]) as noise:
        noise.chunk(4)
        first, second = torch.randn(4, 2), torch.randn(4, 2)
    assert not torch.isclose(first, second).any()  # nor those of two calls
    normal, uniform = draw(list(range(50)), [400])[..., 0].flatten(), draw(list(range(50)), [400])[..., 2].flatten()
    close(torch.stack([normal, normal**2 - 1, uniform - 0.5, uniform**2 - 1 / 3], 1), 0.0)


def test_metrics_do_not_depend_on_batch_size(monkeypatch):
    vae, images = tiny(), batches(23)
    expected = measure(World(vae, images), options={"draws": 9})
    for rows in (1, 4, 50):
        monkeypatch.setattr(Model, "rows", rows)
        values = measure(World(vae, images), options={"draws": 9})
        for name, value in values.items():
            assert value.value == pytest.approx(expected[name].value, rel=1e-9), name


def test_nll_is_the_importance_weighted_bound_recomputed():
    """From encode, decode and the prior alone, with the noise drawn from the generators that it is keyed to."""
    vae, images, K = tiny(), batches(11), 13
    x = images.x
    streams = [np.random.Generator(np.random.SFC64(np.random.SeedSequence((5, i, 0)))) for i in range(11)]
    eps = torch.from_numpy(np.stack([s.standard_normal((K, 1)) for s in streams], 1))  # [K, B, 1]
    q = vae.encode(x)
    z = q.mean + q.stddev * eps
    log_p = -0.5 * (z**2 + math.log(2 * math.pi)).sum(-1)
    log_q = (-0.5 * (eps**2 + math.log(2 * math.pi)) - q.stddev.log()).sum(-1)
    logits = torch.logit(vae.decode(z).mean)
    bits = x.double().expand(K, -1, -1, -1, -1)
    log_px = -torch.nn.functional.binary_cross_entropy_with_logits(logits, bits, reduction="none").sum((2, 3, 4))
    expected = np.log(np.mean(np.exp((log_px + log_p - log_q).numpy()), 0))
    assert np.allclose(log_density(vae, images, draws=K, seed=5), expected, atol=1e-9)
    values = measure(World(vae, images, seed=5), names=["nll", "bits_per_dim"], options={"draws": K})
    assert values["nll"].value == pytest.approx(-expected.mean(), abs=1e-9)
    assert values["nll"].stderr == pytest.approx(expected.std(ddof=1) / math.sqrt(11), abs=1e-9)
    assert values["bits_per_dim"].value == pytest.approx(-expected.mean() / (4 * LN2), abs=1e-9)
    assert (values["nll"].relation, values["nll"].draws, values["nll"].n) == ("<=", K, 11)


def test_nll_of_a_model_without_density():
    vae = tiny(likelihood=Bernoulli()).config.build(Space((1, 2, 2), levels=5))
    images = batches(3, vae.space)
    assert measure(World(vae, images))["nll"].relation == "?"
    with pytest.raises(ModelError, match="no probability of 5 levels"):
        measure(World(vae, images), names=["nll"])

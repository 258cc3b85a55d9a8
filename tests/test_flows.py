"""Flows: what is known of the density of a bent normal, as a posterior and as a prior."""

import pytest
import torch
from torch import Tensor
from torch.distributions import kl_divergence

from lowerbound import families
from lowerbound.distributions import Bent, MultivariateNormal, detached
from lowerbound.distributions import LowRankNormal as LowRank
from lowerbound.errors import ConfigError
from lowerbound.families import IAF, DiagonalNormal, Family, Head, LowRankNormal
from lowerbound.models.vae import VAE
from lowerbound.networks.mlp import MLP
from lowerbound.noise import randn, seeded
from lowerbound.objectives import IWAE
from lowerbound.priors import StandardNormal
from lowerbound.space import Space
from lowerbound.testing.base import double, expect_mean, lattice, shake_parameters
from lowerbound.transforms import rational_quadratic

D = 5
FLOWS = (IAF(steps=3, context=3, hidden=(12,)), families.SplineCoupling(steps=3, context=3, hidden=(8,)))
each_flow = pytest.mark.parametrize("family", FLOWS, ids=["IAF", "splines"])


def bent(family: Family, *batch: int, dims: int = D, scale: float = 0.3) -> tuple[Head, Tensor, Bent]:
    """A shaken head in float64, what it is given, and the distribution."""
    with seeded("bent"), double():
        head = Head(family, Space((dims,)))
        shake_parameters(head, scale=scale)
        h = 0.5 * randn((*batch, *head.in_shape))
        q = head(h.requires_grad_())
    assert isinstance(q, Bent)
    return head, h, q


@each_flow
def test_the_density_is_that_of_the_change_of_variables(family: Family):
    _, _, q = bent(family)
    with seeded("u"):
        u = q.base.sample((6,))
    z, log_det = q.transform.forward(u)
    for one, its, found in zip(u, z, log_det, strict=True):
        J = torch.autograd.functional.jacobian(lambda t: q.transform.forward(t)[0], one)
        assert isinstance(J, Tensor)
        torch.testing.assert_close(found, torch.linalg.slogdet(J)[1], rtol=1e-9, atol=1e-9)
        steps = torch.eye(D, dtype=J.dtype) * 1e-6
        numeric = torch.stack(
            [(q.transform.forward(one + e)[0] - q.transform.forward(one - e)[0]) / 2e-6 for e in steps], 1
        )
        torch.testing.assert_close(J, numeric, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(q.log_prob(its.clone()), q.base.log_prob(one) - torch.linalg.slogdet(J)[1])
    back, same = q.transform.inverse(z)
    assert float((back - u).detach().abs().max()) < 1e-8
    torch.testing.assert_close(same, log_det)


@each_flow
def test_a_flow_of_two_numbers_integrates_to_one_and_is_drawn_from(family: Family):
    _, _, q = bent(family, dims=2, scale=0.15)
    points, volume = lattice(2, reach=10, step=0.05)
    with torch.no_grad():
        p = q.log_prob(points.double()).exp() * volume
        assert abs(float(p.sum()) - 1) < 1e-3
        with seeded("draws"):
            z = q.sample((4000,))
    expect_mean("the mean of draws", z, (p[:, None] * points).sum(0))
    expect_mean("the second moment of draws", z**2, (p[:, None] * points**2).sum(0))
    assert float((z.mean(0) - q.mean.detach()).abs().max()) < 0.15


@each_flow
def test_a_flow_begins_as_the_diagonal_posterior(family: Family):
    with double(), seeded("start"):
        head = Head(family, Space((D,)))
        h = randn((4, *head.in_shape))
        q, plain = head(h), DiagonalNormal()(h[:, : 2 * D], Space((D,)))
        z = plain.sample((3,))
    torch.testing.assert_close(q.log_prob(z), plain.log_prob(z))
    torch.testing.assert_close(q.mean, plain.mean)
    torch.testing.assert_close(q.variance, plain.variance)
    torch.testing.assert_close(q.mode, plain.mode)


@each_flow
def test_the_density_of_a_draw_is_remembered_with_its_gradient(family: Family):
    head, h, q = bent(family, 4)
    with seeded("draw"):
        z = q.rsample((3,))
    of_draw, of_value = q.log_prob(z.view_as(z)), q.log_prob(z.clone())
    assert of_draw is q.log_prob(z)
    torch.testing.assert_close(of_draw, of_value)
    wanted = [h, *head.parameters()]
    for a, b in zip(
        *(torch.autograd.grad(f.sum(), wanted, retain_graph=True) for f in (of_draw, of_value)), strict=True
    ):
        torch.testing.assert_close(a, b)
        assert bool((a != 0).any())
    alone = torch.autograd.grad(q.log_prob(z.detach()).sum(), h, retain_graph=True)[0]  # z held fixed: another gradient
    assert not torch.allclose(alone, torch.autograd.grad(of_draw.sum(), h, retain_graph=True)[0])
    with seeded("draw"):
        kept = q.sample((3,))
    assert q.log_prob(kept).requires_grad


@each_flow
def test_a_draw_gives_way_to_the_next(family: Family):
    _, _, q = bent(family, 4)
    with torch.no_grad(), seeded("two"):
        first, second = q.sample(), q.sample()
        torch.testing.assert_close(q.log_prob(first), q.log_prob(first.clone()))
        torch.testing.assert_close(q.log_prob(second[:2].clone()[[0, 1, 0, 1]]), q.log_prob(second[[0, 1, 0, 1]]))
        torch.testing.assert_close(q.log_prob(second.T.clone().T), q.log_prob(second))


@each_flow
def test_cut_from_the_graph_a_flow_still_has_a_gradient_for_values(family: Family):
    _, _, q = bent(family, 4)
    z = torch.randn(4, D, dtype=torch.float64, requires_grad=True)
    cut = detached(q).log_prob(z)
    torch.testing.assert_close(cut, q.log_prob(z))
    found = torch.autograd.grad(cut.sum(), z, retain_graph=True)[0]
    torch.testing.assert_close(found, torch.autograd.grad(q.log_prob(z).sum(), z)[0])


@each_flow
def test_double_reparameterization_does_not_bias_the_gradient(family: Family):
    """The mean gradient of the encoder is that of the plain importance-weighted bound, within chance."""

    def gradients(dreg: bool) -> Tensor:
        with double(), seeded("vae"):
            config = VAE.Config(
                latent=(2,), posterior=family, encoder=MLP.Config(hidden=()), decoder=MLP.Config(hidden=())
            )
            vae = config.model_copy(update={"objective": IWAE(draws=3, dreg=dreg)}).build(Space((1, 2, 2), levels=2))
            shake_parameters(vae)
            x, found = torch.randint(2, (1, 1, 2, 2)).expand(200, 1, 2, 2), []
            for _ in range(20):
                vae.zero_grad()
                vae.loss(x).value.backward()
                found.append(torch.cat([p.grad.flatten() for p in vae.encoder.parameters() if p.grad is not None]))
            return torch.stack(found)

    plain, double_ = gradients(False), gradients(True)
    error = (plain.var(0) / len(plain) + double_.var(0) / len(double_)).sqrt() + 1e-9
    assert float(((plain.mean(0) - double_.mean(0)) / error).abs().max()) < 4.5


def test_a_spline_is_monotone_smooth_at_its_knots_and_plain_outside():
    with seeded("spline"):
        h = 2 * torch.randn(1, 23, dtype=torch.float64)
    x = torch.linspace(-4, 4, 4001, dtype=torch.float64).requires_grad_()
    y, log_slope = rational_quadratic(x, h.expand(4001, -1), 3.0)
    (slope,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(log_slope.exp(), slope)
    assert bool((y.diff() > 0).all())
    assert torch.equal(y[x.abs() > 3], x[x.abs() > 3])
    assert float(slope.detach().diff().abs().max()) < 0.2 * float(slope.detach().max())  # the slope has no jumps
    x, log_slope = x.detach(), log_slope.detach()
    back, same = rational_quadratic(y.detach(), h.expand(4001, -1), 3.0, inverse=True)
    assert float((back - x).abs().max()) < 1e-8
    torch.testing.assert_close(same, log_slope)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@each_flow
def test_single_and_half_precision(family: Family, dtype: torch.dtype):
    _, _, exact = bent(family, 64)
    head, h, _ = bent(family, 64)
    q = head.to(dtype)(h.detach().to(dtype))
    z = q.rsample((5,))
    assert z.dtype == q.log_prob(z).dtype == torch.float32
    inverted = q.log_prob(z.clone())
    torch.testing.assert_close(q.log_prob(z), inverted, atol=1e-3 if dtype == torch.float32 else 0.5, rtol=1e-3)
    tolerance = 1e-3 if dtype == torch.float32 else 2.0
    assert float((exact.log_prob(z.double()) - q.log_prob(z)).detach().abs().median()) < tolerance


def test_a_low_rank_normal_is_the_normal_of_its_covariance():
    with seeded("low rank"), double():
        q = LowRankNormal(rank=2)(randn((6, 4 * D)), Space((D,)))
        assert isinstance(q, LowRank)
        full = MultivariateNormal(q.mean, q.covariance_matrix)
        z = q.sample((3,))
        p = StandardNormal.Config().build(Space((D,))).distribution()
        torch.testing.assert_close(q.log_prob(z), full.log_prob(z))
        torch.testing.assert_close(kl_divergence(q, p), kl_divergence(full, p))
        draws = q.rsample((4000,)) - q.mean
    expect_mean("the covariance of draws", draws[..., None] * draws[..., None, :], q.covariance_matrix)
    diagonal = LowRankNormal(rank=1)(torch.cat([torch.ones(2 * D), torch.zeros(D)]), Space((D,)))
    plain = DiagonalNormal()(torch.ones(2 * D), Space((D,)))
    torch.testing.assert_close(kl_divergence(diagonal, p), kl_divergence(plain, p))


def test_what_a_posterior_cannot_be_over():
    with pytest.raises(ConfigError, match="rank=3; set rank=2 or less"):
        VAE.Config(latent=(2,), posterior=LowRankNormal(rank=3)).build(Space((1, 2, 2), levels=2))
    for family in FLOWS:
        with pytest.raises(ConfigError, match=r"at least 2 numbers; use families\.GaussianMixture"):
            VAE.Config(latent=(1,), posterior=family).build(Space((1, 2, 2), levels=2))
        with pytest.raises(ConfigError, match="over vectors of real numbers"):
            VAE.Config(latent=(2, 1, 1), posterior=family).build(Space((1, 2, 2), levels=2))

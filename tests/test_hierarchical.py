"""The hierarchical VAE: its levels, what they are worth, and what is done with them."""

import itertools
import math
import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lowerbound import testing
from lowerbound.config import dump, parse
from lowerbound.errors import ConfigError, ModelError
from lowerbound.estimators import Pathwise
from lowerbound.model import Draw, LatentModel
from lowerbound.models.hierarchical import HierarchicalVAE, Scale
from lowerbound.models.vae import VAE
from lowerbound.noise import seeded
from lowerbound.objectives import ELBO, IWAE, Objective
from lowerbound.space import Space
from lowerbound.testing.base import shake_parameters

ERRORS = 4.0  # standard errors
LABEL = Space((), levels=3, ordered=False)
WORLD = torch.tensor(list(itertools.product([0, 1], repeat=4)), dtype=torch.uint8).view(16, 1, 2, 2)
CATEGORICAL = {
    "latent_levels": 3,
    "posterior": {"type": "families.Categorical"},
    "prior": {"type": "families.Categorical"},
    "estimator": {"type": "estimators.GumbelSoftmax"},
}
BINARY = {
    "latent_levels": 2,
    "posterior": {"type": "families.Bernoulli"},
    "prior": {"type": "families.Bernoulli"},
    "estimator": {"type": "estimators.StraightThrough"},
}
pytestmark = pytest.mark.usefixtures("double")


def config(*scales: Scale, **more: object) -> HierarchicalVAE.Config:
    found = parse(
        HierarchicalVAE.Config, {"type": "models.hierarchical.HierarchicalVAE", "width": 4, "inner": 2, **more}
    )
    assert isinstance(found, HierarchicalVAE.Config)
    return found.model_copy(update={"scales": scales or (Scale(factor=4), Scale(factor=2, levels=2, latent=1))})


def built(
    c: HierarchicalVAE.Config, space: Space | None = None, given: tuple[Space, ...] = (), shake: float = 0.3
) -> HierarchicalVAE:
    with seeded("hierarchical"):
        model = c.build(space or Space((1, 4, 4), levels=2), given)
    shake_parameters(model, "hierarchical", scale=shake)
    return model


def events(n: int, space: Space) -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(space.levels or 2, size=(n, *space.shape))).to(
        space.dtype
    )


def close(estimates: Tensor, truth: Tensor | float) -> None:
    """The mean over the first axis is the truth, within its standard errors."""
    error = estimates.std(0) / math.sqrt(len(estimates)) + 1e-12
    assert ((estimates.mean(0) - truth).abs() / error).max() < ERRORS


# ---- one way down


@pytest.mark.parametrize("more", [{}, CATEGORICAL, BINARY], ids=["real", "categorical", "binary"])
@pytest.mark.parametrize("given", [(), (LABEL,)], ids=["", "label"])
def test_one_way_down_gives_the_terms_that_each_level_on_its_own_gives(
    more: dict[str, object], given: tuple[Space, ...]
):
    model = built(config(**more), given=given)
    x, y = events(5, model.space), torch.tensor([0, 1, 2, 0, 1]) if given else None
    with seeded("draws"):
        own = model.elbo_terms(x, y, 3)
    with seeded("draws"):
        general = LatentModel._terms(
            model, x, model.bottom_up(x, y), y, lambda q: Pathwise().draw(q, 3), model.prior_of
        )
    for name in ("log_px", "log_pz", "log_qz", "kl"):
        torch.testing.assert_close(getattr(own, name), getattr(general, name), rtol=0, atol=1e-12)
    z = tuple(level[0] for level in own.z)
    torch.testing.assert_close(model._log_weight_of(x, z, y), own.log_weight[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(LatentModel._log_weight_of(model, x, z, y), own.log_weight[0], rtol=0, atol=1e-12)
    for fast, slow in zip(model.posteriors(x, y), LatentModel.posteriors(model, x, y), strict=True):
        torch.testing.assert_close(fast.mean, slow.mean, rtol=0, atol=1e-12)


@pytest.mark.parametrize("more", [CATEGORICAL, BINARY], ids=["categorical", "binary"])
def test_levels_of_whole_numbers_pass_the_battery_of_models(more: dict[str, object]):
    testing.check_model(config(Scale(factor=2, levels=2, latent=1, blocks=1), **more), Space((1, 2, 2), levels=2))


class Wrapped(nn.Module):
    def __init__(self, of):
        super().__init__()
        self.of = of
        self.weight = nn.Parameter(torch.zeros(()))  # by which a model tells what its weights are

    def forward(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        return self.of(x)


def test_one_level_is_the_plain_vae_with_the_same_weights():
    model = built(config(Scale(factor=2, latent=3, blocks=1)))
    last: Any = model.priors_of[0].layers[-1]  # pyright: ignore
    with torch.no_grad():  # p(z) = N(0, I); what else is added to the state stays
        last.weight[:6], last.bias[:6] = 0.0, 0.0
    start, nothing = model.starts[0][None], torch.zeros(1, 4, 2, 2)
    vae = VAE.Config(latent=(3, 2, 2)).build(model.space)
    vae.encoder = Wrapped(  # pyright: ignore[reportAttributeAccessIssue]
        lambda h: model.posteriors_of[0](torch.cat([start.expand(len(h), -1, -1, -1), model.ups[0](model.stem(h))], 1))
    )
    vae.decoder = Wrapped(
        lambda z: model.exit(
            model.blocks[0](start + model.priors_of[0](start + nothing)[:, 6:] + model.projections[0](z))
        )
    )
    x = events(6, model.space)
    with seeded("draws"):
        a = model.elbo_terms(x, draws=4)
    with seeded("draws"):
        b = vae.elbo_terms(x, draws=4)
    assert float(a.log_weight.detach().std()) > 0.1
    torch.testing.assert_close(a.log_weight, b.log_weight, rtol=0, atol=1e-12)
    torch.testing.assert_close(a.kl, b.kl, rtol=0, atol=1e-12)
    with seeded("draws"):
        one = model.loss(x)
    with seeded("draws"):
        torch.testing.assert_close(one.value, vae.loss(x).value, rtol=0, atol=1e-12)
    with seeded("samples"):
        drawn = model.sample(50)
    with seeded("samples"):
        assert torch.equal(drawn, vae.sample(50))
    assert torch.allclose(model.reconstruct(x), vae.reconstruct(x), atol=1e-12)


# ---- what the numbers are worth


def test_weights_of_draws_have_the_mean_that_enumeration_gives():
    """Two levels of three values each: all nine z, all sixteen x."""
    model = built(
        config(Scale(factor=2, levels=2, latent=1, blocks=1), **CATEGORICAL), Space((1, 2, 2), levels=2), shake=0.5
    )
    states = torch.cartesian_prod(torch.arange(3), torch.arange(3)).view(9, 2, 1, 1, 1).long()
    z1, z2 = (states[:, None, l].expand(9, 16, 1, 1, 1) for l in range(2))
    with torch.no_grad():
        prior = model.prior_of(0).log_prob(z1) + model.prior_of(1, (z1,)).log_prob(z2)  # [9, 16]
        joint = prior + model.decode((z1, z2)).log_prob(WORLD)
        log_p = torch.logsumexp(joint, 0)
        assert float(log_p.exp().sum()) == pytest.approx(1, abs=1e-12)
        h = model.bottom_up(WORLD)
        log_q = model.posterior(0, h).log_prob(z1) + model.posterior(1, h, (z1,)).log_prob(z2)
        assert torch.allclose(log_q.exp().sum(0), torch.ones(16))
        with seeded("draws"):
            close(model.log_weights(WORLD, draws=10_000).exp(), log_p.exp())
            two = model.log_weights(WORLD, draws=10_000).view(5_000, 2, 16)
        log_w, q = joint - log_q, log_q.exp()
        pairs = torch.logaddexp(log_w[:, None], log_w[None]) - math.log(2)  # [9, 9, 16]
        bound = torch.einsum("abx,ax,bx->x", pairs, q, q)
        close(torch.logsumexp(two, 1) - math.log(2), bound)
        plain = (q * log_w).sum(0)
        assert bool((plain < bound).all())
        assert bool((bound < log_p).all())


def two_real_levels(shake: float, **more: object) -> HierarchicalVAE:
    """Of one number each."""
    return built(config(Scale(factor=2, levels=2, latent=1, blocks=1), **more), Space((1, 2, 2), levels=2), shake=shake)


def quadrature(model: HierarchicalVAE, points: int = 40) -> tuple[Tensor, Tensor]:
    """The bound of each event of the world, and its log p(x): [16] each."""
    e, w = (torch.from_numpy(a) for a in np.polynomial.hermite_e.hermegauss(points))
    e, w = torch.cartesian_prod(e, e), torch.cartesian_prod(w, w).prod(1) / w.sum() ** 2  # [G, 2], [G]
    e1, e2 = (e[:, l].view(-1, 1, 1, 1, 1) for l in range(2))
    h = model.bottom_up(WORLD)
    q1, p1 = model.posterior(0, h), model.prior_of(0)
    z1 = q1.mean + q1.stddev * e1
    q2, p2 = model.posterior(1, h, (z1,)), model.prior_of(1, (z1,))
    z2 = q2.mean + q2.stddev * e2
    ratio = p1.log_prob(z1) - q1.log_prob(z1) + p2.log_prob(z2) - q2.log_prob(z2)
    bound = w @ (ratio + model.decode((z1, z2)).log_prob(WORLD))
    z1 = (p1.mean + p1.stddev * e1).expand(-1, 16, -1, -1, -1)
    p2 = model.prior_of(1, (z1,))
    return bound, (w @ model.decode((z1, p2.mean + p2.stddev * e2)).log_prob(WORLD).exp()).log()


def test_bound_and_density_are_what_quadrature_says():
    model = two_real_levels(0.4)
    with torch.no_grad():
        bound, log_p = quadrature(model)
        with seeded("draws"):
            terms = model.elbo_terms(WORLD, draws=20_000)
        close(terms.log_weight, bound)
        assert terms.kl is not None
        close(terms.log_px - terms.kl.sum(-1), bound)
        close(terms.log_weight.exp(), log_p.exp())
    assert float(log_p.exp().sum()) == pytest.approx(1, abs=1e-9)


def test_what_is_drawn_beside_what_is_kept_has_its_probabilities():
    """Posteriors that are far from the true ones: taken as they are, they would lead elsewhere."""
    model, n = two_real_levels(0.8), 1500
    x, kept = (
        torch.tensor([1, 0, 0, 0]).view(1, 1, 2, 2).expand(n, -1, -1, -1),
        torch.tensor([[True, True], [False] * 2]),
    )
    with torch.no_grad(), seeded("rest"):
        bound, log_p = quadrature(model)
        assert float((log_p - bound).max()) > 0.3
        drawn = model.complete(x, kept).x
    assert torch.equal(drawn[:, :, kept], x[:, :, kept])
    p = log_p.view(2, 2, 2, 2)[1, 0].exp()
    p = (p / p.sum()).flatten()
    found = torch.bincount((drawn.view(n, 4)[:, 2:] * torch.tensor([2, 1])).sum(1), minlength=4) / n
    assert ((found - p).abs() < ERRORS * (p * (1 - p) / n).sqrt()).all(), (found, p)


def gradient(model: HierarchicalVAE, loss: Tensor) -> Tensor:
    """That of the posteriors' weights."""
    parts = [p for name, p in model.named_parameters() if name.startswith("posteriors_of")]
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, parts)])


@pytest.mark.parametrize("objective", [ELBO(), IWAE(draws=1)], ids=["elbo", "iwae"])
def test_gradients_are_those_of_the_bound(objective: Objective):
    """Also what comes to the coarser posterior by way of the finer draw."""
    model = two_real_levels(0.4, objective=dump(objective))
    with torch.no_grad():  # so that much of it comes that way
        model.projections[0].conv.weight.mul_(2)  # pyright: ignore
    exact, estimates = gradient(model, -quadrature(model)[0].mean()), []
    for i in range(60):
        with seeded("gradients", i):
            estimates.append(gradient(model, model.loss(WORLD.repeat(20, 1, 1, 1)).value))
    error = torch.stack(estimates).std(0) / math.sqrt(len(estimates))
    away = (torch.stack(estimates).mean(0) - exact).abs()
    assert bool((away < 1.5 * ERRORS * error + 1e-5 * exact.abs().max()).all())  # of some 60 weights, by 60 estimates
    assert float(error.norm() / exact.norm()) < 0.05


def test_a_doubly_reparameterized_gradient_is_that_of_the_general_way_down():
    """Where what is measured of a draw, and its way on to finer draws, are apart."""
    objective = IWAE(draws=3, dreg=True)
    model = built(config(objective=dump(objective)))
    x = events(4, model.space)
    with seeded("draws"):
        own = gradient(model, model.loss(x).value)
    with seeded("draws"):
        h = model.bottom_up(x)
        terms = LatentModel._terms(model, x, h, None, lambda q: Pathwise().draw(q, 3), model.prior_of)
        torch.testing.assert_close(own, gradient(model, objective(terms, 0).value), rtol=1e-9, atol=1e-12)


# ---- what it is made of


def test_scales_that_fit_neither_one_another_nor_the_images_are_refused():
    said = {
        (Scale(factor=2), Scale(factor=4)): "expected factors that fall, the coarsest scale first, got [2, 4]",
        (Scale(factor=3), Scale(factor=2)): "3 is no multiple of 2",
        (
            Scale(factor=8),
            Scale(factor=2),
        ): "model.scales.0.factor=8: does not divide images of 4x4; set one of [1, 2, 4]",
    }
    for scales, sentence in said.items():
        with pytest.raises(ConfigError, match=re.escape(sentence)):
            built(config(*scales))
    with pytest.raises(ConfigError, match="takes images, got events of shape"):
        built(config(), Space((5,)))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"posterior": {"type": "families.Point"}}, "is a point"),
        ({"posterior": {"type": "families.Categorical"}}, "is over whole numbers, and z is real"),
        ({"latent_levels": 3}, "z takes 3 values, got families.DiagonalNormal; use families.Categorical"),
        ({**CATEGORICAL, "estimator": {"type": "estimators.RLOO"}}, "use estimators.GumbelSoftmax"),
        ({**CATEGORICAL, "prior": {"type": "families.DiagonalNormal"}}, "model.prior: z takes 3 values"),
        ({"objective": {"type": "objectives.Reconstruction"}}, "is no bound of log p.x., which levels"),
        ({"posterior": {"type": "families.FullNormal"}}, "is over vectors of real numbers"),
    ],
)
def test_parts_that_do_not_fit_are_refused(more: dict[str, object], said: str):
    objective = {"objective": {"type": "objectives.ELBO", "draws": 4}} if "RLOO" in str(more) else {}
    with pytest.raises(ConfigError, match=said):
        built(config(**more, **objective))


def test_free_bits_of_a_level_are_of_each_level():
    model = built(config(objective={"type": "objectives.ELBO", "free_bits_level": 100.0}))
    with torch.no_grad():
        loss = model.loss(events(4, model.space))
    assert float(loss.value - loss.terms["distortion"].mean()) == pytest.approx(300 * math.log(2))
    total = sum(loss.terms[f"kl.z{l}"] for l in (1, 2, 3))
    torch.testing.assert_close(total, loss.terms["kl"])


def test_latents_of_each_level_say_what_the_next_are_given():
    model = built(config())
    x = events(3, model.space)
    of_all, of_first = model.reconstruct(x), model.reconstruct(x, levels=["z1"])
    assert not torch.allclose(of_all, of_first)
    assert torch.equal(model.reconstruct(x, levels=["z3", "z1", "z2"]), of_all)
    with pytest.raises(ModelError, match="no level 'z4'; known: z1, z2, z3"):
        model.reconstruct(x, levels=["z4"])
    coarse = model.centers(x)[:2]
    with seeded("finer"):
        drawn = model.redraw(coarse)
    for kept, z in zip(coarse, drawn.z, strict=False):
        assert torch.equal(kept, z)
    mode = model.draw(3, how=Draw({"z1": 0.0}))
    assert torch.equal(mode.z[0][0], mode.z[0][1])
    assert not torch.equal(mode.z[1][0], mode.z[1][1])

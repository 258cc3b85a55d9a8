"""Diffusion: its bound against closed forms of Gaussian data, and against the hierarchical VAE that it is."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lowerbound import testing
from lowerbound.distributions import Blurred, reach_of
from lowerbound.errors import ConfigError, ModelError
from lowerbound.metrics.diffusion import Terms
from lowerbound.metrics.likelihood import NLL
from lowerbound.model import Draw
from lowerbound.models.denoising import spread_times
from lowerbound.models.diffusion import Diffusion, reconstruction_cost
from lowerbound.models.unrolled import Unrolled
from lowerbound.models.vae import VAE
from lowerbound.networks.context import Shown
from lowerbound.networks.mlp import MLP
from lowerbound.networks.residual import ResidualMLP
from lowerbound.networks.unet import UNet
from lowerbound.noise import seeded
from lowerbound.objectives import ELBO, IWAE
from lowerbound.optimization import Adam
from lowerbound.runs import recipes
from lowerbound.schedules import (
    DDIM,
    Ancestral,
    BetaLinear,
    Cosine,
    Heun,
    LearnedEnds,
    LogLinear,
    Monotone,
    Schedule,
    Simple,
    V,
    X,
    alpha,
    sigma,
)
from lowerbound.space import Space
from lowerbound.testing.base import shake_parameters

ERRORS = 4.0  # standard errors
SMALL = ResidualMLP.Config(width=6, blocks=1)
BINARY, IMAGE = Space((1, 2, 2), levels=2), Space((1, 2, 2), levels=5)
VARIANCE = 2.0
LINEAR = LogLinear.Config(gamma_min=-6, gamma_max=5)


@pytest.fixture(autouse=True)
def _(double: None):
    pass


def small(**parts: object) -> Diffusion.Config:
    return Diffusion.Config(**{"network": SMALL, "context": 4, **parts})  # pyright: ignore[reportArgumentType]


def built(space: Space = IMAGE, **parts: object) -> Diffusion:
    model = small(**parts).build(space)
    shake_parameters(model)
    return model.eval()


def gaussian(schedule: Schedule.Config = LINEAR, *, shake: float = 0.0, **parts: object) -> Diffusion:
    """Of x from N(0, 2), with E[ε|z] in the place of a network."""
    model = small(schedule=schedule, **parts).build(Space((1,))).eval()
    shake_parameters(model.schedule, "schedule", scale=shake)

    def noise_in(z: Tensor, gamma: Tensor, c: Tensor | None) -> Tensor:
        g = gamma.reshape(-1, *[1] * (z.dim() - 1)).to(z.dtype)
        return sigma(g) * z / (alpha(g) ** 2 * VARIANCE + sigma(g) ** 2)

    model._noise_in = noise_in
    return model


def close(estimates: Tensor, truth: Tensor | float) -> None:
    """The mean is the truth, within its standard errors."""
    error = estimates.std(0) / math.sqrt(len(estimates)) + 1e-12
    assert ((estimates.mean(0) - truth).abs() / error).max() < ERRORS


def by_time(model: Diffusion, u: Tensor) -> Tensor:
    """E of a draw of the diffusion term at each of the numbers u, by Gauss and Hermite, who are exact here."""
    e, w = (torch.from_numpy(a) for a in np.polynomial.hermite_e.hermegauss(3))
    x, epsilon = torch.cartesian_prod(e, e).T
    weights = torch.cartesian_prod(w, w).prod(1) / w.sum() ** 2
    gamma, factor = model._noised_at(u)
    n = len(u)
    error = model._error(
        (math.sqrt(VARIANCE) * x)[:, None], None, gamma[:, None].expand(n, 9), epsilon.expand(n, 9)[..., None]
    )
    return factor * (error @ weights)


def even(n: int) -> Tensor:
    return (torch.arange(n) + 0.5) / n


CLOSED = 0.5 * math.log((1 + VARIANCE * math.exp(6)) / (1 + VARIANCE * math.exp(-5)))


# ---- closed forms


def test_more_steps_bring_the_bound_of_gaussian_data_down_to_its_closed_form():
    found = {T: float(by_time(gaussian(steps=T), even(T)).mean()) for T in (1, 2, 4, 8, 64, 1024)}
    stated = {1: 398.06, 2: 95.11, 4: 14.17, 8: 6.449, 64: 3.599, 1024: 3.356}
    for T, value in stated.items():
        assert found[T] == pytest.approx(value, rel=5e-4), T
    values = [*found.values(), CLOSED]
    assert values == sorted(values, reverse=True)
    assert pytest.approx(3.3405, abs=1e-4) == CLOSED


@pytest.mark.parametrize("kind", [LogLinear, Cosine, BetaLinear, LearnedEnds, Monotone])
def test_in_continuous_time_what_is_between_the_ends_changes_the_variance_and_not_the_mean(
    kind: Any,
):
    schedule = kind.Config(gamma_min=-6, gamma_max=5)
    each = by_time(gaussian(schedule), even(20_000)).detach()
    assert float(each.mean()) == pytest.approx(CLOSED, abs=2e-3 if kind is BetaLinear else 1e-4)
    other = by_time(gaussian(), even(20_000))
    different = abs(float(each.std() / other.std()) - 1)
    assert different > 0.3 if kind in (Cosine, BetaLinear) else different < 0.01


def test_draws_of_the_terms_have_the_means_of_their_closed_forms():
    model, n = gaussian(), 40_000
    x = math.sqrt(VARIANCE) * torch.randn(n, 1)
    parts = model.bound_parts(x, draws=3)
    close(parts.diffusion.mean(0), CLOSED)
    gamma = torch.tensor([-6.0, 5.0])
    (a, s) = (alpha(gamma)[1] ** 2, sigma(gamma)[1] ** 2)
    close(parts.prior[0], 0.5 * (a * VARIANCE + s - s.log() - 1))
    # all of it: H(x), what z_1 is off N(0, 1), and what p(x|z_0) is off the posterior that belongs to N(0, 2)
    entropy = 0.5 * math.log(2 * math.pi * math.e * VARIANCE)
    end = a * VARIANCE + s
    total = entropy + 0.5 * (end - end.log() - 1) + 0.5 * math.log1p(math.exp(-6) / VARIANCE)
    close(-parts.bound.mean(0), total)


def test_a_new_model_of_real_events_is_the_standard_normal():
    model = small(schedule=LINEAR).build(Space((2,))).eval()
    x = torch.tensor([[0.0, 0.0], [1.0, -2.0], [3.0, 0.5]])
    normal = torch.distributions.Normal(0.0, 1.0).log_prob(x).sum(1)
    blurred = 2 * 0.5 * math.exp(-6)  # at most, for what p(x|z_0) is off, and as much of x for what z_1 is off
    with torch.no_grad():
        found = model.log_weights(x, draws=40_000)
    close(found, normal - blurred)
    assert isinstance(model.config.prediction, V)


def test_times_of_a_batch_are_spread_in_training():
    model = gaussian()
    x = math.sqrt(VARIANCE) * torch.randn(1000, 1)
    alone = torch.stack([model.bound_parts(x).diffusion.mean() for _ in range(50)])
    model.train()
    u = spread_times(1, len(x), training=True, device=x.device).flatten().sort().values
    assert bool((u.diff() - 1e-3 < 1e-9).all())
    spread = torch.stack([model.bound_parts(x).diffusion.mean() for _ in range(50)])
    assert float(spread.var()) < 0.7 * float(alone.var())
    close(spread, CLOSED)


def test_the_variance_of_the_bound_is_what_a_learned_inside_descends():
    model = gaussian(Monotone.Config(gamma_min=-6, gamma_max=5, features=16), shake=3.0).train()
    inside = [p for name, p in model.schedule.named_parameters() if not name.startswith("ends.")]
    ends = model.schedule(torch.tensor([0.0, 1.0])).detach()
    before = by_time(model, even(4000)).detach()
    optimizer = Adam(lr=0.03).build(inside)
    for _ in range(200):
        optimizer.zero_grad()
        model.loss(math.sqrt(VARIANCE) * torch.randn(128, 1)).value.backward()
        optimizer.step()
    after = by_time(model, even(4000)).detach()
    torch.testing.assert_close(model.schedule(torch.tensor([0.0, 1.0])).detach(), ends)
    torch.testing.assert_close(after.mean(), before.mean(), rtol=1e-3, atol=0)
    assert float(after.var()) < 0.5 * float(before.var())


def test_pixels_given_z_0_have_the_probabilities_that_the_noise_has():
    model = built(IMAGE)
    z = 0.3 * torch.randn(7, 1, 2, 2)
    gamma = model.schedule(torch.tensor(0.0))
    values = (2 * (torch.arange(5) + 0.5) / 5 - 1).reshape(5, 1, 1, 1, 1)
    density = torch.distributions.Normal(alpha(gamma) * values, sigma(gamma)).log_prob(z).exp()  # q(z_0|x)
    x = torch.arange(5, dtype=torch.uint8).reshape(5, 1, 1, 1, 1).expand(5, 7, 1, 2, 2)
    expected = (density / density.sum(0)).log()
    found = model.likelihood(z)
    torch.testing.assert_close(found.log_prob(x), expected.flatten(2).sum(2))
    mean = (expected.exp() * torch.arange(5).reshape(5, 1, 1, 1, 1)).sum(0)
    torch.testing.assert_close(found.mean, mean)
    broad = Blurred(4 * torch.rand(7, 1, 2, 2), torch.tensor(0.8), IMAGE)
    close(broad.sample((5000,)).double(), broad.mean)
    # all values, and those near the nearest alone
    blur, wide = torch.tensor(0.3), Space((1, 2, 2), levels=256)
    centre = 260 * torch.rand(500, 1, 2, 2) - 2
    some, every = Blurred(centre, blur, wide, reach_of(0.3)), Blurred(centre, blur, wide)
    near = (centre + torch.randn(500, 1, 2, 2)).round().clamp(0, 255).to(torch.uint8)
    torch.testing.assert_close(some.log_prob(near), every.log_prob(near))
    torch.testing.assert_close(some.mean, every.mean)
    with seeded("blurred"):
        drawn = some.sample((3,))
    with seeded("blurred"):
        torch.testing.assert_close(every.sample((3,)), drawn)


def test_what_is_remarked_of_an_end_is_what_it_costs():
    model = small(schedule=LogLinear.Config(gamma_min=-6, gamma_max=-2)).build(Space((1, 2, 2), levels=256))
    blurred, left = model.remarks
    assert "model.schedule.gamma_min=-6" in blurred
    assert "model.schedule.gamma_max=-2" in left
    x = torch.full((4000, 1, 2, 2), 128, dtype=torch.uint8)
    nats = reconstruction_cost(256, -6)
    assert f"{nats / math.log(2):.2f} bits/dim" in blurred
    close(model.bound_parts(x).reconstruction[0] / 4, nats)
    assert not small().build(Space((1, 2, 2), levels=256)).remarks


# ---- the hierarchical VAE


@pytest.mark.parametrize("T", [1, 2, 5])
@pytest.mark.parametrize("space", [IMAGE, BINARY, Space((3,))])
def test_the_terms_are_those_of_the_hierarchical_vae_of_the_same_weights(T: int, space: Space):
    model = built(space, steps=T, prediction=V())
    unrolled = model.hierarchy()
    x = testing.base.events(space, 6)
    with torch.no_grad():
        terms = unrolled.elbo_terms(x, draws=4)
        kl = terms.kl
        assert kl is not None
        s = model._scaled(x)
        torch.testing.assert_close(kl[..., 0], model._prior_term(s).expand(4, 6), rtol=1e-9, atol=1e-9)
        for i in range(T):  # the step from (i + 1) / T to i / T is level T - i
            gamma, factor = model._noised_at(torch.tensor((i + 0.5) / T))
            z = terms.z[T - i - 1]
            epsilon = (z - alpha(gamma) * s) / sigma(gamma)  # the same draw
            step = factor / T * model._error(s, None, gamma.expand(4, 6), epsilon)
            torch.testing.assert_close(kl[..., T - i], step, rtol=1e-5, atol=1e-8)
        if space.levels is not None:
            found = terms.log_px
            torch.testing.assert_close(found, model.likelihood(terms.z[-1]).log_prob(x))


@pytest.mark.parametrize("schedule", [LINEAR, Cosine.Config()], ids=["linear", "cosine"])
def test_its_posterior_is_the_same_chain_upwards(schedule: Schedule.Config):
    """q(z|x) as a product over coarser levels given finer ones, which noise is put on by, and the other way round; no
    distribution is narrower than it says."""
    model = built(IMAGE, steps=4, schedule=schedule).hierarchy()
    x = testing.base.events(IMAGE, 6)
    h = model.bottom_up(x)
    with torch.no_grad():
        z = model.elbo_terms(x).z
        z = tuple(level[0] for level in z)
        down = [model.posterior(l, h, z[:l]) for l in range(5)]
        up = [model.ascent(l, z[l + 1] if l < 4 else h) for l in range(5)]
        priors = [model.prior_of(l, z[:l]) for l in range(5)]
    both = [sum(q.log_prob(level) for q, level in zip(each, z, strict=True)) for each in (down, up)]
    torch.testing.assert_close(*both, rtol=1e-9, atol=1e-9)
    for l in range(5):
        found = min(float(d.stddev.min()) for d in (up[l], priors[l]))
        assert model.extent(l).narrowest == pytest.approx(found, rel=1e-9)
        assert float(z[l].abs().max()) < model.extent(l).farthest


@pytest.mark.parametrize("T", [1, 2])
def test_both_draw_the_same_bound(T: int):
    model = built(IMAGE, steps=T)
    unrolled, n = model.hierarchy(), 20_000
    x = testing.base.events(IMAGE, 3)
    with torch.no_grad():
        one, other = model.log_weights(x, draws=n), unrolled.log_weights(x, draws=n)
    close(one - other, 0.0)


def test_the_hierarchies_of_continuous_time_go_down_to_its_bound():
    model = gaussian()
    x = math.sqrt(VARIANCE) * torch.randn(500, 1)
    bounds = [float(model.hierarchy(T).log_weights(x, draws=20).mean()) for T in (2, 8, 64)]
    own = model.log_weights(x, draws=200).mean()
    assert bounds[0] < bounds[1] < bounds[2] < float(own) + 0.1


def test_levels_that_are_not_of_the_event_are_the_means_of_their_priors():
    model = gaussian(steps=3)
    x = torch.linspace(-2, 2, 5)[:, None]
    hierarchy, gamma = model.hierarchy(), model.schedule(torch.arange(3, -1, -1) / 3)
    assert hierarchy.levels == ("z1", "z2", "z3", "z4")
    torch.testing.assert_close(hierarchy.reconstruct(x), x, rtol=1e-6, atol=1e-6)
    for kept in (1, 2):
        z = alpha(gamma[kept - 1]) * x
        for s, t in zip(gamma[kept:], gamma[kept - 1 :], strict=False):
            guess = alpha(t) * VARIANCE / (alpha(t) ** 2 * VARIANCE + sigma(t) ** 2) * z
            c = -torch.expm1(s - t)
            z = alpha(s) / alpha(t) * (1 - c) * z + alpha(s) * c * guess
        found = hierarchy.reconstruct(x, levels=hierarchy.levels[:kept])
        torch.testing.assert_close(found, z / alpha(gamma[3]), rtol=1e-5, atol=1e-6)
    with pytest.raises(ModelError, match="no level 'z5'"):
        hierarchy.reconstruct(x, levels=["z5"])
    with pytest.raises(ModelError, match="steps=4: the model has 3 of its own"):
        model.hierarchy(4)
    with pytest.raises(ModelError, match="continuous time has no levels"):
        gaussian().hierarchy()


# ---- drawing


@pytest.mark.parametrize("sampler", [Ancestral(), DDIM(), Heun(steps=30)])
def test_samples_of_gaussian_data_have_its_variance(sampler: object):
    n = 20_000
    found = gaussian(sampler=sampler).sample(n).var()
    assert abs(float(found) / VARIANCE - 1) < 4 * math.sqrt(2 / n) + 0.02


def test_the_flow_takes_events_to_noise_and_back():
    model = gaussian(sampler=Heun(steps=200))
    x = math.sqrt(VARIANCE) * torch.randn(1000, 1)
    z = model.to_noise(x)
    torch.testing.assert_close(z, x / math.sqrt(VARIANCE), rtol=0, atol=0.02)
    torch.testing.assert_close(model.from_noise(z), x, rtol=0, atol=0.02)
    grey = built(IMAGE, sampler=Heun(steps=100), schedule=LogLinear.Config(gamma_max=1))
    events = testing.base.events(IMAGE, 20)
    torch.testing.assert_close(grey.from_noise(grey.to_noise(events)).round(), events.double(), rtol=0, atol=0)


def test_draws_may_be_by_another_sampler():
    model, other, how = gaussian(), gaussian(sampler=DDIM(steps=7)), Draw(sampler=DDIM(), steps=7)
    with seeded("draw"):
        x = model.draw(5, how=how).x
    with seeded("draw"):
        torch.testing.assert_close(x, other.sample(5))
    prior = small(sampler=Ancestral(steps=3))
    vae = VAE.Config(latent=(2,), encoder=SMALL, decoder=SMALL, prior=prior).build(BINARY)
    assert vae.draw(4, how=how).x.shape == (4, 1, 2, 2)
    with pytest.raises(ModelError, match="--steps 9: the model has 4 steps"):
        small(steps=4).build(BINARY).draw(2, how=Draw(steps=9))
    with pytest.raises(ModelError, match="--sampler: VAE does not take noise away"):
        VAE.Config(latent=(2,), encoder=SMALL, decoder=SMALL).build(BINARY).draw(2, how=Draw(sampler=DDIM()))


def test_guidance_goes_on_from_what_no_label_gives():
    """Of x from N(0, 2) without a label, and from N(m, 2) with: the flow is linear in m, which is multiplied."""

    def noise_in(z: Tensor, gamma: Tensor, c: Tensor | None) -> Tensor:
        mean = 0.0 if c is None else 3.0
        return sigma(gamma) * (z - alpha(gamma) * mean) / (alpha(gamma) ** 2 * VARIANCE + sigma(gamma) ** 2)

    model = small(schedule=LINEAR, unconditional=0.1).build(Space((1,)), (testing.LABEL,)).eval()
    model._noise_in = noise_in
    y = torch.zeros(20_000, dtype=torch.int64)
    ends = torch.tensor([-6.0, 5.0])
    a, spread = alpha(ends), (alpha(ends) ** 2 * VARIANCE + sigma(ends) ** 2).sqrt()
    moved = 3 * (1 - a[1] / a[0] * spread[0] / spread[1])  # it begins at N(0, 1), not at z_1's own
    for guidance, times in ((None, 1.0), (1.0, 1.0), (0.0, 0.0), (2.5, 2.5)):
        x = model.draw(len(y), y, Draw(sampler=Heun(), steps=60, guidance=guidance)).x
        assert abs(float(x.mean() - times * moved)) < 0.02 + 4 * math.sqrt(VARIANCE / len(y)), guidance
    with pytest.raises(ModelError, match="--guidance -1: expected a number of at least 0"):
        model.draw(2, y[:2], Draw(guidance=-1))
    for given in ((testing.LABEL,), ()):
        with pytest.raises(ModelError, match="--guidance 2: goes from"):
            small().build(BINARY, given).draw(2, y[:2] if given else None, Draw(guidance=2))


def test_a_given_image_stands_beside_the_noise_at_its_places():
    """Labels in the vector; images as channels: means of a larger one, the values of a smaller one repeated."""
    given = (Space((1, 4, 4)), testing.LABEL, Space((2, 1, 2)))
    shown = Shown(given, 3, (2, 2))
    large, small_ = torch.arange(16.0).reshape(1, 1, 4, 4), torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]]])
    label, like = torch.tensor([1]), torch.zeros(1, 1, 2, 2)
    vector, images = shown.split(shown((large, label, small_)), like)
    assert vector is not None
    torch.testing.assert_close(vector, shown.maps[0](label))
    means = [[2.5, 4.5], [10.5, 12.5]]
    assert images.tolist() == [[means, [[1.0, 2.0]] * 2, [[3.0, 4.0]] * 2]]
    nothing, blank = shown.split(None, like)
    assert nothing is None
    assert blank.shape == (1, 3, 2, 2)
    assert not blank.any()


def test_a_given_image_is_used():
    """Uniform pixels cost log 5 each, whatever the model, unless it is shown them."""
    with seeded(0, "test"):
        model = small(network=ResidualMLP.Config(width=32, blocks=1)).build(IMAGE, (IMAGE,))
        optimizer = torch.optim.Adam(model.parameters(), 5e-3)
        for _ in range(200):
            x = torch.randint(5, (64, *IMAGE.shape), dtype=torch.uint8)
            optimizer.zero_grad()
            model.loss(x, x).value.backward()
            optimizer.step()
        model.eval()
        x = torch.randint(5, (200, *IMAGE.shape), dtype=torch.uint8)
        with torch.no_grad():
            own, other = float(model.elbo(x, x).mean()), float(model.elbo(x, x.roll(1, 0)).mean())
    assert own > -0.5 * IMAGE.dims * math.log(5)
    assert other < -IMAGE.dims * math.log(5)


def test_a_share_of_conditions_is_left_out_in_training_alone():
    model = small(unconditional=0.25).build(BINARY, (testing.LABEL,))
    c = torch.ones(4000, 4)
    left = model.train()._left_out(c)
    assert left is not None
    assert abs(float((left == 0).all(1).double().mean()) - 0.25) < 4 * math.sqrt(0.25 * 0.75 / 4000)
    assert model.eval()._left_out(c) is c


def pair(rho: float) -> Diffusion:
    """Of two numbers from N(0, [[1, ρ], [ρ, 1]]), as an image of one row, with E[ε|z]."""
    model = small(schedule=LINEAR, sampler=Ancestral(steps=50)).build(Space((1, 1, 2))).eval()
    covariance = torch.tensor([[1.0, rho], [rho, 1.0]])

    def noise_in(z: Tensor, gamma: Tensor, c: Tensor | None) -> Tensor:
        a, s = alpha(gamma), sigma(gamma)
        whole = a**2 * covariance + s**2 * torch.eye(2)
        return s * torch.linalg.solve(whole, z.flatten(1).T).T.view_as(z)

    model._noise_in = noise_in
    return model


def test_what_is_drawn_beside_what_is_kept_has_nearly_the_moments_of_what_is_given():
    rho, n = 0.9, 4000
    x, kept = torch.full((n, 1, 1, 2), 1.5), torch.tensor([[True, False]])
    found = pair(rho).complete(x, kept).x
    assert bool((found[..., 0] == 1.5).all())
    rest = found[..., 1]
    assert abs(float(rest.mean()) - rho * 1.5) < 0.1  # without repetitions 1.05, and nothing kept 0
    assert abs(float(rest.std()) - math.sqrt(1 - rho**2)) < 0.1
    with pytest.raises(ModelError, match=r"the mask is of \[2, 2\], expected the size of the images, \[1, 2\]"):
        pair(rho).complete(x, torch.ones(2, 2).bool())
    with pytest.raises(ModelError, match="no log p of a part of an image, to draw what is given by; give --label"):
        pair(rho).log_p_kept(x, kept)


def test_noise_that_is_put_on_and_taken_away_leaves_what_its_time_leaves():
    model, n = gaussian(sampler=Ancestral(steps=200)), 20_000
    x = torch.full((n, 1), 3.0)
    torch.testing.assert_close(model.redone(x, strength=0.0), x)
    for strength in (0.3, 0.6, 1.0):
        gamma = torch.tensor(-6.0 + 11 * strength)
        gain = VARIANCE * alpha(gamma) / (alpha(gamma) ** 2 * VARIANCE + sigma(gamma) ** 2)  # E[x|z] = gain z
        found = model.redone(x, strength=strength)
        assert abs(float(found.mean() - gain * alpha(gamma) * 3)) < 0.05 + 4 * math.sqrt(VARIANCE / n)
    with pytest.raises(ModelError, match="--strength 2: expected a time from 0"):
        model.redone(x, strength=2.0)


@pytest.mark.parametrize("sampler", [Ancestral(steps=9), DDIM(steps=9), Heun(steps=9)])
def test_what_is_seen_in_noise_is_the_mean_of_what_it_may_be_of(sampler: Any):
    """E[x|z] of Gaussian data, at every time; and in the end there is what `draw` and `redone` give."""
    model = gaussian(sampler=sampler)
    x = torch.linspace(-2, 2, 20)[:, None]
    ways = [
        (lambda: model.drawing(20), lambda: model.draw(20).x, 9),
        (lambda: model.redoing(x, strength=0.7), lambda: model.redone(x, strength=0.7), 6),
    ]
    for begin, whole, steps in ways:
        with seeded("way"):
            way = [*begin()]
        assert [m.t for m in way] == pytest.approx([(steps - i) / 9 for i in range(steps + 1)])
        for m in way[:-1]:
            gamma = torch.tensor(m.gamma)
            gain = VARIANCE * alpha(gamma) / (alpha(gamma) ** 2 * VARIANCE + sigma(gamma) ** 2)
            torch.testing.assert_close(m.x, gain * m.z)
        with seeded("way"):
            assert torch.equal(way[-1].x, whole())
    (only,) = model.redoing(x, strength=0.0)
    assert torch.equal(only.x, x)


# ---- variants and mistakes

FEW = Ancestral(steps=5)
VARIANTS = {
    "three steps": (small(steps=3, sampler=Ancestral(steps=2)), BINARY, ()),
    "real events": (small(sampler=FEW), Space((3,)), ()),
    "predicted events": (small(prediction=X(), schedule=Cosine.Config(gamma_min=-4), sampler=FEW), IMAGE, ()),
    "predicted velocity, learned ends": (small(prediction=V(), schedule=LearnedEnds.Config(), sampler=FEW), BINARY, ()),
    "a learned schedule": (small(schedule=Monotone.Config(features=3), sampler=DDIM(steps=10)), BINARY, ()),
    "a reweighted loss": (small(weighting=Simple(), fourier=(1, 2), sampler=Heun(steps=10)), IMAGE, ()),
    "a U-net of images, a label and attributes": (
        small(network=UNet.Config(widths=(4, 4), blocks=1, groups=2), sampler=Ancestral(steps=5), unconditional=0.1),
        IMAGE,
        (Space((3, 4, 4), levels=3), testing.LABEL, Space((2,)), Space((1, 1, 1))),
    ),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants(variant: str):
    config, space, given = VARIANTS[variant]
    testing.check_model(config, space, given)


def test_latent_diffusion():
    encoder = MLP.Config(hidden=(4,))
    prior = small(sampler=Ancestral(steps=5))
    config = VAE.Config(latent=(2,), encoder=encoder, decoder=encoder, prior=prior)
    testing.check_model(config, BINARY)
    assert not config.build(BINARY).unbiased
    with pytest.raises(ConfigError, match="this prior is noisy, so its draws can't be weighted; use ELBO"):
        config.model_copy(update={"objective": IWAE()}).build(BINARY)
    with pytest.raises(ConfigError, match="free_bits_dimension: the KL of this posterior and prior is not a sum"):
        config.model_copy(update={"objective": ELBO(free_bits_dimension=0.1)}).build(BINARY).loss(
            torch.zeros(2, 1, 2, 2, dtype=torch.uint8)
        )


@pytest.mark.parametrize(
    ("config", "space", "message"),
    [
        (small(steps=4, sampler=DDIM(steps=10)), BINARY, "model.sampler.steps=10: the model has 4 steps"),
        (small(), Space((2, 2), levels=3, ordered=False), "names"),
        (small(), Space((), levels=3, ordered=False), "names"),
        (
            small(weighting=Simple(), schedule=Monotone.Config()),
            BINARY,
            "model.schedule: schedules.Monotone is learned",
        ),
        (
            small(schedule=LogLinear.Config(gamma_min=3, gamma_max=2)),
            BINARY,
            "gamma_max=2: there is more noise at time 1 than at time 0, where gamma_min is 3; set a larger "
            "model.schedule.gamma_max, such as 8",
        ),
        (small(unconditional=0.1), BINARY, "model.unconditional=0.1: nothing is given that could be left out"),
        (small(network=UNet.Config()), Space((3,)), "networks.unet.UNet: maps an image to one of its size"),
        (Unrolled.Config(diffusion=small()), BINARY, "model.diffusion.steps: continuous time has no levels"),
        (Unrolled.Config(diffusion=small(steps=2, weighting=Simple())), BINARY, "model.diffusion.weighting"),
    ],
)
def test_mistakes_are_named(config: Diffusion.Config, space: Space, message: str):
    with pytest.raises(ConfigError, match=message):
        config.build(space)


@pytest.mark.parametrize("kind", ["models.diffusion.Diffusion", "models.discrete_diffusion.DiscreteDiffusion"])
def test_an_objective_is_refused_with_the_reason(kind: str):
    with pytest.raises(ConfigError, match=r"model\.objective: .* by its own bound.* never importance-weighted"):
        recipes.load("diffusion-digits", {"model": {"type": kind, "objective": {"type": "objectives.IWAE"}}})


def test_the_world_of_two_by_two_pixels_adds_up_to_nearly_one_and_no_more():
    """Of independent pixels, each as likely black as white, whose E[x|z] is known."""
    world = torch.tensor(list(itertools.product([0, 1], repeat=4)), dtype=torch.uint8).view(16, 1, 2, 2)

    def noise_in(z: Tensor, gamma: Tensor, c: Tensor | None) -> Tensor:
        g = gamma.reshape(-1, *[1] * (z.dim() - 1)).to(z.dtype)
        x = 0.5 * torch.tanh(0.5 * z * alpha(g) / sigma(g) ** 2)
        return (z - alpha(g) * x) / sigma(g)

    e, w = (torch.from_numpy(a) for a in np.polynomial.hermite_e.hermegauss(60))
    w = w / w.sum()
    for steps, least in ((4, 0.0), (64, 0.5), (None, 0.999)):
        model = small(steps=steps).build(BINARY).eval()
        model._noise_in = noise_in
        u = even(steps or 4000)
        gamma, factor = model._noised_at(u)
        white = torch.full((60, 1), 0.5)
        error = model._error(white, None, gamma[:, None].expand(-1, 60), e.expand(len(u), 60)[..., None])
        diffusion = float((factor * (error @ w)).mean())  # of a pixel
        first = model.schedule(torch.tensor(0.0))
        z = (alpha(first) * 0.5 + sigma(first) * e).reshape(60, 1, 1, 1).expand(60, 1, 2, 2)
        reconstruction = -float(model.likelihood(z).log_prob(world[-1]) @ w) / 4
        prior = float(model._prior_term(model._scaled(world[-1:]))) / 4
        bound = -4 * (diffusion + reconstruction + prior)
        assert least < 16 * math.exp(bound) < 1.0, steps
        close(model.log_weights(world, draws=2000).flatten(), bound)
        if steps == 4:  # a bound of draws that may be weighted: what they have in the mean is a probability
            total = model.hierarchy().log_weights(world, draws=20_000).exp().sum(1)
            close(total, 1.0)
            assert float(total.std()) < 20


def test_the_terms_are_measured_and_add_up_to_the_bound():
    model = small().build(IMAGE, (testing.LABEL,)).eval()
    testing.check_metric(Terms, model)
    case = testing.MetricCase.of(Terms(draws=500), model)
    with torch.no_grad():
        found, whole = case.metric(case.world()), NLL(draws=500)(case.world())["bits_per_dim"]
    assert {value.draws for value in found.values()} == {20}
    assert sum(value.value for value in found.values()) == pytest.approx(whole.value, abs=1e-9)  # pyright: ignore

"""Noise schedules grow between their ends, and their slopes are derivatives; samplers go where the flow goes."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from lowerbound.config import components, dump, parse
from lowerbound.errors import ConfigError
from lowerbound.schedules import (
    DDIM,
    Ancestral,
    BetaLinear,
    Cosine,
    Epsilon,
    Heun,
    LogLinear,
    Monotone,
    Prediction,
    Sampler,
    Schedule,
    V,
    X,
    alpha,
    sigma,
)
from lowerbound.space import Space
from lowerbound.testing.base import shake_parameters

PIXELS, REAL = Space((1, 2, 2), levels=256), Space((2,))
KINDS = components(Schedule.Config)


@pytest.fixture(autouse=True)
def _(double: None):
    pass


def schedule(kind: type[Schedule.Config], *, shaken: bool = True, **fields: float) -> Schedule:
    found = kind(**fields).build(PIXELS)
    if shaken:
        shake_parameters(found, kind.type_name(), scale=0.5)
    return found


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.type_name())
def test_schedules_grow_and_their_slopes_are_derivatives(kind: type[Schedule.Config]):
    for found in (schedule(kind, shaken=False), schedule(kind)):
        t = torch.linspace(0, 1, 501, requires_grad=True)
        gamma = found(t)
        assert gamma.dtype == torch.float64
        assert bool((gamma.diff() > 0).all())
        (derivative,) = torch.autograd.grad(gamma.sum(), t)
        torch.testing.assert_close(found.slope(t), derivative)


def test_a_network_grows_whatever_the_signs_of_its_weights():
    """Also where they pull against one another; a sign that all have would be divided out."""
    found = schedule(Monotone.Config, features=3)
    with torch.no_grad():
        found.w.fill_(-6.0)  # pyright: ignore
        found.c.fill_(30.0)  # pyright: ignore
        found.a.fill_(30.0)  # pyright: ignore
    assert bool((found(torch.linspace(0, 1, 501)).diff() > 0).all())


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.type_name())
def test_schedules_begin_and_end_where_they_are_told(kind: type[Schedule.Config]):
    ends = schedule(kind, shaken=False, gamma_min=-6, gamma_max=3)(torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(ends, torch.tensor([-6.0, 3.0]))
    assert parse(Schedule.Config, dump(kind(gamma_max=3))) == kind(gamma_max=3)


def test_the_first_end_suits_the_values():
    low, high = LogLinear.Config().ends(PIXELS)
    assert (round(low, 1), high) == (-13.3, 5.0)  # those of Kingma et al. (2021)
    assert LogLinear.Config().ends(Space((2,), levels=2))[0] > -4
    with pytest.raises(ConfigError, match=r"model.schedule.gamma_max=-20: .* gamma_min is -13.29"):
        LogLinear.Config(gamma_max=-20).build(PIXELS)


def test_the_fixed_schedules_are_those_of_their_papers():
    t = torch.linspace(0.05, 0.95, 10)
    cosine = schedule(Cosine.Config, gamma_min=-40, gamma_max=40)
    torch.testing.assert_close(alpha(cosine(t)), torch.cos(math.pi / 2 * t))
    beta = schedule(BetaLinear.Config, gamma_min=math.log(math.expm1(1e-4)), gamma_max=math.log(math.expm1(10 + 1e-4)))
    torch.testing.assert_close(alpha(beta(t)) ** 2, torch.exp(-1e-4 - 10 * t**2))
    # DDPM's thousand steps of a rate from 1e-4 to 0.02
    steps = (1 - torch.linspace(1e-4, 0.02, 1000)).cumprod(0)
    torch.testing.assert_close(alpha(beta(torch.arange(1, 1001) / 1000)) ** 2, steps, rtol=0, atol=0.02)


def test_a_pull_changes_the_gradient_of_the_inside_alone():
    found = schedule(Monotone.Config)
    t = torch.rand(7)

    def gradients(pull) -> dict[str, Tensor]:
        found.zero_grad()
        (found(t, pull).sin() * found.slope(t, pull)).sum().backward()
        return {name: p.grad.clone() for name, p in found.named_parameters() if p.grad is not None}

    plain, doubled = gradients(None), gradients(lambda g: 2 * g)
    for name, grad in plain.items():
        torch.testing.assert_close(doubled[name], grad if name.startswith("ends.") else 2 * grad)


@pytest.mark.parametrize("prediction", components(Prediction), ids=lambda p: p.type_name())
def test_what_a_network_predicts_of_z_is_the_noise_in_it(prediction: type[Prediction]):
    x, noise, gamma = torch.randn(3, 5), torch.randn(3, 5), torch.tensor([[-5.0], [0.0], [4.0]])
    a, s = alpha(gamma), sigma(gamma)
    torch.testing.assert_close(a**2 + s**2, torch.ones_like(a))
    z = a * x + s * noise
    truth = {Epsilon: noise - z, X: x, V: a * noise - s * x}[prediction]
    torch.testing.assert_close(prediction().noise(truth, z, gamma), noise)


# ---- samplers, of x from N(0, v), where the noise in z is known


VARIANCE = 2.0


def noise_of(z: Tensor, gamma: Tensor) -> Tensor:
    """E[ε|z]."""
    return sigma(gamma) * z / (alpha(gamma) ** 2 * VARIANCE + sigma(gamma) ** 2)


def through(sampler: Sampler, z: Tensor, steps: int, low: float = -6.0, high: float = 5.0) -> Tensor:
    times = torch.linspace(high, low, steps + 1)
    for t, s in itertools.pairwise(times):
        z = sampler.step(z, t, s, noise_of)
    return z


def deviation(gamma: float) -> Tensor:
    """Of z."""
    g = torch.tensor(gamma)
    return (alpha(g) ** 2 * VARIANCE + sigma(g) ** 2).sqrt()


@pytest.mark.parametrize(("sampler", "order"), [(DDIM(), 1), (Heun(), 2)])
@pytest.mark.parametrize("ends", [(-6.0, 5.0), (5.0, -6.0)], ids=["decoding", "encoding"])
def test_deterministic_samplers_converge_to_the_flow(sampler: Sampler, order: int, ends: tuple[float, float]):
    z = torch.tensor([1.0])
    exact = deviation(ends[0]) / deviation(ends[1])  # the flow keeps z's place in N(0, its variance)
    errors = [float((through(sampler, z, n, *ends) - exact).abs()) for n in (160, 320, 640)]
    for coarse, fine in itertools.pairwise(errors):
        assert abs(math.log2(coarse / fine) - order) < 0.15, errors


def test_ancestral_samples_have_the_variance_that_the_steps_give():
    steps, n = 8, 40_000
    times = torch.linspace(5.0, -6.0, steps + 1)
    variance = torch.tensor(1.0)
    for t, s in itertools.pairwise(times):
        c = -torch.expm1(s - t)
        k = sigma(t) / (alpha(t) ** 2 * VARIANCE + sigma(t) ** 2)
        variance = (alpha(s) / alpha(t) * (1 - sigma(t) * c * k)) ** 2 * variance + sigma(s) ** 2 * c
    found = through(Ancestral(), torch.randn(n), steps).var()
    assert abs(float(found / variance) - 1) < 4 * math.sqrt(2 / n)
    many = through(Ancestral(), torch.randn(n), 300).var()
    assert abs(float(many / deviation(-6.0) ** 2) - 1) < 4 * math.sqrt(2 / n) + 0.02


def test_cold_ancestral_sampling_has_no_noise():
    z = torch.randn(5)
    t, s = torch.tensor(1.0), torch.tensor(-1.0)
    cold = [Ancestral().step(z, t, s, noise_of, 0.0) for _ in range(2)]
    torch.testing.assert_close(*cold)

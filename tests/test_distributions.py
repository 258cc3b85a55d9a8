"""KLs equal their Monte Carlo, temperature runs from the mode to the distribution, detaching keeps the value."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical as TorchCategorical
from torch.distributions import (
    Distribution,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
)

from lowerbound.distributions import (
    Bernoulli,
    Categorical,
    Dequantized,
    DiscretizedNormal,
    LogisticMixture,
    Point,
    closed_kl,
    detached,
    kl_per_dimension,
    tempered,
)
from lowerbound.noise import KeyedNoise
from lowerbound.space import Space

D = 3


def numbers(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()


def diagonal(seed: int = 0) -> Independent:
    return Independent(Normal(numbers(2, D, seed=seed), (0.5 * numbers(2, D, seed=seed + 50)).exp()), 1)


def full(seed: int = 0) -> MultivariateNormal:
    L = 0.5 * numbers(2, D, D, seed=seed).tril(-1) + torch.diag_embed((0.5 * numbers(2, D, seed=seed + 50)).exp())
    return MultivariateNormal(numbers(2, D, seed=seed + 99), scale_tril=L)


def bernoulli(seed: int = 0) -> Bernoulli:
    return Bernoulli(numbers(2, D, seed=seed), Space((D,), 2))


def categorical(seed: int = 0) -> Categorical:
    return Categorical(numbers(2, 4, D, seed=seed), Space((D,), 4))


def mixture() -> LogisticMixture:
    parts = (
        numbers(2, 5, seed=1),
        numbers(2, 5, 3, seed=2),
        numbers(2, 5, 3, seed=3) - 2,
        numbers(2, 5, 3, seed=4).tanh(),
    )
    return LogisticMixture(*(p[..., None, None] for p in parts), Space((3, 1, 1), 9))


def gaussian_mixture() -> MixtureSameFamily:
    parts = Independent(Normal(numbers(2, 4, D), numbers(2, 4, D, seed=1).exp()), 1)
    return MixtureSameFamily(TorchCategorical(logits=numbers(2, 4, seed=2)), parts)


EVERY: list[Distribution] = [
    Normal(numbers(2), numbers(2, seed=1).exp()),
    diagonal(),
    full(),
    gaussian_mixture(),
    bernoulli(),
    Bernoulli(numbers(2, D), Space((D,), 9)),
    categorical(),
    DiscretizedNormal(numbers(2, D), numbers(2, D, seed=1) - 1, Space((D,), 9)),
    mixture(),
    Dequantized(diagonal(), Space((D,), 9)),
    Point(numbers(2, D), 1),
]


def name(d: object) -> str:
    return type(d).__name__


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


PAIRS = [
    (diagonal(), diagonal(5)),
    (full(), full(5)),
    (full(), diagonal(5)),
    (diagonal(), full(5)),
    (bernoulli(), bernoulli(5)),
    (categorical(), categorical(5)),
]


@pytest.mark.parametrize(("q", "p"), PAIRS, ids=name)
def test_closed_kl_is_the_expected_log_ratio(q, p):
    with torch.no_grad():
        kl = closed_kl(q, p)
        z = q.sample((100_000,))
        ratio = q.log_prob(z) - p.log_prob(z)  # [100,000, 2]
        error = ratio.std(0) / math.sqrt(len(ratio))
        assert kl is not None
        assert ((ratio.mean(0) - kl).abs() < 4 * error).all()
        torch.testing.assert_close(closed_kl(q, q), torch.zeros(2, dtype=torch.float64))


def test_kl_with_a_full_normal_agrees_with_torch():
    q, p = full(), diagonal(5)
    as_full = MultivariateNormal(p.mean, scale_tril=torch.diag_embed(p.stddev))
    torch.testing.assert_close(closed_kl(q, p), closed_kl(q, as_full), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("q", "p"), PAIRS, ids=name)
def test_kl_per_dimension_sums_to_the_kl(q, p):
    terms = kl_per_dimension(q, p)
    if isinstance(q, MultivariateNormal) or isinstance(p, MultivariateNormal):
        assert terms is None
    else:
        assert terms is not None
        assert terms.shape == (2, D)
        torch.testing.assert_close(terms.sum(-1), closed_kl(q, p), rtol=1e-12, atol=1e-12)


def test_kl_that_is_not_closed_is_none():
    assert closed_kl(diagonal(), gaussian_mixture()) is None
    assert closed_kl(Point(numbers(2, D), 1), diagonal()) is None
    assert kl_per_dimension(diagonal(), gaussian_mixture()) is None


def test_kl_broadcasts_over_draws_and_a_prior_without_batch():
    prior = Independent(Normal(torch.zeros(7, 1, D), torch.ones(D), validate_args=False), 1, validate_args=False)
    terms = kl_per_dimension(diagonal(), prior)
    assert terms is not None
    assert terms.shape == (7, 2, D)


@pytest.mark.parametrize("d", EVERY, ids=name)
def test_temperature_one_is_the_distribution(d):
    x = d.sample()
    torch.manual_seed(1)
    expected = d.log_prob(x)
    torch.manual_seed(1)
    torch.testing.assert_close(tempered(d, 1.0).log_prob(x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("d", EVERY, ids=name)
def test_temperature_zero_is_the_mode(d):
    x = tempered(d, 0.0).sample((4,))
    assert x.dtype == d.sample().dtype
    if isinstance(d, MixtureSameFamily):
        heaviest = d.mixture_distribution.logits.argmax(-1)
        mode = d.component_distribution.mean[torch.arange(2), heaviest]
    else:
        mode = d.mode
    assert torch.equal(x, mode.expand_as(x))
    near = tempered(d, 1e-6).sample((4,))  # and the limit is reached, not only set
    torch.testing.assert_close(near, mode.expand_as(near), rtol=0, atol=1e-4)


def test_temperature_scales_noise_and_divides_logits():
    torch.testing.assert_close(tempered(diagonal(), 0.5).stddev, 0.5 * diagonal().stddev)
    torch.testing.assert_close(tempered(full(), 0.5).covariance_matrix, 0.25 * full().covariance_matrix)
    cold = tempered(mixture(), 0.5)
    assert isinstance(cold, LogisticMixture)
    torch.testing.assert_close(cold.logits, 2 * mixture().logits)
    torch.testing.assert_close(cold.log_scale.exp(), 0.5 * mixture().log_scale.exp())
    half = tempered(categorical(), 0.5)
    assert isinstance(half, Categorical)
    torch.testing.assert_close(half.logits, 2 * categorical().logits)


@pytest.mark.parametrize("d", EVERY, ids=name)
def test_detached_keeps_the_value_and_cuts_the_graph(d):
    x = d.sample()
    torch.manual_seed(1)
    expected = d.log_prob(x)
    torch.manual_seed(1)
    value = detached(d).log_prob(x)
    torch.testing.assert_close(value, expected.detach(), rtol=1e-12, atol=1e-12)
    assert not value.requires_grad
    assert expected.requires_grad or isinstance(d, Point)


def test_an_unknown_distribution_is_named():
    with pytest.raises(NotImplementedError, match="Laplace"):
        tempered(torch.distributions.Laplace(0.0, 1.0), 0.5)


@pytest.mark.parametrize("d", [d for d in EVERY if d.sample().dtype == torch.uint8 or name(d) == "Point"], ids=name)
def test_noise_is_keyed_by_image(d):
    """A sample of both rows holds the rows' own noise, and a bound its own uniform noise."""
    with KeyedNoise(0, [7, 8]) as noise:
        noise.chunk(3)
        both = d.sample((3,))
    with KeyedNoise(0, [7, 8]) as noise:
        draws = torch.cat([d.sample((noise.chunk(k),)) for k in (1, 2)])
    assert torch.equal(both, draws)


def test_dequantization_draws_anew_for_every_draw():
    p = Dequantized(diagonal(), Space((D,), 9))
    x = p.sample()
    wide = Dequantized(Independent(Normal(p.mean.expand(6, 2, D), 1.0), 1), Space((D,), 9))
    assert len(wide.log_prob(x)[:, 0].unique()) == 6
    assert not torch.equal(p.log_prob(x), p.log_prob(x))
    with KeyedNoise(0, [7, 8]) as noise:
        noise.chunk(6)
        assert wide.log_prob(x).shape == (6, 2)

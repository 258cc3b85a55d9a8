"""Every pixel likelihood is a probability: it sums to 1, its samples follow it, and its gradients are finite."""

import itertools
import math

import pytest
import torch
from scipy import stats
from torch import Tensor

from lowerbound import distributions as dist
from lowerbound.config import components, dump, parse
from lowerbound.distributions import tempered
from lowerbound.errors import ConfigError
from lowerbound.families import (
    Bernoulli,
    Categorical,
    DiagonalNormal,
    DiscretizedNormal,
    Family,
    FixedScaleNormal,
    FullNormal,
    Head,
    LogisticMixture,
    Noiseless,
    Point,
    SharedScaleNormal,
)
from lowerbound.space import Density, Space
from lowerbound.units import to_unit

DRAWS = 60_000
EXACT = [Categorical(), DiscretizedNormal(), LogisticMixture(components=3)]
REAL = [DiagonalNormal(), FixedScaleNormal(scale=0.3), SharedScaleNormal()]
GRAY = Space((1, 2, 2), levels=5)
CASES = [
    *[(f, Space((C, 1, 1), levels)) for f in EXACT for C, levels in ((1, 2), (1, 5), (2, 3), (3, 3), (3, 2))],
    *[(Bernoulli(), Space((C, 1, 1), 2)) for C in (1, 3)],
    (Categorical(), Space((), 4, ordered=False)),
    (Categorical(), Space((1, 2), 3, ordered=False)),
    (LogisticMixture(components=2), Space((2,), 3)),
    (LogisticMixture(components=2), Space((1, 2), 3)),
    (DiscretizedNormal(), Space((2,), 4)),
]
ALL = [
    *[(f, s) for f in REAL for s in (GRAY, Space((3,)), Space((2, 3, 3)), Space((4,), 2))],
    *[(f, s) for f in EXACT for s in (GRAY, Space((3, 2, 2), 256), Space((4,), 17), Space((2, 3), 3))],
    *[(Bernoulli(), s) for s in (Space((4,), 2), GRAY)],
    (FullNormal(), Space((3,))),
    (FullNormal(), Space((1,))),
    (Point(), Space((2, 3, 3))),
    *[(Noiseless(sigmoid=s), space) for s in (True, False) for space in (GRAY, Space((3,)))],
]


def ids(case: object) -> str:
    return case.type_name() if isinstance(case, Family) else str(case)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def parameters(family: Family, space: Space, *batch: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(*batch, *family.param_shape(space), dtype=torch.float64)


def world(space: Space) -> Tensor:
    """Every event of the space, [levels^dims, *shape]."""
    assert space.levels is not None
    events = list(itertools.product(range(space.levels), repeat=space.dims))
    return torch.tensor(events, dtype=space.dtype).reshape(-1, *space.shape)


@pytest.mark.parametrize(("family", "space"), CASES, ids=ids)
@pytest.mark.parametrize("scale", [0.5, 3.0, 30.0])
def test_probabilities_sum_to_one(family, space, scale):
    p = family(parameters(family, space, 20, scale=scale), space)
    total = p.log_prob(world(space).unsqueeze(1)).exp().sum(0)
    torch.testing.assert_close(total, torch.ones(20, dtype=torch.float64), rtol=0, atol=1e-10)


@pytest.mark.parametrize(("family", "space"), CASES, ids=ids)
@pytest.mark.parametrize("t", [1.0, 0.6])
def test_samples_follow_the_probabilities(family, space, t):
    p = tempered(family(parameters(family, space), space), t)
    events = world(space)
    expected = p.log_prob(events).exp() * DRAWS
    x = p.sample((DRAWS,))
    assert x.dtype == space.dtype
    assert x.shape == (DRAWS, *space.shape)
    place = space.levels ** torch.arange(space.dims - 1, -1, -1)
    counts = torch.bincount((x.reshape(DRAWS, -1).long() * place).sum(-1), minlength=len(events))
    seen = expected > 5  # the rest is pooled
    observed = torch.cat([counts[seen], counts[~seen].sum()[None]]).double()
    expected = torch.cat([expected[seen], expected[~seen].sum()[None]])
    keep = expected > 1e-6
    assert observed[~keep].sum() == 0
    assert (
        stats.chisquare(observed[keep], expected[keep] * (DRAWS / expected[keep].sum())).pvalue > 1e-5
    )  # of some 50 such tests


@pytest.mark.parametrize(
    ("family", "space"),
    [
        *[
            (f, Space((1, 1, 1), levels))
            for f in (*EXACT, Bernoulli())
            for levels in (2, 5)
            if ids(f) != ids(Bernoulli())
        ],
        (Bernoulli(), Space((3, 1, 1), 2)),
        (Categorical(), Space((2, 1, 1), 3)),
        (DiscretizedNormal(), Space((2,), 4)),
    ],
    ids=ids,
)
def test_mean_is_the_expectation(family, space):
    p = family(parameters(family, space, 6), space)
    events = world(space).unsqueeze(1)
    weights = p.log_prob(events).exp()  # [events, 6]
    expected = torch.einsum("nb,n...->b...", weights, events[:, 0].double())
    torch.testing.assert_close(p.mean, expected, rtol=0, atol=1e-10)


def test_coupled_mean_is_exact_for_the_first_channel_and_near_for_others():
    family, space = LogisticMixture(components=2), Space((3, 1, 1), 4)
    p = family(parameters(family, space, 6, scale=0.5), space)
    events = world(space).unsqueeze(1)
    expected = torch.einsum("nb,n...->b...", p.log_prob(events).exp(), events[:, 0].double())
    torch.testing.assert_close(p.mean[:, 0], expected[:, 0], rtol=0, atol=1e-10)
    torch.testing.assert_close(p.mean, expected, rtol=0, atol=0.15)


def direct_mixture(h: Tensor, x: Tensor, M: int, levels: int) -> Tensor:
    """One RGB pixel's probability under PixelCNN++ by differences of sigmoids, written in loops. h: [10 M], x: [3]."""
    logits, means, log_scales, coupling = h[:M], h[M : 4 * M], h[4 * M : 7 * M], h[7 * M :].tanh()
    s = 2 * x.double() / (levels - 1) - 1
    total = torch.zeros((), dtype=torch.float64)
    for m in range(M):
        alpha = coupling[3 * m : 3 * m + 3]
        mean = [
            means[3 * m],
            means[3 * m + 1] + alpha[0] * s[0],
            means[3 * m + 2] + alpha[1] * s[0] + alpha[2] * s[1],
        ]
        mass = logits.softmax(0)[m]
        for c in range(3):
            inverse, half = torch.exp(-log_scales[3 * m + c]), 1 / (levels - 1)
            above = torch.sigmoid((s[c] + half - mean[c]) * inverse) if x[c] < levels - 1 else 1.0
            below = torch.sigmoid((s[c] - half - mean[c]) * inverse) if x[c] > 0 else 0.0
            mass = mass * (above - below)
        total = total + mass
    return total.log()


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_logistic_mixture_equals_the_paper(levels):
    family, space = LogisticMixture(components=4), Space((3, 2, 2), levels)
    h = parameters(family, space, 2, scale=0.7)
    x = torch.randint(levels, (2, *space.shape), dtype=torch.uint8)
    x[0, :, 0, 0], x[0, :, 0, 1] = 0, levels - 1
    direct = torch.stack(
        [sum(direct_mixture(h[b, :, i, j], x[b, :, i, j], 4, levels) for i in (0, 1) for j in (0, 1)) for b in (0, 1)]
    )
    torch.testing.assert_close(family(h, space).log_prob(x), direct, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("mean", [-200.0, 200.0])
def test_logistic_mass_holds_in_the_far_tails(mean):
    """Where σ rounds to 1 the mass is still e^-(distance of the nearer edge) (1 - e^-width), and has a gradient."""
    h = torch.tensor([0.0, mean, 0.0], requires_grad=True)
    log_p = LogisticMixture(components=1)(h, Space((1,), 17)).log_prob(torch.tensor([8], dtype=torch.uint8))
    log_p.backward()
    assert log_p.item() == pytest.approx(-(200 - 1 / 16) + math.log(-math.expm1(-1 / 8)), rel=1e-6)
    assert h.grad is not None
    assert h.grad[1].item() == pytest.approx(-math.copysign(1, mean))


def test_discretized_normal_equals_scipy():
    space = Space((40,), 17)
    mean, log_scale = 0.3 * torch.randn(2, 40, dtype=torch.float64)
    x = torch.arange(40).remainder(17).to(torch.uint8)
    s, half, scale = to_unit(x.double(), 17), 1 / 16, log_scale.exp()
    above = torch.where(x == 16, 1.0, torch.from_numpy(stats.norm.cdf((s + half - mean) / scale)))
    below = torch.where(x == 0, 0.0, torch.from_numpy(stats.norm.cdf((s - half - mean) / scale)))
    p = DiscretizedNormal()(torch.cat([mean, log_scale]), space)
    torch.testing.assert_close(p.log_prob(x), (above - below).log().sum(), rtol=0, atol=1e-8)


def test_discretized_normal_has_its_gradient_in_the_far_tail():
    """log P of the middle value with the mean far left: its gradient is the distance to the bin over the variance."""
    h = torch.tensor([-1e5, -7.0], dtype=torch.float64, requires_grad=True)
    DiscretizedNormal()(h, Space((1,), 17)).log_prob(torch.tensor([8], dtype=torch.uint8)).backward()
    assert h.grad is not None
    assert h.grad[0].item() == pytest.approx((1e5 - 1 / 16) * math.exp(14), rel=1e-6)


def test_full_normal_equals_scipy_and_reaches_any_covariance():
    space = Space((3,))
    q = FullNormal()(parameters(FullNormal(), space), space)
    x = torch.randn(3, dtype=torch.float64)
    expected = stats.multivariate_normal(q.mean.numpy(), q.covariance_matrix.numpy()).logpdf(x.numpy())
    assert q.log_prob(x).item() == pytest.approx(expected, abs=1e-10)
    A = torch.randn(3, 3, dtype=torch.float64)
    covariance = A @ A.T + 0.1 * torch.eye(3)
    L = torch.linalg.cholesky(covariance)
    scale = L.diagonal()
    rows, cols = torch.tril_indices(3, 3, -1)
    h = torch.cat([torch.zeros(3, dtype=torch.float64), scale.log(), (L / scale[:, None])[rows, cols]])
    torch.testing.assert_close(FullNormal()(h, space).covariance_matrix, covariance)


@pytest.mark.parametrize("levels", [2, 256])
def test_bernoulli_is_exact(levels):
    l = torch.linspace(-40, 40, 50, dtype=torch.float64)
    p = Bernoulli()(l, Space((50,), 2))
    x = torch.arange(50).remainder(2).to(torch.uint8)
    expected = torch.where(x == 1, -torch.log1p(torch.exp(-l)), -torch.log1p(torch.exp(l))).sum()
    with torch.set_grad_enabled(levels == 2):  # both paths
        assert p.log_prob(x).item() == pytest.approx(expected.item(), abs=1e-12)
    torch.testing.assert_close(l, torch.linspace(-40, 40, 50, dtype=torch.float64))  # and nothing is overwritten


def test_bernoulli_of_gray_values_is_the_cross_entropy():
    space = Space((4,), 256)
    h, x = torch.randn(4, dtype=torch.float64), torch.tensor([0, 17, 128, 255], dtype=torch.uint8)
    y = x.double() / 255
    with torch.no_grad():
        expected = -torch.nn.functional.binary_cross_entropy_with_logits(h, y, reduction="sum")
        torch.testing.assert_close(Bernoulli()(h, space).log_prob(x), expected)
    torch.testing.assert_close(Bernoulli()(h, space).mean, 255 * h.sigmoid())


@pytest.mark.parametrize("family", REAL, ids=ids)
@pytest.mark.parametrize("levels", [2, 5])
def test_dequantized_density_fills_the_bins(family, levels):
    """∫ of the density over a bin is P(x); all bins of the whole line make 1; the bound's mean lies below log P(x)."""
    space = Space((1,), levels)
    p = family(parameters(family, space), space)
    assert isinstance(p, dist.Dequantized)
    u, w = torch.linspace(0, 1, 4001, dtype=torch.float64), torch.full((4001,), 1 / 4000, dtype=torch.float64)
    w[[0, -1]] /= 2  # trapezoids
    x = torch.arange(-40 * levels, 40 * levels, dtype=torch.float64).unsqueeze(-1)  # far beyond the scale
    bins = p.base.log_prob((2 * (x + u) / levels - 1).unsqueeze(-1)) + math.log(2 / levels)
    mass = (bins.exp() * w).sum(-1)
    s_low, s_high = (2 * (x + e) / levels - 1 for e in (0, 1))
    normal = p.base.base_dist
    torch.testing.assert_close(mass, (normal.cdf(s_high) - normal.cdf(s_low)).squeeze(-1), rtol=0, atol=1e-6)
    assert mass.sum().item() == pytest.approx(1, abs=1e-5)
    inside = slice(40 * levels, 41 * levels)
    bound = (bins * w).sum(-1)[inside]
    assert (bound <= mass[inside].log()).all()
    draws = p.log_prob(torch.arange(levels, dtype=torch.uint8)[None, :, None].expand(20_000, levels, 1))
    error = draws.std(0) / math.sqrt(20_000)
    assert ((draws.mean(0) - bound).abs() < 4 * error).all()
    torch.testing.assert_close(draws.exp().mean(0), mass[inside], rtol=0.05, atol=1e-3)  # unbiased in exp


def test_dequantized_bound_adds_up_over_the_event():
    """A density that is flat over each bin makes the bound exact: log P(x) = D log(density · 2 / levels)."""
    space = Space((2, 3, 3), 256)
    p = FixedScaleNormal(scale=1e4)(torch.zeros(space.shape, dtype=torch.float64), space)
    expected = space.dims * (math.log(2 / 256) - math.log(1e4 * math.sqrt(2 * math.pi)))
    assert p.log_prob(torch.zeros(space.shape, dtype=torch.uint8)).item() == pytest.approx(expected, abs=1e-6)


def test_dequantized_samples_follow_the_bins():
    space = Space((1,), 5)
    p = FixedScaleNormal(scale=0.15)(torch.tensor([0.1], dtype=torch.float64), space)
    edges = torch.linspace(-1, 1, 6, dtype=torch.float64)
    mass = p.base.base_dist.cdf(edges).diff()
    counts = torch.bincount(p.sample((20_000,)).flatten(), minlength=5).double()
    seen = mass * 20_000 > 5
    assert stats.chisquare(counts[seen], mass[seen] * (counts[seen].sum() / mass[seen].sum())).pvalue > 1e-3
    assert p.mean.item() == pytest.approx((p.sample((20_000,)).double()).mean().item(), abs=0.05)


@pytest.mark.parametrize(("family", "space"), ALL, ids=ids)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [50.0, 1e4])
def test_gradients_are_finite_at_extremes(family, space, dtype, size):
    if isinstance(family, Point):
        pytest.skip("a point has no gradient of a density")
    h = (size * torch.randn(8, *family.param_shape(space)).sign()).to(dtype).requires_grad_()
    if space.levels is None:
        x = torch.randn(8, *space.shape, dtype=dtype)
    else:
        x = torch.randint(space.levels, (8, *space.shape)).to(space.dtype)
        x[0], x[1] = 0, space.levels - 1
    log_p = family(h, space).log_prob(x)
    log_p.sum().backward()
    assert log_p.isfinite().all()
    assert h.grad is not None
    assert h.grad.isfinite().all()


@pytest.mark.parametrize(("family", "space"), ALL, ids=ids)
def test_shapes_and_rows(family, space):
    h = torch.randn(4, 5, *family.param_shape(space))
    p = family(h, space)
    assert (p.batch_shape, p.event_shape) == ((4, 5), space.shape)
    assert p.mean.shape == (4, 5, *space.shape)
    x = p.sample((3,))
    assert x.shape == (3, 4, 5, *space.shape)
    assert x.dtype == space.dtype
    assert p.log_prob(x).shape == (3, 4, 5)
    assert p.log_prob(x[0, 0]).shape == (4, 5)
    assert family(h[0], space).log_prob(x).shape == (3, 4, 5)  # a wide event on a narrow distribution
    if not isinstance(p, dist.Dequantized):  # which draws
        torch.testing.assert_close(family(h[1, 2], space).log_prob(x[0, 1, 2]), p.log_prob(x[0])[1, 2])
    torch.testing.assert_close(family(h[1, 2], space).mean, p.mean[1, 2])


@pytest.mark.parametrize(("family", "space"), ALL, ids=ids)
def test_runs_without_looking_at_values(family, space):
    """On the meta device any look at a value raises."""
    p = family(torch.randn(5, *family.param_shape(space), device="meta"), space)
    x = p.sample((3,))
    assert x.device.type == p.log_prob(x).device.type == p.mean.device.type == p.mode.device.type == "meta"
    for t in (0.0, 0.5):
        assert tempered(p, t).sample().shape == (5, *space.shape)


def test_densities():
    words = Space((2, 2), 4, ordered=False)
    assert {f.density(Space((3,))) for f in (*REAL, FullNormal())} == {Density.EXACT}
    assert {f.density(GRAY) for f in REAL} == {Density.BOUND}
    assert {f.density(GRAY) for f in EXACT} == {Density.EXACT}
    assert Bernoulli().density(Space((3,), 2)) is Density.EXACT
    assert Bernoulli().density(GRAY) is Point().density(Space((3,))) is Noiseless().density(GRAY) is Density.NONE
    wrong = [(f, words) for f in (*REAL, FullNormal(), Point(), DiscretizedNormal(), LogisticMixture())]
    wrong += [(f, Space((3,))) for f in (*EXACT, Bernoulli())] + [(FullNormal(), Space((3, 2, 2)))]
    for family, space in wrong:
        for ask in (family.density, family.param_shape):
            with pytest.raises(ConfigError, match=family.type_name().replace(".", r"\.")):
                ask(space)


def test_every_family_is_tested_and_survives_json():
    tested = {type(f) for f, _ in ALL}
    for cls in components(Family):
        if cls.__module__ == "lowerbound.families":
            assert cls in tested
            assert parse(Family, dump(cls())) == cls()


def test_head_learns_one_scale():
    for family, shape in ((SharedScaleNormal(), ()), (SharedScaleNormal(per_channel=True), (2, 1, 1))):
        head = Head(family, Space((2, 3, 3)))
        assert [p.shape for p in head.parameters()] == [shape]
        head.load_state_dict({"learned": torch.full(shape, math.log(2.0))})
        torch.testing.assert_close(head(torch.zeros(5, *head.in_shape)).stddev, torch.full((5, 2, 3, 3), 2.0))
        head(torch.zeros(5, *head.in_shape)).log_prob(torch.zeros(5, 2, 3, 3)).sum().backward()
        assert all(p.grad is not None for p in head.parameters())
    assert not list(Head(DiagonalNormal(), GRAY).parameters())
    assert Head(DiagonalNormal(), GRAY).density is Density.BOUND

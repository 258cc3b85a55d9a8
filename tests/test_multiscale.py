"""Flows of images: the change of variables, the bounds of dequantization against quadrature, round trips, begins."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from lowerbound import noise, testing
from lowerbound.distributions import MultivariateNormal
from lowerbound.errors import ConfigError, ModelError
from lowerbound.models.multiscale import MultiscaleFlow
from lowerbound.noise import seeded
from lowerbound.space import Density, Space
from lowerbound.testing.base import double, expect_mean, shake_parameters
from lowerbound.transforms import ActNorm, Mixing, Uniform, Variational

WORLD = Space((1, 2, 2), levels=2)
VARIATIONAL = Variational.Config(steps=2, width=4)
SMOOTH = 0.05  # the margin of flows whose densities few nodes integrate
KINDS = {
    "affine": {},
    "splines": {"bins": 3},
    "residual blocks": {"blocks": 1},
    "no logits": {"margin": None},
    "variational": {"dequantizer": VARIATIONAL},
}
each_kind = pytest.mark.parametrize("kind", KINDS)


def flow(space: Space, scale: float = 0.2, **options: object) -> MultiscaleFlow:
    """A small flow with weights shaken by so much, and normalizations begun at random images."""
    options = {"scales": 1, "steps": 2, "width": 6, **options}
    with seeded("flow"):
        found = MultiscaleFlow.Config(**options).build(space)  # pyright: ignore[reportArgumentType]
        shake_parameters(found, scale=scale)
        found.begin([some(space, 64)])
    return found


def some(space: Space, n: int) -> Tensor:
    with seeded("images"):
        if space.levels is None:
            return 3 + 2 * noise.randn((n, *space.shape))
        return torch.randint(space.levels, (n, *space.shape), dtype=torch.uint8)


# ---- the change of variables


@each_kind
def test_the_determinant_is_that_of_the_numerical_jacobian(kind: str):
    with double():
        model = flow(Space((2, 4, 4), levels=5), scales=2, **KINDS[kind])
    v = some(model.space, 1) + 0.3
    _, log_det = model._to_noise(v, None)
    e = 1e-5 * torch.eye(32, dtype=torch.float64).view(32, 2, 4, 4)
    with torch.no_grad():
        columns = (model._to_noise(v + e, None)[0] - model._to_noise(v - e, None)[0]).flatten(1) / 2e-5
    torch.testing.assert_close(log_det[0], torch.linalg.slogdet(columns)[1], rtol=1e-6, atol=1e-6)


def test_without_couplings_it_is_a_normal_of_known_moments():
    """A known answer: then f is affine, and what it takes N(0, I) to is a normal."""
    space = Space((1, 4, 4))
    with double(), seeded("affine"):
        model = MultiscaleFlow.Config(scales=2, steps=2, width=4).build(space)
        for name, p in model.named_parameters():
            if "network" not in name:
                p.data.add_(0.2 * torch.randn_like(p))
    z = torch.cat([torch.zeros(1, 1, 4, 4), torch.eye(16).view(16, 1, 4, 4)]).double()
    images = model.from_noise(z).flatten(1)
    mean, A = images[0], (images[1:] - images[0]).T
    x = some(space, 5).double()
    normal = MultivariateNormal(mean, A @ A.T, validate_args=False)
    torch.testing.assert_close(model.log_prob(x), normal.log_prob(x.flatten(1)))
    assert model.density is Density.EXACT
    with seeded("draw"):
        hot = model.sample(4)
    with seeded("draw"):
        cold = model.sample(4, temperature=0.5)
    torch.testing.assert_close(cold.flatten(1) - mean, 0.5 * (hot.flatten(1) - mean))  # of the base's deviation
    torch.testing.assert_close(model.sample(1, temperature=0.0).flatten(), mean)


@pytest.mark.parametrize("kind", ["affine", "splines", "no logits"])
def test_images_of_32x32_come_back_in_single_precision(kind: str):
    space = Space((3, 32, 32), levels=256)
    model = flow(space, 0.02, scales=3, steps=4, width=16, **KINDS[kind])
    x = some(space, 2)
    assert torch.equal(model.from_noise(model.to_noise(x)), x.float())
    with torch.no_grad():
        s, _ = model._scaled(x + 0.5)
        back, _ = model.bijection(model.bijection(s, None, inverse=True)[0])
        assert float((back - s).abs().max()) < 1e-5
        z = noise.randn(s.shape)
        again, _ = model.bijection(model.bijection(z)[0], None, inverse=True)
        assert float((again - z).abs().max()) < 1e-5


def test_mixings_know_their_determinant_and_say_when_there_is_none():
    with double(), seeded("mixing"):
        mixing = Mixing(4)
        torch.testing.assert_close(mixing.weight @ mixing.weight.T, torch.eye(4))  # a rotation
        shake_parameters(mixing)
        x = noise.randn((2, 4, 3, 5))
        u, log_det = mixing(x, None, inverse=True)
        torch.testing.assert_close(u, torch.einsum("ij,bjhw->bihw", mixing.weight, x))
        torch.testing.assert_close(log_det[0], -15 * torch.linalg.slogdet(mixing.weight)[1])
        back, same = mixing(u)
        torch.testing.assert_close(back, x)
        torch.testing.assert_close(same, log_det)
    model = flow(WORLD)
    broken = next(m for m in model.modules() if isinstance(m, Mixing))
    broken.log_diagonal.data[1] = -40.0
    for ask in (lambda: model.sample(2), lambda: model.to_noise(some(WORLD, 2))):
        with pytest.raises(ModelError, match=r"model\.bijection\.\S+: this 1x1 convolution is singular"):
            ask()


# ---- where it begins


def test_it_begins_with_all_channels_normalized():
    space = Space((1, 8, 8), levels=17)
    dark = some(space, 700) // 4  # of another mean than 0, spread over batches of other means
    batches = [dark[:500], dark[500:] + 8]
    with seeded("begin"):
        model = MultiscaleFlow.Config(scales=2, steps=2, width=6).build(space)
        before = float(model.log_density(dark).mean().detach())
        model.begin(batches)
    seen: list[Tensor] = []
    for m in model.modules():
        if isinstance(m, ActNorm):
            m.register_forward_hook(lambda m, args, out: seen.append(out[0]))
    with torch.no_grad():
        model.log_density(torch.cat(batches))
    assert len(seen) == 4
    for u in seen:
        assert float(u.mean((0, 2, 3)).abs().max()) < 0.1  # those are 512 events at least, not all
        assert float((u.std((0, 2, 3)) - 1).abs().max()) < 0.1
    assert float(model.log_density(dark).mean().detach()) > before


def test_events_to_begin_at_are_from_all_batches():
    from lowerbound.models.multiscale import _some

    for sizes in ([3], [5, 5], [100] * 7, [1] * 90):
        whole = torch.arange(sum(sizes))
        found = _some(whole.split(sizes), 8)
        assert min(8, len(whole)) <= len(found) < 16 or len(whole) < 16
        assert int(found[0]) == 0
        assert int(found[-1]) >= 0.8 * int(whole[-1])
        assert len(found.unique()) == len(found)


# ---- dequantization, against quadrature


def nodes(of: Callable[[int], tuple[np.ndarray, np.ndarray]], n: int = 8) -> tuple[Tensor, Tensor]:
    """Those of a rule for four numbers, [n^4, 1, 1, 2, 2], and their weights [n^4, 1], which add up to 1."""
    t, w = of(n)
    grid = torch.tensor(list(itertools.product(t, repeat=4))).view(-1, 1, 1, 2, 2)
    found = torch.tensor(list(itertools.product(w, repeat=4))).prod(1, keepdim=True)
    return grid, found / found.sum()


def legendre(n: int) -> tuple[np.ndarray, np.ndarray]:
    t, w = np.polynomial.legendre.leggauss(n)
    return (t + 1) / 2, w / 2


WORLDS = torch.tensor(list(itertools.product([0, 1], repeat=4)), dtype=torch.uint8).view(16, 1, 2, 2)


def by_quadrature(
    model: MultiscaleFlow, rule: tuple[Tensor, Tensor], drawn: str, monkeypatch: pytest.MonkeyPatch
) -> tuple[Tensor, Tensor]:
    """log E[w(u)] and E[log w(u)] of every image of the world, [16] each, w(u) being p(x + u) / q(u|x)."""
    grid, weight = rule
    with monkeypatch.context() as m, torch.no_grad():
        m.setattr(noise, drawn, lambda shape, dtype=None, device=None: grid.to(dtype).expand(shape))
        log_w = model.log_weights(WORLDS, draws=len(grid))
    return (weight * log_w.exp()).sum(0).log(), (weight * log_w).sum(0)


def exact(model: MultiscaleFlow, monkeypatch: pytest.MonkeyPatch) -> tuple[Tensor, Tensor]:
    """log P(x), and the bound that uniform noise gives."""
    own, model.dequantizer = model.dequantizer, Uniform()
    found = by_quadrature(model, nodes(legendre), "rand", monkeypatch)
    model.dequantizer = own
    return found


def test_a_bound_of_uniform_noise_is_below_the_exact_value_and_its_weights_reach_it(monkeypatch: pytest.MonkeyPatch):
    with double():
        model = flow(WORLD, margin=SMOOTH)
    log_p, bound = exact(model, monkeypatch)
    assert bool((bound < log_p).all())
    assert 0.3 < float(log_p.exp().sum()) < 1  # what is missing lies beyond the values
    with seeded("draws"), torch.no_grad():
        log_w = model.log_weights(WORLDS, draws=2000)
    for found, expected in ((log_w.exp(), log_p.exp()), (log_w, bound)):  # weighted, and averaged
        error = found.std(0) / math.sqrt(len(found))
        assert bool(((found.mean(0) - expected).abs() < 4.5 * error).all())


def test_the_exact_value_of_a_normal_is_that_of_its_distribution_function(monkeypatch: pytest.MonkeyPatch):
    """A known answer beside the inequality: with channels that nothing mixes, values have normal masses."""
    with double():
        model = MultiscaleFlow.Config(scales=1, steps=1, width=4, margin=None).build(WORLD)
        for m in model.modules():
            if isinstance(m, Mixing):
                m.permutation.copy_(torch.eye(4))
                m.sign.fill_(1)
                for p in m.parameters():
                    p.data.zero_()
            if isinstance(m, ActNorm):
                m.shift.data.copy_(torch.tensor([-0.4, 0.0, 0.3, 0.1]).view(4, 1, 1))
                m.log_scale.data.copy_(torch.tensor([0.2, -0.7, 0.0, 0.5]).view(4, 1, 1))
                mean, scale = m.shift.data.flatten(), m.log_scale.data.flatten().exp()
    log_p, _ = exact(model, monkeypatch)
    x = WORLDS.flatten(1).double()
    low, high = (x - 1 - mean) / scale, (x - mean) / scale  # v in [x, x + 1) is s = v - 1
    masses = torch.special.ndtr(high) - torch.special.ndtr(low)
    torch.testing.assert_close(log_p, masses.log().sum(1), rtol=1e-8, atol=1e-8)


def test_variational_noise_begins_as_the_uniform(monkeypatch: pytest.MonkeyPatch):
    with double():
        model = flow(WORLD, dequantizer=VARIATIONAL)
        assert model.dequantizer is not None
        with seeded("new"):
            model.dequantizer = VARIATIONAL.build(WORLD, 0)
            u, log_q = model.dequantizer(torch.zeros(1, 1, 2, 2), None, 4000)
    assert float(log_q.detach().abs().max()) < 1e-12
    expect_mean("u", u.detach().flatten(1), torch.full((4,), 0.5))
    expect_mean("u squared", u.detach().flatten(1) ** 2, torch.full((4,), 1 / 3))


def test_variational_noise_makes_the_bound_tighter_and_no_more_than_exact(monkeypatch: pytest.MonkeyPatch):
    with double():
        model = flow(WORLD, 0.3, margin=SMOOTH, dequantizer=VARIATIONAL)
        assert model.dequantizer is not None
        with seeded("new"):
            model.dequantizer = VARIATIONAL.build(WORLD, 0)
    log_p, uniform = exact(model, monkeypatch)
    optimizer = torch.optim.Adam(model.dequantizer.parameters(), lr=0.02)
    with seeded("train"):
        for _ in range(100):
            optimizer.zero_grad()
            (-model._log_weights(WORLDS, draws=4).mean()).backward()
            optimizer.step()
    reached, bound = by_quadrature(model, nodes(np.polynomial.hermite_e.hermegauss), "randn", monkeypatch)
    torch.testing.assert_close(reached, log_p, rtol=2e-3, atol=2e-3)  # weighted draws reach the exact value
    assert bool((bound < log_p + 1e-4).all())
    gap, before = float((log_p - bound).mean()), float((log_p - uniform).mean())
    assert gap < 0.6 * before, (gap, before)


# ---- batteries of what the smallest example does not have


@pytest.mark.parametrize(
    ("options", "space", "given"),
    [
        ({"bins": 3, "dequantizer": VARIATIONAL}, WORLD, (testing.LABEL,)),
        ({"margin": None, "blocks": 1}, WORLD, (Space((2,)),)),
        ({"scales": 2}, Space((1, 4, 4)), ()),
    ],
    ids=["splines, variational, label", "no logits, attributes", "real events of two scales"],
)
def test_variants(options: dict, space: Space, given: tuple[Space, ...]):
    config = MultiscaleFlow.Config(**{"scales": 1, "steps": 2, "width": 4, **options})
    testing.check_model(config, space, given)
    assert config.build(space, given).density is (Density.EXACT if space.levels is None else Density.BOUND)


# ---- what it refuses


@pytest.mark.parametrize(
    ("space", "scales", "message"),
    [
        (Space((1, 28, 28), levels=256), 3, r"model\.scales=3: images of 28x28 can be halved 2 times.*model\.scales=2"),
        (Space((1, 7, 7), levels=256), 1, r"images of 7x7 can be halved 0 times.*data\.size, such as 8"),
        (Space((3, 32, 48), levels=256), 5, r"32x48 can be halved 4 times.*such as 32 and 64"),
        (Space((5,)), 1, r"is over images, got events of shape \[5\].*models\.flow\.Flow"),
        (Space((1, 4, 4), levels=8, ordered=False), 1, r"that are names \(codes or labels\)"),
    ],
)
def test_what_it_is_no_flow_of_is_refused(space: Space, scales: int, message: str):
    with pytest.raises(ConfigError, match=message):
        MultiscaleFlow.Config(scales=scales).build(space)


def test_noise_of_another_shape_is_refused():
    with pytest.raises(ModelError, match=r"from_noise: expected noise of \['B', 1, 2, 2\], got \[3, 4\]"):
        flow(WORLD).from_noise(torch.zeros(3, 4))


def test_it_explains_that_it_can_not_complete():
    with pytest.raises(ModelError, match=r"can't complete.*an integral over the rest"):
        flow(WORLD).complete(some(WORLD, 1), torch.ones(2, 2, dtype=torch.bool))

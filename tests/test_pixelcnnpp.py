"""PixelCNN++: causal, exact, and sampled from its cache as by full passes."""

import itertools

import pytest
import torch
from torch import Tensor
from torch.autograd.functional import jacobian

from lowerbound.errors import ConfigError
from lowerbound.families import Bernoulli, Categorical, Family, LogisticMixture
from lowerbound.models.autoregressive import Autoregressive
from lowerbound.networks.causal import At, MaskedConv, RowConv
from lowerbound.networks.pixelcnnpp import Enlarge, Level, PixelCNNPP
from lowerbound.noise import seeded
from lowerbound.space import Space, Y
from lowerbound.testing.base import all_events, double, shake_parameters

LABEL, CODES = Space((), levels=3, ordered=False), Space((2, 2), levels=4, ordered=False)


def model(
    space: Space, likelihood: Family, given: tuple[Space, ...] = (), *, width: int = 6, blocks: int = 1, levels: int = 2
) -> Autoregressive:
    network = PixelCNNPP.Config(width=width, blocks=blocks, levels=levels, places=True, dropout=0.5)
    with seeded("build"):
        built = Autoregressive.Config(network=network, likelihood=likelihood, context=4).build(space, given)
    shake_parameters(built, scale=0.1)
    return built.eval()


def conditions(n: int, given: tuple[Space, ...]) -> Y:
    with seeded("condition"):
        return tuple(torch.randint(s.levels or 0, (n, *s.shape)) for s in given) or None


# ---- sampling


@pytest.mark.parametrize("given", [(), (LABEL, CODES)], ids=["alone", "label and grid"])
@pytest.mark.parametrize("likelihood", [LogisticMixture(components=2), Categorical()], ids=["joint", "ordered"])
@pytest.mark.parametrize(
    ("levels", "size"), [(1, (3, 5)), (2, (4, 4)), (2, (2, 6)), (3, (8, 4)), (3, (4, 12))], ids=str
)
def test_samples_from_the_cache_are_those_of_full_passes(levels, size, likelihood, given):
    with double():
        m = model(Space((2, *size), levels=5), likelihood, given, levels=levels)
        y = conditions(3, given)
        with seeded("sample"):
            cached = m.sample(3, y)
        with seeded("sample"):
            naive = m.sample_naively(3, y)
    assert torch.equal(cached, naive)
    assert len(cached.unique()) > 1


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_steps_are_the_rows_of_a_full_pass_in_single_precision(levels):
    net = PixelCNNPP.Config(width=16, blocks=2, levels=levels).build((3, 12, 8), (20, 12, 8), context=4)
    x, c = torch.rand(5, 3, 12, 8) * 2 - 1, torch.randn(5, 4, 12, 8)
    with torch.no_grad():
        assert (stepped(net, x, c) - net(x, c)).abs().max() < 1e-5


def stepped(net: PixelCNNPP, x: Tensor, c: Tensor | None = None) -> Tensor:
    """What the network's steps put out, each repeated after something wrong was put at its position."""
    cache, out = net.start(len(x), c), torch.empty(len(x), *net(x, c).shape[1:], dtype=x.dtype)
    for i in range(x.shape[2]):
        for j in range(x.shape[3]):
            net.step(cache, i, j)
            net.put(cache, x[:, :, i, j] + 1, i, j)
            net.step(cache, i, j)
            net.put(cache, x[:, :, i, j], i, j)
            out[:, :, i, j] = net.step(cache, i, j)
    return out


def test_a_step_costs_the_same_everywhere():
    """The left stream's layers are run once at each position of their own level, and no more."""
    net = PixelCNNPP.Config(width=4, blocks=1, levels=3).build((1, 8, 8), (1, 8, 8))
    calls = {0: 0, 1: 0, 2: 0}
    modules = [m for m in net.modules() if isinstance(m, Level)]
    for level, module in enumerate(modules):
        module.down[0].register_forward_hook(lambda *_, level=level: calls.update({level: calls[level] + 1}))  # pyright: ignore
    cache = net.start(1)
    for i in range(8):
        for j in range(8):
            net.step(cache, i, j)
            net.put(cache, torch.zeros(1, 1), i, j)
    assert calls == {0: 64 + 8, 1: 16 + 4, 2: 4 + 2}  # positions, and rows of the stream above


# ---- causality


@pytest.mark.parametrize(("levels", "size"), [(1, (4, 5)), (2, (4, 6)), (3, (8, 8)), (3, (4, 12))], ids=str)
@pytest.mark.parametrize("channels", [1, 2])
def test_an_output_depends_on_all_earlier_inputs_and_no_other(levels, size, channels):
    F, P = 2, 2
    with double(), seeded("jacobian"):
        config = PixelCNNPP.Config(width=8, blocks=3, levels=levels)
        net = config.build((F, *size), (P, *size), channels=channels).eval()
        shake_parameters(net, scale=0.1)  # small enough that no gate shuts
        x = torch.randn(1, F, *size)
        jac = sum(jacobian(net, x + 0.1 * k)[0, :, :, :, 0].abs() for k in range(3))  # pyright: ignore
    found = jac.permute(1, 2, 0, 4, 5, 3).reshape(size[0] * size[1] * P, -1) != 0  # pyright: ignore
    place = torch.arange(size[0] * size[1]).repeat_interleave(F)
    channel = (torch.arange(F) % channels).repeat(size[0] * size[1])
    order = place * channels + channel  # of the outputs, and of the inputs
    expected = order[:, None] > order
    expected &= (place[:, None] > place) | (channels > 1)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("layer", ["rows", "corner", "enlarge rows", "enlarge corner"])
def test_layers_between_resolutions_look_at_what_is_there(layer):
    """Position (i, j) of the coarser map is what is known once (2i, 2j) is."""
    with double(), seeded("layer"):
        if layer == "rows":
            found, reach = seen_by(RowConv(1, 1, (2, 3), stride=2), 6), lambda i, j, k, m: k <= 2 * i
        elif layer == "corner":
            found = seen_by(MaskedConv(1, 1, (2, 2), centre=True, stride=2), 6)
            reach = lambda i, j, k, m: k <= 2 * i and m <= 2 * j  # noqa: E731
        elif layer == "enlarge rows":
            found, reach = seen_by(Enlarge(2, 3), 3), lambda i, j, k, m: 2 * k <= i
        else:
            found, reach = seen_by(Enlarge(2, 2), 3), lambda i, j, k, m: (k, m) == (i // 2, j // 2)
    places = itertools.product(*(range(n) for n in found.shape))
    allowed = torch.tensor([reach(*place) for place in places]).view(found.shape)
    assert not (found & ~allowed).any()
    assert found.flatten(2).any(-1).all()


def seen_by(layer: RowConv | MaskedConv | Enlarge, size: int) -> Tensor:
    """Which inputs an output depends on: [H, W, H', W']."""
    features = layer.weight.shape[0 if isinstance(layer, Enlarge) else 1]
    jac = jacobian(layer, torch.randn(1, size, size, int(features)))  # pyright: ignore
    return jac[0].abs().sum((2, 3, -1)) > 0  # pyright: ignore


# ---- exactness


@pytest.mark.parametrize(
    ("space", "likelihood", "levels"),
    [
        (Space((1, 2, 2), levels=2), Bernoulli(), 2),
        (Space((1, 2, 2), levels=3), Categorical(), 2),
        (Space((3, 1, 2), levels=3), LogisticMixture(components=2), 1),
        (Space((3, 2, 1), levels=3), LogisticMixture(components=2), 1),
        (Space((2, 2, 2), levels=3), LogisticMixture(components=2), 2),
        (Space((2, 2, 2), levels=3), Categorical(), 2),
        (Space((2, 2), levels=4, ordered=False), Categorical(), 2),
    ],
    ids=str,
)
def test_probabilities_sum_to_one(space, likelihood, levels):
    with double(), torch.no_grad():
        m, events = model(space, likelihood, levels=levels), all_events(space, at_most=6561)
        assert events is not None
        log_p = torch.cat([m.log_prob(part) for part in events.split(2048)])
    assert abs(float(log_p.exp().sum()) - 1) < 1e-10


# ---- construction


def test_the_paper_s_network_has_its_size():
    """53.6 million: the sum over the layers of the published code, without the norms of its weights."""
    w, pairs, skips, strides = 160, 3 * 5 + 5 + 6 + 6, 5 + 6 + 6, 2 + 2
    pair = (6 + 4) * 2 * w * (w + 2 * w) + 2 * w * w + 2 * (w + 2 * w) + w  # two convolutions in each stream, and nin
    expected = pairs * pair + skips * 2 * (2 * w * w + w) + strides * ((6 + 4) * w * w + 2 * w)
    expected += 2 * (6 * 4 * w + w) + w * 100 + 100
    net = PixelCNNPP.Config().build((3, 32, 32), (100, 32, 32))
    assert sum(p.numel() for p in net.parameters()) == expected
    assert 53.5e6 < expected < 53.7e6


def test_it_begins_with_features_of_about_the_same_size():
    with seeded("size"):
        net = PixelCNNPP.Config(width=32, levels=3, blocks=5).build((3, 16, 16), (100, 16, 16))
        h = net(torch.rand(8, 3, 16, 16) * 2 - 1).detach()
    assert 0.3 < float(h.std()) < 3


def test_sizes_that_cannot_be_halved_are_refused_in_words():
    PixelCNNPP.Config(width=4, blocks=1).build((1, 28, 28), (1, 28, 28))
    with pytest.raises(ConfigError, match=r"multiples of 4 \(such as 28x32\), got 28x30.* levels=2 or fewer"):
        PixelCNNPP.Config(width=4, blocks=1).build((1, 28, 30), (1, 28, 30))


def test_every_parameter_learns_and_dropout_only_while_training():
    with seeded("learn"):
        net = PixelCNNPP.Config(width=6, blocks=1, levels=2, dropout=0.5, places=True).build(
            (2, 4, 4), (4, 4, 4), channels=2, context=3
        )
        x, c = torch.randn(4, 2, 4, 4), torch.randn(4, 3, 1, 1)
        net(x, c).square().sum().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert not torch.equal(net(x, c), net(x, c))
    net.eval()
    assert torch.equal(net(x, c), net(x, c))


def test_a_condition_on_a_grid_reaches_every_output_through_every_level():
    net = PixelCNNPP.Config(width=6, blocks=1, levels=2).build((1, 4, 4), (1, 4, 4), context=2)
    c = torch.randn(1, 2, 4, 4, requires_grad=True)
    (grad,) = torch.autograd.grad(net(torch.zeros(1, 1, 4, 4), c)[0, 0, 0, 0], c)
    assert grad[0, 0, 1, 1] != 0  # of the same block of the coarser level, though later in the order


def test_at_of_a_coarser_level():
    cache = PixelCNNPP.Config(width=4, blocks=1, levels=2).build((1, 4, 6), (1, 4, 6)).start(2)
    at = At(cache, 3, 5).coarser()
    assert (at.i, at.j, at.cache.size, at.cache.layers is cache.layers) == (1, 2, (2, 3), True)

"""MADE: its masks against those of the paper, unit by unit; causality, probabilities, and sampling by position."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from lowerbound.config import parse
from lowerbound.errors import ConfigError
from lowerbound.families import Bernoulli, Categorical, LogisticMixture
from lowerbound.models.autoregressive import Autoregressive
from lowerbound.models.base import Space, Y
from lowerbound.networks.causal import CausalNetwork
from lowerbound.networks.made import MADE
from lowerbound.noise import seeded
from lowerbound.testing import LABEL
from lowerbound.testing.base import all_events, condition, double, events, shake_parameters


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def build(
    config: MADE.Config, features: int, outputs: int, size: tuple[int, int], channels: int = 1, context: int = 0
) -> MADE:
    with seeded("made"):
        net = config.build((features, *size), (outputs, *size), channels=channels, context=context)
    shake_parameters(net)
    return net.eval()


# ---- the paper's masks

HIDDEN = [(), (11,), (9, 14), (3, 40, 5)]


def brute_force(net: MADE, hidden: tuple[int, ...], channels: int, x: np.ndarray) -> np.ndarray:
    """h [P, H, W] of one x [F, H, W], a unit and a connection at a time, by the rules of the paper's section 4.1."""
    F, H, W = x.shape
    P, D = net.outputs_each, H * W * channels

    def degree(t: int, f: int) -> int:
        return t * channels + f % channels + 1

    places = [(t, f) for t in range(H * W) for f in range(F)]
    inputs = before = [x[f, t // W, t % W] for t, f in places]
    m_inputs = m_before = [degree(t, f) for t, f in places]
    for layer, width in zip(net.hidden, hidden, strict=True):
        m = [math.floor(k * D / width) for k in range(width)]
        w, b = layer.weight.detach().numpy(), layer.bias.detach().numpy()
        sums = [
            b[k] + sum(w[k, i] * before[i] for i in range(len(before)) if m[k] >= m_before[i]) for k in range(width)
        ]
        before, m_before = [math.tanh(a) for a in sums], m
    w, b = net.out.weight.detach().numpy(), net.out.bias.detach().numpy()
    direct = None if net.direct is None else net.direct.weight.detach().numpy()
    out = np.zeros((P, H, W))
    for t in range(H * W):
        for p in range(P):
            o, d = t * P + p, degree(t, p)
            total = b[o] + sum(w[o, i] * before[i] for i in range(len(before)) if d > m_before[i])
            if direct is not None:
                total += sum(direct[o, i] * inputs[i] for i in range(len(inputs)) if d > m_inputs[i])
            out[p, t // W, t % W] = total
    return out


@pytest.mark.parametrize("hidden", HIDDEN)
@pytest.mark.parametrize(("features", "outputs", "channels"), [(1, 1, 1), (2, 3, 1), (3, 6, 3), (4, 2, 2)])
def test_units_see_what_the_paper_says(hidden, features: int, outputs: int, channels: int):
    with double():
        config = MADE.Config(hidden=hidden, activation="tanh")
        net = build(config, features, outputs, (2, 3), channels)
        x = torch.randn(2, features, 2, 3)
        for one, h in zip(x, net(x), strict=True):
            expected = brute_force(net, hidden, channels, one.numpy())
            assert np.abs(h.detach().numpy() - expected).max() < 1e-12


def test_degrees_are_spread_evenly():
    net = MADE.Config(hidden=(1000,)).build((1, 28, 28), (1, 28, 28))
    counts = np.diff([0, *net.ends[1]])
    assert counts.sum() == 1000
    assert counts.max() - counts.min() == 1


def test_direct_connections_can_be_left_out():
    net = build(MADE.Config(hidden=(5,), direct=False), 1, 1, (2, 2))
    assert net.direct is None


# ---- causality: an output depends on what comes before it, on all of it, and on nothing else


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize(("channels", "features", "outputs"), [(1, 1, 2), (1, 3, 2), (3, 3, 6)])
def test_outputs_depend_on_all_that_comes_before(direct: bool, channels: int, features: int, outputs: int):
    size = (3, 4)
    with double():
        config = MADE.Config(hidden=(40, 40), activation="tanh", direct=direct)
        net = build(config, features, outputs, size, channels)
        x = torch.randn(1, features, *size)
        jacobian = torch.autograd.functional.jacobian(net, x)[0, :, :, :, 0]  # [P, H, W, F, H, W]
    for (p, i, j, f, k, l), value in np.ndenumerate(jacobian.numpy()):
        before = (k, l, f % channels) < (i, j, p % channels)
        assert (value != 0) == before, (p, i, j, f, k, l)


@pytest.mark.parametrize("context_size", [(1, 1), (2, 3)])
def test_every_output_depends_on_the_condition(context_size):
    net = build(MADE.Config(hidden=(20,), activation="tanh"), 1, 1, (2, 3), context=4)
    c = torch.randn(1, 4, *context_size)
    jacobian = torch.autograd.functional.jacobian(lambda c: net(torch.zeros(1, 1, 2, 3), c), c)
    assert bool((jacobian != 0).any((-3, -2, -1)).all())


def test_the_first_output_is_no_linear_function_of_the_condition():
    net = build(MADE.Config(hidden=(20,), activation="tanh"), 1, 1, (2, 2), context=1)
    zero = torch.zeros(1, 1, 2, 2)
    at = [float(net(zero, torch.full((1, 1, 1, 1), v))[0, 0, 0, 0].detach()) for v in (-1.0, 0.0, 1.0)]
    assert abs(at[0] + at[2] - 2 * at[1]) > 1e-3


# ---- the model


def made(likelihood, space: Space, given: tuple[Space, ...] = (), hidden=(30, 20)) -> Autoregressive:
    config = Autoregressive.Config(
        network=MADE.Config(hidden=hidden, activation="tanh"), likelihood=likelihood, context=5, embedding=3
    )
    with seeded("model"):
        model = config.build(space, given)
    shake_parameters(model)
    return model.eval()


CODES = Space((3, 4), levels=5, ordered=False)
WORLDS = {
    "binary": (Bernoulli(), Space((1, 4, 5), levels=2), ()),
    "grey": (Categorical(), Space((1, 3, 4), levels=5), ()),
    "three channels": (Categorical(), Space((3, 3, 4), levels=4), ()),
    "three channels, with a label": (Categorical(), Space((3, 3, 4), levels=4), (LABEL,)),
    "three channels together": (LogisticMixture(components=2), Space((3, 3, 4), levels=9), ()),
    "codes with a label and a coarser grid": (Categorical(), CODES, (LABEL, Space((2, 2), levels=7, ordered=False))),
    "a vector": (Categorical(), Space((7,), levels=3), ()),
    "a vector with another": (Bernoulli(), Space((7,), levels=2), (Space((2,)),)),
}


@pytest.mark.parametrize("hidden", HIDDEN)
@pytest.mark.parametrize("world", WORLDS)
def test_samples_are_those_of_full_passes(world: str, hidden):
    likelihood, space, given = WORLDS[world]
    with double():
        model = made(likelihood, space, given, hidden)
        y = condition(given, 6)
        with seeded("draws"):
            cached = model.sample(6, y)
        with seeded("draws"):
            naive = model.sample_naively(6, y)
    assert torch.equal(cached, naive)
    assert len(cached.flatten(1).unique(dim=0)) > 1


def steps(net: CausalNetwork, x: Tensor, c: Tensor | None) -> Tensor:
    """h of a full pass, position by position."""
    cache, h = net.start(len(x), c), []
    H, W = x.shape[-2:]
    for i in range(H):
        for j in range(W):
            net.put(cache, x[:, :, i, j], i, j)  # twice, as it is with channels
            net.step(cache, i, j)
            h.append(net.step(cache, i, j))
            net.put(cache, x[:, :, i, j], i, j)
    return torch.stack(h, -1).unflatten(-1, (H, W))


@pytest.mark.parametrize("world", WORLDS)
@torch.no_grad()
def test_a_position_alone_is_as_in_a_full_pass(world: str):
    likelihood, space, given = WORLDS[world]
    model = made(likelihood, space, given)
    x = model._features(events(space, 5), model.grid.space, model.grid.size)
    c = model.condition(condition(given, 5))
    assert float((model.network(x, c) - steps(model.network, x, c)).abs().max()) < 1e-5


@pytest.mark.parametrize(
    ("likelihood", "space"),
    [
        (Bernoulli(), Space((1, 2, 2), levels=2)),
        (Categorical(), Space((3, 1, 2), levels=3)),
        (Categorical(), Space((2, 2), levels=4, ordered=False)),
        (Bernoulli(), Space((1, 1, 1), levels=2)),
    ],
)
@pytest.mark.parametrize("given", [(), (LABEL,)])
@torch.no_grad()
def test_probabilities_add_up_to_one(likelihood, space: Space, given: tuple[Space, ...]):
    with double():
        model = made(likelihood, space, given)
        x = all_events(space)
        assert x is not None
        y: Y = torch.full((len(x),), 1) if given else None
        assert abs(float(model.log_prob(x, y).exp().sum()) - 1) < 1e-10


# ---- what the user is told


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"hidden": [100, 0]}, "widths above 0"),
        ({"activation": "rleu"}, "did you mean relu"),
        ({"masks": 8}, "masks: unknown key"),
    ],
)
def test_what_the_user_is_told(wrong: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        parse(CausalNetwork.Config, {"type": "networks.made.MADE", **wrong})

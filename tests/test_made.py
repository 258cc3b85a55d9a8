"""MADE: its masks against those of the paper, unit by unit; causality, probabilities, and sampling by position."""

import math

import numpy as np
import pytest
import torch

from causal_worlds import (
    SMALL_WORLDS,
    WORLDS,
    built,
    dependence,
    expect_all_outputs_to_depend_on_the_condition,
    expect_positions_as_in_a_full_pass,
    expect_probabilities_to_add_up_to_one,
    expect_the_samples_of_full_passes,
)
from lowerbound.config import parse
from lowerbound.errors import ConfigError
from lowerbound.networks.causal import CausalNetwork
from lowerbound.networks.made import MADE
from lowerbound.testing import LABEL
from lowerbound.testing.base import double


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


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
        net = built(config, features, outputs, (2, 3), channels)
        assert isinstance(net, MADE)
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
    net = built(MADE.Config(hidden=(5,), direct=False), 1, 1, (2, 2))
    assert isinstance(net, MADE)
    assert net.direct is None


# ---- causality: an output depends on what comes before it, on all of it, and on nothing else


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize(("channels", "features", "outputs"), [(1, 1, 2), (1, 3, 2), (3, 3, 6)])
def test_outputs_depend_on_all_that_comes_before(direct: bool, channels: int, features: int, outputs: int):
    config = MADE.Config(hidden=(40, 40), activation="tanh", direct=direct)
    with double():
        seen = dependence(built(config, features, outputs, (3, 4), channels), features, (3, 4))
    for (p, i, j, f, k, l), value in np.ndenumerate(seen.numpy()):
        assert value == ((k, l, f % channels) < (i, j, p % channels)), (p, i, j, f, k, l)


@pytest.mark.parametrize("context_size", [(1, 1), (2, 3)])
def test_every_output_depends_on_the_condition(context_size):
    expect_all_outputs_to_depend_on_the_condition(MADE.Config(hidden=(20,), activation="tanh"), context_size)


def test_the_first_output_is_no_linear_function_of_the_condition():
    net = built(MADE.Config(hidden=(20,), activation="tanh"), 1, 1, (2, 2), context=1)
    zero = torch.zeros(1, 1, 2, 2)
    at = [float(net(zero, torch.full((1, 1, 1, 1), v))[0, 0, 0, 0].detach()) for v in (-1.0, 0.0, 1.0)]
    assert abs(at[0] + at[2] - 2 * at[1]) > 1e-3


# ---- the model


@pytest.mark.parametrize("hidden", HIDDEN)
@pytest.mark.parametrize("world", WORLDS)
def test_samples_are_those_of_full_passes(world: str, hidden):
    expect_the_samples_of_full_passes(MADE.Config(hidden=hidden, activation="tanh"), world)


@pytest.mark.parametrize("world", WORLDS)
def test_a_position_alone_is_as_in_a_full_pass(world: str):
    expect_positions_as_in_a_full_pass(MADE.Config(hidden=(30, 20), activation="tanh"), world)


@pytest.mark.parametrize(("likelihood", "space"), SMALL_WORLDS)
@pytest.mark.parametrize("given", [(), (LABEL,)], ids=["alone", "given a label"])
def test_probabilities_add_up_to_one(likelihood, space, given):
    expect_probabilities_to_add_up_to_one(MADE.Config(hidden=(30, 20), activation="tanh"), likelihood, space, given)


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

"""NADE unit by unit as the paper has it, the fully visible belief net that it generalizes, and sampling by position."""

import math

import numpy as np
import pytest
import torch

from causal_worlds import (
    SMALL_WORLDS,
    WORLDS,
    built,
    expect_all_outputs_to_depend_on_the_condition,
    expect_positions_as_in_a_full_pass,
    expect_probabilities_to_add_up_to_one,
    expect_the_samples_of_full_passes,
)
from lowerbound.config import parse
from lowerbound.errors import ConfigError
from lowerbound.families import Bernoulli
from lowerbound.models.autoregressive import Autoregressive
from lowerbound.networks import nade
from lowerbound.networks.causal import CausalNetwork
from lowerbound.networks.made import MADE
from lowerbound.networks.nade import NADE
from lowerbound.noise import seeded
from lowerbound.space import Space
from lowerbound.testing import LABEL
from lowerbound.testing.base import all_events, double, shake_parameters


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch):
    """So that images of the tests take several, the last of them shorter."""
    monkeypatch.setattr(nade, "BLOCK", 5)


def brute_force(net: NADE, channels: int, x: np.ndarray) -> np.ndarray:
    """o [P, H, W] of one x [F, H, W], a variable and a hidden unit at a time."""
    F, H, W = x.shape
    w, v, b, c = (p.detach().numpy() for p in (net.W, net.V, net.b, net.c))  # [D, f, K], [D, K, p], [D, 1, p], [K]
    out = np.zeros((channels * v.shape[2], H, W))
    for d in range(H * W * channels):
        position, channel = divmod(d, channels)
        h = []
        for k in range(len(c)):
            a = c[k]
            for earlier in range(d):
                t, its = divmod(earlier, channels)
                a += sum(w[earlier, f // channels, k] * x[f, t // W, t % W] for f in range(its, F, channels))
            h.append(1 / (1 + math.exp(-a)))
        for p in range(v.shape[2]):
            out[p * channels + channel, position // W, position % W] = b[d, 0, p] + sum(
                v[d, k, p] * h[k] for k in range(len(c))
            )
    return out


@pytest.mark.parametrize(("features", "outputs", "channels"), [(1, 1, 1), (2, 3, 1), (3, 6, 3), (4, 2, 2)])
def test_hidden_units_are_those_of_the_paper(features: int, outputs: int, channels: int):
    with double():
        net = built(NADE.Config(hidden=3), features, outputs, (2, 4), channels)
        assert isinstance(net, NADE)
        x = torch.randn(2, features, 2, 4)
        for one, o in zip(x, net(x), strict=True):
            assert np.abs(o.detach().numpy() - brute_force(net, channels, one.numpy())).max() < 1e-12


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch):
    with double():
        net, x, c = built(NADE.Config(hidden=6), 3, 6, (3, 4), 3, context=2), torch.randn(2, 3, 3, 4), torch.randn(2, 2)
        found = []
        for block in (1, 7, 100):
            monkeypatch.setattr(nade, "BLOCK", block)
            found.append(net(x, c[:, :, None, None]).detach())
        assert float(torch.stack(found).std(0).max()) < 1e-12


@pytest.mark.parametrize("context_size", [(1, 1), (2, 3)])
def test_every_output_depends_on_the_condition(context_size):
    expect_all_outputs_to_depend_on_the_condition(NADE.Config(hidden=20), context_size)


def test_of_a_map_an_output_sees_its_own_position():
    net = built(NADE.Config(hidden=5), 1, 1, (2, 3), context=2)
    c = torch.randn(1, 2, 2, 3)
    jacobian = torch.autograd.functional.jacobian(lambda c: net(torch.zeros(1, 1, 2, 3), c), c)[0, 0, :, :, 0]
    for (i, j, _, k, l), value in np.ndenumerate(jacobian.numpy()):
        assert (value != 0) == ((k, l) == (i, j))


@pytest.mark.parametrize("world", WORLDS)
def test_samples_are_those_of_full_passes(world: str):
    expect_the_samples_of_full_passes(NADE.Config(hidden=8), world)


@pytest.mark.parametrize("world", WORLDS)
def test_a_position_alone_is_as_in_a_full_pass(world: str):
    expect_positions_as_in_a_full_pass(NADE.Config(hidden=8), world)


@pytest.mark.parametrize(("likelihood", "space"), SMALL_WORLDS)
@pytest.mark.parametrize("given", [(), (LABEL,)], ids=["alone", "given a label"])
def test_probabilities_add_up_to_one(likelihood, space, given):
    expect_probabilities_to_add_up_to_one(NADE.Config(hidden=8), likelihood, space, given)


def test_a_position_takes_the_same_work_wherever_it_is():
    """A product with no more numbers than the position's own columns of W and rows of V hold."""
    net = built(NADE.Config(hidden=6), 1, 1, (4, 4))
    cache, sizes = net.start(2), []
    for i in range(4):
        for j in range(4):
            with torch.autograd.profiler.profile(record_shapes=True) as seen, torch.no_grad():
                net.step(cache, i, j)
            net.put(cache, torch.ones(2, 1), i, j)
            products = [e.input_shapes for e in seen.function_events if e.name == "aten::bmm"]
            sizes.append(sum(math.prod(shape) for shapes in products for shape in shapes))
    assert len(set(sizes[1:])) == 1


# ---- what it is made to learn, and what a belief net without hidden units can't


def learned(network: CausalNetwork.Config, p: torch.Tensor, steps: int) -> torch.Tensor:
    """log p(x) [16] of all 2x2 binary images once the network has been trained on all of them, by their frequencies."""
    world = all_events(Space((1, 2, 2), levels=2))
    assert world is not None
    with double(), seeded("learned"):
        model = Autoregressive.Config(network=network, likelihood=Bernoulli()).build(Space((1, 2, 2), levels=2))
        shake_parameters(model, scale=1.0)
        optimizer = torch.optim.Adam(model.parameters(), 0.1)
        for _ in range(steps):
            optimizer.zero_grad()
            (-p @ model.log_prob(world)).backward()
            optimizer.step()
        return model.log_prob(world).detach()


def test_hidden_units_learn_what_logistic_regressions_cannot():
    """Images of an even number of white pixels, each as likely: of entropy log 8. The last pixel is the parity of the
    others, which is in no way linear: a belief net without hidden units says log 16."""
    world = all_events(Space((1, 2, 2), levels=2))
    assert world is not None
    even = world.flatten(1).sum(1) % 2 == 0
    p = even.double() / 8
    belief_net = -float(p @ learned(MADE.Config(hidden=()), p, 150))
    with_hidden = -float(p @ learned(NADE.Config(hidden=12), p, 200))
    assert abs(belief_net - math.log(16)) < 1e-3
    assert math.log(8) < with_hidden < math.log(8) + 0.03


def test_a_belief_net_learns_logistic_regressions():
    """The truth has log-odds that are linear in the earlier pixels: it is found, and log p(x) of each image with it."""
    world = all_events(Space((1, 2, 2), levels=2))
    assert world is not None
    with double():
        x = world.flatten(1).double()
        weights = torch.tensor([[0, 0, 0, 0], [1.5, 0, 0, 0], [-1, 2, 0, 0], [0.5, -0.7, 1.2, 0]])
        odds = x @ weights.T + torch.tensor([0.3, -0.5, 0.2, -1.0])  # [16, 4]
        log_p = torch.distributions.Bernoulli(logits=odds).log_prob(x).sum(1)
        assert float((learned(MADE.Config(hidden=()), log_p.exp(), 250) - log_p).abs().max()) < 1e-3


# ---- what the user is told


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"hidden": 0}, "hidden"),
        ({"hidden": [500]}, "hidden"),
        ({"activation": "sigmod"}, "did you mean sigmoid"),
    ],
)
def test_what_the_user_is_told(wrong: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        parse(CausalNetwork.Config, {"type": "networks.nade.NADE", **wrong})

"""The worlds that causal networks are tested in, and their passes, whole and by position."""

import torch
from torch import Tensor

from lowerbound.families import Bernoulli, Categorical, LogisticMixture
from lowerbound.models.autoregressive import Autoregressive
from lowerbound.networks.base import Shape
from lowerbound.networks.causal import CausalNetwork
from lowerbound.noise import seeded
from lowerbound.space import Space
from lowerbound.testing import LABEL
from lowerbound.testing.base import all_events, condition, double, events, shake_parameters

CODES = Space((3, 4), levels=5, ordered=False)
COARSER = Space((2, 2), levels=7, ordered=False)
WORLDS = {
    "binary": (Bernoulli(), Space((1, 4, 5), levels=2), ()),
    "grey": (Categorical(), Space((1, 3, 4), levels=5), ()),
    "three channels": (Categorical(), Space((3, 3, 4), levels=4), ()),
    "three channels, with a label": (Categorical(), Space((3, 3, 4), levels=4), (LABEL,)),
    "three channels together": (LogisticMixture(components=2), Space((3, 3, 4), levels=9), ()),
    "codes with a label and a coarser grid": (Categorical(), CODES, (LABEL, COARSER)),
    "a vector": (Categorical(), Space((7,), levels=3), ()),
    "a vector with another": (Bernoulli(), Space((7,), levels=2), (Space((2,)),)),
}
SMALL_WORLDS = (
    (Bernoulli(), Space((1, 2, 2), levels=2)),
    (Categorical(), Space((3, 1, 2), levels=3)),
    (Categorical(), Space((2, 2), levels=4, ordered=False)),
    (Bernoulli(), Space((1, 1, 1), levels=2)),
)


def built(
    config: CausalNetwork.Config, features: int, outputs: int, size: Shape, channels: int = 1, context: int = 0
) -> CausalNetwork:
    with seeded("network"):
        net = config.build((features, *size), (outputs, *size), channels=channels, context=context)
    shake_parameters(net)
    return net.eval()


def model(network: CausalNetwork.Config, likelihood, space: Space, given: tuple[Space, ...] = ()) -> Autoregressive:
    config = Autoregressive.Config(network=network, likelihood=likelihood, context=5, embedding=3)
    with seeded("model"):
        its = config.build(space, given)
    shake_parameters(its)
    return its.eval()


def expect_the_samples_of_full_passes(network: CausalNetwork.Config, world: str) -> None:
    """For the same noise, in float64."""
    likelihood, space, given = WORLDS[world]
    with double():
        its = model(network, likelihood, space, given)
        y = condition(given, 6)
        with seeded("draws"):
            cached = its.sample(6, y)
        with seeded("draws"):
            naive = its.sample_naively(6, y)
    assert torch.equal(cached, naive)
    assert len(cached.flatten(1).unique(dim=0)) > 1


@torch.no_grad()
def expect_positions_as_in_a_full_pass(network: CausalNetwork.Config, world: str) -> None:
    """In float32, and stepping to a position more than once, as it is done with channels."""
    likelihood, space, given = WORLDS[world]
    its = model(network, likelihood, space, given)
    x = its._features(events(space, 5), its.grid.space, its.grid.size)
    c = its.condition(condition(given, 5))
    net, cache, h = its.network, its.network.start(5, c), []
    H, W = its.grid.size
    for i in range(H):
        for j in range(W):
            net.put(cache, torch.randn_like(x[:, :, i, j]), i, j)  # not known yet
            net.step(cache, i, j)
            net.put(cache, x[:, :, i, j], i, j)
            h.append(net.step(cache, i, j))
    assert float((net(x, c) - torch.stack(h, -1).unflatten(-1, (H, W))).abs().max()) < 1e-5


@torch.no_grad()
def expect_probabilities_to_add_up_to_one(network: CausalNetwork.Config, likelihood, space: Space, given) -> None:
    with double():
        its = model(network, likelihood, space, given)
        x = all_events(space)
        assert x is not None
        y = torch.full((len(x),), 1) if given else None
        assert abs(float(its.log_prob(x, y).exp().sum()) - 1) < 1e-10


def dependence(net: CausalNetwork, features: int, size: Shape) -> Tensor:
    """Whether an output depends on an input, at one of three points: bool [P, H, W, F, H, W]."""
    points = torch.Generator().manual_seed(0)
    x = torch.randn(3, features, *size, generator=points)  # rectifiers let nothing through at some
    jacobian = torch.autograd.functional.jacobian(lambda x: net(x).sum(0), x, vectorize=True)  # [P, H, W, 3, F, H, W]
    return (jacobian != 0).any(3)


def expect_all_outputs_to_depend_on_the_condition(config: CausalNetwork.Config, context_size: Shape) -> None:
    net = built(config, 1, 1, (2, 3), context=4)
    c = torch.randn(1, 4, *context_size)
    jacobian = torch.autograd.functional.jacobian(lambda c: net(torch.zeros(1, 1, 2, 3), c), c)
    assert bool((jacobian != 0).any((-3, -2, -1)).all())

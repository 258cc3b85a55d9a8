"""Priors over grids of codes: the transformer, the output stack, recomputation, and codes given coarser ones."""

import pytest
import torch
from torch import Tensor, nn

from causal_worlds import built, model
from lowerbound import testing
from lowerbound.config import components
from lowerbound.errors import ConfigError
from lowerbound.families import Categorical
from lowerbound.models.autoregressive import Autoregressive, Condition, _resized
from lowerbound.networks.causal import CausalNetwork
from lowerbound.networks.gated import GatedPixelCNN
from lowerbound.networks.transformer import Layer, Transformer
from lowerbound.noise import seeded
from lowerbound.space import Space
from lowerbound.testing.base import double as in_double

GATED = GatedPixelCNN.Config(width=6, layers=2, first_kernel=3, out_layers=2, out_width=6)
TRANSFORMER = Transformer.Config(width=8, layers=2, heads=2)
BOTH = pytest.mark.parametrize("network", [GATED, TRANSFORMER], ids=["gated", "transformer"])


@pytest.fixture(autouse=True)
def double():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with in_double():
        yield
    torch.set_num_threads(threads)


def test_a_layer_is_that_of_torch():
    """With the same weights, and a mask of what comes later."""
    own = Layer(Transformer.Config(width=12, heads=3, layers=5))
    its = nn.TransformerEncoderLayer(12, 3, 48, 0.0, "gelu", batch_first=True, norm_first=True)
    pairs = {"self_attn.in_proj_": own.look, "self_attn.out_proj.": own.found, "linear1.": own.inner}
    pairs |= {"linear2.": own.outer, "norm1.": own.norms[0], "norm2.": own.norms[1]}
    its.load_state_dict({name + k: v for name, part in pairs.items() for k, v in part.state_dict().items()})
    h, later = torch.randn(2, 7, 12), torch.ones(7, 7, dtype=torch.bool).triu(1)
    torch.testing.assert_close(own(h), its(h, src_mask=later))


def test_a_token_is_given_the_condition_of_the_place_it_says_something_of():
    net = built(TRANSFORMER, 1, 1, (2, 3), context=1)
    jacobian = torch.autograd.functional.jacobian(lambda c: net(torch.zeros(1, 1, 2, 3), c), torch.randn(1, 1, 2, 3))
    assert torch.equal(jacobian.reshape(6, 6) != 0, torch.ones(6, 6, dtype=torch.bool).tril())


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ConfigError, match=r"heads: expected a divisor of the width 8, got 3"):
        built(TRANSFORMER.model_copy(update={"heads": 3}), 1, 1, (2, 2))


@pytest.mark.parametrize("heads", [1, 4])
def test_transformers_of_other_sizes_pass_the_battery(heads: int):
    testing.check_causal_network(Transformer.Config(width=4, layers=1, heads=heads), (3, 1))


def test_the_output_stack_begins_from_the_network_without_it():
    """Blocks whose last layers are zero add nothing."""
    deep, plain = (built(GATED.model_copy(update={"out_layers": n}), 3, 6, (3, 4), channels=3) for n in (2, 0))
    assert isinstance(deep, GatedPixelCNN)
    x = torch.randn(2, 3, 3, 4)
    plain.load_state_dict({k: v for k, v in deep.state_dict().items() if not k.startswith("blocks.")})
    assert (deep(x) - plain(x)).abs().max().item() > 1e-3
    for block in deep.blocks:
        for p in block.last.parameters():  # pyright: ignore[reportAttributeAccessIssue]
            nn.init.zeros_(p)
    torch.testing.assert_close(deep(x), plain(x), rtol=0, atol=0)


RECOMPUTED = {
    "gated": GATED.model_copy(update={"attention": (1,), "heads": 2, "dropout": 0.3, "attention_dropout": 0.3}),
    "transformer": TRANSFORMER.model_copy(update={"dropout": 0.3}),
}


@pytest.mark.parametrize("network", RECOMPUTED.values(), ids=RECOMPUTED)
def test_recomputation_changes_no_gradient(network: CausalNetwork.Config):
    """With the same noise, dropout included; each layer runs twice, but once without a gradient or in evaluation."""
    plain, again = (gradients(network.model_copy(update={"checkpoint": checkpoint})) for checkpoint in (False, True))
    for a, b in zip(plain, again, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def gradients(config: CausalNetwork.Config) -> list[Tensor | None]:
    """The output and gradients of a training step, in which layers run as often as they should."""
    net, runs = built(config, 4, 5, (3, 4), context=2).train(), []
    inside = next(m for name, m in net.named_modules() if name in ("layers.1.link", "layers.1.inner"))
    inside.register_forward_hook(lambda *_: runs.append(1))
    with seeded("noise"):
        x, c = torch.randn(2, 4, 3, 4), torch.randn(2, 2, 3, 4)
        h = net(x, c)
        h.square().sum().backward()
    assert len(runs) == (2 if config.model_dump()["checkpoint"] else 1)
    runs.clear()
    with torch.no_grad():
        net(x, c)
    assert len(runs) == 1
    evaluated = net.eval()(x, c)
    evaluated.sum().backward(inputs=list(net.parameters())[:1])
    assert len(runs) == 2
    assert (h - evaluated).abs().max().item() > 1e-3  # there is dropout
    return [h.detach(), *(p.grad for p in list(net.parameters())[1:])]


DEEP = Space((2, 2, 1), levels=3, ordered=False)  # two codes a place
COARSER = {
    "deep and coarser": Space((2, 1, 1), levels=2, ordered=False),
    "finer": Space((3, 4), levels=2, ordered=False),
    "neither a multiple": Space((3, 1), levels=2, ordered=False),
}


@pytest.mark.parametrize("given", COARSER.values(), ids=COARSER)
@BOTH
def test_deep_codes_given_others(network: CausalNetwork.Config, given: Space):
    """Probabilities that add up to 1, samples of those frequencies, conditions that matter, …"""
    config = Autoregressive.Config(network=network, context=4, embedding=3, context_blocks=1)
    testing.check_model(config, DEEP, (given,))


@BOTH
def test_caches_draw_deep_codes_as_full_passes_do(network: CausalNetwork.Config):
    deep, given = Space((2, 4, 6), levels=5, ordered=False), (Space((3, 2, 3), levels=4, ordered=False),)
    its, y = model(network, Categorical(), deep, given), testing.condition(given, 4)
    with seeded("noise"):
        cached = its.sample(4, y)
    with seeded("noise"):
        assert torch.equal(cached, its.sample_naively(4, y))
    assert len(cached.unique()) == 5


@BOTH
def test_each_code_of_a_place_is_among_the_likeliest(network: CausalNetwork.Config):
    its = model(network, Categorical(), Space((2, 3, 3), levels=6, ordered=False))
    with seeded("noise"):
        x = its.sample(50, top_k=2)
    ranks = rank_of(its, x)
    assert ranks.max() == 1
    assert ranks.min() == 0
    assert rank_of(its, its.sample(50, top_k=1)).max() == 0


@torch.no_grad()
def rank_of(its: Autoregressive, x: Tensor) -> Tensor:
    """How many values are likelier than the one at each place, given what is before it."""
    h = its._h(x, None).reshape(len(x), *its.grid.h_shape)
    logits = its.grid.likelihood(h, its.space).logits  # pyright: ignore[reportAttributeAccessIssue]
    own = logits.gather(1, x.unsqueeze(1))
    return (logits > own).sum(1)


def test_every_code_of_a_place_reaches_the_condition():
    condition = Condition((Space((3, 2, 2), levels=4, ordered=False),), 5, (4, 4), 0)
    y = torch.zeros(1, 3, 2, 2, dtype=torch.int64)
    for depth in range(3):
        other = y.clone()
        other[0, depth, 0, 1] = 2
        changed = (condition(other) != condition(y))[0].any(0)
        assert torch.equal(changed, torch.tensor([[False, False, True, True]] * 2 + [[False] * 4] * 2))


def test_maps_of_any_size_are_resized():
    """Cells are repeated, or those that a place covers are averaged."""
    maps = torch.tensor([[[[1.0, 3.0]]]])
    assert _resized(maps, (2, 4)).tolist() == [[[[1, 1, 3, 3]] * 2]]
    assert _resized(maps, (1, 3)).tolist() == [[[[1, 2, 3]]]]
    assert _resized(maps, (1, 1)).tolist() == [[[[2]]]]
    assert _resized(maps.mT.expand(1, 1, 2, 6), (1, 2)).tolist() == [[[[2, 2]]]]


def test_a_condition_is_kept_once_however_many_layers_are_given_it():
    for layers in (1, 5):
        net = built(GATED.model_copy(update={"layers": layers}), 1, 1, (4, 4), context=7)
        assert net.start(3, torch.randn(3, 7, 4, 4)).held == 3 * 16 * (1 + 7)


def test_every_causal_network_is_found():
    assert {Transformer.Config, GatedPixelCNN.Config} <= set(components(CausalNetwork.Config))

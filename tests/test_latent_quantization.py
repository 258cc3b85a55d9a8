"""A latent whose every element takes a few learned values: QLAE."""

import numpy as np
import pytest
import torch
from torch import nn

from lowerbound import testing
from lowerbound.errors import ConfigError
from lowerbound.families import Bernoulli, Head, Quantized
from lowerbound.models.vae import VAE
from lowerbound.networks.mlp import MLP
from lowerbound.noise import seeded
from lowerbound.objectives import ELBO, CrossEntropy, Reconstruction
from lowerbound.optimization import AdamW
from lowerbound.quantizers import LQ
from lowerbound.space import Space

SMALL = MLP.Config(hidden=(8,))
IMAGE = Space((1, 2, 2), levels=2)
QLAE = VAE.Config(
    latent=(3,),
    posterior=Quantized(values=4, quantize=0.5, commit=0.25),
    encoder=SMALL,
    decoder=SMALL,
    objective=Reconstruction(error=CrossEntropy()),
)
CHECKS = ("model_loss", "model_gradients", "model_trains", "model_round_trips", "model_computes")


@pytest.mark.parametrize("check", [c for c in testing.MODEL_CHECKS if c.__name__.startswith(CHECKS)])
def test_a_model(check):
    check(testing.ModelCase.of(QLAE, IMAGE))


def test_its_training():
    testing.check_training(QLAE, IMAGE)


def shaken() -> LQ:
    lq = LQ.Config(dim=3, values=4, quantize=0.5, commit=0.25).build()
    with torch.no_grad(), seeded("values"):
        lq.values.add_(0.2 * torch.randn_like(lq.values))
    return lq


def test_values_begin_evenly_spaced_for_every_element():
    assert torch.equal(LQ.Config(dim=2, values=5).build().book.detach(), torch.linspace(-0.5, 0.5, 5).expand(2, 5))


def test_every_element_is_put_on_the_nearest_of_its_own_values():
    lq, h = shaken(), torch.randn(50, 3, 1, 1)
    z, codes, loss = lq(h)
    book, x = lq.book.detach().numpy(), h[:, :, 0, 0].numpy()
    wanted = np.abs(x[:, :, None] - book[None]).argmin(2)
    assert np.array_equal(codes[:, :, 0, 0], wanted)
    nearest = np.take_along_axis(book[None].repeat(50, 0), wanted[:, :, None], 2)[:, :, 0]
    assert np.array_equal(z[:, :, 0, 0], nearest)
    assert np.allclose(loss.detach(), 0.75 * ((x - nearest) ** 2).mean(1), atol=1e-6)
    assert torch.equal(lq.encode(lq.decode(codes)), codes)  # a value is its own nearest


def test_gradients_go_straight_through_and_each_loss_moves_its_side():
    lq, h = shaken(), torch.randn(7, 3, 1, 1, requires_grad=True)
    weight = torch.randn(7, 3, 1, 1)
    z, _, _ = lq(h)
    (through,) = torch.autograd.grad((z * weight).sum(), h)
    assert torch.equal(through, weight)
    z, _, loss = lq(h)
    to_h, to_values = torch.autograd.grad(loss.sum(), [h, lq.values])
    difference = (h - z).detach()
    assert torch.allclose(to_h, 2 * 0.25 * difference / 3)  # the commitment, of 3 elements
    chosen = nn.functional.one_hot(lq.encode(h), 4)  # [7, 3, 1, 1, 4]
    wanted = -(2 * 0.5 / 3) * (difference[..., None] * chosen).sum((0, 2, 3))
    assert torch.allclose(to_values.view(3, 4), wanted, atol=1e-6)
    with pytest.raises(RuntimeError, match="unused"):  # the decoder moves the encoder alone
        torch.autograd.grad(lq(h).z.sum(), lq.values)


def test_an_autoencoder_adds_what_quantizing_costs():
    model = QLAE.build(IMAGE)
    x = torch.randint(0, 2, (16, 1, 2, 2), dtype=torch.uint8)
    loss = model.loss(x)
    head: Head = model.posterior_head
    assert isinstance(head.network, LQ)
    h = model.encoder(model.seen(x))
    z, _, cost = head.network(h[:, :, None, None])
    logits = model.decoder(z[:, :, 0, 0])
    error = nn.functional.binary_cross_entropy_with_logits(logits, x.float(), reduction="none").flatten(1).sum(1)
    assert torch.allclose(loss.terms["error"], error.detach(), atol=1e-5)
    assert torch.allclose(loss.terms["quantization"], 4 * cost.detach(), atol=1e-6)  # times the pixels
    assert torch.allclose(loss.value, (error + 4 * cost).mean())
    assert model.features(x).unique().numel() <= 3 * 4
    assert isinstance(model.config.likelihood, Bernoulli)


def test_values_move_in_training():
    with seeded("moving"):
        model, x = QLAE.build(IMAGE).train(), torch.randint(0, 2, (16, 1, 2, 2), dtype=torch.uint8)
        lq = model.posterior_head.network
        assert isinstance(lq, LQ)
        before = lq.values.detach().clone()
        optimizer = AdamW(lr=0.01, weight_decay=0.1, decay_vectors=False).build(model.parameters())
        for _ in range(100):
            model.zero_grad()
            model.loss(x).value.backward()
            optimizer.step()
    assert (lq.values - before).abs().max() > 0.05


def test_vectors_are_spared_by_weight_decay():
    layer = nn.Linear(3, 2)
    weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    for decays, factor in ((False, 1.0), (True, 0.95)):
        with torch.no_grad():
            layer.weight.copy_(weight)
            layer.bias.copy_(bias)
        optimizer = AdamW(lr=0.5, weight_decay=0.1, decay_vectors=decays).build(layer.parameters())
        for p in layer.parameters():
            p.grad = torch.zeros_like(p)
        optimizer.step()
        assert torch.allclose(layer.weight, 0.95 * weight)
        assert torch.allclose(layer.bias, factor * bias)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"objective": ELBO()}, r"objectives\.ELBO takes a posterior with a density, and families\.Quantized has none"),
        ({"latent": (2, 1, 1)}, r"families\.Quantized is over vectors of real numbers, and these events are of shape"),
        ({"latent_levels": 3}, r"model\.posterior: z takes 3 values, got families\.Quantized"),
    ],
)
def test_what_is_refused(changes: dict, told: str):
    with pytest.raises(ConfigError, match=told):
        QLAE.model_copy(update=changes).build(IMAGE)

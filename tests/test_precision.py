"""Training in half precision: what is rounded and what is not, and that nothing else changes."""

from pathlib import Path

import pytest
import torch
from torch import nn

from command import call, right
from lowerbound import devices
from lowerbound.devices import reduced
from lowerbound.families import DiscretizedNormal
from lowerbound.models.vqvae import VQVAE, Level
from lowerbound.networks.gated import GatedPixelCNN
from lowerbound.networks.strided import Conv, ConvTranspose
from lowerbound.noise import seeded
from lowerbound.quantizers import VQ
from lowerbound.runs.run import Run
from lowerbound.space import Space
from lowerbound.training.loop import Loop
from lowerbound.training.validation import Validation
from test_train import tensors

pytestmark = pytest.mark.usefixtures("surroundings")

TRAIN = ["train", "vqvae2-digits", "--out", "run", "train.steps=12", "train.stages.prior.steps=12", "--device", "cpu"]


@pytest.fixture(autouse=True)
def has_bfloat16(monkeypatch: pytest.MonkeyPatch):
    """These are small enough for any processor."""
    monkeypatch.setattr(devices, "_processor_has_bfloat16", lambda: True)


def vqvae(**more) -> VQVAE:
    levels = tuple(Level(factor=f, quantizer=VQ.Config(codes=8, dim=4)) for f in (4, 2))
    config = VQVAE.Config(levels=levels, width=8, inner=4, likelihood=DiscretizedNormal(), **more)
    with seeded("vqvae"):
        return config.build(Space((3, 8, 8), levels=256))


def test_products_are_rounded_and_nothing_else_is():
    model, seen = vqvae().train(), {}
    for name, module in model.named_modules():
        if not list(module.children()) or name.startswith("quantizers."):
            module.register_forward_hook(lambda m, x, y, name=name: seen.update({name: (x[0].dtype, y)}))
    x = torch.randint(256, (4, 3, 8, 8), dtype=torch.uint8)
    with reduced("bfloat16"):
        loss = model.loss(x)
    kinds = {name: y.dtype for name, (_, y) in seen.items() if isinstance(y, torch.Tensor)}
    convolutions = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d)]
    inside = [n for n in convolutions if n.startswith(("encoders", "decoder", "between", "project"))]
    assert len(inside) > 10
    assert {kinds[n] for n in inside} == {torch.bfloat16}
    for l in range(2):
        taken, quantized = seen[f"quantizers.{l}"]
        assert taken == quantized.z.dtype == quantized.loss.dtype == torch.float32
        assert model.quantizers[l].total.dtype == torch.float32
    assert loss.value.dtype == torch.float32
    loss.value.backward()
    assert {p.grad.dtype for p in model.parameters() if p.grad is not None} == {torch.float32}


def test_float32_is_as_without():
    model = vqvae().eval()
    x = torch.randint(256, (4, 3, 8, 8), dtype=torch.uint8)
    with reduced("float32"):
        inside = model.loss(x).value
    assert torch.equal(inside, model.loss(x).value)
    with reduced("bfloat16"), reduced("float32"):
        assert torch.equal(inside, model.loss(x).value)


def test_what_is_computed_again_is_rounded_again():
    """Checkpointing: the gradients are the same numbers."""
    network = GatedPixelCNN.Config(width=8, layers=2).build((1, 4, 4), (2, 4, 4))
    again = GatedPixelCNN.Config(width=8, layers=2, checkpoint=True).build((1, 4, 4), (2, 4, 4))
    again.load_state_dict(network.state_dict())
    x, found = torch.randn(3, 1, 4, 4), []
    for net in (network.train(), again.train()):
        with reduced("bfloat16"):
            out = net(x)
        out.square().sum().backward()
        found.append([p.grad for p in net.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.slow  # processors emulate half precision: 10 s
def test_a_training_is_resumed_exactly_and_measured_in_float32(here: Path, monkeypatch: pytest.MonkeyPatch):
    half = [*TRAIN, "train.precision=bfloat16"]
    right(*half)
    whole = tensors(here / "run/model.safetensors")
    assert {t.dtype for t in whole.values() if t.is_floating_point()} == {torch.float32}
    assert Run.open(here / "run").recipe.train.precision == "bfloat16"

    measured, score = [], Validation.score

    def watched(validation: Validation) -> float:
        hook = nn.modules.module.register_module_forward_hook(
            lambda m, x, y: measured.append(y.dtype) if isinstance(m, nn.Conv2d | nn.Linear) else None
        )
        try:
            return score(validation)
        finally:
            hook.remove()

    monkeypatch.setattr(Validation, "score", watched)
    step, died = Loop._step, []

    def dying(loop: Loop):
        if loop.step == 7 and loop.stage.name not in died:
            died.append(loop.stage.name)
            loop._save()
            raise KeyboardInterrupt
        return step(loop)

    monkeypatch.setattr(Loop, "_step", dying)
    assert call(*half, "--overwrite").status == 130
    for _ in range(2):
        assert call(*half, "--resume").status == 130
    right(*half, "--resume")
    assert len(died) == 3
    again = tensors(here / "run/model.safetensors")
    assert not [k for k in whole if not torch.equal(whole[k], again[k])]
    assert set(measured) == {torch.float32}

    right(*TRAIN, "--overwrite")
    single = tensors(here / "run/model.safetensors")
    assert any(not torch.equal(whole[k], single[k]) for k in whole), "half precision changed nothing"


def test_one_stage_alone(here: Path):
    right(*TRAIN, "train.stages.prior.precision=bfloat16")
    train = Run.open(here / "run").recipe.train
    assert [train.of(s).precision for s in ("autoencoder", "prior.top", "prior.bottom")] == [
        "float32",
        "bfloat16",
        "bfloat16",
    ]


def test_a_precision_that_is_not(here: Path):
    done = call(*TRAIN, "train.precision=float16")
    assert done.status == 2
    assert "train.precision" in done.err
    assert "bfloat16" in done.err
    assert not (here / "run").exists()


@pytest.mark.parametrize("dry", [False, True])
def test_a_processor_without(here: Path, monkeypatch: pytest.MonkeyPatch, dry: bool):
    monkeypatch.setattr(devices, "_processor_has_bfloat16", lambda: False)
    done = call(*TRAIN, "train.stages.prior.top.precision=bfloat16", *(["--dry-run"] if dry else []))
    assert done.status == 2
    assert "no instructions" in done.err
    assert not (here / "run").exists()


def test_channels_that_are_filled_up_change_nothing(monkeypatch: pytest.MonkeyPatch):
    x, h = torch.randn(2, 3, 8, 8), torch.randn(2, 6, 4, 4)
    for layer, given in ((Conv(3, 8, 4, stride=2, padding=1), x), (ConvTranspose(6, 3, 4, stride=2, padding=1), h)):
        plain = layer(given)
        gradients = torch.autograd.grad(plain.square().sum(), [*layer.parameters()])
        with monkeypatch.context() as m:
            m.setattr("lowerbound.networks.strided._missing", lambda _, channels: -channels % 8)
            filled = layer(given)
        torch.testing.assert_close(filled, plain)
        torch.testing.assert_close(torch.autograd.grad(filled.square().sum(), [*layer.parameters()]), gradients)

"""Whatever the images are, they come back: of any size and kind, by any scheme, one or ten thousand."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import lowerbound as lb
from lowerbound.codec import archive
from lowerbound.codec.archive import Archive
from lowerbound.codec.container import Container
from lowerbound.codec.tiles import Layout, Tiles
from lowerbound.data.base import Data
from lowerbound.families import LogisticMixture
from lowerbound.model import Model
from lowerbound.models.autoregressive import Autoregressive
from lowerbound.models.vae import VAE
from lowerbound.networks.made import MADE
from lowerbound.networks.mlp import MLP
from lowerbound.noise import seeded
from lowerbound.space import Space
from lowerbound.testing import shake_parameters

REAL = os.environ.get("LOWERBOUND_DATA")
pytestmark = pytest.mark.usefixtures("surroundings")

SMALL, SHAPE = MLP.Config(hidden=(8,)), (1, 8, 8)
KINDS = {"noise": 256, "constant": 1, "two levels": 2, "16 levels": 16, "ramp": None}


def built(config: Model.Config, space: Space) -> Model:
    with seeded("truths"):
        model = config.build(space)
    shake_parameters(model, "truths", scale=0.3)
    return model.eval()


VALUES = built(Autoregressive.Config(network=MADE.Config(hidden=(8,))), Space(SHAPE, levels=256))
MIXED = LogisticMixture(components=2)
LATENTS = built(VAE.Config(latent=(2,), encoder=SMALL, decoder=SMALL, likelihood=MIXED), Space(SHAPE, levels=256))


def image(kind: str, h: int, w: int, seed: int) -> np.ndarray:
    """uint8 [1, h, w]."""
    rng, values = np.random.default_rng(seed), KINDS[kind]
    if values is None:
        return (np.arange(h * w) % 256).astype(np.uint8).reshape(1, h, w)
    return rng.choice(rng.integers(0, 256, values), (1, h, w)).astype(np.uint8)


def come_back(folder: Path, model: Model, images: list[np.ndarray], **how) -> archive.Written:
    layout = Layout([x.shape[1:] for x in images], SHAPE)  # pyright: ignore[reportArgumentType]
    written = archive.write(folder / "a.lb", model, Tiles(layout, lambda i: images[i]), {}, verify=False, **how)
    with Container(folder / "a.lb") as container:
        archived = Archive(container, model)
        for i, x in enumerate(images):
            part = layout.tiles(i)
            assert np.array_equal(layout.joined(i, archived[part.start : part.stop]), x)
    return written


SIZES = st.sampled_from([(1, 1), (1, 30), (30, 1), (8, 8), (13, 21)])


@pytest.mark.parametrize("model", [VALUES, LATENTS], ids=["values", "latents"])
@given(st.lists(st.tuples(st.sampled_from([*KINDS]), SIZES, st.integers(0, 99)), min_size=1, max_size=4), st.booleans())
@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_images_of_every_kind_and_size_come_back(tmp_path: Path, model: Model, wanted: list, float32: bool):
    come_back(tmp_path, model, [image(kind, *size, seed) for kind, size, seed in wanted], float32=float32)


def test_a_huge_image_comes_back(tmp_path: Path):
    come_back(tmp_path, LATENTS, [image("noise", 250, 333, 0), image("constant", 1, 1, 0)])


@pytest.mark.slow
def test_ten_thousand_images_come_back(tmp_path: Path):
    """In blocks, several of them, and the file takes what its messages do and 8 bytes a block."""
    images = [image([*KINDS][i % len(KINDS)], 8, 8, i) for i in range(10_000)]
    written = come_back(tmp_path, LATENTS, images)
    assert written.n == 10_000
    assert written.framing == 8 * (56 + 8 * written.blocks)


@pytest.mark.slow  # a minute of one core, and needs the published files
def test_all_test_images_of_mnist_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """28x28, by a trained model, written on one thread, block by block read on two."""
    if REAL is None:
        pytest.skip("LOWERBOUND_DATA is not set")
    monkeypatch.setenv("LOWERBOUND_DATA", REAL)
    x, model = Data(source="mnist-binarized").open("test").x, lb.load("pretrained:vae-mnist")
    archive.write(tmp_path / "a.lb", model, x, {}, verify=False)
    torch.set_num_threads(2)
    try:
        with Container(tmp_path / "a.lb") as container:
            archived = Archive(container, model)
            assert len(archived) == len(x) == 10_000
            for start in range(0, 10_000, 1000):
                assert np.array_equal(archived[start : start + 1000], x[start : start + 1000])
    finally:
        torch.set_num_threads(1)

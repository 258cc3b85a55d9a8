"""Runs made by the version before the package was recut load, evaluate, sample and resume, and say what they said.

`old_runs/` holds a VAE, a VQ-VAE-2 given labels and a classifier, of digits and a few hundred steps, and expected.json
what that version measured and drew of them, before and after it had resumed them itself.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import lowerbound as lb
from command import right

pytestmark = pytest.mark.usefixtures("surroundings", "here")

OLD = Path(__file__).parent / "old_runs"
EXPECTED = json.loads((OLD / "expected.json").read_text())
NETWORK = '{"type":"networks.gated.GatedPixelCNN","width":8,"layers":2,"first_kernel":3,"out_width":8,"dropout":0.2}'
BEGUN = {  # how each was trained, but for what is longer now
    "vae": [*(f"model.{part}.hidden=[32,32]" for part in ("encoder", "decoder")), "model.latent=4"],
    "vqvae2-digits": [
        *("model.width=16", "model.inner=8"),
        *(f"model.levels.{l}.quantizer.{key}" for l in (0, 1) for key in ("dim=4", "codes=8")),
        *(f"model.priors.{l}.{key}=8" for l in (0, 1) for key in ("embedding", "context")),
        *(f"model.priors.{l}.network={NETWORK}" for l in (0, 1)),
        "train.steps=150",
    ],
    "classifier": ["model.encoder.widths=[8,8]", "model.latent=8"],
}
LONGER = {
    "vae": ["train.steps=260", "train.valid_every=100"],
    "vqvae2-digits": ["train.stages.prior.steps=100"],
    "classifier": ["train.epochs=3"],
}
CORRECTED = ("unigram_bits",)  # for its bias, since


@pytest.fixture(params=BEGUN)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def run(name: str, here: Path) -> Path:
    return Path(shutil.copytree(OLD / name, here / name))


def measured(run: Path) -> dict[str, float | None]:
    metrics = right("evaluate", run, "--draws", "20", "--json").json["metrics"]
    return {name: m["value"] for name, m in metrics.items()}


def close(found: dict[str, float | None], expected: dict[str, float | None]) -> None:
    """Sums may be taken in another order on another machine."""
    assert found.keys() >= expected.keys()
    for key, value in expected.items():
        if not key.startswith(CORRECTED):
            assert found[key] == (None if value is None else pytest.approx(value, rel=1e-3, abs=1e-3)), key


def test_evaluate(run: Path, name: str):
    close(measured(run), EXPECTED[name]["evaluation"])


@pytest.mark.parametrize("name", [name for name, e in EXPECTED.items() if "samples" in e], indirect=True)
def test_sample(run: Path, name: str):
    drawn = lb.sample(run, 8, seed=3, device="cpu")
    x = drawn.x.reshape(8, -1).astype(int)
    assert np.abs(x - EXPECTED[name]["samples"]).mean() < 0.1  # a value at an edge of two may fall to the other side
    assert (None if drawn.y is None else drawn.y.tolist()) == EXPECTED[name]["labels"]


def test_resume(run: Path, name: str):
    """Exactly: to the weights that the former version would have come to, for it is the same arithmetic."""
    right("train", name, "--data", "digits", "--out", run, "--resume", *BEGUN[name], *LONGER[name])
    close(measured(run), EXPECTED[name]["resumed"])


def test_load(run: Path):
    model = lb.load(run)
    assert not model.training
    assert all(torch.isfinite(t).all() for t in model.state_dict().values() if t.is_floating_point())

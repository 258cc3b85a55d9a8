"""A diffusion model on the command line, from the recipe to pictures."""

from pathlib import Path

import numpy as np
import pytest

import lowerbound as lb
from command import call, right
from lowerbound.pictures import save_png

pytestmark = pytest.mark.usefixtures("surroundings", "here")
SMALL = [
    "model.network.widths=[4]",
    "model.context=8",
    "model.sampler.steps=4",
    "train.steps=20",
    "train.valid_every=20",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, surroundings: None) -> Path:
    path = tmp_path_factory.mktemp("diffusion") / "run"
    label = ["data.label=true", "model.unconditional=0.1"]
    right("train", "diffusion-digits", "--out", str(path), *SMALL, *label)
    return path


def test_a_run_is_measured_scored_and_compared(run: Path):
    metrics = lb.evaluate(run, limit=10)["metrics"]
    assert metrics["bits_per_dim"]["relation"] == "<="
    assert metrics["bits_per_dim"]["draws"] == 20
    terms = sum(metrics[f"{name}_term"]["value"] for name in ("prior", "reconstruction", "diffusion"))
    assert terms == pytest.approx(metrics["bits_per_dim"]["value"], rel=1e-4)
    assert lb.evaluate(run, limit=10, draws=3)["metrics"]["nll"]["draws"] == 3
    right("score", str(run), "digits", "--split", "valid", "--draws", "1", "--out", "scores.csv")
    assert len(Path("scores.csv").read_text().splitlines()) == 150
    right("compare", str(run), "--limit", "10", "--draws", "2", "--samples", "4")
    right("doctor", str(run))


def test_samples_changed_and_completed_images(run: Path):
    right("sample", str(run), "-n", "4", "--label", "3", "--guidance", "2", "--sampler", "heun", "--out", "x.npz")
    assert np.load("x.npz")["x"].shape == (4, 8, 8, 1)
    save_png(np.random.default_rng(0).integers(0, 255, (8, 8), dtype=np.uint8), Path("a.png"))
    right("complete", str(run), "a.png", "--keep", "rows:4", "-n", "2", "--label", "3", "--out", "c.png")
    right("edit", str(run), "a.png", "--strength", "0.5", "--label", "5", "--out", "e.png")
    for words, message in {
        ("sample", str(run), "-n", "2", "--sampler", "ddmi"): "did you mean ddim",
        ("sample", str(run), "-n", "2", "--steps", "0"): "--steps 0: expected a whole number of at least 1",
        ("complete", str(run), "a.png"): "give --label",
        ("edit", str(run), "a.png", "--strength", "0.5", "--set", "0=1"): "--set: changes a code",
        ("edit", str(run), "a.png", "--strength", "7"): "--strength 7: expected a time from 0",
    }.items():
        status, _, error = call(*words, "--out", "y.png")
        assert status == 2, words
        assert message in error

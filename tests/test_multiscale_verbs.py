"""A flow of images on the command line: codes that give back their images exactly, and what is done to them."""

from pathlib import Path

import numpy as np
import pytest
import torch

import lowerbound as lb
from command import call, right
from lowerbound.pictures import save_png

pytestmark = pytest.mark.usefixtures("surroundings", "here")
SMALL = ["model.steps=2", "model.width=6", "model.context=4", "train.steps=30", "train.valid_every=30"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, surroundings: None) -> Path:
    path = tmp_path_factory.mktemp("flow") / "run"
    right("train", "flow-digits", "--out", str(path), *SMALL, "data.label=true")
    return path


@pytest.fixture
def digits(here: Path) -> list[str]:
    """Two image files."""
    x = np.random.default_rng(0).integers(0, 255, (2, 8, 8), dtype=np.uint8)
    for name, image in zip("ab", x, strict=True):
        save_png(image, Path(f"{name}.png"))
    return ["a.png", "b.png"]


def test_a_run_is_measured_compared_and_looked_at(run: Path):
    metrics = lb.evaluate(run, limit=20, draws=8)["metrics"]
    assert metrics["bits_per_dim"]["relation"] == "<="
    assert metrics["bits_per_dim"]["draws"] == 8
    assert metrics["nll"]["given"] == "label"
    assert metrics["nll"]["value"] < lb.evaluate(run, limit=20, draws=1)["metrics"]["nll"]["value"]  # weighted
    right("score", str(run), "digits", "--split", "valid", "--draws", "1", "--out", "scores.csv")
    (entry,) = lb.compare([run], limit=10, draws=2, samples=4)["runs"]
    assert entry["code"] == {"shapes": [[1, 8, 8]], "dims": 64}
    assert entry["answers"] == ["density", "samples", "code", "edit"]
    right("doctor", str(run))


def test_images_come_back_from_their_codes_exactly(run: Path, digits: list[str]):
    made = lb.reconstruct(run, digits, label="3")
    np.testing.assert_array_equal(made.r, made.x)
    right("encode", str(run), "--split", "valid", "--out", "z.npz")
    codes, model = np.load("z.npz"), lb.load(run)
    back = model.from_noise(torch.from_numpy(codes["z"]).view(-1, 1, 8, 8), torch.from_numpy(codes["label"]))
    assert codes["z"].shape == (len(codes["label"]), 64)
    again = model.to_noise(back.to(torch.uint8), torch.from_numpy(codes["label"]))
    np.testing.assert_allclose(again.flatten(1), codes["z"], rtol=1e-4, atol=1e-4)


def test_between_images_and_edits(run: Path, digits: list[str]):
    between = lb.interpolate(run, digits, label="3", steps=5)
    assert between.sphere
    ends = lb.reconstruct(run, digits, label="3").x
    np.testing.assert_array_equal(between.frames[[0, 4]], ends)
    same = lb.edit(run, digits, label="3", own_label="3")
    np.testing.assert_array_equal(same.x[:, 0], ends)
    other = lb.edit(run, digits, label="5", own_label="3", direction={})
    assert (other.x[:, 0] != ends).any()
    z = lb.load(run).to_noise(torch.as_tensor(ends), torch.tensor([3, 3]))
    z.view(2, -1)[:, 7] = 2.5
    expected = lb.load(run).from_noise(z, torch.tensor([3, 3]))
    np.testing.assert_array_equal(lb.edit(run, digits, set={7: 2.5}, own_label="3").x[:, 0], expected)


def test_a_direction_is_learnt_of_codes_and_gone_along(run: Path, digits: list[str]):
    report = right("direction", str(run), "one", "--label", "1", "--json").json
    assert report["auroc"]["value"] > 0.6
    model = lb.load(run)
    x = torch.as_tensor(lb.reconstruct(run, digits, label="3").x)
    moved = model.edit(x, {"one": 1.0}, torch.tensor([3, 3]))
    np.testing.assert_array_equal(lb.edit(run, digits, direction={"one": 1.0}, own_label="3").x[:, 0], moved)
    there = model.to_noise(x, torch.tensor([3, 3])).flatten(1) + model.directions["one"].step.float()
    np.testing.assert_array_equal(moved, model.from_noise(there.view(-1, 1, 8, 8), torch.tensor([3, 3])))


def test_samples_and_what_a_flow_does_not_do(run: Path, digits: list[str]):
    right("sample", str(run), "-n", "4", "--label", "3", "--temperature", "0.7", "--out", "x.npz")
    assert np.load("x.npz")["x"].shape == (4, 8, 8, 1)
    for words, message in {
        ("complete", str(run), "a.png", "--keep", "rows:4", "--out", "c.png"): "an integral over the rest",
        ("traverse", str(run), "--out", "t.png"): "has no latent code of few numbers",
        ("encode", str(run), "--scale", "--out", "z.npz"): "--scale: a flow takes an image to one point",
        ("edit", str(run), "a.png", "--set", "64=1", "--out", "e.png"): "expected a dimension from 0 to 63",
        ("edit", str(run), "a.png", "--set", "1=1", "--from", "sample", "--out", "e.png"): "draws none; leave it out",
        ("edit", str(run), "a.png", "--strength", "0.5", "--out", "e.png"): "takes no noise away",
        ("sample", str(run), "--top-k", "3", "--out", "s.png"): "does not draw values from a probability of each",
        ("train", "flow-digits", "model.scales=4", "--out", "no"): "images of 8x8 can be halved 3 times",
    }.items():
        status, _, error = call(*words)
        assert (status, message in error) == (2, True), (words, error)

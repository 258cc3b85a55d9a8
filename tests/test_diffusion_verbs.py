"""A diffusion model on the command line, from the recipe to pictures."""

from pathlib import Path

import numpy as np
import pytest
import torch

import lowerbound as lb
from command import call, right
from lowerbound.pictures import save_png
from lowerbound.runs.inputs import as_batches, open_data
from lowerbound.runs.run import Run

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


def test_the_bound_of_finite_steps_is_told_by_level(run: Path):
    """z1's is a closed form, and so the same number as the first of the three terms; all have the mean of the bound."""
    right("train", "diffusion-digits", "--out", "steps", *SMALL, "model.steps=3", "model.sampler.steps=3")
    found = lb.evaluate("steps", limit=50, metrics=["level", "prior_term", "nll", "bits_per_dim"])["metrics"]
    levels = {name: m["value"] for name, m in found.items() if name.startswith("level.")}
    assert [*levels] == ["level.z1", "level.z2", "level.z3", "level.z4", "level.x"]
    assert levels["level.z1"] == pytest.approx(found["prior_term"]["value"], rel=1e-5)
    assert levels["level.x"] > 0
    error = 4 * sum(found[name]["stderr"] for name in ("bits_per_dim", *levels))
    assert sum(levels.values()) == pytest.approx(found["bits_per_dim"]["value"], abs=error)
    status, _, error = call("evaluate", str(run), "--metrics", "level")
    assert (status, "continuous time has no levels" in error) == (2, True)


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


def test_images_go_along_the_flow_to_codes_and_back_and_between_one_another(run: Path):
    x = np.random.default_rng(0).integers(0, 255, (2, 8, 8), dtype=np.uint8)
    for name, image in zip("ab", x, strict=True):
        save_png(image, Path(f"{name}.png"))
    right("encode", str(run), "--split", "valid", "--out", "z.npz")
    codes = np.load("z.npz")
    model, opened = lb.load(run), Run.open(run)
    batch = next(as_batches(opened, open_data(opened, "valid"), torch.device("cpu")).in_order(5))
    z = model.to_noise(batch.x, batch.y)
    np.testing.assert_allclose(codes["z"][:5], z.flatten(1), rtol=1e-3, atol=1e-4)
    there = lb.reconstruct(run, ["a.png", "b.png"], label="3")
    back = model.from_noise(model.to_noise(torch.as_tensor(there.x), torch.tensor([3, 3])), torch.tensor([3, 3]))
    np.testing.assert_allclose(there.r, back, rtol=1e-3, atol=1e-2)
    between = lb.interpolate(run, ["a.png", "b.png"], label="3", steps=3)
    assert between.sphere
    np.testing.assert_allclose(between.frames[[0, 2]], there.r, rtol=1e-3, atol=1e-2)
    for words, message in {
        ("encode", str(run), "--scale", "--out", "z.npz"): "--scale: a flow takes an image to one point",
        ("reconstruct", str(run), "a.png", "--label", "3", "--levels", "z1"): "continuous time has no levels",
        ("traverse", str(run), "--out", "t.png"): "has no latent code",
    }.items():
        status, _, error = call(*words)
        assert (status, message in error) == (2, True), error


def test_of_so_many_steps_it_is_a_hierarchy(tmp_path: Path):
    right("train", "diffusion-digits", "--out", "four", *SMALL, "model.steps=4")
    save_png(np.zeros((8, 8), dtype=np.uint8), Path("a.png"))
    found = lb.reconstruct("four", ["a.png"], levels=["z1", "z2"])
    expected = lb.load("four").hierarchy().reconstruct(torch.as_tensor(found.x), levels=["z1", "z2"]).detach()
    np.testing.assert_allclose(found.r, expected, rtol=1e-3, atol=1e-2)
    status, _, error = call("reconstruct", "four", "a.png", "--levels", "z9")
    assert (status, "no level 'z9'; known: z1, z2, z3, z4, z5" in error) == (2, True), error


def test_ends_of_the_noise_that_cost_bits_are_named():
    ends = ["model.schedule.gamma_min=-2", "model.schedule.gamma_max=1"]
    right("train", "diffusion-digits", "--out", "ends", *SMALL, *ends)
    report = lb.doctor("ends")
    found = {finding["name"]: finding for finding in report["findings"]}
    terms = {c["name"]: c["value"] for c in report["checked"]}
    assert "model.schedule.gamma_min" in found["noise.first"]["remedy"]
    assert "model.schedule.gamma_max" in found["noise.last"]["remedy"]
    measured = lb.evaluate("ends", split="valid", metrics=["reconstruction_term", "prior_term"])["metrics"]
    assert terms["noise.first"] == pytest.approx(measured["reconstruction_term"]["value"], rel=0.1)
    assert terms["noise.last"] == pytest.approx(measured["prior_term"]["value"], rel=0.1)

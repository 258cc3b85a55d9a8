"""A hierarchical VAE by the command."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import lowerbound as lb
from command import call, right


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("hierarchical") / "run"
    scales = '[{"factor":8,"latent":4},{"factor":2,"levels":2,"latent":2}]'
    options = f"train.steps=60 model.width=8 model.inner=4 model.scales={scales}".split()
    right("train", "hvae-mnist", "--data", "digits", "--out", str(out), *options)
    return out


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "digit.png"
    Image.fromarray((np.random.default_rng(0).random((8, 8)) * 255).astype(np.uint8)).save(path)
    return path


def test_reports_have_the_kl_of_each_level(run: Path):
    metrics = right("evaluate", str(run), "--draws", "5", "--json").json["metrics"]
    levels = [metrics[f"kl.z{l}"]["value"] for l in (1, 2, 3)]
    assert sum(levels) == pytest.approx(metrics["kl"]["value"])
    assert metrics["nll"]["relation"] == "<="
    logged = (run / "log.jsonl").read_text()
    assert '"kl.z3"' in logged


def test_levels_are_tempered_kept_and_shown_by_name(run: Path, photo: Path, tmp_path: Path):
    file = tmp_path / "a.npz"
    right("sample", str(run), "-n", "3", "--temperature", "z1=0,z2=0.5", "--seed", "1", "--out", str(file))
    drawn = np.load(file)
    assert drawn["z1"].shape == (3, 4, 1, 1)
    assert np.allclose(drawn["z1"][0], drawn["z1"][1])
    assert not np.allclose(drawn["z3"][0], drawn["z3"][1])
    out = tmp_path / "b.npz"
    done = right("sample", str(run), "--from", str(photo), "--keep-level", "z2", "-n", "3", "--out", str(out), "--json")
    assert done.json["keep_level"] == "z1,z2"
    kept = np.load(out)
    assert np.allclose(kept["z2"][0], kept["z2"][1])
    assert not np.allclose(kept["z3"][0], kept["z3"][1])
    right("reconstruct", str(run), str(photo), "--levels", "z1,z2", "--out", str(tmp_path / "r.png"))
    said = call("sample", run, "--temperature", "z9=1", "--out", tmp_path / "c.png").err
    assert "no level 'z9'" in said
    said = call("sample", run, "--from", photo, "--keep-level", "z3", "--out", tmp_path / "c.png").err
    assert "keeps every level of this model" in said


def test_means_of_black_and_white_pixels_are_grey(run: Path, photo: Path):
    drawn, model = lb.sample(run, 3, mean=True, seed=1, device="cpu"), lb.load(run, device="cpu")
    assert (model.space.levels, drawn.levels) == (2, 256)
    z = tuple(torch.from_numpy(drawn.codes[name]) for name in model.levels)
    means = model.render(z, mean=True).detach().numpy()
    assert np.abs(drawn.x - 255 * means).max() <= 0.5 + 1e-3
    again = lb.sample(run, images=[photo], keep_level="z2", n=2, mean=True, device="cpu")
    assert (again.levels, again.x_levels) == (2, 256)
    before, after = again.table().x[0, 0], again.table().x[0, 2:]
    assert {*np.unique(before)} == {0, 255}
    assert np.array_equal(after, again.x[0])
    assert lb.sample(run, 3, seed=1, device="cpu").levels == 2


def test_levels_are_edited_and_gone_between_as_one_vector(run: Path, photo: Path, tmp_path: Path):
    model, other = lb.load(run), tmp_path / "other.png"
    Image.fromarray(np.eye(8, dtype=np.uint8) * 255).save(other)
    there = lb.reconstruct(run, [photo, other])
    z = model.encode(torch.as_tensor(there.x))
    changed = z[0].mean.clone()
    changed[:, 1] = 3.0
    with torch.no_grad():
        expected = model.decode((changed, z[1].mean, z[2].mean)).mean
    edited = lb.edit(run, [photo, other], set={1: 3.0})
    np.testing.assert_allclose(edited.x[:, 0], expected, rtol=1e-4, atol=1e-4)
    assert not np.allclose(edited.x[:, 0], there.r, atol=1e-3)
    drawn = [lb.edit(run, [photo], set={1: 3.0}, code="sample", seed=seed).x for seed in (0, 0, 1)]
    assert np.array_equal(drawn[0], drawn[1])
    assert not np.allclose(drawn[0], drawn[2])
    between = lb.interpolate(run, [photo, other], steps=3)
    assert not between.sphere
    np.testing.assert_allclose(between.frames[[0, 2]], there.r, rtol=1e-4, atol=1e-4)
    for words, message in {
        ("edit", run, photo, "--set", "999=1"): "--set 999=1: expected a dimension from 0 to 67",
        ("edit", run, photo, "--label", "3"): "--label",
        ("traverse", run): "editing needs a single vector",
    }.items():
        done = call(*words, "--out", tmp_path / "y.png")
        assert (done.status, message in done.err) == (2, True), done.err


def test_a_label_may_become_another_one(tmp_path: Path, photo: Path):
    scales = '[{"factor":8,"latent":4},{"factor":2,"latent":2}]'
    options = f"train.steps=30 model.width=8 model.inner=4 model.scales={scales} data.label=true".split()
    right("train", "hvae-mnist", "--data", "digits", "--out", tmp_path / "given", *options)
    model = lb.load(tmp_path / "given")
    found = lb.edit(tmp_path / "given", [photo], label="7", own_label="3")
    x = torch.as_tensor(lb.reconstruct(tmp_path / "given", [photo], label="3").x)
    with torch.no_grad():
        z = tuple(q.mean for q in model.encode(x, torch.tensor([3])))
        expected = model.decode(z, torch.tensor([7])).mean
    np.testing.assert_allclose(found.x[0], expected, rtol=1e-4, atol=1e-4)
    assert not np.allclose(found.x[0], model.decode(z, torch.tensor([3])).mean.detach(), atol=1e-3)


def test_doctor_names_a_dead_level(run: Path):
    found = right("doctor", str(run), "--json").json
    assert "latents.dead_level" in str(found)


def test_it_is_scored_compared_and_completed(run: Path, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("lowerbound.model.latent.SWEEPS", 4)
    scores = tmp_path / "scores.csv"
    right("score", run, "digits", "--split", "valid", "--draws", "2", "--out", scores)
    assert len(scores.read_text().splitlines()) == 150
    assert "<=" in right("compare", run, "--limit", "10", "--draws", "2", "--samples", "4").out
    completed = tmp_path / "completed.npz"
    right("complete", run, photo, "--keep", "rows:4", "-n", "2", "--out", completed)
    x, given = np.load(completed)["x"], lb.reconstruct(run, [photo]).x
    np.testing.assert_array_equal(x.reshape(-1, 8, 8)[:, :4], np.broadcast_to(given.reshape(8, 8)[:4], (2, 4, 8)))

"""A hierarchical VAE by the command."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

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


def test_doctor_names_a_dead_level(run: Path):
    found = right("doctor", str(run), "--json").json
    assert "latents.dead_level" in str(found)

"""Data that changed under a run, and data that moved: what they are is compared, not where they lie."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from command import call, right
from lowerbound.data.base import Images
from lowerbound.data.batches import Batches
from lowerbound.errors import ConfigError, RunError
from lowerbound.runs.run import Run
from lowerbound.space import Space
from lowerbound.stages import Prepare
from lowerbound.training.prepared import prepared
from test_stages import RECIPE
from test_stages import train as train_recipe
from test_train import Died, Told, assert_same_run, tensors, train

pytestmark = pytest.mark.usefixtures("surroundings")


def photos(path: Path, n: int = 40, *, swapped: bool = False) -> Path:
    """Two class folders of random images, the classes with their names swapped where that is asked."""
    from PIL import Image

    for i in range(n):
        folder = path / "ab"[(i + swapped) % 2]
        folder.mkdir(parents=True, exist_ok=True)
        x = np.random.default_rng(i).integers(0, 256, (8, 8), np.uint8)
        Image.fromarray(x // (1 + i % 2)).save(folder / f"{i}.png")
    return path


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(RECIPE)
    return path


def test_a_run_goes_on_where_its_project_was_moved(tmp_path, monkeypatch):
    whole = train(tmp_path / "whole", data=photos(tmp_path / "there/photos"))
    monkeypatch.chdir(tmp_path / "there")
    with pytest.raises(Died):
        train(Path("run"), "train.save_seconds=1e-9", data="photos", told=Told(dies=30))
    (tmp_path / "there").rename(tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    train(Path("run"), "train.save_seconds=60", data="photos", resume=True)
    assert_same_run(whole.path, tmp_path / "here/run")
    assert Run.open("run").recipe.data.source == str(tmp_path / "here/photos")


@pytest.mark.parametrize("change", ["pixels", "names", "order"])
def test_changed_data_are_refused_with_the_reason(tmp_path, change):
    data, out = photos(tmp_path / "photos"), tmp_path / "run"
    with pytest.raises(Died):
        train(out, "train.save_seconds=1e-9", data=data, told=Told(dies=30))
    if change == "names":
        (data / "a").rename(data / "c")
        (data / "b").rename(data / "a")
        (data / "c").rename(data / "b")
    elif change == "order":
        first, second = sorted((data / "a").iterdir())[:2]
        first.rename(data / "a/x.png")
        second.rename(first)
        (data / "a/x.png").rename(second)
    else:
        shutil.copy(data / "b/1.png", data / "a/0.png")
    with pytest.raises(RunError, match="was trained on other data: "):
        train(out, data=data, resume=True)


def test_a_prior_that_starts_over_is_trained_on_the_labels_as_they_are_now(recipe, tmp_path):
    data, out = photos(tmp_path / "photos"), tmp_path / "run"
    train_recipe(recipe, out, "data.label=true", data=data)
    shutil.rmtree(data)
    photos(data, swapped=True)
    with pytest.raises(RunError, match="was trained on other data"):
        train_recipe(recipe, out, "data.label=true", data=data, resume=True)
    told = Told()
    train_recipe(recipe, out, "data.label=true", data=data, stage="prior.top", overwrite=True, told=told)
    assert any("have changed; prior.top is trained on them as they are now" in line for line in told.said)
    run = Run.open(out)
    images = run.recipe.data.open("train")
    codes = np.load(run.prepared("train") / "top.npy")
    model = run.load()
    assert torch.equal(torch.from_numpy(codes).long(), model.codes(torch.from_numpy(np.array(images.x)))[0])  # pyright: ignore
    assert run.facts.fingerprint == images.fingerprint
    told = Told()
    train_recipe(recipe, out, "data.label=true", data=data, resume=True, told=told)
    assert any("prior.bottom of" in line and "other data than there are now" in line for line in told.said)


def test_codes_of_other_images_are_made_anew(tmp_path):
    """As many, of the same weights, in another order."""
    x = np.arange(8, dtype=np.uint8).reshape(8, 1, 1, 1)
    space = Space((), levels=256, ordered=False)
    prepare = Prepare(("code",), (space,), lambda x, _: (x[:, 0, 0, 0].long(),), lambda kept, y: (kept[0], y))

    def codes(x: np.ndarray) -> list[int]:
        images = Batches(Images(name="n", split="train", x=x, levels=256), torch.device("cpu"))
        return prepared(tmp_path / "codes", images, prepare, "w", lambda done, total: None).parts[0].tolist()

    assert codes(x) == list(range(8))
    assert codes(x[::-1].copy()) == list(range(8))[::-1]


def test_parts_of_real_numbers_are_kept_as_they_are(tmp_path):
    x = np.arange(8, dtype=np.uint8).reshape(8, 1, 1, 1)
    prepare = Prepare(
        ("z",), (Space((2,)),), lambda x, _: (torch.cat([x, x], 1)[:, :, 0, 0] / 3 - 1,), lambda k, y: (k[0], y)
    )
    images = Batches(Images(name="n", split="train", x=x, levels=256), torch.device("cpu"))
    z = next(prepared(tmp_path / "z", images, prepare, "w", lambda done, total: None).in_order(8)).x
    assert torch.equal(z, torch.arange(8)[:, None].expand(8, 2) / 3 - 1)


def test_runs_without_a_fingerprint_go_on(tmp_path):
    out = tmp_path / "run"
    with pytest.raises(Died):
        train(out, "train.save_seconds=1e-9", told=Told(dies=30))
    config = json.loads((out / "config.json").read_text())
    del config["data"]["fingerprint"]
    (out / "config.json").write_text(json.dumps(config))
    train(out, "train.save_seconds=60", resume=True)
    assert tensors(out / "model.safetensors")


def test_a_stage_that_is_not_in_an_existing_run(tmp_path):
    train(tmp_path / "run", "train.steps=2")
    with pytest.raises(ConfigError, match=r"--stage modell: no such stage; did you mean model"):
        train(tmp_path / "run", "train.steps=2", stage="modell")


def test_evaluations_remember_what_they_are_of(here):
    data = photos(here / "photos")
    right("train", "vae", "--data", data, "--out", "run", "train.steps=2", "model.latent=2")
    saved = json.loads((here / "run/evaluation/valid.json").read_text())
    assert saved["fingerprint"] == Run.open("run").recipe.data.open("valid").fingerprint
    assert call("evaluate", "run", "--split", "valid", "--json").json.keys() == saved.keys() - {
        "fingerprint",
        "weights",
    }

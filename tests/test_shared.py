"""Runs as folders to share: what comes back is the model, and its card says what it is; those of the package."""

import importlib.machinery
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import lowerbound as lb
from command import call, right
from lowerbound.errors import RunError
from lowerbound.exporting.card import UNKNOWN, licence_of
from lowerbound.runs.places import PRETRAINED, found, pretrained
from lowerbound.runs.run import Run

pytestmark = pytest.mark.usefixtures("surroundings")
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def run(surroundings: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small VAE of digits in an .npz, with a direction and an evaluation."""
    folder = tmp_path_factory.mktemp("shared")
    from sklearn.datasets import load_digits

    digits = load_digits()
    y = (digits.target > 4).astype(np.int64)
    np.savez(folder / "own.npz", x=digits.images[:300].astype(np.uint8), y=y[:300], levels=17)
    small = ("model.encoder.hidden=[8]", "model.decoder.hidden=[8]", "model.latent=3", "train.steps=20")
    right("train", "vae", "--out", folder / "run", "--data", folder / "own.npz", *small)
    right("direction", folder / "run", "high", "--label", "1")
    right("evaluate", folder / "run", "--draws", "5")
    return folder / "run"


def test_what_is_shared_is_the_model(run: Path, tmp_path: Path):
    shared = lb.save_pretrained(run, tmp_path / "shared")
    a, b = lb.load(run), lb.from_pretrained(shared)
    assert all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())
    assert b.directions["high"].fresh
    torch.testing.assert_close(b.directions["high"].step, a.directions["high"].step)
    assert right("sample", shared, "-n", "4", "--seed", "0", "--out", tmp_path / "a.npz")
    text = "".join(p.read_text() for p in shared.rglob("*") if p.suffix in (".json", ".md"))
    assert str(run.parent) not in text  # nothing of where it was made
    assert not (shared / "state").exists()
    card = (shared / "README.md").read_text()
    nll = json.loads((run / "evaluation" / "test.json").read_text())["metrics"]["nll"]
    assert f"| nll | <= | {nll['value']:.5g} |" in card
    for said in (UNKNOWN, "own", "recipe `vae`", "upper bounds", "models.vae.VAE"):
        assert said in card
    with pytest.raises(RunError, match="something lies there already"):
        lb.save_pretrained(run, shared)


def test_halved_weights_say_how_far_they_are(run: Path, tmp_path: Path):
    shared = lb.save_pretrained(run, tmp_path / "half", half=True)
    said = json.loads((shared / "config.json").read_text())["weights"]
    assert said["dtype"] == "float16"
    a, b = lb.load(run).requires_grad_(False), lb.load(shared).requires_grad_(False)
    z = torch.randn(16, 3, generator=torch.Generator().manual_seed(1))  # as it was measured
    measured = float((a.decode(z).mean - b.decode(z).mean).abs().max()) / 16
    assert said["difference"]["decoder"] == pytest.approx(measured, rel=0.05)
    assert 0 < measured < 0.002
    size = [(p / "model.safetensors").stat().st_size for p in (run, shared)]
    assert size[1] < 0.7 * size[0]
    assert not (shared / "evaluation").exists()  # those were of other weights
    assert b.directions["high"].fresh


def script():
    loader = importlib.machinery.SourceFileLoader("pretrain", str(ROOT / "scripts" / "pretrain"))
    spec = importlib.util.spec_from_loader("pretrain", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def test_those_of_the_package_are_small_and_may_be_handed_on(capsys: pytest.CaptureFixture[str]):
    assert {"vae", "vae-mnist"} <= {*pretrained()} <= {*script().RECIPES}
    assert script().report() == 0, capsys.readouterr().out
    for name in pretrained():
        values = json.loads((PRETRAINED / name / "config.json").read_text())
        assert licence_of(values["data"]["name"]) != UNKNOWN
        card = (PRETRAINED / name / "README.md").read_text()
        assert f"Licence of the data: {licence_of(values['data']['name'])}." in card
        assert f'lb.load("pretrained:{name}")' in card
        assert "## Measured on" in card
        assert values["weights"]["dtype"] == "float16"
        assert values["weights"]["difference"]["decoder" if "pixelcnn" not in name else "sampler"] < 0.02


def test_every_one_of_the_package_is_a_model():
    for name in pretrained():
        model = lb.load(f"pretrained:{name}")
        assert all(w.isfinite().all() for w in model.state_dict().values())
        if not (model.passes or model.denoises):  # which take seconds
            assert len(model.sample(2)) == 2


def test_verbs_take_those_of_the_package(here: Path):
    right("sample", "pretrained:vae", "-n", "4", "--seed", "0", "--out", "a.npz")
    with np.load("a.npz") as arrays:
        assert arrays["x"].shape == (4, 8, 8, 1)
    report = right("evaluate", "pretrained:vae", "--json").json
    nll = report["metrics"]["nll"]
    own = json.loads((PRETRAINED / "vae" / "evaluation" / "test.json").read_text())["metrics"]["nll"]
    assert nll["value"] == pytest.approx(own["value"], abs=1e-3)  # the figure of its card, measured again
    right("direction", "pretrained:vae", "eight", "--label", "8")
    assert "eight" in lb.load("pretrained:vae").directions  # kept in the copy, not in the package
    assert not (PRETRAINED / "vae" / "directions").exists()
    rows = {row["name"]: row for row in right("recipes", "--json").json}
    assert rows["vae"]["pretrained"] == "pretrained:vae"
    assert rows["vae-lfw"]["pretrained"] == ""


def test_mistakes_are_answered_in_a_sentence(run: Path):
    for name, answer in (
        ("pretrained:vae-mnis", "did you mean vae-mnist?"),
        ("pretrained:nothing-like-it", "`lowerbound recipes` shows those there are"),
    ):
        done = call("sample", name, "--out", "x.png")
        assert (done.status, answer in done.err) == (2, True), done.err


def test_a_copy_is_made_once():
    first = found("pretrained:vae")
    (first / "mine").write_text("kept")
    assert (found("pretrained:vae") / "mine").read_text() == "kept"
    assert Run.open("pretrained:vae").name == "vae"

"""A training opens its data once, and what it reports and draws at its end comes from the model that it holds."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import lowerbound as lb
from lowerbound.data import cache
from lowerbound.metrics.report import finish
from lowerbound.runs.inputs import Held
from lowerbound.runs.run import Run

pytestmark = pytest.mark.usefixtures("surroundings")

CODES = ("model.levels.0.quantizer.codes=8", "model.levels.1.quantizer.codes=8")
SMALL = {
    "vae": ("model.encoder.hidden=[16]", "model.decoder.hidden=[16]", "model.latent=2"),
    "ppca": ("model.latent=3",),
    "vqvae2-digits": (*CODES, "model.width=8", "model.inner=4", "train.batch=16"),
    "made-mnist": ("data.source=digits", "model.network.hidden=[8]"),
}
SHORT = ("train.steps=12", "train.valid_every=4")
STAGES = {"vqvae2-digits": 3}


@pytest.mark.parametrize("recipe", SMALL)
def test_a_training_opens_its_data_once_and_loads_no_model(recipe, tmp_path, monkeypatch):
    done: list[str] = []

    def counted(owner: object, name: str) -> None:
        real = getattr(owner, name)

        def call(*given, **more):
            done.append(name)
            return real(*given, **more)

        monkeypatch.setattr(owner, name, call)

    counted(cache, "load")
    for name in ("build", "load_weights"):
        counted(Run, name)
    options = () if recipe == "ppca" else SHORT
    stages = [f"train.stages.{name}.steps=12" for name in ("autoencoder", "prior")] if recipe in STAGES else []
    lb.train(recipe, *SMALL[recipe], *options, *stages, out=tmp_path / "run", device="cpu")
    assert done.count("load") == 1  # of the data
    assert done.count("build") == 0  # each loading of a model builds it
    assert done.count("load_weights") == STAGES.get(recipe, 1)  # the kept ones, at the end of each stage


def test_what_is_reported_is_of_the_kept_weights(tmp_path):
    """Not of the last: what a training reports is, bit for bit, what its saved weights give."""
    steps = ("train.steps=300", "train.valid_every=15", "train.batch=16", "train.optimizer.lr=0.05")
    changes = (*SMALL["vae"], *steps, "train.schedule=optimization.Constant", "train.averaging=null")
    run = lb.train("vae", *changes, out=tmp_path / "run", device="cpu")
    kept, last = load_file(run.path / "model.safetensors"), load_file(run.path / "state/model.safetensors")
    assert not any(torch.equal(w, last[f"model.{name}"]) for name, w in kept.items() if w.dim() == 2)

    def made(path: Path) -> tuple[bytes, ...]:
        pictures = (path / "pictures" / f"{name}.png" for name in ("samples", "reconstructions", "manifold"))
        return (path / "evaluation/valid.json").read_bytes(), *(p.read_bytes() for p in pictures)

    before = made(run.path)
    for path in (*run.path.glob("pictures/*"), *run.path.glob("evaluation/*")):
        path.unlink()
    report = finish(Held.of(Run.open(run.path), "cpu"))
    assert made(run.path) == before
    assert json.loads(json.dumps(report)) == json.loads(json.dumps(run.report))

"""Whatever a user does with a run is done with every family of posteriors."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import lowerbound as lb
from command import right
from lowerbound.config import components, dump, parse
from lowerbound.errors import ConfigError
from lowerbound.families import Family
from lowerbound.metrics import report as metrics_report
from lowerbound.model import LatentModel
from lowerbound.models.vae import VAE
from lowerbound.runs.inputs import open_data
from lowerbound.runs.run import Run
from lowerbound.space import Space

pytestmark = pytest.mark.usefixtures("surroundings", "here")

D, N = 4, 40
WHOLE = {"families.Bernoulli": 2, "families.Categorical": 3}
"""Posteriors of variables that take so many values; all others are of real numbers."""


def of(family: type[Family]) -> dict[str, Any]:
    """What a VAE with this posterior says of its model."""
    levels, net = WHOLE.get(family.type_name()), {"type": "networks.mlp.MLP", "hidden": [4]}
    model = {"type": "models.vae.VAE", "latent": D, "latent_levels": levels, "encoder": net, "decoder": net}
    prior = {} if levels is None else {"prior": {"type": "priors.Categorical"}}
    return {**model, **prior, "posterior": dump(family.example())}


def is_posterior(family: type[Family]) -> bool:
    """Whether a VAE takes it for its posterior."""
    try:
        parse(VAE.Config, of(family)).build(Space((1, 2, 2), levels=2))
    except ConfigError:
        return False
    return True


FAMILIES = {f.type_name(): f for f in components(Family) if is_posterior(f)}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Binary images, and one of them as a file."""
    folder = tmp_path_factory.mktemp("data")
    x = np.random.default_rng(0).integers(0, 2, (N, 1, 5, 5)).astype(np.uint8)
    np.savez(folder / "x.npz", x=x, y=np.arange(N) % 2, levels=2)
    Image.fromarray(255 * x[0, 0]).save(folder / "one.png")
    return folder


@pytest.fixture(scope="module", params=FAMILIES)
def run(request: pytest.FixtureRequest, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one step with a posterior, and nothing else of note."""
    out, model = tmp_path_factory.mktemp("runs") / "run", of(FAMILIES[request.param])
    with pytest.MonkeyPatch.context() as m:
        m.setattr(metrics_report, "draw_pictures", lambda *_: None)
        lb.train("vae", data=str(data / "x.npz"), out=out, model=model, train={"steps": 1, "batch": 8}, device="cpu")
    return out


def test_it_is_measured(run: Path, data: Path):
    active = right("evaluate", run, "--metrics", "active_units", "--json").json["metrics"]["active_units"]
    assert active["unit"] == f"of {D}"
    right("score", run, data / "x.npz", "--draws", "3", "--out", "s.csv")
    with open("s.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == N
    assert all(np.isfinite([float(r[c]) for c in ("log_likelihood", "reconstruction_error", "kl")]).all() for r in rows)
    checks = {c["name"] for c in right("doctor", run, "--json").json["checked"]}
    assert "latents.collapsed" in checks
    (row,) = right("compare", run, "--draws", "3", "--json").json["runs"]
    assert np.isfinite(row["nll"]["value"])


def test_its_codes_are_the_means_of_the_posterior_and_of_whole_numbers_the_modes(run: Path):
    right("encode", run, "--split", "train", "--out", "z.npz")
    model, images = lb.load(run, device="cpu"), open_data(Run.open(run), "train")
    assert isinstance(model, LatentModel)
    with np.load("z.npz") as found, torch.no_grad():
        q = model.encode(torch.from_numpy(np.asarray(images.x[:])))
        whole = model.latents[0].levels is not None
        expected = q.mode if whole else q.mean
        assert np.allclose(found["codes_z" if whole else "z"], expected.numpy(), atol=1e-5)


def test_its_codes_are_changed(run: Path, data: Path):
    model = Run.open(run).build()
    assert isinstance(model, LatentModel)
    report = right("traverse", run, "--out", "t.npz", "--json").json
    assert sorted(report["dims"]) == [*range(D)]
    with np.load("t.npz") as found:
        assert len(found["x"]) == D * (model.latents[0].levels or 7)
    right("traverse", run, data / "one.png", "--top", "1", "--out", "t.npz")
    report = right("edit", run, data / "one.png", "--set", "1=1", "--out", "e.npz", "--json").json
    assert report["n"] == 1
    right("edit", run, data / "one.png", "--set", "1=1", "--from", "sample", "--out", "e.npz")

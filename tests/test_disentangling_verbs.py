"""Runs scored against the factors of their images, and traversals that name them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lowerbound as lb
from command import call, right
from lowerbound.data import Data
from lowerbound.families import Categorical, Noiseless, Point, Quantized
from lowerbound.metrics.disentangling import mig, told
from lowerbound.metrics.disentangling.measured import codes, of_batch
from lowerbound.model import LatentModel
from lowerbound.models.hierarchical import HierarchicalVAE, Scale
from lowerbound.models.ppca import PPCA
from lowerbound.models.vae import VAE
from lowerbound.networks.mlp import MLP
from lowerbound.objectives import ELBO, Reconstruction
from lowerbound.priors import Categorical as Categories
from lowerbound.runs.facts import Facts
from lowerbound.runs.inputs import as_batches, open_data
from lowerbound.runs.recipes import Recipe
from lowerbound.runs.run import Run

pytestmark = pytest.mark.usefixtures("surroundings")
SMALL = MLP.Config(hidden=(4,))
NAMES = ["left", "right", "turn (deg)", "shape"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images whose halves are bright by a factor each; of two more factors they show nothing."""
    path, draw = tmp_path_factory.mktemp("data") / "halves.npz", np.random.default_rng(0)
    v = np.stack([*draw.uniform(size=(2, 600)), draw.uniform(0, 360, 600), draw.integers(0, 3, 600)], 1)
    x = np.zeros((600, 4, 4), np.uint8)
    x[:, :, :2], x[:, :, 2:] = (np.rint(255 * v[:, k, None, None]) for k in (0, 1))
    np.savez(path, x=x, factors=v, factor_names=np.array(NAMES))
    return path


def made(config: Any, data: Path, out: Path, label: str | bool = False) -> Run:
    """A run that was not trained."""
    recipe = Recipe(data=Data(source=str(data), label=label), model=config)
    run = Run.create(out, "tiny", recipe, Facts.of(recipe.data.open("train"), recipe))
    torch.manual_seed(0)
    run.save_model(run.build())
    return run


@pytest.fixture(scope="module")
def ppca(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its z are the first three pixels, by its first weights: two of the left half, one of the right."""
    return made(PPCA.Config(latent=3), data, tmp_path_factory.mktemp("runs") / "ppca").path


def test_a_run_is_scored_as_its_codes_are(ppca: Path):
    report = right("evaluate", ppca, "--metrics", "mig,sap", "--json").json
    model, images = lb.load(ppca), open_data(Run.open(ppca), "test")
    assert isinstance(model, LatentModel)
    assert images.factors is not None
    with torch.no_grad():
        z = model.features(torch.tensor(np.asarray(images.x))).numpy()
    expected, found = mig(z, images.factors, NAMES), report["metrics"]["mig"]
    assert found["value"] == pytest.approx(expected.value, abs=1e-3)
    assert found["interval"] == pytest.approx([expected.low, expected.high], abs=1e-2)
    assert found["table"]["columns"] == ["left", "right", "turn", "shape"]
    assert np.allclose(found["table"]["rows"], expected.matrix, atol=1e-2)
    assert found["remark"] == "2 dimensions share left; no dimension tells turn, shape"
    assert {*report["metrics"]} == {"mig", "sap"}
    shown = right("evaluate", ppca, "--metrics", "mig,modularity").out
    assert shown.count("no dimension tells turn") == 1
    assert "mig" not in lb.evaluate(ppca, draws=2)["metrics"]


AE = VAE.Config(
    latent=(2,), encoder=SMALL, decoder=SMALL, posterior=Point(), likelihood=Noiseless(), objective=Reconstruction()
)
HIERARCHICAL = HierarchicalVAE.Config(
    scales=(Scale(factor=2, latent=1, blocks=1), Scale(factor=1, latent=1, blocks=1)), width=4, inner=2
)
OF_VALUES = AE.model_copy(
    update={"latent_levels": 5, "posterior": Categorical(), "prior": Categories.Config(), "objective": ELBO()}
)


QLAE = AE.model_copy(update={"posterior": Quantized(values=3)})


@pytest.mark.parametrize(
    ("config", "dims"), [(AE, 2), (QLAE, 2), (HIERARCHICAL, 20), (PPCA.Config(latent=3), 3), (OF_VALUES, 2)]
)
def test_codes_are_the_posterior_means_of_all_levels(config: Any, dims: int, data: Path, tmp_path: Path):
    run = made(config, data, tmp_path / "run")
    model, batches = run.load(), as_batches(run, open_data(run, "test"), torch.device("cpu"))
    assert isinstance(model, LatentModel)
    z = codes(model, batches)
    assert z.shape == (52, dims)
    (batch,) = batches.in_order(60)
    if config is OF_VALUES:
        assert np.array_equal(z, model.posteriors(batch.x)[0].mode)
    else:
        assert torch.equal(of_batch(model, batch), model.features(batch.x))
    report = lb.evaluate(run, metrics=["mig"])["metrics"]
    assert 0 <= report["mig"]["value"] <= 1
    assert lb.evaluate(run, metrics=["mig"])["metrics"] == report


def test_a_run_that_is_given_labels_is_scored_with_them(data: Path, tmp_path: Path):
    run = made(VAE.Config(latent=(2,), encoder=SMALL, decoder=SMALL), data, tmp_path / "run", label="shape")
    model, batches = run.load(), as_batches(run, open_data(run, "test"), torch.device("cpu"))
    assert isinstance(model, LatentModel)
    (batch,) = batches.in_order(60)
    assert batch.y is not None
    z, others = torch.tensor(codes(model, batches)), model.features(batch.x, (batch.y + 1) % 3)
    assert torch.equal(z.float(), model.features(batch.x, batch.y))
    assert not torch.allclose(z.float(), others)
    assert lb.evaluate(run, metrics=["mig"])["metrics"]["mig"]["table"]["columns"] == ["left", "right", "turn", "shape"]


def test_codes_of_a_transformer_are_scored(data: Path):
    arrays = np.load(data)
    z = lb.LatentEncoder("ppca", latent=2, random_state=0).fit_transform(arrays["x"])
    found = lb.metrics.disentangling.mig(z, arrays["factors"], NAMES)
    assert found.matrix.shape == (2, 4)
    assert found.remark == "2 dimensions share left; 2 dimensions share right; no dimension tells turn, shape"


def test_what_does_not_vary_is_left_out_and_what_is_not_there_is_said(ppca: Path, data: Path, tmp_path: Path):
    arrays = dict(np.load(data))
    arrays["factors"][:, 1] = 7
    np.savez(tmp_path / "still.npz", **arrays)
    found = lb.evaluate(ppca, data=str(tmp_path / "still.npz"), metrics=["mig"])["metrics"]["mig"]
    assert found["table"]["columns"] == ["left", "turn", "shape"]
    assert found["remark"].endswith("right is constant and left out")
    arrays["factors"][:] = 7
    np.savez(tmp_path / "dead.npz", **arrays)
    np.savez(tmp_path / "bare.npz", x=arrays["x"])
    for name, said in {"dead": "no factor of dead varies in its test part", "bare": "bare has no factors"}.items():
        done = call("evaluate", ppca, "--metrics", "mig", "--data", tmp_path / f"{name}.npz")
        assert (done.status, said in done.err) == (2, True), done.err
    assert "no metric 'infomc'; did you mean infomec?" in call("evaluate", ppca, "--metrics", "infomc").err
    few = call("evaluate", ppca, "--metrics", "mig", "--limit", "19")
    assert "left is known of 19 images, fewer than 20 bins" in few.err


# ---- traversals


def test_rows_name_the_factor_that_they_move(ppca: Path, data: Path, tmp_path: Path):
    found = right("traverse", ppca, "--factors", "--out", tmp_path / "rows.png", "--json").json
    run = Run.open(ppca)
    model, images = run.load(), open_data(run, "train")
    assert isinstance(model, LatentModel)
    assert images.factors is not None
    z = codes(model, as_batches(run, images, torch.device("cpu")))
    matrix = told(z, images.factors, NAMES)
    shares = dict(zip(found["dims"], found["factors"], strict=True))
    for d, name in enumerate(("left", "left", "right")):
        share = pytest.approx(matrix[d].max() / matrix[d].sum(), abs=1e-3)
        assert shares[d] == {"factor": name, "share": share}
        assert shares[d]["share"] > 0.9
    assert "factors" not in right("traverse", ppca, "--out", tmp_path / "plain.png", "--json").json


def test_captions_of_rows(ppca: Path):
    rows = lb.traverse(ppca, factors=True).table.rows
    assert sum("left 100 %" in row for row in rows) == 2
    (row,) = lb.traverse(ppca, factors=True, dims=[2]).table.rows
    assert "right" in row
    assert "%" not in lb.traverse(ppca).table.rows[0]


def test_rows_of_whole_numbers_have_theirs_and_images_without_factors_none(data: Path, tmp_path: Path):
    run = made(OF_VALUES, data, tmp_path / "run")
    assert all(row.endswith("no factor") or "%" in row for row in lb.traverse(run, factors=True).table.rows)
    np.savez(tmp_path / "bare.npz", x=np.load(data)["x"])
    bare = made(PPCA.Config(latent=2), tmp_path / "bare.npz", tmp_path / "bare")
    assert (
        "--factors: bare has no factors of variation"
        in call("traverse", bare.path, "--factors", "--out", tmp_path / "x.png").err
    )

"""compare: runs of any family in one table, on the same pixels."""

import io
import json
import math
import os
import re
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import lowerbound as lb
from command import call, right, tree
from lowerbound import pictures
from lowerbound.chunks import log_density
from lowerbound.config import parse
from lowerbound.data.base import Data
from lowerbound.data.batches import Batches, binarized
from lowerbound.families import Family
from lowerbound.models.autoregressive import Autoregressive
from lowerbound.runs.inputs import as_batches, open_data
from lowerbound.space import Space
from lowerbound.training.train import train as run_training
from lowerbound.verbs.compare import page as compare_page
from lowerbound.verbs.compare.anchors import anchors, sheet
from lowerbound.verbs.compare.entries import Terms
from lowerbound.verbs.compare.rows import difference_relation, training
from lowerbound.verbs.compare.sampled import timed, without_cache

pytestmark = pytest.mark.usefixtures("surroundings", "here")

CPU = torch.device("cpu")
DRAWS = "3"
QUICK = ("train.steps=60", "train.valid_every=60")
ROOT = Path(__file__).parent.parent


def trained(out: Path, *changes: str, recipe: str = "vae", data: Path | str | None = None) -> lb.Run:
    """A run, without the pictures and the evaluation that the command ends with."""
    small = ["model.encoder.hidden=[16]", "model.decoder.hidden=[16]", "model.latent=3", *QUICK]
    return run_training(recipe, data=data, out=out, changes=[*(small if recipe == "vae" else []), *changes]).run


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, lb.Run]:
    """Two VAEs, probabilistic PCA, a VAE given the label, and a plain autoencoder, all of digits."""
    folder = tmp_path_factory.mktemp("runs")
    point = ["model.posterior=families.Point", "model.objective=objectives.Reconstruction"]
    return {
        "a": trained(folder / "a"),
        "b": trained(folder / "b", "model.latent=2", "seed=1"),
        "pca": trained(folder / "pca", "model.latent=5", recipe="ppca"),
        "labelled": trained(folder / "labelled", "data.label=true"),
        "plain": trained(folder / "plain", *point, "model.likelihood=families.Noiseless"),
    }


@pytest.fixture(scope="module")
def nll(runs: dict[str, lb.Run]) -> dict[str, np.ndarray]:
    """-log p(x) of every test image, or its bound."""
    found = {}
    for name in ("a", "b", "pca"):
        batches = as_batches(runs[name], open_data(runs[name], "test"), CPU)
        with torch.no_grad():
            found[name] = -log_density(runs[name].load(), batches, int(DRAWS))
    return found


def compared(*words: Any) -> dict[str, Any]:
    """The JSON document of `compare`; NaN and infinities are no JSON."""
    done = right("compare", *words, "--draws", DRAWS, "--json")
    return json.loads(done.out, parse_constant=lambda name: pytest.fail(f"{name} in the document"))


# ---- differences


def test_a_difference_is_the_mean_of_the_differences_of_the_images(runs, nll):
    report = compared(runs["a"].path, runs["b"].path, runs["pca"].path)
    assert report["reference"] == "a"
    assert report["runs"][0]["difference"] is None
    for row in report["runs"][1:]:
        each = nll[row["name"]] - nll["a"]
        difference = row["difference"]
        assert difference["value"] == pytest.approx(each.mean(), abs=1e-4)
        assert difference["stderr"] == pytest.approx(each.std(ddof=1) / math.sqrt(len(each)), rel=1e-3)
        assert difference["value"] == pytest.approx(row["nll"]["value"] - report["runs"][0]["nll"]["value"], abs=1e-6)
        assert (difference["to"], difference["unit"], difference["n"]) == ("a", "nats/image", len(each))


def test_pairing_takes_out_what_is_hard_about_an_image(runs):
    a, b = compared(runs["a"].path, runs["b"].path)["runs"]
    unpaired = math.hypot(a["nll"]["stderr"], b["nll"]["stderr"])
    assert b["difference"]["stderr"] < 0.6 * unpaired


def test_the_other_order_has_the_other_sign(runs):
    there = compared(runs["a"].path, runs["pca"].path)["runs"][1]["difference"]
    back = compared(runs["pca"].path, runs["a"].path)["runs"][1]["difference"]
    assert back["value"] == pytest.approx(-there["value"], abs=1e-9)
    assert back["stderr"] == pytest.approx(there["stderr"], rel=1e-9)


@pytest.mark.parametrize("row", ["=", "<=", "?"])
@pytest.mark.parametrize("reference", ["=", "<=", "?"])
def test_what_holds_of_a_difference_follows_from_what_holds_of_the_two(row, reference):
    """Whatever truths the values allow: the relation holds for all of them, and no stronger one does."""
    slack = {"=": [0.0], "<=": [0.0, 1.0, 2.0], "?": [-2.0, -1.0, 0.0, 1.0, 2.0]}  # value - truth
    errors = {a - b for a in slack[row] for b in slack[reference]}  # the difference of the values minus the true one
    holds = "=" if errors == {0.0} else "<=" if min(errors) >= 0 else ">=" if max(errors) <= 0 else "?"
    assert difference_relation(row, reference) == holds


def test_bounds_and_what_they_say(runs, nll):
    a, b, pca = compared(runs["a"].path, runs["b"].path, runs["pca"].path)["runs"]
    for row in (a, b, pca):
        assert row["nll"]["value"] == pytest.approx(nll[row["name"]].mean(), abs=1e-4)
        assert (row["nll"]["relation"], row["nll"]["draws"]) == ("<=", 3)
        assert row["bits_per_dim"]["value"] == pytest.approx(row["nll"]["value"] / (math.log(2) * 64))
        assert row["bits_per_dim"]["stderr"] == pytest.approx(row["nll"]["stderr"] / (math.log(2) * 64))
    report = compared(runs["a"].path, runs["b"].path)
    assert report["runs"][1]["difference"]["relation"] == "?"
    assert any("says nothing for certain" in note for note in report["notes"])


def test_a_likelihood_given_the_label_is_marked_and_not_subtracted(runs):
    report = compared(runs["a"].path, runs["labelled"].path)
    a, labelled = report["runs"]
    assert "given" not in a["nll"]
    assert labelled["nll"]["given"] == labelled["bits_per_dim"]["given"] == "label"
    assert labelled["difference"] is None
    assert any(note.startswith("labelled: given the label") for note in report["notes"])
    assert compare_page.cells(labelled, report)["nll"].endswith(compare_page.GIVEN)


def test_a_model_without_a_likelihood_is_in_the_table(runs):
    report = compared(runs["plain"].path, runs["a"].path)
    plain, a = report["runs"]
    assert plain["nll"] == plain["bits_per_dim"] == {"value": None, "relation": "?"}
    assert report["reference"] == "a", "the first run that has a likelihood"
    assert plain["difference"] is None
    assert a["difference"] is None
    assert plain["sampling"] is None
    assert plain["code"] == a["code"] == {"shapes": [[3]], "dims": 3}
    model, images = runs["plain"].load(), open_data(runs["plain"], "test")
    x = torch.from_numpy(np.array(images.x))
    with torch.no_grad():
        error = ((model.reconstruct(x) - x).double() / 16).square().flatten(1).sum(1)
    assert plain["squared_error"]["value"] == pytest.approx(float(error.mean()), rel=1e-5)
    assert any(note.startswith("plain: nothing is said of log p(x)") for note in report["notes"])
    alone = compared(runs["plain"].path)
    assert (alone["reference"], alone["runs"][0]["difference"]) == (None, None)


# ---- how good samples are, and what else can be asked


def test_the_quality_of_samples_is_what_evaluate_says(runs, classifier):
    features = ("--extractor", classifier.path)
    rows = compared(runs["a"].path, runs["pca"].path, runs["plain"].path, "--quality", *features)["runs"]
    for row in rows[:2]:
        words = ("--metrics", "frechet,precision,recall", *features, "--json")
        assert row["quality"] == right("evaluate", row["run"], *words).json["metrics"]
    assert rows[2]["quality"] is None, "an autoencoder draws nothing"
    assert compared(runs["a"].path)["runs"][0]["quality"] is None, "not asked for"


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> lb.Run:
    small = ["model.encoder.widths=[8]", "model.latent=8", *QUICK]
    return trained(tmp_path_factory.mktemp("features") / "classifier", *small, recipe="classifier", data="digits")


def test_what_a_model_answers_is_what_the_verbs_do(runs, pixelcnn, here):
    """Each answer that is said, and each that is not, tried by the verb that asks for it."""
    plain = compared(runs["plain"].path)["runs"][0]
    for run, row in ((runs["plain"], plain), *((pixelcnn, r) for r in compared(pixelcnn.path)["runs"])):
        _, H, W = run.facts.shape
        Image.new("L", (W, H)).save("black.png")
        asked = {
            "density": ("evaluate", run.path, "--metrics", "nll", "--draws", DRAWS),
            "samples": ("sample", run.path, "--out", "s.png"),
            "code": ("encode", run.path, "--out", "z.npz"),
            "edit": ("edit", run.path, "black.png", "--set", "0=1", "--out", "e.png"),
            "complete": ("complete", run.path, "black.png", "--keep", "top:0.5", "--out", "c.png"),
        }
        assert row["answers"] == [name for name, words in asked.items() if call(*words).status == 0]
    assert plain["answers"] == ["code", "edit"]


# ---- what was measured before


@pytest.fixture
def measured(runs, tmp_path) -> lb.Run:
    """A run with a saved evaluation of its test images."""
    shutil.copytree(runs["a"].path, tmp_path / "measured")
    right("evaluate", tmp_path / "measured", "--draws", DRAWS)
    return lb.Run.open(tmp_path / "measured")


def reason(run: lb.Run, *words: str, draws: str = DRAWS) -> str:
    """Why a run is measured now, from standard error; nothing where it isn't."""
    done = right("compare", run.path, "--draws", draws, "--json", *words)
    assert done.json["runs"][0]["saved_evaluation"] == ("measured now" not in done.err)
    return "".join(re.findall(r"measured now.*\((.*)\)", done.err))


def test_a_saved_evaluation_is_used_where_it_fits(measured):
    fresh, saved = compared(measured.path, "--seed", "1"), compared(measured.path)
    assert saved["runs"][0]["saved_evaluation"]
    assert not fresh["runs"][0]["saved_evaluation"]
    assert saved["runs"][0]["nll"]["value"] != fresh["runs"][0]["nll"]["value"]
    arrays = np.load(measured.path / "evaluation" / "test.npz")
    assert saved["runs"][0]["nll"]["value"] == arrays["nll"].mean()
    assert compared(measured.path, "--limit", "20")["runs"][0]["nll"]["value"] == arrays["nll"][:20].mean()
    assert reason(measured) == reason(measured, "--limit", "20") == ""


def test_a_saved_evaluation_that_does_not_fit_is_not_used(measured):
    assert reason(measured, "--split", "valid") == "there is no evaluation/valid.json with its .npz"
    assert reason(measured, draws="4") == "its saved evaluation has draws 3, not 4"
    assert reason(measured, "--seed", "1") == "its saved evaluation has seed 0, not 1"
    file = measured.path / "evaluation" / "test.npz"
    arrays = dict(np.load(file))
    np.savez(file, **{**arrays, "nll": arrays["nll"] + 0.1})
    assert reason(measured) == "its saved evaluation is of other weights or pixels"
    np.savez(file, **{**arrays, "nll": arrays["nll"][:-1]})
    assert reason(measured) == "its saved evaluation is damaged"
    file.write_bytes(b"no archive")
    assert reason(measured) == "evaluation/test.json or its .npz is damaged"
    np.savez(file, **arrays)
    assert reason(measured) == ""
    later = time.time() + 10
    os.utime(measured.path / "model.safetensors", (later, later))
    assert reason(measured) == "evaluation/test.json is older than the weights"


def test_a_saved_evaluation_of_other_data_is_not_used(measured):
    """Data of the same name and size are told apart by the fingerprint that `evaluate` saves; older ones have none."""
    file = measured.path / "evaluation" / "test.json"
    report = json.loads(file.read_text())
    assert report["fingerprint"] == open_data(measured, "test").fingerprint
    assert reason(measured) == ""
    file.write_text(json.dumps(report | {"fingerprint": "0"}))
    assert reason(measured) == "its saved evaluation is of other data"
    file.write_text(json.dumps({k: v for k, v in report.items() if k != "fingerprint"}))
    assert reason(measured) == ""


def test_draws_are_those_that_were_used(tmp_path):
    """A bound without noise takes one, and its saved evaluation fits whatever is asked of the others."""
    small = ["model.width=8", "model.inner=4", "train.steps=5", "train.stages.prior.steps=5", "data.label=false"]
    run = trained(tmp_path / "codes", *small, recipe="vqvae2-digits")
    fresh = compared(run.path)["runs"][0]
    assert (fresh["nll"]["relation"], fresh["nll"]["draws"], fresh["bits_per_dim"]["draws"]) == ("<=", 1, 1)
    right("evaluate", run.path, "--draws", "7")
    saved = compared(run.path)["runs"][0]
    assert saved["saved_evaluation"]
    assert saved["nll"] == pytest.approx(fresh["nll"])
    assert "bounds with 1 draw;" in right("compare", run.path, "--draws", DRAWS).out
    assert reason(run, draws="9") == ""


def test_a_run_is_not_touched(runs, measured):
    before = {p: p.stat().st_mtime_ns for run in (runs["a"], measured) for p in run.path.rglob("*")}
    compared(runs["a"].path, measured.path, "--png", "rows.png", "--split", "valid")
    assert before == {p: p.stat().st_mtime_ns for run in (runs["a"], measured) for p in run.path.rglob("*")}


# ---- the pixels


@pytest.fixture(scope="module")
def grey(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Grey squares and the same in black and white, and a model of binary pixels of each."""
    folder = tmp_path_factory.mktemp("grey")
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (400, 6, 6), np.uint8)
    np.savez(folder / "grey.npz", x=x)
    np.savez(folder / "fixed.npz", x=(rng.random(x.shape) * 255 < x).astype(np.uint8), levels=2)
    binary = "model.likelihood=families.Bernoulli"
    return {
        "folder": folder,
        "dynamic": trained(folder / "dynamic", binary, data=folder / "grey.npz"),
        "fixed": trained(folder / "fixed", binary, data=folder / "fixed.npz"),
        "levels": trained(folder / "levels", data=folder / "grey.npz"),
    }


def test_other_pixels_are_refused_and_both_are_named(runs, grey):
    done = call("compare", grey["dynamic"].path, grey["fixed"].path)
    assert (done.status, done.out) == (2, "")
    assert re.search(r"dynamic is measured on grey \(test, .* dynamic binarization\), and \S+fixed on fixed", done.err)
    assert "--data DATA" in done.err
    done = call("compare", grey["levels"].path, grey["dynamic"].path)
    assert (done.status, "256 levels" in done.err) == (2, True)
    done = call("compare", runs["a"].path, grey["dynamic"].path)
    assert (done.status, "these are not the same pixels" in done.err) == (2, True)
    done = call("compare", runs["a"].path, runs["b"].path, "--data", grey["folder"] / "grey.npz")
    assert (done.status, f"{runs['a'].path} is a model of (1, 8, 8), 17 levels" in done.err) == (2, True)


@pytest.mark.parametrize("name", ["grey", "fixed"])
def test_models_of_binary_pixels_are_measured_on_one_data_set(grey, name):
    """Grey images are drawn from, binary ones are taken as they are, whatever a run was trained on."""
    source = grey["folder"] / f"{name}.npz"
    report = compared(grey["dynamic"].path, grey["fixed"].path, "--data", source)
    assert report["data"]["binarization"] == {"grey": "dynamic", "fixed": "fixed"}[name]
    batches = Batches(Data(source=str(source)).open("test"), CPU, binarize=name == "grey")
    for row in report["runs"]:
        with torch.no_grad():
            expected = -log_density(grey[row["name"]].load(), batches, int(DRAWS)).mean()
        assert row["nll"]["value"] == pytest.approx(expected, abs=1e-4)
    other = {"grey": "fixed: trained on fixed.", "fixed": "dynamic: trained on grey."}[name]
    assert other in report["notes"]


# ---- anchors


def by_hand(x: np.ndarray, mode: str, **options: Any) -> int:
    file = io.BytesIO()
    Image.fromarray(x).convert(mode).save(file, **options)
    return len(file.getvalue())


@pytest.mark.parametrize(("codec", "mode"), [("PNG", "1"), ("WebP", "L")])
def test_anchors_are_the_sizes_of_the_files(grey, codec, mode):
    options = {"PNG": {"optimize": True}, "WebP": {"lossless": True, "quality": 100, "method": 4}}[codec]
    report = compared(grey["dynamic"].path, "--limit", "12")
    files, whole = [a for a in report["anchors"] if a["codec"] == codec]
    images = Data(source=str(grey["folder"] / "grey.npz")).open("test")
    x = binarized(torch.from_numpy(np.array(images.x[:12])), 256, np.arange(12)).numpy() * 255
    sizes = [by_hand(image[0], mode, format=codec, **options) for image in x]
    tiled = np.zeros((3, 6, 4, 6), np.uint8)  # row of the sheet, row of an image, column, column
    for i in range(12):
        tiled[i // 4, :, i % 4] = x[i, 0]
    assert (files["kind"], files["n"], files["bytes"]) == ("files", 12, sum(sizes))
    assert files["bits_per_dim"] == pytest.approx(8 * sum(sizes) / (12 * 36))
    assert files["nats"] == pytest.approx(8 * np.mean(sizes) * math.log(2))
    assert files["stderr"] == pytest.approx(8 * np.std(sizes, ddof=1) / 36 / math.sqrt(12))
    assert (whole["kind"], whole["bytes"]) == ("sheet", by_hand(tiled.reshape(18, 24), mode, format=codec, **options))
    assert whole["stderr"] is None


@pytest.mark.parametrize("channels", [1, 3])
def test_a_sheet_keeps_every_pixel(channels):
    x = np.random.default_rng(0).integers(0, 256, (7, channels, 4, 6), np.uint8)
    whole = sheet(x)
    columns = whole.shape[2] // 6
    cells = [whole[:, 4 * (i // columns) :, 6 * (i % columns) :][:, :4, :6] for i in range(7)]
    assert np.array_equal(np.stack(cells), x)
    assert int(whole.astype(int).sum()) == int(x.astype(int).sum()), "the rest is black"


def test_noise_can_not_be_compressed_and_blank_paper_can():
    noise = np.random.default_rng(0).integers(0, 256, (50, 3, 32, 32), np.uint8)
    for a in anchors(noise, 256):
        assert 8 < a.bits_per_dim < 8.6
    for a in anchors(np.zeros_like(noise), 256):
        assert a.bits_per_dim < (0.3 if a.kind == "files" else 0.02)


# ---- cost


def test_training_time_is_that_of_all_stages(runs, tmp_path):
    run = lb.Run.open(shutil.copytree(runs["a"].path, tmp_path / "staged"))
    lines = [
        {"step": 10, "stage": "one", "split": "train", "seconds": 2.0, "images_per_second": 100.0},
        {"step": 10, "stage": "one", "split": "valid", "seconds": 2.0, "elbo": -1.0},
        {"step": 20, "stage": "one", "split": "train", "seconds": 6.0, "images_per_second": 50.0},
        {"step": 5, "stage": "two", "split": "train", "seconds": 4.0, "images_per_second": 25.0},
    ]
    run.log.path.write_text("\n".join(map(json.dumps, lines)) + '\n{"step": 6, "stage": "tw')
    found = training(run, run.load())
    assert found is not None
    assert found["seconds"] == 10.0
    assert found["stages"] == {"one": 6.0, "two": 4.0}
    assert found["images_per_second"] == (2 * 100 + 4 * 50 + 4 * 25) / 10
    run.log.path.unlink()
    assert training(run, run.load()) is None
    assert compared(run.path)["runs"][0]["training"] is None
    closed = training(runs["pca"], runs["pca"].load())  # every image once, not the batch that is logged
    assert closed is not None
    assert closed["images_per_second"] == pytest.approx(runs["pca"].facts.images / closed["seconds"], abs=0.1)


@pytest.fixture(scope="module")
def pixelcnn(grey) -> lb.Run:
    """An autoregressive model of the binary squares."""
    small = ["model.network.width=8", "model.network.blocks=2", "train.steps=5"]
    return trained(grey["folder"] / "cnn", *small, recipe="pixelcnn-mnist", data=grey["folder"] / "fixed.npz")


def test_an_exact_model_beside_a_bound(grey, pixelcnn):
    report = compared(grey["fixed"].path, pixelcnn.path, "--samples", "4")
    bound, exact = report["runs"]
    batches = as_batches(pixelcnn, open_data(pixelcnn, "test"), CPU)
    with torch.no_grad():
        log_p = torch.cat([pixelcnn.load().log_density(batch.x) for batch in batches.in_order(16)])
    assert exact["nll"]["value"] == pytest.approx(-float(log_p.double().mean()), rel=1e-5)
    assert (exact["nll"]["relation"], exact["nll"]["draws"]) == ("=", 1)
    assert exact["difference"]["relation"] == ">=", "the other's bound may lie above its truth"
    assert compared(pixelcnn.path, grey["fixed"].path)["runs"][1]["difference"]["relation"] == "<="
    assert (exact["model"], exact["network"]) == ("models.autoregressive.Autoregressive", "networks.pixelcnn.PixelCNN")
    assert compare_page.model_name(exact) == "Autoregressive, PixelCNN"
    assert (exact["code"], exact["squared_error"]) == (None, None)
    naive = exact["sampling"]["naive"]
    assert (naive["passes"], naive["measured_passes"], bound["sampling"]["naive"]) == (36, 8, None)
    assert any("extrapolated from 8 of 36 passes" in note for note in report["notes"])
    assert compare_page.cells(exact, report)["naive"].startswith("≈ ")


@pytest.mark.parametrize(("family", "channels"), [("Categorical", 3), ("LogisticMixture", 1)])
def test_the_time_without_cache_is_that_of_all_passes(family, channels, monkeypatch):
    """Channels that are in order take a pass each; those of a mixture share one."""
    config = Autoregressive.Config(likelihood=parse(Family, f"families.{family}"))
    model = config.build(Space((3, 4, 5), levels=4))
    asked = []

    def sample_naively(n: int, y: Any = None, *, positions: int) -> Tensor:
        asked.append(positions)
        time.sleep(0.001 * channels * positions)
        return torch.zeros(n)

    monkeypatch.setattr(model, "sample_naively", sample_naively)
    naive = without_cache(model, 2, None, Terms(None, "test", None, 1, 2, 0, CPU))
    assert naive is not None
    assert set(asked) == {8}
    assert (naive["passes"], naive["measured_passes"]) == (20 * channels, 8 * channels)
    assert 0.001 * 20 * channels / 2 <= naive["seconds"] < 3 * 0.001 * 20 * channels / 2


def test_the_time_of_a_call():
    calls = []

    def draw() -> Tensor:
        calls.append(0)
        time.sleep(0.1 if len(calls) == 1 else 0.005)
        return torch.full((1,), len(calls))

    seconds, x = timed(draw, CPU, patience=0.2)
    assert (int(x), 0.005 <= seconds < 0.05) == (1, True), "the first is kept, and does not count"
    calls.clear()
    seconds, x = timed(draw, CPU, patience=0.05)
    assert (len(calls), seconds >= 0.1) == (1, True), "what takes long is done once"


# ---- samples and files


def test_samples_are_those_of_the_verb(runs):
    right("sample", runs["b"].path, "-n", "6", "--seed", "5", "--out", "six.npz")
    drawn = np.load("six.npz")["x"].transpose(0, 3, 1, 2)
    right("compare", runs["a"].path, runs["b"].path, "--samples", "6", "--seed", "5", "--draws", "1", "--png", "p.png")
    picture, strip = np.asarray(Image.open("p.png")), pictures.grid(drawn, 17, columns=6)
    assert picture.shape[0] == 3 * strip.shape[0] + 2 * 2, "the data, a and b"
    assert np.array_equal(picture[-strip.shape[0] :, -strip.shape[1] :], strip)


def test_a_page_needs_nothing_else_and_shows_names_as_they_are(runs, here):
    name = '<b>&"x"|y'
    try:
        path = shutil.copytree(runs["a"].path, here / name)
    except OSError:
        pytest.skip("no such file names here")
    right(
        "compare",
        path,
        runs["plain"].path,
        runs["labelled"].path,
        "--draws",
        "1",
        "--html",
        "p.html",
        "--markdown",
        "p.md",
    )
    page = Path("p.html").read_text(encoding="utf-8")
    assert "<b>" not in page
    assert "&lt;b&gt;&amp;&quot;x&quot;|y" in page
    assert not re.search(r"<script|<link|@import|https?:|url\(", page)
    sources = re.findall(r'src="([^"]*)"', page)
    assert len(sources) == 3, "the data, and the two that sample"
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert page.count("<tr>") == page.count("</tr>")
    rows = [line for line in Path("p.md").read_text(encoding="utf-8").splitlines() if line.startswith("|")][:5]
    assert r'\<b>&"x"\|y' in rows[2]
    assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1, "no name begins a new column"


def test_a_page_without_samples_or_likelihoods(runs):
    right("compare", runs["plain"].path, "--html", "p.html", "--png", "p.png", "--markdown", "p.md")
    assert "<svg" not in Path("p.html").read_text(encoding="utf-8")


def test_a_table_is_written_between_its_markers(runs, here):
    page = here / "guide.md"
    page.write_text(f"# Guide\n\n{compare_page.BEGIN}\nold\n{compare_page.END}\n\nThe end.\n")
    for _ in range(2):
        right("compare", runs["a"].path, runs["b"].path, "--draws", DRAWS, "--markdown", page)
        text = page.read_text(encoding="utf-8")
        assert text.startswith(f"# Guide\n\n{compare_page.BEGIN}\n| run | model |")
        assert text.endswith(f"{compare_page.END}\n\nThe end.\n")
        assert "old" not in text
        assert text.count(compare_page.BEGIN) == text.count("| run |") == 1
    lines = [line for line in text.splitlines() if line.startswith("|")]
    widths = [len(re.findall(r"(?<!\\)\|", line)) for line in lines[:4]]
    assert len(set(widths)) == 1
    right("compare", runs["a"].path, "--draws", "1", "--markdown", "new.md")
    assert Path("new.md").read_text().startswith(compare_page.BEGIN)


def test_the_table_of_the_guide_is_between_markers():
    compare_page.check_markers(ROOT / "docs" / "autoregressive-or-latent.md")


def test_nothing_is_half_written(runs, here, monkeypatch):
    (here / "file").touch()
    before = tree(here)
    done = call("compare", runs["a"].path, "--draws", "1", "--html", here / "file" / "p.html")
    assert (done.status, "can't write" in done.err, done.out) == (2, True, "")
    assert tree(here) == before
    (here / "p.html").write_text("an earlier page")
    monkeypatch.setattr(Path, "write_text", lambda self, *_, **__: (_ for _ in ()).throw(OSError(28, "No space left")))
    done = call("compare", runs["a"].path, "--draws", "1", "--html", here / "p.html")
    assert (done.status, "No space left" in done.err) == (2, True)
    assert (here / "p.html").read_text() == "an earlier page"
    assert tree(here) == before | {"p.html"}


# ---- the verb


def plain(report: dict[str, Any]) -> dict[str, Any]:
    """A report without times."""
    return {**report, "runs": [{k: v for k, v in row.items() if k != "sampling"} for row in report["runs"]]}


def test_python_gives_what_the_command_prints(runs):
    paths = [runs[name].path for name in ("a", "labelled", "plain")]
    assert plain(lb.compare(paths, draws=3, device="cpu")) == plain(compared(*paths))


def test_the_same_numbers_each_time(runs, pixelcnn):
    """But for the times, which are of the machine; whatever was drawn before."""
    for some in ([runs["a"].path, runs["labelled"].path, runs["plain"].path], [pixelcnn.path]):
        first = plain(compared(*some))
        torch.manual_seed(9)
        assert plain(compared(*some)) == first


def test_a_table_for_people(runs):
    done = right("compare", runs["a"].path, runs["b"].path, runs["plain"].path, "--draws", DRAWS)
    for text in ("NLL, nats/image", "minus a, nats", "VAE, ELBO", "VAE, Reconstruction", "on one sheet", "3 draws"):
        assert text in done.out
    alone = right("compare", runs["a"].path, "--draws", DRAWS)
    assert "<=" in alone.out


def test_runs_of_one_name_are_called_by_their_paths(runs, tmp_path):
    other = shutil.copytree(runs["b"].path, tmp_path / "a")
    report = compared(runs["a"].path, other)
    assert [row["name"] for row in report["runs"]] == [str(runs["a"].path), str(other)]
    assert report["reference"] == str(runs["a"].path)


@pytest.fixture
def untrained(runs, tmp_path) -> Path:
    path = shutil.copytree(runs["a"].path, tmp_path / "untrained")
    (path / "model.safetensors").unlink()
    return path


def test_what_is_refused(runs, untrained, here):
    a = runs["a"].path
    (here / "bare.md").write_text("# No markers\n")
    for words, said in (
        ((a.parent / "nowhere",), "nowhere: no such run"),
        ((a.parent,), "is not a run"),
        ((a, a), f"{a} is given twice"),
        ((a, a.parent / "b" / ".." / "a"), "is given twice"),
        ((a, untrained), "untrained has no weights yet"),
        ((a, "--html", "page.txt"), "--html page.txt: expected a file ending in .html"),
        ((a, "--png", "page.jpg"), "--png page.jpg: expected a file ending in .png"),
        ((a, "--markdown", "bare.md"), "without the lines <!-- compare -->"),
        ((a, "--draws", "0"), "--draws 0: expected a whole number of at least 1"),
        ((a, "--limit", "0"), "--limit 0: expected"),
        ((a, "--samples", "65"), "--samples 65: expected at most 64"),
        ((a, "--split", "tset"), "did you mean test"),
        ((a, "--extractor", a), "the quality of samples is measured with it; add --quality"),
        ((a, "--data", "digitz"), "did you mean digits"),
    ):
        done = call("compare", *words)
        assert (done.status, done.out) == (2, ""), words
        assert said in done.err, words
        assert len(done.err.splitlines()) == 1
    with pytest.raises(lb.UserError, match="at least one run"):
        lb.compare([])
    assert (here / "bare.md").read_text() == "# No markers\n"


def test_one_image_has_no_standard_error(runs):
    report = compared(runs["a"].path, runs["b"].path, "--limit", "1")
    assert report["runs"][1]["difference"]["stderr"] is None
    assert report["runs"][0]["nll"]["stderr"] is None
    assert report["data"]["n"] == 1
    right("compare", runs["a"].path, runs["b"].path, "--limit", "1", "--html", "one.html", "--markdown", "one.md")

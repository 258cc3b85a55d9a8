"""What a latent is good for: codes, probes, classifiers, scores, and the scikit-learn transformer."""

import csv
import json
import os
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.exceptions import DataConversionWarning, NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

import lowerbound as lb
from command import call, right, tree
from lowerbound import testing
from lowerbound.chunks import log_density
from lowerbound.data.base import Data, Images
from lowerbound.errors import ConfigError, DataError, ModelError
from lowerbound.files import Rows
from lowerbound.metrics.base import World, measure
from lowerbound.metrics.classification import Classification
from lowerbound.model import Model
from lowerbound.models.classifier import Classifier
from lowerbound.models.ppca import PPCA
from lowerbound.progress import Progress
from lowerbound.runs.inputs import as_batches, open_data
from lowerbound.training import classifiers
from lowerbound.training.train import train as run_training
from lowerbound.verbs.probe.methods import linear, majority, neighbours
from lowerbound.verbs.probe.probe import Probe, budgets, labelled
from lowerbound.verbs.probe.spaces import baselines, principal
from lowerbound.verbs.score import COLUMNS, scored, typicality

pytestmark = pytest.mark.usefixtures("surroundings", "here")

CPU = torch.device("cpu")
SMALL = ["model.encoder.hidden=[16]", "model.decoder.hidden=[16]", "model.latent=3", "train.valid_every=100"]


def trained(out: Path | str, *changes: str, recipe: str = "vae", data: Path | str | None = None) -> lb.Run:
    """A run, without the pictures and the evaluation that the command ends with."""
    small = SMALL if recipe == "vae" else []
    return run_training(recipe, data=data, out=out, changes=[*small, *changes]).run


@pytest.fixture(autouse=True)
def short_tuning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classifiers, "STEPS", 40)
    monkeypatch.setattr(classifiers, "EPOCHS", 1)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> lb.Run:
    """A VAE of digits."""
    out = tmp_path_factory.mktemp("runs") / "digits"
    return trained(out, "train.steps=100")


@pytest.fixture(scope="module")
def classifier(run: lb.Run, tmp_path_factory: pytest.TempPathFactory) -> lb.Run:
    """A classifier of two kinds of images, one with a bright left half, one with a bright right half."""
    folder = tmp_path_factory.mktemp("halves")
    rng, n = np.random.default_rng(0), 600
    y = rng.integers(0, 2, n)
    x = rng.integers(0, 60, (n, 8, 8))
    x[y == 0, :, :4] += 180
    x[y == 1, :, 4:] += 180
    np.savez(folder / "halves.npz", x=x.astype(np.uint8), y=y)
    trained(folder / "vae", "train.steps=60", data=folder / "halves.npz")
    with pytest.MonkeyPatch.context() as m:
        m.setattr(classifiers, "STEPS", 40)
        words = ["--labels", "1,10", "--seeds", "2", "--finetune", "--out", folder / "classifier"]
        right("probe", folder / "vae", *words)
    return lb.Run.open(folder / "classifier")


def images(n: int = 60, classes: int = 3, seed: int = 0) -> Images:
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes
    x = rng.integers(0, 256, (n, 1, 4, 4), np.uint8)
    return Images("random", "train", x, 256, y=y, classes=tuple("abcdefgh"[:classes]))


# --- what the documentation says

GUIDE = (Path(__file__).parent.parent / "docs/features.md").read_text(encoding="utf-8")


def test_the_commands_of_the_guide_exist():
    lines = [line.partition("#")[0].split() for line in GUIDE.splitlines() if line.startswith("lowerbound ")]
    assert len(lines) > 10
    for verb in {words[1] for words in lines}:
        shown = right(verb, "--help").out
        asked = {word for words in lines if words[1] == verb for word in words if word.startswith("--")}
        assert all(option in shown for option in asked), (verb, asked)


# --- encode


def test_encode_is_what_features_gives(run):
    right("encode", run.path, "--out", "z.npz", "--scale", "--split", "valid")
    model, x = run.load(), run.recipe.data.open("valid")
    with torch.no_grad():
        q = model.encode(torch.from_numpy(np.asarray(x.x)))
    with np.load("z.npz", allow_pickle=False) as file:
        assert set(file) == {"z", "scale", "label"}
        assert np.allclose(file["z"], q.mean.numpy(), atol=1e-5)
        assert np.allclose(file["scale"], q.stddev.numpy(), atol=1e-5)
        assert file["z"].dtype == file["scale"].dtype == np.float32
        assert np.array_equal(file["label"], x.y)


def test_encode_keeps_the_paths_of_a_folder(run, here):
    for i, name in enumerate(["a", "a much longer näme", "b"] * 4):
        Image.fromarray(np.full((8, 8), 20 * i, np.uint8)).convert("1").save(here / f"{name}{i}.png")
    assert (
        call("encode", run.path, "--data", here, "--out", "z.npz", "--split", "all").status == 2
    )  # 256 levels, not 17
    with Rows(here) as rows:
        rows.add("path", np.asarray(["ä", "long"], "<U4"))
        rows.add("path", np.asarray(["b"], "<U4"))
        rows.save(here / "p.npz")
    assert np.load("p.npz")["path"].tolist() == ["ä", "long", "b"]


def test_encode_memory_does_not_grow_with_the_codes(here):
    """Codes of 160 MB are written within less than a tenth of it."""
    code = """if True:
        import resource, sys
        from pathlib import Path
        import numpy as np
        from lowerbound.files import Rows, replacing
        block = np.ones((4096, 100), np.float32)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with replacing(Path("z.npz")) as temporary, Rows(Path(".")) as rows:
            for i in range(100):
                rows.add("z", block * i)
            rows.save(temporary)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 16 * 1024, "KiB"
    z = np.load("z.npz")["z"]
    assert z.shape == (409600, 100)
    assert (z[::4096, 0] == np.arange(100)).all()


def test_encode_on_a_full_disk_is_one_sentence_and_leaves_nothing(run, here):
    code = """if True:
        import resource, sys
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
        from lowerbound.cli import main
        sys.argv = ["lowerbound", "encode", sys.argv[1], "--out", "z.npz"]
        main()
    """
    done = subprocess.run([sys.executable, "-c", code, str(run.path)], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert done.stderr == "lowerbound: can't write z.npz: File too large (lowerbound.errors/usage)\n"
    assert tree(here) == set()


# --- the labels of a probe


def test_budgets():
    assert budgets("all, 10,1,10") == (1, 10, None)
    assert budgets([5, "all"]) == (5, None)
    for wrong in ("0", "ten", "-1", "1,,2", "1.5", "²"):
        with pytest.raises(ConfigError, match="labels per class"):
            budgets(wrong)


def test_subsets_hold_exactly_k_of_each_class_and_are_seeded():
    data = images(90)
    assert data.y is not None
    for k in (1, 7, 30):
        index = labelled(data, k, 0)
        assert np.bincount(data.y[index]).tolist() == [k] * 3
        assert np.array_equal(index, labelled(data, k, 0))
        assert len(set(index)) == 3 * k
    assert not np.array_equal(labelled(data, 7, 0), labelled(data, 7, 1))
    assert set(labelled(data, 7, 0)) <= set(labelled(data, 20, 0)), "a smaller budget is part of a larger one"
    assert len(labelled(data, None, 0)) == 90


# --- the probes


def separable(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 4
    return (10 * np.eye(4)[y] + rng.normal(size=(n, 4))).astype(np.float32), y


def told(x: np.ndarray, y: np.ndarray, test: np.ndarray, **options: Any) -> tuple[np.ndarray, np.ndarray]:
    """The labels of the two probes."""
    weight, bias = linear(x, y, **options)
    return np.unique(y)[(test @ weight.T + bias).argmax(1)], neighbours(x, y, test, **options)


@pytest.mark.parametrize("n", [4, 40])
def test_separable_features_are_told_without_a_mistake(n: int):
    (x, y), (test, truth) = separable(n), separable(400, 1)
    for labels in told(x, y, test, choose=n > 4):
        assert (labels == truth).all()


def test_permuted_labels_are_told_by_chance():
    (x, y), (test, truth) = separable(400), separable(2000, 1)
    for labels in told(x, np.random.default_rng(2).permutation(y), test):
        share, error = (labels == truth).mean(), np.sqrt(0.25 * 0.75 / 2000)
        # 4 clusters, each of which may be told as any one class
        assert share < 0.5 + 4 * error


def test_classes_keep_their_numbers_when_some_are_absent():
    (x, y), (test, truth) = separable(40), separable(100, 1)
    rows, seen = np.isin(y, [1, 3]), np.isin(truth, [1, 3])
    for labels in told(x[rows], y[rows], test[seen]):
        assert (labels == truth[seen]).all()


def test_linear_and_neighbours_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    x, y, test = rng.normal(size=(60, 5)), rng.integers(0, 3, 60), rng.normal(size=(200, 5))
    weight, bias = linear(x, y, choose=False)
    reference = LogisticRegression(C=0.01).fit(x, y)
    assert np.allclose(test @ weight.T + bias, reference.decision_function(test), atol=1e-3)
    assert (neighbours(x, y, test, choose=False) == KNeighborsClassifier(1).fit(x, y).predict(test)).all()


def test_equally_many_neighbours_give_the_label_of_the_nearest():
    assert majority(np.array([[3, 1, 1], [3, 1, 2], [2, 2, 1], [5, 4, 4]])).tolist() == [1, 3, 2, 4]


def test_leaving_one_out_leaves_it_out():
    """Each point's only neighbour nearby has the other label: k = 1 tells it wrong, and more of them right."""
    rng = np.random.default_rng(0)
    y = np.arange(60) % 2
    centres = np.where(y == 0, 0.0, 100.0)[:, None] + rng.normal(size=(60, 2)) * 10
    x, noise = np.concatenate([centres, centres[:10] + 1e-3]), np.concatenate([y, 1 - y[:10]])
    assert (neighbours(x, noise, centres[:10] + 5e-4) == y[:10]).mean() > 0.8


def test_principal_components_are_those_of_scikit_learn():
    from sklearn.decomposition import PCA

    data = images(200)
    x = data.x.reshape(200, -1) / 255
    mean, variance, axes, along = principal(data, np.arange(200), 5)
    pca = PCA(5, svd_solver="full").fit(x)
    assert np.allclose(mean, x.mean(0), atol=1e-6)
    assert np.allclose(variance, x.var(0), atol=1e-6)
    assert np.allclose(along, pca.explained_variance_ * 199 / 200, rtol=1e-4)
    assert np.allclose(abs((axes * pca.components_.T).sum(0)), 1, atol=1e-4)
    pixels, components = baselines(data, data, 5)
    assert np.allclose(pixels.test, x, atol=1e-6)
    assert np.allclose(components.test, components.train(np.arange(200)))
    assert np.allclose(abs(components.test), abs(pca.transform(x)), atol=1e-4)
    assert np.allclose(components.standard(components.test).std(0), 1, atol=1e-3)


def test_the_encoder_is_seen_as_features_gives_it(run):
    world = Probe.of(run, None, CPU, Progress())
    encoder, pixels, pca = world.spaces
    index = np.array([3, 700, 41])
    with torch.no_grad():
        z = run.load().features(torch.from_numpy(world.train.x[index])).numpy()
    assert np.allclose(encoder.train(index), z, atol=1e-5)
    assert [s.test.shape for s in (encoder, pixels, pca)] == [(189, 3), (189, 64), (189, 3)]


# --- probe


def test_probe(run, here):
    done = right("probe", run.path, "--labels", "all,2", "--seeds", "2", "--finetune", "--json")
    report = done.json
    methods = [f"{s}, {m}" for s in ("encoder", "pixels", "PCA") for m in ("linear", "kNN")]
    methods += ["fine-tuned", "from scratch"]
    assert {(r["method"], r["labels"]) for r in report["results"]} == {(m, k) for m in methods for k in (2, "all")}
    for row in report["results"]:
        repeated = row["labels"] == 2 or row["method"] in ("fine-tuned", "from scratch")
        assert len(row["each"]) == (2 if repeated else 1)
        assert row["accuracy"] == pytest.approx(np.mean(row["each"]))
        assert row["std"] == (pytest.approx(np.std(row["each"], ddof=1)) if repeated else None)
        assert row["images"] == (20 if row["labels"] == 2 else 1459)
    by = {(r["method"], r["labels"]): r["accuracy"] for r in report["results"]}
    assert by["pixels, kNN", "all"] > 0.95
    assert by["pixels, kNN", 2] < by["pixels, kNN", "all"]
    assert json.loads((run.path / "evaluation/probe.json").read_text())["results"] == report["results"]
    with Image.open(run.path / "pictures/probe.png") as picture:
        assert picture.width > 500
    assert "no labels" in report["protocol"]["PCA"]
    assert tree(here) == set(), "classifiers that are not kept leave nothing"


def test_probe_prints_a_table_and_repeats_itself(run):
    first = right("probe", run.path, "--labels", "3", "--seeds", "2").out
    assert "digits, test, n=189, 3 features" in first
    assert any("encoder, kNN" in line and "±" in line for line in first.splitlines())
    assert right("probe", run.path, "--labels", "3", "--seeds", "2").out == first


def test_a_kept_classifier_is_a_run_of_its_own(classifier):
    assert {"config.json", "model.safetensors", "log.jsonl", "pictures/curves.png"} <= tree(classifier.path)
    assert not any(p.name.startswith(".") for p in classifier.path.parent.iterdir())
    assert classifier.facts.counts == (10, 10), "the largest budget"
    report = right("evaluate", classifier.path, "--json").json["metrics"]
    assert report["accuracy"]["value"] > 0.95
    assert report["nll"] == {"value": None, "relation": "?"}
    test, model = classifier.recipe.data.open("test"), classifier.load()
    p = model.probabilities(torch.from_numpy(np.asarray(test.x))).double().numpy()  # pyright: ignore
    nats = -np.log(p[np.arange(len(p)), test.y])
    assert report["cross_entropy"]["value"] == pytest.approx(nats.mean(), rel=1e-4)
    assert report["cross_entropy"]["stderr"] == pytest.approx(nats.std(ddof=1) / np.sqrt(len(p)), rel=1e-3)
    assert report["accuracy"]["value"] == (p.argmax(1) == test.y).mean()


def test_a_classifier_begins_at_the_encoder_and_its_probe(run):
    vae = run.load()
    config = Classifier.Config.of(vae)
    label = testing.LABEL._replace(levels=10)
    classifier = config.build(run.facts.space, (label,))
    weight, bias = torch.randn(10, 3), torch.randn(10)
    classifier.begin_at(vae, weight, bias)
    x = torch.from_numpy(run.recipe.data.open("valid").x[:7])
    with torch.no_grad():
        assert torch.allclose(classifier.logits(x), vae.features(x) @ weight.T + bias, atol=1e-5)


def test_fine_tuning_trains_on_the_labelled_images_alone(run):
    """Images whose labels were not given change nothing."""
    world = Probe.of(run, None, CPU, Progress())
    tuner = classifiers.Tuner.of(run, world.model, None, CPU)
    subset = labelled(world.train, 2, 0)
    first = tuner.accuracy(world.train, world.test, subset, 5)
    others = np.setdiff1d(np.arange(len(world.train)), subset)
    x = np.array(world.train.x)
    x[others] = 0
    blank = Images("digits", "train", x, 17, y=world.train.y, classes=world.train.classes)
    assert tuner.accuracy(blank, world.test, subset, 5) == first


def test_a_classifier_from_scratch():
    right("train", "classifier", "--data", "digits", "--out", "c", "model.encoder=networks.mlp.MLP", "train.steps=150")
    report = right("evaluate", "c", "--metrics", "accuracy", "--json").json["metrics"]
    assert report["accuracy"]["value"] > 0.8
    assert not Path("c/pictures/samples.png").exists()


def test_the_metric_of_classifiers():
    model = testing.ModelCase.of(Classifier.Config).build()
    testing.check_metric(Classification, model)
    world = World(testing.ModelCase.of(PPCA.Config).build(), testing.MetricCase.of(Classification(), model).images)
    with pytest.raises(ModelError, match="has no accuracy"):
        measure(world, names=["accuracy"])


# --- predict


def test_predict_files_and_data_as_computed(classifier, here):
    test = classifier.recipe.data.open("test")
    model = classifier.load()
    for i in range(5):
        Image.fromarray(test.x[i, 0]).save(here / f"{i}.png")
    p = model.probabilities(torch.from_numpy(test.x[:5]))
    rows = right("predict", classifier.path, *(f"{i}.png" for i in range(5)), "--json").json
    assert [r["path"] for r in rows] == [f"{i}.png" for i in range(5)]
    assert [r["label"] for r in rows] == [str(c) for c in p.argmax(1).tolist()]
    assert np.allclose([r["probability"] for r in rows], p.max(1).values, atol=1e-5)
    (here / "folder").mkdir()
    for i in range(5):
        (here / f"{i}.png").rename(here / "folder" / f"{i}.png")
    again = {r["path"]: r["label"] for r in lb.predict(classifier.path, data=str(here / "folder"))}
    assert again == {r["path"]: r["label"] for r in rows}, "data without labels"
    whole = lb.predict(classifier.path, data=classifier.recipe.data.source, split="test")
    assert [r["label"] for r in whole[:5]] == [r["label"] for r in rows]
    assert [r["index"] for r in whole] == list(range(len(test)))


# --- score


def read(path: str) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_scores_are_those_of_public_calls(run):
    done = right(
        "score", run.path, "digits", "--split", "test", "--out", "s.csv", "--draws", "7", "--seed", "3", "--json"
    )
    rows = read("s.csv")
    assert tuple(rows[0]) == COLUMNS
    assert [int(r["index"]) for r in rows] == list(range(189))
    model, test = run.load(), open_data(run, "test")
    batches = as_batches(run, test, CPU)
    with torch.no_grad():
        likely = log_density(model, batches, 7, 3)
        kl = measure(World(model, batches), names=["kl"])["kl"].each
        train = as_batches(run, open_data(run, "train"), CPU)
        typical = log_density(model, train, 7, 3)
        q = model.encode(torch.from_numpy(np.asarray(test.x)))
        prior = torch.distributions.Normal(0.0, 1.0)
        closed = torch.distributions.kl_divergence(q.base_dist, prior).sum(1).numpy()
    error = measure(World(model, batches), names=["squared_error"])["squared_error"].each
    assert kl is not None
    assert error is not None
    column = {name: np.array([float(r[name]) for r in rows]) for name in ("log_likelihood", "kl", "typicality")}
    assert np.allclose(column["log_likelihood"], likely, rtol=1e-5)
    assert np.allclose(column["kl"], closed, rtol=1e-4)
    assert abs(column["kl"].mean() - kl.mean()) < 5 * kl.std() / np.sqrt(189)
    assert np.allclose([float(r["reconstruction_error"]) for r in rows], error, rtol=1e-5)
    assert np.allclose(column["typicality"], abs(likely - typical.mean()), atol=1e-3)
    assert done.json["training"]["mean"] == pytest.approx(typical.mean(), rel=1e-6)
    assert {r["relation"] for r in rows} == {">="}
    assert [r["label"] for r in rows] == [str(c) for c in np.asarray(test.y)]


def test_the_picture_shows_the_least_likely_first(run, here):
    done = right("score", run.path, "digits", "--split", "valid", "--out", "s.csv", "--json").json
    likely = np.array([float(r["log_likelihood"]) for r in read("s.csv")])
    valid = run.recipe.data.open("valid")
    with Image.open(done["picture"]) as picture:
        pixels = np.asarray(picture)
    for place, i in enumerate(likely.argsort()[:8]):  # the first row; a pixel is 7 x 7 there, with 2 between images
        cell = pixels[3:56:7, 58 * place + 3 : 58 * place + 56 : 7]
        assert np.array_equal(cell, np.rint(valid.x[i, 0] * (255 / 16)))
    assert done["picture"] == "s_least_likely.png"
    assert tree(here) == {"s.csv", "s_least_likely.png"}


def test_scores_of_foreign_images(run, here):
    """Other images are brought to the run's size and colour, which is said."""
    np.savez("big.npz", x=np.random.default_rng(0).integers(0, 17, (30, 20, 30, 3), np.uint8), levels=17)
    done = right("score", run.path, "big.npz", "--out", "s.csv", "--draws", "1")
    assert "big.npz: made 8x8 grey as the images of" in done.err
    assert len(read("s.csv")) == 30


def test_a_model_without_likelihood_has_an_error_and_a_question_mark(here):
    np.savez("grey.npz", x=np.random.default_rng(0).integers(0, 256, (80, 8, 8), np.uint8))
    words = ["model.likelihood=families.Bernoulli", "data.binarize=false"]
    trained("none", *words, "train.steps=5", data="grey.npz")
    done = right("score", "none", "grey.npz", "--out", "s.csv", "--json")
    rows = read("s.csv")
    assert {(r["log_likelihood"], r["relation"], r["typicality"]) for r in rows} == {("", "?", "")}
    assert all(float(r["reconstruction_error"]) > 0 for r in rows)
    assert all(float(r["kl"]) > 0 for r in rows)
    point = ["model.posterior=families.Point", "model.objective=objectives.Reconstruction"]
    trained("ae", *words, *point, "train.steps=5", data="grey.npz")
    right("score", "ae", "grey.npz", "--out", "s.csv")
    assert {r["kl"] for r in read("s.csv")} == {""}
    assert done.json["picture"] == "s_largest_error.png"


def test_scores_of_a_conditional_model_are_given_the_label():
    run = trained("c", "data.label=true", "train.steps=20")
    right("score", "c", "digits", "--split", "test", "--out", "s.csv", "--draws", "2")
    with torch.no_grad():
        likely = log_density(run.load(), as_batches(run, open_data(run, "test"), CPU), 2)
    assert np.allclose([float(r["log_likelihood"]) for r in read("s.csv")], likely, rtol=1e-5)


def test_scores_of_an_exact_marginal(others):
    """Probabilistic PCA knows p(x) without its latents: the score is that, not a bound through them."""
    right("score", others["ppca"], "digits", "--split", "valid", "--out", "s.csv", "--draws", "3")
    run = lb.Run.open(others["ppca"])
    with torch.no_grad():
        likely = log_density(run.load(), as_batches(run, open_data(run, "valid"), CPU), 3)
    assert np.allclose([float(r["log_likelihood"]) for r in read("s.csv")], likely, rtol=1e-5)


def test_typicality_looks_at_some_of_many(run, monkeypatch):
    monkeypatch.setattr(sys.modules["lowerbound.verbs.score"], "REFERENCE", 50)
    typical = typicality(run, run.load(), 1, 0, CPU)
    assert typical.n == 50


def test_scores_do_not_depend_on_batches(run, monkeypatch):
    batches = as_batches(run, open_data(run, "valid"), CPU)
    whole = [s for _, s in scored(run.load(), batches, 3)]
    monkeypatch.setattr(Model, "rows", 40)
    cut = [s for _, s in scored(run.load(), batches, 3)]
    assert len(cut) > len(whole)
    for field in ("log_likelihood", "reconstruction_error", "kl"):
        a, b = (np.concatenate([getattr(s, field) for s in scores]) for scores in (whole, cut))
        assert np.allclose(a, b, rtol=1e-5)


# --- what can't be done


@pytest.fixture(scope="module")
def others(run: lb.Run, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("others")
    rng = np.random.default_rng(0)
    x = rng.integers(0, 17, (60, 8, 8), np.uint8)
    np.savez(folder / "plain.npz", x=x, levels=17)
    np.savez(folder / "rare.npz", x=x, y=np.where(np.arange(60) == 1, 1, 0), levels=17)
    np.savez(folder / "one.npz", x=x, y=np.zeros(60, int), levels=17)
    trained(folder / "conditional", "train.steps=3", "data.label=true")
    trained(folder / "ppca", "model.latent=3", recipe="ppca")
    return {
        "RUN": str(run.path),
        "OTHERS": str(folder),
        **{name: str(folder / name) for name in ("plain.npz", "rare.npz", "one.npz", "conditional", "ppca")},
    }


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("probe RUN --data plain.npz", ["plain has no labels", "class folder"]),
        ("probe RUN --data one.npz", ["all of one class"]),
        ("probe RUN --labels 500", ["--labels 500", "training images", "at most"]),
        ("probe RUN --data rare.npz --labels 2", ["--labels 2", "the class 1 of rare has 1"]),
        ("probe RUN --labels ten", ["--labels ten", "1,10,100,all"]),
        ("probe RUN --seeds 0", ["--seeds 0", "at least 1"]),
        ("probe RUN --out x", ["--out", "--finetune"]),
        ("probe RUN --finetune --out OTHERS", ["already holds something"]),
        ("probe conditional", ["given the label", "data.label=false"]),
        ("probe ppca --finetune", ["PPCA has no encoder network"]),
        ("probe CLASSIFIER", ["Classifier has no latent code"]),
        ("encode CLASSIFIER --out z.npz", ["Classifier has no latent code"]),
        ("sample CLASSIFIER --out s.png", ["can't be sampled", "p(y|x)"]),
        ("evaluate CLASSIFIER --metrics nll", ["nll", "says nothing of log p(x)"]),
        ("score CLASSIFIER digits --out s.csv", ["no score of an image"]),
        ("predict RUN a.png", ["gives no labels", "--finetune --out"]),
        ("predict CLASSIFIER", ["expected image files, or --data"]),
        ("predict CLASSIFIER a.png --data digits", ["not both"]),
        ("predict CLASSIFIER nowhere.png", ["nowhere.png: No such file"]),
        ("score RUN digits --out s.txt", ["--out s.txt", ".csv"]),
        ("score RUN digits --out s.csv --draws 0", ["--draws 0"]),
        ("score RUN nowhere --out s.csv", ["nowhere"]),
        ("train classifier --data digits data.label=false", ["one label from each image", "data.label=true"]),
    ],
)
def test_mistakes(command: str, says: list[str], others, classifier, here):
    names = others | {"CLASSIFIER": str(classifier.path)}
    done = call(*(names.get(word, word) for word in command.split()))
    assert done.status == 2
    assert done.out == ""
    assert len(done.err.splitlines()) == 1
    for words in says:
        assert words in done.err
    assert tree(here) == set(), "nothing half-written"


def test_classes_without_training_images_are_named(run, here):
    x = np.random.default_rng(0).integers(0, 255, (8, 8), np.uint8)
    for part, name in (("train", "a"), ("train", "b"), ("valid", "a"), ("test", "a"), ("test", "c")):
        (here / "data" / part / name).mkdir(parents=True)
        for i in range(3):
            Image.fromarray(x).save(here / "data" / part / name / f"{i}.png")
    trained("run", "train.steps=2", data="data")
    done = call("probe", "run", "--labels", "1")
    assert done.status == 2
    assert "1 classes of the test images have no training image (c)" in done.err


def test_a_classifier_says_nothing_of_images():
    model = testing.ModelCase.of(Classifier.Config).build()
    for asked in (model.sample, lambda n: model.log_density(torch.zeros(n, 1, 2, 2, dtype=torch.uint8))):
        with pytest.raises(ModelError, match=r"label given the image"):
            asked(3)


# --- LatentEncoder


TINY = {"model": {"encoder": {"hidden": [8]}, "decoder": {"hidden": [8]}}}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@parametrize_with_checks([lb.LatentEncoder(latent=2, train={"steps": 3}, **TINY)])
def test_scikit_learn_finds_nothing(estimator, check):
    check(estimator)


def test_a_table_of_few_directions_comes_back():
    """A linear Gaussian table, in its own units, is restored up to what its latents leave out."""
    rng = np.random.default_rng(0)
    x = 1000 + 50 * rng.normal(size=(400, 2)) @ rng.normal(size=(2, 6)) + rng.normal(size=(400, 6))
    networks = {"encoder": {"hidden": []}, "decoder": {"hidden": []}}
    encoder = lb.LatentEncoder(
        latent=2, train={"steps": 500, "optimizer": {"lr": 0.02}}, model=networks, random_state=0
    ).fit(x)
    back = encoder.inverse_transform(encoder.transform(x))
    assert np.square(back - x).mean() < 0.05 * x.var(0).mean()
    assert encoder.model_.density.value == "<="  # pyright: ignore
    assert encoder.get_feature_names_out().tolist() == ["latentencoder0", "latentencoder1"]


@pytest.mark.parametrize("shape", [(8, 8), (8, 6, 3)])
def test_images(shape: tuple[int, ...], here):
    x = np.random.default_rng(0).integers(0, 17, (50, *shape), np.uint8)
    encoder = lb.LatentEncoder(latent=4, train={"steps": 5}, levels=17, random_state=1, **TINY)
    z = encoder.fit_transform(x)
    assert (z.shape, z.dtype) == ((50, 4), np.float32)
    back = encoder.inverse_transform(z)
    assert (back.shape, back.dtype) == (x.shape, np.uint8)
    assert back.max() < 17
    assert np.allclose(encoder.transform(x[10:20]), z[10:20], atol=1e-5)
    again = lb.LatentEncoder(latent=4, train={"steps": 5}, levels=17, random_state=1, **TINY).fit_transform(x)
    assert np.array_equal(again, z)
    assert np.array_equal(pickle.loads(pickle.dumps(encoder)).transform(x), z)
    with torch.no_grad():
        events = torch.from_numpy(x[:, None] if len(shape) == 2 else x.transpose(0, 3, 1, 2).copy())
        assert np.allclose(encoder.model_.features(events).numpy(), z, atol=1e-5)


def test_images_with_their_channels_first():
    """Where that is the only thing they can be; the model is that of the same images with their channels last."""
    last = np.random.default_rng(0).integers(0, 17, (40, 8, 6, 3), np.uint8)
    first = last.transpose(0, 3, 1, 2)
    encoder = lb.LatentEncoder(latent=4, train={"steps": 5}, levels=17, random_state=1, **TINY)
    expected = encoder.fit_transform(last)
    with pytest.warns(DataConversionWarning, match=r"X is \[40, 3, 8, 6\]: taken as images with their channels first"):
        encoder.fit(first)
    assert encoder.model_.space.shape == (3, 8, 6)
    assert np.array_equal(encoder.transform(first), expected)
    assert encoder.inverse_transform(expected).shape == first.shape
    with pytest.raises(ValueError, match=r"images have shape \[8, 6, 3\], expected \[3, 8, 6\]"):
        encoder.transform(last)
    with pytest.raises(DataError, match=r"X is \[40, 3, 8, 4\], which can be .* x\.transpose\(0, 2, 3, 1\)"):
        encoder.fit(np.zeros((40, 3, 8, 4), np.uint8))


def test_a_row_is_encoded_alone_even_where_a_recipe_binarizes():
    x = np.random.default_rng(0).integers(0, 256, (40, 28, 28), np.uint8)
    encoder = lb.LatentEncoder("vae-mnist", latent=2, train={"steps": 2}, random_state=0).fit(x)
    assert np.allclose(encoder.transform(x[7:8]), encoder.transform(x)[7:8], atol=1e-5)


def test_a_grid_search_over_latent():
    data = Data(source="digits").open("test")
    x, y = data.x[:120, 0], np.asarray(data.y)[:120]
    encoder = lb.LatentEncoder(train={"steps": 30}, levels=17, random_state=0, **TINY)
    search = GridSearchCV(
        make_pipeline(encoder, KNeighborsClassifier(1)), {"latentencoder__latent": [1, 12]}, cv=2, error_score="raise"
    ).fit(x, y)
    assert search.best_params_ == {"latentencoder__latent": 12}
    assert search.best_score_ > 0.3


def test_the_python_of_the_guide_runs(capsys):
    (code,) = [part.partition("```")[0] for part in GUIDE.split("```python\n")[1:]]
    exec(code.replace('"steps": 200', '"steps": 5'), {})
    assert "(1797, 8) (1797, 64)" in capsys.readouterr().out


def test_training_on_arrays_leaves_nothing(here, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(here))
    monkeypatch.setenv("XDG_CACHE_HOME", str(here))
    state = torch.get_rng_state()
    lb.LatentEncoder(latent=2, train={"steps": 2}, **TINY).fit(np.random.default_rng(0).normal(size=(20, 3)))
    assert os.listdir(here) == []
    assert torch.equal(torch.get_rng_state(), state), "torch's own noise goes on as if nothing had been"


def test_what_a_latent_encoder_refuses():
    table = np.random.default_rng(0).normal(size=(20, 784))
    pixels = np.zeros((20, 8, 8), np.uint8)
    encoder = lb.LatentEncoder(latent=2, train={"steps": 1}, **TINY)
    with pytest.raises(ConfigError, match=r"model.encoder: a table takes networks.mlp.MLP, got networks.conv.Conv"):
        lb.LatentEncoder("vae-conv-mnist").fit(table)
    with pytest.raises(ConfigError, match="given labels"):
        lb.LatentEncoder("classifier").fit(pixels)
    with pytest.raises(ConfigError, match="did you mean steps"):
        lb.LatentEncoder(train={"step": 1}).fit(table)
    with pytest.raises(ValueError, match="must be uint8 with values below 256, got float64"):
        encoder.fit(pixels.astype(float))
    with pytest.raises(ValueError, match="the value 200, but levels is 17"):
        lb.LatentEncoder(levels=17).fit(np.full((5, 8, 8), 200, np.uint8))
    with pytest.raises(NotFittedError):
        lb.LatentEncoder().transform(table)
    encoder.fit(pixels)
    with pytest.raises(ValueError, match=r"images have shape \[4, 4\], expected \[8, 8\]"):
        encoder.transform(pixels[:, :4, :4])
    with pytest.raises(ValueError, match="codes have 3 columns, but this LatentEncoder gives 2"):
        encoder.inverse_transform(np.zeros((1, 3)))

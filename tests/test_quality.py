"""Quality: metrics of several values, structural similarity, sets of samples against real images, classifiers."""

import hashlib
import math
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import lowerbound as lb
from command import call, right
from lowerbound.errors import ConfigError, ModelError
from lowerbound.likeness import frechet
from lowerbound.metrics import extractors, samples
from lowerbound.metrics.accuracy import labelled
from lowerbound.metrics.base import Value, World, measure, taken
from lowerbound.metrics.distances import Precision, Recall, covered, kernel_distance
from lowerbound.metrics.extractors import Input
from lowerbound.metrics.likelihood import NLL
from lowerbound.metrics.reconstruction import ssim
from lowerbound.metrics.samples import shares
from lowerbound.model import Draw, Drawn, WithoutDensity
from lowerbound.models.classifier import Classifier
from lowerbound.runs.inputs import as_batches, open_data
from lowerbound.stages import Loss
from lowerbound.testing.metrics import MetricCase
from lowerbound.training.train import train as run_training

pytestmark = pytest.mark.usefixtures("surroundings", "here")

CPU = torch.device("cpu")
REAL = os.environ.get("LOWERBOUND_DATA")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> lb.Run:
    """A VAE of digits, given the label."""
    small = ["model.encoder.hidden=[64]", "model.decoder.hidden=[64]", "train.steps=200", "data.label=true"]
    return run_training("vae", out=tmp_path_factory.mktemp("runs") / "digits", changes=small).run


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> lb.Run:
    small = ["data.source=digits", "model.latent=8", "model.encoder.widths=[8]", "train.epochs=5"]
    return run_training("classifier", out=tmp_path_factory.mktemp("runs") / "classifier", changes=small).run


# ---- names


def test_a_name_takes_all_values_that_begin_with_it():
    found = dict.fromkeys(("usage.top", "usage.bottom", "used"), Value(1.0, None, "codes", "=", 1, 0))
    assert list(taken(found, ["usage"])) == ["usage.top", "usage.bottom"]
    assert list(taken(found, ["used", "usage.top"])) == ["usage.top", "used"]
    with pytest.raises(ConfigError, match=r"no metric 'usage.tpo'; did you mean usage.top"):
        taken(found, ["usage.tpo"])
    with pytest.raises(ConfigError, match="no metric 'us'"):
        taken(found, ["us"])


def test_a_suffix_that_a_metric_does_not_have_is_named():
    case = MetricCase.of(NLL(draws=2))
    with pytest.raises(ConfigError, match=r"no metric 'nll.top'; did you mean nll"):
        measure(case.world(), names=["nll.top"], options={"draws": 2})
    with pytest.raises(ModelError, match=r"VAE has no accuracy.top"):
        measure(case.world(), names=["accuracy.top"])


# ---- structural similarity


def test_an_image_is_wholly_similar_to_itself():
    x = torch.rand(3, 2, 8, 9, dtype=torch.float64)
    assert torch.allclose(ssim(x, x), torch.ones(3, dtype=torch.float64))
    assert (ssim(x, 1 - x) < 0.5).all()


@pytest.mark.parametrize("size", [1, 2, 8, 28])
def test_the_similarity_of_plain_images_is_that_of_their_means(size: int):
    a, b = torch.full((1, 3, size, size), 0.2).double(), torch.full((1, 3, size, size), 0.7).double()
    assert ssim(a, b).item() == pytest.approx((2 * 0.2 * 0.7 + 1e-4) / (0.2**2 + 0.7**2 + 1e-4))


@pytest.mark.parametrize(("shape", "side"), [((2, 13, 15), 11), ((1, 8, 8), 7), ((3, 4, 6), 3)])
def test_similarity_equals_that_of_every_window_by_itself(shape: tuple[int, int, int], side: int):
    a, b = np.random.default_rng(0).random((2, *shape))
    t = np.arange(side) - side // 2
    w = np.exp(-(t[:, None] ** 2 + t**2) / (2 * 1.5**2))
    w /= w.sum()
    found = []
    for c in range(shape[0]):
        for i in range(shape[1] - side + 1):
            for j in range(shape[2] - side + 1):
                x, y = (v[c, i : i + side, j : j + side] for v in (a, b))
                mx, my = (w * x).sum(), (w * y).sum()
                vx, vy, cov = (w * (x - mx) ** 2).sum(), (w * (y - my) ** 2).sum(), (w * (x - mx) * (y - my)).sum()
                found.append((2 * mx * my + 1e-4) * (2 * cov + 9e-4) / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4)))
    assert ssim(*(torch.from_numpy(v[None]) for v in (a, b))).item() == pytest.approx(np.mean(found), rel=1e-9)


# ---- sets of vectors


def white(n: int, F: int, seed: int) -> np.ndarray:
    """[n, F] of mean 0 and covariance I exactly."""
    x = np.random.default_rng(seed).normal(size=(n, F))
    x -= x.mean(0)
    return x @ np.linalg.inv(np.linalg.cholesky(np.cov(x, rowvar=False))).T


def test_frechet_of_sets_with_known_moments():
    mean, a, b = np.array([1.0, 0, -2]), np.array([1.0, 2, 3]), np.array([2.0, 2, 0.5])
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    value = frechet((mean + white(50, 3, 1) * a) @ turn, (white(80, 3, 2) * b) @ turn)
    assert value == pytest.approx((mean**2).sum() + ((a - b) ** 2).sum())


def test_kernel_distance_equals_that_by_pairs():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(7, 3)), rng.normal(size=(9, 3)) + 1

    def k(x: np.ndarray, y: np.ndarray) -> float:
        return (x @ y / 3 + 1) ** 3

    def within(x: np.ndarray) -> float:
        return float(np.mean([k(x[i], x[j]) for i in range(len(x)) for j in range(len(x)) if i != j]))

    by_pairs = within(a) + within(b) - 2 * np.mean([k(x, y) for x in a for y in b])
    assert kernel_distance(a, b)[0] == pytest.approx(by_pairs)


def test_kernel_distance_is_unbiased_and_knows_its_error():
    """Over many pairs of sets of one distribution the mean is 0; and the errors are no smaller than the spread."""
    rng = np.random.default_rng(0)
    found = [kernel_distance(rng.normal(size=(40, 2)), rng.normal(size=(30, 2))) for _ in range(400)]
    values, errors = np.array([v for v, _ in found]), np.array([e for _, e in found])
    assert abs(values.mean()) < 4 * values.std() / math.sqrt(len(values))
    assert values.std() < 1.2 * math.sqrt((errors**2).mean())
    found = [kernel_distance(rng.normal(size=(80, 2)), rng.normal(size=(80, 2)) + 1) for _ in range(300)]
    values, errors = np.array([v for v, _ in found]), np.array([e for _, e in found])
    assert values.std() == pytest.approx(math.sqrt((errors**2).mean()), rel=0.25)


def test_covered_by_hand():
    """With k = 1, the balls around 0, 1, 3 have the radii 1, 1, 2."""
    points = np.array([[-1.0], [-1.1], [2.0], [5.0], [5.1]])
    assert covered(points, np.array([[0.0], [1.0], [3.0]]), k=1).tolist() == [True, False, True, True, False]
    plane = np.array([[0.0, 0], [1, 0], [0, 1], [1, 1], [5, 5]])  # k = 3: sqrt 2 four times, sqrt 41
    assert covered(np.array([[-0.99, -1], [-1.01, -1], [5 + 6.4, 5], [5 + 6.41, 5]]), plane).tolist() == [
        True,
        False,
        True,
        False,
    ]


def test_precision_and_recall_of_equal_far_and_half_shifted_sets():
    x = np.random.default_rng(0).normal(size=(200, 5))
    far, half = x + 100, np.where(np.arange(200)[:, None] < 100, x, x + 100)
    assert covered(x, x).all()
    assert not covered(far, x).any()
    assert not covered(x, far).any()
    assert covered(half, x).mean() == 0.5
    collapsed = np.repeat(x[:1], 200, 0)
    assert Precision().compare(collapsed, x).value == 1
    assert Recall().compare(collapsed, x).value == 1 / 200


# ---- extractors


class Means(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3), keepdim=True)


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """A TorchScript file: the mean of every channel."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(Means()).save(tmp_path / "means.pt")
    return tmp_path / "means.pt"


def test_a_file_takes_images_of_its_size_and_range(script: Path):
    x = np.random.default_rng(0).integers(0, 17, (70, 1, 8, 8), dtype=np.uint8)
    grey = x.mean((1, 2, 3)) / 16
    found = extractors.opened(script, Input(), 17, CPU)
    assert found.vectors(x) == pytest.approx(np.tile(grey[:, None], 3), abs=1e-6)
    found = extractors.opened(script, Input(16, -1, 1), 17, CPU)
    assert found.vectors(x) == pytest.approx(np.tile(2 * grey[:, None] - 1, 3), abs=0.1)
    assert found.recipe == {
        "name": "means.pt",
        "kind": "TorchScript",
        "sha256": hashlib.sha256(script.read_bytes()).hexdigest(),
        "resize": "bilinear, antialiased, to 16x16",
        "range": [-1, 1],
    }


def test_a_classifier_gives_what_its_last_layer_takes(classifier: lb.Run):
    images = open_data(classifier, "test")
    model = classifier.load()
    assert isinstance(model, Classifier)
    x = np.asarray(images.x)
    found = extractors.opened(classifier.path, Input(), 17, CPU)
    with torch.no_grad():
        linear = model.linear(torch.from_numpy(found.vectors(x)).float())
        assert torch.allclose(linear, model.logits(torch.from_numpy(x)), atol=1e-4)
    assert found.vectors(x).shape == (len(x), 8)
    binary = extractors.opened(classifier.path, Input(), 2, CPU).vectors((x > 8).astype(np.uint8))
    assert binary == pytest.approx(found.vectors((x > 8).astype(np.uint8) * 16), abs=1e-5)


def test_what_is_no_extractor_is_said(
    run: lb.Run, classifier: lb.Run, script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "no.pt").write_bytes(b"no program")
    (tmp_path / "a.onnx").write_bytes(b"no graph")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    wrong: list[tuple[Path, Input, str]] = [
        (run.path, Input(), "expected the run of a Classifier .* got a VAE"),
        (tmp_path / "absent.pt", Input(), "absent.pt: no such file"),
        (tmp_path / "no.pt", Input(), "no.pt: not a TorchScript file"),
        (tmp_path / "a.onnx", Input(), "pip install 'lowerbound\\[onnx\\]'"),
        (classifier.path, Input(299), "a run knows its input"),
    ]
    for path, given, message in wrong:
        with pytest.raises(ConfigError, match=message):
            extractors.opened(path, given, 17, CPU)
    with pytest.raises(ConfigError, match=r"it takes images of 1 channel.*these have 3"):
        extractors.opened(classifier.path, Input(), 17, CPU).vectors(np.zeros((1, 3, 8, 8), np.uint8))


# ---- the same recipe


def test_labels_are_in_proportion(run: lb.Run):
    assert shares([1, 1, 1], 4).tolist() == [2, 1, 1]
    assert shares([5, 0, 5], 10).tolist() == [5, 0, 5]
    train = open_data(run, "train")
    assert train.y is not None
    assert np.sort(labelled(train, len(train), 0)).tolist() == list(range(len(train)))
    some = labelled(train, 500, 0)
    assert len(set(some.tolist())) == 500
    drawn = samples.labels(run, 500, 3)
    assert drawn is not None
    assert np.bincount(drawn).tolist() == np.bincount(train.y[some]).tolist()


# ---- evaluate


class Copies(WithoutDensity):
    """A 'model' that draws training images of the label."""

    def __init__(self, run: lb.Run, noise: float = 0.0):
        facts = run.facts
        super().__init__(run.recipe.model, facts.space, facts.given(run.recipe))
        self.train_images, self.noise = open_data(run, "train"), noise

    def _loss(self, x: Tensor, y: Any = None, step: int = 0) -> Loss:
        raise NotImplementedError

    def _draw(self, n: int, y: Any, how: Draw, told: Any) -> Drawn:
        assert self.train_images.y is not None
        labels = torch.from_numpy(np.asarray(self.train_images.y))
        x = torch.from_numpy(np.asarray(self.train_images.x))
        same = [torch.nonzero(labels == k)[:, 0] for k in range(10)]
        index = torch.stack([same[k][torch.randint(len(same[k]), ())] for k in y.tolist()])
        drawn = torch.rand(n, *self.space.shape) < self.noise
        return Drawn(torch.where(drawn, torch.randint(0, 17, (n, *self.space.shape)), x[index]).to(torch.uint8))


def test_a_model_that_copies_is_as_good_as_real_images(run: lb.Run):
    images = open_data(run, "test")
    names = ["frechet", "kernel", "precision", "recall", "cas"]
    batches = as_batches(run, images, CPU)
    found = measure(World(Copies(run), batches, run), names=names)
    value = {name: v.value for name, v in found.items() if v.value is not None}
    error = {name: v.stderr or 0 for name, v in found.items()}
    assert value["frechet"] == pytest.approx(value["frechet.real"], rel=0.25)
    for name in ("kernel", "precision", "recall"):
        assert abs(value[name] - value[f"{name}.real"]) < 4 * math.hypot(error[name], error[f"{name}.real"])
    assert value["cas.real"] > 0.9
    assert abs(value["cas.samples"] - value["cas.real"]) < 3 * math.hypot(error["cas.samples"], error["cas.real"])
    assert value["cas.samples"] <= value["cas.samples.top5"] <= 1
    p = value["cas.real"]
    assert error["cas.real"] == pytest.approx(math.sqrt(p * (1 - p) / (len(images) - 1)))
    assert "cas.reconstructions" not in value

    bad = measure(World(Copies(run, noise=1.0), batches, run), names=names)
    assert (bad["cas.samples"].value or 0) < 0.5
    assert (bad["frechet"].value or 0) > 5 * value["frechet"]
    assert (bad["precision"].value or 0) < 0.1


def noisy(path: Path) -> str:
    """1,000 images of 16x16: coarse ones of six patterns, with noise in every pixel, as an .npz."""
    rng = np.random.default_rng(0)
    coarse = rng.normal(size=(1000, 6)) @ rng.normal(size=(6, 16))
    x = 128 + 15 * np.kron(coarse.reshape(-1, 4, 4), np.ones((4, 4))) + 25 * rng.normal(size=(1000, 16, 16))
    np.savez(path, x=x.clip(0, 255).astype(np.uint8))
    return str(path)


@pytest.mark.parametrize("data", ["noisy", pytest.param("mnist", marks=pytest.mark.slow)])
def test_few_real_images_score_as_others_do(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """50 training images in the samples' place score what 50 others do in components that are fitted to neither."""
    if data == "mnist":
        if not REAL:
            pytest.skip("LOWERBOUND_DATA is not set")
        monkeypatch.setenv("LOWERBOUND_DATA", REAL)
    source = noisy(tmp_path / "noisy.npz") if data == "noisy" else data
    small = ["model.encoder.hidden=[8]", "model.decoder.hidden=[8]", "train.steps=2"]
    right("train", "vae", "--data", source, "--out", "few", *small)
    words = ["evaluate", "few", "--metrics", "precision.real,recall.real,frechet.real", "--samples", "50", "--json"]
    report = right(*words).json["metrics"]
    train, test = (np.asarray(open_data(lb.Run.open("few"), split).x) for split in ("train", "test"))
    places = np.random.default_rng(0).permutation(len(train))
    vectors = extractors.PixelFeatures(train[places[600:5000]], 256)
    others = [vectors(train[np.sort(part)]) for part in np.split(places[:600], 12)]
    drawn = [vectors(test[np.random.default_rng(i).permutation(len(test))[:50]]) for i in range(12)]
    for name, metric in (("precision.real", Precision()), ("recall.real", Recall())):
        found = np.mean([metric.compare(x, real).value for x, real in zip(others, drawn, strict=True)])
        low, high = report[name]["interval"]
        assert low < found < high
    found = [frechet(x, real) for x, real in zip(others, drawn, strict=True)]
    assert abs(report["frechet.real"]["value"] - np.mean(found)) < 3 * np.std(found)


def test_components_are_fitted_to_no_image_that_is_scored():
    order = np.random.default_rng(0).permutation(100)
    for n, fitted in ((20, 80), (50, 50), (70, 50), (1000, 50)):
        scored, others = extractors.parted(order, n, 64)
        assert (len(scored), len(others)) == (min(n, 50), fitted)
        assert not set(scored) & set(others)
    many = np.arange(70_000)
    assert [len(part) for part in extractors.parted(many, 50, 784)] == [50, 10_000]
    assert len(extractors.parted(many, 50, 3 * 256 * 256)[1]) == 341, "memory is bounded"


def test_evaluate_reports_a_recipe(run: lb.Run, classifier: lb.Run):
    words = ["evaluate", run.path, "--metrics", "kernel,ssim,precision.real", "--samples", "50", "--json"]
    report = right(*words).json["metrics"]
    assert list(report) == ["ssim", "kernel", "kernel.real", "precision.real"]
    assert 0.3 < report["ssim"]["value"] <= 1
    assert "recipe" not in report["ssim"]
    entry = report["kernel"]
    assert (entry["n"], entry["relation"], entry["draws"]) == (50, "=", 0)
    expected = {"data": "digits", "split": "test", "levels": 17, "samples": 50, "images": 50}
    assert expected.items() <= entry["recipe"].items()
    assert entry["recipe"]["drawn"] == "means of p(x|z), rounded"
    assert right(*words).json["metrics"] == report
    other = right(*words, "--extractor", classifier.path).json["metrics"]["kernel"]
    assert other["recipe"]["extractor"]["kind"].startswith("a classifier's features")
    assert {**entry["recipe"], "drawn": ""} == {**report["kernel.real"]["recipe"], "drawn": ""}
    assert entry["recipe"] != other["recipe"]
    shown = right(*words[:-1]).out
    assert "50 images (means of p(x|z), rounded) against 50 of test, by 64 principal components" in shown


def test_cas_of_one_kind_by_name(run: lb.Run):
    report = right("evaluate", run.path, "--metrics", "cas.reconstructions", "--samples", "300", "--json").json
    assert list(report["metrics"]) == ["cas.reconstructions", "cas.reconstructions.top5"]
    entry = report["metrics"]["cas.reconstructions"]
    assert (entry["recipe"]["samples"], entry["n"]) == (300, report["data"]["n"])
    assert entry["recipe"]["error"].startswith("of the images; not of the samples")
    assert entry["value"] > 0.6


def test_a_model_of_binary_pixels_is_held_against_binary_images():
    small = ["data.source=digits", "data.label=false", "train.steps=20", "model.network.hidden=[32]"]
    made = run_training("made-mnist", out="made", changes=[*small, "data.binarize=true"]).run
    report = right("evaluate", "made", "--metrics", "frechet", "--json").json["metrics"]
    assert report["frechet"]["recipe"]["levels"] == 2
    assert report["frechet.real"]["value"] < report["frechet"]["value"]
    images = open_data(made, "test")
    world = World(made.load(), as_batches(made, images, CPU), made)
    x = samples.pixels(world, images, np.arange(len(images)))
    assert set(np.unique(x)) == {0, 1}
    assert x.mean() == pytest.approx(images.x.mean() / 16, abs=0.02)
    assert samples.affordable(made.load(), 10**12) < 10**12
    assert samples.affordable(made.load(), 100) == 100


def test_means_of_a_model_of_binary_pixels_are_held_against_grey_images():
    small = ["model.encoder.hidden=[64]", "model.decoder.hidden=[64]", "train.steps=300", "data.binarize=true"]
    binary = run_training("vae", out="binary", changes=[*small, 'model.likelihood={"type": "families.Bernoulli"}']).run
    assert binary.facts.binarization == "dynamic"
    report = right("evaluate", "binary", "--metrics", "frechet,precision", "--json").json["metrics"]
    assert report["frechet"]["recipe"]["levels"] == 17
    assert report["precision"]["value"] > 0.3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--metrics frechte", "no metric 'frechte'; did you mean frechet?"),
        ("--metrics cas.sample --samples 20", "no metric 'cas.sample'; did you mean cas.samples?"),
        ("--metrics frechet --samples 1", "--samples 1: expected a whole number of at least 2"),
        ("--metrics frechet --extractor-range 3", "--extractor-range 3: expected two numbers LOW,HIGH"),
        ("--metrics frechet --extractor nowhere", "nowhere: no such run"),
    ],
)
def test_mistakes(words: str, message: str, run: lb.Run):
    done = call("evaluate", run.path, *words.split())
    assert done.status == 2
    assert message in done.err


def test_what_has_no_labels_or_samples(classifier: lb.Run):
    plain = run_training("vae", out="plain", changes=["train.steps=5"]).run
    done = call("evaluate", plain.path, "--metrics", "cas")
    assert done.status == 2
    assert "is not given labels" in done.err
    done = call("evaluate", classifier.path, "--metrics", "frechet")
    assert done.status == 2
    assert "can't be sampled" in done.err

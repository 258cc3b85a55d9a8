"""What is said of how sure a share is: by simulation and by enumeration, at the ends of its range too."""

import math

import numpy as np
import pytest
from scipy.stats import binom, norm

import lowerbound as lb
from command import right
from lowerbound.editing.learn import auroc, auroc_interval
from lowerbound.metrics.accuracy import _value
from lowerbound.metrics.base import Value
from lowerbound.metrics.distances import coverage
from lowerbound.units import share_interval


@pytest.mark.parametrize("n", [20, 100, 1000])
def test_the_interval_of_a_share_holds_the_truth_as_often_as_it_says(n: int):
    """By enumeration: over all true shares 95 times in 100, of those near an end no less than 9 in 10."""
    found = np.array([share_interval(k / n, n) for k in range(n + 1)])
    truths = np.linspace(0.2 / n, 1 - 0.2 / n, 999)
    held = [binom.pmf(np.arange(n + 1), n, p)[(found[:, 0] <= p) & (p <= found[:, 1])].sum() for p in truths]
    assert np.mean(held) == pytest.approx(0.95, abs=0.01)
    assert np.quantile(held, 0.02) > 0.9


def test_the_ends_of_a_share_of_all():
    """What is seen 100 times of 100 may well be missing 3 times in 100."""
    value = Value.share(np.ones(100), "of images")
    assert value.stderr == 0
    assert value.interval == pytest.approx((0.963, 1.0), abs=1e-3)
    assert value.entry()["interval"] == list(value.interval)
    assert Value.share(np.zeros(100), "of images").interval == pytest.approx((0.0, 0.037), abs=1e-3)


def test_what_varies_beside_the_images_widens_the_interval():
    """With as much variance again, the interval is that of half as many images."""
    each = (np.arange(1000) % 4 == 0).astype(float)
    value = Value.share(each, "of images", also=float(each.var()) / 1000)
    assert value.stderr == pytest.approx(math.sqrt(2 * each.var() / 1000), rel=1e-3)
    assert value.interval == pytest.approx(share_interval(0.25, 500), rel=1e-3)


def normals(rng: np.random.Generator, n: int, scale: float, apart: float) -> np.ndarray:
    """[n, 5], half of them moved apart."""
    x = scale * rng.normal(size=(n, 5))
    x[:, 0] += apart * (rng.random(n) < 0.5)
    return x


@pytest.mark.parametrize(
    ("scale", "apart", "n", "m"),
    [(1.0, 0.0, 150, 150), (1.4, 0.0, 150, 150), (1.0, 2.0, 150, 150), (1.4, 0.0, 300, 100)],
)
def test_the_error_of_precision_holds_the_choice_of_both_sets(scale: float, apart: float, n: int, m: int):
    """Over fresh sets, the spread is what the errors say; by the points alone it would be too small."""
    rng = np.random.default_rng(0)
    found = [coverage(normals(rng, n, scale, apart), normals(rng, m, 1.0, 0.0), "of samples") for _ in range(120)]
    p, error = (np.array([getattr(v, name) for v in found]) for name in ("value", "stderr"))
    told = math.sqrt((error**2).mean())
    assert 0.82 < told / p.std(ddof=1) < 1.2  # the spread of 120 is itself known to 7 %
    assert math.sqrt((p * (1 - p) / n).mean()) < 0.92 * p.std(ddof=1)
    held = [v.interval is not None and v.interval[0] <= p.mean() <= v.interval[1] for v in found]
    assert np.mean(held) > 0.89


def test_a_precision_of_1_is_not_certain():
    x = np.random.default_rng(0).normal(size=(200, 5))
    value = coverage(0.2 * x, x, "of samples")
    assert value.value == 1
    assert value.interval is not None
    assert 0.9 < value.interval[0] < 0.985
    assert value.interval[1] == 1


@pytest.mark.parametrize(("area", "n", "m"), [(0.7, 30, 30), (0.9, 20, 60), (0.98, 15, 15), (0.995, 10, 10)])
def test_the_interval_of_an_area_holds_the_truth_as_often_as_it_says(area: float, n: int, m: int):
    """Of two normals, whose area is known; by the standard error alone it would seldom do so near 1."""
    rng, apart, held = np.random.default_rng(0), math.sqrt(2) * norm.ppf(area), []
    positive = np.arange(n + m) < n
    for _ in range(400):
        seen, _ = auroc(rng.normal(size=n + m) + apart * positive, positive)
        low, high = auroc_interval(seen, n, m)
        held.append(low <= area <= high)
        assert low < seen or seen == 0
        assert low <= seen <= high
    assert np.mean(held) > 0.92
    assert auroc_interval(1 - area, n, m) == pytest.approx([1 - end for end in reversed(auroc_interval(area, n, m))])


def test_a_perfect_area_is_not_certain():
    low, high = auroc_interval(1.0, 20, 20)
    assert 0.85 < low < 0.95
    assert high == 1
    assert auroc_interval(0.0, 20, 20) == pytest.approx((1 - high, 1 - low))


@pytest.mark.usefixtures("surroundings")
def test_reports_show_intervals(here):
    """At an accuracy and an area of 1 too, in JSON and for a person."""
    small = ["model.latent=8", "model.encoder.widths=[8]", "train.steps=100"]
    right("train", "classifier", "--data", "digits", "--out", "c", *small)
    entry = right("evaluate", "c", "--metrics", "accuracy", "--json").json["metrics"]["accuracy"]
    low, high = entry["interval"]
    assert low < entry["value"] < high
    shown = right("evaluate", "c", "--metrics", "accuracy").out
    assert f"{low:.3g} to {high:.3g}" in shown


def test_classifiers_that_differ_widen_the_error():
    """Of two that are right of 80 and 90 of the same 100 images: 5 % by the classifiers, and what the images bring."""
    right_of = np.stack([np.arange(100) < 80, np.arange(100) < 90]).astype(float)
    value, alike = _value(right_of, {}), _value(np.stack([right_of.mean(0)] * 2), {})
    assert value.value == alike.value == pytest.approx(0.85)
    assert alike.stderr == pytest.approx(right_of.mean(0).std(ddof=1) / 10)
    assert value.stderr == pytest.approx(math.hypot(0.05, alike.stderr or 0))


def test_more_seeds_of_the_classification_accuracy_score(tmp_path, monkeypatch: pytest.MonkeyPatch):
    """Two times three classifiers, each in a run of its own: some seconds."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    small = {"encoder": {"hidden": [16]}, "decoder": {"hidden": [16]}}
    run = lb.train("vae", out=tmp_path / "run", model=small, train={"steps": 20}, options={"label": True})
    monkeypatch.setattr("lowerbound.training.classifiers.STEPS", 20)
    report = lb.evaluate(run, metrics=["cas.real"], samples=100, seeds=2)
    entry = report["metrics"]["cas.real"]
    assert entry["recipe"]["error"] == "of the images, and of the samples and the seed by 2 classifiers"
    assert entry["recipe"]["seeds"] == 2

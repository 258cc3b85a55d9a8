"""The whole pipeline on real digits, as a user runs it: the recipe vqvae2-digits from images to new images.

Slow: three trainings to their ends take most of a minute.
"""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.svm import SVC

from command import right

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "digits"
    right("train", "vqvae2-digits", "--out", path, "--device", "cpu")
    return path


def samples(run, out, *options) -> np.ndarray:
    right("sample", run, "--out", out, "--seed", 0, *options)
    with np.load(out) as arrays:
        return arrays["x"].reshape(len(arrays["x"]), -1)


def test_samples_of_a_label_are_read_as_that_digit(run, tmp_path):
    """By a classifier of the real digits, which reads 99 of 100 of those right."""
    digits = load_digits()
    classifier = SVC(gamma=0.001, C=10).fit(digits.data, digits.target)
    shares = [
        (classifier.predict(samples(run, tmp_path / f"{k}.npz", "-n", 30, "--label", k)) == k).mean() for k in range(10)
    ]
    assert np.mean(shares) > 0.8
    assert min(shares) > 0.5


def test_no_sample_is_an_image_of_the_data(run, tmp_path):
    x, real = samples(run, tmp_path / "x.npz", "-n", 100), load_digits().data
    assert x.shape == (100, 64)
    assert x.max() == 16
    nearest = np.abs(x[:, None] - real[None]).sum(2).min(1)
    assert nearest.min() > 0


def test_the_prior_is_worth_its_bits_and_the_parts_add_up(run):
    m = right("evaluate", run, "--split", "test", "--json").json["metrics"]
    value = {name: metric["value"] for name, metric in m.items()}
    for level in ("top", "bottom"):
        assert value[f"usage.{level}"] > 0.9
        assert value[f"bits_per_code.{level}"] < 0.85 * value[f"unigram_bits.{level}"]
    parts = sum(v for name, v in value.items() if name.startswith("rate."))
    assert parts == pytest.approx(value["bits_per_dim"], rel=1e-5)
    assert value["bits_per_dim"] < 2.7
    assert m["bits_per_dim"]["relation"] == "<="
    assert m["bits_per_dim"]["given"] == "label"

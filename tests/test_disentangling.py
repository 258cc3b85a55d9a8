"""Scores of disentangling against codes whose answer is known."""

import numpy as np
import pytest

from lowerbound.errors import DataError
from lowerbound.metrics.disentangling import dci, mig, modularity

GRID = np.stack(np.meshgrid(*[np.arange(10.0)] * 3, indexing="ij"), -1).reshape(-1, 3)  # independent, exactly
KINDS = ("continuous",) * 3
NAMES = ("shape", "size", "object_hue")
PLANE = np.stack(np.meshgrid(*[np.linspace(-1, 1, 40)] * 2, indexing="ij"), -1).reshape(-1, 2)


@pytest.mark.parametrize("codes", [GRID, GRID[:, [2, 0, 1]], GRID * [1, -1, 1], GRID.astype(int)])
def test_a_code_that_is_the_factors_scores_1(codes):
    for score in (mig(codes, GRID, KINDS), modularity(codes, GRID, KINDS)):
        assert score.value == pytest.approx(1, abs=1e-9)
        assert score.low <= score.value <= score.high
    found = dci(codes, GRID, KINDS, seeds=1)
    assert found.value > 0.98
    assert min(found.parts.values()) > 0.98
    assert found.remark == "each factor has a dimension of its own"


def test_a_rotated_code_has_no_gap_and_tells_all():
    codes = PLANE @ np.array([[1, -1], [1, 1]]) / np.sqrt(2)
    assert mig(codes, PLANE, KINDS[:2]).value < 0.02
    found = dci(codes, PLANE, KINDS[:2], seeds=1)
    assert found.parts["informativeness"] > 0.95
    assert found.value < 0.2


def test_a_duplicated_code_has_no_gap_is_disentangled_and_incomplete():
    codes = np.concatenate([GRID, GRID], 1)
    gap = mig(codes, GRID, KINDS, NAMES)
    assert gap.value == pytest.approx(0, abs=1e-9)
    assert "2 dimensions share object_hue" in gap.remark
    found = dci(codes, GRID, KINDS, seeds=1)
    assert found.value > 0.98
    assert found.parts["completeness"] < 0.95


def test_a_dimension_of_two_factors_is_half_modular_among_three_and_a_dead_one_counts_0():
    codes = np.stack([10 * GRID[:, 0] + GRID[:, 1], np.ones(1000), GRID[:, 2]], 1)
    assert modularity(codes, GRID, KINDS, bins=100).value == pytest.approx((0.5 + 0 + 1) / 3)


def test_noise_tells_nothing():
    codes = np.random.default_rng(0).normal(size=(1000, 3))
    assert mig(codes, GRID, KINDS).value < 0.03
    found = dci(codes, GRID, KINDS, seeds=1)
    assert found.parts["informativeness"] < 0.05
    assert "own" not in found.remark


def test_permutation_of_dimensions_and_images_changes_no_gap():
    draw = np.random.default_rng(1)
    codes = GRID @ draw.normal(size=(3, 4))
    rows = draw.permutation(len(GRID))
    for score in (mig, modularity):
        one, other = score(codes, GRID, KINDS), score(codes[rows][:, [3, 1, 0, 2]], GRID[rows], KINDS)
        assert other.value == pytest.approx(one.value, abs=1e-9)


def test_bins_of_angles_lie_on_the_circle():
    turned = PLANE * 180 + [360, -720]
    kinds = ("circular", "circular")
    assert mig(PLANE, turned, kinds).value == pytest.approx(mig(PLANE, turned % 360, kinds).value)


def test_missing_factors_are_left_out_and_named_and_a_constant_code_tells_nothing():
    factors = GRID.copy()
    factors[:7, 1] = np.nan
    found = mig(np.concatenate([GRID, np.ones((1000, 1))], 1), factors, KINDS, NAMES)
    assert found.value > 0.98
    assert not found.matrix[3].any()
    assert "size is missing for 7 images" in found.remark


def test_information_agrees_with_scikit_learn():
    from sklearn.metrics import mutual_info_score

    codes = np.random.default_rng(2).integers(0, 9, size=(1000, 2)) + GRID[:, :2]
    matrix = mig(codes, GRID, KINDS).matrix
    for j, k in np.ndindex(2, 3):
        assert matrix[j, k] == pytest.approx(mutual_info_score(codes[:, j], GRID[:, k]) / np.log(10))


@pytest.mark.parametrize(
    ("score", "codes", "factors", "kinds", "says"),
    [
        (mig, GRID, GRID * [1, 0, 1], KINDS, "factor 1 is constant"),
        (mig, GRID[:10], GRID[:10], KINDS, "fewer than 20 bins"),
        (dci, GRID, GRID[:, :1], KINDS[:1], "dci: there is 1 factor"),
        (modularity, GRID, GRID[:, :1], KINDS[:1], "modularity: there is 1 factor"),
        (mig, GRID, GRID[:, :0], (), "there are none"),
        (mig, GRID[:, :1], GRID, KINDS, "1 dimension"),
        (mig, GRID[:5], GRID, KINDS, "same N images"),
        (mig, GRID, GRID, ("round",) * 3, "kind='round'"),
    ],
)
def test_what_cannot_be_scored_is_said(score, codes, factors, kinds, says):
    with pytest.raises(DataError, match=says):
        score(codes, factors, kinds)

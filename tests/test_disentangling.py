"""Scores of disentangling against codes whose answer is known."""

from collections.abc import Callable

import numpy as np
import pytest

from lowerbound.data.attributes import Factor
from lowerbound.errors import DataError
from lowerbound.metrics import disentangling
from lowerbound.metrics.disentangling import (
    Score,
    beta_vae,
    dci,
    explicitness,
    factor_vae,
    infomec,
    mig,
    modularity,
    sap,
    told,
    udr,
)
from lowerbound.metrics.disentangling.base import Kinds
from lowerbound.metrics.disentangling.information import _mutual
from lowerbound.metrics.disentangling.prediction import _purity

GRID = np.stack(np.meshgrid(*[np.arange(9.0)] * 3, indexing="ij"), -1).reshape(-1, 3)  # independent, exactly
KINDS = [Factor(name=name, low=0, high=8) for name in ("scale", "size", "object_hue")]
PLANE = np.stack(np.meshgrid(*[np.linspace(-1, 1, 30)] * 2, indexing="ij"), -1).reshape(-1, 2)
NOISE = np.random.default_rng(0).normal(size=(len(GRID), 3))
TWO = [Factor(name=name, low=-1, high=1) for name in ("x", "y")]


def quick(score: Callable[..., Score], codes: np.ndarray, factors: np.ndarray, kinds: Kinds) -> Score:
    return score(codes, factors, kinds, **({"splits": 1} if score in (dci, explicitness) else {}))


# ---- a code that is the factors


@pytest.mark.parametrize("codes", [GRID, GRID[:, [2, 0, 1]], GRID * [1, -3, 1] + 5, GRID.astype(int)])
@pytest.mark.parametrize("score", [mig, modularity, sap])
def test_a_code_that_is_the_factors_scores_1(score: Callable[..., Score], codes: np.ndarray):
    found = score(codes, GRID, KINDS)
    assert found.value == pytest.approx(1, abs=1e-9)
    assert found.low <= found.value <= found.high
    assert found.matrix.shape == (3, 3)
    assert found.remark == "each factor has a dimension of its own"


@pytest.mark.parametrize("score", [factor_vae, beta_vae])
def test_images_that_share_a_factor_are_told_by_its_dimension(score: Callable[..., Score]):
    found = score(GRID[:, [2, 0, 1]], GRID, KINDS)
    assert found.value > 0.99
    assert (np.abs(found.matrix).argmax(0) == [1, 2, 0]).all()
    assert score(NOISE, GRID, KINDS).value < 0.5  # a third by guessing


def test_the_weights_of_two_factors_are_of_both():
    weights = beta_vae(PLANE, PLANE, TWO).matrix
    assert (np.diag(weights) < 0).all()  # images that share a factor differ little in its dimension
    assert (np.diag(weights[::-1]) > 0).all()


def test_purity_is_in_units_of_the_largest_entropy_and_weighed():
    shares = np.array([[1.0, 1, 0], [0, 0, 6]])
    assert _purity(shares) == pytest.approx((2 * (1 - np.log(2) / np.log(3)) + 6) / 8)


def test_dci_of_the_factors_themselves():
    found = quick(dci, GRID * [1, -1, 1], GRID, KINDS)
    assert {*found.parts} == {"disentanglement", "completeness", "informativeness", "explicitness", "size"}
    assert found.value == found.parts["disentanglement"].value
    assert min(part.value for part in found.parts.values()) > 0.98
    assert np.allclose(found.matrix.sum(0), 1)


def test_infomec_of_the_factors_themselves():
    grid = GRID[(GRID < 4).all(1)]
    discrete = infomec(grid[:, [1, 2, 0]], grid)
    assert min(part.value for part in discrete.parts.values()) > 0.99
    assert np.allclose(discrete.matrix, np.eye(3)[[1, 2, 0]])
    unused = 1e-3 * PLANE.sum(1, keepdims=True)
    continuous = infomec(np.concatenate([PLANE, unused], 1), PLANE, TWO, bins=6)
    assert continuous.parts["modularity"].value > 0.95
    assert continuous.parts["compactness"].value > 0.95


def test_explicitness_of_the_factors_is_1_and_of_noise_one_half():
    assert quick(explicitness, GRID, GRID, KINDS).value > 0.99
    assert quick(explicitness, NOISE, GRID, KINDS).value == pytest.approx(0.5, abs=0.06)


# ---- codes that are not


def test_a_code_turned_by_45_degrees_has_no_gap_and_tells_all():
    codes = PLANE @ np.array([[1, -1], [1, 1]]) / np.sqrt(2)
    assert mig(codes, PLANE, TWO).value < 0.02
    assert sap(codes, PLANE, TWO).value < 0.02
    found = quick(dci, codes, PLANE, TWO)
    assert found.parts["informativeness"].value > 0.95
    assert found.parts["explicitness"].value > 0.98  # a linear predictor is enough
    assert found.value < 0.2
    mixed = infomec(codes, PLANE, TWO, bins=6)
    assert mixed.value < 0.2
    assert mixed.parts["compactness"].value < 0.2
    assert "2 dimensions share x" in mixed.remark


def test_a_bent_code_is_less_explicit():
    bent = quick(dci, np.cos(np.pi * np.stack([PLANE[:, 0], PLANE[:, 0] + 0.5, PLANE[:, 1]], 1)), PLANE, TWO)
    assert bent.parts["explicitness"].value < 0.9


def test_a_duplicated_code_has_no_gap_is_disentangled_and_incomplete():
    codes = np.concatenate([GRID, GRID], 1)
    for score in (mig, sap):
        gap = score(codes, GRID, KINDS)
        assert gap.value == pytest.approx(0, abs=1e-9)
        assert "2 dimensions share object_hue" in gap.remark
    found = quick(dci, codes, GRID, KINDS)
    assert found.value > 0.98
    assert found.parts["completeness"].value < 0.95
    assert found.parts["size"].value == 0.5
    some = (GRID < 4).all(1)
    info = infomec(codes[some], GRID[some], KINDS)
    assert info.value > 0.99
    assert info.parts["compactness"].value == pytest.approx((1 / 2 - 1 / 6) / (1 - 1 / 6))


def test_a_dimension_of_two_factors_is_half_modular_among_three_and_a_dead_one_counts_0():
    codes = np.stack([9 * GRID[:, 0] + GRID[:, 1], np.ones(len(GRID)), GRID[:, 2]], 1)
    assert modularity(codes, GRID, KINDS, bins=81).value == pytest.approx((0.5 + 0 + 1) / 3)


def test_noise_tells_nothing():
    assert mig(NOISE, GRID, KINDS).value < 0.04
    assert sap(NOISE, GRID, KINDS).value < 0.02
    for n in (60, 200, len(GRID)):
        assert not told(NOISE[:n], np.random.default_rng(1).normal(size=(n, 3))).any()
    found = quick(dci, NOISE, GRID, KINDS)
    assert found.parts["informativeness"].value < 0.05
    assert found.parts["explicitness"].value == 0
    assert found.remark == "no dimension tells scale, size, object_hue"


def test_permutation_of_dimensions_and_images_changes_nothing():
    draw = np.random.default_rng(1)
    codes, rows = GRID @ draw.normal(size=(3, 4)), draw.permutation(len(GRID))
    for score in (mig, modularity):
        one, other = score(codes, GRID, KINDS), score(codes[rows][:, [3, 1, 0, 2]], GRID[rows], KINDS)
        assert other.value == pytest.approx(one.value, abs=1e-9)


# ---- kinds of factors


def test_bins_of_a_circle_lie_on_it():
    turns = [Factor(name=name, kind="circular", low=0, high=1, unit="turns") for name in ("wall", "floor")]
    degrees = ["wall (deg)", "floor (deg)"]
    turned = PLANE / 2 + 0.03
    expected = told(PLANE, turned % 1, turns)
    assert np.allclose(told(PLANE, turned + np.array([1, -2]), turns), expected)
    assert np.allclose(told(PLANE, 360 * turned, degrees), expected)


def test_a_circle_is_predicted_by_cosine_and_sine():
    angle = np.random.default_rng(0).uniform(0, 360, 600)
    factors = np.stack([angle, NOISE[:600, 0]], 1)
    codes = np.stack([np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle)), NOISE[:600, 0]], 1)
    found = quick(dci, codes, factors, ["azimuth (deg)", "noise"])
    assert found.parts["informativeness"].value > 0.97
    assert found.parts["explicitness"].value > 0.99
    assert found.value > 0.97  # two dimensions, of one factor
    assert found.parts["completeness"].value < 0.9


def test_names_are_enough_and_few_whole_numbers_are_categories():
    names = np.array([2, 0, 1])[GRID[:, 0].astype(int) // 3]  # without an order
    factors = np.stack([names, GRID[:, 1] / 10], 1)
    found = quick(dci, GRID[:, :2], factors, ["shape", "size"])
    assert found.parts["informativeness"].value > 0.99  # accuracy
    assert "shape" in mig(np.ones_like(GRID), factors, ["shape", "size"]).remark
    assert mig(GRID[:, :2], factors).value == pytest.approx(1)


def test_missing_factors_are_left_out_and_named_and_a_constant_code_tells_nothing():
    factors = GRID.copy()
    factors[:7, 1] = np.nan
    codes = np.concatenate([GRID, np.ones((len(GRID), 1))], 1)
    for score in (mig, sap, factor_vae, beta_vae):
        found = score(codes, factors, KINDS)
        assert found.value > 0.98
        assert not found.matrix[3].any()
        assert found.remark == "size is missing for 7 images"
    for score in (dci, explicitness):
        assert quick(score, codes, factors, KINDS).value > 0.98


# ---- against others, and intervals


def test_information_agrees_with_scikit_learn():
    from sklearn.metrics import mutual_info_score

    codes = np.random.default_rng(2).integers(0, 9, size=(len(GRID), 2)) + GRID[:, :2]
    matrix = mig(codes, GRID, KINDS).matrix
    for j, k in np.ndindex(2, 3):
        assert matrix[j, k] == pytest.approx(mutual_info_score(codes[:, j], GRID[:, k]) / np.log(9))


def test_scores_are_those_of_disent():
    """As disent 0.8.0 (https://pypi.org/project/disent) computes them of these arrays."""
    draw = np.random.default_rng(0)
    factors = draw.integers(0, [2, 3, 3], size=(300, 3)).astype(float)
    codes = factors @ draw.normal(size=(3, 3)) + 0.3 * draw.normal(size=(300, 3))
    codes = np.concatenate([codes, factors[:, :1] + 0.2 * draw.normal(size=(300, 1))], 1)
    names = [Factor(name=name, kind="categorical") for name in "abc"]
    numbers = [Factor(name=name, low=0, high=6) for name in "abc"]
    assert mig(codes, factors, names).value == pytest.approx(0.31050488729069325)
    assert sap(codes, factors, names).value == pytest.approx(0.11333333333333334)
    assert sap(codes, factors, numbers).value == pytest.approx(0.24677748573846967)
    found = dci(codes, factors, names, splits=1).parts
    for part, value in {"disentanglement": 0.5891, "completeness": 0.6538, "informativeness": 0.93}.items():
        assert found[part].value == pytest.approx(value, abs=0.005), part


def test_histograms_of_noise_tell_nothing_once_their_bias_is_taken_off():
    draw = np.random.default_rng(3)
    pairs = [draw.integers(0, 20, size=(2, 1000)) for _ in range(200)]
    raw, unbiased = ([_mutual(a, b, off) for a, b in pairs] for off in (False, True))
    assert np.mean(raw) == pytest.approx(19 * 19 / 2000, rel=0.2)
    assert np.mean(unbiased) < np.mean(raw) / 4


@pytest.mark.parametrize("score", [mig, sap, factor_vae])
def test_the_interval_holds_what_other_images_give(score: Callable[..., Score]):
    draw = np.random.default_rng(4)

    def drawn() -> Score:
        v = draw.normal(size=(400, 2))
        return score(v @ [[1, 0.5], [0, 1]] + 0.3 * draw.normal(size=v.shape), v, TWO)

    found = [drawn() for _ in range(8)]
    widths = [(s.high - s.low) / 2 / 1.96 for s in found]
    assert 0.4 < np.mean(widths) / np.std([s.value for s in found], ddof=1) < 2.5


# ---- several runs


def test_runs_that_agree_and_one_that_does_not():
    draw = np.random.default_rng(5)
    z = draw.normal(size=(500, 3))
    turned = z @ np.linalg.qr(draw.normal(size=(3, 3)))[0]
    found = udr([z, -z[:, [1, 2, 0]] * [1, 2, 3], np.concatenate([z, np.full((500, 1), 7.0)], 1), turned])
    scores = [found.parts[f"run {i}"].value for i in range(4)]
    assert min(scores[:3]) == pytest.approx(0.9, abs=0.01)  # the lasso takes its penalty off
    assert scores[3] < 0.6
    assert np.isnan(np.diag(found.matrix)).all()
    assert "run 3" not in found.remark


# ---- what cannot be scored

SPARSE = np.arange(25.0)[:, None] * [1, 7]


@pytest.mark.parametrize(
    ("score", "codes", "factors", "kinds", "says"),
    [
        *((score, GRID, GRID * [1, 0, 1], KINDS, "size is constant") for score in (mig, dci, sap, factor_vae)),
        *((score, GRID[:10], GRID[:10], KINDS, "fewer than 20 bins") for score in (mig, dci, infomec)),
        *((s, GRID, GRID[:, :1], KINDS[:1], f"{s.__name__}: there is 1 factor") for s in (dci, modularity, beta_vae)),
        *((score, GRID[:, :1], GRID, KINDS, "1 dimension") for score in (mig, dci, sap)),
        (mig, GRID, GRID[:, :0], None, r"factors: expected numbers \[N, F\]"),
        (mig, GRID[:, 0], GRID, None, r"codes: expected numbers \[N, D\]"),
        (mig, GRID[:5], GRID, None, "the same images"),
        (mig, GRID, GRID, ["one"], "1 are given of 3 factors"),
        (mig, np.full_like(GRID, np.inf), GRID, None, "rows are not finite"),
        (mig, GRID, GRID, [*KINDS[:2], "hue"], "bins=1; set 2 or more"),
        (factor_vae, SPARSE, SPARSE, TWO, "no two images share a value of x"),
        (factor_vae, np.ones_like(GRID), GRID, None, "the codes are constant"),
        (dci, GRID, GRID, KINDS, "splits=0; set 1 or more"),
    ],
)
def test_what_cannot_be_scored_is_said(score, codes, factors, kinds, says):
    options = {"bins": 1} if "bins=1" in says else {"splits": 0} if "splits" in says else {}
    options |= {"bins": 25} if codes is SPARSE else {}
    with pytest.raises(DataError, match=says):
        score(codes, factors, kinds, **options)


def test_runs_that_cannot_be_compared():
    with pytest.raises(DataError, match="1 run"):
        udr([GRID])
    with pytest.raises(DataError, match="the same images"):
        udr([GRID, GRID[:10]])
    with pytest.raises(DataError, match="constant"):
        udr([GRID, np.ones_like(GRID)])


def test_all_of_them_are_public():
    assert {f.__name__ for f in (mig, dci, sap, udr, infomec, explicitness, modularity, told)} <= {
        *disentangling.__all__
    }

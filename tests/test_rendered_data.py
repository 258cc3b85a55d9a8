"""Rendered images as data sets: how many, by which seed, split by combination, shown."""

import numpy as np
import pytest

import lowerbound as lb
from lowerbound.data import Data
from lowerbound.data.rendered import scenes, sprites
from lowerbound.errors import DataError

pytestmark = pytest.mark.usefixtures("surroundings")  # or an earlier run's pictures would be tested


def small(**more: object) -> Data:
    return Data.model_validate({"source": "scenes", "images": 60, "size": 32} | more)


def test_images_are_those_of_their_factors():
    images = small(objects=2).open("all")
    assert images.shape == (3, 32, 32)
    assert images.factor_names == tuple(f.name for f in scenes.factors(2))
    assert images.kinds == scenes.factors(2)
    again = scenes.rendered(np.asarray(images.factors), 32, objects=2)
    assert (again == images.x).mean() > 0.999
    binary = Data(source="sprites", images=60).open("all")
    assert (binary.levels, binary.shape) == (2, (1, 64, 64))
    assert np.array_equal(sprites.rendered(np.asarray(binary.factors)), binary.x)


def test_more_images_keep_the_first_and_another_seed_none():
    few, many, other = (small(**m).open("train") for m in [{}, {"images": 80}, {"seed": 1}])
    rows = {row.tobytes() for row in np.asarray(many.x)}
    assert all(row.tobytes() in rows for row in np.asarray(few.x))
    assert not any(row.tobytes() in rows for row in np.asarray(other.x))


def test_the_test_part_holds_combinations_that_training_never_sees():
    data = small(holdout="shape=box, object_hue=0.9..0.4")
    names = data.open("all").factor_names
    assert names is not None

    def held(split: str) -> np.ndarray:
        f = np.asarray(data.open(split).factors)
        hue = f[:, names.index("object_hue")]
        return (f[:, names.index("shape")] == 1) & ((hue >= 0.9) | (hue <= 0.4))

    assert held("test").all()
    assert not held("train").any()
    assert not held("valid").any()
    assert sum(len(data.open(p)) for p in ("train", "valid", "test")) == 60
    assert (np.asarray(data.open("train").factors)[:, names.index("shape")] == 1).any()  # the combination alone is new


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"holdout": "shap=box"}, "no factor 'shap'; did you mean shape?"),
        ({"holdout": "shape=bux"}, "expected one of sphere, box, cylinder, capsule; did you mean box?"),
        ({"holdout": "shape"}, "expected NAME=VALUE or NAME=LOW..HIGH"),
        ({"holdout": "sky=2..3"}, "expected a number from 0 to 1"),
        ({"holdout": "sky=dark"}, "expected a number from 0 to 1, got 'dark'"),
        ({"holdout": "object_hue=0.5..0.5"}, "none of the 60 images is so"),
        ({"holdout": "shape=box..sphere"}, "expected one of sphere"),
        ({"holdout": "object_hue=0.5..0.50001"}, "none of the 60 images is so"),
        ({"holdout": "sky=0..1"}, "leaves nothing to train on"),
        ({"source": "digits", "size": None, "images": None, "holdout": "shape=box"}, "the data have no factors"),
        ({"source": "digits", "size": None}, "digits is not rendered"),
        ({"size": 16}, "scenes are of 32 to 256 pixels"),
        ({"objects": 4}, "scenes have 1 to 3 objects"),
        ({"source": "sprites", "size": None, "images": 800_000}, "there are 737,280 sprites"),
    ],
)
def test_what_can_not_be_is_said(changes: dict[str, object], said: str):
    with pytest.raises(DataError) as e:
        small(**changes).open("train")
    assert said in str(e.value)


def test_the_sheet_has_a_factor_in_each_row(tmp_path):
    out = tmp_path / "sheet.png"
    report = lb.show_data("scenes", "images=60", "size=32", out=out)
    assert report.factor_names == [f.name for f in scenes.factors()]
    assert out.stat().st_size > 10_000

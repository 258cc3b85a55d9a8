"""Several views of a scene: which rows belong together, that no part divides them, and what is given of the others."""

from pathlib import Path

import numpy as np
import pytest
import torch

from lowerbound.config import override
from lowerbound.data import Data
from lowerbound.data.batches import Batches
from lowerbound.data.rendered import scenes
from lowerbound.data.split import PARTS
from lowerbound.data.views import Views, ViewsGiven, cameras, coordinates
from lowerbound.errors import ConfigError, DataError
from lowerbound.noise import seeded

pytestmark = pytest.mark.usefixtures("surroundings")
V, MOST = 4, 3


def small(**more: object) -> Data:
    return Data.model_validate({"source": "scenes", "images": 80, "size": 32, "objects": 2, "views": V} | more)


def scene_factors(data: Data, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Of each view: the factors of its scene [S, V, F], and its camera [S, V, 3]."""
    images = data.open(split)
    assert images.factors is not None
    camera = list(cameras(images))
    values = np.asarray(images.factors).reshape(-1, V, len(images.factor_names or ()))
    return np.delete(values, camera, 2), values[:, :, camera]


def test_views_of_a_scene_differ_by_the_camera_alone_and_are_what_is_rendered_from_there():
    images = small().open("train")
    scene, camera = scene_factors(small(), "train")
    assert (scene == scene[:, :1]).all()
    assert (np.abs(np.diff(camera, axis=1)) > 1e-3).all()  # all three numbers of it
    assert (np.abs(np.diff(scene[:, 0], axis=0)).max(1) > 0).all()
    again = scenes.rendered(np.asarray(images.factors)[:V], 32, objects=2)
    assert (again == images.x[:V]).mean() > 0.999
    assert images.views == V
    assert [f.name for f in cameras(images).values()] == ["camera_azimuth", "camera_elevation", "camera_distance"]


def test_a_scene_is_in_one_part_with_all_its_views():
    parts = {part: {tuple(row) for row in scene_factors(small(), part)[0][:, 0].tolist()} for part in PARTS}
    assert sum(map(len, parts.values())) == 80 // V == len(set.union(*parts.values()))
    assert all(len(small().open(part)) == V * len(found) for part, found in parts.items())


def test_images_that_are_no_views_are_what_they_were():
    alone = scenes.drawn(5, 2, 0)
    views = scenes.drawn(5, 2, 0, V)
    camera = [i for i, f in enumerate(scenes.factors(2)) if f.name.startswith("camera_")]
    assert np.array_equal(np.delete(views[::V], camera, 1), np.delete(alone, camera, 1))
    assert np.array_equal(scenes.drawn(3, 2, 0, V), views[: 3 * V])


def given_by(data: Data) -> tuple[Views, ViewsGiven]:
    images = data.open("train")
    asked = ViewsGiven(MOST, tuple(cameras(images).values()))
    views = Batches(images, torch.device("cpu"), views=asked).views
    assert views is not None
    return views, asked


def test_what_is_given_are_other_views_of_the_same_scene_and_where_each_was_taken_from():
    views, asked = given_by(small())
    index = torch.arange(len(views.x))
    with seeded("views"):
        x, camera, number, query = views.drawn(index)
    spaces = asked.spaces((3, 32, 32), 256)
    assert [tuple(part.shape[1:]) for part in (x, camera, number, query)] == [s.shape for s in spaces]
    assert torch.equal(query, views.cameras)
    assert set(number.tolist()) == set(range(MOST + 1))
    for i, n in enumerate(number.tolist()):
        own = range(i // V * V, i // V * V + V)
        where = [next(j for j in own if torch.equal(views.cameras[j], c)) for c in camera[i, :n]]
        assert len({i, *where}) == n + 1  # each once, and never the one that is asked for
        assert all(torch.equal(views.x[j], x[i, k]) for k, j in enumerate(where))
        assert not x[i, n:].any()
        assert not camera[i, n:].any()


def test_measuring_is_given_the_same_of_an_image_whatever_the_batch_and_the_limit():
    images = small().open("train")
    asked = ViewsGiven(MOST, tuple(cameras(images).values()))
    batches = Batches(images, torch.device("cpu"), views=asked)
    whole = next(batches.in_order(len(images)))
    for a, *parts in zip(whole.y, *(batch.y for batch in batches.in_order(3)), strict=True):
        assert torch.equal(torch.cat(parts), a)
    few = batches.head(5)
    assert len(few) == 2 * V  # whole scenes
    assert torch.equal(next(few.in_order(8)).y[0], whole.y[0][:8])


def test_cameras_reach_networks_as_sines_cosines_and_shares_of_their_ranges():
    values = np.array([[90.0, 10, 8], [180, 35, 4]])
    factors = [f for f in scenes.factors() if f.name.startswith("camera_")]
    found = coordinates(values, factors)
    assert np.allclose(found, [[1, 0, -1, 1], [0, -1, 0, -1]], atol=1e-6)


def npz(path: Path, names: list[str], n: int = 40, missing: bool = False) -> Data:
    rng = np.random.default_rng(0)
    factors = rng.uniform(0, 90, (n, len(names)))
    factors[3, 0] = np.nan if missing else 1
    np.savez(path, x=rng.integers(0, 255, (n, 8, 8, 3), np.uint8), factors=factors, factor_names=np.array(names))
    return Data(source=str(path), views=V)


def test_own_arrays_with_cameras_are_views_too(tmp_path: Path):
    images = npz(tmp_path / "own.npz", ["camera_azimuth (deg)", "camera_height"]).open("train")
    azimuth, height = cameras(images).values()
    assert (azimuth.kind, height.kind) == ("circular", "continuous")
    assert images.views == V
    assert len(images) % V == 0


def test_what_are_no_views_is_said(tmp_path: Path):
    wrong = {
        "digits does not say where": Data(source="digits", views=V),
        "own does not say where": npz(tmp_path / "own.npz", ["hue"]),
        "some does not say camera_x of 1 images": npz(tmp_path / "some.npz", ["camera_x"], missing=True),
        "41 images are no whole number of scenes": npz(tmp_path / "odd.npz", ["camera_x"], n=41),
        "data.images=82: is no multiple of data.views=4; set 80 or 84": small(images=82),
        "holds out some views of a scene": small(holdout="camera_azimuth=0..90"),
    }
    for said, data in wrong.items():
        with pytest.raises(DataError) as e:
            data.open("train")
        assert said in str(e.value)
    held = small(holdout="object1_shape=box")
    assert scene_factors(held, "test")[0].shape[1] == V
    with pytest.raises(ConfigError, match="views: expected a whole number of at least 2 or null, got 1"):
        override(Data(), ["views=1"])

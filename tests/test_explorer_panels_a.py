"""What the map answers."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from lowerbound.explorer.mapping import Encoding, Plane, along, principal
from lowerbound.explorer.messages import Answer
from lowerbound.explorer.panels.base import Panel, action
from lowerbound.runs.run import Run
from pages import Page, serving, tiny


@pytest.fixture(scope="module")
def run(surroundings: None, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return tiny(tmp_path_factory.mktemp("runs") / "digits")


@pytest.fixture(scope="module")
def page(run: Run) -> Iterator[Page]:
    with serving([run]) as found:
        yield found


def select(page: Page, point: int) -> np.ndarray:
    return page.ask("map", "select", view={}, point=point).arrays["z"]


def test_the_plane_keeps_what_lies_in_it():
    """Codes of a plane come back as they were; the variance is that of their two directions."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(200, 2)) @ rng.normal(size=(2, 6)) + rng.normal(size=6)
    plane = principal(z)
    np.testing.assert_allclose(plane.codes(plane.places(z).astype(np.float64)), z, atol=1e-4)
    assert sum(plane.share) == pytest.approx(1)


def test_two_latents_are_shown_as_they_are():
    z = np.random.default_rng(0).normal(3, 2, (50, 2))
    np.testing.assert_allclose(principal(z).places(z), z, rtol=1e-6)


def test_a_way_is_walked_at_equal_distances():
    found = along(np.array([[0.0, 0], [3, 0], [3, 1]]), 9)
    np.testing.assert_allclose(np.linalg.norm(np.diff(found, axis=0), axis=1), 0.5)
    np.testing.assert_allclose(found[[0, -1]], [[0, 0], [3, 1]])


def test_a_place_takes_after_the_images_around_it():
    """Beside the plane, where the left half is at 1 and the right half at -1."""
    placed = np.random.default_rng(0).normal(size=(400, 2))
    placed[:, 0] += np.sign(placed[:, 0])
    side = -np.sign(placed[:, :1])
    encoding = object.__new__(Encoding)
    encoding.plane = Plane(np.zeros(3), np.eye(2, 3), ())
    encoding.z, encoding.done = np.concatenate([placed, side], 1).astype(np.float32), len(placed)
    at = np.array([[-2.0, 0.1], [2.0, 0.1]])
    np.testing.assert_allclose(encoding.codes_at(at, placed, exact=False)[:, 2], [1, -1], atol=1e-6)
    np.testing.assert_allclose(encoding.codes_at(at, placed, exact=False)[:, :2], at, atol=1e-6)
    np.testing.assert_array_equal(encoding.codes_at(at, placed, exact=True)[:, 2], 0)


def test_a_point_is_where_its_image_is_encoded(page: Page, run: Run):
    page.ask("map", "points", view={})  # all are encoded from now on
    answer = page.ask("map", "select", view={}, point=5)
    row = int(answer.said["image"].partition(":")[2])
    found = page.ask("latent", "encode", image=f"valid:{row}").arrays
    np.testing.assert_allclose(answer.arrays["z"], found["z"], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(answer.arrays["original"], found["original"])


def test_neighbours_are_those_with_the_nearest_codes(page: Page):
    page.ask("map", "points", view={})
    near = page.ask("map", "select", view={}, point=0).said["neighbours"]
    own = select(page, 0)
    far = [float(np.linalg.norm(select(page, p) - own)) for p in near["points"]]
    np.testing.assert_allclose(far, near["distances"], rtol=1e-3)
    assert far == sorted(far)
    assert 0 not in near["points"]


def test_a_path_passes_the_places_that_it_is_drawn_through(page: Page):
    page.ask("map", "points", view={})
    way = [[-1.0, 0.5], [1.0, 0.5]]
    pictures = page.ask("map", "path", view={}, way=way, frames=5).arrays["pictures"]
    for at, k in ((way[0], 0), ([0.0, 0.5], 2), (way[1], 4)):
        one = page.ask("map", "decode", view={}, at=at).arrays["picture"]
        assert np.abs(pictures[k].astype(int) - one).max() <= 1


@pytest.mark.parametrize(
    ("do", "given", "why"),
    [
        ("select", {"point": 10**6}, "expected a number below"),
        ("decode", {"at": [1e9, 0]}, "less than or equal"),
        ("colour", {"by": "mood"}, "have no 'mood'"),
        ("path", {"way": [[0, 0]]}, "at least 2"),
    ],
)
def test_what_is_not_on_the_map_is_refused(page: Page, do: str, given: dict[str, object], why: str):
    assert why in page.ask("map", do, view={}, **given).error


def test_an_unknown_split_is_refused(page: Page):
    assert "split" in page.ask("map", "points", view={"split": "hidden"}).error


def test_colours_are_those_of_the_images(page: Page):
    said = page.ask("map", "colours", view={}).said
    assert said["names"][0] == "label"
    label = page.ask("map", "colour", view={}, by="label")
    name = page.ask("map", "images", view={}, points=[3]).said["names"][0]
    assert name.endswith(f", {label.said['names'][label.arrays['values'][3]]}")


def test_runs_are_as_they_were(page: Page, run: Run):
    """The map writes nothing."""
    files = {p: p.stat().st_mtime_ns for p in Path(run.path).rglob("*")}
    page.ask("map", "points", view={})
    assert {p: p.stat().st_mtime_ns for p in Path(run.path).rglob("*")} == files


def test_an_action_is_not_called_as_what_every_panel_has():
    """Else it would take the place of that, and break the page for all runs."""
    for name in ("place", "title", "fits", "actions"):
        with pytest.raises(TypeError, match=f"{name}: an action may not be called"):
            type("Bad", (Panel,), {name: action(lambda self, shown: Answer())})

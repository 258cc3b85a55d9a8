"""The panels of grids, as a page asks them: codes, and pixels one after another."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from grids import DRAWN, coded, pixelwise
from lowerbound.runs.run import Run
from pages import Answered, Page, read, serving

CODES, PIXELS = 0, 1  # the runs


@pytest.fixture(scope="module")
def runs(surroundings: None, tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    folder = tmp_path_factory.mktemp("runs")
    return [coded(folder / "codes"), pixelwise(folder / "pixels")]


@pytest.fixture(scope="module")
def page(runs: list[Run]) -> Iterator[Page]:
    with serving(runs) as found:
        yield found


def test_each_run_has_its_panel(page: Page):
    panels = [[p["name"] for p in run["panels"]] for run in page.ask("", "runs").said["runs"]]
    assert "codes" in panels[CODES]
    assert "codes" not in panels[PIXELS]
    assert "autoregressive" in panels[PIXELS]
    assert "autoregressive" not in panels[CODES]


# ---- codes


def encoded(page: Page, image: str = "valid:0") -> dict[str, list[int]]:
    arrays = page.ask("codes", "encode", CODES, image=image).arrays
    return {name: arrays[f"codes_{name}"].flatten().tolist() for name in ("top", "bottom")}


def test_the_codebook_is_counted_over_the_runs_images(page: Page, runs: list[Run]):
    """By hand: the first 256 validation images."""
    about = page.ask("codes", "about", CODES)
    assert [(level["name"], level["shape"]) for level in about.said["levels"]] == [("top", [2, 2]), ("bottom", [4, 4])]
    model: Any = runs[CODES].load("cpu")
    images = page.ask("codes", "images", CODES, count=1).said["of"]
    assert images > 100
    for name, places, side in (("top", 4, 4), ("bottom", 16, 2)):
        used, patches = about.arrays[f"used_{name}"], about.arrays[f"patches_{name}"]
        assert used.sum() == min(images, 256) * places
        assert patches.shape == (len(used), side, side, 1)
    code = int(about.arrays["used_top"].argmax())
    assert model.levels == ("top", "bottom")
    assert code in encoded(page)["top"] + [c for i in range(1, 9) for c in encoded(page, f"valid:{i}")["top"]]


def test_an_image_is_what_its_codes_decode_to(page: Page, runs: list[Run]):
    found = page.ask("codes", "encode", CODES, image="valid:3").arrays
    again = page.ask("codes", "decode", CODES, codes=encoded(page, "valid:3")).arrays["picture"]
    np.testing.assert_array_equal(found["reconstruction"], again)
    other = page.ask("codes", "decode", CODES, codes=encoded(page, "valid:4")).arrays["picture"]
    assert not np.array_equal(again, other)


def test_a_level_may_be_anothers(page: Page):
    a = encoded(page, "valid:1")
    b = {name: [(code + 1) % 32 for code in codes] for name, codes in a.items()}
    mixed = page.ask("codes", "decode", CODES, codes={"top": a["top"], "bottom": b["bottom"]}).arrays["picture"]
    for own in (a, b):
        assert not np.array_equal(mixed, page.ask("codes", "decode", CODES, codes=own).arrays["picture"])


def test_a_region_alone_is_drawn_anew(page: Page):
    own, region = encoded(page), {"top": [1], "bottom": [2, 3, 6, 7]}
    seen = set()
    for seed in range(6):
        answer = page.ask("codes", "redraw", CODES, codes=own, region=region, seed=seed).arrays
        drawn = {name: answer[f"codes_{name}"].flatten().tolist() for name in own}
        for name, places in region.items():
            assert all(a == b for k, (a, b) in enumerate(zip(drawn[name], own[name], strict=True)) if k not in places)
        picture = page.ask("codes", "decode", CODES, codes=drawn).arrays["picture"]
        np.testing.assert_array_equal(answer["picture"], picture)
        seen.add(json.dumps(drawn))
    assert len(seen) > 1
    twice = [page.ask("codes", "redraw", CODES, codes=own, region=region, seed=5).arrays["picture"] for _ in range(2)]
    np.testing.assert_array_equal(*twice)


def test_the_prior_draws_a_whole_picture_by_its_seed(page: Page):
    a, b, c = (page.ask("codes", "draw", CODES, seed=seed).arrays["picture"] for seed in (0, 0, 1))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)


TOP = [0] * 4
BOTTOM = [0] * 16


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"codes": {"top": TOP}}, "level bottom has 16 codes, got 0"),
        ({"codes": {"top": TOP, "bottom": BOTTOM[1:]}}, "level bottom has 16 codes, got 15"),
        ({"codes": {"top": [32, 0, 0, 0], "bottom": BOTTOM}}, "level top has codes from 0 to 31, got 32"),
        ({"codes": {"top": TOP, "bottom": BOTTOM, "middle": []}}, "no level 'middle'"),
        ({"codes": {"top": [-1, 0, 0, 0], "bottom": BOTTOM}}, "greater than or equal to 0"),
        ({"codes": {"top": [0] * 5000, "bottom": BOTTOM}}, "at most 4096"),
    ],
)
def test_what_are_no_codes_is_said(page: Page, given: dict[str, Any], reason: str):
    assert reason in page.ask("codes", "decode", CODES, **given).error


def test_what_is_no_region_is_said(page: Page):
    codes = {"top": TOP, "bottom": BOTTOM}
    said = lambda region: page.ask("codes", "redraw", CODES, codes=codes, region=region, seed=0).error  # noqa: E731
    assert said({}) == "no place is chosen to be drawn anew"
    assert said({"top": [4]}) == "level top has 4 codes; there is no place 4"
    assert "no level 'nothing'" in said({"nothing": [0]})


# ---- pixels one after another


def image(page: Page, which: str = "valid:0") -> np.ndarray:
    return page.ask("autoregressive", "image", PIXELS, image=which).arrays["values"]


def completed(page: Page, values: np.ndarray, erased: list[int], **given: Any) -> list[Answered]:
    """All answers but the last, which is empty."""
    question = {"values": values.flatten().tolist(), "erased": erased, "seed": 0, **given}
    with page.socket() as socket:
        socket.send(
            json.dumps({"id": 1, "panel": "autoregressive", "do": "complete", "run": PIXELS, "given": question})
        )
        found = []
        while (answer := read(socket.recv(60))).document.get("more"):  # pyright: ignore[reportArgumentType]
            found.append(answer)
        assert "error" not in answer.document, answer.error
    return found


def test_the_sampler_is_watched_position_by_position(page: Page):
    values, erased = image(page), [k for k in range(64) if k // 8 in (3, 4) and 2 <= k % 8 < 6]
    answers = completed(page, values, erased, draws=3)
    drawn = [a.said["i"] * 8 + a.said["j"] for a in answers if "i" in a.said]
    assert drawn == erased, "in the order of reading"
    assert all(a.arrays["values"].shape == (3, 1) for a in answers if "i" in a.said)
    weights = answers[-1].said["weights"]
    assert sum(weights) == pytest.approx(1, abs=1e-5)
    assert weights[answers[-1].said["best"]] == max(weights)


def test_draws_are_weighed_by_the_pixels_that_come_later(page: Page, runs: list[Run]):
    """By hand: the ratio of two weights is that of p(kept | before) of the two images."""
    values, erased = image(page), list(range(20, 30))
    answers = completed(page, values, erased, draws=4)
    whole = np.repeat(values.reshape(1, -1), 4, 0)
    for a in answers:
        if "i" in a.said:
            whole[:, a.said["i"] * 8 + a.said["j"]] = a.arrays["values"][:, 0]
    model: Any = runs[PIXELS].load("cpu")
    log_p = model.log_probs(whole.reshape(4, 1, 8, 8)).detach().flatten(1).numpy()
    kept = np.delete(log_p, erased, 1).sum(1)
    expected = np.exp(kept - kept.max())
    np.testing.assert_allclose(answers[-1].said["weights"], expected / expected.sum(), atol=1e-4)


def test_the_same_seed_draws_the_same_and_what_comes_first_weighs_nothing(page: Page):
    values, lower = image(page), list(range(32, 64))

    def drawn(seed: int) -> list[Any]:
        return [a.arrays["values"].tolist() for a in completed(page, values, lower, seed=seed) if "i" in a.said]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)
    assert completed(page, values, lower, draws=2)[-1].said["weights"] == pytest.approx([0.5, 0.5], abs=1e-5)
    assert completed(page, values, [])[-1].said == {"weights": [1.0], "best": 0}


def test_the_probabilities_of_the_pixel_under_the_pointer(page: Page):
    """They are what the bits of the whole picture are made of."""
    values = image(page, "valid:2")
    about = page.ask("autoregressive", "about", PIXELS).said
    surprise = page.ask("autoregressive", "surprise", PIXELS, values=values.flatten().tolist())
    assert surprise.arrays["bits"].shape == (8, 8)
    assert surprise.said["bits"] == pytest.approx(float(surprise.arrays["bits"].sum()), rel=1e-4)
    for i, j in ((0, 0), (3, 4), (7, 7)):
        p = page.ask("autoregressive", "probabilities", PIXELS, values=values.flatten().tolist(), i=i, j=j).arrays["p"]
        assert p.shape == (1, about["levels"])
        assert p.sum() == pytest.approx(1, abs=1e-4)
        assert -np.log2(p[0, values[i, j, 0]]) == pytest.approx(surprise.arrays["bits"][i, j], abs=1e-3)


@pytest.mark.parametrize(
    ("do", "given", "reason"),
    [
        ("surprise", {"values": [0] * 63}, "an image has 64 values, got 63"),
        ("surprise", {"values": [17, *[0] * 63]}, "a pixel has values from 0 to 16, got 17"),
        ("surprise", {"values": [256, *[0] * 63]}, "less than or equal to 255"),
        ("probabilities", {"values": [0] * 64, "i": 8, "j": 0}, "there is no pixel 8, 0 in images of 8x8"),
        ("complete", {"values": [0] * 64, "erased": [64], "seed": 0}, "there is no pixel 64"),
        ("complete", {"values": [0] * 64, "erased": [0], "seed": 0, "draws": 17}, "less than or equal to 16"),
    ],
)
def test_what_is_no_image_or_place_is_said(page: Page, do: str, given: dict[str, Any], reason: str):
    assert reason in page.ask("autoregressive", do, PIXELS, **given).error


def test_an_upload_is_completed_too(page: Page):
    status, answer = page.upload(DRAWN)
    assert status == 200
    values = image(page, answer["image"])
    assert values.shape == (8, 8, 1)
    assert values.max() <= 16
    assert completed(page, values, [63])[-1].said["best"] == 0

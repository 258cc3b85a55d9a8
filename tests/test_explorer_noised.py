"""The panels of hierarchies and of diffusion, as a page asks them."""

import io
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import lowerbound as lb
from grids import DRAWN
from lowerbound.distributions import closed_kl
from lowerbound.model import Draw
from lowerbound.noise import rand, seeded, stream
from lowerbound.progress import Progress
from lowerbound.runs.inputs import user_images
from lowerbound.runs.run import Run
from lowerbound.schedules import DDIM
from lowerbound.units import to_bytes
from noised import layered, noised, noised_latents
from pages import Answered, Page, read, serving

LAYERED, NOISED, LATENTS = 0, 1, 2  # the runs
OWN = ["A", "A", "A"]


@pytest.fixture(scope="module")
def runs(surroundings: None, tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    folder = tmp_path_factory.mktemp("runs")
    return [layered(folder / "layered"), noised(folder / "noised"), noised_latents(folder / "latents")]


@pytest.fixture(scope="module")
def page(runs: list[Run]) -> Iterator[Page]:
    with serving(runs) as found:
        yield found


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two drawn pictures."""
    folder = tmp_path_factory.mktemp("images")
    (folder / "a.png").write_bytes(DRAWN)
    Image.open(folder / "a.png").rotate(90, expand=True).save(folder / "b.png")
    return [folder / "a.png", folder / "b.png"]


@pytest.fixture(scope="module")
def uploads(page: Page, files: list[Path]) -> list[str]:
    """The same, sent by a page."""
    sent = [page.upload(path.read_bytes()) for path in files]
    assert all(status == 200 for status, _ in sent)
    return [answer["image"] for _, answer in sent]


def answers(page: Page, panel: str, do: str, run: int, **given: Any) -> list[Answered]:
    """All but the last, which is empty."""
    with page.socket() as client:
        client.send(json.dumps({"id": 1, "panel": panel, "do": do, "run": run, "given": given}))
        found = []
        while (answer := read(client.recv(60))).document.get("more"):  # pyright: ignore[reportArgumentType]
            found.append(answer)
    assert "error" not in answer.document, answer.error
    return found


def test_each_run_has_its_panel(page: Page):
    panels = [{p["name"] for p in run["panels"]} for run in page.ask("", "runs").said["runs"]]
    own = [found & {"hierarchies", "diffusion"} for found in panels]
    assert own == [{"hierarchies"}, {"diffusion"}, {"diffusion"}]  # a VAE of one level is no hierarchy


# ---- hierarchies


def mixed(page: Page, levels: list[str], a: str = "valid:0", **more: Any) -> np.ndarray:
    return page.ask("hierarchies", "mix", LAYERED, levels=levels, a=a, **more).arrays["pictures"]


def bytes_of(x: Any, run: Run) -> np.ndarray:
    """Events [..., C, H, W] as a page shows them."""
    x = x.detach().numpy() if isinstance(x, torch.Tensor) else x
    return np.moveaxis(to_bytes(x, run.facts.space.levels or 256), -3, -1)


def test_all_levels_of_an_image_are_its_reconstruction(
    page: Page, runs: list[Run], uploads: list[str], files: list[Path]
):
    for upload, path in zip(uploads, files, strict=True):
        expected = bytes_of(lb.reconstruct(runs[LAYERED], [path], device="cpu").r, runs[LAYERED])
        np.testing.assert_array_equal(mixed(page, OWN, upload), expected)


def test_the_coarsest_levels_of_an_image_and_the_means_of_the_finer(
    page: Page, runs: list[Run], uploads: list[str], files: list[Path]
):
    levels = [level["name"] for level in page.ask("hierarchies", "about", LAYERED).said["levels"]]
    _, *ladder = answers(page, "hierarchies", "look", LAYERED, source=uploads[0])
    assert [step.said["k"] for step in ladder] == [0, 1, 2, 3]
    assert len({step.arrays["picture"].tobytes() for step in ladder}) == 4
    for k, step in enumerate(ladder):
        x = lb.reconstruct(runs[LAYERED], files[:1], levels=levels[:k], device="cpu").r
        np.testing.assert_array_equal(step.arrays["picture"], bytes_of(x, runs[LAYERED])[0])
        same = mixed(page, [*["A"] * k, *["mean"] * (3 - k)], uploads[0])
        np.testing.assert_array_equal(step.arrays["picture"], same[0])


def test_where_no_level_is_kept_it_is_a_sample(page: Page, runs: list[Run]):
    model = runs[LAYERED].load("cpu")
    with seeded(7, "sample"):
        expected = bytes_of(model.draw(5, None, Draw(0.8, mean=True)).x, runs[LAYERED])
    found = mixed(page, ["draw"] * 3, draws=5, temperature=0.8, seed=7)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(mixed(page, OWN, "prior:7"), mixed(page, ["draw"] * 3, seed=7))


def test_below_a_level_finer_ones_are_drawn_as_by_redraw(
    page: Page, runs: list[Run], uploads: list[str], files: list[Path]
):
    expected = lb.redraw(runs[LAYERED], files[:1], "z2", 4, mean=True, seed=3, device="cpu").x[0]
    below = ["A", "A", "draw"]
    found = mixed(page, below, uploads[0], draws=4, seed=3)
    np.testing.assert_array_equal(np.moveaxis(found, -1, 1), expected)
    assert len({picture.tobytes() for picture in found}) == 4
    np.testing.assert_array_equal(found, mixed(page, below, uploads[0], draws=4, seed=3))
    assert not np.array_equal(found, mixed(page, below, uploads[0], draws=4, seed=4))
    cold = mixed(page, below, uploads[0], temperature=0)
    np.testing.assert_array_equal(cold, mixed(page, ["A", "A", "mean"], uploads[0]))


def test_levels_of_two_images_are_mixed(page: Page, runs: list[Run], uploads: list[str], files: list[Path]):
    model: Any = runs[LAYERED].load("cpu")
    a, b = (model.centers(user_images(runs[LAYERED], [path], Progress(), torch.device("cpu")).x) for path in files)
    for of in (["A", "B", "A"], ["B", "A", "B"], ["B", "B", "B"]):
        z = tuple(a[l] if which == "A" else b[l] for l, which in enumerate(of))
        expected = bytes_of(model.likelihood(z).mean, runs[LAYERED])
        np.testing.assert_array_equal(mixed(page, of, uploads[0], b=uploads[1]), expected)
        assert not np.array_equal(expected, mixed(page, OWN, uploads[0]))


def test_the_kl_of_each_level_is_its_share_of_the_bound(page: Page, runs: list[Run], uploads: list[str]):
    """By the terms of the bound, of the same draws; that of the coarsest level depends on none."""
    first, *_ = answers(page, "hierarchies", "look", LAYERED, source=uploads[0])
    assert first.arrays["original"].shape == (8, 8, 1)
    maps = [first.arrays[f"kl_{name}"] for name in ("z1", "z2", "z3")]
    assert [m.shape for m in maps] == [(1, 1), (4, 4), (4, 4)]
    np.testing.assert_allclose([m.sum() for m in maps], first.said["kl"], rtol=1e-4)
    model: Any = runs[LAYERED].load("cpu")
    x = torch.from_numpy(np.moveaxis(first.arrays["original"], -1, 0)[None] // 255)
    with torch.no_grad(), seeded(1):
        coarsest = float(closed_kl(model.posteriors(x)[0], model.prior_of(0)))
        weights = model.log_weights(x, draws=2000).double()
    assert first.said["kl"][0] == pytest.approx(coarsest, rel=1e-4)
    bound = -sum(first.said["kl"]) - first.said["reconstruction"]
    spread = float(weights.std()) / first.said["draws"] ** 0.5
    assert bound == pytest.approx(float(weights.mean()), abs=5 * spread)


@pytest.mark.parametrize(
    ("do", "given", "reason"),
    [
        ("mix", {"levels": ["A"] * 4, "a": "valid:0"}, "has 3 levels, got 4"),
        ("mix", {"levels": ["A", "A", "C"], "a": "valid:0"}, "'A', 'B', 'mean' or 'draw'"),
        ("mix", {"levels": ["A", "B", "A"], "a": "valid:0"}, "there is no B"),
        ("mix", {"levels": OWN, "a": "valid:0", "draws": 17}, "less than or equal to 16"),
        ("mix", {"levels": OWN, "a": "valid:0", "temperature": -1}, "greater than or equal to 0"),
        ("mix", {"levels": OWN, "a": "valid:10000000"}, "expected a number below"),
        ("mix", {"levels": OWN, "a": "prior:-1"}, "expected prior:SEED"),
        ("mix", {"levels": OWN, "a": "prior:9999999999"}, "expected prior:SEED"),
        ("look", {"source": "somewhere"}, "no image somewhere"),
        ("look", {"source": "valid:0", "given": {"label": "3"}}, "is not conditional"),
    ],
)
def test_levels_that_there_are_not_are_said(page: Page, do: str, given: dict[str, Any], reason: str):
    assert reason in page.ask("hierarchies", do, LAYERED, **given).error


# ---- diffusion


def watched(page: Page, run: int = NOISED, **given: Any) -> list[Answered]:
    """Every time of a way."""
    return answers(page, "diffusion", "denoise", run, **given)[1:]


@pytest.mark.parametrize(
    "how", [{}, {"sampler": "DDIM", "steps": 5}, {"guidance": 40.0, "steps": 7, "temperature": 0.9}]
)
def test_what_is_watched_is_a_sample(page: Page, runs: list[Run], how: dict[str, Any]):
    """That of the same seed, bit for bit."""
    named = {**how, "sampler": DDIM()} if "sampler" in how else how
    model: Any = runs[NOISED].load("cpu")
    with seeded(11, "sample"):
        expected = model.draw(1, torch.tensor([4]), Draw(**named)).x
    way = watched(page, how={"seed": 11, **how}, given={"label": "4"})
    np.testing.assert_array_equal(way[-1].arrays["x"], bytes_of(expected, runs[NOISED]))
    steps = how.get("steps", 12)
    assert [(a.said["i"], a.said["of"]) for a in way] == [(i, steps) for i in range(steps + 1)]
    np.testing.assert_allclose([a.said["t"] for a in way], np.linspace(1, 0, steps + 1))
    np.testing.assert_allclose([a.said["log_snr"] for a in way], -model.gammas(steps).numpy())


def test_latents_are_watched_decoded(page: Page, runs: list[Run]):
    expected = lb.sample(runs[LATENTS], 1, mean=True, steps=6, seed=5, device="cpu").x
    way = watched(page, LATENTS, how={"seed": 5, "steps": 6})
    assert way[0].arrays["z"].shape == way[-1].arrays["x"].shape == (1, 8, 8, 1)
    np.testing.assert_array_equal(np.moveaxis(way[-1].arrays["x"], -1, 1), expected)
    assert len(watched(page, LATENTS, how={"steps": 6}, image="valid:0", t=0.5)) == 4


def test_an_image_noised_and_denoised_is_that_of_edit(
    page: Page, runs: list[Run], uploads: list[str], files: list[Path]
):
    made = lb.edit(runs[NOISED], files[:1], strength=0.5, label=4, seed=9, device="cpu").x[:, 0]
    way = watched(page, how={"seed": 9}, image=uploads[0], t=0.5, given={"label": "4"})
    np.testing.assert_array_equal(way[-1].arrays["x"], bytes_of(made, runs[NOISED]))
    assert len(way) == 7
    assert way[0].said["t"] == 0.5


def test_without_noise_it_is_the_image(page: Page):
    first, only = answers(page, "diffusion", "denoise", NOISED, how={"draws": 3}, image="valid:3", t=0)
    for picture in only.arrays["x"]:
        np.testing.assert_array_equal(picture, first.arrays["original"])
    assert np.abs(only.arrays["z"].astype(int) - first.arrays["original"]).mean() < 8  # 17 values


def test_draws_differ_and_their_seed_repeats_them(page: Page):
    def drawn(seed: int) -> np.ndarray:
        return watched(page, how={"seed": seed, "steps": 4, "draws": 3}, image="valid:1", t=0.75)[-1].arrays["x"]

    first = drawn(1)
    assert len({picture.tobytes() for picture in first}) == 3
    np.testing.assert_array_equal(first, drawn(1))
    assert not np.array_equal(first, drawn(2))


def test_a_film_shows_the_way(page: Page):
    how = {"seed": 2, "steps": 5}
    film = Image.open(io.BytesIO(page.ask("diffusion", "film", NOISED, how=how).arrays["gif"].tobytes()))
    film.seek(film.n_frames - 1)  # pyright: ignore[reportAttributeAccessIssue]
    last = np.asarray(film.convert("L"))
    height, width = last.shape
    assert width == 2 * height
    x = watched(page, how=how)[-1].arrays["x"][0, ..., 0]
    each = height // 8
    np.testing.assert_allclose(last[each // 2 :: each, height + each // 2 :: each], x, atol=2)  # a GIF's greys


def test_of_many_steps_some_are_shown(page: Page):
    way = watched(page, LATENTS, how={"steps": 300})
    assert len(way) == 301
    shown = [a.said["i"] for a in way if a.arrays]
    assert shown == [*range(0, 301, 2)]


def test_a_newer_way_ends_the_older(page: Page):
    with page.socket() as client:
        for number, steps in ((1, 1000), (2, 2)):
            given = {"how": {"steps": steps}}
            question = {"id": number, "panel": "diffusion", "do": "denoise", "run": LATENTS, "given": given}
            client.send(json.dumps(question))
            if number == 1:
                read(client.recv(20))  # pyright: ignore[reportArgumentType]
        found = []
        while not found or found[-1]["id"] != 2 or found[-1].get("more"):
            found.append(read(client.recv(20)).document)  # pyright: ignore[reportArgumentType]
    assert {"id": 1, "dropped": True} in found
    assert len([f for f in found if f["id"] == 1]) < 900
    assert [f["said"].get("i") for f in found if f["id"] == 2 and f["more"]] == [None, 0, 1, 2]


@pytest.mark.parametrize(
    ("run", "given", "reason"),
    [
        (NOISED, {"how": {"steps": 0}}, "greater than or equal to 1"),
        (NOISED, {"how": {"steps": 10**9}}, "less than or equal to 1000"),
        (NOISED, {"how": {"sampler": "hein"}}, "did you mean heun"),
        (NOISED, {"how": {"speed": 1}}, "Extra inputs"),
        (NOISED, {"how": {"draws": 9}}, "less than or equal to 8"),
        (NOISED, {"how": {}, "given": {"label": "ten"}}, "ten"),
        (NOISED, {"how": {}, "image": "valid:0", "t": 1.5}, "less than or equal to 1"),
        (NOISED, {"how": {}, "image": "valid:99999"}, "expected a number below"),
        (LATENTS, {"how": {"guidance": 2}}, "--guidance 2"),
        (LATENTS, {"how": {}, "given": {"label": "3"}}, "is not conditional"),
    ],
)
def test_ways_that_there_are_not_are_said(page: Page, run: int, given: dict[str, Any], reason: str):
    assert reason in page.ask("diffusion", "denoise", run, **given).error


def test_a_run_without_the_role_has_nothing_to_answer(page: Page):
    assert "Diffusion is not for layered" in page.ask("diffusion", "denoise", LAYERED, how={}).error
    assert "Hierarchies is not for latents" in page.ask("hierarchies", "look", LATENTS, source="valid:0").error
    for panel in ("codes", "autoregressive"):
        assert "is not for noised" in page.ask(panel, "about", NOISED).error


# ---- noise


def test_a_stream_goes_on_where_it_was_in_whatever_thread():
    with seeded(3, "stream", quick=True):
        expected = torch.cat([rand([4]) for _ in range(3)])
    noise, found = stream(3, "stream"), []

    def draw() -> None:
        with noise():
            found.append(rand([4]))

    for _ in range(3):
        thread = threading.Thread(target=draw)
        thread.start()
        thread.join()
        rand([2])  # of others, outside
        with seeded(4):
            rand([2])
    assert torch.equal(torch.cat(found), expected)

"""The panels of hierarchies and of diffusion in Chromium: every control, by mouse and keyboard, and what they are to a
screen reader."""

import io
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from grids import DRAWN
from lowerbound.runs.run import Run
from noised import layered, noised, noised_latents
from pages import Page, expect_accessible, serving
from test_explorer_browser import browser, context  # noqa: F401  (fixtures)
from test_explorer_grids_browser import press, shown, told
from test_given import write

pytestmark = [pytest.mark.browser, pytest.mark.filterwarnings("default")]

WATCHED = """window.seen = [];
new MutationObserver(() => {
    const t = document.querySelector('#told')?.textContent;
    if (t && t !== window.seen.at(-1)) window.seen.push(t);
}).observe(document, {subtree: true, childList: true})"""
LOW = """[...document.querySelectorAll('.panel button:not(.icon):not(.pick), .panel select')]
    .filter(e => e.offsetHeight && e.offsetHeight < 34).map(e => e.textContent)"""
UPLOAD = {"name": "a.png", "mimeType": "image/png", "buffer": DRAWN}


@pytest.fixture(scope="module")
def server(surroundings: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    folder = tmp_path_factory.mktemp("runs")
    runs: list[Run] = [
        layered(folder / "layered", label=True),
        noised(folder / "noised"),
        noised_latents(folder / "latents"),
    ]
    images = write(folder / "images")
    given = (f"data.source={images.with_suffix('')}", f"data.attributes={images}", "data.given=light,turn,place")
    runs += [layered(folder / "layered-given", *given), noised(folder / "noised-given", *given)]
    with serving(runs) as found:
        yield found


def opened(context: Any, server: Page, run: str, more: str = "") -> Any:  # noqa: F811
    page = context.new_page()
    page.on("pageerror", lambda error: pytest.fail(f"the page failed: {error}"))
    page.on("request", lambda r: r.url.startswith((f"http://{server.host}", "blob:", "data:")) or pytest.fail(r.url))
    panel = "hierarchies" if run.startswith("layered") else "diffusion"
    page.goto(f"http://{server.host}/?token={server.token}#run={run}&panel={panel}{more}")
    page.wait_for_selector("#data button")
    waits = {"hierarchies": "looked === '4'", "diffusion": "done > 0"}
    page.wait_for_function(f"() => document.querySelector('.panel').dataset.{waits[panel]}")
    page.wait_for_timeout(300)
    return page


@pytest.fixture
def levels(context: Any, server: Page) -> Any:  # noqa: F811
    return opened(context, server, "layered")


@pytest.fixture
def steps(context: Any, server: Page) -> Any:  # noqa: F811
    return opened(context, server, "noised")


def state(page: Any) -> dict[str, str]:
    """What the address says."""
    page.wait_for_timeout(250)
    pairs = (pair.partition("=") for pair in page.evaluate("decodeURIComponent(location.hash.slice(1))").split("&"))
    return {name: value for name, _, value in pairs}


def again(page: Any, context: Any, server: Page, run: str) -> Any:  # noqa: F811
    """Another page, of the same address."""
    rest = page.evaluate("location.hash.slice(1)").split("&")
    return opened(context, server, run, "".join(f"&{pair}" for pair in rest if not pair.startswith(("run=", "panel="))))


def saved(page: Any, button: str) -> tuple[str, Image.Image]:
    with page.expect_download() as file:
        press(page, button)
    return file.value.suggested_filename, Image.open(io.BytesIO(file.value.path().read_bytes()))


# ---- hierarchies


def of(page: Any, level: str, which: str) -> None:
    page.get_by_role("group", name=f"{level} is").get_by_role("radio", name=which, exact=True).check()


def test_below_a_level_the_finer_are_drawn_anew(levels: Any, context: Any, server: Page):  # noqa: F811
    whole = shown(levels)
    slider = levels.get_by_role("slider", name=re.compile("^Levels kept"))
    slider.focus()
    slider.press("ArrowLeft")
    slider.press("ArrowLeft")
    told(levels, "#made", "z1 of A; z2 to z3 drawn by seed 0")
    assert levels.locator("#draws button").count() == 8
    drawn = shown(levels)
    assert not np.array_equal(drawn, whole)
    levels.locator("#draws button").nth(3).click()
    assert levels.locator("#draws button").nth(3).get_attribute("aria-pressed") == "true"
    assert not np.array_equal(shown(levels), drawn)
    press(levels, "Draw again, by the next seed")
    told(levels, "#made", "drawn by seed 1")
    levels.get_by_label("Seed", exact=True).fill("0")
    levels.get_by_label("Seed", exact=True).press("Enter")
    told(levels, "#made", "drawn by seed 0")
    levels.get_by_label("Draws", exact=True).select_option("4")
    levels.wait_for_function("() => document.querySelectorAll('#draws button').length === 4")
    levels.get_by_label("Temperature, typed").fill("0")
    levels.get_by_label("Temperature, typed").press("Enter")
    levels.wait_for_timeout(400)
    of(levels, "z2", "Mean")
    of(levels, "z3", "Mean")
    told(levels, "#made", "z2 to z3 at the mean")
    assert levels.locator("#draws button").count() == 0
    assert state(levels) == {
        "run": "layered", "panel": "hierarchies", "ha": "valid:0", "hl": "Amm", "hn": "4", "ht": "0",
        **({"hy": state(levels)["hy"]} if "hy" in state(levels) else {}),
    }  # fmt: skip
    np.testing.assert_array_equal(shown(again(levels, context, server, "layered")), shown(levels))


def test_what_the_levels_carry(levels: Any):
    said = levels.locator(".told").all_text_contents()
    assert all(re.fullmatch(r"-?[\d.]+ nats \(-?[\d.]+ bits\)", text) for text in said)
    told(levels, "#total", "together -ELBO")
    assert levels.get_by_role("img", name=re.compile("^Where the KL of z3 lies")).count() == 1
    assert levels.locator("#ladder button").count() == 4
    levels.get_by_role("button", name="z1 of A, the others at the means of their priors").click()
    told(levels, "#made", "z1 of A; z2 to z3 at the mean")
    part = shown(levels)
    levels.get_by_role("button", name="all levels of A, the others at the means of their priors").click()
    told(levels, "#made", "z1 to z3 of A")
    assert not np.array_equal(shown(levels), part)


def test_levels_of_two_images_are_mixed(levels: Any, context: Any, server: Page):  # noqa: F811
    first = shown(levels)
    assert levels.get_by_role("radio", name="B", exact=True).first.is_disabled()
    assert levels.get_by_role("button", name="Swap A and B").is_disabled()
    press(levels, "Keep A as B, to mix its levels with another's")
    levels.wait_for_selector("#picture-b:visible")
    levels.locator("#data button").nth(3).click()
    levels.wait_for_timeout(500)
    second = shown(levels)
    assert not np.array_equal(first, second)
    of(levels, "z3", "B")
    told(levels, "#made", "z1 to z2 of A; z3 of B")
    mixed = shown(levels)
    assert not np.array_equal(mixed, second)
    np.testing.assert_array_equal(shown(again(levels, context, server, "layered")), mixed)
    press(levels, "Swap A and B")
    levels.wait_for_function("() => location.hash.includes('ha=valid%3A0') && location.hash.includes('hb=valid%3A3')")
    of(levels, "z3", "A")
    np.testing.assert_array_equal(shown(levels), first)
    of(levels, "z3", "B")
    press(levels, "Take B away")
    told(levels, "#made", "z1 to z3 of A")
    assert levels.locator("#picture-b").is_hidden()


def test_other_pictures_of_which_the_levels_are(levels: Any):
    press(levels, "Draw A from the prior")
    told(levels, "#total", "A draw has no posterior")
    assert levels.locator("#own").is_hidden()
    drawn = shown(levels)
    press(levels, "Draw A from the prior")
    levels.wait_for_function("() => location.hash.includes('prior%3A1')")
    assert not np.array_equal(shown(levels), drawn)
    levels.set_input_files("input[type=file]", UPLOAD)
    told(levels, "#total", "nats")
    of(levels, "z3", "Drawn")
    levels.wait_for_selector("#draws button")
    before = shown(levels)
    levels.get_by_label("Label", exact=True).select_option("7")
    levels.wait_for_function("() => location.hash.includes('hy=7')")
    assert not np.array_equal(shown(levels), before)
    name, picture = saved(levels, "Save the picture as PNG")
    assert name == "layered-levels.png"
    assert picture.size == (256, 256)


# ---- diffusion


def test_noise_is_taken_away_as_one_looks_on(context: Any, server: Page):  # noqa: F811
    """The pictures come one after another; back and forth by the keyboard; played."""
    page = context.new_page()
    page.add_init_script(WATCHED)
    page.goto(f"http://{server.host}/?token={server.token}#run=latents&panel=diffusion&dk=200")
    page.wait_for_function("() => document.querySelector('.panel')?.dataset.done > 0")
    watched = [int(m[1]) for text in page.evaluate("window.seen") if (m := re.match(r"Step (\d+) of 200: t = ", text))]
    assert len(watched) > 3
    assert watched == sorted(watched)
    assert watched[-1] == 200
    last = shown(page)
    scrub = page.get_by_role("slider", name="Step")
    scrub.focus()
    scrub.press("Home")
    told(page, "#told", "Step 0 of 200: t = 1.000, log SNR ")
    assert scrub.get_attribute("aria-valuetext") == page.locator("#told").text_content()
    assert not np.array_equal(shown(page), last)
    scrub.press("ArrowRight")
    told(page, "#told", "Step 1 of 200")
    press(page, "One step on")
    told(page, "#told", "Step 2 of 200")
    press(page, "One step back")
    told(page, "#told", "Step 1 of 200")
    press(page, "Play")
    assert page.locator("#play").text_content() == "Pause"
    page.wait_for_function("() => Number(document.querySelector('#scrub').value) > 4")
    page.locator("#play").press("Space")
    at = page.locator("#told").text_content()
    page.wait_for_timeout(300)
    assert page.locator("#told").text_content() == at, "it goes on though it was paused"
    page.locator("#film button").last.click()
    told(page, "#told", "Step 200 of 200")
    np.testing.assert_array_equal(shown(page), last)


def test_how_noise_is_taken_away(steps: Any, context: Any, server: Page):  # noqa: F811
    first = shown(steps)
    press(steps, "Another draw, by the next seed")
    steps.wait_for_function("() => document.querySelector('.panel').dataset.done === '2'")
    other = shown(steps)
    assert not np.array_equal(other, first)
    changes = [
        lambda: steps.get_by_label("Steps", exact=True).fill("5"),
        lambda: steps.get_by_label("Sampler", exact=True).select_option("Heun"),
        lambda: steps.get_by_label("Guidance, typed").fill("3"),
        lambda: steps.get_by_label("Temperature, typed").fill("0.5"),
        lambda: steps.get_by_label("Label", exact=True).select_option("7"),
        lambda: steps.get_by_label("Draws", exact=True).select_option("4"),
    ]
    for i, change in enumerate(changes):
        change()
        steps.keyboard.press("Tab")
        steps.wait_for_function("n => Number(document.querySelector('.panel').dataset.done) >= n", arg=i + 3)
        now = shown(steps)
        assert not np.array_equal(now, other)
        other = now
    told(steps, "#told", "Step 5 of 5")
    steps.locator("#draws button").nth(2).click()
    third = shown(steps)
    assert not np.array_equal(third, other)
    steps.locator("#film button").nth(1).click()
    told(steps, "#told", "Step 1 of 5")
    part = shown(steps)
    found = {"ds": "1", "dk": "5", "dm": "Heun", "dg": "3", "dT": "0.5", "dy": "7", "dn": "4", "dd": "2", "df": "1"}
    assert found.items() <= state(steps).items()
    np.testing.assert_array_equal(shown(again(steps, context, server, "noised")), part)


def test_an_image_is_noised_and_denoised(steps: Any, context: Any, server: Page):  # noqa: F811
    assert steps.get_by_role("button", name="Leave the image, and begin at noise").is_disabled()
    steps.locator("#data button").nth(3).click()
    told(steps, "#told", "Step 8 of 8")
    original = shown(steps, "#own")
    time = steps.get_by_role("slider", name=re.compile("^t, "))
    time.focus()
    time.press("Home")
    told(steps, "#left", "At t = 0.00")
    told(steps, "#told", "Step 0 of 0: t = 0.000")
    np.testing.assert_array_equal(shown(steps), original)
    steps.get_by_label("t, typed").fill("0.5")
    steps.get_by_label("t, typed").press("Enter")
    told(steps, "#told", "Step 6 of 6")
    told(steps, "#left", "6 of 12 steps are left")
    steps.get_by_label("Draws", exact=True).select_option("4")
    steps.wait_for_selector("#draws button")
    assert {"di": "valid:3", "dt": "0.5", "dn": "4"}.items() <= state(steps).items()
    np.testing.assert_array_equal(shown(again(steps, context, server, "noised")), shown(steps))
    steps.set_input_files("input[type=file]", UPLOAD)
    steps.wait_for_function("() => location.hash.includes('di=upload')")
    told(steps, "#told", "Step 6 of 6")
    assert not np.array_equal(shown(steps, "#own"), original)
    press(steps, "Leave the image, and begin at noise")
    told(steps, "#told", "Step 12 of 12")
    assert steps.locator("#own").is_hidden()


def test_a_way_is_stopped(steps: Any):
    steps.get_by_label("Steps", exact=True).fill("1000")
    steps.get_by_label("Steps", exact=True).press("Tab")
    steps.wait_for_function("() => /^Step [1-9]\\d* of 1000/.test(document.querySelector('#told').textContent)")
    press(steps, "Stop")
    steps.wait_for_selector("#film button")
    reached = steps.locator("#told").text_content()
    steps.wait_for_timeout(400)
    assert steps.locator("#told").text_content() == reached
    assert not reached.startswith("Step 1000 ")
    assert steps.get_by_role("button", name="Stop").is_disabled()


def test_files_of_the_way(steps: Any):
    for button, name, size in (
        ("Save the picture as PNG", "noised-diffusion.png", (256, 256)),
        ("Save z and the picture as PNG", "noised-noise-and-image.png", (512, 256)),
        ("Save the way of the first draw as GIF", "noised-diffusion.gif", None),
    ):
        found, picture = saved(steps, button)
        assert found == name
        assert picture.size == size or getattr(picture, "n_frames", 1) > 12


# ---- for everybody


@pytest.mark.parametrize("run", ["layered-given", "noised-given"])
def test_attributes_are_given(context: Any, server: Page, run: str):  # noqa: F811
    """A number and a circle as sliders, a category as a choice; the address keeps them."""
    page = opened(context, server, run)
    frames = "Number(document.querySelector('.panel').dataset.frames ?? document.querySelector('.panel').dataset.done)"
    for name, value in (("light", "0.9"), ("turn", "123")):
        before = page.evaluate(frames)
        field = page.get_by_label(f"{name}, typed")
        field.fill(value)
        field.press("Enter")
        page.wait_for_function(f"n => {frames} !== n", arg=before)
    page.get_by_label("place", exact=True).select_option("right")
    page.wait_for_timeout(300)
    other = again(page, context, server, run)
    for which in (page, other):
        assert float(which.get_by_label("turn, typed").input_value()) == 123
        assert float(which.get_by_label("light, typed").input_value()) == 0.9
        assert which.get_by_label("place", exact=True).input_value() == "right"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("run", ["layered", "noised", "latents"])
def test_axe_finds_nothing(browser: Any, server: Page, scheme: str, width: int, run: str):  # noqa: F811
    own = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
    more = "&ha=valid:1&hb=valid:2&hl=ABd" if run == "layered" else "&di=valid:1&dn=4&dk=12"
    page = opened(own, server, run, more)
    page.wait_for_selector("#draws button")
    expect_accessible(page)
    assert page.evaluate(LOW) == [], "too low for a finger"
    own.close()

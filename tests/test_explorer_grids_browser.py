"""The panels of grids in Chromium: every control, by mouse and keyboard, and what they are to a screen reader."""

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from grids import DRAWN, coded, pixelwise
from lowerbound.runs.run import Run
from pages import Page, expect, expect_accessible, serving
from test_explorer_browser import browser, context  # noqa: F401  (fixtures)

pytestmark = [pytest.mark.browser, pytest.mark.filterwarnings("default")]

PIXELS = """s => {
    const c = document.querySelector(s);
    return [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data];
}"""


@pytest.fixture(scope="module")
def server(surroundings: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    folder = tmp_path_factory.mktemp("runs")
    runs: list[Run] = [coded(folder / "codes"), pixelwise(folder / "pixels")]
    with serving(runs) as found:
        yield found


def opened(context: Any, server: Page, run: str, more: str = "") -> Any:  # noqa: F811
    page = context.new_page()
    page.on("pageerror", lambda error: pytest.fail(f"the page failed: {error}"))
    page.goto(f"http://{server.host}/?token={server.token}#run={run}{more}")
    page.wait_for_selector("#data button")
    page.wait_for_timeout(500)
    return page


@pytest.fixture
def codes(context: Any, server: Page) -> Any:  # noqa: F811
    return opened(context, server, "codes", "&panel=codes")


@pytest.fixture
def pixels(context: Any, server: Page) -> Any:  # noqa: F811
    return opened(context, server, "pixels", "&panel=autoregressive")


def shown(page: Any, selector: str = "#picture") -> np.ndarray:
    page.wait_for_timeout(350)
    return np.array(page.evaluate(PIXELS, selector), np.uint8).reshape(-1, 4)[:, 0]


def another(page: Any, before: np.ndarray, selector: str = "#picture") -> np.ndarray:
    """What is shown once it is another picture than before."""
    for _ in range(40):
        if not np.array_equal(found := shown(page, selector), before):
            return found
    raise AssertionError("the picture stays as it was")


def told(page: Any, selector: str, text: str) -> None:
    page.wait_for_function("([s, t]) => document.querySelector(s).textContent.includes(t)", arg=[selector, text])


def tool(page: Any, name: str) -> None:
    page.get_by_role("radio", name=name, exact=True).check()


def press(page: Any, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()


# ---- codes


def test_a_code_is_painted_by_the_mouse_and_undone(codes: Any):
    before, mosaic = shown(codes), shown(codes, "#map canvas")
    codes.locator("#codebook").focus()
    for _ in range(6):
        codes.keyboard.press("ArrowRight")
    codes.evaluate("scrollTo(0, 0)")
    box = codes.locator("#map").bounding_box()
    codes.mouse.move(box["x"] + 20, box["y"] + 20)
    codes.mouse.down()
    codes.mouse.move(box["x"] + box["width"] - 20, box["y"] + 20)
    codes.mouse.up()
    another(codes, mosaic, "#map canvas")
    after = shown(codes)
    assert not np.array_equal(after, before)
    codes.keyboard.press("Control+z")
    np.testing.assert_array_equal(shown(codes), before)
    press(codes, "Redo")
    np.testing.assert_array_equal(shown(codes), after)


def test_a_code_is_painted_by_the_keyboard_and_read_out(codes: Any):
    codes.locator("#codebook").focus()
    for key in ("End", "ArrowLeft", "ArrowUp", "Home", "ArrowDown", "ArrowRight"):
        codes.keyboard.press(key)
    brush = re.search(r"code (\d+)", codes.locator("#brush").text_content())
    assert brush
    grid = codes.locator("#map")
    grid.focus()
    for key in ("ArrowDown", "ArrowRight", "ArrowRight", "Space"):
        grid.press(key)
    assert f"row 2, column 2: code {brush[1]}" in grid.get_by_role("status").text_content()
    grid.press("Shift+ArrowLeft")
    assert f"row 2, column 1: code {brush[1]}" in grid.get_by_role("status").text_content()


def test_a_code_is_picked_from_the_map(codes: Any):
    tool(codes, "Pick")
    codes.locator("#map").press("Enter")
    said = re.search(r"code \d+", codes.locator("#map").get_by_role("status").text_content())
    assert said
    assert said[0] in codes.locator("#brush").text_content()


def test_a_region_is_drawn_anew_with_what_lies_beneath(codes: Any):
    anew = codes.get_by_role("button", name="Draw the region anew")
    expect(anew).to_be_disabled()
    tool(codes, "Region")
    codes.locator("#map").press("Space")
    told(codes, "#counted", "1 code in the region")
    codes.locator("#map").press("Space")
    told(codes, "#counted", "0 codes in the region")
    press(codes, "Choose all for the region")
    told(codes, "#counted", "4 codes in the region")
    before = shown(codes)
    anew.click()
    another(codes, before)
    expect(codes.get_by_label("Seed")).to_have_value("1")
    codes.get_by_label("and the finer levels beneath it").uncheck()
    press(codes, "Choose none for the region")
    expect(anew).to_be_disabled()


def test_levels_are_swapped_between_two_images(codes: Any):
    first = shown(codes)
    expect(codes.get_by_role("button", name="Swap bottom with B")).to_be_disabled()
    press(codes, "Keep as B")
    codes.locator("#data button").nth(4).click()
    second = shown(codes)
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(shown(codes, "#picture-b"), first)
    press(codes, "Swap A and B")
    np.testing.assert_array_equal(shown(codes), first)
    np.testing.assert_array_equal(shown(codes, "#picture-b"), second)
    press(codes, "Swap top with B")
    press(codes, "Swap bottom with B")
    np.testing.assert_array_equal(shown(codes), second)


def test_levels_and_how_they_are_shown(codes: Any):
    patches = shown(codes, "#map canvas")
    codes.get_by_label("Shown as").select_option("colours")
    assert len(shown(codes, "#map canvas")) == 4
    codes.get_by_label("Shown as").select_option("patches")
    np.testing.assert_array_equal(shown(codes, "#map canvas"), patches)
    tool(codes, "bottom")
    assert codes.get_by_role("listbox", name="Codes of bottom, the most used first").count() == 1
    codes.wait_for_function("() => location.hash.includes('level=bottom')")


def test_the_address_holds_the_codes(codes: Any, context: Any, server: Page):  # noqa: F811
    codes.locator("#data button").nth(3).click()
    codes.locator("#codebook").press("End")
    codes.locator("#map").press("Space")
    picture = shown(codes)
    again = opened(context, server, "codes", "&" + codes.evaluate("location.hash.slice(1)").partition("&")[2])
    np.testing.assert_array_equal(shown(again), picture)


def test_codes_of_the_prior_of_an_upload_and_as_png(codes: Any):
    before = shown(codes)
    press(codes, "Draw from the prior")
    drawn = shown(codes)
    assert not np.array_equal(drawn, before)
    codes.set_input_files("input[type=file]", {"name": "a.png", "mimeType": "image/png", "buffer": DRAWN})
    codes.wait_for_selector(".source:not([hidden])")
    with codes.expect_download() as file:
        press(codes, "Save the picture as PNG")
    assert file.value.suggested_filename == "codes-codes.png"


# ---- pixels one after another


def test_a_region_is_erased_and_completed(pixels: Any):
    before = shown(pixels, "#canvas canvas")
    expect(pixels.get_by_role("button", name="Complete")).to_be_disabled()
    press(pixels, "Erase the lower half")
    told(pixels, "#progress", "32 pixels erased")
    press(pixels, "Complete")
    pixels.wait_for_selector("#draws button")
    after = shown(pixels, "#canvas canvas")
    np.testing.assert_array_equal(after[:32], before[:32])
    assert not np.array_equal(after[32:], before[32:])
    pixels.locator("#draws button").nth(2).click()
    third = shown(pixels, "#canvas canvas")
    press(pixels, "Keep it")
    np.testing.assert_array_equal(shown(pixels, "#canvas canvas"), third)
    told(pixels, "#progress", "0 pixels erased")
    press(pixels, "Undo")
    told(pixels, "#progress", "32 pixels erased")


def test_the_sampler_is_watched_and_stopped(pixels: Any):
    """The line of progress counts up; a drawing that is stopped leaves what was there."""
    before = shown(pixels, "#canvas canvas")
    pixels.evaluate(
        "() => { window.seen = []; new MutationObserver(() => window.seen.push(document.querySelector('#progress')"
        ".textContent)).observe(document.querySelector('#progress'), {childList: true}) }"
    )
    press(pixels, "Erase all")
    pixels.get_by_label("Draws").select_option("1")
    press(pixels, "Complete")
    pixels.wait_for_selector("#draws button")
    seen = [int(m[1]) for text in pixels.evaluate("window.seen") if (m := re.match(r"position (\d+) of 64", text))]
    assert seen == sorted(seen)
    assert len(set(seen)) > 30
    pixels.get_by_label("Draws").select_option("16")
    pixels.evaluate(
        "() => { document.querySelector('#complete').click(); [...document.querySelectorAll('button')]"
        ".find(b => b.textContent === 'Stop').click() }"
    )
    np.testing.assert_array_equal(shown(pixels, "#canvas canvas"), before)
    assert pixels.locator("#draws button").count() == 0


def test_pixels_are_painted_and_read_out_by_the_keyboard(pixels: Any):
    tool(pixels, "Paint")
    for name, value in (("Brush, typed", "1"), ("Value, typed", "9")):
        pixels.get_by_label(name).fill(value)
        pixels.get_by_label(name).press("Enter")
    grid = pixels.locator("#canvas")
    grid.focus()
    grid.press("ArrowRight")
    grid.press("Space")
    assert "row 1, column 2: value 9" in grid.get_by_role("status").text_content()
    assert shown(pixels, "#canvas canvas")[1] == round(9 * 255 / 16)
    tool(pixels, "Erase")
    grid.press("Space")
    assert "erased" in grid.get_by_role("status").text_content()
    tool(pixels, "Pick")
    grid.press("ArrowRight")
    grid.press("Space")
    value = re.search(r"value (\d+)", grid.get_by_role("status").text_content())
    assert value
    assert pixels.get_by_label("Value, typed").input_value() == value[1]


def test_what_is_expected_of_the_pixel_under_the_pointer(pixels: Any, server: Page):
    box = pixels.locator("#canvas").bounding_box()
    pixels.mouse.move(box["x"] + box["width"] * 3.5 / 8, box["y"] + box["height"] * 4.5 / 8)
    told(pixels, "#expected", "Row 5, column 4")
    values = server.ask("autoregressive", "image", 1, image="valid:0").arrays["values"].flatten().tolist()
    p = server.ask("autoregressive", "probabilities", 1, values=values, i=4, j=3).arrays["p"][0]
    assert f"{p.argmax()} with {100 * p.max():.3g}"[:6] in pixels.locator("#expected").text_content()
    assert pixels.get_by_role("img", name=re.compile("^Row 5, column 4")).count() == 1


def test_the_bits_of_each_pixel(pixels: Any):
    before = shown(pixels, "#canvas canvas")
    press(pixels, "Show the bits of each pixel, or the picture")
    told(pixels, "#bits", "bits (")
    another(pixels, before, "#canvas canvas")
    press(pixels, "Show the bits of each pixel, or the picture")
    np.testing.assert_array_equal(shown(pixels, "#canvas canvas"), before)


def test_other_pictures_to_begin_from(pixels: Any):
    first = shown(pixels, "#canvas canvas")
    pixels.locator("#data button").nth(5).click()
    another(pixels, first, "#canvas canvas")
    pixels.set_input_files("input[type=file]", {"name": "a.png", "mimeType": "image/png", "buffer": DRAWN})
    pixels.wait_for_timeout(500)
    ramp = shown(pixels, "#canvas canvas").reshape(8, 8)[:, 0].tolist()
    assert ramp == sorted(set(ramp)), "the drawn picture is lighter from row to row"
    press(pixels, "An empty picture")
    told(pixels, "#progress", "64 pixels erased")
    press(pixels, "Erase nothing")
    told(pixels, "#progress", "0 pixels erased")
    with pixels.expect_download() as file:
        press(pixels, "Save the picture as PNG")
    assert file.value.suggested_filename == "pixels-pixels.png"


def test_the_address_holds_the_image_and_what_is_erased(pixels: Any, context: Any, server: Page):  # noqa: F811
    pixels.locator("#data button").nth(3).click()
    press(pixels, "Erase the lower half")
    picture = shown(pixels, "#canvas canvas")
    again = opened(context, server, "pixels", "&" + pixels.evaluate("location.hash.slice(1)").partition("&")[2])
    np.testing.assert_array_equal(shown(again, "#canvas canvas"), picture)
    told(again, "#progress", "32 pixels erased")


# ---- for everybody


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("run", ["codes", "pixels"])
def test_axe_finds_nothing(browser: Any, server: Page, scheme: str, width: int, run: str):  # noqa: F811
    own = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
    page = opened(own, server, run, f"&panel={'codes' if run == 'codes' else 'autoregressive'}")
    if run == "codes":
        press(page, "Keep as B")
    else:
        press(page, "Erase the lower half")
        press(page, "Complete")
        page.wait_for_selector("#draws button")
    expect_accessible(page)
    own.close()

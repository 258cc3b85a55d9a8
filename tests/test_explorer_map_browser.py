"""The map in Chromium: by mouse and keyboard, and what it is to a screen reader."""

from collections.abc import Iterator
from typing import Any

import pytest

from pages import Page, expect_accessible, serving, tiny
from test_explorer_browser import browser, context  # noqa: F401  (fixtures)

pytestmark = [pytest.mark.browser, pytest.mark.filterwarnings("default")]


@pytest.fixture(scope="module")
def server(surroundings: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with serving([tiny(tmp_path_factory.mktemp("runs") / "digits")]) as found:
        yield found


def opened(context: Any, server: Page) -> Any:  # noqa: F811
    page = context.new_page()
    page.on("pageerror", lambda error: pytest.fail(f"the page failed: {error}"))
    page.goto(f"http://{server.host}/?token={server.token}#run=digits&panel=map")
    page.wait_for_function("() => document.querySelector('.panel.map')?.dataset.whole === 'true'")
    page.wait_for_timeout(300)
    return page


@pytest.fixture
def map_(context: Any, server: Page) -> Any:  # noqa: F811
    return opened(context, server)


def said(page: Any) -> str:
    page.wait_for_timeout(500)
    return page.locator("#map-said").inner_text()


def middle(page: Any) -> tuple[float, float]:
    page.evaluate("scrollTo(0, 0)")
    box = page.locator("#map").bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def test_a_place_is_chosen_by_the_mouse_with_its_neighbours_and_taken_to_the_latents(map_: Any):
    before = said(map_)
    map_.mouse.click(*middle(map_))
    assert said(map_) != before
    near = map_.locator(".panel.map .strip button")
    assert near.count() == 12
    assert map_.locator(".panel.map tbody tr").count() == 12
    chosen = said(map_)
    near.nth(3).click()
    assert said(map_) != chosen
    map_.get_by_role("button", name="Go there in Latents").click()
    code = map_.url.partition("&z=")[2].partition("&")[0]
    map_.wait_for_function("() => location.hash.includes('panel=latent')")
    map_.wait_for_timeout(500)
    assert code
    assert map_.url.partition("&z=")[2].partition("&")[0] == code


def test_a_browser_without_webgl_shows_it(context: Any, server: Page):  # noqa: F811
    context.add_init_script(
        "const plain = HTMLCanvasElement.prototype.getContext;"
        "HTMLCanvasElement.prototype.getContext = function (kind, ...more) {"
        " if (kind.startsWith('webg')) { window.asked = true; return null; } return plain.call(this, kind, ...more); }"
    )
    page = opened(context, server)
    ink = "() => [...document.querySelectorAll('.mapframe canvas')].some(c => { const d = c.getContext('2d')"
    ink += ".getImageData(0, 0, c.width, c.height).data; return d.some(v => v > 0) })"
    assert page.evaluate(ink)
    assert not page.evaluate("window.asked")


def test_the_wheel_and_a_drag_go_nearer_and_elsewhere(map_: Any):
    look = "() => document.querySelector('.mapframe canvas').toDataURL()"
    before = map_.evaluate(look)
    map_.mouse.move(*middle(map_))
    map_.mouse.wheel(0, -400)
    map_.wait_for_function(f"before => ({look})() !== before", arg=before)
    nearer = map_.evaluate(look)
    x, y = middle(map_)
    map_.mouse.move(x, y)
    map_.mouse.down()
    map_.mouse.move(x + 60, y + 30, steps=4)
    map_.mouse.up()
    map_.wait_for_function(f"before => ({look})() !== before", arg=nearer)


def test_what_lies_under_the_pointer_is_shown_there(map_: Any):
    x, y = middle(map_)
    map_.mouse.move(x + 5, y + 5)
    map_.wait_for_selector(".panel.map .tip:not([hidden])")
    map_.mouse.move(5, 5)
    map_.wait_for_selector(".panel.map .tip", state="hidden")


def test_a_drawn_path_is_a_film(map_: Any):
    x, y = middle(map_)
    map_.get_by_role("button", name="Draw a path").click()
    map_.mouse.move(x - 80, y - 30)
    map_.mouse.down()
    for step in range(20):
        map_.mouse.move(x - 80 + 8 * step, y - 30 + 3 * step)
    map_.mouse.up()
    play = map_.get_by_role("button", name="Play")
    map_.wait_for_function("() => document.querySelector('.panel.map').dataset.path === '1'")
    assert play.is_enabled()
    map_.get_by_role("button", name="Take the path away").click()
    assert play.is_disabled()


def test_the_keyboard_does_the_same(map_: Any):
    before = said(map_)
    map_.locator("#map").focus()
    for key in ("ArrowRight", "ArrowDown", "+", "-", "0", "Enter"):
        map_.keyboard.press(key)
    assert said(map_) != before
    assert map_.locator(".panel.map .strip button").count() == 12
    for key in ("p", "ArrowLeft", "ArrowLeft", "ArrowUp", "p", "Shift+Enter"):
        map_.keyboard.press(key)
    map_.wait_for_function("() => document.querySelector('.panel.map').dataset.path === '1'")


def test_points_are_coloured_by_label_and_hidden_by_name(map_: Any):
    map_.get_by_label("Colour by").select_option("label")
    keys = map_.locator(".panel.map .legend .key")
    map_.wait_for_function("() => document.querySelectorAll('.panel.map .legend .key').length === 10")
    keys.first.click()
    assert keys.first.get_attribute("aria-pressed") == "false"
    map_.get_by_label("Show as").select_option("thumbnails")
    map_.wait_for_timeout(500)
    assert "mt=1" in map_.url


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_axe_finds_nothing(browser: Any, server: Page, scheme: str, width: int):  # noqa: F811
    own = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
    page = opened(own, server)
    page.mouse.click(*middle(page))
    said(page)
    expect_accessible(page)
    own.close()

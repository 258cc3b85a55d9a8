"""The page in Chromium: every control of it, by mouse and keyboard, and what it looks like to a screen reader.

Run by scripts/check --all. Needs Chromium (CHROMIUM says where, else that of the system, or playwright's) and
`pip install 'lowerbound[browser]'`.
"""

import base64
import io
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lowerbound.runs.run import Run
from pages import Page, expect_accessible, expect_reached, serving, tiny

pytestmark = [pytest.mark.browser, pytest.mark.filterwarnings("default")]

FLAGS = ["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
PIXELS = "id => [...document.getElementById(id).getContext('2d').getImageData(0, 0, 8, 8).data]"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One Chromium for all."""
    from playwright.sync_api import sync_playwright

    where = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    with sync_playwright() as p:
        found = p.chromium.launch(executable_path=where, args=FLAGS)
        yield found
        found.close()


@pytest.fixture(scope="module")
def runs(surroundings: None, tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """Digits, and digits by their label."""
    folder = tmp_path_factory.mktemp("runs")
    return [tiny(folder / "digits"), tiny(folder / "labelled", label=True)]


@pytest.fixture(scope="module")
def server(runs: list[Run]) -> Iterator[Page]:
    with serving(runs) as found:
        yield found


@pytest.fixture
def context(browser: Any) -> Iterator[Any]:
    found = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    found.set_default_timeout(15_000)
    yield found
    found.close()


@pytest.fixture
def page(context: Any, server: Page) -> Any:
    return opened(context, server)


def opened(context: Any, server: Page, address: str = "") -> Any:
    """The page, once it shows its first picture; whatever goes wrong in it fails the test."""
    page = context.new_page()
    page.on("pageerror", lambda error: pytest.fail(f"the page failed: {error}"))
    page.goto(f"http://{server.host}/?token={server.token}{address}")
    page.wait_for_selector("#draws button")
    settled(page)
    return page


def settled(page: Any) -> None:
    """Until no picture is on its way."""
    page.wait_for_function("() => { const n = document.querySelector('.panel').dataset.frames; return n && n > 0 }")
    page.evaluate(
        """async () => {
            const frames = () => document.querySelector('.panel').dataset.frames;
            for (let last = ''; last !== frames(); ) { last = frames(); await new Promise(f => setTimeout(f, 120)); }
        }"""
    )


def pixels(page: Any, name: str = "picture") -> np.ndarray:
    """uint8 [8, 8]."""
    return np.array(page.evaluate(PIXELS, name), np.uint8).reshape(8, 8, 4)[..., 0]


def values(page: Any) -> dict[str, float]:
    """The sliders' values, as they are typed."""
    return page.evaluate(
        "() => Object.fromEntries([...document.querySelectorAll('.slider')].map(s =>"
        " [s.querySelector('.name').textContent, Number(s.querySelector('input[type=number]').value)]))"
    )


def first(page: Any) -> str:
    """The latent that is used most."""
    return page.locator(".slider .name", has_text=re.compile(r"^z\d+$")).first.text_content()


def typed(page: Any, name: str, value: str) -> None:
    field = page.get_by_label(f"{name}, typed")
    field.fill(value)
    field.press("Enter")
    settled(page)


def decoded(server: Page, page: Any, run: int = 0) -> np.ndarray:
    """What the server says that the address shows."""
    z = re.search(r"[#&]z=([\w-]+)", page.evaluate("location.hash"))
    assert z, "the address has no code"
    code = np.frombuffer(base64.urlsafe_b64decode(z[1] + "=="), np.float32).tolist()
    return server.ask("latent", "decode", run, z=code).arrays["picture"][..., 0]


def written(page: Any) -> None:
    """Until the address says what is shown."""
    page.wait_for_timeout(250)


def drawn(kind: str = "PNG", size: tuple[int, int] = (40, 30)) -> bytes:
    ramp = np.linspace(0, 255, size[0] * size[1]).reshape(size[1], size[0]).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(ramp).save(file, kind)
    return file.getvalue()


def file(name: str, kind: str, data: bytes) -> dict[str, Any]:
    return {"name": name, "mimeType": kind, "buffer": data}


def give(page: Any, upload: dict[str, Any]) -> None:
    page.set_input_files("input[type=file]", upload)


# ---- opening it


def test_nobody_outside_is_asked_for_anything(context: Any, server: Page):
    """Whatever the page does, its requests go to this server."""
    asked: list[str] = []
    context.on("request", lambda request: asked.append(request.url))
    page = opened(context, server)
    page.get_by_role("button", name="Draw from the prior").click()
    give(page, file("a.png", "image/png", drawn()))
    page.wait_for_selector(".source:not([hidden])")
    settled(page)
    assert len(asked) > 8
    outside = [url for url in asked if not url.startswith((f"http://{server.host}/", f"blob:http://{server.host}/"))]
    assert not outside


def test_the_token_does_not_stay_in_the_address(page: Any, server: Page):
    assert server.token not in page.url
    page.reload()
    page.wait_for_selector("#draws button")


def test_scripts_that_somebody_slips_in_do_not_run(page: Any):
    page.evaluate(
        """() => {
            const script = document.createElement('script');
            script.textContent = 'window.slipped = 1';
            document.body.append(script);
            document.body.insertAdjacentHTML('beforeend', '<img src="nothing" onerror="window.slipped = 1">');
        }"""
    )
    page.wait_for_timeout(300)
    assert page.evaluate("window.slipped") is None


def test_colours_can_be_chosen(page: Any):
    button = page.get_by_role("button", name=re.compile("^Colours"))
    seen = set()
    for _ in range(3):
        seen.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        button.click()
    assert len(seen) == 2
    button.click()
    theme = page.evaluate("document.documentElement.dataset.theme")
    page.reload()
    assert page.evaluate("document.documentElement.dataset.theme") == theme


def test_another_run_can_be_chosen(page: Any):
    page.get_by_label("Run").select_option(label="labelled")
    page.get_by_label("Label", exact=True).wait_for()
    settled(page)
    assert "run=labelled" in page.evaluate("location.hash")


# ---- sliders


def test_the_picture_follows_a_slider_by_keyboard_and_mouse(page: Any, server: Page):
    slider = page.get_by_label(re.compile(rf"^{first(page)}, ")).first
    for move in (lambda: slider.press("ArrowRight"), lambda: slider.press("Home"), lambda: slider.click()):
        before = pixels(page)
        move()
        settled(page)
        written(page)
        assert not np.array_equal(before, pixels(page))
        np.testing.assert_array_equal(pixels(page), decoded(server, page))


def test_a_drag_ends_on_the_latest_position(page: Any, server: Page):
    slider = page.get_by_label(re.compile(rf"^{first(page)}, ")).first
    slider.scroll_into_view_if_needed()
    box = slider.bounding_box()
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + 10, y)
    page.mouse.down()
    for i in range(60):
        page.mouse.move(box["x"] + 10 + i * (box["width"] - 20) / 60, y)
    page.mouse.up()
    settled(page)
    written(page)
    np.testing.assert_array_equal(pixels(page), decoded(server, page))
    page.get_by_role("button", name="Undo").click()
    assert page.get_by_role("button", name="Undo").is_disabled(), "a drag is undone at once"


def test_what_is_typed_may_lie_beyond_the_slider(page: Any, server: Page):
    name = first(page)
    typed(page, name, "7.5")
    written(page)
    assert values(page)[name] == 7.5
    np.testing.assert_array_equal(pixels(page), decoded(server, page))
    typed(page, name, "")
    assert values(page)[name] == 7.5, "nothing is no number"


def test_a_slider_is_reset_to_where_it_began(page: Any):
    name, before, picture = first(page), values(page), pixels(page)
    typed(page, name, "3")
    page.get_by_role("button", name=f"Reset {name}").click()
    settled(page)
    assert values(page) == before
    np.testing.assert_array_equal(pixels(page), picture)


def test_what_is_locked_stays(page: Any):
    name, before = first(page), values(page)
    lock = page.get_by_role("button", name=f"Lock {name}")
    lock.click()
    assert lock.get_attribute("aria-pressed") == "true"
    assert page.get_by_label(f"{name}, typed").is_disabled()
    page.get_by_role("button", name="Draw from the prior").click()
    page.wait_for_function("() => document.querySelector('#draws button').dataset.name.includes('seed 1')")
    settled(page)
    after = values(page)
    assert after[name] == before[name]
    assert after != before
    lock.click()
    assert page.get_by_label(f"{name}, typed").is_enabled()


def test_undo_and_redo(page: Any):
    name = first(page)
    start = values(page)[name]
    for value in ("1", "2"):
        typed(page, name, value)
    page.get_by_role("button", name="Undo").click()
    assert values(page)[name] == 1
    page.keyboard.press("Control+z")
    assert values(page)[name] == start
    page.keyboard.press("Control+Shift+z")
    page.get_by_role("button", name="Redo").click()
    assert values(page)[name] == 2
    assert page.get_by_role("button", name="Redo").is_disabled()


def test_reset_all_and_the_mean(page: Any, server: Page):
    name, before = first(page), values(page)
    typed(page, name, "2.5")
    page.get_by_role("button", name="Reset all").click()
    settled(page)
    assert values(page) == before
    page.get_by_role("button", name="The prior's mean").click()
    settled(page)
    assert {v for n, v in values(page).items() if n.startswith("z")} == {0}


def test_all_latents_can_be_shown(page: Any):
    some = page.locator(".slider .name", has_text=re.compile(r"^z\d+$"))
    assert some.count() == 16
    page.get_by_role("button", name="Show all 20").click()
    assert some.count() == 20


# ---- A and B, the address, files


def test_a_and_b_are_seen_side_by_side(page: Any):
    a = pixels(page)
    page.get_by_role("button", name="Keep as B").click()
    page.wait_for_selector("#picture-b")
    typed(page, first(page), "3")
    moved = pixels(page)
    np.testing.assert_array_equal(pixels(page, "picture-b"), a)
    page.get_by_role("button", name="Swap A and B").click()
    settled(page)
    np.testing.assert_array_equal(pixels(page), a)
    np.testing.assert_array_equal(pixels(page, "picture-b"), moved)
    page.get_by_role("button", name="Take B away").click()
    assert not page.locator("#picture-b").is_visible()


def test_the_address_holds_the_whole_state(page: Any, context: Any, server: Page):
    """Opened in another tab, it shows the same; and two tabs don't touch one another."""
    typed(page, first(page), "2.25")
    page.get_by_role("button", name="Keep as B").click()
    typed(page, first(page), "-1.5")
    written(page)
    other = opened(context, server, page.evaluate("location.hash"))
    np.testing.assert_array_equal(pixels(other), pixels(page))
    np.testing.assert_array_equal(pixels(other, "picture-b"), pixels(page, "picture-b"))
    assert values(other) == values(page)
    typed(other, first(other), "0")
    assert values(page)[first(page)] == -1.5


def test_two_tabs_go_their_own_ways(page: Any, context: Any, server: Page):
    """Each shows its own code, and one goes on when the other is closed."""
    other, name = opened(context, server), first(page)
    for tab, keys in ((page, 5), (other, 12)):
        tab.get_by_role("slider", name=re.compile(f"^{name}")).focus()
        for _ in range(keys):
            tab.keyboard.press("ArrowRight")
    for tab in (page, other):
        settled(tab)
        written(tab)
        np.testing.assert_array_equal(pixels(tab), decoded(server, tab))
    assert values(page)[name] != values(other)[name]
    page.close()
    typed(other, name, "1")
    written(other)
    np.testing.assert_array_equal(pixels(other), decoded(server, other))


def test_an_address_of_nonsense_shows_the_page(context: Any, server: Page):
    page = opened(context, server, "#run=nothing&panel=none&z=%%%&d={&y=1&t=abc&seed=x")
    assert pixels(page).any()


def test_the_link_is_copied(page: Any, context: Any):
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy link").click()
    page.wait_for_selector(".toast")
    assert page.evaluate("navigator.clipboard.readText()") == page.url


def test_the_picture_is_saved(page: Any):
    with page.expect_download() as download:
        page.get_by_role("button", name="Save the picture as PNG").click()
    with Image.open(download.value.path()) as image:
        assert image.size == (256, 256)
        np.testing.assert_array_equal(np.asarray(image.convert("L"))[::32, ::32], pixels(page))


def test_the_way_there_is_saved(page: Any):
    typed(page, first(page), "3")
    with page.expect_download() as download:
        page.get_by_role("button", name="Save the way there as GIF").click()
    with Image.open(download.value.path()) as image:
        assert image.n_frames == 46


# ---- draws


def test_a_seed_draws_what_it_drew(page: Any):
    seed = page.get_by_role("spinbutton", name="Seed")
    names = lambda: page.locator("#draws button").first.get_attribute("aria-label")  # noqa: E731
    assert names() == "Draw 1 of seed 0"
    start = pixels(page)
    page.get_by_role("button", name="Draw from the prior").click()
    page.wait_for_function("() => document.querySelector('#draws button').dataset.name.includes('seed 1')")
    settled(page)
    assert seed.input_value() == "1"
    assert not np.array_equal(start, pixels(page))
    seed.fill("0")
    seed.press("Enter")
    page.wait_for_function("() => document.querySelector('#draws button').dataset.name.includes('seed 0')")
    page.locator("#draws button").first.click()
    settled(page)
    np.testing.assert_array_equal(pixels(page), start)


def test_without_temperature_all_draws_are_the_mean(page: Any):
    typed(page, "Temperature", "0")
    page.wait_for_timeout(300)
    page.locator("#draws button").nth(3).click()
    settled(page)
    assert {v for n, v in values(page).items() if n.startswith("z")} == {0}


def test_a_label_is_given(context: Any, server: Page):
    page = opened(context, server, "#run=labelled")
    before = pixels(page)
    label = page.get_by_label("Label", exact=True)
    wanted = "7" if label.input_value() != "7" else "3"
    label.select_option(wanted)
    settled(page)
    assert not np.array_equal(before, pixels(page))
    page.get_by_role("button", name="Undo").click()
    settled(page)
    np.testing.assert_array_equal(pixels(page), before)


# ---- images


def test_an_image_of_the_data_is_encoded(page: Any, server: Page):
    page.locator("#data button").nth(2).click()
    page.wait_for_selector(".source:not([hidden])")
    settled(page)
    written(page)
    z = server.ask("latent", "encode", image="valid:2").arrays
    np.testing.assert_array_equal(pixels(page), z["reconstruction"][..., 0])
    np.testing.assert_array_equal(pixels(page), decoded(server, page))
    count = page.locator("#data button").count()
    page.get_by_role("button", name="More images").click()
    page.wait_for_function(f"() => document.querySelectorAll('#data button').length > {count}")


@pytest.mark.parametrize("way", ["chosen", "dropped", "pasted"])
def test_an_image_is_given(page: Any, way: str):
    data = drawn()
    if way == "chosen":
        give(page, file("a.png", "image/png", data))
    else:
        page.evaluate(
            """([way, bytes]) => {
                const data = new DataTransfer();
                data.items.add(new File([Uint8Array.from(bytes)], 'a.png', { type: 'image/png' }));
                const event = way === 'dropped' ? new DragEvent('drop', { dataTransfer: data, bubbles: true })
                    : new ClipboardEvent('paste', { clipboardData: data, bubbles: true });
                document.querySelector('.door').dispatchEvent(event);
            }""",
            [way, list(data)],
        )
    page.wait_for_selector(".source:not([hidden])")
    page.wait_for_selector("#data button[data-name='Your image']")
    assert "made 8x8" in page.locator(".notes").text_content()


def test_the_camera_takes_an_image(page: Any):
    page.get_by_role("button", name="Camera").click()
    page.wait_for_function("() => document.querySelector('video')?.videoWidth > 0")
    page.get_by_role("button", name="Take it").click()
    page.wait_for_selector(".source:not([hidden])")
    page.get_by_role("button", name="Camera").click()
    page.get_by_role("button", name="Cancel").click()
    assert page.locator("video").count() == 0


@pytest.mark.parametrize(("error", "said"), [("NotAllowedError", "refused"), ("NotFoundError", "no camera")])
def test_a_camera_that_is_not_to_be_had_is_said(page: Any, error: str, said: str):
    refuse = f"async () => {{ throw new DOMException('', '{error}') }}"
    page.evaluate(f"() => {{ navigator.mediaDevices.getUserMedia = {refuse} }}")
    page.get_by_role("button", name="Camera").click()
    assert said in page.get_by_role("alert").text_content()


@pytest.mark.parametrize(
    ("upload", "said"),
    [
        (file("a.svg", "image/svg+xml", b"<svg xmlns='http://www.w3.org/2000/svg'/>"), "SVG"),
        (file("a.txt", "text/plain", b"hello"), "no image"),
        (file("a.png", "image/png", b"\x89PNG\r\n\x1a\nnonsense"), "damaged"),
        (file("a.png", "image/png", b"<html></html>"), "not PNG"),
        (file("a.heic", "image/heic", b"nothing"), "can be read"),
    ],
)
def test_what_is_no_image_is_said(page: Any, upload: dict[str, Any], said: str):
    give(page, upload)
    assert said in page.get_by_role("alert").text_content()
    assert not page.locator(".source").is_visible()


def test_a_photo_with_something_behind_its_end_is_made_a_plain_one(page: Any):
    """As telephones write them."""
    give(page, file("a.jpg", "image/jpeg", drawn("JPEG") + b"a second picture"))
    page.wait_for_selector(".source:not([hidden])")


# ---- directions


def test_a_direction_is_taught_by_picking_images(page: Any, runs: list[Run]):
    page.get_by_role("button", name="Teach a direction").click()
    learn = page.get_by_role("button", name="Learn")
    assert learn.is_disabled()
    data = page.locator("#data button")
    for i in (0, 1):
        data.nth(i).click()
    for i in (2, 3):
        data.nth(i).click()
        data.nth(i).click()
    data.nth(4).click(click_count=3)  # +, −, nothing
    assert data.nth(0).get_attribute("aria-label").endswith("has it")
    assert data.nth(2).get_attribute("aria-label").endswith("has it not")
    page.get_by_label("Name").fill("not a name")
    assert learn.is_disabled()
    page.get_by_label("Name").fill("taught")
    learn.click()
    page.wait_for_selector(".slider:has-text('taught')")
    assert "taught" in runs[0].directions(runs[0].load())
    before = pixels(page)
    typed(page, "taught", "2")
    assert not np.array_equal(before, pixels(page))
    page.get_by_role("button", name="Teach a direction").click()
    page.get_by_role("button", name="Cancel").click()
    data.nth(0).click()
    page.wait_for_selector(".source:not([hidden])")


# ---- the server goes and comes


def test_a_server_that_was_started_anew_is_found_again(context: Any, runs: list[Run]):
    with ExitStack() as stack:
        with serving(runs, 17960) as first_one:
            page = opened(context, first_one)
            give(page, file("a.png", "image/png", drawn()))
            page.wait_for_selector("#data button[data-name='Your image']")
            typed(page, first(page), "1.5")
            shown = pixels(page)
        page.wait_for_function("() => document.querySelector('#status').textContent.includes('not there')")
        again = stack.enter_context(serving(runs, first_one.port))
        assert again.port == first_one.port
        page.wait_for_function("() => document.querySelector('#status').textContent === ''")
        settled(page)
        np.testing.assert_array_equal(pixels(page), shown)
        page.locator("#data button[data-name='Your image']").click()  # the server has it no more, and is sent it again
        settled(page)
        written(page)
        assert page.get_by_role("alert").count() == 0
        np.testing.assert_array_equal(pixels(page), decoded(again, page))


# ---- for everybody


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_axe_finds_nothing(browser: Any, server: Page, scheme: str, width: int):
    context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
    for run in ("digits", "labelled"):
        page = opened(context, server, f"#run={run}")
        page.get_by_role("button", name="Keep as B").click()
        page.get_by_role("button", name="Teach a direction").click()
        page.locator("#data button").first.click()
        expect_accessible(page)
    context.close()


def test_the_keyboard_reaches_every_control(page: Any):
    expect_reached(page)

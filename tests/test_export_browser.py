"""Pages of `export` in Chromium, opened from the disk: what they draw is what torch draws, and nobody is asked."""

import base64
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import lowerbound as lb
from lowerbound.editing.latents import codec
from lowerbound.runs.conditions import NOTHING, Asked
from lowerbound.runs.run import Run
from lowerbound.units import to_bytes
from pages import expect, expect_accessible, expect_reached
from test_explorer_browser import browser, context, first, settled, typed, values, written  # noqa: F401
from test_given import write

pytestmark = [pytest.mark.browser, pytest.mark.filterwarnings("default")]

SMALL = ("model.encoder.hidden=[32]", "model.decoder.hidden=[32]", "train.steps=60", "train.valid_every=60")
KINDS = {
    "digits": ("vae", "model.latent=20", *SMALL),
    "labelled": ("vae", "model.latent=20", "data.label=true", *SMALL),
    "mixture": ("vae", "model.latent=4", "model.prior=priors.GaussianMixture", *SMALL),
}


@pytest.fixture(scope="module")
def runs(surroundings: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """A VAE with a direction, one given the label, one with another prior, one of levels, and a GAN."""
    folder = tmp_path_factory.mktemp("runs")
    for name, (recipe, *words) in KINDS.items():
        lb.train(recipe, *words, data="digits", out=folder / name)
    lb.direction(folder / "digits", "eight", label="8")
    few = ("train.steps=5", "train.valid_every=5")
    scales = '[{"factor": 4, "latent": 2, "blocks": 1}, {"factor": 2, "latent": 1, "blocks": 1}]'
    lb.train("hvae-mnist", *few, f"model.scales={scales}", "model.width=8", data="digits", out=folder / "levels")
    lb.train("gan-digits", *few, data="digits", out=folder / "gan")
    table = write(folder / "images")
    given = (f"data.source={folder / 'images'}", f"data.attributes={table}", "data.given=light,turn,place")
    lb.train("vae", *SMALL, *given, "model.likelihood=families.DiscretizedNormal", out=folder / "given")
    return {name: Run.open(folder / name) for name in (*KINDS, "levels", "gan", "given")}


@pytest.fixture(scope="module")
def pages(runs: dict[str, Run], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of them: NAME.html."""
    folder = tmp_path_factory.mktemp("pages")
    for name, run in runs.items():
        lb.export(run.path, out=folder / f"{name}.html")
    return folder


def opened(context: Any, pages: Path, name: str = "digits", address: str = "") -> Any:  # noqa: F811
    """The page, once it has drawn; whatever goes wrong in it fails the test, and so does any request but for itself."""
    page = context.new_page()
    page.on("pageerror", lambda error: pytest.fail(f"the page failed: {error}"))
    page.on("console", lambda line: line.type == "error" and pytest.fail(f"the console says {line.text}"))
    context.on("request", lambda request: request.url.startswith(pages.as_uri()) or pytest.fail(request.url))
    page.goto((pages / f"{name}.html").as_uri() + address)
    page.wait_for_selector("#draws button")
    settled(page)
    return page


@pytest.fixture
def page(context: Any, pages: Path) -> Any:  # noqa: F811
    return opened(context, pages)


def shown(page: Any, name: str = "picture") -> np.ndarray:
    """uint8 [H, W] of a canvas."""
    found = page.evaluate(
        "id => { const c = document.getElementById(id);"
        " return [c.height, c.width, ...c.getContext('2d').getImageData(0, 0, c.width, c.height).data] }",
        name,
    )
    return np.array(found[2:], np.uint8).reshape(found[0], found[1], 4)[..., 0]


def code(page: Any) -> torch.Tensor:
    """The latents that the address holds: [D]."""
    written(page)
    found = re.search(r"[#&]z=([\w-]+)", page.evaluate("location.hash"))
    assert found
    return torch.from_numpy(np.frombuffer(base64.urlsafe_b64decode(found[1] + "=="), np.float32).copy())


def drawn_by_torch(run: Run, z: torch.Tensor, given: Asked = NOTHING) -> np.ndarray:
    editor, y = codec(run, whole=True), run.typical(given) if given else None
    return to_bytes(editor.decode(z[None], y)[0].numpy(), editor.levels)[0]


def same(a: np.ndarray, b: np.ndarray) -> bool:
    """Within what rounding makes."""
    assert a.shape == b.shape
    return int(np.abs(a.astype(int) - b).max()) <= 1


@pytest.mark.parametrize("name", ["digits", "labelled", "given", "mixture", "levels", "gan"])
def test_it_draws_what_torch_draws(context: Any, pages: Path, runs: dict[str, Run], name: str):  # noqa: F811
    """The first draw, another seed's, and where a slider takes it; asking nobody, which `opened` watches."""
    page, given = opened(context, pages, name), NOTHING
    if name == "labelled":
        given = Asked(label="3")
        page.get_by_label("Label").select_option("3")
    elif name == "given":
        given = Asked(attributes={"light": 0.9, "turn": 123.0, "place": "right"})
        typed(page, "light", "0.9")
        typed(page, "turn", "123")
        page.get_by_label("place", exact=True).select_option("right")
    settled(page)
    pictures = []
    for step in (None, "draw", "slide"):
        if step == "draw":
            page.get_by_role("button", name="Draw from the prior").click()
        elif step == "slide":
            slider = page.locator(".sliders .slider input[type=range]").last
            slider.focus()
            for _ in range(12):
                slider.press("ArrowRight")
        settled(page)
        pictures.append(shown(page))
        assert same(pictures[-1], drawn_by_torch(runs[name], code(page), given)), step
    assert not np.array_equal(pictures[0], pictures[1])


def test_draws_are_of_the_prior(page: Any, runs: dict[str, Run]):
    """Codes of N(0, I), by a chi-squared of 8 draws of 20; the same seed draws the same, temperature 0 the mean."""
    zs = []
    for k in range(8):
        page.locator("#draws button").nth(k).click()
        zs.append(code(page))
    assert 100 < float(torch.stack(zs).square().sum()) < 235  # of 160 degrees of freedom: beyond 3 of 100,000
    page.get_by_role("spinbutton", name="Seed").fill("7")
    page.get_by_role("spinbutton", name="Seed").press("Enter")
    settled(page)
    page.locator("#draws button").first.click()
    seven = code(page)
    page.get_by_role("spinbutton", name="Seed").fill("0")
    page.get_by_role("spinbutton", name="Seed").press("Enter")
    settled(page)
    page.locator("#draws button").first.click()
    assert torch.equal(code(page), zs[0])
    assert not torch.equal(seven, zs[0])
    typed(page, "Temperature", "0")
    page.locator("#draws button").first.click()
    assert float(code(page).abs().max()) < 1e-2


def test_sliders_are_locked_reset_and_undone(page: Any):
    name = first(page)
    before = values(page)[name]
    typed(page, name, "2.5")
    page.get_by_role("button", name=f"Reset {name}").click()
    assert values(page)[name] == before
    page.get_by_role("button", name="Undo").click()
    assert values(page)[name] == 2.5
    page.get_by_role("button", name=f"Lock {name}").click()
    page.get_by_role("button", name="Draw from the prior").click()
    settled(page)
    assert values(page)[name] == 2.5


def test_a_direction_is_a_slider(page: Any, runs: dict[str, Run]):
    at = code(page)
    typed(page, "eight", "1.5")
    step = lb.load(runs["digits"].path).directions["eight"].step
    assert same(shown(page), drawn_by_torch(runs["digits"], (at + 1.5 * step).float()))


def test_the_address_holds_the_state(page: Any, context: Any, pages: Path):  # noqa: F811
    typed(page, first(page), "-1.75")
    typed(page, "eight", "0.5")
    page.get_by_role("button", name="Keep as B").click()
    written(page)
    again = opened(context, pages, address=page.evaluate("location.hash"))
    np.testing.assert_array_equal(shown(again), shown(page))
    np.testing.assert_array_equal(shown(again, "picture-b"), shown(page, "picture-b"))
    assert values(again) == values(page)


def test_the_picture_is_saved(page: Any):
    with page.expect_download() as download:
        page.get_by_role("button", name="Save the picture as PNG").click()
    assert download.value.suggested_filename.startswith("digits-")
    with Image.open(io.BytesIO(Path(download.value.path()).read_bytes())) as image:
        assert image.size == (256, 256)
        assert same(np.asarray(image.convert("L"))[16::32, 16::32], shown(page))


def test_a_browser_that_can_not_run_it_says_so(context: Any, pages: Path):  # noqa: F811
    page = context.new_page()
    page.add_init_script("delete globalThis.WebAssembly")
    page.goto((pages / "digits.html").as_uri())
    expect(page.locator("#status")).to_have_text("The model can't be opened.")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_axe_finds_nothing(browser: Any, pages: Path, scheme: str, width: int):  # noqa: F811
    context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)  # noqa: F811
    for name in ("digits", "labelled", "levels"):
        page = opened(context, pages, name)
        page.get_by_role("button", name="Keep as B").click()
        expect_accessible(page)
    context.close()


def test_the_keyboard_reaches_every_control(page: Any):
    expect_reached(page)


def test_colours_can_be_chosen(page: Any):
    page.get_by_role("button", name=re.compile("Colours")).click()
    assert page.evaluate("document.documentElement.dataset.theme") == "light"
    page.get_by_role("button", name=re.compile("Colours")).click()
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with torch.no_grad():
        yield

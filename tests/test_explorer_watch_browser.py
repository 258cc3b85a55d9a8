"""The panels that watch, compare and examine, in Chromium: by mouse and keyboard, and to a screen reader."""

import csv
import io
import json
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import lowerbound as lb
from lowerbound.runs.run import Run
from lowerbound.training.train import train
from pages import Page, expect, expect_accessible, serving, tiny
from test_explorer_browser import browser, context  # noqa: F401  (fixtures)

pytestmark = [pytest.mark.browser, pytest.mark.filterwarnings("default")]

QUICK = ["model.encoder.hidden=[32]", "model.decoder.hidden=[32]", "model.latent=4", "train.batch=64"]
CODES = ["model.width=8", "model.inner=4", "train.steps=20", "train.stages.prior.steps=20", "train.log_every=5"]


@pytest.fixture(scope="module")
def runs(surroundings: None, tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """Digits; the same, collapsed; one in three stages."""
    folder = tmp_path_factory.mktemp("runs")
    changes = [*QUICK, "train.steps=60", "train.log_every=10", "train.valid_every=20", "model.objective.beta=1000"]
    collapsed = train("vae", out=folder / "collapsed", changes=changes).run
    staged = train("vqvae2-digits", out=folder / "staged", changes=[*CODES, "data.label=false"]).run
    return [tiny(folder / "digits"), collapsed, staged]


@pytest.fixture(scope="module")
def server(runs: list[Run]) -> Iterator[Page]:
    with serving(runs) as found:
        yield found


def opened(context: Any, server: Page, panel: str, run: str = "digits", more: str = "") -> Any:  # noqa: F811
    """A panel; whatever goes wrong in it, or is asked of anybody else, fails the test."""
    page = context.new_page()
    page.on("pageerror", lambda error: pytest.fail(f"the page failed: {error}"))
    page.on("request", lambda r: None if server.host in r.url or r.url.startswith("blob:") else pytest.fail(r.url))
    page.goto(f"http://{server.host}/?token={server.token}#run={run}&panel={panel}{more}")
    done = {
        "training": "p => Number(p?.dataset.points) > 0 && !document.querySelector('.gallery canvas[width=\"1\"]')",
        "compare": "p => p?.dataset.whole === 'true' && p.dataset.looked > 0",
        "doctor": "p => p?.dataset.whole === 'true'",
    }[panel]
    page.wait_for_function(f"() => ({done})(document.querySelector('.panel.{panel}'))")
    return page


def lines(run: Run) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run.log.path.read_text().splitlines()]


def written(page: Any) -> None:
    page.wait_for_timeout(300)


def ink(page: Any, name: str) -> int:
    """How many pixels of a canvas are painted."""
    page.wait_for_timeout(200)
    return page.evaluate(
        "id => { const c = document.getElementById(id); const d = c.getContext('2d')"
        ".getImageData(0, 0, c.width, c.height).data; let n = 0; for (let i = 3; i < d.length; i += 4) n += d[i] > 0;"
        " return n }",
        name,
    )


# ---- training


def test_the_values_of_a_curve_are_read_out(context: Any, server: Page, runs: list[Run]):  # noqa: F811
    page = opened(context, server, "training", "collapsed")
    curve = page.locator("#curve-elbo")
    assert curve.get_attribute("aria-label").startswith("ELBO, nats/image by step, ")
    assert ink(page, "curve-elbo") > 1000
    train_lines = [r for r in lines(runs[1]) if r["split"] == "train"]
    curve.focus()
    spoken = page.locator("figure:has(#curve-elbo) [role=status]")
    for key, record in (("Home", train_lines[0]), ("ArrowRight", train_lines[1]), ("ArrowLeft", train_lines[0])):
        curve.press(key)
        assert spoken.inner_text().startswith(f"step {record['step']}: training: ")
        assert float(spoken.inner_text().split("training: ")[1].split(";")[0]) == pytest.approx(
            record["elbo"], rel=1e-3
        )
    curve.press("Escape")
    expect(page.locator(".tip:visible")).to_have_count(0)
    box = curve.bounding_box()
    page.mouse.move(box["x"] + box["width"] - 14, box["y"] + 60)
    expect(page.locator(".tip:visible")).to_contain_text(f"step {train_lines[-1]['step']}")


def test_curves_are_chosen_scaled_smoothed_and_kept_in_the_address(context: Any, server: Page):  # noqa: F811
    page = opened(context, server, "training", "staged")
    stages = page.get_by_role("group", name="Stage")
    expect(stages.get_by_role("radio")).to_have_count(4)
    stages.get_by_role("radio", name="autoencoder").check()
    group = page.get_by_role("group", name="Which curves")
    before = page.locator(".curves").count()
    group.get_by_role("button", name="grad norm").click()
    expect(page.locator("#curve-grad_norm")).to_be_visible()
    expect(page.locator(".curves")).to_have_count(before + 1)
    group.get_by_role("button", name="loss", exact=True).click()
    expect(page.locator("#curve-loss")).to_have_count(0)
    page.get_by_role("radio", name="time").check()
    page.get_by_label("logarithmic").check()
    page.get_by_label("Smoothing, typed").fill("0.5")
    page.get_by_label("Smoothing, typed").press("Enter")
    curve = page.locator("#curve-grad_norm")
    curve.focus()
    curve.press("End")
    expect(page.locator("figure:has(#curve-grad_norm) [role=status]")).to_contain_text("s: training, smoothed")
    curve.press("+")
    expect(page.get_by_role("button", name="Show the whole training")).to_be_visible()
    written(page)
    for word in ("stage=autoencoder", "x=time", "log=1", "smooth=0.5", "grad_norm", "from="):
        expect(page).to_have_url(re.compile(re.escape(word)))
    page.reload()
    page.wait_for_selector("#curve-grad_norm")
    expect(page.locator("#curve-loss")).to_have_count(0)
    expect(page.get_by_label("logarithmic")).to_be_checked()
    page.get_by_role("button", name="Show the whole training").click()
    written(page)
    expect(page).not_to_have_url(re.compile("from="))


def test_a_curve_is_looked_at_nearer_by_dragging(context: Any, server: Page):  # noqa: F811
    page = opened(context, server, "training", "collapsed")
    box = page.locator("#curve-elbo").bounding_box()
    page.mouse.move(box["x"] + 150, box["y"] + 80)
    page.mouse.down()
    page.mouse.move(box["x"] + 350, box["y"] + 80, steps=4)
    page.mouse.up()
    written(page)
    expect(page).to_have_url(re.compile(re.escape("from=")))
    page.locator("#curve-elbo").dblclick()
    written(page)
    expect(page).not_to_have_url(re.compile("from="))


def test_runs_lie_over_one_another(context: Any, server: Page):  # noqa: F811
    page = opened(context, server, "training")
    lines_of = "() => Number(document.querySelector('#curve-elbo').getAttribute('aria-label').match(/(\\d+) line/)[1])"
    alone = page.evaluate(lines_of)
    legend = page.get_by_role("group", name="Runs", exact=True)
    expect(legend.get_by_role("button", name="digits, this run")).to_be_disabled()
    other = legend.get_by_role("button", name="collapsed, beside it")
    other.focus()
    page.keyboard.press("Enter")
    page.wait_for_function(f"n => ({lines_of})() > n", arg=alone)
    assert other.get_attribute("aria-pressed") == "true"
    expect(legend.locator("svg")).to_have_count(2)
    written(page)
    expect(page).to_have_url(re.compile(re.escape("with=collapsed")))
    other.click()
    page.wait_for_function(f"n => ({lines_of})() === n", arg=alone)


def test_numbers_are_a_table_and_are_saved(context: Any, server: Page, runs: list[Run]):  # noqa: F811
    page = opened(context, server, "training", "collapsed")
    page.get_by_text("Numbers as a table").click()
    rows = page.locator(".scroll tbody tr")
    logged = lines(runs[1])
    expect(rows).to_have_count(len(logged))
    with page.expect_download() as saved:
        page.get_by_role("button", name="Save the numbers as CSV").click()
    found = list(csv.DictReader(io.StringIO(Path(saved.value.path()).read_text())))
    assert len(found) == len(logged)
    for split in ("train", "valid"):
        own = [row for row in found if row["split"] == split]
        expected = [r for r in logged if r["split"] == split]
        assert [float(row["elbo"]) for row in own] == [r["elbo"] for r in expected]
    with page.expect_download() as saved:
        page.get_by_role("button", name="Save the curves as PNG").click()
    with Image.open(saved.value.path()) as image:
        assert image.width == 1800
        assert len(np.unique(np.asarray(image.convert("L")))) > 10


def test_a_run_in_progress_is_followed(context: Any, surroundings: None, tmp_path: Path):  # noqa: F811
    """From before its first line to its end, in a thread of this process."""
    begun = Run.open("pretrained:vae")
    Run.create(tmp_path / "run", "vae", begun.recipe, begun.facts)
    with serving([Run.open(tmp_path / "run")]) as server:
        page = context.new_page()
        page.on("pageerror", lambda error: pytest.fail(f"the page failed: {error}"))
        page.goto(f"http://{server.host}/?token={server.token}#panel=training")
        page.get_by_text("Nothing is logged yet").wait_for()
        expect(page.get_by_role("tab")).to_have_count(2)
        changes = [*QUICK, "train.steps=2500", "train.epochs=null", "train.log_every=10", "train.valid_every=250"]
        work = threading.Thread(
            target=lambda: train("vae", out=tmp_path / "run", changes=changes, overwrite=True, pictures=lb_pictures())
        )
        work.start()
        page.wait_for_selector("#how[data-how=running]")
        page.wait_for_selector("#curve-elbo")
        some = "() => Number(document.querySelector('.panel').dataset.points)"
        seen = page.evaluate(some)
        page.wait_for_function(f"seen => ({some})() > seen", arg=seen)
        page.wait_for_selector(".gallery canvas")
        page.wait_for_selector("#tab-latent")  # there are weights now
        page.wait_for_selector("#how[data-how=finished]", timeout=60_000)
        work.join()
        page.wait_for_function(f"n => ({some})() === n", arg=len(lines(Run.open(tmp_path / "run"))))
        earlier = page.locator(".gallery input[type=range]").first
        if earlier.is_visible():
            newest = page.locator(".gallery figcaption").first.inner_text()
            earlier.focus()
            earlier.press("Home")
            assert page.locator(".gallery figcaption").first.inner_text() != newest
        shutil.rmtree(tmp_path / "run")
        page.wait_for_selector("#how[data-how=gone]")


def lb_pictures() -> Any:
    from lowerbound.sampling.sheets import Live

    return Live


# ---- compare


def test_runs_are_compared(context: Any, server: Page, runs: list[Run]):  # noqa: F811
    page = opened(context, server, "compare", more="&n=100&draws=2&without=staged")
    table = page.get_by_role("region", name="The runs compared")
    report = lb.compare(runs[:2], draws=2, limit=100)
    for row in report["runs"]:
        cells = table.locator("tbody tr").filter(has_text=row["name"]).inner_text()
        assert f"{row['nll']['value']:.1f}"[:4] in cells
        assert f"{row['parameters']:,}" in cells
    expect(page.locator(".signs")).to_contain_text("?")
    page.get_by_label("Differences to").select_option("collapsed")
    page.wait_for_function("() => document.querySelector('.whole thead').textContent.includes('minus collapsed')")
    page.get_by_role("group", name="Runs to compare").get_by_role("button", name="digits").click()
    page.wait_for_function("() => document.querySelectorAll('.whole tbody tr').length === 1")
    written(page)
    expect(page).to_have_url(re.compile(re.escape("to=collapsed")))
    assert "digits" in page.url.partition("without=")[2]
    page.get_by_label("Part").select_option("valid")
    page.wait_for_function("() => document.querySelector('#measured').textContent.includes('valid')")
    page.get_by_role("group", name="Runs to compare").get_by_role("button", name="collapsed").click()
    page.get_by_text("choose at least one run").wait_for()


def test_samples_and_one_image_through_all(context: Any, server: Page):  # noqa: F811
    page = opened(context, server, "compare", more="&n=100&draws=2")
    drawn = page.locator(".picturerow")
    expect(drawn).to_have_count(3)
    assert drawn.first.get_attribute("aria-label") == "digits: 8 samples"
    before = page.evaluate("() => document.querySelector('.picturerow canvas').toDataURL()")
    page.get_by_role("button", name="Draw others").click()
    page.wait_for_function("b => document.querySelector('.picturerow canvas')?.toDataURL() !== b", arg=before)
    page.wait_for_function("() => document.querySelector('.panel').dataset.drawn === '2'")
    ones = page.locator("#through .one")
    expect(ones).to_have_count(3)
    expect(ones.first).to_contain_text("<=")
    expect(ones.last.get_by_role("img")).to_have_count(3)
    page.locator("#data button").nth(3).focus()
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.querySelector('.panel').dataset.looked === '2'")
    written(page)
    expect(page).to_have_url(re.compile(re.escape("image=valid%3A3")))
    file = io.BytesIO()
    Image.new("L", (8, 8), 90).save(file, "PNG")
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Choose a file").click()
    chooser.value.set_files({"name": "a.png", "mimeType": "image/png", "buffer": file.getvalue()})
    page.wait_for_function("() => document.querySelector('.panel').dataset.looked === '3'")
    expect(page.get_by_role("alert")).to_have_count(0)


# ---- doctor


def test_findings_are_shown_with_what_shows_them(context: Any, server: Page, runs: list[Run]):  # noqa: F811
    page = opened(context, server, "doctor", "collapsed")
    report = lb.doctor(runs[1])
    page.wait_for_function("() => document.querySelector('.panel').dataset.waiting === '0'")
    cards = page.get_by_role("article")
    assert cards.count() == len(report["findings"]) > 0
    for card, finding in zip(cards.all(), report["findings"], strict=True):
        expect(card).to_contain_text(finding["remedy"])
        assert finding["name"] in card.get_attribute("aria-label")
    collapsed = page.get_by_role("article", name="problem: latents.collapsed")
    expect(collapsed.locator("tbody tr")).to_have_count(4)
    expect(collapsed.locator(".cells canvas")).to_have_count(4 * 7)
    page.get_by_text("What was checked").click()
    expect(page.locator(".checked li")).to_have_count(len(report["checked"]))
    page.get_by_role("button", name="Examine again").click()
    page.wait_for_function("() => document.querySelector('.panel').dataset.whole === 'true'")
    expect(page.get_by_role("article")).to_have_count(len(report["findings"]))


def test_that_nothing_was_found_is_said(context: Any, tmp_path: Path, surroundings: None):  # noqa: F811
    changes = [*QUICK, "train.steps=500", "train.optimizer.lr=4e-3", "model.encoder.hidden=[64]"]
    sound = train("vae", out=tmp_path / "sound", changes=[*changes, "model.decoder.hidden=[64]"]).run
    with serving([sound]) as server:
        page = opened(context, server, "doctor", "sound")
        assert lb.doctor(sound)["findings"] == []
        assert (
            page.locator("#examined").inner_text().startswith("Nothing wrong found; measured on 1,000 images of train")
        )


# ---- for everybody


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("panel", ["training", "compare", "doctor"])
def test_axe_finds_nothing(browser: Any, server: Page, panel: str, scheme: str, width: int):  # noqa: F811
    own = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
    for run in ("collapsed", "staged"):
        page = opened(own, server, panel, run, "&n=100&draws=2&with=digits")
        page.evaluate("() => { for (const d of document.querySelectorAll('details')) d.open = true }")
        page.wait_for_timeout(800)
        expect_accessible(page)
        page.close()
    own.close()

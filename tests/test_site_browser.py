"""The site of docs/ in Chromium, opened as files: everybody can read it, and it can be searched.

Run by scripts/check --all. Needs Chromium, as tests/test_explorer_browser.py does.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent

pytestmark = [pytest.mark.browser, pytest.mark.filterwarnings("default")]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built: 15 s of a core."""
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "-q", "--site-dir", str(folder)]
    subprocess.run(build, cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, check=True)
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    where = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    with sync_playwright() as p:
        found = p.chromium.launch(executable_path=where, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("page", ["index.html", "course/bound.html", "reference/python.html", "taxonomy.html"])
def test_axe_finds_nothing_serious(browser: Any, site: Path, page: str, scheme: str):
    from axe_playwright_python.sync_playwright import Axe

    context = browser.new_context(viewport={"width": 1280, "height": 844}, color_scheme=scheme, offline=True)
    opened = context.new_page()
    opened.goto((site / page).as_uri())
    opened.wait_for_timeout(500)  # tables and code get what the keyboard needs once they are drawn
    found = Axe().run(opened).response["violations"]
    serious = {v["id"]: [n["target"] for n in v["nodes"]] for v in found if v["impact"] in ("serious", "critical")}
    context.close()
    assert serious == {}


def test_pages_that_are_files_can_be_searched(browser: Any, site: Path):
    context = browser.new_context(offline=True)
    page = context.new_page()
    page.goto((site / "course" / "bound.html").as_uri())
    page.locator(".md-search__input").press_sequentially("VampPrior", delay=50)  # as soon as the theme listens
    page.locator(".md-search-result__item").first.wait_for()
    links = [a.get_attribute("href") for a in page.locator(".md-search-result__item a").all()]
    assert any("priors-and-posteriors.html" in link for link in links)
    context.close()

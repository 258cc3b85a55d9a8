"""Pictures of pages, in Chromium: pip install playwright, and CHROMIUM says where that is if it is not on the path.

python docs/pictures/screens.py page digits.html page.png             # a page of `lowerbound export`
python docs/pictures/screens.py curves runs/a runs/b curves.png       # the curves of two trainings in `explore`
"""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Page, sync_playwright  # pyright: ignore[reportMissingImports]


@contextmanager
def served(*runs: str) -> Iterator[str]:
    """The address of a server of its own."""
    words = [sys.executable, "-c", "from lowerbound.cli import main; main()", "explore", *runs, "--device", "cpu"]
    server = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    try:
        yield next(found[0] for line in server.stderr if (found := re.search(r"http://\S+", line)))
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(20)


def exported(page: Page, file: str, out: str) -> None:
    page.goto(Path(file).resolve().as_uri())
    page.wait_for_selector("#draws button", timeout=60_000)
    page.wait_for_timeout(1000)
    page.screenshot(path=out)


def curves(page: Page, first: str, second: str, out: str) -> None:
    """ELBO and KL, the second run over the first, and the values under the pointer."""
    with served(first, second) as address:
        page.goto(f"{address}#run={Path(first).name}&panel=training")
        page.wait_for_function("() => Number(document.querySelector('.panel.training')?.dataset.points) > 0")
        group = page.get_by_role("group", name="Which curves")
        for name in ("elbo", "kl", "loss", "distortion", "bits per dim"):
            button = group.get_by_role("button", name=name, exact=True)
            if button.count() and (button.get_attribute("aria-pressed") == "true") != (name in ("elbo", "kl")):
                button.click()
        page.get_by_role("button", name=Path(second).name).first.click()
        page.wait_for_timeout(1500)
        page.set_viewport_size({"width": 1060, "height": 1400})  # all of it is seen, so nothing scrolls
        card, box = page.locator(".card:has(#curve-kl)").last, page.locator("#curve-kl").bounding_box()
        assert box is not None
        page.mouse.move(box["x"] + box["width"] / 3, box["y"] + box["height"] / 2)
        page.wait_for_timeout(500)
        card.screenshot(path=out)


def main() -> None:
    what, *words = sys.argv[1:]
    where = os.environ.get("CHROMIUM") or shutil.which("chromium")
    with sync_playwright() as play:
        page = play.chromium.launch(executable_path=where, args=["--no-sandbox"]).new_page(
            viewport={"width": 1280, "height": 640}
        )
        {"page": exported, "curves": curves}[what](page, *words)


if __name__ == "__main__":
    main()

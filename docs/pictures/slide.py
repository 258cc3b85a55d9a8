"""A direction taught on the page of `explore`, and its slider there and back, in Chromium: pip install playwright.

python docs/pictures/slide.py runs/faces 7 slide.gif        # of validation image 7 of a run of LFW, counted from 0

Who smiles is said by smiles.zip below $LOWERBOUND_DATA, grey copies of most of LFW's images in two folders. Of the
images that the page shows first those are pressed, 40 of either kind, that have a copy there.
"""

import io
import os
import shutil
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import Page, sync_playwright  # pyright: ignore[reportMissingImports]
from screens import served

from lowerbound.data import Data

SHOWN = 288  # images of the page that are looked at
EACH = 40
GREY = np.array([0.299, 0.587, 0.114])  # of red, green and blue, as in JPEG
ALIKE = 2.0  # mean difference of the values 0 to 255 up to which an image is a copy
STRENGTHS = [-0.8, -0.4, 0.0, 0.4, 0.8, 1.2, 1.6, 2.0, 2.4]
SIZE = (795, 525)  # of the picture, three quarters of the page's


def pressed() -> tuple[list[int], list[int]]:
    """The images to press: those that smile, and those that don't."""
    copies, label = [], []
    for part in ("train", "valid", "test"):
        images = Data(source=str(Path(os.environ["LOWERBOUND_DATA"]) / "smiles.zip")).open(part)
        assert images.classes is not None
        copies.append(blocks(images.x[:, 0]))
        label.append(np.asarray(images.y) == images.classes.index("smiling"))
    known, smiling = np.concatenate(copies), np.concatenate(label)
    found: tuple[list[int], list[int]] = ([], [])
    for i, image in enumerate(blocks(np.einsum("nchw,c->nhw", Data(source="lfw").open("valid").x[:SHOWN], GREY))):
        far = np.abs(known - image).mean(1)
        if far.min() < ALIKE:
            found[0 if smiling[far.argmin()] else 1].append(i)
    return found[0][:EACH], found[1][:EACH]


def blocks(x: np.ndarray) -> np.ndarray:
    """Means of 4x4 pixels of grey images [N, 64, 64]: [N, 256]."""
    return x.reshape(len(x), 16, 4, 16, 4).mean((2, 4)).reshape(len(x), -1)


def taught(page: Page, name: str) -> None:
    """Teach the direction as a hand does."""
    smile, earnest = pressed()
    page.get_by_role("button", name="Teach a direction").click()
    page.get_by_label("Name", exact=True).fill(name)
    images = page.locator("#data button")
    for times, which in enumerate((smile, earnest), 1):
        for i in which:
            while images.count() <= i:
                shown = images.count()
                page.get_by_role("button", name="More images").click()
                page.wait_for_function("n => document.querySelectorAll('#data button').length > n", arg=shown)
            for _ in range(times):
                images.nth(i).click()
    page.get_by_role("button", name="Learn").click()
    page.get_by_label(f"{name}, typed").wait_for()


def moved(page: Page, name: str) -> list[Image.Image]:
    """The page at each strength."""
    typed, found = page.get_by_label(f"{name}, typed"), []
    for strength in STRENGTHS:
        before = page.locator(".panel").get_attribute("data-frames")
        typed.fill(str(strength))
        typed.press("Enter")
        typed.blur()
        page.wait_for_function("n => document.querySelector('.panel').dataset.frames > n", arg=int(before or 0))
        page.wait_for_timeout(100)
        shot = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
        found.append(shot.resize(SIZE, Image.Resampling.LANCZOS))
    return found


def main() -> None:
    run, image, out = sys.argv[1:]
    where = os.environ.get("CHROMIUM") or shutil.which("chromium")
    with served(run) as address, sync_playwright() as play:
        page = play.chromium.launch(executable_path=where, args=["--no-sandbox"]).new_page(
            viewport={"width": 1060, "height": 700}
        )
        page.goto(f"{address}#run={Path(run).name}&panel=latent")
        page.wait_for_selector("#draws button", timeout=60_000)
        page.wait_for_selector("#data button")
        taught(page, "smile")
        page.locator("#data button").nth(int(image)).click()
        page.wait_for_timeout(8000)  # until what was said of the direction has gone
        page.mouse.move(700, 75)  # where nothing is
        page.evaluate("document.querySelector('.stage').scrollTop = 0; scrollTo(0, 0)")
        frames = moved(page, "smile")
    ends = Image.fromarray(np.concatenate([np.asarray(frames[i]) for i in (0, len(frames) // 2, -1)]))
    colours = ends.quantize(256, kmeans=3)
    plain = Image.Dither.NONE  # dithered it is twice as large
    drawn = [frame.quantize(palette=colours, dither=plain) for frame in frames]
    start = STRENGTHS.index(0)
    there_and_back = [*drawn[start:], *drawn[-2:0:-1], *drawn[:start]]
    there_and_back[0].save(out, save_all=True, append_images=there_and_back[1:], duration=150, loop=0)


if __name__ == "__main__":
    main()

"""How long the page of `lowerbound explore` takes from a slider that moves to the picture that it makes, in Chromium.

python benchmarks/explore.py [RUN ...] [--pages] [--points 60000] [--moves 200] [--threads 1] [--json FILE]

The server is a process of its own, as a user starts it. `slider to picture` is what passes in the page between the
event of a slider and the picture on its canvas: the question, the decoder, the answer, the pixels; not what the screen
takes to show them. One move at a time, each of another latent, the first ten left out. `pictures/s`: of a slider that
moves on at every picture that came.

`--pages`: the same of the pages that `export` writes of the runs, opened from the disk: their bytes, and the
milliseconds from opening one to its first picture too (the median of five).

`--points`: frames/s of a map of so many images, zoomed in and out for five seconds at 1280x900: a VAE of digits,
repeated and with noise on them, so that there are enough. Needs Chromium (CHROMIUM says where) and
`pip install 'lowerbound[browser]'`.
"""

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import numpy as np
from playwright.sync_api import Page, sync_playwright  # pyright: ignore[reportMissingImports]
from sklearn.datasets import load_digits

import common
import lowerbound as lb

WARM = 10
MOVE = """async (moves) => {
    const panel = document.querySelector('.panel');
    const sliders = [...document.querySelectorAll('.sliders .slider input[type=range]')].slice(-16);
    const taken = [];
    for (let i = 0; i < moves; i++) {
        const slider = sliders[i % sliders.length];
        const painted = new Promise((done) => {
            const seen = new MutationObserver(() => { seen.disconnect(); done(performance.now()); });
            seen.observe(panel, { attributes: true, attributeFilter: ['data-frames'] });
        });
        const share = (0.37 * (i + 1)) % 1;
        slider.value = String(Number(slider.min) + share * (slider.max - slider.min));
        const begun = performance.now();
        slider.dispatchEvent(new Event('input', { bubbles: true }));
        taken.push((await painted) - begun);
        slider.dispatchEvent(new Event('change', { bubbles: true }));
        await new Promise((done) => setTimeout(done, 5));  // what the change asked for comes too
    }
    return taken;
}"""


FIRST = """() => new Promise((done) => {
    const look = () => (Number(document.querySelector('.panel')?.dataset.frames) > 0
        ? done(performance.now()) : setTimeout(look, 5));
    look();
})"""
ZOOM = """async () => {
    const panel = document.querySelector('.panel'), map = document.querySelector('#map');
    const before = Number(panel.dataset.frames), begun = performance.now();
    for (let i = 0; performance.now() - begun < 5000; i++) {
        const deltaY = i % 40 < 20 ? -30 : 30;
        map.dispatchEvent(new WheelEvent('wheel', { deltaY, clientX: 400, clientY: 400, cancelable: true }));
        await new Promise((done) => requestAnimationFrame(done));
    }
    return (Number(panel.dataset.frames) - before) / (performance.now() - begun) * 1000;
}"""


def mapped(folder: Path, points: int) -> Path:
    """A run whose training images are so many."""
    x = load_digits(return_X_y=True)[0].reshape(-1, 1, 8, 8).astype(np.uint8)
    x = np.resize(x, (math.ceil(points / 0.8), *x.shape[1:]))
    own = np.random.default_rng(0)
    x = np.clip(x + own.integers(-2, 3, x.shape), 0, 16).astype(np.uint8)
    np.savez(folder / "digits.npz", x=x, levels=17)
    short = {"steps": 200, "epochs": None}
    return lb.train("vae", data=folder / "digits.npz", out=folder / "map", train=short).path


@contextmanager
def served(runs: Sequence[Path], threads: int) -> Iterator[str]:
    """The address of a server of its own."""
    with tempfile.TemporaryDirectory() as state:
        own = {**os.environ, "XDG_STATE_HOME": state, "OMP_NUM_THREADS": str(threads)}
        words = [sys.executable, "-c", "from lowerbound.cli import main; main()", "explore", *map(str, runs)]
        server = subprocess.Popen([*words, "--device", "cpu"], env=own, stderr=subprocess.PIPE, text=True)
        assert server.stderr is not None
        try:
            yield next(found[0] for line in server.stderr if (found := re.search(r"http://\S+", line)))
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(20)


def measured(page: Page, moves: int) -> dict[str, float]:
    taken = page.evaluate(MOVE, moves + WARM)[WARM:]
    begun = page.evaluate("() => { window.since = performance.now(); return performance.now(); }")
    drags = page.evaluate(MOVE.replace("setTimeout(done, 5)", "done()"), moves)
    seconds = (page.evaluate("performance.now()") - begun) / 1000
    return {"median_ms": median(taken), "p95_ms": quantiles(taken, n=20)[-1], "per_second": len(drags) / seconds}


def main() -> None:
    p = common.parser(__doc__)
    p.add_argument("runs", nargs="*")
    p.add_argument("--pages", action="store_true", help="of pages that are files")
    p.add_argument("--points", type=int, help="of a map, whose frames/s are measured")
    p.add_argument("--moves", type=int, default=200)
    options = p.parse_args()
    found: dict[str, Any] = {"map": None, "runs": {}}
    where = os.environ.get("CHROMIUM") or shutil.which("chromium")
    common.set_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as play:
        if options.pages:
            browser = play.chromium.launch(executable_path=where, args=["--no-sandbox"])
            return report(options, {"map": None, "runs": dict(written(browser, Path(folder), options))})
        own = [mapped(Path(folder), options.points)] if options.points else []
        with served([*options.runs, *own], options.threads) as address:
            look(play.chromium.launch(executable_path=where, args=["--no-sandbox"]), address, options, found)
    report(options, found)


def written(browser: Any, folder: Path, options: Any) -> Iterator[tuple[str, dict[str, float]]]:
    """Of each run's page what is measured."""
    for run in options.runs:
        name = Path(run.replace(":", "/")).name
        file = folder / f"{name}.html"
        lb.export(run, out=file)
        firsts = []
        for _ in range(5):
            page = browser.new_page()
            page.goto(file.as_uri())
            firsts.append(page.evaluate(FIRST))
            page.wait_for_selector("#draws button", timeout=120_000)
            page.wait_for_timeout(1000)
            last = measured(page, options.moves) if len(firsts) == 5 else {}
            page.close()
        yield name, last | {"bytes": file.stat().st_size, "first_ms": median(firsts)}


def look(browser: Any, address: str, options: Any, found: dict[str, Any]) -> None:
    if options.points:
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(f"{address}#run=map&panel=map&ms=train")
        page.wait_for_function("() => document.querySelector('.panel')?.dataset.whole === 'true'", timeout=120_000)
        shown = page.evaluate("() => Number(document.querySelector('.panel').dataset.points)")
        found["map"] = {"points": shown, "frames_per_second": page.evaluate(ZOOM)}
        page.close()
    for run in options.runs:
        page = browser.new_page()
        name = Path(run).name
        page.goto(f"{address}#run={name}&panel=latent")
        page.wait_for_selector("#draws button", timeout=120_000)
        page.wait_for_timeout(1000)
        found["runs"][name] = measured(page, options.moves)
        page.close()
    browser.close()


def report(options: Any, found: dict[str, Any]) -> None:
    machine = common.machine(options.threads)
    print(f"{machine['cpu']}, {options.threads} threads, load {machine['load']}")
    if own := found["map"]:
        print(f"a map of {own['points']:,} points: {own['frames_per_second']:.1f} frames/s")
    if found["runs"]:
        print(f"{'run':>16} {'slider to picture':>18} {'95 %':>9} {'pictures/s':>11}")
    for name, f in found["runs"].items():
        more = f" {f['bytes'] / 1e6:>6.2f} MB, first picture {f['first_ms']:.0f} ms" if "bytes" in f else ""
        print(f"{name:>16} {f['median_ms']:>15.1f} ms {f['p95_ms']:>6.1f} ms {f['per_second']:>11.0f}{more}")
    if options.json:
        options.json.write_text(json.dumps({"machine": machine, **found}, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""How long the page of `lowerbound explore` takes from a slider that moves to the picture that it makes, in Chromium.

python benchmarks/explore.py RUN [RUN ...] [--moves 200] [--threads 1] [--json FILE]

The server is a process of its own, as a user starts it. `slider to picture` is what passes in the page between the
event of a slider and the picture on its canvas: the question, the decoder, the answer, the pixels; not what the screen
takes to show them. One move at a time, each of another latent, the first ten left out. `pictures/s`: of a slider that
moves on at every picture that came. Needs Chromium (CHROMIUM says where) and `pip install 'lowerbound[browser]'`.
"""

import json
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

from playwright.sync_api import Page, sync_playwright  # pyright: ignore[reportMissingImports]

import common

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
    p.add_argument("runs", type=Path, nargs="+")
    p.add_argument("--moves", type=int, default=200)
    options = p.parse_args()
    found: dict[str, Any] = {}
    where = os.environ.get("CHROMIUM") or shutil.which("chromium")
    with served(options.runs, options.threads) as address, sync_playwright() as play:
        browser = play.chromium.launch(executable_path=where, args=["--no-sandbox"])
        for run in options.runs:
            page = browser.new_page()
            page.goto(f"{address}#run={run.name}&panel=latent")
            page.wait_for_selector("#draws button", timeout=120_000)
            page.wait_for_timeout(1000)
            found[run.name] = measured(page, options.moves)
            page.close()
        browser.close()
    machine = common.machine(options.threads)
    print(f"{machine['cpu']}, {options.threads} threads, load {machine['load']}")
    print(f"{'run':>16} {'slider to picture':>18} {'95 %':>9} {'pictures/s':>11}")
    for name, f in found.items():
        print(f"{name:>16} {f['median_ms']:>15.1f} ms {f['p95_ms']:>6.1f} ms {f['per_second']:>11.0f}")
    if options.json:
        options.json.write_text(json.dumps({"machine": machine, "runs": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Training beside other busy processes: with one thread, as shipped, and with OpenMP's own waiting.

    python benchmarks/busy.py [--recipe vae] [--steps 200] [--repeats 1]

Seconds of a whole `lowerbound train` in a process of its own, beside 0, 1 and 2 processes that keep a core busy. As
shipped, `GOMP_SPINCOUNT` is 1000 (`lowerbound.processes.spin_briefly`); OpenMP's own is what it does where torch was
imported first. The smallest of the repeats counts.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BUSY = "while True: pass"
WAYS = {
    "one thread": ({"OMP_NUM_THREADS": "1"}, ""),
    "as shipped": ({}, ""),
    "OpenMP's own": ({}, "import torch; "),
}


def seconds(recipe: str, steps: int, way: str) -> float:
    environment, first = WAYS[way]
    clean = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS")}
    folder = Path(tempfile.mkdtemp())
    words = ["train", recipe, f"train.steps={steps}", "--out", str(folder / "run")]
    code = f"import sys; {first}from lowerbound.cli import main; sys.argv = ['lowerbound', *{words}]; main()"
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], env=clean | environment, check=True, capture_output=True)
    taken = time.perf_counter() - begun
    shutil.rmtree(folder)
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="vae")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=1)
    options = parser.parse_args()
    print(f"{options.recipe}, {options.steps} steps, {os.cpu_count()} cores; load before: {os.getloadavg()[0]:.1f}")
    print(f"{'busy processes':>15} " + " ".join(f"{way:>13}" for way in WAYS))
    for n in range(3):
        others = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(n)]
        try:
            found = {
                way: min(seconds(options.recipe, options.steps, way) for _ in range(options.repeats)) for way in WAYS
            }
        finally:
            for other in others:
                other.kill()
        print(f"{n:>15} " + " ".join(f"{found[way]:>11.1f} s" for way in WAYS), flush=True)


if __name__ == "__main__":
    main()

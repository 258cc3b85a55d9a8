"""Training beside other busy processes: with one thread, as shipped, and with OpenMP's own waiting.

    python benchmarks/busy.py [--recipe vae] [--steps 200] [--repeats 1]

Seconds of a whole `lowerbound train` in a process of its own, beside 0, 1 and 2 processes that keep a core busy. As
shipped, threads spin for each other or sleep, by how busy the cores are (`lowerbound.waiting`); the other two do always
the same: `GOMP_SPINCOUNT` of 300,000, libgomp's own, and of 1,000. The median of the repeats counts, taken in turn.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

BUSY = "while True: pass"
WAYS = {
    "one thread": {"OMP_NUM_THREADS": "1"},
    "as shipped": {},
    "always spin": {"GOMP_SPINCOUNT": "300000"},
    "short spin": {"GOMP_SPINCOUNT": "1000"},
}


def seconds(recipe: str, steps: int, way: str) -> float:
    clean = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS")}
    folder = Path(tempfile.mkdtemp())
    words = ["train", recipe, f"train.steps={steps}", "--out", str(folder / "run")]
    code = f"import sys; from lowerbound.cli import main; sys.argv = ['lowerbound', *{words}]; main()"
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], env=clean | WAYS[way], check=True, capture_output=True)
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
            rounds = [
                {way: seconds(options.recipe, options.steps, way) for way in WAYS} for _ in range(options.repeats)
            ]
        finally:
            for other in others:
                other.kill()
        found = [median(took[way] for took in rounds) for way in WAYS]
        print(f"{n:>15} " + " ".join(f"{s:>11.1f} s" for s in found), flush=True)


if __name__ == "__main__":
    main()

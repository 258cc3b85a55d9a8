#!/usr/bin/env python3
"""Two processes of one thread beside one process of two threads: images/s of trainings.

    python benchmarks/processes.py --rounds 5 --steps 200
    python benchmarks/processes.py --recipes vae-mnist,vqvae-mnist

Each training is the command line's, as shipped but for its length, in rounds of one after the other; the rate of a
training is the median over its log's lines but the first, that of a side the median of its rounds. Of a recipe of
several stages the first is trained. An idle machine is needed: the load is said.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import common

RECIPES = "vae-mnist,pixelcnn-mnist,vqvae-mnist,hvae-mnist,diffusion-digits"
SIDES = {"1 process, 2 threads": (1, 2), "2 processes, 1 thread": (2, 1)}


def main() -> None:
    p = common.parser(__doc__)
    p.add_argument("--recipes", default=RECIPES, help="with commas between")
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--steps", type=int, default=100)
    options = p.parse_args()
    print(json.dumps(machine := common.machine(2)))
    rows = []
    for recipe in options.recipes.split(","):
        rates: dict[str, list[float]] = {side: [] for side in SIDES}
        for _ in range(options.rounds):
            for side, (processes, threads) in SIDES.items():
                rates[side].append(rate(recipe, options.steps, processes, threads))
        one, two = (median(rates[side]) for side in SIDES)
        rows.append({"recipe": recipe, "rates": rates, "load": os.getloadavg()[0]})
        each = ", ".join(f"{side}: {median(values):,.0f}" for side, values in rates.items())
        print(f"{recipe}: {each} images/s, {two / one:.2f} times; load {os.getloadavg()[0]:.1f}", flush=True)
    if options.json:
        options.json.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1))


def rate(recipe: str, steps: int, processes: int, threads: int) -> float:
    """Images/s of a training of so many steps, which is then interrupted: an evaluation would take longer."""
    with tempfile.TemporaryDirectory() as folder:
        out, stage = Path(folder) / "run", ["--stage", "autoencoder"] if recipe.startswith("vqvae") else []
        every = max(1, steps // 10)
        words = ["train", recipe, "train.epochs=null", f"train.steps={100 * steps}", f"train.log_every={every}"]
        words += [*stage, "--out", str(out), "--device", "cpu", "--processes", str(processes)]
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        command = [sys.executable, "-m", "lowerbound", *words, f"train.valid_every={100 * steps}"]
        with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as training:
            while len(found := rates_of(out / "log.jsonl")) < 10:
                if training.poll() is not None:
                    raise SystemExit(f"{recipe} ended: {training.communicate()[1].decode()[-500:]}")
                time.sleep(0.2)
            training.send_signal(signal.SIGINT)
            training.communicate()
    return median(found[1:10])


def rates_of(log: Path) -> list[float]:
    """Of the lines that a log has so far."""
    lines = log.read_text().split("\n")[:-1] if log.exists() else []
    return [r["images_per_second"] for r in map(json.loads, lines) if r["split"] == "train"]


if __name__ == "__main__":
    main()

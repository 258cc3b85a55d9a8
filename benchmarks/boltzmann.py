"""Where a Boltzmann machine's negative samples come from, and how far annealing is from the true constant.

    python benchmarks/boltzmann.py        # three minutes of one core; writes the table of docs/boltzmann.md

Machines of 16 hidden units of the 8x8 binary digits of taxonomy.py, so that log Z is counted over all 65,536 states and
the test NLL is exact. Each is trained as the recipe rbm-digits says but for `model.negative`, with several seeds. Then
log Z is estimated as for a machine that is too large to be counted: by annealing from below and from above.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean, stdev
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch

import lowerbound as lb
from common import parser, put, set_threads
from lowerbound.models.partition import Annealing, Mean, from_above, from_below
from lowerbound.noise import seeded
from taxonomy import images

PAGE = Path("docs/boltzmann.md")
HIDDEN = 16
HOW = {
    "CD-1": {"type": "models.negatives.Contrastive", "steps": 1},
    "CD-5": {"type": "models.negatives.Contrastive", "steps": 5},
    "CD-25": {"type": "models.negatives.Contrastive", "steps": 25},
    "PCD-1": {"type": "models.negatives.Persistent", "steps": 1},
    "PCD-5": {"type": "models.negatives.Persistent", "steps": 5},
    "tempering, 10 temperatures": {"type": "models.negatives.Tempered", "steps": 1},
}
FEW, MANY = (Annealing(chains=100, temperatures=t, burn_in=1000) for t in (50, 2000))


class Machine(NamedTuple):
    """A machine that was trained: nats, and seconds."""

    nll: float  # of the test images, exact
    log_z: float  # exact
    few: Mean  # log Z by annealing from below, through few temperatures
    below: Mean  # through many
    above: Mean  # from the other side
    seconds: float  # of its training


def trained(negative: dict[str, Any], seed: int, data: Path, steps: int) -> Machine:
    parts = {"hidden": HIDDEN, "negative": negative}
    with TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        run = lb.train("rbm-digits", data=data, out=out, model=parts, train={"steps": steps}, seed=seed)
        nll = lb.evaluate(run, metrics=["nll"])["metrics"]["nll"]
        seconds = json.loads((out / "log.jsonl").read_text().splitlines()[-1])["seconds"]
        model: Any = run.load()
    assert nll["relation"] == "="
    with torch.no_grad(), seeded(seed, "annealing"):
        machine, base = model.energy.machine(), model.base
        few, below = from_below(machine, base, FEW), from_below(machine, base, MANY)
        above = from_above(machine, base, base.new_zeros(0, len(base)), MANY)
        return Machine(nll["value"], float(machine.log_z()), few, below, above, seconds)


def spread(values: Sequence[float], sign: str = "", places: int = 2) -> str:
    """The mean of the seeds, and how far they lie apart."""
    return f"{mean(values):{sign}.{places}f} ± {stdev(values):.{places}f}"


def row(name: str, machines: Sequence[Machine]) -> str:
    annealed: list[Callable[[Machine], Mean]] = [lambda m: m.few, lambda m: m.below, lambda m: m.above]
    few, below, above = (
        f"{spread([of(m).log - m.log_z for m in machines], '+', 3)} ({mean(of(m).error for m in machines):.3f})"
        for of in annealed
    )
    cells = [spread([m.nll for m in machines]), spread([m.log_z for m in machines]), few, below, above]
    return f"| {' | '.join([name, *cells, f'{mean(m.seconds for m in machines):.1f}'])} |"


def table(data: Path, seeds: int, steps: int) -> str:
    head = (
        "test NLL, nats | log Z, counted | annealed less counted, 50 temperatures | 2,000 | 2,000, from above | seconds"
    )
    rows = [f"| samples | {head} |", "| --- |" + " ---: |" * 6]
    for name, negative in HOW.items():
        rows.append(row(name, [trained(negative, seed, data, steps) for seed in range(seeds)]))
        print(rows[-1], flush=True)
    return "\n".join(rows)


def main() -> None:
    p = parser(__doc__)
    p.add_argument("--runs", type=Path, default=Path("runs/map"), help="where the images are, or are put")
    p.add_argument("--seeds", type=int, default=3)
    p.add_argument("--steps", type=int, default=2000)
    p.add_argument("--page", type=Path, default=PAGE)
    args = p.parse_args()
    set_threads(args.threads)
    torch.set_num_threads(args.threads)
    put(args.page, "negatives", table(images(args.runs), args.seeds, args.steps))


if __name__ == "__main__":
    main()

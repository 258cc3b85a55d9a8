#!/usr/bin/env python3
"""How long `lowerbound --help` takes, and that it does not wait for torch.

python benchmarks/imports.py
"""

import subprocess
import sys
import time
from pathlib import Path

import common
from common import Spread

HELP = """
import sys
from lowerbound.cli import main
sys.argv = ["lowerbound", "--help"]
try:
    main()
except SystemExit:
    pass
print("torch" in sys.modules, file=sys.stderr)
"""


def main() -> None:
    p = common.parser(__doc__)
    p.add_argument("--rounds", type=int, default=15)
    options = p.parse_args()
    about = common.machine(options.threads)
    loaded = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True, check=True).stderr.split()
    assert loaded[-1] in ("True", "False"), loaded
    program = Path(sys.executable).with_name("lowerbound")
    by_module = [sys.executable, "-c", "from lowerbound.cli import main; main()"]
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "lowerbound --help": [*([str(program)] if program.exists() else by_module), "--help"],
    }
    for command in commands.values():
        seconds(command)  # the files are in memory from here on
    taken: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(options.rounds):
        for name, command in commands.items():
            taken[name].append(seconds(command))
    rows = [(f"{name}, s", Spread.of(values)) for name, values in taken.items()]
    common.show("start", [*rows, ("imports torch", loaded[-1] == "True")])
    common.finish(options, about, {**dict(rows), "imports torch": loaded[-1] == "True"})


def seconds(command: list[str]) -> float:
    begun = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()

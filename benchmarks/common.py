"""What the benchmarks share: the machine in words, two sides measured in turn, the machine's own limits, tables.

Figures of different runs are not compared: machines are shared and their clocks change. Whatever is compared is
measured in one run, each side in a process of its own, in rounds A B A B ..., and given by its median.
"""

import argparse
import json
import math
import multiprocessing as mp
import os
import platform
import re
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from lowerbound.errors import UserError


def parser(doc: str | None) -> argparse.ArgumentParser:
    """With what every benchmark has."""
    p = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    p.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of torch, on every side")
    return p


def set_threads(n: int) -> None:
    """For processes that are still to start; in those that run, torch.set_num_threads."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(n)


def machine(threads: int) -> dict[str, Any]:
    """The machine, and how busy it was."""
    cpu = _cpu()
    sets = [f for f in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if f in cpu.get("flags", "").split()]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": cpu.get("model name", platform.machine()),
        "cores": len(os.sched_getaffinity(0)),
        "instructions": sets,
        "memory_gib": round(memory / 2**30, 1),
        "threads": threads,
        "python": platform.python_version(),
        "torch": version("torch"),
        "lowerbound": version("lowerbound"),
        "load": round(os.getloadavg()[0], 2),
    }


def _cpu() -> dict[str, str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:
        return {}
    return {k.strip(): v.strip() for k, _, v in (line.partition(":") for line in lines)}


# ---- sides, measured in turn


class Side:
    """A process of its own that makes one measurement whenever it is asked for one.

    `work(take, *arguments)` prepares, warms up and calls `take(values)` for each measurement; `take` returns when the
    next is due, and raises SystemExit when there is none. What it hands over first is what it has to say beforehand.
    """

    def __init__(self, work: Callable, *arguments: Any):
        context = mp.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, work, arguments), daemon=True)
        self.process.start()
        theirs.close()

    def take(self) -> Any:
        """The next measurement."""
        self.connection.send(True)
        return self.answer()

    def answer(self) -> Any:
        try:
            kind, value = self.connection.recv()
        except EOFError:
            raise SystemExit("a measured process ended early") from None
        if kind == "error":
            raise SystemExit(value)
        return value

    def close(self) -> None:
        self.connection.close()
        self.process.join(timeout=60)


def _serve(connection: Connection, work: Callable, arguments: tuple) -> None:
    def take(values: Any) -> None:
        try:
            connection.send(("value", values))
            connection.recv()
        except (EOFError, OSError):
            raise SystemExit from None

    try:
        work(take, *arguments)
    except SystemExit:
        raise
    except UserError as e:
        connection.send(("error", str(e)))
    except BaseException:
        connection.send(("error", traceback.format_exc()))


def in_turn(sides: dict[str, Side], rounds: int) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """What each side said beforehand, and its measurements: one of every side in each round."""
    said = {name: side.answer() for name, side in sides.items()}
    taken: dict[str, list[Any]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            taken[name].append(side.take())
    for side in sides.values():
        side.close()
    return said, taken


@dataclass(frozen=True)
class Spread:
    """The median of several measurements, and the smallest and largest."""

    median: float
    low: float
    high: float
    n: int

    @staticmethod
    def of(values: Sequence[float]) -> "Spread":
        return Spread(median(values), min(values), max(values), len(values))

    def __str__(self) -> str:
        return f"{figure(self.median)}  ({figure(self.low)} to {figure(self.high)}, {self.n} rounds)"


def ratios(a: Sequence[float], b: Sequence[float]) -> Spread:
    """a / b of the same rounds: what the machine did to both at once drops out."""
    return Spread.of([x / y for x, y in zip(a, b, strict=True)])


# ---- the machine's own limits


class Limit(NamedTuple):
    """Something the machine is measured by; `make` gives what is run, counted as this many FLOPs."""

    name: str
    flops: float
    make: Callable[[], Callable[[], Any]]


def matmuls(*sizes: tuple[int, int, int]) -> list[Limit]:
    """fp32 products [m, k] x [k, n]."""

    def make(m: int, k: int, n: int) -> Callable[[], Any]:
        import torch

        a, b, out = torch.randn(m, k), torch.randn(k, n), torch.empty(m, n)
        return lambda: torch.mm(a, b, out=out)

    return [Limit(f"matmul {m}x{k}x{n}", 2.0 * m * k * n, lambda s=(m, k, n): make(*s)) for m, k, n in sizes]


def convolution(batch: int, width: int, size: int) -> Limit:
    """A 3x3 convolution of as many channels out as in, forward and backward, by torch's own autograd."""

    def make() -> Callable[[], Any]:
        import torch

        x = torch.randn(batch, width, size, size, requires_grad=True)
        layer = torch.nn.Conv2d(width, width, 3, padding=1)
        grad = torch.randn(batch, width, size, size)
        return lambda: torch.autograd.grad(layer(x), [x, *layer.parameters()], grad)

    # the padding's products are not counted out, as torch.utils.flop_counter does not
    flops = 3 * 2.0 * batch * width * width * 9 * size * size
    return Limit(f"conv 3x3 {width}ch {size}x{size} batch {batch}, fwd+bwd", flops, make)


SQUARES = ((512, 512, 512), (1024, 1024, 1024), (2048, 2048, 2048), (3072, 3072, 3072))


def limits(take: Callable, threads: int, kind: str, seconds: float) -> None:
    """A side: GFLOP/s of every limit of the kind, each the median of its repetitions."""
    import torch

    torch.set_num_threads(threads)
    wanted = {
        "matmul": lambda: matmuls(*SQUARES),
        "conv": lambda: [*matmuls(*SQUARES), *(convolution(*s) for s in CONVOLUTIONS)],
    }[kind]()
    runs = [(limit, limit.make()) for limit in wanted]
    for _, run in runs:
        run()
    take({"limits": [limit.name for limit, _ in runs]})
    while True:
        take({limit.name: limit.flops / _median_seconds(run, seconds) / 1e9 for limit, run in runs})


CONVOLUTIONS = ((32, 32, 16), (32, 64, 8), (32, 64, 16), (32, 128, 32))  # batch, channels, size


def _median_seconds(run: Callable[[], Any], at_least: float) -> float:
    """The median time of repetitions that take this long together."""
    taken: list[float] = []
    while sum(taken) < at_least or len(taken) < 3:
        begun = time.perf_counter()
        run()
        taken.append(time.perf_counter() - begun)
    return median(taken)


def spreads(taken: list[dict[str, float]]) -> dict[str, Spread]:
    """Of measurements that are tables, the spread of every entry."""
    return {name: Spread.of([t[name] for t in taken]) for name in taken[0]}


def peak(found: dict[str, Spread], kind: str = "matmul") -> float:
    """The best of the medians, GFLOP/s."""
    return max(s.median for name, s in found.items() if name.startswith(kind))


# ---- what is shown


def figure(x: float) -> str:
    """With four digits that mean something, thousands separated."""
    if not math.isfinite(x) or x == 0:
        return str(x)
    return f"{x:,.{max(0, 3 - math.floor(math.log10(abs(x))))}f}"


def show(title: str, rows: Sequence[tuple[str, Any]]) -> None:
    print(f"\n{title}")
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"  {name:<{width}}  {figure(value) if isinstance(value, float) else value}")


def finish(options: argparse.Namespace, about: dict[str, Any], figures: dict[str, Any]) -> None:
    """Show the machine, and write the figures where they were asked for."""
    shown = ", ".join(f"{k} {' '.join(v) if isinstance(v, list) else v}" for k, v in about.items())
    print(f"\nmachine: {shown}")
    if options.json:
        values = {"machine": about, "options": vars(options), "figures": figures}
        options.json.write_text(json.dumps(values, indent=1, default=_plain) + "\n")


def _plain(value: Any) -> Any:
    return vars(value) if isinstance(value, Spread) else str(value)


# ---- pages


def pair(values: np.ndarray, sign: str = "") -> str:
    """The mean of images and its standard error."""
    return f"{values.mean():{sign}.2f} ± {values.std(ddof=1) / math.sqrt(len(values)):.2f}"


def put(page: Path, name: str, text: str) -> None:
    """Between two marks of a page."""
    marks = f"<!-- {name} -->", f"<!-- /{name} -->"
    pattern = re.compile(re.escape(marks[0]) + ".*?" + re.escape(marks[1]), re.DOTALL)
    whole = page.read_text(encoding="utf-8")
    page.write_text(pattern.sub(lambda _: f"{marks[0]}\n{text}\n{marks[1]}", whole), encoding="utf-8")

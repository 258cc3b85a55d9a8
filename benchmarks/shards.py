#!/usr/bin/env python3
"""Training on shards: memory from ten thousand images to a million, and the share of its time that a step waits.

    python benchmarks/shards.py --images 10000,100000,1000000 --window 16
    python benchmarks/shards.py --images 200000 --window 16 --latency 0.05 --rate 50e6
    python benchmarks/shards.py --images 100000 --shape 3,64,64 --window 128 --steps 500 --ranks 1,2,8

Synthetic grey 28x28 images are packed, and trained on in a process of its own: the model of vae-mnist, batches of 128,
Adam. The first window, which nothing can be done before, is told apart; then as many steps are timed as `--steps` says,
over the borders of windows. `peak` is the largest resident set of the process, `data` what of it came after the model
was built and trained on noise. `waiting` is the share of the steps' time in which their images were not there.

With `--ranks 1,2,8` one process trains its rows of the batch, as the first of so many would: the MiB that it has `read`
of the same windows, `data` and `waiting` are its own, and images/s those of the whole batch, if the others are as fast.

With `--latency` the shards are read from an HTTP server in a process of its own too, which begins to answer after so
many seconds, and sends `--rate` bytes a second in each answer.
"""

import json
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import common
from lowerbound.data.base import Data
from lowerbound.data.batches import Batches
from lowerbound.data.shards.pack import pack
from lowerbound.noise import Rows, key, of_rows, reseed, seeded
from lowerbound.runs import recipes
from lowerbound.space import Space
from lowerbound.testing.objects import Objects

BATCH = 128


def main() -> None:
    p = common.parser(__doc__)
    p.add_argument("--images", default="10000,100000", help="how many, with commas between")
    p.add_argument("--window", type=int, default=16, help="data.window, MiB")
    p.add_argument("--shard-size", type=float, default=64e6, help="bytes")
    p.add_argument("--shape", default="1,28,28", help="channels, height and width of an image")
    p.add_argument("--ranks", default="1", help="processes of which one is measured, with commas between")
    p.add_argument("--rank-of", type=int, default=1, help="used by the script itself")
    p.add_argument("--steps", type=int, default=1000)
    p.add_argument("--latency", type=float, help="seconds of each answer of a server")
    p.add_argument("--rate", type=float, default=100e6, help="bytes a second of each answer")
    p.add_argument("--side", nargs=2, metavar=("WHAT", "SOURCE"), help="used by the script itself")
    options = p.parse_args()
    if options.side:
        what, source = options.side
        (_serve if what == "serve" else _train)(source, options)
        return
    common.set_threads(options.threads)
    print(json.dumps(machine := common.machine(options.threads)))
    rows = []
    print("    images     from ranks     MiB  pack s   peak   data  first s    img/s waiting   read")
    for n in map(int, options.images.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            rows += _measured(Path(folder), n, options)
    if options.json:
        options.json.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1))


def _measured(folder: Path, n: int, options: Namespace) -> list[dict[str, Any]]:
    C, H, W = map(int, options.shape.split(","))
    x = np.lib.format.open_memmap(folder / "noise.npy", "w+", np.uint8, (n, H, W, C) if C > 1 else (n, H, W))
    noise = np.random.default_rng(0)
    for start in range(0, n, 10_000):
        x[start : start + 10_000] = noise.integers(0, 256, x[start : start + 10_000].shape, dtype=np.uint8)
    del x
    begun = time.perf_counter()
    pack(Data(source=str(folder / "noise.npy")), folder / "packed", int(options.shard_size))
    packing = time.perf_counter() - begun
    (folder / "noise.npy").unlink()
    places = {"folder": str(folder / "packed")}
    server = None
    if options.latency is not None:
        server = subprocess.Popen(_side("serve", str(folder), options), stdout=subprocess.PIPE, text=True)
        assert server.stdout is not None
        places["server"] = f"{server.stdout.readline().strip()}/packed"
    found = []
    try:
        for name, source, ranks in ((*place, r) for place in places.items() for r in options.ranks.split(",")):
            side = [*_side("train", source, options), "--rank-of", ranks]
            said = subprocess.run(side, check=True, stdout=subprocess.PIPE, text=True).stdout
            row = {"images": n, "from": name, "mib": n * C * H * W / 2**20, "packing": packing, **json.loads(said)}
            found.append(row)
            print(
                f"{n:>10,} {name:>8} {ranks:>5} {row['mib']:>7,.0f} {packing:>7.1f} {row['peak']:>6.0f} "
                f"{row['data']:>6.0f} {row['first']:>8.2f} {row['rate']:>8,.0f} {row['waiting']:.2%} "
                f"{row['read']:>6.0f}",
                flush=True,
            )
    finally:
        if server is not None:
            server.kill()
            server.wait()
    return found


def _side(what: str, source: str, options: Namespace) -> list[str]:
    words = [sys.executable, __file__, "--side", what, source, "--threads", str(options.threads)]
    words += [
        "--shape",
        options.shape,
        "--window",
        str(options.window),
        "--steps",
        str(options.steps),
        "--rate",
        str(options.rate),
    ]
    return words if options.latency is None else [*words, "--latency", str(options.latency)]


def _serve(folder: str, options: Namespace) -> None:
    with Objects(Path(folder), options.latency, options.rate) as objects:
        print(objects.url, flush=True)
        objects.thread.join()


def _train(source: str, options: Namespace) -> None:
    """Prints what was measured, as JSON."""
    torch.set_num_threads(options.threads)
    C, H, W = map(int, options.shape.split(","))
    model = recipes.load("vae-mnist", ()).model.build(Space((C, H, W), levels=2), ()).train()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)

    def step(x: torch.Tensor) -> None:
        optimizer.zero_grad()
        model.loss((x > 127).to(torch.uint8)).value.backward()
        optimizer.step()

    with seeded(0, "shards"):
        for i in range(20):
            step(torch.full((BATCH, C, H, W), i, dtype=torch.uint8))
        before = _peak()
        begun = time.perf_counter()
        batches = Batches(Data(source=source, window=options.window).open("train"), torch.device("cpu"))
        streamed, rows = batches.streamed, Rows.of(0, options.rank_of, BATCH)
        read = [] if streamed is None else _counted(streamed.x.reader)
        with of_rows(rows):
            batches.training(0, BATCH, 0)
            first = time.perf_counter() - begun
            waited = 0.0 if streamed is None else streamed.waited
            begun = time.perf_counter()
            for i in range(options.steps):
                reseed(key(0, "step", i))
                step(batches.training(i, BATCH, 0)[0])
            seconds = time.perf_counter() - begun
    for window in () if streamed is None else streamed.windows.values():
        window.x.result()  # so that all have read as far ahead
    said = {"peak": _peak(), "data": _peak() - before, "first": first, "rate": options.steps * BATCH / seconds}
    said["read"] = sum(read) / 2**20
    said["waiting"] = 0.0 if streamed is None else (streamed.waited - waited) / seconds
    said["windows"] = 0 if streamed is None else options.steps * BATCH * streamed.order.windows / len(batches)
    print(json.dumps(said))


def _counted(reader: Any) -> list[int]:
    """The bytes of every range that is read from now on."""
    read: list[int] = []
    ranges = reader.place.ranges

    def counted(wanted: Any) -> Any:
        read.extend(r.end - r.start for r in wanted)
        return ranges(wanted)

    reader.place.ranges = counted
    return read


def _peak() -> float:
    """The largest resident set so far, MiB. Linux alone says it."""
    (line,) = (l for l in Path("/proc/self/status").read_text().splitlines() if l.startswith("VmHWM"))
    return int(line.split()[1]) / 2**10


if __name__ == "__main__":
    main()

"""Worlds of real processes that run the command line, each forked from one that has imported everything."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist

SERVER = """
import json, os, signal, sys
import torch, torch._dynamo, torch.distributed, matplotlib.figure, matplotlib.backends.backend_agg
torch.set_num_threads(1)
signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background ignores it
from lowerbound import cli
from lowerbound.verbs import encode, evaluate, fit_prior, sample, train
print("ready", flush=True)
for line in sys.stdin:
    words, said, world = json.loads(line)
    pids = []
    for r, more in enumerate(world):
        pids.append(os.fork())
        if pids[-1] == 0:
            for number in (1, 2):
                os.dup2(os.open(f"{said}.{r}.{number}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
            os.environ.update(more)
            sys.argv = ["lowerbound", *words]
            cli.main()
            os._exit(0)
    print(json.dumps(pids), flush=True)
    found = {}
    while len(found) < len(pids):
        pid, status = os.wait()
        found[pid] = os.waitstatus_to_exitcode(status)
    print(json.dumps([found[pid] for pid in pids]), flush=True)
"""


class Worlds:
    """Begins worlds, one after another."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.stores: list[dist.Store] = []
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        assert self._line() == "ready"

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def start(self, n: int, *words: str | Path, **more: str) -> list[int]:
        """The processes of `lowerbound words`; more: of their environment."""
        world = [more]
        if n > 1:
            store = dist.TCPStore("127.0.0.1", 0, None, True, timeout=timedelta(seconds=60), wait_for_workers=False)
            self.stores.append(store)
            shared = {
                "WORLD_SIZE": str(n),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(store.port),
                "TORCHELASTIC_USE_AGENT_STORE": "True",
            }
            world = [{**shared, **more, "RANK": str(r), "LOCAL_RANK": str(r)} for r in range(n)]
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([[*map(str, words)], str(self.folder / "said"), world]) + "\n")
        self.process.stdin.flush()
        return json.loads(self._line())

    def statuses(self) -> list[int]:
        """Wait for the exit status of each, minus the signal for one that was killed."""
        return json.loads(self._line())

    def said(self, rank: int, number: int = 2) -> str:
        """What a process wrote on standard error, or output."""
        return Path(f"{self.folder / 'said'}.{rank}.{number}").read_text()

    def call(self, n: int, *words: str | Path, **more: str) -> None:
        self.start(n, *words, **more)
        statuses = self.statuses()
        assert statuses == [0] * n, [self.said(r) for r in range(n)]

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(60)
        self.process.stdout.close()


@contextmanager
def worlds(folder: Path) -> Iterator[Worlds]:
    running = Worlds(folder)
    try:
        yield running
    finally:
        running.close()


def records(run: Path) -> Sequence[dict[str, object]]:
    """The lines of a log, without what time decides."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("seconds", "images_per_second")} for line in lines]

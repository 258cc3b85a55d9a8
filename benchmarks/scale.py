"""How far a training scales: bytes that processes tell each other in a step, and what a step then takes.

    python benchmarks/scale.py              # vqvae2-imagenet256, from the parameters of its stages: docs/scale.md
    python benchmarks/scale.py --check      # the same sums of a small model, beside two processes that are measured
    python benchmarks/scale.py --shard      # bytes and memory of a prior's training in two processes, with train.shard

The time of an image on one GPU is measured (benchmarks/README.md); the rest is computed. Nothing of the communication
is hidden behind the backward pass here, so a step is their sum.
"""

import math
import multiprocessing as mp
import tempfile
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import FileStore, PrefixStore

from common import parser, set_threads
from lowerbound.models.autoregressive import Autoregressive
from lowerbound.models.vae import VAE
from lowerbound.networks.gated import GatedPixelCNN
from lowerbound.networks.mlp import MLP
from lowerbound.parallel import ALONE, World, sharing
from lowerbound.runs import recipes
from lowerbound.runs.recipes import Training
from lowerbound.space import Space
from lowerbound.training.movers import Movers

GPUS = (8, 16, 32, 64, 128, 256, 512, 1024)
BANDWIDTHS = {"450 GB/s (NVLink)": 450e9, "50 GB/s (InfiniBand 400)": 50e9, "12.5 GB/s": 12.5e9, "1.25 GB/s": 1.25e9}
LATENCY = 5e-6  # seconds of a hop
NUMBER = 4  # bytes of a gradient, and of a weight: float32
# ms of an image on an H200 in bfloat16: 2026-11-27, benchmarks/README.md; None: not measured
MEASURED = {"autoencoder": 37.31 / 128, "prior.top": 336.58 / 64, "prior.bottom": None}


class Volume(NamedTuple):
    """Bytes that each of n processes sends in a step, of P parameters."""

    parameters: int

    def summed(self, n: int) -> float:
        """By a ring's all-reduce of the gradients: Patarasuk & Yuan (2009), https://doi.org/10.1016/j.jpdc.2008.09.002."""
        return 2 * (n - 1) / n * NUMBER * self.parameters

    def sharded(self, n: int, apart: float = 1.0) -> float:
        """Of weights that are sharded (FSDP2): gathered, that share of them which is in blocks for both passes, and the
        gradients scattered."""
        return (2 + apart) * (n - 1) / n * NUMBER * self.parameters


def seconds(image: float, batch: int, volume: float, bandwidth: float, n: int) -> float:
    """Of a step of n processes that share a batch: the largest part of it, and what they tell each other."""
    return image * math.ceil(batch / n) + volume / bandwidth + 2 * math.ceil(math.log2(n)) * LATENCY


def stages() -> Iterator[tuple[str, int, int]]:
    """Of vqvae2-imagenet256, given 1,000 labels: name, parameters, batch."""
    recipe = recipes.load("vqvae2-imagenet256")
    model = recipe.model.build(Space((3, 256, 256), levels=256), (Space((), levels=1000, ordered=False),))
    for stage in model.stages():
        moved = {id(p): p.numel() for turn in stage.turns for part in turn.parts for p in part.parameters()}
        yield stage.name, sum(moved.values()), recipe.train.of(stage.name).batch


def computed() -> None:
    found = list(stages())
    print("| stage | parameters | batch | all-reduce, MB a GPU and step | FSDP2, MB |\n|---|---|---|---|---|")
    for name, parameters, batch in found:
        v = Volume(parameters)
        print(f"| {name} | {parameters:,} | {batch} | {v.summed(1024) / 1e6:,.0f} | {v.sharded(1024) / 1e6:,.0f} |")
    for name, parameters, batch in found:
        ms = MEASURED.get(name)
        if ms is None:
            print(f"\n{name}: not measured")
            continue
        for what, each in (("the recipe's batch", False), (f"{batch} images a GPU", True)):
            print(f"\n{name}, {what}: ms a step, and images/s over those of as many single GPUs")
            print(f"\n| GPUs | {' | '.join(BANDWIDTHS)} |\n|---|{'---|' * len(BANDWIDTHS)}")
            for n in GPUS:
                whole = batch * n if each else batch
                if whole < n:
                    continue
                row = [seconds(ms / 1e3, whole, Volume(parameters).summed(n), b, n) for b in BANDWIDTHS.values()]
                ideal = ms / 1e3 * whole / n
                print(f"| {n} | {' | '.join(f'{1e3 * t:.1f} ({ideal / t:.0%})' for t in row)} |")


# ---- two processes, measured

STEPS = 16


def _small() -> tuple[VAE, Space]:
    space = Space((1, 28, 28), levels=2)
    networks: Any = MLP.Config(hidden=(400, 400))
    return VAE.Config(latent=(32,), encoder=networks, decoder=networks).build(space), space


def _steps(world: World, batch: int, n: int = STEPS) -> list[float]:
    """Seconds of steps of a batch that the world shares."""
    torch.manual_seed(0)
    model, space = _small()
    model.train()
    movers = Movers(model, model.stages()[0], Training(steps=n, batch=batch), n, torch.device("cpu"), world=world)
    x, taken = torch.randint(2, (batch, *space.shape), dtype=torch.uint8), []
    for step in range(n):
        begun = time.perf_counter()
        with sharing(world, batch) as rows:
            movers.step([(x[rows.start : rows.stop], None)], step)
        taken.append(time.perf_counter() - begun)
    return taken[n // 4 :]


def _process(rank: int, folder: str, batch: int, found: Any) -> None:
    torch.set_num_threads(1)
    group = dist.ProcessGroupGloo(PrefixStore("cpu", FileStore(f"{folder}/store", 2)), rank, 2, timedelta(seconds=60))
    world, parameters = World(rank, 2, {"cpu": group}), sum(p.numel() for p in _small()[0].parameters())
    alone, sums = [], []
    for _ in range(3):  # both at work at once, so that they share the machine alike
        world.meet()
        alone += _steps(ALONE, batch // 2)
        world.meet()
        for _ in range(STEPS):
            begun = time.perf_counter()
            world.sum_(torch.zeros(parameters))
            sums.append(time.perf_counter() - begun)
    world.told_bytes = 0
    together = _steps(world, batch)
    if rank == 0:
        found.put((parameters, world.told_bytes / STEPS, median(alone), median(sums), median(together)))


def checked(batch: int = 256) -> dict[str, float]:
    """What two processes of this machine take, and what is computed of their parts."""
    context = mp.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        found = context.Queue()
        workers = [context.Process(target=_process, args=(r, str(Path(folder)), batch, found)) for r in range(2)]
        for worker in workers:
            worker.start()
        parameters, told, alone, sums, together = found.get(timeout=300)
        for worker in workers:
            worker.join()
    return {
        "parameters": parameters,
        "bytes told in a step, measured": told,
        "bytes of the gradients, computed": Volume(parameters).summed(2),
        "ms of a step of half the batch alone": 1e3 * alone,
        "ms of adding up as many numbers": 1e3 * sums,
        "ms of a step, computed": 1e3 * (alone + sums),
        "ms of a step, measured": 1e3 * together,
    }


# ---- weights that two processes share out


def _prior(width: int = 256, layers: int = 10) -> Autoregressive:
    network = GatedPixelCNN.Config(width=width, layers=layers, out_width=width)
    return Autoregressive.Config(network=network, context=4).build(Space((1, 8, 8), levels=256, ordered=False))


def _resident(what: str) -> int:
    """Bytes of this process: VmRSS, those it has; VmHWM, the most that it has had."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what)]
    return 1024 * int(line.split()[1])


def _looped() -> int:
    """Bytes that the processes of this machine have sent to each other."""
    (line,) = [line for line in Path("/proc/net/dev").read_text().splitlines() if line.strip().startswith("lo:")]
    return int(line.split()[9])


def _shared_steps(world: World, model: Autoregressive, *, shard: bool, n: int) -> tuple[Movers, float, float, float]:
    """What moved the weights in 1 + n steps; of one, bytes counted and sent by a process, and seconds."""
    config = Training(steps=1 + n, batch=8, shard=shard)
    movers = Movers(model.train(), model.stages()[0], config, 1 + n, torch.device("cpu"), world=world)
    x, taken, told, sent = torch.randint(256, (8, 1, 8, 8)), [], 0.0, 0
    for step in range(1 + n):
        if step == 1:  # what is begun once is begun by now
            world.meet()
            told, sent = world.told_bytes, _looped()
        begun = time.perf_counter()
        with sharing(world, 8) as rows:
            movers.step([(x[rows.start : rows.stop], None)], step)
        taken.append(time.perf_counter() - begun)
    world.meet()
    return movers, (world.told_bytes - told) / n, (_looped() - sent) / n / 2, median(taken[1:])


def _sharing(rank: int, folder: str, shard: bool, found: Any) -> None:
    torch.set_num_threads(1)
    store = FileStore(f"{folder}/store", 2)
    group = dist.ProcessGroupGloo(PrefixStore("cpu", store), rank, 2, timedelta(seconds=300))
    world = World(rank, 2, {"cpu": group}, store)
    _shared_steps(world, _prior(8, 1), shard=True, n=1)  # what is imported and begun once
    before = _resident("VmRSS")
    model = _prior()
    parameters = sum(p.numel() for p in model.parameters())
    apart = sum(p.numel() for block in model.network.apart for p in block.parameters()) / parameters
    movers, told, sent, taken = _shared_steps(world, model, shard=shard, n=3)
    kept = [*movers.average, *(p.detach() for p in movers.each[0].parameters)]
    kept += [t for state in movers.each[0].optimizer.state.values() for t in state.values()]
    kept += [p.grad for p in movers.each[0].parameters if p.grad is not None]
    size, volume = sum(t.numel() * t.element_size() for t in kept), Volume(parameters)
    if rank == 0:
        found.put(
            {
                "parameters": parameters,
                "MB a step, computed": (volume.sharded(2, apart) if shard else volume.summed(2)) / 1e6,
                "MB a step, counted": told / 1e6,
                "MB a step, through the loopback": sent / 1e6,
                "MB of weights, gradients, average and optimizer": size / 1e6,
                "MB of the process more than before": (_resident("VmRSS") - before) / 1e6,
                "the same at most": (_resident("VmHWM") - before) / 1e6,
                "ms of a step": 1e3 * taken,
            }
        )
    world.meet()


def shared(shard: bool) -> dict[str, float]:
    """What a process of two sends, and what it keeps."""
    context = mp.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        found = context.Queue()
        workers = [context.Process(target=_sharing, args=(r, folder, shard, found)) for r in range(2)]
        for worker in workers:
            worker.start()
        values = found.get(timeout=300)
        for worker in workers:
            worker.join()
    return values


def main() -> None:
    p = parser(__doc__)
    p.add_argument("--shard", action="store_true", help="measure two processes that share weights out, or do not")
    p.add_argument("--check", action="store_true", help="measure two processes of a small model")
    options = p.parse_args()
    if options.shard:
        for shard in (False, True):
            for name, value in shared(shard).items():
                print(f"train.shard={str(shard).lower()}, {name}: {value:,.1f}")
        return
    if not options.check:
        computed()
        return
    set_threads(1)
    for name, value in checked().items():
        print(f"{name}: {value:,.1f}")


if __name__ == "__main__":
    main()

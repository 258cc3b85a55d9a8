#!/usr/bin/env python3
"""One accelerator: images/s of training by precision and graph, share of the card's peak, and seconds per 64 samples.

    scripts/gpu --seconds 200 --out gpu.jsonl      # on a machine with a GPU; the most telling rows come first
    scripts/gpu --smoke                            # the same code on a CPU, at small sizes: its numbers mean nothing
    python benchmarks/gpu.py --table gpu.jsonl     # the rows as a table

The recipes as they are, on random images that lie on the device: what a training does in a step (loss, backward,
clipping, skipping, optimizer, average of the weights), without reading files, logging and validation. Each row is the
median of rounds of steps after those in which the graph is captured. FLOPs are counted by torch.utils.flop_counter over
one step's loss and its gradient, and divided by the seconds of a product of two bfloat16 matrices of 8192x8192 measured
in the same run. Rows are written as they come, so a run that is cut off leaves what it has.
"""

import argparse
import json
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import lru_cache
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from lowerbound.model import Draw, Model
from lowerbound.noise import key, reseed, seeded
from lowerbound.runs import recipes
from lowerbound.runs.recipes import Training
from lowerbound.space import Space
from lowerbound.stages import Pair, Size, Stage
from lowerbound.training.movers import Movers

EAGER, GRAPH, COMPILED = {}, {"graph": True}, {"graph": True, "compile": True}
FLOAT32, TF32, BFLOAT16 = ({"precision": p} for p in ("float32", "tf32", "bfloat16"))
Ways = tuple[dict[str, Any], ...]


class Subject(NamedTuple):
    recipe: str
    shape: tuple[int, int, int]
    levels: int
    ways: Ways
    stage: str = ""  # the first
    labels: int = 0
    sample: Draw | None = None  # how 64 samples are drawn
    batch: int = 0  # the recipe's


IMAGENET = ("vqvae2-imagenet256", (3, 256, 256), 256)
BOTH: Ways = (FLOAT32 | EAGER, FLOAT32 | GRAPH, BFLOAT16 | GRAPH)
WIDE: Ways = (FLOAT32 | EAGER, TF32 | EAGER, BFLOAT16 | EAGER, BFLOAT16 | GRAPH)
SUBJECTS = (
    Subject("vae-mnist", (1, 28, 28), 2, BOTH, sample=Draw()),
    Subject(*IMAGENET, WIDE, labels=1000),
    Subject(*IMAGENET, (BFLOAT16 | EAGER,), stage="prior.top", labels=1000),
    Subject("hvae-cifar10-small", (3, 32, 32), 256, BOTH, sample=Draw()),
    Subject("pixelcnn-mnist-large", (1, 28, 28), 2, BOTH, sample=Draw()),
    Subject("vae-cifar10", (3, 32, 32), 256, BOTH, sample=Draw()),
    Subject("vdm-cifar10", (3, 32, 32), 256, (FLOAT32 | EAGER, BFLOAT16 | GRAPH), sample=Draw(steps=100)),
    Subject("pixelcnnpp-cifar10", (3, 32, 32), 256, (FLOAT32 | EAGER, BFLOAT16 | GRAPH)),
    Subject("vdvae-cifar10", (3, 32, 32), 256, (FLOAT32 | EAGER, BFLOAT16 | EAGER), sample=Draw()),
    Subject("hvae-mnist", (1, 28, 28), 2, BOTH),
    Subject(*IMAGENET, (BFLOAT16 | COMPILED,), labels=1000),
    Subject(*IMAGENET, (BFLOAT16 | EAGER,), stage="prior.bottom", labels=1000),
    Subject("vae-mnist", (1, 28, 28), 2, (FLOAT32 | COMPILED,)),
)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--seconds", type=float, default=600, help="begin no row after so many")
    p.add_argument("--row", type=float, default=1.0, help="seconds of timed steps in a row")
    p.add_argument("--only", nargs="*", help="these recipes")
    p.add_argument("--out", type=Path, default=Path("gpu.jsonl"))
    p.add_argument("--smoke", action="store_true", help="on a CPU too, at small sizes")
    p.add_argument("--table", type=Path, help="show the rows of a file, and measure nothing")
    options = p.parse_args()
    if options.table:
        return print(table([json.loads(line) for line in options.table.read_text().splitlines()]))
    if not (torch.cuda.is_available() or options.smoke):
        sys.exit("no GPU here: run it on a machine with one, or with --smoke on a CPU")
    rows = [*written(measured(options), options.out)]
    print(table(rows))


def measured(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    began, peak = time.perf_counter(), peak_of(device)
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else "a CPU: a smoke run"
    yield {"card": card, "torch": torch.__version__, "peak": peak}
    for subject in SUBJECTS:
        if options.only and subject.recipe not in options.only:
            continue
        for row in rows_of(small(subject) if options.smoke else subject, device, options):
            yield row | {"peak": peak}
            if time.perf_counter() - began > options.seconds:
                return


def written(rows: Iterator[dict[str, Any]], path: Path) -> Iterator[dict[str, Any]]:
    with path.open("w") as file:
        for row in rows:
            print(json.dumps(row), file=file, flush=True)
            print(json.dumps(row), flush=True)
            yield row


# ---- a recipe


def small(subject: Subject) -> Subject:
    """For a smoke run: two images, and those of 256x256 a quarter as large."""
    side = min(64, subject.shape[1])
    draw = subject.sample and Draw(steps=2 if subject.sample.steps else None)
    return subject._replace(shape=(subject.shape[0], side, side), batch=2, sample=draw)


def rows_of(subject: Subject, device: torch.device, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    with seeded(0, "gpu", quick=True):
        recipe, space = recipes.load(subject.recipe), Space(subject.shape, levels=subject.levels)
        model = built(subject.recipe, space, subject.labels, device)
        stage = next(s for s in model.stages() if s.name == subject.stage or not subject.stage)
        trained: Model = stage.model or model  # pyright: ignore[reportAssignmentType]
        config = recipe.train.of(stage.name)
        batch = subject.batch or config.batch
        stage.sized(Size(50_000, batch, 1000))
        with torch.no_grad():
            batches = [batch_of(stage, space, batch, subject.labels, device) for _ in range(stage.batches)]
            if stage.begin is not None:
                stage.begin([x for x, _ in batches])
        facts: dict[str, Any] = {"recipe": subject.recipe, "stage": stage.name, "batch": batch}
        facts["parameters"] = sum(w.numel() for w in trained.parameters())
        trained.train()
        flops = counted(stage, batches[0])
        if FLOAT32 | GRAPH in subject.ways:
            try:
                yield facts | {"difference": apart(model, subject, batches, device)}
            except RuntimeError as e:
                yield facts | {"difference": float("nan"), "said": [said_of(e)]}
        for way in subject.ways:
            try:
                found: dict[str, Any] = timed(trained, stage, config.model_copy(update=way), batches, device, options)
            except RuntimeError as e:  # out of memory, say
                found = {"said": [said_of(e)]}
            images = batch * (stage.batches if len(stage.turns) == 1 else 1)
            rate = images / found["seconds"] if "seconds" in found else None
            yield facts | way | found | {"images_per_second": rate, "flops_per_image": flops / batch}
        if subject.sample is not None and trained is model:
            model.eval()
            seconds = sampled(model, subject, device)
            yield facts | {"samples": 64 if not options.smoke else 2, "seconds": seconds, **way}


def said_of(e: Exception) -> str:
    traceback.print_exc()
    return str(e).splitlines()[0][:200] if str(e) else type(e).__name__


@lru_cache(maxsize=1)  # stages of one model follow one another
def built(recipe: str, space: Space, labels: int, device: torch.device) -> Model:
    given = (Space((), levels=labels, ordered=False),) if labels else ()
    return recipes.load(recipe).model.build(space, given).to(device)


def batch_of(stage: Stage, space: Space, n: int, labels: int, device: torch.device) -> Pair:
    """Random images and labels; where a stage is trained on something else, random events of that kind."""
    y = torch.randint(labels, (n,), device=device) if labels else None
    if stage.prepare is None:
        return torch.randint(space.levels or 2, (n, *space.shape), device=device).to(torch.uint8), y
    parts = [torch.randint(s.levels or 2, (n, *s.shape), device=device) for s in stage.prepare.spaces]
    return stage.prepare.given(tuple(parts), y)


# ---- time


def timed(
    trained: Model,
    stage: Stage,
    config: Training,
    batches: list[Pair],
    device: torch.device,
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Seconds of a step: the median of rounds. said: why there is no graph, if it was asked for."""
    said: list[str] = []
    movers, numbers, once = Movers(trained, stage, config, 1000, device, said.append), count(), options.smoke
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)

    def steps(n: int) -> float:
        wait(device)
        began = time.perf_counter()
        for _ in range(n):
            step = next(numbers)
            reseed(key(0, "step", step))
            movers.step(batches, step)
        wait(device)
        return (time.perf_counter() - began) / n

    began = time.perf_counter()
    steps(1 if once else 6)
    warm = time.perf_counter() - began
    each = steps(1 if once else 2)
    rounds = [steps(1 if once else max(1, int(options.row / 5 / each))) for _ in range(1 if once else 5)]
    memory = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None
    return {"seconds": median(rounds), "first_steps": warm, "memory_GiB": memory, "said": said}


def apart(model: Model, subject: Subject, batches: list[Pair], device: torch.device, steps: int = 12) -> float:
    """The largest difference of a weight after so many steps with a graph and without."""
    weights = []
    for way in (EAGER, GRAPH):
        copied = deepcopy(model).train()
        stage = copied.stages()[0]
        stage.sized(Size(50_000, len(batches[0][0]), 1000))
        config = recipes.load(subject.recipe).train.of(stage.name).model_copy(update=way)
        movers = Movers(copied, stage, config, 1000, device)
        for step in range(steps):
            reseed(key(0, "step", step))
            movers.step(batches, step)
        weights.append([w.detach() for w in copied.parameters()])
    return max(float((a - b).abs().max()) for a, b in zip(*weights, strict=True))


def sampled(model: Model, subject: Subject, device: torch.device) -> float:
    n = subject.batch or 64
    y = torch.randint(subject.labels, (n,), device=device) if subject.labels else None
    taken = []
    for _ in range(2):
        wait(device)
        began = time.perf_counter()
        model.draw(n, y, subject.sample or Draw())
        wait(device)
        taken.append(time.perf_counter() - began)
    return min(taken)


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def counted(stage: Stage, batch: Pair) -> float:
    """FLOPs of the losses of a step and their gradients."""
    counter = FlopCounterMode(display=False)
    with counter:
        for turn in stage.turns:
            turn.loss(*batch, 0).value.backward()
    return float(counter.get_total_flops())


def peak_of(device: torch.device) -> float:
    """FLOP/s of a product of bfloat16 matrices."""
    n, dtype = (8192, torch.bfloat16) if device.type == "cuda" else (256, torch.float32)
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    taken = [seconds_of(lambda: a @ b, device) for _ in range(8)][3:]
    return 2 * n**3 / median(taken)


def seconds_of(run: Callable[[], Tensor], device: torch.device, times: int = 10) -> float:
    wait(device)
    began = time.perf_counter()
    for _ in range(times):
        run()
    wait(device)
    return (time.perf_counter() - began) / times


# ---- the table


def table(rows: list[dict[str, Any]]) -> str:
    head, *rows = rows
    lines = [
        f"{head['card']}, torch {head['torch']}; a product of matrices in bfloat16: {head['peak'] / 1e12:.0f} TFLOP/s",
        "",
        "| recipe, stage | batch | how | images/s | ms a step | share of the peak | GiB | |",
        "| --- | ---: | --- | ---: | ---: | ---: | ---: | --- |",
    ]
    for row in rows:
        name = row["recipe"] + (f", {row['stage']}" if row["stage"] not in ("", "model") else "")
        if "difference" in row:
            lines.append(
                f"| {name} | {row['batch']} | with and without graph | | | | | {row['difference']:.2g} apart |"
            )
            continue
        if "samples" in row:
            lines.append(f"| {name} | {row['samples']} | samples | | {1000 * row['seconds']:.0f} in all | | | |")
            continue
        how = row["precision"] + ", graph" * row.get("graph", False) + ", compiled" * row.get("compile", False)
        said = "; ".join(row["said"])
        if "seconds" not in row:
            lines.append(f"| {name} | {row['batch']} | {how} | | | | | {said} |")
            continue
        rate = row["images_per_second"]
        share, memory = rate * row["flops_per_image"] / head["peak"], row["memory_GiB"] or 0
        ms = 1000 * row["seconds"]
        lines.append(
            f"| {name} | {row['batch']} | {how} | {rate:,.0f} | {ms:.2f} | {share:.1%} | {memory:.1f} | {said} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()

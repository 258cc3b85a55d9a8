"""`train --dry-run`: what a training will cost, from its first steps on the real data, without a run folder."""

import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from lowerbound import recipes
from lowerbound.data.batches import Batches
from lowerbound.optimization import Guard
from lowerbound.progress import Progress
from lowerbound.run import Facts
from lowerbound.train import pick_device


def run(
    recipe: str | Path, *, data: str | None, changes: list[str], device: str = "auto", progress: Progress | None = None
) -> dict[str, Any]:
    """Parameters, memory, counted FLOPs of a step (forward and backward), steps, and the time expected for them."""
    config = recipes.load(recipe, changes)
    config = config if data is None else recipes.override(config, {"data": {"source": data}})
    where = pick_device(device)
    images = config.data.open("train", progress=(progress or Progress()).count("decoding"))
    facts = Facts.of(images, config)
    model = config.model.build(facts.space, facts.given(config)).to(where)
    batches = Batches(images, where, binarize=facts.binarizes, label=config.data.label)
    optimizer = config.train.optimizer.build(model.parameters())
    guard = Guard(optimizer, config.train.clip, config.train.skip, where)
    parameters = list(model.parameters())

    def step(i: int) -> None:
        x, y = batches.training(i, config.train.batch, config.seed)
        loss = model.loss(x, y, i).value
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        guard.step(parameters)
        if where.type == "cuda":
            torch.cuda.synchronize(where)

    with FlopCounterMode(display=False) as counter:
        step(0)
    seconds = []
    for i in range(1, 8):
        start = time.perf_counter()
        step(i)
        seconds.append(time.perf_counter() - start)
    steps = config.train.total_steps(len(images))
    count = sum(p.numel() for p in parameters)
    copies = 4 + (config.train.averaging is not None)  # weights, gradients, two moments, the average
    return {
        "recipe": str(recipe),
        "data": f"{facts.name}, {facts.images} images of {list(facts.shape)}",
        "parameters": count,
        "memory of weights and optimizer, MB": round(count * 4 * copies / 1e6, 1),
        "memory of a batch's activations, MB": round(_activations(model, batches, config.train.batch) / 1e6, 1),
        "GFLOP per step": round(counter.get_total_flops() / 1e9, 3),
        "steps": steps,
        "epochs": round(steps * config.train.batch / len(images), 2),
        "images per second": round(config.train.batch / median(seconds)),
        "expected minutes": round(steps * median(seconds) / 60, 2),
    }


def _activations(model: torch.nn.Module, batches: Batches, size: int) -> int:
    """Bytes that the backward pass keeps of a batch."""
    kept: dict[int, int] = {}

    def pack(t: torch.Tensor) -> torch.Tensor:
        kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        x, y = batches.training(0, size, 0)
        held = model.loss(x, y, 0)  # pyright: ignore[reportCallIssue]  # noqa: F841
    return sum(size for pointer, size in kept.items() if pointer not in weights)

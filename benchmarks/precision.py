#!/usr/bin/env python3
"""Training in half precision (`train.precision=bfloat16`) against float32: images/s of the same recipes.

    python benchmarks/precision.py                               # on the processor
    python benchmarks/precision.py --device cuda --recipes vae-cifar10 vqvae2-lfw

A step is what the training loop does in the recipe's first stage, on its real data: loss, backward, clipping, skipping,
the optimizer, the codebooks' move. Each side is a process of its own, in turn with the other.
"""

import time
from argparse import Namespace
from collections.abc import Callable
from typing import Any

import common
from common import Side, Spread

RECIPES = ("vqvae2-lfw", "vae-cifar10", "pixelcnn-mnist", "vae-mnist")
PRECISIONS = ("bfloat16", "float32")


def main() -> None:
    p = common.parser(__doc__)
    p.add_argument("--recipes", nargs="*", default=RECIPES)
    p.add_argument("--device", default="cpu")
    p.add_argument("--rounds", type=int, default=9)
    p.add_argument("--seconds", type=float, default=2.0, help="of each side in each round")
    options = p.parse_args()
    common.set_threads(options.threads)
    about, figures = common.machine(options.threads), {}
    for recipe in options.recipes:
        figures[recipe] = compared(recipe, options)
        common.show(f"{recipe}, on {options.device}", list(figures[recipe].items()))
    common.finish(options, about, figures)


def compared(recipe: str, options: Namespace) -> dict[str, Any]:
    sides = {
        precision: Side(steps, recipe, precision, options.device, options.threads, options.seconds)
        for precision in PRECISIONS
    }
    _, taken = common.in_turn(sides, options.rounds)
    rates = {f"{precision}, images/s": Spread.of(rounds) for precision, rounds in taken.items()}
    return rates | {"bfloat16 / float32": common.ratios(taken["bfloat16"], taken["float32"])}


def steps(take: Callable, recipe: str, precision: str, device: str, threads: int, seconds: float) -> None:
    """A side: images/s of training steps."""
    import torch

    from lowerbound.data.batches import Batches
    from lowerbound.devices import check_precision, pick_device, reduced
    from lowerbound.optimization import Guard
    from lowerbound.processes import keep_freed
    from lowerbound.runs import recipes
    from lowerbound.runs.facts import Facts

    torch.set_num_threads(threads)
    keep_freed()
    where, loaded = pick_device(device), recipes.load(recipe, [f"train.precision={precision}"])
    images = loaded.data.open("train")
    facts = Facts.of(images, loaded)
    model = loaded.model.build(facts.space, facts.given(loaded)).to(where).train()
    batches = Batches(images, where, binarize=facts.binarizes, label=loaded.data.label, flip=loaded.data.flip)
    (turn,) = model.stages()[0].turns
    config = loaded.train.of(model.stages()[0].name)
    check_precision(config.precision, where)
    parameters = [p for part in turn.parts for p in part.parameters()]
    guard = Guard(config.optimizer.build(parameters), config.clip, config.skip, where)

    def step(i: int) -> None:
        x, y = batches.training(i, config.batch, loaded.seed)
        with reduced(config.precision):
            value = turn.loss(x, y, i).value
        for p in parameters:
            p.grad = None
        value.backward()
        guard.step(parameters)
        model.after_step()

    def wait() -> None:
        if where.type == "cuda":
            torch.cuda.synchronize(where)

    step(0)
    step(1)
    wait()
    take(None)
    done = 2
    while True:
        begun, before = time.perf_counter(), done
        while time.perf_counter() - begun < seconds:
            step(done)
            wait()
            done += 1
        take((done - before) * config.batch / (time.perf_counter() - begun))


if __name__ == "__main__":
    main()

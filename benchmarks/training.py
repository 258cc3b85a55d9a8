#!/usr/bin/env python3
"""Training images per second, and the share of the machine's matmul peak that the counted FLOPs make up.

    python benchmarks/training.py                 # a 784-512-20-512-784 VAE, against pythae 0.1.2
    python benchmarks/training.py --model conv    # the vae-cifar10 recipe's model, against a 3x3 convolution

--model mlp: MNIST, its 60,000 training images, ReLU, Bernoulli cross-entropy, Adam with rate 1e-3, batch 128, on both
sides. With --data mnist both take the cross-entropy with grey values, with mnist-binarized both see the same binary
images; neither draws new binary pixels. Every side is one training in a process of its own; a round is one epoch of
each, the first epoch is warm-up, and the machine's peak is measured in every round.

lowerbound is its own training loop as `train` ships it: averaged weights, clipping, skipping, the terms of the log and
the check that they are finite at every step, log lines, saved states. Only validation is left out, which comes 20 times
in a training however long that is, and pictures with it. pythae is its TrainingPipeline with its default networks and
without validation: the time of an epoch, from the shuffling of its DataLoader to the copy it keeps of the best model;
its progress bars and lines are off.
"""

import contextlib
import logging
import os
import tempfile
import threading
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import common
from common import Side, Spread
from lowerbound.progress import Progress

Clock = Callable[[], float]  # seconds
MLP = {
    "model": {
        "type": "models.vae.VAE",
        "latent": 20,
        "likelihood": {"type": "families.Bernoulli"},
        "encoder": {"type": "networks.mlp.MLP", "hidden": [512], "activation": "relu"},
        "decoder": {"type": "networks.mlp.MLP", "hidden": [512], "activation": "relu"},
    },
    "train": {"batch": 128, "optimizer": {"type": "optimization.Adam", "lr": 1e-3}},
}


def main() -> None:
    p = common.parser(__doc__)
    p.add_argument("--model", choices=["mlp", "conv"], default="mlp")
    p.add_argument("--data", default=None, help="mnist (grey, the default) or mnist-binarized; conv: cifar10")
    p.add_argument("--rounds", type=int, default=7)
    p.add_argument("--images", type=int, default=None, help="in an epoch, at most; by default all, conv: 6,400")
    p.add_argument("--no-peer", action="store_true", help="without pythae")
    p.add_argument("--peer-workers", type=int, default=0, help="of pythae's DataLoader; 0 is its default")
    p.add_argument("--limit-seconds", type=float, default=0.25, help="of each matmul in each round")
    options = p.parse_args()
    conv = options.model == "conv"
    options.data = options.data or ("cifar10" if conv else "mnist")
    options.images = options.images or (6400 if conv else 60_000)
    common.set_threads(options.threads)

    about = common.machine(options.threads)
    sides = {"lowerbound": Side(lowerbound, vars(options))}
    if not (conv or options.no_peer):
        sides["pythae"] = Side(pythae, vars(options))
    sides["limits"] = Side(common.limits, options.threads, "conv" if conv else "matmul", options.limit_seconds)
    said, taken = common.in_turn(sides, options.rounds)
    report(options, about, said, taken)


def report(options: Namespace, about: dict[str, Any], said: dict[str, Any], taken: dict[str, list[Any]]) -> None:
    found = common.spreads(taken.pop("limits"))
    peak = common.peak(found)
    figures: dict[str, Any] = {"limits, GFLOP/s": found, "matmul peak, GFLOP/s": peak}
    common.show("limits, GFLOP/s (fp32)", [*found.items(), ("matmul peak, best of medians", peak)])
    for name, rounds in taken.items():
        rate, flops = Spread.of(rounds), said[name]["flops_per_image"]
        share = rate.median * flops / 1e9 / peak
        rows: list[tuple[str, Any]] = [
            ("images/s", rate),
            ("counted MFLOP/image", flops / 1e6),
            ("GFLOP/s", rate.median * flops / 1e9),
            ("share of the matmul peak", share),
        ]
        if options.model == "conv":
            best = common.peak(found, "conv")
            rows.append(("share of the best 3x3 convolution", rate.median * flops / 1e9 / best))
        common.show(f"{name}: {said[name]['about']}", rows)
        figures[name] = {"about": said[name], **dict(rows)}
    if "pythae" in taken:
        ratio = common.ratios(taken["lowerbound"], taken["pythae"])
        common.show("lowerbound / pythae, images/s", [("ratio in the same round", ratio)])
        figures["lowerbound / pythae"] = ratio
    common.finish(options, about, figures)


# ---- lowerbound, by its own loop


def lowerbound(take: Callable, options: dict[str, Any]) -> None:
    """A side: a whole training that waits after each epoch."""
    import torch

    from lowerbound.config import parse
    from lowerbound.runs import recipes
    from lowerbound.runs.recipes import Recipe

    torch.set_num_threads(options["threads"])
    if options["model"] == "conv":
        recipe = recipes.load("vae-cifar10", {"data": {"source": options["data"]}})
    else:
        recipe = parse(Recipe, MLP | {"data": {"source": options["data"], "binarize": False}})
    images = whole_training_split(recipe, options["images"])
    trained(take, recipe, images, options["rounds"], len(images) // recipe.train.batch)


def trained(
    take: Callable, recipe: Any, images: Any, rounds: int, epoch: int, clock: Clock = time.perf_counter
) -> None:
    """Hands over the images/s of each epoch, of so many steps; the first is warm-up."""
    import torch

    from lowerbound.data.batches import Batches
    from lowerbound.noise import seeded
    from lowerbound.runs import recipes
    from lowerbound.runs.facts import Facts
    from lowerbound.runs.run import Run
    from lowerbound.training.loop import Loop

    batch, valid = recipe.train.batch, recipe.data.open("valid")
    steps = (rounds + 1) * epoch
    recipe = recipes.override(recipe, {"train": {"steps": steps, "epochs": None, "valid_every": steps}})
    facts = Facts.of(images, recipe)
    device = torch.device("cpu")
    with seeded(recipe.seed, "weights"):
        model = recipe.model.build(facts.space)
    with tempfile.TemporaryDirectory() as folder:
        run = Run.create(Path(folder) / "run", "benchmark", recipe, facts)
        batches = Batches(images, device, flip=recipe.data.flip), Batches(valid, device)
        x, _ = batches[0].training(0, batch, 0)
        counted = flops(lambda: model.loss(x).value.backward()) / batch
        weights = sum(p.numel() for p in model.parameters())
        said = {"flops_per_image": counted, "about": f"{len(images):,} images, batch {batch}", "parameters": weights}
        timed = Epochs(take, epoch, epoch * batch, said, clock)
        Loop(run, model, model.stages()[0], batches, timed, threading.Event()).run_through()


def whole_training_split(recipe: Any, at_most: int) -> Any:
    """What is published as the training images: `valid` was cut out of them."""
    import numpy as np

    train, valid = recipe.data.open("train"), recipe.data.open("valid")
    x = np.concatenate([train.x, valid.x])[:at_most]
    return replace(train, x=x, y=None, classes=None, paths=None, factors=None)


class Epochs(Progress):
    """Where a training reports its progress: takes the time of each epoch; the training never gets beyond the last."""

    def __init__(self, take: Callable, epoch: int, images: int, said: dict[str, Any], clock: Clock):
        self.take, self.epoch, self.images, self.said, self.clock = take, epoch, images, said, clock

    @contextlib.contextmanager
    def bar(self, total: int, start: int = 0) -> Iterator[Callable]:
        self.begun = self.clock()
        yield self.tell

    def tell(self, step: int, terms: Mapping[str, float]) -> None:
        """Told after every step and its line of the log; waits at the end of an epoch."""
        if step % self.epoch == 0:
            rate = self.images / (self.clock() - self.begun)
            self.take(self.said if step == self.epoch else rate)
            self.begun = self.clock()


# ---- pythae, by its pipeline


def pythae(take: Callable, options: dict[str, Any]) -> None:
    """A side: a whole training that waits after each epoch."""
    os.environ["TQDM_DISABLE"] = "1"
    import torch
    from pythae.models import VAE, VAEConfig  # type: ignore[import-untyped]
    from pythae.pipelines import TrainingPipeline  # type: ignore[import-untyped]
    from pythae.trainers import BaseTrainerConfig  # type: ignore[import-untyped]
    from pythae.trainers.training_callbacks import TrainingCallback  # type: ignore[import-untyped]

    from lowerbound.config import parse
    from lowerbound.runs.recipes import Recipe

    logging.disable(logging.CRITICAL)
    torch.set_num_threads(options["threads"])
    recipe = parse(Recipe, MLP | {"data": {"source": options["data"], "binarize": False}})
    images = whole_training_split(recipe, options["images"])
    x = torch.from_numpy(images.x).float() / (images.levels - 1)
    torch.manual_seed(0)
    model = VAE(VAEConfig(input_dim=images.shape, latent_dim=20, reconstruction_loss="bce"))  # 784-512-20-512-784
    batch = recipe.train.batch
    counted = flops(lambda: model({"data": x[:batch]}).loss.backward()) / batch
    said = {"flops_per_image": counted, "about": f"{len(x):,} images, batch {batch}, workers {options['peer_workers']}"}

    class Clock(TrainingCallback):
        def __init__(self) -> None:
            self.first = True

        def on_epoch_begin(self, training_config: Any, **_: Any) -> None:
            self.begun = time.perf_counter()

        def on_epoch_end(self, training_config: Any, **_: Any) -> None:
            rate = len(x) / (time.perf_counter() - self.begun)
            take(said if self.first else rate)
            self.first = False

    with tempfile.TemporaryDirectory() as folder:
        training = BaseTrainerConfig(
            output_dir=folder,
            num_epochs=options["rounds"] + 1,
            per_device_train_batch_size=batch,
            learning_rate=recipe.train.optimizer.lr,
            train_dataloader_num_workers=options["peer_workers"],
            no_cuda=True,
        )
        TrainingPipeline(model=model, training_config=training)(train_data=x, callbacks=[Clock()])


def flops(step: Callable[[], Any]) -> int:
    """Of the products and convolutions of a training step, forward and backward."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


if __name__ == "__main__":
    main()

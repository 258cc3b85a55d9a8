#!/usr/bin/env python3
"""Diffusion: training and sampling against the library diffusers, and what a sampler's steps cost and bring.

    pip install -e '.[bench]'
    python benchmarks/diffusion.py train              # images/s, against diffusers
    python benchmarks/diffusion.py sample             # seconds for 64 images, against diffusers
    python benchmarks/diffusion.py steps runs/diffusion-mnist    # seconds and quality by sampler and steps, a picture

train, sample: the U-net of the recipe diffusion-mnist without its Fourier features, and `UNet2DModel` of the same
widths, blocks, groups, width of the time and attention, which has the same number of weights; MNIST, batch 32. Sides
are processes, in turn. lowerbound is its own training loop as `train` ships it: averaged weights, clipping, skipping,
the terms of the bound, log lines. diffusers has no training loop in the package; this one does what its example for
unconditional images does at a step: noise, squared error, clipping, AdamW, the rate's schedule, averaged weights.
Sampling is DDIM, as `lowerbound sample` and by `DDIMPipeline`, of weights that are new. Memory that is freed is kept on
both sides (`processes.keep_freed`), as lowerbound does. Where others are at work on the machine, `--core` counts the
seconds of the processor that a side took, and not those that passed.

steps: all samples come from the same noise. Seconds are those that a core is at work, so that others do not count.
Quality is `lowerbound evaluate`'s: Fréchet distance (its standard error by a jackknife over ten parts of the samples),
precision and recall against as many images of the test split.
"""

import math
import os
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np

import common
from common import Side, Spread

WIDTHS = (24, 48, 64)
NETWORK = {"type": "networks.unet.UNet", "widths": list(WIDTHS), "blocks": 1, "groups": 8}
OURS = {"model": {"fourier": [], "context": 4 * WIDTHS[0], "network": NETWORK}}
BATCH = 32
SAMPLERS = {"ancestral": "Ancestral", "DDIM": "DDIM", "Heun": "Heun"}


def main() -> None:
    p = common.parser(__doc__)
    p.add_argument("what", choices=["train", "sample", "steps"])
    p.add_argument("run", type=Path, nargs="?", help="steps: of a diffusion model, or of a VAE with one as prior")
    p.add_argument("--rounds", type=int, default=9)
    p.add_argument("--each", type=int, default=10, help="train: steps of a round; sample: of the sampler")
    p.add_argument("--core", action="store_true", help="train, sample: count the seconds in which cores are at work")
    p.add_argument("-n", type=int, default=64, help="sample: images at once")
    p.add_argument("--samples", type=int, default=500, help="steps: of each sampler and number of steps")
    p.add_argument("--steps", type=int, nargs="*", default=[10, 20, 50, 100, 250, 1000])
    p.add_argument("--passes", type=int, default=1000, help="steps: of the network, at most; Heun's step has two")
    p.add_argument("--extractor", type=Path, help="steps: of features, such as runs/classifier; else pixels")
    p.add_argument("--out", type=Path, default=Path("docs/pictures/sampling-steps.png"), help="steps: the picture")
    options = p.parse_args()
    common.set_threads(options.threads)
    if options.what == "steps" and options.run is None:
        p.error("steps: expected a run")
    about = common.machine(options.threads)
    (quality if options.what == "steps" else against)(options, about)


# ---- against diffusers


def against(options: Namespace, about: dict[str, Any]) -> None:
    """One side of each library, in turn."""
    pair = {"train": (train, train_diffusers), "sample": (sample, sample_diffusers)}[options.what]
    named = zip(("lowerbound", "diffusers"), pair, strict=True)
    said, taken = common.in_turn({name: Side(work, vars(options)) for name, work in named}, options.rounds)
    unit = "images/s" if options.what == "train" else f"seconds for {options.n} images in {options.each} steps"
    unit += ", of a core" if options.core else ""
    figures: dict[str, Any] = {"parameters": said, unit: {k: Spread.of(v) for k, v in taken.items()}}
    a, b = taken["lowerbound"], taken["diffusers"]
    figures["times as fast"] = common.ratios(a, b) if options.what == "train" else common.ratios(b, a)
    common.show("parameters", [*figures["parameters"].items()])
    common.show(unit, [*figures[unit].items(), ("times as fast, in the same round", figures["times as fast"])])
    common.finish(options, about, figures)


def ours() -> Any:
    from lowerbound.runs import recipes

    return recipes.load("diffusion-mnist", OURS)


def train(take: Callable, options: dict[str, Any]) -> None:
    """A side."""
    import torch

    import training

    torch.set_num_threads(options["threads"])
    recipe = ours()

    def told(values: Any) -> None:
        take(values["parameters"] if isinstance(values, dict) else values)

    training.trained(told, recipe, recipe.data.open("train"), options["rounds"], options["each"], clock(options))


def sample(take: Callable, options: dict[str, Any]) -> None:
    """A side."""
    import torch

    from lowerbound.model import Draw
    from lowerbound.sampling.drawing import draw
    from lowerbound.schedules import DDIM
    from lowerbound.space import Space

    torch.set_num_threads(options["threads"])
    model = ours().model.build(Space((1, 28, 28), levels=256)).eval()
    how = Draw(sampler=DDIM(), steps=options["each"])
    _timed(take, lambda: draw(model, options["n"], how=how), model, clock(options))


def clock(options: dict[str, Any]) -> Callable[[], float]:
    return time.process_time if options["core"] else time.perf_counter


def _timed(take: Callable, drawn: Callable[[], Any], model: Any, clock: Callable[[], float]) -> None:
    """Hands over the weights of a model, and then seconds, after one to warm up."""
    drawn()
    take(sum(p.numel() for p in model.parameters()))
    while True:
        begun = clock()
        drawn()
        take(clock() - begun)


def theirs() -> Any:
    os.environ["HF_HUB_OFFLINE"] = "1"
    from diffusers import UNet2DModel  # pyright: ignore[reportMissingImports]

    sizes = len(WIDTHS)
    return UNet2DModel(
        sample_size=28,
        in_channels=1,
        out_channels=1,
        block_out_channels=WIDTHS,
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("DownBlock2D",) * sizes,
        up_block_types=("UpBlock2D",) * sizes,
        attention_head_dim=None,
    )


def train_diffusers(take: Callable, options: dict[str, Any]) -> None:
    """A side."""
    import torch
    import torch.nn.functional as F
    from diffusers import DDPMScheduler  # pyright: ignore[reportMissingImports]
    from diffusers.optimization import get_cosine_schedule_with_warmup  # pyright: ignore[reportMissingImports]
    from diffusers.training_utils import EMAModel  # pyright: ignore[reportMissingImports]

    from lowerbound.processes import keep_freed

    keep_freed()  # as the loop of the other side
    torch.set_num_threads(options["threads"])
    torch.manual_seed(0)
    recipe, net, noise = ours(), theirs().train(), DDPMScheduler()
    x = torch.from_numpy(recipe.data.open("train").x).float() / 127.5 - 1
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    rate = get_cosine_schedule_with_warmup(optimizer, 500, 12_000)
    average = EMAModel(net.parameters(), decay=0.999, use_ema_warmup=True)

    def step() -> float:
        clean = x[torch.randint(len(x), (BATCH,))]
        epsilon, t = torch.randn_like(clean), torch.randint(1000, (BATCH,))
        loss = F.mse_loss(net(noise.add_noise(clean, epsilon, t), t, return_dict=False)[0], epsilon)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        rate.step()
        optimizer.zero_grad()
        average.step(net.parameters())
        return loss.detach().item()  # its example logs it at every step

    for _ in range(options["each"]):
        step()
    take(sum(p.numel() for p in net.parameters()))
    now = clock(options)
    while True:
        begun = now()
        for _ in range(options["each"]):
            step()
        take(options["each"] * BATCH / (now() - begun))


def sample_diffusers(take: Callable, options: dict[str, Any]) -> None:
    """A side."""
    import torch
    from diffusers import DDIMPipeline, DDIMScheduler  # pyright: ignore[reportMissingImports]

    from lowerbound.processes import keep_freed

    torch.set_num_threads(options["threads"])
    keep_freed()
    net = theirs().eval()
    pipe = DDIMPipeline(net, DDIMScheduler())
    pipe.set_progress_bar_config(disable=True)
    _timed(take, lambda: pipe(options["n"], num_inference_steps=options["each"], output_type="np"), net, clock(options))


# ---- what steps bring


class Point(NamedTuple):
    """A sampler and its steps."""

    sampler: str
    steps: int
    seconds: float  # of a core, for 64 images
    frechet: tuple[float, float]  # with its standard error, as the others
    precision: tuple[float, float]
    recall: tuple[float, float]


def quality(options: Namespace, about: dict[str, Any]) -> None:
    import torch

    from lowerbound.runs.run import Run

    torch.set_num_threads(options.threads)
    of = Compared(Run.open(options.run), options.samples, options.extractor)
    points = []
    for name in SAMPLERS:
        for steps in options.steps:
            if steps * (2 if name == "Heun" else 1) <= options.passes:
                points.append(of.point(name, steps))
                print(*points[-1], flush=True)
    picture(points, of, options.out, f"{options.run.name}: {of.n} samples, {of.recipe['kind']}")
    common.finish(options, about, {"points": [p._asdict() for p in points], "real": of.floor})


class Compared:
    """Samples of a run against real images."""

    def __init__(self, run: Any, n: int, extractor: Path | None):
        import torch

        from lowerbound.metrics import extractors, samples
        from lowerbound.metrics.base import World
        from lowerbound.metrics.extractors import Input
        from lowerbound.runs.inputs import as_batches, open_data

        model, images, train = run.load(), open_data(run, "test"), open_data(run, "train")
        self.n = min(n, len(images))
        self.world = world = World(model, as_batches(run, images, model.device), run)
        scored, others = extractors.parted(samples.shuffled(world, train), self.n, train.x[0].size)
        levels = samples.levels(world)
        found = (
            extractors.pixels(samples.pixels(world, train, others), levels)
            if extractor is None
            else extractors.opened(extractor, Input(), levels, torch.device("cpu"))
        )
        self.vectors, self.recipe = found.vectors, found.recipe
        self.real = self.vectors(samples.pixels(world, images, samples.shuffled(world, images)[: self.n]))
        self.floor = self.figures(self.vectors(samples.pixels(world, train, scored)))

    def figures(self, x: np.ndarray) -> list[tuple[float, float]]:
        """Fréchet distance, precision and recall of vectors, each with its standard error."""
        from lowerbound.metrics.distances import coverage, frechet

        parts = np.array_split(np.arange(len(x)), 10)
        left = np.array([frechet(np.delete(x, part, 0), self.real) for part in parts])
        error = math.sqrt((len(parts) - 1) * float(left.var()))
        shares = coverage(x, self.real, "of samples"), coverage(self.real, x, "of images")
        return [(frechet(x, self.real), error), *((float(s.value or 0), s.stderr or 0.0) for s in shares)]

    def point(self, name: str, steps: int) -> Point:
        from lowerbound import schedules
        from lowerbound.metrics import samples
        from lowerbound.model import Draw
        from lowerbound.noise import seeded
        from lowerbound.processes import keep_freed

        how = Draw(sampler=getattr(schedules, SAMPLERS[name])(), steps=steps, mean=True)
        keep_freed()
        drawn, seconds = [], []
        with seeded(0, "steps"):
            for start in range(0, self.n, 64):
                count = min(64, self.n - start)
                begun = time.process_time()
                drawn.append(samples.shown(self.world, self.world.model.draw(count, how=how).x))
                seconds.append((time.process_time() - begun) * 64 / count)
        return Point(name, steps, median(seconds), *self.figures(self.vectors(np.concatenate(drawn))))


def picture(points: list[Point], of: Compared, out: Path, title: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    titles = "seconds of a core for 64 images", "Fréchet distance", "precision", "recall"
    figure, panels = pyplot.subplots(1, 4, figsize=(13, 3.2), dpi=100, layout="constrained")
    for i, (axes, name) in enumerate(zip(panels, titles, strict=True)):
        for sampler, color in zip(SAMPLERS, ("C0", "C1", "C2"), strict=True):
            own = [p for p in points if p.sampler == sampler]
            values = [(p.seconds, 0.0) if i == 0 else p[i + 2] for p in own]
            up, error = zip(*values, strict=True)
            look = {"marker": "o", "ms": 3.5, "lw": 1.4, "capsize": 2, "elinewidth": 0.9}
            axes.errorbar([p.steps for p in own], up, error, label=sampler, color=color, **look)
        if i:
            axes.axhline(of.floor[i - 1][0], color="0.5", ls="--", lw=1, label="training images")
        axes.set(xscale="log", xlabel="steps", title=name, yscale="linear" if i else "log")
        axes.grid(color="0.92")
        axes.spines[["top", "right"]].set_visible(False)
    panels[-1].legend(fontsize=8, frameon=False)
    figure.suptitle(title, fontsize=9, x=0.01, ha="left")
    figure.savefig(out)
    pyplot.close(figure)


if __name__ == "__main__":
    main()

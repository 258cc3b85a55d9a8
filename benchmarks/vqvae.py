#!/usr/bin/env python3
"""VQ-VAE-2 of 256x256 images: training images/s, codes/s, seconds per grid of codes, against the bare arithmetic.

    python benchmarks/vqvae.py train      # the autoencoder's step against its convolutions alone, and the peaks
    python benchmarks/vqvae.py encode     # images to codes, against the forward pass, and the bare convolutions
    python benchmarks/vqvae.py sample     # a 64x64 grid of the bottom prior, from its cache and by full passes

The sizes are those of the recipe vqvae2-imagenet256; images are noise, which costs as much as any. Each side is a
process of its own, in turn with the others.

train: a step is what the training loop does: loss, backward, clipping, skipping, Adam, the codebooks' move, averaging.
"convolutions" is every convolution of that step alone, forward and backward, on maps of the same shapes: no ReLU, no
quantizer, no likelihood, no optimizer. "quantizers" is theirs alone: forward, backward and the codebooks' move. FLOPs
are counted by torch.utils.flop_counter, over the best of the medians of matmuls and of 3x3 convolutions.

sample: naive is a pass over the whole grid for every position, of which so many are timed (`--passes`); of the cached
sampling, which costs the same at every position, the first rows (`--rows`). Weights are random.
"""

import contextlib
import time
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import common
from common import Side, Spread

RECIPE = "vqvae2-imagenet256"


def main() -> None:
    p = common.parser(__doc__)
    p.add_argument("what", choices=["train", "encode", "sample"])
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--steps", type=int, default=2, help="train, encode: of each round")
    p.add_argument("--batch", type=int, default=4, help="train, encode")
    p.add_argument("--size", type=int, default=256, help="of the images")
    p.add_argument("--passes", type=int, default=2, help="sample: full passes that are timed in each round")
    p.add_argument("--rows", type=int, default=4, help="sample: rows that are timed in each round")
    p.add_argument("--width", type=int, help="sample: of the prior, instead of the recipe's")
    options = p.parse_args()
    common.set_threads(options.threads)
    {"train": train, "encode": encode, "sample": sample}[options.what](options, common.machine(options.threads))


# ---- training


def train(options: Namespace, about: dict[str, Any]) -> None:
    shape = options.threads, options.steps, options.batch, options.size
    sides = {name: Side(work, *shape) for name, work in (("step", steps), ("convolutions", bare), ("quantizers", vqs))}
    sides["limits"] = Side(common.limits, options.threads, "conv", 0.25)
    said, taken = common.in_turn(sides, options.rounds)
    found = common.spreads(taken.pop("limits"))
    rates = {name: Spread.of(rounds) for name, rounds in taken.items()}
    flops = said["step"]
    figures: dict[str, Any] = {f"{name}, images/s": rate for name, rate in rates.items()}
    figures["step / convolutions"] = common.ratios(taken["step"], taken["convolutions"])
    figures["quantizers' share of the step"] = common.ratios(taken["step"], taken["quantizers"])
    figures["counted GFLOP/image"] = flops / 1e9
    for kind in ("matmul", "conv"):
        peak = common.peak(found, kind)
        figures[f"{kind} peak, GFLOP/s"] = peak
        figures[f"share of the {kind} peak"] = rates["step"].median * flops / 1e9 / peak
    common.show(f"training, batches of {options.batch}, {options.size}x{options.size}", list(figures.items()))
    common.finish(options, about, figures | {"limits, GFLOP/s": found})


def build(threads: int, batch: int, size: int) -> tuple[Any, Any, Any]:
    """The recipe, its model without priors, and a batch of noise."""
    import torch

    from lowerbound.processes import keep_freed
    from lowerbound.runs import recipes
    from lowerbound.space import Space

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    keep_freed()
    recipe = recipes.load(RECIPE, ["model.priors=[]"])
    model = recipe.model.build(Space((3, size, size), levels=256))
    return recipe, model, torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8)


def steps(take: Callable, threads: int, count: int, batch: int, size: int) -> None:
    """A side: images/s of so many training steps; beforehand the counted FLOPs of an image."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from lowerbound.optimization import Guard

    recipe, model, x = build(threads, batch, size)
    config = recipe.train
    parameters = list(model.parameters())
    optimizer = config.optimizer.build(parameters)
    guard = Guard(optimizer, config.clip, config.skip, torch.device("cpu"))
    weights = [p.detach() for p in parameters]
    average = [p.clone() for p in weights]
    done = 0

    def step() -> None:
        nonlocal done
        loss = model.loss(x, None, done).value
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        guard.step(parameters)
        model.after_step()
        if config.averaging:
            config.averaging.update(average, weights, done)
        done += 1

    with FlopCounterMode(display=False) as counter:
        step()
    rates(take, step, count, batch, counter.get_total_flops() / batch)


def bare(take: Callable, threads: int, count: int, batch: int, size: int) -> None:
    """A side: images/s of the convolutions of a training step alone, forward and backward."""
    _, model, x = build(threads, batch, size)
    calls = convolutions(model, lambda: model.loss(x))
    rates(take, lambda: [call.there_and_back() for call in calls], count, batch)


def vqs(take: Callable, threads: int, count: int, batch: int, size: int) -> None:
    """A side: images/s of the quantizers of a training step alone."""
    import torch

    _, model, x = build(threads, batch, size)
    shapes: list[Any] = []
    hooks = [
        q.register_forward_pre_hook(lambda q, inputs: shapes.append((q, inputs[0].shape))) for q in model.quantizers
    ]
    model.loss(x)
    for hook in hooks:
        hook.remove()
    maps = [(q, torch.randn(shape, requires_grad=True)) for q, shape in shapes]

    def step() -> None:
        for q, h in maps:
            found = q(h)
            torch.autograd.grad([found.z, found.loss], h, [found.z.detach(), torch.ones_like(found.loss)])
            q.after_step()

    rates(take, step, count, batch)


class Call(NamedTuple):
    """A convolution, as it was called."""

    layer: Any
    x: Any
    out: Any  # of the shape of what came out

    def there(self) -> None:
        self.layer(self.x)

    def there_and_back(self) -> None:
        import torch

        wanted = [*([self.x] if self.x.requires_grad else []), *self.layer.parameters()]
        torch.autograd.grad(self.layer(self.x), wanted, self.out)


def convolutions(model: Any, run: Callable[[], Any]) -> list[Call]:
    """The convolutions that `run` calls, with noise of the shapes that they were given and gave."""
    import torch
    from torch import nn

    calls: list[Call] = []

    def note(layer: Any, inputs: Any, out: Any) -> None:
        x = torch.randn_like(inputs[0]).requires_grad_(inputs[0].requires_grad)
        calls.append(Call(layer, x, torch.randn_like(out)))

    hooks = [m.register_forward_hook(note) for m in model.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    run()
    for hook in hooks:
        hook.remove()
    return calls


def rates(take: Callable, step: Callable[[], Any], count: int, batch: int, said: Any = None) -> None:
    """Hand over images/s of so many steps, again and again."""
    step()
    take(said)
    while True:
        begun = time.perf_counter()
        for _ in range(count):
            step()
        take(count * batch / (time.perf_counter() - begun))


# ---- codes


def encode(options: Namespace, about: dict[str, Any]) -> None:
    shape = options.threads, options.steps, options.batch, options.size
    sides = {name: Side(work, *shape) for name, work in (("codes", codes), ("whole", whole), ("bare", bare_codes))}
    _, taken = common.in_turn(sides, options.rounds)
    figures: dict[str, Any] = {
        "images to codes, images/s": Spread.of(taken["codes"]),
        "the autoencoder's forward pass, images/s": Spread.of(taken["whole"]),
        "the encoder's convolutions, images/s": Spread.of(taken["bare"]),
        "codes / forward pass": common.ratios(taken["codes"], taken["whole"]),
        "codes / convolutions": common.ratios(taken["codes"], taken["bare"]),
    }
    common.show(f"codes, batches of {options.batch}, {options.size}x{options.size}", list(figures.items()))
    common.finish(options, about, figures)


def codes(take: Callable, threads: int, count: int, batch: int, size: int) -> None:
    """A side: images/s of images to codes."""
    import torch

    _, model, x = build(threads, batch, size)
    model.eval()
    with torch.no_grad():
        rates(take, lambda: model.codes(x), count, batch)


def whole(take: Callable, threads: int, count: int, batch: int, size: int) -> None:
    """A side: images/s of the whole forward pass: codes, the decoder, the loss."""
    import torch

    _, model, x = build(threads, batch, size)
    model.eval()
    with torch.no_grad():
        rates(take, lambda: model.loss(x), count, batch)


def bare_codes(take: Callable, threads: int, count: int, batch: int, size: int) -> None:
    """A side: images/s of the convolutions alone that images to codes take."""
    import torch

    _, model, x = build(threads, batch, size)
    model.eval()
    with torch.no_grad():
        calls = convolutions(model, lambda: model.codes(x))
        rates(take, lambda: [call.there() for call in calls], count, batch)


# ---- sampling


class Enough(Exception):
    """So many rows are drawn."""


def sample(options: Namespace, about: dict[str, Any]) -> None:
    import torch

    torch.set_num_threads(options.threads)
    prior, given, places, row = bottom(options.size, options.width)
    cached, naive = [], []
    for _ in range(options.rounds):
        cached.append(seconds(partial(first_rows, prior, given, options.rows * row)) / (options.rows * row) * places)
        few = partial(prior.sample_naively, 1, given, positions=options.passes)
        naive.append(seconds(few) / options.passes * places)
    figures: dict[str, Any] = {
        "parameters": sum(p.numel() for p in prior.parameters()),
        f"cached, s for 1 (from {options.rows * row} of {places} positions)": Spread.of(cached),
        f"naive, s for 1 (from {options.passes} of {places} passes)": Spread.of(naive),
        "naive / cached": common.ratios(naive, cached),
    }
    common.show(f"a grid of {places // row}x{row} codes", list(figures.items()))
    common.finish(options, about, figures)


def bottom(size: int, width: int | None) -> tuple[Any, Any, int, int]:
    """The bottom prior, what it is given, its positions and how many make a row."""
    import torch

    from lowerbound.runs import recipes
    from lowerbound.space import Space

    changes = [] if width is None else [f"model.priors.1.{key}={width}" for key in ("context", "network.width")]
    config: Any = recipes.load(RECIPE, changes).model
    grids = [
        Space((size // l.factor, size // l.factor), levels=l.quantizer.codes, ordered=False) for l in config.levels
    ]
    prior = config.priors[-1].build(grids[-1], (Space((), levels=1000, ordered=False), *grids[:-1]))
    given = (torch.zeros(1, dtype=torch.long), *(torch.zeros(1, *g.shape, dtype=torch.long) for g in grids[:-1]))
    return prior.eval(), given, grids[-1].dims, grids[-1].shape[-1]


def first_rows(prior: Any, given: Any, positions: int) -> None:
    def advance(done: int, of: int) -> None:
        if done >= positions:
            raise Enough

    with contextlib.suppress(Enough):
        prior.draw(1, given, told=advance)


def seconds(call: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()

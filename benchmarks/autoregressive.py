#!/usr/bin/env python3
"""Autoregressive models: training images/s and share of the machine's peak; seconds per sample, cached and naive.

    python benchmarks/autoregressive.py train      # the recipes; pixelcnn-mnist against plain masked convolutions
    python benchmarks/autoregressive.py sample     # each network, from its cache and by a full pass per position
    python benchmarks/autoregressive.py growth     # time per position from 8x8 to 64x64, with a picture

train: a step is what the training loop does: loss, backward, clipping, skipping, Adam, averaging, on the recipe's real
data, each recipe in a process of its own, in turn with the machine's peak. "plain" is the network of pixelcnn-mnist as
one would first write it: kernels of full size, half of which is multiplied by zero, channels first. It is given the
same weights, and must give the same likelihoods before it is timed. FLOPs are counted by torch.utils.flop_counter;
those of kernels count the taps that the masks hide as well, so the share is somewhat too good.

sample: 16 images at once in one process. Naive is a pass over all images for every position (and ordered channel), of
which so many are timed (`--passes`) as the table says; cached is a whole sampling, weights random, start-up apart.

growth: gated layers of 64 features over 16 images; a pass over a row included.
"""

import time
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import common
from common import Side, Spread

RECIPES = ("pixelcnn-mnist", "made-mnist", "pixelrnn-mnist", "pixelcnnpp-cifar10-small")
PIXELCNN = {"type": "networks.pixelcnn.PixelCNN", "width": 64, "blocks": 12, "places": True}
GATED = {"type": "networks.gated.GatedPixelCNN", "width": 64, "layers": 12}
NETWORKS: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "PixelCNN, 12 residual blocks of 64": ((1, 28, 28), PIXELCNN),
    "gated PixelCNN, 12 layers of 64": ((1, 28, 28), GATED),
    "gated PixelCNN, 12 layers of 64, attention": ((1, 28, 28), GATED | {"attention": [6]}),
    "PixelCNN++, 3 levels, 2 blocks of 64": (
        (3, 32, 32),
        {"type": "networks.pixelcnnpp.PixelCNNPP", "width": 64, "blocks": 2},
    ),
    "Row LSTM, 4 layers": ((1, 28, 28), {"type": "networks.pixelrnn.RowLSTM", "layers": 4}),
    "Diagonal BiLSTM, 4 layers": ((1, 28, 28), {"type": "networks.pixelrnn.DiagonalBiLSTM", "layers": 4}),
    "MADE, 2,000": ((1, 28, 28), {"type": "networks.made.MADE", "hidden": [2000]}),
}


def main() -> None:
    p = common.parser(__doc__)
    p.add_argument("what", choices=["train", "sample", "growth"])
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--steps", type=int, default=8, help="train: of each round")
    p.add_argument("--passes", type=int, default=20, help="sample: full passes that are timed")
    p.add_argument("-n", type=int, default=16, help="sample, growth: images at once")
    p.add_argument("--recipes", nargs="*", default=RECIPES)
    p.add_argument("--out", type=Path, default=Path("growth.png"), help="growth: the picture")
    options = p.parse_args()
    common.set_threads(options.threads)
    {"train": train, "sample": sample, "growth": growth}[options.what](options, common.machine(options.threads))


# ---- training


def train(options: Namespace, about: dict[str, Any]) -> None:
    sides = {name: Side(steps, name, options.threads, options.steps, False) for name in options.recipes}
    if "pixelcnn-mnist" in sides:
        sides["plain"] = Side(steps, "pixelcnn-mnist", options.threads, options.steps, True)
    sides["limits"] = Side(common.limits, options.threads, "matmul", 0.25)
    said, taken = common.in_turn(sides, options.rounds)
    found = common.spreads(taken.pop("limits"))
    peak = common.peak(found)
    common.show("limits, GFLOP/s (fp32)", [*found.items(), ("matmul peak, best of medians", peak)])
    figures: dict[str, Any] = {"limits, GFLOP/s": found, "matmul peak, GFLOP/s": peak}
    for name, rounds in taken.items():
        rate, flops = Spread.of(rounds), said[name]
        figures[name] = {
            "images/s": rate,
            "counted MFLOP/image": flops / 1e6,
            "share of the matmul peak": rate.median * flops / 1e9 / peak,
        }
        common.show(name, list(figures[name].items()))
    if "plain" in taken:
        figures["pixelcnn-mnist / plain"] = common.ratios(taken["pixelcnn-mnist"], taken["plain"])
        common.show("pixelcnn-mnist / plain, images/s", [("in the same round", figures["pixelcnn-mnist / plain"])])
    common.finish(options, about, figures)


def steps(take: Callable, name: str, threads: int, count: int, plain: bool) -> None:
    """A side: images/s of so many training steps of a recipe; beforehand the counted FLOPs of an image."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from lowerbound.data.batches import Batches
    from lowerbound.optimization import Guard
    from lowerbound.processes import keep_freed
    from lowerbound.runs import recipes
    from lowerbound.runs.facts import Facts

    torch.set_num_threads(threads)
    keep_freed()
    recipe = recipes.load(name)
    images = recipe.data.open("train")
    facts, config = Facts.of(images, recipe), recipe.train
    model: Any = recipe.model.build(facts.space, facts.given(recipe))
    batches = Batches(images, torch.device("cpu"), label=recipe.data.label, flip=recipe.data.flip)
    loss: Callable = model.loss
    if plain:
        x, _ = batches.training(0, 16, 0)
        same = Plain(model.network)
        assert torch.allclose(same.log_prob(x), model.log_prob(x), atol=1e-3), "plain is another model"
        loss, model = same.loss, same
    parameters = list(model.parameters())
    optimizer = config.optimizer.build(parameters)
    guard = Guard(optimizer, config.clip, config.skip, torch.device("cpu"))
    weights = [p.detach() for p in parameters]
    average = [p.clone() for p in weights]

    def step(i: int) -> None:
        x, y = batches.training(i, config.batch, recipe.seed)
        value = loss(x, y, i).value
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        guard.step(parameters)
        if config.averaging:
            config.averaging.update(average, weights, i)

    with FlopCounterMode(display=False) as counter:
        step(0)
    step(1)
    take(counter.get_total_flops() / config.batch)
    done = 2
    while True:
        begun = time.perf_counter()
        for i in range(done, done + count):
            step(i)
        take(count * config.batch / (time.perf_counter() - begun))
        done += count


def Plain(network: Any) -> Any:
    """The network of pixelcnn-mnist with full kernels under masks, channels first, and the weights of ours."""
    import torch
    import torch.nn.functional as F
    from torch import Tensor, nn

    from lowerbound.stages import Loss

    class Masked(nn.Conv2d):
        def __init__(self, conv: Any):
            O, I, kh, kw = conv.weight.shape
            super().__init__(I, O, kw, padding=kw // 2)
            mask = torch.zeros(O, I, kw, kw)
            mask[:, :, :kh] = conv.mask
            self.register_buffer("mask", mask)
            with torch.no_grad():
                self.weight.zero_()[:, :, :kh] = conv.seen
                self.bias.copy_(conv.bias)  # pyright: ignore[reportOptionalMemberAccess]

        def forward(self, input: Tensor) -> Tensor:
            return F.conv2d(input, self.weight * self.mask, self.bias, padding=self.padding)  # pyright: ignore

    def pointwise(linear: Any) -> nn.Conv2d:
        conv = nn.Conv2d(linear.in_features, linear.out_features, 1)
        with torch.no_grad():
            conv.weight.copy_(linear.weight[:, :, None, None])
            conv.bias.copy_(linear.bias)  # pyright: ignore[reportOptionalMemberAccess]
        return conv

    class Block(nn.Module):
        def __init__(self, block: Any):
            super().__init__()
            self.down, self.conv, self.up = pointwise(block.down), Masked(block.conv), pointwise(block.up)
            self.places = nn.Parameter(block.shift.places.detach().permute(0, 3, 1, 2).contiguous())

        def forward(self, h: Tensor) -> Tensor:
            return h + self.up(F.relu(self.conv(F.relu(self.down(F.relu(h)))) + self.places))

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            blocks = [Block(b) for b in network.blocks]
            last = [nn.ReLU(), pointwise(network.mix), nn.ReLU(), pointwise(network.out)]
            self.layers = nn.Sequential(Masked(network.first), *blocks, *last)

        def log_prob(self, x: Tensor) -> Tensor:
            logits = self.layers(x.float())
            return -F.binary_cross_entropy_with_logits(logits, x.float(), reduction="none").sum((1, 2, 3))

        def loss(self, x: Tensor, y: Any = None, step: int = 0) -> Loss:
            nll = -self.log_prob(x)
            return Loss(nll.mean(), {"nll": nll.detach()})

    return Net()


# ---- sampling


def build(size: tuple[int, ...], network: dict[str, Any]) -> Any:
    """A model of binary digits, or of colour images with logistics, with random weights."""
    from lowerbound.config import parse
    from lowerbound.models.autoregressive import Autoregressive
    from lowerbound.space import Space

    colour = size[0] == 3
    likelihood = {"type": "families.LogisticMixture"} if colour else {"type": "families.Bernoulli"}
    config = parse(Autoregressive.Config, {"network": network, "likelihood": likelihood})
    return config.build(Space(size, levels=256 if colour else 2)).eval()


def seconds(call: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def sample(options: Namespace, about: dict[str, Any]) -> None:
    import torch

    torch.set_num_threads(options.threads)
    figures: dict[str, Any] = {}
    n = options.n
    for name, (size, network) in NETWORKS.items():
        model = build(size, network)
        few = min(options.passes, model.passes)
        model.sample(n)
        cached, naive = [], []
        for _ in range(options.rounds):
            cached.append(seconds(partial(model.sample, n)))
            naive.append(seconds(partial(model.sample_naively, n, positions=few)) / few * model.passes)
        figures[name] = {
            f"cached, s for {n}": Spread.of(cached),
            f"naive, s for {n} (from {few} of {model.passes} passes)": Spread.of(naive),
            "naive / cached": common.ratios(naive, cached),
        }
        common.show(f"{name}, {'x'.join(map(str, size))}", list(figures[name].items()))
    common.finish(options, about, figures)


SIZES = (8, 16, 24, 32, 48, 64)


def growth(options: Namespace, about: dict[str, Any]) -> None:
    import torch

    torch.set_num_threads(options.threads)
    networks = {"gated, 12 layers of 64": GATED, "the same with attention": GATED | {"attention": [6]}}
    figures: dict[str, Any] = {name: {} for name in networks}
    for name, network in networks.items():
        for side in SIZES:
            model = build((1, side, side), network)
            model.sample(1)
            taken = [seconds(lambda m=model: m.sample(options.n)) for _ in range(3)]
            figures[name][side] = 1e3 * median(taken) / side**2
        common.show(
            f"{name}: ms per position of {options.n} images", [(f"{s}x{s}", t) for s, t in figures[name].items()]
        )
    _plot(figures, options.n, options.out)
    common.finish(options, about, figures)


def _plot(figures: dict[str, dict[int, float]], n: int, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 3.6), layout="constrained")
    for name, each in figures.items():
        axes.plot([s * s for s in each], list(each.values()), marker="o", label=name)
    axes.set_xscale("log", base=2)
    axes.set_xticks([s * s for s in SIZES], [f"{s}x{s}" for s in SIZES])
    axes.set_ylim(bottom=0)
    axes.set_ylabel(f"ms per position ({n} images)")
    axes.set_xlabel("positions")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Importance-weighted NLL of MNIST's 10,000 test images with 5,000 draws: the time, and draws per second.

    python benchmarks/nll.py                      # an untrained model of the vae-mnist recipe; the time does not depend
    python benchmarks/nll.py runs/vae-mnist       # on the weights; or a run of one's own
    python benchmarks/nll.py --images 500         # a part of the images, and the time of all extrapolated from it

50 latents, 200-200 tanh, Bernoulli. `all images` is the metric that `lowerbound evaluate --draws 5000` prints, as it is
called there. Then, in rounds of one process each, draws per second against pythae 0.1.2's `VAE.get_nll` with the same
weights and binary images, under torch.no_grad. pythae takes `batch_size` draws at a time of one image, encodes the
image once for each of them, and makes whole batches only: fewer draws than asked for where they don't divide, and a
whole batch where fewer are asked for. What is counted is the draws it makes.
"""

import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
from common import Side, Spread


def main() -> None:
    p = common.parser(__doc__)
    p.add_argument("run", nargs="?", type=Path, help="a run of an MNIST VAE; by default an untrained vae-mnist")
    p.add_argument("--draws", type=int, default=5000)
    p.add_argument("--images", type=int, default=10_000, help="measured; fewer than 10,000 are extrapolated")
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--round-images", type=int, default=20, help="of lowerbound in each round")
    p.add_argument("--peer-images", type=int, default=4, help="of pythae in each round")
    p.add_argument("--peer-batch", type=int, nargs="*", default=[100, 1000], help="its batch_size; its default is 100")
    p.add_argument("--limit-seconds", type=float, default=0.25, help="of each matmul in each round")
    options = p.parse_args()
    common.set_threads(options.threads)

    about = common.machine(options.threads)
    sides = {"lowerbound": Side(lowerbound, vars(options))}
    sides |= {f"pythae, batch_size {b}": Side(pythae, vars(options), b) for b in options.peer_batch}
    sides["limits"] = Side(common.limits, options.threads, "matmul", options.limit_seconds)
    said, taken = common.in_turn(sides, options.rounds)
    if options.images:
        whole = Side(everything, vars(options))
        whole.answer()
        said["all images"] = whole.take()
        whole.close()
    report(options, about, said, taken)


def report(options: Namespace, about: dict[str, Any], said: dict[str, Any], taken: dict[str, list[Any]]) -> None:
    found = common.spreads(taken.pop("limits"))
    peak = common.peak(found)
    flops = said["lowerbound"]["flops_per_draw"]
    figures: dict[str, Any] = {"limits, GFLOP/s": found, "matmul peak, GFLOP/s": peak, "flops per draw": flops}
    common.show("limits, GFLOP/s (fp32)", [*found.items(), ("matmul peak, best of medians", peak)])
    ours = [t["rate"] for t in taken["lowerbound"]]
    for name, rounds in taken.items():
        rates = [t["rate"] for t in rounds]
        made = said[name]
        rows: list[tuple[str, Any]] = [
            ("draws/s", Spread.of(rates)),
            ("draws made of an image", f"{made['made']:,} of {options.draws:,} asked for"),
            (f"NLL of the first {made['images']} images, nats", common.figure(made["nll"])),
            ("share of the matmul peak, by the decoder's FLOPs", Spread.of(rates).median * flops / 1e9 / peak),
        ]
        if name != "lowerbound":
            rows.append(("lowerbound is faster by, in the same round", common.ratios(ours, rates)))
        common.show(f"{name}: {made['about']}", rows)
        figures[name] = dict(rows)
    if "all images" in said:
        figures["all images"] = whole = said["all images"]
        rate = whole["images"] * options.draws / whole["seconds"]
        rows = [
            ("seconds", whole["seconds"]),
            ("NLL, nats", f"{whole['nll']:.3f} ± {whole['stderr'] or 0:.3f}"),
            ("share of the matmul peak, by the decoder's FLOPs", rate * flops / 1e9 / peak),
        ]
        if whole["images"] < whole["of"]:
            rows.insert(
                1, (f"EXTRAPOLATED to {whole['of']:,} images, s", whole["seconds"] * whole["of"] / whole["images"])
            )
        common.show(f"lowerbound, {whole['images']:,} images with {options.draws:,} draws", rows)
    common.finish(options, about, figures)


def prepared(options: dict[str, Any]) -> tuple[Any, Any]:
    """The model and the test images as it measures them."""
    import torch

    from lowerbound.noise import seeded
    from lowerbound.runs import recipes
    from lowerbound.runs.facts import Facts
    from lowerbound.runs.inputs import as_batches
    from lowerbound.runs.run import Run

    torch.set_num_threads(options["threads"])
    if options["run"] is not None:
        run = Run.open(options["run"])
        model = run.load()
    else:
        recipe = recipes.load("vae-mnist")
        run = Run(Path(), "vae-mnist", recipe, Facts.of(recipe.data.open("train"), recipe))
        with seeded(0, "weights"):
            model = run.build().eval()
    return model, as_batches(run, run.recipe.data.open("test"), torch.device("cpu"))


def lowerbound(take: Callable, options: dict[str, Any]) -> None:
    """A side: draws per second of a few images, as the metric makes them."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from lowerbound.metrics.base import World, measure

    model, batches = prepared(options)
    n = min(options["round_images"], len(batches))

    def run(images: int) -> Any:
        world = World(model, batches.head(images))
        return measure(world, names=["nll"], options={"draws": options["draws"]})["nll"]

    z = torch.zeros(1, 1, *model.latent.shape)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.likelihood((z,))
    few = min(options["peer_images"], n)
    nll = run(few)  # warm-up
    take(
        {
            "flops_per_draw": counter.get_total_flops(),
            "made": nll.draws,
            "nll": nll.value,
            "images": few,
            "about": f"{n} images in a round",
        }
    )
    while True:
        begun = time.perf_counter()
        run(n)
        take({"rate": n * options["draws"] / (time.perf_counter() - begun)})


def everything(take: Callable, options: dict[str, Any]) -> None:
    """A side that measures once: all the images that were asked for."""
    from lowerbound.metrics.base import World, measure

    model, batches = prepared(options)
    n = min(options["images"], len(batches))
    measure(World(model, batches.head(2)), names=["nll"], options={"draws": options["draws"]})  # warm-up
    take(None)
    begun = time.perf_counter()
    nll = measure(World(model, batches.head(n)), names=["nll"], options={"draws": options["draws"]})["nll"]
    seconds = time.perf_counter() - begun
    take({"seconds": seconds, "nll": nll.value, "stderr": nll.stderr, "images": n, "of": len(batches)})


def pythae(take: Callable, options: dict[str, Any], batch_size: int) -> None:
    """A side: draws per second of `get_nll`, counted where they are made."""
    import torch
    from pythae.models import VAE, VAEConfig  # type: ignore[import-untyped]
    from pythae.models.base.base_utils import ModelOutput  # type: ignore[import-untyped]
    from pythae.models.nn import BaseDecoder, BaseEncoder  # type: ignore[import-untyped]

    model, batches = prepared(options)
    (latent,) = model.latent.shape
    encoder, decoder = model.encoder, model.decoder
    top = model.space.levels - 1
    low, high = model.space.features(torch.tensor([0, top])).tolist()  # what its networks see

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.layers = encoder.layers

        def forward(self, x: Any) -> Any:
            h = self.layers(x.flatten(1) * (high - low) + low)
            return ModelOutput(embedding=h[:, :latent], log_covariance=2 * h[:, latent:])

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            self.layers = decoder.layers

        def forward(self, z: Any) -> Any:
            return ModelOutput(reconstruction=torch.sigmoid(self.layers(z)))

    config = VAEConfig(input_dim=model.space.shape, latent_dim=latent, reconstruction_loss="bce")
    peer = VAE(config, encoder=Encoder(), decoder=Decoder()).eval()
    n = min(options["peer_images"], len(batches))
    x = torch.cat([b.x for b in batches.in_order(n, n)]).float() / top

    made = 0
    sample = peer._sample_gauss

    def counted(mu: Any, std: Any) -> Any:
        nonlocal made
        made += len(mu)
        return sample(mu, std)

    peer._sample_gauss = counted
    with torch.no_grad():
        nll = -float(peer.get_nll(x, n_samples=options["draws"], batch_size=batch_size))  # it returns log p(x)
        each = made // n
        take({"made": each, "nll": nll, "images": n, "about": f"{n} images in a round"})
        while True:
            made = 0
            begun = time.perf_counter()
            peer.get_nll(x, n_samples=options["draws"], batch_size=batch_size)
            take({"rate": made / (time.perf_counter() - begun)})


if __name__ == "__main__":
    main()

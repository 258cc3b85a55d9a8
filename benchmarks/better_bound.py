"""What makes a bound better: the runs, tables and pictures of docs/what-is-a-better-bound.md, by one command.

    python benchmarks/better_bound.py                                   # an hour of one core, then minutes again
    python benchmarks/better_bound.py --runs runs/bound --images 100    # gaps of more images
    python benchmarks/better_bound.py --toy                             # only the plane whose posterior has two modes
    python benchmarks/better_bound.py --skip toy,ae                     # all but some runs, or the plane

Runs that are not there yet are trained: one network, one data set, 25,000 steps each. NLL and its differences image
by image come from `lowerbound compare` of the test images, the gaps are those of `evaluate --metrics gaps`, of test
images that are evenly spaced; they are kept in gaps/ beside the runs.

The toy: z of N(0, I) in the plane, and one number x = z_1² + z_2 / 10 + noise of 0.3, so that p(z|x) has a mode on
either side. log p(x) by quadrature; each family's member is the one of largest bound that Adam finds from four starts.
"""

import argparse
import json
import math
from pathlib import Path

import matplotlib
import numpy as np
import torch
from torch import Tensor

import lowerbound as lb
from common import pair, put
from lowerbound.devices import pick_device
from lowerbound.errors import ModelError
from lowerbound.families import IAF, DiagonalNormal, Family, FullNormal, GaussianMixture, Head, SplineCoupling
from lowerbound.metrics.base import World, measure
from lowerbound.noise import seeded
from lowerbound.runs.inputs import as_batches, open_data
from lowerbound.runs.run import Run
from lowerbound.space import Space

RECIPE = "gmm-posterior-mnist"
DIAGONAL = {"posterior": {"type": "families.DiagonalNormal"}}
RUNS: dict[str, dict] = {
    "ae": {
        "posterior": {"type": "families.Point"},
        "objective": {"type": "objectives.Reconstruction", "error": {"type": "objectives.CrossEntropy"}},
    },
    "vae": DIAGONAL,
    "iwae": DIAGONAL | {"objective": {"type": "objectives.IWAE", "draws": 5, "warmup": 5000}},
    "full": {"posterior": {"type": "families.FullNormal"}},
    "lowrank": {"posterior": {"type": "families.LowRankNormal"}},
    "mixture": {},
    "iaf": {"posterior": {"type": "families.IAF"}},
    "spline": {"posterior": {"type": "families.SplineCoupling"}},
    "vamp": DIAGONAL | {"prior": {"type": "priors.VampPrior"}},
}
PAGE = Path("docs/what-is-a-better-bound.md")
PICTURES = PAGE.parent / "pictures"

# ---- runs


def trained(folder: Path, skipped: set[str], device: str) -> dict[str, Path]:
    wanted = {name: model for name, model in RUNS.items() if name not in skipped}
    for name, model in wanted.items():
        if not (folder / name / "evaluation/test.json").exists():
            if not (folder / name / "model.safetensors").exists():
                lb.train(RECIPE, out=folder / name, model=model, device=device, progress=True)
            lb.evaluate(folder / name, device=device)
    return {name: folder / name for name in wanted}


def tighter(runs: dict[str, Path]) -> str:
    """Bounds and their differences to the VAE's, image by image."""
    each = {name: np.load(path / "evaluation/test.npz") for name, path in runs.items()}
    rows = ["| run | ELBO | minus vae | NLL, 500 draws | minus vae |", "| --- | ---: | ---: | ---: | ---: |"]
    for name, own in each.items():
        if "nll" not in own.files:
            rows.append(f"| {name} | ? | | ? | |")
            continue
        cells = [name]
        for metric, sign in (("elbo", ""), ("nll", "<= ")):
            value, difference = own[metric], own[metric] - each["vae"][metric]
            cells += [f"{sign}{pair(value)}", pair(difference, "+") if name != "vae" else "0"]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def gaps(runs: dict[str, Path], n: int, device: str) -> str:
    names = ("marginal", "approximation", "amortization", "ais", "simulated.gap")
    head = "marginal gap | approximation | amortization | log p(x) by AIS | gap of AIS on simulated images"
    rows = [f"| run | {head} |", "| --- |" + " ---: |" * len(names)]
    for name, path in runs.items():
        try:
            found = kept_gaps(path, n, device)
        except ModelError:
            continue  # an autoencoder has no bound
        cells = (f"{v['relation']} {v['value']:.2f} ± {v['stderr']:.2f}" for v in (found[f"gaps.{n}"] for n in names))
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(rows)


def kept_gaps(path: Path, n: int, device: str) -> dict[str, dict]:
    """Of n test images, evenly spaced: the file has the digits in order, and its first thousand are zeros."""
    kept = path.parent / f"gaps/{path.name}-{n}.json"
    if not kept.exists():
        run, at = Run.open(path), pick_device(device)
        images = open_data(run, "test")
        spaced = images.take(np.linspace(0, len(images) - 1, n).astype(int))
        found = measure(World(run.load(at), as_batches(run, spaced, at), run), names=["gaps"], options={"limit": n})
        kept.parent.mkdir(exist_ok=True)
        kept.write_text(json.dumps({name: value.entry() for name, value in found.items()}))
    return json.loads(kept.read_text())


# ---- the toy

X, NOISE, SIDE = 2.0, 0.3, 4.0
FAMILIES: dict[str, Family] = {
    "diagonal normal": DiagonalNormal(),
    "full normal": FullNormal(),
    "mixture of 5": GaussianMixture(learned_weights=True),
    "IAF": IAF(hidden=(64,), context=8),
    "spline couplings": SplineCoupling(hidden=(64,), context=8),
}


def log_joint(z: Tensor) -> Tensor:
    """log p(x, z) of z [..., 2]."""
    prior = -0.5 * z.square().sum(-1) - math.log(2 * math.pi)
    mean = z[..., 0].square() + z[..., 1] / 10
    return prior - 0.5 * ((X - mean) / NOISE).square() - math.log(NOISE * math.sqrt(2 * math.pi))


def lattice(n: int) -> tuple[Tensor, float]:
    """Points [n, n, 2] of the plane, and the area of each."""
    line = torch.linspace(-SIDE, SIDE, n)
    return torch.stack(torch.meshgrid(line, line, indexing="xy"), -1), float(line[1] - line[0]) ** 2


STARTS = (0.05, True), (0.05, True), (1.0, False), (1.0, False)
"""The standard deviation of h, and whether log p(x, z) grows from nothing: near N(0, I), from where both modes are
found, and anywhere, from where one is."""


def best(family: Family, steps: int) -> tuple[Head, Tensor]:
    """The Head of the largest bound, and log p(x, z) - log q(z|x) of 100,000 draws of it."""
    found = []
    for start, (scale, annealed) in enumerate(STARTS):
        head = fitted(family, steps, start, scale, annealed)
        with torch.no_grad(), seeded("measure"):
            q = head(head.h)
            z = q.rsample((100_000,))
            found.append((head, (log_joint(z) - q.log_prob(z))[:, 0]))
    return max(found, key=lambda pair: float(pair[1].mean()))


def fitted(family: Family, steps: int, start: int, scale: float, annealed: bool) -> Head:
    """A Head, with its own h beside it."""
    with seeded("toy", start):
        head = Head(family, Space((2,)))
        h = torch.nn.Parameter(scale * torch.randn(1, *head.in_shape))
        head.register_parameter("h", h)
        optimizer = torch.optim.Adam(head.parameters(), 1e-2)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for step in range(steps):
            q = head(h)
            drawn = family.natural.draw(q, 256)
            heat = min(1.0, 0.02 + 1.3 * step / steps) if annealed else 1.0
            bound = drawn.mean(heat * log_joint(drawn.z) - q.log_prob(drawn.z))
            optimizer.zero_grad()
            (-bound.sum()).backward()
            optimizer.step()
            schedule.step()
    return head


def toy(steps: int) -> str:
    torch.set_default_dtype(torch.float64)
    fine, area = lattice(1601)
    log_p = float(torch.logsumexp(log_joint(fine).flatten(), 0)) + math.log(area)
    coarse, _ = lattice(161)
    panels = {f"p(z|x), log p(x) = {log_p:.3f}": (log_joint(coarse) - log_p).exp()}
    rows = ["| family | bound | gap to log p(x) | of the diagonal's gap closed |", "| --- | ---: | ---: | ---: |"]
    first = None
    for name, family in FAMILIES.items():
        head, w = best(family, steps)
        gap = log_p - float(w.mean())
        with torch.no_grad():
            panels[f"{name}: gap {gap:.3f}"] = head(head.h).log_prob(coarse[..., None, :]).exp()[..., 0]
        first = gap if first is None else first
        closed = "" if name == "diagonal normal" else f"{100 * (1 - gap / first):.1f} %"
        error = float(w.std()) / math.sqrt(len(w))
        rows.append(f"| {name} | {float(w.mean()):.3f} ± {error:.3f} | {gap:.3f} | {closed} |")
        print(rows[-1], flush=True)
    draw(panels, PICTURES / "two-modes.png")
    torch.set_default_dtype(torch.float32)
    return "\n".join(rows)


def draw(panels: dict[str, Tensor], path: Path) -> None:
    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, 3, figsize=(9, 6.3), sharex=True, sharey=True, layout="constrained")
    top = float(next(iter(panels.values())).max())
    for axis, (name, density) in zip(axes.flat, panels.items(), strict=True):
        axis.imshow(density, extent=(-SIDE, SIDE, -SIDE, SIDE), origin="lower", vmin=0, vmax=top, cmap="magma")
        axis.set_title(name, fontsize=10)
    figure.supxlabel("z1", fontsize=9)
    figure.supylabel("z2", fontsize=9)
    figure.savefig(path, dpi=110)
    plt.close(figure)


# ---- the page


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--runs", type=Path, default=Path("runs/bound"))
    p.add_argument("--images", type=int, default=30, help="of the gaps")
    p.add_argument("--steps", type=int, default=1200, help="of each start of the toy")
    p.add_argument("--toy", action="store_true", help="only the toy")
    p.add_argument("--skip", default="", help="names of runs, toy: leave out")
    p.add_argument("--device", default="auto")
    args = p.parse_args()
    skipped = set(args.skip.split(","))
    if "toy" not in skipped:
        put(PAGE, "toy", toy(args.steps))
    if args.toy:
        return
    runs = trained(args.runs, skipped, args.device)
    put(PAGE, "bounds", tighter(runs))
    put(PAGE, "gaps", gaps(runs, args.images, args.device))
    lb.compare([*runs.values()], markdown=PAGE, png=PICTURES / "what-is-a-better-bound.png", device=args.device)


if __name__ == "__main__":
    main()

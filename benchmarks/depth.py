"""What a level of latents buys: the runs, table and picture of docs/depth.md, by one command.

    python benchmarks/depth.py                       # a quarter of an hour of one core, then seconds again
    python benchmarks/depth.py --runs runs/depth     # where the runs are, or are put

The 8x8 digits of 17 grey values. Runs that are not there yet are trained. Bounds, their differences image by image and
the KL of each level come from `lowerbound evaluate` of the test images.
"""

import argparse
import re
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch

import lowerbound as lb
from common import pair, parser, put, set_threads
from lowerbound.noise import seeded
from lowerbound.pictures import Table, save_png, table_picture

PAGE = Path("docs/depth.md")
PICTURE = PAGE.parent / "pictures/depth.png"
TRAIN = {"steps": 1500, "batch": 64, "averaging": {"decay": 0.999}}
HIERARCHY = {
    "type": "models.hierarchical.HierarchicalVAE",
    "likelihood": {"type": "families.DiscretizedNormal"},
    "width": 32,
    "inner": 16,
}
SHOWN = 12  # samples in a row of the picture


def levels(n: int) -> dict:
    """One on a map of 1x1, the others on 4x4."""
    scales = [{"factor": 8, "latent": 10, "blocks": 1}, {"factor": 2, "levels": n - 1, "latent": 4, "blocks": 2}]
    return HIERARCHY | {"scales": scales[:n] if n > 1 else [{"factor": 8, "latent": 10, "blocks": 3}]}


def diffusion(steps: int | None) -> dict:
    network = {"type": "networks.unet.UNet", "widths": [16, 32], "blocks": 1}
    return {"type": "models.diffusion.Diffusion", "steps": steps, "network": network}


RUNS: dict[str, dict] = {
    "VAE": {},
    "IWAE, 5 draws": {"objective": {"type": "objectives.IWAE", "draws": 5}},
    **{f"hierarchy of {n}": levels(n) for n in (1, 2, 3, 4, 5, 6)},
    **{f"diffusion, T = {n}": diffusion(n) for n in (1, 2, 4, 16, 64, 256)},
    "diffusion, continuous": diffusion(None),
}


def folder(root: Path, name: str) -> Path:
    return root / re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def trained(root: Path) -> dict[str, Path]:
    for name, model in RUNS.items():
        out = folder(root, name)
        if not (out / "model.safetensors").exists():
            print(f"training {name}", flush=True)
            optimizer = {"type": "optimization.AdamW", "lr": 1e-3, "weight_decay": 0.3 if "E" in name else 0.01}
            lb.train("vae", out=out, model=model, train=TRAIN | {"optimizer": optimizer})
        if not (out / "evaluation/test.json").exists():
            lb.evaluate(out)
    return {name: folder(root, name) for name in RUNS}


def timed(run: Path, rounds: int = 7) -> tuple[float, float]:
    """Milliseconds of a step of 64 images, and seconds of 64 samples: medians."""
    model = lb.load(run)
    x = torch.randint(17, (64, 1, 8, 8), dtype=torch.uint8)
    model.train()
    steps = [_seconds(lambda: model.loss(x).value.backward()) for _ in range(rounds + 2)][2:]
    model.eval()
    samples = [_seconds(lambda: model.sample(64)) for _ in range(3)]
    return 1000 * median(steps), median(samples)


def _seconds(what) -> float:
    begun = time.perf_counter()
    what()
    return time.perf_counter() - begun


def table(runs: dict[str, Path]) -> str:
    each = {name: np.load(path / "evaluation/test.npz") for name, path in runs.items()}
    plain = each["VAE"]["elbo"]
    rows = [
        "| model | parameters | bound, nats | minus VAE | NLL, bits/dim | step of 64, ms | 64 samples, s |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, path in runs.items():
        own, nll = each[name], each[name]["bits_per_dim"]
        bound = own["elbo"] if "elbo" in own.files else -own["nll"]
        size = sum(p.numel() for p in lb.load(path).parameters())
        step, drawn = timed(path)
        cells = [name, f"{size:,}", pair(bound), pair(bound - plain, "+") if name != "VAE" else "0"]
        cells += [f"<= {nll.mean():.3f}", f"{step:.0f}", f"{drawn:.2f}"]
        rows.append(f"| {' | '.join(cells)} |")
        print(rows[-1], flush=True)
    return "\n".join(rows)


def picture(runs: dict[str, Path]) -> None:
    """Samples of each run in a row."""
    rows = []
    for path in runs.values():
        with seeded(0, "depth"):
            rows.append(lb.load(path).sample(SHOWN).numpy())
    save_png(table_picture(Table(np.stack(rows), 17, rows=tuple(runs))), PICTURE)


def main() -> None:
    p: argparse.ArgumentParser = parser(__doc__)
    p.add_argument("--runs", type=Path, default=Path("runs/depth"))
    args = p.parse_args()
    set_threads(args.threads)
    torch.set_num_threads(args.threads)
    runs = trained(args.runs)
    put(PAGE, "depth", table(runs))
    picture(runs)


if __name__ == "__main__":
    main()

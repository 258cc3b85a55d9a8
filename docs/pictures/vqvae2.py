"""The pictures of docs/vqvae2.md, from a run of a VQ-VAE: python docs/pictures/vqvae2.py runs/faces

vqvae2-levels.png: images, their codes in false colours, and what is decoded from some of the levels.
vqvae2-priors.png: what is decoded from codes that are uniform, drawn by each place's frequencies, and by the priors.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lowerbound import pictures
from lowerbound.models.vqvae import VQVAE
from lowerbound.noise import seeded
from lowerbound.runs import inputs
from lowerbound.runs.run import Run
from lowerbound.sampling import drawing
from lowerbound.verbs.doctor.encoded import shuffled_places

CPU = torch.device("cpu")


def code_maps(vectors: np.ndarray, size: tuple[int, int], levels: int) -> np.ndarray:
    """Maps of code vectors [B, D, h, w] in false colours: [B, 3, H, W], pixel values in [0, levels - 1].

    Red, green and blue are the first three principal components, by rank, so that near vectors have near colours.
    """
    B, D, h, w = vectors.shape
    flat = vectors.transpose(0, 2, 3, 1).reshape(-1, D)
    centred = flat - flat.mean(0)
    axes = np.linalg.svd(np.unique(centred, axis=0), full_matrices=False)[2][:3]
    colours = np.zeros((len(flat), 3))
    for i, axis in enumerate(axes):
        rank = np.unique(centred @ axis, return_inverse=True)[1]
        colours[:, i] = rank / max(1, rank.max()) * (levels - 1)
    maps = colours.reshape(B, h, w, 3).transpose(0, 3, 1, 2)
    rows, columns = (np.arange(out) * own // out for out, own in zip(size, (h, w), strict=True))
    return maps[:, :, rows][:, :, :, columns]


@torch.no_grad()
def levels_picture(run: Run, model: VQVAE, x: Tensor) -> pictures.Table:
    """A row for each image: itself, the codes of each level, what the coarsest levels decode to."""
    codes = model.codes(x)
    maps = [code_maps(v.numpy(), run.facts.shape[-2:], run.facts.levels) for v in model.vectors(codes)]
    parts = [model.partial(x, model.levels[: l + 1]).numpy() for l in range(len(model.levels))]
    columns = [x.numpy(), *maps, *parts]
    channels = max(c.shape[1] for c in columns)
    whole = np.stack([np.broadcast_to(c, (len(c), channels, *c.shape[2:])) for c in columns], 1)
    grids = [
        f"{name}: {space.shape[-2]}x{space.shape[-1]}" for name, space in zip(model.levels, model.spaces, strict=True)
    ]
    named = [f"from {model.levels[0]}", *(f"and {name}" for name in model.levels[1:])]
    return pictures.Table(whole, run.facts.levels, columns=("image", *grids, *named))


@torch.no_grad()
def priors_picture(run: Run, model: VQVAE, codes: tuple[Tensor, ...], n: int) -> pictures.Table:
    """A row for each way to draw codes: uniform; each place on its own; the coarsest levels by their priors; all."""
    uniform = tuple(torch.randint(s.levels or 1, (n, *s.shape)) for s in model.spaces)
    shuffled = tuple(shuffled_places(c, n) for c in codes)
    y = run.condition(n)
    drawn = drawing.draw(model, n, y).z
    rows = {"uniform codes": uniform, "each place on its own": shuffled}
    for l in range(1, len(model.levels)):
        rows[f"prior of {' and '.join(model.levels[:l])}"] = (*drawn[:l], *shuffled[l:])
    rows["all priors"] = drawn
    images = np.stack([drawing.pixels(model.render(z, y, mean=True)) for z in rows.values()])
    return pictures.Table(images, run.facts.levels, rows=tuple(rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("-n", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args()
    run = Run.open(a.run)
    model = run.load()
    assert isinstance(model, VQVAE)
    x = next(inputs.as_batches(run, inputs.open_data(run, "valid"), CPU).in_order(500)).x
    with seeded(a.seed):
        levels = levels_picture(run, model, x[torch.randperm(len(x))[:5]])
        priors = priors_picture(run, model, model.codes(x), a.n)
    for name, table in (("levels", levels), ("priors", priors)):
        pictures.save_png(pictures.table_picture(table), a.out / f"vqvae2-{name}.png")


if __name__ == "__main__":
    main()

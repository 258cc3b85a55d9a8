#!/usr/bin/env python3
"""How far do seeds, strengths and objectives decide what is disentangled? Two objectives, four strengths, three seeds.

    python benchmarks/disentangling.py runs/disentangling

Trains beta-VAE and beta-TCVAE on sprites of 32x32 and of fewer combinations, every one of them once, and scores the
posterior means of all images: MIG; of a part of them DCI's disentanglement, and UDR, how far the seeds agree; and the
bound. At strength 1 the two are one objective, which is trained once. Unsupervised disentangling is not identifiable
(Locatello et al. 2019, https://arxiv.org/abs/1811.12359): look at the spread over seeds beside that over strengths.

What is trained and scored is kept in the folder and never done twice: the same command goes on where it was stopped,
also inside a training. Each training takes one thread, `--jobs` of them at a time. The table (table.md) and the plot
(mig.png) are written anew after every score.
"""

import itertools
import json
import multiprocessing as mp
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

import common
from lowerbound.data.attributes import Factor
from lowerbound.data.rendered import sprites
from lowerbound.metrics.disentangling import dci, mig, udr
from lowerbound.model import LatentModel
from lowerbound.pictures.plots import Series, lines
from lowerbound.progress import Progress
from lowerbound.training import train as training

COUNTS = (3, 3, 12, 8, 8)  # of shape, scale, orientation, x, y: 6,912 images
OBJECTIVES = {"beta-VAE": "objectives.ELBO", "beta-TCVAE": "objectives.BetaTC"}
COLORS = ("#1f77b4", "#d62728")
FEW = 1000  # images for DCI, whose trees take long, and for UDR
CODES = "codes.npy"
CHANGES = (
    "model.likelihood=families.Bernoulli",
    "model.encoder=networks.conv.Conv",
    "model.encoder.widths=[16,32,32]",
    "model.decoder=networks.conv.Conv",
    "model.decoder.widths=[16,32,32]",
    "model.latent=10",
    "train.epochs=null",
    "train.batch=64",
    "train.optimizer=optimization.Adam",
    "train.optimizer.lr=1e-3",
    "train.log_every=200",
)


class One(NamedTuple):
    """A training."""

    objective: str
    strength: float
    seed: int

    @property
    def folder(self) -> str:
        return f"{'one' if self.strength == 1 else self.objective}-{self.strength:g}-seed{self.seed}"


def main() -> None:
    p = common.parser(__doc__)
    p.add_argument("out", type=Path, help="the folder of all trainings, the table and the plot")
    p.add_argument("--seeds", type=int, default=3)
    p.add_argument("--strengths", type=float, nargs="+", default=[1, 2, 4, 8])
    p.add_argument("--steps", type=int, default=1000)
    p.add_argument("--jobs", type=int, default=2, help="trainings at a time, a thread each")
    options = p.parse_args()
    common.set_threads(1)
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    data = options.out / "sprites32.npz"
    if not data.exists():
        write_data(data)
    everything = [
        One(objective, strength, seed)
        for objective in OBJECTIVES
        for strength in options.strengths
        for seed in range(options.seeds)
    ]
    first = {one.folder: one for one in everything}  # each folder once
    work = [(options.out / folder, data, one, options.steps) for folder, one in first.items()]
    with mp.get_context("spawn").Pool(options.jobs) as pool:
        for folder in pool.imap_unordered(scored, work):
            print(f"{folder}: {json.loads((folder / 'scores.json').read_text())}", flush=True)
            report(options.out, everything)
    print((options.out / "table.md").read_text())
    common.finish(options, common.machine(1), {one.folder: scores_of(options.out, one) for one in everything})


# ---- the data


def factors() -> tuple[np.ndarray, tuple[Factor, ...]]:
    """Those of every image, [N, 5], and what they are."""
    grids = [factor.grid(n) for factor, n in zip(sprites.FACTORS, COUNTS, strict=True)]
    return np.stack(np.meshgrid(*grids, indexing="ij"), -1).reshape(-1, len(grids)), sprites.FACTORS


def write_data(path: Path) -> None:
    """All combinations, half as large as sprites are: a pixel is white where half of the larger ones are."""
    values, kinds = factors()
    large = sprites.rendered(values)[:, 0]
    n, size, _ = large.shape
    x = large.reshape(n, size // 2, 2, size // 2, 2).sum((2, 4)) >= 2
    temporary = path.with_suffix(".part.npz")
    np.savez_compressed(
        temporary, x=x.astype(np.uint8), levels=2, factors=values, factor_names=np.array([k.name for k in kinds])
    )
    temporary.rename(path)


# ---- a training, and its scores


def scored(work: tuple[Path, Path, One, int]) -> Path:
    """Train and score one, as far as it isn't yet."""
    out, data, one, steps = work
    scores = out / "scores.json"
    if scores.exists():
        return out
    torch.set_num_threads(1)
    changes = (*CHANGES, f"model.objective={OBJECTIVES[one.objective]}", f"model.objective.beta={one.strength}")
    held = training.train(
        "vae", data=data, out=out, resume=True, seed=one.seed, changes=(*changes, f"train.steps={steps}"),
        device="cpu", progress=Progress(),
    )  # fmt: skip
    last = [r for r in held.run.log.records() if r["split"] == "valid"][-1]
    found = measured(held.model, data, out / CODES) | {"bound": last["elbo"]}
    temporary = scores.with_suffix(".part")
    temporary.write_text(json.dumps({k: round(float(v), 4) for k, v in found.items()}))
    temporary.rename(scores)
    return out


def measured(model: Any, data: Path, kept: Path) -> dict[str, float]:
    """Of the posterior means of all images, a few of which are kept."""
    assert isinstance(model, LatentModel)
    values, kinds = factors()
    x = torch.from_numpy(np.load(data)["x"])[:, None]
    with torch.no_grad():
        codes = torch.cat([model.features(part) for part in x.split(256)]).numpy()
    few = np.random.default_rng(0).permutation(len(codes))[:FEW]
    np.save(kept, codes[few])
    return {"mig": mig(codes, values, kinds).value, "dci": dci(codes[few], values[few], kinds, splits=1).value}


# ---- what is told of them


def scores_of(out: Path, one: One) -> dict[str, float] | None:
    path = out / one.folder / "scores.json"
    return json.loads(path.read_text()) if path.exists() else None


def settings(out: Path, everything: Sequence[One]) -> Iterator[tuple[str, float, list[dict[str, float]]]]:
    """The scores of each objective and strength, of the seeds that are done."""
    for (objective, strength), group in itertools.groupby(everything, lambda one: one[:2]):
        found = [scores for one in group if (scores := scores_of(out, one)) is not None]
        if found:
            yield objective, strength, found


def report(out: Path, everything: Sequence[One]) -> None:
    """Write the table and the plot of all that is done."""
    rows = list(settings(out, everything))
    text = [
        "| objective | strength | MIG of each seed | MIG, mean | DCI disentanglement | UDR | bound, nats |",
        "|" + "---|" * 7,
    ]
    for objective, strength, found in rows:
        each = ", ".join(f"{s['mig']:.3f}" for s in found)
        means = [np.mean([s[name] for s in found]) for name in ("mig", "dci", "bound")]
        agree = agreement(out, [one for one in everything if one[:2] == (objective, strength)])
        text.append(
            f"| {objective} | {strength:g} | {each} | {means[0]:.3f} | {means[1]:.3f} | {agree} | {means[2]:.2f} |"
        )
    (out / "table.md").write_text("\n".join([*text, "", *spreads(rows)]) + "\n")
    series = [
        Series(objective, [point(strength, found) for name, strength, found in rows if name == objective], color)
        for objective, color in zip(OBJECTIVES, COLORS, strict=True)
    ]
    ticks = {strength: f"{strength:g}" for _, strength, _ in rows}
    lines(
        [one for one in series if one.points],
        out / "mig.png",
        title="MIG of 32x32 sprites: from the lowest to the highest of the seeds",
        x="strength (beta)",
        y="MIG",
        ticks=ticks,
    )


def agreement(out: Path, seeds: Sequence[One]) -> str:
    """The UDR of those that are done."""
    paths = [out / one.folder / CODES for one in seeds if scores_of(out, one) is not None]
    return f"{udr([np.load(path) for path in paths]).value:.3f}" if len(paths) > 1 else "-"


def point(strength: float, found: Sequence[dict[str, float]]) -> tuple[float, float, float]:
    """The middle between the lowest and the highest MIG, and half their distance."""
    values = [s["mig"] for s in found]
    return strength, (max(values) + min(values)) / 2, (max(values) - min(values)) / 2


def spreads(rows: Sequence[tuple[str, float, list[dict[str, float]]]]) -> Iterator[str]:
    """How much seeds decide, beside strengths."""
    for objective in OBJECTIVES:
        values = [[s["mig"] for s in found] for name, _, found in rows if name == objective]
        if values and min(map(len, values)) > 1 and len(values) > 1:
            seeds, means = max(max(v) - min(v) for v in values), [float(np.mean(v)) for v in values]
            yield (
                f"{objective}: MIG differs by up to {seeds:.3f} between seeds of one strength, and by "
                f"{max(means) - min(means):.3f} between the means of strengths."
            )


if __name__ == "__main__":
    main()

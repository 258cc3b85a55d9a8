"""How well each score of `lowerbound score` tells foreign images from MNIST's own: AUROC, honestly.

    python benchmarks/anomaly.py --runs runs [--hold-out 1 9] [--images 2000] [--json FILE]

One model is `vae-conv-mnist`; for each held-out digit another is the same recipe trained without it. They are trained
into the folder of runs unless they are there. The usual images are of MNIST's test part; the foreign ones:

- other data sets, brought to grey 28x28: the faces of lfw, CIFAR-10, and --faces FILE (a folder or zip);
- MNIST's own test images inverted, mirrored, upside down, and at a quarter of their brightness;
- the held-out digit.

A score above the median of usual images calls an image foreign: minus log p(x) (its bound), reconstruction error, KL,
typicality. AUROC is the chance that a foreign image has the higher score of a pair: 0.5 is a coin, and below 0.5 the
score takes the foreign images for the more usual ones. Its standard error is that of Hanley & McNeil (1982).
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import lowerbound as lb
from lowerbound.data.base import Images
from lowerbound.editing.learn import auroc
from lowerbound.errors import UserError
from lowerbound.files import replacing
from lowerbound.progress import Terminal
from lowerbound.runs.inputs import as_batches, open_data, open_like
from lowerbound.runs.run import Run
from lowerbound.verbs.score import scored, typicality

CPU = torch.device("cpu")
SCORES = ("-log likelihood", "reconstruction error", "KL", "typicality")


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--runs", type=Path, default=Path("runs"), help="where the trained models are, or will be")
    p.add_argument("--hold-out", type=int, nargs="*", default=[1, 9], metavar="DIGIT")
    p.add_argument("--faces", help="one more foreign data set: a folder, .zip or .npz")
    p.add_argument("--images", type=int, default=2000, help="of each set, evenly spaced")
    p.add_argument("--draws", type=int, default=10)
    p.add_argument("--json", type=Path, metavar="FILE")
    options = p.parse_args()
    rows = [*whole(options)]
    for digit in options.hold_out:
        rows += without(digit, options)
    print(table(rows))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


def whole(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Every foreign set against MNIST, by the model of all digits."""
    run = trained(options.runs / "vae-conv-mnist", "mnist")
    usual = few(open_data(run, "test"), options.images)
    x = np.asarray(usual.x)
    foreign = {
        "inverted": replace(usual, x=255 - x),
        "mirrored": replace(usual, x=np.ascontiguousarray(x[..., ::-1])),
        "upside down": replace(usual, x=np.ascontiguousarray(x[..., ::-1, :])),
        "a quarter as bright": replace(usual, x=x // 4),
    }
    for source in ("lfw", "cifar10", *([options.faces] if options.faces else [])):
        try:
            foreign[Path(source).stem] = few(open_like(run, "test", source, Terminal()), options.images)
        except UserError as e:
            print(f"left out: {e}")
    return compared(run, "mnist", usual, foreign, options)


def without(digit: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """The held-out digit against the others, by the model that never saw it."""
    options.runs.mkdir(parents=True, exist_ok=True)
    data = options.runs / f"mnist-without-{digit}.npz"
    if not data.exists():
        images = lb.Run.open(options.runs / "vae-conv-mnist").recipe.data.open("train")
        assert images.y is not None
        kept = np.asarray(images.y) != digit
        with replacing(data) as temporary, temporary.open("wb") as file:
            np.savez(file, x=np.asarray(images.x)[kept, 0], y=np.asarray(images.y)[kept])
    run = trained(options.runs / f"vae-conv-without-{digit}", str(data))
    test = open_data(run, "test", "mnist")
    assert test.y is not None
    y = np.asarray(test.y)
    usual, foreign = (few(chosen(test, np.flatnonzero(rows)), options.images) for rows in (y != digit, y == digit))
    return compared(run, f"mnist without {digit}", usual, {f"the digit {digit}": foreign}, options)


def trained(path: Path, data: str) -> Run:
    if not (path / "model.safetensors").exists():
        lb.train("vae-conv-mnist", data=data, out=path, progress=True, device="cpu")
    return Run.open(path)


def few(images: Images, n: int) -> Images:
    return chosen(images, np.linspace(0, len(images) - 1, min(n, len(images))).astype(int))


def chosen(images: Images, index: np.ndarray) -> Images:
    y = None if images.y is None else np.asarray(images.y)[index]
    return replace(images, x=np.asarray(images.x)[index], y=y, paths=None, factors=None)


def compared(
    run: Run, name: str, usual: Images, foreign: dict[str, Images], options: argparse.Namespace
) -> list[dict[str, Any]]:
    model = run.load()
    typical = typicality(run, model, options.draws, 0, CPU).mean

    def scores(images: Images) -> dict[str, np.ndarray]:
        parts = [part for _, part in scored(model, as_batches(run, images, CPU), options.draws)]
        likely, error, kl = (np.concatenate([getattr(p, field) for p in parts]) for field in parts[0]._fields)
        return dict(zip(SCORES, (-likely, error, kl, abs(likely - typical)), strict=True))

    own, rows = scores(usual), []
    for other, images in foreign.items():
        theirs = scores(images)
        found = {s: area(own[s], theirs[s]) for s in SCORES}
        nats = float(-theirs[SCORES[0]].mean()), float(-own[SCORES[0]].mean())
        rows.append({"usual": name, "foreign": other, "n": [len(usual), len(images)], "log p": nats, "auroc": found})
        print(rows[-1], flush=True)
    return rows


def area(usual: np.ndarray, foreign: np.ndarray) -> tuple[float, float]:
    """The chance that a foreign image has the higher score, and its standard error."""
    return auroc(np.concatenate([foreign, usual]), np.arange(len(foreign) + len(usual)) < len(foreign))


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        f"| usual | foreign | images | log p, foreign and usual | {' | '.join(SCORES)} |",
        "|---|---|---|---|" + "---|" * 4,
    ]
    for row in rows:
        n, m = row["n"]
        theirs, own = row["log p"]
        cells = [f"{value:.3f} ± {error:.3f}" for value, error in row["auroc"].values()]
        lines.append(
            f"| {row['usual']} | {row['foreign']} | {n} and {m} | {theirs:.0f}, {own:.0f} | {' | '.join(cells)} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()

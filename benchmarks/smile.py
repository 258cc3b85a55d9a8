#!/usr/bin/env python3
"""Does an edit do what its name says, to the same face? Smiles on faces that don't smile, judged by another network.

    lowerbound train vae-smiles --data smiles.zip
    lowerbound direction runs/vae-smiles smile --label smiling
    python benchmarks/smile.py runs/vae-smiles --strength 2.5 --picture smiles.png

or, of a model that is given whether a face smiles, by saying so:

    lowerbound train faces-smile-attribute --data smiles.zip data.attributes=smile.csv
    python benchmarks/smile.py runs/faces-smile-attribute --attribute smile --strength 1 --picture smiles.png

The first 200 not-smiling faces of the test part, which neither the model nor the direction has seen, are edited by one
strength, through the code's mean, without the residual. Reported, each with its count:

smiling          what a classifier of pixels calls smiling, of the originals, reconstructions and edited faces. It is a
                 small convolutional network that shares nothing with the model. Judge A is trained on the training
                 part; judge B, on fewer images, on those of valid and test that are neither edited nor were used for
                 the direction. Their accuracy is that on images they were not trained on (A: the rest of test; B: the
                 training part).
identity         of the upper two thirds, by the distance of pixels (L2): whether an edited face is nearest to its own
                 reconstruction among the 200 reconstructions, and a reconstruction to its own original among the 200
                 originals. A model that turns every face into the mean smile fails here.
change           mean absolute difference of edited face and reconstruction, in pixel values of 0 to 255, in the lower
                 third (the mouth) and above.

The table over several strengths is of 200 faces of the validation part: by it, and not by the test part, a strength is
chosen.
"""

from argparse import Namespace
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import common
from lowerbound import pictures
from lowerbound.data.base import Images
from lowerbound.directions import found, shifted
from lowerbound.editing.latents import Editor
from lowerbound.noise import key, seeded
from lowerbound.runs.conditions import Asked
from lowerbound.runs.inputs import open_data
from lowerbound.runs.run import Run

Edit = Callable[..., tuple[Tensor, Tensor, Tensor]]  # of an editor, images and a strength: originals, before, after

FACES = 200
GRID = (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0)
VALUES = (0.0, 0.25, 0.5, 0.75, 1.0)  # of an attribute


def main() -> None:
    p = common.parser(__doc__)
    p.add_argument("run", type=Path)
    p.add_argument("--direction", default="smile")
    p.add_argument("--attribute", help="of a model that is given attributes, in the place of the direction")
    p.add_argument("--positive", default="smiling", help="the class that the direction leads to")
    p.add_argument("--strength", type=float, default=2.5)
    p.add_argument("--seed", type=int, default=0, help="of the judges")
    p.add_argument("--picture", type=Path, help="ten faces: originals, reconstructions, edited")
    options = p.parse_args()
    torch.set_num_threads(options.threads)
    about = common.machine(options.threads)

    run = Run.open(options.run)
    editor = Editor(run)
    parts = {part: open_data(run, part) for part in ("train", "valid", "test")}
    smiling = {part: _smiling(images, options.positive) for part, images in parts.items()}
    chosen = {part: np.flatnonzero(~smiling[part])[:FACES] for part in ("valid", "test")}
    judges = _judges(parts, smiling, chosen, options)

    figures: dict[str, Any] = {name: {"accuracy": accuracy} for name, (_, accuracy) in judges.items()}
    common.show("judges: accuracy on images they were not trained on", [(n, a) for n, (_, a) in judges.items()])
    judge = judges["A, of the training part"][0]
    edit = partial(told, name=options.attribute) if options.attribute else partial(edited, name=options.direction)
    for strength in VALUES if options.attribute else GRID:
        found_valid = measure(edit, editor, parts["valid"].x[chosen["valid"]], strength, {"A": judge})
        figures[f"valid, strength {strength:g}"] = found_valid
        common.show(f"valid, strength {strength:g}", list(found_valid.items()))
    x = parts["test"].x[chosen["test"]]
    figures["test"] = measure(edit, editor, x, options.strength, {n: j for n, (j, _) in judges.items()})
    common.show(f"test, strength {options.strength:g}, {len(x)} faces", list(figures["test"].items()))
    if options.picture:
        x, r, e = (_bytes(v[:10]) for v in edit(editor, x, strength=options.strength))
        pictures.save_png(pictures.rows([x, r, e], columns=10), options.picture)
    common.finish(options, about, figures)


def _smiling(images: Images, positive: str) -> np.ndarray:
    if images.y is None or images.classes is None or positive not in images.classes:
        raise SystemExit(f"the run's data have no class {positive!r}")
    return np.asarray(images.y) == images.classes.index(positive)


@torch.no_grad()
def edited(editor: Editor, x: np.ndarray, *, name: str, strength: float) -> tuple[Tensor, Tensor, Tensor]:
    """Originals, reconstructions and edited faces, pixel values [N, C, H, W]."""
    originals = torch.from_numpy(np.asarray(x))
    z = editor.encode(originals)
    known = {name: found(name, editor.directions)}
    return originals.float(), editor.decode(z), editor.decode(shifted(z, {name: strength}, known))


@torch.no_grad()
def told(editor: Editor, x: np.ndarray, *, name: str, strength: float) -> tuple[Tensor, Tensor, Tensor]:
    """The same of a model that is given the attribute: encoded with what it predicts of the face."""
    originals = torch.from_numpy(np.asarray(x))
    predicted = editor.model.predicted_condition(originals)
    if predicted is None:
        raise SystemExit("the model predicts no attributes; train it with model.predictor")
    own, wanted = (editor.run.completed(predicted, Asked(attributes=a)) for a in ({}, {name: strength}))
    z = editor.encode(originals, own)
    return originals.float(), editor.decode(z, own), editor.decode(z, wanted)


def measure(edit: Edit, editor: Editor, x: np.ndarray, strength: float, judges: dict[str, nn.Module]) -> dict[str, Any]:
    """The figures of one strength."""
    originals, reconstructions, changed = edit(editor, x, strength=strength)
    told: dict[str, Any] = {}
    for judge, network in judges.items():
        for kind, faces in (("originals", originals), ("reconstructions", reconstructions), ("edited", changed)):
            told[f"{kind} called smiling by {judge}"] = float(_called(network, faces).float().mean())
    top = round(originals.shape[2] * 2 / 3)
    told["edited nearest to its own reconstruction"] = _nearest(changed[:, :, :top], reconstructions[:, :, :top])
    told["reconstruction nearest to its own original"] = _nearest(reconstructions[:, :, :top], originals[:, :, :top])
    difference = (changed - reconstructions).abs()
    told["mean absolute change, lower third"] = float(difference[:, :, top:].mean())
    told["mean absolute change, upper two thirds"] = float(difference[:, :, :top].mean())
    told["mean absolute error of the reconstructions"] = float((reconstructions - originals).abs().mean())
    return told


def _nearest(a: Tensor, b: Tensor) -> float:
    """The share of the rows of a whose nearest row of b is that of their own number."""
    nearest = torch.cdist(a.flatten(1), b.flatten(1)).argmin(1)
    return float((nearest == torch.arange(len(a))).float().mean())


def _bytes(x: Tensor) -> np.ndarray:
    return x.round().clamp(0, 255).byte().numpy()


# ---- the judges


def _judges(
    parts: dict[str, Images], smiling: dict[str, np.ndarray], chosen: dict[str, np.ndarray], options: Namespace
) -> dict[str, tuple[nn.Module, float]]:
    """Each with its accuracy on images that it was not trained on."""
    rest = {part: np.setdiff1d(np.arange(len(parts[part])), rows) for part, rows in chosen.items()}
    sets = {
        "train": (torch.from_numpy(np.asarray(parts["train"].x)), torch.from_numpy(smiling["train"])),
        "rest": _joined([(parts[p].x[rest[p]], smiling[p][rest[p]]) for p in ("valid", "test")]),
        "rest of test": _joined([(parts["test"].x[rest["test"]], smiling["test"][rest["test"]])]),
    }
    plans = {
        "A, of the training part": ("train", "rest of test", 8),
        "B, of images not used for the direction": ("rest", "train", 30),
    }
    found_judges = {}
    for name, (learnt, tested, epochs) in plans.items():
        judge = classifier(*sets[learnt], epochs=epochs, seed=options.seed)
        x, y = sets[tested]
        found_judges[name] = judge, float((_called(judge, x.float()) == y).float().mean())
    return found_judges


def _joined(pairs: list[tuple[np.ndarray, np.ndarray]]) -> tuple[Tensor, Tensor]:
    x, y = (np.concatenate([p[i] for p in pairs]) for i in (0, 1))
    return torch.from_numpy(x), torch.from_numpy(y)


def classifier(x: Tensor, y: Tensor, *, epochs: int, seed: int, batch: int = 64) -> nn.Module:
    """Whether an image is of the positive class: three convolutions, trained with mirrored and shifted images."""
    with seeded(seed, "judge"):
        C, H, W = x.shape[1:]
        network = nn.Sequential(
            *(nn.Conv2d(C, 16, 5, 2, 2), nn.BatchNorm2d(16), nn.ReLU()),
            *(nn.Conv2d(16, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU()),
            *(nn.Conv2d(32, 64, 3, 2, 1), nn.BatchNorm2d(64), nn.ReLU()),
            *(nn.Flatten(), nn.Dropout(0.5), nn.LazyLinear(1)),
        )
        network(torch.zeros(2, C, H, W))
        steps = epochs * len(x) // batch
        optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
        order = torch.cat([torch.randperm(len(x)) for _ in range(epochs)])
        for step in range(steps):
            rows = order[step * batch : (step + 1) * batch]
            images = _moved(x[rows].float(), key(seed, "judge", step))
            loss = F.binary_cross_entropy_with_logits(network(_scaled(images))[:, 0], y[rows].float())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return network.eval()


def _moved(x: Tensor, number: int) -> Tensor:
    """A batch moved by up to 3 pixels, and half of it mirrored."""
    rng = np.random.default_rng(number)
    x = torch.where(torch.from_numpy(rng.random((len(x), 1, 1, 1)) < 0.5), x.flip(-1), x)
    i, j = rng.integers(0, 7, 2)
    padded = F.pad(x, (3, 3, 3, 3), mode="replicate")
    return padded[:, :, i : i + x.shape[2], j : j + x.shape[3]]


def _scaled(x: Tensor) -> Tensor:
    return x / 127.5 - 1


@torch.no_grad()
def _called(network: nn.Module, x: Tensor) -> Tensor:
    """Whether each image is called positive: bool [N]."""
    return torch.cat([network(_scaled(part))[:, 0] > 0 for part in x.split(500)])


if __name__ == "__main__":
    main()

"""One model on every branch of the taxonomy of generative models: the runs, map, table and samples of docs/taxonomy.md.

    python benchmarks/taxonomy.py                     # a quarter of an hour of one core, then a minute again
    python benchmarks/taxonomy.py --runs runs/map     # where the runs are, or are put

All are of the same images: the 8x8 digits of scikit-learn, a pixel white where its value is at least 8 of 16. Runs that
are not there yet are trained, by the recipes that the page names, a few of them made smaller for images of this size.
The table is that of `lowerbound compare --quality`, in the features of a classifier of the same images.
"""

import argparse
import textwrap
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_digits

import lowerbound as lb
from common import parser, put, set_threads

PAGE = Path("docs/taxonomy.md")
MAP, SAMPLES = PAGE.parent / "pictures/taxonomy.png", PAGE.parent / "pictures/taxonomy-samples.png"


class Leaf(NamedTuple):
    """A model of the map: its run's name, what it is called, the recipe, what is changed of it, and its guide."""

    name: str
    title: str
    recipe: str
    guide: str
    model: Mapping[str, Any] = MappingProxyType({})
    train: Mapping[str, Any] = MappingProxyType({})


# what the recipes of larger images need for these
SHORT = {"averaging": {"decay": 0.99}}  # of runs that are shorter than the recipes' averages are long
CAUSAL = {"steps": 1500, "epochs": None, "batch": 64} | SHORT
DECAY = {"optimizer": {"type": "optimization.AdamW", "lr": 2e-3, "weight_decay": 0.3}}
BERNOULLI = {"likelihood": {"type": "families.Bernoulli"}}
HIERARCHY = {"scales": [{"factor": 8, "latent": 10}, {"factor": 2, "levels": 3, "latent": 4}], "width": 32, "inner": 16}

# Goodfellow (2016), figure 9, https://arxiv.org/abs/1701.00160: the branches, and a model or more on each
TREE: dict[str, Any] = {
    "explicit density": {
        "tractable": {
            "fully visible belief nets": (
                Leaf("fvsbn", "FVSBN", "fvsbn-mnist", "autoregressive.md", {}, CAUSAL | DECAY),
                Leaf("nade", "NADE", "nade-mnist", "autoregressive.md", {}, CAUSAL | DECAY),
                Leaf("made", "MADE", "made-mnist", "autoregressive.md", {}, CAUSAL),
                Leaf(
                    "pixelcnn",
                    "PixelCNN",
                    "pixelcnn-mnist",
                    "autoregressive.md",
                    {"network": {"width": 32, "blocks": 4}},
                    CAUSAL | {"steps": 2000},
                ),
                Leaf("pixelrnn", "PixelRNN", "pixelrnn-mnist", "autoregressive.md", {}, CAUSAL | {"steps": 400}),
            ),
            "change of variables": (Leaf("flow", "flow", "flow-digits", "flows.md"),),
        },
        "approximate": {
            "variational": (
                Leaf("vae", "VAE", "vae", "editing.md", BERNOULLI),
                Leaf(
                    "hvae",
                    "hierarchical VAE",
                    "hvae-mnist",
                    "hierarchical.md",
                    HIERARCHY,
                    {"steps": 1500, "batch": 64} | SHORT,
                ),
                Leaf("diffusion", "diffusion", "diffusion-digits", "diffusion.md", {"fourier": []}, {"steps": 1000}),
                Leaf("vqvae", "VQ-VAE-2", "vqvae2-digits", "vqvae2.md", BERNOULLI),
            ),
            "Markov chain": (Leaf("rbm", "Boltzmann machine", "rbm-digits", "boltzmann.md"),),
        },
    },
    "implicit density": {
        "Markov chain": (Leaf("gsn", "GSN", "gsn-digits", "chains.md", BERNOULLI),),
        "direct": (Leaf("gan", "GAN", "gan-digits", "gan.md"),),
    },
}


def leaves(tree: Any = TREE) -> list[Leaf]:
    return [*tree] if isinstance(tree, tuple) else [leaf for branch in tree.values() for leaf in leaves(branch)]


def images(root: Path) -> Path:
    """The data set, an .npz of two levels with labels."""
    path = root / "binary-digits.npz"
    if not path.exists():
        root.mkdir(parents=True, exist_ok=True)
        x, y = load_digits(return_X_y=True)
        np.savez_compressed(path, x=(x.reshape(-1, 8, 8) >= 8).astype(np.uint8), y=y.astype(np.int64), levels=2)
    return path


def trained(root: Path) -> tuple[list[Path], Path]:
    """The runs, and that of the classifier."""
    data = images(root)
    small = Leaf("classifier", "", "classifier", "", {}, {"steps": 1000, "epochs": None})
    for leaf in (small, *leaves()):
        if (root / leaf.name / "model.safetensors").exists():
            continue
        print(f"training {leaf.name}", flush=True)
        options = {"label": leaf is small}
        lb.train(
            leaf.recipe, data=data, out=root / leaf.name, model={**leaf.model}, train={**leaf.train}, options=options
        )
    return [root / leaf.name for leaf in leaves()], root / "classifier"


def listed(report: Any, tree: Any = TREE, depth: int = 0) -> list[str]:
    """The map in words: a line for each branch and model, these linked to recipe and guide."""
    says = {row["name"]: row["nll"]["relation"] for row in report["runs"]}
    indent, found = "  " * depth, []
    if isinstance(tree, tuple):
        for leaf in tree:
            recipe = f"[`{leaf.recipe}`](../src/lowerbound/recipes/{leaf.recipe}.toml)"
            found.append(f"{indent}- `{says[leaf.name]}` [{leaf.title}]({leaf.guide}), {recipe}")
        return found
    for name, branch in tree.items():
        found += [f"{indent}- {name}", *listed(report, branch, depth + 1)]
    return found


def draw(report: Any) -> None:
    """The map as a picture: branches from left to right, at each leaf what it says of log p(x)."""
    says = {row["name"]: row["nll"]["relation"] for row in report["runs"]}
    fig, ax = plt.subplots(figsize=(10.5, 6))
    ax.axis("off")
    ax.set_xlim(0, 5)
    ax.set_ylim(-len(leaves()), 1)
    heights = (-float(i) for i in range(len(leaves())))

    def box(depth: float, y: float, text: str, face: str = "white") -> Any:
        style = {"boxstyle": "round,pad=0.35", "facecolor": face, "edgecolor": "#888888"}
        return ax.text(depth, y, text, va="center", fontsize=10, bbox=style)

    def branch(name: str, tree: Any, depth: int) -> tuple[Any, float]:
        """Draw a branch and all that grows on it: its box, and its height."""
        if isinstance(tree, tuple):
            grown = []
            for leaf in tree:
                y, sign = next(heights), says[leaf.name]
                grown.append((box(4, y, f"{sign.replace('<=', '≤')}  {leaf.title}", COLOURS[sign]), y))
        else:
            grown = [branch(n, t, depth + 1) for n, t in tree.items()]
        y = sum(y for _, y in grown) / len(grown)
        own = box(depth, y, textwrap.fill(name, 14))
        for other, there in grown:
            ax.plot([_edges(fig, own)[1], _edges(fig, other)[0]], [y, there], color="#888888", lw=1, zorder=0)
        return own, y

    branch("maximum likelihood", TREE, 0)
    fig.savefig(MAP, dpi=110, bbox_inches="tight")
    plt.close(fig)


def _edges(fig: Any, text: Any) -> tuple[float, float]:
    """Where the box of a text begins and ends, in the units of its axes."""
    extent, padding = text.get_window_extent(fig.canvas.get_renderer()), 6
    ends = [(extent.x0 - padding, 0), (extent.x1 + padding, 0)]
    return tuple(text.axes.transData.inverted().transform(ends)[:, 0])


COLOURS = {"=": "#d7ecd9", "<=": "#d9e6f5", "~": "#f7ecd0", "?": "#eeeeee"}


def main() -> None:
    p: argparse.ArgumentParser = parser(__doc__)
    p.add_argument("--runs", type=Path, default=Path("runs/map"))
    args = p.parse_args()
    set_threads(args.threads)
    torch.set_num_threads(args.threads)
    runs, classifier = trained(args.runs)
    report = lb.compare(runs, quality=True, extractor=classifier, markdown=PAGE, png=SAMPLES)
    put(PAGE, "map", "\n".join(listed(report)))
    draw(report)


if __name__ == "__main__":
    main()

"""The difference of two runs on the same images, with its paired standard error.

lowerbound evaluate runs/a --draws 500 && lowerbound evaluate runs/b --draws 500
python benchmarks/paired.py runs/a runs/b --metric nll
"""

import argparse
from pathlib import Path

import numpy as np


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("a", type=Path)
    p.add_argument("b", type=Path)
    p.add_argument("--metric", default="nll")
    p.add_argument("--split", default="test")
    options = p.parse_args()
    a, b = (np.load(run / "evaluation" / f"{options.split}.npz")[options.metric] for run in (options.a, options.b))
    if len(a) != len(b):
        p.error(f"{options.a} was measured on {len(a)} images, {options.b} on {len(b)}")
    difference = a - b
    error = difference.std(ddof=1) / np.sqrt(len(difference))
    means = f"{a.mean():.3f} - {b.mean():.3f} = {difference.mean():.3f}"
    print(f"{options.metric}: {means} ± {error:.3f} (n={len(a)}, paired)")


if __name__ == "__main__":
    main()

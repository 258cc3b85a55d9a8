"""Images to try this on: 7,000 of MNIST (which the library downloads, or finds below LOWERBOUND_DATA) as .png files.

images/ has 6,090 that nobody has sorted. sorted/train/ has ten of each class in a folder of its own, sorted/valid/ one,
and sorted/test/ eighty, only to measure by. truth.csv says what those of images/ are, which a person would not know.
"""

import csv
from pathlib import Path

import numpy as np
from PIL import Image

from lowerbound.data import Data

mnist = Data(source="mnist").open("train")
assert mnist.y is not None
seen, truth = np.zeros(10, int), [("path", "label")]
for i, (x, label) in enumerate(zip(mnist.x[:7000], mnist.y[:7000], strict=True)):
    n, name = seen[label], f"{i:04}.png"
    part = "sorted/train" if n < 10 else "sorted/valid" if n < 11 else "sorted/test" if n < 91 else "images"
    folder = Path("images") if part == "images" else Path(part, str(label))
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(x[0]).save(folder / name)
    if part == "images":
        truth.append((name, str(label)))
    seen[label] += 1
with Path("truth.csv").open("w", newline="") as file:
    csv.writer(file).writerows(truth)

"""Photos to try this on: 600 of one product, rendered, with 15 odd ones among them, which odd.csv names."""

import csv
from pathlib import Path

import numpy as np
from PIL import Image

from lowerbound.data.rendered import scenes

SHAPES = {"sphere": 0, "box": 1, "cylinder": 2, "capsule": 3}
ODD = {  # what can be wrong with a photo
    "another shape": {"shape": SHAPES["box"]},
    "another colour": {"object_hue": 0.35},
    "chromed": {"reflectance": 0.95},
    "too small": {"size": 0.55},
    "another background": {"wall_hue": 0.95},
}

rng = np.random.default_rng(0)
odd = {int(i): list(ODD)[k % len(ODD)] for k, i in enumerate(rng.choice(600, 15, replace=False))}
photos = []
for i in range(600):
    usual = {
        "shape": SHAPES["cylinder"],
        "size": rng.uniform(0.85, 1.0),
        "object_hue": rng.normal(0.06, 0.01),
        "reflectance": rng.uniform(0.05, 0.25),
        "light_azimuth": rng.uniform(20, 100),
        "light_elevation": rng.uniform(35, 65),
        "light_intensity": rng.uniform(0.6, 1.0),
        "camera_azimuth": rng.uniform(-10, 10),
        "camera_elevation": rng.uniform(12, 24),
        "camera_distance": rng.uniform(4.2, 5.2),
    }
    photos.append(usual | ODD.get(odd.get(i, ""), {}))

Path("photos").mkdir(exist_ok=True)
for i, x in enumerate(scenes.rendered(scenes.rows(photos), 64)):
    Image.fromarray(x.transpose(1, 2, 0)).save(f"photos/{i:03}.png")
with Path("odd.csv").open("w", newline="") as file:
    csv.writer(file).writerows([("path", "what"), *((f"{i:03}.png", what) for i, what in sorted(odd.items()))])

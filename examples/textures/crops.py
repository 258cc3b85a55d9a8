"""Crops to try this on: two textures of the photographs that come with scikit-learn, 2,000 crops of 32x32 of each."""

from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_image

SIZE, PER_TEXTURE = 32, 2000
TEXTURES = {  # photograph, and the part of it that is one texture: left, top, right, bottom
    "leaves": ("china.jpg", (400, 330, 565, 415)),
    "petals": ("flower.jpg", (212, 135, 408, 312)),
}

rng = np.random.default_rng(0)
for name, (photo, box) in TEXTURES.items():
    texture = Image.fromarray(load_sample_image(photo)).crop(box)
    Path("crops", name).mkdir(parents=True, exist_ok=True)
    for i in range(PER_TEXTURE):
        x, y = rng.integers(texture.width - SIZE + 1), rng.integers(texture.height - SIZE + 1)
        texture.crop((x, y, x + SIZE, y + SIZE)).save(f"crops/{name}/{i:04}.png")

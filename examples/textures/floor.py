"""A floor of tiles without seams: floor.py FOLDER OUT, with the tiles of FOLDER.

Neighbours overlap by a quarter of a tile. For each place the tile is taken that fits best to those already there (Efros
& Freeman 2001, Image Quilting), and is faded in over the overlap. The last row and column overlap the first: the floor
repeats without a seam.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

GRID = 8  # tiles of a side
folder, out = sys.argv[1:]
tiles = np.stack([np.asarray(Image.open(p), np.float32) for p in sorted(Path(folder).glob("*.png"))])  # [N, S, S, C]
side = tiles.shape[1]
lap = side // 4
step = side - lap

ramp = np.minimum(1, (np.arange(side) + 0.5) / lap)  # from 0 to 1 over the overlap
ramp = np.minimum(ramp, ramp[::-1])
weight = (ramp[:, None] * ramp[None])[..., None]  # [S, S, 1]
total = np.zeros((GRID * step, GRID * step, tiles.shape[3]), np.float32)
weights = np.zeros((GRID * step, GRID * step, 1), np.float32)
used = np.zeros(len(tiles))
for row in range(GRID):
    for column in range(GRID):
        at = np.ix_(*((np.arange(side) + k * step) % (GRID * step) for k in (row, column)))
        there = weights[at] > 0
        misfit = (((tiles - total[at] / np.maximum(weights[at], 1e-9)) ** 2) * there).sum((1, 2, 3))
        best = np.argmin(misfit / max(1, there.sum()) + 300 * used)  # others first: no tile stands out
        used[best] += 1
        total[at] += weight * tiles[best]
        weights[at] += weight
Image.fromarray((total / weights).round().clip(0, 255).astype(np.uint8)).save(out)

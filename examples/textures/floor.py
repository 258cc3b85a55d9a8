"""A floor of tiles without seams: floor.py FOLDER OUT, with the tiles of FOLDER.

Neighbours overlap by a quarter of a tile. For each place the tile is taken that fits best to those already there, and
is cut where the two differ least (Efros & Freeman 2001, Image Quilting). The last row and column overlap the first:
the floor repeats without a seam.
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


def beyond(error: np.ndarray) -> np.ndarray:
    """Which pixels of the first columns lie right of the cheapest path from top to bottom: errors [S, lap] -> bools."""
    cost = error.copy()
    for y in range(1, len(cost)):
        before = np.pad(cost[y - 1], 1, constant_values=np.inf)
        cost[y] += np.minimum(np.minimum(before[:-2], before[1:-1]), before[2:])
    right, x = np.zeros(error.shape, bool), int(np.argmin(cost[-1]))
    for y in reversed(range(len(cost))):
        x = x if y == len(cost) - 1 else max(0, x - 1) + int(np.argmin(cost[y, max(0, x - 1) : x + 2]))
        right[y, x + 1 :] = True
    return right


floor = np.zeros((GRID * step, GRID * step, tiles.shape[3]), np.float32)
laid = np.zeros(floor.shape[:2], bool)
used = np.zeros(len(tiles))
for row in range(GRID):
    for column in range(GRID):
        at = np.ix_(*((np.arange(side) + k * step) % (GRID * step) for k in (row, column)))
        differ = ((tiles - floor[at]) ** 2).sum(3) * laid[at]  # [N, S, S]
        best = np.argmin(differ.sum((1, 2)) / max(1, laid[at].sum()) + 300 * used)  # others first: no tile stands out
        used[best] += 1
        new = np.ones((side, side), bool)
        for turn in range(4):  # the overlap at the left, at the top, at the right, below
            seen, error = np.rot90(laid[at], -turn), np.rot90(differ[best], -turn)
            if seen[side // 2, 0]:
                cut = np.ones((side, side), bool)
                cut[:, :lap] = beyond(error[:, :lap])
                new &= np.rot90(cut, turn)
        floor[at] = np.where((new | ~laid[at])[..., None], tiles[best], floor[at])
        laid[at] = True
Image.fromarray(floor.round().clip(0, 255).astype(np.uint8)).save(out)

"""Crops to try this on: two rendered grounds, stones and pebbles, and 2,000 crops of 32x32 of each."""

from pathlib import Path

import numpy as np
from PIL import Image

SIDE, SIZE, PER_TEXTURE = 384, 32, 2000
rng = np.random.default_rng(0)
pixels = np.stack(np.mgrid[:SIDE, :SIDE], -1).astype(np.float32)  # [S, S, 2]


def nearest(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distances of each pixel to its two nearest points, [2, S, S], and which is nearest; the ground repeats."""
    near = np.full((2, SIDE, SIDE), np.inf, np.float32)
    which = np.zeros((SIDE, SIDE), int)
    for n, point in enumerate(points):
        away = np.abs(pixels - point)
        far = np.hypot(*np.moveaxis(np.minimum(away, SIDE - away), -1, 0))
        which = np.where(far < near[0], n, which)
        near[1] = np.minimum(near[1], np.maximum(near[0], far))
        near[0] = np.minimum(near[0], far)
    return near, which


def spread(gap: float, tries: int = 4000) -> np.ndarray:
    """Points that are no nearer to one another than the gap."""
    kept = np.zeros((0, 2))
    for point in rng.uniform(0, SIDE, (tries, 2)):
        away = np.abs(kept - point)
        if not len(kept) or np.hypot(*np.minimum(away, SIDE - away).T).min() > gap:
            kept = np.vstack([kept, point])
    return kept


def stones() -> np.ndarray:
    """Each place belongs to the nearest stone; where two are as near, there is mortar."""
    points = spread(10)
    (first, second), which = nearest(points)
    hue = rng.choice([(150, 140, 130), (125, 120, 118), (165, 145, 115), (110, 100, 95)], len(points))[which]
    edge = np.clip((second - first) / 3, 0, 1)[..., None]
    return edge * hue * (1.1 - 0.02 * first[..., None]) + (1 - edge) * np.array([52, 48, 44])


def pebbles() -> np.ndarray:
    """Round ones on sand, lit from above."""
    points = spread(9)
    (far, _), which = nearest(points)
    size = rng.uniform(3, 5, len(points))[which]
    hue = rng.choice([(86, 120, 138), (190, 198, 196), (60, 84, 96), (140, 160, 150)], len(points))[which]
    rise = (points[which][..., 0] - pixels[..., 0] + SIDE / 2) % SIDE - SIDE / 2  # above the middle
    inside = np.clip(size - far + 0.5, 0, 1)[..., None]
    return inside * hue * (1 + 0.07 * rise)[..., None] + (1 - inside) * np.array([206, 186, 146])


for name, texture in (("stones", stones()), ("pebbles", pebbles())):
    ground = Image.fromarray(texture.round().clip(0, 255).astype(np.uint8))
    Path("crops", name).mkdir(parents=True, exist_ok=True)
    for i in range(PER_TEXTURE):
        x, y = rng.integers(SIDE - SIZE + 1, size=2).tolist()
        ground.crop((x, y, x + SIZE, y + SIZE)).save(f"crops/{name}/{i:04}.png")

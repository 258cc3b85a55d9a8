"""How many scenes are rendered a second: at 64x64 and 128x128, one ray a pixel and 2x2 at edges, one object and three.

python benchmarks/rendering.py [--threads 2] [--seconds 5]
"""

import argparse
import time

import torch

from lowerbound.data.rendered import scenes

CASES = [(size, samples, objects) for size in (64, 128) for samples in (1, 2) for objects in (1, 3)]


def rate(size: int, samples: int, objects: int, seconds: float) -> float:
    """Images a second, the first batch left out."""
    values = scenes.drawn(256, objects, 0)
    scenes.rendered(values[:64], size, objects=objects, samples=samples)
    begun, n = time.perf_counter(), 0
    while time.perf_counter() - begun < seconds:
        n += len(scenes.rendered(values, size, objects=objects, samples=samples))
    return n / (time.perf_counter() - begun)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--seconds", type=float, default=5.0)
    options = p.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{'pixels':>9} {'rays':>5} {'objects':>8} {'images/s':>9}   ({options.threads} threads)")
    for size, samples, objects in CASES:
        found = rate(size, samples, objects, options.seconds)
        print(f"{f'{size}x{size}':>9} {samples**2:>5} {objects:>8} {found:>9.0f}")


if __name__ == "__main__":
    main()

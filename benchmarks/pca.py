#!/usr/bin/env python3
"""The squared error of principal component analysis, which autoencoders are measured against; and how near a linear
autoencoder comes to it.

python benchmarks/pca.py                                # 30 components of MNIST
python benchmarks/pca.py --run runs/ae-linear-pca       # and the run's own error and subspace

Per test image, summed over pixels scaled to [0, 1]. `clipped`: the reconstruction is kept inside [0, 1], as that of a
run is in `lowerbound evaluate`.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from scipy.linalg import subspace_angles
from sklearn.decomposition import PCA

from lowerbound.data.base import Data
from lowerbound.runs.run import Run


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", default="mnist")
    p.add_argument("--components", type=int, default=30)
    p.add_argument("--run", type=Path, help="a linear autoencoder of the same data, without a sigmoid")
    options = p.parse_args()
    train, valid, test = (pixels(options.data, split) for split in ("train", "valid", "test"))
    for name, x in (("train", train), ("train and valid", np.concatenate([train, valid]))):
        pca = PCA(options.components, svd_solver="covariance_eigh").fit(x)
        show(
            f"PCA-{options.components} of {len(x):,} images ({name})", pca.inverse_transform(pca.transform(test)), test
        )
    if options.run:
        picture, weight = linear(options.run, options.data)
        show(str(options.run), picture, test)
        basis = PCA(weight.shape[1], svd_solver="covariance_eigh").fit(train).components_
        angles = np.degrees(subspace_angles(weight, np.asarray(basis).T))
        print(f"principal angles to PCA's subspace: median {np.median(angles):.2f}, largest {angles.max():.1f} degrees")


def pixels(data: str, split: str) -> np.ndarray:
    """[N, C H W] in [0, 1]."""
    images = Data(source=data).open(split)
    return np.asarray(images.x).reshape(len(images), -1) / (images.levels - 1)


def show(name: str, picture: np.ndarray, x: np.ndarray) -> None:
    error, clipped = (((p - x) ** 2).sum(1).mean() for p in (picture, picture.clip(0, 1)))
    print(f"{name}: squared error {error:.3f}, clipped {clipped:.3f}", flush=True)


@torch.no_grad()
def linear(path: Path, data: str) -> tuple[np.ndarray, np.ndarray]:
    """A run's reconstructions of the test split, not clipped, [N, C H W]; and its decoder's weights [C H W, D]."""
    model = Run.open(path).load()
    images = Data(source=data).open("test")
    p = model.decode(model.encode(torch.from_numpy(np.asarray(images.x))).mean)  # pyright: ignore
    weight = model.decoder.layers[0].weight  # pyright: ignore
    return p.centre.flatten(1).double().numpy() / (images.levels - 1), weight.double().numpy()


if __name__ == "__main__":
    main()

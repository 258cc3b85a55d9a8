"""CIFAR-10 in its binary release (never the pickled one)."""

from collections.abc import Iterator

import numpy as np

from lowerbound.data.bundled import Bundled, Published, damaged, published_parts
from lowerbound.data.download import Download
from lowerbound.data.source import Contents

_RECORD = 1 + 3 * 32 * 32  # a label, then the red, green and blue planes
_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


class Cifar10(Published):
    """Files: the five batches of train, then test. The last 5,000 of train are valid."""

    raw_shape = (3, 32, 32)

    def contents(self) -> Contents:
        records = [self._records(i) for i in range(len(self.files))]
        y = np.concatenate([r[:, 0] for r in records]).astype(np.int64)
        if y.max() > 9:
            raise damaged(self.files[0].parent, f"a label of {y.max()}, expected 0 to 9")
        test = len(records[-1])
        return Contents(
            keys=[str(i) for i in range(len(y))],
            part=published_parts(len(y) - test, None, test),
            carve=(),
            shape=self.prepared_shape(),
            levels=self.preparation.levels or 256,
            y=y,
            classes=_CLASSES,
        )

    def blocks(self) -> Iterator[np.ndarray]:
        for i in range(len(self.files)):
            yield self._records(i)[:, 1:].reshape(-1, *self.raw_shape)

    def _records(self, i: int) -> np.ndarray:
        size = self.files[i].stat().st_size
        if not size or size % _RECORD:
            raise damaged(self.files[i], f"{size} bytes are no multiple of {_RECORD}")
        return np.memmap(self.files[i], np.uint8, "r").reshape(-1, _RECORD)


_FOLDER = "cifar-10-batches-bin/"
BUNDLED = (
    Bundled(
        "cifar10",
        "60,000 colour 32x32 photographs, 10 classes",
        tuple((_FOLDER + f"{f}.bin",) for f in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")),
        Cifar10,
        (
            Download(
                "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
                "md5",
                "c32a1d4ab5d03f1284b67883e8d87530",
                _FOLDER,
            ),
        ),
    ),
)

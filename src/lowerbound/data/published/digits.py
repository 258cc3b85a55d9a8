"""scikit-learn's bundled digits: 1,797 grey 8x8 images with values from 0 to 16. Works offline on a fresh machine."""

from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import numpy as np

from lowerbound.data.bundled import Bundled, Published
from lowerbound.data.source import Contents
from lowerbound.data.split import PARTS, UNDECIDED


class Digits(Published):
    def fingerprint(self) -> Any:
        return version("scikit-learn")

    def contents(self) -> Contents:
        self.x, y = _load()
        self.raw_shape = (1, 8, 8)
        return Contents(
            keys=[str(i) for i in range(len(y))],
            part=np.full(len(y), UNDECIDED, np.int8),
            carve=PARTS[1:],
            shape=self.prepared_shape(),
            levels=self.preparation.levels or 17,
            y=y,
            classes=tuple("0123456789"),
        )

    def blocks(self) -> Iterator[np.ndarray]:
        yield self.x


def _load() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits  # a slow import, needed once

    digits: Any = load_digits()
    return digits.images.astype(np.uint8)[:, None], digits.target.astype(np.int64)


_LICENCE = (
    "CC BY 4.0 (E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI, "
    "https://doi.org/10.24432/C50P49)"
)

BUNDLED = (
    Bundled("digits", "1,797 grey 8x8 digits of scikit-learn, 17 levels, 10 classes", (), Digits, licence=_LICENCE),
)

"""Frey Faces: the frames of a film of one face."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from lowerbound.data.bundled import Bundled, Published, damaged
from lowerbound.data.source import Contents


class FreyFaces(Published):
    """Neighbouring frames are nearly equal, so the parts are blocks of time: the first 80 %, then 10 %, then 10 %."""

    raw_shape = (1, 28, 20)

    def contents(self) -> Contents:
        self.x = self._load()
        n = len(self.x)
        valid, test = n - 2 * (n // 10), n - n // 10
        return Contents(
            keys=[str(i) for i in range(n)],
            part=np.repeat(np.array([0, 1, 2], np.int8), [valid, test - valid, n - test]),
            carve=(),
            shape=self.prepared_shape(),
            levels=self.preparation.levels or 256,
        )

    def blocks(self) -> Iterator[np.ndarray]:
        yield self.x

    def _load(self) -> np.ndarray:
        """The variable `ff`, uint8 [560, N], as [N, 1, 28, 20]."""
        from scipy.io import loadmat  # a slow import, needed once

        try:
            faces: Any = loadmat(self.files[0], variable_names=["ff"])["ff"]
        except (ValueError, TypeError, KeyError, OSError, NotImplementedError) as e:
            raise damaged(self.files[0], e) from None
        if faces.dtype != np.uint8 or faces.ndim != 2 or len(faces) != 560:
            raise damaged(self.files[0], f"ff is {faces.dtype} {list(faces.shape)}, expected uint8 [560, N]")
        return np.ascontiguousarray(faces.T).reshape(-1, 1, 28, 20)


BUNDLED = (
    Bundled("frey-faces", "1,965 grey 28x20 frames of one face", (("frey-faces/frey_rawface.mat",),), FreyFaces),
)

"""An .npz file: `x` uint8 [N, H, W] or [N, H, W, C], perhaps `y`, `levels`, `factors` and `factor_names`."""

import math
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from lowerbound.data.archives import file_fingerprint
from lowerbound.data.source import ArraySource, Contents, Preparation
from lowerbound.data.split import PARTS, UNDECIDED
from lowerbound.errors import DataError

BLOCK = 2**22  # bytes of x read at a time


class Npz(ArraySource):
    """Rows keep the order of the file; x is streamed, never held whole."""

    def __init__(self, path: Path, preparation: Preparation):
        self.path, self.preparation = path, preparation
        self.name = path.stem
        self.origin = str(path.resolve())

    def fingerprint(self) -> Any:
        return file_fingerprint(self.path)

    def contents(self) -> Contents:
        n, *image = self._header()
        self.raw_shape = (image[2] if len(image) == 3 else 1, image[0], image[1])
        small = self._small()
        y = small.get("y")
        if y is not None and (y.shape != (n,) or y.dtype.kind not in "iu"):
            raise DataError(f"{self.path}: y must be {n} whole numbers, got {y.dtype} {list(y.shape)}")
        if y is not None and y.min() < 0:
            raise DataError(f"{self.path}: y must be labels from 0, got {int(y.min())}")
        factors, names = self._factors(small, n)
        return Contents(
            keys=[str(i) for i in range(n)],
            part=np.full(n, UNDECIDED, np.int8),
            carve=PARTS[1:],
            shape=self.prepared_shape(),
            levels=self.preparation.levels or self._levels(small),
            y=y,
            classes=None if y is None else tuple(str(i) for i in range(int(y.max()) + 1)),
            factors=factors,
            factor_names=names,
        )

    def blocks(self) -> Iterator[np.ndarray]:
        with self._reading(), zipfile.ZipFile(self.path) as archive, archive.open("x.npy") as file:
            n, *image = _npy_header(file)[0]
            rows = max(1, BLOCK // math.prod(image))
            for start in range(0, n, rows):
                count = min(rows, n - start)
                data = file.read(count * math.prod(image))
                x = np.frombuffer(data, np.uint8).reshape(count, *image)
                yield x[:, None] if x.ndim == 3 else x.transpose(0, 3, 1, 2)

    def _header(self) -> tuple[int, ...]:
        """The shape of x. Raises DataError unless it is images."""
        with self._reading(), zipfile.ZipFile(self.path) as archive:
            names = [n.removesuffix(".npy") for n in archive.namelist()]
            if "x" not in names:
                raise DataError(f"{self.path}: has no array x; its arrays: {', '.join(names) or 'none'}")
            with archive.open("x.npy") as file:
                shape, fortran, dtype = _npy_header(file)
        if dtype != np.uint8:
            raise DataError(f"{self.path}: x must be uint8, got {dtype}")
        if len(shape) not in (3, 4) or 0 in shape or (len(shape) == 4 and shape[3] not in (1, 3)):
            raise DataError(f"{self.path}: x must be [N, H, W] or [N, H, W, C] with 1 or 3 channels, got {list(shape)}")
        if fortran:
            raise DataError(f"{self.path}: x is in Fortran order; save np.ascontiguousarray(x)")
        return shape

    def _small(self) -> dict[str, np.ndarray]:
        with self._reading(), np.load(self.path, allow_pickle=False) as arrays:
            return {k: arrays[k] for k in ("y", "levels", "factors", "factor_names") if k in arrays.files}

    def _levels(self, small: dict[str, np.ndarray]) -> int:
        levels = small.get("levels", np.array(256))
        if levels.size != 1 or levels.dtype.kind not in "iu" or not 2 <= int(levels.item()) <= 256:
            raise DataError(f"{self.path}: levels must be a whole number from 2 to 256, got {levels.tolist()}")
        return int(levels.item())

    def _factors(self, small: dict[str, np.ndarray], n: int) -> tuple[np.ndarray | None, tuple[str, ...] | None]:
        if ("factors" in small) != ("factor_names" in small):
            raise DataError(f"{self.path}: factors and factor_names belong together, only one is there")
        if "factors" not in small:
            return None, None
        factors, names = small["factors"], small["factor_names"]
        if factors.shape != (n, names.size) or factors.dtype.kind not in "biuf" or names.dtype.kind != "U":
            raise DataError(
                f"{self.path}: factors must be numbers [{n}, F] with F factor_names, got {factors.dtype} "
                f"{list(factors.shape)} and {names.size} names"
            )
        return factors, tuple(names.ravel().tolist())

    def _reading(self) -> "_Reading":
        return _Reading(self.path)


class _Reading:
    """What numpy and zipfile raise for a damaged file, in one sentence."""

    def __init__(self, path: Path):
        self.path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if isinstance(error, (zipfile.BadZipFile, ValueError, OSError, EOFError, zlib.error, KeyError, RuntimeError)):
            raise DataError(f"{self.path}: not a readable .npz file: {error}") from None


def _npy_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(file)

"""MNIST and Fashion-MNIST (idx files), and Larochelle's fixed binarization of MNIST (text files)."""

import gzip
import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from lowerbound.data.bundled import Bundled, Published, damaged, published_parts
from lowerbound.data.download import Download
from lowerbound.data.source import Contents

_BLOCK = 4096  # images read at a time
_DIMS = 28 * 28
_GARMENTS = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


class Idx(Published):
    """Files: images and labels of train, then of test. The last 5,000 of train are valid."""

    def contents(self) -> Contents:
        (train, *size), (test, *other) = _idx_shape(self.files[0], 3), _idx_shape(self.files[2], 3)
        if size != other:
            raise damaged(self.files[2], f"images of {other}, but those of {self.files[0].name} are {size}")
        self.raw_shape = (1, size[0], size[1])
        labels = [_idx_labels(self.files[1], train), _idx_labels(self.files[3], test)]
        fashion = self.name == "fashion-mnist"
        return Contents(
            keys=[str(i) for i in range(train + test)],
            part=published_parts(train, None, test),
            carve=(),
            shape=self.prepared_shape(),
            levels=self.preparation.levels or 256,
            y=np.concatenate(labels),
            classes=_GARMENTS if fashion else tuple("0123456789"),
        )

    def blocks(self) -> Iterator[np.ndarray]:
        for file in (self.files[0], self.files[2]):
            n, height, width = _idx_shape(file, 3)
            with _open(file) as stream:
                stream.read(16)
                for start in range(0, n, _BLOCK):
                    count = min(_BLOCK, n - start)
                    yield _read(stream, file, count * height * width).reshape(count, 1, height, width)


class Amat(Published):
    """Files: train, valid and test; one image per line, 784 times 0 or 1. In no known order, so without labels."""

    def contents(self) -> Contents:
        self.counts = [_lines(file) for file in self.files]
        self.raw_shape = (1, 28, 28)
        return Contents(
            keys=[str(i) for i in range(sum(self.counts))],
            part=published_parts(*self.counts),
            carve=(),
            shape=self.prepared_shape(),
            levels=self.preparation.levels or 2,
        )

    def blocks(self) -> Iterator[np.ndarray]:
        for file, count in zip(self.files, self.counts, strict=True):
            found = 0
            for x in _binary_images(file):
                found += len(x)
                yield x
            if found != count:
                raise damaged(file, f"{count} lines, but {found} images of {_DIMS} pixels")


def _binary_images(file: Path) -> Iterator[np.ndarray]:
    rest = np.empty(0, np.uint8)
    for text in _chunks(file):
        a = np.frombuffer(text, np.uint8)
        digit = (a == ord("0")) | (a == ord("1"))
        if not (digit | (a == ord(" ")) | (a == ord("\n")) | (a == ord("\r"))).all():
            raise damaged(file, "something else than 0, 1 and blanks")
        bits = np.concatenate([rest, a[digit] - np.uint8(ord("0"))])
        whole = len(bits) // _DIMS * _DIMS
        rest = bits[whole:]
        if whole:
            yield bits[:whole].reshape(-1, 1, 28, 28)
    if len(rest):
        raise damaged(file, f"the number of pixels is no multiple of {_DIMS}")


def _lines(file: Path) -> int:
    count, last = 0, b"\n"
    for text in _chunks(file):
        count, last = count + text.count(b"\n"), text[-1:]
    return count + (last != b"\n")


def _chunks(file: Path) -> Iterator[bytes]:
    with _open(file) as stream:
        while True:
            try:
                text = stream.read(2**22)
            except (OSError, EOFError, zlib.error) as e:
                raise damaged(file, e) from None
            if not text:
                return
            yield text


def _open(file: Path) -> IO[bytes]:
    return gzip.open(file, "rb") if file.suffix == ".gz" else open(file, "rb")  # type: ignore[return-value]


def _read(stream: IO[bytes], file: Path, n: int) -> np.ndarray:
    """Exactly n bytes as uint8 [n]."""
    try:
        data = stream.read(n)
    except (OSError, EOFError, zlib.error) as e:
        raise damaged(file, e) from None
    if len(data) != n:
        raise damaged(file, "it ends too early")
    return np.frombuffer(data, np.uint8)


def _idx_shape(file: Path, dims: int) -> tuple[int, ...]:
    """The shape in the header of an idx file of bytes: two zeros, type 8, the number of dimensions, then each."""
    with _open(file) as stream:
        head = _read(stream, file, 4 + 4 * dims).tobytes()
    if head[:4] != bytes([0, 0, 8, dims]):
        raise damaged(file, f"it does not start as an idx file of {dims} dimensions")
    return struct.unpack(f">{dims}i", head[4:])


def _idx_labels(file: Path, n: int) -> np.ndarray:
    if math.prod(_idx_shape(file, 1)) != n:
        raise damaged(file, f"{_idx_shape(file, 1)[0]} labels for {n} images")
    with _open(file) as stream:
        stream.read(8)
        y = _read(stream, file, n).astype(np.int64)
    if y.max() > 9:
        raise damaged(file, f"a label of {y.max()}, expected 0 to 9")
    return y


def _idx_downloads(name: str, url: str, digests: tuple[str, str, str, str]) -> tuple[Download, ...]:
    return tuple(
        Download(url + file, "md5", digest, f"{name}/{file}") for file, digest in zip(_IDX, digests, strict=True)
    )


def _or_unpacked(*files: str) -> tuple[tuple[str, ...], ...]:
    return tuple((file, file.removesuffix(".gz")) for file in files)


_IDX = tuple(f"{part}-{kind}-ubyte.gz" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))
_AMAT = tuple(f"mnist-binarized/binarized_mnist_{part}.amat" for part in ("train", "valid", "test"))
_LAROCHELLE = "http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/"
_LICENCE = "CC BY-SA 3.0 (Y. LeCun and C. Cortes, The MNIST database of handwritten digits)"
BUNDLED = (
    Bundled(
        "mnist",
        "70,000 grey 28x28 handwritten digits, 10 classes",
        _or_unpacked(*(f"mnist/{f}" for f in _IDX)),
        Idx,
        _idx_downloads(
            "mnist",
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            (
                "f68b3c2dcbeaaa9fbdd348bbdeb94873",
                "d53e105ee54ea40749a09fcbcd1e9432",
                "9fb629c4189551a2d022fa330f9573f3",
                "ec29112dd5afa0611ce80d1b7f02629c",
            ),
        ),
        licence=_LICENCE,
    ),
    Bundled(
        "fashion-mnist",
        "70,000 grey 28x28 pieces of clothing, 10 classes",
        _or_unpacked(*(f"fashion-mnist/{f}" for f in _IDX)),
        Idx,
        _idx_downloads(
            "fashion-mnist",
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            (
                "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
                "25c81989df183df01b3e8a0aad5dffbe",
                "bef4ecab320f06d8554ea6380940ec79",
                "bb300cfdad3c16e7a12a480ee83cd310",
            ),
        ),
        licence="MIT (Zalando SE)",
    ),
    Bundled(
        "mnist-binarized",
        "MNIST in Larochelle's fixed binarization, 2 levels, 50,000 + 10,000 + 10,000, no labels",
        tuple((file, file + ".gz") for file in _AMAT),
        Amat,
        tuple(
            Download(_LAROCHELLE + file.rpartition("/")[2], "sha256", digest, file)
            for file, digest in zip(
                _AMAT,
                (
                    "ad693b29f94c14277b095f5238ddefbbdaaae0939789dd2f4f0205278cee3e4d",
                    "1de3d397c40fe8eeb33dafd4099a1f665ec01e96d9be234aaeeac8a34930e2e2",
                    "e6687bfea3f820c174f33b7865140b2a2dd2930ef786f35d45795fc193b5ab2c",
                ),
                strict=True,
            )
        ),
        licence=_LICENCE,
    ),
)

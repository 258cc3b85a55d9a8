"""Published data sets: their own files, their own parts; downloads that are checked; the real ones, where present."""

import gzip
import hashlib
import io
import os
import struct
import tarfile
import urllib.error
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from lowerbound.data import Data, Images, download
from lowerbound.data.bundled import Bundled, Published, bundled, published_parts
from lowerbound.data.source import Preparation
from lowerbound.errors import DataError

REAL = os.environ.get("LOWERBOUND_DATA")


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("LOWERBOUND_DATA", str(tmp_path / "published"))

    def no_network(*_, **__):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(download.urllib.request, "urlopen", no_network)
    return tmp_path / "published"


def opened(name: str, split: str = "all", **fields) -> Images:
    return Data(source=name, **fields).open(split)


def put(file: Path, content: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(gzip.compress(content) if file.suffix == ".gz" else content)


def idx(x: np.ndarray) -> bytes:
    return bytes([0, 0, 8, x.ndim]) + struct.pack(f">{x.ndim}i", *x.shape) + x.astype(np.uint8).tobytes()


def put_mnist(root: Path, name: str = "mnist", suffix: str = ".gz") -> np.ndarray:
    x = np.random.default_rng(0).integers(0, 256, (60, 28, 28), np.uint8)
    for part, rows in (("train", slice(0, 40)), ("t10k", slice(40, 60))):
        put(root / name / f"{part}-images-idx3-ubyte{suffix}", idx(x[rows]))
        put(root / name / f"{part}-labels-idx1-ubyte{suffix}", idx(np.arange(60)[rows] % 10))
    return x


@pytest.mark.parametrize("suffix", [".gz", ""])
def test_mnist(root, suffix):
    x = put_mnist(root, suffix=suffix)
    for split, rows in (("train", slice(0, 36)), ("valid", slice(36, 40)), ("test", slice(40, 60))):
        images = opened("mnist", split)
        np.testing.assert_array_equal(images.x[:, 0], x[rows])
        np.testing.assert_array_equal(images.y, np.arange(60)[rows] % 10)
    assert opened("mnist", size=14).shape == (1, 14, 14)


def test_fashion_mnist_names_its_classes(root):
    put_mnist(root, "fashion-mnist")
    assert list(opened("fashion-mnist").classes or ())[-1] == "Ankle boot"


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("train-images-idx3-ubyte.gz", b"abc", "it ends too early"),
        ("train-images-idx3-ubyte.gz", idx(np.zeros((40, 28, 28)))[:-1], "it ends too early"),
        ("train-images-idx3-ubyte.gz", b"\0\0\x0d\3" + bytes(12), "does not start as an idx file of 3"),
        ("train-labels-idx1-ubyte.gz", idx(np.zeros(39)), "39 labels for 40 images"),
        ("t10k-labels-idx1-ubyte.gz", idx(np.full(20, 10)), "a label of 10, expected 0 to 9"),
    ],
)
def test_damaged_idx_files_are_named(root, file, content, message):
    put_mnist(root)
    put(root / "mnist" / file, content)
    with pytest.raises(DataError, match=f"{file}: not the published file, or damaged: .*{message}"):
        opened("mnist")


def test_damaged_gzip_is_named(root):
    put_mnist(root)
    file = root / "mnist" / "train-images-idx3-ubyte.gz"
    for content in (b"not gzip at all", file.read_bytes()[:500]):
        file.write_bytes(content)
        with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz: not the published file, or damaged"):
            opened("mnist")


def put_binarized(root: Path, suffix: str) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    parts = [rng.integers(0, 2, (n, 784)) for n in (30, 5, 7)]
    for part, x in zip(("train", "valid", "test"), parts, strict=True):
        text = "".join(" ".join(map(str, row)) + " \n" for row in x.tolist())
        put(root / "mnist-binarized" / f"binarized_mnist_{part}.amat{suffix}", text.encode())
    return parts


@pytest.mark.parametrize("suffix", [".gz", ""])
def test_binarized_mnist(root, suffix):
    parts = put_binarized(root, suffix)
    for split, x in zip(("train", "valid", "test"), parts, strict=True):
        images = opened("mnist-binarized", split)
        np.testing.assert_array_equal(images.x.reshape(-1, 784), x)
        assert (images.levels, images.y) == (2, None)


@pytest.mark.parametrize(
    "content", [b"0 1 2\n", b"0 1 0\n", b"0 " * 1568 + b"\n", b"0 " * 784 + b"\n" + b"0 " * 784 + b"\n1"]
)
def test_damaged_amat_is_named(root, content):
    put_binarized(root, "")
    put(root / "mnist-binarized" / "binarized_mnist_valid.amat", content)
    with pytest.raises(DataError, match=r"binarized_mnist_valid\.amat: not the published file, or damaged"):
        opened("mnist-binarized")


def put_cifar(root: Path) -> np.ndarray:
    x = np.random.default_rng(0).integers(0, 256, (60, 3073), np.uint8)
    x[:, 0] = np.arange(60) % 10
    for i, name in enumerate((*(f"data_batch_{k}" for k in range(1, 6)), "test_batch")):
        put(root / "cifar-10-batches-bin" / f"{name}.bin", x[10 * i : 10 * i + 10].tobytes())
    return x


def test_cifar10(root):
    x = put_cifar(root)
    for split, rows in (("train", slice(0, 45)), ("valid", slice(45, 50)), ("test", slice(50, 60))):
        images = opened("cifar10", split)
        np.testing.assert_array_equal(images.x, x[rows, 1:].reshape(-1, 3, 32, 32))
        np.testing.assert_array_equal(images.y, x[rows, 0])
    put(root / "cifar-10-batches-bin" / "test_batch.bin", b"short")
    with pytest.raises(DataError, match=r"test_batch\.bin: not the published file"):
        opened("cifar10")


def test_frey_faces_are_split_in_time(root):
    (root / "frey-faces").mkdir(parents=True)
    file = root / "frey-faces" / "frey_rawface.mat"
    savemat(file, {"ff": np.repeat(np.arange(50, dtype=np.uint8)[None], 560, 0)})
    assert [opened("frey-faces", s).x[:, 0, 0, 0].tolist() for s in ("train", "valid", "test")] == [
        list(range(40)),
        list(range(40, 45)),
        list(range(45, 50)),
    ]
    assert opened("frey-faces").shape == (1, 28, 20)
    savemat(file, {"gg": np.zeros(3)})
    with pytest.raises(DataError, match=r"frey_rawface\.mat: not the published file"):
        opened("frey-faces")


def test_nobody_is_in_two_parts_of_lfw(root):
    from PIL import Image

    for i in range(40):
        (root / "lfw" / f"Name_{i}").mkdir(parents=True)
        for j in range(1 + i % 4):
            Image.new("RGB", (8, 8), (i, j, 0)).save(root / "lfw" / f"Name_{i}" / f"Name_{i}_{j:04}.png")
    people = [set(opened("lfw", s).x[:, 0, 0, 0].tolist()) for s in ("train", "valid", "test")]
    assert sum(map(len, people)) == len(set().union(*people)) == 40
    images = opened("lfw")
    assert images.classes is not None
    assert len(images.classes) == 40
    assert images.name == "lfw"


def test_valid_is_the_last_5000():
    assert np.bincount(published_parts(60_000, None, 10_000)).tolist() == [55_000, 5_000, 10_000]
    assert np.bincount(published_parts(50_000, None, 10_000)).tolist() == [45_000, 5_000, 10_000]


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "mnist-binarized", "cifar10", "lfw", "frey-faces"])
def test_missing_files_are_named(root, name):
    with pytest.raises(DataError) as e:
        opened(name)
    assert bundled()[name].files[0][0] in str(e.value)
    assert "LOWERBOUND_DATA" in str(e.value)
    assert ("no network" in str(e.value)) == bool(bundled()[name].downloads)
    assert not [p for p in root.glob("*") if p.name != ".download.lock"]


def serve(monkeypatch, content: bytes) -> list[str]:
    asked: list[str] = []
    monkeypatch.setattr(
        download.urllib.request, "urlopen", lambda url, timeout: (asked.append(url), io.BytesIO(content))[1]
    )
    return asked


def test_a_download_is_checked_and_kept(root, monkeypatch):
    asked = serve(monkeypatch, b"content")
    good = download.Download("http://x/a.gz", "sha256", hashlib.sha256(b"content").hexdigest(), "set/a.gz")
    assert download.fetch([good], root, lambda: False) == ""
    assert (root / "set" / "a.gz").read_bytes() == b"content"
    download.fetch([good], root, lambda: True)
    assert asked == ["http://x/a.gz"]


def test_a_download_with_another_hash_is_not_kept(root, monkeypatch):
    serve(monkeypatch, b"other")
    with pytest.raises(DataError, match=r"md5 is .*, expected 0123; nothing was kept"):
        download.fetch([download.Download("http://x/a.gz", "md5", "0123", "set/a.gz")], root, lambda: False)
    assert not [p for p in root.rglob("*") if p.is_file() and p.name != ".download.lock"]


def test_a_downloaded_archive_is_unpacked(root, monkeypatch):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as t:
        info = tarfile.TarInfo("folder/a.bin")
        info.size = 3
        t.addfile(info, io.BytesIO(b"abc"))
    serve(monkeypatch, packed.getvalue())
    digest = hashlib.md5(packed.getvalue()).hexdigest()
    assert download.fetch([download.Download("http://x/f.tar.gz", "md5", digest, "folder/")], root, lambda: False) == ""
    assert (root / "folder" / "a.bin").read_bytes() == b"abc"
    assert {p.name for p in root.iterdir()} == {"folder", ".download.lock"}


def test_an_incomplete_folder_is_downloaded_again(root, monkeypatch):
    """Some files of the folder are there, others are not."""
    put(root / "folder" / "a.bin", b"old")
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as t:
        for name in ("a.bin", "b.bin"):
            info = tarfile.TarInfo(f"folder/{name}")
            info.size = 3
            t.addfile(info, io.BytesIO(b"new"))
    serve(monkeypatch, packed.getvalue())
    digest = hashlib.md5(packed.getvalue()).hexdigest()
    files = (("folder/a.bin",), ("folder/b.bin",))
    fetched = download.Download("http://x/f.tar.gz", "md5", digest, "folder/")
    data = Bundled("set", "", files, bundled()["cifar10"].source, (fetched,))
    assert isinstance(data.open(Preparation()), Published)
    assert (root / "folder" / "b.bin").read_bytes() == b"new"
    assert (root / "folder" / "a.bin").read_bytes() == b"old"  # what is there is the user's


# --- the real files ---


@pytest.fixture
def real(monkeypatch) -> Path:
    if not REAL:
        pytest.skip("LOWERBOUND_DATA is not set")
    monkeypatch.setenv("LOWERBOUND_DATA", REAL)
    return Path(REAL)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "shape", "levels", "counts"),
    [
        ("mnist", (1, 28, 28), 256, (55_000, 5_000, 10_000)),
        ("mnist-binarized", (1, 28, 28), 2, (50_000, 10_000, 10_000)),
        ("cifar10", (3, 32, 32), 256, (45_000, 5_000, 10_000)),
        ("frey-faces", (1, 28, 20), 256, (1_573, 196, 196)),
        ("lfw", (3, 64, 64), 256, (10_981, 1_198, 1_054)),
    ],
)
def test_real(real, name, shape, levels, counts):
    if bundled()[name].missing():
        pytest.skip(f"{name} is not in {real}")
    parts = [opened(name, s) for s in ("train", "valid", "test")]
    assert tuple(map(len, parts)) == counts
    assert {p.shape for p in parts} == {shape}
    assert {p.levels for p in parts} == {levels}
    assert all(p.unreadable == () for p in parts)


@pytest.mark.slow
def test_real_pixels(real):
    """Known figures of the published files."""
    if not bundled()["mnist"].missing():
        train = np.concatenate([opened("mnist", s).x for s in ("train", "valid")])
        assert train.mean() / 255 == pytest.approx(0.1307, abs=5e-5)
        assert np.asarray(opened("mnist", "train").y)[:5].tolist() == [5, 0, 4, 1, 9]
    if not bundled()["mnist-binarized"].missing():
        assert opened("mnist-binarized", "test").x.mean() == pytest.approx(0.1325, abs=2e-3)
    if not bundled()["cifar10"].missing():
        train = np.concatenate([opened("cifar10", s).x for s in ("train", "valid")])
        assert train.mean((0, 2, 3)) / 255 == pytest.approx([0.4914, 0.4822, 0.4465], abs=5e-5)

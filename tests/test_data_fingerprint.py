"""What tells one content of a data set from another, wherever it lies; and the factors that batches carry."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lowerbound.data import Data, Images
from lowerbound.data.batches import Batches
from lowerbound.data.split import PARTS


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path) -> Path:
    """Two class folders whose files have the same names."""
    for i in range(30):
        for k, name in enumerate(("ant", "cat")):
            (tmp_path / "mine" / name).mkdir(parents=True, exist_ok=True)
            Image.new("L", (8, 8), 2 * i + k).save(tmp_path / "mine" / name / f"{i}.png")
    return tmp_path / "mine"


def fingerprints(root: Path, **fields) -> dict[str, str]:
    return {p: Data(source=str(root), **fields).open(p).fingerprint for p in ("all", *PARTS)}


def test_every_part_has_its_own(root):
    found = fingerprints(root)
    assert len(set(found.values())) == 4
    assert fingerprints(root) == found  # from the cache


def test_it_is_of_the_content_not_of_the_place_or_time(root, tmp_path):
    found = fingerprints(root)
    shutil.copytree(root, tmp_path / "copy")  # with the time of now
    os.utime(tmp_path / "copy" / "ant" / "3.png", (10**9, 10**9))
    assert fingerprints(tmp_path / "copy") == found
    assert fingerprints(root.rename(tmp_path / "elsewhere")) == found
    shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path / "copy")
    assert fingerprints(tmp_path / "packed.zip") == found


def rename_all(root: Path) -> None:
    for file in list(root.rglob("*.png")):
        file.rename(file.with_name(f"renamed-{file.name}"))


def rename_one(root: Path) -> None:
    (root / "cat" / "3.png").rename(root / "cat" / "other.png")


def swap_classes(root: Path) -> None:
    for old, new in (("ant", "x"), ("cat", "ant"), ("x", "cat")):
        (root / old).rename(root / new)


def rename_a_class(root: Path) -> None:
    (root / "cat").rename(root / "dog")


def change_a_pixel(root: Path) -> None:
    x = np.full((8, 8), 9, np.uint8)
    x[7, 7] = 10
    Image.fromarray(x).save(root / "cat" / "4.png")


def remove_one(root: Path) -> None:
    (root / "cat" / "4.png").unlink()


@pytest.mark.parametrize(
    "change",
    [rename_all, rename_one, swap_classes, rename_a_class, change_a_pixel, remove_one],
    ids=lambda f: f.__name__,
)
def test_a_change_of_names_labels_or_pixels_is_another(root, change):
    before = fingerprints(root)
    change(root)
    after = fingerprints(root)
    assert after["all"] != before["all"]
    if change in (rename_all, swap_classes, rename_a_class):
        assert all(after[p] != before[p] for p in PARTS)


@pytest.mark.parametrize("fields", [{"size": 4}, {"levels": 128}], ids=str)
def test_another_preparation_is_another(root, fields):
    assert fingerprints(root, **fields)["train"] != fingerprints(root)["train"]


def test_what_does_not_change_the_images_does_not_change_it(root):
    assert fingerprints(root, label=True, flip=True, strict=True) == fingerprints(root)


def test_labels_and_factors_of_arrays_belong_to_it(tmp_path):
    x, y, z = np.zeros((20, 4, 4), np.uint8), np.arange(20) % 3, np.random.default_rng(0).random((20, 2))
    names = np.array(["size", "hue"])
    seen = set()
    arrays: dict[str, np.ndarray]
    for arrays in ({"y": y}, {"y": (y + 1) % 3}, {"factors": z, "factor_names": names}):
        np.savez(tmp_path / "a.npz", x=x, **arrays)  # pyright: ignore[reportArgumentType]
        seen.add(fingerprints(tmp_path / "a.npz")["all"])
    np.savez(tmp_path / "a.npz", x=x, factors=z, factor_names=names[::-1])
    seen.add(fingerprints(tmp_path / "a.npz")["all"])
    assert len(seen) == 4


def test_unreadable_images_are_no_part_of_it(root):
    clean = fingerprints(root)
    cut = root / "cat" / "cut.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8)).save(cut)
    cut.write_bytes(cut.read_bytes()[:80])  # its header is fine
    assert Data(source=str(root)).open("all").unreadable
    assert fingerprints(root) == clean


def test_it_is_computed_where_no_cache_knows_it(root):
    images = Data(source=str(root)).open("train")
    fields = {f: getattr(images, f) for f in ("y", "classes", "paths")}
    alike = Images("other name", "train", np.array(images.x), images.levels, **fields)
    assert alike.fingerprint == images.fingerprint


def test_other_rows_have_another(root):
    images = Data(source=str(root)).open("train")
    assert images.head(len(images)).fingerprint == images.fingerprint
    assert images.head(5).fingerprint != images.fingerprint
    assert images.take(np.arange(5)).fingerprint == images.head(5).fingerprint
    assert replace(images, y=None).fingerprint != images.fingerprint


def test_a_cache_of_an_older_format_is_replaced(root, tmp_path, monkeypatch):
    monkeypatch.setattr("lowerbound.data.cache.FORMAT", 1)
    before = fingerprints(root)
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert fingerprints(root) == before
    entries = [p for p in (tmp_path / "cache" / "lowerbound" / "images").iterdir() if p.suffix != ".lock"]
    assert len(entries) == 1


def test_batches_carry_the_factors(tmp_path):
    factors = np.random.default_rng(0).random((30, 2))
    names = np.array(["size", "hue"])
    np.savez(tmp_path / "a.npz", x=np.zeros((30, 4, 4), np.uint8), factors=factors, factor_names=names)
    images = Data(source=str(tmp_path / "a.npz")).open("train")
    batches = list(Batches(images, torch.device("cpu")).in_order(7))
    found = torch.cat([b.factors for b in batches if b.factors is not None])
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.from_numpy(np.asarray(images.factors, np.float32)))
    bare = Batches(replace(images, factors=None), torch.device("cpu"))
    assert next(bare.in_order(7)).factors is None

"""What folders mean: parts, classes, wrappers, links and stray pictures; whatever is made of them is said."""

import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lowerbound.data import Data, Images
from lowerbound.data.split import PARTS
from lowerbound.errors import DataError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path) -> Path:
    return tmp_path / "mine"


def save(path: Path, value: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (8, 8), value).save(path)


def classes(folder: Path, n: int = 10) -> None:
    """Images of two classes; their pixels are the labels."""
    for k, name in enumerate(("ant", "cat")):
        for i in range(n):
            save(folder / name / f"{i}.png", k)


def parts(folder: Path, given=("train", "test")) -> None:
    for part in given:
        classes(folder / part)


def opened(root: Path, split: str = "all", **fields) -> Images:
    return Data(source=str(root), **fields).open(split)


def check_labels(images: Images) -> None:
    assert images.classes == ("ant", "cat")
    np.testing.assert_array_equal(images.y, images.x[:, 0, 0, 0])


WRAPPERS = ("", "outer", "outer/inner", "a/b/c/d")


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("given", [("train", "test"), PARTS, ("train",)], ids="-".join)
def test_wrappers_around_parts_hide_nothing(root, wrapper, given):
    parts(root / wrapper, given)
    for part in given if len(given) > 1 else PARTS:
        images = opened(root, part)
        check_labels(images)
        if part == "test" and len(given) > 1:
            assert all("/test/" in f"/{p}" for p in images.paths or ())
            assert len(images) == 20


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_wrappers_around_classes_hide_nothing(root, wrapper):
    classes(root / wrapper)
    check_labels(opened(root))


@pytest.mark.parametrize("inside", ["images", "train", "a/b"])
def test_wrappers_inside_of_parts_are_no_classes(root, inside):
    for part in ("train", "test"):
        classes(root / part / inside)
    images = opened(root, "test")
    check_labels(images)
    assert len(images) == 20
    shutil.rmtree(root)
    for part in ("train", "test"):
        save(root / part / inside / "1.png")
    assert opened(root).y is None


def test_a_split_by_hash_is_what_it_was_with_two_wrappers(root, tmp_path):
    """One top folder is no part of the hashed name, a second one is: numbers reported on such data stay."""
    for i in range(30):
        save(root / "outer" / "inner" / f"{i}.png", i)
        save(tmp_path / "other" / "inner" / f"{i}.png", i)
        save(tmp_path / "other" / "x.png")  # so that inner/ is not the common top folder
    for part in PARTS:
        assert set(opened(root, part).paths or ()) == set(opened(tmp_path / "other", part).paths or ()) - {"x.png"}


@pytest.mark.parametrize("where", ["", "outer", "outer/inner"])
def test_a_stray_picture_is_left_out_and_named(root, where):
    parts(root / "outer" / "inner" / "data")
    before = opened(root, "test")
    save(root / where / "preview.png", 9)
    images = opened(root)
    check_labels(images)
    assert len(images) == 40
    assert opened(root, "test").fingerprint == before.fingerprint  # it moves nothing
    assert "left out, beside the folders: " in images.layout
    assert "preview.png" in images.layout


@pytest.mark.parametrize("where", ["", "train", "test"])
def test_a_stray_picture_beside_class_folders_leaves_the_labels(root, where):
    if where:
        parts(root)
    else:
        classes(root)
    save(root / where / "preview.png", 9)
    images = opened(root)
    check_labels(images)
    assert f"left out, beside the folders: {where + '/' if where else ''}preview.png" in images.layout


def test_a_stray_picture_beside_a_train_folder(root):
    classes(root / "train")
    save(root / "preview.png", 9)
    check_labels(opened(root))


def test_stray_pictures_without_a_meaning_of_the_folders_are_images(root):
    for i in range(9):
        save(root / "more" / f"{i}.png")
    save(root / "1.png")
    assert len(opened(root)) == 10
    save(root / "other" / "1.png")  # now there are two folders, which are classes
    assert len(opened(root)) == 10
    assert opened(root).classes == ("more", "other")


def test_a_test_part_without_labels_leaves_no_labels_and_says_so(root):
    classes(root / "train")
    for i in range(5):
        save(root / "test" / f"{i}.png")
    images = opened(root, "test")
    assert len(images) == 5
    assert images.y is None
    assert "no labels, as 5 images in test lie in no class folder" in images.layout
    with pytest.raises(DataError, match=r"5 images in test lie in no class folder.*set data.label=false"):
        opened(root, label=True)


def test_parts_linked_to_one_folder_are_both_there(root, tmp_path):
    classes(tmp_path / "elsewhere")
    classes(root / "train")
    for part in ("valid", "test"):
        (root / part).symlink_to(tmp_path / "elsewhere")
    for part in PARTS:
        check_labels(opened(root, part))
        assert len(opened(root, part)) == 20
    assert "valid and test are one folder" in opened(root).layout.replace("test and valid", "valid and test")


@pytest.mark.parametrize("up", [".", "..", "ant"])
def test_links_to_folders_above_are_not_followed(root, up):
    classes(root)
    (root / "cat" / "again").symlink_to((root / "cat" / up).resolve() if up != "ant" else root / "ant")
    assert len(opened(root)) == (20 if up != "ant" else 30)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (classes, "2 class folders (ant, cat); all split 80/10/10 by a hash of the names"),
        (parts, "2 class folders (ant, cat); train and test as given, valid carved from train"),
        (lambda r: parts(r, PARTS), "2 class folders (ant, cat); train, valid and test as given"),
        (lambda r: parts(r, ("train",)), "2 class folders (ant, cat); train split 80/10/10 by a hash of the names"),
        (lambda r: parts(r / "a" / "b"), "in a/b/: train and test as given"),
        (lambda r: save(r / "1.png"), "no class folders; all split 80/10/10"),
    ],
)
def test_what_it_is_taken_for_is_said(root, make, said):
    make(root)
    images = opened(root)
    assert said in images.layout
    assert "\n" not in images.layout
    assert opened(root).layout == images.layout  # from the cache
    assert images.remarks() == [f"mine: {images.layout}"]


def test_what_is_ignored_is_named(root):
    classes(root)
    for name in ("notes.txt", "Thumbs.db", "cat/film.mp4", "ant/old.psd", "labels.csv"):
        (root / name).write_bytes(b"x")
    images = opened(root)
    assert images.ignored == 5
    assert "ignored, no images: labels.csv, Thumbs.db, notes.txt and 2 more" in images.layout
    (note,) = images.notes
    assert "1 of video; take its frames with `ffmpeg" in note
    assert "1 of Photoshop; convert with `magick" in note


def test_archives_are_taken_for_the_same(root, tmp_path):
    parts(root / "outer" / "inner")
    save(root / "outer" / "preview.png")
    with zipfile.ZipFile(tmp_path / "mine.zip", "w") as archive:
        for file in root.rglob("*.png"):
            archive.write(file, file.relative_to(root))
    for part in ("all", *PARTS):
        assert opened(tmp_path / "mine.zip", part).fingerprint == opened(root, part).fingerprint
    assert opened(tmp_path / "mine.zip").layout == opened(root).layout

"""Where images come from and which part they belong to: folders, splits, labels, levels, npz."""

import os
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lowerbound.config import ConfigError, dump, parse
from lowerbound.data import Data, Images, names, open_readable, summary
from lowerbound.data.split import PARTS, UNDECIDED, assign, hashed
from lowerbound.errors import DataError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("LOWERBOUND_DATA", str(tmp_path / "published"))
    return tmp_path / "cache" / "lowerbound" / "images"


def save(path: Path, value: int = 0, size: tuple[int, int] = (8, 8), mode: str = "L") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    colour = value if mode == "L" else (value, value // 2, 0)
    Image.new(mode, size, colour).save(path)
    return path


def numbered(root: Path, n: int, prefix: str = "") -> Path:
    """n grey images whose pixels say which they are."""
    for i in range(n):
        save(root / f"{prefix}{i:03}.png", i)
    return root


def opened(source: object, split: str = "all", **fields) -> Images:
    return Data(source=str(source), **fields).open(split)


def content(images: Images) -> dict[str, int]:
    """Path -> its first pixel."""
    assert images.paths is not None
    return {p: int(v) for p, v in zip(images.paths, images.x[:, 0, 0, 0], strict=True)}


def test_a_folder_is_read_as_it_is(tmp_path):
    images = opened(numbered(tmp_path / "mine", 30))
    assert (images.name, images.shape, images.levels, len(images)) == ("mine", (1, 8, 8), 256, 30)
    assert content(images) == {f"{i:03}.png": i for i in range(30)}
    assert images.x.dtype == np.uint8
    assert images.y is None
    assert images.unreadable == ()


def test_the_parts_are_disjoint_and_make_the_whole(tmp_path):
    numbered(tmp_path / "mine", 200)
    parts = {p: content(opened(tmp_path / "mine", p)) for p in PARTS}
    assert sum(len(p) for p in parts.values()) == 200
    assert {k for p in parts.values() for k in p} == set(content(opened(tmp_path / "mine")))
    assert 140 <= len(parts["train"]) <= 180


def test_adding_files_moves_nothing(tmp_path):
    root = numbered(tmp_path / "mine", 60)
    before = {p: set(content(opened(root, p))) for p in PARTS}
    numbered(root, 60, "more")
    after = {p: set(content(opened(root, p))) for p in PARTS}
    assert all(before[p] <= after[p] for p in PARTS)
    assert sum(map(len, after.values())) == 120


def test_zip_tar_and_folder_of_the_same_content_are_equal(tmp_path):
    root = numbered(tmp_path / "mine", 40)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as z, tarfile.open(tmp_path / "b.tar", "w") as t:
        for file in sorted(root.iterdir(), reverse=True):
            z.write(file, f"top/{file.name}")
            t.add(file, f"./top/{file.name}")
    with tarfile.open(tmp_path / "c.tar.gz", "w:gz") as t:
        t.add(root, "")
    for split in PARTS:
        folder = opened(root, split)
        for archive in ("a.zip", "b.tar", "c.tar.gz"):
            other = opened(tmp_path / archive, split)
            assert content(other) == content(folder)
            np.testing.assert_array_equal(other.x, folder.x)
            assert list(other.paths or ()) == list(folder.paths or ())


def test_the_hash_is_the_same_on_every_machine():
    assert hashed("a/b.png") == pytest.approx(0.535033015886146, abs=1e-15)
    assert hashed("é.png") == hashed("é.png")  # one name in two Unicode forms


@pytest.mark.parametrize("n", [3, 4, 5, 8])
def test_no_part_is_empty(n):
    for start in range(50):
        keys = [f"{start}-{i}" for i in range(n)]
        part = assign(keys, np.full(n, UNDECIDED, np.int8), ("valid", "test"))
        assert set(part.tolist()) == {0, 1, 2}


def test_too_few_images_for_three_parts(tmp_path):
    numbered(tmp_path / "mine", 1)
    assert len(opened(tmp_path / "mine", "all")) == len(opened(tmp_path / "mine", "train")) == 1
    with pytest.raises(DataError, match="1 image, too few for a test part"):
        opened(tmp_path / "mine", "test")


def test_given_parts_are_kept(tmp_path):
    for part, value in (("Train", 1), ("val", 2), ("TEST", 3)):
        for i in range(5):
            save(tmp_path / "mine" / part / f"{i}.png", value)
    for part, value in (("train", 1), ("valid", 2), ("test", 3)):
        images = opened(tmp_path / "mine", part)
        assert len(images) == 5
        assert (images.x == value).all()


def test_a_missing_valid_is_a_tenth_of_train(tmp_path):
    for i in range(100):
        save(tmp_path / "mine" / "train" / f"{i}.png", 1)
        save(tmp_path / "mine" / "test" / f"{i}.png", 2)
    train, valid, test = (opened(tmp_path / "mine", p) for p in PARTS)
    assert len(train) + len(valid) == 100
    assert 3 <= len(valid) <= 20
    assert (valid.x == 1).all()
    assert len(test) == 100
    assert (test.x == 2).all()


def test_a_train_folder_alone_is_split_in_three(tmp_path):
    numbered(tmp_path / "mine" / "train", 50)
    assert sum(len(opened(tmp_path / "mine", p)) for p in PARTS) == 50


def test_parts_beside_something_else_are_refused(tmp_path):
    for part in ("train", "test", "extra"):
        save(tmp_path / "mine" / part / "a.png")
    with pytest.raises(DataError, match=r"has the parts test, train, but images in extra/ too"):
        opened(tmp_path / "mine")


def test_a_test_folder_without_train_is_refused(tmp_path):
    save(tmp_path / "mine" / "test" / "a.png")
    with pytest.raises(DataError, match="no train folder"):
        opened(tmp_path / "mine")


def test_class_folders_are_labels(tmp_path):
    for i in range(10):
        save(tmp_path / "mine" / "cat" / f"{i}.png", 1)
        save(tmp_path / "mine" / "ant" / "deep" / f"{i}.png", 0)
    images = opened(tmp_path / "mine")
    assert images.classes == ("ant", "cat")
    assert images.y is not None
    assert images.y.dtype == np.int64
    np.testing.assert_array_equal(images.y, images.x[:, 0, 0, 0])


def test_class_folders_within_parts(tmp_path):
    for part in ("train", "valid", "test"):
        for i, name in enumerate(("b", "c")):
            for j in range(3):
                save(tmp_path / "mine" / part / name / f"{j}.png", i)
    images = opened(tmp_path / "mine", "test")
    assert images.classes == ("b", "c")
    assert images.y is not None
    np.testing.assert_array_equal(images.y, images.x[:, 0, 0, 0])


def test_a_class_may_be_called_train(tmp_path):
    for name in ("bus", "train"):
        save(tmp_path / "mine" / name / "a.png")
    assert opened(tmp_path / "mine").classes == ("bus", "train")


def test_as_many_files_outside_of_class_folders_leave_no_labels(tmp_path):
    save(tmp_path / "mine" / "cat" / "a.png")
    save(tmp_path / "mine" / "dog" / "a.png")
    numbered(tmp_path / "mine", 2)
    assert opened(tmp_path / "mine").y is None
    with pytest.raises(DataError, match=r"has no labels \(no labels, as 2 images lie in no class folder"):
        opened(tmp_path / "mine", label=True)


def test_the_first_images_are_of_every_class(tmp_path):
    for name in ("a", "b"):
        numbered(tmp_path / "mine" / name, 50)
    y = opened(tmp_path / "mine").head(20).y
    assert y is not None
    assert 4 <= y.sum() <= 16


def test_other_files_are_counted_and_ignored(tmp_path):
    root = numbered(tmp_path / "mine", 3)
    for name in ("notes.txt", "Thumbs.db", ".DS_Store", "._000.png", ".hidden/a.png"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"x")
    images = opened(root)
    assert (len(images), images.ignored, images.unreadable) == (3, 2, ())


def test_names_of_any_bytes(tmp_path):
    root = numbered(tmp_path / "mine", 3)
    odd = os.fsdecode(b"\xff\n.png")
    save(root / "good.png", 9).rename(root / odd)
    (root / (odd + "2.png")).write_bytes(b"")
    images = opened(root)
    assert content(images)[odd] == 9
    assert images.unreadable == ((odd + "2.png", "empty file"),)


def test_links_are_followed_and_cycles_are_not(tmp_path):
    numbered(tmp_path / "elsewhere", 3)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "mine")
    assert len(opened(tmp_path / "mine")) == 3


def test_a_link_that_leads_nowhere_is_an_image_that_cant_be_read(tmp_path):
    numbered(tmp_path / "mine", 3)
    (tmp_path / "mine" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "mine" / "folder").symlink_to(tmp_path / "nowhere")
    images = opened(tmp_path / "mine")
    assert len(images) == 3
    assert [f.path for f in images.unreadable] == ["gone.png"]
    save(tmp_path / "nowhere.png", size=images.shape[:0:-1])
    assert len(opened(tmp_path / "mine")) == 4, "what is there again is read"


def test_sizes_that_differ_are_an_error_with_a_remedy(tmp_path):
    save(tmp_path / "mine" / "a.png", size=(8, 6))
    save(tmp_path / "mine" / "b.png", size=(9, 6))
    with pytest.raises(DataError, match=r"a\.png is 8x6, b\.png is 9x6; data\.size=64 brings all to 64x64"):
        opened(tmp_path / "mine")
    assert opened(tmp_path / "mine", size=5).shape == (1, 5, 5)


def test_images_need_not_be_square(tmp_path):
    save(tmp_path / "mine" / "a.png", size=(9, 5))
    assert opened(tmp_path / "mine").shape == (1, 5, 9)


def test_size_cuts_the_centre(tmp_path):
    x = np.zeros((20, 60), np.uint8)
    x[:, 20:40] = 200
    (tmp_path / "mine").mkdir()
    Image.fromarray(x).save(tmp_path / "mine" / "a.png")
    images = opened(tmp_path / "mine", size=10)
    assert images.shape == (1, 10, 10)
    assert (images.x[0, 0, :, 1:-1] == 200).all()


def test_one_colour_image_makes_all_of_three_channels(tmp_path):
    save(tmp_path / "mine" / "a.png", 100, mode="L")
    save(tmp_path / "mine" / "b.png", 100, mode="RGB")
    images = opened(tmp_path / "mine")
    assert images.shape == (3, 8, 8)
    assert {tuple(x[:, 0, 0].tolist()) for x in images.x} == {(100, 100, 100), (100, 50, 0)}
    assert opened(tmp_path / "mine", gray=True).shape == (1, 8, 8)


def test_levels_are_never_guessed(tmp_path):
    root = numbered(tmp_path / "mine", 4)
    assert opened(root).levels == 256
    assert opened(root, levels=4).levels == 4
    with pytest.raises(DataError, match=r"003\.png: a pixel has the value 3, but levels is 3"):
        opened(root, levels=3)


def test_a_folder_without_images_says_what_it_holds(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.xcf").write_bytes(b"x")
    with pytest.raises(DataError, match=r"no images \(it holds \.xcf\)"):
        opened(tmp_path / "mine")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("mnits", "no data set or path 'mnits'; did you mean mnist?"),
        ("digts", "no data set or path 'digts'; did you mean digits?"),
    ],
)
def test_unknown_names(source, message):
    with pytest.raises(DataError) as e:
        opened(source)
    assert str(e.value) == message


def test_unknown_split():
    with pytest.raises(DataError, match=r"no split 'tset'; did you mean test\?"):
        opened("digits", "tset")


def test_a_single_file_is_no_data_set(tmp_path):
    with pytest.raises(DataError, match="is one image"):
        opened(save(tmp_path / "a.png"))
    (tmp_path / "a.csv").write_text("x")
    with pytest.raises(DataError, match="expected a folder"):
        opened(tmp_path / "a.csv")


def test_the_configuration_is_checked():
    data = parse(Data, {"source": "mnist", "size": 32, "gray": True})
    assert parse(Data, dump(data)) == data
    with pytest.raises(ConfigError, match="size: expected a whole number above 0 or null, got 0"):
        parse(Data, {"size": 0})
    with pytest.raises(ConfigError, match="grey: unknown key; did you mean gray"):
        parse(Data, {"grey": True})


def test_a_relative_source_can_be_made_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Data(source="mine").absolute().source == str(tmp_path / "mine")
    assert Data(source="digits").absolute().source == "digits"


# --- npz ---


def test_npz(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 5, (50, 6, 7, 3), np.uint8)
    factors = rng.random((50, 2))
    np.savez_compressed(
        tmp_path / "a.npz", x=x, y=np.arange(50) % 4, levels=5, factors=factors, factor_names=np.array(["size", "hue"])
    )
    images = opened(tmp_path / "a.npz")
    assert (images.shape, images.levels, images.classes) == ((3, 6, 7), 5, ("0", "1", "2", "3"))
    assert images.factor_names == ("size", "hue")
    # rows are dealt to the parts, and keep their order within each
    rows = [np.flatnonzero((factors == f).all(1)).item() for f in np.asarray(images.factors)]
    assert sorted(rows) == list(range(50))
    np.testing.assert_array_equal(images.x, x[rows].transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(images.y, np.arange(50)[rows] % 4)
    test = opened(tmp_path / "a.npz", "test")
    assert rows[-len(test) :] == sorted(rows[-len(test) :])


def test_npz_in_many_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr("lowerbound.data.arrays.BLOCK", 3 * 16)
    x = np.arange(20, dtype=np.uint8)[:, None, None] * np.ones((1, 4, 4), np.uint8)
    np.savez(tmp_path / "a.npz", x=x)
    assert sorted(opened(tmp_path / "a.npz").x[:, 0, 0, 0].tolist()) == list(range(20))


def test_npz_with_options(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.full((5, 4, 6, 3), 90, np.uint8))
    assert opened(tmp_path / "a.npz", size=3, gray=True).shape == (1, 3, 3)
    assert (opened(tmp_path / "a.npz", size=3, gray=True).x == 90).all()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({n: np.zeros((3, 4, 4), np.uint8) for n in "ab"}, "has no array x; its arrays: a, b"),
        ({"x": np.zeros((3, 4, 4))}, "x must be uint8, got float64"),
        ({"x": np.zeros((3, 4), np.uint8)}, r"x must be \[N, H, W\]"),
        ({"x": np.zeros((0, 4, 4), np.uint8)}, r"x must be \[N, H, W\]"),
        ({"x": np.zeros((3, 4, 4, 2), np.uint8)}, r"with 1 or 3 channels, got \[3, 4, 4, 2\]"),
        ({"x": np.zeros((3, 4, 4), np.uint8), "y": np.zeros(2, int)}, "y must be 3 whole numbers"),
        ({"x": np.zeros((3, 4, 4), np.uint8), "y": np.full(3, -1)}, "labels from 0, got -1"),
        ({"x": np.zeros((3, 4, 4), np.uint8), "levels": 300}, "levels must be a whole number from 2 to 256, got 300"),
        ({"x": np.full((3, 4, 4), 9, np.uint8), "levels": 9}, "a pixel has the value 9, but levels is 9"),
        ({"x": np.zeros((3, 4, 4), np.uint8), "factors": np.zeros((3, 1))}, "belong together"),
        ({"x": np.array([None, {}])}, "x must be uint8, got object"),
        ({"x": np.zeros((3, 4, 4), np.uint8), "y": np.array([None, {}, 1])}, "not a readable .npz"),
    ],
)
def test_npz_that_is_no_data_set(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=message):
        opened(tmp_path / "a.npz")


def test_damaged_npz(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros((99, 4, 4), np.uint8))
    data = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=r"not a readable \.npz"):
        opened(tmp_path / "a.npz")


# --- digits, the list, the summary, a user's own images ---


def test_digits_work_on_a_fresh_machine():
    images = opened("digits")
    assert (images.shape, images.levels, len(images)) == ((1, 8, 8), 17, 1797)
    assert images.x.max() == 16
    assert images.classes == tuple("0123456789")
    counts = [len(opened("digits", p)) for p in PARTS]
    assert counts == [1459, 149, 189]  # part of the numbers reported on digits: a change is a new data set
    assert opened("digits", size=16).shape == (1, 16, 16)


def test_names_say_what_is_missing(tmp_path):
    known = {k.name: k for k in names()}
    assert known["digits"].present
    assert not known["mnist"].present
    assert "mnist/train-images-idx3-ubyte.gz" in known["mnist"].missing
    assert all(k.description for k in known.values())


def test_summary(tmp_path):
    for i in range(20):
        save(tmp_path / "mine" / "a" / f"{i}.png", 10, mode="RGB")
        save(tmp_path / "mine" / "b" / f"{i}.png", 20, mode="RGB")
    (tmp_path / "mine" / "b" / "bad.png").write_bytes(b"")
    s = summary(Data(source=str(tmp_path / "mine")))
    assert s["n"] == sum(s["splits"].values()) == 40
    assert s["classes"] == {"a": 20, "b": 20}
    assert s["mean"] == [15.0, 7.5, 0.0]
    assert s["unreadable"] == [["b/bad.png", "empty file"]]


def test_own_images_are_prepared_as_the_data_were(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "mine").mkdir()
    for i in range(6):
        pixels = rng.integers(0, 256, (60 + i, 90, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "mine" / f"{i}.jpg")
    data = Data(source=str(tmp_path / "mine"), size=20)
    images = data.open("all")
    again = open_readable([tmp_path / "mine" / p for p in images.paths or ()], data, images.shape).x
    np.testing.assert_array_equal(again, images.x)


def test_own_images_take_the_shape_and_levels_of_the_run(tmp_path):
    white = save(tmp_path / "white.png", 255, size=(50, 31))
    assert open_readable([white], Data(), (1, 8, 8), levels=17).x.tolist() == np.full((1, 1, 8, 8), 16).tolist()
    assert open_readable([white], Data(), (3, 9, 5)).x.shape == (1, 3, 9, 5)
    with pytest.raises(DataError, match=r"white\.png: a pixel has the value 255, but levels is 17"):
        open_readable([white], Data(source="mine", levels=17), (1, 8, 8), levels=17)


def test_own_images_that_cannot_be_read(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no image")
    for path, reason in (("none.png", "No such file"), ("a.png", "not an image"), (".", "is a folder")):
        with pytest.raises(DataError, match=reason):
            open_readable([tmp_path / path], Data(), (1, 8, 8))


def test_progress_ends_at_the_total(tmp_path):
    calls: list[tuple[int, int]] = []
    Data(source=str(numbered(tmp_path / "mine", 9))).open(
        "train", progress=lambda done, total: calls.append((done, total))
    )
    assert calls == [(i, 9) for i in range(1, 10)]


def test_one_top_folder_changes_nothing(tmp_path):
    numbered(tmp_path / "mine", 20)
    shutil.copytree(tmp_path / "mine", tmp_path / "outer" / "mine")
    for part in PARTS:
        assert content(opened(tmp_path / "outer", part)) == content(opened(tmp_path / "mine", part))

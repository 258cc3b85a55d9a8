"""Pictures: every pixel where it belongs, files whole or absent, logs of any shape drawn."""

import math
import stat
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.stats import norm

from lowerbound import pictures
from lowerbound.errors import UserError
from lowerbound.pictures import plots, sheets


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def opened(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("levels", [2, 17, 256])
def test_grid_places_every_image(rng, channels, levels):
    x = rng.integers(0, levels, (7, channels, 4, 5)).astype(np.uint8)
    picture = pictures.grid(x, levels, columns=3, gap=1, scale=2)
    assert picture.shape == (3 * 9 - 1, 3 * 11 - 1, *([3] if channels == 3 else []))
    assert picture.dtype == np.uint8
    for i in range(7):
        top, left = 9 * (i // 3), 11 * (i % 3)
        shown = picture[top : top + 8 : 2, left : left + 10 : 2].reshape(4, 5, channels).transpose(2, 0, 1)
        assert (shown == np.rint(x[i] * (255 / (levels - 1)))).all()
    assert (picture[:, 10] == 255).all()  # the gap
    assert (picture[18:, 12:] == 255).all()  # the empty cells


@pytest.mark.parametrize(("size", "shown"), [(2, 56), (8, 56), (28, 56), (32, 64), (56, 56), (64, 64), (300, 300)])
def test_small_images_are_enlarged_by_whole_numbers(size, shown):
    assert pictures.grid(np.zeros((1, 1, size, size))).shape == (shown, shown)


def test_grid_is_nearly_a_square():
    for n in range(1, 200):
        columns = sheets._near_square(n)
        rows = math.ceil(n / columns)
        assert columns * rows - n < columns
        assert rows <= columns <= 2.6 * rows


def test_means_are_rounded_and_clipped():
    x = np.array([-0.5, 0.4, 15.99, 17.0], np.float32).reshape(1, 1, 2, 2)
    assert pictures.grid(x, 17, scale=1).tolist() == [[0, 6], [255, 255]]


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((2, 4, 3, 3)), r"1 or 3 channels, got \[2, 4, 3, 3\]"),
        (np.zeros((3, 3)), r"got \[3, 3\]"),
        (np.zeros((0, 1, 3, 3)), r"got \[0, 1, 3, 3\]"),
        (np.full((1, 1, 2, 2), np.nan), "4 of 4 pixel values are not finite"),
    ],
)
def test_what_is_no_image_is_said(x, message, tmp_path):
    with pytest.raises(UserError, match=message):
        pictures.grid(x)
    for name in ("a.png", "a.npz", "a"):
        with pytest.raises(UserError, match=message):
            pictures.save_images(x, 256, tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_pairs_put_each_reconstruction_below_its_original(rng):
    a, b = rng.integers(0, 256, (2, 20, 3, 64, 64)).astype(np.uint8)
    picture = pictures.pairs(a, b, columns=8)
    assert picture.shape == (3 * 130 + 2 * 8, 8 * 66 - 2, 3)
    for i in (0, 7, 8, 19):
        top, left = (130 + 8) * (i // 8), 66 * (i % 8)
        assert (picture[top : top + 64, left : left + 64] == a[i].transpose(1, 2, 0)).all()
        assert (picture[top + 66 : top + 130, left : left + 64] == b[i].transpose(1, 2, 0)).all()


def test_pairs_wrap_evenly_and_must_match():
    a = np.zeros((10, 1, 56, 56))
    assert pictures.pairs(a, a).shape[1] == 5 * 58 - 2
    assert pictures.pairs(a[:3], a[:3]).shape == (114, 3 * 58 - 2)
    with pytest.raises(UserError, match=r"alike, got \(10, 1, 56, 56\), \(9, 1, 56, 56\)"):
        pictures.pairs(a, a[:9])


def test_contact_sheet_writes_names_below():
    x = np.full((4, 1, 56, 56), 255)
    plain, named = pictures.contact_sheet(x), pictures.contact_sheet(x, labels=["a", "", "Țepeș", "a very long name"])
    assert (plain == 255).all()
    assert named.shape == (plain.shape[0] + 2 * 14, plain.shape[1])
    ink = [(cell < 128).sum() for row in np.split(named[:, :], [74], axis=0) for cell in (row[:, :56], row[:, 60:])]
    assert ink[1] == 0
    assert 0 < ink[0] < ink[2] < ink[3]
    assert (named[:56] == 255).all()
    with pytest.raises(UserError, match="labels: expected 4, one per image, got 1"):
        pictures.contact_sheet(x, labels=["a"])


def test_quantiles_are_the_normals():
    z = pictures.quantiles(5).reshape(5, 5, 2)
    assert z.dtype == np.float32
    assert norm.cdf(z[0, :, 0]) == pytest.approx([0.1, 0.3, 0.5, 0.7, 0.9], abs=1e-6)
    assert norm.cdf(z[:, 0, 1]) == pytest.approx([0.9, 0.7, 0.5, 0.3, 0.1], abs=1e-6)  # upwards
    assert (z[..., 0] == z[0, :, 0]).all()
    assert (z[:, :, 1] == z[:, :1, 1]).all()


def test_manifold_grows_right_and_up():
    picture = pictures.manifold(lambda z: (8 + 2 * z.sum(1))[:, None, None, None] * np.ones((1, 1, 2, 3)), 17, side=6)
    assert picture.shape == (12, 18)
    assert (np.diff(picture[0].astype(int)) >= 0).all()
    assert (np.diff(picture[:, 0].astype(int)) <= 0).all()


@pytest.mark.parametrize("shape", [(5, 6), (5, 6, 3)])
def test_png_round_trip(rng, shape, tmp_path):
    picture = rng.integers(0, 256, shape).astype(np.uint8)
    pictures.save_png(picture, tmp_path / "a" / "b" / "picture.png")
    assert (opened(tmp_path / "a" / "b" / "picture.png") == picture).all()
    assert [p.name for p in (tmp_path / "a" / "b").iterdir()] == ["picture.png"]


def test_files_have_the_usual_permissions(tmp_path):
    (tmp_path / "usual").touch()
    pictures.save_images(np.zeros((1, 1, 2, 2)), 256, tmp_path / "a.png")
    assert stat.filemode((tmp_path / "a.png").stat().st_mode) == stat.filemode((tmp_path / "usual").stat().st_mode)


def test_path_png_is_a_grid(rng, tmp_path):
    x = rng.integers(0, 17, (6, 1, 8, 8)).astype(np.uint8)
    pictures.save_images(x, 17, tmp_path / "a.PNG")
    assert (opened(tmp_path / "a.PNG") == pictures.grid(x, 17)).all()


@pytest.mark.parametrize(("levels", "keys"), [(256, {"x"}), (17, {"x", "levels"}), (2, {"x", "levels"})])
def test_path_npz_keeps_pixel_values(rng, levels, keys, tmp_path):
    x = rng.integers(0, levels, (6, 3, 4, 5)).astype(np.uint8)
    pictures.save_images(x, levels, tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as saved:
        assert set(saved) == keys
        assert saved["x"].dtype == np.uint8
        assert (saved["x"] == x.transpose(0, 2, 3, 1)).all()
        assert levels == 256 or int(saved["levels"]) == levels


@pytest.mark.parametrize("channels", [1, 3])
def test_path_folder_has_one_png_each(rng, channels, tmp_path):
    x = rng.integers(0, 256, (3, channels, 4, 5)).astype(np.uint8)
    out = tmp_path / "new" / "folder"
    pictures.save_images(x, 256, out)
    assert sorted(p.name for p in out.iterdir()) == ["0000.png", "0001.png", "0002.png"]
    assert (opened(out / "0001.png").reshape(4, 5, channels) == x[1].transpose(1, 2, 0)).all()
    assert list(out.parent.iterdir()) == [out]


def test_folder_with_a_dot_is_a_folder_when_it_exists(tmp_path):
    out = tmp_path / "v1.0"
    out.mkdir()
    (out / "kept.txt").touch()
    pictures.save_images(np.zeros((1, 1, 2, 2)), 256, out)
    assert sorted(p.name for p in out.iterdir()) == ["0000.png", "kept.txt"]


@pytest.mark.parametrize(
    ("names", "files"),
    [
        (["cats/tom.jpg", "x.y.png"], ["tom.png", "x.y.png"]),
        (["a/1.png", "b/1.png"], ["0000-1.png", "0001-1.png"]),
        (["../../etc/passwd", "/"], ["image.png", "passwd.png"]),
    ],
)
def test_names_stay_in_the_folder(names, files, tmp_path):
    pictures.save_images(np.zeros((2, 1, 2, 2)), 256, tmp_path / "out", names)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == files
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_wrong_number_of_names(tmp_path):
    with pytest.raises(UserError, match="names: expected 2, one per image, got 1"):
        pictures.save_images(np.zeros((2, 1, 2, 2)), 256, tmp_path / "out", ["a"])


def test_other_suffixes_say_what_is_possible(tmp_path):
    with pytest.raises(UserError, match=r"a\.jpg: can't write images as \.jpg; expected .*\.png.*\.npz.*folder"):
        pictures.save_images(np.zeros((1, 1, 2, 2)), 256, tmp_path / "a.jpg")


@pytest.mark.parametrize("name", ["a.png", "a.npz", "a"])
def test_a_file_in_the_way_is_named(name, tmp_path):
    (tmp_path / "file").write_text("kept")
    with pytest.raises(UserError, match=rf"can't write .*file/{name}(/0000\.png)?: \w+"):
        pictures.save_images(np.zeros((1, 1, 2, 2)), 256, tmp_path / "file" / name)
    assert (tmp_path / "file").read_text() == "kept"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("name", ["a.png", "a.npz", "a"])
def test_a_full_disk_leaves_nothing(name, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    images = np.zeros((2, 1, 2, 2))
    message = rf"can't write .*{name}.*: No space left on device"
    with pytest.raises(UserError, match=message):
        pictures.save_images(images, 256, tmp_path / name)
    with pytest.raises(UserError, match=message):
        pictures.curves([], tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_log_is_read_term_by_term():
    records = [
        {"step": 1, "stage": "a", "split": "train", "seconds": 1.0, "images_per_second": 9.0, "loss": 3, "best": True},
        {"step": 2, "stage": "a", "split": "train", "loss": 2.0, "terms": {"kl": 0.5}, "note": "text"},
        {"step": 2, "stage": "a", "split": "valid", "loss": 2.5},
        {"step": 2, "stage": "a", "split": "train", "loss": 2.25},
    ]
    assert plots._series(records) == {
        ("", "loss"): {"train": {1: 3.0, 2: 2.25}, "valid": {2: 2.5}},
        ("", "kl"): {"train": {2: 0.5}},
        ("", "images_per_second"): {"train": {1: 9.0}},
    }
    two = [{"step": 1, "stage": "a", "loss": 1.0}, {"step": 1, "stage": "b", "loss": 1.0}]
    assert list(plots._series(two)) == [("a", "loss"), ("b", "loss")]


def test_the_bound_is_drawn_first_and_the_speed_last():
    terms = {"lr": 1, "images_per_second": 2, "kl": 3, "grad_norm": 4, "elbo": 5, "loss": 6}
    records = [{"step": 1, "stage": "b", **terms}, {"step": 1, "stage": "a", **terms}]
    order = ["elbo", "loss", "kl", "lr", "grad_norm", "images_per_second"]
    assert list(plots._series(records)) == [(stage, name) for stage in "ba" for name in order]


@pytest.mark.parametrize(
    "records",
    [
        [],
        [{"step": 0, "split": "train", "loss": 1.0}],
        [{"step": s, "split": "train", "loss": v} for s, v in enumerate([math.nan, math.inf, 2.0])],
        [{"step": s, "split": "train", "loss": math.nan} for s in range(3)],
        [{"step": s, "split": p, "loss": s, "kl": -s} for s in range(100) for p in ("train", "valid", "ema")],
    ],
)
def test_curves_of_any_log(records, tmp_path):
    pictures.curves(records, tmp_path / "pictures" / "curves.png")
    picture = opened(tmp_path / "pictures" / "curves.png")
    assert picture.min() < 128 < picture.max()
    assert (tmp_path / "pictures" / "curves.png").stat().st_size < 200_000


def test_a_steep_start_does_not_flatten_the_rest():
    steps = [float(s) for s in range(100)]
    falling = {"train": {s: 500.0 if s == 0 else 90.0 + s % 2 for s in steps}}
    assert plots._limits(falling) == pytest.approx((89.94, 91.06))
    assert plots._limits({"train": {s: s for s in steps}}) is None

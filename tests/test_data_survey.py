"""Looking at data: also at images of several sizes, which is when one wants to look."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from command import right
from lowerbound.data import Data, summary
from lowerbound.data.survey import sheet


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def root(tmp_path) -> Path:
    for name, sizes, mode in (("ant", [(100, 50), (100, 100)], "RGB"), ("cat", [(40, 80), (30, 30)], "L")):
        for i in range(20):
            file = tmp_path / "mine" / name / f"{i}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new(mode, sizes[i % 2], 200 if mode == "L" else (200, 0, 0)).save(file)
    (tmp_path / "mine" / "ant" / "wide.png").write_bytes(b"")
    Image.new("L", (1000, 10)).save(tmp_path / "mine" / "ant" / "panorama.png")
    return tmp_path / "mine"


def test_images_of_several_sizes_are_summarized(root, tmp_path):
    found = summary(Data(source=str(root)))
    assert (found["shape"], found["mean"], found["n"]) == (None, None, 41)
    assert sum(found["splits"].values()) == 41
    assert found["classes"] == {"ant": 21, "cat": 20}
    assert found["sizes"] == {"100x50": 10, "100x100": 10, "40x80": 10, "30x30": 10, "1000x10": 1}
    assert found["modes"] == {"colour": 20, "grey": 21}
    assert found["unreadable"] == [["ant/wide.png", "empty file"]]
    assert not list((tmp_path / "cache").rglob("x.npy"))  # headers alone are read
    crop = found["crop"]
    assert crop["size"].startswith("data.size=64: the shorter side to 64")
    assert crop["enlarged"] == 31  # of 50, 40, 30 and 10 pixels
    assert crop["lose_much"] == 21
    assert list(crop["most"].items())[:2] == [("ant/panorama.png", "99%"), ("ant/0.png", "50%")]
    sized = summary(Data(source=str(root), size=32))
    assert sized["shape"] == [3, 32, 32]
    assert sized["crop"]["size"].startswith("data.size=32")
    assert sized["crop"]["enlarged"] == 11
    assert {k: sized[k] for k in ("n", "splits", "classes", "sizes")} == {
        k: found[k] for k in ("n", "splits", "classes", "sizes")
    }


def test_their_sheet_is_that_of_the_size_it_would_be(root):
    shown = sheet(Data(source=str(root)))
    sized = sheet(Data(source=str(root), size=64))
    np.testing.assert_array_equal(shown.x, sized.x)
    assert shown.labels == sized.labels
    assert set(shown.labels or ()) == {"ant", "cat"}


def test_files_of_one_size_say_nothing_of_crops(tmp_path):
    (tmp_path / "mine").mkdir()
    for i in range(5):
        Image.new("L", (8, 8), i).save(tmp_path / "mine" / f"{i}.png")
    assert "crop" not in summary(Data(source="mine"))
    assert "crop" not in summary(Data(source="digits"))


def test_data_show_shows_them(root):
    report = right("data", "show", str(root), "--out", "sheet.png", "--json").json
    assert report["sizes"]["100x50"] == 10
    with Image.open("sheet.png") as image:
        assert image.width > 200
    text = right("data", "show", str(root)).out
    assert "data.size=64" in text
    assert "panorama.png" in text

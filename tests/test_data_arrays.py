"""Arrays as people have them: what has one meaning is taken, and said; of what has several, the way on is named."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lowerbound.data import Data, Images
from lowerbound.data.split import PARTS
from lowerbound.errors import DataError

N = 20


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def x_of(*shape: int, below: int = 256) -> np.ndarray:
    return np.random.default_rng(0).integers(0, below, (N, *shape), np.uint8)


def opened(arrays: dict[str, Any], **fields) -> Images:
    np.savez("a.npz", **arrays)
    return Data(source="a.npz", **fields).open("all")


def plain(arrays: dict[str, Any]) -> Images:
    """The same in the way that the library asks for."""
    np.savez("plain.npz", **arrays)
    return Data(source="plain.npz").open("all")


GREY, COLOUR = x_of(8, 10), x_of(8, 10, 3)
BOOLS = x_of(8, 10, below=2).astype(bool)
TAKEN = [  # as it is had, what it means, what is said
    ({"x": GREY.astype(np.int64)}, {"x": GREY}, "int64 within 0 to 255"),
    ({"x": GREY.astype(">u2")}, {"x": GREY}, ">u2 within 0 to 255"),
    ({"x": BOOLS}, {"x": BOOLS.astype(np.uint8), "levels": 2}, "bools as 2 levels"),
    ({"x": COLOUR.transpose(0, 3, 1, 2)}, {"x": COLOUR}, "channels first, of [20, 3, 8, 10]"),
    ({"x": GREY[:, None]}, {"x": GREY}, "channels first, of [20, 1, 8, 10]"),
    ({"x": GREY[..., None]}, {"x": GREY}, ""),
    ({"x": x_of(784)}, {"x": x_of(784).reshape(-1, 28, 28)}, "rows of 784 as 28x28"),
    ({"imgs": GREY}, {"x": GREY}, "images from imgs"),
    ({"pictures": COLOUR, "z": np.zeros((N, 7))}, {"x": COLOUR}, "images from pictures; ignored: z"),
    ({"data": x_of(784), "target": np.arange(N)}, {"x": x_of(784).reshape(-1, 28, 28), "y": np.arange(N)}, "from data"),
    ({"x": GREY, "labels": np.arange(N) % 3}, {"x": GREY, "y": np.arange(N) % 3}, "labels from labels"),
    ({"x": GREY, "y": np.arange(N)[:, None] % 3}, {"x": GREY, "y": np.arange(N) % 3}, "y of [20, 1] as [20]"),
    ({"x": GREY, "y": np.arange(N) % 3.0}, {"x": GREY, "y": np.arange(N) % 3}, "y of whole float64"),
    ({"x": GREY, "y": np.arange(N) % 2 == 1}, {"x": GREY, "y": np.arange(N) % 2}, "y of bools as 0 and 1"),
    ({"x": GREY, "y": np.eye(4)[np.arange(N) % 4]}, {"x": GREY, "y": np.arange(N) % 4}, "y one-hot, of [20, 4]"),
]


@pytest.mark.parametrize(("had", "meant", "said"), TAKEN, ids=[s or "as asked" for _, _, s in TAKEN])
def test_what_has_one_meaning_is_taken_and_said(had, meant, said):
    images, expected = opened(had), plain(meant)
    assert images.fingerprint == expected.fingerprint
    assert said in images.layout
    assert expected.layout == ""
    assert "\n" not in images.layout


@pytest.mark.parametrize("kind", ["U", "S"])
def test_labels_of_strings_are_class_names(kind):
    names = np.array(["dog", "ant", "cat", "ant"] * 5, kind)
    images = opened({"x": GREY, "y": names})
    assert images.classes == ("ant", "cat", "dog")
    assert images.y is not None
    rows = [np.flatnonzero((x[0] == GREY).all((1, 2))).item() for x in images.x]
    assert [images.classes[k] for k in images.y] == [names.astype(str)[i] for i in rows]
    assert "y of strings as 3 classes" in images.layout


@pytest.mark.parametrize("had", [GREY, COLOUR, COLOUR.transpose(0, 3, 1, 2), x_of(784), BOOLS], ids=lambda x: x.shape)
def test_a_plain_npy(had):
    np.save("a.npy", had)
    images = Data(source="a.npy").open("all")
    alike = opened({"x": had})
    assert images.fingerprint == alike.fingerprint
    assert (images.name, images.layout) == ("a", alike.layout)


def test_transparency_is_put_on_white_as_that_of_files():
    rgba = x_of(8, 10, 4)
    images = opened({"x": rgba})
    Path("files").mkdir()
    for i, x in enumerate(rgba):
        Image.fromarray(x).save(f"files/{i}.png")
    files = Data(source="files").open("all")
    assert {x.tobytes() for x in images.x} == {x.tobytes() for x in files.x}
    assert "transparency on white" in images.layout


@pytest.mark.parametrize("names", ["x_{} y_{}", "{}_images {}_labels"])
def test_arrays_of_parts(names):
    arrays, pixels = {}, {}
    x_name, y_name = names.split()
    for k, part in enumerate(("train", "val", "test")):
        pixels[part] = np.full((5, 4, 6), k, np.uint8)
        arrays[x_name.format(part)] = pixels[part]
        arrays[y_name.format(part)] = np.full(5, k)
    np.savez("a.npz", **arrays)
    for k, split in enumerate(PARTS):
        images = Data(source="a.npz").open(split)
        assert images.x.shape == (5, 1, 4, 6)
        assert (images.x == k).all()
        assert images.y is not None
        assert (images.y == k).all()
    assert "train" in images.layout
    for array in list(arrays):
        if "val" in array:
            del arrays[array]
    np.savez("a.npz", **arrays)
    assert (Data(source="a.npz").open("valid").x == 0).all()  # carved from train
    assert len(Data(source="a.npz").open("test")) == 5


UNCLEAR = [  # floats, and the images that the line of the message makes of them
    (GREY / 255, GREY),
    (GREY.astype(np.float32) / np.float32(255), GREY),
    (GREY / 127.5 - 1, GREY),
    (GREY.astype(float), GREY),
    (BOOLS.astype(np.float32), BOOLS),
]


@pytest.mark.parametrize("suffix", [".npz", ".npy"])
@pytest.mark.parametrize(("had", "meant"), UNCLEAR, ids=["[0, 1]", "float32", "[-1, 1]", "whole", "binary"])
def test_the_line_that_is_named_for_floats_makes_it_right(suffix, had, meant):
    y = np.arange(N) % 3
    if suffix == ".npz":
        np.savez("a.npz", pixels=had, y=y)
    else:
        np.save("a.npy", had)
    with pytest.raises(DataError, match=f"must be uint8, got {had.dtype} from .* this makes it so: ") as e:
        Data(source=f"a{suffix}").open("all")
    exec(str(e.value).partition("this makes it so: ")[2], {"np": np})
    images = Data(source=f"a-uint8{suffix}").open("all")
    expected = plain({"x": meant} | ({"y": y} if suffix == ".npz" else {}))
    assert images.fingerprint == expected.fingerprint


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.full((3, 4, 4), 256)}, "x has values from 256 to 256, expected 0 to 255"),
        ({"x": np.full((3, 4, 4), -1)}, "x has values from -1 to -1"),
        ({"x": np.full((3, 4, 4), 4096, np.uint16)}, r"save \(x >> 8\)\.astype\(np\.uint8\)"),
        ({"x": np.full((3, 4, 4), np.nan)}, r"np\.nan_to_num"),
        ({"x": np.full((3, 4, 4), 300.5)}, r"x\.max\(\)|d\['x'\]\.max\(\)"),
        ({"x": np.zeros((3, 3, 4, 4), np.uint8)}, r"can be \[N, H, W, C\] or \[N, C, H, W\]"),
        ({"x": np.zeros((3, 3072), np.uint8)}, r"x\.reshape\(-1, 3, 32, 32\) or x\.reshape\(-1, 32, 32, 3\)"),
        ({"x": np.zeros((3, 560), np.uint8)}, r"x\.reshape\(-1, HEIGHT, WIDTH\)"),
        ({"x": np.zeros((64, 64), np.uint8)}, r"got \[64, 64\]"),  # rather one image
        ({"a": np.zeros((3, 4, 4), np.uint8), "b": np.zeros((3, 4, 4), np.uint8)}, "has no array x; its arrays: a, b"),
        ({"x": np.zeros((3, 4, 4), np.uint8), "y": np.array([0.5, 1, 2])}, "y must be 3 whole numbers or strings"),
        ({"x": np.zeros((3, 4, 4), np.uint8), "y": np.array([np.nan, 1, 2])}, "y must be 3 whole numbers or strings"),
        ({"x": np.zeros((3, 4, 4), np.uint8), "y": np.array(["a", 1], object)}, r"save y\.astype\(str\)"),
        (
            {"x_train": np.zeros((3, 4, 4), np.uint8), "x_test": np.zeros((3, 4, 5), np.uint8)},
            "the parts' images differ: ",
        ),
    ],
)
def test_what_has_no_one_meaning_is_refused_with_a_way_on(arrays, message):
    with pytest.raises(DataError) as e:
        opened(arrays)
    assert re.search(message, str(e.value)), e.value


def test_wide_values_are_streamed(monkeypatch):
    monkeypatch.setattr("lowerbound.data.arrays.BLOCK", 3 * 80 * 8)
    assert opened({"x": GREY.astype(np.int64)}).fingerprint == plain({"x": GREY}).fingerprint

"""`compress` and `decompress`: files of images, by the bundled models."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import lowerbound as lb
from command import call, right, tree
from lowerbound.codec.container import Container
from lowerbound.codec.images import targets
from lowerbound.data.base import Data
from lowerbound.errors import UserError
from lowerbound.training.train import train as run_training

pytestmark = pytest.mark.usefixtures("surroundings", "here")


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory, surroundings) -> Path:
    """Digits of 17 levels, as files of 0 to 255."""
    folder = tmp_path_factory.mktemp("digits")
    (folder / "more").mkdir()
    for i, x in enumerate(Data(source="digits").open("test").x[:24]):
        picture = Image.fromarray(np.rint(x[0] * (255 / 16)).astype(np.uint8))
        picture.save(folder / (f"{i}.png" if i < 20 else f"more/{i}.png"))
    return folder


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def expect_same(folder: Path, other: Path) -> None:
    names = {name for name in tree(folder) if name.endswith(".png")}
    assert names
    for name in names:
        assert np.array_equal(pixels(folder / name), pixels(other / name)), name


def test_a_folder_becomes_a_file_and_a_folder_again(digits: Path, here: Path):
    done = right("compress", "pretrained:vae", digits, "--out", "digits.lb")
    size = (here / "digits.lb").stat().st_size
    assert f"24 images in digits.lb: {size:,} bytes" in done.out
    assert "read back and compared" in done.out
    right("decompress", "digits.lb", "--out", "back")
    assert tree(here / "back") == tree(digits)
    expect_same(digits, here / "back")
    assert tree(here) >= {"digits.lb", "back"}
    assert not [name for name in tree(here) if name.startswith(".")]


def test_the_report_adds_up(digits: Path, here: Path):
    report = lb.compress("pretrained:vae", [digits], out="a.lb", no_names=True, block=10)
    assert report["bytes"] == (here / "a.lb").stat().st_size
    assert report["framing_bytes"] <= 64 + 8 * report["blocks"]
    assert report["table_bytes"] == 0
    messages = report["bytes"] - report["framing_bytes"]
    net = 8 * (messages - report["initial_bytes"]) / (24 * 64)
    assert report["net_bits_per_dim"] == pytest.approx(net)
    assert report["bits_per_dim"] == pytest.approx(8 * report["bytes"] / (24 * 64))
    with pytest.raises(UserError, match=r"does not say which run wrote it: name it by --run"):
        lb.decompress("a.lb", out="back")
    lb.decompress("a.lb", out="back", run="pretrained:vae")
    assert sorted(tree(here / "back")) == [f"{i:05d}.png" for i in range(24)]


def test_one_image_is_read_without_the_others(digits: Path, here: Path, monkeypatch: pytest.MonkeyPatch):
    right("compress", "pretrained:vae", digits, "--out", "a.lb", "--block", "5")
    read, words = [], Container.words
    monkeypatch.setattr(Container, "words", lambda self, i: read.append(i) or words(self, i))
    right("decompress", "a.lb", "--out", "one", "--only", "7.png", "--only", "more/21.png")
    assert tree(here / "one") == {"7.png", "more", "more/21.png"}
    expect_same(here / "one", digits)
    assert len(read) <= 2
    done = call("decompress", "a.lb", "--out", "one", "--only", "77.png")
    assert done.status == 2
    assert "no image of this name; did you mean 7.png?" in done.err


def test_what_is_in_a_file_is_listed_without_the_run(digits: Path, here: Path):
    right("compress", "pretrained:vae", digits, "--out", "a.lb")
    shutil.rmtree(here / "runs", ignore_errors=True)
    listed = right("decompress", "a.lb", "--list", "--json").json
    assert {row["name"] for row in listed} == {name for name in tree(digits) if name.endswith(".png")}
    assert all((row["width"], row["height"]) == (8, 8) for row in listed)


def test_images_of_other_sizes_are_cut_into_tiles(here: Path):
    rng = np.random.default_rng(0)
    (here / "in").mkdir()
    for h, w in ((1, 1), (1, 30), (8, 8), (13, 21)):
        values = np.rint(rng.integers(0, 17, (h, w)) * (255 / 16)).astype(np.uint8)
        Image.fromarray(values).save(here / "in" / f"{h}x{w}.png")
    report = right("compress", "pretrained:vae", "in", "--out", "a.lb", "--json").json
    assert (report["images"], report["tiles"]) == (4, 1 + 4 + 1 + 6)
    right("decompress", "a.lb", "--out", "back")
    expect_same(here / "in", here / "back")
    right("compress", "pretrained:vae", "in", "--out", "b.lb", "--no-names")
    right("decompress", "b.lb", "--out", "numbers", "--run", "pretrained:vae")
    assert np.array_equal(pixels(here / "numbers" / "00000.png"), pixels(here / "in" / "13x21.png"))


def test_two_level_images(here: Path):
    (here / "in").mkdir()
    x = np.random.default_rng(0).integers(0, 2, (6, 28, 28)).astype(np.uint8)
    for i, image in enumerate(x):
        picture = Image.fromarray(255 * image)
        (picture.convert("1") if i % 2 else picture).save(here / "in" / f"{i}.png")
    assert "6 two-level images" in right("compress", "pretrained:vae-mnist", "in", "--out", "a.lb").out
    right("decompress", "a.lb", "--out", "back")
    assert all(np.array_equal(pixels(here / "back" / f"{i}.png"), 255 * image) for i, image in enumerate(x))


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (
            Image.new("L", (8, 8), 7),
            "a pixel has the value 7, and the model's images have 17 values from 0 to 255 alone",
        ),
        (Image.new("RGB", (8, 8), "red"), "is in colour, and the model is of grey images"),
        (Image.new("LA", (8, 8)), "is transparent, of which 8 bits a channel would keep a part"),
        (Image.fromarray(np.full((8, 8), 4096, np.uint16)), "has pixels of mode I;16, of which 8 bits"),
    ],
    ids=["levels", "colour", "transparent", "16 bit"],
)
def test_images_that_would_lose_something_are_refused(here: Path, image: Image.Image, said: str):
    image.save("a.png")
    done = call("compress", "pretrained:vae", "a.png", "--out", "a.lb")
    assert done.status == 2
    assert said in done.err
    assert tree(here) == {"a.png"}


def test_mistakes(digits: Path, here: Path):
    for words, said in (
        (["compress", "pretrained:vae", "nowhere.png", "--out", "a.lb"], "nowhere.png: No such file"),
        (["compress", "pretrained:vae", here, "--out", "a.lb"], "no images in this folder"),
        (["compress", "pretrained:vae", digits, "--out", "a.lb", "--block", "0"], "--block 0: expected 1 to"),
        (["compress", "pretrained:vae", digits, "--out", "a.lb", "--steps", "5"], "those of a diffusion model"),
        (["compress", "pretrained:vae", digits, "--out", "a.lb", "--lossy"], "the codes of a VQ-VAE alone"),
        (["compress", "pretrained:vae", digits, "--out", "a.lb", "--label", "3"], "is not conditional"),
        (["compress", "pretrained:vae", digits / "1.png", digits / "1.png", "--out", "a.lb"], "both be called 1.png"),
        (["decompress", "a.lb", "--out", "b"], "a.lb: No such file"),
        (["decompress", digits / "1.png", "--out", "b"], "is no file that `lowerbound compress` wrote"),
    ):
        done = call(*words)
        assert (done.status, done.err.count("\n")) == (2, 1), done
        assert said in done.err
    right("compress", "pretrained:vae", digits, "--out", "a.lb")
    done = call("decompress", "a.lb", "--out", "b", "--run", "pretrained:vae-mnist")
    assert (done.status, "was written with another model" in done.err) == (2, True)
    assert "say the folder for the images, or --list" in call("decompress", "a.lb").err


def test_no_file_is_written_over_but_one_that_compress_wrote(digits: Path, here: Path):
    shutil.copytree(digits, "in")
    before = {path: path.read_bytes() for path in Path("in").rglob("*.png")}
    done = call("compress", "pretrained:vae", "in", "--out", "in/0.png")
    assert (done.status, done.err.count("\n")) == (2, 1)
    assert "in/0.png: this file is there and `lowerbound compress` did not write it; say another name" in done.err
    right("compress", "pretrained:vae", "in", "--out", "a.lb")
    right("compress", "pretrained:vae", "in/0.png", "--out", "a.lb")
    done = call("decompress", "a.lb", "--out", "in")
    assert (done.status, "in/0.png is there already; say another folder, or --overwrite" in done.err) == (2, True)
    assert {path: path.read_bytes() for path in Path("in").rglob("*.png")} == before
    Path("in/0.png").write_bytes(b"another")
    right("decompress", "a.lb", "--out", "in", "--overwrite")
    expect_same(digits, here / "in")


def test_a_run_that_lies_elsewhere_is_asked_for(digits: Path, here: Path):
    shutil.copytree(lb.Run.open("pretrained:vae").path, "mine")
    right("compress", "mine", digits, "--out", "a.lb")
    Path("mine").rename("moved")
    done = call("decompress", "a.lb", "--out", "back")
    assert done.status == 2
    assert "a.lb was written by the run mine: " in done.err
    assert "name where it lies now by --run" in done.err
    right("decompress", "a.lb", "--out", "back", "--run", "moved")
    expect_same(digits, here / "back")


@pytest.mark.parametrize(
    "name", ["../a.png", "/etc/a.png", "a/../../b.png", "c:\\a.png", "a\0.png", "", "\ud800.png", 300 * "a"]
)
def test_names_that_lead_out_of_the_folder_are_refused(name: str):
    with pytest.raises(UserError, match="which is no name within a folder"):
        targets(["b.png", name])


def test_names_become_those_of_png_files_apart():
    assert [*map(str, targets(["a/b.jpg", "c.png"]))] == ["a/b.png", "c.png"]
    assert [*map(str, targets(["b.jpg", "b.png"]))] == ["b.jpg.png", "b.png"]


@pytest.fixture(scope="module")
def codes(tmp_path_factory: pytest.TempPathFactory, surroundings) -> Path:
    """A VQ-VAE-2 of digits given the label, trained for nothing but to be there."""
    few = ["train.steps=5", "train.valid_every=5", "train.stages.prior.steps=5"]
    return run_training("vqvae2-digits", out=tmp_path_factory.mktemp("runs") / "codes", changes=few).run.path


def test_labels_come_from_folders_and_stay_in_the_file(codes: Path, digits: Path, here: Path):
    for i, (label, name) in enumerate([("3", "a"), ("3", "b"), ("7", "c")]):
        (here / "in" / label).mkdir(parents=True, exist_ok=True)
        shutil.copy(digits / f"{i}.png", here / "in" / label / f"{name}.png")
    right("compress", codes, "in", "--out", "a.lb")
    right("decompress", "a.lb", "--out", "back")
    expect_same(here / "in", here / "back")
    with Container(here / "a.lb") as container:
        assert container.head.table["labels"] == [3, 3, 7]
    right("compress", codes, digits / "0.png", "--label", "5", "--out", "b.lb")
    right("decompress", "b.lb", "--out", "one")
    expect_same(here / "one", digits)
    done = call("compress", codes, digits / "0.png", "--out", "c.lb")
    assert (done.status, done.err.count("\n")) == (2, 1)
    assert "0.png: the model is given what each image is (0, 1, 2, ...); say it of all by --label" in done.err


def test_a_lossy_file_says_so_wherever_it_is_looked_at(codes: Path, digits: Path, here: Path):
    words = ("compress", codes, digits, "--label", "5", "--lossy", "--out", "a.lb")
    assert "LOSSY: other pixels come back, PSNR" in right(*words).out
    report = right(*words, "--json").json
    assert report["lossy"] is True
    assert report["bytes"] < right(*words[:-3], "--out", "b.lb", "--json").json["bytes"]
    assert right("decompress", "a.lb", "--list", "--json").json[0]["kept"] == "nearly (lossy)"
    assert "kept" not in right("decompress", "b.lb", "--list", "--json").json[0]
    assert "not the pixels that went in" in right("decompress", "a.lb", "--out", "back").out
    assert tree(here / "back") == tree(digits)

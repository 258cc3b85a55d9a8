"""Every odd image is handled or refused by name; nothing is decoded wrongly in silence."""

import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lowerbound.data import Data, Images
from lowerbound.errors import DataError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path) -> Path:
    (tmp_path / "mine").mkdir()
    return tmp_path / "mine"


def opened(root: Path, **fields) -> Images:
    return Data(source=str(root), **fields).open("all")


def test_16_bit_grey_keeps_the_upper_byte(root):
    x = np.array([[0, 255, 256], [32768, 65279, 65535]], np.uint16)
    Image.fromarray(x).save(root / "a.png")
    Image.fromarray(x).save(root / "b.tif")
    (root / "c.pgm").write_bytes(b"P5 3 2 65535\n" + x.astype(">u2").tobytes())
    images = opened(root)
    assert images.shape == (1, 2, 3)
    for row in images.x:
        assert row[0].tolist() == [[0, 0, 1], [128, 254, 255]]


def test_16_bit_colour_png(root):
    pixels = np.array([[[0x1234, 0xABCD, 0xFFFF]]], ">u2")
    (root / "a.png").write_bytes(png(1, 1, 16, 2, b"\0" + pixels.tobytes()))
    assert opened(root).x.ravel().tolist() == [0x12, 0xAB, 0xFF]


def test_32_bit_pixels_are_refused(root):
    Image.new("L", (4, 4)).save(root / "good.png")
    Image.fromarray(np.full((4, 4), 0.5, np.float32)).save(root / "float.tif")
    Image.fromarray(np.full((4, 4), 70000, np.int32)).save(root / "int.tif")
    images = opened(root, gray=True)
    assert len(images) == 1
    assert dict(images.unreadable).keys() == {"float.tif", "int.tif"}
    assert "mode F" in dict(images.unreadable)["float.tif"]


def test_palette(root):
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    image.save(root / "a.png")
    assert opened(root).x[0, :, 0, 0].tolist() == [10, 20, 30]


def test_palette_with_a_transparent_colour(root):
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    image.save(root / "a.png", transparency=1)
    assert opened(root).x[0, :, 0, 0].tolist() == [255, 255, 255]


def test_transparency_is_put_on_white(root):
    Image.new("RGBA", (4, 4), (200, 0, 0, 128)).save(root / "a.png")
    assert opened(root).x[0, :, 0, 0].tolist() == [227, 127, 127]


def test_grey_with_alpha_stays_grey(root):
    Image.new("LA", (4, 4), (0, 0)).save(root / "a.png")
    images = opened(root)
    assert images.shape == (1, 4, 4)
    assert (images.x == 255).all()


def test_cmyk(root):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(root / "a.jpg", quality=100)
    r, g, b = opened(root).x[0, :, 4, 4].tolist()
    assert r > 250
    assert max(g, b) < 5


def test_one_bit(root):
    Image.fromarray(np.array([[True, False]])).save(root / "a.png")
    assert opened(root).x.tolist() == [[[[255, 0]]]]
    assert opened(root, levels=2).x.tolist() == [[[[1, 0]]]]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
def test_exif_orientation(root, orientation, suffix):
    upright = np.zeros((16, 32), np.uint8)
    upright[:8, :8] = 250  # a bright corner, left above
    back = {1: [], 2: [0], 3: [3], 4: [1], 5: [5], 6: [2], 7: [6], 8: [4]}[orientation]
    image = Image.fromarray(upright).convert("RGB")
    for operation in back:
        image = image.transpose(Image.Transpose(operation))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, bool | int] = {".webp": {"lossless": True}, ".jpg": {"quality": 95}}.get(suffix, {})
    image.save(root / f"a{suffix}", exif=exif.tobytes(), **options)  # pyright: ignore[reportArgumentType]
    images = opened(root)
    assert images.shape == (3, 16, 32)
    assert np.abs(images.x[0, 0].astype(int) - upright).max() < 30
    assert opened(root, size=4).shape == (3, 4, 4)


def test_large_jpegs_are_reduced_while_decoding(root):
    y, x = np.mgrid[:300, :400]
    pixels = (127 + 60 * np.sin(x / 40) + 60 * np.cos(y / 30)).astype(np.uint8)
    Image.fromarray(pixels).save(root / "a.jpg", quality=95)
    Image.fromarray(pixels).save(root / "b.png")
    images = opened(root, size=24)
    a, b = images.x.astype(int)
    assert np.abs(a - b).max() <= 3


def test_damaged_exif_is_no_reason_to_refuse(root):
    Image.new("L", (4, 4)).save(root / "a.jpg", exif=b"Exif\0\0nonsense")
    assert len(opened(root)) == 1


def test_the_first_frame_of_an_animation(root):
    frames = [Image.new("L", (4, 4), v) for v in (10, 200)]
    frames[0].save(root / "a.gif", save_all=True, append_images=frames[1:])
    frames[0].save(root / "b.png", save_all=True, append_images=frames[1:])
    assert (opened(root).x == 10).all()


def test_the_first_picture_of_a_jpeg_of_several(root):
    frames = [Image.new("RGB", (8, 8), (v, v, v)) for v in (10, 200)]
    frames[0].save(root / "a.jpg", "MPO", save_all=True, append_images=frames[1:])
    assert (opened(root).x == 10).all()


def test_one_pixel(root):
    Image.new("L", (1, 1), 7).save(root / "a.png")
    assert opened(root).x.tolist() == [[[[7]]]]
    assert (opened(root, size=4).x == 7).all()


def test_a_sliver_can_be_cut(root):
    Image.new("L", (1, 3000), 7).save(root / "a.png")
    assert (opened(root, size=4).x == 7).all()


def test_an_extension_that_lies_is_no_problem(root):
    Image.new("L", (4, 4), 9).save(root / "a.png")
    (root / "a.png").rename(root / "a.jpg")
    assert (opened(root).x == 9).all()


@pytest.fixture
def damaged(root) -> Path:
    """Three good images, and one of each kind of damage."""
    rng = np.random.default_rng(0)
    for i in range(3):
        Image.fromarray(rng.integers(0, 256, (32, 32), np.uint8)).save(root / f"good{i}.png")
    picture = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (32, 32), np.uint8)).save(picture, "JPEG")
    (root / "cut.jpg").write_bytes(picture.getvalue()[: len(picture.getvalue()) // 2])
    data = bytearray((root / "good0.png").read_bytes())
    data[100] ^= 0xFF
    (root / "flipped.png").write_bytes(data)
    (root / "cut.png").write_bytes((root / "good0.png").read_bytes()[:200])
    (root / "empty.png").write_bytes(b"")
    (root / "text.jpg").write_text("I am no image")
    (root / "bomb.png").write_bytes(png(60_000, 60_000, 8, 0, b"\0" * 1000))
    (root / "large.png").write_bytes(png(12_000, 12_000, 8, 0, b"\0" * 1000))  # Pillow warns of this one only
    return root


def png(width: int, height: int, bits: int, colour: int, raw: bytes) -> bytes:
    """A PNG with this header, whatever its content."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


def test_unreadable_files_are_listed_and_left_out(damaged):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        images = opened(damaged)
    assert not caught
    assert sorted(images.paths or ()) == ["good0.png", "good1.png", "good2.png"]
    reasons = dict(images.unreadable)
    assert reasons.keys() == {*("cut.jpg", "flipped.png", "cut.png", "empty.png", "text.jpg", "bomb.png", "large.png")}
    assert reasons["empty.png"] == "empty file"
    assert reasons["text.jpg"] == "not an image of a known format"
    assert "more than 89,478,485 pixels" in reasons["bomb.png"]
    assert "more than 89,478,485 pixels" in reasons["large.png"]
    assert "truncated" in reasons["cut.jpg"]
    assert opened(damaged).unreadable == images.unreadable  # from the cache


def test_what_is_left_keeps_its_pixels_labels_and_parts(damaged):
    (damaged.parent / "classes").mkdir()
    damaged.rename(damaged.parent / "classes" / "a")
    root = damaged.parent / "classes"
    for i in range(40):
        (root / "b").mkdir(exist_ok=True)
        Image.new("L", (32, 32), i).save(root / "b" / f"{i}.png")
    images = opened(root)
    assert len(images) == 43
    for x, y, path in zip(images.x, images.y if images.y is not None else (), images.paths or (), strict=True):
        np.testing.assert_array_equal(x[0], np.asarray(Image.open(root / path)))
        assert ("a", "b")[y] == path[0]
    parts = {p: set(Data(source=str(root)).open(p).paths or ()) for p in ("train", "valid", "test")}
    assert sum(map(len, parts.values())) == 43
    for path in list(images.unreadable):
        (root / path[0]).unlink()
    assert {p: set(Data(source=str(root)).open(p).paths or ()) for p in parts} == parts


def test_given_parts_keep_their_pixels_beside_damage(root):
    for i in range(60):
        file = root / ("train", "valid", "test")[i % 3] / f"{i}.png"
        file.parent.mkdir(exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 256, (32, 32), np.uint8)
        pixels[0, 0] = i
        Image.fromarray(pixels).save(file)
        if i % 7 == 0:
            file.write_bytes(file.read_bytes()[:300])
    for k, part in enumerate(("train", "valid", "test")):
        images = Data(source=str(root)).open(part)
        assert sorted(images.x[:, 0, 0, 0].tolist()) == [i for i in range(60) if i % 3 == k and i % 7]
        assert [f"{part}/{v}.png" for v in images.x[:, 0, 0, 0]] == list(images.paths or ())


def test_no_part_is_emptied_by_damage(root):
    for i in range(3):
        Image.new("L", (32, 32), i).save(root / f"{i}.png")
    for i in range(20):
        noise = np.random.default_rng(i).integers(0, 256, (32, 32), np.uint8)
        Image.fromarray(noise).save(root / f"bad{i}.png")
        (root / f"bad{i}.png").write_bytes((root / f"bad{i}.png").read_bytes()[:300])
    for part in ("train", "valid", "test"):
        assert len(Data(source=str(root)).open(part)) == 1


def test_strict_makes_the_first_an_error(damaged):
    with pytest.raises(DataError, match=r"bomb\.png: .*data\.strict=false"):
        opened(damaged, strict=True)
    opened(damaged)
    with pytest.raises(DataError, match=r"bomb\.png"):  # from the cache too
        opened(damaged, strict=True)


def test_nothing_readable_is_an_error(root):
    (root / "a.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"none of its 1 images can be read; the first: a\.png: empty file"):
        opened(root)
    good = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32), np.uint8)).save(good, "PNG")
    (root / "a.png").write_bytes(good.getvalue()[:200])  # its header is fine
    with pytest.raises(DataError, match=r"none of its 1 images can be read; the first: a\.png: damaged"):
        opened(root)


def test_large_files_are_not_read(root, monkeypatch):
    monkeypatch.setattr("lowerbound.data.archives.MAX_FILE", 500)
    Image.new("L", (4, 4)).save(root / "a.png")
    Image.new("L", (4, 4)).save(root / "b.bmp")
    assert dict(opened(root).unreadable).keys() == {"b.bmp"}

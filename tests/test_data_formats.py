"""Kinds of files: photos of phones are read, what is not read is named with what to do, the others go on."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from PIL import Image

from lowerbound.data import Data, Images, decode, open_readable
from lowerbound.data.formats import FOREIGN
from lowerbound.errors import DataError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path) -> Path:
    (tmp_path / "mine").mkdir()
    return tmp_path / "mine"


@pytest.fixture
def without_heif(monkeypatch) -> None:
    monkeypatch.setattr(decode, "_formats", lambda: decode.FORMATS)


def opened(root: Path, **fields) -> Images:
    return Data(source=str(root), **fields).open("all")


def picture() -> np.ndarray:
    """Smooth, and another in each corner: uint8 [32, 48, 3]."""
    y, x = np.mgrid[:32, :48]
    return np.stack([4 * x, 6 * y, 2 * (x + y)], -1).astype(np.uint8)


def test_avif(root):
    Image.fromarray(picture()).save(root / "a.avif", quality=95)
    images = opened(root)
    assert images.shape == (3, 32, 48)
    assert np.abs(images.x[0].astype(int) - picture().transpose(2, 0, 1)).max() < 25


def heic(path: Path, **options) -> Path:
    image = pillow_heif.from_pillow(Image.fromarray(picture()))
    image.save(path, quality=95, **options)
    return path


@pytest.mark.parametrize("name", ["a.heic", "A.HEIC", "a.heif", "a.jpg"])
def test_heic(root, name):
    heic(root / name)
    images = opened(root)
    assert images.shape == (3, 32, 48)
    assert np.abs(images.x[0].astype(int) - picture().transpose(2, 0, 1)).max() < 25


@pytest.mark.parametrize("name", ["a.heic", "a.jpg"])
def test_heic_without_its_extra_is_named_with_the_remedy(root, name, without_heif):
    Image.fromarray(picture()).save(root / "good.png")
    heic(root / name)
    ((path, reason),) = opened(root).unreadable
    assert path == name
    assert reason == "a HEIC photo; `pip install 'lowerbound[heic]'` reads such"
    (root / "good.png").unlink()
    with pytest.raises(DataError, match=r"pip install 'lowerbound\[heic\]'"):
        opened(root)
    with pytest.raises(DataError, match=r"pip install 'lowerbound\[heic\]'"):
        open_readable([root / name], Data(), (3, 8, 8))


STARTS = [(kind, kind.starts[0]) for kind in FOREIGN if kind.suffixes]


@pytest.mark.parametrize(("kind", "start"), STARTS, ids=[k.name for k, _ in STARTS])
def test_other_kinds_are_named_with_what_converts_them(root, kind, start):
    at, head = start
    content = bytes(at) + head + bytes(100)
    (root / ("a" + kind.suffixes[0])).write_bytes(content)
    expected = f"{kind.name}; {kind.remedy}"
    with pytest.raises(DataError) as e:  # a folder of them
        opened(root)
    assert f"1 of {expected}" in str(e.value)
    with pytest.raises(DataError) as e:  # one of them as a data set
        opened(root / ("a" + kind.suffixes[0]))
    assert expected in str(e.value)
    with pytest.raises(DataError) as e:  # one as an image
        open_readable([root / ("a" + kind.suffixes[0])], Data(), (3, 8, 8))
    assert expected in str(e.value)
    (root / "misnamed.png").write_bytes(content)
    Image.fromarray(picture()).save(root / "good.png")
    assert opened(root).unreadable == (("misnamed.png", expected),)
    assert opened(root).notes == (f"1 of {expected}",)


def test_a_raw_photo_is_not_taken_for_its_preview(root):
    """Many cameras' files are TIFFs, whose first picture is a thumbnail."""
    Image.fromarray(picture()).save(root / "a.tif")
    (root / "a.tif").rename(root / "a.NEF")
    with pytest.raises(DataError, match=r"a\.NEF: camera RAW; develop with"):
        open_readable([root / "a.NEF"], Data(), (3, 8, 8))


def test_the_readable_of_many_are_given(root):
    good = [root / f"{i}.png" for i in range(3)]
    for i, file in enumerate(good):
        Image.new("L", (8, 8), i).save(file)
    (root / "bad.png").write_bytes(b"")
    paths = [good[0], root / "bad.png", good[1], root / "none.png", good[2], good[0]]
    found = open_readable(paths, Data(), (1, 8, 8))
    assert found.x[:, 0, 0, 0].tolist() == [0, 1, 2, 0]
    assert found.paths == (good[0], good[1], good[2], good[0])
    assert found.failed == (
        (str(root / "bad.png"), "empty file"),
        (str(root / "none.png"), "No such file or directory"),
    )
    assert str(found.failed[0]) == f"{root / 'bad.png'}: empty file"
    with pytest.raises(DataError, match=r"bad\.png: empty file"):
        open_readable([root / "bad.png"], Data(), (1, 8, 8))


# --- 16 bits ---


def png(width: int, height: int, bits: int, colour: int, raw: bytes, transparent: bytes = b"") -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    extra = chunk(b"tRNS", transparent) if transparent else b""
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


def row(*values: int) -> bytes:
    return b"\0" + np.array(values, ">u2").tobytes()


def test_16_bit_grey_with_a_transparent_value(root):
    (root / "a.png").write_bytes(png(3, 1, 16, 0, row(0x1234, 0x1235, 0xFF00), struct.pack(">H", 0x1234)))
    assert opened(root).x.tolist() == [[[[255, 0x12, 255]]]]


def test_16_bit_grey_with_alpha_stays_grey(root):
    (root / "a.png").write_bytes(png(2, 1, 16, 4, row(0x8000, 0xFFFF, 0x1234, 0)))
    assert opened(root).x.tolist() == [[[[128, 255]]]]


def test_16_bit_colour_with_a_transparent_value(root):
    raw = row(0x1234, 0xAB00, 0x0001, 0x4000, 0x5000, 0x6000)
    (root / "a.png").write_bytes(png(2, 1, 16, 2, raw, struct.pack(">HHH", 0x1234, 0xAB00, 0x0001)))
    assert opened(root).x[0].transpose(1, 2, 0).tolist() == [[[255, 255, 255], [0x40, 0x50, 0x60]]]


@pytest.mark.parametrize(("bits", "factor"), [(10, 64), (12, 16), (14, 4)])
def test_few_bits_in_16_are_warned_of(root, bits, factor):
    rng = np.random.default_rng(0)
    for i in range(3):
        x = rng.integers(0, 2 ** (bits - i), (8, 8), np.uint16)
        x[0, 0] = 2 ** (bits - i) - 1
        Image.fromarray(x).save(root / f"{i}.png")
    (note,) = opened(root).notes
    assert f"become dark, at most {2 ** (bits - 8) - 1} of 255; multiply them by {factor} first" in note
    assert opened(root).notes == (note,)
    assert opened(root).remarks()[1] == f"mine: {note}"
    (own,) = open_readable([root / "0.png"], Data(), (1, 8, 8)).notes
    assert own.startswith(f"{root / '0.png'}: its 16-bit images reach")


def test_dark_images_beside_full_ones_are_no_reason_to_warn(root):
    Image.fromarray(np.full((8, 8), 100, np.uint16)).save(root / "dark.png")
    Image.fromarray(np.full((8, 8), 60_000, np.uint16)).save(root / "light.png")
    assert opened(root).notes == ()
    (root / "light.png").unlink()
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(root / "dark.png")
    assert opened(root).notes == ()


def test_a_file_of_8_bits_says_nothing(root):
    Image.new("L", (8, 8), 3).save(root / "a.png")
    content = io.BytesIO((root / "a.png").read_bytes())
    assert decode.decode(content, (1, 8, 8), 256, "a.png").highest == 0

"""Archives that could not be unpacked safely are refused, and nothing of them lands on disk."""

import io
import stat
import tarfile
import warnings
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from lowerbound.data import Data, Images
from lowerbound.errors import DataError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def picture(value: int = 0) -> bytes:
    out = io.BytesIO()
    Image.new("L", (4, 4), value).save(out, "PNG")
    return out.getvalue()


def opened(path: Path, **fields) -> Images:
    return Data(source=str(path), **fields).open("all")


def zipped(path: Path, *names: str) -> Path:
    with zipfile.ZipFile(path, "w") as z:
        for i, name in enumerate(names):
            z.writestr(name, picture(i))
    return path


def tarred(path: Path, *members: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w") as t:
        for member in members:
            member.size = len(picture()) if member.isfile() else 0
            t.addfile(member, io.BytesIO(picture()))
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


OUTSIDE = ["../a.png", "a/../../b.png", "/etc/a.png", "..\\a.png", "C:\\a.png", "C:/a.png"]


@pytest.mark.parametrize("name", OUTSIDE)
def test_zip_members_that_point_outside(tmp_path, name):
    with pytest.raises(DataError, match="points outside of the archive"):
        opened(zipped(tmp_path / "a.zip", "good.png", name))


@pytest.mark.parametrize("name", OUTSIDE)
def test_tar_members_that_point_outside(tmp_path, name):
    with pytest.raises(DataError, match="points outside of the archive"):
        opened(tarred(tmp_path / "a.tar", member("good.png"), member(name)))


@pytest.mark.parametrize(
    "bad",
    [
        member("a.png", tarfile.SYMTYPE, "/etc/passwd"),
        member("a.png", tarfile.LNKTYPE, "good.png"),
        member("a.png", tarfile.CHRTYPE),
        member("a.png", tarfile.BLKTYPE),
        member("a.png", tarfile.FIFOTYPE),
    ],
    ids=["symlink", "hardlink", "character", "block", "fifo"],
)
def test_tar_links_and_devices(tmp_path, bad):
    with pytest.raises(DataError, match=r"a\.png is a link or device"):
        opened(tarred(tmp_path / "a.tar", member("good.png"), bad))


def test_zip_links(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as z:
        z.writestr("good.png", picture())
        link = zipfile.ZipInfo("a.png")
        link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
        z.writestr(link, "/etc/passwd")
    with pytest.raises(DataError, match=r"a\.png is a link or device"):
        opened(tmp_path / "a.zip")


def test_encrypted_zip(tmp_path):
    data = bytearray(zipped(tmp_path / "a.zip", "a.png").read_bytes())
    data[data.index(b"PK\x03\x04") + 6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(DataError, match=r"a\.png is encrypted"):
        opened(tmp_path / "a.zip")


def test_zip_that_declares_more_than_it_can_hold(tmp_path):
    data = bytearray(zipped(tmp_path / "a.zip", "a.png").read_bytes())
    at = data.index(b"PK\x01\x02") + 24
    data[at : at + 4] = (2**31).to_bytes(4, "little")
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(DataError, match=r"declares 2 GiB of content, more than it can hold"):
        opened(tmp_path / "a.zip")


def test_a_member_that_is_too_large_is_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr("lowerbound.data.archives.MAX_FILE", 1000)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as z:
        z.writestr("good.png", picture())
        z.writestr("zeros.png", bytes(5000))
    with tarfile.open(tmp_path / "a.tar", "w") as t:
        for name, content in (("good.png", picture()), ("zeros.png", bytes(5000))):
            info = member(name)
            info.size = len(content)
            t.addfile(info, io.BytesIO(content))
    for name in ("a.zip", "a.tar"):
        assert dict(opened(tmp_path / name).unreadable).keys() == {"zeros.png"}


def test_damaged_members_are_left_out(tmp_path):
    path = zipped(tmp_path / "a.zip", "good.png", "bad.png")
    data = bytearray(path.read_bytes())
    data[data.rindex(b"IDAT") + 6] ^= 0xFF
    path.write_bytes(data)
    images = opened(path)
    assert list(images.paths or ()) == ["good.png"]
    assert "CRC" in dict(images.unreadable)["bad.png"]


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz"])
def test_files_that_are_no_archives(tmp_path, name):
    (tmp_path / name).write_bytes(b"I am no archive")
    with pytest.raises(DataError, match="not a readable"):
        opened(tmp_path / name)


def test_cut_archives(tmp_path):
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as t:
        for i in range(50):
            info = member(f"{i}.png")
            info.size = len(picture())
            t.addfile(info, io.BytesIO(picture(i)))
    data = (tmp_path / "a.tar.gz").read_bytes()
    (tmp_path / "a.tar.gz").write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match="not a readable tar"):
        opened(tmp_path / "a.tar.gz")


def test_the_last_of_two_members_with_one_name_counts(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        zipped(tmp_path / "a.zip", "a.png", "a.png")
    with tarfile.open(tmp_path / "a.tar", "w") as t:
        for i in range(2):
            info = member("a.png")
            info.size = len(picture(i))
            t.addfile(info, io.BytesIO(picture(i)))
    for name in ("a.zip", "a.tar"):
        images = opened(tmp_path / name)
        assert len(images) == 1
        assert (images.x == 1).all()


def test_shadow_files_of_macos_are_no_images(tmp_path):
    images = opened(zipped(tmp_path / "a.zip", "a/x.png", "a/y.png", "__MACOSX/a/._x.png", "a/.z.png"))
    assert sorted(images.paths or ()) == ["x.png", "y.png"]
    assert images.unreadable == ()


def test_nothing_is_unpacked(tmp_path):
    opened(zipped(tmp_path / "a.zip", "a.png"))
    assert {p.name for p in tmp_path.iterdir()} == {"a.zip", "cache"}
    assert not list((tmp_path / "cache").rglob("*.png"))

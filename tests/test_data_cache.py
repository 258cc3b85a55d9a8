"""The cache: built once, never stale, never half-written, by however many processes; memory stays flat."""

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from lowerbound.data import Data, Images, archives, cache
from lowerbound.data import folder as folder_module
from lowerbound.data.archives import Zip, file_stamp
from lowerbound.data.folder import Files, Folder
from lowerbound.errors import DataError


@pytest.fixture(autouse=True)
def images_cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "lowerbound" / "images"


@pytest.fixture
def root(tmp_path) -> Path:
    return folder(tmp_path / "mine", 12)


def folder(root: Path, n: int, size: int = 8) -> Path:
    root.mkdir()
    for i in range(n):
        Image.new("L", (size, size), i % 256).save(root / f"{i}.png")
    return root


def opened(root: Path, split: str = "all", **fields) -> Images:
    return Data(source=str(root), **fields).open(split)


def entries(images_cache: Path) -> list[str]:
    return sorted(p.name for p in images_cache.iterdir() if p.suffix != ".lock")


def count_builds(monkeypatch) -> list[int]:
    builds: list[int] = []
    write = cache._write
    monkeypatch.setattr(cache, "_write", lambda *args: (builds.append(1), write(*args)))
    return builds


def test_built_once_for_all_parts(root, monkeypatch):
    builds = count_builds(monkeypatch)
    for split in ("train", "valid", "test", "all", "train"):
        opened(root, split)
    assert len(builds) == 1


def test_options_have_their_own_entries(root, images_cache, monkeypatch):
    builds = count_builds(monkeypatch)
    for _ in range(2):
        opened(root)
        opened(root, size=4)
        opened(root, levels=16)
        opened(root, flip=True, label=False, strict=True)  # these change no pixel
    assert len(builds) == len(entries(images_cache)) == 3


def change_pixels(root: Path) -> None:
    Image.new("L", (8, 8), 99).save(root / "3.png")


def same_size_same_time(root: Path) -> None:
    file = root / "3.png"
    before = file.stat()
    Image.new("L", (8, 8), 99).save(root / "new")
    assert (root / "new").stat().st_size == before.st_size
    os.utime(root / "new", ns=(before.st_atime_ns, before.st_mtime_ns))
    (root / "new").rename(file)


def rename(root: Path) -> None:
    (root / "3.png").rename(root / "x.png")


def test_any_change_is_seen(root, monkeypatch, images_cache):
    monkeypatch.setattr(Image.Image, "save", lambda self, path, save=Image.Image.save: save(self, path, "bmp"))
    for file in list(root.iterdir()):
        Image.new("L", (8, 8), int(file.stem)).save(file)  # uncompressed, so that the sizes are equal
    assert 99 not in opened(root).x
    for change in (change_pixels, same_size_same_time, rename):
        before = opened(root)
        kept = np.array(before.x)
        change(root)
        after = opened(root)
        if change is rename:
            assert "x.png" in (after.paths or ())
        else:
            assert (after.x == 99).any()
            Image.new("L", (8, 8), 3).save(root / "3.png")
            assert not (opened(root).x == 99).any()
        np.testing.assert_array_equal(before.x, kept)  # what is mapped stays
        assert len(entries(images_cache)) == 1  # older versions are removed


def test_files_written_within_one_tick_of_the_clock(tmp_path):
    (tmp_path / "mine").mkdir()
    for value in range(20):
        Image.new("L", (8, 8), value).save(tmp_path / "mine" / "a.bmp")
        assert (opened(tmp_path / "mine").x == value).all()


@pytest.mark.parametrize("kind", [Folder, Zip])
def test_a_clock_of_coarse_ticks_hides_no_change(tmp_path, monkeypatch, kind):
    tick = 10_000_000  # ns

    def coarse(path: Path) -> list[int]:
        return [t // tick * tick for t in file_stamp(path)]

    monkeypatch.setattr(archives, "file_stamp", coarse)
    monkeypatch.setattr(folder_module, "file_stamp", coarse)
    path = tmp_path / "mine"
    store = kind(path / "a.zip" if kind is Zip else path)
    path.mkdir()
    seen = set()
    for content in range(20):
        (path / "a.zip").write_bytes(bytes([content]))
        seen.add(str(store.fingerprint()))
    assert len(seen) == 20


def test_a_changed_npz_is_seen(tmp_path):
    for value in (1, 2):
        np.savez(tmp_path / "a.npz", x=np.full((3, 4, 4), value, np.uint8))
        assert (opened(tmp_path / "a.npz").x == value).all()


def test_a_folder_that_changes_while_it_is_read(root, images_cache, monkeypatch):
    rows = Files.rows

    def and_then_a_change(self, contents, keep):
        yield from rows(self, contents, keep)
        change_pixels(root)
        time.sleep(0.02)

    monkeypatch.setattr(Files, "rows", and_then_a_change)
    with pytest.raises(DataError, match="changed while it was read"):
        opened(root)
    assert entries(images_cache) == []


def test_nothing_is_written_into_the_data(root):
    before = sorted(root.rglob("*"))
    opened(root)
    assert sorted(root.rglob("*")) == before


def test_writing_to_the_arrays_changes_nothing(root):
    x = opened(root).x
    before = np.array(x)
    x[:] = 77
    np.testing.assert_array_equal(opened(root).x, before)


def test_images_may_be_larger_than_the_memory(root, images_cache):
    opened(root)
    (entry,) = entries(images_cache)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with open(images_cache / entry / "x.npy", "wb") as file:  # a sparse file takes no space
        header = {"descr": "|u1", "fortran_order": False, "shape": (4 * memory // 64, 1, 8, 8)}
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + 4 * memory)
    assert opened(root).x.nbytes >= 4 * memory - 64


def run(code: str, *args: object, **options) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )


BUILD = """
    import json, sys, time
    from lowerbound.data import Data, cache

    write, built = cache._write, []
    def slow(*args):
        built.append(1)
        print("building", flush=True)
        time.sleep(float(sys.argv[2]))
        write(*args)
    cache._write = slow
    images = Data(source=sys.argv[1]).open("all")
    print(json.dumps([len(built), int(images.x.astype(int).sum()), len(images)]))
"""


def test_two_processes_at_once(root):
    processes = [run(BUILD, root, 0.5) for _ in range(2)]
    results = [json.loads(p.communicate(timeout=60)[0].splitlines()[-1]) for p in processes]
    assert sorted(r[0] for r in results) == [0, 1]  # one builds, the other waits and uses it
    assert results[0][1:] == results[1][1:] == [sum(range(12)) * 64, 12]


def test_a_killed_build_leaves_nothing_for_long(tmp_path, root, images_cache):
    other = folder(tmp_path / "other", 3)
    processes = [run(BUILD, r, 60) for r in (root, other)]
    for p in processes:
        assert p.stdout is not None
        assert p.stdout.readline() == "building\n"
    for p in processes:
        p.send_signal(signal.SIGKILL)
        p.communicate()
    assert [e.endswith(".part") for e in entries(images_cache)] == [True, True]
    assert len(opened(root)) == 12
    (entry,) = entries(images_cache)  # the other's leftover is gone as well
    assert entry.startswith("mine-")
    assert not entry.endswith(".part")


def test_a_build_under_way_is_left_alone(tmp_path, root, images_cache):
    other = folder(tmp_path / "other", 3)
    process = run(BUILD, other, 1)
    assert process.stdout is not None
    assert process.stdout.readline() == "building\n"
    opened(root)
    assert any(e.endswith(".part") for e in entries(images_cache))
    assert json.loads(process.communicate(timeout=60)[0])[2] == 3


def test_a_failed_build_leaves_nothing(root, images_cache, monkeypatch):
    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(cache, "_write_rest", fail)
    with pytest.raises(KeyboardInterrupt):
        opened(root)
    assert entries(images_cache) == []


def test_a_full_disk_is_one_sentence(root, images_cache, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(DataError, match=r"no space left for decoded images in .*; set XDG_CACHE_HOME"):
        opened(root)
    assert entries(images_cache) == []


def test_too_little_disk_is_noticed_before_decoding(root, monkeypatch):
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
    with pytest.raises(DataError, match="no space left"):
        opened(root)


def test_a_cache_that_cannot_be_written(root, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(DataError, match="XDG_CACHE_HOME moves it"):
        opened(root)


PEAK = """
    import sys
    from pathlib import Path
    from lowerbound.data import Data

    images = Data(source=sys.argv[1]).open("all")
    lines = Path("/proc/self/status").read_text().splitlines()  # getrusage begins at the peak of whoever started it
    print(len(images), next(line.split()[1] for line in lines if line.startswith("VmHWM")))
"""


@pytest.mark.parametrize("kind", ["folder", "npz"])
def test_memory_stays_flat(tmp_path, kind):
    """30 times the images, 44 MB more of pixels; the peak may grow by what their names and labels take."""
    peaks = []
    for n in (50, 1500):
        source = tmp_path / f"{n}" if kind == "folder" else tmp_path / f"{n}.npz"
        if kind == "folder":
            folder(source, n, 170)
        else:
            np.savez_compressed(source, x=np.zeros((n, 170, 170), np.uint8))
        out = run(PEAK, source).communicate(timeout=60)[0]
        assert out.split()[0] == str(n), out
        peaks.append(int(out.split()[1]) / 1024)
    assert peaks[1] - peaks[0] < 15, peaks  # MiB


def test_a_cache_where_nothing_can_be_made(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc")
    with pytest.raises(DataError, match="XDG_CACHE_HOME moves it"):
        Data(source="digits").open("test")

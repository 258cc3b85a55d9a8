"""Shards on a server: read in ranges over HTTP, through its failures; and of the other protocols of fsspec."""

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch

from lowerbound.data import Data
from lowerbound.data.batches import Batches
from lowerbound.data.rows import Rows
from lowerbound.data.shards import places
from lowerbound.data.shards.index import INDEX
from lowerbound.data.shards.pack import pack
from lowerbound.errors import DataError
from lowerbound.runs.run import Run
from lowerbound.testing.objects import Objects
from lowerbound.training import train as training

CPU = torch.device("cpu")
N = 24_000  # 8x8 images, of which the training part is more than the smallest window


@pytest.fixture(autouse=True)
def surroundings_of_each(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(places, "WAIT", 0.001)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("folder")
    noise = np.random.default_rng(0)
    np.savez(root / "noise.npz", x=noise.integers(0, 256, (N, 8, 8), dtype=np.uint8), y=np.arange(N) % 3)
    pack(Data(source=str(root / "noise.npz")), root / "packed", 100_000)
    return root


@pytest.fixture
def server(folder) -> Iterator[Objects]:
    with Objects(folder) as objects:
        yield objects


def local(folder: Path, **more) -> Data:
    return Data(source=str(folder / "packed"), **more)


def remote(server: Objects, **more) -> Data:
    return Data(source=f"{server.url}/packed", **more)


@pytest.mark.parametrize("window", [1, 256])
def test_the_same_as_from_a_folder(folder, server, window):
    a, b = local(folder, window=window), remote(server, window=window)
    assert a.whole().fingerprints == b.whole().fingerprints
    one, two = a.open("train"), b.open("train")
    assert isinstance(two.x, Rows) == (window == 1)
    assert np.array_equal(one.y, two.y)
    for step in (0, 99, 150):
        x, y = (Batches(images, CPU, label=True).training(step, 200, 0) for images in (one, two))
        assert torch.equal(x[0], y[0])
        assert torch.equal(x[1], y[1])
    held = {"label": True, "holdout": None}
    assert remote(server, **held).open("test").fingerprint == local(folder, **held).open("test").fingerprint
    assert np.array_equal(remote(server).open("test").x, local(folder).open("test").x)


def test_an_epoch_reads_every_byte_once_and_labels_are_fetched_once(folder, server):
    images = remote(server, window=1).open("train")
    asked = len(server.asked)
    batches = Batches(images, CPU)
    for step in range(len(images) // 256):
        batches.training(step, 256, 0)
    batches.x._wait(batches.x._window(0, 1, 0).x)  # what is read ahead already
    ends = [list(map(int, r.removeprefix("bytes=").split("-"))) for _, r in server.asked[asked:] if r]
    read = sum(end - start + 1 for start, end in ends)
    windows = batches.x.order.windows
    assert len(images) * 64 <= read <= len(images) * 64 * (windows + 1) / windows + 2**20
    assert len(ends) < 100  # in pieces, not image by image
    remote(server).whole()
    of = Counter(name for name, _ in server.asked)
    assert of["packed/y.npy"] == of["packed/hashes.npy"] == 1
    assert of[f"packed/{INDEX}"] == 2


def test_what_fails_for_a_while_is_asked_for_again(folder, server):
    seen = Counter()

    def busy(name: str, n: int) -> int | None:
        seen[server.asked[-1]] += 1
        return (503, 429, None)[min(seen[server.asked[-1]], 3) - 1]

    server.status = busy
    assert np.array_equal(remote(server).open("all").x, local(folder).open("all").x)


REFUSED = {
    "gone": (lambda name: 503 if "x-00002" in name else None, "x-00002.npy: can't be read after 7 tries in .* s: 503"),
    "403": (lambda name: 403 if "x-00002" in name else None, r"x-00002.npy: may not be read \(403\)"),
    "404": (lambda name: 404 if "x-00002" in name else None, r"x-00002.npy: is not there \(404\)"),
    "400": (lambda name: 400 if "x-00002" in name else None, "x-00002.npy: is refused: 400"),
    "no index": (
        lambda name: 404 if INDEX in name else None,
        "packed: has no index.json, which `lowerbound",
    ),
    "no labels": (lambda name: 404 if "y.npy" in name else None, "y.npy: is not there"),
    "index 403": (lambda name: 403 if INDEX in name else None, "may not be read"),
}


@pytest.mark.parametrize("how", REFUSED)
def test_what_is_refused_is_said(server, how):
    answer, said = REFUSED[how]
    server.status = lambda name, n: answer(name)
    with pytest.raises(DataError, match=said):
        remote(server).open("all")
    tries = Counter(name for name, _ in server.asked)
    assert max(tries.values()) == (7 if how == "gone" else 1)


def test_damage_on_the_way_is_found(folder, server, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder / "packed", copy / "packed")
    server.folder = copy
    shard = copy / "packed" / "x-00003.npy"
    whole = shard.read_bytes()
    for damaged, said in (
        (whole[:-1] + bytes([whole[-1] ^ 1]), "x-00003.npy: its image .* is not as it was packed"),
        (whole[:5000], r"x-00003.npy: ends at byte 5,000, and .* it was cut off"),
        (whole[:100], r"x-00003.npy: ends at byte .*, and .* it was cut off"),
    ):
        shard.write_bytes(damaged)
        with pytest.raises(DataError, match=said):
            remote(server).open("all")
    server.ranges = False
    with pytest.raises(DataError, match="gives whole files where parts of them are asked for"):
        remote(server).open("all")


def test_no_server_and_no_protocol():
    with Objects(Path()) as objects:
        url = objects.url
    with pytest.raises(DataError, match=r"127.0.0.1.*can't be read after 7 tries"):
        Data(source=f"{url}/packed").whole()
    with pytest.raises(DataError, match="zzz://packed: Protocol not known: zzz"):
        Data(source="zzz://packed").whole()


@pytest.mark.skipif(bool(find_spec("s3fs")), reason="s3fs is there")
def test_a_missing_package_is_named():
    with pytest.raises(DataError, match="s3://bucket/packed: Install s3fs to access S3, by pip"):
        Data(source="s3://bucket/packed").whole()


def test_another_protocol(folder):
    memory = fsspec.filesystem("memory")
    memory.put(str(folder / "packed"), "/bucket/faces", recursive=True)
    try:
        found = Data(source="memory://bucket/faces").whole()
        assert found.fingerprints == local(folder).whole().fingerprints
        assert np.array_equal(found.images.x, local(folder).open("all").x)
        memory.rm("/bucket/faces/x-00001.npy")
        with pytest.raises(DataError, match=r"x-00001.npy: is not there"):
            Data(source="memory://bucket/faces").whole()
    finally:
        memory.rm("/bucket", recursive=True)


def test_shards_of_a_server_are_packed_into_a_folder(folder, server, tmp_path):
    pack(remote(server), tmp_path / "copied", 100_000)
    for path in (folder / "packed").iterdir():
        assert path.name == "source" or path.read_bytes() == (tmp_path / "copied" / path.name).read_bytes()


def test_a_server_that_goes_in_the_middle_of_a_training(folder, server, tmp_path):
    small = ("model.latent=2", "model.encoder.hidden=[8]", "model.decoder.hidden=[8]", "train.batch=256")
    steady = ("train.schedule=optimization.Constant", "train.valid_every=1000", "train.log_every=1", "data.window=1")

    def train(source: str, run: str, steps: int, **more) -> Run:
        changes = [*small, *steady, f"train.steps={steps}", "train.save_seconds=1e-9"]
        return training.train("vae", data=source, out=tmp_path / run, changes=changes, device="cpu", **more).run

    whole = train(str(folder / "packed"), "whole", 90)
    url = f"{server.url}/packed"
    log = tmp_path / "run" / "log.jsonl"
    server.status = lambda name, n: 503 if log.exists() and log.read_text().count("\n") > 20 else None
    with pytest.raises(DataError, match=r"can't be read after 7 tries .*--resume goes on from it"):
        train(url, "run", 90)
    assert 20 < log.read_text().count("loss") < 90  # what was read ahead was trained on
    server.status = lambda name, n: None
    run = train(url, "run", 90, resume=True)
    assert run.recipe.data.source == url
    a, b = ((r.path / "log.jsonl").read_text().splitlines() for r in (whole, run))
    assert [_loss(line) for line in a] == [_loss(line) for line in b]


def _loss(line: str) -> float | None:
    return json.loads(line).get("loss")


def test_what_is_known_of_the_images_needs_room(folder, server, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "replace", _full)
    with pytest.raises(DataError, match=r"no space left .*set XDG_CACHE_HOME"):
        remote(server).whole()
    assert not list((tmp_path / "cache" / "lowerbound" / "shards").iterdir())


def _full(*_: object) -> None:
    raise OSError(28, "No space left on device")

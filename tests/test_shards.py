"""Shards: the same images as the data they were packed from, whole or not at all, and read in windows."""

import json
import shutil
from collections import deque
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import lowerbound as lb
from lowerbound.data import Data
from lowerbound.data.batches import Batches
from lowerbound.data.images import pixel_hashes
from lowerbound.data.rows import Rows
from lowerbound.data.shards import pack as packing
from lowerbound.data.shards.index import INDEX
from lowerbound.data.shards.pack import pack
from lowerbound.data.windows import Order
from lowerbound.errors import DataError, RunError, UserError
from lowerbound.noise import Rows as RowsOfBatch
from lowerbound.noise import of_rows
from lowerbound.training import train as training

CPU = torch.device("cpu")
N = 24_000  # 8x8 images, of which the training part is more than the smallest window


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def photographs(root: Path, n: int = 60, colour: bool = True) -> Path:
    """Class folders of images of noise, one of which can't be read by its header, and one by its pixels."""
    noise = np.random.default_rng(0)
    for i in range(n):
        path = root / f"class {i % 3}" / f"{i:03}é.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise.integers(0, 256, (10, 8, 3) if colour else (10, 8), dtype=np.uint8)).save(path)
    (root / "class 0" / "none.png").write_bytes(b"not an image")
    broken = bytearray(path.read_bytes())
    broken[60:90] = bytes(30)
    path.write_bytes(broken)
    return root


def arrays(path: Path, n: int = 300) -> Path:
    noise = np.random.default_rng(1)
    factors = np.stack([noise.integers(0, 3, n), noise.random(n)], 1).astype(np.float32)
    x = noise.integers(0, 5, (n, 6, 6), dtype=np.uint8)
    y = noise.integers(0, 4, n)
    np.savez(path, x=x, y=y, levels=5, factors=factors, factor_names=np.array(["shape", "size"]))
    return path


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> Path:
    """Shards of images of which each knows its own row, too many for a window of 1 MiB."""
    root = tmp_path_factory.mktemp("large")
    rows = np.arange(N, dtype=np.uint32)[:, None].view(np.uint8)
    np.save(root / "x.npy", np.tile(rows.reshape(N, 1, 4), (1, 8, 2)))
    pack(Data(source=str(root / "x.npy")), root / "packed", 100_000)
    return root / "packed"


def number(x: np.ndarray | torch.Tensor) -> np.ndarray:
    """The row that an image of `large` was: [n]."""
    return np.ascontiguousarray(np.asarray(x)[:, 0, 0, :4]).view(np.uint32)[:, 0]


def files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


# ---- the same data


def expect_alike(a: Data, b: Data) -> None:
    """The same images in the same parts and order, of which the same is known."""
    one, two = a.whole(), b.whole()
    assert one.counts == two.counts
    assert one.fingerprints == two.fingerprints
    assert np.array_equal(one.images.x, two.images.x[:])
    for name in ("y", "factors"):
        had, has = getattr(one.images, name), getattr(two.images, name)
        assert (had is None) == (has is None)
        assert had is None or (had.dtype == has.dtype and np.array_equal(had, has, equal_nan=had.dtype.kind == "f"))
    assert list(one.images.paths or ()) == list(two.images.paths or ())
    for name in ("name", "levels", "classes", "factor_names", "kinds", "unreadable", "ignored", "layout", "notes"):
        assert getattr(one.images, name) == getattr(two.images, name), name
    for part in ("train", "valid", "test"):
        if one.counts[part]:
            assert a.open(part).fingerprint == b.open(part).fingerprint
            if not (a.label or a.given):
                x = b.open(part).x
                assert b.open(part).fingerprint_by(pixel_hashes(x)) == one.fingerprints[part]


@pytest.mark.parametrize("options", [{}, {"size": 6}, {"gray": True, "crop": 0.7}, {"levels": 256}], ids=str)
def test_a_folder_packed_is_the_folder(tmp_path, options):
    source = photographs(tmp_path / "photographs")
    plain = Data(source=str(source), **options)
    done = pack(plain, tmp_path / "packed", 1000)
    assert done.written == len(done.index.shards) > 3
    shards = Data(source=str(tmp_path / "packed"))
    expect_alike(plain, shards)
    expect_alike(plain, shards.model_copy(update=options))  # what they were packed with may be said again
    expect_alike(plain, Data(source=str(tmp_path / "packed" / INDEX)))
    assert shards.settled().preparation.key() == plain.preparation.key()  # so that others are prepared alike


def test_parts_of_folders_attributes_and_held_out_combinations_stay(tmp_path):
    root = photographs(tmp_path / "photographs")
    (tmp_path / "parted" / "test").mkdir(parents=True)
    root.rename(tmp_path / "parted" / "train")
    shutil.copytree(tmp_path / "parted" / "train" / "class 1", tmp_path / "parted" / "test" / "class 1")
    pack(Data(source=str(tmp_path / "parted")), tmp_path / "a", 3000)
    expect_alike(Data(source=str(tmp_path / "parted")), Data(source=str(tmp_path / "a")))

    given = {"label": "shape", "holdout": "shape=2,size=0.5..0.9"}
    path = arrays(tmp_path / "arrays.npz")
    table = tmp_path / "more.csv"
    table.write_text("index,hue (deg)\n" + "".join(f"{i},{i}\n" for i in range(0, 300, 2)))
    pack(Data(source=str(path)), tmp_path / "b", 1000)
    for more in ({}, {"label": True}, given, {"attributes": str(table)}, {"given": ("label", "size")}):
        expect_alike(Data(source=str(path), **more), Data(source=str(tmp_path / "b"), **more))
    packed_so = Data(source=str(path), holdout=given["holdout"], attributes=str(table))
    pack(packed_so, tmp_path / "c", 1000)
    expect_alike(packed_so, Data(source=str(tmp_path / "c")))


@pytest.mark.parametrize("name", ["digits", "views"])
def test_data_that_have_a_name_and_views_of_scenes(tmp_path, name):
    views = {"images": 20, "size": 32, "views": 5}
    data = Data(source="digits") if name == "digits" else Data(source="scenes", **views)
    pack(data, tmp_path / "packed", 20_000)
    expect_alike(data, Data(source=str(tmp_path / "packed")))


def test_shards_packed_again_are_the_same_shards(tmp_path):
    source = photographs(tmp_path / "photographs")
    shutil.copytree(source, tmp_path / "other" / "photographs")  # later, elsewhere
    pack(Data(source=str(source)), tmp_path / "a", 3000)
    pack(Data(source=str(tmp_path / "other" / "photographs")), tmp_path / "b", 3000)
    pack(Data(source=str(tmp_path / "a")), tmp_path / "c", 3000)
    a, b, c = (files(tmp_path / name) for name in "abc")
    for found in (a, b, c):
        assert found.pop("source")  # by which the same data are known where they lie
    assert a == b == c


SMALL = (
    "model.latent=2",
    "model.encoder.hidden=[8]",
    "model.decoder.hidden=[8]",
    "train.batch=64",
    "train.log_every=1",
    "train.valid_every=1000",
    "train.schedule=optimization.Constant",
)


def train(source: Path | str, run: Path, steps: int, *changes: str, **more) -> Path:
    """The training alone, without its pictures and its evaluation."""
    more = {"data": source, "out": run, "device": "cpu"} | more
    training.train("vae", changes=[*SMALL, f"train.steps={steps}", *changes], **more)
    return run


def losses(run: Path) -> list[float]:
    lines = map(json.loads, (run / "log.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if line["split"] == "train"]


def test_every_number_is_that_of_the_folder(tmp_path):
    data, packed = arrays(tmp_path / "arrays.npz"), tmp_path / "packed"
    pack(Data(source=str(data)), packed, 1000)
    found = []
    for source in (data, packed):
        run = train(source, tmp_path / f"run-{source.name}", 4, "data.label=true")
        out = tmp_path / f"of-{source.name}"
        lb.score(run, str(source), out=out.with_suffix(".csv"))
        lb.encode(run, data=str(source), out=out.with_suffix(".npz"))
        codes = np.load(out.with_suffix(".npz"))
        measured = lb.evaluate(run, data=str(source), limit=20)["metrics"]
        shown = lb.show_data(str(source)).json()
        found.append(
            (losses(run), out.with_suffix(".csv").read_text(), {k: codes[k].tolist() for k in codes}, measured, shown)
        )
    assert found[0] == found[1]
    assert len(found[0][0]) == 4


# ---- the order of training


def test_an_epoch_takes_every_image_once_in_windows():
    noise = np.random.default_rng(0)
    for _ in range(200):
        order = Order(*(int(noise.integers(1, most)) for most in (60, 9, 6)))
        for epoch in range(2):
            windows = [order.window(epoch, w, 3) for w in range(order.windows)]
            assert order.starts(epoch, 3).tolist() == np.cumsum([0, *(len(w) for w, _ in windows)]).tolist()
            assert sorted(np.concatenate([w for w, _ in windows]).tolist()) == list(range(order.n))
            assert all(np.array_equal(np.sort(w), lying) for w, lying in windows)
    order = Order(1000, 10, 10)
    assert not np.array_equal(order.window(0, 0, 3)[0], order.window(1, 0, 3)[0])
    assert not np.array_equal(order.window(0, 0, 3)[0], order.window(0, 0, 4)[0])
    blocks = np.unique(order.window(0, 0, 3)[1] // 10)
    assert np.diff(blocks).max() > 1  # from all over the data


def test_windows_of_shards_are_trained_on(large):
    images = Data(source=str(large), window=1).open("train")
    assert isinstance(images.x, Rows)
    batches, seen = Batches(images, CPU), []
    known = number(images.x[:])
    per_epoch = len(images) // 100
    for step in range(per_epoch):
        x, _ = batches.training(step, 100, seed=5)
        seen.append(number(x))
        assert len(batches.x.windows) == 2
    seen = np.concatenate(seen)
    assert len(set(seen.tolist())) == len(seen)
    assert set(seen.tolist()) <= set(known.tolist())
    # near in training is not near in the data: of what lies in one window, all places are mixed
    place = np.empty(N, np.int64)
    place[known] = np.arange(len(known))
    assert abs(np.corrcoef(place[seen][:1000], np.arange(1000))[0, 1]) < 0.2
    # a function of the step alone, wherever training begins, and however many processes share the batch out
    again = Batches(images, CPU)
    places = again._places(77, 100, 5)
    parts = [again._take(part)[0] for part in places.tensor_split(3)]
    assert np.array_equal(number(torch.cat(parts)), seen[7700:7800])
    # and not of the shards
    pack(Data(source=str(large)), large.parent / "other", 33_000)
    other = Batches(Data(source=str(large.parent / "other"), window=1).open("train"), CPU)
    assert np.array_equal(number(other.training(77, 100, 5)[0]), seen[7700:7800])


def test_each_process_reads_its_own_images_of_a_window(large, monkeypatch):
    """Whatever the epoch, and batches over the borders of windows: those of one process, and a third of them each."""
    images = Data(source=str(large), window=1).open("train")
    alone, size = Batches(images, CPU), 99
    steps = 2 * len(images) // size - 1
    parts, read = [], []
    for rank in range(3):
        images = Data(source=str(large), window=1).open("train")
        own, rows, places = Batches(images, CPU), RowsOfBatch.of(rank, 3, size), []
        reading = images.x.reader.read
        monkeypatch.setattr(images.x.reader, "read", lambda r, p=places, reading=reading: (p.append(r), reading(r))[1])
        with of_rows(rows):
            parts.append([own.training(step, size, seed=5)[0] for step in range(steps)])
        read.append(np.concatenate(places))
    for step, each in enumerate(zip(*parts, strict=True)):
        assert torch.equal(torch.cat(each), alone.training(step, size, seed=5)[0])
    ahead = 2**20 // 64  # images of a window
    assert all(2 * len(images) - size <= 3 * len(each) <= 2 * len(images) + ahead + 3 * size for each in read)


def test_what_fits_in_a_window_is_trained_on_as_other_data(large):
    images = Data(source=str(large)).open("train")
    assert isinstance(images.x, np.ndarray)
    whole = Data(source=str(large.parent / "x.npy")).open("train")
    a, b = (Batches(i, CPU).training(3, 50, 0)[0] for i in (images, whole))
    assert torch.equal(a, b)


def test_images_in_order_and_one_by_one_are_read_as_an_array_is(large):
    part = Data(source=str(large), window=1)
    images, whole = part.open("train"), Data(source=str(large)).open("train")
    x, known = images.x, whole.x
    assert isinstance(x, Rows)
    assert (x.shape, x.dtype, x.nbytes, len(x)) == (known.shape, known.dtype, known.nbytes, len(known))
    rows = np.array([5, 19_000, 3, 3])
    for key in (7, -1, slice(10, 20, 3), slice(None, None, 997), rows, rows[:, None], rows > 4, [1, 2], (rows, 0, 2)):
        key = np.resize(key, len(x)) if getattr(key, "dtype", None) is np.dtype(bool) else key
        assert np.array_equal(x[key], known[key]), key
    assert np.array_equal(np.asarray(images.take(slice(100, 18_000)).x), known[100:18_000])
    assert np.array_equal(images.take(rows).x, known[rows])
    assert all(np.array_equal(a, b) for a, b in zip(x, known, strict=True))
    with pytest.raises(IndexError):
        x[len(x)]
    read = np.concatenate([batch.x.numpy() for batch in Batches(images, CPU).in_order(700, 10_001)])
    assert np.array_equal(read, known[:10_001])
    assert isinstance(part.open("valid").x, np.ndarray)  # which is small
    few = Batches(images, CPU, label=True, labelled=[3, 19_000])
    assert np.array_equal(few.x.index_select(0, torch.tensor([3, 7, 19_000])).numpy(), known[[3, 7, 19_000]])


def test_training_on_windows_resumes_exactly(large, tmp_path):
    more = ("data.window=1", "train.batch=256")
    whole = train(large, tmp_path / "whole", 100, *more)
    run = train(large, tmp_path / "run", 65, *more)
    train(large, run, 100, *more, resume=True)
    assert losses(whole) == losses(run)
    assert len(losses(run)) == 100 > len(Data(source=str(large)).open("train")) / 256  # more than an epoch


# ---- written whole or not at all


def test_an_interrupted_packing_goes_on(tmp_path):
    data = Data(source=str(photographs(tmp_path / "photographs")))
    pack(data, tmp_path / "whole", 2000)

    def stop(done: int, total: int) -> None:
        if done > 40:
            raise KeyboardInterrupt

    out = tmp_path / "packed"
    with pytest.raises(KeyboardInterrupt):
        pack(data, out, 2000, progress=stop)
    assert not out.exists()
    finished = sorted((tmp_path / "packed.part").glob("x-*.npy"))
    finished[0].write_bytes(finished[0].read_bytes()[:-1] + b"\0")  # of a disk that lost what was written last
    decoded = []
    done = pack(data, out, 2000, progress=lambda done, total: decoded.append(done))
    assert done.taken_up == len(finished) - 1 > 0
    assert len(decoded) < 40  # the others alone
    assert files(out) == files(tmp_path / "whole")
    assert sorted(p.name for p in tmp_path.iterdir() if "packed" in p.name) == ["packed"]
    # of other data, or shards of another size, nothing is taken up
    with pytest.raises(KeyboardInterrupt):
        pack(data, tmp_path / "b", 2000, progress=stop)
    assert pack(data, tmp_path / "b", 4000).taken_up == 0


def test_packing_twice_says_so_and_nothing_is_replaced_unasked(tmp_path):
    source = arrays(tmp_path / "arrays.npz")
    out = tmp_path / "packed"
    first = lb.pack_data(str(source), out=out, shard_size="1KB")
    before = files(out)
    assert first["written"] == first["shards"] > 1
    assert first.notes() == [f"train on it with --data {out}"]
    again = lb.pack_data(str(source), out=out, shard_size="1KB")
    assert again["written"] == 0
    assert "already" in again.notes()[0]
    with pytest.raises(UserError, match="--overwrite"):
        lb.pack_data(str(source), out=out, shard_size="2KB")
    with pytest.raises(UserError, match="--overwrite"):
        lb.pack_data("digits", out=out)
    assert files(out) == before
    assert lb.pack_data(str(source), out=out, shard_size="2KB", overwrite=True)["written"]
    (out / INDEX).write_text("{")
    with pytest.raises(UserError, match=r"damaged.*--overwrite"):
        lb.pack_data(str(source), out=out, shard_size="2KB")
    assert lb.pack_data(str(source), out=out, shard_size="2KB", overwrite=True)["written"]


def test_what_is_no_place_for_shards_and_what_is_no_size(tmp_path):
    source = photographs(tmp_path / "photographs")
    data = str(source)
    (tmp_path / "file").write_text("")
    for out, said in (
        (source / "packed", "lies in"),
        (tmp_path, "lies in it"),
        (source, "lies in"),
        (tmp_path / "file", "is a file"),
        ("s3://bucket/packed", "copy it"),
    ):
        with pytest.raises(UserError, match=said):
            lb.pack_data(data, out=out)
    own = tmp_path / "own"
    own.mkdir()
    (own / "thesis.tex").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(UserError, match="something else"):
            lb.pack_data(data, out=own, overwrite=overwrite)
    for size, said in (
        ("abc", "such as 512MB"),
        ("0", "at least a byte"),
        ("-1MB", "at least a byte"),
        ("100", "an image takes"),
    ):
        with pytest.raises(UserError, match=said):
            lb.pack_data(data, out=tmp_path / "x", shard_size=size)
    with pytest.raises(UserError, match=r"data.label: is of a training"):
        lb.pack_data(data, "label=true", out=tmp_path / "x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no images"):
        lb.pack_data(str(tmp_path / "empty"), out=tmp_path / "x")
    Image.new("RGB", (5, 5)).save(source / "class 0" / "other.png")
    with pytest.raises(DataError, match=r"differ in size.*data.size=64"):
        lb.pack_data(data, out=tmp_path / "x")
    assert not [p for p in tmp_path.iterdir() if p.name.startswith("x")]


def test_a_full_disk_and_another_process(tmp_path, monkeypatch):
    source = str(arrays(tmp_path / "arrays.npz"))
    with packing._alone(tmp_path / "x"), pytest.raises(UserError, match="another process is packing"):
        lb.pack_data(source, out=tmp_path / "x")
    free = shutil.disk_usage(tmp_path)._replace(free=100)
    with monkeypatch.context() as m:
        m.setattr(packing.shutil, "disk_usage", lambda _: free)
        with pytest.raises(UserError, match=r"no space left.*goes on with it"):
            lb.pack_data(source, out=tmp_path / "x")
    assert lb.pack_data(source, out=tmp_path / "x")["written"]


# ---- what is damaged


@pytest.fixture
def packed(tmp_path) -> Path:
    pack(Data(source=str(arrays(tmp_path / "arrays.npz"))), tmp_path / "packed", 1000)
    return tmp_path / "packed"


def flip(path: Path, at: int = -1) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def said(index: Path, **changes) -> None:
    index.write_text(json.dumps(json.loads(index.read_text()) | changes))


DAMAGE = {
    "a missing shard": (lambda p: (p / "x-00001.npy").unlink(), "x-00001.npy: is not there"),
    "a truncated shard": (lambda p: (p / "x-00001.npy").write_bytes(b"1"), "x-00001.npy: has 1 bytes, expected"),
    "a flipped byte": (lambda p: flip(p / "x-00001.npy"), "x-00001.npy: its image .* checksum is another"),
    "labels of another": (lambda p: flip(p / "y.npy"), "y.npy: is not as it was packed"),
    "truncated labels": (lambda p: (p / "y.npy").write_bytes(b"12"), "y.npy: has 2 bytes, expected"),
    "no labels": (lambda p: (p / "y.npy").unlink(), "y.npy: is not there"),
    "a newer version": (lambda p: said(p / INDEX, version=2), "is of version 2, and this program reads 1; upgrade"),
    "another program's": (lambda p: said(p / INDEX, kind="mds"), "another program's"),
    "half an index": (lambda p: said(p / INDEX, counts={"train": 3}), "is damaged"),
    "no such key": (lambda p: said(p / INDEX, shards=[{"name": 3}]), "is damaged"),
    "a path out of it": (lambda p: said(p / INDEX, files={"../y.npy": [1, ""]}), "is damaged"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_shards_are_named(packed, damage):
    do, message = DAMAGE[damage]
    do(packed)
    with pytest.raises(DataError, match=message):
        Data(source=str(packed)).open("all")


def test_a_byte_that_flips_is_found_when_it_is_read(large, tmp_path):
    shutil.copytree(large, tmp_path / "packed")
    images = Data(source=str(tmp_path / "packed"), window=1).open("train")
    flip(tmp_path / "packed" / "x-00009.npy", 128 + 3)
    batches = Batches(images, CPU)
    with pytest.raises(DataError, match=r"x-00009.npy: its image 0 is not.*--resume goes on from it"):
        deque((batches.training(step, 100, 0) for step in range(200)), maxlen=0)


def test_shards_are_not_prepared_anew(tmp_path):
    pack(Data(source=str(photographs(tmp_path / "photographs")), size=6), tmp_path / "packed")
    for option in ({"size": 8}, {"gray": True}, {"crop": 0.5}, {"levels": 4}):
        (name,) = option
        with pytest.raises(DataError, match=rf"data.{name}=.*6x6, 3 channels and 256 levels.*pack the data anew with"):
            Data(source=str(tmp_path / "packed"), **option).open("train")


def test_a_run_does_not_go_on_with_other_shards(tmp_path):
    data, out = arrays(tmp_path / "arrays.npz"), tmp_path / "packed"
    pack(Data(source=str(data)), out, 1000)
    run = train(out, tmp_path / "run", 2)
    pack(Data(source=str(arrays(tmp_path / "more.npz", 310))), out, 1000, overwrite=True)
    with pytest.raises(RunError, match="trained on other data"):
        train(out, run, 4, resume=True)

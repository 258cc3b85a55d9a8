"""Files that can't be read among others that can: the others are done, these are named, and the exit status says so."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import lowerbound as lb
from command import Done, call, right, tree
from lowerbound.errors import DataError, UserError
from lowerbound.files import UNFINISHED, replacing

pytestmark = pytest.mark.usefixtures("surroundings", "here")

OLD = Path(__file__).parent / "old_runs"
FAILED = [
    ["in/notes.txt", "not an image of a known format"],
    ["in/empty.png", "empty file"],
    ["in/folder.png", "is a folder; expected an image file"],
    ["in/gone.png", "No such file or directory"],
]
GOOD = ["in/a.png", "in/two words é.png", "in/b.v1.png", "in/b.v1.png"]
MIXED = [FAILED[0][0], GOOD[0], FAILED[1][0], GOOD[1], FAILED[2][0], FAILED[3][0], *GOOD[2:]]


def halves(folder: Path, n: int) -> None:
    """Grey images of 8x8 in two classes, bright on the left or on the right."""
    rng = np.random.default_rng(0)
    for i in range(n):
        x = rng.integers(0, 100, (8, 8))
        x[:, :4] += 150 * (i % 2)
        x[:, 4:] += 150 * (1 - i % 2)
        path = folder / ("left" if i % 2 else "right") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(x.astype(np.uint8)).save(path)


@pytest.fixture(scope="module")
def runs(surroundings: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of halves: `plain`, `given` their labels, a `classifier` of them; and `codes`, a VQ-VAE-2 of digits."""
    folder = tmp_path_factory.mktemp("runs")
    halves(folder / "halves", 120)
    data = ["--data", folder / "halves"]
    right("train", "ppca", *data, "model.latent=4", "--out", folder / "plain")
    small = ["model.encoder.hidden=[16]", "model.decoder.hidden=[16]", "model.latent=4", "train.steps=30"]
    right("train", "vae", *data, "data.label=true", *small, "--out", folder / "given")
    words = ["data.label=true", "model.encoder.widths=[8,8]", "train.epochs=2"]
    right("train", "classifier", *data, *words, "--out", folder / "classifier")
    shutil.copytree(OLD / "vqvae2-digits", folder / "codes")
    return folder


@pytest.fixture
def files(here: Path) -> None:
    """GOOD and FAILED, all different."""
    (here / "in" / "folder.png").mkdir(parents=True)
    (here / "in" / "notes.txt").write_text("no image")
    (here / "in" / "empty.png").touch()
    for name, seed in zip(GOOD, (1, 2, 3, 3), strict=True):
        Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8), np.uint8)).save(here / name)


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


VERBS: dict[str, tuple[str, Sequence[str]]] = {  # run, and what follows the images
    "reconstruct": ("plain", []),
    "edit": ("plain", ["--set", "0=1", "--from", "sample"]),
    "edit given": ("given", ["--label", "left"]),
    "interpolate": ("plain", ["--steps", "3"]),
    "complete": ("codes", ["-n", "2", "--seed", "1"]),
    "sample": ("codes", ["-n", "2", "--seed", "1"]),
}


def said(verb: str, run: Path, images: Sequence[str], words: Sequence[str]) -> list[Any]:
    name = verb.split()[0]
    return [name, run, *(["--from"] if name == "sample" else []), *images, *words]


@pytest.mark.parametrize("verb", VERBS)
def test_the_others_are_done_as_if_they_were_alone(verb, runs, files, here):
    run, words = VERBS[verb]
    alone = right(*said(verb, runs / run, GOOD, [*words, "--out", "alone.npz", "--json"]))
    done = call(*said(verb, runs / run, MIXED, [*words, "--out", "some.npz", "--json"]))
    assert done.status == 1
    assert done.json["failed"] == FAILED
    assert done.json["images"] == alone.json["images"] == GOOD
    assert done.json["n"] == alone.json["n"]
    assert (np.load("some.npz")["x"] == np.load("alone.npz")["x"]).all()
    for path, reason in FAILED:
        assert f"{path}: {reason}; left out\n" in done.err
    labels = [line for line in done.err.splitlines() if "encoded as" in line or "labels drawn" in line]
    assert labels == [line for line in alone.err.splitlines() if "encoded as" in line or "labels drawn" in line]
    assert len(labels) == (0 if run == "plain" else len(GOOD))  # each with the name of its image


def test_from_python(runs, files):
    for made in (
        lb.reconstruct(runs / "plain", MIXED),
        lb.edit(runs / "plain", MIXED, set={0: 1.0}),
        lb.interpolate(runs / "plain", MIXED),
        lb.complete(runs / "codes", MIXED, n=1),
        lb.redraw(runs / "codes", MIXED, n=1),
        lb.predict(runs / "classifier", MIXED),
    ):
        assert [list(f) for f in made.failed] == FAILED
        assert made.failed[1].path == "in/empty.png"
        assert made.failed[1].reason == "empty file"
    assert lb.reconstruct(runs / "plain", GOOD).failed == ()


def test_labels_of_images_stay_with_them(runs, files):
    alone = right("predict", runs / "classifier", *GOOD, "--json").json
    done = call("predict", runs / "classifier", *MIXED, "--json")
    assert done.status == 1
    assert done.json == alone
    assert [row["path"] for row in done.json] == GOOD
    assert "in/empty.png: empty file; left out" in done.err
    assert lb.predict(runs / "classifier", MIXED) == alone


def test_files_are_called_after_their_own_images(runs, files, here):
    x = lb.reconstruct(runs / "plain", GOOD).r
    call("reconstruct", runs / "plain", *MIXED[:-1], "--out", "out")
    assert tree(here / "out") == {"a.png", "two words é.png", "b.v1.png"}
    for i, name in enumerate(("a.png", "two words é.png", "b.v1.png")):
        assert (pixels(here / "out" / name) == np.rint(x[i, 0])).all()
    call("reconstruct", runs / "plain", *MIXED, "--out", "twice")  # one of them twice
    assert tree(here / "twice") == {"0000-a.png", "0001-two words é.png", "0002-b.v1.png", "0003-b.v1.png"}


def test_names_keep_what_follows_a_dot(runs, files, here):
    right("edit", runs / "plain", GOOD[2], "--set", "0=1", "--strength-grid", "0.25,0.5", "--out", "out")
    assert tree(here / "out") == {"b.v1-times0.25.png", "b.v1-times0.5.png"}
    right("complete", runs / "codes", GOOD[2], "-n", "2", "--out", "drawn")
    assert tree(here / "drawn") == {"b.v1-1.png", "b.v1-2.png"}


def test_where_none_can_be_read_nothing_is_made(runs, files, here):
    before = tree(here)
    for verb, (run, words) in VERBS.items():
        done = call(*said(verb, runs / run, [FAILED[1][0], FAILED[0][0]], [*words, "--out", "out.npz"]))
        assert done.status == 2
        assert "lowerbound: in/empty.png: empty file" in done.err
    assert call("predict", runs / "classifier", FAILED[1][0]).status == 2
    assert call("traverse", runs / "plain", FAILED[1][0], "--out", "out.png").status == 2
    with pytest.raises(DataError, match=r"in/empty\.png: empty file"):
        lb.reconstruct(runs / "plain", [FAILED[1][0]])
    with pytest.raises(UserError, match=r"at least two images .*: in/empty\.png: empty file"):
        lb.interpolate(runs / "plain", [GOOD[0], FAILED[1][0]])
    assert tree(here) == before


def test_one_of_two_hundred(runs, here):
    (here / "many").mkdir()
    for i in range(200):
        Image.fromarray(np.full((8, 8), i, np.uint8)).save(here / "many" / f"{i:03d}.png")
    cut = here / "many" / "100.png"
    cut.write_bytes(cut.read_bytes()[:50])
    made = lb.reconstruct(runs / "plain", sorted((here / "many").iterdir()))
    assert made.x[:, 0, 0, 0].tolist() == [*range(100), *range(101, 200)]
    ((path, reason),) = made.failed
    assert path == str(cut)
    assert reason.startswith("damaged")


# ---- data sets


@pytest.fixture
def folder(here: Path) -> Path:
    halves(here / "mine", 40)
    (here / "mine" / "left" / "bad.png").write_bytes(b"")
    return here / "mine"


BAD = [["left/bad.png", "empty file"]]


def named(done: Done) -> None:
    assert done.status == 1
    assert done.err.count("mine: 1 file can't be read, left out: left/bad.png: empty file\n") == 1


def test_a_data_set_with_a_file_that_cannot_be_read(runs, folder):
    done = call("score", runs / "plain", folder, "--out", "s.csv", "--json")
    named(done)
    assert done.json["failed"] == BAD
    assert done.json["data"]["n"] == len(Path("s.csv").read_text().splitlines()) - 1 == 40
    done = call("encode", runs / "plain", "--data", folder, "--split", "all", "--out", "z.npz", "--json")
    named(done)
    assert done.json == {"out": "z.npz", "n": 40, "failed": BAD}
    assert len(np.load("z.npz")["z"]) == 40
    done = call("predict", runs / "classifier", "--data", folder, "--json")
    named(done)
    assert len(done.json) == 40
    assert [list(f) for f in lb.predict(runs / "classifier", data=str(folder)).failed] == BAD


def test_a_number_over_the_rest_says_so(runs, folder):
    """No image is asked for by name there, and its n is in the report."""
    done = right("evaluate", runs / "plain", "--data", folder, "--split", "all", "--draws", "2", "--json")
    assert done.err.count("mine: 1 file can't be read, left out: left/bad.png: empty file\n") == 1
    assert done.json["data"]["n"] == 40


def test_what_training_left_out_is_no_news_later(folder):
    done = right("train", "ppca", "--data", folder, "model.latent=4", "--out", "run")
    assert "mine: 1 file can't be read, left out: left/bad.png: empty file\n" in done.err
    assert right("encode", "run", "--out", "z.npz", "--json").json["failed"] == []


# ---- the command line's files


@pytest.mark.parametrize("place", range(3))
def test_options_stand_anywhere_among_files(place, runs, files):
    words = [*GOOD[:2]]
    words[place:place] = ["--out", "out.npz"]
    assert right("reconstruct", runs / "plain", *words, "--json").json["images"] == GOOD[:2]
    assert call("reconstruct", runs / "plain", "--out", "out.npz").status == 2


# ---- temporary files


@pytest.mark.parametrize("name", ["a.png", "a.b.json", "model", "a.tar-gz", ".hidden"])
def test_what_a_killed_process_leaves_is_known_as_such(name, here):
    for _ in range(50):
        with replacing(here / name) as temporary:
            temporary.touch()
            assert UNFINISHED.fullmatch(temporary.name)
    assert not UNFINISHED.fullmatch(name)


@pytest.mark.parametrize("name", [".gitignore", ".bashrc.1", "a.123456789012", ".a.png", ".config.json.swp"])
def test_other_hidden_files_are_not(name):
    assert not UNFINISHED.fullmatch(name)

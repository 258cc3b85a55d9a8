"""What happens to people: places that are not good ones, photos that were moved, terminals that close."""

import io
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import lowerbound as lb
from command import call, right, tree
from lowerbound import cli
from lowerbound.errors import Interrupted, ModelError
from lowerbound.progress import Progress
from lowerbound.space import Space, taken_conditions
from lowerbound.training import train as training

pytestmark = pytest.mark.usefixtures("surroundings", "here")

TINY = ["train.steps=2", "model.encoder.hidden=[4]", "model.decoder.hidden=[4]", "model.latent=2"]


def photos(folder: Path, n: int = 20) -> Path:
    folder.mkdir()
    for i, x in enumerate(np.random.default_rng(0).integers(0, 256, (n, 8, 8), dtype=np.uint8)):
        Image.fromarray(x).save(folder / f"{i:04d}.png")
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run, and the photos that it was trained on."""
    folder = tmp_path_factory.mktemp("trained")
    right("train", "vae", "--data", photos(folder / "photos"), "--out", folder / "run", *TINY)
    return folder / "run", folder / "photos"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has such a device")
def test_a_full_disk_is_no_internal_error():
    with open("/dev/full", "w") as full:
        words = [sys.executable, "-m", "lowerbound", "recipes", "--json"]
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("lowerbound: standard output: the disk is full")


def test_what_images_are_made_of_is_not_written_over(trained, here):
    run, folder = trained[0], photos(here / "own", 2)
    first, second = sorted(folder.iterdir())
    before = first.read_bytes()
    for words in (
        ["reconstruct", run, first, second, "--out", folder],
        ["reconstruct", run, first, "--out", folder / "../own" / first.name],
        ["edit", run, first, "--set", "0=1", "--out", first],
        ["interpolate", run, first, second, "--out", second],
        ["traverse", run, first, "--out", first],
    ):
        done = call(*words)
        assert (done.status, done.err.count("would be written over")) == (2, 1), done.err
    assert first.read_bytes() == before
    right("reconstruct", run, first, "--out", here / "beside")
    right("sample", run, "-n", "2", "--out", ".")  # a folder that has no name here
    assert {"beside/0000.png", "0000.png", "0001.png"} <= tree(here)
    assert not [name for name in tree(here) if name.startswith(".")]


def test_a_run_does_not_lie_among_its_images(trained, here):
    photos(here / "own")
    for data, out in ((".", "runs/x"), ("own", "own/x"), ("own", "own")):
        done = call("train", "vae", "--data", data, "--out", out, *TINY)
        assert done.status == 2
    assert "lies in" in call("train", "vae", "--data", "own", "--out", "own/x", *TINY).err
    assert tree(here) == {"own", *(f"own/{i:04d}.png" for i in range(20))}


def test_photos_that_were_moved(trained, here):
    run, was = here / "run", trained[1].with_name("moved")
    shutil.copytree(trained[0], run)
    trained[1].rename(was)
    try:
        told = call("evaluate", run).err
        assert f"the data of {run} are no longer at {trained[1]}" in told
        assert f"train vae … --data DATA --out {run} --resume" in told
        right("train", "vae", *TINY, "--data", was, "--out", run, "--resume")  # what it says helps
        assert lb.evaluate(run, draws=1)["data"]["n"] == lb.evaluate(trained[0], data=str(was), draws=1)["data"]["n"]
    finally:
        was.rename(trained[1])


def test_photos_that_have_changed_are_said_to_have(trained, here):
    """A file's name decides of its part, so that a new name may bring what was trained on into the test part."""
    run, data = here / "run", here / "own"
    shutil.copytree(trained[1], data)
    right("train", "vae", "--data", data, "--out", run, *TINY)
    assert "have changed" not in call("evaluate", run, "--draws", "1").err
    first = (lb.Run.open(run).recipe.data.open("train").paths or [""])[0]
    (data / first).rename(data / "renamed.png")
    assert call("evaluate", run, "--draws", "1").err.count("have changed since") == 1
    assert "have changed" not in call("evaluate", run, "--data", data, "--draws", "1").err
    compared = {told: lb.compare([run], draws=1, data=told).to_know for told in (None, str(data))}
    assert [any("have changed since" in note for note in notes) for notes in compared.values()] == [True, False]


def test_words_that_are_no_help_are_others_now(trained, here):
    run = trained[0]
    assert "is what a run remembers, no recipe" in call("train", run / "config.json").err
    assert f"in it are {run}" in call("sample", run.parent, "--out", "a.png").err
    assert f"did you mean {run}?" in call("sample", f"{run}n", "--out", "a.png").err
    assert "name it, as in" in call("direction", run, "--positive", "a", "--negative", "b").err
    with pytest.raises(lb.UserError, match="expected a run: its folder, or a Run"):
        lb.evaluate(lb.load(run))  # pyright: ignore[reportCallIssue, reportArgumentType]


class Closing(Progress):
    """The terminal closes at the fifth step."""

    @contextmanager
    def bar(self, total: int, start: int = 0) -> Iterator[Any]:
        yield lambda step, terms: signal.raise_signal(signal.SIGHUP) if step == 5 else None


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no terminals that close")
def test_a_terminal_that_closes_stops_a_training_as_ctrl_c_does():
    ended: list[int] = []
    old = signal.signal(signal.SIGHUP, lambda number, frame: ended.append(number))
    try:
        with pytest.raises(Interrupted):
            training.train("vae", out="run", changes=[*TINY, "train.steps=9"], progress=Closing())
        assert lb.Run.open("run").states()["model"]["step"] < 9
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
        training.train("vae", out="other", changes=[*TINY, "train.steps=9"], progress=Closing())
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        assert not ended
    finally:
        signal.signal(signal.SIGHUP, old)


def test_streams_that_are_closed_or_know_few_letters(monkeypatch):
    narrow = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "argv", ["lowerbound", "recipes"])
    monkeypatch.setattr(sys, "stdout", narrow)
    cli.main()
    narrow.flush()
    assert b" ? " in narrow.buffer.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
    for name in ("stdout", "stderr"):  # as Python has them where they are closed
        monkeypatch.setattr(sys, name, None)
    cli.main()
    monkeypatch.setattr(sys, "argv", ["lowerbound", "recipe"])
    with pytest.raises(SystemExit) as told:
        cli.main()
    assert told.value.code == 2
    for stream in (sys.stdout, sys.stderr):
        stream.close()


def test_one_code_is_decoded_and_a_bare_number_is_no_condition(trained):
    model = lb.load(trained[0])
    z = torch.randn(3, 2)
    torch.testing.assert_close(model.decode(z[1]).mean, model.decode(z).mean[1])
    with pytest.raises(ModelError, match="given 0 condition"):
        model.sample(2, 3)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ModelError, match="got one number"):
        taken_conditions(2, 3, (Space((), levels=10, ordered=False),))


def test_a_word_too_many(trained):
    told = call("sample", trained[0], "extra", "--out", "a.png").err
    assert told.startswith("lowerbound: extra: more than `lowerbound sample` takes; `lowerbound sample --help`")
    assert "hf://ann: expected" in call("sample", "hf://ann", "--out", "a.png").err

"""Several real processes train what one does, and say in one sentence what ends them."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch._C._distributed_c10d import HashStore

import lowerbound as lb
from command import call, some_digits
from lowerbound import files, testing
from lowerbound.errors import ConfigError, Ended, RunError, UserError
from lowerbound.parallel import ALONE, World
from lowerbound.parallel.environment import NEEDED, Environment, fresh
from lowerbound.progress import Progress
from lowerbound.runs.lock import held
from lowerbound.training.train import train
from worlds import Worlds, records, worlds

TINY = [
    "model.likelihood=families.Bernoulli",
    "model.encoder.hidden=[16]",
    "model.decoder.hidden=[16]",
    "model.latent=3",
    "train.batch=33",
    "train.steps=200",
    "train.log_every=1",
    "train.valid_every=50",
    "data.label=true",
]
LONG = [*TINY, "train.save_seconds=0.02"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worlds]:
    with worlds(tmp_path_factory.mktemp("worlds")) as running:
        yield running


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return some_digits(tmp_path_factory.mktemp("data") / "digits.npz")


def assert_alike(a: Path, b: Path, weights: float = 1e-4, *, state: str = "model") -> None:
    """The same training, but for the order in which sums of float32 were made."""
    old, new = records(a), records(b)
    assert len(old) == len(new)
    for one, other in zip(old, new, strict=True):
        assert one.keys() == other.keys()
        for key, value in one.items():
            same = other[key] == (pytest.approx(value, rel=1e-5, abs=1e-5) if isinstance(value, float) else value)
            assert same, f"{key}: {value}, {other[key]}"
    for name in ("model.safetensors", f"state/{state}.safetensors"):
        old, new = load_file(a / name), load_file(b / name)
        assert old.keys() == new.keys()
        for key, value in old.items():
            assert value.double().sub(new[key].double()).abs().max() < weights, key


@pytest.fixture(scope="module")
def two(world: Worlds, digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that two processes have trained, whose words are still there."""
    out = tmp_path_factory.mktemp("two") / "run"
    world.call(2, "train", "vae", *TINY, "--data", digits, "--out", out, "--json")
    return out


def test_two_processes_train_to_the_numbers_of_one(world: Worlds, two: Path, digits: Path, tmp_path: Path):
    """200 steps in float32, labels given, on a batch of 33: losses, validation, weights, and what is reported."""
    assert "step 200 of 200" in world.said(0)
    assert world.said(1) == ""
    assert world.said(1, 1) == ""
    assert '"metrics"' in world.said(0, 1)
    world.call(1, "train", "vae", *TINY, "--data", digits, "--out", tmp_path / "one")
    assert_alike(tmp_path / "one", two)


def test_where_few_images_have_a_label_two_processes_train_to_the_numbers_of_one(digits: Path, tmp_path: Path):
    """The labelled images that each batch has more of, too."""
    few = ["data.labels=50", "model.classifier=networks.mlp.MLP", "model.classifier.hidden=[8]", "train.steps=30"]

    def trained(out: Path, world: World = ALONE) -> None:
        train("vae", data=digits, out=out, changes=[*TINY, *few], device="cpu", world=world)

    trained(tmp_path / "one")
    testing.in_threads(2, lambda world: trained(tmp_path / "two", world))
    assert_alike(tmp_path / "one", tmp_path / "two")


def test_an_evaluation_of_two_processes_is_that_of_one(world: Worlds, two: Path):
    """Every image once."""
    for n in (1, 2):
        world.call(n, "evaluate", two, "--split", "valid", "--draws", "20", "--json")
        report = json.loads(world.said(0, 1))
        if n == 1:
            alone, kept = report, json.loads((two / "evaluation/valid.json").read_text())
    assert world.said(1, 1) == ""
    assert report["data"] == alone["data"]
    for name, value in alone["metrics"].items():
        assert report["metrics"][name] == {
            k: pytest.approx(v, rel=1e-9) if isinstance(v, float) else v for k, v in value.items()
        }
    assert json.loads((two / "evaluation/valid.json").read_text())["fingerprint"] == kept["fingerprint"]


def test_two_processes_draw_and_encode_what_one_does(world: Worlds, two: Path, digits: Path, tmp_path: Path):
    for n in (1, 2):
        world.call(n, "sample", two, "-n", "5", "--seed", "3", "--out", tmp_path / f"x{n}.npz")
        world.call(n, "encode", two, "--data", digits, "--out", tmp_path / f"z{n}.npz")
    assert world.said(1, 1) == ""
    for name in ("x", "z"):
        with np.load(tmp_path / f"{name}1.npz") as one, np.load(tmp_path / f"{name}2.npz") as other:
            assert one.files == other.files
            assert all(one[key] == pytest.approx(other[key], abs=1e-5) for key in one.files)


@pytest.mark.slow  # fits densities of each label to ten thousand codes, and draws
def test_two_processes_fit_the_prior_that_one_does(world: Worlds, two: Path, tmp_path: Path):
    for n in (1, 2):
        shutil.copytree(two, tmp_path / f"run{n}")
        world.call(n, "fit-prior", tmp_path / f"run{n}", "--prior", "mixture", "--json")
    assert world.said(1, 1) == ""
    one, other = (load_file(tmp_path / f"run{n}/model.safetensors") for n in (1, 2))
    assert one.keys() == other.keys()
    assert all(torch.allclose(t, other[key], atol=1e-4) for key, t in one.items())
    assert not (tmp_path / "run2/lock.json").exists()


def test_more_processes_than_images_and_a_verb_that_one_does(world: Worlds, two: Path, tmp_path: Path):
    world.call(3, "evaluate", two, "--limit", "2", "--metrics", "elbo,nll,mse", "--json")
    assert json.loads(world.said(0, 1))["metrics"]["elbo"]["n"] == 2
    world.call(3, "sample", two, "-n", "2", "--out", tmp_path / "two")
    assert len([*(tmp_path / "two").iterdir()]) == 2
    world.call(3, "recipes")
    assert "vae-mnist" in world.said(0, 1)
    assert world.said(1, 1) == world.said(2, 1) == ""


# ---- what can go wrong


def test_a_store_in_which_others_met_before_says_nothing_of_them():
    """Not what they wrote, nor that some of them came and others did not."""
    store = HashStore()
    for attempt in range(3):
        with pytest.raises(RuntimeError, match=r"not all had come after 0\.1 seconds"):
            fresh(store, 1, 3, patience=0.1)
        with ThreadPoolExecutor(3) as pool:
            parts = list(pool.map(lambda rank: fresh(store, rank, 3, patience=20), range(3)))
        assert not any(part.check(["told"]) for part in parts)
        parts[attempt].set("told", str(attempt))
        assert [part.get("told").decode() for part in parts] == 3 * [str(attempt)]


def wait_for(run: Path, step: int) -> None:
    """Until the log has come so far."""
    deadline = time.monotonic() + 120
    while not (run / "log.jsonl").is_file() or not any(r["step"] >= step for r in records(run)):
        assert time.monotonic() < deadline, f"no step {step} within two minutes"
        time.sleep(0.005)


def test_a_killed_process_costs_the_steps_since_the_last_state(world: Worlds, two: Path, digits: Path, tmp_path: Path):
    """As torchrun begins all anew, by the same command; then one process goes on with what two have begun."""
    words = ["train", "vae", *LONG, "--data", digits]
    out = tmp_path / "run"
    pids = world.start(2, *words, "--out", out)
    wait_for(out, 60)
    os.kill(pids[1], signal.SIGKILL)
    assert world.statuses() == [2, -signal.SIGKILL]
    assert "lowerbound: process 1 of 2 is gone: it was killed, or its machine is. What was trained" in world.said(0)

    pids = world.start(2, *words, "--out", out, TORCHELASTIC_RESTART_COUNT="1")
    wait_for(out, 120)
    os.kill(pids[1], signal.SIGINT)  # whichever is asked to stop, all do, after the same step
    assert world.statuses() == [130, 130]
    assert f"resuming {out} at step" in world.said(0)
    assert f"stopped; {out} is saved" in world.said(0)
    assert world.said(1) == ""

    parts = tmp_path / "parts"
    shutil.copytree(out, parts)
    world.call(2, *words, "--out", out, "--resume")
    for name in ("model.safetensors", "state/model.safetensors"):
        a, b = load_file(two / name), load_file(out / name)
        assert all(torch.equal(t, b[k]) for k, t in a.items()), name
    assert records(two) == records(out)
    world.call(1, *words, "--out", parts, "--resume")
    assert_alike(two, parts)


@pytest.mark.slow  # starts Python six times
def test_torchrun_begins_anew_what_was_killed(two: Path, digits: Path, tmp_path: Path):
    """By itself, as often as --max-restarts says: the end is that of a training that nobody disturbed."""
    words = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "1", "--monitor-interval", "0.1"]
    words += ["-m", "lowerbound", "train", "vae", *LONG, "--data", str(digits), "--out", str(tmp_path / "run")]
    environment = {k: v for k, v in os.environ.items() if k not in NEEDED} | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen([sys.executable, *words], stderr=subprocess.PIPE, text=True, env=environment) as torchrun:
        wait_for(tmp_path / "run", 60)
        children = Path(f"/proc/{torchrun.pid}/task/{torchrun.pid}/children").read_text().split()
        of_rank = {int(found[1]): int(pid) for pid in children if (found := rank_of(int(pid)))}
        os.kill(of_rank[1], signal.SIGKILL)
        said = torchrun.communicate()[1]
    assert torchrun.returncode == 0, said
    assert f"resuming {tmp_path / 'run'} at step" in said
    for name in ("model.safetensors", "state/model.safetensors"):
        a, b = load_file(two / name), load_file(tmp_path / "run" / name)
        assert all(torch.equal(t, b[k]) for k, t in a.items()), name
    assert records(two) == records(tmp_path / "run")


def rank_of(pid: int) -> re.Match[str] | None:
    return re.search(r"\0RANK=(\d+)\0", Path(f"/proc/{pid}/environ").read_text())


@pytest.mark.slow  # trains three stages twice
def test_each_stage_may_have_a_world_of_its_own(world: Worlds, tmp_path: Path):
    """An autoencoder by two processes; of it the codes and a prior by three, and one by one, or all by one."""
    steps = ["train.batch=33", "train.steps=40", "train.stages.prior.steps=30", "train.log_every=1"]
    words = ["train", "vqvae2-digits", *steps, "model.width=8", "model.inner=4", "train.valid_every=10", "--out"]
    world.call(2, *words, tmp_path / "run", "--stage", "autoencoder")
    shutil.copytree(tmp_path / "run", tmp_path / "one")
    world.call(3, *words, tmp_path / "run", "--stage", "prior.top", "--resume")
    for out in (tmp_path / "run", tmp_path / "one"):
        world.call(1, *words, out, "--resume")
    assert_alike(tmp_path / "one", tmp_path / "run", state="prior.top")
    assert_alike(tmp_path / "one", tmp_path / "run", state="prior.bottom")


@pytest.mark.slow  # packs a hundred thousand images
def test_shards_that_change_while_several_train_are_named(world: Worlds, tmp_path: Path):
    """By whoever reads them first; what was trained is there, and goes on once the shards are what they were."""
    noise = np.random.default_rng(0).integers(0, 17, (100_000, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "x.npz", x=noise, levels=17)
    lb.pack_data(str(tmp_path / "x.npz"), out=tmp_path / "packed", shard_size="1MB")
    shards = sorted((tmp_path / "packed").glob("x-*.npy"))
    was = [shard.read_bytes() for shard in shards]
    words = ["train", "vae", *TINY[:4], "train.batch=330", "train.steps=250", "train.log_every=1", "data.window=1"]
    words += ["train.save_seconds=0.02", "train.valid_every=250", "--data", str(tmp_path / "packed")]
    world.start(2, *words, "--out", tmp_path / "run")
    wait_for(tmp_path / "run", 5)
    for shard, content in zip(shards, was, strict=True):
        shard.write_bytes(content[:-40_000] + bytes(40_000))
    assert 2 in world.statuses()
    said = world.said(0) + world.said(1)
    assert re.search(r"lowerbound: process \d: .*/x-\d+.*\.npy: its image \d+ is not as it was packed", said), said
    assert "--resume goes on from it" in said
    for shard, content in zip(shards, was, strict=True):
        shard.write_bytes(content)
    world.call(2, *words, "--out", tmp_path / "run", "--resume")


def test_a_process_that_hangs_is_named(world: Worlds, digits: Path, tmp_path: Path):
    out = tmp_path / "run"
    pids = world.start(2, "train", "vae", *LONG, "train.wait_seconds=3", "--data", digits, "--out", out)
    wait_for(out, 20)
    os.kill(pids[1], signal.SIGSTOP)
    try:
        deadline = time.monotonic() + 60
        while "lowerbound:" not in world.said(0) and time.monotonic() < deadline:
            time.sleep(0.05)
    finally:
        os.kill(pids[1], signal.SIGKILL)
    assert world.statuses() == [2, -signal.SIGKILL]
    assert (
        "process 1 of 2 has not answered for 3 seconds: it hangs, or is that slow (train.wait_seconds)" in world.said(0)
    )


def in_two(digits: Path, out: Path, *more: str) -> dict[int, Exception]:
    """What each of two processes ends by, where they can't train: threads of this one."""
    ends: dict[int, Exception] = {}

    def work(world: World) -> None:
        try:
            train("vae", data=digits, out=out, changes=[*TINY, *more], device="cpu", world=world)
        except Exception as e:
            ends[world.rank] = world.fail(e)

    testing.in_threads(2, work)
    return ends


def test_a_folder_that_another_training_has(digits: Path, tmp_path: Path):
    with held(tmp_path / "run", Progress()):
        ends = in_two(digits, tmp_path / "run")
    assert re.match(f"process 0: .* is being written by another .*: process {os.getpid()} on", str(ends[0]))
    assert isinstance(ends[1], Ended)


def test_a_full_disk_of_one_process_ends_all(digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The first process writes; the others end without a word."""
    replace, ends = os.replace, {}

    def full(source: Any, target: Any) -> None:
        if Path(target).parent.name == "state" and (tmp_path / "run/log.jsonl").exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    def work(world: World) -> None:
        try:
            train("vae", data=digits, out=tmp_path / "run", changes=LONG, device="cpu", world=world)
        except Exception as e:
            ends[world.rank] = e
            raise

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(UserError, match=r"process 0: can't write .*state/model\.safetensors: No space left on device"):
        testing.in_threads(2, work)
    assert isinstance(ends[1], Ended)


def test_there_are_at_least_as_many_images_in_a_batch_as_processes(digits: Path, tmp_path: Path):
    """What all have to say alike, one of them says, and not as its own."""
    ends = in_two(digits, tmp_path / "run", "train.batch=1")
    (said,) = [str(e) for e in ends.values() if not isinstance(e, Ended)]
    assert said.startswith("train.batch=1: is the whole batch, which 2 processes share")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ("RANK=0 WORLD_SIZE=2", "MASTER_ADDR, MASTER_PORT: not set, though RANK=0, WORLD_SIZE=2 is"),
        ("RANK=0", "WORLD_SIZE, MASTER_ADDR, MASTER_PORT: not set"),
        ("RANK=2 WORLD_SIZE=2 MASTER_ADDR=a MASTER_PORT=1", "RANK=2: expected a number from 0 to"),
        ("RANK=0 WORLD_SIZE=x MASTER_ADDR=a MASTER_PORT=1", "WORLD_SIZE=x: expected a whole number"),
    ],
)
def test_a_variable_that_is_missing_or_wrong_is_named(environment: str, words: str, monkeypatch, tmp_path: Path):
    for variable in environment.split():
        monkeypatch.setenv(*variable.split("="))
    done = call("train", "vae", *TINY, "--out", tmp_path / "run")
    assert done.status == 2
    assert words in done.err


@pytest.mark.parametrize("processes", ["0", "-1", "two"])
def test_processes_that_are_no_number(processes: str, tmp_path: Path):
    done = call("train", "vae", *TINY, "--out", tmp_path / "run", "--processes", processes)
    assert done.status == 2
    assert "processes" in done.err
    assert processes in done.err
    assert "whole number" in done.err
    assert not (tmp_path / "run").exists()


def test_processes_that_are_begun_raise_what_one_would(tmp_path: Path):
    with pytest.raises(RunError, match=rf"{re.escape(str(tmp_path / 'none'))}: no such run"):
        lb.evaluate(tmp_path / "none", processes=2)


OWN = """
import math
import torch
from lowerbound.networks.base import Network

class Linear(Network):
    class Config(Network.Config):
        def build(self, in_shape, out_shape, context=0):
            return Linear(in_shape, out_shape)

        @classmethod
        def example(cls):
            return cls(), (1, 2, 2), (3,)

    def __init__(self, in_shape, out_shape):
        super().__init__()
        self.in_shape, self.out_shape = in_shape, out_shape
        self.linear = torch.nn.Linear(math.prod(in_shape), math.prod(out_shape))

    def forward(self, x, c=None):
        return self.linear(x.flatten(1)).view(-1, *self.out_shape)
"""


@pytest.mark.slow  # two processes are begun, and train
def test_processes_that_are_begun_have_the_components_of_own_packages(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "my_own.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    changes = [*TINY, "train.steps=4"]
    changes[1] = "model.encoder=my_own.Linear"
    run = lb.train("vae", *changes, data=digits, out=tmp_path / "run", processes=2, allow=["my_own"])
    assert type(run.load().encoder).__module__ == "my_own"
    assert run.report["metrics"]


@pytest.mark.parametrize(
    ("asked", "there", "taken"),
    [
        ("cpu", 2, "cpu"),
        ("auto", 0, "cpu"),
        ("auto", 2, "cuda:1"),
        ("cuda", 2, "cuda:1"),
        ("cuda:7", 8, "--device cuda:7: 2 processes take a GPU each, by their number"),
        ("cuda", 1, "process 1 of this machine has no GPU: 1 CUDA device here; start 1 process, or --device cpu"),
    ],
)
def test_each_process_takes_a_card_of_its_own(asked: str, there: int, taken: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: there)
    of_two = Environment(rank=1, size=2, local=1)
    if " " in taken:
        with pytest.raises(ConfigError, match=re.escape(taken)):
            of_two.device(asked)
    else:
        assert of_two.device(asked) == taken

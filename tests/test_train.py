"""Training can be killed at any moment and goes on exactly; what goes wrong is said in a sentence, and nothing lost."""

import errno
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import nn

from lowerbound import files
from lowerbound.config import components, dump
from lowerbound.data.base import Data, Images
from lowerbound.data.batches import Batches, binarized
from lowerbound.errors import ConfigError, RunError, TrainingError, UserError
from lowerbound.files import replacing
from lowerbound.models.vae import VAE
from lowerbound.networks.causal import CausalNetwork
from lowerbound.optimization import Adam, AdamW, Averaging, Constant, Cosine, Guard, Skip, Step
from lowerbound.progress import Progress
from lowerbound.runs import recipes
from lowerbound.runs.run import Run
from lowerbound.sampling.sheets import Live
from lowerbound.stages import Stage, Turn
from lowerbound.training import loop
from lowerbound.training import train as training
from lowerbound.training.loop import Loop
from lowerbound.training.validation import Validation
from worlds import Worlds, records, worlds

pytestmark = pytest.mark.usefixtures("surroundings")

CPU = torch.device("cpu")

TINY = [
    "model.likelihood=families.Bernoulli",
    "model.encoder.hidden=[16]",
    "model.decoder.hidden=[16]",
    "model.latent=3",
    "train.batch=32",
    "train.steps=60",
    "train.log_every=7",
    "train.valid_every=20",
    "train.optimizer.lr=1e-3",
]


class Died(BaseException):
    """As good as a kill: nothing catches it."""


class Told(Progress):
    """Remembers what was said; dies, or presses Ctrl-C, once training has come to a step."""

    def __init__(self, dies: int | None = None, interrupts: int | None = None):
        self.said: list[str] = []
        self.dies, self.interrupts = dies, interrupts

    def say(self, text: str) -> None:
        self.said.append(text)

    @contextmanager
    def bar(self, total: int, start: int = 0) -> Iterator[Any]:
        def tell(step: int, terms: Any) -> None:
            if step == self.dies:
                raise Died
            if step == self.interrupts:
                os.kill(os.getpid(), signal.SIGINT)

        yield tell


def train(out: Path, *changes: str, told: Progress | None = None, **options: Any) -> Run:
    words = [*TINY, *changes]
    return training.train("vae", out=out, changes=words, progress=told, device="cpu", pictures=Live, **options).run


def tensors(path: Path) -> dict[str, torch.Tensor]:
    with safe_open(path, "pt") as file:
        return {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118


def values(path: Path) -> dict[str, Any]:
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["values"])


def log(run: Path) -> list[str]:
    """The lines, without the two numbers that time decides."""
    return [json.dumps(line) for line in records(run)]


def assert_same_run(a: Path, b: Path, stages: tuple[str, ...] = ("model",)) -> None:
    for name in ("model.safetensors", *(f"state/{stage}.safetensors" for stage in stages)):
        old, new = tensors(a / name), tensors(b / name)
        assert old.keys() == new.keys()
        different = [k for k in old if not torch.equal(old[k], new[k])]
        assert not different, f"{name}: {different}"
    timely = ("seconds", "_logged_seconds", "log_bytes")
    for stage in stages:
        old, new = (values(run / f"state/{stage}.safetensors") for run in (a, b))
        assert {k: v for k, v in old.items() if k not in timely} == {k: v for k, v in new.items() if k not in timely}
    assert log(a) == log(b)
    assert (a / "pictures/samples.png").read_bytes() == (b / "pictures/samples.png").read_bytes()
    assert not [str(p) for p in b.rglob(".*")], "files half written are left"


# --- killed and resumed: real processes


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worlds]:
    with worlds(tmp_path_factory.mktemp("server")) as running:
        yield running


LONG = ["train", "vae", *TINY, "train.steps=600", "train.valid_every=100", "train.save_seconds=0.05"]
LONG += ["train.optimizer.type=optimization.AdamW", "train.schedule.warmup=50", "data.flip=true"]


@pytest.fixture(scope="module")
def uninterrupted(server: Worlds, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("uninterrupted") / "run"
    server.call(1, *LONG, "--out", str(out))
    return out


def last_step(run: Path) -> int:
    """How far the log of a training that is under way has come."""
    try:
        lines = (run / "log.jsonl").read_text().splitlines(keepends=True)
    except FileNotFoundError:
        return 0
    return max((json.loads(line)["step"] for line in lines if line.endswith("\n")), default=0)


def wait_for(run: Path, step: int) -> None:
    deadline = time.monotonic() + 60
    while last_step(run) < step:
        assert time.monotonic() < deadline, f"no step {step} within a minute: {last_step(run)}"
        time.sleep(0.002)


def test_killed_at_random_moments_it_ends_with_the_same_bits(server, uninterrupted, tmp_path):
    out, chance = tmp_path / "run", random.Random(0)
    for step in (0, 150, 380):
        (pid,) = server.start(1, *LONG, "--out", str(out), "--resume")
        wait_for(out, step)
        time.sleep(chance.uniform(0, 0.08))
        os.kill(pid, signal.SIGKILL)
        assert server.statuses() == [-signal.SIGKILL], server.said(0)
    server.call(1, *LONG, "--out", str(out), "--resume")
    assert "resuming" in server.said(0)
    assert_same_run(uninterrupted, out)
    old, new = (json.loads((run / "evaluation/valid.json").read_text()) for run in (uninterrupted, out))
    assert old["metrics"] == new["metrics"]


def test_a_command_of_its_own_killed_and_resumed(uninterrupted, tmp_path):
    out = tmp_path / "run"
    command = [sys.executable, "-c", "from lowerbound.cli import main; main()", *LONG, "--out", str(out)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment) as process:
        wait_for(out, 300)
        process.kill()
    done = subprocess.run([*command, "--resume"], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "resuming" in done.stderr
    assert_same_run(uninterrupted, out)


@pytest.mark.parametrize(
    "name", ["model.safetensors", "state/model.safetensors", "pictures/samples.png", "evaluation/valid.npz"]
)
def test_what_a_killed_process_was_writing_is_cleared(tmp_path, name: str):
    run = train(tmp_path / "run")
    before = set(run.path.rglob("*"))
    (run.path / name).parent.mkdir(exist_ok=True)
    with replacing(run.path / name) as temporary:
        temporary.touch()
        left = temporary
    left.touch()
    run.tidy()
    assert not left.exists()
    assert before <= set(run.path.rglob("*"))


def test_ctrl_c_saves_and_says_how_to_go_on(server, uninterrupted, tmp_path):
    out = tmp_path / "run"
    options = [*LONG, "train.save_seconds=1000", "--out", str(out)]
    (pid,) = server.start(1, *options)
    wait_for(out, 400)
    os.kill(pid, signal.SIGINT)
    assert server.statuses() == [130]
    assert "is saved" in server.said(0)
    words = server.said(0).split("Go on with: lowerbound ")[1].split()
    assert "--resume" in words
    assert values(out / "state/model.safetensors")["step"] >= 400
    assert not (out / "evaluation").exists()
    server.call(1, *LONG, "--out", str(out), "--resume")
    assert_same_run(uninterrupted, out)


def test_ctrl_c_in_another_verb(server, uninterrupted):
    (pid,) = server.start(1, "evaluate", str(uninterrupted), "--draws", "10000000")
    time.sleep(1.5)
    os.kill(pid, signal.SIGINT)
    assert server.statuses() == [130]
    assert (server.said(0), server.said(0, 1)) == ("lowerbound: stopped\n", "")


# --- resuming, in this process


def test_watching_a_training_disturbs_nothing(tmp_path):
    quiet = train(tmp_path / "quiet", "train.valid_every=60", "train.log_every=60")
    busy = train(tmp_path / "busy", "train.valid_every=3", "train.log_every=1", "train.save_seconds=1e-9")
    a, b = (tensors(run.path / "state/model.safetensors") for run in (quiet, busy))
    assert all(torch.equal(a[k], b[k]) for k in a if not k.startswith("window."))


def test_dying_at_any_step(tmp_path):
    whole = train(tmp_path / "whole")
    out = tmp_path / "parts"
    for step in (1, 7, 8, 20, 21, 59, 60):
        with pytest.raises(Died):
            train(out, "train.save_seconds=1e-9", told=Told(dies=step), resume=True)
    train(out, "train.save_seconds=60", resume=True)
    assert_same_run(whole.path, out)


def test_a_run_that_never_saved_starts_over_and_says_so(tmp_path):
    whole = train(tmp_path / "whole")
    out = tmp_path / "run"
    with pytest.raises(Died):
        train(out, told=Told(dies=35))
    (out / "state/model.safetensors").unlink()
    told = Told()
    train(out, told=told, resume=True)
    assert any("before its first saved state; starting over" in text for text in told.said)
    assert_same_run(whole.path, out)


def test_resuming_nothing_begins_and_says_so(tmp_path):
    told = Told()
    train(tmp_path / "run", told=told, resume=True)
    assert "nothing to resume, starting from the beginning" in told.said[0]


def test_resuming_a_finished_run_changes_nothing(tmp_path):
    out = train(tmp_path / "run").path
    before = (out / "state/model.safetensors").read_bytes(), (out / "log.jsonl").read_bytes()
    told = Told()
    train(out, told=told, resume=True)
    assert told.said == [f"{out} is finished; nothing to resume"]
    assert before == ((out / "state/model.safetensors").read_bytes(), (out / "log.jsonl").read_bytes())


def test_resuming_on_another_machine_warns(tmp_path, monkeypatch):
    out = tmp_path / "run"
    with pytest.raises(Died):
        train(out, "train.save_seconds=1e-9", told=Told(dies=10))
    here = loop.machine(CPU)
    monkeypatch.setattr(loop, "machine", lambda device: here | {"threads": 64, "torch": "1.0"})
    told = Told()
    train(out, told=told, resume=True)
    (warning,) = [text for text in told.said if "may differ" in text]
    assert f"threads was {here['threads']}, is 64" in warning
    assert "torch was" in warning


def test_a_longer_training_goes_on_from_a_finished_one(tmp_path):
    same = "train.schedule=optimization.Constant"
    out = train(tmp_path / "run", same).path
    told = Told()
    train(out, same, "train.steps=100", told=told, resume=True)
    assert "train.steps was 60, is 100" in told.said[0]
    assert Run.open(out).recipe.train.steps == 100
    whole = train(tmp_path / "whole", same, "train.steps=100").path
    a, b = tensors(whole / "state/model.safetensors"), tensors(out / "state/model.safetensors")
    assert all(torch.equal(a[k], b[k]) for k in a if not k.startswith("window."))


def test_resuming_takes_the_runs_own_options(tmp_path):
    out = tmp_path / "run"
    with pytest.raises(Died):
        train(out, told=Told(dies=30))
    told = Told()
    without = [c for c in TINY if not c.startswith(("train.steps", "train.log_every"))]
    run = training.train("vae", out=out, changes=without, progress=told, resume=True).run
    assert "train.steps=60" in told.said[0]
    assert (run.recipe.train.steps, run.recipe.train.log_every) == (60, 7)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("model.latent=4", "model.latent was [3], now [4]"),
        ("model.likelihood=families.Bernoulli model.objective.beta=4", "model.objective.beta was 1.0, now 4"),
        ("data.flip=true", "data.flip was false, now true"),
        ("seed=1", "seed was 0, now 1"),
        ("train.batch=16", "train.batch was 32, now 16"),
        ("train.averaging=null", "train.averaging.decay was 0.999"),
    ],
)
def test_resuming_with_other_options_is_refused(tmp_path, change, named):
    out = tmp_path / "run"
    with pytest.raises(Died):
        train(out, told=Told(dies=30))
    before = (out / "config.json").read_text()
    with pytest.raises(ConfigError) as refused:
        train(out, *change.split(), resume=True)
    assert named in str(refused.value)
    assert (out / "config.json").read_text() == before


def test_resuming_with_other_data_is_refused(tmp_path):
    source = tmp_path / "x.npz"
    rng = np.random.default_rng(0)
    np.savez(source, x=rng.integers(0, 256, (100, 8, 8), np.uint8))
    out = tmp_path / "run"
    with pytest.raises(Died):
        train(out, told=Told(dies=30), data=source)
    np.savez(source, x=rng.integers(0, 256, (150, 8, 8), np.uint8))
    with pytest.raises(RunError, match=r"trained on other data: images was \d+, is \d+"):
        train(out, data=source, resume=True)


def test_relative_data_are_found_from_another_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("x.npz", x=np.random.default_rng(0).integers(0, 256, (50, 8, 8), np.uint8))
    run = train(tmp_path / "run", "train.steps=2", data="x.npz")
    monkeypatch.chdir("/")
    assert len(Run.open(run.path).recipe.data.open("train")) == run.facts.images > 30


@pytest.mark.parametrize("network", components(CausalNetwork.Config), ids=lambda network: network.type_name())
def test_resuming_does_not_depend_on_how_weights_lie_in_memory(network, tmp_path, monkeypatch):
    """Some networks have convolutions whose channels come last, and states are saved with them first."""
    config, _ = network.example()
    model = {"network": dump(config), "likelihood": {"type": "families.Categorical"}}
    short = {"epochs": None, "steps": 9, "batch": 8, "valid_images": 8, "save_seconds": 1e-9}
    options = {"data": "digits", "changes": {"model": model, "train": short}, "device": "cpu"}
    whole, out = tmp_path / "whole", tmp_path / "parts"
    training.train("pixelcnn-mnist", out=whole, **options)
    with monkeypatch.context() as m:
        step = Loop._step

        def dying(loop: Loop):
            if loop.step == 4:
                raise Died
            return step(loop)

        m.setattr(Loop, "_step", dying)
        with pytest.raises(Died):
            training.train("pixelcnn-mnist", out=out, **options)
    training.train("pixelcnn-mnist", out=out, resume=True, **options)
    a, b = (tensors(run / "state/model.safetensors") for run in (whole, out))
    assert not [k for k in a if not torch.equal(a[k], b[k])]


def test_two_stages(tmp_path, monkeypatch):
    def stages(self: VAE) -> tuple[Stage, ...]:
        def scaled(x: Any, y: Any, step: int) -> Any:
            loss = self._loss(x, y, step)
            return loss._replace(value=2 * loss.value)

        decoder = (self.decoder, self.likelihood_head)
        return Stage("one", (Turn((self,), self._loss),)), Stage("two", (Turn(decoder, scaled),))

    monkeypatch.setattr(VAE, "stages", stages)
    whole, out = train(tmp_path / "whole").path, tmp_path / "parts"
    for stage, step in (("one", 25), ("one", 60), ("two", 1), ("two", 41)):
        told = Told()
        old = Loop._step

        def dying(loop: Loop, stage=stage, step=step, old=old):
            if (loop.stage.name, loop.step) == (stage, step - 1):
                raise Died
            return old(loop)

        with monkeypatch.context() as m:
            m.setattr(Loop, "_step", dying)
            with pytest.raises(Died):
                train(out, "train.save_seconds=1e-9", told=told, resume=True)
    train(out, "train.save_seconds=60", resume=True)
    assert_same_run(whole, out, ("one", "two"))
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [line["stage"] for line in lines] == sorted(line["stage"] for line in lines)
    frozen = [k for k in tensors(out / "model.safetensors") if k.startswith("encoder")]
    one, two = tensors(out / "state/one.safetensors"), tensors(out / "state/two.safetensors")
    kept = {k: two[f"model.{k}"] for k in frozen}
    assert any(not torch.equal(kept[k], one[f"model.{k}"]) for k in frozen), (
        "stage two begins with the averaged weights"
    )


# --- the folder of a run


def test_an_existing_folder_is_refused(tmp_path):
    out = train(tmp_path / "run", "train.steps=2").path
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    with pytest.raises(RunError, match="--resume goes on with it, --overwrite starts over"):
        train(out)
    with pytest.raises(ConfigError, match="expected one of them"):
        train(out, resume=True, overwrite=True)
    assert before == {p: p.stat().st_mtime_ns for p in out.rglob("*")}


def test_overwriting_begins_anew_and_keeps_what_is_not_the_runs(tmp_path):
    out = train(tmp_path / "run", "train.steps=10").path
    (out / "notes.txt").write_text("mine")
    train(out, "train.steps=4", overwrite=True)
    assert (out / "notes.txt").read_text() == "mine"
    assert values(out / "state/model.safetensors")["step"] == 4
    assert max(json.loads(line)["step"] for line in (out / "log.jsonl").read_text().splitlines()) == 4


@pytest.mark.parametrize("file", ["thesis.tex", "config.json"])
def test_overwriting_what_is_no_run_is_refused(tmp_path, file):
    out = tmp_path / "precious"
    out.mkdir()
    (out / file).write_text('{"hidden_size": 768}')
    (out / "state").mkdir()
    with pytest.raises(RunError, match="is not a run"):
        train(out, overwrite=True)
    assert (out / file).read_text() == '{"hidden_size": 768}'
    assert sorted(p.name for p in out.iterdir()) == sorted([file, "state"])


def test_a_mistake_does_not_remove_the_run_to_overwrite(tmp_path):
    out = train(tmp_path / "run", "train.steps=2").path
    with pytest.raises(UserError):
        train(out, "data.size=7", "model.encoder.type=networks.conv.Conv", overwrite=True)
    assert (out / "model.safetensors").exists()


def edit_config(out: Path, **changes: Any) -> None:
    (out / "config.json").write_text(json.dumps(json.loads((out / "config.json").read_text()) | changes))


def test_a_run_of_a_newer_version(tmp_path):
    out = train(tmp_path / "run", "train.steps=2").path
    edit_config(out, format=99, version="9.1")
    with pytest.raises(RunError, match=r"made by lowerbound 9\.1, newer than this one"):
        Run.open(out)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"version": "1", "format": "x", "recipe": "r"}', "\x00"])
def test_a_damaged_configuration(tmp_path, text):
    out = train(tmp_path / "run", "train.steps=2").path
    (out / "config.json").write_text(text)
    with pytest.raises(RunError, match=r"config\.json is damaged"):
        Run.open(out)


def test_a_configuration_with_an_unknown_key(tmp_path):
    out = train(tmp_path / "run", "train.steps=2").path
    config = json.loads((out / "config.json").read_text())["config"]
    edit_config(out, config=config | {"trian": 1})
    with pytest.raises(ConfigError, match=r"config\.json: config\.trian: unknown key; did you mean train"):
        Run.open(out)


@pytest.mark.parametrize("cut", [0, 5, 400, -10])
def test_damaged_files(tmp_path, cut):
    out = train(tmp_path / "run", "train.steps=2").path
    for name in ("model.safetensors", "state/model.safetensors", "state/model.before.safetensors"):
        (out / name).write_bytes((out / name).read_bytes()[:cut])
    with pytest.raises(RunError, match=r"model\.safetensors is damaged"):
        Run.open(out).load()
    with pytest.raises(RunError, match=r"state/model\.safetensors is damaged.*--overwrite"):
        train(out, resume=True)


def test_weights_of_another_model(tmp_path):
    a = train(tmp_path / "a", "train.steps=2").path
    b = train(tmp_path / "b", "train.steps=2", "model.latent=5").path
    (a / "model.safetensors").write_bytes((b / "model.safetensors").read_bytes())
    with pytest.raises(RunError, match=r"does not fit the model of config\.json: .*size mismatch"):
        Run.open(a).load()
    (a / "state/model.safetensors").write_bytes((b / "state/model.safetensors").read_bytes())
    with pytest.raises(RunError, match=r"the state of .* does not fit"):
        train(a, resume=True)


def test_no_weights_yet(tmp_path):
    with pytest.raises(Died):
        train(tmp_path / "run", told=Told(dies=5))
    with pytest.raises(RunError, match="has no weights yet"):
        Run.open(tmp_path / "run").load()


# --- what can go wrong


@pytest.mark.parametrize(
    "damage", [lambda data: data[: len(data) // 2], lambda data: data[:-1] + bytes([data[-1] ^ 1])]
)
def test_a_damaged_state_is_answered_by_the_one_before(tmp_path, damage):
    """Cut off, and with one bit flipped."""
    whole, out = train(tmp_path / "whole"), tmp_path / "run"
    with pytest.raises(Died):
        train(out, "train.save_seconds=1e-9", told=Told(dies=10))
    last = out / "state/model.safetensors"
    step = values(last)["step"]
    last.write_bytes(damage(last.read_bytes()))
    told = Told()
    train(out, told=told, resume=True)
    (said,) = [text for text in told.said if "is damaged (" in text]
    assert said.endswith(f"going on from the state before it, of step {step - 1}")
    assert_same_run(whole.path, out)


def test_a_clock_that_jumps_changes_nothing(tmp_path, monkeypatch):
    whole, hours = train(tmp_path / "whole"), iter(range(0, 10**6, 3600))
    monkeypatch.setattr(time, "time", lambda: 1e9 - 3600 * next(hours))
    assert_same_run(whole.path, train(tmp_path / "run", "train.save_seconds=1e-9").path)


def test_a_full_disk_keeps_the_last_good_state(tmp_path, monkeypatch):
    whole, out = train(tmp_path / "whole"), tmp_path / "run"
    replace = os.replace

    def full(source: Any, target: Any) -> None:
        if Path(target).parent.name == "state" and last_step(out) >= 35:
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    with monkeypatch.context() as m:
        m.setattr(files.os, "replace", full)
        with pytest.raises(UserError, match=r"can't write .*state/model\.safetensors: No space left on device"):
            train(out, "train.save_seconds=1e-9")
    assert not list(out.rglob(".*"))
    assert 30 <= values(out / "state/model.safetensors")["step"] < 40
    train(out, resume=True)
    assert_same_run(whole.path, out)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_log_that_can_not_be_written(tmp_path):
    out = tmp_path / "run"
    with pytest.raises(Died):
        train(out, "train.save_seconds=1e-9", told=Told(dies=30))
    (out / "log.jsonl").rename(tmp_path / "kept")
    (out / "log.jsonl").symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"can't write .*log\.jsonl: No space left on device"):
        train(out, "train.save_seconds=60", resume=True)
    (out / "log.jsonl").unlink()
    (tmp_path / "kept").rename(out / "log.jsonl")
    train(out, resume=True)
    assert_same_run(train(tmp_path / "whole").path, out)


def test_a_folder_that_can_not_be_written():
    with pytest.raises(UserError, match="can't write /dev/null/run"):
        train(Path("/dev/null/run"))


def test_a_file_where_the_run_should_be(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(RunError, match="is a file, expected a folder"):
        train(tmp_path / "run")


def test_a_huge_learning_rate_stops_and_keeps_the_last_good_state(tmp_path):
    out = tmp_path / "run"
    with pytest.raises(TrainingError) as stopped:
        train(out, "train.optimizer.lr=1e30")
    assert "the loss is not finite (" in str(stopped.value)
    assert "elbo" in str(stopped.value)
    assert "first in the layer encoder.layers." in str(stopped.value)
    assert "smaller train.optimizer.lr" in str(stopped.value)
    assert all(t.isfinite().all() and t.abs().max() < 1e6 for t in tensors(out / "state/model.safetensors").values())
    whole = train(tmp_path / "whole")
    train(out, "train.optimizer.lr=1e-3", resume=True)
    assert_same_run(whole.path, out)


def test_a_batch_that_memory_has_no_room_for(tmp_path):
    objective = ["model.objective.type=objectives.IWAE", "model.objective.draws=100000000000"]
    with pytest.raises(TrainingError, match=r"not enough for 32 images at a time; begin anew .*batch=16 --over"):
        train(tmp_path / "run", *objective)


@pytest.mark.parametrize(
    ("parameter", "layer"),
    [("encoder.layers.0.weight", "encoder.layers.0"), ("decoder.layers.2.bias", "decoder.layers.2")],
)
def test_a_value_that_is_not_finite_is_named(tmp_path, monkeypatch, parameter, layer):
    step = Loop._step

    def poisoned(loop: Loop):
        if loop.step == 33:
            loop.model.get_parameter(parameter).data.flatten()[0] = math.nan
        return step(loop)

    with monkeypatch.context() as m:
        m.setattr(Loop, "_step", poisoned)
        with pytest.raises(TrainingError) as stopped:
            train(tmp_path / "run", "train.save_seconds=1e-9")
    assert str(stopped.value).startswith("step 34: the loss is not finite (")
    assert f"first in the layer {layer}." in str(stopped.value)
    assert "of step 33" in str(stopped.value)
    train(tmp_path / "run", resume=True)
    assert_same_run(train(tmp_path / "whole").path, tmp_path / "run")


def test_a_gradient_that_is_not_finite_is_named(tmp_path, monkeypatch):
    loss = VAE._loss

    def poisoned(self: VAE, x: Any, y: Any = None, step: int = 0) -> Any:
        found = loss(self, x, y, step)
        first = next(self.encoder.parameters())
        return found._replace(value=found.value + (torch.sqrt(first * 0) if step == 12 else first).sum() * 0)

    monkeypatch.setattr(VAE, "_loss", poisoned)
    with pytest.raises(
        TrainingError, match=r"step 13: the gradient is not finite; first in the gradient of encoder\.lay"
    ):
        train(tmp_path / "run")


def test_training_leaves_the_callers_random_numbers_alone(tmp_path):
    before = torch.get_rng_state()
    train(tmp_path / "run", "train.steps=2")
    assert torch.equal(before, torch.get_rng_state())


def test_the_seed_decides(tmp_path):
    a, b, c = (train(tmp_path / n, "train.steps=3", seed=s).path for n, s in (("a", 1), ("b", 1), ("c", 2)))
    a, b, c = (tensors(run / "model.safetensors") for run in (a, b, c))
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert not any(torch.equal(a[k], c[k]) for k in a if "weight" in k)


def test_early_stopping(tmp_path, monkeypatch):
    bounds = iter([-9.0, -8.0, -8.5, -7.0, -7.5, -7.25, -7.1, -1.0])
    monkeypatch.setattr(Validation, "score", lambda validation: next(bounds))
    options = ["train.averaging=null", "train.valid_every=5", "train.patience=3"]
    out = train(tmp_path / "run", *options).path
    state = values(out / "state/model.safetensors")
    assert (state["step"], state["best"], state["finished"]) == (35, -7.0, True)
    told = Told()
    train(out, *options, told=told, resume=True)
    assert told.said == [f"{out} is finished; nothing to resume"]


def test_the_best_weights_are_kept(tmp_path, monkeypatch):
    bounds = iter([-9.0, -5.0, -8.0])
    monkeypatch.setattr(Validation, "score", lambda validation: next(bounds))
    long = train(tmp_path / "long", "train.averaging=null", "train.schedule=optimization.Constant").path
    bounds = iter([-9.0, -5.0])
    short = ["train.averaging=null", "train.schedule=optimization.Constant", "train.steps=40"]
    short = train(tmp_path / "short", *short).path
    a, b = tensors(long / "model.safetensors"), tensors(short / "state/model.safetensors")
    assert all(torch.equal(a[k], b[f"model.{k}"]) for k in a)


def test_a_bound_that_is_not_finite_on_the_validation_images(tmp_path, monkeypatch):
    monkeypatch.setattr(Validation, "score", lambda validation: math.nan)
    with pytest.raises(TrainingError, match="step 20: the bound on the validation images is not finite"):
        train(tmp_path / "run")


def test_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = train(tmp_path / "run", "train.tensorboard=true")
    (file,) = (run.path / "tensorboard").iterdir()
    events = EventAccumulator(str(file)).Reload()
    assert {"train/loss", "train/elbo", "valid/elbo"} <= set(events.Tags()["scalars"])
    assert [e.step for e in events.Scalars("valid/elbo")] == [20, 40, 60]


# --- averaging, schedules, clipping and skipping


def test_the_average_is_the_one_computed_by_hand():
    config, weight = Averaging(decay=0.9, every=2), torch.tensor([1.0], dtype=torch.float64)
    average, by_hand, updates = [weight.clone()], 1.0, 0
    for step in range(40):
        weight[0] = math.sin(step)
        config.update(average, [weight], step)
        if step % 2 == 1:
            updates += 1
            decay = min(0.9**2, (1 + updates) / (10 + updates))
            by_hand = decay * by_hand + (1 - decay) * math.sin(step)
    assert average[0].item() == pytest.approx(by_hand, rel=1e-12)


def test_the_average_is_what_is_saved(tmp_path, monkeypatch):
    seen, step = [], Loop._step

    def watched(loop: Loop):
        if not seen:
            seen.append(next(iter(loop.model.parameters())).detach().double().clone())
        out = step(loop)
        seen.append(next(iter(loop.model.parameters())).detach().double().clone())
        return out

    monkeypatch.setattr(Loop, "_step", watched)
    out = train(tmp_path / "run", "train.steps=20", "train.averaging.every=5", "train.averaging.decay=0.5").path
    average = seen[0]
    for n, i in enumerate((5, 10, 15, 20), start=1):
        decay = min(0.5**5, (1 + n) / (10 + n))
        average = decay * average + (1 - decay) * seen[i]
    saved = next(iter(v for k, v in tensors(out / "model.safetensors").items() if k == "encoder.layers.0.weight"))
    assert torch.allclose(average.float(), saved, atol=1e-6)


def test_schedules():
    assert [Constant(warmup=4).factor(s, 10) for s in (0, 1, 3, 4, 9)] == [0.25, 0.5, 1.0, 1.0, 1.0]
    cosine = Cosine(warmup=10, final=0.1)
    assert cosine.factor(9, 110) == 1.0
    assert cosine.factor(10, 110) == 1.0
    assert cosine.factor(60, 110) == pytest.approx(0.55)
    assert cosine.factor(110, 110) == pytest.approx(0.1)
    steps = Step(at=(0.5, 0.75), factor_each=0.1)
    assert [round(steps.factor(s, 100), 6) for s in (0, 49, 50, 74, 75, 99)] == [1, 1, 0.1, 0.1, 0.01, 0.01]


def test_the_schedule_reaches_the_optimizer(tmp_path):
    out = train(
        tmp_path / "run", "train.schedule={}", "train.schedule.type=optimization.Cosine", "train.log_every=10"
    ).path
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    rates = {line["step"]: line["lr"] for line in lines if line["split"] == "train"}
    # the line of step s is written after the step whose number, from 0, is s - 1
    assert rates == {s: pytest.approx(1e-3 * 0.5 * (1 + math.cos(math.pi * (s - 1) / 60))) for s in range(10, 61, 10)}


def stepped(
    optimizer: torch.optim.Optimizer, weight: nn.Parameter, guard: Guard | None, gradient: torch.Tensor
) -> None:
    optimizer.zero_grad()
    (weight * gradient).sum().backward()
    if guard is not None:
        guard.step([weight])
    else:
        nn.utils.clip_grad_norm_([weight], 1.0)
        optimizer.step()


@pytest.mark.parametrize("kind", [Adam, AdamW])
def test_clipping_is_that_of_torch(kind):
    torch.manual_seed(0)
    a, b = (nn.Parameter(torch.ones(50)) for _ in range(2))
    ours = kind(lr=0.1).build([a])
    theirs = kind(lr=0.1).build([b])
    guard = Guard(ours, clip=1.0, skip=None, device=CPU)
    for size in (0.01, 10.0, 0.1, 1000.0, 0.001):
        gradient = size * torch.randn(50)
        stepped(ours, a, guard, gradient)
        stepped(theirs, b, None, gradient)
        assert torch.allclose(a, b, atol=1e-5), size
    assert not torch.allclose(a, torch.ones(50), atol=0.05)
    assert guard.skipped == 0


def test_an_exploding_step_is_left_out_and_counted():
    weight = nn.Parameter(torch.zeros(4))
    optimizer = Adam(lr=0.1).build([weight])
    guard = Guard(optimizer, None, Skip(factor=5, window=10), CPU)
    for _ in range(20):
        stepped(optimizer, weight, guard, torch.ones(4))
    before, state = weight.detach().clone(), {k: v.clone() for k, v in optimizer.state[weight].items()}
    stepped(optimizer, weight, guard, torch.full((4,), 1e4))
    assert torch.equal(weight, before)
    assert all(torch.equal(state[k], v) for k, v in optimizer.state[weight].items())
    assert guard.skipped == 1
    stepped(optimizer, weight, guard, torch.full((4,), 4.0))
    assert not torch.equal(weight, before)
    assert guard.skipped == 1


def test_gradients_that_stay_large_are_taken_again():
    weight = nn.Parameter(torch.zeros(4))
    optimizer = Adam(lr=0.1).build([weight])
    guard = Guard(optimizer, None, Skip(factor=5, window=10), CPU)
    for size in [1.0] * 30 + [1e6] * 30:
        stepped(optimizer, weight, guard, torch.full((4,), size))
    assert 1 <= guard.skipped <= 6


def test_nothing_is_skipped_before_the_window_is_half_full():
    weight = nn.Parameter(torch.zeros(4))
    optimizer = Adam(lr=0.1).build([weight])
    guard = Guard(optimizer, None, Skip(factor=5, window=10), CPU)
    for size in (1.0, 1e3, 1.0, 1e3, 1.0):
        stepped(optimizer, weight, guard, torch.full((4,), size))
    assert guard.skipped == 0


def test_a_gradient_that_is_not_finite_never_moves_the_weights():
    weight = nn.Parameter(torch.zeros(4))
    optimizer = Adam(lr=0.1).build([weight])
    for skip in (None, Skip(window=4)):
        guard = Guard(optimizer, 1.0, skip, CPU)
        for _ in range(10):
            stepped(optimizer, weight, guard, torch.tensor([1.0, math.nan, 1.0, math.inf]))
        assert torch.equal(weight, torch.zeros(4))
        assert guard.skipped == 10


def test_skipped_steps_are_in_the_log(tmp_path, monkeypatch):
    loss = VAE._loss

    def spiked(self: VAE, x: Any, y: Any = None, step: int = 0) -> Any:
        found = loss(self, x, y, step)
        return found._replace(value=found.value * (1e6 if step in (40, 50) else 1.0))

    monkeypatch.setattr(VAE, "_loss", spiked)
    out = train(tmp_path / "run", "train.skip.window=20").path
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    skipped = {line["step"]: line["skipped"] for line in lines if line["split"] == "train"}
    assert (skipped[35], skipped[42], skipped[60]) == (0, 1, 2)


# --- batches


def batches(x: np.ndarray, levels: int = 256, **options: Any) -> Batches:
    return Batches(Images("test", "train", x, levels), CPU, **options)


def numbered(n: int) -> np.ndarray:
    return np.arange(n, dtype=np.uint8).reshape(n, 1, 1, 1)


@pytest.mark.parametrize(("n", "size"), [(10, 3), (12, 4), (7, 20), (1, 3)])
def test_every_image_comes_once_in_each_epoch(n, size):
    data, stream = batches(numbered(n)), []
    for step in range(math.ceil(5 * n / size)):
        x, _ = data.training(step, size, seed=0)
        assert len(x) == size
        stream += x.flatten().tolist()
    epochs = [stream[i : i + n] for i in range(0, 5 * n, n)]
    assert all(sorted(epoch) == list(range(n)) for epoch in epochs)
    if n > 5:
        assert len({tuple(epoch) for epoch in epochs}) == 5


def test_the_order_is_a_function_of_seed_and_step_alone():
    walked, jumped = batches(numbered(50)), batches(numbered(50))
    walk = [walked.training(step, 8, seed=3)[0] for step in range(30)]
    assert torch.equal(jumped.training(29, 8, seed=3)[0], walk[29])
    assert torch.equal(jumped.training(4, 8, seed=3)[0], walk[4])
    assert not torch.equal(jumped.training(4, 8, seed=4)[0], walk[4])


def test_binary_draws_are_fresh_in_training_and_fixed_in_measuring():
    grey = np.random.default_rng(0).integers(0, 256, (40, 1, 8, 8), dtype=np.uint8)
    data = batches(grey, binarize=True)
    drawn = []
    for step in (0, 1):
        torch.manual_seed(step)
        drawn.append(data.training(step, 40, 0)[0][torch.argsort(data.shuffled(step * 40, 40, 0))])
    assert not torch.equal(*drawn)
    (a,), (b,) = list(data.in_order(40)), list(batches(grey, binarize=True).in_order(40))
    assert torch.equal(a.x, b.x)
    assert torch.equal(torch.cat([batch.x for batch in data.in_order(7)]), a.x)
    assert a.x.dtype == torch.uint8
    assert a.x.max() == 1
    assert torch.equal(next(iter(data.in_order(7, 5))).x, a.x[:5])


@pytest.mark.parametrize("levels", [17, 256])
def test_the_mean_of_binary_draws_is_the_grey_value(levels):
    """Every level within 4.5 standard errors, and all of them together by chi-squared; 0 and the highest never vary."""
    side = 64
    grey = np.repeat(np.arange(levels, dtype=np.uint8), side * side).reshape(levels, 1, side, side)
    p, n = np.arange(levels) / (levels - 1), side * side
    torch.manual_seed(0)
    data = batches(grey, levels, binarize=True)
    index = data.shuffled(0, levels, 0)
    trained = torch.empty(levels)
    trained[index] = data.training(0, levels, 0)[0].float().mean((1, 2, 3))
    measured = binarized(torch.from_numpy(grey), levels, np.arange(levels)).float().mean((1, 2, 3))
    for mean in (trained.double().numpy(), measured.double().numpy()):
        assert (mean[0], mean[-1]) == (0, 1)
        z = (mean - p)[1:-1] / np.sqrt(p * (1 - p) / n)[1:-1]
        assert np.abs(z).max() < 4.5
        assert abs((z**2).sum() - len(z)) < 4 * math.sqrt(2 * len(z))


def test_half_of_the_images_are_mirrored():
    x = np.tile(np.arange(4, dtype=np.uint8), (2000, 1, 2, 1))
    torch.manual_seed(0)
    drawn, _ = batches(x, flip=True).training(0, 2000, 0)
    mirrored = (drawn[:, 0, 0, 0] == 3).sum().item()
    assert all(row.tolist() in ([0, 1, 2, 3], [3, 2, 1, 0]) for row in drawn[:, 0, 0])
    assert abs(mirrored - 1000) < 4 * math.sqrt(500)
    (batch,) = batches(x, flip=True).in_order(2000)
    assert torch.equal(batch.x, torch.from_numpy(x))


def test_the_length_of_a_training():
    def steps(**fields: Any) -> int:
        return recipes.Training(**fields).total_steps(1000)

    assert steps(steps=70) == 70
    assert steps(epochs=2, batch=100) == 20
    assert steps(epochs=2, steps=5, batch=100) == 5
    assert steps(epochs=0.001, batch=100) == 1
    with pytest.raises(ConfigError, match=r"set train\.steps or train\.epochs"):
        steps()


def test_the_data_of_a_binary_model_are_digits(tmp_path):
    run = train(tmp_path / "run", "train.steps=2")
    assert (run.facts.binarization, run.facts.space.levels) == ("dynamic", 2)
    assert Data(source="digits").open("train").levels == 17

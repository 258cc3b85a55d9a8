"""What the panels answer that watch a training, compare runs, and show what is wrong with one."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from websockets.sync.client import ClientConnection

import lowerbound as lb
from lowerbound.chunks import log_density
from lowerbound.errors import Interrupted, RunError, TrainingError
from lowerbound.processes import Owner
from lowerbound.progress import Progress, Report
from lowerbound.runs.inputs import as_batches, open_data
from lowerbound.runs.log import Following
from lowerbound.runs.run import Run
from lowerbound.training.train import train as run_training
from lowerbound.units import bits_per_dim
from lowerbound.verbs.doctor.doctor import NAMES, looked_at
from pages import Answered, Page, ask, read, serving, tiny

CPU = torch.device("cpu")
QUICK = ["model.encoder.hidden=[32]", "model.decoder.hidden=[32]", "model.latent=4", "train.batch=64"]


@pytest.fixture(scope="module")
def runs(surroundings: None, tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """Digits; the same, collapsed; images of another size."""
    folder = tmp_path_factory.mktemp("runs")
    collapsed = run_training(
        "vae", out=folder / "collapsed", changes=[*QUICK, "train.steps=80", "model.objective.beta=1000"]
    ).run
    np.savez(folder / "x.npz", x=np.random.default_rng(0).integers(0, 4, (60, 6, 6)).astype(np.uint8), levels=4)
    other = run_training(
        "vae", data=folder / "x.npz", out=folder / "other", changes=[*QUICK, "train.steps=5", "train.epochs=null"]
    ).run
    return [tiny(folder / "digits"), collapsed, other]


@pytest.fixture(scope="module")
def page(runs: list[Run]) -> Iterator[Page]:
    with serving(runs) as found:
        yield found


@pytest.fixture
def copy(runs: list[Run], tmp_path: Path) -> Run:
    shutil.copytree(runs[0].path, tmp_path / "run")
    return Run.open(tmp_path / "run")


class Watcher:
    """Somebody who follows a run."""

    def __init__(self, socket: ClientConnection, run: int = 0):
        self.socket = socket
        self.columns: dict[tuple[str, str], dict[str, list[float]]] = {}
        self.answers: list[Answered] = []
        socket.send(json.dumps({"id": 7, "panel": "training", "do": "follow", "run": run, "given": {}}))

    def hear(self) -> dict[str, Any]:
        """The next answer; its rows are added to what is known."""
        answer = read(self.socket.recv(30))  # pyright: ignore[reportArgumentType]
        self.answers.append(answer)
        if answer.said["anew"]:
            self.columns.clear()
        for i, group in enumerate(answer.said["groups"]):
            own = self.columns.setdefault((group["stage"], group["split"]), {})
            for name, values in zip(group["names"], answer.arrays[f"group{i}"].T, strict=True):
                own.setdefault(name, []).extend(values.tolist())
        return dict(answer.said)

    def until(self, done: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        for _ in range(60):
            if done(said := self.hear()):
                return said
        raise AssertionError(f"it does not come; the last was {self.answers[-1].said}")


def lines(run: Run) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run.log.path.read_text().splitlines()]


# ---- a log that is read on


def test_only_what_is_new_is_read_and_a_line_once_it_is_whole(tmp_path: Path):
    path = tmp_path / "log.jsonl"
    following = Following(lb.Run(tmp_path, "", None, None).log)  # pyright: ignore[reportArgumentType]
    assert following.more() == ([], False)
    first, second = ({"step": k, "stage": "a", "split": "train", "loss": 1.5 * k} for k in (1, 2))
    whole = json.dumps(second) + "\n"
    path.write_text(json.dumps(first) + "\n" + whole[:9])
    assert following.more() == ([first], False)
    assert following.more() == ([], False)
    with path.open("a") as file:
        file.write(whole[9:])
    assert following.more() == ([second], False)
    path.write_text(whole)  # cut, as when a stage starts over
    assert following.more() == ([second], True)
    path.unlink()
    assert following.more() == ([], True)
    assert following.more() == ([], False)


# ---- training


def test_the_curves_are_the_logs(page: Page, runs: list[Run]):
    with page.socket() as socket:
        watcher = Watcher(socket)
        said = watcher.hear()
    assert (said["how"], said["anew"]) == ("finished", False)
    assert said["stages"] == [{"name": "model", "step": 60, "steps": 60, "finished": True, "left": None}]
    logged = lines(runs[0])
    for split in ("train", "valid"):
        own = [r for r in logged if r["split"] == split]
        columns = watcher.columns["model", split]
        for name in set(own[0]) - {"stage", "split"}:
            assert columns[name] == [r[name] for r in own], name
        assert columns["bits_per_dim"] == pytest.approx([bits_per_dim(-r["elbo"], 64) for r in own])


def test_what_a_line_lacks_is_no_number(copy: Run):
    with copy.log.path.open("a") as file:
        file.write(json.dumps({"step": 61, "stage": "model", "split": "train", "loss": 2.5, "note": "x"}) + "\n")
    with serving([copy]) as page, page.socket() as socket:
        watcher = Watcher(socket)
        watcher.hear()
    columns = watcher.columns["model", "train"]
    assert columns["loss"][-1] == 2.5
    assert np.isnan(columns["elbo"][-1])
    assert "note" not in columns


def test_a_run_in_progress_grows_while_one_looks_on(surroundings: None, tmp_path: Path):
    """A process of its own trains, as a user would start it: 5 seconds, most of them to import torch."""
    out = tmp_path / "run"
    lb.Run.create(out, "vae", lb.Run.open("pretrained:vae").recipe, lb.Run.open("pretrained:vae").facts)
    words = [*QUICK, "train.steps=1500", "train.log_every=20", "train.valid_every=500"]
    code = f"import sys; sys.argv[1:] = {['train', 'vae', '--out', str(out), '--overwrite', *words]}; "
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(tmp_path)}
    with serving([Run.open(out)]) as page, page.socket() as socket:
        assert [p["name"] for p in page.ask("", "runs").said["runs"][0]["panels"]] == ["training", "doctor"]
        watcher = Watcher(socket)
        assert watcher.hear()["weights"] is None
        command = [sys.executable, "-c", f"{code}from lowerbound.cli import main; main()"]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        said = watcher.until(lambda said: said["how"] == "running" and len(said["groups"]) > 0)
        assert f"process {process.pid} " in said["text"]
        assert 0 < said["stages"][0]["step"] <= said["stages"][0]["steps"] == 1500
        seen = len(watcher.columns["model", "train"]["step"])
        watcher.until(lambda said: said["stages"][0]["finished"] and said["how"] == "finished")
        assert process.wait(60) == 0, process.stderr.read() if process.stderr else ""
        assert len(watcher.columns["model", "train"]["step"]) > seen > 0
        assert watcher.columns["model", "train"]["loss"] == [
            r["loss"] for r in lines(Run.open(out)) if r["split"] == "train"
        ]
        assert "compare" in [p["name"] for p in page.ask("", "runs").said["runs"][0]["panels"]]


def test_a_half_line_and_a_log_begun_anew(copy: Run):
    line = json.dumps({"step": 61, "stage": "model", "split": "train", "loss": 9.0}) + "\n"
    with serving([copy]) as page, page.socket() as socket:
        watcher = Watcher(socket)
        watcher.hear()
        before = len(watcher.columns["model", "train"]["step"])
        with copy.log.path.open("a") as file:
            file.write(line[:20])
            file.flush()
            time.sleep(1.2)  # it is looked at meanwhile
            file.write(line[20:])
        said = watcher.hear()
        assert len(watcher.columns["model", "train"]["step"]) == before + 1
        assert (watcher.columns["model", "train"]["loss"][-1], said["anew"]) == (9.0, False)
        copy.log.path.write_text(line)
        assert watcher.hear()["anew"]
        assert watcher.columns["model", "train"]["step"] == [61]


class Stopped(Progress):
    """Presses Ctrl-C at step 5."""

    @contextmanager
    def bar(self, total: int, start: int = 0) -> Iterator[Report]:
        yield lambda step, terms: signal.raise_signal(signal.SIGINT) if step == 5 else None


def test_why_a_run_goes_on_no_more(surroundings: None, tmp_path: Path):
    def said() -> dict[str, Any]:
        with serving([Run.open(out)]) as page, page.socket() as socket:
            return Watcher(socket).hear()

    out, changes = tmp_path / "run", [*QUICK, "train.steps=40", "train.log_every=2"]
    with pytest.raises(Interrupted):
        run_training("vae", out=out, changes=changes, progress=Stopped())
    stopped = said()
    assert (stopped["how"], stopped["stages"][0]["left"]) == ("interrupted", None)
    assert "--resume" in stopped["text"]
    with pytest.raises(TrainingError) as error:
        run_training("vae", out=out, changes=[*changes, "train.optimizer.lr=1e30", "train.clip=null"], overwrite=True)
    failed = said()
    assert failed["how"] == "failed"
    assert str(error.value) in failed["text"]
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (out / "lock.json").write_text(json.dumps(Owner.me()._replace(pid=dead.pid, started="before")._asdict()))
    Run.open(out).failure = None
    assert said()["how"] == "killed"
    (out / "lock.json").write_text(json.dumps(Owner.me()._asdict()))
    assert said()["how"] == "running"
    (out / "lock.json").unlink()
    run_training("vae", out=out, changes=changes, overwrite=True)
    assert said()["how"] == "finished", "what it once ended by is forgotten"


def test_a_run_that_is_removed_and_started_over_with_another_model(copy: Run):
    with serving([copy]) as page, page.socket() as socket:
        watcher = Watcher(socket)
        watcher.hear()
        kept = copy.path.rename(copy.path.with_name("kept"))
        assert watcher.until(lambda said: said["how"] == "gone")["stages"] == []
        for panel, do in (("compare", "measure"), ("doctor", "examine")):
            assert "no such run" in page.ask(panel, do, **({"runs": [0]} if panel == "compare" else {})).error
        run_training("vae", out=copy.path, changes=[*QUICK, "train.steps=7"])
        said = watcher.until(lambda said: said["how"] == "finished")
        assert (said["stages"][0]["steps"], page.ask("latent", "about").said["size"]) == (7, 4)
        assert max(watcher.columns["model", "train"]["step"]) == 7
        assert kept.is_dir()


def test_whoever_asks_again_is_followed_once(page: Page):
    with page.socket() as socket:
        Watcher(socket).hear()
        own = {"panel": "training", "do": "follow", "run": 0}
        socket.send(json.dumps({**own, "id": 8, "given": {}}))
        assert read(socket.recv(20)).document == {"id": 7, "dropped": True}  # pyright: ignore[reportArgumentType]
        assert read(socket.recv(20)).document["id"] == 8  # pyright: ignore[reportArgumentType]
        socket.send(json.dumps({**own, "id": 9, "given": {"on": False}}))
        ends = [read(socket.recv(20)).document for _ in range(2)]  # pyright: ignore[reportArgumentType]
        assert [(d["id"], d.get("dropped", False)) for d in ends] == [(8, True), (9, False)]
        assert ask(socket, "latent", "about").said["size"] == 20, "nobody is held up"


def test_the_pictures_of_a_run_and_no_other_file(page: Page, runs: list[Run]):
    with page.socket() as socket:
        names = [p["name"] for p in Watcher(socket).hear()["pictures"]]
    assert {"samples", "reconstructions"} <= set(names)
    assert "curves" not in names
    for name in names:
        png = page.ask("training", "picture", name=name).arrays["png"].tobytes()
        assert png == (runs[0].path / "pictures" / f"{name}.png").read_bytes()
    for name in ("../config", "curves", "", "/etc/passwd"):
        assert "no picture" in page.ask("training", "picture", name=name).error

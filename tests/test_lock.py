"""One process at a time writes into a run: real ones, some of them killed."""

import gc
import json
import os
import signal
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from command import call
from lowerbound.errors import RunError
from lowerbound.processes import Owner
from lowerbound.runs import lock
from test_train import Died, Told, assert_same_run, train

pytestmark = pytest.mark.usefixtures("surroundings")


class Waits(Told):
    """Stays at a step for ever."""

    @contextmanager
    def bar(self, total: int, start: int = 0) -> Any:
        def tell(step: int, terms: Any) -> None:
            while step == 30:
                time.sleep(0.01)

        yield tell


def training_elsewhere(out: Path) -> int:
    """The number of a process that trains, and has come to step 30."""
    pid = os.fork()
    if pid == 0:
        gc.freeze()  # what other tests have left is not to be cleared away where its threads are not
        try:
            train(out, "train.save_seconds=1e-9", told=Waits())
        finally:
            os._exit(1)
    deadline = time.monotonic() + 60
    while not (out / "state/model.safetensors").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return pid


def test_a_second_training_is_refused_and_a_killed_one_is_gone_on_with(tmp_path):
    out = tmp_path / "run"
    pid = training_elsewhere(out)
    try:
        before = {p: p.read_bytes() for p in out.rglob("config.json")}
        for options in ({"resume": True}, {"overwrite": True}):
            with pytest.raises(RunError, match=rf"is being written by another .*: process {pid} on .*, since 20"):
                train(out, **options)  # pyright: ignore[reportArgumentType]
        assert call("fit-prior", out).status == 2
        assert before == {p: p.read_bytes() for p in out.rglob("config.json")}
    finally:
        os.kill(pid, signal.SIGKILL)
    told = Told()
    deadline = time.monotonic() + 60
    while (holder := lock.holder(out)) is not None and not holder.is_gone and time.monotonic() < deadline:
        time.sleep(0.01)
    train(out, "train.save_seconds=60", resume=True, told=told)  # before anybody has waited for the killed one
    os.waitpid(pid, 0)
    assert f"{out} was left by process {pid} on" in "".join(told.said)
    assert_same_run(train(tmp_path / "whole").path, out)
    assert not (out / lock.NAME).exists()


@pytest.mark.parametrize(
    ("changes", "gone"),
    [({}, False), ({"started": "another boot/1"}, True), ({"pid": 2**22 + 1}, True), ({"host": "elsewhere"}, False)],
)
def test_whose_lock_is_stale(tmp_path, changes, gone):
    """A number given to another process since is another process; of another machine nothing can be known."""
    out, owner = tmp_path / "run", Owner.me()._replace(**changes)
    out.mkdir()
    (out / lock.NAME).write_text(json.dumps(owner._asdict()))
    told = Told()
    if gone:
        train(out, "train.steps=2", told=told)
        assert "was left by process" in told.said[0]
    else:
        with pytest.raises(RunError, match=r"is being written by another.*remove .*lock\.json"):
            train(out, "train.steps=2", told=told)


def test_a_lock_that_can_not_be_read_is_none(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / lock.NAME).write_text("{")
    assert lock.holder(tmp_path / "run") is None
    train(tmp_path / "run", "train.steps=2")
    assert (tmp_path / "run/model.safetensors").exists()
    assert not (tmp_path / "run" / lock.NAME).exists()


def test_a_training_that_fails_lets_go(tmp_path):
    told = Told(dies=5)
    with pytest.raises(Died):
        train(tmp_path / "run", told=told)
    assert lock.holder(tmp_path / "run") is None

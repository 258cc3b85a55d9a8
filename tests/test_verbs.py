"""A verb is one function: Python and the command line call the same, and a new one is a file and a line."""

import ast
import importlib
import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import lowerbound as lb
from command import call, right
from lowerbound.cli import Command, commands
from lowerbound.errors import ConfigError, RunError, UserError
from lowerbound.progress import Progress, Terminal
from lowerbound.runs.run import Run
from lowerbound.verbs.base import HELP, Report, assigned, by_level, numbers, range_of_two, verb

pytestmark = pytest.mark.usefixtures("surroundings", "here")
COMMANDS = list(commands())


def function(c: Command) -> Any:
    return getattr(importlib.import_module(f"lowerbound.{c.module}"), c.function)


@pytest.mark.parametrize("c", COMMANDS, ids=lambda c: " ".join(c.words))
def test_a_verb_is_a_public_name(c: Command):
    assert getattr(lb, c.function) is function(c), f"{c.function}: add a line to __init__.pyi"


@pytest.mark.parametrize("c", COMMANDS, ids=lambda c: " ".join(c.words))
def test_every_option_has_its_help(c: Command):
    documented = inspect.getdoc(function(c)) or ""
    args = documented.partition("Args:\n")[2]
    for name in inspect.signature(function(c)).parameters:
        assert name in {*HELP, "progress", "allow"} or f"    {name}: " in f"\n{args}", (
            f"{c.function}: Args says nothing of {name}"
        )


def test_every_file_of_verbs_is_a_verb_or_shared():
    found = {c.module.split(".")[1] for c in COMMANDS if c.module.startswith("verbs.")}
    folder = Path(inspect.getfile(importlib.import_module("lowerbound.verbs"))).parent
    there = {p.stem for p in folder.iterdir() if not p.name.startswith("__")}
    assert there == found | {"base", "tables"}


def test_public_names_are_those_of_the_stub():
    stub = Path(inspect.getfile(lb)).with_suffix(".pyi")
    named = [a.asname for node in ast.parse(stub.read_text()).body for a in getattr(node, "names", ())]
    assert sorted(named) == sorted(lb.__all__)
    for name in lb.__all__:
        assert getattr(lb, name) is not None
    with pytest.raises(AttributeError, match=r"attribute .*trian"):
        lb.trian  # noqa: B018


class Seen(Report):
    def __init__(self, **seen: Any):
        self.seen = seen

    def json(self) -> dict[str, Any]:
        return self.seen


@verb
def look(run: Run, /, n: int = 2, *, device: Any = "auto", seed: int = 0, progress: Any = False) -> Seen:
    return Seen(run=run, n=n, device=device, progress=progress)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return lb.train("ppca", data="digits", out=tmp_path_factory.mktemp("runs") / "ppca")


def test_the_decorator_opens_picks_and_makes(trained: Run):
    seen = look(str(trained.path), 3, device="cpu", progress=True)
    assert isinstance(seen["run"], Run)
    assert seen["n"] == 3
    assert seen["device"] == torch.device("cpu")
    assert isinstance(seen["progress"], Terminal)
    again = look(trained)
    assert again["run"] is trained
    assert type(again["progress"]) is Progress
    told = Progress()
    assert look(trained, progress=told)["progress"] is told


def test_mistakes(trained: Run):
    with pytest.raises(RunError, match="no such run"):
        look("nowhere")
    with pytest.raises(ConfigError, match="--device gpu: expected auto, cpu"):
        look(trained, device="gpu")
    with pytest.raises(ConfigError, match="--seed -1: expected a whole number of at least 0"):
        look(trained, seed=-1)
    with pytest.raises(TypeError, match="missing a required argument: 'run'"):
        look()  # pyright: ignore[reportCallIssue]
    assert call("evaluate", trained.path, "--seed", "-1").status == 2


def test_python_gives_what_the_command_prints(trained: Run):
    assert lb.evaluate(trained, draws=3) == right("evaluate", trained.path, "--draws", "3", "--json").json
    assert lb.doctor(trained) == right("doctor", trained.path, "--json").json
    assert lb.recipes().json() == right("recipes", "--json").json
    assert trained.report == json.loads(json.dumps(trained.json()))  # pyright: ignore[reportAttributeAccessIssue]


def test_words():
    assert by_level(float)("0.5", "--temperature") == 0.5
    assert by_level(int)("top=3,bottom=4", "--top-k") == {"top": 3, "bottom": 4}
    assert numbers(int)("0,2", "--dims") == [0, 2]
    assert assigned(int)(["3=0.5"], "--set") == {3: 0.5}
    assert assigned(default="1")(["smile"], "--direction") == {"smile": 1.0}
    assert range_of_two("-1,1", "--extractor-range") == (-1.0, 1.0)
    for wrong in (
        lambda: by_level(float)("top=", "--temperature"),
        lambda: by_level(int)("top=1,top=2", "--top-k"),
        lambda: numbers(int)("0,x", "--dims"),
        lambda: assigned(int)(["a=1"], "--set"),
        lambda: assigned(int)(["1=2", "1=3"], "--set"),
        lambda: range_of_two("1", "--extractor-range"),
    ):
        with pytest.raises(UserError, match="--"):
            wrong()


def test_a_fresh_seed_is_drawn_by_the_command_and_none_by_python(trained: Run, here: Path):
    seeds = {right("sample", trained.path, "-n", "1", "--out", "x.npz", "--json").json["seed"] for _ in range(2)}
    assert len(seeds) == 2
    assert lb.sample(trained, 1).seed == 0

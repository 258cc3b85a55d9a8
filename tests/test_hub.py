"""Runs handed on through a hub: one that speaks the Hugging Face hub's interface, on the loopback."""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

import lowerbound as lb
from command import call, right, some_digits
from hub_server import READS, WRITES, Hub
from lowerbound.errors import RunError
from lowerbound.exporting.card import BEGIN, END
from lowerbound.exporting.shared import save_pretrained
from lowerbound.runs import copies
from lowerbound.runs import hub as client
from lowerbound.runs.hub import Place
from lowerbound.runs.places import PRETRAINED
from lowerbound.runs.run import Run

pytestmark = [
    pytest.mark.usefixtures("surroundings", "here"),
    pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning"),  # of huggingface_hub, said of itself
]
NAME = "ann/digits"
HF = f"hf://{NAME}"
DRAW = ("sample", "-n", "1", "--out", "a.png")
MINE = "home-of-ann"  # a folder whose name nobody else is to learn


@pytest.fixture(scope="module")
def trained(surroundings: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A VAE trained on digits, with evaluations, in a folder of ann's where its data and those of a direction lay."""
    home = tmp_path_factory.mktemp(MINE)
    data, run = some_digits(home / "own.npz"), Path(shutil.copytree(PRETRAINED / "vae", home / "run"))
    values = json.loads((run / "config.json").read_text())
    values["config"]["data"]["source"] = str(data)
    (run / "config.json").write_text(json.dumps(values))
    shutil.copy(run / "evaluation" / "test.json", run / "evaluation" / "valid.json")
    (run / "evaluation" / "probe.json").write_text('{"results": []}')  # of another verb
    report = json.loads((run / "evaluation" / "test.json").read_text())
    (run / "evaluation" / "test.json").write_text(json.dumps(report | {"run": str(run)}))
    right("direction", run, "high", "--label", "1", "--data", data)
    return run


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / MINE / "run"))


@pytest.fixture(scope="module")
def bundle(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of the run as they are handed on."""
    return contents(save_pretrained(trained, tmp_path_factory.mktemp("bundle") / "digits"))


@pytest.fixture(scope="module")
def server() -> Iterator[Hub]:
    with Hub().serving() as hub:
        yield hub


@pytest.fixture
def hub(server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """The hub, empty, as ann sees it from a machine that has fetched nothing yet."""
    server.forget()
    address_of(server.url, monkeypatch)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setenv("HF_TOKEN", WRITES)
    new_machine(tmp_path / "machine", monkeypatch)
    return server


def address_of(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What HF_ENDPOINT is to a new process."""
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")


def new_machine(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With empty caches."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "hub"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    own, theirs = a.state_dict(), b.state_dict()
    return own.keys() == theirs.keys() and all(torch.equal(w, theirs[name]) for name, w in own.items())


def other_weights(run: Path) -> None:
    held = Run.open(run)
    model = held.load()
    with torch.no_grad():
        next(model.parameters()).add_(1.0)
    held.save_model(model)


# ---- there and back


def test_a_run_comes_back_bit_for_bit(hub: Hub, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    report = right("push", run, NAME, "--json").json
    assert (report["name"], report["changed"], report["private"]) == (HF, True, False)
    assert (report["url"], report["commit"]) == (f"{hub.url}/{NAME}", hub.repositories[NAME].branches["main"])
    sizes = {name: len(content) for name, content in hub.repositories[NAME].files().items()}
    assert report["files"] == {name: size for name, size in sizes.items() if name != ".gitattributes"}
    new_machine(tmp_path / "another", monkeypatch)
    monkeypatch.delenv("HF_TOKEN")  # it is public
    done = right("sample", HF, "-n", "4", "--seed", "3", "--out", tmp_path / "b.npz")
    assert f"{HF}: fetching {len(report['files'])} files" in done.err  # said before it is done
    right("sample", run, "-n", "4", "--seed", "3", "--out", tmp_path / "a.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert same(lb.load(run), theirs := lb.load(HF))
    assert theirs.directions["high"].fresh
    assert same(theirs, lb.from_pretrained(HF))
    opened = Run.open(HF)
    assert (opened.title, opened.place, opened.again().title) == (HF, HF, HF)  # not the cache's folder
    hub.asked.clear()
    right(*DRAW, HF)
    assert not any("/lfs/" in said for said in hub.asked)  # once is enough


def test_the_card_says_what_it_is(hub: Hub, run: Path):
    lb.push(run, NAME)
    text = hub.repositories[NAME].files()["README.md"].decode()
    metrics = json.loads((run / "evaluation" / "test.json").read_text())["metrics"]
    for name in ("nll", "bits_per_dim", "elbo"):
        m = metrics[name]
        row = f"| {name} | {m['relation']} | {m['value']:.5g} | {m['stderr']:.3g} | {m['unit']} | {m['draws']} |"
        assert row in text
    config = json.loads(hub.repositories[NAME].files()["config.json"])
    for part in (
        f'lb.load("{HF}")',
        "pip install 'lowerbound[hub]'",
        "recipe `vae`",
        "models.vae.VAE",
        "CC BY 4.0",
        f"lowerbound {config['version']}",
        "`<=`: its values of -log p(x) are upper bounds.",
        "float16",  # as the run itself says of its weights
    ):
        assert part in text
    assert "not at its end" not in text
    assert lb.push(run, "ann/half", half=True)["files"].keys() == lb.push(run, NAME)["files"].keys()
    assert "decoder 0.0002" in hub.repositories["ann/half"].files()["README.md"].decode()  # nothing is rounded twice


def test_nothing_of_the_machine_is_handed_on(hub: Hub, run: Path):
    assert MINE in Run.open(run).recipe.data.source  # where its data lay
    assert MINE in Run.open(run).directions(Run.open(run).load())["high"].report["learnt_from"]
    lb.push(run, NAME)
    files = hub.repositories[NAME].files()
    assert {"directions/high.safetensors", "evaluation/test.json", "evaluation/valid.json"} < files.keys()
    assert not [name for name, content in files.items() if MINE.encode() in content]
    assert b"1 against all others of own.npz" in files["directions/high.safetensors"]
    assert json.loads(files["config.json"])["config"]["data"]["source"] == "own.npz"


def test_a_second_push_finds_nothing_to_do(hub: Hub, run: Path):
    first = lb.push(run, NAME)
    hub.asked.clear()
    second = right("push", run, NAME)
    assert "nothing new" in second.out
    assert not [said for said in hub.asked if said.startswith("PUT") or "/commit/" in said]
    assert hub.repositories[NAME].branches["main"] == first["commit"]


def test_a_push_takes_the_place_of_the_run_alone(hub: Hub, run: Path):
    lb.push(run, NAME)
    repository = hub.repositories[NAME]
    files = repository.files()
    card = files["README.md"].decode().replace(f"# vae\n\n{BEGIN}", f"# Digits\n\nBy ann.\n\n{BEGIN}") + "\nThanks.\n"
    repository.commit(files | {"README.md": card.encode(), "grid.png": b"a picture"})
    other_weights(run)  # which the direction and the evaluations are not of
    done = right("push", run, NAME, "--message", "trained on")
    files = repository.files()
    assert files["grid.png"] == b"a picture"
    assert "directions/high.safetensors" not in files
    assert not any(name.startswith("evaluation/") for name in files)
    for name in ("evaluation/test.json", "directions/high.safetensors"):
        assert f"{name} is left out" in done.err
    after = files["README.md"].decode()
    assert "# Digits\n\nBy ann.\n" in after
    assert after.endswith(f"{END}\n\nThanks.\n")
    assert "Nothing is measured of these weights yet" in after
    assert "82.717" not in after  # what was measured of others
    assert repository.messages[repository.branches["main"]] == "trained on"


def test_a_training_that_is_not_at_its_end_is_said(hub: Hub, run: Path):
    held = Run.open(run)
    (stage,) = held.build().stages()
    held.save_state(stage.name, {}, {"step": 1200, "finished": False})
    lb.push(run, NAME)
    text = hub.repositories[NAME].files()["README.md"].decode()
    assert "It is not at its end: the stage model is after 1,200 steps." in text
    lb.push(HF, "ann/again")  # by one who only has what was handed on
    assert "after 1,200 steps" in hub.repositories["ann/again"].files()["README.md"].decode()
    held.save_state(stage.name, {}, {"step": 2000, "finished": True})
    lb.push(run, NAME)
    assert "not at its end" not in hub.repositories[NAME].files()["README.md"].decode()


def test_private_means_private(hub: Hub, run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    assert lb.push(run, NAME, private=True)["private"]
    assert same(lb.load(HF), lb.load(run))
    new_machine(tmp_path / "another", monkeypatch)
    monkeypatch.setenv("HF_TOKEN", READS)
    with pytest.raises(RunError, match="or a private one that your token may not read"):
        lb.load(HF)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(RunError, match="or a private one: then log in with `hf auth login`, or set HF_TOKEN"):
        lb.load(HF)
    monkeypatch.setenv("HF_TOKEN", WRITES)
    lb.push(run, "ann/public")
    with pytest.raises(RunError, match="ann/public is public already"):
        lb.push(run, "ann/public", private=True)


# ---- revisions, and what is kept


def test_a_branch_moves_and_a_commit_stays(hub: Hub, run: Path):
    first = lb.push(run, NAME)["commit"]
    was = lb.load(HF)
    other_weights(run)
    second = lb.push(run, NAME)["commit"]
    assert first != second
    assert same(lb.load(HF), lb.load(run))
    assert not same(lb.load(HF), was)
    assert same(lb.load(f"{HF}@{first}"), was)
    hub.asked.clear()
    assert same(lb.load(f"{HF}@{second}"), lb.load(run))
    assert not hub.asked  # a commit that was fetched can't be another


def test_a_branch_of_its_own(hub: Hub, run: Path):
    lb.push(run, NAME)
    main = lb.load(HF)
    other_weights(run)
    report = right("push", run, NAME, "--branch", "more/steps", "--json").json
    assert report["name"] == f"{HF}@more/steps"
    assert same(lb.load(f"{HF}@more/steps"), lb.load(run))
    assert same(lb.load(HF), main)
    assert f'lb.load("{HF}@more/steps")' in hub.repositories[NAME].files("more/steps")["README.md"].decode()


def test_what_was_fetched_is_there_without_a_network(hub: Hub, run: Path, monkeypatch: pytest.MonkeyPatch):
    lb.push(run, NAME)
    commit = hub.repositories[NAME].branches["main"]
    there = lb.load(f"{HF}@{commit}")
    lb.load(HF)  # by its branch it is known from now on
    hub.asked.clear()
    with monkeypatch.context() as m:
        m.setattr(constants, "HF_HUB_OFFLINE", True)
        assert same(lb.load(HF), there)
        assert f"as it was fetched last, commit {commit[:12]}" in right(*DRAW, HF).err
        with pytest.raises(RunError, match="ann/nothing: is not in the cache, and HF_HUB_OFFLINE is set"):
            lb.load("hf://ann/nothing")
        shutil.rmtree(Place(NAME).copy(commit))  # what lies in the hub's own cache is enough
        assert same(lb.load(HF), there)
        Path(constants.HF_HUB_CACHE, "models--ann--digits", "snapshots", commit, "model.safetensors").unlink()
        shutil.rmtree(Place(NAME).copy(commit))
        with pytest.raises(RunError, match="is in the cache in part"):
            lb.load(HF)
    assert not hub.asked


def test_a_hub_that_can_not_be_reached(hub: Hub, run: Path, monkeypatch: pytest.MonkeyPatch):
    lb.push(run, NAME)
    there = lb.load(HF)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}"
    with monkeypatch.context() as m:
        address_of(nobody, m)
        assert same(lb.load(HF), there)
        with pytest.raises(RunError, match=f"ann/other: is not in the cache, and {nobody} can't be reached"):
            lb.load("hf://ann/other")
        with pytest.raises(RunError, match=f"can't be pushed: {nobody} can't be reached"):
            lb.push(run, NAME)
    hub.faults += [("GET /api/models/ann/other", "wait"), ("GET /api/models/ann/digits", 503)]
    with monkeypatch.context() as m:
        m.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.2)
        with pytest.raises(RunError, match="can't be reached: timed out"):
            lb.load("hf://ann/other")
    assert "answers 503" in right(*DRAW, HF).err


# ---- what may go wrong, and what others may put there


def test_nothing_but_a_run_is_fetched(hub: Hub, bundle: dict[str, bytes]):
    evil = ("pytorch_model.bin", "evil.py", "state/main.safetensors", "directions/../../../evil.safetensors")
    evil += ("../../evil.json", "evaluation/../../../evil.json", "/etc/evil.json", "sub/config.json")
    hub.holds(NAME, bundle | dict.fromkeys(evil, b"evil"))
    assert lb.load(HF)
    assert not [said for said in hub.asked if "evil" in said or ".bin" in said or "state" in said or "sub" in said]
    (copy,) = Place(NAME).copy("0").parent.iterdir()
    assert contents(copy).keys() == bundle.keys()
    assert all(copies.IS_SHARED.fullmatch(name) for name in bundle)
    assert not any(copies.IS_SHARED.fullmatch(name) for name in evil)


def config(change: Callable[[dict], None]) -> Callable[[dict[str, bytes]], dict[str, bytes]]:
    def changed(files: dict[str, bytes]) -> dict[str, bytes]:
        values = json.loads(files["config.json"])
        change(values)
        return files | {"config.json": json.dumps(values).encode()}

    return changed


def without(name: str) -> Callable[[dict[str, bytes]], dict[str, bytes]]:
    return lambda files: {k: v for k, v in files.items() if k != name}


THEIRS = {
    "of another program": (lambda f: f | {"config.json": b'{"model_type": "bert"}'}, "its config.json is another pro"),
    "no JSON": (lambda f: f | {"config.json": b"\xff{"}, "its config.json is another program's"),
    "no config": (without("config.json"), "holds no run of lowerbound: it has no config.json"),
    "no weights": (without("model.safetensors"), "holds no run of lowerbound: it has no model.safetensors"),
    "pickled weights": (lambda f: f | {"model.safetensors": b"\x80\x02}q\x00."}, "is damaged"),
    "newer": (config(lambda v: v.update(format=99, version="9.0")), f"{HF} was made by lowerbound 9.0, newer than"),
    "a class of others": (config(lambda v: v["config"]["model"].update(type="os.system")), "no component 'os.system'"),
    "a class elsewhere": (
        config(lambda v: v["config"]["model"]["encoder"].update(type="pathlib.Path")),
        "no component 'pathlib.Path'",
    ),
    "cut short": (lambda f: f | {"model.safetensors": f["model.safetensors"][:-100]}, "is damaged"),
}


@pytest.mark.parametrize("kind", THEIRS)
def test_what_is_no_run_is_answered_in_a_sentence(hub: Hub, bundle: dict[str, bytes], kind: str, tmp_path: Path):
    change, answer = THEIRS[kind]
    hub.holds(NAME, change(bundle))
    done = call("sample", HF, "-n", "1", "--out", tmp_path / "a.png")
    assert (done.status, answer in done.err, "Traceback" in done.err) == (2, True, False), done.err
    assert "another" not in answer or not any("/lfs/" in said for said in hub.asked)  # before its weights are fetched


def test_files_larger_than_a_run_has_are_not_fetched(
    hub: Hub, bundle: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
):
    hub.holds(NAME, bundle | {"evaluation/train.json": b"[" + b" " * 100_000 + b"]"})
    monkeypatch.setattr(client, "LARGEST", 50_000)
    with pytest.raises(RunError, match=r"evaluation/train.json has 0.1 MB, more than any of a run; nothing is fetched"):
        lb.load(HF)
    assert not [said for said in hub.asked if "/resolve/" in said]
    hub.holds(NAME, bundle)
    monkeypatch.setattr(client, "free", lambda folder: 1000)
    with pytest.raises(RunError, match=r"has room for 0.0 MB"):
        lb.load(HF)
    assert not any("/lfs/" in said for said in hub.asked)


def test_a_file_that_breaks_off_is_no_run(hub: Hub, bundle: dict[str, bytes], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # that huggingface_hub waits before it asks again
    hub.holds(NAME, bundle)
    hub.faults += [("GET /lfs/", "truncate")]
    assert lb.load(HF)  # the rest is asked for
    hub.repositories[NAME].commit(bundle | {"model.safetensors": bundle["model.safetensors"] + b"0"})
    hub.faults += [("GET /lfs/", "break")] * 9
    with pytest.raises(RunError, match=f"{HF}: can't be fetched: "):
        lb.load(HF)
    hub.faults.clear()
    with pytest.raises(RunError, match="is damaged"):  # what is there is what came whole
        lb.load(HF)


def test_a_file_that_was_cut_short_on_this_machine(hub: Hub, bundle: dict[str, bytes]):
    commit = hub.holds(NAME, bundle).branches["main"]
    there = lb.load(HF)
    shutil.rmtree(Place(NAME).copy(commit))
    (blob,) = (p for p in Path(constants.HF_HUB_CACHE).rglob("blobs/*") if p.stat().st_size > 10**5)
    blob.write_bytes(blob.read_bytes()[:-9])
    assert same(lb.load(HF), there)  # fetched once more


def test_a_branch_that_moves_while_it_is_fetched(hub: Hub, run: Path, bundle: dict[str, bytes]):
    repository = hub.holds(NAME, bundle)
    other_weights(run)
    newer = contents(save_pretrained(run, run.parent / "newer"))
    hub.faults += [("HEAD /ann/digits/resolve/main/config.json", lambda: repository.commit(newer))]
    first = lb.load(HF)
    assert not hub.faults
    assert not same(first, lb.load(run))
    assert same(lb.load(HF), lb.load(run))


def test_many_may_fetch_at_once(hub: Hub, bundle: dict[str, bytes]):
    hub.holds(NAME, bundle)
    with ThreadPoolExecutor(4) as pool:
        first, *others = pool.map(lambda _: lb.load(HF), range(4))
    assert all(same(first, other) for other in others)
    (copy,) = Place(NAME).copy("0").parent.iterdir()  # and nothing half copied beside it
    assert contents(copy).keys() == bundle.keys()


def test_an_upload_that_was_interrupted_goes_on(hub: Hub, run: Path):
    hub.faults += [("/commit/", 400)]
    with pytest.raises(RunError, match=f"{HF}: can't be pushed: "):
        lb.push(run, NAME)
    assert hub.repositories[NAME].files().keys() == {".gitattributes"}  # nothing half written
    hub.asked.clear()
    assert lb.push(run, NAME)["changed"]
    assert not [said for said in hub.asked if said.startswith("PUT")]  # the weights are there
    assert same(lb.load(HF), lb.load(run))


def test_two_who_push_at_once_do_not_mix(hub: Hub, run: Path):
    repository = hub.holds(NAME, {})
    hub.faults += [("/commit/", lambda: repository.commit({"config.json": b"{}"}))]
    with pytest.raises(RunError, match="it was changed meanwhile; do it again"):
        lb.push(run, NAME)


def test_the_hub_says_no(hub: Hub, run: Path, bundle: dict[str, bytes], monkeypatch: pytest.MonkeyPatch):
    hub.holds(NAME, bundle)
    hub.holds("ann/gated", bundle, gated=True)
    hub.holds("ann/bert", {"config.json": b'{"model_type": "bert"}', "model.safetensors": b"", "vocab.txt": b"a"})
    hub.holds("ann/data", {"data.csv": b"a,b\n"})
    before = {name: dict(repository.branches) for name, repository in hub.repositories.items()}
    for token, name, answer in (
        (READS, "ann/nothing", "no such model at"),
        (READS, f"{NAME}@v9", "it has no revision v9"),
        (READS, "ann/gated", f"it is gated: accept its conditions at {hub.url}/ann/gated"),
        ("", "ann/gated", "and log in with `hf auth login`, or set HF_TOKEN"),
        ("hf_wrong", NAME, "your token is not valid"),
    ):
        monkeypatch.setenv("HF_TOKEN", token)
        done = call("sample", f"hf://{name}", "--out", "a.png")
        assert (done.status, answer in done.err) == (2, True), done.err
    for token, name, answer in (
        ("", "ann/new", "to push needs a token"),
        ("hf_wrong", "ann/new", "your token is not valid"),
        (READS, "ann/new", "one that may write to ann is made at"),
        (READS, NAME, "one that may write to ann is made at"),
        (WRITES, "ann/bert", "holds something else: config.json, model.safetensors, vocab.txt; choose another name"),
        (WRITES, "ann/data", "holds something else: data.csv"),
    ):
        monkeypatch.setenv("HF_TOKEN", token)
        done = call("push", run, name)
        assert (done.status, answer in done.err) == (2, True), done.err
    assert {name: repository.branches for name, repository in hub.repositories.items()} == before


@pytest.mark.parametrize(
    "name", ["digits", "ann/", "/digits", "ann/a/b", "ann/a b", "ann/..", "../digits", "ann/a@", ""]
)
def test_names_that_are_none(hub: Hub, run: Path, name: str):
    for words in (("push", run, name), ("sample", f"hf://{name}", "--out", "a.png")):
        done = call(*words)
        assert (done.status, "expected USER/NAME of the hub, as in hf://ann/digits" in done.err) == (2, True), done.err
    assert not hub.asked


def test_names_that_are_some():
    assert Place.of("hf://ann/digits") == Place.of("hf:/ann/digits") == Place.of("ann/digits/") == Place(NAME)
    assert Place.of("hf://ann/my.digits-2@refs/pr/1") == Place("ann/my.digits-2", "refs/pr/1")


def test_what_can_not_be_pushed(hub: Hub, run: Path, monkeypatch: pytest.MonkeyPatch):
    done = call("push", run, f"{NAME}@a", "--branch", "b")
    assert "--branch b" in done.err
    assert "is a commit" in call("push", run, NAME, "--branch", "0" * 40).err
    (run / "model.safetensors").unlink()
    assert "has no weights yet" in call("push", run, NAME).err
    assert "no such run" in call("push", run.parent / "nothing", NAME).err
    assert "is no folder" in call("train", "vae", "--out", HF).err
    assert not hub.repositories
    for module in [m for m in sys.modules if m.partition(".")[0] == "huggingface_hub"]:
        monkeypatch.setitem(sys.modules, module, None)
    for words in (("push", run, NAME), (*DRAW, HF)):
        assert "pip install 'lowerbound[hub]'" in call(*words).err


def test_which_weights_an_evaluation_is_of(hub: Hub, run: Path):
    """By what it says itself; its age tells where it says nothing."""
    right("evaluate", run, "--draws", "2", "--data", "digits")  # in the place of test.json, which said nothing
    for path in run.glob("evaluation/*.json"):
        os.utime(path, (1, 1))  # older than the weights, as after a copy
    names = lb.push(run, NAME)["files"].keys()
    assert {name for name in names if name.startswith("evaluation/")} == {"evaluation/test.json"}
    other_weights(run)
    for path in run.glob("evaluation/*.json"):
        path.touch()
    names = lb.push(run, NAME)["files"].keys()
    assert {name for name in names if name.startswith("evaluation/")} == {"evaluation/valid.json"}


@pytest.mark.slow  # trains in a process of its own, and loads in another
def test_two_machines(server: Hub, tmp_path: Path):
    server.forget()

    def process(name: str, *words: str) -> str:
        home = {"HOME": str(tmp_path / name), "XDG_CACHE_HOME": str(tmp_path / name / "cache"), "HF_TOKEN": WRITES}
        env = {k: v for k, v in os.environ.items() if not k.startswith("HF_")} | home
        env |= {"HF_ENDPOINT": server.url, "HF_HUB_DISABLE_XET": "1"}
        done = subprocess.run(
            [sys.executable, "-c", "from lowerbound.cli import main; main()", *words],
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    process("a", "train", "vae", "--out", "run", "train.steps=100")
    process("a", "push", "run", NAME)
    process("b", "sample", HF, "-n", "4", "--seed", "1", "--out", "b.npz")
    process("a", "sample", "run", "-n", "4", "--seed", "1", "--out", "a.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert "evaluation/valid.json" in server.repositories[NAME].files()  # which training itself made
    text = "".join(c.decode(errors="replace") for c in server.repositories[NAME].files().values())
    assert str(tmp_path) not in text

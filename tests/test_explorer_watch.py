"""What the panels answer that watch a training, compare runs, and show what is wrong with one."""

import io
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
from PIL import Image
from websockets.sync.client import ClientConnection

import lowerbound as lb
from lowerbound.chunks import log_density
from lowerbound.errors import Interrupted, RunError, TrainingError
from lowerbound.explorer.watching import Watched
from lowerbound.processes import Owner
from lowerbound.progress import Progress, Report
from lowerbound.runs.inputs import as_batches, open_data
from lowerbound.runs.log import Following
from lowerbound.runs.run import Run
from lowerbound.training.train import train as run_training
from lowerbound.units import bits_per_dim
from lowerbound.verbs.doctor.doctor import NAMES
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
    """A process of its own trains, as a user would start it: over 5 seconds, most of them to import torch."""
    out, bundled = tmp_path / "run", Run.open("pretrained:vae")
    Run.create(out, "vae", bundled.recipe, bundled.facts)
    words = [*QUICK, "train.steps=100000", "train.epochs=null", "train.log_every=20", "train.valid_every=200"]
    code = f"import sys; sys.argv[1:] = {['train', 'vae', '--out', str(out), '--overwrite', *words]}; "
    command = [sys.executable, "-c", f"{code}from lowerbound.cli import main; main()"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(tmp_path)}
    with serving([Run.open(out)]) as page, page.socket() as socket, (tmp_path / "said").open("w") as file:
        assert [p["name"] for p in page.ask("", "runs").said["runs"][0]["panels"]] == ["training", "doctor"]
        watcher = Watcher(socket)
        assert watcher.hear()["weights"] is None
        with subprocess.Popen(command, env=environment, stdout=file, stderr=file) as process:
            said = watcher.until(lambda said: said["how"] == "running" and len(said["groups"]) > 0)
            assert f"process {process.pid} " in said["text"]
            assert 0 < said["stages"][0]["step"] < said["stages"][0]["steps"] == 100_000
            seen = len(watcher.columns["model", "train"]["step"])
            later = watcher.until(lambda said: said["weights"] is not None and ("model", "valid") in watcher.columns)
            assert later["stages"][0]["left"] > 0
            process.send_signal(signal.SIGINT)
            said = watcher.until(lambda said: said["how"] == "interrupted")
        columns = watcher.columns["model", "train"]
        assert len(columns["step"]) > seen > 0
        assert columns["loss"] == [r["loss"] for r in lines(Run.open(out)) if r["split"] == "train"]
        assert said["stages"][0]["step"] >= columns["step"][-1]
        assert "compare" in [p["name"] for p in page.ask("", "runs").said["runs"][0]["panels"]]


def test_the_time_that_is_left_is_reckoned_by_this_training_alone(copy: Run):
    """40 steps of 60 at 2 steps a second; of a log begun anew, one line tells nothing yet."""
    shutil.rmtree(copy.path / "state")
    (copy.path / "model.safetensors").unlink()
    (copy.path / "lock.json").write_text(json.dumps(Owner.me()._asdict()))
    lines_of = [{"step": k, "stage": "model", "split": "train", "seconds": k / 2, "loss": 1.0} for k in (10, 20)]
    copy.log.path.write_text("".join(json.dumps(r) + "\n" for r in lines_of))
    watched = Watched(copy)
    first = watched.look()
    assert first is not None
    assert first.said["stages"][0]["left"] == pytest.approx(20)
    copy.log.path.write_text(json.dumps(lines_of[0] | {"step": 30, "seconds": 99.0}) + "\n")
    again = watched.look()
    assert again is not None
    assert (again.said["anew"], again.said["stages"][0]["left"]) == (True, None)


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
        if not watcher.columns:  # it was looked at before the line was there
            watcher.hear()
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
        socket.send(json.dumps({**own, "id": 9, "stop": True}))
        ends = [read(socket.recv(20)).document for _ in range(2)]  # pyright: ignore[reportArgumentType]
        assert [(d["id"], d.get("dropped", False), d.get("more", False)) for d in ends] == [
            (8, True, False),
            (9, False, False),
        ]
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


# ---- compare

LIKELIHOOD = ("nll", "bits_per_dim", "squared_error", "difference")


def answered(page: Page, panel: str, do: str, **given: Any) -> list[dict[str, Any]]:
    """All that comes, of a page of its own."""
    found = []
    with page.socket() as socket:
        socket.send(json.dumps({"id": 1, "panel": panel, "do": do, "run": 0, "given": given}))
        while (answer := read(socket.recv(60))).document.get("more"):  # pyright: ignore[reportArgumentType]
            found.append(dict(answer.said))
        assert "error" not in answer.document, answer.error
    return found


def test_the_table_is_that_of_the_command_at_every_count(page: Page, runs: list[Run]):
    tables = [a for a in answered(page, "compare", "measure", runs=[1, 0], draws=3, limit=40) if "runs" in a]
    assert [a["done"] for a in tables] == [16, 32, 40]
    for table in (tables[0], tables[-1]):
        report = lb.compare([runs[1], runs[0]], draws=3, limit=table["done"])
        assert table["reference"] == report["reference"] == "collapsed"
        for row, expected in zip(table["runs"], report["runs"], strict=True):
            for name in LIKELIHOOD:
                own, truth = row[name], expected[name]
                assert (own is None) == (truth is None)
                numbers = {k: v for k, v in (truth or {}).items() if isinstance(v, float)}
                assert {k: own[k] for k in numbers} == pytest.approx(numbers, rel=1e-5)
                assert {k: v for k, v in (own or {}).items() if k not in numbers} == {
                    k: v for k, v in (truth or {}).items() if k not in numbers
                }
            assert row["parameters"] == expected["parameters"]
            assert row["training"] == expected["training"]
        assert table["notes"] == report["notes"]


def test_a_saved_evaluation_is_taken_as_the_command_takes_it(copy: Run):
    lb.evaluate(copy, draws=2)
    with serving([copy]) as page:
        last = answered(page, "compare", "measure", runs=[0], draws=2)[-1]
    expected = lb.compare([copy], draws=2)["runs"][0]
    assert expected["saved_evaluation"]
    assert last["runs"][0]["saved_evaluation"]
    assert last["runs"][0]["nll"] == expected["nll"]


def test_all_are_measured_on_the_data_of_one(page: Page, runs: list[Run]):
    own = answered(page, "compare", "measure", runs=[0], draws=2, limit=16)[-1]["runs"]
    of_other = answered(page, "compare", "measure", runs=[0], draws=2, limit=16, data_of=1)[-1]["runs"]
    assert own == of_other, "both are of digits"
    with pytest.raises(RunError) as error:
        lb.compare([runs[2]], data="digits", limit=16)
    assert page.ask("compare", "measure", runs=[2], limit=16, data_of=0).error == str(error.value)


def test_what_can_not_be_compared_is_said_as_the_command_says_it(page: Page, runs: list[Run]):
    with pytest.raises(RunError, match="not the same pixels") as error:
        lb.compare([runs[0], runs[2]], limit=20)
    assert page.ask("compare", "measure", runs=[0, 2], limit=20).error == str(error.value)
    assert "given twice" in page.ask("compare", "measure", runs=[0, 0]).error
    assert "no run 9" in page.ask("compare", "measure", runs=[9]).error
    for wrong in ({"runs": []}, {"runs": [0], "draws": 0}, {"runs": [0], "limit": 0}, {"runs": [0], "split": "train"}):
        assert "compare.measure" in page.ask("compare", "measure", **wrong).error
    assert "expected upload:NAME or valid:NUMBER" in page.ask("compare", "through", image="/etc/passwd").error


def test_a_newer_table_takes_the_place_of_an_older(page: Page):
    with page.socket() as socket:
        own = {"panel": "compare", "do": "measure", "run": 0}
        socket.send(json.dumps({**own, "id": 1, "given": {"runs": [0, 1], "draws": 400}}))
        socket.send(json.dumps({**own, "id": 2, "given": {"runs": [0], "draws": 1, "limit": 16}}))
        documents = []
        while not (documents and documents[-1]["id"] == 2 and not documents[-1].get("more")):
            documents.append(read(socket.recv(60)).document)  # pyright: ignore[reportArgumentType]
    first = [d for d in documents if d["id"] == 1]
    assert first[-1].get("dropped"), "it went on to its end"


def test_samples_are_those_of_the_command(page: Page, runs: list[Run]):
    drawn = page.ask("compare", "draw", seed=3, count=4).arrays["pictures"]
    x = lb.sample(runs[0], n=4, seed=3, device="cpu").x
    expected = np.rint(np.moveaxis(x, 1, -1) * (255 / 16)).astype(np.uint8)
    np.testing.assert_array_equal(drawn, expected)


def test_an_image_is_worth_what_it_is_among_all(page: Page, runs: list[Run]):
    """Its noise is keyed by its place."""
    model, images = runs[0].load(), open_data(runs[0], "valid")
    with torch.no_grad():
        nll = -log_density(model, as_batches(runs[0], images.head(6), CPU), draws=7, seed=2)
    answer = page.ask("compare", "through", image="valid:5", draws=7, seed=2)
    assert answer.said["nll"]["value"] == pytest.approx(nll[5], rel=1e-5)
    assert (answer.said["nll"]["relation"], answer.said["nll"]["draws"]) == ("<=", 7)
    x = torch.from_numpy(images.x[5:6])
    error = (model.reconstruct(x) - x).detach().double() / 16
    assert answer.said["squared_error"] == pytest.approx(float(error.square().sum()), rel=1e-5)
    assert answer.arrays["error"].max() == np.rint(float(error.abs().max()) * 255)


def test_what_is_given_of_an_image_is_said(surroundings: None, tmp_path: Path):
    """Of the run's own images what the data say, of others what the model tells."""
    run = tiny(tmp_path / "labelled", label=True)
    images = open_data(run, "valid")
    assert images.y is not None
    assert images.classes is not None
    with serving([run]) as page:
        own = page.ask("compare", "through", image="valid:3", draws=2)
        file = io.BytesIO()
        Image.fromarray(images.x[3, 0] * 15).save(file, "PNG")
        _, answer = page.upload(file.getvalue())
        other = page.ask("compare", "through", image=answer["image"], draws=2)
        drawn = page.ask("compare", "draw", seed=1, count=4)
        unknown = page.ask("latent", "draw", seed=0, given={"label": "cat"}).error
    assert unknown.startswith("--label cat: no such class; known: 0, 1")
    assert own.said["given"] == {"label": images.classes[images.y[3]]}
    assert own.said["nll"]["given"] == "label"
    assert other.said["given"]["label"] in images.classes
    assert len(drawn.said["labels"]) == 4


# ---- doctor


def test_the_findings_are_those_of_the_command_each_with_what_shows_it(page: Page, runs: list[Run]):
    report = lb.doctor(runs[1])
    with page.socket() as socket:
        found = []
        socket.send(json.dumps({"id": 1, "panel": "doctor", "do": "examine", "run": 1, "given": {}}))
        while (answer := read(socket.recv(60))).document.get("more"):  # pyright: ignore[reportArgumentType]
            found.append(answer.said)
        shown = {f["name"]: ask(socket, "doctor", "show", 1, name=f["name"]) for f in report["findings"]}
        again = ask(socket, "doctor", "examine", 1)
    assert [look["part"] for look in found] == list(NAMES)
    assert [f for look in found for f in look["findings"]] == report["findings"]
    assert [name for look in found for name in look["checked"]] == [c["name"] for c in report["checked"]]
    assert {"latents.collapsed", "reconstructions.alike"} <= set(shown)
    assert "error" not in again.document, "it is not examined twice"
    bars, pictures = shown["latents.collapsed"].said["parts"]
    assert (bars["kind"], bars["bound"], pictures["kind"]) == ("bars", 0.01, "pictures")
    total = next(f["value"] for f in report["findings"] if f["name"] == "latents.collapsed")
    assert shown["latents.collapsed"].arrays["values0"].sum() == pytest.approx(total, rel=1e-4)
    model, d = runs[1].load(), int(pictures["names"][0].removeprefix("z"))
    z = model.encode(torch.from_numpy(open_data(runs[1], "valid").x[:1])).mean.detach().repeat(7, 1)
    z[:, d] = torch.linspace(-3, 3, 7)
    mean = model.decode(z).mean.detach().clamp(0, 16).movedim(1, -1) * (255 / 16)
    np.testing.assert_allclose(shown["latents.collapsed"].arrays["row0.1"], mean, atol=1)


def test_nothing_is_shown_of_what_was_not_examined(page: Page):
    assert "examine it again" in page.ask("doctor", "show", name="latents.collapsed").error


def test_a_run_without_weights_is_examined_as_far_as_it_goes(copy: Run):
    (copy.path / "model.safetensors").unlink()
    with serving([copy]) as page:
        found = answered(page, "doctor", "examine")
    assert [look["part"] for look in found] == ["training", "weights"]
    assert [f["name"] for look in found for f in look["findings"]] == ["weights.missing"]

"""A training in several stages: an autoencoder, its codes, kept on disk, and a prior over each level of them."""

import gc
import json
import os
import resource
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import lowerbound as lb
from command import call, right, tree
from lowerbound.config import override, parse
from lowerbound.data.base import Images
from lowerbound.data.batches import Batches
from lowerbound.errors import ConfigError, Interrupted, ModelError, RunError, UserError
from lowerbound.models.vqvae import VQVAE
from lowerbound.optimization import Averaging
from lowerbound.progress import Progress
from lowerbound.runs import recipes
from lowerbound.runs.recipes import Recipe, Training
from lowerbound.runs.run import Run
from lowerbound.sampling.sheets import Live
from lowerbound.space import Space
from lowerbound.stages import Prepare
from lowerbound.training import train as training
from lowerbound.training.loop import Loop
from lowerbound.training.prepared import Prepared, prepared
from lowerbound.training.validation import Validation
from test_train import Told, log, tensors, values

pytestmark = pytest.mark.usefixtures("surroundings")

CPU = torch.device("cpu")

RECIPE = """
[data]
source = "digits"

[model]
type = "models.vqvae.VQVAE"
width = 4
inner = 2
blocks = 1
likelihood = { type = "families.DiscretizedNormal" }

[[model.levels]]
factor = 4
quantizer = { type = "quantizers.VQ", codes = 6, dim = 2 }

[[model.levels]]
factor = 2
quantizer = { type = "quantizers.VQ", codes = 8, dim = 2 }

[[model.priors]]
type = "models.autoregressive.Autoregressive"
network = { type = "networks.made.MADE", hidden = [8] }
embedding = 3

[[model.priors]]
type = "models.autoregressive.Autoregressive"
network = { type = "networks.made.MADE", hidden = [8] }
embedding = 3
context = 4
context_blocks = 1

[train]
steps = 24
batch = 32
log_every = 5
valid_every = 12
valid_images = 50
optimizer = { type = "optimization.Adam", lr = 1e-3 }

[train.stages.prior]
steps = 12
batch = 16

[train.stages.prior.bottom]
steps = 18
"""
STAGES = ("autoencoder", "prior.top", "prior.bottom")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "tiny.toml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def whole(recipe: Path, tmp_path_factory: pytest.TempPathFactory, surroundings: None) -> Path:
    """A run of all stages, never stopped."""
    return train(recipe, tmp_path_factory.mktemp("whole") / "run").path


@pytest.fixture
def finished(whole: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    shutil.copytree(whole, tmp_path / "run")
    return tmp_path / "run"


def train(recipe: Path, out: Path, *changes: str, told: Progress | None = None, **options: Any) -> Run:
    return training.train(
        recipe, out=out, changes=list(changes), progress=told, device="cpu", pictures=Live, **options
    ).run


def same(a: Path, b: Path, stages: tuple[str, ...] = STAGES) -> None:
    """All but the pictures, of which there are more where there is more time."""
    for name in ("model", *(f"state/{stage}" for stage in stages)):
        old, new = (tensors(run / f"{name}.safetensors") for run in (a, b))
        assert old.keys() == new.keys()
        different = [k for k in old if not torch.equal(old[k], new[k])]
        assert not different, f"{name}: {different}"
    for stage in stages:
        old, new = (values(run / f"state/{stage}.safetensors") for run in (a, b))
        timely = ("seconds", "_logged_seconds")
        assert {k: v for k, v in old.items() if k not in timely} == {k: v for k, v in new.items() if k not in timely}
    assert log(a) == log(b)
    assert not [str(p) for p in b.rglob(".*")], "files half written are left"


def in_a_process(work: Callable[[], Any]) -> int:
    """The exit status of a process that does the work: 0 where it ends, minus the signal where it was killed."""
    pid = os.fork()
    if pid == 0:
        gc.freeze()  # what other tests have left is not to be cleared away where its threads are not
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def killed_at(m: pytest.MonkeyPatch, stage: str, step: int) -> None:
    taken = Loop._step

    def dying(loop: Any) -> Any:
        if (loop.stage.name, loop.step) == (stage, step):
            os.kill(os.getpid(), signal.SIGKILL)
        return taken(loop)

    m.setattr(Loop, "_step", dying)


def before_the_codes(m: pytest.MonkeyPatch, batch: int, act: Callable[[], None]) -> None:
    """Do something before a batch of images is turned into codes; of 256, the digits are 6 or 7 for training."""
    made, batches = VQVAE.codes, iter(range(1000))

    def codes(model: VQVAE, x: Tensor) -> tuple[Tensor, ...]:
        if next(batches) == batch:
            act()
        return made(model, x)

    m.setattr(VQVAE, "codes", codes)


# --- one after another, and killed


def test_stages_one_by_one_are_the_training_as_a_whole(recipe, whole, tmp_path):
    out = tmp_path / "run"
    run = train(recipe, out, stage="autoencoder")
    assert list(run.states()) == ["autoencoder"]
    assert run.is_finished()
    model = run.load()
    assert isinstance(model, VQVAE)
    assert (model.learned, model.can_sample, model.density.value) == ((False, False), False, "<=")
    said = call("sample", out, "-n", "4", "--out", tmp_path / "x.png")
    assert said.status == 2
    assert "prior.top and prior.bottom are not trained" in said.err
    assert "--resume" in said.err
    assert not (tmp_path / "x.png").exists()
    right("evaluate", out, "--split", "valid", "--limit", "20")
    shutil.rmtree(out / "evaluation", ignore_errors=True)
    told = Told()
    run = train(recipe, out, resume=True, told=told)
    assert told.said == ["stage autoencoder", "stage prior.top", "stage prior.bottom"]
    same(whole, out)
    assert run.is_finished()
    assert run.load().can_sample
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert list(dict.fromkeys(line["stage"] for line in lines)) == list(STAGES)


def test_priors_in_the_other_order(recipe, whole, tmp_path):
    """Each is trained on the images' codes, not on what the coarser draws. The last here from Python."""
    out = tmp_path / "run"
    for n, stage in enumerate(("autoencoder", "prior.bottom")):
        assert len(train(recipe, out, stage=stage, resume=n > 0).states()) == n + 1
    assert len(lb.train(recipe, out=out, stage="prior.top", resume=True, device="cpu").states()) == 3
    a, b = tensors(whole / "model.safetensors"), tensors(out / "model.safetensors")
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_killed_in_the_middle_of_every_stage(recipe, whole, tmp_path, monkeypatch):
    out = tmp_path / "run"
    places = [(stage, step) for stage in STAGES for step in (0, 7)] + [("autoencoder", 23), ("prior.bottom", 17)]
    for stage, step in sorted(places, key=lambda place: (STAGES.index(place[0]), place[1])):
        with monkeypatch.context() as m:
            killed_at(m, stage, step)
            again = lambda: train(recipe, out, "train.save_seconds=1e-9", resume=True)  # noqa: E731
            assert in_a_process(again) == -signal.SIGKILL, (stage, step)
    train(recipe, out, "train.save_seconds=60", resume=True)
    same(whole, out)


@pytest.mark.parametrize("batch", [1, 6])
def test_killed_while_the_codes_are_written(recipe, whole, tmp_path, monkeypatch, batch):
    out = tmp_path / "run"
    with monkeypatch.context() as m:
        before_the_codes(m, batch, lambda: os.kill(os.getpid(), signal.SIGKILL))
        assert in_a_process(lambda: train(recipe, out)) == -signal.SIGKILL
    (left,) = (out / "state").glob(".prepared-*")
    assert not (out / "state" / left.name.split(".")[1]).exists()
    train(recipe, out, resume=True)
    same(whole, out)


def test_ctrl_c_while_the_codes_are_written(recipe, whole, tmp_path, monkeypatch):
    out = tmp_path / "run"
    with monkeypatch.context() as m:
        before_the_codes(m, 2, lambda: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(Interrupted):
            train(recipe, out)
    kept = ["autoencoder.before.safetensors", "autoencoder.safetensors"]
    assert sorted(p.name for p in (out / "state").iterdir()) == kept
    train(recipe, out, resume=True)
    same(whole, out)


def test_a_full_disk_while_the_codes_are_written(recipe, whole, tmp_path, monkeypatch):
    """Told by the system, when files may be no larger than some of the codes."""
    out = tmp_path / "run"
    train(recipe, out, stage="autoencoder")
    before = tree(out)

    def filling() -> None:
        before_the_codes(monkeypatch, 0, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000)))
        with pytest.raises(UserError, match=r"can't write .*state/prepared-train: File too large"):
            train(recipe, out, resume=True)

    assert in_a_process(filling) == 0
    assert tree(out) == before | {"state/failed.json"}  # what it ended by
    train(recipe, out, resume=True)
    same(whole, out)


def test_a_stage_before_its_autoencoder(recipe, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(
        RunError, match=r"prior\.top: is trained on what the stage autoencoder gives.*stage autoencoder"
    ):
        train(recipe, out, stage="prior.top")
    assert not out.exists()
    told = Told(interrupts=9)
    with pytest.raises(Interrupted):
        train(recipe, out, stage="autoencoder", told=told)
    for options in ({"resume": True}, {"overwrite": True}):
        with pytest.raises(
            RunError, match=r"has not finished; train it with `lowerbound .* --stage autoencoder --resu"
        ):
            train(recipe, out, stage="prior.bottom", **options)
    assert values(out / "state/autoencoder.safetensors")["step"] == 9
    with pytest.raises(ConfigError, match=r"--stage prior\.botom: no such stage; did you mean prior\.bottom"):
        train(recipe, out, stage="prior.botom", resume=True)


# --- a stage that starts over


OTHER_BOTTOM = ["model.priors.1.network.hidden=[5]", "train.stages.prior.bottom.batch=8", "train.stages.prior.steps=12"]


def test_a_stage_that_starts_over_leaves_the_others_as_they_are(recipe, finished, whole, tmp_path, monkeypatch):
    (finished / "pictures").mkdir(exist_ok=True)
    (finished / "pictures/samples.png").write_bytes(b"of the former prior")
    (finished / "evaluation").mkdir(exist_ok=True)
    (finished / "evaluation/test.json").write_text("{}")
    killed = tmp_path / "killed"
    shutil.copytree(finished, killed)
    again: dict[str, Any] = {"stage": "prior.bottom", "overwrite": True}
    train(recipe, finished, *OTHER_BOTTOM, **again)
    a, b = tensors(whole / "model.safetensors"), tensors(finished / "model.safetensors")
    assert all(torch.equal(a[k], b[k]) for k in a if not k.startswith("priors.1."))
    assert a.keys() != b.keys()
    assert not (finished / "evaluation/test.json").exists()
    assert Run.open(finished).load().can_sample
    old, new = log(whole), log(finished)
    others = [line for line in old if '"prior.bottom"' not in line]
    assert [line for line in new if '"prior.bottom"' not in line] == others
    assert len(new) == len(old)

    with monkeypatch.context() as m:  # the same, killed
        killed_at(m, "prior.bottom", 5)
        assert in_a_process(lambda: train(recipe, killed, *OTHER_BOTTOM, **again)) == -signal.SIGKILL
    assert Run.open(killed).load().learned == (True, False)  # pyright: ignore[reportAttributeAccessIssue]
    assert not (killed / "pictures/samples.png").exists()
    train(recipe, killed, *OTHER_BOTTOM, resume=True)
    same(finished, killed)


@pytest.mark.parametrize("moment", ["forget_state", "forget_prior", "save_model", "save_config"])
def test_killed_while_a_stage_is_about_to_start_over(recipe, finished, monkeypatch, moment):
    """The autoencoder and the other prior are there whatever happens."""
    with monkeypatch.context() as m:
        m.setattr(Run, moment, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        again = lambda: train(recipe, finished, *OTHER_BOTTOM, stage="prior.bottom", overwrite=True)  # noqa: E731
        assert in_a_process(again) == -signal.SIGKILL
    assert Run.open(finished).load() is not None
    train(recipe, finished, *OTHER_BOTTOM, stage="prior.bottom", overwrite=True)
    assert Run.open(finished).load().can_sample


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("model.priors.0.embedding=5", r"model\.priors\.0\.embedding was 3, now 5"),
        ("model.width=8", r"model\.width was 4, now 8"),
        ("model.levels.1.quantizer.codes=9", r"model\.levels\.1\.quantizer\.codes was 8, now 9"),
        ("model.priors=[]", r"model\.priors\.0.*and \d+ more"),
        ("data.flip=true", r"data\.flip was false"),
        ("seed=3", "seed was 0"),
        ("train.batch=16", r"train\.batch was 32"),
        ("train.stages.prior.batch=8", r"train\.stages\.prior\.batch was 16, now 8"),
        ("train.stages.prior.top.batch=8", r"train\.stages\.prior\.top\.batch was null, now 8"),
        ("train.stages.prior.top.averaging.decay=0.5", r"train\.stages\.prior\.top\.averaging\.decay was null"),
        ("train.stages.prior.skip=null", r"train\.stages\.prior\.skip was null, now null"),
    ],
)
def test_what_is_not_the_stages_own_is_refused(recipe, finished, change, named):
    before = {p: p.stat().st_mtime_ns for p in finished.rglob("*")}
    with pytest.raises(ConfigError, match=named):
        train(recipe, finished, change, stage="prior.bottom", overwrite=True)
    assert before == {p: p.stat().st_mtime_ns for p in finished.rglob("*")}


def test_an_autoencoder_that_is_trained_further_leaves_its_priors_behind(recipe, finished, whole):
    shutil.copytree(finished / "state/prepared-train", finished.parent / "codes")
    train(recipe, finished, "train.steps=48", stage="autoencoder", resume=True)
    a, b = tensors(whole / "model.safetensors"), tensors(finished / "model.safetensors")
    assert not torch.equal(a["decoder.0.weight"], b["decoder.0.weight"])
    assert b["prior_learned"].tolist() == [False, False]
    with pytest.raises(ModelError, match="are not trained"):
        Run.open(finished).load().sample(2)
    with pytest.raises(RunError, match=r"stage prior\.top of .* other weights gave; .*--stage prior\.top --overwrite"):
        train(recipe, finished, resume=True)
    for stage in STAGES[1:]:
        train(recipe, finished, stage=stage, overwrite=True)
    old, new = (
        json.loads((f / "made_by.json").read_text()) for f in (finished.parent / "codes", prepared_train(finished))
    )
    assert old["weights"] != new["weights"]
    assert Run.open(finished).load().can_sample
    told = Told()
    train(recipe, finished, resume=True, told=told)
    assert told.said[-1] == f"{finished} is finished; nothing to resume"


def test_an_autoencoder_that_is_no_better_for_more_steps_keeps_its_priors(recipe, finished, whole, monkeypatch):
    monkeypatch.setattr(Validation, "score", lambda validation: -1e9)
    train(recipe, finished, "train.steps=30", stage="autoencoder", resume=True)
    a, b = tensors(whole / "model.safetensors"), tensors(finished / "model.safetensors")
    assert all(torch.equal(a[k], b[k]) for k in a)
    train(recipe, finished, resume=True)


def test_a_prior_that_is_trained_further(recipe, finished, whole, tmp_path):
    """As if it had been trained for so long at once, and the other prior stays."""
    train(recipe, finished, "train.stages.prior.top.steps=20", stage="prior.top", resume=True)
    at_once = train(recipe, tmp_path / "at once", "train.stages.prior.top.steps=20").path
    for stage in STAGES:
        a, b = (tensors(run / f"state/{stage}.safetensors") for run in (at_once, finished))
        assert all(torch.equal(a[k], b[k]) for k in a if k != "window")
    lines = log(finished)
    assert sum('"prior.bottom"' in line for line in lines) == sum('"prior.bottom"' in line for line in log(whole))


def test_all_can_be_overwritten(recipe, finished, whole):
    train(recipe, finished, overwrite=True)
    same(whole, finished)


# --- the codes on disk


def prepared_train(run: Path) -> Path:
    return run / "state/prepared-train"


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-10])


def other_codes(file: Path) -> None:
    codes = np.load(file)
    codes[3] = 200
    np.save(file, codes)


@pytest.mark.parametrize("name", ["bottom.npy", "top.npy", "made_by.json"])
@pytest.mark.parametrize("damage", [cut, Path.unlink, lambda file: file.write_bytes(b""), other_codes])
def test_codes_that_are_damaged_are_made_anew(whole, tmp_path, name, damage):
    if name.endswith("json") and damage is other_codes:
        return
    run = Run.open(whole)
    model = run.load()
    images = Batches(run.recipe.data.open("train"), CPU)
    prepare = model.stages()[1].prepare
    assert prepare is not None
    folder, made = tmp_path / "codes", []
    shutil.copytree(prepared_train(whole), folder)
    weights = json.loads((folder / "made_by.json").read_text())["weights"]
    kept = prepared(folder, images, prepare, weights, lambda done, total: made.append(done)).parts
    kept = [part.clone() for part in kept]  # they are mapped from the files
    assert not made
    damage(folder / name)
    new = prepared(folder, images, prepare, weights, lambda done, total: made.append((done, total)))
    assert made[-1] == (len(images), len(images))
    assert all(torch.equal(a, b) for a, b in zip(kept, new.parts, strict=True))
    assert torch.equal(new.parts[0].long(), torch.cat([model.codes(b.x)[0] for b in images.in_order(99)]))  # pyright: ignore
    assert sorted(p.name for p in folder.iterdir()) == ["bottom.npy", "made_by.json", "top.npy"]


def numbered(n: int, *, flip: bool = False) -> Batches:
    """Images of their number beside a zero, and the number as a label."""
    x = np.zeros((n, 1, 1, 2), np.uint8)
    x[:, 0, 0, 0] = np.arange(n)
    return Batches(Images("test", "train", x, 256, y=np.arange(n)), CPU, label=True, flip=flip)


def of_both(levels: int = 256) -> Prepare:
    """Their two pixels, as two parts."""

    def make(x: Tensor, y: Any) -> tuple[Tensor, ...]:
        return x[:, 0, 0, 0].long(), x[:, 0, 0, 1].long()

    def given(parts: tuple[Tensor, ...], y: Any) -> tuple[Tensor, Any]:
        return parts[1], (y, parts[0])

    space = Space((), levels=levels, ordered=False)
    return Prepare(("left", "right"), (space, space), make, given)


def pairs(data: Prepared) -> list[tuple[int, int, int]]:
    """(label, left, right) in order."""
    return [
        triple
        for batch in data.in_order(7)
        for triple in zip(batch.y[0].tolist(), batch.y[1].tolist(), batch.x.tolist(), strict=True)  # pyright: ignore
    ]


def test_mirrored_images_follow_the_others(tmp_path):
    told: list[tuple[int, int]] = []
    images = numbered(100, flip=True)
    data = prepared(tmp_path / "codes", images, of_both(), "w", lambda done, total: told.append((done, total)))
    assert told[-1] == (200, 200)
    assert pairs(data) == [(i, i, 0) for i in range(100)] + [(i, 0, i) for i in range(100)]
    drawn = []
    for step in range(20):
        right, (y, left) = data.training(step, 10, seed=0)
        drawn += zip(y.tolist(), left.tolist(), right.tolist(), strict=True)
    assert sorted(drawn) == sorted(pairs(data))
    assert drawn != pairs(data)
    assert len(list(data.in_order(30, 45))) == 2
    plain = prepared(tmp_path / "codes", numbered(100), of_both(), "w", lambda done, total: told.append((done, total)))
    assert told[-1] == (100, 100)
    assert pairs(plain) == [(i, i, 0) for i in range(100)]


@pytest.mark.parametrize(("levels", "dtype"), [(256, "uint8"), (257, "int16"), (2**15 + 1, "int32")])
def test_codes_are_kept_in_as_few_bytes_as_hold_them(tmp_path, levels, dtype):
    data = prepared(tmp_path / "codes", numbered(5), of_both(levels), "w", lambda done, total: None)
    assert np.load(tmp_path / "codes/left.npy").dtype == dtype
    assert pairs(data) == [(i, i, 0) for i in range(5)]
    assert next(data.in_order(5)).x.dtype == torch.int64


# --- the average


def test_an_averaged_codebook_is_saved(recipe, tmp_path, monkeypatch):
    """Its counts and sums are averaged as weights are, from the beginning."""
    seen, step = [], Loop._step

    def watched(loop: Any) -> Any:
        vq = loop.model.quantizers[1]
        if not seen:
            seen.append((vq.count.double().clone(), vq.total.double().clone()))
        done = step(loop)
        seen.append((vq.count.double().clone(), vq.total.double().clone()))
        return done

    monkeypatch.setattr(Loop, "_step", watched)
    changes = ("train.steps=20", "train.valid_every=20", "train.averaging.every=5", "train.averaging.decay=0.5")
    out = train(recipe, tmp_path / "run", *changes, stage="autoencoder").path
    saved = tensors(out / "model.safetensors")
    for part, name in enumerate(("count", "total")):
        average = seen[0][part]
        for n, i in enumerate((5, 10, 15, 20), start=1):
            average = torch.lerp(seen[i][part], average, min(0.5**5, (1 + n) / (10 + n)))
        assert torch.allclose(average.float(), saved[f"quantizers.1.{name}"], atol=1e-6)
        assert not torch.allclose(average, seen[-1][part], atol=1e-4)
    assert Averaging(decay=0.5).decay == 0.5


# --- configuration


def test_what_a_stage_is_trained_with():
    t = parse(
        Training,
        {
            "steps": 100,
            "batch": 10,
            "stages": {"prior": {"steps": 50, "optimizer": {"lr": 0.5}, "top": {"batch": 4, "optimizer": {"lr": 0.1}}}},
        },
    )
    top, bottom, first = t.of("prior.top"), t.of("prior.bottom"), t.of("autoencoder")
    assert (top.steps, top.batch, top.optimizer.lr) == (50, 4, 0.1)
    assert (bottom.steps, bottom.batch, bottom.optimizer.lr) == (50, 10, 0.5)
    assert (first.steps, first.batch) == (100, 10)
    assert top.stages == {}
    assert parse(Training, json.loads(t.model_dump_json())).of("prior.top") == top


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ({"prior": {"steps": 0}}, r"train\.stages\.prior\.steps: expected a whole number above 0 or null, got 0"),
        ({"prior": {"top": {"batch": "x"}}}, r"train\.stages\.prior\.top\.batch: expected a whole number above 0"),
        ({"prior": {"stesp": 5}}, r"train\.stages\.prior\.stesp: .*did you mean steps"),
        ({"steps": 5}, r"train\.stages\.steps: expected the table of a stage"),
        ({"prior": 5}, r"train\.stages\.prior: expected the table of a stage"),
        ({"prior": {"optimizer": {"lrr": 1}}}, r"train\.stages\.prior\.optimizer\.lrr: unknown key; did you mean lr"),
        ({"prior": {"stages": {"top": {}}}}, r"train\.stages\.prior\.stages"),
    ],
)
def test_mistakes_in_what_a_stage_is_trained_with(recipe, stages, message):
    with pytest.raises(ConfigError, match=message) as refused:
        recipes.load(recipe, {"train": {"stages": stages}})
    assert str(refused.value).count("train.stages") == 1


@pytest.mark.parametrize("name", ["prior.botom", "priors", "prior.top.x"])
def test_a_table_of_a_stage_that_is_not(recipe, tmp_path, name):
    """Its settings would do nothing."""
    with pytest.raises(ConfigError, match=rf"train\.stages\.{name}: no such stage"):
        train(recipe, tmp_path / "run", f"train.stages.{name}.steps=3")
    assert not (tmp_path / "run").exists()


def test_overrides_of_stages_and_levels(recipe):
    config = recipes.load(recipe, ["train.stages.prior.top.steps=5", "model.levels.0.quantizer.codes=16"])
    assert isinstance(config.model, VQVAE.Config)
    assert [config.train.of(stage).steps for stage in STAGES] == [24, 5, 18]
    assert [level.quantizer.codes for level in config.model.levels] == [16, 8]  # pyright: ignore
    changed = override(config, {"model": {"levels": {"1": {"quantizer": {"dim": 7}}}}})
    assert changed.model.levels[1].quantizer.dim == 7  # pyright: ignore
    assert isinstance(changed, Recipe)
    for change, message in (
        ("model.levels.7.factor=2", r"^model\.levels\.7: expected a number from 0 to 1"),
        ("model.levels.x.factor=2", r"^model\.levels\.x: expected a number from 0 to 1"),
        ("model.levels.0.facto=2", r"model\.levels\.0\.facto: unknown key; did you mean factor"),
        ("model.levels.0.factor=1", r"model\.levels\.0\.factor: expected a whole number above 1, got 1"),
        ("model.levels=[]", r"model\.levels: "),
    ):
        with pytest.raises(ConfigError, match=message):
            recipes.load(recipe, [change])


# --- mistakes on the command line, each one sentence, and nothing left behind


def folder_of_images(path: Path, n: int, *, size: tuple[int, int] = (8, 8), black: bool = False) -> Path:
    from PIL import Image

    path.mkdir()
    for i in range(n):
        pixels = np.zeros((*size, 3), np.uint8) if black else np.random.default_rng(i).integers(0, 256, (*size, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(path / f"{i}.png")
    return path


def refused(recipe: Path, out: Path, *words: str | Path) -> str:
    """What is said of a command that is refused."""
    done = call("train", recipe, "--out", out, "--device", "cpu", *words)
    assert done.status == 2, done.err
    assert "Traceback" not in done.err
    assert not out.exists()
    return done.err


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("data.size=10", "multiples of 4 (such as 8x8)"),
        ("data.label=true model.priors=[]", "only the priors of a VQVAE are given labels"),
        ("model.levels.0.factor=3", "model.levels.0.factor: expected a power of 2, got 3"),
        ("model.levels.0.factor=2", "expected factors that fall, the coarsest level first, got [2, 2]"),
        ("model.levels.0.factor=16", "multiples of 16"),
        ('model.priors=["models.autoregressive.Autoregressive"]', "one for each of the 2 levels, got 1"),
        ("model.priors.1.likelihood=families.LogisticMixture", "model.priors.1"),
        ("model.priors.1.type=models.flow.Flow", "model.priors.1: models.flow.Flow is over vectors"),
        ("model.likelihood=families.Nois", "did you mean families.Noiseless"),
        ("train.stages.prior.top.steps=-1", "train.stages.prior.top.steps: expected a whole number above 0"),
        ("--stage prior.top", "which"),
        ("--stage top", "no such stage"),
    ],
)
def test_mistakes(recipe, here, change, named):
    assert named in refused(recipe, here / "run", *change.split())


def test_a_label_for_a_model_without(whole, tmp_path):
    done = call("sample", whole, "-n", "2", "--label", "3", "--out", tmp_path / "x.png")
    assert done.status == 2
    assert "is not conditional" in done.err
    assert not (tmp_path / "x.png").exists()


def test_one_image(recipe, here):
    said = refused(recipe, here / "run", "--data", folder_of_images(here / "one", 1))
    assert len(said.splitlines()) == 1
    assert "1 image" in said


SHORT = ["train.steps=4", "train.stages.prior.steps=4", "train.stages.prior.bottom.steps=4", "--device", "cpu"]


@pytest.mark.parametrize(
    "changes",
    [
        ["train.batch=1", "model.levels.0.quantizer.codes=500"],  # far fewer vectors than codes
        ["model.levels.0.quantizer.codes=1", "model.levels.1.quantizer.codes=1"],
        ["model.likelihood.type=families.Noiseless", "model.likelihood.sigmoid=false"],
        ["data.label=true", "data.flip=true", "model.levels.0.quantizer.type=quantizers.FSQ"],
    ],
)
def test_unusual_ones_train(recipe, here, changes):
    right("train", recipe, "--out", here / "run", *SHORT, *changes)
    right("sample", here / "run", "-n", "3", "--out", here / "x.png")
    assert (here / "run/pictures/curves.png").exists()


def test_black_images(recipe, here):
    black = folder_of_images(here / "black", 30, black=True)
    right("train", recipe, "--out", here / "run", "--data", black, *SHORT)
    right("sample", here / "run", "-n", "3", "--out", here / "x.png")

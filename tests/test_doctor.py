"""The doctor finds what is broken on purpose, and nothing in what is sound."""

import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import lowerbound as lb
from command import call, right
from lowerbound.errors import Interrupted
from lowerbound.likeness import PixelFeatures, frechet
from lowerbound.models.vqvae import VQVAE
from lowerbound.progress import Progress, Report
from lowerbound.runs.inputs import as_batches, open_data
from lowerbound.training.train import train as run_training
from lowerbound.verbs.doctor.check import Check
from lowerbound.verbs.doctor.codes import Codes, Stages
from lowerbound.verbs.doctor.doctor import doctor, finding, looked_at
from lowerbound.verbs.doctor.encoded import Encoded, frechets
from lowerbound.verbs.doctor.evidence import Bars, Evidence, Histograms, Line
from lowerbound.verbs.doctor.labels import Labelled
from lowerbound.verbs.doctor.latents import Latents
from lowerbound.verbs.doctor.likelihoods import Likelihoods, histograms
from lowerbound.verbs.doctor.networks import Rectifiers
from lowerbound.verbs.doctor.pixels import Pixels
from lowerbound.verbs.doctor.reconstructions import Reconstructed
from lowerbound.verbs.doctor.samples import Drawn
from lowerbound.verbs.doctor.training import Trained

pytestmark = pytest.mark.usefixtures("surroundings", "here")

CPU = torch.device("cpu")
SMALL = [
    "model.encoder.hidden=[64]",
    "model.decoder.hidden=[64]",
    "model.latent=4",
    "train.steps=500",
    "train.optimizer.lr=4e-3",
]


def trained(out: Path | str, *changes: str, recipe: str = "vae", data: Path | None = None) -> lb.Run:
    small = SMALL if recipe == "vae" else []
    return run_training(recipe, data=data, out=out, changes=[*small, *changes], overwrite=True).run


def findings(run: lb.Run) -> dict[str, dict[str, Any]]:
    """All that is wrong, and of each there is something to be looked at."""
    checks = [check for look in looked_at(run, None, CPU, Progress()) for check in look.checks if check.wrong]
    for check in checks:
        parts = check.shows()
        assert parts or check.name in UNSEEN, check.name
        for part in parts:
            check_seen(part)
    return {check.name: finding(check) for check in checks}


UNSEEN = ("weights.missing", "training.model.damaged", "training.model.unfinished")


def check_seen(part: Evidence) -> None:
    if isinstance(part, Bars):
        assert len(part.names) == len(part.values) > 0
        assert np.isfinite(part.values).all()
    elif isinstance(part, Histograms):
        assert all(np.isfinite(each).all() for each in part.sets.values())
    elif isinstance(part, Line):
        assert len(part.x) == len(part.y) > 0
    else:
        assert all(0 < len(x) <= 8 and x.ndim == 4 for x in part.rows.values())


def problems(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return [name for name, f in found.items() if f["severity"] == "problem"]


def wrong(checks: list[Check]) -> set[str]:
    return {c.name for c in checks if c.wrong}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> lb.Run:
    return trained(tmp_path_factory.mktemp("sound") / "digits")


# ---- runs that are sound


def test_nothing_is_wrong_with_a_sound_run(sound: lb.Run):
    before = {p: p.stat().st_mtime_ns for p in sound.path.rglob("*")}
    report = lb.doctor(sound.path)
    assert report["findings"] == []
    assert report["data"] == {"name": "digits", "images": {"train": 1000, "valid": 149}}
    assert {c["name"].split(".")[0] for c in report["checked"]} == {
        *("training", "weights", "data", "likelihood", "latents", "reconstructions", "samples")
    }
    assert {p: p.stat().st_mtime_ns for p in sound.path.rglob("*")} == before, "it only looks"
    assert doctor(sound) == doctor(sound)


def test_the_same_numbers_each_time():
    """Of a model over codes given the label, whose samples and shuffled codes are drawn."""
    small = ["model.width=8", "model.inner=4", "train.steps=5", "train.stages.prior.steps=5"]
    run = trained("codes", *small, recipe="vqvae2-digits")
    first = dict(lb.doctor(run.path))
    assert "samples.below_shuffled" in {c["name"] for c in first["checked"]}
    torch.manual_seed(9)
    assert dict(lb.doctor(run.path)) == first


def test_the_floor_of_samples_is_that_of_other_training_images(here: Path):
    """Of noise, whose components fit the images that they are made of far better than others."""
    np.savez("noise.npz", x=np.random.default_rng(0).integers(0, 256, (700, 16, 16), dtype=np.uint8))
    small = ["model.width=8", "model.inner=4", "train.steps=1", "train.stages.prior.steps=1", "data.label=false"]
    run = trained("codes", *small, recipe="vqvae2-digits", data=Path("noise.npz"))
    model = run.load()
    assert isinstance(model, VQVAE)
    train, valid = (open_data(run, split) for split in ("train", "valid"))
    few = [Encoded.of(model, as_batches(run, part, CPU).in_order(64)) for part in (train.head(128), valid.head(64))]
    x, real = np.asarray(train.x), np.asarray(valid.x[:64])
    features = PixelFeatures(x[400:], 256, components=16)
    others = [frechet(features(part), features(real)) for part in np.split(x[:384], 6)]
    assert frechets(model, *few)["floor"] == pytest.approx(np.mean(others), rel=0.4)
    assert frechets(model, few[0], Encoded.of(model, as_batches(run, valid.head(1), CPU).in_order(1))) == {}


IWAE = ["model.objective=objectives.IWAE", "model.posterior=families.FullNormal"]
POINT = [
    "model.posterior=families.Point",
    "model.likelihood=families.Noiseless",
    "model.objective=objectives.Reconstruction",
]


@pytest.mark.parametrize(
    ("recipe", "changes"),
    [
        ("vae", POINT),
        pytest.param("vae", IWAE, marks=pytest.mark.slow),  # 6 s
        pytest.param("vae", ["data.label=true"], marks=pytest.mark.slow),  # 5 s
        ("ppca", []),
        ("made-mnist", ["data.source=digits", "model.likelihood=families.Categorical", "model.network.hidden=[200]"]),
        ("classifier", ["data.source=digits", "model.encoder.widths=[8, 8]"]),
    ],
    ids=["autoencoder", "iwae", "conditional", "ppca", "made", "classifier"],
)
def test_every_family_of_models_is_examined(recipe: str, changes: list[str]):
    if recipe in ("made-mnist", "classifier"):
        changes = [*changes, "train.epochs=null", "train.steps=200", "train.batch=128"]
    report = doctor(trained("run", *changes, recipe=recipe))
    assert problems({f["name"]: f for f in report["findings"]}) == []
    assert {"labels.guessed", "likelihood.overfitted", "reconstructions.blurry"} & {
        c["name"] for c in report["checked"]
    }


# ---- runs that are broken


def test_collapse():
    found = findings(trained("run", "model.objective.beta=1000"))
    assert {"latents.collapsed", "reconstructions.alike"} <= set(problems(found))
    assert found["latents.collapsed"]["remedy"] == "model.objective.beta=1"
    assert found["latents.collapsed"]["value"] < found["latents.collapsed"]["threshold"]
    assert "latents.unused" not in found, "said once"


def test_noise_that_vanished(sound: lb.Run, here: Path):
    def quiet(name: str, w: Any) -> None:
        if name == "encoder.layers.2.bias":
            w[4:] = -20  # the log-scales of the 4 latents

    found = findings(edited(sound, here / "run", quiet))
    assert found["latents.scales_at_bound"]["value"] > 0.9


def test_steps_that_are_too_large():
    found = findings(trained("run", "train.optimizer.lr=3", "train.steps=100"))
    assert {"likelihood.below_histograms", "likelihood.not_finite"} & set(problems(found))
    assert all("lr" in found[n]["remedy"] for n in found if n.startswith("likelihood."))


class Stopped(Progress):
    """Presses Ctrl-C at step 50."""

    @contextmanager
    def bar(self, total: int, start: int = 0) -> Iterator[Report]:
        yield lambda step, terms: signal.raise_signal(signal.SIGINT) if step == 50 else None


def test_a_training_that_was_stopped():
    with pytest.raises(Interrupted):
        run_training("vae", out="run", changes=SMALL, progress=Stopped())
    found = findings(lb.Run.open("run"))
    unfinished = found["training.model.unfinished"]
    assert (unfinished["severity"], unfinished["threshold"]) == ("problem", 500)
    assert 50 <= unfinished["value"] <= 52
    assert unfinished["remedy"].startswith("lowerbound train vae … --resume --out run")


def test_a_training_that_ended_too_early():
    steady = ["train.schedule=optimization.Constant", "train.averaging=null", "train.optimizer.lr=1e-3"]
    found = findings(trained("run", "train.steps=20", "train.valid_every=2", *steady))
    assert found["training.model.still_improving"]["remedy"].endswith("train.steps=40")


def edited(run: lb.Run, out: Path, change: Callable[[str, Any], None]) -> lb.Run:
    """A copy of a run whose weights were changed."""
    (out / "state").mkdir(parents=True)
    for name in ("config.json", "log.jsonl", "state/model.safetensors"):
        (out / name).write_bytes((run.path / name).read_bytes())
    weights = load_file(run.path / "model.safetensors")
    for name, w in weights.items():
        change(name, w)
    save_file(weights, out / "model.safetensors")
    return lb.Run.open(out)


def test_weights_that_are_not_finite(sound: lb.Run, here: Path):
    def spoil(name: str, w: Any) -> None:
        if name == "decoder.layers.0.weight":
            w[0, :2] = float("nan")

    found = findings(edited(sound, here / "run", spoil))
    assert list(found) == ["weights.not_finite"]
    assert found["weights.not_finite"]["value"] == 2
    assert "decoder.layers.0.weight" in found["weights.not_finite"]["message"]


def test_dead_units(here: Path):
    run = trained("relu", "model.encoder.activation=relu")

    def kill(name: str, w: Any) -> None:
        if name == "encoder.layers.0.bias":
            w[:40] = -1e3

    share = {f["name"]: f["value"] for f in doctor(edited(run, here / "run", kill))["findings"]}
    assert share["networks.dead_units"] >= 40 / 64
    assert "networks.dead_units" not in findings(run)


def test_weights_and_states_that_are_gone_or_damaged(sound: lb.Run, here: Path):
    run = edited(sound, here / "run", lambda name, w: None)
    (run.path / "state" / "model.safetensors").write_bytes(b"nothing")
    assert set(problems(findings(run))) >= {"training.model.damaged", "training.model.unfinished"}
    (run.path / "model.safetensors").unlink()
    assert "weights.missing" in problems(findings(run))


@pytest.mark.parametrize(
    ("scale", "remedy"), [(1, "data.levels=2"), (255, "an .npz with x // 255 and levels=2")], ids=["0, 1", "0, 255"]
)
def test_levels_that_never_come(scale: int, remedy: str, here: Path):
    x = np.random.default_rng(0).integers(0, 2, (300, 6, 6)) * scale
    np.savez(here / "data.npz", x=x.astype(np.uint8))
    found = findings(trained("run", "train.steps=20", data=here / "data.npz"))
    assert (found["data.levels"]["severity"], found["data.levels"]["remedy"]) == ("problem", remedy)
    assert found["data.levels"]["value"] == 2
    right_levels = trained("run", "train.steps=20", *(["data.levels=2"] if scale == 1 else []), data=here / "data.npz")
    assert ("data.levels" in findings(right_levels)) == (scale == 255)


def test_constant_images_and_rare_classes(here: Path):
    x = np.random.default_rng(0).integers(0, 256, (400, 6, 6))
    x[:40] = 7
    np.savez(here / "data.npz", x=x.astype(np.uint8), y=(np.arange(400) % 50 == 0).astype(int))
    found = findings(trained("run", "train.steps=20", "data.label=true", data=here / "data.npz"))
    assert {"data.constant_images", "data.classes"} <= set(found)


def test_labels_that_mean_nothing(here: Path):
    rng = np.random.default_rng(0)
    np.savez(here / "data.npz", x=rng.integers(0, 256, (600, 8, 8)).astype(np.uint8), y=rng.integers(0, 3, 600))
    changes = ["train.epochs=null", "train.steps=150", "model.encoder.widths=[8, 8]"]
    found = findings(trained("run", *changes, recipe="classifier", data=here / "data.npz"))
    assert "labels.guessed" in problems(found)


# ---- the command


def test_command(sound: lb.Run, here: Path):
    done = right("doctor", sound.path, "--strict")
    assert "nothing wrong found" in done.out
    assert "latents.collapsed" in done.out, "what was checked"
    broken = edited(sound, here / "broken", lambda name, w: w.fill_(float("nan")))
    assert right("doctor", broken.path, "--json").json["findings"][0]["name"] == "weights.not_finite"
    assert call("doctor", broken.path, "--strict").status == 1
    text = right("doctor", broken.path).out
    assert "problem" in text
    assert "--resume" in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["runs/none"], "runs/none: no such run"),
        (["run", "--data", "none.npz"], "none.npz"),
        (["run", "--device", "tpu"], "--device tpu: expected auto, cpu"),
        (["run", "--strictly"], "--strictly"),
        ([], "RUN"),
    ],
)
def test_command_says_what_is_wrong_with_itself(words: list[str], said: str, sound: lb.Run, here: Path):
    edited(sound, here / "run", lambda name, w: None)
    done = call("doctor", *words)
    assert done.status == 2
    assert said in done.err
    assert len(done.err.splitlines()) == 1


# ---- numbers alone

WELL = Trained(
    stage="model",
    step=100,
    steps=100,
    finished=True,
    skipped=0,
    scores=tuple((s, -100 - 100 / s) for s in range(5, 101, 5)),
    resume="lowerbound train",
    longer="train.steps=200",
    calmer="train.optimizer.lr=1e-4",
)


@pytest.mark.parametrize(
    ("trained", "what"),
    [
        (WELL, set()),
        (replace(WELL, finished=False), {"unfinished"}),
        (replace(WELL, skipped=3), {"skipped"}),
        (replace(WELL, scores=tuple((s, -200.0 + s) for s in range(5, 101, 5))), {"still_improving"}),
        (replace(WELL, scores=tuple((s, -100.0 - s / 5) for s in range(5, 101, 5))), {"past_its_best"}),
        (replace(WELL, scores=((100, -1.0),)), set()),
        (replace(WELL, scores=()), set()),
    ],
)
def test_trained(trained: Trained, what: set[str]):
    assert wrong(trained.checks()) == {f"training.model.{w}" for w in what}


def test_likelihoods():
    rng = np.random.default_rng(0)
    train, valid, by_pixel = (rng.normal(mean, 20, 500) for mean in (-100, -103, -200))
    well = Likelihoods(train, valid, by_pixel, dequantized=False)
    assert wrong(well.checks()) == set()
    assert wrong(replace(well, valid=valid - 20).checks()) == {"likelihood.overfitted"}
    assert wrong(replace(well, train=train[:4], valid=valid[:4] - 20, histograms=by_pixel[:4]).checks()) == set(), (
        "too few to tell"
    )
    below = [c for c in replace(well, histograms=by_pixel + 110).checks() if c.wrong]
    assert [(c.name, c.severity) for c in below] == [("likelihood.below_histograms", "problem")]
    valid[3] = np.nan
    assert wrong(replace(well, valid=valid).checks()) == {"likelihood.not_finite"}


def test_histograms_are_probabilities():
    """Over all images of two pixels of three values they add up to one, and the frequent ones have the most."""
    every = np.array([[a, b] for a in range(3) for b in range(3)])
    train = np.array([[0, 1], [0, 1], [0, 2], [1, 1]])
    p = np.exp(histograms(train, every, 3))
    assert p.sum() == pytest.approx(1)
    assert every[p.argmax()].tolist() == [0, 1]
    assert p.max() == pytest.approx((3 + 1 / 3) / 5 * (3 + 1 / 3) / 5)


def test_latents():
    each = np.array([1.0, 2.0, 0.5, 0.001])
    well = Latents(levels=np.array([3.5]), each=each, variance=each, at_bound=0.0, loosen="")
    assert wrong(well.checks()) == set()
    assert well.used == 3
    assert wrong(replace(well, each=each * (each == 2), variance=np.zeros(4)).checks()) == set(), "a quarter is in use"
    assert wrong(replace(well, each=np.full(5, 0.001)).checks()) == {"latents.unused"}
    assert wrong(replace(well, levels=np.array([0.01]), each=each * 0).checks()) == {"latents.collapsed"}
    assert wrong(replace(well, at_bound=0.5).checks()) == {"latents.scales_at_bound"}
    assert wrong(replace(well, levels=np.array([2.0, 1.0, 0.5])).checks()) == set()
    (dead,) = [c for c in replace(well, levels=np.array([3.4, 0.01, 0.09])).checks() if c.wrong]
    assert (dead.name, dead.value) == ("latents.dead_level", 0.01)
    assert "2 of 3 levels" in dead.message
    assert "(z2, z3)" in dead.message
    assert wrong(replace(well, levels=np.array([0.01, 0.02])).checks()) == {"latents.collapsed"}, "not said twice"
    assert replace(well, each=None, variance=np.array([1.0, 0.5, 0.005, 0.005])).used == 2
    point = replace(well, levels=None, each=None, variance=np.array([1e4, 1e4, 0.1, 0.1]))
    assert point.used == 2
    assert replace(point, variance=point.variance * 1e-9).used == 2, "the scale of a code without a prior is its own"


def test_reconstructed():
    errors = np.random.default_rng(0).uniform(0.1, 0.3, 400)
    well = Reconstructed(train=errors[:200], valid=errors[200:], variety=0.8, detail=0.5)
    assert wrong(well.checks()) == set()
    assert wrong(replace(well, valid=errors + 0.7, train=errors + 0.7).checks()) == {"reconstructions.mean_image"}
    assert wrong(replace(well, variety=0.0, valid=errors + 0.8, train=errors + 0.8).checks()) == {
        "reconstructions.alike"
    }
    assert wrong(replace(well, detail=0.05).checks()) == {"reconstructions.blurry"}
    assert wrong(replace(well, valid=errors + 0.2).checks()) == {"reconstructions.overfitted"}


def test_drawn():
    rng = np.random.default_rng(0)
    well = Drawn(shift=0.01, distances=rng.uniform(0.5, 1.5, 200), remedy="")
    assert wrong(well.checks()) == set()
    assert wrong(replace(well, shift=0.5).checks()) == {"samples.mean"}
    assert wrong(replace(well, distances=well.distances / 4).checks()) == {"samples.spread"}
    assert wrong(replace(well, distances=well.distances * 4).checks()) == {"samples.spread"}
    assert replace(well, distances=well.distances[:4] * 9).checks() == [], "four samples say nothing"


def test_labelled():
    rng = np.random.default_rng(0)
    good, guessed = rng.random(300) < 0.9, rng.random(300) < 0.35
    assert wrong(Labelled(good, good, 0.3).checks()) == set()
    assert wrong(Labelled(guessed, guessed, 0.33).checks()) == {"labels.guessed"}
    assert wrong(Labelled(good, rng.random(300) < 0.6, 0.3).checks()) == {"labels.overfitted"}


def test_pixels():
    grey = Pixels(tuple(range(256)), 256, binarized=False, constant=0.0, counts=(9, 10), source="x")
    assert wrong(grey.checks()) == set()
    assert wrong(replace(grey, values=(0, 255)).checks()) == {"data.levels"}
    assert wrong(replace(grey, values=(0, 255), binarized=True).checks()) == set(), "probabilities 0 and 1"
    assert wrong(replace(grey, values=(0, 1), binarized=True).checks()) == {"data.levels"}, "all but black"
    assert wrong(replace(grey, values=(0, 1), levels=2).checks()) == set()
    assert wrong(replace(grey, values=(0,), levels=2).checks()) == {"data.levels"}
    assert wrong(replace(grey, counts=(0, 10)).checks()) == {"data.classes"}
    sixteen = replace(grey, values=tuple(range(0, 256, 17)))
    assert next(c for c in sixteen.checks() if c.wrong).remedy == "an .npz with x // 17 and levels=16"


def test_rectifiers():
    assert Rectifiers({}).checks() == []
    assert wrong(Rectifiers({"a": 0.3, "b": 0.1}).checks()) == set()
    (check,) = Rectifiers({"a": 0.3, "b": 0.8}).checks()
    assert check.wrong
    assert "units of b are" in check.message


# ---- models over codes

LEVEL = Codes(
    level="top",
    place=0,
    size=512,
    seen=100_000,
    usage=0.95,
    perplexity=300.0,
    without=9.0,
    unigram=8.2,
    bits=6.0,
    train_bits=5.9,
    bits_stderr=0.01,
)
BOTTOM = replace(LEVEL, level="bottom", place=1)
GOOD = Stages(codes=(LEVEL, BOTTOM), error=3.0, explained=0.9, samples=4.0, shuffled=9.0, floor=1.0)


def levels(**changes: Any) -> Stages:
    """The good one with its second level changed."""
    return replace(GOOD, codes=(LEVEL, replace(BOTTOM, **changes)))


@pytest.mark.parametrize(
    ("stages", "what"),
    [
        (GOOD, set()),
        (replace(GOOD, explained=0.3), {"autoencoder.blurry"}),
        (levels(usage=0.7), {"codes.bottom.dead"}),
        (levels(usage=0.1, perplexity=20.0), {"codes.bottom.too_many"}),
        (levels(perplexity=50.0), {"codes.bottom.perplexity"}),
        (levels(perplexity=50.0, usage=0.6, seen=900), set()),
        (levels(without=3.01), {"codes.bottom.ignored"}),
        (replace(GOOD, codes=(replace(LEVEL, without=3.0),)), set()),
        (levels(bits=9.5, train_bits=9.4), {"prior.bottom.broken"}),
        (levels(bits=8.0, train_bits=7.95), {"prior.bottom.untrained"}),
        (levels(train_bits=5.0), {"prior.bottom.overfitted"}),
        (levels(train_bits=5.0, bits_stderr=0.5), set()),
        (levels(bits=None), set()),
        (levels(unigram=0.0, bits=3.688), {"prior.bottom.untrained"}),
        (levels(unigram=0.0, bits=0.005, train_bits=1e-9), set()),
        (replace(GOOD, samples=12.0), {"samples.below_shuffled"}),
        (replace(GOOD, samples=None), set()),
    ],
)
def test_stages(stages: Stages, what: set[str]):
    assert wrong(stages.checks()) == what


def test_a_smaller_codebook_holds_the_codes_that_are_used():
    check = next(c for c in levels(usage=0.1, perplexity=20.0).checks() if c.wrong)
    assert check.remedy.endswith("model.levels.1.quantizer.codes=32")


def test_a_level_of_one_code_gives_no_absurd_number():
    found = levels(unigram=0.0, bits=3.688, train_bits=1e-9, without=5.0).checks()
    found += replace(levels(), error=0.0).checks()
    assert max(c.value for c in found) < 1e5

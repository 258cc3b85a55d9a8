"""A seed means the same beside other threads that draw, and the caller's random state is the caller's."""

import ast
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import lowerbound as lb
from command import right
from lowerbound.noise import KeyedNoise, dropout, rand, reseed, seeded
from lowerbound.space import Density

pytestmark = pytest.mark.usefixtures("surroundings")

SMALL = {"encoder": {"hidden": [16]}, "decoder": {"hidden": [16]}, "latent": 3}


def train(out: Path, seed: int = 0) -> lb.Run:
    options = {"steps": 30, "valid_every": 15, "log_every": 10}
    return lb.train("vae", data="digits", out=out, seed=seed, model=SMALL, train=options, device="cpu")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> lb.Run:
    return train(tmp_path_factory.mktemp("runs") / "vae")


def beside_others(work: Callable[[int], Any], times: int, threads: int = 4) -> list[Any]:
    """What `work(i)` gives in several threads, while another keeps drawing from torch's own generator."""
    done = threading.Event()

    def disturb() -> None:
        while not done.is_set():
            torch.rand(100)

    other = threading.Thread(target=disturb)
    other.start()
    try:
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(work, range(times)))
    finally:
        done.set()
        other.join()


def test_samples_in_threads_are_those_of_one(run: lb.Run):
    alone = [lb.sample(run, 8, seed=seed, device="cpu").x for seed in range(4)]
    for i, x in enumerate(beside_others(lambda i: lb.sample(run, 8, seed=i % 4, device="cpu").x, 40)):
        assert np.array_equal(x, alone[i % 4])


def test_trainings_in_threads_give_the_weights_of_each_alone(tmp_path: Path, run: lb.Run):
    other = train(tmp_path / "other", seed=1)
    made = beside_others(lambda i: train(tmp_path / str(i), seed=i), 2, threads=2)
    for expected, found in zip((run, other), made, strict=True):
        a, b = expected.load().state_dict(), found.load().state_dict()
        assert all(torch.equal(a[name], b[name]) for name in a)


def test_an_encoder_in_joblib_threads(tmp_path: Path):
    x = np.random.default_rng(0).normal(size=(60, 4))

    def codes(_: int = 0) -> np.ndarray:
        return lb.LatentEncoder(latent=2, train={"steps": 15}, random_state=0).fit(x).transform(x)

    expected = codes()
    found = joblib.Parallel(n_jobs=3, backend="threading")(joblib.delayed(codes)(i) for i in range(3))
    assert all(np.array_equal(expected, z) for z in found or [])


def test_one_run_evaluated_in_threads(run: lb.Run):
    reports = beside_others(lambda i: lb.evaluate(run, split="valid", draws=2, device="cpu"), 6)
    assert all(report == reports[0] for report in reports)


# What is asked of a run, by verb, as what it answers: arrays, files' bytes and reports.
VERBS: dict[str, Callable[[lb.Run, Path, list[Path]], Any]] = {
    "doctor": lambda run, out, photos: lb.doctor(run, device="cpu"),
    "encode": lambda run, out, photos: encoded(run, out / "z.npz"),
    "score": lambda run, out, photos: scores(run, out / "s.csv"),
    "edit": lambda run, out, photos: lb.edit(run, photos, set={0: 1.0}, code="sample", seed=7, device="cpu").x,
    "reconstruct": lambda run, out, photos: lb.reconstruct(run, photos, device="cpu").r,
    "interpolate": lambda run, out, photos: lb.interpolate(run, photos, steps=3, device="cpu").frames,
    "traverse": lambda run, out, photos: lb.traverse(run, quantiles=True, steps=3, device="cpu").table.x,
}
OF_CODES: dict[str, Callable[[lb.Run, Path, list[Path]], Any]] = {
    "complete": lambda run, out, photos: lb.complete(run, photos, n=2, seed=3, device="cpu").x,
    "sample": lambda run, out, photos: lb.sample(run, 4, seed=3, device="cpu").x,
    "evaluate": lambda run, out, photos: lb.evaluate(run, split="valid", limit=40, device="cpu"),
    "doctor": VERBS["doctor"],
    "encode": VERBS["encode"],
}


def encoded(run: lb.Run, out: Path) -> list[np.ndarray]:
    lb.encode(run, out=out, split="valid", device="cpu")
    with np.load(out) as arrays:
        return [arrays[name] for name in sorted(arrays)]


def scores(run: lb.Run, out: Path) -> bytes:
    lb.score(run, "digits", out=out, split="valid", draws=2, device="cpu")
    return out.read_bytes()


@pytest.fixture(scope="module")
def of_codes(tmp_path_factory: pytest.TempPathFactory) -> lb.Run:
    """Of codes at two levels, with their priors."""
    path = tmp_path_factory.mktemp("codes") / "run"
    shutil.copytree(Path(__file__).parent / "old_runs" / "vqvae2-digits", path)
    return lb.Run.open(path)


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{name}.png" for name in "ab"]
    for i, path in enumerate(paths):
        Image.fromarray((np.arange(64, dtype=np.uint8) * (3 - i)).reshape(8, 8)).save(path)
    return paths


def same(a: Any, b: Any) -> bool:
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b


@pytest.mark.parametrize(("kind", "verb"), [("run", v) for v in VERBS] + [("of_codes", v) for v in OF_CODES])
def test_what_a_run_says_in_threads(
    kind: str, verb: str, photos: list[Path], tmp_path: Path, request: pytest.FixtureRequest
):
    run, ask = request.getfixturevalue(kind), (VERBS if kind == "run" else OF_CODES)[verb]

    def asked(i: int) -> Any:
        out = tmp_path / str(i)
        out.mkdir()
        return ask(run, out, photos)

    alone = asked(-1)
    assert all(same(found, alone) for found in beside_others(asked, 4))


@pytest.mark.parametrize("kind", ["run", "of_codes"])
def test_one_loaded_model_asked_by_threads(kind: str, request: pytest.FixtureRequest):
    model = request.getfixturevalue(kind).load()
    x, y = torch.randint(0, 17, (6, 1, 8, 8), dtype=torch.uint8), torch.arange(6)
    y = y if model.given else None

    @torch.no_grad()
    def asked(i: int) -> list[np.ndarray]:
        with seeded(0, "asked", i % 2):
            found = [model.features(x, y), model.reconstruct(x, y), model.sample(3, None if y is None else y[:3])]
            found += [] if model.density is Density.NONE else [model.log_density(x, y, 3), model.log_weights(x, y, 2)]
            return [t.numpy() for t in found]

    alone = [asked(0), asked(1)]
    assert all(same(found, alone[i % 2]) for i, found in enumerate(beside_others(asked, 12)))


def test_two_processes_on_one_run(run: lb.Run):
    """Both at once, each the time of importing torch: some seconds."""
    words = ["evaluate", str(run.path), "--split", "valid", "--draws", "3", "--json", "--device", "cpu"]
    command = [sys.executable, "-c", "from lowerbound.cli import main; main()", *words]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(2)]
    said = [json.loads(process.communicate()[0]) for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert said[0] == said[1]
    assert said[0]["metrics"]["nll"] == lb.evaluate(run, split="valid", draws=3, device="cpu")["metrics"]["nll"]
    saved = json.loads((run.path / "evaluation" / "valid.json").read_text())
    assert saved["metrics"]["nll"]["value"] == said[0]["metrics"]["nll"]["value"]


def test_the_random_state_of_the_caller_stays(run: lb.Run, tmp_path: Path):
    photo = tmp_path / "photo.png"
    Image.fromarray((np.arange(64, dtype=np.uint8) * 3).reshape(8, 8)).save(photo)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    train(tmp_path / "again")
    lb.sample(run, 2)
    lb.evaluate(run, split="valid", draws=2)
    lb.reconstruct(run, [photo])
    lb.edit(run, [photo], set={0: 1.0}, code="sample", seed=7)
    lb.traverse(run, quantiles=True, steps=3)
    lb.doctor(run)
    lb.encode(run, out=tmp_path / "codes.npz", split="valid")
    assert torch.equal(torch.get_rng_state(), before)


def test_outside_of_a_seed_the_generator_is_torchs(run: lb.Run):
    model = run.load()
    torch.manual_seed(3)
    first, other = model.sample(4), model.sample(4)
    torch.manual_seed(3)
    assert torch.equal(model.sample(4), first)
    assert not torch.equal(first, other)


def test_a_generator_gives_what_torchs_gives_after_its_seed():
    layer = nn.Linear(3, 4)
    for quick in (False, True):
        with seeded(0, "x", quick=quick):
            reseed(11)
            found = rand((5,)), dropout(torch.ones(50), 0.5)
        torch.manual_seed(11)
        assert torch.equal(found[0], torch.rand(5))
        assert torch.equal(found[1], torch.nn.functional.dropout(torch.ones(50), 0.5))
    with seeded(0, "weights"):
        reseed(11)
        layer.reset_parameters()
    torch.manual_seed(11)
    expected = nn.Linear(3, 4)
    assert torch.equal(layer.weight, expected.weight)


DRAWING = (  # what can't be keyed by image
    "randint randperm multinomial poisson exponential_ geometric_ cauchy_ log_normal_ random_ bernoulli_ dropout"
)


@pytest.mark.parametrize("name", DRAWING.split())
def test_what_is_not_keyed_raises_inside_keyed_noise(name: str):
    x = torch.full((2, 3), 0.5)
    calls: dict[str, Callable[[], Any]] = {
        "randint": lambda: torch.randint(0, 5, (2, 3)),
        "randperm": lambda: torch.randperm(6),
        "multinomial": lambda: torch.multinomial(x, 1),
        "poisson": lambda: torch.poisson(x),
        "dropout": lambda: torch.nn.functional.dropout(x),
    }
    with KeyedNoise(0, range(3)) as noise:
        noise.chunk(2)
        with pytest.raises(RuntimeError, match="can't be keyed by image"):
            calls.get(name, lambda: getattr(x.clone(), name)(*([0.5] if name == "geometric_" else [])))()


RANDOM = "rand randn randint randperm multinomial bernoulli normal rand_like randn_like randint_like dropout"
IN_PLACE = "normal_ uniform_ bernoulli_ random_ exponential_ geometric_ cauchy_ log_normal_"
PACKAGE = Path(lb.__file__).parent


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_package_draws_by_its_own_functions_alone(path: Path):
    """Or from a generator that it names, or of weights that torch.nn begins with."""
    if path.name == "noise.py" or "testing" in path.parts:
        return
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        owner, name = ast.unparse(node.func.value), node.func.attr
        drawn = (owner in ("torch", "F") and name in RANDOM.split()) or name in IN_PLACE.split()
        named = owner in ("nn.init", "np.random") or any(k.arg == "generator" for k in node.keywords)
        assert named or not drawn, f"{path.name}:{node.lineno}: {ast.unparse(node)}"
        assert owner != "np.random" or name in ("default_rng", "Generator", "SFC64", "SeedSequence"), ast.unparse(node)


def test_a_normal_of_torchs_is_keyed():
    def drawn(index: list[int]) -> torch.Tensor:
        with KeyedNoise(4, index) as noise:
            noise.chunk(2)
            return torch.normal(torch.zeros(2, len(index)), torch.ones(2, len(index)))

    assert torch.equal(drawn([3, 8])[:, 1], drawn([8])[:, 0])


@pytest.mark.slow  # four processes import torch
def test_edits_and_traversals_are_the_same_in_every_process(run: lb.Run, tmp_path: Path):
    photo = tmp_path / "photo.png"
    Image.fromarray((np.arange(64, dtype=np.uint8) * 3).reshape(8, 8)).save(photo)
    edit = ["edit", str(run.path), str(photo), "--set", "0=1", "--from", "sample", "--seed", "7"]
    walk = ["traverse", str(run.path), "--quantiles", "--steps", "3"]
    for i in range(2):
        for name, words in (("edit", edit), ("walk", walk)):
            (run.path / "evaluation" / "codes.safetensors").unlink(missing_ok=True)  # so that it is measured anew
            command = [sys.executable, "-c", "from lowerbound.cli import main; main()", *words]
            subprocess.run([*command, "--out", str(tmp_path / f"{name}{i}.npz")], check=True, capture_output=True)
    for name in ("edit", "walk"):
        a, b = (np.load(tmp_path / f"{name}{i}.npz")["x"] for i in range(2))
        assert np.array_equal(a, b), name
    assert right("evaluate", run.path, "--draws", "2", "--json").json["metrics"]["nll"]["draws"] == 2

"""Several real processes train what one does, and say in one sentence what ends them."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file

from command import call, some_digits
from worlds import Worlds, records, worlds

TINY = [
    "model.likelihood=families.Bernoulli",
    "model.encoder.hidden=[16]",
    "model.decoder.hidden=[16]",
    "model.latent=3",
    "train.batch=33",
    "train.steps=200",
    "train.log_every=20",
    "train.valid_every=50",
    "data.label=true",
]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worlds]:
    with worlds(tmp_path_factory.mktemp("worlds")) as running:
        yield running


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return some_digits(tmp_path_factory.mktemp("data") / "digits.npz")


def assert_alike(a: Path, b: Path, weights: float = 1e-4) -> None:
    """The same training, but for the order in which sums of float32 were made."""
    old, new = records(a), records(b)
    assert len(old) == len(new)
    for one, other in zip(old, new, strict=True):
        assert one.keys() == other.keys()
        for key, value in one.items():
            same = other[key] == (pytest.approx(value, rel=1e-5, abs=1e-5) if isinstance(value, float) else value)
            assert same, f"{key}: {value}, {other[key]}"
    for name in ("model.safetensors", "state/model.safetensors"):
        old, new = load_file(a / name), load_file(b / name)
        assert old.keys() == new.keys()
        for key, value in old.items():
            assert value.double().sub(new[key].double()).abs().max() < weights, key


def test_two_processes_train_to_the_numbers_of_one(world: Worlds, digits: Path, tmp_path: Path):
    """200 steps in float32, labels given, on a batch of 33: losses, validation, weights, and what is reported."""
    for n, out in ((1, tmp_path / "one"), (2, tmp_path / "two")):
        world.call(n, "train", "vae", *TINY, "--data", digits, "--out", out, "--json")
    assert_alike(tmp_path / "one", tmp_path / "two")
    assert "step 200 of 200" in world.said(0)
    assert world.said(1) == ""
    assert world.said(1, 1) == ""
    assert '"metrics"' in world.said(0, 1)


def test_there_are_at_least_as_many_images_in_a_batch_as_processes(world: Worlds, digits: Path, tmp_path: Path):
    world.start(2, "train", "vae", *TINY, "train.batch=1", "--data", digits, "--out", tmp_path / "run")
    assert sorted(world.statuses()) == [1, 2]
    said = world.said(0) + world.said(1)
    assert said.count("lowerbound:") == 1
    assert "train.batch=1: is the whole batch, which 2 processes share" in said
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


def test_processes_that_are_no_number_or_too_many(monkeypatch, tmp_path):
    done = call("train", "vae", *TINY, "--out", tmp_path / "run", "--processes", "0")
    assert (done.status, "--processes 0: expected a whole number of at least 1" in done.err) == (2, True)

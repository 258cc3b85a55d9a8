"""Weights that processes share out are trained to the numbers of one process, and states of them are taken up by any
number of processes."""

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo  # here, and not in every process, as what follows
import torch.distributed.checkpoint
import torch.distributed.fsdp
from safetensors.torch import load_file
from torch import Tensor

import lowerbound as lb
from command import some_digits
from lowerbound import devices, testing
from lowerbound.config import components
from lowerbound.errors import ConfigError, Interrupted
from lowerbound.model import Model
from lowerbound.models.autoregressive import Autoregressive
from lowerbound.models.vae import VAE
from lowerbound.networks.causal import CausalNetwork
from lowerbound.networks.gated import GatedPixelCNN
from lowerbound.networks.residual import ResidualMLP
from lowerbound.optimization import Skip
from lowerbound.parallel import ALONE, World
from lowerbound.progress import Progress
from lowerbound.runs.run import Run
from lowerbound.space import Space
from lowerbound.testing.processes import UNEVEN
from lowerbound.training.train import train
from worlds import records

SKIP = Skip(window=2, factor=1.05)  # of four steps, one or more
SHARED = UNEVEN.model_copy(update={"shard": True, "steps": 4, "valid_every": 2, "clip": 0.5, "skip": SKIP})
BINARY = Space((1, 2, 2), levels=2)


def autoregressive(network: Any) -> Autoregressive.Config:
    return Autoregressive.Config(network=network, context=4)


def test_a_prior_whose_weights_are_shared_out_is_trained_to_the_numbers_of_one_process():
    """In float64, to 1e-9: losses, norms of clipped gradients, steps left out, averaged weights, validation; blocks
    come and go."""
    network = GatedPixelCNN.Config(width=6, layers=2, first_kernel=3, out_width=6, checkpoint=True)
    testing.check_processes(autoregressive(network), BINARY, training=SHARED, world=testing.in_processes)


MODELS = {
    **{config.type_name(): (config,) for config in components(Model.Config)},
    **{
        config.type_name(): (autoregressive(config.example()[0]), Space((1, *config.example()[1]), levels=2))
        for config in components(CausalNetwork.Config)
    },
    "residual blocks": (VAE.Config(latent=(2,), encoder=ResidualMLP.Config(width=4), decoder=ResidualMLP.Config()),),
}


@pytest.mark.slow  # two processes for each of forty models
@pytest.mark.parametrize("name", MODELS)
def test_every_model_whose_weights_are_shared_out_is_trained_to_the_numbers_of_one_process(name: str):
    testing.check_processes(*MODELS[name], training=SHARED, world=testing.in_processes)


@pytest.mark.slow  # four processes
def test_four_processes_share_weights_out_some_of_which_have_fewer_rows_than_these():
    testing.check_processes(*MODELS["models.vqvae.VQVAE"], training=SHARED, size=4, world=testing.in_processes)


# ---- states

TINY = [
    *(
        "model.encoder.hidden=[16]",
        "model.decoder.hidden=[16]",
        "model.latent=3",
        "model.likelihood=families.Bernoulli",
    ),
    *("train.batch=33", "train.steps=12", "train.log_every=1", "train.valid_every=6"),
]
SHARDED = "train.shard=true"


class Stopping(Progress):
    """Asks this process to stop after a step, as Ctrl-C does; and keeps what is said."""

    def __init__(self, stop: int | None):
        self.stop, self.said = stop, []

    def say(self, line: str) -> None:
        self.said.append(line)

    @contextmanager
    def bar(self, total: int, start: int = 0) -> Iterator[Any]:
        yield lambda step, terms: os.kill(os.getpid(), signal.SIGINT) if step == self.stop else None


def trained(n: int, data: Path, out: Path, *more: str, stop: int | None = None, resume: bool = False) -> list[str]:
    """Train in n processes, to the end or until the first is asked to stop; what was said."""

    def work(world: World) -> list[str]:
        progress = Stopping(stop)
        with suppress(Interrupted):
            train(
                "vae",
                data=data,
                out=out,
                changes=[*TINY, *more],
                resume=resume,
                device="cpu",
                progress=progress,
                world=world,
            )
        return progress.said

    return testing.in_processes(n, work)[0] if n > 1 else work(ALONE)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return some_digits(tmp_path_factory.mktemp("data") / "digits.npz")


@pytest.fixture(scope="module")
def whole(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two processes that have shared weights out."""
    out = tmp_path_factory.mktemp("whole") / "run"
    trained(2, digits, out, SHARDED)
    return out


@pytest.fixture(scope="module")
def stopped(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, stopped on the way."""
    out = tmp_path_factory.mktemp("stopped") / "run"
    trained(2, digits, out, SHARDED, stop=5)
    return out


def state(run: Path) -> dict[str, Tensor]:
    """What the last state of a run holds, read by one process."""
    found = Run.open(run).load_state("model")
    assert found is not None
    assert found[1]["finished"]
    return found[0]


def assert_same(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    assert not [name for name, t in a.items() if not torch.equal(t, b[name])]


def assert_alike(a: Path, b: Path, least: float = 1e-4) -> None:
    """The same training, but for the order in which sums of float32 were made."""
    for one, other in zip(records(a), records(b), strict=True):
        assert one == {k: pytest.approx(v, rel=1e-5, abs=1e-5) if isinstance(v, float) else v for k, v in other.items()}
    old, new = state(a), state(b)
    assert old.keys() == new.keys()
    assert all(t.double().sub(new[name].double()).abs().max() < least for name, t in old.items())


def test_a_damaged_part_is_answered_by_the_state_before_which_is_taken_up_exactly(
    digits: Path, whole: Path, stopped: Path, tmp_path: Path
):
    """And the run is one like any other: its weights are one file, for which nobody needs a second process."""
    out = tmp_path / "run"
    shutil.copytree(stopped, out)
    parts = Run.open(out).states()["model"]["parts"]
    first, second = sorted((out / "state" / parts["folder"]).iterdir())
    assert abs(first.stat().st_size - second.stat().st_size) < second.stat().st_size / 5
    data = bytearray(second.read_bytes())
    data[-1] ^= 1
    second.write_bytes(data)
    said = trained(2, digits, out, SHARDED, resume=True)
    wanted = f"{parts['folder']}/{second.name} is not what was saved); going on from the state before it, of step 0"
    assert any(wanted in line for line in said)
    assert records(whole) == records(out)
    assert_same(state(whole), state(out))
    assert_same(load_file(whole / "model.safetensors"), load_file(out / "model.safetensors"))
    assert len(list((out / "state").glob("model.parts-*"))) == 2  # of the last state, and the one before
    assert len(lb.load(whole).sample(2)) == 2


@pytest.mark.slow  # nine trainings
def test_any_number_of_processes_goes_on_with_what_some_have_begun(
    digits: Path, whole: Path, stopped: Path, tmp_path: Path
):
    trained(1, digits, tmp_path / "alone")
    assert_alike(tmp_path / "alone", whole)
    for n, more in ((2, SHARDED), (1, "train.shard=false"), (1, SHARDED), (2, "train.shard=false"), (4, SHARDED)):
        out = tmp_path / f"{n} {more}"
        shutil.copytree(stopped, out)
        said = trained(n, digits, out, more, resume=True)
        assert any(line.startswith(f"resuming {out} at step 6 of 12") for line in said)
        assert_alike(whole, out)
        if (n, more) == (2, SHARDED):
            assert_same(state(whole), state(out))
    out = tmp_path / "from 1 to 2"
    trained(1, digits, out, stop=5)
    trained(2, digits, out, SHARDED, resume=True)
    assert_alike(whole, out)


@pytest.mark.slow  # emulated where the processor has no instructions for it
def test_half_precision_shares_weights_out_as_well(digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The parts stay float32; networks compute in bfloat16, which is seen in the numbers."""
    monkeypatch.setattr(devices, "_processor_has_bfloat16", lambda: True)
    half = "train.precision=bfloat16"
    trained(2, digits, tmp_path / "shared", SHARDED, half)
    trained(2, digits, tmp_path / "not", half)
    assert_alike(tmp_path / "shared", tmp_path / "not")
    trained(2, digits, tmp_path / "single", SHARDED)
    with pytest.raises(AssertionError):
        assert_alike(tmp_path / "shared", tmp_path / "single")


def test_compiled_networks_are_not_shared_out_and_one_process_has_nothing_to_share(digits: Path, tmp_path: Path):
    said = trained(1, digits, tmp_path / "one", SHARDED, "train.steps=1")
    assert said[0] == "train.shard=true: is of several processes (--processes N); this one has all of the weights"

    def work(world: World) -> None:
        changes = [*TINY, SHARDED, "train.compile=true"]
        with pytest.raises(ConfigError, match=r"train\.compile=true: compiled networks have all of their weights"):
            train("vae", data=digits, out=tmp_path / "two", changes=changes, device="cpu", world=world)

    testing.in_threads(2, work)
    assert not (tmp_path / "two").exists()

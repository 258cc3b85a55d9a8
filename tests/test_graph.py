"""Training by compiled networks and as a CUDA graph: what can be known of it without a GPU.

`scripts/gpu` says the rest: that weights trained with and without a graph are the same.
"""

import math
from pathlib import Path
from statistics import median_low

import pytest
import torch
from torch import Tensor, nn

from command import right
from lowerbound.devices import check_precision, pick_device, rounding
from lowerbound.errors import ConfigError
from lowerbound.optimization import Skip, grown
from lowerbound.stages import Loss
from lowerbound.training import movers
from lowerbound.training.graph import Moved, _apart, _together, state
from test_train import tensors

TRAIN = ["train", "vae", "train.steps=6", "train.epochs=null", "train.averaging=null", "--device", "cpu"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # of torch's compiler
@pytest.mark.usefixtures("surroundings")
def test_compiled_networks_are_trained_to_the_same_weights(monkeypatch: pytest.MonkeyPatch):
    compiled = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]):
        compiled.append(graph)
        return graph.forward

    monkeypatch.setattr(movers, "COMPILER", backend)
    right(*TRAIN, "--out", "plain")
    assert not compiled
    right(*TRAIN, "--out", "compiled", "train.compile=true")
    assert len(compiled) >= 2  # the encoder and the decoder
    a, b = (tensors(Path(name) / "model.safetensors") for name in ("plain", "compiled"))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.usefixtures("surroundings")
def test_a_graph_is_for_a_gpu_and_changes_nothing_elsewhere():
    right(*TRAIN, "--out", "plain")
    done = right(*TRAIN, "--out", "graph", "train.graph=true")
    assert "train.graph=true: graphs are of a CUDA device" in done.err
    a, b = (tensors(Path(name) / "model.safetensors") for name in ("plain", "graph"))
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
@pytest.mark.usefixtures("surroundings")
def test_a_training_by_a_graph_logs_and_ends_as_one_without():
    words = ["train", "vae", "train.steps=90", "train.epochs=null", "train.log_every=30", "--device", "cuda"]
    right(*words, "--out", "plain")
    assert "goes on without" not in right(*words, "--out", "graph", "train.graph=true").err
    a, b = (tensors(Path(name) / "model.safetensors") for name in ("plain", "graph"))
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-3, atol=1e-4)


def test_the_means_of_a_step_are_those_of_its_terms():
    terms = [{"elbo": torch.randn(5), "kl": torch.rand(5)}, {"d": torch.rand(3)}]
    moved = [Moved(Loss(torch.tensor(float(i)), own), torch.tensor(i + 0.5)) for i, own in enumerate(terms)]
    again = _apart(*_together(moved))
    assert [(float(m.loss.value), float(m.norm)) for m in again] == [(0.0, 0.5), (1.0, 1.5)]
    for before, after in zip(moved, again, strict=True):
        means = {name: t.mean(0, keepdim=True) for name, t in before.loss.terms.items()}
        torch.testing.assert_close(after.loss.terms, means)


class Holder(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("total", torch.zeros(2))
        self.count, self.notes = 0, {"last": None}


def test_what_a_step_leaves_behind_in_python_is_seen():
    """A graph repeats what is done to tensors in their place, and nothing else."""
    model = nn.Sequential(Holder(), nn.Linear(2, 2))
    held, before = model[0], state(model)
    held.total += 1
    model[1].weight.data.mul_(2)
    assert state(model) == before
    for leave in (
        lambda: setattr(held, "count", 1),
        lambda: held.notes.update(last=3),
        lambda: setattr(held, "total", torch.ones(2)),
        lambda: setattr(model[1], "bias", None),
    ):
        before = state(model)
        leave()
        assert state(model) != before


@pytest.mark.parametrize("count", [0, 3, 4, 5, 8, 30])
def test_the_guard_refuses_what_is_far_above_the_median(count: int):
    skip = Skip(factor=10, window=8)
    ring = torch.zeros(8)
    seen = torch.rand(count)
    for i, norm in enumerate(seen):
        ring[i % 8] = norm
    found = skip.threshold(ring, torch.tensor(count))
    last = [float(n) for n in seen[-8:]]
    assert float(found) == pytest.approx(10 * median_low(last) if count >= 4 else math.inf)


def test_what_grows_with_steps_grows_on_a_device_as_well():
    for step in (0, 3, 10, 40):
        assert float(grown(torch.tensor(float(step)), 10)) == pytest.approx(grown(step, 10))


def test_a_precision_that_is_not_there_is_refused():
    with pytest.raises(ConfigError, match="precision=tf32: this processor has no instructions for it"):
        check_precision("tf32", torch.device("cpu"))
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="--device cuda:7: 0 CUDA devices here; use --device cpu"):
            pick_device("cuda:7")


def test_rounding_is_left_as_it_was():
    switches = torch.backends.cudnn, torch.backends.cuda.matmul
    before = [s.allow_tf32 for s in switches]
    with rounding(True):
        assert [s.allow_tf32 for s in switches] == [True, True]
        with rounding(False):
            assert [s.allow_tf32 for s in switches] == [False, False]
        assert [s.allow_tf32 for s in switches] == [True, True]
    assert [s.allow_tf32 for s in switches] == before

"""What large models cost: dry runs stage by stage, what a batch keeps in memory, the recipes in their papers' sizes."""

import json
import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from command import call, right, tree
from lowerbound.data.base import Data
from lowerbound.data.batches import Batches
from lowerbound.models.vqvae import level_names
from lowerbound.networks.strided import Blocks
from lowerbound.runs import recipes
from lowerbound.training import dry, prepared

pytestmark = pytest.mark.usefixtures("surroundings")

SMALL = [
    "model.width=8",
    "model.inner=4",
    "train.steps=10",
    "train.batch=4",
    "train.stages.prior.steps=6",
    "train.stages.prior.batch=3",
]
PRIOR = {"context": 8, "network.width": 8, "network.layers": 2, "network.out_width": 8, "network.attention": "[2]"}


def paint(folder: Path, n: int, side: int) -> Path:
    """A folder of two class folders of smooth images."""
    rng = np.random.default_rng(0)
    for i in range(n):
        pixels = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).resize(
            (side, side), Image.Resampling.BICUBIC
        )
        (folder / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        pixels.save(folder / "ab"[i % 2] / f"{i}.png")
    return folder


def small(levels: int) -> list[str]:
    """Changes that leave a recipe its stages and little else."""
    priors = [f"model.priors.{l}.{key}={value}" for l in range(levels) for key, value in PRIOR.items()]
    return [*SMALL, *priors, "model.priors.0.network.out_layers=1"]


# --- dry runs


@pytest.mark.parametrize(("recipe", "levels"), [("vqvae2-imagenet256", 2), ("vqvae2-ffhq1024", 3)])
def test_a_dry_run_of_every_stage(here: Path, recipe: str, levels: int):
    paint(here / "photos", 8, 64)
    before = tree(here)
    words = ("train", recipe, "--data", "photos", "data.size=64", *small(levels), "--dry-run")
    report = right(*words, "--json").json
    config = recipes.load(recipe, small(levels))
    names = ["autoencoder", *(f"prior.{name}" for name in level_names(levels))]
    assert [s["stage"] for s in report["stages"]] == names
    for stage in report["stages"]:
        assert stage["steps"] == config.train.of(stage["stage"]).steps
        assert stage["GFLOP per step"] > 0
        assert 1 <= stage["timed steps"] <= 7
    assert report["parameters"] == sum(s["parameters"] for s in report["stages"])
    assert math.isclose(report["expected minutes"], sum(s["expected minutes"] for s in report["stages"]))
    assert tree(here) == before
    shown = right(*words).out
    assert all(name in shown for name in [*names, f"{report['parameters']:,}"])


def test_slow_steps_are_timed_less_often(monkeypatch: pytest.MonkeyPatch):
    few = ["train.steps=5"]
    assert dry.run("vae", data="digits", changes=few).stages[0].timed == 7
    monkeypatch.setattr(dry, "_SECONDS", 0.0)
    assert dry.run("vae", data="digits", changes=few).stages[0].timed == 1


# --- memory


def kept(net: nn.Module, x: torch.Tensor) -> int:
    """Bytes that are held after the forward pass, but for its input, its output and the weights."""
    made = dry._Made()
    with made:
        out = net(x)
    return made.alive([x, out, *net.parameters()])


def test_what_a_batch_keeps_is_what_its_backward_pass_needs():
    x, linear = torch.zeros(3, 5), nn.Linear(5, 7)
    assert kept(linear, x) == 0  # its input, which was there
    assert kept(nn.Sequential(linear, nn.ReLU(), nn.Linear(7, 2)), x) == 4 * 3 * 7  # the ReLU's output
    assert kept(nn.Sequential(linear, nn.Tanh(), nn.Tanh(), nn.Linear(7, 2)), x) == 2 * 4 * 3 * 7


def test_checkpointed_blocks_keep_their_inputs_alone_and_have_the_same_gradients():
    torch.manual_seed(0)
    x = torch.randn(2, 6, 8, 8)
    plain = Blocks(6, 4, 3).train()
    again = Blocks(6, 4, 3, checkpoint=True).train()
    again.load_state_dict(plain.state_dict())
    size = 4 * x.numel()
    assert kept(again, x) == 2 * size  # what the second and the third block are given
    assert kept(plain, x) > 2 * kept(again, x)
    for one, two in zip(
        torch.autograd.grad(plain(x).square().sum(), list(plain.parameters())),
        torch.autograd.grad(again(x).square().sum(), list(again.parameters())),
        strict=True,
    ):
        assert torch.equal(one, two)


def test_codes_of_large_images_are_made_few_at_a_time(here: Path):
    def at_once(shape: Sequence[int]) -> int:
        np.savez(here / f"{shape[0]}.npz", x=np.zeros((8, *shape), np.uint8))
        return prepared._at_once(Batches(Data(source=f"{shape[0]}.npz").open("all"), torch.device("cpu")))

    assert at_once((32, 32, 3)) == 256
    assert at_once((1024, 1024, 3)) == 5


# --- the recipes in the papers' sizes


def test_the_sizes_are_the_papers():
    cifar, imagenet, ffhq = (recipes.load(f"vqvae{n}").model for n in ("-cifar10", "2-imagenet256", "2-ffhq1024"))
    grids = lambda config, side: [side // level.factor for level in config.levels]  # noqa: E731
    assert (grids(cifar, 32), cifar.levels[0].quantizer.depth, cifar.width, cifar.inner) == ([8], 10, 256, 256)
    assert grids(imagenet, 256) == [32, 64]
    assert grids(ffhq, 1024) == [32, 64, 128]
    for config in (imagenet, ffhq):
        assert {(l.quantizer.codes, l.quantizer.dim, l.quantizer.beta) for l in config.levels} == {(512, 64, 0.25)}
        assert (config.width, config.inner, config.blocks) == (128, 64, 2)


def test_a_recipe_without_its_data_says_so(here: Path):
    done = call("train", "vqvae2-imagenet256", "--dry-run")
    assert done.status == 2
    assert "no data set or path 'imagenet'" in done.err
    assert "--data" in done.err


LARGE = """
import json, resource, sys, time, torch
from lowerbound.runs import recipes
from lowerbound.runs.facts import Facts
from lowerbound.training import dry
torch.set_num_threads(1)
recipe, data, *changes = sys.argv[1:]
report = dry.run(recipe, data=data, changes=changes).json()
config = recipes.load(recipe, [f"data.source={data}", *changes])
facts = Facts.of(config.data.open("train"), config)
model = config.model.build(facts.space, facts.given(config)).eval()
begun = time.monotonic()
x = model.sample(1, torch.zeros(1, dtype=torch.int64) if model.given else None)
report |= {"seconds for a sample": time.monotonic() - begun, "sample": list(x.shape)}
report["GB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
print(json.dumps(report))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "side", "levels"), [("vqvae2-imagenet256", 256, 2), ("vqvae2-ffhq1024", 1024, 3)])
def test_a_step_of_every_stage_and_a_sample_within_20_gb(here: Path, recipe: str, side: int, levels: int):
    """In the papers' widths: by the counted FLOPs some 5 and 15 minutes of one idle core."""
    one = [
        f"train.stages.prior{name}.batch=1" for name in ("", ".middle", ".bottom") if levels == 3 or name != ".middle"
    ]
    words = [sys.executable, "-c", LARGE, recipe, str(paint(here / "photos", 8, side)), "train.batch=1", *one]
    report = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
    assert report["sample"] == [1, 3, side, side]
    assert len(report["stages"]) == levels + 1
    assert report["GB"] < 20

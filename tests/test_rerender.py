"""Images rendered again with other attributes: held against the renderer, and what codes tell of what is given."""

from pathlib import Path

import numpy as np
import pytest
import torch

from command import call, right
from lowerbound.data.given import values_of
from lowerbound.metrics.base import World
from lowerbound.metrics.rerender import Rerender, Scenes, changes, psnr
from lowerbound.metrics.told import averages, probed
from lowerbound.model import LatentModel
from lowerbound.networks.mlp import MLP
from lowerbound.noise import randn, seeded
from lowerbound.objectives import Invariance
from lowerbound.runs import recipes
from lowerbound.runs.facts import Facts
from lowerbound.runs.inputs import as_batches, open_data
from lowerbound.runs.run import Run
from lowerbound.space import Space

pytestmark = pytest.mark.usefixtures("surroundings", "here")

GIVEN = ("camera_azimuth", "camera_distance", "light_azimuth")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of few small scenes, not trained; of a holdout, with a head and an adversary."""
    words = [f"data.given={','.join(GIVEN)}", "data.images=90", "data.size=32"]
    for part in ("encoder", "decoder", "predictor", "adversary.network"):
        words += [f"model.{part}=networks.mlp.MLP", f"model.{part}.hidden=[8]"]
    recipe = recipes.load("rerender-scenes", words)
    images = recipe.data.open("train")
    found = Run.create(tmp_path_factory.mktemp("scenes") / "run", "tiny", recipe, Facts.of(images, recipe))
    found.save_model(found.build())
    found.save_given(values_of(images, found.facts.factors))
    return found.path


def world_of(run: Path, split: str = "train") -> World:
    opened = Run.open(run)
    images = as_batches(opened, open_data(opened, split), torch.device("cpu"))
    return World(opened.load(), images.head(12), opened)


def test_attributes_that_begin_alike_are_changed_together(run: Path):
    found = changes(Run.open(run).facts.factors)
    assert [(c.name, c.places) for c in found] == [
        ("camera", (0, 1)),
        ("camera_azimuth", (0,)),
        ("camera_distance", (1,)),
        ("light_azimuth", (2,)),
    ]


def test_the_truth_is_the_renderer_s_and_all_else_stays(run: Path):
    scenes = Scenes.of(world_of(run), 12)
    for change in changes(scenes.factors):
        target, truth = scenes.target(change)
        same = [i for i in range(3) if i not in change.places]
        assert np.array_equal(target[:, same], scenes.own[:, same])
        for place in change.places:  # those of another image
            assert not (target[:, place] == scenes.own[:, place]).any()
            assert np.array_equal(np.sort(target[:, place]), np.sort(scenes.own[:, place]))
        every = scenes.all.copy()
        every[:, [scenes.at[place] for place in change.places]] = target[:, list(change.places)]
        assert np.array_equal(scenes.source.pictured(every), (truth * 255).round().numpy().astype(np.uint8))
    unchanged = torch.from_numpy(scenes.source.pictured(scenes.all))
    assert torch.equal(unchanged, scenes.x)  # nothing of the pictures is unknown


def test_the_score_is_of_the_truth(run: Path, monkeypatch: pytest.MonkeyPatch):
    """A model that renders it has no error; one that returns the image is the baseline `copy`."""
    world = world_of(run)
    assert isinstance(world.model, LatentModel)
    monkeypatch.setattr(type(world.model), "changed", lambda self, x, y, target: x.double())
    found = Rerender()(world)
    for change in changes(world.run.facts.factors):  # pyright: ignore[reportOptionalMemberAccess]
        assert found[f"rerender.psnr.{change.name}"].value == found[f"rerender.copy.{change.name}"].value
    scenes = Scenes.of(world, 12)
    change = changes(scenes.factors)[0]
    _, truth = scenes.target(change)
    drawn = truth * 255
    monkeypatch.setattr(type(world.model), "changed", lambda self, x, y, target: drawn[: len(x)])
    values = scenes.measured(change)
    assert (values["psnr"][0] == 120).all()
    assert values["ssim"][0] == pytest.approx(1)
    assert (values["rmse"][0] == 0).all()
    copied = -10 * np.log10(np.square(scenes.x.numpy() / 255 - truth.numpy()).reshape(12, -1).mean(1))
    assert values["copy"][0] == pytest.approx(copied)


def test_nearest_is_by_what_is_given(run: Path):
    """Of training images themselves, the nearest to an unchanged target is the image itself."""
    scenes = Scenes.of(world_of(run), 12)
    change = changes(scenes.factors)[-1]._replace(places=())
    values = scenes.measured(change)
    assert (values["nearest"][0] == 120).all()
    assert (values["mean"][0] < 40).all()


def test_psnr_by_its_definition():
    a, b = torch.zeros(1, 1, 2, 2), torch.full((1, 1, 2, 2), 0.1)
    assert psnr(a, b) == pytest.approx([20.0])


def test_verbs_measure_and_render(run: Path):
    values = right("evaluate", run, "--metrics", "rerender,told", "--split", "test", "--json").json["metrics"]
    assert {f"told.{what}.{name}" for what in ("codes", "pixels") for name in GIVEN} <= set(values)
    assert {
        f"rerender.{what}.camera" for what in ("psnr", "ssim", "rmse", "predicted", "copy", "nearest", "mean")
    } <= set(values)
    right("sample", run, "-n", "2", "--attribute", "camera_azimuth=0..360:4", "--out", "t.gif")
    done = call("sample", run, "--attribute", "camera_elevation=40", "--out", "t.png")
    assert "'camera_elevation' is not among what the model is given; did you mean camera_azimuth?" in done.err


def test_held_out_combinations_are_the_test_part_alone(run: Path):
    opened = Run.open(run)
    images = open_data(opened, "test")
    assert images.factors is not None
    assert images.factor_names is not None
    light = images.factors[:, images.factor_names.index("light_azimuth")]
    assert ((light >= 90) & (light <= 180)).all()


# ---- what codes tell


def test_a_probe_finds_what_is_there_and_nothing_else():
    draw = np.random.default_rng(0)
    z, noise = draw.normal(size=(1200, 3)), draw.normal(size=(1200, 3))
    y = np.stack([np.sin(2 * z[:, 0]), noise[:, 0]], 1)
    seen = probed(z[:1000], y[:1000], z[1000:], 0)
    told = 1 - np.square(y[1000:] - seen).mean(0) / np.square(y[1000:] - y[:1000].mean(0)).mean(0)
    assert told[0] > 0.9
    assert abs(told[1]) < 0.1


def test_pixels_are_averaged(run: Path):
    batches = world_of(run).batches
    x = np.asarray(batches.images.x, np.float64)
    assert averages(batches).reshape(12, 3, 16, 16)[:, :, 2, 3] == pytest.approx(x[:, :, 4:6, 6:8].mean((2, 3)))


def test_invariance_finds_how_much_better_than_the_mean_a_prediction_is():
    """Of z = y + s e with normals the best prediction is z / (1 + s²), and the gain 1/2 (1 - s² / (1 + s²))."""
    s, n = 0.5, 20000
    adversary = Invariance.Config(network=MLP.Config(hidden=())).build(Space((1,)), (Space((1,)),))
    with seeded("invariance"):
        y = randn((n, 1))
        z = (y + s * randn((n, 1))).requires_grad_()
    (layer,) = [m for m in adversary.network.modules() if isinstance(m, torch.nn.Linear)]
    with torch.no_grad():
        layer.weight.fill_(1 / (1 + s**2))
        layer.bias.zero_()
    found = adversary.found(z, y)
    assert float(found.detach().mean()) == pytest.approx(0.5 * (1 - s**2 / (1 + s**2)), abs=4 / np.sqrt(n))
    found.mean().backward()
    assert z.grad is not None
    assert all(p.grad is None for p in adversary.parameters())
    nearer = adversary.found(z.detach() - 0.5 * n * z.grad, y).mean()
    assert float(nearer) < float(found.detach().mean())
    adversary.loss(z.detach(), y).value.backward()
    assert torch.allclose(layer.weight.grad, torch.zeros(1, 1), atol=0.1)  # pyright: ignore  # it is at its best
    with torch.no_grad():
        layer.weight.fill_(-1.0)  # worse than the mean: nothing pulls
    assert not adversary.found(z, y).any()

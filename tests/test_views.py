"""Scenes from several sides: what the order and the number of views are to the model, what its numbers are worth."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import lowerbound as lb
from lowerbound import testing
from lowerbound.config import parse
from lowerbound.data import Data
from lowerbound.data.views import cameras, coordinates
from lowerbound.errors import ConfigError, ModelError, RunError, UserError
from lowerbound.model import Draw
from lowerbound.models.hierarchical import HierarchicalVAE, Scale
from lowerbound.models.views import GQN
from lowerbound.networks.mlp import MLP
from lowerbound.networks.residual import ResidualMLP
from lowerbound.noise import reseed, seeded
from lowerbound.progress import Progress
from lowerbound.runs.conditions import Asked
from lowerbound.runs.inputs import as_batches
from lowerbound.runs.run import Run
from lowerbound.sampling.scenes import draw
from lowerbound.sampling.sheets import draw_pictures, draw_reconstructions
from lowerbound.space import Space
from lowerbound.testing.base import condition, events, lattice, shake_parameters
from lowerbound.training.train import train
from lowerbound.verbs.doctor.examined import Examined

ERRORS = 4.0  # standard errors
V, MOST = 4, 3


def built(**more: object) -> GQN:
    """The smallest, of binary images of 2x2."""
    config, space, given = GQN.Config.example()
    with seeded("views"):
        model = config.model_copy(update=more).build(space, given)
    shake_parameters(model, "views")
    return model.double()


def asked(n: int, number: int | None = None) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Events, and their condition, with so many views each."""
    _, space, given = GQN.Config.example()
    y = condition(given, n)
    assert isinstance(y, tuple)
    x, camera, own, query = y
    own = own if number is None else torch.full_like(own, number)
    return events(space, n), (x, camera.double(), own, query.double())


# ---- the scene


@pytest.mark.usefixtures("double")
def test_the_order_of_the_views_is_nothing_to_the_model():
    model, (x, (seen, camera, number, query)) = built(), asked(6, 2)
    turned = (seen.flip(1), camera.flip(1), number, query)
    with seeded("order"):
        a = model.log_density(x, (seen, camera, number, query), 3)
    with seeded("order"):
        b = model.log_density(x, turned, 3)
    assert torch.allclose(a, b, atol=1e-12)
    swapped = (seen.flip(1), camera, number, query)  # a picture from another's camera is another scene
    assert not torch.allclose(model.represented(swapped), model.represented((seen, camera, number, query)))


@pytest.mark.usefixtures("double")
def test_views_that_are_not_there_are_nothing_to_the_model_and_none_give_the_prior():
    model, (x, y) = built(), asked(6, 0)
    others = (1 - y[0], y[1] + 1, *y[2:])
    assert not model.represented(y).any()
    with seeded("prior"):
        a = model.log_density(x, y, 3)
    with seeded("prior"):
        b = model.log_density(x, others, 3)
    assert torch.equal(a, b)
    one = (y[0], y[1], torch.ones(6, dtype=torch.int64), y[3])
    later = (torch.cat([y[0][:, :1], others[0][:, 1:]], 1), *one[1:])
    assert torch.equal(model.represented(one), model.represented(later))
    assert model.represented(one).any()


@pytest.mark.usefixtures("double")
def test_the_representation_is_the_sum_over_views_of_what_each_shows():
    model, (_, y) = built(), asked(5)
    x, camera, number, _ = y
    for i, n in enumerate(number.tolist()):
        each = [model.placing(model.encoder(x[i, m][None].double()), camera[i, m][None])[0] for m in range(n)]
        assert torch.allclose(model.represented(y)[i], sum(each, torch.zeros(3)), atol=1e-12)


@pytest.mark.usefixtures("double")
def test_gradients_reach_the_encoder_where_there_are_views_and_only_there():
    model = built()
    for number in (0, 1, 2):
        x, y = asked(8, number)
        model.zero_grad()
        model.loss(x, y).value.backward()
        moved = [bool(p.grad is not None and p.grad.any()) for p in model.encoder.parameters()]
        assert all(moved) if number else not any(moved)
        camera = [block.context.weight.grad for block in model.asking.blocks]  # pyright: ignore
        assert all(grad is not None and grad.any() for grad in camera)


def test_a_camera_multiplies_what_a_block_sees_and_gain_is_the_size_of_the_last_weights():
    net = ResidualMLP.Config(width=64, blocks=1, gain=2.0, scaled=True).build((3,), (50,), 2)
    W = net.last.weight
    assert abs(W.std() - 2 / 8) < ERRORS * (2 / 8) / math.sqrt(2 * W.numel())
    block, h, c = net.blocks[0], torch.randn(2, 64), torch.randn(1, 2)
    assert isinstance(block.scale, torch.nn.Linear)  # pyright: ignore[reportAttributeAccessIssue]
    shake_parameters(net, "scaled")
    with torch.no_grad():
        added = block(h, c.expand(2, -1)) - h
        assert not torch.allclose(added[0], added[1])
        block.scale.weight.zero_()
        block.scale.bias.fill_(-1)  # 1 + U c is 0: what is left is V c, whatever h is
        added = block(h, c.expand(2, -1)) - h
        assert torch.allclose(added[0], added[1], atol=1e-5)


# ---- what its numbers are worth


def real() -> GQN:
    """Of images of one real pixel, with one latent number, so that log p(x|y) is an integral over a line."""
    small, scale = MLP.Config(hidden=(3,)), Scale(factor=1, latent=1, blocks=1)
    vae = {
        "type": "models.hierarchical.HierarchicalVAE",
        "likelihood": {"type": "families.FixedScaleNormal", "scale": 0.5},
    }
    vae |= {"width": 3, "inner": 2, "scales": [scale.model_dump()]}
    _, _, given = GQN.Config.example()
    config = GQN.Config(
        context_views=2,
        representation=2,
        features=2,
        encoder=small,
        placing=ResidualMLP.Config(width=4, blocks=1),
        asking=ResidualMLP.Config(width=4, blocks=1, scaled=True),
        vae=parse(HierarchicalVAE.Config, vae),
    )
    with seeded("real"):
        model = config.build(Space((1, 1, 1)), (Space((2, 1, 1, 1)), *given[1:]))
    shake_parameters(model, "real")
    return model


@pytest.mark.usefixtures("double")
def test_the_bound_misses_log_p_by_the_divergence_of_the_posterior_and_weights_find_it():
    model = real()
    x, y = torch.randn(3, 1, 1, 1), condition(model.given, 3, "real")
    line, volume = lattice(1, 9.0, 0.01)
    with torch.no_grad(), seeded("bound"):
        z = (line.view(-1, 1, 1, 1, 1).expand(-1, 3, -1, -1, -1),)
        joint = model.likelihood(z, y).log_prob(x) + model.prior_of(0, (), y).log_prob(z[0])  # [P, 3]
        log_q = model.posteriors(x, y)[0].log_prob(z[0])
        log_p = torch.logsumexp(joint, 0) + math.log(volume)
        missed = (log_q.exp() * (log_q - joint + log_p)).sum(0) * volume
        log_w = model.log_weights(x, y, 4000)
        error = log_w.std(0) / math.sqrt(len(log_w))
        assert ((log_w.mean(0) - (log_p - missed)).abs() < ERRORS * error).all()
        assert (missed > 1e-3).all()
        w = (log_w - log_p).exp()
        assert ((w.mean(0) - 1).abs() < ERRORS * w.std(0) / math.sqrt(len(w))).all()
        shown = model.likelihood(z, y).mean[:, :, 0, 0, 0]
        truth = (shown * model.prior_of(0, (), y).log_prob(z[0]).exp()).sum(0) * volume
        assert isinstance(y, tuple)
        each = model.predicted(tuple(part.repeat_interleave(2000, 0) for part in y)).view(3, 2000)
        assert ((each.mean(1) - truth).abs() < ERRORS * each.std(1) / math.sqrt(2000)).all()


def test_a_hierarchy_is_given_a_map_and_networks_of_its_images():
    small = MLP.Config(hidden=(3,))
    config = HierarchicalVAE.Config.example()[0].model_copy(update={"encoder": small, "decoder": small})
    space, given = Space((1, 2, 2), levels=2), (Space((3, 2, 2)),)
    case = testing.ModelCase.of(config, space, given)
    wanted = ("is_a_probability", "uses_its_condition", "rows_are_independent", "gradients")
    for check in testing.MODEL_CHECKS:
        if any(name in check.__name__ for name in wanted):
            check(case)
    model = case.build()
    a, b = (
        model.prior_of(1, (torch.zeros(1, 1, 1, 1),), torch.eye(2)[None, None] * torch.ones(1, 3, 1, 1) * k).mean
        for k in (0, 9)
    )
    assert not torch.equal(a, b)
    with pytest.raises(ConfigError, match=r"is given a map of \[3, 1, 1\], expected one of \[2, 2\]"):
        config.build(space, (Space((3, 1, 1)),))


# ---- a run


TINY = {
    "type": "models.views.GQN",
    "context_views": MOST,
    "representation": 8,
    "features": 4,
    "encoder": {"type": "networks.conv.Conv", "widths": [4, 4, 4]},
    "placing": {"type": "networks.residual.ResidualMLP", "width": 8, "blocks": 1, "scaled": True, "gain": 1.0},
    "asking": {"type": "networks.residual.ResidualMLP", "width": 8, "blocks": 1, "gain": 1.0},
    "vae": {
        "scales": [{"factor": 32, "latent": 2, "blocks": 0}, {"factor": 8, "latent": 1, "blocks": 0}],
        "width": 4,
        "inner": 2,
        "likelihood": {"type": "families.SharedScaleNormal"},
        "encoder": {"type": "networks.conv.Conv", "widths": [4, 4, 4]},
        "decoder": {"type": "networks.conv.Conv", "widths": [4, 4, 4]},
    },
}
DATA = {"source": "scenes", "images": 80, "size": 32, "views": V}


@pytest.fixture(scope="module")
def run(surroundings: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("views")
    recipe = folder / "tiny.json"
    recipe.write_text(json.dumps({"data": DATA, "model": TINY, "train": {"steps": 4, "batch": 8}}))
    held = train(recipe, out=folder / "run")
    draw_pictures(held)
    return folder / "run"


def test_a_run_measures_and_draws_views_by_how_many_are_given(run: Path, tmp_path: Path):
    names = ["view_rmse", "view_psnr"]
    report = lb.evaluate(run, metrics=names)
    assert report["metrics"] == lb.evaluate(run, metrics=names)["metrics"]
    found = {name: value["value"] for name, value in report["metrics"].items()}
    assert list(found)[: MOST + 1] == [f"view_rmse.{k}" for k in range(MOST + 1)]
    images, train = Data.model_validate(DATA).open("test"), Data.model_validate(DATA).open("train")
    x = np.asarray(images.x, np.float64).reshape(-1, V, 3, 32, 32)
    at = coordinates(np.asarray(images.factors)[:, list(cameras(images))], list(cameras(images).values()))
    at = at.reshape(-1, V, at.shape[1])
    for k in range(1, MOST + 1):
        near = np.square(at[:, 1 : k + 1] - at[:, :1]).sum(-1).argmin(1) + 1
        error = np.square(x[np.arange(len(x)), near] - x[:, 0]).mean((1, 2, 3))
        assert found[f"view_rmse.nearest.{k}"] == pytest.approx(np.sqrt(error).mean())
        assert found[f"view_psnr.nearest.{k}"] == pytest.approx((-10 * np.log10(error / 255**2)).mean())
    error = np.square(np.asarray(train.x).mean(0, dtype=np.float64) - x[:, 0]).mean((1, 2, 3))
    assert found["view_rmse.mean"] == pytest.approx(np.sqrt(error).mean())
    assert report["metrics"]["view_rmse.2"]["given"] == "views"
    assert report["metrics"]["view_rmse.2"]["n"] == len(x)

    drawn = lb.sample(run, 2, views=1, seed=3, out=tmp_path / "views.npz")
    with np.load(tmp_path / "views.npz") as arrays:
        assert arrays["x"].shape == (8, 32, 32, 3)
        valid = Data.model_validate(DATA).open("valid").x
        assert np.array_equal(np.moveaxis(arrays["truth"], -1, 1), valid[::V][:2])
        assert np.array_equal(np.moveaxis(arrays["given"], -1, 2)[:, 0], valid[1::V][:2])
        assert not arrays["given"][:, 1:].any()
    assert drawn.json() == {"out": str(tmp_path / "views.npz"), "n": 2, "draws": 4, "views": [1, 1], "seed": 3}
    assert np.array_equal(lb.sample(run, 2, views=1, seed=3).x, drawn.x)
    lb.sample(run, 2, views=1, seed=3, attribute={"camera_azimuth": 45}, out=tmp_path / "turned.npz")
    with np.load(tmp_path / "turned.npz") as arrays:
        assert set(arrays) == {"x", "given", "number"}  # nobody knows the truth
    turned = lb.sample(run, 2, views=1, seed=3, attribute={"camera_azimuth": "0..360:3"}, out=tmp_path / "turned.gif")
    assert turned.x.shape == (2, 3, 3, 32, 32)
    assert turned.json()["values"] == ["0", "120", "240"]
    assert (run / "pictures" / "samples.png").stat().st_size > 1000


def test_a_view_is_asked_for_by_any_camera(run: Path):
    own, model = Run.open(run), lb.load(run)
    assert isinstance(model, GQN)
    shake_parameters(model, "camera")
    batches = as_batches(own, own.recipe.data.open("valid"), torch.device("cpu"))
    assert batches.views is not None

    def seen(camera: dict[str, float]) -> np.ndarray:
        with seeded(0):
            return draw(
                model, batches, torch.ones(1, dtype=torch.int64), how=Draw(mean=True), asked=Asked(attributes=camera)
            ).x

    there = {f.name: value for f, value in zip(batches.views.factors, batches.views.values[0].tolist(), strict=True)}
    assert np.array_equal(seen(there), seen({}))
    assert np.array_equal(seen({"camera_azimuth": -90}), seen({"camera_azimuth": 270}))
    assert not np.array_equal(seen({"camera_azimuth": 270}), seen({}))


def test_a_run_is_loaded_as_it_was_and_its_batches_are_those_of_a_step(run: Path):
    own = Run.open(run)
    assert [f.name for f in own.facts.cameras] == ["camera_azimuth", "camera_elevation", "camera_distance"]
    parts = [as_batches(Run.open(run), own.recipe.data.open("train"), torch.device("cpu")) for _ in range(2)]
    taken = []
    for batches in parts:
        with seeded(0):
            reseed(7)
            taken.append(batches.training(3, 8, 0))
    (x, y), (again, given) = taken
    assert torch.equal(x, again)
    assert y is not None
    assert given is not None
    assert all(torch.equal(a, b) for a, b in zip(y, given, strict=True))
    model = lb.load(run)
    assert isinstance(model, GQN)
    assert model.sample(8, y).shape == (8, 3, 32, 32)
    draw_reconstructions(own, model, next(parts[0].in_order(16)))  # of the first eight
    assert own.picture("reconstructions.png").is_file()


def test_a_run_is_measured_again_examined_and_trained_on(run: Path, tmp_path: Path):
    on = tmp_path / "run"
    shutil.copytree(run, on)
    device = torch.device("cpu")
    looked = Examined.of(Run.open(on), lb.load(on), None, device, Progress())
    assert len(looked.train) == len(Data.model_validate(DATA).open("train"))
    train(run.parent / "tiny.json", changes=["train.steps=6"], out=on, resume=True)
    whole = train(run.parent / "tiny.json", changes=["train.steps=6"], out=tmp_path / "whole").model
    for a, b in zip(lb.load(on).parameters(), whole.parameters(), strict=True):
        assert torch.equal(a, b)
    assert lb.evaluate(on, metrics=["elbo"])["metrics"] == lb.evaluate(on, metrics=["elbo"])["metrics"]


def test_a_loaded_model_is_a_module_of_any_precision(run: Path):
    model = lb.load(run)
    assert isinstance(model, GQN)
    x, y = events(model.space, 2), condition(model.given, 2)
    assert isinstance(y, tuple)
    y = (*y[:2], torch.tensor([0, MOST]), y[3])
    again = type(model)(model.config, model.space, model.given)
    again.load_state_dict(model.state_dict())
    with seeded(1):
        a = model.log_density(x, y, 2)
    with seeded(1):
        assert torch.equal(again.log_density(x, y, 2), a)
    with seeded(1):
        assert torch.allclose(again.double().log_density(x, y, 2).float(), a, rtol=1e-4)
    assert again.bfloat16().log_density(x, y, 2).isfinite().all()
    assert again.sample(2, tuple(part.numpy() for part in y)).shape == x.shape  # pyright: ignore[reportArgumentType]
    model.loss(x, y).value.backward()
    with pytest.raises(ModelError, match="a condition holds numbers that are not finite"):
        model.sample(2, (y[0], y[1] * float("nan"), *y[2:]))


def test_what_can_not_be_asked_of_views_is_said(run: Path, tmp_path: Path):
    model, recipe = lb.load(run), run.parent / "tiny.json"
    alone = "is of views of scenes, and given others|editing needs a single vector"
    image, out = tmp_path / "image.png", tmp_path / "f"
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(image)
    for ask in (
        lambda: lb.edit(run, [image], set={0: 1.0}, out=out),
        lambda: lb.complete(run, [image], out=out),
        lambda: lb.interpolate(run, [image, image], out=out),
        lambda: lb.reconstruct(run, [image], out=out),
        lambda: lb.traverse(run, image, out=out),
    ):
        with pytest.raises(UserError, match=alone):
            ask()
    wrong = {
        "--attribute camera_azimut=3: 'camera_azimut' is not among what the model is given; did you mean": lambda: (
            lb.sample(run, 2, attribute={"camera_azimut": 3})
        ),
        "--attribute camera_elevation=70: expected a number from 10 to 60 deg": lambda: lb.sample(
            run, 2, attribute={"camera_elevation": 70}
        ),
        "--views -1: this model is given 0 to 3 views": lambda: lb.sample(run, views=-1),
        "draws views of scenes given others, no images by themselves": lambda: lb.evaluate(run, metrics=["frechet"]),
        "is of views of scenes: a probe has no others": lambda: lb.probe(run),
        "data.binarize=true: models.views.GQN is given views": lambda: lb.train(
            recipe, "data.binarize=true", out=tmp_path / "f"
        ),
        "--views 4: this model is given 0 to 3 views": lambda: lb.sample(run, views=4),
        "-n 90: there are": lambda: lb.sample(run, 90),
        "--label, --reject, --from:": lambda: lb.sample(run, images=[image]),
        "is asked for a view by its camera": lambda: model.sample(3),
        "model.context_views=3: scenes have data.views=2, one of which is asked for": lambda: lb.train(
            recipe, "data.views=2", out=tmp_path / "a"
        ),
        "data.views=null: models.views.GQN is given other views": lambda: lb.train(
            recipe, "data.views=null", out=tmp_path / "b"
        ),
        "digits does not say where its images were taken from": lambda: lb.train(
            recipe, "data.images=null", "data.size=null", data="digits", out=tmp_path / "c"
        ),
        "data.flip=true: a view in a mirror": lambda: lb.train(recipe, "data.flip=true", out=tmp_path / "d"),
        "data.label=shape: models.views.GQN is given views alone": lambda: lb.train(
            recipe, "data.label=shape", out=tmp_path / "e"
        ),
        "is of views of scenes, and given others with their cameras": lambda: Run.open(run).condition(3),
    }
    for said, ask in wrong.items():
        with pytest.raises(UserError) as e:
            ask()
        assert said in str(e.value)
    assert not any((tmp_path / name).exists() for name in "abcdef")
    with pytest.raises(ConfigError, match=r"model: a GQN is given other views of a scene"):
        GQN.Config.example()[0].build(Space((1, 2, 2), levels=2))
    assert issubclass(RunError, UserError)
    assert issubclass(ModelError, UserError)

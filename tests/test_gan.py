"""Generative adversarial networks: what the two networks descend, how they take turns, which weights are kept."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import lowerbound as lb
from command import call, right
from lowerbound import testing
from lowerbound.errors import ConfigError, ModelError
from lowerbound.likeness import PixelFeatures, frechet
from lowerbound.models.gan import GAN, Discriminating
from lowerbound.networks.conv import Conv
from lowerbound.networks.mlp import MLP
from lowerbound.networks.resnet import ResNet
from lowerbound.networks.spectral import spectrally_normalized
from lowerbound.noise import key, rand, randint, randn, seeded
from lowerbound.objectives import R1, Hinge, NonSaturating, OneLipschitz, Wasserstein
from lowerbound.objectives.games import slopes
from lowerbound.optimization import Adam, Averaging
from lowerbound.runs.inputs import as_batches, open_data
from lowerbound.runs.recipes import Training
from lowerbound.runs.run import Run
from lowerbound.sampling.sheets import Live
from lowerbound.space import Density, Space
from lowerbound.stages import Stage
from lowerbound.training import train as training
from lowerbound.training.loop import Loop
from lowerbound.training.movers import Movers
from lowerbound.training.validation import Validation
from lowerbound.verbs.doctor import adversarial
from pages import serving
from test_train import Died, assert_same_run, tensors

pytestmark = pytest.mark.usefixtures("surroundings")

CPU = torch.device("cpu")
SMALL = MLP.Config(hidden=(4,))
PIXELS = Space((1, 2, 2), levels=3)


def gan(**parts: Any) -> GAN.Config:
    own = {"network": SMALL, "features": 3, **parts.pop("discriminator", {})}
    return GAN.Config(**{"latent": 2, "generator": SMALL, "discriminator": Discriminating(**own), **parts})


# ---- what is descended


def test_the_best_discriminator_of_the_first_game_is_the_log_ratio_and_its_loss_the_divergence(double):
    p, q = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.1, 0.3, 0.6])

    def loss(D: Tensor) -> Tensor:
        real, drawn = torch.meshgrid(D, D, indexing="ij")
        return (p[:, None] * q * NonSaturating().discriminator(real, drawn)).sum()

    D = (p / q).log().requires_grad_()
    (slope,) = torch.autograd.grad(loss(D), D)
    assert float(slope.abs().max()) < 1e-12  # the loss is convex in D
    m = (p + q) / 2
    js = 0.5 * (p * (p / m).log() + q * (q / m).log()).sum()
    assert float(loss(D.detach())) == pytest.approx(2 * math.log(2) - 2 * float(js), abs=1e-12)


def test_generators_climb_where_the_discriminator_rises(double):
    D = torch.tensor([-30.0, 0.0, 30.0], requires_grad=True)
    (slope,) = torch.autograd.grad(NonSaturating().generator(D).sum(), D)
    assert torch.allclose(slope, torch.tensor([-1.0, -0.5, 0.0]), atol=1e-9)  # it does not saturate where D is sure
    for game in (Hinge(), Wasserstein()):
        (slope,) = torch.autograd.grad(game.generator(D).sum(), D)
        assert (slope == -1).all()


def test_the_hinge_stops_at_its_margin(double):
    real, drawn = torch.tensor([0.5, 1.5], requires_grad=True), torch.tensor([-0.5, -1.5], requires_grad=True)
    each = Hinge().discriminator(real, drawn)
    assert each.tolist() == [1.0, 0.0]
    slopes_of = torch.autograd.grad(each.sum(), (real, drawn))
    assert [s.tolist() for s in slopes_of] == [[-1.0, 0.0], [1.0, 0.0]]


def test_the_wasserstein_distance_of_shifted_normals_is_the_shift(double):
    """By a linear D of slope 1, which is the best there is; the penalty of another slope is λ (slope - 1)²."""
    shift, a = torch.tensor([3.0, 4.0]), torch.tensor([0.6, 0.8])
    drawn = randn((50, 2))
    real = drawn + shift
    assert float(-Wasserstein().discriminator(real @ a, drawn @ a).mean()) == pytest.approx(5.0)
    for scale, expected in ((1.0, 0.0), (3.0, 40.0), (0.0, 10.0)):
        penalty = OneLipschitz()(lambda x, s=scale: x @ (s * a), real, drawn)
        assert torch.allclose(penalty, torch.full((50,), expected))


def test_penalties_are_of_the_slope_of_each_event_and_can_be_descended(double):
    x, other = randn((6, 1, 2, 3)), randn((6, 1, 2, 3))
    a = torch.tensor(2.0, requires_grad=True)

    def D(x: Tensor) -> Tensor:
        return a / 2 * x.flatten(1).square().sum(1)  # whose gradient is a x

    assert torch.allclose(slopes(D, x), a * x.flatten(1))
    each = R1(gamma=3.0)(D, x, other)
    assert torch.allclose(each, 1.5 * 4 * x.flatten(1).square().sum(1))
    (slope,) = torch.autograd.grad(each.sum(), a)
    assert torch.allclose(slope, 3.0 * a * x.square().sum())
    with seeded("between"):
        each = OneLipschitz(weight=2.0)(D, x, other)
    with seeded("between"):
        e = rand((6, 1, 1, 1))
    between = (e * x + (1 - e) * other).flatten(1)
    assert torch.allclose(each, 2 * (a * between.norm(dim=1) - 1).square())


# ---- the model


VARIANTS: dict[str, tuple[GAN.Config, Space, tuple[Space, ...]]] = {
    "Wasserstein": (
        gan(objective=Wasserstein(), penalty=OneLipschitz(), discriminator={"steps": 2, "optimizer": Adam(lr=0.02)}),
        PIXELS,
        (),
    ),
    "spectral residual": (
        gan(
            generator=ResNet.Config(widths=(4,), blocks=1),
            penalty=None,
            discriminator={"network": ResNet.Config(widths=(4,), blocks=1), "spectral": True},
        ),
        Space((1, 2, 2), levels=256),
        (),
    ),
    "convolutions given a label": (
        gan(
            generator=Conv.Config(widths=(4, 4), normalized=True),
            discriminator={"network": Conv.Config(widths=(4, 4), slope=0.2), "spectral": True},
        ),
        Space((3, 4, 4), levels=256),
        (testing.LABEL,),
    ),
    "joined to its label": (gan(discriminator={"projected": False}), PIXELS, (testing.LABEL,)),
    "attributes of binary values": (gan(), Space((1, 2, 2), levels=2), (Space((2,)),)),
    "real events": (gan(), Space((2,)), ()),
}


CHECKS = ("trains", "gradients", "round_trips_through_a_file", "samples", "uses", "computes")


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants(variant: str):
    case = testing.ModelCase.of(*VARIANTS[variant])
    for check in testing.MODEL_CHECKS:
        if check.__name__.startswith(tuple(f"model_{name}" for name in CHECKS)):
            check(case)
    testing.check_training(*VARIANTS[variant])


@pytest.mark.parametrize(
    "variant", ["convolutions given a label", "joined to its label", "attributes of binary values"]
)
def test_both_networks_are_told_the_condition(variant: str):
    config, space, given = VARIANTS[variant]
    case = testing.ModelCase.of(config, space, given)
    model, x = case.build(), case.x(4)
    a, b = ((torch.full((4,), k) if not given[0].shape else torch.full((4, 2), float(k))) for k in (0, 1))
    assert isinstance(model, GAN)
    assert not torch.allclose(model.realness(x, a), model.realness(x, b))
    z = torch.ones(4, 2)
    assert not torch.allclose(model.generated(z, a), model.generated(z, b))


def test_a_projected_discriminator_is_bilinear(double):
    """D(x, y) - D(x, y') is the same combination of features for all x: linear in the embedding of y."""
    model = testing.ModelCase.of(gan(), PIXELS, (testing.LABEL,)).build()
    assert isinstance(model, GAN)
    x, D = torch.randint(3, (50, 1, 2, 2)), model.discriminator
    y = [torch.full((50,), k) for k in range(3)]
    embedded = D.condition.maps[0].weight
    features = torch.nn.functional.leaky_relu(D.network(model._scaled(x)), 0.2)
    for k in range(3):
        expected = D.last(features)[:, 0] + features @ embedded[k]
        assert torch.allclose(D(model._scaled(x), y[k]), expected)


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_rounding_takes_the_noise_of_the_pixels_away(levels: int):
    model = gan().build(Space((1, 2, 2), levels=levels))
    x = randint(0, levels, (500, 1, 2, 2)).to(torch.uint8)
    noisy = model._noisy(model._scaled(x))
    assert float((noisy - model._scaled(x)).abs().max()) > 0.4 * 2 / (levels - 1)
    assert torch.equal(model._rounded(noisy), x)
    beyond = model._rounded(torch.tensor([-1.5, 1.5]))
    assert beyond.tolist() == [0, levels - 1]


def test_each_loss_moves_its_own_network(double):
    model = testing.ModelCase.of(gan(), PIXELS, (testing.LABEL,)).build().train()
    x, y = torch.randint(3, (8, 1, 2, 2)), torch.randint(3, (8,))
    (stage,) = model.stages()
    for turn in stage.turns:
        own = {id(p) for part in turn.parts for p in part.parameters()}
        model.zero_grad()
        turn.loss(x, y, 0).value.backward()
        moved = {id(p) for p in model.parameters() if p.grad is not None}
        assert moved == own, turn.name


def test_samples_are_what_the_latents_are_made_into():
    model = testing.ModelCase.of(*VARIANTS["convolutions given a label"]).build()
    assert isinstance(model, GAN)
    y = torch.tensor([0, 1, 2, 0, 1])
    with seeded("sample"):
        drawn = model.draw(5, y)
    assert torch.equal(model.from_noise(drawn.z[0], y), drawn.x)
    assert (model.sample(3, y[[0, 0, 0]], temperature=0.0) == model.from_noise(torch.zeros(3, 2), y[[0, 0, 0]])).all()
    assert model.density is Density.NONE


# ---- spectral normalization


def test_every_layer_is_divided_by_its_largest_singular_value():
    with seeded("network"):
        network = ResNet.Config(widths=(4, 6), blocks=1).build((3, 8, 8), (5,))
        spectrally_normalized(network)
    x = randn((2, 3, 8, 8))
    for _ in range(200):  # of the power method
        network(x)
    weights = [m.weight.detach() for m in network.modules() if hasattr(m, "parametrizations")]
    assert len(weights) == 7
    for weight in weights:  # also of those that begin at zero
        assert float(torch.linalg.matrix_norm(weight.flatten(1), 2)) == pytest.approx(1, abs=1e-3)


# ---- turns


def test_a_turn_of_several_moves_takes_a_batch_for_each():
    model = gan(discriminator={"steps": 3}).build(PIXELS)
    (stage,) = model.stages()
    seen: dict[str, list[Tensor]] = {"discriminator": [], "generator": []}

    def remembered(turn: Any) -> Any:
        def loss(x: Tensor, y: Any, step: int) -> Any:
            seen[turn.name].append(x)
            return turn.loss(x, y, step)

        return turn._replace(loss=loss)

    stage: Stage = stage._replace(turns=tuple(map(remembered, stage.turns)))
    assert stage.batches == 3
    config = testing.training.TRAINING
    movers = Movers(model, stage, config, 10, torch.device("cpu"))
    batches = [(torch.full((4, 1, 2, 2), k, dtype=torch.uint8), None) for k in range(3)]
    for step in range(2):
        moved = movers.step(batches, step)
    assert [int(x[0, 0, 0, 0]) for x in seen["discriminator"]] == [0, 1, 2, 0, 1, 2]
    assert [int(x[0, 0, 0, 0]) for x in seen["generator"]] == [0, 0]
    steps = [{int(s["step"]) for s in m.optimizer.state_dict()["state"].values()} for m in movers.each]
    assert steps == [{6}, {2}]
    assert moved[0].loss.terms["real"].shape == (12,)  # pyright: ignore[reportPossiblyUnbound]
    assert config.model_copy(update={"steps": None, "epochs": 6.0}).total_steps(40, 3) == 20


# ---- training


WORDS = (
    "model.latent=4",
    "model.generator.widths=[4,8]",
    "model.discriminator.network.widths=[4,8]",
    "model.discriminator.features=8",
    "train.steps=24",
    "train.batch=16",
    "train.log_every=7",
    "train.valid_every=8",
)


def play(out: Path, *changes: str, **options: Any) -> Run:
    words = (*WORDS, *changes)
    return training.train("gan-digits", out=out, changes=words, device="cpu", pictures=Live, **options).run


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    """Trained for a moment."""
    return play(tmp_path_factory.mktemp("gan") / "run")


def test_its_noise_is_pulled_at_on_a_page_and_no_image_has_a_code(run: Run):
    with serving([run]) as page:
        (said,) = page.ask("", "runs").said["runs"]
        about = page.ask("latent", "about").said
        drawn = page.ask("latent", "draw", seed=1, count=2).arrays
        again = page.ask("latent", "decode", z=drawn["z"][1].tolist()).arrays["picture"]
        refused = page.ask("latent", "encode", image="valid:0").error
    assert [p["name"] for p in said["panels"] if p["name"] in ("latent", "map")] == ["latent"]
    assert about["draws"]
    assert not about["encodes"]
    np.testing.assert_array_equal(again, drawn["pictures"][1])
    assert "GAN" in refused


def test_the_weights_whose_samples_are_nearest_are_kept(run: Run):
    scores = [r["minus_frechet"] for r in run.log.records() if r["split"] == "valid"]
    assert len(scores) == 3
    assert run.states()["model"]["best"] == max(scores)
    model, images = run.load(), [as_batches(run, open_data(run, split), CPU) for split in ("train", "valid")]
    (stage,), seed = model.stages(), key(run.recipe.seed, "model")
    kept = Validation(model, stage, (images[0], images[1]), run.recipe.train, 24, seed)
    assert kept.score() == pytest.approx(max(scores), rel=1e-6)
    model.eval()
    # by hand, the real images and those of training that components are fitted to taken anew
    with seeded(seed, "valid", quick=True):
        drawn = torch.cat([model.sample(len(images[1])) for _ in range(math.ceil(1000 / len(images[1])))])
    features = PixelFeatures(images[0].x.numpy(), 17)
    by_hand = frechet(features(drawn.numpy()), features(images[1].x.numpy()))
    assert by_hand == pytest.approx(-max(scores), rel=1e-3)


def test_real_events_are_compared_as_they_are():
    model = gan().build(Space((2,)))
    valid = testing.training.Events(testing.ModelCase.of(gan(), Space((2,))), "valid")
    (stage,) = model.stages()
    validation = Validation(model, stage, (valid, valid), testing.training.TRAINING, 1, 0)
    with seeded(0, "valid", quick=True):
        drawn = torch.cat([model.sample(40) for _ in range(25)])
    assert -validation.score() == pytest.approx(frechet(drawn.double().numpy(), valid.x.double().numpy()))
    assert validation.shown(-2.0) == "validation Fréchet distance of samples 2"


def test_it_is_killed_and_resumed_exactly(tmp_path, monkeypatch):
    changes = ("data.label=true", "model.discriminator.steps=2", "model.discriminator.spectral=true")
    whole, out = play(tmp_path / "whole", *changes).path, tmp_path / "parts"
    for step in (8, 19):
        taken = Loop._step

        def dying(loop: Loop, step: int = step, taken: Any = taken) -> Any:
            if loop.step == step:
                raise Died
            return taken(loop)

        with monkeypatch.context() as m:
            m.setattr(Loop, "_step", dying)
            with pytest.raises(Died):
                play(out, *changes, "train.save_seconds=1e-9", resume=True)
    play(out, *changes, "train.save_seconds=60", resume=True)
    assert_same_run(whole, out)
    kept = tensors(whole / "model.safetensors")
    assert any("parametrizations" in name and name.endswith("_u") for name in kept)


# ---- what is refused


def test_what_it_can_not_be_trained_on_is_said_before_anything_is_written(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (400, 10, 10), dtype=np.uint8)
    np.savez(tmp_path / "few.npz", x=x[:10, :8, :8])
    np.savez(tmp_path / "odd.npz", x=x)

    def told(*changes: str, **options: Any) -> str:
        with pytest.raises((ConfigError, ModelError)) as e:
            play(tmp_path / "run", *changes, **options)
        assert not (tmp_path / "run").exists()
        return str(e.value)

    assert "7 training images" in told(data=tmp_path / "few.npz")
    assert "10x10 can't be halved 2 times" in told(data=tmp_path / "odd.npz")
    assert "train.batch=1: the networks are normalized" in told("train.batch=1")
    assert "model.penalty: objectives.R1 takes the slope" in told("model.discriminator.network.normalized=true")
    assert "1 validation image" in told("train.valid_images=1")
    assert "objectives.Game is abstract" in told("model.objective=objectives.Game")
    play(tmp_path / "one", "train.batch=1", "model.generator.normalized=false", "train.steps=3")
    with pytest.raises(ConfigError, match="codes, whose values are names"):
        gan().build(Space((2, 2), levels=5, ordered=False))


def test_what_it_does_not_say_is_said_in_a_sentence(run: Run, tmp_path):
    image, out = tmp_path / "one.png", tmp_path / "out.png"
    right("sample", run.path, "-n", 1, "--out", image)
    no_code = "a GAN makes images of noise, and has no encoder"
    for words, expected in (
        (("reconstruct", run.path, image), no_code),
        (("encode", run.path, "--out", tmp_path / "z.npz"), no_code),
        (("edit", run.path, image, "--set", "0=1", "--out", out), no_code),
        (("interpolate", run.path, image, image, "--out", out), no_code),
        (("traverse", run.path, "--out", out), no_code),
        (("probe", run.path), no_code),
        (("predict", run.path, image), "recipe classifier"),
        (("score", run.path, "digits", "--out", tmp_path / "s.csv"), "a VAE (recipe vae) has a bound"),
        (("evaluate", run.path, "--metrics", "nll"), "a VAE (recipe vae) has a bound"),
        (("sample", run.path, "-n", 2, "--mean", "--out", out), "no mean of p(x|z)"),
        (("complete", run.path, image, "--keep", "top:0.5", "--out", out), "can't complete images"),
    ):
        done = call(*words)
        assert (done.status, expected in done.err) == (2, True), (words, done.err)
    report = right("evaluate", run.path, "--json").json["metrics"]
    assert report["nll"] == {"value": None, "relation": "?"}


# ---- the doctor


def checked(run: Run) -> dict[str, Any]:
    found = lb.doctor(str(run.path), device="cpu")
    return {"wrong": {f["name"] for f in found["findings"]}, **{c["name"]: c["value"] for c in found["checked"]}}


def test_the_doctor_sees_a_collapse_and_a_discriminator_that_has_won(run: Run, tmp_path):
    own = Run.open(Path(shutil.copytree(run.path, tmp_path / "run")))
    model = own.load()
    assert isinstance(model, GAN)
    with torch.no_grad():
        model.generator.layers[-1].weight.zero_()  # pyright: ignore
    own.save_model(model)
    lines = [json.loads(line) for line in own.log.path.read_text().splitlines()]
    own.log.clear()
    for line in lines:
        own.log.append({k: 0.99 if k == "discriminator.accuracy" else v for k, v in line.items()})
    found = checked(own)
    assert {"samples.diversity", "samples.recall", "discriminator.won"} <= found["wrong"]
    assert found["samples.diversity"] == pytest.approx(0, abs=1e-9)
    assert found["discriminator.won"] == pytest.approx(0.99)
    assert "discriminator.won" not in checked(run)["wrong"]


def test_the_doctor_sees_images_known_by_heart():
    rng = np.random.default_rng(0)
    good = {"diversity": 1.0, "recall": 0.8, "recall_of_images": 0.9, "n": 1000, "accuracy": 0.7}

    def wrong(**changes: Any) -> set[str]:
        means = {"train": 1.0, "valid": 1.0, "drawn": -1.0}
        said = {name: rng.normal(changes.pop(name, mean), 1, 500) for name, mean in means.items()}
        return {c.name for c in adversarial.Game(**{**good, **changes}, **said).checks() if c.wrong}

    assert wrong() == set()
    assert wrong(valid=-0.5) == {"discriminator.by_heart"}
    assert wrong(valid=0.3) == set()
    assert wrong(recall=0.3) == {"samples.recall"}
    assert wrong(recall=0.3, n=20) == set()
    assert wrong(diversity=0.2, accuracy=None) == {"samples.diversity"}
    assert wrong(accuracy=0.97) == {"discriminator.won"}


# ---- modes


def grid(n: int) -> Tensor:
    """Draws of 25 normals on a grid of 5 by 5: [n, 2]. Their spread is a tenth of their distance, which is 2."""
    return 2.0 * (randint(0, 5, (n, 2)) - 2) + 0.2 * randn((n, 2))


@pytest.mark.slow
def test_all_modes_of_25_normals_are_found():
    """3,000 steps, 20 seconds: of fewer, samples lie between the modes."""
    network = MLP.Config(hidden=(128, 128), activation="leaky_relu", gain=1.41)
    config = gan(generator=network, discriminator={"network": network, "features": 64}, penalty=R1(gamma=0.1))
    with seeded("modes"):
        model = config.build(Space((2,)))
    (stage,) = model.stages()
    adam = Adam(lr=2e-3, beta1=0.0, beta2=0.99)
    movers = Movers(model.train(), stage, Training(optimizer=adam, averaging=Averaging()), 3000, CPU)
    with seeded("game", quick=True):
        for step in range(3000):
            movers.step([(grid(128), None)], step)
        for weight, average in zip(movers.weights, movers.average, strict=True):
            weight.copy_(average)
        x = model.eval().sample(5000)
    mode = (x / 2).round().clamp(-2, 2)
    inside = (x - 2 * mode).norm(dim=1) < 0.6  # 3 spreads; of uniform draws 28 in 100 are
    found, often = mode[inside].unique(dim=0, return_counts=True)
    assert len(found) == 25
    assert float(often.min()) > 0.25 * 5000 / 25 * float(inside.float().mean())
    assert float(inside.float().mean()) > 0.6

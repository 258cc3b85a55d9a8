"""A VAE whose prior learns labels (M1+M2): what each of its two trainings sees, and what its numbers are of."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import lowerbound as lb
from command import call, right
from lowerbound import testing
from lowerbound.data.base import Data
from lowerbound.data.batches import LABELLED, Batches
from lowerbound.errors import ConfigError
from lowerbound.families import DiagonalNormal
from lowerbound.metrics.base import World, measure
from lowerbound.models.vae import VAE
from lowerbound.networks.mlp import MLP
from lowerbound.noise import seeded
from lowerbound.objectives import Reconstruction
from lowerbound.priors import StandardNormal
from lowerbound.runs.run import Run
from lowerbound.space import UNKNOWN, Space
from lowerbound.testing.base import all_events, shake_parameters
from lowerbound.training.prepared import prepared
from lowerbound.training.train import train

SMALL = MLP.Config(hidden=(4,))
WORLD = Space((1, 2, 2), levels=2)
DIM = 2


def learns(**parts: object) -> VAE.Config:
    wanted = {"latent": (1,), "encoder": SMALL, "decoder": SMALL, "classifier": SMALL, "likelihood": DiagonalNormal()}
    return VAE.Config(**wanted | parts)  # pyright: ignore[reportArgumentType]


def stacked(scale: float = 0.5, parts: dict[str, object] | None = None) -> VAE:
    wanted = {"latent": (DIM,), "encoder": SMALL, "decoder": SMALL, "prior": learns()} | (parts or {})
    with seeded("m1m2"):
        model = VAE.Config(**wanted).build(WORLD, (testing.LABEL,)).eval()  # pyright: ignore[reportArgumentType]
    shake_parameters(model, "m1m2", scale=scale)
    return model


def test_weights_without_a_label_are_of_log_p():
    """The probabilities of all images add up to one, and those without a label are the sum over y."""
    model = stacked(0.3).double()
    assert isinstance(model.own_prior, VAE)
    for part in (model, model.own_prior):  # posteriors that are wider than priors: weights of a small variance
        part.encoder.layers[-1].bias.data.chunk(2)[1].add_(0.6)  # pyright: ignore
    world = all_events(WORLD, 256)
    assert world is not None
    n = len(world)
    with torch.no_grad(), seeded("draws"):
        w = model._log_weights(world, torch.full((n,), UNKNOWN), 8000).exp()
        of_y = torch.stack([model._log_weights(world, torch.full((n,), c), 8000).exp().mean(0) for c in range(3)])
    total = w.sum(1)
    assert abs(float(total.mean()) - 1) < 4 * float(total.std()) / math.sqrt(len(total))
    error = w.std(0) / math.sqrt(len(w)) + 1e-3
    assert ((w.mean(0) - of_y.mean(0)).abs() < 4 * error).all()
    assert float((of_y[0] - of_y[1]).abs().max()) > 0.005  # the label counts


def test_the_networks_are_trained_as_those_of_a_vae_of_their_own():
    """With N(0, I), whatever the prior and the label; the prior alone after them."""
    model = stacked()
    plain = VAE.Config(latent=(DIM,), encoder=SMALL, decoder=SMALL).build(WORLD)
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if "prior" not in k})
    x = torch.randint(0, 2, (5, 1, 2, 2), dtype=torch.uint8)
    with seeded("loss"):
        own = model.train().loss(x, torch.tensor([0, 1, 2, 0, 1])).value
    with seeded("loss"):
        torch.testing.assert_close(own, plain.train().loss(x).value)
    first, second = model.stages()
    trained = [
        {id(p) for turn in stage.turns for part in turn.parts for p in part.parameters()} for stage in (first, second)
    ]
    assert trained[1] == {id(p) for p in model.own_prior.parameters()}
    assert trained[0] == {id(p) for p in model.parameters()} - trained[1]


def test_until_it_is_trained_the_prior_is_the_normal():
    model = stacked()
    _, stage = model.stages()
    x, y = torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.zeros(3, dtype=torch.long)
    stage.learned(False)
    assert isinstance(model.prior, StandardNormal)
    torch.testing.assert_close(model.prior_of(0, (), y).mean, torch.zeros(DIM))
    assert model.sample(3, y).shape == x.shape
    again = stacked()
    again.load_state_dict(model.state_dict())
    assert isinstance(again.prior, StandardNormal)
    stage.learned(True)
    assert model.prior is model.own_prior


def test_the_prior_is_trained_on_new_draws_of_the_posterior():
    model = stacked()
    prepare = model.stages()[1].prepare
    assert prepare is not None
    x, y = torch.randint(0, 2, (3, 1, 2, 2), dtype=torch.uint8), torch.tensor([0, UNKNOWN, 2])
    with torch.no_grad(), seeded("z"):
        parts = prepare.make(x, y)
        draws = torch.stack([prepare.given(parts, y)[0] for _ in range(4000)])
        (q,) = model.posteriors(x)
    assert ((draws.mean(0) - q.mean).abs() < 4 * q.stddev / math.sqrt(4000)).all()
    torch.testing.assert_close(draws.std(0), q.stddev, rtol=0.06, atol=0)
    assert prepare.given(parts, y)[1] is y


def test_labelled_codes_are_drawn_as_often_as_labelled_images(tmp_path: Path):
    images = Data(source="digits", label=True).open("train")
    few = list(range(0, 500, 10))
    prepare = VAE.Config(latent=(DIM,), encoder=SMALL, decoder=SMALL, prior=learns())
    with seeded("build"):
        model = prepare.build(Space((1, 8, 8), levels=17), (Space((), 10, ordered=False),)).eval()
    made = model.stages()[1].prepare
    assert made is not None
    for flip in (False, True):
        batches = Batches(images, torch.device("cpu"), label=True, labelled=few, flip=flip)
        kept = prepared(tmp_path / f"{flip}", batches, made, "weights", lambda done, total: None)
        for step in range(5):
            with seeded("step", step):
                _, y = kept.training(step, 40, 0)
            assert int((y != UNKNOWN).sum()) >= 40 * LABELLED
        assert kept.y is not None
        assert int((kept.y != UNKNOWN).sum()) == len(few) * (1 + flip)


def test_another_label_is_another_code_of_the_same_style():
    """Where p(z1|y, z2) = N(m_y + A z2, 1): A z2 stays, m_y changes."""
    linear = MLP.Config(hidden=())
    model = stacked(parts={"prior": learns(decoder=linear)})
    prior, z = model.own_prior, torch.randn(6, DIM)
    y, target = torch.tensor([0, 1, 2, 0, 1, 2]), torch.tensor([1, 1, 0, 2, 0, 2])
    with torch.no_grad():
        moved = model.relabelled(z, y, target)
        centre = prior.likelihood((torch.zeros(6, 1),), y).mean, prior.likelihood((torch.zeros(6, 1),), target).mean  # pyright: ignore
        style = model.relabelled(z, y, y) - centre[0]
        torch.testing.assert_close(moved - centre[1], style)
        assert float(style.std(0).min()) > 1e-3
        assert float((moved - model.relabelled(z, y, y)).abs()[[0, 2, 3, 4]].min()) > 1e-3
        one = VAE.Config(latent=(DIM,), encoder=SMALL, decoder=SMALL).build(WORLD, (testing.LABEL,))
        assert one.relabelled(z, y, target) is z


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"classifier": SMALL}, "model.classifier=null"),
        ({"objective": Reconstruction()}, "model.objective=objectives.ELBO"),
    ],
)
def test_mistakes(parts: dict[str, object], message: str):
    with pytest.raises(ConfigError, match=message):
        stacked(parts=parts)


# ---- the command

TINY = ["model.encoder.hidden=[32]", "model.decoder.hidden=[32]", "model.latent=8", "data.binarize=false"]
TINY += ["model.likelihood=families.SharedScaleNormal", "train.averaging=null"]
PRIOR = [f"model.prior.{part}.hidden=[32]" for part in ("encoder", "decoder", "classifier")]
QUICK = [*TINY, *PRIOR, "model.prior.latent=2", "train.epochs=null", "train.steps=400", "train.optimizer.lr=1e-2"]
AFTER = ["train.stages.prior.steps=300", "train.stages.prior.epochs=null"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stacked") / "run"
    train("m1m2-mnist", data="digits", out=path, changes=[*QUICK, *AFTER], device="cpu")
    return path


def test_a_few_labels_teach_the_others(run: Path, tmp_path: Path):
    report = right("evaluate", run, "--metrics", "accuracy,elbo,nll", "--draws", "3", "--json").json["metrics"]
    assert report["accuracy"]["value"] > 0.7
    assert report["nll"]["given"] == report["elbo"]["given"] == "label"
    assert len(Run.open(run).facts.labelled or ()) == 100
    picture = tmp_path / "digit.png"
    Image.fromarray((Data(source="digits").open("test").x[0, 0] * 15).astype(np.uint8)).save(picture)
    assert set(right("predict", run, picture, "--json").json[0]) == {"path", "label", "probability"}
    right("sample", run, "-n", "4", "--label", "3", "--out", tmp_path / "threes.npz")
    for label in (3, 7):
        right("edit", run, picture, "--label", str(label), "--own-label", "3", "--out", tmp_path / f"{label}.npz")
    three, seven = (np.load(tmp_path / f"{label}.npz")["x"].astype(int) for label in (3, 7))
    assert np.abs(three - seven).max() > 2
    right("traverse", run, "--out", tmp_path / "t.png")
    right("doctor", run)


def test_samples_of_a_label_are_predicted_to_be_of_it(run: Path):
    model = lb.load(run, device="cpu")
    y = torch.arange(10).repeat(20)
    with seeded("sample"):
        x = model.sample(200, y)
    assert float((model.probabilities(x).argmax(1) == y).float().mean()) > 0.5


def test_the_first_stage_alone_is_a_vae(tmp_path: Path):
    path = tmp_path / "run"
    words = [*QUICK, *AFTER, "train.steps=5", "train.stages.prior.steps=5"]
    first = train("m1m2-mnist", data="digits", out=path, changes=words, stage="model", device="cpu")
    assert isinstance(first.model.prior, StandardNormal)  # pyright: ignore
    networks = {k: v.clone() for k, v in first.model.state_dict().items() if "prior" not in k}
    assert measure(World(first.model, first.valid), names=["elbo"])["elbo"].value is not None
    both = train("m1m2-mnist", data="digits", out=path, changes=words, resume=True, device="cpu")
    assert isinstance(both.model.prior, VAE)  # pyright: ignore
    assert all(torch.equal(v, both.model.state_dict()[k]) for k, v in networks.items())
    once = train("m1m2-mnist", data="digits", out=tmp_path / "once", changes=words, device="cpu")
    assert all(torch.equal(v, both.model.state_dict()[k]) for k, v in once.model.state_dict().items())


def test_labels_need_something_that_learns_them(tmp_path: Path):
    done = call("train", "m1m2-mnist", "--data", "digits", "model.prior.classifier=null", "--out", tmp_path / "run")
    assert done.status == 2
    assert "model.classifier=networks.mlp.MLP" in done.err

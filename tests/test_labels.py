"""Labels of a few images, and clusters without any: what is learned, from what, and what is refused."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import lowerbound as lb
from command import call, right
from lowerbound import testing
from lowerbound.data.base import Data, Images
from lowerbound.data.batches import LABELLED, Batches
from lowerbound.data.labelled import labelled
from lowerbound.errors import ConfigError, DataError, ModelError
from lowerbound.metrics.base import World, measure
from lowerbound.model import Draw
from lowerbound.models.labels import SemiSupervised
from lowerbound.models.vae import VAE
from lowerbound.networks.mlp import MLP
from lowerbound.noise import seeded
from lowerbound.objectives import CrossEntropy, Reconstruction
from lowerbound.priors import FullGaussianMixture, GaussianMixture
from lowerbound.runs.run import Run
from lowerbound.space import UNKNOWN, Space
from lowerbound.testing.base import all_events, shake_parameters

SMALL = MLP.Config(hidden=(4,))
WORLD = Space((1, 2, 2), levels=2)
TINY = ["model.encoder.hidden=[32]", "model.decoder.hidden=[32]", "model.latent=4"]
QUICK = [*TINY, "train.steps=150", "train.valid_every=150", "train.optimizer.lr=1e-2", "train.averaging=null"]
FEW = ["data.label=true", "data.labels=100", "model.classifier=networks.mlp.MLP", "model.classifier.hidden=[32]"]


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # nothing here is large enough for more
    yield
    torch.set_default_dtype(torch.float32)
    torch.set_num_threads(threads)


# ---- which images keep their label


def test_the_labelled_are_as_many_of_each_class_and_follow_the_seed():
    y = np.random.default_rng(0).integers(0, 10, 2000)
    classes = [str(c) for c in range(10)]
    chosen = labelled(y, classes, 100, seed=3)
    assert np.bincount(y[chosen]).tolist() == [10] * 10
    assert np.unique(chosen).size == 100
    assert np.array_equal(chosen, labelled(y, classes, 100, seed=3))
    assert not np.array_equal(chosen, labelled(y, classes, 100, seed=4))
    assert np.bincount(y[labelled(y, classes, 23, seed=0)]).tolist() == [3, 3, 3] + [2] * 7


@pytest.mark.parametrize(
    ("n", "message"),
    [
        (2001, "there are 2000 training images; set at most 2000"),
        (9, "there are 10 classes, and one without a labelled image could not be learnt; set at least 10"),
        (1000, "takes 100 images of each class, and '9' has 5 in training; set at most 50"),
    ],
)
def test_labels_that_are_not_there(n: int, message: str):
    y = np.concatenate([np.arange(1995) % 9, np.full(5, 9)])
    with pytest.raises(DataError, match=message):
        labelled(y, [str(c) for c in range(10)], n, seed=0)


def test_training_sees_the_labels_of_these_images_alone():
    images = Data(source="digits", label=True).open("train")
    assert images.y is not None
    few = labelled(images.y, images.classes or (), 50, 0)
    batches = Batches(images, torch.device("cpu"), label=True, labelled=few.tolist())
    seen: set[int] = set()
    for step in range(30):
        with seeded("step", step):
            x, y = batches.training(step, 40, 0)
        assert y is not None
        known = (y != UNKNOWN).nonzero().flatten().tolist()
        assert len(known) >= 40 * LABELLED
        for i in known:  # every one is a labelled image, with its own label
            place = next(k for k in few.tolist() if np.array_equal(images.x[k], x[i].numpy()))
            assert int(y[i]) == int(images.y[place])
            seen.add(place)
    assert len(seen) > 45
    assert sum(int((b.y != UNKNOWN).sum()) for b in batches.in_order(100) if b.y is not None) == 50
    epoch = [batches.training(step, 40, 0)[0][:32] for step in range(len(images) // 32)]
    assert len(torch.unique(torch.cat(epoch).flatten(1), dim=0)) > 0.97 * len(images)  # the rest is all images in turn


# ---- the bound of images without a label


def table(x: Tensor, y: Tensor) -> Tensor:
    """A world of 4 events and 3 labels: log p(x|y)."""
    log_p = torch.tensor([[0.1, 0.2, 0.6, 0.1], [0.7, 0.1, 0.1, 0.1], [0.25, 0.25, 0.25, 0.25]]).double().log()
    return log_p[y, x]


def test_the_bound_without_a_label_is_log_p_where_q_is_the_posterior_and_short_by_its_kl_elsewhere():
    x = torch.arange(4)
    joint = torch.stack([table(x, torch.full((4,), c)) for c in range(3)], 1) - math.log(3)
    log_p, posterior = joint.logsumexp(1), joint.log_softmax(1)
    unknown = torch.full((4,), UNKNOWN)

    def cost(x: Tensor, y: Tensor) -> Tensor:
        return -table(x, y)

    exact = SemiSupervised.of(x, unknown, posterior, cost)
    torch.testing.assert_close(-exact.unlabelled, log_p)
    torch.testing.assert_close(exact.loss(1.0).value, -log_p.mean())
    other = torch.randn(4, 3, dtype=torch.float64)
    kl = (other.softmax(1) * (other.log_softmax(1) - posterior)).sum(1)
    torch.testing.assert_close(-SemiSupervised.of(x, unknown, other, cost).unlabelled, log_p - kl)

    y = torch.tensor([2, UNKNOWN, 0, UNKNOWN])
    some = SemiSupervised.of(x, y, other, cost)
    torch.testing.assert_close(-some.labelled[[0, 2]], joint[[0, 2], [2, 0]])
    cross = -other.log_softmax(1)[[0, 2], [2, 0]].mean()
    expected = torch.stack([-joint[0, 2], kl[1] - log_p[1], -joint[2, 0], kl[3] - log_p[3]]).mean() + 5 * cross
    torch.testing.assert_close(some.loss(5.0).value, expected)
    assert float(some.loss(5.0).terms["cross_entropy"].mean()) == pytest.approx(float(cross))


def test_labels_that_q_all_but_excludes_are_not_summed_and_change_no_gradient():
    x, unknown = torch.arange(4), torch.full((4,), UNKNOWN)
    seen = []

    def cost(x: Tensor, y: Tensor) -> Tensor:
        seen.append((x, y))
        return -table(x, y) * (1 + theta)

    theta = torch.zeros((), dtype=torch.float64, requires_grad=True)
    sure = torch.tensor([[0.0, -50, -1], [-90, 0, -2], [0, -1, -2], [-40, -40, 0]], dtype=torch.float64)
    sure.requires_grad_()
    SemiSupervised.of(x, unknown, sure, cost).loss(1.0).value.backward()
    event, label = seen[0]
    assert list(zip(event.tolist(), label.tolist(), strict=True)) == [
        *((0, 0), (0, 2), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2), (3, 2))
    ]
    every = sure.detach().clone().requires_grad_()
    log_q = every.log_softmax(1)
    L = -torch.stack([table(x, torch.full((4,), c)) for c in range(3)], 1) * (1 + theta) + math.log(3)
    expected = torch.autograd.grad((log_q.exp() * (L + log_q)).sum(1).mean(), [every, theta])
    torch.testing.assert_close([sure.grad, theta.grad], list(expected), atol=1e-14, rtol=1e-12)


def test_weights_without_a_label_are_of_log_p():
    """The probabilities of all images add up to one, y summed out: and are those of the sum over y."""
    torch.set_default_dtype(torch.float64)
    label = testing.LABEL
    with seeded("m2"):
        model = VAE.Config(latent=(1,), encoder=SMALL, decoder=SMALL, classifier=SMALL).build(WORLD, (label,)).eval()
    shake_parameters(model, "m2", scale=0.2)
    world = all_events(WORLD, 256)
    assert world is not None
    n = len(world)
    with torch.no_grad(), seeded("draws"):
        w = model._log_weights(world, torch.full((n,), UNKNOWN), 20_000).exp()
        of_y = torch.stack([model._log_weights(world, torch.full((n,), c), 20_000).exp().mean(0) for c in range(3)])
    total = w.sum(1)
    assert abs(float(total.mean()) - 1) < 4 * float(total.std()) / math.sqrt(len(total))
    error = w.std(0) / math.sqrt(len(w)) + 1e-3
    assert ((w.mean(0) - of_y.mean(0)).abs() < 4 * error).all()


# ---- the command


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("labels") / "run"
    right("train", "vae", *QUICK, *FEW, "--out", path)
    return path


def test_a_few_labels_teach_the_others(run: Path, tmp_path: Path):
    report = right("evaluate", run, "--metrics", "accuracy,nll", "--draws", "3", "--json").json["metrics"]
    assert report["accuracy"]["value"] > 0.7
    assert report["nll"]["given"] == "label"
    facts = Run.open(run).facts
    assert facts.labelled is not None
    assert len(facts.labelled) == 100
    assert facts.counts == (10,) * 10
    rows = right("predict", run, "--data", "digits", "--split", "test", "--json").json
    assert set(rows[0]) == {"index", "label", "probability"}
    picture = tmp_path / "digit.png"
    Image.fromarray((Data(source="digits").open("test").x[0, 0] * 15).astype(np.uint8)).save(picture)
    assert right("predict", run, picture, "--json").json[0]["path"] == str(picture)
    right("sample", run, "-n", "4", "--label", "3", "--out", tmp_path / "threes.png")
    right("edit", run, picture, "--label", "7", "--out", tmp_path / "seven.png")
    right("traverse", run, "--out", tmp_path / "t.png")
    right("doctor", run)
    p = lb.load(run, device="cpu").probabilities(torch.zeros(3, 1, 8, 8, dtype=torch.uint8))
    torch.testing.assert_close(p.sum(1), torch.ones(3))


def test_a_classifier_of_the_same_labels_alone(tmp_path: Path):
    """Nothing scores it, since the validation images' labels are not looked at: the last weights count."""
    run = tmp_path / "run"
    words = ["model.encoder=networks.mlp.MLP", "data.labels=100", "train.optimizer.lr=1e-2", "train.averaging=null"]
    right("train", "classifier", "--data", "digits", *words, "train.steps=100", "--out", run)
    assert right("evaluate", run, "--metrics", "accuracy", "--json").json["metrics"]["accuracy"]["value"] > 0.7


def test_the_same_seed_gives_the_same(run: Path, tmp_path: Path):
    """The labelled images too; another seed, others."""
    a, b = (Run.open(run), tmp_path / "b")
    right("train", "vae", *QUICK, *FEW, "--out", b)
    weights = [lb.load(path, device="cpu").state_dict() for path in (run, b)]
    assert all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])
    assert Run.open(b).facts.labelled == a.facts.labelled
    right("train", "vae", *TINY, *FEW, "train.steps=1", "--seed", "1", "--out", tmp_path / "c")
    assert Run.open(tmp_path / "c").facts.labelled != a.facts.labelled


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data.labels=100"], "set data.label=true"),
        (["data.labels=100", "data.label=true"], "set model.classifier=networks.mlp.MLP"),
        (["data.labels=5", *FEW[2:], "data.label=true"], "set at least 10"),
        (["data.labels=90000", *FEW[2:], "data.label=true"], "set at most 14"),
        ([*FEW[2:]], "set data.label=true"),
        ([*FEW, "model.objective=objectives.Reconstruction"], "use objectives.ELBO"),
        (["data.labels=0"], "data.labels"),
    ],
)
def test_mistakes(words: list[str], message: str, tmp_path: Path):
    done = call("train", "vae", *words, "--out", tmp_path / "run")
    assert done.status == 2
    assert message in done.err
    assert not (tmp_path / "run").exists()


# ---- clusters


def test_clusters_are_the_posterior_of_the_mixture():
    with seeded("prior"):
        prior = GaussianMixture.Config(components=3).build(Space((2,)))
    shake_parameters(prior, "prior")
    z = torch.randn(5, 2)
    each = torch.stack(
        [
            torch.distributions.Normal(prior.mean[c], prior.log_scale[c].exp()).log_prob(z).sum(1)
            + prior.logits.log_softmax(0)[c]
            for c in range(3)
        ],
        1,
    )
    torch.testing.assert_close(prior.log_joint(z).log_softmax(1), each.log_softmax(1))
    torch.testing.assert_close(each.logsumexp(1), prior.log_density(z))


@pytest.mark.parametrize("config", [GaussianMixture.Config(components=3), FullGaussianMixture.Config(components=3)])
def test_a_cluster_is_drawn_from_alone(config: GaussianMixture.Config | FullGaussianMixture.Config):
    with seeded("prior"):
        prior = config.build(Space((2,)))
    shake_parameters(prior, "prior")
    components = prior.distribution().component_distribution  # pyright: ignore
    with seeded("draws"):
        z = prior.draw(4000, how=Draw(cluster=1)).x
    error = components.stddev[1] / math.sqrt(4000)
    assert ((z.mean(0) - components.mean[1]).abs() < 4 * error).all()
    torch.testing.assert_close(z.std(0), components.stddev[1], rtol=0.06, atol=0)
    torch.testing.assert_close(prior.draw(2, how=Draw(0.0, cluster=2)).x, components.mean[[2, 2]])
    with pytest.raises(ModelError, match="--label 3: expected the number of a cluster, 0 to 2"):
        prior.draw(2, how=Draw(cluster=3))
    with pytest.raises(ModelError, match="is no mixture of clusters"):
        VAE.Config(latent=(2,), encoder=SMALL, decoder=SMALL).build(WORLD).draw(2, how=Draw(cluster=0))


@pytest.mark.parametrize(
    "config", [GaussianMixture.Config(components=3), FullGaussianMixture.Config(components=3, starts=5)]
)
def test_a_mixture_begins_at_the_clusters_there_are(config: GaussianMixture.Config | FullGaussianMixture.Config):
    torch.manual_seed(0)
    centres = torch.tensor([[5.0, 0.0], [-5.0, 0.0], [0.0, 8.0]])
    z = centres[torch.arange(3000) % 3] + 0.5 * torch.randn(3000, 2)
    with seeded("fit"):
        prior = config.build(Space((2,)))
        prior.fit([z[:1000], z[1000:]])
    found = prior.mean[prior.mean[:, 0].argsort()].detach()
    torch.testing.assert_close(found, centres[[1, 2, 0]], atol=0.1, rtol=0)
    scale = prior.distribution().component_distribution.stddev.detach()  # pyright: ignore
    torch.testing.assert_close(scale, torch.full((3, 2), 0.5), atol=0.05, rtol=0)
    with pytest.raises(ModelError, match="5 codes are too few"):
        prior.fit([z[:5]])


def test_of_several_starts_the_likeliest_or_the_most_even_counts():
    """Of digits' six first principal components, where every start ends elsewhere."""
    x = torch.from_numpy(Data(source="digits").open("train").x).flatten(1).float()
    z = x @ torch.linalg.svd(x - x.mean(0), full_matrices=False)[2][:6].T
    found = {}
    for name, more in {"one": {}, "likeliest": {"starts": 8}, "even": {"starts": 8, "even": True}}.items():
        with seeded("starts"):
            prior = FullGaussianMixture.Config(components=10, **more).build(Space((6,)))
            prior.fit([z])
        weights = prior.logits.detach().softmax(0)
        found[name] = float(prior.log_density(z).detach().mean()), float(-(weights * weights.log()).sum())
    assert found["likeliest"][0] > found["one"][0] + 1e-3
    assert found["even"][1] > found["likeliest"][1] + 1e-3
    assert found["even"][1] >= found["one"][1]


def test_clusters_are_named_so_that_most_are_right(tmp_path: Path):
    """Digits of two pixels: the clusters are the labels, whatever their numbers."""
    x = np.zeros((60, 1, 2, 2), np.uint8)
    x[:20, 0, 0, 0] = x[20:40, 0, 1, 1] = 1
    y = np.repeat([2, 0, 1], 20)
    y[0] = 1  # one of another label
    images = Images(name="x", split="test", x=x, levels=2, y=y, classes=("a", "b", "c"))
    config = VAE.Config(latent=(2,), prior=GaussianMixture.Config(components=3), encoder=MLP.Config(hidden=()))
    with seeded("clusters"):
        model = config.build(WORLD)
    with torch.no_grad():
        weight = torch.zeros(4, 4)
        weight[0, 0] = weight[1, 3] = 9.0
        model.encoder.layers[0].weight.copy_(weight)  # pyright: ignore
        model.encoder.layers[0].bias.zero_()  # pyright: ignore
        model.own_prior.mean.copy_(torch.tensor([[0.0, 9.0], [0.0, 0.0], [9.0, 0.0]]))  # pyright: ignore
    values = measure(World(model, Batches(images, torch.device("cpu"))), names=["hungarian_accuracy", "nmi"])
    assert values["hungarian_accuracy"].value == pytest.approx(59 / 60)
    assert 0.9 < (values["nmi"].value or 0) < 1


def test_pretraining_and_then_the_clusters(tmp_path: Path):
    run = tmp_path / "run"
    words = ["model.prior=priors.GaussianMixture", "model.pretraining=objectives.Reconstruction"]
    small = [*QUICK, "train.stages.pretraining.steps=300"]
    done = right("train", "vae", *words, *small, "--out", run)
    assert "stage pretraining" in done.err
    values = right("evaluate", run, "--metrics", "hungarian_accuracy,nmi", "--json").json["metrics"]
    assert values["hungarian_accuracy"]["value"] > 0.4
    assert "cluster" in right("predict", run, "--data", "digits", "--split", "test", "--json").json[0]
    right("sample", run, "-n", "40", "--label", "3", "--mean", "--out", tmp_path / "c.npz")
    means = np.rint(np.load(tmp_path / "c.npz")["x"].transpose(0, 3, 1, 2) * (16 / 255)).astype(np.uint8)
    found = lb.load(run, device="cpu").probabilities(means).argmax(1)
    assert int((found == 3).sum()) > 20
    for label in ("10", "three"):
        done = call("sample", run, "--label", label, "--out", tmp_path / "none.png")
        assert done.status == 2
        assert f"--label {label}: expected the number of a cluster, 0 to 9" in done.err
    done = call("edit", run, tmp_path / "none.png", "--label", "3", "--out", tmp_path / "e.png")
    assert done.status == 2
    refused = call("train", "vae", "model.pretraining=objectives.Reconstruction", "--out", tmp_path / "b")
    assert refused.status == 2
    assert "use model.prior=priors.GaussianMixture" in refused.err
    none = call("predict", _plain(tmp_path), "--data", "digits")
    assert none.status == 2
    assert "gives no labels" in none.err


def _plain(folder: Path) -> Path:
    right("train", "vae", *TINY, "train.steps=5", "--out", folder / "plain")
    return folder / "plain"


def test_pretraining_needs_a_prior_that_begins():
    with pytest.raises(ConfigError, match="is nothing that could begin at the codes"):
        VAE.Config(latent=(2,), pretraining=Reconstruction(error=CrossEntropy())).build(WORLD)

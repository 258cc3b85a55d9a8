"""Completions and samples of autoregressive models: what they are by enumeration, and what is said of a mistake."""

import itertools
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import chisquare
from sklearn.datasets import load_digits
from torch import Tensor

import lowerbound as lb
from command import call, right, tree
from lowerbound import pictures
from lowerbound.distributions import Bernoulli, truncated
from lowerbound.errors import DataError, ModelError
from lowerbound.families import Bernoulli as BernoulliFamily
from lowerbound.families import Categorical, Family, LogisticMixture
from lowerbound.model import Draw
from lowerbound.models.autoregressive import Autoregressive
from lowerbound.networks.gated import GatedPixelCNN
from lowerbound.networks.pixelcnn import PixelCNN
from lowerbound.progress import Progress
from lowerbound.runs import inputs
from lowerbound.runs.conditions import Candidates
from lowerbound.runs.run import Run
from lowerbound.sampling import completion, drawing, labels, sheets
from lowerbound.space import Space

pytestmark = pytest.mark.usefixtures("surroundings", "here")

DIGITS: np.ndarray = load_digits()["images"]  # pyright: ignore[reportArgumentType, reportCallIssue]

RECIPE = """
[data]
source = "digits"
[model]
type = "models.autoregressive.Autoregressive"
likelihood = { type = "families.Categorical" }
network = { type = "networks.gated.GatedPixelCNN", width = 8, layers = 2, first_kernel = 3, out_width = 8 }
[train]
steps = 20
batch = 64
optimizer = { type = "optimization.Adam", lr = 1e-2 }
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipes") / "tiny.toml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def made(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on digits, 8x8 with 17 levels."""
    out = tmp_path_factory.mktemp("runs") / "tiny"
    right("train", recipe, "--out", out)
    return out


@pytest.fixture(scope="module")
def conditional(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run given the label, on digits that are binarized."""
    out = tmp_path_factory.mktemp("runs") / "conditional"
    words = ["data.label=true", "model.likelihood.type=families.Bernoulli"]
    right("train", recipe, "--out", out, *words)
    return out


@pytest.fixture(scope="module")
def vae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "vae"
    words = ["train.steps=1", "model.encoder.hidden=[4]", "model.decoder.hidden=[4]"]
    right("train", "vae", "--out", out, *words)
    return out


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A three and a five."""
    folder = tmp_path_factory.mktemp("photos")
    paths = [folder / "three.png", folder / "five.png"]
    for path, i in zip(paths, (1730, 1741), strict=True):
        Image.fromarray(np.rint(DIGITS[i] * (255 / 16)).astype(np.uint8)).save(path)
    return paths


# ---- by enumeration


@pytest.fixture
def float64() -> Iterator[None]:
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    with torch.no_grad():
        yield
    torch.set_default_dtype(torch.float32)


def chance_model(space: Space, likelihood: Family, given: tuple[Space, ...] = ()) -> Autoregressive:
    """With parameters that are not special."""
    network = GatedPixelCNN.Config(width=6, layers=2, first_kernel=3, out_width=6)
    config = Autoregressive.Config(network=network, likelihood=likelihood, context=4, embedding=4)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = config.build(space, given).eval()
        for p in model.parameters():
            p.data += 0.5 * torch.randn_like(p)
    return model


def world(space: Space) -> Tensor:
    """All events."""
    assert space.levels is not None
    every = itertools.product(range(space.levels), repeat=space.dims)
    return torch.tensor(list(every), dtype=space.dtype).view(-1, *space.shape)


def in_order(x: Tensor) -> Tensor:
    """The elements in the order that they are drawn in, [N, T]: the channels of a position one after another."""
    return (x.flatten(2).transpose(1, 2) if x.dim() == 4 else x).flatten(1)


def mask(rows: list[list[int]]) -> Tensor:
    return torch.tensor(rows).bool()


def matches(counts: Tensor, p: Tensor) -> float:
    """The p-value of a chi-squared test. Nothing may be drawn that can't be."""
    n, possible = int(counts.sum()), p > 1e-9
    assert int(counts[~possible].sum()) == 0
    return float(chisquare(counts[possible], n * p[possible] / p[possible].sum()).pvalue)


N = 20_000
BINARY, CODES = Space((1, 2, 2), 2), Space((2, 2), 3, ordered=False)
WORLDS = [
    (BINARY, BernoulliFamily(), mask([[1, 1], [0, 0]])),
    (BINARY, Categorical(), mask([[1, 0], [0, 0]])),
    (Space((3, 1, 2), 2), BernoulliFamily(), mask([[1, 0]])),
    (CODES, Categorical(), mask([[1, 1], [1, 0]])),
]


def conditional_p(p: Tensor, x: Tensor, event: Tensor, kept: Tensor) -> Tensor:
    """p of all events, made 0 where they differ from `event` in what is kept."""
    p = p * (x == event)[..., kept].flatten(1).all(1)
    return p / p.sum()


def counts_of(drawn: Tensor, x: Tensor) -> Tensor:
    """How often each event of the world was drawn: [N]."""
    return (drawn.flatten(1)[:, None] == x.flatten(1)[None]).all(-1).sum(0)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("space", "likelihood", "kept"), WORLDS)
def test_completions_follow_the_conditional_distribution(space, likelihood, kept):
    given = (Space((), 2, ordered=False),)
    model, x = chance_model(space, likelihood, given), world(space)
    y = torch.ones(len(x), dtype=torch.int64)
    p = model.log_prob(x, y).exp()
    assert abs(float(p.sum()) - 1) < 1e-12
    event = x[len(x) // 3]
    drawn = model.complete(event.expand(N, *space.shape), kept, y[:1].expand(N)).x
    assert drawn.dtype == space.dtype
    truth = conditional_p(p, x, event, kept)
    assert matches(counts_of(drawn, x), truth) > 1e-3
    other = conditional_p(model.log_prob(x, 1 - y).exp(), x, event, kept)
    assert matches(counts_of(drawn, x), other) < 1e-6  # the test can fail


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("top_k", "top_p"), [(2, None), (None, 0.7), (2, 0.6)])
@pytest.mark.parametrize("t", [1.0, 0.5])
def test_top_k_and_top_p_by_enumeration(top_k, top_p, t):
    model, x, kept = chance_model(CODES, Categorical()), world(CODES), mask([[1, 1], [0, 0]])
    table = model.log_prob(x).exp()
    places, p = in_order(x), torch.ones(len(x), dtype=torch.float64)
    for i in (2, 3):
        before = (places[:, None, :i] == places[None, :, :i]).all(-1)  # [N, N], which agree so far
        each = torch.stack([(before * (places[:, i] == v) * table).sum(1) for v in range(3)], 1)
        each = (each / each.sum(1, keepdim=True)) ** (1 / t)
        each, rank = each / each.sum(1, keepdim=True), each.argsort(1, descending=True).argsort(1)
        above = torch.stack([(each * (rank < rank[:, v : v + 1])).sum(1) for v in range(3)], 1)
        each = each * (rank < (top_k or 3)) * (above < (top_p or 2))
        p = p * (each / each.sum(1, keepdim=True)).gather(1, places[:, i : i + 1])[:, 0]
    event = x[40]
    drawn = model.complete(event.expand(N, 2, 2), kept, how=Draw(t, top_k, top_p)).x
    assert matches(counts_of(drawn, x), conditional_p(p, x, event, kept)) > 1e-3


@pytest.mark.usefixtures("float64")
def test_the_log_probs_of_positions_add_up():
    for space, likelihood, _ in [*WORLDS, (Space((3, 2, 2), 5), LogisticMixture(components=2), None)]:
        given = (Space((), 2, ordered=False),)
        model, x, y = chance_model(space, likelihood, given), world(space._replace(levels=2))[:50], torch.tensor([1])
        each = model.log_probs(x, y.expand(len(x)))
        assert each.shape == (len(x), *space.shape[-2:])
        torch.testing.assert_close(each.flatten(1).sum(1), model.log_prob(x, y.expand(len(x))), rtol=0, atol=1e-10)


@pytest.mark.usefixtures("float64")
def test_labels_are_drawn_given_what_is_kept():
    given = (Space((), 2, ordered=False),)
    model, x, kept, counts = chance_model(BINARY, BernoulliFamily(), given), world(BINARY), WORLDS[0][2], (30, 70)
    joint = torch.stack([model.log_prob(x, torch.full((16,), k)).exp() for k in (0, 1)], 1)
    joint = joint * torch.tensor(counts) / 100
    candidates = Candidates(torch.arange(2), counts, ())
    generator = torch.Generator().manual_seed(1)
    of = lambda x, kept: lambda i, k: model.log_p_kept(x[i], kept, k)  # noqa: E731
    for b in (0, 9):
        event = x[b : b + 1]
        y = labels.draw_candidates(model, of(event, kept), 1, N, candidates, generator)
        share = conditional_p(joint.sum(1), x, x[b], kept)
        alike = share > 0
        assert matches(torch.bincount(y[0]), joint[alike].sum(0) / joint[alike].sum()) > 1e-3
    whole = completion.complete(model, event, kept, N, y).x  # so that completions have no label in their distribution
    assert matches(counts_of(whole[0], x), share) > 1e-3
    nothing = labels.draw_candidates(model, of(event, torch.zeros(2, 2).bool()), 1, N, candidates, generator)
    assert matches(torch.bincount(nothing[0]), torch.tensor(counts) / 100) > 1e-3


def test_top_k_and_top_p_of_bernoullis():
    d = Bernoulli(torch.tensor([[[[1.0, -3.0]]]]), Space((1, 1, 2), 2))
    assert torch.equal(truncated(d, top_k=1).sample((50,)), d.mode.expand(50, 1, 1, 1, 2))
    assert torch.equal(truncated(d, top_p=0.7).sample((50,)), d.mode.expand(50, 1, 1, 1, 2))
    x = world(d.space)
    torch.testing.assert_close(truncated(d, top_k=2, top_p=0.99).log_prob(x), d.log_prob(x))
    with pytest.raises(ModelError, match="Bernoulli has none"):
        truncated(Bernoulli(torch.zeros(1, 1, 1, 1), Space((1, 1, 1), 256)), top_k=1)


# ---- the model


@pytest.fixture
def model(float64: None) -> Autoregressive:
    return chance_model(Space((1, 4, 3), 5), Categorical())


def test_top_k_of_one_is_temperature_zero(model):
    greedy = model.sample(4, temperature=0.0)
    assert torch.equal(greedy, greedy[:1].expand_as(greedy))
    assert torch.equal(greedy, model.sample(4, top_k=1))
    assert torch.equal(greedy, model.sample(4, top_p=1e-9))
    assert torch.equal(greedy, model.sample(4, temperature=0.0, top_k=3, top_p=0.5))
    assert not torch.equal(greedy, model.sample(4))


def test_everything_or_nothing_is_kept(model):
    x = model.sample(3)
    assert torch.equal(model.complete(x, torch.ones(4, 3).bool()).x, x)
    torch.manual_seed(5)
    drawn = model.complete(x, torch.zeros(4, 3).bool()).x
    torch.manual_seed(5)
    assert torch.equal(drawn, model.sample(3))


@pytest.mark.parametrize(
    ("kept", "words"),
    [
        (torch.ones(4, 4).bool(), r"mask is of \[4, 4\], expected the size of the images, \[4, 3\]"),
        (torch.ones(4, 3).bool().tril(), "needs another order"),
        (torch.arange(12).view(4, 3) >= 6, "needs another order.*row by row from the top left.*top:0.5"),
    ],
)
def test_masks_that_cannot_be_kept(model, kept, words):
    with pytest.raises(ModelError, match=words):
        model.complete(model.sample(2), kept)


@pytest.mark.parametrize(
    ("x", "options", "words"),
    [
        (torch.zeros(2, 1, 5, 3).byte(), {}, r"takes \[1, 4, 3\], got a batch of \[1, 5, 3\]"),
        (torch.full((2, 1, 4, 3), 5).byte(), {}, r"values in \[0, 5\), got 5 to 5"),
        (torch.zeros(2, 1, 4, 3), {}, "whole numbers"),
        (torch.zeros(0, 1, 4, 3).byte(), {}, "this batch is empty: expected at least one event"),
        (None, {"temperature": -1.0}, "temperature: expected a number of at least 0, got -1"),
        (None, {"temperature": float("nan")}, "temperature: .*nan"),
        (None, {"top_k": 0}, "top-k: expected a whole number of at least 1, got 0"),
        (None, {"top_k": 1.5}, "top-k: expected a whole number"),
        (None, {"top_p": 0.0}, "top-p: expected a number above 0"),
        (None, {"top_p": float("nan")}, "top-p: .*nan"),
        (None, {"y": torch.zeros(2).long()}, "given 0 condition"),
    ],
)
def test_mistakes_in_python(model, x, options, words):
    x = torch.zeros(2, 1, 4, 3).byte() if x is None else x
    with pytest.raises(ModelError, match=words):
        model.complete(x, torch.ones(4, 3).bool(), options.pop("y", None), Draw(**options))


@pytest.mark.usefixtures("float64")
def test_codes_and_labels_outside_their_range():
    codes = chance_model(CODES, Categorical(), (Space((), 2, ordered=False),))
    x, kept, y = torch.zeros(2, 2, 2).long(), mask([[1, 1], [0, 0]]), torch.tensor([0, 1])
    for bad in (-1, 3):
        with pytest.raises(ModelError, match=r"values in \[0, 3\)"):
            codes.complete(x.index_fill(0, torch.tensor([1]), bad), kept, y)
        with pytest.raises(ModelError, match=r"label: expected a whole number in \[0, 2\)"):
            codes.complete(x, kept, y * bad)
    with pytest.raises(ModelError, match="2 events need as many conditions, got 1"):
        codes.complete(x, kept, y[:1])
    with pytest.raises(ModelError, match="n: expected a whole number of at least 1, got 0"):
        codes.sample(0, y[:0])


@pytest.mark.parametrize(
    "network", [GatedPixelCNN.Config(width=8, layers=2, attention=(2,)), PixelCNN.Config(blocks=2)]
)
def test_memory_bounds_what_is_drawn_at_once(network):
    model = Autoregressive.Config(network=network).build(Space((1, 12, 12), 4)).eval()
    one, four = (model.network.start(n) for n in (1, 4))
    for cache in (one, four):
        model.network.step(cache, 0, 0)
    assert four.held == 4 * one.held
    assert one.held > 12 * 12 * model.network.in_shape[0] * 3
    assert model.at_once(1) == 1
    assert model.at_once(10 * 4 * one.held) in (9, 10)  # what is put is held too


def test_parts_are_put_together_in_order(model, monkeypatch):
    x, kept = model.sample(2), torch.arange(4)[:, None].expand(4, 3) < 2
    told: list[tuple[int, int]] = []

    class Told(Progress):
        def count(self, what: str):
            return lambda done, total: told.append((done, total))

    monkeypatch.setattr(Autoregressive, "at_once", lambda self: 3)
    whole = completion.complete(model, x, kept, 5, progress=Told()).x
    assert torch.equal(whole[..., :2, :], x[:, None, :, :2].expand(2, 5, 1, 2, 3))
    assert len({tuple(w.flatten().tolist()) for w in whole[0]}) > 2  # not one draw, five times
    assert told[-1] == (10 * 12, 10 * 12)
    assert [done for done, _ in told] == sorted({done for done, _ in told})
    assert drawing.draw(model, 7).x.shape == (7, 1, 4, 3)


# ---- what is kept


@pytest.mark.parametrize(
    ("keep", "rows"), [("top:0.5", 4), ("top:0", 0), ("top:1.0", 8), ("top:0.3", 2), ("top:0.32", 3), ("rows:5", 5)]
)
def test_rows_kept(keep: str, rows: int):
    kept = completion.kept(keep, (8, 6))
    assert kept.shape == (8, 6)
    assert kept.any(1).tolist() == kept.all(1).tolist() == [i < rows for i in range(8)]


def test_a_mask_is_kept_where_it_is_not_black(here):
    wanted = np.zeros((8, 6), bool)
    wanted[:3], wanted[3, :2] = True, True
    Image.fromarray(wanted.astype(np.uint8)).save(here / "grey.png")  # 1 is no black
    Image.fromarray(wanted).save(here / "bits.png")
    Image.fromarray(wanted[..., None] * np.array([255, 200, 0], np.uint8)).save(here / "colour.png")
    for name in ("grey.png", "bits.png", "colour.png"):
        assert np.array_equal(completion.kept(str(here / name), (8, 6)).numpy(), wanted)
    with pytest.raises(DataError, match=r"the mask is 6x8 pixels wide and high; expected 8x8"):
        completion.kept(str(here / "grey.png"), (8, 8))


def test_the_picture_shows_all_of_it():
    x = np.zeros((2, 30, 1, 4, 4), np.uint8)
    done = completion.Completion(x[:, 0] + 16, np.arange(16).reshape(4, 4) < 8, x, 17, names=("a.png", "b.png"))
    table = done.table()
    assert table.x.shape == (6, 12, 1, 4, 4)  # three lines of ten each
    assert (table.x[0, 0] == 16).all()
    grey = table.x[0, 1, 0, 2:]
    assert ((grey > 0.3 * 16) & (grey < 0.7 * 16)).all()
    assert (table.x[0, 1, 0, :2] == 16).all()
    assert (table.x[1:3, :2] == 16).all()  # paper
    assert (table.x[:, 2:] == 0).all()
    assert table.rows == ("a.png", "", "", "b.png", "", "")
    assert pictures.table_picture(table).dtype == np.uint8


# ---- the command


def x_of(path: Path) -> np.ndarray:
    return np.load(path)["x"]


def test_kept_pixels_come_back_unchanged(made, photos, here):
    right("complete", made, *photos, "--keep", "top:0.5", "-n", "3", "--out", here / "a.npz", "--seed", "1")
    x = x_of(here / "a.npz")
    originals = inputs.user_images(Run.open(made), photos).x.numpy()
    assert x.shape == (6, 8, 8, 1)
    assert np.array_equal(originals[0, 0], DIGITS[1730])
    for b in range(2):
        for i in range(3):
            assert np.array_equal(x[3 * b + i, :4, :, 0], originals[b, 0, :4])
    assert len({part.tobytes() for part in x[:3]}) == 3


def test_the_same_seed_draws_the_same(made, photos, here):
    words = ["complete", made, photos[0], "-n", "4"]
    fresh = right(*words, "--out", here / "a.npz", "--json").json
    assert fresh == {**fresh, "out": str(here / "a.npz"), "n": 4, "keep": "top:0.5", "labels": None}
    right(*words, "--out", here / "b.npz", "--seed", str(fresh["seed"]))
    assert np.array_equal(x_of(here / "a.npz"), x_of(here / "b.npz"))
    done = right(*words, "--out", here / "c.npz")
    assert "4 completions of 1 image in" in done.out
    assert "--seed" in done.out
    assert not np.array_equal(x_of(here / "a.npz"), x_of(here / "c.npz"))
    api = lb.complete(made, photos[:1], n=4, seed=fresh["seed"], device="cpu")
    assert np.array_equal(api.x[0].transpose(0, 2, 3, 1), x_of(here / "a.npz"))


def test_every_kind_of_out(made, photos, here):
    right("complete", made, *photos, "-n", "2", "--out", here / "a.png")
    right("complete", made, *photos, "-n", "2", "--out", here / "folder")
    assert tree(here / "folder") == {"three-1.png", "three-2.png", "five-1.png", "five-2.png"}
    with Image.open(here / "a.png") as picture:
        assert picture.width > 4 * 56


def test_by_a_mask(made, photos, here):
    mask = np.zeros((8, 8), np.uint8)
    mask[:3], mask[3, :5] = 255, 255
    Image.fromarray(mask).save(here / "mask.png")
    right("complete", made, photos[0], "--keep", "mask.png", "-n", "3", "--out", "a.npz")
    original = inputs.user_images(Run.open(made), photos[:1]).x.numpy()[0, 0]
    for x in x_of(here / "a.npz")[..., 0]:
        assert np.array_equal(x[mask > 0], original[mask > 0])


def test_everything_kept_says_so(made, photos, here):
    done = right("complete", made, photos[0], "--keep", "top:1", "-n", "2", "--out", "a.npz")
    assert "keeps everything, so there is nothing to draw" in done.err
    original = inputs.user_images(Run.open(made), photos[:1]).x.numpy()[0, 0]
    assert (x_of(here / "a.npz")[..., 0] == original).all()
    right("complete", made, photos[0], "--keep", "top:0", "-n", "2", "--out", "b.npz", "--seed", "3")
    assert not (x_of(here / "b.npz")[..., 0] == original).all()


def test_binarized_and_given_a_label(conditional, photos, here):
    done = right("complete", conditional, *photos, "-n", "5", "--out", "a.npz", "--json", "--seed", "2")
    x, labels = x_of(here / "a.npz"), done.json["labels"]
    assert set(np.unique(x)) <= {0, 1}
    assert [len(row) for row in labels] == [5, 5]
    assert set(labels[0]) <= set("0123456789")
    assert "three.png: labels drawn given what is kept: " in done.err
    again = right("complete", conditional, *photos, "-n", "5", "--out", "b.npz", "--json", "--seed", "2")
    assert again.json["labels"] == labels
    said = right("complete", conditional, photos[0], "--label", "3", "-n", "2", "--out", "c.npz", "--json")
    assert said.json["labels"] is None
    right("complete", conditional, photos[0], "-n", "2", "--top-k", "1", "--label", "3", "--out", "d.npz")
    right("complete", conditional, photos[0], "-n", "2", "--temperature", "0", "--label", "3", "--out", "e.npz")
    assert np.array_equal(x_of(here / "d.npz"), x_of(here / "e.npz"))


def test_an_image_of_another_size_is_made_to_fit_and_that_is_said(made, photos, here):
    Image.new("RGB", (20, 30), "white").save(here / "large.png")
    done = right("complete", made, here / "large.png", "-n", "1", "--out", "a.npz")
    assert "large.png: 20x30 in colour, made 8x8 grey as the images of" in done.err
    assert (x_of(here / "a.npz")[0, :4] == 16).all()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-n", "0"], "-n 0: expected a whole number of at least 1"),
        (["-n", "-3"], "-n -3: expected a whole number of at least 1"),
        (["-n", "2.5"], "expected a whole number, got 2.5"),
        (["--keep", "top:1.5"], "--keep top:1.5: expected a fraction of the rows from 0 to 1, such as top:0.5"),
        (["--keep", "top:nan"], "--keep top:nan: expected a fraction"),
        (["--keep", "top:half"], "--keep top:half: expected a fraction"),
        (["--keep", "rows:9"], "--keep rows:9: expected a whole number of rows from 0 to 8"),
        (["--keep", "rows:-1"], "--keep rows:-1: expected a whole number"),
        (["--keep", "left:0.5"], "--keep left:0.5: no such file; expected top:FRACTION of the rows, rows:N, or a pict"),
        (["--keep", "small.png"], "small.png: the mask is 5x4 pixels wide and high; expected 8x8, as the images are"),
        (["--keep", "left.png"], "this mask needs another order: the model draws row by row from the top left"),
        (["--keep", "text.txt"], "text.txt: not an image of a known format"),
        (["--keep", "."], ".: is a folder; expected an image file"),
        (["--temperature", "-0.5"], "temperature: expected a number of at least 0, got -0.5"),
        (["--temperature", "nan"], "temperature: expected a number of at least 0, got nan"),
        (["--top-k", "0"], "top-k: expected a whole number of at least 1, got 0"),
        (["--top-p", "1.5"], "top-p: expected a number above 0 and of at most 1, got 1.5"),
        (["--label", "3"], "is not conditional; train it with data.label=true"),
        (["--out", "a.jpg"], "--out a.jpg: expected a path ending in .png"),
    ],
)
def test_mistakes_of_complete(made, photos, here, words, said):
    (here / "text.txt").write_text("no image")
    Image.new("L", (5, 4), "white").save(here / "small.png")
    Image.fromarray(np.where(np.arange(8) < 4, 255, 0).astype(np.uint8)[None].repeat(8, 0)).save(here / "left.png")
    before = tree(here)
    out = [] if "--out" in words else ["--out", "a.png"]
    done = call("complete", made, photos[0], *words, *out)
    assert done.status == 2
    assert said in done.err
    assert "Traceback" not in done.err
    assert tree(here) == before


def test_a_vae_draws_the_rest_nearly_and_only_where_its_weights_are_known(vae, photos, here):
    found = lb.complete(vae, [photos[0]], "rows:3", n=3, seed=0)
    assert np.array_equal(found.x[0][..., :3, :], np.broadcast_to(found.originals[0], found.x[0].shape)[..., :3, :])
    assert not np.array_equal(found.x[0][0], found.x[0][1])
    assert np.array_equal(lb.complete(vae, [photos[0]], "rows:3", n=3, seed=0).x, found.x)
    mean = lb.complete(vae, [photos[0]], "rows:3", n=1, seed=0, mean=True).x
    assert mean[..., 3:, :].std() < 0.7 * found.x[..., 3:, :].std()
    right("train", "ae-linear", "--out", "ae", "--data", "digits", "train.steps=1")
    for words, said in {
        ("ae",): "VAE, as configured, can't complete images; an autoregressive model, such as pixelcnn-mnist, can",
        (vae, "--temperature", "0.5"): "--temperature: what is drawn beside what is kept is drawn as it is",
        (vae, "--top-k", "1"): "--top-k: VAE does not draw values from a probability of each",
    }.items():
        done = call("complete", *words[:1], photos[0], *words[1:], "--out", "a.png")
        assert (done.status, said in done.err) == (2, True), done.err
    assert not (here / "a.png").exists()


def test_a_vae_is_not_truncated(vae, here):
    for option in ("--top-k", "--top-p"):
        done = call("sample", vae, option, "1", "--out", "a.png")
        assert done.status == 2
        assert f"{option}: VAE does not draw values from a probability of each; an autoregressive model" in done.err
    assert not tree(here)


# ---- samples


def test_sampling_options(made, here):
    words = ["sample", made, "-n", "3", "--seed", "1"]
    for name, options in {"a": [], "b": [], "c": ["--top-k", "1"], "d": ["--temperature", "0"]}.items():
        right(*words, *options, "--out", f"{name}.npz")
    a, b, c, d = (x_of(here / f"{name}.npz") for name in "abcd")
    assert np.array_equal(a, b)
    assert np.array_equal(c, d)
    assert np.array_equal(d[0], d[1])
    assert not np.array_equal(a, d)
    right(*words, "--top-p", "0.5", "--out", "e.npz")
    assert not np.array_equal(a, x_of(here / "e.npz"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-n", "0"], "-n 0: expected a whole number of at least 1"),
        (["--temperature", "-1"], "temperature: expected a number of at least 0, got -1"),
        (["--top-k", "0"], "top-k: expected a whole number of at least 1, got 0"),
        (["--top-p", "0"], "top-p: expected a number above 0"),
        (["--label", "ten"], "--label ten: no such class; known: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9"),
        (["--mean"], "--mean: Autoregressive has no mean of p(x|z) to show"),
        (["--out", "a.jpg"], "--out a.jpg: expected a path ending in .png"),
    ],
)
def test_mistakes_of_sample(conditional, here, words, said):
    done = call("sample", conditional, *words, *([] if "--out" in words else ["--out", "a.png"]))
    assert done.status == 2
    assert said in done.err
    assert not tree(here)


def test_mixtures_have_no_top_k():
    model = Autoregressive.Config(network=PixelCNN.Config(blocks=1), likelihood=LogisticMixture(components=2))
    with pytest.raises(ModelError, match=r"probability of each value .*LogisticMixture has none"):
        model.build(Space((1, 4, 4), 256)).sample(1, top_k=3)


# ---- pictures


def test_pictures_after_training(made):
    assert {"pictures/samples.png", "pictures/completions.png"} <= tree(made)
    with Image.open(made / "pictures/completions.png") as picture:
        assert picture.height > 8 * 56
        assert picture.width > 8 * 56


def test_pictures_of_slow_models_have_fewer_images(monkeypatch, model):
    assert drawing.affordable(model) == 64
    assert drawing.affordable(model, 16) == 16
    one = 2 * sum(p.numel() for p in model.parameters()) * model.passes
    for affordable, n in ((40, 36), (20, 16), (10, 9), (1, 4)):
        monkeypatch.setattr(drawing, "AFFORDABLE", affordable * one)
        assert drawing.affordable(model) == n


def test_pictures_do_not_stall_training(recipe, here, monkeypatch):
    times: list[int] = []

    def slow(run, model, n=64, progress=None, valid=None):
        times.append(n)
        time.sleep(0.3)

    monkeypatch.setattr(sheets, "draw_samples", slow)
    right("train", recipe, "--out", here / "run", "train.steps=12", "train.valid_every=2")
    assert times == [16, 64]  # at the first validation, and at the end


# ---- what is seen meanwhile, and Ctrl-C


CHILD = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background ignores it
import torch
torch.set_num_threads(1)
from lowerbound.cli import main
main()
"""


class Watched:
    """A command whose standard error is a terminal."""

    def __init__(self, *words: str | Path):
        self.end, end = pty.openpty()
        environment = os.environ | {"COLUMNS": "100", "TERM": "xterm"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", CHILD, *map(str, words)], stderr=end, stdout=subprocess.PIPE, env=environment
        )
        os.close(end)
        self.said = ""

    def read_until(self, words: str, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while words not in self.said:
            left = deadline - time.monotonic()
            assert left > 0, f"{words} was not said: {self.said}"
            if select.select([self.end], [], [], left)[0]:
                self.said += os.read(self.end, 4096).decode()

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        os.close(self.end)


@pytest.fixture
def interrupted(made: Path, photos: list[Path], here: Path) -> Iterator[list[Watched]]:
    """Both verbs under way, with far too much to draw."""
    running = [
        Watched("sample", made, "-n", "1000000", "--out", here / "samples"),
        Watched("complete", made, photos[0], "-n", "1000000", "--out", here / "a.png", "--json"),
    ]
    yield running
    for watched in running:
        watched.close()


def test_ctrl_c_leaves_nothing(interrupted, here):
    for watched in interrupted:
        watched.read_until(" left")
        assert "─" in watched.said
        assert "drawing pixels: " in watched.said
        assert " of 64,000,000, " in watched.said
        watched.process.send_signal(signal.SIGINT)
        watched.read_until("\r\x1b[Klowerbound: stopped\r\n")
        assert watched.process.wait(30) == 130
        assert watched.process.stdout.read() == b""
        assert "Traceback" not in watched.said
    assert not tree(here)

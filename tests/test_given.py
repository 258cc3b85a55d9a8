"""Models that are given attributes of their images: a table of a user's own, what networks see, verbs, and mistakes."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import lowerbound as lb
from command import call, right
from lowerbound.config import components
from lowerbound.data import Data
from lowerbound.data.attributes import Factor, decoded, encoded, number_of
from lowerbound.data.given import values_of
from lowerbound.errors import ConfigError, DataError, UserError
from lowerbound.model import Model
from lowerbound.noise import seeded
from lowerbound.runs.conditions import Asked
from lowerbound.runs.run import Run
from lowerbound.space import Space

pytestmark = pytest.mark.usefixtures("surroundings", "here")

SIZE = 8
PLACES = ("left", "right")
LIGHT = Factor(name="light", low=0, high=1, mean=0.5, std=0.3)
TURN = Factor(name="turn", kind="circular", low=0, high=360, unit="deg")
PLACE = Factor(name="place", kind="categorical", values=PLACES)


def picture(light: float, turn: float, place: str, bar: int) -> np.ndarray:
    """A row that turns from black (0) to grey (180), one as bright as light says, then a bright half at a place, and in
    it a dark row `bar` that no attribute tells of: uint8 [SIZE, SIZE]."""
    x = np.full((SIZE, SIZE), 60.0)
    x[0] = 120 * (1 - np.cos(np.radians(turn))) / 2
    x[1] = 20 + 200 * light
    x[2:, slice(0, SIZE // 2) if place == "left" else slice(SIZE // 2, SIZE)] = 200
    x[2 + bar] = 20
    return x.round().astype(np.uint8)


def write(folder: Path, n: int = 300, seed: int = 0) -> Path:
    """A folder of such images, and beside it the table."""
    folder.mkdir(parents=True)
    draw = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        light, turn, place = draw.uniform(), draw.uniform(0, 360), PLACES[draw.integers(2)]
        bar = 4 * int(draw.integers(2))
        Image.fromarray(picture(light, turn, place, bar)).save(folder / f"{i:03}.png")
        rows.append((f"{i:03}.png", f"{light:.6f}", f"{turn:.4f}", place, bar))
    return table(folder.with_suffix(".csv"), rows)


def table(path: Path, rows: Sequence[Sequence[object]], header: str = "path,light,turn (deg),place,bar") -> Path:
    with path.open("w", newline="", encoding="utf-8") as f:
        csv.writer(f).writerows([header.split(","), *rows])
    return path


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder; its table is beside it."""
    folder = tmp_path_factory.mktemp("given") / "halves"
    write(folder)
    return folder


TRAIN = (
    "model.likelihood=families.DiscretizedNormal",
    "model.objective.beta=0.2",
    "model.latent=3",
    "model.encoder.hidden=[48]",
    "model.decoder.hidden=[48]",
    "model.context=8",
    "train.optimizer=optimization.Adam",
    "train.optimizer.lr=1e-2",
    "train.batch=50",
    "train.epochs=null",
    "train.steps=400",
)


@pytest.fixture(scope="module")
def run(halves: Path) -> Path:
    """A trained VAE, given three of the four attributes, with a head that predicts them."""
    path = halves.parent / "run"
    data = (f"data.source={halves}", f"data.attributes={halves}.csv", "data.given=light,turn,place")
    head = ("model.predictor=networks.mlp.MLP", "model.predictor.hidden=[48]")
    lb.train("vae", *data, *head, *TRAIN, out=path, device="cpu")
    return path


def light_of(x: np.ndarray) -> np.ndarray:
    """Of images [..., SIZE, SIZE]: [...]."""
    return (x[..., 1, :].astype(float).mean(-1) - 20) / 200


def rightness(x: np.ndarray) -> np.ndarray:
    """How much brighter the right half is, from -1 to 1: [...]."""
    left, right_ = np.split(x[..., 2:, :].astype(float), 2, -1)
    return (np.median(right_, (-2, -1)) - np.median(left, (-2, -1))) / 140


# ---- what networks see


def test_what_networks_see_goes_back():
    values = np.array([[0.2, 359.0, 0], [0.9, 1.0, 1], [0.5, 180.0, 1]])
    factors = (LIGHT, TURN, PLACE)
    seen = encoded(values, factors)
    assert seen.shape == (3, sum(f.width for f in factors)) == (3, 5)
    assert decoded(seen, factors) == pytest.approx(values, abs=1e-4)
    assert seen[:, 0].numpy() == pytest.approx((values[:, 0] - 0.5) / 0.3)
    assert seen[2, 1:3].numpy() == pytest.approx([-1, 0], abs=1e-6)
    near = torch.cdist(seen[:1, 1:3], seen[1:2, 1:3]).item()
    assert near == pytest.approx(2 * np.sin(np.radians(1)), rel=1e-3)  # over 0, not the long way
    assert seen[:, 3:].tolist() == [[1, 0], [0, 1], [0, 1]]
    sure = decoded(torch.tensor([[0.0, 0.3, 0.0, 0.6, 0.4]]), factors)  # what a head predicts that is not sure
    assert sure[0] == pytest.approx([0.5, 0, 0])


def test_numbers_are_standardized_by_the_training_images(run: Path, halves: Path):
    factors = Run.open(run).facts.factors
    images = Data(source=str(halves), attributes=f"{halves}.csv").open("train")
    light = values_of(images, factors[:1])[:, 0]
    assert (factors[0].mean, factors[0].std) == pytest.approx((light.mean(), light.std()))
    assert [f.kind for f in factors] == ["continuous", "circular", "categorical"]
    assert (factors[1].period, factors[1].unit) == (360, "deg")


CONDITION = (Space((3,)),)


@pytest.mark.parametrize("model", components(Model.Config), ids=lambda c: c.type_name())
def test_every_model_that_takes_a_condition_takes_a_vector(model: type[Model.Config]):
    config, space, given = model.example()
    if given:
        return
    with seeded("given"):
        try:
            found = config.build(space, CONDITION)
        except UserError:
            return
        x = torch.randint(space.levels, (4, *space.shape)) if space.levels else torch.randn(4, *space.shape)
        y = torch.randn(4, 3)
        assert torch.isfinite(found.loss(x.to(space.dtype), y).value)
        assert not found.can_sample or len(found.sample(4, y)) == 4
        with pytest.raises(UserError, match="condition"):
            found.loss(x.to(space.dtype), torch.randn(4, 2))


# ---- a table beside images


def images_of(folder: Path, path: Path):
    return Data(source=str(folder), attributes=str(path)).open("train")


def test_rows_are_matched_by_path_name_and_index(tmp_path: Path):
    for i, kind in enumerate(["a", "b", "a"]):
        (tmp_path / "x" / kind).mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 4), i, np.uint8)).save(tmp_path / "x" / kind / f"{i}.png")
    folder = tmp_path / "x"
    whole = [("a/0.png", 0), ("b/1.png", 1), ("a/2.png", 2)]
    tables = {
        "path": whole,
        "windows": [(p.replace("/", "\\"), v) for p, v in whole],
        "name": [(p.rpartition("/")[2], v) for p, v in reversed(whole)],
    }
    for kind, rows in tables.items():
        images = images_of(folder, table(tmp_path / f"{kind}.csv", rows, "path,value"))
        assert images.factors is not None
        assert images.factors[:, 0].tolist() == images.x[:, 0, 0, 0].tolist(), kind
    np.savez(tmp_path / "set.npz", x=np.arange(12, dtype=np.uint8).repeat(16).reshape(12, 4, 4, 1))
    rows = [(i, i) for i in reversed(range(12))]
    images = images_of(tmp_path / "set.npz", table(tmp_path / "index.csv", rows, "index,value"))
    assert images.factors is not None
    assert images.factors[:, 0].tolist() == images.x[:, 0, 0, 0].tolist()


def test_what_is_missing_is_said(tmp_path: Path, halves: Path):
    whole = [line.split(",") for line in Path(f"{halves}.csv").read_text().splitlines()[1:]]
    rows = [[*row[:1], "", *row[2:]] if row[0] == "003.png" else row for row in whole[:-2]]
    path = table(tmp_path / "t.csv", [*rows, ["no.png", 1, 1, "left", 1]])
    data = (f"data.source={halves}", f"data.attributes={path}")
    done = call("train", "vae", *data, "data.given=light", "--out", tmp_path / "r")
    assert done.status == 2
    assert "does not say light of " in done.err
    assert not (tmp_path / "r").exists()
    images = images_of(halves, path)
    assert images.factors is not None
    assert np.isnan(images.factors).any(0).all()
    said = "\n".join(images.notes)
    assert "has no row of 2 of 300 images, the first " in said
    assert "1 row of no image that is there" in said
    assert "light is empty in 1 row" in said


MISTAKES = {
    "path,light\nnone.png,1\n": "none of its paths is that of an image: the first is none.png",
    "name,light\n000.png,1\n": "expected a column path, or index",
    "path\n000.png\n": "expected a column path, or index",
    "path,light\n000.png,1,2\n": "line 2: has 3 columns, and the header 2",
    "path,light\n000.png,1\n000.png,2\n": "path 000.png is that of two images, or of two rows",
    "path,light,light\n000.png,1,2\n": "two columns have the same name",
    "": "expected a header and rows",
}


@pytest.mark.parametrize("text", MISTAKES)
def test_mistakes_of_a_table(tmp_path: Path, halves: Path, text: str):
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(DataError) as e:
        images_of(halves, path)
    assert MISTAKES[text] in str(e.value)
    assert str(path) in str(e.value)


def test_a_column_of_numbers_is_an_angle_where_its_header_says_so():
    factor = number_of("tilt (deg)", np.array([-170.0, 170]))
    assert (factor.name, factor.kind, factor.period) == ("tilt", "circular", 360)
    assert number_of("tilt", np.array([-170.0, 170])).kind == "continuous"


# ---- verbs


def test_samples_have_the_attributes_that_are_asked_for(run: Path):
    found = lb.sample(lb.Run.open(run), 12, attribute={"light": 0.9, "place": "right"}, mean=True, seed=1)
    assert light_of(found.x[:, 0]).mean() == pytest.approx(0.9, abs=0.1)
    assert rightness(found.x[:, 0]).min() > 0.25


def test_a_range_is_a_row_for_each_draw(run: Path):
    words = ("sample", run, "-n", "3", "--mean", "--seed", "1", "--attribute", "light=0.1..0.9:5")
    right(*words, "--attribute", "place=left", "--out", "t.npz")
    x = np.load("t.npz")["x"].reshape(3, 5, SIZE, SIZE)
    assert np.diff(light_of(x), axis=1) == pytest.approx(np.full((3, 4), 0.2), abs=0.06)
    assert rightness(x).max() < -0.25
    right(*words[:-1], "turn=0..360:4", "--out", "t.gif")
    with Image.open("t.gif") as gif:
        assert gif.n_frames == 4  # pyright: ignore
    done = right(*words[:-1], "turn=0..360:4", "--out", "t.png", "--json")
    assert done.json["values"] == ["0", "90", "180", "270"]  # 360 is 0


def test_an_image_rendered_again_keeps_what_is_not_changed(run: Path):
    bars = [0, 4]
    for bar in bars:
        Image.fromarray(picture(0.3, 90, "left", bar)).save(f"{bar}.png")
    files = [f"{bar}.png" for bar in bars]
    done = right("edit", run, *files, "--attribute", "place=right", "--out", "e.npz")
    assert "0.png: encoded as light=0." in done.err
    assert "place=left, as predicted" in done.err
    x = np.load("e.npz")["x"].reshape(2, SIZE, SIZE).astype(float)
    truth = np.stack([picture(0.3, 90, "right", bar) for bar in bars]).astype(float)
    copied = np.stack([picture(0.3, 90, "left", bar) for bar in bars]).astype(float)
    assert np.sqrt(np.square(x - truth).mean()) < 0.35 * np.sqrt(np.square(copied - truth).mean())
    assert x[:, 2:].mean(2).argmin(1).tolist() == bars  # the row that nobody told it of
    own = ("--own", "light=0.3", "--own", "turn=90", "--own", "place=left")
    told = right("edit", run, *files, *own, "--attribute", "place=right", "--out", "f.npz")
    assert "predicted" not in told.err
    row = right("edit", run, "0.png", *own, "--attribute", "light=0.1..0.9:3", "--out", "row.npz")
    assert row.status == 0
    assert light_of(np.load("row.npz")["x"].reshape(3, SIZE, SIZE)) == pytest.approx([0.1, 0.5, 0.9], abs=0.15)
    table = lb.edit(run, ["0.png"], attribute={"light": "0.1..0.9:3", "place": "right"}).table
    assert (table.title, *table.columns[2:]) == ("light; place=right", "0.1", "0.5", "0.9")


def test_other_verbs_say_or_tell_what_it_has(run: Path, halves: Path):
    photo = halves / "000.png"
    assert "as predicted" in right("reconstruct", run, photo, "--out", "r.png").err
    right("traverse", run, "--attribute", "light=0.9", "--out", "t.png")
    right("interpolate", run, photo, halves / "001.png", "--out", "i.png")
    right("score", run, halves, "--out", "s.csv")
    assert len(Path("s.csv").read_text().splitlines()) > 20
    values = right("evaluate", run, "--metrics", "elbo", "--json").json["metrics"]
    assert values["elbo"]["given"] == "attributes"


def test_draws_of_a_code_are_those_of_the_seeds(run: Path, halves: Path):
    words = ("edit", run, halves / "000.png", "--attribute", "light=0.5", "--from", "sample", "--seed")
    right(*words, "3", "-n", "3", "--out", "row.npz")
    row = np.load("row.npz")["x"]
    right(*words, "5", "--out", "one.npz")
    assert np.array_equal(row[2], np.load("one.npz")["x"][0])
    assert len({one.tobytes() for one in row}) == 3


ASKED = {
    ("edit", "{run}", "{photo}", "--attribute", "light=0.5", "-n", "3"): "add --from sample",
    ("edit", "{run}", "{photo}", "--attribute", "light=0..1:3", "-n", "3", "--from", "sample"): "expected a number",
    ("edit", "{run}", "{photo}", "--attribute", "turn=0..90:3", "-n", "3", "--from", "sample"): "is a row of draws",
    ("sample", "{run}", "--attribute", "lihgt=0.5"): "did you mean light?",
    (
        "sample",
        "{run}",
        "--attribute",
        "bar=1",
    ): "'bar' is not among what the model is given; known: light",
    ("sample", "{run}", "--attribute", "light=7"): "light",
    ("sample", "{run}", "--attribute", "light=left"): "light",
    ("sample", "{run}", "--attribute", "place=top"): "left, right",
    ("sample", "{run}", "--attribute", "place=left..right:3"): "place has names",
    ("sample", "{run}", "--attribute", "light=0..1"): "expected LOW..HIGH:N",
    ("sample", "{run}", "--attribute", "light=0..1:3", "--attribute", "turn=0..9:2"): "both have a range",
    ("sample", "{run}", "--label", "3"): "is given attributes: --attribute light=",
    ("edit", "{run}", "{photo}", "--own", "light=0.5"): "nothing to change",
    ("edit", "{run}", "{photo}", "--attribute", "light=0.5", "--own", "ligt=1"): "did you mean light?",
    ("evaluate", "{run}", "--metrics", "rerender"): "is not rendered",
}


@pytest.mark.parametrize("words", ASKED)
def test_mistakes_are_said_in_a_sentence(run: Path, halves: Path, words: tuple[str, ...]):
    filled = [word.format(run=run, photo=halves / "000.png") for word in words]
    done = call(*filled, *(() if words[0] == "evaluate" else ("--out", "o.png")))
    assert (done.status, done.err.count("\n")) == (2, 1)
    assert ASKED[words] in done.err
    assert not Path("o.png").exists()


def test_what_a_run_was_given_of_stays_when_the_table_goes(run: Path, halves: Path, tmp_path: Path):
    gone = Path(f"{halves}.csv").rename(tmp_path / "moved.csv")
    try:
        before = lb.sample(lb.Run.open(run), 4, seed=3)
        assert before.x.shape == (4, 1, SIZE, SIZE)
        done = call("evaluate", run)
        assert done.status == 2
        assert f"data.attributes={halves}.csv: No such file" in done.err
    finally:
        gone.rename(f"{halves}.csv")


def test_categories_go_by_name_in_other_data(run: Path, tmp_path: Path):
    """Where only one place is found, its number is another one, and the model is given the same all the same."""
    folder = tmp_path / "only-right"
    folder.mkdir()
    rows = []
    for i in range(4):
        Image.fromarray(picture(0.8, 90, "right", i)).save(folder / f"{i}.png")
        rows.append((f"{i}.png", 0.8, 90, "right"))
    path = table(tmp_path / "t.csv", rows, "path,light,turn (deg),place")
    factors = Run.open(run).facts.factors
    images = images_of(folder, path)
    assert values_of(images, factors)[:, 2].tolist() == [1] * len(images)
    wrong = images_of(
        folder, table(tmp_path / "u.csv", [(*row[:3], "top") for row in rows], "path,light,turn (deg),place")
    )
    with pytest.raises(DataError, match="place=top is none of left, right"):
        values_of(wrong, factors)


def test_attributes_that_nobody_said_are_those_of_training_images_together(run: Path):
    asked = Asked(attributes={"place": "left"})
    opened = Run.open(run)
    rows = opened.attributes(50, asked, seed=2)
    assert (rows[:, 2] == 0).all()
    known = opened.attributes(10**4)[:, :2]
    assert {tuple(row) for row in rows[:, :2]} <= {tuple(row) for row in known}
    assert not np.array_equal(rows, opened.attributes(50, asked, seed=3))


def test_mistakes_of_a_recipe(halves: Path, tmp_path: Path):
    data = (f"data.source={halves}", f"data.attributes={halves}.csv")
    wrong = {
        ("data.given=lihgt",): "did you mean light?",
        ("data.given=light", "data.label=true"): "use data.given=label",
        ("data.given=light,light",): "names a factor twice",
        ("model.predictor=networks.mlp.MLP",): "model.predictor: predicts the attributes the model is given",
        ("model.adversary=objectives.Invariance",): "set data.given",
    }
    for words, said in wrong.items():
        with pytest.raises((ConfigError, DataError)) as e:
            lb.train("vae", *data, *words, out=tmp_path / "r")
        assert said in str(e.value)
        assert not (tmp_path / "r").exists()
    with pytest.raises(DataError, match="has no factors"):
        lb.train("vae", f"data.source={halves}", "data.given=light", out=tmp_path / "r")

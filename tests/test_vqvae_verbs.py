"""What the verbs do with grids of codes: samples by level, finer codes drawn anew, codes in files; and rejection."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import chisquare
from sklearn.datasets import load_digits

import lowerbound as lb
from command import call, right
from lowerbound.errors import ModelError
from lowerbound.models.classifier import Classifier
from lowerbound.models.vqvae import VQVAE
from lowerbound.progress import Progress
from lowerbound.runs import inputs, recipes
from lowerbound.runs.conditions import Candidates
from lowerbound.runs.facts import Facts
from lowerbound.runs.run import Run
from lowerbound.sampling import completion, rejection, sheets
from lowerbound.sampling.labels import draw_candidates
from lowerbound.units import to_bytes
from lowerbound.verbs.compare.entries import Terms, opened
from lowerbound.verbs.compare.sampled import drawn

pytestmark = pytest.mark.usefixtures("surroundings", "here")

DIGITS: np.ndarray = load_digits()["images"]  # pyright: ignore[reportArgumentType, reportCallIssue]

PRIOR = """
[[model.priors]]
type = "models.autoregressive.Autoregressive"
embedding = 4
context = 4
network = { type = "networks.gated.GatedPixelCNN", width = 6, layers = 2, first_kernel = 3, out_width = 6 }
"""
LEVEL = """
[[model.levels]]
factor = FACTOR
quantizer = { type = "quantizers.VQ", codes = 9, dim = 3 }
"""
HEAD = """
[data]
source = "digits"
label = LABEL
[model]
type = "models.vqvae.VQVAE"
width = 8
inner = 4
blocks = 1
likelihood = { type = "families.DiscretizedNormal" }
"""
VAE = """
[data]
source = "digits"
label = true
[model]
type = "models.vae.VAE"
latent = 3
likelihood = { type = "families.DiscretizedNormal" }
"""
CLASSIFIER = """
[data]
source = "digits"
label = true
[model]
type = "models.classifier.Classifier"
latent = 8
"""


def vqvae(*factors: int, label: bool) -> str:
    levels = "".join(LEVEL.replace("FACTOR", str(f)) for f in factors)
    return HEAD.replace("LABEL", str(label).lower()) + levels + PRIOR * len(factors)


def untrained(folder: Path, text: str, sharper: float = 2.0) -> Path:
    """A run with weights that were not trained, and larger than at the start, so that all that is given matters."""
    folder.mkdir()
    (folder / "recipe.toml").write_text(text)
    recipe = recipes.load(str(folder / "recipe.toml"))
    run = Run.create(folder / "run", "tiny", recipe, Facts.of(recipe.data.open("train"), recipe))
    model = run.build()
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        for name, p in model.named_parameters():
            p.mul_(1.5 if name.startswith("decoder") else sharper)
            p.add_(0.1 * torch.randn_like(p))
    if isinstance(model, VQVAE):  # and codes that tell images apart
        images = recipe.data.open("train").head(64)
        y = torch.from_numpy(np.array(images.y)) if model.given else None
        model.train().loss(torch.from_numpy(np.array(images.x)), y)
        model.after_step()
    run.save_model(model)
    return run.path


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, surroundings: None) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    texts = {
        "vq": vqvae(4, 2, label=False),
        "labelled": vqvae(4, 2, label=True),
        "three": vqvae(8, 4, 2, label=False),
        "one": vqvae(4, label=False),
        "vae": VAE,
        "judge": CLASSIFIER,
    }
    return {name: untrained(folder / name, text) for name, text in texts.items()}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("photos")
    paths = [folder / f"{i}.png" for i in range(3)]
    for path, i in zip(paths, (1730, 1741, 1796), strict=True):
        Image.fromarray(np.rint(DIGITS[i] * (255 / 16)).astype(np.uint8)).save(path)
    return paths


def loaded(run: Path) -> VQVAE:
    model = lb.load(run, device="cpu")
    assert isinstance(model, VQVAE)
    return model


def arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as found:
        return {name: found[name] for name in found.files}


def means(model: VQVAE, codes: dict[str, np.ndarray]) -> np.ndarray:
    """The means of p(x|z) for codes of every level, in 256 values: [N, C, H, W]."""
    with torch.no_grad():
        p = model.decode(tuple(torch.from_numpy(codes[f"codes_{name}"]) for name in model.levels))
    return to_bytes(p.mean.numpy(), model.space.levels or 256)


# ---- samples


def test_samples_come_with_the_codes_and_labels_that_they_were_drawn_for(runs: dict[str, Path], tmp_path: Path):
    right("sample", runs["labelled"], "-n", "6", "--seed", "3", "--mean", "--out", tmp_path / "a.npz")
    found, model = arrays(tmp_path / "a.npz"), loaded(runs["labelled"])
    assert {k: v.shape for k, v in found.items()} == {
        "x": (6, 8, 8, 1),
        "y": (6,),
        "codes_top": (6, 2, 2),
        "codes_bottom": (6, 4, 4),
    }
    assert found["codes_top"].dtype == np.int64
    assert np.array_equal(found["x"].transpose(0, 3, 1, 2), means(model, found))
    again = lb.sample(runs["labelled"], 6, seed=3, mean=True, device="cpu")
    assert np.array_equal(again.codes["bottom"], found["codes_bottom"])
    sevens = lb.sample(runs["labelled"], 4, label="7", device="cpu").y
    assert sevens is not None
    assert sevens.tolist() == [7] * 4
    other = lb.sample(runs["labelled"], 6, seed=4, mean=True, device="cpu")
    assert not np.array_equal(other.codes["bottom"], found["codes_bottom"])


def test_temperature_and_truncation_are_those_of_a_level(runs: dict[str, Path], tmp_path: Path):
    def codes(*options: str) -> tuple[int, int]:
        """How many grids there are of each level among 32."""
        right("sample", runs["vq"], "-n", "32", "--seed", "1", "--out", tmp_path / "a.npz", *options)
        found = arrays(tmp_path / "a.npz")
        return tuple(len(np.unique(found[f"codes_{n}"], axis=0)) for n in ("top", "bottom"))  # pyright: ignore

    top, bottom = codes()
    assert top > 8
    assert bottom == 32
    assert codes("--temperature", "0") == (1, 1)
    assert codes("--temperature", "top=0") == (1, 32)
    likeliest = codes("--top-k", "bottom=1")
    assert likeliest[0] == top
    assert likeliest[1] < 32
    assert codes("--top-k", "top=1,bottom=1") == (1, 1)
    assert codes("--top-p", "top=0.001") == (1, 32)
    x = lb.sample(runs["vq"], 32, seed=1, temperature={"top": 0.0}, device="cpu")
    assert len(np.unique(x.codes["top"], axis=0)) == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--temperature", "tpo=1"], r"--temperature tpo=1: no level 'tpo'; did you mean top\?"),
        (["--temperature", "top=1,top=2"], "--temperature top=1,top=2: expected one number, or a number for each"),
        (["--temperature", "top=1,2"], "expected one number, or a number for each level"),
        (["--temperature", "top="], "--temperature top=: expected a number, got nothing"),
        (["--temperature", "hot"], "--temperature: expected a number, got hot"),
        (["--temperature", "-1"], "temperature: expected a number of at least 0, got -1"),
        (["--temperature", "top=-1"], "temperature: expected a number of at least 0, got -1"),
        (["--top-k", "bottom=2.5"], "--top-k bottom=2.5: expected a whole number, got 2.5"),
        (["--top-k", "0"], "top-k: expected a whole number of at least 1, got 0"),
        (["--top-p", "top=1.5"], "top-p: expected a number above 0 and of at most 1, got 1.5"),
        (["-n", "0"], "-n 0: expected a whole number of at least 1"),
        (["--label", "3"], "is not conditional; train it with data.label=true"),
        (["--keep-level", "top"], "--keep-level top: says whose codes are kept of the images of --from"),
        (["--accept", "0.5"], "--accept 0.5: is the share that --reject CLASSIFIER keeps"),
        (["--reject", "JUDGE"], "--reject: .* is not conditional"),
        (["--from", "PHOTO", "--keep-level", "bottom"], "keeps every level of this model, so there is nothing"),
        (["--from", "PHOTO", "--keep-level", "bottom,top"], "keeps every level of this model, so there is nothing"),
        (["--from", "PHOTO", "--keep-level", "tip"], r"--keep-level tip: no level 'tip'; did you mean top\?"),
        (["--from", "PHOTO", "--keep-level", "top,"], "no level ''; known: bottom, top"),
        (["--from", "PHOTO", "--temperature", "top=1"], "--temperature top=1: the codes of top are kept, not drawn"),
        (["--from", "PHOTO", "--reject", "JUDGE"], "--reject .*can't be used with --from"),
        (["--from", "PHOTO", "-n", "0"], "-n 0: expected a whole number of at least 1"),
        (["--from", "nothing.png"], "nothing.png"),
    ],
)
def test_mistakes_of_a_sample_are_said(
    options: list[str], said: str, runs: dict[str, Path], photos: list[Path], tmp_path: Path
):
    named = {"JUDGE": str(runs["judge"]), "PHOTO": str(photos[0])}
    done = call("sample", runs["vq"], "--out", tmp_path / "a.png", *(named.get(o, o) for o in options))
    assert done.status == 2, done.err
    assert len(done.err.splitlines()) == 1
    assert re.search(said, done.err), done.err
    assert not list(tmp_path.glob("*.png"))


def test_options_of_levels_are_refused_where_there_are_none(runs: dict[str, Path], photos: list[Path]):
    sentences = {
        ("sample", "vae", "--temperature", "top=1"): "--temperature top=1: VAE has no levels, expected one number",
        ("sample", "vae", "--top-k", "3"): "--top-k: VAE does not draw values from a probability of each",
        ("sample", "vae", "--from", str(photos[0])): "--from: VAE has no levels of latents",
        ("sample", "one", "--from", str(photos[0])): "--keep-level top: keeps every level of this model",
        ("reconstruct", "vae", str(photos[0]), "--levels", "top"): "--levels top: VAE has no levels of codes",
        ("reconstruct", "vq", str(photos[0]), "--levels", "tip"): "no level 'tip'; did you mean top?",
    }
    for (verb, run, *words), said in sentences.items():
        done = call(verb, runs[run], *words, "--out", "a.png")
        assert (done.status, said in done.err) == (2, True), done.err
    done = call("encode", runs["vq"], "--scale", "--out", "a.npz")
    assert done.status == 2
    assert "--scale: the codes of a VQ-VAE are whole numbers" in done.err
    assert not list(Path().glob("a.*"))


# ---- the finer codes of images, drawn anew


@pytest.mark.parametrize(
    ("run", "keep", "kept"), [("vq", "top", 1), ("three", "top", 1), ("three", "middle,top", 2), ("three", "middle", 2)]
)
def test_kept_codes_stay_and_finer_ones_are_drawn(
    run: str, keep: str, kept: int, runs: dict[str, Path], photos: list[Path]
):
    made = lb.redraw(runs[run], photos, keep, 5, seed=2, mean=True, device="cpu")
    model = loaded(runs[run])
    own = model.codes(torch.from_numpy(made.originals))
    assert made.x.shape == (3, 5, 1, 8, 8)
    for l, name in enumerate(model.levels):
        same = made.codes[name] == own[l][:, None].numpy()
        assert same.all() == (l < kept)
        assert len(np.unique(own[l].flatten(1), axis=0)) > 1  # the images differ in it
    flat = {f"codes_{name}": c.reshape(-1, *c.shape[2:]) for name, c in made.codes.items()}
    assert np.array_equal(made.x.reshape(-1, 1, 8, 8), means(model, flat))
    again = lb.redraw(runs[run], photos, keep, 5, seed=2, mean=True, device="cpu")
    assert np.array_equal(made.x, again.x)


def test_a_picture_of_redrawn_images_has_all_that_is_said(runs: dict[str, Path], photos: list[Path], tmp_path: Path):
    words = ["--from", *photos, "--keep-level", "top", "-n", 4, "--seed", 1]
    done = right("sample", runs["labelled"], *words, "--out", tmp_path / "a.png", "--json")
    assert done.json["n"] == 4
    assert done.json["keep_level"] == "top"
    assert [len(row) for row in done.json["labels"]] == [4, 4, 4]
    assert "labels drawn given what is kept" in done.err
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size[0] > 6 * 56
    right("sample", runs["labelled"], *words, "--out", tmp_path / "a.npz", "--label", "3")
    found = arrays(tmp_path / "a.npz")
    assert found["x"].shape == (12, 8, 8, 1)
    own = loaded(runs["labelled"]).codes(torch.from_numpy(lb.reconstruct(runs["labelled"], photos, label=3)[0]))
    assert np.array_equal(found["codes_top"], own[0].repeat_interleave(4, 0).numpy())
    right("sample", runs["labelled"], *words, "--out", tmp_path / "folder")
    assert len(list((tmp_path / "folder").glob("*.png"))) == 12


def test_the_table_wraps_and_names_its_rows():
    x = np.arange(2 * 14)[:, None, None, None].reshape(2, 14, 1, 1, 1).astype(np.uint8).repeat(2, 3).repeat(2, 4)
    made = completion.Redrawn(x[:, 0] + 50, x[:, 0] + 60.0, x, {}, 100, names=("a.png", "b.png"))
    table = made.table()
    assert table.x.shape == (4, 9, 1, 2, 2)
    assert table.rows == ("a.png", "", "b.png", "")
    assert table.x[:, :, 0, 0, 0].tolist() == [
        [50, 60, 0, 1, 2, 3, 4, 5, 6],
        [99, 99, 7, 8, 9, 10, 11, 12, 13],
        [64, 74, 14, 15, 16, 17, 18, 19, 20],
        [99, 99, 21, 22, 23, 24, 25, 26, 27],
    ]


def test_labels_are_drawn_given_the_codes_that_are_kept(runs: dict[str, Path]):
    model, N = loaded(runs["labelled"]), 20_000
    top = torch.tensor([[[1, 2], [3, 4]], [[0, 0], [8, 0]]])
    counts = range(1, 11)
    log_p = lambda i, k: model.log_p_coarse((top[i],), k)  # noqa: E731
    candidates = Candidates(torch.arange(10), counts, ())
    y = draw_candidates(model, log_p, 2, N, candidates, torch.Generator().manual_seed(0))
    with torch.no_grad():
        for z, drawn in zip(top, y, strict=True):
            nats = [float(model.priors[0].log_prob(z[None], (torch.tensor([k]),))) for k in range(10)]  # pyright: ignore
            p = np.exp(nats) * counts
            assert chisquare(np.bincount(drawn, minlength=10), N * p / p.sum()).pvalue > 1e-3
            flat = N * np.array(counts) / 55
            assert chisquare(np.bincount(drawn, minlength=10), flat).pvalue < 1e-3  # the codes say something of it


# ---- rejection


def test_proposals_hold_the_share_that_is_accepted_of_each_class():
    y = torch.tensor([3, 0, 3, 3, 5, 0, 3])
    for accept in (1.0, 0.7, 0.5, 0.3, 0.1):
        asked = rejection.proposals(y, accept)
        assert torch.equal(asked[:7], y)
        for c, k in ((0, 2), (3, 4), (5, 1)):
            assert int((asked == c).sum()) == int(np.ceil(round(k / accept, 9)))
    assert len(rejection.proposals(torch.zeros(7, dtype=torch.int64), 0.7)) == 10


def test_the_best_of_each_class_are_kept_in_the_order_of_the_labels():
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        y = torch.randint(4, (9,), generator=generator)
        asked = rejection.proposals(y, 0.4)
        p = torch.rand(len(asked), generator=generator)
        chosen = rejection.best(p, asked, y)
        assert torch.equal(asked[chosen], y)
        assert len(chosen.unique()) == 9
        left = torch.ones(len(asked), dtype=torch.bool)
        left[chosen] = False
        for c in y.unique():
            assert p[chosen[y == c]].min() > p[left & (asked == c)].max()


@pytest.mark.parametrize("name", ["labelled", "vae"])
def test_rejection_keeps_what_the_classifier_is_surest_of(name: str, runs: dict[str, Path], tmp_path: Path):
    options = ["-n", 8, "--label", "3", "--seed", 1, "--reject", runs["judge"], "--accept", "0.25"]
    done = right("sample", runs[name], *options, "--out", tmp_path / "a.npz", "--json")
    said, judge, x = done.json["rejection"], lb.load(runs["judge"], device="cpu"), arrays(tmp_path / "a.npz")["x"]
    assert isinstance(judge, Classifier)
    assert said["drawn"] == 32
    assert said["kept"] > said["rejected"]
    p = judge.probabilities(torch.from_numpy(x.transpose(0, 3, 1, 2).copy()))[:, 3]
    assert said["kept"] == pytest.approx(float(p.mean()), rel=1e-4)
    run, judging = Run.open(runs[name]), Run.open(runs["judge"])
    drawn = lb.sample(run, 8, label="3", reject=judging, accept=0.25, seed=1)
    facts = drawn.judged
    assert facts is not None
    assert facts.kept.min() >= facts.rejected.max()
    assert len(facts.rejected) == 24
    assert np.array_equal(drawn.x.transpose(0, 2, 3, 1), x)
    said = right("sample", runs[name], *options, "--out", tmp_path / "a.png").out
    assert "32 drawn; mean probability of the class, of those kept 0." in said


def test_without_a_label_each_class_has_its_own_images(runs: dict[str, Path]):
    run, judging = Run.open(runs["labelled"]), Run.open(runs["judge"])
    drawn = lb.sample(run, 12, reject=judging, accept=0.5, seed=5)
    facts = drawn.judged
    labels = run.condition(12, seed=5)
    assert labels is not None
    assert facts is not None
    assert drawn.y is not None
    assert np.array_equal(drawn.y, labels.numpy())
    judge = rejection.open_judge(judging, run, 0.5, "cpu")
    p = judge.probabilities(torch.from_numpy(drawn.x)).gather(1, labels[:, None])[:, 0]
    assert np.allclose(facts.kept, p.numpy(), atol=1e-6)
    assert len(facts.rejected) == 12


def test_when_all_are_accepted_they_are_those_without_a_classifier(runs: dict[str, Path]):
    whole = lb.sample(Run.open(runs["labelled"]), 9, reject=Run.open(runs["judge"]), accept=1.0, seed=7)
    facts = whole.judged
    plain = lb.sample(Run.open(runs["labelled"]), 9, seed=7)
    assert facts is not None
    assert facts.report()["rejected"] is None
    assert json.dumps(facts.report())
    assert np.array_equal(whole.x, plain.x)
    assert np.array_equal(whole.codes["top"], plain.codes["top"])


def test_judges_that_do_not_fit_are_refused(runs: dict[str, Path], tmp_path: Path):
    run = Run.open(runs["labelled"])

    def said(judge: Path, accept: float = 0.5) -> str:
        with pytest.raises(ModelError) as e:
            lb.sample(run, 2, reject=Run.open(judge), accept=accept)
        return str(e.value)

    for accept in (0.0, 1.5, -1.0, float("nan")):
        assert f"--accept {accept:g}: expected a share above 0 and of at most 1" in said(runs["judge"], accept)
    assert "VAE gives no labels; expected a run of the recipe classifier" in said(runs["vae"])
    x, y = DIGITS.astype(np.uint8), np.arange(len(DIGITS)) % 10
    others = {"levels": (x, y, 20), "size": (x[:, :4, :4], y, 17), "classes": (x, y % 4, 17)}
    judges = {}
    for name, (images, labels, levels) in others.items():
        np.savez(tmp_path / f"{name}.npz", x=np.ascontiguousarray(images), y=labels, levels=levels)
        judges[name] = untrained(tmp_path / name, CLASSIFIER.replace("digits", str(tmp_path / f"{name}.npz")))
    assert "it takes images of [1, 8, 8] with 20 levels" in said(judges["levels"])
    assert "it takes images of [1, 4, 4] with 17 levels" in said(judges["size"])
    assert "its classes are those of classes, not of digits" in said(judges["classes"])


# ---- codes and reconstructions


def test_codes_in_a_file_decode_to_the_reconstructions(runs: dict[str, Path], photos: list[Path], tmp_path: Path):
    np.savez(tmp_path / "data.npz", x=DIGITS[[1730, 1741, 1796]].astype(np.uint8), levels=17)
    for name in ("vq", "three", "one"):
        model, out = loaded(runs[name]), tmp_path / f"{name}.npz"
        n = lb.encode(runs[name], data=str(tmp_path / "data.npz"), split="all", out=out, device="cpu")
        found = arrays(out)
        assert n == 3
        assert set(found) == {f"codes_{level}" for level in model.levels}
        assert all(found[f"codes_{level}"].dtype == np.int64 for level in model.levels)
        x, r = lb.reconstruct(runs[name], photos, device="cpu")
        images = inputs.open_data(Run.open(runs[name]), "all", str(tmp_path / "data.npz")).x
        order = [int((np.array(images) == one).all((1, 2, 3)).argmax()) for one in x]  # of the split, which is its own
        assert sorted(order) == [0, 1, 2]
        assert np.array_equal(means(model, found)[order], to_bytes(r, model.space.levels or 256))
        assert np.array_equal(model.codes(torch.from_numpy(x))[-1].numpy(), found[f"codes_{model.levels[-1]}"][order])


def test_codes_come_with_the_labels_of_the_data(runs: dict[str, Path], tmp_path: Path):
    right("encode", runs["labelled"], "--split", "test", "--out", tmp_path / "a.npz")
    found = arrays(tmp_path / "a.npz")
    assert set(found) == {"codes_top", "codes_bottom", "label"}
    assert len(found["label"]) == len(found["codes_top"]) == 189


def test_reconstructions_of_some_levels(runs: dict[str, Path], photos: list[Path], tmp_path: Path):
    def of(levels: str | None) -> np.ndarray:
        words = [] if levels is None else ["--levels", levels]
        right("reconstruct", runs["three"], *photos, *words, "--out", tmp_path / "a.npz")
        return arrays(tmp_path / "a.npz")["x"]

    model = loaded(runs["three"])
    x = torch.from_numpy(lb.reconstruct(runs["three"], photos)[0])
    for levels in ("top", "middle,bottom"):
        mean = model.partial(x, levels.split(",")).round().to(torch.uint8).numpy()
        assert np.array_equal(of(levels), mean.transpose(0, 2, 3, 1))
    assert np.array_equal(of("top,middle,bottom"), of(None))
    assert not np.array_equal(of("top"), of("top,middle"))


def test_the_picture_of_reconstructions_has_a_row_for_every_level(runs: dict[str, Path]):
    run, model = Run.open(runs["three"]), loaded(runs["three"])
    batch = next(inputs.as_batches(run, inputs.open_data(run, "valid"), torch.device("cpu")).in_order(16))
    table = sheets.by_levels(model, batch.x[:8])
    assert table.rows == ("original", "top alone", "top + middle", "top + middle + bottom")
    assert np.array_equal(table.x[0], batch.x[:8].numpy())
    whole = model.decode(model.codes(batch.x[:8])).mean.detach().numpy()
    assert np.allclose(table.x[-1], whole, atol=1e-4)
    sheets.draw_reconstructions(run, model, batch)
    with Image.open(run.picture("reconstructions.png")) as picture:
        assert picture.size[0] > 8 * 56


# ---- compare


def test_compare_shows_what_sample_draws(runs: dict[str, Path]):
    report = lb.compare([runs["labelled"], runs["vae"]], limit=5, draws=2, samples=4, device="cpu")
    row = report["runs"][0]
    assert row["code"] == {"shapes": [[2, 2], [4, 4]], "dims": 20}
    assert row["nll"]["relation"] == "<="
    assert row["squared_error"]["value"] > 0
    terms = Terms(None, "test", 5, 2, 4, 0, torch.device("cpu"))
    (entry,) = opened([Run.open(runs["labelled"])], terms, Progress())
    x, timing = drawn(entry, terms)
    assert x is not None
    assert timing is not None
    assert np.array_equal(x, lb.sample(runs["labelled"], 4, seed=0, device="cpu").x)

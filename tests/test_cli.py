"""Every verb end to end, what it prints, and what it says of a mistake."""

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import lowerbound as lb
from command import call, right, tree
from lowerbound import cli
from lowerbound.progress import Terminal
from lowerbound.sampling import sheets
from lowerbound.verbs import evaluate

pytestmark = pytest.mark.usefixtures("surroundings", "here")

SHORT = [
    "train.steps=40",
    "train.valid_every=20",
    "model.encoder.hidden=[16]",
    "model.decoder.hidden=[16]",
    "model.latent=3",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "digits"
    right("train", "vae", "--out", out, *SHORT)
    return out


@pytest.fixture(scope="module")
def conditional(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of two classes of images, one black, one white; three in four are white."""
    folder = tmp_path_factory.mktemp("conditional")
    rng, n = np.random.default_rng(0), 400
    y = (np.arange(n) % 4 != 0).astype(np.int64)
    x = np.where(y[:, None, None] == 1, 235, 0) + rng.integers(0, 20, (n, 8, 8))
    np.savez(folder / "two.npz", x=x.astype(np.uint8), y=y)
    words = [
        "data.label=true",
        "train.steps=250",
        "train.valid_every=125",
        "train.optimizer.lr=0.01",
        "model.latent=2",
        "train.batch=64",
    ]
    words += ["model.encoder.hidden=[16]", "model.decoder.hidden=[32]"]
    right("train", "vae", "--data", folder / "two.npz", "--out", folder / "run", *words)
    return folder / "run"


def opened(path: str | Path) -> Image.Image:
    with Image.open(path) as image:
        return image.copy()


# --- train


def test_train(run):
    assert {"config.json", "model.safetensors", "log.jsonl", "state/model.safetensors"} <= tree(run)
    assert {f"pictures/{n}.png" for n in ("samples", "samples_mean", "reconstructions", "curves")} <= tree(run)
    assert {"evaluation/valid.json", "evaluation/valid.npz"} <= tree(run)
    for picture in (run / "pictures").iterdir():
        assert opened(picture).size > (50, 50)


def test_train_prints_a_table_and_where_the_run_is(here):
    done = right("train", "vae", *SHORT, "train.valid_every=2")
    assert (here / "runs/vae/model.safetensors").exists()
    assert "bits_per_dim" in done.out
    assert "digits, valid" in done.out
    assert done.err.splitlines()[-1].startswith("runs/vae: model.safetensors")
    assert len(done.err.splitlines()) < 8, "twenty validations are no twenty lines where nobody watches"
    assert "\x1b" not in done.out + done.err
    assert all(line == line.strip("\r") for line in done.err.splitlines())


@pytest.mark.usefixtures("no_pictures")
def test_train_json(here):
    done = right("train", "vae", *SHORT, "--out", "a", "--json", "--seed", "3")
    assert done.json["data"]["split"] == "valid"
    assert done.json["metrics"]["nll"]["relation"] == "<="
    assert json.loads((here / "a/config.json").read_text())["config"]["seed"] == 3


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sheets, "draw_pictures", lambda *_: None)


@pytest.mark.usefixtures("no_pictures")
def test_train_overwrites_and_resumes():
    right("train", "vae", *SHORT, "--out", "a")
    assert "--overwrite" in call("train", "vae", *SHORT, "--out", "a").err
    right("train", "vae", *SHORT, "--out", "a", "--overwrite")
    assert "is finished; nothing to resume" in right("train", "vae", *SHORT, "--out", "a", "--resume").err


def test_dry_run(here):
    done = right("train", "vae", *SHORT, "--dry-run", "--json")
    assert done.json["steps"] == 40
    with_table = right("train", "vae", *SHORT, "--dry-run", "--processes", "3")
    assert f"{done.json['parameters']:,}" in with_table.out
    assert "expected minutes" in with_table.out
    assert "of one process that takes whole batches; 3 share each" in with_table.err
    weights = [(64, 16), (16, 6), (3, 16), (16, 128)]
    assert done.json["parameters"] == sum(i * o + o for i, o in weights)
    # 2 multiply-adds per weight forward, 4 backward, of which the first layer's input needs none
    assert done.json["GFLOP per step"] == pytest.approx(
        128 * (6 * sum(i * o for i, o in weights) - 2 * 64 * 16) / 1e9, abs=6e-4
    )
    assert tree(here) == set()


def test_a_recipe_in_a_file(here):
    (here / "mine.toml").write_text(
        '[data]\nsource = "digits"\n[model]\ntype = "models.vae.VAE"\nlatent = 2\n[train]\nsteps = 3\n'
    )
    right("train", "mine.toml")
    assert "manifold.png" in {p.name for p in (here / "runs/mine/pictures").iterdir()}


# --- evaluate


def test_evaluate_json(run):
    done = right("evaluate", run, "--json", "--draws", "7")
    report = done.json
    assert {"run", "model", "seed", "version", "data", "metrics"} <= set(report)
    assert (report["run"], report["model"], report["seed"]) == (str(run), "models.vae.VAE", 0)
    wanted = {"name": "digits", "split": "test", "n": 189, "shape": [1, 8, 8], "levels": 17, "binarization": None}
    assert report["data"] == wanted
    metrics = report["metrics"]
    assert {"elbo", "nll", "bits_per_dim", "kl", "distortion", "mse", "squared_error", "psnr", "active_units"} <= set(
        metrics
    )
    for m in metrics.values():
        assert {"value", "stderr", "unit", "relation", "n", "draws"} <= set(m)
        assert m["n"] == 189
    assert (metrics["nll"]["relation"], metrics["nll"]["draws"], metrics["elbo"]["relation"]) == ("<=", 7, "=")
    assert metrics["nll"]["value"] < -metrics["elbo"]["value"]
    assert metrics["bits_per_dim"]["value"] == pytest.approx(metrics["nll"]["value"] / (64 * np.log(2)))
    assert metrics["squared_error"]["value"] == pytest.approx(64 * metrics["mse"]["value"])
    assert metrics["elbo"]["value"] == pytest.approx(-metrics["kl"]["value"] - metrics["distortion"]["value"])
    saved = json.loads((run / "evaluation/test.json").read_text())
    assert saved["metrics"]["nll"]["value"] == metrics["nll"]["value"]
    each = np.load(run / "evaluation/test.npz")
    assert each["nll"].mean() == pytest.approx(metrics["nll"]["value"])
    assert right("evaluate", run, "--json", "--draws", "7").json == report


def test_evaluate_a_table(run):
    done = right("evaluate", run, "--draws", "3", "--split", "valid", "--limit", "9")
    assert "digits, valid, n=9, levels=17" in done.out
    (line,) = [line for line in done.out.splitlines() if "bits_per_dim" in line]
    assert line.split()[1] == "<="
    assert line.split()[-2:] == ["bits/dim", "3"]


def test_a_part_is_not_saved(run):
    right("evaluate", run, "--split", "train", "--limit", "5", "--draws", "2")
    right("evaluate", run, "--split", "train", "--metrics", "mse")
    assert not (run / "evaluation/train.json").exists()


def test_evaluate_some_metrics(run):
    done = right("evaluate", run, "--metrics", "mse,elbo", "--json", "--limit", "20")
    assert set(done.json["metrics"]) == {"mse", "elbo"}


def test_evaluate_other_data_and_a_conditional_model(conditional, run, here):
    report = right("evaluate", conditional, "--json", "--draws", "3").json
    assert report["metrics"]["nll"]["given"] == "label"
    assert "given" not in report["metrics"]["mse"]
    np.savez(here / "x.npz", x=np.random.default_rng(0).integers(0, 17, (60, 8, 8), np.uint8), levels=17)
    report = right("evaluate", run, "--data", "x.npz", "--split", "all", "--json", "--limit", "60", "--draws", "2").json
    assert (report["data"]["name"], report["data"]["n"]) == ("x", 60)


# --- sample, reconstruct, encode


def test_a_sentence_is_one_line_however_long(run, here):
    out = f"{'x' * 120} {'y' * 80}/s.png"
    assert right("sample", run, "-n", "1", "--out", out, "--seed", "5").out == f"1 image in {out} (--seed 5)\n"


def test_sample_a_grid(run, here):
    done = right("sample", run, "-n", "10", "--out", "new/s.png", "--seed", "5")
    assert done.out == "10 images in new/s.png (--seed 5)\n"
    assert done.err == ""
    assert opened("new/s.png").mode == "L"
    assert tree(here) == {"new", "new/s.png"}


def test_sample_an_array_and_its_seed(run):
    seed = str(right("sample", run, "-n", "10", "--out", "a.npz", "--json").json["seed"])
    right("sample", run, "-n", "10", "--out", "b.npz", "--seed", seed)
    assert right("sample", run, "-n", "10", "--out", "c.npz", "--json").json["seed"] != int(seed)
    a, b, c = (np.load(f"{n}.npz")["x"] for n in "abc")
    assert (a.dtype, a.shape) == (np.uint8, (10, 8, 8, 1))
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)
    assert a.max() <= 16
    assert int(np.load("a.npz")["levels"]) == 17


def test_sample_a_folder(run, here):
    right("sample", run, "-n", "12", "--out", "many")
    assert tree(here / "many") == {f"{i:04}.png" for i in range(12)}
    assert opened("many/0000.png").size == (8, 8)


def test_temperature_and_mean(run):
    right("sample", run, "-n", "6", "--temperature", "0", "--mean", "--out", "a.npz")
    x = np.load("a.npz")["x"]
    assert (x == x[:1]).all(), "at temperature 0 the prior gives its mode alone"
    right("sample", run, "-n", "6", "--mean", "--out", "b.npz")
    assert not (np.load("b.npz")["x"] == x[:1]).all()


def test_labels(conditional):
    def bright(*words: str) -> np.ndarray:
        right("sample", conditional, "-n", "200", "--out", "s.npz", "--seed", "0", *words)
        return np.load("s.npz")["x"].mean((1, 2, 3)) > 128

    assert bright("--label", "1").mean() > 0.95
    assert bright("--label", "0").mean() < 0.05
    share, error = bright().mean(), np.sqrt(0.75 * 0.25 / 200)
    assert abs(share - 0.75) < 4 * error + 0.03


def images(folder: Path, *classes: str, n: int = 30, kind: str = "jpg", size: int = 12) -> Path:
    rng = np.random.default_rng(0)
    for name in classes or ("",):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(n):
            Image.fromarray(rng.integers(0, 256, (size, size, 3), np.uint8)).save(folder / name / f"{i:03}.{kind}")
    return folder


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A zip of class folders, and a run of it."""
    folder = tmp_path_factory.mktemp("named")
    images(folder / "pets", "cat", "dog")
    with zipfile.ZipFile(folder / "pets.zip", "w") as file:
        for path in (folder / "pets").rglob("*.jpg"):
            file.write(path, path.relative_to(folder))
    right(
        "train", "vae", "--data", folder / "pets.zip", "--out", folder / "run", "data.label=true", "data.size=8", *SHORT
    )
    return folder / "pets.zip", folder / "run"


def test_class_names(named):
    _, run = named
    right("sample", run, "-n", "3", "--label", "dog", "--out", "a.npz", "--seed", "1")
    right("sample", run, "-n", "3", "--label", "1", "--out", "b.npz", "--seed", "1")
    assert np.array_equal(np.load("a.npz")["x"], np.load("b.npz")["x"])
    done = call("sample", run, "-n", "3", "--label", "dgo", "--out", "c.npz")
    assert done.status == 2
    assert "did you mean dog?" in done.err


def test_reconstruct(run, here):
    images(here, n=2, kind="png", size=20)
    images(here, n=1, kind="jpg", size=9)
    done = right("reconstruct", run, "000.png", "001.png", "000.jpg")
    assert done.out == "3 images in reconstructions.png\n"
    assert opened("reconstructions.png").mode == "L"
    right("reconstruct", run, "000.png", "001.png", "--out", "folder")
    assert tree(here / "folder") == {"000.png", "001.png"}


def test_encode(run, named):
    done = right("encode", run, "--out", "z.npz")
    assert done.out == "1,459 codes in z.npz\n"
    z = np.load("z.npz")
    assert (z["z"].shape, z["z"].dtype, z["label"].shape) == ((1459, 3), np.float32, (1459,))
    model, x = lb.load(run), torch.from_numpy(lb.Run.open(run).recipe.data.open("train").x[:5])
    with torch.no_grad():
        assert np.allclose(model.encode(x).mean.numpy(), z["z"][:5], atol=1e-5)  # pyright: ignore
    right("encode", named[1], "--split", "valid", "--out", "named.npz")
    with np.load("named.npz") as file:
        assert set(file) == {"z", "label", "path"}
        assert all(p.split("/")[-2] == ("cat", "dog")[y] for p, y in zip(file["path"], file["label"], strict=True))


# --- own data


@pytest.mark.usefixtures("no_pictures")
def test_a_folder_of_photographs(here):
    folder = images(here / "photos")
    right("train", "vae", "--data", folder, "--out", "run", *SHORT)
    assert right("evaluate", "run", "--json", "--draws", "2").json["data"]["shape"] == [3, 12, 12]
    right("sample", "run", "-n", "4", "--out", "s.png")
    assert opened("s.png").mode == "RGB"


def test_a_zip_of_class_folders(named):
    _, run = named
    report = right("evaluate", run, "--json", "--draws", "2").json
    assert report["data"]["name"] == "pets"
    assert report["metrics"]["nll"]["given"] == "label"
    right("reconstruct", run, next(images(Path("own"), n=1).iterdir()), "--label", "cat")


@pytest.mark.usefixtures("no_pictures")
def test_an_npz():
    np.savez("x.npz", x=np.random.default_rng(0).integers(0, 2, (80, 6, 6), np.uint8), levels=2)
    right("train", "vae", "--data", "x.npz", "--out", "run", *SHORT, "model.likelihood=families.Bernoulli")
    report = right("evaluate", "run", "--json", "--draws", "2").json
    assert (report["data"]["levels"], report["data"]["binarization"]) == (2, "fixed")
    right("sample", "run", "-n", "4", "--out", "s.npz")
    assert np.load("s.npz")["x"].max() <= 1


# --- lists


def test_recipes():
    rows, table = right("recipes", "--json").json, right("recipes").out
    assert "vae" in [row["name"] for row in rows]
    assert all(row["name"] in table for row in rows)


def test_data_list():
    rows = {row["name"]: row for row in right("data", "list", "--json").json}
    assert rows["digits"]["present"] is True
    assert rows["mnist"]["present"] is False
    out = right("data", "list").out
    assert "digits" in out
    assert "mnist/train-images-idx3-ubyte.gz" in out


def test_data_show():
    done = right("data", "show", "digits", "--out", "sheet.png")
    assert "1,797" in done.out
    assert opened("sheet.png").width > 300
    shown = right("data", "show", "digits", "size=4", "--json").json
    assert (shown["n"], shown["shape"], shown["levels"]) == (1797, [1, 4, 4], 17)


def test_help_waits_for_no_torch():
    code = (
        "import sys; from lowerbound.cli import main; sys.argv = ['lowerbound', *{words}]\n"
        "try: main()\nexcept SystemExit: pass\n"
        "assert not {{'torch', 'numpy', 'matplotlib'}} & set(sys.modules), 'imported'"
    )
    for words in (["--help"], ["data", "--help"]):
        done = subprocess.run([sys.executable, "-c", code.format(words=words)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "show" in done.stdout if "data" in words else "evaluate" in done.stdout


def test_every_verb_has_help():
    for verb in ("train", "evaluate", "sample", "reconstruct", "encode", "recipes"):
        assert verb in right("--help").out
        assert right(verb, "--help").out.startswith(f"Usage: lowerbound {verb}")
    assert right("--version").out.strip()


# --- Python


def test_python(here):
    state = torch.get_rng_state()
    run = lb.train("vae", data="digits", out="runs/digits", train={"steps": 20}, model={"latent": 4})
    assert torch.equal(state, torch.get_rng_state())
    assert (run.path / "pictures/samples.png").exists()
    assert (run.path / "evaluation/valid.json").exists()
    model = lb.load("runs/digits")
    assert not model.training
    x = model.sample(16)
    assert (x.dtype, x.shape) == (torch.uint8, (16, 1, 8, 8))
    q: Any = model.encode(x)  # pyright: ignore
    p: Any = model.decode(q.sample((5,)))  # pyright: ignore
    assert p.batch_shape == (5, 16)
    log_p = model.log_density(x, draws=10)
    assert log_p.shape == (16,)
    assert model.density.value == "<="
    assert lb.evaluate("runs/digits", limit=10, draws=2)["data"]["n"] == 10
    with pytest.raises(lb.UserError, match=r"train\.stesp: unknown key; did you mean steps\?"):
        lb.train("vae", train={"stesp": 20})


# --- mistakes


def mistakes() -> Iterator[Any]:
    """A command and the words that what it says must hold. RUN, CONDITIONAL and OWN stand for paths."""
    train = "train vae --out new"
    rows: list[tuple[str, list[str]]] = [
        ("train vea", ["no recipe 'vea'", "did you mean vae?"]),
        ("train missing.toml", ["missing.toml"]),
        ("train broken.toml", ["broken.toml", "not a TOML file"]),
        (f"{train} --data diggits", ["diggits", "did you mean digits?"]),
        (f"{train} --data no/such/folder", ["no data set or path 'no/such/folder'"]),
        (f"{train} --data text.txt", ["text.txt", "expected a folder"]),
        (f"{train} --data broken.npz", ["broken.npz"]),
        (f"{train} --data empty", ["empty", "no image"]),
        (f"{train} --data mnist", ["mnist", "missing in"]),
        (f"{train} model.latnet=3", ["model.latnet: unknown key", "did you mean latent?"]),
        (f"{train} train.optimizer.lrr=3", ["train.optimizer.lrr: unknown key", "did you mean lr?"]),
        (f"{train} trian.steps=3", ["trian: unknown key", "did you mean train?"]),
        (f"{train} model.latent=16.5", ["model.latent", "expected a whole number above 0, got 16.5"]),
        (f"{train} train.steps=0", ["train.steps: expected a whole number above 0", "got 0"]),
        (f"{train} train.steps=many", ["train.steps: expected a whole number above 0", '"many"']),
        (f"{train} train.batch=true", ["train.batch: expected a whole number above 0", "got true"]),
        (f"{train} train.optimizer.lr=-1", ["train.optimizer.lr: expected a number above 0", "got -1"]),
        (f"{train} train.optimizer=optimization.Adma", ["train.optimizer", "did you mean optimization.Adam?"]),
        (f"{train} model.encoder.type=networks.conv.Cnov", ["networks.conv.Cnov", "did you mean networks.conv.Conv?"]),
        (f"{train} train.steps=null", ["set train.steps or train.epochs"]),
        (f"{train} train.steps", ["train.steps", "expected KEY=VALUE"]),
        (f"{train} =3", ["expected KEY=VALUE"]),
        (f"{train} --stage nope", ["--stage nope", "known: model"]),
        (f"{train} --device nonsense", ["--device nonsense", "expected auto, cpu, cuda or cuda:N"]),
        (f"{train} --device cuda:99", ["--device cuda:99", "CUDA devices here"]),
        (f"{train} --seed -1", ["seed", "of at least 0"]),
        (f"{train} --seed many", ["--seed", "many"]),
        (f"{train} --ot x", ["--ot", "--out"]),
        (f"{train} --resume --overwrite", ["--resume", "--overwrite"]),
        ("train", ["RECIPE", "requires an argument"]),
        (f"{train} --data plain data.label=true", ["plain", "has no labels", "data.label=false"]),
        (f"{train} model.encoder={{}} model.encoder.type=networks.conv.Conv model.encoder.widths=[4,4,4,4,4]", ["8"]),
        ("train vae --out text.txt", ["text.txt", "is a file"]),
        ("train vae --out /dev/null/new", ["can't write /dev/null/new"]),
        ("train vae --out empty/.. --overwrite", ["is not a run"]),
        ("train vae --out RUN", ["--resume", "--overwrite"]),
        ("evaluate missing", ["missing: no such run"]),
        ("evaluate empty", ["empty", "is not a run"]),
        ("evaluate RUN --metrics nlll", ["no metric 'nlll'", "did you mean nll?"]),
        ("evaluate RUN --split nope", ["no split 'nope'", "known: all, test, train, valid"]),
        ("evaluate RUN --draws 0", ["--draws", "at least 1"]),
        ("evaluate RUN --limit 0", ["--limit", "at least 1"]),
        ("evaluate RUN --draws few", ["--draws", "few"]),
        ("evaluate RUN --data plain", ["plain", "was trained on"]),
        ("evaluate RUN --device cuda:99", ["--device cuda:99"]),
        ("evaluate", ["RUN", "requires an argument"]),
        ("sample RUN -n 0 --out s.png", ["-n 0", "at least 1"]),
        ("sample RUN -n -3 --out s.png", ["-n -3", "at least 1"]),
        ("sample RUN -n 2.5 --out s.png", ["-n", "2.5"]),
        ("sample RUN --temperature -1 --out s.png", ["temperature", "at least 0", "-1"]),
        ("sample RUN --temperature nan --out s.png", ["temperature", "nan"]),
        ("sample RUN --out s.jpeg", ["s.jpeg", ".png", ".npz"]),
        ("sample RUN --out /dev/null/s.png", ["can't write /dev/null/s.png"]),
        ("sample RUN --out text.txt/s.npz", ["can't write text.txt/s.npz"]),
        ("sample RUN --out /dev/null/folder", ["can't write /dev/null/folder"]),
        ("sample RUN", ["--out"]),
        ("sample RUN --label 1 --out s.png", ["--label 1", "not conditional", "data.label=true"]),
        ("sample CONDITIONAL --label 99 --out s.png", ["--label 99", "no such class", "known: 0, 1"]),
        ("sample CONDITIONAL --label -1 --out s.png", ["--label -1", "no such class"]),
        ("sample RUN extra --out s.png", ["extra"]),
        ("reconstruct RUN text.txt", ["text.txt", "not an image"]),
        ("reconstruct RUN missing.png", ["missing.png", "No such file"]),
        ("reconstruct RUN empty", ["empty", "is a folder"]),
        ("reconstruct RUN text.txt broken.toml", ["text.txt"]),
        ("reconstruct RUN own.png --out r.gif", ["r.gif", ".png"]),
        ("reconstruct RUN", ["IMAGES", "requires an argument"]),
        ("encode RUN --out z.csv", ["--out z.csv", ".npz"]),
        ("encode RUN --out /dev/null/z.npz", ["can't write /dev/null/z.npz"]),
        ("encode RUN --out z.npz --split nope", ["no split 'nope'"]),
        ("encode RUN", ["--out"]),
        ("data show nothing", ["no data set or path 'nothing'"]),
        ("data show digits siez=3", ["siez: unknown key", "did you mean size?"]),
        ("data show digits size=big", ["size: expected a whole number above 0", '"big"']),
        ("data show digits --out s.jpg", ["s.jpg", ".png"]),
        ("data shwo digits", ["shwo", "show"]),
        ("evalute RUN", ["evalute", "evaluate"]),
    ]
    for command, words in rows:
        yield pytest.param(command.split(), words, id=command)


@pytest.fixture
def things(here: Path) -> Path:
    """Files to make mistakes with."""
    images(here / "plain", n=12)
    (here / "empty").mkdir()
    (here / "text.txt").write_text("no image")
    (here / "broken.npz").write_bytes(b"PK no")
    (here / "broken.toml").write_text("a = = 1")
    Image.new("L", (8, 8)).save(here / "own.png")
    return here


@pytest.mark.parametrize(("words", "expected"), list(mistakes()))
def test_a_mistake_is_said_in_a_sentence(words, expected, things, run, conditional):
    before = tree(things), tree(run), tree(conditional)
    done = call(*({"RUN": run, "CONDITIONAL": conditional}.get(w, w) for w in words))
    assert done.status == 2, done.err
    assert done.out == ""
    *earlier, line = done.err.splitlines()
    assert line.startswith("lowerbound: ")
    assert all(word in line for word in expected), line
    assert "Traceback" not in done.err
    assert "internal error" not in done.err
    assert not earlier
    sentence, _, page = line.rpartition(" (lowerbound.errors/")
    assert page.endswith(")"), line
    assert len(sentence) < 500
    assert (tree(things), tree(run), tree(conditional)) == before, "something is left behind"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there(run):
    done = call("evaluate", run, "--device", "cuda")
    assert done.status == 2
    assert "--device cuda: 0 CUDA devices here; use --device cpu" in done.err


def test_debug_shows_where(run):
    done = call("--debug", "evaluate", run, "--split", "nope")
    assert done.status == 2
    assert "Traceback" in done.err
    assert done.err.splitlines()[-1].startswith("lowerbound: no split")


def test_an_internal_error(run, monkeypatch):
    def broken(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr(evaluate, "evaluated", broken)
    done = call("evaluate", run)
    assert done.status == 1
    assert done.err == "lowerbound: internal error: ZeroDivisionError: oh (--debug shows where)\n"
    done = call("evaluate", run, "--debug")
    assert done.status == 1
    assert "Traceback" in done.err


def test_ctrl_c(run, monkeypatch):
    def interrupted(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluate, "evaluated", interrupted)
    done = call("evaluate", run)
    assert (done.status, done.err) == (130, "lowerbound: stopped\n")


def test_a_pipe_that_closes(run):
    """`lowerbound recipes | head -0` ends without a traceback."""
    command = f"{sys.executable} -c 'from lowerbound.cli import main; main()' recipes | true"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


def test_no_bars_where_colours_are_forced_upon_what_is_no_terminal(monkeypatch: pytest.MonkeyPatch):
    """As notebooks do, where a bar would be a heap of lines."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert not Terminal().live


def test_what_a_notebook_draws_with_need_not_be_here(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    monkeypatch.setattr(sys, "argv", ["lowerbound", "recipes"])
    cli.main()
    assert os.environ["MPLBACKEND"] == "agg"

"""Traversals, interpolations, directions, edits: what they are in closed form, and what is said of a mistake."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import lowerbound as lb
from command import call, right, tree
from lowerbound import pictures
from lowerbound.directions import Direction
from lowerbound.editing import contrasts, paths
from lowerbound.editing.latents import Editor, codes
from lowerbound.editing.learn import as_step, auroc, auroc_interval, classes, leakage, learn
from lowerbound.errors import ModelError, UserError
from lowerbound.runs.conditions import Asked
from lowerbound.runs.run import Run

pytestmark = pytest.mark.usefixtures("surroundings", "here")

D = 4  # latents of the small runs


def bars(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """8x8 images of two independent factors: a bright top (or not), a bright left side (or not); and noise."""
    rng = np.random.default_rng(seed)
    factors = rng.integers(0, 2, (n, 2))
    x = rng.integers(0, 60, (n, 8, 8))
    x[:, :2] += 100 * factors[:, :1, None]
    x[:, :, :2] += 90 * factors[:, 1:, None]
    return x.astype(np.uint8), factors


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """bars.npz, with labels and factors; the same as class folders; a CSV of both factors."""
    folder = tmp_path_factory.mktemp("data")
    x, factors = bars(400)
    np.savez(folder / "bars.npz", x=x, y=factors[:, 0], factors=factors, factor_names=np.array(["top", "left"]))
    lines = ["path,top,left,word"]
    for i, (image, (top, left)) in enumerate(zip(x, factors, strict=True)):
        path = folder / "faces" / ("smiling" if top else "sad") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
        lines.append(f"{path.parent.name}/{i}.png,{'yes' if top else 'no'},{1 if left else -1},red")
    (folder / "attributes.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def made(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of PPCA on the class folders: everything about it is linear."""
    out = tmp_path_factory.mktemp("runs") / "ppca"
    right("train", "ppca", "--data", data / "faces", "--out", out, f"model.latent={D}")
    right("direction", out, "smile", "--label", "smiling")
    return out


@pytest.fixture(scope="module")
def photo(data: Path) -> Path:
    return next((data / "faces" / "sad").glob("*.png"))


@pytest.fixture
def run(made: Path) -> Run:
    return Run.open(made)


@pytest.fixture(scope="module")
def conditional(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "conditional"
    words = ["data.label=true", "train.steps=150", "train.valid_every=150", "train.optimizer.lr=0.01"]
    words += ["model.latent=2", "model.encoder.hidden=[16]", "model.decoder.hidden=[16]", "train.batch=64"]
    right("train", "vae", "--data", data / "bars.npz", "--out", out, *words)
    return out


@pytest.fixture(scope="module")
def mapped(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose latents are a map."""
    out = tmp_path_factory.mktemp("runs") / "map"
    words = ["train.steps=1", "model.latent=[2,4,4]"]
    for part in ("encoder", "decoder"):
        words += [f"model.{part}.type=networks.conv.Conv", f"model.{part}.widths=[4]"]
    right("train", "vae", "--data", data / "bars.npz", "--out", out, *words)
    return out


# --- the great circle


T = torch.linspace(0, 1, 11, dtype=torch.float64)


def test_slerp_ends_and_norms():
    a, b = torch.randn(2, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    b = b * a.norm() / b.norm()
    path = paths.slerp(a, b, T)
    assert torch.allclose(path[0], a, atol=1e-12)
    assert torch.allclose(path[-1], b, atol=1e-12)
    assert torch.allclose(path.norm(dim=1), a.norm().expand(11), atol=1e-12)
    assert paths.lerp(a, b, T).norm(dim=1)[5] < 0.95 * a.norm()  # which the chord does not do
    turns = (path[1:] * path[:-1]).sum(1) / a.norm() ** 2
    assert torch.allclose(turns, turns[0].expand(10), atol=1e-12)  # at one speed


def test_slerp_is_straight_where_codes_are_parallel():
    a = torch.tensor([1.0, -2.0, 0.5])
    assert torch.allclose(paths.slerp(a, 3 * a, T), paths.lerp(a, 3 * a, T), atol=1e-12)
    assert torch.allclose(paths.slerp(a, 0 * a, T), paths.lerp(a, 0 * a, T), atol=1e-12)
    assert torch.allclose(paths.slerp(a, a, T), a.double().expand(11, 3), atol=1e-12)
    nearly = 3 * a + torch.tensor([2e-5, 0.0, 0.0])
    assert torch.allclose(paths.slerp(a, nearly, T), paths.lerp(a, nearly, T), atol=1e-4)


def test_slerp_between_opposite_codes_is_refused():
    with pytest.raises(ModelError, match="opposite"):
        paths.slerp(torch.ones(3), -torch.ones(3), T)


# --- learning


@pytest.fixture(scope="module")
def gaussians() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Codes of two classes, N(±m / 2, S) with a diagonal S; m and S."""
    rng = np.random.default_rng(0)
    m, s = np.array([1.0, 0.5, 0.0, -1.0]), np.array([1.0, 4.0, 1.0, 0.25])
    positive = np.arange(40_000) % 2 == 0
    z = rng.standard_normal((len(positive), D)) * np.sqrt(s) + np.where(positive, 0.5, -0.5)[:, None] * m
    return z, positive, m, s


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.mark.parametrize("method", ["means", "logistic"])
def test_a_known_direction_is_recovered(gaussians, method):
    z, positive, m, s = gaussians
    true = m if method == "means" else m / s  # the logistic regression of two normals is S⁻¹ m
    assert cosine(learn(z, positive, method), true) > 0.999
    assert cosine(m, m / s) < 0.95  # so the methods are told apart


@pytest.mark.parametrize("method", ["means", "logistic"])
def test_strength_1_carries_the_negatives_mean_to_the_positives_along_it(gaussians, method):
    z, positive, *_ = gaussians
    step = learn(z, positive, method, [np.ones(D)])
    moved = z[~positive].mean(0) + step
    assert moved @ step == pytest.approx(z[positive].mean(0) @ step, rel=1e-9)


def test_orthogonalization_is_exact(gaussians):
    z, positive, *_ = gaussians
    others = [np.array([1.0, 1.0, 1.0, 1.0]), np.array([1.0, 1.0, 1.0, 1.0001]), np.array([0.0, 3.0, 1.0, 0.0])]
    step = learn(z, positive, "means", others)
    assert max(abs(cosine(step, o)) for o in others) < 1e-12
    moved = leakage(step, {str(i): o for i, o in enumerate(others)})
    assert max(abs(v["shift"]) for v in moved.values()) < 1e-11
    with pytest.raises(UserError, match="lies in the span"):
        learn(z, positive, "means", list(np.eye(D)))


def test_auroc_counts_pairs():
    rng = np.random.default_rng(0)
    score, positive = rng.integers(0, 8, 60).astype(float), rng.random(60) < 0.4
    pairs = [(p > n) + 0.5 * (p == n) for p, n in itertools.product(score[positive], score[~positive])]
    assert auroc(score, positive)[0] == pytest.approx(np.mean(pairs))
    assert auroc(score, positive)[1] > 0


def test_auroc_of_normals(gaussians):
    z, positive, m, s = gaussians
    u = m / s
    d = math.sqrt(m @ u)  # the classes' distance, in standard deviations, along the best direction
    value, error = auroc(z @ learn(z, positive, "logistic"), positive)
    assert abs(value - 0.5 * (1 + math.erf(d / 2))) < 4 * error


def test_leakage_is_in_strengths_of_the_other():
    moved = leakage(np.array([2.0, 1.0]), {"o": np.array([0.0, 4.0])}, redrawn=np.array([0.0, 2.0]))
    assert moved["o"] == {"cosine": pytest.approx(1 / math.sqrt(5)), "shift": 0.25, "redrawn": 0.5}


def test_classes_of_a_column():
    assert classes(["1", "-1", "0"])[0].tolist() == [True, False, False]
    found, cut = classes(["0.5", "2", "9", "7"])
    assert (found.tolist(), cut) == ([False, False, True, True], 4.5)
    with pytest.raises(UserError, match="red"):
        classes(["red", "1"])


# --- a run's directions


def test_a_direction_is_what_the_codes_say(run, made):
    editor = Editor(run)
    images = run.recipe.data.open("train")
    z, y = editor.codes_of(images), np.asarray(images.y)
    m = z[y == 1].mean(0) - z[y == 0].mean(0)
    stored = load_file(made / "directions" / "smile.safetensors")["step"].numpy()
    assert np.allclose(stored, m, atol=1e-9)
    held = run.recipe.data.open("valid")
    report = editor.directions["smile"].report
    assert report["auroc"]["value"] == auroc(editor.codes_of(held) @ m, np.asarray(held.y) == 1)[0]
    assert report["held_out"] == {"positive": int(held.y.sum()), "negative": int((held.y == 0).sum())}
    assert report["distance"] == pytest.approx(np.linalg.norm(m))
    assert report["redrawn"] == pytest.approx(1, abs=0.1)  # a linear decoder draws all, but for what is clipped


def test_the_area_of_a_direction_has_an_interval(made):
    """That of so many positives and negatives, also where all pairs are in the right order."""
    words = ["direction", made, "smile", "--label", "smiling"]
    report = right(*words, "--json").json
    area, held = report["auroc"], report["held_out"]
    assert area["interval"] == list(auroc_interval(area["value"], held["positive"], held["negative"]))
    low, high = area["interval"]
    assert low < area["value"] <= high
    assert f"95 %: {low:.3g} to {high:.3g}" in right(*words).out


def test_folders_labels_and_columns_agree(made, data):
    faces = data / "faces"
    sad, smiling = faces / "sad", faces / "smiling"
    right("direction", made, "by-label", "--label", "smiling", "--against", "sad")
    right("direction", made, "by-column", "--attribute", "top", "--attributes", data / "attributes.csv")
    right("direction", made, "by-factor", "--attribute", "top", "--data", data / "bars.npz")
    right("direction", made, "by-folders", "--positive", smiling, "--negative", sad)
    found = Run.open(made).directions(lb.load(made))
    assert torch.equal(found["by-label"].step, found["by-column"].step)
    for other in ("by-factor", "by-folders"):  # the same images, cut into parts in another way
        assert cosine(found["by-label"].step.numpy(), found[other].step.numpy()) > 0.99
    told = found["by-column"].report["leakage"]["attributes"]
    assert set(told) == {"left"}  # a column of words has no two sides
    assert abs(told["left"]["shift"]) < 0.2


def test_listed_and_replaced(made, data):
    right("direction", made, "again", "--label", "smiling")
    report = right("direction", made, "again", "--label", "smiling", "--method", "logistic", "--json").json
    assert report["method"] == "logistic"
    assert report["leakage"]["directions"]["smile"]["cosine"] > 0.8
    rows = right("direction", made, "--json").json
    assert {r["name"]: r["method"] for r in rows}["again"] == "logistic"
    right("direction", made, "left", "--attribute", "left", "--attributes", data / "attributes.csv")
    report = right("direction", made, "again", "--label", "smiling", "--orthogonal-to", "left", "--json").json
    assert abs(report["leakage"]["directions"]["left"]["cosine"]) < 1e-12
    assert report["leakage"]["directions"]["smile"]["cosine"] > 0.8


def test_store_and_load(run):
    model = run.load()
    direction = Direction("there.and-back", as_step(np.array([0.1, -2.0, 3e-9, 4.0])), {"auroc": {"value": 0.7}})
    run.save_direction(direction, model)
    back = Run.open(run.path).directions(model)["there.and-back"]
    assert torch.equal(back.step, direction.step)
    assert back.report == direction.report
    assert back.fresh


def test_a_direction_of_other_weights_is_refused(run, photo):
    model = run.load()
    with torch.no_grad():
        model.weight.mul_(1.01)
    run.save_direction(Direction("old", torch.ones(D, dtype=torch.float64), {}), model)
    x = Editor(run).open([photo]).x
    with pytest.raises(ModelError, match="learn it again"):
        run.load().edit(x, {"old": 1.0})
    assert run.load().edit(x, {"smile": 1.0}).shape == x.shape


def test_a_damaged_direction_hinders_only_its_use(run, made, photo):
    (made / "directions" / "bad.safetensors").write_bytes(b"no")
    try:
        right("sample", made, "-n", "1", "--out", "x.png")
        done = call("edit", made, photo, "--direction", "bad=1", "--out", "y.png")
        assert (done.status, "damaged" in done.err) == (2, True)
    finally:
        (made / "directions" / "bad.safetensors").unlink()


# --- edits


def test_python_edit_is_the_linear_models(run, photo):
    model = lb.load(run.path)
    x = Editor(run).open([photo]).x
    moved = model.edit(x, {"smile": 1.0})
    assert (moved.dtype, moved.shape) == (torch.uint8, x.shape)
    step = model.directions["smile"].step.float()
    flat = model.encode(x).mean @ model.weight.T + model.mean
    expected = (flat + model.weight @ step + 1) * 128 - 0.5  # the values whose bins have these middles
    assert (moved.flatten().float() - expected.clamp(0, 255).round()).abs().max() <= 1
    assert (moved.float() - x)[0, 0, :2].mean() > 60  # the top turned bright


def test_strength_0_is_the_reconstruction(run, data):
    paths = sorted((data / "faces" / "sad").glob("*.png"))[:5]
    x, r = lb.reconstruct(run, paths)
    editor = Editor(run)
    assert np.array_equal(editor.model.edit(editor.open(paths).x, {"smile": 0.0}), np.rint(r).astype(np.uint8))
    made = lb.edit(run, paths, direction={"smile": 1.0}, strength_grid=[0.0, 1.0])
    assert np.allclose(made.x[:, 0], r, atol=1e-3)
    assert np.array_equal(made.table.x[:, 0], x)
    assert not np.allclose(made.x[:, 1], r, atol=10)


def test_residual_at_strength_0_is_the_original(run, data):
    paths = sorted((data / "faces" / "smiling").glob("*.png"))[:5]
    editor = Editor(run)
    x = editor.open(paths).x
    assert torch.equal(editor.model.edit(x, {"smile": 0.0}, residual=True), x)
    assert not torch.equal(editor.model.edit(x, {"smile": 0.0}), x)
    made = lb.edit(run, paths, direction={"smile": 1.0}, strength_grid=[0.0], residual=True)
    assert np.array_equal(np.rint(made.x[:, 0]), x)
    assert "residual" in made.table.title
    assert all("residual" in name for name in made.names)


def test_residual_stays_in_range(run, photo):
    made = lb.edit(run, [photo], direction={"smile": 9.0}, residual=True)
    assert made.x.min() >= 0
    assert made.x.max() == 255


def test_set_and_strength_grid(run, photo):
    editor = Editor(run)
    z = editor.encode(editor.open([photo]).x)
    made = lb.edit(run, [photo], set={2: 1.5}, strength_grid=[0.0, 0.5, 1.0])
    for s, x in zip([0.0, 0.5, 1.0], made.x[0], strict=True):
        moved = z[0].clone()
        moved[2] += s * (1.5 - moved[2])
        assert np.allclose(x, editor.decode(moved), atol=1e-3)


def test_directions_add_up(run, photo):
    editor = Editor(run)
    run.save_direction(Direction("other", torch.eye(D, dtype=torch.float64)[1], {}), editor.model)
    model, x = run.load(), editor.open([photo]).x
    both = {n: model.directions[n].step.float() for n in ("smile", "other")}
    z = model.encode(x).mean + 2 * both["smile"] - both["other"]
    assert torch.equal(model.edit(x, {"smile": 2.0, "other": -1.0}), model.decode(z).mean.round().byte())


def test_sampled_codes_are_keyed_by_the_seed(made, photo):
    words = ["edit", made, photo, "--direction", "smile=1", "--from", "sample"]
    for out, seed in (("a.npz", 1), ("b.npz", 1), ("c.npz", 2)):
        right(*words, "--seed", seed, "--out", out)
    a, b, c = (np.load(f)["x"] for f in ("a.npz", "b.npz", "c.npz"))
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)


def test_what_is_written(made, photo, here):
    words = ["edit", made, photo, photo, "--direction", "smile", "--strength-grid", "-2,-1,0,1,2"]
    right(*words, "--out", "grid.png")
    right(*words, "--out", "x.npz", "--json")
    right(*words, "--out", "moving.gif")
    right("edit", made, photo, "--direction", "smile=1", "--residual", "--out", "folder")
    assert np.load("x.npz")["x"].shape == (10, 8, 8, 1)
    with Image.open("moving.gif") as gif:
        assert gif.n_frames > 2
    assert tree(here / "folder") == {f"{photo.stem}-edited-residual.png"}
    with Image.open("grid.png") as picture:
        assert picture.size[0] > 7 * 56  # original, reconstruction, five strengths


def test_a_conditional_edit(conditional, data, photo):
    """The top is bright or not by the label alone, and the label of an image is found by the bound."""
    done = right("edit", conditional, photo, "--label", "1", "--out", "x.npz")
    assert f"{photo}: encoded as 0, the likeliest label by the bound" in done.err
    x = np.load("x.npz")["x"]
    assert x[0, :2].mean() > np.asarray(Image.open(photo))[:2].mean() + 50
    editor = Editor(Run.open(conditional))
    paths = sorted((data / "faces").glob("*/*.png"))[::8]
    said = editor.condition(editor.open(paths), Asked())
    assert said is not None
    assert np.mean([y == (p.parent.name == "smiling") for p, y in zip(paths, said.tolist(), strict=True)]) > 0.9
    right("edit", conditional, photo, "--own-label", "1", "--label", "1", "--out", "y.npz")
    right("traverse", conditional, "--label", "1", "--out", "t.png")
    right("interpolate", conditional, photo, photo, "--out", "i.png")
    report = right("direction", conditional, "left", "--attribute", "left", "--json").json
    assert report["redrawn"] is None


# --- traversals


def test_the_middle_of_a_row_is_the_prior_mean(run):
    made = lb.traverse(run, steps=5)
    mean = Editor(run).decode(torch.zeros(D)).numpy()
    assert made.table.x.shape == (D, 5, 1, 8, 8)
    assert np.allclose(made.table.x[:, 2], mean, atol=1e-3)
    assert not np.allclose(made.table.x[0, 0], mean, atol=1)


def test_rows_are_linear_and_ordered_by_use(run):
    model, made = run.load(), lb.traverse(run, steps=3, range=2.0)
    measured = codes(run, model)
    z = torch.zeros(D)
    for row, d in zip(made.table.x, made.dims, strict=True):
        z.zero_()
        z[d] = 2 * measured.scale[d]
        assert np.allclose(row[2], model.decode(z).mean.detach(), atol=1e-3)
    assert made.use == sorted(made.use, reverse=True)
    assert [name.split()[0] for name in made.table.rows] == [f"z{d}" for d in made.dims]


def test_use_is_the_kl_of_each_dimension(run):
    """KL(N(m, v) || N(0, 1)) = (v + m² - 1 - ln v) / 2, averaged over the valid images."""
    model, images = run.load(), run.recipe.data.open("valid")
    q = model.encode(torch.from_numpy(np.asarray(images.x)))
    m, v = q.mean.detach().double(), q.variance.detach().double()
    measured = codes(run, model)
    assert torch.allclose(measured.use, 0.5 * (v + m**2 - 1 - v.log()).mean(0), atol=1e-4)
    assert torch.allclose(measured.scale**2, v.mean(0) + m.var(0, correction=0), atol=1e-5)
    assert measured.sphere


def test_from_an_image(run, photo):
    editor = Editor(run)
    q = editor.model.encode(editor.open([photo]).x)
    own = lb.traverse(run, photo, posterior=True, steps=3, range=1.0, dims=[1])
    z = q.mean[0].detach().clone()
    assert np.allclose(own.table.x[0, 1], editor.decode(z), atol=1e-3)
    z[1] += q.stddev[0, 1].detach()
    assert np.allclose(own.table.x[0, 2], editor.decode(z), atol=1e-3)


def test_quantiles_are_those_of_the_draws(run):
    measured = codes(run, run.load())
    made = lb.traverse(run, quantiles=True, steps=3, range=1.0, dims=[0])
    z = torch.zeros(D)
    z[0] = float(np.quantile(measured.draws[:, 0].numpy(), 0.5 * (1 + math.erf(1 / math.sqrt(2)))))
    assert np.allclose(made.table.x[0, 2], Editor(run).decode(z), atol=1e-2)
    assert made.table.columns == ("15.9 %", "50 %", "84.1 %")


def test_traversals_are_deterministic_and_need_the_data_once(made, data):
    right("traverse", made, "--quantiles", "--out", "a.npz")
    (made / "evaluation" / "codes.safetensors").unlink()
    right("traverse", made, "--quantiles", "--out", "b.npz")
    (data / "faces").rename(data / "gone")
    try:
        right("traverse", made, "--quantiles", "--out", "c.npz")
    finally:
        (data / "gone").rename(data / "faces")
    a, b, c = (np.load(f"{f}.npz")["x"] for f in "abc")
    assert np.array_equal(a, b)
    assert np.array_equal(a, c)


def test_chosen_rows(made):
    report = right("traverse", made, "--dims", "3,1", "--out", "t.png", "--json").json
    assert set(report["dims"]) == {1, 3}
    assert len(right("traverse", made, "--top", "2", "--out", "t.png", "--json").json["dims"]) == 2


# --- interpolations


def test_interpolation_ends_at_the_reconstructions(run, data):
    paths = sorted((data / "faces" / "sad").glob("*.png"))[:3]
    _, r = lb.reconstruct(run, paths)
    made = lb.interpolate(run, paths, steps=4, loop=True)
    assert made.table.x.shape == (3, 6, 1, 8, 8)  # an original on either side
    assert made.frames.shape[0] == 9  # 3 times 4, the shared ones once
    for i in range(3):
        assert np.allclose(made.frames[3 * i], r[i], atol=1e-3)
    assert lb.interpolate(run, paths, steps=4).frames.shape[0] == 7


def test_the_sphere_is_for_gaussian_latents(run, photo, data):
    other = next((data / "faces" / "smiling").glob("*.png"))
    editor = Editor(run)
    z = editor.encode(editor.open([photo, other]).x).double()
    half = torch.tensor([0.5])
    for straight, path in ((False, paths.slerp), (True, paths.lerp)):
        made = lb.interpolate(run, [photo, other], steps=3, straight=straight)
        assert made.sphere is not straight
        assert np.allclose(made.frames[1], editor.decode(path(z[0], z[1], half))[0], atol=1e-3)


def test_gif(made, photo, data):
    other = next((data / "faces" / "smiling").glob("*.png"))
    right("interpolate", made, photo, other, "--loop", "--steps", "5", "--out", "loop.gif")
    with Image.open("loop.gif") as gif:
        assert (gif.n_frames, gif.size) == (8, (56, 56))
        assert gif.info["loop"] == 0


# --- images of another kind, and mistakes


def enlarged(path: Path, folder: Path) -> Image.Image:
    """Twice the size and in colour, saved in the folder; returned as it should come back."""
    with Image.open(path) as image:
        large = image.resize((16, 16), Image.Resampling.NEAREST)
    folder.mkdir(parents=True, exist_ok=True)
    large.convert("RGB").save(folder / path.name)
    return large.resize((8, 8), Image.Resampling.BILINEAR)


def test_a_photo_of_another_size_and_mode_is_converted_and_it_is_said(made, photo, here):
    enlarged(photo, here / "large").save("small.png")
    done = right("edit", made, here / "large" / photo.name, "--direction", "smile=1", "--out", "a.npz")
    assert f"{photo.name}: 16x16 in colour, made 8x8 grey" in done.err
    assert "made" not in right("edit", made, "small.png", "--direction", "smile=1", "--out", "b.npz").err
    assert np.array_equal(np.load("a.npz")["x"], np.load("b.npz")["x"])


def test_folders_of_another_size_and_mode_are_converted_and_it_is_said(made, data, here):
    for kind in ("smiling", "sad"):
        (here / "small" / kind).mkdir(parents=True)
        for path in (data / "faces" / kind).glob("*.png"):
            enlarged(path, here / kind).save(here / "small" / kind / path.name)
    right("direction", made, "a", "--positive", "small/smiling", "--negative", "small/sad")
    done = right("direction", made, "b", "--positive", "smiling", "--negative", "sad")
    assert "smiling: made 8x8 grey" in done.err
    known = lb.load(made).directions
    assert torch.equal(known["a"].step, known["b"].step)


def folder_of(images: list[np.ndarray], path: Path) -> Path:
    path.mkdir(parents=True)
    for i, image in enumerate(images):
        Image.fromarray(image).save(path / f"{i}.png")
    return path


MISTAKES = {
    "traverse {run} --dims 0,4 --out o.png": "--dims 4: expected a dimension from 0 to 3",
    "traverse {run} --dims -1 --out o.png": "--dims -1: expected a dimension",
    "traverse {run} --dims a --out o.png": "--dims a: expected a whole number, got a",
    "traverse {run} --range 0 --out o.png": "--range 0: expected a finite number above 0",
    "traverse {run} --range nan --out o.png": "--range nan: expected a finite",
    "traverse {run} --steps 1 --out o.png": "--steps 1: expected at least 2",
    "traverse {run} --top 0 --out o.png": "--top 0: expected at least 1",
    "traverse {run} --posterior --out o.png": "needs an IMAGE",
    "traverse {run} --label 1 --out o.png": "is not conditional",
    "traverse {run} --out o.gif": "expected a path ending in .png",
    "traverse {run} none.png --out o.png": "none.png: No such file",
    "traverse {map} --out o.png": "needs a single vector",
    "interpolate {run} {photo} --out o.png": "at least two images",
    "interpolate {run} {photo} {photo} --out o.jpg": "--out o.jpg: expected",
    "interpolate {map} {photo} {photo} --out o.png": "needs a single vector",
    "edit {run} {photo} --direction smlie=1 --out o.png": "no direction 'smlie'; did you mean smile?",
    "edit {run} {photo} --direction smile=nan --out o.png": "--direction smile=nan: expected a finite number",
    "edit {run} {photo} --direction =2 --out o.png": "--direction =2: expected NAME=VALUE",
    "edit {run} {photo} --set 1 --out o.png": "--set 1: expected DIM=VALUE",
    "edit {run} {photo} --direction smile=1 --direction smile=2 --out o.png": "smile is given twice",
    "edit {run} {photo} --direction smile=1 --strength-grid 1,inf --out o.png": "--strength-grid inf: expected",
    "edit {run} {photo} --direction smile=1 --strength-grid 1,,2 --out o.png": "expected a number, got nothing",
    "edit {run} {photo} --direction smile=1 --out o.gif": "needs at least two images",
    "edit {run} {photo} --direction smile=1 --from median --out o.png": "--from median: expected mean or sample",
    "edit {run} {photo} --set 4=1 --out o.png": "--set 4=1: expected a dimension from 0 to 3",
    "edit {run} {photo} --set x=1 --out o.png": "--set x=1: expected a whole number, got x",
    "edit {run} {photo} --set 1=x --out o.png": "--set 1=x: expected a number, got x",
    "edit {run} {photo} --out o.png": "nothing to change",
    "edit {run} {photo} --label 1 --out o.png": "is not conditional",
    "edit {map} {photo} --set 0=1 --out o.png": "needs a single vector, such as model.latent=64",
    "edit {conditional} {photo} --label 7 --out o.png": "no such class",
    "direction {map} x --label 1": "needs a single vector",
    "direction {run} x": "expected one of --positive",
    "direction {run} x --label sad --attribute a": "expected one of --positive",
    "direction {run} x --positive {data}/faces/sad": "belong together",
    "direction {run} x --label sad --attributes a.csv": "does not go with --label",
    "direction {run} x --label smilig": "did you mean smiling?",
    "direction {run} x --label sad --against sad": "is the same class",
    "direction {run} x --label sad --method mean": "did you mean means?",
    "direction {run} x --label sad --orthogonal-to smlie": "did you mean smile?",
    "direction {run} x --label sad --orthogonal-to x": "is the direction itself",
    "direction {run} x --label sad --orthogonal-to smile": "lies in the span",
    "direction {run} ../x --label sad": "can't name a direction",
    "direction {run} x --positive {data}/faces/sad --negative {data}/faces/sad": "share",
    "direction {run} x --positive {data}/faces --negative {data}/faces/sad": "share",
    "direction {run} x --positive one --negative {data}/faces/sad": "too few for a valid part",
    "direction {run} x --positive two --negative {data}/faces/sad": "to learn from, expected at least 2",
    "direction {run} x --positive copy --negative {data}/faces/sad": "share 1 image:",
    "direction {run} x --positive nowhere --negative {data}/faces/sad": "no data set or path 'nowhere'",
    "direction {run} x --attribute top --attributes gaps.csv": "no value for 3 of",
    "direction {run} x --attribute top --attributes elsewhere.csv": "no value for any image",
    "direction {run} x --attribute tpo --attributes {data}/attributes.csv": "did you mean top?",
    "direction {run} x --attribute word --attributes {data}/attributes.csv": "red",
    "direction {run} x --attribute top --attributes nopath.csv": "expected a column `path`",
    "direction {run} x --attribute top --attributes twice.csv": "two different things",
    "direction {run} x --attribute top --attributes none.csv": "none.csv: can't be read",
    "direction {run} x --attribute top": "has no factors",
    "direction {run} x --attribute tpo --data {data}/bars.npz": "did you mean top?",
}


@pytest.mark.parametrize("words", MISTAKES)
def test_mistakes(words, made, mapped, conditional, photo, data, here):
    sad = sorted((data / "faces" / "sad").glob("*.png"))
    new = list(bars(12, seed=1)[0])
    if "positive" in words:
        folder_of(new[:1], here / "one")
        folder_of(new[:3], here / "two")
        folder_of([*new, np.asarray(Image.open(sad[3]))], here / "copy")
    if "csv" in words:
        lines = (data / "attributes.csv").read_text().splitlines()
        (here / "gaps.csv").write_text("\n".join(lines[:-3]))
        (here / "elsewhere.csv").write_text("\n".join([lines[0], *("x/" + line for line in lines[1:])]))
        (here / "nopath.csv").write_text("file,top\na,1\n")
        (here / "twice.csv").write_text("\n".join([*lines, lines[1].replace("no", "yes").replace("yes", "no", 1)]))
    before = tree(here), tree(made)
    names = {"run": made, "map": mapped, "conditional": conditional, "photo": photo, "data": data}
    done = call(*(w.format(**names) for w in words.split(" ")))
    assert (done.status, done.out) == (2, ""), done.err
    assert MISTAKES[words] in done.err
    assert len(done.err.splitlines()) == 1
    after = tree(made) - {"evaluation/codes.safetensors"}  # what was measured of the run is kept
    assert (tree(here), after) == (before[0], before[1] - {"evaluation/codes.safetensors"})


def test_missing_values_can_be_left_out(made, data, here):
    lines = (data / "attributes.csv").read_text().splitlines()
    (here / "gaps.csv").write_text("\n".join(lines[:-3]))
    words = ["direction", made, "x", "--attribute", "top", "--attributes", "gaps.csv", "--skip-missing", "--json"]
    report = right(*words).json
    images = Run.open(made).recipe.data
    n = sum(len(images.open(p)) for p in contrasts.PARTS)
    told = sum(sum(report[part].values()) for part in ("train", "held_out"))
    assert n - 3 <= told < n


def test_python_says_what_is_wrong(run, photo):
    x = Editor(run).open([photo]).x
    with pytest.raises(ModelError, match="did you mean smile"):
        run.load().edit(x, {"smle": 1.0})
    with pytest.raises(ModelError, match="expected a finite strength"):
        run.load().edit(x, {"smile": math.nan})
    model = run.load()
    model.directions = {}
    with pytest.raises(ModelError, match="none is stored"):
        model.edit(x, {"smile": 1.0})


# --- pictures of tables


def test_a_table_has_its_images_and_names():
    x = np.arange(6, dtype=np.uint8).reshape(2, 3, 1, 1, 1).repeat(60, 3).repeat(60, 4) * 40
    plain = pictures.table_picture(pictures.Table(x))
    assert np.array_equal(plain, pictures.grid(x.reshape(6, 1, 60, 60), columns=3))
    named = pictures.table_picture(pictures.Table(x, rows=("one", "two"), columns=("a", "b", "c"), title="title"))
    assert np.array_equal(named[-plain.shape[0] :, -plain.shape[1] :], plain)
    margin = named[: -plain.shape[0], :]
    assert margin.min() < 100  # something is written
    colour = pictures.table_picture(pictures.Table(x.repeat(3, 2), rows=("one", "two")))
    assert colour.ndim == 3

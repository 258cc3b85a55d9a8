"""Published faces with attributes: small files of their exact layout, and what is said of damaged ones."""

import io
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

import lowerbound as lb
from command import call, right
from lowerbound.data import Data
from lowerbound.data.bundled import bundled
from lowerbound.editing.latents import Editor
from lowerbound.errors import DataError
from lowerbound.runs.run import Run

pytestmark = pytest.mark.usefixtures("surroundings", "here")

N = 60  # images of the small CelebA
CELEBA = """5_o_Clock_Shadow Arched_Eyebrows Attractive Bags_Under_Eyes Bald Bangs Big_Lips Big_Nose Black_Hair
Blond_Hair Blurry Brown_Hair Bushy_Eyebrows Chubby Double_Chin Eyeglasses Goatee Gray_Hair Heavy_Makeup
High_Cheekbones Male Mouth_Slightly_Open Mustache Narrow_Eyes No_Beard Oval_Face Pale_Skin Pointy_Nose
Receding_Hairline Rosy_Cheeks Sideburns Smiling Straight_Hair Wavy_Hair Wearing_Earrings Wearing_Hat
Wearing_Lipstick Wearing_Necklace Wearing_Necktie Young"""
NAMES = CELEBA.split()
PARTS = [0] * (N - 20) + [1] * 10 + [2] * 10
Damage = Callable[[str], str]


def values(n: int = N) -> np.ndarray:
    """-1 and 1, [n, 40]; every other image smiles."""
    v = np.random.default_rng(0).choice([-1, 1], (n, 40))
    v[:, NAMES.index("Smiling")] = np.where(np.arange(n) % 2, 1, -1)
    return v


def jpeg(row: np.ndarray) -> bytes:
    """178x218: the mouth is white of those who smile, the border (which is cut away) red."""
    image = Image.new("RGB", (178, 218), (90, 90, 90))
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, 177, 217), outline=(255, 0, 0), width=12)
    hair = 20 if row[NAMES.index("Black_Hair")] > 0 else 220
    draw.rectangle((40, 40, 138, 80), fill=(hair, hair, hair))
    if row[NAMES.index("Smiling")] > 0:
        draw.rectangle((50, 130, 128, 160), fill=(255, 255, 255))
    out = io.BytesIO()
    image.save(out, "JPEG", quality=90)
    return out.getvalue()


def put_celeba(folder: Path, archive: bool = True, csv: bool = False) -> None:
    """The files as they are published, or with commas, as copies have them."""
    folder.mkdir(parents=True)
    v, ids = values(), [f"{i:06}.jpg" for i in range(1, N + 1)]
    images = {f"img_align_celeba/{i}": jpeg(row) for i, row in zip(ids, v, strict=True)}
    if archive:
        with zipfile.ZipFile(folder / "img_align_celeba.zip", "w") as out:
            out.writestr("img_align_celeba/", b"")
            for name, content in images.items():
                out.writestr(name, content)
    else:
        (folder / "img_align_celeba").mkdir()
        for name, content in images.items():
            (folder / name).write_bytes(content)
    if csv:
        lines = [f"image_id,{','.join(NAMES)}"] + [f"{i},{','.join(map(str, r))}" for i, r in zip(ids, v, strict=True)]
        (folder / "list_attr_celeba.csv").write_bytes("\r\n".join(lines).encode())
        parts = ["image_id,partition"] + [f"{i},{p}" for i, p in zip(ids, PARTS, strict=True)]
        (folder / "list_eval_partition.csv").write_bytes("\r\n".join(parts).encode())
        return
    rows = [f"{i} {r[0]} " + " ".join(f"{x:2}" for x in r[1:]) for i, r in zip(ids, v.tolist(), strict=True)]
    (folder / "list_attr_celeba.txt").write_text("\n".join([str(N), " ".join(NAMES) + " ", *rows]) + "\n")
    (folder / "list_eval_partition.txt").write_text("".join(f"{i} {p}\n" for i, p in zip(ids, PARTS, strict=True)))


@pytest.fixture
def root(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LOWERBOUND_DATA", str(here / "published"))
    return here / "published"


@pytest.mark.parametrize(("archive", "csv"), [(True, False), (False, False), (False, True)])
def test_celeba_is_read_as_published(root, archive, csv):
    put_celeba(root / "celeba", archive, csv)
    data = Data(source="celeba")
    for number, split in enumerate(("train", "valid", "test")):
        images = data.open(split)
        rows = np.flatnonzero(np.array(PARTS) == number)
        assert list(images.paths or ()) == [f"{i + 1:06}.jpg" for i in rows]
        assert images.factor_names == tuple(NAMES)
        np.testing.assert_array_equal(images.factors, values()[rows] == 1)
        assert (images.shape, images.levels, images.y) == ((3, 64, 64), 256, None)


def test_the_middle_148_pixels_are_scaled_to_64(root):
    put_celeba(root / "celeba", archive=False)
    images = Data(source="celeba").open("train")
    with Image.open(root / "celeba" / "img_align_celeba" / "000002.jpg") as image:
        middle = image.crop((15, 35, 163, 183)).resize((64, 64), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(images.x[1].transpose(1, 2, 0), np.asarray(middle))
    assert Data(source="celeba", size=32).open("test").shape == (3, 32, 32)
    whole = Data(source="celeba", crop=1, gray=True).open("train").x[1, 0]
    assert whole[:, 0].mean() < 85 < images.x[1, :, :, 0].mean()  # the grey of the red border is there again


def test_the_same_folder_anywhere_is_celeba(root, here):
    put_celeba(here / "faces" / "mine")
    images = Data(source="faces/mine").open("valid")
    assert (images.name, len(images), images.factor_names) == ("celeba", 10, tuple(NAMES))
    (here / "faces" / "mine" / "list_eval_partition.txt").unlink()
    with pytest.raises(DataError, match=r"some of the files of celeba, but not list_eval_partition\.txt"):
        Data(source="faces/mine").open("valid")


def test_files_that_lie_in_the_root_itself_are_found(root):
    put_celeba(root)
    with pytest.raises(DataError, match=f"lie in {root} itself: give --data {root}"):
        Data(source="celeba").open("train")


def test_pictures_in_a_folder_deeper_and_in_no_folder(root):
    """Copies of the archive differ in this alone."""
    put_celeba(root / "celeba", archive=False)
    images = root / "celeba" / "img_align_celeba"
    files = list(images.iterdir())
    (images / "img_align_celeba").mkdir()
    for file in files:
        file.rename(images / "img_align_celeba" / file.name)
    deeper = Data(source="celeba").open("test")
    with zipfile.ZipFile(root / "celeba" / "img_align_celeba.zip", "w") as out:
        for file in (images / "img_align_celeba").iterdir():
            out.write(file, file.name)
    np.testing.assert_array_equal(Data(source="celeba").open("test").x, deeper.x)


def without_line(n: int) -> Damage:
    return lambda text: "".join(line for i, line in enumerate(text.splitlines(True)) if i != n)


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        ("list_attr_celeba", without_line(5), "damaged: its first line says 60 images, 59 follow"),
        ("list_attr_celeba", without_line(1), "damaged: it does not name its attributes"),
        (
            "list_attr_celeba",
            lambda t: without_line(5)(t).replace("60\n", "59\n", 1),
            "59 lines for 60 .*none for 000004",
        ),
        ("list_attr_celeba", lambda t: t.replace("000004.jpg", "000005.jpg"), "two lines of one image"),
        ("list_attr_celeba", lambda t: t.replace("000004.jpg", "000064.jpg"), "has no image 000064, which list_attr"),
        ("list_attr_celeba", lambda t: t.replace("60\n", "202599\n", 1), "says 202,599 images, 60 follow"),
        ("list_attr_celeba", lambda t: t[:-3] + "\n", "39 values in the line of image 60, expected 40"),
        ("list_attr_celeba", lambda t: t[:-3] + "red\n", "not whole numbers of one digit"),
        ("list_attr_celeba", lambda t: "", "it has no lines"),
        ("list_eval_partition", without_line(5), "59 lines for 60 images; it has none for 000006"),
        ("list_eval_partition", lambda t: t.replace("04.jpg 0", "04.jpg 3"), "a part other than 0"),
        ("list_eval_partition", lambda t: t.replace("04.jpg 0", "04.jpg 0 1"), "2 values in the line of image 4"),
    ],
)
def test_damaged_lists_are_answered(root, file, damage, message):
    put_celeba(root / "celeba")
    path = root / "celeba" / f"{file}.txt"
    path.write_text(damage(path.read_text()))
    with pytest.raises(DataError, match=message):
        Data(source="celeba").open("train")


def remove_an_image(folder: Path) -> None:
    (folder / "img_align_celeba" / "000007.jpg").unlink()


def add_an_image(folder: Path) -> None:
    shutil.copy(folder / "img_align_celeba" / "000007.jpg", folder / "img_align_celeba" / "000099.jpg")


def have_an_image_twice(folder: Path) -> None:
    (folder / "img_align_celeba" / "more").mkdir()
    shutil.copy(folder / "img_align_celeba" / "000007.jpg", folder / "img_align_celeba" / "more" / "000007.jpg")


def have_an_archive_of_lists(folder: Path) -> None:
    shutil.rmtree(folder / "img_align_celeba")
    with zipfile.ZipFile(folder / "img_align_celeba.zip", "w") as out:
        out.write(folder / "list_attr_celeba.txt", "list_attr_celeba.txt")


def have_no_archive(folder: Path) -> None:
    shutil.rmtree(folder / "img_align_celeba")
    (folder / "img_align_celeba.zip").write_bytes(b"<html>quota exceeded</html>")


def have_no_images(folder: Path) -> None:
    shutil.rmtree(folder / "img_align_celeba")


def have_no_parts(folder: Path) -> None:
    (folder / "list_eval_partition.txt").unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove_an_image, "has no image 000007, which list_attr_celeba.txt names"),
        (add_an_image, "60 lines for 61 images; it has none for 000099"),
        (have_an_image_twice, "img_align_celeba: has .*000007.jpg and .*000007.jpg; remove one"),
        (have_an_archive_of_lists, "img_align_celeba.zip: no images; expected 000001.jpg"),
        (have_no_archive, "img_align_celeba.zip: not a readable zip"),
        (have_no_images, "missing in .*: celeba/img_align_celeba.zip or celeba/img_align_celeba or"),
        (have_no_parts, "missing in .*: celeba/list_eval_partition.txt or celeba/list_eval_partition.csv or"),
    ],
)
def test_missing_and_unknown_images_are_answered(root, damage, message):
    put_celeba(root / "celeba", archive=False)
    damage(root / "celeba")
    with pytest.raises(DataError, match=message):
        Data(source="celeba").open("train")


def test_a_list_without_its_count_is_read(root):
    """Some copies don't have it."""
    put_celeba(root / "celeba")
    path = root / "celeba" / "list_attr_celeba.txt"
    path.write_text(without_line(0)(path.read_text()))
    np.testing.assert_array_equal(Data(source="celeba").open("all").factors, values() == 1)


def test_a_picture_that_cannot_be_read_takes_its_attributes_along(root):
    put_celeba(root / "celeba", archive=False)
    (root / "celeba" / "img_align_celeba" / "000002.jpg").write_bytes(b"no")
    images = Data(source="celeba").open("train")
    assert [path for path, _ in images.unreadable] == ["000002.jpg"]
    np.testing.assert_array_equal(images.factors, np.delete(values(), 1, 0)[: len(images)] == 1)


def test_a_changed_list_is_read_again(root):
    put_celeba(root / "celeba")
    before = Data(source="celeba").open("train")
    path = root / "celeba" / "list_attr_celeba.txt"
    lines = path.read_text().splitlines(True)
    lines[2] = "000001.jpg" + lines[3].removeprefix("000002.jpg")
    path.write_text("".join(lines))
    after = Data(source="celeba").open("train")
    assert before.factors is not None
    assert after.factors is not None
    assert (before.factors != after.factors).any(1).tolist() == [True] + (len(after) - 1) * [False]
    assert before.fingerprint != after.fingerprint


# --- factors as labels


def test_a_factor_is_a_label(root):
    put_celeba(root / "celeba")
    images = Data(source="celeba", label="Smiling").open("valid")
    rows = np.flatnonzero(np.array(PARTS) == 1)
    assert images.classes == ("not Smiling", "Smiling")
    np.testing.assert_array_equal(images.y, rows % 2)
    both = Data(source="celeba", label="Smiling,Male").open("valid")
    assert both.classes == ("not Smiling, not Male", "not Smiling, Male", "Smiling, not Male", "Smiling, Male")
    np.testing.assert_array_equal(both.y, 2 * (rows % 2) + (values()[rows, NAMES.index("Male")] == 1))
    assert both.fingerprint == Data(source="celeba").open("valid").fingerprint  # the data are the same


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("Smilling", "celeba has no such factor; did you mean Smiling?"),
        (True, "celeba has no labels; data.label=5_o_Clock_Shadow takes one of its factors, data.label=false none"),
        (",".join(NAMES[:7]), "makes more than 64 classes"),
    ],
)
def test_a_label_that_is_none_is_answered(root, label, message):
    put_celeba(root / "celeba")
    with pytest.raises(DataError) as e:
        Data(source="celeba", label=label).open("train")
    assert message in str(e.value)


def test_factors_of_arrays_are_labels_too(here):
    x = np.zeros((20, 8, 8), np.uint8)
    shape, size = np.arange(20) % 3, np.where(np.arange(20) < 10, 0.5, np.nan)
    names = np.array(["shape", "size"])
    np.savez("a.npz", x=x, factors=np.stack([shape, size], 1), factor_names=names)
    images = Data(source="a.npz", label="shape").open("all")
    assert images.classes == ("shape 0", "shape 1", "shape 2")
    assert sorted(np.asarray(images.y).tolist()) == sorted(shape.tolist())
    with pytest.raises(DataError, match=r"data\.label=size: a does not say it of 10 of 20 images"):
        Data(source="a.npz", label="size").open("all")
    with pytest.raises(DataError, match=r"data\.label=shape: digits has no factors; data.label=true takes its labels"):
        Data(source="digits", label="shape").open("all")


# --- the verbs, by names of attributes


def test_the_recipe_says_what_it_would_do(root):
    put_celeba(root / "celeba")
    report = right("train", "vae-celeba", "--dry-run", "--json", "train.batch=2").json
    assert report["recipe"] == "vae-celeba"
    assert report["data"] == f"celeba, {N - 20} images of [3, 64, 64]"


def test_a_direction_is_learnt_and_gone_along_by_an_attribute(root, here):
    """Smiling is a white mouth, and PPCA is linear: the direction paints it."""
    put_celeba(root / "celeba", archive=False)
    words = ["train", "ppca", "--data", "celeba", "--out", "run", "model.latent=3", "data.size=16"]
    right(*words)
    assert Run.open("run").recipe.data.crop == bundled()["celeba"].crop  # kept, for images that come later
    assert "finished" in right(*words, "--resume").err
    report = right("direction", "run", "smile", "--attribute", "Smiling", "--json").json
    assert report["learnt_from"] == "Smiling of celeba"
    assert report["train"] == {"positive": 20, "negative": 20}
    assert report["held_out"] == {"positive": 5, "negative": 5}
    assert report["auroc"]["value"] > 0.9
    assert "Black_Hair" in report["leakage"]["attributes"]
    assert "Smiling" not in report["leakage"]["attributes"]
    face = root / "celeba" / "img_align_celeba" / "000001.jpg"
    right("edit", "run", face, "--direction", "smile=1", "--out", "edited.npz")
    before = Editor(Run.open("run")).open([face]).x.numpy()
    np.testing.assert_array_equal(before[0], Data(source="celeba", size=16).open("train").x[0])  # cropped as the data
    mouth = np.load("edited.npz")["x"][0, 11:13, 6:10].astype(float) - before[0, :, 11:13, 6:10].transpose(1, 2, 0)
    assert mouth.mean() > 100
    done = call("direction", "run", "other", "--attribute", "smiling")
    assert (done.status, "did you mean Smiling?" in done.err) == (2, True)


def test_a_model_is_given_an_attribute(root):
    put_celeba(root / "celeba", archive=False)
    small = [
        "train.steps=20",
        "train.batch=16",
        "model.latent=2",
        "model.encoder.hidden=[8]",
        "model.decoder.hidden=[8]",
    ]
    right("train", "vae", "--data", "celeba", "data.label=Smiling", "data.size=8", "--out", "run", *small)
    model, run = lb.load("run"), Run.open("run")
    assert run.facts.classes == ("not Smiling", "Smiling")
    assert [space.levels for space in model.given] == [2]
    right("sample", "run", "-n", "3", "--label", "Smiling", "--out", "x.npz")
    right("edit", "run", root / "celeba/img_align_celeba/000001.jpg", "--label", "Smiling", "--out", "y.png")
    report = right("evaluate", "run", "--metrics", "elbo", "--json").json
    assert report["metrics"]["elbo"]["given"] == "label"


# --- the attributes of LFW


LFW = ["Male", "Asian", "Middle Aged", "Smiling", "5 o' Clock Shadow"]


def put_lfw(root: Path, where: str = "", header: str = "#\tperson\timagenum\t") -> dict[str, np.ndarray]:
    """12 people of 1 to 3 images, and the values of all but one image."""
    rng, lines, said = np.random.default_rng(0), [], {}
    for i in range(12):
        person = f"Ann-Marie Da{'abcdefghijkl'[i]}"
        for j in range(1, 2 + i % 3):
            key = f"{person.replace(' ', '_')}_{j:04}"
            file = root / "lfw" / person.replace(" ", "_") / f"{key}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            v = rng.normal(size=len(LFW))
            v[3] = abs(v[3]) * (-1 if (i + j) % 4 == 0 else 1)  # three of four smile: the median is not the sign
            Image.new("L", (8, 8), 200 if v[3] > 0 else 40).convert("RGB").save(file)
            if (i, j) != (8, 1):
                lines.append(f"{person}\t{j}\t" + "\t".join(f"{x:.15g}" for x in v))
                said[key] = v
    text = "\n".join(["# values of attribute classifiers", header + "\t".join(LFW), *lines]) + "\n"
    (root / where / "lfw_attributes.txt").write_text(text)
    return said


@pytest.mark.parametrize("where", ["", "lfw"])
def test_attributes_beside_lfw_are_factors(root, where):
    said = put_lfw(root, where)
    images = Data(source="lfw").open("all")
    assert images.factor_names == tuple(LFW)
    assert images.factors is not None
    for path, row in zip(images.paths or (), images.factors, strict=True):
        expected = said.get(Path(path).stem, np.full(len(LFW), np.nan))
        np.testing.assert_allclose(row, expected, rtol=1e-6)
    assert images.remarks()[-1] == "lfw: lfw_attributes.txt says nothing of 1 of 24 images"
    assert "lfw_attributes" not in images.layout
    assert len(images.classes or ()) == 12  # the identity is the label as before


def test_lfw_is_what_it_was_without_them(root):
    put_lfw(root)
    (root / "lfw_attributes.txt").rename(root / "elsewhere.txt")
    images = Data(source="lfw").open("all")
    assert (images.factors, images.factor_names, images.notes) == (None, None, ())


def test_presence_in_lfw_is_the_sign(root):
    said = put_lfw(root)
    right("train", "ppca", "--data", "lfw", "--out", "run", "model.latent=2", "data.gray=true")
    done = call("direction", "run", "smile", "--attribute", "Smiling")
    assert (done.status, "--skip-missing" in done.err) == (2, True)
    report = right("direction", "run", "smile", "--attribute", "Smiling", "--skip-missing", "--json").json
    parts = [Data(source="lfw").open(split).paths or () for split in ("train", "valid")]
    smiling = [[said[Path(p).stem][3] > 0 for p in part if Path(p).stem in said] for part in parts]
    for found, signs in zip((report["train"], report["held_out"]), smiling, strict=True):
        assert found == {"positive": sum(signs), "negative": len(signs) - sum(signs)}
    assert report["auroc"]["value"] == 1  # grey levels say it


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda t: t.replace("#\tperson\timagenum", "#\tname\tnumber"), "expected a line `#, person, imagenum"),
        (lambda t: t.replace("\t", " "), "expected a line `#, person, imagenum"),
        (lambda t: t.rstrip("\n").rpartition("\t")[0], "4 values in line 25, expected 5"),
        (lambda t: t.rstrip("\n").rpartition("\t")[0] + "\tyes", "line 25: could not convert string to float"),
        (lambda t: t.replace("Ann-Marie", "Anna"), "says nothing of any image, such as Ann-Marie_Da"),
        (lambda t: "", "expected a line `#, person, imagenum"),
    ],
)
def test_a_damaged_table_is_answered(root, damage, message):
    put_lfw(root)
    path = root / "lfw_attributes.txt"
    path.write_text(damage(path.read_text()))
    with pytest.raises(DataError, match=f"lfw_attributes.txt: not the published file, or damaged: .*{message}"):
        Data(source="lfw").open("train")


def test_the_list_of_data_sets_names_them(root):
    put_celeba(root / "celeba")
    rows = {row["name"]: row for row in right("data", "list", "--json").json}
    assert (rows["celeba"]["present"], rows["lfw"]["present"]) == (True, False)
    assert bundled()["celeba"].crop == pytest.approx(148 / 178)

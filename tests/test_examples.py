"""The examples do what their pages claim: every command of a README.md is run, and what comes out is judged."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "scripts"))

from documentation import making, pages  # noqa: E402

DATA = Path(os.environ.get("LOWERBOUND_DATA", Path.home() / ".cache" / "lowerbound" / "data"))


def ran(name: str, folder: Path) -> list[str]:
    """Run the marked blocks of the example's page in a folder, in their order; what each printed."""
    page = ROOT / "examples" / name / "README.md"
    for file in pages.files(page):
        shutil.copy(file, folder)
    said = []
    for block in pages.steps(page):
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block.code],
            cwd=folder,
            env=making.environment(),
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{block.code}\n{done.stderr}"
        assert all((folder / made).is_file() for made in block.makes)
        said.append(done.stdout)
    return said


def needs(*files: str) -> None:
    if missing := [name for name in files if not (DATA / name).exists()]:
        pytest.skip(f"{', '.join(missing)} not in {DATA}")


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return [*csv.DictReader(file)]


@pytest.mark.slow
def test_the_odd_ones_are_found(tmp_path: Path):
    """Two minutes of a core. Beside what a person might do without a model: the distance from the mean photo."""
    ran("odd-photos", tmp_path)
    odd = {row["path"] for row in rows(tmp_path / "odd.csv")}
    found = (tmp_path / "found.txt").read_text().split()
    assert len(found) == len(odd) == 15
    photos = sorted((tmp_path / "photos").iterdir())
    x = np.stack([np.asarray(Image.open(p), np.float64).ravel() for p in photos])
    far = np.argsort(-((x - x.mean(0)) ** 2).sum(1))[:15]
    by_pixels = len(odd & {photos[i].name for i in far})
    assert len(odd & {Path(p).name for p in found}) >= max(9, by_pixels + 5)


@pytest.mark.slow
def test_a_smile_moves_a_judge(tmp_path: Path):
    """Four minutes of a core. The judge knows pixels alone, and was taught by faces that the edits are not of."""
    needs("smiles.zip")
    ran("face-editor", tmp_path)
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    import lowerbound as lb
    from lowerbound.data import Data

    data = Data(source=str(tmp_path / "smiles"), size=64)
    train, test = data.open("train"), data.open("test")
    assert train.classes is not None
    assert test.paths is not None
    smiling = train.classes.index("smiling")
    judge = make_pipeline(StandardScaler(), LogisticRegression(C=1e-3, max_iter=1000))
    judge.fit(small(train.x[:]), train.y == smiling)
    assert (judge.predict(small(test.x[:])) == (test.y == smiling)).mean() > 0.8

    earnest = test.x[np.flatnonzero(test.y != smiling)[:200]]
    model = lb.load(tmp_path / "runs" / "faces")
    edited = {s: model.edit(torch.from_numpy(earnest), {"smile": s}).numpy() for s in (0.0, 2.0)}
    share = {s: judge.predict(small(x)).mean() for s, x in edited.items()}
    assert share[0.0] < 0.2
    assert share[2.0] > share[0.0] + 0.5
    shown = {"08476", "07273", "05090", "07947", "09078", "07133"}
    assert {f"not-smiling/{n}.jpg" for n in shown} <= {*test.paths}, "the page says that the training has not seen them"


def small(x: np.ndarray) -> np.ndarray:
    """uint8 [N, 1, 64, 64] as means of 2x2 pixels, [N, 1024]."""
    return x.reshape(len(x), 32, 2, 32, 2).mean((2, 4)).reshape(len(x), -1)


@pytest.mark.slow
def test_few_labels_are_enough(tmp_path: Path):
    """Four minutes of a core. Against the same classifier without the VAE, and nearest neighbours of pixels."""
    needs("mnist")
    ran("few-labels", tmp_path)
    truth = {row["path"]: row["label"] for row in rows(tmp_path / "truth.csv")}
    predicted = json.loads((tmp_path / "predicted.json").read_text())
    assert {found["path"] for found in predicted} == truth.keys()
    right = np.array([found["label"] == truth[found["path"]] for found in predicted])
    sure = np.array([found["probability"] > 0.8 for found in predicted])
    assert right[sure].mean() > right.mean() > right[~sure].mean()

    from sklearn.neighbors import KNeighborsClassifier

    known = sorted((tmp_path / "sorted" / "train").glob("*/*.png"))
    nearest = KNeighborsClassifier(1).fit([pixels(p) for p in known], [p.parent.name for p in known])
    guessed = nearest.predict([pixels(tmp_path / "images" / found["path"]) for found in predicted])
    by_pixels = np.mean([g == truth[found["path"]] for g, found in zip(guessed, predicted, strict=True)])
    assert right.mean() > by_pixels + 0.01


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image, np.float64).ravel()


@pytest.mark.slow
def test_tiles_are_as_the_texture(tmp_path: Path):
    """Three minutes of a core. Against the other texture, and against the crops with their pixels shuffled."""
    ran("textures", tmp_path)
    names = ("pebbles", "stones")
    drawn = {name: statistics(tmp_path / name) for name in names}
    crops = {name: statistics(tmp_path / "crops" / name) for name in names}
    for name, other in (names, names[::-1]):
        assert apart(drawn[name][0], crops[name][0]) < 0.3 * apart(drawn[name][0], crops[other][0])  # colours
        assert abs(drawn[name][1] - crops[name][1]) < 0.5 * (1 - crops[name][1]) + 0.2  # of shuffled pixels it is 0
        with Image.open(tmp_path / f"floor-{name}.png") as image:
            x = np.asarray(image, np.float64)
        inside = np.abs(np.diff(x, axis=0)).mean()
        assert np.abs(x[0] - x[-1]).mean() < 1.5 * inside  # the floor repeats without a seam
        assert np.abs(x[:, 0] - x[:, -1]).mean() < 1.5 * np.abs(np.diff(x, axis=1)).mean()


def statistics(folder: Path) -> tuple[np.ndarray, float]:
    """Mean and deviation of each channel, [2C], and the correlation of neighbouring pixels."""
    files = sorted(folder.glob("*.png"))[:100]
    x = np.stack([np.asarray(Image.open(p), np.float64) for p in files])
    left, right = x[:, :, :-1] - x.mean((1, 2), keepdims=True), x[:, :, 1:] - x.mean((1, 2), keepdims=True)
    return np.concatenate([x.mean((0, 1, 2)), x.std((0, 1, 2))]), float((left * right).mean() / (left**2).mean())


def apart(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b))

"""`evaluate --metrics file_bits`: the bytes of a real file beside the bound of the same images."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import lowerbound as lb
from command import call, right
from lowerbound.data.base import Data

pytestmark = pytest.mark.usefixtures("surroundings", "here")

N = 120


def test_it_is_the_length_of_the_file_that_compress_writes_and_agrees_with_the_bound(here: Path):
    found = right("evaluate", "pretrained:vae", "--metrics", "file_bits", "--limit", N, "--json").json["metrics"]
    (here / "in").mkdir()
    for i, x in enumerate(Data(source="digits").open("test").x[:N]):
        Image.fromarray(np.rint(x[0] * (255 / 16)).astype(np.uint8)).save(here / "in" / f"{i:03d}.png")
    report = lb.compress("pretrained:vae", ["in"], out="a.lb", no_names=True)
    own = {name.removeprefix("file_bits"): value for name, value in found.items()}
    n = own[""]["n"]  # digits has fewer test images
    assert own[""]["value"] * n * 64 == 8 * report["bytes"] == 8 * (here / "a.lb").stat().st_size
    assert own[""]["value"] == pytest.approx(sum(own[f".{part}"]["value"] for part in ("net", "initial", "framing")))
    relations = {part: value["relation"] for part, value in own.items()}
    assert relations == {"": "<=", ".net": "<=", ".initial": "=", ".framing": "=", ".bound": "<="}
    assert own[".net"]["value"] == pytest.approx(own[".bound"]["value"], rel=0.01)
    assert f"{report['bytes']:,} bytes, read back and compared" in own[""]["remark"]


def test_a_part_can_be_asked_for_alone():
    words = ("evaluate", "pretrained:vae", "--metrics", "file_bits.net", "--limit", 5, "--json")
    assert [*right(*words).json["metrics"]] == ["file_bits.net"]


def test_compare_shows_it_beside_the_bound(here: Path):
    lb.train("ae-linear-pca", data="digits", out="pca", train={"steps": 1}, model={"latent": 4})
    words = ("compare", "pretrained:vae", "pca", "--limit", 20, "--draws", 2, "--samples", 2)
    rows = right(*words, "--file-bits", "--json").json["runs"]
    said = right("evaluate", "pretrained:vae", "--metrics", "file_bits", "--limit", 20, "--json").json["metrics"]
    assert rows[0]["file_bits"]["value"] == said["file_bits"]["value"]
    assert rows[0]["file_bits"]["bound"] == said["file_bits.bound"]
    assert rows[1]["file_bits"]["value"] is None
    assert "says nothing of log p(x)" in rows[1]["file_bits"]["why"]
    shown = right(*words, "--file-bits").out
    assert "its messages" in shown
    assert "no file: " in shown
    done = call("evaluate", "pca", "--metrics", "file_bits")
    assert (done.status, done.err.count("\n")) == (2, 1)
    assert rows[1]["file_bits"]["why"] in done.err

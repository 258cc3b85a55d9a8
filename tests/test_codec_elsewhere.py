"""Files that are read where a processor, threads and batches are others than where they were written."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lowerbound.codec import archive
from lowerbound.codec.archive import Archive
from lowerbound.codec.choice import PLAINLY
from lowerbound.codec.container import Container
from lowerbound.errors import ModelError
from lowerbound.model import Model
from test_codec import MODELS, built, images
from test_codec_families import CASES, drawn

pytestmark = pytest.mark.usefixtures("surroundings")

FAMILIES = ("hierarchy", "labelled vqvae", "diffusion", "vamp prior")
NAMES = (*MODELS, *FAMILIES)
OLDER = {"ATEN_CPU_CAPABILITY": "default", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2", "MKL_CBWR": "COMPATIBLE"}


def model_of(name: str) -> Model:
    return CASES[name].build(0.3) if name in CASES else built(*MODELS[name])


def images_of(name: str, model: Model) -> tuple[np.ndarray, np.ndarray | None]:
    return drawn(CASES[name], model, 6) if name in CASES else (images(model.space, 6), None)


def test_a_file_is_read_with_other_instructions(tmp_path: Path):
    """By a process whose torch and MKL have none of a newer processor's: seconds, since it imports them anew. Written
    on one thread, in batches as they come; read on two, in batches that are filled up."""
    for name in NAMES:
        model, way = model_of(name), CASES[name].way if name in CASES else PLAINLY
        save_file({k: w.contiguous() for k, w in model.state_dict().items()}, tmp_path / f"{name}.safetensors")
        x, y = images_of(name, model)
        np.savez(tmp_path / f"{name}.npz", x=x, **({} if y is None else {"y": y}))
        archive.write(tmp_path / f"{name}.lb", model, x, {}, y=y, way=way, verify=False)
    model = model_of("vae")
    archive.write(tmp_path / "float32.lb", model, images(model.space, 8), {}, float32=True)
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    done = subprocess.run(
        [sys.executable, __file__, tmp_path],
        env=os.environ | OLDER | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "another instructions (here DEFAULT MKL_CBWR=COMPATIBLE" in done.stdout


def elsewhere(folder: Path) -> None:
    torch.set_num_threads(2)
    for name in NAMES:
        model = model_of(name)
        model.load_state_dict(load_file(folder / f"{name}.safetensors"))  # weights that were drawn here would be others
        kept = np.load(folder / f"{name}.npz")
        with Container(folder / f"{name}.lb") as container:
            archived = Archive(container, model, kept.get("y"))
            archived.scheme.filled = True
            assert np.array_equal(archived[0 : len(archived)], kept["x"]), name
    model = model_of("vae")
    model.load_state_dict(load_file(folder / "vae.safetensors"))
    try:
        with Container(folder / "float32.lb") as container:
            Archive(container, model)
    except ModelError as e:
        print(e)  # noqa: T201


if __name__ == "__main__":
    elsewhere(Path(sys.argv[1]))

"""Runs whose panels are grids, hardly trained, and a drawn picture."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from lowerbound import train
from lowerbound.runs.run import Run

SHORT = ("train.steps=40", "train.valid_every=40", "train.batch=64")


def coded(folder: Path) -> Run:
    """Two levels of codes of digits: 2x2 and 4x4."""
    words = ["data.label=false", "model.width=16", "model.inner=8", "train.stages.prior.steps=20"]
    return train("vqvae2-digits", *SHORT, *words, out=folder, device="cpu")


def pixelwise(folder: Path) -> Run:
    """Digits of 17 values, pixel by pixel."""
    words = ["model.network.blocks=2", "model.network.width=12", "model.likelihood.type=families.Categorical"]
    words += ["data.source=digits", "train.epochs=null"]
    return train("pixelcnn-mnist", *SHORT, *words, out=folder, device="cpu")


def _drawn() -> bytes:
    ramp = np.linspace(0, 255, 1200).reshape(30, 40).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(ramp).save(file, "PNG")
    return file.getvalue()


DRAWN = _drawn()

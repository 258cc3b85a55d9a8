"""The files that are asked for: a page, a picture of the samples, a table in Markdown."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lowerbound import pictures
from lowerbound.data.batches import binarized
from lowerbound.errors import ConfigError, ModelError
from lowerbound.files import replacing
from lowerbound.verbs.compare import html, page
from lowerbound.verbs.compare.entries import Entry

SUFFIXES = {"html": (".html", ".htm"), "png": (".png",), "markdown": (".md",)}


def checked(outputs: Mapping[str, str | Path | None]) -> dict[str, Path]:
    """Those that are asked for. Raises ConfigError for one that can't be written, before anything is measured."""
    paths = {name: Path(path) for name, path in outputs.items() if path is not None}
    for name, path in paths.items():
        if path.suffix.lower() not in SUFFIXES[name]:
            raise ConfigError(f"--{name} {path}: expected a file ending in {SUFFIXES[name][0]}")
    if "markdown" in paths:
        page.check_markers(paths["markdown"])
    return paths


def data_row(entry: Entry, n: int) -> list[html.Row]:
    """Images of the data, evenly spaced, as a row above the samples; none where they are fewer."""
    images = entry.images
    if len(images) < n:
        return []
    index = np.linspace(0, len(images) - 1, n).astype(int)
    x = torch.from_numpy(np.asarray(images.x[index]))
    x = binarized(x, images.levels, index) if entry.batches.binarize else x
    return [(f"{images.name}, {images.split}", x.numpy())]


def write(report: Mapping[str, Any], samples: list[html.Row], levels: int, outputs: dict[str, Path]) -> None:
    """Everything that was asked for; each file whole or not at all. Raises ModelError for a picture of nothing."""
    if "png" in outputs:
        if not samples:
            raise ModelError(f"--png {outputs['png']}: no run here draws samples")
        table = pictures.Table(np.stack([x for _, x in samples]), levels, rows=tuple(name for name, _ in samples))
        pictures.save_png(pictures.table_picture(table), outputs["png"])
    if "html" in outputs:
        _write_text(outputs["html"], html.html(report, samples, levels))
    if "markdown" in outputs:
        _write_text(outputs["markdown"], page.in_place(outputs["markdown"], page.markdown(report)))


def _write_text(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")

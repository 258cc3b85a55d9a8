"""Labeled Faces in the Wild: the identity is the label, and nobody is in two parts."""

from pathlib import Path

from lowerbound.data.bundled import Bundled
from lowerbound.data.folder import Files
from lowerbound.data.source import Preparation, Source


def _source(name: str, files: list[Path], preparation: Preparation) -> Source:
    return Files(files[0], preparation, name=name, by_class=True)


BUNDLED = (
    Bundled(
        "lfw",
        "13,233 photographs of 5,749 faces; the identity is the label",
        (("lfw", "lfw.zip", "lfw.tar"),),
        _source,
    ),
)

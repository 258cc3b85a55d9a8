"""Made-up files for the reader of compressed images: what `scripts/fuzz` tries, and its corpus in tests/fuzzed."""

import tempfile
import zlib
from functools import cache
from pathlib import Path

import numpy as np

from lowerbound.codec import archive
from lowerbound.codec.archive import Archive
from lowerbound.codec.choice import Way
from lowerbound.codec.container import BLOCK, HEAD, Container
from lowerbound.codec.contents import Contents
from lowerbound.codec.images import targets
from lowerbound.errors import UserError
from lowerbound.model import Model
from lowerbound.models.vae import VAE
from lowerbound.networks.mlp import MLP
from lowerbound.noise import seeded
from lowerbound.space import Space

CORPUS = Path(__file__).parent / "fuzzed"
N = 5


@cache
def original() -> tuple[Model, np.ndarray, bytes]:
    """A model, images, and their file."""
    small = MLP.Config(hidden=(4,))
    with seeded("fuzzing"):
        model = VAE.Config(latent=(2,), encoder=small, decoder=small).build(Space((1, 3, 3), levels=2)).eval()
    x = np.random.default_rng(0).integers(0, 2, (N, 1, 3, 3)).astype(np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.lb")
        archive.write(path, model, x, {"names": [f"{i}.png" for i in range(N)], "sizes": [[3, 3]]}, block=2)
        return model, x, path.read_bytes()


def file_of(data: bytes) -> bytes:
    """The file that some bytes stand for. After an odd first byte its checksums are made right, so that what they keep
    from the reader is tried as well; the fingerprint of the model is the right one where it is all zero."""
    kind, whole = data[:1], bytearray(data[1:])
    if not kind or not kind[0] % 2 or len(whole) < HEAD.size + 4:
        return bytes(whole)
    if not any(whole[24:40]):
        whole[24:40] = original()[2][24:40]
    length = int.from_bytes(whole[48:52], "little")
    at = HEAD.size + 4 + length
    check = zlib.crc32(whole[HEAD.size + 4 : at], zlib.crc32(whole[: HEAD.size]))
    whole[HEAD.size : HEAD.size + 4] = check.to_bytes(4, "little")
    while at + BLOCK.size <= len(whole):
        head, message = (
            whole[at : at + 4],
            whole[at + BLOCK.size : at + BLOCK.size + int.from_bytes(whole[at : at + 4], "little")],
        )
        whole[at + 4 : at + 8] = zlib.crc32(message, zlib.crc32(head)).to_bytes(4, "little")
        at += BLOCK.size + len(message)
    return bytes(whole)


def read(data: bytes) -> bool:
    """Whether the file is read; then its images are those that were written, as many as it has. Anything but that and
    an error of lowerbound's is a bug."""
    model, x, _ = original()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "b.lb")
        path.write_bytes(file_of(data))
        try:
            with Container(path) as container:
                contents = Contents.of(container)
                contents.layout(container, (1, 3, 3))
                targets(contents.names)
                Way.of(container)
                found = Archive(container, model)[0 : container.head.n]
        except UserError as e:
            if "\n" in str(e):
                raise AssertionError("an error of several lines") from e
            return False
    assert np.array_equal(found, x[: len(found)]), "other pixels than were written"
    return True

"""Which part of a data set a row belongs to: decided by the hash of its key alone, so adding rows moves nothing."""

import hashlib
import unicodedata
from collections.abc import Sequence

import numpy as np

PARTS = ("train", "valid", "test")
UNDECIDED = -1
_SPANS = {"train": (0.0, 0.8), "valid": (0.8, 0.9), "test": (0.9, 1.0)}  # of the hash in [0, 1)


def hashed(key: str) -> float:
    """A number in [0, 1) that is the same on every machine, and for either Unicode form of a name."""
    text = unicodedata.normalize("NFC", key).encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.sha256(text).digest()[:6], "big") / 2**48


def assign(keys: Sequence[str], part: np.ndarray, carve: tuple[str, ...]) -> np.ndarray:
    """The part of each row: int8 [N] of indices into PARTS.

    Undecided rows go to the parts of `carve` (valid, test or both, 10 % each) by their hash, else to train. A part of
    `carve` that would be empty takes the nearest hash from a part that keeps another; train comes first. Rows of one
    key stay together.
    """
    part = part.copy()
    free = np.flatnonzero(part == UNDECIDED)
    if not len(free):
        return part
    u = np.array([hashed(keys[i]) for i in free.tolist()])
    dealt = np.zeros(len(free), np.int8)
    for name in carve:
        low, high = _SPANS[name]
        dealt[(u >= low) & (u < high)] = PARTS.index(name)
    for name in ("train", *carve):
        _rescue(dealt, u, name)
    part[free] = dealt
    return part


def _rescue(dealt: np.ndarray, u: np.ndarray, name: str) -> None:
    """Give an empty part the rows of the nearest hash, where the part they leave keeps others (train always)."""
    if (dealt == PARTS.index(name)).any():
        return
    low, high = _SPANS[name]
    for value in sorted(set(u), key=lambda v: (max(low - v, v - high), v)):
        chosen = u == value
        if name == "train" or (dealt[~chosen] == dealt[chosen.argmax()]).any():
            dealt[chosen] = PARTS.index(name)
            return

"""Which few training images keep their labels."""

from collections.abc import Sequence

import numpy as np

from lowerbound.errors import DataError
from lowerbound.noise import key


def labelled(y: np.ndarray, classes: Sequence[str], n: int, seed: int) -> np.ndarray:
    """The places of n of the labels y [N], as many of each class as of any other (but for one): int64 [n], in order.

    A function of the labels, n and the seed. Raises DataError where a class would have none, or has too few images.
    """
    if n > len(y):
        raise DataError(f"data.labels={n}: there are {len(y)} training images; set at most {len(y)}")
    if n < len(classes):
        raise DataError(
            f"data.labels={n}: there are {len(classes)} classes, and one without a labelled image could not be learnt; "
            f"set at least {len(classes)}"
        )
    rng = np.random.default_rng(key(seed, "labels"))
    found = []
    for c, name in enumerate(classes):
        own, wanted = np.flatnonzero(y == c), n // len(classes) + (c < n % len(classes))
        if len(own) < wanted:
            raise DataError(
                f"data.labels={n}: takes {wanted} images of each class, and {name!r} has {len(own)} in training; set "
                f"at most {len(own) * len(classes)}"
            )
        found.append(rng.choice(own, wanted, replace=False))
    return np.sort(np.concatenate(found))

"""Known factors of variation, such as attributes of faces, as classes."""

from dataclasses import replace

import numpy as np

from lowerbound.data.images import Images
from lowerbound.errors import DataError, did_you_mean

MOST = 64  # classes


def sides(values: np.ndarray, cut: float | None = None) -> np.ndarray | None:
    """Which images have a factor, of its values [N], none of them NaN: bool [N]; None where that isn't said.

    It is by 1 and 0, 1 and -1, or by numbers above and below a cut.

    Example:
        >>> sides(np.array([1, -1])).tolist(), sides(np.array([-0.3, 2.1]), cut=0.0).tolist()
        ([True, False], [False, True])
    """
    if cut is not None:
        return values > cut
    return values == 1 if np.isin(values, (-1, 0, 1)).all() else None


def as_labels(images: Images, wanted: str) -> Images:
    """The images with a factor as their label, or several with commas between, each combination a class.

    Raises DataError for a factor that the data don't have, don't know of every image, or that has too many values.
    """
    parts = [_classes(images, name.strip()) for name in wanted.split(",")]
    y, classes = np.zeros(len(images), np.int64), [""]
    for found, names in parts:
        y = y * len(names) + found
        classes = [", ".join(filter(None, [before, name])) for before in classes for name in names]
        if len(classes) > MOST:
            raise DataError(f"data.label={wanted}: makes more than {MOST} classes; name fewer factors")
    return replace(images, y=y, classes=tuple(classes))


def _classes(images: Images, name: str) -> tuple[np.ndarray, list[str]]:
    """The class of each image by one factor: int64 [N], and what the classes are called."""
    known = images.factor_names
    if images.factors is None or known is None:
        own = "" if images.y is None else "; data.label=true takes its labels"
        raise DataError(f"data.label={name}: {images.name} has no factors{own}")
    if name not in known:
        raise DataError(f"data.label={name}: {images.name} has no such factor{did_you_mean(name, known)}")
    values = np.asarray(images.factors[:, known.index(name)], np.float64)
    if missing := np.isnan(values).sum():
        raise DataError(f"data.label={name}: {images.name} does not say it of {missing:,} of {len(values):,} images")
    has = sides(values, images.factor_cut)
    if has is not None:
        return has.astype(np.int64), [f"not {name}", name]
    kinds, y = np.unique(values, return_inverse=True)
    if len(kinds) > MOST:
        raise DataError(f"data.label={name}: has {len(kinds):,} values, expected at most {MOST}, a class each")
    return y.astype(np.int64), [f"{name} {value:g}" for value in kinds.tolist()]

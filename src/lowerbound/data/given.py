"""What a model is given of each image beside its pixels: some of its factors, as numbers."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from lowerbound.data.attributes import Factor, kinds_of, named
from lowerbound.data.images import Images
from lowerbound.errors import DataError

LABEL = "label"  # the name by which a label is given as one of several attributes


def with_label(images: Images, wanted: Sequence[str]) -> Images:
    """The images with their label as a factor, where one of this name is wanted and is not there."""
    names = images.factor_names or ()
    if LABEL not in wanted or LABEL in names or images.y is None or images.classes is None:
        return images
    kinds = (*factors_of(images), Factor(name=LABEL, kind="categorical", values=images.classes))
    column = np.asarray(images.y, np.float32)[:, None]
    factors = column if images.factors is None else np.concatenate([images.factors, column], 1)
    return replace(images, factors=factors, factor_names=(*names, LABEL), kinds=kinds)


def factors_of(images: Images) -> tuple[Factor, ...]:
    """What is known of the factors of the images: () where they have none."""
    if images.factors is None or images.factor_names is None:
        return ()
    return images.kinds or kinds_of(images.factor_names, images.factors)


def chosen(images: Images, wanted: Sequence[str]) -> tuple[Factor, ...]:
    """The factors of these names. Raises DataError for one that the images don't have, or don't all have."""
    what = f"data.given={','.join(wanted)}"
    known = factors_of(images)
    if not known:
        raise DataError(f"{what}: {images.name} has no factors; data.attributes=FILE.csv gives images some")
    found = tuple(known[named(name, known, what)] for name in wanted)
    values_of(images, found, what)
    return found


def values_of(images: Images, factors: Sequence[Factor], what: str = "the model's attributes") -> np.ndarray:
    """The values that images have of factors, names of categories in the order of these factors: float64 [N, F].

    Raises DataError where the images don't have one, don't say it of every image, or have a name that is unknown.
    """
    known = factors_of(images)
    columns = []
    for factor in factors:
        if not known:
            raise DataError(f"{what}: {images.name} has no factors, and {factor.name} is needed")
        place = named(factor.name, known, f"{what}: {images.name}")
        column = np.asarray(images.factors, np.float64)[:, place]  # pyright: ignore[reportArgumentType]
        if (missing := np.flatnonzero(np.isnan(column))).size:
            first = f", the first {images.paths[missing[0]]}" if images.paths is not None else ""
            raise DataError(
                f"{what}: {images.name} does not say {factor.name} of {missing.size:,} of {len(column):,} images{first}"
            )
        columns.append(_in_order(column, known[place], factor, what))
    return np.stack(columns, 1)


def _in_order(column: np.ndarray, known: Factor, factor: Factor, what: str) -> np.ndarray:
    """Values [N] of a factor as another of its name writes them."""
    if known.kind != factor.kind:
        raise DataError(f"{what}: {factor.name} is {known.kind} here, and was {factor.kind}")
    if factor.kind != "categorical" or known.values == factor.values:
        return column
    if new := sorted(set(known.values) - set(factor.values)):
        raise DataError(f"{what}: {factor.name}={new[0]} is none of {', '.join(factor.values)}")
    return np.array([factor.values.index(name) for name in known.values], np.float64)[column.astype(np.int64)]

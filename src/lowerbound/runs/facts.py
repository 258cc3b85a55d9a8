"""What was found of the data of a run."""

import numpy as np

from lowerbound.config import Component
from lowerbound.data.base import Images
from lowerbound.errors import RunError
from lowerbound.runs.recipes import Recipe
from lowerbound.space import Space


class Facts(Component):
    """What was found of the data, so that a run needs them no more."""

    name: str
    shape: tuple[int, int, int]  # (C, H, W)
    levels: int
    binarization: str | None = None  # fixed, dynamic or none
    classes: tuple[str, ...] | None = None
    counts: tuple[int, ...] | None = None  # training images of each class
    images: int  # in the training split
    fingerprint: str | None = None  # of their content; None of runs of earlier versions

    @staticmethod
    def of(images: Images, recipe: Recipe) -> "Facts":
        """The facts of a training split. Raises RunError for a condition that the data do not have."""
        binary = recipe.model.binary() if recipe.data.binarize is None else recipe.data.binarize
        binarization = "fixed" if images.levels == 2 else "dynamic" if binary else None
        if recipe.data.label and images.classes is None:
            raise RunError(f"data.label=true, but {images.name} has no labels")
        counts = None
        if images.classes is not None and images.y is not None:
            counts = tuple(np.bincount(images.y, minlength=len(images.classes)).tolist())
        return Facts(
            name=images.name,
            shape=images.shape,
            levels=images.levels,
            binarization=binarization,
            classes=images.classes,
            counts=counts,
            images=len(images),
            fingerprint=images.fingerprint,
        )

    @property
    def binarizes(self) -> bool:
        return self.binarization == "dynamic"

    @property
    def space(self) -> Space:
        return Space(self.shape, levels=2 if self.binarizes else self.levels)

    def given(self, recipe: Recipe) -> tuple[Space, ...]:
        return (Space((), levels=len(self.classes or ()), ordered=False),) if recipe.data.label else ()

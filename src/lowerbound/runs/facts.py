"""What was found of the data of a run."""

from typing import Any

import numpy as np

from lowerbound.config import Component
from lowerbound.data.attributes import Factor
from lowerbound.data.base import Images
from lowerbound.data.given import chosen, values_of
from lowerbound.data.labelled import labelled
from lowerbound.data.views import ViewsGiven, cameras
from lowerbound.errors import ConfigError, DataError, RunError
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
    labelled: tuple[int, ...] | None = None  # the training images that keep their label, where not all do
    factors: tuple[Factor, ...] = ()  # that the model is given of each image
    images: int  # in the training split
    fingerprint: str | None = None  # of their content; None of runs of earlier versions, and of classifiers of a part
    cameras: tuple[Factor, ...] = ()  # what says where a view of a scene was taken from, where a model is given others

    @staticmethod
    def of(images: Images, recipe: Recipe) -> "Facts":
        """The facts of a training split. Raises RunError for a condition that the data do not have."""
        binary = recipe.model.binary() if recipe.data.binarize is None else recipe.data.binarize
        binarization = "fixed" if images.levels == 2 else "dynamic" if binary else None
        if recipe.data.label and images.classes is None:
            raise RunError(f"data.label=true, but {images.name} has no labels")
        kept = _labelled(images, recipe)
        _check_views(images, recipe)
        counts = None
        if images.classes is not None and images.y is not None:
            shown = images.y if kept is None else images.y[kept]
            counts = tuple(np.bincount(shown, minlength=len(images.classes)).tolist())
        return Facts(
            name=images.name,
            shape=images.shape,
            levels=images.levels,
            binarization=binarization,
            classes=images.classes,
            counts=counts,
            labelled=None if kept is None else tuple(kept.tolist()),
            factors=_standardized(images, recipe),
            images=len(images),
            fingerprint=images.fingerprint,
            cameras=tuple(cameras(images).values()) if recipe.model.views_given() else (),
        )

    @property
    def binarizes(self) -> bool:
        return self.binarization == "dynamic"

    @property
    def space(self) -> Space:
        return Space(self.shape, levels=2 if self.binarizes else self.levels)

    def views_given(self, recipe: Recipe) -> ViewsGiven | None:
        """What the model is given of the other views of a scene; None: nothing."""
        most = recipe.model.views_given()
        return ViewsGiven(most, self.cameras) if most else None

    def given(self, recipe: Recipe) -> tuple[Space, ...]:
        """What the model is given: a label, attributes as one vector, other views of a scene, or nothing."""
        if views := self.views_given(recipe):
            return views.spaces(self.shape, self.levels)
        if self.factors:
            return (Space((sum(f.width for f in self.factors),)),)
        return (Space((), levels=len(self.classes or ()), ordered=False),) if recipe.data.label else ()

    def conditions(self, recipe: Recipe) -> dict[str, Any]:
        """What `Batches` are told of it."""
        return {"label": recipe.data.label, "given": self.factors, "views": self.views_given(recipe)}


def _check_views(images: Images, recipe: Recipe) -> None:
    """Raise ConfigError where a model of views can't be given what it wants."""
    most, name = recipe.model.views_given(), recipe.model.type_name()
    if not most:
        return
    if images.views is None:
        raise ConfigError(
            f"data.views=null: {name} is given other views of a scene; set data.views={most + 1}, of a source that "
            "says where its images were taken from, such as scenes"
        )
    if most >= images.views:
        raise ConfigError(
            f"model.context_views={most}: scenes have data.views={images.views}, one of which is asked for; set "
            f"model.context_views={images.views - 1}, or data.views={most + 1}"
        )
    if recipe.data.flip:
        raise ConfigError(
            "data.flip=true: a view in a mirror was taken by no camera that is known; set data.flip=false"
        )
    if recipe.data.label:
        raise ConfigError(f"data.label={recipe.data.label}: {name} is given views alone; set data.label=false")
    if recipe.data.binarize:
        raise ConfigError(f"data.binarize=true: {name} is given views as they are; set data.binarize=false")
    if recipe.data.given:
        raise ConfigError(f"data.given={recipe.data.given}: {name} is given views alone; set data.given=[]")


def _standardized(images: Images, recipe: Recipe) -> tuple[Factor, ...]:
    """What the model is given, its numbers standardized by these images. Raises DataError for a constant."""
    if not recipe.data.given:
        return ()
    factors = chosen(images, recipe.data.given)
    columns = values_of(images, factors).T
    for factor, column in zip(factors, columns, strict=True):
        if (column == column[0]).all():
            raise DataError(
                f"data.given: all {len(column):,} training images have {factor.name}={factor.said(column[0])}, of "
                "which nothing can be learnt; leave it out"
            )
    return tuple(f.standardized_by(column) for f, column in zip(factors, columns, strict=True))


def _labelled(images: Images, recipe: Recipe) -> np.ndarray | None:
    """The places of the images that keep their label; None: all do. Raises UserError for what can't be."""
    if (n := recipe.data.labels) is None:
        return None
    if not recipe.data.label or images.y is None or images.classes is None:
        raise ConfigError(f"data.labels={n}: the model is given no label to learn; set data.label=true")
    if not recipe.model.learns_labels():
        raise ConfigError(
            f"data.labels={n}: {recipe.model.type_name()} as configured can't be trained on images without a label; "
            "set model.classifier=networks.mlp.MLP of a VAE, or data.labels=null"
        )
    return labelled(images.y, images.classes, n, recipe.seed)

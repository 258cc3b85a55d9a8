"""Several views of one scene: which images belong together, where each was taken from, what is given of the others."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lowerbound import noise
from lowerbound.data.attributes import Factor, kinds_of
from lowerbound.data.images import Annotated, Images, Shape
from lowerbound.data.source import Changed, Contents, Source
from lowerbound.errors import DataError
from lowerbound.noise import image_bits
from lowerbound.space import Space

CAMERA = "camera_"  # what the names of factors begin with that say where an image was taken from

Asked = tuple[Tensor, Tensor, Tensor, Tensor]  # context images and cameras, how many they are, the camera asked for


class InViews(Changed):
    """A source of which so many rows after one another are views of one scene; they stay together in one part."""

    def __init__(self, source: Source, views: int):
        super().__init__(source)
        self.views = views

    def contents(self) -> Contents:
        contents = self.source.contents()
        _check(contents, self.views, self.name)
        scene = np.arange(len(contents.keys)) // self.views
        if (contents.part != contents.part[scene * self.views]).any():
            raise DataError(f"data.views={self.views}: {self.name} has scenes of which the parts divide the views")
        return replace(contents, keys=[str(i) for i in scene.tolist()], views=self.views)


def _check(contents: Contents, views: int, name: str) -> None:
    """Raise DataError where these are no views of scenes, or nobody knows from where."""
    what, n = f"data.views={views}", len(contents.keys)
    known = cameras(contents)
    if contents.factors is None or not known:
        raise DataError(
            f"{what}: {name} does not say where its images were taken from, as scenes do, and an .npz whose "
            f"factor_names begin with {CAMERA}; set data.views=null"
        )
    if n % views:
        raise DataError(f"{what}: {n:,} images are no whole number of scenes; set data.images or data.views so")
    for i, factor in known.items():
        if missing := int(np.isnan(np.asarray(contents.factors[:, i], np.float64)).sum()):
            raise DataError(f"{what}: {name} does not say {factor.name} of {missing:,} images; a view needs a camera")


def cameras(known: Annotated) -> dict[int, Factor]:
    """The factors that say where an image was taken from, by their places."""
    if known.factors is None or known.factor_names is None:
        return {}
    kinds = known.kinds or kinds_of(known.factor_names, np.asarray(known.factors))
    return {i: f for i, f in enumerate(kinds) if f.name.startswith(CAMERA)}


def coordinates(values: np.ndarray, factors: Sequence[Factor]) -> np.ndarray:
    """Cameras [N, F] as networks see them, float32 [N, D]: sine and cosine of what goes round, else -1 to 1.

    Example:
        >>> elevation = Factor(name="camera_elevation", low=10, high=60)
        >>> azimuth = Factor(name="camera_azimuth", kind="circular", low=0, high=360)
        >>> coordinates(np.array([[90.0, 60.0]]), (azimuth, elevation)).round(3).tolist()
        [[1.0, 0.0, 1.0]]
    """
    columns = []
    for value, factor in zip(np.asarray(values, np.float64).T, factors, strict=True):
        share = (value - factor.low) / (factor.period or 1.0)
        turn = 2 * np.pi * share
        columns += [np.sin(turn), np.cos(turn)] if factor.kind == "circular" else [2 * share - 1]
    return np.stack(columns, 1).astype(np.float32)


class ViewsGiven(NamedTuple):
    """What a model is given of a scene: at most so many views, and what says where each was taken from."""

    most: int
    cameras: tuple[Factor, ...]

    @property
    def coordinates(self) -> int:
        """The numbers of a camera."""
        return sum(2 if f.kind == "circular" else 1 for f in self.cameras)

    def spaces(self, shape: Shape, levels: int) -> tuple[Space, ...]:
        """Of what `Views.given` gives of images of this shape."""
        D = self.coordinates
        number = Space((), levels=self.most + 1, ordered=False)
        return Space((self.most, *shape), levels=levels), Space((self.most, D)), number, Space((D,))


class Views:
    """The scenes of a split: the images x [N, C, H, W], those of each scene one after another, and their cameras."""

    def __init__(self, images: Images, given: ViewsGiven, x: Tensor):
        wanted = [f.name for f in given.cameras]
        own = {f.name: i for i, f in cameras(images).items()}
        if images.views is None or images.factors is None or own.keys() != set(wanted):
            raise DataError(f"{images.name}: its views say {', '.join(own) or 'nothing'}, not {', '.join(wanted)}")
        self.x, self.most, self.of_scene, self.factors = x, given.most, images.views, given.cameras
        self.values = np.asarray(images.factors, np.float64)[:, [own[name] for name in wanted]]
        self.cameras = torch.from_numpy(coordinates(self.values, given.cameras))

    def __len__(self) -> int:
        """How many scenes there are."""
        return len(self.x) // self.of_scene

    def of_scenes(self, scenes: Tensor, number: Tensor) -> tuple[Tensor, Asked]:
        """Where the first view of each scene [S] is, and its condition: the `number` [S] views that follow it."""
        index = scenes * self.of_scene
        return index, self.given(index, torch.arange(1, self.of_scene).expand(len(index), -1), number)

    def drawn(self, index: Tensor) -> Asked:
        """For training: of each view at `index` [B] others of its scene, any number of them in random order."""
        order = noise.rand((len(index), self.of_scene - 1)).argsort(1)
        return self.given(index, order + 1, noise.randint(0, self.most + 1, (len(index),)))

    def fixed(self, index: np.ndarray) -> Asked:
        """For measuring: the same of each view every time."""
        order = np.empty((len(index), self.of_scene - 1), np.int64)
        number = np.empty(len(index), np.int64)
        for row, i in enumerate(index.tolist()):
            bits = np.random.Generator(image_bits(i, "views"))
            order[row], number[row] = bits.permutation(self.of_scene - 1) + 1, bits.integers(self.most + 1)
        return self.given(torch.from_numpy(index), torch.from_numpy(order), torch.from_numpy(number))

    def given(self, index: Tensor, order: Tensor, number: Tensor) -> Asked:
        """The condition of the views at `index` [B]: the first `number` [B] of the others of each scene, by how many
        places after it, going round, each stands [B, V - 1].

        Images [B, most, C, H, W], of which those after `number` are black, cameras [B, most, D], number [B], and the
        camera of each view itself [B, D].
        """
        scene, own = index // self.of_scene, index % self.of_scene
        at = scene[:, None] * self.of_scene + (own[:, None] + order[:, : self.most]) % self.of_scene
        here = torch.arange(self.most) < number[:, None]
        x = self.x[at.to(self.x.device)] * here[..., None, None, None].to(self.x.device)
        return x, self.cameras[at] * here[..., None], number, self.cameras[index]

"""A data set as it is configured, and the images of one of its parts."""

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
from pydantic import Field, field_validator, model_validator

from lowerbound.config import Component
from lowerbound.data import cache, decode
from lowerbound.data.archives import SUFFIXES, check_size
from lowerbound.data.arrays import SUFFIXES as ARRAYS
from lowerbound.data.arrays import Arrays
from lowerbound.data.attributed import Attributed
from lowerbound.data.bundled import Bundled, bundled, lying_in
from lowerbound.data.cache import Progress
from lowerbound.data.factors import as_labels
from lowerbound.data.folder import Files
from lowerbound.data.formats import foreign_name, is_image
from lowerbound.data.given import chosen, with_label
from lowerbound.data.holdout import HeldOut
from lowerbound.data.images import Failed, Images, Shape
from lowerbound.data.shards.packed import Packed, changed, is_packed
from lowerbound.data.shards.places import is_url
from lowerbound.data.source import Changed, Preparation, Source
from lowerbound.data.split import PARTS
from lowerbound.data.views import InViews
from lowerbound.errors import DataError, did_you_mean

SPLITS = (*PARTS, "all")


class Data(Component):
    """A data set and how its images are prepared. The run remembers it, so every later verb prepares alike.

    Example:
        >>> Data(source="digits").open("test").shape
        (1, 8, 8)
    """

    source: str = Field(default="digits", min_length=1)  # a bundled name, else a path
    size: int | None = Field(default=None, gt=0)  # shorter side to this many pixels, centre crop
    crop: float | None = Field(default=None, gt=0, le=1)  # before it, the middle square of this share of that side
    gray: bool = False  # colours become grey values
    # condition the model on the label; or, by their names, on a factor of the data or several: Smiling,Male
    label: bool | str = Field(default=False, union_mode="left_to_right")
    # so many training images, as many of each class and chosen by the seed, keep their label; the others lose it
    labels: int | None = Field(default=None, gt=0)
    # the factors that the model is given, by their names; `label` is the label as one of them
    given: tuple[str, ...] = ()
    flip: bool = False  # mirror half of the images while training
    strict: bool = False  # the first unreadable file is an error
    levels: int | None = Field(default=None, ge=2, le=256)  # values a pixel takes; None: what the data set says, or 256
    images: int | None = Field(default=None, ge=10)  # of rendered data: how many; None: 10,000
    seed: int = Field(default=0, ge=0)  # that their factors are drawn by
    objects: int = Field(default=1, ge=1)  # in each of their scenes
    # so many images after one another are of one scene, seen from different places; null: each is of its own
    views: int | None = Field(default=None, ge=2)
    attributes: str | None = None  # a .csv beside the images: column path, and others of numbers, (deg) or names
    holdout: str | None = None  # test on combinations of factors alone: shape=box,object_hue=0.5..0.7
    # of data in shards: MiB of images that are held in memory, and shuffled among one another; what is no larger is
    # read whole, as other data are
    window: int = Field(default=256, gt=0)
    binarize: bool | None = None  # draw binary pixels while training; None: where the likelihood needs it

    @field_validator("label", mode="before")
    @classmethod
    def _check_label(cls, value: Any) -> Any:
        if not isinstance(value, bool | str) and value not in (0, 1):
            raise ValueError(f"expected true, false, or the name of a factor of the data, got {value!r}")
        return value

    @field_validator("given", mode="before")
    @classmethod
    def _check_given(cls, value: Any) -> Any:
        return tuple(name.strip() for name in value.split(",") if name.strip()) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _check_one_condition(self) -> Self:
        if self.given and self.label:
            raise ValueError("data.label and data.given both say what the model is given; use data.given=label,…")
        if len(set(self.given)) < len(self.given):
            raise ValueError(f"data.given={','.join(self.given)}: names a factor twice")
        return self

    @classmethod
    def hint(cls, text: str) -> str:
        return f"; --data {text} names a data set, data.source={text} too"

    def open(self, split: str, *, progress: Progress | None = None) -> Images:
        """The images of train, valid, test or all, decoded now if they never were. Raises DataError.

        progress: called with (done, total) while images are decoded.
        """
        check_split(split)
        return self.whole(progress).of(split)

    def whole(self, progress: Progress | None = None) -> cache.Stored:
        """The data set, looked at once, of which each part can be had. Raises DataError."""
        source = self.found()
        stored = self._stored(source, progress)
        if self.strict and stored.images.unreadable:
            first = stored.images.unreadable[0]
            raise DataError(f"{self.source}: {first}; data.strict=false leaves such files out")
        if isinstance(self.label, str):
            stored = stored._replace(images=as_labels(stored.images, self.label))
        if self.given:
            stored = stored._replace(images=with_label(stored.images, self.given))
            chosen(stored.images, self.given)
        if self.label and stored.images.y is None:
            raise DataError(f"{self.source} has no labels{_because(stored.images)}")
        return stored

    def _stored(self, source: Source, progress: Progress | None) -> cache.Stored:
        own = source.source if isinstance(source, Changed) else source
        while isinstance(own, Changed):
            own = own.source
        if not isinstance(own, Packed):
            return cache.load(source, self.preparation, progress)
        window = self.window * 2**20
        return own.stored(window) if own is source else changed(source, own, window)

    def found(self) -> Source:
        """The source, with what the configuration adds to it. Raises DataError."""
        rendered = {"images": self.images, "seed": self.seed, "objects": self.objects}
        source = find(self.source, self.preparation)
        for name, value in rendered.items():
            if value != type(self).model_fields[name].default and not source.rendered:
                raise DataError(f"data.{name}={value}: {self.source} is not rendered; this is for sprites and scenes")
        source = source if self.attributes is None else Attributed(source, Path(self.attributes).expanduser())
        source = source if self.views is None else InViews(source, self.views)
        return source if self.holdout is None else HeldOut(source, self.holdout)

    @property
    def preparation(self) -> Preparation:
        return Preparation(
            self.size, self.gray, self.levels, self.crop, self.images, self.seed, self.objects, self.views
        )

    def absolute(self) -> "Data":
        """The same with an absolute path, to be opened from another working directory."""
        own = self.source in bundled() or is_url(self.source)
        paths = {"attributes": self.attributes, "source": None if own else self.source}
        found = {name: str(Path(path).expanduser().resolve()) for name, path in paths.items() if path is not None}
        return self.model_copy(update=found) if found else self

    def settled(self) -> "Data":
        """The same with the size and crop that the data set has of itself, so that other images are prepared alike."""
        if self.source not in bundled() and is_packed(self.source):
            had = Packed(self.source, self.preparation).index.preparation
            return self.model_copy(update={"size": had.size, "crop": had.crop, "gray": had.gray, "levels": had.levels})
        data_set = bundled().get(self.source) or _inside(Path(self.source).expanduser())
        if data_set is None:
            return self
        preparation = data_set.settled(self.preparation)
        return self.model_copy(update={"size": preparation.size, "crop": preparation.crop})


def _inside(path: Path) -> Bundled | None:
    return lying_in(path) if path.is_dir() else None


def _because(images: Images) -> str:
    """Why there are no labels, and what to do."""
    if images.factor_names:
        return f"; data.label={images.factor_names[0]} takes one of its factors, data.label=false none"
    why = f" ({images.layout}), they are the names of the folders that images lie in" if images.layout else ""
    return f"{why}; set data.label=false"


def check_split(split: str) -> None:
    """Raise DataError for what is no part of a data set."""
    if split not in SPLITS:
        raise DataError(f"no split {split!r}{did_you_mean(split, SPLITS)}")


def is_there(source: str) -> bool:
    """Whether a data set of this name, or something at this path, is there."""
    return source in bundled() or is_url(source) or Path(source).expanduser().exists()


def find(source: str, preparation: Preparation) -> Source:
    """The bundled data set of this name, or what lies at this path."""
    if source in (known := bundled()):
        return known[source].open(preparation)
    if is_packed(source):
        return Packed(source, preparation)
    path = Path(source).expanduser()
    if data_set := _inside(path):
        return data_set.open(preparation, path)
    if path.is_dir() or (path.is_file() and path.name.lower().endswith(SUFFIXES)):
        return Files(path, preparation)
    if path.is_file() and path.suffix.lower() in ARRAYS:
        return Arrays(path, preparation)
    if path.is_file() and is_image(path.name):
        raise DataError(f"{source} is one image; expected a folder of images, a .zip or .tar of them, or an .npz")
    if path.is_file() and (kind := foreign_name(path.name)):
        raise DataError(f"{source} is {kind}")
    if path.is_file():
        raise DataError(f"{source}: expected a folder, {', '.join((*SUFFIXES, *ARRAYS))}")
    near = did_you_mean(source, known)
    own = "" if "did you mean" in near else "; your own images: --data FOLDER, .zip, .tar or .npz"
    raise DataError(f"no data set or path {source!r}{near}{own}")


@dataclass(frozen=True)
class Opened:
    """A user's own image files: those that can be read, and why the others can't."""

    x: np.ndarray  # uint8 [n, C, H, W]
    paths: tuple[str | Path, ...]  # [n], as they were given
    failed: tuple[Failed, ...] = ()
    notes: tuple[str, ...] = ()  # what the user should know of the pixels


def open_readable(paths: Iterable[str | Path], data: Data, shape: Shape, levels: int = 256) -> Opened:
    """A user's own image files, prepared as the images of a run: uint8 [n, *shape] with values below `levels`.

    After the crop of the data, the shorter side is scaled to cover `shape`, the centre cut out. Where the number of
    levels is the data set's own (digits, an .npz), 0 to 255 are mapped to it, as pictures of such images are made;
    where `data.levels` gave it, the files hold such values already, as those of the data set did. Raises DataError
    where no file can be read.
    """
    rescale = levels < 256 and data.levels is None
    read: dict[str | Path, decode.Decoded] = {}
    order, failed = [], []
    with decode.quiet():
        for path in paths:
            try:
                read[path] = _open_one(Path(path), shape, 256 if rescale else levels, data.crop)
                order.append(path)
            except DataError as e:
                failed.append(Failed(str(path), str(e).removeprefix(f"{Path(path)}: ")))
    if not order:
        raise DataError(str(failed[0]) if failed else "no images were given")
    x = np.stack([read[path].x for path in order])
    x = np.rint(x * ((levels - 1) / 255)).astype(np.uint8) if rescale else x
    notes = {path: decode.of_few_bits(image.highest) for path, image in read.items()}
    return Opened(x, tuple(order), tuple(failed), tuple(f"{path}: {note}" for path, note in notes.items() if note))


def open_mask(path: str | Path, size: tuple[int, int]) -> np.ndarray:
    """An image file of exactly this size (height, width), as bool [H, W]: true where it is not black.

    Raises DataError naming the file.
    """
    with decode.quiet(), _reading(Path(path)) as file:
        header = decode.header(file)
        if (header.height, header.width) != size:
            found, wanted = (f"{w}x{h}" for h, w in ((header.height, header.width), size))
            raise DataError(f"{path}: the mask is {found} pixels wide and high; expected {wanted}, as the images are")
        file.seek(0)
        return decode.decode(file, (1, *size), 256, str(path)).x[0] > 0


def _open_one(path: Path, shape: Shape, levels: int, crop: float | None) -> decode.Decoded:
    if kind := foreign_name(path.name):
        raise DataError(f"{path}: {kind}")
    with _reading(path) as file:
        return decode.decode(file, shape, levels, str(path), crop)


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[IO[bytes]]:
    """A user's own file. Raises DataError for what can't be read inside."""
    if path.is_dir():
        raise DataError(f"{path}: is a folder; expected an image file")
    try:
        check_size(path.stat().st_size)
        with open(path, "rb") as file:
            yield file
    except decode.Unreadable as e:
        raise DataError(f"{path}: {e}") from None
    except OSError as e:
        raise DataError(f"{path}: {e.strerror or e}") from None

"""Batches as the model sees them: on its device, in random order for training, in order for measuring."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lowerbound import noise
from lowerbound.data.attributes import Factor, encoded
from lowerbound.data.base import Images
from lowerbound.data.given import values_of
from lowerbound.data.rows import Rows
from lowerbound.data.views import Views, ViewsGiven
from lowerbound.data.windows import Streamed
from lowerbound.errors import DataError
from lowerbound.noise import image_bits, key
from lowerbound.space import UNKNOWN, Y

LABELLED = 0.2  # of a batch, where few images have a label


class Batch(NamedTuple):
    x: Tensor  # uint8 [B, C, H, W], or codes [B, h, w]
    # int64 [B], where the model is given the label; float [B, D], where attributes; a tuple: of it and the coarser
    # codes, or of other views
    y: Any
    index: np.ndarray  # [B], the images' places in their split
    factors: Tensor | None = None  # float [B, F], the known factors of variation, where the data have any


class Shuffled(ABC):
    """Events that training takes in random order, every one once in each epoch, and measuring in order.

    `labelled`: the places of the events that keep their label, [n]; the others' are UNKNOWN, and in every batch of
    training a share of LABELLED is drawn from these few. None: all keep them.
    """

    device: torch.device
    fingerprint: str  # of the images that they are, or were made of
    labelled: Tensor | None = None

    def __init__(self) -> None:
        self._orders: dict[tuple[int, int], Tensor] = {}

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def training(self, step: int, size: int, seed: int) -> tuple[Tensor, Tensor | tuple[Tensor, ...] | None]:
        """The batch of a training step: a function of (seed, step) alone; the caller has keyed torch's noise to it."""

    @abstractmethod
    def in_order(self, size: int, limit: int | None = None, start: int = 0) -> Iterator[Batch]:
        """All events, or the first `limit`, once each and in order; the last batch may be smaller.

        start: leave out those before this place.
        """

    def events(self, size: int) -> Iterator[Tensor]:
        """All that training takes, in order, at most so many at a time: [B, *shape]."""
        return (x for x, _ in self.pairs(size))

    def pairs(self, size: int) -> Iterator[tuple[Tensor, Tensor | tuple[Tensor, ...] | None]]:
        """The same, and what is given of each."""
        return ((batch.x, batch.y) for batch in self.in_order(size))

    def shuffled(self, start: int, size: int, seed: int, own: noise.Rows | None = None) -> Tensor:
        """Places start to start + size of one permutation of the events after another. own: those that are taken."""
        parts = []
        while size > 0:
            epoch, offset = divmod(start, len(self))
            parts.append(self._order(epoch, seed)[offset : offset + size])
            start, size = start + len(parts[-1]), size - len(parts[-1])
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def _places(self, step: int, size: int, seed: int) -> Tensor:
        """Of the events of a training step: [size]; of a batch that is shared, of the rows of this process."""
        rows = noise.rows()
        if rows is None:
            return self._of_batch(step, size, seed)
        with noise.of_rows(None):
            return self._of_batch(step, size, seed, rows)[rows.start : rows.stop]

    def _of_batch(self, step: int, size: int, seed: int, own: noise.Rows | None = None) -> Tensor:
        if self.labelled is None or not len(self.labelled):
            return self.shuffled(step * size, size, seed, own)
        few = min(size - 1, math.ceil(size * LABELLED))
        drawn = self.labelled[noise.randint(0, len(self.labelled), (few,))]
        return torch.cat([self.shuffled(step * (size - few), size - few, seed, own), drawn])

    def _order(self, epoch: int, seed: int) -> Tensor:
        if (seed, epoch) not in self._orders:
            generator = torch.Generator().manual_seed(key(seed, "order", epoch))
            self._orders = {(seed, epoch): torch.randperm(len(self), generator=generator)}
        return self._orders[seed, epoch]


class Batches(Shuffled):
    """The images of a split, as a model takes them.

    `binarize`: grey values are the probabilities of binary draws, x ~ Bernoulli(grey / (levels - 1)): new ones at every
    step of training (Burda et al. 2016), one fixed draw for each image in measuring. `given`: the factors in `y`.
    `first`: the place in its split of the first image.
    """

    def __init__(
        self,
        images: Images,
        device: torch.device,
        *,
        binarize: bool = False,
        label: bool | str = False,
        given: Sequence[Factor] = (),
        flip: bool = False,
        labelled: Sequence[int] | None = None,
        views: ViewsGiven | None = None,
        first: int = 0,
    ):
        super().__init__()
        self.first = first
        self.device = device
        self.binarize = binarize
        self.flip = flip
        self.images = images
        self.levels = images.levels
        self.streamed = Streamed(images.x, labelled or ()) if isinstance(images.x, Rows) else None
        self.x: Any = self._resident(images) if self.streamed is None else self.streamed
        self.given = tuple(given)
        self.y = torch.from_numpy(np.asarray(images.y)) if label and images.y is not None else None
        self.y = encoded(values_of(images, self.given), self.given) if self.given else self.y
        self.labelled = None if labelled is None else torch.tensor(labelled, dtype=torch.int64)
        if self.labelled is not None and self.y is not None:
            self.y = torch.full_like(self.y, UNKNOWN).index_copy(0, self.labelled, self.y[self.labelled])
        self.views = None if views is None else Views(images, views, self.x)
        self.asked = views
        self.factors = None if images.factors is None else torch.from_numpy(np.asarray(images.factors, np.float32))

    def __len__(self) -> int:
        return len(self.x)

    def _resident(self, images: Images) -> Tensor:
        """On a GPU, where they fit; else where they are."""
        x = torch.from_numpy(np.asarray(images.x))
        fit = self.device.type == "cuda" and x.nbytes < 0.5 * torch.cuda.mem_get_info(self.device)[0]
        return x.to(self.device) if fit else x

    @property
    def fingerprint(self) -> str:
        return self.images.fingerprint

    def shuffled(self, start: int, size: int, seed: int, own: noise.Rows | None = None) -> Tensor:
        if self.streamed is None:
            return super().shuffled(start, size, seed)
        return self.streamed.shuffled(start, size, seed, own if self.views is None else None)  # views are of others too

    def head(self, n: int | None) -> "Batches":
        """The first n images alone, or all of them."""
        return self if n is None or n >= len(self) else self.between(0, n)

    def between(self, start: int, stop: int) -> "Batches":
        """The images of these places alone, which stay theirs. Of views of scenes, only those from the first on."""
        assert start == 0 or self.asked is None
        kept = {"binarize": self.binarize, "label": self.y is not None, "given": self.given, "flip": self.flip}
        labelled = None if self.labelled is None else [i - start for i in self.labelled.tolist() if start <= i < stop]
        images = self.images.head(stop) if start == 0 else self.images.take(np.arange(start, min(stop, len(self))))
        first = self.first + start
        return Batches(images, self.device, **kept, labelled=labelled, views=self.asked, first=first)

    def training(self, step: int, size: int, seed: int) -> tuple[Tensor, Y]:
        index = self._places(step, size, seed)
        try:
            x, y = self._take(index)
        except DataError as e:
            raise DataError(
                f"{e}; what was trained is kept as it was last saved, and --resume goes on from it"
            ) from None
        if self.views is not None:
            y = self.on(self.device, self.views.drawn(index))
        if self.flip:
            mirrored = noise.rand((len(x), 1, 1, 1), device=x.device) < 0.5
            x = torch.where(mirrored, x.flip(-1), x)
        if self.binarize:
            x = (x > noise.randint(0, self.levels - 1, x.shape, dtype=torch.uint8, device=x.device)).to(torch.uint8)
        return x, y

    def in_order(self, size: int, limit: int | None = None, start: int = 0) -> Iterator[Batch]:
        n = len(self) if limit is None else min(limit, len(self))
        read = None if self.streamed is None else self.streamed.in_order(size, n, start)
        for i in range(start, n, size):
            index = np.arange(i, min(i + size, n))
            x, y = self._take(torch.from_numpy(index), None if read is None else next(read))
            if self.views is not None:
                y = self.on(self.device, self.views.fixed(index))
            factors = None if self.factors is None else self.factors[i : i + len(index)].to(self.device)
            index = index + self.first
            x = binarized(x, self.levels, index) if self.binarize else x
            yield Batch(x, y, index, factors)

    def pairs(self, size: int) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Of images that are mirrored in training, every batch, and then its mirror image."""
        for batch in self.in_order(size):
            for x in (batch.x, batch.x.flip(-1)) if self.flip else (batch.x,):
                yield x, batch.y

    @staticmethod
    def on(device: torch.device, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(part.to(device, non_blocking=True) for part in given)

    def _take(self, index: Tensor, x: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """What is at these places; x: its pixels, where they are at hand."""
        if x is None:
            x = self.x.index_select(0, index.to(self.x.device))
        assert x is not None
        if self.device.type == "cuda" and self.streamed is not None:
            x = x.pin_memory()  # from where it is copied while the device works
        return x.to(self.device, non_blocking=True), None if self.y is None else self.y[index].to(self.device)


def binarized(x: Tensor, levels: int, index: np.ndarray) -> Tensor:
    """The one fixed binary draw of each grey image, keyed by its index: uint8 [B, C, H, W] in {0, 1}."""
    draws = np.empty(tuple(x.shape), np.float32)
    for i, row in zip(index, draws, strict=True):
        np.random.Generator(image_bits(int(i), "binarization")).random(dtype=np.float32, out=row)
    return (torch.from_numpy(draws).to(x.device) * (levels - 1) < x).to(torch.uint8)

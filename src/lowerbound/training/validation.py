"""What a stage's weights are worth on the validation images."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from lowerbound.chunks import log_density
from lowerbound.data.batches import Shuffled
from lowerbound.likeness import PixelFeatures, enough, frechet
from lowerbound.model import Model
from lowerbound.noise import Rows, key, seeded
from lowerbound.parallel import ALONE, World, sharing
from lowerbound.runs.recipes import Training
from lowerbound.space import Density, Y
from lowerbound.stages import Stage
from lowerbound.units import bits_per_dim


class Validation:
    """Scores a stage by the bound of log p(x), by its loss at the end of its schedule, or by its samples, on noise of
    its own.

    images: of train and of valid.
    """

    def __init__(
        self,
        trained: Model,
        stage: Stage,
        images: tuple[Shuffled, Shuffled],
        config: Training,
        steps: int,
        seed: int,
        world: World = ALONE,
    ):
        self.trained, self.stage, self.config, self.world = trained, stage, config, world
        self.train, self.images = images
        self.steps, self.seed = steps, seed

    @property
    def draws(self) -> int | None:
        """Of the bound that scores; None where another number does."""
        return None if self.stage.score is None or not self._has_bound else self.stage.score.draws

    @property
    def samples(self) -> int | None:
        """How many are compared with the images, at least; None where the weights are not scored by them."""
        return None if self.stage.score is None else self.stage.score.samples

    @property
    def name(self) -> str:
        """What the score is called in the log."""
        if self.samples is not None:
            return "minus_frechet"
        return "minus_loss" if self.draws is None else "elbo" if self.draws == 1 else "iwae"

    @property
    def what(self) -> str:
        """What scores, in words."""
        return {"minus_frechet": "Fréchet distance of samples", "minus_loss": "loss"}.get(self.name, "bound")

    def score(self) -> float:
        """Of the weights as they are, the higher, the better: in nats for an event, or minus a squared distance."""
        if self.samples is not None:
            return self._minus_frechet(self.samples)
        return self._minus_loss() if self.draws is None else self._bound(self.draws)

    def beside(self) -> dict[str, float]:
        """The plain bound, where there is one and another number scores."""
        return {"elbo": self._bound(1)} if self._has_bound and self.name != "elbo" else {}

    def shown(self, score: float) -> str:
        if self.draws is None:
            return f"validation {self.what} {-score:.4g}"
        bits = bits_per_dim(-score, self.trained.space.dims)
        of = "" if self.draws == 1 else f" of {self.draws} draws"
        return f"validation bound{of} {score:.2f} nats, {bits:.3f} bits/{'code' if self.stage.prepare else 'dim'}"

    @property
    def _has_bound(self) -> bool:
        return self.trained.density is not Density.NONE

    def _bound(self, draws: int) -> float:
        """Each process measures its part of the images."""
        own = Rows.of(self.world.rank, self.world.size, min(len(self.images), self.config.valid_images))
        with _measured(self.trained):
            log_p = log_density(self.trained, self.images, draws, limit=own.stop, start=own.start)
        return float(self.world.gather(torch.from_numpy(log_p)).mean())

    def _minus_frechet(self, samples: int) -> float:
        """Of at least so many samples to the images, given what is given of these."""
        n = min(len(self.images), self.config.valid_images)
        drawn = []
        with _measured(self.trained), seeded(self.seed, "valid", quick=True):
            for batch in self.images.in_order(self.trained.at_once(), n):
                drawn += [self.trained.draw(len(batch.x), batch.y).x for _ in range(math.ceil(samples / n))]
        return -frechet(self._vectors(_whole(drawn)), self._real)

    @cached_property
    def _real(self) -> np.ndarray:
        return self._vectors(_whole([b.x for b in self.images.in_order(2**10, self.config.valid_images)]))

    @cached_property
    def _vectors(self) -> Callable[[np.ndarray], np.ndarray]:
        """Events as vectors: principal components of the pixels of training images; real numbers as they are."""
        space = self.trained.space
        if space.levels is None:
            return lambda x: x.reshape(len(x), -1).astype(np.float64)
        seed = key(self.seed, "components")
        with seeded(seed, quick=True):
            x, _ = self.train.training(0, min(len(self.train), enough(space.dims)), seed)
        return PixelFeatures(x.cpu().numpy(), space.levels)

    def _minus_loss(self) -> float:
        """At the last step, when whatever grows in training is as large as it gets: comparable from the first on."""
        total, n, loss = torch.zeros((), dtype=torch.float64), 0, self.stage.turns[0].loss
        with _measured(self.trained), seeded(self.seed, "valid", quick=True):
            for batch in self.images.in_order(self.config.batch, self.config.valid_images):
                n += len(batch.x)
                if len(batch.x) < self.world.size:  # too few to share: each process has all of them
                    total += loss(batch.x, batch.y, self.steps).value.double().cpu() * len(batch.x) / self.world.size
                    continue
                with sharing(self.world, len(batch.x)) as rows:
                    x, y = batch.x[rows.start : rows.stop], _part(batch.y, rows)
                    total += loss(x, y, self.steps).value.double().cpu() * rows.n
        return -float(self.world.sum_(total)) / n


def _part(y: Y, rows: Rows) -> Y:
    if isinstance(y, tuple):
        return tuple(part[rows.start : rows.stop] for part in y)
    return None if y is None else y[rows.start : rows.stop]


def _whole(parts: list[Tensor]) -> np.ndarray:
    return torch.cat(parts).cpu().numpy()


@contextmanager
def _measured(model: Model) -> Iterator[None]:
    """Inside, the model is as in use, without gradients."""
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train()

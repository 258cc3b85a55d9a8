"""What a stage's weights are worth on the validation images."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from lowerbound.chunks import log_density
from lowerbound.data.batches import Shuffled
from lowerbound.model import Model
from lowerbound.noise import seeded
from lowerbound.runs.recipes import Training
from lowerbound.space import Density
from lowerbound.stages import Stage
from lowerbound.units import bits_per_dim


class Validation:
    """Scores a stage by the bound of log p(x), or by its loss at the end of its schedule, on noise of its own."""

    def __init__(self, trained: Model, stage: Stage, images: Shuffled, config: Training, steps: int, seed: int):
        self.trained, self.stage, self.images, self.config = trained, stage, images, config
        self.steps, self.seed = steps, seed

    @property
    def draws(self) -> int | None:
        """Of the bound that scores; None where that is the loss."""
        return None if self.stage.score is None or not self._has_bound else self.stage.score.draws

    @property
    def name(self) -> str:
        """What the score is called in the log."""
        return "minus_loss" if self.draws is None else "elbo" if self.draws == 1 else "iwae"

    def score(self) -> float:
        """Of the weights as they are, in nats for an event; the higher, the better."""
        return self._minus_loss() if self.draws is None else self._bound(self.draws)

    def beside(self) -> dict[str, float]:
        """The plain bound, where there is one and another number scores."""
        return {"elbo": self._bound(1)} if self._has_bound and self.name != "elbo" else {}

    def shown(self, score: float) -> str:
        if self.draws is None:
            return f"validation loss {-score:.4g}"
        bits = bits_per_dim(-score, self.trained.space.dims)
        of = "" if self.draws == 1 else f" of {self.draws} draws"
        return f"validation bound{of} {score:.2f} nats, {bits:.3f} bits/{'code' if self.stage.prepare else 'dim'}"

    @property
    def _has_bound(self) -> bool:
        return self.trained.density is not Density.NONE

    def _bound(self, draws: int) -> float:
        with _measured(self.trained):
            return float(log_density(self.trained, self.images, draws, limit=self.config.valid_images).mean())

    def _minus_loss(self) -> float:
        """At the last step, when whatever grows in training is as large as it gets: comparable from the first on."""
        total, n, loss = 0.0, 0, self.stage.turns[0].loss
        with _measured(self.trained), seeded(self.seed, "valid", quick=True):
            for batch in self.images.in_order(self.config.batch, self.config.valid_images):
                total += float(loss(batch.x, batch.y, self.steps).value) * len(batch.x)
                n += len(batch.x)
        return -total / n


@contextmanager
def _measured(model: Model) -> Iterator[None]:
    """Inside, the model is as in use, without gradients."""
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train()

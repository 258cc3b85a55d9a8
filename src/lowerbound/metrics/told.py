"""What codes tell of the attributes that the model is given beside them, and what pixels tell."""

from typing import ClassVar

import numpy as np
from pydantic import Field

from lowerbound.chunks import own_batches
from lowerbound.data.attributes import encoded
from lowerbound.data.batches import Batches
from lowerbound.data.given import values_of
from lowerbound.metrics.base import Metric, Value, World
from lowerbound.metrics.disentangling.measured import codes
from lowerbound.metrics.disentangling.prediction import quietly
from lowerbound.model import LatentModel
from lowerbound.parallel import gathered
from lowerbound.runs.inputs import as_batches

GRID = 16  # pixels are averaged to at most so many in a row, where no head of the model predicts from them


class Told(Metric):
    """The share of each given attribute's variance, as networks see it, that a probe explains of the posterior mean,
    0 for none, beside the share explained of the pixels.

    The probe is a network of one layer (scikit-learn's), trained on training images. Pixels are read by the head that
    the model predicts attributes with, if it has one, and else by such a probe of averages of them. A share may be
    below 0: of a probe that predicts other images worse than the mean does. Only of models that are given attributes.
    """

    names: ClassVar[tuple[str, ...]] = ("told",)
    costly: ClassVar[bool] = True
    train: int = Field(default=4000, gt=1)  # images that the probe is trained on

    def applies(self, world: World) -> bool:
        return isinstance(world.model, LatentModel) and world.run is not None and bool(world.run.facts.factors)

    def __call__(self, world: World) -> dict[str, Value]:
        assert world.run is not None
        assert isinstance(world.model, LatentModel)
        factors, model = world.run.facts.factors, world.model
        known = as_batches(world.run, world.open("train").head(self.train), world.batches.device)
        a, b = (encoded(values_of(part.images, factors), factors).numpy() for part in (known, world.batches))
        of_codes = probed(codes(model, known), a, codes(model, world.batches, world.advance), world.seed)
        of_pixels = _predicted(world)
        if of_pixels is None:
            of_pixels = probed(averages(known), a, averages(world.batches), world.seed)
        values: dict[str, Value] = {}
        for name, seen in (("codes", of_codes), ("pixels", of_pixels)):
            error = np.square(b - seen) / np.maximum(np.square(b - a.mean(0)).mean(0), 1e-12)
            parts = np.split(error, np.cumsum([f.width for f in factors])[:-1], 1)
            for factor, part in zip(factors, parts, strict=True):
                values[f"told.{name}.{factor.name}"] = Value.mean(1 - part.mean(1), "of the variance")
        return values


def probed(x: np.ndarray, y: np.ndarray, others: np.ndarray, seed: int) -> np.ndarray:
    """What a network of one layer, trained on x [N, D] and y [N, T], predicts of others [M, D]: [M, T]."""
    from sklearn.neural_network import MLPRegressor  # a slow import

    mean, scale = x.mean(0), np.maximum(x.std(0), 1e-6)
    network = MLPRegressor(
        hidden_layer_sizes=(256,), early_stopping=len(x) >= 100, n_iter_no_change=5, random_state=seed
    )
    fit = quietly(network, (x - mean) / scale, y)
    return fit.predict((others - mean) / scale).reshape(len(others), -1)


def averages(batches: Batches) -> np.ndarray:
    """Pixels averaged over squares, so that at most GRID are in a row: float64 [N, C h w]."""
    x = batches.images.x
    side = -(-max(x.shape[2:]) // GRID)
    h, w = (n // side * side for n in x.shape[2:])
    parts = (np.asarray(x[i : i + 500], np.float64)[:, :, :h, :w] for i in range(0, len(x), 500))
    return np.concatenate(
        [p.reshape(*p.shape[:2], h // side, side, w // side, side).mean((3, 5)).reshape(len(p), -1) for p in parts]
    )


def _predicted(world: World) -> np.ndarray | None:
    """By the model's own head: [N, T]; None where it has none."""
    parts = [world.model.predicted_condition(batch.x) for batch in own_batches(world.batches, world.model.rows)]
    found = gathered([part.double().cpu().numpy() for part in parts if part is not None])
    return np.concatenate(found) if found else None

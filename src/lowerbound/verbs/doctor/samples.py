"""Samples beside the training images."""

from dataclasses import dataclass

import numpy as np
import torch

from lowerbound.model import Draw, LatentModel, Viewing
from lowerbound.noise import seeded
from lowerbound.runs import fitted
from lowerbound.sampling import drawing
from lowerbound.verbs.doctor.check import ERRORS, Check, showing, stderr
from lowerbound.verbs.doctor.evidence import Pictures, some
from lowerbound.verbs.doctor.examined import Examined, distances, seen

SAMPLES = 256
FEWEST = 9  # below, they say nothing
SHIFT = 0.25  # squared distance of the mean images, for one of the variance of the data
SPREAD = (0.5, 2.0)  # squared distance of samples from the mean image, for one of the data


def checks(e: Examined) -> list[Check]:
    if not e.model.can_sample:
        return []
    images = torch.from_numpy(seen(e.train)).double()
    drawn = torch.from_numpy(_drawn(e)).flatten(1).double()
    mean = images.mean(0)

    def shows() -> list[Pictures]:
        means = torch.stack([mean, drawn.mean(0)])
        rows = {"training images": images, "samples": drawn, "the means of both": means}
        shaped = {name: some(x).reshape(-1, *e.model.space.shape) for name, x in rows.items()}
        return [Pictures("samples beside training images", shaped, e.model.space.levels or 256)]

    variance = max(float(distances(images, mean).mean()), 1e-12)
    found = Drawn(
        shift=float((drawn.mean(0) - mean).square().sum()) / variance,
        distances=(distances(drawn, mean) / variance).numpy(),
        remedy=_remedy(e),
    ).checks()
    return showing(found, shows)


def _drawn(e: Examined) -> np.ndarray:
    """Images drawn from the model, as many as take not long: uint8 [n, C, H, W]."""
    model = e.model
    n = drawing.affordable(model) if model.cost else SAMPLES
    views = isinstance(model, Viewing)
    y = next(e.train.in_order(n)).y if views else e.run.condition(n)
    n = min(n, len(e.train)) if views else n
    with seeded(0, "doctor", quick=True):
        return drawing.pixels(drawing.draw(model, n, y, Draw(mean=bool(model.levels))).x)


def _remedy(e: Examined) -> str:
    fits = not e.model.why_no_fitted_prior() and not fitted.is_fitted(e.run.recipe)
    kind = "mixture" if isinstance(e.model, LatentModel) and len(e.model.latents[0].shape) == 1 else "flow"
    fit = f"lowerbound fit-prior {e.run.path} --prior {kind}; where reconstructions are bad too, "
    return (fit if fits else "") + "a longer training, a smaller train.optimizer.lr"


@dataclass(frozen=True)
class Drawn:
    """Samples beside the training images, in squared distances for one of the variance of the data."""

    shift: float  # of the mean image of the samples from that of the data
    distances: np.ndarray  # [n], of each sample from the mean image of the data
    remedy: str

    def checks(self) -> list[Check]:
        n = len(self.distances)
        if n < FEWEST:
            return []
        spread, error, bound = float(self.distances.mean()), stderr(self.distances), SHIFT + ERRORS / n
        low, high = SPREAD
        outside = spread + ERRORS * error < low or spread - ERRORS * error > high
        return [
            Check(
                "samples.mean",
                self.shift,
                bound,
                self.shift > bound,
                "problem",
                f"the mean of {n} samples is far from that of the images: {self.shift:.2g} of their variance",
                self.remedy,
            ),
            Check(
                "samples.spread",
                spread,
                low if spread < 1 else high,
                outside,
                "problem",
                f"{n} samples vary {spread:.2g} times as much around the mean image as images do",
                self.remedy,
            ),
        ]

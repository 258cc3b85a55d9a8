"""log p(x), or its bound, beside what a histogram of each pixel says, and of training images beside others."""

import math
from dataclasses import dataclass

import numpy as np

from lowerbound.chunks import log_density
from lowerbound.distributions import Dequantized
from lowerbound.model import LatentModel
from lowerbound.noise import KeyedNoise
from lowerbound.space import Density, Estimate
from lowerbound.verbs.doctor.check import ERRORS, LESS_BY_HEART, Check, difference, showing, stderr
from lowerbound.verbs.doctor.evidence import Bars, Histograms
from lowerbound.verbs.doctor.examined import Examined, seen

GAP = 0.1  # of log p(x) of the training images; MADE on MNIST has 0.07 and is at its best


def checks(e: Examined) -> list[Check]:
    if e.model.density is Density.NONE:
        return []
    train, valid = (log_density(e.model, batches) for batches in (e.train, e.valid))
    by_pixel = histograms(seen(e.counted), seen(e.valid), e.model.space.levels or 2)
    found = Likelihoods(train, valid, by_pixel, _is_dequantized(e)).checks()
    return found if e.model.estimate is None else [*found, two_sides(e.model.estimate)]


def two_sides(e: Estimate) -> Check:
    """Whether a normalizing constant is the same from both sides."""
    apart, error = abs(e.reverse - e.log_z), ERRORS * math.hypot(e.error, e.reverse_error)
    return Check(
        "likelihood.two_sides",
        apart,
        error,
        apart > error,
        "advice",
        f"log Z is {e.log_z:.5g} from below and {e.reverse:.5g} from above, further apart than their errors: log p(x) "
        "is not known better than that",
        f"train it again with --stage log_z --overwrite model.annealing.temperatures={10 * e.temperatures}",
        lambda: [Bars("log Z, nats", ["from below", "from above"], np.array([e.log_z, e.reverse]))],
    )


def _is_dequantized(e: Examined) -> bool:
    if not isinstance(e.model, LatentModel):
        return False
    batch = next(e.valid.in_order(1))
    with KeyedNoise(0, batch.index) as noise:
        return isinstance(e.model.elbo_terms(batch.x, batch.y, noise.chunk(1)).p_x, Dequantized)


def histograms(train: np.ndarray, x: np.ndarray, levels: int) -> np.ndarray:
    """log P(x) in nats, [N], of a histogram of each pixel [n, D]; every value counts as seen 1/levels times more."""
    D = x.shape[1]
    places = np.arange(D) * levels
    counts = np.bincount((train + places).ravel(), minlength=D * levels)
    log_p = np.log((counts + 1 / levels) / (len(train) + 1))
    return log_p[x + places].sum(1)


@dataclass(frozen=True)
class Likelihoods:
    """log p(x), or one draw of its bound, of images one by one, in nats: [n]."""

    train: np.ndarray
    valid: np.ndarray
    histograms: np.ndarray  # of the validation images, by a histogram of each pixel of the training images
    dequantized: bool  # whether a density over real numbers stands for the values

    def checks(self) -> list[Check]:
        broken = int((~np.isfinite(np.concatenate([self.train, self.valid]))).sum())
        finite = Check(
            "likelihood.not_finite",
            broken,
            0,
            broken > 0,
            "problem",
            f"{broken} of {len(self.train) + len(self.valid)} images have a likelihood that is not finite",
            "a smaller train.optimizer.lr, or train.clip=10",
        )
        found = [finite] if broken else [finite, self._histograms(), self._overfitted()]
        return showing(found, self._lie)

    def _lie(self) -> list[Histograms]:
        sets = {"training": self.train, "validation": self.valid, "by a histogram of each pixel": self.histograms}
        finite = {name: each[np.isfinite(each)] for name, each in sets.items()}
        return [Histograms("log p(x) of images, or one draw of its bound, in nats", finite)]

    def _histograms(self) -> Check:
        better = self.valid - self.histograms
        value, error = float(better.mean()), stderr(better)
        return Check(
            "likelihood.below_histograms",
            value,
            0,
            value < -ERRORS * error,
            "advice" if self.dequantized else "problem",
            f"a histogram of each pixel, which knows nothing of its neighbours, gives the validation images "
            f"{-value:.4g} nats more: "
            + (
                "a density over real numbers can't sit on single values"
                if self.dequantized
                else "the model has learnt next to nothing"
            ),
            "model.likelihood=families.DiscretizedNormal, or the like over whole values"
            if self.dequantized
            else "a smaller train.optimizer.lr, a longer training",
        )

    def _overfitted(self) -> Check:
        gap, sure = difference(self.train, self.valid)
        share = gap / max(abs(float(self.train.mean())), 1e-12)
        return Check(
            "likelihood.overfitted",
            share,
            GAP,
            sure and share > GAP,
            "problem",
            f"training images are likelier than validation images by {gap:.4g} nats, {share:.0%}: the model knows them "
            "by heart",
            LESS_BY_HEART,
        )

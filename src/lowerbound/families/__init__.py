"""Network output -> distribution: posteriors, likelihoods, conditional priors, conditionals of one pixel."""

from lowerbound.families.base import LOG_SCALE, Family, Head
from lowerbound.families.flows import IAF, SplineCoupling
from lowerbound.families.mixtures import GaussianMixture
from lowerbound.families.normals import (
    DiagonalNormal,
    FixedScaleNormal,
    FullNormal,
    LowRankNormal,
    Point,
    Quantized,
    SharedScaleNormal,
)
from lowerbound.families.pixels import Bernoulli, Categorical, DiscretizedNormal, LogisticMixture, Noiseless

__all__ = [
    "IAF",
    "LOG_SCALE",
    "Bernoulli",
    "Categorical",
    "DiagonalNormal",
    "DiscretizedNormal",
    "Family",
    "FixedScaleNormal",
    "FullNormal",
    "GaussianMixture",
    "Head",
    "LogisticMixture",
    "LowRankNormal",
    "Noiseless",
    "Point",
    "Quantized",
    "SharedScaleNormal",
    "SplineCoupling",
]

"""Distributions that torch lacks: of pixels and codes, their KLs, temperatures, truncation; torch's normals, drawing
by `lowerbound.noise`; and the moments of vectors."""

from lowerbound.distributions.blurred import Blurred, reach_of
from lowerbound.distributions.changed import Tempering, check_truncation, detached, tempered, truncated
from lowerbound.distributions.discretized import DiscretizedNormal, LogisticMixture
from lowerbound.distributions.divergence import closed_kl, kl_per_dimension
from lowerbound.distributions.flow import Bent
from lowerbound.distributions.mixture import NormalMixture
from lowerbound.distributions.moments import covariance, normal_moments
from lowerbound.distributions.normal import Choice, LowRankNormal, MultivariateNormal, Normal
from lowerbound.distributions.pixels import (
    Bernoulli,
    Categorical,
    Dequantized,
    Noiseless,
    Pixels,
    Point,
    dequantized,
    residual,
)

__all__ = [
    "Bent",
    "Bernoulli",
    "Blurred",
    "Categorical",
    "Choice",
    "Dequantized",
    "DiscretizedNormal",
    "LogisticMixture",
    "LowRankNormal",
    "MultivariateNormal",
    "Noiseless",
    "Normal",
    "NormalMixture",
    "Pixels",
    "Point",
    "Tempering",
    "check_truncation",
    "closed_kl",
    "covariance",
    "dequantized",
    "detached",
    "kl_per_dimension",
    "normal_moments",
    "reach_of",
    "residual",
    "tempered",
    "truncated",
]

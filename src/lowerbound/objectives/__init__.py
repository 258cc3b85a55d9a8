"""A trace of the bound -> the loss that is descended, and whom a model is trained against."""

from lowerbound.objectives.adversaries import Adversary, TotalCorrelation
from lowerbound.objectives.base import Objective
from lowerbound.objectives.bounds import ELBO, IWAE, Bound
from lowerbound.objectives.reconstruction import (
    AbsoluteError,
    Corruption,
    CrossEntropy,
    Error,
    GaussianNoise,
    Masking,
    Reconstruction,
    SaltAndPepper,
    SquaredError,
)

__all__ = [
    "ELBO",
    "IWAE",
    "AbsoluteError",
    "Adversary",
    "Bound",
    "Corruption",
    "CrossEntropy",
    "Error",
    "GaussianNoise",
    "Masking",
    "Objective",
    "Reconstruction",
    "SaltAndPepper",
    "SquaredError",
    "TotalCorrelation",
]

"""A trace of the bound -> the loss that is descended, and whom a model is trained against."""

from lowerbound.objectives.adversaries import Adversary, Invariance, TotalCorrelation
from lowerbound.objectives.base import Objective
from lowerbound.objectives.bounds import ELBO, IWAE, Bound
from lowerbound.objectives.disentangling import DIP1, DIP2, BetaTC, Capacity, Sampling, Stratified, Weighted
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
    "DIP1",
    "DIP2",
    "ELBO",
    "IWAE",
    "AbsoluteError",
    "Adversary",
    "BetaTC",
    "Bound",
    "Capacity",
    "Corruption",
    "CrossEntropy",
    "Error",
    "GaussianNoise",
    "Invariance",
    "Masking",
    "Objective",
    "Reconstruction",
    "SaltAndPepper",
    "Sampling",
    "SquaredError",
    "Stratified",
    "TotalCorrelation",
    "Weighted",
]

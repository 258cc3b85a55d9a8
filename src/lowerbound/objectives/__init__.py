"""A trace of the bound -> the loss that is descended; whom a model is trained against, and by which game."""

from lowerbound.objectives.adversaries import Adversary, Invariance, TotalCorrelation
from lowerbound.objectives.base import Objective
from lowerbound.objectives.bounds import ELBO, IWAE, Bound
from lowerbound.objectives.disentangling import DIP1, DIP2, BetaTC, Capacity, Sampling, Stratified, Weighted
from lowerbound.objectives.games import R1, Game, Hinge, NonSaturating, OneLipschitz, Penalty, Wasserstein
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
    "R1",
    "AbsoluteError",
    "Adversary",
    "BetaTC",
    "Bound",
    "Capacity",
    "Corruption",
    "CrossEntropy",
    "Error",
    "Game",
    "GaussianNoise",
    "Hinge",
    "Invariance",
    "Masking",
    "NonSaturating",
    "Objective",
    "OneLipschitz",
    "Penalty",
    "Reconstruction",
    "SaltAndPepper",
    "Sampling",
    "SquaredError",
    "Stratified",
    "TotalCorrelation",
    "Wasserstein",
    "Weighted",
]

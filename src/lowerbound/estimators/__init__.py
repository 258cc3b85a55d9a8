"""How latents are drawn in training, and how gradients reach the posterior through the draws."""

from lowerbound.estimators.base import Draws, Estimator, Pathwise
from lowerbound.estimators.mixtures import Stratified
from lowerbound.estimators.relaxed import REBAR, Enumeration, GumbelSoftmax, StraightThrough, StraightThroughGumbel
from lowerbound.estimators.scores import ARM, RLOO, VIMCO, DisARM, Reinforce

__all__ = [
    "ARM",
    "REBAR",
    "RLOO",
    "VIMCO",
    "DisARM",
    "Draws",
    "Enumeration",
    "Estimator",
    "GumbelSoftmax",
    "Pathwise",
    "Reinforce",
    "StraightThrough",
    "StraightThroughGumbel",
    "Stratified",
]

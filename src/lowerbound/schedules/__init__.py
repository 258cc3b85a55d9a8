"""Diffusion's noise: how much of it there is at which time, what a network says of it, how it is taken away."""

from lowerbound.schedules.base import Pull, Schedule, alpha, sigma
from lowerbound.schedules.fixed import BetaLinear, Cosine, LogLinear
from lowerbound.schedules.learned import LearnedEnds, Monotone
from lowerbound.schedules.predictions import Epsilon, Prediction, V, X
from lowerbound.schedules.samplers import DDIM, Ancestral, Heun, Noise, Sampler
from lowerbound.schedules.weightings import Bound, Simple, Weighting

__all__ = [
    "DDIM",
    "Ancestral",
    "BetaLinear",
    "Bound",
    "Cosine",
    "Epsilon",
    "Heun",
    "LearnedEnds",
    "LogLinear",
    "Monotone",
    "Noise",
    "Prediction",
    "Pull",
    "Sampler",
    "Schedule",
    "Simple",
    "V",
    "Weighting",
    "X",
    "alpha",
    "sigma",
]

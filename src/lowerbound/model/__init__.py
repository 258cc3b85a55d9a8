"""What every model answers: a loss to train it, samples, and log p(x) with what that number is worth."""

from lowerbound.model.base import AUTOREGRESSIVE, BoundModel, ExactModel, Model, WithoutDensity
from lowerbound.model.draws import PLAIN, ByLevel, Draw, Drawn, rows_of, share_of
from lowerbound.model.latent import Descent, LatentModel, with_residual
from lowerbound.model.roles import (
    Adversarial,
    BoundParts,
    Chained,
    Chosen,
    Classifying,
    CodeModel,
    Diffusing,
    Extent,
    Filled,
    Generating,
    Invertible,
    Markov,
    Moment,
    Ordered,
    Refittable,
    Stepwise,
    Viewing,
)
from lowerbound.model.terms import ElboTerms
from lowerbound.progress import Told, told_nobody

__all__ = [
    "AUTOREGRESSIVE",
    "PLAIN",
    "Adversarial",
    "BoundModel",
    "BoundParts",
    "ByLevel",
    "Chained",
    "Chosen",
    "Classifying",
    "CodeModel",
    "Descent",
    "Diffusing",
    "Draw",
    "Drawn",
    "ElboTerms",
    "ExactModel",
    "Extent",
    "Filled",
    "Generating",
    "Invertible",
    "LatentModel",
    "Markov",
    "Model",
    "Moment",
    "Ordered",
    "Refittable",
    "Stepwise",
    "Told",
    "Viewing",
    "WithoutDensity",
    "rows_of",
    "share_of",
    "told_nobody",
    "with_residual",
]

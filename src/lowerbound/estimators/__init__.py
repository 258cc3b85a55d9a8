"""How latents are drawn in training, and how gradients reach the posterior through the draws."""

from lowerbound.estimators.base import Draws, Estimator, Pathwise
from lowerbound.estimators.mixtures import Stratified

__all__ = ["Draws", "Estimator", "Pathwise", "Stratified"]

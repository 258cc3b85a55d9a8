"""Small models over latents. A prior is a Model whose space is the latent's."""

from lowerbound.priors.base import Begins, Given, Mixed, Prior, prior_given
from lowerbound.priors.categorical import Categorical
from lowerbound.priors.mixtures import FullGaussianMixture, GaussianMixture
from lowerbound.priors.normals import Gaussian, StandardNormal

__all__ = [
    "Begins",
    "Categorical",
    "FullGaussianMixture",
    "Gaussian",
    "GaussianMixture",
    "Given",
    "Mixed",
    "Prior",
    "StandardNormal",
    "prior_given",
]

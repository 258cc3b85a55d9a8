"""Small models over latents. A prior is a Model whose space is the latent's."""

from lowerbound.priors.base import Begins, Bindable, Given, Mixed, Prior, prior_given
from lowerbound.priors.categorical import Categorical
from lowerbound.priors.mixtures import FullGaussianMixture, GaussianMixture
from lowerbound.priors.normals import Gaussian, StandardNormal
from lowerbound.priors.vamp import VampPrior

__all__ = [
    "Begins",
    "Bindable",
    "Categorical",
    "FullGaussianMixture",
    "Gaussian",
    "GaussianMixture",
    "Given",
    "Mixed",
    "Prior",
    "StandardNormal",
    "VampPrior",
    "prior_given",
]

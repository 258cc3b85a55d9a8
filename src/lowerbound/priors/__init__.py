"""Small models over latents. A prior is a Model whose space is the latent's."""

from lowerbound.priors.autoregressive import AutoregressiveMixture, MapAutoregressive
from lowerbound.priors.base import Begins, Bindable, Given, Mixed, Prior, offered, prior_given
from lowerbound.priors.categorical import Categorical
from lowerbound.priors.flows import SplineFlow
from lowerbound.priors.labels import LabelError, PerLabel
from lowerbound.priors.maps import MapFlow, MapGaussian
from lowerbound.priors.mixtures import FullGaussianMixture, GaussianMixture
from lowerbound.priors.normals import Gaussian, StandardNormal
from lowerbound.priors.vamp import VampPrior

__all__ = [
    "AutoregressiveMixture",
    "Begins",
    "Bindable",
    "Categorical",
    "FullGaussianMixture",
    "Gaussian",
    "GaussianMixture",
    "Given",
    "LabelError",
    "MapAutoregressive",
    "MapFlow",
    "MapGaussian",
    "Mixed",
    "PerLabel",
    "Prior",
    "SplineFlow",
    "StandardNormal",
    "VampPrior",
    "offered",
    "prior_given",
]

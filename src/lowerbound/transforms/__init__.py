"""Bijections of vectors and maps, perhaps given a context: what flows are made of, as posteriors and as priors."""

from lowerbound.transforms.autoregressive import GatedAutoregression
from lowerbound.transforms.base import Bijection, Chain, Contextual, half
from lowerbound.transforms.dequantization import Dequantizer, Uniform, Variational
from lowerbound.transforms.maps import MapCoupling, map_half
from lowerbound.transforms.multiscale import ActNorm, Coupled, Mixing, multiscale
from lowerbound.transforms.splines import SplineCoupling, rational_quadratic

__all__ = [
    "ActNorm",
    "Bijection",
    "Chain",
    "Contextual",
    "Coupled",
    "Dequantizer",
    "GatedAutoregression",
    "MapCoupling",
    "Mixing",
    "SplineCoupling",
    "Uniform",
    "Variational",
    "half",
    "map_half",
    "multiscale",
    "rational_quadratic",
]

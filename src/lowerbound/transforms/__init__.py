"""Bijections of vectors and maps, perhaps given a context: what flows are made of, as posteriors and as priors."""

from lowerbound.transforms.autoregressive import GatedAutoregression
from lowerbound.transforms.base import Bijection, Chain, Contextual, half
from lowerbound.transforms.maps import MapCoupling, map_half
from lowerbound.transforms.splines import SplineCoupling, rational_quadratic

__all__ = [
    "Bijection",
    "Chain",
    "Contextual",
    "GatedAutoregression",
    "MapCoupling",
    "SplineCoupling",
    "half",
    "map_half",
    "rational_quadratic",
]

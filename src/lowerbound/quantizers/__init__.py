"""Codebooks, and the straight-through gradient: VQ, ResidualVQ, FSQ."""

from lowerbound.quantizers.base import Quantized, Quantizer, nearest, seeds, statistics
from lowerbound.quantizers.fsq import FSQ
from lowerbound.quantizers.usage import Usage
from lowerbound.quantizers.vq import VQ, ResidualVQ

__all__ = [
    "FSQ",
    "VQ",
    "Quantized",
    "Quantizer",
    "ResidualVQ",
    "Usage",
    "nearest",
    "seeds",
    "statistics",
]

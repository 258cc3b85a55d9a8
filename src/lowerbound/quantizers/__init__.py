"""Codebooks, and the straight-through gradient: VQ, ResidualVQ, FSQ, LQ."""

from lowerbound.quantizers.base import Quantized, Quantizer, nearest, seeds, statistics
from lowerbound.quantizers.fsq import FSQ
from lowerbound.quantizers.lq import LQ
from lowerbound.quantizers.usage import Usage
from lowerbound.quantizers.vq import VQ, ResidualVQ

__all__ = [
    "FSQ",
    "LQ",
    "VQ",
    "Quantized",
    "Quantizer",
    "ResidualVQ",
    "Usage",
    "nearest",
    "seeds",
    "statistics",
]

"""How evenly codes are used."""

import math

import torch
from torch import Tensor

from lowerbound.units import bits_per_dim

# ---- how full a codebook is


class Usage:
    """Counts codes over batches.

    Example:
        >>> usage = Usage(4)
        >>> usage.add(torch.tensor([[0, 0], [1, 1]]))
        >>> usage.share, usage.dead, usage.perplexity, usage.bits
        (0.5, 2, 2.0, 1.0)
    """

    def __init__(self, codes: int):
        self.counts = torch.zeros(codes, dtype=torch.int64)  # [K]

    def add(self, codes: Tensor) -> None:
        """Codes of any shape, in [0, K)."""
        self.counts += torch.bincount(codes.flatten(), minlength=len(self.counts)).cpu()

    @property
    def dead(self) -> int:
        """How many codes were never chosen."""
        return int((self.counts == 0).sum())

    @property
    def share(self) -> float:
        """Of the codes, those that were chosen at least once."""
        return 1 - self.dead / len(self.counts)

    @property
    def nats(self) -> float:
        """The entropy of the codes' frequencies, in nats per code."""
        p = self.counts.double() / self.counts.sum()
        return abs(float(torch.xlogy(p, p).sum()))  # 0, not -0, of a single code

    @property
    def bits(self) -> float:
        """The same in bits: what a code costs without a model of its neighbours."""
        return bits_per_dim(self.nats, 1)

    @property
    def perplexity(self) -> float:
        """How many codes, evenly used, would have this entropy."""
        return math.exp(self.nats)

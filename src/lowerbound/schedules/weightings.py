"""What an error of the noise counts in training, at each time."""

from abc import abstractmethod

import torch
from torch import Tensor

from lowerbound.config import Component


class Weighting(Component, abstract=True):
    """The factor of |ε - ε̂|² in the loss, of the one that it has in the bound. What is reported is always the bound."""

    @abstractmethod
    def __call__(self, factor: Tensor) -> Tensor: ...


class Bound(Weighting):
    """The bound's own, so that the loss is minus the bound."""

    def __call__(self, factor: Tensor) -> Tensor:
        return factor


class Simple(Weighting):
    """1/2 at all times, so that times with much noise count more than in the bound: samples look better, and the bound
    is worse (Ho et al. 2020, https://arxiv.org/abs/2006.11239)."""

    def __call__(self, factor: Tensor) -> Tensor:
        return torch.full_like(factor, 0.5)

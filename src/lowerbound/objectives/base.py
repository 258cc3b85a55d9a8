"""What every objective answers."""

from abc import abstractmethod

from pydantic import Field
from torch import Tensor
from torch.distributions import Distribution

from lowerbound.config import Component
from lowerbound.model import ElboTerms
from lowerbound.stages import Loss, Score, Size


class Objective(Component, abstract=True):
    """What is made of the terms of `draws` draws of the latents."""

    draws: int = Field(default=1, gt=0)  # of z for each image, in a step

    @abstractmethod
    def __call__(self, terms: ElboTerms, step: int) -> Loss: ...

    @property
    def score(self) -> Score:
        """By what the weights that it trains are chosen: by itself, where it is no bound of log p(x)."""
        return Score(draws=None)

    def seen(self, h: Tensor, black_and_white: tuple[float, float]) -> Tensor:
        """What the encoder sees of the features h [B, ...] in training."""
        return h

    def why_not(self, q: Distribution) -> str:
        """What keeps it from a posterior q, and what does instead; "" where nothing does."""
        return ""

    def check(self, size: Size) -> None:
        """Raise ConfigError where a training of this size is none for it."""


def by_level(kl: Tensor) -> dict[str, Tensor]:
    """Of several levels each one's, [B, L] -> [B] by name."""
    levels = kl.unbind(-1)
    return {f"kl.z{l + 1}": k for l, k in enumerate(levels)} if len(levels) > 1 else {}

"""How the images of a block become a message, by what a model says of them."""

from abc import ABC, abstractmethod
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lowerbound.errors import UserError
from lowerbound.model import Model
from lowerbound.space import Y


class Settings(NamedTuple):
    """What a file's encoder chose and its decoder has to know."""

    rows: int  # images that a network is given at once, always as many: the last ones are filled up
    block: int  # images of a message, which can be read without the others
    pace: int  # a chain of n images goes on with n / 2^pace at once


class Coded(NamedTuple):
    """A block's message."""

    words: np.ndarray  # uint32
    initial: int = 0  # bits of it that were there before its first image, and are there again once it is decoded
    x: np.ndarray | None = None  # what comes back, where that is not what went in


class Mismatch(UserError):
    """A message that did not come from these probabilities."""

    page = "data#other-model"


class Scheme(ABC):
    """Blocks of images of a model's space, uint8 or int64 [n, *shape], to messages and back. y: the label of each,
    int64 [n], where the model is given it.

    filled: whether a network always sees `settings.rows` images, in the same places, whatever is coded.
    """

    def __init__(self, model: Model, settings: Settings, *, filled: bool = True):
        self.model, self.settings, self.filled = model, settings, filled

    @classmethod
    @abstractmethod
    def settings_for(
        cls, model: Model, x: np.ndarray, n: int, block: int | None, y: np.ndarray | None = None
    ) -> Settings:
        """What suits n images, of which x are the first: [k, *shape]. block: as many as were asked for."""

    @abstractmethod
    def encode(self, x: np.ndarray, y: np.ndarray | None = None) -> Coded: ...

    @abstractmethod
    def decode(self, words: np.ndarray, n: int, y: np.ndarray | None = None) -> np.ndarray:
        """n events, int64 [n, *shape]. Raises Mismatch unless the message ends where it began."""

    def seen(self, n: int) -> int:
        """How many images a network sees where n are coded."""
        return self.settings.rows if self.filled else n

    def padded(self, x: np.ndarray) -> np.ndarray:
        """As many as a network sees, the others zero."""
        padded = np.zeros((self.seen(len(x)), *x.shape[1:]), x.dtype)
        padded[: len(x)] = x
        return padded

    def given(self, y: np.ndarray | None) -> Y:
        """The labels, filled up."""
        return None if y is None else torch.from_numpy(self.padded(y)).to(self.model.device)

    def events(self, x: np.ndarray) -> Tensor:
        """As the model takes them, filled up."""
        return torch.from_numpy(self.padded(x)).to(self.model.space.dtype).to(self.model.device)

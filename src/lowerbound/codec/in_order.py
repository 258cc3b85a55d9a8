"""Autoregressive models: each value given the earlier ones, of all images of a block at once."""

import math

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

from lowerbound.codec.channel import Channel, Message, Reading, Writing
from lowerbound.codec.scheme import Coded, Mismatch, Scheme, Settings
from lowerbound.codec.symbols import coded
from lowerbound.model import Model, Ordered

BLOCK = 256


class InOrder(Scheme):
    """The exact probabilities of an autoregressive model; a block is a batch.

    The encoder goes from value to value as the decoder will, so that both compute the same numbers, and pushes them all
    in reverse at the end.
    """

    model: Ordered

    @classmethod
    def settings_for(cls, model: Model, x: np.ndarray, n: int, block: int | None) -> Settings:
        most = block or min(BLOCK, model.at_once())
        rows = -(-n // -(-n // most))  # blocks that are filled alike
        return Settings(rows, rows, 0)

    def encode(self, x: np.ndarray) -> Coded:
        channel, message = Writing(), Message()
        self._spelled(channel, len(x), x)
        message.push(channel.spans)
        return Coded(message.words)

    def decode(self, words: np.ndarray, n: int) -> np.ndarray:
        message = Message(words)
        x = self._spelled(Reading(message), n, None)
        if not message.is_empty:
            raise Mismatch("its message does not end with its last image")
        return x

    def _spelled(self, channel: Channel, n: int, x: np.ndarray | None) -> np.ndarray:
        shape = self.model.space.shape
        size = (1, *shape)[-2:]
        known = None if x is None else x.astype(np.int64).reshape(n, math.prod(shape[:-2]), *size)

        def chosen(p: Distribution, only: slice, place: tuple[int, int]) -> Tensor:
            own = None if known is None else known[:, only, place[0], place[1]]
            return torch.from_numpy(self.padded(coded(p, channel, n, own, only))).to(self.model.device)

        return self.model.spell(self.seen(n), chosen)[:n].cpu().numpy()

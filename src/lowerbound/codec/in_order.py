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
from lowerbound.space import Y

BLOCK = 256


class InOrder(Scheme):
    """The exact probabilities of an autoregressive model; a block is a batch.

    The encoder goes from value to value as the decoder will, so that both compute the same numbers, and pushes them all
    in reverse at the end.
    """

    model: Ordered

    @classmethod
    def settings_for(
        cls, model: Model, x: np.ndarray, n: int, block: int | None, y: np.ndarray | None = None
    ) -> Settings:
        most = block or min(BLOCK, model.at_once())
        rows = -(-n // -(-n // most))  # blocks that are filled alike
        return Settings(rows, rows, 0)

    def encode(self, x: np.ndarray, y: np.ndarray | None = None) -> Coded:
        channel, message = Writing(), Message()
        spelled(self.model, channel, len(x), self.seen(len(x)), x, self.given(y))
        message.push(channel.spans)
        return Coded(message.words)

    def decode(self, words: np.ndarray, n: int, y: np.ndarray | None = None) -> np.ndarray:
        message = Message(words)
        x = spelled(self.model, Reading(message), n, self.seen(n), None, self.given(y))
        if not message.is_empty:
            raise Mismatch("its message does not end with its last image")
        return x


def spelled(model: Ordered, channel: Channel, n: int, rows: int, x: np.ndarray | None, y: Y) -> np.ndarray:
    """n events of a model through the channel, value by value, in a batch of so many rows: int64 [n, *shape].

    x: the events, where they are known. y: the condition of every row.
    """
    shape = model.space.shape
    size = (1, *shape)[-2:]
    known = None if x is None else x.astype(np.int64).reshape(n, math.prod(shape[:-2]), *size)

    def chosen(p: Distribution, only: slice, place: tuple[int, int]) -> Tensor:
        own = None if known is None else known[:, only, place[0], place[1]]
        found = coded(p, channel, n, own, only)
        padded = np.zeros((rows, found.shape[1]), found.dtype)
        padded[:n] = found
        return torch.from_numpy(padded).to(model.device)

    return model.spell(rows, chosen, y)[:n].cpu().numpy().astype(np.int64)

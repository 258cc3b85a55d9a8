"""The images of a block as a chain: what one image's latents are popped from is what those before it pushed."""

import hashlib
import math
from abc import abstractmethod

import numpy as np

from lowerbound.codec.channel import WORD, Message
from lowerbound.codec.scheme import Coded, Mismatch, Scheme, Settings
from lowerbound.model import LatentModel, Model
from lowerbound.space import Y

ROWS = 32  # images that a network is given at once
BLOCKS = (256, 2**16)  # fewest and most images of a block, unless they are said
TRIED = 4  # images by which a chain's pace is chosen
MOST = 48  # bits that popping one variable takes at most


class Low:
    """The message of an encoder, and how far down it has been popped."""

    def __init__(self, words: np.ndarray):
        self.message = Message(words)
        self.height = self.message.height

    def seen(self) -> None:
        """Nothing was pushed since what was popped last."""
        self.height = min(self.height, self.message.height)


class Chain(Scheme):
    """A chain of the images of a block: each one's latents are popped from what the earlier ones pushed.

    The first ones are popped from initial bits, which no image has paid for: a fixed sequence, of which a message holds
    as much as was needed. As the message grows, more images are popped at once, n / 2^pace after n.
    """

    model: LatentModel

    @property
    @abstractmethod
    def variables(self) -> int:
        """Of an image, how many are popped at most before others are pushed."""

    @abstractmethod
    def push(self, low: Low, x: np.ndarray, given: Y) -> None:
        """Images [n, *shape] of whole numbers."""

    @abstractmethod
    def pop(self, message: Message, n: int, given: Y) -> np.ndarray:
        """What `push` pushed: int64 [n, dims]; and push what it popped."""

    @classmethod
    def settings_for(
        cls, model: Model, x: np.ndarray, n: int, block: int | None, y: np.ndarray | None = None
    ) -> Settings:
        rows = min(n, block or ROWS, ROWS, model.rows)
        tried = x[:TRIED]
        coded = cls(model, Settings(rows, n, 16), filled=False).encode(tried, None if y is None else y[:TRIED])
        net = max(1.0, (WORD * len(coded.words) - coded.initial) / len(tried))
        ratio = coded.initial / net  # initial bits, by those of an image
        if block is None:
            block = min(max(BLOCKS[0], 2 ** math.ceil(math.log2(100 * ratio + 1))), BLOCKS[1])
        return Settings(rows, min(n, block), min(16, math.ceil(math.log2(ratio + 1)) + 1))

    def encode(self, x: np.ndarray, y: np.ndarray | None = None) -> Coded:
        start = self._initial()
        low = Low(start)
        for group in self._groups(len(x)):
            self.push(low, x[group].astype(np.int64), self.given(None if y is None else y[group]))
        return Coded(low.message.words[low.height :], WORD * (len(start) - low.height))

    def decode(self, words: np.ndarray, n: int, y: np.ndarray | None = None) -> np.ndarray:
        message, x = Message(words), np.empty((n, *self.model.space.shape), np.int64)
        for group in reversed(self._groups(n)):
            found = self.pop(message, group.stop - group.start, self.given(None if y is None else y[group]))
            x[group] = found.reshape(x[group].shape)
        left, start = message.words, self._initial()
        if len(left) > len(start) or not np.array_equal(left, start[len(start) - len(left) :]):
            raise Mismatch("its message does not end at the bits it began with")
        return x

    def _groups(self, n: int) -> list[slice]:
        """Which images are popped at once, one group after another."""
        found, done = [], 0
        while done < n:
            size = min(max(1, done >> self.settings.pace), self.settings.rows, n - done)
            found.append(slice(done, done + size))
            done += size
        return found

    def _initial(self) -> np.ndarray:
        """The words that a chain begins with, more than a batch's latents can take: uint32, the top last."""
        n = 4 + self.settings.rows * self.variables * MOST // WORD
        digest = hashlib.shake_128(b"lowerbound").digest(4 * n)
        return np.frombuffer(digest, "<u4").astype(np.uint32)[::-1].copy()

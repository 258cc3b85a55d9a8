"""VQ-VAEs: codes by their prior, and the pixels given the codes; or the codes alone, which is lossy.

Codes are a function of the image, so nothing is drawn and no bits come back: an image costs -log P(z) - log p(x|z), one
term of the sum over all codes that -log p(x) is.
"""

from abc import abstractmethod

import numpy as np
from torch import Tensor

from lowerbound.codec import exact
from lowerbound.codec.channel import Channel, Message, Reading, Writing
from lowerbound.codec.latents import as_tensor, by_prior
from lowerbound.codec.scheme import Coded, Mismatch, Scheme, Settings
from lowerbound.codec.symbols import coded
from lowerbound.model import CodeModel, Model
from lowerbound.space import Y

ROWS = 256  # images that a network is given at once, at most


class _Codes(Scheme):
    model: CodeModel

    @classmethod
    def settings_for(
        cls, model: Model, x: np.ndarray, n: int, block: int | None, y: np.ndarray | None = None
    ) -> Settings:
        most = min(block or ROWS, ROWS, model.rows)
        rows = -(-n // -(-n // most))
        return Settings(rows, min(n, block or 4 * rows), 0)

    def encode(self, x: np.ndarray, y: np.ndarray | None = None) -> Coded:
        channel, message, shown = Writing(), Message(), []
        for group in self._groups(len(x)):
            part, given = x[group], self.given(None if y is None else y[group])
            with exact.freely():  # whatever codes these are, the decoder is told them
                codes = self.model.codes(self.events(part))
            known = tuple(c.cpu().numpy().reshape(len(c), -1)[: len(part)] for c in codes)
            z = self._codes(channel, len(part), given, known)
            shown.append(self._pixels(channel, z, given, part, len(part)))
        message.push(channel.spans)
        return Coded(message.words, x=np.concatenate(shown))

    def decode(self, words: np.ndarray, n: int, y: np.ndarray | None = None) -> np.ndarray:
        message, x = Message(words), []
        for group in self._groups(n):
            count, given = group.stop - group.start, self.given(None if y is None else y[group])
            z = self._codes(Reading(message), count, given, None)
            x.append(self._pixels(Reading(message), z, given, None, count))
        if not message.is_empty:
            raise Mismatch("its message does not end with its last image")
        return np.concatenate(x)

    def _groups(self, n: int) -> list[slice]:
        return [slice(i, min(i + self.settings.rows, n)) for i in range(0, n, self.settings.rows)]

    def _codes(self, channel: Channel, n: int, given: Y, known: tuple[np.ndarray, ...] | None) -> tuple[Tensor, ...]:
        """All levels through the channel, filled up."""
        z: tuple[Tensor, ...] = ()
        for l, space in enumerate(self.model.latents):
            own = None if known is None else known[l]
            index = by_prior(channel, self.model.prior_of(l, z, given), space, n, self.seen(n), own)
            z = (*z, as_tensor(self.padded(index), space, self.model.dtype, self.model.device))
        return z

    @abstractmethod
    def _pixels(
        self, channel: Channel, z: tuple[Tensor, ...], given: Y, known: np.ndarray | None, n: int
    ) -> np.ndarray:
        """What comes back of a group of n: int64 [n, *shape]; `known` where it goes in."""


class Lossless(_Codes):
    """Codes, and pixels by p(x|codes)."""

    def _pixels(
        self, channel: Channel, z: tuple[Tensor, ...], given: Y, known: np.ndarray | None, n: int
    ) -> np.ndarray:
        flat = None if known is None else known.astype(np.int64).reshape(n, -1)
        return coded(self.model.likelihood(z, given), channel, n, flat).reshape(n, *self.model.space.shape)


class Lossy(_Codes):
    """Codes alone: what comes back is the mean that they decode to, rounded."""

    def _pixels(
        self, channel: Channel, z: tuple[Tensor, ...], given: Y, known: np.ndarray | None, n: int
    ) -> np.ndarray:
        mean = self.model.likelihood(z, given).mean[:n].cpu().numpy()
        return np.rint(mean).clip(0, (self.model.space.levels or 256) - 1).astype(np.int64)

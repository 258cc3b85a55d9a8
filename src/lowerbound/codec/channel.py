"""The message: a stack of symbols by asymmetric numeral systems (Duda 2013, https://arxiv.org/abs/1311.2540).

A symbol of probability P is an interval of [0, 2^24) of about P · 2^24 whole numbers, made here. constriction's coder
is told them exactly and has nothing to round: of K numbers p it makes intervals of 1 + floor(p (2^24 - K) / Σp), and
is given whole numbers p that add up to 2^24 - K.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from lowerbound.errors import UserError

BITS = 24  # of the whole numbers that probabilities are
WHOLE = 1 << BITS
LEAST = 2  # width of the narrowest interval
AT_ONCE = 2**16  # symbols that are pushed in one call
WORD = 32  # bits; a message is whole words


def intervals(below: np.ndarray) -> np.ndarray:
    """The edges of K intervals in [0, 2^24], for the probability below each: [n, K + 1] -> int64 [n, K + 1].

    Only differences count, divided by the last; none is too narrow to be coded, and where all are 0 they are alike.
    """
    K = below.shape[1] - 1
    share = np.maximum.accumulate(below - below[:, :1], axis=1)
    total = share[:, -1:]
    even = np.arange(K + 1) / K
    share = np.where(total > 0, share / np.where(total > 0, total, 1.0), even)
    return LEAST * np.arange(K + 1) + np.floor(share * (WHOLE - LEAST * K)).astype(np.int64)


class Spans(NamedTuple):
    """The intervals of n symbols, in the order in which they are popped."""

    left: np.ndarray  # int64 [n]
    width: np.ndarray

    @property
    def bits(self) -> float:
        """What they take in the message, but for its rounding: -Σ log2 P."""
        return float(BITS * len(self.width) - np.log2(self.width).sum())


class Message:
    """Symbols on a stack: what was pushed last is popped first. Popping what was never pushed takes the bits of what is
    below for random ones; pushing it back returns them.

    Example:
        >>> message, edges = Message(), intervals(np.array([[0.0, 0.9, 1.0]]))
        >>> message.push([Spans(edges[:, 1], edges[:, 2] - edges[:, 1])])
        >>> message.pop(edges).tolist(), message.is_empty
        ([1], True)
    """

    def __init__(self, words: np.ndarray | None = None):
        """words: uint32, the bottom first; the last is not 0. Raises ValueError where it is."""
        stream = _constriction().stream
        self._coder = stream.stack.AnsCoder() if words is None else stream.stack.AnsCoder(words)
        self._table, self._even = stream.model.Categorical(perfect=False), stream.model.Uniform

    @property
    def words(self) -> np.ndarray:
        """uint32, the bottom first."""
        return self._coder.get_compressed()

    @property
    def height(self) -> int:
        """Words that no symbol on top of which depends on any: those below the coder's own two."""
        return self._coder.pos()[0]

    @property
    def is_empty(self) -> bool:
        return self._coder.is_empty()

    def push(self, spans: Sequence[Spans]) -> None:
        """Symbols that are popped in this order."""
        for part in reversed(spans):
            for end in range(len(part.left), 0, -AT_ONCE):
                self._push(*(values[max(0, end - AT_ONCE) : end] for values in part))

    def _push(self, left: np.ndarray, width: np.ndarray) -> None:
        """Each is one of three symbols: those before it, itself, those behind it; or, where it has nothing before or
        behind, at that end of two others."""
        right = WHOLE - left - width
        symbol = np.where(left == 0, 0, np.where(right == 0, 2, 1))
        sizes = np.stack([left, width, right], 1)
        sizes[symbol == 0] = np.stack([width, np.ones_like(width), right - 1], 1)[symbol == 0]
        sizes[symbol == 2] = np.stack([np.ones_like(width), left - 1, width], 1)[symbol == 2]
        self._coder.encode_reverse(symbol.astype(np.int32), self._table, _told(sizes))

    def pop(self, edges: np.ndarray) -> np.ndarray:
        """A symbol for each row of edges [n, K + 1]: int64 [n]."""
        return self._coder.decode(self._table, _told(np.diff(edges))).astype(np.int64)

    def pop_even(self, n: int, bits: int) -> np.ndarray:
        """n symbols that are all alike, of so many bits each: int64 [n]."""
        return self._coder.decode(self._even(1 << bits), n).astype(np.int64)


class Channel(ABC):
    """Where symbols pass: one way they become intervals, the other way they are read from a message. What is coded is
    written once, for both."""

    @abstractmethod
    def symbols(self, edges: np.ndarray, known: np.ndarray | None) -> np.ndarray:
        """Symbols [n], each with the intervals of a row of edges [n, K + 1]; `known` where they are written."""

    @abstractmethod
    def even(self, n: int, bits: int, known: np.ndarray | None) -> np.ndarray:
        """Symbols [n] of so many bits, all of which are alike."""

    def in_steps(
        self, below: Callable[[np.ndarray], np.ndarray], digits: Sequence[int], known: np.ndarray | None
    ) -> np.ndarray:
        """Symbols [n] of many values digit by digit, the first the most significant, by the probability `below` each of
        some values, whole numbers [1 or n, k] -> [n, k]: of A · B + 1 probabilities, A + B + 2 are computed.

        digits: how many values each has; their product is that of all.
        """
        unit, start = math.prod(digits), np.zeros((1, 1), np.int64)
        for size in digits:
            unit //= size
            edges = intervals(below(start + unit * np.arange(size + 1)))
            digit = self.symbols(edges, None if known is None else known // unit % size)
            start = start + unit * digit[:, None]
        return start[:, 0]


class Writing(Channel):
    """The intervals of known symbols."""

    def __init__(self) -> None:
        self.spans: list[Spans] = []

    def symbols(self, edges: np.ndarray, known: np.ndarray | None) -> np.ndarray:
        assert known is not None
        rows = np.arange(len(known))
        left = edges[rows, known]
        self.spans.append(Spans(left, edges[rows, known + 1] - left))
        return known

    def even(self, n: int, bits: int, known: np.ndarray | None) -> np.ndarray:
        assert known is not None
        self.spans.append(Spans(known << (BITS - bits), np.full(n, 1 << (BITS - bits))))
        return known


class Reading(Channel):
    """The symbols of a message, which are popped."""

    def __init__(self, message: Message):
        self.message = message

    def symbols(self, edges: np.ndarray, known: np.ndarray | None) -> np.ndarray:
        return self.message.pop(edges)

    def even(self, n: int, bits: int, known: np.ndarray | None) -> np.ndarray:
        return self.message.pop_even(n, bits)


def _told(sizes: np.ndarray) -> np.ndarray:
    """As constriction is told of them: rows lie together, for it takes another order of the numbers for this one."""
    return np.ascontiguousarray(sizes - 1, np.float64)


def _constriction() -> Any:
    """Raises UserError where it is not installed."""
    try:
        import constriction  # pyright: ignore[reportMissingImports]  # optional
    except ImportError:
        raise UserError("compressing needs constriction: pip install 'lowerbound[codec]'") from None
    return constriction

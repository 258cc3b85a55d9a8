"""Functions whose values are the same bits everywhere: from tables, by additions, products and divisions of float64.

What a processor's or a library's own `exp` gives may differ in the last bit from one machine to the next, and an
encoder and a decoder that differ in one bit understand nothing of one another. The tables are computed by `decimal`,
which rounds correctly, and everything after them is IEEE 754 arithmetic, one operation after another.
"""

import functools
from decimal import Decimal, localcontext

import numpy as np

FINE = 1024  # marks of the exponential's table in a unit
FAR = 64  # beyond, exp is that of FAR
TURN = 1024  # marks of the sine's table in a turn
STEP = 256  # marks of the normal's table in a unit
TAIL = 8  # where it ends
TWO_PI = Decimal("6.283185307179586476925286766559005768")


@functools.cache
def _exponentials() -> tuple[np.ndarray, np.ndarray]:
    """e^n for whole n from -FAR to FAR, and e^(k / FINE) for k from 0 to FINE - 1."""
    with localcontext() as context:
        context.prec = 28
        whole = [float(Decimal(n).exp()) for n in range(-FAR, FAR + 1)]
        parts = [float((Decimal(k) / FINE).exp()) for k in range(FINE)]
    return np.array(whole), np.array(parts)


def exp(x: np.ndarray) -> np.ndarray:
    """e^x of x kept within FAR of 0: the nearest mark's, times 1 + r + r²/2 of what is left.

    Example:
        >>> exp(np.array([0.0, 1.0, -100.0])).round(4).tolist()
        [1.0, 2.7183, 0.0]
    """
    whole, parts = _exponentials()
    t = np.clip(x, -FAR, FAR) * FINE
    n = np.rint(t)
    r, n = (t - n) / FINE, n.astype(np.int64)
    return whole[n // FINE + FAR] * parts[n % FINE] * (1.0 + r * (1.0 + r / 2.0))


def logistic(x: np.ndarray) -> np.ndarray:
    """1 / (1 + e^-x), with `exp`."""
    e = exp(-np.abs(x))
    return np.where(x >= 0, 1.0, e) / (1.0 + e)


@functools.cache
def _logarithms() -> tuple[np.ndarray, float]:
    """log(1 + k / FINE) for k from 0 to FINE, and log 2."""
    with localcontext() as context:
        context.prec = 28
        marks = [float((1 + Decimal(k) / FINE).ln()) for k in range(FINE + 1)]
    return np.array(marks), marks[-1]


def log(x: np.ndarray) -> np.ndarray:
    """The natural logarithm of x, -inf where that is not above 0: the mark's below, and u - u²/2 + u³/3 of what is
    left, u below 1 / FINE.

    Example:
        >>> log(np.array([1.0, 2.0, 1e-9])).round(4).tolist()
        [0.0, 0.6931, -20.7233]
    """
    marks, two = _logarithms()
    m, e = np.frexp(x)  # x = m 2^e, m in [1/2, 1), which is exact
    m, e = 2.0 * m, e - 1
    k = np.maximum((m - 1.0) * FINE, 0.0).astype(np.int64)
    whole = 1.0 + k / FINE
    u = (m - whole) / whole
    return np.where(x > 0, e * two + marks[k] + u * (1.0 - u * (0.5 - u / 3.0)), -np.inf)


def softplus(x: np.ndarray) -> np.ndarray:
    """log(1 + e^x)."""
    return np.maximum(x, 0.0) + log(1.0 + exp(-np.abs(x)))


@functools.cache
def _sines() -> np.ndarray:
    """sin of k / TURN of a turn, for k from 0 to TURN."""
    with localcontext() as context:
        context.prec = 28
        quarter = [float(_sine(TWO_PI * k / TURN)) for k in range(TURN // 4 + 1)]
    half = quarter + quarter[-2::-1]
    return np.array(half + [-value for value in half[1:]])


def _sine(x: Decimal) -> Decimal:
    term, total, n = x, x, 1
    while abs(term) > Decimal("1e-26"):
        n += 2
        term = -term * x * x / (n * (n - 1))
        total += term
    return total


def sin(x: np.ndarray, turn: float = 0.0) -> np.ndarray:
    """sin(x + 2π turn), of the nearest mark a and what is left, r: sin a (1 - r²/2) + cos a (r - r³/6).

    Example:
        >>> sin(np.array([0.0, 1.0, -30.0])).round(4).tolist(), sin(np.array([1.0]), 0.25).round(4).tolist()
        ([0.0, 0.8415, 0.988], [0.5403])
    """
    marks = _sines()
    t = (x * (1.0 / float(TWO_PI)) + turn) * TURN
    n = np.rint(t)
    r, n = (t - n) * (float(TWO_PI) / TURN), n.astype(np.int64)
    square = r * r
    even, odd = 1.0 - square * (0.5 - square / 24.0), r * (1.0 - square / 6.0)
    return marks[n % TURN] * even + marks[(n + TURN // 4) % TURN] * odd


class Increasing:
    """A distribution function: straight lines between its values at equally distant marks, 0 before and 1 behind."""

    def __init__(self, values: np.ndarray, step: int):
        """values: [2 n + 1] at marks from -n / step to n / step."""
        self.values, self.step, self.ends = values, step, len(values) // 2

    def __call__(self, x: np.ndarray) -> np.ndarray:
        t = np.clip(x * self.step, -self.ends, self.ends) + self.ends
        below = np.minimum(t.astype(np.int64), 2 * self.ends - 1)
        low = self.values[below]
        return low + (t - below) * (self.values[below + 1] - low)

    def inverse(self, p: np.ndarray) -> np.ndarray:
        """Where the function is p, for p inside its values."""
        below = np.clip(np.searchsorted(self.values, p, side="right") - 1, 0, 2 * self.ends - 1)
        low = self.values[below]
        return ((below - self.ends) + (p - low) / (self.values[below + 1] - low)) / self.step


@functools.cache
def normal() -> Increasing:
    """That of N(0, 1), by Φ(x) = 1/2 + φ(x) Σ_n x^(2n + 1) / (1 · 3 ⋯ (2n + 1)).

    Example:
        >>> round(float(normal()(np.array(1.0))), 4), round(float(normal().inverse(np.array(0.975))), 3)
        (0.8413, 1.96)
    """
    with localcontext() as context:
        context.prec = 28
        above = [_upper_half(Decimal(k) / STEP) for k in range(TAIL * STEP + 1)]
        values = [*(Decimal("0.5") - p for p in reversed(above[1:])), *(Decimal("0.5") + p for p in above)]
    values[0], values[-1] = Decimal(0), Decimal(1)
    return Increasing(np.array([float(p) for p in values]), STEP)


def _upper_half(x: Decimal) -> Decimal:
    """Φ(x) - 1/2 for x >= 0."""
    square, term, total, n = x * x, x, x, 1
    while term > Decimal("1e-26"):
        n += 2
        term = term * square / n
        total += term
    return total * (-square / 2).exp() / TWO_PI.sqrt()


@functools.cache
def logistic_table() -> Increasing:
    """That of the logistic distribution, which unlike `logistic` itself is sure not to fall."""
    marks = np.arange(-40 * 64, 40 * 64 + 1) / 64
    values = logistic(marks)
    values[0], values[-1] = 0.0, 1.0
    return Increasing(values, 64)

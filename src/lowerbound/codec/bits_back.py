"""Models with latents: bits back with asymmetric numeral systems.

Townsend et al. (2019), Practical Lossless Compression with Latent Variables using Bits Back Coding,
https://arxiv.org/abs/1901.04866: pop z by q(z|x), push x by p(x|z), push z by p(z). What popping z took comes back when
the decoder pushes it, so that an image costs log q(z|x) - log p(x, z).

Of several levels every z_l is popped, the coarsest first, before x is pushed, since finer posteriors and priors are
given the coarser draws (Townsend et al. 2020, HiLLoC, https://arxiv.org/abs/1912.09953). Bit-Swap's order, which needs
fewer initial bits, is for posteriors that are a Markov chain from x upwards.
"""

import hashlib
import math

import numpy as np
from torch import Tensor
from torch.distributions import Distribution

from lowerbound.codec.channel import WORD, Message, Reading, Writing
from lowerbound.codec.latents import as_tensor, by_posterior, by_prior, values
from lowerbound.codec.scheme import Coded, Mismatch, Scheme, Settings
from lowerbound.codec.symbols import coded
from lowerbound.model import LatentModel, Model
from lowerbound.space import Space, Y

ROWS = 32  # images that a network is given at once
BLOCKS = (256, 2**16)  # fewest and most images of a block, unless they are said
TRIED = 4  # images by which a chain's pace is chosen
MOST = 48  # bits that popping one variable takes at most


class BitsBack(Scheme):
    """A chain of the images of a block: each one's latents are popped from what the earlier ones pushed.

    The first ones are popped from initial bits, which no image has paid for: a fixed sequence, of which a message holds
    as much as was needed. As the message grows, more images are popped at once, n / 2^pace after n.
    """

    model: LatentModel

    def __init__(self, model: Model, settings: Settings, *, filled: bool = True):
        super().__init__(model, settings, filled=filled)
        self._first: Distribution | None = None

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
        message = Message(start)
        lowest = message.height
        for group in self._groups(len(x)):
            part, given = x[group].astype(np.int64), self.given(None if y is None else y[group])
            n, seen = len(part), self.model.bottom_up(self.events(part), given)
            index, z, prior = (), (), ()
            for l, space in enumerate(self.model.latents):
                q, prior = self.model.posterior(l, seen, z, given), (*prior, self._prior(l, z, given))
                index = (*index, by_posterior(Reading(message), q, prior[l], space, n))
                z = (*z, self._value(prior[l], space, index[l]))
            lowest = min(lowest, message.height)
            joint = Writing()
            for l, space in enumerate(self.model.latents):
                by_prior(joint, prior[l], space, n, self.seen(n), index[l])
            coded(self.model.likelihood(z, given), joint, n, part.reshape(n, -1))
            message.push(joint.spans)
        return Coded(message.words[lowest:], WORD * (len(start) - lowest))

    def decode(self, words: np.ndarray, n: int, y: np.ndarray | None = None) -> np.ndarray:
        message, x = Message(words), np.empty((n, *self.model.space.shape), np.int64)
        for group in reversed(self._groups(n)):
            count, given = group.stop - group.start, self.given(None if y is None else y[group])
            index, z, prior = (), (), ()
            for l, space in enumerate(self.model.latents):
                prior = (*prior, self._prior(l, z, given))
                index = (*index, by_prior(Reading(message), prior[l], space, count, self.seen(count)))
                z = (*z, self._value(prior[l], space, index[l]))
            found = coded(self.model.likelihood(z, given), Reading(message), count)
            x[group] = found.reshape(x[group].shape)
            seen, posterior = self.model.bottom_up(self.events(x[group]), given), Writing()
            for l, space in enumerate(self.model.latents):
                q = self.model.posterior(l, seen, z[:l], given)
                by_posterior(posterior, q, prior[l], space, count, index[l])
            message.push(posterior.spans)
        left, start = message.words, self._initial()
        if len(left) > len(start) or not np.array_equal(left, start[len(start) - len(left) :]):
            raise Mismatch("its message does not end at the bits it began with")
        return x

    def _prior(self, l: int, z: tuple[Tensor, ...], given: Y) -> Distribution:
        """p(z_l | z_<l, y); the first, where nothing is given, is the same for all."""
        if l or given is not None:
            return self.model.prior_of(l, z, given)
        if self._first is None:
            self._first = self.model.prior_of(0, ())
        return self._first

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
        variables = self.settings.rows * sum(space.dims for space in self.model.latents)
        n = 4 + variables * MOST // WORD
        digest = hashlib.shake_128(b"lowerbound").digest(4 * n)
        return np.frombuffer(digest, "<u4").astype(np.uint32)[::-1].copy()

    def _value(self, p: Distribution, space: Space, index: np.ndarray) -> Tensor:
        """Latents by their symbols [n, D], filled up: [seen, *space.shape]."""
        return as_tensor(self.padded(values(p, space, index)), space, self.model.dtype, self.model.device)

"""Models with latents: bits back with asymmetric numeral systems.

Townsend et al. (2019), Practical Lossless Compression with Latent Variables using Bits Back Coding,
https://arxiv.org/abs/1901.04866: pop z by q(z|x), push x by p(x|z), push z by p(z). What popping z took comes back when
the decoder pushes it, so that an image costs log q(z|x) - log p(x, z).

Of several levels every z_l is popped, the coarsest first, before x is pushed, since finer posteriors and priors are
given the coarser draws (Townsend et al. 2020, HiLLoC, https://arxiv.org/abs/1912.09953). Bit-Swap's order, which needs
fewer initial bits, is for posteriors that are a Markov chain from x upwards.

A real z is one of 2^14 bins that are alike under its prior given the coarser levels (HiLLoC's dynamic discretization),
and stands in the middle of its bin.
"""

import hashlib
import math

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from lowerbound.codec.channel import WORD, Channel, Message, Reading, Writing
from lowerbound.codec.scheme import Coded, Mismatch, Scheme, Settings
from lowerbound.codec.symbols import BINS, coded, coded_in_bins, in_bin
from lowerbound.errors import ModelError
from lowerbound.model import LatentModel, Model
from lowerbound.space import Space

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

    @classmethod
    def settings_for(cls, model: Model, x: np.ndarray, n: int, block: int | None) -> Settings:
        rows = min(n, block or ROWS, ROWS, model.rows)
        tried = x[:TRIED]
        coded = cls(model, Settings(rows, n, 16), filled=False).encode(tried)
        net = max(1.0, (WORD * len(coded.words) - coded.initial) / len(tried))
        ratio = coded.initial / net  # initial bits, by those of an image
        if block is None:
            block = min(max(BLOCKS[0], 2 ** math.ceil(math.log2(100 * ratio + 1))), BLOCKS[1])
        return Settings(rows, min(n, block), min(16, math.ceil(math.log2(ratio + 1)) + 1))

    def encode(self, x: np.ndarray) -> Coded:
        start = self._initial()
        message = Message(start)
        lowest = message.height
        for group in self._groups(len(x)):
            part = x[group].astype(np.int64)
            seen = self._seen(part)
            index, z = (), ()
            for l, space in enumerate(self.model.latents):
                q, p = self.model.posterior(l, seen, z), self.model.prior_of(l, z)
                index = (*index, _of_posterior(Reading(message), q, p, space, len(part)))
                z = (*z, self._value(p, space, index[l]))
            lowest = min(lowest, message.height)
            joint = Writing()
            for l, space in enumerate(self.model.latents):
                _of_prior(joint, self.model.prior_of(l, z[:l]), space, len(part), index[l])
            coded(self.model.likelihood(z), joint, len(part), part.reshape(len(part), -1))
            message.push(joint.spans)
        return Coded(message.words[lowest:], WORD * (len(start) - lowest))

    def decode(self, words: np.ndarray, n: int) -> np.ndarray:
        message, x = Message(words), np.empty((n, *self.model.space.shape), np.int64)
        for group in reversed(self._groups(n)):
            count = group.stop - group.start
            index, z, prior = (), (), ()
            for l, space in enumerate(self.model.latents):
                prior = (*prior, self.model.prior_of(l, z))
                index = (*index, _of_prior(Reading(message), prior[l], space, count))
                z = (*z, self._value(prior[l], space, index[l]))
            found = coded(self.model.likelihood(z), Reading(message), count)
            x[group] = found.reshape(x[group].shape)
            seen, posterior = self._seen(x[group]), Writing()
            for l, space in enumerate(self.model.latents):
                _of_posterior(posterior, self.model.posterior(l, seen, z[:l]), prior[l], space, count, index[l])
            message.push(posterior.spans)
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
        variables = self.settings.rows * sum(space.dims for space in self.model.latents)
        n = 4 + variables * MOST // WORD
        digest = hashlib.shake_128(b"lowerbound").digest(4 * n)
        return np.frombuffer(digest, "<u4").astype(np.uint32)[::-1].copy()

    def _seen(self, x: np.ndarray) -> Tensor:
        """What posteriors see of events, filled up."""
        events = torch.from_numpy(self.padded(x)).to(self.model.space.dtype)
        return self.model.bottom_up(events.to(self.model.device))

    def _value(self, p: Distribution, space: Space, index: np.ndarray) -> Tensor:
        """Latents by their symbols [n, D], filled up: [seen, *space.shape]."""
        n = len(index)
        if space.levels is None:
            mean, scale = _moments(p, n)
            values = torch.from_numpy(self.padded(mean + scale * in_bin(index))).to(self.model.dtype)
        else:
            values = torch.from_numpy(self.padded(index)).to(space.dtype)
        return values.view(-1, *space.shape).to(self.model.device)


def _of_posterior(
    channel: Channel, q: Distribution, p: Distribution, space: Space, n: int, known: np.ndarray | None = None
) -> np.ndarray:
    """The symbols of a level's latents by q(z_l|z_<l, x), whose bins are those of the prior p: [n, D]."""
    if space.levels is not None:
        return coded(q, channel, n, known)
    (mean, scale), (m, s) = _moments(q, n), _moments(p, n)
    found = coded_in_bins(((mean - m) / s).ravel(), (scale / s).ravel(), channel, _raveled(known))
    return found.reshape(n, -1)


def _of_prior(channel: Channel, p: Distribution, space: Space, n: int, known: np.ndarray | None = None) -> np.ndarray:
    """The same by p(z_l|z_<l)."""
    if space.levels is not None:
        return coded(p, channel, n, known)
    return channel.even(n * space.dims, BINS, _raveled(known)).reshape(n, -1)


def _raveled(known: np.ndarray | None) -> np.ndarray | None:
    return None if known is None else known.ravel()


def _moments(d: Distribution, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of independent normals, float64 [n, D]. Raises ModelError for another."""
    base = d.base_dist if is_normal(d) else None  # pyright: ignore[reportAttributeAccessIssue]
    if base is None:
        raise ModelError(f"latents of a {type(d).__name__} can't be coded")
    D = math.prod(d.event_shape)
    loc, scale = (
        np.broadcast_to(part.reshape(-1, D)[:n].double().cpu().numpy(), (n, D)) for part in (base.loc, base.scale)
    )
    return loc, scale


def is_normal(d: Distribution) -> bool:
    """Whether it is of independent normals."""
    return isinstance(d, Independent) and isinstance(d.base_dist, Normal)

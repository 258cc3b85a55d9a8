"""Models with latents: bits back with asymmetric numeral systems.

Townsend et al. (2019), Practical Lossless Compression with Latent Variables using Bits Back Coding,
https://arxiv.org/abs/1901.04866: pop z by q(z|x), push x by p(x|z), push z by p(z). What popping z took comes back when
the decoder pushes it, so that an image costs log q(z|x) - log p(x, z).

Of several levels every z_l is popped, the coarsest first, before x is pushed, since finer posteriors and priors are
given the coarser draws (Townsend et al. 2020, HiLLoC, https://arxiv.org/abs/1912.09953). `bit_swap` has the order for
posteriors that are a Markov chain from x upwards.
"""

import numpy as np
from torch import Tensor
from torch.distributions import Distribution

from lowerbound.codec.chain import Chain, Low
from lowerbound.codec.channel import Message, Reading, Writing
from lowerbound.codec.latents import as_tensor, by_posterior, by_prior, values
from lowerbound.codec.scheme import Settings
from lowerbound.codec.symbols import coded
from lowerbound.model import Descent, Model
from lowerbound.space import Space, Y


class BitsBack(Chain):
    """All levels of an image at once."""

    def __init__(self, model: Model, settings: Settings, *, filled: bool = True):
        super().__init__(model, settings, filled=filled)
        self._first: Distribution | None = None

    @property
    def variables(self) -> int:
        return sum(space.dims for space in self.model.latents)

    def push(self, low: Low, x: np.ndarray, given: Y) -> None:
        n, joint = len(x), Writing()
        descent = self.model.descent(self.model.bottom_up(self.events(x), given), given)
        for l, space in enumerate(self.model.latents):
            prior = self._prior(l, descent, given)
            index = by_posterior(Reading(low.message), descent.posterior(), prior, space, n)
            by_prior(joint, prior, space, n, self.seen(n), index)
            descent.take(self._value(prior, space, index))
        low.seen()
        coded(descent.likelihood(), joint, n, x.reshape(n, -1))
        low.message.push(joint.spans)

    def pop(self, message: Message, n: int, given: Y) -> np.ndarray:
        prior, index, z = (), (), ()
        descent = self.model.descent(None, given)
        for l, space in enumerate(self.model.latents):
            prior = (*prior, self._prior(l, descent, given))
            index = (*index, by_prior(Reading(message), prior[l], space, n, self.seen(n)))
            z = (*z, self._value(prior[l], space, index[l]))
            descent.take(z[l])
        x = coded(descent.likelihood(), Reading(message), n)
        seen = self.model.bottom_up(self.events(x.reshape(n, *self.model.space.shape)), given)
        descent, popped = self.model.descent(seen, given), Writing()
        for l, space in enumerate(self.model.latents):
            by_posterior(popped, descent.posterior(), prior[l], space, n, index[l])
            descent.take(z[l])
        message.push(popped.spans)
        return x

    def _prior(self, l: int, descent: Descent, given: Y) -> Distribution:
        """p(z_l | z_<l, y); the first, where nothing is given, is the same for all."""
        if l or given is not None:
            return descent.prior()
        if self._first is None:
            self._first = descent.prior()
        return self._first

    def _value(self, p: Distribution, space: Space, index: np.ndarray) -> Tensor:
        """Latents by their symbols [n, D], filled up: [seen, *space.shape]."""
        return as_tensor(self.padded(values(p, space, index)), space, self.model.dtype, self.model.device)

"""What only some models answer, so that whoever asks need not know their classes."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple, Self

import torch
from torch import Tensor
from torch.distributions import Distribution

from lowerbound.devices import at_least_float32
from lowerbound.directions import Direction, shifted
from lowerbound.errors import ModelError
from lowerbound.model.base import BoundModel, ExactModel, Model, WithoutDensity
from lowerbound.model.draws import PLAIN, Draw
from lowerbound.model.latent import LatentModel
from lowerbound.progress import Told, told_nobody
from lowerbound.space import Density, Y, as_tensor


class Chained(Model):
    """A model that is drawn from by a Markov chain of events."""

    @property
    def walks(self) -> bool:
        return True

    @abstractmethod
    def chain(self, n: int, length: int, y: Y = None, how: Draw = PLAIN) -> Tensor:
        """As many states, one after another, of each of n chains, from that on which `draw` would give; or the means
        that they were drawn around: [n, length, *space.shape]. Raises ModelError for no states, and as `draw` does."""


class Filled(NamedTuple):
    """Events of which some positions have been drawn."""

    place: tuple[int, int]  # that was passed last
    x: Tensor  # [B, *space.shape]; the next is written to the same memory


# p of the values at a position, which of these, the place (i, j) -> them, [n, as many]
Chosen = Callable[[Distribution, slice, tuple[int, int]], Tensor]


class Ordered(ExactModel):
    """A model of one value after another, each given the earlier ones."""

    def conditionals(self, x: Tensor, y: Y = None) -> Distribution:
        """p(x_i | x_<i, y) of all positions i of events x [B, ...], as one distribution over events.

        Raises ModelError for what are no events.
        """
        return self._conditionals(*self.taken(x, y))

    @abstractmethod
    def _conditionals(self, x: Tensor, y: Y) -> Distribution:
        """What `conditionals` gives, of a batch of the package's own."""

    @property
    @abstractmethod
    def order(self) -> list[tuple[int, int]]:
        """The positions (i, j) of an event in the order in which they are drawn; a vector is a row."""

    @abstractmethod
    def log_probs(self, x: Tensor, y: Y = None) -> Tensor:
        """log p(x_i | x_<i, y) of every position i, in nats: [B, H, W]. They add up to `log_prob`."""

    @abstractmethod
    def value_probs(self, x: Tensor, place: tuple[int, int], y: Y = None) -> Tensor:
        """P(x_ic = k | x_<i, y) of the values k of a position i, for each channel c: [B, C, K]. Given, too, are its
        earlier channels, or all others where the likelihood draws them together."""

    @abstractmethod
    def filling(self, x: Tensor, drawn: Tensor, y: Y = None, how: Draw = PLAIN) -> Iterator[Filled]:
        """Events like x [B, *space.shape] whose positions at `drawn`, bool [H, W], are drawn in order: as they are when
        each position is passed, up to the last that is drawn.

        A position is drawn given those before it. One that stays has no say in what is drawn before it, which is then
        none of p(drawn | rest): unless what stays comes first, weigh the draws by the `log_probs` of what comes later.
        Raises ModelError for another mask, for events that are not of the space, and as `draw` does.
        """

    @abstractmethod
    def spell(self, n: int, chosen: Chosen, y: Y = None) -> Tensor:
        """n events, whose values are chosen in order: [n, *space.shape]. `chosen` is given p(x_i | x_<i, y) of all
        values of a position, one for each event, and which of them it is to choose: a channel, or all where the
        likelihood draws them together. Choosing the values of an event, it is given the probabilities that they have,
        to the last bit those that it is given when it chooses them again in a batch of as many.
        """

    def _log_prob(self, x: Tensor, y: Y = None) -> Tensor:
        return self._conditionals(x, y).log_prob(x)


class Classifying(WithoutDensity):
    """A model p(y|x) of the label that it is given while it is trained: no density of x, no samples."""

    class Config(Model.Config, abstract=True):
        @classmethod
        @abstractmethod
        def of(cls, model: Model) -> "Classifying.Config":
            """That of the classifier with a model's encoder. Raises ModelError where it has none."""

    @property
    def classes(self) -> int:
        """How many labels there are."""
        return self.given[0].levels or 0

    @property
    def predicts(self) -> str:
        return "label"

    @abstractmethod
    def logits(self, x: Tensor) -> Tensor:
        """log p(y|x) up to a constant: [B, classes]."""

    @abstractmethod
    def code(self, x: Tensor) -> Tensor:
        """What its last layer, which is linear, is given: [B, D]."""

    @abstractmethod
    def begin_at(self, model: LatentModel, weight: Tensor, bias: Tensor) -> None:
        """Take the encoder of a model that `Config.of` was given, and the last layer W [classes, D], b [classes]."""


class Adversarial(WithoutDensity):
    """A generator of samples that is trained against a discriminator."""

    @property
    @abstractmethod
    def judges(self) -> bool:
        """Whether `realness` above 0 says that an event is real; else only differences of it say anything."""

    @abstractmethod
    def realness(self, x: Tensor, y: Y = None) -> Tensor:
        """What the discriminator says of events x, larger where they look real: [B]."""


class Generating(Model):
    """A model whose events are a function of noise, and which does not find the noise of an event."""

    @property
    @abstractmethod
    def base(self) -> Distribution:
        """p(z), of one event's noise: no batch dimensions, event shape [latent]."""

    @abstractmethod
    def generated(self, z: Tensor, y: Y = None) -> Tensor:
        """The event that each z [..., B, latent] is made into, in pixel values, not rounded: [..., B, *space.shape]."""


class Refittable(LatentModel):
    """A model whose prior can be fitted anew to its codes once it is trained, where `why_no_fitted_prior` is empty."""

    own_prior: Model  # that it was trained with

    class Config(Model.Config, abstract=True):
        @abstractmethod
        def with_prior(self, prior: Model.Config | None) -> Self:
            """The same with a prior that is fitted after training, in place of a former one; None: without."""

    @property
    @abstractmethod
    def prior(self) -> Model:
        """p(z) of every number and sample: the fitted one, where there is one."""

    @property
    def denoises(self) -> bool:
        return self.prior.denoises


class Viewing(LatentModel):
    """A model of what a camera sees of a scene, given others of it with theirs, as `data.views.Views` gives them."""

    @property
    @abstractmethod
    def context_views(self) -> int:
        """How many others it is given at most."""

    @abstractmethod
    def predicted(self, y: Y, draws: int = 1) -> Tensor:
        """The mean of x given y, in pixel values, over so many draws of the latents from their prior: [B, C, H, W].

        Every draw of noise is [draws, B, ...].
        """


class CodeModel(LatentModel):
    """A model whose every latent is a grid of codes, whole numbers, which are a function of x; `levels` names them."""

    @property
    @abstractmethod
    def learned(self) -> tuple[bool, ...]:
        """Of each level, whether its prior is a trained one, rather than uniform."""

    @abstractmethod
    def codes(self, x: Tensor) -> tuple[Tensor, ...]:
        """The codes of events x, the coarsest level first: int64 [B, h, w] each."""

    @abstractmethod
    def log_p_codes(self, codes: tuple[Tensor, ...], y: Y = None) -> Tensor:
        """log P(z_l | z_<l, y) of each level, in nats: [L, B]; -n log K where its prior is not trained.

        codes: of all levels, or of the coarsest alone.
        """

    @abstractmethod
    def redrawn(self, codes: tuple[Tensor, ...], drawn: tuple[Tensor, ...], y: Y = None) -> tuple[Tensor, ...]:
        """Codes of all levels, [B, h, w] each, in which those at `drawn`, [h, w] each, are drawn from the prior given
        all others, nearly. Raises ModelError where a prior can't, or is not trained."""


class BoundParts(NamedTuple):
    """The three terms that minus the bound of a diffusion model is the sum of, in nats: [K, B] each, for K draws."""

    prior: Tensor  # KL(q(z_1|x) || p(z_1))
    reconstruction: Tensor  # -log p(x|z_0)
    diffusion: Tensor  # of all steps between them

    @property
    def bound(self) -> Tensor:
        return -(self.prior + self.reconstruction + self.diffusion)


class Stepwise(BoundModel):
    """A model that takes noise of any kind away step by step. A draw of its bound is one time for each event, so draws
    are averaged, never weighted."""

    @property
    def density(self) -> Density:
        return Density.BOUND

    @property
    def unbiased(self) -> bool:
        return False

    @property
    def denoises(self) -> bool:
        return True

    def elbo(self, x: Tensor, y: Y = None) -> Tensor:
        return self.bound_parts(x, y).bound[0]

    @abstractmethod
    def bound_parts(self, x: Tensor, y: Y = None, draws: int = 1) -> BoundParts:
        """The terms of the bound, for this many draws of the noise and of a time. Raises ModelError for no events."""


class Invertible(Model):
    """Events and the noise of N(0, I), as many numbers, are made of one another: the noise is the code of an event."""

    directions: Mapping[str, Direction] = MappingProxyType({})  # the named ones of the run it was loaded from

    @torch.no_grad()
    def to_noise(self, x: Tensor, y: Y = None) -> Tensor:
        """The noise that events are made of: [B, *space.shape]. Raises ModelError for what are no events."""
        return self._noise_of(*self.taken(x, y))

    @torch.no_grad()
    def from_noise(self, z: Tensor, y: Y = None) -> Tensor:
        """The events that are made of noise [B, *space.shape], in pixel values: float, not rounded."""
        z = as_tensor(z, "noise").to(self.device, at_least_float32(self.dtype))
        if tuple(z.shape[1:]) != self.space.shape:
            raise ModelError(f"from_noise: expected noise of {['B', *self.space.shape]}, got {list(z.shape)}")
        return self._made_of(z, self.taken_conditions(len(z), y))

    @abstractmethod
    def _noise_of(self, x: Tensor, y: Y) -> Tensor:
        """What `to_noise` gives, of a batch of the package's own."""

    @abstractmethod
    def _made_of(self, z: Tensor, y: Y) -> Tensor:
        """What `from_noise` gives, of the package's own noise."""

    @torch.no_grad()
    def edit(self, x: Tensor, strengths: Mapping[str, float], y: Y = None) -> Tensor:
        """Events [B, *space.shape] moved along named directions of the run, as `LatentModel.edit` does.

        Raises ModelError for an unknown direction.
        """
        x, y = self.taken(x, y)
        z = shifted(self.to_noise(x, y).flatten(1), strengths, self.directions)
        edited = self.from_noise(z.view_as(x), y)
        return edited if self.space.levels is None else edited.round().to(self.space.dtype)


class Extent(NamedTuple):
    """How the numbers of a level of latents lie."""

    narrowest: float  # the smallest standard deviation that any is drawn with
    farthest: float  # what next to none exceeds


class Markov(LatentModel):
    """A model whose latents are a Markov chain, up and down, of independent normals.

    q(z|x, y) = q(z_L|x, y) Π q(z_l|z_{l+1}, y) and p(z|y) = p(z_1|y) Π p(z_{l+1}|z_l, y), and p(x|z, y) is that of the
    finest level, z_L; so that `prior_of` and `likelihood` look at the last of what they are given.
    """

    @abstractmethod
    def ascent(self, l: int, finer: Tensor, y: Y = None) -> Distribution:
        """q(z_l|z_{l+1}, y) by the finer level, [B, *latent]; of the finest q(z_L|x, y), by what `bottom_up` gives."""

    @abstractmethod
    def extent(self, l: int) -> Extent:
        """Of level l, over all x and y."""


class Moment(NamedTuple):
    """Events on their way out of noise, at one time."""

    t: float  # from 1, all noise, to 0
    gamma: float  # minus the logarithm of the signal-to-noise ratio
    z: Tensor  # [B, *space.shape], on the scale that noise is put on
    x: Tensor  # in values of events: what is seen in z, not rounded; at the last time, the events that `draw` gives


class Diffusing(Stepwise, Invertible):
    """Noise that is normal, and can be followed back along a flow: the code is where that takes events."""

    @abstractmethod
    def hierarchy(self, steps: int | None = None) -> LatentModel:
        """The hierarchical VAE that it is, over the same weights.

        steps: of a model in continuous time, which is one for each number of them. Raises ModelError where that isn't
        said, or where the model has its own number.
        """

    @abstractmethod
    def gammas(self, steps: int | None = None) -> Tensor:
        """γ of the times at which noise is taken away, from 1 to 0: float64 [steps + 1]; None: as many as it has."""

    @abstractmethod
    def finer(self, z: Tensor, t: Tensor, s: Tensor, y: Y = None) -> tuple[Tensor, Tensor | None]:
        """The mean of z_s by the model's sampler, given z_t [B, *space.shape] and the γ of both times, scalars; and its
        standard deviation, a scalar, or None where it has none."""

    @abstractmethod
    def likelihood(self, z: Tensor) -> Distribution:
        """p(x|z_0) of z_0 [..., *space.shape]."""

    @abstractmethod
    def in_values(self, z: Tensor) -> Tensor:
        """What is on the scale that noise is put on, such as z itself, in values of events: float, not rounded, and it
        may lie beyond their range."""

    @abstractmethod
    def drawing(self, n: int, y: Y = None, how: Draw = PLAIN) -> Iterator[Moment]:
        """n events as `draw` draws them, time by time: the last moment has what it gives, if all is asked for in one
        `seeded`, or a `noise.stream`. Raises ModelError as it does."""

    @abstractmethod
    def redoing(self, x: Tensor, y: Y = None, strength: float = 0.5, how: Draw = PLAIN) -> Iterator[Moment]:
        """Events as `redone` makes them, time by time. Raises ModelError as it does."""

    @abstractmethod
    def redone(
        self, x: Tensor, y: Y = None, strength: float = 0.5, how: Draw = PLAIN, told: Told = told_nobody
    ) -> Tensor:
        """Events x with the noise of a time put on them, 0 to 1, and taken away again: others, near them where the time
        is small (Meng et al. 2022, SDEdit, https://arxiv.org/abs/2108.01073). Raises ModelError for another time."""

"""What every model answers: a loss to train it, samples, and log p(x) with what that number is worth."""

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from itertools import chain
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lowerbound.config import Component
from lowerbound.devices import at_least_float32, rounding
from lowerbound.distributions import check_truncation
from lowerbound.errors import ModelError, did_you_mean
from lowerbound.model.draws import PLAIN, ByLevel, Draw, Drawn
from lowerbound.progress import Told, told_nobody
from lowerbound.space import Density, Estimate, Space, Y, check_draw, check_number_of, taken_conditions, taken_events
from lowerbound.stages import Loss, Stage, Turn

AUTOREGRESSIVE = "an autoregressive model, such as pixelcnn-mnist,"  # what can do more with its values


class Model(nn.Module):
    """A model of events in `space`, perhaps given a condition y.

    Events are uint8 [B, C, H, W] with values in [0, levels), int64 codes, or real numbers. A log-probability is in
    nats per event, shape [B], with the sign of log p. A subclass is final and has a nested `Config` whose `build`
    makes it.

    What is given to a public method is checked (`taken`), and a batch of the package's own goes to the method of the
    same name with an underscore, which a subclass has: training and measuring pay nothing for the check.
    """

    class Config(Component, abstract=True, rooms=("models", "priors")):
        @abstractmethod
        def build(self, space: Space, given: tuple[Space, ...] = ()) -> "Model": ...

        @classmethod
        @abstractmethod
        def example(cls) -> tuple["Model.Config", Space, tuple[Space, ...]]:
            """The smallest valid instance: configuration, space, condition. The batteries run over it."""

        def as_trained(self) -> "Model.Config":
            """The configuration without a prior that was fitted after training; itself where there is none."""
            return self

        def of_stage(self, stage: str) -> tuple[str, ...]:
            """The beginnings of the keys that say what one of its stages alone trains: such as priors.0."""
            return ()

        offered_as: ClassVar[str | None] = None  # what `fit-prior` calls it, if it can be fitted to codes
        offered_to: ClassVar[tuple[int, ...]] = (1,)  # how many axes such codes have: 1, vectors; 3, maps
        one_for_all: ClassVar[bool] = False  # whether it is the same whatever is given

        @classmethod
        def choices(cls, space: Space) -> "tuple[Model.Config, ...]":
            """Those for codes of a space of which held-out ones choose, where the user does not."""
            return (cls(),)

        def learns_labels(self) -> bool:
            """Whether it can be trained on images of which few have the label that it is given, others UNKNOWN."""
            return False

        def views_given(self) -> int:
            """At most how many other views of a scene, with their cameras, it is given beside the camera of its own; 0
            where it is not given any."""
            return 0

        def binary(self) -> bool:
            """Whether the model is one of binary values, so that grey images are binarized for it."""
            return False

    def __init__(self, config: "Model.Config", space: Space, given: tuple[Space, ...] = ()):
        super().__init__()
        self.config: Any = config
        self.space = space
        self.given = given

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next((w.device for w in chain(self.parameters(), self.buffers())), torch.device("cpu"))

    @property
    def dtype(self) -> torch.dtype:
        """The type of its weights, in which it computes; torch's default where it has none."""
        floating = (w.dtype for w in chain(self.parameters(), self.buffers()) if w.is_floating_point())
        return next(floating, torch.get_default_dtype())

    def seen(self, x: Tensor) -> Tensor:
        """Events as its networks see them: float [B, *feature_shape]."""
        return self.space.features(x).to(self.dtype)

    def taken(self, x: Any, y: Any = None) -> tuple[Tensor, Y]:
        """Events and their condition as a caller gives them, numpy's too, as tensors: the door of all public methods.

        They are put where the weights are, real events in the type that log-probabilities are computed in. Raises
        ModelError for what is no batch of events of the space, or no condition of each.
        """
        x = self.taken_events(x)
        return x, self.taken_conditions(len(x), y)

    def taken_events(self, x: Any) -> Tensor:
        return self._placed(taken_events(x, self.space))

    def _placed(self, t: Tensor) -> Tensor:
        """Where the weights are; real numbers in the type that log-probabilities are computed in."""
        return t.to(self.device, at_least_float32(self.dtype)) if t.is_floating_point() else t.to(self.device)

    def taken_conditions(self, n: int, y: Any) -> Y:
        y = taken_conditions(n, y, self.given)
        return y if y is None else self._placed(y) if isinstance(y, Tensor) else tuple(map(self._placed, y))

    @torch.no_grad()
    def predicted_condition(self, x: Tensor) -> Tensor | None:
        """What the model would be given of events [B, ...] that come without, [B, ...]; None where it learns no such
        thing."""
        return self._predicted_condition(self.taken_events(x))

    def _predicted_condition(self, x: Tensor) -> Tensor | None:
        return None

    @property
    @abstractmethod
    def density(self) -> Density:
        """What `log_density` is worth: the worst of the parts."""

    @property
    @abstractmethod
    def unbiased(self) -> bool:
        """Whether E exp(log_density(x)) <= p(x), so that draws may be importance-weighted."""

    @property
    def noisy(self) -> bool:
        """Whether `log_weights` is another number in every draw, so that several say more than one."""
        return self.density is Density.BOUND

    @property
    def estimate(self) -> Estimate | None:
        """Of the constant that log p(x) of every event holds; None where there is none, or it is known."""
        return None

    @property
    def can_sample(self) -> bool:
        """Whether there is a density to draw from; where there is none, `sample` says why."""
        return True

    @property
    def levels(self) -> tuple[str, ...]:
        """The names of the levels of latents that are drawn one after another, the coarsest first; () for others."""
        return ()

    @property
    def predicts(self) -> str:
        """What `probabilities` tells apart: the labels that it was shown, "label", or clusters that it found itself,
        "cluster"; "": nothing."""
        return ""

    @property
    def clusters(self) -> int:
        """How many clusters there are, each of which can be drawn from alone; 0 where it is no mixture."""
        return 0

    @property
    def remarks(self) -> tuple[str, ...]:
        """What whoever trains it should know, a line each."""
        return ()

    @property
    def has_means(self) -> bool:
        """Whether events are drawn from a p(x|z), whose means can be shown instead."""
        return False

    @property
    def truncates(self) -> bool:
        """Whether values are drawn from a probability of each, which can be truncated."""
        return False

    @property
    def denoises(self) -> bool:
        """Whether events, or its latents, are drawn by taking noise away step by step."""
        return False

    @property
    def walks(self) -> bool:
        """Whether events are drawn by a Markov chain, whose number of steps can be said."""
        return False

    @property
    def filters(self) -> Tensor | None:
        """The weights between events and each of its units, to be shown as pictures: [units, *space.shape]; None where
        it has none."""
        return None

    @property
    def passes(self) -> int:
        """How many passes over a whole event drawing it takes that remembers nothing; 0 where it isn't so drawn."""
        return 0

    @property
    def cost(self) -> int:
        """How many products drawing an event takes in what is drawn position by position; 0 where one pass does."""
        return 0

    @property
    def footprint(self) -> int:
        """How many numbers a pass holds for an event, roughly: those of its largest layer, if that is larger than x."""
        return max(1, self.space.dims)

    @abstractmethod
    def _loss(self, x: Tensor, y: Y = None, step: int = 0) -> Loss:
        """What `loss` gives, of a batch that training has made."""

    @abstractmethod
    def _draw(self, n: int, y: Y, how: Draw, told: Told) -> Drawn:
        """n events, once it has been checked that they can be drawn."""

    @abstractmethod
    def _log_weights(self, x: Tensor, y: Y = None, draws: int = 1) -> Tensor:
        """What `log_weights` gives, of a batch of the package's own."""

    def after_step(self) -> None:
        """Called once after every optimizer step: moving-average codebooks and the like."""

    @property
    def kept_whole(self) -> tuple[nn.Module, ...]:
        """Parts that stay whole where processes share weights out (train.shard): what `after_step` looks at."""
        return ()

    def stages(self) -> tuple[Stage, ...]:
        """How it is trained: by gradient steps, unless a model says otherwise (see `Stage.fit`, `Stage.begin`)."""
        return (Stage("model", (Turn((self,), self._loss),)),)

    def loss(self, x: Tensor, y: Y = None, step: int = 0) -> Loss:
        """The loss of a batch in training. Raises ModelError for what is no such batch."""
        return self._loss(*self.taken(x, y), step)

    # ---- drawing

    def sample(
        self,
        n: int,
        y: Y = None,
        temperature: ByLevel[float] = 1.0,
        *,
        top_k: ByLevel[int] | None = None,
        top_p: ByLevel[float] | None = None,
    ) -> Tensor:
        """n events of `space`, drawn from the model: [n, *space.shape]. `draw` says more of them."""
        return self.draw(n, y, Draw(temperature, top_k, top_p)).x

    @torch.no_grad()
    def draw(self, n: int, y: Y = None, how: Draw = PLAIN, told: Told = told_nobody) -> Drawn:
        """n events drawn from the model, and the latents they were drawn with.

        told: told now and then how many of all values are drawn, where it takes long.

        Raises ModelError for conditions that don't fit, for numbers out of range, and for what the model doesn't have.
        """
        self.check_how(how)
        return self._draw(n, self._checked_draw(n, y, how), how, told)

    def sample_naively(self, n: int, y: Y = None, temperature: float = 1.0, *, positions: int | None = None) -> Tensor:
        """The same by a pass over the whole event for every position: what remembering is measured against.

        positions: stop after so many; the rest is zero. Raises ModelError where `passes` is 0.
        """
        raise ModelError(f"{type(self).__name__} is not drawn position by position")

    def at_once(self) -> int:
        """How many events are drawn at once, in bounded memory."""
        return self.rows

    @property
    def rows(self) -> int:
        """How many events a pass is given at once: enough to keep all cores busy, few enough for bounded memory."""
        return max(1, min(8192, 2**22 // self.footprint))

    def check_how(self, how: Draw, kept: Sequence[str] = ()) -> None:
        """Raise ModelError for an option that the model does not have. kept: the levels that are not drawn."""
        for name in ("temperature", "top_k", "top_p"):
            option, value = f"--{name.replace('_', '-')}", getattr(how, name)
            if isinstance(value, Mapping):
                self._check_levels(option, value, kept)
            elif name != "temperature" and value is not None and not self.truncates:
                raise ModelError(
                    f"{option}: {type(self).__name__} does not draw values from a probability of each; "
                    f"{AUTOREGRESSIVE} does"
                )
        if how.cluster is not None and how.cluster not in range(self.clusters):
            raise ModelError(
                f"--label {how.cluster}: expected the number of a cluster, 0 to {self.clusters - 1}"
                if self.clusters
                else f"--label {how.cluster}: {type(self).__name__} as configured is no mixture of clusters"
            )
        for name in ("sampler", "steps", "guidance"):
            if getattr(how, name) is not None and not (self.denoises or (name == "steps" and self.walks)):
                raise ModelError(
                    f"--{name}: {type(self).__name__} does not take noise away step by step; a diffusion model does, "
                    "such as diffusion-digits"
                )
        if how.mean and not self.has_means:
            raise ModelError(f"--mean: {type(self).__name__} has no mean of p(x|z) to show")

    def _check_levels(self, option: str, numbers: Mapping[str, float], kept: Sequence[str]) -> None:
        for name, value in numbers.items():
            if not self.levels:
                raise ModelError(f"{option} {name}={value:g}: {type(self).__name__} has no levels, expected one number")
            if name not in self.levels:
                raise ModelError(f"{option} {name}={value:g}: no level {name!r}{did_you_mean(name, self.levels)}")
            if name in kept:
                raise ModelError(f"{option} {name}={value:g}: the codes of {name} are kept, not drawn")

    def _checked_draw(self, n: int, y: Any, how: Draw) -> Y:
        """The condition of n events as tensors. Raises ModelError where they can't be drawn so."""
        check_number_of(n, "n")
        y = self.taken_conditions(n, y)
        for level in self.levels or ("",):
            tempering = how.at(level)
            check_draw(n, y, self.given, tempering.temperature)
            check_truncation(tempering.top_k, tempering.top_p)
        return y

    # ---- what it predicts

    @torch.no_grad()
    def probabilities(self, x: Tensor) -> Tensor:
        """p(c|x) of every label or cluster c: [B, C]. Raises ModelError where it predicts none, and for no events."""
        if not self.predicts:
            raise ModelError(f"{type(self).__name__}: {self.why_no_labels()}")
        return self._predicted(self.taken_events(x)).softmax(1)

    def _predicted(self, x: Tensor) -> Tensor:
        """log p(c|x) up to a constant, of a batch of the package's own, where the model predicts anything: [B, C]."""
        raise NotImplementedError

    def why_no_labels(self) -> str:
        return "as configured, it tells no labels or clusters apart"

    def complete(self, x: Tensor, kept: Tensor, y: Y = None, how: Draw = PLAIN, told: Told = told_nobody) -> Drawn:
        """Events like x [n, *space.shape] where `kept` (bool [H, W]) is true, and drawn given that elsewhere.

        Raises ModelError for a model that can't, for what it can't keep, and as `draw` does.
        """
        raise ModelError(self._cannot_complete())

    def keeps(self, kept: Tensor) -> dict[str, Tensor]:
        """What stays when `kept` [H, W] does: of the pixels, or of each level of codes, bool [h, w] by name.

        Raises ModelError for a model that can't complete events, and for what it can't keep.
        """
        raise ModelError(self._cannot_complete())

    def _kept_pixels(self, kept: Tensor) -> dict[str, Tensor]:
        """`keeps` of a model of which any pixels can stay. Raises ModelError for a mask of another size."""
        size = (1, *self.space.shape)[-2:]
        if tuple(kept.shape) != size:
            raise ModelError(f"the mask is of {list(kept.shape)}, expected the size of the images, {list(size)}")
        return {"pixels": kept}

    def _stays(self, kept: Tensor) -> Tensor:
        """Of every element of an event, whether it stays when `kept` [H, W] does: bool [*space.shape]."""
        shape, stays = self.space.shape, self.keeps(kept)["pixels"].to(self.device)
        return stays.expand(*shape[:-2], *stays.shape).reshape(shape)

    def log_p_kept(self, x: Tensor, kept: Tensor, y: Y = None) -> Tensor:
        """log p of what stays of x when `kept` does, given y, in nats: [B]. Raises ModelError as `keeps` does."""
        raise ModelError(self._cannot_complete())

    def _cannot_complete(self) -> str:
        name = type(self).__name__
        return (
            f"{name}, as configured, can't complete images; {AUTOREGRESSIVE} can, a VQ-VAE of such priors, a diffusion "
            "model, and a VAE whose pixels are independent given z and whose p(z) can be computed"
        )

    # ---- log p(x)

    def log_density(self, x: Tensor, y: Y = None, draws: int = 1) -> Tensor:
        """log p(x), or its bound with this many draws, in nats: [B]. Raises ModelError where `density` is NONE."""
        log_w = self.log_weights(x, y, draws)
        # Burda et al. 2016, eq. 8, where draws may be weighted
        return torch.logsumexp(log_w, 0) - math.log(len(log_w)) if self.unbiased else log_w.mean(0)

    def log_weights(self, x: Tensor, y: Y = None, draws: int = 1) -> Tensor:
        """[K, B]: log p(x) up to noise. Where `unbiased`, the mean of exp over draws is p(x); else it is a bound of it.

        Every draw of noise is [draws, B, ...]. K may be 1 where there is no noise. Raises ModelError as `log_density`.
        """
        self._check_density()
        check_number_of(draws, "draws")
        x, y = self.taken(x, y)
        with self._rounding_nothing():
            return self._log_weights(x, y, draws)

    def _check_density(self) -> None:
        """Raise ModelError where nothing can be said of log p(x)."""
        if self.density is Density.NONE:
            raise ModelError(f"{type(self).__name__} as configured says nothing of log p(x): {self.why_no_density()}")

    def _rounding_nothing(self) -> AbstractContextManager[Any]:
        """Inside, no autocast of the caller's counts, and no TF32: a log-probability is a sum of many terms."""
        inside = ExitStack()
        inside.enter_context(torch.autocast(self.device.type, enabled=False))
        inside.enter_context(rounding(False))
        return inside

    def why_no_density(self) -> str:
        return "one of its parts has no density"

    def why_no_code(self) -> str:
        """What is said where a model is asked for the latent code of an image, and makes none."""
        return f"{type(self).__name__} has no latent code"

    def why_no_fitted_prior(self) -> str:
        """What a density fitted to codes after training can take the place of a prior in; "" where it can in this."""
        return f"a VAE or an autoencoder, and this is a {self.config.type_name()}"


class WithoutDensity(Model):
    """A model that says nothing of log p(x): one that draws alone, or a classifier."""

    @property
    def density(self) -> Density:
        return Density.NONE

    @property
    def unbiased(self) -> bool:
        return False

    def _log_weights(self, x: Tensor, y: Y = None, draws: int = 1) -> Tensor:
        raise ModelError(f"{type(self).__name__} has no log p(x): {self.why_no_density()}")


class ExactModel(Model):
    """log p(x) itself. `density` may still be BOUND for events it reaches through dequantization."""

    @abstractmethod
    def _log_prob(self, x: Tensor, y: Y = None) -> Tensor:
        """What `log_prob` gives, of a batch of the package's own."""

    def log_prob(self, x: Tensor, y: Y = None) -> Tensor:
        """log p(x) in nats: [B]. Raises ModelError for what is no batch of events."""
        x, y = self.taken(x, y)
        with self._rounding_nothing():
            return self._log_prob(x, y)

    @property
    def density(self) -> Density:
        return Density.EXACT

    @property
    def unbiased(self) -> bool:
        return True

    def _log_weights(self, x: Tensor, y: Y = None, draws: int = 1) -> Tensor:
        return self._log_prob(x, y).unsqueeze(0)

    def _loss(self, x: Tensor, y: Y = None, step: int = 0) -> Loss:
        nll = -self._log_prob(x, y)
        return Loss(nll.mean(), {"nll": nll.detach()})


class BoundModel(Model):
    """A lower bound of log p(x)."""

    @abstractmethod
    def elbo(self, x: Tensor, y: Y = None) -> Tensor:
        """One draw of the evidence lower bound in nats: [B]."""

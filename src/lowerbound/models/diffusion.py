"""The variational diffusion model: noise is put on by hand, and a network takes it away."""

import math
from collections.abc import Iterable, Mapping
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.distributions import Distribution, Independent
from torch.utils.flop_counter import FlopCounterMode

from lowerbound import distributions as dist
from lowerbound import noise
from lowerbound.devices import at_least_float32, widened
from lowerbound.errors import ConfigError, ModelError
from lowerbound.model import BoundParts, Model
from lowerbound.models.denoising import AVERAGED, Denoising, spread_times, too_many
from lowerbound.models.unrolled import Unrolled
from lowerbound.networks.base import Network
from lowerbound.networks.context import Shown
from lowerbound.networks.residual import ResidualMLP
from lowerbound.networks.unet import UNet
from lowerbound.parallel.rows import mean_of_rows
from lowerbound.schedules import (
    Ancestral,
    Bound,
    LogLinear,
    Prediction,
    Pull,
    Sampler,
    Schedule,
    V,
    Weighting,
    alpha,
    sigma,
)
from lowerbound.space import Space, Y
from lowerbound.stages import Loss, Score, Stage, Turn
from lowerbound.units import bits_per_dim, from_unit, to_unit, unit_bin

COSTLY = 0.1  # bits/dim that an end of the noise costs by itself, and is remarked upon


class Diffusion(Denoising):
    r"""Noise is put on x by hand, and a network takes it away (Kingma et al. 2021, Variational Diffusion Models,
    https://arxiv.org/abs/2107.00630).

    .. math::
        q(z_t|x) = N(\alpha_t x, \sigma_t^2 I), \quad
        p(x) = \int p(z_1)\, p(x|z_0) \prod_{i=1}^T p(z_{(i-1)/T} | z_{i/T})

    :math:`p(z_1)` is N(0, I), :math:`p(z_s|z_t)` is :math:`q(z_s|z_t, x)` with what the network makes of z_t in the
    place of x, and p(x|z_0) is proportional to q(z_0|x): for whole numbers over their levels, each element by itself,
    for real ones a normal. Minus the bound of log p(x) is the sum of three terms, `bound_parts`:

    .. math::
        KL(q(z_1|x) \| p(z_1)) + E[-\log p(x|z_0)] + E_{t, \epsilon}\left[\tfrac T2
        (e^{\gamma(t) - \gamma(s)} - 1)\, |\epsilon - \hat\epsilon(z_t; t)|^2\right], \quad s = t - 1/T

    and in continuous time (`steps=None`) the last is :math:`E[\frac12 \gamma'(t) |\epsilon - \hat\epsilon|^2]`. A draw
    of it is one time for each event, so its noise is in log p(x) itself: draws are averaged, never weighted
    (`unbiased` is False), and an importance-weighted objective refuses such a prior. In training the times of a batch
    are spread evenly.

    With T steps it *is* a hierarchical VAE of T + 1 levels whose posteriors are fixed, and answers as one in
    `hierarchy`, over the same weights. It is not one itself, because that holds all levels of every
    event at once and passes the network T times for a bound, where this takes any single one; and because continuous
    time has no levels, but one such hierarchy for each T, whose bounds go down to its own.

    Events: pixels of any levels, or real ones (which are standardized by all training events, where it is trained by
    itself): as `VAE.prior` it is latent diffusion. Labels and attributes go, with γ(t), into
    the network's layers, and images of any size, resized, as channels beside z (Saharia et al. 2021,
    https://arxiv.org/abs/2104.07636); with `unconditional` the condition is left out of some events in training, so
    that samples can be guided by it.

    Example:
        >>> model = Diffusion.Config(network=UNet.Config(widths=(8,), blocks=1)).build(Space((1, 4, 4), levels=17))
        >>> x = model.sample(3)
        >>> model.bound_parts(x, draws=5).diffusion.shape, model.elbo(x).shape
        (torch.Size([5, 3]), torch.Size([3]))
    """

    class Config(Model.Config):
        offered_as: ClassVar[str | None] = "diffusion"
        offered_to: ClassVar[tuple[int, ...]] = (1, 3)
        lacks: ClassVar[Mapping[str, str]] = {"objective": AVERAGED}
        steps: int | None = Field(default=None, gt=0)  # T; None: continuous time
        schedule: Schedule.Config = LogLinear.Config()  # how much noise there is at which time
        prediction: Prediction = V()  # a new model is then N(0, I), as its network puts out zeros
        network: Network.Config = UNet.Config()  # what sees the noise in z_t
        weighting: Weighting = Bound()  # of the loss alone
        # periods of sines and cosines of z that the network also sees, in steps from one value to the next (of real
        # events, in standard deviations): 1 and 2 show which value is near. Kingma et al. (2021) have both
        fourier: tuple[Annotated[float, Field(gt=0)], ...] = ()
        context: int = Field(default=64, ge=2)  # width of what the network is told of the time and of the condition
        sampler: Sampler = Ancestral()  # how noise is taken away, from one time to an earlier one
        unconditional: float = Field(default=0.0, ge=0, lt=1)  # share of training events whose condition is left out

        @classmethod
        def choices(cls, space: Space) -> tuple["Diffusion.Config", ...]:
            if len(space.shape) == 1:
                return (cls(network=ResidualMLP.Config()),)
            even = not any(size % 2 for size in space.shape[1:])
            return (cls(network=UNet.Config(widths=(64, 96) if even else (64,))),)

        def build(self, space: Space, given: tuple[Space, ...] = ()) -> "Diffusion":
            return Diffusion(self, space, given)

        @classmethod
        def example(cls) -> tuple["Diffusion.Config", Space, tuple[Space, ...]]:
            network, sampler = ResidualMLP.Config(width=6, blocks=1), Ancestral(steps=10)
            return cls(network=network, context=4, sampler=sampler), Space((1, 2, 2), levels=2), ()

    shift: Tensor
    scale: Tensor

    def __init__(self, config: Config, space: Space, given: tuple[Space, ...] = ()):
        super().__init__(config, space, given)
        self.schedule = config.schedule.build(space)
        self._check()
        self.register_buffer("shift", torch.zeros(space.shape))  # of real events
        self.register_buffer("scale", torch.ones(space.shape))
        C, *size = space.shape
        self.time = _Time(config.context)
        self.context = Shown(given, config.context, size)
        seen = C * (1 + 2 * len(config.fourier)) + self.context.channels
        self.network = config.network.build((seen, *size), space.shape, config.context)

    def _check(self) -> None:
        """Raise ConfigError for events that noise can't be put on, and parts that don't go together."""
        config, space = self.config, self.space
        if not space.ordered or len(space.shape) not in (1, 3):
            raise ConfigError(
                f"{config.type_name()}: noise is put on images and vectors of numbers, got events of shape "
                f"{list(space.shape)}{'' if space.ordered else ' that are names (codes or labels)'}"
            )
        if why := too_many(config.sampler.steps, config.steps):
            raise ConfigError(f"model.sampler.steps={config.sampler.steps}: {why}")
        if config.unconditional and not self.given:
            raise ConfigError(
                f"model.unconditional={config.unconditional:g}: nothing is given that could be left out; set "
                "data.label=true, or model.unconditional=0"
            )
        if self.schedule.learned and not isinstance(config.weighting, Bound):
            raise ConfigError(
                f"model.schedule: {config.schedule.type_name()} is learned with the bound, and model.weighting is "
                f"{config.weighting.type_name()}; use schedules.LogLinear, or model.weighting=schedules.Bound"
            )

    # ---- what it is worth

    @property
    def has_means(self) -> bool:
        return True

    @property
    def remarks(self) -> tuple[str, ...]:
        low, high = self.schedule.begins
        found = []
        if (levels := self.space.levels) is not None:
            cost = bits_per_dim(reconstruction_cost(levels, low), 1)
            if cost > COSTLY:
                found.append(
                    f"model.schedule.gamma_min={low:g}: so much noise at time 0 blurs neighbouring values of {levels}, "
                    f"and the reconstruction term alone is {cost:.2f} bits/dim; leave it null for one without"
                )
        cost = bits_per_dim(prior_cost(high), 1)
        if cost > COSTLY:
            found.append(
                f"model.schedule.gamma_max={high:g}: x still shows in z at time 1, and the prior term alone is up to "
                f"{cost:.2f} bits/dim; set it to 5"
            )
        return tuple(found)

    def hierarchy(self, steps: int | None = None) -> Unrolled:
        own = self.config.steps
        if own is None and steps is None:
            raise ModelError("continuous time has no levels of its own: train with model.steps=16, or say how many")
        if None not in (own, steps) and own != steps:
            raise ModelError(f"steps={steps}: the model has {own} of its own")
        return Unrolled.of(self, steps or own or 1)

    @property
    def footprint(self) -> int:
        values = self.space.levels or 1
        weighed = values if self._reach is None else min(values, 2 * self._reach + 1)
        seen = 1 + 2 * len(self.config.fourier)
        return max(self.space.dims * max(weighed, seen), self.network.largest(self.space.shape[1:]))

    @property
    def cost(self) -> int:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            z = torch.zeros(1, *self.space.shape, device=self.device)
            self._noise_in(z, self._times(0.0, z), None)
        return self._steps(self.config.sampler) * counter.get_total_flops() // 2

    # ---- the bound

    def likelihood(self, z: Tensor) -> Distribution:
        """p(x|z_0) of z_0 [..., *space.shape]: each element by itself, in proportion to q(z_0|x)."""
        gamma = self.schedule(self._times(0.0, z))
        mean, deviation = self.in_values(z / alpha(gamma).to(z.dtype)), (gamma / 2).exp().to(z.dtype)
        if self.space.levels is None:
            deviation = (self.scale * deviation).expand(mean.shape)
            normal = dist.Normal(mean, deviation, validate_args=False)
            return Independent(normal, len(self.space.shape), validate_args=False)
        return dist.Blurred(mean, deviation / unit_bin(self.space.levels + 1), self.space, self._reach)

    @property
    def _reach(self) -> int | None:
        """How many values on both sides of the nearest p(x|z_0) looks at; None: all, where the noise is learned."""
        if self.space.levels is None or self.schedule.learned:
            return None
        return dist.reach_of(math.exp(self.schedule.begins[0] / 2) / unit_bin(self.space.levels + 1))

    def bound_parts(self, x: Tensor, y: Y = None, draws: int = 1) -> BoundParts:
        x, y = self.taken(x, y)
        with self._rounding_nothing():
            return self._parts(x, y, draws)[0]

    def _parts(self, x: Tensor, y: Y, draws: int) -> tuple[BoundParts, Tensor]:
        """The terms of the bound, and of the last what is descended: [K, B] each."""
        s = self._scaled(x)
        diffusion, weighted = self._diffusion(s, self._left_out(self.context(y)), draws)
        prior = self._prior_term(s).expand(diffusion.shape)
        return BoundParts(prior, self._reconstruction_term(x, s, draws), diffusion), weighted

    def _left_out(self, c: Tensor | None) -> Tensor | None:
        """The condition [B, ...], in training without that of some events, so that the network knows none as well."""
        share = self.config.unconditional
        if c is None or not self.training or not share:
            return c
        return c * (noise.rand((len(c), 1), device=c.device) >= share).to(c.dtype)

    def _prior_term(self, s: Tensor) -> Tensor:
        """KL(q(z_1|x) || p(z_1)): [B]."""
        gamma = self.schedule(self._times(1.0, s))
        variance = sigma(gamma) ** 2
        own = (variance - 1 - variance.log()).to(s.dtype)
        return 0.5 * ((1 - variance).to(s.dtype) * s.square() + own).flatten(1).sum(1)

    def _reconstruction_term(self, x: Tensor, s: Tensor, draws: int) -> Tensor:
        """-log p(x|z_0) of draws of z_0: [K, B]; of real events its mean, which is known."""
        gamma = self.schedule(self._times(0.0, s))
        if self.space.levels is None:
            own = 0.5 * self.space.dims * (1 + math.log(2 * math.pi) + gamma.to(s.dtype))
            return (own + widened(self.scale).log().sum()).expand(draws, len(x))
        z = alpha(gamma).to(s.dtype) * s + sigma(gamma).to(s.dtype) * _normals(draws, s)
        return -self.likelihood(z).log_prob(x)

    def _diffusion(self, s: Tensor, c: Tensor | None, draws: int) -> tuple[Tensor, Tensor]:
        """A draw of the sum over all times, and what is descended in its place: [K, B] each."""
        credit = _Credit()
        times = spread_times(draws, len(s), training=self.training, device=s.device)
        gamma, factor = self._noised_at(times, credit.pull)
        epsilon = _normals(draws, s)
        error = self._error(s, c, gamma, epsilon)
        found = factor.to(error.dtype) * error
        credit.follow(found.detach())
        return found, self.config.weighting(factor).to(error.dtype) * error

    # --8<-- [start:diffusion]
    def _error(self, s: Tensor, c: Tensor | None, gamma: Tensor, epsilon: Tensor) -> Tensor:
        """|ε - ε̂|² of scaled events s [B, *shape], at γ [K, B] with ε [K, B, *shape]: [K, B]."""
        g = gamma.reshape(*gamma.shape, *[1] * (s.dim() - 1))
        z = alpha(g).to(s.dtype) * s + sigma(g).to(s.dtype) * epsilon
        c = c if c is None else c.repeat(len(gamma), 1)
        found = self._noise_in(z.flatten(0, 1), gamma.flatten(), c)
        return (epsilon - found.view_as(epsilon)).square().flatten(2).sum(2)
        # --8<-- [end:diffusion]

    def _noised_at(self, u: Tensor, pull: Pull | None = None) -> tuple[Tensor, Tensor]:
        """γ and the factor of |ε - ε̂|² at the times that numbers in [0, 1) stand for: float64, of their shape."""
        if self.config.steps is None:
            return self.schedule(u, pull), 0.5 * self.schedule.slope(u, pull)
        T = self.config.steps
        i = (u * T).floor()  # t = (i + 1) / T, s = i / T
        gamma = self.schedule((i + 1) / T)
        return gamma, 0.5 * T * torch.expm1(gamma - self.schedule(i / T))

    def _log_weights(self, x: Tensor, y: Y = None, draws: int = 1) -> Tensor:
        return self._parts(x, y, draws)[0].bound

    def _loss(self, x: Tensor, y: Y = None, step: int = 0) -> Loss:
        parts, weighted = self._parts(x, y, 1)
        shown = {"elbo": parts.bound, **parts._asdict()}
        loss = (parts.prior + parts.reconstruction + weighted).mean()
        return Loss(loss, {name: term[0].detach() for name, term in shown.items()})

    def stages(self) -> tuple[Stage, ...]:
        score = Score() if isinstance(self.config.weighting, Bound) else Score(draws=None)
        begin = None if self.space.levels is not None else self._begin
        return (Stage("model", (Turn((self,), self._loss),), begin=begin, score=score),)

    @torch.no_grad()
    def _begin(self, events: Iterable[Tensor]) -> None:
        """Real events are standardized by all there are."""
        x = torch.cat([part.double().cpu() for part in events])
        self.shift.copy_(x.mean(0))
        self.scale.copy_(x.std(0, correction=0).clamp(min=1e-6))

    # ---- what the network says

    def _scaled(self, x: Tensor) -> Tensor:
        """Events as noise is put on them, in float32 at least: pixels in the middle of their bin of [-1, 1]."""
        dtype = at_least_float32(self.dtype)
        if self.space.levels is None:
            return (x.to(dtype) - widened(self.shift)) / widened(self.scale)
        return to_unit(x.to(dtype) + 0.5, self.space.levels + 1)

    def in_values(self, z: Tensor) -> Tensor:
        if self.space.levels is None:
            return self.shift + self.scale * z
        return from_unit(z, self.space.levels + 1) - 0.5

    def _noise_in(self, z: Tensor, gamma: Tensor, c: Tensor | None) -> Tensor:
        """ε̂ of z [N, *shape] at γ [N] or a scalar, given c, one row for each or None."""
        low, high = self.schedule.begins
        told = self.time(((gamma - low) / (high - low)).expand(z.shape[0]))
        vector, images = self.context.split(c, seen := self._seen(z))
        seen = seen if images is None else torch.cat([seen, images], 1)
        out = widened(self.network(seen, told if vector is None else told + vector))
        g = gamma.reshape(-1, *[1] * (z.dim() - 1))
        return self.config.prediction.noise(out, z, g.to(z.dtype))

    def _seen(self, z: Tensor) -> Tensor:
        """z and its Fourier features, as the network sees them."""
        if not self.config.fourier:
            return z.to(self.dtype)
        step = 1.0 if self.space.levels is None else unit_bin(self.space.levels + 1)
        angles = [2 * math.pi / (step * period) * z for period in self.config.fourier]
        return torch.cat([z, *(f(a) for a in angles for f in (torch.sin, torch.cos))], 1).to(self.dtype)


class _Credit:
    """By which a schedule's inside follows the gradient of each time's squared term, up to a factor."""

    share: Tensor  # that term of each time, over its mean

    def follow(self, found: Tensor) -> None:
        """found: the squared terms [K, B]."""
        self.share = found / mean_of_rows(found.T).mean()

    @property
    def pull(self) -> Pull:
        return lambda grad: grad * self.share.to(grad.dtype)


class _Time(nn.Module):
    """A time [N] in [0, 1] -> [N, width]: sines and cosines of it, from fast to slow, then two layers."""

    def __init__(self, width: int):
        super().__init__()
        self.waves = (width + 1) // 2
        self.layers = nn.Sequential(nn.Linear(2 * self.waves, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())

    def forward(self, t: Tensor) -> Tensor:
        powers = torch.arange(self.waves, dtype=t.dtype, device=t.device) / max(1, self.waves - 1)
        angles = 1000 * t.unsqueeze(-1) * 1e-4**powers
        features = torch.cat([angles.sin(), angles.cos()], -1)
        return self.layers(features.to(next(self.parameters()).dtype))


def _normals(draws: int, s: Tensor) -> Tensor:
    return noise.randn((draws, *s.shape), dtype=s.dtype, device=s.device)


def reconstruction_cost(levels: int, gamma: float, points: int = 4001) -> float:
    """E[-log p(x|z_0)] of a value in the middle of its range, in nats, where the noise at time 0 is that of γ."""
    u = torch.linspace(-8, 8, points, dtype=torch.float64)
    weight = (-(u**2) / 2).softmax(0)
    k = torch.arange(levels, dtype=torch.float64) - levels // 2
    apart = k * unit_bin(levels + 1) / math.exp(gamma / 2)
    log_p = (-0.5 * (u[:, None] - apart) ** 2).log_softmax(1)[:, levels // 2]
    return float(-(weight * log_p).sum())


def prior_cost(gamma: float) -> float:
    """KL(q(z_1|x) || N(0, 1)) of x = 1, in nats, where the noise at time 1 is that of γ."""
    variance = 1 / (1 + math.exp(-gamma))
    return 0.5 * (1 - variance + variance - math.log(variance) - 1)

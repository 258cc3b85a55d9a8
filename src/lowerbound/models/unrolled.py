"""A diffusion model of T steps as the hierarchical VAE that it is."""

from typing import Any

import torch
from pydantic import Field
from torch import Tensor
from torch.distributions import Distribution, Independent

from lowerbound import distributions as dist
from lowerbound.devices import at_least_float32
from lowerbound.distributions import tempered
from lowerbound.errors import ConfigError
from lowerbound.model import Draw, Extent, Markov, Model, Told
from lowerbound.models.denoising import Denoising
from lowerbound.models.latents import check_bound
from lowerbound.objectives import ELBO, Objective
from lowerbound.schedules import Bound, alpha, sigma
from lowerbound.space import Density, Space, Y
from lowerbound.stages import Loss, Stage, Turn

FAR = 8  # standard deviations, beyond which no draw of noise lies
DIFFUSION = "models.diffusion.Diffusion"  # by name: that model gives its hierarchy, and so imports this file


class Unrolled(Markov):
    r"""A diffusion model of T steps as a hierarchical VAE of T + 1 levels, z_1 down to z_0 in steps of 1/T.

    .. math::
        q(z_1|x) = N(\alpha_1 x, \sigma_1^2 I), \quad
        q(z_s|z_t, x) = N\left(\tfrac{\alpha_s}{\alpha_t} (1 - c) z_t + \alpha_s c\, x,\; \sigma_s^2 c\, I\right), \quad
        c = 1 - e^{\gamma(s) - \gamma(t)}

    The posteriors have nothing to learn; p(z_1) = N(0, I), and p(z_s|z_t) has what the network makes of z_t in the
    place of x (Kingma et al. 2021, https://arxiv.org/abs/2107.00630). Everything holds that holds of a model with
    latents: the terms of the bound by level, posteriors, importance weighting, whose bound is tighter than that of
    `Diffusion`. It is trained by the whole bound, in T passes, or shares the weights of a diffusion model:
    `Diffusion.hierarchy`.

    Example:
        >>> model = Unrolled.Config.example()[0].build(Space((1, 2, 2), levels=2))
        >>> len(model.encode(model.sample(3))), model.elbo_terms(model.sample(3), draws=5).kl.shape
        (3, torch.Size([5, 3, 3]))
    """

    class Config(Model.Config):
        diffusion: Model.Config = Field(default={"type": DIFFUSION, "steps": 4}, validate_default=True)  # pyright: ignore[reportAssignmentType]
        objective: Objective = ELBO()  # from the terms of the bound to the loss

        def build(self, space: Space, given: tuple[Space, ...] = ()) -> "Unrolled":
            diffusion = self.diffusion.build(space, given)
            if not isinstance(diffusion, Denoising):
                raise ConfigError(f"model.diffusion: {self.diffusion.type_name()} takes no noise away; use {DIFFUSION}")
            return Unrolled(self, diffusion)

        @classmethod
        def example(cls) -> tuple["Unrolled.Config", Space, tuple[Space, ...]]:
            # two steps far apart make weights without a known error
            near = {"type": "schedules.LogLinear", "gamma_min": -1, "gamma_max": 1}
            network = {"type": "networks.residual.ResidualMLP", "width": 6, "blocks": 1}
            diffusion = {"type": DIFFUSION, "steps": 2, "schedule": near, "network": network, "context": 4}
            return cls.model_validate({"diffusion": diffusion}), Space((1, 2, 2), levels=2), ()

    def __init__(self, config: Config, diffusion: Denoising):
        super().__init__(config, diffusion.space, diffusion.given)
        own: Any = config.diffusion
        if own.steps is None:
            raise ConfigError(
                "model.diffusion.steps: continuous time has no levels; set how many steps they are, such as 4"
            )
        if not isinstance(own.weighting, Bound):
            raise ConfigError("model.diffusion.weighting: it is trained by model.objective; leave schedules.Bound")
        check_bound(config.objective)
        self.diffusion = diffusion
        self.steps: int = own.steps

    @staticmethod
    def of(diffusion: Denoising, steps: int) -> "Unrolled":
        """The hierarchy of so many steps of a diffusion model's weights."""
        own = diffusion.config.model_copy(update={"steps": steps, "weighting": Bound()})
        return Unrolled(Unrolled.Config(diffusion=own), diffusion).train(diffusion.training)

    def stages(self) -> tuple[Stage, ...]:
        (own,) = self.diffusion.stages()
        return (Stage("model", (Turn((self,), self._loss),), begin=own.begin, score=self.config.objective.score),)

    # ---- what it is worth

    @property
    def density(self) -> Density:
        return Density.BOUND

    @property
    def unbiased(self) -> bool:
        return True

    @property
    def pixelwise(self) -> bool:
        return True

    @property
    def likelihood_density(self) -> Density:
        return Density.EXACT

    @property
    def prior_densities(self) -> tuple[Density, ...]:
        return (Density.EXACT,) * (self.steps + 1)

    @property
    def footprint(self) -> int:
        return self.diffusion.footprint + (self.steps + 1) * self.space.dims

    # ---- the parts

    @property
    def levels(self) -> tuple[str, ...]:
        """z1, z2, ...: z1 at time 1, the last at time 0."""
        return tuple(f"z{l + 1}" for l in range(self.steps + 1))

    @property
    def latents(self) -> tuple[Space, ...]:
        return (Space(self.space.shape),) * (self.steps + 1)

    def bottom_up(self, x: Tensor, y: Y = None) -> Tensor:
        """What noise is put on."""
        return self.diffusion._scaled(x)

    # --8<-- [start:posterior]
    def posterior(self, l: int, h: Tensor, coarser: tuple[Tensor, ...] = (), y: Y = None) -> Distribution:
        s = self._gamma(l, h)
        if l == 0:
            return self._normal(alpha(s).to(h.dtype) * h, sigma(s))
        t = self._gamma(l - 1, h)
        c = self._share(s, t)
        mean = (alpha(s) / alpha(t) * (1 - c)).to(h.dtype) * coarser[-1] + (alpha(s) * c).to(h.dtype) * h
        return self._normal(mean, sigma(s) * c.sqrt())
        # --8<-- [end:posterior]

    def ascent(self, l: int, finer: Tensor, y: Y = None) -> Distribution:
        r"""q(z_t|z_s) = N(\alpha_t / \alpha_s z_s, \sigma_t^2 c I), which with `posterior` makes the same q(z|x)."""
        if l == self.steps:
            s = self._gamma(l, finer)
            return self._normal(alpha(s).to(finer.dtype) * finer, sigma(s))
        s, t = self._gamma(l + 1, finer), self._gamma(l, finer)
        return self._normal((alpha(t) / alpha(s)).to(finer.dtype) * finer, sigma(t) * self._share(s, t).sqrt())

    def extent(self, l: int) -> Extent:
        like = torch.zeros((), dtype=at_least_float32(self.dtype), device=self.device)
        own = self._gamma(l, like)
        shares = [self._share(own, self._gamma(l - 1, like))] if l else []
        shares += [self._share(self._gamma(l + 1, like), own)] if l < self.steps else []
        narrowest = min(float(sigma(own) * share.sqrt()) for share in shares)
        return Extent(narrowest, float(alpha(own) + FAR * sigma(own)))

    def _share(self, s: Tensor, t: Tensor) -> Tensor:
        """c, how much of the noise at t has come since s, of their γ."""
        return -torch.expm1(s - t)

    def prior_of(self, l: int, coarser: tuple[Tensor, ...] = (), y: Y = None) -> Distribution:
        if l == 0:
            zero = torch.zeros(self.space.shape, dtype=at_least_float32(self.dtype), device=self.device)
            return self._normal(zero, torch.ones_like(zero))
        z = coarser[-1]
        t, s = self._gamma(l - 1, z), self._gamma(l, z)
        c = self._share(s, t)
        mean = (alpha(s) / alpha(t)).to(z.dtype) * (z - (sigma(t) * c).to(z.dtype) * self._noise_in(z, t, y))
        return self._normal(mean, sigma(s) * c.sqrt())

    def likelihood(self, z: tuple[Tensor, ...], y: Y = None) -> Distribution:
        return self.diffusion.likelihood(z[-1])

    def _gamma(self, l: int, like: Tensor) -> Tensor:
        """Of a level: γ of the time (T - l) / T."""
        return self.diffusion.schedule(self.diffusion._times((self.steps - l) / self.steps, like))

    def _noise_in(self, z: Tensor, gamma: Tensor, y: Y) -> Tensor:
        """ε̂ of z [..., B, *shape]."""
        batch, c = z.shape[: z.dim() - len(self.space.shape)], self.diffusion.context(y)
        if c is not None:
            c = c.expand(*batch, c.shape[-1]).reshape(-1, c.shape[-1])
        return self.diffusion._noise_in(z.reshape(-1, *self.space.shape), gamma, c).view_as(z)

    def _normal(self, mean: Tensor, deviation: Tensor) -> Distribution:
        normal = dist.Normal(mean, deviation.to(mean.dtype).expand(mean.shape), validate_args=False)
        return Independent(normal, len(self.space.shape), validate_args=False)

    # ---- drawing and training

    def _draw_latents(self, n: int, y: Y, how: Draw, told: Told, coarse: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        z = coarse
        for l in range(len(coarse), self.steps + 1):
            p = tempered(self.prior_of(l, z, y), how.at(self.levels[l]).temperature)
            z = (*z, p.sample((n,)) if l == 0 else p.sample())
            told(l + 1, self.steps + 1)
        return z

    def _loss(self, x: Tensor, y: Y = None, step: int = 0) -> Loss:
        objective = self.config.objective
        return objective(self.elbo_terms(x, y, objective.draws), step)

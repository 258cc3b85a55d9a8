r"""A model whose events are seen through normal noise, which gives what only draws a likelihood.

.. math:: z \sim p(z), \quad x | z \sim N(m(z), \sigma^2 I)

Wu et al. (2017), https://arxiv.org/abs/1611.04273. It is another model than the one without noise, and one for each σ.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent

from lowerbound.distributions import DiscretizedNormal, Normal
from lowerbound.errors import ModelError
from lowerbound.model import Drawn, Generating, LatentModel, Model
from lowerbound.space import Density, Y
from lowerbound.units import to_unit


def check_annealed(model: LatentModel, what: str) -> None:
    """Raise ModelError, which begins with `what`, for latents that can't be annealed, with the reason."""
    name = type(model).__name__
    if len(model.latents) != 1:
        raise ModelError(f"{what}: {name} has {len(model.latents)} levels of latents; expected a model with one")
    if model.latents[0].levels is not None:
        raise ModelError(
            f"{what}: the latents of {name} take {model.latents[0].levels} values, and annealing moves along gradients "
            "of real ones; expected a model of real latents, such as a VAE with families.DiagonalNormal"
        )
    if model.prior_densities != (Density.EXACT,):
        raise ModelError(
            f"{what}: log p(z) of {name} is known by a noisy bound alone, and annealing needs its value; train with a "
            "prior such as priors.StandardNormal"
        )


@dataclass(frozen=True)
class Observed:
    """What a model makes of z with normal noise on it: of pixels P(k) is the noise's mass on [k - 1/2, k + 1/2], the
    lowest and highest value with the tails.

    sigma: the standard deviation of each element; of pixels as a share of their range, from black to white.
    """

    model: LatentModel | Generating
    sigma: float

    @staticmethod
    def of(model: Model, sigma: float) -> "Observed":
        """Raises ModelError for a model that makes events of something else than one level of real latents."""
        name = type(model).__name__
        if isinstance(model, LatentModel):
            check_annealed(model, "ais")
            if not model.can_sample:
                raise ModelError(f"ais: {name} has no p(z); fit one to its codes by `lowerbound fit-prior`")
        elif not isinstance(model, Generating):
            raise ModelError(f"ais: {name} makes no images of latents; expected a GAN, a VAE or an autoencoder")
        if model.space.levels is not None and not model.space.ordered:
            raise ModelError(f"ais: {name} is of codes, whose values are names, and normal noise means nothing there")
        return Observed(model, sigma)

    def prior_of(self, l: int = 0, coarser: tuple[Tensor, ...] = (), y: Y = None) -> Distribution:
        """p(z|y)."""
        return self.model.base if isinstance(self.model, Generating) else self.model.prior_of(l, coarser, y)

    def likelihood(self, z: tuple[Tensor, ...], y: Y = None) -> Distribution:
        """p(x|z) for z of [..., B, *latent]."""
        model, (code,) = self.model, z
        mean = model.generated(code, y) if isinstance(model, Generating) else model.likelihood(z, y).mean
        space = model.space
        if space.levels is None:
            normal = Normal(mean, mean.new_tensor(self.sigma), validate_args=False)
            return Independent(normal, len(space.shape), validate_args=False)
        log_scale = mean.new_tensor(math.log(2 * self.sigma))  # the range is 2 on the scale of [-1, 1]
        return DiscretizedNormal(to_unit(mean, space.levels), log_scale, space)

    @torch.no_grad()
    def draw_latents(self, n: int, y: Y = None) -> tuple[Tensor, ...]:
        """z of p(z|y): [n, *latent]."""
        return (self.model.base.sample((n,)),) if isinstance(self.model, Generating) else self.model.draw_latents(n, y)

    @torch.no_grad()
    def draw(self, n: int, y: Y = None) -> Drawn:
        """n events of it, and their z."""
        z = self.draw_latents(n, y)
        return Drawn(self.likelihood(z, y).sample(), z)

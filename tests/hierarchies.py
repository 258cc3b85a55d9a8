"""A small model with two levels of latents, the finer posterior and prior of which depend on the coarser draw."""

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from lowerbound.distributions import tempered
from lowerbound.errors import ConfigError
from lowerbound.families import Bernoulli, DiagonalNormal, Family, Head, SharedScaleNormal
from lowerbound.model import Draw, LatentModel, Model, Told
from lowerbound.objectives import ELBO, Objective
from lowerbound.space import Density, Space, Y
from lowerbound.stages import Loss
from lowerbound.testing.base import shake_parameters


class TwoLevels(LatentModel):
    """z_1 in R -> z_2 in R² -> x, every arrow linear: p(z_2 | z_1), p(x | z_1, z_2), q(z_1 | x), q(z_2 | z_1, x)."""

    class Config(Model.Config):
        likelihood: Family = Bernoulli()
        objective: Objective = ELBO()

        def build(self, space: Space, given: tuple[Space, ...] = ()) -> "TwoLevels":
            if given:
                raise ConfigError("TwoLevels takes no condition")
            return TwoLevels(self, space)

        def binary(self) -> bool:
            return isinstance(self.likelihood, Bernoulli)

        @classmethod
        def example(cls) -> tuple["TwoLevels.Config", Space, tuple[Space, ...]]:
            return cls(), Space((1, 2, 2), levels=2), ()

    zero: Tensor

    def __init__(self, config: Config, space: Space):
        super().__init__(config, space)
        self.register_buffer("zero", torch.zeros(2), persistent=False)
        self.level_heads = nn.ModuleList(Head(DiagonalNormal(), s) for s in self.latents)
        self.likelihood_head = Head(config.likelihood, space)
        self.q1, self.q2 = nn.Linear(space.dims, 2), nn.Linear(space.dims + 1, 4)
        self.p2 = nn.Linear(1, 4)
        self.decoder = nn.Linear(3, Space(self.likelihood_head.in_shape).dims)

    @property
    def latents(self) -> tuple[Space, ...]:
        return Space((1,)), Space((2,))

    @property
    def density(self) -> Density:
        return Density.worst(Density.BOUND, self.likelihood_head.density)

    @property
    def likelihood_density(self) -> Density:
        return self.likelihood_head.density

    @property
    def prior_densities(self) -> tuple[Density, ...]:
        return (Density.EXACT, Density.EXACT)

    @property
    def unbiased(self) -> bool:
        return True

    def bottom_up(self, x: Tensor, y: Y = None) -> Tensor:
        return self.seen(x).flatten(1)

    def posterior(self, l: int, h: Tensor, coarser: tuple[Tensor, ...] = (), y: Y = None) -> Distribution:
        if l == 0:
            return self.level_heads[0](self.q1(h))
        (z,) = coarser
        return self.level_heads[1](self.q2(torch.cat([h.expand(*z.shape[:-1], h.shape[-1]), z.to(h.dtype)], -1)))

    def prior_of(self, l: int, coarser: tuple[Tensor, ...] = (), y: Y = None) -> Distribution:
        return self.level_heads[l](self.zero if l == 0 else self.p2(coarser[0].to(self.dtype)))

    def likelihood(self, z: tuple[Tensor, ...], y: Y = None) -> Distribution:
        return self.likelihood_head(
            self.decoder(torch.cat(z, -1).to(self.dtype)).unflatten(-1, self.likelihood_head.in_shape)
        )

    def _draw_latents(self, n: int, y: Y, how: Draw, told: Told, coarse: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        t = how.at().temperature
        z = coarse[0] if coarse else tempered(self.prior_of(0), t).sample((n,))
        return z, tempered(self.prior_of(1, (z,)), t).sample()

    def _loss(self, x: Tensor, y: Y = None, step: int = 0) -> Loss:
        objective = self.config.objective
        return objective(self.elbo_terms(x, y, objective.draws), step)


def linear_gaussian(objective: Objective, *, exact: bool = False) -> tuple[TwoLevels, Tensor, Tensor]:
    """One over x in R³, five events, and their log p(x) [5]; the posteriors are near the true ones, with `exact` these.

    p(z_2|z_1) = N(T z_1 + c, t²), p(x|z) = N(V z_1 + W z_2 + m, s²), the columns of W at right angles.
    """
    torch.manual_seed(0)
    model = TwoLevels.Config(likelihood=SharedScaleNormal(), objective=objective).build(Space((3,)))
    T, c, t, s = torch.tensor([0.8, -1.2]), torch.tensor([0.3, 0.1]), 0.7, 0.5
    V, W = torch.tensor([0.5, -0.3, 0.2]), torch.tensor([[1.0, 0.5], [1.0, -0.5], [0.0, 0.9]])
    m = torch.tensor([0.2, -0.1, 0.4])
    with torch.no_grad():
        model.p2.weight.copy_(torch.cat([T, torch.zeros(2)])[:, None])
        model.p2.bias.copy_(torch.cat([c, torch.tensor([t, t]).log()]))
        model.decoder.weight.copy_(torch.cat([V[:, None], W], 1))
        model.decoder.bias.copy_(m)
        model.likelihood_head.learned.fill_(torch.tensor(s).log())  # pyright: ignore[reportOptionalMemberAccess]
    mean, slope = m + W @ c, V + W @ T  # x = mean + slope z_1 + noise of this covariance
    noise = t**2 * W @ W.T + s**2 * torch.eye(3)
    marginal = torch.distributions.MultivariateNormal(mean, noise + torch.outer(slope, slope))
    with torch.no_grad():
        variance = 1 / (1 + slope @ torch.linalg.solve(noise, slope))
        gain = variance * torch.linalg.solve(noise, slope)
        model.q1.weight.copy_(torch.stack([gain, torch.zeros(3)]))
        model.q1.bias.copy_(torch.stack([-gain @ mean, variance.log() / 2]))
        variances = 1 / ((W**2).sum(0) / s**2 + 1 / t**2)  # [2]
        A, B = variances[:, None] * W.T / s**2, variances * (T / t**2 - W.T @ V / s**2)
        model.q2.weight.copy_(torch.cat([torch.cat([A, B[:, None]], 1), torch.zeros(2, 4)]))
        model.q2.bias.copy_(torch.cat([variances * (c / t**2 - W.T @ m / s**2), variances.log() / 2]))
    if not exact:
        shake_parameters(model.q1, "q1", scale=0.15)
        shake_parameters(model.q2, "q2", scale=0.15)
    x = marginal.sample((5,))
    return model, x, marginal.log_prob(x)

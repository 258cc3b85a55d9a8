"""The smallest model of two turns: a generator and a critic that are trained against each other."""

import torch
from pydantic import Field
from torch import Tensor, nn

from lowerbound import noise
from lowerbound.devices import widened
from lowerbound.errors import ConfigError
from lowerbound.model import Draw, Drawn, Told, WithoutDensity
from lowerbound.optimization import Adam, AdamW, Constant, Cosine
from lowerbound.space import Space, Y
from lowerbound.stages import Loss, Stage, Turn


class DiracGAN(WithoutDensity):
    r"""A generator that moves noise, and a linear critic, of one vector each.

    .. math:: \min_a \max_b \; E[b \cdot x] - E[b \cdot \tilde x] - \tfrac{r}{2} |b|^2, \quad \tilde x = a + \epsilon

    with noise of N(0, I). The one equilibrium is a = E[x], b = 0. Events are real numbers, or whole ones as shares of
    the largest. Nothing scores its weights, and it says nothing of log p(x). Mescheder et al. (2018), Which Training
    Methods for GANs do actually Converge?, https://arxiv.org/abs/1801.04406, where the generator is a point.

    Example:
        >>> gan = DiracGAN.Config().build(Space((2,)))
        >>> [turn.name for turn in gan.stages()[0].turns], gan.sample(5).shape
        (['critic', 'generator'], torch.Size([5, 2]))
    """

    class Config(WithoutDensity.Config):
        penalty: float = Field(default=1.0, gt=0)  # r

        def build(self, space: Space, given: tuple[Space, ...] = ()) -> "DiracGAN":
            return DiracGAN(self, space, given)

        @classmethod
        def example(cls) -> tuple["DiracGAN.Config", Space, tuple[Space, ...]]:
            return cls(), Space((2,)), ()

    def __init__(self, config: Config, space: Space, given: tuple[Space, ...] = ()):
        super().__init__(config, space, given)
        if given:
            raise ConfigError("model: a DiracGAN takes no condition; set data.label=false")
        self.generator, self.critic = (nn.ParameterList([nn.Parameter(torch.zeros(space.dims))]) for _ in range(2))
        self.largest = 1 if space.levels is None else space.levels - 1

    def stages(self) -> tuple[Stage, ...]:
        """One stage of two turns, each with an optimizer and a schedule of its own, which nothing scores."""
        critic = Turn((self.critic,), self._critic_loss, "critic", AdamW(lr=0.02), Constant())
        generator = Turn((self.generator,), self._loss, "generator", Adam(lr=0.05), Cosine())
        return (Stage("model", (critic, generator), score=None),)

    def _critic_loss(self, x: Tensor, y: Y = None, step: int = 0) -> Loss:
        """What the critic descends: the difference of its means, and its penalty."""
        b = widened(self.critic[0])
        real = x.flatten(1).to(b) / self.largest
        value = self._drawn(len(x)) @ b - real @ b  # [B]
        return Loss(value.mean() + 0.5 * self.config.penalty * b.square().sum(), {"difference": value.detach()})

    def _loss(self, x: Tensor, y: Y = None, step: int = 0) -> Loss:
        """Of the generator."""
        value = -self._drawn(len(x)) @ widened(self.critic[0])
        return Loss(value.mean(), {"value": value.detach()})

    def _drawn(self, n: int, scale: float = 1.0) -> Tensor:
        """[n, D]."""
        a = widened(self.generator[0])
        return a + scale * noise.randn((n, len(a)), dtype=a.dtype, device=a.device)

    def _draw(self, n: int, y: Y, how: Draw, told: Told) -> Drawn:
        x = self._drawn(n, how.at().temperature).view(n, *self.space.shape)
        whole = self.space.levels is not None
        return Drawn((x * self.largest).round().clamp(0, self.largest).to(self.space.dtype) if whole else x)

    def why_no_density(self) -> str:
        return "it is a generator of samples, trained against a critic"

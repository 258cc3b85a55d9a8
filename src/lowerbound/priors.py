"""Small models over latents. A prior is a Model whose space is the latent's."""

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily, Normal

from lowerbound.distributions import tempered
from lowerbound.models.base import ExactModel, Model, Shape, Space, Y


class Prior(ExactModel):
    """A model over latents that is one torch distribution: its KL to a posterior may then be closed."""

    def distribution(self, y: Y = None) -> Distribution:
        """p(z|y), without batch dimensions."""
        raise NotImplementedError

    def log_prob(self, x: Tensor, y: Y = None) -> Tensor:
        return self.distribution(y).log_prob(x)

    def _sample(self, n: int, y: Y, temperature: float) -> Tensor:
        return tempered(self.distribution(y), temperature).sample((n,))


class StandardNormal(Prior):
    """N(0, I), the VAE's prior (Kingma & Welling 2014)."""

    class Config(Model.Config):
        def build(self, space: Space, given: tuple[Space, ...] = ()) -> "StandardNormal":
            return StandardNormal(self, space, given)

        @classmethod
        def example(cls) -> tuple["StandardNormal.Config", Space, tuple[Space, ...]]:
            return cls(), Space((2,)), ()

    zero: Tensor

    def __init__(self, config: Config, space: Space, given: tuple[Space, ...] = ()):
        super().__init__(config, space, given)
        self.register_buffer("zero", torch.zeros(space.shape), persistent=False)

    def distribution(self, y: Y = None) -> Distribution:
        normal = Normal(self.zero, torch.ones_like(self.zero), validate_args=False)
        return Independent(normal, self.zero.dim(), validate_args=False)


class GaussianMixture(Prior):
    r"""A learned mixture of diagonal Gaussians, :math:`\sum_k \pi_k N(z; \mu_k, \sigma_k^2)`.

    Its KL to a posterior has no closed form: the bound is trained by the sampled ratio.
    """

    class Config(Model.Config):
        components: int = Field(default=10, gt=0)

        def build(self, space: Space, given: tuple[Space, ...] = ()) -> "GaussianMixture":
            return GaussianMixture(self, space, given)

        @classmethod
        def example(cls) -> tuple["GaussianMixture.Config", Space, tuple[Space, ...]]:
            return cls(components=2), Space((2,)), ()

    def __init__(self, config: Config, space: Space, given: tuple[Space, ...] = ()):
        super().__init__(config, space, given)
        shape: Shape = (config.components, *space.shape)
        self.logits = nn.Parameter(torch.zeros(config.components))
        self.mean = nn.Parameter(torch.randn(shape))
        self.log_scale = nn.Parameter(torch.zeros(shape))

    def distribution(self, y: Y = None) -> Distribution:
        normal = Normal(self.mean, self.log_scale.exp(), validate_args=False)
        return MixtureSameFamily(
            Categorical(logits=self.logits, validate_args=False),
            Independent(normal, len(self.space.shape), validate_args=False),
            validate_args=False,
        )

"""Scenes from several sides: a view of a scene, given others and where each was taken from."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.distributions import Distribution

from lowerbound.errors import ConfigError, ModelError
from lowerbound.estimators import Draws, Estimator
from lowerbound.families import SharedScaleNormal
from lowerbound.model import Draw, ElboTerms, Model, Told, Viewing
from lowerbound.models.hierarchical import HierarchicalVAE, Scale
from lowerbound.networks.base import Network
from lowerbound.networks.conv import Conv
from lowerbound.networks.mlp import MLP
from lowerbound.networks.residual import ResidualMLP
from lowerbound.space import Density, Space, Y, conditions
from lowerbound.stages import Loss, Stage, Turn


class GQN(Viewing):
    r"""The generative query network: x seen by a camera v, given views x_1, ..., x_M of the same scene and theirs.

    .. math:: r = \sum_m \psi(x_m, v_m), \qquad
        \log p(x|v, r) \ge E_q\Big[\log p(x|z, v, r)
        + \sum_l \log \frac{p(z_l|z_{<l}, v, r)}{q(z_l|z_{<l}, x, v, r)}\Big]

    after Eslami et al. (2018, https://doi.org/10.1126/science.aar6170): the representation r of the scene is a sum, so
    that the order of the views is nothing to it; it is 0 where there are none, and p is then that of any scene. What is
    not theirs: of r and the camera a network makes a map of features, and this is what a `HierarchicalVAE` is given at
    every scale, in place of their convolutional LSTM; and a camera multiplies what networks see of an image, as turning
    does with places. What is measured in nats is a bound of log p(x|v, r).

    The dearer latents are, the more of x must come from r: their model is trained with a standard deviation of x that
    falls from 2 to 0.7 of its range. With `families.SharedScaleNormal`, which begins at 1 and is learned, and a beta
    above 1, it falls too, to what is left to tell.

    given: context images [B, M, C, H, W], their cameras [B, M, D], how many of the M there are [B], the camera that
    is asked for [B, D] (`lowerbound.data.views`).

    Example:
        >>> import torch
        >>> config, space, given = GQN.Config.example()
        >>> x, camera = torch.zeros(3, 2, 1, 2, 2, dtype=torch.uint8), torch.zeros(3, 2, 3)
        >>> config.build(space, given).sample(3, (x, camera, torch.tensor([0, 1, 2]), torch.zeros(3, 3))).shape
        torch.Size([3, 1, 2, 2])
    """

    class Config(Model.Config):
        context_views: int = Field(default=5, gt=0)  # at most
        representation: int = Field(default=128, gt=0)  # numbers that hold a scene
        features: int = Field(default=32, gt=0)  # of the map that is made of them for a camera
        encoder: Network.Config = Conv.Config(widths=(32, 64, 128))  # of a context image, to a vector
        placing: Network.Config = ResidualMLP.Config(blocks=2, gain=1.0, scaled=True)  # of it and its camera, to r
        asking: Network.Config = ResidualMLP.Config(blocks=2, gain=1.0, scaled=True)  # of r and a camera, to the map
        vae: HierarchicalVAE.Config = HierarchicalVAE.Config(likelihood=SharedScaleNormal())  # of what is asked for

        def build(self, space: Space, given: tuple[Space, ...] = ()) -> "GQN":
            return GQN(self, space, given)

        def views_given(self) -> int:
            return self.context_views

        @classmethod
        def example(cls) -> tuple["GQN.Config", Space, tuple[Space, ...]]:
            small = MLP.Config(hidden=(3,))
            scales = (Scale(factor=2, latent=1, blocks=1), Scale(factor=1, latent=1, blocks=1))
            given = (Space((2, 1, 2, 2), levels=2), Space((2, 3)), Space((), levels=3, ordered=False), Space((3,)))
            config = cls(
                context_views=2,
                representation=3,
                features=2,
                encoder=small,
                placing=ResidualMLP.Config(width=4, blocks=1),
                asking=ResidualMLP.Config(width=4, blocks=1, scaled=True),
                vae=HierarchicalVAE.Config(scales=scales, width=4, inner=2),
            )
            return config, Space((1, 2, 2), levels=2), given

    def __init__(self, config: Config, space: Space, given: tuple[Space, ...] = ()):
        super().__init__(config, space, given)
        _check(config, space, given)
        R, D = (config.representation,), given[3].dims
        finest = config.vae.scales[-1].factor
        seen = Space((config.features, *(side // finest for side in space.shape[-2:])))
        self.vae = config.vae.build(space, (seen,))
        self.encoder = config.encoder.build(given[0]._replace(shape=given[0].shape[1:]).feature_shape, R)
        self.placing = config.placing.build(R, R, D)
        self.asking = config.asking.build(R, seen.shape, D)
        for network in (self.encoder, self.placing, self.asking):
            _begin(network)

    @property
    def context_views(self) -> int:
        return self.config.context_views

    # ---- the scene

    def represented(self, y: Y) -> Tensor:
        """r, the sum over the context views: [B, representation].

        On a CPU those that are not there cost nothing. Another device would have to wait for their number.
        """
        x, cameras, number, _ = conditions(y, self.given)
        there = (torch.arange(x.shape[1], device=x.device) < number[:, None]).flatten()  # [B * M]
        x, cameras = x.flatten(0, 1), cameras.to(self.dtype).flatten(0, 1)
        place = torch.arange(len(there), device=x.device)
        place = place[there] if x.device.type == "cpu" else place
        seen = self.encoder(self.given[0].features(x[place]).to(self.dtype))
        of_each = self.placing(seen, cameras[place])
        of_each = of_each * there[place, None].to(of_each.dtype)
        all_places = of_each.new_zeros(len(there), of_each.shape[1]).index_copy(0, place, of_each)
        return all_places.unflatten(0, (len(number), -1)).sum(1)

    def shown(self, y: Y) -> Tensor:
        """The features of what the camera that is asked for sees of the scene: [B, features, h, w]."""
        camera = conditions(y, self.given)[3]
        return self.asking(self.represented(y), camera.to(self.dtype))

    def taken_conditions(self, n: int, y: Any) -> Y:
        if y is None:
            raise ModelError(
                f"{type(self).__name__} is asked for a view by its camera: y=(context images, their cameras, how many "
                "there are, the camera that is asked for), and there is none"
            )
        return super().taken_conditions(n, y)

    # ---- what the numbers are worth

    @property
    def density(self) -> Density:
        return self.vae.density

    @property
    def pixelwise(self) -> bool:
        return self.vae.pixelwise

    @property
    def likelihood_density(self) -> Density:
        return self.vae.likelihood_density

    @property
    def prior_densities(self) -> tuple[Density, ...]:
        return self.vae.prior_densities

    @property
    def unbiased(self) -> bool:
        return True

    def why_no_density(self) -> str:
        return self.vae.why_no_density()

    @property
    def footprint(self) -> int:
        return max(self.vae.footprint, 2 * math.prod(self.given[0].shape))

    def predicted(self, y: Y, draws: int = 1) -> Tensor:
        descent = self.vae.descent(None, self.shown(y))
        for _ in self.latents:
            p = descent.prior()
            descent.take(p.sample((draws,)) if len(p.batch_shape) == 1 else p.sample())
        return descent.likelihood().mean.mean(0)

    # ---- the levels, which are those of the hierarchical VAE

    @property
    def estimator(self) -> Estimator:
        return self.vae.estimator

    @property
    def remarks(self) -> tuple[str, ...]:
        return self.vae.remarks

    @property
    def latents(self) -> tuple[Space, ...]:
        return self.vae.latents

    @property
    def levels(self) -> tuple[str, ...]:
        return self.vae.levels

    def bottom_up(self, x: Tensor, y: Y = None) -> list[Tensor]:
        return self.vae.bottom_up(x, self.shown(y))

    def posterior(self, l: int, h: list[Tensor], coarser: tuple[Tensor, ...] = (), y: Y = None) -> Distribution:
        return self.vae.posterior(l, h, coarser, self.shown(y))

    def prior_of(self, l: int, coarser: tuple[Tensor, ...] = (), y: Y = None) -> Distribution:
        return self.vae.prior_of(l, coarser, self.shown(y))

    def likelihood(self, z: tuple[Tensor, ...], y: Y = None) -> Distribution:
        return self.vae.likelihood(z, self.shown(y))

    def posteriors(self, x: Tensor, y: Y = None) -> tuple[Distribution, ...]:
        return self.vae.posteriors(x, self.shown(y))

    def elbo_terms(self, x: Tensor, y: Y = None, draws: int = 1) -> ElboTerms:
        return self.vae.elbo_terms(x, self.shown(y), draws)

    def _terms(
        self, x: Tensor, h: Any, y: Y, draw: Callable[[Distribution], Draws], prior_of: Callable[..., Distribution]
    ) -> ElboTerms:
        return self.vae._terms(x, h, self.shown(y), draw, self.vae.prior_of)

    def _loss(self, x: Tensor, y: Y = None, step: int = 0) -> Loss:
        return self.vae._loss(x, self.shown(y), step)

    def stages(self) -> tuple[Stage, ...]:
        return (Stage("model", (Turn((self,), self._loss),), score=self.config.vae.objective.score),)

    def _draw_latents(self, n: int, y: Y, how: Draw, told: Told, coarse: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return self.vae._draw_latents(n, self.shown(y), how, told, coarse)

    def _centers(self, x: Tensor, y: Y = None, levels: Sequence[str] | None = None) -> tuple[Tensor, ...]:
        return self.vae._centers(x, self.shown(y), levels)


def _begin(network: Network) -> None:
    """Weights begin as N(0, 2 / inputs) and biases at 0 (He et al. 2015, https://arxiv.org/abs/1502.01852), but what
    begins at 0. By torch's own a scene would hardly be seen through so many layers, and little would be learnt of it.
    """
    for layer in network.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d) and layer.weight.any():
            nn.init.kaiming_normal_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def _check(config: GQN.Config, space: Space, given: tuple[Space, ...]) -> None:
    """Raise ConfigError where it is not given views of a scene, of images."""
    if len(given) != 4 or len(given[0].shape) != 4 or given[0].shape[0] != config.context_views:
        raise ConfigError(
            "model: a GQN is given other views of a scene and their cameras; set data.views=6, and data.source=scenes"
        )
    if any(side % config.vae.scales[-1].factor for side in space.shape[-2:]):
        config.vae.build(space)  # says why it can't be

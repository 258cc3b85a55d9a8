"""A generative adversarial network: samples in one pass, and nothing said of log p(x)."""

from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.distributions import Independent
from torch.nn.modules.batchnorm import _BatchNorm

from lowerbound import noise
from lowerbound.config import Component
from lowerbound.devices import at_least_float32, widened
from lowerbound.distributions import Normal
from lowerbound.errors import ConfigError
from lowerbound.model import Adversarial, Draw, Drawn, Generating, Model, Told
from lowerbound.networks.base import Network, Shape
from lowerbound.networks.context import Context
from lowerbound.networks.conv import Conv
from lowerbound.networks.mlp import MLP
from lowerbound.networks.spectral import spectrally_normalized
from lowerbound.objectives import R1, Game, NonSaturating, Penalty
from lowerbound.objectives.adversaries import held
from lowerbound.optimization import Optimizer
from lowerbound.space import Space, Y
from lowerbound.stages import Loss, Score, Size, Stage, Turn
from lowerbound.units import from_unit, to_unit, unit_bin

FEWEST = 32  # training images, below which a discriminator only learns their names
SCORED = 1000  # samples, at least, whose Fréchet distance says which weights are kept


class Discriminating(Component):
    """What tells real events from drawn ones, and how it is trained."""

    # from an event to the features that D is linear in
    network: Network.Config = Conv.Config(widths=(32, 64), slope=0.2)
    features: int = Field(default=128, gt=0)  # that it puts out, and D is linear in
    spectral: bool = False  # normalization, of every layer
    # where there is a condition: D is bilinear in features and condition; else the condition is one of the inputs
    projected: bool = True
    optimizer: Optimizer | None = None  # None: the training's
    steps: int = Field(default=1, gt=0)  # for each of the generator


class GAN(Adversarial, Generating):
    r"""A generator G of samples x̃ = G(z), z ~ N(0, I), and a discriminator D, trained against each other.

    Goodfellow et al. (2014), https://arxiv.org/abs/1406.2661; in the taxonomy of Goodfellow (2016),
    https://arxiv.org/abs/1701.00160, an implicit density with direct samples. What the two descend is a
    `objectives.Game`, and what keeps D smooth an `objectives.Penalty`. DCGANs have networks.conv.Conv as networks,
    normalized in the generator.

    Pixels are scaled to [-1, 1], where G ends in a hyperbolic tangent; a sample is rounded to the nearest value. D sees
    real and drawn pixels alike with uniform noise on them as wide as one value: whole numbers are not told from real
    ones at sight, and where the noisy ones have one distribution, so have those without it. Events of real numbers are
    taken as they are.

    A step is `discriminator.steps` moves of D, each on a batch of its own, and one of G. The weights that are kept are
    those, averaged, whose samples have the least Fréchet distance to the validation images.

    Given a condition y, it is an input of G, and D is projected on it (Miyato & Koyama 2018,
    https://arxiv.org/abs/1802.05637): D(x, y) = w·φ(x) + b + (V y)·φ(x).

    Example:
        >>> gan = GAN.Config(latent=8).build(Space((1, 8, 8), levels=17))
        >>> gan.sample(5).shape, gan.density
        (torch.Size([5, 1, 8, 8]), <Density.NONE: '?'>)
    """

    class Config(Model.Config):
        latent: int = Field(default=64, gt=0)  # numbers of z
        generator: Network.Config = Conv.Config(widths=(32, 64), normalized=True)  # from z to an event
        discriminator: Discriminating = Discriminating()  # and how it is trained
        objective: Game = NonSaturating()  # what the two descend
        penalty: Penalty | None = R1()  # what keeps D smooth
        context: int = Field(default=32, gt=0)  # width of the condition's embedding, where it is an input

        def build(self, space: Space, given: tuple[Space, ...] = ()) -> "GAN":
            return GAN(self, space, given)

        @classmethod
        def example(cls) -> tuple["GAN.Config", Space, tuple[Space, ...]]:
            small = MLP.Config(hidden=(4,))
            own = Discriminating(network=small, features=3)
            return cls(latent=2, generator=small, discriminator=own), Space((1, 2, 2), levels=3), ()

    def __init__(self, config: Config, space: Space, given: tuple[Space, ...] = ()):
        super().__init__(config, space, given)
        if not space.ordered:
            raise ConfigError(
                f"{config.type_name()} draws real numbers and rounds them, which means nothing for codes, whose values "
                "are names; use models.autoregressive.Autoregressive"
            )
        self.condition = Context(given, config.context)
        self.generator = config.generator.build((config.latent,), space.shape, self.condition.width)
        self.discriminator = Discriminator(config, space.shape, given)
        if config.penalty is not None and _is_normalized(self.discriminator):
            raise ConfigError(
                f"model.penalty: {config.penalty.type_name()} takes the slope of D at each image by itself, and "
                "normalization over the batch mixes them; set model.discriminator.network.normalized=false, or "
                "model.penalty=null"
            )

    @property
    def judges(self) -> bool:
        return self.config.objective.judges

    @property
    def footprint(self) -> int:
        return max(self.space.dims, self.generator.largest(self.space.shape[1:]))

    # ---- training

    def stages(self) -> tuple[Stage, ...]:
        own = self.config.discriminator
        discriminator = Turn(
            (self.discriminator,), self._discriminator_loss, "discriminator", own.optimizer, times=own.steps
        )
        generator = Turn((self.condition, self.generator), self._loss, "generator")
        return (Stage("model", (discriminator, generator), sized=self._check, score=Score(None, samples=SCORED)),)

    def _check(self, size: Size) -> None:
        """Raise ConfigError where a training of this size is none for it."""
        if size.events < FEWEST:
            raise ConfigError(
                f"data.source: {size.events} training images, which a discriminator knows by heart after a few steps; "
                f"a GAN takes at least {FEWEST}, and thousands to be any good; a VAE (recipe vae) learns from fewer"
            )
        if size.batch < 2 and _is_normalized(self):
            raise ConfigError(
                "train.batch=1: the networks are normalized over the batch, and one image has no spread; set "
                "train.batch=64"
            )

    def _discriminator_loss(self, x: Tensor, y: Y = None, step: int = 0) -> Loss:
        """Of the discriminator."""
        game, penalty = self.config.objective, self.config.penalty
        real = self._noisy(self._scaled(x))
        with torch.no_grad():
            drawn = self._noisy(self._generated(self._latents(len(x)), self.condition(y)))

        def D(x: Tensor) -> Tensor:
            return self.discriminator(x, y)

        of_real, of_drawn = D(real), D(drawn)
        each, terms = game.discriminator(of_real, of_drawn), {"real": of_real, "drawn": of_drawn}
        if game.judges:
            terms["accuracy"] = 0.5 * ((of_real > 0).to(of_real) + (of_drawn < 0).to(of_drawn))
        if penalty is not None:
            terms["penalty"] = penalty(D, real, drawn)
            each = each + terms["penalty"]
        return Loss(each.mean(), {name: term.detach() for name, term in terms.items()})

    def _loss(self, x: Tensor, y: Y = None, step: int = 0) -> Loss:
        """Of the generator, of as many samples as there are events, given what is given of these."""
        drawn = self._noisy(self._generated(self._latents(len(x)), self.condition(y)))
        value = self.config.objective.generator(held(self.discriminator, drawn, y))
        return Loss(value.mean(), {"value": value.detach()})

    def _scaled(self, x: Tensor) -> Tensor:
        """Events as the discriminator sees them."""
        x = x.to(self.dtype)
        return x if self.space.levels is None else to_unit(x, self.space.levels)

    def _noisy(self, s: Tensor) -> Tensor:
        """With uniform noise as wide as one value."""
        return s if self.space.levels is None else s + unit_bin(self.space.levels) * (noise.rand_like(s) - 0.5)

    def _latents(self, n: int, scale: float = 1.0) -> Tensor:
        return scale * noise.randn((n, self.config.latent), dtype=self.dtype, device=self.device)

    def _generated(self, z: Tensor, c: Tensor | None) -> Tensor:
        """G(z) [B, *space.shape], scaled, given the condition's embedding."""
        h = self.generator(z, c)
        return h if self.space.levels is None else torch.tanh(h)

    # ---- what it answers

    def _draw(self, n: int, y: Y, how: Draw, told: Told) -> Drawn:
        z = self._latents(n, how.at().temperature)
        return Drawn(self._rounded(self._generated(z, self.condition(y))), (z,))

    @torch.no_grad()
    def from_noise(self, z: Tensor, y: Y = None) -> Tensor:
        """The sample that each z [B, latent] is made into: [B, *space.shape]."""
        c = self.condition(self.taken_conditions(len(z), y))
        return self._rounded(self._generated(z.to(self.device, self.dtype), c))

    def _rounded(self, s: Tensor) -> Tensor:
        x = self._in_pixels(s)
        if self.space.levels is None:
            return x
        return x.round().clamp(0, self.space.levels - 1).to(self.space.dtype)

    def _in_pixels(self, s: Tensor) -> Tensor:
        s = widened(s)
        return s if self.space.levels is None else from_unit(s, self.space.levels)

    @property
    def base(self) -> Independent:
        zero = torch.zeros(self.config.latent, dtype=at_least_float32(self.dtype), device=self.device)
        return Independent(Normal(zero, torch.ones_like(zero), validate_args=False), 1, validate_args=False)

    def generated(self, z: Tensor, y: Y = None) -> Tensor:
        batch, c = z.shape[:-1], self.condition(y)
        if c is not None:
            c = c.expand(*batch, c.shape[-1]).flatten(0, -2)
        return self._in_pixels(self._generated(z.flatten(0, -2).to(self.dtype), c)).unflatten(0, batch)

    @torch.no_grad()
    def realness(self, x: Any, y: Y = None) -> Tensor:
        x, y = self.taken(x, y)
        return self.discriminator(self._scaled(x), y)

    def why_no_density(self) -> str:
        return (
            "it draws images, and doesn't know how likely one is; a VAE (recipe vae) has a bound of it, an "
            "autoregressive model (pixelcnn-mnist) the exact value"
        )

    def why_no_code(self) -> str:
        return "a GAN makes images of noise, and has no encoder that finds the code of an image; a VAE (recipe vae) has"


class Discriminator(nn.Module):
    """D(x) [B], or D(x, y), of events as networks see them."""

    def __init__(self, config: GAN.Config, shape: Shape, given: tuple[Space, ...]):
        super().__init__()
        own = config.discriminator
        self.projected = own.projected and bool(given)
        self.condition = Context(given, own.features if self.projected else config.context)
        joined = 0 if self.projected else self.condition.width
        self.network = own.network.build(shape, (own.features,), joined)
        self.last = nn.Linear(own.features, 1, bias=config.objective.judges)  # else only differences count
        if own.spectral:
            spectrally_normalized(self)

    def forward(self, x: Tensor, y: Y = None) -> Tensor:
        c = self.condition(y)
        features = F.leaky_relu(self.network(x, None if self.projected else c), 0.2)
        found = self.last(features)[:, 0]
        return widened(found + (c * features).sum(1) if self.projected and c is not None else found)


def _is_normalized(network: nn.Module) -> bool:
    """Over the batch."""
    return any(isinstance(part, _BatchNorm) for part in network.modules())

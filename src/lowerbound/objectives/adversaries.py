"""Whom a model is trained against: a network that reads its codes, with an optimizer and a turn of its own."""

from abc import abstractmethod
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from lowerbound import noise
from lowerbound.config import Component
from lowerbound.devices import widened
from lowerbound.errors import ConfigError
from lowerbound.networks.base import Network
from lowerbound.networks.mlp import MLP
from lowerbound.optimization import Adam, Optimizer, grown
from lowerbound.parallel.rows import all_rows, mean_of_rows
from lowerbound.space import Space, Y, conditions
from lowerbound.stages import Loss, Size


class Adversary(nn.Module):
    """Reads one draw of q(z|x) of each image of a batch. Subclasses are final, with a nested Config.

    In every step the model descends its objective and, weighed by `gamma`, what this finds in z (`found`), which is
    held fixed meanwhile; then this descends its own loss, on new draws that no gradient goes back through. Its weights
    are the model's, and its optimizer is saved and resumed as every turn's.
    """

    term: ClassVar[str]  # what is found, in the log

    class Config(Component, abstract=True):
        gamma: float = Field(default=1.0, ge=0)  # what a nat of what it finds counts
        warmup: int = Field(default=0, ge=0)  # steps over which gamma grows from 0
        optimizer: Optimizer = Adam(lr=1e-4, beta1=0.5, beta2=0.9)  # of the adversary

        @abstractmethod
        def build(self, latent: Space, given: tuple[Space, ...] = ()) -> "Adversary":
            """Raises ConfigError for latents, and for what is given of an image, that it can't read."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config

    @abstractmethod
    def found(self, z: Tensor, y: Y) -> Tensor:
        """What the model is to make small, in nats of each z [B, *latent]: [B]. With a gradient for z alone."""

    @abstractmethod
    def loss(self, z: Tensor, y: Y) -> Loss:
        """What it descends itself."""

    def check(self, size: Size) -> None:
        """Raise ConfigError where a training of this size is none for it."""

    def opposing(self, loss: Loss, z: Tensor, y: Y, step: int) -> Loss:
        """The model's loss with what is found in z [B, *latent] and given of the same images."""
        gamma = self.config.gamma * (grown(step + 1, self.config.warmup) if self.config.warmup else 1.0)
        found = self.found(z, y)
        return Loss(loss.value + gamma * found.mean(), {**loss.terms, self.term: found.detach()})


def held(network: nn.Module, *inputs: Any) -> Tensor:
    """What a network says of its inputs as a function of them alone: its weights are held fixed."""
    return torch.func.functional_call(network, {name: p.detach() for name, p in network.named_parameters()}, inputs)


class TotalCorrelation(Adversary):
    r"""How far the elements of z are from independent ones: FactorVAE (Kim & Mnih 2018,
    https://arxiv.org/abs/1802.05983), with `objectives.ELBO`.

    .. math:: \frac1N \sum_i \left[ E_{q(z|x_i)}[\log p(x_i|z)] - KL(q(z|x_i) \| p(z)) \right]
        - \gamma\, KL\Big(q(z) \Big\| \prod_j q(z_j)\Big) \qquad (2)

    The last term is estimated as the mean of log D(z) / (1 - D(z)), where D(z) is the probability that z is a draw of
    q(z) and not of the product. D descends the cross-entropy of the two (algorithm 2): its draws of the product have
    each element from another image of the batch. The paper's two batches are the halves of one. Its D has 6 layers of
    1000 units, and Adam 1e-4 with betas 0.5 and 0.9.

    Example:
        >>> adversary = TotalCorrelation.Config(network=MLP.Config(hidden=(8,))).build(Space((3,)))
        >>> z = torch.zeros(16, 3)
        >>> adversary.found(z, None).shape, adversary.loss(z, None).terms["accuracy"].shape
        (torch.Size([16]), torch.Size([16]))
    """

    term: ClassVar[str] = "total_correlation"

    class Config(Adversary.Config):
        gamma: float = Field(default=35.0, ge=0)  # weight of the total correlation, γ
        # of the discriminator, from z to two logits
        network: Network.Config = MLP.Config(hidden=(1000,) * 6, activation="leaky_relu")

        def build(self, latent: Space, given: tuple[Space, ...] = ()) -> "TotalCorrelation":
            return TotalCorrelation(self, latent)

    def __init__(self, config: Config, latent: Space):
        super().__init__(config)
        if latent.dims < 2:
            raise ConfigError("model.latent: a single element of z correlates with nothing; set model.latent=10")
        self.network = config.network.build((latent.dims,), (1,))

    def check(self, size: Size) -> None:
        if size.batch < 4:
            raise ConfigError(
                f"train.batch={size.batch}: {self.config.type_name()} mixes the codes of half a batch among them; set "
                "train.batch=64"
            )

    def found(self, z: Tensor, y: Y) -> Tensor:
        return widened(held(self.network, z.flatten(1)))[:, 0]

    def loss(self, z: Tensor, y: Y) -> Loss:
        z = all_rows(z.flatten(1))  # each process reads all of them
        with noise.of_rows(None):
            return self._of_halves(z)

    def _of_halves(self, z: Tensor) -> Loss:
        joint, product = z[: (len(z) + 1) // 2], permuted(z[(len(z) + 1) // 2 :])
        a, b = widened(self.network(joint))[:, 0], widened(self.network(product))[:, 0]
        right = torch.cat([a > 0, b < 0]).to(a.dtype)
        return Loss(0.5 * (F.softplus(-a).mean() + F.softplus(b).mean()), {"accuracy": right})


def permuted(z: Tensor) -> Tensor:
    """z [B, D] with each element of another row, each column in an order of its own (Kim & Mnih 2018, algorithm 1)."""
    return z.gather(0, noise.rand_like(z).argsort(0))


class Invariance(Adversary):
    r"""How much z tells of the attributes y that the model is given beside it, which p(x|z, y) has no need of: an
    adversary predicts them (after the fader networks of Lample et al. 2017, https://arxiv.org/abs/1706.00409, whose
    attributes are binary).

    .. math:: \min_{q, p} \; -\mathrm{ELBO} + \gamma \, \tfrac12 E\left[ |y - \bar y|^2 - |y - \hat y(z)|^2 \right]

    Here y is as networks see it (standardized numbers, cosine and sine, one-hot), and the bracket how much better its
    prediction is than its mean: in nats, under normals of variance 1. The adversary descends the squared error. Where
    it predicts no better than the mean, nothing pulls, so that z is not driven to mislead it.

    Example:
        >>> adversary = Invariance.Config(network=MLP.Config(hidden=(8,))).build(Space((3,)), (Space((2,)),))
        >>> adversary.found(torch.randn(16, 3), torch.randn(16, 2)).shape
        torch.Size([16])
    """

    term: ClassVar[str] = "told_by_z"

    class Config(Adversary.Config):
        gamma: float = Field(default=10.0, ge=0)  # weight of what z tells of the attributes, γ
        network: Network.Config = MLP.Config(hidden=(256, 256))  # of the adversary, from z to the attributes
        optimizer: Optimizer = Adam(lr=1e-3)  # of the adversary

        def build(self, latent: Space, given: tuple[Space, ...] = ()) -> "Invariance":
            return Invariance(self, latent, given)

    def __init__(self, config: Config, latent: Space, given: tuple[Space, ...]):
        super().__init__(config)
        if len(given) != 1 or given[0].levels is not None or len(given[0].shape) != 1:
            raise ConfigError(
                f"model.adversary: {config.type_name()} keeps z free of the attributes that the model is given; set "
                "data.given"
            )
        self.given = given
        self.network = config.network.build((latent.dims,), given[0].shape)

    def found(self, z: Tensor, y: Y) -> Tensor:
        # --8<-- [start:invariance]
        (known,) = conditions(y, self.given)
        error = (widened(held(self.network, z.flatten(1))) - known).square().sum(1)
        gain = 0.5 * ((known - mean_of_rows(known)).square().sum(1) - error)
        return gain * (mean_of_rows(gain) > 0)
        # --8<-- [end:invariance]

    def loss(self, z: Tensor, y: Y) -> Loss:
        (known,) = conditions(y, self.given)
        error = (widened(self.network(z.flatten(1))) - known).square().sum(1)
        return Loss(error.mean(), {"squared_error": error.detach()})

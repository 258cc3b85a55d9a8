"""A classifier of images: an encoder, and one linear layer on the code it gives."""

import math

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator
from torch import Tensor, nn

from lowerbound.devices import widened
from lowerbound.errors import ConfigError, ModelError
from lowerbound.families import Family, Head, Point
from lowerbound.model import PLAIN, Classifying, Draw, Drawn, LatentModel, Model, Told, told_nobody
from lowerbound.models.latents import latent_shape
from lowerbound.models.vae import VAE
from lowerbound.networks.base import Network
from lowerbound.networks.mlp import MLP
from lowerbound.parallel.rows import mean_of_rows, whole_of
from lowerbound.space import UNKNOWN, Space, Y, conditions
from lowerbound.stages import Loss


class Classifier(Classifying):
    r"""Probabilities of a label given the image.

    .. math:: p(y|x) = \mathrm{softmax}(W E_q[z|x] + b)_y

    It has the networks of a VAE's posterior, and may begin with its weights (`begin_at`). What it is given while it is
    trained is what it predicts: one label. It says nothing of x itself: no density, no samples.

    Example:
        >>> label = Space((), levels=10, ordered=False)
        >>> classifier = Classifier.Config(latent=8).build(Space((1, 8, 8), levels=17), (label,))
        >>> classifier.probabilities(torch.zeros(5, 1, 8, 8, dtype=torch.uint8)).shape
        torch.Size([5, 10])
    """

    class Config(Classifying.Config):
        latent: tuple[int, ...] = Field(default=(64,), min_length=1)  # the shape of the code
        posterior: Family = Point()  # how the encoder puts it out; its mean is taken
        encoder: Network.Config = MLP.Config()  # from the image to the features

        _shape = field_validator("latent", mode="before")(latent_shape)

        def build(self, space: Space, given: tuple[Space, ...] = ()) -> "Classifier":
            return Classifier(self, space, given)

        def learns_labels(self) -> bool:
            return True

        @classmethod
        def of(cls, model: Model) -> "Classifier.Config":
            if not isinstance(model, VAE):
                raise ModelError(f"{type(model).__name__} has no encoder network to fine-tune")
            config = model.config
            return cls(latent=config.latent, posterior=config.posterior, encoder=config.encoder)

        @classmethod
        def example(cls) -> tuple["Classifier.Config", Space, tuple[Space, ...]]:
            label = Space((), levels=3, ordered=False)
            return cls(latent=(2,), encoder=MLP.Config(hidden=(4,))), Space((1, 2, 2), levels=2), (label,)

    def __init__(self, config: Config, space: Space, given: tuple[Space, ...] = ()):
        super().__init__(config, space, given)
        if len(given) != 1 or given[0].levels is None or given[0].shape:
            raise ConfigError("model: a Classifier learns one label from each image; set data.label=true")
        self.posterior_head = Head(config.posterior, Space(config.latent))
        self.encoder = config.encoder.build(space.feature_shape, self.posterior_head.in_shape)
        self.linear = nn.Linear(math.prod(config.latent), self.classes)

    @torch.no_grad()
    def begin_at(self, model: LatentModel, weight: Tensor, bias: Tensor) -> None:
        """Take a VAE's encoder, and the linear layer W [classes, D], b [classes] on its features."""
        assert isinstance(model, VAE)
        self.encoder.load_state_dict(model.encoder.state_dict())
        self.posterior_head.load_state_dict(model.posterior_head.state_dict())
        self.linear.weight.copy_(weight)
        self.linear.bias.copy_(bias)

    @property
    def can_sample(self) -> bool:
        return False

    def why_no_density(self) -> str:
        return "it is a model p(y|x) of the label given the image, and says nothing of the image itself"

    def logits(self, x: Tensor) -> Tensor:
        """log p(y|x) up to a constant: [B, classes]. Raises ModelError for what are no events."""
        return self._predicted(self.taken_events(x))

    def _predicted(self, x: Tensor) -> Tensor:
        return widened(self.linear(self.code(x).to(self.dtype)))

    def code(self, x: Tensor) -> Tensor:
        """What the linear layer is given: [B, D]."""
        return self.posterior_head(self.encoder(self.seen(x))).mean.flatten(1)

    def _loss(self, x: Tensor, y: Y = None, step: int = 0) -> Loss:
        (label,) = conditions(y, self.given)
        logits = self._predicted(x)
        nats, known = F.cross_entropy(logits, label, ignore_index=UNKNOWN, reduction="none"), label != UNKNOWN  # [B]
        share = mean_of_rows(known.to(nats.dtype)).clamp(min=1 / whole_of(len(nats)))  # of the labels that are known
        right = (logits.argmax(1) == label).to(nats.dtype)
        return Loss(nats.mean() / share, {"cross_entropy": nats.detach() / share, "accuracy": right / share})

    def draw(self, n: int, y: Y = None, how: Draw = PLAIN, told: Told = told_nobody) -> Drawn:
        raise ModelError(f"Classifier can't be sampled: {self.why_no_density()}")

    def _draw(self, n: int, y: Y, how: Draw, told: Told) -> Drawn:
        return self.draw(n, y)

"""Generative stochastic networks: a Markov chain that is learned as a reconstruction of what was corrupted."""

import math
from collections.abc import Iterable

import torch
from pydantic import Field
from torch import Tensor
from torch.distributions import Distribution
from torch.utils.flop_counter import FlopCounterMode

from lowerbound import noise
from lowerbound.errors import ConfigError, ModelError
from lowerbound.families import Bernoulli, Family, Head
from lowerbound.model import PLAIN, Chained, Draw, Drawn, Model, Told, WithoutDensity, told_nobody
from lowerbound.networks.base import Network
from lowerbound.networks.context import Context
from lowerbound.networks.mlp import MLP
from lowerbound.objectives import Corruption, SaltAndPepper
from lowerbound.space import Density, Space, Y, check_number_of
from lowerbound.stages import Loss, Stage, Turn, some


class GSN(WithoutDensity, Chained):
    r"""A generative stochastic network whose hidden state is a corrupted image: a denoising autoencoder as a model of
    images.

    A step of its chain corrupts the image, and draws another from a learned reconstruction:

    .. math:: \tilde x_t \sim C(\tilde x | x_t), \quad x_{t+1} \sim p(x | \tilde x_t, y)

    Where p is the posterior of x given x̃ for images of the data, their distribution is the one that the chain leaves
    as it is; and C must leave every image within reach of every other. Nothing else is known of the distribution that
    the chain comes to: it has no density (`?`). Bengio, Yao, Alain and Vincent (2013), Generalized Denoising
    Auto-Encoders as Generative Models, https://arxiv.org/abs/1305.6663; Bengio et al. (2014), Deep Generative
    Stochastic Networks Trainable by Backprop, https://arxiv.org/abs/1306.1091, where hidden units go on from step to
    step beside x.

    It is trained by walkback: the chain is begun at an image x of the data and taken K steps away, and at each the
    reconstruction is to lead back to x; K = 1 is the denoising autoencoder.

    .. math:: \frac{1}{K} \sum_{k=1}^K -\log p(x | \tilde x_k), \quad
        \tilde x_k \sim C(\tilde x | x_k), \quad x_1 = x, \quad x_{k+1} \sim p(x | \tilde x_k)

    Steps k > 1 teach the network to leave places that the chain gets to and the data have not. The distribution that
    the chain leaves as it is stays the same.

    Every event that is drawn has a chain of its own, which begins at a training image (`starts`) or at noise: values
    that are all as likely, or for real events of N(0, I).

    Example:
        >>> gsn = GSN.Config(steps=20).build(Space((1, 8, 8), levels=2))
        >>> gsn.sample(3).shape, gsn.chain(3, 5).shape
        (torch.Size([3, 1, 8, 8]), torch.Size([3, 5, 1, 8, 8]))
    """

    class Config(Model.Config):
        network: Network.Config = MLP.Config()  # of x̃
        likelihood: Family = Bernoulli()  # p(x|x̃)
        corruption: Corruption = SaltAndPepper(fraction=0.4)  # C
        walkback: int = Field(default=5, gt=0)  # K
        steps: int = Field(default=100, gt=0)  # of a chain, before its state is what is drawn
        starts: int = Field(default=0, ge=0)  # training images that are kept, for chains to begin at; 0: at noise
        context: int = Field(default=64, gt=0)  # width of what is given

        def binary(self) -> bool:
            return isinstance(self.likelihood, Bernoulli)

        def build(self, space: Space, given: tuple[Space, ...] = ()) -> "GSN":
            return GSN(self, space, given)

        @classmethod
        def example(cls) -> tuple["GSN.Config", Space, tuple[Space, ...]]:
            network = MLP.Config(hidden=(6,))
            return cls(network=network, walkback=2, steps=4, starts=2, context=4), Space((1, 2, 2), levels=2), ()

    starts: Tensor

    def __init__(self, config: Config, space: Space, given: tuple[Space, ...] = ()):
        super().__init__(config, space, given)
        self.head = Head(config.likelihood, space)
        if self.head.density is not Density.EXACT:
            levels = "real numbers" if space.levels is None else f"{space.levels} levels"
            raise ConfigError(
                f"model.likelihood: the chain draws images from it, and {config.likelihood.type_name()} is no "
                f"distribution over {levels}; use families.Bernoulli for binary images, families.Categorical or "
                "families.DiscretizedNormal for grey ones"
            )
        self.context = Context(given, config.context)
        self.network = config.network.build(space.feature_shape, self.head.in_shape, self.context.width)
        self.register_buffer("starts", torch.zeros(config.starts, *space.shape, dtype=space.dtype))

    def stages(self) -> tuple[Stage, ...]:
        return (Stage("model", (Turn((self,), self._loss),), begin=self._keep),)

    @torch.no_grad()
    def _keep(self, events: Iterable[Tensor]) -> None:
        """Keep some of all training images, for chains to begin at."""
        if not len(self.starts):
            return
        kept = some(events, len(self.starts))
        if len(kept) < len(self.starts):
            raise ModelError(
                f"model.starts={len(self.starts)}: there are {len(kept)} training images to begin at; set at most "
                f"{len(kept)}"
            )
        self.starts.copy_(kept)

    def why_no_density(self) -> str:
        return (
            "it is known by the steps of its Markov chain alone, and the distribution that these come to has no "
            "formula; judge its samples (--metrics frechet,precision,recall), or for log p(x) train an autoregressive "
            "model (=, such as nade-mnist) or a VAE (<=, such as vae-mnist) on the same images"
        )

    # ---- what it costs

    @property
    def footprint(self) -> int:
        largest = self.network.largest(self.space.shape[1:] if len(self.space.shape) == 3 else ())
        return max(self.space.dims, math.prod(self.head.in_shape), largest)

    @property
    def cost(self) -> int:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            like = torch.zeros(1, *self.space.feature_shape, dtype=self.dtype, device=self.device)
            self.network(like, like.new_zeros(1, self.context.width) if self.given else None)
        return self.config.steps * counter.get_total_flops() // 2

    # ---- a step of the chain

    def corrupted(self, x: Tensor) -> Tensor:
        """A draw of C(x̃|x), as the network sees it: [B, *feature_shape]."""
        return self._corrupted(self.taken_events(x))

    def reconstruction(self, corrupted: Tensor, y: Y = None) -> Distribution:
        """p(x|x̃) for x̃ [B, *feature_shape]. Raises ModelError for other conditions."""
        return self._reconstruction(corrupted, self.context(self.taken_conditions(len(corrupted), y)))

    def _corrupted(self, x: Tensor) -> Tensor:
        return self.config.corruption(self.seen(x), self.space.black_and_white)

    def _reconstruction(self, corrupted: Tensor, c: Tensor | None) -> Distribution:
        return self.head(self.network(corrupted, c))

    def _loss(self, x: Tensor, y: Y = None, step: int = 0) -> Loss:
        c, K, nll, at = self.context(y), self.config.walkback, [], x
        for k in range(K):
            p = self._reconstruction(self._corrupted(at), c)
            nll.append(-p.log_prob(x))
            if k < K - 1:
                with torch.no_grad():
                    at = p.sample()
        loss = torch.stack(nll)  # [K, B]
        return Loss(loss.mean(), {"reconstruction": nll[0].detach(), "walkback": loss.detach().mean(0)})

    # ---- the chain

    @property
    def has_means(self) -> bool:
        return True

    def _draw(self, n: int, y: Y, how: Draw, told: Told) -> Drawn:
        return Drawn(self._walk(self._started(n), y, how, told)[:, 0])

    @torch.no_grad()
    def chain(self, n: int, length: int, y: Y = None, how: Draw = PLAIN) -> Tensor:
        self.check_how(how)
        check_number_of(length, "length")
        y = self._checked_draw(n, y, how)
        return self._walk(self._started(n), y, how, length=length)

    def _started(self, n: int) -> Tensor:
        """Where n chains begin."""
        shape, device = (n, *self.space.shape), self.device
        if len(self.starts):
            return self.starts[noise.randint(0, len(self.starts), (n,), device=device)]
        if self.space.levels is None:
            return noise.randn(shape, dtype=self.dtype, device=device)
        return noise.randint(0, self.space.levels, shape, device=device).to(self.space.dtype)

    def _walk(
        self, x: Tensor, y: Y, how: Draw, told: Told = told_nobody, *, length: int = 1, stays: Tensor | None = None
    ) -> Tensor:
        """The states after the steps that a draw takes and each of the next ones, or the means that they were drawn
        around: [n, length, *shape]. Where `stays` is true, x does."""
        c, tempering, steps, states = self.context(y), how.at(), how.steps or self.config.steps, []
        for t in range(steps + length - 1):
            p = tempering(self._reconstruction(self._corrupted(x), c))
            drawn = p.sample()
            if t >= steps - 1:
                states.append(_kept(stays, x, p.mean if how.mean else drawn))
            x = _kept(stays, x, drawn)
            told(t + 1, steps + length - 1)
        return torch.stack(states, 1)

    # ---- completing

    def keeps(self, kept: Tensor) -> dict[str, Tensor]:
        if not self.config.likelihood.pixelwise:
            raise ModelError(
                "this chain can't complete images: what is kept leaves the other pixels as they are only where a step "
                f"draws each by itself, and {self.config.likelihood.type_name()} doesn't; use families.Bernoulli, or "
                "families.Categorical"
            )
        return self._kept_pixels(kept)

    def log_p_kept(self, x: Tensor, kept: Tensor, y: Y = None) -> Tensor:
        raise ModelError(
            f"{type(self).__name__} has no log p of a part of an image, to draw what is given by; give --label"
        )

    @torch.no_grad()
    def complete(self, x: Tensor, kept: Tensor, y: Y = None, how: Draw = PLAIN, told: Told = told_nobody) -> Drawn:
        """Events like x where `kept` [H, W] is true, and elsewhere the state of a chain in which that never changes."""
        self.check_how(how)
        x, y = self.taken(x, y)
        y = self._checked_draw(len(x), y, how)
        stays = self._stays(kept)
        return Drawn(self._walk(torch.where(stays, x, self._started(len(x))), y, how, told, stays=stays)[:, 0])


def _kept(stays: Tensor | None, x: Tensor, drawn: Tensor) -> Tensor:
    return drawn if stays is None else torch.where(stays, x.to(drawn.dtype), drawn)

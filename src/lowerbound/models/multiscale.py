"""A normalizing flow of images, at several scales."""

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from lowerbound import noise
from lowerbound.devices import at_least_float32
from lowerbound.errors import ConfigError, ModelError
from lowerbound.model import Draw, Drawn, ExactModel, Invertible, Model, Told
from lowerbound.networks.context import Context
from lowerbound.space import Density, Space, Y
from lowerbound.stages import Stage, Turn
from lowerbound.transforms import ActNorm, Coupled, Dequantizer, Mixing, Uniform, multiscale
from lowerbound.units import from_unit, to_unit, unit_bin

BEGINNING = 512  # events that normalizations begin at


class MultiscaleFlow(ExactModel, Invertible):
    r"""A bijection between images and noise, whose density is the change of variables (Dinh et al. 2017, Real NVP,
    https://arxiv.org/abs/1605.08803; Kingma & Dhariwal 2018, Glow, https://arxiv.org/abs/1807.03039).

    .. math:: \log p(x) = \log N(f(x); 0, I) + \log |\det \partial f / \partial x|

    Per scale f is a squeeze to four times the channels and `steps` of a normalization, an invertible 1x1 convolution
    and a coupling; then half the channels go on, and the others are measured by a normal that these give
    (`transforms.multiscale`). The condition goes into every coupling.

    Of real events that is exact. Whole numbers x are spread over their bins by noise u of q(u|x), and

    .. math:: \log P(x) \ge E_{q(u|x)}[\log p(x + u) - \log q(u|x)]

    is a bound whose draws may be weighted; q is uniform, or a flow itself (`transforms.Variational`). The flow is of
    logits of (x + u) / levels, which spread the values next to the lowest and the highest: see `margin`.

    The code of an event is f(x), of whole numbers f(x + 1/2), in the middle of the bin: what is made of it is x again.

    Example:
        >>> flow = MultiscaleFlow.Config(scales=1, steps=2, width=8).build(Space((1, 4, 4), levels=17))
        >>> x = flow.sample(3)
        >>> torch.equal(flow.from_noise(flow.to_noise(x)), x.float()), flow.log_density(x, draws=5).shape
        (True, torch.Size([3]))
    """

    class Config(Model.Config):
        # of the image's side; after each but the last, half of the channels are noise
        scales: int = Field(default=2, gt=0)
        steps: int = Field(default=8, gt=0)  # of each scale
        width: int = Field(default=64, gt=0)  # channels of the networks of the couplings
        # residual ones of 3x3 convolutions in each of these networks, in place of a 1x1 convolution
        blocks: int = Field(default=0, ge=0)
        bound: float = Field(default=2.0, gt=0, allow_inf_nan=False)  # of the log-scale of one affine coupling
        bins: int | None = Field(default=None, gt=1, le=100)  # of rational-quadratic splines as couplings; None: affine
        tail: float = Field(default=4.0, gt=0, allow_inf_nan=False)  # beyond which splines are the identity
        dequantizer: Dequantizer.Config = Uniform.Config()  # of pixels
        # α: the logits are of α + (1 - 2 α) y for y in [0, 1) (Real NVP, section 4.1, has 0.05). None: of y itself
        margin: float | None = Field(default=0.001, ge=1e-5, lt=0.5)
        context: int = Field(default=32, gt=0)  # width of the condition's embedding, where there is a condition

        def build(self, space: Space, given: tuple[Space, ...] = ()) -> "MultiscaleFlow":
            return MultiscaleFlow(self, space, given)

        @classmethod
        def example(cls) -> tuple["MultiscaleFlow.Config", Space, tuple[Space, ...]]:
            return cls(scales=1, steps=2, width=4), Space((1, 2, 2), levels=2), ()

    def __init__(self, config: Config, space: Space, given: tuple[Space, ...] = ()):
        super().__init__(config, space, given)
        _check(config, space)
        self.condition = Context(given, config.context)
        context = self.condition.width
        how = Coupled(config.width, config.blocks, config.bound, config.bins, config.tail)
        self.bijection = multiscale(space.shape[0], context, config.steps, config.scales, how)
        self.dequantizer = None if space.levels is None else config.dequantizer.build(space, context)

    # ---- what it is worth

    @property
    def density(self) -> Density:
        return Density.EXACT if self.space.levels is None else Density.BOUND

    @property
    def footprint(self) -> int:
        C, H, W = self.space.shape
        moved = 2 * C * (2 if self.config.bins is None else 3 * self.config.bins - 1)  # that a coupling is told of
        return max(self.space.dims, max(self.config.width, moved) * H * W // 4)

    def _cannot_complete(self) -> str:
        return (
            f"{super()._cannot_complete()}. A flow has the density of whole images; that of a part, which the rest is "
            "drawn by, would be an integral over the rest"
        )

    # ---- training

    def stages(self) -> tuple[Stage, ...]:
        return (Stage("model", (Turn((self,), self._loss),), begin=self.begin),)

    @torch.no_grad()
    def begin(self, events: Iterable[Tensor]) -> None:
        """Set every normalization by what some of the events [B, *shape] of the batches, read once, are there."""
        x = _some(events, BEGINNING)
        normalizations = [m for m in self.bijection.modules() if isinstance(m, ActNorm)]
        for m in normalizations:
            m.awaits = True
        c = x.new_zeros((len(x), self.condition.width), dtype=self.dtype) if self.given else None  # not yet heeded
        self._to_noise(self._spread(x, c, 1)[0][0], c)
        assert not any(m.awaits for m in normalizations)

    # ---- densities

    def _log_prob(self, x: Tensor, y: Y = None) -> Tensor:
        return self._log_weights(x, y)[0]

    def _log_weights(self, x: Tensor, y: Y = None, draws: int = 1) -> Tensor:
        """log p(x) of real events, [1, B]; a draw of the bound for each noise of dequantization, [K, B]."""
        c = self.condition(y)
        v, log_q = self._spread(x, c, draws)
        repeated = c if c is None else c.repeat(len(v), 1)
        z, log_det = self._to_noise(v.flatten(0, 1), repeated)
        log_normal = -0.5 * (z.square() + math.log(2 * math.pi)).flatten(1).sum(1)
        return (log_normal + log_det).view_as(log_q) - log_q

    def _spread(self, x: Tensor, c: Tensor | None, draws: int) -> tuple[Tensor, Tensor]:
        """Events as real numbers v [K, B, ...], and log q(v|x) [K, B]; K = 1 where they are already."""
        x_ = x.to(at_least_float32(self.dtype))
        if self.dequantizer is None:
            return x_.unsqueeze(0), x_.new_zeros(1, len(x))
        u, log_q = self.dequantizer(self.seen(x), c, draws)
        return x_ + u, log_q

    def _to_noise(self, v: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor]:
        """f(v) [B, ...], and log |det df/dv| [B]."""
        s, slope = self._scaled(v)
        z, log_det = self.bijection(s, c, True)
        return z, slope.flatten(1).sum(1) - log_det

    def _scaled(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """What the flow is of, and the logarithm of its slope: [B, ...] each."""
        levels, margin = self.space.levels, self.config.margin
        if levels is None:
            return v, torch.zeros_like(v)
        if margin is None:
            return to_unit(v, levels + 1), torch.full_like(v, math.log(unit_bin(levels + 1)))
        s = torch.logit(margin + (1 - 2 * margin) / levels * v)
        return s, F.softplus(s) + F.softplus(-s) + math.log((1 - 2 * margin) / levels)

    def _unscaled(self, s: Tensor) -> Tensor:
        """Events of what the flow is of: real ones, or the values of the bins that it falls into, the nearest where it
        lies beyond them; float."""
        levels, margin = self.space.levels, self.config.margin
        if levels is None:
            return s
        v = from_unit(s, levels + 1) if margin is None else (torch.sigmoid(s) - margin) * (levels / (1 - 2 * margin))
        return v.floor().clamp(0, levels - 1)

    # ---- codes

    def to_noise(self, x: Tensor, y: Y = None) -> Tensor:
        """f(x), of whole numbers f(x + 1/2): [B, *space.shape]. Raises ModelError as `from_noise`."""
        self._check_mixings()
        return super().to_noise(x, y)

    def from_noise(self, z: Tensor, y: Y = None) -> Tensor:
        """The events that f takes to z [B, *space.shape], in pixel values: float, whole where these are.

        Raises ModelError where a 1x1 convolution can't be inverted, and for noise of another shape.
        """
        self._check_mixings()
        return super().from_noise(z, y)

    def _noise_of(self, x: Tensor, y: Y) -> Tensor:
        v = x.to(at_least_float32(self.dtype))
        return self._to_noise(v if self.space.levels is None else v + 0.5, self.condition(y))[0]

    def _made_of(self, z: Tensor, y: Y) -> Tensor:
        return self._unscaled(self.bijection(z, self.condition(y))[0])

    def _draw(self, n: int, y: Y, how: Draw, told: Told) -> Drawn:
        dtype = at_least_float32(self.dtype)
        z = how.at().temperature * noise.randn((n, *self.space.shape), dtype=dtype, device=self.device)
        x = self.from_noise(z, y)
        return Drawn(x if self.space.levels is None else x.to(self.space.dtype))

    def _check_mixings(self) -> None:
        for name, m in self.bijection.named_modules():
            if isinstance(m, Mixing):
                m.check(f"model.bijection.{name}")


def _check(config: MultiscaleFlow.Config, space: Space) -> None:
    """Raise ConfigError for events that are no images, or can't be halved so often."""
    if not space.ordered or len(space.shape) != 3:
        raise ConfigError(
            f"{config.type_name()} is over images, got events of shape {list(space.shape)}"
            f"{'' if space.ordered else ' that are names (codes or labels)'}; models.flow.Flow is over vectors"
        )
    H, W = space.shape[1:]
    fit = 0
    while H % 2 ** (fit + 1) == 0 and W % 2 ** (fit + 1) == 0:
        fit += 1
    if config.scales > fit:
        known = f"set model.scales={fit}, or " if fit else ""
        n = 2**config.scales
        sizes = " and ".join(str(max(n, round(s / n) * n)) for s in dict.fromkeys((H, W)))
        raise ConfigError(
            f"model.scales={config.scales}: images of {H}x{W} can be halved {fit} times, and every scale halves them; "
            f"{known}a multiple of {n} as data.size, such as {sizes}"
        )


def _some(events: Iterable[Tensor], n: int) -> Tensor:
    """At least n events of batches [B, ...], from the first to the last, or all: fewer than twice as many."""
    kept, every = [], 1
    for x in events:
        kept += x[::every].split(1)
        while len(kept) >= 2 * n:
            kept, every = kept[::2], 2 * every
    if not kept:
        raise ModelError("there are no training images to begin at")
    return torch.cat(kept)

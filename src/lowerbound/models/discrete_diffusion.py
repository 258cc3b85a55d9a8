"""Discrete diffusion: values are masked or replaced by hand, and a network says what they were."""

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from lowerbound import noise
from lowerbound.devices import widened
from lowerbound.distributions import Categorical, Tempering
from lowerbound.errors import ConfigError, ModelError
from lowerbound.model import PLAIN, BoundParts, Draw, Drawn, Model, Stepwise, Told, told_nobody
from lowerbound.models.autoregressive import Condition
from lowerbound.models.denoising import AVERAGED, spread_times, too_many
from lowerbound.networks.base import Network
from lowerbound.networks.residual import ResidualMLP
from lowerbound.networks.unet import UNet
from lowerbound.space import Space, Y
from lowerbound.stages import Loss


class DiscreteDiffusion(Stepwise):
    r"""Values of x are masked ("absorbing") or replaced by any other ("multinomial"), and a network says what they were
    (Austin et al. 2021, https://arxiv.org/abs/2107.03006; Hoogeboom et al. 2021, https://arxiv.org/abs/2102.05379).

    .. math::
        q(x_t|x_0) = \bar\alpha_t \delta_{x_0} + (1 - \bar\alpha_t) \pi, \quad \bar\alpha_t = 1 - t/T, \quad
        p(x_{t-1}|x_t) = \sum_{x_0} q(x_{t-1}|x_t, x_0)\, \tilde p(x_0|x_t)

    of every element, with π all on the mask or uniform. Minus the bound of log p(x) is, as `bound_parts`:

    .. math::
        KL(q(x_T|x_0) \| \pi) + E[-\log \tilde p(x_0|x_1)] + \sum_{t=2}^T E[KL(q(x_{t-1}|x_t, x_0) \| p(x_{t-1}|x_t))]

    The first is 0, since nothing of x is left at T. For masks a step's KL is 1/t of the cost of what is masked. In
    continuous time (`steps=None`, masks alone) the sum is :math:`\int_0^1 E[-\log \tilde p(\text{masked})] dt / t`
    (Shi et al. 2024, https://arxiv.org/abs/2406.04329). With m of D elements masked, their number is integrated out:
    E[D/m times the cost of what is masked], m uniform on 1 to D. That is the bound of a model that draws element by
    element in a random order, which is how it is drawn. A draw of the bound is one time for each event, so draws are
    averaged, never weighted (`unbiased` is False).

    The network of masks isn't told the time, which it can count. Events are images, grids of codes or vectors; the
    condition any of labels, attributes and grids.

    Example:
        >>> model = DiscreteDiffusion.Config(network=UNet.Config(widths=(8,))).build(Space((4, 4), 5, ordered=False))
        >>> model.elbo(model.sample(3)).shape, model.density
        (torch.Size([3]), <Density.BOUND: '<='>)
    """

    class Config(Model.Config):
        lacks: ClassVar[Mapping[str, str]] = {"objective": AVERAGED}
        noise: Literal["absorbing", "multinomial"] = "absorbing"  # what becomes of a value: a mask, or any other value
        steps: int | None = Field(default=None, gt=0)  # T; None: continuous time
        network: Network.Config = UNet.Config()  # what says which values there were
        embedding: int = Field(default=32, gt=0)  # width of a value, and of the mask
        context: int = Field(default=64, gt=0)  # width of what is given, and of a time
        context_blocks: int = Field(default=2, ge=0)  # residual blocks over a coarser grid that is given

        def build(self, space: Space, given: tuple[Space, ...] = ()) -> "DiscreteDiffusion":
            return DiscreteDiffusion(self, space, given)

        @classmethod
        def example(cls) -> tuple["DiscreteDiffusion.Config", Space, tuple[Space, ...]]:
            network = ResidualMLP.Config(width=6, blocks=1)
            return cls(network=network, embedding=2, context=4), Space((2, 2), levels=2, ordered=False), ()

    def __init__(self, config: Config, space: Space, given: tuple[Space, ...] = ()):
        super().__init__(config, space, given)
        self.masks = config.noise == "absorbing"
        if space.levels is None or len(space.shape) not in (1, 2, 3):
            raise ConfigError(
                f"{config.type_name()}: expected images, grids of codes or vectors of whole numbers, got "
                f"{'real numbers' if space.levels is None else 'events'} of shape {list(space.shape)}"
            )
        if not self.masks and config.steps is None:
            raise ConfigError(
                "model.steps: multinomial noise has no continuous time here; set model.steps=100, or "
                "model.noise=absorbing"
            )
        self.values: int = space.levels
        shape = space.shape if len(space.shape) > 1 else (1, *space.shape)
        self.size, C = (shape[-2], shape[-1]), math.prod(shape[:-2])
        self.embed = nn.Embedding(self.values + self.masks, config.embedding)
        self.condition = Condition(given, config.context, self.size, config.context_blocks)
        self.time = None if self.masks else nn.Embedding((config.steps or 0) + 1, config.context)
        self.features = C * config.embedding + (config.context if given else 0)  # of a place, that the network sees
        self.network = config.network.build(
            (self.features, *self.size), (C * self.values, *self.size), 0 if self.masks else config.context
        )

    # ---- what it is worth

    @property
    def truncates(self) -> bool:
        return True

    @property
    def footprint(self) -> int:
        seen = self.features * math.prod(self.size)
        return max(self.space.dims * self.values, seen, self.network.largest(self.size))

    @property
    def cost(self) -> int:
        return self._steps(PLAIN) * math.prod(self.size) * sum(w.numel() for w in self.parameters())

    # ---- the bound

    def bound_parts(self, x: Tensor, y: Y = None, draws: int = 1) -> BoundParts:
        x, y = self.taken(x, y)
        with self._rounding_nothing():
            return self._parts(x, y, draws)

    def _parts(self, x: Tensor, y: Y, draws: int) -> BoundParts:
        x, c, T = x.long(), self.condition(y), self.config.steps
        if T is None:
            m = 1 + self._drawn(draws, x, self.space.dims)
            found = self._order(draws, x) < m.reshape(*m.shape, *[1] * len(self.space.shape))
            diffusion = self.space.dims / m * self._cost(x, torch.where(found, self.values, x), None, c)
            nothing = torch.zeros_like(diffusion)
            return BoundParts(nothing, nothing, diffusion)
        first = torch.ones((draws, len(x)), dtype=torch.int64, device=x.device)
        reconstruction = self._cost(x, self._noised(x, first), first, c)
        if T == 1:
            return BoundParts(torch.zeros_like(reconstruction), reconstruction, torch.zeros_like(reconstruction))
        return BoundParts(torch.zeros_like(reconstruction), reconstruction, (T - 1) * self._step(x, c, draws))

    def _step(self, x: Tensor, c: Tensor | None, draws: int) -> Tensor:
        """The KL of a step from t to t - 1, t drawn from 2 to T: [K, B]."""
        return self._kl(x, 2 + self._drawn(draws, x, (self.config.steps or 0) - 1), c)

    def _kl(self, x: Tensor, t: Tensor, c: Tensor | None) -> Tensor:
        """KL(q(x_{t-1}|x_t, x_0) || p(x_{t-1}|x_t)) at a draw of x_t, at times t [K, B] of at least 2: [K, B]."""
        z = self._noised(x, t)
        if self.masks:
            return self._cost(x, z, t, c) / t
        log_p = self._log_probs(z, t, c)
        keep, before = self._kept_at(t, log_p), self._kept_at(t - 1, log_p)
        exact = torch.nn.functional.one_hot(x, self.values).to(log_p.dtype).movedim(-1, 1).expand(log_p.shape)
        q = posterior(z, exact, before, keep)
        p = posterior(z, log_p.exp(), before, keep)
        return (torch.xlogy(q, q) - q * p.clamp(min=torch.finfo(p.dtype).tiny).log()).flatten(2).sum(2)

    def _cost(self, x: Tensor, z: Tensor, t: Tensor | None, c: Tensor | None) -> Tensor:
        """-log p̃(x_0|x_t) of the elements whose value is not known: [K, B]."""
        log_p = self._log_probs(z, t, c).gather(2, x.expand(z.shape).unsqueeze(2)).squeeze(2)
        return -(log_p.where(z == self.values, 0.0) if self.masks else log_p).flatten(2).sum(2)

    def _kept_at(self, t: Tensor, like: Tensor) -> Tensor:
        """ᾱ_t of times [K, B], to go with [K, B, values, *shape]."""
        kept = 1 - t.to(like.dtype) / (self.config.steps or 1)
        return kept.reshape(*t.shape, *[1] * (like.dim() - t.dim()))

    def _noised(self, x: Tensor, t: Tensor) -> Tensor:
        """A draw of q(x_t|x_0) of events [B, *shape] at times t [K, B]: [K, B, *shape]."""
        u = noise.rand((*t.shape, *self.space.shape), dtype=torch.float64, device=x.device)
        own = u < self._kept_at(t, u)
        if self.masks:
            return torch.where(own, x, self.values)
        other = noise.rand(u.shape, dtype=torch.float64, device=x.device)
        return torch.where(own, x, (other * self.values).long())

    def _drawn(self, draws: int, x: Tensor, n: int) -> Tensor:
        """Whole numbers below n, [K, B]: spread evenly over the batch in training, else each by itself."""
        return (spread_times(draws, len(x), training=self.training, device=x.device) * n).long()

    def _order(self, draws: int, x: Tensor) -> Tensor:
        """The place of each element in a random order, from 0: [K, B, *shape]."""
        u = noise.rand((draws, len(x), self.space.dims), dtype=torch.float64, device=x.device)
        return u.argsort(-1).argsort(-1).unflatten(-1, self.space.shape)

    def _log_probs(self, z: Tensor, t: Tensor | None, c: Tensor | None) -> Tensor:
        """log p̃(x_0|x_t) of every value, of states [K, B, *shape] at t [K, B]: [K, B, values, *shape]."""
        flat = z.flatten(0, 1)
        h = self.embed(flat).movedim(-1, 1).reshape(len(flat), -1, *self.size)
        if c is not None:
            h = torch.cat([h, c.expand(*c.shape[:2], *self.size).repeat(len(z), 1, 1, 1)], 1)
        told = None if self.time is None or t is None else self.time(t.flatten())
        logits = widened(self.network(h, told)).reshape(*z.shape[:2], self.values, *self.space.shape)
        return logits.log_softmax(2)

    def _log_weights(self, x: Tensor, y: Y = None, draws: int = 1) -> Tensor:
        return self._parts(x, y, draws).bound

    def _loss(self, x: Tensor, y: Y = None, step: int = 0) -> Loss:
        parts = self._parts(x, y, 1)
        shown = {"elbo": parts.bound, **parts._asdict()}
        return Loss(-parts.bound.mean(), {name: term[0].detach() for name, term in shown.items()})

    # ---- drawing

    def check_how(self, how: Draw, kept: Sequence[str] = ()) -> None:
        super().check_how(how, kept)
        for name in ("sampler", "guidance"):
            if getattr(how, name) is not None:
                raise ModelError(f"--{name}: {type(self).__name__} has none; --steps, --temperature and --top-k it has")
        most = self.config.steps or self.space.dims
        if why := too_many(how.steps, most):
            raise ModelError(f"--steps {how.steps}: {why}")

    def _steps(self, how: Draw) -> int:
        return how.steps or self.config.steps or self.space.dims

    def _draw(self, n: int, y: Y, how: Draw, told: Told) -> Drawn:
        z = torch.full((n, *self.space.shape), self.values, device=self.device)
        if self.masks:
            return Drawn(self._unmasked(z, self._when(n, self._steps(how)), y, how, told))
        z = (noise.rand(z.shape, dtype=torch.float64, device=z.device) * self.values).long()
        return Drawn(self._replaced(z, y, how, told).to(self.space.dtype))

    def _when(self, n: int, steps: int) -> Tensor:
        """In which of the steps, from 0, each element of n events is drawn: [n, *shape]."""
        like = torch.empty(n, 0, device=self.device)
        if self.config.steps is None:
            return self._order(1, like)[0] * steps // self.space.dims
        u = noise.rand((n, *self.space.shape), dtype=torch.float64, device=self.device)
        return (u * steps).long()

    def _unmasked(self, z: Tensor, when: Tensor, y: Y, how: Draw, told: Told) -> Tensor:
        """What is masked in z drawn, step by step. An element's step is as likely to be any, as in q."""
        c, steps, tempering = self.condition(y), self._steps(how), how.at()
        for i in range(steps):
            now = (when == i) & (z == self.values)
            if bool(now.any()):
                z = torch.where(now, self._guess(z, None, c, tempering), z)
            told(i + 1, steps)
        return z.to(self.space.dtype)

    def _replaced(self, z: Tensor, y: Y, how: Draw, told: Told) -> Tensor:
        """x_0 of x_T, by draws of p(x_s|x_t): of p̃(x_0|x_t), then of q(x_s|x_t, x_0)."""
        c, steps, T = self.condition(y), self._steps(how), self.config.steps or 1
        times = [round(T * i / steps) for i in range(steps, -1, -1)]
        for i in range(steps):
            t, s = (torch.full((1, len(z)), time, device=z.device) for time in times[i : i + 2])
            exact = self._guess(z, t, c, how.at())
            one = torch.nn.functional.one_hot(exact, self.values).movedim(-1, 1).to(torch.float64)[None]
            p = posterior(z[None], one, self._kept_at(s, one), self._kept_at(t, one))[0]
            z = noise.multinomial(p.movedim(1, -1).flatten(0, -2), 1).view(z.shape)
            told(i + 1, steps)
        return z

    def _guess(self, z: Tensor, t: Tensor | None, c: Tensor | None, tempering: Tempering) -> Tensor:
        """A draw of p̃(x_0|x_t) for every element: int64 [B, *shape]."""
        return tempering(Categorical(self._log_probs(z[None], t, c)[0], self.space)).sample().long()

    # ---- completing

    def keeps(self, kept: Tensor) -> dict[str, Tensor]:
        if not self.masks:
            raise ModelError(
                "DiscreteDiffusion of multinomial noise can't complete images: what is kept has no state of its own; "
                "train with model.noise=absorbing"
            )
        return self._kept_pixels(kept)

    @torch.no_grad()
    def complete(self, x: Tensor, kept: Tensor, y: Y = None, how: Draw = PLAIN, told: Told = told_nobody) -> Drawn:
        """Events like x where `kept` [H, W] is true; the others are masked and drawn as ever, given those."""
        self.check_how(how)
        x, y = self.taken(x, y)
        y = self._checked_draw(len(x), y, how)
        z = torch.where(self._stays(kept), x.long(), self.values)
        return Drawn(self._unmasked(z, self._when(len(x), self._steps(how)), y, how, told))

    @torch.no_grad()
    def log_p_kept(self, x: Tensor, kept: Tensor, y: Y = None) -> Tensor:
        """An estimate of log p of what stays of x, in nats, [B], by one order of drawing, whose exp is unbiased."""
        x, y = self.taken(x, y)
        x, stays, c, steps = x.long(), self._stays(kept), self.condition(y), self._steps(PLAIN)
        when, found = self._when(len(x), steps), torch.zeros(len(x), dtype=torch.float64, device=x.device)
        for i in range(steps):
            now = (when == i) & stays
            if bool(now.any()):
                z = torch.where((when < i) & stays, x, self.values)
                log_p = self._log_probs(z[None], None, c)[0].gather(1, x.unsqueeze(1)).squeeze(1)
                found += log_p.where(now, 0.0).flatten(1).double().sum(1)
        return found


def posterior(z: Tensor, p: Tensor, before: Tensor, keep: Tensor) -> Tensor:
    r"""The mean of q(x_s|x_t, x_0) over a p(x_0), for uniform noise and s < t.

    .. math:: q(x_s|x_t, x_0) = q(x_t|x_s)\, q(x_s|x_0) / q(x_t|x_0)

    Austin et al. (2021) mix q(x_s, x_t|x_0) and normalize after that, for which the p(x_0) that is right would be
    another than p(x_0|x_t).

    Args:
        z: x_t, int64 [K, B, *shape].
        p: of every value of x_0, [K, B, values, *shape].
        before, keep: ᾱ_s and ᾱ_t, which broadcast to p.

    Returns p(x_s), of the shape of p.
    """
    values = p.shape[2]
    at = torch.nn.functional.one_hot(z, values).movedim(-1, 2).to(p.dtype)
    share = keep / before
    w = p / (keep * at + (1 - keep) / values)
    return (share * at + (1 - share) / values) * (before * w + (1 - before) / values * w.sum(2, keepdim=True))

"""How a diffusion model takes noise away: samples, the probability flow, images changed and completed."""

import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from lowerbound import noise
from lowerbound.devices import at_least_float32
from lowerbound.errors import ModelError
from lowerbound.model import PLAIN, Diffusing, Draw, Drawn, Moment, Told, told_nobody
from lowerbound.networks.context import Shown
from lowerbound.parallel.rows import own_rows, whole_of
from lowerbound.schedules import DDIM, Sampler, Schedule, alpha, sigma
from lowerbound.space import Y

CONTINUOUS = 100  # steps of a sampler, of a model in continuous time, where none are said
AVERAGED = (
    "a diffusion model is trained by its own bound, one time drawn for each image, whose noise is in log p(x) itself: "
    "draws are averaged and never importance-weighted (IWAE)"
)
REPEATED = 5  # times that each step is taken where a part of the image is kept


class Step(NamedTuple):
    """A time on the way out of noise."""

    gamma: Tensor  # a scalar
    z: Tensor  # [B, *shape]
    noise: Tensor | None  # what was seen of it in z, by which the next step went; at the last time nobody looks


class Denoising(Diffusing):
    """What comes of events with noise on them, at any γ, whose noise is known."""

    schedule: Schedule
    context: Shown

    @abstractmethod
    def _scaled(self, x: Tensor) -> Tensor:
        """Events as noise is put on them, in float32 at least."""

    @abstractmethod
    def _noise_in(self, z: Tensor, gamma: Tensor, c: Tensor | None) -> Tensor:
        """ε̂ of z [N, *shape] at γ [N] or a scalar, given c [N, context]."""

    def _times(self, t: float, like: Tensor) -> Tensor:
        """A time as a scalar where a tensor is."""
        return torch.full((), t, dtype=torch.float64, device=like.device)

    # ---- drawing

    def _steps(self, sampler: Sampler) -> int:
        return sampler.steps or self.config.steps or CONTINUOUS

    def gammas(self, steps: int | None = None) -> Tensor:
        like = torch.empty(0, device=self.device)
        return self._grid(steps or self._steps(self.config.sampler), like).detach()

    def finer(self, z: Tensor, t: Tensor, s: Tensor, y: Y = None) -> tuple[Tensor, Tensor | None]:
        c = self.context(y)
        return self.config.sampler.moments(z, t, s, lambda z, gamma: self._noise_in(z, gamma, c))

    def _when(self, steps: int, like: Tensor) -> Tensor:
        """steps + 1 times from 1 to 0, which are among those that the network knows: float64."""
        t = torch.arange(steps, -1, -1, dtype=torch.float64, device=like.device) / steps
        return t if self.config.steps is None else (t * self.config.steps).round() / self.config.steps

    def _grid(self, steps: int, like: Tensor) -> Tensor:
        """γ of these times: float64."""
        return self.schedule(self._when(steps, like))

    def check_how(self, how: Draw, kept: Sequence[str] = ()) -> None:
        super().check_how(how, kept)
        steps, guidance = how.steps, how.guidance
        if why := too_many(steps, self.config.steps):
            raise ModelError(f"--steps {steps}: {why}")
        if guidance is None:
            return
        if not (math.isfinite(guidance) and guidance >= 0):
            raise ModelError(f"--guidance {guidance:g}: expected a number of at least 0, 1 for none")
        if not (self.given and self.config.unconditional):
            raise ModelError(
                f"--guidance {guidance:g}: goes from what the network sees in an image to what it sees given a label, "
                "and this model knows one of the two; train it with data.label=true model.unconditional=0.1"
            )

    def _draw(self, n: int, y: Y, how: Draw, told: Told) -> Drawn:
        times, z = self._begun(n, how)
        p = self.likelihood(self._along(self.schedule(times), z, y, self._sampler(how), how, told))
        return Drawn(p.mean if how.mean else p.sample())

    @torch.no_grad()
    def drawing(self, n: int, y: Y = None, how: Draw = PLAIN) -> Iterator[Moment]:
        self.check_how(how)
        y = self._checked_draw(n, y, how)
        return self._moments(*self._begun(n, how), y, how)

    def _begun(self, n: int, how: Draw) -> tuple[Tensor, Tensor]:
        """The times from 1 to 0, and noise: [n, *space.shape]."""
        like = torch.empty(n, *self.space.shape, dtype=at_least_float32(self.dtype), device=self.device)
        return self._times_of(how, like), how.at().temperature * noise.randn_like(like)

    def _sampler(self, how: Draw) -> Sampler:
        return how.sampler or self.config.sampler

    def _times_of(self, how: Draw, like: Tensor) -> Tensor:
        """All times from 1 to 0, at which noise is taken away."""
        return self._when(how.steps or self._steps(self._sampler(how)), like)

    @torch.no_grad()
    def _moments(self, times: Tensor, z: Tensor, y: Y, how: Draw) -> Iterator[Moment]:
        """z of the first time on its way to the last."""
        gammas = self.schedule(times)
        way = self._way(gammas, z, y, self._sampler(how), how)
        for t, gamma, at in zip(times.tolist(), gammas.tolist(), way, strict=True):
            if at.noise is None:
                p = self.likelihood(at.z)
                x = p.mean if how.mean else p.sample()
            else:
                x = self.in_values((at.z - sigma(at.gamma) * at.noise) / alpha(at.gamma))
            yield Moment(t, gamma, at.z, x)

    def _along(
        self, gammas: Tensor, z: Tensor, y: Y, sampler: Sampler, how: Draw = PLAIN, told: Told = told_nobody
    ) -> Tensor:
        """z at the last γ, of z at the first."""
        steps = len(gammas) - 1
        for i, at in enumerate(self._way(gammas, z, y, sampler, how)):
            z = at.z
            if i:
                told(i, steps)
        return z

    def _way(self, gammas: Tensor, z: Tensor, y: Y, sampler: Sampler, how: Draw) -> Iterator[Step]:
        """z at each γ, of z at the first."""
        c, gammas, temperature = self.context(y), gammas.to(z.dtype), how.at().temperature
        seen: list[Tensor] = []

        def noise_of(z: Tensor, gamma: Tensor) -> Tensor:
            found = self._noise_in(z, gamma, c)
            if how.guidance is not None and how.guidance != 1:
                # Ho & Salimans (2022), https://arxiv.org/abs/2207.12598
                without = self._noise_in(z, gamma, None)
                found = without + how.guidance * (found - without)
            seen.append(found)
            return found

        for t, s in pairwise(gammas):
            finer = sampler.step(z, t, s, noise_of, temperature)
            yield Step(t, z, seen[0])  # a sampler looks at z_t first
            seen.clear()
            z = finer
        yield Step(gammas[-1], z, None)

    # ---- images changed

    @torch.no_grad()
    def redone(
        self, x: Tensor, y: Y = None, strength: float = 0.5, how: Draw = PLAIN, told: Told = told_nobody
    ) -> Tensor:
        x, y, times, z = self._noised_to(strength, x, y, how)
        z = self._along(self.schedule(times), z, y, self._sampler(how), how, told)
        return self.likelihood(z).sample() if len(times) > 1 else x

    @torch.no_grad()
    def redoing(self, x: Tensor, y: Y = None, strength: float = 0.5, how: Draw = PLAIN) -> Iterator[Moment]:
        x, y, times, z = self._noised_to(strength, x, y, how)
        if len(times) == 1:
            return iter((Moment(float(times[0]), float(self.schedule(times[0])), z, x),))
        return self._moments(times, z, y, how)

    def _noised_to(self, t: float, x: Tensor, y: Y, how: Draw) -> tuple[Tensor, Y, Tensor, Tensor]:
        """Events and their condition as tensors, the times from t to 0, and z of the first of them."""
        self.check_how(how)
        x, y = self.taken(x, y)
        if not 0 <= t <= 1:
            raise ModelError(f"--strength {t:g}: expected a time from 0, where nothing changes, to 1, all noise")
        s = self._scaled(x)
        times = self._times_of(how, s)
        times = times[len(times) - 1 - round(t * (len(times) - 1)) :]
        return x, y, times, self._noised(s, self.schedule(times[0]))

    def keeps(self, kept: Tensor) -> dict[str, Tensor]:
        return self._kept_pixels(kept)

    def log_p_kept(self, x: Tensor, kept: Tensor, y: Y = None) -> Tensor:
        raise ModelError(
            f"{type(self).__name__} has no log p of a part of an image, to draw what is given by; give --label"
        )

    @torch.no_grad()
    def complete(self, x: Tensor, kept: Tensor, y: Y = None, how: Draw = PLAIN, told: Told = told_nobody) -> Drawn:
        """Events like x where `kept` [H, W] is true, and drawn given that elsewhere, nearly (Lugmayr et al. 2022,
        RePaint, https://arxiv.org/abs/2201.09865).

        At every step what is kept is x with the noise of that time, and the step is taken REPEATED times, so that what
        is drawn comes to agree with it. The more often, the nearer it is to a draw of p(rest|kept); it is not one.
        """
        self.check_how(how)
        x, y = self.taken(x, y)
        y = self._checked_draw(len(x), y, how)
        stays = self.keeps(kept)["pixels"].to(self.device)
        s, sampler = self._scaled(x), self._sampler(how)
        gammas = self.schedule(self._times_of(how, s))
        z = how.at().temperature * noise.randn_like(s)
        for i, (t, end) in enumerate(pairwise(gammas)):
            for again in range(REPEATED):
                finer = torch.where(stays, self._noised(s, end), self._along(gammas[i : i + 2], z, y, sampler, how))
                z = finer if again == REPEATED - 1 else self._coarser(finer, end, t)
            told(i + 1, len(gammas) - 1)
        p = self.likelihood(z)
        found = p.mean if how.mean else p.sample()
        return Drawn(torch.where(stays, x.to(found.dtype), found))

    def _noised(self, s: Tensor, gamma: Tensor) -> Tensor:
        """A draw of q(z_t|x) for scaled events, at γ."""
        return alpha(gamma).to(s.dtype) * s + sigma(gamma).to(s.dtype) * noise.randn_like(s)

    def _coarser(self, z: Tensor, s: Tensor, t: Tensor) -> Tensor:
        """A draw of q(z_t|z_s), at the γ of both times."""
        share = alpha(t) / alpha(s)
        left = (sigma(t) ** 2 - share**2 * sigma(s) ** 2).sqrt()
        return share.to(z.dtype) * z + left.to(z.dtype) * noise.randn_like(z)

    @property
    def _flow(self) -> Sampler:
        return self.config.sampler if self.config.sampler.deterministic else DDIM(steps=self.config.sampler.steps)

    def _noise_of(self, x: Tensor, y: Y) -> Tensor:
        """Where the probability flow takes events: z_1 [B, *space.shape]; by the model's sampler, or DDIM's steps."""
        s = self._scaled(x)
        gammas = self._grid(self._steps(self._flow), s).flip(0)
        return self._along(gammas, alpha(gammas[0]).to(s.dtype) * s, y, self._flow)

    def _made_of(self, z: Tensor, y: Y) -> Tensor:
        """Back from z_1 [B, *space.shape]: the means of p(x|z_0), in pixel values, not rounded."""
        return self.likelihood(self._along(self._grid(self._steps(self._flow), z), z, y, self._flow)).mean


def spread_times(draws: int, n: int, *, training: bool, device: torch.device) -> Tensor:
    """In [0, 1), float64 [draws, n]: spread evenly over a batch of n events in training, else each by itself."""
    if not training:
        return noise.rand((draws, n), dtype=torch.float64, device=device)
    whole = whole_of(n)
    rows = own_rows(whole)
    spread = torch.arange(draws * whole, dtype=torch.float64, device=device) / (draws * whole)
    with noise.of_rows(None):
        first = noise.rand((1,), dtype=torch.float64, device=device)
    return ((first + spread) % 1).view(draws, whole)[:, rows.start : rows.stop]


def too_many(steps: int | None, of: int | None) -> str:
    """Why a sampler can't make so many steps of a model that has some; "" where it can."""
    if steps is None or of is None or steps <= of:
        return ""
    return f"the model has {of} steps, and takes noise away at their times alone; set at most {of}"

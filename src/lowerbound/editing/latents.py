"""A run's latent vectors, as editing takes them: images as codes, codes as images, and what is known of codes."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal

from lowerbound.data.base import Images
from lowerbound.directions import Direction
from lowerbound.distributions import Point, closed_kl
from lowerbound.editing.values import is_of_values
from lowerbound.errors import ModelError, UserError
from lowerbound.model import Generating, Invertible, LatentModel
from lowerbound.noise import KeyedNoise
from lowerbound.progress import Progress
from lowerbound.runs.conditions import Asked
from lowerbound.runs.inputs import UserImages, as_batches, open_data, user_images
from lowerbound.runs.run import Run
from lowerbound.runs.told import condition_of
from lowerbound.space import Y

# ---- the latents of a run


@dataclass(frozen=True)
class Codes:
    """What editing needs to know of the latent vector: measured over the valid images.

    origin [D]: the mean of the prior, or of the codes where the prior is no single Gaussian. scale [D]: the standard
    deviation of the aggregate posterior, the average of q(z|x) over the images. use [D]: the mean of
    KL(q(z_d|x) || p(z_d)) in nats where both are Gaussian, else the variance of the posterior means. draws [N, D]: one
    z of each image, every dimension sorted.
    """

    origin: Tensor
    scale: Tensor
    use: Tensor
    draws: Tensor
    gaussian: bool  # whether p(z) and q(z|x) are Gaussian, and so the rows of `use` KLs
    sphere: bool  # whether p(z) is besides the same in every direction

    @property
    def use_name(self) -> str:
        return "KL" if self.gaussian else "variance"

    def order(self) -> list[int]:
        """The dimensions, the most used first."""
        return torch.argsort(self.use, descending=True, stable=True).tolist()

    def quantile(self, d: int, share: Sequence[float]) -> Tensor:
        """Quantiles of the aggregate posterior in dimension d."""
        return torch.quantile(self.draws[:, d], torch.tensor(share, dtype=self.draws.dtype))


def codes(run: Run, model: LatentModel, device: torch.device | str = "cpu", progress: Progress | None = None) -> Codes:
    """The codes of the run's valid images, kept in the run. Deterministic: noise is keyed by the image."""
    kept = run.load_codes(model)
    if kept is None:
        kept = _measure(run, model, torch.device(device), progress)
        run.save_codes(kept, model)
    return Codes(
        origin=kept["origin"],
        scale=kept["scale"],
        use=kept["use"],
        draws=kept["draws"],
        gaussian=bool(kept["gaussian"]),
        sphere=bool(kept["sphere"]),
    )


@torch.no_grad()
def _measure(run: Run, model: LatentModel, device: torch.device, progress: Progress | None) -> dict[str, Tensor]:
    means, variances, kls, draws = [], [], [], []
    prior = None
    for batch in as_batches(run, open_data(run, "valid", progress=progress), device).in_order(model.rows):
        q = model.vector_posterior(batch.x, batch.y)
        prior = _prior(model, batch.y) if not means else prior
        means.append(q.mean.double().cpu())
        variances.append(q.variance.double().cpu())
        with KeyedNoise(0, batch.index) as noise:
            draws.append(q.sample((noise.chunk(1),))[0].float().cpu())
        kl = None if prior is None else _marginal_kl(q, prior)
        kls += [] if kl is None else [kl.double().cpu()]
    mean, variance = torch.cat(means), torch.cat(variances)
    gaussian = len(kls) == len(means)
    origin = prior.mean.double().cpu() if gaussian and prior is not None else mean.mean(0)
    return {
        "origin": origin,
        "scale": (variance.mean(0) + mean.var(0, correction=0)).sqrt(),
        "use": torch.cat(kls).mean(0) if gaussian else mean.var(0, correction=0),
        "draws": torch.cat(draws).sort(0).values.contiguous(),
        "gaussian": torch.tensor(gaussian),
        "sphere": torch.tensor(gaussian and prior is not None and _is_round(prior)),
    }


def _prior(model: LatentModel, y: Y) -> Distribution | None:
    """p(z) where it is one Gaussian."""
    one = (None if y is None else y[:1]) if isinstance(y, Tensor | None) else tuple(part[:1] for part in y)
    p = model.prior_of(0, (), one)
    return p if _is_gaussian(p) else None


def _is_gaussian(d: Any) -> bool:
    return isinstance(d, MultivariateNormal) or (isinstance(d, Independent) and isinstance(d.base_dist, Normal))


def _is_round(p: Distribution) -> bool:
    """Whether a Gaussian has its mean at 0 and one variance for all directions."""
    if isinstance(p, MultivariateNormal):
        return False
    return bool((p.mean == 0).all() and (p.stddev == p.stddev.flatten()[0]).all())


def _marginal_kl(q: Distribution, p: Distribution) -> Tensor | None:
    """KL(q(z_d|x) || p(z_d)) of every dimension's marginal, in nats: [B, D]; None unless both are Gaussian."""
    if isinstance(q, Point) or not _is_gaussian(q):
        return None
    return closed_kl(Normal(q.mean, q.stddev, validate_args=False), Normal(p.mean, p.stddev, validate_args=False))


# ---- images in, images out


class Codec(ABC):
    """A run's images as vectors, and vectors as images."""

    run: Run
    model: LatentModel | Invertible | Generating
    device: torch.device
    progress: Progress
    size: int  # D
    values: int | None = None  # that each element takes, where they are whole numbers
    encodes: bool = True  # whether images have codes

    @abstractmethod
    def encode(self, x: Tensor, y: Tensor | None = None, draw: int | None = None) -> Tensor:
        """The posterior means (of whole numbers the likeliest), or draws keyed by this seed: [B, D]."""

    @abstractmethod
    def _decoded(self, z: Tensor, y: Tensor | None) -> Tensor:
        """The means of p(x|z) for few z [N, D]: [N, C, H, W]."""

    @property
    @abstractmethod
    def sphere(self) -> bool:
        """Whether the prior is Gaussian and the same in every direction."""

    @property
    def can_draw(self) -> bool:
        """Whether there is a density of codes to draw from."""
        return self.model.can_sample

    @property
    def levels(self) -> int:
        return self.model.space.levels or 256

    @torch.no_grad()
    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """The means of p(x|z) for z [..., D], in chunks: [..., C, H, W]. y: one, [1, ...], for all, or one of each."""
        flat = z.reshape(-1, z.shape[-1])
        own = self.model.given[0].shape if self.model.given else ()
        whole = None if y is None else y.expand(*z.shape[:-1], *own).reshape(-1, *own)
        parts = [
            self._decoded(flat[part], None if whole is None else whole[part])
            for part in torch.arange(len(flat)).split(self.model.rows)
        ]
        return torch.cat(parts).reshape(*z.shape[:-1], *self.model.space.shape)

    def open(self, paths: Sequence[str | Path]) -> UserImages:
        """Image files, prepared as the run's data were."""
        return user_images(self.run, paths, self.progress, self.device)

    def condition(self, own: UserImages, asked: Asked) -> Tensor | None:
        """What images are encoded with: labels [B] or attributes [B, D], as asked for, and what isn't as the model
        predicts it, or most likely by the bound, which is said.

        None where the model is not conditional.
        """
        self.run.check_asked(asked)
        return condition_of(self.run, self.model, own, asked, self.progress)

    @property
    def directions(self) -> Mapping[str, Direction]:
        return self.run.directions(self.model)

    def relabelled(self, z: Tensor, y: Tensor, target: Tensor) -> Tensor:
        """Codes [B, S, D] of images of conditions y [B, ...] as those of others [B, S, ...], where they act through
        the codes."""
        return z

    @torch.no_grad()
    def codes_of(self, images: Images) -> np.ndarray:
        """The posterior means of a part of a data set: float64 [N, D]."""
        batches = as_batches(self.run, images, self.device).in_order(self.model.rows)
        return np.concatenate([self.encode(b.x, b.y).double().cpu().numpy() for b in batches])

    def check_dimension(self, d: int, option: str) -> None:
        if not 0 <= d < self.size:
            raise UserError(
                f"{option}: expected a dimension from 0 to {self.size - 1}, the latents of {self.run.place}"
            )


def codec(
    run: Run, device: torch.device | str = "cpu", progress: Progress | None = None, *, whole: bool = False
) -> Codec:
    """By the latents of the run's model, or the noise that its flow takes images to. Raises ModelError for others.

    whole: also those that editing can't take: whole numbers (see `Editor`), and noise that images are made of and never
    taken to.
    """
    model = run.load(device)
    if isinstance(model, Invertible):
        return FlowCodec(run, model, device, progress)
    if whole and isinstance(model, Generating):
        return NoiseCodec(run, model, device, progress)
    return Editor(run, device, progress, whole=whole)


class FlowCodec(Codec):
    """Images as the noise that a flow takes them to: that of a diffusion model is its probability flow."""

    def __init__(self, run: Run, model: Invertible, device: torch.device | str, progress: Progress | None = None):
        self.run, self.model, self.flow = run, model, model
        self.device, self.progress = torch.device(device), progress or Progress()
        self.size = model.space.dims

    @property
    def sphere(self) -> bool:
        return True

    def encode(self, x: Tensor, y: Tensor | None = None, draw: int | None = None) -> Tensor:
        if draw is not None:
            raise ModelError("--from sample: a flow takes an image to one code, and draws none; leave it out")
        return self.flow.to_noise(x, y).flatten(1)

    def _decoded(self, z: Tensor, y: Tensor | None) -> Tensor:
        return self.flow.from_noise(z.float().view(-1, *self.model.space.shape), y)


class NoiseCodec(Codec):
    """Noise as the images that a generator makes of it; no image has a code."""

    encodes = False

    def __init__(self, run: Run, model: Generating, device: torch.device | str, progress: Progress | None = None):
        self.run, self.model, self.generator = run, model, model
        self.device, self.progress = torch.device(device), progress or Progress()
        self.size = int(model.base.event_shape[0])

    @property
    def sphere(self) -> bool:
        return _is_gaussian(self.generator.base) and _is_round(self.generator.base)

    def encode(self, x: Tensor, y: Tensor | None = None, draw: int | None = None) -> Tensor:
        raise ModelError(f"{self.run.place}: {self.model.why_no_code()}")

    def _decoded(self, z: Tensor, y: Tensor | None) -> Tensor:
        return self.generator.generated(z.float(), y)


class Editor(Codec):
    """Images as the posterior means of their latents, with what else editing takes. Those of several levels, real ones,
    are one vector, the coarsest first.

    whole: whether codes may be of whole numbers, whose modes stand for means.
    """

    model: LatentModel

    def __init__(
        self,
        run: Run,
        device: torch.device | str = "cpu",
        progress: Progress | None = None,
        *,
        whole: bool = False,
    ):
        model = run.load(device)
        if not isinstance(model, LatentModel):
            raise ModelError(f"{run.place}: {model.why_no_code()}")
        self.run, self.model = run, model
        self.values = model.latents[0].levels if whole and is_of_values(model) else None  # that each variable takes
        self.device, self.progress = torch.device(device), progress or Progress()
        self.size = self._size()

    @torch.no_grad()
    def _size(self) -> int:
        """D. Raises ModelError for latents that are no single vector, nor levels of real numbers."""
        if self.in_levels:
            return sum(space.dims for space in self.model.latents)
        x = torch.zeros((1, *self.model.space.shape), dtype=self.model.space.dtype, device=self.device)
        try:
            y = None if not self.model.given else self.run.typical()
            return int(self._posterior(x, None if y is None else y.to(self.device)).event_shape[0])
        except ModelError as e:
            raise ModelError(f"{self.run.place}: {e}") from None

    def _posterior(self, x: Tensor, y: Tensor | None) -> Distribution:
        return self.model.vector_posterior(x, y) if self.values is None else self.model.posteriors(x, y)[0]

    @property
    def in_levels(self) -> bool:
        return bool(self.model.levels) and all(space.levels is None for space in self.model.latents)

    @property
    def sphere(self) -> bool:
        return not self.in_levels and codes(self.run, self.model, self.device, self.progress).sphere

    @torch.no_grad()
    def encode(self, x: Tensor, y: Tensor | None = None, draw: int | None = None) -> Tensor:
        if self.in_levels:
            return torch.cat([level.flatten(1) for level in self._levels(x, y, draw)], 1)
        q = self._posterior(x, y)
        if draw is None:
            return q.mean if self.values is None else q.mode
        with KeyedNoise(draw, np.arange(len(x))) as noise:
            return q.sample((noise.chunk(1),))[0]

    def _levels(self, x: Tensor, y: Tensor | None, draw: int | None) -> tuple[Tensor, ...]:
        if draw is None:
            return self.model.centers(x, y)
        with KeyedNoise(draw, np.arange(len(x))) as noise:
            return tuple(level[0] for level in self.model.elbo_terms(*self.model.taken(x, y), noise.chunk(1)).z)

    def _decoded(self, z: Tensor, y: Tensor | None) -> Tensor:
        if self.in_levels:
            parts = z.float().split([space.dims for space in self.model.latents], -1)
            shapes = [space.shape for space in self.model.latents]
            return self.model.decode(tuple(p.unflatten(-1, s) for p, s in zip(parts, shapes, strict=True)), y).mean
        return self.model.decode(z.float() if self.values is None else z, y).mean

    @torch.no_grad()
    def relabelled(self, z: Tensor, y: Tensor, target: Tensor) -> Tensor:
        own = y.repeat_interleave(z.shape[1], 0)
        return self.model.relabelled(z.flatten(0, 1), own, target.flatten(0, 1)).view_as(z)

"""What z holds of the validation images."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from lowerbound.families import LOG_SCALE
from lowerbound.metrics.latents import of_variables
from lowerbound.model import CodeModel, LatentModel
from lowerbound.noise import KeyedNoise
from lowerbound.objectives import ELBO, Bound
from lowerbound.verbs.doctor.check import Check, showing
from lowerbound.verbs.doctor.evidence import Bars, Evidence, Histograms, Pictures, most
from lowerbound.verbs.doctor.examined import Examined

COLLAPSED = 0.1  # nats in all of z
ACTIVE = 0.01  # nats in a dimension; or the variance of its posterior mean, Burda et al. (2016), section 5.2
ACTIVE_POINT = 1e-4  # variance of a dimension of a code without a scale of its own, for one of the widest
UNUSED = 0.25  # of the dimensions in use: a VAE that chose half of them by itself is healthy
AT_BOUND = 0.01  # of the log-scales
STEPS = 7  # of a traversal


def checks(e: Examined) -> list[Check]:
    """Of a model whose z is no grid of codes, which have checks of their own."""
    model = e.model
    if not isinstance(model, LatentModel) or isinstance(model, CodeModel):
        return []
    return _measured(e, model).checks()


def _measured(e: Examined, model: LatentModel) -> "Latents":
    means, levels, each, at_bound, all_scales = [], [], [], [], []
    for batch in e.in_order(e.valid):
        means.append(model.features(batch.x, batch.y).double().cpu())
        if model.has_point:
            continue
        with KeyedNoise(0, batch.index) as noise:
            terms = model.elbo_terms(batch.x, batch.y, noise.chunk(1))
        kl = terms.log_qz - terms.log_pz if terms.kl is None else terms.kl  # [1, B, L]
        levels.append(kl[0].double().cpu())
        dimensions = [k.flatten(1) for k in terms.kl_dimensions if k is not None]
        each += [torch.cat(dimensions, 1)] if len(dimensions) == len(terms.z) else []
        real = [(q, z) for q, z, space in zip(terms.q, terms.z, model.latents, strict=True) if space.levels is None]
        for deviations in (q.stddev.expand(z.shape)[0] for q, z in real):  # [B, *latent]
            scales = deviations.flatten(1).log()
            all_scales += [scales.flatten().cpu()] if len(all_scales) < len(real) else []
            at_bound.append(((scales - LOG_SCALE[0]).abs() < 1e-3) | ((scales - LOG_SCALE[1]).abs() < 1e-3))
    return Latents(
        levels=torch.cat(levels).mean(0).numpy() if levels else None,
        each=torch.cat(each).double().mean(0).cpu().numpy() if each else None,
        variance=of_variables(torch.cat(means).var(0, correction=0).numpy(), model),
        at_bound=float(torch.cat([b.flatten() for b in at_bound]).double().mean()) if at_bound else None,
        loosen=_loosen(model),
        scales=torch.cat(all_scales).numpy() if all_scales else None,
        traverse=lambda dims: _traversed(e, model, dims),
    )


@torch.no_grad()
def _traversed(e: Examined, model: LatentModel, dims: Sequence[int]) -> list[Pictures]:
    """What the decoder makes of an image's code as one dimension after another goes from -3 to 3; nothing where
    latents are no single vector."""
    if len(model.latents) != 1 or len(model.latents[0].shape) != 1 or model.latents[0].levels is not None:
        return []
    batch, rows = next(e.valid.in_order(1)), {}
    z = model.posteriors(batch.x, batch.y)[0].mean  # [1, D]
    for d in dims:
        moved = z.repeat(STEPS, 1)
        moved[:, d] = torch.linspace(-3, 3, STEPS, device=z.device)
        y = None if batch.y is None else batch.y.expand(STEPS, *batch.y.shape[1:])
        rows[f"z{d}"] = model.likelihood((moved,), y).mean.cpu().numpy()
    return [Pictures("pictures of one code as a dimension goes from -3 to 3", rows, model.space.levels or 256)]


def _loosen(model: LatentModel) -> str:
    """KEY=VALUE by which the latents keep more."""
    objective = getattr(model.config, "objective", None)
    if isinstance(objective, ELBO) and objective.beta > 1:
        return "model.objective.beta=1"
    if isinstance(objective, ELBO):
        return "model.objective.free_bits_dimension=0.1, or model.objective.warmup=2000"
    if isinstance(objective, Bound):
        return "model.objective.warmup=2000"
    return "a wider network, a longer training"


@dataclass(frozen=True)
class Latents:
    """What z holds of the validation images."""

    levels: np.ndarray | None  # [L], the KL of each level, nats per image; None: the posterior is a point
    each: np.ndarray | None  # [D], the mean KL of each dimension in nats, where it is a sum of them
    variance: np.ndarray  # [D], of the posterior means, of whole numbers of a value's probability, over the images
    at_bound: float | None  # share of the posterior's log-scales at the ends of their range; None: it has none
    loosen: str  # KEY=VALUE that lets the latents keep more
    scales: np.ndarray | None = None  # some of the posterior's log-scales
    traverse: Callable[[Sequence[int]], Sequence[Pictures]] = lambda dims: ()  # pictures along some dimensions

    @property
    def kl(self) -> float | None:
        """Of all of z."""
        return None if self.levels is None else float(self.levels.sum())

    @property
    def used(self) -> int:
        """Dimensions that tell images apart."""
        if self.each is not None:
            return int((self.each > ACTIVE).sum())
        bound = ACTIVE_POINT * self.variance.max() if self.kl is None else ACTIVE
        return int((self.variance > bound).sum())

    def checks(self) -> list[Check]:
        if self.kl is None:
            return showing([self._unused(False)], self._use)
        collapsed = Check(
            "latents.collapsed",
            self.kl,
            COLLAPSED,
            self.kl < COLLAPSED,
            "problem",
            f"z holds {self.kl:.2g} nats of an image: the posterior has collapsed onto the prior, the decoder does "
            "without z, and codes and edits mean nothing",
            self.loosen,
        )
        assert self.levels is not None
        several = len(self.levels) > 1
        used = self._dead(self.levels, collapsed.wrong) if several else self._unused(collapsed.wrong)
        found = showing([collapsed, used], self._use)
        return [*found, *([] if self.at_bound is None else [self._at_bound(self.at_bound)])]

    def _use(self) -> list[Evidence]:
        """The KL of each level or dimension, and what the most and the least used of the dimensions do."""
        if self.levels is not None and len(self.levels) > 1:
            return [
                Bars("KL of each level, nats", [f"z{l + 1}" for l in range(len(self.levels))], self.levels, COLLAPSED)
            ]
        use = self.variance if self.each is None else self.each
        what = "variance of the mean of q(z|x)" if self.each is None else "mean KL, nats"
        order = np.argsort(-use, kind="stable").tolist()
        bars = most(f"{what}, of each dimension, the largest first", {f"z{d}": float(use[d]) for d in order}, ACTIVE)
        return [bars, *self.traverse(list(dict.fromkeys([*order[:2], *order[-2:]])))]

    def _scales(self) -> list[Evidence]:
        return [] if self.scales is None else [Histograms("log-scales of q(z|x)", {"validation": self.scales})]

    def _dead(self, levels: np.ndarray, collapsed: bool) -> Check:
        dead = [f"z{l + 1}" for l, kl in enumerate(levels) if kl < COLLAPSED]
        which = f"{', '.join(dead[:5])}{', …' if len(dead) > 5 else ''}"
        return Check(
            "latents.dead_level",
            float(levels.min()),
            COLLAPSED,
            bool(dead) and not collapsed,
            "advice",
            f"{len(dead)} of {len(levels)} levels of latents hold less than {COLLAPSED} nats of an image ({which}): "
            "they cost time, and what is drawn there changes nothing",
            "model.objective.free_bits_level=0.5, or fewer levels at that scale (model.scales)",
        )

    def _unused(self, collapsed: bool) -> Check:
        share = self.used / len(self.variance)
        return Check(
            "latents.unused",
            share,
            UNUSED,
            share < UNUSED and not collapsed,
            "advice",
            f"{self.used} of {len(self.variance)} dimensions of z tell images apart; the others cost time and are "
            "noise to whoever uses the codes",
            f"model.latent={max(1, math.ceil(1.25 * self.used))}, or to use more of them {self.loosen}",
        )

    def _at_bound(self, share: float) -> Check:
        return Check(
            "latents.scales_at_bound",
            share,
            AT_BOUND,
            share > AT_BOUND,
            "problem",
            f"{share:.1%} of the posterior's log-scales are at the end of their range: the noise of z has "
            "vanished or exploded, and samples of the prior look like nothing",
            "model.objective=objectives.ELBO (for an autoencoder: model.posterior=families.Point), a smaller "
            "train.optimizer.lr",
            self._scales,
        )

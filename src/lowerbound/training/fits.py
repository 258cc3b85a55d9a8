"""Densities fitted to codes, by the loop that trains everything else.

The codes are draws of the aggregate posterior of the training images, z ~ q(z|x) (an autoencoder's q is a point), which
is what a prior should be (Hoffman & Johnson 2016; Ghosh et al. 2020, https://arxiv.org/abs/1903.12436).
"""

import math
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lowerbound.errors import ModelError, TrainingError
from lowerbound.model import Model, Refittable
from lowerbound.noise import seeded
from lowerbound.optimization import Adam, Cosine
from lowerbound.progress import Progress
from lowerbound.runs import inputs
from lowerbound.runs.facts import Facts
from lowerbound.runs.recipes import Recipe, Training
from lowerbound.runs.run import Run
from lowerbound.training.loop import Loop
from lowerbound.training.prepared import Prepared

ENOUGH, MOST = 10_000, 200_000  # codes that are fitted to: more draws of few images, some of many images
FEWEST = 2000  # steps of gradient, where a density has no closed form
LOOKS, PATIENCE, BATCH = 60, 10, 256  # at held-out codes; so many without a better one end it


# ---- the codes


class Codes(NamedTuple):
    """Draws of the aggregate posterior of a split, on the processor."""

    z: Tensor  # [N, D]
    image: np.ndarray  # [N], the place in its split of the image that each is of

    def of(self, part: slice) -> Tensor:
        """Those of some of the images: [n, D]."""
        return self.z[torch.from_numpy(np.isin(self.image, np.arange(self.image.max() + 1)[part]))]


def codes(run: Run, model: Refittable, split: str, seed: int = 0, progress: Progress | None = None) -> Tensor:
    """Draws of the aggregate posterior of a split: [N, D]. See `drawn_codes`."""
    return drawn_codes(run, model, split, seed, progress).z


@torch.no_grad()
def drawn_codes(run: Run, model: Refittable, split: str, seed: int = 0, progress: Progress | None = None) -> Codes:
    """Draws of the aggregate posterior of a split, z ~ q(z|x).

    One for each image, unless that are fewer than ENOUGH, or (then of evenly spaced pairs of images) more than MOST.
    Raises ModelError where some are not finite.
    """
    device = next(model.parameters()).device
    images = inputs.open_data(run, split, progress=progress)
    draws = 1 if model.has_point else math.ceil(ENOUGH / len(images))
    every = math.ceil(len(images) * draws / MOST)
    told, found, places = (progress or Progress()).count("encoding"), [], []
    with seeded(seed, "codes", split, quick=True):
        for batch in inputs.as_batches(run, images, device).in_order(model.rows):
            kept = batch.index // 2 % every == 0
            if kept.any():
                (q,) = model.posteriors(batch.x[torch.from_numpy(kept).to(device)])
                found.append(q.sample((draws,)).flatten(0, 1).cpu())
                places.append(np.tile(batch.index[kept], draws))
            told(int(batch.index[-1]) + 1, len(images))
    z = torch.cat(found)
    if not torch.isfinite(z).all():
        raise ModelError(f"{run.path}: some codes of {split} are not finite")
    return Codes(z, np.concatenate(places))


# ---- the fit


def is_chosen(model: Refittable, priors: Sequence[Model.Config]) -> bool:
    """Whether held-out codes choose anything: one of several priors, or the step where its training ends."""
    with seeded("which"):
        stages = [stage for prior in priors for stage in prior.build(model.latents[0]).stages()]
    return len(priors) > 1 or any(stage.fit is None for stage in stages)


def best(
    model: Refittable,
    priors: Sequence[Model.Config],
    z: Tensor,
    held_out: Tensor,
    seed: int = 0,
    progress: Progress | None = None,
) -> Refittable:
    """The model with that of the priors, fitted to codes z [N, D], that gives held-out codes the highest density.

    On the processor, in eval mode. Raises ModelError where none can be fitted.
    """
    if len(z) <= z.shape[1] or float(z.var(0).max()) == 0:
        raise ModelError(f"the {len(z)} codes of {z.shape[1]} dimensions do not vary enough to fit a density to them")
    fitted = [_fitted(model, prior, z, held_out, seed, progress or Progress()) for prior in priors]
    score, whole = max(fitted, key=lambda pair: pair[0])
    if not math.isfinite(score):
        raise ModelError(
            f"{whole.prior.config.type_name()} gives held-out codes no finite density; try another --prior"
        )
    return whole


def _fitted(
    model: Refittable, prior: Model.Config, z: Tensor, held_out: Tensor, seed: int, progress: Progress
) -> tuple[float, Refittable]:
    """The model with a prior, once its stage is trained, and the mean of log p(z) over held-out codes, in nats."""
    config = model.config.with_prior(prior)
    with seeded(seed, "prior"):
        whole = config.build(model.space, model.given)
    whole.load_state_dict(whole.state_dict() | model.state_dict())
    *_, stage = whole.stages()
    assert stage.prepare is not None
    parts = tuple(Prepared((part,), None, stage.prepare, part.device) for part in (z, held_out))
    progress.say(f"fitting {prior.type_name()} to {len(z):,} codes")
    facts = Facts(name="codes", shape=model.space.shape, levels=model.space.levels or 256, images=len(z))  # pyright: ignore
    with tempfile.TemporaryDirectory(prefix="lowerbound-") as folder:
        run = Run.create(Path(folder), "prior", Recipe(seed=seed, model=config, train=training(len(z))), facts)
        loop = Loop(run, whole, stage, parts, progress, threading.Event())  # pyright: ignore
        try:
            loop.run_through()
        except TrainingError:
            return -math.inf, whole
    return loop.at.best, whole.eval()


def training(n: int) -> Training:
    """How a density of n codes is trained that has no closed form: stopped where held-out codes are the likeliest."""
    steps = max(FEWEST, min(15_000, LOOKS * n // BATCH))
    return Training(
        steps=steps,
        batch=BATCH,
        optimizer=Adam(lr=1e-3),
        schedule=Cosine(),
        averaging=None,
        clip=20.0,
        skip=None,
        valid_every=max(1, steps // LOOKS),
        valid_images=MOST,
        patience=PATIENCE,
    )


@torch.no_grad()
def mean_density(prior: Model, z: Tensor) -> float:
    """The mean of log p(z) over codes, in nats."""
    return float(prior.log_density(z).mean())

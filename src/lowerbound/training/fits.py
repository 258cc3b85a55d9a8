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

from lowerbound.chunks import own_events
from lowerbound.errors import ConfigError, ModelError, TrainingError, UserError, counted
from lowerbound.model import Model, Refittable
from lowerbound.noise import multinomial, seeded
from lowerbound.optimization import Adam, Cosine
from lowerbound.parallel import each_once, gathered
from lowerbound.priors import LabelError, PerLabel
from lowerbound.progress import Progress
from lowerbound.runs import inputs
from lowerbound.runs.facts import Facts
from lowerbound.runs.recipes import Recipe, Training
from lowerbound.runs.run import Run
from lowerbound.space import Space, told_of
from lowerbound.training.loop import Loop
from lowerbound.training.prepared import Prepared

ENOUGH, MOST = 10_000, 200_000  # codes that are fitted to: more draws of few images, some of many images
NUMBERS = 2**27  # in all codes, at most
FEWEST = 2000  # steps of gradient, where a density has no closed form
LOOKS, PATIENCE, BATCH = 60, 10, 256  # at held-out codes; so many without a better one end it


# ---- the codes


class Codes(NamedTuple):
    """Draws of the aggregate posterior of a split, on the processor."""

    z: Tensor  # [N, *latent]
    y: Tensor | None = None  # [N], the label that each is given, where the model is given one
    image: np.ndarray | None = None  # [N], the place in its split of the image that each is of
    classes: tuple[str, ...] = ()  # the names of the labels

    def of(self, part: slice) -> "Codes":
        """Those of some of the images."""
        assert self.image is not None
        kept = torch.from_numpy(np.isin(self.image, np.arange(self.image.max() + 1)[part]))
        return self._replace(z=self.z[kept], y=None if self.y is None else self.y[kept], image=self.image[kept])


@torch.no_grad()
def drawn_codes(run: Run, model: Refittable, split: str, seed: int = 0, progress: Progress | None = None) -> Codes:
    """Draws of the aggregate posterior of a split, z ~ q(z|x) or q(z|x, y).

    One for each image, unless that are fewer than ENOUGH, or (then of evenly spaced pairs of images) more than MOST, or
    than fit in memory. Labels that training did not see are drawn from q(y|x). Raises ModelError where some codes are
    not finite.
    """
    device = next(model.parameters()).device
    images = inputs.open_data(run, split, progress=progress)
    draws = 1 if model.has_point else math.ceil(ENOUGH / len(images))
    every = math.ceil(len(images) * draws / min(MOST, NUMBERS // model.latents[0].dims))
    told, found, labels, places = (progress or Progress()).count("encoding"), [], [], []
    with seeded(seed, "codes", split, quick=True):
        for batch in inputs.as_batches(run, images, device).in_order(model.rows):
            kept = batch.index // 2 % every == 0
            if kept.any():
                with own_events(torch.from_numpy(np.flatnonzero(kept))) as own:
                    rows, index = own.to(device), batch.index[own.numpy()]
                    x, y = batch.x[rows], None if batch.y is None else batch.y[rows]
                    y = y if y is None else _seen_labels(run, model, split, x, y, index)
                    (q,) = model.posteriors(x, y)
                    z = q.sample((draws,)).cpu()
                parts = [(z, None if y is None else y.cpu(), index)]
                z, y, index = zip(*(gathered(parts) if len(own) < kept.sum() else parts), strict=True)
                found.append(torch.cat(z, 1).flatten(0, 1))
                places.append(np.tile(np.concatenate(index), draws))
                labels += [] if y[0] is None else [torch.cat(y).repeat(draws)]
            told(int(batch.index[-1]) + 1, len(images))
    z = torch.cat(found)
    if not torch.isfinite(z).all():
        raise ModelError(f"{run.path}: some codes of {split} are not finite")
    y = torch.cat(labels) if labels else None
    return Codes(z, y, np.concatenate(places), run.facts.classes or ())


def _seen_labels(run: Run, model: Model, split: str, x: Tensor, y: Tensor, index: np.ndarray) -> Tensor:
    """The labels [B] of images of which training has seen few: those, and for the others draws from q(y|x)."""
    if run.facts.labelled is None:
        return y
    known = np.isin(index, run.facts.labelled if split == "train" else ())
    drawn = multinomial(model.probabilities(x), 1)[:, 0]
    return torch.where(torch.from_numpy(known).to(y.device), y, drawn)


# ---- the fit


def is_chosen(model: Refittable, priors: Sequence[Model.Config]) -> bool:
    """Whether held-out codes choose anything: one of several priors, or the step where its training ends."""
    if len(priors) > 1:
        return True
    with seeded("which"):
        stages = [stage for prior in priors for stage in prior.build(model.latents[0], model.given).stages()]
    return any(stage.fit is None for stage in stages)


def conditional(prior: Model.Config, given: tuple[Space, ...]) -> Model.Config:
    """The prior of latents that something is given of: one for each label, where it would not look at it."""
    return PerLabel.Config(each=prior) if told_of(given) == "label" and prior.one_for_all else prior


def best(
    model: Refittable,
    priors: Sequence[Model.Config],
    codes: Codes,
    held_out: Codes,
    seed: int = 0,
    progress: Progress | None = None,
) -> Refittable:
    """The model with that of the priors, fitted to codes, that gives held-out codes the highest density.

    Of several, those are left out that there are too few codes for, or that are not for such codes. Processes that work
    `together` share the priors out: each is fitted by one of them. Where the model is, in eval mode. Raises UserError
    where none can be fitted.
    """
    n, D = len(codes.z), codes.z[0].numel()
    if float(codes.z.flatten(1).var(0).max()) == 0:
        raise ModelError(f"the {n} codes of {D} dimensions do not vary enough to fit a density to them")

    def one(i: int) -> _Fitted | UserError:
        try:
            score, whole = _fitted(model, priors[i], codes, held_out, seed, progress or Progress())
        except (ModelError, ConfigError) as e:
            return e
        return _Fitted(score, i, {name: t.cpu() for name, t in whole.state_dict().items()})

    each = each_once(one, len(priors))
    fitted = [one for one in each if isinstance(one, _Fitted)]
    if not fitted:
        raise next(e for e in reversed(each) if isinstance(e, UserError))
    found = max(fitted, key=lambda one: one.score)
    if not math.isfinite(found.score):
        raise ModelError(
            f"{priors[found.prior].type_name()} gives held-out codes no finite density; try another --prior"
        )
    with seeded(seed, "prior"):
        whole = model.config.with_prior(priors[found.prior]).build(model.space, model.given)
    whole.load_state_dict(found.weights)
    return whole.to(model.device).eval()


class _Fitted(NamedTuple):
    """score: the mean of log p(z) over held-out codes, in nats. prior: its number. weights: of the whole model."""

    score: float
    prior: int
    weights: dict[str, Tensor]


def _check_labels(codes: Codes) -> None:
    """Raise ModelError, which names the label, where one has too few codes for a density of its own."""
    assert codes.y is not None
    least = codes.z.shape[1]  # of a map, what the covariance of the channels of a place takes
    for name, n in zip(codes.classes, torch.bincount(codes.y, minlength=len(codes.classes)).tolist(), strict=True):
        if n <= least:
            raise ModelError(
                f"label {name}: has {counted(n, 'code')}, and a density of its own takes more than {least}; use "
                "--prior flow, spline or autoregressive, which learn from all labels together, or more images of it"
            )


def _fitted(
    model: Refittable, prior: Model.Config, codes: Codes, held_out: Codes, seed: int, progress: Progress
) -> tuple[float, Refittable]:
    """The model with a prior, once its stage is trained, and the mean of log p(z) over held-out codes, in nats."""
    config, n = model.config.with_prior(prior), len(codes.z)
    if isinstance(prior, PerLabel.Config) and codes.classes:
        _check_labels(codes)
    with seeded(seed, "prior"):
        whole = config.build(model.space, model.given)
    whole.load_state_dict(whole.state_dict() | model.state_dict())
    whole.to(model.device)
    *_, stage = whole.stages()
    assert stage.prepare is not None
    parts = tuple(Prepared((part.z,), part.y, stage.prepare, model.device) for part in (codes, held_out))
    progress.say(f"fitting {prior.type_name()} to {n:,} codes")
    facts = Facts(name="codes", shape=model.space.shape, levels=model.space.levels or 256, images=n)  # pyright: ignore
    with tempfile.TemporaryDirectory(prefix="lowerbound-") as folder:
        run = Run.create(
            Path(folder), "prior", Recipe(seed=seed, model=config, train=training(n, codes.z[0].numel())), facts
        )
        loop = Loop(run, whole, stage, parts, progress, threading.Event())  # pyright: ignore
        try:
            loop.run_through()
        except TrainingError:
            return -math.inf, whole
        except LabelError as e:
            name = codes.classes[e.label] if codes.classes else e.label
            raise ModelError(f"label {name}: {e.why}") from None
    return loop.at.best, whole.eval()


def training(n: int, dims: int) -> Training:
    """How a density of n codes of so many numbers is trained that has no closed form: stopped where held-out codes are
    the likeliest. Of large maps a batch holds fewer."""
    steps = max(FEWEST, min(15_000, LOOKS * n // BATCH))
    return Training(
        steps=steps,
        batch=max(32, min(BATCH, 2**15 // dims)),
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
def mean_density(prior: Model, codes: Codes) -> float:
    """The mean of log p(z) or log p(z|y) over codes, in nats."""
    parts = torch.arange(len(codes.z)).split(prior.rows)
    found = [prior.log_density(codes.z[i], None if codes.y is None else codes.y[i]) for i in parts]
    return float(torch.cat(found).mean())

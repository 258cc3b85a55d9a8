"""Densities fitted to codes.

The codes are draws of the aggregate posterior of the training images, z ~ q(z|x) (an autoencoder's q is a point), which
is what a prior should be (Hoffman & Johnson 2016; Ghosh et al. 2020, https://arxiv.org/abs/1903.12436).
"""

import copy
import math
import warnings
from functools import singledispatch

import numpy as np
import torch
from torch import Tensor

from lowerbound import noise
from lowerbound.errors import ConfigError, ModelError
from lowerbound.model import Model
from lowerbound.models.flow import Flow
from lowerbound.models.ppca import covariance
from lowerbound.models.vae import VAE
from lowerbound.noise import key, seeded
from lowerbound.priors import FullGaussianMixture, Gaussian
from lowerbound.progress import Progress
from lowerbound.runs import inputs
from lowerbound.runs.run import Run
from lowerbound.space import Space

ENOUGH, MOST = 10_000, 200_000  # codes that are fitted to: more draws of few images, some of many images
MIXED = 20_000  # codes, at most, that a mixture is fitted to: its time grows with them times components times D²
FEWEST = 2000  # steps of gradient to fit a flow


# ---- the codes


@torch.no_grad()
def codes(run: Run, model: VAE, split: str, seed: int = 0, progress: Progress | None = None) -> Tensor:
    """Draws of the aggregate posterior of a split, z ~ q(z|x): [N, D] on the processor.

    One for each image, unless that are fewer than ENOUGH, or (then of evenly spaced images) more than MOST.
    """
    device = next(model.parameters()).device
    images = inputs.open_data(run, split, progress=progress)
    draws = 1 if model.has_point else math.ceil(ENOUGH / len(images))
    every = math.ceil(len(images) * draws / MOST)
    told, found = (progress or Progress()).count("encoding"), []
    with seeded(seed, "codes", split):
        for batch in inputs.as_batches(run, images, device).in_order(model.rows):
            kept = torch.from_numpy(batch.index % every == 0).to(device)
            if kept.any():
                (q,) = model.posteriors(batch.x[kept])
                found.append(q.sample((draws,)).flatten(0, 1).cpu())
            told(int(batch.index[-1]) + 1, len(images))
    z = torch.cat(found)
    if not torch.isfinite(z).all():
        raise ModelError(f"{run.path}: some codes of {split} are not finite")
    return z


# ---- the fit


def best(
    configs: list[Model.Config], z: Tensor, held_out: Tensor, seed: int = 0, progress: Progress | None = None
) -> Model:
    """Of the priors, fitted to codes z [N, D], the one that gives held-out codes the highest density."""
    if len(z) <= z.shape[1] or float(z.var(0).max()) == 0:
        raise ModelError(f"the {len(z)} codes of {z.shape[1]} dimensions do not vary enough to fit a density to them")
    scored = []
    for config in configs:
        with seeded(seed, "prior"):
            prior = config.build(Space(tuple(z.shape[1:]))).eval()
        estimate(prior, z, held_out, seed, progress or Progress())
        scored.append((_mean_density(prior, held_out), prior))
    score, prior = max(scored, key=lambda pair: pair[0])
    if not math.isfinite(score):
        raise ModelError(f"{prior.config.type_name()} gives held-out codes no finite density; try another --prior")
    return prior


@singledispatch
def estimate(prior: Model, z: Tensor, held_out: Tensor, seed: int, progress: Progress) -> None:
    """Set the prior to the maximum of the likelihood of codes z [N, D], or, trained by gradients, of held-out ones."""
    raise ConfigError(f"{prior.config.type_name()} has no rule by which it is fitted to codes")


@estimate.register
def _(prior: Gaussian, z: Tensor, held_out: Tensor, seed: int, progress: Progress) -> None:
    """The mean and the covariance."""
    prior.put(*_moments(z))


def _moments(z: Tensor) -> tuple[Tensor, Tensor]:
    """The mean [D] and covariance [D, D] of codes; a millionth of the mean variance is added, since some lie in a
    plane."""
    _, mean, cov = covariance([z])
    return mean, cov + 1e-6 * cov.diagonal().mean() * torch.eye(len(cov), dtype=cov.dtype)


@estimate.register
def _(prior: FullGaussianMixture, z: Tensor, held_out: Tensor, seed: int, progress: Progress) -> None:
    """scikit-learn's expectation maximization on at most MIXED standardized codes; 100 steps at most."""
    from sklearn.exceptions import ConvergenceWarning  # slow imports, and `train` imports this file
    from sklearn.mixture import GaussianMixture as Estimator

    K = prior.config.components
    z = z[:: math.ceil(len(z) / MIXED)].double()
    if len(z) < 2 * K:
        raise ModelError(f"--components {K}: {len(z)} codes are too few for so many; expected at most {len(z) // 2}")
    mean, scale = z.mean(0), z.std(0).clamp(min=1e-3 * float(z.std(0).max()))
    progress.say(f"fitting {K} components to {len(z):,} codes")
    estimator = Estimator(K, reg_covar=1e-5, random_state=key(seed, "mixture") % 2**32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # 100 steps are near enough
        estimator.fit(((z - mean) / scale).numpy())
    weights, means, covariances = (
        torch.from_numpy(np.asarray(a)) for a in (estimator.weights_, estimator.means_, estimator.covariances_)
    )
    prior.put(weights.clamp(min=1e-12), mean + scale * means, scale[:, None] * covariances * scale)


@estimate.register
def _(prior: Flow, z: Tensor, held_out: Tensor, seed: int, progress: Progress) -> None:
    """Adam with a falling rate, from the fitted normal on; goes back to where held-out codes were the likeliest."""
    batch, looks, patience = 256, 60, 10
    steps = max(FEWEST, min(15_000, looks * len(z) // batch))
    prior.whiten(*_moments(z))
    optimizer = torch.optim.Adam(prior.parameters(), lr=1e-3, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    kept, highest, since, told = copy.deepcopy(prior.state_dict()), -math.inf, 0, progress.count("fitting the flow")
    with seeded(seed, "flow"):
        for step in range(steps):
            if step % (steps // looks) == 0 or step == steps - 1:
                score, since = _mean_density(prior, held_out), since + 1
                if score > highest:
                    kept, highest, since = copy.deepcopy(prior.state_dict()), score, 0
                if since == patience:
                    break
            optimizer.zero_grad()
            prior.loss(z[noise.randint(0, len(z), (batch,))]).value.backward()
            torch.nn.utils.clip_grad_norm_(prior.parameters(), 20.0)
            optimizer.step()
            schedule.step()
            told(step + 1, steps)
    prior.load_state_dict(kept)
    prior.zero_grad()


@torch.no_grad()
def _mean_density(prior: Model, z: Tensor) -> float:
    """The mean of log p(z) over codes, in nats."""
    return float(prior.log_density(z).mean())

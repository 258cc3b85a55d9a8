"""A density fitted to the codes of a trained encoder, which takes the prior's place: `lowerbound fit-prior`.

The codes are draws of the aggregate posterior of the training images, z ~ q(z|x) (an autoencoder's q is a point), which
is what a prior should be (Hoffman & Johnson 2016; Ghosh et al. 2020, https://arxiv.org/abs/1903.12436). A VAE's bound
holds with any prior, and is measured anew; an autoencoder can sample afterwards, and still says nothing of log p(x).
"""

import copy
import math
import warnings
from functools import singledispatch
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lowerbound import verbs
from lowerbound.data.batches import Batches
from lowerbound.errors import ConfigError, ModelError, did_you_mean
from lowerbound.metrics.base import measure, rows_at_once
from lowerbound.metrics.samples import PixelFeatures, frechet
from lowerbound.models.base import Density, Model, Space
from lowerbound.models.flow import Flow
from lowerbound.models.ppca import covariance
from lowerbound.models.vae import VAE
from lowerbound.noise import key, seeded
from lowerbound.priors import FullGaussianMixture, Gaussian
from lowerbound.progress import Progress
from lowerbound.recipes import Recipe
from lowerbound.run import Run

PRIORS: dict[str, Model.Config] = {
    "gaussian": Gaussian.Config(),
    "mixture": FullGaussianMixture.Config(),
    "flow": Flow.Config(),
}
CANDIDATES = (5, 20, 60)  # components of a mixture, of which the held-out codes choose
ENOUGH, MOST = 10_000, 200_000  # codes that are fitted to: more draws of few images, some of many images
MIXED = 20_000  # codes, at most, that a mixture is fitted to: its time grows with them times components times D²
FEWEST = 2000  # steps of gradient to fit a flow
JUDGED = 5000  # images, at most, that samples are compared with


def fit_prior(
    run: Run,
    prior: str = "gaussian",
    *,
    components: int | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Fit a prior to the codes of a run's training images and store it in the run; `none` takes it out again.

    components: of a mixture; None: as many of CANDIDATES as the codes of the validation images like best.
    Then the run's pictures are drawn and its validation images measured anew; all other evaluations, which are of the
    former prior, are removed. Returns what has changed: see `report` below.
    Raises ModelError for a run without a single vector of latents, ConfigError for another prior.
    """
    progress = progress or Progress()
    configs = _configs(prior, components)
    _check_fits(run)
    if prior == "none":
        remove_prior(run)
        verbs.finish(run, device=device, progress=progress)
        return {"run": str(run.path), "prior": None}
    model = _unfitted(run).load(device)
    assert isinstance(model, VAE)
    z, held_out = (codes(run, model, split, seed, progress) for split in ("train", "valid"))
    fitted = best(configs, z, held_out, seed, progress).to(device)
    before = _likelihoods(run, model, progress)
    quality = sample_quality(run, model, fitted, seed)
    held_out = held_out.to(device)
    nats = {"former": _mean_density(model.own_prior, held_out), "fitted": _mean_density(fitted, held_out)}
    _store(run, model, fitted)
    after = verbs.finish(run, device=device, progress=progress)["metrics"]
    return {
        "run": str(run.path),
        "prior": fitted.config.type_name(),
        **({"components": fitted.config.components} if isinstance(fitted, FullGaussianMixture) else {}),
        "codes": len(z),
        "log_density_of_codes": {**nats, "split": "valid", "unit": "nats/code"},
        "frechet": quality,
        "likelihoods": {name: {"former": old, "fitted": after[name]} for name, old in before.items()},
    }


def _configs(prior: str, components: int | None) -> list[Model.Config]:
    """The priors to choose from. Raises ConfigError for an unknown one."""
    if prior != "none" and prior not in PRIORS:
        raise ConfigError(f"--prior {prior}: no such prior{did_you_mean(prior, [*PRIORS, 'none'])}")
    if components is not None and prior != "mixture":
        raise ConfigError(f"--components {components}: is for --prior mixture, got --prior {prior}")
    if components is not None and components < 1:
        raise ConfigError(f"--components {components}: expected a whole number above 0")
    if prior == "mixture":
        return [FullGaussianMixture.Config(components=k) for k in ((components,) if components else CANDIDATES)]
    return [PRIORS[prior]] if prior in PRIORS else []


def _check_fits(run: Run) -> None:
    config = run.recipe.model
    if not isinstance(config, VAE.Config):
        raise ModelError(f"{run.path}: fit-prior takes a VAE or an autoencoder, and this is a {config.type_name()}")
    if len(config.latent) != 1:
        raise ModelError(
            f"{run.path}: fit-prior takes a single vector of latents, and this model has a map of "
            f"{list(config.latent)}; train one with model.latent=20"
        )
    if run.recipe.data.label:
        raise ModelError(f"{run.path}: fit-prior takes a model without a condition; train one with data.label=false")


# ---- the codes


@torch.no_grad()
def codes(run: Run, model: VAE, split: str, seed: int = 0, progress: Progress | None = None) -> Tensor:
    """Draws of the aggregate posterior of a split, z ~ q(z|x): [N, D] on the processor.

    One for each image, unless that are fewer than ENOUGH, or (then of evenly spaced images) more than MOST.
    """
    device = next(model.parameters()).device
    images = verbs.open_data(run, split, progress=progress)
    draws = 1 if model.has_point else math.ceil(ENOUGH / len(images))
    every = math.ceil(len(images) * draws / MOST)
    told, found = (progress or Progress()).count("encoding"), []
    with seeded(seed, "codes", split, device=device):
        for batch in verbs.as_batches(run, images, device).in_order(rows_at_once(model)):
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
            prior.loss(z[torch.randint(len(z), (batch,))]).value.backward()
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


# ---- what it brings


def _likelihoods(run: Run, model: VAE, progress: Progress) -> dict[str, Any]:
    """The bound on the validation images and its parts, measured as after a training; nothing where there is none."""
    if model.density is Density.NONE:
        return {}
    images = verbs.open_data(run, "valid", progress=progress)
    batches = verbs.as_batches(run, images, next(model.parameters()).device)
    values = measure(model, batches, names=["elbo", "kl", "nll"], options={"draws": verbs.short_draws(run, images)})
    return {name: value.entry() for name, value in values.items()}


@torch.no_grad()
def sample_quality(run: Run, model: VAE, fitted: Model, seed: int = 0) -> dict[str, Any]:
    """Squared Fréchet distances to the validation images in 64 principal components of the training images' pixels:
    of as many samples with the former prior, with the fitted one, and of as many training images, the floor."""
    device = next(model.parameters()).device
    batches = [verbs.as_batches(run, verbs.open_data(run, split), device) for split in ("train", "valid")]
    n = min(JUDGED, *map(len, batches))
    train, valid = (_spread(b, n) for b in batches)
    features = PixelFeatures(train, model.space.levels or 2, seed=seed)
    reference = features(valid)
    with seeded(seed, "quality", device=device):
        drawn = [features(_decoded(model, prior, n)) for prior in (model.own_prior, fitted)]
    former, after = (frechet(f, reference) for f in drawn)
    return {"former": former, "fitted": after, "floor": frechet(features(train), reference), "n": n}


def _spread(batches: Batches, n: int) -> np.ndarray:
    """n images evenly spaced over the split, as the model takes them: uint8 [n, C, H, W]."""
    wanted = np.linspace(0, len(batches) - 1, n).astype(int)
    found = [b.x.cpu().numpy()[np.isin(b.index, wanted)] for b in batches.in_order(4096)]
    return np.concatenate(found)


def _decoded(model: VAE, prior: Model, n: int) -> np.ndarray:
    """n samples with z from this prior: uint8 [n, C, H, W]."""
    parts = torch.arange(n).split(rows_at_once(model))
    return np.concatenate([model.likelihood((prior.sample(len(p)),)).sample().cpu().numpy() for p in parts])


# ---- the run


def is_fitted(recipe: Recipe) -> bool:
    """Whether the recipe has a prior that was fitted after training."""
    return isinstance(recipe.model, VAE.Config) and recipe.model.fitted_prior is not None


def unfitted(recipe: Recipe) -> Recipe:
    """The recipe as it was trained."""
    return _with_prior(recipe, None) if is_fitted(recipe) else recipe


def _with_prior(recipe: Recipe, prior: Model.Config | None) -> Recipe:
    return recipe.model_copy(update={"model": recipe.model.model_copy(update={"fitted_prior": prior})})


def _unfitted(run: Run) -> Run:
    """The run with the prior it was trained with, in memory alone."""
    return Run(run.path, run.name, unfitted(run.recipe), run.facts)


def remove_prior(run: Run) -> None:
    """Take a fitted prior out of a run, and what was measured and drawn with it. A kill on the way leaves a run."""
    run.forget_prior()
    if is_fitted(run.recipe):
        run.recipe = unfitted(run.recipe)
        run.save_config()  # the weights may hold more than the configuration asks for
        run.save_model(run.load())


def _store(run: Run, model: VAE, fitted: Model) -> None:
    """Put a fitted prior into a run. In this order a kill leaves a run with the former prior or the fitted one."""
    remove_prior(run)
    recipe = _with_prior(run.recipe, fitted.config)
    whole = recipe.model.build(run.facts.space, ())
    whole.load_state_dict(model.state_dict() | {f"fitted_prior.{k}": t for k, t in fitted.state_dict().items()})
    run.save_model(whole)
    run.recipe = recipe
    run.save_config()

"""Fit a density to the codes of a trained encoder, so that it can sample (better)."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rich import box
from rich.table import Table

from lowerbound.data.batches import Batches
from lowerbound.errors import ConfigError, ModelError, did_you_mean
from lowerbound.metrics.base import World, measure
from lowerbound.metrics.distances import frechet
from lowerbound.metrics.extractors import PixelFeatures
from lowerbound.metrics.report import finish, short_draws
from lowerbound.model import Model
from lowerbound.models.flow import Flow
from lowerbound.models.vae import VAE
from lowerbound.noise import seeded
from lowerbound.priors import FullGaussianMixture, Gaussian
from lowerbound.progress import Progress
from lowerbound.runs import inputs
from lowerbound.runs.fitted import _store, _unfitted, remove_prior
from lowerbound.runs.lock import held
from lowerbound.runs.run import Run
from lowerbound.space import Density
from lowerbound.training.fits import _mean_density, best, codes
from lowerbound.verbs.base import Device, Report, Seed, SomeWhole, Told, verb

PRIORS: dict[str, Model.Config] = {
    "gaussian": Gaussian.Config(),
    "mixture": FullGaussianMixture.Config(),
    "flow": Flow.Config(),
}
CANDIDATES = (5, 20, 60)  # components of a mixture, of which the held-out codes choose
JUDGED = 5000  # images, at most, that samples are compared with


@dataclass(frozen=True, eq=False)
class Fitted(Report):
    """The former prior and the fitted one, side by side."""

    report: dict[str, Any]

    def json(self) -> dict[str, Any]:
        return self.report

    def shown(self) -> Any:
        if self["prior"] is None:
            return f"{self['run']}: no fitted prior"
        kind = self["prior"] + (f", {self['components']} components" if "components" in self else "")
        table = Table(
            "", "former prior", "fitted", "floor", "unit", box=box.SIMPLE, title=f"{kind}, {self['codes']:,} codes"
        )
        codes, distance = self["log_density_of_codes"], self["frechet"]
        table.add_row(
            "log p(z), validation codes", *(f"{codes[k]:.5g}" for k in ("former", "fitted")), "", codes["unit"]
        )
        shown = [f"{distance[k]:.4g}" for k in ("former", "fitted", "floor")]
        table.add_row(f"Fréchet distance, {distance['n']:,} samples", *shown, "64 principal components")
        for name, m in self["likelihoods"].items():
            cells = [
                f"{m[k]['relation']} {m[k]['value']:.5g} ± {m[k]['stderr'] or 0:.2g}" for k in ("former", "fitted")
            ]
            table.add_row(f"{name}, validation images", *cells, "", m["fitted"]["unit"])
        return table


@verb
def fit_prior(
    run: Run,
    /,
    prior: str = "gaussian",
    *,
    components: SomeWhole = None,
    device: Device = "auto",
    seed: Seed = 0,
    progress: Told = False,
    allow: Iterable[str] = (),
) -> Fitted:
    """Fit a density to the codes of a trained encoder, so that it can sample (better).

    Then the run's pictures are drawn and its validation images measured anew; all other evaluations, which are of the
    former prior, are removed.

    Args:
        prior: gaussian, mixture, flow, or none to take a fitted one out
        components: of a mixture; by default what held-out codes like best
        allow: packages besides lowerbound that components may come from

    Raises ModelError for a run without a single vector of latents, ConfigError for another prior.
    """
    configs = _configs(prior, components)
    _check_fits(run)
    with held(run.path, progress):
        return _fit(run, prior, configs, seed, device, progress)


def _fit(
    run: Run, prior: str, configs: list[Model.Config], seed: int, device: torch.device | str, progress: Progress
) -> Fitted:
    if prior == "none":
        remove_prior(run)
        finish(inputs.Held.of(run, device), progress)
        return Fitted({"run": str(run.path), "prior": None})
    model = _unfitted(run).load(device)
    assert isinstance(model, VAE)
    z, held_out = (codes(run, model, split, seed, progress) for split in ("train", "valid"))
    fitted = best(configs, z, held_out, seed, progress).to(device)
    before = _likelihoods(run, model, progress)
    quality = sample_quality(run, model, fitted, seed)
    held_out = held_out.to(device)
    nats = {"former": _mean_density(model.own_prior, held_out), "fitted": _mean_density(fitted, held_out)}
    _store(run, model, fitted)
    after = finish(inputs.Held.of(run, device), progress)["metrics"]
    report = {
        "run": str(run.path),
        "prior": fitted.config.type_name(),
        **({"components": fitted.config.components} if isinstance(fitted, FullGaussianMixture) else {}),
        "codes": len(z),
        "log_density_of_codes": {**nats, "split": "valid", "unit": "nats/code"},
        "frechet": quality,
        "likelihoods": {name: {"former": old, "fitted": after[name]} for name, old in before.items()},
    }
    return Fitted(report)


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


# ---- what it brings


def _likelihoods(run: Run, model: VAE, progress: Progress) -> dict[str, Any]:
    """The bound on the validation images and its parts, measured as after a training; nothing where there is none."""
    if model.density is Density.NONE:
        return {}
    images = inputs.open_data(run, "valid", progress=progress)
    batches = inputs.as_batches(run, images, next(model.parameters()).device)
    values = measure(
        World(model, batches, run), names=["elbo", "kl", "nll"], options={"draws": short_draws(run, images)}
    )
    return {name: value.entry() for name, value in values.items()}


@torch.no_grad()
def sample_quality(run: Run, model: VAE, fitted: Model, seed: int = 0) -> dict[str, Any]:
    """Squared Fréchet distances to the validation images in 64 principal components of the training images' pixels:
    of as many samples with the former prior, with the fitted one, and of as many training images, the floor."""
    device = next(model.parameters()).device
    batches = [inputs.as_batches(run, inputs.open_data(run, split), device) for split in ("train", "valid")]
    n = min(JUDGED, *map(len, batches))
    train, valid = (_spread(b, n) for b in batches)
    features = PixelFeatures(train, model.space.levels or 2, seed=seed)
    reference = features(valid)
    with seeded(seed, "quality"):
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
    parts = torch.arange(n).split(model.rows)
    return np.concatenate([model.likelihood((prior.sample(len(p)),)).sample().cpu().numpy() for p in parts])

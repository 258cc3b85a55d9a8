"""Fit a density to the codes of a trained encoder, so that it can sample (better)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rich import box
from rich.table import Table

from lowerbound.chunks import own_events
from lowerbound.config import components as kinds
from lowerbound.config import dump, parse
from lowerbound.data.base import Images
from lowerbound.data.batches import binarized
from lowerbound.errors import ConfigError, ModelError, counted, did_you_mean
from lowerbound.likeness import PixelFeatures, frechet
from lowerbound.metrics import samples
from lowerbound.metrics.base import World, measure
from lowerbound.metrics.extractors import parted
from lowerbound.metrics.report import finish, short_draws
from lowerbound.model import Model, Refittable, rows_of
from lowerbound.noise import seeded
from lowerbound.parallel import by_first, gathered, team
from lowerbound.priors import PerLabel, offered
from lowerbound.progress import Progress
from lowerbound.runs import inputs
from lowerbound.runs.fitted import _store, _unfitted, remove_prior
from lowerbound.runs.lock import held_by_first
from lowerbound.runs.recipes import Recipe
from lowerbound.runs.run import Run
from lowerbound.space import Density, Space
from lowerbound.training import fits
from lowerbound.verbs.base import Device, Processes, Report, Seed, SomeWhole, Told, verb

JUDGED = 5000  # images, at most, that samples are compared with
ALL, NONE, EVEN, ODD = slice(None), slice(0), slice(0, None, 2), slice(1, None, 2)  # of the validation images


@dataclass(frozen=True, eq=False)
class Fitted(Report):
    """The former prior and the fitted one, side by side."""

    run: str
    prior: str | None  # None: a fitted one was taken out, and there is nothing to say of the others
    each: str | None = None  # what each label has, where every one has a prior of its own
    components: int | None = None  # of a mixture
    codes: int | None = None  # that it was fitted to
    validation: dict[str, Any] | None = None  # how many images there are, chose the prior, and are reported on
    log_density_of_codes: dict[str, Any] | None = None  # nats
    frechet: dict[str, Any] | None = None
    likelihoods: dict[str, Any] | None = None  # the bound and its parts; {} where there is none

    def shown(self) -> Any:
        if self["prior"] is None:
            return f"{self.run}: no fitted prior"
        kind = f"{self['each']} of each label" if "each" in self else self["prior"]
        kind += f", {self['components']} components" if "components" in self else ""
        title = f"{kind}, {self['codes']:,} codes"
        table = Table("", "former prior", "fitted", "floor", "unit", box=box.SIMPLE, title=title, caption=self._of())
        codes, distance = self["log_density_of_codes"], self["frechet"]
        table.add_row(
            "log p(z), validation codes", *(f"{codes[k]:.5g}" for k in ("former", "fitted")), "", codes["unit"]
        )
        shown = ["" if distance[k] is None else f"{distance[k]:.4g}" for k in ("former", "fitted", "floor")]
        table.add_row(f"Fréchet distance, {distance['n']:,} samples", *shown, "64 principal components")
        for name, m in self["likelihoods"].items():
            cells = [
                f"{m[k]['relation']} {m[k]['value']:.5g} ± {m[k]['stderr'] or 0:.2g}" for k in ("former", "fitted")
            ]
            table.add_row(f"{name}, validation images", *cells, "", m["fitted"]["unit"])
        return table

    def _of(self) -> str:
        """Of which validation images the numbers are, and which chose the prior."""
        there, chose, left = (self["validation"][k] for k in ("images", "chosen_by", "reported_on"))
        numbers = f"All numbers are of {counted(left, 'validation image')}"
        if not chose:
            return f"{numbers}; nothing was chosen by them."
        if chose + left > there:
            return f"{numbers}, by which the prior was chosen too, since there are no others: they flatter it."
        return f"{numbers}; {counted(chose, 'other')} chose the prior."


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
    processes: Processes = None,
) -> Fitted:
    """Fit a density to the codes of a trained encoder, so that it can sample (better).

    Then the run's pictures are drawn and its validation images measured anew; all other evaluations, which are of the
    former prior, are removed.

    A model that is given a label gets a prior of each label: gaussian and mixture are fitted to its codes alone, the
    others learn from all.

    Args:
        prior: gaussian, mixture (of vectors), flow, spline, autoregressive, diffusion, or none to take a fitted one out
        components: of a mixture; by default what held-out codes like best
        allow: packages besides lowerbound that components may come from
        processes: in so many processes of this machine, which share the images, and the priors to choose from

    Raises ModelError for a run without real latents, a vector or a map of them, ConfigError for another prior.
    """
    model = run.build()
    if why := model.why_no_fitted_prior():
        raise ModelError(f"{run.path}: fit-prior takes {why}")
    assert isinstance(model, Refittable)
    priors = [fits.conditional(config, model.given) for config in _priors(prior, components, model.latents[0])]
    with held_by_first(team(), run.path, progress):
        return _fit(run, priors, seed, device, progress)


def _fit(run: Run, priors: Sequence[Model.Config], seed: int, device: torch.device | str, progress: Progress) -> Fitted:
    if not priors:
        run.recipe = by_first(lambda: _with(run, None))
        finish(inputs.Held.of(run, device), progress)
        return Fitted(str(run.path), None)
    former = _unfitted(run).load(device)
    assert isinstance(former, Refittable)
    train, valid = (fits.drawn_codes(run, former, split, seed, progress) for split in ("train", "valid"))
    images = inputs.open_data(run, "valid", progress=progress)
    choosing, reported = _parts(len(images), fits.is_chosen(former, priors))
    held_out = valid if choosing == NONE else valid.of(choosing)
    model = fits.best(former, priors, train, held_out, seed, progress)
    left, z = images.take(reported), valid.of(reported)
    each = _each(model.prior.config)
    report = Fitted(
        run=str(run.path),
        prior=model.prior.config.type_name(),
        each=None if each is model.prior.config else each.type_name(),
        components=dump(each).get("components"),
        codes=len(train.z),
        validation={"images": len(images), "chosen_by": len(images.take(choosing)), "reported_on": len(left)},
        log_density_of_codes={
            "former": fits.mean_density(former.prior, z),
            "fitted": fits.mean_density(model.prior, z),
            "split": "valid",
            "unit": "nats/code",
        },
        frechet=sample_quality(run, model, left, seed),
        likelihoods=_likelihoods(run, former, model, left, progress),
    )
    run.recipe = by_first(lambda: _with(run, model))
    finish(inputs.Held.of(run, device), progress)
    return report


def _with(run: Run, model: Model | None) -> Recipe:
    """The recipe of the run, once that has this model's fitted prior, or none."""
    if model is None:
        remove_prior(run)
    else:
        _store(run, model)
    return run.recipe


def _each(config: Model.Config) -> Model.Config:
    """The prior of each label, where every one has its own; else the prior."""
    return config.each if isinstance(config, PerLabel.Config) else config


def _priors(name: str, components: int | None, latent: Space) -> Sequence[Model.Config]:
    """The priors of such latents to choose from; none for "none". Raises ConfigError for an unknown one."""
    known = offered(latent)
    mixtures = [other for other, kind in known.items() if "components" in kind.model_fields]
    if name not in (*known, "none"):
        others = [kind.offered_as for kind in kinds(Model.Config)]
        raise ConfigError(
            f"--prior {name}: is no density of a map, and this model's latents are {list(latent.shape)}; use "
            f"{', '.join(sorted(known))}"
            if name in others
            else f"--prior {name}: no such prior{did_you_mean(name, [*known, 'none'])}"
        )
    if components is not None and name not in mixtures:
        raise ConfigError(f"--components {components}: is for --prior {' or '.join(mixtures)}, got --prior {name}")
    if components is not None and components < 1:
        raise ConfigError(f"--components {components}: expected a whole number above 0")
    if name == "none":
        return ()
    return known[name].choices(latent) if components is None else [parse(known[name], {"components": components})]


def _parts(n: int, chosen: bool) -> tuple[slice, slice]:
    """Of n validation images those that choose a prior, and those that the report is of.

    Every second one each; all are reported on where nothing is chosen, and a single one does both.
    """
    if not chosen:
        return NONE, ALL
    return (EVEN, ODD) if n > 1 else (ALL, ALL)


# ---- what it brings


def _likelihoods(run: Run, former: Refittable, model: Refittable, images: Images, progress: Progress) -> dict[str, Any]:
    """The bound on some images and its parts, measured as after a training; nothing where there is none."""
    if former.density is Density.NONE:
        return {}
    options = {"draws": short_draws(run, images)}
    found: dict[str, dict[str, Any]] = {}
    for prior, measured in (("former", former), ("fitted", model)):
        world = World(measured, inputs.as_batches(run, images, measured.device), run, progress=progress)
        for name, value in measure(world, names=["elbo", "kl", "nll"], options=options).items():
            found.setdefault(name, {})[prior] = value.entry()
    return found


@torch.no_grad()
def sample_quality(run: Run, model: Refittable, images: Images, seed: int = 0) -> dict[str, Any]:
    """Squared Fréchet distances to some images in 64 principal components of other training images' pixels: of as many
    samples with the former prior, with the fitted one, and of as many training images, the floor.

    Fewer where the images, or half of the training images, are fewer; None of fewer than two.
    """
    train = inputs.open_data(run, "train")
    n = min(JUDGED, len(images), len(train) // 2)
    if n < 2:
        return {"former": None, "fitted": None, "floor": None, "n": n}
    order = samples.shuffled(World(model, inputs.as_batches(run, images, model.device), run, seed=seed), train)
    scored, others = parted(order, n, train.x[0].size)
    features = PixelFeatures(_seen(run, train, others), model.space.levels or 2, seed=seed)
    reference = features(_seen(run, images, np.linspace(0, len(images) - 1, n).astype(int)))
    with seeded(seed, "quality", quick=True):
        y = run.condition(n, seed=seed)
        drawn = [features(_decoded(model, prior, n, y)) for prior in (model.own_prior, model.prior)]
    former, after = (frechet(f, reference) for f in drawn)
    return {"former": former, "fitted": after, "floor": frechet(features(_seen(run, train, scored)), reference), "n": n}


def _seen(run: Run, images: Images, index: np.ndarray) -> np.ndarray:
    """These images, as the model takes them: uint8 [n, C, H, W]."""
    x = np.asarray(images.x[index])
    return binarized(torch.from_numpy(x), images.levels, index).numpy() if run.facts.binarizes else x


def _decoded(model: Refittable, prior: Model, n: int, y: torch.Tensor | None) -> np.ndarray:
    """n samples with z from this prior, of these labels: uint8 [n, C, H, W]."""
    y = y if y is None else y.to(model.device)
    found = []
    for part in torch.arange(n).split(model.rows):
        with own_events(part) as own:
            of = rows_of(y, own)
            x = model.likelihood((prior.sample(len(own), of),), of).sample().cpu().numpy()
        found += [x] if len(own) == len(part) else gathered([x])
    return np.concatenate(found)

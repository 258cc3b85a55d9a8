"""What is wrong with a run: `lowerbound doctor`. Here its numbers are measured; `checks` judges them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import singledispatch
from importlib.metadata import version
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lowerbound.chunks import log_density, reconstruct, rows_at_once
from lowerbound.data.base import Images
from lowerbound.data.batches import Batch, Batches
from lowerbound.distributions import Dequantized, kl_per_dimension
from lowerbound.errors import RunError
from lowerbound.families import LOG_SCALE
from lowerbound.metrics.distances import PixelFeatures, frechet
from lowerbound.model import LatentModel, Model
from lowerbound.models.autoregressive import Autoregressive
from lowerbound.models.classifier import Classifier
from lowerbound.models.vae import VAE
from lowerbound.models.vqvae import VQVAE
from lowerbound.noise import KeyedNoise, seeded
from lowerbound.objectives import ELBO, Bound
from lowerbound.progress import Progress
from lowerbound.quantizers import Usage
from lowerbound.runs import fitted
from lowerbound.runs.inputs import as_batches, open_data
from lowerbound.runs.log import Record, score
from lowerbound.runs.run import Run
from lowerbound.sampling import drawing
from lowerbound.space import Density, conditions
from lowerbound.stages import Stage
from lowerbound.training.classifiers import rows
from lowerbound.units import bits_per_dim
from lowerbound.verbs.doctor.judged import (
    Check,
    Codes,
    Drawn,
    Labelled,
    Latents,
    Likelihoods,
    Pixels,
    Reconstructed,
    Rectifiers,
    Stages,
    Trained,
)

MOST, FEWEST = 1000, 100  # images of each split that are measured
AFFORDABLE = 1e11  # products that measuring a split may take: 5 to 10 seconds of a CPU core
LOOKED_AT = 5000  # training images, at most, whose pixels are counted
SAMPLES = 256
COMPONENTS = 16  # principal components, in which few samples of codes are judged


def doctor(
    run: Run,
    *,
    data: str | None = None,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """What is wrong with a run, and what was looked at: the report of `doctor --json`.

    Its log and its states are read, and some images of train and valid measured, evenly spaced over their split.
    A finding has a name (part.what), a severity (problem: the run does not do its work; advice: it could do better),
    a message, a remedy, and the value that is beyond a threshold. Nothing is written.

    Args:
        data: measure on this data set; None: the run's own.

    Raises RunError or DataError where there is no such run, or no such data.
    """
    checks = history(run)
    model, state = _load(run, device)
    checks += state
    looked: dict[str, int] = {}
    if model is not None:
        examined = _Examined.of(run, model, data, torch.device(device), progress or Progress())
        looked = {split: len(batches) for split, batches in examined.batches.items()}
        checks += examine(run, examined)
    return {
        "run": str(run.path),
        "model": run.recipe.model.type_name(),
        "version": version("lowerbound"),
        "data": {"name": run.facts.name if data is None else data, "images": looked},
        "findings": [_finding(check) for check in checks if check.wrong],
        "checked": [{"name": c.name, "value": float(c.value), "threshold": float(c.threshold)} for c in checks],
    }


def _finding(check: Check) -> dict[str, Any]:
    numbers = {"value": float(check.value), "threshold": float(check.threshold)}
    return {k: v for k, v in check._asdict().items() if k != "wrong"} | numbers


# ---- the training


def history(run: Run) -> list[Check]:
    """What the states and the log of a run say of each stage of its training."""
    recipe = fitted.unfitted(run.recipe)
    stages = Run(run.path, run.name, recipe, run.facts).build().stages()
    records, states = list(run.log.records()), run.states()
    checks: list[Check] = []
    for stage in stages:
        if stage.name not in states:
            checks += _damaged(run, stage)
        if run.has_state():
            checks += _trained(run, stage, records, states.get(stage.name)).checks()
    return checks


def _damaged(run: Run, stage: Stage) -> list[Check]:
    try:
        run.load_state(stage.name)
    except RunError as e:
        again = f"lowerbound train {run.name} … --overwrite --out {run.path}"
        return [Check(f"training.{stage.name}.damaged", 1, 0, True, "problem", str(e), again)]
    return []


def _trained(run: Run, stage: Stage, records: list[Record], state: dict[str, Any] | None) -> Trained:
    train = run.recipe.train.of(stage.name)
    key = f"train.stages.{stage.name}" if stage.prepare is not None else "train"
    own = [r for r in records if r["stage"] == stage.name]
    scores = {r["step"]: found for r in own if (found := score(r)) is not None}
    longer = [] if train.steps is None else [f"{key}.steps={2 * train.steps}"]
    longer += [] if train.epochs is None else [f"{key}.epochs={2 * train.epochs:g}"]
    return Trained(
        stage=stage.name,
        step=state["step"] if state else 0,
        steps=1 if stage.fit else train.total_steps(run.facts.images),
        finished=bool(state and state["finished"]),
        skipped=max((float(r["skipped"]) for r in own if "skipped" in r), default=0.0),
        scores=tuple(sorted(scores.items())),
        resume=f"lowerbound train {run.name} … --resume --out {run.path}",
        longer=" ".join(longer),
        calmer=f"{key}.optimizer.lr={train.optimizer.lr / 3:.1g} {key}.schedule.warmup=500",
    )


def _load(run: Run, device: torch.device | str) -> tuple[Model | None, list[Check]]:
    """The model, where its weights are whole and finite."""
    again = f"lowerbound train {run.name} … --resume --out {run.path}"
    try:
        model = run.load(device)
    except RunError as e:
        return None, [Check("weights.missing", 1, 0, True, "problem", str(e), again)]
    bad = {name: int((~torch.isfinite(t)).sum()) for name, t in model.state_dict().items() if t.is_floating_point()}
    bad = {name: n for name, n in bad.items() if n}
    message = f"{sum(bad.values()):,} weights are not finite, the first in {next(iter(bad), '')}"
    check = Check("weights.not_finite", sum(bad.values()), 0, bool(bad), "problem", message, again)
    return None if bad else model, [check]


# ---- the images


@dataclass(frozen=True)
class _Examined:
    """A model and the images it is examined on."""

    model: Model
    device: torch.device
    train: Images
    valid: Images
    batches: dict[str, Batches]  # train, valid: evenly spaced, and few where the model is large

    @staticmethod
    def of(run: Run, model: Model, data: str | None, device: torch.device, progress: Progress) -> "_Examined":
        train, valid = (open_data(run, split, data, progress) for split in ("train", "valid"))
        n = _how_many(model, as_batches(run, valid.head(1), device))
        batches = {i.split: as_batches(run, _spread(i, n), device) for i in (train, valid)}
        return _Examined(model, device, train, valid, batches)


def _spread(images: Images, n: int) -> Images:
    """n images, evenly spaced over the split."""
    return rows(images, np.linspace(0, len(images) - 1, min(n, len(images))).astype(int))


@torch.no_grad()
def _how_many(model: Model, one: Batches) -> int:
    """So many images of a split that measuring them stays within AFFORDABLE."""
    (batch,) = one.in_order(1)
    with FlopCounterMode(display=False) as counter:
        _pass(model, batch)
    return int(np.clip(AFFORDABLE / max(1, counter.get_total_flops()), FEWEST, MOST))


def _pass(model: Model, batch: Batch) -> None:
    if isinstance(model, LatentModel):
        reconstruct(model, batch.x, batch.y)
    elif isinstance(model, Classifier):
        model.logits(batch.x)
    elif model.density is not Density.NONE:
        model.log_density(batch.x, batch.y)


@torch.no_grad()
def examine(run: Run, e: _Examined) -> list[Check]:
    """What the images say of a model: every check that its kind has."""
    model = e.model
    checks = _pixels(run, e).checks()
    with _rectifiers(model) as active:
        if model.density is not Density.NONE:
            checks += _likelihoods(run, e).checks()
        if isinstance(model, Classifier):
            checks += _labels(model, e).checks()
        if isinstance(model, LatentModel):
            checks += _coded(model, e)
    checks += Rectifiers({name: float((~some).float().mean()) for name, some in active.items()}).checks()
    if model.can_sample:
        checks += _drawn(run, e).checks()
    found = stages(model, e.batches["train"], e.batches["valid"])
    return checks if found is None else [*checks, *found.checks()]


@singledispatch
def stages(model: Model, train: Batches, valid: Batches) -> Stages | None:
    """What was measured of a model over codes, stage by stage; None for other models."""
    return None


def _pixels(run: Run, e: _Examined) -> Pixels:
    x = _spread(e.train, LOOKED_AT).x.reshape(min(LOOKED_AT, len(e.train)), -1)
    given = run.recipe.data.label
    return Pixels(
        values=tuple(np.flatnonzero(np.bincount(x.ravel(), minlength=e.train.levels)).tolist()),
        levels=e.train.levels,
        binarized=run.facts.binarizes,
        constant=float((x == x[:, :1]).all(1).mean()),
        counts=run.facts.counts if given else None,
        source=run.recipe.data.source,
    )


def _likelihoods(run: Run, e: _Examined) -> Likelihoods:
    train, valid = (log_density(e.model, e.batches[split]) for split in ("train", "valid"))
    counted = as_batches(run, _spread(e.train, LOOKED_AT), e.device)
    histograms = _histograms(_all(counted), _all(e.batches["valid"]), e.model.space.levels or 2)
    return Likelihoods(train, valid, histograms, _is_dequantized(e))


def _is_dequantized(e: _Examined) -> bool:
    if not isinstance(e.model, LatentModel):
        return False
    batch = next(e.batches["valid"].in_order(1))
    return isinstance(e.model.elbo_terms(batch.x, batch.y).p_x, Dequantized)


def _all(batches: Batches) -> np.ndarray:
    """The images as the model sees them: uint8 [N, D]."""
    return np.concatenate([b.x.flatten(1).cpu().numpy() for b in batches.in_order(1000)])


def _histograms(train: np.ndarray, x: np.ndarray, levels: int) -> np.ndarray:
    """log P(x) in nats, [N], of a histogram of each pixel [n, D]; every value counts as seen 1/levels times more."""
    D = x.shape[1]
    places = np.arange(D) * levels
    counts = np.bincount((train + places).ravel(), minlength=D * levels)
    log_p = np.log((counts + 1 / levels) / (len(train) + 1))
    return log_p[x + places].sum(1)


def _labels(model: Classifier, e: _Examined) -> Labelled:
    right, labels = {}, {}
    for split, batches in e.batches.items():
        found = [(model.logits(b.x).argmax(1), conditions(b.y, model.given)[0]) for b in _in_order(model, batches)]
        given, labels[split] = (torch.cat(parts) for parts in zip(*found, strict=True))
        right[split] = (given == labels[split]).cpu().numpy()
    commonest = float(torch.bincount(labels["valid"]).max()) / len(labels["valid"])
    return Labelled(right["train"], right["valid"], commonest)


def _in_order(model: Model, batches: Batches) -> Iterator[Batch]:
    return batches.in_order(rows_at_once(model))


# ---- models with latents


class _Came(NamedTuple):
    """Images and what comes back of them, float64 [N, C, H, W]."""

    x: Tensor
    r: Tensor


def _coded(model: LatentModel, e: _Examined) -> list[Check]:
    checks = [] if isinstance(model, VQVAE) else _latents(model, e.batches["valid"]).checks()
    if model.space.levels is None:
        return checks
    train, valid = (_back(model, e.batches[split]) for split in ("train", "valid"))
    variance = float(_distances(valid.x, valid.x.mean(0)).mean())
    if variance == 0:
        return checks
    reconstructed = Reconstructed(
        train=(_distances(train.x, train.r) / variance).numpy(),
        valid=(_distances(valid.x, valid.r) / variance).numpy(),
        variety=float(_distances(valid.r, valid.r.mean(0)).mean()) / variance,
        detail=_contrast(valid.r) / max(_contrast(valid.x), 1e-12),
    )
    return [*checks, *reconstructed.checks()]


def _back(model: LatentModel, batches: Batches) -> _Came:
    found = [(b.x.double().cpu(), reconstruct(model, b.x, b.y).double().cpu()) for b in _in_order(model, batches)]
    return _Came(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def _distances(a: Tensor, b: Tensor) -> Tensor:
    """Squared, between images: [N]."""
    return (a - b).square().flatten(1).sum(1)


def _contrast(x: Tensor) -> float:
    """The sum of the squared differences of neighbouring pixels."""
    return float(x.diff(dim=-1).square().sum() + x.diff(dim=-2).square().sum())


def _latents(model: LatentModel, batches: Batches) -> Latents:
    means, kls, each, at_bound = [], [], [], []
    for batch in _in_order(model, batches):
        means.append(model.features(batch.x, batch.y).double().cpu())
        if isinstance(model, VAE) and model.has_point:
            continue
        with KeyedNoise(0, batch.index) as noise:
            terms = model.elbo_terms(batch.x, batch.y, noise.chunk(1))
        kl = terms.log_qz - terms.log_pz if terms.kl is None else terms.kl  # [1, B, L]
        kls.append(kl[0].sum(-1).double().cpu())
        dimensions = [None if p is None else kl_per_dimension(q, p) for q, p in zip(terms.q, terms.p, strict=True)]
        each += [torch.cat([k.flatten(1) for k in dimensions if k is not None], 1)] if None not in dimensions else []
        scales = torch.cat([q.stddev.flatten(1).log() for q in terms.q], 1)
        at_bound.append(((scales - LOG_SCALE[0]).abs() < 1e-3) | ((scales - LOG_SCALE[1]).abs() < 1e-3))
    return Latents(
        kl=float(torch.cat(kls).mean()) if kls else None,
        each=torch.cat(each).double().mean(0).cpu().numpy() if each else None,
        variance=torch.cat(means).var(0, correction=0).numpy(),
        at_bound=float(torch.cat(at_bound).double().mean()) if at_bound else 0.0,
        loosen=_loosen(model),
    )


def _loosen(model: LatentModel) -> str:
    """KEY=VALUE by which the latents keep more."""
    objective = model.config.objective if isinstance(model, VAE) else None
    if isinstance(objective, ELBO) and objective.beta > 1:
        return "model.objective.beta=1"
    if isinstance(objective, ELBO):
        return "model.objective.free_bits_dimension=0.1, or model.objective.warmup=2000"
    if isinstance(objective, Bound):
        return "model.objective.warmup=2000"
    return "a wider network, a longer training"


@contextmanager
def _rectifiers(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Inside, notes for each rectified linear layer which of its units were ever above 0: bool [units]."""
    active: dict[str, Tensor] = {}

    def noting(name: str) -> Any:
        def note(module: nn.Module, inputs: Any, h: Tensor) -> None:
            some = (h > 0).transpose(0, 1).flatten(1).any(1)
            called = f"{name} ({len(some)} units)"  # one module may serve layers of several widths
            active[called] = active[called] | some if called in active else some

        return note

    hooks = [m.register_forward_hook(noting(n)) for n, m in model.named_modules() if isinstance(m, nn.ReLU)]
    try:
        yield active
    finally:
        for hook in hooks:
            hook.remove()


# ---- samples


def _drawn(run: Run, e: _Examined) -> Drawn:
    model, images = e.model, torch.from_numpy(_all(e.batches["train"])).double()
    n = drawing.affordable(model) if isinstance(model, Autoregressive | VQVAE) else SAMPLES
    y = run.labels(n)
    y = None if y is None else y.to(e.device)
    with seeded(0, "doctor", device=e.device):
        x = _sampled(model, n, y)
    drawn = torch.from_numpy(x.reshape(n, -1)).double()
    mean = images.mean(0)
    variance = max(float(_distances(images, mean).mean()), 1e-12)
    fit = f"lowerbound fit-prior {run.path} --prior mixture; where reconstructions are bad too, "
    return Drawn(
        shift=float((drawn.mean(0) - mean).square().sum()) / variance,
        distances=(_distances(drawn, mean) / variance).numpy(),
        remedy=(fit if _fits(run, model) else "") + "a longer training, a smaller train.optimizer.lr",
    )


def _fits(run: Run, model: Model) -> bool:
    return isinstance(model, VAE) and not fitted.is_fitted(run.recipe) and len(model.latent.shape) == 1


def _sampled(model: Model, n: int, y: Tensor | None) -> np.ndarray:
    if isinstance(model, Autoregressive):
        return drawing.sample(model, n, y)
    if isinstance(model, VQVAE):
        return drawing.decoded(model, drawing.codes(model, n, y), y, mean=True)
    parts = torch.arange(n).split(rows_at_once(model))
    return np.concatenate([model.sample(len(p), None if y is None else y[p]).cpu().numpy() for p in parts])


# ---- codes, and the priors over them


@stages.register
def _(model: VQVAE, train: Batches, valid: Batches) -> Stages:
    seen, before = _Encoded.of(model, valid), _Encoded.of(model, train)
    error = seen.error(model, seen.codes)
    found = []
    for l, (name, space) in enumerate(zip(model.names, model.spaces, strict=True)):
        usage = Usage(space.levels or 1)
        usage.add(seen.codes[l])
        learned, n = model.learned[l], len(seen.x)
        shuffled = [shuffled_places(c, n) if k == l else c for k, c in enumerate(seen.codes)]
        found.append(
            Codes(
                level=name,
                place=l,
                size=space.levels or 1,
                seen=seen.codes[l].numel(),
                usage=usage.share,
                perplexity=usage.perplexity,
                without=seen.error(model, tuple(shuffled)),
                unigram=usage.bits,
                bits=float(seen.bits[l].mean()) if learned else None,
                train_bits=float(before.bits[l].mean()) if learned else None,
                bits_stderr=float((seen.bits[l].var() / n + before.bits[l].var() / len(before.x)).sqrt()),
            )
        )
    variance = float(_distances(seen.x, seen.x.mean(0)).mean())
    return Stages(tuple(found), error, 1 - error / max(variance, 1e-12), **_frechets(model, before, seen))


class _Encoded(NamedTuple):
    """Images, their codes, and what those cost by the priors."""

    x: Tensor  # float64 [N, C, H, W]
    y: Tensor | None
    codes: tuple[Tensor, ...]  # [N, h, w] each
    bits: Tensor  # [L, N], per code

    @staticmethod
    def of(model: VQVAE, batches: Batches) -> "_Encoded":
        xs, ys, codes, bits = [], [], [], []
        dims = torch.tensor([[s.dims] for s in model.spaces])
        for batch in _in_order(model, batches):
            z = model.codes(batch.x)
            xs.append(batch.x.double().cpu())
            ys.append(batch.y)
            codes.append([c.cpu() for c in z])
            bits.append(bits_per_dim(-model.log_p_codes(z, batch.y).double().cpu() / dims, 1))
        y = None if ys[0] is None else torch.cat(ys)
        return _Encoded(torch.cat(xs), y, tuple(map(torch.cat, zip(*codes, strict=True))), torch.cat(bits, 1))

    def error(self, model: VQVAE, codes: tuple[Tensor, ...]) -> float:
        """The mean squared distance of the images from what codes decode to."""
        return float(_distances(self.x, torch.from_numpy(_means(model, codes))).mean())


def _means(model: VQVAE, codes: tuple[Tensor, ...]) -> np.ndarray:
    return drawing.decoded(model, codes, mean=True)


def shuffled_places(codes: Tensor, n: int) -> Tensor:
    """Codes [N, h, w] -> [n, h, w], the code of each place that of any of the N images, drawn anew for each place."""
    flat = codes.flatten(1)
    with seeded(0, "shuffled"):
        chosen = torch.randint(len(flat), (n, flat.shape[1]))
    return torch.gather(flat, 0, chosen).view(n, *codes.shape[1:])


def _frechets(model: VQVAE, train: _Encoded, valid: _Encoded) -> dict[str, float]:
    """Squared distances to the validation images, of few components since there are few samples; none before the
    priors are trained."""
    if not model.can_sample:
        return {}
    n = min(drawing.affordable(model), len(train.x), len(valid.x))
    images, reference = (e.x.numpy().astype(np.uint8) for e in (train, valid))
    features = PixelFeatures(images, model.space.levels or 2, components=COMPONENTS)
    y = None if train.y is None else train.y[torch.randperm(len(train.y))[:n]]
    with seeded(0, "doctor"):
        samples = _sampled(model, n, y)
    shuffled = _means(model, tuple(shuffled_places(c, n) for c in valid.codes))
    real = images[np.linspace(0, len(images) - 1, n).astype(int)]
    named = {"samples": samples, "shuffled": shuffled, "floor": real}
    return {name: frechet(features(x), features(reference)) for name, x in named.items()}

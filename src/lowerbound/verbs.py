"""The verbs of the command line as functions of a run: evaluate, sample, redraw, complete, reconstruct, encode."""

from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from lowerbound import drawing, pictures, rejection
from lowerbound.data import decode
from lowerbound.data.base import Data, Images, open_images
from lowerbound.data.batches import Batch, Batches, binarized
from lowerbound.errors import ModelError, RunError
from lowerbound.files import Rows, replacing
from lowerbound.metrics.base import Advance, Value, base, check_names, measure, rows_at_once
from lowerbound.metrics.reconstruction import reconstruct as reconstruction
from lowerbound.models.autoregressive import Autoregressive
from lowerbound.models.base import Density, LatentModel, Model
from lowerbound.models.vae import VAE
from lowerbound.models.vqvae import VQVAE, Temperature, TopK, TopP
from lowerbound.noise import key, seeded
from lowerbound.progress import Progress
from lowerbound.run import Run

if TYPE_CHECKING:
    from lowerbound.quality import Protocol


def evaluate(
    run: Run,
    *,
    data: str | None = None,
    split: str = "test",
    metrics: Sequence[str] | None = None,
    draws: int = 500,
    limit: int | None = None,
    protocol: "Protocol | None" = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure a run on a split: the report of `evaluate --json`. A full one is saved in the run.

    metrics: names of metrics; None: all that apply, but for those of sample quality (`quality.NAMES`), which take long.
    protocol: how sample quality is measured.

    Raises ConfigError for an unknown metric, ModelError for one that the model does not have.
    """
    progress = progress or Progress()
    if draws < 1 or (limit is not None and limit < 1):
        raise ModelError(f"{'--draws' if draws < 1 else '--limit'}: expected a whole number of at least 1")
    from lowerbound import quality  # it trains classifiers by functions of this module

    check_names(metrics or (), quality.NAMES)
    model = run.load(device)
    images = open_data(run, split, data, progress)
    judged = [name for name in metrics or () if base(name) in quality.NAMES]
    others = None if metrics is None else [name for name in metrics if name not in judged]
    values: dict[str, Value] = {}
    if others is None or others:
        values |= measure(
            model,
            as_batches(run, images, torch.device(device)),
            names=others,
            options={"draws": draws},
            seed=seed,
            limit=limit,
            advance=_counter(progress, images),
        )
    if judged:
        part = images if limit is None else images.head(limit)
        protocol = protocol or quality.Protocol()
        values |= quality.measure(
            run, model, part, judged, protocol, data=data, seed=seed, device=device, progress=progress
        )
    report = {
        "run": str(run.path),
        "model": run.recipe.model.type_name(),
        "seed": seed,
        "version": version("lowerbound"),
        "data": {
            "name": images.name,
            "split": split,
            "n": len(images) if limit is None else min(limit, len(images)),
            "shape": list(run.facts.shape),
            "levels": run.facts.levels,
            "binarization": run.facts.binarization,
        },
        "metrics": {name: _entry(run, name, value) for name, value in values.items()},
    }
    if limit is None and metrics is None:
        detail = {n: report["metrics"][n] | (v.detail or {}) for n, v in values.items()}
        run.save_evaluation(report | {"metrics": detail}, {n: v.each for n, v in values.items() if v.each is not None})
    return report


_LIKELIHOODS = ("elbo", "nll", "bits_per_dim", "kl", "distortion", "bits_per_code", "rate")


def _entry(run: Run, name: str, value: Value) -> dict[str, Any]:
    if value.value is None:
        return {"value": None, "relation": value.relation}
    return value.entry() | ({"given": "label"} if run.recipe.data.label and base(name) in _LIKELIHOODS else {})


def _counter(progress: Progress, images: Images) -> Advance:
    told, done = progress.count("measuring"), 0

    def advance(n: int) -> None:
        nonlocal done
        done = done % len(images) + n
        told(done, len(images))

    return advance


def open_data(
    run: Run,
    split: str,
    source: str | None = None,
    progress: Progress | None = None,
    *,
    label: bool | None = None,
) -> Images:
    """A split of the run's data, or of other data prepared in the same way. Raises RunError where they don't fit.

    label: whether their labels must be those of the run; None: where its model is given them.
    """
    label = run.recipe.data.label if label is None else label
    changes = {"label": label} | ({} if source is None else {"source": source})
    data: Data = run.recipe.data.model_copy(update=changes)
    images = data.open(split, progress=(progress or Progress()).count("decoding"))
    facts = run.facts
    if images.shape != facts.shape or images.levels != facts.levels:
        found, wanted = f"{images.shape}, {images.levels} levels", f"{facts.shape}, {facts.levels} levels"
        raise RunError(f"{images.name} has images of {found}; {run.path} was trained on {wanted}")
    if label and images.classes != facts.classes:
        raise RunError(
            f"the classes of {images.name} are not those of {facts.name}, which {run.path} is conditioned on"
        )
    return images


def as_batches(run: Run, images: Images, device: torch.device, *, label: bool | None = None) -> Batches:
    """label: whether they are given with their labels; None: as the run's model is."""
    label = run.recipe.data.label if label is None else label
    return Batches(images, device, binarize=run.facts.binarizes, label=label)


def user_images(run: Run, paths: Sequence[str | Path], progress: Progress | None = None) -> Tensor:
    """Image files, prepared as the run's data were: uint8 [B, C, H, W]. What had to be converted is said."""
    facts = run.facts
    x = torch.from_numpy(open_images(paths, run.recipe.data, facts.shape, facts.levels))
    for path in paths:
        _tell_conversion(run, Path(path), progress or Progress())
    return binarized(x, facts.levels, np.arange(len(x))) if facts.binarizes else x


def _tell_conversion(run: Run, path: Path, progress: Progress) -> None:
    channels, height, width = run.facts.shape
    with path.open("rb") as file:
        header = decode.header(file)
    kinds = {True: "in colour", False: "grey"}
    if (header.height, header.width, header.colour) != (height, width, channels == 3):
        progress.say(
            f"{path}: {header.width}x{header.height} {kinds[header.colour]}, made {width}x{height} "
            f"{kinds[channels == 3]} as the images of {run.path} are"
        )


def sample(
    run: Run,
    n: int = 16,
    *,
    label: str | int | None = None,
    temperature: Temperature = 1.0,
    top_k: TopK = None,
    top_p: TopP = None,
    mean: bool = False,
    reject: Run | None = None,
    accept: float = 0.5,
    seed: int = 0,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> tuple[drawing.Samples, rejection.Rejection | None]:
    """Images drawn from the model (or the means of p(x|z)), and what the classifier made of them, where there is one.

    Args:
        temperature, top_k, top_p: for all levels alike, or by level; the latter two of models that draw each value
            from a probability of its own, `Autoregressive.sample`.
        reject: the run of a classifier; n / accept images are drawn, and those kept that it is surest are of their
            class, the class that each was drawn for (`rejection.sample`).
    """
    model = run.load(device)
    _check_number_of_images(n)
    how = drawing.How(temperature, top_k, top_p, mean)
    judge = None if reject is None else rejection.open_judge(reject, run, accept, device)
    y = run.labels(n, label, seed)
    with seeded(seed, "sample", device=torch.device(device)):
        if reject is None or judge is None or y is None:
            return drawing.draw(model, n, y, how, progress), None
        drawn, kept, rejected = rejection.sample(model, y, judge, accept, how, progress)
    return drawn, rejection.Rejection(str(reject.path), accept, kept, rejected)


def _check_number_of_images(n: int) -> None:
    if n < 1:
        raise ModelError(f"-n {n}: expected a whole number of at least 1")


def redraw(
    run: Run,
    images: Sequence[str | Path],
    keep_level: str = "top",
    n: int = 8,
    *,
    label: str | int | None = None,
    temperature: Temperature = 1.0,
    top_k: TopK = None,
    top_p: TopP = None,
    mean: bool = False,
    seed: int = 0,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> drawing.Redrawn:
    """The user's images as the run prepares them, and n draws of the finer codes of each, given the coarser.

    Args:
        keep_level: the levels whose codes are kept, `top` or `top,middle`: the coarsest ones.
        label: of a conditional model; None: drawn for each draw, given the codes that are kept.

    Raises UserError: for a model without levels of codes, and levels that can't be kept.
    """
    model = run.load(device)
    if not isinstance(model, VQVAE):
        raise ModelError(f"--from: {type(model).__name__} has no levels of codes; a VQ-VAE of two levels or more has")
    _check_number_of_images(n)
    progress = progress or Progress()
    kept = drawing.levels_kept(model, keep_level)
    drawing.How(temperature, top_k, top_p, mean).check(model, model.names[:kept])
    x = user_images(run, images, progress).to(device)
    own = model.codes(x)
    y, drawn_labels = _labels_to_redraw(run, model, own[:kept], n, label, seed)
    names = tuple(str(image) for image in images)
    if drawn_labels is not None:
        drawing.told_labels(names, drawn_labels, progress)
    y = None if y is None else y.flatten()
    with seeded(seed, "sample", device=torch.device(device)):
        codes = drawing.codes(
            model,
            len(x) * n,
            y,
            temperature,
            top_k=top_k,
            top_p=top_p,
            coarse=tuple(c.repeat_interleave(n, 0) for c in own[:kept]),
            progress=progress,
        )
        drawn = drawing.decoded(model, codes, y, mean=mean)
    with torch.no_grad():
        reconstructions = model.likelihood(own).mean
    return drawing.Redrawn(
        originals=x.cpu().numpy(),
        reconstructions=reconstructions.cpu().numpy(),
        x=drawn.reshape(len(x), n, *model.space.shape),
        codes={name: c.unflatten(0, (len(x), n)).numpy() for name, c in zip(model.names, codes, strict=True)},
        levels=model.space.levels or 256,
        names=names,
        labels=drawn_labels,
        title=f"kept: codes of {keep_level}" + (f"; label {label}" if label is not None else ""),
    )


def complete(
    run: Run,
    images: Sequence[str | Path],
    keep: str = "top:0.5",
    n: int = 8,
    *,
    label: str | int | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> drawing.Completion:
    """The user's images as the run prepares them, and n draws of what is not kept of each, given what is.

    Args:
        keep: `top:FRACTION` of the rows, `rows:N`, or the path of a picture that is not black where pixels are kept.
        label: of a conditional model; None: drawn for each completion, given what is kept.

    Raises UserError: for a model that isn't autoregressive, and what can't be kept in the order it draws in.
    """
    model = run.load(device)
    if not isinstance(model, Autoregressive):
        raise ModelError(f"{run.path}: {type(model).__name__} can't complete images; {drawing.AUTOREGRESSIVE} can")
    _check_number_of_images(n)
    progress = progress or Progress()
    mask = drawing.kept(keep, model.grid.size)
    model.first_drawn(mask)
    x = user_images(run, images, progress).to(device)
    y, drawn_labels = _labels_to_complete(run, model, x, mask, n, label, seed)
    names = tuple(str(image) for image in images)
    if drawn_labels is not None:
        drawing.told_labels(names, drawn_labels, progress)
    if bool(mask.all()):
        progress.say(f"--keep {keep}: keeps everything, so there is nothing to draw")
    with seeded(seed, "complete", device=torch.device(device)):
        drawn = drawing.complete(model, x, mask, n, y, temperature, top_k=top_k, top_p=top_p, progress=progress)
    return drawing.Completion(
        originals=x.cpu().numpy(),
        kept=mask.numpy(),
        x=drawn,
        levels=model.space.levels or 256,
        names=names,
        labels=drawn_labels,
        title=f"kept: {Path(keep).name}" + (f"; label {label}" if label is not None else ""),
    )


Labels = tuple[Tensor | None, tuple[tuple[str, ...], ...] | None]  # [B, n]; and their names, where they were drawn


def _labels_to_complete(
    run: Run, model: Autoregressive, x: Tensor, mask: Tensor, n: int, label: str | int | None, seed: int
) -> Labels:
    """The labels of n completions of each image, given what is kept where none is said."""
    return _labels_for(run, len(x), n, label, seed, lambda *to_draw: drawing.draw_labels(model, x, mask, n, *to_draw))


def _labels_to_redraw(
    run: Run, model: VQVAE, coarse: tuple[Tensor, ...], n: int, label: str | int | None, seed: int
) -> Labels:
    """The labels of n draws for each image, given its coarse codes where none is said."""
    return _labels_for(
        *(run, len(coarse[0]), n, label, seed),
        lambda *to_draw: drawing.draw_labels_of_codes(model, coarse, n, *to_draw),
    )


def _labels_for(
    run: Run,
    B: int,
    n: int,
    label: str | int | None,
    seed: int,
    draw: Callable[[tuple[int, ...], torch.Generator], Tensor],
) -> Labels:
    given = run.labels(B * n, label, seed)
    if given is None or label is not None:
        return None if given is None else given.view(B, n), None
    classes, counts = run.facts.classes, run.facts.counts
    assert classes is not None
    assert counts is not None
    y = draw(counts, torch.Generator().manual_seed(key(seed, "labels")))
    return y, tuple(tuple(classes[k] for k in row) for row in y.tolist())


def reconstruct(
    run: Run,
    images: Sequence[str | Path],
    *,
    label: str | int | None = None,
    levels: Sequence[str] | None = None,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> tuple[np.ndarray, np.ndarray, int]:
    """The user's images as the run prepares them, their reconstructions (means of p(x|z)), and the levels of both.

    levels: of several levels of codes, only these (`VQVAE.partial`).
    """
    model = _latent_model(run, device)
    if levels is not None and not isinstance(model, VQVAE):
        raise ModelError(f"--levels {','.join(levels)}: {type(model).__name__} has no levels of codes")
    x = user_images(run, images, progress)
    y = run.labels(len(x), label)
    with torch.no_grad():
        if levels is not None and isinstance(model, VQVAE):
            r = model.partial(x.to(device), levels)
        else:
            r = reconstruction(model, x.to(device), None if y is None else y.to(device))
    return x.numpy(), r.cpu().numpy(), model.space.levels or 256


def encode(
    run: Run,
    *,
    data: str | None = None,
    split: str = "train",
    out: str | Path,
    scale: bool = False,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> int:
    """Write the codes of a split to an .npz, with label and path where there are any: how many there are.

    z float32 [N, D], what `features` gives; of a VQ-VAE `codes_LEVEL` int64 [N, h, w] of each level. scale: the
    posterior standard deviations too, [N, D]. Rows go to disk as they are computed.
    """
    out = Path(out)
    if out.suffix != ".npz":
        raise RunError(f"--out {out}: expected a file ending in .npz")
    model = _latent_model(run, device)
    if scale and isinstance(model, VQVAE):
        raise ModelError("--scale: the codes of a VQ-VAE are whole numbers, without a standard deviation")
    images = open_data(run, split, data, progress)
    told = (progress or Progress()).count("encoding")
    with replacing(out) as temporary, Rows(out.parent) as rows, torch.no_grad():
        for batch in as_batches(run, images, torch.device(device)).in_order(rows_at_once(model)):
            for name, values in _encoded(model, batch, scale).items():
                rows.add(name, values.cpu().numpy())
            told(int(batch.index[-1]) + 1, len(images))
        _add_names(rows, images)
        rows.save(temporary)
    return len(images)


def _encoded(model: LatentModel, batch: Batch, scale: bool) -> dict[str, Tensor]:
    if isinstance(model, VQVAE):
        return {f"codes_{name}": c for name, c in zip(model.names, model.codes(batch.x), strict=True)}
    found = {"z": model.features(batch.x, batch.y).float()}
    if scale:
        scales = [q.stddev.flatten(1) for q in model.posteriors(batch.x, batch.y)]
        found["scale"] = torch.cat(scales, 1).float()
    return found


def _add_names(rows: Rows, images: Images, block: int = 4096) -> None:
    """The labels and paths of images, where there are any."""
    starts = range(0, len(images), block)
    if images.y is not None:
        for i in starts:
            rows.add("label", np.asarray(images.y[i : i + block]))
    if images.paths is not None:
        longest = max(max(map(len, images.paths[i : i + block])) for i in starts)
        for i in starts:
            rows.add("path", np.asarray(images.paths[i : i + block], f"<U{longest}"))


def finish(run: Run, *, device: torch.device | str = "cpu", progress: Progress | None = None) -> dict[str, Any]:
    """What follows a training: all pictures, and a short evaluation on valid, which is returned.

    Short: 50 draws of MNIST's size, fewer of larger images.
    """
    draw_pictures(run, device, progress)
    draws = short_draws(run, open_data(run, "valid"))
    return evaluate(run, split="valid", draws=draws, device=device, progress=progress)


def short_draws(run: Run, images: Images) -> int:
    """The draws of the short evaluation after a training."""
    return max(1, min(50, 2 * 10**8 // (len(images) * run.facts.space.dims)))


@torch.no_grad()
def draw_samples(run: Run, model: Model, n: int = 64, progress: Progress | None = None) -> None:
    """samples.png, and samples_mean.png for the same latents; labels by their frequencies.

    Fewer than n of an autoregressive model that would take long.
    """
    n = drawing.affordable(model, n) if isinstance(model, Autoregressive | VQVAE) else n
    y, levels, mean = run.labels(n), model.space.levels or 256, None
    y = None if y is None else y.to(next(model.parameters()).device)
    if isinstance(model, Autoregressive):
        x = drawing.sample(model, n, y, progress=progress)
    elif isinstance(model, VQVAE):
        codes = drawing.codes(model, n, y, progress=progress)
        x, mean = (drawing.decoded(model, codes, y, mean=mean) for mean in (False, True))
        mean = mean if model.likelihood_head.density is not Density.NONE else None
    elif isinstance(model, LatentModel):
        p = model.draw_likelihood(n, y)
        x, mean = p.sample().cpu().numpy(), p.mean.cpu().numpy()
    else:
        x = model.sample(n, y).cpu().numpy()
    pictures.save_png(pictures.grid(x, levels), run.picture("samples.png"))
    if mean is not None:
        pictures.save_png(pictures.grid(mean, levels), run.picture("samples_mean.png"))


@torch.no_grad()
def draw_reconstructions(run: Run, model: LatentModel, batch: Batch) -> None:
    """reconstructions.png: images above their reconstructions; of several levels of codes, those from the coarsest
    alone, from the two coarsest, ..."""
    x, levels = batch.x.cpu().numpy(), model.space.levels or 256
    if isinstance(model, VQVAE) and len(model.names) > 1:
        picture = pictures.table_picture(_by_levels(model, batch.x[:8]))
    else:
        picture = pictures.pairs(x, reconstruction(model, batch.x, batch.y).cpu().numpy(), levels)
    pictures.save_png(picture, run.picture("reconstructions.png"))


def _by_levels(model: VQVAE, x: Tensor) -> pictures.Table:
    """Images in a row, and under them their reconstructions from more and more levels."""
    used = [model.names[: l + 1] for l in range(len(model.names))]
    shown = torch.stack([x.to(torch.float32), *(model.partial(x, names) for names in used)])  # [1 + L, B, C, H, W]
    rows = ("original", f"{used[0][0]} alone", *(" + ".join(names) for names in used[1:]))
    return pictures.Table(shown.cpu().numpy(), model.space.levels or 256, rows=rows)


def draw_completions(run: Run, model: Autoregressive, device: torch.device | str, progress: Progress | None) -> None:
    """completions.png: of eight validation images the upper half is kept, and the rest drawn a few times.

    Of models that are slow to draw there are fewer: no more images are drawn than samples.
    """
    most = drawing.affordable(model)
    batch = next(as_batches(run, open_data(run, "valid"), torch.device(device)).in_order(min(8, most)))
    n = max(1, most // 10)
    mask = drawing.rows_kept(0.5, model.grid.size)
    y = None if batch.y is None else batch.y[:, None].expand(-1, n)
    drawn = drawing.complete(model, batch.x, mask, n, y, progress=progress)
    done = drawing.Completion(batch.x.cpu().numpy(), mask.numpy(), drawn, model.space.levels or 256)
    done.save(run.picture("completions.png"))


def draw_pictures(run: Run, device: torch.device | str = "cpu", progress: Progress | None = None) -> None:
    """Everything in pictures/: samples, their means, reconstructions, completions, the manifold where z is a plane,
    curves."""
    model = run.load(device)
    levels = model.space.levels or 256
    if model.can_sample:
        with seeded(run.recipe.seed, "pictures", device=torch.device(device)):
            draw_samples(run, model, progress=progress)
            if isinstance(model, Autoregressive):
                draw_completions(run, model, device, progress)
    if isinstance(model, LatentModel):
        batches = as_batches(run, open_data(run, "valid"), torch.device(device))
        draw_reconstructions(run, model, next(batches.in_order(16)))
        if _is_plane(model):
            pictures.save_png(_manifold(model, levels, device), run.picture("manifold.png"))
    if run.log_path.exists():
        pictures.curves(run.log_path, run.picture("curves.png"))


def _is_plane(model: LatentModel) -> bool:
    """Whether p(z) is N(0, I) over two dimensions, so that its quantiles are the manifold's grid."""
    config = model.config
    plane = getattr(config, "latent", None) in (2, (2,)) and not model.given and model.can_sample
    return plane and not (isinstance(config, VAE.Config) and config.fitted_prior is not None)


def _manifold(model: LatentModel, levels: int, device: torch.device | str) -> np.ndarray:
    @torch.no_grad()
    def decode_mean(z: np.ndarray) -> np.ndarray:
        return model.decode(torch.from_numpy(z).float().to(device)).mean.cpu().numpy()

    return pictures.manifold(decode_mean, levels=levels)


def _latent_model(run: Run, device: torch.device | str) -> LatentModel:
    model = run.load(device)
    if not isinstance(model, LatentModel):
        raise ModelError(f"{run.path}: {type(model).__name__} has no latent code")
    return model

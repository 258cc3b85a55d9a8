"""Draw images from a run."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from lowerbound.errors import ModelError
from lowerbound.models.vqvae import VQVAE, Temperature, TopK, TopP
from lowerbound.noise import seeded
from lowerbound.progress import Progress
from lowerbound.runs.inputs import user_images
from lowerbound.runs.run import Run
from lowerbound.sampling import completion, drawing, labels, rejection
from lowerbound.sampling.labels import Labels, _check_number_of_images, _labels_for


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
) -> completion.Redrawn:
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
    kept = completion.levels_kept(model, keep_level)
    drawing.How(temperature, top_k, top_p, mean).check(model, model.names[:kept])
    x = user_images(run, images, progress).to(device)
    own = model.codes(x)
    y, drawn_labels = _labels_to_redraw(run, model, own[:kept], n, label, seed)
    names = tuple(str(image) for image in images)
    if drawn_labels is not None:
        labels.told_labels(names, drawn_labels, progress)
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
    return completion.Redrawn(
        originals=x.cpu().numpy(),
        reconstructions=reconstructions.cpu().numpy(),
        x=drawn.reshape(len(x), n, *model.space.shape),
        codes={name: c.unflatten(0, (len(x), n)).numpy() for name, c in zip(model.names, codes, strict=True)},
        levels=model.space.levels or 256,
        names=names,
        labels=drawn_labels,
        title=f"kept: codes of {keep_level}" + (f"; label {label}" if label is not None else ""),
    )


def _labels_to_redraw(
    run: Run, model: VQVAE, coarse: tuple[Tensor, ...], n: int, label: str | int | None, seed: int
) -> Labels:
    """The labels of n draws for each image, given its coarse codes where none is said."""
    return _labels_for(
        *(run, len(coarse[0]), n, label, seed),
        lambda *to_draw: labels.draw_labels_of_codes(model, coarse, n, *to_draw),
    )

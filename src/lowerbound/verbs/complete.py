"""Draw the rest of images."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from lowerbound.errors import ModelError
from lowerbound.models.autoregressive import Autoregressive
from lowerbound.noise import seeded
from lowerbound.progress import Progress
from lowerbound.runs.inputs import user_images
from lowerbound.runs.run import Run
from lowerbound.sampling import completion, drawing, labels
from lowerbound.sampling.labels import Labels, _check_number_of_images, _labels_for


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
) -> completion.Completion:
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
    mask = completion.kept(keep, model.grid.size)
    model.first_drawn(mask)
    x = user_images(run, images, progress).to(device)
    y, drawn_labels = _labels_to_complete(run, model, x, mask, n, label, seed)
    names = tuple(str(image) for image in images)
    if drawn_labels is not None:
        labels.told_labels(names, drawn_labels, progress)
    if bool(mask.all()):
        progress.say(f"--keep {keep}: keeps everything, so there is nothing to draw")
    with seeded(seed, "complete", device=torch.device(device)):
        drawn = completion.complete(model, x, mask, n, y, temperature, top_k=top_k, top_p=top_p, progress=progress)
    return completion.Completion(
        originals=x.cpu().numpy(),
        kept=mask.numpy(),
        x=drawn,
        levels=model.space.levels or 256,
        names=names,
        labels=drawn_labels,
        title=f"kept: {Path(keep).name}" + (f"; label {label}" if label is not None else ""),
    )


def _labels_to_complete(
    run: Run, model: Autoregressive, x: Tensor, mask: Tensor, n: int, label: str | int | None, seed: int
) -> Labels:
    """The labels of n completions of each image, given what is kept where none is said."""
    return _labels_for(run, len(x), n, label, seed, lambda *to_draw: labels.draw_labels(model, x, mask, n, *to_draw))

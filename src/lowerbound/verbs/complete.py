"""Draw the rest of images, given a part of them (autoregressive models)."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor

from lowerbound.errors import ModelError, counted
from lowerbound.models.autoregressive import Autoregressive
from lowerbound.noise import seeded
from lowerbound.pictures import check_out
from lowerbound.runs.inputs import user_images
from lowerbound.runs.run import Run
from lowerbound.sampling import completion, drawing, labels
from lowerbound.sampling.labels import Labels, check_number_of_images, labels_for
from lowerbound.verbs.base import WHOLE, Device, Files, FreshSeed, Label, N, Out, Shown, SomeWhole, Told, verb


@dataclass(frozen=True)
class Completed(completion.Completion, Shown):
    """Images, of which a part was kept and the rest drawn."""

    keep: str = field(kw_only=True)
    seed: int = field(kw_only=True)
    out: Path | None = field(default=None, kw_only=True)

    def json(self) -> dict[str, Any]:
        where = None if self.out is None else str(self.out)
        report = {"out": where, "images": list(self.names), "n": self.x.shape[1], "keep": self.keep}
        return report | {"seed": self.seed, "labels": self.labels}

    def shown(self) -> str:
        drawn = f"{counted(self.x.shape[1], 'completion')} of {counted(len(self.x), 'image')}"
        return f"{drawn} in {self.out} (--seed {self.seed})"


@verb
def complete(
    run: Run,
    images: Files,
    /,
    keep: str = "top:0.5",
    n: Annotated[int, WHOLE, N] = 8,
    *,
    out: Out = None,
    label: Label = None,
    temperature: float = 1.0,
    top_k: SomeWhole = None,
    top_p: float | None = None,
    device: Device = "auto",
    seed: FreshSeed = 0,
    progress: Told = False,
) -> Completed:
    """Draw the rest of images, given a part of them (autoregressive models).

    Args:
        images: image files
        keep: top:FRACTION of the rows, rows:N, or a picture that is black where it is to be drawn
        n: completions of each image
        out: ends in .png: a grid; .npz: an array x; else a folder of PNGs
        label: a class (conditional models); by default drawn, given what is kept
        temperature: times the standard deviation of the (prior's) noise, and divides logits; 0: mode; not p(x)^(1/T)
        top_k: draw each value from the so many likeliest alone
        top_p: draw each value from the fewest that hold this probability
        seed: by default a new one, which is printed

    Raises UserError: for a model that isn't autoregressive, and what can't be kept in the order it draws in.
    """
    out = check_out(out)
    model = run.load(device)
    if not isinstance(model, Autoregressive):
        raise ModelError(f"{run.path}: {type(model).__name__} can't complete images; {drawing.AUTOREGRESSIVE} can")
    check_number_of_images(n)
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
    made = Completed(
        originals=x.cpu().numpy(),
        kept=mask.numpy(),
        x=drawn,
        levels=model.space.levels or 256,
        names=names,
        labels=drawn_labels,
        title=f"kept: {Path(keep).name}" + (f"; label {label}" if label is not None else ""),
        keep=keep,
        seed=seed,
        out=out,
    )
    if out is not None:
        made.save(out)
    return made


def _labels_to_complete(
    run: Run, model: Autoregressive, x: Tensor, mask: Tensor, n: int, label: str | int | None, seed: int
) -> Labels:
    """The labels of n completions of each image, given what is kept where none is said."""
    return labels_for(run, len(x), n, label, seed, lambda *to_draw: labels.draw_labels(model, x, mask, n, *to_draw))

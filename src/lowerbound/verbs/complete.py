"""Draw the rest of images, given a part of them: exactly or, of diffusion models and VAEs, nearly."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from torch import Tensor

from lowerbound.data.images import Failed
from lowerbound.errors import counted
from lowerbound.model import Draw
from lowerbound.noise import seeded
from lowerbound.pictures import check_out
from lowerbound.progress import Progress
from lowerbound.runs.conditions import Asked
from lowerbound.runs.inputs import user_images
from lowerbound.runs.run import Run
from lowerbound.sampling import completion, drawing
from lowerbound.sampling.labels import check_number_of_images, labels_given
from lowerbound.verbs.base import (
    WHOLE,
    Attributes,
    Device,
    Files,
    FreshSeed,
    Label,
    Made,
    N,
    Out,
    SomeWhole,
    Told,
    verb,
)


@dataclass(frozen=True)
class Completed(completion.Completion, Made):
    """Images, of which a part was kept and the rest drawn."""

    keep: str = field(kw_only=True)
    seed: int = field(kw_only=True)
    out: Path | None = field(default=None, kw_only=True)
    failed: tuple[Failed, ...] = field(default=(), kw_only=True)

    def json(self) -> dict[str, Any]:
        report = {"out": self.where(), "images": list(self.names), "n": self.x.shape[1], "keep": self.keep}
        return report | {"seed": self.seed, "labels": self.labels, "seam": self.seam, "failed": self.failures()}

    def shown(self) -> str:
        drawn = f"{counted(self.x.shape[1], 'completion')} of {counted(len(self.x), 'image')}"
        seam = "" if self.seam is None else f"; {completion.told_seam(self.seam)}"
        return f"{drawn} in {self.out} (--seed {self.seed}){seam}"


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
    attribute: Attributes = None,
    temperature: float = 1.0,
    top_k: SomeWhole = None,
    top_p: float | None = None,
    mean: bool = False,
    device: Device = "auto",
    seed: FreshSeed = 0,
    progress: Told = False,
) -> Completed:
    """Draw the rest of images, given a part of them: exactly or, of diffusion models and VAEs, nearly.

    Args:
        images: image files
        keep: top:FRACTION of the rows, rows:N, or a picture that is black where it is to be drawn
        n: completions of each image
        out: ends in .png: a grid; .npz: an array x; else a folder of PNGs
        label: a class (conditional models); by default drawn, given what is kept
        attribute: NAME=V, of models that are given attributes; others are those of images of training, drawn likewise
        temperature: times the standard deviation of the (prior's) noise, and divides logits; 0: mode; not p(x)^(1/T)
        top_k: draw each value from the so many likeliest alone
        top_p: draw each value from the fewest that hold this probability
        mean: show the means of p(x|z) instead of draws from it (VQ-VAEs)
        seed: by default a new one, which is printed

    Raises UserError: for a model that can't, and what can't be kept in the order it draws in.
    """
    out, asked = check_out(out, images), Asked(label, attribute or {})
    model, how = run.load(device), Draw(temperature, top_k, top_p, mean)
    check_number_of_images(n)
    mask = completion.kept(keep, model.space.shape[-2:])
    stays = model.keeps(mask)
    model.check_how(how)
    own = user_images(run, images, progress, device)

    def log_p(i: Tensor, y: Tensor) -> Tensor:
        return model.log_p_kept(own.x[i], mask, y)

    with seeded(seed, "labels"):
        labels = labels_given(run, model, own.paths, n, asked, seed, log_p, progress)
    _tell(keep, stays, progress)
    with seeded(seed, "complete", quick=True):
        drawn = completion.complete(model, own.x, mask, n, labels.y, how, progress)
    return Completed(
        originals=own.x.cpu().numpy(),
        kept=mask.numpy(),
        x=drawing.pixels(drawn.x),
        levels=model.space.levels or 256,
        names=own.paths,
        labels=labels.names,
        title=f"kept: {Path(keep).name}" + (f"; {asked}" if asked else ""),
        codes=drawing.named(model.levels, drawn.z),
        keep=keep,
        seed=seed,
        out=out,
        failed=own.failed,
    ).saved()


def _tell(keep: str, stays: Mapping[str, Tensor], progress: Progress) -> None:
    """What is kept beside pixels, or that everything is."""
    if all(bool(mask.all()) for mask in stays.values()):
        progress.say(f"--keep {keep}: keeps everything, so there is nothing to draw")
    elif "pixels" not in stays:
        codes = ", ".join(f"{int(mask.sum())} of {mask.numel()} of {name}" for name, mask in stays.items())
        progress.say(f"codes whose cell is kept as a whole stay, {codes}; kept pixels come back unchanged over them")

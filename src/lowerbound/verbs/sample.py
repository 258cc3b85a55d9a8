"""Draw images from a model."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from cyclopts import Parameter
from torch import Tensor

from lowerbound.config import components
from lowerbound.data.images import Failed
from lowerbound.errors import ModelError, UserError, counted, did_you_mean
from lowerbound.model import CodeModel, Draw, LatentModel, Model, Viewing
from lowerbound.noise import seeded
from lowerbound.pictures import Table, check_out, save_gif, save_table
from lowerbound.progress import Progress
from lowerbound.runs.conditions import Asked, Range
from lowerbound.runs.inputs import as_batches, open_data, user_images
from lowerbound.runs.run import Run
from lowerbound.runs.told import condition_of
from lowerbound.sampling import completion, drawing, rejection, scenes
from lowerbound.sampling.drawing import to_device
from lowerbound.sampling.labels import check_number_of_images, labels_given
from lowerbound.schedules import Sampler
from lowerbound.verbs.base import (
    WHOLE,
    Attributes,
    Device,
    Files,
    FreshSeed,
    Label,
    Made,
    N,
    Option,
    OtherRun,
    Out,
    Processes,
    Seed,
    SomeWhole,
    Temperature,
    Told,
    TopK,
    TopP,
    Whole,
    verb,
)


def sampler_named(name: str, option: str) -> Sampler:
    """The component of a sampler's name, written in whatever case. Raises UserError."""
    known: dict[str, Any] = {kind.__name__.lower(): kind for kind in components(Sampler)}
    if name.lower() not in known:
        raise UserError(f"{option} {name}: no such sampler{did_you_mean(name.lower(), known)}")
    return known[name.lower()]()


BySteps = Annotated[Sampler | None, Option(kind=str | None, parse=sampler_named)]


@dataclass(frozen=True)
class Sampled(drawing.Samples, Made):
    """Images drawn from a run, and what a classifier made of them, where there is one."""

    seed: int = field(kw_only=True)
    out: Path | None = field(default=None, kw_only=True)
    judged: rejection.Rejection | None = field(default=None, kw_only=True)

    def json(self) -> dict[str, Any]:
        report = {"out": self.where(), "n": len(self.x), "seed": self.seed}
        return report | ({} if self.judged is None else {"rejection": self.judged.report()})

    def shown(self) -> str:
        rejected = "" if self.judged is None else f"; {self.judged}"
        return f"{counted(len(self.x), 'image')} in {self.out} (--seed {self.seed}){rejected}"


@dataclass(frozen=True)
class Redrawn(completion.Redrawn, Made):
    """Images whose finer codes were drawn anew."""

    seed: int = field(kw_only=True)
    keep_level: str = field(kw_only=True)
    out: Path | None = field(default=None, kw_only=True)
    failed: tuple[Failed, ...] = field(default=(), kw_only=True)

    def json(self) -> dict[str, Any]:
        report = {"out": self.where(), "images": list(self.names), "n": self.x.shape[1], "keep_level": self.keep_level}
        return report | {"seed": self.seed, "labels": self.labels, "failed": self.failures()}

    def shown(self) -> str:
        drawn = f"{counted(self.x.shape[1], 'draw')} of {counted(len(self.x), 'image')}"
        return f"{drawn} in {self.out} (--seed {self.seed})"


@dataclass(frozen=True)
class Seen(scenes.Scenes, Made):
    """Scenes of which views were given, and others drawn."""

    seed: int = field(kw_only=True)
    out: Path | None = field(default=None, kw_only=True)

    def json(self) -> dict[str, Any]:
        scenes, draws = self.x.shape[:2]
        return {"out": self.where(), "n": scenes, "draws": draws, "views": self.number.tolist(), "seed": self.seed}

    def shown(self) -> str:
        drawn = f"{counted(self.x.shape[1], 'draw')} of a view of {counted(len(self.x), 'scene')}"
        return f"{drawn} in {self.out} (--seed {self.seed})"


@dataclass(frozen=True)
class Turned(Made):
    """Draws that differ in one attribute, from the same noise: each a row."""

    table: Table
    x: np.ndarray  # uint8 [n, V, C, H, W]
    attribute: str
    values: tuple[str, ...]
    seed: int
    out: Path | None = None

    @staticmethod
    def of(x: np.ndarray, levels: int, ranged: Range, seed: int, out: Path | None) -> "Turned":
        title = f"{ranged.name}; {ranged.rest}" if ranged.rest else ranged.name
        table = Table(x, levels, columns=ranged.values, title=title)
        return Turned(table, x, ranged.name, ranged.values, seed, out)

    def json(self) -> dict[str, Any]:
        report = {"out": self.where(), "n": len(self.x), "attribute": self.attribute, "values": list(self.values)}
        return report | {"seed": self.seed}

    def shown(self) -> str:
        across = f"{self.attribute} {self.values[0]} to {self.values[-1]}"
        return f"{counted(len(self.x), 'draw')} at {len(self.values)} of {across} in {self.out} (--seed {self.seed})"

    def save(self, out: Path) -> None:
        """By the rule of `--out`; a .gif goes through the values."""
        if out.suffix.lower() == ".gif":
            return save_gif(np.concatenate(list(self.x), -1), self.table.levels, out)  # the draws side by side
        names = [f"{i}-{self.attribute}{value}.png" for i in range(len(self.x)) for value in self.values]
        save_table(self.table, self.x.reshape(-1, *self.x.shape[2:]), out, names)


@verb
def sample(
    run: Run,
    /,
    n: Annotated[int | None, WHOLE, N] = None,
    *,
    out: Out = None,
    label: Label = None,
    attribute: Attributes = None,
    temperature: Temperature = 1.0,
    top_k: TopK = None,
    top_p: TopP = None,
    mean: bool = False,
    sampler: BySteps = None,
    steps: SomeWhole = None,
    guidance: float | None = None,
    images: Annotated[
        Sequence[str | Path] | None,
        Option(kind=list[Path] | None),
        Parameter(name="--from", consume_multiple=True, negative=""),
    ] = None,
    keep_level: str | None = None,
    reject: OtherRun = None,
    accept: float | None = None,
    views: SomeWhole = None,
    device: Device = "auto",
    seed: FreshSeed = 0,
    progress: Told = False,
    processes: Processes = None,
) -> Sampled | Redrawn | Turned | Seen:
    """Draw images from a model.

    Args:
        n: images, by default 16; of each --from, 8; of a model of views: scenes, each drawn four times
        out: ends in .png: a grid; .npz: an array x; else a folder of PNGs
        label: a class, by name or number (conditional models), or the number of a cluster (mixtures)
        attribute: NAME=V, of models that are given attributes, the others being those of images of training; of one
            NAME=LOW..HIGH:N, a row of N of each draw; of a model of views: of the camera, the others being those of
            a view that the scene has
        temperature: times the standard deviation of the (prior's) noise, and divides logits; 0: mode; not p(x)^(1/T);
            by level: top=…,bottom=… or z1=…,z3=…
        top_k: draw each value from the so many likeliest alone; by level of codes: top=…,bottom=…
        top_p: draw each value from the fewest that hold this probability; by level of codes: top=…,bottom=…
        mean: show the means of p(x|z) instead of draws from it
        sampler: by which a diffusion model takes noise away: ancestral, ddim or heun
        steps: of it, or of a Markov chain
        guidance: times what the label changes of what a diffusion model sees in the noise; 1: as it is
        images: draw only the finer codes, or latents, of image files
        keep_level: with --from: a level that is kept, with all coarser ones; by default the coarsest
        reject: a classifier's run: draw more, keep those it is surest are of their class
        accept: with --reject: the share that is kept, by default 0.5
        views: how many views of a scene are given, by default 0, 1, 2, ... in turn
        seed: by default a new one, which is printed
        processes: draw in so many processes of this machine, which share the images
    """
    if images is None and keep_level is not None:
        raise UserError(f"--keep-level {keep_level}: says whose codes are kept of the images of --from; there are none")
    if images is not None and reject is not None:
        raise UserError(f"--reject {reject.path}: judges images of a class, and can't be used with --from")
    if accept is not None and reject is None:
        raise UserError(f"--accept {accept:g}: is the share that --reject CLASSIFIER keeps; there is none")
    asked = Asked(label, attribute or {})
    if attribute and not run.facts.cameras:
        run.check_asked(asked)
    ranged = asked.ranged(run.facts.cameras or run.facts.factors)
    out = check_out(out, images or (), moving=ranged is not None)
    if steps is not None and steps < 1:
        raise UserError(f"--steps {steps}: expected a whole number of at least 1")
    how = Draw(temperature, top_k, top_p, mean, sampler=sampler, steps=steps, guidance=guidance)
    if run.recipe.model.views_given():
        if label is not None or reject is not None or images is not None:
            raise UserError(
                f"--label, --reject, --from: {run.path} draws views of scenes, given others with their cameras; set "
                "--views"
            )
        return _seen(run, n, views, asked, ranged, how, out, seed, device, progress).saved()
    if views is not None:
        raise ModelError(f"--views {views}: {run.path} is given no views of a scene; the recipe views-scenes is")
    if images is not None:
        n = 8 if n is None else n
        made, kept, failed = _redrawn(run, images, keep_level, n, asked, how, seed, device, progress)
        return Redrawn(**vars(made), seed=seed, keep_level=kept, out=out, failed=failed).saved()
    if ranged is not None:
        if reject is not None:
            raise UserError(f"--reject {reject.path}: judges images of a class; leave the range away")
        return _turned(run, 4 if n is None else n, ranged, how, out, seed, device, progress).saved()
    share = 0.5 if accept is None else accept
    drawn, judged = _drawn(run, 16 if n is None else n, asked, how, reject, share, seed, device, progress)
    return Sampled(**vars(drawn), seed=seed, out=out, judged=judged).saved()


@verb
def redraw(
    run: Run,
    /,
    images: Files,
    keep_level: str | None = None,
    n: Whole = 8,
    *,
    label: Label = None,
    attribute: Attributes = None,
    temperature: Temperature = 1.0,
    top_k: TopK = None,
    top_p: TopP = None,
    mean: bool = False,
    seed: Seed = 0,
    device: Device = "auto",
    progress: Told = False,
) -> Redrawn:
    """`sample(run, n, images=…, keep_level=…)`: images whose finer codes are drawn n times each, given the coarser.

    `.x` holds the draws, uint8 [B, n, C, H, W], `.codes` their codes; `.save(Path("redrawn.png"))` makes the picture.
    """
    how, asked = Draw(temperature, top_k, top_p, mean), Asked(label, attribute or {})
    made, kept, failed = _redrawn(run, images, keep_level, n, asked, how, seed, device, progress)
    return Redrawn(**vars(made), seed=seed, keep_level=kept, failed=failed)


def _drawn(
    run: Run,
    n: int,
    asked: Asked,
    how: Draw,
    reject: Run | None,
    accept: float,
    seed: int,
    device: torch.device,
    progress: Progress,
) -> tuple[drawing.Samples, rejection.Rejection | None]:
    """Images, and what the classifier made of them: n / accept are drawn, and those kept that it is surest are of the
    class that each was drawn for (`rejection.sample`)."""
    model = run.load(device)
    check_number_of_images(n)
    judge = None if reject is None else rejection.open_judge(reject, run, accept, device)
    if asked.label is not None and model.clusters and not model.given:
        how, asked = replace(how, cluster=_cluster(model, asked.label)), replace(asked, label=None)
    y = run.condition(n, asked, seed)
    with seeded(seed, "sample", quick=True):
        if reject is None or judge is None or y is None:
            return drawing.Samples.of(model, drawing.draw(model, n, y, how, progress), y, how), None
        drawn, kept, rejected = rejection.sample(model, y, judge, accept, how, progress)
    return drawn, rejection.Rejection(str(reject.path), accept, kept, rejected)


def _seen(
    run: Run,
    n: int | None,
    given: int | None,
    asked: Asked,
    ranged: Range | None,
    how: Draw,
    out: Path | None,
    seed: int,
    device: torch.device,
    progress: Progress,
) -> Seen | Turned:
    """A view of each of the first n scenes of valid, drawn a few times, given so many others or 0, 1, ... in turn; or
    one draw for each value of the camera."""
    model = run.load(device)
    assert isinstance(model, Viewing)
    model.check_how(how)
    batches = as_batches(run, open_data(run, "valid", progress=progress), device)
    assert batches.views is not None
    n = min(model.context_views + 1, len(batches.views)) if n is None else n
    check_number_of_images(n)
    scenes.check_views(model, batches, n, given)
    number = scenes.in_turn(model, n) if given is None else torch.full((n,), given)

    def drawn(asked: Asked, draws: int) -> scenes.Scenes:
        with seeded(seed, "sample", quick=True):
            return scenes.draw(model, batches, number, draws, how, asked, progress)

    if ranged is None:
        return Seen(**vars(drawn(asked, scenes.DRAWS)), seed=seed, out=out)
    found = np.stack([drawn(there, 1).x[:, 0] for there in ranged.each()], 1)
    return Turned.of(found, batches.levels, ranged, seed, out)


def _turned(
    run: Run, n: int, ranged: Range, how: Draw, out: Path | None, seed: int, device: torch.device, progress: Progress
) -> Turned:
    """n draws for each value: all values get the same noise, and the same of what else is not said."""
    model = run.load(device)
    check_number_of_images(n)
    drawn = []
    for asked in ranged.each():
        y = run.condition(n, asked, seed)
        with seeded(seed, "sample", quick=True):
            drawn.append(drawing.draw(model, n, y, how, progress).x)
    x, levels = drawing.shown(torch.stack(drawn, 1), model.space.levels or 256, how)
    return Turned.of(x, levels, ranged, seed, out)


def _cluster(model: Model, label: str | int) -> int:
    """The number of a cluster. Raises ModelError for what is none."""
    if not str(label).isdigit() or int(label) >= model.clusters:
        raise ModelError(f"--label {label}: expected the number of a cluster, 0 to {model.clusters - 1}")
    return int(label)


def _redrawn(
    run: Run,
    images: Sequence[str | Path],
    keep_level: str | None,
    n: int,
    asked: Asked,
    how: Draw,
    seed: int,
    device: torch.device,
    progress: Progress,
) -> tuple[completion.Redrawn, str, tuple[Failed, ...]]:
    """The user's images as the run prepares them, and n draws of the finer codes of each, given the coarser; the levels
    that are kept; and the files that can't be read.

    keep_level: the finest level that is kept, with all coarser ones; or all by name, `top,middle`; None: the first.
    asked: of a conditional model; what isn't is drawn for each draw, given the codes that are kept.
    Raises UserError: for a model without levels, levels that can't be kept, and where latents can't be told without a
    label.
    """
    model = run.load(device)
    if not isinstance(model, LatentModel) or not model.levels:
        raise ModelError(f"--from: {type(model).__name__} has no levels of latents; a VQ-VAE of two levels or more has")
    check_number_of_images(n)
    kept = completion.levels_kept(model, keep_level or model.levels[0])
    names = ",".join(model.levels[:kept])
    model.check_how(how, model.levels[:kept])
    own = user_images(run, images, progress, device)
    own_y = None
    if model.given and not isinstance(model, CodeModel):
        if asked.label is None and not run.facts.factors:
            raise ModelError("--from: what this model makes of an image depends on its label; say it with --label")
        own_y = condition_of(run, model, own, asked, progress)
    with torch.no_grad():
        given = to_device(own_y, model.device)
        codes = model.codes(own.x) if isinstance(model, CodeModel) else model.centers(own.x, given)
    coarse = codes[:kept]

    def log_p(i: Tensor, y: Tensor) -> Tensor:
        return model.log_p_coarse(tuple(level[i] for level in coarse), y)

    labels = labels_given(run, model, own.paths, n, asked, seed, log_p, progress)
    with seeded(seed, "sample", quick=True):
        drawn = completion.redraw(model, coarse, n, labels.y, how, progress)
    with torch.no_grad():
        reconstructions = model.reconstruct(own.x, to_device(own_y, model.device))
    levels = model.space.levels or 256
    x, x_levels = drawing.shown(drawn.x, levels, how)
    redrawn = completion.Redrawn(
        originals=own.x.cpu().numpy(),
        reconstructions=reconstructions.cpu().numpy(),
        x=x,
        codes=drawing.named(model.levels, drawn.z),
        levels=levels,
        x_levels=x_levels,
        names=own.paths,
        labels=labels.names,
        title=f"kept: {model.latents[0].what} of {names}" + (f"; {asked}" if asked else ""),
    )
    return redrawn, names, own.failed

"""The command line: parse, call, print."""

import json
import os
import shlex
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, CycloptsError, Parameter

from lowerbound.errors import UserError, counted

if TYPE_CHECKING:
    from lowerbound.progress import Progress

app = App(
    name="lowerbound",
    help="Train, measure and sample latent-variable models of images. "
    "Every likelihood says whether it is exact (=) or a bound (<=).",
    version_flags=["--version"],
    suppress_keyboard_interrupt=False,  # main says what happened
)
data_app = App(name="data", help="Data sets: what there is, and what is in one.")
app.command(data_app)

Device = Annotated[str, Parameter(help="auto, cpu, cuda or cuda:N")]
Json = Annotated[bool, Parameter(name="--json", negative="", help="one JSON document on standard output")]
Out = Annotated[Path, Parameter(help="ends in .png: a grid; .npz: an array x; else a folder of PNGs")]
Moving = Annotated[Path, Parameter(help="ends in .png: a labelled grid; .gif: an animation; .npz; else a folder")]
Label = Annotated[str | None, Parameter(help="a class, by name or number (conditional models)")]


def _whole(kind: Any, tokens: Any) -> int:
    """2.5 is no whole number, and is not rounded to one."""
    try:
        return int(tokens[0].value)
    except ValueError:
        raise ValueError(f"{tokens[0].keyword}: expected a whole number, got {tokens[0].value}") from None


Whole = Annotated[int, Parameter(converter=_whole)]


TopK = Annotated[int | None, Parameter(converter=_whole, help="draw each value from the so many likeliest alone")]
TopP = Annotated[float | None, Parameter(help="draw each value from the fewest that hold this probability")]
FreshSeed = Annotated[int | None, Parameter(converter=_whole, help="by default a new one, which is printed")]
_TEMPERATURE = "times the standard deviation of the (prior's) noise, and divides logits; 0: mode; not p(x)^(1/T)"
Temperature = Annotated[float, Parameter(help=_TEMPERATURE)]
_LEVELS = "; by level of codes: top=…,bottom=…"
LevelTemperature = Annotated[str, Parameter(allow_leading_hyphen=True, help=_TEMPERATURE + _LEVELS)]
LevelTopK = Annotated[
    str | None,
    Parameter(allow_leading_hyphen=True, help="draw each value from the so many likeliest alone" + _LEVELS),
]
LevelTopP = Annotated[
    str | None,
    Parameter(allow_leading_hyphen=True, help="draw each value from the fewest that hold this probability" + _LEVELS),
]


def _flag(text: str) -> Parameter:
    return Parameter(negative="", help=text)


@app.command
def train(
    recipe: Annotated[str, Parameter(help="a bundled name (see `lowerbound recipes`), or a TOML or JSON file")],
    /,
    *changes: Annotated[str, Parameter(help="KEY=VALUE, such as train.steps=500 model.latent=10")],
    data: Annotated[str | None, Parameter(help="a bundled name, a folder, .zip, .tar or .npz")] = None,
    out: Annotated[Path | None, Parameter(help="the run's folder; by default runs/RECIPE")] = None,
    resume: Annotated[bool, _flag("go on where the run was stopped, exactly")] = False,
    overwrite: Annotated[bool, _flag("start over where a run exists")] = False,
    stage: Annotated[str | None, Parameter(help="only this stage")] = None,
    dry_run: Annotated[bool, _flag("show parameters, memory, FLOPs and expected time, and stop")] = False,
    device: Device = "auto",
    seed: Annotated[int | None, Parameter(converter=_whole)] = None,
    json: Json = False,
) -> None:
    """Train a recipe into a run folder, then write pictures and a short evaluation."""
    from lowerbound.devices import pick_device
    from lowerbound.training import dry
    from lowerbound.training.loop import Interrupted
    from lowerbound.training.train import train as run_training
    from lowerbound.verbs import tables, train

    shown = _progress()
    if dry_run:
        report = dry.run(recipe, data=data, changes=list(changes), device=device, progress=shown)
        _print(report, json, tables.costs)
        return
    try:
        run = run_training(
            recipe,
            data=data,
            out=out,
            resume=resume,
            overwrite=overwrite,
            stage=stage,
            changes=list(changes),
            seed=seed,
            device=device,
            progress=shown,
        )
    except Interrupted as e:
        words = [w for w in sys.argv[1:] if w not in ("--resume", "--overwrite")]
        shown.say(f"stopped; {e} is saved. Go on with: lowerbound {shlex.join(words)} --resume")
        raise SystemExit(130) from None
    report = train.finish(run, device=pick_device(device), progress=shown)
    _print(report, json, tables.metrics)
    drawn = "".join(f", pictures/{p.name}" for p in sorted((run.path / "pictures").glob("*s.png")))
    shown.say(f"{run.path}: model.safetensors, log.jsonl{drawn}, …")


@app.command
def evaluate(
    run: Path,
    /,
    *,
    data: str | None = None,
    split: str = "test",
    metrics: Annotated[
        str | None, Parameter(help="a,b: only these; of samples: frechet, kernel, precision, recall, cas")
    ] = None,
    draws: Annotated[int, Parameter(converter=_whole, help="importance-weighted draws for nll and bits_per_dim")] = 500,
    limit: Annotated[int | None, Parameter(converter=_whole, help="only the first so many images")] = None,
    samples: Annotated[
        int | None, Parameter(converter=_whole, help="drawn; by default as many as images, at most 5,000 (cas 10,000)")
    ] = None,
    extractor: Annotated[
        Path | None,
        Parameter(help="a classifier's run, a TorchScript or ONNX file; by default principal components of pixels"),
    ] = None,
    extractor_size: Annotated[
        int | None, Parameter(converter=_whole, help="side in pixels of the images that a file's network takes")
    ] = None,
    extractor_range: Annotated[str, Parameter(help="LOW,HIGH: values of black and white that it takes")] = "0,1",
    device: Device = "auto",
    seed: Whole = 0,
    json: Json = False,
) -> None:
    """Measure a run: likelihoods and their relation to the truth, reconstruction, use of the latents, samples."""
    from lowerbound.devices import pick_device
    from lowerbound.metrics.extractors import Input
    from lowerbound.metrics.judge import Protocol
    from lowerbound.runs.run import Run
    from lowerbound.verbs import evaluate, tables

    report = evaluate.evaluate(
        Run.open(run),
        data=data,
        split=split,
        metrics=metrics.split(",") if metrics else None,
        draws=draws,
        limit=limit,
        protocol=Protocol(samples, extractor, Input(extractor_size, *_range(extractor_range))),
        seed=seed,
        device=pick_device(device),
        progress=_progress(),
    )
    _print(report, json, tables.metrics)


def _range(text: str) -> tuple[float, float]:
    """LOW,HIGH. Raises UserError."""
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        raise UserError(f"--extractor-range {text}: expected two numbers LOW,HIGH, such as -1,1") from None
    return low, high


@app.command
def doctor(
    run: Path,
    /,
    *,
    strict: Annotated[bool, _flag("exit status 1 where there is a problem")] = False,
    data: Annotated[str | None, Parameter(help="measure on this data set instead of the run's")] = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Name what is wrong with a run, part by part, and what to do about it."""
    from lowerbound.devices import pick_device
    from lowerbound.runs.run import Run
    from lowerbound.verbs import tables
    from lowerbound.verbs.doctor.doctor import doctor as run_doctor

    report = run_doctor(Run.open(run), data=data, device=pick_device(device), progress=_progress())
    _print(report, json, tables.diagnosis)
    if strict and any(f["severity"] == "problem" for f in report["findings"]):
        raise SystemExit(1)


@app.command
def sample(
    run: Path,
    /,
    *,
    out: Out,
    n: Annotated[
        int | None, Parameter(name=["-n", "--n"], converter=_whole, help="images, by default 16; of each --from, 8")
    ] = None,
    label: Label = None,
    temperature: LevelTemperature = "1",
    top_k: LevelTopK = None,
    top_p: LevelTopP = None,
    mean: Annotated[bool, _flag("show the means of p(x|z) instead of draws from it")] = False,
    images: Annotated[
        list[Path] | None,
        Parameter(name="--from", consume_multiple=True, negative="", help="draw only the finer codes of image files"),
    ] = None,
    keep_level: Annotated[
        str | None, Parameter(help="with --from: levels whose codes are kept, top (the default) or top,middle")
    ] = None,
    reject: Annotated[
        Path | None, Parameter(help="a classifier's run: draw more, keep those it is surest are of their class")
    ] = None,
    accept: Annotated[float | None, Parameter(help="with --reject: the share that is kept, by default 0.5")] = None,
    device: Device = "auto",
    seed: FreshSeed = None,
    json: Json = False,
) -> None:
    """Draw images from a model."""
    from lowerbound import pictures
    from lowerbound.devices import pick_device
    from lowerbound.runs.run import Run
    from lowerbound.verbs import sample

    if images is None and keep_level is not None:
        raise UserError(f"--keep-level {keep_level}: says whose codes are kept of the images of --from; there are none")
    if images is not None and reject is not None:
        raise UserError(f"--reject {reject}: judges images of a class, and can't be used with --from")
    if accept is not None and reject is None:
        raise UserError(f"--accept {accept:g}: is the share that --reject CLASSIFIER keeps; there is none")
    pictures.check_out(out)
    used, opened, where = _seed(seed), Run.open(run), pick_device(device)
    t, k, p = (
        _by_level(temperature, "--temperature", float),
        _by_level(top_k, "--top-k", int),
        _by_level(top_p, "--top-p", float),
    )
    if images is not None:
        made = sample.redraw(
            opened,
            images,
            keep_level or "top",
            8 if n is None else n,
            label=label,
            temperature=t,
            top_k=k,
            top_p=p,
            mean=mean,
            seed=used,
            device=where,
            progress=_progress(),
        )
        made.save(out)
        report = {"out": str(out), "images": list(made.names), "n": made.x.shape[1], "keep_level": keep_level or "top"}
        report |= {"seed": used, "labels": made.labels}
        said = f"{counted(made.x.shape[1], 'draw')} of {counted(len(images), 'image')} in {out} (--seed {used})"
        _print(report, json, lambda r: said)
        return
    drawn, rejection = sample.sample(
        opened,
        16 if n is None else n,
        label=label,
        temperature=t,
        top_k=k,
        top_p=p,
        mean=mean,
        reject=None if reject is None else Run.open(reject),
        accept=0.5 if accept is None else accept,
        seed=used,
        device=where,
        progress=_progress(),
    )
    drawn.save(out)
    report = {"out": str(out), "n": len(drawn.x), "seed": used}
    report |= {} if rejection is None else {"rejection": rejection.report()}
    rejected = "" if rejection is None else f"; {rejection}"
    _print(report, json, lambda r: f"{counted(len(drawn.x), 'image')} in {out} (--seed {used}){rejected}")


def _by_level(text: str | None, option: str, kind: Callable[[str], Any]) -> Any:
    """A number for all levels, or by level, as in top=0.9,bottom=1.0; None where there is none."""
    if text is None or "=" not in text:
        return None if text is None else _number(text, option, kind)
    found: dict[str, Any] = {}
    for part in text.split(","):
        name, equals, value = part.partition("=")
        if not name or not equals or name in found:
            raise UserError(f"{option} {text}: expected one number, or a number for each level, as in top=…,bottom=…")
        found[name] = _number(value, f"{option} {text}", kind)
    return found


def _seed(given: int | None) -> int:
    """A fresh seed where none was given."""
    import secrets

    return secrets.randbelow(2**31) if given is None else given


@app.command
def complete(
    run: Path,
    images: Annotated[list[Path], Parameter(help="image files")],
    /,
    *,
    out: Out,
    keep: Annotated[
        str, Parameter(help="top:FRACTION of the rows, rows:N, or a picture that is black where it is to be drawn")
    ] = "top:0.5",
    n: Annotated[int, Parameter(name=["-n", "--n"], converter=_whole, help="completions of each image")] = 8,
    label: Annotated[
        str | None, Parameter(help="a class (conditional models); by default drawn, given what is kept")
    ] = None,
    temperature: Temperature = 1.0,
    top_k: TopK = None,
    top_p: TopP = None,
    device: Device = "auto",
    seed: FreshSeed = None,
    json: Json = False,
) -> None:
    """Draw the rest of images, given a part of them (autoregressive models)."""
    from lowerbound import pictures
    from lowerbound.devices import pick_device
    from lowerbound.runs.run import Run
    from lowerbound.verbs import complete as completing

    pictures.check_out(out)
    used = _seed(seed)
    made = completing.complete(
        Run.open(run),
        images,
        keep,
        n,
        label=label,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=used,
        device=pick_device(device),
        progress=_progress(),
    )
    made.save(out)
    report = {"out": str(out), "images": list(made.names), "n": n, "keep": keep, "seed": used, "labels": made.labels}
    drawn = f"{counted(n, 'completion')} of {counted(len(images), 'image')}"
    _print(report, json, lambda r: f"{drawn} in {out} (--seed {used})")


@app.command
def reconstruct(
    run: Path,
    images: Annotated[list[Path], Parameter(help="image files")],
    /,
    *,
    out: Out = Path("reconstructions.png"),
    label: Label = None,
    levels: Annotated[str | None, Parameter(help="top,…: from the codes of these levels alone (VQ-VAE)")] = None,
    device: Device = "auto",
    seed: Whole = 0,
    json: Json = False,
) -> None:
    """Show images, prepared as the run's data were, above their reconstructions."""
    from lowerbound import pictures
    from lowerbound.devices import pick_device
    from lowerbound.runs.run import Run
    from lowerbound.verbs import reconstruct

    pictures.check_out(out)
    x, r, values = reconstruct.reconstruct(
        Run.open(run),
        images,
        label=label,
        levels=None if levels is None else levels.split(","),
        device=pick_device(device),
        progress=_progress(),
    )
    if out.suffix == ".png":
        pictures.save_png(pictures.pairs(x, r, values), out)
    else:
        pictures.save_images(r, values, out, [i.stem for i in images])
    _print({"out": str(out), "n": len(x)}, json, lambda report: f"{counted(len(x), 'image')} in {out}")


@app.command
def encode(
    run: Path,
    /,
    *,
    out: Annotated[Path, Parameter(help="a file ending in .npz: z (or codes_LEVEL), label, path")],
    data: str | None = None,
    split: str = "train",
    scale: Annotated[bool, _flag("the posterior standard deviations too, as the array scale")] = False,
    device: Device = "auto",
    seed: Whole = 0,
    json: Json = False,
) -> None:
    """Write the posterior means (of a VQ-VAE, the codes of each level) of all images of a split."""
    from lowerbound.devices import pick_device
    from lowerbound.runs.run import Run
    from lowerbound.verbs import encode

    n = encode.encode(
        Run.open(run),
        data=data,
        split=split,
        out=out,
        scale=scale,
        device=pick_device(device),
        progress=_progress(),
    )
    _print({"out": str(out), "n": n}, json, lambda report: f"{counted(n, 'code')} in {out}")


@app.command
def probe(
    run: Path,
    /,
    *,
    labels: Annotated[str, Parameter(help="labels per class")] = "1,10,100,all",
    seeds: Annotated[int, Parameter(converter=_whole, help="subsets of labelled images")] = 5,
    finetune: Annotated[
        bool, _flag("classifiers too: begun at the encoder and trained with it, and from scratch")
    ] = False,
    data: Annotated[str | None, Parameter(help="labelled data other than the run's")] = None,
    out: Annotated[Path | None, Parameter(help="keep the fine-tuned classifier of the most labels as a run")] = None,
    device: Device = "auto",
    seed: Whole = 0,
    json: Json = False,
) -> None:
    """What the features are worth for telling labels, against raw pixels and PCA, on the test split."""
    from lowerbound.devices import pick_device
    from lowerbound.runs.run import Run
    from lowerbound.verbs import tables
    from lowerbound.verbs.probe.probe import probe as run_probe

    shown = _progress()
    report = run_probe(
        Run.open(run),
        labels=labels,
        seeds=seeds,
        finetune=finetune,
        data=data,
        out=out,
        seed=seed,
        device=pick_device(device),
        progress=shown,
    )
    _print(report, json, tables.accuracies)
    shown.say(report["picture"])


@app.command
def predict(
    run: Path,
    images: Annotated[list[Path], Parameter(help="image files")] = [],  # noqa: B006
    /,
    *,
    data: Annotated[str | None, Parameter(help="label this data set instead")] = None,
    split: str = "all",
    device: Device = "auto",
    seed: Whole = 0,
    json: Json = False,
) -> None:
    """Label images by a classifier (`lowerbound probe RUN --finetune --out CLASSIFIER`)."""
    from lowerbound.devices import pick_device
    from lowerbound.runs.run import Run
    from lowerbound.verbs import tables
    from lowerbound.verbs.predict import predict as run_predict

    rows = run_predict(Run.open(run), images, data=data, split=split, device=pick_device(device), progress=_progress())
    _print(rows, json, tables.plain)


@app.command
def score(
    run: Path,
    data: Annotated[str, Parameter(help="a bundled name, a folder, .zip, .tar or .npz")],
    /,
    *,
    out: Annotated[Path, Parameter(help="a file ending in .csv, one line per image; a picture comes beside it")],
    split: str = "all",
    draws: Annotated[int, Parameter(converter=_whole, help="importance-weighted draws of the likelihood")] = 10,
    device: Device = "auto",
    seed: Whole = 0,
    json: Json = False,
) -> None:
    """How usual images are for a model: likelihood, reconstruction error, KL, typicality, one by one."""
    from lowerbound.devices import pick_device
    from lowerbound.runs.run import Run
    from lowerbound.verbs.score import score as run_score

    report = run_score(
        Run.open(run),
        data,
        out=out,
        split=split,
        draws=draws,
        seed=seed,
        device=pick_device(device),
        progress=_progress(),
    )
    _print(report, json, lambda r: f"{r['data']['n']} images in {r['out']}; the least usual in {r['picture']}")


@app.command
def compare(
    runs: Annotated[list[Path], Parameter(help="run folders; the differences are to the first with a likelihood")],
    /,
    *,
    html: Annotated[Path | None, Parameter(help="write a page: the table, samples, a plot")] = None,
    png: Annotated[Path | None, Parameter(help="write a picture: a row of samples for each run")] = None,
    markdown: Annotated[
        Path | None, Parameter(help="write the table to a .md, between <!-- compare --> and <!-- /compare -->")
    ] = None,
    data: Annotated[str | None, Parameter(help="measure all runs on this data set; by default each on its own")] = None,
    split: str = "test",
    draws: Annotated[int, Parameter(converter=_whole, help="importance-weighted draws of a bound")] = 500,
    limit: Annotated[int | None, Parameter(converter=_whole, help="only the first so many images")] = None,
    samples: Annotated[int, Parameter(converter=_whole, help="images drawn of each run, at once")] = 10,
    device: Device = "auto",
    seed: Whole = 0,
    json: Json = False,
) -> None:
    """One table over runs of any family on the same images: likelihood, cost, what else a model can do."""
    from lowerbound.devices import pick_device
    from lowerbound.runs.run import Run
    from lowerbound.verbs import tables
    from lowerbound.verbs.compare.compare import compare as run_comparison

    shown = _progress()
    report = run_comparison(
        [Run.open(run) for run in runs],
        data=data,
        split=split,
        limit=limit,
        draws=draws,
        samples=samples,
        html=html,
        png=png,
        markdown=markdown,
        seed=seed,
        device=pick_device(device),
        progress=shown,
    )
    _print(report, json, tables.comparison)
    for path in (html, png, markdown):
        if path is not None:
            shown.say(str(path))


@app.command
def traverse(
    run: Path,
    image: Annotated[Path | None, Parameter(help="start from its code; without it, from the prior's mean")] = None,
    /,
    *,
    out: Out,
    dims: Annotated[str | None, Parameter(help="0,1,…: only these dimensions")] = None,
    top: Annotated[int | None, Parameter(converter=_whole, help="only so many, the most used")] = None,
    range: Annotated[float, Parameter(help="standard deviations of the codes, to either side")] = 3.0,
    steps: Annotated[int, Parameter(converter=_whole, help="images in a row")] = 7,
    quantiles: Annotated[bool, _flag("go through quantiles of the codes instead")] = False,
    posterior: Annotated[bool, _flag("go through standard deviations of the IMAGE's own q(z|x) instead")] = False,
    label: Label = None,
    device: Device = "auto",
    seed: Whole = 0,
    json: Json = False,
) -> None:
    """One row of images for each latent dimension, the most used first, all others held."""
    from lowerbound import pictures
    from lowerbound.devices import pick_device
    from lowerbound.runs.run import Run
    from lowerbound.verbs import traverse

    wanted = None if dims is None else _numbers(dims, "--dims", int)
    pictures.check_out(out)
    made = traverse.traverse(
        Run.open(run),
        image,
        dims=wanted,
        top=top,
        reach=range,
        steps=steps,
        quantiles=quantiles,
        posterior=posterior,
        label=label,
        device=pick_device(device),
        progress=_progress(),
    )
    made.save(out)
    report = {"out": str(out), "dims": made.dims, made.use_name.lower(): made.use, "unit": made.unit}
    _print(report, json, lambda r: f"{len(made.dims)} dimensions in {out}, {made.use_name} from {made.use[0]:.3g} down")


@app.command
def interpolate(
    run: Path,
    images: Annotated[list[Path], Parameter(help="image files, two or more")],
    /,
    *,
    out: Moving,
    steps: Annotated[int, Parameter(converter=_whole, help="from one image to the next, both included")] = 9,
    loop: Annotated[bool, _flag("and from the last back to the first")] = False,
    straight: Annotated[bool, _flag("along lines, where Gaussian latents would go along the sphere")] = False,
    label: Label = None,
    device: Device = "auto",
    seed: Whole = 0,
    json: Json = False,
) -> None:
    """Images between images, by their codes: along the sphere for Gaussian latents, straight for others."""
    from lowerbound import pictures
    from lowerbound.devices import pick_device
    from lowerbound.runs.run import Run
    from lowerbound.verbs import interpolate

    pictures.check_out(out, moving=True)
    made = interpolate.interpolate(
        Run.open(run),
        images,
        steps=steps,
        loop=loop,
        straight=straight,
        label=label,
        device=pick_device(device),
        progress=_progress(),
    )
    made.save(out)
    report = {"out": str(out), "n": len(made.frames), "sphere": made.sphere}
    _print(report, json, lambda r: f"{counted(len(made.frames), 'image')} in {out}, {made.table.title}")


@app.command
def direction(
    run: Path,
    name: Annotated[str | None, Parameter(help="what to call it; without it, those of the run are listed")] = None,
    /,
    *,
    positive: Annotated[str | None, Parameter(help="data of one class")] = None,
    negative: Annotated[str | None, Parameter(help="data of the other")] = None,
    label: Annotated[str | None, Parameter(help="a class of the run's data")] = None,
    against: Annotated[str | None, Parameter(help="with --label: another class; by default all others")] = None,
    attribute: Annotated[str | None, Parameter(help="a column of --attributes, or a factor of the data")] = None,
    attributes: Annotated[Path | None, Parameter(help="a CSV file: the column path, and attributes")] = None,
    data: Annotated[str | None, Parameter(help="with --label or --attribute: other data than the run's")] = None,
    skip_missing: Annotated[bool, _flag("leave out images without a value of the attribute")] = False,
    method: Annotated[
        str, Parameter(help="means: their difference; logistic: a logistic regression's normal")
    ] = "means",
    orthogonal_to: Annotated[str | None, Parameter(help="a,b: directions along which it must not move")] = None,
    device: Device = "auto",
    seed: Whole = 0,
    json: Json = False,
) -> None:
    """Learn a named direction from two classes of images and store it in the run.

    Strength 1 is the distance of the two class means along it. Learnt on the training part of the data; on the
    validation part it is measured how well it separates the classes, and how much else it moves.
    """
    from lowerbound.devices import pick_device
    from lowerbound.editing import contrasts
    from lowerbound.runs.run import Run
    from lowerbound.verbs import direction, tables

    if name is None:
        _print(direction.listed(Run.open(run)), json, tables.plain)
        return
    contrast = contrasts.choose(
        positive=positive,
        negative=negative,
        label=label,
        against=against,
        attribute=attribute,
        attributes=attributes,
        data=data,
        skip_missing=skip_missing,
    )
    others = tuple(orthogonal_to.split(",")) if orthogonal_to else ()
    report = direction.teach(
        Run.open(run),
        name,
        direction.Lesson(contrast, method, others),
        device=pick_device(device),
        progress=_progress(),
    )
    _print(report, json, tables.direction)


@app.command
def edit(
    run: Path,
    images: Annotated[list[Path], Parameter(help="image files")],
    /,
    *,
    out: Moving,
    set: Annotated[
        list[str] | None, Parameter(name="--set", negative="", help="DIM=V: a dimension's new value")
    ] = None,
    direction: Annotated[
        list[str] | None, Parameter(negative="", help="NAME=V: a direction and its strength, 1 if not said")
    ] = None,
    label: Annotated[str | None, Parameter(help="what the image becomes (conditional models)")] = None,
    own_label: Annotated[str | None, Parameter(help="what it is; by default the likeliest by the bound")] = None,
    code: Annotated[str, Parameter(name="--from", help="mean or sample: of q(z|x)")] = "mean",
    strength_grid: Annotated[
        str | None, Parameter(allow_leading_hyphen=True, help="-1,0,1,2: the whole change times each of these")
    ] = None,
    residual: Annotated[bool, _flag("add back what the reconstruction lost")] = False,
    device: Device = "auto",
    seed: Whole = 0,
    json: Json = False,
) -> None:
    """Change images by their codes: encode, change z, decode."""
    from lowerbound import pictures
    from lowerbound.devices import pick_device
    from lowerbound.runs.run import Run
    from lowerbound.verbs import edit

    if code not in ("mean", "sample"):
        raise UserError(f"--from {code}: expected mean or sample")
    change = edit.Edit(
        {_number(d, f"--set {d}={v:g}", int): v for d, v in _assigned(set, "--set")},
        dict(_assigned(direction, "--direction", "1")),
    )
    grid = None if strength_grid is None else _numbers(strength_grid, "--strength-grid", float)
    pictures.check_out(out, moving=True)
    made = edit.edit(
        Run.open(run),
        images,
        change,
        label=label,
        own=own_label,
        draw=seed if code == "sample" else None,
        strengths=grid,
        residual=residual,
        device=pick_device(device),
        progress=_progress(),
    )
    made.save(out)
    n = made.x.shape[0] * made.x.shape[1]
    report = {"out": str(out), "n": n, "residual": residual, "seed": seed if code == "sample" else None}
    _print(report, json, lambda r: f"{counted(n, 'edited image')} in {out}")


def _assigned(words: list[str] | None, option: str, default: str = "") -> list[tuple[str, float]]:
    """KEY=VALUE of an option that may be given several times; KEY alone takes the default, where there is one."""
    pairs = []
    for word in words or ():
        key, equals, value = word.partition("=")
        if not key or not (equals or default):
            raise UserError(f"{option} {word}: expected {'NAME' if default else 'DIM'}=VALUE")
        if key in dict(pairs):
            raise UserError(f"{option} {word}: {key} is given twice")
        pairs.append((key, _number(value if equals else default, f"{option} {word}", float)))
    return pairs


def _numbers(text: str, option: str, kind: Callable[[str], Any]) -> list[Any]:
    return [_number(part, f"{option} {text}", kind) for part in text.split(",")]


def _number(text: str, said: str, kind: Callable[[str], Any]) -> Any:
    try:
        return kind(text)
    except ValueError:
        wanted = "a whole number" if kind is int else "a number"
        raise UserError(f"{said}: expected {wanted}, got {text or 'nothing'}") from None


@app.command
def fit_prior(
    run: Path,
    /,
    *,
    prior: Annotated[str, Parameter(help="gaussian, mixture, flow, or none to take a fitted one out")] = "gaussian",
    components: Annotated[
        int | None, Parameter(converter=_whole, help="of a mixture; by default what held-out codes like best")
    ] = None,
    device: Device = "auto",
    seed: Whole = 0,
    json: Json = False,
) -> None:
    """Fit a density to the codes of a trained encoder, so that it can sample (better)."""
    from lowerbound.devices import pick_device
    from lowerbound.runs.run import Run
    from lowerbound.verbs import fit_prior, tables

    report = fit_prior.fit_prior(
        Run.open(run), prior, components=components, seed=seed, device=pick_device(device), progress=_progress()
    )
    _print(report, json, tables.fitted)


@app.command
def recipes(*, json: Json = False) -> None:
    """The bundled recipes: model, data, time, number reached."""
    from lowerbound.runs import recipes
    from lowerbound.verbs import tables

    rows = []
    for name in recipes.names():
        recipe = recipes.load(name)
        about = recipe.about
        rows.append(
            {
                "name": name,
                "model": about.model,
                "data": recipe.data.source,
                "time": about.time,
                "reached": about.reached,
            }
        )
    _print(rows, json, tables.plain)


@data_app.command(name="list")
def list_data(*, json: Json = False) -> None:
    """The data sets that have a name, and whether their files are there."""
    from lowerbound.data import bundled
    from lowerbound.verbs import tables

    _print([row._asdict() for row in bundled.names()], json, tables.plain)


@data_app.command(name="show")
def show_data(
    data: str,
    /,
    *changes: Annotated[str, Parameter(help="KEY=VALUE of the data, such as size=64 gray=true")],
    out: Annotated[Path | None, Parameter(help="write a contact sheet to this .png")] = None,
    json: Json = False,
) -> None:
    """A summary and a contact sheet of a data set."""
    import numpy as np

    from lowerbound import pictures
    from lowerbound.config import override
    from lowerbound.data.base import Data, summary
    from lowerbound.verbs import tables

    if out is not None and out.suffix.lower() != ".png":
        raise UserError(f"--out {out}: expected a file ending in .png")
    config = override(Data(source=data), [c.removeprefix("data.") for c in changes])
    report = summary(config, progress=_progress().count("decoding"))
    images = config.open("train")
    if out is not None:
        shown = np.linspace(0, len(images) - 1, min(64, len(images))).astype(int)
        labels = None if images.y is None or images.classes is None else [images.classes[images.y[i]] for i in shown]
        pictures.save_png(pictures.contact_sheet(images.x[shown], images.levels, labels), out)
    _print(report | ({"out": str(out)} if out else {}), json, tables.plain)


def main() -> None:
    """The command `lowerbound`: exit status 0, 2 for a user's mistake, 1 for an internal error, 130 for Ctrl-C."""
    words = [w for w in sys.argv[1:] if w != "--debug"]
    debug = len(words) < len(sys.argv) - 1
    try:
        app(words, exit_on_error=False, print_error=False)
    except (UserError, CycloptsError) as e:
        _fail(_plain(e), 2, debug)
    except KeyboardInterrupt:
        _fail("stopped", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except Exception as e:
        _fail(f"internal error: {type(e).__name__}: {_plain(e)} (--debug shows where)", 1, debug)


def _plain(error: Exception) -> str:
    return " ".join(str(error).split())


def _fail(message: str, status: int, debug: bool = False) -> None:
    if debug:
        traceback.print_exc()
    clear = "\r\033[K" if sys.stderr.isatty() else ""  # of a bar that was not finished
    sys.stderr.write(f"{clear}lowerbound: {message}\n")
    raise SystemExit(status)


def _progress() -> "Progress":
    from lowerbound.progress import Terminal

    return Terminal()


def _print(report: Any, as_json: bool, shown: Callable[[Any], Any]) -> None:
    """The report on standard output: JSON, or what `shown` makes of it for a person."""
    if as_json:
        sys.stdout.write(json.dumps(report, indent=1, allow_nan=False) + "\n")
        return
    from rich.console import Console

    console = Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, width=160)
    text = shown(report)
    console.print(text, soft_wrap=isinstance(text, str))  # a sentence is one line, however long

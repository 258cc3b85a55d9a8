"""Training: a recipe into a run folder, stage by stage; what a run may go on with."""

import json
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from lowerbound import fitting, recipes
from lowerbound.config import dump
from lowerbound.data.batches import Batches
from lowerbound.data.prepared import prepared
from lowerbound.errors import ConfigError, RunError, counted, did_you_mean
from lowerbound.loop import Interrupted, Loop, cut, summary_writer
from lowerbound.models.base import Model, Stage
from lowerbound.models.vqvae import VQVAE, level_names
from lowerbound.noise import seeded
from lowerbound.precision import check_precision
from lowerbound.progress import Progress
from lowerbound.recipes import Recipe, Training
from lowerbound.run import Facts, Run, clear, occupied, weights_code


def train(
    recipe: str | Path,
    *,
    data: str | Path | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    stage: str | None = None,
    changes: list[str] | Mapping[str, Any] = (),  # pyright: ignore[reportArgumentType]
    seed: int | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> Run:
    """Train a recipe into a run folder: every stage, then pictures and a short evaluation.

    `changes`: dotted KEY=VALUE lines or nested tables. Raises UserError; Interrupted after saving on Ctrl-C.
    """
    progress = progress or Progress()
    where = pick_device(device)
    if resume and overwrite:
        raise ConfigError("--resume and --overwrite: expected one of them")
    more: dict[str, Any] = {} if data is None else {"data": {"source": str(data)}}
    more |= {} if seed is None else {"seed": seed}
    config = _changed(recipes.load(recipe, changes), more)
    path = Path(out) if out is not None else Path("runs") / Path(recipe).stem
    again = stage if overwrite and stage is not None and occupied(path) else None  # the stage that starts over
    old = Run.open(path) if (resume or again) and occupied(path) else None
    if old is None and not overwrite and occupied(path):
        raise RunError(f"{path} already holds something; --resume goes on with it, --overwrite starts over")
    if old is not None:
        was = fitting.unfitted(old.recipe)
        config = _continued(was, config, _changed(recipes.override(was, changes), more), progress, again)
        if again is None and config.train == was.train and fitting.is_fitted(old.recipe) and old.is_finished():
            progress.say(f"{path} is finished; nothing to resume")
            return old
        if fitting.is_fitted(old.recipe):
            fitting.remove_prior(old)
            progress.say(f"the prior fitted to {path} so far is removed; fit one to the end with `fit-prior {path}`")
    elif resume:
        progress.say(f"{path}: nothing to resume, starting from the beginning")
    if fitting.is_fitted(config):
        raise ConfigError("model.fitted_prior: is fitted after training, by `lowerbound fit-prior RUN`; leave it null")
    if config.train.tensorboard:
        summary_writer()
    images, valid = config.data.open("train", progress=progress.count("decoding")), config.data.open("valid")
    if images.unreadable:
        progress.say(_unreadable(images))
    facts = Facts.of(images, config)
    if old is not None:
        _check_same_data(old, facts)
    with seeded(config.seed, "weights", device=where):
        model = config.model.build(facts.space, facts.given(config)).to(where)  # a mistake in it leaves no folder
        stages = _chosen(model.stages(), stage)
        _check_tables(config.train, model.stages())
        for part in stages:
            config.train.of(part.name).total_steps(len(images))
            check_precision(config.train.of(part.name).precision, where)
        _check_trained_before(old, model.stages(), stages, recipe, path)
        if overwrite and again is None:
            clear(path)
        run = old or Run.create(path, Path(recipe).stem, config, facts)
        if again is not None:
            _forget(run, stages[0])
        if run.recipe != config:
            run.recipe = config
            run.save_config()
        options = {"binarize": facts.binarizes, "label": config.data.label}
        batches = Batches(images, where, **options, flip=config.data.flip), Batches(valid, where, **options)
        if old is not None:
            _begin_again(run, progress)
        for part in model.stages():
            part.learned(False)
        if stages[0].prepare is not None:
            run.load_weights(model)
        with _interruptible() as stop:
            done = [_run_stage(run, model, part, batches, progress, stop) for part in stages]
    if not any(done):
        progress.say(f"{path} is finished; nothing to resume")
    return run


def _changed(config: Recipe, more: dict[str, Any]) -> Recipe:
    """The configuration with these changes, and data that are found from any working directory."""
    config = recipes.override(config, more)
    there = Path(config.data.source).expanduser().exists()
    return config.model_copy(update={"data": config.data.absolute()}) if there else config


def _chosen(stages: tuple[Stage, ...], name: str | None) -> list[Stage]:
    names = [s.name for s in stages]
    if name is not None and name not in names:
        raise ConfigError(f"--stage {name}: no such stage{did_you_mean(name, names)}")
    return [s for s in stages if name in (None, s.name)]


def _check_tables(config: Training, stages: tuple[Stage, ...]) -> None:
    """Raise ConfigError for settings of a stage that the model does not have, where it has several."""
    names = [s.name for s in stages]
    for table in config.tables() if len(stages) > 1 else ():
        if not any(f"{name}.".startswith(f"{table}.") for name in names):
            raise ConfigError(f"train.stages.{table}: no such stage{did_you_mean(table, names)}")


def _check_trained_before(
    old: Run | None, all_stages: tuple[Stage, ...], chosen: list[Stage], recipe: str | Path, path: Path
) -> None:
    """Raise RunError where a stage is to be trained on what another gives that is not trained itself."""
    first = all_stages[0].name
    if chosen[0].name != first and not (old and old.states().get(first, {}).get("finished")):
        raise RunError(
            f"--stage {chosen[0].name}: is trained on what the stage {first} gives, which {path} has not finished; "
            f"train it with `lowerbound train {recipe} --out {path} --stage {first}{' --resume' if old else ''}`"
        )


def _forget(run: Run, stage: Stage) -> None:
    """Let a stage begin anew. What was trained in it goes first, since its model may be another one now."""
    run.forget_state(stage.name)
    cut(run.log_path, stage.name, -1)
    if stage.prepare is not None:
        run.forget_prior()
        model = run.load()
        for part in model.stages():
            if part.name == stage.name:
                part.learned(False)
        run.save_model(model)


def _run_stage(
    run: Run,
    model: Model,
    stage: Stage,
    batches: tuple[Batches, Batches],
    progress: Progress,
    stop: threading.Event,
) -> bool:
    """A stage to its end, on the images or what they are turned into for it; whether anything was left to do."""
    if len(model.stages()) > 1:
        progress.say(f"stage {stage.name}")
    if stage.prepare is None:
        return Loop(run, model, stage, batches, progress, stop).run_through()
    made_by, told = weights_code(model, prior=False), progress.count("encoding")

    def advance(done: int, total: int) -> None:
        told(done, total)
        if stop.is_set():
            raise Interrupted(str(run.path))

    model.eval()
    train, valid = (
        prepared(run.prepared(split), images, stage.prepare, made_by, advance)
        for split, images in zip(("train", "valid"), batches, strict=True)
    )
    return Loop(run, model, stage, (train, valid), progress, stop, made_by=made_by).run_through()


def _begin_again(run: Run, progress: Progress) -> None:
    """Clear away what a kill has left: files half written, and a log without a state."""
    run.tidy()
    if not run.has_state():
        progress.say(f"{run.path} was stopped before its first saved state; starting over from the beginning")
        run.log_path.unlink(missing_ok=True)


def _check_same_data(run: Run, now: Facts) -> None:
    old, new = dump(run.facts), dump(now)
    changed = [f"{k} was {old[k]}, is {new[k]}" for k in old if old[k] != new[k]]
    if changed:
        raise RunError(f"{run.path} was trained on other data: {'; '.join(changed)}")


def _unreadable(images: Any) -> str:
    shown = "; ".join(f"{path}: {reason}" for path, reason in images.unreadable[:5])
    return f"{counted(len(images.unreadable), 'file')} can't be read, left out: {shown}"


# what a run is; how it goes on (its length, its rate, what it saves) may change
_FIXED = ("model.", "data.", "seed")
_FIXED_IN_TRAINING = ("batch", "averaging", "skip", "optimizer.type")  # of all stages, or of one


def _continued(old: Recipe, asked: Recipe, changed: Recipe, progress: Progress, again: str | None = None) -> Recipe:
    """A run's own configuration with the changes that were asked for, not all of the recipe's anew.

    again: a stage that starts over, so that its own model and training may be others.

    Raises ConfigError where another thing would be trained.
    """
    a, b, c = _flat(dump(old)), _flat(dump(asked)), _flat(dump(changed))
    keys = sorted(a.keys() | b.keys() | c.keys())
    refused = [k for k in keys if _differ(a, b, k) and _is_fixed(k) and not k.startswith(_own(old, again))]
    if refused:
        shown = "; ".join(f"{k} was {json.dumps(a.get(k))}, now {json.dumps(b.get(k))}" for k in refused[:_SHOWN])
        shown += f"; and {len(refused) - _SHOWN} more" if len(refused) > _SHOWN else ""
        raise ConfigError(f"{shown}: not the run's options; resume with the ones it was begun with, or --overwrite it")
    news = [f"{k} was {json.dumps(a.get(k))}, is {json.dumps(c.get(k))}" for k in keys if a.get(k) != c.get(k)]
    kept = [f"{k}={json.dumps(c.get(k))}" for k in keys if c.get(k) != b.get(k) and not k.startswith("about.")]
    if news:
        progress.say(f"resuming with other options: {'; '.join(news)}")
    if kept:
        progress.say(f"as the run was begun: {' '.join(kept)}")
    return changed


_SHOWN = 8  # of the options that are refused


def _differ(a: dict[str, Any], b: dict[str, Any], key: str) -> bool:
    """Whether a value is another; in the table of a stage, none at all is not null."""
    return a.get(key) != b.get(key) or (key.startswith("train.stages.") and (key in a) != (key in b))


def _is_fixed(key: str) -> bool:
    """Whether a run goes on only if this is the same."""
    if not key.startswith("train."):
        return key.startswith(_FIXED)
    parts = key.split(".")
    while parts and (parts[0] in ("train", "stages") or parts[0] not in Training.model_fields):
        parts = parts[1:]  # train.stages.prior.top.batch -> batch
    return ".".join(parts).startswith(_FIXED_IN_TRAINING)


def _own(recipe: Recipe, stage: str | None) -> tuple[str, ...]:
    """The beginnings of the keys that are of a stage alone: train.stages.prior.top., model.priors.0."""
    if stage is None:
        return ()
    levels = recipe.model.levels if isinstance(recipe.model, VQVAE.Config) else ()
    priors = [f"prior.{name}" for name in level_names(len(levels))] if levels else []
    return f"train.stages.{stage}.", *(f"model.priors.{l}." for l, name in enumerate(priors) if name == stage)


def _flat(table: dict[str, Any], path: str = "") -> dict[str, Any]:
    """Every value by its whole key; the items of a list of tables go by number."""
    flat: dict[str, Any] = {}
    for k, v in table.items():
        if isinstance(v, list) and v and all(isinstance(item, dict) for item in v):
            v = {str(i): item for i, item in enumerate(v)}
        flat |= _flat(v, f"{path}{k}.") if isinstance(v, dict) else {path + k: v}
    return flat


def pick_device(name: str) -> torch.device:
    """auto, cpu, cuda or cuda:N as a device that is there. Raises ConfigError."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdigit()):
        raise ConfigError(f"--device {name}: expected auto, cpu, cuda or cuda:N")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise ConfigError(f"--device {name}: there are {torch.cuda.device_count()} CUDA devices here; use --device cpu")
    return torch.device(name)


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """Inside, the first Ctrl-C (or SIGTERM) asks the loop to stop after its step; the second is the usual one."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    old = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, frame: Any) -> None:
        stop.set()
        signal.signal(number, old[signal.Signals(number)])

    for s in old:
        signal.signal(s, ask)
    try:
        yield stop
    finally:
        for s, handler in old.items():
            signal.signal(s, handler)

"""Training: a recipe into a run folder, stage by stage."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from lowerbound.config import Changes, dump
from lowerbound.data.batches import Batches
from lowerbound.devices import check_precision, pick_device
from lowerbound.errors import ConfigError, RunError, did_you_mean
from lowerbound.model import Model
from lowerbound.noise import seeded
from lowerbound.progress import Progress
from lowerbound.runs import fitted, recipes
from lowerbound.runs.facts import Facts
from lowerbound.runs.recipes import Training
from lowerbound.runs.run import Run, clear, occupied, weights_code
from lowerbound.stages import Stage
from lowerbound.training.loop import Interrupted, Loop, summary_writer
from lowerbound.training.prepared import prepared
from lowerbound.training.resuming import _changed, _continued


def train(
    recipe: str | Path,
    *,
    data: str | Path | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    stage: str | None = None,
    changes: Changes = (),
    seed: int | None = None,
    device: str | torch.device = "auto",
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
        was = fitted.unfitted(old.recipe)
        config = _continued(was, config, _changed(recipes.override(was, changes), more), progress, again)
        if again is None and config.train == was.train and fitted.is_fitted(old.recipe) and old.is_finished():
            progress.say(f"{path} is finished; nothing to resume")
            return old
        if fitted.is_fitted(old.recipe):
            fitted.remove_prior(old)
            progress.say(f"the prior fitted to {path} so far is removed; fit one to the end with `fit-prior {path}`")
    elif resume:
        progress.say(f"{path}: nothing to resume, starting from the beginning")
    if fitted.is_fitted(config):
        raise ConfigError("model.fitted_prior: is fitted after training, by `lowerbound fit-prior RUN`; leave it null")
    if config.train.tensorboard:
        summary_writer()
    images, valid = config.data.open("train", progress=progress.count("decoding")), config.data.open("valid")
    for line in images.remarks():
        progress.say(line)
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
    run.log.cut(stage.name, -1)
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
        run.log.clear()


def _check_same_data(run: Run, now: Facts) -> None:
    old, new = dump(run.facts), dump(now)
    changed = [f"{k} was {old[k]}, is {new[k]}" for k in old if old[k] != new[k]]
    if changed:
        raise RunError(f"{run.path} was trained on other data: {'; '.join(changed)}")


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

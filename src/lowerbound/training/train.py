"""Training: a recipe into a run folder, stage by stage."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from lowerbound.config import Changes, dump
from lowerbound.data.base import is_there
from lowerbound.data.batches import Batches
from lowerbound.data.bundled import bundled
from lowerbound.data.given import values_of
from lowerbound.data.shards.packed import is_packed
from lowerbound.devices import check_precision, out_of_memory, pick_device
from lowerbound.errors import ConfigError, Interrupted, RunError, TrainingError, UserError, counted, did_you_mean
from lowerbound.model import Model
from lowerbound.noise import seeded
from lowerbound.parallel import ALONE, World, together
from lowerbound.progress import Progress
from lowerbound.runs import fitted, recipes
from lowerbound.runs.facts import Facts
from lowerbound.runs.inputs import Held, as_batches
from lowerbound.runs.lock import held_by_first
from lowerbound.runs.recipes import Recipe, Training
from lowerbound.runs.run import Run, clear, code_of, occupied, weights_code
from lowerbound.space import Density
from lowerbound.stages import Size, Stage
from lowerbound.training.lines import summary_writer
from lowerbound.training.loop import Loop, Pictures, load_weights
from lowerbound.training.movers import is_sharded
from lowerbound.training.prepared import prepared
from lowerbound.training.resuming import changed, continued

Show = Callable[[Run, Batches], Pictures]  # of a run and its validation images: what shows pictures while it is trained


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
    pictures: Show | None = None,
    progress: Progress | None = None,
    world: World = ALONE,
) -> Held:
    """Train a recipe into a run folder: every stage. Gives back what it holds: the run, its model, its images.

    `changes`: dotted KEY=VALUE lines or nested tables. `world`: the processes that do so together, of which the first
    alone writes into the run, and speaks. Raises UserError; Interrupted after saving on Ctrl-C.
    """
    progress = (progress if world.first else None) or Progress()
    where = pick_device(device)
    if resume and overwrite:
        raise ConfigError("--resume and --overwrite: expected one of them")
    path = Path(out) if out is not None else Path("runs") / Path(recipe).stem
    more: dict[str, Any] = {} if data is None else {"data": {"source": str(data)}}
    more |= {} if seed is None else {"seed": seed}
    asked = _Asked(recipe, path, resume, overwrite, stage, changes, more, progress, world)
    old: Run | None = world.told(asked.former() if world.first else None)
    config = asked.config(old)
    if old is not None and asked.again is None and config.train == old.recipe.train and asked.is_done(old):
        return Held.of(old, where, progress)
    if old is None:
        _check_place(path, config.data.source)
    work = _Work.of(asked, config, old, where)
    world.patience = config.train.wait_seconds
    world.meet()
    with held_by_first(world, path, progress), _interruptible() as stop, _noted(run := work.begin(), world):
        valid = as_batches(run, work.batches[1].images, where)  # with the labels that training did not see
        shown = pictures(run, valid) if pictures is not None and world.first else None
        done = [False] * len(work.stages)
        for i, part in enumerate(work.stages):
            with _memory_for(part, work, where):
                done[i] = _run_stage(run, work.model, part, work.batches, shown, progress, stop, world)
            if is_sharded(part, config.train.of(part.name), world):
                work = work.anew(run, where)
    if not any(done):
        progress.say(f"{path} is finished; nothing to resume")
    work.model.zero_grad()  # gradients would only take memory
    return Held(run, work.model.eval(), valid)


@dataclass(frozen=True)
class _Asked:
    """What the user wants."""

    recipe: str | Path
    path: Path
    resume: bool
    overwrite: bool
    stage: str | None
    changes: Changes
    more: dict[str, Any]  # changes that are options of their own: the data, the seed
    progress: Progress
    world: World

    @property
    def again(self) -> str | None:
        """The stage that starts over in a run that stays."""
        return self.stage if self.overwrite and occupied(self.path) else None

    def former(self) -> Run | None:
        """The run to go on with. Raises RunError for a folder that is in the way."""
        if occupied(self.path) and (self.resume or self.again):
            return Run.open(self.path)
        if occupied(self.path) and not self.overwrite:
            if self.stage is not None and (self.path / "config.json").is_file():
                _chosen(Run.open(self.path).build().stages(), self.stage)
            raise RunError(f"{self.path} already holds something; --resume goes on with it, --overwrite starts over")
        if self.resume:
            self.progress.say(f"{self.path}: nothing to resume, starting from the beginning")
        return None

    def config(self, old: Run | None) -> Recipe:
        """The whole configuration: a run's own goes on with the changes. Raises ConfigError."""
        config = changed(recipes.load(self.recipe, self.changes), self.more)
        if old is not None:
            was, more = fitted.unfitted(old.recipe), self.more
            if not is_there(was.data.source):  # they were moved
                more = {"data": {"source": config.data.source}} | more
            own = changed(recipes.override(was, self.changes), more)
            config = continued(was, config, own, self.progress, self.again)
        if fitted.is_fitted(config):
            raise ConfigError(
                "model.fitted_prior: is fitted after training, by `lowerbound fit-prior RUN`; leave it null"
            )
        if config.train.tensorboard:
            summary_writer()
        return config

    def is_done(self, old: Run) -> bool:
        """Whether a run has its prior fitted, which is the end; says so."""
        done = fitted.is_fitted(old.recipe) and old.is_finished()
        if done:
            self.progress.say(f"{self.path} is finished; nothing to resume")
        return done


@dataclass(frozen=True)
class _Work:
    """What is trained, on what, and how: all checked before anything is written."""

    asked: _Asked
    config: Recipe
    old: Run | None
    facts: Facts
    batches: tuple[Batches, Batches]
    model: Model
    stages: list[Stage]  # that are to be trained

    @staticmethod
    def of(asked: _Asked, config: Recipe, old: Run | None, device: torch.device) -> "_Work":
        """Raises UserError for whatever can't be trained; nothing is written."""
        told = asked.progress.count("decoding")
        data = config.data.whole(told)
        images, valid = data.of("train"), data.of("valid")
        for line in images.remarks():
            asked.progress.say(line)
        facts = Facts.of(images, config)
        if old is not None:
            _check_same_data(old, facts, asked)
        with seeded(config.seed, "weights"):
            model = config.model.build(facts.space, facts.given(config)).to(device)
        for line in model.remarks:
            asked.progress.say(line)
        stages = _to_train(model, facts, asked)
        _check_settings(config.train, model.stages(), stages, len(images), len(valid), device)
        _check_world(config.train, stages, asked)
        _check_trained_before(old, model.stages(), stages, asked)
        options: dict[str, Any] = facts.conditions(config) | {"binarize": facts.binarizes}
        batches = (
            Batches(images, device, **options, flip=config.data.flip, labelled=facts.labelled),
            Batches(valid, device, **options, labelled=None if facts.labelled is None else ()),
        )
        return _Work(asked, config, old, facts, batches, model, stages)

    def anew(self, run: Run, device: torch.device) -> "_Work":
        """With a model whose weights are those of the run, after a stage whose weights processes shared out."""
        model = run.build().to(device)
        load_weights(self.asked.world, run, model)
        return replace(self, model=model, stages=_to_train(model, self.facts, self.asked))

    def begin(self) -> Run:
        """The run, as it is before its first step, or its next."""
        asked, old = self.asked, self.old
        if not asked.world.first:  # which writes nothing, and is told what is in the run
            run = old or Run(asked.path, Path(asked.recipe).stem, self.config, self.facts)
            run.recipe, run.facts = self.config, self.facts
            return self._taken_up(run)
        if old is not None and fitted.is_fitted(old.recipe):
            fitted.remove_prior(old)
            asked.progress.say(
                f"the prior fitted to {asked.path} so far is removed; fit one to the end with `fit-prior {asked.path}`"
            )
        if asked.overwrite and asked.again is None:
            clear(asked.path)
        run = old or Run.create(asked.path, Path(asked.recipe).stem, self.config, self.facts)
        if old is None and self.facts.factors:
            run.save_given(values_of(self.batches[0].images, self.facts.factors))
        if asked.again is not None:
            _forget(run, self.stages[0])
        if (run.recipe, run.facts) != (self.config, self.facts):
            run.recipe, run.facts = self.config, self.facts
            run.save_config()
        if old is not None:
            _begin_again(run, asked.progress)
        return self._taken_up(run)

    def _taken_up(self, run: Run) -> Run:
        """With what was trained before the first stage."""
        for part in self.model.stages():
            part.learned(False)
        if self.stages[0].name != self.model.stages()[0].name:  # which goes on with the weights of those before it
            load_weights(self.asked.world, run, self.model)
        return run


def _check_place(path: Path, source: str) -> None:
    """Raise RunError for a run among the images that it is trained on: its pictures would be some of them."""
    folder = Path(source).expanduser()
    packed = source in bundled() or is_packed(source)  # what else lies there is no image of theirs
    if not packed and folder.is_dir() and path.resolve().is_relative_to(folder.resolve()):
        raise RunError(
            f"--out {path}: lies in {source}, and the run's pictures would be among its images; name a folder outside "
            "of it"
        )


def _to_train(model: Model, facts: Facts, asked: _Asked) -> list[Stage]:
    stages = _chosen(model.stages(), asked.stage)
    if facts.labelled is not None and model.density is Density.NONE:  # no label of the validation images is looked at
        return [stage._replace(score=None) for stage in stages]
    return stages


def _chosen(stages: tuple[Stage, ...], name: str | None) -> list[Stage]:
    names = [s.name for s in stages]
    if name is not None and name not in names:
        raise ConfigError(f"--stage {name}: no such stage{did_you_mean(name, names)}")
    return [s for s in stages if name in (None, s.name)]


def _check_settings(
    config: Training, stages: tuple[Stage, ...], chosen: list[Stage], images: int, valid: int, device: torch.device
) -> None:
    """Raise ConfigError for settings that mean nothing here: of a stage that the model does not have, where it has
    several; a training without an end, or too small for its stage; a precision that is not of this device; patience
    where nothing is scored."""
    names = [s.name for s in stages]
    for table in config.tables() if len(stages) > 1 else ():
        if not any(f"{name}.".startswith(f"{table}.") for name in names):
            raise ConfigError(f"train.stages.{table}: no such stage{did_you_mean(table, names)}")
    for stage in chosen:
        own = config.of(stage.name)
        stage.sized(Size(images, own.batch, own.total_steps(images, stage.batches)))
        check_precision(own.precision, device)
        compared = min(valid, own.valid_images)
        if stage.score is not None and stage.score.samples is not None and compared < 2:
            raise ConfigError(
                f"{counted(compared, 'validation image')}: samples are compared with at least 2, and with hundreds to "
                "say anything; give it more images, or a larger train.valid_images"
            )
        if stage.score is None and own.patience is not None:
            raise ConfigError(f"train.patience={own.patience}: nothing scores the stage {stage.name}; leave it null")


def _check_world(config: Training, stages: list[Stage], asked: _Asked) -> None:
    """Raise ConfigError where there are more processes than images in a batch, and for what weights can't be that
    processes share out."""
    world, shared = asked.world, [stage for stage in stages if config.of(stage.name).shard]
    if shared and world.size == 1:
        asked.progress.say("train.shard=true: is of several processes (--processes N); this one has all of the weights")
    if any(config.of(stage.name).compile for stage in shared) and world.size > 1:
        raise ConfigError(
            "train.compile=true: compiled networks have all of their weights, which train.shard=true shares out; leave "
            "one of them"
        )
    for stage in stages:
        batch = config.of(stage.name).batch
        if batch < world.size:
            raise ConfigError(
                f"train.batch={batch}: is the whole batch, which {world.size} processes share; expected at least "
                f"{world.size}{'' if len(stages) == 1 else f' in the stage {stage.name}'}, or start fewer"
            )


def _check_trained_before(old: Run | None, all_stages: tuple[Stage, ...], chosen: list[Stage], asked: _Asked) -> None:
    """Raise RunError where a stage is to be trained on what another gives that is not trained itself."""
    first = all_stages[0].name
    if chosen[0].name != first and not (old and old.states().get(first, {}).get("finished")):
        again = f"lowerbound train {asked.recipe} --out {asked.path} --stage {first}{' --resume' if old else ''}"
        raise RunError(
            f"--stage {chosen[0].name}: is trained on what the stage {first} gives, which {asked.path} has not "
            f"finished; train it with `{again}`"
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


def _taken(model: Model, stage: Stage) -> str:
    """What tells the weights of earlier stages that a stage takes as they are from others; "" where there are none."""
    if stage.name == model.stages()[0].name:
        return ""
    moved = {p for turn in stage.turns for part in turn.parts for p in part.parameters()}
    rest = {name: p for name, p in model.named_parameters() if p not in moved}
    return code_of(rest) if rest else ""


def _run_stage(
    run: Run,
    model: Model,
    stage: Stage,
    batches: tuple[Batches, Batches],
    pictures: Pictures | None,
    progress: Progress,
    stop: threading.Event,
    world: World,
) -> bool:
    """A stage to its end, on the images or what they are turned into for it; whether anything was left to do."""
    if len(model.stages()) > 1:
        progress.say(f"stage {stage.name}")
    if stage.prepare is None:
        taken = _taken(model, stage)
        more: Any = {"pictures": pictures, "made_by": taken, "world": world}
        return Loop(run, model, stage, batches, progress, stop, **more).run_through()
    made_by, told = weights_code(model, prior=False), progress.count("encoding")

    def advance(done: int, total: int) -> None:
        told(done, total)
        if world.sum_(torch.tensor([float(stop.is_set())])):
            raise Interrupted(str(run.path))

    model.eval()
    with together(world):
        train, valid = (
            prepared(run.prepared(split), images, stage.prepare, made_by, advance)
            for split, images in zip(("train", "valid"), batches, strict=True)
        )
    loop = Loop(run, model, stage, (train, valid), progress, stop, pictures=pictures, made_by=made_by, world=world)
    return loop.run_through()


@contextmanager
def _memory_for(stage: Stage, work: _Work, device: torch.device) -> Iterator[None]:
    """Raise TrainingError where a batch is too large for the device."""
    try:
        yield
    except (RuntimeError, MemoryError) as e:
        if not out_of_memory(e):
            raise
        batch = work.config.train.of(stage.name).batch
        key = "train.batch" if len(work.model.stages()) == 1 else f"train.stages.{stage.name}.batch"
        fewer = f"begin anew with half as many, {key}={batch // 2} --overwrite; --dry-run tells what they take"
        raise TrainingError(
            f"the memory of {device} is not enough for {counted(batch, 'image')} at a time; "
            f"{fewer if batch > 1 else 'make the model or the images smaller'}"
        ) from e


def _begin_again(run: Run, progress: Progress) -> None:
    """Clear away what a kill has left: files half written, and a log without a state."""
    run.tidy()
    if not run.has_state():
        progress.say(f"{run.path} was stopped before its first saved state; starting over from the beginning")
        run.log.clear()


def _check_same_data(run: Run, now: Facts, asked: _Asked) -> None:
    """Raise RunError where a run would go on with other images, or others' labels.

    A later stage that starts over may be trained on changed data: what it is trained on is made of them anew.
    """
    if run.facts.fingerprint is not None and run.facts.fingerprint == now.fingerprint:
        return
    old, new = dump(run.facts), dump(now)
    mended = asked.again is not None and asked.again != run.build().stages()[0].name
    free = {"fingerprint", *(("name", "counts", "images") if mended else ())}
    differ = [f"{k} was {old[k]}, is {new[k]}" for k in old if k not in free and old[k] != new[k]]
    if not differ and run.facts.fingerprint is not None and not mended:
        differ = ["the pixels, the order, the names or the labels of its images have changed"]
    if differ:
        raise RunError(f"{run.path} was trained on other data: {'; '.join(differ)}")
    if mended:
        asked.progress.say(f"the data of {run.path} have changed; {asked.again} is trained on them as they are now")


@contextmanager
def _noted(run: Run, world: World) -> Iterator[None]:
    """Inside, what a training ends by is kept in its run, for whoever looks at it later."""
    if world.first:
        run.failure = None
    try:
        yield
    except Exception as e:
        if not world.first:
            raise
        with suppress(UserError, OSError):  # the disk may be full
            run.failure = str(e) if isinstance(e, UserError) else f"internal error: {type(e).__name__}: {e}"
        raise


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """Inside, the first Ctrl-C (or SIGTERM, or a terminal that closes) asks the loop to stop after its step; the second
    is the usual one."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    asking = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]  # not on Windows
    old = {s: handler for s in asking if (handler := signal.getsignal(s)) is not signal.SIG_IGN or s == signal.SIGINT}

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

"""The loop that trains one stage: it can be killed at any moment and resumed exactly."""

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from lowerbound.data.batches import Batches
from lowerbound.devices import fuse, reduced
from lowerbound.errors import Interrupted, RunError, TrainingError
from lowerbound.model import Model
from lowerbound.noise import key, reseed, seeded
from lowerbound.parallel import ALONE, World, sharing
from lowerbound.processes import keep_freed
from lowerbound.progress import Progress, Report
from lowerbound.runs.recipes import Training
from lowerbound.runs.run import Run
from lowerbound.runs.states import Loaded
from lowerbound.stages import Pair, Size, Stage
from lowerbound.training.finite import first_not_finite
from lowerbound.training.lines import Lines
from lowerbound.training.movers import Moved, Movers
from lowerbound.training.prepared import Prepared
from lowerbound.training.state import Place, State, machine
from lowerbound.training.validation import Validation
from lowerbound.training.window import Window
from lowerbound.units import bits_per_dim

LOOKED = 10  # steps, after which several processes look at what the device found
Pictures = Callable[[Model, Stage], None]  # shown what a model draws in the middle of a stage


class Loop:
    """The training of one stage. Everything random is a function of (seed, stage, step)."""

    def __init__(
        self,
        run: Run,
        model: Model,
        stage: Stage,
        images: tuple[Batches, Batches] | tuple[Prepared, Prepared],
        progress: Progress,
        stop: threading.Event,
        *,
        pictures: Pictures | None = None,  # called after every validation, in eval mode
        made_by: str = "",  # the code of the weights that turned images into what is trained on
        world: World = ALONE,
    ):
        self.world = world
        self.run, self.model, self.stage, self.progress, self.stop = run, model, stage, progress, stop
        self.pictures, self.made_by = pictures, made_by
        self.trained: Model = stage.model or model  # pyright: ignore[reportAttributeAccessIssue]  # what is measured
        self.images = images[0]
        self.data = [part.fingerprint for part in images]  # what tells these images from others
        self.config: Training = run.recipe.train.of(stage.name)
        self.seed = key(run.recipe.seed, stage.name)
        self.device = self.images.device
        self.steps = 1 if stage.fit else self.config.total_steps(len(self.images), stage.batches)
        stage.sized(Size(len(self.images), self.config.batch, self.steps))
        self.valid_every = self.config.valid_every or max(1, math.ceil(self.steps / 20))
        self.names = list(model.state_dict())
        self.movers = Movers(self.trained, stage, self.config, self.steps, self.device, progress.say, world)
        self.window, self.at, self.saved_step = Window(), Place(), 0
        self.state = State(self.trained, self.movers, self.window, self.at, self.device)
        self.validation = Validation(self.trained, stage, images, self.config, self.steps, self.seed, world)
        self.told: Report = lambda step, terms: None
        self.lines = Lines(run, stage.name, self.config.tensorboard)

    @property
    def step(self) -> int:
        """How many steps are done."""
        return self.at.step

    # ---- the loop

    def run_through(self) -> bool:
        """From the saved state, or the beginning, to the end; whether anything was left to do.

        The model has the stage's kept weights afterwards, for the stages that follow: the best, or the last. One whose
        weights were shared out (`is_sharded`) is of no more use: the run has them, for a model that is built anew.
        """
        self._restore()
        if self.at.finished:
            self._load_weights()
            return False
        self.model.eval()
        self.trained.train()
        try:
            with seeded(self.seed, "train", quick=True):
                self._train()
        finally:
            self.lines.close()
            fuse(self.trained, None)
        self._load_weights()
        return True

    def _load_weights(self) -> None:
        if self.movers.sharded is None:
            load_weights(self.world, self.run, self.model)

    def _train(self) -> None:
        keep_freed()
        saved = time.monotonic()
        with self.progress.bar(self.steps, self.step) as bar:
            self.told = bar
            while not self._is_over():
                started = time.monotonic()
                if self.world.size > 1:
                    self.movers.wishes.ask(self.stop.is_set(), started - saved > self.config.save_seconds)
                moved = self._step()
                self.at.step += 1
                self.window.add(_logged(self.stage, moved))
                looked = self._look(moved)
                self.at.seconds += time.monotonic() - started
                bar(self.step, self._log() if self._is_logged() else {})
                if self.step % self.valid_every == 0 or self.step == self.steps:
                    self._validate()
                stop, save = self._wished(looked, saved)
                if stop:
                    self._save()
                    raise Interrupted(str(self.run.path))
                if save:
                    self._save()
                    saved = time.monotonic()
        self.at.finished = True
        self._save()

    def _wished(self, looked: bool, saved: float) -> tuple[bool, bool]:
        """Whether to stop, and to save: of several processes, where any asked for it before the step."""
        if self.stage.fit:
            return bool(self.world.sum_(torch.tensor([float(self.stop.is_set())]))), False
        if self.world.size == 1:
            return self.stop.is_set(), looked and time.monotonic() - saved > self.config.save_seconds
        return self.movers.wishes.answer() if looked else (False, False)

    def _is_over(self) -> bool:
        return self.step >= self.steps or self._out_of_patience()

    def _out_of_patience(self) -> bool:
        return self.config.patience is not None and self.at.since_best >= self.config.patience

    def _step(self) -> list[Moved]:
        """One step of every turn of the stage; of what has a closed form, all there is."""
        if self.stage.fit:
            return self._fit()
        with sharing(self.world, self.config.batch):
            return self.movers.step(self._batches(self.step), self.step)

    def _batches(self, step: int) -> list[Pair]:
        """What a step is given; its other noise is a function of the step from here on."""
        reseed(key(self.seed, "step", step))
        n = self.stage.batches
        return [self.images.training(step * n + i, self.config.batch, self.seed) for i in range(n)]

    @torch.no_grad()
    def _fit(self) -> list[Moved]:
        """The whole stage in closed form; the loss of a batch afterwards is what is logged."""
        assert self.stage.fit is not None
        ((x, y),) = self._batches(self.step)

        def part(done: int, of: int) -> None:
            self.told(done / of, {})
            if self.stop.is_set():  # it begins anew
                raise Interrupted(str(self.run.path))

        self.stage.fit(self.images.pairs(self._at_once()), part)
        self.world.broadcast_(list(self.trained.state_dict().values()))
        self.movers.average_anew()
        return [Moved(self.stage.turns[0].loss(x, y, self.step), torch.zeros(()))]

    @torch.no_grad()
    def _begin(self) -> None:
        """What comes before the first step."""
        if self.stage.begin is not None:
            with self.movers.changing():
                with seeded(self.seed, "begin", self.stage.name, quick=True):
                    self.stage.begin(self.images.events(self._at_once()))
                self.world.broadcast_([*self.trained.parameters(), *self.trained.buffers()])
            self.movers.average_anew()

    def _at_once(self) -> int:
        """How many events fit in memory."""
        return max(1, 2**24 // self.trained.space.dims)

    # ---- what can go wrong

    def _look(self, moved: list[Moved]) -> bool:
        """Stop at a loss or gradient that is not finite; whether it was looked at, since a GPU would have to wait.

        Nothing is saved: the weights that gave it are suspect, those of the last state are not.
        """
        if self.device.type == "cuda" and not self._is_logged():
            alone = self.world.size == 1
            if not self.stop.is_set() if alone else self.step % LOOKED:  # processes look at the same steps
                return False
        if not all(math.isfinite(m.loss.value) and math.isfinite(m.norm) for m in moved):
            self._check_finite()
        return True

    def _check_finite(self) -> None:
        """Raise TrainingError where a sum since the last line of the log is not finite."""
        bad = self.window.not_finite()
        if bad:
            own = [name.rpartition(".")[2] for name in bad]
            terms = [name for name, last in zip(bad, own, strict=True) if last not in ("loss", "grad_norm")]
            what = "gradient" if set(own) == {"grad_norm"} else "loss"
            with sharing(self.world, self.config.batch), self.movers.whole():
                where = first_not_finite(self.model, self._losses_again)
            raise TrainingError(
                f"step {self.step}: the {what} is not finite{' (' + ', '.join(terms) + ')' if terms else ''}; first in "
                f"{where}. {self._last_good('train.optimizer.lr or train.clip')}"
            )

    def _losses_again(self) -> None:
        x, y = self._batches(self.step - 1)[0]
        with reduced(self.config.precision):
            for turn in self.stage.turns:
                turn.loss(x, y, self.step - 1)

    def _last_good(self, smaller: str) -> str:
        return (
            f"{self.run.path} keeps the last good state, of step {self.saved_step}: resume from it with a smaller "
            f"{smaller}"
        )

    # ---- the log

    def _is_logged(self) -> bool:
        return self.step % self.config.log_every == 0 or self.step == self.steps

    def _log(self) -> dict[str, float]:
        """One line: the means of the terms since the last."""
        self._check_finite()
        at, images = self.at, self.window.steps * self.config.batch * self.stage.batches
        means = self.window.means()
        rate = images / max(1e-9, at.seconds - at.logged_seconds)
        means |= {f"{_prefix(self.stage, m.turn.name)}lr": m.lr for m in self.movers.each}
        means["skipped"] = sum(float(m.guard.skipped) for m in self.movers.each)
        timed = {"seconds": round(at.seconds, 3), "images_per_second": round(rate, 1)}
        self._write({"split": "train", **timed, **means})
        at.logged_seconds = at.seconds
        if "elbo" in means:
            means["bits_per_dim"] = bits_per_dim(-means["elbo"], self.trained.space.dims)
        return means | {"images_per_second": rate}

    def _write(self, values: dict[str, Any]) -> None:
        if self.world.first:
            self.lines.write(self.step, values)

    # ---- the weights that are kept

    def _validate(self) -> None:
        """Keep the averaged weights (or the weights): the best so far, or where nothing scores them the last."""
        text = self._keep_last() if self.stage.score is None else self._keep_best()
        last = self.step == self.steps or self._out_of_patience()
        self.progress.note(f"step {self.step:,}: {text}", last=last)

    def _keep_last(self) -> str:
        kept = "the last averaged weights" if self.movers.average else "the last weights"
        with self._averaged():
            self._keep()
            self._draw()
        self._write({"split": "valid", "seconds": round(self.at.seconds, 3), "kept": kept})
        return f"kept {kept}; nothing scores them"

    def _keep_best(self) -> str:
        """Measure the weights and their average."""
        with self.movers.whole():
            name, values = self.validation.name, {"weights": self.validation.score()}
        with self._averaged():
            score = values[name] = self.validation.score() if self.movers.average else values["weights"]
            values |= self.validation.beside()
            if not all(map(math.isfinite, values.values())):
                raise TrainingError(
                    f"step {self.step}: the {self.validation.what} on the validation images is not finite. "
                    f"{self._last_good('train.optimizer.lr')}"
                )
            self.at.since_best += 1
            if score > self.at.best:
                self.at.best, self.at.since_best = score, 0
                self._keep()
            self._draw()
        self._write({"split": "valid", "seconds": round(self.at.seconds, 3), **values})
        return self.validation.shown(score)

    def _keep(self) -> None:
        self.stage.learned(True)
        if self.world.first:
            self.run.save_weights(self._weights())

    def _weights(self) -> dict[str, Tensor]:
        """Of the whole model, as a run has them; where weights are shared out, inside `Movers.whole`."""
        if self.movers.sharded is None:
            return self.model.state_dict()
        named = [
            *self.model.named_parameters(remove_duplicate=False),
            *self.model.named_buffers(remove_duplicate=False),
        ]
        there = dict(named)
        return {name: there[name] for name in self.names}

    def _draw(self) -> None:
        if self.pictures is not None and self.world.first:
            self.model.eval()
            self.pictures(self.model, self.stage)
            self.trained.train()

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """Inside, the model has its averaged weights."""
        weights, average = self.movers.weights, self.movers.average
        kept = [w.clone() for w in weights] if average else []
        for w, a in zip(weights, average, strict=False):
            w.copy_(a)
        try:
            with self.movers.whole():
                yield
        finally:
            for w, k in zip(weights, kept, strict=False):
                w.copy_(k)

    # ---- the state

    def _save(self) -> None:
        self._check_finite()
        self.state.save(self.run, self.stage.name, {"made_by": self.made_by, "data": self.data}, self.world)
        self.saved_step = self.step

    def _restore(self) -> None:
        """Take up the saved state; where there is none, save the beginning."""
        saved = self.world.told(self._saved() if self.world.first else None)
        if saved is None:
            self._begin()
            self._save()
            return
        tensors, values = saved
        if values.get("made_by", "") != self.made_by:
            raise RunError(
                f"the stage {self.stage.name} of {self.run.path} was trained on what other weights gave; start it over "
                f"with --stage {self.stage.name} --overwrite"
            )
        self.state.restore(self.run, self.stage.name, tensors, values)
        self.saved_step = self.step
        self.at.finished &= self._is_over()
        if values.get("data", self.data) != self.data:
            self._say_other_data()
        if self.at.finished:
            return
        if self.world.first:
            self.run.log.cut(self.stage.name, self.step)
        now = machine(self.device)
        changed = [f"{k} was {v}, is {now.get(k)}" for k, v in values["machine"].items() if v != now.get(k)]
        if changed:
            self.progress.say(f"resuming elsewhere ({'; '.join(changed)}): the weights may differ in their last bits")
        self.progress.say(f"resuming {self.run.path} at step {self.step} of {self.steps}")

    def _saved(self) -> Loaded | None:
        return self.run.load_state(self.stage.name, self.progress.say, whole=self.movers.sharded is None)

    def _say_other_data(self) -> None:
        """What is done stays; raises RunError where there is something left to do."""
        told = f"the stage {self.stage.name} of {self.run.path} was trained on other data than there are now"
        if not self.at.finished:
            raise RunError(f"{told}; start it over with --stage {self.stage.name} --overwrite")
        self.progress.say(told)


def load_weights(world: World, run: Run, model: Model) -> None:
    """Those that process 0 finds in the run, in all processes."""
    if world.first:
        run.load_weights(model)
    world.broadcast_(list(model.state_dict().values()))


def _prefix(stage: Stage, turn: str) -> str:
    """Of the names in the log: none where a stage has a single turn, or the turn no name."""
    return f"{turn}." if turn and len(stage.turns) > 1 else ""


def _logged(stage: Stage, moved: list[Moved]) -> dict[str, Tensor]:
    """What is logged of a step, by its names: scalars, or [B]."""
    return {
        _prefix(stage, turn.name) + name: value
        for turn, (loss, norm) in zip(stage.turns, moved, strict=False)
        for name, value in (("loss", loss.value), ("grad_norm", norm), *loss.terms.items())
    }

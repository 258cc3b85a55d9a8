"""What holds of every model's training: who moves what, what is logged, which weights are kept, exact resuming."""

import math
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lowerbound.data.base import Data
from lowerbound.data.batches import Batch, Shuffled
from lowerbound.errors import Interrupted
from lowerbound.model import Model
from lowerbound.optimization import Adam, Averaging
from lowerbound.progress import Progress
from lowerbound.runs.facts import Facts
from lowerbound.runs.log import score
from lowerbound.runs.recipes import Recipe, Training
from lowerbound.runs.run import Run
from lowerbound.space import Space, Y
from lowerbound.stages import Stage
from lowerbound.testing.base import checks_in, expect, run_checks
from lowerbound.testing.cases import ModelCase
from lowerbound.training.loop import Loop
from lowerbound.training.prepared import in_memory

STEPS, STOPPED = 12, 5  # of each stage; after which it is stopped once
TRAINING = Training(
    steps=STEPS, batch=4, optimizer=Adam(lr=0.01), averaging=Averaging(every=1), log_every=3, valid_every=4
)
EVENTS = 40


def check_training(
    config: Model.Config | type[Model.Config], space: Space | None = None, given: tuple[Space, ...] = ()
) -> None:
    """All of TRAINING_CHECKS, on a model that the loop of all trainings trains for a few steps of each stage.

    Without a space: the one of the configuration's example().
    """
    case = ModelCase.of(config, space, given)
    if not any(True for _ in case.build().parameters()):
        return
    with tempfile.TemporaryDirectory(prefix="lowerbound-") as folder:
        run_checks(config, TRAINING_CHECKS, TrainingCase.of(case, Path(folder)))


class Events(Shuffled):
    """Random events and their conditions, as a loop takes them."""

    device = torch.device("cpu")

    def __init__(self, case: ModelCase, split: str):
        super().__init__()
        self.fingerprint = split
        self.x, self.y = case.x(EVENTS, split), case.y(EVENTS, split)

    def __len__(self) -> int:
        return len(self.x)

    def training(self, step: int, size: int, seed: int) -> tuple[Tensor, Any]:
        return self._take(self._places(step, size, seed))

    def in_order(self, size: int, limit: int | None = None, start: int = 0) -> Iterator[Batch]:
        for index in torch.arange(start, min(len(self), limit or len(self))).split(size):
            x, y = self._take(index)
            yield Batch(x, y, index.numpy())  # pyright: ignore[reportArgumentType]

    def _take(self, index: Tensor) -> tuple[Tensor, Y]:
        y = tuple(part[index] for part in self.y) if isinstance(self.y, tuple) else self.y
        return self.x[index], y[index] if isinstance(y, Tensor) else y


class _Stopping(Progress):
    """Asks to stop after a step."""

    def __init__(self, stop: threading.Event):
        self.stop = stop

    @contextmanager
    def bar(self, total: int, start: int = 0) -> Iterator[Any]:
        yield lambda step, terms: self.stop.set() if step == min(STOPPED, total) else None


@dataclass(frozen=True)
class Trained:
    """A model that was trained, its run, and its weights before and after each stage."""

    model: Model
    run: Run
    weights: list[dict[str, Tensor]]  # one more than stages


@dataclass(frozen=True)
class TrainingCase:
    """A model that was trained without a stop, and once more, stopped in every stage and resumed."""

    whole: Trained
    resumed: Trained

    @staticmethod
    def of(case: ModelCase, folder: Path) -> "TrainingCase":
        return TrainingCase(_trained(case, folder / "whole", stop=False), _trained(case, folder / "parts", stop=True))

    @property
    def stages(self) -> tuple[Stage, ...]:
        return self.whole.model.stages()

    def lines(self, stage: Stage, split: str) -> list[dict[str, Any]]:
        """The log of a stage."""
        return [r for r in self.whole.run.log.records() if (r["stage"], r["split"]) == (stage.name, split)]


def _trained(case: ModelCase, path: Path, *, stop: bool) -> Trained:
    shape = case.space.shape if len(case.space.shape) == 3 else (1, 1, case.space.dims)
    facts = Facts(name="random", shape=shape, levels=case.space.levels or 256, images=EVENTS)
    run = Run.create(path, "tiny", Recipe(data=Data(), model=case.config, train=TRAINING), facts)
    model = case.build("training")
    for stage in model.stages():
        stage.learned(False)
    weights = [_weights(model)]
    for l in range(len(model.stages())):
        if stop:
            model = _stopped(case, run, model, l)
        _loop(case, run, model, l).run_through()
        weights.append(_weights(model))
    return Trained(model, run, weights)


def _stopped(case: ModelCase, run: Run, model: Model, l: int) -> Model:
    """Stop a stage on its way; a new model with the weights that the stages before it left, to go on with."""
    again = case.build("training")
    again.load_state_dict(model.state_dict())
    try:
        _loop(case, run, model, l, threading.Event()).run_through()
    except Interrupted:
        return again
    raise AssertionError("a loop that was asked to stop went on")


def _loop(case: ModelCase, run: Run, model: Model, l: int, stop: threading.Event | None = None) -> Loop:
    """stop: is set after a few steps; None: nothing stops it."""
    stage, parts = model.stages()[l], (Events(case, "train"), Events(case, "valid"))
    prepare = stage.prepare
    data: Any = parts if prepare is None else tuple(in_memory(part, prepare, EVENTS) for part in parts)
    return Loop(run, model, stage, data, _Stopping(stop) if stop else Progress(), stop or threading.Event())


def _weights(model: Model) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


# ---- the checks


def training_moves_what_its_turns_hold_and_nothing_else(case: TrainingCase) -> None:
    for l, stage in enumerate(case.stages):
        before, after = case.whole.weights[l : l + 2]
        moved = {name for name in before if not torch.equal(before[name], after[name])}
        for turn in stage.turns:
            own = {*_names(case.whole.model, stage._replace(turns=(turn,)))}
            expect(not own or bool(own & moved), f"the turn {turn.name or stage.name} moves none of its parameters")
            moved -= own
        expect(not moved, f"the stage {stage.name} moves {', '.join(sorted(moved))}, which is in no turn of it")


def training_logs_each_turn_under_its_name(case: TrainingCase) -> None:
    for stage in case.stages:
        several = len(stage.turns) > 1
        names = [turn.name for turn in stage.turns]
        expect(len(set(names)) == len(names), f"turns of one name: {names}")
        lines = case.lines(stage, "train")
        expect(bool(lines), f"nothing is logged of the stage {stage.name}")
        for turn in stage.turns:
            prefix = f"{turn.name}." if several and turn.name else ""
            wanted = {prefix + name for name in ("loss", "grad_norm", "lr")}
            optimizer, schedule = turn.optimizer or TRAINING.optimizer, turn.schedule or TRAINING.schedule
            for line in lines:
                expect(wanted <= line.keys(), f"the log lacks {', '.join(sorted(wanted - line.keys()))}")
                lr = optimizer.lr * (1.0 if stage.fit else schedule.factor(line["step"] - 1, STEPS))
                expect(math.isclose(line[f"{prefix}lr"], lr), f"the rate of {turn.name or stage.name} is not its own")
        nameless = not several or "" in names
        expect(nameless or not any("loss" in line for line in lines), "a loss is logged without its turn's name")


def training_keeps_the_best_weights_or_says_that_it_keeps_the_last(case: TrainingCase) -> None:
    for l, stage in enumerate(case.stages):
        tensors, values = _state(case.whole.run, stage)
        lines = case.lines(stage, "valid")
        if stage.score is not None:
            best = max((found for line in lines if (found := score(line)) is not None), default=None)
            expect(values["best"] == best, f"the best score in the log is {best}, in the state {values['best']}")
            continue
        told = {line.get("kept") for line in lines}
        expect(told == {"the last averaged weights"}, f"the log says {told} of the weights that are kept")
        kept, own = case.whole.weights[l + 1], _names(case.whole.model, stage)
        for i, name in enumerate(own):
            expect(torch.equal(kept[name], tensors[f"average.{i}"]), f"{name} is not the last average")


def training_resumes_exactly(case: TrainingCase) -> None:
    for stage in case.stages:
        (a, v), (b, w) = (_state(trained.run, stage) for trained in (case.whole, case.resumed))
        different = [name for name in a if name not in b or not torch.equal(a[name], b[name])]
        expect(a.keys() == b.keys() and not different, f"stopped and resumed, {', '.join(different)} differ")
        for key in ("step", "best", "since_best", "finished"):
            expect(v[key] == w[key], f"stopped and resumed, {key} is {w[key]}, not {v[key]}")
    for name, p in case.whole.weights[-1].items():
        expect(torch.equal(p, case.resumed.weights[-1][name]), f"stopped and resumed, {name} is kept otherwise")


def _names(model: Model, stage: Stage) -> list[str]:
    """The parameters that the turns of a stage move, in their order."""
    names = {id(p): name for name, p in model.named_parameters()}
    return [names[id(p)] for turn in stage.turns for part in turn.parts for p in part.parameters()]


def _state(run: Run, stage: Stage) -> tuple[dict[str, Tensor], dict[str, Any]]:
    found = run.load_state(stage.name)
    expect(found is not None, f"the stage {stage.name} saves no state")
    assert found is not None
    return found


TRAINING_CHECKS = checks_in(__name__, "training_")

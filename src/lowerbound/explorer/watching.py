"""A run watched from without: what its log says, how far each stage has come, and who is at work on it."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from lowerbound.errors import UserError
from lowerbound.explorer.messages import Answer
from lowerbound.runs import fitted, lock
from lowerbound.runs.log import Following, Record
from lowerbound.runs.run import Run
from lowerbound.units import bits_per_dim

RECENT = 10  # lines of a log by which time is reckoned


class Plan(NamedTuple):
    """A stage that a run has, or will have."""

    name: str
    steps: int  # that are asked for
    dims: int  # of what it is trained on


class Pace(NamedTuple):
    """The last lines of a stage: their steps and seconds."""

    steps: tuple[int, ...] = ()
    seconds: tuple[float, ...] = ()

    def after(self, record: Record) -> "Pace":
        steps, seconds = (*self.steps, record["step"]), (*self.seconds, float(record.get("seconds", math.nan)))
        return Pace(steps[-RECENT:], seconds[-RECENT:])

    def left(self, steps: int) -> float | None:
        """Seconds for so many steps; None where it is not known."""
        if len(self.steps) < 2 or self.steps[-1] <= self.steps[0]:
            return None
        found = steps * (self.seconds[-1] - self.seconds[0]) / (self.steps[-1] - self.steps[0])
        return found if math.isfinite(found) else None


class Watched:
    """A run, looked at again and again. It is opened anew whenever its configuration is another one."""

    def __init__(self, run: Run):
        self.run = run
        self.log = Following(run.log)
        self._config = _stamp(run, "config.json")
        self._plans: tuple[Plan, ...] | None = None
        self._paces: dict[str, Pace] = {}
        self._told: Mapping[str, Any] = {}

    def looks(self) -> Iterator[Answer | None]:
        """What there is, and then what is new: None where nothing is."""
        while True:
            yield self.look()

    def look(self) -> Answer | None:
        """All that is new since the last look, as the page is told."""
        self._reopen()
        try:
            records, anew = self.log.more()
        except UserError:  # it was removed while it was read
            records, anew = [], False
        if anew:
            self._paces = {}
        for record in records:
            if record["split"] == "train":
                self._paces[record["stage"]] = self._paces.get(record["stage"], Pace()).after(record)
        told = self._standing() | {"behind": self.log.behind}
        if not records and not anew and told == self._told:
            return None
        self._told = told
        groups, arrays = _columns(records, {plan.name: plan.dims for plan in self.plans})
        return Answer({**told, "anew": anew, "groups": groups}, arrays)

    @property
    def plans(self) -> tuple[Plan, ...]:
        """The stages, in their order; none where the model can't be built any more."""
        if self._plans is None:
            try:
                self._plans = tuple(_plans(self.run))
            except UserError:
                self._plans = ()
        return self._plans

    def _reopen(self) -> None:
        config = _stamp(self.run, "config.json")
        if config in (None, self._config):
            return
        try:
            self.run = self.run.again()
        except UserError:  # it is being written, or damaged: what was known of it stays
            return
        self._config, self._plans = config, None

    def _standing(self) -> dict[str, Any]:
        """How far all is, and why it goes on or doesn't."""
        run = self.run
        if not (run.path / "config.json").is_file():
            nothing = {"stages": [], "pictures": [], "weights": None}
            return {"how": "gone", "text": f"{run.path} is no run any more", **nothing}
        writer = lock.holder(run.path)
        runs = writer is not None and not writer.is_gone
        states = run.states()
        stages = [self._stage(plan, states.get(plan.name), bool(states), i) for i, plan in enumerate(self.plans)]
        under = next((s for s in stages if not s["finished"]), None)
        how = "running" if runs else "finished" if under is None else "failed" if run.failure else "interrupted"
        if how == "interrupted" and writer is not None:
            how = "killed"
        for stage in stages:
            stage["left"] = stage["left"] if runs and stage is under else None
        text = _in_words(how, under, str(writer), run.failure)
        weights = _stamp(run, "model.safetensors")
        return {"how": how, "text": text, "stages": stages, "pictures": pictures(run), "weights": weights}

    def _stage(self, plan: Plan, state: Mapping[str, Any] | None, states: bool, place: int) -> dict[str, Any]:
        pace = self._paces.get(plan.name, Pace())
        step = max((state or {}).get("step", 0), *pace.steps[-1:], 0)
        later = any(p.name in self._paces for p in self.plans[place + 1 :])
        finished = bool(state and state["finished"])
        if not states and (self.run.path / "model.safetensors").is_file():  # shared without its states: the log is all
            finished = later or step > 0 or not self._paces
        left = 0.0 if finished else pace.left(plan.steps - step)
        return {"name": plan.name, "step": step, "steps": plan.steps, "finished": finished, "left": left}


def pictures(run: Run) -> list[dict[str, Any]]:
    """The names of what a run has drawn, and when; curves are left out, since they are shown otherwise."""
    found = []
    for path in sorted((run.path / "pictures").glob("[!.]*.png")):
        stamp = _stamp(run, f"pictures/{path.name}")
        if stamp is not None and path.stem != "curves":
            found.append({"name": path.stem, "stamp": stamp})
    return found


def _plans(run: Run) -> Iterator[Plan]:
    """What a run is trained in."""
    own = Run(run.path, run.name, fitted.unfitted(run.recipe), run.facts)
    for stage in own.build().stages():
        train = run.recipe.train.of(stage.name)
        steps = 1 if stage.fit else train.total_steps(run.facts.images, stage.batches)
        space = getattr(stage.model, "space", run.facts.space)
        yield Plan(stage.name, steps, space.dims)


def _in_words(how: str, under: Mapping[str, Any] | None, writer: str, failure: str | None) -> str:
    if how == "running" and under is None:
        return f"all stages are finished; {writer} is still at work on it"
    if under is None:
        return "all stages are finished"
    place = f"stage {under['name']} is at step {under['step']:,} of {under['steps']:,}"
    why = {
        "running": f"it is being trained by {writer}",
        "killed": f"it was left by {writer}, which was killed or has crashed",
        "failed": f"it ended by an error: {failure}",
        "interrupted": "it was stopped, and `--resume` goes on",
    }
    return f"{place}; {why[how]}"


def _columns(records: list[Record], dims: Mapping[str, int]) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """Records by stage and split: the names of their numbers, and float64 [n, names] with NaN for what a line lacks."""
    of: dict[tuple[str, str], list[dict[str, float]]] = {}
    for record in records:
        numbers = {name: float(v) for name, v in record.items() if type(v) in (int, float)}
        if "elbo" in numbers and record["stage"] in dims:
            numbers["bits_per_dim"] = float(bits_per_dim(-numbers["elbo"], dims[record["stage"]]))
        of.setdefault((record["stage"], str(record["split"])), []).append(numbers)
    groups, arrays = [], {}
    for i, ((stage, split), rows) in enumerate(of.items()):
        names = [*dict.fromkeys(name for row in rows for name in row)]
        groups.append({"stage": stage, "split": split, "names": names})
        arrays[f"group{i}"] = np.array([[row.get(name, math.nan) for name in names] for row in rows])
    return groups, arrays


def _stamp(run: Run, name: str) -> str | None:
    """What tells one state of a file from another, in a word that JavaScript's numbers don't change."""
    try:
        stat = (run.path / name).stat()
    except OSError:
        return None
    return f"{stat.st_mtime_ns}-{stat.st_size}-{stat.st_ino}"

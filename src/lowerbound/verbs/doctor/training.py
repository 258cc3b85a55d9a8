"""Whether every stage of the training came to its end, in good order: from the log and the states of a run."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from lowerbound.errors import RunError
from lowerbound.runs import fitted
from lowerbound.runs.log import Record, score
from lowerbound.runs.run import Run
from lowerbound.stages import Stage
from lowerbound.verbs.doctor.check import LESS_BY_HEART, Check, showing
from lowerbound.verbs.doctor.evidence import Line

SKIPPED = 0.02  # of the steps; the guard leaves out a few in any training
STILL = 0.01  # of the validation score, gained over the last fifth of the steps
STILL_OF_ALL = 0.05  # of all that was gained since the first validation; a finished training gains 0.02 at most
PAST_BEST = 0.05  # of the best validation score, lost until the end
PAST_BEST_GAME = 0.25  # the same, of the distance of samples, which goes up and down


def checks(run: Run) -> list[Check]:
    """What the states and the log of a run say of each stage of its training."""
    stages = Run(run.path, run.name, fitted.unfitted(run.recipe), run.facts).build().stages()
    records, states = list(run.log.records()), run.states()
    found: list[Check] = []
    for stage in stages:
        if stage.name not in states:
            found += _damaged(run, stage)
        if run.has_state():
            found += _trained(run, stage, records, states.get(stage.name)).checks()
    return found


def _damaged(run: Run, stage: Stage) -> list[Check]:
    try:
        run.load_state(stage.name)
    except RunError as e:
        again = f"lowerbound train {run.name} … --overwrite --out {run.path}"
        return [Check(f"training.{stage.name}.damaged", 1, 0, True, "problem", str(e), again)]
    return []


def _trained(run: Run, stage: Stage, records: list[Record], state: dict[str, Any] | None) -> "Trained":
    train = run.recipe.train.of(stage.name)
    key = f"train.stages.{stage.name}" if stage.prepare is not None else "train"
    own = [r for r in records if r["stage"] == stage.name]
    scores = {r["step"]: found for r in own if (found := score(r)) is not None}
    longer = [] if train.steps is None else [f"{key}.steps={2 * train.steps}"]
    longer += [] if train.epochs is None else [f"{key}.epochs={2 * train.epochs:g}"]
    return Trained(
        stage=stage.name,
        step=state["step"] if state else 0,
        steps=1 if stage.fit else train.total_steps(run.facts.images, stage.batches),
        finished=bool(state and state["finished"]),
        skipped=max((float(r["skipped"]) for r in own if "skipped" in r), default=0.0),
        scores=tuple(sorted(scores.items())),
        resume=f"lowerbound train {run.name} … --resume --out {run.path}",
        game=bool(stage.score and stage.score.samples),
        longer=" ".join(longer),
        calmer=f"{key}.optimizer.lr={train.optimizer.lr / 3:.1g} {key}.schedule.warmup=500",
    )


@dataclass(frozen=True)
class Trained:
    """One stage of a training, from its state and its log."""

    stage: str
    step: int
    steps: int  # that were asked for
    finished: bool
    skipped: float  # steps left out for the size of their gradient
    scores: tuple[tuple[int, float], ...]  # (step, what validation holds to be better when higher)
    resume: str  # the command that goes on
    longer: str  # KEY=VALUE of a training twice as long
    calmer: str  # KEY=VALUE of one with smaller steps
    game: bool = False  # whether samples are what is scored

    def checks(self) -> list[Check]:
        found = [self._unfinished(), self._skipped()]
        if self.finished and len(self.scores) > 1:
            found += [*self._still_improving(), self._past_its_best()]
        return showing(found, self._course)

    def _course(self) -> list[Line]:
        steps, scores = [step for step, _ in self.scores], [score for _, score in self.scores]
        return [Line(f"validation score of stage {self.stage}, the higher the better", steps, scores)] if steps else []

    def _named(self, what: str) -> str:
        return f"training.{self.stage}.{what}"

    def _unfinished(self) -> Check:
        return Check(
            self._named("unfinished"),
            self.step,
            self.steps,
            not self.finished,
            "problem",
            f"stage {self.stage} is at step {self.step:,} of {self.steps:,}: stopped, or broken off by a loss that was "
            "not finite, and what its weights say is not the model's last word",
            f"{self.resume}  (after a loss that was not finite: {self.calmer})",
        )

    def _skipped(self) -> Check:
        share = self.skipped / max(1, self.step)
        return Check(
            self._named("skipped"),
            share,
            SKIPPED,
            share > SKIPPED,
            "problem",
            f"{share:.1%} of the steps of stage {self.stage} were left out, since their gradients exploded",
            self.calmer,
        )

    def _still_improving(self) -> list[Check]:
        """The gain over the last fifth; nothing where there are fewer than two validations in it."""
        steps, scores = np.array(self.scores).T
        late = 0.8 * steps[-1]
        if (steps >= late).sum() < 2:
            return []
        gain = float(scores[-1] - np.interp(late, steps, scores))
        share = gain / max(abs(float(scores[-1])), 1e-12)
        wrong = share > STILL and gain > STILL_OF_ALL * float(scores[-1] - scores[0])
        return [
            Check(
                self._named("still_improving"),
                share,
                STILL,
                wrong,
                "advice",
                f"the validation score of stage {self.stage} rose by {share:.1%} over the last fifth of the steps: it "
                "was stopped while it still learnt",
                f"{self.resume} {self.longer}",
            )
        ]

    def _why_past(self) -> str:
        return "the networks lost their balance" if self.game else "it learnt the training images by heart"

    def _past_its_best(self) -> Check:
        scores = [score for _, score in self.scores]
        lost = (max(scores) - scores[-1]) / max(abs(max(scores)), 1e-12)
        at = self.scores[int(np.argmax(scores))][0]
        bound = PAST_BEST_GAME if self.game else PAST_BEST
        return Check(
            self._named("past_its_best"),
            lost,
            bound,
            lost > bound,
            "advice",
            f"stage {self.stage} was best on the validation images at step {at:,} of {self.step:,}, and these weights "
            f"are kept; the score was {lost:.1%} worse at the end: {self._why_past()}",
            self.calmer if self.game else f"train.patience=3, or {LESS_BY_HEART}",
        )
